"""Why a server or a pooler refused a connection, independent of the language of its messages.

Decides by SQLSTATE and by the C function (the *routine*) that PostgreSQL names in every error; its text is in the
language of ``lc_messages``. PgBouncer and Pgpool-II name no routine and speak English, so their texts decide. Routines:
PostgreSQL's proc.c, postinit.c, miscinit.c; texts: PgBouncer's client.c, objects.c, server.c, Pgpool-II's child.c, and
what users of hosted poolers report.
"""

import errno
import os
import re

from poolctl.errors import CannotConnect, CannotDo
from poolctl.observe.snapshot import Refusal, RefusedBy

TOO_MANY_CONNECTIONS = "53300"

_BY_ROUTINE: dict[str, RefusedBy] = {
    "InitProcess": "server-slots",
    "InitializeSessionUserId": "role-limit",
    "CheckMyDatabase": "database-limit",
}
_BY_POOLER_TEXT: tuple[tuple[str, RefusedBy], ...] = (
    ("no more connections allowed", "pooler-clients"),
    ("client connections exceeded", "pooler-clients"),
    # Supavisor: before version 2 in words, then with a code in parentheses.
    ("MaxClientsInSessionMode", "pooler-clients"),
    ("Max client connections reached", "pooler-clients"),
    ("(EMAXCONN", "pooler-clients"),
    ("(EMAXCLIENTCONN", "pooler-clients"),
    ("max clients reached", "pooler-clients"),
    ("(ECHECKOUTTIMEOUT)", "pooler-queue"),
    ("nable to check out", "pooler-queue"),
    ("(EDBHANDLEREXITED)", "pooler-login"),
    ("Tenant or user not found", "authentication"),
    # Odyssey.
    ("too many active clients", "pooler-clients"),
    ("too many tcp connections", "pooler-clients"),
    ("failed to get remote server connection", "pooler-login"),
    # PgCat and PgDog, whose servers are all taken or cut off; RDS Proxy; Neon's proxy.
    ("could not get connection from the pool", "pooler-queue"),
    ("checkout timeout", "pooler-queue"),
    ("Timed-out waiting to acquire database connection", "pooler-queue"),
    ("Failed to acquire permit to connect", "pooler-queue"),
    ("Too many connections attempts", "pooler-queue"),
    ("Couldn't connect to compute node", "pooler-login"),
    # Pgpool-II's own; PostgreSQL's begins with a small letter.
    ("Sorry, too many clients already", "pooler-clients"),
    ("all backend nodes are down", "pooler-login"),
    ("query_wait_timeout", "pooler-queue"),
    ("server login has been failing", "pooler-login"),
    ("server_login_retry", "pooler-login"),
    ("cannot connect to server", "pooler-login"),
    ("server login failed", "pooler-login"),
    ("authentication failed", "authentication"),
    ("no such user", "authentication"),
    ("login rejected", "authentication"),
)
_RELAYED = (
    "sorry, too many clients already",
    "remaining connection slots are reserved",
    "too many connections for ",
)
"""The server's words without its routine: a pooler passes them on."""

# libpq with PQERRORS_VERBOSE: SEVERITY:  SQLSTATE: text, lines of detail, and a last line with the place in the source.
# "FATAL" is no SQLSTATE: each has a digit.
_VERBOSE = re.compile(r":\s+(?=[A-Z]{0,4}\d)([0-9A-Z]{5}): (.*)")
_LOCATION = re.compile(r"(?:^|[\s:])(\w+), ([^\s:,]+):(\d+)\s*$", re.MULTILINE)
_TRIED = re.compile(r'^connection to server (?:at|on socket) "[^"]*"(?: \([^)]*\))?(?:, port \d+)? failed: ')

# Without a SQLSTATE: what libpq says by itself.
HIDDEN_BY_TLS = "during SSL exchange"
"""libpq 17 and newer hide what a server answers to a request for encryption: it is not yet authenticated."""

_NO_LOCAL_PORT = ("assign requested address", os.strerror(errno.EADDRNOTAVAIL))
"""What the kernel says where all ports of this machine are taken; libpq passes it on in the user's language."""

