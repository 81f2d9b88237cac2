"""The formulas of queueing theory against published values, identities and simulation."""

from math import exp, isfinite
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.scenario.run import compute_ideal_waits
from poolctl.sizing.queueing import (
    closed_knee,
    closed_throughput,
    erlang_b,
    erlang_c,
    reopened_share,
    servers_for_wait,
    servers_for_wait_probability,
    wait_tail,
)

LOADS = (1, 2, 5, 10, 20, 50, 100, 200)
FEWEST = {
    0.01: (5, 7, 12, 19, 32, 68, 125, 235),
    0.05: (4, 6, 10, 17, 29, 64, 119, 226),
    0.20: (3, 4, 8, 14, 26, 58, 111, 216),
}


@pytest.mark.parametrize(
    ("servers", "load", "probability"),
    [
        (55, 48, 0.23870),
        (14, 10, 0.17413),
        (11, 10, 0.68212),
        (6, 5, 0.58752),
        (20, 16, 0.25608),
        (100, 90, 0.21694),
    ],
)
def test_erlang_c_gives_the_published_probabilities(servers: int, load: float, probability: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(probability, abs=5e-6)


def test_a_call_center_of_55_agents_serves_as_well_as_the_public_example_says() -> None:
    # 360 calls of 4 minutes in half an hour: 84.6 % answered within 15 s, 8.18 s of waiting on average.
    assert 1 - wait_tail(55, 48, 240, 15) == pytest.approx(0.8459, abs=5e-5)
    assert erlang_c(55, 48) * 240 / (55 - 48) == pytest.approx(8.184, abs=1e-3)


@pytest.mark.parametrize("probability", FEWEST)
def test_the_fewest_servers_are_those_of_the_table(probability: float) -> None:
    assert tuple(servers_for_wait_probability(load, probability) for load in LOADS) == FEWEST[probability]


@settings(deadline=None)
@given(load=st.floats(0.0, 200.0), servers=st.integers(1, 300))
def test_blocking_and_waiting_are_probabilities_and_fall_with_more_servers(load: float, servers: int) -> None:
    assert 0.0 <= erlang_b(servers, load) <= erlang_c(servers, load) <= 1.0
    assert erlang_b(servers + 1, load) <= erlang_b(servers, load)
    assert erlang_c(servers + 1, load) <= erlang_c(servers, load)


@pytest.mark.parametrize("load", [0.0, 1e-9, 1.0, 1e3, 1e5])
def test_no_load_is_too_small_or_too_large_for_the_arithmetic(load: float) -> None:
    servers = servers_for_wait_probability(load, 0.01)

    assert servers > load
    assert isfinite(erlang_c(servers, load))
    assert erlang_c(servers, load) <= 0.01
    assert servers == 1 or servers - 1 <= load or erlang_c(servers - 1, load) > 0.01


@pytest.mark.parametrize("load", [-1.0, float("nan"), float("inf")])
def test_a_load_that_is_none_is_refused(load: float) -> None:
    with pytest.raises(ValueError, match="erlangs"):
        erlang_b(3, load)


def test_a_single_server_waits_as_long_as_theory_says() -> None:
    # M/M/1: P(W > t) = rho exp(-(1 - rho) t).
    assert wait_tail(1, 0.7, 1.0, 2.0) == pytest.approx(0.7 * exp(-0.6))


def varied(c2: float, random: Random) -> float:
    """Mean 1: exponential, or one of two exponentials with balanced means."""
    first = (1 + ((c2 - 1) / (c2 + 1)) ** 0.5) / 2
    return random.expovariate(2 * first) if random.random() < first else random.expovariate(2 * (1 - first))


@pytest.mark.parametrize(
    ("load", "arrival_c2", "hold_c2", "target"),
    [(0.6, 1, 4, 6.25), (2, 1, 4, 2.0), (2, 4, 4, 6.0), (8, 1, 1, 2.0), (8, 1, 4, 6.0)],
)
def test_the_servers_for_a_wait_target_are_those_that_a_simulation_finds(
    load: float, arrival_c2: float, hold_c2: float, target: float
) -> None:
    random = Random(1)
    due, at = [], 0.0
    for _ in range(40_000):
        at += varied(arrival_c2, random) / load
        due.append(at)
    holds = [varied(hold_c2, random) for _ in due]

    def late(servers: int) -> float:
        return sum(wait > target for wait in compute_ideal_waits(due, holds, servers)) / len(due)

    servers = servers_for_wait(load, 1.0, target, arrival_c2=arrival_c2, hold_c2=hold_c2)
    assert late(servers) <= 0.01
    # One more than needed at most: the formula errs to the safe side.
    assert servers - 2 <= load or late(servers - 2) > 0.01


@settings(deadline=None)
@given(
    load=st.floats(0.01, 60.0),
    more=st.floats(1.0, 3.0),
    wait=st.floats(0.0, 5.0),
    arrival_c2=st.floats(0.0, 10.0),
    hold_c2=st.floats(0.0, 20.0),
)
def test_more_load_more_variation_and_less_patience_never_need_fewer_servers(
    load: float, more: float, wait: float, arrival_c2: float, hold_c2: float
) -> None:
    least = servers_for_wait(load, 1.0, wait, arrival_c2=arrival_c2, hold_c2=hold_c2)

    assert least > load
    assert servers_for_wait(load * more, 1.0, wait, arrival_c2=arrival_c2, hold_c2=hold_c2) >= least
    assert servers_for_wait(load, 1.0, wait / more, arrival_c2=arrival_c2, hold_c2=hold_c2) >= least
    assert servers_for_wait(load, 1.0, wait, arrival_c2=arrival_c2 * more, hold_c2=hold_c2) >= least
    assert servers_for_wait(load, 1.0, wait, arrival_c2=arrival_c2, hold_c2=hold_c2 * more) >= least


def test_a_pool_for_the_mean_queues_through_bursts_and_one_for_the_peak_does_not() -> None:
    random = Random(2)
    due: list[float] = []
    at, busy = 0.0, False
    while at < 20_000:
        # 5 erlangs, with bursts of 30 that last 100 holds: 10 on average.
        length = random.expovariate(1 / 100 if busy else 1 / 400)
        end = at + length
        while (at := at + random.expovariate(30 if busy else 5)) < end:
            due.append(at)
        at, busy = end, not busy
    holds = [random.expovariate(1.0) for _ in due]
    mean, peak = servers_for_wait(10, 1.0, 1.0), servers_for_wait(30, 1.0, 1.0)

    waits = {servers: sorted(compute_ideal_waits(due, holds, servers)) for servers in (mean, peak)}
    assert waits[mean][int(0.99 * len(due))] > 50
    assert waits[peak][int(0.99 * len(due))] <= 1.0


@pytest.mark.parametrize(("split", "wanted"), [(1, 32), (10, 70), (50, 150)])
def test_splitting_20_erlangs_over_pods_costs_what_the_reference_says(split: int, wanted: int) -> None:
    assert split * servers_for_wait_probability(20 / split, 0.01) == wanted


def test_a_closed_loop_grows_in_proportion_at_first_and_up_to_the_cores_at_last() -> None:
    assert closed_throughput(1, 4, 0.001, 0.009) == pytest.approx(100)
    assert closed_throughput(1000, 4, 0.001, 0.009) == pytest.approx(4000)
    assert closed_throughput(3, 4, 0.001, 0.0) == 3000
    assert closed_throughput(0, 4, 0.001, 0.009) == 0.0


def test_the_machine_repair_model_gives_the_value_solved_by_hand() -> None:
    # Two clients, one core, work = outside = 1: states 0, 1, 2 have the weights 1, 2, 2.
    assert closed_throughput(2, 1, 1.0, 1.0) == pytest.approx(4 / 5)


@settings(deadline=None)
@given(cores=st.integers(1, 16), work=st.floats(1e-5, 1.0), ratio=st.floats(0.0, 20.0), more=st.floats(1.0, 5.0))
def test_the_knee_of_a_closed_loop_moves_out_with_waits_and_with_cores(
    cores: int, work: float, ratio: float, more: float
) -> None:
    knee = closed_knee(cores, work, ratio * work)

    assert closed_throughput(knee, cores, work, ratio * work) >= 0.97 * cores / work * (1 - 1e-12)
    assert knee == 1 or closed_throughput(knee - 1, cores, work, ratio * work) < 0.97 * cores / work
    assert closed_knee(cores, work, ratio * work * more) >= knee
    assert closed_knee(cores + 1, work, ratio * work) >= knee


@pytest.mark.parametrize(
    ("load", "kept", "share"),
    [
        *[(2, 2, 0.23), (2, 5, 0.028), (2, 8, 0.001), (5, 2, 0.29), (5, 5, 0.091), (5, 10, 0.010)],
        *[(20, 2, 0.32), (20, 5, 0.14), (20, 10, 0.056), (20, 15, 0.021), (20, 20, 0.007), (20, 30, 0.0003)],
        *[(80, 2, 0.33), (80, 10, 0.080), (80, 20, 0.030), (80, 40, 0.004)],
    ],
)
def test_the_share_that_reopens_is_the_simulated_one(load: float, kept: int, share: float) -> None:
    assert reopened_share(load, kept) == pytest.approx(share, rel=0.07, abs=0.0003)


@pytest.mark.parametrize(("kept", "opened"), [(2, 6.445), (5, 2.879)])
def test_the_share_that_reopens_is_that_of_the_markov_chain(kept: int, opened: float) -> None:
    assert 20 * reopened_share(20, kept) == pytest.approx(opened, abs=1e-3)


@settings(deadline=None)
@given(load=st.floats(1e-3, 100.0), kept=st.integers(0, 250))
def test_keeping_more_idle_connections_never_reopens_more(load: float, kept: int) -> None:
    share = reopened_share(load, kept)

    assert 0.0 <= reopened_share(load, kept + 1) <= share + 1e-12
    assert share <= 1.0


def test_without_idle_connections_every_acquire_opens_one() -> None:
    assert reopened_share(5.0, 0) == 1.0
