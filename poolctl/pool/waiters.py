"""The queue of a pool: who waits, who is next, and whom a CoDel queue drops."""

from collections import OrderedDict
from collections.abc import Iterator
from math import inf
from random import Random

from poolctl.pool.answers import Request


class Waiters:
    """The requests in the queue and since when each waits. Every operation takes constant time."""

    def __init__(self, order: str, random: Random) -> None:
        self._pick_at_random = order == "random"
        self._is_lifo = order == "lifo"
        self._random = random
        self.since: OrderedDict[Request, float] = OrderedDict()
        """Since when each waits, in the order they came; for reading only."""
        self._order: list[Request] = []
        self._place: dict[Request, int] = {}

    def add(self, request: Request, now: float) -> None:
        """Append ``request``. Raises ValueError when it is None or waits already."""
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
                return self.since.popitem(last=self._is_lifo)
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

    @property
    def requests(self) -> list[Request]:
        """All of them, in the order in which they are picked from."""
        return self._order if self._pick_at_random else list(self.since)

    def first_since(self) -> float:
        """Return since when the one who came first waits. The queue must not be empty."""
        return next(iter(self.since.values()))


class CoDel:
    """The queue of DBConnection (connection_pool.ex): controlled delay, "CoDel" of Nichols and Jacobson (2012).

    It is slow when the shortest delay of an interval was above the target. While it is slow, requests that have
    waited for more than twice the target are dropped.
    """

    def __init__(self, target: float, interval: float, waiters: Waiters) -> None:
        self._target, self.interval, self._waiters = target, interval, waiters
        self._shortest_delay = self._judges_at = 0.0
        self._is_slow = False
        self._polled_at: float | None = None
        """When the queue was looked at without a release; None: no poll is planned, since no request waits."""

    def start(self, now: float) -> bool:
        """Note that a request waits; return whether polls have to begin."""
        if self._polled_at is not None:
            return False
        self._polled_at = now
        return True

    def drop_at_release(self, now: float) -> Iterator[Request]:
        """Take the requests that a release drops out of the queue, before it serves the next."""
        if now >= self._judges_at:
            self._judge(inf, now)
        elif self._is_slow:
            yield from self._overdue(now)
        first = self._waiters.first_since() if self._waiters.since else now
        self._shortest_delay = min(self._shortest_delay, now - first)

    def drop_at_poll(self, now: float) -> Iterator[Request]:
        """Take the requests that a poll drops out of the queue: it judges when no release did so for an interval."""
        first = self._waiters.first_since()
        if self._polled_at is not None and first <= self._polled_at and now >= self._judges_at:
            self._judge(now - first, now)
            if self._is_slow:
                yield from self._overdue(now)
        self._polled_at = first

    def stop(self) -> None:
        """Note that no request waits, and no poll is planned."""
        self._polled_at = None

    def _judge(self, shortest_delay: float, now: float) -> None:
        self._is_slow = self._shortest_delay > self._target
        self._shortest_delay, self._judges_at = shortest_delay, now + self.interval

    def _overdue(self, now: float) -> Iterator[Request]:
        while self._waiters.since and now - self._waiters.first_since() > 2 * self._target:
            yield next(iter(self._waiters.since))
