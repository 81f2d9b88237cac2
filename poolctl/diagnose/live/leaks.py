"""Connections that do not come back, in a transaction or out of one, and what cannot be separated from them.

Decides between a leak, a long hold and an open question. In a transaction the server alone can decide: nothing but the
application ends it. Outside of one it cannot: a parked connection of a healthy pool looks the same, so a pool or a
pooler has to report that connections are short.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf
from statistics import median

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence, name_application
from poolctl.diagnose.live.shared_findings import (
    DECIDE_HOLD_BY,
    LEAST_STUCK,
    build_leak_in_transaction,
    build_long_hold,
    build_undetermined_hold,
    write_oldest,
)
from poolctl.diagnose.live.tracks import (
    FIRST_USE,
    LEAST_RESTS,
    STUCK_AFTER,
    TIMES_TYPICAL,
    Application,
    Rest,
    Track,
    is_interactive,
)
from poolctl.diagnose.live.usage import MOST_GAPS, SPREAD, find_held, find_stuck, is_quiet, takes_turns
from poolctl.diagnose.live.waits import PoolSeries
from poolctl.observe.snapshot import IN_TRANSACTION
from poolctl.units import format_count, percent, plural

LEAST_BY_HAND = 5
TIMES_USUAL = 1000
"""Mean holds, by the pools' own figures, from which a connection that is still held is lost. Work of one request in a
thousand may take as long, and then it raises the mean to that."""


def find_leak_in_transaction(context: RuleContext) -> Iterator[Finding]:
    """Report transactions that the application began and left open.

    Threshold: two survivors in an application, older than max(1 s, 10 x its median transaction, 2 x the longest that
    was observed to end); or older than 4 x the longest rest in one, where three were observed to end and that is less.
    Never younger than 4 x the mean hold that the pool's figures count: such holds come back, and outlast a short
    observation. Nor where holds still begin one after the other in all backends: see ``find_held_across_io``.
    Certain: all older than 1000 x that mean, not all from about one moment, and observed twice.
    Undetermined: one sample only; every backend of the application, while nothing shows for how long they are usually
    held (no figures, none observed to end) and earlier holds may have been as long; or no other backend did anything,
    for up to a minute: jobs that take longer; or they may be a batch, see ``_may_be_batch``, or mostly read a cursor,
    whose next rows come when the ones before are processed; or from one moment or without ages, while it is not known
    whether clients wait: it may be a self- deadlock. Holders of advisory locks and operators' tools do not count; of a
    person's client program five do, as scripts use them too.
    """
    for application in context.facts.applications:
        times = context.measure_hold_times(application)
        stuck = context.keep_unexplained(find_stuck(application, times))
        if len(stuck) < _count_least(application) or takes_turns(application, stuck, times):
            continue
        yield build_leak_in_transaction(context, application, stuck, _judge_confidence(context, application, stuck))


def _count_least(application: Application) -> float:
    if not application.is_tool:
        return LEAST_STUCK
    return LEAST_BY_HAND if is_interactive(application.name) else inf


STANDS_LONG = 60.0
"""Seconds without any transaction that begins or ends, in all backends of an application, after which they are rather
lost than at work: of ten requests at work, each for up to 90 s, none ends within a minute once in 200,000 times."""


def _may_be_usual(context: RuleContext, stuck: Sequence[Track]) -> bool:
    """Return True if the holds before these may have been as long, as far as is known.

    A backend that is much older than its transaction gave its connection back before: after a hold of up to the time
    between its login and this transaction. PostgreSQL counts the time that transactions idled (14+): where that is
    little of what these backends had before, they were not held so.
    """
    if min(track.age for track in stuck) >= STANDS_LONG:
        return False
    before = [
        track.last.transaction_at - track.last.started_at
        for track in stuck
        if track.last.transaction_at is not None and track.last.started_at is not None
    ]
    if max(before, default=0.0) < EARLIER_SHARE * max(track.age for track in stuck):
        return False
    idled = _count_idle_time(context, stuck[0])
    return idled is None or idled >= LEAST_HELD_SHARE * sum(before)


def _serves_others(context: RuleContext, application: Application) -> bool:
    """Return True if a backend of ``application`` did short work, as it does for requests beside a leak.

    Where it does nothing else, these may be jobs, which take longer than the observation. A role that sees no times
    sees how many transactions ended in the database; True where that is not known either.
    """
    if any(track.last.is_inferred for track in application.tracks):
        ended = context.facts.count_ended(application.database)
        return ended is None or ended >= application.count
    return any(t.ended_transaction or (t.has_moved and t.is_idle) for t in (*application.tracks, *application.gone))


def _came_none_back(context: RuleContext, application: Application, stuck: Sequence[Track]) -> bool:
    """Return True if by the pools' figures no connection ever came back: these may be the first requests.

    Not after a minute. A leak in one request of several is met by others, whose connections do.
    """
    pools = context.facts.find_pools_of(application)
    are_first = bool(pools) and all(pool.last.use_count_total == 0 for pool in pools)
    return are_first and min(track.age for track in stuck) < STANDS_LONG


AT_ONCE = 0.1
"""Seconds after its login in which a session begins its first transaction, if it was opened for that (5 to 60 ms, with
both cores taken)."""


def _are_first_uses(stuck: Sequence[Track]) -> bool:
    """Return True if each began as soon as its session did, and all at about one moment, up to a minute ago.

    So does a service whose first requests are long ones: none ended before, and these may end later. A leak in one
    request of several leaves sessions that served others before, and fills a pool one by one.
    """
    ages = [track.age for track in stuck]
    is_first = all(t.session_age is not None and t.session_age <= t.age + AT_ONCE for t in stuck)
    is_at_once = max(ages) - min(ages) <= max(STUCK_AFTER, ONE_MOMENT_SHARE * min(ages))
    return is_first and is_at_once and min(ages) < STANDS_LONG


def _are_usual_by_counters(context: RuleContext, application: Application, stuck: Sequence[Track]) -> bool:
    """Return True if the server's counters say that transactions idled long before, and few ends were observed.

    Only of an application that has its database for itself, as the counters are of the whole database. Where three
    rests or more were observed to end, these say more.
    """
    rests = sum(len(track.turnover.rests) for track in application.tracks)
    if rests >= LEAST_RESTS or _count_idle_time(context, stuck[0]) is None:
        return False
    others = [each for each in _users(context) if each is not application and each.database == application.database]
    return not others and _may_be_usual(context, stuck)


def _count_idle_time(context: RuleContext, track: Track) -> float | None:
    """Return the seconds that transactions idled in the database of ``track`` since before it logged in; None if not
    counted."""
    last, samples = track.last, context.facts.server_samples
    counters = next((each for each in samples[-1].databases if each.name == last.database), None) if samples else None
    is_reset = counters is not None and counters.reset_at is not None and counters.reset_at > (last.started_at or 0.0)
    return None if counters is None or is_reset else counters.transaction_idle_time


LEAST_HELD_SHARE = 0.1
"""Share of the earlier time of backends that transactions idled, below which they were not held as they are now."""
EARLIER_SHARE = 0.25
"""Share of the age of a hold from which an earlier one was of the same kind: a long hold is rarely over four times a
short one of the same code (see TIMES_LONGEST)."""


WATCHED_SHARE = 0.25
"""Share of the time for which these were watched that another one was, which then ended, from which they may be of the
same kind: it may have begun before the window."""


ONE_MOMENT_SHARE = 0.25
"""Share of the youngest age within which all of them began, up to which it may have been a jam of nested acquires."""
STANDSTILL_SHARE = 0.1
"""The same where that is not known from figures, and up to a second: see ``find_self_deadlock`` for older ones."""


def _were_others_held(application: Application, stuck: Sequence[Track]) -> bool:
    """Return True if, of transactions whose ages are hidden, others that lasted for long were observed to end.

    Or all backends are in one, some of them in a new one: nothing but holds goes on. Or one rested in a transaction and
    then worked on in it: such rests end.
    """
    if any(map(_worked_on, application.tracks)):
        return True
    oldest = max(track.age for track in stuck)
    longest = max((track.watched_hold for track in (*application.tracks, *application.gone)), default=0.0)
    if longest >= WATCHED_SHARE * oldest > 0:
        return True
    moved = [track for track in application.tracks if track.ended_transaction]
    return bool(moved) and all(track.last.in_transaction for track in application.tracks)


def _worked_on(track: Track) -> bool:
    """Return True if it rested in a transaction in one sample, and worked in the same one in the next."""
    return any(
        before.row.state == IN_TRANSACTION
        and after.row.is_active
        and before.row.virtual_transaction == after.row.virtual_transaction is not None
        for before, after in pairwise(track.stretches)
    )


def _judge_confidence(context: RuleContext, application: Application, stuck: tuple[Track, ...]) -> Confidence:
    times = context.measure_hold_times(application)
    knows_waiting = context.facts.count_waiting(application).is_known
    ages = [track.age for track in stuck]
    if stuck[0].sample_count < 2 or takes_turns(application, stuck, times, MOST_GAPS):
        return "undetermined"
    # Holders of advisory locks are in such a jam, too.
    locked = [t for t in application.tracks if t.is_in_transaction and t.is_confirmed and t.last.advisory_locks]
    everything = len(stuck) + len(locked) == application.count
    nothing_ended = not times.mean and not application.longest_ended
    if (
        everything
        and nothing_ended
        and (_may_be_usual(context, stuck) or _are_first_uses(stuck) or _came_none_back(context, application, stuck))
    ):
        return "undetermined"
    if not everything and nothing_ended and min(ages) < STANDS_LONG and not _serves_others(context, application):
        return "undetermined"
    if not times.mean and _are_usual_by_counters(context, application, stuck):
        return "undetermined"
    if min(ages) < STANDS_LONG and (
        _may_be_batch(context, application, stuck) or 2 * sum(track.is_listening for track in stuck) > len(stuck)
    ):
        return "undetermined"
    if any(track.last.state_at is None for track in stuck):
        is_open = everything or stuck[0].sample_count < LEAST_LOOKS
        return "undetermined" if is_open or _were_others_held(application, stuck) else "likely"
    one_moment = max(SPREAD, min(STUCK_AFTER, STANDSTILL_SHARE * min(ages)))
    if everything and not knows_waiting and max(ages) - min(ages) <= one_moment:
        return "undetermined"
    # Use times without their number leave out what is taken in another way: then the mean may be of a part.
    is_counted = all(pool.last.use_count_total is not None for pool in context.facts.find_pools_of(application))
    moment = STUCK_AFTER if is_counted else max(STUCK_AFTER, ONE_MOMENT_SHARE * min(ages))
    sure = 0 < TIMES_USUAL * times.mean < min(ages) and max(ages) - min(ages) > moment
    return cap_confidence("certain" if sure else "likely", stuck)


def _may_be_batch(context: RuleContext, application: Application, stuck: Sequence[Track]) -> bool:
    """Return True if ``stuck`` may be the workers of a batch that no client waits for.

    No other backend of the application does anything: a leak is met by requests, which use the rest of the pool. Its
    pools have connections to spare and no client waits, by their figures. Or, without figures, each began its first
    transaction within a second of its login, all within a second.
    """
    if application.longest_ended or application.moved or application.opened or application.gone:
        return False
    pools = context.facts.find_pools_of(application)
    waiting = context.facts.count_waiting(application)
    if waiting.is_known:
        return bool(pools) and not waiting and not any(pool.is_full_now for pool in pools)
    ages = [track.age for track in stuck]
    if any(track.last.state_at is None or track.session_age is None for track in stuck):
        return False
    is_first = all(track.age + FIRST_USE >= (track.session_age or 0.0) for track in stuck)
    return is_first and max(ages) - min(ages) <= STUCK_AFTER


NEARLY_FULL = 0.75
"""Share of a pool that is held by clients that do nothing, from which it matters although no client waits yet."""
LEAST_STEPS = 3
"""Rises of the least in use, never a fall, from which it is a staircase and not a busy minute."""


def find_idle_holds(context: RuleContext) -> Iterator[Finding]:
    """Report idle backends that their own pool counts as in use: ``leak``, ``long-hold`` or ``leak-or-long-hold``.

    Needs the pool's figures. A pool reports how many connections are in use and how many are idle in it; idle backends
    on the server beyond these are held by a client. Only where the pool is full or waited for, its floor climbs, or
    three quarters of it are held so: a hold that no client misses is a note.
    """
    for application in context.facts.programs:
        pools = context.facts.find_pools_of(application)
        if not pools or not any(pool.last.in_use is not None for pool in pools):
            continue
        unexplained = context.keep_unexplained(application.tracks)
        resting = (*find_held(application, unexplained), *_find_hidden_rests(context, application, unexplained))
        in_use = sum(pool.last.in_use or 0 for pool in pools)
        # What was never used is opened ahead of need, and so among the idle ones that the pool counts.
        unused = sum(track.is_idle and not track.was_used for track in application.tracks)
        parked = max(0, sum(pool.last.idle or 0 for pool in pools) - unused)
        count = min(len(resting) - parked, in_use)
        pressed = bool(context.facts.count_waiting(application)) or any(pool.is_full_now for pool in pools)
        steps = max(pool.steps for pool in pools)
        quiet = is_quiet(pools) and not application.moved and count > 1
        most = sum(pool.max_open for pool in pools)
        nearly = 0 < NEARLY_FULL * most <= count and not all(track.is_on_purpose for track in resting)
        if count < 1 or count < 0.5 * in_use or not (pressed or steps >= LEAST_STEPS or quiet or nearly):
            continue
        # Which of the resting backends are free in the pool is not known. The ones that rest longest are held, in a
        # lifo pool and in a fifo pool that is waited for alike.
        suspects = tuple(sorted(resting, key=lambda track: (-track.age, track.pid))[:count])
        yield build_idle_hold(context, application, pools, suspects)


LEAST_LOOKS = 4
"""Samples none of which found a backend at work, from which it rests, where this role may not see since when."""


def _find_hidden_rests(context: RuleContext, application: Application, tracks: Sequence[Track]) -> tuple[Track, ...]:
    """Find the idle backends that rest by all that a role without privileges sees, while their pool counts holds.

    No sample found them at work, and as few transactions ended in their database, or others use it. Acquires and
    releases that go on have to explain less than half of what is in use in every sample, by the pool's use times.
    """
    pools = context.facts.find_pools_of(application)
    resting = tuple(track for track in tracks if track.hides_rest and not track.used)
    if not resting or resting[0].sample_count < LEAST_LOOKS:
        return ()
    floor = sum(min(each.in_use or 0 for each in pool.figures) for pool in pools)
    if any(pool.measure_growth("acquired_total") for pool in pools):
        times = context.measure_hold_times(application)
        by_turns = times.mean * (times.returned or 0.0) / max(context.facts.window, 1.0)
        if not by_turns or 2 * by_turns >= floor:
            return ()
    is_alone = not any(each.database == application.database and each is not application for each in _users(context))
    has_worked = is_alone and (context.facts.count_ended(application.database) or 0) >= len(resting)
    return () if has_worked or not floor else resting


def _users(context: RuleContext) -> Sequence[Application]:
    return [each for each in context.facts.applications if not each.name.startswith("poolctl")]


def build_idle_hold(
    context: RuleContext, application: Application, pools: tuple[PoolSeries, ...], suspects: tuple[Track, ...]
) -> Finding:
    """Build one of three findings, by what happened to such holds before.

    ``long-hold``: one of them came back although the pool had none to spare (certain), or most of them LISTEN or hold
    an advisory lock or a cursor, or are not older than four mean holds by the pools' own figures (likely). ``leak``:
    the number in use climbed in three steps and never fell, while most of what was acquired came back (certain if the
    oldest is also older than 1000 mean holds); or it is waited for while new connections are still opened beside the
    frozen ones, or it stays in use without any traffic for 30 s or more, and for longer than holds that take turns
    (likely). Otherwise undetermined.
    """
    times = context.measure_hold_times(application)
    usual = [track for track in suspects if not track.hides_rest and track.age <= times.limit]
    returned = find_returned(context, application, pools)
    on_purpose = [track for track in suspects if track.is_on_purpose]
    steps = max(pool.steps for pool in pools)
    waiting = context.facts.count_waiting(application)
    frozen_share = len(application.frozen_idle) / max(1, application.count)
    opened = len(application.opened)
    if returned:
        return build_long_hold(context, application, suspects, returned, "certain")
    if (2 * len(on_purpose) > len(suspects) and not _may_be_jam(application)) or (
        times.are_long and 2 * len(usual) > len(suspects)
    ):
        return build_long_hold(context, application, suspects, (), "likely")
    oldest = max(track.age for track in suspects)
    confidence: Confidence | None = None
    if steps >= LEAST_STEPS and not _keeps_most(pools):
        sure = oldest >= TIMES_USUAL * times.mean > 0
        confidence = "certain" if sure else "likely"
    elif (waiting and frozen_share > 0.5 and opened) or (is_quiet(pools) and not waiting and _stands_long(suspects)):
        confidence = "likely"
    return _build_leak(context, application, pools, suspects, confidence)


AS_MEMBER = f"an observation as a member of pg_monitor, with the pool's figures side by side; or {DECIDE_HOLD_BY}"

QUIET_AFTER = 30.0
"""Seconds of the youngest hold in a pool without traffic, from which it is rather lost than a long request: many
proxies end a request by then."""


def _stands_long(suspects: Sequence[Track]) -> bool:
    """Return True if no hold began for so long that these are no long requests, one after the other (``takes_turns``)
    or all at once."""
    ages = [track.age for track in suspects]
    gap = (max(ages) - min(ages)) / max(1, len(ages) - 1)
    return min(ages) >= max(QUIET_AFTER, MOST_GAPS * gap)


def _keeps_most(pools: Sequence[PoolSeries]) -> bool:
    """Return True if half or more of what was acquired in the window stayed in use: holds that are all long, and a load
    that begins."""
    grown = [pool.measure_growth("acquired_total") for pool in pools]
    rise = sum((pool.last.in_use or 0) - (pool.figures[0].in_use or 0) for pool in pools)
    return bool(grown) and None not in grown and sum(each or 0.0 for each in grown) <= 2 * rise


def _may_be_jam(application: Application) -> bool:
    """Return True if every backend is at rest in a transaction, and this role may not see since when.

    Holders of locks that wait for a second connection look the same, but for the one moment.
    """
    return all(
        track.is_in_transaction and track.last.state_at is None and not track.is_listening
        for track in application.tracks
    )


def find_returned(context: RuleContext, application: Application, pools: tuple[PoolSeries, ...]) -> tuple[Track, ...]:
    """Find the backends that were held at rest for longer than max(1 s, 10 x the median) and then moved.

    Held: the pool was full in every sample, as no client leaves a connection unused in a pool that is waited for; or
    for a second of that rest no connection of it was free.
    """
    limit = max(STUCK_AFTER, TIMES_TYPICAL * application.typical_use)
    always = all(pool.was_always_full for pool in pools)
    full = sorted(
        snapshot.server.at
        for snapshot in context.facts.observation.snapshots
        if snapshot.server is not None and all(snapshot.at in pool.full_at for pool in pools)
    )

    def was_held(rest: Rest) -> bool:
        within = [at for at in full if rest.since <= at <= rest.until]
        return rest.length > limit and (always or (bool(within) and within[-1] - within[0] >= STUCK_AFTER))

    return tuple(track for track in application.tracks if track.has_moved and any(map(was_held, track.list_rests())))


def _build_leak(
    context: RuleContext,
    application: Application,
    pools: tuple[PoolSeries, ...],
    suspects: tuple[Track, ...],
    confidence: Confidence | None,
) -> Finding:
    """Build ``leak`` with a confidence, ``leak-or-long-hold`` without one."""
    ages = [track.age for track in suspects]
    is_hidden = any(track.hides_rest for track in suspects)
    waiting = context.facts.count_waiting(application)
    in_use, most = sum(p.last.in_use or 0 for p in pools), sum(p.max_open for p in pools)
    steps = max(pool.steps for pool in pools)
    of, limit = (f" of {most}", f" (max_open {most})") if most else ("", "")
    wait = f", {plural(waiting.count or 0, 'client')} waiting" if waiting else ""
    if confidence is None:
        decide_by = AS_MEMBER if any(track.hides_rest for track in suspects) else DECIDE_HOLD_BY
        return build_undetermined_hold(context, application, suspects, f"{in_use}{of} in use", decide_by=decide_by)
    return build_finding(
        "leak",
        severity=context.judge_severity(application),
        confidence=cap_confidence(confidence, suspects),
        summary=f"{format_count(len(suspects))} of {plural(in_use, 'connection')} in use by "
        f"{name_application(application)}{limit} do nothing and do not come back, {write_oldest(suspects)}{wait}",
        evidence={
            "suspected": len(suspects),
            "in_use": in_use,
            "max_open": most or None,
            "in_use_floor": list(pools[0].floor),
            "floor_steps": steps,
            "oldest_age": None if is_hidden else max(ages),
            "median_age": None if is_hidden else median(ages),
            "frozen_share": percent(len(application.frozen_idle) / max(1, application.count)),
            "opened_meanwhile": len(application.opened),
            "waiting": waiting.count,
            "longest_seen_to_end": application.longest_ended or None,
            "threshold": f"a floor of in_use that climbs {LEAST_STEPS} times, or more than half frozen while new "
            "connections are opened and clients wait, or in use without traffic",
        },
        holders=context.find_holders(suspects),
        frees=len(suspects),
    )


STILL_SHARE = 0.5
"""Share of the usable slots that one application's motionless backends take, from which they are the question when
clients are refused."""


def find_standing_still(context: RuleContext) -> Iterator[Finding]:
    """Report ``leak-or-long-hold`` without figures of a pool: a set that stands still while clients are refused or
    wait.

    Threshold: no slot is left, and one application's backends that stand still (idle or in a transaction, for more than
    max(1 s, 10 x the median)) have half of them; or a pool or pooler reports that clients wait for exactly this
    application's connections, and half of these stand still. Always undetermined.
    """
    usable = context.facts.server.usable if context.facts.server else 0
    for application in context.facts.programs:
        still = find_held(application, context.keep_unexplained(application.tracks))
        if context.facts.has_only_titles:
            # A title that says idle in every sample may have worked in between.
            still = tuple(track for track in still if not track.is_idle)
        short = (context.is_full or context.facts.is_refusing) and usable and len(still) >= STILL_SHARE * usable
        waiting = context.facts.count_waiting(application)
        is_waited_for = waiting.sustained and 2 * len(still) >= application.count and _is_used_up(context, application)
        if still and (short or is_waited_for):
            of = f"of {plural(application.count, 'backend')}"
            yield build_undetermined_hold(context, application, still, of)


def _is_used_up(context: RuleContext, application: Application) -> bool:
    pools, queues = context.facts.find_pools_of(application), context.facts.find_queues_of(application)
    return any(pool.is_full for pool in pools) or any(
        queue.is_used_up and queue.last.clients_waiting for queue in queues
    )


def find_opening_beside_idle(context: RuleContext) -> Iterator[Finding]:
    """Report ``leak-or-long-hold`` where a process opens connections beside idle ones of its own.

    For applications whose waiting clients are not reported. Threshold: in one process of this machine, three backends
    that did something and then stood still for the whole window, more than half of its backends, and two new ones
    opened meanwhile. A pool reuses before it opens; new threads with connections of their own do not, hence
    undetermined.
    """
    for application in context.facts.programs:
        by_process: dict[int, list[Track]] = {}
        for track in context.keep_unexplained(application.tracks):
            process = context.clients.find_client(track).process
            if process is not None:
                by_process.setdefault(process.pid, []).append(track)
        if context.facts.count_waiting(application).is_known:
            continue
        suspects = [
            track
            for tracks in by_process.values()
            if _opens_beside_idle(tracks)
            for track in tracks
            if _is_parked(track)
        ]
        if suspects:
            yield build_undetermined_hold(
                context, application, tuple(suspects), f"of {plural(application.count, 'backend')}"
            )


def _opens_beside_idle(tracks: Sequence[Track]) -> bool:
    still = [track for track in tracks if _is_parked(track)]
    new = [track for track in tracks if track.is_new and track.was_used]
    return len(still) >= 3 and 2 * len(still) > len(tracks) and len(new) >= 2


def _is_parked(track: Track) -> bool:
    return (
        track.is_idle
        and track.is_frozen
        and track.was_used
        and track.age > STUCK_AFTER
        and not track.last.advisory_locks
    )
