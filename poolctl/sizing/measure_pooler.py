"""The load as a PgBouncer in between counted it, which hides the load from the server.

Its totals count every transaction of every client, the time that each held a server connection and the time that
clients waited for one: throughput, hold and wait as the applications experience them.
"""

from collections.abc import Iterator

from poolctl.observe.snapshot import BouncerSample, BouncerStats, Observation
from poolctl.sizing.figures import Figures, measured
from poolctl.sizing.samples import effective_samples, summarize_counts

OWN = "pgbouncer"
"""The admin console of PgBouncer, which counts as a database."""


def measure_poolers(observation: Observation, figures: Figures) -> Figures | None:
    """Return ``figures`` with the load that all PgBouncers counted together.

    None if they counted nothing, or if a pool is in session mode: then a hold is as long as the client stays connected.
    """
    growth = list(_pair_totals(observation))
    samples = [snapshot.bouncers for snapshot in observation.snapshots if snapshot.bouncers]
    transactions = sum(new.transactions - old.transactions for old, new in growth)
    if transactions <= 0 or observation.window <= 0 or any(map(_lends_for_sessions, samples[-1])):
        return None
    held = sum(new.transaction_time - old.transaction_time for old, new in growth)
    waited = sum(new.wait_time - old.wait_time for old, new in growth)
    sampled = [[pool for bouncer in bouncers for pool in bouncer.pools if pool.database != OWN] for bouncers in samples]
    counts = [sum(pool.servers_active for pool in pools) for pools in sampled]
    queued = sum(any(pool.clients_waiting for pool in pools) for pools in sampled) / len(sampled)
    spread = summarize_counts(counts)
    if spread is None:
        return None
    return figures.with_(
        throughput=measured(transactions / observation.window),
        hold_time=measured(held / transactions),
        wait_time=measured(waited / transactions),
        in_use=measured(spread.mean),
        parallelism=measured(spread.mean),
        parallelism_counted=measured(held / observation.window),
        parallelism_p95=measured(spread.p95),
        parallelism_p99=measured(spread.p99),
        parallelism_max=measured(spread.largest),
        censored_share=measured(queued),
        effective_samples=effective_samples(counts),
        samples=len(counts),
        windows=(),
        is_behind_pooler=False,
        is_server_view=False,
        method="the pooler's totals",
    )


def _pair_totals(observation: Observation) -> Iterator[tuple[BouncerStats, BouncerStats]]:
    """Yield the first and last totals of each database of each PgBouncer; none if they restarted."""
    first: dict[tuple[str, str], BouncerStats] = {}
    last: dict[tuple[str, str], BouncerStats] = {}
    for snapshot in observation.snapshots:
        for bouncer in snapshot.bouncers:
            for stats in bouncer.stats:
                if stats.database != OWN:
                    first.setdefault((bouncer.target, stats.database), stats)
                    last[bouncer.target, stats.database] = stats
    for key, new in last.items():
        if new.transactions >= first[key].transactions:
            yield first[key], new


def _lends_for_sessions(bouncer: BouncerSample) -> bool:
    return any(pool.mode == "session" for pool in bouncer.pools if pool.database != OWN)
