"""Live load on a Dask cluster whose hosts have addresses of their own, and whose links are cut in the middle of it.

Every host is a network namespace (tests/network_hosts.py). A worker that dies, hangs or loses its network costs its
share and nothing else; nothing keeps running, and no backend stays, on any host.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from network_hosts import Network, NetworkHost, needs_network, wait_until

pytest.importorskip("distributed")
pytestmark = [pytest.mark.server, pytest.mark.slow, needs_network]

ENDS_WITHIN = 5.0
"""Seconds in which instances and backends of a lost machine end."""
BUSY = 4.0
"""Seconds more for a machine that runs other tests."""

DATABASE = """
import json, sys, psycopg
from poolctl.engines.sandbox import Sandbox
with Sandbox.start(listen=sys.argv[1], max_connections=60) as sandbox:
    print(sandbox.listen_conninfo, flush=True)
    with psycopg.connect(sandbox.admin_conninfo, autocommit=True) as server:
        for line in sys.stdin:
            rows = server.execute(
                "SELECT host(client_addr), count(*) FROM pg_stat_activity "
                "WHERE application_name LIKE 'poolctl simulate%' GROUP BY 1"
            ).fetchall()
            print(json.dumps(dict(rows)), flush=True)
"""

INSTANCES = ("poolctl.engines.instance", "poolctl.engines.cluster.machine_program")
# Statements that last longer than the test: a backend has to notice in the middle of one that its client is gone.
HOLDS = ("--set", "load.hold=30s")


class Site:
    """A client, a scheduler, a database and workers, each on a host of its own."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.client, self.scheduler, self.database = (network.add(name) for name in ("client", "scheduler", "db"))
        self.workers: list[NetworkHost] = []
        self.at = f"tcp://{self.scheduler.address}:8786"
        self._server = self.database.start("-c", DATABASE, self.database.address, is_heard=True)
        dask = ("-m", "distributed.cli.dask_scheduler", "--host", self.scheduler.address, "--port", "8786")
        self.dask_scheduler = self.scheduler.start(*dask, "--no-dashboard")
        assert self._server.stdout is not None
        conninfo = self._server.stdout.readline().strip()
        self.target, _, rest = conninfo.partition(" password=")
        self.password = rest.partition(" ")[0]

    def add_worker(self, *prefix: str) -> NetworkHost:
        host = self._network.add(f"worker{len(self.workers)}")
        dask = ("-m", "distributed.cli.dask_worker", self.at, "--host", host.address, "--nthreads", "1", "--no-nanny")
        host.start(*dask, "--no-dashboard", prefix=prefix)
        self.workers.append(host)
        return host

    def add_worker_beside_the_scheduler(self) -> None:
        """Start a worker that is known by 127.0.0.1, as where /etc/hosts has the host's own name beside it."""
        dask = ("-m", "distributed.cli.dask_worker", self.at, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny")
        self.scheduler.start(*dask, "--no-dashboard")

    def simulate(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a run on the client's host. Only this host's environment knows the password."""
        words = ("-m", "poolctl", "simulate", "--on", self.at, "--json", *arguments)
        return self.client.start(*words, is_heard=True, PGPASSWORD=self.password)

    def count_backends(self) -> dict[str, int]:
        """Count the backends of the load by the address of their client."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        found: dict[str, int] = json.loads(self._server.stdout.readline())
        return found

    def load(self, hosts: Sequence[NetworkHost], *arguments: str) -> "subprocess.Popen[str]":
        """Start a run with an instance on each of ``hosts``, and wait until all their connections are open."""
        where = ("--target", self.target, "--per-worker", "1", "--set", f"load.instances={len(hosts)}")
        run = self.simulate(*where, "--set", "load.workers=2", "--set", "pool.max_open=2", *arguments)
        expected = {host.address: 2 for host in hosts}
        wait_until(lambda: run.poll() is not None or self.count_backends() == expected, "all machines make load")
        assert run.poll() is None, run.communicate()
        return run

    def has_left(self, host: NetworkHost) -> bool:
        """Return True if no instance runs on ``host``, and no backend of it is on the server."""
        return not any(host.count_processes(part) for part in INSTANCES) and not self.count_backends().get(host.address)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    network = Network(tmp_path)
    try:
        yield Site(network)
    finally:
        network.end()


def finish(run: "subprocess.Popen[str]") -> tuple[dict[str, Any], str]:
    output, errors = run.communicate(timeout=120)
    assert "Traceback" not in errors
    return json.loads(output), errors


def test_two_machines_with_clocks_of_their_own_make_one_load(site: Site, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 0.4\n")
    # Its monotonic clock is a day ahead: the agreed instant must not rest on a common clock. The time of day is wrong.
    other_clocks = ("unshare", "--time", "--monotonic", "86400", "--fork", "--kill-child")
    ahead = site.add_worker("env", f"PYTHONPATH={os.pathsep.join([str(tmp_path), *sys.path])}", *other_clocks)
    slow = site.add_worker()
    slow.delay(0.08)
    run = site.simulate(
        *("--sandbox-listen", site.client.address, "--per-worker", "2", "--for", "4s"),
        *("--set", "load.instances=4", "--set", "load.workers=2", "--set", "pool.max_open=2"),
    )
    found, errors = finish(run)

    assert run.returncode == 0, errors
    machines, summary = found["machines"], found["summary"]
    assert [machine["instances"] for machine in machines] == [2, 2]
    assert not any(machine["lost"] for machine in machines)
    assert sum(machine["offered"] for machine in machines) == summary["offered"]
    assert summary["wait_time"]["count"] == sum(one["wait_time"]["count"] for one in found["instances"]) > 0
    assert summary["wait_time"]["max"] == max(one["wait_time"]["max"] for one in found["instances"])
    # Each began with the others, and not a day later.
    assert all(one["acquired"] > 10 for one in found["instances"])
    assert all(abs(machine["clock_offset"]) < 1 for machine in machines)
    assert [m["clock_offset"] > 0.3 for m in machines] == [m["name"].startswith(ahead.address) for m in machines]
    assert any(f"the clock of {ahead.address}:" in note and "ahead of" in note for note in found["notes"])
    (slow_row,) = [machine for machine in machines if machine["name"].startswith(slow.address)]
    assert slow_row["start_uncertainty"] > 0.05
    assert any(slow.address in note and "early or late" in note for note in found["notes"])
    assert "password" not in errors + json.dumps(found).replace("app_password", "")


def test_machines_that_die_hang_or_lose_their_network_cost_their_share_alone(site: Site, tmp_path: Path) -> None:
    hosts = killed, hung, cut, mute, healthy = [site.add_worker() for _ in range(5)]
    run = site.load(hosts, "--for", "15s", *HOLDS)
    os.kill(killed.processes[0].pid, signal.SIGKILL)
    os.kill(hung.processes[0].pid, signal.SIGSTOP)
    cut.cut()
    mute.mute()
    for host in (killed, hung, cut, mute):
        # One after the other: together they took no longer than the last of them.
        took = wait_until(lambda host=host: site.has_left(host), f"{host.address} is free")  # type: ignore[misc]
        assert took < ENDS_WITHIN + BUSY
    assert site.count_backends() == {healthy.address: 2}
    found, errors = finish(run)

    assert run.returncode == 3
    assert found["error"]["code"] == "cannot-do"
    lost = {machine["name"].partition(":")[0]: machine["lost"] for machine in found["machines"]}
    assert lost == {killed.address: True, hung.address: True, cut.address: True, mute.address: True} | {
        healthy.address: False
    }
    assert "4 of 5 instances" in found["error"]["message"]
    assert not any(
        (f["code"], f["confidence"]) in (("healthy", "likely"), ("healthy", "certain")) for f in found["findings"]
    )
    assert all(host.address in found["error"]["message"] for host in (killed, hung, cut, mute))
    (rest,) = [machine for machine in found["machines"] if not machine["lost"]]
    assert rest["acquired"] == 2
    logs = "".join(log.read_text(errors="replace") for log in tmp_path.glob("*.log"))
    assert "open_share" in logs
    assert site.password not in errors + json.dumps(found) + logs


def test_a_server_that_only_the_client_reaches_is_refused_by_the_name_of_a_worker(site: Site) -> None:
    worker = site.add_worker()
    found, errors = finish(site.simulate("--sandbox-listen", "127.0.0.1"))
    assert f"is one of this machine only, and worker {worker.address}:" in found["error"]["message"]

    worker.lose_way_to(site.database)
    run = site.simulate("--target", site.target, "--set", "pool.max_open=2", "--for", "1s")
    found, errors = finish(run)
    assert run.returncode == 3
    assert found["error"]["code"] == "cannot-connect"
    assert f"worker {worker.address}:" in errors
    assert "cannot connect to the server" in errors


def test_a_worker_that_is_known_by_a_loopback_address_is_not_taken_for_this_machine(site: Site) -> None:
    site.add_worker_beside_the_scheduler()
    found, _ = finish(site.simulate("--sandbox-listen", "127.0.0.1"))
    assert f"is one of this machine only, and worker {socket.gethostname()}:" in found["error"]["message"]

    run = site.simulate("--target", site.target, "--set", "pool.max_open=2", "--for", "1s")
    found, errors = finish(run)
    assert run.returncode == 0, errors
    assert [machine["name"].partition(":")[0] for machine in found["machines"]] == [socket.gethostname()]


def test_a_link_that_is_back_after_a_second_costs_nothing(site: Site) -> None:
    worker = site.add_worker()
    run = site.load([worker], "--for", "6s")
    worker.cut()
    time.sleep(1.0)  # how long the link is down is what is tested
    worker.restore()
    found, errors = finish(run)

    assert run.returncode == 0, errors
    assert [machine["lost"] for machine in found["machines"]] == [False]


def test_a_scheduler_that_is_lost_leaves_what_was_measured_and_nothing_else(site: Site) -> None:
    workers = [site.add_worker() for _ in range(2)]
    run = site.load(workers, "--for", "20s")
    time.sleep(2.0)  # so that there are figures of a second
    site.dask_scheduler.kill()
    took = wait_until(lambda: all(site.has_left(worker) for worker in workers), "the workers are free")
    found, _ = finish(run)

    assert took < ENDS_WITHIN + BUSY
    assert run.returncode == 3
    assert [machine["lost"] for machine in found["machines"]] == [True, True]
    assert found["summary"]["acquired"] > 0


@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_a_client_that_is_lost_leaves_nothing_running_anywhere(site: Site, fault: str) -> None:
    workers = [site.add_worker() for _ in range(2)]
    run = site.load(workers, "--for", "60s", *HOLDS)
    if fault == "killed":
        run.kill()
    else:
        site.client.cut()
    took = wait_until(lambda: all(site.has_left(worker) for worker in workers), "the workers are free")

    assert took < ENDS_WITHIN + BUSY
    if fault == "cut":
        found, _ = finish(run)
        assert run.returncode == 3
        assert [machine["lost"] for machine in found["machines"]] == [True, True]
