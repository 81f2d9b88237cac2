"""Capacity: the number of connections that the database can use, summed over all clients.

Decides which evidence counts most: a figure that the user gave, a sweep, the best throughput times the shortest hold, a
model of the processors, or nothing. With fewer connections the database is partly idle; with more, they wait inside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, fsum, log
from typing import Literal

from poolctl.sizing.figures import Figure, Figures, Window, estimate_hold, find_shortest_hold
from poolctl.sizing.knee import SHARE, Knee, KneeConfidence, find_knee
from poolctl.sizing.queueing import closed_knee
from poolctl.sizing.sweep_table import SweepPoint
from poolctl.units import format_duration, percent

Method = Literal["given", "sweep", "bandwidth-delay", "closed-loop", "busy-share", "cores", "unknown"]

LOCK_SHARE = 0.20
"""Share of the active samples waiting for locks, above which more connections only lengthen the lock queue."""
VARIED = 4.0
"""Squared coefficient of variation of the hold, above which a few long requests block many short ones."""
CORES_FACTOR = 4
"""Connections for each core where only the cores are known: too few for anything with round trips."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """``value`` None: unknown. ``at_least`` True: more may be useful.

    ``most`` is the total above which throughput falls; None: no such limit is known. ``interval`` holds the 5th and
    95th percentile; None where it cannot be estimated.
    """

    value: int | None
    method: Method
    confidence: KneeConfidence
    at_least: bool = False
    most: int | None = None
    interval: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    knee: Knee | None = None

    @property
    def is_known(self) -> bool:
        """True if it describes this database. A multiple of its cores does not, nor does the share of a hold that is
        spent in statements, where their processor time is not known: both are lower limits."""
        return self.value is not None and self.method not in ("busy-share", "cores", "unknown")


def estimate_capacity(figures: Figures) -> Capacity:
    """Return the best estimate that ``figures`` allow. Raises BadInput for a sweep without any throughput."""
    if figures.capacity is not None:
        value = max(1, figures.capacity.count)
        return Capacity(value, "given", "high" if figures.capacity.origin == "given" else "medium")
    if len({point.connections for point in figures.sweep}) >= 2:
        return _from_sweep(figures)
    found = _from_saturation(figures) or _from_processors(figures)
    if found is None:
        if figures.cores is None:
            note = "The capacity of the database is not known: run a sweep, or give --cores and the hold time"
            return Capacity(None, "unknown", "low", notes=(note,))
        value = CORES_FACTOR * figures.cores.count
        note = f"{CORES_FACTOR} x cores, because neither a sweep nor the processor time of a transaction is known"
        found = Capacity(value, "cores", "low", at_least=True, notes=(note,))
    return _correct(found, figures)


def capacity_from_sweep(points: Sequence[SweepPoint]) -> Capacity:
    """Return the capacity that a sweep shows by itself. Raises BadInput for a sweep without any throughput."""
    knee = find_knee(points)
    notes = []
    if knee.at_least:
        notes.append(f"At least: throughput still rises at {knee.peak} connections, the most in the sweep")
    if knee.at_most:
        notes.append(f"At most: {knee.connections} are the fewest in the sweep")
    if knee.cliff is not None:
        fall = (
            f"throughput falls by {percent(knee.cliff.fall)} from {knee.peak} to {knee.cliff.connections} connections"
        )
        notes.append(f"Contention cliff: {fall}")
    return Capacity(
        knee.connections,
        "sweep",
        knee.confidence,
        at_least=knee.at_least,
        most=knee.peak,
        interval=knee.interval,
        notes=tuple(notes),
        knee=knee,
    )


def _from_sweep(figures: Figures) -> Capacity:
    found = capacity_from_sweep(figures.sweep)
    wanted = _count_for_variation(figures)
    if found.knee is None or found.value is None or found.knee.cliff is not None or wanted <= found.value:
        return _limit_confidence(found, figures)
    swept = sorted({point.connections for point in figures.sweep})
    # Throughput does not show how long holds delay short ones. Outside the sweep nothing is known, so stay within it.
    value = next((n for n in swept if wanted <= n <= found.knee.peak), found.value)
    if value > found.value:
        note = f"{value} instead of {found.value}: long requests among many short ones need 3 x cores"
        found = replace(found, value=value, notes=(*found.notes, note))
    return _limit_confidence(found, figures)


def _from_saturation(figures: Figures) -> Capacity | None:
    """Estimate twice the best throughput times the shortest hold; None if the figures show no saturation.

    Throughput times hold is the bandwidth-delay product of TCP: connections that are always at work. As many again keep
    a next request ready. On twelve measured curves this reaches 0.83 to 1.00 of the best throughput.
    """
    best, hold = figures.saturated_throughput, figures.hold_time
    if best is None:
        best = _saturated(figures.windows)
        shortest = find_shortest_hold(figures.windows, figures.cores)
        hold = hold or (None if shortest is None else Figure(shortest, "measured"))
    if best is None or hold is None or hold.value <= 0:
        return None
    product = best.value * hold.value
    note = f"2 x best throughput {best.value:,.0f}/s x hold time {format_duration(hold.value)} at low load"
    return Capacity(
        max(1, ceil(2 * product - 1e-9)),
        "bandwidth-delay",
        "medium",
        interval=(max(1, ceil(product - 1e-9)), ceil(2.5 * product)),
        notes=(note,),
    )


def _saturated(windows: Sequence[Window]) -> Figure | None:
    """Find the best throughput of the windows, if it no longer grew with the number of busy connections; else None."""
    usable = [window for window in windows if window.busy > 0 and window.throughput > 0]
    shortest = find_shortest_hold(usable, None)
    if len(usable) < 6 or shortest is None:
        return None
    crowded = [w for w in usable if w.busy / w.throughput >= 1.5 * shortest]
    if len(crowded) < 3 or max(w.busy for w in crowded) < 1.2 * min(w.busy for w in crowded):
        return None
    slope = _slope([(log(w.busy), log(w.throughput)) for w in crowded])
    return Figure(max(w.throughput for w in crowded), "measured") if slope < 0.3 else None


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line with the least squares through ``points``."""
    mean_x = fsum(x for x, _ in points) / len(points)
    mean_y = fsum(y for _, y in points) / len(points)
    return fsum((x - mean_x) * (y - mean_y) for x, y in points) / fsum((x - mean_x) ** 2 for x, _ in points)


