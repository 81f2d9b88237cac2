"""Pgpool-II. Each child process serves one client and keeps its own connections, so the two limits multiply.

connection_life_time counts from when the client left, so it is poolctl's idle time; there is no lifetime.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolerAdvice) -> Iterator[str]:
    children, cached = advice.children, advice.cached_by_child
    yield f"# The server may see {children} x {cached} = {children * cached} connections; the default is 128."
    yield "# Clients at the same time. One more waits in the listen queue, without a limit and unreported."
    yield f"num_init_children = {children}"
    yield "# Pairs of user and database that each child keeps."
    yield f"max_pool = {cached}"
    yield "# Despite its name an idle time: seconds since a client left. 0 is off."
    idle = 0 if advice.server_idle_timeout is None else round_seconds(advice.server_idle_timeout)
    yield f"connection_life_time = {idle}"
    if advice.server_lifetime is not None:
        yield "# There is no lifetime. Nearest is child_max_connections, which ends a child after so many clients."
    if advice.max_client_conn > children:
        yield f"# {advice.max_client_conn} clients do not fit: each holds a child while it is connected."
        yield "# Use smaller pools in the applications, or PgBouncer, which shares connections by transaction."


STACK = Stack(
    name="pgpool",
    library="Pgpool-II 4.3 and later",
    file="pgpool.conf",
    takes=PoolerAdvice,
    aliases=("pgpool-ii", "pgpool2", "pgpoolii"),
    write=_write,
)
