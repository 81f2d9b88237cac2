"""Which numbers of connections a live sweep measures next, and when it has seen enough.

First upwards by doubling, until more connections have stopped helping; then between the best and the fewest that are
nearly as good, until the steps are small; then the contenders again and again, in random order, until their means can
be told apart. Interleaving matters more than long windows: a machine that becomes slower during a sweep must not make
the last number look bad. Pure: the caller measures.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from random import Random
from statistics import fmean, stdev

ENOUGH = 0.97
"""Share of the best throughput that counts as reached."""

STEP = 1.25
"""Neighbors this close, or next to each other, are not parted any further: the answer may exceed the fewest
connections that are enough by as much (the goal is 1.3)."""

PRECISION = 0.015
"""Standard error of a mean, relative, at which it is known well enough: two such means that differ by 3 % differ for
real two times out of three. More windows cost more of the user's time than they are worth."""

LEAST_WINDOWS, MOST_WINDOWS = 3, 8

Measured = Mapping[int, Sequence[float]]
"""Throughput of each window so far, by number of connections."""


def next_round(measured: Measured, limit: int, random: Random) -> list[int]:
    """The numbers of connections to measure next, one window each, in this order; none when it is enough.

    ``limit``: most connections that may be opened. Raises ValueError when it is below 1.
    """
    if limit < 1:
        raise ValueError("at least one connection is needed to measure anything")
    if upwards := _next_upwards(measured, limit):
        return [upwards]
    means = {n: fmean(rates) for n, rates in measured.items()}
    contenders = _contenders(means)
    between = _next_between(means)
    # A new number is measured beside those it is compared with, for the machine may have changed since.
    wanted = [n for n in contenders if between is not None or not _is_known(measured[n])]
    wanted += [between] if between is not None else []
    random.shuffle(wanted)
    return wanted


def is_precise(measured: Measured) -> bool:
    """Whether the contenders' means are known to ``PRECISION``."""
    means = {n: fmean(rates) for n, rates in measured.items()}
    return all(_error(measured[n]) <= PRECISION for n in _contenders(means))


def _next_upwards(measured: Measured, limit: int) -> int | None:
    """The next of 1, 2, 4, ... and ``limit``; None once two doublings in a row have gained next to nothing."""
    grid = [1 << k for k in range(limit.bit_length()) if 1 << k <= limit]
    if limit > grid[-1]:
        grid.append(limit)
    seen = [fmean(measured[n]) for n in grid if n in measured]
    if len(seen) == len(grid):
        return None
    if len(seen) >= 4 and max(seen[-2:]) < max(seen[:-2]) / ENOUGH:
        return None
    return next(n for n in grid if n not in measured)


def _fewest(means: Mapping[int, float]) -> int:
    best = max(means.values())
    return min(n for n, mean in means.items() if mean >= ENOUGH * best)


def _contenders(means: Mapping[int, float]) -> list[int]:
    """The best, the fewest that are nearly as good, and the neighbor that is not: the answer lies among these."""
    best = max(means, key=lambda n: means[n])
    fewest = _fewest(means)
    below = [n for n in means if n < fewest]
    return sorted({best, fewest, *([max(below)] if below else [])})


def _next_between(means: Mapping[int, float]) -> int | None:
    """A number between the fewest that are enough and the neighbor that is not, or around the best."""
    fewest, best = _fewest(means), max(means, key=lambda n: means[n])
    numbers = sorted(means)
    pairs = [(max((n for n in numbers if n < edge), default=None), edge) for edge in (fewest, best)]
    pairs.append((best, min((n for n in numbers if n > best), default=None) or best))
    for low, high in pairs:
        if low is not None and high > low + 1 and high > low * STEP:
            middle = round(sqrt(low * high))
            return min(max(middle, low + 1), high - 1)
    return None


def _is_known(rates: Sequence[float]) -> bool:
    if len(rates) >= MOST_WINDOWS:
        return True
    return len(rates) >= LEAST_WINDOWS and _error(rates) <= PRECISION


def _error(rates: Sequence[float]) -> float:
    mean = fmean(rates)
    if len(rates) < 2 or mean <= 0:
        return 1.0
    return stdev(rates) / sqrt(len(rates)) / mean
