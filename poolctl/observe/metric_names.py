"""The names of pool metrics, library by library, and the field of PoolFigures that each one adds to.

Prometheus names: client_golang's collector (go_sql_*), sqlstats, gorm's plugin, HikariCP's own tracker and
Micrometer's, OpenTelemetry's db.client.connection.* and its older spelling, pgxpool's exporters.
JSON keys: psycopg_pool's ``get_stats()``, Go's ``sql.DBStats``, node-postgres, tarn (knex), HikariCP's and c3p0's
MXBeans, slonik's ``state()``, and what the pools of Sequelize, generic-pool, asyncpg and aiopg have as properties.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

_MS, _NS = 1e-3, 1e-9


class Meaning(NamedTuple):
    """What a name adds to: a field of PoolFigures, after multiplication. "" means one field for each state."""

    library: str
    field: str
    scale: float = 1.0


def _add_prefix(library: str, prefix: str, names: Mapping[str, str | tuple[str, float]]) -> dict[str, Meaning]:
    return {
        prefix + name: Meaning(library, what) if isinstance(what, str) else Meaning(library, *what)
        for name, what in names.items()
    }


_OTEL: dict[str, str | tuple[str, float]] = {
    "max": "max_open",
    "pending_requests": "waiting",
    "timeouts": "timed_out_total",
    "wait_time_count": "acquired_total",
    "wait_time_seconds_count": "acquired_total",
    "wait_time_milliseconds_count": "acquired_total",
    "wait_time_seconds_sum": "wait_time_total",
    "wait_time_milliseconds_sum": ("wait_time_total", _MS),
    "use_time_count": "use_count_total",
    "use_time_seconds_count": "use_count_total",
    "use_time_milliseconds_count": "use_count_total",
    "use_time_seconds_sum": "use_time_total",
    "use_time_milliseconds_sum": ("use_time_total", _MS),
    "create_time_count": "opened_total",
    "create_time_seconds_count": "opened_total",
    "create_time_milliseconds_count": "opened_total",
}

MEANINGS: dict[str, Meaning] = {
    **_add_prefix(
        "database/sql",
        "go_sql_",
        {
            "max_open_connections": "max_open",
            "open_connections": "open",
            "in_use_connections": "in_use",
            "idle_connections": "idle",
            "wait_count": "queued_total",
            "wait_duration_seconds": "wait_time_total",
            "max_idle_closed": "closed_idle_total",
            "max_idle_time_closed": "closed_idle_total",
            "max_lifetime_closed": "closed_lifetime_total",
        },
    ),
    **_add_prefix(
        "database/sql",
        "go_sql_stats_connections_",
        {
            "max_open": "max_open",
            "open": "open",
            "in_use": "in_use",
            "idle": "idle",
            "waited_for": "queued_total",
            "blocked_seconds": "wait_time_total",
            "closed_max_idle": "closed_idle_total",
            "closed_max_idle_time": "closed_idle_total",
            "closed_max_lifetime": "closed_lifetime_total",
        },
    ),
    **_add_prefix(
        "database/sql",
        "gorm_dbstats_",
        {
            "max_open_connections": "max_open",
            "open_connections": "open",
            "in_use": "in_use",
            "idle": "idle",
            "wait_count": "queued_total",
            "wait_duration": ("wait_time_total", _NS),
            "max_idle_closed": "closed_idle_total",
            "max_idletime_closed": "closed_idle_total",
            "max_lifetime_closed": "closed_lifetime_total",
        },
    ),
    **_add_prefix(
        "hikaricp",
        "hikaricp_",
        {
            "active_connections": "in_use",
            "idle_connections": "idle",
            "pending_threads": "waiting",
            "connections": "open",
            "max_connections": "max_open",
            "connection_timeout": "timed_out_total",
            "connection_timeout_count": "timed_out_total",
            "connection_acquired_nanos_count": "acquired_total",
            "connection_acquired_nanos_sum": ("wait_time_total", _NS),
            "connection_usage_millis_count": "use_count_total",
            "connection_usage_millis_sum": ("use_time_total", _MS),
            "connection_creation_millis_count": "opened_total",
            "connections_active": "in_use",
            "connections_idle": "idle",
            "connections_pending": "waiting",
            "connections_max": "max_open",
            "connections_timeout": "timed_out_total",
            "connections_acquire_seconds_count": "acquired_total",
            "connections_acquire_seconds_sum": "wait_time_total",
            "connections_usage_seconds_count": "use_count_total",
            "connections_usage_seconds_sum": "use_time_total",
            "connections_creation_seconds_count": "opened_total",
        },
    ),
    # Times without a unit: the newer convention is in seconds, the older one in milliseconds.
    **_add_prefix(
        "opentelemetry",
        "db_client_connection_",
        _OTEL | {"count": "", "wait_time_sum": "wait_time_total", "use_time_sum": "use_time_total"},
    ),
    **_add_prefix(
        "opentelemetry",
        "db_client_connections_",
        _OTEL | {"usage": "", "wait_time_sum": ("wait_time_total", _MS), "use_time_sum": ("use_time_total", _MS)},
    ),
    **_add_prefix(
        "pgxpool",
        "pgxpool_",
        {
            "max_conns": "max_open",
            "total_conns": "open",
            "acquired_conns": "in_use",
            "idle_conns": "idle",
            # otelpgx writes the words in full.
            "max_connections": "max_open",
            "total_connections": "open",
            "acquired_connections": "in_use",
            "idle_connections": "idle",
            "acquire_count": "acquired_total",
            "acquires": "acquired_total",
            "acquire_duration_ns": ("wait_time_total", _NS),
            "acquire_duration_seconds": "wait_time_total",
            "acquire_duration_nanoseconds": ("wait_time_total", _NS),
            "acquire": "acquired_total",
            "canceled_acquires": "timed_out_total",
            "empty_acquires": "queued_total",
            "new_conns": "opened_total",
            "new_connections": "opened_total",
            "max_idle_destroys": "closed_idle_total",
            "max_lifetime_destroys": "closed_lifetime_total",
            "empty_acquire": "queued_total",
            "empty_acquire_count": "queued_total",
            "canceled_acquire": "timed_out_total",
            "canceled_acquire_count": "timed_out_total",
            "new_conns_count": "opened_total",
            "max_idle_destroy_count": "closed_idle_total",
            "max_lifetime_destroy_count": "closed_lifetime_total",
        },
    ),
    **_add_prefix(
        "r2dbc-pool",
        "r2dbc_pool_",
        {
            "acquired_connections": "in_use",
            "allocated_connections": "open",
            "idle_connections": "idle",
            "pending_connections": "waiting",
            "max_allocated_connections": "max_open",
        },
    ),
    **_add_prefix(
        "agroal",
        "agroal_",
        {
            "active_count": "in_use",
            "available_count": "idle",
            "awaiting_count": "waiting",
            "acquire_count": "acquired_total",
            "creation_count": "opened_total",
            "blocking_time_total_milliseconds": ("wait_time_total", _MS),
            "destroy_count": "closed_idle_total",
            # The same in Agroal's own starter for Spring Boot.
            "connections_active_count": "in_use",
            "connections_available_count": "idle",
            "connections_creation_count": "opened_total",
            "blocking_time_total_seconds": "wait_time_total",
        },
    ),
    # Spring Boot's DataSource metrics, whatever pool is behind them.
    **_add_prefix(
        "spring-jdbc",
        "jdbc_connections_",
        {"active": "in_use", "idle": "idle", "max": "max_open"},
    ),
    # MBeans, as jmx_exporter names them: the domain, the type, the attribute; in capitals as the bean has them, or not.
    **_add_prefix(
        "tomcat-jdbc",
        "tomcat_jdbc_connectionpool_",
        {"active": "in_use", "idle": "idle", "size": "open", "maxactive": "max_open", "waitcount": "waiting"},
    ),
    # Names that reports have of rules written by hand for jmx_exporter.
    **_add_prefix(
        "tomcat-jdbc",
        "tomcat_jdbc_",
        {"active": "in_use", "idle": "idle", "size": "open", "max_active": "max_open", "wait_count": "waiting"},
    ),
    **_add_prefix(
        "dbcp2",
        "org_apache_commons_dbcp2_basicdatasource_",
        {"numactive": "in_use", "numidle": "idle", "maxtotal": "max_open"},
    ),
    **_add_prefix("dbcp2", "catalina_datasource_", {"numactive": "in_use", "numidle": "idle", "maxtotal": "max_open"}),
    # node-postgres-prometheus-exporter.
    **_add_prefix(
        "node-pg",
        "pg_pool_",
        {
            "size": "open",
            "max": "max_open",
            "active_connections": "in_use",
            "idle_connections": "idle",
            "waiting_connections": "waiting",
            "connections_created": "opened_total",
        },
    ),
    **_add_prefix(
        "prisma",
        "prisma_",
        {
            "pool_connections_open": "open",
            "pool_connections_busy": "in_use",
            "pool_connections_idle": "idle",
            "client_queries_wait": "waiting",
            "pool_connections_opened": "opened_total",
        },
    ),
    **_add_prefix(
        "rails",
        "ruby_active_record_connection_pool_",
        {"size": "max_open", "connections": "open", "busy": "in_use", "idle": "idle", "waiting": "waiting"},
    ),
    # prometheus_exporter without its prefix.
    **_add_prefix(
        "rails",
        "active_record_connection_pool_",
        {"size": "max_open", "connections": "open", "busy": "in_use", "idle": "idle", "waiting": "waiting"},
    ),
    **_add_prefix(
        "rails",
        "gitlab_database_connection_pool_",
        {"size": "max_open", "connections": "open", "busy": "in_use", "idle": "idle", "waiting": "waiting"},
    ),
    **_add_prefix(
        "vertx",
        "vertx_pool_",
        {"in_use": "in_use", "queue_pending": "waiting", "completed": "use_count_total"},
    ),
    # sqlx has no exporter: names that several services give to pool.size() and pool.num_idle().
    **_add_prefix(
        "sqlx",
        "sqlx_pool_",
        {"connections_open": "open", "connections_idle": "idle", "size": "open", "idle": "idle", "connections": "open"},
    ),
}
"""By the name without ``_total``, which not every exporter writes."""

ENDINGS: dict[str, Meaning] = {
    "_checkout_queue_length": Meaning("ecto", "waiting"),
    "_ready_conn_count": Meaning("ecto", "idle"),
    "_repo_pool_size": Meaning("ecto", "max_open"),
}
"""Of names that begin with an application's own: what telemetry makes of DBConnection.get_connection_metrics()."""


