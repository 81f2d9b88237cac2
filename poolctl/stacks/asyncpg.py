"""asyncpg's Pool. It has no lifetime; an acquire without timeout= waits without a limit."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import format_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    idle = "0" if advice.max_idle_time is None else format_seconds(advice.max_idle_time)
    yield "import asyncpg, os"
    yield ""
    yield "async def open_pool():"
    yield "    return await asyncpg.create_pool("
    yield '        os.environ["DATABASE_URL"],'
    yield f"        min_size={advice.min_idle},"
    yield f"        max_size={advice.max_open},"
    yield f"        max_inactive_connection_lifetime={idle},  # {'0 is off' if idle == '0' else 'seconds'}"
    yield "    )"
    yield ""
    yield "async def use(pool):"
    if advice.acquire_timeout is None:
        yield "    async with pool.acquire() as connection:  # waits without a limit"
    else:
        limit = format_seconds(advice.acquire_timeout)
        yield f"    async with pool.acquire(timeout={limit}) as connection:  # the pool itself has no timeout"
    yield '        return await connection.fetchval("SELECT 1")'
    if advice.max_lifetime is not None:
        age = format_seconds(advice.max_lifetime)
        yield f"# The pool has no lifetime. Let a task await pool.expire_connections() every {age} s: each connection"
        yield "# is then replaced at its next acquire."


STACK = Stack(
    name="asyncpg",
    library="asyncpg 0.32",
    file="db.py",
    write=_write,
)
