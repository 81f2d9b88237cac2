"""Jams, calls elsewhere, locks, odd sessions and stopped clients; and what of all this must not be said."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from observations import (
    LEAKS,
    NOW,
    Row,
    busy,
    calling,
    codes,
    find,
    full_pool,
    held_by,
    host,
    observe,
    pids,
    pool,
    process,
    rows,
    troubles,
    verdict,
)

from poolctl.diagnose.live.diagnose import diagnose
from poolctl.observe.snapshot import ABORTED, IN_TRANSACTION, DatabaseCounters, LockWait, PoolFigures

REMEDIES_OF_LOAD = frozenset({"pool-undersized", "slow-database", "healthy"})


@pytest.mark.parametrize("pause", [0.08, 0.3, 0.9, 1.9])
@pytest.mark.parametrize("count", [3, 8, 40])
def test_transactions_kept_open_over_a_call_elsewhere_are_no_leak(pause: float, count: int) -> None:
    diagnosis = verdict(*calling(count, pause), pools=full_pool(count, 4))

    finding = find(diagnosis, "held-across-io")
    assert held_by(finding) == {"shop"}
    assert not (LEAKS | REMEDIES_OF_LOAD | {"self-deadlock"}) & set(codes(diagnosis))


@pytest.mark.parametrize(("pause", "is_held"), [(0.03, True), (0.01, False)])
def test_short_pauses_are_work_elsewhere_where_they_are_most_of_the_use(pause: float, is_held: bool) -> None:
    diagnosis = verdict(*calling(8, pause), pools=full_pool(8, 4))

    assert ("held-across-io" in codes(diagnosis)) == is_held
    assert ("pool-undersized" in codes(diagnosis)) != is_held


def test_without_figures_a_pool_that_has_no_session_to_spare_tells_as_well() -> None:
    assert "held-across-io" in codes(verdict(*calling(10, 0.4)))


@pytest.mark.parametrize(("samples", "is_sure"), [(2, False), (3, False), (4, True)])
def test_a_crowded_machine_that_allows_few_samples_tells_no_calls_from_clients_without_a_processor(
    samples: int, is_sure: bool
) -> None:
    diagnosis = verdict(*calling(3, 0.06), pools=full_pool(3, 16), samples=samples, window=2.0)

    assert (find(diagnosis, "held-across-io").confidence != "undetermined") == is_sure


@pytest.mark.parametrize(("count", "confidence"), [(3, "undetermined"), (4, "likely"), (9, "likely")])
def test_a_few_sessions_always_in_a_transaction_may_be_a_batch_unless_clients_are_known_to_wait(
    count: int, confidence: str
) -> None:
    unknown = find(verdict(*calling(count, 0.3)), "held-across-io")
    known = find(verdict(*calling(count, 0.3), pools=full_pool(count, 4)), "held-across-io")

    assert unknown.confidence == confidence
    assert (unknown.decide_by is not None) == (confidence == "undetermined")
    assert known.confidence != "undetermined"


def test_calls_elsewhere_that_leave_sessions_to_spare_hurt_nobody() -> None:
    assert troubles(verdict(*calling(3, 0.4), *rows(9, 300, age=4.0))) == []


def test_a_leak_in_an_application_that_also_calls_elsewhere_is_told_from_its_calls() -> None:
    diagnosis = verdict(*rows(4, 900, state=IN_TRANSACTION, age=40.0, step=9.0), *calling(6, 0.3))

    assert pids(find(diagnosis, "leak-in-transaction")) == {900, 901, 902, 903}
    assert not pids(find(diagnosis, "held-across-io")) & {900, 901, 902, 903}


def streaming(count: int = 11, longest: float = 70.0, **same: Any) -> list[Row]:
    """Transactions that outlast the observation, begun one after the other in backends of earlier ones."""
    return rows(count, state=IN_TRANSACTION, age=longest / count / 2, step=longest / count, began=None, **same)


def test_holds_that_outlast_the_observation_are_no_leak_where_the_pool_says_that_such_come_back() -> None:
    figures = full_pool(11, 3, use_time_total=604.0, use_count_total=19.0)

    diagnosis = verdict(*streaming(opened=300.0), pools=figures)

    finding = find(diagnosis, "held-across-io")
    assert finding.confidence == "likely"
    assert finding.evidence["mean_hold"] == pytest.approx(31.8, abs=0.1)
    assert "31.8 s on average" in finding.summary
    assert not (LEAKS | REMEDIES_OF_LOAD | {"self-deadlock"}) & set(codes(diagnosis))


def test_holds_that_came_back_within_the_window_by_the_pools_figures_are_certain() -> None:
    figures = [
        [pool(max_open=11, open=11, in_use=11, waiting=3, use_time_total=600.0 + 40 * i, use_count_total=20.0 + i)]
        for i in range(7)
    ]

    assert find(verdict(*streaming(), pools=figures), "held-across-io").confidence == "certain"


def test_a_library_that_counts_only_acquires_shows_how_long_a_full_pool_is_held() -> None:
    figures = [[pool(max_open=11, open=11, in_use=11, waiting=3, acquired_total=50.0 + i)] for i in range(7)]

    diagnosis = verdict(*streaming(), window=30.0, pools=figures)

    assert find(diagnosis, "held-across-io").evidence["mean_hold"] == pytest.approx(55.0)
    assert "leak-in-transaction" not in codes(diagnosis)


def test_transactions_that_outlast_what_the_pool_is_held_for_are_a_leak() -> None:
    figures = full_pool(11, 3, use_time_total=3.0, use_count_total=300.0)

    diagnosis = verdict(*streaming(), pools=figures)

    assert find(diagnosis, "leak-in-transaction").confidence != "undetermined"
    assert "held-across-io" not in codes(diagnosis)


def test_new_holds_in_all_backends_say_that_old_ones_end_although_none_was_observed_to() -> None:
    finding = find(verdict(*streaming(opened=300.0)), "held-across-io")

    assert finding.confidence == "undetermined"
    assert "new ones begin one after the other" in finding.summary
    assert "--pool-stats" in str(finding.decide_by)


@pytest.mark.parametrize(
    "leaked",
    [
        rows(11, state=IN_TRANSACTION, age=61.0, step=3.0),
        [Row(100 + i, IN_TRANSACTION, age=2.0 + 5 * i, opened=3.0 + 5 * i) for i in range(11)],
        [*rows(10, state=IN_TRANSACTION, age=3.0, step=6.0), *busy(1)],
    ],
    ids=["none began for a minute", "each in a new connection", "others do short work"],
)
def test_a_leak_one_by_one_is_not_taken_for_holds_that_take_turns(leaked: list[Row]) -> None:
    diagnosis = verdict(*leaked)

    assert find(diagnosis, "leak-in-transaction").confidence == "likely"
    assert "held-across-io" not in codes(diagnosis)


@pytest.mark.parametrize(("opened", "confidence"), [(17.0, "likely"), (40.0, "undetermined")])
def test_backends_that_gave_their_connection_back_after_a_long_hold_may_do_so_again(
    opened: float, confidence: str
) -> None:
    """All stand since 12 to 16 s. What they did before took a second, or as long as what they do now may take."""
    standing = rows(5, state=IN_TRANSACTION, age=12.0, step=1.0, opened=opened)
    standing = [replace(row, opened=row.age + opened - 16.0) for row in standing]

    finding = find(verdict(*standing), "leak-in-transaction")

    assert finding.confidence == confidence
    assert (finding.decide_by is not None) == (confidence == "undetermined")


@pytest.mark.parametrize(("idled", "confidence"), [(2.0, "likely"), (90.0, "undetermined"), (None, "undetermined")])
def test_the_time_that_transactions_idled_before_says_whether_such_holds_are_usual(
    idled: float | None, confidence: str
) -> None:
    """Five backends had 28 s each, between their login and the transaction that they are in."""
    standing = rows(5, state=IN_TRANSACTION, age=12.0, step=1.0, opened=42.0)
    counted = [[DatabaseCounters("app", backends=5, transaction_idle_time=idled, reset_at=NOW - 900.0)]]

    assert find(verdict(*standing, databases=counted), "leak-in-transaction").confidence == confidence


def holding_long(ended: float) -> list[Row]:
    """Eight transactions of 20 to 48 s; a ninth, of ``ended`` seconds, was over within the window."""
    before = Row(90, IN_TRANSACTION, age=ended + 1.5, until_sample=4, opened=60.0)
    after = Row(90, age=0.4, from_sample=4, opened=60.0)
    return [before, after, *rows(8, state=IN_TRANSACTION, age=20.0, step=4.0, opened=55.0)]


def test_one_long_hold_that_was_observed_to_end_tells_of_the_others() -> None:
    diagnosis = verdict(*holding_long(50.0))

    finding = find(diagnosis, "held-across-io")
    assert (finding.confidence, len(pids(finding))) == ("likely", 9)
    assert "they do end" in finding.summary
    assert not LEAKS & set(codes(diagnosis))


def test_a_short_hold_that_ended_tells_nothing_of_transactions_that_stay() -> None:
    assert "held-across-io" not in codes(verdict(*holding_long(2.0)))


def test_most_backends_in_long_transactions_are_not_called_healthy() -> None:
    """A statement of 30 s ended meanwhile, so that none of them is unusually old yet."""
    worked = Row(90, "active", age=30.0, until_sample=4, opened=60.0)
    resting = Row(90, age=0.4, from_sample=4, opened=60.0)

    diagnosis = verdict(worked, resting, *rows(8, state=IN_TRANSACTION, age=5.0, step=6.0, opened=55.0))

    [finding] = [each for each in diagnosis.findings if each.code != "no-safety-net"]
    assert (finding.code, finding.confidence, len(pids(finding))) == ("leak-or-long-hold", "undetermined", 8)
    assert "8 of 9 backends in transactions" in finding.summary


def standing(state: str, first: int = 100) -> list[Row]:
    return rows(7 if state == "active" else 4, first, state=state, age=1.3, step=1.7, query="SELECT slow_report()")


@pytest.mark.parametrize("window", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize(
    ("given", "right"),
    [
        (standing("active"), {"long-hold", "leak-or-long-hold"}),
        ([*standing(IN_TRANSACTION), *standing("active", 200)[:3]], {"leak-or-long-hold", "leak-in-transaction"}),
    ],
    ids=["a statement each", "some at rest"],
)
def test_seven_of_eight_in_long_transactions_are_never_healthy_however_long_one_looks(
    given: list[Row], right: set[str], hides: bool, window: float
) -> None:
    """One connection is free, and nobody is known to wait."""
    diagnosis = verdict(*given, Row(300, age=14.0), window=window, samples=int(2 * window) + 1, hides=hides)

    [found] = set(troubles(diagnosis)) - {"no-safety-net"}
    assert found in right
    assert hides or "leak" not in found or "active" not in {row.state for row in given[:4]}
    assert find(diagnosis, found).decide_by or found == "leak-in-transaction"


WORK = {
    "sessions opened for their work": rows(8, state="active", age=20.0, step=0.1, opened=21.2),
    "a statement after the other": rows(8, state="active", age=0.1, step=0.05, turns=0.6, transaction=90.0),
    "pauses in a long transaction": rows(4, state=IN_TRANSACTION, age=1.2, step=0.1, transaction=90.0),
    "room in the pool": [*rows(5, state="active", age=4.0, step=2.0), *rows(5, 300, age=9.0)],
    "three reports": rows(3, state="active", age=4.0, step=2.0),
}


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("window", [2.0, 10.0])
def test_a_batch_at_work_is_neither_a_leak_nor_a_long_hold(name: str, window: float) -> None:
    assert troubles(verdict(*WORK[name], window=window, samples=int(2 * window) + 1)) == []


def test_long_statements_of_a_pool_that_says_nobody_waits_are_no_trouble() -> None:
    room = [[pool(max_open=20, open=8, in_use=7, waiting=0)]]

    assert troubles(verdict(*standing("active"), Row(300, age=14.0), pools=room)) == []


def test_idle_connections_that_the_pool_says_come_back_are_long_holds() -> None:
    figures = full_pool(10, 4, use_time_total=900.0, use_count_total=60.0)

    diagnosis = verdict(*rows(10, age=3.0, step=2.5), pools=figures)

    finding = find(diagnosis, "long-hold")
    assert (finding.confidence, finding.evidence["mean_hold"]) == ("likely", 15.0)
    assert not LEAKS & set(codes(diagnosis))


def test_a_rest_in_a_pool_without_a_spare_connection_was_a_hold_and_came_back() -> None:
    """Idle clients hold all twelve connections; one comes back after 9 s, and the pool has a spare one since."""
    before = Row(90, age=9.0, until_sample=5)
    after = Row(90, age=0.4, from_sample=5)
    in_use = [[pool(max_open=12, open=12, in_use=12 - (i >= 5), idle=int(i >= 5), waiting=0)] for i in range(7)]

    finding = find(verdict(before, after, *rows(11, age=5.0, step=3.0), pools=in_use), "long-hold")

    assert finding.evidence["releases_seen"] == 1
    spare = [[pool(max_open=13, open=12, in_use=11, idle=1, waiting=0)]]
    assert "long-hold" not in codes(verdict(before, after, *rows(11, age=5.0, step=3.0), pools=spare))


def test_most_of_a_pool_held_by_idle_clients_is_told_before_any_client_waits() -> None:
    held, busy_too = rows(18, age=3.0, step=0.3), busy(2)
    nearly = [[pool(max_open=20, open=20, in_use=18, waiting=0)]]

    diagnosis = verdict(*held, *busy_too, pools=nearly)

    finding = find(diagnosis, "leak-or-long-hold")
    assert (finding.severity, held_by(finding)) == ("warning", {"shop"})
    assert not {"healthy", "oversized-pool"} & set(codes(diagnosis))


def test_connections_opened_ahead_of_need_are_those_that_the_pool_has_idle() -> None:
    """Ten of twelve are held by idle clients; the other two were never used."""
    figures = [[pool(max_open=12, open=12, in_use=10, idle=2, waiting=0)]]
    never = rows(2, 300, age=40.0, query="")

    finding = find(verdict(*rows(10, age=5.0, step=3.0), *never, pools=figures), "leak-or-long-hold")

    assert len(pids(finding)) == 10
    assert not pids(finding) & {300, 301}


def test_idle_clients_of_half_a_pool_that_no_client_waits_for_are_no_trouble() -> None:
    half = [[pool(max_open=20, open=20, in_use=9, waiting=0)]]

    diagnosis = verdict(*rows(18, age=3.0, step=0.3), *busy(2), pools=half)

    assert troubles(diagnosis) == []
    assert "at most 9 were in use at once" in find(diagnosis, "oversized-pool").summary


def jam(count: int, age: float = 2.0, **same: Any) -> list[Row]:
    return rows(count, state=IN_TRANSACTION, age=age, step=0.004, **same)


def test_holders_that_all_wait_for_a_second_connection_are_a_jam() -> None:
    diagnosis = verdict(*jam(8), pools=full_pool(8, 8))

    finding = find(diagnosis, "self-deadlock")
    assert finding.confidence == "likely"
    assert finding.frees == 8
    assert not (LEAKS | REMEDIES_OF_LOAD) & set(codes(diagnosis))


STANDS: dict[str, Any] = {"state": IN_TRANSACTION, "age": 28.0, "step": 0.2}


def test_a_pool_that_stands_since_about_one_moment_is_a_jam_by_the_measure_of_its_age() -> None:
    used = full_pool(10, 16, use_time_total=42.0, use_count_total=50.0)

    diagnosis = verdict(*rows(10, **STANDS), pools=used)

    assert find(diagnosis, "self-deadlock").confidence == "likely"
    assert not (LEAKS | REMEDIES_OF_LOAD | {"long-hold"}) & set(codes(diagnosis))


def test_a_jam_under_advisory_locks_is_a_jam_and_not_held_on_purpose() -> None:
    locked = rows(10, **STANDS, advisory=1)

    assert find(verdict(*locked, pools=full_pool(10, 16)), "self-deadlock").confidence == "likely"
    assert find(verdict(*locked), "self-deadlock").confidence == "undetermined"
    assert "long-hold" not in codes(verdict(*locked, pools=full_pool(10, 16)))


@pytest.mark.parametrize("figures", [[], full_pool(10, 16)], ids=["no figures", "no use times"])
def test_a_leak_that_filled_the_pool_within_that_moment_stays_possible(figures: Any) -> None:
    diagnosis = verdict(*rows(10, **STANDS), pools=figures)

    assert [find(diagnosis, code).confidence for code in ("self-deadlock", "leak-in-transaction")] == [
        "undetermined"
    ] * 2


@pytest.mark.parametrize(("each", "is_jam"), [(1, False), (10, True)], ids=["one each", "one for all"])
def test_processes_with_a_connection_each_wait_for_no_second_one_of_their_own(each: int, is_jam: bool) -> None:
    """PHP-FPM's, and workers of a prefork server: all stand still because of what they all call, or leaked."""
    held = rows(10, **STANDS)
    workers = host(*(process(40_000 + row.pid, 7000 + i // each) for i, row in enumerate(held)))

    found = codes(verdict(*held, hosts=[workers]))

    assert ("self-deadlock" in found, "leak-in-transaction" in found) == (is_jam, True)


@pytest.mark.parametrize("age", [20.0, 45.0, 70.0, 100.0])
@pytest.mark.parametrize("spread", [2.9, 8.0])
def test_a_leak_that_filled_its_pool_one_by_one_stays_a_leak_however_old_it_gets(age: float, spread: float) -> None:
    found = troubles(verdict(*rows(30, state=IN_TRANSACTION, age=age, step=spread / 29)))

    assert found[0] == "leak-in-transaction"
    assert spread < 4.0 or found == ["leak-in-transaction"]


def test_a_pool_that_took_many_times_its_usual_hold_to_fill_was_leaked() -> None:
    used = full_pool(10, 16, use_time_total=3.0, use_count_total=300.0)

    diagnosis = verdict(*rows(10, **STANDS), pools=used)

    assert "self-deadlock" not in codes(diagnosis)
    assert find(diagnosis, "leak-in-transaction").confidence == "certain"


@pytest.mark.parametrize(
    ("spread", "codes_", "confidence"),
    [
        (0.5, ["self-deadlock", "leak-in-transaction"], "undetermined"),
        (2.7, ["leak-in-transaction"], "likely"),
        (60.0, ["leak-in-transaction"], "certain"),
    ],
)
def test_use_times_that_may_be_of_a_part_do_not_make_a_jam_of_a_busy_machine_a_leak(
    spread: float, codes_: list[str], confidence: str
) -> None:
    """psycopg_pool counts no use time of what getconn() gave: 0.5 ms on average, of holds of 50 ms and more."""
    used = full_pool(19, 57, use_time_total=0.021, acquired_total=120.0)

    diagnosis = verdict(*rows(19, state=IN_TRANSACTION, age=20.0, step=spread / 18), pools=used)

    assert sorted(troubles(diagnosis)) == sorted(codes_)
    assert {f.confidence for f in diagnosis.findings if f.code in codes_} == {confidence}


def test_holders_that_stay_while_as_many_acquires_time_out_do_not_wait_themselves() -> None:
    figures = [[pool(max_open=10, open=10, in_use=10, waiting=12, timed_out_total=4.0 * i)] for i in range(7)]

    diagnosis = verdict(*rows(10, **STANDS), pools=figures)

    assert "self-deadlock" not in codes(diagnosis)
    assert "leak-in-transaction" in codes(diagnosis)


def in_batches(*batches: tuple[float, int, int], step: float = 0.003) -> list[Row]:
    """Six sessions that all came to rest so long ago, seen from this sample to that one."""
    return [
        Row(100 + i, IN_TRANSACTION, age=age + i * step, from_sample=since, until_sample=until)
        for age, since, until in batches
        for i in range(6)
    ]


def six(*, timed_out: Sequence[float | None]) -> list[list[PoolFigures]]:
    return [[pool(max_open=6, open=6, in_use=6, waiting=6, timed_out_total=each)] for each in timed_out]


BATCHES = ((6.0, 0, 2), (4.0, 3, 4), (1.6, 5, 6))


def test_a_jam_that_comes_back_is_certain_where_acquires_time_out() -> None:
    figures = six(timed_out=[0.0, 0.0, 0.0, 6.0, 6.0, 12.0, 12.0])

    finding = find(verdict(*in_batches(*BATCHES), samples=7, window=6.0, pools=figures), "self-deadlock")

    assert (finding.confidence, finding.evidence["timed_out"]) == ("certain", 12)


@pytest.mark.parametrize("figures", [[], six(timed_out=[None])], ids=["no figures", "no timeouts counted"])
def test_without_timeouts_counted_a_jam_that_comes_back_may_be_calls_that_began_together(figures: Any) -> None:
    diagnosis = verdict(*in_batches(*BATCHES), samples=7, window=6.0, pools=figures)

    assert [find(diagnosis, code).confidence for code in ("self-deadlock", "held-across-io")] == ["undetermined"] * 2
    assert "time out" in str(find(diagnosis, "held-across-io").decide_by)


@pytest.mark.parametrize(("rolled_back", "right"), [(6, ["self-deadlock", "held-across-io"]), (1, ["held-across-io"])])
def test_short_rests_in_step_may_be_a_jam_where_as_many_transactions_are_rolled_back(
    rolled_back: int, right: list[str]
) -> None:
    """Six workers of psycopg_pool and SQLAlchemy, one connection each and a second asked for, timeout 1 s (staged)."""
    short = in_batches(*((6.5 - i, i, i) for i in range(7)))
    counted = [[DatabaseCounters("app", backends=6, rollbacks=rolled_back * i)] for i in range(7)]

    diagnosis = verdict(*short, samples=7, window=6.0, databases=counted)

    assert troubles(diagnosis) == right
    assert find(diagnosis, "held-across-io").confidence == ("undetermined" if len(right) > 1 else "likely")


def test_a_small_pool_that_leaked_within_seconds_is_no_jam_though_acquires_time_out() -> None:
    leaked = rows(6, state=IN_TRANSACTION, age=6.0, step=0.1)

    diagnosis = verdict(*leaked, pools=six(timed_out=[2.0 * i for i in range(7)]))

    assert "self-deadlock" not in codes(diagnosis)
    assert len(pids(find(diagnosis, "leak-in-transaction"))) == 6


def just_over(state: str = IN_TRANSACTION) -> list[Row]:
    """Six transactions that rested since 20 s ago, until all went on within the window."""
    before = [Row(100 + i, IN_TRANSACTION, age=20.0 + 0.1 * i, until_sample=4) for i in range(6)]
    return [*before, *(Row(100 + i, state, age=0.3 + 0.1 * i, from_sample=4) for i in range(6))]


@pytest.mark.parametrize(("timed_out", "beside"), [(None, {"held-across-io"}), (2.0, set())])
def test_rests_that_begin_and_end_together_may_be_a_jam_whose_acquires_timed_out(
    timed_out: float | None, beside: set[str]
) -> None:
    figures = six(timed_out=[timed_out and timed_out * (i > 3) for i in range(7)])

    diagnosis = verdict(*just_over(), pools=figures)

    finding = find(diagnosis, "self-deadlock")
    assert (finding.confidence, finding.severity) == ("undetermined", "critical")
    assert "began in the same 500 ms, and went on together after 19.5 s" in finding.summary
    assert set(troubles(diagnosis)) == {"self-deadlock", *beside}
    assert all(each.confidence == "undetermined" for each in diagnosis.findings)


def test_rests_that_ended_together_when_as_many_acquires_timed_out_were_likely_a_jam() -> None:
    free = pool(max_open=6, open=6, in_use=0, idle=6, waiting=0, timed_out_total=6.0)
    figures = [*six(timed_out=[0.0] * 4), *[[free]] * 3]

    assert find(verdict(*just_over("idle"), pools=figures), "self-deadlock").confidence == "likely"


def test_rests_that_end_one_after_the_other_are_no_jam_that_is_over() -> None:
    before = [Row(100 + i, IN_TRANSACTION, age=20.0 + 3 * i, until_sample=4) for i in range(6)]
    after = [Row(100 + i, IN_TRANSACTION, age=0.3 + 0.1 * i, from_sample=4) for i in range(6)]

    assert "self-deadlock" not in codes(verdict(*before, *after, pools=six(timed_out=[None])))


def test_work_elsewhere_is_certain_only_where_no_holder_can_be_among_the_waiting() -> None:
    """As many wait as hold, and whether acquires time out is not counted: the holders may wait for a second one."""
    few, many = (verdict(*calling(6, 0.3), pools=full_pool(6, waiting)) for waiting in (3, 9))
    counted = verdict(*calling(6, 0.3), pools=six(timed_out=[0.0] * 7))

    assert find(few, "held-across-io").confidence == "certain"
    assert find(many, "held-across-io").confidence == "likely"
    assert find(counted, "held-across-io").confidence == "certain"


@pytest.mark.parametrize(("rolled_back", "confidence"), [(40, "undetermined"), (2, "likely")])
@pytest.mark.parametrize("waiting", [None, 12])
def test_pauses_that_end_in_rollbacks_may_be_nested_acquires_that_time_out_one_by_one(
    rolled_back: int, confidence: str, waiting: int | None
) -> None:
    counted = [[DatabaseCounters("app", backends=10, rollbacks=count)] for count in (0, rolled_back)]
    pools = full_pool(10, waiting) if waiting is not None else []

    diagnosis = verdict(*calling(10, 2.0), databases=counted, pools=pools)

    assert find(diagnosis, "held-across-io").confidence == confidence


@pytest.mark.parametrize(("timed_out", "confidence"), [(400, "undetermined"), (0, "likely")])
def test_a_role_that_sees_no_ages_takes_holders_that_time_out_for_no_calls(timed_out: int, confidence: str) -> None:
    """All are at rest in transactions, each in another one since the middle of the look."""
    before = [Row(100 + i, IN_TRANSACTION, age=8.0, transaction=8.0, until_sample=2) for i in range(10)]
    after = [Row(100 + i, IN_TRANSACTION, age=8.0, transaction=1.7, from_sample=3) for i in range(10)]
    counted = full_pool(10, 12, use_count_total=900.0, use_time_total=2_100.0, timed_out_total=timed_out)

    diagnosis = verdict(*before, *after, pools=counted, hides=True)

    assert find(diagnosis, "held-across-io").confidence == confidence


def test_calls_that_began_together_and_end_without_a_timeout_are_no_jam() -> None:
    diagnosis = verdict(*in_batches(*BATCHES), samples=7, window=6.0, pools=six(timed_out=[0.0] * 7))

    assert "self-deadlock" not in codes(diagnosis)
    assert "held-across-io" in codes(diagnosis)


def test_a_jam_of_short_timeouts_is_less_in_step_and_still_no_call_elsewhere() -> None:
    batches = [(3.5 - 0.5 * sample, sample, sample) for sample in range(7)]

    diagnosis = verdict(*in_batches(*batches, step=0.02), pools=six(timed_out=[6.0 * i for i in range(7)]))

    assert find(diagnosis, "self-deadlock").confidence == "certain"
    assert not (LEAKS | REMEDIES_OF_LOAD | {"held-across-io"}) & set(codes(diagnosis))


def test_fewer_waiters_than_holders_are_no_jam() -> None:
    diagnosis = verdict(*jam(8), pools=full_pool(8, 2))

    assert "self-deadlock" not in codes(diagnosis)
    assert "leak-in-transaction" in codes(diagnosis)


def test_leaks_one_by_one_are_no_jam_however_many_wait() -> None:
    spread = rows(8, state=IN_TRANSACTION, age=2.0, step=0.5)

    assert "self-deadlock" not in codes(verdict(*spread, pools=full_pool(8, 12)))


def blocked(count: int, root: int, *, age: float = 1.5, first: int = 300, kind: str = "transactionid") -> list[Row]:
    wait = LockWait(kind, "ShareLock", "stock", NOW - age)
    return rows(
        count,
        first,
        state="active",
        age=age,
        wait=("Lock", kind),
        blocked_by=(root,),
        waits_for=wait,
        query="UPDATE stock",
    )


@pytest.mark.parametrize("state", [IN_TRANSACTION, "active"])
@pytest.mark.parametrize("count", [1, 4, 40])
def test_a_queue_for_a_lock_names_the_session_at_its_head(state: str, count: int) -> None:
    root = Row(100, state, age=9.0, application="migrator")

    diagnosis = verdict(root, *blocked(count, 100))

    finding = find(diagnosis, "lock-queue")
    assert held_by(finding) == {"migrator"}
    assert finding.frees == count + 1
    assert finding.confidence == "certain"
    assert not (LEAKS | REMEDIES_OF_LOAD) & set(codes(diagnosis))


def test_the_root_is_behind_the_waiter_that_others_wait_for() -> None:
    root = Row(100, IN_TRANSACTION, age=30.0, application="report")
    ddl = Row(
        200,
        "active",
        age=8.0,
        application="migrator",
        wait=("Lock", "relation"),
        blocked_by=(100,),
        waits_for=LockWait("relation", "AccessExclusiveLock", "stock", NOW - 8.0),
    )

    finding = find(verdict(root, ddl, *blocked(5, 200)), "lock-queue")

    assert held_by(finding) == {"report"}
    assert finding.evidence["waiting_for_locks"] == 6
    assert "whole table" in finding.remedy


def test_a_leak_at_the_head_of_a_queue_comes_before_the_queue() -> None:
    leaked = rows(3, 100, state=IN_TRANSACTION, age=5.0, step=2.0, application="checkout")

    diagnosis = verdict(*leaked, *blocked(6, 101), *busy(2, application="checkout"))

    assert [f.code for f in diagnosis.findings if f.severity == "critical"] == ["leak-in-transaction", "lock-queue"]


def test_a_hot_row_that_everybody_changes_in_turn_is_no_trouble_by_itself() -> None:
    samples = [
        Row(
            300 + i,
            "active",
            age=0.004,
            turns=0.02,
            wait=("Lock", "tuple"),
            blocked_by=(100 + sample,),
            waits_for=LockWait("tuple", "ExclusiveLock", "branches"),
            from_sample=sample,
            until_sample=sample,
        )
        for sample in range(7)
        for i in range(5)
    ]

    diagnosis = verdict(*samples, *busy(8, 100))

    assert troubles(diagnosis) == []
    assert "of the statements under way waited for locks" in find(diagnosis, "healthy").summary


@pytest.mark.parametrize(("turns", "found"), [(True, []), (False, ["lock-queue"])])
def test_workers_that_take_turns_with_a_row_are_no_queue_though_a_turn_outlasts_two_samples(
    turns: bool, found: list[str]
) -> None:
    """Six jobs lock one row, each for half a second: none of them is to be ended."""
    heads = [(100, 0, 3, 3.3), (101, 4, 6, 0.8)] if turns else [(101, 0, 6, 0.8)]
    scene = []
    for root, first, last, age in heads:
        scene.append(Row(root, "active", age=age + 0.2, from_sample=first, until_sample=last))
        waiters = blocked(5, root, age=age, first=10 * root)
        scene += [replace(row, from_sample=first, until_sample=last) for row in waiters]

    assert troubles(verdict(*scene, samples=7, window=3.0)) == found


@pytest.mark.parametrize("count", [1, 2, 4])
def test_stand_bys_that_wait_for_a_leaders_advisory_lock_are_by_design(count: int) -> None:
    leader = Row(100, age=3000.0, advisory=1, application="leader")

    diagnosis = verdict(leader, *blocked(count, 100, age=2000.0, kind="advisory"), *busy(3))

    assert troubles(diagnosis) == []
    assert "waited for locks" not in find(diagnosis, "healthy").summary


def test_workers_that_take_turns_with_an_advisory_lock_are_by_design() -> None:
    """Another one of them has it at every sample."""
    turns = [
        [
            Row(100 + i, age=0.1, advisory=1, application="jobs", from_sample=sample, until_sample=sample)
            if i == sample
            else Row(
                100 + i,
                "active",
                age=1.5,
                wait=("Lock", "advisory"),
                blocked_by=(100 + sample,),
                waits_for=LockWait("advisory", "ExclusiveLock"),
                from_sample=sample,
                until_sample=sample,
            )
            for i in range(8)
        ]
        for sample in range(7)
    ]

    assert troubles(verdict(*(row for sample in turns for row in sample), *busy(3))) == []


def test_a_crowd_before_an_advisory_lock_is_a_queue() -> None:
    holder = Row(100, IN_TRANSACTION, age=30.0, advisory=1, application="importer")

    assert held_by(find(verdict(holder, *blocked(9, 100, kind="advisory")), "lock-queue")) == {"importer"}


def test_a_root_without_privileges_is_likely() -> None:
    finding = find(verdict(Row(100, IN_TRANSACTION, age=9.0), *blocked(4, 100), hides=True), "lock-queue")

    assert finding.confidence == "likely"


def test_a_prepared_transaction_at_the_head_is_named() -> None:
    assert "PREPARED" in find(verdict(*blocked(4, 0)), "lock-queue").remedy


def test_a_failed_transaction_is_told_and_is_no_leak() -> None:
    diagnosis = verdict(*rows(3, state=ABORTED, age=8.0, step=1.0, application="importer"), *busy(4))

    assert held_by(find(diagnosis, "aborted-transaction")) == {"importer"}
    assert not LEAKS & set(codes(diagnosis))


def test_a_transaction_that_failed_a_moment_ago_is_not_told() -> None:
    assert troubles(verdict(*rows(3, state=ABORTED, age=0.01, turns=0.03), *busy(4))) == []


UNREAD = ("Client", "ClientWrite")


@pytest.mark.parametrize(("age", "samples"), [(30.0, 2), (3.2, 7)])
def test_rows_that_nobody_reads_are_told(age: float, samples: int) -> None:
    diagnosis = verdict(*rows(3, state="active", age=age, wait=UNREAD, application="export"), samples=samples)

    assert held_by(find(diagnosis, "slow-reader")) == {"export"}
    assert not REMEDIES_OF_LOAD & set(codes(diagnosis))


def test_a_copy_that_is_read_slowly_is_what_it_is_for() -> None:
    copy = rows(1, state="active", age=30.0, wait=UNREAD, query="COPY orders TO STDOUT")
    dump = rows(2, 200, state="active", age=30.0, wait=UNREAD, application="pg_dump")

    assert troubles(verdict(*copy, *dump, *busy(3))) == []


def test_a_message_that_never_ends_is_told() -> None:
    half = rows(2, state="active", age=200.0, wait=("Client", "ClientRead"), application="breeze")

    finding = find(verdict(*half), "stuck-protocol")

    assert (finding.confidence, held_by(finding)) == ("certain", {"breeze"})


@pytest.mark.parametrize("query", ["COPY orders FROM STDIN", "copy orders from stdin"])
def test_a_copy_that_waits_for_its_client_is_no_stuck_message(query: str) -> None:
    assert troubles(verdict(Row(100, "active", age=200.0, wait=("Client", "ClientRead"), query=query))) == []


def test_a_stopped_client_is_named_with_its_process_and_is_no_leak() -> None:
    stuck = [*rows(5, age=9.0, application="stuck"), Row(120, IN_TRANSACTION, age=9.0, application="stuck")]
    stuck += [Row(121, IN_TRANSACTION, age=9.5, application="stuck")]
    stopped = [process(40_000 + row.pid, 77, status="stopped") for row in stuck]

    diagnosis = verdict(*stuck, *busy(4), hosts=[host(*stopped)])

    finding = find(diagnosis, "frozen-clients")
    assert finding.confidence == "certain"
    assert [holder.process for holder in finding.holders] == [
        {"pid": 77, "command": "python shop.py", "status": "stopped"}
    ]
    assert not LEAKS & set(codes(diagnosis))


def test_all_sessions_of_one_pod_frozen_while_others_work_and_wait_are_undetermined() -> None:
    pod = rows(4, age=9.0, client="10.0.0.1")
    peers = busy(8, client="10.0.0.2")
    waited_for = [[pool(max_open=8, open=8, in_use=8, waiting=4)], [pool(max_open=8, open=8, in_use=7, waiting=3)]]

    diagnosis = verdict(*pod, *peers, pools=waited_for)

    finding = find(diagnosis, "frozen-clients")
    assert (finding.confidence, pids(finding)) == ("undetermined", {100, 101, 102, 103})


def test_a_quiet_pod_beside_busy_ones_is_healthy() -> None:
    assert troubles(verdict(*rows(4, age=900.0, client="10.0.0.1"), *busy(8, client="10.0.0.2"))) == []


def test_a_statement_that_outlived_its_client_is_told() -> None:
    orphans = rows(3, state="active", age=90.0, wait=("Timeout", "PgSleep"), application="batch")
    seen = host(unowned_ports=(40_100, 40_101, 40_102))

    diagnosis = verdict(*orphans, *busy(3), hosts=[seen])

    finding = find(diagnosis, "orphaned-backends")
    assert (finding.confidence, held_by(finding), finding.frees) == ("certain", {"batch"}, 3)
    assert not (LEAKS | REMEDIES_OF_LOAD) & set(codes(diagnosis))


def test_no_owner_means_nothing_where_not_all_sockets_are_seen() -> None:
    orphans = rows(3, state="active", age=90.0, application="batch")

    assert troubles(verdict(*orphans, hosts=[host(unowned_ports=(40_100,), sees_all_sockets=False)])) == []


def test_a_report_on_the_server_is_not_slow_by_itself() -> None:
    assert troubles(diagnose(observe(*rows(3, state="active", age=900.0, step=60.0), hosts=[host()]))) == []


def test_sessions_that_work_on_while_nobody_acquires_are_long_holds_and_not_calls() -> None:
    still = [[pool(max_open=8, open=8, in_use=8, waiting=5, acquired_total=700.0)]]

    diagnosis = verdict(*calling(8, 0.5), pools=still)

    assert held_by(find(diagnosis, "long-hold")) == {"shop"}
    assert not (LEAKS | {"held-across-io", "pool-undersized"}) & set(codes(diagnosis))


@pytest.mark.parametrize("hides", [False, True])
def test_holds_of_which_none_was_seen_to_end_are_not_said_to_end(hides: bool) -> None:
    given = [Row(100 + i, state=IN_TRANSACTION, age=0.9, began=30.0 + 0.2 * i) for i in range(10)]
    still = [DatabaseCounters("app", backends=10, commits=100, rollbacks=5)]

    finding = find(verdict(*given, hides=hides, databases=[still]), "held-across-io")

    assert (finding.confidence, finding.severity) == ("undetermined", "warning")
    assert "and none was observed to end" in finding.summary


@pytest.mark.parametrize("hides", [False, True])
def test_applications_whose_only_backends_stand_in_transactions_are_not_called_healthy(hides: bool) -> None:
    given = [Row(100 + i, state=IN_TRANSACTION, age=50.0 + i, application=f"shop-{i}") for i in range(11)]

    healthy = find(verdict(*given, hides=hides), "healthy")

    assert healthy.confidence == "undetermined"
    assert "The only backends of 11 applications have been idle in a transaction" in healthy.summary


def test_one_forgotten_session_in_a_transaction_is_no_reason_to_doubt_health() -> None:
    given = [Row(100, state=IN_TRANSACTION, age=50.0, application="report"), Row(101), Row(102)]

    assert find(verdict(*given), "healthy").confidence != "undetermined"
