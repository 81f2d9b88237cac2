"""Prisma up to 6, whose engine has its own pool, configured in the URL. Times are seconds; 0 is off."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    given = {
        "connection_limit": advice.max_open,
        "pool_timeout": _off_is_0(advice.acquire_timeout),
        "max_connection_lifetime": _off_is_0(advice.max_lifetime),
        "max_idle_connection_lifetime": _off_is_0(advice.max_idle_time),
    }
    query = "&".join(f"{name}={value}" for name, value in given.items())
    yield "# The default connection_limit is 2 x cores + 1 of the machine, not of the container's quota."
    yield "# Seconds; 0 is off; no jitter. One PrismaClient for each process: each client has its own pool."
    yield "# Insert your user, password, host and database (behind PgBouncer add pgbouncer=true):"
    yield f'DATABASE_URL="postgresql://USER:PASSWORD@HOST:5432/DATABASE?{query}"'


def _off_is_0(time: float | None) -> int:
    return 0 if time is None else round_seconds(time)


STACK = Stack(
    name="prisma-6",
    library="Prisma 6",
    file=".env",
    aliases=("prisma6", "prisma-5", "prisma5"),
    write=_write,
)
