"""PgBouncer's view of itself, from its admin console.

Reads every table by column name: columns were inserted, renamed and added in 1.16, 1.18, 1.21, 1.23 and in each version
since. The console accepts a client also when ``max_client_conn`` is reached, but counts it like any other: poolctl's
own is left out of every count, and is closed between samples where it would take the last place.
"""

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from poolctl.errors import BadInput
from poolctl.observe.admin_console import (
    ANSWER_WITHIN,
    Console,
    Row,
    explain_failure,
    learn_offset,
    parse_instant,
    read_local_offsets,
)
from poolctl.observe.connection import NAME
from poolctl.observe.refusals import Refused, ServerLost, StatementFailed
from poolctl.observe.snapshot import (
    BouncerDatabase,
    BouncerLink,
    BouncerPool,
    BouncerSample,
    BouncerStats,
    BouncerUser,
    Source,
)

CONSOLE = "pgbouncer"
"""The database name that leads to the console."""
_SECRET_KEYS = re.compile(r"passw|secret|key_file|auth_file|ldap|auth_query")
_TABLES = ("POOLS", "CLIENTS", "SERVERS", "DATABASES", "USERS", "STATS", "LISTS", "CONFIG", "VERSION")


class PgBouncer:
    """One PgBouncer. ``sample`` takes at most ``patience`` seconds and never raises; ``source`` says how it went.

    It needs a user of ``admin_users`` or ``stats_users``. Raises BadInput for a connection string that cannot be
    read, or that names a database: the console is the one named ``pgbouncer``, which is taken when none is named.
    """

    def __init__(self, conninfo: str, *, patience: float = ANSWER_WITHIN) -> None:
        self._console = Console(conninfo, {"dbname": CONSOLE, "port": "6432"})
        if self._console.database != CONSOLE:
            raise BadInput(
                f"the connection string of a PgBouncer names another database than {CONSOLE!r}, its admin console",
                hint=f"name dbname={CONSOLE}, or no database",
            )
        self._patience = patience
        self.source = Source("pgbouncer", self._console.target)

    @property
    def port(self) -> int | None:
        """The port that PgBouncer listens on, for the host's view of its clients."""
        return self._console.port

    def sample(self) -> BouncerSample | None:
        """Sample it; None when the console did not answer. Tables that could not be read are empty, and named in
        ``source.reason``."""
        deadline = time.monotonic() + self._patience
        tables: dict[str, list[Row]] = {}
        refused: dict[str, str] = {}
        silence = ""
        for table in _TABLES:
            try:
                tables[table] = self._console.query(f"SHOW {table}", deadline, may_connect=table == _TABLES[0])
            except StatementFailed as error:
                refused[table] = error.message
            except (Refused, ServerLost) as error:
                silence = explain_failure(error)
                break
        self.source = replace(self.source, ok="POOLS" in tables, reason=_explain_missing(tables, refused, silence))
        if "POOLS" not in tables:
            return None
        sample = read_sample(
            tables,
            target=self._console.target,
            own_port=self._console.own_port,
            connected_at=self._console.connected_at,
        )
        # Closed, not kept: on a full PgBouncer the next client would be refused because of poolctl.
        if is_place_needed(sample):
            self._console.close()
        return sample

    def close(self) -> None:
        self._console.close()


def is_place_needed(sample: BouncerSample) -> bool:
    """Return True if poolctl may take the place of an application: the last one, or one beyond."""
    limit, used = sample.config.get("max_client_conn", ""), sample.lists.get("used_clients")
    return limit.isdecimal() and used is not None and used + 1 >= int(limit)


def _explain_missing(tables: Mapping[str, list[Row]], refused: Mapping[str, str], silence: str) -> str:
    if "POOLS" in refused:
        return f"it is not a console of PgBouncer: {refused['POOLS']}"
    if not tables:
        return f"{silence}: the user has to be one of stats_users" if silence == "not allowed" else silence
    missing = [table for table in _TABLES if table not in tables]
    if not missing:
        return ""
    return f"SHOW {', '.join(missing)} not read: {silence or next(iter(refused.values()))}"


def find_own_client(clients: Iterable[Row], own_port: int | None) -> Row | None:
    """Find poolctl's own row of SHOW CLIENTS: by its port, or by its process id over a Unix socket (``own_port`` None).

    Behind an address translation neither fits; then the only client of the console that is named so is taken.
    """
    candidates = [
        row
        for row in clients
        if row.text("database") == CONSOLE and row.text("application_name", NAME) == NAME  # the name: 1.18+
    ]
    for row in candidates:
        if row.count("port") == own_port or (own_port is None and row.count("remote_pid") == os.getpid()):
            return row
    return candidates[0] if len(candidates) == 1 else None


