"""When the server is the limit: its processors, a statement without an index, the storm after an event.

Decides whether the server or the pool made requests wait.
"""

import re
from math import inf
from typing import Any, NamedTuple

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.run.facts import RunFacts
from poolctl.diagnose.slow_database import BUSY_SHARE, DOMINANT_SHARE, SMALL_TABLE, find_filtered_columns
from poolctl.scenario.run import ScannedTable
from poolctl.units import format_count, format_duration, percent, quote

TIMES_READ = 10
"""How many times over a table's rows were read by scans before it counts as read for every call (a proposal)."""
STRETCH = 1.5
"""Mean use time over the hold of the scenario, from which the model's database counts as slow (a proposal)."""
STORM_FACTOR = 10
"""Errors after an event over the errors before it, and failed openings for each connection of the fleet."""
STORM_WINDOW = 5.0
"""Seconds before and after an event that are compared."""


class _Scan(NamedTuple):
    table: ScannedTable
    rows: int
    query: str
    share: float | None
    """Of the execution time; None: the server does not keep statement statistics."""


def find_slow_database(facts: RunFacts) -> Finding | None:
    """Report that the database is the limit: more connections would wait there instead of here.

    Threshold: the server's processes keep 90 % of the cores busy, or one statement has half of the execution time and
    reads a table from end to end. Either alone counts only under pressure: requests queue or fail, twice as many
    connections in use as there are cores, or as much statement time as cores. Certain with both, or with twice as many
    statements running as there are cores; likely with one.

    Use times half as long again as the scenario's holds mean the same, in the model and for the query "cpu".
    """
    scan, busy = find_full_scan(facts), (facts.cpu_share or 0.0) >= BUSY_SHARE
    crowded = _count_running(facts) > 2 * (_count_cores(facts) or inf)
    stretch = _measure_stretch(facts)
    pressure = _is_under_pressure(facts, scan)
    if facts.lost and not busy:
        return None
    if not (busy and scan) and not (pressure and (busy or scan or stretch)):
        return None
    confidence: Confidence = "certain" if scan and (busy or crowded) else "likely"
    refused = facts.refused_by_server or facts.summary.timed_out or (facts.is_stuck and facts.summary.unfinished)
    return build_finding(
        "slow-database",
        severity="critical" if refused else "warning",
        confidence=confidence,
        summary=_write_sentence(facts, scan, busy, stretch),
        evidence=_collect_evidence(facts, scan, stretch),
        evidence_sql=sql.SCANS if scan else sql.ACTIVE,
        remedy=_write_remedy(facts, scan),
    )


def find_slow_spell(facts: RunFacts) -> Finding | None:
    """Report that the scenario slowed the statements down, and clients got no connection because of it.

    Threshold: 1 % of acquires failed. Fewer are a note. Certain: the scenario says what it did.
    """
    event = next((event for event in facts.scenario.events if event.do == "slow"), None)
    summary = facts.summary
    unserved = summary.timed_out + summary.refused + summary.failed + summary.unfinished
    if event is None or facts.leaked or unserved <= 0.01 * summary.offered:
        return None
    end = event.at + event.duration
    return build_finding(
        "slow-database",
        severity="warning",
        confidence="certain",
        summary=f"Statements took {event.factor:g} times as long from {format_duration(event.at)} to "
        f"{format_duration(end)}: {format_count(unserved)} of {format_count(summary.offered)} acquires failed",
        evidence={
            "factor": event.factor,
            "slow_from": event.at,
            "slow_until": end,
            "offered": summary.offered,
            "timed_out": summary.timed_out,
            "refused": summary.refused,
            "failed": summary.failed,
            "unfinished": summary.unfinished,
            "recovered_at": summary.recovered_at,
            "statement": None,
            "threshold": "1 % of acquires failed in a run with a slow spell",
        },
        remedy="Find what slowed the statements down. Until then give up early (acquire_timeout) and retry with "
        "backoff, or not at all; a bigger pool only asks the slow server for more at once.",
        evidence_sql=None,
    )


