"""The work of one instance: which requests, when, for how long, and which of them leak.

Everything random is drawn from the scenario's seed, with a separate stream for arrivals, for each worker and for the
pool, so that variants of a scenario get the same arrivals. Pure: times are seconds on the run's clock, which starts
at 0 with the load.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, log
from random import Random
from typing import Any

from poolctl.scenario.scenario import Distribution, Scenario, parse_scenario


@dataclass(frozen=True, slots=True)
class Job:
    """The order that an instance receives.

    ``begins_at`` and ``ends_at``: its part of the run, which a deploy makes shorter; ``ends_at`` None: until its
    requests are done. ``interval``: seconds between samples. ``cpu_rows_per_second``: how much work a core of the
    server does, for the built-in query "cpu".
    """

    scenario: Scenario
    conninfo: str
    instance: int = 0
    begins_at: float = 0.0
    ends_at: float | None = None
    interval: float = 0.1
    prepared: bool = True
    """True if a prepared statement lasts from one use of a connection to the next; False behind a pooler."""
    cpu_rows_per_second: float = 1e7

    @property
    def is_retired(self) -> bool:
        """True if a deploy ends this instance before the load is over."""
        return self.ends_at is not None and self.ends_at != self.scenario.load.duration

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {"scenario": self.scenario.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Job":
        """Read what ``to_dict`` gave."""
        return cls(**(values | {"scenario": parse_scenario(values["scenario"])}))


@dataclass(slots=True)
class Worker:
    """One closed loop: think, request, think again. ``until`` None: to the end of the load."""

    begins_at: float
    until: float | None
    requests_left: int | None
    """Requests that the burst grants to this worker; None: no limit of its own."""
    hold: Distribution
    think: Distribution
    random: Random
    is_burst: bool = False


def plan_jobs(scenario: Scenario, conninfo: str, **options: Any) -> list[Job]:
    """Return a job for each instance of each generation. ``options``: the other fields of Job, the same for all.

    A deploy begins a generation and, ``overlap`` seconds later, ends the one before. No generation begins or lasts
    beyond the end of the load: ``--for`` may have moved it before a deploy.
    """
    load_end = inf if scenario.load.duration is None else scenario.load.duration
    deploys = [event for event in scenario.events if event.do == "deploy" and event.at < load_end]
    begins = [0.0, *(event.at for event in deploys)]
    ends = [*(min(event.at + event.overlap, load_end) for event in deploys), scenario.load.duration]
    return [
        Job(scenario, conninfo, instance=number, begins_at=begin, ends_at=end, **options)
        for number, (begin, end) in enumerate(
            window for window in zip(begins, ends, strict=True) for _ in range(scenario.load.instances)
        )
    ]


def drop_late_events(scenario: Scenario) -> tuple[Scenario, tuple[str, ...]]:
    """Remove the events at or after the end of the load, which would prolong the run. Return a sentence for each."""
    end = scenario.load.duration
    late = [event for event in scenario.events if end is not None and event.at >= end]
    if end is None or not late:
        return scenario, ()
    kept = tuple(event for event in scenario.events if event.at < end)
    return replace(scenario, events=kept), tuple(
        f"the event {event.do} at {event.at:g} s does not happen, because the load ends at {end:g} s" for event in late
    )


class Workload:
    """The requests of one instance. Not thread-safe: an instance with threads holds a lock around each call."""

    def __init__(self, job: Job) -> None:
        self._load = job.scenario.load
        self._leak = job.scenario.leak
        self._seed = f"{self._load.seed}/{job.instance}"
        self.begins_at = job.begins_at
        self.ends_at = job.ends_at if job.ends_at is not None else float("inf")
        self._requests = 0
        self._budget = self._load.requests or None
        self._windows = [
            (event.at, event.at + event.duration, event.factor) for event in job.scenario.events if event.do == "slow"
        ]

    def make_random(self, name: str) -> Random:
        """Create the random stream ``name``, the same in every run with this seed."""
        return Random(f"{self._seed}/{name}")

    def draw_arrivals(self) -> Iterator[float]:
        """Draw the due times of the open loop, a Poisson process; none for a closed loop."""
        rate, random, at = self._load.rate, self.make_random("arrivals").random, self.begins_at
        while rate:
            at -= log(1.0 - random()) / rate
            if at >= self.ends_at or not self.take_request():
                return
            yield at

    def make_workers(self) -> list[Worker]:
        """Return the closed loops: first the steady ones, then the ones of each burst."""
        load = self._load
        steady = [
            Worker(self.begins_at, None, None, load.hold, load.think, self.make_random(f"worker {number}"))
            for number in range(load.workers or 0)
        ]
        extra = [
            Worker(
                burst.at,
                burst.until,
                burst.requests or None,
                burst.hold,
                burst.think,
                self.make_random(f"burst {b}/{n}"),
            )
            for b, burst in enumerate(load.bursts)
            for n in range(burst.workers)
            if self.begins_at <= burst.at < self.ends_at
        ]
        return steady + extra

    def take_request(self) -> bool:
        """Count one more steady request. Return False if it must not begin: the limit is ``load.requests``."""
        if self._budget is None:
            return True
        self._budget -= 1
        return self._budget >= 0

    def is_bounded(self, worker: Worker) -> bool:
        """Return True if ``take_request_of`` can ever return False for ``worker``."""
        return worker.requests_left is not None or (not worker.is_burst and self._budget is not None)

    def take_request_of(self, worker: Worker) -> bool:
        """Count one more request of ``worker``. Return False if it must not begin.

        Steady workers share the limit of the instance, a worker of a burst has its own.
        """
        if worker.requests_left is not None:
            worker.requests_left -= 1
            return worker.requests_left >= 0
        return worker.is_burst or self.take_request()

    def decide_leak(self) -> bool:
        """Count a request that begins now, and return True if it never releases its connections."""
        self._requests += 1
        return self._leak.every > 0 and self._requests % self._leak.every == 0

    @property
    def is_ever_slow(self) -> bool:
        """True if the scenario makes queries slow at some time."""
        return bool(self._windows)

    def find_slowdown(self, at: float) -> float:
        """Return how many times longer a query takes at ``at``."""
        factor = 1.0
        for begin, end, times in self._windows:
            if begin <= at < end:
                factor *= times
        return factor
