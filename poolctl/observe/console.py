"""One connection to a pooler, asked in the simple protocol, with an end to every wait.

Poolers speak less than PostgreSQL does: no parameters, no prepared statements, some send a result twice, and one that
is full takes a connection and then says nothing at all. So libpq is driven step by step here: each step waits for
its socket until the caller's deadline and no longer. What the rows mean is left to ``pgbouncer`` and ``pgpool``.
"""

import contextlib
import ipaddress
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poolctl.errors import BadInput, CannotConnect, CannotDo

APPLICATION = "poolctl"
CONNECT_WITHIN = 2.0
"""Seconds."""


class Silent(CannotConnect):
    """It did not answer before the deadline. ``was_reached``: it took the connection before it fell silent."""

    code = "silent"

    def __init__(self, message: str, *, was_reached: bool) -> None:
        super().__init__(message)
        self.was_reached = was_reached


class CommandRefused(CannotDo):
    """It is there, and does not run this command, or not for this user."""

    code = "command-refused"


class Answer(NamedTuple):
    """A result as text: columns come and go with versions, so rows are read by name."""

    names: Sequence[str]
    rows: Iterable[Sequence[str | None]]


class Row(dict[str, str | None]):
    """One row by column name; what a version does not have reads as absent."""

    def text(self, name: str, default: str = "") -> str:
        value = self.get(name)
        return default if value is None else value

    def count(self, name: str, default: int = 0) -> int:
        """A whole number; ``default`` where there is none. Reads "t" and "f", too."""
        value = self.get(name)
        if value in ("t", "true"):
            return 1
        with contextlib.suppress(TypeError, ValueError):
            return int(value or default)
        return default

    def seconds(self, whole: str, microseconds: str) -> float:
        return self.count(whole) + self.count(microseconds) / 1e6


def rows_of(answer: Answer) -> list[Row]:
    return [Row(zip(answer.names, row, strict=False)) for row in answer.rows]


class Console:
    """A connection that is opened when it is first asked, and once more in a call when it turns out to be gone.

    ``defaults`` fill in what ``conninfo`` leaves open, before libpq's environment does: PGPORT and PGDATABASE are
    meant for PostgreSQL. Raises BadInput for a connection string that cannot be read; its text is not repeated.
    """

    def __init__(self, conninfo: str, defaults: Mapping[str, str]) -> None:
        self._parameters = {**defaults, **_read(conninfo), **_FIXED}
        self._connection: pq.abc.PGconn | None = None
        self.connected_at: float | None = None
        """Seconds since the epoch on this machine's clock; None while not connected."""

    @property
    def target(self) -> str:
        """Host and port, or the service: never the user's secrets."""
        known = {key: value for key, value in self._parameters.items() if value}
        if "service" in known and "host" not in known:
            return f"service {known['service']}"
        host = known.get("host") or known.get("hostaddr") or _default("host") or "local"
        return f"{host}:{known['port']}" if "port" in known else host

    @property
    def database(self) -> str:
        """That the connection string names, or the default; "" where libpq's environment decides."""
        return self._parameters.get("dbname", "")

    @property
    def host(self) -> str:
        """As the connection has it: a name, an address, or the folder of a Unix socket; "" while not connected."""
        return self._connection.host.decode(errors="replace") if self._connection is not None else ""

    @property
    def port(self) -> int | None:
        """That was asked for; None where only libpq's configuration says it and nothing is connected yet."""
        if self._connection is not None:
            return int(self._connection.port.decode().split(",")[0] or 0) or None
        port = self._parameters.get("port", "")
        return int(port) if port.isdecimal() else None

    @property
    def backend_pid(self) -> int | None:
        """The process id that was told at login; None while not connected."""
        return self._connection.backend_pid if self._connection is not None else None

    @property
    def own_port(self) -> int | None:
        """This end's port of the connection; None over a Unix socket or while not connected."""
        if self._connection is None:
            return None
        with (
            contextlib.suppress(OSError, ValueError, psycopg.Error),
            socket.socket(fileno=self._connection.socket) as own,
        ):
            try:
                name = own.getsockname()
            finally:
                own.detach()
            return int(name[1]) if isinstance(name, tuple) else None
        return None

    def ask(self, command: str, deadline: float, *, may_connect: bool = True) -> Answer:
        """What ``command`` gives, by ``deadline`` on the monotonic clock.

        With ``may_connect`` it connects where there is no connection, or where it is found to be gone: once. Raises
        Silent, CannotConnect, or CommandRefused; after the first two the connection is closed.
        """
        if self._connection is None and not may_connect:
            raise CannotConnect("the connection is gone")
        if self._connection is not None:
            try:
                return self._ask(self._connection, command, deadline)
            except Silent:
                raise
            except CannotConnect:
                if not may_connect:
                    raise
        return self._ask(self._connect(deadline), command, deadline)

    def close(self) -> None:
        connection, self._connection, self.connected_at = self._connection, None, None
        if connection is not None:
            connection.finish()

    def _connect(self, deadline: float) -> pq.abc.PGconn:
        conninfo = make_conninfo("", **(self._parameters | _addresses(self._parameters, deadline)))
        connection = pq.PGconn.connect_start(conninfo.encode())
        step: int = pq.PollingStatus.WRITING
        try:
            while connection.status != pq.ConnStatus.BAD and step != pq.PollingStatus.OK:
                _wait(connection, deadline, write=step == pq.PollingStatus.WRITING)
                step = connection.connect_poll()
                if step == pq.PollingStatus.FAILED:
                    break
            if connection.status != pq.ConnStatus.OK:
                raise CannotConnect(_words(connection.error_message.decode(errors="replace")))
            connection.nonblocking = 1
        except BaseException:
            connection.finish()
            raise
        self._connection, self.connected_at = connection, time.time()
        return connection

    def _ask(self, connection: pq.abc.PGconn, command: str, deadline: float) -> Answer:
        try:
            results = _results(connection, command, deadline)
        except (psycopg.Error, OSError) as error:
            self.close()
            raise CannotConnect(_words(str(error))) from None
        except BaseException:
            self.close()
            raise
        refusal = next((result for result in results if result.status == pq.ExecStatus.FATAL_ERROR), None)
        if refusal is not None:
            words = _words(refusal.error_message.decode(errors="replace"))
            if connection.status != pq.ConnStatus.OK:
                self.close()
                raise CannotConnect(words)
            raise CommandRefused(words)
        # Pgpool-II 4.3 describes the columns twice, which makes an empty result before the one with the rows.
        tables = [result for result in results if result.status == pq.ExecStatus.TUPLES_OK]
        return _answer(tables[-1]) if tables else Answer((), ())


