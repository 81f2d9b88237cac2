"""A finished run of ``poolctl simulate`` in, findings out, worst first and a root before its effects.

Decides which rules may report together: a leak, a self-deadlock, a slow database and a small pool all show a full
pool, and their remedies are opposite, so only one of them explains a queue. What each rule needs is left to the rules.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from poolctl.diagnose.catalog import REST_ON_TIMES, build_finding
from poolctl.diagnose.finding import Confidence, Finding, reaches, worst_first
from poolctl.diagnose.run.facts import RunFacts, add_caveats, classify_refusal, find_main_error
from poolctl.diagnose.run.holds import find_held_across_io, find_lock_queue, find_long_hold
from poolctl.diagnose.run.leaks import find_leak, find_pool_slots_lost
from poolctl.diagnose.run.limits import (
    find_endless_load,
    find_endless_queue,
    find_fleet_over_budget,
    find_pooler_client_limit,
    find_pooler_queue,
    find_role_limit,
    find_slots_exhausted,
    find_unbounded_pool,
)
from poolctl.diagnose.run.load import (
    find_client_starved,
    find_connection_churn,
    find_pool_undersized,
    find_self_deadlock,
)
from poolctl.diagnose.run.server import find_full_scan, find_reconnect_storm, find_slow_database, find_slow_spell
from poolctl.diagnose.slow_database import BUSY_SHARE
from poolctl.scenario.run import Run, TimelinePoint
from poolctl.scenario.scenario import Event
from poolctl.units import format_count, format_duration, plural, quote

STALL = 0.3
"""Seconds without any acquire after an event that are worth a note; a slow load has shorter gaps anyway."""


def diagnose_run(run: Run) -> tuple[Finding, ...]:
    """Diagnose ``run``, with each code at most once.

    Nothing at warning or above gives the single finding ``healthy``, whose evidence keeps the notes.
    """
    facts = RunFacts(run)
    if endless := find_endless_load(facts):
        # Rates and shares over no time at all mean nothing.
        return (endless,)
    lost = find_pool_slots_lost(facts) or find_leak(facts)
    churn = _find_in_services(find_connection_churn, facts)
    causes = [find_endless_queue(facts), lost, *_find_queue_causes(facts, lost, churn)]
    limits = [rule(facts) for rule in (find_reconnect_storm, find_fleet_over_budget)]
    limits += [_find_in_services(find_unbounded_pool, facts), find_pooler_client_limit(facts)]
    ends = [rule(facts) for rule in (find_role_limit, find_slots_exhausted)]
    findings = [finding for finding in (*causes, *limits, churn, *ends) if finding is not None]
    if not findings:
        findings = [finding for finding in (_find_in_services(find_client_starved, facts),) if finding is not None]
    if not reaches(findings, "warning"):
        findings = [judge_health(facts)]
    counted = bool(facts.leaked)
    return worst_first(
        add_caveats(finding, run) if finding.code in REST_ON_TIMES and not (counted and finding is lost) else finding
        for finding in findings
    )


def _find_queue_causes(facts: RunFacts, lost: Finding | None, churn: Finding | None) -> list[Finding | None]:
    """Find what made requests queue. With connections lost, only a cause with figures of its own may join."""
    slow = find_slow_database(facts) or find_slow_spell(facts)
    if slow is not None and churn is not None and (churn.evidence["share_of_use_time"] or 0) >= 0.5:
        # Opening a connection forks a process: the processors are busy with that, unless a statement shows.
        slow = slow if slow.evidence["statement"] else None
    if lost is not None:
        return [slow, find_pooler_queue(facts)]
    service, own = facts.worst_service
    for rule in (find_self_deadlock, find_lock_queue):
        if found := rule(own):
            return [_name_service(service, found)]
    if slow is not None:
        return [slow]
    # A model's scenario says itself how much of a hold is outside of the database; elsewhere a few long ones say more.
    holds = [find_long_hold, find_held_across_io]
    if facts.run.engine == "model":
        holds.reverse()
    for rule in (find_pooler_queue, *holds, find_pool_undersized):
        if found := rule(own):
            return [_name_service(service, found)]
    return []


def _find_in_services(rule: Callable[[RunFacts], Finding | None], facts: RunFacts) -> Finding | None:
    """Return what the rule finds in the first service in which it finds anything."""
    found = ((name, rule(own)) for name, own in facts.services)
    return next((_name_service(name, finding) for name, finding in found if finding is not None), None)


def _name_service(name: str, finding: Finding) -> Finding:
    return replace(finding, summary=f"Service {name}: {finding.summary}") if name else finding


def judge_health(facts: RunFacts) -> Finding:
    """Build the finding healthy: nothing at warning or above.

    Certain when the server was observed (the model knows it), otherwise likely. Undetermined for an incomplete run:
    what was not measured may be what was wrong.
    """
    summary = facts.summary
    notes = list(_write_notes(facts))
    observed = facts.run.engine == "model" or facts.server.peak_connections is not None
    confidence: Confidence = "certain" if observed and not summary.unfinished else "likely"
    tag = ""
    if facts.run.interrupted:
        tag = " (interrupted)"
    elif facts.run.generator is not None and facts.run.generator.bound_by:
        tag = " (the load generator was the limit)"
    served = f"all {format_count(summary.acquired)}"
    if summary.acquired < summary.offered:
        served = f"{format_count(summary.acquired)} of {format_count(summary.offered)}"
    bound = "" if facts.capacity is None else f" of {format_count(facts.capacity)}"
    wait, peak = format_duration(summary.wait_time.p99), format_count(summary.connections.peak_in_use)
    figures = f"{served} acquires served" + (
        f"; {notes[0]}" if notes else f", p99 wait {wait}, at most {peak}{bound} in use"
    )
    text = f"Healthy{tag}: {figures}"
    if facts.run.failure:
        text, confidence = f"Undetermined: of what was measured, {figures}", "undetermined"
    if not summary.offered:
        text, confidence = f"Nothing to judge{tag}: no connection was requested", "undetermined"
    return build_finding(
        "healthy",
        severity="info",
        confidence=confidence,
        layer="application",
        summary=text,
        evidence={
            "offered": summary.offered,
            "acquired": summary.acquired,
            "wait_time_p99": summary.wait_time.p99,
            "peak_in_use": summary.connections.peak_in_use,
            "capacity": facts.capacity,
            "server_cpu_share": facts.cpu_share,
            "notes": notes,
            "threshold": "no finding at warning or above",
        },
        decide_by=None if summary.offered else "a run that acquires connections",
        evidence_sql=None,
    )


def _write_notes(facts: RunFacts) -> Iterable[str]:
    """Yield sentences about what looks like trouble and is none, the most important first."""
    summary = facts.summary
    yield from _write_event_notes(facts)
    if facts.leaked and not facts.lost:
        yield f"{plural(facts.leaked, 'dropped connection')} came back by garbage collection"
    failed = [e for e in summary.errors if e.kind.origin != "pool" and classify_refusal(e.kind) is None]
    error = find_main_error(failed)
    if error is not None and not facts.scenario.events:
        yield f"{plural(sum(e.count for e in failed), 'statement')} failed ({quote(error.kind.message, 50)})"
    if summary.queued_count and facts.was_full and not facts.exhausted_by_event:
        longest = format_duration(summary.wait_time.max)
        drained = "were still queued" if facts.is_stuck else f"queued for {longest} at most and the queue drained"
        yield f"{plural(summary.queued_count, 'request')} {drained}"
    if summary.unfinished:
        yield f"{plural(summary.unfinished, 'acquire')} had not ended when the run did"
    if (facts.cpu_share or 0) >= BUSY_SHARE:
        yield "the server's processors are busy, but no client waits for them"
    if scan := find_full_scan(facts):
        yield f"one statement reads all {format_count(scan.rows)} rows of {scan.table.name} each time"


def _write_event_notes(facts: RunFacts) -> Iterable[str]:
    for event in facts.scenario.events:
        steps = facts.list_steps(event)
        errors = sum(max(0, after.errors - before.errors) for before, after in steps)
        troubled = [after for before, after in steps if after.errors > before.errors or after.waiting]
        stalled = sum(after.at - before.at for before, after in steps if after.acquired == before.acquired)
        when = f"the {_NOUNS.get(event.do, event.do)} at {format_duration(event.at)}"
        if facts.is_stuck and facts.exhausted_by_event is event:
            yield f"the pool had not recovered from {when} when the load ended at {format_duration(facts.load_until)}"
        elif errors:
            yield f"{when} cost {plural(errors, 'error')} and was over after {_format_after(event, troubled)}"
        elif stalled >= STALL:
            yield f"{when} held all requests up for {format_duration(stalled)} and cost no error"
        elif troubled:
            yield f"{when} made requests queue and was over after {_format_after(event, troubled)}"
        else:
            yield f"{when} did no harm"


_NOUNS = {"slow": "slowdown"}


def _format_after(event: Event, troubled: Sequence[TimelinePoint]) -> str:
    return format_duration(troubled[-1].at - event.at)
