"""The machine's view of real servers and real client processes: who they are, whether they live, what waits."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sandboxes import connect, eventually, one, own_temporary_directory
from test_poolers import skip_without

from poolctl.engines.sandbox import Sandbox
from poolctl.observe.host import Host
from poolctl.observe.pgbouncer import PgBouncer
from poolctl.observe.postgres import Postgres
from poolctl.observe.snapshot import Backend, BackendTitle, ClientProcess, HostSample, ServerSample

pytestmark = pytest.mark.server

CLIENT = str(Path(__file__).with_name("host_client.py"))
CLONE_NEWNET = 0x40000000
IS_ROOT = os.name == "posix" and os.geteuid() == 0


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=12, reserved=1, settings={"cluster_name": "west: 1"}) as running,
    ):
        let_everybody_in(running)
        yield running


def let_everybody_in(sandbox: Sandbox) -> None:
    """As any role, and over a Unix socket too."""
    with (sandbox.directory / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 127.0.0.1/32 trust\nlocal all all trust\n")
    with closing(connect(sandbox.admin_conninfo)) as admin:
        admin.execute("SELECT pg_reload_conf()")


@pytest.fixture
def server(sandbox: Sandbox) -> Iterator[Postgres]:
    with closing(Postgres(sandbox.admin_conninfo)) as server:
        eventually(lambda: clients_of(sample_of(server)) == [])
        yield server


@contextlib.contextmanager
def client(conninfo: str, statement: str = "SELECT 1", count: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that holds ``count`` connections and has begun ``statement`` on them."""
    argv = [sys.executable, CLIENT, conninfo, statement, str(count)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def port_of(sandbox: Sandbox) -> int:
    return int(sandbox.direct_conninfo.split("port=")[1].split()[0])


def sample_of(server: Postgres) -> ServerSample:
    sample = server.sample()
    assert sample is not None, server.source
    return sample


def clients_of(sample: ServerSample) -> list[Backend]:
    return [backend for backend in sample.clients if backend.application != "poolctl"]


def look(host: Host, server: Postgres | None = None) -> HostSample:
    sample = host.sample(sample_of(server), server.facts) if server is not None else host.sample(None, None)
    assert sample is not None, host.source
    return sample


def host_of(sandbox: Sandbox) -> Host:
    return Host("127.0.0.1", port_of(sandbox))


def processes_of(sample: HostSample, pid: int) -> list[ClientProcess]:
    return [process for process in sample.processes if process.pid == pid]


def test_a_title_and_a_process_stand_behind_each_backend(sandbox: Sandbox, server: Postgres) -> None:
    with client(f"password=s3cr3t {sandbox.direct_conninfo}") as process:
        eventually(lambda: [one.state for one in clients_of(sample_of(server))] == ["idle"])
        sample = look(host_of(sandbox), server)
        (backend,) = clients_of(sample_of(server))

    assert sample.has_server
    assert sample.sees_all_sockets
    (title,) = sample.titles
    assert title == BackendTitle(backend.pid, "app", "app", "127.0.0.1", backend.client_port, "idle", title.started_at)
    assert title.started_at is not None
    assert backend.started_at is not None
    assert abs(title.started_at - backend.started_at) < 1.0
    (owner,) = processes_of(sample, process.pid)
    assert owner.port == backend.client_port
    assert owner.status in ("sleeping", "running", "disk-sleep")
    assert "password=***" in owner.command
    assert "s3cr3t" not in repr(sample)
    assert sample.unowned_ports == ()


def test_a_role_without_privilege_finds_the_process_of_a_single_client(sandbox: Sandbox) -> None:
    """Its rows say no ports and no starts, and the helpers that have a user have no title that says so."""
    with connect(sandbox.admin_conninfo) as admin:
        admin.execute("CREATE ROLE stranger LOGIN")
    try:
        with (
            client(sandbox.direct_conninfo) as process,
            closing(Postgres(make_conninfo(sandbox.direct_conninfo, user="stranger"))) as seen,
        ):
            sample = look(host_of(sandbox), seen)
    finally:
        with connect(sandbox.admin_conninfo) as admin:
            admin.execute("DROP ROLE stranger")

    assert sample.has_server
    assert [title.user for title in sample.titles] == ["app"]
    assert len(processes_of(sample, process.pid)) == 1


def test_poolctl_s_own_backend_is_not_among_the_titles(sandbox: Sandbox, server: Postgres) -> None:
    sample = look(host_of(sandbox), server)

    assert sample.titles == ()
    assert processes_of(sample, os.getpid()) == []


def test_a_stopped_client_is_called_stopped(sandbox: Sandbox, server: Postgres) -> None:
    with client(sandbox.direct_conninfo) as process:
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        sample = look(host_of(sandbox), server)
        process.send_signal(signal.SIGCONT)

    assert [owner.status for owner in processes_of(sample, process.pid)] == ["stopped"]
    assert sample.unowned_ports == ()


def test_the_port_of_a_killed_client_belongs_to_nobody_while_its_query_goes_on(
    sandbox: Sandbox, server: Postgres
) -> None:
    host = host_of(sandbox)
    with client(sandbox.direct_conninfo, "SELECT pg_sleep(60)") as process:
        eventually(lambda: [one.state for one in clients_of(sample_of(server))] == ["active"])
        before = look(host, server)
        process.kill()
        process.wait()
        (orphan,) = clients_of(sample_of(server))
        sample = look(host, server)
        without_the_server = look(host_of(sandbox))

    assert before.unowned_ports == ()
    assert sample.unowned_ports == without_the_server.unowned_ports == (orphan.client_port,)
    assert [title.pid for title in sample.titles] == [orphan.pid]
    with closing(connect(sandbox.admin_conninfo)) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", [orphan.pid])


def test_a_client_that_left_by_itself_leaves_no_port(sandbox: Sandbox, server: Postgres) -> None:
    host = host_of(sandbox)
    for _ in range(20):
        connect(sandbox.direct_conninfo).close()
        assert look(host, server).unowned_ports == ()


def test_a_server_that_refuses_everybody_still_shows_who_holds_its_slots(sandbox: Sandbox) -> None:
    eventually(lambda: look(host_of(sandbox)).titles == ())
    with client(sandbox.direct_conninfo, "BEGIN", count=11) as process:
        with pytest.raises(psycopg.OperationalError, match="remaining connection slots are reserved"):
            connect(sandbox.direct_conninfo)
        host = host_of(sandbox)
        eventually(lambda: {title.state for title in look(host).titles} == {"idle in transaction"})
        sample = look(host)

    assert [(title.user, title.database) for title in sample.titles] == [("app", "app")] * 11
    assert {title.client_port for title in sample.titles} == {one.port for one in processes_of(sample, process.pid)}
    assert sample.unowned_ports == ()
    assert host.source.ok


def test_a_backend_that_waits_for_a_lock_says_so_in_its_title(sandbox: Sandbox, server: Postgres) -> None:
    with closing(connect(sandbox.direct_conninfo)) as blocker:
        blocker.execute("SELECT pg_advisory_lock(1)")
        with client(sandbox.direct_conninfo, "SELECT pg_advisory_lock(1)"):
            host = host_of(sandbox)
            eventually(lambda: [one.state for one in look(host, server).titles if "waiting" in one.state] != [])
            states = {title.state for title in look(host, server).titles}

    assert states == {"idle", "SELECT waiting"}


@pytest.mark.parametrize(
    "role", ["report user", "x 10.0.0.1(99) idle", "[local] idle", "walsender of all", "a: b", "\x1b[31mred", "‮olleh"]
)
def test_names_that_imitate_a_title_deceive_nobody(sandbox: Sandbox, server: Postgres, role: str) -> None:
    quoted = '"' + role + '"'
    with closing(connect(sandbox.admin_conninfo)) as admin:
        admin.execute(f"DROP ROLE IF EXISTS {quoted}".encode())
        admin.execute(f"CREATE ROLE {quoted} LOGIN".encode())
    with closing(Postgres(sandbox.admin_conninfo)) as knowing:
        sample_of(knowing)
        with closing(psycopg.connect(sandbox.direct_conninfo, user=role, autocommit=True)) as held:
            pid = one(held, "SELECT pg_backend_pid()")
            titles = [title for title in look(host_of(sandbox), knowing).titles if title.pid == pid]

    if role.startswith("walsender "):
        assert titles == []
    else:
        assert [(title.user, title.database, title.client) for title in titles] == [(role, "app", "127.0.0.1")]


def test_two_servers_on_one_machine_are_not_mixed(
    sandbox: Sandbox, server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=12) as another,
        client(sandbox.direct_conninfo, count=2) as mine,
        client(another.direct_conninfo, count=3) as others,
        closing(Postgres(another.admin_conninfo)) as other_server,
    ):
        by_pids = [look(host_of(sandbox), server), look(host_of(another), other_server)]
        by_port = [look(host_of(sandbox)), look(host_of(another))]
        astray = look(Host("127.0.0.1", port_of(another)), server)

    for first, second in (by_pids, by_port):
        assert [len(processes_of(sample, mine.pid)) for sample in (first, second)] == [2, 0]
        assert [len(processes_of(sample, others.pid)) for sample in (first, second)] == [0, 3]
        assert {title.pid for title in first.titles}.isdisjoint(title.pid for title in second.titles)
    # The backends that a server reported count more than the address it was reached at, a pooler's perhaps.
    assert {title.pid for title in astray.titles} == {title.pid for title in by_pids[0].titles}


