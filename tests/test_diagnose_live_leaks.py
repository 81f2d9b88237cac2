"""Connections that do not come back, and everything healthy that looks like it."""

from dataclasses import replace
from typing import Any

import pytest
from observations import (
    LEAKS,
    NOW,
    Row,
    busy,
    codes,
    find,
    full_pool,
    held_by,
    host,
    pids,
    pool,
    rows,
    server,
    troubles,
    verdict,
)

from poolctl.observe.snapshot import (
    ABORTED,
    IN_TRANSACTION,
    BackendTitle,
    DatabaseCounters,
    HostSample,
    PoolFigures,
    RoleFacts,
)


def leaked(count: int, first: int = 100, *, age: float = 2.0, step: float = 0.7, **same: Any) -> list[Row]:
    return rows(count, first, state=IN_TRANSACTION, age=age, step=step, **same)


@pytest.mark.parametrize("count", [2, 3, 30, 90])
def test_transactions_that_nobody_ends_are_a_leak_without_any_pool_figures(count: int) -> None:
    diagnosis = verdict(*leaked(count), *busy(6))

    finding = find(diagnosis, "leak-in-transaction")
    assert finding.confidence == "likely"
    assert finding.severity == ("critical" if count > 90 else "warning")
    assert pids(finding) == set(range(100, 100 + count))
    assert finding.frees == count
    assert not {"pool-undersized", "slow-database", "healthy", "held-across-io"} & set(codes(diagnosis))


def test_transactions_are_a_leak_for_certain_only_if_the_pool_says_how_long_it_is_held() -> None:
    rows_ = (*leaked(5, age=45.0, step=11.0), *busy(6))
    used = [[pool(max_open=20, open=11, in_use=7, waiting=0, use_time_total=9.0, use_count_total=900.0)]]

    assert find(verdict(*rows_), "leak-in-transaction").confidence == "likely"
    assert find(verdict(*rows_, pools=used), "leak-in-transaction").confidence == "certain"


def test_a_leak_names_the_application_user_and_route_and_not_its_neighbors() -> None:
    query = "SELECT * FROM cart /*route='%2Fcheckout'*/"
    diagnosis = verdict(*leaked(4, application="checkout", query=query), *busy(8, application="search"))

    [holder] = find(diagnosis, "leak-in-transaction").holders
    assert (holder.application, holder.user, holder.route, len(holder.pids)) == ("checkout", "app", "/checkout", 4)


def test_one_leaked_transaction_in_each_pod_is_one_leak() -> None:
    pods = [Row(100 + i, IN_TRANSACTION, age=3.0 + i, client=f"10.0.0.{i}") for i in range(6)]

    finding = find(verdict(*pods, *busy(12)), "leak-in-transaction")

    assert finding.frees == 6
    assert {holder.client for holder in finding.holders} == {f"10.0.0.{i}" for i in range(6)}


def test_two_applications_that_leak_are_two_findings() -> None:
    diagnosis = verdict(*leaked(3, application="a"), *leaked(4, 200, application="b"))

    assert [held_by(f) for f in diagnosis.findings if f.code == "leak-in-transaction"] == [{"b"}, {"a"}]


def test_a_leak_is_seen_without_privileges_and_is_likely() -> None:
    diagnosis = verdict(*leaked(6, application="checkout"), *busy(6, application="checkout"), hides=True)

    finding = find(diagnosis, "leak-in-transaction")
    assert finding.confidence == "likely"
    assert held_by(finding) == {"checkout"}
    assert "partial-view" in codes(diagnosis)


def titled(state: str, *seen: Row) -> HostSample:
    """A look at the server's machine, where each process of these rows has ``state`` in its title."""
    return host(titles=tuple(BackendTitle(row.pid, "app", "app", "127.0.0.1", 40_000 + row.pid, state) for row in seen))


