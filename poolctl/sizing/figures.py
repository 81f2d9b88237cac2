"""The figures known before a pool is sized: each quantity with its origin, or None where it is not known.

The caller fills ``Figures`` from options, a live measurement or a recording, alone or mixed. Times are seconds, rates
are per second, shares are from 0 to 1. All of it converts to JSON and back. The mean hold time is derived here, too,
because capacity and demand both need it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from poolctl.serialize import from_dict
from poolctl.sizing.sweep_table import SweepPoint

Origin = Literal["measured", "given", "assumed"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A value, and whether it was measured, given by the user, or assumed."""

    value: float
    origin: Origin = "given"

    @property
    def count(self) -> int:
        """The value as a whole number, rounded down."""
        return int(self.value)


def given(value: float) -> Figure:
    """Return ``value`` as a figure that the user gave."""
    return Figure(float(value), "given")


def measured(value: float) -> Figure:
    """Return ``value`` as a figure that poolctl measured."""
    return Figure(float(value), "measured")


def measured_if_known(value: float | None) -> Figure | None:
    """Return ``value`` as a figure that poolctl measured; None: it could not be measured."""
    return None if value is None else measured(value)


def assumed(value: float) -> Figure:
    """Return ``value`` as a figure that is only a default."""
    return Figure(float(value), "assumed")


