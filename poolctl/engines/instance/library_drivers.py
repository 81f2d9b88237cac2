"""The real pool libraries behind one interface (``pool_driver``), each imported only when it is used.

Decides how poolctl's settings are passed to each library, and what its errors mean. The library itself decides which
client gets a connection, which waits, and what is closed.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from threading import get_ident
from typing import Any, NoReturn, cast

from poolctl.engines.instance.error_origin import classify
from poolctl.engines.instance.monitored_connections import Psycopg, Psycopg2
from poolctl.engines.instance.pool_driver import FreePath, NotAcquired, PoolDriver, SlotLost
from poolctl.engines.instance.pool_monitor import LiveRequest, PoolMonitor
from poolctl.engines.workload import Job
from poolctl.errors import MissingProgram
from poolctl.pool import PoolStats
from poolctl.scenario.run import ErrorKind

_POOL_NAME = "pool"

FOR_EVER = 1e8
"""Seconds, some three years: "off" for a library that has no such value. A timeout of Python's locks is at most 9e9."""


def open_library(job: Job, monitor: PoolMonitor) -> PoolDriver:
    """Create the pool of ``job``, without starting it. Raises MissingProgram if the library is not installed."""
    library = job.scenario.pool.kind
    try:
        return _DRIVERS[library](job, monitor)
    except ImportError as error:
        raise MissingProgram(
            f"a {library} pool needs the Python package {error.name}, which is not installed",
            hint='pip install "poolctl[pools]"',
        ) from error


def preload(library: str) -> None:
    """Import the packages of ``library`` ahead. ``open_library`` reports a package that is missing."""
    with suppress(ImportError):
        import_packages(library)


def import_packages(library: str) -> None:
    """Import the packages of ``library``. Raises ImportError."""
    for name in ("psycopg", *_PACKAGES.get(library, ())):
        import_module(name)


class PsycopgPool(PoolDriver):
    """psycopg_pool.ConnectionPool.

    Its workers open the connections. No client sees their errors, so these are reported as hidden. The slot of a
    connection whose reference was dropped never comes back.
    """

    def __init__(self, job: Job, monitor: PoolMonitor) -> None:
        super().__init__(job, monitor)
        from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

        # Without a handler, Python prints every warning of the library: one for each opening that fails.
        logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
        settings = self.settings
        self.driver = Psycopg(job, monitor, hides_errors=True)
        self._timeout, self._ended, self._too_many = PoolTimeout, PoolClosed, TooManyRequests
        monitor.closing_reason = _reason_in_psycopg_pool
        self._pool = ConnectionPool(
            self.conninfo,
            name=_POOL_NAME,
            connection_class=self.driver.connection_class,
            kwargs={"autocommit": True},
            min_size=settings.min_idle,
            max_size=settings.max_open,
            open=False,
            timeout=_none_to_for_ever(settings.acquire_timeout),
            max_waiting=settings.max_waiting,
            max_lifetime=_none_to_for_ever(settings.max_lifetime),
            max_idle=_none_to_for_ever(settings.max_idle_time),
        )
        # The idle connections. get_stats() would build a dictionary at every acquire.
        self._idle = self._pool._pool

    def start(self) -> None:
        """Start to fill the pool in the background."""
        self._pool.open(wait=False)

    def acquire(self, request: LiveRequest) -> Any:
        request.queued_at = None
        if not self._idle:
            self.monitor.queue(request)
        return self._getconn()

    def find_free_path(self) -> FreePath:
        return FreePath(self._idle, self._getconn, self.driver.bind(0.0), self._pool.putconn)

    def _getconn(self) -> Any:
        try:
            return self._pool.getconn()
        except self._timeout as error:
            raise NotAcquired(ErrorKind("pool", "PoolTimeout", None, str(error)), timed_out=True) from None
        except self._too_many as error:
            kind = ErrorKind("pool", "TooManyRequests", None, str(error))
            raise NotAcquired(kind, timed_out=True, at_once=True) from None
        except self._ended as error:
            raise NotAcquired(ErrorKind("pool", "PoolClosed", None, str(error))) from None

    def release(self, connection: Any, *, is_broken: bool = False) -> None:
        if is_broken:
            # The library drops a broken connection without closing it. This call only counts it.
            connection.close()
        self._pool.putconn(connection)

    def stats(self, now: float) -> PoolStats:
        return self.monitor.stats(now, self._pool.get_stats()["pool_size"])

    def close(self) -> None:
        super().close()
        self._pool.close(timeout=1.0)

    def drop(self, connection: Any) -> None:
        connection.is_dropped = connection.keeps_slot = True


