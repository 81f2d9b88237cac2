"""The statement that most of the database's execution time goes into, and what an index would be on."""

from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.work import measure_statement_growth, measure_work
from poolctl.diagnose.slow_database import find_filtered_columns
from poolctl.observe.snapshot import Observation, ServerSample
from poolctl.sizing.figures import TopStatement


def find_top_statement(observation: Observation) -> TopStatement | None:
    """Find it by pg_stat_statements where that is installed, else by the samples; None if neither shows a statement.

    ``column`` is a guess from the text of the statement: the first column that its WHERE compares.
    """
    facts = LiveFacts(observation)
    work = measure_work(facts)
    if not work.statement:
        return None
    table = work.table
    calls, rows, time = _sum_growth(facts, work.statement) if work.by_counters else (0, 0, 0.0)
    columns = find_filtered_columns(work.statement) if table is not None else []
    window = facts.window
    return TopStatement(
        query=work.statement,
        share=work.share,
        calls_per_second=calls / window if calls and window > 0 else None,
        mean_time=time / calls if calls else None,
        table=table.name if table is not None else None,
        column=columns[0] if columns else None,
        rows_read=_estimate_rows_read(observation.samples, table.name, calls) if table is not None else None,
        rows_returned=rows / calls if calls else None,
    )


def _sum_growth(facts: LiveFacts, query: str) -> tuple[int, int, float]:
    """Return calls, rows and seconds of that statement within the window."""
    samples = [sample for sample in facts.server_samples if sample.statements]
    before = {(row.query_id, row.user, row.database): row for row in samples[0].statements}
    calls = rows = 0
    time = 0.0
    for growth in measure_statement_growth(facts):
        if (row := growth.row).query == query:
            known = before.get((row.query_id, row.user, row.database))
            calls += growth.calls
            rows += row.rows - (known.rows if known else 0)
            time += growth.time
    return calls, rows, time


def _estimate_rows_read(samples: tuple[ServerSample, ...], table: str, calls: int) -> float | None:
    """Estimate the rows that one call reads: rows of sequential scans in the window, by calls, else by scans."""
    counters = [each for sample in samples for each in sample.tables if each.name == table]
    if len(counters) < 2:
        return None
    read, scans = counters[-1].rows_read - counters[0].rows_read, counters[-1].scans - counters[0].scans
    # Scans are the worse divisor: a scan may begin before the window, and each parallel worker counts one.
    return read / (calls or scans) if calls or scans > 0 else float(counters[-1].live_rows)
