"""From figures to a size: the worked division, what binds, how sure it is, and what must always hold."""

import json
from dataclasses import fields
from time import process_time
from typing import Any

import pytest
import recommendations
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sizing_curves import CURVES, fewest, points, share_of_best

from poolctl.sizing.division import Bound, DivisionTerms, divide
from poolctl.sizing.figures import Figure, Figures, TopStatement, Window, assumed, measured
from poolctl.sizing.figures import given as said
from poolctl.sizing.recommend import recommend
from poolctl.sizing.recommendation import Recommendation
from poolctl.sizing.sweep_table import SweepPoint

VECTOR = recommendations.VECTOR.with_(arrival_cv=said(1), connections_per_request=said(1))


def bounds(answer: Recommendation) -> dict[str, int | None]:
    return {bound.term: bound.value for bound in answer.bounds}


def codes(answer: Recommendation) -> list[str]:
    return [finding.code for finding in answer.findings]


def test_the_worked_division_with_a_patient_target_is_balanced() -> None:
    answer = recommend(VECTOR)

    assert bounds(answer) == {"demand": 2, "budget": 2, "capacity": 2, "workers": 4, "floor": 1}
    assert (answer.recommendation.max_open, answer.worst_case_connections) == (2, 72)
    assert (answer.budget.total, answer.fleet.worst_case_processes) == (82, 36)
    assert (answer.binding, answer.next_binding, answer.verdict) == ("demand", "budget", "balanced")
    assert answer.recommendation.interval == (2, 2)
    assert answer.recommendation.confidence == "high"
    assert not answer.pooler.recommended


def test_the_worked_division_with_an_impatient_target_is_short_of_slots() -> None:
    answer = recommend(VECTOR.with_(wait_target=said(0.005)))

    assert bounds(answer)["demand"] == 4
    assert (answer.recommendation.max_open, answer.binding, answer.verdict) == (2, "budget", "slots bind")
    assert answer.pooler.recommended
    assert answer.pooler.app_max_open == 4
    assert answer.pooler.pgbouncer is not None
    assert answer.pooler.pgbouncer.default_pool_size == 16
    assert answer.pooler.pgbouncer.max_client_conn == 173
    assert codes(answer) == ["wait-target-missed"]
    assert "2 connections for 0.6 busy ones, where 4 keep the p99 wait within 5 ms" in answer.findings[0].summary


PARTS = DivisionTerms(demand=10, capacity=100, most=None, pools=4, budget=20, workers=16, floor=1)


@pytest.mark.parametrize(
    ("changes", "max_open", "binding", "next_binding", "verdict"),
    [
        ({}, 10, "demand", "workers", "demand binds"),
        ({"demand": 30}, 16, "workers", "budget", "workers bind"),
        ({"demand": 30, "workers": None}, 20, "budget", "demand", "slots bind"),
        ({"capacity": 20}, 6, "capacity", "demand", "database binds"),
        ({"floor": 12}, 12, "floor", "demand", "floor binds"),
        ({"budget": 0}, None, "budget", "floor", "infeasible"),
        ({"budget": 2, "floor": 3}, None, "budget", "floor", "infeasible"),
        ({"demand": None, "capacity": None}, 16, "workers", "budget", "workers bind"),
        ({"demand": None, "capacity": None, "workers": None}, 20, "budget", None, "slots bind"),
        ({"demand": 16}, 16, "demand", "workers", "balanced"),
        ({"capacity": 20, "most": 20}, 5, "capacity", "demand", "database binds"),
        ({"capacity": 3, "most": 3}, 1, "capacity", "demand", "database binds"),
        ({"capacity": 8, "pools": 1}, 8, "capacity", "demand", "database binds"),
    ],
)
def test_what_binds_is_named_and_what_would_bind_next(
    changes: dict[str, Any], max_open: int | None, binding: str, next_binding: str | None, verdict: str
) -> None:
    parts = DivisionTerms(**{field.name: getattr(PARTS, field.name) for field in fields(PARTS)} | changes)
    found = divide(parts)

    assert (found.max_open, found.binding, found.next_binding, found.verdict) == (
        max_open,
        binding,
        next_binding,
        verdict,
    )
    assert Bound("budget", parts.budget) in found.bounds


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("instances", [None, said(1)])
def test_a_load_test_s_own_table_is_enough_for_a_size(name: str, instances: Figure | None) -> None:
    # 64 connections that were swept are no fewer because nobody said max_connections.
    answer = recommend(Figures(sweep=points(CURVES[name]), instances=instances))

    assert answer.recommendation.max_open == answer.capacity.value
    assert answer.binding == "capacity"
    assert share_of_best(CURVES[name], answer.recommendation.max_open or 0) >= 0.97
    assert (answer.recommendation.max_open or 0) <= 1.3 * fewest(CURVES[name])
    assert "demand-unknown" in codes(answer)


