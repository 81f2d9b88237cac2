"""Reasons not to believe a number, or not to give one: each a finding, and how far it lowers the confidence."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding, Layer, Severity
from poolctl.sizing.budget import Budget, WorstFleet
from poolctl.sizing.capacity import Capacity
from poolctl.sizing.demand import Demand
from poolctl.sizing.figures import Figures
from poolctl.sizing.knee import FALL
from poolctl.sizing.recommendation import Trust
from poolctl.units import format_duration

DISAGREEMENT = 1.25
"""Largest estimate of the parallelism over the smallest. Little's law makes them equal; a quarter is what windows of
a minute scatter."""
AGREEING_DIFFERENCE = 0.5
"""Connections by which estimates may differ whatever their ratio."""
SAMPLES_FOR_P99 = 299
"""Independent samples without one above the 99th percentile have the probability 0.99^299 = 5 %."""
SAMPLES_FOR_P95 = 59
LONG_WINDOW = 900.0
"""Seconds. A shorter look has probably not seen the peak."""
CENSORED_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Doubt:
    """``cap``: the most that the answer's confidence can be. None: it is said, and changes nothing."""

    finding: Finding
    cap: Trust | None


def find_doubts(
    figures: Figures, fleet: WorstFleet, budget: Budget, demand: Demand, capacity: Capacity
) -> Iterator[Doubt]:
    """All that apply, roots before what follows from them."""
    if demand.is_measured:
        yield from _doubt_measurement(figures, budget)
    yield from _doubt_sweep(capacity)
    yield from _doubt_missing_figures(figures, demand, capacity)
    yield from _doubt_fleet(figures, fleet, budget)


def _doubt(
    code: str,
    cap: Trust | None,
    summary: str,
    remedy: str,
    evidence: Mapping[str, object] | None = None,
    *,
    layer: Layer = "application",
) -> Doubt:
    severity: Severity = "warning" if cap in ("refused", "low") else "info"
    return Doubt(
        build_finding(
            code,
            severity=severity,
            confidence="certain",
            layer=layer,
            summary=summary,
            evidence=dict(evidence or {}),
            remedy=remedy,
            evidence_sql=None,
        ),
        cap,
    )


def _doubt_measurement(figures: Figures, budget: Budget) -> Iterator[Doubt]:
    if figures.is_behind_pooler:
        yield _doubt(
            "hidden-by-pooler",
            "refused",
            "A pooler stands between: the server sees the pooler's connections, not what the application wants",
            "Measure at the pooler (--pgbouncer, --pgpool) or in the application (--pool-stats), or give "
            "--arrival-rate and --hold-time",
            layer="pooler",
        )
    if figures.is_stats_reset:
        yield _doubt(
            "stats-reset",
            "refused",
            "The server's statistics were reset within the window, so their differences mean nothing",
            "Measure again without a reset",
            layer="database",
        )
    estimates = estimate_parallelism(figures)
    if is_disagreement(estimates.values()):
        shown = ", ".join(f"{name} {value:.1f}" for name, value in estimates.items())
        yield _doubt(
            "estimates-disagree",
            "refused",
            f"Estimates of the parallelism are more than 25 % apart: {shown}",
            "Look whether transactions outlast the window, a pooler hides clients, or the filter takes in others",
            {name.replace(" ", "_"): value for name, value in estimates.items()},
        )
    if figures.censored_share is not None and figures.censored_share.value > CENSORED_SHARE:
        yield _doubt_censored(figures, budget)
    few = figures.effective_samples
    if few is not None and few < SAMPLES_FOR_P99:
        percentile = "99th" if few >= SAMPLES_FOR_P95 else "95th or 99th"
        yield _doubt(
            "few-samples",
            "low" if few >= SAMPLES_FOR_P95 else "refused",
            f"{few:.0f} independent samples do not bound the {percentile} percentile ({SAMPLES_FOR_P99} do)",
            "Look longer (--for)",
            {"effective_samples": few, "needed": SAMPLES_FOR_P99},
        )
    if figures.window is not None and figures.window < LONG_WINDOW:
        yield _doubt(
            "peak-unseen",
            "medium",
            f"A look of {format_duration(figures.window)} has probably not seen the peak",
            "Measure over the busiest quarter of an hour, or give --arrival-rate of the peak",
            {"window": figures.window},
        )


