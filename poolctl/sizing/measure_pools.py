"""The load as applications' own pools counted it: connections in use, acquires, use times and waits.

This is what the applications really held, from acquire to release. The server sees less: between statements outside of
a transaction, and from the end of a statement to the release, a connection that is in use looks idle to it. So these
figures come first wherever a pool reports them. A figure is None where no pool reports it, or where the counters of a
pool restarted.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from statistics import fmean, pvariance

from poolctl.observe.snapshot import Observation, PoolFigures, Snapshot
from poolctl.sizing.figures import Figures, Window, measured, measured_if_known
from poolctl.sizing.samples import effective_samples, summarize_counts

WINDOW = 10.0
"""Least seconds of a window: pools that are scraped change their figures every few seconds."""
LEAST_FULL = 8
"""Figures of a full pool from which on their variance says something."""
SWING = 2.0
"""Seconds: shorter sums of wait times vary by chance, longer ones no longer show how the queue swings."""


def measure_pools(observation: Observation, figures: Figures, backends: int) -> Figures | None:
    """Return ``figures`` with the load as the pools report it; None if no pool reports what is in use or acquired.

    ``backends``: connections of the whole service that the server has. If the pools that report have fewer, the other
    instances are assumed to be like them.
    """
    snapshots = [snapshot for snapshot in observation.snapshots if snapshot.pools]
    scale = _scale_to_backends(snapshots, backends)
    counts = _count_in_use(snapshots)
    rate, hold, wait = measure_acquire_rate(observation), measure_hold_time(observation), measure_wait_time(observation)
    if not counts and (rate is None or hold is None):
        return None
    windows = tuple(_cut_windows(snapshots, scale)) or tuple(_count_pools_in(snapshots, figures.windows, scale))
    spread = summarize_counts(counts)
    held = None if rate is None or hold is None else rate * hold * scale
    mean = held if spread is None else spread.mean * scale
    pools = [pool for snapshot in snapshots for pool in snapshot.pools]
    return figures.with_(
        # A pool that counts no acquires (Go, node-postgres): the server counts what they led to.
        throughput=figures.throughput if rate is None else measured(rate * scale),
        hold_time=measured_if_known(hold),
        wait_time=measured_if_known(wait),
        waiting=None if (waiting := measure_waiting(snapshots)) is None else measured(waiting * scale),
        waiting_demand=measured_if_known(measure_waiting_demand(snapshots)),
        in_use=measured_if_known(mean),
        parallelism=measured_if_known(mean),
        parallelism_p95=None if spread is None else measured(ceil(spread.p95 * scale)),
        parallelism_p99=None if spread is None else measured(ceil(spread.p99 * scale)),
        parallelism_max=None if spread is None else measured(ceil(spread.largest * scale)),
        parallelism_counted=measured_if_known(held),
        censored_share=measured_if_known(measure_full_share(pools)),
        current_max_open=measured_if_known(max((pool.max_open for pool in pools if pool.max_open), default=None)),
        # Totals of acquires and use times miss nothing, so how often they were read does not matter. Nor does it where
        # the pools were always full.
        effective_samples=effective_samples(counts) if held is None and len(set(counts)) > 1 else None,
        samples=len(snapshots),
        windows=windows,
        is_server_view=False,
        method="the pools' own figures",
    )


def count_reporting_pools(observation: Observation, backends: int) -> int:
    """Return the number of pools of the service: the reporting ones, and as many more as the other backends fill."""
    snapshots = [snapshot for snapshot in observation.snapshots if snapshot.pools]
    names = {(pool.source, pool.name) for snapshot in snapshots for pool in snapshot.pools}
    return round(len(names) * _scale_to_backends(snapshots, backends))


def measure_acquire_rate(observation: Observation) -> float | None:
    """Return acquires per second, summed over all pools that count them; None without any growth."""
    rates = [
        (new.acquired_total - old.acquired_total) / seconds
        for old, new, seconds in _pair_figures(observation)
        if old.acquired_total is not None and new.acquired_total is not None
    ]
    # Figures from a file do not grow, which does not mean that the pool is idle.
    return sum(rates) if rates and min(rates) >= 0 and max(rates) > 0 else None


def measure_hold_time(observation: Observation) -> float | None:
    """Return the mean use time as the pools measured it, over the releases of the window, in seconds."""
    times, counts = 0.0, 0.0
    for old, new, _ in _pair_figures(observation):
        figures = (old.use_time_total, new.use_time_total, old.use_count_total, new.use_count_total)
        if None in figures:
            continue
        times += (new.use_time_total or 0.0) - (old.use_time_total or 0.0)
        counts += (new.use_count_total or 0.0) - (old.use_count_total or 0.0)
    return times / counts if counts > 0 and times >= 0 else None


def measure_wait_time(observation: Observation) -> float | None:
    """Return the mean wait of all acquires, queued or not, in seconds."""
    waited, acquired = 0.0, 0.0
    for old, new, _ in _pair_figures(observation):
        if old.wait_time_total is None or new.wait_time_total is None:
            continue
        if old.acquired_total is not None and new.acquired_total is not None:
            waited += new.wait_time_total - old.wait_time_total
            acquired += new.acquired_total - old.acquired_total
    return waited / acquired if acquired > 0 and waited >= 0 else None


def measure_waiting(snapshots: Sequence[Snapshot]) -> float | None:
    """Return the mean number of clients that wait at all pools together; None where no pool reports it.

    Where a pool counts only how long they waited (Go): that total grows by one second a second for each that waits.
    """
    reported = [[pool.waiting for pool in snapshot.pools if pool.waiting is not None] for snapshot in snapshots]
    if any(reported):
        return fmean(sum(counts) for counts in reported if counts)
    rates = [
        (new.wait_time_total - old.wait_time_total) / seconds
        for old, new, seconds in _pair_figures(Observation(tuple(snapshots), None))
        if old.wait_time_total is not None and new.wait_time_total is not None
    ]
    return sum(rates) if rates and min(rates) >= 0 else None


def measure_waiting_demand(snapshots: Sequence[Snapshot]) -> float | None:
    """Return which share of the clients that wait at full pools would be in use at once if there was room.

    A client has a connection, waits, or is away. Beside a full pool of m, V clients are away on average; with room for
    all, of the waiting ones m to V would be in the pool and away (a closed network with one bottleneck). V is not
    reported; but clients leave a full pool as in a Poisson process, so V is also the variance of their number, and of
    the number that waits (the M/G/infinity queue). Where requests arrive from outside, the queue swings much more, and
    little of it is demand. None where that is not known: then all of them count.
    """
    demand = waited = 0.0
    for in_use, waiting, noise in _list_queues(snapshots):
        away = max(0.0, pvariance(waiting) - noise)
        demand += fmean(waiting) * in_use / (in_use + away)
        waited += fmean(waiting)
    return demand / waited if waited else None


def _list_queues(snapshots: Sequence[Snapshot]) -> Iterator[tuple[float, list[float], float]]:
    """Yield, for each pool, its size, how many waited each time it was full, and which variance is only chance.

    Where a pool only adds up wait times (Go), how many waited is a mean over seconds. Go serves waiting clients in no
    order: n waits then scatter as an exponential distribution, and their sum by 2 / n of its square. A pool that was
    full too few times to have a variance is left out.
    """
    for figures in _group_by_pool(snapshots).values():
        full = [pool for _, pool in figures if pool.in_use and pool.max_open and pool.in_use >= pool.max_open]
        if len(full) < LEAST_FULL:
            continue
        in_use, noise = fmean(pool.in_use or 0 for pool in full), 0.0
        waiting = [float(pool.waiting) for pool in full if pool.waiting]
        if all(pool.waiting is None for pool in full):
            growths = [*_list_growths(figures)]
            waiting = [time for time, _ in growths]
            noise = 2 * fmean(waiting) ** 2 / fmean(count for _, count in growths) if growths else 0.0
        if len(waiting) >= LEAST_FULL:
            yield in_use, waiting, noise


def _list_growths(figures: Sequence[tuple[float, PoolFigures]]) -> Iterator[tuple[float, float]]:
    """Yield what the wait times grew by, each second, in ``SWING`` seconds or more, and by how many waits."""
    begun: tuple[float, float, float] | None = None
    for at, pool in figures:
        if pool.wait_time_total is None or pool.queued_total is None:
            continue
        if begun is None:
            begun = at, pool.wait_time_total, pool.queued_total
        elif at - begun[0] >= SWING:
            if pool.queued_total > begun[2] and pool.wait_time_total >= begun[1]:
                yield (pool.wait_time_total - begun[1]) / (at - begun[0]), pool.queued_total - begun[2]
            begun = at, pool.wait_time_total, pool.queued_total


def measure_full_share(pools: Sequence[PoolFigures]) -> float | None:
    """Return the share of the figures of bounded pools that show every connection in use, and not that no client waits
    for one."""
    bounded = [pool for pool in pools if pool.max_open and pool.in_use is not None]
    if not bounded:
        return None
    return sum((pool.in_use or 0) >= (pool.max_open or 0) and pool.waiting != 0 for pool in bounded) / len(bounded)


def _pair_figures(observation: Observation) -> Iterable[tuple[PoolFigures, PoolFigures, float]]:
    """Yield each pool's first and last figures and the seconds between them; none if its counters restarted."""
    for figures in _group_by_pool(observation.snapshots).values():
        (begun_at, first), (ended_at, last) = figures[0], figures[-1]
        if ended_at > begun_at:
            yield first, last, ended_at - begun_at


