"""Whether a pooler is needed between the fleet and the server, and settings for it that add up.

Splitting one pool over many processes costs about beta * sqrt(load) * (sqrt(processes) - 1) connections (square-root
staffing, Halfin and Whitt 1981) plus the rounding of each part. A pooler joins the parts again.
"""

from dataclasses import dataclass, replace
from math import ceil

from poolctl.sizing.budget import Budget, WorstFleet
from poolctl.sizing.capacity import Capacity
from poolctl.sizing.demand import Demand, count_pools
from poolctl.sizing.division import UNEVEN_SHARE, DivisionTerms
from poolctl.sizing.figures import Figures

TOO_MANY = 3.0
"""Ratio of all pools together to the useful connections, above which the pools no longer protect the database."""
SPARE_CLIENTS = 1.2
"""max_client_conn over the clients of the largest fleet."""
RESERVE_SHARE = 0.2
"""reserve_pool_size over default_pool_size."""
QUERY_WAIT = 5.0
"""Seconds. PgBouncer's default of 120 outlives every request that waits."""


@dataclass(frozen=True, slots=True)
class PgBouncerSettings:
    """Settings by PgBouncer's names, times in seconds, for each of ``processes`` PgBouncer processes.

    ``default_pool_size`` is for one pair of user and database. ``nofile`` is the limit of open files it needs.
    """

    processes: int
    pool_mode: str
    default_pool_size: int
    min_pool_size: int
    reserve_pool_size: int
    reserve_pool_timeout: float
    max_db_connections: int
    max_client_conn: int
    query_wait_timeout: float
    server_lifetime: float
    server_idle_timeout: float
    nofile: int


@dataclass(frozen=True, slots=True)
class PgpoolSettings:
    """Settings by Pgpool-II's names.

    Each child process serves one client as long as it stays connected, and keeps up to max_pool server connections. So
    Pgpool-II limits connections, and shares them only among clients that connect and disconnect.
    """

    num_init_children: int
    max_pool: int
    reserved_connections: int
    child_life_time: float
    connection_life_time: float


@dataclass(frozen=True, slots=True)
class PoolerPlan:
    """``app_max_open`` is the size of each process's own pool behind the pooler.

    ``partition_cost`` is the connections that the split into many pools costs; None: the demand is not known.
    ``cautions`` say what must hold for a pooler to help.
    """

    recommended: bool
    why: str
    partition_cost: int | None
    app_max_open: int | None
    pgbouncer: PgBouncerSettings | None
    pgpool: PgpoolSettings | None
    cautions: tuple[str, ...] = ()


TRANSACTION_MODE = (
    "Transaction mode needs requests without session state: no SET, LISTEN, session advisory locks or temporary "
    "tables between transactions, and prepared statements only with PgBouncer 1.21+ and max_prepared_statements"
)
PGPOOL_MODE = "Pgpool-II does not share a server connection between connected clients: max_open counts once each"


def plan_pooler(
    figures: Figures,
    fleet: WorstFleet,
    budget: Budget,
    demand: Demand,
    capacity: Capacity,
    parts: DivisionTerms,
    *,
    max_open: int,
) -> PoolerPlan:
    """Decide whether a pooler is needed. ``max_open``: the size of each pool without a pooler; 0: no room for any."""
    worst = fleet.worst_case_processes
    partition = None if demand.partitioned is None or demand.shared is None else demand.partitioned - demand.shared
    useful = max(capacity.value if capacity.is_known and capacity.value else 0, demand.shared or 0)
    recommended, why = False, "Not needed: all pools together fit into the slots"
    if budget.value < parts.floor:
        recommended = True
        why = f"{worst} processes at worst need {parts.floor} each, and {budget.total} slots leave {budget.value}"
    elif demand.value is not None and worst * demand.value > budget.total:
        recommended = True
        needed = worst * demand.value
        why = f"{worst} processes at worst x {demand.value} needed = {needed}, and there are {budget.total} slots"
    elif _is_starving(demand, capacity, parts.share):
        recommended = True
        of = f"{parts.share} of {capacity.value} useful connections"
        why = f"the split leaves {of} to each process, which needs {demand.value}"
    elif useful and count_pools(figures) * max_open > TOO_MANY * useful:
        recommended = True
        total = count_pools(figures) * max_open
        why = (
            f"{total} connections in the usual fleet, of which {useful} are useful: together they overload the database"
        )
    if recommended and demand.shared is not None:
        why += f"; one shared pool needs {demand.shared}"
    elif partition is not None and partition > 0:
        why += f"; the split costs {partition} connections ({demand.partitioned} instead of {demand.shared})"
    found = PoolerPlan(recommended, why, partition, None, None, None)
    return add_settings(found, figures, fleet, budget, demand, capacity, parts.floor) if recommended else found


