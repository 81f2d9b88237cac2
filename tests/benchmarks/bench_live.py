"""The live engine beside its peers, as ratios of the same run.

    python tests/benchmarks/bench_live.py [--rounds 5]

A ratio is the median over interleaved rounds: on a shared machine single figures move by a third. Where other programs
need the cores as well, read the ratios of processor time: on a machine of its own, they are the throughput's.

All sides run the same statement. poolctl's instances stay on one core each and are sessions of their own, so the loops
of bare_pools do and are so, too (a ceiling), and both open their connections before the measured part of the run: the
difference is poolctl's own work. Two loops of psycopg_pool are left to the operating system, as programs are.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

from poolctl.engines.instance.async_connection import AsyncConnection
from poolctl.engines.instance.native_pool import NativePool
from poolctl.engines.instance.statements import ONE_ROW
from poolctl.engines.instance.timers import Timers
from poolctl.engines.live.engine import run_live, run_on, start_here
from poolctl.engines.live.instance_fleet import InstanceFleet
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.engines.sandbox import Sandbox
from poolctl.pool import Connection, PoolSettings
from poolctl.scenario.run import ErrorKind
from poolctl.scenario.scenario import parse_scenario


class Silence:
    def phase(self, text: str) -> None: ...
    def update(self, point: object, errors: object) -> None: ...
    def note(self, text: str) -> None: ...


STATEMENT = f"SELECT 1 {ONE_ROW}"
"""poolctl's query "select1"."""

WARMUP = 0.5
"""Seconds in which the pools open their connections."""


class Measured(NamedTuple):
    """Requests per second, and processor seconds a request: of the clients, and of clients and server together."""

    rate: float
    client_cpu: float
    cpu: float


def live_run(servers: ThrowAwayServers, kind: str, *, seconds: float) -> Measured:
    """Run STATEMENT as fast as 8 workers in 2 instances can."""
    pool: dict[str, Any] = {"kind": kind}
    if kind != "none":
        pool["max_open"] = 4
    if kind in ("database/sql", "psycopg2", "sqlalchemy"):
        pool["max_idle"] = 4
    load = {"instances": 2, "workers": 4, "query": "select1", "duration": WARMUP + seconds, "warmup": WARMUP}
    scenario = parse_scenario({"name": "bench", "pool": pool, "load": load})
    assert servers.sandbox is not None
    server_cpu = servers.sandbox.measure_cpu_time()
    with closing(start_here(scenario)) as host:
        fleet = InstanceFleet(host, 2)
        run = run_live(scenario, servers.serve(scenario), fleet, Silence())
    server_cpu = servers.sandbox.measure_cpu_time() - server_cpu
    requests = run.timeline[-1].acquired
    client_cpu = sum(one.progress.cpu for one in fleet.instances if one.progress is not None)
    return Measured(run.summary.throughput, client_cpu / requests, (client_cpu + server_cpu) / requests)


def pgbench(sandbox: Sandbox, seconds: int) -> float:
    """Transactions per second of 8 pgbench clients in 2 threads, prepared."""
    program = shutil.which("pgbench")
    if program is None:
        raise SystemExit("pgbench is missing: apt-get install postgresql-contrib, or brew install postgresql")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"{STATEMENT};\n")
        script.flush()
        command = [program, "-n", "-M", "prepared", "-c", "8", "-j", "2", "-T", str(seconds), "-f", script.name]
        done = subprocess.run([*command, sandbox.direct_conninfo], capture_output=True, text=True, check=True)
    return float(next(line for line in done.stdout.splitlines() if "tps" in line).split()[2])


