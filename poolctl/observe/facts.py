"""What does not change while one looks: limits, roles, databases, and the server's own settings."""

import re
from collections.abc import Iterable, Mapping

from poolctl.observe.connection import PATIENCE, Connection, Row
from poolctl.observe.refusals import Refused, ServerLost, StatementFailed
from poolctl.observe.snapshot import DatabaseFacts, Refusal, RoleFacts, ServerFacts
from poolctl.observe.sql import statement

_UNITS = {
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "B": 1.0,
    "kB": 1024.0,
    "8kB": 8192.0,
    "MB": 1024.0**2,
}
"""Of pg_settings, in seconds and bytes."""

QUEUED_AFTER = 1.0
"""Seconds: behind a pooler that has already let us in the first answer takes milliseconds, unless we stand in its
queue; there its own limit is minutes (query_wait_timeout, 120 s)."""

_TELLING = re.compile(r"timeout$|^tcp_|^client_connection_check_interval$|^track_|^work_mem$|^max_parallel_")
"""Settings of roles and databases that say something about sessions. Applications keep secrets in others."""


def read_facts(connection: Connection, within: float = PATIENCE) -> tuple[ServerFacts, int, int, str | None]:
    """The facts, the oid of the database looked at, how many clients hold a slot (this one among them), and where
    pg_stat_statements is: a schema's name, quoted, or None.

    Raises Refused for what is no PostgreSQL, StatementFailed, ServerLost.
    """
    if connection.is_console:
        text = "this is PgBouncer's admin console, and no database; --pgbouncer reads it"
        raise Refused(Refusal("unknown", text, target=connection.target))
    version = connection.server_version
    settings_first = statement("settings", version)
    parts = ("facts", "roles", "database_limits")
    within = min(within, QUEUED_AFTER) if connection.has_pooler_pid else within
    try:
        settings, facts, roles, databases = connection.look(
            *(statement(part, version) for part in parts), before_limits=settings_first, within=within
        )
    except ServerLost as lost:
        if lost.hung and connection.has_pooler_pid:
            text = f"a pooler let us in, and no server connection behind it gave an answer within {within:g} s"
            raise Refused(Refusal("pooler-queue", text, target=connection.target)) from None
        raise
    if not facts:
        raise StatementFailed("the server says nothing about the role that we are", "")
    row = facts[0]
    values = _settings(settings)
    server = ServerFacts(
        target=connection.target,
        version=row["version"].split(" ")[0],
        version_number=row["version_number"],
        role=row["role"],
        database=row["database"],
        max_connections=int(values["max_connections"]),
        superuser_reserved=int(values["superuser_reserved_connections"]),
        reserved=int(values.get("reserved_connections", 0) + values.get("rds.rds_superuser_reserved_connections", 0)),
        is_superuser=row["is_superuser"],
        uses_reserved=row.get("uses_reserved", False),
        can_see_all=row["can_see_all"],
        may_signal=row["may_signal"],
        is_behind_pooler=_is_behind_pooler(connection, row),
        is_local=connection.is_local,
        settings=values,
        roles=tuple(_role(role) for role in roles),
        databases=tuple(
            DatabaseFacts(each["name"], _limit(each["connection_limit"]), _role_settings(each["settings"]))
            for each in databases
        ),
    )
    return server, row["database_oid"], row["clients"], row["statements_schema"]


def _settings(rows: Iterable[Row]) -> dict[str, float]:
    """Times in seconds, memory in bytes, a switch as 1 or 0. What only this session has is left out."""
    found: dict[str, float] = {}
    for row in rows:
        if not row["is_server_wide"]:
            continue
        value = float(row["setting"] == "on") if row["vartype"] == "bool" else float(row["setting"])
        # -1 switches some of them off, 0 the others.
        found[row["name"]] = value * _UNITS.get(row["unit"] or "", 1.0) if value > 0 else value
    return found


def _is_behind_pooler(connection: Connection, row: Mapping[str, object]) -> bool:
    if row["pid"] != connection.login_pid:
        return True
    # Pgpool-II gives the backend's own process id. Another port at the other end may also be a router's work, but not
    # on this machine; elsewhere only Pgpool-II answers what only Pgpool-II understands.
    if row["client_port"] == connection.local_port:
        return False
    if connection.is_local:
        return True
    try:
        return bool(connection.ask("SHOW pool_version"))
    except StatementFailed:
        return False


def _role(row: Row) -> RoleFacts:
    return RoleFacts(
        row["name"],
        _limit(row["connection_limit"]),
        row["is_superuser"],
        row.get("uses_reserved", False),
        _role_settings(row["settings"]),
    )


def _limit(value: int) -> int | None:
    """-1 is no limit, -2 a database that was half dropped (16+)."""
    return value if value >= 0 else None


def _role_settings(entries: Iterable[str] | None) -> dict[str, str]:
    """ "name=value" of pg_db_role_setting; what is set for one database comes after what is set for all."""
    pairs = (entry.partition("=") for entry in entries or ())
    return {name: value for name, _, value in pairs if _TELLING.search(name)}
