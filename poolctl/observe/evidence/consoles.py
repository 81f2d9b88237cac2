"""Pasted SHOW tables of PgBouncer and Pgpool-II, and the scrape of an exporter of theirs, as their samples.

The rows mean what they mean live: the readers are those of ``pgbouncer`` and ``pgpool``. This module decides only
which SHOW a table is the answer to.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite

from poolctl.observe.admin_console import Row
from poolctl.observe.evidence.tables import PastedTable
from poolctl.observe.pgbouncer import read_sample
from poolctl.observe.pgpool import parse_children, parse_connections, parse_limits
from poolctl.observe.prometheus import Series
from poolctl.observe.snapshot import BouncerDatabase, BouncerPool, BouncerSample, PgpoolSample

_BOUNCER: tuple[tuple[str, frozenset[str], int], ...] = (
    ("POOLS", frozenset({"cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used", "maxwait", "pool_mode"}), 2),
    (
        "STATS",
        frozenset({"total_xact_count", "total_query_count", "total_wait_time", "avg_xact_time", "total_requests"}),
        2,
    ),
    (
        "CLIENTS",
        frozenset({"type", "addr", "ptr", "link", "connect_time", "request_time", "remote_pid", "wait", "wait_us"}),
        2,
    ),
    (
        "DATABASES",
        frozenset({"pool_size", "min_pool_size", "reserve_pool", "reserve_pool_size", "current_connections"}),
        2,
    ),
    ("LISTS", frozenset({"list", "items"}), 2),
    ("CONFIG", frozenset({"key", "value", "default", "changeable"}), 2),
)
"""What SHOW prints, the columns that it is known by, and how many of them are enough."""
_PGPOOL: tuple[tuple[str, frozenset[str], int], ...] = (
    ("pool_pools", frozenset({"pool_backendpid", "pool_connected", "pool_pid", "backend_id", "pool_counter"}), 3),
    ("pool_processes", frozenset({"pool_pid", "start_time", "username", "create_time", "pool_counter"}), 3),
    ("pool_status", frozenset({"item", "value", "description"}), 2),
)


def find_show(names: Sequence[str]) -> str:
    """Return which SHOW of PgBouncer or Pgpool-II has these columns, "" for none."""
    found = set(names)
    for table, columns, enough in (*_PGPOOL, *_BOUNCER):
        if len(found & columns) >= enough:
            return table
    return ""


def read_bouncer(tables: Iterable[PastedTable], target: str) -> BouncerSample | None:
    """Return the sample that the SHOW tables of one PgBouncer make, None where none of them is one."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for table in tables:
        show = find_show(table.columns)
        if show == "CLIENTS":
            # SHOW SERVERS and SHOW SOCKETS have the same columns; the type says which a row is.
            for row in table.rows:
                rows["SERVERS" if (row.get("type") or "").upper() == "S" else "CLIENTS"].append(Row(row))
        elif show and show.isupper():
            rows[show] += [Row(row) for row in table.rows]
    return read_sample(rows, target=target) if rows else None


def count_unreadable(tables: Iterable[PastedTable]) -> int:
    """Return how many rows of SHOW POOLS do not say how many clients wait: a missing or torn cell is no zero."""
    return sum(
        not (row.get("cl_waiting") or "").strip().isdecimal()
        for table in tables
        if find_show(table.columns) == "POOLS"
        for row in table.rows
    )