@pytest.mark.parametrize("moved", ["another long one ended", "all are in one", "short work goes on"])
def test_without_privileges_transactions_may_be_usual_holds_where_others_were_observed_to_end(moved: str) -> None:
    """Seen from a role without pg_monitor, within 2 s: holds of 2 to 8 s, of which a few ended; or a leak."""
    held = rows(12, state=IN_TRANSACTION, age=4.0, step=0.3)
    ended = Row(300, IN_TRANSACTION, age=9.0, opened=90.0, until_sample=3)
    others = {
        "another long one ended": [ended, Row(300, age=0.5, opened=90.0, from_sample=4), *busy(2)],
        "all are in one": [
            replace(ended, until_sample=1),
            Row(300, IN_TRANSACTION, age=1.6, opened=90.0, from_sample=2),
        ],
        "short work goes on": busy(3),
    }[moved]

    finding = find(verdict(*held, *others, hides=True, window=2.0), "leak-in-transaction")

    assert finding.confidence == ("likely" if moved == "short work goes on" else "undetermined")


def test_a_leak_whose_portals_look_active_is_seen_without_privileges_by_its_processes_titles() -> None:
    leaked = rows(5, state="active", age=4.0, step=0.5)
    by_locks = verdict(*leaked, hides=True)
    by_titles = verdict(*leaked, *busy(2), hides=True, hosts=[titled(IN_TRANSACTION, *leaked)])

    assert find(by_titles, "leak-in-transaction").confidence == "likely"
    assert pids(find(by_titles, "leak-in-transaction")) == {row.pid for row in leaked}
    assert troubles(by_locks) == ["leak-or-long-hold"]
    assert find(by_locks, "leak-or-long-hold").confidence == "undetermined"
    assert find(by_locks, "leak-or-long-hold").summary == (
        "5 connections of shop stand still (5 of 5 backends in transactions; this role may not see whether they work "
        "in them), the oldest for 3 s: leaked, or long statements"
    )


def held_by_pool(in_use: int, waiting: int | None = 0, **totals: float) -> list[list[PoolFigures]]:
    """Of a pool of twelve; ``totals`` grow by so much in each sample."""
    return [
        [
            pool(
                application="shop",
                max_open=12,
                open=12,
                in_use=in_use,
                waiting=waiting,
                **{name: 90.0 + each * i for name, each in totals.items()},
            )
        ]
        for i in range(7)
    ]


def ended(each: int) -> list[list[DatabaseCounters]]:
    return [[DatabaseCounters("app", backends=12, commits=800 + each * i)] for i in range(7)]


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize(
    ("figures", "count"),
    [
        (held_by_pool(10), 10),
        (held_by_pool(10, None), 10),
        (held_by_pool(10, acquired_total=0.0), 10),
        (held_by_pool(10, acquired_total=3.0, use_time_total=0.06, use_count_total=3.0), 10),
        (held_by_pool(12, None), 12),
        (held_by_pool(12, 3), 12),
    ],
    ids=["none waits", "waits unknown", "no acquires", "two serve", "full", "full and waited for"],
)
def test_holds_that_the_pool_counts_are_told_to_every_role(
    figures: list[list[PoolFigures]], count: int, hides: bool
) -> None:
    diagnosis = verdict(*rows(12, age=20.0, step=1.0), hides=hides, pools=figures, databases=ended(2))

    finding = find(diagnosis, "leak-or-long-hold")
    assert (finding.confidence, len(pids(finding)), held_by(finding)) == ("undetermined", count, {"shop"})
    assert ("this role may not see since when" in finding.summary) == hides
    assert ("pg_monitor" in str(finding.decide_by)) == hides
    assert "healthy" not in codes(diagnosis)


def test_a_floor_that_climbs_is_a_leak_to_every_role() -> None:
    climbing = [[pool(application="shop", max_open=20, open=12, in_use=5 + i, waiting=0)] for i in range(7)]

    finding = find(verdict(*rows(12, age=20.0, step=1.0), hides=True, pools=climbing), "leak")

    assert (finding.confidence, finding.evidence["oldest_age"]) == ("likely", None)


