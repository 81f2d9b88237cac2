"""Replications: the same scenario under other random numbers, and what their scatter says of the mean.

Decides which seeds are used and how wide an interval is. Pure arithmetic: runs nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import cos, fsum, pi, sin, sqrt
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of independent replications. ``low`` and ``high`` bound it at ``CONFIDENCE``; None: fewer than two
    replications, whose scatter is unknown. ``least`` and ``most`` are the extreme replications themselves."""

    mean: float
    low: float | None
    high: float | None
    least: float
    most: float
    count: int


def derive_seed(seed: int, number: int) -> int:
    """The seed of replication ``number`` (from 0) of a scenario with ``seed``: the same for ever.

    Number 0 is the scenario's own, so that the run already seen is one of them, and more replications contain fewer.
    The others are the first 48 bits of SHA-256 over "poolctl/replication/SEED/NUMBER": unlike seed + 1, seed + 2, ...
    those of neighboring seeds have nothing in common. 48 bits pass through any JSON reader unharmed.
    """
    if number == 0:
        return seed
    return int.from_bytes(sha256(f"poolctl/replication/{seed}/{number}".encode()).digest()[:6])


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and confidence interval: mean +- t(n-1) * sqrt(variance / n), the variance with n - 1 below it.

    Law and Kelton, Simulation Modeling and Analysis, section 4.5. It supposes independent replications and means
    near a normal distribution, which many percentiles of short runs are not: their intervals are approximate.
    Raises ValueError without any value.
    """
    count = len(values)
    if not count:
        raise ValueError("there is no mean of no replications")
    mean = fsum(values) / count
    low = high = None
    if count > 1:
        variance = fsum((value - mean) ** 2 for value in values) / (count - 1)
        half = student_t(CONFIDENCE, count - 1) * sqrt(variance / count)
        low, high = mean - half, mean + half
    return Estimate(mean, low, high, min(values), max(values), count)


def estimate_all(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An estimate for every number that all ``records`` have, in tables nested as theirs.

    None stands where some have a number and some have none (a pool that was exhausted in one run alone has no mean
    moment of exhaustion); lists and text are left out.
    """
    found: dict[str, Any] = {}
    for key in records[0]:
        values = [record.get(key) for record in records]
        if all(isinstance(value, Mapping) for value in values):
            found[key] = estimate_all([value for value in values if isinstance(value, Mapping)])
        elif all(_is_number(value) for value in values):
            found[key] = estimate([float(value) for value in values if value is not None])
        elif all(value is None or _is_number(value) for value in values):
            found[key] = None
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def student_t(confidence: float, freedom: int) -> float:
    """The t that a Student variable with ``freedom`` degrees of freedom stays within, to both sides, with the
    probability ``confidence``. Bisection of the exact finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.

    Raises ValueError for a confidence outside 0 to 1 or without a degree of freedom.
    """
    if not 0.0 < confidence < 1.0 or freedom < 1:
        raise ValueError(f"confidence is between 0 and 1 and freedom 1 or more, not {confidence} and {freedom}")
    # The probability grows with the angle, whose range is bounded where that of t is not.
    low, high = 0.0, pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return sin(low) / cos(low) * sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The probability of -t to t, with t = tan(angle) * sqrt(freedom)."""
    if freedom == 1:
        return 2 * angle / pi
    square = cos(angle) ** 2
    if freedom % 2:
        series = fsum(_terms(cos(angle), square, range(2, freedom - 1, 2)))
        return 2 / pi * (angle + sin(angle) * series)
    return sin(angle) * fsum(_terms(1.0, square, range(1, freedom - 2, 2)))


def _terms(first: float, square: float, factors: Iterable[int]) -> Iterable[float]:
    term = first
    yield term
    for factor in factors:
        term *= square * factor / (factor + 1)
        yield term
