"""Work that is more than the database can carry: slow statements, connections opened for too little, storms.

Decides when statements, openings or reconnections are the limit.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.tracks import STUCK_AFTER, Application, Track, is_tool
from poolctl.diagnose.live.usage import LEAST_OPENED, TRANSACTIONS_EACH
from poolctl.diagnose.live.work import Work, is_processor_bound, measure_work
from poolctl.diagnose.slow_database import BUSY_SHARE, DOMINANT_SHARE, find_filtered_columns
from poolctl.units import agree, format_count, format_duration, percent, plural, quote

TIMES_CORES = 2
"""Statements at work over cores from which they mostly wait for a processor."""
LEAST_TIME = 0.025
"""Seconds that a statement at work takes, from which it is slow and not merely one of many: sixteen clients of 0.1 ms
statements also keep two cores busy (2 ms each by their age, measured on staged systems), and no client waits for them.
Scans of 20 ms by ten clients that shared two cores took 90 ms and more."""
LEAST_BUSY = 0.02
"""The same where the server itself keeps the processors busy. Scans of 15 ms by six clients on two cores took 30 to 38
ms (measured on staged systems)."""
SLOW_STATEMENT = 0.3
"""Seconds that a statement takes, from which a pool that is full of them is not too small, though the processors are
idle or unknown and clients wait: connections that come back quickly do so within milliseconds (a proposal)."""


def find_slow_database(context: RuleContext) -> Iterator[Finding]:
    """Report that the database is the limit: more connections would wait there instead of here.

    Threshold: twice as many statements at work as there are cores, and they take long (25 ms: sixteen quick ones also
    crowd two cores); or as many as cores with the server's processes on nine tenths of what other work leaves of them,
    and they take long or clients wait. Or, with clients waiting, statements that take 0.3 s or more each, for any
    reason except locks.

    Or most statements at work, two or more, have waited for a synchronous standby for a second: commits that none
    confirms (certain).

    Certain: crowded, and one statement has more than half of the time. Undetermined: the cores are unknown, and either
    32 statements are at work, or four of which most read a whole table; or this role may not see whether the statements
    only wait, for a timer or another server, while the processors have time and no table is read from end to end.
    """
    facts = context.facts
    work, cores, cpu = measure_work(facts), facts.cores, facts.server_cpu
    unconfirmed = tuple(track for track in work.tracks if _waits_for_standby(track))
    if len(unconfirmed) > 1 and 2 * len(unconfirmed) > len(work.tracks):
        yield _build_unconfirmed(context, unconfirmed)
        return
    crowded = cores is not None and work.mean > TIMES_CORES * cores
    busy = cores is not None and work.mean >= cores and is_processor_bound(facts)
    slow, each_takes = _find_slow_holders(context)
    tracks, sentence = work.tracks or slow, _write_slow(work, cores)
    decide_by = "how many cores the server has, and how busy they are"
    is_long = work.takes >= (LEAST_BUSY if busy else LEAST_TIME)
    if ((crowded or busy) and is_long) or (busy and facts.count_waiting().sustained):
        confidence: Confidence = (
            "certain" if crowded and work.share > DOMINANT_SHARE and len(facts.samples) > 1 else "likely"
        )
        if not busy and work.table is None and 2 * sum(t.last.is_hidden for t in work.tracks) > len(work.tracks):
            confidence, decide_by = "undetermined", WHAT_THEY_WAIT_FOR
    elif slow:
        confidence, tracks, sentence = "likely", slow, _write_held(slow, each_takes)
    elif cores is None and is_long and (work.mean >= UNKNOWN_CORES or (_is_scanning(work) and work.mean >= SCANS)):
        confidence = "undetermined"
    else:
        return
    columns = find_filtered_columns(work.statement or "") if work.table is not None else []
    yield build_finding(
        "slow-database",
        severity=context.judge_severity(),
        confidence=cap_confidence(confidence, tracks),
        summary=sentence,
        evidence={
            "at_work": round(work.mean, 1),
            "cores": cores,
            "server_cpu": cpu,
            "typical_age": work.age if tracks is not slow else _measure_typical_age(slow),
            "each_takes": each_takes or None,
            "statement": quote(work.statement, 120) if work.statement else None,
            "statement_share": percent(work.share) if work.statement else None,
            "share_from": "pg_stat_statements" if work.by_counters else "samples",
            "statement_time": work.takes or None,
            "table": work.table.name if work.table else None,
            "column": columns[0] if columns else None,
            "table_rows": work.table.live_rows if work.table else None,
            "rows_read_by_scans": work.rows_read or None,
            "waiting": context.facts.count_waiting().count,
            "threshold": f"> {TIMES_CORES} x cores at work in statements of {format_duration(LEAST_TIME)} or more; "
            f"{percent(BUSY_SHARE)} of the cores busy with such of {format_duration(LEAST_BUSY)}, or while clients "
            f"wait; or clients wait for statements of {format_duration(SLOW_STATEMENT)}",
        },
        evidence_sql=sql.SCANS if work.table else sql.STATEMENTS if work.by_counters else sql.ACTIVE,
        holders=context.find_holders(tracks),
        remedy=_write_remedy(work),
        decide_by=decide_by if confidence == "undetermined" else None,
    )


def _waits_for_standby(track: Track) -> bool:
    return track.last.wait_event == "SyncRep" and track.is_confirmed and track.age > STUCK_AFTER


def _build_unconfirmed(context: RuleContext, tracks: tuple[Track, ...]) -> Finding:
    age = max(track.age for track in tracks)
    return build_finding(
        "slow-database",
        severity=context.judge_severity(),
        confidence=cap_confidence("certain", tracks),
        summary=f"{agree(len(tracks), 'commit', 'wait')} for a synchronous standby, the longest for "
        f"{format_duration(age)}: none confirms them",
        evidence={
            "waiting_for_standby": len(tracks),
            "longest": age,
            "waiting": context.facts.count_waiting().count,
            "threshold": f"most statements at work, two or more, in SyncRep for over {format_duration(STUCK_AFTER)}",
        },
        evidence_sql=sql.ACTIVE,
        holders=context.find_holders(tracks),
        remedy="Neither the pool nor the statements are the problem: bring the standby back (pg_stat_replication), or "
        "take it out of synchronous_standby_names and reload. On this server the transactions are committed already.",
    )


WHAT_THEY_WAIT_FOR = "an observation as a member of pg_monitor: whether these statements work, or wait for something"
UNKNOWN_CORES = 32
"""Statements at work from which a server of unknown size may be crowded: twice a large one's cores."""


