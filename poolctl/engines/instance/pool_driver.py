"""The interface to a real pool library: acquire, work, release, or leak.

Decides what all libraries have in common: how an acquire can end, and what a leak is. The caller acquires a connection
with ``acquire`` and then records that in the PoolMonitor, under the monitor's lock and together with its own counts;
likewise after ``release``. The driver itself cannot do so, because it returns to the caller without the lock.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from poolctl.engines.instance.error_origin import is_refusal
from poolctl.engines.instance.monitored_connections import Driver, RequestFailed
from poolctl.engines.instance.pool_monitor import LiveRequest, PoolMonitor
from poolctl.engines.instance.statements import LONG_HOLD_BEAT
from poolctl.engines.workload import Job
from poolctl.pool import PoolStats
from poolctl.scenario.run import ErrorKind


class NotAcquired(Exception):
    """An acquire ended without a connection. ``at_once``: the pool refused it instead of letting it wait."""

    def __init__(self, kind: ErrorKind, *, timed_out: bool = False, at_once: bool = False) -> None:
        super().__init__(kind.message)
        self.kind = kind
        self.timed_out = timed_out
        self.at_once = at_once

    @property
    def is_shortage(self) -> bool:
        """True if no connection was free, False for any other error."""
        return self.timed_out or is_refusal(self.kind)


class FreePath(NamedTuple):
    """The calls of a library for requests that find a free connection. They raise as the PoolDriver's own do.

    ``idle``: the library's idle connections, which the library itself changes; empty: a request would have to wait.
    """

    idle: Collection[Any]
    acquire: Callable[[], Any]
    run: Callable[[Any], None]
    release: Callable[[Any], None]


class SlotLost(Exception):
    """The library failed to take a connection back, and counts it as in use without end."""

    def __init__(self, kind: ErrorKind) -> None:
        super().__init__(kind.message)
        self.kind = kind


class PoolDriver(ABC):
    """A pool with its driver, and what all libraries share. Only a library knows the type of its connections."""

    driver: Driver

    def __init__(self, job: Job, monitor: PoolMonitor) -> None:
        self.monitor = monitor
        self.settings = job.scenario.pool
        self.conninfo = job.conninfo
        self._leaked: list[Any] = []
        self._long_holds: list[Any] = []
        self._beat_lock = threading.Lock()
        self._ending = threading.Event()

    def start(self) -> None:  # noqa: B027 - most libraries have nothing to do
        """Do what an application does with the pool when it starts."""

    @abstractmethod
    def acquire(self, request: LiveRequest) -> Any:
        """Acquire a connection. Raises NotAcquired."""

    @abstractmethod
    def release(self, connection: Any, *, is_broken: bool = False) -> None:
        """Release a connection in the library's own way. Raises SlotLost if the library did not take it."""

    def find_free_path(self) -> FreePath | None:
        """Return the calls for requests that find a free connection; None: there are none, or not yet."""
        return None

    def run(self, connection: Any, seconds: float) -> None:
        """Run the statement of the workload, see Driver. Raises RequestFailed."""
        self.driver.run(connection, seconds)

    def begin(self, connection: Any) -> None:
        """Begin a transaction. Raises RequestFailed."""
        self.driver.begin(connection)

    def script(self, connection: Any, sql: str) -> None:
        """Run other statements, separated by semicolons. Raises RequestFailed."""
        self.driver.script(connection, sql)

    def leak(self, connection: Any, shape: str) -> None:
        """Leave ``connection`` unreleased in the state of ``shape``. Raises RequestFailed.

        For "dropped-reference" the references of the caller and of this call must be the only ones. For
        "in-transaction" the caller has begun the transaction.
        """
        if shape == "dropped-reference":
            self.drop(connection)
            return
        if shape == "unread-rows":
            self.leave_unread(connection)
        elif shape == "long-hold":
            self.script(connection, "BEGIN; SELECT 1")
            self._long_holds.append(connection)
            # Acquired once and never released: the first long hold starts the one thread for all of them.
            if self._beat_lock.acquire(blocking=False):
                threading.Thread(target=self._renew_transactions, daemon=True, name="long holds").start()
        # A reference for the rest of the process, or the garbage collector would close the leaked connection.
        self._leaked.append(connection)

    def stats(self, now: float) -> PoolStats:
        """Return the snapshot, with the library's own count of slots. The monitor's lock must be held."""
        return self.monitor.stats(now)

    def close(self) -> None:
        """Close the pool and its idle connections. Connections in use are closed when they are released."""
        self._ending.set()
        self.monitor.closing_reason = lambda: "other"

    def leave_unread(self, connection: Any) -> None:
        self.driver.leave_unread(connection)

    def drop(self, connection: Any) -> None:
        """Mark a connection whose last reference the caller drops next, so that its closing is counted as reclaimed."""
        connection.is_dropped = True

    def _renew_transactions(self) -> None:
        """Begin a new transaction on each long hold every ``LONG_HOLD_BEAT`` seconds."""
        while not self._ending.wait(LONG_HOLD_BEAT):
            # A copy: other threads add long holds meanwhile.
            for connection in list(self._long_holds):
                try:
                    self.script(connection, "COMMIT; BEGIN; SELECT 1")
                except RequestFailed:
                    self._long_holds.remove(connection)
