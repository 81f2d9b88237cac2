"""Slots, and what is left of them for each process of the largest fleet."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.errors import BadInput
from poolctl.sizing.budget import Term, compute_budget, find_worst_fleet, is_share, parse_surge
from poolctl.sizing.defaults import choose_headroom, fill_defaults
from poolctl.sizing.figures import Figures, assumed
from poolctl.sizing.figures import given as said

VECTOR = Figures(
    instances=said(8),
    max_instances=said(12),
    surge_share=said(0.25),
    terminating=said(3),
    processes=said(2),
    max_connections=said(100),
    superuser_reserved=said(3),
    reserved=said(0),
    other_connections=said(12),
    headroom=said(3),
)


def test_the_worked_division_leaves_82_slots_and_2_for_each_of_36_processes() -> None:
    figures, assumptions = fill_defaults(VECTOR)
    fleet = find_worst_fleet(figures)
    budget = compute_budget(figures, fleet)

    assert (fleet.surge, fleet.terminating, fleet.worst_case_instances, fleet.worst_case_processes) == (3, 3, 18, 36)
    assert (budget.total, budget.value, budget.limited_by, budget.is_assumed) == (82, 2, "max_connections", False)
    assert {assumption.name for assumption in assumptions} == {
        "hold_cv",
        "arrival_cv",
        "connections_per_request",
        "wait_target",
    }


def test_every_term_says_where_it_comes_from() -> None:
    figures, _ = fill_defaults(VECTOR.with_(superuser_reserved=None))

    assert compute_budget(figures, find_worst_fleet(figures)).arithmetic == (
        Term("max_connections", 100, "given"),
        Term("superuser_reserved_connections", -3, "assumed"),
        Term("reserved_connections", 0, "given"),
        Term("other services", -12, "given"),
        Term("headroom", -3, "given"),
        Term("slots for this service", 82, "computed"),
        Term("max instances", 12, "given"),
        Term("surge", 3, "given"),
        Term("terminating", 3, "given"),
        Term("processes per instance", 2, "given"),
        Term("processes at worst", 36, "computed"),
        Term("slots for each process", 2, "computed"),
    )


def test_what_is_not_given_is_assumed_and_said() -> None:
    figures, assumptions = fill_defaults(Figures())
    fleet = find_worst_fleet(figures)

    # A single instance is there twice while it is replaced.
    assert (fleet.instances, fleet.surge, fleet.terminating, fleet.worst_case_processes) == (1, 1, 0, 2)
    assert compute_budget(figures, fleet).total == 94
    assert compute_budget(figures, fleet).is_assumed
    assert {a.name: a.value for a in assumptions}["max_connections"] == 100
    assert all(assumption.why for assumption in assumptions)


@pytest.mark.parametrize(
    ("instances", "surge", "terminating"), [(1, 1, 0), (2, 1, 1), (4, 1, 1), (5, 2, 2), (12, 3, 3), (100, 25, 25)]
)
def test_a_rollout_surges_by_a_quarter_and_as_many_still_finish(instances: int, surge: int, terminating: int) -> None:
    figures, _ = fill_defaults(Figures(instances=said(instances)))

    assert (figures.surge, figures.terminating) == (assumed(surge), assumed(terminating))


def test_blue_and_green_is_a_surge_of_everything() -> None:
    figures, _ = fill_defaults(Figures(instances=said(6), surge_share=said(1.0)))

    assert find_worst_fleet(figures).worst_case_instances == 12


@pytest.mark.parametrize(("most", "room"), [(20, 3), (100, 3), (101, 4), (500, 15), (1000, 30)])
def test_the_headroom_is_three_or_three_percent(most: int, room: int) -> None:
    assert choose_headroom(most) == room


@pytest.mark.parametrize(
    ("limits", "total", "name"),
    [
        ({}, 82, "max_connections"),
        ({"role_limit": said(50)}, 50, "role limit"),
        ({"role_limit": said(50), "database_limit": said(40)}, 40, "database limit"),
        ({"pooler_limit": said(200)}, 82, "max_connections"),
        ({"other_connections": said(500)}, 0, "max_connections"),
    ],
)
def test_the_tightest_limit_is_the_budget(limits: dict[str, Figures], total: int, name: str) -> None:
    figures, _ = fill_defaults(VECTOR.with_(**limits))
    budget = compute_budget(figures, find_worst_fleet(figures))

    assert (budget.total, budget.limited_by) == (total, name)


@settings(deadline=None)
@given(
    instances=st.integers(1, 200),
    growth=st.integers(0, 100),
    processes=st.integers(1, 64),
    most=st.integers(1, 5000),
    other=st.integers(0, 500),
    share=st.floats(0.0, 1.0),
)
def test_the_worst_fleet_never_takes_more_than_the_budget(
    instances: int, growth: int, processes: int, most: int, other: int, share: float
) -> None:
    figures, _ = fill_defaults(
        Figures(
            instances=said(instances),
            max_instances=said(instances + growth),
            surge_share=said(share),
            processes=said(processes),
            max_connections=said(most),
            other_connections=said(other),
        )
    )
    fleet = find_worst_fleet(figures)
    budget = compute_budget(figures, fleet)

    assert 0 <= budget.value * fleet.worst_case_processes <= budget.total <= most
    assert fleet.worst_case_instances <= 2 * (instances + growth)


@pytest.mark.parametrize(("text", "value"), [("25%", 0.25), ("3", 3.0), (" 100 % ", 1.0), ("0", 0.0)])
def test_a_surge_is_a_count_or_a_percentage(text: str, value: float) -> None:
    assert parse_surge(text) == said(value)
    assert is_share(text) == ("%" in text)


@pytest.mark.parametrize("text", ["", "a quarter", "-1", "2.5", "%", "25%%"])
def test_any_other_surge_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="must be a count or a percentage"):
        parse_surge(text)
