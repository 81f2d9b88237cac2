"""A libpq connection with a deadline for everything, whatever the other side does.

Decides how poolctl speaks to servers that it must not harm: by the simple protocol (every pooler passes it on, and
nothing is prepared), read-only in a transaction of its own whose settings end with it (behind a pooler the backend
serves another client a moment later), and with a deadline on this side too, since a frozen server enforces no timeout.
Also decides how a connection string is parsed and shown. What a refusal means is left to ``refusals``.
"""

import contextlib
import ctypes
import importlib
import ipaddress
import json
import os
import queue
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poolctl.errors import BadInput
from poolctl.observe.refusals import HIDDEN_BY_TLS, Refused, ServerLost, StatementFailed, classify, parse_libpq_message
from poolctl.observe.snapshot import Refusal
from poolctl.observe.startup import Endpoint, probe_login

NAME = "poolctl"
"""The application_name of every connection that observes."""

PATIENCE = 3.0
"""Seconds until a silent server is given up: longer than the statement_timeout, which a working server applies."""

STATEMENT_TIMEOUT = 2.0

Row = dict[str, Any]

_BEGIN = (
    "BEGIN READ ONLY",
    # The owner of a database decides its search_path, and could put other functions before those of the catalog.
    "SET LOCAL search_path = pg_catalog",
)
_LIMITS = (
    "SET LOCAL jit = off",
    f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT * 1000:.0f}",
    f"SET LOCAL lock_timeout = {STATEMENT_TIMEOUT * 1000:.0f}",
)
_LARGEST_PID = 1 << 22
"""pid_max of Linux. A pooler's process ids are random numbers of 32 bits."""

_OF_HERE = ("service", "servicefile", "passfile", "hostaddr", "application_name", "client_encoding")
"""Settings of a connection that another machine must not be given: files of this one, and what poolctl itself chose."""

_VERBOSE = 2
_ROWS, _EMPTY = pq.ExecStatus.TUPLES_OK, (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)


def parse_conninfo(conninfo: str) -> dict[str, Any]:
    """Split a conninfo string or URI. Raises BadInput, without quoting any of it: it may hold a password."""
    if _is_misread(conninfo):
        raise BadInput(
            "the connection URI has an @ where none belongs: part of a password would be taken for a host or database",
            hint="write @ as %40, / as %2F and : as %3A in a password, or leave it to ~/.pgpass or PGPASSWORD",
        )
    try:
        return dict(conninfo_to_dict(conninfo))
    except psycopg.Error as error:
        # From the first quote to the last: a password may hold quotes, too.
        reason = re.sub(r'".*', '"..."', str(error).strip(), flags=re.DOTALL)
        raise BadInput(
            f"the connection string cannot be read: {reason}",
            hint='"host=... port=... user=... dbname=..." or postgresql://user@host:port/database, as psql takes it',
        ) from None


def _is_misread(conninfo: str) -> bool:
    """Return True if a URI has more than one @ before its parameters, or one behind the first slash.

    libpq ends the user and password at the first @, and would look for the rest of a password as a host, or show it.
    """
    _, scheme, rest = conninfo.strip().partition("://")
    if not scheme or not conninfo.strip().startswith(("postgres://", "postgresql://")):
        return False
    authority, _, behind = rest.partition("?")[0].partition("/")
    return authority.count("@") > 1 or "@" in behind


def describe_target(conninfo: str) -> str:
    """Describe where a connection string leads, without secrets: "db.example.com:5432/app". Raises BadInput."""
    given = _add_defaults(parse_conninfo(conninfo))
    host = given.get("host") or given.get("hostaddr")
    if host is None and given.get("service"):
        return f"service {given['service']}"
    name = given.get("dbname") or given.get("user") or ""
    where = f"{host or 'local'}:{given.get('port') or 5432}"
    return f"{where}/{name}" if name else where


def find_address(conninfo: str) -> tuple[str, int | None]:
    """Find the first address and port that a connection string leads to; ("", None) where only a service file knows.

    An address "" is libpq's own default, a folder of Unix sockets. Raises BadInput.
    """
    given = _add_defaults(parse_conninfo(conninfo))
    hosts, ports = _split(given.get("hostaddr")) or _split(given.get("host")), _split(given.get("port")) or ["5432"]
    if not hosts and given.get("service"):
        return "", None
    return (hosts[0] if hosts else ""), int(ports[0]) if ports[0].isdecimal() else None


