"""The SQL of the workloads and of the leaks, the same for every driver."""

from collections.abc import Callable

from poolctl.engines.workload import Job

LONG_HOLD_BEAT = 0.5
"""Seconds between the transactions of a long hold: it is never the same transaction twice."""

UNREAD_ROWS = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
"""Some 200 MB: more than every socket buffer on the way takes, so that the backend waits in ClientWrite."""


def statement(job: Job) -> str:
    """The workload's statement, with $1 for seconds (sleep) or rows (cpu), in PostgreSQL's own notation."""
    query = job.scenario.load.query
    return {
        "sleep": "SELECT pg_sleep($1::float8)",
        "select1": "SELECT 1",
        "cpu": "SELECT sum(i) FROM generate_series(1, $1::int8) AS i",
    }.get(query, query)


def parameter(job: Job) -> Callable[[float], str] | None:
    """What makes the value for $1 of the seconds that the statement is to take; None for a statement without $1."""
    query = job.scenario.load.query
    if query == "sleep":
        return lambda hold: f"{hold:.6f}"
    if query == "cpu":
        return lambda hold: str(max(1, int(hold * job.cpu_rows_per_second)))
    return None


def takes_hold(job: Job) -> bool:
    """Whether the statement itself lasts for the hold; others are followed by a wait for the rest of it."""
    return job.scenario.load.query in ("sleep", "cpu")
