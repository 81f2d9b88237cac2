"""The requests of one thread that found a free connection, noted without a lock and counted later, many together.

Decides what is noted of a request. When a thread may serve requests this way is decided in ``threads``; PoolMonitor
and RequestCounter count them as if each had been counted at once. Times are nanoseconds of time.monotonic_ns(): to
count whole numbers takes two thirds of the time.
"""

from operator import sub
from typing import NamedTuple


class Noted(NamedTuple):
    """What a log has got since it was last read. ``waits`` and ``uses`` are how long each acquire and each use took.

    ``counted``: the requests were due after the warm-up. ``acquires`` and ``releases``: when, in their order.
    ``in_use_time``: the sum of the releases less the sum of the acquires, see ``PoolMonitor``. ``last_release``: 0 if
    there is none.
    """

    counted: bool
    times: list[int]
    begins_in_use: bool
    waits: list[int]
    uses: list[int]
    in_use_time: int
    last_release: int

    @property
    def acquires(self) -> list[int]:
        return self.times[self.begins_in_use :: 2]

    @property
    def releases(self) -> list[int]:
        return self.times[not self.begins_in_use :: 2]


class RequestLog:
    """The instants of requests in turn: acquired, released, acquired, released ...

    Each request is due when the one before it is released, and the first at ``begins_at``. Its thread calls ``note``
    and takes no lock. Any thread may call ``take`` meanwhile, under the monitor's lock.
    """

    __slots__ = ("_times", "counted", "is_in_use", "latest", "note")

    def __init__(self, begins_at: int, counted: bool) -> None:
        self.counted = counted
        self.latest = begins_at
        """The last instant that was taken."""
        self.is_in_use = False
        """True if that was an acquire."""
        self._times: list[int] = []
        self.note = self._times.append

    def take(self) -> Noted:
        """Return what was noted since the last call."""
        # Both are atomic in CPython, and the thread only appends: nothing is lost, nothing is taken twice.
        times = self._times[:]
        del self._times[: len(times)]
        begins_in_use, before = self.is_in_use, self.latest
        spans = list(map(sub, times, [before, *times]))
        waits, uses = spans[begins_in_use::2], spans[not begins_in_use :: 2]
        if times:
            self.latest = times[-1]
            self.is_in_use ^= bool(len(times) % 2)
        # Each release less its own acquire, but for the acquires that are in another part of the log.
        in_use_time = sum(uses) + before * begins_in_use - self.latest * self.is_in_use
        last_release = times[-1 - self.is_in_use] if uses else 0
        return Noted(self.counted, times, begins_in_use, waits, uses, in_use_time, last_release)
