"""``poolctl inspect`` where there is nothing to look at: wrong usage, and servers that do not answer."""

import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import check_usage_error, run_here

ALONE = {
    "PGHOST": "",
    "PGPORT": "",
    "PGSERVICE": "",
    "PGDATABASE": "",
    "PGUSER": "",
    "PGPASSFILE": "/no/such/passfile",
    "PGPASSWORD": "",
    "PGCONNECT_TIMEOUT": "2",
}


def inspect(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run_here("inspect", *arguments, **{**ALONE, **environment})


class _Web(socketserver.BaseRequestHandler):
    """Answers whatever it is told as a web server does."""

    def handle(self) -> None:
        self.request.recv(1024)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


@pytest.fixture
def web_server() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--no-such-option",), "No such option"),
        (("--for", "3 parsecs"), "a duration is a number with a unit"),
        (("-p", "port"), "must be a number from 1 to 65535"),
        (("--execute",), "--execute goes with --relief"),
        (("--replay", __file__, "--watch"), "--watch does not go with --replay"),
        (("--replay", __file__, "--for", "3s"), "--for does not go with --replay"),
        (("--replay", __file__, "--relief", "--execute"), "--execute does not go with --replay"),
        (("--replay", __file__, "host=db1"), "connects to nothing"),
        (("--replay", "missing.jsonl"), "missing.jsonl"),
        (("--output", "report.csv"), "must end in .md, .html, .json or .svg"),
        (("host=a bogus=1",), "the connection string cannot be read"),
        (("host=a", "port=5"), "a connection string is one argument"),
        (("shop", "-d", "shop"), "both name a database"),
        (("postgresql://db1/shop", "-p", "5433"), "-p cannot be added to a URI"),
        (("--pgbouncer", "bogus=1"), "cannot be read"),
        (("--evidence", "missing.txt"), "--evidence missing.txt: there is no such file"),
        (("--evidence", "x" * 256), "x: File name too long"),
        (("--evidence", "/dev/zero"), "--evidence zero: no line ends in it"),
        (("--replay", "/dev/zero"), "/dev/zero, line 1: longer than 134,217,728 characters"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error_and_the_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    check_usage_error(inspect(*arguments), said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("host=127.0.0.1 port=1 password=hunter2",),
        ("postgresql://ops:hunter2@127.0.0.1:1/shop",),
        ("host=127.0.0.1", "password=hunter2"),
        ("password='hunter2' bogus=1",),
        ("postgresql://ops:hunter2@127.0.0.1:port/shop",),
        ("--pgbouncer", "host=127.0.0.1 port=1 password=hunter2"),
        ("--pgpool", "host=127.0.0.1 port=1 password=hunter2"),
        ("-d", "host=127.0.0.1 port=1 password=hunter2", "-h", "x y"),
        ("host=127.0.0.1 port=1 password=hunter2", "--no-such-option"),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_password_on_the_command_line_is_never_repeated(arguments: tuple[str, ...], form: tuple[str, ...]) -> None:
    done = inspect(*arguments, *form, PGPASSWORD="hunter2")

    assert done.returncode in (2, 3)
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("conninfo", "said", "hint"),
    [
        ("host=127.0.0.1 port=1", "refused", "check host and port"),
        ("host=no.such.host.invalid", "no.such.host.invalid", "check host and port"),
        ("host=/no/such/folder", "/no/such/folder", "check host and port"),
        ("db1.example:1", "local:", "a word alone is a database, as in psql"),
    ],
)
def test_a_server_that_is_not_there_is_one_clear_error_with_a_way_out(conninfo: str, said: str, hint: str) -> None:
    done = inspect(conninfo, "--for", "1s", "--quiet")

    assert done.returncode == 3
    assert done.stdout == ""
    assert said in done.stderr
    assert hint in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_without_a_name_the_hint_says_how_to_name_a_server() -> None:
    done = inspect("--quiet", PGPORT="1")

    assert done.returncode == 3
    assert 'poolctl inspect "host=... dbname=..."' in done.stderr


def test_a_web_server_is_not_taken_for_a_database(web_server: int) -> None:
    done = inspect("-h", "127.0.0.1", "-p", str(web_server), "--quiet", "--for", "1s")

    assert done.returncode == 3
    assert "does not speak PostgreSQL's protocol" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_every_source_that_failed_has_a_line_of_its_own() -> None:
    done = inspect(
        *("host=127.0.0.1 port=1", "--pgbouncer", "host=127.0.0.1 port=2", "--pool-stats", "/no/such/file"),
        *("--for", "1s", "--quiet"),
    )

    lines = done.stderr.splitlines()
    assert done.returncode == 3
    assert [line.split(":")[1].strip().rpartition(" ")[0] for line in lines[:3]] == [
        "cannot sample PostgreSQL",
        "cannot sample PgBouncer",
        "cannot sample pool figures",
    ]


def test_with_json_a_failure_is_one_document_too() -> None:
    done = inspect("host=127.0.0.1 port=1", "--json", "--for", "0s", "--quiet")

    document = json.loads(done.stdout)
    assert done.returncode == 3
    assert (document["schema_version"], document["command"], document["status"]) == (1, "inspect", "failed")
    assert document["error"]["code"] == "cannot-connect"
    assert "127.0.0.1:1" in document["error"]["message"]


def test_a_recording_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "night.jsonl"
    for text in ("", "nonsense", "{}", '{"schema_version": 99}', "\x00\x01", "[1, 2"):
        path.write_text(text)
        done = inspect("--replay", str(path))

        assert done.returncode == 2, text
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr


def test_a_link_to_itself_is_refused_by_name(tmp_path: Path) -> None:
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)

    check_usage_error(inspect("--evidence", str(loop)), "loop.txt: Too many levels of symbolic links")


def test_a_path_that_no_system_takes_is_no_error_inside_poolctl() -> None:
    done = inspect("--record", "x" * 256, "--for", "1s")

    assert done.returncode == 3
    assert "File name too long" in done.stderr


def test_help_is_asked_for_by_its_long_name_since_h_is_the_host() -> None:
    done = inspect("--help")

    assert done.returncode == 0
    assert "-h, --host HOST" in done.stdout
    assert "poolctl inspect --replay night.jsonl" in done.stdout