def test_a_swept_capacity_is_divided_over_the_usual_fleet() -> None:
    answer = recommend(Figures(sweep=points(CURVES["r8g_simple"]), instances=said(4), max_connections=said(1000)))

    # 1.2 x 24 over four pools; all of them together at their peak of 32, where the cliff begins.
    assert answer.recommendation.max_open == 8
    assert "contention-cliff" in codes(answer)


def test_with_nothing_known_it_says_the_most_that_fits_and_trusts_it_little() -> None:
    answer = recommend(Figures())

    assert (answer.recommendation.max_open, answer.recommendation.confidence) == (47, "low")
    assert answer.recommendation.interval == (1, 47)
    assert (answer.binding, answer.verdict) == ("budget", "slots bind")
    assert codes(answer) == ["demand-unknown", "capacity-unknown"]
    assert {assumption.name for assumption in answer.assumptions} >= {"max_connections", "instances", "processes"}


@pytest.mark.parametrize(
    ("known", "max_open", "binding"),
    [
        ({"workers": 8}, 8, "workers"),
        ({"cores": 4}, 16, "capacity"),
        ({"cores": 4, "instances": 4, "max_connections": 1000}, 5, "capacity"),
        ({"cores": 64, "workers": 8}, 8, "workers"),
        ({"arrival_rate": 100, "hold_time": 0.01}, 2, "demand"),
        # A multiple of the cores is no reason to let a known demand queue.
        ({"arrival_rate": 1000, "hold_time": 0.01, "cores": 1, "wait_target": 0.01}, 14, "demand"),
    ],
)
def test_a_few_figures_give_the_best_answer_that_they_allow(
    known: dict[str, float], max_open: int, binding: str
) -> None:
    answer = recommend(Figures(**{name: said(value) for name, value in known.items()}))  # type: ignore[arg-type]

    assert (answer.recommendation.max_open, answer.binding) == (max_open, binding)


def test_nested_acquires_set_a_floor_below_which_a_process_could_deadlock_with_itself() -> None:
    known = Figures(arrival_rate=said(10), hold_time=said(0.001), workers=said(3), connections_per_request=said(4))

    assert recommend(known).recommendation.max_open == 10
    assert recommend(known).binding == "floor"
    tight = recommend(known.with_(max_connections=said(20)))
    assert tight.recommendation.max_open is None
    assert (tight.recommendation.confidence, tight.verdict) == ("refused", "infeasible")
    assert codes(tight)[0] == "fleet-over-budget"
    assert tight.pooler.recommended


def test_a_size_below_the_load_is_critical() -> None:
    answer = recommend(VECTOR.with_(arrival_rate=said(1500), max_connections=said(100)))

    assert (answer.recommendation.max_open, answer.demand.load) == (2, 6.0)
    assert (answer.findings[0].code, answer.findings[0].severity) == ("wait-target-missed", "critical")
    assert "the queue grows without limit" in answer.findings[0].summary


@pytest.mark.parametrize(
    ("known", "confidence"),
    [
        ({}, "high"),
        ({"hold_cv": None}, "medium"),
        ({"arrival_rate": None}, "medium"),
        ({"arrival_rate": None, "capacity": None}, "low"),
        ({"max_connections": None, "wait_target": said(0.005)}, "low"),
    ],
)
def test_the_confidence_is_that_of_what_the_size_stands_on(known: dict[str, Any], confidence: str) -> None:
    assert recommend(VECTOR.with_(**known)).recommendation.confidence == confidence


