"""Watches the pool of a real library from outside, and keeps the numbers that the library does not.

Decides what counts as open, in use, waiting and exhausted when a library runs the pool; the library decides who gets
a connection. A pool is exhausted from when a request finds nothing free in a full pool, or is turned away (by
psycopg2's pool at once, or by the server), until a release, or an acquire that leaves nobody in the queue. That those
who waited gave up does not end it. Times are seconds on the run's clock, which stands at 0 until the run begins.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import NamedTuple

from poolctl.pool import Closed, PoolStats
from poolctl.scenario.run import ErrorKind


class Request:
    """Somebody who acquires. ``due``: when the present acquire was wanted; ``queued_at``: since when it waits in the
    library's queue, None when it does not."""

    __slots__ = ("acquired_at", "counted", "due", "holds", "lag", "leaks", "queued_at")

    def __init__(self, due: float = 0.0, holds: list[float] | None = None) -> None:
        self.due = due
        self.holds = holds or []
        self.acquired_at = 0.0
        self.counted = True
        self.leaks = False
        self.lag: float | None = None
        self.queued_at: float | None = None


class _Closing(NamedTuple):
    reason: str
    at: float
    frees_slot: bool
    ends_use: bool


class PoolMonitor:
    """``lock`` guards everything here; methods that say so are called with it held.

    Closings are only noted and counted later: the garbage collector may close a connection in the middle of any
    statement, also of one that holds the lock.
    """

    def __init__(self, max_open: int = 0) -> None:
        self.lock = threading.Lock()
        self.clock: Callable[[], float] = lambda: 0.0
        self.asking: dict[Request, None] = {}
        """Requests that want a connection and have neither got it nor given up."""
        self.on_opened: Callable[[float, float], None] = lambda connect_time, now: None
        """Told of each opening, with the lock held."""
        self.on_error: Callable[[ErrorKind, float], None] = lambda kind, now: None
        """Told, with the lock held, of errors that the library keeps from those who acquire."""
        self.closing_reason: Callable[[], str] = lambda: "other"
        """Why the library closes a connection here and now, asked by the thread that does."""
        self.dropped_reason = "leak_reclaimed"
        """Why the garbage collector closes a connection."""
        self.has_queue = True
        """Whether requests wait in the library when the pool is full."""
        self._max_open = max_open
        self._queued: dict[Request, None] = {}
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
        """Connections being opened now, by whichever thread."""
        return len(self._opening)

    @contextmanager
    def open_connection(self) -> Iterator[None]:
        """Count what happens inside as one opening."""
        ident = get_ident()
        with self.lock:
            self._settle()
            self._opening[ident] = None
            self._open += 1
            self._open_area -= self.clock()
            self._peak_open = max(self._peak_open, self._open)
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

    def hidden_error(self, kind: ErrorKind) -> None:
        """An opening failed in the background, where the library tells nobody."""
        with self.lock:
            self.on_error(kind, self.clock())

    def closed(self, reason: str, *, frees_slot: bool = True, ends_use: bool = False) -> None:
        """A connection is closed. ``frees_slot``: the pool knows; ``ends_use``: it was in use until now.

        Needs no lock: see the class.
        """
        self._closings.append(_Closing(reason, self.clock(), frees_slot, ends_use))

    def reclaimed(self) -> None:
        """A connection in use came back to the pool by itself, through the garbage collector."""
        self._closings.append(_Closing("", self.clock(), False, True))

    def queue(self, request: Request) -> None:
        """``request`` finds no connection free, and waits for one in the library."""
        with self.lock:
            now = self.clock()
            request.queued_at = now
            self._queued[request] = None
            self._queued_count += 1
            if self._in_use >= self._max_open > 0:
                self._exhaust(now)

    def acquired(self, request: Request, now: float) -> None:
        """Lock held."""
        if self._closings:
            self._settle()
        self.asking.pop(request, None)
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

    def missed(self, request: Request, now: float, *, for_lack: bool) -> None:
        """An acquire ended without a connection; ``for_lack`` of one, or because of another error. Lock held."""
        self.asking.pop(request, None)
        if request.queued_at is not None:
            self._leave_queue(request, now - request.queued_at)
        if for_lack:
            self._exhaust(now)

    def released(self, now: float) -> None:
        """Lock held."""
        self._in_use -= 1
        self._in_use_area += now
        if self._exhausted_since is not None and not self._queued:
            self._recover(now)

    def stats(self, now: float, library_open: int | None = None) -> PoolStats:
        """The snapshot. ``library_open``: how many slots the library itself takes for taken, the ones that it lost
        to a leak and those whose opening it means to try again included; None: as watched. Lock held.
        """
        self._settle()
        open_ = self._open if library_open is None else library_open
        opening = min(self.opening + max(0, open_ - self._open), max(0, open_ - self._in_use))
        idle = max(0, open_ - self._in_use - opening)
        waiting = len(self._queued)
        if self.has_queue and not idle and open_ >= self._max_open > 0:
            # A request may lose the free connection that it saw to another one, and waits without having queued.
            waiting = max(waiting, len(self.asking) - self.opening)
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

    def _leave_queue(self, request: Request, waited: float) -> None:
        del self._queued[request]
        self._queued_time += waited

    def _exhaust(self, now: float) -> None:
        if self._exhausted_since is None:
            self._exhausted_since = now
            self._recovered_at = None
            if self._exhausted_at is None:
                self._exhausted_at = now

    def _recover(self, now: float) -> None:
        if self._exhausted_since is not None:
            self._exhausted_time += now - self._exhausted_since
            self._exhausted_since = None
            self._recovered_at = now

    def _settle(self) -> None:
        """Count the closings noted since the last time."""
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
