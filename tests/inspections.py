"""Inspections as the observers and the diagnosis return them, for the tests of reports."""

from collections.abc import Callable
from dataclasses import replace

from report_parts import HOSTILE

from poolctl.api.results import InspectResult, ReliefResult
from poolctl.diagnose.finding import Concurrency, Diagnosis, Finding, Group, Holder, Limit
from poolctl.diagnose.live.relief import Alternative, ReliefPlan, ReliefStep, Spared
from poolctl.observe.snapshot import (
    Backend,
    BouncerPool,
    BouncerSample,
    Observation,
    Refusal,
    ServerFacts,
    ServerSample,
    Snapshot,
    Source,
)
from poolctl.observe.terminate import TerminationResult

NIGHT = 1_795_400_000.0
"""When everything here happened."""

LESS = "max_connections 100 less 3 kept back"

SERVER = Source("postgres", "db1.test:5432/shop")
HOST = Source("host", "")


def facts(**changed: object) -> ServerFacts:
    known = ServerFacts("db1.test:5432/shop", "16.4", 160004, "inspector", "shop", 100, 3, can_see_all=True)
    return replace(known, **changed)  # type: ignore[arg-type]


def backends(count: int, state: str, *, first: int = 4700, application: str = "shop-api") -> tuple[Backend, ...]:
    return tuple(
        Backend(first + number, "app", "shop", application, "client backend", "10.0.0.7", state=state)
        for number in range(count)
    )


def seen(samples: int, *clients: tuple[Backend, ...], **parts: object) -> tuple[Snapshot, ...]:
    everybody = tuple(backend for group in clients for backend in group)
    return tuple(
        replace(Snapshot(at, ServerSample(at, NIGHT - 86_400, everybody)), **parts)  # type: ignore[arg-type]
        for at in (NIGHT + number for number in range(samples))
    )


def leaking() -> InspectResult:
    """30 leaked transactions of one application, and nothing left for the others."""
    holder = Holder(
        "shop-api",
        "app",
        "10.0.0.7",
        tuple(range(4700, 4730)),
        {"pid": 2210, "command": "gunicorn: worker [shop.wsgi]"},
        "/checkout/confirm",
        "select * from carts where id = $1 for update",
    )
    leak = Finding(
        "leak-in-transaction",
        "critical",
        "certain",
        "application",
        "shop-api holds 80 of 97 usable slots in transactions that nobody ends; 0 slots are free",
        {"survivors": 80, "oldest_age": 412.0, "median_transaction": 0.02, "released": 0},
        "SELECT pid, application_name, now() - xact_start AS age\n  FROM pg_stat_activity\n"
        " WHERE state = 'idle in transaction' ORDER BY xact_start",
        (holder, replace(holder, client="10.0.0.8", process=None, route=None, pids=tuple(range(4800, 4850)))),
        "Close the transaction in a finally block, or use the pool's context manager, in /checkout/confirm.\n"
        "Until then: poolctl inspect --relief shows which backends to end, and what that frees.",
        80,
    )
    full = Finding(
        "slots-exhausted",
        "critical",
        "certain",
        "database",
        "all 97 slots for ordinary roles are taken; new clients are refused",
        {"used": 97, "usable": 97, "free": 0},
        remedy="Treat the leak: a higher max_connections is used up in the same way.",
    )
    groups = (
        Group(
            "shop-api", "app", "shop", "10.0.0.7", 34, {"idle in transaction": 30, "active": 4}, None, 412.0, 30, 4, 2
        ),
        Group("shop-api", "app", "shop", "10.0.0.8", 50, {"idle in transaction": 50}, None, 398.4, 50, 0),
        Group("nightly-report", "reports", "shop", "local", 13, {"idle": 12, "active": 1}, 3720.0, 61.2, 12, 1),
    )
    return InspectResult(
        Observation(
            seen(
                4,
                backends(80, "idle in transaction"),
                backends(4, "active", first=4900),
                backends(13, "idle", first=5000, application="nightly-report"),
            ),
            facts(),
            (SERVER, HOST),
            1.0,
        ),
        Diagnosis(
            (leak, full),
            (
                Limit("max_connections", "server", 97, 97, 0, True, None, LESS),
                Limit("CONNECTION LIMIT of role app", "role", 120, 84, 36, False, 214.0),
                Limit("CONNECTION LIMIT of database shop", "database", 200, 97, 103),
            ),
            groups,
            Concurrency(4.25, 5, 5, 6, "samples and counters"),
        ),
        3.0,
    )


def healthy() -> InspectResult:
    found = Finding(
        "healthy",
        "info",
        "likely",
        "database",
        "nothing is wrong: 14 of 97 usable slots are taken, nobody waits, and every busy connection moves on",
        {"used": 14, "usable": 97},
    )
    groups = (Group("web", "app", "shop", "10.0.0.7", 14, {"idle": 12, "active": 2}, 4.1, 0.02, 3, 11),)
    return InspectResult(
        Observation(seen(4, backends(12, "idle"), backends(2, "active", first=4800)), facts(), (SERVER,), 1.0),
        Diagnosis(
            (found,),
            (Limit("max_connections", "server", 97, 14, 83, note=LESS),),
            groups,
            Concurrency(1.8, 3, 3, 3, "samples"),
        ),
        3.0,
    )


