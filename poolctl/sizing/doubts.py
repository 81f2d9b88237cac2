"""Doubts about a recommended size: each a finding, with the most that it allows for the confidence.

Doubts arise from the measurement, the sweep, missing figures and the fleet. What they leave of the confidence is
decided in ``confidence``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding, Severity
from poolctl.diagnose.slow_database import BUSY_SHARE
from poolctl.sizing.budget import Budget, WorstFleet
from poolctl.sizing.capacity import Capacity
from poolctl.sizing.defaults import may_be_full
from poolctl.sizing.demand import Demand, count_pools, is_lower_limit
from poolctl.sizing.figures import Figures
from poolctl.sizing.knee import FALL
from poolctl.sizing.recommendation import SizeTrust
from poolctl.units import format_duration, percent

DISAGREEMENT = 1.25
"""Ratio of the largest to the smallest estimate of the parallelism. Little's law makes them equal; windows of a minute
scatter by a quarter."""
AGREEING_DIFFERENCE = 0.5
"""Connections by which estimates may differ whatever their ratio is."""
REPORT_DELAY = 1.0
"""Seconds of work that a backend may report late: it reports once a second at most, and when idle after ten. A steady
load has as much of it before the observation as at its end; after a load has fallen, as by a new index, only the
counters have what was done before: 23 s of 36 backends in an observation of 40 s."""
SAMPLES_FOR_P99 = 299
"""Number of independent samples of which none lies above the 99th percentile with a probability of 0.99^299 = 5 %."""
SAMPLES_FOR_P95 = 59
"""The same for the 95th percentile: 0.95^59 = 5 %."""
SAMPLES_FOR_MEAN = 10
"""Independent samples for a mean within a third of itself, from which the size follows."""
LONG_WINDOW = 900.0
"""Seconds. A shorter observation has probably not included the peak."""
CENSORED_SHARE = 0.01
"""Share of the samples with a full pool, above which the demand was probably larger than what was observed."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A finding and its ``cap``, the highest confidence that it allows. None: it is reported and changes nothing."""

    finding: Finding
    cap: SizeTrust | None


def find_doubts(
    figures: Figures, fleet: WorstFleet, budget: Budget, demand: Demand, capacity: Capacity
) -> Iterator[Doubt]:
    """Return all doubts that apply, causes before consequences."""
    if demand.is_measured:
        yield from _doubt_measurement(figures, budget, demand)
    yield from _doubt_sweep(capacity)
    yield from _doubt_missing_figures(figures, demand, capacity)
    yield from _doubt_fleet(figures, fleet, budget)


def _doubt(
    code: str,
    cap: SizeTrust | None,
    summary: str,
    remedy: str = "",
    evidence: Mapping[str, object] | None = None,
) -> Doubt:
    """Build a doubt; without a ``remedy`` it has the catalog's. No SQL: a sizing rests on figures."""
    severity: Severity = "warning" if cap in ("refused", "low") else "info"
    return Doubt(
        build_finding(
            code,
            severity=severity,
            confidence="certain",
            summary=summary,
            evidence=dict(evidence or {}),
            remedy=remedy,
            evidence_sql=None,
        ),
        cap,
    )


