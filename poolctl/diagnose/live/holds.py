"""Connections that are held, and come back or could: calls elsewhere, sets that stand still."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence, name_application
from poolctl.diagnose.live.shared_findings import build_held_across_io, build_long_hold
from poolctl.diagnose.live.tracks import STUCK_AFTER, Application, Track
from poolctl.diagnose.live.usage import HELD_SHARE, LEAST_PAUSE, SPREAD, is_quiet, measure_use
from poolctl.diagnose.live.waits import Waiting
from poolctl.observe.snapshot import Backend
from poolctl.units import format_duration, percent

LEAST_TELLING = 4
"""Sessions in use at every look from which they rather are a pool than the workers of a batch: the smallest default
size of a common pool (psycopg_pool 4, SQLAlchemy 5, HikariCP 10)."""
WHETHER_POOLED = (
    "whether clients wait: the figures of its pool (--pool-stats) or its errors; workers of a batch with a connection "
    "each keep nobody out"
)


def find_held_across_io(context: RuleContext) -> Iterator[Finding]:
    """Transactions are kept open while the application does something else.

    Threshold: more than 30 % of the use is idle in transactions of which two or more are seen to end, typically for
    50 ms or more at a time, and it matters: clients wait; or (from 100 ms on) nine in ten sessions are in use at four
    looks of five. Certain: turnover seen over a window three times the longest transaction, and it is known that
    clients wait. Undetermined: fewer than four sessions of which nobody says that clients wait, as a few workers of a
    batch, each with a connection of its own, are always in a transaction too and keep nobody out. Likely a long hold
    instead, where the pool's figures say that nobody acquires meanwhile.
    """
    for application in context.facts.programs:
        if application.tracks[0].sample_count < 2 or not context.keep_unexplained(application.tracks):
            continue
        use, waiting = measure_use(application), context.facts.count_waiting(application)
        moved = [
            t
            for t in context.keep_unexplained((*application.tracks, *application.gone))
            if t.ended_transaction or not t.is_there
        ]
        pressed = waiting.sustained or (use.used_up >= 0.8 and application.count >= 3)
        if (
            use.share <= HELD_SHARE
            or use.pause < (LEAST_PAUSE if waiting else 2 * LEAST_PAUSE)
            or not pressed
            or len(moved) < 2
        ):
            continue
        holding = context.keep_unexplained(
            t for t in application.tracks if any(row.in_transaction for _, row in t.rows)
        )
        if not holding:
            continue
        pools = context.facts.find_pools_of(application)
        if is_quiet(pools):
            # Its sessions work, and yet nobody acquires: the same holders keep them over many transactions.
            yield build_long_hold(context, application, holding, (), "likely")
            continue
        if not waiting and application.count < LEAST_TELLING:
            yield build_held_across_io(context, application, use, holding, "undetermined", WHETHER_POOLED)
        else:
            long_enough = context.facts.window > 3 * application.longest_ended > 0
            confidence: Confidence = "certain" if long_enough and waiting.sustained else "likely"
            yield build_held_across_io(context, application, use, holding, confidence)


LEAST_JAM = 2
"""Sessions that make a jam when it is known that clients wait."""
LEAST_SILENT_JAM = 4
"""And when nobody says whether they do: of a small pool that leaks fast, two or three are of one moment by chance."""
SPREAD_SHARE = 0.25
"""Share of the longest rest within which four sessions or more still came to rest together, where as many acquires
timed out as hold: of calls that begin at random, six do so once in 200 looks."""
SHORTEST_TIMEOUT = 0.25
"""Seconds: a jam that ends sooner is told by its errors, not by its rests (HikariCP allows no shorter timeout)."""

WHICH = (
    "whether acquires time out whenever they come back together (the pool's figures, its application's log): then each "
    "holder waits for a second connection; if none does, they are calls elsewhere that began together"
)
PAST_TIMEOUT = (
    "watch for longer than the acquire timeout (usually 30 s): nested acquires fail together and begin anew, leaks "
    "stay; the pool's figures (as many waiting as in use); or where the process's threads stand"
)


@dataclass(frozen=True, slots=True)
class _Jam:
    """All sessions of an application at rest since one moment. ``batches``: the moments of the looks in which it
    was so, newest last."""

    tracks: tuple[Track, ...]
    age: float
    spread: float
    batches: tuple[float, ...]
    share: float
    """Of the looks."""
    timed_out: float | None = None
    """Acquires meanwhile; None where nobody counts them."""

    @property
    def is_repeated(self) -> bool:
        return len(self.batches) > 1


def find_self_deadlock(context: RuleContext) -> Iterator[Finding]:
    """Every holder waits for a second connection, which only another holder could give back.

    Threshold: every session of an application at rest in a transaction since the same moment (within 0.06 s;
    leaks are spread), none active, in four looks of five, and it lasted a second; out of a transaction only where the
    pool's figures say that it is full. Where as many acquires timed out as hold, two such moments or more may be
    spread by a quarter of the longest rest. Certain: two such moments, with clients waiting and timeouts. Likely: one,
    and as many wait as hold. Undetermined: nobody says whether anybody waits; or two such moments while nobody counts
    timeouts, as calls that began together look alike (``held-across-io`` beside it). Known not to wait, or to come
    back without a timeout, it is no jam.
    """
    for application in context.facts.programs:
        jam = _find_jam(context, application)
        if jam is None:
            continue
        waiting = context.facts.count_waiting(application)
        if waiting.is_known and not _has_enough_waiters(context, application, waiting, len(jam.tracks)):
            continue
        if len(jam.tracks) < (LEAST_JAM if waiting else LEAST_SILENT_JAM):
            continue
        yield _build_self_deadlock(context, application, jam, waiting)
        use = measure_use(application)
        if jam.is_repeated and jam.timed_out is None and use.share > HELD_SHARE:
            yield build_held_across_io(context, application, use, jam.tracks, "undetermined", WHICH)


def _has_enough_waiters(context: RuleContext, application: Application, waiting: Waiting, holders: int) -> bool:
    """Every holder waits, so there are as many waiters, of the same application where PgBouncer names those that wait.
    Totals only say that somebody does."""
    pools = context.facts.find_pools_of(application)
    if pools and all(pool.last.waiting is not None for pool in pools):
        return (waiting.count or 0) >= holders
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
    if any(track.last.state_at is None or track.is_on_purpose for track in application.tracks):
        return None
    pools = context.facts.find_pools_of(application)
    full = any(pool.is_full for pool in pools)
    counts = [pool.measure_growth("timed_out_total") for pool in pools]
    timed_out = sum(count or 0.0 for count in counts) if counts and None not in counts else None
    samples: dict[float, list[Backend]] = {}
    for track in (*application.tracks, *application.gone):
        for at, backend in track.rows:
            samples.setdefault(at, []).append(backend)
    jam = _find_together(application, samples, full, SPREAD, STUCK_AFTER)
    if jam is None and (timed_out or 0) >= application.count >= LEAST_SILENT_JAM:
        rests = [at - row.state_at for at, rows in samples.items() for row in rows if row.state_at is not None]
        jam = _find_together(application, samples, full, SPREAD_SHARE * max(rests, default=0.0), SHORTEST_TIMEOUT)
        # Those that never moved are spread by a quarter of their age as a leak is.
        jam = jam if jam is not None and jam.is_repeated else None
    if jam is None or (jam.is_repeated and timed_out == 0):
        return None
    return _Jam(jam.tracks, jam.age, jam.spread, jam.batches, jam.share, timed_out)


def _find_together(
    application: Application, samples: Mapping[float, Sequence[Backend]], full: bool, spread: float, least: float
) -> _Jam | None:
    """Its rests, if they began at one moment (within ``spread`` seconds), the longest ``least`` seconds ago or more."""
    moments = {at: moment for at, rows in sorted(samples.items()) if (moment := _find_moment(rows, full, spread))}
    now = application.tracks[0].now
    if now not in moments or max(at - moment for at, moment in moments.items()) < least:
        return None
    # Before the first of these moments it worked.
    first = next(iter(moments.values()))
    share = len(moments) / max(1, sum(1 for at in samples if at >= first))
    if share < 0.8:
        return None
    ends = [track.last.state_at or now for track in application.tracks]
    batches = tuple(dict.fromkeys(round(moment, 1) for moment in moments.values()))
    return _Jam(application.tracks, now - moments[now], max(ends) - min(ends), batches, share)


def _find_moment(rows: Sequence[Backend], full: bool, spread: float) -> float | None:
    """When all of them came to rest, if it was at once."""
    times = [row.state_at for row in rows if row.in_transaction or (full and row.state == "idle")]
    if len(times) < len(rows) or any(at is None for at in times) or len(rows) < LEAST_JAM:
        return None
    known = [at for at in times if at is not None]
    return min(known) if max(known) - min(known) <= spread else None


def _build_self_deadlock(context: RuleContext, application: Application, jam: _Jam, waiting: Waiting) -> Finding:
    count = len(jam.tracks)
    confidence = _judge_confidence(jam, waiting)
    batches = f", again and again ({len(jam.batches)} times seen)" if jam.is_repeated else ""
    decide_by = None
    if confidence == "undetermined":
        decide_by = WHICH if jam.is_repeated else PAST_TIMEOUT
    or_else = ""
    if not waiting or (jam.is_repeated and jam.timed_out is None):
        or_else = (
            ", or all are calls that began together" if jam.is_repeated else ", or all of them were leaked at once"
        )
    return build_finding(
        "self-deadlock",
        severity=context.judge_severity(application),
        confidence=cap_confidence(confidence, jam.tracks),
        summary=f"All {count} sessions of {name_application(application)} came to rest in the same "
        f"{format_duration(max(jam.spread, 0.001))} and none is active{batches}: each holder waits for a second "
        f"connection{or_else}",
        evidence={
            "holding": count,
            "active": 0,
            "age": jam.age,
            "age_spread": jam.spread,
            "waiting": waiting.count,
            "batches": len(jam.batches),
            "timed_out": jam.timed_out,
            "share_of_looks": percent(jam.share),
            "threshold": f"all sessions at rest since one moment (within {format_duration(SPREAD)}), none active, as "
            "many waiting as hold",
        },
        holders=context.find_holders(jam.tracks),
        frees=count,
        decide_by=decide_by,
    )


def _judge_confidence(jam: _Jam, waiting: Waiting) -> Confidence:
    if jam.is_repeated:
        return "certain" if jam.timed_out and waiting else "likely" if jam.timed_out else "undetermined"
    # Idle outside of a transaction there is less to go by: only the moment that comes back.
    in_transaction = any(track.is_in_transaction for track in jam.tracks)
    return "likely" if waiting and in_transaction else "undetermined"
