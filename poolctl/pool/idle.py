"""The idle connections of a pool, and which of them an acquire takes.

Most libraries take the last released or the one idle longest. The others keep something in mind, each in its own way.
"""

from poolctl.pool.answers import Connection
from poolctl.pool.settings import PoolRules


class Idle:
    """Last in, first out, or first in, first out. ``connections`` is in the order in which they were released."""

    def __init__(self, rules: PoolRules) -> None:
        self.connections: list[Connection] = []
        self.at = -1 if rules.idle_order == "lifo" else 0
        """From which end of the list an acquire takes."""

    def pick(self, last: Connection | None) -> Connection:
        """Take out the one for an acquire; ``last`` is the one that its thread used last."""
        return self.connections.pop(self.at)

    def remove(self, connection: Connection) -> None:
        """Take out ``connection``."""
        self.connections.remove(connection)

    def end_sweep(self) -> None:
        """Note that a sweep has looked at all of them."""


class IdleByThread(Idle):
    """A thread gets its own last connection if that is idle, and otherwise the oldest (HikariCP, ConcurrentBag)."""

    def pick(self, last: Connection | None) -> Connection:
        if last not in self.connections or last is None:
            # Of those opened together, the one that was asked for first: min() keeps the order of the list.
            last = min(self.connections, key=_opened_at)
        self.connections.remove(last)
        return last


class IdleGenerations(Idle):
    """Last in, first out among those released since the last sweep, after the older ones (puddle, genstack)."""

    def __init__(self, rules: PoolRules) -> None:
        super().__init__(rules)
        self._old = 0
        """How many, from the front, were idle at the last sweep."""

    def pick(self, last: Connection | None) -> Connection:
        if not self._old:
            return self.connections.pop()
        self._old -= 1
        return self.connections.pop(self._old)

    def remove(self, connection: Connection) -> None:
        at = self.connections.index(connection)
        if at < self._old:
            self._old -= 1
        del self.connections[at]

    def end_sweep(self) -> None:
        self._old = len(self.connections)


class IdleLowMark(Idle):
    """First in, first out, with the lowest number of idle connections since the last sweep (psycopg_pool)."""

    def __init__(self, rules: PoolRules) -> None:
        super().__init__(rules)
        self.lowest = 0

    def pick(self, last: Connection | None) -> Connection:
        connection = self.connections.pop(self.at)
        self.lowest = min(self.lowest, len(self.connections))
        return connection

    def end_sweep(self) -> None:
        self.lowest = len(self.connections)


def new_idle(rules: PoolRules) -> Idle:
    """Return the idle connections of a pool with these rules: none yet."""
    if rules.by_thread:
        return IdleByThread(rules)
    if rules.generations:
        return IdleGenerations(rules)
    if rules.idle_closing == "one":
        return IdleLowMark(rules)
    return Idle(rules)


def _opened_at(connection: Connection) -> float:
    return connection.opened_at