def _reason_in_psycopg_pool() -> str:
    """Return why psycopg_pool closes a connection in this thread.

    Its own workers close a connection that was idle for too long. The releasing client closes one that is too old.
    """
    return "max_idle_time" if threading.current_thread().name.startswith(_POOL_NAME) else "max_lifetime"


class Psycopg2Pool(PoolDriver):
    """psycopg2.pool.ThreadedConnectionPool, which has no queue: a full pool refuses at once.

    Its constructor opens ``minconn`` connections and raises if one of them fails. An application would crash and be
    started again; here each acquire repeats the constructor until it succeeds. A dropped reference changes nothing,
    because the pool keeps one itself.
    """

    def __init__(self, job: Job, monitor: PoolMonitor) -> None:
        super().__init__(job, monitor)
        from psycopg2 import Error
        from psycopg2.pool import PoolError, ThreadedConnectionPool

        self._driver = Psycopg2(job, monitor)
        self.driver = self._driver
        self._rejected, self._error = PoolError, Error
        monitor.has_queue = False
        monitor.closing_reason = lambda: "max_idle"
        monitor.dropped_reason = "other"
        self._create_pool: Callable[[], Any] = lambda: ThreadedConnectionPool(
            self.settings.max_idle,
            self.settings.max_open,
            self.conninfo,
            connection_factory=self._driver.connection_class,
        )
        self._pool: Any = None
        # One constructor at a time: two would open the connections twice.
        self._creation = threading.Lock()

    def start(self) -> None:
        try:
            self._get_pool()
        except self._error as error:
            self.monitor.report_hidden_error(classify(str(error), type(error).__name__, error.pgcode))

    def acquire(self, request: LiveRequest) -> Any:
        request.queued_at = None
        return self._getconn()

    def find_free_path(self) -> FreePath | None:
        pool = self._pool
        return None if pool is None else FreePath(pool._pool, self._getconn, self.driver.bind(0.0), self.release)

    def _getconn(self) -> Any:
        try:
            connection = (self._pool or self._get_pool()).getconn()
        except self._rejected as error:
            raise NotAcquired(ErrorKind("pool", "PoolError", None, str(error)), timed_out=True, at_once=True) from None
        except self._error as error:
            raise NotAcquired(classify(str(error), type(error).__name__, error.pgcode)) from None
        if not connection.autocommit:
            connection.autocommit = True
        return connection

    def release(self, connection: Any, *, is_broken: bool = False) -> None:
        try:
            self._pool.putconn(connection, close=is_broken)
        except self._error as error:
            # The backend ended within a transaction: the rollback in putconn() fails, and the slot stays taken.
            raise SlotLost(classify(str(error), type(error).__name__, error.pgcode)) from None

    def stats(self, now: float) -> PoolStats:
        pool = self._pool
        return self.monitor.stats(now, len(pool._used) + len(pool._pool) + self.monitor.opening if pool else None)

    def close(self) -> None:
        super().close()
        self._driver.end()
        for connection in self._pool._pool if self._pool is not None else []:
            connection.close()

    def _get_pool(self) -> Any:
        with self._creation:
            if self._pool is None:
                self._pool = self._create_pool()
            return self._pool

    def drop(self, connection: Any) -> None:
        """Do nothing: the pool's own list keeps the connection."""


