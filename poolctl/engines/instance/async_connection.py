"""One server connection of the native driver: libpq without blocking and without threads.

A loop over non-blocking PGconn reaches most of pgbench's rate in one thread, where more than about eight busy
threads of any Python driver stand in each other's way on the interpreter lock.
"""

from typing import Any

import psycopg
from psycopg import pq

from poolctl.engines.instance.poller import Poller
from poolctl.engines.live.error_origin import classify
from poolctl.pool import Connection
from poolctl.scenario.run import ErrorKind

_NAME = b"poolctl"
_FATAL_ERROR = int(pq.ExecStatus.FATAL_ERROR)


class AsyncConnection:
    """``client`` is who uses it now. ``dead``: the server closed it, and whoever acquires it next will notice."""

    __slots__ = (
        "_pgconn",
        "_poller",
        "_prepared",
        "_statement",
        "_to_send",
        "began_at",
        "client",
        "connection",
        "dead",
        "dialing",
        "error",
        "fd",
    )

    def __init__(
        self, conninfo: bytes, poller: "Poller[AsyncConnection]", connection: Connection, began_at: float
    ) -> None:
        self._poller = poller
        self.connection = connection
        self.began_at = began_at
        self.client: Any = None
        self.dialing, self.dead = True, False
        self.error: ErrorKind | None = None
        self._statement, self._prepared = b"", False
        self._to_send: tuple[bytes, str | None] | None = None
        self._pgconn = pq.PGconn.connect_start(conninfo)
        self.fd = -1
        if self._pgconn.status != pq.ConnStatus.BAD:
            self._watch(write=True)

    def dial(self) -> bool | None:
        """Go on opening: True when it is open, None when it failed (see ``error``), False while it goes on."""
        state = self._pgconn.connect_poll() if self.fd >= 0 else pq.PollingStatus.FAILED
        if state == pq.PollingStatus.OK:
            self._watch()
            self._pgconn.nonblocking = 1
            self.dialing = False
            return True
        if state == pq.PollingStatus.FAILED:
            self.error = classify(self._pgconn.get_error_message())
            return None
        self._watch(write=state == pq.PollingStatus.WRITING)
        return False

    def send(self, statement: bytes, parameter: str | None, *, prepare: bool) -> None:
        """Run one statement. ``prepare``: keep it prepared on this connection, at the price of one more round
        trip when it is new."""
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
            self._lost(error)

    def send_script(self, script: bytes) -> None:
        """Run statements separated by semicolons; a BEGIN among them stays open."""
        self.error = None
        try:
            self._pgconn.send_query(script)
        except psycopg.OperationalError as error:
            self._lost(error)

    def receive(self) -> bool:
        """Take what has arrived; True when the statement has ended, well or (see ``error``) badly."""
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            if pgconn.is_busy():
                return False
            while (result := pgconn.get_result()) is not None:
                if result.status == _FATAL_ERROR and self.error is None:
                    self.error = _error_of(result)
                if pgconn.is_busy():
                    return False
        except psycopg.OperationalError as error:
            self._lost(error)
            return True
        if self._to_send is not None and self.error is None:
            (self._statement, parameter), self._to_send = self._to_send, None
            self._prepared = True
            self.send(self._statement, parameter, prepare=True)
            return self.dead
        if self.error is not None and pgconn.status == pq.ConnStatus.BAD:
            self._end()
        return True

    def ignore(self) -> None:
        """Never look at this socket again, as a program does that forgot to read its rows."""
        self._poller.forget(self.fd)

    def close(self) -> None:
        self._end()
        self._pgconn.finish()

    def _watch(self, *, write: bool = False) -> None:
        fd = self._pgconn.socket
        if fd != self.fd and self.fd >= 0:
            self._poller.forget(self.fd)
        self.fd = fd
        self._poller.watch(fd, self, write=write)

    def _lost(self, error: Exception) -> None:
        if self.error is None:
            self.error = classify(str(error))
        self._end()

    def _end(self) -> None:
        if not self.dead:
            self.dead = True
            # Now, and not later: libpq may have closed the socket, and its number may be another's by then.
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
