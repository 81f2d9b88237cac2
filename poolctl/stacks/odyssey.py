"""Odyssey. pool_timeout is in milliseconds, other times in seconds; 0 is off, except for the lifetime."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import FOR_EVER, round_milliseconds, round_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolerAdvice) -> Iterator[str]:
    wait = 0 if advice.query_wait_timeout is None else round_milliseconds(advice.query_wait_timeout)
    idle = 0 if advice.server_idle_timeout is None else round_seconds(advice.server_idle_timeout)
    yield "# Add to your route; each route, a user of a database, has such a pool."
    yield 'database "app" {'
    yield '\tuser "app" {'
    yield f'\t\tpool "{advice.pool_mode}"'
    yield "\t\t# Default 0, which is unlimited."
    yield f"\t\tpool_size {advice.default_pool_size}"
    yield f"\t\tmin_pool_size {advice.min_pool_size}"
    yield "\t\t# Milliseconds; the other times are seconds. 0 waits without a limit."
    yield f"\t\tpool_timeout {wait}"
    yield f"\t\tpool_ttl {idle}"
    yield f"\t\tserver_lifetime {round_seconds(advice.server_lifetime or FOR_EVER)}"
    yield f"\t\tclient_max {advice.max_client_conn}"
    yield "\t}"
    yield "}"


STACK = Stack(
    name="odyssey",
    library="Odyssey 1.3 and later",
    file="odyssey.conf",
    takes=PoolerAdvice,
    write=_write,
)