class ServerConnection:
    """A connection that is open until ``close``, or until it raises ServerLost. For one thread at a time."""

    def __init__(self, pgconn: "pq.abc.PGconn", target: str) -> None:
        self._pgconn = pgconn
        self.target = target
        self.login_pid = pgconn.backend_pid
        """The process id given at login: the backend's, or a number that a pooler made up."""
        self.notices: list[str] = []
        """The last notices of the server or a pooler."""
        pgconn.notice_handler = self._note

    @classmethod
    def open(cls, conninfo: str, *, within: float = PATIENCE, application: str = NAME) -> Self:
        """Connect. Raises Refused, with the reason, after ``within`` seconds at the latest; BadInput.

        Hosts and addresses are tried in turn until one of them answers; that one decides.
        """
        deadline = time.monotonic() + within
        given = parse_conninfo(conninfo)
        target = describe_target(conninfo)
        attempts = _list_attempts(_add_defaults(given), deadline, target)
        refused: Refused | None = None
        for at, place in enumerate(attempts):
            # Each place gets its share of what is left, so that one that hangs leaves time for the others.
            left = (deadline - time.monotonic()) / (len(attempts) - at)
            # SQL_ASCII: no conversion, which fails for a server with text of a broken encoding.
            settings = given | place | {"application_name": application, "client_encoding": "SQL_ASCII"}
            try:
                return cls(_dial(make_conninfo("", **settings), max(left, 0.1), target), target)
            except Refused as error:
                # "localhost" is two addresses: if one refuses and the other hangs, the server is there and hangs.
                refused = error if refused is None or error.hung else refused
                if error.refusal.by not in ("unreachable", "no-local-port", "starting-up"):
                    raise
        assert refused is not None
        raise refused

    def close(self) -> None:
        self._pgconn.finish()

    @property
    def is_open(self) -> bool:
        return bool(self._pgconn.status == pq.ConnStatus.OK)

    @property
    def has_pooler_pid(self) -> bool:
        """Whether ``login_pid`` is no possible process id of an operating system."""
        return not 0 < self.login_pid <= _LARGEST_PID

    @property
    def server_version(self) -> int:
        """server_version_num as announced at login: 180006 for 18.6."""
        return self._pgconn.server_version

    @property
    def is_console(self) -> bool:
        """Whether this is PgBouncer's admin console, which is no database."""
        return (self._pgconn.parameter_status(b"server_version") or b"").endswith(b"/bouncer")

    @property
    def local_port(self) -> int | None:
        """The port of this end of the connection; None for a Unix socket."""
        # A duplicate: closing the socket object would close libpq's connection.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._pgconn.socket)) as end:
            name = end.getsockname()
            return int(name[1]) if isinstance(name, tuple) else None
        return None

    @property
    def is_local(self) -> bool:
        """Whether the connection leads to this machine: by a Unix socket or a loopback address."""
        address = _decode(self._pgconn.hostaddr)
        if not address:
            return _decode(self._pgconn.host).startswith(("/", "@"))
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(address.partition("%")[0]).is_loopback
        return False

    def spell_out(self, given: str) -> str:
        """Return the connection string ``given`` with all that libpq added from this machine: for another one.

        That is what came from its environment, service file and password file. The result holds the password.
        """
        kept = {
            option.keyword.decode(): option.val.decode()
            for option in self._pgconn.info
            if option.val is not None and option.val != option.compiled and option.keyword.decode() not in _OF_HERE
        }
        if password := self._pgconn.password:
            kept["password"] = password.decode()
        named = parse_conninfo(given)
        return make_conninfo("", **kept | {key: named[key] for key in ("hostaddr",) if key in named})

    def read(self, *statements: str, before_limits: str = "", within: float = PATIENCE) -> list[list[Row]]:
        """Run statements in one read-only transaction under timeouts, in one round trip; return the rows of each.

        ``before_limits`` is one more, run first, before the timeouts are set. Raises StatementFailed (nothing is left
        behind), ServerLost.
        """
        first = [before_limits] if before_limits else []
        script = ";\n".join([*_BEGIN, *first, *_LIMITS, *statements, "COMMIT"])
        try:
            return self.execute(script, within=within)
        except StatementFailed:
            self.execute("ROLLBACK", within=within)
            raise

    def execute(self, script: str, *, within: float = PATIENCE) -> list[list[Row]]:
        """Run a script as it is; return the rows of each statement that has any. Raises StatementFailed, ServerLost."""
        deadline = time.monotonic() + within
        failure: StatementFailed | None = None
        found: list[list[Row]] = []
        try:
            # The simple protocol, one script: prepared statements and parameters do not survive every pooler.
            self._pgconn.send_query(script.encode())
            while (result := self._fetch_result(deadline, within)) is not None:
                if result.status == _ROWS:
                    found.append(_read_rows(result))
                elif result.status not in _EMPTY:
                    failure = failure or _read_failure(result)
        except psycopg.Error as error:
            raise self._break_off(failure.message if failure else _take_first_line(error), failure) from None
        except (ValueError, ArithmeticError) as error:
            # A value that its type's reader cannot read: no PostgreSQL sends one.
            raise self._break_off(f"the server's answer makes no sense ({type(error).__name__})") from None
        if failure is None:
            return found
        if self._pgconn.status != pq.ConnStatus.OK:
            raise self._break_off(failure.message, failure)
        raise failure

    def check(self, statement: str, *, within: float = PATIENCE) -> None:
        """Check that the server understands one statement, without running it. Raises StatementFailed, ServerLost.

        The extended protocol takes exactly one statement, so nothing hidden behind a semicolon runs either.
        """
        deadline = time.monotonic() + within
        failure: StatementFailed | None = None
        try:
            self._pgconn.send_prepare(b"", statement.encode())
            while (result := self._fetch_result(deadline, within)) is not None:
                if result.status not in _EMPTY:
                    failure = failure or _read_failure(result)
        except psycopg.Error as error:
            raise self._break_off(_take_first_line(error)) from None
        if failure is not None:
            raise failure

    def _fetch_result(self, deadline: float, within: float) -> "pq.abc.PGresult | None":
        pgconn = self._pgconn
        # Reading while writing: a server that sends much before it reads would otherwise wait for us, and we for it.
        while pgconn.flush():
            self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE, deadline, within)
            pgconn.consume_input()
        # get_result() would block: only when libpq has a whole result it returns at once.
        while pgconn.is_busy():
            self._wait(selectors.EVENT_READ, deadline, within)
            pgconn.consume_input()
        return pgconn.get_result()

    def _wait(self, events: int, deadline: float, within: float) -> None:
        if not _wait_until_ready(self._pgconn.socket, events, deadline):
            raise self._break_off(f"no answer within {within:g} s", hung=True)

    def _break_off(self, reason: str, failure: StatementFailed | None = None, *, hung: bool = False) -> ServerLost:
        self._pgconn.finish()
        refusal = None if failure is None else classify(reason, failure.sqlstate, failure.routine, self.target)
        return ServerLost(reason, hung=hung, refusal=refusal)

    def _note(self, result: "pq.abc.PGresult") -> None:
        self.notices.append(_decode(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)))
        del self.notices[:-10]


