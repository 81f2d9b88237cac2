"""What the figures of connection pools are called, library by library.

Prometheus names: client_golang's collector (go_sql_*), sqlstats, gorm's plugin, HikariCP's own tracker and
Micrometer's, OpenTelemetry's db.client.connection.* and its older spelling, pgxpool's exporters.
JSON keys: psycopg_pool's ``get_stats()``, Go's ``sql.DBStats``, node-postgres, tarn (knex), HikariCP's MXBean.
"""

from collections.abc import Mapping
from typing import NamedTuple

_MS, _NS = 1e-3, 1e-9


class Meaning(NamedTuple):
    """Of a name: the field of PoolFigures that it adds to, after multiplication. "" is one for each state."""

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
            "acquire_count": "acquired_total",
            "acquires": "acquired_total",
            "acquire_duration_ns": ("wait_time_total", _NS),
            "acquire_duration_seconds": "wait_time_total",
            "empty_acquire": "queued_total",
            "empty_acquire_count": "queued_total",
            "canceled_acquire": "timed_out_total",
            "canceled_acquire_count": "timed_out_total",
            "new_conns_count": "opened_total",
            "max_idle_destroy_count": "closed_idle_total",
            "max_lifetime_destroy_count": "closed_lifetime_total",
        },
    ),
}
"""By the name without ``_total``, which not every exporter writes."""

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
        },
    ),
}
"""Each library leaves out of its JSON what never happened; a key of its own is enough to know it by."""
