"""The model against queueing theory: values that are known exactly, with the tolerance that a run's length allows."""

from math import exp, factorial, isclose

import pytest
from modeled import constant, exponential, mm, run

from poolctl.scenario.run import Run


def erlang_b(servers: int, load: float) -> float:
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """The probability of having to wait in M/M/c (Erlang 1917)."""
    blocked = erlang_b(servers, load)
    return servers * blocked / (servers - load * (1.0 - blocked))


def share_queued(done: Run) -> float:
    return done.summary.queued_count / done.summary.offered


def test_the_formulas_give_the_published_values() -> None:
    assert isclose(erlang_c(14, 10.0), 0.17413, abs_tol=1e-5)
    assert isclose(erlang_c(55, 48.0), 0.23870, abs_tol=1e-5)
    assert isclose(erlang_b(10, 8.0), 0.12166, abs_tol=1e-5)


def test_waits_in_m_m_10_at_90_percent_are_erlang_c() -> None:
    done = mm(10, 9.0, 22_000.0)

    assert share_queued(done) == pytest.approx(0.6687, abs=0.02)
    assert done.summary.wait_time.mean == pytest.approx(0.6687, rel=0.10)


def test_waits_in_m_m_14_at_10_erlangs_are_the_published_ones() -> None:
    assert share_queued(mm(14, 10.0, 10_000.0)) == pytest.approx(0.17413, abs=0.01)


def test_random_waiters_have_the_mean_of_a_fifo_queue_and_a_fatter_tail() -> None:
    # E[W^2] is 1 / (1 - rho / 2) times that of fifo (Kingman 1962). The 1.62 at 90 % was measured, over many seeds.
    random, fifo = (mm(10, 9.0, 22_000.0, pool={"kind": kind}) for kind in ("database/sql", "deadpool"))

    assert random.summary.wait_time.mean == pytest.approx(fifo.summary.wait_time.mean, rel=0.02)
    assert random.summary.wait_time.p99 / fifo.summary.wait_time.p99 == pytest.approx(1.62, rel=0.12)


def test_waits_in_m_d_1_are_half_of_those_in_m_m_1() -> None:
    # Pollaczek and Khinchine: rho / (2 (1 - rho)) = 1 at two thirds.
    assert mm(1, 2 / 3, 60_000.0, hold=constant(1.0)).summary.wait_time.mean == pytest.approx(1.0, rel=0.05)


def test_waits_in_m_g_1_grow_with_the_variance_of_the_hold() -> None:
    # (1 + cv^2) / 2 times those of M/M/1, which are 1 at 50 %: 2.5 for cv 2.
    done = mm(1, 0.5, 200_000.0, hold={"distribution": "lognormal", "mean": 1.0, "cv": 2.0})

    assert done.summary.wait_time.mean == pytest.approx(2.5, rel=0.12)


@pytest.mark.parametrize(
    "hold", [exponential(0.008), constant(0.008), {"distribution": "lognormal", "mean": 0.008, "cv": 2.0}]
)
def test_shared_cores_answer_in_the_same_mean_time_whatever_the_distribution(hold: dict[str, object]) -> None:
    # M/G/8 processor sharing: S (1 + C(8, a) / (8 - a)); an unlimited pool in front adds nothing.
    load = 6.4
    done = run(
        database={"cores": 8},
        pool={"max_open": 0, "max_idle": 1000},
        rate=load / 0.008,
        hold=hold,
        duration=200.0,
        warmup=1.0,
    )

    assert done.summary.use_time.mean == pytest.approx(0.008 * (1 + erlang_c(8, load) / (8 - load)), rel=0.03)


@pytest.mark.parametrize("hold", [exponential(1.0), constant(1.0)])
def test_a_pool_that_does_not_queue_loses_what_erlang_b_says(hold: dict[str, object]) -> None:
    done = mm(10, 9.0, 20_000.0, pool={"kind": "psycopg2"}, hold=hold)

    assert done.summary.timed_out / done.summary.offered == pytest.approx(erlang_b(10, 9.0), abs=0.006)
    assert done.summary.wait_time.max == 0.0


@pytest.mark.parametrize("load", [9.0, 12.0])
def test_patience_of_half_a_hold_runs_out_as_often_as_in_m_m_10_with_deadlines(load: float) -> None:
    # M/M/c+D: below c it is birth and death; the virtual wait has density f(0) exp(-(c mu - lambda) t).
    c, patience = 10, 0.5
    weights = [load**n / factorial(n) for n in range(c)]
    density = load * weights[-1]
    drift = c - load
    queueing = density * (1 - exp(-drift * patience)) / drift
    lost = density * exp(load * patience - c * patience) / c
    theory = lost / (sum(weights) + queueing + lost)

    done = mm(c, load, 20_000.0, pool={"kind": "deadpool", "acquire_timeout": patience})

    assert theory == pytest.approx({9.0: 0.06388, 12.0: 0.19955}[load], abs=1e-5)
    assert done.summary.timed_out / done.summary.offered == pytest.approx(theory, abs=0.004)


@pytest.mark.parametrize(("max_open", "rate"), [(8, 533.0), (30, 1584.0), (60, 1600.0)])
def test_a_saturated_pool_in_front_of_8_cores_serves_as_machine_repair_says(max_open: int, rate: float) -> None:
    # 5 ms in the database and 10 ms outside, always as many requests as connections (exact mean value analysis).
    done = run(
        database={"cores": 8},
        pool={"max_open": max_open, "max_idle": max_open},
        workers=max_open,
        # Not constant: workers that begin together would stay together.
        hold=constant(0.015),
        hold_outside={"distribution": "lognormal", "mean": 0.010, "cv": 0.15},
        duration=30.0,
        warmup=5.0,
    )

    assert done.summary.throughput == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(("max_idle", "opened"), [(2, 6.445), (5, 2.879)])
def test_a_low_max_idle_reopens_as_often_as_its_markov_chain_says(max_idle: int, opened: float) -> None:
    done = run(
        pool={"max_open": 0, "max_idle": max_idle}, rate=20.0, hold=exponential(1.0), duration=10_000.0, warmup=100.0
    )

    assert done.summary.connections.opened / 10_000.0 == pytest.approx(opened, rel=0.02)


def test_contention_gives_the_throughput_of_the_universal_scalability_law() -> None:
    # X(n) = n / (1 + alpha (n - 1) + beta n (n - 1)): the synthetic table .02 / .02 has 3.5398 at 8.
    done = run(
        database={"contention": 0.02, "coherency": 0.02},
        pool={"max_open": 8, "max_idle": 8},
        workers=8,
        hold=exponential(1.0),
        duration=4_000.0,
        warmup=100.0,
    )

    assert done.summary.throughput == pytest.approx(3.5398, rel=0.03)
