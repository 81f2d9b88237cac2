"""The server of a live run: a throw-away server, or one that the user names and that must not be harmed.

Decides how many connections a run may take from a named server, what it must not do there, and how its sessions are
limited.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poolctl.engines.sandbox import Sandbox
from poolctl.engines.workload import plan_jobs
from poolctl.errors import BadInput, CannotConnect, CannotDo, ServerFull
from poolctl.observe.connection import ServerConnection, describe_target, parse_conninfo
from poolctl.observe.refusals import TOO_MANY_CONNECTIONS, Refused, ServerLost, StatementFailed
from poolctl.observe.slots import OBSERVER, SIMULATION, RunName, Slots, read_slots
from poolctl.scenario.scenario import Scenario

MARGIN = 0.1
"""Share of a named server's free slots that a run does not use. At least three slots are left."""

STATEMENT_TIMEOUT = 60
"""Seconds. The statement_timeout of every connection to a named server."""

COUNTS, COUNT_PAUSE = 3, 0.2
"""How often slots that do not suffice are counted again, and seconds before each time."""

CLOSING = 1.0
"""Seconds that an instance may take to close its connections after its last request."""

_SMALLER = "lower pool.max_open or load.instances, or give --allow-exhaustion if the server may run out"


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A server and what is known of it. ``conninfo`` is for the instances.

    ``sandbox`` None: a named server, which poolctl neither restarts nor pauses nor measures from the host. ``promise``:
    what the run must leave free there; None: it may exhaust the server, or has it to itself.
    """

    conninfo: str
    observer_conninfo: str
    max_connections: int
    usable: int
    version: str
    prepared: bool
    sandbox: Sandbox | None = None
    promise: "Promise | None" = None


_NEEDS = ("max_connections", "reserved", "via", "pgbouncer", "pgpool", "listen")
"""The keys of a scenario's database that its server is started with."""


