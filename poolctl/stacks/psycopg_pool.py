"""psycopg_pool, by itself and as Django's pool.

It has no word for off: a lifetime of 0 opens a new connection for each use, an idle time of 0 never rests.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import FOR_EVER, format_seconds
from poolctl.stacks.stack import Stack


def list_settings(advice: PoolAdvice) -> Iterator[tuple[str, str, str]]:
    """Name, value and remark of each of the pool's own arguments."""
    off = "there is no off"
    yield "min_size", f"{advice.min_idle}", ""
    yield "max_size", f"{advice.max_open}", "not given it is min_size: a pool of fixed size"
    if advice.max_lifetime is None:
        yield "max_lifetime", format_seconds(FOR_EVER), f"{off}: 0 opens a new connection for each use"
    else:
        yield "max_lifetime", format_seconds(advice.max_lifetime), "seconds; its own jitter takes up to 5 % off"
    if advice.max_idle_time is None:
        yield "max_idle", format_seconds(FOR_EVER), f"a time; {off}"
    else:
        yield (
            "max_idle",
            format_seconds(advice.max_idle_time),
            "a time; each time it passes, one unused connection is closed",
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
    yield "    # check=ConnectionPool.check_connection: a round trip an acquire; else dead ones are handed out"
    yield "    open=True,  # in code that is forked later: False, and pool.open() in each process"
    yield ")"


STACK = Stack(
    name="psycopg_pool",
    library="psycopg_pool 3.3",
    file="db.py",
    aliases=("psycopg", "psycopg3"),
    write=_write,
)
