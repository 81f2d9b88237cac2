"""A load on a server of the user's: what it leaves free until its end, and servers that behave badly."""

import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psutil
import psycopg
import pytest
from command_line import run_here
from live_runs import Recorder, assert_adds_up, run, scenario_of
from sandboxes import connect, eventually, one, own_temporary_directory
from test_poolers import skip_without
from watched import Clients

from poolctl.engines.live.engine import run_on
from poolctl.engines.live.live_servers import ThrowAwayServers, count_most_connections, open_target
from poolctl.engines.pgbench import Pgbench, Script
from poolctl.engines.sandbox import Sandbox
from poolctl.errors import CannotConnect, ServerFull
from poolctl.scenario.run import Run, TimelinePoint

pytestmark = pytest.mark.server

SLOTS, RESERVED = 40, 3


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=SLOTS, reserved=RESERVED) as running,
    ):
        with connect(running.admin_conninfo) as admin:
            admin.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 20")
            admin.execute("CREATE DATABASE small CONNECTION LIMIT 15")
            (running.directory / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
            admin.execute("SELECT pg_reload_conf()")
        yield running


@pytest.fixture
def target(sandbox: Sandbox) -> Iterator[str]:
    """The server without any client. The walsender that checks it would count as one to an ordinary role."""

    def is_alone() -> bool:
        with connect(sandbox.observer_conninfo) as observer:
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            return one(observer, query) == 0

    eventually(is_alone)
    yield sandbox.direct_conninfo
    eventually(is_alone)


def as_role(conninfo: str, role: str) -> str:
    return conninfo.replace("user=app", f"user={role}")


def take(servers: ThrowAwayServers, target: str, *, view: Recorder | None = None, **parts: object) -> Run:
    return run(servers, scenario_of(**parts), view=view, serve=lambda scenario: open_target(target, scenario))  # type: ignore[arg-type]


def test_the_limit_of_a_role_counts_less_what_the_role_uses(target: str) -> None:
    narrow = as_role(target, "narrow")
    with Clients(narrow) as clients:
        for _ in range(12):
            clients.open()
        with pytest.raises(ServerFull, match=r"8 free \(20 CONNECTION LIMIT of the role narrow - 12 used\)"):
            open_target(narrow, scenario_of(pool={"max_open": 5}))
        open_target(narrow, scenario_of(pool={"max_open": 4}))


def test_a_target_that_is_full_already_is_said_to_be_so_and_how_to_see_by_whom(target: str) -> None:
    narrow = as_role(target, "narrow")
    with Clients(narrow) as clients:
        for _ in range(20):
            clients.open()
        done = run_here("simulate", "--target", narrow)

    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "checking the server"
    assert "too many connections for role" in done.stderr
    assert "poolctl inspect reports which clients hold the slots" in done.stderr


def test_the_limit_of_a_database_counts_less_what_all_roles_use_there(target: str) -> None:
    small = target.replace("dbname=app", "dbname=small")
    with Clients(as_role(small, "narrow")) as clients:
        for _ in range(9):
            clients.open()
        with pytest.raises(ServerFull, match=r"6 free \(15 CONNECTION LIMIT of the database small - 9 used\)"):
            open_target(small, scenario_of(pool={"max_open": 3}))
        open_target(small, scenario_of(pool={"max_open": 2}))


@pytest.mark.parametrize(
    ("deploys", "overlap", "most"),
    [([], "1s", 11), ([2.0], "1s", 22), ([0.5, 1.0, 1.5], "3s", 44), ([1.0, 9.0], "1s", 22), ([1.0, 2.4], "1s", 33)],
)
def test_generations_that_overlap_count_together(deploys: list[float], overlap: str, most: int) -> None:
    scenario = scenario_of(
        pool={"max_open": 11, "max_idle": 11},
        load={"duration": "12s", "drain": "500ms"},
        events=[{"at": f"{at}s", "do": "deploy", "overlap": overlap} for at in deploys],
    )

    assert count_most_connections(scenario) == most


def test_several_deploys_are_refused_where_their_generations_do_not_fit(target: str) -> None:
    events = [{"at": at, "do": "deploy", "overlap": "3s"} for at in ("500ms", "1s", "1500ms")]

    with pytest.raises(ServerFull, match="up to 44 connections"):
        open_target(target, scenario_of(pool={"max_open": 11, "max_idle": 11}, load={"duration": "4s"}, events=events))


class Arrivals:
    """An application that arrives later and opens ``count`` connections, each tried again until it is let in."""

    def __init__(self, conninfo: str, count: int) -> None:
        self._conninfo, self._count = conninfo, count
        self._open = ExitStack()
        self._thread = threading.Thread(target=self._arrive)
        self.waits: list[float] = []

    def begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def end(self) -> None:
        self._thread.join()
        self._open.close()

    def _arrive(self) -> None:
        for _ in range(self._count):
            began = time.monotonic()
            while True:
                try:
                    self._open.enter_context(psycopg.connect(self._conninfo, connect_timeout=10))
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() - began < 60
                    time.sleep(0.05)
            self.waits.append(time.monotonic() - began)


@pytest.mark.parametrize("hold", ["20ms", "30s"])
def test_a_load_ends_at_once_when_clients_arrive(
    servers: ThrowAwayServers, sandbox: Sandbox, target: str, hold: str
) -> None:
    arrivals = Arrivals(target, 20)

    def watch(point: TimelinePoint) -> None:
        if point.at > 0.8:
            arrivals.begin()

    try:
        done = take(
            servers,
            target,
            view=Recorder(watch),
            pool={"max_open": 32, "max_idle": 32},
            load={"workers": 32, "hold": hold, "duration": "20s"},
        )
    finally:
        arrivals.end()

    assert done.failure is not None
    assert "other clients arrived" in done.failure
    assert "of the 4 that must stay free" in done.failure
    assert "40 max_connections - 3 reserved" in done.failure
    assert done.summary.duration < 4
    assert done.summary.acquired >= 32
    assert_adds_up(done)
    assert max(arrivals.waits) < 1.5


def test_a_load_that_uses_little_lets_others_come_and_go(servers: ThrowAwayServers, target: str) -> None:
    arrivals = Arrivals(target, 20)
    try:
        done = take(servers, target, view=Recorder(lambda point: arrivals.begin()), load={"duration": "2s"})
    finally:
        arrivals.end()

    assert done.failure is None
    assert max(arrivals.waits) < 1.0


def test_connections_that_are_closed_and_opened_all_the_time_do_not_end_a_load(
    servers: ThrowAwayServers, target: str
) -> None:
    done = take(
        servers,
        target,
        pool={"max_open": 32, "max_idle": 1, "max_lifetime": "100ms"},
        load={"workers": 40, "hold": "10ms", "duration": "2s"},
    )

    assert done.failure is None
    assert done.summary.connections.closed.total > 50


def test_of_two_runs_that_begin_together_the_later_one_is_refused(servers: ThrowAwayServers, target: str) -> None:
    outcomes: list[Run | ServerFull] = []

    def begin() -> None:
        try:
            pool, load = {"max_open": 20, "max_idle": 20}, {"workers": 20, "duration": "2s"}
            outcomes.append(take(servers, target, pool=pool, load=load))
        except ServerFull as error:
            outcomes.append(error)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    most = 0
    for thread in threads:
        thread.start()
    with connect(target) as observer:
        while any(thread.is_alive() for thread in threads):
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^poolctl simulate'"
            most = max(most, int(str(one(observer, query))))
    for thread in threads:
        thread.join()

    (refused,) = [each for each in outcomes if isinstance(each, ServerFull)]
    (done,) = [each for each in outcomes if isinstance(each, Run)]
    assert "20 for other runs of poolctl" in refused.message or "used" in refused.message
    assert done.failure is None
    assert most <= 20


def test_clients_that_arrive_while_the_instances_start_are_counted(servers: ThrowAwayServers, target: str) -> None:
    with Clients(target) as clients:

        def serve_and_fill(scenario: object) -> object:
            server = open_target(target, scenario)  # type: ignore[arg-type]
            for _ in range(15):
                clients.open()
            return server

        with pytest.raises(ServerFull, match=r"22 free .* 15 used"):
            run(servers, scenario_of(pool={"max_open": 30, "max_idle": 30}), serve=serve_and_fill)  # type: ignore[arg-type]


def test_a_load_ends_when_its_server_can_no_longer_be_counted(servers: ThrowAwayServers, sandbox: Sandbox) -> None:
    paused_at: list[float] = []

    def pause_once(_: object) -> None:
        if not paused_at:
            paused_at.append(time.monotonic())
            sandbox.pause()

    try:
        done = take(servers, sandbox.direct_conninfo, view=Recorder(pause_once), load={"duration": "60s"})
        took = time.monotonic() - paused_at[0]
    finally:
        sandbox.resume()

    assert done.failure is not None
    assert took < 40


def test_the_command_line_reports_arriving_clients_with_the_figures_and_the_exit_code_3(
    target: str,
) -> None:
    arguments = ["--target", target, "--set", "pool.max_open=31", "--set", "load.workers=31", "--for", "20s", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "poolctl", "simulate", *arguments, "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Tried again until they are let in: the load needs a moment to make room for all of them.
    arrivals = Arrivals(target, 8)
    with connect(target) as observer:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^poolctl simulate'"
        eventually(lambda: int(str(one(observer, query))) > 15, within=60)
        arrivals.begin()
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            arrivals.end()

    document = json.loads(output)
    assert process.returncode == 3, errors
    assert document["summary"]["acquired"] > 0
    assert "other clients arrived" in errors


# Servers that behave badly.

LOGIN = b"R\0\0\0\x08\0\0\0\0" + b"S\0\0\0\x19server_version\00018.6\0" + b"K\0\0\0\x0c\0\0\x0f\xa0\0\0\0\x07"
READY = b"Z\0\0\0\5I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def error(code: str, text: str) -> bytes:
    fields = b"".join(k + v.encode() + b"\0" for k, v in ((b"S", "ERROR"), (b"V", "ERROR"), (b"C", code), (b"M", text)))
    return message(b"E", fields + b"\0")


def table(columns: list[str], rows: list[list[str]]) -> bytes:
    header = b"".join(c.encode() + b"\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0) for c in columns)
    out = message(b"T", struct.pack("!h", len(columns)) + header)
    for row in rows:
        values = b"".join(struct.pack("!i", len(v)) + v.encode() for v in row)
        out += message(b"D", struct.pack("!h", len(row)) + values)
    return out + message(b"C", b"SELECT 1\0") + READY


def notices(end: socket.socket) -> None:
    while True:
        end.sendall(message(b"N", b"SNOTICE\0C00000\0Mand another\0\0") * 100)


WAIT, READ = "wait", "read"
# The first byte is quoted in the message, where a terminal gets a control character in other letters than JSON.
NOISE = b"x" + random.Random(1).randbytes(3999)
Step = bytes | str | Callable[[socket.socket], None]

BEHAVIORS: dict[str, list[Step]] = {
    "accepts and says nothing": [WAIT],
    "lets in and says nothing": [LOGIN + READY, WAIT],
    "lets in and closes": [LOGIN + READY],
    "noise": [NOISE],
    "HTTP": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "lets in, then noise": [LOGIN + READY, READ, NOISE],
    "refuses the query": [LOGIN + READY, READ, error("42501", "permission denied") + READY, WAIT],
    "other columns": [LOGIN + READY, READ, table(["a"], [["b"]]), WAIT],
    "no row": [LOGIN + READY, READ, table(["version"], []), WAIT],
    "no table": [LOGIN + READY, READ, message(b"C", b"COMMIT\0") + READY, WAIT],
    "endless notices": [LOGIN + READY, notices],
    "bytes that are no text": [
        LOGIN + READY,
        READ,
        error("XX000", "broken").replace(b"broken", b"\xff\x1b[31m") + READY,
        WAIT,
    ],
}


def behave(end: socket.socket, steps: list[Step]) -> None:
    for step in steps:
        if step == WAIT:
            time.sleep(30)
        elif step == READ:
            end.recv(9999)
        elif isinstance(step, bytes):
            end.sendall(step)
        elif callable(step):
            step(end)


@contextmanager
def serving(steps: list[Step]) -> Iterator[int]:
    """A listener that treats every client so; its port."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=20)) as listener:

        def serve(end: socket.socket) -> None:
            with end:
                try:
                    end.settimeout(30)
                    end.recv(9999)
                    behave(end, steps)
                except OSError:
                    return

        def accept() -> None:
            while True:
                try:
                    end, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(end,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


COMMANDS = {
    "simulate": lambda target: ["simulate", "--target", target, "--for", "1s"],
    "sweep": lambda target: ["recommend", target, "--sweep", "--query", "SELECT 1", "--sweep-for", "20s"],
}


def check_one_line(target: str, command: str, *, within: float) -> str:
    """Run a command on a bad server and return the error, which the document on standard output has, too."""
    began = time.monotonic()
    done = run_here(*COMMANDS[command](target), "--json")
    took = time.monotonic() - began
    document = json.loads(done.stdout)
    lines = [line for line in done.stderr.splitlines() if line.startswith("poolctl:")]
    assert done.returncode == 3, done.stderr
    assert len(lines) == 1, done.stderr
    assert document["status"] == "failed"
    assert document["error"]["message"] in lines[0]
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert took < within, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *((name, "simulate") for name in BEHAVIORS),
        *((name, "sweep") for name in ("accepts and says nothing", "lets in, then noise", "no table")),
    ],
)
def test_a_server_that_behaves_badly_costs_one_line_one_timeout_and_the_exit_code_3(name: str, command: str) -> None:
    with serving(BEHAVIORS[name]) as port:
        check_one_line(
            f"host=127.0.0.1 port={port} user=u dbname=d sslmode=disable password=S3CRET", command, within=25
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_paused_pooler_costs_one_line_one_timeout_and_the_exit_code_3(
    command: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_without("pgbouncer")
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(via="pgbouncer") as pooled,
        connect(str(pooled.pooler_admin_conninfo)) as console,
    ):
        # PgBouncer lets a client in at once when it has seen what the server says at login.
        with connect(pooled.conninfo) as client:
            client.execute("SELECT 1")
        console.execute("PAUSE")
        line = check_one_line(pooled.conninfo, command, within=25)

    assert "a pooler let us in, and no server connection behind it gave an answer" in line


@pytest.mark.parametrize(
    "target",
    [
        "postgresql://u:S3CRET%x@h/db",
        "host=h password=my S3CRET",
        "postgresql+psycopg2://u:S3CRET@h/db",
        "postgresql://u:S3@CRET@h/db",
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_target_that_cannot_be_read_is_refused_without_its_password(target: str, command: str) -> None:
    done = run_here(*COMMANDS[command](target), "--json")

    assert done.returncode == 2
    assert "CRET" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "bad-input"


def test_a_target_that_is_not_there_is_named_in_the_error() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    with pytest.raises(CannotConnect, match=rf"127\.0\.0\.1:{port}/d: Connection refused"):
        open_target(f"host=127.0.0.1 port={port} dbname=d user=u", scenario_of())


@pytest.mark.parametrize("via", ["pgbouncer", "pgpool"])
def test_a_pooler_as_a_target_is_loaded_to_the_end(via: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without(via)
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=SLOTS, via=via) as pooled:
        scenario = scenario_of(pool={"max_open": 20, "max_idle": 20}, load={"workers": 20, "duration": "2s"})
        done = run_on(lambda scenario: open_target(pooled.conninfo, scenario), scenario, Recorder(), interval=0.05)

    assert done.failure is None
    assert done.summary.released > 100


@pytest.mark.slow
def test_a_sweep_ends_when_clients_arrive(sandbox: Sandbox, target: str) -> None:
    words = [
        "recommend",
        target,
        "--sweep",
        "--query",
        "SELECT pg_sleep(0.01)",
        "--sweep-for",
        "60s",
        "--no-verify",
        "--json",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "poolctl", *words, "--quiet", "--for", "0s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    sweeping = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^poolctl sweep'"
    with connect(sandbox.observer_conninfo) as observer:
        eventually(lambda: int(str(one(observer, sweeping))) > 8, within=60)
        arrivals = Arrivals(target, 25)
        arrivals.begin()
        try:
            eventually(lambda: one(observer, sweeping) == 0, within=30)
            output, errors = process.communicate(timeout=60)
        finally:
            arrivals.end()

    document = json.loads(output)
    texts = json.dumps(document)
    assert "other clients arrived" in texts, errors
    assert process.returncode in (0, 3)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="elsewhere sslpassword is refused")
def test_no_secret_stands_in_the_arguments_of_pgbench(target: str) -> None:
    load = Pgbench(
        f"{target} password=S3CRETA sslpassword=S3CRETB",
        [Script("q", "SELECT pg_sleep(0.01);\n")],
        prepared=True,
        seed=1,
    )
    commands: list[str] = []

    def note_commands() -> bool:
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # ended between the listing and the question
                if child.name() == "pgbench":
                    commands.append(" ".join(child.cmdline()))
        return False

    # Two seconds: pgbench does not always print the line of the last one.
    window = load.measure(4, 2.0, stop=note_commands)

    assert window is not None
    assert commands
    assert not any("S3CRET" in command for command in commands)
