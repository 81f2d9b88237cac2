"""What the chart of an inspection shows: connections over the window against the limit, and who waits. Pure."""

from collections.abc import Sequence

from poolctl.observe.snapshot import Observation, ServerSample, Snapshot
from poolctl.report.panels import Chart, Layer, LimitLine, Panel
from poolctl.units import format_count


def chart_of_observation(observation: Observation) -> Chart | None:
    """None when too little was seen to draw a line."""
    snapshots = observation.snapshots
    if len(snapshots) < 2 or all(snapshot.server is None for snapshot in snapshots) or observation.window <= 0:
        return None
    start = observation.first.at
    panels = [_connections(observation)]
    waiting = [waiting_in(snapshot) for snapshot in snapshots]
    if any(waiting):
        panels.append(_panel("waiting", [Layer("waiting", "waiting", tuple(waiting))]))
    at = tuple(snapshot.at - start for snapshot in snapshots)
    return Chart("connections while looking", at, tuple(panels), 0.0, at[-1])


def waiting_in(snapshot: Snapshot) -> int:
    """Clients that wait for a connection, as far as poolers and pool figures say."""
    poolers = sum(pool.clients_waiting for bouncer in snapshot.bouncers for pool in bouncer.pools)
    poolers += sum(pgpool.waiting or 0 for pgpool in snapshot.pgpools)
    return poolers + sum(pool.waiting or 0 for pool in snapshot.pools)


def busy_in(sample: ServerSample) -> int:
    """Client backends that work or hold a transaction."""
    return sum(backend.is_active or backend.in_transaction for backend in sample.clients)


def _connections(observation: Observation) -> Panel:
    samples = [snapshot.server for snapshot in observation.snapshots]
    layers = [
        Layer("connections", "open", tuple(None if sample is None else len(sample.clients) for sample in samples)),
        Layer("active or in a transaction", "in_use", tuple(None if s is None else busy_in(s) for s in samples)),
    ]
    usable = observation.server.usable if observation.server else None
    return _panel("server", layers, LimitLine(f"usable {format_count(usable)}", usable) if usable else None, rows=5)


def _panel(title: str, layers: Sequence[Layer], limit: LimitLine | None = None, rows: int = 3) -> Panel:
    peak = max((value for layer in layers for value in layer.values if value is not None), default=0.0)
    return Panel(title, tuple(layers), max(peak, limit.value if limit else 1.0, 1.0), limit, rows)