def read_sample(
    tables: Mapping[str, list[Row]], *, target: str, own_port: int | None = None, connected_at: float | None = None
) -> BouncerSample:
    """Build the sample from the SHOW tables, by their names; a missing table leaves its part empty.

    ``own_port`` and ``connected_at`` are of poolctl's connection, which is left out.
    """
    clients = tables.get("CLIENTS", [])
    own = find_own_client(clients, own_port)
    offsets = read_local_offsets() | learn_offset(own.text("connect_time") if own else None, connected_at)
    return BouncerSample(
        target=target,
        version=parse_version(tables.get("VERSION", [])),
        pools=parse_pools(tables.get("POOLS", [])),
        clients=tuple(parse_link(row, "client", offsets) for row in clients if row is not own),
        servers=tuple(parse_link(row, "server", offsets) for row in tables.get("SERVERS", [])),
        databases=parse_databases(tables.get("DATABASES", [])),
        stats=parse_stats(tables.get("STATS", [])),
        config=parse_config(tables.get("CONFIG", [])),
        lists=parse_lists(tables.get("LISTS", []), own=1 if own is not None else 0),
        users=parse_users(tables.get("USERS", [])),
    )


def parse_pools(rows: Iterable[Row]) -> tuple[BouncerPool, ...]:
    """Parse SHOW POOLS without the console's own pool, which has no server."""
    return tuple(
        BouncerPool(
            database=row.text("database"),
            user=row.text("user"),
            clients_active=row.count("cl_active"),
            clients_waiting=row.count("cl_waiting"),
            servers_active=row.count("sv_active"),
            servers_idle=row.count("sv_idle"),
            servers_used=row.count("sv_used"),
            servers_tested=row.count("sv_tested"),
            servers_login=row.count("sv_login"),
            max_wait=row.seconds("maxwait", "maxwait_us"),
            mode=row.get("pool_mode"),
        )
        for row in rows
        if row.text("database") != CONSOLE
    )


def parse_link(row: Row, kind: Literal["client", "server"], offsets: Mapping[str, float]) -> BouncerLink:
    """Parse a row of SHOW CLIENTS or SHOW SERVERS. ``offsets``: of the zones that PgBouncer writes its times in."""
    address = row.text("addr")
    return BouncerLink(
        kind=kind,
        user=row.text("user"),
        database=row.text("database"),
        state=row.text("state"),
        address="local" if address.startswith("unix") else address,
        port=row.count("port"),
        pointer=row.text("ptr"),
        link=row.text("link"),
        application=row.text("application_name"),
        connected_at=parse_instant(row.text("connect_time"), offsets),
        requested_at=parse_instant(row.text("request_time"), offsets),
        wait=row.seconds("wait", "wait_us"),
        remote_pid=row.count("remote_pid") or None,
    )


def parse_databases(rows: Iterable[Row]) -> tuple[BouncerDatabase, ...]:
    """Parse SHOW DATABASES without the console's own. ``reserve_pool`` was renamed in 1.24."""
    return tuple(
        BouncerDatabase(
            name=row.text("name"),
            host=row.get("host"),
            port=row.count("port") or None,
            database=row.get("database"),
            pool_size=row.count("pool_size"),
            reserve_pool_size=row.count("reserve_pool_size", row.count("reserve_pool")),
            mode=row.get("pool_mode"),
            max_connections=row.count("max_connections"),
            current_connections=row.count("current_connections"),
            paused=row.count("paused") > 0,
            max_client_connections=row.count("max_client_connections"),
            current_client_connections=row.count("current_client_connections"),
        )
        for row in rows
        if row.text("name") != CONSOLE
    )


def parse_users(rows: Iterable[Row]) -> tuple[BouncerUser, ...]:
    """Parse the users in SHOW USERS that have a limit: 1.23 shows the one on servers, 1.24 the one on clients, too."""
    users = (
        BouncerUser(
            name=row.text("name"),
            max_connections=row.count("max_user_connections"),
            current_connections=row.count("current_connections"),
            max_client_connections=row.count("max_user_client_connections"),
            current_client_connections=row.count("current_client_connections"),
        )
        for row in rows
    )
    return tuple(user for user in users if user.max_connections or user.max_client_connections)


def parse_stats(rows: Iterable[Row]) -> tuple[BouncerStats, ...]:
    """Parse SHOW STATS without the console's own; times become seconds."""
    return tuple(
        BouncerStats(
            database=row.text("database"),
            transactions=row.count("total_xact_count"),
            queries=row.count("total_query_count"),
            query_time=row.count("total_query_time") / 1e6,
            transaction_time=row.count("total_xact_time") / 1e6,
            wait_time=row.count("total_wait_time") / 1e6,
            logins=row.count("total_client_login_count") if "total_client_login_count" in row else None,
        )
        for row in rows
        if row.text("database") != CONSOLE
    )


def parse_config(rows: Iterable[Row]) -> dict[str, str]:
    """Parse SHOW CONFIG without what names or holds secrets: passwords, key files, the file and the query of users."""
    return {row.text("key"): row.text("value") for row in rows if not _SECRET_KEYS.search(row.text("key"))}


def parse_lists(rows: Iterable[Row], *, own: int = 0) -> dict[str, int]:
    """Parse SHOW LISTS; ``own`` of the used clients are poolctl's."""
    lists = {row.text("list"): row.count("items") for row in rows}
    if "used_clients" in lists:
        lists["used_clients"] = max(0, lists["used_clients"] - own)
    return lists


def parse_version(rows: Iterable[Row]) -> str:
    """Return "1.18.0" of "PgBouncer 1.18.0"; "" where there is none."""
    for row in rows:
        match = re.search(r"\d+(?:\.\d+)+\S*", row.text("version"))
        if match is not None:
            return match[0]
    return ""