@pytest.mark.parametrize(
    ("figures", "commits", "given"),
    [
        (held_by_pool(10, acquired_total=200.0, use_time_total=5.0, use_count_total=200.0), 200, rows(12)),
        (held_by_pool(10, acquired_total=200.0), 200, rows(12)),
        (held_by_pool(10), 40, rows(12)),
        (held_by_pool(10), 40, busy(12)),
        (held_by_pool(2), 0, rows(12)),
    ],
    ids=["by turns", "turns unknown", "workers keep theirs", "at work", "few in use"],
)
def test_a_pool_in_use_whose_backends_may_work_is_no_hold_to_a_role_that_sees_no_times(
    figures: list[list[PoolFigures]], commits: int, given: list[Row]
) -> None:
    assert troubles(verdict(*given, hides=True, pools=figures, databases=ended(commits))) == []


def test_statements_that_take_long_stay_active_whatever_a_title_said_a_moment_later() -> None:
    long = rows(3, state="active", age=4.0, step=0.5)

    diagnosis = verdict(*long, hides=True, hosts=[titled("SELECT", *long)])

    assert troubles(diagnosis) == []


def test_failed_transactions_are_seen_without_privileges_by_their_processes_titles() -> None:
    failed = rows(2, state="idle", age=4.0, step=0.5)

    diagnosis = verdict(*failed, hides=True, hosts=[titled(ABORTED, *failed)])

    assert pids(find(diagnosis, "aborted-transaction")) == {row.pid for row in failed}
    assert find(diagnosis, "aborted-transaction").confidence == "likely"


def test_one_look_cannot_be_sure_that_a_transaction_stays() -> None:
    finding = find(verdict(*leaked(6), samples=1, window=0.0), "leak-in-transaction")

    assert finding.confidence == "undetermined"
    assert finding.decide_by


def test_ages_of_one_moment_may_be_a_jam_of_nested_acquires() -> None:
    diagnosis = verdict(*leaked(8, age=9.0, step=0.004))

    finding = find(diagnosis, "self-deadlock")
    assert finding.confidence == "undetermined"
    assert finding.decide_by
    assert "leak-in-transaction" not in codes(diagnosis)


def test_a_burst_of_leaks_beside_sessions_that_work_is_no_jam() -> None:
    diagnosis = verdict(*leaked(8, age=9.0, step=0.004), *busy(3))

    assert "leak-in-transaction" in codes(diagnosis)
    assert "self-deadlock" not in codes(diagnosis)


def test_equal_ages_with_a_pool_that_nobody_waits_for_are_a_leak() -> None:
    quiet = [[pool(max_open=20, open=8, in_use=8, waiting=0)]]

    diagnosis = verdict(*leaked(8, age=9.0, step=0.004), pools=quiet)

    assert "leak-in-transaction" in codes(diagnosis)
    assert "self-deadlock" not in codes(diagnosis)


def test_a_leak_that_fills_the_pool_is_critical_and_no_reason_for_a_bigger_pool() -> None:
    diagnosis = verdict(*leaked(10), pools=full_pool(10))

    finding = find(diagnosis, "leak-in-transaction")
    assert finding.severity == "critical"
    assert "bigger pool" in finding.remedy
    assert "pool-undersized" not in codes(diagnosis)


def test_the_timeout_that_would_end_a_leak_is_not_praised_without_what_it_breaks() -> None:
    leader = Row(900, "idle", age=500.0, application="leader", advisory=1)

    assert "advisory lock" in find(verdict(*leaked(3), leader), "leak-in-transaction").remedy


