"""PgCat. Times are milliseconds without an off. Its code and its documents name different defaults: each is written."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import FOR_EVER, round_milliseconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolerAdvice) -> Iterator[str]:
    yield "# Milliseconds, without an off: 0 would be over at once. Into the tables that are there."
    yield "[general]"
    yield "# How long a client waits for a server connection, whatever its name says."
    yield f"connect_timeout = {_limit(advice.query_wait_timeout)}"
    yield f"idle_timeout = {_limit(advice.server_idle_timeout)}"
    yield f"server_lifetime = {_limit(advice.server_lifetime)}"
    yield ""
    yield "[pools.app]"
    yield f'pool_mode = "{advice.pool_mode}"'
    yield ""
    yield "# For each user, and for each PgCat process."
    yield "[pools.app.users.0]"
    yield f"pool_size = {advice.default_pool_size}"
    yield f"min_pool_size = {advice.min_pool_size}"
    yield "# It has no limit of clients, no reserve and no sum over users."


def _limit(time: float | None) -> int:
    return round_milliseconds(FOR_EVER if time is None else time)


STACK = Stack(
    name="pgcat",
    library="PgCat 1",
    file="pgcat.toml",
    takes=PoolerAdvice,
    write=_write,
)
