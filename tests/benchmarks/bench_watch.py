"""An hour of watching a large server: what a refresh costs, against the diagnosis of the same samples from scratch; and
how long the first verdict on 5,000 backends takes; and what a service costs at 500.

    python tests/benchmarks/bench_watch.py [BACKENDS] [SAMPLES]

The hour is played in memory: each sample is given to the follower, as the live view does once a second. Times are
processor time. The 5,000 backends are those of a real server with a view in place of its own list (``crowded.py``).
"""

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.follow import Follower
from poolctl.engines.sandbox import Sandbox
from poolctl.observe.snapshot import (
    IN_TRANSACTION,
    Backend,
    DatabaseCounters,
    Observation,
    ServerFacts,
    ServerSample,
    Snapshot,
    Source,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from crowded import crowded

STARTED = 1_700_000_000.0
BUSY = 0.05
"""Share of the backends that begin work between two samples."""
REST_SHARE = 0.7
"""Share of the ones at work that rest again by the next sample."""


def make_backend(number: int, at: float, state: str) -> Backend:
    since = at - random.random() * 0.5 if state == "idle" else at - random.random() * 0.05
    return Backend(
        1000 + number,
        "app",
        "shop",
        f"service {number % 20}",
        "client backend",
        f"10.0.{number % 20}.{number % 7}",
        30_000 + number,
        STARTED - 1000.0 - number * 0.01,
        None if state == "idle" else since - 0.01,
        since,
        since,
        state,
        None if state == "active" else "Client",
        None if state == "active" else "ClientRead",
        "select * from orders where id = $1",
    )


def play(backends: int, samples: int) -> Iterator[Snapshot]:
    rows = [make_backend(number, STARTED, "idle") for number in range(backends)]
    for number in range(samples):
        at = STARTED + number + random.random() * 0.01
        for place, row in enumerate(rows):
            if random.random() < BUSY:
                rows[place] = make_backend(place, at, random.choice(["idle", "active", "active", IN_TRANSACTION]))
            elif row.state != "idle" and random.random() < REST_SHARE:
                rows[place] = make_backend(place, at, "idle")
        counters = DatabaseCounters(
            "shop", backends, commits=number * 1000, sessions=backends, active_time=3.0 * number
        )
        yield Snapshot(at, ServerSample(at, STARTED - 1e6, tuple(rows), (counters,)))


def watch(backends: int, samples: int) -> None:
    server = ServerFacts("db", "18.6", 180006, "ops", "shop", backends + 103, 3, can_see_all=True)
    about = Observation((), server, (Source("postgres", "db"),), 1.0)
    follower, costs = Follower(), []
    for number, snapshot in enumerate(play(backends, samples)):
        began = time.process_time()
        follower.add(snapshot)
        if number % 60 == 0 or number > samples - 30:
            kept, diagnosis = follower.diagnose(about)
            costs.append(time.process_time() - began)
    began = time.process_time()
    assert diagnose(kept) == diagnosis
    scratch = time.process_time() - began
    refresh = statistics.median(costs[-30:])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{backends} backends, {samples} samples, {len(kept.snapshots)} kept, {follower.forgotten} forgotten")
    print(f"  a refresh: {refresh * 1e3:.0f} ms (goal: below 100); memory {memory:.0f} MB (goal: below 200)")
    print(f"  ratio to the same diagnosis from scratch: {refresh / scratch:.2f}")


def inspect_crowd(backends: int) -> None:
    with Sandbox.start(max_connections=backends + 100) as sandbox:
        took = {}
        for count in (10, backends):
            with crowded(sandbox.admin_conninfo, count) as conninfo:
                began = time.perf_counter()
                command = [sys.executable, "-m", "poolctl", "inspect", conninfo, "--quiet"]
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                memory = os.wait4(process.pid, 0)[2].ru_maxrss / 1024
                took[count] = time.perf_counter() - began
    more = took[backends] - took[10]
    print(f"{backends} backends inspected: {took[backends]:.1f} s, {more:+.1f} s against 10 backends (goal: below +1)")
    print(f"  memory: {memory:.0f} MB (goal: below 300)")


def record_crowd(backends: int, seconds: float) -> None:
    """Measure the share of a core that a service takes, once it has started."""
    with (
        Sandbox.start(max_connections=backends + 100) as sandbox,
        crowded(sandbox.admin_conninfo, backends) as conninfo,
        tempfile.TemporaryDirectory() as folder,
    ):
        command = [sys.executable, "-m", "poolctl", "inspect", conninfo, "--watch", "--record", folder, "--keep", "24h"]
        with subprocess.Popen([*command, "--on-finding", "warning"], stdout=subprocess.DEVNULL) as process:
            time.sleep(20.0)
            before = psutil.Process(process.pid).cpu_times()
            time.sleep(seconds)
            after = psutil.Process(process.pid).cpu_times()
            process.terminate()
    used = after.user + after.system - before.user - before.system
    print(f"a service at {backends} backends: {used / seconds:.2%} of a core (goal: below 1 %)")


def main() -> None:
    watch(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000, int(sys.argv[2]) if len(sys.argv) > 2 else 3_600)
    inspect_crowd(5_000)
    record_crowd(500, 120.0)


if __name__ == "__main__":
    main()
