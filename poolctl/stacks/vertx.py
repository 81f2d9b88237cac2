"""The pool of the Vert.x SQL clients. Times are whole seconds; 0 is off."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "PoolOptions options = new PoolOptions()"
    yield f"    .setMaxSize({advice.max_open}) // default 4"
    idle = 0 if advice.max_idle_time is None else round_seconds(advice.max_idle_time)
    yield f"    .setIdleTimeout({idle}) // {'0 is off' if not idle else 'seconds'}"
    if advice.least_lifetime is None:
        yield "    .setMaxLifetime(0) // 0 is off"
    else:
        shortest, longest = round_seconds(advice.least_lifetime), round_seconds(advice.max_lifetime or 0.0)
        drawn = (
            f"ThreadLocalRandom.current().nextInt({shortest}, {longest + 1})" if shortest < longest else f"{longest}"
        )
        yield f"    .setMaxLifetime({drawn}) // seconds"
    wait = 0 if advice.acquire_timeout is None else round_seconds(advice.acquire_timeout)
    yield f"    .setConnectionTimeout({wait}) // {'default 30' if wait else '0 waits without a limit'}"
    yield "    .setShared(true) // one pool for all verticles of the process"
    yield '    .setName("database");'
    yield "Pool pool = PgBuilder.pool().with(options).connectingTo(connectOptions).using(vertx).build();"


STACK = Stack(
    name="vertx",
    library="Vert.x 4.5 and later, PgBuilder",
    file="Database.java",
    comment="//",
    aliases=("vert.x", "vertx-pg-client", "quarkus-reactive", "reactive-pg-client"),
    write=_write,
)