def test_backends_of_another_machine_are_not_taken_for_processes_of_this_one(
    sandbox: Sandbox, server: Postgres
) -> None:
    with client(sandbox.direct_conninfo):
        sample = sample_of(server)
        elsewhere = replace(
            sample,
            backends=tuple(
                replace(one, client_port=None if one.client_port is None else 1, started_at=1.0)
                for one in sample.backends
            ),
        )
        host = Host("192.0.2.7", 5432)
        seen = host.sample(elsewhere, None)

    assert seen is not None
    assert not seen.has_server
    assert (seen.titles, seen.unowned_ports, seen.cores, seen.server_cpu) == ((), (), None, None)
    assert not seen.sees_all_sockets
    assert host.source.reason == "the server is not on this machine: no process titles"


def test_what_the_server_s_processes_use_is_measured_between_two_looks(sandbox: Sandbox, server: Postgres) -> None:
    host = host_of(sandbox)
    first = look(host, server)
    with client(sandbox.direct_conninfo, "SELECT count(*) FROM generate_series(1, 300000000)"):
        eventually(lambda: (look(host, server).server_cpu or 0.0) > 0.02, within=20.0)
        sample = look(host, server)

    assert (first.cpu_share, first.server_cpu) == (None, None)
    assert sample.cores is not None
    assert 1 <= sample.cores <= (os.cpu_count() or 1)
    assert sample.cpu_share is None or 0 < sample.cpu_share <= 1


