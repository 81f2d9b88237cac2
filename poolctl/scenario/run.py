"""What happened in a run of either engine: counts, times, errors, a timeline.

Decides what the numbers mean and that they add up. ``Tally`` is what one instance counts while it runs. ``Summary``
is the result for one instance or for all of them. Times are seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from heapq import heapreplace
from typing import Any, Self

from poolctl.pool import Closed, PoolStats
from poolctl.scenario.histogram import Histogram, Times
from poolctl.scenario.scenario import Scenario
from poolctl.units import percent


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """An error. ``origin``: pool, server or pooler. ``name``: its class in Python. ``sqlstate``: None if unknown."""

    origin: str
    name: str
    sqlstate: str | None
    message: str


@dataclass(frozen=True, slots=True)
class ObservedError:
    """How often an error occurred, and when first."""

    kind: ErrorKind
    count: int
    first_at: float


class Tally:
    """What one instance counts while it runs. Requests that are due before the end of the warm-up are not counted.

    Each acquire ends in exactly one way, so ``offered == acquired + timed_out + refused + failed + unfinished``,
    and ``acquired == released + leaked + in use at the end``.
    """

    __slots__ = (
        "acquired",
        "connect_time",
        "errors",
        "failed",
        "leaked",
        "queued_count",
        "queued_time",
        "refused",
        "released",
        "released_in_time",
        "requests",
        "requests_completed",
        "requests_failed",
        "timed_out",
        "unfinished",
        "unfinished_time",
        "use_time",
        "wait_time",
    )

    def __init__(self) -> None:
        self.acquired = self.released = self.leaked = 0
        self.timed_out = self.refused = self.failed = self.unfinished = 0
        self.released_in_time = 0
        """Released before the load ended: drained requests do not count towards throughput."""
        self.queued_count = 0
        """Acquires that had to queue, also the ones that still wait at the end."""
        self.queued_time = 0.0
        """The time in the queue of the acquires that have left it."""
        self.requests = self.requests_completed = self.requests_failed = 0
        """What the workload asked for: a request may take several acquires, at once or one try after the other."""
        self.wait_time = Histogram()
        self.unfinished_time = Histogram()
        """How long the unfinished acquires had waited when the run ended."""
        self.use_time = Histogram()
        self.connect_time = Histogram()
        self.errors: dict[ErrorKind, tuple[int, float]] = {}

    @property
    def offered(self) -> int:
        """All acquires."""
        return self.acquired + self.timed_out + self.refused + self.failed + self.unfinished

    def error(self, kind: ErrorKind, at: float) -> None:
        """Count one error."""
        count, first_at = self.errors.get(kind, (0, at))
        self.errors[kind] = (count + 1, min(first_at, at))

    def merge(self, other: "Tally") -> None:
        """Add the counts, times and errors of ``other``."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _HISTOGRAMS:
            getattr(self, name).merge(getattr(other, name))
        self.merge_errors(other)

    def merge_errors(self, other: "Tally") -> None:
        """Add the errors of ``other``, and nothing else."""
        for kind, (count, first_at) in other.errors.items():
            known, earliest = self.errors.get(kind, (0, first_at))
            self.errors[kind] = (known + count, min(earliest, first_at))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            **{name: getattr(self, name).to_dict() for name in _HISTOGRAMS},
            "errors": [[asdict(kind), count, first_at] for kind, (count, first_at) in self.errors.items()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` gave."""
        tally = cls()
        for name in _COUNTS:
            setattr(tally, name, values[name])
        for name in _HISTOGRAMS:
            setattr(tally, name, Histogram.from_dict(values[name]))
        tally.errors = {ErrorKind(**kind): (count, first_at) for kind, count, first_at in values["errors"]}
        return tally


_COUNTS = (
    "acquired",
    "released",
    "leaked",
    "timed_out",
    "refused",
    "failed",
    "unfinished",
    "released_in_time",
    "queued_count",
    "queued_time",
    "requests",
    "requests_completed",
    "requests_failed",
)
_HISTOGRAMS = ("wait_time", "unfinished_time", "use_time", "connect_time")


@dataclass(frozen=True, slots=True)
class Connections:
    """What became of server connections.

    The counts are for the whole run, warm-up included, so that ``opened - closed.total == open`` if at the end no
    connection is opening or closing. The averages exclude the warm-up. For several instances the peaks are those of
    their sum, as sampled in the timeline.
    """

    opened: int
    open_failures: int
    closed: Closed
    open: int
    in_use: int
    idle: int
    peak_open: int
    peak_in_use: int
    average_open: float
    average_in_use: float


@dataclass(frozen=True, slots=True)
class ObservedServer:
    """What the server itself reported. None: unknown."""

    max_connections: int | None = None
    usable: int | None = None
    """Connections that ordinary roles can have."""
    peak_connections: int | None = None
    """Most client backends in one sample, without poolctl's own observer."""
    refused: int | None = None
    """Clients refused with SQLSTATE 53300, from the server's log."""
    version: str | None = None
    cpu: float | None = None
    """Processor cores that the server's processes used, on average."""
    cores: int | None = None
    states: dict[str, int] = field(default_factory=dict)
    """Backends of the workload by state and wait event, at the end of the load."""
    scanned: tuple["ScannedTable", ...] = ()
    statements: tuple["Statement", ...] = ()


@dataclass(frozen=True, slots=True)
class ScannedTable:
    """A table that sequential scans have read. ``rows_read``: by these scans, during the run."""

    name: str
    rows: int
    scans: int
    rows_read: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement and its share of the server's execution time (pg_stat_statements)."""

    query: str
    calls: int
    total_time: float
    share: float


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What the workload asked for. ``offered`` differs from the acquires where a request takes more than one."""

    offered: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """One instance, or all of them, in numbers that add up (see Tally)."""

    offered: int
    acquired: int
    released: int
    leaked: int
    timed_out: int
    refused: int
    failed: int
    unfinished: int
    duration: float
    """Length of the load, without warm-up and drain."""
    throughput: float
    """Connections released per second before the load ended."""
    offered_rate: float
    wait_time: Times
    """From wanting a connection (open loop: from the due time) to having it, to the error, or to the end of the run."""
    queued_count: int
    queued_time: float
    use_time: Times
    connections: Connections
    connect_time: Times
    exhausted_at: float | None
    """When the exhaustion began that lasts at the end. If none does: when the pool was exhausted first."""
    recovered_at: float | None
    """When the last exhaustion ended. None: the pool was never exhausted, or is still so at the end."""
    errors: tuple[ObservedError, ...]
    server: ObservedServer | None = None
    requests: RequestCounts = RequestCounts()

    @property
    def exhausted_for_good(self) -> bool:
        """True if the pool is exhausted at the end."""
        return self.exhausted_at is not None and self.recovered_at is None


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """All instances at one instant of the run's clock. ``acquired`` and ``errors`` count from the start.

    ``server_connections``: the client backends that the server reports, None if unknown.
    """

    at: float
    open: int
    in_use: int
    idle: int
    opening: int
    waiting: int
    acquired: int
    errors: int
    server_connections: int | None = None


@dataclass(frozen=True, slots=True)
class Generator:
    """How well poolctl made the load. If poolctl itself was the limit, the run says little about the pool."""

    lag: Times
    """How late requests began after they were due, because poolctl was too slow."""
    cpu: float
    """Share of one processor core used by the busiest instance's process."""
    ideal_wait: float | None = None
    """Mean wait of the same arrivals and use times in the ideal queue (Kiefer-Wolfowitz). None: it does not apply."""
    measured_wait: float | None = None
    """Measured mean wait of the same requests."""

    LAG_LIMIT = 0.005
    CPU_LIMIT = 0.85

    @property
    def bound_by(self) -> tuple[str, ...]:
        """Why poolctl itself was the limit; empty if it was not."""
        reasons = []
        if self.lag.p99 > self.LAG_LIMIT:
            reasons.append(f"requests began {self.lag.p99 * 1e3:.1f} ms late at the 99th percentile")
        if self.cpu > self.CPU_LIMIT:
            reasons.append(f"an instance's process used {percent(self.cpu)} of a core")
        return tuple(reasons)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of a run on a cluster: its share of the load, and how well it was made there.

    ``lag``: as in Generator, the 99th percentile. ``cpu``: as in Generator. ``loss``: why the machine was lost, "": it
    was not; its figures then end with its last report. ``clock_offset``: seconds that its clock is ahead of the
    scheduler's; no figure rests on it. ``start_uncertainty``: seconds that its load may have begun before or after the
    agreed instant.
    """

    name: str
    instances: int
    offered: int
    acquired: int
    lag: float
    cpu: float
    loss: str = ""
    clock_offset: float = 0.0
    start_uncertainty: float = 0.0

    SKEW_LIMIT = 0.05
    """Seconds of either from which a run mentions it."""

    @property
    def is_limit(self) -> bool:
        """True if this machine was too slow for its share."""
        return self.lag > Generator.LAG_LIMIT or self.cpu > Generator.CPU_LIMIT


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``interrupted``: the user ended it early, the numbers are those until then.

    ``failure``: what broke, so that the run ended early or is incomplete; None: nothing did. ``notes``: sentences
    about the run that are no findings, such as what could not be observed.
    """

    engine: str
    scenario: Scenario
    seed: int
    summary: Summary
    timeline: tuple[TimelinePoint, ...]
    instances: tuple[Summary, ...] = ()
    generator: Generator | None = None
    interrupted: bool = False
    failure: str | None = None
    notes: tuple[str, ...] = ()
    services: tuple[tuple[str, Summary], ...] = ()
    """If several services share the server: the name of each, and the summary of all its instances."""
    kernel: str = ""
    """The kernel of a model run: "plain" or "compiled". Both give the same figures."""
    machines: tuple[Machine, ...] = ()
    """The machines of a run on a cluster; none for a run on this machine alone."""
    cut_off: str = ""
    """Why a model run was ended that could never end by itself: "standstill" (no time passes) or "queue" (it grows)."""


def summarize(
    tallies: Iterable[Tally],
    pools: Iterable[PoolStats],
    *,
    load_time: float,
    warm: Iterable[PoolStats | None] = (),
    warm_at: float = 0.0,
    timeline: Iterable[TimelinePoint] = (),
    ended_at: float | None = None,
    server: ObservedServer | None = None,
) -> Summary:
    """Summarize instances together. ``pools``: their snapshots at the end, ``warm``: those at the end of the warm-up.

    ``load_time``: seconds of load without the warm-up. ``warm_at`` and ``ended_at``: when ``warm`` and ``pools`` were
    taken, for the averages; ``ended_at`` None: at the end of the load. ``timeline``: for the peaks of several
    instances; a single one knows its own.
    """
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    stats = list(pools)
    before = [snapshot for snapshot in warm if snapshot is not None]
    span = ended_at - warm_at if ended_at is not None else load_time
    exhausted_at, recovered_at = _find_exhaustion(stats)
    return Summary(
        offered=total.offered,
        acquired=total.acquired,
        released=total.released,
        leaked=total.leaked,
        timed_out=total.timed_out,
        refused=total.refused,
        failed=total.failed,
        unfinished=total.unfinished,
        duration=load_time,
        throughput=total.released_in_time / load_time if load_time > 0 else 0.0,
        offered_rate=total.offered / load_time if load_time > 0 else 0.0,
        wait_time=Times.of(total.wait_time, total.unfinished_time),
        queued_count=total.queued_count,
        queued_time=total.queued_time,
        use_time=Times.of(total.use_time),
        connections=_summarize_connections(stats, before, list(timeline), span),
        connect_time=Times.of(total.connect_time),
        exhausted_at=exhausted_at,
        recovered_at=recovered_at,
        errors=tuple(
            ObservedError(kind, count, first_at)
            for kind, (count, first_at) in sorted(total.errors.items(), key=lambda item: item[1][1])
        ),
        server=server,
        requests=RequestCounts(total.requests, total.requests_completed, total.requests_failed),
    )


def _summarize_connections(
    stats: list[PoolStats], before: list[PoolStats], points: list[TimelinePoint], span: float
) -> Connections:
    """Add up the pools at the end. Averages are over the ``span`` seconds since the snapshots ``before``."""

    def average(name: str) -> float:
        passed = sum(getattr(s, name) for s in stats) - sum(getattr(s, name) for s in before)
        return passed / span if span > 0 else 0.0

    def peak(name: str) -> int:
        own: list[int] = [getattr(s, f"peak_{name}") for s in stats]
        sampled: list[int] = [] if len(own) == 1 else [getattr(point, name) for point in points]
        return max(own + sampled, default=0)

    return Connections(
        opened=sum(s.opened for s in stats),
        open_failures=sum(s.open_failures for s in stats),
        closed=_add_closed(s.closed for s in stats),
        open=sum(s.open for s in stats),
        in_use=sum(s.in_use for s in stats),
        idle=sum(s.idle for s in stats),
        peak_open=peak("open"),
        peak_in_use=peak("in_use"),
        average_open=average("open_time"),
        average_in_use=average("in_use_time"),
    )


def _find_exhaustion(stats: list[PoolStats]) -> tuple[float | None, float | None]:
    """Return ``exhausted_at`` and ``recovered_at`` of Summary for several pools.

    An exhaustion that lasts at the end has no end. Otherwise it is from the first begin to the last end.
    """
    lasting = [s.exhausted_since for s in stats if s.exhausted_since is not None]
    beginnings = lasting or [s.exhausted_at for s in stats if s.exhausted_at is not None]
    ends = [] if lasting else [s.recovered_at for s in stats if s.recovered_at is not None]
    return min(beginnings, default=None), max(ends, default=None)


def _add_closed(parts: Iterable[Closed]) -> Closed:
    total = Closed()
    for part in parts:
        total = replace(total, **{name: getattr(total, name) + getattr(part, name) for name in Closed.__slots__})
    return total


def compute_ideal_waits(due: Iterable[float], use_times: Iterable[float], servers: int) -> list[float]:
    """Compute the waits of the same requests in the ideal first-come-first-served queue with ``servers`` connections.

    ``due`` must ascend. The recursion of Kiefer and Wolfowitz (1955): each request takes the connection that is free
    first. This checks measured waits: any difference is caused by the pool or by poolctl.
    """
    free_at = [0.0] * servers
    waits = []
    for at, use in zip(due, use_times, strict=True):
        start = max(at, free_at[0])
        heapreplace(free_at, start + use)
        waits.append(start - at)
    return waits
