"""Virtual time: what happens when, and in which order at the same instant.

Contract with the compiled kernel (_kernel.c), which must give the same Run, bit for bit:

- The order at equal times: the end of a job of the server, a timer (in the order they were set), a deadline, an
  arrival. Before any of them the clients that are ready continue, in the order in which they became ready.
- Random numbers: MT19937 as in ``random.Random``, seeded with f"{seed}/arrivals", "/holds", "/thinks", "/pool" and
  "/server"; exponential -log(1 - u) * mean, lognormal by Box and Muller (``draw``), a pick among n int(u * n).
  An arrival draws its instance (when there are several), then the gap to the next; an acquire that succeeds draws its
  hold, then hold_outside (when it has a mean); an opening draws its time; a new connection its lifetime's jitter.
- Sums are added in the order of events; what is in use is added up in the order in which the openings began.
- The records of clients that make one request are used again last in, first out: a thread keeps its last connection.
- What grows without end is cut off at a sample. A standstill is left to the plain kernel, which counts its events.
"""

from collections import deque
from collections.abc import Callable
from heapq import heappush
from math import cos, exp, inf, log, pi, sqrt
from typing import Any

from poolctl.engines.model.plan import EXPONENTIAL, LOGNORMAL, Times

MOST_WAITING = 250_000
"""Waiting requests at which a run is cut off: the queue of an overload without a timeout grows for ever."""

STANDSTILL = 500_000
"""Events without any progress of time at which a run is cut off, plus 20 for each client."""

PROGRESS = 1e-3
"""Seconds of the run's clock that are progress. Not any at all: acquires that time out at once take no time either."""

MOST_ROWS = 4_000
"""Rows of the timeline; past it every other row is dropped and the interval doubled."""

STREAMS = ("arrivals", "holds", "thinks", "pool", "server")
"""A stream of random numbers for each purpose, so that variants of a scenario meet the same arrivals."""

Happening = Callable[[Any, float], object]
"""What a timer calls, with its subject and the time."""


class Clock:
    """The time, the timers in a heap, and the clients whose next step is due now."""

    __slots__ = ("is_over", "next_arrival", "next_deadline", "now", "ready", "sequence", "timers")

    def __init__(self) -> None:
        self.now = 0.0
        self.sequence = 0
        # Never empty, so that the loop need not ask.
        self.timers: list[tuple[float, int, Happening, Any]] = [(inf, 0, print, None)]
        self.ready: deque[Any] = deque()
        self.next_deadline = self.next_arrival = inf
        """Kept apart from the timers, so that the heap holds only what is in flight."""
        self.is_over = False

    def at(self, time: float, happening: Happening, subject: Any) -> None:
        """Call ``happening(subject, time)`` at ``time``."""
        self.sequence += 1
        heappush(self.timers, (time, self.sequence, happening, subject))

    def after(self, delay: float, happening: Happening, subject: Any) -> None:
        """Call ``happening`` in ``delay`` seconds."""
        self.sequence += 1
        heappush(self.timers, (self.now + delay, self.sequence, happening, subject))


def draw(times: Times, random: Callable[[], float]) -> float:
    """Draw a time from a distribution."""
    kind = times[0]
    if kind == EXPONENTIAL:
        return -log(1.0 - random()) * times[1]
    if kind == LOGNORMAL:
        # Box and Muller: two draws always, which the compiled kernel can repeat.
        radius = sqrt(-2.0 * log(1.0 - random()))
        return exp(times[2] + times[3] * radius * cos(2.0 * pi * random()))
    return times[1]
