"""psycopg2's ThreadedConnectionPool: a list under a lock. It never waits, and never closes an old or unused
connection.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import format_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "import os, threading"
    yield "from contextlib import contextmanager"
    yield "from psycopg2.pool import ThreadedConnectionPool"
    yield ""
    yield "# The pool has no lifetime and no idle time: connections stay until the process ends."
    yield f'pool = ThreadedConnectionPool({advice.max_idle}, {advice.max_open}, os.environ["DATABASE_URL"])'
    yield f"slots = threading.BoundedSemaphore({advice.max_open})  # getconn never waits: it raises PoolError at once"
    yield ""
    yield "@contextmanager"
    yield "def acquire():"
    if advice.acquire_timeout is None:
        yield "    slots.acquire()"
    else:
        yield f"    if not slots.acquire(timeout={format_seconds(advice.acquire_timeout)}):"
        yield '        raise TimeoutError("no free database connection")'
    yield "    try:"
    yield "        connection = pool.getconn()"
    yield "        try:"
    yield "            yield connection"
    yield "        finally:  # a connection that is not put back stays lost"
    yield "            pool.putconn(connection)"
    yield "    finally:"
    yield "        slots.release()"


STACK = Stack(
    name="psycopg2",
    library="psycopg2 2.9 ThreadedConnectionPool",
    file="db.py",
    aliases=("psycopg2-binary", "psycopg2.pool", "threadedconnectionpool"),
    write=_write,
)
