"""A live sweep's search, on curves whose truth is known."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolctl.sizing.knee import SHARE, choose_next_round, is_precise

Curve = Callable[[int], float]


def usl(alpha: float, beta: float) -> Curve:
    return lambda n: 1000 * n / (1 + alpha * (n - 1) + beta * n * (n - 1))


def search(curve: Curve, limit: int, *, noise: float = 0.0, seed: int = 1) -> dict[int, list[float]]:
    """Everything that was measured, with ``noise`` as the relative deviation of a window."""
    random, measured = Random(seed), dict[int, list[float]]()
    for _ in range(200):
        wanted = choose_next_round(measured, limit, random)
        if not wanted:
            return measured
        for n in wanted:
            measured.setdefault(n, []).append(curve(n) * max(0.1, random.gauss(1, noise)))
    raise AssertionError("the search has no end")


def fewest_enough(curve: Curve, limit: int) -> int:
    best = max(curve(n) for n in range(1, limit + 1))
    return next(n for n in range(1, limit + 1) if curve(n) >= SHARE * best)


def found(measured: dict[int, list[float]]) -> int:
    means = {n: sum(rates) / len(rates) for n, rates in measured.items()}
    return min(n for n, mean in means.items() if mean >= SHARE * max(means.values()))


@given(st.floats(0, 0.3), st.floats(1e-6, 0.02), st.integers(1, 300))
def test_it_comes_close_to_the_fewest_connections_that_are_enough(alpha: float, beta: float, limit: int) -> None:
    curve = usl(alpha, beta)

    answer = found(search(curve, limit))

    best = max(curve(n) for n in range(1, limit + 1))
    assert curve(answer) >= 0.94 * best
    assert answer <= 1.3 * fewest_enough(curve, limit) + 1


@given(st.integers(0, 1000), st.floats(0.0, 0.2))
def test_it_ends_however_noisy_the_machine_is(seed: int, noise: float) -> None:
    measured = search(usl(0.05, 0.001), 200, noise=noise, seed=seed)

    assert sum(map(len, measured.values())) < 120


def test_it_does_not_open_hundreds_of_connections_after_more_have_stopped_helping() -> None:
    assert max(search(usl(0.1, 0.01), 1000)) <= 64


def test_it_goes_to_the_limit_while_more_connections_help() -> None:
    assert max(search(usl(0.0, 1e-9), 100)) == 100


def test_it_never_goes_beyond_the_limit() -> None:
    assert max(search(usl(0.0, 1e-9), 7)) == 7


def test_contenders_are_measured_until_they_are_known() -> None:
    measured = search(usl(0.05, 0.001), 100, noise=0.01)

    assert is_precise(measured)


def test_one_window_is_not_precise() -> None:
    assert not is_precise({1: [100.0], 2: [200.0]})


def test_a_sweep_without_any_connection_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one connection"):
        choose_next_round({}, 0, Random(1))
