"""The verdict that nothing is wrong: what it must not claim, and what it leaves open."""

from dataclasses import replace

import pytest
from observations import NOW, Row, busy, calling, find, full_pool, held_by, host, observe, pool, rows, troubles, verdict

from poolctl.diagnose.finding import Diagnosis
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.observe.snapshot import BouncerDatabase, BouncerLink, BouncerPool, BouncerSample, DatabaseCounters, Refusal


def test_an_application_that_did_nothing_at_all_is_named_and_left_open() -> None:
    diagnosis = verdict(*rows(8, age=7.0, step=0.05, application="cart"), *busy(4, application="search"))

    finding = find(diagnosis, "healthy")
    assert "all 8 backends of cart have done nothing for 7 s or longer, quiet or stuck" in finding.summary
    assert "search" not in finding.summary
    assert finding.evidence["standing_still"] == {"cart": 8}
    assert "--pool-stats" in str(finding.decide_by)


@pytest.mark.parametrize("samples", [1, 7])
def test_a_pool_that_was_opened_ahead_and_went_quiet_at_once_is_not_claimed_to_be_healthy(samples: int) -> None:
    """All ten leaked within a second, or all ten free at night: no alarm, and the first line says what looks alike."""
    diagnosis = verdict(*rows(10, age=7.0, step=0.09, application="cart"), samples=samples)

    finding = find(diagnosis, "healthy")
    assert (troubles(diagnosis), finding.confidence) == ([], "undetermined")
    assert finding.summary.startswith("Healthy, or a pool that leaked whole, which looks the same:")
    for decides in ("--pool-stats", "clients that wait", "log"):
        assert decides in str(finding.decide_by)


@pytest.mark.parametrize(
    "given",
    [
        [*rows(7, age=7.0), *busy(1)],
        busy(6),
    ],
    ids=["one of them works", "busy"],
)
def test_nothing_is_left_open_of_an_application_that_works(given: list[Row]) -> None:
    assert "quiet or stuck" not in find(verdict(*given), "healthy").summary


@pytest.mark.parametrize(("count", "words"), [(1, "; 1 of them rests:"), (2, "; 2 of them rest:")])
def test_one_session_that_rests_is_spoken_of_as_one(count: int, words: str) -> None:
    assert (
        words
        in find(verdict(*[Row(100 + i, age=7.0, application=f"job-{i}") for i in range(count)]), "healthy").summary
    )


def test_figures_tell_quiet_from_stuck() -> None:
    quiet = [[pool(max_open=8, open=8, in_use=0, waiting=0)]]

    finding = find(verdict(*rows(8, age=7.0), pools=quiet), "healthy")

    assert (finding.confidence, "quiet or stuck" in finding.summary) == ("certain", False)


@pytest.mark.parametrize(("full", "is_open"), [(7, True), (4, True), (3, False)])
def test_a_pool_that_is_often_full_and_does_not_count_who_waits_is_left_open(full: int, is_open: bool) -> None:
    """asyncpg's, aiopg's and JMX beans without a queue."""
    figures = [[pool(max_open=4, open=4, in_use=4 if i < full else 2, waiting=None)] for i in range(7)]

    finding = find(verdict(*busy(4), pools=figures), "healthy")

    assert finding.confidence == ("undetermined" if is_open else "likely")
    assert (f"was in use in {full} of 7 samples" in finding.summary) == is_open


@pytest.mark.parametrize(("full", "is_open"), [(7, True), (6, False)])
def test_a_pool_without_a_known_limit_is_left_open_if_it_is_always_full(full: int, is_open: bool) -> None:
    """SQLAlchemy's status does not say how far a pool may overflow."""
    figures = [[pool(max_open=None, open=4, in_use=4 if i < full else 2, waiting=None)] for i in range(7)]

    finding = find(verdict(*busy(4), pools=figures), "healthy")

    assert finding.confidence == ("undetermined" if is_open else "likely")


def test_clients_that_wait_for_no_reason_that_was_observed_are_a_finding_and_never_healthy() -> None:
    """PgBouncer has no server connection at all, and the server does not refuse."""
    nobody = BouncerPool("app", "app", clients_waiting=6, servers_login=1, max_wait=4.0)
    sample = BouncerSample(target="b:6432", pools=(nobody,), databases=(BouncerDatabase("app", database="app"),))

    diagnosis = diagnose(observe(bouncers=[sample]))
    finding = find(diagnosis, "waiting-unexplained")

    assert finding.confidence == "undetermined"
    assert finding.severity == "critical"
    assert "healthy" not in [each.code for each in diagnosis.findings]
    assert finding.summary.startswith("6 clients wait (PgBouncer), and nothing observed says for what")


def test_backends_that_moved_are_none_of_those_in_whose_database_no_transaction_was_counted() -> None:
    """Statements without a table are not counted, and a role without pg_monitor sees them come and go all the same."""
    counters = [[DatabaseCounters("app", backends=8, commits=100)]] * 7

    finding = find(verdict(*calling(8, pause=0.5), hides=True, databases=counters), "healthy")

    assert "no transaction" not in finding.summary


