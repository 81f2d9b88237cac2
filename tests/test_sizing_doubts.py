"""When no size is given, or a smaller promise made: each reason, its bounds, and what it needs to be one."""

import pytest

from poolctl.diagnose.finding import Finding
from poolctl.sizing.figures import Figures, TopStatement, Window, measured
from poolctl.sizing.figures import given as said
from poolctl.sizing.recommend import recommend
from poolctl.sizing.recommendation import Recommendation
from poolctl.sizing.sweep_table import SweepPoint

MEASURED = Figures(
    throughput=measured(1000),
    hold_time=measured(0.008),
    hold_cv=measured(1),
    parallelism=measured(8),
    instances=said(4),
    max_connections=measured(200),
    current_max_open=measured(10),
    window=1200.0,
    samples=2000,
    effective_samples=1500,
)


def finding(answer: Recommendation, code: str) -> Finding:
    return next(found for found in answer.findings if found.code == code)


def codes(answer: Recommendation) -> list[str]:
    return [found.code for found in answer.findings if found.code != "capacity-unknown"]


def test_a_sound_measurement_is_no_reason_for_anything() -> None:
    answer = recommend(MEASURED)

    assert codes(answer) == []
    assert (answer.recommendation.max_open, answer.recommendation.confidence) == (5, "high")
    assert answer.measured.parallelism.mean == 8


@pytest.mark.parametrize(
    ("changes", "code", "confidence"),
    [
        ({"is_behind_pooler": True}, "hidden-by-pooler", "refused"),
        ({"is_stats_reset": True}, "stats-reset", "refused"),
        ({"parallelism": measured(11)}, "estimates-disagree", "refused"),
        ({"parallelism_counted": measured(5)}, "estimates-disagree", "refused"),
        ({"censored_share": measured(0.02)}, "demand-censored", "low"),
        ({"censored_share": measured(0.02), "wait_time": measured(0.002)}, "demand-censored", "low"),
        ({"effective_samples": 9}, "few-samples", "refused"),
        ({"effective_samples": 40}, "few-samples", "low"),
        ({"effective_samples": 200}, "few-samples", "low"),
        ({"window": 60.0}, "peak-unseen", "medium"),
        ({"connections_per_request": said(2)}, "self-deadlock", "low"),
    ],
)
def test_doubts_about_the_measurement_lower_the_confidence_or_refuse(
    changes: dict[str, object], code: str, confidence: str
) -> None:
    answer = recommend(MEASURED.with_(**changes))

    assert code in codes(answer)
    assert answer.recommendation.confidence == confidence
    assert (answer.recommendation.max_open is None) == (confidence == "refused")
    assert finding(answer, code).remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"parallelism": measured(9)},
        {"parallelism_counted": measured(9.5)},
        {"throughput": measured(40), "parallelism": measured(0.7), "hold_time": measured(0.008)},
        {"censored_share": measured(0.01)},
        {"effective_samples": 299},
        {"window": 900.0},
    ],
)
def test_what_is_within_the_scatter_is_no_doubt(changes: dict[str, object]) -> None:
    assert codes(recommend(MEASURED.with_(**changes))) == []


@pytest.mark.parametrize(
    ("sampled", "counted", "window", "is_doubted"),
    [(0.36, 0.94, 40.0, False), (0.94, 0.36, 40.0, True), (0.36, 1.4, 40.0, True), (0.36, 0.94, 1200.0, True)],
)
def test_counters_may_hold_a_second_of_each_backend_from_before_and_no_more(
    sampled: float, counted: float, window: float, is_doubted: bool
) -> None:
    """36 backends reported in 40 s what they had done before an index was made."""
    busy = {"parallelism": measured(sampled), "parallelism_counted": measured(counted)}
    figures = MEASURED.with_(
        throughput=measured(1710), hold_time=None, open_connections=measured(36), window=window, **busy
    )

    assert ("estimates-disagree" in codes(recommend(figures))) == is_doubted


def test_a_doubtful_measurement_does_not_matter_where_rate_and_hold_are_given() -> None:
    answer = recommend(
        MEASURED.with_(
            arrival_rate=said(250), hold_time=said(0.008), is_behind_pooler=True, effective_samples=10, window=5.0
        )
    )

    assert codes(answer) == []
    assert answer.recommendation.max_open == 3


def test_counters_and_samples_that_differ_are_seen_in_the_windows() -> None:
    windows = tuple(Window(10.0, 1000.0, 4.0) for _ in range(100))
    answer = recommend(MEASURED.with_(windows=windows, hold_time=None))

    assert codes(answer) == ["estimates-disagree"]
    assert finding(answer, "estimates-disagree").evidence == {"sampled": 8.0, "counted": 4.0}


SLOW = TopStatement(
    "select * from orders where customer_id = $1",
    share=0.97,
    table="orders",
    column="customer_id",
    rows_read=4_000_000,
    rows_returned=12,
)
STORY = MEASURED.with_(
    throughput=measured(27),
    hold_time=None,
    parallelism=measured(180),
    current_max_open=measured(30),
    instances=said(6),
    database_cpu=measured(0.99),
    top_statement=SLOW,
    censored_share=measured(0.9),
)


