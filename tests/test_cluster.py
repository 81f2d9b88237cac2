"""Sweeps and live load on a Dask cluster of real processes: the same results, whatever happens to its workers.

What needs hosts with addresses of their own is in test_cluster_network.py.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import run_here
from sandboxes import eventually

from poolctl.engines.cluster.client import connect_cluster, wait_for_workers
from poolctl.engines.cluster.cluster_host import ClusterHost
from poolctl.engines.cluster.place import parse_place
from poolctl.engines.cluster.worker_side import exchange
from poolctl.engines.model import compiled
from poolctl.engines.sandbox.server import free_port
from poolctl.errors import BadInput, CannotDo

Client = pytest.importorskip("distributed").Client
pytestmark = pytest.mark.server

SWEEP = ("simulate", "--sweep", "pool.max_open=2..13", "--sweep", "load.instances=2,4", "--json", "--quiet")
LONG = ("simulate", "--replications", "40", "--for", "2m", "--set", "load.instances=10", "--json", "--quiet")


class Cluster:
    """A scheduler and its workers, each a process."""

    def __init__(self, folder: Path, protocol: str) -> None:
        self._folder = folder
        self._protocol = protocol
        self.address = f"{protocol}://127.0.0.1:{free_port()}"
        self.scheduler = self._start("scheduler", "--port", self.address.rpartition(":")[2])
        self.workers: list[subprocess.Popen[bytes]] = []

    def _start(self, kind: str, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments, "--host", "127.0.0.1"]
        command += ["--protocol", self._protocol]
        with (self._folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--no-dashboard"],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), **environment},
                start_new_session=True,
            )

    def add_worker(self, **environment: str) -> "subprocess.Popen[bytes]":
        worker = self._start("worker", self.address, "--nthreads", "1", "--no-nanny", **environment)
        self.workers.append(worker)
        return worker

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path, workers: int, protocol: str = "tcp") -> Iterator[Cluster]:
    started = Cluster(folder, protocol)
    try:
        for _ in range(workers):
            started.add_worker()
        yield started
    finally:
        started.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("dask"), 2) as started:
        yield started


def poolctl(*arguments: str, timeout: float = 300.0) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "poolctl", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def document(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_sweep_on_a_cluster_gives_what_it_gives_here_bit_for_bit(shared: Cluster) -> None:
    there, here = poolctl(*SWEEP, "--on", shared.address), poolctl(*SWEEP, "--on", "local:1")

    assert (there.returncode, there.stderr) == (0, "")
    assert there.stdout == here.stdout
    assert len(document(there)["points"]) == 24


def test_a_recommendation_that_is_tried_on_a_cluster_is_the_one_tried_here(shared: Cluster) -> None:
    figures = ("--arrival-rate", "100", "--hold-time", "8ms", "--instances", "4")
    command = ("recommend", *figures, "--verify", "--json", "--quiet")
    there, here = (document(poolctl(*command, "--on", place)) for place in (shared.address, "local:1"))

    assert there["verification"]["passed"]
    assert {**there, "repeat": ""} == {**here, "repeat": ""}


@contextmanager
def long_batch(started: Cluster, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A batch whose runs are under way; it ends with the block, whatever happened to the cluster."""
    command = [sys.executable, "-m", "poolctl", *LONG, *arguments, "--on", started.address]
    with ExitStack() as ended:
        # First: to reach a scheduler that is only starting can take longer than the whole batch.
        with Client(started.address) as watcher:
            running = ended.enter_context(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c
                )
            )
            ended.callback(running.kill)
            eventually(lambda: running.poll() is not None or any(watcher.processing().values()))
            assert running.poll() is None, running.communicate()
        yield running


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_costs_no_result(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as started, long_batch(started) as running:
        started.workers[0].kill()
        output, errors = running.communicate(timeout=300)

    found = json.loads(output)
    assert (running.returncode, errors) == (0, "")
    assert len(found["seeds"]) == 40


@pytest.mark.slow
def test_a_scheduler_that_is_lost_ends_the_batch_with_one_line(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as started, long_batch(started, "--replications", "400") as running:
        started.scheduler.kill()
        output, errors = running.communicate(timeout=180)

    assert running.returncode == 3
    assert json.loads(output)["error"]["code"] == "cannot-do"
    assert "the scheduler is gone" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_ctrl_c_cancels_what_is_left_and_reports_what_is_done(shared: Cluster) -> None:
    with long_batch(shared, "--replications", "400") as running:
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=180)

    found = json.loads(output)
    assert running.returncode == 130
    assert found["status"] == "interrupted"
    # The cluster is free again for the next batch.
    assert poolctl(*SWEEP, "--on", shared.address).returncode == 0


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_tls_takes_dasks_own_settings_and_a_wrong_certificate_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_certificate(name: str) -> dict[str, str]:
        key, certificate = str(tmp_path / f"{name}.key"), str(tmp_path / f"{name}.pem")
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost")
        subprocess.run(["openssl", *new, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        tls = "DASK_DISTRIBUTED__COMM__TLS__"
        pairs = {
            f"{tls}{role}__{part}": path
            for role in ("SCHEDULER", "WORKER", "CLIENT")
            for part, path in (("KEY", key), ("CERT", certificate))
        }
        return {f"{tls}CA_FILE": certificate, **pairs}

    right, wrong = make_certificate("right"), make_certificate("wrong")
    for name, value in right.items():
        monkeypatch.setenv(name, value)
    with cluster(tmp_path, 1, protocol="tls") as started:
        done = poolctl(*SWEEP, "--on", started.address)
        for name, value in wrong.items():
            monkeypatch.setenv(name, value)
        refused = poolctl(*SWEEP, "--on", started.address)

    assert (done.returncode, done.stderr) == (0, "")
    assert (refused.returncode, document(refused)["error"]["code"]) == (3, "cannot-connect")
    assert "no Dask scheduler answers" in refused.stderr.splitlines()[0]
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(not compiled.is_there(), reason="the compiled kernel of this version is not built")
def test_a_worker_with_another_kernel_is_refused_by_name_before_anything_runs(tmp_path: Path) -> None:
    with cluster(tmp_path, 0) as started:
        started.add_worker(POOLCTL_KERNEL="plain")
        refused = poolctl(*SWEEP, "--on", started.address)

    assert refused.returncode == 3
    assert "worker tcp://127.0.0.1:" in refused.stderr
    assert "kernel plain; this machine has" in refused.stderr


def test_an_upgrade_does_not_change_the_version_of_a_worker_that_runs_on(tmp_path: Path) -> None:
    metadata = tmp_path / "poolctl-9.8.dist-info" / "METADATA"
    metadata.parent.mkdir()
    program = f"""
import pathlib
from poolctl.engines.cluster.client import describe_worker
pathlib.Path({str(metadata)!r}).write_text("Name: poolctl\\nVersion: 9.9\\n")
print(describe_worker().poolctl)
"""
    metadata.write_text("Name: poolctl\nVersion: 9.8\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.strip() == "9.8"


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "psycopg_pool":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.slow
def test_a_worker_without_the_library_of_the_pool_is_refused_by_name_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    load = ("simulate", "--set", "pool.kind=psycopg_pool", "--sandbox-listen", "127.0.0.1", "--per-worker", "1")
    with cluster(tmp_path, 1) as started:
        started.add_worker(PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
        refused = poolctl(*load, "--set", "load.instances=2", "--on", started.address)

    assert refused.returncode == 3
    assert f"--on {started.address}: worker tcp://127.0.0.1:" in refused.stderr
    assert "cannot run a psycopg_pool pool: No module named 'psycopg_pool'" in refused.stderr
    assert "starting" not in refused.stderr


@pytest.mark.slow
def test_tls_without_certificates_is_refused_with_where_to_name_them() -> None:
    refused = poolctl(*SWEEP, "--on", "tls://127.0.0.1:1")

    assert refused.returncode == 3
    assert "cannot use the certificates for tls: none are configured" in refused.stderr
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_no_scheduler_and_one_that_speaks_something_else_cost_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (free_port(), silent.getsockname()[1]):
            refused = poolctl(*SWEEP, "--on", f"tcp://127.0.0.1:{port}")

            assert refused.returncode == 3
            assert document(refused)["error"]["code"] == "cannot-connect"
            assert "no Dask scheduler answers" in refused.stderr.splitlines()[0]
            assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "place", ["", "here", "local:0", "local:x", "tcp://", "tcp://host", "http://host:1", "tcp://h:x", "tcp://u:s@h:1"]
)
def test_a_place_that_is_none_is_refused_with_what_is_one(place: str) -> None:
    with pytest.raises(BadInput, match="neither this machine nor a Dask scheduler"):
        parse_place(place)


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("local", (None, "")),
        ("local:3", (3, "")),
        ("tcp://scheduler:8786", (None, "tcp://scheduler:8786")),
        ("tls://[::1]:8786", (None, "tls://[::1]:8786")),
    ],
)
def test_a_place_is_this_machine_or_the_address_of_a_scheduler(place: str, found: tuple[int | None, str]) -> None:
    assert parse_place(place) == found


def test_a_recommendation_says_where_before_it_measures() -> None:
    figures = ("recommend", "--arrival-rate", "100", "--hold-time", "8ms", "--instances", "4", "--json")
    untried, nowhere = run_here(*figures, "--on", "local:2"), run_here(*figures, "--verify", "--on", "here")

    assert (untried.returncode, nowhere.returncode) == (2, 2)
    assert "--on says where --verify runs" in untried.stderr
    assert "neither this machine nor a Dask scheduler" in nowhere.stderr


def test_a_live_load_on_a_cluster_needs_a_server_that_its_workers_reach() -> None:
    refused = run_here("simulate", "--on", "tcp://127.0.0.1:1")

    assert refused.returncode == 2
    assert "listens on 127.0.0.1, where no worker of a cluster reaches it" in refused.stderr
    assert "--sandbox-listen" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--engine", "model", "--on", "tcp://127.0.0.1:1"), "--on tcp://127.0.0.1:1 goes with --sweep"),
        (("--on", "http://127.0.0.1:1"), "--on http://127.0.0.1:1: is neither this machine nor a Dask scheduler"),
        (("--on", "local:2"), "a live load takes the address of a Dask scheduler"),
        (("--per-worker", "2"), "--per-worker is about a live load on a cluster"),
        (("--sandbox-listen", "127.0.0.1"), "--sandbox-listen is about a live load on a cluster"),
        (("--on", "tcp://127.0.0.1:1", "--sandbox-listen", "127.0.0.1", "--target", "host=a"), "give one of the two"),
        (("--on", "tcp://127.0.0.1:1", "--sandbox-listen", "0.0.0.0"), "must be one address of this machine"),
    ],
)
def test_where_a_live_load_cannot_run_is_refused_before_anything_starts(arguments: Sequence[str], reason: str) -> None:
    refused = run_here("simulate", *arguments)

    assert refused.returncode == 2
    assert reason in refused.stderr


