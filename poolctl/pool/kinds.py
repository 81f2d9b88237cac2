"""The pool libraries: what their settings default to, which ones they have, how they behave.

Presets differ in data, not in code. Defaults and rules are those of the libraries' own sources; the versions
stand at each kind. Which engine can drive which kind is not decided here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from poolctl.pool.settings import PoolRules, PoolSettings


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
    native: dict[str, str]
    """The settings that the library has, with its own names for them. Any other is refused, never ignored."""
    rules: PoolRules = field(default_factory=PoolRules)
    exhausted: str = "context deadline exceeded"
    """What the library says when an acquire gives up."""
    zero_is_off: frozenset[str] = frozenset()
    """The times for which this library takes 0 for "no limit". Elsewhere 0 is a limit, and a short one."""
    is_unlimited_at_0: bool = False
    """Whether max_open may be 0."""
    size_follows: str = ""
    """"min_idle": without max_open the pool holds exactly min_idle; "max_open": without min_idle it holds max_open."""
    least: dict[str, float] = field(default_factory=dict)
    """Times below which the library silently takes another value; such a value is refused here."""

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self.native)

    def complete(self, given: Mapping[str, Any]) -> PoolSettings:
        """The ``given`` settings, with this library's defaults for the rest, which depend on those given."""
        settings = asdict(self.defaults) | dict(given)
        for name in self.zero_is_off:
            settings[name] = settings[name] or None
        if self.size_follows == "min_idle" and "max_open" not in given:
            settings["max_open"] = settings["min_idle"]
        if self.size_follows == "max_open" and "min_idle" not in given:
            settings["min_idle"] = settings["max_open"]
        if bound := settings["max_open"]:
            if "max_idle" not in given:
                settings["max_idle"] = min(settings["max_idle"], bound) if "max_idle" in self.keys else bound
            if "min_idle" not in given:
                settings["min_idle"] = min(settings["min_idle"], bound)
        return PoolSettings(**settings)

    def problems(self, settings: PoolSettings) -> Iterator[Problem]:
        """What this library would not accept in ``settings``, worst first."""
        if settings.max_open == 0 and not self.is_unlimited_at_0:
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
        for key, least in self.least.items():
            value = getattr(settings, key)
            if value is not None and value < least:
                yield Problem(key, f"{self.name} replaces a value below {least:g} s by another one")


NOT_MODELED: dict[str, str] = {
    "prisma-6": "its idle order and who opens are not known well enough; Prisma 7 on its pg adapter is kind prisma",
    "rds-proxy": "its queue and its pinning are not published",
    "odyssey": "its waiter order is not known well enough",
    "pgcat": "its waiter order is not known well enough",
    "supavisor": "its waiter order is not known well enough",
}
"""Pools that are known by name and refused, with the reason."""


_RULES_OF_PSYCOPG = PoolRules(
    "fifo",
    "fifo",
    "background",
    frozenset({"release"}),
    growth="one",
    open_retry=(1.0, 300.0),
    fill="before",
    floor="open",
    is_refilled=True,
    idle_closing="one",
    idle_kept="all",
    jitter=(-0.05, 0.0),
    validated_after=None,
    stale_attempts=0,
    timed_out_waiter="ghost",
    dropped_reference="closed",
)
_PSYCOPG_POOL = Kind(
    "psycopg_pool",
    library="psycopg_pool 3.3.3 ConnectionPool",
    # max_size=None is min_size: a fixed pool. max_idle is the count kept, which this library does not
    # bound below max_open; the time it calls max_idle is max_idle_time here.
    defaults=PoolSettings("psycopg_pool", 4, 4, 4, max_lifetime=3600.0, max_idle_time=600.0, acquire_timeout=30.0),
    size_follows="min_idle",
    native={
        "max_open": "max_size",
        "min_idle": "min_size",
        "max_lifetime": "max_lifetime",
        "max_idle_time": "max_idle",
        "acquire_timeout": "timeout",
        "max_waiting": "max_waiting",
    },
    rules=_RULES_OF_PSYCOPG,
    exhausted="couldn't get a connection after {acquire_timeout:.2f} sec",
)
_NODE_PG = Kind(
    "node-pg",
    library="pg-pool 3.14.0",
    defaults=PoolSettings("node-pg", 10, 10, max_idle_time=10.0),
    native={
        "max_open": "max",
        "min_idle": "min",
        "max_lifetime": "maxLifetimeSeconds",
        "max_idle_time": "idleTimeoutMillis",
        "acquire_timeout": "connectionTimeoutMillis",
        "max_uses": "maxUses",
    },
    zero_is_off=frozenset({"max_lifetime", "max_idle_time", "acquire_timeout"}),
    rules=PoolRules(
        "lifo",
        "fifo",
        "caller",
        frozenset({"timer"}),
        replaced_by="caller",
        floor="open",
        idle_closing="timer",
        idle_kept="all",
        dead="dropped",
        stale_attempts=0,
        timeout="each",
    ),
    exhausted="timeout exceeded when trying to connect",
)

