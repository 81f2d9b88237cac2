"""The SQL of the workloads and of the leaks, the same for every driver."""

from collections.abc import Callable

from poolctl.engines.workload import Job

ONE_ROW = "FROM pg_catalog.pg_class WHERE oid = 1259"
"""Reads one row of a table, pg_class itself: a backend reports its transactions and times only with its work on tables,
so statements that read none would not be counted for a second terminal (inspect, recommend)."""

LONG_HOLD_BEAT = 0.5
"""Seconds between two transactions of a long hold, so that no transaction grows old."""

UNREAD_ROWS = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
"""Some 200 MB: more than all socket buffers on the way can take, so that the backend waits in ClientWrite."""


def make_statement(job: Job) -> str:
    """Return the statement of the workload. $1 stands for seconds (query "sleep") or rows (query "cpu")."""
    query = job.scenario.load.query
    return {
        "sleep": f"SELECT pg_sleep($1::float8) {ONE_ROW}",
        "select1": f"SELECT 1 {ONE_ROW}",
        "cpu": f"SELECT (SELECT sum(i) FROM generate_series(1, $1::int8) AS i) {ONE_ROW}",
    }.get(query, query)


def make_parameter(job: Job) -> Callable[[float], str] | None:
    """Return a function from seconds, which the statement shall take, to the value of $1. None: there is no $1."""
    query = job.scenario.load.query
    if query == "sleep":
        return lambda hold: f"{hold:.6f}"
    if query == "cpu":
        return lambda hold: str(max(1, int(hold * job.cpu_rows_per_second)))
    return None


def takes_hold(job: Job) -> bool:
    """Return True if the statement itself lasts for the hold. After any other, the client waits for the rest."""
    return job.scenario.load.query in ("sleep", "cpu")
