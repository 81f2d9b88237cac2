"""PostgreSQL 12 to 18, sampled over one read-only connection that is named ``poolctl``.

Decides what is asked, how often, and what happens when the server refuses, dies, hangs or sends nonsense: the sample
is left out, with a reason. A sample connects at most twice, and a refusal that time does not cure is not tried again.
"""

import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from poolctl.errors import PoolctlError
from poolctl.observe.activity import CounterReader, list_relations, read_backends
from poolctl.observe.connection import PATIENCE, Row, ServerConnection, describe_target
from poolctl.observe.cores import count_cores_of_backend
from poolctl.observe.refusals import Refused, ServerLost, StatementFailed
from poolctl.observe.snapshot import (
    Backend,
    DatabaseCounters,
    DatabaseFacts,
    Refusal,
    RoleFacts,
    ServerFacts,
    ServerSample,
    Source,
)
from poolctl.observe.sql import format_numbers, load_statement
from poolctl.observe.terminate import Action, TerminationResult, end_backend

RETRY_EVERY = 1.0
"""Seconds at least between a failed attempt to connect and the next."""

PATIENT_RETRY = 5.0
"""The same for poolctl as a service, which also waits so long after an attempt that succeeded."""
INCURABLE_RETRY = 60.0
"""Seconds after which a service tries again what time alone does not cure: a password may be corrected."""

RECONNECT_WITHIN = 1.0
"""Seconds for ``reconnect``."""

_BACKEND_ENDS = 0.02
"""Seconds that a backend may take to end when its client has left."""

_INCURABLE = ("authentication", "unknown")
"""Refusals that time does not cure: trying again would only fill the server's log."""
_MOST_NAMES = 5_000

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
"""Units of pg_settings, in seconds and bytes."""

QUEUED_AFTER = 1.0
"""Seconds for the first answer behind a pooler. It takes milliseconds, unless poolctl stands in the pooler's queue: the
limit of that queue is minutes (query_wait_timeout, 120 s)."""

_SESSION_SETTINGS = re.compile(r"timeout$|^tcp_|^client_connection_check_interval$|^track_|^work_mem$|^max_parallel_")
"""Settings of roles and databases that matter for connections. Applications keep secrets in others."""


