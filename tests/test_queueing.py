"""The pool in virtual time against queueing theory.

Service is exponential with mean 1 unless said otherwise. Tolerances are three standard errors, estimated from the
means of 25 consecutive batches, which takes the correlation of neighboring waits into account.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from random import Random
from statistics import fmean, stdev
from typing import Literal

import pytest
from virtual import VirtualTime, new_pool

from poolctl.pool import PoolRules
from poolctl.scenario.run import compute_ideal_waits

CONNECTIONS = 10


def poisson(rate: float, number: int, seed: int) -> Iterator[float]:
    random, at = Random(seed), 0.0
    for _ in range(number):
        at += random.expovariate(rate)
        yield at


def exponential(seed: int) -> Callable[[], float]:
    random = Random(seed)
    return lambda: random.expovariate(1.0)


def queue(order: Literal["random", "fifo"], rate: float, number: int, *, patience: float | None = None) -> VirtualTime:
    virtual = VirtualTime(
        new_pool(max_open=CONNECTIONS, max_idle=CONNECTIONS, rules=PoolRules(waiter_order=order), seed=3)
    )
    virtual.feed(poisson(rate, number, seed=1), exponential(seed=2), patience=patience)
    virtual.run()
    return virtual


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    size = len(values) // 25
    batches = [fmean(values[at * size : (at + 1) * size]) for at in range(25)]
    return fmean(batches), stdev(batches) / 5


def assert_near(values: Sequence[float], theory: float, *, error_at_most: float) -> None:
    """The mean agrees with theory, and is known well enough (relative to theory) to say so."""
    mean, error = mean_and_error(values)
    assert error <= error_at_most * theory
    assert mean == pytest.approx(theory, abs=3 * error)


def test_a_fifo_pool_of_10_warm_connections_waits_exactly_as_the_ideal_queue() -> None:
    number = 32_768
    due = list(poisson(9.0, number, seed=4))
    draw = exponential(seed=5)
    holds = [draw() for _ in range(number)]
    pool = new_pool(max_open=CONNECTIONS, max_idle=CONNECTIONS, rules=PoolRules(waiter_order="fifo"))
    virtual = VirtualTime(pool)
    for connection in range(CONNECTIONS):
        virtual.acquire(("warms", connection), 0.0)
    virtual.run()
    virtual.feed(due, iter(holds).__next__)
    virtual.run()

    ideal = compute_ideal_waits(due, holds, CONNECTIONS)
    assert max(abs(virtual.served[at].waited - ideal[at]) for at in range(number)) == 0.0
    assert sum(wait > 0 for wait in ideal) > number / 2
    assert pool.stats(virtual.now).opened == CONNECTIONS


# Erlang C: probability of waiting, and mean wait = probability / (10 - rate).
@pytest.mark.parametrize(("rate", "probability", "mean_wait"), [(7.0, 0.2217, 0.0739), (9.0, 0.6687, 0.6687)])
def test_the_share_that_waits_and_the_mean_wait_are_those_of_erlang_c(
    rate: float, probability: float, mean_wait: float
) -> None:
    number = 70_000
    virtual = queue("fifo", rate, number)

    waits = [virtual.served[at].waited for at in range(number)]
    assert_near([float(wait > 0) for wait in waits], probability, error_at_most=0.05)
    assert_near(waits, mean_wait, error_at_most=0.15)


def test_random_order_keeps_the_mean_wait_and_spreads_it_as_theory_says() -> None:
    rate, number = 9.0, 100_000
    fifo, random = queue("fifo", rate, number), queue("random", rate, number)

    fifo_waits, random_waits = ([run.served[at].waited for at in range(number)] for run in (fifo, random))
    # Use times are drawn as service begins, so that both queues are equally long at every instant.
    assert fmean(random_waits) == pytest.approx(fmean(fifo_waits), rel=1e-9)
    ratio = fmean(wait * wait for wait in random_waits) / fmean(wait * wait for wait in fifo_waits)
    # Second moments compare as 1 : 1 / (1 - rho / 2); over seeds the ratio moves by 1.5 % (standard deviation).
    assert ratio == pytest.approx(1 / (1 - 0.45), rel=0.05)


@pytest.mark.parametrize("order", ["fifo", "random"])
def test_little_s_law_holds_for_waiting_and_for_use(order: Literal["fifo", "random"]) -> None:
    draws: list[float] = []
    draw = exponential(seed=8)

    def remember() -> float:
        draws.append(draw())
        return draws[-1]

    virtual = VirtualTime(new_pool(max_open=CONNECTIONS, max_idle=2, rules=PoolRules(waiter_order=order)))
    virtual.feed(poisson(9.5, 5_000, seed=7), remember, patience=0.5)
    virtual.run()

    stats = virtual.pool.stats(virtual.now)
    assert virtual.gave_up
    queued = sum(served.waited for served in virtual.served.values()) + 0.5 * len(virtual.gave_up)
    assert stats.queued_time == pytest.approx(queued)
    assert stats.in_use_time == pytest.approx(sum(draws))
    assert len(draws) == len(virtual.served) == 5_000 - len(virtual.gave_up)


@pytest.mark.parametrize("service", ["exponential", "constant"])
def test_without_patience_the_share_turned_away_is_erlang_b_whatever_the_service(service: str) -> None:
    number = 40_000
    virtual = VirtualTime(new_pool(max_open=CONNECTIONS, max_idle=CONNECTIONS))
    virtual.feed(poisson(9.0, number, seed=1), exponential(seed=2) if service == "exponential" else 1.0, patience=0.0)
    virtual.run()

    assert_near([float(at in virtual.gave_up) for at in range(number)], 0.16796, error_at_most=0.025)


def test_a_pool_that_rejects_turns_away_the_same_requests_as_one_without_patience() -> None:
    turned_away = []
    for kind, patience in (("psycopg2", None), ("database/sql", 0.0)):
        virtual = VirtualTime(new_pool(kind, max_open=CONNECTIONS, max_idle=CONNECTIONS))
        virtual.feed(poisson(9.0, 5_000, seed=1), exponential(seed=2), patience=patience)
        virtual.run()
        turned_away.append(virtual.rejected or virtual.gave_up)

    assert turned_away[0] == turned_away[1]
    assert turned_away[0]


# M/M/10 with constant patience of half a service time (M/M/c+D in closed form).
@pytest.mark.parametrize(("rate", "share"), [(9.0, 0.06388), (12.0, 0.19955)])
def test_the_share_that_gives_up_after_half_a_service_time_is_that_of_theory(rate: float, share: float) -> None:
    number = 40_000
    virtual = queue("fifo", rate, number, patience=0.5)

    assert_near([float(at in virtual.gave_up) for at in range(number)], share, error_at_most=0.05)


# 20 connections busy on average: the Markov chain of (busy, idle), solved numerically.
@pytest.mark.parametrize(("max_idle", "opened_per_service_time"), [(2, 6.445), (5, 2.879)])
def test_a_small_max_idle_reopens_as_often_as_the_markov_chain_says(
    max_idle: int, opened_per_service_time: float
) -> None:
    virtual = VirtualTime(new_pool(max_idle=max_idle))
    virtual.feed(poisson(20.0, 60_000, seed=1), exponential(seed=2))
    counts = []
    for at in range(20, 2820, 4):
        virtual.run(float(at))
        counts.append(virtual.pool.stats(float(at)).opened)

    rates = [(later - earlier) / 4 for earlier, later in pairwise(counts)]
    assert_near(rates, opened_per_service_time, error_at_most=0.025)
