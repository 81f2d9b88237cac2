"""The line between a pod and the live engine: one JSON object a line.

    in    the job, then {"start": monotonic seconds}, then perhaps {"stop": true}
    out   {"ready": pid}, {"sample": ...} each interval, {"progress": ...} each second, {"done": ...} or {"failed": ...}

When the input ends, the pod is told to go, or whoever started it is gone, and the process ends at once.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from poolctl.engines.workload import Job
from poolctl.errors import PoolctlError
from poolctl.pool import Closed, PoolStats
from poolctl.scenario.histogram import Histogram
from poolctl.scenario.run import Tally

PROGRESS_INTERVAL = 1.0
"""Seconds between reports of the whole tally: what is lost when a pod is killed is at most this much."""


@dataclass(frozen=True, slots=True)
class Progress:
    """All that a pod has counted so far. ``warm``: the pool at the end of the warm-up, None before or without it.
    ``cpu``: processor seconds used since the start. ``ideal``: see Generator, as (ideal mean, measured mean)."""

    at: float
    tally: Tally
    stats: PoolStats
    warm: PoolStats | None
    lag: Histogram
    cpu: float
    ideal: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "tally": self.tally.to_dict(),
            "stats": asdict(self.stats),
            "warm": asdict(self.warm) if self.warm else None,
            "lag": self.lag.to_dict(),
            "cpu": self.cpu,
            "ideal": self.ideal,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        def stats(plain: dict[str, Any]) -> PoolStats:
            return PoolStats(**(plain | {"closed": Closed(**plain["closed"])}))

        return cls(
            at=values["at"],
            tally=Tally.from_dict(values["tally"]),
            stats=stats(values["stats"]),
            warm=stats(values["warm"]) if values["warm"] else None,
            lag=Histogram.from_dict(values["lag"]),
            cpu=values["cpu"],
            ideal=tuple(values["ideal"]) if values["ideal"] else None,
        )


class InstanceChannel:
    """The pod's end of the line to the live engine."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._left = threading.Event()
        self._start_at = 0.0
        self.stopping = False
        """The user wants the run to end now."""

    def read_job(self) -> Job:
        line = self._source.readline()
        if not line:
            os._exit(0)
        return Job.from_dict(json.loads(line))

    def wait_for_start(self) -> Callable[[], float]:
        """Say that this pod is ready, wait for the others, and return the run's clock."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._send({"ready": os.getpid()})
        self._started.wait()
        start_at, monotonic = self._start_at, time.monotonic
        return lambda: monotonic() - start_at

    def sample(self, at: float, stats: PoolStats, acquired: int, errors: int) -> None:
        """One row of the timeline; ``acquired`` and ``errors`` count from the start, warm-up included."""
        row = (at, stats.open, stats.in_use, stats.idle, stats.opening, stats.waiting, acquired, errors)
        self._send({"sample": row})

    def progress(self, progress: Progress) -> None:
        self._send({"progress": progress.to_dict()})

    def done(self, progress: Progress) -> None:
        self._send({"done": progress.to_dict()})

    def wait_to_leave(self) -> None:
        """Keep the connections open until the live engine has looked at them: its closing our input ends us."""
        while True:
            self._left.wait()

    def failed(self, error: PoolctlError) -> None:
        self._send({"failed": {"code": error.code, "message": error.message, "hint": error.hint}})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message) + "\n"
        with self._lock:
            try:
                self._sink.write(line)
                self._sink.flush()
            except BrokenPipeError:
                os._exit(1)

    def _listen(self) -> None:
        for line in self._source:
            command = json.loads(line)
            if "start" in command:
                self._start_at = command["start"]
                self._started.set()
            if "stop" in command:
                self.stopping = True
        os._exit(0)
