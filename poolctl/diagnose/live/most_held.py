"""Applications of which most backends are in long transactions, while it is not known whether clients wait.

Decides when that is a question and no health: the next requests find a connection free, or wait, and the server shows
neither. Nothing here is more than undetermined, and what was observed is the last instant, so that a longer observation
of the same load asks the same.
"""

from collections.abc import Iterator, Sequence

from poolctl.diagnose.catalog import SLOW_EVERYTHING
from poolctl.diagnose.finding import Finding
from poolctl.diagnose.live.context import RuleContext
from poolctl.diagnose.live.shared_findings import LEAST_STUCK, build_long_hold, build_undetermined_hold
from poolctl.diagnose.live.tracks import FIRST_USE, STUCK_AFTER, Application, Track
from poolctl.diagnose.live.usage import LEAST_TURNS, MOST_HELD_SHARE
from poolctl.units import plural

LONG_SHARE = 0.5
"""Share of an application's backends that are in one transaction for long already. Of holds that take turns some have
just begun."""

DECIDE_BY = (
    "the figures of its pool (--pool-stats): whether clients wait, and how long connections are held; or an "
    "observation that is longer than the longest work of a request (--for): what comes back was held, what stays is "
    "leaked"
)
AS_MEMBER = (
    "an observation as a member of pg_monitor, or from the server's own machine, with its process list: whether they "
    "work in these transactions; and the figures of its pool (--pool-stats)"
)


def find_most_held(context: RuleContext) -> Iterator[Finding]:
    """Report ``leak-or-long-hold`` or ``long-hold`` where most backends of an application are in long transactions.

    For applications whose waiting clients are not reported. Threshold: three quarters of the backends are in a
    transaction or statement now, and half of all, two or more, have been at rest in one or in one and the same
    statement for more than a second. Not what rests for less time than its transaction worked before: a batch that
    pauses. ``long-hold`` where less than half of them are known to rest: four or more, in sessions that are older than
    this work, as a session that was opened for its work keeps no client out. Always undetermined.
    """
    for application in context.facts.programs:
        tracks = context.keep_unexplained(application.tracks)
        if len(tracks) < application.count or context.facts.count_waiting(application).is_known:
            continue
        used = sum(track.last.is_active or track.last.in_transaction for track in tracks)
        resting = tuple(filter(_rests_in_transaction, tracks))
        unclear = tuple(track for track in tracks if track.may_rest)
        working = tuple(track for track in tracks if _works_for_long(track) and track not in unclear)
        held = (*resting, *unclear, *working)
        if used < MOST_HELD_SHARE * application.count or len(held) < LONG_SHARE * application.count:
            continue
        suspects = (*resting, *unclear)
        if len(suspects) >= max(LEAST_STUCK, len(held) / 2):
            of = f"{used} of {plural(application.count, 'backend')} in transactions"
            or_else = "or slow work that ends by itself"
            if unclear:
                of += "; this role may not see whether they work in them"
                or_else = "or long statements"
            decide_by = AS_MEMBER if unclear else DECIDE_BY
            yield build_undetermined_hold(context, application, suspects, of, or_else=or_else, decide_by=decide_by)
        elif _may_keep_out(context, application, held):
            observed = f": {used} of {plural(application.count, 'backend')} at work, and not known whether clients wait"
            yield build_long_hold(
                context, application, held, (), "undetermined", observed=observed, decide_by=DECIDE_BY
            )


def _may_keep_out(context: RuleContext, application: Application, held: Sequence[Track]) -> bool:
    """Return True if long statements may be those of requests, which nothing else explains."""
    queues = context.facts.find_queues_of(application)
    has_room = bool(queues) and not any(queue.is_used_up for queue in queues)
    is_served = [t for t in held if t.session_age is None or t.session_age > _measure_work(t) + FIRST_USE]
    return (
        len(held) >= LEAST_TURNS
        and 2 * len(is_served) > len(held)
        and not has_room
        and not context.reported & SLOW_EVERYTHING
    )


def _measure_work(track: Track) -> float:
    """Return since when its transaction lasts, seconds; its state, where that is not known."""
    began = track.last.transaction_at
    return track.age if began is None else max(track.age, track.now - began)


def _rests_in_transaction(track: Track) -> bool:
    is_long = track.is_in_transaction and track.is_confirmed and track.age > STUCK_AFTER
    return is_long and not track.is_on_purpose and _measure_work(track) <= 2 * track.age


def _works_for_long(track: Track) -> bool:
    last = track.last
    is_at_work = last.is_active and last.wait_event_type not in ("Lock", "Client") and not last.advisory_locks
    return is_at_work and track.is_confirmed and min(track.age, track.statement_age or track.age) > STUCK_AFTER
