"""``poolctl inspect`` on a real server: the verdict first, exit codes, JSON, recordings, and names that attack."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command_line import run_here
from psycopg.conninfo import make_conninfo
from report_parts import HOSTILE
from sandboxes import connect, eventually, one, own_temporary_directory
from schema_check import problems
from staging import Stage, stage
from terminals import Terminal
from test_report_inspection_json import SCHEMA
from watched import Clients

pytestmark = pytest.mark.server

NAME = HOSTILE[:40] + "`@here`"
"""PostgreSQL keeps 63 bytes of a name, and replaces what is no printable ASCII in an application_name."""


def poolctl(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run_here("inspect", *arguments, **{"PGPASSFILE": "/no/such/passfile", **environment})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_temporary_directory(tmp_path_factory) as path:
        yield path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Stage]:
    with stage(max_connections=30) as staged:
        make_secretive(staged)
        yield staged


def make_secretive(staged: Stage) -> None:
    """Make the role ``secretive``, which needs its password."""
    with connect(staged.sandbox.admin_conninfo) as admin:
        admin.execute("CREATE ROLE secretive LOGIN PASSWORD 'hunter2'")
        rules = Path(str(one(admin, "SHOW hba_file")))
        rules.write_text(f"host all secretive 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        admin.execute("SELECT pg_reload_conf()")


@pytest.fixture
def at(server: Stage) -> Iterator[Stage]:
    """The server with nobody on it."""
    yield server
    server.clear()


@pytest.fixture
def watcher(at: Stage) -> str:
    return at.conninfo_of("watcher")


@pytest.fixture(scope="module")
def leak(folder: Path) -> Iterator[Stage]:
    """8 connections of one application in transactions that nobody ends, beside traffic that goes on: for every test
    that only looks, on a server of its own."""
    with stage(max_connections=30) as staged:
        make_secretive(staged)
        staged.start("leak", "shop", size=12, until=8, most=8, every=3, think=0.02)
        with connect(staged.sandbox.observer_conninfo) as observer:
            young = "SELECT count(*) FROM pg_stat_activity WHERE xact_start > clock_timestamp() - interval '1.1 s'"
            eventually(lambda: one(observer, f"{young} AND state = 'idle in transaction'") == 0)
        yield staged


@pytest.fixture
def leaking(leak: Stage) -> str:
    return leak.conninfo_of("watcher")


def test_the_first_line_is_the_verdict_and_the_report_goes_to_standard_output(leaking: str) -> None:
    done = poolctl(leaking, "--for", "2s")

    first = done.stdout.splitlines()[0]
    assert done.returncode == 0, done.stderr
    assert re.match(r"(CRITICAL|WARNING)  8 of \d+ backends of .*shop", first)
    assert "leak-in-transaction" in done.stdout.splitlines()[1]
    assert "/checkout" in done.stdout
    assert done.stderr.startswith("sampling for 2 s ...\n")


def test_nothing_wrong_is_ok(watcher: str) -> None:
    done = poolctl(watcher, "--for", "1s", "--fail-on", "warning", "--quiet")

    assert done.stdout.startswith("OK  ")
    assert (done.returncode, done.stderr) == (0, "")


def test_fail_on_turns_a_finding_into_the_exit_code_1(leaking: str) -> None:
    assert poolctl(leaking, "--quiet", "--fail-on", "warning").returncode == 1


def test_json_is_the_only_thing_on_stdout_and_follows_the_schema(leaking: str) -> None:
    done = poolctl(leaking, "--json", "--for", "2s")

    document = json.loads(done.stdout)
    assert problems(document, SCHEMA, SCHEMA) == []
    assert document["status"] == "ok"
    assert 8 <= document["server"]["used"] <= 12
    assert document["server"]["usable"] == 27
    assert document["observed"]["samples"] >= 2  # of a busy machine no more than the first and the last
    assert document["groups"][0]["application"] == "shop"


def test_literals_are_hidden_unless_asked_for_in_every_output_and_in_the_recording(
    at: Stage, watcher: str, tmp_path: Path
) -> None:
    record, page = tmp_path / "night.jsonl", tmp_path / "report.html"
    with connect(at.sandbox.conninfo) as client, connect(at.sandbox.conninfo) as other:
        for each in (client, other):
            each.execute("BEGIN")
            each.execute("SELECT 'person 4711'")
        time.sleep(1.1)  # A hold has to last for a second: time that only the server can make.
        hidden = poolctl(watcher, "--for", "1s", "--record", str(record), "--output", str(page), "--json")
        shown = poolctl(watcher, "--for", "1s", "--show-literals")

    assert "4711" not in hidden.stdout + record.read_text() + page.read_text()
    assert "SELECT" in hidden.stdout
    assert "SELECT 'person 4711'" in shown.stdout


def test_a_replay_gives_the_diagnosis_that_was_made_live(leaking: str, tmp_path: Path) -> None:
    record = tmp_path / "night.jsonl"
    live = json.loads(poolctl(leaking, "--for", "2s", "--record", str(record), "--json").stdout)

    replay = poolctl("--replay", str(record), "--json")

    again = json.loads(replay.stdout)
    assert replay.returncode == 0
    for section in ("observed", "server", "limits", "groups", "concurrency", "findings", "unseen"):
        assert again[section] == live[section], section


def test_every_kind_of_report_is_written_whole(leaking: str, tmp_path: Path) -> None:
    files = [tmp_path / f"report{suffix}" for suffix in (".md", ".html", ".json", ".svg")]

    done = poolctl(leaking, "--for", "1s", *(word for file in files for word in ("--output", str(file))))

    assert done.returncode == 0
    assert files[0].read_text().startswith(("**CRITICAL** ", "**WARNING** "))
    assert "<svg" in files[1].read_text()
    assert json.loads(files[2].read_text())["command"] == "inspect"
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_poolctl_takes_one_connection_and_does_not_count_it(at: Stage, watcher: str) -> None:
    at.start("sessions", "shop", size=3, statement="SELECT 1")
    with subprocess.Popen(
        [sys.executable, "-m", "poolctl", "inspect", watcher, "--json", "--for", "2s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        seen = []
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'poolctl'"
        with connect(at.sandbox.observer_conninfo) as observer:
            while process.poll() is None:
                seen.append(one(observer, query))
                time.sleep(0.05)
        assert process.stdout is not None
        document = json.loads(process.stdout.read())

    assert max(map(int, map(str, seen))) == 1
    assert document["server"]["used"] == 3


def test_a_server_that_is_full_has_answered(at: Stage) -> None:
    at.start("sessions", "shop", size=27, statement="SELECT 1")

    done = poolctl(at.conninfo_of("stranger"), "--for", "1s", "--json", "--quiet")

    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert problems(document, SCHEMA, SCHEMA) == []
    assert document["findings"][0]["code"] == "slots-exhausted"
    assert document["error"] is None


@pytest.mark.parametrize(
    ("changed", "said", "hint"),
    [
        ({"user": "secretive", "password": "wrong"}, "password authentication failed", "~/.pgpass"),
        ({"user": "secretive"}, "no password supplied", "~/.pgpass"),
        ({"user": "watcher", "dbname": "nowhere"}, 'database "nowhere" does not exist', "-d"),
        ({"user": "nobody_at_all"}, "nobody_at_all", "role (-U)"),
    ],
)
def test_a_server_that_does_not_let_us_in_is_one_clear_error(
    at: Stage, changed: dict[str, str], said: str, hint: str
) -> None:
    done = poolctl(make_conninfo(at.sandbox.direct_conninfo, **changed), "--for", "1s", "--quiet")

    assert done.returncode == 3
    assert done.stdout == ""
    assert said in done.stderr
    assert hint in done.stderr
    assert "wrong" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the length of a listen queue")
def test_a_listener_that_accepts_nobody_is_an_answer_as_of_a_busy_pgpool() -> None:
    with contextlib.ExitStack() as opened:
        host, port = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=5)).getsockname()
        for _ in range(3):
            opened.enter_context(socket.create_connection((host, port)))

        done = poolctl(f"host={host} port={port} user=app dbname=app", "--quiet")

    assert done.returncode == 0, done.stderr
    assert f"What listens on port {port} accepts no client" in done.stdout.splitlines()[0]
    assert done.stderr == ""


def test_a_listener_that_never_says_a_word_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as accepted:
        host, port = listener.getsockname()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted.enter_context(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()

        done = poolctl(f"host={host} port={port} user=app dbname=app", "--quiet")

        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert (done.returncode, done.stdout) == (3, "")
    assert "no answer within 3 s" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_password_is_nowhere_in_what_poolctl_says_or_writes(leak: Stage, tmp_path: Path) -> None:
    target = make_conninfo(leak.sandbox.direct_conninfo, user="secretive", password="hunter2")
    files = [tmp_path / f"report{suffix}" for suffix in (".md", ".html", ".json")]
    record = tmp_path / "night.jsonl"

    done = poolctl(
        target, "--for", "1s", "--record", str(record), *(word for file in files for word in ("--output", str(file)))
    )

    assert done.returncode == 0, done.stderr
    written = "".join(file.read_text() for file in (*files, record))
    assert "hunter2" not in done.stdout + done.stderr + written


def test_names_that_attack_the_terminal_are_harmless(at: Stage, watcher: str) -> None:
    with connect(at.sandbox.admin_conninfo) as admin:
        quoted = '"' + NAME.replace('"', '""') + '"'
        admin.execute(f"CREATE ROLE {quoted} LOGIN".encode())
        with Path(str(one(admin, "SHOW hba_file"))).open("a") as file:
            file.write("host all all 127.0.0.1/32 trust\n")
        admin.execute("SELECT pg_reload_conf()")
    target = make_conninfo(at.sandbox.direct_conninfo, user=NAME, application_name=HOSTILE)
    clients = [psycopg.connect(target) for _ in range(3)]
    for client in clients:
        client.execute(f"SELECT 1 /* {HOSTILE} */".encode())
    time.sleep(1.2)  # A hold has to last for a second: time that only the server can make.

    for form in ((), ("--json",), ("--color", "always")):
        done = poolctl(watcher, "--for", "1s", *form)

        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout) if "always" in form else done.stdout
        assert done.returncode == 0, done.stderr
        assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text) == [], form
        assert "[red]bold[/red]" in text, form
        assert "Traceback" not in done.stderr
    for client in clients:
        client.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_tells_what_was_seen_and_exits_with_130(leak: Stage, leaking: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "poolctl", "inspect", leaking, "--for", "60s", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "sampling for 60 s ...\n"
        asked = "FROM pg_stat_activity WHERE application_name = 'poolctl' AND query_start > backend_start"
        with connect(leak.sandbox.observer_conninfo) as observer:
            eventually(lambda: one(observer, f"SELECT count(*) {asked} + interval '2 s'") == 1)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)

    document = json.loads(output)
    assert process.returncode == 130
    assert document["status"] == "interrupted"
    assert document["observed"]["samples"] >= 2
    assert document["findings"][0]["code"] == "leak-in-transaction"
    assert "Traceback" not in errors


def test_libpqs_environment_names_the_server(at: Stage) -> None:
    target = psycopg.conninfo.conninfo_to_dict(at.conninfo_of("watcher"))
    done = poolctl(
        *("--for", "0s", "--json"),
        PGHOST=str(target["host"]),
        PGPORT=str(target["port"]),
        PGUSER="watcher",
        PGDATABASE=str(target["dbname"]),
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["server"]["role"] == "watcher"


def test_a_watch_without_a_terminal_writes_lines_and_ends_with_the_report(leaking: str) -> None:
    done = poolctl(leaking, "--watch", "--for", "2s")

    assert done.returncode == 0, done.stderr
    assert re.match(r"\d\d:\d\d:\d\d UTC (CRITICAL|WARNING) ", done.stderr)
    assert re.match(r"(CRITICAL|WARNING)  ", done.stdout)
    assert "\x1b" not in done.stdout + done.stderr


def test_a_reader_that_leaves_early_is_no_error(leaking: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m poolctl inspect '{leaking}' --for 1s | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.startswith(("CRITICAL", "WARNING"))
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_a_live_view_fills_the_screen_ends_with_q_and_leaves_the_report(leaking: str) -> None:
    with Terminal(leaking, "--watch") as terminal:
        terminal.read_until("8 of .* backends of")
        terminal.press("q")
        code = terminal.end()

    assert code == 0
    assert terminal.text.count("\x1b[?1049h") == terminal.text.count("\x1b[?1049l") == 1
    report = terminal.text.rpartition("\x1b[?1049l")[2]
    assert re.search(r"(CRITICAL|WARNING).*8 of \d+ backends of", report)
    assert "Who is connected" in report


def test_relief_ends_only_what_the_plan_names_after_asking_and_says_what_came_free(at: Stage) -> None:
    at.start("leak", "shop", size=12, until=8, most=8, every=3, think=0.02)
    at.start("sessions", "web", size=3, statement="SELECT 1")
    time.sleep(1.2)  # A hold has to last for a second: time that only the server can make.

    with Terminal(at.sandbox.admin_conninfo, "--relief", "--execute", "--for", "1s") as terminal:
        terminal.read_until(r"End 8 backends now\?.*\[y/N\]: ")
        terminal.press("y\n")
        code = terminal.end()

    assert code == 0, terminal.text
    assert re.search(r"8 of 8 backends ended; [1-8] slots? came free", terminal.text)
    with connect(at.sandbox.observer_conninfo) as observer:
        assert one(observer, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'web'") == 3


def test_backends_that_work_again_while_the_question_stands_are_left_alone(at: Stage) -> None:
    at.start("busy", "shop", size=6)  # Beside no work at all they may be jobs.
    with Clients(at.sandbox.direct_conninfo) as clients:
        connections = [clients.open() for _ in range(6)]
        time.sleep(1.2)  # Transactions that begin with their sessions may be a batch, which nothing ends.
        for connection in connections:
            connection.execute("BEGIN")
            connection.execute("SELECT 1")
        time.sleep(10.2)  # Then it is no slow request any more: time that only the server can make.

        with Terminal(at.sandbox.admin_conninfo, "--relief", "--execute", "--for", "1s") as terminal:
            terminal.read_until(r"End 6 backends now\?.*\[y/N\]: ")
            for connection in connections[:5]:
                connection.execute("COMMIT")
            terminal.press("y\n")
            code = terminal.end()

        for connection in connections[:5]:
            assert connection.execute("SELECT 42").fetchone() == (42,)
        with pytest.raises(psycopg.OperationalError):
            connections[5].execute("SELECT 42")

    assert code == 0, terminal.text
    assert "1 of 6 backends ended" in terminal.text
    assert terminal.text.count("works again and was left alone") == 5


def test_relief_without_a_yes_ends_nothing(at: Stage) -> None:
    at.start("leak", "shop", size=12, until=8, most=8, every=3, think=0.02)
    time.sleep(1.2)  # A hold has to last for a second: time that only the server can make.

    with Terminal(at.sandbox.admin_conninfo, "--relief", "--execute", "--for", "1s") as terminal:
        terminal.read_until(r"\[y/N\]: ")
        terminal.press("\n")
        code = terminal.end()

    assert code == 0
    assert "no backend was ended" in terminal.text
    with connect(at.sandbox.observer_conninfo) as observer:
        held = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        eventually(lambda: one(observer, held) == 8)


def test_a_role_that_may_not_end_backends_is_told_so_before_it_is_asked(leaking: str) -> None:
    with Terminal(leaking, "--relief", "--execute", "--for", "1s") as terminal:
        code = terminal.end()

    assert code == 3
    assert "pg_signal_backend" in terminal.text
    assert "[y/N]" not in terminal.text


def test_without_a_terminal_nothing_can_be_asked_and_nothing_is_ended(watcher: str) -> None:
    done = poolctl(watcher, "--relief", "--execute")

    assert done.returncode == 2
    assert "there is no terminal to ask on" in done.stderr


def test_a_live_view_ends_when_its_terminal_is_gone(watcher: str) -> None:
    with Terminal(watcher, "--watch") as terminal:
        terminal.read_until("q quits")
        terminal.hang_up()

        terminal.process.wait(timeout=60)


def test_the_screen_in_the_readme_has_the_shape_of_a_real_one(leaking: str) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n\$ poolctl inspect [^\n]*\n(.*?)^\[\.\.\.\]$", readme, re.MULTILINE | re.DOTALL)
    real = poolctl(leaking, "--for", "1s").stdout

    def shape(text: str) -> list[str]:
        begun = re.findall(
            r"^(?:CRITICAL|WARNING|OK|Who |Do |Why |Limits, nearest|used |Who is connected|conns |at work at once)",
            text,
            re.MULTILINE,
        )
        return ["verdict" if word in ("CRITICAL", "WARNING", "OK") else word for word in begun]

    assert shape(shown) == shape(real)[: len(shape(shown))]
    assert shown.splitlines()[2].startswith("leak-in-transaction (application, ")
    assert "leak-in-transaction (application, " in real.splitlines()[1]
