"""Sessions that come and go: connections for single requests, and the rush after a restart."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live import sql as live_sql
from poolctl.diagnose.live.context import Case
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.tracks import Track
from poolctl.diagnose.run import sql as run_sql
from poolctl.diagnose.words import percent, plural
from poolctl.units import format_count, format_duration

TRANSACTIONS_EACH = 10
"""Transactions that a session should carry for its opening, which costs milliseconds, to be worth it (catalog)."""
LEAST_SESSIONS = 5
LEAST_RATE = 1.0
"""New sessions a second: below it is a health check or a cron job, whatever the share."""
ABANDONED_SHARE = 0.05
LONG_WINDOW = 10.0
"""Seconds over which the counters' lag (a flush a second at most) no longer matters."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """What pg_stat_database counted between the first and the last sample."""

    window: float
    opened: int
    abandoned: int
    transactions: int
    grown: int
    """Backends that are more than at first."""


def sessions_of(facts: LiveFacts) -> Sessions | None:
    """None before PostgreSQL 14, with one sample, or where the statistics were reset in between."""
    if len(facts.samples) < 2 or facts.window <= 0:
        return None
    opened = abandoned = transactions = 0
    known = False
    for then, now in facts.counted:
        if now.sessions is None or then.sessions is None:
            continue
        known = True
        opened += max(0, now.sessions - then.sessions)
        abandoned += max(0, (now.abandoned or 0) - (then.abandoned or 0))
        transactions += max(0, now.commits + now.rollbacks - then.commits - then.rollbacks)
    grown = len(facts.samples[-1].clients) - len(facts.samples[0].clients)
    return Sessions(facts.window, opened, abandoned, transactions, grown) if known else None


def connection_churn(case: Case) -> Iterator[Finding]:
    """Sessions are opened for so little work that opening them is the work.

    Threshold: a new session a second and for every ten transactions, five at least, most of which are gone again (a
    fleet that starts up stays); or a twentieth of the new ones, and five, ended without saying so. Certain: over
    ten seconds or more. Undetermined: before PostgreSQL 14 nothing counts sessions, and only those caught by a look
    are known.
    """
    counted = sessions_of(case.facts)
    if counted is None:
        yield from _by_looks(case)
        return
    rate = counted.opened / counted.window
    passing = counted.opened - max(0, counted.grown)
    often = counted.opened >= LEAST_SESSIONS and rate >= LEAST_RATE and 2 * passing > counted.opened
    thin = counted.opened * TRANSACTIONS_EACH > counted.transactions
    dropped = counted.abandoned >= LEAST_SESSIONS and counted.abandoned > ABANDONED_SHARE * counted.opened
    if not (often and thin) and not dropped:
        return
    confidence: Confidence = "certain" if counted.window >= LONG_WINDOW else "likely"
    lost = f", {format_count(counted.abandoned)} dropped without a goodbye" if dropped else ""
    yield Finding(
        code="connection-churn",
        severity=case.severity() if case.is_full else "warning",
        confidence=confidence,
        layer="application",
        summary=f"{format_count(counted.opened)} sessions opened in {format_duration(counted.window)} for "
        f"{plural(counted.transactions, 'transaction')}{lost}: {_per_second(rate)}, most of them gone again",
        evidence={
            "opened": counted.opened,
            "opened_per_second": rate,
            "transactions": counted.transactions,
            "abandoned": counted.abandoned,
            "grown": counted.grown,
            "window": counted.window,
            "threshold": f"a session for fewer than {TRANSACTIONS_EACH} transactions, {LEAST_RATE:g} a second, "
            "most of them "
            f"gone again; or {percent(ABANDONED_SHARE)} of the new ones abandoned",
        },
        evidence_sql=run_sql.CHURN,
        holders=case.holders(passing_tracks(case)),
        remedy="Keep connections: one pool for each process with max_idle = max_open, created once and closed at exit; "
        "where processes are short-lived, PgBouncer in front.",
    )


def _per_second(rate: float) -> str:
    return f"{format_count(rate)} a second"


def passing_tracks(case: Case) -> tuple[Track, ...]:
    """Sessions that came while one looked, also those that are gone again, for the names of who opens them."""
    came = case.free(t for t in case.facts.all_tracks if t.is_new and t.last.state != "starting" and t.last.user)
    there = tuple(track for track in came if track.is_there)
    return tuple(sorted(came, key=lambda track: not track.is_there))[: max(MOST_PASSING, len(there))]


