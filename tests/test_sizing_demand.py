"""How many connections a process needs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.sizing.defaults import fill_defaults
from poolctl.sizing.demand import estimate_demand
from poolctl.sizing.figures import Figure, Figures, Window, estimate_hold, measured
from poolctl.sizing.figures import given as said


def figures(**known: Figure | int) -> Figures:
    plain = {name: value if isinstance(value, Figure) else said(value) for name, value in known.items()}
    return fill_defaults(Figures(**plain))[0]  # type: ignore[arg-type]  # every field named here is a Figure


VECTOR = {
    "arrival_rate": said(150),
    "hold_time": said(0.008),
    "hold_cv": said(2),
    "arrival_cv": said(1),
    "processes": said(2),
    "instances": said(8),
}


@pytest.mark.parametrize(("target", "value", "shared"), [(0.050, 2, 12), (0.005, 4, 16), (0.0, 4, 19), (10.0, 1, 10)])
def test_the_demand_of_a_process_and_of_a_shared_pool_follow_the_wait_target(
    target: float, value: int, shared: int
) -> None:
    found = estimate_demand(figures(**VECTOR, wait_target=said(target)))

    assert found.load == pytest.approx(0.6)
    assert found.shared_load == pytest.approx(9.6)
    assert (found.value, found.shared, found.partitioned) == (value, shared, 16 * value)
    assert (found.confidence, found.origin, found.is_measured) == ("high", "given", False)


def test_without_rate_and_hold_the_demand_is_unknown() -> None:
    for known in ({}, {"arrival_rate": said(100)}, {"hold_time": said(0.01)}):
        found = estimate_demand(figures(**known))

        assert (found.value, found.shared, found.partitioned) == (None, None, None)
        assert "--arrival-rate and --hold-time" in found.method


def test_the_wait_target_is_50_ms_or_a_tenth_of_the_request_timeout() -> None:
    assert estimate_demand(figures()).wait_target == 0.050
    assert estimate_demand(figures(request_timeout=said(0.2))).wait_target == pytest.approx(0.020)
    assert estimate_demand(figures(request_timeout=said(30))).wait_target == 0.050


def test_throughput_of_the_whole_service_is_divided_by_its_processes() -> None:
    found = estimate_demand(figures(throughput=measured(1200), hold_time=measured(0.008), instances=8, processes=2))

    assert found.load == pytest.approx(0.6)
    assert found.is_measured


def test_parallelism_alone_keeps_99_of_100_from_waiting_at_all() -> None:
    found = estimate_demand(figures(parallelism=measured(20), instances=10))

    assert (found.load, found.hold_time) == (2.0, None)
    assert (found.value, found.partitioned, found.shared) == (7, 70, 32)


def test_the_busiest_window_is_what_counts_and_the_lightest_gives_the_hold() -> None:
    seen = tuple(Window(10.0, rate, rate * hold) for rate, hold in ((100, 0.01), (200, 0.01), (400, 0.02)))
    found = estimate_demand(figures().with_(windows=seen))

    assert found.load == pytest.approx(8.0)
    assert found.hold_time == pytest.approx(0.01)


def test_a_full_pool_is_sized_for_those_who_wait_as_well() -> None:
    known = {"throughput": measured(100), "hold_time": measured(0.05), "wait_time": measured(0.05)}

    assert estimate_demand(figures(**known)).load == pytest.approx(5.0)
    assert estimate_demand(figures(**known, censored_share=measured(0.3))).load == pytest.approx(10.0)


def test_the_hold_is_given_or_follows_from_busy_over_throughput() -> None:
    seen = figures(parallelism=measured(4), throughput=measured(200))

    assert estimate_hold(seen) == measured(0.02)
    assert estimate_hold(seen.with_(hold_time=said(0.5))) == said(0.5)
    assert estimate_hold(figures(parallelism=measured(4))) is None


def test_a_request_that_holds_two_connections_needs_two_at_least() -> None:
    known = {"arrival_rate": said(1), "hold_time": said(0.001)}

    assert estimate_demand(figures(**known)).value == 1
    assert estimate_demand(figures(**known, connections_per_request=2)).value == 2


@settings(deadline=None)
@given(
    rate=st.floats(0.1, 2000),
    hold=st.floats(1e-4, 0.02),
    cv=st.floats(0.0, 4.0),
    target=st.floats(0.001, 1.0),
    more=st.floats(1.0, 3.0),
)
def test_demand_grows_with_rate_hold_and_variation_and_falls_with_patience(
    rate: float, hold: float, cv: float, target: float, more: float
) -> None:
    def value(rate: float, cv: float, target: float) -> int:
        found = estimate_demand(
            figures(arrival_rate=said(rate), hold_time=said(hold), hold_cv=said(cv), wait_target=said(target))
        )
        return found.value or 0

    least = value(rate, cv, target)
    assert least > rate * hold
    assert value(rate * more, cv, target) >= least
    assert value(rate, cv * more, target) >= least
    assert value(rate, cv, target / more) >= least
