"""Demand: the number of connections that one process needs, so that few acquires wait.

Sized for the peak, not for the mean: where a burst lasts longer than a hold, a pool that fits the mean queues during
the whole burst.
"""

from dataclasses import dataclass
from math import ceil

from poolctl.sizing.figures import Figure, Figures, Origin, estimate_hold
from poolctl.sizing.knee import KneeConfidence
from poolctl.sizing.queueing import servers_for_wait

LATE_SHARE = 0.01
"""Share of the acquires that may wait longer than the target: the target is a 99th percentile."""


@dataclass(frozen=True, slots=True)
class Demand:
    """``value`` None: unknown, because neither rate and hold nor the parallelism are known.

    ``load`` is the erlangs offered to one process at the peak. ``shared`` is what the whole fleet would need with one
    common pool; ``partitioned`` is what it needs with a pool in each process. ``hold_time`` None: only the parallelism
    is known, and ``value`` lets 99 of 100 acquires start without any wait.
    """

    value: int | None
    load: float | None
    hold_time: float | None
    wait_target: float
    arrival_c2: float
    hold_c2: float
    shared: int | None
    shared_load: float | None
    partitioned: int | None
    confidence: KneeConfidence
    method: str
    origin: Origin | None
    is_measured: bool
    """True if a part of it was measured, so that doubts about the measurement apply."""
    per: str = "process"


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """The load of one process in erlangs, and the figures behind it."""

    load: float
    hold_time: float | None
    parts: tuple[Figure, ...]
    method: str

    @property
    def origin(self) -> Origin:
        """The least certain origin of its parts."""
        origins: tuple[Origin, ...] = ("measured", "given", "assumed")
        return max((part.origin for part in self.parts), key=origins.index)

    @property
    def is_measured(self) -> bool:
        """True if a part was measured."""
        return any(part.origin == "measured" for part in self.parts)


def estimate_demand(figures: Figures) -> Demand:
    """Return what each process needs, from ``figures`` with their defaults filled in."""
    target = figures.wait_target.value if figures.wait_target is not None else 0.0
    arrival_c2 = figures.arrival_cv.value**2 if figures.arrival_cv is not None else 1.0
    hold_c2 = figures.hold_cv.value**2 if figures.hold_cv is not None else 1.0
    offered = estimate_load(figures)
    if offered is None:
        method = "unknown: give --arrival-rate and --hold-time, or measure"
        return Demand(None, None, None, target, arrival_c2, hold_c2, None, None, None, "low", method, None, False)
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    pools = count_pools(figures)

    def needed(load: float) -> int:
        if offered.hold_time is None:
            return max(each, servers_for_wait(load, 1.0, 0.0, share=LATE_SHARE))
        found = servers_for_wait(
            load, offered.hold_time, target, share=LATE_SHARE, arrival_c2=arrival_c2, hold_c2=hold_c2
        )
        return max(each, found)

    value = needed(offered.load)
    return Demand(
        value=value,
        load=offered.load,
        hold_time=offered.hold_time,
        wait_target=target,
        arrival_c2=arrival_c2,
        hold_c2=hold_c2,
        shared=needed(offered.load * pools),
        shared_load=offered.load * pools,
        partitioned=value * pools,
        confidence=_decide_confidence(figures, offered),
        method=offered.method,
        origin=offered.origin,
        is_measured=offered.is_measured,
    )


def count_pools(figures: Figures) -> int:
    """Return the number of processes in the usual fleet."""
    instances = figures.instances.count if figures.instances is not None else 1
    processes = figures.processes.count if figures.processes is not None else 1
    return max(1, instances) * max(1, processes)


def estimate_load(figures: Figures) -> OfferedLoad | None:
    """Return the load of one process, or None if it is not known.

    A given rate times the hold time comes first, then the measured throughput times a given hold time, then the busy
    connections of the busiest window, then throughput times hold time, then the mean number of busy connections. What
    the server saw is longer by ``held_outside``. If a pool was full and its waits are known, the wait is added to the
    hold: by Little's law that is how many connections would be in use if there were room.
    """
    pools = count_pools(figures)
    hold = estimate_hold(figures)
    per_instance = max(1, figures.processes.count if figures.processes is not None else 1)
    if figures.arrival_rate is not None and hold is not None:
        rate = figures.arrival_rate.value / per_instance
        return OfferedLoad(rate * hold.value, hold.value, (figures.arrival_rate, hold), "arrival rate x hold time")
    if figures.throughput is not None and hold is not None and (not figures.windows or hold.origin == "given"):
        held = hold.value
        method = "throughput x hold time"
        if _is_censored(figures) and figures.wait_time is not None:
            held += figures.wait_time.value * _get_waiting_demand(figures)
            method = "throughput x (hold time + wait time), for the pool was full"
        busiest = _find_peak_rate(figures)
        return OfferedLoad(busiest * held / pools, hold.value, (figures.throughput, hold), method)
    peak = _find_peak(figures)
    if peak is None:
        return None
    busy, method = peak
    load, parts = busy.value / pools, (busy,)
    if figures.held_outside is not None:
        load *= 1.0 + figures.held_outside.value
    waiting = _find_waiting(figures) if _is_censored(figures) else None
    if waiting is not None:
        method += ", and what waited for one"
    return OfferedLoad(load + (waiting or 0.0) / pools, hold.value if hold is not None else None, parts, method)


def _find_waiting(figures: Figures) -> float | None:
    """Return how many of the clients that waited on average would be in use if there was room; None: not known.

    By Little's law, else as the pools report it.
    """
    share = _get_waiting_demand(figures)
    if figures.wait_time is not None and figures.throughput is not None:
        return figures.throughput.value * figures.wait_time.value * share
    return None if figures.waiting is None else figures.waiting.value * share


def _get_waiting_demand(figures: Figures) -> float:
    return 1.0 if figures.waiting_demand is None else figures.waiting_demand.value


def _find_peak_rate(figures: Figures) -> float:
    """Return the throughput of the service in its busiest window (99th percentile of windows), else the mean."""
    rates = sorted(window.throughput for window in figures.windows)
    if rates:
        return rates[min(len(rates) - 1, ceil(0.99 * len(rates)) - 1)]
    return figures.throughput.value if figures.throughput is not None else 0.0


def _find_peak(figures: Figures) -> tuple[Figure, str] | None:
    """Return the busy connections of the service in its busiest window (99th percentile), else their mean."""
    busy = sorted(window.busy for window in figures.windows)
    if busy:
        at = min(len(busy) - 1, ceil(0.99 * len(busy)) - 1)
        return Figure(busy[at], "measured"), "busy connections in the busiest window"
    if figures.parallelism is not None:
        return figures.parallelism, "mean busy connections"
    return None


def _is_censored(figures: Figures) -> bool:
    return figures.censored_share is not None and figures.censored_share.value > 0.01


def is_lower_limit(figures: Figures) -> bool:
    """Return True if a pool was full and how many clients waited for it is not known: the demand is larger."""
    return _is_censored(figures) and _find_waiting(figures) is None


def _decide_confidence(figures: Figures, offered: OfferedLoad) -> KneeConfidence:
    """Return high where rate, hold and its variation are known."""
    is_varied = figures.hold_cv is not None and figures.hold_cv.origin != "assumed"
    return "high" if is_varied and offered.hold_time is not None else "medium"
