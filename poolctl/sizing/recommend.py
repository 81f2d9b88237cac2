"""The recommendation: made from figures, then revised by a diagnosis and a verification.

``recommend`` fills in defaults, estimates demand, capacity and budget, divides them, and decides the confidence. The
functions below it turn a finished recommendation into a refusal, if a diagnosis of the same observation or a trial of
the size speaks against it.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from random import Random
from typing import TYPE_CHECKING, Any

from poolctl.diagnose.catalog import MOOT_BESIDE_CAUSE, MOOT_IN_REFUSAL, build_finding
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.sizing.budget import Budget, WorstFleet, compute_budget, find_worst_fleet
from poolctl.sizing.capacity import Capacity, estimate_capacity
from poolctl.sizing.causes import bound_gain, compute_speedup, find_causes, write_gain
from poolctl.sizing.confidence import decide_trust, estimate_interval
from poolctl.sizing.defaults import fill_defaults
from poolctl.sizing.demand import Demand, count_pools, estimate_demand
from poolctl.sizing.division import Binding, Division, DivisionTerms, compute_floor, count_worker_connections, divide
from poolctl.sizing.doubts import find_doubts, has_full_processors
from poolctl.sizing.figures import Figure, Figures, estimate_hold
from poolctl.sizing.lifetimes import Lifetimes, choose_lifetimes
from poolctl.sizing.pooler import plan_pooler
from poolctl.sizing.queueing import wait_tail
from poolctl.sizing.recommendation import HoldTime, Measured, Parallelism, Recommendation, Sizes, SizeTrust
from poolctl.units import format_duration, percent, plural


def recommend(figures: Figures, *, seed: int = 1) -> Recommendation:
    """Return the best recommendation that ``figures`` allow.

    If no size can be recommended, its confidence is "refused", it has no sizes, and its findings say why. The same
    figures and seed give the same result. Raises BadInput for a sweep without any throughput, and for a limit of a
    connection's age that no library could keep.
    """
    figures, assumptions = fill_defaults(figures)
    fleet = find_worst_fleet(figures)
    budget = compute_budget(figures, fleet)
    demand, capacity = estimate_demand(figures), estimate_capacity(figures)
    parts = _collect_parts(figures, budget, demand, capacity)
    division = divide(parts)
    findings, caps = _find_doubts(figures, fleet, budget, demand, capacity, parts, division)
    capacity = _note_in_use(capacity, parts, division)
    interval = estimate_interval(figures, parts, demand, capacity, division, Random(seed))
    trust = decide_trust(division, interval, parts, demand, capacity, budget, caps)
    is_refused = trust == "refused"
    max_open = None if is_refused else division.max_open
    times = _choose_lifetimes(figures, fleet, budget, demand, parts, division)
    return Recommendation(
        measured=_collect_measured(figures),
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
        pooler=plan_pooler(figures, fleet, budget, demand, capacity, parts, max_open=division.max_open or 0),
        reasons=times.reasons,
        assumptions=assumptions,
        findings=worst_first(findings),
    )


def _find_doubts(
    figures: Figures,
    fleet: WorstFleet,
    budget: Budget,
    demand: Demand,
    capacity: Capacity,
    parts: DivisionTerms,
    division: Division,
) -> tuple[list[Finding], list[SizeTrust]]:
    """Return all findings, and what each allows for the confidence."""
    found = [*find_causes(figures, budget, capacity), *find_doubts(figures, fleet, budget, demand, capacity)]
    findings = [doubt.finding for doubt in found]
    caps = [doubt.cap for doubt in found if doubt.cap is not None]
    if division.max_open is None:
        return [_find_infeasible(fleet, budget, parts), *findings], [*caps, "refused"]
    is_full = has_full_processors(figures) and any(each.code == "slow-database" for each in findings)
    if demand.value is not None and division.max_open < demand.value and not is_full:
        findings.append(_find_missed_target(division.max_open, demand, division))
    return findings, caps


def _choose_lifetimes(
    figures: Figures, fleet: WorstFleet, budget: Budget, demand: Demand, parts: DivisionTerms, division: Division
) -> Lifetimes:
    """Choose lifetimes for the recommended pool; for the present one, if no size is recommended."""
    now = figures.current_max_open.count if figures.current_max_open is not None else 0
    return choose_lifetimes(
        figures,
        max_open=division.max_open or max(1, now, parts.floor),
        load=demand.load,
        hold_time=demand.hold_time,
        processes=fleet.worst_case_processes,
        slots=budget.total,
    )


def _collect_parts(figures: Figures, budget: Budget, demand: Demand, capacity: Capacity) -> DivisionTerms:
    # A multiple of the cores says nothing about this database, so it must not limit a demand that is known.
    binds = capacity.is_known or demand.value is None
    in_use, wanted = _find_in_use(figures, capacity), demand.value
    if wanted is not None and in_use is not None and has_full_processors(figures):
        # Holds that were measured with full processors contain the wait for a core, so the demand is overestimated:
        # what was in use carries all that the processors can do. The server sees a part of that only.
        longer = 1.0 if figures.held_outside is None else 1.0 + figures.held_outside.value
        wanted = min(wanted, max(ceil(in_use * longer - 1e-9), compute_floor(figures)))
    return DivisionTerms(
        demand=wanted,
        capacity=capacity.value if binds else None,
        most=capacity.most if binds else None,
        pools=count_pools(figures),
        budget=budget.value,
        workers=count_worker_connections(figures),
        floor=compute_floor(figures),
        in_use=in_use,
    )


def _find_in_use(figures: Figures, capacity: Capacity) -> int | None:
    """Return the connections that each process had in use on average, rounded up; None where that is no lower limit.

    A sweep, or the user, may know that a database gets as much done with fewer: what is in use beyond its capacity
    only queues inside it. An estimated capacity is no reason for a pool that cannot carry the measured load.
    """
    if figures.in_use is None or capacity.method in ("given", "sweep"):
        return None
    return ceil(figures.in_use.value / count_pools(figures) - 1e-9)


def _note_in_use(capacity: Capacity, parts: DivisionTerms, division: Division) -> Capacity:
    """Add a note where more connections than the estimated capacity were in use on average."""
    share = parts.share
    if share is None or parts.in_use is None or division.max_open is None or division.max_open <= share:
        return capacity
    note = f"Not the limit: {parts.in_use} connections were in use in each process on average, which a pool must carry"
    return replace(capacity, notes=(*capacity.notes, note))


def _find_infeasible(fleet: WorstFleet, budget: Budget, parts: DivisionTerms) -> Finding:
    least = max(parts.floor, parts.in_use or 0)
    needed, each = fleet.worst_case_processes * least, plural(least, "connection")
    why = "need" if least == parts.floor else "use on average"
    return build_finding(
        "fleet-over-budget",
        severity="critical",
        confidence="likely" if budget.is_assumed else "certain",
        summary=f"{fleet.worst_case_processes} processes at worst {why} {each} each, {needed} in all, and "
        f"{budget.total} slots are left for them",
        evidence={
            "worst_case_processes": fleet.worst_case_processes,
            "floor": parts.floor,
            "in_use": parts.in_use,
            "needed": needed,
            "slots": budget.total,
        },
        remedy=f"Use a pooler, fewer processes, or raise max_connections by {needed - budget.total}",
        evidence_sql=None,
    )


_MORE: dict[Binding, str] = {
    "budget": "Shorten the holds, or give each process more slots: a pooler, fewer processes, a higher max_connections",
    "capacity": "Shorten the holds, or make the database faster: more connections than it can use only queue inside it",
    "workers": "Add workers, or shorten the holds: the present workers cannot hold more connections at once",
}


def _find_missed_target(max_open: int, demand: Demand, division: Division) -> Finding:
    """Describe what happens with a pool that is smaller than its process needs, because another term limits it."""
    load, hold = demand.load or 0.0, demand.hold_time
    late = wait_tail(
        max_open, load, hold or 1.0, demand.wait_target, arrival_c2=demand.arrival_c2, hold_c2=demand.hold_c2
    )
    grows = load >= max_open
    what = "the queue grows without limit" if grows else f"{percent(late, 1)} of acquires wait longer"
    return build_finding(
        "wait-target-missed",
        severity="critical" if grows else "warning",
        confidence="likely",
        summary=f"{max_open} connections for {load:.1f} busy ones, where {demand.value} keep the p99 wait within "
        f"{format_duration(demand.wait_target)}: {what}",
        evidence={
            "max_open": max_open,
            "needed": demand.value,
            "load": load,
            "late_share": late,
            "wait_target": demand.wait_target,
            "bound_by": division.binding,
        },
        remedy=_MORE.get(division.binding, "Shorten the holds"),
    )


def _collect_measured(figures: Figures) -> Measured:
    def value(figure: Figure | None) -> float | None:
        return None if figure is None else figure.value

    hold = estimate_hold(figures)
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


if TYPE_CHECKING:
    from poolctl.sizing.verify import Verification

_BOUNDS = ("most_gain_from_pool", "gain_from_statement", "gain_from_locks", "gain_from_shorter_holds")


def refuse(result: Recommendation, findings: Sequence[Finding]) -> Recommendation:
    """Return ``result`` without its sizes. ``findings`` are the reasons and come first."""
    causes = [replace(finding, severity="critical") for finding in findings]
    sizes = replace(
        result.recommendation, max_open=None, max_idle=None, min_idle=None, interval=None, confidence="refused"
    )
    return replace(
        result,
        recommendation=sizes,
        verdict="refused",
        worst_case_connections=None,
        findings=worst_first((*causes, *result.findings)),
    )


def add_diagnosis(
    result: Recommendation, figures: Figures, refusing: Sequence[Finding], others: Sequence[Finding]
) -> Recommendation:
    """Return ``result`` with the findings of a diagnosis of the same observation.

    ``refusing`` make it a refusal, ``others`` do not. Each code is reported once: sizing knows more about a slow
    statement, the diagnosis more about the holders of everything else.
    """
    known = {finding.code for finding in result.findings if finding.severity != "info"}
    reported = known & {"slow-database"} if result.is_refused else set()
    causes = [explain_refusal(each, figures, result) for each in refusing if each.code not in reported]
    named = {finding.code for finding in causes}
    # The sizing only adds up the time that is idle in transactions, which these explain.
    explained = {"held-across-io"} if named & {"leak-in-transaction", "self-deadlock"} else set()
    kept = [each for each in result.findings if each.code not in named | explained]
    kept += [each for each in others if each.code not in known - explained]
    result = replace(result, findings=tuple(kept))
    return refuse(result, causes) if causes else result


def drop_moot_findings(result: Recommendation) -> Recommendation:
    """Return a refusal without the findings that no longer matter.

    These are the findings about the size that is not given, and a request for a larger pool beside a cause that no pool
    removes.
    """
    if not result.is_refused:
        return result
    beside = any(each.severity == "critical" for each in result.findings)
    moot = MOOT_IN_REFUSAL | (MOOT_BESIDE_CAUSE if beside else frozenset())
    return replace(result, findings=tuple(each for each in result.findings if each.code not in moot))


def explain_refusal(finding: Finding, figures: Figures, result: Recommendation) -> Finding:
    """Return ``finding``, which makes any pool size useless, with both limits as evidence.

    They are the most that any size could gain, and what removing the cause would gain.
    """
    gain = bound_gain(figures, result.capacity)
    statement = figures.top_statement
    bounds: dict[str, Any] = {"most_gain_from_pool": gain}
    for own in result.findings:
        if own.code == finding.code:
            bounds |= {name: own.evidence[name] for name in _BOUNDS if name in own.evidence}
    start = "No pool size follows from this" if finding.confidence == "undetermined" else "Pool size is not the problem"
    summary = f"{start}: {finding.summary}"
    if finding.code == "slow-database" and statement is not None:
        bounds |= {
            "statement": statement.query,
            "statement_share": statement.share,
            "table": statement.table,
            "column": statement.column,
            "rows_read": statement.rows_read,
            "gain_from_statement": compute_speedup(statement.share),
        }
        times = f"{compute_speedup(statement.share):,.0f} times as much gets done" if statement.share >= 0.5 else ""
        most = "" if gain is None else f". No pool size {write_gain(gain)}"
        summary += most + (f"; without the statement up to {times}" if times else "")
    return replace(finding, summary=summary, evidence={**finding.evidence, **bounds})


def reject_unverified(result: Recommendation, verification: "Verification") -> Recommendation:
    """Turn a recommendation that failed its own verification into a refusal.

    One that only misses a wait target that was not given carries the load: it is kept, with low confidence.
    """
    tried = result.recommendation.max_open
    if verification.is_only_late and result.measured.sources.get("wait_target") == "assumed":
        return _doubt_wait(result, verification)
    finding = build_finding(
        "verification-failed",
        severity="critical",
        confidence="certain",
        summary=f"max_open {tried} was tried and fails: {'; '.join(verification.failures)}",
        evidence={"max_open": tried, "engine": verification.engine},
        remedy="Read the runs below; measure during the peak, or give the figures that are assumed",
    )
    return refuse(result, (finding,))


def _doubt_wait(result: Recommendation, verification: "Verification") -> Recommendation:
    size = result.recommendation.max_open
    more = "" if verification.in_time is None else f"Set max_open {verification.in_time}, which met it; or give "
    finding = build_finding(
        "verification-failed",
        severity="warning",
        confidence="certain",
        summary=f"max_open {size} was tried and carries the load, but {'; '.join(verification.failures)} (assumed)",
        evidence={"max_open": size, "in_time": verification.in_time, "engine": verification.engine},
        remedy=f"{more or 'Give '}--wait-target, if requests may wait longer",
    )
    sizes = replace(result.recommendation, confidence="low")
    return replace(result, recommendation=sizes, findings=worst_first((*result.findings, finding)))
