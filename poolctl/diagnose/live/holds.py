"""Connections whose holders wait for something else: work elsewhere, or a second connection of the same pool.

Decides between the two by turnover and by the moments at which the backends came to rest. Both hold transactions open,
as a leak does. Holders that wait for a second connection are a "jam" here: they came to rest together, and none goes
on; the finding is ``self-deadlock``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence, name_application
from poolctl.diagnose.live.shared_findings import build_held_across_io, build_leak_in_transaction, build_long_hold
from poolctl.diagnose.live.tracks import STUCK_AFTER, TIMES_LONGEST, Application, Rest, Track
from poolctl.diagnose.live.usage import (
    HELD_SHARE,
    LEAST_PAUSE,
    LEAST_TURNS,
    MEAN_USED_SHARE,
    MOST_HELD_SHARE,
    SPREAD,
    HoldTimes,
    is_quiet,
    measure_use,
    takes_turns,
)
from poolctl.diagnose.live.waits import Waiting
from poolctl.observe.snapshot import Backend
from poolctl.units import format_duration, percent

WHETHER_POOLED = (
    "whether clients wait: the figures of its pool (--pool-stats) or its errors; workers of a batch with a connection "
    "each keep no client out"
)


LEAST_SAMPLES = 4
"""Samples from which short pauses between statements are counted. Of two, five of six rows paused in an application
that waited for a processor of a crowded machine, as its statements did."""
SHORT_PAUSE = 0.2
"""Seconds of a pause up to which it may be such a wait."""
TOO_FEW = "in so few samples, work elsewhere looks like clients that wait for a processor"

TURNS = (
    "observe until the oldest of them ends (--for), or the pool's own use times (--pool-stats): a connection that "
    "comes back was held for work elsewhere, a leaked one stays"
)


def find_held_across_io(context: RuleContext) -> Iterator[Finding]:
    """Report transactions that are kept open while the application does something else.

    Threshold: more than 30 % of the use is idle in transactions of which two or more were observed to end, typically
    for 50 ms or more at a time (25 ms where it is more than 60 %), and it matters: clients wait; or (from 100 ms
    on) nine in ten backends are in use in four samples of five, or 95 % on average. Of holds that outlast the
    observation: two or more transactions idle for longer than 1 s, and none for longer than four mean holds by the
    pool's own figures; or new ones begin one after the other in all backends, so that old ones end (undetermined as
    long as none was observed to); or three quarters of the backends are held, and one hold was observed to end that
    was a quarter as long or longer. Certain: turnover over a window three times the longest transaction, or by the
    pool's figures, and it is known that clients wait which are not the holders themselves: fewer than hold, or no
    acquire timed out. Undetermined: fewer than four backends of an application whose waiting clients are not
    reported, as a few workers of a batch, each with a connection of its own, are always in a transaction too and
    keep no client out; or fewer than four samples, of pauses of 0.2 s or less; or most backends rest so and a
    quarter as many transactions are rolled back as end: acquires of a second connection that time out. A long hold
    (likely) instead, where the pool's figures say that no connection is acquired meanwhile.
    """
    for application in context.facts.programs:
        if application.tracks[0].sample_count < 2 or not context.keep_unexplained(application.tracks):
            continue
        times = context.measure_hold_times(application)
        use, waiting = measure_use(application, times), context.facts.count_waiting(application)
        moved = [
            t
            for t in context.keep_unexplained((*application.tracks, *application.gone))
            if t.ended_transaction or not t.is_there
        ]
        is_used_up = use.used_up >= 0.8 or use.mean_used >= MEAN_USED_SHARE * application.count
        pressed = waiting.sustained or (is_used_up and application.count >= 3)
        holding = context.keep_unexplained(t for t in application.tracks if t.usage.pauses)
        if not holding or not pressed:
            continue
        long = [t for t in holding if t.is_in_transaction and t.age > STUCK_AFTER]
        if ((moved or times.are_long) and _may_be_hidden_jam(context, application, waiting)) or (
            use.pause >= SHORTEST_TIMEOUT and _may_be_timeouts(context, application, waiting, moved)
        ):
            yield build_held_across_io(context, application, use, holding, "undetermined", WHETHER_NESTED)
            continue
        if len(long) > 1 and times.are_long and all(t.age <= times.limit for t in long):
            is_sure = (times.returned or 0) >= 2 and _is_no_jam(context, application, waiting, len(holding))
            confidence: Confidence = "certain" if is_sure else "likely"
            yield build_held_across_io(context, application, use, holding, confidence)
            continue
        if takes_turns(application, long, times):
            # Their ages say that old ones end, and no end was observed.
            use = measure_use(application, HoldTimes(inf, None))
            decide_by = None if moved else TURNS
            yield build_held_across_io(
                context, application, use, holding, "likely" if moved else "undetermined", decide_by
            )
            continue
        if moved and _ends_like_these(application, long):
            yield build_held_across_io(context, application, use, holding, "likely")
            continue
        if not use.is_elsewhere(LEAST_PAUSE if waiting else 2 * LEAST_PAUSE) or len(moved) < 2:
            continue
        pools = context.facts.find_pools_of(application)
        if is_quiet(pools):
            # Its backends work, and yet none is acquired: the same holders keep them over many transactions.
            yield build_long_hold(context, application, holding, (), "likely")
            continue
        if application.tracks[0].sample_count < LEAST_SAMPLES and use.pause <= SHORT_PAUSE:
            decide_by = f"a longer observation ({context.facts.write_longer()}): {TOO_FEW}"
            yield build_held_across_io(context, application, use, holding, "undetermined", decide_by)
        elif not waiting and application.count < LEAST_TURNS:
            yield build_held_across_io(context, application, use, holding, "undetermined", WHETHER_POOLED)
        else:
            long_enough = context.facts.window > 3 * application.longest_ended > 0
            is_sure = long_enough and _is_no_jam(context, application, waiting, len(holding))
            confidence = "certain" if is_sure else "likely"
            yield build_held_across_io(context, application, use, holding, confidence)


def _may_be_timeouts(context: RuleContext, application: Application, waiting: Waiting, moved: Sequence[Track]) -> bool:
    """Return True if the pauses may be waits for a second connection, each until its acquire times out.

    Most backends are at rest in transactions, no fewer clients wait than hold as far as is known, timeouts are not
    counted, and a quarter as many transactions are rolled back as ended: work elsewhere mostly commits.
    """
    if _count_timed_out(context, application) is not None or application.count < LEAST_SILENT_JAM:
        return False
    are_enough = waiting.count is None or waiting.count >= application.count
    rolled_back = _count_rollbacks(context, application)
    ended = sum(track.turnover.transactions_ended for track in moved)
    resting = sum(track.is_in_transaction for track in application.tracks)
    return (
        are_enough and inf > rolled_back >= ROLLED_BACK_SHARE * ended and resting >= MOST_HELD_SHARE * application.count
    )


def _may_be_hidden_jam(context: RuleContext, application: Application, waiting: Waiting) -> bool:
    """Return True if holders may wait for a second connection, and this role does not see whether since one moment.

    All are at rest in transactions, no fewer clients wait, and as many acquires timed out at some time.
    """
    timed_out = sum(pool.last.timed_out_total or 0 for pool in context.facts.find_pools_of(application))
    are_many = min(waiting.count or 0, timed_out) >= application.count
    return are_many and all(t.is_in_transaction and t.last.state_at is None for t in application.tracks)


def _is_no_jam(context: RuleContext, application: Application, waiting: Waiting, holders: int) -> bool:
    """Return True if clients are known to wait, and cannot be the holders themselves.

    Holders that wait for a second connection until their acquires time out end their transactions, too: then as many
    wait as hold, and acquires time out.
    """
    no_timeouts = _count_timed_out(context, application) == 0
    return waiting.sustained and (no_timeouts or (waiting.count or 0) < holders)


def _count_timed_out(context: RuleContext, application: Application) -> float | None:
    """Count the acquires that timed out meanwhile; None where that is not counted."""
    counts = [pool.measure_growth("timed_out_total") for pool in context.facts.find_pools_of(application)]
    return sum(count or 0.0 for count in counts) if counts and None not in counts else None


def _ends_like_these(application: Application, long: Sequence[Track]) -> bool:
    """Return True if nearly all backends are held for long, and one hold was observed to end that was no shorter.

    One end is rare in a short observation of long holds; without any the holds are an open question.
    """
    rests = [rest for track in application.tracks for rest in track.turnover.rests]
    ended = max(rests, default=0.0)
    oldest = max((track.age for track in long), default=0.0)
    is_most = len(long) > 1 and len(long) >= MOST_HELD_SHARE * application.count
    return is_most and not application.stuck and ended > STUCK_AFTER and oldest <= TIMES_LONGEST * ended


LEAST_JAM = 2
"""Backends that make a jam when it is known that clients wait."""
LEAST_SILENT_JAM = 4
"""And when that is not known: of a small pool that leaks fast, two or three are of one moment by chance."""
SPREAD_SHARE = 0.25
"""Share of the longest rest within which four backends or more still came to rest together, where as many acquires
timed out as hold: of calls that begin at random, six do so once in 200 samples."""
LEAST_LOOSE_JAM = 6
"""Backends from which a rest that is over may have begun and ended within such a quarter: of four that take turns some
would by chance."""
MOST_LOOKS = 0.8
"""Share of the samples from which a common rest is the rule."""
SHORTEST_TIMEOUT = 0.25
"""Seconds: a jam that ends sooner is found by its errors, not by its rests (HikariCP allows no shorter timeout)."""

WHICH = (
    "whether acquires time out whenever they come back together (the pool's figures, its application's log): then each "
    "holder waits for a second connection; if none does, they are calls elsewhere that began together"
)
ROLLED_BACK_SHARE = 0.25
"""Rollbacks for each transaction that ended, from which these may be acquires that timed out. All would be, but the
server counts them up to a second late, and a short look has two seconds."""
WHETHER_NESTED = (
    "whether acquires time out (the pool's figures, its application's log), as many as transactions are rolled back: "
    "then each holder waits for a second connection; if none does, it works elsewhere"
)
PAST_TIMEOUT = (
    "where the process's threads stand: in an acquire, while they hold a connection; the pool's figures (as many "
    "waiting as in use); or, where acquires time out, a longer observation: nested acquires fail together and start "
    "again, leaks stay"
)
STANDSTILL_SHARE = 0.1
"""Share of the youngest rest within which all others began, from which a pool came to a standstill at one moment.
Nested acquires of 0.3 to 3 s filled a pool of ten within 2 to 4 s, and it stood as long as it was observed (staged)."""
LOOSER_SHARE = 0.25
"""The same where a leak is unlikely: the pool was filled within a few usual holds, or all hold advisory locks."""
LONGEST_FILL = 4.0
"""Seconds within which such a pool was filled, where nothing says how long its holds are: the beginnings of a leak stay
as far apart, and only their share of its age shrinks."""
LEAST_STANDSTILL = 5.0
"""Seconds of the youngest rest, below which a tenth of it is too short to say anything."""
FILL_HOLDS = 5
"""Usual holds within which a jam is complete, as every holder came before the first one was due to release. A leak
takes as long as it takes to leak every connection. Within a second the figures do not decide: a busy machine is late by
as much, and psycopg_pool counts no use time of connections that are taken with getconn()."""


@dataclass(frozen=True, slots=True)
class _Jam:
    """A jam: all backends of an application at rest since one moment.

    ``batches``: the moments of the samples in which it was so, newest last.
    """

    tracks: tuple[Track, ...]
    age: float
    spread: float
    batches: tuple[float, ...]
    share: float
    """Share of the samples."""
    timed_out: float | None = None
    """Acquires that timed out meanwhile; None where that is not counted."""
    may_be_leaks: bool = False
    """At one moment only as measured by its age, and the pool does not say how long its connections are held."""
    is_over: bool = False
    """All went on together before the last sample."""

    @property
    def is_repeated(self) -> bool:
        return len(self.batches) > 1


def find_self_deadlock(context: RuleContext) -> Iterator[Finding]:
    """Report that every holder waits for a second connection, which only another holder could give back.

    Threshold: every backend of an application at rest in a transaction since the same moment (within 0.06 s; leaks are
    spread), none active, in four samples of five, for a second or more; outside of a transaction only where the pool's
    figures say that it is full. One moment also is a tenth of the youngest rest, of 5 s or more and four backends (a
    quarter where the pool says that it was filled within five usual holds, which no leak does, or under advisory locks;
    else never more than 4 s); unless as many acquires timed out as hold and no holder moved. Where as many acquires
    timed out as hold, two such moments or more may be spread by a quarter of the longest rest. Certain: two such
    moments, with clients waiting and timeouts. Likely: one, and as many wait as hold. Undetermined: waiting clients are
    not reported; or a leak of that moment is possible (``leak-in-transaction`` beside it); or two such moments while
    timeouts are not counted, as calls that began together look alike (``held-across-io`` beside it; below a second only
    where as many transactions are rolled back). So do rests of a second or more that began together and were over
    together (likely where as many acquires timed out meanwhile). Where it is known that no client waits, or the
    backends come back without a timeout, it is no jam. Nor do processes with a connection each, such as PHP-FPM's,
    wait for another of their own while the server has slots.
    """
    for application in context.facts.programs:
        jam = _find_jam(context, application)
        if jam is None:
            continue
        waiting = context.facts.count_waiting(application)
        if waiting.is_known and not _has_enough_waiters(context, application, waiting, jam):
            continue
        if len(jam.tracks) < (LEAST_JAM if waiting else LEAST_SILENT_JAM):
            continue
        has_one_each = not context.is_full and _has_one_each(context, application)
        found = [] if has_one_each else [_build_self_deadlock(context, application, jam, waiting)]
        if jam.may_be_leaks and all(not track.last.advisory_locks for track in jam.tracks):
            leak = build_leak_in_transaction(context, application, jam.tracks, "undetermined")
            found.insert(0 if jam.spread > STUCK_AFTER else 1, leak)
        yield from found
        if has_one_each:
            continue
        use = measure_use(application)
        if (jam.is_repeated or jam.is_over) and jam.timed_out is None and use.share > HELD_SHARE:
            yield build_held_across_io(context, application, use, jam.tracks, "undetermined", WHICH)


def _has_one_each(context: RuleContext, application: Application) -> bool:
    """Return True if each backend of an application belongs to another process, without a pooler between."""
    clients = [context.clients.find_client(track) for track in application.tracks]
    processes = {each.process.pid for each in clients if each.process is not None and not each.is_behind_pooler}
    return len(processes) == len(clients) > 1


def _has_enough_waiters(context: RuleContext, application: Application, waiting: Waiting, jam: _Jam) -> bool:
    """Return True if as many clients wait as hold, as every holder of a jam does; of one that is over, waited.

    Where PgBouncer names the waiting clients, they must be of the same application. Totals only say that some client
    waits.
    """
    pools, holders = context.facts.find_pools_of(application), len(jam.tracks)
    if pools and all(pool.last.waiting is not None for pool in pools):
        most = sum(max(each.waiting or 0 for each in pool.figures) for pool in pools)
        return (most if jam.is_over else waiting.count or 0) >= holders
    late = [
        client.application for queue in context.facts.find_queues_of(application) for client in queue.waiting_clients
    ]
    if any(late):
        names = {context.clients.find_client(track).application for track in application.tracks}
        return sum(name in names for name in late) >= holders
    return bool(waiting)


def _find_jam(context: RuleContext, application: Application) -> _Jam | None:
    if len(context.keep_unexplained(application.tracks)) < application.count or not application.count:
        return None
    if any(track.last.state_at is None or track.is_listening for track in application.tracks):
        return None
    pools = context.facts.find_pools_of(application)
    full = any(pool.is_full for pool in pools)
    timed_out = _count_timed_out(context, application)
    if not _may_rest_together(application, full, (timed_out or 0) >= application.count >= LEAST_SILENT_JAM):
        return _find_past_jam(application, timed_out) or _find_short_jam(context, application, timed_out)
    samples = _list_samples(application)
    jam = _find_together(application, samples, full, SPREAD, STUCK_AFTER)
    may_be_leaks = False
    if jam is None:
        jam = _find_standstill(context, application, samples, timed_out)
        usual = context.measure_hold_times(application).mean
        may_be_leaks = jam is not None and not jam.spread <= FILL_HOLDS * usual
    if jam is None and (timed_out or 0) >= application.count >= LEAST_SILENT_JAM:
        rests = [at - row.state_at for at, rows in samples.items() for row in rows if row.state_at is not None]
        jam = _find_together(application, samples, full, SPREAD_SHARE * max(rests, default=0.0), SHORTEST_TIMEOUT)
        # Backends that never moved are spread by a quarter of their age, as a leak is.
        jam = jam if jam is not None and jam.is_repeated else None
    if jam is None:
        return _find_past_jam(application, timed_out) or _find_short_jam(context, application, timed_out)
    if jam.is_repeated and timed_out == 0:
        return None
    return _Jam(jam.tracks, jam.age, jam.spread, jam.batches, jam.share, timed_out, may_be_leaks)


def _list_samples(application: Application) -> dict[float, list[Backend]]:
    samples: dict[float, list[Backend]] = {}
    for track in (*application.tracks, *application.gone):
        for at, backend in track.list_rows():
            samples.setdefault(at, []).append(backend)
    return dict(sorted(samples.items()))


def _may_rest_together(application: Application, full: bool, are_timed_out: bool) -> bool:
    """Return False if the last sample alone shows no common rest of any kind: most applications need no more."""
    tracks = application.tracks
    if not all(track.last.in_transaction or (full and track.is_idle) for track in tracks):
        return False
    ages = [track.age for track in tracks]
    return are_timed_out or max(ages) - min(ages) <= max(2 * SPREAD, LOOSER_SHARE * min(ages))


def _find_standstill(
    context: RuleContext,
    application: Application,
    samples: Mapping[float, Sequence[Backend]],
    timed_out: float | None,
) -> _Jam | None:
    """Find a rest that began at one moment only as measured by how long it lasts."""
    tracks = application.tracks
    if application.count < LEAST_SILENT_JAM or not all(track.last.in_transaction for track in tracks):
        return None
    youngest, usual = min(track.age for track in tracks), context.measure_hold_times(application).mean
    share = LOOSER_SHARE if usual or all(track.last.advisory_locks for track in tracks) else STANDSTILL_SHARE
    if youngest < LEAST_STANDSTILL:
        return None
    spread = share * youngest if share == LOOSER_SHARE else min(share * youngest, LONGEST_FILL)
    jam = _find_together(application, samples, False, spread, LEAST_STANDSTILL)
    if jam is None or (usual and max(FILL_HOLDS * usual, STUCK_AFTER) < jam.spread):
        return None
    # Whose acquire timed out goes on, so holders that stay do not wait for a second connection.
    return None if (timed_out or 0) >= application.count and not application.moved else jam


def _find_past_jam(application: Application, timed_out: float | None) -> _Jam | None:
    """Find a rest in transactions that began and ended for all backends together: as when their acquires timed out.

    Together: within a tenth of the shortest such rest, of a second or more; or a quarter, of six backends or more.
    """
    if application.count < LEAST_SILENT_JAM or timed_out == 0:
        return None
    share = SPREAD_SHARE if application.count >= LEAST_LOOSE_JAM else STANDSTILL_SHARE
    rests: list[list[Rest]] = []
    for track in application.tracks:
        long = [rest for rest in track.list_rests() if rest.in_transaction and rest.length >= STUCK_AFTER]
        if not long:
            return None
        rests.append(long)
    for first in reversed(rests[0]):
        found = [min(each, key=lambda rest: abs(rest.since - first.since)) for each in rests]
        began, ended = [rest.since for rest in found], [rest.until for rest in found]
        spread = max(max(began) - min(began), max(ended) - min(ended))
        if spread <= share * min(rest.length for rest in found):
            age = max(rest.length for rest in found)
            return _Jam(application.tracks, age, spread, (min(began),), 0.0, timed_out, is_over=True)
    return None


def _find_short_jam(context: RuleContext, application: Application, timed_out: float | None) -> _Jam | None:
    """Find rests of less than a second that began together again and again, where timeouts are not counted.

    A failed acquire rolls the holder's transaction back, and work elsewhere commits: without half as many rollbacks as
    ended rests it is no jam.
    """
    holding, rolled_back = sum(t.is_in_transaction for t in application.tracks), _count_rollbacks(context, application)
    is_small = application.count < LEAST_SILENT_JAM or 2 * min(holding, rolled_back) < application.count
    if timed_out is not None or is_small:
        return None
    samples = _list_samples(application)
    found = {at: moment for at, rows in samples.items() if (moment := _find_moment(rows, False, SPREAD))}
    moments = tuple(dict.fromkeys(round(moment, 1) for moment in found.values()))
    share, longest = len(found) / len(samples), max((at - moment for at, moment in found.items()), default=0.0)
    ended = application.count * (len(moments) - 1)
    if not 0 < ended <= 2 * rolled_back or share < MOST_LOOKS or longest < SHORTEST_TIMEOUT:
        return None
    times = [row.state_at for row in samples[max(found)] if row.state_at is not None]
    return _Jam(application.tracks, longest, max(times) - min(times), moments, share)


def _count_rollbacks(context: RuleContext, application: Application) -> float:
    """Count the transactions of the application's databases that were rolled back; infinite where it is not known."""
    names = {track.last.database for track in application.tracks}
    counted = [now.rollbacks - then.rollbacks for then, now in context.facts.counted if now.name in names]
    return sum(counted) if counted else inf


