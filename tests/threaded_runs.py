"""Runs a threaded instance in this process, on a throw-away server."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from live_runs import scenario_of
from psycopg.conninfo import make_conninfo
from sandboxes import eventually

from poolctl.engines.instance import library_drivers, threads
from poolctl.engines.instance.channel import InstanceChannel, InstanceCounts
from poolctl.engines.instance.pool_driver import PoolDriver
from poolctl.engines.instance.pool_monitor import PoolMonitor
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.engines.workload import Job
from poolctl.pool import PoolStats

LIBRARIES = ("psycopg_pool", "psycopg2", "sqlalchemy", "none")
SIZES: dict[str, dict[str, Any]] = {
    "psycopg_pool": {"max_open": 3, "min_idle": 3, "acquire_timeout": "150ms"},
    "psycopg2": {"max_open": 3, "max_idle": 3},
    "sqlalchemy": {"max_open": 3, "max_idle": 3, "acquire_timeout": "150ms"},
    "none": {},
}


class MemoryChannel(InstanceChannel):
    """Keeps what an instance reports. ``on_sample`` gets each sample; at ``stop_at`` the user ends the run."""

    def __init__(self, on_sample: Callable[[float], None], stop_at: float) -> None:
        super().__init__(io.StringIO(), io.StringIO())
        self.samples: list[tuple[float, PoolStats, int, int]] = []
        self.progresses: list[float] = []
        self.end: InstanceCounts | None = None
        self._on_sample = on_sample
        self._stop_at = stop_at

    def wait_for_start(self) -> Callable[[], float]:
        begin = time.monotonic()
        return lambda: time.monotonic() - begin

    def send_sample(self, at: float, stats: PoolStats, acquired: int, errors: int) -> None:
        self.samples.append((at, stats, acquired, errors))
        self._on_sample(at)
        if at >= self._stop_at:
            self.stopping = True

    def send_progress(self, progress: InstanceCounts) -> None:
        self.progresses.append(progress.at)

    def send_result(self, progress: InstanceCounts) -> None:
        # As it would arrive: what is counted later is no longer seen.
        self.end = InstanceCounts.from_dict(progress.to_dict())


class Done:
    """A run that is over: what it reported, and how long it took."""

    def __init__(self, channel: MemoryChannel, took: float) -> None:
        assert channel.end is not None
        self.progress = channel.end
        self.tally, self.stats = channel.end.tally, channel.end.stats
        self.samples, self.progresses = channel.samples, channel.progresses
        self.took = took


class Driver:
    """Drives jobs on the throw-away server ``servers`` gives."""

    def __init__(self, servers: ThrowAwayServers) -> None:
        self.conninfo = servers.serve(scenario_of()).conninfo
        assert servers.sandbox is not None
        self.sandbox = servers.sandbox
        self._opened: list[PoolDriver] = []

    def run(
        self,
        kind: str,
        *,
        pool: dict[str, Any] | None = None,
        load: dict[str, Any],
        leak: dict[str, Any] | None = None,
        events: list[dict[str, Any]] | None = None,
        on_sample: Callable[[float], None] = lambda at: None,
        stop_at: float = 1e9,
        **job: Any,
    ) -> Done:
        scenario = scenario_of(pool={"kind": kind} | (pool or {}), load=load, leak=leak, events=events or [])
        channel = MemoryChannel(on_sample, stop_at)
        order = Job(
            scenario, self.named("driver test"), **({"ends_at": scenario.load.duration, "interval": 0.02} | job)
        )
        began_at = time.monotonic()
        threads.drive(order, channel)
        return Done(channel, time.monotonic() - began_at)

    def named(self, application: str) -> str:
        return make_conninfo(self.conninfo, application_name=application)

    @contextmanager
    def superuser(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.sandbox.admin_conninfo, autocommit=True) as connection:
            yield connection

    def open_library(self, job: Job, monitor: PoolMonitor) -> PoolDriver:
        library = library_drivers.open_library(job, monitor)
        self._opened.append(library)
        return library

    def clean_up(self) -> None:
        """End what would end with the process of a real instance: idle connections, waiting threads and leaks."""
        for library in self._opened:
            library.close()
        with self.superuser() as superuser:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
            eventually(lambda: superuser.execute(ended).fetchall() == [])
