"""Findings that more than one rule reports: a long hold, work elsewhere, and a hold whose cause is open.

Decides their words and evidence. When they are reported is left to the rules.
"""

from collections.abc import Sequence

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.catalog import find as find_type
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence, name_application
from poolctl.diagnose.live.tracks import STUCK_AFTER, TIMES_LONGEST, TIMES_TYPICAL, Application, Track
from poolctl.diagnose.live.usage import (
    HELD_SHARE,
    LEAST_PAUSE,
    MOSTLY_SHARE,
    SHORTEST_PAUSE,
    HoldPattern,
    HoldTimes,
    find_stuck,
)
from poolctl.units import format_count, format_duration, percent, plural

LEAST_STUCK = 2
"""Survivors in one application. One alone may be a batch, a debugger or a person: it is held, not leaked."""


def build_leak_in_transaction(
    context: RuleContext, application: Application, stuck: tuple[Track, ...], confidence: Confidence
) -> Finding:
    """Build ``leak-in-transaction`` of the backends ``stuck``."""
    ages = sorted(track.age for track in stuck)
    waiting = context.facts.count_waiting(application)
    pinning = sum(track.last.has_xmin for track in stuck)
    oldest = format_duration(ages[-1])
    at_least = "at least " if any(track.last.state_at is None for track in stuck) else ""
    consequence = f"; {plural(waiting.count or 0, 'client')} waiting" if waiting else ""
    decide_by = None
    if confidence == "undetermined":
        decide_by = (
            "a second sample: whether the same transactions are still open"
            if stuck[0].sample_count < 2
            else "the pool's own use times (--pool-stats), or an observation that is longer than the longest work of a "
            "request (--for): what comes back was held, what stays is leaked"
        )
    return build_finding(
        "leak-in-transaction",
        severity=context.judge_severity(application),
        confidence=confidence,
        summary=f"{format_count(len(stuck))} of {plural(application.count, 'backend')} of "
        f"{name_application(application)} are idle in transactions that are not ended, the oldest for "
        f"{at_least}{oldest}{consequence}",
        evidence={
            "stuck": len(stuck),
            "sessions": application.count,
            "oldest_age": ages[-1],
            "youngest_age": ages[0],
            "age_spread": ages[-1] - ages[0],
            "moved_meanwhile": len(application.moved),
            "median_transaction": application.typical_use or None,
            "longest_seen_to_end": application.longest_ended or None,
            "mean_hold": context.measure_hold_times(application).mean or None,
            "hold_back_vacuum": pinning,
            "waiting": waiting.count,
            "threshold": f"{LEAST_STUCK} idle in transaction for more than {format_duration(application.stuck_after)} "
            f"(1 s, {TIMES_TYPICAL} x the median, 2 x the longest that ended; or {TIMES_LONGEST} x the longest rest, "
            "if less)",
        },
        holders=context.find_holders(stuck),
        remedy="Commit or roll back and release on every path of that code: finally, with, defer. Until that is "
        "deployed, end these backends, and set idle_in_transaction_session_timeout for the application's "
        f"role{_write_lost_locks(context, application)}. A bigger pool only delays the end.",
        frees=len(stuck),
        decide_by=decide_by,
    )


def _write_lost_locks(context: RuleContext, application: Application) -> str:
    """Write what that timeout would break: session-level advisory locks go with their session."""
    locks = sum(t.last.advisory_locks for t in context.facts.tracks if t.last.user == application.user)
    return (
        f" (it would also drop {plural(locks, 'advisory lock')} of sessions that are idle in a transaction)"
        if locks
        else ""
    )


_GIVE_OWN = (
    "Give what listens or keeps a cursor a connection of its own, outside of the pool: one listener can serve a whole "
    "process. It never comes back to the pool, so a bigger pool is filled by the next ones."
)


def build_long_hold(
    context: RuleContext,
    application: Application,
    suspects: tuple[Track, ...],
    returned: tuple[Track, ...],
    confidence: Confidence,
    *,
    observed: str = "",
    decide_by: str | None = None,
) -> Finding:
    """Build ``long-hold``: connections that are held for long and come back, while clients wait for them.

    ``observed``: what was observed of them; empty: what their last statements, releases or the pool's figures say.
    """
    waiting = context.facts.count_waiting(application)
    wait = f"; {plural(waiting.count or 0, 'client')} waiting" if waiting else ""
    times = context.measure_hold_times(application)
    longest = max([*(track.longest_rest for track in returned), *(track.age for track in suspects)])
    holding = tuple({track.pid: track for track in (*suspects, *returned)}.values())
    if observed:
        pass
    elif returned:
        observed = f", {plural(len(returned), 'release')} observed"
    elif any(track.is_on_purpose for track in suspects):
        observed = ", as their last statements say, on purpose"
    elif times.are_long:
        observed = f"; by the pool's own figures they come back, after {format_duration(times.mean)} on average"
    else:
        observed = ", and none was acquired or released meanwhile"
    return build_finding(
        "long-hold",
        severity=context.judge_severity(application),
        confidence=cap_confidence(confidence, holding),
        summary=f"{plural(len(holding), 'connection')} of {name_application(application)} are held, the longest for "
        f"{format_duration(longest)}{observed}{wait}",
        evidence={
            "held": len(holding),
            "sessions": application.count,
            "longest_hold": longest,
            "median_use": application.typical_use,
            "releases_seen": len(returned),
            "mean_hold": times.mean or None,
            "waiting": waiting.count,
            "threshold": "a hold of more than 1 s and 10 x the median that came back, or is not older than "
            f"{TIMES_LONGEST} x the mean hold by the pool's figures",
        },
        holders=context.find_holders(holding),
        remedy=_GIVE_OWN if 2 * sum(t.is_listening for t in holding) > len(holding) else find_type("long-hold").remedy,
        frees=len(holding),
        decide_by=decide_by,
    )


