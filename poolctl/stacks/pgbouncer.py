"""PgBouncer. Times are seconds. 0 is off, except for server_lifetime, where it means "use once"."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import FOR_EVER, format_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolerAdvice) -> Iterator[str]:
    yield "[pgbouncer]"
    yield f"pool_mode = {advice.pool_mode}"
    if advice.pool_mode != "session":
        yield "; Session state (SET, LISTEN, advisory locks, temporary tables) is lost between transactions."
    yield "; Per pair of user and database; max_db_connections is the hard limit. Both are per PgBouncer process."
    yield f"default_pool_size = {advice.default_pool_size}"
    yield f"reserve_pool_size = {advice.reserve_pool_size}"
    if advice.reserve_pool_size:
        yield f"reserve_pool_timeout = {format_seconds(advice.reserve_pool_timeout)}"
    yield f"min_pool_size = {advice.min_pool_size}"
    yield f"max_db_connections = {advice.max_db_connections or 0}"
    yield "; Clients. PgBouncer needs as many open files (ulimit -n), plus one for each server connection."
    yield f"max_client_conn = {advice.max_client_conn}"
    yield f"query_wait_timeout = {_off_is_0(advice.query_wait_timeout)}"
    yield f"server_lifetime = {format_seconds(advice.server_lifetime or FOR_EVER)}"
    yield f"server_idle_timeout = {_off_is_0(advice.server_idle_timeout)}"


def _off_is_0(time: float | None) -> str:
    return "0" if time is None else format_seconds(time)


STACK = Stack(
    name="pgbouncer",
    library="PgBouncer 1.18 and later",
    file="pgbouncer.ini",
    comment=";",
    takes=PoolerAdvice,
    aliases=("bouncer", "pg-bouncer"),
    write=_write,
)
