"""Applications whose backends fell silent one after the other: a pool that leaked whole, or a load that ended.

Decides when the rows allow that doubt, where no figures of the pool are given. The server alone cannot decide it, so
nothing here is more than undetermined; what looks like an ordinary quiet pool is left to the verdict healthy.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding, Holder
from poolctl.diagnose.live.context import RuleContext
from poolctl.diagnose.live.quiet_clients import find_quiet_clients
from poolctl.diagnose.live.shared_findings import LEAST_STUCK, build_undetermined_hold
from poolctl.diagnose.live.tracks import STUCK_AFTER, Application, Track, has_changed
from poolctl.diagnose.live.usage import SPREAD, find_held
from poolctl.observe.snapshot import DatabaseCounters
from poolctl.units import format_duration

LEAST_SILENT = 4
"""Backends of a pool that may have fallen silent one after the other."""
STEADY_SHARE = 0.5
"""Share of the transactions of the window's first part that its last part before the silence still had, from which the
load did not simply end."""
SILENT_GAPS = 3
"""Mean gaps between the backends' last uses for which none followed. A load that still goes on, however slowly, uses
the next one within that time, 19 times of 20."""
MOST_SILENCE = 3600.0
"""Seconds of silence after which an application is rather closed for the night."""
MOST_UNEVEN = 0.7
"""Share of the time between the first and the last backend to stop that one gap may take. Leaks come at random: of ten
one gap is that long once in 5,000. In a pool that prefers the connection used last, each further one was last used
several times longer ago."""
LEAST_PACED = 6
TIMES_PACED = 2.0
"""Backends that stopped at one pace, and the times of the mean gap, and its part, that each gap has to be within. Five
gaps at random are so once in 16, eight once in 200."""
SET_UP = 0.25
"""Seconds after its opening in which a pool sets up a connection ahead of need; pgjdbc took 10 ms."""
TURN = 1.5
"""Transactions for each backend that stopped, up to which they were used in turns: the last requests of a load that
ended went to one connection after the other. Between two leaks others are served as well."""
LOCAL_DELAY, REMOTE_DELAY = 0.1, 0.5
"""Seconds between a pool's decision to open a connection and the start of its backend, at most: from a process of this
machine (5 to 60 ms measured, with both cores taken), and over a network."""
BESIDE_SHARE = 0.5
LEAST_BESIDE = 3
"""Share of a client's openings, and their number, that came after an earlier backend had come to rest for good, from
which it holds those: a pool opens a connection only while it has none free."""
TIMES_LOGIN = 2
LOCAL_LOGIN = 0.02
"""Times a login from which the mean pause between two openings is none of a pool that fills itself: that opens the next
one when a login is over. And the seconds of one from a process of the server's own machine, at most."""
TIMES_VARIED = 1.5
"""Times the first quarter's life that the third's is, from which backends did more than log in: logins take alike."""
QUICK = 0.5
"""Seconds between two openings up to which it is no pool that replaces its connections at the end of their lives."""
LEAST_SINGLE = 10
"""Backends of one process that each served one request when they were opened, from which they are no pool that replaced
its connections: common pools have 4 to 10."""
GIVEN_BACK = ("DISCARD ALL", "RESET ALL", "PG_ADVISORY_UNLOCK_ALL")
"""What pools send when a connection comes back (asyncpg, Npgsql, PgBouncer)."""

DECIDE_BY = (
    "the figures of its pool (--pool-stats) or its log: connections that are in use, or acquires that time out, are "
    "leaked; if all are idle in the pool, no request came"
)


