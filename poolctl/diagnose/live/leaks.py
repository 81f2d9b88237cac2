"""Connections that do not come back, in a transaction or out of one; what cannot be told apart from them is said.

In a transaction the server alone can tell: nothing but the application ends it. Idle outside of one it cannot: a
parked session of a healthy pool looks the same, so somebody has to say that the pool is out of connections.
"""

from collections.abc import Iterator
from math import inf
from statistics import median

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, at_most_likely, called
from poolctl.diagnose.live.tracks import STUCK_AFTER, TIMES_LONGEST, TIMES_TYPICAL, Application, Track, is_interactive
from poolctl.diagnose.live.waits import PoolSeries
from poolctl.units import format_count, format_duration, percent, plural

LEAST_STUCK = 2
"""Survivors in one application. One alone may be a batch, a debugger or a person: it is "held", not leaked."""
LEAST_BY_HAND = 5
ACQUIRE_TIMEOUT = 30.0
"""Seconds after which psycopg_pool, SQLAlchemy and HikariCP give up waiting by default: a holder that waits for a
second connection would have failed and released by then."""
SPREAD = 0.06
"""Seconds between the youngest and the oldest of a set that still count as one moment. Jams of nested acquires were
within it on idle and on loaded machines (5 to 32 ms seen), leaks come one by one."""


def leak_in_transaction(case: RuleContext) -> Iterator[Finding]:
    """Transactions that the application began and left open.

    Threshold: two survivors in an application, older than max(1 s, 10 x its median transaction, 2 x the longest that
    was seen to end); than 4 x the longest rest in one, where three were seen to end and that is less. Certain: all
    older than the usual acquire timeout of 30 s, not all from one moment, and seen twice. Undetermined: one look only;
    or every session of the application, from one moment or without ages that would tell, while nobody says whether
    anybody waits: it may be a jam of nested acquires. Advisory lock holders and operators' tools do not count; of a
    person's client program five do, as scripts use them too.
    """
    for application in case.facts.applications:
        stuck = case.free(application.stuck)
        if len(stuck) >= _least(application):
            yield _leak_in_transaction(case, application, stuck)


def _least(application: Application) -> float:
    if not application.is_tool:
        return LEAST_STUCK
    return LEAST_BY_HAND if is_interactive(application.name) else inf


def _leak_in_transaction(case: RuleContext, application: Application, stuck: tuple[Track, ...]) -> Finding:
    ages = sorted(track.age for track in stuck)
    waiting = case.facts.waiting(application)
    confidence = _confidence(application, stuck, waiting.is_known)
    pinning = sum(track.last.has_xmin for track in stuck)
    oldest = format_duration(ages[-1])
    at_least = "at least " if any(track.last.state_at is None for track in stuck) else ""
    consequence = f"; {plural(waiting.count or 0, 'client')} waiting" if waiting else ""
    decide_by = None
    if confidence == "undetermined":
        decide_by = (
            "a second look: whether the same transactions are still open"
            if stuck[0].looks < 2
            else "watch for longer than the acquire timeout (usually 30 s): holders that wait for a second connection "
            "fail and release then, a leak stays; or look as a member of pg_monitor"
        )
    return build_finding(
        "leak-in-transaction",
        severity=case.severity(application),
        confidence=confidence,
        summary=f"{format_count(len(stuck))} of {plural(application.count, 'session')} of {called(application)} sit "
        f"idle in a transaction that nobody ends, the oldest for {at_least}{oldest}{consequence}",
        evidence={
            "stuck": len(stuck),
            "sessions": application.count,
            "oldest_age": ages[-1],
            "youngest_age": ages[0],
            "age_spread": ages[-1] - ages[0],
            "moved_meanwhile": len(application.moved),
            "median_transaction": application.typical_use,
            "longest_seen_to_end": application.longest_ended,
            "hold_back_vacuum": pinning,
            "waiting": waiting.count,
            "threshold": f"{LEAST_STUCK} idle in transaction for more than {format_duration(application.stuck_after)} "
            f"(1 s, {TIMES_TYPICAL} x the median, 2 x the longest seen to end; or {TIMES_LONGEST} x the longest rest, "
            "if less)",
        },
        holders=case.holders(stuck),
        remedy="Commit or roll back and release on every path of that code: finally, with, defer. Until that is "
        "deployed, end these backends, and set idle_in_transaction_session_timeout for the application's "
        f"role{_locks_lost(case, application)}. A bigger pool only delays the end.",
        frees=len(stuck),
        decide_by=decide_by,
    )


def _confidence(application: Application, stuck: tuple[Track, ...], knows_waiting: bool) -> Confidence:
    ages = [track.age for track in stuck]
    if stuck[0].looks < 2:
        return "undetermined"
    everything = len(stuck) == application.count
    if any(track.last.state_at is None for track in stuck):
        return "undetermined" if everything and len(stuck) > LEAST_STUCK else "likely"
    if everything and not knows_waiting and max(ages) - min(ages) <= SPREAD:
        return "undetermined"
    sure = min(ages) > ACQUIRE_TIMEOUT and max(ages) - min(ages) > SPREAD
    return at_most_likely("certain" if sure else "likely", stuck)