def test_scattered_windows_widen_the_interval() -> None:
    def answer(busy: list[float]) -> Recommendation:
        seen = tuple(Window(10.0, 100.0 * n, n) for n in busy)
        return recommend(Figures(windows=seen, hold_cv=measured(1), max_connections=said(1000), window=1200.0))

    steady = answer([10.0 + 0.1 * (at % 5) for at in range(120)]).recommendation
    rough = answer([2.0 + 18.0 * (at == 60) for at in range(120)]).recommendation

    assert steady.interval is not None
    assert rough.interval is not None
    assert steady.interval[1] - steady.interval[0] <= 1
    assert rough.interval[1] - rough.interval[0] >= 5
    assert (steady.confidence, rough.confidence) == ("high", "low")


def test_the_same_figures_give_the_same_answer() -> None:
    figures = VECTOR.with_(hold_cv=assumed(1.5), arrival_rate=measured(900))

    assert recommend(figures, seed=3) == recommend(figures, seed=3)


EVERYTHING = VECTOR.with_(
    sweep=(SweepPoint(4, 100.0, 0.04), SweepPoint(8, 180.0, 0.044), SweepPoint(16, 185.0)),
    windows=(Window(10.0, 100.0, 1.0, 0.5), Window(10.0, 120.0, 1.3)),
    top_statement=TopStatement("select 1", 0.2, table="t"),
    parallelism=measured(1.2),
    observed_at="2026-01-02T03:04:05+00:00",
    samples=400,
    effective_samples=350.5,
)


@pytest.mark.parametrize("figures", [Figures(), VECTOR, EVERYTHING])
def test_figures_and_answers_go_through_json_and_back(figures: Figures) -> None:
    answer = recommend(figures)

    assert Figures.from_dict(json.loads(json.dumps(figures.to_dict()))) == figures
    assert Recommendation.from_dict(json.loads(json.dumps(answer.to_dict(), allow_nan=False))) == answer


def test_the_answer_has_the_keys_of_the_contract() -> None:
    plain = recommend(EVERYTHING).to_dict()

    assert plain.keys() >= {
        *["measured", "capacity", "demand", "budget", "fleet", "recommendation", "binding", "next_binding", "pooler"],
        "findings",
    }
    assert plain["measured"].keys() >= {
        *["from", "window", "samples", "effective_samples", "parallelism", "throughput", "hold_time", "connect_time"],
        *["workers_per_process", "method"],
    }
    assert plain["measured"]["parallelism"].keys() == {"mean", "p95", "p99", "max"}
    assert plain["measured"]["hold_time"] == {"mean": 0.008, "cv": 2.0}
    assert plain["capacity"].keys() >= {"value", "method", "confidence"}
    assert plain["demand"].keys() >= {"value", "per", "wait_target", "confidence"}
    assert plain["demand"]["per"] == "process"
    assert plain["budget"].keys() >= {"value", "per", "arithmetic"}
    assert all(term.keys() == {"term", "value", "source"} for term in plain["budget"]["arithmetic"])
    assert plain["fleet"].keys() >= {
        *["instances", "processes_per_instance", "surge", "terminating", "worst_case_processes"]
    }
    assert plain["recommendation"].keys() == {
        *["max_open", "max_idle", "min_idle", "max_lifetime", "max_lifetime_jitter", "max_idle_time"],
        *["acquire_timeout", "interval", "confidence"],
    }
    assert plain["pooler"].keys() >= {"recommended", "why", "pgbouncer"}


def some(strategy: st.SearchStrategy[float]) -> st.SearchStrategy[Figure | None]:
    return st.none() | st.builds(Figure, strategy, st.sampled_from(["measured", "given", "assumed"]))