def test_a_slow_statement_is_refused_a_pool_size_with_both_bounds_and_the_index() -> None:
    answer = recommend(STORY)
    worst = answer.findings[0]

    assert answer.is_refused
    assert answer.verdict == "refused"
    assert (answer.recommendation.max_open, answer.recommendation.interval) == (None, None)
    assert (worst.code, worst.severity) == ("slow-database", "critical")
    assert worst.summary == (
        "Pool size is not the problem: one statement has 97 % of the database's time and reads 4,000,000 rows of "
        "orders in each call. No pool size gains more than 1 %; without it up to 33 times as much gets done"
    )
    assert worst.remedy == "Create an index on orders(customer_id); then measure again"
    assert worst.evidence["statement"] == SLOW.query


@pytest.mark.parametrize(
    "changes",
    [
        {"database_cpu": measured(0.6)},
        {"database_cpu": None},
        {"top_statement": TopStatement("select 1", share=0.4)},
        {"top_statement": None},
        {"windows": tuple(Window(10.0, 10.0 * busy, float(busy)) for busy in range(4, 24))},
    ],
)
def test_a_statement_is_to_blame_only_where_the_processors_are_busy_with_it(changes: dict[str, object]) -> None:
    assert "slow-database" not in codes(recommend(STORY.with_(**changes)))


def test_after_the_index_the_same_application_gets_a_number() -> None:
    mended = STORY.with_(
        throughput=measured(3000),
        parallelism=measured(6),
        database_cpu=measured(0.4),
        top_statement=TopStatement(SLOW.query, share=0.6),
        censored_share=measured(0.0),
    )
    answer = recommend(mended)

    assert answer.recommendation.max_open is not None
    assert 2 <= answer.recommendation.max_open <= 6


def test_a_sweep_bounds_what_a_pool_can_gain() -> None:
    sweep = (SweepPoint(4, 25.0), SweepPoint(8, 27.0), SweepPoint(16, 27.1))
    worst = recommend(STORY.with_(sweep=sweep)).findings[0]

    assert worst.evidence["most_gain_from_pool"] == pytest.approx(27.1 / 27 - 1)


def test_locks_are_the_problem_where_they_hold_up_most_of_an_exhausted_pool() -> None:
    locked = MEASURED.with_(lock_share=measured(0.6), censored_share=measured(0.5))
    refused, noted = recommend(locked), recommend(MEASURED.with_(lock_share=measured(0.3)))

    assert refused.is_refused
    assert finding(refused, "lock-queue").severity == "critical"
    assert (
        "60 % of active backends wait for locks: more connections lengthen that queue"
        in finding(refused, "lock-queue").summary
    )
    assert finding(refused, "lock-queue").evidence["gain_from_locks"] == pytest.approx(2.5)
    assert not noted.is_refused
    assert finding(noted, "lock-queue").severity == "warning"
    assert noted.recommendation.confidence == "medium"


def test_locks_within_the_server_cap_the_pool_and_are_no_queue_behind_a_transaction() -> None:
    contended = MEASURED.with_(
        contention_share=measured(0.6), lock_share=measured(0.0), censored_share=measured(0.5), cores=measured(8)
    )
    answer = recommend(contended)

    assert not [each for each in answer.findings if each.code == "lock-queue"]
    assert "60 % of active backends wait for locks" in " ".join(answer.capacity.notes)


def test_connections_held_during_other_work_are_the_problem_where_there_is_no_room_to_grow() -> None:
    held = MEASURED.with_(
        transaction_idle_share=measured(0.8), censored_share=measured(0.5), current_max_open=measured(40)
    )
    refused, noted = recommend(held), recommend(MEASURED.with_(transaction_idle_share=measured(0.4)))

    assert finding(refused, "held-across-io").severity == "critical"
    assert finding(refused, "held-across-io").evidence["gain_from_shorter_holds"] == pytest.approx(5.0)
    assert "needs 20 % of the connections" in finding(refused, "held-across-io").summary
    assert not noted.is_refused
    assert finding(noted, "held-across-io").severity == "warning"


def test_the_pools_as_they_are_are_checked_against_the_slots() -> None:
    answer = recommend(MEASURED.with_(current_max_open=measured(60)))

    assert finding(answer, "fleet-over-budget").evidence["total"] == 360
    assert not answer.is_refused


def test_a_sweep_in_other_units_is_noticed_by_little_s_law() -> None:
    sweep = tuple(SweepPoint(n, x, 1000 * n / x) for n, x in ((4, 100.0), (8, 180.0), (16, 185.0), (32, 184.0)))
    answer = recommend(Figures(sweep=sweep))

    assert "by a factor of 1e+03" in finding(answer, "sweep-inconsistent").summary
    assert answer.recommendation.confidence == "low"


def test_the_edge_of_a_sweep_is_told_with_where_to_go_on() -> None:
    answer = recommend(Figures(sweep=(SweepPoint(4, 100.0), SweepPoint(8, 200.0), SweepPoint(16, 390.0))))

    assert "at least that many are useful" in finding(answer, "sweep-too-short").summary
    assert finding(answer, "sweep-too-short").evidence["next_points"]
    assert answer.capacity.at_least
