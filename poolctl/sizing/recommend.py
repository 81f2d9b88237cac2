"""From figures to a recommendation: what is assumed, the three quantities, the division, and how sure it is."""

from math import exp, log
from random import Random
from typing import NamedTuple

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.sizing.answer import HoldTime, Measured, Parallelism, Recommendation, Sizes, Trust
from poolctl.sizing.budget import Budget, WorstFleet, budget_of, worst_fleet
from poolctl.sizing.capacity import Capacity, capacity_of
from poolctl.sizing.causes import causes
from poolctl.sizing.defaults import filled
from poolctl.sizing.demand import LATE_SHARE, Demand, demand_of, hold_of, offered_load, pools_of
from poolctl.sizing.division import Division, Parts, divide, floor_of, most_of_workers
from poolctl.sizing.doubts import doubts
from poolctl.sizing.figures import Figure, Figures, Origin, Window
from poolctl.sizing.knee import Confidence
from poolctl.sizing.lifetimes import lifetimes_of
from poolctl.sizing.pooler import pooler_of
from poolctl.sizing.queueing import servers_for_wait

DRAWS = 200
BLOCK = 10.0
"""Seconds of consecutive windows that are drawn together, so that what lasts stays whole."""
SPREAD: dict[Origin, float] = {"measured": 0.08, "given": 0.08, "assumed": 0.35}
"""Relative deviation of a figure of which nothing else is known: people round, and defaults are guesses."""
CAPACITY_SPREAD: dict[Confidence, float] = {"high": 0.08, "medium": 0.25, "low": 0.50}
TRUST: tuple[Trust, ...] = ("high", "medium", "low", "refused")


def recommend(figures: Figures, *, seed: int = 1) -> Recommendation:
    """The best answer that ``figures`` allow, or a refusal (confidence "refused", no sizes, and findings that say
    why). The same figures and seed give the same answer. Raises BadInput for a sweep in which nothing got done."""
    figures, assumptions = filled(figures)
    fleet = worst_fleet(figures)
    budget = budget_of(figures, fleet)
    demand, capacity = demand_of(figures), capacity_of(figures)
    parts = _parts(figures, budget, demand, capacity)
    division = divide(parts)
    doubted = [*causes(figures, budget, capacity), *doubts(figures, fleet, budget, demand, capacity)]
    caps = [doubt.cap for doubt in doubted if doubt.cap is not None]
    findings = [doubt.finding for doubt in doubted]
    if division.max_open is None:
        findings.insert(0, _infeasible(fleet, budget, parts))
        caps.append("refused")
    interval = (
        None if division.max_open is None else _interval(figures, parts, demand, capacity, division, Random(seed))
    )
    trust = _trust(division, interval, parts, demand, capacity, budget, caps)
    is_refused = trust == "refused"
    max_open = None if is_refused else division.max_open
    now = figures.current_max_open.count if figures.current_max_open is not None else 0
    times = lifetimes_of(
        figures,
        max_open=division.max_open or max(1, now, parts.floor),
        load=demand.load,
        hold_time=demand.hold_time,
        processes=fleet.worst_case_processes,
        slots=budget.total,
    )
    return Recommendation(
        measured=_measured(figures),
        capacity=capacity,
        demand=demand,
        budget=budget,
        fleet=fleet,
        recommendation=Sizes(
            max_open=max_open,
            max_idle=None if is_refused else times.max_idle,
            min_idle=None if is_refused else times.min_idle,
            max_lifetime=times.max_lifetime,
            max_lifetime_jitter=times.max_lifetime_jitter,
            max_idle_time=times.max_idle_time,
            acquire_timeout=times.acquire_timeout,
            interval=None if is_refused else interval,
            confidence=trust,
        ),
        bounds=division.bounds,
        binding=division.binding,
        next_binding=division.next_binding,
        verdict="refused" if is_refused and division.max_open is not None else division.verdict,
        worst_case_connections=None if max_open is None else max_open * fleet.worst_case_processes,
        pooler=pooler_of(figures, fleet, budget, demand, capacity, floor=parts.floor, max_open=division.max_open or 0),
        reasons=times.reasons,
        assumptions=assumptions,
        findings=worst_first(findings),
    )


def _parts(figures: Figures, budget: Budget, demand: Demand, capacity: Capacity) -> Parts:
    # A multiple of the cores says nothing of this database: it must not starve a demand that is known.
    binds = capacity.is_known or demand.value is None
    return Parts(
        demand=demand.value,
        capacity=capacity.value if binds else None,
        most=capacity.most if binds else None,
        pools=pools_of(figures),
        budget=budget.value,
        workers=most_of_workers(figures),
        floor=floor_of(figures),
    )