def read_pgpool(tables: Iterable[PastedTable], target: str) -> PgpoolSample | None:
    """Return the sample that the SHOW tables of one Pgpool-II make, None where none of them shows connections."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for table in tables:
        show = find_show(table.columns)
        if show.startswith("pool_"):
            rows[show] += [Row(row) for row in table.rows]
    if not rows["pool_processes"] and not rows["pool_pools"]:
        return None
    limits = parse_limits(rows["pool_status"])
    return PgpoolSample(
        target=target,
        children=parse_children(rows["pool_processes"], {}),
        connections=parse_connections(rows["pool_pools"]),
        num_init_children=limits.get("num_init_children"),
        max_pool=limits.get("max_pool"),
        reserved_connections=limits.get("reserved_connections"),
    )


_EXPORTED = {
    "client_active_connections": "clients_active",
    "client_waiting_connections": "clients_waiting",
    "server_active_connections": "servers_active",
    "server_idle_connections": "servers_idle",
    "server_used_connections": "servers_used",
    "server_testing_connections": "servers_tested",
    "server_login_connections": "servers_login",
    "client_maxwait_seconds": "max_wait",
    # pgbouncer_exporter before 0.4 wrote the columns' own names.
    "cl_active": "clients_active",
    "cl_waiting": "clients_waiting",
    "sv_active": "servers_active",
    "sv_idle": "servers_idle",
    "sv_used": "servers_used",
    "maxwait": "max_wait",
}
_CONFIG = {
    "pgbouncer_config_max_client_connections": "max_client_conn",
    "pgbouncer_config_max_user_connections": "max_user_connections",
    "pgbouncer_config_default_pool_size": "default_pool_size",
}


def is_bouncer_metric(name: str) -> bool:
    """Return True for the metrics of pgbouncer_exporter."""
    return name.startswith("pgbouncer_")


def read_exporter(series: Iterable[Series], target: str) -> BouncerSample | None:
    """Return the sample in a scrape of pgbouncer_exporter, None where it has no pool."""
    pools: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    databases: dict[str, BouncerDatabase] = {}
    config: dict[str, str] = {}
    lists: dict[str, int] = {}
    for one in series:
        if not isfinite(one.value):
            continue
        if one.name in _CONFIG:
            config[_CONFIG[one.name]] = f"{one.value:.0f}"
        elif one.name.startswith("pgbouncer_pools_") and (field := _EXPORTED.get(one.name[len("pgbouncer_pools_") :])):
            pools[one.labels.get("database", ""), one.labels.get("user", "")][field] = one.value
        elif one.name.startswith("pgbouncer_databases_"):
            name = one.labels.get("name") or one.labels.get("database", "")
            databases[name] = _with_size(databases.get(name), name, one)
        elif one.name == "pgbouncer_used_clients":
            lists["used_clients"] = round(one.value)
    if not pools:
        return None
    return BouncerSample(
        target=target,
        pools=tuple(_pool(key, values) for key, values in pools.items() if key[0] != "pgbouncer"),
        databases=tuple(databases.values()),
        config=config,
        lists=lists,
    )


def find_silent_pools(series: Iterable[Series], sample: BouncerSample) -> list[str]:
    """Return the names of the pools of ``sample`` whose waiting clients ``series`` does not have."""
    known = {
        (one.labels.get("database", ""), one.labels.get("user", ""))
        for one in series
        if isfinite(one.value) and _EXPORTED.get(one.name.removeprefix("pgbouncer_pools_")) == "clients_waiting"
    }
    return [f"{pool.database}/{pool.user}" for pool in sample.pools if (pool.database, pool.user) not in known]


def _pool(key: tuple[str, str], values: Mapping[str, float]) -> BouncerPool:
    pool = BouncerPool(key[0], key[1], max_wait=values.get("max_wait", 0.0))
    counts = {name: round(value) for name, value in values.items() if name != "max_wait"}
    return replace(pool, **counts)  # type: ignore[arg-type] # by name: only counts are left


def _with_size(known: BouncerDatabase | None, name: str, one: Series) -> BouncerDatabase:
    labels = one.labels
    row = known or BouncerDatabase(
        name, labels.get("host"), database=labels.get("database"), mode=labels.get("pool_mode")
    )
    what = one.name[len("pgbouncer_databases_") :]
    value = round(one.value)
    if what == "pool_size":
        return replace(row, pool_size=value)
    if what == "reserve_pool":
        return replace(row, reserve_pool_size=value)
    if what == "max_connections":
        return replace(row, max_connections=value)
    if what == "current_connections":
        return replace(row, current_connections=value)
    return replace(row, paused=value > 0) if what == "paused" else row