_NO_PASSWORD = ("no password supplied", "password retrieved from file", "authentication method requirement")


class Refused(CannotConnect):
    """The server refused the connection, or there was no answer; ``refusal`` has what is known of it.

    ``hung``: the connection was accepted, and nothing came.
    """

    def __init__(self, refusal: Refusal, *, hung: bool = False) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal
        self.hung = hung


class ServerLost(CannotDo):
    """The connection broke, the server did not answer in time, or answered as no PostgreSQL does."""

    code = "server-lost"

    def __init__(self, message: str, *, hung: bool = False, refusal: Refusal | None = None) -> None:
        super().__init__(message)
        self.hung = hung
        self.refusal = refusal
        """The error that came before the connection broke, if one did."""


class StatementFailed(CannotDo):
    """The server refused one statement; the connection can still be used."""

    code = "statement-failed"

    def __init__(self, message: str, sqlstate: str = "", routine: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.routine = routine


def classify(text: str, sqlstate: str | None, routine: str | None, target: str = "") -> Refusal:
    """Build the refusal from the fields of an error message. ``sqlstate`` None: libpq or the kernel said it."""
    return Refusal(_find_refuser(text, sqlstate, routine), text, sqlstate, routine, target)


_LOGGED: tuple[tuple[str, RefusedBy], ...] = (
    ("sorry, too many clients already", "server-slots"),
    ('privileges of the "pg_use_reserved_connections" role', "reserved-slots"),
    ("remaining connection slots are reserved", "superuser-slots"),
    ("too many connections for role", "role-limit"),
    ("too many connections for database", "database-limit"),
    ("number of requested standby connections exceeds", "walsender-slots"),
    *(pair for pair in _BY_POOLER_TEXT if pair[1] != "authentication"),
)
"""Texts as a log has them, where no routine is written."""


def find_refuser_by_text(text: str, sqlstate: str | None = None) -> RefusedBy | None:
    """Return which limit refused a client, by a line of a log; None for a message that is no such refusal.

    A text in another language is known by its SQLSTATE alone, and then taken for the server's own slots.
    """
    for words, by in _LOGGED:
        if words in text:
            return by
    return "server-slots" if sqlstate == TOO_MANY_CONNECTIONS else None


def parse_libpq_message(message: str, target: str = "") -> Refusal:
    """Read the refusal in what libpq says, with PQERRORS_VERBOSE, of a connection that was not made.

    With several attempts (an encrypted one, then a plain one) the first one counts: to the second the server may only
    answer that encryption is required.
    """
    coded = _VERBOSE.search(message)
    if coded is None:
        return classify(_strip_address(message), None, None, target)
    location = _LOCATION.search(message, coded.end())
    return classify(coded[2].strip(), coded[1], location[1] if location else None, target)


def _find_refuser(text: str, sqlstate: str | None, routine: str | None) -> RefusedBy:
    if sqlstate is None:
        if any(words in text for words in _NO_PASSWORD):
            return "authentication"
        return "no-local-port" if any(words in text for words in _NO_LOCAL_PORT) else "unreachable"
    if sqlstate.startswith("57P"):
        return "starting-up"
    if sqlstate.startswith("28"):
        return "authentication"
    if routine is None:
        return _find_pooler_refuser(text, sqlstate)
    if sqlstate != TOO_MANY_CONNECTIONS:
        return "unknown"
    if routine == "InitProcess" and "max_wal_senders" in text:
        return "walsender-slots"
    if routine == "InitPostgres":
        # The name of the role stands in the text in every language.
        return "reserved-slots" if "pg_use_reserved_connections" in text else "superuser-slots"
    return _BY_ROUTINE.get(routine, "unknown")


def _find_pooler_refuser(text: str, sqlstate: str) -> RefusedBy:
    for words, by in _BY_POOLER_TEXT:
        if words in text:
            return by
    if any(words in text for words in _RELAYED):
        return "pooler-login"
    return "pooler" if sqlstate in ("08P01", TOO_MANY_CONNECTIONS) else "unknown"


def _strip_address(message: str) -> str:
    """Return libpq's reason without the address, which the target names already."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return _TRIED.sub("", lines[0]) if lines else "no answer"