def test_connections_that_a_frozen_server_does_not_accept_are_counted(sandbox: Sandbox) -> None:
    host = host_of(sandbox)
    port = port_of(sandbox)
    with contextlib.ExitStack() as held:
        held.callback(sandbox.resume)
        sandbox.pause()
        for _ in range(3):
            held.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        held.enter_context(closing(socket.create_connection(("127.0.0.1", port)))).close()
        frozen = look(host).listen_queues[port]
    eventually(lambda: look(host).listen_queues[port] == 0)

    assert frozen == 3


def test_a_client_of_pgbouncer_is_found_by_its_port(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without("pgbouncer")
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=12, via="pgbouncer") as pooled,
        client(pooled.conninfo) as process,
        closing(PgBouncer(pooled.pooler_admin_conninfo or "")) as console,
        closing(Postgres(pooled.admin_conninfo)) as server,
    ):
        assert console.port is not None
        host = Host("127.0.0.1", port_of(pooled), pooler_ports=[console.port])
        eventually(lambda: [link.link for link in (console.sample() or ServerSample).clients] != [""])  # type: ignore[union-attr]
        bouncer = console.sample()
        sample = look(host, server)

    assert bouncer is not None
    (link,) = bouncer.clients
    assert [owner.port for owner in processes_of(sample, process.pid)] == [link.port]
    (upstream,) = (owner for owner in sample.processes if "pgbouncer" in owner.command)
    assert upstream.port in [title.client_port for title in sample.titles]
    assert sample.listen_queues == {port_of(pooled): 0, console.port: 0}


