"""The state of live systems as data: an ``Observation`` is a series of ``Snapshot``s, and the facts beside them.

Decides the names and units of everything that the sources read and that the diagnosis and the sizing need. Nothing here
connects, judges or prints. Instants (``_at``) are seconds since the Unix epoch; instants of a server are on its own
clock, so that they are equal in two samples exactly when nothing happened in between. Times are seconds. None means
"not known", never zero: hidden from the role, absent in a version, or not answered. The names of the fields stand in
recordings, so they cannot change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SourceKind = Literal["postgres", "pgbouncer", "pgpool", "host", "pool-stats", "evidence", "prometheus"]

IN_TRANSACTION = "idle in transaction"
ABORTED = "idle in transaction (aborted)"


@dataclass(frozen=True, slots=True)
class Source:
    """A source of samples. ``target`` never holds a secret.

    ``reason``: why it did not answer, or what part of its answer is missing although ``ok``.
    """

    kind: SourceKind
    target: str
    ok: bool = True
    reason: str = ""
    is_partial: bool = False
    """Rows or lines of it could not be read although they may say that something is wrong: no health without them."""


@dataclass(frozen=True, slots=True)
class LockWait:
    """The lock that a backend waits for (pg_locks, not granted).

    ``relation`` is a name in the connected database, or None. ``since`` is pg_locks.waitstart (PostgreSQL 14+).
    """

    kind: str
    mode: str
    relation: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """One row of pg_stat_activity with what pg_locks adds to it. poolctl's own backend is never among them.

    A row of another role, read without pg_read_all_stats, has None in most fields (``is_hidden``); then ``state`` is
    inferred from pg_locks and ``is_inferred`` says so. ``client`` is an address, "local" for a Unix socket.
    """

    pid: int
    user: str | None
    database: str | None
    application: str = ""
    backend_type: str | None = None
    client: str | None = None
    client_port: int | None = None
    started_at: float | None = None
    transaction_at: float | None = None
    query_at: float | None = None
    state_at: float | None = None
    state: str | None = None
    wait_event_type: str | None = None
    wait_event: str | None = None
    query: str | None = None
    """At most track_activity_query_size bytes, with literals, which have to be hidden before the text is shown."""
    query_id: int | None = None
    has_xid: bool = False
    has_xmin: bool = False
    """It holds back vacuum."""
    is_hidden: bool = False
    is_inferred: bool = False
    virtual_transaction: str | None = None
    """pg_locks.virtualtransaction of a running transaction; the same in two samples means the same transaction."""
    blocked_by: tuple[int, ...] = ()
    """pg_blocking_pids; only of backends that wait for a lock."""
    waits_for: LockWait | None = None
    advisory_locks: int = 0
    """How many it holds (granted)."""
    strong_locks: tuple[str, ...] = ()
    """Relations that it holds ShareLock or stronger on; "?" for one of another database."""

    @property
    def is_client(self) -> bool:
        """Whether it counts against max_connections: walsenders, autovacuum and other workers have slots of their own.

        A hidden row counts if it has a database; rows of workers have none.
        """
        if self.backend_type is not None:
            return self.backend_type == "client backend"
        return self.database is not None or self.state == "starting"

    @property
    def in_transaction(self) -> bool:
        """Whether it is idle inside a transaction, aborted or not."""
        return self.state in (IN_TRANSACTION, ABORTED)

    @property
    def is_active(self) -> bool:
        return self.state in ("active", "fastpath function call")


@dataclass(frozen=True, slots=True)
class DatabaseCounters:
    """pg_stat_database of one database; all but ``backends`` only ever grow, until ``reset_at`` changes.

    ``sessions`` and the times: PostgreSQL 14+. ``active_time`` is added when a statement ends,
    ``transaction_idle_time`` when the transaction goes on or ends: what has not ended is in neither.
    """

    name: str
    backends: int
    commits: int = 0
    rollbacks: int = 0
    sessions: int | None = None
    abandoned: int | None = None
    fatal: int | None = None
    killed: int | None = None
    session_time: float | None = None
    active_time: float | None = None
    transaction_idle_time: float | None = None
    reset_at: float | None = None


@dataclass(frozen=True, slots=True)
class StatementCounters:
    """One statement of pg_stat_statements, normalized by the server ($1 for literals) unless it is a utility."""

    query_id: int
    user: str | None
    database: str | None
    query: str | None
    calls: int
    time: float
    """Execution time of all calls, seconds."""
    stddev_time: float | None = None
    rows: int = 0
    blocks_read: int = 0
    blocks_hit: int = 0


@dataclass(frozen=True, slots=True)
class TableCounters:
    """pg_stat_user_tables of one table in the connected database. Sizes are never read: that touches the files."""

    name: str
    live_rows: int
    scans: int
    """Sequential scans."""
    rows_read: int
    """By sequential scans."""
    index_scans: int = 0


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """What a role may do. ``connection_limit`` None: none. ``settings``: pg_db_role_setting for it in any database."""

    name: str
    connection_limit: int | None = None
    is_superuser: bool = False
    uses_reserved: bool = False
    """Member of pg_use_reserved_connections (PostgreSQL 16+)."""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    name: str
    connection_limit: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What does not change during an observation: read once.

    ``settings``: the server-wide values (never those of poolctl's own session) of the timeouts and sizes that the
    diagnosis needs: times in seconds, memory in bytes, a switch as 1 or 0.
    """

    target: str
    version: str
    version_number: int
    """server_version_num, 180006 for 18.6."""
    role: str
    database: str
    max_connections: int
    superuser_reserved: int
    reserved: int = 0
    is_superuser: bool = False
    uses_reserved: bool = False
    can_see_all: bool = False
    may_signal: bool = False
    """Superuser or member of pg_signal_backend: it may end the backends of other ordinary roles."""
    is_behind_pooler: bool = False
    """The process id given at login was not the backend's: client addresses are the pooler's."""
    is_local: bool = False
    """Reached over a Unix socket or a loopback address."""
    cores: int | None = None
    """Cores that the server may use, where poolctl's own backend is a process of this machine; else None."""
    has_statements: bool = False
    """pg_stat_statements can be read in the connected database."""
    settings: Mapping[str, float] = field(default_factory=dict)
    roles: tuple[RoleFacts, ...] = ()
    """The roles with LOGIN."""
    databases: tuple[DatabaseFacts, ...] = ()

    @property
    def usable(self) -> int:
        """Slots that an ordinary role can use."""
        return self.max_connections - self.superuser_reserved - self.reserved