def find_refusal(conninfo: str, *, within: float = PATIENCE) -> Refusal | None:
    """Try to connect, and return why the server refused; None when it let the client in.

    Takes one connection for some milliseconds. Raises BadInput for a conninfo that cannot be read.
    """
    try:
        ServerConnection.open(conninfo, within=within).close()
    except Refused as error:
        return error.refusal
    return None


def _list_attempts(given: dict[str, Any], deadline: float, target: str) -> list[dict[str, str]]:
    """List the places to try, in libpq's own order.

    libpq tries them itself, but with one timeout a host and none for looking up its name.
    """
    hosts, addresses = _split(given.get("host")), _split(given.get("hostaddr"))
    ports = _split(given.get("port")) or ["5432"]
    count = max(len(hosts), len(addresses))
    # Left to libpq: a service file names the place, or the counts do not match, which libpq explains itself.
    if given.get("service") or count == 0 or len(ports) not in (1, count) or (addresses and len(addresses) != count):
        return [{}]
    places: list[dict[str, str]] = []
    unknown: list[str] = []
    for at in range(count):
        host = hosts[at] if at < len(hosts) else ""
        port = ports[at % len(ports)]
        if addresses or host == "" or host.startswith(("/", "@")):
            known: list[str] = addresses[at : at + 1]
        else:
            known = _resolve(host, deadline)
            if not known:
                unknown.append(host)
                continue
        places += [{"host": host, "port": port, "hostaddr": address} for address in known or [""]]
    if not places:
        raise Refused(Refusal("unreachable", f"no such host: {', '.join(unknown)}", target=target))
    return places


def _resolve(host: str, deadline: float) -> list[str]:
    """Look up the addresses of a host; none if there are none, or no answer came in time.

    getaddrinfo has no timeout: its thread is left behind when the name server hangs.
    """
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    answer: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def resolve() -> None:
        found: list[str] = []
        with contextlib.suppress(OSError, UnicodeError):
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
        answer.put(list(dict.fromkeys(found)))

    threading.Thread(target=resolve, daemon=True).start()
    try:
        return answer.get(timeout=max(deadline - time.monotonic(), 0.0))
    except queue.Empty:
        return []


