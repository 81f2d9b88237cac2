"""Observations in a few words, for tables of what a live system looked like.

Everything is given by ages at the last sample (``NOW``): a row given once is in every sample, and is what it was at
the earlier ones as far as its ages allow. ``Row`` says how a backend behaves; ``observe`` plays it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from poolctl.diagnose.finding import Diagnosis, Finding
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.observe.snapshot import (
    IN_TRANSACTION,
    Backend,
    BouncerDatabase,
    BouncerLink,
    BouncerPool,
    BouncerSample,
    ClientProcess,
    DatabaseCounters,
    HostSample,
    LockWait,
    Observation,
    PgpoolSample,
    PoolFigures,
    Refusal,
    RoleFacts,
    ServerFacts,
    ServerSample,
    Snapshot,
    Source,
    StatementCounters,
    TableCounters,
)

NOW = 1_800_000_000.0
UP_SINCE = NOW - 86_400.0
SAMPLES = 7
WINDOW = 3.0

LEAKS = frozenset({"leak", "leak-in-transaction", "leak-or-long-hold"})
BIGGER_POOL = frozenset({"pool-undersized"})


@dataclass(frozen=True)
class Row:
    """A backend as it is at the last sample, and how it got there.

    ``age``: seconds in its state. ``began``: of its transaction, None: with the state. ``turns``: seconds that each
    cycle takes, in the same state at every sample; 0: nothing happens in between. ``opened``: age of the session.
    """

    pid: int
    state: str = "idle"
    age: float = 0.0
    began: float | None = None
    turns: float = 0.0
    transaction: float | None = None
    """Age of a transaction that goes on over all turns."""
    opened: float = 600.0
    application: str = "shop"
    user: str = "app"
    database: str = "app"
    client: str | None = "127.0.0.1"
    port: int | None = None
    query: str | None = "SELECT 1"
    """An empty one: it was never used."""
    wait: tuple[str, str] | None = None
    blocked_by: tuple[int, ...] = ()
    waits_for: LockWait | None = None
    advisory: int = 0
    strong: tuple[str, ...] = ()
    kind: str = "client backend"
    from_sample: int = 0
    """It is not there in the samples before."""
    until_sample: int = 1_000

    def at(self, now: float) -> Backend | None:
        """The row at instant ``now``; None before it was opened or in the state that it is in for good."""
        ago = NOW - now
        if self.turns:
            # A moving row is caught at a phase of its own in every sample.
            age = (self.age + ago * 0.37) % self.turns
            state_at = now - age
        else:
            state_at = NOW - self.age
            if state_at > now:
                return self._before(now)
        return self._row(now, state_at)

    def _before(self, now: float) -> Backend:
        """Something else, a moment ago: short work."""
        return replace(
            self._row(now, now - 0.002), state="active", wait_event_type=None, wait_event=None, blocked_by=()
        )

    def _row(self, now: float, state_at: float) -> Backend:
        in_transaction = self.state.startswith(IN_TRANSACTION) or self.state == "active"
        began = state_at if self.began is None else (NOW - self.began if not self.turns else state_at - self.began)
        began = NOW - self.transaction if self.transaction is not None else began
        query_at = state_at if self.state == "active" else state_at - 0.001
        wait = self.wait or (("Client", "ClientRead") if self.state != "active" else None)
        return Backend(
            pid=self.pid,
            user=self.user,
            database=self.database,
            application=self.application,
            backend_type=self.kind,
            client=self.client,
            client_port=self.port if self.port is not None else 40_000 + self.pid,
            started_at=NOW - self.opened,
            transaction_at=began if in_transaction and "aborted" not in self.state else None,
            query_at=query_at if self.query != "" else None,
            state_at=state_at,
            state=self.state,
            wait_event_type=wait[0] if wait else None,
            wait_event=wait[1] if wait else None,
            query=self.query,
            blocked_by=self.blocked_by,
            waits_for=self.waits_for,
            advisory_locks=self.advisory,
            strong_locks=self.strong,
        )


def rows(count: int, first: int = 100, *, step: float = 0.0, **same: Any) -> list[Row]:
    """``count`` rows alike, with ages ``step`` apart, the oldest last."""
    age = float(same.pop("age", 0.0))
    return [Row(pid=first + i, age=age + i * step, **same) for i in range(count)]


def busy(count: int, first: int = 500, **same: Any) -> list[Row]:
    """Pooled sessions that turn over in milliseconds: some active, most idle for a moment."""
    states = ("active", "idle", "idle", IN_TRANSACTION)
    return [
        Row(pid=first + i, state=states[i % len(states)], age=0.001 + 0.0013 * i, turns=0.011 + 0.0007 * i, **same)
        for i in range(count)
    ]


def hidden(row: Backend) -> Backend:
    """What an ordinary role sees of another role's row, with the state inferred from pg_locks."""
    virtual = None
    if row.state in ("active", IN_TRANSACTION):
        virtual = f"{row.pid}/{int((row.transaction_at or row.query_at or 0.0) * 1e6)}"
    return Backend(
        pid=row.pid,
        user=row.user,
        database=row.database,
        application=row.application,
        state=row.state,
        is_hidden=True,
        is_inferred=True,
        virtual_transaction=virtual,
        blocked_by=row.blocked_by,
        advisory_locks=row.advisory_locks,
    )