def _doubt_measurement(figures: Figures, budget: Budget, demand: Demand) -> Iterator[Doubt]:
    if figures.is_behind_pooler:
        yield _doubt(
            "hidden-by-pooler",
            "refused",
            "A pooler is in between: the server sees its connections, not what the application needs",
        )
    if figures.is_stats_reset:
        yield _doubt(
            "stats-reset",
            "refused",
            "The server's statistics were reset during the observation, so their differences are meaningless",
        )
    estimates = estimate_parallelism(figures)
    if is_disagreement(estimates, _estimate_late_reports(figures)):
        shown = ", ".join(f"{name} {value:.1f}" for name, value in estimates.items())
        # With full processors poolctl itself samples late, and catches less than there is; the counters miss nothing.
        yield _doubt(
            "estimates-disagree",
            "low" if has_full_processors(figures) else "refused",
            f"Estimates of the parallelism are more than 25 % apart: {shown}",
            evidence={name.replace(" ", "_"): value for name, value in estimates.items()},
        )
    if figures.censored_share is not None and figures.censored_share.value > CENSORED_SHARE:
        yield _doubt_censored(figures, budget)
    if figures.held_outside is not None and figures.held_outside.origin == "assumed":
        yield _doubt_hold(figures, demand)
    few = figures.effective_samples
    if few is not None and few < SAMPLES_FOR_P99:
        percentile = "99th" if few >= SAMPLES_FOR_P95 else "95th or 99th"
        yield _doubt(
            "few-samples",
            "low" if few >= SAMPLES_FOR_MEAN else "refused",
            f"{few:.0f} independent samples do not bound the {percentile} percentile ({SAMPLES_FOR_P99} do)",
            evidence={"effective_samples": few, "needed": SAMPLES_FOR_P99},
        )
    if figures.window is not None and figures.window < LONG_WINDOW:
        yield _doubt(
            "peak-unseen",
            "medium",
            f"An observation of {format_duration(figures.window)} has probably not included the peak",
            evidence={"window": figures.window},
        )


def has_full_processors(figures: Figures) -> bool:
    """Return True if the database keeps its cores so busy that no pool could raise the throughput much."""
    return figures.database_cpu is not None and figures.database_cpu.value >= BUSY_SHARE


def _doubt_hold(figures: Figures, demand: Demand) -> Doubt:
    """Say that the server cannot see how long a client holds an idle connection, and between what limits it lies."""
    pools = count_pools(figures)
    least = None if figures.in_use is None else figures.in_use.value / pools
    in_use = figures.in_use_at_most or figures.open_connections
    most = None if in_use is None else in_use.value / pools
    between = "" if least is None or most is None else f": between {least:.3g} and {most:.3g} were in use in each"
    if may_be_full(figures):
        between += ", and if these are all, clients may have waited for more"
    return _doubt(
        "hold-unseen",
        "medium",
        f"Only the server was observed: how long clients hold connections that look idle to it is not known{between}",
        "Give the figures of the pools (--pool-stats: in use, acquires, use time), or --hold-time",
        {"in_use_at_least": least, "in_use_at_most": most, "sized_for": demand.load},
    )


def _doubt_censored(figures: Figures, budget: Budget) -> Doubt:
    share = figures.censored_share.value if figures.censored_share is not None else 0.0
    now = figures.current_max_open.count if figures.current_max_open is not None else None
    larger = 0 if now is None else min(2 * now, budget.value)
    probe = f"max_open {larger}" if now is not None and larger > now else "a larger pool"
    # With full processors a larger pool would show no more demand, only a longer queue inside the database.
    hidden = "" if has_full_processors(figures) else ", and how many is not known: the size is a lower limit"
    what = f"more are needed than observed{hidden}"
    remedy = (
        f"Measure again with {probe}, or give the clients that wait, or their wait times, as the pools report "
        "(--pool-stats)"
    )
    if not is_lower_limit(figures):
        what, remedy = "the clients that waited are counted as demand", "Measure again with the recommended size"
    return _doubt(
        "demand-censored",
        "low",
        f"A pool had every connection in use in {percent(share)} of the samples: {what}",
        remedy,
        {"censored_share": share, "current_max_open": now, "threshold": CENSORED_SHARE},
    )


def estimate_parallelism(figures: Figures) -> dict[str, float]:
    """Return up to three measured estimates of the parallelism: by samples, by counters, by Little's law."""
    found: dict[str, float] = {}
    for name, figure in (("sampled", figures.parallelism), ("counted", figures.parallelism_counted)):
        if figure is not None and figure.origin == "measured":
            found[name] = figure.value
    covered = sum(window.duration for window in figures.windows)
    if covered > 0:
        found["counted"] = sum(window.busy * window.duration for window in figures.windows) / covered
    rate, hold = figures.throughput, figures.hold_time
    if rate is not None and hold is not None and rate.origin == hold.origin == "measured":
        found["throughput x hold"] = rate.value * hold.value
    return found