class ThrowAwayServers:
    """Starts the throw-away server that a scenario needs, and reuses it for the next scenario that needs the same.

    ``port``: where applications connect, None: any free port. ``keep``: leave the last server running. ``remote``: the
    instances run on other machines.
    """

    def __init__(self, *, port: int | None = None, keep: bool = False, remote: bool = False) -> None:
        self.sandbox: Sandbox | None = None
        self._port = port
        self._keep = keep
        self._remote = remote
        self._serves: tuple[object, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def serve(self, scenario: Scenario) -> LiveServer:
        """Return a server for ``scenario``, after the scenario's setup SQL. Raises PoolctlError."""
        database = scenario.database
        # Not the whole of ``database``: its cores, for one, differ by statement, and are the model's alone.
        needs = (*(getattr(database, key) for key in _NEEDS), database.setup)
        if self.sandbox is None or needs != self._serves or database.setup:
            self._stop()
            self.sandbox = Sandbox.start(
                max_connections=database.max_connections,
                reserved=database.reserved,
                via=database.via,
                pgbouncer=database.pgbouncer,
                pgpool=database.pgpool,
                port=self._port,
                listen=database.listen,
                keep=self._keep,
            )
            self._serves = needs
            if database.setup:
                _run_setup(self.sandbox.admin_conninfo, database.setup)
        return _sandbox_server(self.sandbox, scenario, remote=self._remote)

    def _stop(self) -> None:
        if self.sandbox is not None:
            self.sandbox.stop()
            self.sandbox = None


def _sandbox_server(sandbox: Sandbox, scenario: Scenario, *, remote: bool) -> LiveServer:
    database = scenario.database
    conninfo = make_conninfo(sandbox.conninfo, application_name=SIMULATION)
    if remote:
        options = find_lost_clients(sandbox.version)
        conninfo = make_conninfo(sandbox.listen_conninfo, application_name=SIMULATION, options=options)
    return LiveServer(
        conninfo=conninfo,
        observer_conninfo=make_conninfo(sandbox.observer_conninfo, application_name=OBSERVER),
        max_connections=database.max_connections,
        usable=database.max_connections - database.reserved,
        version=sandbox.version,
        # A pooler may send the next statement over another server connection, which lacks the prepared statement.
        prepared=database.via == "none",
        sandbox=sandbox,
    )


@dataclass(frozen=True, slots=True)
class Promise:
    """The slots of a named server that the load leaves free, from its first connection to its last.

    ``planned``: the most connections of the load. ``margin``: slots that stay free beside them and the observer.
    ``is_behind_pooler``: the server's clients are the pooler's, whose names need not be those of its clients.
    """

    name: RunName
    planned: int
    margin: int
    is_behind_pooler: bool = False

    def check_start(self, slots: Slots) -> None:
        """Raise ServerFull if the whole load would not leave the margin free now."""
        if self.planned > slots.free - self.margin - 1:
            raise ServerFull(
                f"the scenario takes up to {self.planned} connections, and the target has {slots.free} free "
                f"({slots.arithmetic}), less a margin of {self.margin} and one to observe it",
                hint=_SMALLER,
            )

    def find_breach(self, slots: Slots) -> str | None:
        """Explain why the load has to end now; None as long as the promise is kept.

        It has to end when less than the margin is free, and already before if the rest of the load would take the last
        slot: between two samples it can open all of it.
        """
        left, nearest = slots.count_left(self.planned), slots.nearest
        may_take_last = nearest.free - 1 < self.planned and not self.is_behind_pooler
        if left >= self.margin and not may_take_last:
            return None
        too_few = f"{max(0, left)} slots are left of the {self.margin} that must stay free"
        if left >= self.margin:
            more = max(0, self.planned - nearest.own)
            too_few = f"{left} slots are left, and the load may still open {more} connections"
        used = f"{nearest.others} other clients - {nearest.own} of this run - 1 observer"
        return f"other clients arrived: {too_few} ({nearest.arithmetic} - {used})"


def open_target(
    conninfo: str, scenario: Scenario, *, allow_exhaustion: bool = False, remote: bool = False
) -> LiveServer:
    """Check that ``scenario`` is safe for the server that the user named, and return that server.

    ``remote``: the instances run on other machines, which know nothing of this one's environment and files.
    Raises ServerFull, with the arithmetic, if the run could take more than the free slots less a margin, BadInput for
    what is possible on the throw-away server only, CannotConnect and CannotDo.
    """
    _refuse_what_harms(scenario)
    try:
        parse_conninfo(conninfo)
    except BadInput as error:
        raise BadInput(f"--target: {error.message}", hint=error.hint) from None
    planned = count_most_connections(scenario)
    name = RunName.make(planned or 0)
    slots = count_slots(conninfo, name)
    everywhere = _spell_out(conninfo) if remote else conninfo
    promise = None
    if not allow_exhaustion:
        if planned is None:
            raise ServerFull(
                f"the scenario takes an unbounded number of connections, and the target has {slots.free} free "
                f"({slots.arithmetic})",
                hint=_SMALLER,
            )
        promise = Promise(name, planned, find_margin(slots.free), slots.is_behind_pooler)
        promise.check_start(slots)
    safe = f"-c statement_timeout={STATEMENT_TIMEOUT}s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10min"
    if remote:
        safe = f"{safe} {find_lost_clients(slots.version)}"
    return LiveServer(
        conninfo=limit_sessions(everywhere, name.load, safe, is_behind_pooler=slots.is_behind_pooler),
        observer_conninfo=make_conninfo("", **parse_conninfo(conninfo) | {"application_name": name.observer}),
        max_connections=slots.max_connections,
        usable=slots.max_connections - slots.reserved,
        version=slots.version,
        prepared=not slots.is_behind_pooler,
        promise=promise,
    )


def find_lost_clients(version: str) -> str:
    """Return the settings with which a backend notices within 5 s that the machine of its client is gone.

    PostgreSQL's own default for a cut network is the system's: two hours. ``version``: "18.6".
    """
    major = int(re.split(r"\D", version)[0] or 0)
    settings = ["tcp_keepalives_idle=1", "tcp_keepalives_interval=1", "tcp_keepalives_count=3"]
    if major >= 12:
        settings.append("tcp_user_timeout=4000")
    if major >= 14:
        # Without it a backend in the middle of a statement notices only at the end of it.
        settings.append("client_connection_check_interval=500")
    return " ".join(f"-c {setting}" for setting in settings)


def _spell_out(conninfo: str) -> str:
    with report_target_errors(conninfo), closing(ServerConnection.open(conninfo, application=OBSERVER)) as server:
        return server.spell_out(conninfo)


def find_margin(free: int) -> int:
    """Return how many of ``free`` slots of a named server poolctl does not use."""
    return max(3, round(free * MARGIN))


def count_slots(conninfo: str, name: RunName) -> Slots:
    """Count the slots of a named server, over one connection. Raises BadInput, CannotConnect and CannotDo."""
    with report_target_errors(conninfo), closing(ServerConnection.open(conninfo, application=name.observer)) as server:
        first = read_slots(server, name, is_first=True)
        slots = count_settled(lambda: read_slots(server, name), first, name.connections)
        return replace(slots, is_behind_pooler=first.is_behind_pooler)


def count_settled(count: Callable[[], Slots], first: Slots, planned: int) -> Slots:
    """Return ``first``, or a later count if ``planned`` connections fit only then.

    A backend ends a moment after its client: the connections of a run that has just ended are still in the list.
    """
    slots = first
    for _ in range(COUNTS):
        if planned <= slots.free - find_margin(slots.free) - 1:
            break
        time.sleep(COUNT_PAUSE)
        slots = count()
    return slots


@contextmanager
def report_target_errors(conninfo: str) -> Iterator[None]:
    """Turn what a named server does wrong into one line, without secrets, and a hint."""
    try:
        yield
    except Refused as error:
        hint = "try the same connection string with psql"
        if error.refusal.sqlstate == TOO_MANY_CONNECTIONS:
            hint = "poolctl inspect reports which clients hold the slots, also from outside"
        raise CannotConnect(f"cannot connect to {describe_target(conninfo)}: {error}", hint=hint) from None
    except (ServerLost, StatementFailed) as error:
        raise CannotDo(
            f"cannot count the free slots of {describe_target(conninfo)}: {error}",
            hint="see what poolctl inspect reports about it",
        ) from None


def limit_sessions(conninfo: str, application: str, settings: str, *, is_behind_pooler: bool) -> str:
    """Return ``conninfo`` with ``settings`` ("-c name=value ...") behind the user's own options.

    PgBouncer refuses a client that sends any options: a pooler gets none that the user did not give.
    """
    given = parse_conninfo(conninfo)
    if is_behind_pooler:
        return make_conninfo("", **given | {"application_name": application})
    # libpq takes PGOPTIONS only where the connection string has no options of its own.
    own = given.get("options") or os.environ.get("PGOPTIONS", "")
    return make_conninfo("", **given | {"application_name": application, "options": f"{own} {settings}".strip()})


def hide_password(conninfo: str) -> str:
    """Return ``conninfo`` without its passwords, for display. Raises BadInput."""
    values = parse_conninfo(conninfo)
    kept = {key: value for key, value in values.items() if key not in ("password", "sslpassword")}
    return conninfo if kept == values else make_conninfo("", **kept)


def format_address(conninfo: str) -> str:
    """Return what a person needs to connect to the same server: no password, no options of poolctl's connections."""
    shown = ("service", "host", "hostaddr", "port", "user", "dbname")
    values = conninfo_to_dict(conninfo)
    return make_conninfo("", **{key: values[key] for key in shown if values.get(key) is not None})


def count_most_connections(scenario: Scenario) -> int | None:
    """Return the most connections that ``scenario`` can have open at once, None if there is no bound."""
    load, pool = scenario.load, scenario.pool
    each: int | None = pool.max_open or None
    if each is None and not scenario.leak.every and load.rate is None:
        each = ((load.workers or 0) + sum(burst.workers for burst in load.bursts)) * load.connections_per_request
    return None if each is None else each * _count_most_instances(scenario)


def _count_most_instances(scenario: Scenario) -> int:
    """Return how many instances are open at once: a deploy begins new ones before the old ones have ended.

    An old instance may hold its connections as long as its requests may take to finish, and a moment to close them.
    """
    last = scenario.load.drain + CLOSING
    jobs = plan_jobs(scenario, "")
    ends = [job.ends_at + last if job.ends_at is not None else inf for job in jobs]
    # The number only grows when one begins, so these instants are enough.
    return max(sum(one.begins_at <= job.begins_at < end for one, end in zip(jobs, ends, strict=True)) for job in jobs)


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
    try:
        with closing(ServerConnection.open(server.conninfo, application=SIMULATION)) as connection:
            connection.check(query)
    except StatementFailed as error:
        raise BadInput(
            f"load.query: the server says: {error.message}", hint="one SQL statement, without parameters"
        ) from None


def measure_cpu_rows(conninfo: str) -> float:
    """Measure how many rows of generate_series an idle core of this server sums in a second, for the query "cpu"."""
    rows = 200_000
    query = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT sum(i) FROM generate_series(1, {rows}::int8) AS i"
    with closing(ServerConnection.open(conninfo)) as connection:
        # The query takes a tenth of a second, on a busy machine several.
        plans = [connection.execute(query, within=20.0)[0][0]["QUERY PLAN"] for _ in range(3)]
    seconds: list[float] = [plan[0]["Execution Time"] / 1000 for plan in plans]
    return rows / min(seconds)