def find_falling_silent(context: RuleContext) -> Iterator[Finding]:
    """Report ``leak-or-long-hold`` where the backends of an application fell silent one after the other.

    For applications whose waiting clients are not reported. Threshold: four backends or more, all idle now for more
    than max(1 s, 10 x the median). Within the window: three or more of them did their last work in it, each at a time
    of its own, over a second or more; the last one worked on in every sample until then; and the server counted as many
    transactions to the end (half at least), so the load did not fade. Before it: see ``_stopped_one_by_one``,
    ``_was_filled_by_load`` and ``_opened_beside_held``; the last also for each process of an application. Always
    undetermined: a load that ends leaves a pool that is used in turns in the same state, and workers that each keep a
    connection of their own leave theirs as the other.
    """
    for application in context.facts.programs:
        tracks = context.keep_unexplained(application.tracks)
        if len(tracks) < LEAST_SILENT or len(tracks) < application.count or application.gone:
            continue
        if context.facts.count_waiting(application).is_known or any(track.is_on_purpose for track in tracks):
            continue
        held = find_held(application, tracks)
        if len(held) < len(tracks):
            yield from _find_silent_processes(context, application, held)
            continue
        if any(_was_given_back(track) for track in held):
            continue
        since = format_duration(min(track.age for track in held))
        if _fell_silent(context, held) or (
            _stopped_one_by_one(context, held) and not _was_filled_by_load(context, held)
        ):
            of, or_else = "silent one after the other and", "or no request came since"
        elif _opened_beside_held(context, held):
            of, or_else = OPENED_BESIDE, OR_ONE_EACH
        else:
            continue
        of = f"all {len(held)}, {of} for {since} now"
        yield build_undetermined_hold(context, application, held, of, or_else=or_else, decide_by=DECIDE_BY)


OPENED_BESIDE = "most of them opened although others rested already, silent"
OR_ONE_EACH = "or each worker has one of its own, and no request came since"


def _find_silent_processes(
    context: RuleContext, application: Application, held: tuple[Track, ...]
) -> Iterator[Finding]:
    """Report processes of this machine that hold all their backends, while others of the application work.

    Only by what they opened beside others at rest: the load of one process may end at any time, as it restarts.
    """
    theirs = _group_by_client(context, held)
    for client, tracks in _group_by_client(context, application.tracks).items():
        group = tuple(theirs.get(client, ()))
        if not isinstance(client, int) or len(group) < len(tracks) or any(map(_was_given_back, group)):
            continue
        if _opened_beside_held(context, group):
            since = format_duration(min(track.age for track in group))
            of = f"all {len(group)} of process {client}, {OPENED_BESIDE} for {since} now"
            yield build_undetermined_hold(context, application, group, of, or_else=OR_ONE_EACH, decide_by=DECIDE_BY)


def find_silent_clients(context: RuleContext) -> Iterator[Finding]:
    """Report ``leak-or-long-hold`` where the clients of an application at a PgBouncer fell silent one after the other.

    Threshold: as of backends, see ``_stopped_evenly``, of clients of which half sent something after they connected.
    Not while clients wait in PgBouncer: that is another question. Always undetermined.
    """
    if any(queue.waiting for queue in context.facts.queues):
        return
    for each in find_quiet_clients(context.facts):
        worked = [c for c in each.clients if (c.requested_at or 0.0) > (c.connected_at or 0.0) + SET_UP]
        if 2 * len(worked) < each.count or not _stopped_evenly(sorted(each.ages)):
            continue
        users = dict.fromkeys((client.user, client.address) for client in each.clients)
        yield build_finding(
            "leak-or-long-hold",
            severity="warning",
            confidence="undetermined",
            summary=f"All {each.count} clients of {each.name} at PgBouncer fell silent one after the other, and have "
            f"sent nothing for {format_duration(each.since)} or longer: their connections are leaked, or no request "
            "came since",
            evidence={
                "clients": each.count,
                "oldest_age": max(each.ages),
                "youngest_age": each.since,
                "threshold": f"{LEAST_SILENT} clients that stopped one by one, then nothing for {SILENT_GAPS} times as "
                "long",
            },
            holders=tuple(Holder(application=each.name, user=user, client=address) for user, address in users),
            decide_by=DECIDE_BY,
        )


def _was_given_back(track: Track) -> bool:
    words = (track.last.query or "").upper()
    return any(text in words for text in GIVEN_BACK)


def _fell_silent(context: RuleContext, tracks: Sequence[Track]) -> bool:
    stopped = sorted((t for t in tracks if t.has_moved and t.last.state_at is not None), key=lambda track: -track.age)
    if len(stopped) < LEAST_STUCK + 1 or stopped[0].age - stopped[-1].age < STUCK_AFTER:
        return False
    last = stopped[-1]
    since, until = last.since, last.now - last.age
    steps = [(a, b) for (at, a), (to, b) in pairwise(last.list_rows()) if to <= until]
    if len(steps) < LEAST_SILENT or sum(has_changed(a, b) for a, b in steps) < 0.8 * len(steps):
        return False
    return _stays_steady(context, since, until)


