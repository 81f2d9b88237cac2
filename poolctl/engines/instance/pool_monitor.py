"""Observes the pool of a real library from outside, and keeps the numbers that the library does not keep.

Decides what counts as open, in use, waiting and exhausted; the library decides which client gets a connection. An
exhaustion begins when a request finds no free connection in a full pool or is refused (by psycopg2's pool at once, or
by the server). It ends with a release, or with an acquire that leaves the queue empty. It does not end when the
waiting requests give up. Times are seconds on the run's clock, which stands at 0 until the run begins.
"""

import threading
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import NamedTuple

from poolctl.engines.instance.request_log import Noted, RequestLog
from poolctl.pool import Closed, PoolStats
from poolctl.scenario.run import ErrorKind


class LiveRequest:
    """A request that acquires.

    ``due``: when the present acquire was wanted. ``queued_at``: since when it waits in the library's queue, None: it
    does not. ``is_begun``: it has been counted. ``lag``: how late it began, None: that is already counted.
    """

    __slots__ = ("acquired_at", "counted", "due", "holds", "is_begun", "lag", "leaks", "queued_at")

    def __init__(self, due: float = 0.0, holds: list[float] | None = None) -> None:
        self.due = due
        self.holds = holds or []
        self.acquired_at = 0.0
        self.counted = True
        self.is_begun = False
        self.leaks = False
        self.lag: float | None = None
        self.queued_at: float | None = None


class _Closing(NamedTuple):
    reason: str
    at: float
    frees_slot: bool
    ends_use: bool


