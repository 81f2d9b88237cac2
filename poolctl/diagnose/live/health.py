"""The verdict that nothing is wrong, how sure it is, and what looks like trouble beside it and is none."""

from collections.abc import Iterator
from statistics import median

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, name_application
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.headroom import WORD_SHARE
from poolctl.diagnose.live.health_doubts import LEAST_SILENCE, find_doubts
from poolctl.diagnose.live.quiet_clients import QuietClients, find_quiet_clients
from poolctl.diagnose.live.tracks import STUCK_AFTER, Application, Track, waits_for_advisory_lock
from poolctl.diagnose.live.waits import Waiting
from poolctl.units import format_count, format_duration, percent, plural, quote

WHO_WAITS = (
    "the pools' own figures (--pool-stats), if users see errors all the same: the server cannot see which clients wait"
)

QUIET_OR_STUCK = (
    "the figures of its pool (--pool-stats): connections in use are leaked or held, idle ones are free; or, on its "
    "host, clients that wait, and acquires that time out in its log"
)

OBSERVE_AGAIN = (
    "Observe at the time of the errors, with the figures of the applications' own pools (--pool-stats), and read the "
    "server's log."
)


def judge_health(context: RuleContext) -> Finding:
    """Build the finding healthy: nothing at warning or above.

    Certain: everything was observed, twice, and it is known of every application that no client waits in its pool.
    Otherwise likely. Undetermined: what was observed is too little, or something may be wrong; see ``find_doubts``;
    or half of all backends or more belong to applications in which nothing moves, or no client of one sends anything to
    PgBouncer: a pool that leaked whole looks the same.
    """
    facts = context.facts
    waiting = facts.count_waiting()
    is_certain = facts.is_full_view and _is_every_wait_known(facts) and len(facts.samples) > 1
    confidence: Confidence = "certain" if is_certain else "likely"
    used = len(facts.tracks)
    usable = facts.server.usable if facts.server else None
    working = sum(1 for t in facts.tracks if t.last.is_active or t.last.in_transaction)
    of = f" of {format_count(usable)} usable" if usable is not None else ""
    share = f" ({percent(used / usable)})" if usable and used >= WORD_SHARE * usable else ""
    open_now = f"{format_count(used)}{of} connections open" if of else f"{plural(used, 'connection')} open"
    counts = f"{open_now}{share}, {working} at work"
    still = _find_still(context)
    quiet = find_quiet_clients(context.facts)
    few_ends = _write_few_ends(facts)
    is_open = 2 * sum(each.count for each in still) >= max(1, used) or bool(quiet or few_ends)
    summary = (
        f"{'Healthy, or a pool that leaked whole, which looks the same' if is_open else 'Healthy'}: {counts}, "
        f"{_write_waiting(waiting)}{_write_locks(facts)}{_write_rests(context, still)}{_write_quiet(quiet)}{few_ends}"
    )
    decide_by, remedy = None, ""
    if not facts.samples:
        summary = "Healthy as far as observed: no client is known to wait; the server itself was not observed"
    if confidence == "likely" and not _is_every_wait_known(facts):
        decide_by = WHO_WAITS
    if is_open:
        confidence, decide_by = "undetermined", QUIET_OR_STUCK
    doubt = next(find_doubts(context, counts, working), None)
    if doubt is not None:
        confidence = "undetermined"
        summary, decide_by = doubt
        remedy = OBSERVE_AGAIN
    return build_finding(
        "healthy",
        severity="info",
        confidence=confidence,
        summary=summary,
        evidence={
            "used": used,
            "usable": usable,
            "at_work": working,
            "waiting": waiting.count,
            "standing_still": {name_application(each): each.count for each in still} or None,
            "quiet_clients": {each.name: each.count for each in quiet} or None,
            "looks": len(facts.samples),
            "window": facts.window,
            "notes": list(write_notes(context)),
            "threshold": "no finding at warning or above",
        },
        remedy=remedy,
        decide_by=decide_by,
    )


def _is_every_wait_known(facts: LiveFacts) -> bool:
    """Return True if the pool of each application reports its waiting clients, and a name says whose each pool is.

    And they account for its backends: what has more than its pools have open has other pools, without figures.
    """
    return facts.count_waiting().is_known and all(
        pools
        and all(pool.waiting.is_known for pool in pools)
        and facts.find_unsure_owner(each) is None
        and each.count <= sum(max(pool.last.open or 0, pool.max_open) for pool in pools)
        for each, pools in ((each, facts.find_pools_of(each)) for each in facts.programs)
    )


def _write_waiting(waiting: Waiting) -> str:
    if not waiting:
        return "no client is known to wait"
    return f"{plural(waiting.count or 0, 'client')} waited for a moment"


def _find_still(context: RuleContext) -> list[Application]:
    """Find the applications whose backends all did nothing, where waiting clients are not reported.

    Listeners wait for notifications: it is their work.
    """
    return [
        each
        for each in context.facts.programs
        if all(t.is_idle and _did_nothing(t) and t.was_used and t.age > STUCK_AFTER for t in each.tracks)
        and not all(t.is_listening for t in each.tracks)
        and each.count > 1
        and not context.facts.count_waiting(each).is_known
    ]


def _did_nothing(track: Track) -> bool:
    """Return True if nothing happened to it in the window; with one sample, if it rests by the server's clock."""
    return track.is_frozen or (track.sample_count == 1 and track.rests)


def _write_quiet(quiet: list[QuietClients]) -> str:
    if not quiet:
        return ""
    first = quiet[0]
    more = f" (nor have those of {plural(len(quiet) - 1, 'other application')})" if len(quiet) > 1 else ""
    return (
        f"; none of the {format_count(first.count)} clients of {first.name} at PgBouncer has sent anything for "
        f"{format_duration(first.since)} or longer{more}, quiet or stuck: the figures of its own pool (--pool-stats) "
        "would decide"
    )


