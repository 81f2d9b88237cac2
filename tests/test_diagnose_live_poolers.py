"""Queues in PgBouncer and Pgpool-II: which layer it is, and the application behind the pooler."""

from dataclasses import replace
from typing import Any

import pytest
from observations import (
    LEAKS,
    NOW,
    Row,
    bouncer,
    busy,
    codes,
    find,
    held_by,
    host,
    observe,
    pids,
    process,
    rows,
    server,
    troubles,
    verdict,
)

from poolctl.diagnose.finding import Diagnosis
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.relief import plan_relief
from poolctl.observe.snapshot import (
    IN_TRANSACTION,
    BouncerDatabase,
    BouncerLink,
    BouncerPool,
    BouncerSample,
    BouncerStats,
    BouncerUser,
    HostSample,
    Observation,
    PgpoolChild,
    PgpoolConnection,
    PgpoolSample,
    Refusal,
    Snapshot,
    Source,
)


def test_transactions_left_open_behind_pgbouncer_name_the_client_and_not_the_pooler() -> None:
    stuck = rows(6, state=IN_TRANSACTION, age=70.0, step=3.0, application="")

    diagnosis = verdict(*stuck, bouncers=[bouncer([100, 101, 102, 103, 104, 105])])

    finding = find(diagnosis, "pooler-pinned-transaction")
    assert (finding.confidence, finding.layer, finding.severity) == ("certain", "pooler", "critical")
    assert held_by(finding) == {"web0", "web1"}
    assert {holder.client for holder in finding.holders} == {"10.0.0.7"}
    assert codes(diagnosis)[:2] == ["leak-in-transaction", "pooler-pinned-transaction"]
    assert not {"pool-undersized", "slow-database", "healthy", "slots-exhausted", "leak"} & set(codes(diagnosis))


@pytest.mark.parametrize(("late", "found"), [("late", False), ("shop", True)])
def test_servers_that_were_pinned_at_one_moment_are_a_jam_only_if_their_own_application_waits(
    late: str, found: bool
) -> None:
    pinned = rows(5, state=IN_TRANSACTION, age=4.0, step=0.005, application="shop")
    sample = bouncer([100, 101, 102, 103, 104], waiting=6)
    named = tuple(replace(each, application=late if each.state == "waiting" else "shop") for each in sample.clients)

    diagnosis = verdict(*pinned, bouncers=[replace(sample, clients=named)])

    assert ("self-deadlock" in codes(diagnosis)) is found
    assert ("leak-in-transaction" in codes(diagnosis)) is not found


@pytest.mark.parametrize("what", ["one sample", "a moment's wait", "both samples"])
def test_pinned_servers_are_certain_only_if_their_state_and_the_wait_last(what: str) -> None:
    stuck = rows(6, state=IN_TRANSACTION, age=70.0, step=3.0, application="")
    held = [100, 101, 102, 103, 104, 105]
    waiting = bouncer(held)
    free = replace(waiting, pools=(replace(waiting.pools[0], clients_waiting=0),))
    samples: dict[str, dict[str, Any]] = {
        "one sample": {"bouncers": [waiting], "samples": 1},
        "a moment's wait": {"bouncers": [free] * 6 + [waiting]},
        "both samples": {"bouncers": [waiting]},
    }

    finding = find(verdict(*stuck, **samples[what]), "pooler-pinned-transaction")

    assert (finding.confidence == "certain") == (what == "both samples")


def test_one_pinned_server_is_named_with_the_port_of_its_client() -> None:
    pinned = Row(100, IN_TRANSACTION, age=4.0)

    finding = find(verdict(pinned, bouncers=[bouncer([100])]), "pooler-pinned-transaction")

    assert [holder.client for holder in finding.holders] == ["10.0.0.7:50100"]


def test_a_local_client_behind_pgbouncer_is_named_with_its_process() -> None:
    sample = bouncer([100])
    clients = (BouncerLink("client", "app", "app", "active", "127.0.0.1", 51_000, "c100", "s100", application="web"),)
    sample = bouncer([100], clients=clients)
    seen = host(process(51_000, 7, command="python web.py"), process(40_100, 99, command="pgbouncer"))

    [holder] = find(
        verdict(Row(100, IN_TRANSACTION, age=4.0), bouncers=[sample], hosts=[seen]), "pooler-pinned-transaction"
    ).holders

    assert holder.process == {"pid": 7, "command": "python web.py", "status": "sleeping"}