def test_sessions_that_came_and_went_name_who_opens_them() -> None:
    passing = [
        Row(300 + i, age=0.1, opened=2.9 - 0.4 * i, application="lambda", from_sample=i, until_sample=i)
        for i in range(1, 6)
    ]
    counters = [
        [DatabaseCounters("app", backends=4, commits=100 + i * 40, rollbacks=0, sessions=i * 20, abandoned=0)]
        for i in range(7)
    ]

    diagnosis = diagnose(observe(*passing, *busy(4), databases=counters, hosts=[host()]))

    assert troubles(diagnosis) == ["connection-churn"]
    assert held_by(find(diagnosis, "connection-churn")) == {"lambda"}


@pytest.mark.parametrize(("silent", "is_known"), [(1, True), (2, False), (5, False)])
def test_a_server_that_answers_no_more_is_not_called_healthy(silent: int, is_known: bool) -> None:
    seen = observe(*busy(6))
    gone = Refusal("unreachable", "Connection refused", target="db1:5432/app")
    dark = [replace(snapshot, server=None, refusal=gone) for snapshot in seen.snapshots[-silent:]]

    finding = find(diagnose(replace(seen, snapshots=(*seen.snapshots[:-silent], *dark))), "healthy")

    assert (finding.confidence != "undetermined") == is_known
    assert ('and then no more ("Connection refused")' in finding.summary) != is_known
    assert finding.remedy.startswith("Nothing.") == is_known


def test_full_pools_of_a_server_that_was_not_seen_are_told_once_and_blamed_on_nobody() -> None:
    names = ("checkout", "cart", "search", "mail")
    full = [[pool(name=name, max_open=30, open=30, in_use=30, waiting=2) for name in names]]
    late = Refusal("unreachable", "no answer for 1.5 s", target="db1:5432/app")

    diagnosis = verdict(sees_backends=False, facts=None, refusal=late, pools=full)

    (finding,) = (each for each in diagnosis.findings if each.severity == "critical")
    assert (finding.code, finding.confidence, finding.frees) == ("leak-or-long-hold", "undetermined", 0)
    assert finding.summary == (
        "All 120 connections of 4 pools (checkout, cart, search, ...) are in use and 8 clients wait; what the "
        'connections do was not observed on the server: "no answer for 1.5 s"'
    )


@pytest.mark.parametrize(("window", "is_known"), [(0.7, False), (3.0, True)])
def test_a_short_look_at_hidden_sessions_that_work_claims_no_health(window: float, is_known: bool) -> None:
    finding = find(verdict(*busy(6), hides=True, window=window, samples=3), "healthy")

    assert (finding.confidence != "undetermined") == is_known
    assert ("pg_monitor" in str(finding.decide_by)) != is_known


def at_pgbouncer(*, since: float, step: float = 1.0, samples: int = 7) -> Diagnosis:
    """Ten clients of one application, the last one quiet for ``since`` seconds; 0: all a moment ago in every sample."""

    def client(number: int, now: float) -> BouncerLink:
        requested = NOW - since - step * number if since else now - 0.01 * number
        return BouncerLink(
            "client", "app", "app", "idle", "10.0.0.9", 900 + number, f"c{number}", "", "cart", NOW - 900, requested
        )

    seen = observe(*busy(2), samples=samples)
    snapshots = tuple(
        replace(
            snapshot,
            bouncers=(BouncerSample("b:6432", clients=tuple(client(n, snapshot.at) for n in range(10))),),
        )
        for snapshot in seen.snapshots
    )
    return diagnose(replace(seen, snapshots=snapshots))


def test_clients_of_pgbouncer_that_send_nothing_may_be_stuck_though_none_waits_there() -> None:
    """An idle leak behind PgBouncer: the application's own pool is empty, and no client waits in PgBouncer."""
    quiet = find(at_pgbouncer(since=20.0, step=0.0), "healthy")

    assert quiet.confidence == "undetermined"
    assert "none of the 10 clients of cart at PgBouncer has sent anything for 20 s or longer" in quiet.summary
    assert quiet.evidence["quiet_clients"] == {"cart": 10}
    assert "quiet or stuck" not in find(at_pgbouncer(since=0.0), "healthy").summary


def test_clients_of_pgbouncer_that_fell_silent_one_after_the_other_are_undetermined() -> None:
    diagnosis = at_pgbouncer(since=20.0)

    finding = find(diagnosis, "leak-or-long-hold")
    assert finding.confidence == "undetermined"
    assert "All 10 clients of cart at PgBouncer fell silent one after the other" in finding.summary
    assert held_by(finding) == {"cart"}
    assert "healthy" not in {each.code for each in diagnosis.findings}