_FIXED = {
    "application_name": APPLICATION,
    # PGOPTIONS of the environment is for PostgreSQL: PgBouncer refuses a client that sends any.
    "options": "",
    # Otherwise PGTARGETSESSIONATTRS makes libpq ask what no console answers.
    "target_session_attrs": "any",
}


def _read(conninfo: str) -> dict[str, str]:
    try:
        return {key: str(value) for key, value in conninfo_to_dict(conninfo).items() if value is not None}
    except psycopg.Error as error:
        # libpq repeats what it could not read between quotes, and that may be a part of a password.
        rule = re.sub(r'"[^"]*"', '"..."', str(error).strip())
        raise BadInput(
            f"the connection string of a pooler cannot be read: {rule}",
            hint="it is libpq's: host=... port=... user=... or postgresql://user@host:port/dbname",
        ) from None


def _default(keyword: str) -> str:
    for option in pq.Conninfo.get_defaults():
        if option.keyword == keyword.encode() and option.val:
            return option.val.decode(errors="replace")
    return ""


def _addresses(parameters: Mapping[str, str], deadline: float) -> dict[str, str]:
    """The host's addresses, looked up by ``deadline``: libpq would wait for a name server without an end.

    Raises Silent. A name that cannot be resolved is left to libpq, which says so in its own words.
    """
    host = parameters.get("host") or _default("host")
    if not host or host.startswith(("/", "@")) or "," in host or parameters.get("hostaddr") or _is_address(host):
        return {}
    found: list[str] = []

    def resolve() -> None:
        with contextlib.suppress(OSError):
            for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
                if str(address[0]) not in found:
                    found.append(str(address[0]))

    resolver = threading.Thread(target=resolve, daemon=True)
    resolver.start()
    resolver.join(max(0.0, deadline - time.monotonic()))
    if resolver.is_alive():
        raise Silent(f"the address of {host} was not found in time", was_reached=False)
    addresses = tuple(found)
    return {"hostaddr": ",".join(addresses), "host": ",".join([host] * len(addresses))} if addresses else {}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _wait(connection: pq.abc.PGconn, deadline: float, *, write: bool) -> None:
    """Until the socket is ready. Raises Silent at ``deadline``."""
    left = deadline - time.monotonic()
    events = selectors.EVENT_WRITE if write else selectors.EVENT_READ
    with selectors.DefaultSelector() as selector:
        # libpq tries address after address, each with a socket of its own: asked for again every time.
        selector.register(connection.socket, events)
        if left > 0 and selector.select(left):
            return
    was_reached = connection.status != pq.ConnStatus.STARTED
    raise Silent(
        "it took the connection and then said nothing" if was_reached else "no answer", was_reached=was_reached
    )


def _results(connection: pq.abc.PGconn, command: str, deadline: float) -> list[pq.abc.PGresult]:
    connection.send_query(command.encode())
    while connection.flush():
        _wait(connection, deadline, write=True)
    results: list[pq.abc.PGresult] = []
    while True:
        while connection.is_busy():
            _wait(connection, deadline, write=False)
            connection.consume_input()
        result = connection.get_result()
        if result is None:
            return results
        results.append(result)


def _answer(result: pq.abc.PGresult) -> Answer:
    columns = range(result.nfields)
    names = [(result.fname(column) or b"").decode(errors="replace") for column in columns]
    rows = [[_text(result.get_value(row, column)) for column in columns] for row in range(result.ntuples)]
    return Answer(names, rows)


def _text(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode(errors="replace")


def _words(message: str) -> str:
    """What was said, without libpq's account of whom it asked, in one line."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()] or ["it gave no reason"]
    said = next((line for line in lines if re.search(r"FATAL:|ERROR:", line)), lines[0])
    said = re.sub(r"^.*?(?:FATAL|ERROR|PANIC): *(?=\S)", "", said)
    return re.sub(r"^connection to server .*? failed: ", "", said)
