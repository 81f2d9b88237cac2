"""The figures of a live run, put together from what its instances counted.

Decides which part of the run the averages cover, and what is said about the load generator itself.
"""

from collections.abc import Sequence

from poolctl.engines.live.instance_fleet import Instance
from poolctl.engines.live.instance_host import HostMachine
from poolctl.engines.workload import Job
from poolctl.scenario.histogram import Histogram, Times
from poolctl.scenario.run import (
    Generator,
    Machine,
    ObservedError,
    ObservedServer,
    Summary,
    Tally,
    TimelinePoint,
    summarize,
)

SHORTEST_RUN = 0.05
"""Seconds. A shorter run counts as so long where a figure is divided by its length."""


def summarize_instances(
    instances: Sequence[Instance],
    warmup: float,
    *,
    timeline: Sequence[TimelinePoint],
    server: ObservedServer | None,
) -> Summary:
    """Summarize ``instances`` together. Those without a report are left out. ``warmup``: seconds.

    ``server``: what the server itself observed, None: unknown, or this is a single instance.
    """
    spans = [(_find_begin(one, warmup), _find_end(one), one.progress.at) for one in instances if one.progress]
    begin = min((begin for begin, _, _ in spans), default=0.0)
    return summarize(
        [one.progress.tally for one in instances if one.progress],
        [one.progress.stats for one in instances if one.progress],
        warm=[one.progress.warm for one in instances if one.progress],
        load_time=max((end for _, end, _ in spans), default=0.0) - begin,
        ended_at=max((reported_at for _, _, reported_at in spans), default=0.0) - begin,
        timeline=timeline,
        server=server,
    )


def summarize_generator(instances: Sequence[Instance], expected: int) -> Generator:
    """Summarize how well the load was made. ``expected``: the number of instances, lost ones included."""
    lag = Histogram()
    cpu = 0.0
    ideal: list[tuple[float, float]] = []
    for instance in instances:
        progress = instance.progress
        if progress is None or instance.job is None:
            continue
        lag.merge(progress.lag)
        cpu = max(cpu, progress.cpu / max(progress.at - instance.job.begins_at, SHORTEST_RUN))
        if progress.ideal is not None:
            ideal.append(progress.ideal)
    is_complete = len(ideal) == expected
    return Generator(
        lag=Times.of(lag),
        cpu=cpu,
        ideal_wait=sum(wait for wait, _ in ideal) / len(ideal) if is_complete else None,
        measured_wait=sum(wait for _, wait in ideal) / len(ideal) if is_complete else None,
    )


def summarize_machines(instances: Sequence[Instance], machines: Sequence[HostMachine]) -> tuple[Machine, ...]:
    """Summarize what the instances on each of ``machines`` reported, those of a lost machine until then."""
    rows = []
    for machine in machines:
        own = [instances[number] for number in machine.numbers]
        generator = summarize_generator(own, len(own))
        tallies = [one.progress.tally for one in own if one.progress is not None]
        rows.append(
            Machine(
                name=machine.name,
                instances=len(own),
                offered=sum(tally.offered for tally in tallies),
                acquired=sum(tally.acquired for tally in tallies),
                lag=generator.lag.p99,
                cpu=generator.cpu,
                loss=machine.loss,
                clock_offset=machine.clock_offset,
                start_uncertainty=machine.start_uncertainty,
            )
        )
    return tuple(rows)


def collect_errors(instances: Sequence[Instance]) -> list[ObservedError]:
    """Return the errors that ``instances`` have reported so far, each kind once."""
    total = Tally()
    for instance in instances:
        if instance.progress is not None:
            total.merge_errors(instance.progress.tally)
    return [ObservedError(kind, count, first_at) for kind, (count, first_at) in total.errors.items()]


def _job(instance: Instance) -> Job:
    assert instance.job is not None
    return instance.job


def _find_begin(instance: Instance, warmup: float) -> float:
    return max(_job(instance).begins_at, warmup)


def _find_end(instance: Instance) -> float:
    """Return when the load of ``instance`` ended: at its planned end, or earlier with its last report."""
    reported_at = instance.progress.at if instance.progress else 0.0
    ends_at = _job(instance).ends_at
    return reported_at if ends_at is None else min(reported_at, ends_at)