def _from_processors(figures: Figures) -> Capacity | None:
    """Compute how many clients keep the cores 97 % busy, where each uses a core for a part of its hold and waits
    otherwise.

    The closed loop of ``queueing.closed_throughput``. None where cores or the processor time of a hold are not known.
    """
    if figures.cores is None or figures.cores.count < 1:
        return None
    cores = figures.cores.count
    hold = estimate_hold(figures)
    if figures.cpu_time is not None and hold is not None and figures.cpu_time.value > 0:
        work, outside = figures.cpu_time.value, max(0.0, hold.value - figures.cpu_time.value)
        note = (
            f"{cores} cores; a transaction uses one for {format_duration(work)} and waits {format_duration(outside)}: "
            f"{cores} x (S + Z) / S = {cores * (work + outside) / work:.1f} keep them busy at best"
        )
        value = closed_knee(cores, work, outside, SHARE)
        few = max(1, ceil(cores * (work + outside) / work))
        return Capacity(value, "closed-loop", "medium", interval=(min(few, value), 2 * value), notes=(note,))
    if figures.transaction_idle_share is not None and figures.transaction_idle_share.value < 1:
        busy = 1 - figures.transaction_idle_share.value
        value = closed_knee(cores, busy, 1 - busy, SHARE)
        note = f"{cores} cores, and {percent(busy)} of the hold time in statements, all of it counted as processor time"
        return Capacity(value, "busy-share", "low", at_least=True, notes=(note,))
    return None


def _correct(found: Capacity, figures: Figures) -> Capacity:
    """Adjust an estimate for varied holds, parallel workers and lock contention."""
    value, notes = found.value or 1, list(found.notes)
    contention = figures.contention_share.value if figures.contention_share is not None else 0.0
    wanted = _count_for_variation(figures)
    if wanted > value and contention <= LOCK_SHARE:
        notes.append(f"{wanted} instead of {value}: long requests among many short ones need 3 x cores")
        value = wanted
    if figures.parallel_workers is not None and figures.parallel_workers.value > 0:
        value = max(1, round(value / (1 + figures.parallel_workers.value)))
        notes.append(f"Divided by {1 + figures.parallel_workers.value:.1f}: each query runs with parallel workers")
    most, at_least = None, found.at_least
    if contention > LOCK_SHARE:
        reached = figures.parallelism_p99 or figures.parallelism_max or figures.parallelism
        if reached is not None:
            most = max(1, ceil(reached.value))
            value, at_least = min(value, most), False
        notes.append(
            f"Contention: {percent(contention)} of active backends wait for locks, so more connections would not help"
        )
    return _limit_confidence(replace(found, value=value, most=most, at_least=at_least, notes=tuple(notes)), figures)


def _count_for_variation(figures: Figures) -> int:
    """Return 3 x cores where hold times vary a lot and the cores are known, else 0.

    With limited processor sharing, long requests then no longer block short ones (Schroeder et al. 2006).
    """
    cv = figures.hold_cv
    if cv is None or cv.origin == "assumed" or cv.value**2 <= VARIED or figures.cores is None:
        return 0
    return 3 * figures.cores.count


def _limit_confidence(found: Capacity, figures: Figures) -> Capacity:
    """Reduce the confidence for a processor with credits."""
    if not figures.is_burstable:
        return found
    note = "The processor has credits: when they are used up, the capacity is lower than this"
    confidence: KneeConfidence = "medium" if found.confidence == "high" else found.confidence
    return replace(found, confidence=confidence, notes=(*found.notes, note))
