"""A sweep and a live load on a Dask cluster of this machine beside the same without a cluster, as ratios of one run.

    python tests/benchmarks/bench_cluster.py [--rounds 5]

A ratio is the median over interleaved rounds. Above 1, the cluster is faster; both need the machine for themselves.
The sweep is also compared in processor time, of all processes together, less what the cluster takes when it has
nothing to do: other programs disturb that less.
"""

import argparse
import operator
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import psutil
from bench_live import Silence

from poolctl.engines.cluster.client import connect_cluster, wait_for_workers
from poolctl.engines.cluster.cluster_host import ClusterHost
from poolctl.engines.cluster.place import run_at
from poolctl.engines.live.engine import count_processes, run_on, start_here
from poolctl.engines.live.instance_host import InstanceHost
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.scenario.scenario import Scenario, parse_scenario

CELLS = 200
WORKERS = 2
IDLE = 10.0
"""Seconds in which is measured what a cluster takes that has nothing to do."""


@contextmanager
def start_cluster() -> Iterator[str]:
    """Start a scheduler and two workers, and yield the scheduler's address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", port, *options]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", *options]
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in (scheduler, *[worker] * WORKERS)
        ]
        try:
            yield address
        finally:
            for process in started:
                process.kill()
                process.wait()


# Of a module, not of this program: the processes of a batch import it.
count_acquires = operator.attrgetter("summary.acquired")


def measure_processor_time() -> float:
    """Return the seconds of processor time of this process and of all that it started, ended ones included."""
    own = psutil.Process()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    times = [each.cpu_times() for each in (own, *own.children(recursive=True))]
    return ended.ru_utime + ended.ru_stime + sum(each.user + each.system for each in times)


def measure_sweep(place: str, idle: float) -> tuple[float, float, int]:
    """Return the seconds that the sweep takes at ``place``, those of processor time, and what it counted."""
    values = {"name": "bench", "load": {"instances": 4, "workers": 16, "hold": "20ms", "duration": 120}}
    scenarios = [parse_scenario({**values, "pool": {"max_open": 2 + cell % 50}}) for cell in range(CELLS)]
    used, began = measure_processor_time(), time.monotonic()
    results = list(run_at(place, scenarios, count_acquires))
    took, used = time.monotonic() - began, measure_processor_time() - used
    assert not [each.loss for each in results if each.loss]
    return took, used - idle * took, sum(each.kept or 0 for each in results)


def measure_live(servers: ThrowAwayServers, start_host: Callable[[Scenario], InstanceHost]) -> float:
    """Return the acquires a second of 8 workers in 2 instances."""
    load: dict[str, Any] = {"instances": 2, "workers": 4, "query": "select1", "duration": 4.0}
    values = {"name": "bench", "database": {"listen": "127.0.0.1"}, "pool": {"max_open": 4, "max_idle": 4}}
    scenario = parse_scenario({**values, "load": load})
    return run_on(servers.serve, scenario, Silence(), start_host=start_host).summary.throughput


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    with start_cluster() as address, connect_cluster(address, stop=lambda: False, note=print) as client:
        wait_for_workers(client, address, WORKERS, lambda: False, print)
        before = measure_processor_time()
        time.sleep(IDLE)
        idle = (measure_processor_time() - before) / IDLE
        sweeps = [(measure_sweep(f"local:{WORKERS}", idle), measure_sweep(address, idle)) for _ in rounds]
        assert all(here[2] == there[2] for here, there in sweeps)
        for place, name in enumerate(("time", "processor time")):
            ratios = sorted(here[place] / there[place] for here, there in sweeps)
            shown = f"{median(ratios):.2f} of local:{WORKERS} in {name}"
            print(f"sweep of {CELLS} cells on {WORKERS} workers: {shown}  {ratios}", flush=True)

        def start_host(scenario: Scenario) -> InstanceHost:
            count = count_processes(scenario)
            return ClusterHost(client, address, library=scenario.pool.kind, count=count, workers=4)

        with ThrowAwayServers() as here, ThrowAwayServers(remote=True) as there:
            loads = [measure_live(there, start_host) / measure_live(here, start_here) for _ in rounds]
        print(f"live select1 on {WORKERS} workers: {median(loads):.2f} of a run without a cluster  {sorted(loads)}")


if __name__ == "__main__":
    main()