def _infeasible(fleet: WorstFleet, budget: Budget, parts: Parts) -> Finding:
    needed = fleet.worst_case_processes * parts.floor
    return Finding(
        code="fleet-over-budget",
        severity="critical",
        confidence="likely" if budget.is_assumed else "certain",
        layer="application",
        summary=f"{fleet.worst_case_processes} processes at worst need {parts.floor} connections each, {needed} in "
        f"all, and {budget.total} slots are left for them",
        evidence={
            "worst_case_processes": fleet.worst_case_processes,
            "floor": parts.floor,
            "needed": needed,
            "slots": budget.total,
        },
        remedy=f"A pooler between, fewer processes, or max_connections higher by {needed - budget.total}",
    )


class _Scales(NamedTuple):
    load: float
    hold: float
    variation: float
    capacity: float


def _interval(
    figures: Figures, parts: Parts, demand: Demand, capacity: Capacity, division: Division, random: Random
) -> tuple[int, int] | None:
    """5th and 95th percentile of max_open, when what it stands on is drawn anew: windows in blocks where there are
    windows, each figure with the deviation of its origin otherwise. Always contains max_open itself."""
    point = division.max_open
    if point is None:
        return None
    if parts.demand is None and parts.capacity is None:
        return min(point, parts.floor), point
    # Searching a large pool takes longer, and its relative spread needs fewer draws.
    draws = DRAWS if (demand.load or 0.0) < 500 else DRAWS // 5
    found = sorted(_drawn(figures, parts, demand, capacity, random) for _ in range(draws))
    return min(point, found[draws // 20]), max(point, found[-1 - draws // 20])


def _drawn(figures: Figures, parts: Parts, demand: Demand, capacity: Capacity, random: Random) -> int:
    scales = _scales(figures, demand, capacity, random)
    wanted = None
    if parts.demand is not None and demand.load is not None:
        load, hold = demand.load * scales.load, demand.hold_time
        if figures.windows:
            offered = offered_load(figures.with_(windows=_resampled(figures, random)))
            load = offered.load if offered is not None else load
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
    usable = None if parts.capacity is None else max(1, round(parts.capacity * scales.capacity))
    drawn = divide(Parts(wanted, usable, parts.most, parts.pools, parts.budget, parts.workers, parts.floor))
    return drawn.max_open or 0


def _scales(figures: Figures, demand: Demand, capacity: Capacity, random: Random) -> _Scales:
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
        hold=1.0 if demand.hold_time is None or figures.windows else of(hold_of(figures)),
        variation=of(figures.hold_cv) ** 2,
        capacity=factor(spread),
    )


def _resampled(figures: Figures, random: Random) -> tuple[Window, ...]:
    """As many windows again, drawn in blocks of neighbors (Kuensch 1989, the block bootstrap)."""
    windows = figures.windows
    mean = sum(window.duration for window in windows) / len(windows)
    size = max(1, min(len(windows), round(BLOCK / mean) if mean > 0 else 1))
    drawn: list[Window] = []
    while len(drawn) < len(windows):
        at = random.randrange(len(windows) - size + 1)
        drawn += windows[at : at + size]
    return tuple(drawn[: len(windows)])


def _trust(
    division: Division,
    interval: tuple[int, int] | None,
    parts: Parts,
    demand: Demand,
    capacity: Capacity,
    budget: Budget,
    caps: list[Trust],
) -> Trust:
    """The least of: the width of the interval, what the binding term stands on, and every doubt."""
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


def _measured(figures: Figures) -> Measured:
    def value(figure: Figure | None) -> float | None:
        return None if figure is None else figure.value

    hold = hold_of(figures)
    mean = figures.parallelism or figures.parallelism_counted
    sources = {
        name: figure.origin
        for name in figures.__dataclass_fields__
        if isinstance(figure := getattr(figures, name), Figure)
    }
    return Measured(
        begun_at=figures.observed_at,
        window=figures.window,
        samples=figures.samples,
        effective_samples=figures.effective_samples,
        parallelism=Parallelism(
            value(mean), value(figures.parallelism_p95), value(figures.parallelism_p99), value(figures.parallelism_max)
        ),
        throughput=value(figures.throughput),
        hold_time=HoldTime(value(hold), value(figures.hold_cv)),
        connect_time=value(figures.connect_time),
        workers_per_process=value(figures.workers),
        method=figures.method or ("measured" if figures.samples or figures.windows else "given"),
        sources=dict(sources),
    )