def test_without_the_pooler_its_own_process_is_not_named_as_the_holder() -> None:
    stuck = rows(3, state=IN_TRANSACTION, age=4.0, step=1.5, application="web")
    seen = host(*(process(40_000 + row.pid, 99, command="/usr/sbin/pgbouncer -d") for row in stuck))

    [holder] = find(verdict(*stuck, hosts=[seen]), "leak-in-transaction").holders

    assert (holder.application, holder.process, holder.client) == ("web", None, None)


def test_servers_of_idle_clients_are_the_session_mode() -> None:
    idle = rows(5, age=30.0, step=2.0)

    diagnosis = verdict(*idle, bouncers=[bouncer([100, 101, 102, 103, 104], mode="session")])

    finding = find(diagnosis, "pooler-session-mode")
    assert (finding.confidence, pids(finding)) == ("certain", {100, 101, 102, 103, 104})
    assert finding.evidence["waiting_applications"] == {"late": 4}
    assert not (LEAKS | {"pool-undersized", "slow-database", "healthy"}) & set(codes(diagnosis))


@pytest.mark.parametrize("samples", [1, 7])
def test_one_look_is_enough_for_idle_servers_with_a_queue(samples: int) -> None:
    assert "pooler-session-mode" in codes(
        verdict(
            *rows(3, age=30.0),
            samples=samples,
            window=0.0 if samples == 1 else 3.0,
            bouncers=[bouncer([100, 101, 102], mode="session")],
        )
    )


def test_a_pool_of_pgbouncer_that_turns_over_and_is_waited_for_is_too_small() -> None:
    diagnosis = verdict(*busy(4, 100), hosts=[host()], bouncers=[bouncer([100, 101, 102, 103])])

    finding = find(diagnosis, "pool-undersized")
    assert (finding.layer, finding.confidence) == ("pooler", "certain")
    assert not (LEAKS | {"pooler-pinned-transaction", "healthy"}) & set(codes(diagnosis))


def test_calls_elsewhere_that_keep_pgbouncers_servers_are_not_a_small_pool() -> None:
    calls = [Row(100 + i, IN_TRANSACTION, age=0.1 * i, turns=0.5, began=0.001) for i in range(5)]

    diagnosis = verdict(*calls, bouncers=[bouncer([100, 101, 102, 103, 104])])

    assert "held-across-io" in codes(diagnosis)
    assert "pool-undersized" not in codes(diagnosis)


def test_long_calls_elsewhere_behind_pgbouncer_do_end_and_are_spared() -> None:
    calls = [Row(100 + i, IN_TRANSACTION, age=0.4 * i, turns=2.0, began=0.001) for i in range(5)]
    observation = observe(*calls, bouncers=[bouncer([100, 101, 102, 103, 104])])

    diagnosis = diagnose(observation)

    assert codes(diagnosis)[:2] == ["held-across-io", "pooler-pinned-transaction"]
    assert "that have not ended" not in find(diagnosis, "pooler-pinned-transaction").summary
    assert plan_relief(observation, diagnosis).steps == ()


@pytest.mark.parametrize("hides", [False, True])
def test_a_busy_client_that_keeps_its_servers_between_statements_is_the_session_mode(hides: bool) -> None:
    pausing = [Row(100 + i, "idle", age=0.1 + 0.1 * i, turns=0.9) for i in range(5)]

    diagnosis = verdict(*pausing, bouncers=[bouncer([100, 101, 102, 103, 104], mode="session")], hides=hides)

    finding = find(diagnosis, "pooler-session-mode")
    assert (finding.confidence, len(pids(finding))) == ("likely" if hides else "certain", 5)
    assert "pool-undersized" not in codes(diagnosis)


def test_sessions_that_work_all_the_time_in_session_mode_are_a_small_pool() -> None:
    working = [Row(100 + i, "active", age=0.01 + 0.01 * i, turns=0.09) for i in range(5)]

    assert "pool-undersized" in codes(
        verdict(*working, hosts=[host()], bouncers=[bouncer([100, 101, 102, 103, 104], mode="session")])
    )


def test_a_queue_whose_backends_nobody_saw_is_undetermined() -> None:
    finding = find(verdict(bouncers=[bouncer([100, 101])], sees_backends=False, facts=None), "leak-or-long-hold")

    assert (finding.confidence, finding.layer) == ("undetermined", "pooler")
    assert held_by(finding) == {"web0", "web1"}


