"""The knee of a throughput curve: the fewest connections that reach nearly all of the throughput.

``find_knee`` reads it from a finished sweep; the result is always a number of connections that was measured, and fits
only say how certain it is and where to measure next.

``choose_next_round`` leads a live sweep to it: first upwards by doubling, until more connections no longer help; then
between the best and the fewest that are nearly as good, until the steps are small; then the contenders again, in random
order, until their means can be distinguished. Interleaving matters more than long windows, because a machine that slows
down during a sweep must not make the last number look bad. Pure: the caller measures.
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

KneeConfidence = Literal["high", "medium", "low"]

SHARE = 0.97
"""Share of the best throughput that the knee must reach. The last 3 % cost a third more connections, and most load
tests scatter by as much."""
FALL = 0.10
"""Share by which a curve falls after its peak, above which it has a contention cliff: more connections do harm."""
NOISE_WITHOUT_REPEATS = 0.02
"""Relative deviation of a window that was measured once: typical of repeated windows of some seconds."""
TRUSTED = 0.10
"""Relative error of the points left out, up to which a fit may choose where to measure next."""
MOST_FITTED = 8
"""Most points in the fit of the closed loop, the nearest to the peak: it takes longer than the law's."""
DRAWS = 400
"""How often the means are drawn again for the interval."""


@dataclass(frozen=True, slots=True)
class Cliff:
    """The throughput at ``connections``, the most in the sweep, is lower than the peak by the share ``fall``."""

    connections: int
    fall: float