def refused() -> InspectResult:
    """The server lets nobody in; what its process titles say is all there is."""
    found = Finding(
        "slots-exhausted",
        "critical",
        "certain",
        "database",
        "the server refuses every client: all 100 slots are taken, superuser slots included",
        {"routine": "InitProcess", "sqlstate": "53300", "titles": 100},
        holders=(Holder(None, "app", "10.0.0.7", tuple(range(300, 392))), Holder(None, "batch", "local", (400, 401))),
        remedy="End what holds the slots, from the database's own host.\nLet operators in: reserved_connections > 0.",
        frees=92,
        decide_by="poolctl inspect once a slot is free, or through the PgBouncer console (--pgbouncer)",
    )
    refusal = Refusal("server-slots", "sorry, too many clients already", "53300", "InitProcess", "db1.test:5432")
    return InspectResult(
        Observation(
            (Snapshot(NIGHT, None, refusal), Snapshot(NIGHT + 3, None, refusal)),
            None,
            (
                replace(SERVER, ok=False, reason="sorry, too many clients already (53300)"),
                replace(HOST, reason="process titles of 100 backends"),
            ),
            3.0,
        ),
        Diagnosis(
            (found,),
            (Limit("max_connections", "server", 100, 100, 0, True),),
            (Group("", "app", "shop", "10.0.0.7", 92, {"idle in transaction": 92}, None, None, 92),),
            None,
            (
                "When each transaction began: process titles do not say it.",
                "Which application each session belongs to: only its address is in the process titles.",
            ),
        ),
        3.0,
    )


def undetermined() -> InspectResult:
    """PgBouncer's clients wait and the servers are frozen: a leak, or a long hold."""
    found = Finding(
        "leak-or-long-hold",
        "critical",
        "undetermined",
        "application",
        "orders holds all 20 server connections of app@shop and gave none back in 3 s; 31 clients wait in PgBouncer",
        {"frozen": 20, "clients_waiting": 31, "max_wait": 17.4},
        holders=(Holder("orders", "app", "10.0.1.4", (900, 901), None, None, "select pg_sleep($1)"),),
        remedy="If it is a leak: release in a finally block. If it is a long hold: release before the long work.",
        frees=20,
        decide_by="look for longer than the longest legitimate hold: poolctl inspect --for 60s",
    )
    partial = Finding(
        "partial-view",
        "info",
        "certain",
        "database",
        "22 of 23 sessions belong to other roles; their states were inferred from pg_locks",
        {"hidden": 22},
        remedy="GRANT pg_read_all_stats TO inspector",
    )
    bouncer = BouncerSample("pg1:6432", "1.23.1", (BouncerPool("shop", "app", 20, 31, 20, max_wait=17.4),))
    return InspectResult(
        Observation(
            seen(13, backends(20, "idle"), bouncers=(bouncer,)),
            facts(can_see_all=False, is_behind_pooler=True),
            (
                SERVER,
                Source("pgbouncer", "pg1:6432"),
                Source("pgpool", "pool2:9999", False, "connection timeout expired after 2 s"),
            ),
            1.0,
        ),
        Diagnosis(
            (found, partial),
            (
                Limit("pool_size of app@shop", "pgbouncer", 20, 20, 0, True, None, "31 clients wait, oldest 17.4 s"),
                Limit("max_client_conn", "pgbouncer", 100, 51, 49),
                Limit("max_connections", "server", 97, 23, 74, note=LESS),
            ),
            (Group("orders", "app", "shop", None, 20, {"idle": 20}, 88.0, None, 20),),
            Concurrency(0, 0, 0, 0, "samples"),
            ("What pool2:9999 does with its clients: it did not answer.",),
        ),
        12.0,
    )


def interrupted() -> InspectResult:
    return replace(healthy(), planned=60.0, interrupted=True)


def single() -> InspectResult:
    whole = healthy()
    return replace(whole, observation=replace(whole.observation, snapshots=whole.observation.snapshots[:1]), planned=0)


def doubtful() -> InspectResult:
    """Nobody is seen to wait, and yet nothing moves: an oversized pool, or a leak."""
    whole = healthy()
    found = Finding(
        "oversized-pool",
        "info",
        "undetermined",
        "application",
        "12 of 14 sessions of web did nothing in 3 s",
        {"frozen_idle": 12, "sessions": 14, "window": 3.0},
        decide_by="a window that contains the peak, with the pool's own figures (--pool-stats)",
    )
    return replace(whole, diagnosis=replace(whole.diagnosis, findings=(*whole.diagnosis.findings, found)))


