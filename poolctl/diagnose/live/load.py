"""Statements at work, and whether they are more than the database's processors and disks can carry."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live import sql as live_sql
from poolctl.diagnose.live.context import Case, at_most_likely
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.tracks import Application, Track
from poolctl.diagnose.run import sql as run_sql
from poolctl.diagnose.statements import filtered_columns
from poolctl.diagnose.words import percent, plural, quote
from poolctl.observe.snapshot import Backend, StatementCounters, TableCounters
from poolctl.units import format_count, format_duration

TIMES_CORES = 2
"""Statements at work over cores from which they mostly wait for a processor (catalog)."""
DOMINANT_SHARE = 0.5
"""Share of the execution time above which one statement is the workload (catalog)."""
LEAST_RUNNING = 0.02
"""Median age, seconds, of the statements seen at work, from which they are slow and not merely many: sixteen clients
of 0.1 ms statements also keep two cores busy, and nobody waits for them. Caught at random a statement is half done:
ten scans of 20 ms sharing two cores were seen 45 to 90 ms old (staged)."""
LEAST_BUSY = 0.01
"""The same where the server itself keeps the processors busy. Scans of 15 ms by six clients on two cores were 15 to
19 ms old, statements of 0.1 ms by sixteen clients 1 ms (staged)."""
SLOW_STATEMENT = 0.3
"""Seconds that a statement takes, from which a pool that is full of them is not too small, though the processors are
idle or unknown and clients wait: connections that come back quickly do so within milliseconds (a proposal)."""
BUSY_SHARE = 0.9
"""Share of the cores that the server alone keeps busy (sizing reference, 5.6)."""
SMALL_TABLE = 1000
TIMES_READ = 1
"""Reading a table of a thousand rows or more from end to end, once in the window, is what an index would save."""


@dataclass(frozen=True, slots=True)
class Work:
    """Statements at work: running or reading, not waiting for locks, clients or a timer."""

    mean: float
    age: float
    """Median, seconds."""
    statement: str | None
    share: float
    """Of the time at work that is this statement's."""
    by_counters: bool
    """The share is pg_stat_statements', not the samples'."""
    table: TableCounters | None
    rows_read: float
    tracks: tuple[Track, ...]


def is_at_work(backend: Backend) -> bool:
    return backend.is_active and backend.wait_event_type not in ("Lock", "Client", "Timeout", "Activity", "Extension")


def work_of(facts: LiveFacts) -> Work:
    ages: list[float] = []
    statements: Counter[str] = Counter()
    counts: list[int] = []
    for look in facts.looks:
        rows = [backend for backend in look.backends if backend.is_client and is_at_work(backend)]
        counts.append(len(rows))
        for row in rows:
            if row.query_at is not None:
                ages.append(max(0.0, look.at - row.query_at))
            if row.query and not row.is_hidden:
                statements[row.query] += 1
    top, seen = statements.most_common(1)[0] if statements else (None, 0)
    share = seen / max(1, sum(statements.values()))
    counted = _by_counters(facts)
    if counted is not None:
        top, share = counted
    table, rows_read = _scanned(facts, top or "")
    tracks = tuple(track for track in facts.tracks if is_at_work(track.last))
    # Where ages are hidden. Caught at random a statement is half done, but it is rather one of the long ones.
    age = median(ages) if ages else _mean_time(facts)
    return Work(mean(counts) if counts else 0.0, age, top, share, counted is not None, table, rows_read, tracks)


def _mean_time(facts: LiveFacts) -> float:
    """Seconds of statements for each transaction that ended in the window, by counters that every role may see; 0
    before PostgreSQL 14, and where none ended."""
    time, transactions = 0.0, 0
    for then, now in facts.counted:
        if now.active_time is not None:
            time += now.active_time - (then.active_time or 0.0)
            transactions += now.commits + now.rollbacks - then.commits - then.rollbacks
    return max(0.0, time) / transactions if transactions > 0 else 0.0


