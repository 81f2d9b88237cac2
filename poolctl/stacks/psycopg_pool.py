"""psycopg_pool, by itself and as Django's pool.

Nothing can be switched off: with a lifetime of 0 each use opens a new connection, and an idle time of 0 is too busy.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import FOR_EVER, format_seconds
from poolctl.stacks.stack import Stack


def list_settings(advice: PoolAdvice) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and comment of each argument of the pool."""
    off = "cannot be switched off"
    yield "min_size", f"{advice.min_idle}", ""
    yield "max_size", f"{advice.max_open}", "default: min_size, a pool of fixed size"
    if advice.max_lifetime is None:
        yield "max_lifetime", format_seconds(FOR_EVER), f"{off}: 0 opens a new connection for each use"
    else:
        yield "max_lifetime", format_seconds(advice.max_lifetime), "seconds; the pool shortens it by up to 5 %"
    if advice.max_idle_time is None:
        yield "max_idle", format_seconds(FOR_EVER), f"seconds; {off}"
    else:
        yield (
            "max_idle",
            format_seconds(advice.max_idle_time),
            "seconds; closes one unused connection each time",
        )
    if advice.acquire_timeout is None:
        yield "timeout", format_seconds(FOR_EVER), off
    else:
        yield "timeout", format_seconds(advice.acquire_timeout), ""


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "import os"
    yield ""
    yield "from psycopg_pool import ConnectionPool"
    yield ""
    yield "pool = ConnectionPool("
    yield '    os.environ["DATABASE_URL"],'
    for name, value, remark in list_settings(advice):
        yield f"    {name}={value}," + (f"  # {remark}" if remark else "")
    yield "    # check=ConnectionPool.check_connection finds dead connections; it costs a round trip for each acquire"
    yield "    open=True,  # in code that forks later: False, and pool.open() in each process"
    yield ")"


STACK = Stack(
    name="psycopg_pool",
    library="psycopg_pool 3.3",
    file="db.py",
    aliases=("psycopg", "psycopg3"),
    write=_write,
)
