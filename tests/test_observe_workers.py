"""How applications are laid out: their kind by the command line, their processes and connections for real."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandboxes import own_temporary_directory

from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput
from poolctl.observe.workers import WorkerProcess, WorkerView, find_workers, identify_software, read_configured

MASTER = """
import multiprocessing, sys, time
import psycopg

def work(conninfo, count, ready):
    clients = [psycopg.connect(conninfo) for _ in range(count)]
    ready.set()
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for count in map(int, sys.argv[2:]):
        ready = context.Event()
        context.Process(target=work, args=(sys.argv[1], count, ready), daemon=True).start()
        ready.wait()
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("command", "name", "kind"),
    [
        ("gunicorn: master [shop]", "gunicorn", "gunicorn"),
        ("/venv/bin/python3.11 /venv/bin/gunicorn shop:app -w 4", "gunicorn", "gunicorn"),
        ("/usr/bin/python3 -m uvicorn shop:app --workers 4", "python3", "uvicorn"),
        ("python manage.py runserver", "python", "python"),
        ("/usr/bin/python3.12 -c import_x", "python3.12", "python"),
        ("puma 6.4.2 (tcp://0.0.0.0:3000) [shop]", "ruby", "puma"),
        ("puma: cluster worker 0: 4711 [shop]", "ruby", "puma"),
        ("sidekiq 7.2.0 shop [2 of 10 busy]", "ruby", "sidekiq"),
        ("ruby bin/rails server", "ruby", "ruby"),
        ("/usr/bin/java -Xmx1g -jar shop.jar", "java", "java"),
        ("node server.js", "node", "node"),
        ("php-fpm: pool www", "php-fpm8.2", "php-fpm"),
        ("/usr/lib/erlang/bin/beam.smp -- -root", "beam.smp", "beam"),
        ("dotnet Shop.dll", "dotnet", "dotnet"),
        ("python -m celery -A shop worker", "python", "celery"),
        ("/srv/shop --listen :8080", "shop", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_the_kind_of_an_application_is_told_by_its_command_line(command: str, name: str, kind: str) -> None:
    assert identify_software(command.split(), name) == kind


def test_a_go_program_is_known_by_the_note_that_its_linker_leaves() -> None:
    note = b"\x7fELF" + bytes(900) + b"\x04\0\0\0\x53\0\0\0\x04\0\0\0Go\0\0"

    assert identify_software(["/srv/shop"], "shop", note) == "go"


@pytest.mark.parametrize(
    ("kind", "command", "configured"),
    [
        ("gunicorn", "gunicorn shop:app -w 4 --threads=8", {"workers": 4, "threads": 8}),
        ("gunicorn", "gunicorn shop:app -w4", {"workers": 4}),
        ("gunicorn", "gunicorn shop:app --workers", {}),
        ("uvicorn", "uvicorn shop:app --workers 2 --port 80", {"workers": 2}),
        ("puma", "puma -w 3 -t 0:5", {"workers": 3, "threads": 5}),
        ("celery", "celery -A shop worker -c 16", {"workers": 16}),
        ("java", "java -Xmx4g -w 3", {}),
        ("gunicorn", "gunicorn -w 99999999999", {}),
    ],
)
def test_the_command_line_says_how_many_workers_and_threads_were_asked_for(
    kind: str, command: str, configured: dict[str, int]
) -> None:
    assert read_configured(kind, command.split()) == configured


@given(st.lists(st.text()), st.text(), st.binary())
def test_no_command_line_stops_the_guess(arguments: list[str], name: str, program: bytes) -> None:
    configured = read_configured(identify_software(arguments, name, program), arguments)

    assert configured.keys() <= {"workers", "threads"}
    assert all(0 <= number < 1_000_000 for number in configured.values())


def test_workers_are_those_with_connections_and_their_like() -> None:
    master = WorkerProcess(1, None, "python app", 1, children=4)
    busy = WorkerProcess(2, 1, "python -c spawn_main", 5, connections=3)
    idle = WorkerProcess(3, 1, "python -c spawn_main", 5)
    tracker = WorkerProcess(4, 1, "python -c from multiprocessing.resource_tracker import main", 1)
    shell = WorkerProcess(5, 1, "/bin/sh -c x", 1)

    assert WorkerView("python", (master, busy, idle, tracker, shell)).workers == (busy, idle)
    assert WorkerView("python", (master, idle, tracker)).workers == (idle,)
    assert WorkerView("go", (master,)).workers == (master,)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=20) as running:
        yield running


@contextlib.contextmanager
def application(folder: Path, conninfo: str, *counts: int, name: str = "shop.py") -> Iterator[subprocess.Popen[bytes]]:
    script = folder / name
    script.write_text(MASTER)
    process = subprocess.Popen(
        [sys.executable, str(script), f"password=s3cr3t {conninfo}", *map(str, counts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.communicate()


@pytest.mark.server
def test_the_processes_and_connections_of_a_real_application_are_counted(sandbox: Sandbox, tmp_path: Path) -> None:
    port = int(sandbox.direct_conninfo.split("port=")[1].split()[0])
    with application(tmp_path, sandbox.direct_conninfo, 3, 2, 0) as process:
        by_pid = find_workers(process.pid, ports=[port])
        by_name = find_workers("shop", ports=[port])
        without_ports = find_workers(process.pid)

    assert by_pid.root.pid == by_name.root.pid == process.pid
    assert (by_pid.kind, by_pid.root.connections) == ("python", 0)
    assert sorted(worker.connections for worker in by_pid.workers) == [0, 2, 3]
    assert all(worker.parent == process.pid and worker.threads >= 1 for worker in by_pid.workers)
    assert by_pid.root.children >= 3
    assert len(without_ports.workers) == 3
    assert "s3cr3t" not in repr(by_pid)


@pytest.mark.server
def test_a_name_that_several_applications_have_asks_for_a_process_id(sandbox: Sandbox, tmp_path: Path) -> None:
    with (
        application(tmp_path, sandbox.direct_conninfo, name="twice.py") as first,
        application(tmp_path, sandbox.direct_conninfo, name="twice.py") as second,
        pytest.raises(BadInput, match="2 applications are named 'twice'") as raised,
    ):
        find_workers("twice")

    assert str(first.pid) in raised.value.hint
    assert str(second.pid) in raised.value.hint


@pytest.mark.parametrize("who", ["no such application", 2**22 + 1, -1])
def test_a_process_that_is_not_there_is_said(who: str | int) -> None:
    with pytest.raises(BadInput, match="there is no process"):
        find_workers(who)


def test_poolctl_does_not_take_itself_for_the_application_of_that_name() -> None:
    own = find_workers(os.getpid())

    assert own.root.pid == os.getpid()
    assert own.root.threads >= 1
    with contextlib.suppress(BadInput):
        assert find_workers("pytest").root.pid != os.getpid()