def _doubt_censored(figures: Figures, budget: Budget) -> Doubt:
    share = figures.censored_share.value if figures.censored_share is not None else 0.0
    now = figures.current_max_open.count if figures.current_max_open is not None else None
    probe = "a larger pool" if now is None else f"max_open {max(now, min(2 * now, budget.value))}"
    return _doubt(
        "demand-censored",
        "refused" if figures.wait_time is None else "low",
        f"A pool had every connection in use in {share:.0%} of the samples: the demand is more than was seen",
        f"Measure again with {probe}, or give the pools' own wait times (--pool-stats)",
        {"censored_share": share, "current_max_open": now, "threshold": CENSORED_SHARE},
    )


def estimate_parallelism(figures: Figures) -> dict[str, float]:
    """The same quantity in up to three ways, as far as it was measured: by samples, by counters, by Little's law."""
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


def is_disagreement(estimates: Iterable[float]) -> bool:
    values = sorted(estimates)
    if len(values) < 2:
        return False
    return values[-1] > DISAGREEMENT * values[0] and values[-1] - values[0] > AGREEING_DIFFERENCE


def _doubt_sweep(capacity: Capacity) -> Iterator[Doubt]:
    knee = capacity.knee
    if knee is None:
        return
    if knee.cliff is not None:
        yield _doubt(
            "contention-cliff",
            None,
            f"Throughput falls by {knee.cliff.fall:.0%} between {knee.peak} and {knee.cliff.connections} connections",
            f"Never let all pools together have more than {knee.peak}; look for hot rows, locks or shared pages",
            {"peak": knee.peak, "connections": knee.cliff.connections, "fall": knee.cliff.fall, "threshold": FALL},
            layer="database",
        )
    if knee.at_least:
        more = ", ".join(str(n) for n in knee.next_points)
        yield _doubt(
            "sweep-too-short",
            None,
            f"Throughput still rises at {knee.peak} connections, the most that were swept: at least so many are useful",
            f"Sweep on: {more}",
            {"peak": knee.peak, "next_points": list(knee.next_points)},
            layer="database",
        )
    if knee.latency_ratio is not None and not 1 / DISAGREEMENT <= knee.latency_ratio <= DISAGREEMENT:
        how = "longer" if knee.latency_ratio > 1 else "shorter"
        factor = max(knee.latency_ratio, 1 / knee.latency_ratio)
        yield _doubt(
            "sweep-inconsistent",
            "low",
            f"Latencies are {how} than connections / throughput by a factor of {factor:.3g}",
            "Give seconds, or name the column latency_ms; and sweep connections that are always busy, not clients",
            {"latency_ratio": knee.latency_ratio},
        )


def _doubt_missing_figures(figures: Figures, demand: Demand, capacity: Capacity) -> Iterator[Doubt]:
    if demand.value is None:
        yield _doubt(
            "demand-unknown",
            "medium" if capacity.is_known else "low",
            "How many connections a process needs is not known: the number is what it may have, not what it needs",
            "Give --arrival-rate and --hold-time, or measure under the peak",
        )
    if not capacity.is_known:
        yield _doubt(
            "capacity-unknown",
            None,
            "How many connections the database can use is not known",
            "Sweep it (--sweep, --sweep-file): five to seven numbers of connections are enough",
        )
    if figures.is_stationary is False and not figures.windows:
        yield _doubt(
            "load-swings",
            "low",
            "The rate swings for longer than a hundred holds: a pool for the mean queues through every peak",
            "Give --arrival-rate of the peak",
        )
    each = figures.connections_per_request
    if each is not None and each.count > 1 and figures.workers is None:
        yield _doubt(
            "self-deadlock",
            "low",
            f"Each request holds {each.count} connections at once, and how many run at once is not known",
            f"Give --workers; the pool needs workers x {each.count - 1} + 1, or pass the first connection down",
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
        summary=f"The pools as they are can take {total} connections at worst during a deploy, of {budget.total}",
        evidence={
            "max_open": now.count,
            "worst_case_processes": fleet.worst_case_processes,
            "total": total,
            "slots": budget.total,
        },
        remedy=f"max_open {budget.value} at most in each process" if budget.value else "A pooler: see below",
        evidence_sql=None,
    )
    yield Doubt(finding, None)