LATE_REPORT = 10.0
"""Seconds after which PostgreSQL counts what an idle backend did last, at the latest (PGSTAT_IDLE_INTERVAL)."""
LATE_EACH = 10
"""Transactions of each backend that may be counted so late: of the last second before it went idle. More than three
were seen of a pool that leaked every fifth connection."""


def _write_few_ends(facts: LiveFacts) -> str:
    """Write about a database in which few transactions ended, to a role that may not see since when its backends rest.

    Fewer than half of its backends; or none was at work in any sample, and what ended may be counted late. See
    ``find_doubts`` for one in which none ended.
    """
    if not facts.hidden or facts.window < LEAST_SILENCE or facts.count_waiting().is_known:
        return ""
    for then, now in facts.counted:
        there = [track for track in facts.tracks if track.last.database == now.name and track.last.is_hidden]
        resting = sum(track.last.state == "idle" for track in there)
        ended = now.commits + now.rollbacks - then.commits - then.rollbacks
        if resting > 1 and 2 * ended < resting:
            return (
                f"; {plural(ended, 'transaction')} in all ended in database {now.name} for "
                f"{format_duration(facts.window)}, in which {resting} backends rested: most of them did nothing, quiet "
                "or stuck"
            )
        is_late = facts.window < LATE_REPORT and (facts.count_ended(now.name) or 0) < LATE_EACH * resting
        if resting > 1 and resting == len(there) and is_late and all(map(_was_never_at_work, there)):
            return (
                f"; no sample found one of the {resting} backends in database {now.name} at work, and the transactions "
                f"that ended in it may be up to {format_duration(LATE_REPORT)} old: quiet or stuck"
            )
    return ""


def _was_never_at_work(track: Track) -> bool:
    return all(row.state == "idle" for _, row in track.list_rows())


LEAST_QUEUED = 3
"""Waiters at a time, on average, from which waits for locks are worth a word."""


def _write_locks(facts: LiveFacts) -> str:
    """Write about waits for locks that make no queue behind one backend, such as a row that all clients change.

    Not for advisory locks: the stand-bys of a leader wait all the time, and not for a moment.
    """
    active = [row for sample in facts.samples for row in sample.in_use if row.is_active]
    waiting = sum(row.wait_event_type == "Lock" and not waits_for_advisory_lock(row) for row in active)
    if 2 * waiting <= len(active) or waiting < LEAST_QUEUED * len(facts.samples):
        return ""
    return (
        f"; {percent(waiting / len(active))} of the statements under way waited for locks, each behind another for a "
        "moment; more connections make that longer"
    )


def _write_rests(context: RuleContext, still: list[Application]) -> str:
    """Write about what the server alone cannot separate: a quiet pool, and one whose connections never come back."""
    facts = context.facts
    resting = sum(track.is_idle and track.is_frozen for track in facts.tracks)
    if still:
        first = still[0]
        since = format_duration(min(track.age for track in first.tracks))
        more = f" (as have all of {plural(len(still) - 1, 'other application')})" if len(still) > 1 else ""
        return (
            f"; all {format_count(first.count)} backends of {name_application(first)} have done nothing for {since} or "
            f"longer{more}, quiet or stuck: if it should serve requests now, its pool is used up or its process hangs; "
            "the figures of the pool (--pool-stats) would decide"
        )
    if 2 * resting > len(facts.tracks) and not facts.count_waiting().is_known:
        rest = f"{format_count(resting)} of them {'rests' if resting == 1 else 'rest'}"
        return f"; {rest}: parked, unless users see timeouts"
    return ""


def write_notes(context: RuleContext) -> Iterator[str]:
    """Yield sentences about what looks like trouble and is none, the most important first."""
    facts = context.facts
    held = [t for each in facts.applications for t in each.tracks if t.is_in_transaction and t.age > STUCK_AFTER]
    if held:
        oldest = max(held, key=lambda track: track.age)
        who = quote(oldest.last.application or oldest.last.user or "?", 40)
        many = "one backend" if len(held) == 1 else f"{format_count(len(held))} backends"
        yield f"{many} held a transaction open while idle, the oldest for {format_duration(oldest.age)} ({who})"
    frozen = sum(len(each.frozen_idle) for each in facts.applications)
    if frozen > 0.5 * len(facts.tracks):
        known = facts.count_waiting()
        asked = "no client waits for them" if known.is_known and not known else "waiting clients: unknown"
        share = f"{format_count(frozen)} of {format_count(len(facts.tracks))} backends"
        yield f"{share} did nothing in the window: parked, {asked}"
    listening = sum(1 for t in facts.tracks if (t.last.query or "").lstrip()[:6].upper() == "LISTEN")
    if listening:
        yield f"{plural(listening, 'backend')} {'listens' if listening == 1 else 'listen'} for notifications"
    locks = sum(1 for t in facts.tracks if t.last.advisory_locks)
    if locks:
        yield f"{plural(locks, 'backend')} {'holds' if locks == 1 else 'hold'} advisory locks"
    waiting = sum(1 for t in facts.tracks if t.waits_for_lock)
    if waiting:
        yield f"{plural(waiting, 'backend')} waited for a lock for a moment"
    long = [t for t in facts.tracks if t.last.is_active and t.statement_age > 60.0]
    if long:
        ages = median(t.statement_age for t in long)
        run = "runs" if len(long) == 1 else "run"
        yield f"{plural(len(long), 'statement')} {run} for long (typically {format_duration(ages)})"
