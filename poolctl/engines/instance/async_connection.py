"""One server connection of the event loop: libpq without blocking and without threads.

Decides how a connection is opened, how a statement is sent and how its result is read. The pool decides when. One
thread that loops over non-blocking PGconn objects reaches most of pgbench's rate. Threads do not: more than about
eight busy threads of any Python driver slow each other down on the interpreter lock.
"""

from typing import Any

import psycopg
from psycopg import pq

from poolctl.engines.instance.error_origin import classify
from poolctl.engines.instance.poller import Poller
from poolctl.pool import Connection
from poolctl.scenario.run import ErrorKind

_NAME = b"poolctl"
_FATAL_ERROR = int(pq.ExecStatus.FATAL_ERROR)


class AsyncConnection:
    """A server connection. ``client``: the client that uses it or waits for its opening, None: no client.

    ``is_dead``: the server closed it; the next acquire that gets it notices that. ``error``: why the opening or the
    last statement failed, None: it did not fail. ``fd`` is -1 if libpq could not even create a socket.
    """

    __slots__ = (
        "_pgconn",
        "_poller",
        "_prepared",
        "_statement",
        "_to_send",
        "began_at",
        "client",
        "connection",
        "error",
        "fd",
        "is_adopted",
        "is_dead",
        "is_opening",
    )

    def __init__(
        self, conninfo: bytes, poller: "Poller[AsyncConnection]", connection: Connection, began_at: float
    ) -> None:
        self._poller = poller
        self.connection = connection
        self.began_at = began_at
        self.client: Any = None
        self.is_opening, self.is_dead = True, False
        self.is_adopted = False
        """Whether the pool keeps it idle from the start, before it serves requests."""
        self.error: ErrorKind | None = None
        self._statement, self._prepared = b"", False
        self._to_send: tuple[bytes, str | None] | None = None
        self._pgconn = pq.PGconn.connect_start(conninfo)
        self.fd = -1
        if self._pgconn.status != pq.ConnStatus.BAD:
            self._watch(write=True)

    def continue_opening(self) -> bool | None:
        """Continue the opening. Return True once it is open, None if it failed (see ``error``), else False."""
        state = self._pgconn.connect_poll() if self.fd >= 0 else pq.PollingStatus.FAILED
        if state == pq.PollingStatus.OK:
            self._watch()
            self._pgconn.nonblocking = 1
            self.is_opening = False
            return True
        if state == pq.PollingStatus.FAILED:
            self.error = classify(self._pgconn.get_error_message())
            return None
        self._watch(write=state == pq.PollingStatus.WRITING)
        return False

    def send(self, statement: bytes, parameter: str | None, *, prepare: bool) -> None:
        """Send one statement. ``parameter``: the value of $1, None if it has none.

        ``prepare``: use a statement prepared on this connection; the first time, that costs one more round trip.
        """
        self.error = None
        try:
            if not prepare:
                self._pgconn.send_query_params(statement, None if parameter is None else [parameter.encode()])
            elif self._prepared and statement == self._statement:
                self._pgconn.send_query_prepared(_NAME, None if parameter is None else [parameter.encode()])
            else:
                self._to_send = (statement, parameter)
                self._pgconn.send_prepare(_NAME, statement)
        except psycopg.OperationalError as error:
            self._break(error)

    def send_script(self, script: bytes) -> None:
        """Send statements separated by semicolons. A transaction that they begin stays open."""
        self.error = None
        try:
            # The simple protocol: the extended one takes a single statement.
            self._pgconn.send_query(script)
        except psycopg.OperationalError as error:
            self._break(error)

    def receive(self) -> bool:
        """Read what has arrived. Return True if the statement has ended; ``error`` says if it failed."""
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            if pgconn.is_busy():
                return False
            # get_result() would block while libpq is busy, so each call has to be preceded by is_busy().
            while (result := pgconn.get_result()) is not None:
                if result.status == _FATAL_ERROR and self.error is None:
                    self.error = _error_of(result)
                if pgconn.is_busy():
                    return False
        except psycopg.OperationalError as error:
            self._break(error)
            return True
        if self._to_send is not None and self.error is None:
            # This was the result of the PREPARE alone: now execute the statement.
            (self._statement, parameter), self._to_send = self._to_send, None
            self._prepared = True
            self.send(self._statement, parameter, prepare=True)
            return self.is_dead
        if self.error is not None and pgconn.status == pq.ConnStatus.BAD:
            self._end()
        return True

    def ignore(self) -> None:
        """Stop reading this socket, as a program does that forgot to read its rows."""
        self._poller.forget(self.fd)

    def close(self) -> None:
        """Close the connection and its socket."""
        self._end()
        self._pgconn.finish()

    def _watch(self, *, write: bool = False) -> None:
        fd = self._pgconn.socket
        # While it connects, libpq may try the next address of a host, on a new socket.
        if fd != self.fd and self.fd >= 0:
            self._poller.forget(self.fd)
        self.fd = fd
        self._poller.watch(fd, self, write=write)

    def _break(self, error: Exception) -> None:
        if self.error is None:
            self.error = classify(str(error))
        self._end()

    def _end(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            # At once: libpq may have closed the socket, and the next socket of this process may get its number.
            self._poller.forget(self.fd)


def _error_of(result: Any) -> ErrorKind:
    sqlstate = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    name = psycopg.errors.lookup(sqlstate).__name__ if _is_known(sqlstate) else "DatabaseError"
    return classify(message.decode(errors="replace"), name, sqlstate or None)


def _is_known(sqlstate: str) -> bool:
    try:
        psycopg.errors.lookup(sqlstate)
    except KeyError:
        return False
    return True
