"""Statistics of counts that were sampled one after the other: their spread, and how many independent ones they are."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from statistics import fmean
from typing import NamedTuple


class CountSpread(NamedTuple):
    """``p95`` and ``p99`` are the smallest counts that so many samples do not exceed."""

    mean: float
    p95: float
    p99: float
    largest: float


def summarize_counts(counts: Sequence[int]) -> CountSpread | None:
    """Return mean, percentiles and maximum of ``counts``; None without any."""
    if not counts:
        return None
    ordered = sorted(counts)

    def quantile(share: float) -> float:
        return ordered[max(0, ceil(share * len(ordered)) - 1)]

    return CountSpread(fmean(counts), quantile(0.95), quantile(0.99), ordered[-1])


def effective_samples(counts: Sequence[int]) -> float:
    """Return how many independent samples ``counts`` are worth.

    n (1 - r1) / (1 + r1), where r1 is the lag-1 autocorrelation: the variance of the mean of an AR(1) series (Bayley
    and Hammersley 1946). Never more than n. Samples of a system that never changes are worth one.
    """
    n = len(counts)
    if n < 3:
        return float(n)
    mean = fmean(counts)
    total = sum((x - mean) ** 2 for x in counts)
    if total == 0:
        return 1.0
    r1 = sum((x - mean) * (y - mean) for x, y in pairwise(counts)) / total
    r1 = min(max(r1, 0.0), 0.999)
    return max(1.0, n * (1 - r1) / (1 + r1))
