"""The seam between whoever makes requests and a real pool library: acquire, work, release, or leak.

Decides what all libraries have in common: what an acquire can end in, and what a leak is. A request takes its
connection with ``acquire`` and then books it with the Watch, under the Watch's lock, together with whatever else is
counted of it; likewise after ``release``.
"""

import threading
from typing import Any, Protocol

from poolctl.engines.instance.monitored_connections import Driver, RequestFailed
from poolctl.engines.instance.pool_monitor import PoolMonitor, Request
from poolctl.engines.instance.statements import LONG_HOLD_BEAT
from poolctl.engines.live.error_origin import is_refusal
from poolctl.engines.workload import Job
from poolctl.pool import PoolStats
from poolctl.scenario.run import ErrorKind


class NotAcquired(Exception):
    """An acquire ended without a connection. ``at_once``: the pool said no instead of letting it wait."""

    def __init__(self, kind: ErrorKind, *, timed_out: bool = False, at_once: bool = False) -> None:
        super().__init__(kind.message)
        self.kind = kind
        self.timed_out = timed_out
        self.at_once = at_once

    @property
    def for_lack(self) -> bool:
        """Of a connection, and not because of some other error."""
        return self.timed_out or is_refusal(self.kind)


class PoolDriver(Protocol):
    """A pool with its driver. A connection is whatever the library gives; only its own library looks into it."""

    watch: PoolMonitor
    driver: Driver

    def start(self) -> None:
        """What an application does with the pool when it starts."""

    def acquire(self, request: Request) -> Any:
        """A connection. Raises NotAcquired."""

    def release(self, connection: Any, *, is_broken: bool = False) -> None:
        """Give back, as the library wants it. Raises SlotLost when the library did not take it."""

    def run(self, connection: Any, seconds: float) -> None:
        """The workload's statement, see Driver. Raises StatementFailed."""

    def begin(self, connection: Any) -> None:
        """Have the statements that follow in one transaction. Raises StatementFailed."""

    def script(self, connection: Any, sql: str) -> None:
        """Some other statements. Raises StatementFailed."""

    def leak(self, connection: Any, shape: str) -> None:
        """Never give back. For "dropped-reference" the caller's must be the last reference but one, this call's.

        The transaction of "in-transaction" was begun by the caller. Raises StatementFailed.
        """

    def stats(self, now: float) -> PoolStats:
        """The snapshot, as the library sees it. The Watch's lock is held."""

    def close(self) -> None:
        """End the pool: its idle connections are closed, and released ones will be."""


class SlotLost(Exception):
    """The library failed to take a connection back, and counts it as in use for ever."""

    def __init__(self, kind: ErrorKind) -> None:
        super().__init__(kind.message)
        self.kind = kind


class BaseLibrary:
    """What all libraries have in common."""

    driver: Driver

    def __init__(self, job: Job, watch: PoolMonitor) -> None:
        self.watch = watch
        self.settings = job.scenario.pool
        self.conninfo = job.conninfo
        self._leaked: list[Any] = []
        self._long_holds: list[Any] = []
        self._unbeaten = threading.Lock()
        self._ending = threading.Event()

    def start(self) -> None:
        """Nothing, unless the library opens connections ahead."""

    def run(self, connection: Any, seconds: float) -> None:
        self.driver.run(connection, seconds)

    def begin(self, connection: Any) -> None:
        self.driver.begin(connection)

    def script(self, connection: Any, sql: str) -> None:
        self.driver.script(connection, sql)

    def leak(self, connection: Any, shape: str) -> None:
        if shape == "dropped-reference":
            self.drop(connection)
            return
        if shape == "unread-rows":
            self.leave_unread(connection)
        elif shape == "long-hold":
            self.script(connection, "BEGIN; SELECT 1")
            self._long_holds.append(connection)
            # Whoever gets it starts the one thread for all of them.
            if self._unbeaten.acquire(blocking=False):
                threading.Thread(target=self._beat, daemon=True, name="long holds").start()
        self._leaked.append(connection)

    def stats(self, now: float) -> PoolStats:
        return self.watch.stats(now)

    def close(self) -> None:
        self._ending.set()
        self.watch.closing_reason = lambda: "other"

    def leave_unread(self, connection: Any) -> None:
        self.driver.leave_unread(connection)

    def drop(self, connection: Any) -> None:
        """Prepare for the loss of the last reference."""
        connection.is_dropped = True

    def _beat(self) -> None:
        """Long holds work on, and are idle in a transaction that is never the same."""
        while not self._ending.wait(LONG_HOLD_BEAT):
            for connection in list(self._long_holds):
                try:
                    self.script(connection, "COMMIT; BEGIN; SELECT 1")
                except RequestFailed:
                    self._long_holds.remove(connection)