def _locks_lost(case: RuleContext, application: Application) -> str:
    """What that timeout would break: session-level advisory locks go with their session."""
    locks = sum(t.last.advisory_locks for t in case.facts.tracks if t.last.user == application.user)
    return f" (it would also drop {plural(locks, 'advisory lock')} of sessions that idle in one)" if locks else ""


def held(application: Application, tracks: tuple[Track, ...]) -> tuple[Track, ...]:
    """Sessions that rest for longer than max(1 s, 10 x the median use), in or out of a transaction, and did
    something before: a pool opens ahead of need."""
    limit = max(STUCK_AFTER, TIMES_TYPICAL * application.typical_use)
    return tuple(
        track
        for track in tracks
        if (track.is_idle or track.is_in_transaction)
        and track.is_confirmed
        and track.was_used
        and (track.age > limit or (track.last.state_at is None and track.is_in_transaction))
    )


def idle_holds(case: RuleContext) -> Iterator[Finding]:
    """Idle sessions that their own pool says are in use: ``leak``, ``long-hold`` or ``leak-or-long-hold``.

    Needs the pool's figures. A pool says how many are in use and how many lie idle; idle sessions on the server
    beyond those that lie in the pool are held by somebody. Only where the pool is full or waited for, or its
    floor climbs: a hold that nobody misses is a note.
    """
    for application in case.facts.programs:
        pools = case.facts.pools_of(application)
        if not pools or not any(pool.last.in_use is not None for pool in pools):
            continue
        resting = held(application, case.free(application.tracks))
        in_use = sum(pool.last.in_use or 0 for pool in pools)
        parked = sum(pool.last.idle or 0 for pool in pools)
        count = min(len(resting) - parked, in_use)
        pressed = bool(case.facts.waiting(application)) or any(pool.is_full_now for pool in pools)
        steps = max(pool.steps for pool in pools)
        quiet = is_quiet(pools) and not application.moved
        if count < 1 or count < 0.5 * in_use or not (pressed or steps >= LEAST_STEPS or (quiet and count > 1)):
            continue
        # Which of the resting sessions lie in the pool is not told; those that rest longest are held in a lifo
        # pool and in a fifo pool that is waited for alike.
        suspects = tuple(sorted(resting, key=lambda track: (-track.age, track.pid))[:count])
        yield idle_hold(case, application, pools, suspects)


LEAST_STEPS = 3
"""Rises of the least in use, never a fall, from which it is a staircase and not a busy minute (catalog)."""


def is_quiet(pools: tuple[PoolSeries, ...]) -> bool:
    """Nothing was acquired in the whole window, and yet something is in use."""
    grown = [pool.growth("acquired_total") for pool in pools]
    in_use = any(pool.last.in_use for pool in pools)
    return (
        bool(pools) and in_use and all(growth is not None and growth <= 0 for growth in grown) and pools[0].window > 1.0
    )


def idle_hold(
    case: RuleContext, application: Application, pools: tuple[PoolSeries, ...], suspects: tuple[Track, ...]
) -> Finding:
    """One of three codes, by what happened to such holds before.

    ``long-hold``: one of them was seen to come back while the pool was full (certain), or most of them LISTEN or
    hold an advisory lock or a cursor (likely). ``leak``: the number in use climbed in three steps and never fell
    (certain if the oldest is also older than 30 s and ten times the longest that ended), or it is waited for while
    new sessions are still opened beside the frozen ones, or it stays in use without any traffic (likely). Else
    undetermined.
    """
    returned = returns(application, pools)
    on_purpose = [track for track in suspects if is_on_purpose(track)]
    steps = max(pool.steps for pool in pools)
    waiting = case.facts.waiting(application)
    frozen_share = len(application.frozen_idle) / max(1, application.count)
    opened = len(application.opened)
    if returned:
        return long_hold(case, application, suspects, returned, "certain")
    if 2 * len(on_purpose) > len(suspects):
        return long_hold(case, application, suspects, (), "likely")
    oldest = max(track.age for track in suspects)
    confidence: Confidence | None = None
    if steps >= LEAST_STEPS:
        sure = oldest >= max(ACQUIRE_TIMEOUT, 10 * application.longest_ended, 10 * application.typical_use)
        confidence = "certain" if sure else "likely"
    elif (waiting and frozen_share > 0.5 and opened) or (is_quiet(pools) and not waiting):
        confidence = "likely"
    return _leak(case, application, pools, suspects, confidence)


def is_on_purpose(track: Track) -> bool:
    """Whether its last statement, or a lock, says that the session means to stay."""
    words = (track.last.query or "").lstrip().split(None, 2)
    first = words[0].rstrip(";").upper() if words else ""
    return bool(track.last.advisory_locks) or first in ("LISTEN", "DECLARE", "FETCH")


