"""Replications: the same scenario with other random numbers, and how exactly they give the mean.

Decides which seeds are used and how wide a confidence interval is. Pure arithmetic: runs nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import cos, fsum, pi, sin, sqrt
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of independent replications, within ``low`` and ``high`` with the probability ``CONFIDENCE``.

    They are None for a single replication, which has no variance. ``least`` and ``most``: the extreme replications.
    """

    mean: float
    low: float | None
    high: float | None
    least: float
    most: float
    count: int


def derive_seed(seed: int, number: int) -> int:
    """Return the seed of replication ``number`` (from 0) of a scenario with ``seed``. It never changes.

    Number 0 is the scenario's own seed, so a single run is also the first replication, and ten replications contain
    the first five. The other seeds are the first 48 bits of SHA-256 over "poolctl/replication/SEED/NUMBER". Unlike
    seed + 1, seed + 2, ... they differ for neighboring seeds. Every JSON reader keeps 48 bits exactly.
    """
    if number == 0:
        return seed
    return int.from_bytes(sha256(f"poolctl/replication/{seed}/{number}".encode()).digest()[:6])


def estimate(values: Sequence[float]) -> Estimate:
    """Compute mean and confidence interval: mean +- t(n-1) * sqrt(variance / n), the variance with divisor n - 1.

    Law and Kelton, Simulation Modeling and Analysis, section 4.5. It assumes independent replications and means close
    to a normal distribution. Many percentiles of short runs are not, so their intervals are approximate. Raises
    ValueError for no values.
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
    """Estimate every number that all ``records`` have, in tables nested as theirs.

    The estimate is None if some records have no number there (a pool that was exhausted in one of the runs has no mean
    time of exhaustion). Lists and texts are left out.
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
    """Compute t: a Student variable with ``freedom`` degrees of freedom lies in -t to t with the given ``confidence``.

    Bisection of the exact finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4. Raises ValueError for a confidence
    outside 0 to 1 or without a degree of freedom.
    """
    if not 0.0 < confidence < 1.0 or freedom < 1:
        raise ValueError(f"confidence is between 0 and 1 and freedom 1 or more, not {confidence} and {freedom}")
    # Bisect the angle and not t: the probability grows with both, but only the angle has a bounded range.
    low, high = 0.0, pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _compute_probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return sin(low) / cos(low) * sqrt(freedom)


def _compute_probability(angle: float, freedom: int) -> float:
    """Compute the probability of -t to t, with t = tan(angle) * sqrt(freedom)."""
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
