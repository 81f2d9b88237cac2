"""Instances with real libraries, as processes of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_runs import scenario_of
from sandboxes import eventually
from threaded_runs import SIZES, Driver

from poolctl.engines.instance.channel import InstanceCounts
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.engines.workload import Job

pytestmark = pytest.mark.server


@pytest.fixture
def driver(servers: ThrowAwayServers) -> Driver:
    return Driver(servers)


class RealInstance:
    """A real instance, with the messages of the live engine."""

    def __init__(self, job: Job) -> None:
        kind = job.scenario.pool.kind
        command = [sys.executable, "-m", "poolctl.engines.instance", kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.send(job.to_dict())
        assert "ready" in self.receive()

    def send(self, message: dict[str, Any]) -> None:
        self.stdin.write(json.dumps(message) + "\n")
        self.stdin.flush()

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.stdout.readline())
        return message

    def begin(self) -> None:
        self.send({"start": time.monotonic()})

    def receive_result(self) -> InstanceCounts:
        while "done" not in (message := self.receive()):
            assert "failed" not in message
        return InstanceCounts.from_dict(message["done"])


@pytest.fixture
def instance() -> Iterator[Callable[[Job], RealInstance]]:
    instances: list[RealInstance] = []

    def start(job: Job) -> RealInstance:
        instances.append(RealInstance(job))
        return instances[-1]

    yield start
    for started in instances:
        started.stdin.close()
        started.process.wait(5.0)
        started.stdout.close()


@pytest.mark.parametrize("kind", ["psycopg_pool", "sqlalchemy"])
def test_an_instance_ends_although_its_threads_wait_without_limit(
    driver: Driver, instance: Callable[[Job], RealInstance], kind: str
) -> None:
    size = {"max_open": 2, "acquire_timeout": "off"} | ({"max_idle": 2} if kind == "sqlalchemy" else {"min_idle": 2})
    load = {"workers": 4, "hold": "1ms", "requests": 30, "duration": "off"}
    scenario = scenario_of(pool={"kind": kind} | size, load=load, leak={"every": 5})
    it = instance(Job(scenario, driver.named("stuck instance")))
    it.begin()

    end = it.receive_result()
    assert (end.tally.leaked, end.tally.unfinished, end.stats.in_use) == (2, 4, 2)
    assert end.tally.acquired == end.tally.released + 2
    it.stdin.close()
    assert it.process.wait(5.0) == 0


def test_an_instance_ends_with_its_connections_when_the_live_engine_is_gone(
    driver: Driver, instance: Callable[[Job], RealInstance]
) -> None:
    scenario = scenario_of(pool={"kind": "psycopg2"} | SIZES["psycopg2"], load={"duration": "30s"})
    it = instance(Job(scenario, driver.named("orphan"), ends_at=30.0))
    it.begin()
    assert "sample" in it.receive()
    with driver.superuser() as superuser:

        def count() -> int:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orphan'"
            row = superuser.execute(query).fetchone()
            assert row is not None
            return int(row[0])

        eventually(lambda: count() == 3)
        it.stdin.close()
        assert it.process.wait(5.0) == 0
        eventually(lambda: count() == 0)


def test_an_instance_of_a_later_generation_opens_nothing_before_its_time(
    driver: Driver, instance: Callable[[Job], RealInstance]
) -> None:
    scenario = scenario_of(pool={"kind": "psycopg2"} | SIZES["psycopg2"], load={"workers": 3, "duration": "600ms"})
    it = instance(Job(scenario, driver.named("later"), begins_at=0.3, ends_at=0.6, interval=0.05))
    it.begin()

    at, open_, *_ = it.receive()["sample"]
    assert 0.3 <= at < 0.45
    assert open_ == 3
    end = it.receive_result()
    assert end.stats.open_time < 0.5 * 3
    assert end.tally.released == end.tally.offered > 10