def _stays_steady(context: RuleContext, since: float, until: float) -> bool:
    """Return True if as many transactions ended in the last part of the time before ``until`` as in the first.

    By pg_stat_database, which backends report to once a second at most.
    """
    counts = [
        (sample.at, sum(each.commits + each.rollbacks for each in sample.databases))
        for sample in context.facts.server_samples
        if since <= sample.at and sample.databases
    ]
    middle = (since + until) / 2
    before = [count for at, count in counts if at <= middle]
    # What was done just before the silence is reported up to a second later.
    after = [count for at, count in counts if at > middle]
    if len(before) < 2 or not after:
        return False
    return after[-1] - before[-1] >= STEADY_SHARE * (before[-1] - before[0])


def _stopped_one_by_one(context: RuleContext, tracks: Sequence[Track]) -> bool:
    """Return True if the last uses of ``tracks`` are those of a pool that leaked, and then had nothing left.

    They stopped each at a moment of its own, over a second or more and evenly, half of them at least later than just
    after they were opened; and then there was silence for three times as long as between two of them, for an hour at
    most. Not where the database had no more transactions than backends that stopped.
    """
    ages = sorted(track.age for track in tracks if track.last.state_at is not None)
    if len(ages) < len(tracks) or 2 * sum(map(_has_worked, tracks)) < len(tracks) or not _stopped_evenly(ages):
        return False
    rate = _measure_earlier_rate(context, tracks)
    return rate is None or rate * (ages[-1] - ages[0]) / (len(ages) - 1) > TURN


def _stopped_evenly(ages: Sequence[float]) -> bool:
    """Return True if what was last used so long ago (the youngest first) stopped one by one, and then was silence."""
    if len(ages) < LEAST_SILENT:
        return False
    gaps = [older - younger for younger, older in pairwise(ages)]
    span = ages[-1] - ages[0]
    gap = span / len(gaps)
    is_even = span >= STUCK_AFTER and max(gaps) <= MOST_UNEVEN * span
    if not is_even or 4 * sum(each > SPREAD for each in gaps) < 3 * len(gaps):
        return False
    return SILENT_GAPS * gap <= ages[0] <= MOST_SILENCE


def _was_filled_by_load(context: RuleContext, tracks: Sequence[Track]) -> bool:
    """Return True if a process of this machine opened ``tracks`` one by one, and none after one rested for good.

    So many requests came at once, then. A pool that prefers the connection used last rests the further ones first as
    its load ebbs away, one by one as a leak takes them. A pool that leaks opens others in their place, or opened
    all of them ahead; or one request in so many leaks: then they stopped at one pace, as no load ebbs away.
    """
    clients = _group_by_client(context, tracks)
    return all(isinstance(client, int) and _peaked_once(each) for client, each in clients.items())


def _peaked_once(tracks: Sequence[Track]) -> bool:
    started = sorted(track.last.started_at for track in tracks if track.last.started_at is not None)
    rested = sorted(track.last.state_at for track in tracks if track.last.state_at is not None)
    if len(started) < len(tracks) or len(rested) < len(tracks) or len(tracks) < 2:
        return False
    pause = max(later - earlier for earlier, later in pairwise(started))
    if pause <= LOCAL_DELAY or started[-1] > rested[0] + LOCAL_DELAY:
        return False
    gaps = [later - earlier for earlier, later in pairwise(rested)]
    mean = (rested[-1] - rested[0]) / len(gaps)
    return len(tracks) < LEAST_PACED or not all(mean <= TIMES_PACED * gap <= TIMES_PACED**2 * mean for gap in gaps)


def _opened_beside_held(context: RuleContext, tracks: Sequence[Track]) -> bool:
    """Return True if each client of ``tracks`` opened backends although others of its own rested for good by then.

    A client is a process where it is known, else an address. Then the silence is three times as long as the mean pause
    between two openings. Backends that did no more than log in also have to be opened quickly, in one process: a pool
    replaces old ones so, and so do processes that each open one when they start. Or there are more than a usual pool
    has, each with a request's statement: a client was opened for each request, and kept.
    """
    clients = _group_by_client(context, tracks)
    return all(_are_beside_held(each, isinstance(client, int)) for client, each in clients.items())