def _dial(conninfo: str, within: float, target: str) -> "pq.abc.PGconn":
    deadline = time.monotonic() + within
    # Not PQconnectdb: that one blocks beyond any deadline while the server says nothing.
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        if pgconn.status == pq.ConnStatus.BAD:
            raise Refused(parse_libpq_message(pgconn.get_error_message(), target))
        _keep_details(pgconn)
        while (state := pgconn.connect_poll()) != pq.PollingStatus.OK:
            if state == pq.PollingStatus.FAILED:
                raise Refused(_read_refusal(pgconn, target, deadline - time.monotonic()))
            events = selectors.EVENT_READ if state == pq.PollingStatus.READING else selectors.EVENT_WRITE
            if not _wait_until_ready(pgconn.socket, events, deadline):
                # STARTED: the TCP handshake is not done. Any later state means that something accepted the connection.
                hung = pgconn.status != pq.ConnStatus.STARTED
                raise Refused(classify(f"no answer within {within:.2g} s", None, None, target), hung=hung)
        # Otherwise a statement that does not fit into the socket's buffer would wait for the server without limit.
        pgconn.nonblocking = 1
    except BaseException:
        # Ctrl-C among others: a connection that is half open takes a slot until the server's authentication_timeout.
        pgconn.finish()
        raise
    return pgconn


def _read_refusal(pgconn: "pq.abc.PGconn", target: str, within: float) -> Refusal:
    message = _decode(pgconn.error_message)
    if HIDDEN_BY_TLS in message:
        address = _decode(pgconn.hostaddr) or _decode(pgconn.host)
        place = Endpoint(address, int(pgconn.port), _decode(pgconn.user), _decode(pgconn.db), NAME)
        said = probe_login(place, within=max(within, 0.1))
        if said is not None and said.sqlstate is not None:
            return replace(said, target=target)
    return parse_libpq_message(message, target)


def _keep_details(pgconn: "pq.abc.PGconn") -> None:
    """Make libpq keep the SQLSTATE and the routine of a refusal; by default it keeps the text alone."""
    with contextlib.suppress(OSError, AttributeError, ImportError):
        pointer: Any = pgconn
        _set_verbosity()(ctypes.c_void_p(pointer.pgconn_ptr), _VERBOSE)


def _set_verbosity() -> Callable[..., int]:
    if pq.__impl__ == "python":
        return importlib.import_module("psycopg.pq._pq_ctypes").pq.PQsetErrorVerbosity  # type: ignore[no-any-return]
    # dlsym also searches the libraries that this one was linked with, which finds the very libpq that connects.
    library = importlib.import_module(f"psycopg_{pq.__impl__}.pq")
    return ctypes.CDLL(library.__file__).PQsetErrorVerbosity


def _wait_until_ready(descriptor: int, events: int, deadline: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, events)
        return bool(selector.select(max(deadline - time.monotonic(), 0.0)))


def _read_rows(result: "pq.abc.PGresult") -> list[Row]:
    columns = [(at, _decode(result.fname(at)), _READERS.get(result.ftype(at), _decode)) for at in range(result.nfields)]
    value = result.get_value
    return [
        {name: None if (raw := value(row, at)) is None else read(raw) for at, name, read in columns}
        for row in range(result.ntuples)
    ]


def _decode(raw: bytes | None) -> str:
    """Decode the server's bytes, which come unconverted: as UTF-8, else byte for byte."""
    if raw is None:
        return ""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _read_boolean(raw: bytes) -> bool:
    return raw == b"t"


_READERS: dict[int, Callable[[bytes], Any]] = {
    16: _read_boolean,
    **dict.fromkeys((20, 21, 23, 26), int),
    **dict.fromkeys((700, 701, 1700), float),
    **dict.fromkeys((114, 3802), json.loads),
}
"""By the oid of a column's type (pg_type.dat): bool; int8, int2, int4, oid; float4, float8, numeric; json, jsonb."""


def _read_failure(result: "pq.abc.PGresult") -> StatementFailed:
    text = _decode(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)) or _take_first_line(
        _decode(result.error_message)
    )
    routine = result.error_field(pq.DiagnosticField.SOURCE_FUNCTION)
    return StatementFailed(text, _decode(result.error_field(pq.DiagnosticField.SQLSTATE)), _decode(routine) or None)


def _take_first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("consuming input failed: ") if lines else "the connection broke"


def _add_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Add what libpq's environment says of where to connect."""
    found = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None and option.keyword in (b"service", b"host", b"hostaddr", b"port", b"dbname", b"user")
    }
    return found | given


def _split(value: object) -> list[str]:
    return str(value).split(",") if value else []
