"""Puts the figures of a finished run together as a Run."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf

from poolctl.engines.model.counts import FULL_HISTOGRAMS
from poolctl.engines.model.plan import ModelInstance
from poolctl.pool import PoolStats
from poolctl.scenario.run import ObservedServer, Run, Summary, Tally, TimelinePoint, summarize
from poolctl.scenario.scenario import Scenario


@dataclass(frozen=True, slots=True)
class KernelOutcome:
    """What either kernel hands over at the end of a run. Lists go by instance where nothing else is said."""

    scenario: Scenario
    windows: list[ModelInstance]
    now: float
    timeline: list[TimelinePoint]
    tallies: list[Tally]
    """By counter; ``late``: of each, how many were released after the load ended."""
    late: list[int]
    counter_of: list[int]
    ended: list[PoolStats]
    warm: list[PoolStats | None]
    reported_at: list[float]
    part_peaks: list[tuple[int, int]]
    """Of each service, most open and most in use at once."""
    work_done: float
    peak_slots: int
    refused: int
    is_stuck: bool
    failure: str | None
    why_cut_off: str
    kernel: str


def result(figures: KernelOutcome, *, interrupted: bool) -> Run:
    """Return the Run that the figures describe."""
    scenario = figures.scenario
    for tally, late in zip(figures.tallies, figures.late, strict=True):
        tally.released = tally.use_time.count
        tally.released_in_time = tally.released - late
        # Every acquire that ended left one wait behind.
        tally.acquired = tally.wait_time.count - tally.timed_out - tally.refused - tally.failed
    every = range(len(figures.windows))
    notes = []
    if len(every) > FULL_HISTOGRAMS:
        notes.append(f"figures of single instances are kept for up to {FULL_HISTOGRAMS} of them")
    instances = () if notes else tuple(_summary(figures, [number], None) for number in every)
    if figures.is_stuck:
        notes.append(f"at {figures.now:.3f} s every request waited and nothing could ever happen again")
    return Run(
        engine="model",
        scenario=scenario,
        seed=scenario.load.seed,
        summary=_summary(figures, every, _server(figures)),
        timeline=tuple(figures.timeline),
        instances=instances,
        interrupted=interrupted,
        failure=figures.failure,
        notes=tuple(notes),
        services=_services(figures),
        kernel=figures.kernel,
        cut_off=figures.why_cut_off,
    )


def _services(figures: KernelOutcome) -> tuple[tuple[str, Summary], ...]:
    found = []
    for number, (service, peaks) in enumerate(zip(figures.scenario.services, figures.part_peaks, strict=False)):
        chosen = [at for at, window in enumerate(figures.windows) if window.part == number]
        found.append((service.name, _summary(figures, chosen, None, peaks)))
    return tuple(found)


def _server(figures: KernelOutcome) -> ObservedServer:
    database = figures.scenario.database
    is_known = database.cores is not None and figures.now > 0
    return ObservedServer(
        max_connections=database.max_connections,
        usable=database.max_connections - database.reserved,
        peak_connections=figures.peak_slots,
        refused=figures.refused,
        cpu=figures.work_done / figures.now if is_known else None,
        cores=database.cores,
    )


def _summary(
    figures: KernelOutcome, chosen: Iterable[int], server: ObservedServer | None, peaks: tuple[int, int] | None = None
) -> Summary:
    """Sum up the ``chosen`` instances. ``peaks``: most open and in use at once of them; None: as in the timeline."""
    numbers = list(chosen)
    timeline = figures.timeline
    if peaks is not None:
        timeline = [replace(timeline[-1], open=peaks[0], in_use=peaks[1])]
    reported = [figures.reported_at[number] for number in numbers]
    windows = [figures.windows[number] for number in numbers]
    ends = [
        min(at, window.ends_at if window.ends_at < inf else at) for at, window in zip(reported, windows, strict=True)
    ]
    begin = min(max(window.begins_at, figures.scenario.load.warmup) for window in windows)
    return summarize(
        [figures.tallies[counter] for counter in sorted({figures.counter_of[number] for number in numbers})],
        [figures.ended[number] for number in numbers],
        warm=[figures.warm[number] for number in numbers],
        load_time=max(max(ends) - begin, 0.0),
        ended_at=max(max(reported) - begin, 0.0),
        timeline=timeline,
        server=server,
    )