def nothing() -> InspectResult:
    down = replace(SERVER, ok=False, reason="connection refused")
    return InspectResult(Observation((), None, (down,)), Diagnosis(()))


def hostile() -> InspectResult:
    """Everything that a client or a server names is an attack on the terminal, the page or the channel."""
    long = HOSTILE + " | `code` *bold* @here <!channel> [x](https://evil.test) " + "x" * 5000
    whole = leaking()
    holder = Holder(long, long, long, (1,), {"pid": 7, "command": long}, long, long)
    finding = replace(whole.diagnosis.findings[0], summary=f"{HOSTILE} holds 3", holders=(holder,), remedy=long)
    finding = replace(finding, evidence={HOSTILE: HOSTILE}, decide_by=HOSTILE, evidence_sql=f"SELECT {HOSTILE}")
    group = Group(long, long, long, long, 1, {HOSTILE: 1})
    return replace(
        whole,
        observation=replace(
            whole.observation,
            server=facts(version=HOSTILE, role=HOSTILE),
            sources=(Source("postgres", long), Source("pgpool", HOSTILE, False, HOSTILE)),
        ),
        diagnosis=Diagnosis((finding,), (Limit(long, "role", 3, 3, 0, True, None, HOSTILE),), (group,), None, (long,)),
        replayed=HOSTILE,
        relief=ReliefPlan(
            (
                ReliefStep(
                    1,
                    NIGHT,
                    long,
                    long,
                    long,
                    "leak",
                    long,
                    1,
                    HOSTILE,
                    f"select {HOSTILE};",
                    loses=long,
                    alternative=Alternative(2, "cancel", long, long, 1, HOSTILE),
                ),
            ),
            (Spared((2,), long, long, long),),
            (long,),
        ),
        relieved=ReliefResult((TerminationResult(1, "refused", long),)),
    )


def many() -> InspectResult:
    """More of everything than a screen should hold."""
    whole = leaking()
    holders = tuple(Holder(f"service-{number}", "app", f"10.0.0.{number}", (number,)) for number in range(40))
    finding = replace(whole.diagnosis.findings[0], holders=holders, evidence={f"number_{n}": n for n in range(30)})
    groups = tuple(Group(f"service-{number}", "app", "shop", None, 1, {"idle": 1}) for number in range(40))
    limits = tuple(
        Limit(f"CONNECTION LIMIT of role r{number}", "role", 50, number, 50 - number) for number in range(40)
    )
    return replace(whole, diagnosis=replace(whole.diagnosis, findings=(finding,), groups=groups, limits=limits))


def relieved() -> InspectResult:
    """A plan that was carried out, and that did not go as planned everywhere."""
    steps = tuple(
        ReliefStep(
            pid=4700 + number,
            started_at=NIGHT - 500,
            application="shop-api",
            user="app",
            client="10.0.0.7",
            code="leak-in-transaction",
            why="leak-in-transaction: idle in transaction for 6.87 min",
            frees=1,
            still="a.state = 'idle in transaction'",
            sql=f"select pg_terminate_backend(pid) from pg_stat_activity where pid = {4700 + number};",
            loses="what its open transaction changed; if it is a long request after all, that request fails",
        )
        for number in range(3)
    )
    backup = "select pg_cancel_backend(pid) from pg_stat_activity where pid = 41;"
    steps += (
        ReliefStep(
            pid=4703,
            started_at=NIGHT - 20,
            application="migrate",
            user="app",
            client="10.0.0.9",
            code="lock-queue",
            why="lock-queue: waits for a strong lock on orders for 8 s, and holds up 7 backends",
            frees=8,
            still="a.wait_event_type = 'Lock'",
            sql="select pg_cancel_backend(pid) from pg_stat_activity where pid = 4703;",
            action="cancel",
            loses="one try of a statement that only waits",
            alternative=Alternative(41, "cancel", "pg_dump", "what its transaction did in 20 min", 9, backup),
        ),
    )
    spared = (
        Spared((5000, 5001, 5002), "nightly-report", "reports", "it is idle, as the connections of a healthy pool are"),
        Spared((41,), "", None, "it is the server's own (checkpointer) and takes no client's slot"),
    )
    plan = ReliefPlan(steps, spared, ("leak-or-long-hold: look for longer than the longest hold",), may_signal=False)
    endings = (
        TerminationResult(4700, "ended"),
        TerminationResult(4701, "gone"),
        TerminationResult(4702, "another", "the process id belongs to another backend by now"),
        TerminationResult(4703, "refused", "permission denied to terminate process"),
    )
    return replace(leaking(), relief=plan, relieved=ReliefResult(endings, 97, 95))


ALL: tuple[Callable[[], InspectResult], ...] = (
    leaking,
    healthy,
    refused,
    undetermined,
    interrupted,
    single,
    doubtful,
    nothing,
    many,
    relieved,
    hostile,
)