FIGURES = st.builds(
    Figures,
    arrival_rate=some(st.floats(0.0, 2000.0)),
    hold_time=some(st.floats(0.0001, 0.05)),
    hold_cv=some(st.floats(0.0, 5.0)),
    arrival_cv=some(st.floats(0.0, 3.0)),
    wait_target=some(st.floats(0.0, 1.0)),
    workers=some(st.integers(1, 40).map(float)),
    connections_per_request=some(st.integers(1, 4).map(float)),
    processes=some(st.integers(1, 16).map(float)),
    instances=some(st.integers(1, 60).map(float)),
    max_instances=some(st.integers(1, 60).map(float)),
    surge=some(st.integers(0, 20).map(float)),
    terminating=some(st.integers(0, 20).map(float)),
    max_connections=some(st.integers(1, 1000).map(float)),
    other_connections=some(st.integers(0, 300).map(float)),
    headroom=some(st.integers(0, 50).map(float)),
    cores=some(st.integers(1, 64).map(float)),
    cpu_time=some(st.floats(0.0001, 0.05)),
    capacity=some(st.integers(1, 300).map(float)),
    connect_time=some(st.floats(0.001, 0.5)),
    failover_target=some(st.floats(10.0, 3600.0)),
    parallelism=some(st.floats(0.0, 100.0)),
    throughput=some(st.floats(0.0, 5000.0)),
    transaction_idle_share=some(st.floats(0.0, 1.0)),
    lock_share=some(st.floats(0.0, 1.0)),
    contention_share=some(st.floats(0.0, 1.0)),
    censored_share=some(st.floats(0.0, 1.0)),
    current_max_open=some(st.integers(1, 100).map(float)),
)


@settings(deadline=None, max_examples=60)
@given(figures=FIGURES)
@example(figures=Figures(parallelism=said(56.0), throughput=said(3e-307)))
@example(figures=Figures(cores=said(0)))
@example(figures=Figures(cores=said(2), cpu_time=said(0.03), parallelism=said(1.0), throughput=said(3e-307)))
def test_whatever_is_known_the_fleet_fits_the_budget_and_the_floor_is_kept_or_it_is_refused(figures: Figures) -> None:
    answer = recommend(figures)
    sizes = answer.recommendation

    json.dumps(answer.to_dict(), allow_nan=False)
    if sizes.max_open is None:
        assert sizes.confidence == "refused"
        assert any(finding.severity != "info" for finding in answer.findings)
        return
    limits = bounds(answer)
    assert sizes.max_open * answer.fleet.worst_case_processes <= answer.budget.total
    assert sizes.max_open >= (limits["floor"] or 1) >= 1
    assert limits["workers"] is None or sizes.max_open <= limits["workers"]
    assert sizes.interval is not None
    assert sizes.interval[0] <= sizes.max_open <= sizes.interval[1] <= answer.budget.value
    assert sizes.max_idle is not None
    assert sizes.max_idle <= sizes.max_open
    assert sizes.confidence in ("high", "medium", "low")


@settings(deadline=None, max_examples=40)
@given(figures=FIGURES, more=st.floats(1.0, 4.0))
def test_more_slots_never_give_less_and_more_load_never_asks_for_less(figures: Figures, more: float) -> None:
    def max_open(figures: Figures) -> int:
        return recommend(figures).recommendation.max_open or 0

    plain = figures.with_(
        lock_share=None, censored_share=None, current_max_open=None, throughput=None, parallelism=None
    )
    slots = plain.max_connections.value if plain.max_connections is not None else 100.0
    roomy = plain.with_(max_connections=said(int(slots * more)), headroom=said(3))
    assert max_open(roomy) >= max_open(roomy.with_(max_connections=said(int(slots))))
    if plain.arrival_rate is not None:
        busier = plain.with_(arrival_rate=said(plain.arrival_rate.value * more))
        assert max_open(busier) >= max_open(plain)


@pytest.mark.parametrize("rate", [10.0, 1_000.0, 100_000.0])
def test_explicit_figures_answer_in_a_moment(rate: float) -> None:
    began = process_time()
    recommend(VECTOR.with_(arrival_rate=said(rate), max_connections=said(100_000), capacity=None))

    assert process_time() - began < 0.5
