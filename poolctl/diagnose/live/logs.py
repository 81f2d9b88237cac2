"""What logs and histories say happened: refusals, queues behind locks, short sessions, lost connections, a pool that
fills.

Decides which of their counts are a finding. They say what was, and not who holds what now: where a cause cannot be
read off them, the finding is undetermined and names what to fetch next.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding, Holder
from poolctl.diagnose.live.context import RuleContext
from poolctl.diagnose.live.fetch import CONSOLE, TWO_SAMPLES
from poolctl.diagnose.live.waits import LEAST_RISE, measure_rise
from poolctl.observe.snapshot import LogFacts, LoggedRefusals, RefusedBy
from poolctl.units import format_count, format_duration, plural, quote

CODES: Mapping[RefusedBy, str] = {
    "server-slots": "slots-exhausted",
    "reserved-slots": "slots-exhausted",
    "superuser-slots": "slots-exhausted",
    "role-limit": "role-limit",
    "database-limit": "role-limit",
    "pooler-clients": "pooler-client-limit",
}
"""Refusals that a log shows, and the finding of each."""

LEAST_LOCK_WAITS = 2
LONG_LOCK_WAIT = 1.0
"""Seconds; log_lock_waits logs a wait after deadlock_timeout, which is as long by default."""
LEAST_BRIEF = 20
BRIEF_SHARE = 0.5
"""Sessions of less than a second, and their share of an application's, from which it opens one for each use."""
WHO_HOLDS = (
    f"who holds the slots at such a moment: {TWO_SAMPLES}; or a log with log_connections and log_disconnections on; "
    "and the figures of the applications' own pools"
)


def find_logged_refusals(context: RuleContext) -> Iterator[Finding]:
    """Report limits that refused clients, as a log counted them. Certain: the server or the pooler wrote it itself."""
    log = context.facts.observation.log
    by_code: dict[str, list[LoggedRefusals]] = {}
    for refusals in log.refusals if log is not None else ():
        code = CODES.get(refusals.by)
        if code is not None and code not in context.reported:
            by_code.setdefault(code, []).append(refusals)
    for code, found in by_code.items():
        yield _build_refusals(code, found)


def _build_refusals(code: str, found: list[LoggedRefusals]) -> Finding:
    count = sum(each.count for each in found)
    firsts = [each.first_at for each in found if each.first_at is not None]
    lasts = [each.last_at for each in found if each.last_at is not None]
    when = f", from {_write_instant(min(firsts))} to {_write_instant(max(lasts))}" if firsts and lasts else ""
    who: dict[str, int] = {}
    for each in found:
        for name, number in each.who.items():
            who[name] = who.get(name, 0) + number
    most = max(who, key=lambda name: who[name], default="")
    whose = f", most of them of {quote(most, 40)} ({format_count(who[most])})" if most else ""
    return build_finding(
        code,
        severity="critical",
        confidence="certain",
        summary=f"{plural(count, 'client')} {'was' if count == 1 else 'were'} refused{when}{whose}: "
        f"{quote(found[0].text, 80)}",
        evidence={
            "refused": count,
            "first": _write_instant(min(firsts)) if firsts else None,
            "last": _write_instant(max(lasts)) if lasts else None,
            "texts": {each.text: each.count for each in found[:5]},
            "who": dict(sorted(who.items(), key=lambda item: -item[1])[:10]) or None,
            "threshold": "any refusal in a log",
        },
        holders=tuple(Holder(application=name) for name in sorted(who, key=lambda name: -who[name])[:3]),
        decide_by=WHO_HOLDS,
    )


