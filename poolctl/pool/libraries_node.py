"""The pools of the Node.js world. See ``libraries``."""

from dataclasses import replace

from poolctl.pool.library import Library
from poolctl.pool.settings import PoolRules, PoolSettings

_NODE_PG = Library(
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

NODE_LIBRARIES = (
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
    Library(
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
    Library(
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
)