def _find_together(
    application: Application, samples: Mapping[float, Sequence[Backend]], full: bool, spread: float, least: float
) -> _Jam | None:
    """Return the backends' common rest, if it began at one moment and the longest was ``least`` seconds ago or more.

    One moment: within ``spread`` seconds.
    """
    moments = {at: moment for at, rows in sorted(samples.items()) if (moment := _find_moment(rows, full, spread))}
    now = application.tracks[0].now
    if now not in moments or max(at - moment for at, moment in moments.items()) < least:
        return None
    # Before the first of these moments it worked.
    first = next(iter(moments.values()))
    share = len(moments) / max(1, sum(1 for at in samples if at >= first))
    if share < MOST_LOOKS:
        return None
    ends = [track.last.state_at or now for track in application.tracks]
    batches = tuple(dict.fromkeys(round(moment, 1) for moment in moments.values()))
    return _Jam(application.tracks, now - moments[now], max(ends) - min(ends), batches, share)


def _find_moment(rows: Sequence[Backend], full: bool, spread: float) -> float | None:
    """Return when all of ``rows`` came to rest, if it was at once; else None."""
    times = [row.state_at for row in rows if row.in_transaction or (full and row.state == "idle")]
    if len(times) < len(rows) or any(at is None for at in times) or len(rows) < LEAST_JAM:
        return None
    known = [at for at in times if at is not None]
    return min(known) if max(known) - min(known) <= spread else None


