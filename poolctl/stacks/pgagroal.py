"""pgagroal. Times are seconds; 0 is off. The size of each pair of user and database is a line of its own file."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolerAdvice) -> Iterator[str]:
    size = advice.default_pool_size + advice.reserve_pool_size
    yield "[pgagroal]"
    yield "# Server connections of all users and databases together: the hard limit."
    yield f"max_connections = {advice.slots}"
    pipeline = "transaction" if advice.pool_mode == "transaction" else "session"
    yield f"pipeline = {pipeline}"
    yield "# Seconds; 0 is off. How long a client waits for a server connection."
    yield f"blocking_timeout = {_limit(advice.query_wait_timeout)}"
    yield f"idle_timeout = {_limit(advice.server_idle_timeout)}"
    yield f"max_connection_age = {_limit(advice.server_lifetime)}"
    yield "# In pgagroal_databases.conf, for each pair: DATABASE USER MAX INITIAL MIN."
    yield f"#   app app {size} {advice.min_pool_size} {advice.min_pool_size}"


def _limit(time: float | None) -> int:
    return 0 if time is None else round_seconds(time)


STACK = Stack(
    name="pgagroal",
    library="pgagroal 1.5 and later",
    file="pgagroal.conf",
    takes=PoolerAdvice,
    write=_write,
)
