"""From a recommendation to the configuration blocks of the requested stacks.

Decides which pool size an application gets if the block of a pooler is requested beside it.
"""

from collections.abc import Sequence

from poolctl.sizing.division import compute_floor
from poolctl.sizing.figures import Figures
from poolctl.sizing.pooler import PoolerPlan, add_settings
from poolctl.sizing.recommendation import Recommendation
from poolctl.stacks.registry import find_stack, render
from poolctl.stacks.settings import PoolAdvice, PoolerAdvice
from poolctl.stacks.stack import Config


def write_configs(result: Recommendation, figures: Figures, stacks: Sequence[str]) -> tuple[tuple[Config, ...], str]:
    """Return the blocks for ``stacks``, in that order, and a note about them, "" if they need none.

    ``figures``: with their defaults filled in. No blocks for a refusal; no block of a pooler without a free slot.
    Raises BadInput for an unknown stack.
    """
    found = [find_stack(name) for name in stacks]
    if result.is_refused or result.recommendation.max_open is None:
        return (), "Without a recommended size no configuration is written" if found else ""
    pooler = _complete_pooler(result, figures)
    behind = result.pooler.recommended and any(stack.is_pooler for stack in found)
    most = pooler.app_max_open if behind else None
    configs: list[Config] = []
    for stack in found:
        if not stack.is_pooler:
            configs.append(render(stack.name, advise_pool(result, max_open=most)))
        elif (advice := advise_pooler(pooler, figures)) is not None:
            configs.append(render(stack.name, advice))
    note = f"The blocks of applications are for use behind the pooler: max_open {most} in each process" if most else ""
    return tuple(configs), note


def advise_pool(result: Recommendation, *, max_open: int | None = None) -> PoolAdvice:
    """Return the settings for the pool of each process; ``max_open`` None: the recommended size.

    Raises ValueError for a refusal. A recommendation adds its jitter to the lifetime; an advice takes it off the
    longest life, as a share. Both mean that connections live from max_lifetime to max_lifetime + jitter.
    """
    sizes = result.recommendation
    if sizes.max_open is None:
        raise ValueError("a refusal has no sizes")
    most = sizes.max_open if max_open is None else max_open
    idle = sizes.max_open if sizes.max_idle is None else sizes.max_idle
    longest = sizes.max_lifetime + sizes.max_lifetime_jitter
    return PoolAdvice(
        max_open=most,
        max_idle=most if idle == sizes.max_open else min(idle, most),
        min_idle=min(sizes.min_idle or 0, most),
        max_lifetime=longest or None,
        max_lifetime_jitter=sizes.max_lifetime_jitter / longest if longest > 0 else 0.0,
        max_idle_time=sizes.max_idle_time or None,
        acquire_timeout=sizes.acquire_timeout or None,
        workers=int(result.measured.workers_per_process or 0) or None,
        processes=result.fleet.worst_case_processes,
    )


def advise_pooler(pooler: PoolerPlan, figures: Figures) -> PoolerAdvice | None:
    """Return the settings for a pooler; None if no slot is left for it."""
    bouncer, pgpool = pooler.pgbouncer, pooler.pgpool
    if bouncer is None:
        return None
    return PoolerAdvice(
        default_pool_size=bouncer.default_pool_size,
        reserve_pool_size=bouncer.reserve_pool_size,
        reserve_pool_timeout=bouncer.reserve_pool_timeout,
        min_pool_size=bouncer.min_pool_size,
        max_db_connections=bouncer.max_db_connections,
        max_client_conn=bouncer.max_client_conn,
        query_wait_timeout=bouncer.query_wait_timeout or None,
        server_lifetime=bouncer.server_lifetime or None,
        server_idle_timeout=bouncer.server_idle_timeout or None,
        max_connections=figures.max_connections.count if figures.max_connections is not None else None,
        num_init_children=pgpool.num_init_children if pgpool is not None else None,
        max_pool=pgpool.max_pool if pgpool is not None else None,
    )


def _complete_pooler(result: Recommendation, figures: Figures) -> PoolerPlan:
    if result.pooler.pgbouncer is not None:
        return result.pooler
    parts = (result.fleet, result.budget, result.demand, result.capacity)
    return add_settings(result.pooler, figures, *parts, compute_floor(figures))
