"""Connections of psycopg and psycopg2 that report their own opening and closing, and what is done on them.

Decides how a statement is run and what a leak leaves behind on the server. Normal work runs in autocommit, so that
a connection that is not working shows as ``idle``, whichever library holds it. Each class here is made for one Watch:
the libraries are given a class, not an instance.
"""

import threading
from collections.abc import Callable
from typing import Any, Protocol

from poolctl.engines.instance.pool_monitor import PoolMonitor
from poolctl.engines.instance.statements import UNREAD_ROWS, parameter, statement
from poolctl.engines.live.error_origin import classify
from poolctl.engines.workload import Job
from poolctl.scenario.run import ErrorKind

_NAME = b"poolctl"
_SQLSTATE = ord("C")


class RequestFailed(Exception):
    """A statement ended in an error. ``is_broken``: and the connection with it."""

    def __init__(self, kind: ErrorKind, *, is_broken: bool) -> None:
        super().__init__(kind.message)
        self.kind = kind
        self.is_broken = is_broken


class Driver(Protocol):
    """What is done on a connection; each raises StatementFailed."""

    connection_class: Any

    def run(self, connection: Any, seconds: float) -> None:
        """The workload's statement; ``seconds`` is what it is to take, for those that can be told."""

    def begin(self, connection: Any) -> None:
        """Have the statements that follow in one transaction."""

    def script(self, connection: Any, sql: str) -> None:
        """Some statements, separated by semicolons."""

    def leave_unread(self, connection: Any) -> None:
        """Ask for more rows than fit on the way, and read none of them."""