@pytest.fixture
def unix_folder(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the server's Unix socket. The path of one has to be short."""
    with own_temporary_directory(tmp_path_factory) as folder:
        folder.chmod(0o777)
        with closing(connect(sandbox.admin_conninfo)) as admin:
            admin.execute(f"ALTER SYSTEM SET unix_socket_directories = '{folder}'".encode())
        sandbox.restart()
        try:
            yield folder
        finally:
            with closing(connect(sandbox.admin_conninfo)) as admin:
                admin.execute("ALTER SYSTEM RESET unix_socket_directories")
            sandbox.restart()


def test_clients_over_a_unix_socket_are_found_through_the_kernel(sandbox: Sandbox, unix_folder: Path) -> None:
    port = port_of(sandbox)
    conninfo = f"host={unix_folder} port={port} user=app dbname=app"
    host = Host(str(unix_folder), port)
    with client(conninfo) as idle, client(conninfo, "SELECT pg_sleep(60)") as killed:
        eventually(lambda: len(look(host).titles) == 2)
        before = look(host)
        backends = {owner.pid: owner.backend_pid for owner in before.processes}
        killed.kill()
        killed.wait()
        after = look(host)

    assert [title.client for title in before.titles] == ["local", "local"]
    assert backends.keys() == {idle.pid, killed.pid}
    assert set(backends.values()) == {title.pid for title in before.titles}
    assert before.unowned_backends == ()
    assert after.unowned_backends == (backends[killed.pid],)
    with closing(connect(sandbox.admin_conninfo)) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", [backends[killed.pid]])


def in_a_child(before: Callable[[], object], act: Callable[[], Any]) -> Any:
    """What ``act`` returns in a process that has done ``before`` first and ends with it."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        try:
            before()
            os.write(writing, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:  # noqa: PTH123 - a file descriptor
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)


if IS_ROOT and psutil.LINUX:

    def test_an_ordinary_user_sees_titles_and_orphans_and_is_told_what_is_missing(
        sandbox: Sandbox, server: Postgres
    ) -> None:
        with client(sandbox.direct_conninfo), client(sandbox.direct_conninfo, "SELECT pg_sleep(60)") as killed:
            eventually(lambda: len([one for one in clients_of(sample_of(server)) if one.state == "active"]) == 1)
            (orphan,) = (one for one in clients_of(sample_of(server)) if one.state == "active")
            killed.kill()
            killed.wait()
            backends, facts = sample_of(server), server.facts

            def act() -> Any:
                host = host_of(sandbox)
                sample = host.sample(backends, facts)
                assert sample is not None
                return len(sample.titles), len(sample.processes), sample.unowned_ports, host.source.reason

            titles, processes, unowned, reason = in_a_child(lambda: os.setuid(65534), act)
        with closing(connect(sandbox.admin_conninfo)) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", [orphan.pid])

        assert titles >= 2
        assert processes == 0
        assert unowned == [orphan.client_port]
        assert reason.endswith("local clients belong to processes that are hidden from this user")

    def test_in_another_network_namespace_no_owner_means_nothing(sandbox: Sandbox, server: Postgres) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with client(sandbox.direct_conninfo, "SELECT pg_sleep(60)") as killed:
            eventually(lambda: [one.state for one in clients_of(sample_of(server))] == ["active"])
            killed.kill()
            killed.wait()
            backends, facts = sample_of(server), server.facts
            (orphan,) = clients_of(backends)

            def act() -> Any:
                sample = host_of(sandbox).sample(backends, facts)
                assert sample is not None
                return sample.has_server, sample.sees_all_sockets, sample.unowned_ports, len(sample.titles)

            seen = in_a_child(lambda: libc.unshare(CLONE_NEWNET), act)
        with closing(connect(sandbox.admin_conninfo)) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", [orphan.pid])

        assert seen[:3] == [True, False, []]
        assert seen[3] >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere sockets are not matched by their inodes")
def test_a_server_that_only_begins_to_start_is_not_taken_for_what_listens(tmp_path: Path) -> None:
    """It has no socket yet, and so none that would be hidden."""
    (tmp_path / "postgres").symlink_to(str(shutil.which("sleep")))
    starting = subprocess.Popen([str(tmp_path / "postgres"), "60"])
    try:
        eventually(lambda: psutil.Process(starting.pid).name() == "postgres")
        with socket.create_server(("127.0.0.1", 0)) as other:
            sample = Host("127.0.0.1", other.getsockname()[1]).sample(None, None)
    finally:
        starting.kill()
        starting.wait()

    assert sample is not None
    assert not sample.has_server


LISTENS = """
import socket, sys
listening = socket.create_server((sys.argv[1], 0))
print(listening.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere sockets are not matched by their inodes")
@pytest.mark.parametrize(("bound", "named"), [("127.0.0.1", "localhost"), ("0.0.0.0", "127.0.0.1")])
def test_the_process_that_figures_are_read_from_is_found_by_its_port(bound: str, named: str) -> None:
    command = [sys.executable, "-c", LISTENS, bound]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        port = int(listener.stdout.readline())
        places = {"here": (named, port), "elsewhere": ("192.0.2.7", port), "nothing there": (named, 1)}

        sample = Host(scraped=places).sample(None, None)

        assert sample is not None
        assert sample.scraped == {"here": listener.pid}
        listener.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel has no such table")
def test_connections_that_clients_here_closed_are_counted_by_the_port_they_went_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for _ in range(12):
            with socket.create_connection(("127.0.0.1", port)):
                accepted, _address = server.accept()
            # The client closed first, and so keeps its port for a minute.
            assert accepted.recv(1) == b""
            accepted.close()

        sample = Host("127.0.0.1", port).sample(None, None)

    assert sample is not None
    assert sample.closed == {port: 12}