def test_a_quiet_pgbouncer_is_healthy() -> None:
    quiet = BouncerPool("app", "app", clients_active=3, servers_active=1, servers_idle=3, mode="transaction")

    diagnosis = verdict(*busy(4, 100), bouncers=[bouncer([100, 101, 102, 103], waiting=0, pools=(quiet,))])

    assert troubles(diagnosis) == []
    assert find(diagnosis, "healthy").confidence == "likely"


def test_a_paused_database_is_not_a_small_pool() -> None:
    paused = (BouncerDatabase("app", database="app", pool_size=2, paused=True),)

    diagnosis = verdict(*busy(2, 100), bouncers=[bouncer([100, 101], databases=paused)])

    finding = find(diagnosis, "pooler-client-limit")
    assert (finding.severity, finding.confidence, held_by(finding)) == ("critical", "certain", {"late"})
    assert "RESUME app" in finding.remedy
    assert not (LEAKS | {"pool-undersized", "healthy"}) & set(codes(diagnosis))


def test_clients_of_a_pgbouncer_without_any_server_connection_may_be_held_by_a_pause() -> None:
    finding = find(verdict(bouncers=[bouncer([], databases=())]), "waiting-unexplained")

    assert (finding.severity, finding.confidence) == ("critical", "undetermined")
    assert "it is paused (RESUME ends that), or cannot log in" in finding.summary


def test_a_pgbouncer_without_room_for_clients_is_the_poolers_limit() -> None:
    full = bouncer([100], waiting=0, config={"max_client_conn": "8"}, lists={"used_clients": 9})
    refused = Refusal("pooler-clients", "no more connections allowed (max_client_conn)", "08P01")

    diagnosis = verdict(Row(100, age=3.0), bouncers=[full], refusal=refused)

    finding = find(diagnosis, "pooler-client-limit")
    assert (finding.confidence, finding.layer) == ("certain", "pooler")
    assert not (LEAKS | {"slots-exhausted", "pool-undersized", "healthy"}) & set(codes(diagnosis))


def test_the_refusal_alone_names_the_poolers_limit() -> None:
    refused = Refusal("pooler-clients", "no more connections allowed (max_client_conn)", "08P01")

    diagnosis = verdict(sees_backends=False, facts=None, refusal=refused)

    assert find(diagnosis, "pooler-client-limit").confidence == "certain"


CHILDREN = tuple(PgpoolChild(i, "app", "app", "Idle", is_own=i == 0) for i in range(4))


@pytest.mark.parametrize(
    ("sample", "confidence"),
    [
        (PgpoolSample("p", children=CHILDREN, num_init_children=4, max_pool=1, waiting=3), "certain"),
        (PgpoolSample("p", num_init_children=4, waiting=3, hangs=True), "likely"),
        (PgpoolSample("p", hangs=True), "undetermined"),
    ],
)
def test_a_pgpool_with_all_children_busy_is_the_poolers_limit(sample: PgpoolSample, confidence: str) -> None:
    diagnosis = verdict(*busy(4), pgpools=[sample])

    assert find(diagnosis, "pooler-client-limit").confidence == confidence
    assert not (LEAKS | {"pool-undersized"}) & set(codes(diagnosis))


def test_a_full_pgpool_names_the_statement_that_most_of_its_clients_are_in() -> None:
    """As 4.7 shows it; the server behind it may not be observed at all."""
    held = [PgpoolConnection(i, 100 + i, is_connected=i < 3, statement="SELECT slow(?)") for i in range(4)]
    sample = PgpoolSample("p", children=CHILDREN, connections=tuple(held), num_init_children=4, max_pool=1, waiting=3)
    finding = find(verdict(sees_backends=False, facts=None, pgpools=[sample]), "pooler-client-limit")

    assert finding.summary.endswith('without an error; mostly in "SELECT slow(?)"')
    assert finding.evidence["statements"] == {"SELECT slow(?)": 3}


def test_a_pgpool_that_did_not_answer_with_a_listen_queue_is_likely_full() -> None:
    failed = Source("pgpool", "pgpool:9999", ok=False, reason="no answer within 2 s")
    queue = HostSample(has_server=False, listen_queues={9999: 3})

    diagnosis = diagnose(observe(*busy(4), sources=(failed,), hosts=[queue]))

    assert find(diagnosis, "pooler-client-limit").confidence == "likely"