def find_logged_lock_queue(context: RuleContext) -> Iterator[Finding]:
    """Report a queue behind one lock, with its holders, from log_lock_waits.

    Threshold: two waits of a second or more behind the same holders. Likely: what the holder did is not in that line.
    """
    log = context.facts.observation.log
    if log is None or "lock-queue" in context.reported:
        return
    long = [each for each in log.lock_waits if each.wait_time >= LONG_LOCK_WAIT and each.holders]
    queue = max((each for each in long if each.count >= LEAST_LOCK_WAITS), key=lambda each: each.count, default=None)
    if queue is None:
        return
    heads = ", ".join(map(str, queue.holders))
    yield build_finding(
        "lock-queue",
        severity="critical",
        confidence="likely",
        summary=f"{plural(queue.count, 'wait')} for a lock behind process {heads}, "
        f"{plural(len(queue.queue), 'backend')} in the queue, for {format_duration(queue.wait_time)} or longer"
        + (f", at {_write_instant(queue.at)}" if queue.at is not None else ""),
        evidence={
            "waits": queue.count,
            "holders": list(queue.holders),
            "waiting_pids": list(queue.queue),
            "longest_wait": queue.wait_time,
            "message": queue.text,
            "threshold": f"{LEAST_LOCK_WAITS} waits of {format_duration(LONG_LOCK_WAIT)} behind the same holders",
        },
        holders=(Holder(pids=queue.holders),),
    )


def find_logged_churn(context: RuleContext) -> Iterator[Finding]:
    """Report an application whose sessions last less than a second.

    Threshold: 20 such sessions, and half of the ended ones. Likely: health checks look the same.
    """
    log = context.facts.observation.log
    if log is None or "connection-churn" in context.reported:
        return
    for each in log.applications:
        if each.brief < LEAST_BRIEF or each.brief < BRIEF_SHARE * each.sessions:
            continue
        span = _measure_span(log)
        rate = f", {each.sessions / span:.1f} a second" if span else ""
        name = each.name or "clients without a name"
        yield build_finding(
            "connection-churn",
            severity="warning",
            confidence="likely",
            summary=f"{format_count(each.brief)} of {plural(each.sessions, 'session')} of {name} lasted less than a "
            f"second{rate}: a connection is opened for each use",
            evidence={
                "sessions": each.sessions,
                "brief": each.brief,
                "mean_session_time": each.session_time,
                "connect_time": log.connect_time,
                "threshold": f"{LEAST_BRIEF} sessions of less than a second, and half of all",
            },
            holders=(Holder(application=each.name or None),),
        )
        return


def find_logged_leaks(context: RuleContext) -> Iterator[Finding]:
    """Report connections that a pool library wrote down as leaked and that did not come back in its log.

    Likely: the library saw them held for longer than its threshold; one that comes back later is a long hold.
    """
    log = context.facts.observation.log
    if log is None or not log.leaks or "leak" in context.reported:
        return
    back = f"; {plural(log.leaks_returned, 'other')} came back" if log.leaks_returned else ""
    first = quote(log.leaks[0], 80)
    yield build_finding(
        "leak",
        severity="critical",
        confidence="likely",
        summary=f"{plural(len(log.leaks), 'connection')} reported as leaked by the pool's own log did not come back"
        f"{back}; the first: {first}",
        evidence={
            "reported": len(log.leaks),
            "returned": log.leaks_returned,
            "connections": list(log.leaks[:10]),
            "threshold": "reported by the library, and no word of a return",
        },
        frees=len(log.leaks),
        decide_by=None,
    )


