"""The load as applications' own pools counted it: acquires, use times and waits.

Every function returns None where no pool reports the figure, or where a pool's counters restarted within the window.
"""

from collections.abc import Iterable, Sequence

from poolctl.observe.snapshot import Observation, PoolFigures


def _pair_figures(observation: Observation) -> Iterable[tuple[PoolFigures, PoolFigures, float]]:
    """Yield each pool's first and last figures and the seconds between them; none if its counters restarted."""
    first: dict[tuple[str, str], tuple[float, PoolFigures]] = {}
    last: dict[tuple[str, str], tuple[float, PoolFigures]] = {}
    for snapshot in observation.snapshots:
        for pool in snapshot.pools:
            key = (pool.source, pool.name)
            first.setdefault(key, (snapshot.at, pool))
            last[key] = (snapshot.at, pool)
    for key, (at, pool) in last.items():
        if at > first[key][0]:
            yield first[key][1], pool, at - first[key][0]


def measure_acquire_rate(observation: Observation) -> float | None:
    """Return acquires per second, summed over all pools that count them."""
    rates = [
        (new.acquired_total - old.acquired_total) / seconds
        for old, new, seconds in _pair_figures(observation)
        if old.acquired_total is not None and new.acquired_total is not None
    ]
    return sum(rates) if rates and min(rates) >= 0 else None


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


def measure_full_share(pools: Sequence[PoolFigures]) -> float | None:
    """Return the share of the figures of bounded pools that show every connection in use."""
    bounded = [pool for pool in pools if pool.max_open and pool.in_use is not None]
    if not bounded:
        return None
    return sum((pool.in_use or 0) >= (pool.max_open or 0) for pool in bounded) / len(bounded)