MOST_PASSING = 50
"""Of those that are gone, more names nobody new."""


def _by_looks(case: Case) -> Iterator[Finding]:
    facts = case.facts
    if len(facts.looks) < 3 or any(track.last.started_at is None for track in facts.all_tracks):
        return
    brief = [t for t in facts.all_tracks if t.rows[0][0] > t.since and not t.is_there]
    if len(brief) < LEAST_SESSIONS:
        return
    yield Finding(
        code="connection-churn",
        severity="warning",
        confidence="undetermined",
        layer="application",
        summary=f"{len(brief)} sessions came and went within {format_duration(facts.window)}, as far as the looks "
        "caught "
        "them",
        evidence={"caught": len(brief), "looks": len(facts.looks), "threshold": f"{LEAST_SESSIONS} that came and went"},
        evidence_sql=live_sql.STARTS,
        holders=case.holders(passing_tracks(case)),
        remedy="Keep connections: one pool for each process, created once; where processes are short-lived, PgBouncer.",
        decide_by="the server's log with log_connections, or PostgreSQL 14, which counts sessions",
    )


AFTER_RESTART = 120.0
"""Seconds after a start of the server in which a rush belongs to it."""
RUSH = 10
"""Backends that began within two seconds of each other."""
RUSH_WINDOW = 2.0
LEAST_LOGGING_IN = 3
"""A login takes milliseconds: of a fleet that has all its connections, looks catch none."""


def reconnect_storm(case: Case) -> Iterator[Finding]:
    """After a restart or failover everybody connects at once, and is refused for it.

    Threshold: the server was seen to be away or starting, or began less than two minutes ago; ten backends began
    within two seconds of each other; and it costs something now: refusals, or three sessions that the looks caught
    logging in. Without the last a restart is over. Where the server was not seen to be away, only those count as the
    rush that came before the looks and stay, and sessions that pass all the time are no storm, but connection-churn.
    Certain: it was seen to be away in this observation.
    """
    facts = case.facts
    if not facts.samples:
        return
    all_starts = {sample.started_at for sample in facts.observation.samples}
    away = len(all_starts) > 1 or facts.refused_by(["starting-up", "unreachable"]) is not None
    uptime = facts.samples[-1].at - facts.samples[-1].started_at
    starts = Counter(
        int((t.last.started_at - facts.samples[-1].started_at) // RUSH_WINDOW)
        for t in (facts.all_tracks if away else facts.tracks)
        if t.last.started_at is not None and (away or not t.is_new)
    )
    rush = max(starts.values(), default=0)
    logging_in = sum(1 for track in facts.all_tracks if _is_logging_in(track))
    costs = logging_in >= LEAST_LOGGING_IN
    if away:
        costs = costs or facts.is_refusing
    elif not 0 <= uptime < AFTER_RESTART or "connection-churn" in case.said:
        return
    if rush < RUSH or not costs:
        return
    yield Finding(
        code="reconnect-storm",
        severity=case.severity(),
        confidence="certain" if away else "likely",
        layer="application",
        summary=f"The server started {format_duration(max(0.0, uptime))} ago and {rush} sessions came within "
        f"{format_duration(RUSH_WINDOW)}; {logging_in} were caught logging "
        f"in{', others are refused' if facts.is_refusing else ''}",
        evidence={
            "uptime": uptime,
            "rush": rush,
            "logging_in": logging_in,
            "refused": facts.is_refusing,
            "seen_away": away,
            "threshold": f"{RUSH} backends within {format_duration(RUSH_WINDOW)} of each other after a start, and "
            f"refusals or {LEAST_LOGGING_IN} caught logging in",
        },
        evidence_sql=live_sql.STARTS,
        remedy="Back off with jitter before trying again, and bound parallel openings; a pooler in front keeps the "
        "rush "
        "from the server. Find what restarted it: the pools' size did not.",
    )


def _is_logging_in(track: Track) -> bool:
    """Whether a look caught it before it was let in or refused. Whoever takes longer than a rush does not answer: a
    half-open connection."""
    began = track.rows[0][1].started_at
    if began is None or track.rows[0][1].state != "starting":
        return False
    return all(backend.state != "starting" or at - began <= RUSH_WINDOW for at, backend in track.rows)
