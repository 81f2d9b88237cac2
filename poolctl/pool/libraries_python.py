"""The pools of the Python world. See ``libraries``."""

from dataclasses import replace

from poolctl.pool.library import Library
from poolctl.pool.settings import PoolRules, PoolSettings

_RULES_OF_PSYCOPG = PoolRules(
    "fifo",
    "fifo",
    "background",
    frozenset({"release"}),
    growth="one",
    open_retry=(1.0, 300.0),
    openers=3,
    replaces_spent=True,
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
_PSYCOPG_POOL = Library(
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

PYTHON_LIBRARIES = (
    _PSYCOPG_POOL,
    replace(
        _PSYCOPG_POOL,
        name="django",
        library='Django 5.2 OPTIONS["pool"], which is psycopg_pool',
        defaults=replace(_PSYCOPG_POOL.defaults, kind="django"),
    ),
    Library(
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
            floor_is="max_idle",
            idle_closing="none",
            validated_after=None,
            stale_attempts=0,
            opens_locked=True,
        ),
        exhausted="connection pool exhausted",
        error="PoolError",
    ),
    Library(
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
    Library(
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
)
