"""The model engine against simpy 4 on equal work, as ratios of processor time in one run.

    python tests/benchmarks/bench_model.py [ROUNDS]

Both sides make the same numbers of requests, record every wait and use time in the same histogram, and follow the
same rules: a queue (fifo for simpy, whose containers know no other), max_idle, lifetime, refusals, timeouts, cores
shared by the queries. Figures of single rounds move with the machine; the median of paired ratios is what counts.
"""

import os
import statistics
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any, NamedTuple

import simpy

from poolctl.engines.model import compiled, simulate
from poolctl.scenario.histogram import Histogram
from poolctl.scenario.scenario import Scenario, parse_scenario


def scenario(requests: int, *, instances: int = 1, rate: float, max_open: int, **sections: Any) -> Scenario:
    """``rate`` is the fleet's; ``requests`` what it makes on average."""
    return parse_scenario(
        {
            "name": "benchmark",
            "database": {"connect_time": "5ms", "connect_cpu": 0, "max_connections": 100_000} | sections["database"],
            "pool": {"max_open": max_open, "max_idle": max_open} | sections.get("pool", {}),
            "load": {
                "instances": instances,
                "rate": rate / instances,
                "duration": requests / rate,
                "hold": {"distribution": "exponential", "mean": sections["hold"]},
            },
        }
    )


class SharedCores:
    """Processor sharing for simpy, in virtual time as the model's: one alarm, set for the query that is done next.

    The alarm is moved only when that query or the rate is another one. simpy cannot take a timeout back, so an
    alarm that was moved rings for nothing.
    """

    def __init__(self, env: simpy.Environment, cores: int | None) -> None:
        self.env, self.cores = env, cores or inf
        self.jobs: list[tuple[float, int, simpy.Event]] = []
        self.v = self.at = 0.0
        self.rate = 1.0
        self.sequence = 0
        self.alarm: simpy.Event | None = None

    def advance(self) -> None:
        now = self.env.now
        self.v += (now - self.at) * self.rate
        self.at = now

    def set_alarm(self) -> None:
        if self.jobs:
            self.rate = min(1.0, self.cores / len(self.jobs))
            self.alarm = self.env.timeout(max((self.jobs[0][0] - self.v) / self.rate, 0.0))
            self.alarm.callbacks.append(self.ring)
        else:
            self.alarm = None

    def ring(self, alarm: simpy.Event) -> None:
        if alarm is self.alarm:
            self.advance()
            heappop(self.jobs)[2].succeed()
            self.set_alarm()

    def query(self, work: float) -> simpy.Event:
        if self.cores == inf:
            return self.env.timeout(work)
        self.advance()
        self.sequence += 1
        job = (self.v + work, self.sequence, self.env.event())
        heappush(self.jobs, job)
        if len(self.jobs) > self.cores or self.jobs[0] is job:
            self.set_alarm()
        return job[2]


class SimpyPool:
    """The model's rules as a simpy user would write them; waiters in order, and no cleaner."""

    def __init__(self, env: simpy.Environment, told: Scenario) -> None:
        self.env, self.told = env, told
        self.lifetime = told.pool.max_lifetime or inf
        self.idle: list[float] = []
        """When each was born."""
        self.waiters: deque[simpy.Event] = deque()
        self.open = 0

    def acquire(self) -> Generator[simpy.Event, Any, float | None]:
        """When the connection was born; None: it took too long."""
        while self.idle:
            born = self.idle.pop()
            if born + self.lifetime >= self.env.now:
                return born
            self.open -= 1
        if self.open < self.told.pool.max_open:
            self.open += 1
            yield self.env.timeout(self.told.database.connect_time.mean)
            return float(self.env.now)
        handed = self.env.event()
        self.waiters.append(handed)
        patience = self.told.pool.acquire_timeout
        if patience is None:
            return float((yield handed))
        yield handed | self.env.timeout(patience)
        if handed.triggered:
            return handed.value
        self.waiters.remove(handed)
        return None

    def release(self, born: float) -> None:
        if born + self.lifetime < self.env.now:
            self.open -= 1
        elif self.waiters:
            self.waiters.popleft().succeed(born)
        elif len(self.idle) < self.told.pool.max_idle:
            self.idle.append(born)
        else:
            self.open -= 1


def run_simpy(told: Scenario, seed: int) -> Histogram:
    env, random = simpy.Environment(), Random(seed)
    load = told.load
    cores = SharedCores(env, told.database.cores)
    pools = [SimpyPool(env, told) for _ in range(load.instances)]
    waits, uses = Histogram(), Histogram()

    def request(pool: SimpyPool) -> Generator[simpy.Event, Any, None]:
        asked = env.now
        born = yield from pool.acquire()
        waits.record(env.now - asked)
        if born is None:
            return
        acquired = env.now
        yield cores.query(random.expovariate(1.0 / load.hold.mean))
        uses.record(env.now - acquired)
        pool.release(born)

    def arrivals() -> Generator[simpy.Event, Any, None]:
        rate = (load.rate or 0.0) * load.instances
        while True:
            yield env.timeout(random.expovariate(rate))
            env.process(request(pools[int(random.random() * len(pools))]))

    env.process(arrivals())
    env.run(until=load.duration)
    return waits


