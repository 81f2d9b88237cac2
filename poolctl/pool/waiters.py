"""The queue of a pool. Decides who is next; the pool decides when."""

from collections import OrderedDict
from random import Random

from poolctl.pool.answers import Request


class Waiters:
    """The queue of requests and since when each waits. Every operation takes constant time."""

    def __init__(self, order: str, random: Random) -> None:
        self._pick_at_random = order == "random"
        self._random = random
        self.since: OrderedDict[Request, float] = OrderedDict()
        """Since when each waits, in the order they came; for reading only."""
        self._order: list[Request] = []
        self._place: dict[Request, int] = {}

    def add(self, request: Request, now: float) -> None:
        if request is None or request in self.since:
            raise ValueError("a request cannot be None, nor wait twice")
        self.since[request] = now
        if self._pick_at_random:
            self._place[request] = len(self._order)
            self._order.append(request)

    def pop(self, request: Request | None) -> tuple[Request, float]:
        """Remove ``request`` (KeyError when it is not here) or, with None, the next in order."""
        if not self._pick_at_random:
            if request is None:
                return self.since.popitem(last=False)
            return request, self.since.pop(request)
        if request is None:
            request = self._order[int(self._random.random() * len(self._order))]
        since = self.since.pop(request)
        place, last = self._place.pop(request), self._order.pop()
        if last != request:
            # The last one moves into the gap: order means nothing when the pick is random.
            self._order[place] = last
            self._place[last] = place
        return request, since
