"""mysql2, a pool of MySQL connections, in the same terms. idleTimeout is milliseconds; no lifetime, no timeout."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import LONGEST_JS_TIMER, format_seconds, round_milliseconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield 'const mysql = require("mysql2/promise");'
    yield ""
    yield "const pool = mysql.createPool({"
    yield "  uri: process.env.DATABASE_URL,"
    yield f"  connectionLimit: {advice.max_open}, // default 10"
    # The pool closes idle connections only while maxIdle is below connectionLimit, and keeps none with a maxIdle of 0.
    if advice.max_idle_time is None or advice.max_open == 1:
        yield f"  maxIdle: {advice.max_open}, // as connectionLimit: idle connections are never closed"
    else:
        yield f"  maxIdle: {max(1, min(advice.max_idle, advice.max_open - 1))}, // must be below connectionLimit for"
        idle = min(round_milliseconds(advice.max_idle_time), LONGEST_JS_TIMER)
        yield f"  idleTimeout: {idle}, // this to have an effect"
    yield "});"
    yield "module.exports = pool;"
    if advice.acquire_timeout is not None:
        limit = format_seconds(advice.acquire_timeout)
        yield f"// It has no acquire timeout: race getConnection() against {limit} s, and release a late one."
    if advice.max_lifetime is not None:
        yield "// It has no lifetime: after a failover restart the processes, one by one."


STACK = Stack(
    name="mysql2",
    library="mysql2 3 (MySQL)",
    file="db.js",
    comment="//",
    aliases=("node-mysql2", "mysql"),
    write=_write,
)
