"""The server of a live run: a throw-away server, or one that the user names and that must not be harmed.

Decides how many connections a run may take from a named server, what it must not do there, and how its sessions are
limited.
"""

from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput, CannotConnect, ServerFull
from poolctl.scenario.scenario import Database, Scenario

MARGIN = 0.1
"""Share of a named server's free slots that a run does not use. At least three slots are left."""

SIMULATION = "poolctl simulate"
"""application_name of the connections that make the load."""

STATEMENT_TIMEOUT = 60
"""Seconds. The statement_timeout of every connection to a named server."""

# An ordinary role cannot see the backend_type of other roles' backends; a backend without a database is no client.
_SLOTS = """
SELECT current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int
       + coalesce(current_setting('reserved_connections', true)::int, 0),
       (SELECT count(*) FROM pg_stat_activity
        WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
        AND pid <> pg_backend_pid()),
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
       current_setting('server_version')
"""


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A server and what is known of it. ``conninfo`` is for the instances.

    ``sandbox`` None: a named server, which poolctl neither restarts nor pauses nor measures from the host.
    """

    conninfo: str
    observer_conninfo: str
    max_connections: int
    usable: int
    version: str
    prepared: bool
    sandbox: Sandbox | None = None


class ThrowAwayServers:
    """Starts the throw-away server that a scenario needs, and reuses it for the next scenario that needs the same.

    ``port``: where applications connect, None: any free port. ``keep``: leave the last server running.
    """

    def __init__(self, *, port: int | None = None, keep: bool = False) -> None:
        self.sandbox: Sandbox | None = None
        self._port = port
        self._keep = keep
        self._serves: Database | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def serve(self, scenario: Scenario) -> LiveServer:
        """Return a server for ``scenario``, after the scenario's setup SQL. Raises PoolctlError."""
        database = scenario.database
        if self.sandbox is None or database != self._serves or database.setup:
            self._stop()
            self.sandbox = Sandbox.start(
                max_connections=database.max_connections,
                reserved=database.reserved,
                via=database.via,
                pgbouncer=database.pgbouncer,
                pgpool=database.pgpool,
                port=self._port,
                keep=self._keep,
            )
            self._serves = database
            if database.setup:
                _run_setup(self.sandbox.admin_conninfo, database.setup)
        return _sandbox_server(self.sandbox, scenario)

    def _stop(self) -> None:
        if self.sandbox is not None:
            self.sandbox.stop()
            self.sandbox = None


def _sandbox_server(sandbox: Sandbox, scenario: Scenario) -> LiveServer:
    database = scenario.database
    return LiveServer(
        conninfo=make_conninfo(sandbox.conninfo, application_name=SIMULATION),
        observer_conninfo=make_conninfo(sandbox.observer_conninfo, application_name="poolctl observer"),
        max_connections=database.max_connections,
        usable=database.max_connections - database.reserved,
        version=sandbox.version,
        # A pooler may send the next statement over another server connection, which lacks the prepared statement.
        prepared=database.via == "none",
        sandbox=sandbox,
    )


def named_server(conninfo: str, scenario: Scenario, *, allow_exhaustion: bool = False) -> LiveServer:
    """Check that ``scenario`` is safe for the server that the user named, and return that server.

    Raises ServerFull, with the arithmetic, if the run could take more than the free slots less a margin, and BadInput
    for what is possible on the throw-away server only.
    """
    _refuse_what_harms(scenario)
    own = _as_ours(conninfo, SIMULATION)
    slots = free_slots(conninfo, application=SIMULATION)
    needed = most_connections(scenario)
    if not allow_exhaustion and (needed is None or needed > slots.free - slots.margin - 1):
        wants = f"up to {needed}" if needed is not None else "an unbounded number of"
        raise ServerFull(
            f"the scenario takes {wants} connections, and the target has {slots.free} free "
            f"({slots.arithmetic}), less a margin of {slots.margin} and one to observe it",
            hint="lower pool.max_open or load.instances, or give --allow-exhaustion if the server may run out",
        )
    safe = f"-c statement_timeout={STATEMENT_TIMEOUT}s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10min"
    given = conninfo_to_dict(own).get("options", "")
    return LiveServer(
        conninfo=make_conninfo(own, options=f"{given} {safe}".strip()),
        observer_conninfo=make_conninfo(own, application_name="poolctl observer"),
        max_connections=slots.max_connections,
        usable=slots.max_connections - slots.reserved,
        version=slots.version,
        prepared=not is_behind_pooler(own),
    )