@dataclass(frozen=True, slots=True)
class Knee:
    """``connections``: the fewest measured ones with ``SHARE`` of the best. ``peak``: the ones with the best
    throughput.

    ``at_least``: the best was measured at the end of the sweep, so more may be better. ``at_most``: the fewest that
    were measured reach the share already, so fewer may do. ``interval``: measured numbers between which the knee would
    lie with 90 % probability if all windows were repeated. ``gap``: the knee over the next smaller measured number; the
    true knee may lie anywhere between. ``next_points``: what to measure next. ``noise``: relative deviation of one
    window, None if nothing was repeated.
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
    confidence: KneeConfidence
    hold_time: float | None
    """Seconds of a request where the fewest connections were busy: connections / throughput."""
    latency_ratio: float | None
    """Median of latency over connections / throughput; None without latencies. By Little's law it is 1 if each
    connection was always busy."""


def find_knee(points: Sequence[SweepPoint], *, seed: int = 1) -> Knee:
    """Find the knee of a sweep; rows may repeat and have any order. Raises BadInput if no row has any throughput.

    Taken from the means without smoothing. Smoothing them first (isotonic, the Universal Scalability Law, both) was
    tried on 300 curves with 0 to 5 % noise and chose worse at every level; ``interval`` shows the noise instead.
    """
    means = average_points(points)
    values = [point.throughput for point in means]
    if not values or max(values) <= 0:
        raise BadInput("the sweep has no row with any throughput", hint="check that the load test ran at all")
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
    # Rounding errors of a quotient must not turn 97 % into less.
    enough = SHARE * max(values) * (1 - 1e-12)
    return next(place for place, value in enumerate(values) if value >= enough)


def _estimate_noise(points: Sequence[SweepPoint]) -> float | None:
    """Return the relative standard deviation within repeated rows, pooled; None without repeated rows."""
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
    """Return the relative deviation of each mean.

    It is the noise of one window, or the distance of the means from one rise and one fall if that is larger.
    """
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
    """Return the rising sequence with the least squares to ``values``: isotonic regression by pooling adjacent
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
    """Return the places of the knee at 5 and 95 % when each mean is drawn again with its deviation."""
    places = sorted(
        _find_place(
            [value * exp(random.gauss(0.0, deviation)) for value, deviation in zip(values, deviations, strict=True)]
        )
        for _ in range(DRAWS)
    )
    at = _find_place(values)
    return min(at, places[DRAWS // 20]), max(at, places[-1 - DRAWS // 20])


def _find_cliff(means: Sequence[SweepPoint], top: int) -> Cliff | None:
    """Find a smoothed fall after the peak. One bad window that recovers is none."""
    past = [-value for value in fit_rising([-point.throughput for point in means[top:]])]
    fall = 1 - past[-1] / means[top].throughput
    return Cliff(means[-1].connections, fall) if fall > FALL else None


def _choose_next_points(means: Sequence[SweepPoint], at: int, at_least: bool) -> tuple[int, ...]:
    """Choose what to measure next.

    Where the sweep is coarse, the middle between the knee and its neighbors. Beyond the end, where a fit that predicts
    well puts the knee: at least a quarter more and at most twice as many.
    """
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
    """Return the connections, up to ``most``, that reach ``SHARE`` of the best by the law or by the closed loop.

    The one that better predicts points left out is used; ``most`` if neither predicts them within ``TRUSTED``.
    """
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


def _decide_confidence(points: int, spread: float, gap: float, at_least: bool) -> KneeConfidence:
    """Return high within 15 % to both sides and with near neighbors; low where the truth may be twice as far."""
    if at_least or points < 3 or spread > 2.0:
        return "low"
    return "high" if spread <= 1.35 and gap <= 1.5 and points >= 5 else "medium"


STEP = 1.25
"""Ratio of neighbors that are close enough. The result may exceed the fewest sufficient connections by as much (the
goal is 1.3)."""

PRECISION = 0.015
"""Relative standard error at which a mean is known well enough: two such means that differ by 3 % really differ two
times out of three. More windows cost more of the user's time than they are worth."""

LEAST_WINDOWS, MOST_WINDOWS = 3, 8

SweepRates = Mapping[int, Sequence[float]]
"""Throughput of each window so far, by number of connections."""


def choose_next_round(measured: SweepRates, limit: int, random: Random) -> list[int]:
    """Choose the numbers of connections to measure next, one window each, in this order; none when finished.

    ``limit``: most connections that may be opened. Raises ValueError if it is below 1.
    """
    if limit < 1:
        raise ValueError("at least one connection is needed to measure anything")
    if upwards := _choose_upwards(measured, limit):
        return [upwards]
    means = {n: fmean(rates) for n, rates in measured.items()}
    contenders = _find_contenders(means)
    between = _choose_between(means)
    # Measure a new number together with its competitors: the machine may have become slower since their windows.
    wanted = [n for n in contenders if between is not None or not _is_known(measured[n])]
    wanted += [between] if between is not None else []
    random.shuffle(wanted)
    return wanted


def is_precise(measured: SweepRates) -> bool:
    """Return True if the means of the contenders are known to ``PRECISION``."""
    means = {n: fmean(rates) for n, rates in measured.items()}
    return all(_estimate_error(measured[n]) <= PRECISION for n in _find_contenders(means))


def _choose_upwards(measured: SweepRates, limit: int) -> int | None:
    """Choose the next of 1, 2, 4, ... and ``limit``; None once two doublings in a row have gained next to nothing."""
    grid = [1 << k for k in range(limit.bit_length()) if 1 << k <= limit]
    if limit > grid[-1]:
        grid.append(limit)
    rates = [fmean(measured[n]) for n in grid if n in measured]
    if len(rates) == len(grid):
        return None
    if len(rates) >= 4 and max(rates[-2:]) < max(rates[:-2]) / SHARE:
        return None
    return next(n for n in grid if n not in measured)


def _find_fewest(means: Mapping[int, float]) -> int:
    best = max(means.values())
    return min(n for n, mean in means.items() if mean >= SHARE * best)


def _find_contenders(means: Mapping[int, float]) -> list[int]:
    """Find the best, the fewest that are nearly as good, and the neighbor that is not: the knee lies among these."""
    best = max(means, key=lambda n: means[n])
    fewest = _find_fewest(means)
    below = [n for n in means if n < fewest]
    return sorted({best, fewest, *([max(below)] if below else [])})


def _choose_between(means: Mapping[int, float]) -> int | None:
    """Choose a number between the fewest sufficient and the neighbor below, or around the best; None if all steps are
    small."""
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
