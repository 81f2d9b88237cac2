"""Supavisor, whose settings are rows of its metadata database. It has no lifetime and no setting for an idle time."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import FOR_EVER, round_milliseconds
from poolctl.stacks.stack import Stack

_LARGEST_INTEGER = 2_147_483_647


def _write(advice: PoolerAdvice) -> Iterator[str]:
    wait = FOR_EVER if advice.query_wait_timeout is None else advice.query_wait_timeout
    yield "-- In Supavisor's metadata database. A running pool keeps its old size until it is restarted."
    yield "UPDATE _supavisor.tenants"
    yield f"SET default_pool_size = {advice.default_pool_size}, default_max_clients = {advice.max_client_conn}"
    yield "WHERE external_id = 'app';"
    yield ""
    yield "-- Each user has such a pool; its pool_size overrides the tenant's. Milliseconds."
    yield "UPDATE _supavisor.users"
    yield f"SET pool_size = {advice.default_pool_size}, mode_type = '{advice.pool_mode}',"
    yield f"    pool_checkout_timeout = {min(round_milliseconds(wait), _LARGEST_INTEGER)}"
    yield "WHERE tenant_external_id = 'app';"
    yield "-- Supavisor has no lifetime. It closes connections after five unused minutes."


STACK = Stack(
    name="supavisor",
    library="Supavisor 2",
    file="supavisor.sql",
    comment="--",
    takes=PoolerAdvice,
    aliases=("supabase",),
    write=_write,
)