def server(**changes: Any) -> ServerFacts:
    facts = ServerFacts(
        target="db.test:5432/app",
        version="18.1",
        version_number=180001,
        role="watcher",
        database="app",
        max_connections=100,
        superuser_reserved=3,
        can_see_all=True,
        may_signal=True,
        settings={"deadlock_timeout": 1.0},
        roles=(RoleFacts("app"), RoleFacts("watcher"), RoleFacts("postgres", is_superuser=True)),
    )
    return replace(facts, **changes)


@dataclass(frozen=True)
class Scene:
    """What ``observe`` plays. Series (``pools``, ``bouncers``, ``hosts``): one for each sample, or one for all."""

    rows: Sequence[Row] = ()
    samples: int = SAMPLES
    window: float = WINDOW
    facts: ServerFacts | None = field(default_factory=server)
    pools: Sequence[Sequence[PoolFigures]] = ()
    bouncers: Sequence[BouncerSample] = ()
    pgpools: Sequence[PgpoolSample] = ()
    hosts: Sequence[HostSample] = ()
    refusal: Refusal | None = None
    sees_backends: bool = True
    hides: bool = False
    databases: Sequence[Sequence[DatabaseCounters]] = ()
    statements: Sequence[Sequence[StatementCounters]] = ()
    tables: Sequence[Sequence[TableCounters]] = ()
    started_at: float = UP_SINCE
    sources: tuple[Source, ...] = ()


def observe(*given: Row, **scene: Any) -> Observation:
    return played(Scene(given, **scene))


def played(scene: Scene) -> Observation:
    times = [NOW - scene.window * (1 - i / max(1, scene.samples - 1)) for i in range(scene.samples)]
    times = times if scene.samples > 1 else [NOW]
    snapshots = tuple(_snapshot(scene, i, at) for i, at in enumerate(times))
    return Observation(snapshots, scene.facts, scene.sources, scene.window / max(1, scene.samples - 1))


def _snapshot(scene: Scene, index: int, at: float) -> Snapshot:
    backends = [
        row
        for each in scene.rows
        if each.from_sample <= index <= each.until_sample and (row := each.at(at)) is not None
    ]
    backends = [hidden(row) if row.user != "watcher" else row for row in backends] if scene.hides else backends
    sample = ServerSample(
        at=at,
        started_at=scene.started_at,
        backends=tuple(backends),
        databases=tuple(_of(scene.databases, index)),
        statements=tuple(_of(scene.statements, index)),
        tables=tuple(_of(scene.tables, index)),
    )
    is_last = index == scene.samples - 1
    hosts = [scene.hosts[min(index, len(scene.hosts) - 1)]] if scene.hosts else [None]
    return Snapshot(
        at=at,
        server=sample if scene.sees_backends else None,
        refusal=scene.refusal if is_last or not scene.sees_backends else None,
        bouncers=tuple(scene.bouncers),
        pgpools=tuple(scene.pgpools),
        pools=tuple(_of(scene.pools, index)),
        host=hosts[0],
    )


def _of(series: Sequence[Sequence[Any]], index: int) -> Sequence[Any]:
    """The sample's own entry; the last one goes on."""
    return series[min(index, len(series) - 1)] if series else ()


