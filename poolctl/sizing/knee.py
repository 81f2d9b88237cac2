"""The knee of a swept curve: the fewest connections that get nearly all of the throughput.

The answer is always a number of connections that was measured. Fits only say how sure it is and where to look next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, fsum, inf, log, sqrt
from random import Random
from statistics import fmean, stdev
from typing import Literal

from poolctl.errors import BadInput
from poolctl.sizing.curves import fit_closed, fit_usl
from poolctl.sizing.sweep_table import SweepPoint, average_points

Confidence = Literal["high", "medium", "low"]

SHARE = 0.97
"""Of the best throughput that the knee has to reach. The last 3 % cost a third more connections and are within the
noise of most load tests."""
FALL = 0.10
"""A curve that falls by more than this past its peak has a contention cliff: more connections do harm."""
NOISE_WITHOUT_REPEATS = 0.02
"""Relative deviation of a window that was measured once: what repeated windows of some seconds typically have."""
TRUSTED = 0.10
"""Relative error of the points left out up to which a fit may say where to measure next."""
MOST_FITTED = 8
"""Points of the closed loop's fit, the nearest to the peak: it takes longer than the law's."""
DRAWS = 400


@dataclass(frozen=True, slots=True)
class Cliff:
    """Throughput at ``connections``, the last that were swept, lies ``fall`` (a share) below the peak."""

    connections: int
    fall: float


@dataclass(frozen=True, slots=True)
class Knee:
    """``connections``: fewest swept ones with ``SHARE`` of the best. ``peak``: those with the best throughput.

    ``at_least``: the best was measured at the edge of the sweep, so more may be better. ``at_most``: the fewest that
    were swept reach it already, so fewer may do. ``interval``: swept numbers
    among which the knee lies with 90 % if the windows were measured again. ``gap``: the knee over the next fewer
    connections that were swept; the true knee may lie anywhere between. ``next_points``: what to measure next.
    ``noise``: relative deviation of one window, None where nothing was repeated.
    """

    connections: int
    throughput: float
    peak: int
    best: float
    at_least: bool
    at_most: bool
    cliff: Cliff | None
    interval: tuple[int, int]
    gap: float
    noise: float | None
    next_points: tuple[int, ...]
    confidence: Confidence
    hold_time: float | None
    """Of a request where the fewest connections were busy: connections / throughput, seconds."""
    latency_ratio: float | None
    """Median of latency over connections / throughput. By Little's law 1 where every connection was always busy;
    None where no latency was measured."""


def find_knee(points: Sequence[SweepPoint], *, seed: int = 1) -> Knee:
    """The knee of a sweep; rows may repeat and stand in any order. Raises BadInput where nothing got done at all.

    Taken from the means as they are. Smoothing them first (isotonic, the Universal Scalability Law, both) was tried
    on 300 curves with 0 to 5 % noise, and chose worse at every level; the noise is told by ``interval`` instead.
    """
    means = average_points(points)
    values = [point.throughput for point in means]
    if not values or max(values) <= 0:
        raise BadInput("the sweep has no row with any throughput", hint="look whether the load test ran at all")
    at = _find_place(values)
    top = max(range(len(values)), key=lambda place: values[place])
    plateau = next(place for place, value in enumerate(values) if value >= 0.99 * values[top])
    at_least = plateau == len(values) - 1
    noise = _estimate_noise(points)
    low, high = _estimate_interval(values, _estimate_deviations(points, means, noise), Random(seed))
    gap = means[at].connections / means[at - 1].connections if at else 1.0
    ratios = sorted(p.latency * p.throughput / p.connections for p in means if p.latency and p.throughput > 0)
    lightest = next(point for point in means if point.throughput > 0)
    return Knee(
        connections=means[at].connections,
        throughput=values[at],
        peak=means[top].connections,
        best=values[top],
        at_least=at_least,
        at_most=at == 0 and means[0].connections > 1,
        cliff=_find_cliff(means, top),
        interval=(means[low].connections, means[high].connections),
        gap=gap,
        noise=noise,
        next_points=_choose_next_points(means, at, at_least),
        confidence=_decide_confidence(len(means), means[high].connections / means[low].connections, gap, at_least),
        hold_time=lightest.latency or lightest.connections / lightest.throughput,
        latency_ratio=ratios[len(ratios) // 2] if ratios else None,
    )


def _find_place(values: Sequence[float]) -> int:
    # Digits that a quotient loses must not turn 97 % into less.
    enough = SHARE * max(values) * (1 - 1e-12)
    return next(place for place, value in enumerate(values) if value >= enough)


def _estimate_noise(points: Sequence[SweepPoint]) -> float | None:
    """Relative standard deviation within repeated rows, pooled."""
    groups: dict[int, list[float]] = {}
    for point in points:
        if point.throughput > 0:
            groups.setdefault(point.connections, []).append(log(point.throughput))
    squares, freedom = 0.0, 0
    for logs in groups.values():
        mean = fsum(logs) / len(logs)
        squares += fsum((value - mean) ** 2 for value in logs)
        freedom += len(logs) - 1
    return sqrt(squares / freedom) if freedom else None


def _estimate_deviations(points: Sequence[SweepPoint], means: Sequence[SweepPoint], noise: float | None) -> list[float]:
    """Of each mean, relative: the noise of one window, or how far the means are from one rise and one fall if that is
    more."""
    rough = _estimate_roughness([point.throughput for point in means])
    window = max(NOISE_WITHOUT_REPEATS if noise is None else noise, rough)
    rows = [sum(point.connections == mean.connections for point in points) for mean in means]
    return [window / sqrt(count) for count in rows]


def _estimate_roughness(values: Sequence[float]) -> float:
    top = max(range(len(values)), key=lambda place: values[place])
    up = fit_rising(values[: top + 1])
    down = [-value for value in fit_rising([-value for value in values[top:]])]
    smooth = [*up[:-1], values[top], *down[1:]]
    parts = [(value / level - 1) ** 2 for value, level in zip(values, smooth, strict=True) if level > 0]
    return sqrt(fsum(parts) / len(parts)) if parts else 0.0


def fit_rising(values: Sequence[float]) -> list[float]:
    """The sequence without a fall that is nearest to ``values`` in squares: isotonic regression by pooling adjacent
    violators (Ayer et al. 1955)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before, size = blocks.pop()
            total, count = total + before, count + size
        blocks.append((total, count))
    return [total / count for total, count in blocks for _ in range(count)]