class Postgres:
    """One server. Connects at the first ``sample``, and again, once a sample, when the connection was lost.

    ``emergency``: a slot that is reserved for superusers or pg_use_reserved_connections may be taken; without it the
    connection is closed as soon as it turns out to hold such a slot. ``is_patient``: for days; it never gives up, and
    connects at most once in ``PATIENT_RETRY`` seconds. Raises BadInput for a conninfo that cannot be
    read. Safe to use from several threads, one after the other.
    """

    def __init__(
        self, conninfo: str, *, emergency: bool = False, within: float = PATIENCE, is_patient: bool = False
    ) -> None:
        self.target = describe_target(conninfo)
        self.facts: ServerFacts | None = None
        """Facts of the last connection; None as long as there was none."""
        self.refusal: Refusal | None = None
        """Why the last attempt to connect was refused; None when it was not."""
        self._conninfo = conninfo
        self._emergency = emergency
        self._within = within
        self._connection: ServerConnection | None = None
        self._using = threading.Lock()
        self._failure = ""
        self._is_patient = is_patient
        self._next_attempt_at = 0.0
        self._names: dict[int, str] = {}
        self._database = 0
        self._known: dict[int, Backend] = {}
        self._counters = CounterReader()

    @property
    def source(self) -> Source:
        """The state after the last sample."""
        missing = "; ".join(self._counters.reasons)
        return Source("postgres", self.target, ok=not self._failure, reason=self._failure or missing)

    def sample(self) -> ServerSample | None:
        """Sample the server; None, with ``source.reason`` and maybe ``refusal``, when it does not answer.

        Takes at most about ``within`` seconds each for connecting and for the answers.
        """
        with self._using:
            try:
                connection = self._connection or self._connect()
                if connection is None:
                    return None
                try:
                    sample = self._take_sample(connection)
                except ServerLost as lost:
                    self._forget(lost)
                    if lost.hung or self.refusal is not None or (connection := self._connect()) is None:
                        return None
                    sample = self._take_sample(connection)
            except (PoolctlError, LookupError, TypeError, ValueError) as error:
                self._forget(error)
                return None
            self._failure = ""
            return sample

    def reconnect(self) -> tuple[float, float] | None:
        """Close the connection and open it again; return the seconds for that and for a round trip.

        None where there is no connection, where it is in use, or where the server refuses; then the next ``sample``
        connects. The facts stay as they are.
        """
        if self._connection is None or not self._using.acquire(blocking=False):
            return None
        try:
            self._connection.close()
            self._connection = None
            # The backend ends a moment after its connection: at no instant is poolctl there twice.
            time.sleep(_BACKEND_ENDS)
            began = time.monotonic()
            connection = ServerConnection.open(self._conninfo, within=RECONNECT_WITHIN)
            self._connection = connection
            opened = time.monotonic()
            # The first statement of a backend fills its caches, so the second one is the round trip.
            connection.execute("", within=RECONNECT_WITHIN)
            sent = time.monotonic()
            connection.execute("", within=RECONNECT_WITHIN)
            return opened - began, time.monotonic() - sent
        except PoolctlError as error:
            self._forget(error)
            return None
        finally:
            self._using.release()

    def end_backend(
        self, pid: int, started_at: float, *, still: str = "true", action: Action = "terminate"
    ) -> TerminationResult:
        """End one client's backend if it began at ``started_at`` and ``still`` holds, and wait a second for its end.

        ``still``: an SQL condition on a row ``a`` of pg_stat_activity, without any text of a client's. ``action``
        "cancel": end only its statement.
        """
        with self._using:
            if self._connection is None:
                return TerminationResult(pid, "refused", self._failure or "not connected")
            try:
                return end_backend(self._connection, pid, started_at, still, action)
            except StatementFailed as error:
                return TerminationResult(pid, "refused", error.message)
            except ServerLost as error:
                self._forget(error)
                return TerminationResult(pid, "refused", error.message)

    def close(self) -> None:
        """Close the connection; a later ``sample`` opens another."""
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connect(self) -> ServerConnection | None:
        """Connect and read the facts; None when it is too early to try again. Raises PoolctlError."""
        now = time.monotonic()
        if now < self._next_attempt_at:
            return None
        self._next_attempt_at = now + (PATIENT_RETRY if self._is_patient else RETRY_EVERY)
        try:
            connection = ServerConnection.open(self._conninfo, within=self._within)
        except Refused as error:
            if error.refusal.by in _INCURABLE:
                self._give_up(now)
            raise
        try:
            facts, self._database, clients, schema = read_facts(connection, self._within)
            self.facts = facts
            self._check_slot(facts, clients)
        except BaseException:
            connection.close()
            raise
        self._names, self._known = {}, {}
        self._counters = CounterReader(schema)
        self._connection, self.refusal = connection, None
        if not self._is_patient:
            self._next_attempt_at = 0.0
        return connection

    def _give_up(self, now: float) -> None:
        """Put off the next attempt: for ever, unless this is a service."""
        self._next_attempt_at = now + (INCURABLE_RETRY if self._is_patient else float("inf"))

    def _check_slot(self, facts: ServerFacts, clients: int) -> None:
        """Raise Refused when this connection holds a slot that ordinary clients could not have."""
        is_special = facts.is_superuser or facts.uses_reserved
        if self._emergency or not is_special or clients <= facts.usable:
            return
        if not self._is_patient:
            self._give_up(0.0)
        text = (
            f"only reserved slots are free: {clients - 1} clients hold the {facts.usable} for ordinary roles; "
            "--emergency takes a reserved one"
        )
        raise Refused(Refusal("reserved-slots" if facts.reserved else "superuser-slots", text, target=self.target))

    def _forget(self, error: Exception) -> None:
        """Note why there is no sample, and close the connection unless only a statement failed."""
        is_nonsense = not isinstance(error, PoolctlError)
        self._failure = f"the server's answer makes no sense ({error})" if is_nonsense else str(error)
        said = error.refusal if isinstance(error, Refused | ServerLost) else None
        # A server that ends backends does not refuse clients; a pooler may let a client in first, and refuse then.
        self.refusal = said if said is None or isinstance(error, Refused) or said.by.startswith("pooler") else None
        if self._connection is not None and not isinstance(error, StatementFailed):
            self._connection.close()
            self._connection = None

    def _take_sample(self, connection: ServerConnection) -> ServerSample:
        assert self.facts is not None
        version = self.facts.version_number
        parts = ("clock", "backends", "locks", "databases")
        (clock,), backends, locks, databases = connection.read(*(load_statement(part, version) for part in parts))
        self._learn_names(connection, list_relations(locks, self._database))
        read = read_backends(backends, locks, self._names, self._database)
        # Most backends are as they were: one object for equal rows keeps a long observation small.
        kept = tuple(self._known[each.pid] if self._known.get(each.pid) == each else each for each in read)
        self._known = {each.pid: each for each in kept}
        running = {each.query_id for each in kept if each.query_id is not None and each.is_active}
        statements, tables = self._counters.read(connection, version, running)
        self.facts = replace(self.facts, has_statements=self._counters.has_statements)
        counters = tuple(DatabaseCounters(**row) for row in databases)
        return ServerSample(clock["at"], clock["started_at"], kept, counters, statements, tables)

    def _learn_names(self, connection: ServerConnection, relations: set[int]) -> None:
        unknown = sorted(relations - self._names.keys())[:_MOST_NAMES]
        if not unknown:
            return
        try:
            (rows,) = connection.read(load_statement("relations").format(oids=format_numbers(unknown)))
        except StatementFailed:
            return
        self._names.update({row["oid"]: row["name"] for row in rows})


