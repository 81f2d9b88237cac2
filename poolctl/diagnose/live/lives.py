"""The lives of backends: how long each worked after it was opened, and what was opened beside backends at rest.

Decides when connections are made for single uses and left open: a thread, a request, a reload or a test with a
connection or a pool of its own. It needs no figures and no second sample. A pool cannot look like that: it opens a
connection only while all others of it are in use, or many at one moment to fill itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence, name_application
from poolctl.diagnose.live.tracks import FIRST_USE, Application, Track
from poolctl.units import format_duration, percent, plural

LEAST_LIVES = 5
LEAST_MOMENTS = 3
"""Moments at which they were opened. Once is a pool that fills itself, twice one that grew."""
SAME_MOMENT = 0.5
"""Seconds between two openings that still are one moment: a pool fills itself faster."""
USED_ONCE_SHARE = 0.8
SURE_LIVES, SURE_MOMENTS = 10, 5
START_UP = 30.0
"""Seconds within which the workers of a service start one after the other, each with a connection of its own."""
STILL_GOING = 3.0
"""Times the usual pause between two moments, within which the last one lies while it goes on: workers that each opened
their one connection when they started look the same, and stopped opening long ago."""
BATCH = 2
"""Backends for each moment, from which a pool was made each time. One at a time is also how a pool replaces connections
at the end of their lives."""


@dataclass(frozen=True, slots=True)
class _Lives:
    tracks: tuple[Track, ...]
    """Used in their first second alone, and idle since; the oldest first."""
    moments: tuple[float, ...]
    """When they were opened, each moment once."""
    beside: int
    """Moments at which more of them were opened although others rested."""
    client_count: int
    """Client addresses, or processes where they are known."""
    goes_on: bool


def find_connection_per_request(context: RuleContext) -> Iterator[Finding]:
    """Report ``connection-per-request``: backends that were opened one by one, used in their first second, and left.

    Threshold: five idle backends or more of one client address or process, four fifths of its backends of that
    application, opened at three moments or more, each time beside ones that already rested; and it goes on: the last
    moment is no longer ago than three times the usual pause between two. Likely; certain of ten or more, opened at five
    moments by one process of this machine; undetermined of fewer than ten of unknown processes within half a minute, as
    workers that start one after the other look alike. Not of listeners. If it does not go on: only of backends opened
    two or more at a time, by one process (undetermined below five moments: a leak may have opened them so by chance) or
    by an address, for three times as long as it went on (undetermined: several processes, each with a pool of its own,
    look the same).
    """
    for application in context.facts.programs:
        lives = _find_lives(context, application)
        if lives is not None:
            yield _build_connection_per_request(context, application, lives)


def _find_lives(context: RuleContext, application: Application) -> _Lives | None:
    by_client: dict[object, list[Track]] = {}
    for track in context.keep_unexplained(application.tracks):
        process = context.clients.find_client(track).process
        by_client.setdefault(process.pid if process is not None else track.last.client, []).append(track)
    found = [
        (used, moments, goes_on)
        for client, tracks in by_client.items()
        for used, moments, goes_on in _judge_client(tracks, isinstance(client, int))
    ]
    if not found:
        return None
    tracks = tuple(track for used, _, _ in found for track in used)
    moments = tuple(sorted(moment for _, several, _ in found for moment in several))
    beside = sum(_count_beside(used, several) for used, several, _ in found)
    return _Lives(tracks, moments, beside, len(found), all(goes_on for _, _, goes_on in found))


def _judge_client(tracks: Sequence[Track], is_one_process: bool) -> Iterator[tuple[list[Track], list[float], bool]]:
    """Yield the backends of one client that were opened for single uses, the moments, and whether it goes on.

    Nothing where the client reuses its connections.
    """
    once = (track for track in tracks if track.is_used_once and not track.is_on_purpose)
    used = sorted(once, key=lambda track: track.last.started_at or 0.0)
    if len(used) < LEAST_LIVES or len(used) < USED_ONCE_SHARE * len(tracks):
        return
    moments: list[float] = []
    latest = 0.0
    for track in used:
        started = track.last.started_at or 0.0
        if not moments or started - latest > SAME_MOMENT:
            moments.append(started)
        latest = started
    if len(moments) < LEAST_MOMENTS or _count_beside(used, moments) < len(moments) - 1:
        return
    span, since = moments[-1] - moments[0], used[0].now - moments[-1]
    goes_on = since <= max(STILL_GOING * span / (len(moments) - 1), FIRST_USE)
    if goes_on or (_are_batches(used, moments) and (is_one_process or since <= STILL_GOING * span)):
        yield used, moments, goes_on


def _are_batches(used: Sequence[Track], moments: Sequence[float]) -> bool:
    """Return True if they were opened several at a time, each batch apart from the next.

    What a leak makes a pool open, one by one and at random, falls into no batches.
    """
    started = sorted(map(_began, used))
    within = [b - a for a, b in pairwise(started) if b not in moments]
    between = [b - a for a, b in pairwise(started) if b in moments]
    return len(used) >= BATCH * len(moments) and 2 * max(within, default=0.0) <= min(between, default=0.0)


def _count_beside(used: Sequence[Track], moments: Sequence[float]) -> int:
    """Count the moments after the first at which one of the earlier backends already rested."""
    return sum(
        any((track.last.state_at or 0.0) < moment - SAME_MOMENT / 2 for track in used if _began(track) < moment)
        for moment in moments[1:]
    )


def _began(track: Track) -> float:
    return track.last.started_at or 0.0


def _build_connection_per_request(context: RuleContext, application: Application, lives: _Lives) -> Finding:
    count, moments = len(lives.tracks), lives.moments
    span = moments[-1] - moments[0]
    batch = round(count / len(moments))
    each = f"about {batch} at a time" if batch > 1 else "one by one"
    known = all(context.clients.find_client(track).process is not None for track in lives.tracks)
    sure = count >= SURE_LIVES and len(moments) >= SURE_MOMENTS and known and lives.client_count == 1
    confidence: Confidence = cap_confidence("certain" if sure else "likely", lives.tracks)
    may_be_workers = not known and count < SURE_LIVES and span < START_UP
    if may_be_workers or (not lives.goes_on and (not known or len(moments) < SURE_MOMENTS)):
        confidence = "undetermined"
    slots = context.facts.server.usable if context.facts.server and lives.goes_on else 0
    pace = span / (len(moments) - 1)
    full = (
        f"; if none is closed, the server is full in {format_duration(_time_to_full(context, batch, pace))}"
        if slots
        else ""
    )
    return build_finding(
        "connection-per-request",
        severity=context.judge_severity(application),
        confidence=confidence,
        summary=f"{count} of {plural(application.count, 'backend')} of {name_application(application)} were used in "
        f"their first second only and then left open; they were opened {each}, over {format_duration(span)}, beside "
        f"others that already rested{full}",
        evidence={
            "used_once": count,
            "sessions": application.count,
            "moments": len(moments),
            "opened_beside_resting": lives.beside,
            "first_opened": span + lives.tracks[0].now - moments[-1],
            "pause_between_openings": pace,
            "clients": lives.client_count,
            "threshold": f"{LEAST_LIVES} backends and {percent(USED_ONCE_SHARE)} of a client's, all their work in the "
            f"first {format_duration(FIRST_USE)}, opened at {LEAST_MOMENTS} moments or more beside resting ones",
        },
        holders=context.find_holders(lives.tracks),
        frees=max(0, count - batch),
        decide_by=None
        if sure
        else "the client's code: where it opens a connection or creates a pool; or its processes, from their host",
    )


def _time_to_full(context: RuleContext, batch: int, pace: float) -> float:
    free = next((limit.free for limit in context.limits if limit.scope == "server"), 0)
    return free / max(1, batch) * pace
