"""What holds for the diagnosis of anything, however broken: no exception, no code outside of the catalog, no wish
thinking beside a warning."""

import json
import re
from dataclasses import asdict, replace
from math import isfinite
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from observations import NOW, troubles

from poolctl.diagnose.catalog import codes_of
from poolctl.diagnose.finding import Diagnosis
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.relief import plan_relief
from poolctl.observe.snapshot import (
    Backend,
    BackendTitle,
    BouncerDatabase,
    BouncerLink,
    BouncerPool,
    BouncerSample,
    ClientProcess,
    DatabaseCounters,
    DatabaseFacts,
    HostSample,
    LockWait,
    Observation,
    PgpoolChild,
    PgpoolConnection,
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

LIVE_CODES = codes_of(lambda entry: "inspect" in entry.reported_by)
NOT_BACKENDS = frozenset({"fleet-over-budget", "pool-slots-lost", "handshake-pile-up", "lock-queue", "oversized-pool"})
"""What these free is counted otherwise: ceilings, slots of a pool, waiters, half-open connections."""

names = st.sampled_from(["shop", "search", "psql", "", "pg_dump", "a/*b*/'c", "[red]\x1b[2J"])
maybe = st.none()
count = st.integers(0, 60)
instant = st.one_of(maybe, st.floats(NOW - 5000.0, NOW + 5.0))
states = st.sampled_from(
    ["idle", "active", "idle in transaction", "idle in transaction (aborted)", "starting", "disabled", "nonsense", None]
)
waits = st.sampled_from(
    [
        (None, None),
        ("Client", "ClientRead"),
        ("Client", "ClientWrite"),
        ("Lock", "tuple"),
        ("IO", "DataFileRead"),
        ("", ""),
    ]
)
pids = st.integers(1, 12)


@st.composite
def backends(draw: st.DrawFn) -> Backend:
    wait = draw(waits)
    return Backend(
        pid=draw(pids),
        user=draw(st.sampled_from(["app", "watcher", None])),
        database=draw(st.sampled_from(["app", None])),
        application=draw(names),
        backend_type=draw(st.sampled_from(["client backend", None, "walsender", "autovacuum worker"])),
        client=draw(st.sampled_from(["127.0.0.1", "10.0.0.1", "local", None])),
        client_port=draw(st.sampled_from([None, -1, 5000, 5001])),
        started_at=draw(instant),
        transaction_at=draw(instant),
        query_at=draw(instant),
        state_at=draw(instant),
        state=draw(states),
        wait_event_type=wait[0],
        wait_event=wait[1],
        query=draw(st.sampled_from([None, "", "SELECT 1", "LISTEN x", "COPY t TO STDOUT", "UPDATE t WHERE"])),
        is_hidden=draw(st.booleans()),
        is_inferred=draw(st.booleans()),
        virtual_transaction=draw(st.sampled_from([None, "1/2", "3/4"])),
        blocked_by=tuple(draw(st.lists(st.integers(0, 12), max_size=2))),
        waits_for=draw(
            st.sampled_from(
                [None, LockWait("advisory", "ExclusiveLock"), LockWait("relation", "AccessExclusiveLock", "t")]
            )
        ),
        advisory_locks=draw(st.integers(0, 1)),
        strong_locks=draw(st.sampled_from([(), ("t",)])),
    )


counters = st.builds(
    DatabaseCounters,
    name=st.just("app"),
    backends=count,
    commits=st.integers(0, 10**9),
    sessions=st.one_of(maybe, st.integers(0, 10**6)),
    abandoned=st.one_of(maybe, st.integers(0, 10**6)),
    active_time=st.one_of(maybe, st.floats(0, 1e9)),
)
statements = st.builds(
    StatementCounters,
    query_id=st.integers(0, 3),
    user=names,
    database=maybe,
    query=st.one_of(maybe, st.just("SELECT a FROM t WHERE b = 1")),
    calls=count,
    time=st.floats(0, 1e6),
)
tables = st.builds(
    TableCounters,
    name=st.sampled_from(["t", "public.t"]),
    live_rows=st.integers(0, 10**7),
    scans=count,
    rows_read=st.integers(0, 10**9),
)
samples = st.builds(
    ServerSample,
    at=st.floats(NOW - 10.0, NOW),
    started_at=st.sampled_from([NOW - 900.0, NOW - 5.0]),
    backends=st.lists(backends(), max_size=8, unique_by=lambda row: row.pid).map(tuple),
    databases=st.lists(counters, max_size=2).map(tuple),
    statements=st.lists(statements, max_size=3).map(tuple),
    tables=st.lists(tables, max_size=2).map(tuple),
)
figures = st.builds(
    PoolFigures,
    source=st.just("file"),
    name=names,
    library=st.just("go"),
    max_open=st.one_of(maybe, count),
    open=st.one_of(maybe, count),
    in_use=st.one_of(maybe, count),
    idle=st.one_of(maybe, count),
    waiting=st.one_of(maybe, count),
    waiting_may_lie=st.booleans(),
    acquired_total=st.one_of(maybe, st.floats(0, 1e9)),
    queued_total=st.one_of(maybe, st.floats(0, 1e9)),
    wait_time_total=st.one_of(maybe, st.floats(0, 1e9)),
    timed_out_total=st.one_of(maybe, st.floats(0, 1e9)),
    loop_lag=st.one_of(maybe, st.floats(0, 10)),
    application=st.one_of(maybe, names),
)
links = st.builds(
    BouncerLink,
    kind=st.sampled_from(["client", "server"]),
    user=names,
    database=st.just("app"),
    state=st.sampled_from(["active", "waiting", "idle"]),
    address=st.just("127.0.0.1"),
    port=st.sampled_from([0, 5000]),
    pointer=st.sampled_from(["", "a", "b"]),
    link=st.sampled_from(["", "a", "b"]),
    remote_pid=st.one_of(maybe, pids),
)
bouncer_pools = st.builds(
    BouncerPool,
    database=st.sampled_from(["app", "pgbouncer"]),
    user=st.sampled_from(["app", "x"]),
    clients_waiting=count,
    servers_active=count,
    servers_idle=st.integers(0, 2),
    max_wait=st.floats(0, 100),
    mode=st.sampled_from([None, "session"]),
)
bouncers = st.builds(
    BouncerSample,
    target=st.just("b"),
    pools=st.lists(bouncer_pools, max_size=3).map(tuple),
    clients=st.lists(links, max_size=4).map(tuple),
    servers=st.lists(links, max_size=4).map(tuple),
    databases=st.lists(st.builds(BouncerDatabase, name=st.just("app"), pool_size=count), max_size=1).map(tuple),
    config=st.sampled_from([{}, {"max_client_conn": "10", "default_pool_size": "junk"}]),
)
children = st.builds(
    PgpoolChild, pid=pids, status=st.sampled_from([None, "Idle", "Wait for connection"]), is_own=st.booleans()
)
pgpools = st.builds(
    PgpoolSample,
    target=st.just("p"),
    children=st.lists(children, max_size=4).map(tuple),
    connections=st.lists(
        st.builds(PgpoolConnection, child_pid=pids, backend_pid=pids, is_connected=st.booleans()), max_size=3
    ).map(tuple),
    num_init_children=st.one_of(maybe, count),
    max_pool=st.one_of(maybe, count),
    waiting=st.one_of(maybe, count),
    hangs=st.booleans(),
)
hosts = st.builds(
    HostSample,
    has_server=st.booleans(),
    titles=st.lists(
        st.builds(
            BackendTitle,
            pid=pids,
            user=names,
            database=names,
            client=maybe,
            client_port=maybe,
            state=st.sampled_from(["idle", "idle in transaction", "SELECT waiting", "authentication", ""]),
        ),
        max_size=6,
    ).map(tuple),
    processes=st.lists(
        st.builds(
            ClientProcess,
            port=st.sampled_from([0, 5000, 5001]),
            pid=pids,
            command=st.sampled_from(["", "pgbouncer", "py"]),
            status=st.sampled_from(["stopped", "sleeping"]),
            backend_pid=st.one_of(maybe, pids),
        ),
        max_size=4,
    ).map(tuple),
    unowned_ports=st.sampled_from([(), (5000,)]),
    sees_all_sockets=st.booleans(),
    cores=st.one_of(maybe, st.integers(1, 8)),
    server_cpu=st.one_of(maybe, st.floats(0, 8)),
    listen_queues=st.sampled_from([{}, {6432: 3}]),
)
refusals = st.builds(
    Refusal,
    by=st.sampled_from(
        ["server-slots", "superuser-slots", "role-limit", "pooler-clients", "unknown", "starting-up", "unreachable"]
    ),
    text=st.sampled_from(["", "no more connections allowed (max_client_conn)", "leider voll"]),
    routine=st.sampled_from([None, "InitProcess"]),
)
snapshots = st.builds(
    Snapshot,
    at=st.floats(NOW - 10.0, NOW),
    server=st.one_of(maybe, samples),
    refusal=st.one_of(maybe, refusals),
    bouncers=st.lists(bouncers, max_size=1).map(tuple),
    pgpools=st.lists(pgpools, max_size=1).map(tuple),
    pools=st.lists(figures, max_size=2).map(tuple),
    host=st.one_of(maybe, hosts),
)
facts = st.builds(
    ServerFacts,
    target=st.just("db"),
    version=st.just("?"),
    version_number=st.sampled_from([120000, 180000]),
    role=st.just("watcher"),
    database=st.just("app"),
    max_connections=st.integers(0, 20),
    superuser_reserved=st.integers(0, 5),
    reserved=st.integers(0, 5),
    can_see_all=st.booleans(),
    roles=st.lists(
        st.builds(
            RoleFacts,
            name=st.just("app"),
            connection_limit=st.one_of(maybe, st.integers(-1, 9)),
            is_superuser=st.booleans(),
        ),
        max_size=1,
    ).map(tuple),
    databases=st.lists(
        st.builds(DatabaseFacts, name=st.just("app"), connection_limit=st.one_of(maybe, st.integers(-1, 9))), max_size=1
    ).map(tuple),
)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    series = sorted(draw(st.lists(snapshots, max_size=4)), key=lambda snapshot: snapshot.at)
    sources = draw(st.sampled_from([(), (Source("pgpool", "p", ok=False, reason="silent"),)]))
    return Observation(tuple(series), draw(st.one_of(maybe, facts)), sources)


slow = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@slow
@given(observations())
def test_whatever_was_seen_gives_findings_of_the_catalog_and_no_exception(observation: Observation) -> None:
    diagnosis = diagnose(observation)

    assert diagnosis.findings
    assert {finding.code for finding in diagnosis.findings} <= LIVE_CODES
    assert all(finding.decide_by for finding in diagnosis.findings if finding.confidence == "undetermined")
    assert all(len(finding.summary) < 500 and finding.evidence.get("threshold") for finding in diagnosis.findings)
    assert ("healthy" in [f.code for f in diagnosis.findings]) == (troubles(diagnosis) == [])
    assert sum(limit.binds for limit in diagnosis.limits) <= 1


@slow
@given(observations())
def test_evidence_is_finite_and_no_finding_frees_more_than_it_names(observation: Observation) -> None:
    diagnosis = diagnose(observation)

    for finding in diagnosis.findings:
        json.dumps(finding.evidence, allow_nan=False)
        named = sum(len(holder.pids) for holder in finding.holders)
        assert finding.frees >= 0
        assert finding.code in NOT_BACKENDS or finding.frees <= named
    assert all(isfinite(value) for value in _numbers(asdict(diagnosis)))


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in _numbers(each)]
    if isinstance(value, list | tuple):
        return [number for each in value for number in _numbers(each)]
    return [float(value)] if isinstance(value, int | float) else []