def add_settings(
    pooler: PoolerPlan,
    figures: Figures,
    fleet: WorstFleet,
    budget: Budget,
    demand: Demand,
    capacity: Capacity,
    floor: int,
) -> PoolerPlan:
    """Return ``pooler`` with its settings, also for a user who has a pooler although none is needed."""
    app = _size_behind_pooler(figures, demand, floor)
    return replace(
        pooler,
        app_max_open=app,
        pgbouncer=_choose_pgbouncer(figures, fleet, budget, demand, capacity, app),
        pgpool=_choose_pgpool(figures, fleet, budget, app),
        cautions=(TRANSACTION_MODE, PGPOOL_MODE),
    )


def _is_starving(demand: Demand, capacity: Capacity, share: int | None) -> bool:
    """Return True if one shared pool would serve all clients within the capacity, and its parts do not."""
    if share is None or demand.value is None or demand.shared is None or capacity.value is None:
        return False
    return capacity.is_known and demand.value > share and demand.shared <= UNEVEN_SHARE * capacity.value


def _size_behind_pooler(figures: Figures, demand: Demand, floor: int) -> int:
    """Return the size of an application's pool behind a pooler, which limits nothing: as many as its workers hold."""
    if figures.workers is not None:
        each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
        return max(floor, figures.workers.count * each)
    return max(floor, demand.value or 1)


def _choose_pgbouncer(
    figures: Figures, fleet: WorstFleet, budget: Budget, demand: Demand, capacity: Capacity, app: int
) -> PgBouncerSettings | None:
    """Choose settings for one PgBouncer process and one pair of user and database; None if no slot is left."""
    if budget.total < 1:
        return None
    wanted = [part for part in (capacity.value if capacity.is_known else None, demand.shared) if part is not None]
    size = min(min(wanted, default=budget.total), budget.total)
    reserve = min(ceil(RESERVE_SHARE * size), budget.total - size)
    clients = ceil(SPARE_CLIENTS * fleet.worst_case_processes * app - 1e-9)
    least = 0 if demand.shared_load is None else min(size, int(demand.shared_load))
    wait = QUERY_WAIT
    if figures.request_timeout is not None:
        wait = min(wait, 0.5 * figures.request_timeout.value)
    return PgBouncerSettings(
        processes=1,
        pool_mode="transaction",
        default_pool_size=size,
        min_pool_size=least,
        reserve_pool_size=reserve,
        reserve_pool_timeout=2.0,
        max_db_connections=budget.total,
        max_client_conn=clients,
        # Old versions read whole seconds only, and 0 would wait for ever.
        query_wait_timeout=float(max(1, int(wait))),
        server_lifetime=1800.0,
        server_idle_timeout=600.0,
        nofile=clients + budget.total + 100,
    )


def spread(bouncer: PgBouncerSettings, processes: int, *, users: int = 1, databases: int = 1) -> PgBouncerSettings:
    """Divide the settings over several PgBouncer processes (so_reuseport, or hosts), users and databases.

    PgBouncer has a pool for each process, user and database, so sizes that are not divided multiply; max_db_connections
    is per process and database. The sum never exceeds that of ``bouncer``, except that each pool has at least one
    connection. Raises ValueError for a number below 1.
    """
    if min(processes, users, databases) < 1:
        raise ValueError("processes, users and databases must each be 1 or more")
    parts = processes * users * databases
    most = max(users, bouncer.max_db_connections // (processes * databases))
    size = max(1, min(ceil(bouncer.default_pool_size / parts), most // users))
    reserve = max(0, min(bouncer.reserve_pool_size // parts, most // users - size))
    clients = ceil(bouncer.max_client_conn / processes)
    return PgBouncerSettings(
        processes=processes,
        pool_mode=bouncer.pool_mode,
        default_pool_size=size,
        min_pool_size=min(size, bouncer.min_pool_size // parts),
        reserve_pool_size=reserve,
        reserve_pool_timeout=bouncer.reserve_pool_timeout,
        max_db_connections=most,
        max_client_conn=clients,
        query_wait_timeout=bouncer.query_wait_timeout,
        server_lifetime=bouncer.server_lifetime,
        server_idle_timeout=bouncer.server_idle_timeout,
        nofile=clients + most * databases + 100,
    )


def _choose_pgpool(figures: Figures, fleet: WorstFleet, budget: Budget, app: int) -> PgpoolSettings | None:
    if budget.total < 1:
        return None
    children = min(budget.total, max(1, fleet.worst_case_processes * app))
    # A refused client gets an error; without a reserve it would hang in the listen queue, where nothing reports it.
    reserved = 1 if children > 1 else 0
    idle = figures.network_idle_limit
    return PgpoolSettings(children, 1, reserved, 300.0, 0.0 if idle is None else 0.9 * idle.value)