@dataclass(frozen=True, slots=True)
class Window:
    """One part of the measurement, for all instances of the service together."""

    duration: float
    """Seconds."""
    throughput: float
    """Transactions (acquires) per second."""
    busy: float
    """Mean number of connections that were active or idle in a transaction."""
    database_cpu: float | None = None
    """Number of cores that the database kept busy; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class TopStatement:
    """The statement with the largest share of the database's execution time, and the rows it reads.

    ``share`` is its part of all execution time within the window. ``mean_time`` is in seconds. ``table`` and ``column``
    name what an index would be on; None where they could not be determined. ``rows_read`` and ``rows_returned`` are per
    call.
    """

    query: str
    share: float
    calls_per_second: float | None = None
    mean_time: float | None = None
    table: str | None = None
    column: str | None = None
    rows_read: float | None = None
    rows_returned: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that a size can be computed from. None means that a figure is not known.

    ``defaults.fill_defaults`` replaces some of the unknown figures, and the recommendation lists each that it replaced.

    Per instance: ``arrival_rate`` (acquires per second, at the peak), ``processes``. Per process: ``workers`` (threads
    that acquire), ``connections_per_request`` (held at the same time by one request). Per service: ``instances`` to
    ``terminating``, ``throughput``, ``parallelism`` (mean number of busy connections) and its percentiles. Of the
    database: the limits, ``cores``, ``cpu_time`` (seconds of one core for one transaction). ``surge`` is a count and
    ``surge_share`` a share of the instances; at most one of the two is set.
    """

    arrival_rate: Figure | None = None
    hold_time: Figure | None = None
    """Mean seconds from acquire to release, on a database that is not saturated."""
    hold_cv: Figure | None = None
    """Coefficient of variation of the hold time: standard deviation over mean."""
    arrival_cv: Figure | None = None
    """Coefficient of variation of the times between arrivals; 1 for independent users."""
    wait_target: Figure | None = None
    """Seconds. At most one acquire in a hundred may wait longer."""
    workers: Figure | None = None
    connections_per_request: Figure | None = None
    processes: Figure | None = None

    instances: Figure | None = None
    max_instances: Figure | None = None
    surge: Figure | None = None
    surge_share: Figure | None = None
    terminating: Figure | None = None

    max_connections: Figure | None = None
    superuser_reserved: Figure | None = None
    reserved: Figure | None = None
    other_connections: Figure | None = None
    headroom: Figure | None = None
    role_limit: Figure | None = None
    """CONNECTION LIMIT of the service's role, less what other services use of it."""
    database_limit: Figure | None = None
    """CONNECTION LIMIT of the database."""
    pooler_limit: Figure | None = None
    """Most connections that a pooler in between gives to the service."""

    cores: Figure | None = None
    cpu_time: Figure | None = None
    capacity: Figure | None = None
    """Connections that the database can use, where the user knows the number."""
    saturated_throughput: Figure | None = None
    """The best throughput measured while more connections no longer helped."""
    parallel_workers: Figure | None = None
    """Mean number of parallel workers of a running query."""
    is_burstable: bool = False
    """True if the processor has credits: a capacity measured with them is not available without."""

    connect_time: Figure | None = None
    failover_target: Figure | None = None
    """Seconds after which no connection opened before a failover may remain."""
    request_timeout: Figure | None = None
    probe_timeout: Figure | None = None
    network_idle_limit: Figure | None = None
    """Shortest idle time after which a load balancer, NAT or firewall drops a connection."""
    session_idle_limit: Figure | None = None
    """The server's idle_session_timeout."""
    credential_lifetime: Figure | None = None
    connection_age_limit: Figure | None = None
    """Age at which something between client and server closes every connection."""
    burst_gap: Figure | None = None
    """95th percentile of the time between two bursts."""

    in_use: Figure | None = None
    """Mean number of connections in use during the measurement, of all instances: no smaller pool carries that load."""
    open_connections: Figure | None = None
    """The most connections that were open at once: what may have been in use at most."""
    in_use_at_most: Figure | None = None
    """The most that may have been in use at once, by how long the other connections rested; None: not known."""
    held_outside: Figure | None = None
    """Time a client holds a connection while the server sees it idle, over the time the server sees it busy."""
    is_server_view: bool = False
    """True if the load is measured at the server, which cannot see how long clients hold idle connections."""
    throughput: Figure | None = None
    parallelism: Figure | None = None
    """As sampled from the list of backends."""
    parallelism_counted: Figure | None = None
    """The same from the server's time counters, or from the pools' own."""
    parallelism_p95: Figure | None = None
    parallelism_p99: Figure | None = None
    parallelism_max: Figure | None = None
    wait_time: Figure | None = None
    """Mean wait of an acquire, where the pools report it."""
    waiting: Figure | None = None
    """Mean number of clients that waited for a connection, of all instances, where the pools report it."""
    waiting_demand: Figure | None = None
    """Share of the waiting clients that would have a connection at once if there was room; None: unknown, all count."""
    current_max_open: Figure | None = None
    """The present max_open of each process."""
    observed_at: str | None = None
    window: float | None = None
    samples: int = 0
    effective_samples: float | None = None
    method: str = ""

    database_cpu: Figure | None = None
    """Share of all its cores that the database keeps busy."""
    lock_share: Figure | None = None
    """Share of the active samples that wait for a lock of another transaction (Lock)."""
    contention_share: Figure | None = None
    """Share of the active samples that wait for any lock: of a transaction, or inside the server (LWLock)."""
    transaction_idle_share: Figure | None = None
    """Share of the hold time that is spent idle in a transaction."""
    censored_share: Figure | None = None
    """Share of the samples in which every connection of a pool was in use."""
    is_stats_reset: bool = False
    is_behind_pooler: bool = False
    top_statement: TopStatement | None = None
    windows: tuple[Window, ...] = ()
    sweep: tuple[SweepPoint, ...] = ()

    def with_(self, **changes: Any) -> "Figures":
        """Return a copy with ``changes``."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Figures":
        """Rebuild the figures from the values of ``to_dict``."""
        figures: Figures = from_dict(cls, values)
        return figures


LEAST_RATE = 1e-6
"""Transactions per second, one in eleven days. Below it a throughput says nothing about a hold."""


def estimate_hold(figures: Figures) -> Figure | None:
    """Return the mean hold time in seconds, or None if it is not known.

    A given or measured hold time comes first; then busy connections over throughput (Little's law) in the least crowded
    windows; then the same over the whole measurement. What the server saw is longer by ``held_outside``.
    """
    if figures.hold_time is not None:
        return figures.hold_time
    longer = 1.0 + (figures.held_outside.value if figures.held_outside is not None else 0.0)
    shortest = find_shortest_hold(figures.windows, figures.cores)
    if shortest is not None:
        return Figure(shortest * longer, "measured")
    if figures.parallelism is not None and figures.throughput is not None and figures.throughput.value >= LEAST_RATE:
        return Figure(figures.parallelism.value / figures.throughput.value * longer, figures.parallelism.origin)
    return None


def find_shortest_hold(windows: Sequence[Window], cores: Figure | None) -> float | None:
    """Return the mean hold in the least crowded windows (5th percentile of busy / throughput), in seconds.

    None without any usable window. If the processors were watched, only windows with less than half of the cores busy
    count: a hold that was measured under saturation only repeats the number of clients. TCP Vegas uses the shortest
    round trip for the same reason (Brakmo and Peterson 1995).
    """
    holds = sorted(
        window.busy / window.throughput
        for window in windows
        if window.throughput > 0
        and window.busy > 0
        and (window.database_cpu is None or cores is None or window.database_cpu < 0.5 * cores.value)
    )
    return holds[len(holds) // 20] if holds else None