@pytest.mark.slow
def test_a_live_load_of_a_real_library_is_spread_and_deployed_over_workers(shared: Cluster, tmp_path: Path) -> None:
    scenario = tmp_path / "deploy.toml"
    scenario.write_text(
        """
        name = "a deploy on two machines"
        database = { listen = "127.0.0.1" }
        pool = { kind = "psycopg_pool", max_open = 2 }
        load = { instances = 2, workers = 3, hold = "20ms", duration = "4s" }
        events = [{ at = "2s", do = "deploy", overlap = "500ms" }]
        """
    )
    done = poolctl("simulate", str(scenario), "--on", shared.address, "--json")
    found = document(done)

    assert done.returncode == 0, done.stderr
    assert [machine["instances"] for machine in found["machines"]] == [2, 2]
    assert sum(machine["acquired"] for machine in found["machines"]) == found["summary"]["acquired"] > 0
    assert not any(machine["lost"] for machine in found["machines"])
    assert found["summary"]["server"]["peak_connections"] >= 4


@pytest.mark.slow
def test_ctrl_c_ends_a_live_load_on_every_worker_and_reports_what_was_measured(shared: Cluster) -> None:
    command = ("simulate", "--on", shared.address, "--sandbox-listen", "127.0.0.1", "--set", "load.instances=2")
    with subprocess.Popen(
        [sys.executable, "-m", "poolctl", *command, "--for", "10m", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_ctrl_c,
    ) as running:
        assert running.stderr is not None
        while "acquired" not in (line := running.stderr.readline()):
            assert line, "the load ended before it was measured"
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=180)

    found = json.loads(output)
    assert running.returncode == 130
    assert found["status"] == "interrupted"
    assert [machine["acquired"] > 0 for machine in found["machines"]] == [True, True]
    # Each worker has told its program to end, and waits for the next run.
    assert all(not psutil.Process(worker.pid).children() for worker in shared.workers)