@pytest.mark.parametrize(("has_server", "code"), [(False, "pooler-client-limit"), (True, "healthy")])
def test_a_listener_that_accepts_nobody_is_undetermined_unless_it_is_the_server(has_server: bool, code: str) -> None:
    silent = Refusal("unreachable", "no answer for 1.5 s", target="127.0.0.1:9999/app")
    clients = [process(50_000 + i, 77, command="python fleet.py") for i in range(4)]
    here = host(*clients, has_server=has_server, listen_queues={9999: 2})

    diagnosis = verdict(sees_backends=False, facts=None, refusal=silent, hosts=[here])

    finding = find(diagnosis, code)
    assert finding.confidence == "undetermined"
    assert [holder.process and holder.process["pid"] for holder in finding.holders] == ([] if has_server else [77])


def test_a_pgpool_with_children_to_spare_is_healthy() -> None:
    spare = (*CHILDREN[:2], PgpoolChild(8, status="Wait for connection"), PgpoolChild(9, status="Wait for connection"))

    assert (
        troubles(verdict(*busy(2), pgpools=[PgpoolSample("p", children=spare, num_init_children=4, max_pool=1)])) == []
    )


def test_pgpools_children_that_may_open_more_than_the_server_has_are_over_budget() -> None:
    sample = PgpoolSample("p", children=CHILDREN[:1], num_init_children=32, max_pool=4)

    finding = find(verdict(*busy(2), pgpools=[sample], facts=server()), "fleet-over-budget")

    assert (finding.confidence, finding.evidence["ceiling"], finding.frees) == ("certain", 128, 31)


@pytest.mark.parametrize(
    ("by", "text", "code"),
    [
        ("pooler-queue", "query_wait_timeout", "pooler-pinned-transaction"),
        ("pooler-login", "server login has been failing, cached error: sorry, too many clients", "slots-exhausted"),
    ],
)
def test_a_pooler_that_keeps_poolctl_itself_waiting_is_never_called_healthy(by: Any, text: str, code: str) -> None:
    refused = Observation(
        tuple(Snapshot(at, refusal=Refusal(by, text, sqlstate="08P01", target="db:6432")) for at in (0.0, 1.0)),
        sources=(Source("postgres", "db:6432", ok=False, reason=text),),
    )

    diagnosis = diagnose(refused)

    found = find(diagnosis, code)
    assert (found.severity, found.confidence, found.layer) == ("critical", "undetermined", "pooler")
    assert found.decide_by is not None
    assert "healthy" not in codes(diagnosis)
    assert "pool-undersized" not in codes(diagnosis)


def passing(samples: int, each: int, *, stays: int = 0, **values: object) -> list[BouncerSample]:
    """A PgBouncer with ``stays`` clients that stay, and ``each`` new ones in every sample."""

    def client(port: int, at: float) -> BouncerLink:
        return BouncerLink(
            "client", "app", "app", "active", "10.0.0.9", port, f"c{port}", application="daemon", connected_at=at
        )

    return [
        bouncer(
            [],
            waiting=0,
            clients=tuple(
                [client(100 + n, NOW - 600) for n in range(stays)]
                + [client(1000 * (1 + index) + n, NOW - 3 + index / 2) for n in range(each)]
            ),
            stats=(BouncerStats("app", transactions=1000 + 20 * index, **values),),  # type: ignore[arg-type]
        )
        for index in range(samples)
    ]


def seen_at_each(samples: list[BouncerSample], **scene: object) -> Diagnosis:
    observation = observe(*busy(2), samples=len(samples), **scene)
    snapshots = tuple(
        replace(snapshot, bouncers=(sample,)) for snapshot, sample in zip(observation.snapshots, samples, strict=True)
    )
    return diagnose(replace(observation, snapshots=snapshots))


def test_clients_that_come_and_go_before_a_pooler_are_churn() -> None:
    diagnosis = seen_at_each(passing(7, 3))

    finding = find(diagnosis, "connection-churn")
    assert (finding.layer, finding.confidence, held_by(finding)) == ("pooler", "likely", {"daemon"})
    assert "healthy" not in codes(diagnosis)


