"""Connections of psycopg and psycopg2 that report their own opening and closing, and the statements on them.

Decides how a statement is run and in which state a leak leaves the backend. Normal work runs in autocommit, so that
the server shows an unused connection as ``idle`` with every library. The connection classes are created within
functions, one for each PoolMonitor, because a library takes a class and creates the connections itself.
"""

import threading
from collections.abc import Callable
from typing import Any, Protocol

from poolctl.engines.instance.error_origin import classify
from poolctl.engines.instance.pool_monitor import PoolMonitor
from poolctl.engines.instance.statements import UNREAD_ROWS, make_parameter, make_statement
from poolctl.engines.workload import Job
from poolctl.scenario.run import ErrorKind

_NAME = b"poolctl"
_SQLSTATE = ord("C")


class RequestFailed(Exception):
    """A statement failed. ``is_broken``: so did its connection."""

    def __init__(self, kind: ErrorKind, *, is_broken: bool) -> None:
        super().__init__(kind.message)
        self.kind = kind
        self.is_broken = is_broken


class Driver(Protocol):
    """The statements of the workload on one kind of connection. Each method raises RequestFailed."""

    connection_class: Any

    def run(self, connection: Any, seconds: float) -> None:
        """Run the statement of the workload. ``seconds``: how long it shall take, if it has a parameter for that."""

    def bind(self, seconds: float) -> Callable[[Any], None]:
        """Return ``run`` for always the same ``seconds``, made for as little of the processor's time as possible."""

    def begin(self, connection: Any) -> None:
        """Begin a transaction."""

    def script(self, connection: Any, sql: str) -> None:
        """Run statements separated by semicolons."""

    def leave_unread(self, connection: Any) -> None:
        """Request more rows than the socket buffers take, and read none of them."""