def is_disagreement(estimates: Mapping[str, float], late: float = 0.0) -> bool:
    """Return True if the estimates, by name, differ by more than measurements of the same quantity do.

    ``late``: the connections by which work of before the observation may raise what is counted above what is sampled.
    """
    return any(
        high > DISAGREEMENT * low and high - low > max(AGREEING_DIFFERENCE, late if name == "sampled" else 0.0)
        for (name, low), (_, high) in permutations(estimates.items(), 2)
    )


def _estimate_late_reports(figures: Figures) -> float:
    if figures.open_connections is None or not figures.window:
        return 0.0
    return figures.open_connections.value * REPORT_DELAY / figures.window


def _doubt_sweep(capacity: Capacity) -> Iterator[Doubt]:
    knee = capacity.knee
    if knee is None:
        return
    if knee.cliff is not None:
        yield _doubt(
            "contention-cliff",
            None,
            f"Throughput falls by {percent(knee.cliff.fall)} between {knee.peak} and {knee.cliff.connections} "
            "connections",
            f"Keep the sum of all pools at {knee.peak} or below; look for hot rows, locks or shared pages",
            {"peak": knee.peak, "connections": knee.cliff.connections, "fall": knee.cliff.fall, "threshold": FALL},
        )
    if knee.at_least:
        more = ", ".join(str(n) for n in knee.next_points)
        yield _doubt(
            "sweep-too-short",
            None,
            f"Throughput still rises at {knee.peak} connections, the most in the sweep: at least that many are useful",
            f"Continue the sweep with {more} connections",
            {"peak": knee.peak, "next_points": list(knee.next_points)},
        )
    if knee.latency_ratio is not None and not 1 / DISAGREEMENT <= knee.latency_ratio <= DISAGREEMENT:
        how = "longer" if knee.latency_ratio > 1 else "shorter"
        factor = max(knee.latency_ratio, 1 / knee.latency_ratio)
        yield _doubt(
            "sweep-inconsistent",
            "low",
            f"The latencies are {how} than connections / throughput, by a factor of {factor:.3g}",
            evidence={"latency_ratio": knee.latency_ratio},
        )


def _doubt_missing_figures(figures: Figures, demand: Demand, capacity: Capacity) -> Iterator[Doubt]:
    if demand.value is None:
        yield _doubt(
            "demand-unknown",
            "medium" if capacity.is_known else "low",
            "The demand of a process is not known: the number is what it may have, not what it needs",
        )
    if not capacity.is_known:
        yield _doubt(
            "capacity-unknown",
            None,
            "The number of connections that the database can use is not known",
        )
    each = figures.connections_per_request
    if each is not None and each.count > 1 and figures.workers is None:
        yield _doubt(
            "self-deadlock",
            "low",
            f"Each request holds {each.count} connections at once, and how many requests run at once is not known",
            f"Give --workers; the pool needs workers x {each.count - 1} + 1, or let a request share one connection",
            {"connections_per_request": each.count},
        )


def _doubt_fleet(figures: Figures, fleet: WorstFleet, budget: Budget) -> Iterator[Doubt]:
    now = figures.current_max_open
    if now is None or now.count * fleet.worst_case_processes <= budget.total:
        return
    total = now.count * fleet.worst_case_processes
    finding = build_finding(
        "fleet-over-budget",
        severity="warning",
        confidence="likely" if budget.is_assumed else "certain",
        summary=f"The present pools can take {total} connections during a deploy, and have {budget.total} slots",
        evidence={
            "max_open": now.count,
            "worst_case_processes": fleet.worst_case_processes,
            "total": total,
            "slots": budget.total,
        },
        remedy=f"Set max_open to {budget.value} or less in each process" if budget.value else "Use a pooler, see below",
        evidence_sql=None,
    )
    yield Doubt(finding, None)