def read_facts(connection: ServerConnection, within: float = PATIENCE) -> tuple[ServerFacts, int, int, str | None]:
    """Read what does not change during an observation: limits, roles, databases, and the server's own settings.

    Returns the facts, the oid of the connected database, how many clients hold a slot (this one among them), and the
    quoted schema of pg_stat_statements, or None. Raises Refused for anything but a PostgreSQL, StatementFailed,
    ServerLost.
    """
    version = connection.server_version
    settings, facts, roles, databases = read_first(
        connection,
        *(load_statement(part, version) for part in ("facts", "roles", "database_limits")),
        before_limits=load_statement("settings", version),
        within=within,
    )
    if not facts:
        raise StatementFailed("the server shows nothing about poolctl's own role", "")
    row = facts[0]
    values = _read_settings(settings)
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
        is_behind_pooler=is_behind_pooler(connection, row),
        is_local=connection.is_local,
        cores=count_cores_of_backend(row["pid"]) if connection.is_local else None,
        settings=values,
        roles=tuple(_read_role(role) for role in roles),
        databases=tuple(
            DatabaseFacts(each["name"], _read_limit(each["connection_limit"]), _read_role_settings(each["settings"]))
            for each in databases
        ),
    )
    return server, row["database_oid"], row["clients"], row["statements_schema"]


def read_first(
    connection: ServerConnection, *statements: str, before_limits: str = "", within: float = PATIENCE
) -> list[list[Row]]:
    """Read for the first time on a connection, as ``ServerConnection.read``.

    Raises Refused for PgBouncer's console, and for a pooler that accepts the client and then lets it wait;
    StatementFailed, ServerLost.
    """
    if connection.is_console:
        text = "this is PgBouncer's admin console, and no database; --pgbouncer reads it"
        raise Refused(Refusal("unknown", text, target=connection.target))
    within = min(within, QUEUED_AFTER) if connection.has_pooler_pid else within
    try:
        return connection.read(*statements, before_limits=before_limits, within=within)
    except ServerLost as lost:
        if lost.hung and connection.has_pooler_pid:
            text = f"a pooler let us in, and no server connection behind it gave an answer within {within:g} s"
            raise Refused(Refusal("pooler-queue", text, target=connection.target)) from None
        raise


def _read_settings(rows: Iterable[Row]) -> dict[str, float]:
    """Convert settings: times in seconds, memory in bytes, a switch as 1 or 0; leave out what only this session has."""
    found: dict[str, float] = {}
    for row in rows:
        if not row["is_server_wide"]:
            continue
        value = float(row["setting"] == "on") if row["vartype"] == "bool" else float(row["setting"])
        # -1 switches some of them off, 0 the others.
        found[row["name"]] = value * _UNITS.get(row["unit"] or "", 1.0) if value > 0 else value
    return found


def is_behind_pooler(connection: ServerConnection, row: Mapping[str, object]) -> bool:
    """Return True if a pooler answers, by the ``pid`` and ``client_port`` that the backend reports in ``row``."""
    if row["pid"] != connection.login_pid:
        return True
    # Pgpool-II passes on the backend's own process id. Another port at the other end may also come from a router, but
    # not on this machine; elsewhere a command that only Pgpool-II understands decides.
    if row["client_port"] == connection.local_port:
        return False
    if connection.is_local:
        return True
    try:
        return bool(connection.execute("SHOW pool_version"))
    except StatementFailed:
        return False


def _read_role(row: Row) -> RoleFacts:
    return RoleFacts(
        row["name"],
        _read_limit(row["connection_limit"]),
        row["is_superuser"],
        row.get("uses_reserved", False),
        _read_role_settings(row["settings"]),
    )


def _read_limit(value: int) -> int | None:
    """Return None for no limit: -1, or -2 of a database that was half dropped (16+)."""
    return value if value >= 0 else None


def _read_role_settings(entries: Iterable[str] | None) -> dict[str, str]:
    """Parse "name=value" of pg_db_role_setting; what is set for one database comes after what is set for all."""
    pairs = (entry.partition("=") for entry in entries or ())
    return {name: value for name, _, value in pairs if _SESSION_SETTINGS.search(name)}
