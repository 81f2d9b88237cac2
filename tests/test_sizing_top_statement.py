"""The statement that most of the time goes into, and what an index would be on."""

from poolctl.observe.snapshot import (
    Backend,
    Observation,
    ServerFacts,
    ServerSample,
    Snapshot,
    StatementCounters,
    TableCounters,
)
from poolctl.sizing.top_statement import find_top_statement

FACTS = ServerFacts("db:5432/shop", "18.1", 180001, "watcher", "shop", 100, 3)
QUERY = "SELECT * FROM orders WHERE customer_id = $1"


def observed(*samples: ServerSample) -> Observation:
    return Observation(tuple(Snapshot(sample.at, sample) for sample in samples), FACTS)


def running(at: float, query: str, *, statements: bool, calls: int = 0) -> ServerSample:
    backends = tuple(
        Backend(
            pid, "app", "shop", "shop-api", "client backend", "10.0.0.1", state="active", query=query, query_at=at - 0.2
        )
        for pid in range(4)
    )
    counted = (
        (
            StatementCounters(1, "app", "shop", QUERY, calls, 0.25 * calls, rows=3 * calls),
            StatementCounters(2, "app", "shop", "SELECT 1", 10 * calls, 0.001 * calls),
        )
        if statements
        else ()
    )
    tables = (TableCounters("orders", 1_000_000, scans=calls, rows_read=1_000_000 * calls),)
    return ServerSample(at, 0.0, backends, statements=counted, tables=tables)


def test_the_counters_name_statement_table_and_column_and_what_one_call_reads() -> None:
    found = find_top_statement(
        observed(running(0, QUERY, statements=True, calls=10), running(10, QUERY, statements=True, calls=50))
    )

    assert found is not None
    assert (found.query, found.table, found.column) == (QUERY, "orders", "customer_id")
    assert found.share > 0.99
    assert (found.calls_per_second, found.mean_time) == (4.0, 0.25)
    assert (found.rows_read, found.rows_returned) == (1_000_000, 3)


def test_without_counters_the_samples_name_it() -> None:
    found = find_top_statement(
        observed(running(0, QUERY, statements=False, calls=10), running(10, QUERY, statements=False, calls=50))
    )

    assert found is not None
    assert (found.query, found.share, found.table, found.column) == (QUERY, 1.0, "orders", "customer_id")
    assert found.rows_read == 1_000_000  # by each scan
    assert found.calls_per_second is None


def test_a_statement_that_reads_little_has_no_table_to_index() -> None:
    found = find_top_statement(
        observed(running(0, "SELECT now()", statements=False), running(10, "SELECT now()", statements=False))
    )

    assert found is not None
    assert (found.query, found.table, found.column) == ("SELECT now()", None, None)


def test_where_nothing_runs_there_is_no_busiest_statement() -> None:
    assert find_top_statement(observed(ServerSample(0.0, 0.0), ServerSample(10.0, 0.0))) is None
