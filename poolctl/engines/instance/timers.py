"""Functions to call at given times of the run's clock."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Act = Callable[[Any, float], None]


class Timers:
    """A heap of (at, sequence, act, argument).

    The sequence number keeps the order of calls with equal times, and spares the heap a comparison of functions.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act, Any]] = []
        self._sequence = 0

    def at(self, at: float, act: Act, argument: Any = None) -> None:
        """Call ``act(argument, now)`` at ``at``, or as soon as possible after it."""
        self._sequence += 1
        heappush(self._heap, (at, self._sequence, act, argument))

    def run_due(self, now: float) -> None:
        """Make the calls that are due at ``now``, those included that they add for ``now`` or earlier."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, act, argument = heappop(heap)
            act(argument, now)

    def next_at(self) -> float:
        """Return the time of the next call, infinity if there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def holds_any(self, acts: tuple[Act, ...]) -> bool:
        """Return True if a call of one of ``acts`` is still to come."""
        return any(act in acts for _, _, act, _ in self._heap)