SCANS = 4
"""The same for statements that read a whole table each: an index would help a server of any size."""


def _is_scanning(work: Work) -> bool:
    """Return True if most of the time goes into one known statement that reads a whole table."""
    return work.table is not None and work.statement is not None and work.share > DOMINANT_SHARE


def _find_slow_holders(context: RuleContext) -> tuple[tuple[Track, ...], float]:
    """Find the backends whose long statements, which wait for no lock, keep a pool full that clients wait for.

    With the seconds that each statement takes.
    """
    found: list[Track] = []
    longest = 0.0
    for application in context.facts.programs:
        if not context.facts.count_waiting(application).sustained:
            continue
        tracks = [
            t
            for t in context.keep_unexplained(application.tracks)
            if t.last.is_active and t.last.wait_event_type not in ("Lock", "Client")
        ]
        takes = _measure_statement_time(context, application, tracks)
        if 2 * len(tracks) > application.count and takes >= SLOW_STATEMENT:
            found += tracks
            longest = max(longest, takes)
    return tuple(found), longest


def _measure_statement_time(context: RuleContext, application: Application, tracks: Sequence[Track]) -> float:
    """Return the seconds that one statement takes: twice the typical age, as caught at random it is half done.

    Of a full pool whose figures count acquires: a hold by Little's law (connections x window / acquires) less what
    other statements of the same transaction take; on average half of them are done.
    """
    pools = context.facts.find_pools_of(application)
    acquires = [pool.measure_growth("acquired_total") or 0.0 for pool in pools]
    if pools and all(pool.is_full for pool in pools) and all(acquires):
        hold = sum((pool.last.in_use or 0) * pool.window for pool in pools) / sum(acquires)
        done = [
            max(0.0, row.query_at - row.transaction_at)
            for track in tracks
            for _, row in track.used
            if row.is_active and row.query_at is not None and row.transaction_at is not None
        ]
        return max(0.0, hold - 2 * mean(done)) if done else hold
    return 2 * _measure_typical_age(tracks)


def _measure_typical_age(tracks: Sequence[Track]) -> float:
    """Return the median age over all samples: statements that began together are young together in some of them."""
    rows = [(at, row.query_at) for track in tracks for at, row in track.used if row.is_active]
    ages = [max(0.0, at - began) for at, began in rows if began is not None]
    return median(ages) if ages else 0.0