@pytest.mark.parametrize(("commits", "is_silent"), [(0, True), (2, True), (90, False)])
def test_a_role_that_may_not_see_times_says_that_no_transaction_ended(commits: int, is_silent: bool) -> None:
    counters = [[DatabaseCounters("app", backends=8, commits=100 + i * commits)] for i in range(7)]

    finding = find(verdict(*rows(8, age=30.0), hides=True, databases=counters), "healthy")

    assert ("no transaction on a table ended in database app for 3 s" in finding.summary) == is_silent
    assert finding.confidence == ("undetermined" if is_silent else "likely")
    assert "pg_monitor" in str(finding.decide_by) or not is_silent


def test_a_role_that_may_not_see_times_says_that_fewer_transactions_ended_than_there_are_backends() -> None:
    counters = [[DatabaseCounters("app", backends=80, commits=100 + i * 5)] for i in range(7)]

    finding = find(verdict(*rows(80, age=30.0), hides=True, databases=counters), "healthy")

    assert "30 transactions in all ended in database app for 3 s, in which 80 backends rested" in finding.summary


@pytest.mark.parametrize(("ended", "is_open"), [(10, True), (20, True), (60, False)])
def test_transactions_that_may_be_counted_late_are_no_health_to_a_role_that_sees_no_times(
    ended: int, is_open: bool
) -> None:
    """A pool of node-postgres that leaked whole eight seconds ago: 25 of its transactions were counted only now. Of a
    Rails pool that leaked every fifth connection these were more than three for each backend."""
    counters = [[DatabaseCounters("app", backends=15, commits=100 + i * ended)] for i in range(7)]

    finding = find(verdict(*rows(15, age=8.0), hides=True, databases=counters), "healthy")

    assert finding.confidence == ("undetermined" if is_open else "likely")
    assert ("the transactions that ended in it may be up to 10 s old" in finding.summary) == is_open


def test_listeners_and_a_small_application_at_rest_leave_the_verdict_on_others_as_it_is() -> None:
    beside = [*busy(8, application="search"), *rows(9, age=90.0, query="LISTEN jobs", application="notify")]
    assert find(verdict(*beside), "healthy").confidence == "likely"

    finding = find(verdict(*beside, *rows(4, age=90.0, application="cart")), "healthy")
    assert finding.confidence == "likely"
    assert finding.evidence["standing_still"] == {"cart": 4}


def test_the_verdict_comes_before_advice_also_where_it_is_open() -> None:
    counters = [[DatabaseCounters("app", backends=10, commits=100)]]
    diagnosis = verdict(*rows(10, age=7.0, step=0.09), hides=True, databases=counters)

    assert [each.code for each in diagnosis.findings] == ["healthy", "partial-view"]
    assert diagnosis.findings[0].confidence == "undetermined"


def test_a_full_pool_whose_backends_hide_their_times_says_what_this_role_may_not_see() -> None:
    finding = find(verdict(*rows(9, age=30.0), hides=True, pools=full_pool(9, 20)), "leak-or-long-hold")

    assert "9 of 9 in use) while 20 clients wait, and this role may not see since when" in finding.summary
    assert "pg_monitor" in str(finding.decide_by)


def test_the_shortest_window_that_is_usual_shows_that_no_transaction_ended() -> None:
    """Two seconds are asked for, and the last sample is a little earlier."""
    counters = [[DatabaseCounters("app", backends=8, commits=100)]]

    diagnosis = verdict(*rows(8, age=30.0), hides=True, databases=counters, samples=5, window=1.93)

    assert find(diagnosis, "healthy").confidence == "undetermined"


def test_most_slots_taken_is_worth_a_word_of_a_healthy_server() -> None:
    many, few = verdict(*busy(85)), verdict(*busy(80))

    assert "85 of 97 usable connections open (88 %)" in find(many, "healthy").summary
    assert find(many, "slots-low").severity == "info"
    assert [each.code for each in few.findings] == ["healthy"]


@pytest.mark.parametrize(
    ("late", "code", "confidence"),
    [(1, "healthy", "certain"), (2, "healthy", "undetermined"), (4, "waiting-unexplained", "undetermined")],
)
def test_clients_that_wait_at_the_end_of_a_long_look_are_no_burst_that_drained(
    late: int, code: str, confidence: str
) -> None:
    """A pool that ran out late in a look of 30 s was healthy (likely), "15 clients waited for a moment"."""
    room = [pool(application="shop", max_open=8, open=8, in_use=5, waiting=0)]
    full = [pool(application="shop", max_open=8, open=8, in_use=8, waiting=9)]

    diagnosis = verdict(*busy(8), samples=40, window=30.0, pools=[*[room] * (40 - late), *[full] * late])

    assert (diagnosis.findings[0].code, diagnosis.findings[0].confidence) == (code, confidence)


def test_backends_whose_states_the_server_does_not_track_are_not_claimed_to_be_healthy() -> None:
    untracked = [Row(100 + i, "disabled", age=4.0, query="", application="checkout") for i in range(5)]

    healthy = find(verdict(*untracked, *busy(8, application="search")), "healthy")

    assert healthy.confidence == "undetermined"
    assert "what 5 of them do is not tracked (track_activities is off for them)" in healthy.summary