def _build_self_deadlock(context: RuleContext, application: Application, jam: _Jam, waiting: Waiting) -> Finding:
    count = len(jam.tracks)
    confidence = _judge_confidence(jam, waiting)
    together = format_duration(max(jam.spread, 0.001))
    batches = f", again and again ({len(jam.batches)} times observed)" if jam.is_repeated else ""
    decide_by = None
    if confidence == "undetermined":
        decide_by = WHICH if jam.is_repeated or jam.is_over else PAST_TIMEOUT
    or_else = ""
    if jam.is_over or (jam.is_repeated and (not waiting or jam.timed_out is None)):
        or_else = ", or all are calls that began together"
    elif not waiting or jam.may_be_leaks:
        or_else = ", or all were leaked within that time"
    what = f"came to rest in the same {together} and none is active{batches}: each holder waits for a second connection"
    if jam.is_over:
        what = (
            f"rested in transactions that began in the same {together}, and went on together after "
            f"{format_duration(jam.age)}: each holder waited for a second connection until its acquire timed out"
        )
    return build_finding(
        "self-deadlock",
        severity=context.judge_severity(application),
        confidence=cap_confidence(confidence, jam.tracks),
        summary=f"All {count} backends of {name_application(application)} {what}{or_else}",
        evidence={
            "holding": count,
            "active": 0,
            "age": jam.age,
            "age_spread": jam.spread,
            "waiting": waiting.count,
            "batches": len(jam.batches),
            "timed_out": jam.timed_out,
            "share_of_looks": percent(jam.share),
            "threshold": f"all backends at rest since one moment (within {format_duration(SPREAD)}, or a tenth of the "
            "youngest rest), none active, as many waiting as hold",
        },
        holders=context.find_holders(jam.tracks),
        frees=count,
        decide_by=decide_by,
    )


def _judge_confidence(jam: _Jam, waiting: Waiting) -> Confidence:
    if jam.is_over:
        return "likely" if (jam.timed_out or 0) >= len(jam.tracks) else "undetermined"
    if jam.is_repeated:
        return "certain" if jam.timed_out and waiting else "likely" if jam.timed_out else "undetermined"
    if jam.may_be_leaks and not any(track.last.advisory_locks for track in jam.tracks):
        return "undetermined"
    # Idle outside of a transaction there is less to go by: only the moment that comes back.
    in_transaction = any(track.is_in_transaction for track in jam.tracks)
    return "likely" if waiting and in_transaction else "undetermined"
