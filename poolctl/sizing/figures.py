"""What is known before a pool is sized: every quantity with where it comes from, None where it is not known.

The command line fills ``Figures`` from options, a live measurement or a recording, alone or mixed. Times are
seconds, rates per second, shares 0 to 1. Everything here goes through JSON and back (``plain``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from poolctl.serialize import from_dict
from poolctl.sizing.sweep_table import SweepPoint

Origin = Literal["measured", "given", "assumed"]


@dataclass(frozen=True, slots=True)
class Figure:
    value: float
    origin: Origin = "given"

    @property
    def count(self) -> int:
        return int(self.value)


def given(value: float) -> Figure:
    return Figure(float(value), "given")


def measured(value: float) -> Figure:
    return Figure(float(value), "measured")


def assumed(value: float) -> Figure:
    return Figure(float(value), "assumed")


@dataclass(frozen=True, slots=True)
class Window:
    """What one stretch of the measurement saw of the service to be sized, all its instances together."""

    duration: float
    throughput: float
    """Transactions (acquires) per second."""
    busy: float
    """Mean connections active or idle in a transaction."""
    database_cpu: float | None = None
    """Cores that the database kept busy."""


@dataclass(frozen=True, slots=True)
class TopStatement:
    """The statement with the largest part of the database's execution time, and what it reads.

    ``share`` of all execution time in the window. ``table`` and ``column``: what an index would be on, None where
    that could not be told. ``rows_read``: by one call; ``rows_returned`` likewise.
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
    """None: not known. The defaults that stand in for it are ``defaults.DEFAULTS``, and are said.

    Of one instance (pod): ``arrival_rate`` (acquires per second, at the peak), ``processes``. Of one process:
    ``workers`` (threads that acquire), ``connections_per_request`` (held at the same time by one of them).
    Of the service: ``instances`` ... ``terminating``, ``throughput``, ``parallelism`` (mean busy connections) and its
    percentiles. Of the database: limits, ``cores``, ``cpu_time`` (of a core, for one transaction). ``surge`` is a
    count and ``surge_share`` a share of the instances: one of the two.
    """

    arrival_rate: Figure | None = None
    hold_time: Figure | None = None
    """Acquire to release, mean, on a database that is not saturated."""
    hold_cv: Figure | None = None
    """Deviation over mean."""
    arrival_cv: Figure | None = None
    """Of the times between arrivals; 1 for independent users."""
    wait_target: Figure | None = None
    """At most one acquire in a hundred waits longer."""
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
    """CONNECTION LIMIT of the service's role, what others of that role take already subtracted."""
    database_limit: Figure | None = None
    pooler_limit: Figure | None = None
    """What a pooler in between lets the service have."""

    cores: Figure | None = None
    cpu_time: Figure | None = None
    capacity: Figure | None = None
    """Connections that the database can use, where somebody knows it."""
    saturated_throughput: Figure | None = None
    """The best throughput seen while more connections did not help any more."""
    parallel_workers: Figure | None = None
    """Mean parallel workers of a running query."""
    is_burstable: bool = False
    """The instance's processor has credits: what was measured with them is not what is left without."""

    connect_time: Figure | None = None
    failover_target: Figure | None = None
    """Connections older than this must not survive, so that a failover or a new replica is taken up."""
    request_timeout: Figure | None = None
    probe_timeout: Figure | None = None
    network_idle_limit: Figure | None = None
    """Shortest idle time after which a load balancer, NAT or firewall on the way drops a connection."""
    session_idle_limit: Figure | None = None
    """idle_session_timeout of the server."""
    credential_lifetime: Figure | None = None
    connection_age_limit: Figure | None = None
    """After which something on the way cuts every connection."""
    burst_gap: Figure | None = None
    """95th percentile of the time between two bursts."""

    throughput: Figure | None = None
    parallelism: Figure | None = None
    """As sampled from the list of backends."""
    parallelism_counted: Figure | None = None
    """The same from the server's counters of time, or from the pools' own."""
    parallelism_p95: Figure | None = None
    parallelism_p99: Figure | None = None
    parallelism_max: Figure | None = None
    wait_time: Figure | None = None
    """Mean wait of an acquire, where pools tell it."""
    current_max_open: Figure | None = None
    """Of each process."""
    observed_at: str | None = None
    window: float | None = None
    samples: int = 0
    effective_samples: float | None = None
    method: str = ""

    database_cpu: Figure | None = None
    """Share of all its cores that the database keeps busy."""
    lock_share: Figure | None = None
    """Of active samples, those that wait for what another transaction holds (Lock)."""
    contention_share: Figure | None = None
    """Of active samples, those that wait for any lock: another transaction's, or within the server (LWLock)."""
    transaction_idle_share: Figure | None = None
    """Of the hold time, what is spent idle in a transaction."""
    censored_share: Figure | None = None
    """Of the samples, those with every connection of a pool in use."""
    is_stats_reset: bool = False
    is_behind_pooler: bool = False
    is_stationary: bool | None = None
    """Whether the load has no swings longer than a hundred holds; None: not looked at."""
    top_statement: TopStatement | None = None
    windows: tuple[Window, ...] = ()
    sweep: tuple[SweepPoint, ...] = ()

    def with_(self, **changes: Any) -> "Figures":
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Figures":
        figures: Figures = from_dict(cls, values)
        return figures


LEAST_RATE = 1e-6
"""Transactions per second, one in eleven days, below which a throughput tells nothing of a hold."""


def estimate_hold(figures: Figures) -> Figure | None:
    """Mean hold: as given or measured; else busy over throughput in the least crowded windows, or altogether."""
    if figures.hold_time is not None:
        return figures.hold_time
    shortest = find_shortest_hold(figures.windows, figures.cores)
    if shortest is not None:
        return Figure(shortest, "measured")
    if figures.parallelism is not None and figures.throughput is not None and figures.throughput.value >= LEAST_RATE:
        return Figure(figures.parallelism.value / figures.throughput.value, figures.parallelism.origin)
    return None


def find_shortest_hold(windows: Sequence[Window], cores: Figure | None) -> float | None:
    """Mean hold in the least crowded windows (5th percentile of busy / throughput), seconds; None without any.

    Where the processors were watched, only windows that left them half idle count: a hold measured under saturation
    only echoes the number of clients. The idea is that of TCP Vegas' shortest round trip.
    """
    holds = sorted(
        window.busy / window.throughput
        for window in windows
        if window.throughput > 0
        and window.busy > 0
        and (window.database_cpu is None or cores is None or window.database_cpu < 0.5 * cores.value)
    )
    return holds[len(holds) // 20] if holds else None
