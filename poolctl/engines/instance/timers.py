"""What is to happen when, on the run's clock."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Act = Callable[[Any, float], None]


class Timers:
    """A heap of (at, sequence, act, argument). The sequence number keeps equal times in the order they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act, Any]] = []
        self._sequence = 0

    def at(self, at: float, act: Act, argument: Any = None) -> None:
        """Call ``act(argument, now)`` once ``at`` has come."""
        self._sequence += 1
        heappush(self._heap, (at, self._sequence, act, argument))

    def run_due(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, act, argument = heappop(heap)
            act(argument, now)

    def next_at(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    def holds_any(self, acts: tuple[Act, ...]) -> bool:
        return any(act in acts for _, _, act, _ in self._heap)
