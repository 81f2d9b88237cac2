"""Findings that more than one rule reports: a long hold, work elsewhere, and a hold whose cause is open.

Decides their words and evidence. When they are reported is left to the rules.
"""

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence, name_application
from poolctl.diagnose.live.tracks import STUCK_AFTER, TIMES_TYPICAL, Application, Track
from poolctl.diagnose.live.usage import HELD_SHARE, LEAST_PAUSE, HoldPattern
from poolctl.units import format_duration, percent, plural


def build_long_hold(
    context: RuleContext,
    application: Application,
    suspects: tuple[Track, ...],
    returned: tuple[Track, ...],
    confidence: Confidence,
) -> Finding:
    """Build ``long-hold``: connections that are held for long and come back, while clients wait for them."""
    waiting = context.facts.count_waiting(application)
    longest = max([*(track.longest_rest for track in returned), *(track.age for track in suspects)])
    holding = tuple({track.pid: track for track in (*suspects, *returned)}.values())
    observed = ", and none was acquired or released meanwhile"
    if returned:
        observed = f", {plural(len(returned), 'release')} observed"
    elif any(track.is_on_purpose for track in suspects):
        observed = ", as their last statements say, on purpose"
    return build_finding(
        "long-hold",
        severity=context.judge_severity(application),
        confidence=cap_confidence(confidence, holding),
        summary=f"{plural(len(holding), 'connection')} of {name_application(application)} are held for "
        f"{format_duration(longest)} or longer{observed}; {plural(waiting.count or 0, 'client')} waiting",
        evidence={
            "held": len(holding),
            "sessions": application.count,
            "longest_hold": longest,
            "median_use": application.typical_use,
            "releases_seen": len(returned),
            "waiting": waiting.count,
            "threshold": "a hold of more than 1 s and 10 x the median that came back, while clients wait",
        },
        holders=context.find_holders(holding),
        frees=len(holding),
    )


def build_undetermined_hold(
    context: RuleContext, application: Application, suspects: tuple[Track, ...], of: str
) -> Finding:
    """Build ``leak-or-long-hold``: a set that stands still while clients wait, with no such hold observed to end.

    ``of``: how many there are at all, such as "8 of 8 in use".
    """
    ages = [track.age for track in suspects]
    waiting = context.facts.count_waiting(application)
    wait = f" while {plural(waiting.count or 0, 'client')} wait" if waiting else ""
    limit = max(STUCK_AFTER, TIMES_TYPICAL * application.typical_use)
    return build_finding(
        "leak-or-long-hold",
        severity=context.judge_severity(application),
        confidence="undetermined",
        summary=f"{plural(len(suspects), 'connection')} of {name_application(application)} "
        f"{'stands' if len(suspects) == 1 else 'stand'} still ({of}){wait}, the oldest for "
        f"{format_duration(max(ages))}: leaked, or a long job that will come back",
        evidence={
            "standing_still": len(suspects),
            "sessions": application.count,
            "oldest_age": max(ages),
            "youngest_age": min(ages),
            "moved_meanwhile": len(application.moved),
            "waiting": waiting.count,
            "waiting_told_by": waiting.by or None,
            "median_use": application.typical_use,
            "threshold": f"standing still for more than {format_duration(limit)} (1 s, {TIMES_TYPICAL} x the median)",
        },
        holders=context.find_holders(suspects),
        frees=len(suspects),
        decide_by="watch for longer than the longest hold that is legitimate (--for): one that comes back is a long "
        "hold, a number in use that only climbs is a leak; or ask the process where its connections are, and its host "
        "whether it is stopped",
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
        f"{percent(use.share)} of the use is idle in transaction, typically for {format_duration(use.pause)}, and they "
        f"do end{wait}",
        evidence={
            "sessions": application.count,
            "idle_in_transaction_share": percent(use.share),
            "typical_pause": use.pause,
            "longest_seen_to_end": application.longest_ended,
            "ended_meanwhile": len(ended),
            "stuck": len(application.stuck),
            "looks_without_a_spare_session": percent(use.used_up),
            "waiting": waiting.count,
            "threshold": f"> {percent(HELD_SHARE)} of the use, pauses of {format_duration(LEAST_PAUSE)} or more, and "
            "clients wait or no connection is to spare",
        },
        holders=context.find_holders(holding),
        frees=min(len(holding), round(use.mean_paused)),
        decide_by=decide_by,
    )