HEALTHY = {
    "a busy pool": busy(20),
    "a busy pool that is never idle": busy(40, application="shop"),
    "a lifo pool of which most is frozen": [*rows(38, age=300.0, step=9.0), *busy(2)],
    "an oversized pool": rows(60, age=900.0),
    "a fifo pool in a quiet hour": rows(20, age=0.3, step=0.3, turns=6.0),
    "a nightly quiet": rows(10, age=20_000.0, step=100.0),
    "sessions that listen": [*rows(5, age=4000.0, query="LISTEN jobs", application="worker"), *busy(3)],
    "a leader with an advisory lock": [Row(100, age=4000.0, advisory=1, application="leader"), *busy(3)],
    "leaders with locks in transactions": [
        *rows(3, state=IN_TRANSACTION, age=400.0, step=9.0, advisory=1, application="leader"),
        *busy(3),
    ],
    "one long transaction": [Row(100, IN_TRANSACTION, age=40.0, application="batch"), *busy(4)],
    "a person at psql": [Row(100, IN_TRANSACTION, age=700.0, application="psql"), *busy(4)],
    "two people at psql": [*rows(2, state=IN_TRANSACTION, age=700.0, step=9.0, application="psql"), *busy(4)],
    "a person with a failed statement": [Row(100, ABORTED, age=70.0, application="psql"), *busy(4)],
    "a dump with idle workers": [*rows(4, state=IN_TRANSACTION, age=90.0, step=3.0, application="pg_dump"), *busy(4)],
    "batches that pause between statements": [
        *rows(3, state=IN_TRANSACTION, age=1.1, step=0.2, turns=2.3, transaction=900.0, application="batch"),
        *busy(4),
    ],
    "a long report": [Row(100, "active", age=1800.0, application="report"), *busy(4)],
    "logical replication": [
        Row(100, "active", age=9000.0, kind="walsender", application="subscription", wait=("Client", "ClientWrite")),
        *busy(4),
    ],
    "pods that have just started": [*rows(30, age=1.5, step=0.01, opened=2.0), *rows(10, 300, age=0.2, opened=0.3)],
    "short transactions only": rows(12, state=IN_TRANSACTION, age=0.004, step=0.003, turns=0.04),
    "a chatty application without a spare session": rows(12, state=IN_TRANSACTION, age=0.002, step=0.001, turns=0.02),
    "slow transactions of which none is stuck": rows(12, state=IN_TRANSACTION, age=0.1, step=0.11, turns=1.6, began=0.2)
    + rows(20, 300, age=5.0),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("samples", [2, 3, 7])
def test_what_is_healthy_is_not_called_leaky(name: str, samples: int) -> None:
    diagnosis = verdict(*HEALTHY[name], samples=samples)

    assert troubles(diagnosis) == []
    assert diagnosis.findings[0].code == "healthy"
    assert not LEAKS & set(codes(diagnosis))


@pytest.mark.parametrize("name", [name for name in HEALTHY if "batches" not in name])
def test_what_is_healthy_is_not_called_leaky_by_a_role_without_privileges(name: str) -> None:
    assert troubles(verdict(*HEALTHY[name], hides=True)) == []


@pytest.mark.parametrize("name", [name for name in HEALTHY if "slow" not in name])
def test_what_is_healthy_stays_so_with_a_pool_that_says_nobody_waits(name: str) -> None:
    quiet = [[pool(max_open=80, open=60, in_use=2, waiting=0, acquired_total=10.0 + i)] for i in range(7)]

    assert troubles(verdict(*HEALTHY[name], pools=quiet)) == []


def idle_leak(**changes: Any) -> list[Row]:
    return rows(10, age=2.0, step=3.0, application="checkout", **changes)


def test_idle_sessions_are_no_leak_while_nobody_says_who_waits() -> None:
    assert troubles(verdict(*idle_leak())) == []


def test_a_full_pool_of_sessions_that_stand_still_is_undetermined() -> None:
    diagnosis = verdict(*idle_leak(), pools=full_pool(10))

    finding = find(diagnosis, "leak-or-long-hold")
    assert finding.confidence == "undetermined"
    assert finding.severity == "critical"
    assert held_by(finding) == {"checkout"}
    assert finding.decide_by
    assert not {"pool-undersized", "healthy", "leak", "long-hold"} & set(codes(diagnosis))


def test_a_floor_that_climbs_in_steps_is_a_leak() -> None:
    climbing = [[pool(max_open=20, open=14, in_use=6 + i, waiting=0)] for i in range(8)]
    timed = [[replace(each, use_time_total=9.0, use_count_total=900.0) for each in sample] for sample in climbing]
    held = rows(14, age=40.0, step=3.0)

    diagnosis = verdict(*held, samples=8, window=60.0, pools=climbing)

    finding = find(diagnosis, "leak")
    assert finding.confidence == "likely"
    assert find(verdict(*held, samples=8, window=60.0, pools=timed), "leak").confidence == "certain"
    assert finding.frees == 13
    assert "pool-undersized" not in codes(diagnosis)


def test_a_floor_that_rises_and_falls_is_a_busy_minute() -> None:
    breathing = [[pool(max_open=20, open=14, in_use=n, waiting=0)] for n in (4, 9, 6, 12, 5, 11, 7, 3)]

    assert troubles(verdict(*busy(14), samples=8, window=60.0, pools=breathing)) == []


def test_new_sessions_beside_frozen_ones_while_clients_wait_are_a_leak() -> None:
    new = [Row(300 + i, age=1.2, opened=1.4, from_sample=4, application="checkout") for i in range(2)]

    diagnosis = verdict(*idle_leak(), *new, pools=full_pool(12))

    assert find(diagnosis, "leak").confidence == "likely"


def test_connections_in_use_without_any_traffic_are_a_leak() -> None:
    still = [[pool(max_open=20, open=6, in_use=6, waiting=0, acquired_total=81.0)]]

    finding = find(verdict(*rows(6, age=50.0, step=8.0), pools=still), "leak")

    assert (finding.confidence, finding.severity, finding.frees) == ("likely", "warning", 6)


@pytest.mark.parametrize(
    "standing",
    [rows(6, age=4.0, step=8.0), rows(6, age=12.0, step=0.01)],
    ids=["one after the other", "since a moment ago"],
)
def test_connections_in_use_without_traffic_for_a_few_seconds_may_be_long_requests(standing: list[Row]) -> None:
    still = [[pool(max_open=6, open=6, in_use=6, waiting=0, acquired_total=81.0)]]

    diagnosis = verdict(*standing, pools=still)

    assert find(diagnosis, "leak-or-long-hold").confidence == "undetermined"
    assert "leak" not in codes(diagnosis)


@pytest.mark.parametrize(("acquired", "code"), [(2, "leak-or-long-hold"), (90, "leak")])
def test_a_floor_that_climbs_is_no_leak_where_all_that_is_acquired_stays(acquired: int, code: str) -> None:
    """Streams that begin one after the other climb, too; but then no acquire is a short one."""
    climbing = [
        [pool(max_open=20, open=14, in_use=6 + i, waiting=0, acquired_total=500.0 + acquired * i)] for i in range(8)
    ]

    assert code in codes(verdict(*rows(14, age=40.0, step=3.0), samples=8, window=60.0, pools=climbing))


def test_a_hold_that_was_seen_to_end_while_the_pool_was_full_is_a_long_hold() -> None:
    back = Row(150, "active", age=0.4, application="checkout")
    held_before = [
        Row(150, "idle", age=9.0, application="checkout", until_sample=3),
        Row(150, "active", age=0.4, application="checkout", from_sample=4, turns=0.0),
    ]
    assert back.pid == held_before[0].pid

    diagnosis = verdict(*idle_leak(), *held_before, pools=full_pool(11, name="checkout"))

    finding = find(diagnosis, "long-hold")
    assert finding.confidence == "certain"
    assert not LEAKS & set(codes(diagnosis))


def test_sessions_that_listen_in_a_pool_that_is_waited_for_are_long_holds() -> None:
    diagnosis = verdict(*rows(5, age=400.0, query="LISTEN jobs"), pools=full_pool(5))

    assert find(diagnosis, "long-hold").confidence == "likely"
    assert "a connection of its own" in find(diagnosis, "long-hold").remedy
    assert not LEAKS & set(codes(diagnosis))


def test_a_role_that_is_no_application_does_not_matter() -> None:
    facts = server(roles=(RoleFacts("app"), RoleFacts("unused", connection_limit=0)))

    assert troubles(verdict(*busy(4), facts=facts)) == []


def test_a_pool_that_filled_up_within_the_window_and_stays_full_is_no_healthy_one() -> None:
    filling = [[pool(max_open=25, open=25, in_use=n, queued_total=16.0 + n)] for n in (15, 16, 20, 24, 25, 25, 25)]

    diagnosis = verdict(*rows(25, age=4.6, step=0.4), pools=filling)

    assert find(diagnosis, "leak").confidence == "likely"
    assert not {"healthy", "pool-undersized"} & set(codes(diagnosis))


@pytest.mark.parametrize("count", [2, 3])
def test_a_small_pool_that_leaked_fast_is_a_leak_though_undetermined(count: int) -> None:
    finding = find(verdict(*leaked(count, age=5.0, step=0.02), *busy(4, application="search")), "leak-in-transaction")

    assert finding.confidence == "undetermined"
    assert finding.decide_by


def test_a_pool_without_a_name_is_the_applications_that_has_as_many_sessions_at_every_look() -> None:
    opened = [3, 4, 5, 6, 7, 7, 7]
    growing = [
        Row(100 + i, age=8.0 - i, opened=9.0, application="checkout", from_sample=sum(many <= i for many in opened))
        for i in range(7)
    ]
    figures = [[pool(name="", max_open=7, open=many, in_use=many, waiting=3)] for many in opened]

    diagnosis = verdict(*growing, *busy(8, application="search"), pools=figures)
    tied = verdict(*busy(7, 900, application="mail"), *busy(7, application="search"), pools=full_pool(7, 3, name=""))

    assert held_by(find(diagnosis, "leak")) == {"checkout"}
    assert "which application's they are is not known" in find(tied, "leak-or-long-hold").summary
    assert "--pool-stats APPLICATION=URL" in str(find(tied, "leak-or-long-hold").decide_by)


def test_what_rests_beside_a_leak_is_no_pause_of_work_that_goes_on() -> None:
    working = [Row(200 + i, IN_TRANSACTION, age=0.05 + 0.02 * i, turns=0.1, began=0.3) for i in range(3)]
    leaked = rows(4, state=IN_TRANSACTION, age=4.0, step=0.7)
    newest = rows(8, 300, state=IN_TRANSACTION, age=2.0, step=0.03, opened=2.4, from_sample=2)

    diagnosis = verdict(*working, *leaked, *newest)

    assert troubles(diagnosis) == ["leak-in-transaction"]


def test_the_newest_of_a_fast_leak_do_not_make_its_older_ones_usual() -> None:
    diagnosis = verdict(*leaked(16, age=0.1, step=0.3, opened=5.0), *busy(1))

    finding = find(diagnosis, "leak-in-transaction")
    assert len(pids(finding)) == 12


def test_a_leak_that_was_caught_in_its_statement_does_not_make_the_others_usual() -> None:
    samples = [3.0 - 0.5 * sample for sample in range(7)]
    leaked = [
        Row(100 + i, IN_TRANSACTION, age=age, opened=age, from_sample=sum(sample > age for sample in samples))
        for i, age in enumerate([3.4 - 0.2 * i for i in range(14)])
    ]
    caught = Row(300, IN_TRANSACTION, age=1.999, transaction=2.001, opened=2.1, from_sample=2)

    finding = find(verdict(*leaked, caught), "leak-in-transaction")

    assert pids(finding) == {row.pid for row in (*leaked, caught) if row.age > 1.0}


def test_transactions_that_may_be_slow_work_or_a_leak_are_not_called_healthy() -> None:
    slow = Row(200, "active", age=0.1, turns=0.9, until_sample=2)
    resting = rows(3, state=IN_TRANSACTION, age=2.1, step=0.1, opened=2.5, from_sample=2)

    diagnosis = verdict(slow, *resting)

    [finding] = diagnosis.findings
    assert (finding.code, finding.confidence) == ("leak-or-long-hold", "undetermined")
    assert finding.summary == (
        "3 connections of shop stand still (3 of 3 backends in transactions), the oldest for 2.3 s: leaked, or slow "
        "work that ends by itself"
    )


def test_rests_that_end_quickly_tell_a_leak_from_long_transactions() -> None:
    """Transactions of two seconds with short rests in them, beside two that rest for longer than any of those."""
    long = [Row(200 + i, IN_TRANSACTION, age=0.05 + 0.1 * i, turns=0.4, began=2.0) for i in range(3)]
    few = [Row(200, IN_TRANSACTION, age=0.05, turns=0.4, began=2.0, from_sample=5)]
    leaked = rows(2, state=IN_TRANSACTION, age=5.0, step=1.0)

    assert pids(find(verdict(*long, *leaked), "leak-in-transaction")) == {row.pid for row in leaked}
    assert "leak-in-transaction" not in codes(verdict(*few, *leaked))


def batch(workers: int, spread: float = 0.3, used: float = 0.4) -> list[Row]:
    """Transactions that each began ``used`` seconds after the login of their backend, ``spread`` seconds apart."""
    ages = [14.0 + spread * i for i in range(workers)]
    return [Row(100 + i, IN_TRANSACTION, age=age, opened=age + used) for i, age in enumerate(ages)]


def spare(in_use: int, waiting: int = 0) -> list[list[PoolFigures]]:
    return [[pool(application="shop", max_open=8, open=8, in_use=in_use, waiting=waiting)]]


@pytest.mark.parametrize(
    ("given", "pools", "confidence"),
    [
        (batch(3), spare(3), "undetermined"),
        ([*batch(3), *rows(5, first=300, age=60.0)], spare(3), "undetermined"),
        (batch(3), [], "undetermined"),
        (batch(3, spread=2.0), [], "likely"),
        ([*batch(3), *busy(5, application="shop")], spare(4), "likely"),
        (batch(8, spread=2.0), spare(8, waiting=4), "likely"),
        (batch(8, spread=0.2), spare(8, waiting=4), "likely"),
        (batch(8, spread=0.2, used=0.05), spare(8, waiting=4), "undetermined"),
    ],
    ids=[
        "room in the pool",
        "beside idle ones",
        "no figures",
        "one by one",
        "others work",
        "clients wait",
        "soon",
        "at once",
    ],
)
def test_transactions_that_no_client_waits_for_beside_no_other_work_may_be_a_batch(
    given: list[Row], pools: list[list[PoolFigures]], confidence: str
) -> None:
    """Relief would end the batch."""
    finding = find(verdict(*given, pools=pools), "leak-in-transaction")

    assert finding.confidence == confidence
    assert (finding.decide_by is not None) == (confidence == "undetermined")


@pytest.mark.parametrize(("hides", "right"), [(False, "self-deadlock"), (True, "leak-or-long-hold")])
def test_locks_held_by_every_backend_of_a_full_pool_are_not_held_on_purpose(hides: bool, right: str) -> None:
    """A role that may not see since when they rest cannot tell them from holders that wait for a second connection."""
    holding = rows(8, state=IN_TRANSACTION, age=20.0, step=0.05, advisory=1, query="SELECT pg_advisory_lock($1)")

    diagnosis = verdict(*holding, hides=hides, pools=full_pool(8, 12))

    assert right in codes(diagnosis)
    assert "long-hold" not in codes(diagnosis)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize(("others", "confidence"), [("nothing", "undetermined"), ("requests", "likely")])
def test_transactions_beside_backends_that_do_nothing_may_be_jobs_that_take_longer(
    others: str, confidence: str, hides: bool
) -> None:
    """Relief would end the jobs. A leak is met by requests, which the rest of the pool serves."""
    held = rows(6, state=IN_TRANSACTION, age=5.0, step=3.0, opened=90.0)
    between = rows(2, first=300, age=4.0, opened=90.0) if others == "nothing" else busy(2, first=300)
    counts = (1000, 1002 if others == "nothing" else 1400)
    counted = [[DatabaseCounters("app", backends=8, commits=count, reset_at=NOW - 900.0)] for count in counts]

    finding = find(verdict(*held, *between, databases=counted, hides=hides), "leak-in-transaction")

    assert finding.confidence == confidence


@pytest.mark.parametrize(("age", "confidence"), [(4.0, "undetermined"), (70.0, "likely")])
def test_a_cursor_whose_rows_are_processed_is_no_leak_within_a_minute(age: float, confidence: str) -> None:
    reading = rows(4, state=IN_TRANSACTION, age=age, step=1.5, began=200.0, opened=201.0, query="FETCH 1000 FROM c")

    assert find(verdict(*reading), "leak-in-transaction").confidence == confidence


@pytest.mark.parametrize(("works_on", "confidence"), [(True, "undetermined"), (False, "likely")])
def test_a_role_that_sees_no_ages_learns_from_transactions_that_rest_and_go_on(works_on: bool, confidence: str) -> None:
    """Three rest all the time; a fourth of the same kind rests, works and rests in one and the same transaction."""
    resting = rows(3, state=IN_TRANSACTION, age=40.0, step=3.0)
    goes_on = [
        Row(90, IN_TRANSACTION, age=30.0, transaction=40.0, until_sample=2),
        Row(90, "active", age=30.0, transaction=40.0, from_sample=3, until_sample=4),
        Row(90, IN_TRANSACTION, age=30.0, transaction=40.0, from_sample=5),
    ]

    diagnosis = verdict(*resting, *(goes_on if works_on else busy(1, first=90)), *busy(3), hides=True)

    assert find(diagnosis, "leak-in-transaction").confidence == confidence


def test_transactions_of_one_moment_by_the_measure_of_their_age_may_be_a_jam_that_is_young() -> None:
    """Seven nested acquires, 1.8 s old, came to rest within 0.17 s (in virtual time). A leak takes longer."""
    young = rows(7, state=IN_TRANSACTION, age=1.8, step=0.028, opened=15.0)
    slower = rows(7, state=IN_TRANSACTION, age=1.8, step=0.2, opened=15.0)
    counted = [[DatabaseCounters("app", backends=7, transaction_idle_time=0.5, reset_at=NOW - 900.0)]]

    assert find(verdict(*young, databases=counted), "leak-in-transaction").confidence == "undetermined"
    assert find(verdict(*slower, databases=counted), "leak-in-transaction").confidence == "likely"


@pytest.mark.parametrize(("came_back", "confidence"), [(0, "undetermined"), (2, "likely")])
def test_first_requests_that_take_long_are_no_leak_while_no_connection_ever_came_back(
    came_back: int, confidence: str
) -> None:
    standing = rows(8, state=IN_TRANSACTION, age=18.0, step=0.6, opened=23.0)
    counted = full_pool(8, 12, application="shop", use_count_total=came_back, use_time_total=0.01 * came_back)

    assert find(verdict(*standing, pools=counted), "leak-in-transaction").confidence == confidence


@pytest.mark.parametrize(("samples", "confidence"), [(2, "undetermined"), (4, "likely")])
def test_few_samples_without_times_do_not_show_that_transactions_do_no_work(samples: int, confidence: str) -> None:
    diagnosis = verdict(*leaked(6, age=30.0), *busy(3), samples=samples, hides=True)

    assert find(diagnosis, "leak-in-transaction").confidence == confidence


@pytest.mark.parametrize(
    ("idled", "neighbor", "confidence"),
    [(200.0, [], "undetermined"), (200.0, busy(2, 700, application="web"), "likely")],
)
def test_jobs_that_idled_in_transactions_before_may_do_so_again_though_short_work_goes_on(
    idled: float, neighbor: list[Row], confidence: str
) -> None:
    """The server counts the time that transactions idled, of the whole database."""
    held = rows(4, state=IN_TRANSACTION, age=12.0, step=5.0, opened=90.0)
    counted = [[DatabaseCounters("app", backends=6, transaction_idle_time=idled, reset_at=NOW - 900.0)]]

    diagnosis = verdict(*held, *busy(2, 600), *neighbor, databases=counted)

    assert find(diagnosis, "leak-in-transaction").confidence == confidence


def test_a_jam_some_of_whose_holders_took_an_advisory_lock_is_no_certain_leak() -> None:
    """Holders of advisory locks are not counted as leaked, and stand for the same reason as the others."""
    standing = rows(7, state=IN_TRANSACTION, age=3.1, step=0.03, opened=7.0)
    locked = rows(3, first=300, state=IN_TRANSACTION, age=3.1, step=0.05, opened=7.0, advisory=1)

    assert find(verdict(*standing, *locked), "leak-in-transaction").confidence == "undetermined"