def _group_by_pool(snapshots: Iterable[Snapshot]) -> dict[tuple[str, str], list[tuple[float, PoolFigures]]]:
    """Return the figures of each pool with the time of each."""
    groups: dict[tuple[str, str], list[tuple[float, PoolFigures]]] = {}
    for snapshot in snapshots:
        for pool in snapshot.pools:
            groups.setdefault((pool.source, pool.name), []).append((snapshot.at, pool))
    return groups


def _count_in_use(snapshots: Sequence[Snapshot]) -> list[int]:
    """Return the connections in use of all pools together, at each snapshot in which a pool reports them."""
    reported = [[pool.in_use for pool in snapshot.pools if pool.in_use is not None] for snapshot in snapshots]
    return [sum(counts) for counts in reported if counts]


def _scale_to_backends(snapshots: Sequence[Snapshot], backends: int) -> float:
    """Return the ratio of all backends of the service to the connections of the pools that report, 1 or more."""
    most = max((sum(pool.open or 0 for pool in snapshot.pools) for snapshot in snapshots), default=0)
    return max(1.0, backends / most) if most else 1.0


def _cut_windows(snapshots: Sequence[Snapshot], scale: float) -> Iterator[Window]:
    """Cut windows of ``WINDOW`` seconds or more, each with the acquires and the connections in use within it.

    A pool adds a use time when the connection comes back, which for long holds is in a later window; so the gauges
    count where there are any.
    """
    start = 0
    for end in range(1, len(snapshots)):
        length, rest = snapshots[end].at - snapshots[start].at, snapshots[-1].at - snapshots[end].at
        if (length < WINDOW or 0 < rest < WINDOW) and end < len(snapshots) - 1:
            continue
        part = Observation(tuple(snapshots[start : end + 1]), None)
        rate, hold = measure_acquire_rate(part), measure_hold_time(part)
        counts = _count_in_use(part.snapshots)
        busy = fmean(counts) if counts else None if rate is None or hold is None else rate * hold
        if rate is not None and busy is not None and length > 0:
            yield Window(length, rate * scale, busy * scale)
        start = end


def _count_pools_in(snapshots: Sequence[Snapshot], windows: Sequence[Window], scale: float) -> Iterator[Window]:
    """Yield the server's windows, which follow one another, with the connections in use that the pools report."""
    begins_at = snapshots[0].at if snapshots else 0.0
    for window in windows:
        ends_at = begins_at + window.duration
        counts = _count_in_use([snapshot for snapshot in snapshots if begins_at <= snapshot.at <= ends_at])
        if counts:
            yield Window(window.duration, window.throughput, fmean(counts) * scale)
        begins_at = ends_at