def find_full_scan(facts: RunFacts) -> _Scan | None:
    """Find the statement that has most of the execution time together with a table that it reads from end to end."""
    top = max(facts.server.statements, key=lambda statement: statement.share, default=None)
    if top is not None and top.share < DOMINANT_SHARE:
        return None
    query = top.query if top is not None else facts.scenario.load.query
    tables = [
        table
        for table in facts.server.scanned
        if _count_rows(table) >= SMALL_TABLE
        and table.rows_read >= TIMES_READ * _count_rows(table)
        and re.search(rf"\b{re.escape(table.name.rpartition('.')[2])}\b", query)
    ]
    table = max(tables, key=lambda table: table.rows_read, default=None)
    return None if table is None else _Scan(table, _count_rows(table), query, top.share if top is not None else None)


def _count_rows(table: ScannedTable) -> int:
    """Return the table's size; what a scan of it read, where the statistics know of no rows yet."""
    return table.rows or table.rows_read // max(1, table.scans)


def _is_under_pressure(facts: RunFacts, scan: _Scan | None) -> bool:
    """Return True if the database's pace matters to a client.

    With a scan alone, a good part of the time that connections are held must be statements: a short scan before a long
    computation in the application is not what fills the pool.
    """
    cores, running = _count_cores(facts), _count_running(facts)
    in_use = facts.summary.connections.average_in_use
    if cores is not None and running >= cores:
        return True
    if scan is not None and facts.server.statements and (facts.cpu_share or 0.0) < BUSY_SHARE:
        return facts.clients_suffer and running >= 0.5 * in_use
    return facts.clients_suffer or (cores is not None and in_use > 2 * cores)


def _count_running(facts: RunFacts) -> float:
    """Return the statements under way on average, from their execution time; 0 where the server keeps no statistics."""
    total = sum(statement.total_time for statement in facts.server.statements)
    return total / facts.summary.duration if facts.summary.duration > 0 else 0.0


def _count_cores(facts: RunFacts) -> int | None:
    return facts.scenario.database.cores if facts.run.engine == "model" else facts.server.cores


def _measure_stretch(facts: RunFacts) -> float | None:
    """Return how many times longer than the scenario's hold connections were used; None where it is no sign.

    Only where the statement itself takes the hold, and more of it when the processors are shared: in the model and for
    the built-in query "cpu".
    """
    loads = [part.load for part in facts.scenario.all_services]
    asked = max(hold.mean for load in loads for hold in (load.hold, *(burst.hold for burst in load.bursts)))
    takes_hold = facts.run.engine == "model" or facts.scenario.load.query == "cpu"
    if not takes_hold or asked <= 0 or any(load.connections_per_request > 1 for load in loads):
        return None
    # An event that stretches use times is a cause of its own.
    if any(event.do in ("pause", "slow") for event in facts.scenario.events):
        return None
    # Leaked connections are used until the end, which says nothing about the database.
    stretch = facts.summary.use_time.mean / asked
    return stretch if stretch >= STRETCH and not facts.leaked else None


def _describe_size(facts: RunFacts, busy: bool) -> str:
    peak, capacity = facts.summary.connections.peak_open, facts.capacity
    cpu = "" if facts.cpu_share is None else f" and CPU {'still' if busy else 'at'} {percent(facts.cpu_share)}"
    if capacity is None:
        return f"{format_count(peak)} connections{cpu}"
    if peak >= 0.9 * capacity:
        return f"Bounded at {format_count(capacity)} connections{cpu}"
    return f"{format_count(peak)} of {format_count(capacity)} connections open{cpu}"


def _write_sentence(facts: RunFacts, scan: _Scan | None, busy: bool, stretch: float | None) -> str:
    start = _describe_size(facts, busy)
    if scan is not None:
        share = "" if scan.share is None else f" ({percent(scan.share)} of execution time)"
        return f"{start}: one statement{share} reads all {format_count(scan.rows)} rows of {scan.table.name} each time"
    if busy:
        return f"{start}: the statements use it all, a bigger pool adds waiting"
    in_use = round(facts.summary.connections.average_in_use, 1)
    return (
        f"Not the pool: with {format_count(in_use)} in use on average, the database takes {stretch or 1:.1f} times the "
        f"{format_duration(facts.scenario.load.hold.mean)} a request needs"
    )