def _write_slow(work: Work, cores: int | None) -> str:
    on = f" on {plural(cores, 'core')}" if cores else ""
    statement = ""
    if work.statement and work.share > DOMINANT_SHARE:
        statement = f"; {percent(work.share)} of it is {quote(work.statement, 60)}"
    scan = ""
    if work.table is not None:
        rows = f"all {format_count(work.table.live_rows)} rows of {work.table.name}"
        columns = find_filtered_columns(work.statement or "")
        without = f", without an index on {columns[0]}" if columns else ""
        scan = f", which reads {rows} each time{without}" if statement else f"; scans read {rows} meanwhile"
    return (
        f"{format_count(round(work.mean, 1))} statements at work at once{on}, typically {format_duration(work.age)} "
        f"old{statement}{scan}"
    )


def _write_held(slow: Sequence[Track], takes: float) -> str:
    statements = Counter(track.last.query for track in slow if track.last.query and not track.last.is_hidden)
    mostly = f", mostly {quote(statements.most_common(1)[0][0], 60)}" if statements else ""
    return (
        f"{agree(len(slow), 'connection', 'are')} in statements that take about {format_duration(takes)} each while "
        f"clients wait{mostly}"
    )


def _write_remedy(work: Work) -> str:
    start = "Pool size is not the problem: more connections would share the same processors and disks."
    if work.table is None:
        return f"{start} Make the statement cheaper or rarer, or add cores."
    if not work.statement:
        return f"{start} Find the statements that read {work.table.name} from end to end, and index what they compare."
    columns = ", ".join(find_filtered_columns(work.statement)) or "..."
    return (
        f"{start} Make {quote(work.statement or '', 100)} read less, such as with CREATE INDEX CONCURRENTLY ON "
        f"{work.table.name} ({columns});"
    )


LEAST_SESSIONS = 5
ABANDONED_SHARE = 0.05
LONG_WINDOW = 10.0
"""Seconds over which the counters' lag (a flush a second at most) no longer matters."""


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """What pg_stat_database counted between the first and the last sample."""

    window: float
    opened: int
    abandoned: int
    transactions: int
    grown: int
    """Backends that are more than at first."""


def count_sessions(facts: LiveFacts) -> SessionCounts | None:
    """Count sessions and transactions in the window.

    None before PostgreSQL 14, with one sample, or where the statistics were reset in between.
    """
    if len(facts.server_samples) < 2 or facts.window <= 0:
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
    grown = len(facts.server_samples[-1].clients) - len(facts.server_samples[0].clients)
    return SessionCounts(facts.window, opened, abandoned, transactions, grown) if known else None


def find_connection_churn(context: RuleContext) -> Iterator[Finding]:
    """Report sessions that are opened for so little work that opening them is the work.

    Threshold: a new session a second and for every ten transactions, five at least, most of which are gone again (a
    fleet that starts up stays); or a twentieth of the new ones, and five, ended without closing. Certain: over ten
    seconds or more. Undetermined: before PostgreSQL 14 nothing counts sessions, and only the ones that a sample caught
    are known.
    """
    counted = count_sessions(context.facts)
    if counted is None:
        yield from _find_by_samples(context)
        return
    rate = counted.opened / counted.window
    passing = counted.opened - max(0, counted.grown)
    often = counted.opened >= LEAST_SESSIONS and rate >= LEAST_OPENED and 2 * passing > counted.opened
    thin = counted.opened * TRANSACTIONS_EACH > counted.transactions
    dropped = counted.abandoned >= LEAST_SESSIONS and counted.abandoned > ABANDONED_SHARE * counted.opened
    if not (often and thin) and not dropped:
        return
    confidence: Confidence = "certain" if counted.window >= LONG_WINDOW else "likely"
    lost = f", {format_count(counted.abandoned)} dropped without closing" if dropped else ""
    yield build_finding(
        "connection-churn",
        severity=context.judge_severity() if context.is_full else "warning",
        confidence=confidence,
        summary=f"{format_count(counted.opened)} sessions opened in {format_duration(counted.window)} for "
        f"{plural(counted.transactions, 'transaction')}{lost}: {_format_rate(rate)}, most of them gone again",
        evidence={
            "opened": counted.opened,
            "opened_per_second": rate,
            "transactions": counted.transactions,
            "abandoned": counted.abandoned,
            "grown": counted.grown,
            "window": counted.window,
            "threshold": f"a session for fewer than {TRANSACTIONS_EACH} transactions, {LEAST_OPENED:g} a second, most "
            f"of them gone again; or {percent(ABANDONED_SHARE)} of the new ones abandoned",
        },
        holders=context.find_holders(find_passing(context)),
    )


