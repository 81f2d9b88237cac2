"""A recommendation is tried before it is called one: which runs show it wrong, and what is said of them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from poolctl.engines.model import simulate
from poolctl.pool import LIBRARIES
from poolctl.scenario.run import Summary
from poolctl.sizing.defaults import fill_defaults
from poolctl.sizing.figures import Figures, given
from poolctl.sizing.recommend import recommend
from poolctl.sizing.recommendation import Recommendation
from poolctl.sizing.verify import WAIT_SLACK, Trial, Verification, judge, plan_trials

FLEET = Figures(
    arrival_rate=given(100), hold_time=given(0.008), hold_cv=given(2), wait_target=given(0.05), workers=given(4),
    processes=given(2), instances=given(8), max_instances=given(12), surge_share=given(0.25), terminating=given(3),
    max_connections=given(100), other_connections=given(12), headroom=given(3), capacity=given(20),
)  # fmt: skip


def prepared(**changes: Any) -> tuple[Figures, Recommendation]:
    figures, _ = fill_defaults(replace(FLEET, **changes))
    return figures, recommend(replace(FLEET, **changes))


def ran(planned: tuple[Trial, ...]) -> list[tuple[Trial, Summary]]:
    return [(trial, simulate(trial.scenario).summary) for trial in planned]


def verified(**changes: Any) -> Verification:
    figures, answer = prepared(**changes)
    return judge(answer, ran(plan_trials(figures, answer)), wait_target=0.05)


def test_a_size_that_meets_its_target_passes() -> None:
    verification = verified()

    assert verification.failures == ()
    assert verification.passed
    assert verification.throughput_share_of_best == pytest.approx(1.0, abs=0.02)


def test_sizes_above_and_below_are_tried_beside_it() -> None:
    figures, answer = prepared(arrival_rate=given(400), wait_target=given(0.005), max_connections=given(1000))
    sizes = [trial.max_open for trial in plan_trials(figures, answer) if trial.moment == "steady"]

    assert answer.recommendation.max_open is not None
    assert min(sizes) < answer.recommendation.max_open < max(sizes)


def test_the_fleet_is_tried_at_its_largest_in_a_deploy_and_through_a_failover() -> None:
    figures, answer = prepared()

    assert {trial.moment for trial in plan_trials(figures, answer)} == {"steady", "largest", "deploy", "failover"}


def test_what_there_is_now_is_tried_beside_it_and_its_refusals_fail_nothing() -> None:
    verification = verified(current_max_open=given(10))

    now = [outcome for outcome in verification.moments if outcome.is_current and outcome.moment == "largest"]
    assert [outcome.refused > 0 for outcome in now] == [True]
    assert verification.passed


def test_a_size_that_the_largest_fleet_has_no_slots_for_is_not_a_recommendation() -> None:
    figures, answer = prepared(arrival_rate=given(400), current_max_open=given(8))
    greedy = replace(answer, recommendation=replace(answer.recommendation, max_open=8))

    verification = judge(greedy, ran(plan_trials(figures, greedy)), wait_target=0.05)

    assert not verification.passed
    assert "the largest fleet can open 288 connections, and there are 82 slots" in verification.failures
    assert any("refuses" in failure for failure in verification.failures)


def test_a_size_at_which_requests_wait_too_long_is_not_a_recommendation() -> None:
    figures, answer = prepared(arrival_rate=given(400), max_connections=given(1000), workers=None, capacity=given(500))
    assert answer.binding == "demand"
    assert answer.recommendation.max_open is not None
    stingy = replace(answer, recommendation=replace(answer.recommendation, max_open=2))

    verification = judge(stingy, ran(plan_trials(figures, stingy)), wait_target=0.05)

    assert not verification.passed


def test_a_wait_that_only_misses_its_target_says_which_size_meets_it() -> None:
    figures, answer = prepared(arrival_rate=given(400), max_connections=given(1000), workers=None, capacity=given(500))
    size = answer.recommendation.max_open or 0
    # A target between the waits of the recommended size and of the next larger one.
    trials = ran(plan_trials(figures, answer))
    waits = {trial.max_open: summary.wait_time.p99 for trial, summary in trials if trial.moment == "steady"}
    target = waits[size] / WAIT_SLACK * 0.9

    verification = judge(answer, trials, wait_target=target)

    assert (verification.passed, verification.is_only_late) == (False, True)
    assert verification.in_time is not None
    assert verification.in_time > size


def test_without_a_known_load_there_is_nothing_to_try() -> None:
    figures, answer = prepared(arrival_rate=None, hold_time=None)

    assert plan_trials(figures, answer) == ()


def test_a_verification_without_runs_has_not_passed() -> None:
    _, answer = prepared()

    assert not judge(answer, [], wait_target=0.05).passed


@examples(st.sampled_from(sorted(LIBRARIES)), st.floats(1, 2000), st.floats(0.0005, 2), st.floats(0, 4))
@settings(max_examples=40, deadline=None)
def test_every_pool_and_load_makes_scenarios_that_are_accepted(
    kind: str, rate: float, hold: float, variation: float
) -> None:
    figures, answer = prepared(arrival_rate=given(rate), hold_time=given(hold), hold_cv=given(variation))

    assert all(trial.scenario.load.rate for trial in plan_trials(figures, answer, kind))
