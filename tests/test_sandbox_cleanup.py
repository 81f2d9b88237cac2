"""Nothing is left running nor on disk, however poolctl ends: real child processes are really killed."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import pytest
from sandboxes import connect, eventually, is_gone, one, own_temporary_directory

from poolctl.engines.sandbox import Sandbox, stop_kept
from poolctl.engines.sandbox.directory import sweep_stale
from poolctl.errors import BadInput

pytestmark = pytest.mark.server

PROGRAM = """
import json, os, select, sys, time
from poolctl.engines.sandbox import Sandbox

with Sandbox.start(**json.loads(sys.argv[1])) as sandbox:
    worker = os.fork()
    if worker == 0:
        time.sleep(30)
        os._exit(0)
    if "paused" in sys.argv:
        sandbox.pause()
    print(json.dumps({
        "directory": str(sandbox.directory), "servers": sandbox.list_process_ids(), "guardian": sandbox.guardian_pid,
        "worker": worker, "conninfo": sandbox.conninfo,
    }), flush=True)
    # A signal that comes just before a read is noticed only after it.
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        pass
"""


@pytest.fixture(autouse=True)
def own_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_temporary_directory(tmp_path_factory) as path:
        yield path


class Child:
    """A program that holds a sandbox and has forked a worker, as a poolctl that simulates does."""

    def __init__(self, *modes: str, **arguments: Any) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(arguments), *modes],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def told(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def all_gone(pids: list[int]) -> bool:
    return all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize("modes", [(), ("paused",)], ids=["running", "paused"])
def test_killing_poolctl_ends_its_servers_though_a_forked_worker_lives_on(
    modes: tuple[str, ...], own_tmp: Path
) -> None:
    with Child(*modes) as child:
        told = child.told()
        kill(child.process.pid)

        eventually(lambda: all_gone([*told["servers"], told["guardian"]]) and not list(own_tmp.iterdir()))
        assert not is_gone(told["worker"])
        kill(told["worker"])


def test_killing_poolctl_while_the_server_is_being_made_leaves_nothing(own_tmp: Path) -> None:
    with Child() as child:
        eventually(lambda: any(own_tmp.glob("poolctl-*/data/base/1")))
        kill(child.process.pid)

        eventually(lambda: not list(own_tmp.iterdir()))


SHARED_MEMORY = """
import ctypes, json, os, pathlib, signal, subprocess, sys, time

CLONE_NEWIPC = 0x08000000
# Where it may be had, a table of shared memory that no other program fills: pytest runs beside others.
ctypes.CDLL(None).unshare(CLONE_NEWIPC)
table = pathlib.Path("/proc/sysvipc/shm")
folder = pathlib.Path(sys.argv[1])
number, program = int(sys.argv[2]), sys.argv[3]


def segments():
    return {line.split()[1] for line in table.read_text().splitlines()[1:]}