def find_meaning(name: str) -> Meaning | None:
    """Return what a metric adds to, by its name without ``_total``; None for one that is not of a pool."""
    found = MEANINGS.get(name) or MEANINGS.get(name.lower())
    if found is None and name.endswith(("_length", "_count", "_size")):
        found = next((meaning for ending, meaning in ENDINGS.items() if name.endswith(ending)), None)
    return found


JSON_KEYS: dict[str, Meaning] = {
    **_add_prefix(
        "psycopg_pool",
        "",
        {
            "pool_max": "max_open",
            "pool_size": "open",
            "pool_available": "idle",
            "requests_waiting": "waiting",
            "requests_num": "acquired_total",
            "requests_queued": "queued_total",
            "requests_wait_ms": ("wait_time_total", _MS),
            "requests_errors": "timed_out_total",
            "usage_ms": ("use_time_total", _MS),
            "connections_num": "opened_total",
            "connections_errors": "open_errors_total",
        },
    ),
    **_add_prefix(
        "database/sql",
        "",
        {
            "MaxOpenConnections": "max_open",
            "OpenConnections": "open",
            "InUse": "in_use",
            "Idle": "idle",
            "WaitCount": "queued_total",
            "WaitDuration": ("wait_time_total", _NS),
            "MaxIdleClosed": "closed_idle_total",
            "MaxIdleTimeClosed": "closed_idle_total",
            "MaxLifetimeClosed": "closed_lifetime_total",
        },
    ),
    **_add_prefix("node-pg", "", {"totalCount": "open", "idleCount": "idle", "waitingCount": "waiting"}),
    **_add_prefix("tarn", "", {"numUsed": "in_use", "numFree": "idle", "numPendingAcquires": "waiting"}),
    **_add_prefix(
        "hikaricp",
        "",
        {
            "activeConnections": "in_use",
            "idleConnections": "idle",
            "totalConnections": "open",
            "threadsAwaitingConnection": "waiting",
            "maximumPoolSize": "max_open",
            # Jolokia keeps the bean's capitals.
            "ActiveConnections": "in_use",
            "IdleConnections": "idle",
            "TotalConnections": "open",
            "ThreadsAwaitingConnection": "waiting",
            "MaximumPoolSize": "max_open",
        },
    ),
    **_add_prefix(
        "pgxpool",
        "",
        {
            "acquireCount": "acquired_total",
            "acquireDuration": ("wait_time_total", _NS),
            "acquiredConns": "in_use",
            "canceledAcquireCount": "timed_out_total",
            "emptyAcquireCount": "queued_total",
            "idleConns": "idle",
            "maxConns": "max_open",
            "maxIdleDestroyCount": "closed_idle_total",
            "maxLifetimeDestroyCount": "closed_lifetime_total",
            "newConnsCount": "opened_total",
            "totalConns": "open",
            "acquire_count": "acquired_total",
            "acquire_duration": ("wait_time_total", _NS),
            "acquired_conns": "in_use",
            "canceled_acquire_count": "timed_out_total",
            "empty_acquire_count": "queued_total",
            "idle_conns": "idle",
            "max_conns": "max_open",
            "new_conns_count": "opened_total",
            "total_conns": "open",
        },
    ),
    **_add_prefix(
        "r2dbc-pool",
        "",
        {
            "acquiredSize": "in_use",
            "allocatedSize": "open",
            "idleSize": "idle",
            "pendingAcquireSize": "waiting",
            "maxAllocatedSize": "max_open",
        },
    ),
    **_add_prefix(
        "agroal",
        "",
        {
            "activeCount": "in_use",
            "availableCount": "idle",
            "awaitingCount": "waiting",
            "creationCount": "opened_total",
        },
    ),
    **_add_prefix(
        "dbcp2",
        "",
        {
            "numActive": "in_use",
            "numIdle": "idle",
            "maxTotal": "max_open",
            "numWaiters": "waiting",
            "NumActive": "in_use",
            "NumIdle": "idle",
            "MaxTotal": "max_open",
            "NumWaiters": "waiting",
        },
    ),
    **_add_prefix(
        "c3p0",
        "",
        {
            "numConnections": "open",
            "numBusyConnections": "in_use",
            "numIdleConnections": "idle",
            "numThreadsAwaitingCheckoutDefaultUser": "waiting",
        },
    ),
}
"""A library leaves out of its JSON what never happened; one key of its own is enough to recognize it."""

