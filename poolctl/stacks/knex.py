"""knex, whose pool is tarn. Times are milliseconds above 0: tarn throws an error for 0, so the longest timer means
off.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import LONGEST_JS_TIMER, round_milliseconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "module.exports = {"
    yield '  client: "pg",'
    yield "  connection: process.env.DATABASE_URL,"
    yield f"  acquireConnectionTimeout: {_timer(advice.acquire_timeout)}"
    yield "  pool: {"
    yield f"    min: {advice.min_idle}, // default 2"
    yield f"    max: {advice.max_open},"
    yield f"    idleTimeoutMillis: {_timer(advice.max_idle_time)}"
    if advice.least_lifetime is not None:
        yield f"    maxConnectionLifetimeMillis: {round_milliseconds(advice.least_lifetime)}, // knex 3.2 and later"
        if advice.jitter_time:
            jitter = round_milliseconds(advice.jitter_time)
            yield f"    maxConnectionLifetimeJitterMillis: {jitter}, // added to the lifetime"
    yield "  },"
    yield "};"
    yield "// In a transaction each query needs .transacting(trx): a query without it takes a second connection,"
    yield "// and many such requests at the same time wait for each other for ever."


def _timer(time: float | None) -> str:
    if time is None:
        return f"{LONGEST_JS_TIMER}, // the longest timer, 25 days: 0 throws an error"
    return f"{min(round_milliseconds(time), LONGEST_JS_TIMER)},"


STACK = Stack(
    name="knex",
    library="knex 3.3 on tarn 3.1",
    file="knexfile.js",
    comment="//",
    aliases=("tarn", "objection"),
    write=_write,
)
