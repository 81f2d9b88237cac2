"""What a pool does by the clock: how long a connection lives, and which idle ones a sweep closes.

Upkeep only chooses. The pool closes what it chose, and its driver keeps the time.
"""

from collections.abc import Callable
from math import inf
from typing import Literal

from poolctl.pool.answers import Connection
from poolctl.pool.idle import Idle, IdleLowMark
from poolctl.pool.settings import PoolRules, PoolSettings

SHORTEST_CLEANING_INTERVAL = 1.0
"""Seconds between two runs of Go's cleaner at least (sql.go, connectionCleaner, minInterval)."""

MEDIAN_SAMPLES = 30
"""Samples of the number of idle connections that Npgsql takes the median of: idle lifetime over pruning interval."""


Reason = Literal["max_idle_time", "max_lifetime", "max_idle"]

Chosen = list[tuple[Connection, Reason]]
"""Idle connections to close, in this order."""


class Upkeep:
    """The limits on age and idleness of one pool, after the rules of its library."""

    def __init__(self, settings: PoolSettings, rules: PoolRules, idle: Idle, random: Callable[[], float]) -> None:
        self._settings, self._rules, self._idle, self._random = settings, rules, idle, random
        self._lifetime = inf if settings.max_lifetime is None else settings.max_lifetime
        self._idle_time = inf if settings.max_idle_time is None else settings.max_idle_time
        self._swept_lifetime = self._lifetime if "cleaner" in rules.lifetime_checked else inf
        self.floor = rules.floor_of(settings)
        self.interval = rules.sweep_interval(settings)
        """Seconds between two sweeps."""
        self._samples: list[int] = []

    @property
    def shortest_limit(self) -> float:
        """What Go's cleaner goes by; inf: there is no limit, and no cleaner."""
        return min(self._swept_lifetime, self._idle_time)

    @property
    def rest_time(self) -> float:
        """How long a connection may be idle where each has a timer for it; inf: it has none."""
        return self._idle_time if self._rules.idle_closing == "timer" else inf

    @property
    def first_sweep(self) -> float:
        """Seconds from the start of the pool to its first sweep; inf: it never sweeps."""
        rules, settings = self._rules, self._settings
        if rules.idle_closing == "one":
            return self._idle_time
        if rules.idle_closing not in ("sweep", "median"):
            return inf
        if rules.idle_kept == "sweep":
            # mysql2 looks at its idle connections only when it may keep fewer than it may open.
            return self.interval if settings.max_idle < (settings.max_open or inf) else inf
        is_limited = min(self._lifetime, self._idle_time) < inf
        return self.interval if is_limited or rules.is_refilled else inf

    def begin_life(self, connection: Connection, now: float) -> None:
        """Set how long a connection that has just been opened may live, and where that is looked at."""
        connection.opened_at = connection.released_at = now
        lifetime = self._lifetime
        if lifetime == inf:
            return
        low, high = self._rules.jitter
        if low != high:
            lifetime *= 1.0 + low + (high - low) * self._random()
        if self._settings.max_lifetime_jitter:
            lifetime += self._settings.max_lifetime_jitter * self._random()
        connection.ends_at = now + lifetime
        if "acquire" in self._rules.lifetime_checked:
            connection.doubtful_after = connection.ends_at
        if "release" in self._rules.lifetime_checked:
            connection.spent_after = connection.ends_at

    def clean(self, now: float) -> tuple[Chosen, float]:
        """Choose as Go's cleaner does, idle time first; return when it runs next as well (sql.go, connectionCleaner).

        At or past the limit: with an exact tick, Go's strict "before" would slip by one more second.
        """
        chosen: Chosen = []
        idle, kept = self._idle.connections, []
        due = now + self.shortest_limit
        for connection in idle:
            if connection.released_at + self._idle_time <= now:
                chosen.append((connection, "max_idle_time"))
            else:
                kept.append(connection)
        if kept:
            due = min(due, kept[0].released_at + self._idle_time)
        idle[:] = []
        for connection in kept:
            if connection.opened_at + self._swept_lifetime <= now:
                chosen.append((connection, "max_lifetime"))
            else:
                idle.append(connection)
                due = min(due, connection.opened_at + self._swept_lifetime)
        return chosen, max(due, now + SHORTEST_CLEANING_INTERVAL)

    def sweep(self, now: float, open_: int) -> Chosen:
        """Choose what a sweep closes, out of a pool of ``open_`` connections."""
        chosen: Chosen = []
        idle = self._idle
        if isinstance(idle, IdleLowMark):
            # One at a time, and only when some were idle ever since the last sweep (psycopg_pool, _shrink_pool).
            if idle.lowest > 0 and open_ > self.floor and idle.connections:
                self._choose(idle.connections[0], "max_idle_time", chosen)
        else:
            if self._swept_lifetime < inf:
                for connection in [c for c in idle.connections if c.ends_at <= now]:
                    self._choose(connection, "max_lifetime", chosen)
            if self._rules.idle_closing == "median":
                self._choose_median(chosen, open_)
            elif self._idle_time < inf:
                self._choose_long_idle(chosen, open_, now)
            while self._rules.idle_kept == "sweep" and len(idle.connections) > self._settings.max_idle:
                self._choose(idle.connections[0], "max_idle", chosen)
        idle.end_sweep()
        return chosen

    def is_above_floor(self, open_: int) -> bool:
        """Return whether one more idle connection may be closed for having been idle, with ``open_`` open."""
        if self._rules.floor == "none":
            return True
        return (len(self._idle.connections) if self._rules.floor == "idle" else open_) > self.floor

    def missing(self, open_: int, opening: int) -> int:
        """Return how many connections are missing to the floor."""
        have = open_ if self._rules.floor == "open" else len(self._idle.connections) + opening
        return self.floor - have

    def _choose_long_idle(self, chosen: Chosen, open_: int, now: float) -> None:
        since = now - self._idle_time
        for connection in sorted(self._idle.connections, key=_released_at, reverse=self._rules.closes_newest):
            if connection.released_at <= since and self.is_above_floor(open_ - len(chosen)):
                self._choose(connection, "max_idle_time", chosen)

    def _choose_median(self, chosen: Chosen, open_: int) -> None:
        """Choose as many as the median of the samples had idle (Npgsql)."""
        self._samples.append(len(self._idle.connections))
        if len(self._samples) < MEDIAN_SAMPLES:
            return
        number = sorted(self._samples)[MEDIAN_SAMPLES // 2]
        self._samples.clear()
        while number > 0 and self._idle.connections and self.is_above_floor(open_ - len(chosen)):
            self._choose(self._idle.connections[0], "max_idle_time", chosen)
            number -= 1

    def _choose(self, connection: Connection, reason: Reason, chosen: Chosen) -> None:
        self._idle.remove(connection)
        chosen.append((connection, reason))


def _released_at(connection: Connection) -> float:
    return connection.released_at
