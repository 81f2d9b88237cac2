"""Fits of throughput curves against the values that others published for them."""

from math import exp, inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sizing_curves import CISCO, CURVES, RAY_TRACER, RDS, SPEC_SDM91, SYNTHETIC, Curve

from poolctl.sizing.curves import fit_closed, fit_usl
from poolctl.sizing.least_squares import minimize, solve
from poolctl.sizing.queueing import closed_throughput


@pytest.mark.parametrize(
    ("curve", "gamma", "alpha", "beta", "peak_at"),
    [
        (SPEC_SDM91, 89.9952, 0.02773, 1.0437e-4, 96.52),
        (RAY_TRACER[:6], 20.856, 0.02444, 0.00163, 24.49),
        (RAY_TRACER, 21.849, 0.0578, 0.0, None),
        (SYNTHETIC, 1.0, 0.02, 0.02, 7.0),
        (CISCO, 995.6486, 0.02671591, 7.690945e-4, 35.57),
    ],
)
def test_the_universal_scalability_law_is_fitted_as_published(
    curve: Curve, gamma: float, alpha: float, beta: float, peak_at: float | None
) -> None:
    fit = fit_usl(curve, residual="plain")

    assert fit is not None
    assert fit.gamma == pytest.approx(gamma, rel=1e-4)
    assert fit.alpha == pytest.approx(alpha, rel=1e-3)
    assert fit.beta == pytest.approx(beta, rel=4e-3, abs=1e-12)
    assert fit.peak_at == (None if peak_at is None else pytest.approx(peak_at, rel=1e-3))


def test_the_fit_of_the_cisco_data_predicts_what_usl4j_predicts() -> None:
    fit = fit_usl(CISCO, residual="plain")

    assert fit is not None
    assert fit.throughput(20) == pytest.approx(11063.63, abs=0.01)
    assert fit.throughput(35) == pytest.approx(12341.75, abs=0.01)
    assert 20 / fit.throughput(20) == pytest.approx(0.00180772, abs=1e-8)


def test_the_low_points_of_a_curve_put_its_peak_far_too_high() -> None:
    few = fit_usl(CISCO[:8], residual="plain")

    assert few is not None
    assert few.peak_at == pytest.approx(56.4, abs=0.1)
    assert few.peak == pytest.approx(17844, abs=1)


def test_contention_puts_a_ceiling_on_a_curve() -> None:
    fit = fit_usl(SPEC_SDM91, residual="plain")

    assert fit is not None
    assert 1 / fit.alpha == pytest.approx(36.06, abs=0.01)


@pytest.mark.parametrize("name", ["synthetic", "cisco", "r8g_simple", "rds_simple"])
def test_most_curves_are_smoothed_within_a_few_percent_and_predict_what_is_left_out(name: str) -> None:
    fit = fit_usl(CURVES[name])

    assert fit is not None
    assert fit.relative_error < 0.03
    assert fit.left_out_error is not None
    assert fit.left_out_error < 0.06


def test_strong_contention_is_told_by_the_error_of_the_points_left_out() -> None:
    fit = fit_usl(CURVES["local_tpcb"])

    assert fit is not None
    assert fit.left_out_error is not None
    assert fit.left_out_error > 0.10


@settings(deadline=None)
@given(gamma=st.floats(0.1, 1e5), alpha=st.floats(0.0, 0.5), beta=st.floats(0.0, 0.02), seed=st.integers(0, 1000))
def test_a_curve_of_the_law_gives_its_parameters_back(gamma: float, alpha: float, beta: float, seed: int) -> None:
    counts = Random(seed).sample(range(1, 120), 8)
    curve = [(n, gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))) for n in counts]
    fit = fit_usl(curve)

    assert fit is not None
    for n, x in curve:
        assert fit.throughput(n) == pytest.approx(x, rel=1e-3)


def test_the_closed_loop_fits_the_network_curve_with_the_published_times() -> None:
    fit = fit_closed(RDS, cores=2)

    assert fit is not None
    assert fit.work == pytest.approx(0.834e-3, abs=1e-6)
    assert fit.outside == pytest.approx(4.906e-3, abs=2e-6)
    assert fit.relative_error < 0.019


def test_the_closed_loop_finds_the_cores_where_nobody_tells_them() -> None:
    curve = [(n, closed_throughput(n, 4, 0.002, 0.006)) for n in (1, 2, 4, 8, 12, 16, 24, 32)]
    fit = fit_closed(curve)

    assert fit is not None
    assert fit.cores == 4
    assert fit.relative_error < 1e-4


@pytest.mark.parametrize("curve", [[], [(4, 100.0)], [(1, 5.0), (2, 9.0)], [(1, 0.0), (2, 0.0), (3, 0.0)]])
def test_too_few_points_fit_nothing(curve: Curve) -> None:
    assert fit_usl(curve) is None
    assert fit_closed(curve) is None


def test_least_squares_finds_an_exponential_and_keeps_a_bound() -> None:
    times = [0.1 * k for k in range(30)]
    data = [3.0 * exp(-1.5 * t) + 0.5 for t in times]

    at, left = minimize(
        lambda p: [p[0] * exp(-p[1] * t) + p[2] - x for t, x in zip(times, data, strict=True)],
        (1.0, 1.0, 0.0),
        (-inf, -inf, -inf),
    )
    bounded, _ = minimize(lambda p: [p[0] + 2.0, p[1] - 1.0], (5.0, 5.0), (0.0, 0.0))

    assert at == pytest.approx((3.0, 1.5, 0.5))
    assert left < 1e-12
    assert bounded == pytest.approx((0.0, 1.0))


def test_equations_without_a_single_solution_have_none() -> None:
    assert solve([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0]) is None
    assert solve([[0.0, 2.0], [1.0, 1.0]], [4.0, 3.0]) == pytest.approx([1.0, 2.0])
