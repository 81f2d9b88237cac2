"""PgCat. Times are milliseconds and cannot be switched off. Code and documents have different defaults, so each is
written."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import FOR_EVER, round_milliseconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolerAdvice) -> Iterator[str]:
    yield "# Add to your tables. Milliseconds; none can be switched off, and 0 ends at once."
    yield "[general]"
    yield "# Despite its name, how long a client waits for a server connection."
    yield f"connect_timeout = {_limit(advice.query_wait_timeout)}"
    yield f"idle_timeout = {_limit(advice.server_idle_timeout)}"
    yield f"server_lifetime = {_limit(advice.server_lifetime)}"
    yield ""
    yield "[pools.app]"
    yield f'pool_mode = "{advice.pool_mode}"'
    yield ""
    yield "# Per user and per PgCat process."
    yield "[pools.app.users.0]"
    yield f"pool_size = {advice.default_pool_size}"
    yield f"min_pool_size = {advice.min_pool_size}"
    yield "# PgCat has no limit of clients, no reserve and no limit for all users together."


def _limit(time: float | None) -> int:
    return round_milliseconds(FOR_EVER if time is None else time)


STACK = Stack(
    name="pgcat",
    library="PgCat 1",
    file="pgcat.toml",
    takes=PoolerAdvice,
    write=_write,
)
