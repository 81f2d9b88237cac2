"""One snapshot of a pool, taken at once, with states that add up."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Closed:
    """How many connections were closed so far, by reason.

    ``max_idle``, ``max_idle_time`` and ``max_lifetime`` are Go's MaxIdleClosed, MaxIdleTimeClosed and
    MaxLifetimeClosed. ``error``: found broken. ``leak_reclaimed``: closed by the garbage collector after the
    last reference was dropped. ``other``: over a lowered max_open, or at the end of the run.
    """

    max_idle: int = 0
    max_idle_time: int = 0
    max_lifetime: int = 0
    error: int = 0
    leak_reclaimed: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return self.max_idle + self.max_idle_time + self.max_lifetime + self.error + self.leak_reclaimed + self.other


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Gauges and counters of one pool at one instant; times are seconds.

    Always true: ``open == in_use + idle + opening``. An opening that a background opener is only asked for, because
    it is still at another one, holds a slot of the pool and is in none of them (Go's OpenConnections has it: one
    instance's opener may be asked for thirty and get to one). A connection that is being closed counts as in use until
    its slot is free, as in Go's DBStats (database/sql, sql.go, ``finalClose``).
    """

    max_open: int
    """Upper bound; 0 is unlimited."""
    open: int
    in_use: int
    idle: int
    opening: int
    waiting: int
    """Requests in the queue now. The ones that gave up are not in it."""

    queued_count: int = 0
    """Requests that had to queue so far (Go: WaitCount); the ones that gave up included."""
    queued_time: float = 0.0
    """Time spent in the queue by requests that have left it (Go: WaitDuration)."""
    opened: int = 0
    open_failures: int = 0
    closed: Closed = field(default_factory=Closed)

    peak_open: int = 0
    peak_in_use: int = 0
    """Most that were acquired at once. Unlike ``in_use``, it never counts a connection that is being closed."""
    open_time: float = 0.0
    """Connection-seconds open so far, opening and closing included; divided by a duration it is the average."""
    in_use_time: float = 0.0
    """Connection-seconds between acquire and release so far; opening and closing are not in it."""

    exhausted_at: float | None = None
    """When a request first had to wait, or was rejected, because max_open connections were taken; None: never."""
    exhausted_since: float | None = None
    """Start of the exhaustion that still lasts; None: not exhausted now.

    It ends when every request that waited was served, or when a connection or a slot is free. That the waiting
    requests gave up does not end it: the next one would wait as well.
    """
    recovered_at: float | None = None
    """When the last exhaustion ended; None: it never began or still lasts."""
    exhausted_time: float = 0.0
    """Total length of the exhaustions so far."""


class Counts:
    """Mutable counters behind PoolStats. ``open_area`` is an integral over time of what was open: at instant t it is
    ``area + number * t``, which costs one addition at each change."""

    __slots__ = (
        "error",
        "exhausted_at",
        "exhausted_since",
        "exhausted_time",
        "in_use",
        "leak_reclaimed",
        "max_idle",
        "max_idle_time",
        "max_lifetime",
        "open_area",
        "open_failures",
        "opened",
        "other",
        "peak_in_use",
        "peak_open",
        "queued_count",
        "queued_time",
        "recovered_at",
        "use_time",
    )

    def __init__(self) -> None:
        self.in_use = self.peak_in_use = self.peak_open = 0
        self.queued_count = self.opened = self.open_failures = 0
        self.max_idle = self.max_idle_time = self.max_lifetime = self.error = self.other = self.leak_reclaimed = 0
        self.use_time = self.open_area = self.queued_time = self.exhausted_time = 0.0
        self.exhausted_at: float | None = None
        self.exhausted_since: float | None = None
        self.recovered_at: float | None = None

    def exhaust(self, now: float) -> None:
        """Begin an exhaustion, unless one lasts already."""
        if self.exhausted_since is None:
            self.exhausted_since = now
            self.recovered_at = None
            if self.exhausted_at is None:
                self.exhausted_at = now

    def recover(self, now: float) -> None:
        """End the exhaustion, if one lasts."""
        if self.exhausted_since is not None:
            self.exhausted_time += now - self.exhausted_since
            self.exhausted_since = None
            self.recovered_at = now