class PoolMonitor:
    """The counts of one pool. ``lock`` guards all of them; some methods must be called with the lock held.

    Closings are only noted at first, without the lock, and counted later: the garbage collector may close a
    connection between any two statements, also in a thread that holds the lock. To take it there would be a deadlock.
    """

    def __init__(self, max_open: int = 0) -> None:
        self.lock = threading.Lock()
        self.clock: Callable[[], float] = lambda: 0.0
        self.origin = 0.0
        """time.monotonic() when ``clock`` was 0."""
        self.acquiring: dict[LiveRequest, None] = {}
        """Requests that want a connection and have neither got one nor given up. A dict, for its order."""
        self.on_opened: Callable[[float, float], None] = lambda connect_time, now: None
        """Called for each opening, with the lock held."""
        self.logs: dict[int, RequestLog] = {}
        """By thread: the requests that find a free connection now."""
        self.on_noted: Callable[[Noted], None] = lambda noted: None
        """Called, with the lock held, for what was noted in these logs."""
        self.is_strained = False
        """True if a request is queued or the pool exhausted: then each request must be counted at once."""
        self.on_error: Callable[[ErrorKind, float], None] = lambda kind, now: None
        """Called, with the lock held, for errors that the library hides from the clients."""
        self.closing_reason: Callable[[], str] = lambda: "other"
        """Returns why the library closes a connection; called by the thread that closes it."""
        self.dropped_reason = "leak_reclaimed"
        """Why the garbage collector closes a connection."""
        self.has_queue = True
        """True if requests wait in the library when the pool is full."""
        self._max_open = max_open
        self._queued: dict[LiveRequest, None] = {}
        self._opening: dict[int, None] = {}
        self._closings: deque[_Closing] = deque()
        self._closed: Counter[str] = Counter()
        self._open = self._in_use = self._opened = self._open_failures = 0
        self._peak_open = self._peak_in_use = 0
        self._open_area = self._in_use_area = 0.0
        self._queued_count = 0
        self._queued_time = 0.0
        self._exhausted_at: float | None = None
        self._exhausted_since: float | None = None
        self._recovered_at: float | None = None
        self._exhausted_time = 0.0

    @property
    def opening(self) -> int:
        """Number of connections that are being opened now, by any thread."""
        return len(self._opening)

    @contextmanager
    def open_connection(self) -> Iterator[None]:
        """Count the block as one opening, which fails if the block raises."""
        # By thread: a library opens at most one connection in a thread at a time.
        ident = get_ident()
        with self.lock:
            self._settle()
            self._opening[ident] = None
            self._open += 1
            # An area is the sum over connections of (end - begin): the begin is subtracted now, the end added later.
            self._open_area -= self.clock()
            self._peak_open = max(self._peak_open, self._open)
        # The lock is free while libpq connects, which may take seconds.
        began_at = time.monotonic()
        try:
            yield
        except BaseException:
            with self.lock:
                del self._opening[ident]
                self._open_failures += 1
                self._open -= 1
                self._open_area += self.clock()
            raise
        connect_time = time.monotonic() - began_at
        with self.lock:
            del self._opening[ident]
            self._opened += 1
            self.on_opened(connect_time, self.clock())

    def report_hidden_error(self, kind: ErrorKind) -> None:
        """Count an opening that failed in the background, where the library reports it to no client."""
        with self.lock:
            self.on_error(kind, self.clock())

    def record_close(self, reason: str, *, frees_slot: bool = True, ends_use: bool = False) -> None:
        """Note that a connection is closed. The lock is not needed: see the class.

        ``frees_slot``: the pool notices the closing. ``ends_use``: the connection was in use until now.
        """
        # deque.append() is atomic in CPython.
        self._closings.append(_Closing(reason, self.clock(), frees_slot, ends_use))

    def record_reclaim(self) -> None:
        """Note that the garbage collector brought a connection in use back to the pool."""
        # No reason: nothing was closed.
        self._closings.append(_Closing("", self.clock(), False, True))

    def queue(self, request: LiveRequest) -> None:
        """Count a request that finds no free connection and waits for one in the library."""
        with self.lock:
            now = self.clock()
            self.settle_logs()
            request.queued_at = now
            self.is_strained = True
            self._queued[request] = None
            self._queued_count += 1
            if self._in_use >= self._max_open > 0:
                self._exhaust(now)

    def record_acquire(self, request: LiveRequest, now: float) -> None:
        """Count a request that has got its connection. The lock must be held."""
        if self._closings:
            self._settle()
        if self.logs:
            self.settle_logs()
        self.acquiring.pop(request, None)
        if request.queued_at is not None:
            self._leave_queue(request, now - request.queued_at)
        request.acquired_at = now
        self._in_use_area -= now
        self._in_use = in_use = self._in_use + 1
        if in_use > self._peak_in_use:
            self._peak_in_use = in_use
        if self._queued:
            if in_use >= self._max_open > 0:
                self._exhaust(now)
        elif self._exhausted_since is not None:
            self._recover(now)

    def record_failed_acquire(self, request: LiveRequest, now: float, *, is_shortage: bool) -> None:
        """Count an acquire that ended without a connection. The lock must be held.

        ``is_shortage``: no connection was free; False: any other error.
        """
        self.settle_logs()
        self.acquiring.pop(request, None)
        if request.queued_at is not None:
            self._leave_queue(request, now - request.queued_at)
        if is_shortage:
            self._exhaust(now)

    def count_acquiring(self) -> int:
        """Return how many requests want a connection now, as of the last ``settle_logs``. The lock must be held."""
        return len(self.acquiring) + sum(not log.is_in_use for log in self.logs.values())

    def record_release(self, now: float) -> None:
        """Count a release. The lock must be held."""
        self._in_use -= 1
        self._in_use_area += now
        if self._exhausted_since is not None and not self._queued:
            self._recover(now)

    def settle_logs(self) -> None:
        """Count what the threads have noted in their logs since the last call. The lock must be held."""
        if not self.logs:
            return
        logs = list(self.logs.values())
        most = self._in_use + sum(not log.is_in_use for log in logs)
        noted = [log.take() for log in logs]
        # Only as long as the peak can rise: to merge the logs takes longer than all the rest.
        if self._peak_in_use < (min(most, self._max_open) if self._max_open else most):
            self._peak_in_use = max(self._peak_in_use, _find_peak(self._in_use, noted))
        for one in noted:
            in_use = len(one.waits) - len(one.uses)
            self._in_use += in_use
            self._in_use_area += one.in_use_time / 1e9 + in_use * self.origin
            if one.uses and self._exhausted_since is not None and not self._queued:
                self._recover(one.last_release / 1e9 - self.origin)
            self.on_noted(one)

    def stats(self, now: float, library_open: int | None = None) -> PoolStats:
        """Return the snapshot. The lock must be held.

        ``library_open``: how many slots the library itself counts as taken, which includes the ones that it lost to a
        leak and those whose opening it will try again; None: as observed here.
        """
        self._settle()
        self.settle_logs()
        open_ = self._open if library_open is None else library_open
        opening = min(self.opening + max(0, open_ - self._open), max(0, open_ - self._in_use))
        idle = max(0, open_ - self._in_use - opening)
        waiting = len(self._queued)
        if self.has_queue and not idle and open_ >= self._max_open > 0:
            # A request may lose the free connection that it saw to another request. It then waits, although it did
            # not call queue().
            waiting = max(waiting, self.count_acquiring() - self.opening)
        since = self._exhausted_since
        return PoolStats(
            max_open=self._max_open,
            open=self._in_use + idle + opening,
            in_use=self._in_use,
            idle=idle,
            opening=opening,
            waiting=waiting,
            queued_count=self._queued_count,
            queued_time=self._queued_time,
            opened=self._opened,
            open_failures=self._open_failures,
            closed=Closed(**self._closed),
            peak_open=self._peak_open,
            peak_in_use=self._peak_in_use,
            open_time=self._open_area + self._open * now,
            in_use_time=self._in_use_area + self._in_use * now,
            exhausted_at=self._exhausted_at,
            exhausted_since=since,
            recovered_at=self._recovered_at,
            exhausted_time=self._exhausted_time + (now - since if since is not None else 0.0),
        )

    def _leave_queue(self, request: LiveRequest, waited: float) -> None:
        del self._queued[request]
        self._queued_time += waited
        self.is_strained = bool(self._queued) or self._exhausted_since is not None

    def _exhaust(self, now: float) -> None:
        if self._exhausted_since is None:
            self._exhausted_since = now
            self.is_strained = True
            self._recovered_at = None
            if self._exhausted_at is None:
                self._exhausted_at = now

    def _recover(self, now: float) -> None:
        if self._exhausted_since is not None:
            self._exhausted_time += now - self._exhausted_since
            self._exhausted_since = None
            self._recovered_at = now
            self.is_strained = bool(self._queued)

    def _settle(self) -> None:
        """Count the closings that were noted since the last call."""
        while self._closings:
            reason, at, frees_slot, ends_use = self._closings.popleft()
            if reason:
                self._closed[reason] += 1
            if frees_slot:
                self._open -= 1
                self._open_area += at
            if ends_use:
                self._in_use -= 1
                self._in_use_area += at


def _find_peak(in_use: int, noted: list[Noted]) -> int:
    """Return the most connections in use at once, from ``in_use`` on."""
    acquires = sorted(at for one in noted for at in one.acquires)
    releases = sorted(at for one in noted for at in one.releases)
    peak, ended = in_use, 0
    for number, at in enumerate(acquires, start=1):
        ended = bisect_right(releases, at, ended)
        peak = max(peak, in_use + number - ended)
    return peak