_KINDS = (
    Kind(
        "database/sql",
        library="Go 1.27.3 database/sql",
        defaults=PoolSettings("database/sql", max_open=0, max_idle=2),
        native={
            "max_open": "SetMaxOpenConns",
            "max_idle": "SetMaxIdleConns",
            "max_lifetime": "SetConnMaxLifetime",
            "max_idle_time": "SetConnMaxIdleTime",
            "acquire_timeout": "context.WithTimeout",
        },
        zero_is_off=frozenset({"max_lifetime", "max_idle_time"}),
        is_unlimited_at_0=True,
    ),
    Kind(
        "pgxpool",
        library="pgx 5.10 pgxpool on puddle 2",
        # max(4, number of processors): 4 stands for a small pod. 0 as lifetime would be "always expired".
        defaults=PoolSettings("pgxpool", 4, 4, max_lifetime=3600.0, max_idle_time=1800.0, max_lifetime_jitter=0.0),
        native={
            "max_open": "pool_max_conns",
            "min_idle": "pool_min_idle_conns",
            "max_lifetime": "pool_max_conn_lifetime",
            "max_lifetime_jitter": "pool_max_conn_lifetime_jitter",
            "max_idle_time": "pool_max_conn_idle_time",
            "acquire_timeout": "context.WithTimeout",
        },
        rules=PoolRules(
            "lifo",
            "fifo",
            generations=True,
            replaced_by="caller",
            fill="background",
            openers=0,
            floor="idle",
            is_refilled=True,
            idle_closing="sweep",
            sweep=60.0,
            idle_kept="all",
            validated_after=1.0,
            stale_attempts=0,
            abandoned_opening="kept",
        ),
    ),
    _PSYCOPG_POOL,
    replace(
        _PSYCOPG_POOL,
        name="django",
        library='Django 5.2 OPTIONS["pool"], which is psycopg_pool',
        defaults=replace(_PSYCOPG_POOL.defaults, kind="django"),
    ),
    Kind(
        "psycopg2",
        library="psycopg2 2.9.13 pool.ThreadedConnectionPool",
        # Both numbers are required arguments; 1 and 10 are poolctl's stand-ins.
        defaults=PoolSettings("psycopg2", max_open=10, max_idle=1),
        native={"max_open": "maxconn", "max_idle": "minconn"},
        rules=PoolRules(
            "lifo",
            "none",
            "caller",
            frozenset(),
            replaced_by="caller",
            fill="before",
            idle_closing="none",
            validated_after=None,
            stale_attempts=0,
            opens_locked=True,
        ),
        exhausted="connection pool exhausted",
    ),
    Kind(
        "sqlalchemy",
        library="SQLAlchemy 2.1.9 QueuePool",
        defaults=PoolSettings("sqlalchemy", max_open=15, max_idle=5, acquire_timeout=30.0),
        native={
            "max_open": "pool_size + max_overflow",
            "max_idle": "pool_size",
            "max_lifetime": "pool_recycle",
            "acquire_timeout": "pool_timeout",
        },
        is_unlimited_at_0=True,
        rules=PoolRules(
            "fifo",
            "fifo",
            "caller",
            frozenset({"acquire"}),
            barging=True,
            replaced_by="caller",
            idle_closing="none",
            validated_after=None,
            dead="all",
            stale="reopened",
            timeout="queue",
            timed_out_waiter="opens",
            wakes_on_failure=False,
            dropped_reference="returned",
        ),
        exhausted="QueuePool limit of size {max_idle} overflow {max_overflow} reached, connection timed out",
    ),
    Kind(
        "hikaricp",
        library="HikariCP 7.0.2",
        defaults=PoolSettings("hikaricp", 10, 10, 10, max_lifetime=1800.0, max_idle_time=600.0, acquire_timeout=30.0),
        size_follows="max_open",
        native={
            "max_open": "maximumPoolSize",
            "min_idle": "minimumIdle",
            "max_lifetime": "maxLifetime",
            "max_idle_time": "idleTimeout",
            "acquire_timeout": "connectionTimeout",
        },
        zero_is_off=frozenset({"max_lifetime", "max_idle_time", "acquire_timeout"}),
        least={"max_lifetime": 30.0, "max_idle_time": 10.0, "acquire_timeout": 0.25},
        rules=PoolRules(
            "fifo",
            "fifo",
            "background",
            frozenset({"timer"}),
            by_thread=True,
            growth="wanted",
            open_pause=0.030,
            open_retry=(0.010, 5.0),
            fill="background",
            floor="idle",
            is_refilled=True,
            idle_closing="sweep",
            sweep=30.0,
            closes_newest=True,
            idle_kept="all",
            jitter=(-0.25, 0.0),
            validated_after=0.5,
            stale_attempts=0,
        ),
        exhausted="Connection is not available, request timed out",
    ),
    _NODE_PG,
    replace(
        _NODE_PG,
        name="typeorm",
        library="TypeORM 1.1.1 on pg-pool 3.14.0",
        defaults=replace(_NODE_PG.defaults, kind="typeorm"),
        native=_NODE_PG.native | {"max_open": "poolSize", "acquire_timeout": "connectTimeoutMS"},
    ),
    replace(
        _NODE_PG,
        name="prisma",
        library="@prisma/adapter-pg 7.10.1 on pg-pool 3.14.0",
        defaults=replace(_NODE_PG.defaults, kind="prisma"),
    ),
    Kind(
        "knex",
        library="knex 3.3.0 on tarn 3.1.2",
        defaults=PoolSettings("knex", 10, 10, 2, max_idle_time=30.0, acquire_timeout=60.0),
        native={
            "max_open": "max",
            "min_idle": "min",
            "max_lifetime": "maxConnectionLifetimeMillis",
            "max_lifetime_jitter": "maxConnectionLifetimeJitterMillis",
            "max_idle_time": "idleTimeoutMillis",
            "acquire_timeout": "acquireConnectionTimeout",
        },
        rules=PoolRules(
            "lifo",
            "fifo",
            "background",
            frozenset({"acquire"}),
            openers=0,
            growth="wanted",
            floor="open",
            idle_closing="sweep",
            sweep=1.0,
            idle_kept="all",
            stale_attempts=0,
        ),
        exhausted="Timeout acquiring a connection. The pool is probably full.",
    ),
    Kind(
        "mysql2",
        library="mysql2 3.24.6",
        defaults=PoolSettings("mysql2", 10, 10, max_idle_time=60.0),
        native={
            "max_open": "connectionLimit",
            "max_idle": "maxIdle",
            "max_idle_time": "idleTimeout",
            "max_waiting": "queueLimit",
        },
        is_unlimited_at_0=True,
        rules=PoolRules(
            "lifo",
            "fifo",
            "caller",
            frozenset(),
            replaced_by="caller",
            idle_closing="sweep",
            sweep=1.0,
            idle_kept="sweep",
            dead="dropped",
            stale_attempts=0,
        ),
        exhausted="Queue limit reached.",
    ),
    Kind(
        "asyncpg",
        library="asyncpg 0.32.0",
        defaults=PoolSettings("asyncpg", 10, 10, 10, max_idle_time=300.0, max_uses=50_000),
        native={
            "max_open": "max_size",
            "min_idle": "min_size",
            "max_idle_time": "max_inactive_connection_lifetime",
            "acquire_timeout": "acquire(timeout=)",
            "max_uses": "max_queries",
        },
        zero_is_off=frozenset({"max_idle_time"}),
        rules=PoolRules(
            "lifo",
            "fifo",
            "caller",
            frozenset(),
            replaced_by="caller",
            fill="before",
            floor="open",
            idle_closing="timer",
            idle_kept="all",
            stale_attempts=0,
        ),
        exhausted="TimeoutError",
    ),
    Kind(
        "tomcat",
        library="Tomcat JDBC pool",
        # max_idle is no key: with its idle sweep on, as it is by default, the library does not look at maxIdle.
        defaults=PoolSettings("tomcat", 100, 100, 10, max_idle_time=60.0, acquire_timeout=30.0),
        native={
            "max_open": "maxActive",
            "min_idle": "minIdle",
            "max_lifetime": "maxAge",
            "max_idle_time": "minEvictableIdleTimeMillis",
            "acquire_timeout": "maxWait",
        },
        zero_is_off=frozenset({"max_lifetime"}),
        rules=PoolRules(
            "lifo",
            "fifo",
            "caller",
            frozenset({"release"}),
            replaced_by="caller",
            fill="before",
            floor="open",
            idle_closing="sweep",
            sweep=5.0,
            idle_kept="all",
            validated_after=None,
            stale_attempts=0,
            timeout="queue",
        ),
        exhausted="Timeout: Pool empty. Unable to fetch a connection",
    ),
    Kind(
        "dbcp2",
        library="commons-dbcp2 on commons-pool 2.13.1",
        # Without timeBetweenEvictionRunsMillis, off by default, minIdle and the idle time are never enforced.
        defaults=PoolSettings("dbcp2", 8, 8),
        native={
            "max_open": "maxTotal",
            "max_idle": "maxIdle",
            "max_lifetime": "maxConnLifetimeMillis",
            "acquire_timeout": "maxWaitMillis",
        },
        rules=PoolRules(
            "lifo",
            "fifo",
            "caller",
            frozenset({"acquire", "release"}),
            barging=True,
            replaced_by="caller",
            idle_closing="none",
            stale_attempts=0,
            timeout="queue",
        ),
        exhausted="Cannot get a connection, pool error Timeout waiting for idle object",
    ),
    Kind(
        "c3p0",
        library="c3p0",
        # Its ages and idle times are off by default, and how often it looks at them is not known well enough.
        defaults=PoolSettings("c3p0", 15, 15, 3),
        native={"max_open": "maxPoolSize", "min_idle": "minPoolSize", "acquire_timeout": "checkoutTimeout"},
        zero_is_off=frozenset({"acquire_timeout"}),
        rules=PoolRules(
            "lifo",
            "fifo",
            "background",
            frozenset(),
            barging=True,
            openers=3,
            growth="increment",
            open_retry=(1.0, 1.0),
            fill="background",
            idle_closing="none",
            idle_kept="all",
            validated_after=None,
            stale_attempts=0,
        ),
        exhausted="A client timed out while waiting to acquire a resource",
    ),
    Kind(
        "npgsql",
        library="Npgsql 10.0.3",
        defaults=PoolSettings("npgsql", 100, 100, 0, max_lifetime=3600.0, max_idle_time=300.0, acquire_timeout=15.0),
        native={
            "max_open": "Maximum Pool Size",
            "min_idle": "Minimum Pool Size",
            "max_lifetime": "Connection Lifetime",
            "max_idle_time": "Connection Idle Lifetime",
            "acquire_timeout": "Timeout",
        },
        zero_is_off=frozenset({"max_lifetime"}),
        rules=PoolRules(
            "fifo",
            "fifo",
            "caller",
            frozenset({"acquire"}),
            replaced_by="caller",
            floor="open",
            idle_closing="median",
            sweep=10.0,
            idle_kept="all",
            validated_after=None,
            stale_attempts=0,
        ),
        exhausted="The connection pool has been exhausted, either raise 'Max Pool Size' or 'Timeout'",
    ),
    Kind(
        "rails",
        library="ActiveRecord 8.1",
        defaults=PoolSettings("rails", 5, 5, max_idle_time=300.0, acquire_timeout=5.0),
        native={
            "max_open": "max_connections",
            "min_idle": "min_connections",
            "max_lifetime": "max_age",
            "max_idle_time": "idle_timeout",
            "acquire_timeout": "checkout_timeout",
        },
        zero_is_off=frozenset({"max_idle_time"}),
        rules=PoolRules(
            "lifo",
            "fifo",
            "caller",
            frozenset({"cleaner"}),
            replaced_by="caller",
            floor="open",
            is_refilled=True,
            openers=1,
            idle_closing="sweep",
            sweep=20.0,
            idle_kept="all",
            jitter=(-0.2, 0.0),
            validated_after=2.0,
            stale="reopened",
            stale_attempts=0,
            timeout="queue",
        ),
        exhausted="could not obtain a connection from the pool within {acquire_timeout:.3f} seconds",
    ),
    Kind(
        "ecto",
        library="DBConnection 2.10.2",
        defaults=PoolSettings("ecto", 10, 10, 10),
        size_follows="max_open",
        native={
            "max_open": "pool_size",
            "max_lifetime": "max_lifetime (start of the range)",
            "max_lifetime_jitter": "max_lifetime (length of the range)",
        },
        rules=PoolRules(
            "fifo",
            "fifo",
            "background",
            frozenset({"release", "cleaner"}),
            openers=0,
            growth="wanted",
            open_retry=(1.0, 30.0),
            fill="background",
            floor="open",
            is_refilled=True,
            idle_closing="sweep",
            sweep=1.0,
            idle_kept="all",
            dead="dropped",
            stale_attempts=0,
            codel=(0.050, 2.0),
            abandoned_after=15.0,
        ),
        exhausted="connection not available and request was dropped from queue",
    ),
    Kind(
        "sqlx",
        library="sqlx (Rust)",
        defaults=PoolSettings("sqlx", 10, 10, max_lifetime=1800.0, max_idle_time=600.0, acquire_timeout=30.0),
        native={
            "max_open": "max_connections",
            "min_idle": "min_connections",
            "max_lifetime": "max_lifetime",
            "max_idle_time": "idle_timeout",
            "acquire_timeout": "acquire_timeout",
        },
        rules=PoolRules(
            "fifo",
            "fifo",
            "caller",
            frozenset({"release", "cleaner"}),
            replaced_by="caller",
            fill="before",
            floor="open",
            is_refilled=True,
            idle_closing="sweep",
            idle_kept="all",
            stale_attempts=0,
        ),
        exhausted="pool timed out while waiting for an open connection",
    ),
    Kind(
        "deadpool",
        library="deadpool 0.12.3",
        # Twice the number of logical processors: 8 stands for 4 of them.
        defaults=PoolSettings("deadpool", 8, 8),
        native={"max_open": "max_size", "acquire_timeout": "timeouts.wait"},
        rules=PoolRules(
            "fifo",
            "fifo",
            "caller",
            frozenset(),
            replaced_by="caller",
            idle_closing="none",
            idle_kept="all",
            stale_attempts=0,
            timeout="queue",
        ),
        exhausted="Timeout occurred while waiting for a slot to become available",
    ),
    Kind(
        "r2d2",
        library="r2d2",
        defaults=PoolSettings("r2d2", 10, 10, 10, max_lifetime=1800.0, max_idle_time=600.0, acquire_timeout=30.0),
        size_follows="max_open",
        native={
            "max_open": "max_size",
            "min_idle": "min_idle",
            "max_lifetime": "max_lifetime",
            "max_idle_time": "idle_timeout",
            "acquire_timeout": "connection_timeout",
        },
        rules=PoolRules(
            "lifo",
            "fifo",
            "background",
            frozenset({"cleaner"}),
            barging=True,
            openers=3,
            growth="wanted",
            open_retry=(0.2, 30.0),
            fill="before",
            floor="idle",
            is_refilled=True,
            idle_closing="sweep",
            sweep=30.0,
            idle_kept="all",
            stale_attempts=0,
        ),
        exhausted="timed out waiting for connection",
    ),
    Kind(
        "none",
        library="a new connection for every request",
        defaults=PoolSettings("none", max_open=0, max_idle=0),
        native={"acquire_timeout": "connect_timeout"},
        is_unlimited_at_0=True,
        exhausted="connection attempt timed out",
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}