class Psycopg:
    """By libpq's own blocking calls and without psycopg's cursor: the same statement at a third of the cost, and with
    many threads in a process that is time under the interpreter's lock, in which each delays the others. One call
    lets go of the lock once; psycopg's way around it, to see a Ctrl-C that no pod gets, at every step."""

    def __init__(self, job: Job, watch: PoolMonitor, *, hides_errors: bool = False) -> None:
        from psycopg import Error
        from psycopg.pq import ConnStatus, ExecStatus

        self.connection_class = _psycopg_class(watch, hides_errors)
        self._error = Error
        self._failed = frozenset({ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE, ExecStatus.NONFATAL_ERROR})
        self._bad = ConnStatus.BAD
        self._statement = statement(job).encode()
        self._parameter = parameter(job)
        self._is_prepared = job.prepared

    def run(self, connection: Any, seconds: float) -> None:
        pgconn = connection.pgconn
        values = None if self._parameter is None else [self._parameter(seconds).encode()]
        if self._is_prepared:
            if not connection.is_prepared:
                self._execute(pgconn, pgconn.prepare, _NAME, self._statement)
                connection.is_prepared = True
            self._execute(pgconn, pgconn.exec_prepared, _NAME, values)
        elif values is None:
            self._execute(pgconn, pgconn.exec_, self._statement)
        else:
            self._execute(pgconn, pgconn.exec_params, self._statement, values)

    def begin(self, connection: Any) -> None:
        self.script(connection, "BEGIN")

    def script(self, connection: Any, sql: str) -> None:
        self._execute(connection.pgconn, connection.pgconn.exec_, sql.encode())

    def leave_unread(self, connection: Any) -> None:
        try:
            connection.pgconn.send_query(UNREAD_ROWS.encode())
        except self._error as error:
            raise self._failure(connection.pgconn, str(error), None) from None

    def _execute(self, pgconn: Any, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            result = call(*arguments)
        except self._error as error:
            raise self._failure(pgconn, str(error), error.sqlstate) from None
        except MemoryError:
            # What psycopg makes of libpq's giving no result at all: the statement could not even be sent.
            raise self._failure(pgconn, pgconn.get_error_message(), None) from None
        if result.status not in self._failed:
            return
        if pgconn.status == self._bad:
            # The result is only the last word, libpq's own; the server's, from before, are here.
            raise self._failure(pgconn, pgconn.get_error_message(), None)
        state = (result.error_field(_SQLSTATE) or b"").decode() or None
        raise self._failure(pgconn, result.error_message.decode(errors="replace"), state)

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

    def __init__(self, job: Job, watch: PoolMonitor) -> None:
        import psycopg2

        self.connection_class = _psycopg2_class(watch)
        self._error = psycopg2.Error
        self._statement = statement(job)
        self._parameter = parameter(job)
        self._end = threading.Event()

    def run(self, connection: Any, seconds: float) -> None:
        if self._parameter is None:
            self.script(connection, self._statement)
        else:
            self.script(connection, self._statement.replace("$1", f"'{self._parameter(seconds)}'"))

    def begin(self, connection: Any) -> None:
        # As psycopg2 does it: the next statement begins a transaction.
        connection.autocommit = False

    def script(self, connection: Any, sql: str) -> None:
        try:
            connection.cursor().execute(sql)
        except self._error as error:
            kind = classify(str(error), type(error).__name__, error.pgcode)
            raise RequestFailed(kind, is_broken=bool(connection.closed)) from None

    def leave_unread(self, connection: Any) -> None:
        """psycopg2 has no call that sends without reading: a thread of its own is stuck in the midst of a COPY."""

        def copy() -> None:
            try:
                connection.cursor().copy_expert(f"COPY ({UNREAD_ROWS}) TO STDOUT", _Blocked(self._end))
            except (self._error, OSError):
                # Of the server's end, or of ours.
                return

        threading.Thread(target=copy, daemon=True, name="unread rows").start()

    def end(self) -> None:
        """Let the threads with unread rows go."""
        self._end.set()


class _Blocked:
    """A file that takes nothing until the end."""

    def __init__(self, end: threading.Event) -> None:
        self._end = end

    def write(self, data: bytes) -> None:
        self._end.wait()
        raise OSError("these rows are never read")


def _psycopg_class(watch: PoolMonitor, hides_errors: bool) -> Any:
    import psycopg
    from psycopg.pq import ConnStatus

    class WatchedConnection(psycopg.Connection[Any]):
        is_counted = False
        is_prepared = False
        is_dropped = False
        """Its last reference was dropped on purpose."""
        keeps_slot = False
        """And its pool will never know."""

        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Any:
            try:
                with watch.open_connection():
                    connection = super().connect(conninfo, **options)
            except psycopg.Error as error:
                if hides_errors:
                    watch.hidden_error(classify(str(error), type(error).__name__, error.sqlstate))
                raise
            connection.is_counted = True
            return connection

        def close(self) -> None:
            if self.is_counted:
                self.is_counted = False
                watch.closed(_reason(watch, self.pgconn.status == ConnStatus.BAD, self.is_dropped))
            super().close()

        def __del__(self, *_: Any) -> None:
            # Instead of psycopg's own, which warns of what is done here on purpose.
            if not self.is_counted:
                return
            self.is_counted = False
            is_broken = self.pgconn.status == ConnStatus.BAD
            self.pgconn.finish()
            watch.closed(
                "error" if is_broken else watch.dropped_reason,
                frees_slot=not self.keeps_slot,
                ends_use=self.is_dropped and not self.keeps_slot,
            )

    return WatchedConnection


def _psycopg2_class(watch: PoolMonitor) -> Any:
    import psycopg2.extensions

    class WatchedConnection(psycopg2.extensions.connection):
        is_counted = False

        def __init__(self, dsn: str, *options: Any, **more: Any) -> None:
            with watch.open_connection():
                super().__init__(dsn, *options, **more)
            self.is_counted = True
            self.autocommit = True

        def close(self) -> None:
            if self.is_counted:
                self.is_counted = False
                watch.closed(_reason(watch, bool(self.closed), False))
            super().close()

        def __del__(self) -> None:
            if self.is_counted:
                self.is_counted = False
                watch.closed("error" if self.closed else watch.dropped_reason)

    return WatchedConnection


def _reason(watch: PoolMonitor, is_broken: bool, is_dropped: bool) -> str:
    if is_broken:
        return "error"
    if is_dropped:
        return watch.dropped_reason
    return watch.closing_reason()