def _by_counters(facts: LiveFacts) -> tuple[str, float] | None:
    """The statement with most of the execution time in the window, and its share. Only what ended is counted."""
    grown = statement_growth(facts)
    total = sum(time for _, time in grown)
    if total <= 0:
        return None
    best, time = max(grown, key=lambda pair: pair[1])
    return (best.query, time / total) if best.query else None


def statement_growth(facts: LiveFacts) -> list[tuple[StatementCounters, float]]:
    """Execution time of each statement between the first and the last sample that have any, seconds."""
    samples = [sample for sample in facts.samples if sample.statements]
    if len(samples) < 2:
        return []
    before = {(row.query_id, row.user, row.database): row.time for row in samples[0].statements}
    return [
        (row, row.time - before.get((row.query_id, row.user, row.database), 0.0))
        for row in samples[-1].statements
        if row.time > before.get((row.query_id, row.user, row.database), 0.0)
    ]


def _scanned(facts: LiveFacts, query: str) -> tuple[TableCounters | None, float]:
    """The table named in ``query`` that was read most from end to end, with the rows read in the window."""
    samples = [sample for sample in facts.samples if sample.tables]
    if len(samples) < 2:
        return None, 0.0
    before = {table.name: table for table in samples[0].tables}
    best, most = None, 0.0
    for table in samples[-1].tables:
        known = before.get(table.name)
        read = float(table.rows_read - (known.rows_read if known else table.rows_read))
        name = re.escape(table.name.rpartition(".")[2])
        is_named = re.search(rf"\b{name}\b", query) is not None
        if is_named and table.live_rows >= SMALL_TABLE and read >= TIMES_READ * table.live_rows and read > most:
            best, most = table, read
    return best, most


def slow_database(case: Case) -> Iterator[Finding]:
    """The database is the limit: more connections would wait there instead of here.

    Threshold: twice as many statements at work as there are cores, and they take long (median age 20 ms: sixteen quick
    ones also crowd two cores); or as many as cores with the server's processes on nine tenths of them, and they take
    long (10 ms) or clients wait. Or, with clients waiting, statements that take 0.3 s or more each, whatever they wait
    for.
    Certain: crowded, and one statement has more than half of the time. Undetermined: the cores are unknown.
    """
    facts = case.facts
    work, cores, cpu = work_of(facts), facts.cores, facts.server_cpu
    crowded = cores is not None and work.mean > TIMES_CORES * cores
    busy = cores is not None and cpu is not None and cpu >= BUSY_SHARE * cores and work.mean >= cores
    slow, each_takes = _slow_holders(case)
    tracks, sentence = work.tracks or slow, _slow_sentence(work, cores)
    is_long = work.age >= (LEAST_BUSY if busy else LEAST_RUNNING)
    if ((crowded or busy) and is_long) or (busy and facts.waiting().sustained):
        confidence: Confidence = (
            "certain" if crowded and work.share > DOMINANT_SHARE and len(facts.looks) > 1 else "likely"
        )
    elif slow:
        confidence, tracks, sentence = "likely", slow, _held_sentence(slow, each_takes)
    elif cores is None and work.mean >= UNKNOWN_CORES and work.age >= LEAST_RUNNING:
        confidence = "undetermined"
    else:
        return
    yield Finding(
        code="slow-database",
        severity=case.severity(),
        confidence=at_most_likely(confidence, tracks),
        layer="database",
        summary=sentence,
        evidence={
            "at_work": round(work.mean, 1),
            "cores": cores,
            "server_cpu": cpu,
            "typical_age": work.age if tracks is not slow else _typical_age(slow),
            "each_takes": each_takes or None,
            "statement": quote(work.statement, 120) if work.statement else None,
            "statement_share": percent(work.share) if work.statement else None,
            "share_from": "pg_stat_statements" if work.by_counters else "samples",
            "table": work.table.name if work.table else None,
            "table_rows": work.table.live_rows if work.table else None,
            "rows_read_by_scans": work.rows_read or None,
            "waiting": case.facts.waiting().count,
            "threshold": f"> {TIMES_CORES} x cores at work for typically {format_duration(LEAST_RUNNING)} or more; "
            f"{percent(BUSY_SHARE)} of the cores busy for typically {format_duration(LEAST_BUSY)}, or while clients "
            f"wait; or clients wait for statements of {format_duration(SLOW_STATEMENT)}",
        },
        evidence_sql=run_sql.SCANS if work.table else live_sql.STATEMENTS if work.by_counters else run_sql.ACTIVE,
        holders=case.holders(tracks),
        remedy=_slow_remedy(work),
        decide_by="how many cores the server has, and how busy they are" if confidence == "undetermined" else None,
    )