def find_filling_pool(context: RuleContext) -> Iterator[Finding]:
    """Report a pool of which, in a history, ever more connections are in use and none of them come back.

    Threshold: the least in use in the last third of the time is three or more above the least in the first third.
    Likely a leak: acquires a second and the mean use time did not grow
    by more than half meanwhile, so that neither more load nor slower work explains it (L = rate x time, Little 1961).
    Undetermined without these totals, or where they grew.
    """
    facts = context.facts
    if not any(source.kind == "prometheus" for source in facts.observation.sources) or "leak" in context.reported:
        return
    rising = [(grown, series) for series in facts.pools if (grown := measure_rise(series.figures)) >= LEAST_RISE]
    if not rising:
        return
    grown, worst = max(rising, key=lambda each: each[0])
    pools = f" ({len(rising)} of {plural(len(facts.pools), 'pool')} rise)" if len(facts.pools) > 1 else ""
    rate, hold = worst.compare_thirds("acquired_total"), worst.compare_use_times()
    is_leak = rate is not None and hold is not None and rate <= STEADY and hold <= STEADY
    where = worst.last.labels.get("instance") or worst.last.labels.get("pod") or ""
    name = worst.last.name + (f" on {where}" if where else "")
    counts = [each.in_use for each in worst.figures if each.in_use is not None]
    of = f" of {worst.max_open}" if worst.max_open else ""
    why = ", while neither acquires nor use times grew" if is_leak else ""
    yield build_finding(
        "leak" if is_leak else "leak-or-long-hold",
        severity="critical" if worst.is_full_now else "warning",
        confidence="likely" if is_leak else "undetermined",
        summary=f"The connections in use of {name} rose from {counts[0]} to {counts[-1]}{of} in "
        f"{format_duration(worst.window)} and do not come back{why}{pools}",
        evidence={
            "in_use": counts[-1],
            "risen_by": grown,
            "max_open": worst.max_open,
            "waiting": worst.last.waiting,
            "acquires_ratio": rate,
            "holds_ratio": hold,
            "rising": len(rising),
            "pools": len(facts.pools),
            "window": worst.window,
            "threshold": f"least in use {LEAST_RISE} above that of the first third; ratios of at most {STEADY}",
        },
        frees=grown if is_leak else 0,
        decide_by=None if is_leak else "the acquires and use times of that pool, and what its connections do",
    )


STEADY = 1.5
"""Ratio of the last third to the first up to which load and use times count as unchanged."""


def find_logged_starvation(context: RuleContext) -> Iterator[Finding]:
    """Report a process without processor time, as its pool library noticed. Its waits say nothing of the pool then."""
    log = context.facts.observation.log
    if log is not None and log.was_starved and "client-starved" not in context.reported:
        yield build_finding(
            "client-starved",
            severity="warning",
            confidence="likely",
            summary="The pool's own log reports thread starvation or a leap of the clock: its process had no time to "
            "hand connections over",
            evidence={"threshold": "any such line"},
        )


def find_logged_queue_timeouts(context: RuleContext) -> Iterator[Finding]:
    """Report clients that a pooler sent away after they had waited in its queue. Always undetermined."""
    log = context.facts.observation.log
    if log is None or not log.queue_timeouts or any(code.startswith("pooler-") for code in context.reported):
        return
    yield build_finding(
        "waiting-unexplained",
        severity="critical",
        confidence="undetermined",
        layer="pooler",
        summary=f"PgBouncer sent {plural(log.queue_timeouts, 'client')} away after they had waited for a server "
        "connection (query_wait_timeout); its log does not say what the connections did",
        evidence={"queue_timeouts": log.queue_timeouts, "threshold": "any query_wait_timeout"},
        decide_by=f"who holds the server connections at such a moment: {CONSOLE}; and of the server: {TWO_SAMPLES}",
    )


def find_logged_acquire_timeouts(context: RuleContext) -> Iterator[Finding]:
    """Report acquires that gave up, as applications' logs show, where nothing else explains them. Undetermined."""
    log = context.facts.observation.log
    if log is None or context.reported:
        return
    timed_out = {each.last.name: each.last.timed_out_total or 0.0 for each in context.facts.pools}
    count = round(sum(timed_out.values()))
    if not count:
        return
    most = max(context.facts.pools, key=lambda each: each.last.timed_out_total or 0.0)
    in_use = max((each.in_use or 0 for each in most.figures), default=0)
    used = f"; at most {in_use} of {most.max_open or '?'} connections were in use" if in_use else ""
    yield build_finding(
        "waiting-unexplained",
        severity="critical",
        confidence="undetermined",
        summary=f"{plural(count, 'acquire')} gave up, most of them of {most.last.name} ({most.last.library}){used}; "
        "the log does not say what the connections did",
        evidence={
            "timed_out": count,
            "pools": {name: round(number) for name, number in timed_out.items()},
            "most_in_use": in_use or None,
            "first": _write_instant(log.trouble_at) if log.trouble_at is not None else None,
            "threshold": "any time-out of an acquire in a log",
        },
        decide_by=f"what the connections did at such a moment: {TWO_SAMPLES}",
    )


def _measure_span(log: LogFacts) -> float:
    return (log.last_at or 0.0) - (log.first_at or 0.0)


def _write_instant(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
