"""postgres.js. Times are seconds; null is off. A query waits for a connection without a limit."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import LONGEST_JS_TIMER, format_seconds, round_seconds
from poolctl.stacks.stack import Stack

_LONGEST = LONGEST_JS_TIMER / 1000


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield 'import postgres from "postgres";'
    yield ""
    yield "const sql = postgres(process.env.DATABASE_URL, {"
    yield f"  max: {advice.max_open}, // default 10"
    yield f"  idle_timeout: {_limit(advice.max_idle_time)}"
    lifetime, jitter = advice.max_lifetime, round(advice.jitter_time)
    if lifetime is None or lifetime > _LONGEST:
        yield "  max_lifetime: null, // off; default 30 to 60 minutes"
    elif jitter:
        yield f"  max_lifetime: {round_seconds(lifetime)} - Math.floor(Math.random() * {jitter}), // seconds"
    else:
        yield f"  max_lifetime: {round_seconds(lifetime)}, // seconds"
    yield "});"
    yield "export default sql; // one for each process: each has its own pool"
    if advice.acquire_timeout is None:
        yield "// A query waits for a connection without a limit."
    else:
        limit = format_seconds(advice.acquire_timeout)
        yield f"// It has no acquire timeout: limit the whole request, to {limit} s and the time of its queries."
    yield "// sql.begin() and sql.reserve() hold a connection; queries inside must use the sql that they pass."


def _limit(time: float | None) -> str:
    return "null, // off" if time is None or time > _LONGEST else f"{format_seconds(time)}, // seconds"


STACK = Stack(
    name="postgres.js",
    library="postgres.js 3.4",
    file="db.js",
    comment="//",
    aliases=("postgresjs", "postgres-js", "porsager"),
    write=_write,
)