UNKNOWN_CORES = 32
"""Statements at work from which a server of unknown size may be crowded: twice a large one's cores."""


def _slow_holders(case: Case) -> tuple[tuple[Track, ...], float]:
    """Sessions whose statements keep a pool full that clients wait for, long ones and not for a lock, and the seconds
    that each takes."""
    found: list[Track] = []
    longest = 0.0
    for application in case.facts.programs:
        if not case.facts.waiting(application).sustained:
            continue
        tracks = [
            t
            for t in case.free(application.tracks)
            if t.last.is_active and t.last.wait_event_type not in ("Lock", "Client")
        ]
        takes = _statement_time(case, application, tracks)
        if 2 * len(tracks) > application.count and takes >= SLOW_STATEMENT:
            found += tracks
            longest = max(longest, takes)
    return tuple(found), longest


def _statement_time(case: Case, application: Application, tracks: Sequence[Track]) -> float:
    """Seconds that one takes: twice the typical age, as caught at random it is half done. Of a full pool whose figures
    count acquires, a hold by Little's law (connections x window / acquires) less what other statements of the same
    transaction take: on average half of them are done."""
    pools = case.facts.pools_of(application)
    acquires = [pool.growth("acquired_total") or 0.0 for pool in pools]
    if pools and all(pool.is_full for pool in pools) and all(acquires):
        hold = sum((pool.last.in_use or 0) * pool.window for pool in pools) / sum(acquires)
        done = [
            max(0.0, row.query_at - row.transaction_at)
            for track in tracks
            for _, row in track.rows
            if row.is_active and row.query_at is not None and row.transaction_at is not None
        ]
        return max(0.0, hold - 2 * mean(done)) if done else hold
    return 2 * _typical_age(tracks)


def _typical_age(tracks: Sequence[Track]) -> float:
    """Median over all looks: those that began together are young together at some of them."""
    rows = [(at, row.query_at) for track in tracks for at, row in track.rows if row.is_active]
    ages = [max(0.0, at - began) for at, began in rows if began is not None]
    return median(ages) if ages else 0.0


def _slow_sentence(work: Work, cores: int | None) -> str:
    on = f" on {plural(cores, 'core')}" if cores else ""
    statement = ""
    if work.statement and work.share > DOMINANT_SHARE:
        statement = f"; {percent(work.share)} of it is {quote(work.statement, 60)}"
    scan = ""
    if work.table is not None:
        scan = f", which reads all {format_count(work.table.live_rows)} rows of {work.table.name} each time"
    return (
        f"{format_count(round(work.mean, 1))} statements at work at once{on}, typically {format_duration(work.age)} old"
        f"{statement}{scan}"
    )


def _held_sentence(slow: Sequence[Track], takes: float) -> str:
    statements = Counter(track.last.query for track in slow if track.last.query and not track.last.is_hidden)
    mostly = f", mostly {quote(statements.most_common(1)[0][0], 60)}" if statements else ""
    return (
        f"{plural(len(slow), 'connection')} are in statements that take about {format_duration(takes)} each while "
        f"clients wait{mostly}"
    )


def _slow_remedy(work: Work) -> str:
    start = "Pool size is not the problem: more connections would share the same processors and disks."
    if work.table is None:
        return f"{start} Make the statement cheaper or rarer, or add cores."
    columns = ", ".join(filtered_columns(work.statement or "")) or "..."
    return (
        f"{start} Make {quote(work.statement or '', 100)} read less, such as with "
        f"CREATE INDEX CONCURRENTLY ON {work.table.name} ({columns});"
    )
