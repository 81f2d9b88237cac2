"""A sweep and a live load on a Dask cluster of this machine beside the same without a cluster, as ratios of one run.

    python tests/benchmarks/bench_cluster.py [--rounds 5]

A ratio is the median over interleaved rounds. Above 1, the cluster is faster; both need the machine for themselves.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from bench_live import Silence

from poolctl.engines.cluster.client import connect_cluster, wait_for_workers
from poolctl.engines.cluster.cluster_host import ClusterHost
from poolctl.engines.cluster.place import run_at
from poolctl.engines.live.engine import count_processes, run_on, start_here
from poolctl.engines.live.instance_host import InstanceHost
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Scenario, parse_scenario

CELLS = 200
WORKERS = 2


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


def count_acquires(run: Run) -> int:
    """Keep one number of a run."""
    return run.summary.acquired


def time_sweep(place: str) -> float:
    """Return the seconds that the sweep takes at ``place``."""
    values = {"name": "bench", "load": {"instances": 4, "workers": 16, "hold": "20ms", "duration": 120}}
    scenarios = [parse_scenario({**values, "pool": {"max_open": 2 + cell % 50}}) for cell in range(CELLS)]
    began = time.monotonic()
    assert sum(1 for _ in run_at(place, scenarios, count_acquires)) == CELLS
    return time.monotonic() - began


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
        sweeps = [time_sweep(f"local:{WORKERS}") / time_sweep(address) for _ in rounds]
        print(
            f"sweep of {CELLS} cells on {WORKERS} workers: {median(sweeps):.2f} of local:{WORKERS}  {sorted(sweeps)}",
            flush=True,
        )

        def start_host(scenario: Scenario) -> InstanceHost:
            count = count_processes(scenario)
            return ClusterHost(client, address, library=scenario.pool.kind, count=count, workers=4)

        with ThrowAwayServers() as here, ThrowAwayServers(remote=True) as there:
            loads = [measure_live(there, start_host) / measure_live(here, start_here) for _ in rounds]
        print(f"live select1 on {WORKERS} workers: {median(loads):.2f} of a run without a cluster  {sorted(loads)}")


if __name__ == "__main__":
    main()
