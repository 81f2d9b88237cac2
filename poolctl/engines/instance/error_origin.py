"""The origin of an error in a live run (server or pooler) and its SQLSTATE, from the text of the error.

libpq does not keep the SQLSTATE of a refused connection, so psycopg and psycopg2 have none to report. The text is
enough here, because the throw-away server writes in English. Texts: PostgreSQL proc.c, postinit.c, miscinit.c;
PgBouncer objects.c, client.c; Pgpool-II child.c.
"""

import re

from poolctl.scenario.run import ErrorKind

_SERVER = (
    ("sorry, too many clients already", "53300"),
    ("remaining connection slots are reserved", "53300"),
    ("too many connections for role", "53300"),
    ("too many connections for database", "53300"),
    ("the database system is starting up", "57P03"),
    ("the database system is shutting down", "57P03"),
    ("the database system is in recovery mode", "57P03"),
    ("the database system is not yet accepting connections", "57P03"),
    ("terminating connection due to administrator command", "57P01"),
    ("terminating connection because of crash of another server process", "57P02"),
    ("terminating connection due to unexpected postmaster exit", "57P02"),
    ("terminating connection due to idle-in-transaction timeout", "25P03"),
    ("terminating connection due to idle-session timeout", "57P05"),
    ("canceling statement due to statement timeout", "57014"),
)
_POOLER = (
    ("no more connections allowed", "08P01"),
    ("query_wait_timeout", "08P01"),
    ("server login has been failing", "08P01"),
    ("server_login_retry", "08P01"),
    ("client connections exceeded", "08P01"),
    ("client_login_timeout", "08P01"),
    ("client_idle_timeout", "08P01"),
    ("query_timeout", "08P01"),
    ("pgbouncer cannot connect to server", "08P01"),
    ("Sorry, too many clients already", "53300"),
)
_REFUSALS = frozenset({"53300", "08P01"})


def classify(message: str, name: str = "OperationalError", sqlstate: str | None = None) -> ErrorKind:
    """Return the origin of an error, and its SQLSTATE if the text shows it. ``name``: the error's class in Python."""
    text = _last_line(message)
    # Pgpool-II's refusal differs from PostgreSQL's by one capital letter.
    for origin, known in (("pooler", _POOLER), ("server", _SERVER)):
        for part, state in known:
            if part in text:
                return ErrorKind(origin, name, sqlstate or state, text)
    return ErrorKind("server", name, sqlstate, text)


def is_refusal(kind: ErrorKind) -> bool:
    """Return True if a server or pooler refused the client because it is full. Any other error is a failure."""
    return kind.origin in ("server", "pooler") and kind.sqlstate in _REFUSALS


def _last_line(message: str) -> str:
    """Return the server's own message, without the address that libpq puts before it.

    The address holds ports that differ from error to error, and the same error would be counted under many names.
    """
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    text = next(
        (line for line in lines if "FATAL:" in line or "ERROR:" in line), lines[0] if lines else "unknown error"
    )
    text = re.sub(r"^.*?(FATAL|ERROR|PANIC):\s*(?=\S)", "", text)
    # If the server sent no message, this is libpq's own: keep its reason without the address.
    text = re.sub(r"^(connection failed|consuming input failed): ", "", text)
    return re.sub(r'^connection (to server )?at "[^"]*"( \([^)]*\))?, port \d+ failed: ', "", text)