def _format_rate(rate: float) -> str:
    return f"{format_count(rate)} a second"


def find_passing(context: RuleContext) -> tuple[Track, ...]:
    """Find the backends that came in the window, gone ones included, for the names of the clients that open them.

    One that only the first sample caught counts as well, where it had just been opened. An operator's program that
    comes once beside others is none of them.
    """
    came = context.keep_unexplained(
        t
        for t in context.facts.all_tracks
        if (t.is_new or _just_passed(t)) and t.last.state != "starting" and t.last.user
    )
    came = tuple(t for t in came if not is_tool(t.last.application)) or came
    there = tuple(track for track in came if track.is_there)
    return tuple(sorted(came, key=lambda track: not track.is_there))[: max(MOST_PASSING, len(there))]


def _just_passed(track: Track) -> bool:
    started = track.last.started_at
    return track.row_count == 1 < track.sample_count and started is not None and track.since - started < JUST_OPENED


JUST_OPENED = 1.0
"""Seconds before the first sample in which a backend was opened that is gone by the second one."""
MOST_PASSING = 50
"""Of backends that are gone: more of them name no new client."""


def _find_by_samples(context: RuleContext) -> Iterator[Finding]:
    facts = context.facts
    if len(facts.samples) < 3 or any(track.last.started_at is None for track in facts.all_tracks):
        return
    brief = [t for t in facts.all_tracks if t.first_at > t.since and not t.is_there]
    if len(brief) < LEAST_SESSIONS:
        return
    yield build_finding(
        "connection-churn",
        severity="warning",
        confidence="undetermined",
        summary=f"{len(brief)} sessions came and went within {format_duration(facts.window)}, as far as the samples "
        "caught them",
        evidence={
            "caught": len(brief),
            "looks": len(facts.samples),
            "threshold": f"{LEAST_SESSIONS} that came and went",
        },
        evidence_sql=sql.STARTS,
        holders=context.find_holders(find_passing(context)),
        decide_by="the server's log with log_connections, or PostgreSQL 14, which counts sessions",
    )


AFTER_RESTART = 120.0
"""Seconds after a start of the server in which a rush belongs to it."""
RUSH = 10
"""Backends that began within two seconds of each other."""
RUSH_WINDOW = 2.0
LEAST_LOGGING_IN = 3
"""A login takes milliseconds: of a fleet that has all its connections, samples catch none."""


def find_reconnect_storm(context: RuleContext) -> Iterator[Finding]:
    """Report that all clients connect at once after a restart or failover, and are refused because of it.

    Threshold: the server was observed to be away or starting, or started less than two minutes ago; ten backends began
    within two seconds of each other; and it costs something now: refusals, or three backends that the samples caught
    logging in. Without the last a restart is over. Where the server was not observed to be away, only backends that
    came before the samples and stay count as the rush, and sessions that pass all the time are no storm, but
    connection-churn. Certain: it was observed to be away.
    """
    facts = context.facts
    if not facts.server_samples:
        return
    all_starts = {sample.started_at for sample in facts.observation.samples}
    away = len(all_starts) > 1 or facts.find_refusal(["starting-up", "unreachable"]) is not None
    uptime = facts.server_samples[-1].at - facts.server_samples[-1].started_at
    starts = Counter(
        int((t.last.started_at - facts.server_samples[-1].started_at) // RUSH_WINDOW)
        for t in (facts.all_tracks if away else facts.tracks)
        if t.last.started_at is not None and (away or not t.is_new)
    )
    rush = max(starts.values(), default=0)
    logging_in = sum(1 for track in facts.all_tracks if _is_logging_in(track))
    costs = logging_in >= LEAST_LOGGING_IN
    if away:
        costs = costs or facts.is_refusing
    elif not 0 <= uptime < AFTER_RESTART or "connection-churn" in context.reported:
        return
    if rush < RUSH or not costs:
        return
    yield build_finding(
        "reconnect-storm",
        severity=context.judge_severity(),
        confidence="certain" if away else "likely",
        summary=f"The server started {format_duration(max(0.0, uptime))} ago and {rush} backends started within "
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
    )


def _is_logging_in(track: Track) -> bool:
    """Return True if a sample caught it before it was accepted or refused.

    A client that takes longer than a rush does not answer: a half-open connection.
    """
    began = track.first.started_at
    if began is None or track.first.state != "starting":
        return False
    return all(backend.state != "starting" or at - began <= RUSH_WINDOW for at, backend in track.list_rows())
