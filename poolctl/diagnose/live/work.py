"""Statements at work: how many at once, how old, and which statement and table take the time.

Decides what counts as work. Whether it is too much is left to the rules.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from statistics import mean, median
from typing import NamedTuple

from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.tracks import Track, is_at_work
from poolctl.diagnose.slow_database import BUSY_SHARE, DOMINANT_SHARE, SMALL_TABLE
from poolctl.observe.snapshot import StatementCounters, TableCounters

LEAST_OF_CORES = 0.33
TIMES_READ = 1
"""Reading a table of a thousand rows or more from end to end, once in the window, is what an index would save."""


@dataclass(frozen=True, slots=True)
class Work:
    """Statements at work: running or reading, not waiting for locks, clients or a timer."""

    mean: float
    age: float
    """Median, in seconds."""
    takes: float
    """Seconds that a statement takes, typically: as counted, else twice its age when it was caught at random."""
    statement: str | None
    share: float
    """Share of the time at work that this statement takes."""
    by_counters: bool
    """Whether the share comes from pg_stat_statements and not from the samples."""
    table: TableCounters | None
    rows_read: float
    tracks: tuple[Track, ...]


def measure_work(facts: LiveFacts) -> Work:
    """Measure the statements at work in the samples of ``facts``."""
    counts = [len(sample.at_work) for sample in facts.samples]
    ages = list(chain.from_iterable(sample.work_ages for sample in facts.samples))
    statements = Counter(chain.from_iterable(sample.statements for sample in facts.samples))
    top, observed = statements.most_common(1)[0] if statements else (None, 0)
    share = observed / max(1, sum(statements.values()))
    counted = _read_counters(facts)
    if counted is not None:
        top, share, _ = counted
    table, rows_read = _find_scanned(facts, top or "")
    tracks = tuple(track for track in facts.tracks if is_at_work(track.last))
    # The mean stands in where ages are hidden. A statement caught at random is half done, and more often a long one.
    age = median(ages) if ages else _measure_mean_time(facts)
    takes = counted[2] if counted is not None and share > DOMINANT_SHARE else 2 * age
    return Work(mean(counts) if counts else 0.0, age, takes, top, share, counted is not None, table, rows_read, tracks)


def is_processor_bound(facts: LiveFacts) -> bool:
    """Return True if the server's processes take nine tenths of the processor time that other work leaves them.

    At least a third of all, as on a crowded machine a server that needs little also takes all that is left.
    """
    cores, cpu = facts.cores, facts.server_cpu
    if cores is None or cpu is None:
        return False
    hosts = [s.host for s in facts.observation.snapshots if s.host is not None and s.host.cpu_share is not None]
    all_work = mean((host.cpu_share or 0.0) * cores for host in hosts) if hosts else cpu
    return cpu >= BUSY_SHARE * (cores - max(0.0, all_work - cpu)) and cpu >= LEAST_OF_CORES * cores


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


def _read_counters(facts: LiveFacts) -> tuple[str, float, float] | None:
    """Return the statement with most of the execution time in the window, its share, and the mean time of a call.

    None if that is not counted. Only statements that ended are counted.
    """
    grown = measure_statement_growth(facts)
    total = sum(growth.time for growth in grown)
    if total <= 0:
        return None
    best = max(grown, key=lambda growth: growth.time)
    if not best.row.query:
        return None
    return best.row.query, best.time / total, best.time / max(1, best.calls)


class StatementGrowth(NamedTuple):
    """What a statement of pg_stat_statements took in the window."""

    row: StatementCounters
    time: float
    """Seconds."""
    calls: int


def measure_statement_growth(facts: LiveFacts) -> list[StatementGrowth]:
    """Measure each statement between the first and the last sample that have any.

    Without poolctl's own: a role that only sees its own statements there would find its questions to be the load.
    """
    samples = [sample for sample in facts.server_samples if sample.statements]
    server = facts.server
    if len(samples) < 2:
        return []
    before = {(row.query_id, row.user, row.database): row for row in samples[0].statements}
    # The role of an application may be the one that poolctl uses, too.
    own = server.role if server is not None and all(each.user != server.role for each in facts.programs) else None
    grown = []
    for row in samples[-1].statements:
        known = before.get((row.query_id, row.user, row.database))
        time, calls = row.time - (known.time if known else 0.0), row.calls - (known.calls if known else 0)
        if time > 0 and (own is None or row.user != own) and not _is_own(row.query or ""):
            grown.append(StatementGrowth(row, time, calls))
    return grown


def _is_own(query: str) -> bool:
    """Return True for the frame of poolctl's transactions; its other statements are never in an observation."""
    return query.startswith("BEGIN READ ONLY")


def _find_scanned(facts: LiveFacts, query: str) -> tuple[TableCounters | None, float]:
    """Find the table named in ``query`` ("": any) that was read most from end to end, with the rows read."""
    samples = [sample for sample in facts.server_samples if sample.tables]
    if len(samples) < 2:
        return None, 0.0
    before = {table.name: table for table in samples[0].tables}
    best, most = None, 0.0
    for table in samples[-1].tables:
        known = before.get(table.name)
        read = float(table.rows_read - (known.rows_read if known else table.rows_read))
        name = re.escape(table.name.rpartition(".")[2])
        # Where statements are hidden, the table that is read most from end to end is all that is known.
        is_named = not query or re.search(rf"\b{name}\b", query) is not None
        if is_named and table.live_rows >= SMALL_TABLE and read >= TIMES_READ * table.live_rows and read > most:
            best, most = table, read
    return best, most
