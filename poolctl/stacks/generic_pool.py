"""generic-pool with node-postgres clients. Times are milliseconds; it reads 0 as its default. It has no lifetime."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import LONGEST_JS_TIMER, round_milliseconds
from poolctl.stacks.stack import Stack

_SWEEPS_EVERY = 30_000
"""Milliseconds between two runs that close idle connections."""


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield 'const { createPool } = require("generic-pool");'
    yield 'const { Client } = require("pg");'
    yield "const factory = {"
    yield "  async create() {"
    yield "    const client = new Client({ connectionString: process.env.DATABASE_URL });"
    yield '    client.on("error", () => (client.isBroken = true)); // without it a lost connection ends the process'
    yield "    await client.connect();"
    yield "    return client;"
    yield "  },"
    yield "  destroy: (client) => client.end(), validate: async (client) => !client.isBroken,"
    yield "};"
    yield "const pool = createPool(factory, {"
    yield f"  max: {advice.max_open}, // default 1"
    yield f"  min: {advice.min_idle},"
    yield "  testOnBorrow: true, // asks validate() above"
    if advice.acquire_timeout is not None:
        limit = min(round_milliseconds(advice.acquire_timeout), LONGEST_JS_TIMER)
        yield f"  acquireTimeoutMillis: {limit}, // default: no limit"
    if advice.max_idle_time is not None:
        idle = round_milliseconds(advice.max_idle_time)
        yield f"  idleTimeoutMillis: {idle},"
        yield f"  evictionRunIntervalMillis: {min(_SWEEPS_EVERY, idle)}, // default 0: none is ever closed"
        yield f"  numTestsPerEvictionRun: {advice.max_open}, // default 3"
    yield "});"
    yield "module.exports = pool;"


STACK = Stack(
    name="generic-pool",
    library="generic-pool 3.9 with pg 8",
    file="db.js",
    comment="//",
    aliases=("genericpool", "node-pool"),
    write=_write,
)