before, left, met = segments(), [], 0
for step in range(int(sys.argv[4])):
    child = subprocess.Popen([sys.executable, "-c", program, "{}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    while not any(folder.glob("poolctl-*/data/PG_VERSION")) and child.poll() is None:
        time.sleep(0.002)
    # Spread over what follows: the bootstrap server, and the one that runs SQL.
    time.sleep(step * 0.062)
    met += bool(segments() - before)
    os.kill(child.pid, number)
    child.communicate()
    deadline = time.monotonic() + 10
    while any(folder.glob("poolctl-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    left += segments() - before
    before = segments()
print(json.dumps({"left": left, "met": met, "folders": [str(path) for path in folder.iterdir()]}))
"""


def posix_segments() -> set[Path]:
    return set(Path("/dev/shm").glob("PostgreSQL.*"))


@pytest.mark.skipif(not Path("/proc/sysvipc/shm").exists(), reason="only Linux lists shared memory")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_killing_poolctl_at_any_moment_of_initdb_leaves_no_shared_memory(number: signal.Signals, own_tmp: Path) -> None:
    before = posix_segments()
    done = subprocess.run(
        [sys.executable, "-c", SHARED_MEMORY, str(own_tmp), str(int(number)), PROGRAM, "8"],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"},
    )

    found = json.loads(done.stdout)
    assert found["left"] == []
    assert found["folders"] == []
    assert found["met"] > 1
    # Tests beside this one make servers, too: their segments go by themselves within a second.
    new = posix_segments() - before
    eventually(lambda: not any(path.exists() for path in new), within=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_poolctl_that_is_told_to_end_takes_its_servers_along(number: int, own_tmp: Path) -> None:
    with Child() as child:
        told = child.told()
        child.process.send_signal(number)

        eventually(lambda: all_gone([*told["servers"], told["guardian"]]) and not list(own_tmp.iterdir()))
        kill(told["worker"])


def test_what_is_left_when_the_guardian_is_killed_too_goes_with_the_next_run_and_nothing_else_does(
    own_tmp: Path,
) -> None:
    unrelated = own_tmp / "poolctl-notes"
    unrelated.mkdir()
    with Child() as child, Sandbox.start() as neighbor:
        told = child.told()
        kill(told["guardian"], child.process.pid, told["worker"])
        eventually(lambda: is_gone(child.process.pid) and is_gone(told["guardian"]) and is_gone(told["worker"]))
        assert not is_gone(told["servers"][0])
        assert Path(told["directory"]).exists()

        with Sandbox.start() as following:
            assert all_gone(told["servers"])
            assert set(own_tmp.iterdir()) == {unrelated, neighbor.directory, following.directory}
            assert neighbor.is_alive()
    assert list(own_tmp.iterdir()) == [unrelated]


def test_a_sandbox_whose_guardian_was_killed_still_ends_with_its_owner(own_tmp: Path) -> None:
    with Sandbox.start() as sandbox:
        servers = sandbox.list_process_ids()
        kill(sandbox.guardian_pid)
        with connect(sandbox.conninfo) as application:
            assert one(application, "SELECT 1") == 1

    assert all_gone(servers)
    assert list(own_tmp.iterdir()) == []


def test_a_backend_that_outlives_its_killed_postmaster_is_ended_all_the_same(own_tmp: Path) -> None:
    with Sandbox.start() as sandbox:
        servers = sandbox.list_process_ids()
        with closing(connect(sandbox.conninfo)) as application:
            busy = application.info.backend_pid
            # Nothing in this statement looks whether the postmaster is still there.
            application.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")
            kill(servers[0])
            eventually(lambda: is_gone(servers[0]))
            assert not is_gone(busy)
            sandbox.stop()

            assert is_gone(busy)
    assert list(own_tmp.iterdir()) == []


def test_an_error_in_the_middle_ends_the_servers_too(own_tmp: Path) -> None:
    servers: list[int] = []

    def be_interrupted() -> None:
        with Sandbox.start() as sandbox:
            servers.extend(sandbox.list_process_ids())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert servers
    assert all_gone(servers)
    assert list(own_tmp.iterdir()) == []


def test_a_kept_sandbox_outlives_its_poolctl_until_it_is_stopped(own_tmp: Path) -> None:
    with Child(keep=True) as child:
        told = child.told()
        with pytest.raises(BadInput, match=rf"in use by a running poolctl \(process {child.process.pid}\)"):
            stop_kept(told["directory"])
        kill(told["worker"])
        child.process.communicate()
        eventually(lambda: is_gone(told["guardian"]))

        assert sweep_stale() == []
        with connect(told["conninfo"]) as application:
            assert one(application, "SELECT 1") == 1
        with (Path(told["directory"]) / "lock").open("rb") as swept:
            # Another poolctl is about to see that this sandbox is kept.
            fcntl.flock(swept, fcntl.LOCK_EX)
            Timer(0.2, fcntl.flock, (swept.fileno(), fcntl.LOCK_UN)).start()
            stop_kept(told["directory"])

    assert all_gone(told["servers"])
    assert list(own_tmp.iterdir()) == []


def test_a_kept_sandbox_whose_server_was_ended_by_hand_is_removed_by_the_next_run(own_tmp: Path) -> None:
    with Sandbox.start(keep=True) as sandbox:
        servers = sandbox.list_process_ids()
    psutil.Process(servers[0]).send_signal(signal.SIGQUIT)
    eventually(lambda: all_gone(servers))

    assert sweep_stale() == [sandbox.directory]
    assert list(own_tmp.iterdir()) == []


def test_a_sandbox_that_died_is_not_kept(own_tmp: Path) -> None:
    with Sandbox.start(keep=True) as sandbox:
        servers = sandbox.list_process_ids()
        psutil.Process(servers[0]).send_signal(signal.SIGQUIT)
        eventually(lambda: all_gone(servers))

    assert list(own_tmp.iterdir()) == []


def test_only_a_sandbox_can_be_stopped_by_its_folder(own_tmp: Path) -> None:
    precious = own_tmp / "poolctl-sandbox-precious"
    precious.mkdir()
    (precious / "file").touch()

    with pytest.raises(BadInput, match="is no throw-away server of this user"):
        stop_kept(precious)
    assert sweep_stale() == []
    assert (precious / "file").exists()
    with pytest.raises(BadInput, match="is gone: its server has stopped"):
        stop_kept(own_tmp / "poolctl-sandbox-stopped")
