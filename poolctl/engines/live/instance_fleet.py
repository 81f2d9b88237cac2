"""Runs the pods: starts them, tells them their jobs, gathers what they report, and ends them.

A pod that dies loses its last second of figures and nothing else; what it had told is kept.
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

from poolctl.engines.instance.channel import Progress
from poolctl.engines.workload import Job
from poolctl.errors import CannotDo, PoolctlError
from poolctl.scenario.run import TimelinePoint

START_TIMEOUT = 60.0
"""Seconds until every pod must be ready; a thousand of them take their time on two cores."""

LATE_TICKS = 5
"""Rows of the timeline wait for the slowest pod for so many intervals."""


class InstanceProcess:
    """One process and what is known of it. ``loss``: how it ended, when it ended before it was done."""

    def __init__(self, kind: str, number: int) -> None:
        self.number = number
        # A session of its own: Ctrl-C in the terminal is for poolctl, which asks the pods for their figures first.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``end``
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolctl.engines.instance", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
        )
        self.job: Job | None = None
        self.is_ready = self.is_done = False
        self.progress: Progress | None = None
        self.row: Sequence[float] | None = None
        self.failure: dict[str, str] | None = None
        self.loss: str | None = None
        self._unread = b""

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return

    def read(self) -> list[dict[str, Any]] | None:
        """The messages that have arrived; None at the end of its output."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def leave(self) -> None:
        """Let the process end, and its connections with it."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def describe_end(self) -> str:
        """How the process ended, with the last words it wrote."""
        code = self.process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{how}: {words[-1]}" if words else how

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()


class InstanceFleet:
    """Pods are started at once, so that they load their libraries while the server starts."""

    def __init__(self, kind: str, pods: int) -> None:
        self.pods: list[InstanceProcess] = []
        self._selector = selectors.DefaultSelector()
        self._rows: dict[int, dict[int, Sequence[float]]] = {}
        self._next_tick = 0
        self._interval = 0.1
        self._start_at = 0.0
        try:
            for number in range(pods):
                pod = InstanceProcess(kind, number)
                self.pods.append(pod)
                assert pod.process.stdout is not None
                self._selector.register(pod.process.stdout, selectors.EVENT_READ, pod)
        except OSError as error:
            self.close()
            raise CannotDo(f"could not start {pods} instances: {error.strerror}") from None

    def __enter__(self) -> "InstanceFleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Give each pod its job and wait until all are ready. Raises PoolctlError when one cannot do it."""
        self._interval = jobs[0].interval
        for pod, job in zip(self.pods, jobs, strict=True):
            pod.job = job
            pod.tell(job.to_dict())
        deadline = time.monotonic() + START_TIMEOUT
        while not all(pod.is_ready for pod in self.pods):
            self.gather(0.1)
            for pod in self.pods:
                if pod.failure:
                    raise _as_error(pod.failure)
                if pod.loss:
                    raise CannotDo(f"an instance could not start: it {pod.loss}")
            if time.monotonic() > deadline:
                raise CannotDo(f"{len(self.pods)} instances were not ready after {START_TIMEOUT:.0f} s")

    def start(self, start_at: float) -> None:
        """Begin the load at ``start_at``, in seconds of time.monotonic, which all processes share."""
        self._start_at = start_at
        for pod in self.pods:
            pod.tell({"start": start_at})

    def stop(self) -> None:
        """Ask for the figures now; the pods end their load at once."""
        for pod in self.pods:
            pod.tell({"stop": True})

    @property
    def is_over(self) -> bool:
        return all(pod.is_done or pod.loss for pod in self.pods)

    def gather(self, timeout: float) -> None:
        """Take in what the pods report within ``timeout`` seconds."""
        for key, _ in self._selector.select(timeout):
            pod: InstanceProcess = key.data
            messages = pod.read()
            if messages is None:
                self._selector.unregister(key.fileobj)
                if not pod.is_done and not pod.failure:
                    pod.loss = pod.describe_end()
                continue
            for message in messages:
                self._take(pod, message)

    def points(self, server_connections: int | None) -> list[TimelinePoint]:
        """The rows of the timeline that are complete by now."""
        now = time.monotonic() - self._start_at
        points = []
        while self._rows:
            tick = self._next_tick
            row = self._rows.get(tick, {})
            running = [n for n, pod in enumerate(self.pods) if self._is_running(pod, tick)]
            is_late = now > (tick + LATE_TICKS) * self._interval
            if not is_late and not all(n in row for n in running):
                break
            if not row and tick > max(self._rows):
                break
            points.append(self._point(tick, self._rows.pop(tick, {}), server_connections))
            self._next_tick += 1
        return points

    def close(self) -> None:
        for pod in self.pods:
            pod.end()
        self._selector.close()

    def _is_running(self, pod: InstanceProcess, tick: int) -> bool:
        begins_at = pod.job.begins_at if pod.job else 0.0
        return not pod.is_done and not pod.loss and begins_at <= tick * self._interval

    def _take(self, pod: InstanceProcess, message: dict[str, Any]) -> None:
        if "sample" in message:
            row = message["sample"]
            tick = max(round(row[0] / self._interval), self._next_tick)
            self._rows.setdefault(tick, {})[pod.number] = row
        elif "progress" in message:
            pod.progress = Progress.from_dict(message["progress"])
        elif "done" in message:
            pod.progress = Progress.from_dict(message["done"])
            pod.is_done = True
            if pod.job is not None and pod.job.is_retired:
                pod.leave()
        elif "ready" in message:
            pod.is_ready = True
        elif "failed" in message:
            pod.failure = message["failed"]
            pod.loss = f"failed: {message['failed']['message']}"

    def _point(self, tick: int, rows: dict[int, Sequence[float]], server_connections: int | None) -> TimelinePoint:
        gauges, counters = [0] * 5, [0] * 2
        for number, pod in enumerate(self.pods):
            pod.row = rows.get(number, pod.row)
            if pod.row is None:
                continue
            _, *values = pod.row
            if self._is_running(pod, tick) or number in rows:
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


def _as_error(failure: dict[str, str]) -> PoolctlError:
    for kind in _subclasses(PoolctlError):
        if kind.code == failure["code"]:
            return kind(failure["message"], hint=failure["hint"])
    return CannotDo(failure["message"], hint=failure["hint"])


def _subclasses(kind: type[PoolctlError]) -> list[type[PoolctlError]]:
    return [kind, *(inner for child in kind.__subclasses__() for inner in _subclasses(child))]
