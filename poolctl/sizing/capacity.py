"""Capacity: how many connections the database can use, all of them together, whoever holds them.

Decides which of what is known says most: somebody's own figure, a sweep, the best throughput times the shortest hold,
a model of the processors, or nothing. Fewer connections leave the database idle, more of them wait inside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, fsum, log
from typing import Literal

from poolctl.sizing.figures import Figure, Figures, Window, estimate_hold, find_shortest_hold
from poolctl.sizing.knee import SHARE, Confidence, Knee, find_knee
from poolctl.sizing.queueing import closed_knee
from poolctl.sizing.sweep_table import SweepPoint
from poolctl.units import format_duration

Method = Literal["given", "sweep", "bandwidth-delay", "closed-loop", "busy-share", "cores", "unknown"]

LOCK_SHARE = 0.20
"""Of active samples waiting for locks, from which on more connections lengthen the queue for the lock."""
VARIED = 4.0
"""Squared coefficient of variation of the hold from which on a few long requests block many short ones."""
CORES_FACTOR = 4
"""Connections for each core where nothing but the cores is known: too few for anything with round trips."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """``value`` None: unknown. ``at_least``: more may be useful. ``most``: never this many in total, because
    throughput falls beyond it (None: no such bound is known). ``interval``: 90 %, None where it cannot be told.
    """

    value: int | None
    method: Method
    confidence: Confidence
    at_least: bool = False
    most: int | None = None
    interval: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    knee: Knee | None = None

    @property
    def is_known(self) -> bool:
        """Whether it says something of this database: a multiple of its cores alone does not."""
        return self.value is not None and self.method not in ("cores", "unknown")


def estimate_capacity(figures: Figures) -> Capacity:
    """The best answer that ``figures`` allow. Raises BadInput for a sweep in which nothing got done."""
    if figures.capacity is not None:
        value = max(1, figures.capacity.count)
        return Capacity(value, "given", "high" if figures.capacity.origin == "given" else "medium")
    if len({point.connections for point in figures.sweep}) >= 2:
        return _from_sweep(figures)
    found = _from_saturation(figures) or _from_processors(figures)
    if found is None:
        if figures.cores is None:
            note = "Nothing is known of what the database can use: run a sweep, or give --cores and the hold time"
            return Capacity(None, "unknown", "low", notes=(note,))
        value = CORES_FACTOR * figures.cores.count
        note = f"{CORES_FACTOR} x cores for want of a sweep or of the processor time of a transaction"
        found = Capacity(value, "cores", "low", at_least=True, notes=(note,))
    return _correct(found, figures)


def capacity_from_sweep(points: Sequence[SweepPoint]) -> Capacity:
    """The capacity that a sweep shows, by itself."""
    knee = find_knee(points)
    notes = []
    if knee.at_least:
        notes.append(f"At least: throughput still rises at {knee.peak} connections, the most that were swept")
    if knee.at_most:
        notes.append(f"At most: {knee.connections} are the fewest that were swept")
    if knee.cliff is not None:
        fall = f"throughput falls by {knee.cliff.fall:.0%} from {knee.peak} to {knee.cliff.connections} connections"
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
    # Throughput does not show what varied holds do to each other; but outside the sweep nothing is known.
    value = next((n for n in swept if wanted <= n <= found.knee.peak), found.value)
    if value > found.value:
        note = f"{value} rather than {found.value}: long requests among many short ones need 3 x cores"
        found = replace(found, value=value, notes=(*found.notes, note))
    return _limit_confidence(found, figures)


def _from_saturation(figures: Figures) -> Capacity | None:
    """Twice the best throughput times the shortest hold: TCP's bandwidth-delay product, and as much again in line.

    On twelve measured curves it reaches 0.83 to 1.00 of the best throughput.
    """
    best, hold = figures.saturated_throughput, figures.hold_time
    if best is None:
        best = _saturated(figures.windows)
        shortest = find_shortest_hold(figures.windows, figures.cores)
        hold = hold or (None if shortest is None else Figure(shortest, "measured"))
    if best is None or hold is None or hold.value <= 0:
        return None
    product = best.value * hold.value
    note = f"2 x {best.value:,.0f}/s at best x {format_duration(hold.value)} of hold at low load"
    return Capacity(
        max(1, ceil(2 * product - 1e-9)),
        "bandwidth-delay",
        "medium",
        interval=(max(1, ceil(product - 1e-9)), ceil(2.5 * product)),
        notes=(note,),
    )


def _saturated(windows: Sequence[Window]) -> Figure | None:
    """The best throughput of the windows, if it had stopped growing with the connections that were busy."""
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
    mean_x = fsum(x for x, _ in points) / len(points)
    mean_y = fsum(y for _, y in points) / len(points)
    return fsum((x - mean_x) * (y - mean_y) for x, y in points) / fsum((x - mean_x) ** 2 for x, _ in points)


def _from_processors(figures: Figures) -> Capacity | None:
    """Where a closed loop of clients, that compute for a part of their hold and wait for the rest of it, reaches
    97 % of what the cores can do."""
    if figures.cores is None or figures.cores.count < 1:
        return None
    cores = figures.cores.count
    hold = estimate_hold(figures)
    if figures.cpu_time is not None and hold is not None and figures.cpu_time.value > 0:
        work, outside = figures.cpu_time.value, max(0.0, hold.value - figures.cpu_time.value)
        note = (
            f"{cores} cores, {format_duration(work)} of processor and {format_duration(outside)} elsewhere for each "
            f"transaction: {cores} x (S + Z) / S = {cores * (work + outside) / work:.1f} keep them busy at best"
        )
        value = closed_knee(cores, work, outside, SHARE)
        few = max(1, ceil(cores * (work + outside) / work))
        return Capacity(value, "closed-loop", "medium", interval=(min(few, value), 2 * value), notes=(note,))
    if figures.transaction_idle_share is not None and figures.transaction_idle_share.value < 1:
        busy = 1 - figures.transaction_idle_share.value
        value = closed_knee(cores, busy, 1 - busy, SHARE)
        note = f"{cores} cores, and {busy:.0%} of the hold spent in statements, all of it taken for processor time"
        return Capacity(value, "busy-share", "low", at_least=True, notes=(note,))
    return None


def _correct(found: Capacity, figures: Figures) -> Capacity:
    value, notes = found.value or 1, list(found.notes)
    contention = figures.contention_share.value if figures.contention_share is not None else 0.0
    wanted = _count_for_variation(figures)
    if wanted > value and contention <= LOCK_SHARE:
        notes.append(f"{wanted} rather than {value}: long requests among many short ones need 3 x cores")
        value = wanted
    if figures.parallel_workers is not None and figures.parallel_workers.value > 0:
        value = max(1, round(value / (1 + figures.parallel_workers.value)))
        notes.append(f"Divided by {1 + figures.parallel_workers.value:.1f}: queries run with parallel workers")
    most, at_least = None, found.at_least
    if contention > LOCK_SHARE:
        reached = figures.parallelism_p99 or figures.parallelism_max or figures.parallelism
        if reached is not None:
            most = max(1, ceil(reached.value))
            value, at_least = min(value, most), False
        notes.append(f"Contention: {contention:.0%} of active backends wait for locks, so never more")
    return _limit_confidence(replace(found, value=value, most=most, at_least=at_least, notes=tuple(notes)), figures)


def _count_for_variation(figures: Figures) -> int:
    """3 x cores where holds vary a lot and the cores are known (limited processor sharing; Schroeder et al. 2006)."""
    cv = figures.hold_cv
    if cv is None or cv.origin == "assumed" or cv.value**2 <= VARIED or figures.cores is None:
        return 0
    return 3 * figures.cores.count


def _limit_confidence(found: Capacity, figures: Figures) -> Capacity:
    if not figures.is_burstable:
        return found
    note = "The instance has processor credits: without them it has less capacity than this"
    confidence: Confidence = "medium" if found.confidence == "high" else found.confidence
    return replace(found, confidence=confidence, notes=(*found.notes, note))