def write_oldest(tracks: Sequence[Track]) -> str:
    """Write since when the one of ``tracks`` that rests longest does, or that this role may not see it."""
    known = [track.age for track in tracks if not track.hides_rest]
    if len(known) < len(tracks):
        return "and this role may not see since when"
    return f"the oldest for {format_duration(max(known))}"


DECIDE_HOLD_BY = (
    "watch for longer than the longest hold that is legitimate (--for): one that comes back is a long hold, a number "
    "in use that only climbs is a leak; or ask the process where its connections are, and its host whether it is "
    "stopped"
)


def build_undetermined_hold(
    context: RuleContext,
    application: Application,
    suspects: tuple[Track, ...],
    of: str,
    *,
    or_else: str = "or a long job that will come back",
    decide_by: str = DECIDE_HOLD_BY,
) -> Finding:
    """Build ``leak-or-long-hold``: a set that stands still, with no such hold observed to end.

    ``of``: how many there are at all, such as "8 of 8 in use". ``or_else``: what it is if it is no leak.
    """
    ages = [track.age for track in suspects]
    is_hidden = any(track.hides_rest for track in suspects)
    waiting = context.facts.count_waiting(application)
    wait = f" while {plural(waiting.count or 0, 'client')} wait" if waiting else ""
    limit = max(STUCK_AFTER, TIMES_TYPICAL * application.typical_use)
    return build_finding(
        "leak-or-long-hold",
        severity=context.judge_severity(application),
        confidence="undetermined",
        summary=f"{plural(len(suspects), 'connection')} of {name_application(application)} "
        f"{'stands' if len(suspects) == 1 else 'stand'} still ({of}){wait}, {write_oldest(suspects)}: leaked, "
        f"{or_else}",
        evidence={
            "standing_still": len(suspects),
            "sessions": application.count,
            "oldest_age": None if is_hidden else max(ages),
            "youngest_age": None if is_hidden else min(ages),
            "moved_meanwhile": len(application.moved),
            "waiting": waiting.count,
            "waiting_told_by": waiting.by or None,
            "median_use": application.typical_use,
            "threshold": f"standing still for more than {format_duration(limit)} (1 s, {TIMES_TYPICAL} x the median)",
        },
        holders=context.find_holders(suspects),
        frees=len(suspects),
        decide_by=decide_by,
    )


def build_held_across_io(
    context: RuleContext,
    application: Application,
    use: HoldPattern,
    holding: tuple[Track, ...],
    confidence: Confidence,
    decide_by: str | None = None,
) -> Finding:
    """Build ``held-across-io`` from how ``application`` uses its connections."""
    waiting = context.facts.count_waiting(application)
    times = context.measure_hold_times(application)
    wait = f", {plural(waiting.count or 0, 'client')} waiting" if waiting else ""
    ended = [
        t
        for t in context.keep_unexplained((*application.tracks, *application.gone))
        if t.ended_transaction or not t.is_there
    ]
    return build_finding(
        "held-across-io",
        severity=context.judge_severity(application),
        confidence=cap_confidence(confidence, holding),
        summary=f"{name_application(application)} holds transactions open while it does something else: "
        f"{percent(use.share)} of the use is idle in transaction, typically for {format_duration(use.pause)}, "
        f"{_write_ends(times, ended, holding)}{wait}",
        evidence={
            "sessions": application.count,
            "idle_in_transaction_share": percent(use.share),
            "typical_pause": use.pause,
            "longest_seen_to_end": application.longest_ended or None,
            "ended_meanwhile": len(ended),
            "mean_hold": times.mean or None,
            "stuck": len(find_stuck(application, times)),
            "looks_without_a_spare_session": percent(use.used_up),
            "waiting": waiting.count,
            "threshold": f"> {percent(HELD_SHARE)} of the use, pauses of {format_duration(LEAST_PAUSE)} or more "
            f"({format_duration(SHORTEST_PAUSE)} from {percent(MOSTLY_SHARE)} on), and clients wait "
            "or no connection is to spare",
        },
        holders=context.find_holders(holding),
        frees=min(len(holding), round(use.mean_paused)),
        decide_by=decide_by,
    )


def _write_ends(times: HoldTimes, ended: Sequence[Track], holding: Sequence[Track]) -> str:
    """Write what shows that these holds end."""
    if times.are_long:
        return f"and by the pool's own figures a connection comes back after {format_duration(times.mean)} on average"
    if ended:
        return "and they do end"
    begun = [track.now - at for track in holding if (at := track.last.transaction_at) is not None]
    oldest, youngest = max(begun, default=0.0), min(begun, default=0.0)
    if len(begun) < len(holding) or youngest > oldest - youngest:
        return "and none was observed to end"
    return (
        f"and new ones begin one after the other, so old ones end: they began {format_duration(youngest)} to "
        f"{format_duration(oldest)} ago"
    )