class Psycopg:
    """psycopg's connections, used through libpq's own blocking calls and not through a cursor.

    That costs a third of the time, which threads spend under the interpreter lock, where each delays the others. A
    blocking call releases the lock once. psycopg's cursor waits in steps, and takes the lock at each, in order to
    notice Ctrl-C; an instance never receives a Ctrl-C.
    """

    def __init__(self, job: Job, monitor: PoolMonitor, *, hides_errors: bool = False) -> None:
        from psycopg import Error
        from psycopg.pq import ConnStatus, ExecStatus

        self.connection_class = _make_psycopg_class(monitor, hides_errors)
        self._error = Error
        self._not_run = (Error, MemoryError)
        self._failed = frozenset({ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE, ExecStatus.NONFATAL_ERROR})
        self._bad = ConnStatus.BAD
        self._statement = make_statement(job).encode()
        self._parameter = make_parameter(job)
        self._is_prepared = job.prepared

    def run(self, connection: Any, seconds: float) -> None:
        self._run(connection, self._values(seconds))

    def bind(self, seconds: float) -> Callable[[Any], None]:
        values, not_run, failed = self._values(seconds), self._not_run, self._failed

        def run(connection: Any) -> None:
            if not connection.is_prepared:
                self._run(connection, values)
                return
            # Without the calls of _execute(), which cost as much as the rest of this function.
            pgconn = connection.pgconn
            try:
                result = pgconn.exec_prepared(_NAME, values)
            except not_run as error:
                raise self._explain(pgconn, error) from None
            if result.status in failed:
                raise self._explain_result(pgconn, result)

        return run

    def begin(self, connection: Any) -> None:
        self.script(connection, "BEGIN")

    def script(self, connection: Any, sql: str) -> None:
        self._execute(connection.pgconn, connection.pgconn.exec_, sql.encode())

    def leave_unread(self, connection: Any) -> None:
        try:
            connection.pgconn.send_query(UNREAD_ROWS.encode())
        except self._error as error:
            raise self._failure(connection.pgconn, str(error), None) from None

    def _values(self, seconds: float) -> list[bytes] | None:
        return None if self._parameter is None else [self._parameter(seconds).encode()]

    def _run(self, connection: Any, values: list[bytes] | None) -> None:
        pgconn = connection.pgconn
        if self._is_prepared:
            if not connection.is_prepared:
                self._execute(pgconn, pgconn.prepare, _NAME, self._statement)
                connection.is_prepared = True
            self._execute(pgconn, pgconn.exec_prepared, _NAME, values)
        elif values is None:
            self._execute(pgconn, pgconn.exec_, self._statement)
        else:
            self._execute(pgconn, pgconn.exec_params, self._statement, values)

    def _execute(self, pgconn: Any, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            result = call(*arguments)
        except self._not_run as error:
            raise self._explain(pgconn, error) from None
        if result.status in self._failed:
            raise self._explain_result(pgconn, result)

    def _explain(self, pgconn: Any, error: Any) -> RequestFailed:
        if isinstance(error, MemoryError):
            # psycopg raises this if libpq returns no result at all: the statement could not even be sent.
            return self._failure(pgconn, pgconn.get_error_message(), None)
        return self._failure(pgconn, str(error), error.sqlstate)

    def _explain_result(self, pgconn: Any, result: Any) -> RequestFailed:
        if pgconn.status == self._bad:
            # The result holds libpq's last message only; the connection also has the server's, which came before.
            return self._failure(pgconn, pgconn.get_error_message(), None)
        state = (result.error_field(_SQLSTATE) or b"").decode() or None
        return self._failure(pgconn, result.error_message.decode(errors="replace"), state)

    def _failure(self, pgconn: Any, message: str, sqlstate: str | None) -> RequestFailed:
        from psycopg.errors import lookup

        sqlstate = sqlstate or classify(message).sqlstate
        try:
            name = lookup(sqlstate).__name__ if sqlstate else "OperationalError"
        except KeyError:
            name = "DatabaseError"
        return RequestFailed(classify(message, name, sqlstate), is_broken=pgconn.status == self._bad)


class Psycopg2:
    """psycopg2 sends every statement as text; it cannot prepare."""

    def __init__(self, job: Job, monitor: PoolMonitor) -> None:
        import psycopg2

        self.connection_class = _make_psycopg2_class(monitor)
        self._error = psycopg2.Error
        self._statement = make_statement(job)
        self._parameter = make_parameter(job)
        self._end = threading.Event()

    def run(self, connection: Any, seconds: float) -> None:
        self.script(connection, self._write(seconds))

    def bind(self, seconds: float) -> Callable[[Any], None]:
        statement, script = self._write(seconds), self.script
        return lambda connection: script(connection, statement)

    def begin(self, connection: Any) -> None:
        # psycopg2 then sends BEGIN before the next statement.
        connection.autocommit = False

    def script(self, connection: Any, sql: str) -> None:
        try:
            connection.cursor().execute(sql)
        except self._error as error:
            kind = classify(str(error), type(error).__name__, error.pgcode)
            raise RequestFailed(kind, is_broken=bool(connection.closed)) from None

    def leave_unread(self, connection: Any) -> None:
        """Block a new thread in the middle of a COPY: psycopg2 has no call that sends without reading."""

        def copy() -> None:
            try:
                connection.cursor().copy_expert(f"COPY ({UNREAD_ROWS}) TO STDOUT", _Blocked(self._end))
            except (self._error, OSError):
                # The server or this process is ending.
                return

        threading.Thread(target=copy, daemon=True, name="unread rows").start()

    def _write(self, seconds: float) -> str:
        return (
            self._statement
            if self._parameter is None
            else self._statement.replace("$1", f"'{self._parameter(seconds)}'")
        )

    def end(self) -> None:
        """End the threads with unread rows."""
        self._end.set()


class _Blocked:
    """A file whose write() blocks until ``end`` is set."""

    def __init__(self, end: threading.Event) -> None:
        self._end = end

    def write(self, data: bytes) -> None:
        self._end.wait()
        raise OSError("these rows are never read")


def _make_psycopg_class(monitor: PoolMonitor, hides_errors: bool) -> Any:
    import psycopg
    from psycopg.pq import ConnStatus

    class MonitoredConnection(psycopg.Connection[Any]):
        is_counted = False
        is_prepared = False
        is_dropped = False
        """The leak "dropped-reference" drops its last reference on purpose."""
        keeps_slot = False
        """The pool does not notice that, and the slot stays taken."""

        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Any:
            try:
                with monitor.open_connection():
                    connection = super().connect(conninfo, **options)
            except psycopg.Error as error:
                if hides_errors:
                    monitor.report_hidden_error(classify(str(error), type(error).__name__, error.sqlstate))
                raise
            connection.is_counted = True
            return connection

        def close(self) -> None:
            if self.is_counted:
                self.is_counted = False
                monitor.record_close(_choose_reason(monitor, self.pgconn.status == ConnStatus.BAD, self.is_dropped))
            super().close()

        def __del__(self, *_: Any) -> None:
            # Replaces psycopg's own method, which warns of a connection that was not closed. The garbage collector
            # may call this in any thread, between any two statements: the monitor only notes it (see PoolMonitor).
            if not self.is_counted:
                return
            self.is_counted = False
            # Before finish(), after which every connection has the status BAD.
            is_broken = self.pgconn.status == ConnStatus.BAD
            self.pgconn.finish()
            monitor.record_close(
                "error" if is_broken else monitor.dropped_reason,
                frees_slot=not self.keeps_slot,
                ends_use=self.is_dropped and not self.keeps_slot,
            )

    return MonitoredConnection


def _make_psycopg2_class(monitor: PoolMonitor) -> Any:
    import psycopg2.extensions

    class MonitoredConnection(psycopg2.extensions.connection):
        is_counted = False

        def __init__(self, dsn: str, *options: Any, **more: Any) -> None:
            with monitor.open_connection():
                super().__init__(dsn, *options, **more)
            # Only now: a connection that could not be opened must not be counted as closed.
            self.is_counted = True
            self.autocommit = True

        def close(self) -> None:
            if self.is_counted:
                self.is_counted = False
                monitor.record_close(_choose_reason(monitor, bool(self.closed), False))
            super().close()

        def __del__(self) -> None:
            if self.is_counted:
                self.is_counted = False
                monitor.record_close("error" if self.closed else monitor.dropped_reason)

    return MonitoredConnection


def _choose_reason(monitor: PoolMonitor, is_broken: bool, is_dropped: bool) -> str:
    if is_broken:
        return "error"
    if is_dropped:
        return monitor.dropped_reason
    return monitor.closing_reason()