def ceiling(sandbox: Sandbox, kind: str, seconds: int, *, stays: bool = True) -> Measured:
    """Measure two processes with four connections each and nothing of poolctl's (see bare_pools).

    ``stays``: each stays on a core and in a session of its own, which lets it serve more.
    """
    program = str(Path(__file__).with_name("bare_pools.py"))
    # As poolctl does, see InstanceProcess and threads._stay_on_one_core(). Its event loop has one thread and needs no
    # core of its own.
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" and kind != "database/sql" and stays else []
    server_cpu = sandbox.measure_cpu_time()
    instances = [
        subprocess.Popen(
            [sys.executable, program, kind, sandbox.direct_conninfo, "4", STATEMENT, core, str(WARMUP)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=stays,
        )
        for core in ([str(core) for core in cores[:2]] if len(cores) > 1 else ["-", "-"])
    ]
    lines = [instance.stdout for instance in instances if instance.stdout is not None]
    for line in lines:
        line.readline()
    for instance in instances:
        assert instance.stdin is not None
        instance.stdin.write(f"{seconds}\n")
    printed = [[float(value) for value in line.readline().split()] for line in lines]
    for instance in instances:
        instance.communicate()
    server_cpu = sandbox.measure_cpu_time() - server_cpu
    measured, requests, client_cpu = (sum(values) for values in zip(*printed, strict=True))
    return Measured(measured / seconds, client_cpu / requests, (client_cpu + server_cpu) / requests)


def throughput(servers: ThrowAwayServers, rounds: int, seconds: int) -> None:
    """Of pgbench, and of what the same pool reaches without poolctl: its ceiling."""
    kinds = ("database/sql", "psycopg2", "psycopg_pool", "sqlalchemy")
    measured: dict[str, list[tuple[float, Measured, Measured]]] = {kind: [] for kind in kinds}
    sandbox = servers.serve(parse_scenario({"name": "bench", "load": {"workers": 1}})).sandbox
    assert sandbox is not None
    before = pgbench(sandbox, seconds)
    for number in range(rounds):
        for kind in kinds:
            # Each between references of its own, and in turns first: the machine's speed changes within seconds.
            if number % 2:
                bare, ours = ceiling(sandbox, kind, seconds), live_run(servers, kind, seconds=seconds)
            else:
                ours, bare = live_run(servers, kind, seconds=seconds), ceiling(sandbox, kind, seconds)
            after = pgbench(sandbox, seconds)
            measured[kind].append(((before + after) / 2, ours, bare))
            before = after
    loops: dict[str, list[tuple[Measured, Measured]]] = {
        "the same loop where the operating system chooses its cores": [],
        "the loop as programs write it, through execute()": [],
    }
    for _ in range(rounds):
        for pairs, kind in zip(loops.values(), ("psycopg_pool", "psycopg_pool/execute"), strict=True):
            bare = ceiling(sandbox, kind, seconds, stays=False)
            pairs.append((live_run(servers, "psycopg_pool", seconds=seconds), bare))
    rates = [reference for rows in measured.values() for reference, _, _ in rows]
    print(f"pgbench -M prepared -c 8 -j 2: {median(rates):,.0f}/s  [{min(rates):,.0f} .. {max(rates):,.0f}]")
    for kind, rows in measured.items():
        print(
            f"  {kind:13} {spread(ours.rate / reference for reference, ours, _ in rows)} of pgbench, its ceiling "
            f"{spread(bare.rate / reference for reference, _, bare in rows)}; "
            f"{spread(ours.rate / bare.rate for _, ours, bare in rows)} of its ceiling, by processor time "
            f"{spread(bare.cpu / ours.cpu for _, ours, bare in rows)}, "
            f"that of the clients alone {spread(bare.client_cpu / ours.client_cpu for _, ours, bare in rows)}"
        )
    for text, pairs in loops.items():
        print(
            f"  psycopg_pool  {spread(ours.rate / bare.rate for ours, bare in pairs)} of {text}; "
            f"by processor time {spread(bare.cpu / ours.cpu for ours, bare in pairs)}"
        )


def spread(ratios: Iterable[float]) -> str:
    values = list(ratios)
    return f"{median(values):.2f} [{min(values):.2f} .. {max(values):.2f}]"


def timed(act: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - began) / times


class Taker:
    """Acquires and has."""

    def __init__(self) -> None:
        self.state, self.ticket, self.attempt = "", 0, 0
        self.queued_at: float | None = None
        self.deadline: float | None = None
        self.last: Connection | None = None
        self.connection: Connection | None = None

    def use(self, client: "Taker", connection: Connection, now: float) -> None:
        self.connection = connection

    def fail(self, client: "Taker", kind: ErrorKind, now: float) -> None:
        raise SystemExit(kind.message)

    def end_statement(self, handle: AsyncConnection, now: float) -> None: ...
    def count_opening(self, connect_time: float, now: float) -> None: ...


def acquire_and_release(servers: ThrowAwayServers, rounds: int) -> None:
    """One idle connection of a real server, taken and given back: our live pool against psycopg_pool."""
    from psycopg_pool import ConnectionPool

    sandbox = servers.serve(parse_scenario({"name": "bench", "load": {"workers": 1}})).sandbox
    assert sandbox is not None
    settings, taker, clock = PoolSettings(max_open=4, max_idle=4), Taker(), time.monotonic
    ours = NativePool(settings, Random(1), sandbox.direct_conninfo, Timers(), clock, taker)
    ours.acquire(taker, clock())
    while taker.connection is None:
        ours.wait(0.1)
    ours.release(taker.connection, clock())

    def cycle() -> None:
        ours.acquire(taker, clock())
        assert taker.connection is not None
        ours.release(taker.connection, clock())

    with ConnectionPool(sandbox.direct_conninfo, min_size=1, open=True) as pool:
        pool.wait()
        pairs = [(timed(cycle, 20000), timed(lambda: pool.putconn(pool.getconn()), 20000)) for _ in range(rounds)]
    ours.close_idle()
    mine, theirs = median(a for a, _ in pairs), median(b for _, b in pairs)
    ratio = median(a / b for a, b in pairs)
    print(f"acquire + release: {mine * 1e6:.1f} µs, {ratio:.2f} of psycopg_pool ({theirs * 1e6:.1f} µs)")


def many_connections() -> None:
    """1,500 connections, opened by two instances at once and held."""
    load = {"instances": 2, "workers": 750, "hold": "4s", "duration": "5s", "drain": "10s"}
    pool = {"max_open": 750, "max_idle": 750}
    scenario = parse_scenario({"name": "many", "database": {"max_connections": 1600}, "pool": pool, "load": load})
    with ThrowAwayServers() as servers:
        run = run_on(servers.serve, scenario, Silence())
    full = next((point.at for point in run.timeline if point.open - point.opening >= 1500), None)
    peak, errors = run.summary.connections.peak_open, run.summary.errors
    print(f"1,500 connections: {peak} open, all there after {full} s, errors {errors}")


def start_up(rounds: int) -> None:
    def seconds(*command: str) -> float:
        return timed(lambda: subprocess.run([sys.executable, *command], capture_output=True, check=True), 5)

    pairs = [(seconds("-m", "poolctl", "--help"), seconds("-c", "import click")) for _ in range(rounds)]
    ratio = median(a / b for a, b in pairs)
    print(f"poolctl --help: {median(a for a, _ in pairs) * 1e3:.0f} ms, {ratio:.2f} of import click")


def first_output(rounds: int) -> None:
    firsts, ends = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        command = [sys.executable, "-m", "poolctl", "simulate", "--leak"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            firsts += [time.perf_counter() - began for line in process.stderr if line.startswith(b"running")]
        ends.append(time.perf_counter() - began)
    print(f"poolctl simulate --leak: load begins after {median(firsts):.2f} s, all over after {median(ends):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    chosen = parser.parse_args()
    with ThrowAwayServers() as servers:
        throughput(servers, chosen.rounds, chosen.seconds)
        acquire_and_release(servers, chosen.rounds)
    many_connections()
    start_up(chosen.rounds)
    first_output(min(chosen.rounds, 3))


if __name__ == "__main__":
    main()