_COMMON_WORDS: tuple[tuple[frozenset[str], dict[str, Meaning]], ...] = tuple(
    (frozenset(telling.split()), _add_prefix(library, "", names))
    for telling, library, names in (
        ("busy", "rails", {"size": "max_open", "connections": "open", "busy": "in_use", "waiting": "waiting"}),
        (
            "using available",
            "sequelize",
            {"maxSize": "max_open", "size": "open", "using": "in_use", "available": "idle", "waiting": "waiting"},
        ),
        (
            "borrowed available",
            "generic-pool",
            {"max": "max_open", "size": "open", "borrowed": "in_use", "available": "idle", "pending": "waiting"},
        ),
        (
            "acquiredConnections",
            "slonik",
            {"acquiredConnections": "in_use", "idleConnections": "idle", "waitingClients": "waiting"},
        ),
        ("freesize", "aiopg", {"maxsize": "max_open", "size": "open", "freesize": "idle"}),
        ("idle_size", "asyncpg", {"max_size": "max_open", "size": "open", "idle_size": "idle"}),
        ("numBusyConnections", "c3p0", {"maxPoolSize": "max_open"}),
        ("numUsed", "tarn", {"max": "max_open"}),
        ("totalCount idleCount", "node-pg", {"max": "max_open"}),
    )
)
"""Keys that are words of any program: a pool's only beside all of the keys before them."""


def find_json_meanings(keys: Collection[str]) -> dict[str, Meaning]:
    """Return what the keys of one JSON object add to, as far as they are a pool's."""
    found = {key: JSON_KEYS[key] for key in keys if key in JSON_KEYS}
    for telling, meanings in _COMMON_WORDS:
        if telling.issubset(keys):
            found |= {key: meanings[key] for key in keys if key in meanings}
    return found