@dataclass(frozen=True, slots=True)
class FreeSlots:
    """The free slots of a named server. ``free``: the least of the server's, the role's and the database's.

    ``margin``: how many of them poolctl does not use.
    """

    max_connections: int
    reserved: int
    used: int
    free: int
    version: str

    @property
    def margin(self) -> int:
        return max(3, round(self.free * MARGIN))

    @property
    def arithmetic(self) -> str:
        return f"{self.max_connections} max_connections - {self.reserved} reserved - {self.used} used"


def free_slots(conninfo: str, *, application: str) -> FreeSlots:
    """Count the free slots of a named server, over one connection. Raises BadInput and CannotConnect."""
    try:
        with psycopg.connect(_as_ours(conninfo, application), autocommit=True, connect_timeout=10) as connection:
            row = connection.execute(_SLOTS).fetchone()
    except psycopg.OperationalError as error:
        raise CannotConnect(f"--target: {error}".strip(), hint="try the same conninfo with psql") from None
    assert row is not None
    max_connections, reserved, used, role_limit, database_limit, version = row
    # What is in use counts against the role's own limit only in part, so the limit is taken as it is: an upper bound.
    limits = [max_connections - reserved - used, *(limit for limit in (role_limit, database_limit) if limit >= 0)]
    return FreeSlots(max_connections, reserved, used, min(limits), version)


def _as_ours(conninfo: str, application: str) -> str:
    try:
        return make_conninfo(conninfo, application_name=application)
    except psycopg.ProgrammingError as error:
        raise BadInput(f"--target: {error}".strip(), hint="a conninfo string or a URI, as psql takes it") from None


def is_behind_pooler(conninfo: str) -> bool:
    """Return True for a pooler: the process id that it sends at login is not that of the backend."""
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=10) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        return row is not None and row[0] != connection.info.backend_pid


def hide_password(conninfo: str) -> str:
    """Return ``conninfo`` without its password, for display."""
    try:
        values = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return "..."
    if values.pop("password", None) is None:
        return conninfo
    return make_conninfo("", **values)


def format_address(conninfo: str) -> str:
    """Return what a person needs to connect to the same server: no password, no options of poolctl's connections."""
    shown = ("service", "host", "hostaddr", "port", "user", "dbname")
    values = conninfo_to_dict(conninfo)
    return make_conninfo("", **{key: values[key] for key in shown if values.get(key) is not None})


def most_connections(scenario: Scenario) -> int | None:
    """Return the most connections that ``scenario`` can have open at once, None if there is no bound."""
    load, pool = scenario.load, scenario.pool
    generations = 2 if any(event.do == "deploy" for event in scenario.events) else 1
    each: int | None = pool.max_open or None
    if each is None and not scenario.leak.every and load.rate is None:
        each = ((load.workers or 0) + sum(burst.workers for burst in load.bursts)) * load.connections_per_request
    return None if each is None else each * load.instances * generations


def _refuse_what_harms(scenario: Scenario) -> None:
    if scenario.database.setup:
        raise BadInput("database.setup is possible on the throw-away server only", hint="leave it out with --target")
    if scenario.database.via != "none":
        raise BadInput(
            f"database.via = {scenario.database.via!r} puts a pooler before the throw-away server only",
            hint="with --target, give the pooler's own conninfo",
        )
    for event in scenario.events:
        if event.do in ("restart", "failover", "pause"):
            raise BadInput(
                f"the event {event.do!r} is possible on the throw-away server only",
                hint="leave out the event, or leave out --target",
            )


def _run_setup(conninfo: str, setup: str) -> None:
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("SET ROLE app")
            connection.execute(setup.encode())
    except psycopg.Error as error:
        message = error.diag.message_primary or str(error)
        raise BadInput(f"database.setup failed: {message}", hint="it runs once, as SQL, before the load") from None


def check_query(server: LiveServer, query: str) -> None:
    """Raise BadInput if the server does not understand the user's statement, before the load sends it many times."""
    with psycopg.connect(server.conninfo, autocommit=True, connect_timeout=10) as connection:
        result = connection.pgconn.prepare(b"", query.encode())
    if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
        message = (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        raise BadInput(f"load.query: the server says: {message}", hint="one SQL statement, without parameters")


def cpu_rows_per_second(conninfo: str) -> float:
    """Measure how many rows of generate_series an idle core of this server sums in a second, for the query "cpu"."""
    rows = 200_000
    query = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT sum(i) FROM generate_series(1, {rows}::int8) AS i"
    # This is the observer's walsender, which accepts the simple protocol only: no prepared statement.
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
        plans = [connection.execute(query).fetchone() for _ in range(3)]
    seconds: list[float] = [plan[0][0]["Execution Time"] / 1000 for plan in plans if plan is not None]
    return rows / min(seconds)
