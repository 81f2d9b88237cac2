"""Seeds of replications, and means with confidence intervals."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolctl.scenario.replications import Estimate, derive_seed, estimate, estimate_all, student_t


def test_the_first_replication_has_the_seed_itself_and_the_others_never_change() -> None:
    assert [derive_seed(1, number) for number in range(4)] == [1, 193617707957979, 153789642320264, 31952616513686]
    assert [derive_seed(2, number) for number in range(2)] == [2, 85741021236874]


def test_seeds_of_neighbors_have_nothing_in_common_and_pass_through_json() -> None:
    seeds = {derive_seed(seed, number) for seed in range(20) for number in range(1, 200)}

    assert len(seeds) == 20 * 199
    assert max(seeds) < 2**53


@pytest.mark.parametrize(
    ("freedom", "t95", "t99"),
    [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (5, 2.571, 4.032),
        (9, 2.262, 3.250),
        (10, 2.228, 3.169),
        (29, 2.045, 2.756),
        (30, 2.042, 2.750),
        (120, 1.980, 2.617),
        (1000, 1.962, 2.581),
    ],
)
def test_students_t_is_that_of_the_published_tables(freedom: int, t95: float, t99: float) -> None:
    assert student_t(0.95, freedom) == pytest.approx(t95, abs=6e-4)
    assert student_t(0.99, freedom) == pytest.approx(t99, abs=6e-4)


@pytest.mark.parametrize(("confidence", "freedom"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_students_t_refuses_what_has_no_quantile(confidence: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        student_t(confidence, freedom)


def test_the_interval_is_that_of_a_worked_example() -> None:
    # Ten values of Law and Kelton, chapter 4: mean 1.34, variance 0.17; the book gives +- 0.24 at 90 %.
    values = [1.20, 1.50, 1.68, 1.89, 0.95, 1.49, 1.58, 1.55, 0.50, 1.09]

    found = estimate(values)

    assert found.mean == pytest.approx(1.343)
    assert found.low == pytest.approx(1.343 - 2.2622 * (0.16751 / 10) ** 0.5, abs=1e-4)
    assert found.high == pytest.approx(1.343 + 2.2622 * (0.16751 / 10) ** 0.5, abs=1e-4)
    assert student_t(0.90, 9) * (0.16751 / 10) ** 0.5 == pytest.approx(0.24, abs=0.005)
    assert (found.least, found.most, found.count) == (0.50, 1.89, 10)


def test_a_single_replication_has_a_mean_and_no_interval() -> None:
    assert estimate([3.0]) == Estimate(3.0, None, None, 3.0, 3.0, 1)


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match="no replications"):
        estimate([])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_the_mean_lies_within_its_interval_and_between_the_extremes(values: list[float]) -> None:
    found = estimate(values)

    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert found.least - 1e-6 <= found.mean <= found.most + 1e-6


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    random = Random(7)
    held = 0
    for _ in range(2000):
        found = estimate([random.gauss(5.0, 2.0) for _ in range(6)])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 5.0 <= found.high

    # 95 % of 2,000, give or take four standard deviations of a binomial count.
    assert held == pytest.approx(1900, abs=40)


def test_estimates_keep_the_tables_and_leave_out_what_has_no_mean() -> None:
    records = [
        {"count": 2, "wait": {"mean": 1.0}, "at": None, "errors": [1], "name": "x", "late": None},
        {"count": 4, "wait": {"mean": 2.0}, "at": 3.0, "errors": [], "name": "x", "late": None},
    ]

    found = estimate_all(records)

    assert found["count"].mean == 3.0
    assert found["wait"]["mean"].mean == 1.5
    assert found["at"] is None
    assert found["late"] is None
    assert found.keys() == {"count", "wait", "at", "late"}
