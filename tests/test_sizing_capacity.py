"""How many connections a database can use, by whatever is known of it."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sizing_curves import CURVES, points, share_of_best

from poolctl.sizing.capacity import Capacity, estimate_capacity
from poolctl.sizing.figures import Figures, Window, assumed, find_shortest_hold, measured
from poolctl.sizing.figures import given as said
from poolctl.sizing.queueing import closed_throughput


def test_nothing_known_is_said_to_be_unknown() -> None:
    found = estimate_capacity(Figures())

    assert (found.value, found.method, found.is_known) == (None, "unknown", False)
    assert "run a sweep" in found.notes[0]


def test_the_cores_alone_give_a_number_that_does_not_pass_for_knowledge() -> None:
    found = estimate_capacity(Figures(cores=said(4)))

    assert (found.value, found.method, found.confidence) == (16, "cores", "low")
    assert found.at_least
    assert not found.is_known


def test_a_figure_that_somebody_gives_is_taken_before_all_others() -> None:
    found = estimate_capacity(Figures(capacity=said(20), cores=said(2), sweep=points(CURVES["cisco"])))

    assert (found.value, found.method, found.confidence) == (20, "given", "high")


def test_a_sweep_is_taken_before_a_model() -> None:
    found = estimate_capacity(
        Figures(cores=said(2), cpu_time=said(0.001), hold_time=said(0.1), sweep=points(CURVES["cisco"]))
    )

    assert (found.value, found.method, found.most) == (24, "sweep", 27)


def test_the_notes_of_a_sweep_name_the_edge_and_the_cliff() -> None:
    assert estimate_capacity(Figures(sweep=points(CURVES["rds_simple"]))).notes == (
        "At least: throughput still rises at 32 connections, the most in the sweep",
    )
    assert estimate_capacity(Figures(sweep=points(CURVES["r8g_simple"]))).notes == (
        "Contention cliff: throughput falls by 31 % from 32 to 100 connections",
    )
    assert estimate_capacity(Figures(sweep=points([(8, 10), (16, 10)]))).notes == (
        "At most: 8 are the fewest in the sweep",
    )


@pytest.mark.parametrize(
    ("name", "at_least"),
    [("rds_simple", 0.90), ("r8g_simple", 0.97), ("local_think", 0.87), ("cisco", 0.90), ("synthetic", 0.98)],
)
def test_twice_the_bandwidth_delay_product_comes_near_the_best(name: str, at_least: float) -> None:
    curve = CURVES[name]
    lightest, best = curve[0], max(x for _, x in curve)
    found = estimate_capacity(
        Figures(saturated_throughput=measured(best), hold_time=measured(lightest[0] / lightest[1]))
    )

    assert (found.method, found.confidence) == ("bandwidth-delay", "medium")
    assert found.value == ceil(2 * best * lightest[0] / lightest[1] - 1e-9)
    assert share_of_best(curve, found.value) >= at_least


def windows(crowded: float) -> tuple[Window, ...]:
    """A closed loop of two cores seen at several numbers of busy connections, up to ``crowded``."""
    seen = [n for n in (2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 36, 40) if n <= crowded]
    return tuple(Window(10.0, closed_throughput(n, 2, 0.001, 0.009), float(n)) for n in seen)


def test_windows_of_a_saturated_database_give_its_bandwidth_delay_product() -> None:
    found = estimate_capacity(Figures(windows=windows(crowded=40)))

    assert found.method == "bandwidth-delay"
    assert found.value == pytest.approx(2 * 2000 * 0.010, abs=2)


def test_windows_of_a_database_that_is_not_saturated_say_nothing_of_its_capacity() -> None:
    assert estimate_capacity(Figures(windows=windows(crowded=12))).method == "unknown"


def test_the_shortest_hold_is_taken_where_the_processors_were_half_idle() -> None:
    seen = (Window(10, 100, 1.0, 1.9), Window(10, 100, 2.0, 0.5), Window(10, 100, 3.0, 0.4))

    assert find_shortest_hold(seen, said(2)) == 0.02
    assert find_shortest_hold(seen, None) == 0.01
    assert find_shortest_hold((Window(10, 0, 0.0),), None) is None


def test_processor_time_and_hold_place_the_knee_of_the_closed_loop() -> None:
    # The network curve: 0.834 ms of work and 4.906 ms elsewhere on two cores.
    found = estimate_capacity(Figures(cores=said(2), cpu_time=measured(0.000834), hold_time=measured(0.00574)))

    assert (found.value, found.method) == (18, "closed-loop")
    assert found.interval == (14, 36)
    assert "13.8 keep them busy at best" in found.notes[0]


def test_the_busy_share_of_the_hold_does_where_the_processor_time_is_not_known() -> None:
    found = estimate_capacity(Figures(cores=said(4), transaction_idle_share=measured(0.5)))

    assert found.method == "busy-share"
    assert found.value is not None
    assert 8 <= found.value <= 16
    assert found.at_least
    assert not found.is_known  # a lower limit cuts no demand


@settings(deadline=None)
@given(cores=st.integers(1, 64), work=st.floats(1e-4, 0.1), ratio=st.floats(0.0, 30.0), more=st.floats(1.0, 4.0))
def test_capacity_grows_with_the_time_spent_elsewhere_and_with_the_cores(
    cores: int, work: float, ratio: float, more: float
) -> None:
    def value(cores: int, elsewhere: float) -> int:
        figures = Figures(cores=said(cores), cpu_time=said(work), hold_time=said(work + elsewhere))
        return estimate_capacity(figures).value or 0

    least = value(cores, ratio * work)
    assert least >= 1
    assert value(cores, ratio * work * more) >= least
    assert value(cores + 1, ratio * work) >= least


PLAIN = Figures(cores=said(8), cpu_time=said(0.01), hold_time=said(0.01))


@pytest.mark.parametrize(
    ("figures", "value", "note"),
    [
        (PLAIN, 8, ""),
        (PLAIN.with_(hold_cv=measured(4)), 24, "long requests among many short ones need 3 x cores"),
        (PLAIN.with_(hold_cv=measured(2)), 8, ""),
        (PLAIN.with_(hold_cv=assumed(4)), 8, ""),
        (PLAIN.with_(parallel_workers=measured(1)), 4, "Divided by 2.0"),
        (
            PLAIN.with_(contention_share=measured(0.3), parallelism_p99=measured(5)),
            5,
            "30 % of active backends wait for locks",
        ),
        (PLAIN.with_(contention_share=measured(0.3), hold_cv=measured(4)), 8, "would not help"),
        (PLAIN.with_(contention_share=measured(0.1), parallelism_p99=measured(5)), 8, ""),
        (PLAIN.with_(is_burstable=True), 8, "has credits"),
        (Figures(cores=said(8), contention_share=measured(0.3), parallelism_p99=measured(5)), 5, "would not help"),
        (Figures(cores=said(8), parallelism_p99=measured(5)), 32, "4 x cores"),
    ],
)
def test_variation_parallel_queries_and_locks_correct_the_model(figures: Figures, value: int, note: str) -> None:
    found = estimate_capacity(figures)

    assert found.value == value
    assert note in " ".join(found.notes)


def test_varied_holds_move_the_answer_of_a_sweep_out_but_never_beyond_its_peak() -> None:
    flat = points([(2, 95), (4, 98), (8, 99), (16, 100), (32, 99)])

    def value(cores: int) -> int | None:
        return estimate_capacity(Figures(sweep=flat, cores=said(cores), hold_cv=measured(4))).value

    assert estimate_capacity(Figures(sweep=flat)).value == 4
    assert value(2) == 8
    assert value(5) == 16
    assert value(12) == 4


def test_a_cliff_forbids_more_than_the_peak() -> None:
    found = estimate_capacity(Figures(sweep=points(CURVES["local_tpcb"]), cores=said(4), hold_cv=measured(4)))

    assert isinstance(found, Capacity)
    assert (found.value, found.most) == (3, 12)
