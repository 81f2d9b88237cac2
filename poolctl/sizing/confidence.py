"""The confidence in a recommended size: how far the size moves when the figures behind it are drawn again.

Decides the interval (5th to 95th percentile) and the level of confidence. The reasons to doubt a figure at all are
found elsewhere (``doubts``, ``causes``); here they only set an upper bound on the level.
"""

from math import exp, log
from random import Random
from typing import NamedTuple

from poolctl.sizing.budget import Budget
from poolctl.sizing.capacity import Capacity
from poolctl.sizing.defaults import may_be_full
from poolctl.sizing.demand import LATE_SHARE, Demand, count_pools, estimate_load, is_lower_limit
from poolctl.sizing.division import Division, DivisionTerms, divide
from poolctl.sizing.figures import Figure, Figures, Origin, Window, estimate_hold
from poolctl.sizing.knee import KneeConfidence
from poolctl.sizing.queueing import servers_for_wait
from poolctl.sizing.recommendation import SizeTrust

DRAWS = 200
"""How often the figures are drawn again."""


BLOCK = 10.0


"""Seconds of consecutive windows that are drawn together, so that longer patterns stay whole."""


SPREAD: dict[Origin, float] = {"measured": 0.08, "given": 0.08, "assumed": 0.35}


"""Relative standard deviation of a figure without other evidence: users round, and defaults are guesses."""


CAPACITY_SPREAD: dict[KneeConfidence, float] = {"high": 0.08, "medium": 0.25, "low": 0.50}
"""The same for the capacity, by its confidence."""


HIDDEN = 2
"""Times the size of a full pool, up to which the next measurement looks for the demand that it hides."""


TRUST: tuple[SizeTrust, ...] = ("high", "medium", "low", "refused")
"""The levels of confidence, from best to worst."""


class _Scales(NamedTuple):
    """Factors of one draw."""

    load: float
    hold: float
    variation: float
    capacity: float
    outside: float
    """Of load and hold together: how much longer clients hold connections than was assumed."""


def estimate_interval(
    figures: Figures, parts: DivisionTerms, demand: Demand, capacity: Capacity, division: Division, random: Random
) -> tuple[int, int] | None:
    """Return the 5th and 95th percentile of max_open when the figures behind it are drawn again; None without a size.

    Windows are drawn in blocks, other figures with the deviation of their origin. The interval always contains
    max_open.
    """
    point = division.max_open
    if point is None:
        return None
    if parts.demand is None and parts.capacity is None:
        return min(point, parts.floor), point
    # A search for a large pool takes longer, and its relative spread needs fewer draws.
    draws = DRAWS if (demand.load or 0.0) < 500 else DRAWS // 5
    found = sorted(_draw_size(figures, parts, demand, capacity, random) for _ in range(draws))
    most = found[-1 - draws // 20]
    if is_lower_limit(figures) or may_be_full(figures):
        now = figures.current_max_open.count if figures.current_max_open is not None else 0
        most = max(most, min(parts.budget, HIDDEN * max(now, point)))
    return min(point, found[draws // 20]), max(point, most)


def _draw_size(figures: Figures, parts: DivisionTerms, demand: Demand, capacity: Capacity, random: Random) -> int:
    scales = _draw_scales(figures, demand, capacity, random)
    wanted = None
    if parts.demand is not None and demand.load is not None:
        load, hold = demand.load * scales.load, demand.hold_time
        if figures.windows:
            offered = estimate_load(figures.with_(windows=_resample(figures, random)))
            load = offered.load if offered is not None else load
        load, hold = load * scales.outside, None if hold is None else hold * scales.outside
        if hold is not None:
            wanted = servers_for_wait(
                load * scales.hold,
                hold * scales.hold,
                demand.wait_target,
                share=LATE_SHARE,
                arrival_c2=demand.arrival_c2,
                hold_c2=demand.hold_c2 * scales.variation,
            )
        else:
            wanted = servers_for_wait(load, 1.0, 0.0, share=LATE_SHARE)
    if wanted is not None and demand.value is not None and parts.demand is not None and parts.demand < demand.value:
        wanted = min(wanted, parts.demand)
    usable = None if parts.capacity is None else max(1, round(parts.capacity * scales.capacity))
    drawn = divide(
        DivisionTerms(wanted, usable, parts.most, parts.pools, parts.budget, parts.workers, parts.floor, parts.in_use)
    )
    return drawn.max_open or 0


def _draw_scales(figures: Figures, demand: Demand, capacity: Capacity, random: Random) -> _Scales:
    def factor(deviation: float) -> float:
        return exp(random.gauss(0.0, deviation))

    def of(figure: Figure | None) -> float:
        return factor(SPREAD[figure.origin if figure is not None else "assumed"])

    rate = figures.arrival_rate or figures.throughput or figures.parallelism
    spread = CAPACITY_SPREAD[capacity.confidence]
    if capacity.interval is not None and capacity.interval[0] > 0:
        # From 5 to 95 % of a normal distribution are 3.29 deviations.
        spread = log(max(1.0, capacity.interval[1] / capacity.interval[0])) / 3.29
    return _Scales(
        load=1.0 if figures.windows else of(rate),
        hold=1.0 if demand.hold_time is None or figures.windows else of(estimate_hold(figures)),
        variation=of(figures.hold_cv) ** 2,
        capacity=factor(spread),
        outside=_draw_outside(figures, demand, random),
    )


def _draw_outside(figures: Figures, demand: Demand, random: Random) -> float:
    """Draw how long clients hold connections that look idle to the server, relative to what was assumed.

    Anything is possible from nothing at all up to all that may have been in use being in use all the time.
    """
    assumed, in_use = figures.held_outside, figures.in_use_at_most or figures.open_connections
    if assumed is None or assumed.origin != "assumed" or not demand.load:
        return 1.0
    most = 1.0 if in_use is None else in_use.value / count_pools(figures) / demand.load
    return random.uniform(1.0 / (1.0 + assumed.value), max(1.0, most))


def _resample(figures: Figures, random: Random) -> tuple[Window, ...]:
    """Draw as many windows again, in blocks of neighbors (the block bootstrap, Kuensch 1989)."""
    windows = figures.windows
    mean = sum(window.duration for window in windows) / len(windows)
    size = max(1, min(len(windows), round(BLOCK / mean) if mean > 0 else 1))
    drawn: list[Window] = []
    while len(drawn) < len(windows):
        at = random.randrange(len(windows) - size + 1)
        drawn += windows[at : at + size]
    return tuple(drawn[: len(windows)])


def decide_trust(
    division: Division,
    interval: tuple[int, int] | None,
    parts: DivisionTerms,
    demand: Demand,
    capacity: Capacity,
    budget: Budget,
    caps: list[SizeTrust],
) -> SizeTrust:
    """Return the lowest of: what the width of the interval allows, what the deciding term allows, and every doubt."""
    found = [*caps]
    if interval is not None and division.max_open is not None:
        away = max(division.max_open - interval[0], interval[1] - division.max_open)
        relative = away / division.max_open
        found.append("high" if away <= 1 or relative <= 0.15 else "medium" if relative <= 0.35 else "low")
    if parts.demand is not None:
        found.append(demand.confidence)
    if division.binding == "capacity":
        found.append(capacity.confidence)
    if division.binding == "budget" and budget.is_assumed:
        found.append("low")
    return max(found, key=TRUST.index, default="low")
