"""What one instance is asked to do: which requests, when, for how long, and which of them leak.

Everything random is drawn from the scenario's seed, in streams of their own for arrivals, for each worker and
for the pool, so that variants of a scenario meet the same arrivals. Pure: times are seconds on the run's clock,
which starts at 0 with the load.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from random import Random
from typing import Any

from poolctl.scenario.scenario import Distribution, Scenario, parse_scenario


@dataclass(frozen=True, slots=True)
class Job:
    """What a pod is told. ``begins_at`` and ``ends_at``: its part of the run, shorter when a deploy adds or
    retires it; ``ends_at`` None: until its requests are done. ``interval``: seconds between samples.
    ``cpu_rows_per_second``: how much work a core of the server does, for the built-in query "cpu"."""

    scenario: Scenario
    conninfo: str
    instance: int = 0
    begins_at: float = 0.0
    ends_at: float | None = None
    interval: float = 0.1
    prepared: bool = True
    """Whether a prepared statement survives from one use of a connection to the next; false behind a pooler."""
    cpu_rows_per_second: float = 1e7

    @property
    def is_retired(self) -> bool:
        """Whether a deploy ends this pod before the load is over."""
        return self.ends_at is not None and self.ends_at != self.scenario.load.duration

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"scenario": self.scenario.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Job":
        return cls(**(values | {"scenario": parse_scenario(values["scenario"])}))


@dataclass(slots=True)
class Worker:
    """One closed loop: request, think, request again. ``until`` None: to the end of the load."""

    begins_at: float
    until: float | None
    requests_left: int | None
    """Of a burst's own; None: no bound of its own."""
    hold: Distribution
    think: Distribution
    random: Random
    is_burst: bool = False


def jobs(scenario: Scenario, conninfo: str, **options: Any) -> list[Job]:
    """A job for each pod of each generation. A deploy begins a generation and, an overlap later, ends the last."""
    deploys = [event for event in scenario.events if event.do == "deploy"]
    begins = [0.0, *(event.at for event in deploys)]
    ends = [*(event.at + event.overlap for event in deploys), scenario.load.duration]
    return [
        Job(scenario, conninfo, instance=number, begins_at=begin, ends_at=end, **options)
        for number, (begin, end) in enumerate(
            window for window in zip(begins, ends, strict=True) for _ in range(scenario.load.instances)
        )
    ]


class Workload:
    """The requests of one instance. Not thread-safe: a driver with threads holds a lock around each call."""

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

    def stream(self, name: str) -> Random:
        """A random stream of its own, the same in every run with this seed."""
        return Random(f"{self._seed}/{name}")

    def arrivals(self) -> Iterator[float]:
        """Due times of the open loop, a Poisson process; nothing when the load is closed."""
        rate, random, at = self._load.rate, self.stream("arrivals").random, self.begins_at
        while rate:
            at -= log(1.0 - random()) / rate
            if at >= self.ends_at or not self.take_request():
                return
            yield at

    def workers(self) -> list[Worker]:
        """The closed loops: the steady ones, then those of each burst."""
        load = self._load
        steady = [
            Worker(self.begins_at, None, None, load.hold, load.think, self.stream(f"worker {number}"))
            for number in range(load.workers or 0)
        ]
        extra = [
            Worker(
                burst.at, burst.until, burst.requests or None, burst.hold, burst.think, self.stream(f"burst {b}/{n}")
            )
            for b, burst in enumerate(load.bursts)
            for n in range(burst.workers)
            if self.begins_at <= burst.at < self.ends_at
        ]
        return steady + extra

    def take_request(self) -> bool:
        """Whether one more steady request may begin: an instance stops after ``load.requests``."""
        if self._budget is None:
            return True
        self._budget -= 1
        return self._budget >= 0

    def is_bounded(self, worker: Worker) -> bool:
        """Whether ``takes_request`` can ever say no to ``worker``."""
        return worker.requests_left is not None or (not worker.is_burst and self._budget is not None)

    def takes_request(self, worker: Worker) -> bool:
        """Whether ``worker`` may begin one more request: the steady ones share the instance's, a burst has its own."""
        if worker.requests_left is not None:
            worker.requests_left -= 1
            return worker.requests_left >= 0
        return worker.is_burst or self.take_request()

    def next_leaks(self) -> bool:
        """Whether the request that begins now is one of those that never give back."""
        self._requests += 1
        return self._leak.every > 0 and self._requests % self._leak.every == 0

    @property
    def is_ever_slow(self) -> bool:
        return bool(self._windows)

    def slow_factor(self, at: float) -> float:
        """How many times longer a query takes at ``at``."""
        factor = 1.0
        for begin, end, times in self._windows:
            if begin <= at < end:
                factor *= times
        return factor