def _group_by_client(context: RuleContext, tracks: Sequence[Track]) -> dict[object, list[Track]]:
    """Group ``tracks`` by the pid of their process where it is known, else by their client's address."""
    clients: dict[object, list[Track]] = {}
    for track in tracks:
        process = context.clients.find_client(track).process
        clients.setdefault(process.pid if process is not None else track.last.client, []).append(track)
    return clients


def _are_beside_held(tracks: Sequence[Track], is_one_process: bool) -> bool:
    lives = sorted(
        (track.last.started_at, track.last.state_at)
        for track in tracks
        if track.last.started_at is not None and track.last.state_at is not None
    )
    if len(lives) < len(tracks) or len(lives) < LEAST_SILENT or _was_only_set_up(tracks):
        return False
    delay = LOCAL_DELAY if is_one_process else REMOTE_DELAY
    first_rest = list(accumulate((rested for _, rested in lives), min))
    beside = sum(started - rested > delay for (started, _), rested in zip(lives[1:], first_rest, strict=False))
    if beside < max(LEAST_BESIDE, BESIDE_SHARE * (len(lives) - 1)):
        return False
    used = sorted(rested - started for started, rested in lives)
    if used[0] <= 0:
        return False
    gap = (lives[-1][0] - lives[0][0]) / (len(lives) - 1)
    silence = min(track.age for track in tracks)
    if silence < max(STUCK_AFTER, SILENT_GAPS * gap):
        return False
    if used[-1 - len(used) // 4] >= TIMES_VARIED * used[len(used) // 4]:
        login = min(used[0], LOCAL_LOGIN) if is_one_process else used[0]
        return gap >= TIMES_LOGIN * login and (is_one_process or silence <= MOST_SILENCE)
    is_single = len(lives) > LEAST_SINGLE and not any(map(_was_only_tested, tracks))
    return is_one_process and TIMES_LOGIN * used[0] <= gap and (gap <= QUICK or is_single)


def _was_only_set_up(tracks: Sequence[Track]) -> bool:
    """Return True if half of ``tracks`` or more ran nothing after what sets up a session, as pgjdbc does at login."""
    words = ((track.last.query or "SET").lstrip().split(None, 1)[:1] for track in tracks)
    return 2 * sum(each[0].upper() in ("SET", "SHOW", "RESET") for each in words if each) >= len(tracks)


_TESTS = re.compile(
    r"\s*(?:SELECT\s+(?:1|'?x'?)|VALUES\s*\(1\)|SET\b.*|SHOW\b.*|BEGIN|COMMIT|ROLLBACK)?\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)


def _was_only_tested(track: Track) -> bool:
    """Return True if its last statement may be that of a pool which tests or sets up a new connection."""
    return _TESTS.fullmatch(track.last.query or "") is not None


def _has_worked(track: Track) -> bool:
    started, rested = track.last.started_at, track.last.state_at
    return started is not None and rested is not None and rested - started > SET_UP


def _measure_earlier_rate(context: RuleContext, tracks: Sequence[Track]) -> float | None:
    """Return the transactions a second, at most, of an application while it worked; None where that is not counted.

    Those of its database in all, less what others go on to do in it, over the life of the application's oldest backend.
    """
    name, now = tracks[0].last.database, tracks[0].now
    counted: list[tuple[float, DatabaseCounters]] = [
        (sample.at, each) for sample in context.facts.server_samples for each in sample.databases if each.name == name
    ]
    started = [track.last.started_at for track in tracks if track.last.started_at is not None]
    if not counted or not started:
        return None
    (first_at, first), (last_at, last) = counted[0], counted[-1]
    if last.commits < first.commits:
        return None
    others = (last.commits + last.rollbacks - first.commits - first.rollbacks) / max(last_at - first_at, 0.1)
    since = max(min(started), last.reset_at or 0.0)
    until = now - min(track.age for track in tracks)
    done = last.commits + last.rollbacks - others * (now - since)
    return max(0.0, done) / max(until - since, 0.1)