def returns(application: Application, pools: tuple[PoolSeries, ...]) -> tuple[Track, ...]:
    """Sessions that rested for longer than max(1 s, 10 x the median) and then moved, while the pool was full at
    every look: nobody leaves a connection lying in a pool that is waited for."""
    if not all(pool.was_always_full for pool in pools):
        return ()
    limit = max(STUCK_AFTER, TIMES_TYPICAL * application.typical_use)
    return tuple(track for track in application.tracks if track.has_moved and _longest_rest(track) > limit)


def _longest_rest(track: Track) -> float:
    rests = [
        at - row.state_at
        for at, row in track.rows
        if row.state_at is not None
        and (row.state == "idle" or row.in_transaction)
        and row.state_at != track.last.state_at
    ]
    return max(rests, default=0.0)


def long_hold(
    case: RuleContext,
    application: Application,
    suspects: tuple[Track, ...],
    returned: tuple[Track, ...],
    confidence: Confidence,
) -> Finding:
    """Connections that are held for long and come back, while others wait for them."""
    waiting = case.facts.waiting(application)
    longest = max([*(_longest_rest(track) for track in returned), *(track.age for track in suspects)])
    holding = tuple({track.pid: track for track in (*suspects, *returned)}.values())
    seen = ", and nobody acquired or released any meanwhile"
    if returned:
        seen = f", {plural(len(returned), 'release')} seen"
    elif any(map(is_on_purpose, suspects)):
        seen = ", as their last statements say, on purpose"
    return build_finding(
        "long-hold",
        severity=case.severity(application),
        confidence=at_most_likely(confidence, holding),
        summary=f"{plural(len(holding), 'connection')} of {called(application)} are held for "
        f"{format_duration(longest)} or longer{seen}; {plural(waiting.count or 0, 'client')} waiting",
        evidence={
            "held": len(holding),
            "sessions": application.count,
            "longest_hold": longest,
            "median_use": application.typical_use,
            "releases_seen": len(returned),
            "waiting": waiting.count,
            "threshold": "a hold of more than 1 s and 10 x the median that came back, while clients wait",
        },
        holders=case.holders(holding),
        frees=len(holding),
    )


def _leak(
    case: RuleContext,
    application: Application,
    pools: tuple[PoolSeries, ...],
    suspects: tuple[Track, ...],
    confidence: Confidence | None,
) -> Finding:
    """``leak`` with a confidence, ``leak-or-long-hold`` without one."""
    ages = [track.age for track in suspects]
    waiting = case.facts.waiting(application)
    in_use, most = sum(p.last.in_use or 0 for p in pools), sum(p.max_open for p in pools)
    steps = max(pool.steps for pool in pools)
    of = f" of {most}" if most else ""
    wait = f", {plural(waiting.count or 0, 'client')} waiting" if waiting else ""
    if confidence is None:
        return undetermined_hold(case, application, suspects, f"of {in_use}{of} in use")
    return build_finding(
        "leak",
        severity=case.severity(application),
        confidence=at_most_likely(confidence, suspects),
        summary=f"{format_count(len(suspects))} of {in_use}{of} connections in use by {called(application)} do nothing "
        f"and do not come back, the oldest for {format_duration(max(ages))}{wait}",
        evidence={
            "suspected": len(suspects),
            "in_use": in_use,
            "max_open": most or None,
            "in_use_floor": list(pools[0].floor),
            "floor_steps": steps,
            "oldest_age": max(ages),
            "median_age": median(ages),
            "frozen_share": percent(len(application.frozen_idle) / max(1, application.count)),
            "opened_meanwhile": len(application.opened),
            "waiting": waiting.count,
            "longest_seen_to_end": application.longest_ended,
            "threshold": f"a floor of in_use that climbs {LEAST_STEPS} times, or more than half frozen while new "
            "sessions are opened and clients wait, or in use without traffic",
        },
        holders=case.holders(suspects),
        frees=len(suspects),
    )


def undetermined_hold(case: RuleContext, application: Application, suspects: tuple[Track, ...], of: str) -> Finding:
    """``leak-or-long-hold``: a set that stands still while clients wait, and no such hold was seen to end yet."""
    ages = [track.age for track in suspects]
    waiting = case.facts.waiting(application)
    wait = f" while {plural(waiting.count or 0, 'client')} wait" if waiting else ""
    limit = max(STUCK_AFTER, TIMES_TYPICAL * application.typical_use)
    return build_finding(
        "leak-or-long-hold",
        severity=case.severity(application),
        confidence="undetermined",
        summary=f"{plural(len(suspects), 'connection')} {of} by {called(application)} stand still{wait}, the oldest "
        f"for {format_duration(max(ages))}: leaked, or a long job that will come back",
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
        holders=case.holders(suspects),
        frees=len(suspects),
        decide_by="watch for longer than the longest hold that is legitimate (--for): one that comes back is a long "
        "hold, a number in use that only climbs is a leak; or ask the process where its connections are, and its host "
        "whether it is stopped",
    )
