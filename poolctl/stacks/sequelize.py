"""Sequelize, whose pool is sequelize-pool. Times are milliseconds. It reads 0 as its default, so none can be off."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import LONGEST_JS_TIMER, round_milliseconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield 'const { Sequelize } = require("sequelize");'
    yield ""
    yield "const sequelize = new Sequelize(process.env.DATABASE_URL, {"
    yield '  dialect: "postgres",'
    yield "  pool: {"
    yield f"    max: {advice.max_open}, // default 5"
    yield f"    min: {advice.min_idle},"
    yield f"    idle: {_limit(advice.max_idle_time)} // default 10 s"
    yield f"    acquire: {_limit(advice.acquire_timeout)} // default 60 s"
    yield "  },"
    yield "});"
    yield "module.exports = sequelize;"
    if advice.max_lifetime is not None:
        yield "// The pool has no lifetime. pool.maxUses closes a connection after so many uses: requests per second of"
        yield f"// one connection x {round(advice.max_lifetime)} s is about the same."
    yield "// In a transaction each query needs { transaction: t }: a query without it takes a second connection."


def _limit(time: float | None) -> str:
    """Format milliseconds; the longest timer where it should be off."""
    return f"{LONGEST_JS_TIMER if time is None else min(round_milliseconds(time), LONGEST_JS_TIMER)},"


STACK = Stack(
    name="sequelize",
    library="Sequelize 6 (sequelize-pool 7)",
    file="db.js",
    comment="//",
    aliases=("sequelize-pool", "sequelize-6"),
    write=_write,
)
