"""Puts a finished kernel's numbers together as a Run."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from poolctl.engines.model.clock import Kernel
from poolctl.engines.model.compiled import Compiled
from poolctl.engines.model.state import FULL_HISTOGRAMS
from poolctl.scenario.run import ObservedServer, Run, Summary, TimelinePoint, summarize


def result(kernel: Kernel | Compiled, interrupted: bool) -> Run:
    kernel.finish()
    scenario = kernel.scenario
    for number, tally in enumerate(kernel.tallies):
        tally.released = tally.use_time.count
        tally.released_in_time = tally.released - kernel.late[number]
        # Every acquire that ended left one wait behind.
        tally.acquired = tally.wait_time.count - tally.timed_out - tally.refused - tally.failed
    every = range(len(kernel.pods))
    notes = []
    if len(every) > FULL_HISTOGRAMS:
        notes.append(f"figures of single instances are kept for up to {FULL_HISTOGRAMS} of them")
    instances = () if notes else tuple(_summary(kernel, [p], None) for p in every)
    if kernel.stuck:
        notes.append(f"at {kernel.now:.3f} s everybody waited and nothing could ever happen again")
    return Run(
        engine="model",
        scenario=scenario,
        seed=scenario.load.seed,
        summary=_summary(kernel, every, _server(kernel)),
        timeline=tuple(kernel.timeline),
        instances=instances,
        interrupted=interrupted,
        failure=kernel.failure,
        notes=tuple(notes),
        services=_services(kernel),
        kernel="plain" if isinstance(kernel, Kernel) else "compiled",
        cut_off=kernel.why_cut_off,
    )


def _services(kernel: Kernel | Compiled) -> tuple[tuple[str, Summary], ...]:
    found = []
    for number, (service, peaks) in enumerate(zip(kernel.scenario.services, kernel.part_peaks, strict=False)):
        chosen = [p for p, pod in enumerate(kernel.pods) if pod.part == number]
        found.append((service.name, _summary(kernel, chosen, None, peaks)))
    return tuple(found)


def _server(kernel: Kernel | Compiled) -> ObservedServer:
    database = kernel.scenario.database
    return ObservedServer(
        max_connections=database.max_connections,
        usable=database.max_connections - database.reserved,
        peak_connections=kernel.peak_slots,
        refused=kernel.refused,
        cpu=kernel.work_done_total / kernel.now if database.cores is not None and kernel.now > 0 else None,
        cores=database.cores,
    )


def _summary(
    kernel: Kernel | Compiled,
    chosen: Iterable[int],
    server: ObservedServer | None,
    peaks: tuple[int, int] | None = None,
) -> Summary:
    """``peaks``: most open and in use at once of the ``chosen`` pods; None: as in the timeline."""
    pods = list(chosen)
    timeline: list[TimelinePoint] = kernel.timeline
    if peaks is not None:
        timeline = [replace(timeline[-1], open=peaks[0], in_use=peaks[1])]
    told = [kernel.p_told[p] for p in pods]
    ends = [
        min(at, kernel.pods[p].ends_at if kernel.pods[p].ends_at < inf else at)
        for p, at in zip(pods, told, strict=True)
    ]
    begin = min(max(kernel.pods[p].begins_at, kernel.warmup) for p in pods)
    return summarize(
        [kernel.tallies[number] for number in sorted({kernel.p_tally[p] for p in pods})],
        [ended for p in pods if (ended := kernel.p_ended[p]) is not None],
        warm=[kernel.p_warm[p] for p in pods],
        load_time=max(max(ends) - begin, 0.0),
        ended_at=max(max(told) - begin, 0.0),
        timeline=timeline,
        server=server,
    )
