"""The channel between an instance and the live engine: standard input and output, one JSON object a line.

    in    the job, then {"start": monotonic seconds}, then perhaps {"stop": true}
    out   {"ready": pid}, {"sample": ...} each interval, {"progress": ...} each second, {"done": ...} or {"failed": ...}

The end of the input ends the process at once: the live engine wants that, or is itself gone.
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
"""Seconds between two messages with all counts. An instance that is killed loses at most the last interval."""


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """Everything that an instance has counted so far.

    ``warm``: the pool at the end of the warm-up, None before its end or without one. ``cpu``: processor seconds used
    since the start. ``ideal``: the mean wait in the ideal queue and the measured one (see Generator), None: unknown.
    """

    at: float
    tally: Tally
    stats: PoolStats
    warm: PoolStats | None
    lag: Histogram
    cpu: float
    ideal: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
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
    def from_dict(cls, values: dict[str, Any]) -> "InstanceCounts":
        """Read what ``to_dict`` gave."""

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
    """The instance's end of the channel. Any thread may send."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._ended = threading.Event()
        self._start_at = 0.0
        self.stopping = False
        """The user wants the run to end now."""

    def read_job(self) -> Job:
        """Wait for the job. Ends the process if the live engine is gone."""
        line = self._source.readline()
        if not line:
            os._exit(0)
        return Job.from_dict(json.loads(line))

    def wait_for_start(self) -> Callable[[], float]:
        """Report that this instance is ready, wait until all are, and return the run's clock (seconds)."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._send({"ready": os.getpid()})
        self._started.wait()
        # All processes of a machine share this clock, so one number starts all instances at the same instant.
        start_at, monotonic = self._start_at, time.monotonic
        return lambda: monotonic() - start_at

    def send_sample(self, at: float, stats: PoolStats, acquired: int, errors: int) -> None:
        """Send one row of the timeline; ``acquired`` and ``errors`` count from the start, warm-up included."""
        row = (at, stats.open, stats.in_use, stats.idle, stats.opening, stats.waiting, acquired, errors)
        self._send({"sample": row})

    def send_progress(self, progress: InstanceCounts) -> None:
        """Send all counts so far."""
        self._send({"progress": progress.to_dict()})

    def send_result(self, progress: InstanceCounts) -> None:
        """Send the final counts."""
        self._send({"done": progress.to_dict()})

    def wait_for_end(self) -> None:
        """Wait, with all connections open, until the live engine has sampled them and closes the input."""
        while True:
            # _listen() ends the process; this event is never set.
            self._ended.wait()

    def send_failure(self, error: PoolctlError) -> None:
        """Report why this instance cannot do its job."""
        self._send({"failed": {"code": error.code, "message": error.message, "hint": error.hint}})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message) + "\n"
        # One lock around the whole line: lines of several threads must not mix.
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
        # Not sys.exit(): it would end this thread alone, and other threads may wait without limit in a library.
        os._exit(0)