def mm10_simpy(told: Scenario, seed: int) -> Histogram:
    """The idiomatic queue of simpy's own examples."""
    env, random, waits, uses = simpy.Environment(), Random(seed), Histogram(), Histogram()
    resource = simpy.Resource(env, capacity=told.pool.max_open)

    def customer() -> Generator[simpy.Event, Any, None]:
        asked = env.now
        with resource.request() as grant:
            yield grant
            waits.record(env.now - asked)
            acquired = env.now
            yield env.timeout(random.expovariate(1.0 / told.load.hold.mean))
            uses.record(env.now - acquired)

    def source() -> Generator[simpy.Event, Any, None]:
        while True:
            yield env.timeout(random.expovariate(told.load.rate or 0.0))
            env.process(customer())

    env.process(source())
    env.run(until=told.load.duration)
    return waits


FREE: dict[str, Any] = {"cores": "unlimited", "connect_time": 0}
LIVES: dict[str, Any] = {"max_lifetime": "30s", "max_idle_time": "10s"}
CASES: list[tuple[str, float, Scenario, Callable[[Scenario, int], Histogram]]] = [
    ("M/M/10 at 90 %", 0.8, scenario(200_000, rate=900.0, max_open=10, database=FREE, hold=0.01), mm10_simpy),
    (
        "pool rules, 1 instance",
        0.8,
        scenario(200_000, rate=1408.0, max_open=30, database={"cores": 8}, pool=LIVES, hold=0.005),
        run_simpy,
    ),
    (
        "1,000 instances",
        0.8,
        scenario(400_000, instances=1000, rate=10_000.0, max_open=30, database={"cores": 64}, pool=LIVES, hold=0.005),
        run_simpy,
    ),
    (
        "overload with timeouts",
        0.8,
        scenario(
            100_000, rate=2000.0, max_open=30, database={"cores": 8}, pool=LIVES | {"acquire_timeout": "1s"}, hold=0.005
        ),
        run_simpy,
    ),
]


def cpu_time(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


@contextmanager
def kernel(name: str) -> Iterator[None]:
    os.environ[compiled.SWITCH] = name
    try:
        yield
    finally:
        del os.environ[compiled.SWITCH]


def requests_of(told: Scenario) -> float:
    return (told.load.rate or 0.0) * told.load.instances * (told.load.duration or 0.0)


def longer(told: Scenario, times: int) -> Scenario:
    return replace(told, load=replace(told.load, duration=(told.load.duration or 0.0) * times))


class Rates(NamedTuple):
    """Requests per processor second, round by round; without a compiled kernel it has none."""

    plain: list[float]
    compiled: list[float]
    simpy: list[float]


def measure(told: Scenario, other: Callable[[Scenario, int], Histogram], rounds: int) -> Rates:
    """In turn, so that whatever else the machine does meets all of them. The compiled kernel gets ten times as many
    requests: its runs would be too short to be measured."""
    rates = Rates([], [], [])
    long = longer(told, 10)
    for seed in range(rounds):
        with kernel("plain"):
            rates.plain.append(requests_of(told) / cpu_time(lambda: simulate(told)))
        if compiled.is_there():
            rates.compiled.append(requests_of(long) / cpu_time(lambda: simulate(long)))
        rates.simpy.append(requests_of(told) / cpu_time(lambda seed=seed: other(told, seed)))  # type: ignore[misc]
    return rates


def told_ratio(mine: list[float], other: list[float]) -> str:
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    return f"{statistics.median(ratios):5.1f} x [{min(ratios):.1f} .. {max(ratios):.1f}]"


def day(requests: int) -> str:
    """The time for a day of 1,000 pods at 10,000 requests a second together, from a run of so many of them."""
    load = {"database": {"cores": 64}, "pool": LIVES, "hold": 0.005}
    told = scenario(requests, instances=1000, rate=10_000.0, max_open=30, **load)
    began = time.perf_counter()
    simulate(told)
    took = time.perf_counter() - began
    return f"{took:.1f} s for {requests / 10_000:,.0f} s of it, so {took * 864e6 / requests / 60:.1f} min for a day"


def peak_memory(requests: int) -> int:
    """Bytes at most, of a run of so many requests."""
    told = scenario(requests, rate=1408.0, max_open=30, database={"cores": 8}, pool=LIVES, hold=0.005)
    tracemalloc.start()
    simulate(told)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name, gate, told, other in CASES:
        rates = measure(told, other, rounds)
        print(
            f"{name:26} plain {told_ratio(rates.plain, rates.simpy)} simpy, gate {gate} x, "
            f"{max(rates.plain) / 1e3:.0f} k requests per processor second"
        )
        if rates.compiled:
            print(
                f"{'':26} compiled {told_ratio(rates.compiled, rates.simpy)} simpy, gate 60 x; "
                f"{told_ratio(rates.compiled, rates.plain)} plain; {max(rates.compiled) / 1e6:.1f} M"
            )
    with kernel("plain"):
        few, many = peak_memory(20_000) / 1e6, peak_memory(200_000) / 1e6
        print(f"memory: {few:.1f} MB for 20 k requests, {many:.1f} MB for 200 k")
        print(f"1,000 pods, plain: {day(1_000_000)}")
    if compiled.is_there():
        print(f"1,000 pods, compiled: {day(36_000_000)}")


if __name__ == "__main__":
    main()
