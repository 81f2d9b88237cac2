"""The processes of a live run, one for each instance: starts them, sends their jobs, collects their reports, ends them.

Decides when a process counts as lost, and when a row of the timeline is complete. A process that dies loses the
counts of its last second; everything that it had reported before is kept.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from poolctl.engines.instance.channel import InstanceCounts
from poolctl.engines.workload import Job
from poolctl.errors import CannotDo, PoolctlError
from poolctl.scenario.run import TimelinePoint

START_TIMEOUT = 60.0
"""Seconds until every instance must be ready. A thousand instances need most of them on two cores."""

LATE_TICKS = 5
"""For so many intervals a row of the timeline waits for the slowest instance."""


class InstanceProcess:
    """One process and what it reported. ``loss``: how it ended, None: it runs, or has ended after its last report."""

    def __init__(self, library: str, number: int) -> None:
        self.number = number
        # A file and not a pipe: a pipe that is not read blocks the process as soon as it is full.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``kill``
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolctl.engines.instance", library],
            # A session of its own: the terminal sends Ctrl-C to poolctl alone, which first collects the counts.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
        )
        self.job: Job | None = None
        self.is_ready = self.is_done = False
        self.progress: InstanceCounts | None = None
        self.row: Sequence[float] | None = None
        self.failure: dict[str, str] | None = None
        self.loss: str | None = None
        self._unread = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send one message. A process that has ended gets none: ``receive`` notices its end."""
        assert self.process.stdin is not None
        if self.process.stdin.closed:
            # A deploy has ended this instance.
            return
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages that have arrived, None at the end of the process's output."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        if not data:
            return None
        # A read may end in the middle of a line; the rest of it comes with the next one.
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close_input(self) -> None:
        """End the process, and with it its connections, by closing its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def describe_end(self) -> str:
        """Wait for the end of the process, and describe it with the last line that it wrote to standard error."""
        # Its output has ended, so this does not wait for long.
        code = self.process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{how}: {lines[-1]}" if lines else how

    def kill(self) -> None:
        """Kill the process if it runs, and close its files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()


class InstanceFleet:
    """All instances of a run. Their processes start at once, so that they load their libraries while the server starts.

    ``library``: as in pool.kind. ``count``: number of processes. Raises CannotDo if they cannot be started.
    """

    def __init__(self, library: str, count: int) -> None:
        self.instances: list[InstanceProcess] = []
        self._selector = selectors.DefaultSelector()
        self._rows: dict[int, dict[int, Sequence[float]]] = {}
        self._next_tick = 0
        self._interval = 0.1
        self._start_at = 0.0
        self._closes = False
        try:
            for number in range(count):
                # Appended one by one, so that a failure in the middle ends the ones before it.
                instance = InstanceProcess(library, number)
                self.instances.append(instance)
                assert instance.process.stdout is not None
                self._selector.register(instance.process.stdout, selectors.EVENT_READ, instance)
        except OSError as error:
            self.close()
            raise CannotDo(f"could not start {count} instances: {error.strerror}") from None

    def __enter__(self) -> "InstanceFleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Send each instance its job and wait until all are ready. Raises PoolctlError if one cannot do its job."""
        self._interval = jobs[0].interval
        for instance, job in zip(self.instances, jobs, strict=True):
            instance.job = job
            instance.send(job.to_dict())
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

    def start(self, start_at: float) -> None:
        """Begin the load at ``start_at``, in seconds of time.monotonic, which is the same clock in all processes."""
        self._start_at = start_at
        for instance in self.instances:
            instance.send({"start": start_at})

    def stop(self, *, close: bool = False) -> None:
        """End the load at once. The instances then send their final counts.

        ``close``: each then ends, and its connections with it; otherwise they stay open for the last samples.
        """
        self._closes = self._closes or close
        for instance in self.instances:
            instance.send({"stop": True})

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
        for key, _ in self._selector.select(timeout):
            instance: InstanceProcess = key.data
            messages = instance.receive()
            if messages is None:
                self._selector.unregister(key.fileobj)
                if not instance.is_done and not instance.failure:
                    instance.loss = instance.describe_end()
                continue
            for message in messages:
                self._process(instance, message)

    def collect_rows(self, server_connections: int | None) -> list[TimelinePoint]:
        """Return the rows of the timeline that have become complete. ``server_connections``: None if unknown."""
        now = time.monotonic() - self._start_at
        rows = []
        while self._rows:
            tick = self._next_tick
            row = self._rows.get(tick, {})
            running = [n for n, instance in enumerate(self.instances) if self._is_running(instance, tick)]
            is_late = now > (tick + LATE_TICKS) * self._interval
            if not is_late and not all(n in row for n in running):
                break
            if not row and tick > max(self._rows):
                break
            rows.append(self._make_row(tick, self._rows.pop(tick, {}), server_connections))
            self._next_tick += 1
        return rows

    def close(self) -> None:
        """Kill the processes that still run."""
        for instance in self.instances:
            instance.kill()
        self._selector.close()

    def _is_running(self, instance: InstanceProcess, tick: int) -> bool:
        begins_at = instance.job.begins_at if instance.job else 0.0
        return not instance.is_done and not instance.loss and begins_at <= tick * self._interval

    def _process(self, instance: InstanceProcess, message: dict[str, Any]) -> None:
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
                instance.close_input()
        elif "ready" in message:
            instance.is_ready = True
        elif "failed" in message:
            instance.failure = message["failed"]
            instance.loss = f"failed: {message['failed']['message']}"

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