@pytest.mark.parametrize(("logins", "is_churn"), [(90, True), (1, False)])
def test_logins_that_pgbouncer_counts_decide_about_churn(logins: int, is_churn: bool) -> None:
    samples = passing(7, 0, stays=4)
    counted = [
        replace(each, stats=tuple(replace(row, logins=50 + index * logins // 6) for row in each.stats))
        for index, each in enumerate(samples)
    ]

    assert ("connection-churn" in codes(seen_at_each(counted))) == is_churn


@pytest.mark.parametrize("closed", [2400, 30])
def test_closed_connections_that_keep_their_ports_are_churn_before_a_pooler(closed: int) -> None:
    diagnosis = seen_at_each(passing(7, 0, stays=2), hosts=[host(closed={6432: closed, 5432: 9000})])

    assert ("connection-churn" in codes(diagnosis)) == (closed > 1000)


def test_clients_of_a_pooler_that_stay_are_no_churn() -> None:
    assert troubles(seen_at_each(passing(7, 0, stays=40))) == []


def test_clients_that_carry_many_transactions_each_are_no_churn() -> None:
    worked = [
        replace(each, stats=(BouncerStats("app", transactions=1000 * index),))
        for index, each in enumerate(passing(7, 1))
    ]

    assert troubles(seen_at_each(worked)) == []


@pytest.mark.parametrize(("transactions", "is_churn"), [(0, False), (20, True)])
def test_ports_that_wait_for_their_end_are_no_churn_where_nobody_comes_any_more(
    transactions: int, is_churn: bool
) -> None:
    samples = [
        replace(each, stats=(BouncerStats("app", transactions=1000 + transactions * index),))
        for index, each in enumerate(passing(7, 0))
    ]

    diagnosis = seen_at_each(samples, hosts=[host(closed={6432: 900})])

    assert ("connection-churn" in codes(diagnosis)) == is_churn


@pytest.mark.parametrize(("in_statements", "code"), [(0.02, "held-across-io"), (0.9, "pool-undersized")])
def test_pgbouncers_own_times_tell_pauses_from_work_where_a_role_sees_no_times(in_statements: float, code: str) -> None:
    """Five transactions at a time, of 0.2 s each, after a wait of 0.6 s, which PgBouncer counts as a statement's."""
    calls = [Row(100 + i, IN_TRANSACTION, age=0.04 * i, turns=0.2, began=0.001) for i in range(5)]
    samples = [
        replace(
            bouncer([100, 101, 102, 103, 104]),
            stats=(
                BouncerStats(
                    "app",
                    transactions=12 * i,
                    queries=24 * i,
                    transaction_time=(7.2 + 2.4) * i,
                    query_time=(7.2 + 2.4 * in_statements) * i,
                ),
            ),
        )
        for i in range(7)
    ]
    observation = observe(*calls, hides=True)
    snapshots = tuple(replace(s, bouncers=(b,)) for s, b in zip(observation.snapshots, samples, strict=True))

    finding = find(diagnose(replace(observation, snapshots=snapshots)), code)

    assert (finding.severity, finding.confidence) == ("critical", "likely")
    assert len(pids(finding)) == 5


def test_a_machine_without_a_free_port_is_not_a_server_that_does_not_run() -> None:
    refusal = Refusal("no-local-port", "Cannot assign requested address", target="pooler:6432/app")

    diagnosis = verdict(
        sees_backends=False, facts=None, refusal=refusal, hosts=[host(has_server=False, closed={6432: 28_000})]
    )

    finding = find(diagnosis, "connection-churn")
    assert (finding.severity, finding.confidence, finding.layer) == ("critical", "likely", "host")
    assert "This machine has no free port left" in finding.summary
    assert "28,000 that were closed" in finding.summary


def test_limits_of_a_database_and_of_a_user_of_pgbouncer_are_named() -> None:
    """PgBouncer 1.24: max_db_client_connections and max_user_client_connections."""
    database = BouncerDatabase("app", max_client_connections=4, current_client_connections=4)
    user = BouncerUser("app", max_client_connections=30, current_client_connections=6)

    diagnosis = verdict(*busy(2), bouncers=[bouncer([], waiting=0, databases=(database,), users=(user,))])

    finding = find(diagnosis, "pooler-client-limit")
    assert "PgBouncer has 4 of 4 clients of database app (max_db_client_connections)" in finding.summary
    assert "max_db_client_connections" in finding.remedy
    assert "max_user_client_connections of user app" in [limit.name for limit in diagnosis.limits]


@pytest.mark.parametrize("text", ["MaxClientsInSessionMode: max clients reached", "(EMAXCONNSESSION) in session mode"])
def test_a_pooler_in_session_mode_sends_its_clients_to_the_other_port(text: str) -> None:
    diagnosis = verdict(sees_backends=False, facts=None, refusal=Refusal("pooler-clients", text, "XX000"))

    finding = find(diagnosis, "pooler-client-limit")
    assert "session mode" in finding.summary
    assert "transaction mode" in finding.remedy