AGREES = re.compile(
    r"(?<!pid )\b1 (?:(?!process\b|address\b|s\b|ms\b|is\b|was\b|has\b|less\b|\w+ss\b)[a-z]+s\b(?<!\ds)"
    r"|[a-z]+ (?:are|have|wait|stand|hang|do)\b)"
)
"""Where one of something is written as many are: "1 backends", "1 client wait"."""
VERBS = {"waits", "rests", "holds", "listens", "stands", "keeps", "needs", "takes", "hangs", "wants", "works", "comes"}
UNFILLED = re.compile(r"\bNone\b|\bnan\b|\binf\b|\(\)|\"\"|\b0 of 0\b| {2}| [,;:](?!:)")
"""What a sentence looks like in which a value is missing."""


@slow
@given(observations())
def test_no_sentence_has_a_hole_or_counts_one_as_many(observation: Observation) -> None:
    for finding in diagnose(observation).findings:
        for sentence in filter(None, (finding.summary, finding.remedy, finding.decide_by)):
            wrong = [found[0] for found in AGREES.finditer(sentence) if found[0].split()[-1] not in VERBS]
            assert not wrong, sentence
            assert not UNFILLED.search(sentence), sentence


@slow
@given(observations(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_change_the_verdict(observation: Observation, random: Any) -> None:
    def shuffled(snapshot: Snapshot) -> Snapshot:
        if snapshot.server is None:
            return snapshot
        rows = list(snapshot.server.backends)
        random.shuffle(rows)
        return replace(snapshot, server=replace(snapshot.server, backends=tuple(rows)))

    other = replace(observation, snapshots=tuple(shuffled(snapshot) for snapshot in observation.snapshots))

    assert _verdict(diagnose(other)) == _verdict(diagnose(observation))


def _verdict(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.severity, finding.confidence) for finding in diagnosis.findings]


@slow
@given(observations())
def test_relief_ends_only_what_a_decided_finding_names_and_can_be_identified(observation: Observation) -> None:
    diagnosis = diagnose(observation)
    plan = plan_relief(observation, diagnosis)
    decided = {
        pid for f in diagnosis.findings if f.confidence != "undetermined" for holder in f.holders for pid in holder.pids
    }

    # A statement that only waits may be canceled in place of ending the head of its queue.
    waits = {pid for f in diagnosis.findings for pid in f.evidence.get("waiting_pids", [])}

    assert diagnose(observation) == diagnosis
    assert {step.pid for step in plan.steps if step.action == "terminate"} <= decided
    assert {step.pid for step in plan.steps if step.action == "cancel"} <= decided | waits
    assert all(f"pid = {step.pid} and a.backend_start = '" in step.sql for step in plan.steps)
    assert not {step.pid for step in plan.steps} & {pid for spared in plan.spared for pid in spared.pids}