def test_too_few_workers_are_waited_for_and_then_refused(shared: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolctl.engines.cluster.client.WORKERS_TIMEOUT", 0.5)
    notes: list[str] = []
    with connect_cluster(shared.address, stop=lambda: False, note=notes.append) as client:
        wait_for_workers(client, shared.address, 2, lambda: False, notes.append)
        notes.clear()
        with pytest.raises(CannotDo, match=r"has 2 of the 3 workers that are needed after 0\.5 s"):
            ClusterHost(
                client, shared.address, library="database/sql", count=6, workers=1, per_worker=2, note=notes.append
            )

    assert notes == [f"waiting for workers of {shared.address}: 2 of 3 are there"]


def test_the_wait_for_workers_is_shown_unless_progress_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolctl.engines.cluster.client.WORKERS_TIMEOUT", 0.5)
    with cluster(tmp_path, 0) as started:
        quiet, shown = run_here(*SWEEP, "--on", started.address), run_here(*SWEEP[:-1], "--on", started.address)

    refusal = f"poolctl: --on {started.address}: the scheduler has no worker after 0.5 s"
    assert quiet.stderr.splitlines()[0] == refusal
    assert shown.stderr.splitlines()[:2] == [f"waiting for workers of {started.address}: 0 of 1 are there", refusal]


@contextmanager
def machine_program(**order: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """The program of a machine's share, without Dask: what the client and a worker would send is sent here."""
    words = json.dumps({"library": "database/sql", "numbers": [7], "workers": 1} | order)
    with subprocess.Popen(
        [sys.executable, "-m", "poolctl.engines.cluster.machine_program", words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PGHOST": "nowhere"},
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def test_a_machine_says_why_it_does_not_reach_the_server() -> None:
    with machine_program() as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"check host=127.0.0.1 port=1 user=app\n")
        program.stdin.flush()
        name, _, message = program.stdout.readline().partition(b" ")

    assert name == b"check"
    assert "Connection refused" in json.loads(message)["refused"]


def test_a_machine_without_memory_for_its_share_refuses_it() -> None:
    with machine_program(workers=10**9) as program:
        output, _ = program.communicate(timeout=120)

    number, _, message = output.partition(b" ")
    assert number == b"7"
    assert "of memory" in json.loads(message)["failed"]["message"]


def test_a_worker_that_was_started_again_at_its_address_says_so() -> None:
    answer = asyncio.run(exchange("a run of the worker before", b"\n"))

    assert answer.ended == "ended with the worker, which was started again"


@pytest.mark.slow
def test_a_machine_that_hears_nothing_ends_its_share_by_itself() -> None:
    with machine_program() as program:
        assert program.stdin is not None
        assert program.wait(timeout=30) == -signal.SIGALRM