def _estimate_interval(values: Sequence[float], deviations: Sequence[float], random: Random) -> tuple[int, int]:
    """Places of the knee at 5 and 95 % when each mean is drawn anew with its deviation."""
    places = sorted(
        _find_place(
            [value * exp(random.gauss(0.0, deviation)) for value, deviation in zip(values, deviations, strict=True)]
        )
        for _ in range(DRAWS)
    )
    at = _find_place(values)
    return min(at, places[DRAWS // 20]), max(at, places[-1 - DRAWS // 20])


def _find_cliff(means: Sequence[SweepPoint], top: int) -> Cliff | None:
    """From the smoothed fall past the peak, so that one bad window that recovers is none."""
    past = [-value for value in fit_rising([-point.throughput for point in means[top:]])]
    fall = 1 - past[-1] / means[top].throughput
    return Cliff(means[-1].connections, fall) if fall > FALL else None


def _choose_next_points(means: Sequence[SweepPoint], at: int, at_least: bool) -> tuple[int, ...]:
    """In the middle between the knee and its neighbors, where the sweep is coarse; beyond the edge, where a fit that
    predicts well puts the knee, a quarter farther at least and twice as far at most."""
    wanted = set()
    for left in (at - 1, at):
        if 0 <= left < len(means) - 1:
            fewer, more = means[left].connections, means[left + 1].connections
            if more > max(1.25 * fewer, fewer + 1):
                wanted.add(round(sqrt(fewer * more)))
    if at == 0:
        wanted.add(max(1, means[0].connections // 2))
    if at_least:
        last = means[-1].connections
        wanted.add(max(ceil(1.25 * last), _predict(means, 2 * last)))
    return tuple(sorted(wanted - {point.connections for point in means}))


def _predict(means: Sequence[SweepPoint], most: int) -> int:
    """Connections, up to ``most``, that reach ``SHARE`` of the best by the law or the closed loop, whichever better
    predicts points that it has not seen; ``most`` where neither does within ``TRUSTED``."""
    curve = [(point.connections, point.throughput) for point in means]
    law = fit_usl(curve)
    loop = fit_closed(curve[-MOST_FITTED:])
    law_error, loop_error = (
        inf if fit is None or fit.left_out_error is None else fit.left_out_error for fit in (law, loop)
    )
    if loop is not None and loop_error <= min(law_error, TRUSTED):
        ceiling, curve_of = loop.cores / loop.work, loop.throughput
    elif law is not None and law.peak is not None and law_error <= TRUSTED:
        ceiling, curve_of = law.peak, law.throughput
    else:
        return most
    return next((n for n in range(curve[-1][0], most) if curve_of(n) >= SHARE * ceiling), most)


def _decide_confidence(points: int, spread: float, gap: float, at_least: bool) -> Confidence:
    """High within 15 % to both sides and with neighbors that are near; low where the truth may be twice away."""
    if at_least or points < 3 or spread > 2.0:
        return "low"
    return "high" if spread <= 1.35 and gap <= 1.5 and points >= 5 else "medium"


STEP = 1.25
"""Neighbors this close, or next to each other, are not parted any further: the answer may exceed the fewest
connections that are enough by as much (the goal is 1.3)."""

PRECISION = 0.015
"""Standard error of a mean, relative, at which it is known well enough: two such means that differ by 3 % differ for
real two times out of three. More windows cost more of the user's time than they are worth."""

LEAST_WINDOWS, MOST_WINDOWS = 3, 8

SweepRates = Mapping[int, Sequence[float]]
"""Throughput of each window so far, by number of connections."""


def choose_next_round(measured: SweepRates, limit: int, random: Random) -> list[int]:
    """The numbers of connections to measure next, one window each, in this order; none when it is enough.

    ``limit``: most connections that may be opened. Raises ValueError when it is below 1.
    """
    if limit < 1:
        raise ValueError("at least one connection is needed to measure anything")
    if upwards := _choose_upwards(measured, limit):
        return [upwards]
    means = {n: fmean(rates) for n, rates in measured.items()}
    contenders = _find_contenders(means)
    between = _choose_between(means)
    # A new number is measured beside those it is compared with, for the machine may have changed since.
    wanted = [n for n in contenders if between is not None or not _is_known(measured[n])]
    wanted += [between] if between is not None else []
    random.shuffle(wanted)
    return wanted


def is_precise(measured: SweepRates) -> bool:
    """Whether the contenders' means are known to ``PRECISION``."""
    means = {n: fmean(rates) for n, rates in measured.items()}
    return all(_estimate_error(measured[n]) <= PRECISION for n in _find_contenders(means))


def _choose_upwards(measured: SweepRates, limit: int) -> int | None:
    """The next of 1, 2, 4, ... and ``limit``; None once two doublings in a row have gained next to nothing."""
    grid = [1 << k for k in range(limit.bit_length()) if 1 << k <= limit]
    if limit > grid[-1]:
        grid.append(limit)
    seen = [fmean(measured[n]) for n in grid if n in measured]
    if len(seen) == len(grid):
        return None
    if len(seen) >= 4 and max(seen[-2:]) < max(seen[:-2]) / SHARE:
        return None
    return next(n for n in grid if n not in measured)


def _find_fewest(means: Mapping[int, float]) -> int:
    best = max(means.values())
    return min(n for n, mean in means.items() if mean >= SHARE * best)


def _find_contenders(means: Mapping[int, float]) -> list[int]:
    """The best, the fewest that are nearly as good, and the neighbor that is not: the answer lies among these."""
    best = max(means, key=lambda n: means[n])
    fewest = _find_fewest(means)
    below = [n for n in means if n < fewest]
    return sorted({best, fewest, *([max(below)] if below else [])})


def _choose_between(means: Mapping[int, float]) -> int | None:
    """A number between the fewest that are enough and the neighbor that is not, or around the best."""
    fewest, best = _find_fewest(means), max(means, key=lambda n: means[n])
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
    return len(rates) >= LEAST_WINDOWS and _estimate_error(rates) <= PRECISION


def _estimate_error(rates: Sequence[float]) -> float:
    mean = fmean(rates)
    if len(rates) < 2 or mean <= 0:
        return 1.0
    return stdev(rates) / sqrt(len(rates)) / mean