class SqlalchemyPool(PoolDriver):
    """SQLAlchemy's QueuePool under create_engine, with psycopg, by ``engine.raw_connection()``.

    A connection without references goes back to the pool through the garbage collector; above pool_size it is closed.
    """

    def __init__(self, job: Job, monitor: PoolMonitor) -> None:
        super().__init__(job, monitor)
        from psycopg import Error
        from sqlalchemy import create_engine
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.exc import TimeoutError as PoolTimeout
        from sqlalchemy.pool import QueuePool

        logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())
        self.driver = Psycopg(job, monitor)
        self._timeout, self._errors = PoolTimeout, (Error, DBAPIError)
        self._releasing: set[int] = set()
        settings = self.settings
        self._max_overflow = settings.max_open - settings.max_idle if settings.max_open else -1
        connect = self.driver.connection_class.connect
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(self.conninfo, autocommit=True),
            poolclass=QueuePool,
            pool_size=settings.max_idle,
            max_overflow=self._max_overflow,
            pool_timeout=settings.acquire_timeout,
            pool_recycle=-1 if settings.max_lifetime is None else settings.max_lifetime,
        )
        # Without overflow no release closes a connection, so release() need not note which thread releases.
        self._may_close = self._max_overflow != 0
        self._listening = threading.Lock()
        monitor.closing_reason = lambda: "max_idle" if get_ident() in self._releasing else "max_lifetime"
        self._pool = cast(Any, self._engine.pool)
        self._idle = self._pool._pool.queue

    def acquire(self, request: LiveRequest) -> Any:
        request.queued_at = None
        pool = self._pool
        # The values of overflow() and checkedin(), without a call and a lock for each.
        if not self._idle and 0 <= self._max_overflow <= pool._overflow:
            self.monitor.queue(request)
        connection = self._get_connection()
        raw: Any = connection.dbapi_connection
        raw.is_dropped = False
        return connection

    def find_free_path(self) -> FreePath:
        run = self.driver.bind(0.0)
        return FreePath(
            self._idle, self._get_connection, lambda connection: run(connection.dbapi_connection), self.release
        )

    def _get_connection(self) -> Any:
        try:
            return self._engine.raw_connection()
        except self._timeout as error:
            raise NotAcquired(ErrorKind("pool", "TimeoutError", None, error.args[0]), timed_out=True) from None
        except self._errors as error:
            _raise_not_acquired(getattr(error, "orig", None) or error)

    def release(self, connection: Any, *, is_broken: bool = False) -> None:
        if is_broken:
            connection.invalidate()
        if not self._may_close:
            connection.close()
            return
        # QueuePool closes in this call what is over pool_size, and asks the monitor for the reason in this thread.
        self._releasing.add(ident := get_ident())
        connection.close()
        self._releasing.discard(ident)

    def close(self) -> None:
        super().close()
        self._engine.dispose()

    def run(self, connection: Any, seconds: float) -> None:
        self.driver.run(connection.dbapi_connection, seconds)

    def begin(self, connection: Any) -> None:
        self.driver.begin(connection.dbapi_connection)

    def script(self, connection: Any, sql: str) -> None:
        self.driver.script(connection.dbapi_connection, sql)

    def leave_unread(self, connection: Any) -> None:
        self.driver.leave_unread(connection.dbapi_connection)

    def drop(self, connection: Any) -> None:
        from sqlalchemy import event

        connection.dbapi_connection.is_dropped = True
        # Not before the first dropped reference: a listener costs time in every request.
        with self._listening:
            if not event.contains(self._engine, "checkin", self._count_return):
                event.listen(self._engine, "checkin", self._count_return)

    def _count_return(self, connection: Any, _: Any) -> None:
        """Count a dropped connection that came back to the pool."""
        if connection is not None and connection.is_dropped:
            self.monitor.record_reclaim()


class NoPool(PoolDriver):
    """No pool: a new connection for every request. The only limit is the server's, which refuses at once."""

    def __init__(self, job: Job, monitor: PoolMonitor) -> None:
        super().__init__(job, monitor)
        from psycopg import Error
        from psycopg.errors import ConnectionTimeout

        self.driver = Psycopg(job, monitor)
        self._timeout, self._error = ConnectionTimeout, Error
        monitor.has_queue = False
        monitor.closing_reason = lambda: "max_idle"
        self._options: dict[str, Any] = {"autocommit": True}
        if self.settings.acquire_timeout is not None:
            # libpq treats a connect_timeout below two seconds as two.
            self._options["connect_timeout"] = max(2, round(self.settings.acquire_timeout))

    def acquire(self, request: LiveRequest) -> Any:
        request.queued_at = None
        try:
            return self.driver.connection_class.connect(self.conninfo, **self._options)
        except self._timeout as error:
            raise NotAcquired(classify(str(error), "ConnectionTimeout"), timed_out=True) from None
        except self._error as error:
            _raise_not_acquired(error)

    def release(self, connection: Any, *, is_broken: bool = False) -> None:
        connection.close()


def _raise_not_acquired(error: Any) -> NoReturn:
    """Raise NotAcquired for ``error``, which psycopg raised because it could not open a connection."""
    raise NotAcquired(classify(str(error), type(error).__name__, getattr(error, "sqlstate", None))) from None


def _none_to_for_ever(time: float | None) -> float:
    return FOR_EVER if time is None else time


_PACKAGES = {
    "psycopg_pool": ("psycopg_pool",),
    "psycopg2": ("psycopg2.pool",),
    "sqlalchemy": ("sqlalchemy", "sqlalchemy.dialects.postgresql.psycopg"),
}

_DRIVERS: dict[str, Callable[[Job, PoolMonitor], PoolDriver]] = {
    "psycopg_pool": PsycopgPool,
    "psycopg2": Psycopg2Pool,
    "sqlalchemy": SqlalchemyPool,
    "none": NoPool,
}