def pool(**values: Any) -> PoolFigures:
    given: dict[str, Any] = {"source": "http://shop:9090/metrics", "name": "shop", "library": "go", **values}
    if given.get("idle") is None and given.get("open") is not None and given.get("in_use") is not None:
        given["idle"] = given["open"] - given["in_use"]
    return PoolFigures(**given)


def full_pool(size: int, waiting: int = 5, **values: Any) -> list[list[PoolFigures]]:
    """Full at every sample, with ``waiting`` in the queue."""
    return [[pool(max_open=size, open=size, in_use=size, waiting=waiting, **values)]]


def host(*processes: ClientProcess, cores: int = 8, **values: Any) -> HostSample:
    given: dict[str, Any] = {"has_server": True, "sees_all_sockets": True, "server_cpu": 0.5, **values}
    return HostSample(processes=processes, cores=cores, **given)


def process(port: int, pid: int = 4242, **values: Any) -> ClientProcess:
    given: dict[str, Any] = {"command": "python shop.py", "status": "sleeping", **values}
    return ClientProcess(port=port, pid=pid, **given)


def calling(count: int, pause: float, first: int = 100, **same: Any) -> list[Row]:
    """Transactions held over a call of ``pause`` seconds, each at a phase of its own."""
    return [
        Row(first + i, IN_TRANSACTION, age=pause * (i + 0.5) / count, turns=pause, began=0.002, **same)
        for i in range(count)
    ]


def bouncer(pids_: list[int], *, waiting: int = 4, mode: str = "transaction", **values: Any) -> BouncerSample:
    """All server connections taken by clients of their own, one each, and ``waiting`` more."""
    servers = [
        BouncerLink("server", "app", "app", "active", "127.0.0.1", 5432, f"s{pid}", f"c{pid}", remote_pid=pid)
        for pid in pids_
    ]
    clients = [
        BouncerLink(
            "client",
            "app",
            "app",
            "active",
            "10.0.0.7",
            50_000 + pid,
            f"c{pid}",
            f"s{pid}",
            application=f"web{pid % 2}",
        )
        for pid in pids_
    ]
    clients += [
        BouncerLink("client", "app", "app", "waiting", "10.0.0.8", 60_000 + i, f"w{i}", application="late")
        for i in range(waiting)
    ]
    row = BouncerPool(
        "app",
        "app",
        clients_active=len(pids_),
        clients_waiting=waiting,
        servers_active=len(pids_),
        max_wait=2.5,
        mode=mode,
    )
    given: dict[str, Any] = {
        "target": "pgbouncer:6432",
        "pools": (row,),
        "clients": tuple(clients),
        "servers": tuple(servers),
        "databases": (BouncerDatabase("app", database="app", pool_size=len(pids_)),),
        "config": {"max_client_conn": "100", "default_pool_size": "20"},
        **values,
    }
    return BouncerSample(**given)


def count_sessions(opened: int, transactions: int, *, seconds: int = 7, **more: int) -> list[list[DatabaseCounters]]:
    return [
        [
            DatabaseCounters(
                "app",
                backends=5,
                commits=10_000 + transactions * sample // (seconds - 1),
                sessions=500 + opened * sample // (seconds - 1),
                abandoned=more.get("abandoned", 0) * sample // (seconds - 1),
            )
        ]
        for sample in range(seconds)
    ]


def verdict(*given: Row, **scene: Any) -> Diagnosis:
    return diagnose(observe(*given, **scene))


def codes(diagnosis: Diagnosis) -> list[str]:
    return [finding.code for finding in diagnosis.findings]


def troubles(diagnosis: Diagnosis) -> list[str]:
    """Codes at warning or above."""
    return [finding.code for finding in diagnosis.findings if finding.severity != "info"]


def find(diagnosis: Diagnosis, code: str) -> Finding:
    found = [finding for finding in diagnosis.findings if finding.code == code]
    assert found, f"{code} is not among {[f'{f.code}: {f.summary}' for f in diagnosis.findings]}"
    return found[0]


def held_by(finding: Finding) -> set[str | None]:
    return {holder.application for holder in finding.holders}


def pids(finding: Finding) -> set[int]:
    return {pid for holder in finding.holders for pid in holder.pids}
