"""Statements at work: how many at once, how old, and which statement and table take the time.

Decides what counts as work. Whether it is too much is left to the rules.
"""

import re
from collections import Counter
from dataclasses import dataclass
from statistics import mean, median

from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.tracks import Track
from poolctl.observe.snapshot import Backend, StatementCounters, TableCounters

DOMINANT_SHARE = 0.5
"""Share of the execution time above which one statement is the workload."""


BUSY_SHARE = 0.9
"""Share of the cores that the server alone keeps busy. Above it throughput can grow by a ninth at most."""


SMALL_TABLE = 1000


TIMES_READ = 1
"""Reading a table of a thousand rows or more from end to end, once in the window, is what an index would save."""


@dataclass(frozen=True, slots=True)
class Work:
    """Statements at work: running or reading, not waiting for locks, clients or a timer."""

    mean: float
    age: float
    """Median, in seconds."""
    statement: str | None
    share: float
    """Share of the time at work that this statement takes."""
    by_counters: bool
    """Whether the share comes from pg_stat_statements and not from the samples."""
    table: TableCounters | None
    rows_read: float
    tracks: tuple[Track, ...]


def is_at_work(backend: Backend) -> bool:
    return backend.is_active and backend.wait_event_type not in ("Lock", "Client", "Timeout", "Activity", "Extension")


def measure_work(facts: LiveFacts) -> Work:
    """Measure the statements at work in the samples of ``facts``."""
    ages: list[float] = []
    statements: Counter[str] = Counter()
    counts: list[int] = []
    for sample in facts.samples:
        rows = [backend for backend in sample.backends if backend.is_client and is_at_work(backend)]
        counts.append(len(rows))
        for row in rows:
            if row.query_at is not None:
                ages.append(max(0.0, sample.at - row.query_at))
            if row.query and not row.is_hidden:
                statements[row.query] += 1
    top, observed = statements.most_common(1)[0] if statements else (None, 0)
    share = observed / max(1, sum(statements.values()))
    counted = _read_counters(facts)
    if counted is not None:
        top, share = counted
    table, rows_read = _find_scanned(facts, top or "")
    tracks = tuple(track for track in facts.tracks if is_at_work(track.last))
    # The mean stands in where ages are hidden. A statement caught at random is half done, and more often a long one.
    age = median(ages) if ages else _measure_mean_time(facts)
    return Work(mean(counts) if counts else 0.0, age, top, share, counted is not None, table, rows_read, tracks)


def _measure_mean_time(facts: LiveFacts) -> float:
    """Return the seconds of statements for each transaction that ended in the window.

    By counters that every role may see; 0 before PostgreSQL 14, and where none ended.
    """
    time, transactions = 0.0, 0
    for then, now in facts.counted:
        if now.active_time is not None:
            time += now.active_time - (then.active_time or 0.0)
            transactions += now.commits + now.rollbacks - then.commits - then.rollbacks
    return max(0.0, time) / transactions if transactions > 0 else 0.0


def _read_counters(facts: LiveFacts) -> tuple[str, float] | None:
    """Return the statement with most of the execution time in the window, and its share; None if not counted.

    Only statements that ended are counted.
    """
    grown = measure_statement_growth(facts)
    total = sum(time for _, time in grown)
    if total <= 0:
        return None
    best, time = max(grown, key=lambda pair: pair[1])
    return (best.query, time / total) if best.query else None


def measure_statement_growth(facts: LiveFacts) -> list[tuple[StatementCounters, float]]:
    """Return each statement's execution time between the first and the last sample that have any, in seconds."""
    samples = [sample for sample in facts.server_samples if sample.statements]
    if len(samples) < 2:
        return []
    before = {(row.query_id, row.user, row.database): row.time for row in samples[0].statements}
    return [
        (row, row.time - before.get((row.query_id, row.user, row.database), 0.0))
        for row in samples[-1].statements
        if row.time > before.get((row.query_id, row.user, row.database), 0.0)
    ]


def _find_scanned(facts: LiveFacts, query: str) -> tuple[TableCounters | None, float]:
    """Find the table named in ``query`` that was read most from end to end, with the rows read in the window."""
    samples = [sample for sample in facts.server_samples if sample.tables]
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