def _collect_evidence(facts: RunFacts, scan: _Scan | None, stretch: float | None) -> dict[str, Any]:
    summary = facts.summary
    share = scan.share if scan else None
    return {
        "server_cpu": facts.server.cpu,
        "cores": _count_cores(facts),
        "cpu_share": facts.cpu_share,
        "peak_open": summary.connections.peak_open,
        "average_in_use": summary.connections.average_in_use,
        "capacity": facts.capacity,
        "statement": scan.query if scan else None,
        "statement_share": share,
        "table": scan.table.name if scan else None,
        "table_rows": scan.rows if scan else None,
        "scans": scan.table.scans if scan else None,
        "rows_read_by_scans": scan.table.rows_read if scan else None,
        # Amdahl's law: the most that making this one statement free could gain.
        "throughput_gain_limit": 1 / (1 - share) if share is not None and share < 0.9999 else None,
        "use_time_stretch": stretch,
        "throughput": summary.throughput,
        "wait_time_p99": summary.wait_time.p99,
        "threshold": f"server processes use >= {BUSY_SHARE:g} of the cores, or one statement has >= {DOMINANT_SHARE:g} "
        "of the execution time and scans a table",
    }


def _write_remedy(facts: RunFacts, scan: _Scan | None) -> str:
    figures = f"{format_count(facts.summary.connections.peak_open)} connections carry "
    figures += f"{format_count(facts.summary.throughput)} requests per second; more would only share the same cores."
    if scan is None:
        return f"Pool size is not the problem: {figures} Make the statements cheaper, or add cores."
    columns = ", ".join(find_filtered_columns(scan.query)) or "..."
    return (
        f"Pool size is not the problem: {figures} Make {quote(scan.query, 100)} read less, such as with CREATE INDEX "
        f"CONCURRENTLY ON {scan.table.name} ({columns});"
    )


def find_reconnect_storm(facts: RunFacts) -> Finding | None:
    """Report clients that try again at once, over and over, after a restart or failover.

    Threshold: ten times the errors in the five seconds after the event than in the five before, and ten failed openings
    for every connection of the fleet: each slot tried ten times without backing off. Fewer errors than that are the
    outage itself. Critical when errors still came at the end, a full window after the event, or when the server ran out
    of slots over it.
    """
    event = next((e for e in facts.scenario.events if e.do in ("restart", "failover")), None)
    if event is None:
        return None
    after = facts.count_errors(event.at, event.at + STORM_WINDOW)
    before = facts.count_errors(event.at - STORM_WINDOW, event.at)
    connections = facts.summary.connections
    fleet = facts.capacity or max(1, connections.peak_open)
    if after < STORM_FACTOR * max(1, before) or connections.open_failures < STORM_FACTOR * fleet:
        return None
    until = facts.load_until
    lasts = until - event.at > STORM_WINDOW and facts.count_errors(until - 1, until) > 0
    end = "they still come at the end" if lasts else "it passed"
    return build_finding(
        "reconnect-storm",
        severity="critical" if lasts or facts.refused_by_server else "warning",
        confidence="certain",
        summary=f"{format_count(connections.open_failures)} openings failed after the {event.do} at "
        f"{format_duration(event.at)}, from {format_count(fleet)} slots without backoff; {end}",
        evidence={
            "event": event.do,
            "event_at": event.at,
            "errors_before": before,
            "errors_after": after,
            "open_failures": connections.open_failures,
            "slots": fleet,
            "refused": facts.refused_by_server,
            "threshold": f"{STORM_FACTOR} x the errors before, and {STORM_FACTOR} failed openings for each slot",
        },
        evidence_sql=sql.BACKENDS,
    )
