"""node-postgres (pg-pool), and the libraries that pass its options on: TypeORM, and Prisma 7 with its pg adapter.

Times are milliseconds, except the lifetime. 0 switches each of them off; by default an acquire waits without a limit.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import LONGEST_JS_TIMER, round_milliseconds, round_seconds
from poolctl.stacks.stack import Stack

_LONGEST_LIFETIME = LONGEST_JS_TIMER // 1000


def round_timer(time: float | None) -> int:
    """Return milliseconds for a JavaScript timer; 0, which is off, also for a time that is too long for a timer."""
    if time is None or round_milliseconds(time) > LONGEST_JS_TIMER:
        return 0
    return round_milliseconds(time)


def _idle(advice: PoolAdvice) -> Iterator[str]:
    if advice.min_idle:
        yield f"min: {advice.min_idle}, // idleTimeoutMillis spares so many; none is opened in advance"
    yield f"idleTimeoutMillis: {round_timer(advice.max_idle_time)}," + (
        " // 0 is off" if not advice.max_idle_time else ""
    )
    lifetime, jitter = advice.max_lifetime, round(advice.jitter_time)
    if lifetime is None or lifetime > _LONGEST_LIFETIME:
        yield "maxLifetimeSeconds: 0, // 0 is off"
    elif jitter:
        longest = round_seconds(lifetime)
        yield f"maxLifetimeSeconds: {longest} - Math.floor(Math.random() * {jitter}), // seconds; it has no jitter"
    else:
        yield f"maxLifetimeSeconds: {round_seconds(lifetime)}, // seconds, unlike the other times"


def _patience(advice: PoolAdvice) -> str:
    limit = round_timer(advice.acquire_timeout)
    return f"{limit}, // limits the queue, and again the opening" if limit else "0, // 0 waits without a limit"


def _set_options(advice: PoolAdvice) -> Iterator[str]:
    yield "  connectionString: process.env.DATABASE_URL,"
    yield f"  max: {advice.max_open},"
    for line in _idle(advice):
        yield f"  {line}"
    yield f"  connectionTimeoutMillis: {_patience(advice)}"


def _pg(advice: PoolAdvice) -> Iterator[str]:
    yield 'const { Pool } = require("pg");'
    yield ""
    yield "const pool = new Pool({"
    yield from _set_options(advice)
    yield "});"
    yield "// Without a listener the process ends when the server closes an idle connection."
    yield 'pool.on("error", (error) => console.error("idle database connection lost:", error.message));'
    yield "module.exports = pool;"


def _typeorm(advice: PoolAdvice) -> Iterator[str]:
    yield 'import { DataSource } from "typeorm";'
    yield ""
    yield "export const dataSource = new DataSource({"
    yield '  type: "postgres",'
    yield "  url: process.env.DATABASE_URL,"
    yield f"  poolSize: {advice.max_open},"
    yield f"  connectTimeoutMS: {_patience(advice)}"
    yield "  extra: {"
    for line in _idle(advice):
        yield f"    {line}"
    yield "  },"
    yield "});"
    yield "// A QueryRunner that you create holds its connection until release(): call it in a finally block."


def _prisma(advice: PoolAdvice) -> Iterator[str]:
    yield 'import { PrismaPg } from "@prisma/adapter-pg";'
    yield 'import { PrismaClient } from "./generated/prisma/client";'
    yield ""
    yield "// connection_limit and pool_timeout in the URL, as in Prisma 6, have no effect any more."
    yield "const adapter = new PrismaPg({"
    yield from _set_options(advice)
    yield "});"
    yield "export const prisma = new PrismaClient({ adapter }); // one for each process: each client has its own pool"


NODE_PG = Stack(
    name="node-pg",
    library="pg 8 (pg-pool 3.14)",
    file="db.js",
    comment="//",
    aliases=("pg", "node", "nodejs", "node-postgres", "pg-pool", "javascript"),
    write=_pg,
)
TYPEORM = Stack(
    name="typeorm",
    library="TypeORM 1.1 on pg",
    file="data-source.ts",
    comment="//",
    write=_typeorm,
)
PRISMA = Stack(
    name="prisma",
    library="Prisma 7, @prisma/adapter-pg 7.10",
    file="prisma.ts",
    comment="//",
    aliases=("prisma-7", "prisma7"),
    write=_prisma,
)
