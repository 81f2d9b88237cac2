"""What a pool is told (PoolSettings) and how its library behaves (PoolRules), with a preset for each kind.

Presets differ in data, not in code. Defaults and rules are those of the libraries' own sources; the versions
stand at each kind. Which engine can drive which kind is not decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

IdleOrder = Literal["lifo", "fifo"]
WaiterOrder = Literal["random", "fifo", "none"]
Opener = Literal["caller", "background"]


@dataclass(frozen=True, slots=True)
class PoolRules:
    """The differences between pools that settings cannot express."""

    idle_order: IdleOrder = "lifo"
    """Which idle connection is acquired: the last released, or the one idle longest."""
    waiter_order: WaiterOrder = "random"
    """Who in the queue is served next. "none": nobody queues, an acquire that finds the pool full is rejected."""
    opener: Opener = "caller"
    """Who opens below max_open: the request itself, in parallel with others, or the one background opener in
    series (the request queues meanwhile). Replacements for waiters always come from the background opener."""
    lifetime_checked: frozenset[Literal["acquire", "release", "cleaner"]] = frozenset({"acquire", "release", "cleaner"})


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Sizes are counts, times are seconds, and None switches a limit off.

    Raises ValueError, naming the field, for a value that cannot be.
    """

    kind: str = "database/sql"
    max_open: int = 0
    """Most connections at once: opening, idle and in use together. 0 is unlimited, as in Go."""
    max_idle: int = 2
    """How many idle connections are kept when one is released; the others are closed. 0 keeps none."""
    min_idle: int = 0
    """A floor the library keeps ready, or opens at the start: see the kind."""
    max_lifetime: float | None = None
    max_idle_time: float | None = None
    acquire_timeout: float | None = None
    """Patience of one acquire. None waits for ever."""

    def __post_init__(self) -> None:
        for name in ("max_open", "max_idle", "min_idle"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is a count and cannot be {getattr(self, name)}")
        for name in ("max_lifetime", "max_idle_time", "acquire_timeout"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} cannot be negative, and is {value}")

    @property
    def rules(self) -> PoolRules:
        return KINDS[self.kind].rules


class Problem(NamedTuple):
    """A combination of settings that the library refuses, or that cannot work."""

    key: str
    rule: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A pool library: what its settings default to, which ones it has, and how it behaves."""

    name: str
    library: str
    """Name and version whose source the preset follows."""
    defaults: PoolSettings
    keys: frozenset[str]
    """The settings that the library has. Any other is refused, never ignored."""
    native: dict[str, str] = field(default_factory=dict)
    """Its own names for our keys, for messages and tables."""
    rules: PoolRules = field(default_factory=PoolRules)
    exhausted: str = "context deadline exceeded"
    """What the library says when an acquire gives up."""

    def problems(self, settings: PoolSettings) -> Iterator[Problem]:
        """What this library would not accept in ``settings``, worst first."""
        if settings.max_open == 0 and self.name not in ("database/sql", "sqlalchemy", "none"):
            yield Problem(
                "max_open", f"{self.name} has no unlimited pool", f"its {self.native['max_open']} is 1 or more"
            )
        if settings.max_open and settings.min_idle > settings.max_open:
            yield Problem("min_idle", f"must not be above max_open ({settings.max_open})")
        # Go lowers max_idle to max_open by itself; for the others it is a floor or a part of max_open.
        if self.name in ("psycopg2", "sqlalchemy") and settings.max_open and settings.max_idle > settings.max_open:
            yield Problem("max_idle", f"must not be above max_open ({settings.max_open})")
        if self.name == "sqlalchemy" and settings.max_open and settings.max_idle == 0:
            yield Problem("max_idle", "pool_size 0 makes SQLAlchemy's pool unlimited", "give max_idle 1 or more")


_ALL = frozenset(f.name for f in fields(PoolSettings)) - {"kind"}

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "database/sql",
            library="Go 1.27.3 database/sql",
            defaults=PoolSettings("database/sql", max_open=0, max_idle=2),
            keys=_ALL - {"min_idle"},
            native={
                "max_open": "SetMaxOpenConns",
                "max_idle": "SetMaxIdleConns",
                "max_lifetime": "SetConnMaxLifetime",
                "max_idle_time": "SetConnMaxIdleTime",
                "acquire_timeout": "context.WithTimeout",
            },
        ),
        Kind(
            "psycopg_pool",
            library="psycopg_pool 3.3.3 ConnectionPool",
            # max_size=None is min_size: a fixed pool. max_idle is the count kept, which this library does not
            # bound below max_open; the time it calls max_idle is max_idle_time here.
            defaults=PoolSettings(
                "psycopg_pool", max_open=4, min_idle=4, max_lifetime=3600.0, max_idle_time=600.0, acquire_timeout=30.0
            ),
            keys=_ALL - {"max_idle"},
            native={
                "max_open": "max_size",
                "min_idle": "min_size",
                "max_lifetime": "max_lifetime",
                "max_idle_time": "max_idle",
                "acquire_timeout": "timeout",
            },
            rules=PoolRules("fifo", "fifo", "background", frozenset({"release"})),
            exhausted="couldn't get a connection after {acquire_timeout:.2f} sec",
        ),
        Kind(
            "psycopg2",
            library="psycopg2 2.9.13 pool.ThreadedConnectionPool",
            # Both numbers are required arguments; 1 and 10 are poolctl's stand-ins.
            defaults=PoolSettings("psycopg2", max_open=10, max_idle=1),
            keys=frozenset({"max_open", "max_idle"}),
            native={"max_open": "maxconn", "max_idle": "minconn"},
            rules=PoolRules("lifo", "none", "caller", frozenset()),
            exhausted="connection pool exhausted",
        ),
        Kind(
            "sqlalchemy",
            library="SQLAlchemy 2.1.9 QueuePool",
            defaults=PoolSettings("sqlalchemy", max_open=15, max_idle=5, acquire_timeout=30.0),
            keys=frozenset({"max_open", "max_idle", "max_lifetime", "acquire_timeout"}),
            native={
                "max_open": "pool_size + max_overflow",
                "max_idle": "pool_size",
                "max_lifetime": "pool_recycle",
                "acquire_timeout": "pool_timeout",
            },
            rules=PoolRules("fifo", "fifo", "caller", frozenset({"acquire"})),
            exhausted="QueuePool limit of size {max_idle} overflow {max_overflow} reached, connection timed out",
        ),
        Kind(
            "none",
            library="a new connection for every request",
            defaults=PoolSettings("none", max_open=0, max_idle=0),
            keys=frozenset({"acquire_timeout"}),
            native={"acquire_timeout": "connect_timeout"},
            exhausted="connection attempt timed out",
        ),
    )
}
