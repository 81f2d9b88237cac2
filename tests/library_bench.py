"""One real library on the throw-away server, without a driver, and the server's own view of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from live_runs import scenario_of
from psycopg.conninfo import make_conninfo
from sandboxes import eventually

from poolctl.engines.instance.library_drivers import open_library
from poolctl.engines.instance.pool_driver import PoolDriver
from poolctl.engines.instance.pool_monitor import LiveRequest, PoolMonitor
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.engines.workload import Job
from poolctl.pool import PoolStats

ALL = ("psycopg_pool", "psycopg2", "sqlalchemy", "none")
SIZES: dict[str, dict[str, Any]] = {
    "psycopg_pool": {"max_open": 3, "min_idle": 3},
    "psycopg2": {"max_open": 3, "max_idle": 3},
    "sqlalchemy": {"max_open": 3, "max_idle": 3},
    "none": {},
}
ONE: dict[str, dict[str, Any]] = {
    "psycopg_pool": {"max_open": 1, "min_idle": 1},
    "psycopg2": {"max_open": 1, "max_idle": 1},
    "sqlalchemy": {"max_open": 1, "max_idle": 1},
    "none": {},
}


class Bench:
    def __init__(self, conninfo: str, admin: psycopg.Connection[Any], kind: str, settings: dict[str, Any]) -> None:
        self.name = f"bench {uuid4().hex[:12]}"
        self._admin = admin
        scenario = scenario_of(pool={"kind": kind} | settings, load={"query": "select1"})
        job = Job(scenario, make_conninfo(conninfo, application_name=self.name))
        self.monitor = PoolMonitor(scenario.pool.max_open)
        self.library: PoolDriver = open_library(job, self.monitor)
        self.library.start()
        eventually(lambda: self.stats().opening == 0)

    def take(self, request: LiveRequest | None = None) -> Any:
        request = request or LiveRequest()
        connection = self.library.acquire(request)
        with self.monitor.lock:
            self.monitor.record_acquire(request, 0.0)
        return connection

    def give(self, connection: Any, *, is_broken: bool = False) -> None:
        self.library.release(connection, is_broken=is_broken)
        with self.monitor.lock:
            self.monitor.record_release(0.0)

    def work(self, connection: Any) -> None:
        self.library.run(connection, 0.0)

    def pid(self, connection: Any) -> int:
        raw = getattr(connection, "dbapi_connection", connection)
        pid: int = raw.info.backend_pid
        return pid

    def stats(self) -> PoolStats:
        with self.monitor.lock:
            return self.library.stats(0.0)

    def server(self) -> list[tuple[Any, ...]]:
        """(state, wait event, last query, start of the transaction) of each backend."""
        query = "SELECT state, wait_event, query, xact_start FROM pg_stat_activity WHERE application_name = %s"
        return self._admin.execute(query, [self.name]).fetchall()

    def states(self) -> list[str]:
        return [state for state, _, _, _ in self.server()]

    def count(self) -> int:
        return len(self.server())

    def kill_backends(self) -> None:
        """And wait until they are gone, so that the next one to use them meets a dead one."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        eventually(lambda: self._admin.execute(query, [self.name]).fetchall() == [])


MakeBench = Callable[..., Bench]


@contextmanager
def benches(servers: ThrowAwayServers) -> Iterator[MakeBench]:
    """What makes a bench from a kind and its settings; all of them are ended."""
    conninfo = servers.serve(scenario_of()).conninfo
    assert servers.sandbox is not None
    made: list[Bench] = []
    with psycopg.connect(servers.sandbox.admin_conninfo, autocommit=True) as admin:

        def make(kind: str, **settings: Any) -> Bench:
            made.append(Bench(conninfo, admin, kind, SIZES[kind] | settings))
            return made[-1]

        yield make
        for bench in made:
            bench.library.close()
            bench.kill_backends()