@dataclass(frozen=True, slots=True)
class ServerSample:
    """PostgreSQL at one instant ``at`` of its own clock."""

    at: float
    started_at: float
    """Start of the postmaster."""
    backends: tuple[Backend, ...] = ()
    databases: tuple[DatabaseCounters, ...] = ()
    statements: tuple[StatementCounters, ...] = ()
    """The costliest since the statistics began, 50 at most; empty in a sample that did not read them."""
    tables: tuple[TableCounters, ...] = ()
    """The most read sequentially, 50 at most; empty in a sample that did not read them."""

    @property
    def clients(self) -> tuple[Backend, ...]:
        """The backends that count against max_connections."""
        return tuple(backend for backend in self.backends if backend.is_client)

    @property
    def hidden(self) -> int:
        """How many rows are hidden from the role."""
        return sum(backend.is_hidden for backend in self.backends)


RefusedBy = Literal[
    "server-slots",
    "reserved-slots",
    "superuser-slots",
    "role-limit",
    "database-limit",
    "walsender-slots",
    "pooler-clients",
    "pooler-queue",
    "pooler-login",
    "pooler",
    "authentication",
    "starting-up",
    "unreachable",
    "no-local-port",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's answer to a client that it refused. ``routine`` None: a pooler answered, libpq, or the kernel.

    ``text`` is the server's own, in the server's language.
    """

    by: RefusedBy
    text: str
    sqlstate: str | None = None
    routine: str | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class BouncerPool:
    """A row of SHOW POOLS: one (database, user)."""

    database: str
    user: str
    clients_active: int = 0
    clients_waiting: int = 0
    servers_active: int = 0
    servers_idle: int = 0
    servers_used: int = 0
    servers_tested: int = 0
    servers_login: int = 0
    max_wait: float = 0.0
    """Wait so far of the oldest waiting client; 0 for clients queued during login."""
    mode: str | None = None

    @property
    def servers(self) -> int:
        return self.servers_active + self.servers_idle + self.servers_used + self.servers_tested + self.servers_login


@dataclass(frozen=True, slots=True)
class BouncerLink:
    """A row of SHOW CLIENTS or SHOW SERVERS. A client's ``link`` is the ``pointer`` of its server and the reverse."""

    kind: Literal["client", "server"]
    user: str
    database: str
    state: str
    address: str
    port: int
    pointer: str
    link: str = ""
    application: str = ""
    """PgBouncer 1.18+."""
    connected_at: float | None = None
    requested_at: float | None = None
    wait: float = 0.0
    remote_pid: int | None = None
    """Of a server: the pid of the PostgreSQL backend. Meaningless when the upstream is another pooler."""


@dataclass(frozen=True, slots=True)
class BouncerDatabase:
    """A row of SHOW DATABASES. ``max_connections`` and ``pool_size`` 0: none, and the default."""

    name: str
    host: str | None = None
    port: int | None = None
    database: str | None = None
    pool_size: int = 0
    reserve_pool_size: int = 0
    mode: str | None = None
    max_connections: int = 0
    current_connections: int = 0
    paused: bool = False
    max_client_connections: int = 0
    """max_db_client_connections of PgBouncer 1.24+; 0: none."""
    current_client_connections: int = 0


@dataclass(frozen=True, slots=True)
class BouncerUser:
    """A row of SHOW USERS with limits of its own (PgBouncer 1.23+); 0: none."""

    name: str
    max_connections: int = 0
    current_connections: int = 0
    max_client_connections: int = 0
    current_client_connections: int = 0


@dataclass(frozen=True, slots=True)
class BouncerStats:
    """A row of SHOW STATS, totals. ``wait_time`` grows only when a waiting client is served.

    ``logins``: clients that logged in; None where the version does not count them.
    """

    database: str
    transactions: int = 0
    queries: int = 0
    query_time: float = 0.0
    transaction_time: float = 0.0
    wait_time: float = 0.0
    logins: int | None = None


@dataclass(frozen=True, slots=True)
class BouncerSample:
    """A PgBouncer, from its admin console. The console's own client is not among ``clients``."""

    target: str
    version: str = ""
    pools: tuple[BouncerPool, ...] = ()
    clients: tuple[BouncerLink, ...] = ()
    servers: tuple[BouncerLink, ...] = ()
    databases: tuple[BouncerDatabase, ...] = ()
    stats: tuple[BouncerStats, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    """SHOW CONFIG, without anything that names a password or a file of secrets."""
    lists: Mapping[str, int] = field(default_factory=dict)
    """SHOW LISTS: used_clients, free_clients, ..."""
    users: tuple[BouncerUser, ...] = ()
    """Users with a limit of their own."""


@dataclass(frozen=True, slots=True)
class PgpoolChild:
    """A row of SHOW POOL_PROCESSES: one child, which serves one client at a time."""

    pid: int
    database: str = ""
    user: str = ""
    status: str | None = None
    """ "Wait for connection", "Idle", "Idle in transaction", "Execute command", "Connecting" (4.3+)."""
    started_at: float | None = None
    connected_at: float | None = None
    is_own: bool = False
    """It serves poolctl itself."""


@dataclass(frozen=True, slots=True)
class PgpoolConnection:
    """A cached server connection of a child (SHOW POOL_POOLS with a backend)."""

    child_pid: int
    backend_pid: int
    database: str = ""
    user: str = ""
    is_connected: bool = False
    """A client uses it now."""
    client: str | None = None
    client_port: int | None = None
    statement: str | None = None
    """The latest, without its literals (Pgpool-II 4.7+)."""


@dataclass(frozen=True, slots=True)
class PgpoolSample:
    """A Pgpool-II, from SHOW. ``waiting``: clients in the listen queue of its port (the host's view).

    The connection that it caches for poolctl itself is not among ``connections``.
    """

    target: str
    version: str = ""
    children: tuple[PgpoolChild, ...] = ()
    connections: tuple[PgpoolConnection, ...] = ()
    num_init_children: int | None = None
    max_pool: int | None = None
    reserved_connections: int | None = None
    waiting: int | None = None
    hangs: bool = False
    """It accepted poolctl's connection and did not answer by the deadline, as it does when every child is busy; then
    ``children`` and ``connections`` are empty because they are not known."""
    own_backend: int | None = None
    """Pid of the backend that serves poolctl itself through it, which counts nowhere."""


@dataclass(frozen=True, slots=True)
class PoolHold:
    """A connection that is out of its pool, as a guard inside the application reports it (``poolctl.guard.watch``)."""

    backend_pid: int
    site: str
    """The line that acquired it: file, line, function, and the line that called it."""
    age: float
    outcome: str = ""
    """How the thread or task that acquired it has ended; "" while it runs."""


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """An application's figures of its own pool (Prometheus text, OpenTelemetry names, or a file).

    Gauges first, then totals that only grow. ``waiting`` of psycopg_pool counts clients that gave up until the next
    release (``waiting_may_lie``).
    """

    source: str
    name: str
    library: str
    labels: Mapping[str, str] = field(default_factory=dict)
    max_open: int | None = None
    """0: unlimited."""
    open: int | None = None
    in_use: int | None = None
    idle: int | None = None
    waiting: int | None = None
    waiting_may_lie: bool = False
    acquired_total: float | None = None
    queued_total: float | None = None
    wait_time_total: float | None = None
    timed_out_total: float | None = None
    use_time_total: float | None = None
    use_count_total: float | None = None
    opened_total: float | None = None
    open_errors_total: float | None = None
    closed_idle_total: float | None = None
    closed_lifetime_total: float | None = None
    loop_lag: float | None = None
    """Lag of the application's event loop, where it is exported (nodejs_eventloop_lag_seconds)."""
    application: str | None = None
    """The application_name of its connections, where a label says so."""
    holds: tuple[PoolHold, ...] = ()
    """What is out now and where it was acquired; empty without a guard."""


@dataclass(frozen=True, slots=True)
class BackendTitle:
    """A backend in the operating system's process list, read without any connection."""

    pid: int
    user: str
    database: str
    client: str | None
    client_port: int | None
    state: str
    """ "idle", "idle in transaction", "authentication", "startup", a command tag such as "SELECT"; with " waiting"
    behind it, it waits for a lock."""
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class ClientProcess:
    """A process on this host that owns a socket to the server or a pooler. ``status`` is psutil's ("stopped").

    ``command`` is its command line without anything that looks like a secret.
    """

    port: int
    """Port of the client's end of the connection; 0 over a Unix socket."""
    pid: int
    command: str
    status: str
    started_at: float | None = None
    threads: int | None = None
    backend_pid: int | None = None
    """Over a Unix socket: the backend at its other end."""


@dataclass(frozen=True, slots=True)
class HostSample:
    """The machine poolctl runs on, as far as it concerns the server."""

    has_server: bool
    """The server's processes run here and are visible."""
    titles: tuple[BackendTitle, ...] = ()
    processes: tuple[ClientProcess, ...] = ()
    unowned_ports: tuple[int, ...] = ()
    """Client ports of backends with a local address whose connection no process holds, or is gone."""
    unowned_backends: tuple[int, ...] = ()
    """Pids of backends over a Unix socket whose other end no process holds."""
    sees_all_sockets: bool = False
    """False in another network or process namespace, or without the privilege: then a missing owner proves nothing."""
    cores: int | None = None
    """Cores that the server may use, by its affinity and control groups; None where it does not run here."""
    cpu_share: float | None = None
    """Share of all cores that was busy since the sample before, 0 to 1."""
    server_cpu: float | None = None
    """Cores kept busy by the server's processes since the sample before."""
    listen_queues: Mapping[int, int] = field(default_factory=dict)
    """Connections that wait to be accepted, by listening port."""
    scraped: Mapping[str, int] = field(default_factory=dict)
    """Pids of the processes here that listen where figures of pools were read, by ``PoolFigures.source``."""
    closed: Mapping[int, int] = field(default_factory=dict)
    """Connections that clients here closed in the last minute (TIME_WAIT), by the port of the server or pooler."""


@dataclass(frozen=True, slots=True)
class LogMoment:
    """A stretch of time in logs, begun at ``at`` and ``LogFacts.interval`` long, and what was logged in it."""

    at: float
    open_at_least: int | None = None
    """Most sessions open at once, as far as their logins and ends were logged; None without such lines."""
    opened: int = 0
    closed: int = 0
    refused: int = 0
    lock_waits: int = 0
    timed_out: int = 0
    """Of the server's own timeouts, of a pooler's queue, and of acquires in application logs."""


@dataclass(frozen=True, slots=True)
class LoggedRefusals:
    """The refusals of one kind. ``who``: how many of each user, application or client, as far as the log names them."""

    by: RefusedBy
    text: str
    count: int
    first_at: float | None = None
    last_at: float | None = None
    who: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedLockWait:
    """The longest wait behind one set of holders. ``queue``: pids that waited, the first in front."""

    holders: tuple[int, ...]
    queue: tuple[int, ...]
    wait_time: float
    text: str
    at: float | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class LoggedApplication:
    """Sessions that one application opened, by the name, or else the user, that it gave at login.

    ``brief``: how many lasted less than a second. ``session_time``: mean of the sessions that ended.
    """

    name: str
    sessions: int
    first_at: float | None = None
    brief: int = 0
    session_time: float | None = None


@dataclass(frozen=True, slots=True)
class LoggedStatements:
    """Statements of one text (literals hidden) that were logged for how long they took, seconds."""

    text: str
    count: int
    time: float
    longest: float
    longest_at: float | None = None
    """When the longest of them ended."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What logs say over time. Instants are seconds since the epoch; None where no line had one."""

    first_at: float | None = None
    last_at: float | None = None
    interval: float = 0.0
    """Of each of ``moments``, seconds."""
    moments: tuple[LogMoment, ...] = ()
    refusals: tuple[LoggedRefusals, ...] = ()
    lock_waits: tuple[LoggedLockWait, ...] = ()
    applications: tuple[LoggedApplication, ...] = ()
    statements: tuple[LoggedStatements, ...] = ()
    restarts: tuple[float, ...] = ()
    timeouts: Mapping[str, int] = field(default_factory=dict)
    """How often each of the server's timeouts ended something, by its text."""
    lost_clients: int = 0
    deadlocks: int = 0
    connect_time: float | None = None
    """Mean of "connection ready" (PostgreSQL 18)."""
    connect_count: int = 0
    queue_timeouts: int = 0
    """Clients that a pooler sent away because they had waited too long in its queue."""
    leaks: tuple[str, ...] = ()
    """Connections that a pool library reported as leaked and that did not come back in the log."""
    leaks_returned: int = 0
    was_starved: bool = False
    """A pool library reported that its process had no processor."""
    lines: int = 0
    trouble_at: float | None = None
    """The first refusal, lock wait or time-out."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The samples of all sources at one instant, ``at`` on the clock of the machine poolctl runs on."""

    at: float
    server: ServerSample | None = None
    refusal: Refusal | None = None
    """In place of ``server``, or from an attempt to log in beside it."""
    bouncers: tuple[BouncerSample, ...] = ()
    pgpools: tuple[PgpoolSample, ...] = ()
    pools: tuple[PoolFigures, ...] = ()
    host: HostSample | None = None


@dataclass(frozen=True, slots=True)
class Floor:
    """The least number of client backends in a stretch of time that began at ``at`` and is forgotten otherwise."""

    at: float
    backends: int


@dataclass(frozen=True, slots=True)
class Observation:
    """A series of snapshots, oldest first, the facts, and the sources."""

    snapshots: tuple[Snapshot, ...]
    server: ServerFacts | None = None
    sources: tuple[Source, ...] = ()
    interval: float = 0.0
    """Planned seconds between snapshots."""
    log: LogFacts | None = None
    """What the logs among the evidence say; None without any."""
    floors: tuple[Floor, ...] = ()
    """What is kept of the time before the snapshots of a long live view, oldest first."""

    @property
    def first(self) -> Snapshot:
        return self.snapshots[0]

    @property
    def last(self) -> Snapshot:
        return self.snapshots[-1]

    @property
    def window(self) -> float:
        """Seconds from the first snapshot to the last; 0 with one."""
        return self.last.at - self.first.at if self.snapshots else 0.0

    @property
    def is_from_files(self) -> bool:
        """Whether all of it was read from files or from a history: nothing can be sampled again for longer."""
        return bool(self.sources) and all(source.kind in ("evidence", "prometheus") for source in self.sources)

    @property
    def samples(self) -> tuple[ServerSample, ...]:
        """The samples of the server, as far as it answered."""
        return tuple(snapshot.server for snapshot in self.snapshots if snapshot.server is not None)
