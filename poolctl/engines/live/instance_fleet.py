"""The instances of a live run, whichever host their processes run on: sends their jobs, collects their reports.

Decides when an instance counts as lost, and when a row of the timeline is complete. A process that dies loses the
counts of its last second; everything that it had reported before is kept.
"""

import time
from collections.abc import Sequence
from typing import Any

from poolctl.engines.instance.channel import InstanceCounts
from poolctl.engines.live.instance_host import HostMachine, InstanceHost
from poolctl.engines.workload import Job
from poolctl.errors import CannotDo, PoolctlError
from poolctl.scenario.run import TimelinePoint

START_TIMEOUT = 60.0
"""Seconds until every instance must be ready. A thousand instances need most of them on two cores."""

LATE_TICKS = 5
"""For so many intervals a row of the timeline waits for the slowest instance."""


class Instance:
    """One instance and what it reported. ``loss``: how it ended, None: it runs, or has ended after its last report."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.job: Job | None = None
        self.is_ready = self.is_done = False
        self.progress: InstanceCounts | None = None
        self.row: Sequence[float] | None = None
        self.failure: dict[str, str] | None = None
        self.loss: str | None = None


class InstanceFleet:
    """All ``count`` instances of a run. Their processes load their libraries on ``host`` while the server starts."""

    def __init__(self, host: InstanceHost, count: int) -> None:
        self.instances = [Instance(number) for number in range(count)]
        self._host = host
        self._rows: dict[int, dict[int, Sequence[float]]] = {}
        self._next_tick = 0
        self._interval = 0.1
        self._start_at = 0.0
        self._closes = False

    @property
    def start_delay(self) -> float:
        """Seconds that the start has to be in the future when it is named."""
        return self._host.start_delay

    def list_machines(self) -> Sequence[HostMachine]:
        """Return the machines of a cluster; none for this machine alone."""
        return self._host.list_machines()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Send each instance its job and wait until all are ready. Raises PoolctlError if one cannot do its job."""
        self._interval = jobs[0].interval
        for instance, job in zip(self.instances, jobs, strict=True):
            instance.job = job
            self._host.send(instance.number, job.to_dict())
        deadline = time.monotonic() + START_TIMEOUT
        while not all(instance.is_ready for instance in self.instances):
            self.gather(0.1)
            for instance in self.instances:
                if instance.failure:
                    raise _make_error(instance.failure)
                if instance.loss:
                    raise CannotDo(f"an instance could not start: it {instance.loss}")
            if time.monotonic() > deadline:
                raise CannotDo(f"{len(self.instances)} instances were not ready after {START_TIMEOUT:.0f} s")
        self._host.check_server(jobs[0].conninfo)

    def start(self, start_at: float) -> None:
        """Begin the load at ``start_at``, in seconds of time.monotonic of this process."""
        self._start_at = start_at
        for instance in self.instances:
            self._host.send(instance.number, {"start": self._host.to_clock_of(instance.number, start_at)})

    def stop(self, *, close: bool = False) -> None:
        """End the load at once. The instances then send their final counts.

        ``close``: each then ends, and its connections with it; otherwise they stay open for the last samples.
        """
        self._closes = self._closes or close
        for instance in self.instances:
            self._host.send(instance.number, {"stop": True})

    @property
    def is_over(self) -> bool:
        """True if every instance has sent its final counts or is lost."""
        return all(instance.is_done or instance.loss for instance in self.instances)

    def is_between_generations(self, now: float) -> bool:
        """Return True if some instances are still to begin at ``now``, and all others are done or lost."""
        later = [one for one in self.instances if one.job is not None and one.job.begins_at > now]
        return bool(later) and all(one.is_done or one.loss for one in self.instances if one not in later)

    def gather(self, timeout: float) -> None:
        """Receive what the instances report, and return after at most ``timeout`` seconds."""
        for number, message in self._host.gather(timeout):
            self._process(self.instances[number], message)

    def collect_rows(self, server_connections: int | None) -> list[TimelinePoint]:
        """Return the rows of the timeline that have become complete. ``server_connections``: None if unknown."""
        now = time.monotonic() - self._start_at
        rows = []
        while self._rows:
            tick = self._next_tick
            row = self._rows.get(tick, {})
            running = [n for n, instance in enumerate(self.instances) if self._is_running(instance, tick)]
            is_late = now > (tick + LATE_TICKS) * self._interval + self._host.report_delay
            if not is_late and not all(n in row for n in running):
                break
            if not row and tick > max(self._rows):
                break
            rows.append(self._make_row(tick, self._rows.pop(tick, {}), server_connections))
            self._next_tick += 1
        return rows

    def _is_running(self, instance: Instance, tick: int) -> bool:
        begins_at = instance.job.begins_at if instance.job else 0.0
        return not instance.is_done and not instance.loss and begins_at <= tick * self._interval

    def _process(self, instance: Instance, message: dict[str, Any]) -> None:
        if "sample" in message:
            row = message["sample"]
            tick = max(round(row[0] / self._interval), self._next_tick)
            self._rows.setdefault(tick, {})[instance.number] = row
        elif "progress" in message:
            instance.progress = InstanceCounts.from_dict(message["progress"])
        elif "done" in message:
            instance.progress = InstanceCounts.from_dict(message["done"])
            instance.is_done = True
            if self._closes or (instance.job is not None and instance.job.is_retired):
                self._host.end(instance.number)
        elif "ready" in message:
            instance.is_ready = True
        elif "failed" in message:
            instance.failure = message["failed"]
            instance.loss = f"failed: {message['failed']['message']}"
        elif "ended" in message and not instance.is_done and not instance.failure:
            instance.loss = message["ended"]

    def _make_row(self, tick: int, rows: dict[int, Sequence[float]], server_connections: int | None) -> TimelinePoint:
        gauges, counters = [0] * 5, [0] * 2
        for number, instance in enumerate(self.instances):
            instance.row = rows.get(number, instance.row)
            if instance.row is None:
                continue
            _, *values = instance.row
            if self._is_running(instance, tick) or number in rows:
                gauges = [total + int(value) for total, value in zip(gauges, values[:5], strict=True)]
            counters = [total + int(value) for total, value in zip(counters, values[5:], strict=True)]
        is_open, in_use, idle, opening, waiting = gauges
        return TimelinePoint(
            at=round(tick * self._interval, 6),
            open=is_open,
            in_use=in_use,
            idle=idle,
            opening=opening,
            waiting=waiting,
            acquired=counters[0],
            errors=counters[1],
            server_connections=server_connections,
        )


def _make_error(failure: dict[str, str]) -> PoolctlError:
    for kind in _list_subclasses(PoolctlError):
        if kind.code == failure["code"]:
            return kind(failure["message"], hint=failure["hint"])
    return CannotDo(failure["message"], hint=failure["hint"])


def _list_subclasses(kind: type[PoolctlError]) -> list[type[PoolctlError]]:
    return [kind, *(inner for child in kind.__subclasses__() for inner in _list_subclasses(child))]
