"""Evidence that could do harm or is broken: escapes, secrets, servers in the environment, damage of every kind."""

import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import run_here
from sandboxes import eventually

from poolctl.cli import poolctl
from poolctl.errors import BadInput, PoolctlError
from poolctl.observe.evidence.read import read_evidence

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil\u200b"
SECRET = "4111-1111-1111-1111"
STATEMENT = f"select * from cards where number = '{SECRET}'"
AT = "2026-10-13 06:31:02.804 UTC"

EVIDENCE: dict[str, str] = {
    "aligned": (
        f" pid | usename | application_name | client_addr | state | state_change | query\n"
        f"-----+---------+------------------+-------------+-------+--------------+-------\n"
        f" 7 | {HOSTILE} | {HOSTILE} | {HOSTILE} | idle in transaction | 2026-10-13 06:30:02+00 | {STATEMENT}\n"
        f" 8 | {HOSTILE} | {HOSTILE} | {HOSTILE} | active | 2026-10-13 06:31:02+00 | {STATEMENT}\n(2 rows)\n"
    ),
    "csv": f"pid,usename,application_name,state,state_change,query\n"
    f'7,{HOSTILE},{HOSTILE},{HOSTILE},2026-10-13 06:30:02+00,"{STATEMENT}"\n',
    "json": json.dumps(
        [{"pid": 7, "usename": HOSTILE, "application_name": HOSTILE, "state": "idle", "query": STATEMENT}]
    ),
    "stderr": f"{AT} [7] {HOSTILE}@{HOSTILE} LOG:  connection authorized: user={HOSTILE} database=d "
    f"application_name={HOSTILE}\n"
    f"{AT} [7] {HOSTILE}@{HOSTILE} LOG:  duration: 90000.1 ms  statement: {STATEMENT}\n"
    f'{AT} [8] {HOSTILE}@d FATAL:  too many connections for role "{HOSTILE}"\n'
    f"{AT} [8] LOG:  process 8 still waiting for ShareLock on {HOSTILE} after 1000.1 ms\n"
    f"{AT} [8] DETAIL:  Process holding the lock: 7. Wait queue: 8.\n",
    "jsonlog": json.dumps(
        {
            "timestamp": AT,
            "pid": 7,
            "user": HOSTILE,
            "dbname": HOSTILE,
            "application_name": HOSTILE,
            "error_severity": "FATAL",
            "state_code": "53300",
            "message": f"sorry, too many clients {HOSTILE}",
        }
    ),
    "pgbouncer": f"{AT} [1] LOG C-0x5: {HOSTILE}/{HOSTILE}@10.0.0.1:1 closing because: no more connections allowed "
    f"{HOSTILE} (age=1s)\n",
    "hikari": f"{AT} WARN x - Connection leak detection triggered for {HOSTILE} on thread {HOSTILE}, stack trace "
    f"follows\n{AT} DEBUG {HOSTILE}web - Pool stats (total=2, active=2, idle=0, waiting=3)\n",
    "prometheus": f'hikaricp_connections_active{{pool="{HOSTILE}"}} 2\nhikaricp_connections_max{{pool="{HOSTILE}"}} 2\n'
    f'hikaricp_connections_pending{{pool="{HOSTILE}"}} 3\n',
    "pool json": json.dumps({"name": HOSTILE, "max_open": 2, "in_use": 2, "idle": 0, "waiting": 3}),
    "show pools": f" database | user | cl_active | cl_waiting | sv_active | sv_idle | maxwait | pool_mode\n"
    f"---+---+---+---+---+---+---+---\n {HOSTILE} | {HOSTILE} | 3 | 4 | 2 | 0 | 9 | {HOSTILE}\n(1 row)\n",
    "ps": f"  7 postgres: {HOSTILE} {HOSTILE} 10.0.0.1(5) idle in transaction\npsql: error: FATAL:  sorry, too many "
    f"clients already {HOSTILE}\n",
    "unknown": f"{HOSTILE} nothing that is known {SECRET}",
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_nothing_of_a_file_commands_the_terminal_and_no_literal_is_shown(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{HOSTILE.replace(chr(0), '')[:20]}.txt"
    file.write_text(EVIDENCE[name], encoding="utf-8")
    outputs = [tmp_path / f"report.{ending}" for ending in ("md", "html")]
    words = ["inspect", "--evidence", str(file), "--relief", "--quiet"]
    words += [word for output in outputs for word in ("--output", str(output))]

    done = run_here(*words)
    written = [output.read_text() for output in outputs if output.exists()]

    assert done.returncode == (2 if name == "unknown" else 0), done.stderr
    for text in (done.stdout, done.stderr, *written):
        assert not {"\x1b", "\x07", "\u202e", "\u200b"} & set(text)
        assert name == "unknown" or SECRET not in text


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port on which nothing may connect, and what did."""
    met: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        is_over = False

        def accept() -> None:
            while not is_over:
                with suppress(TimeoutError, OSError):
                    connection, client = server.accept()
                    connection.close()
                    met.append(client)

        thread = Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], met
        is_over = True
        thread.join()


def test_with_evidence_alone_no_server_of_the_environment_is_contacted(
    listener: tuple[int, list[object]], tmp_path: Path
) -> None:
    port, met = listener
    file = tmp_path / "paste.txt"
    file.write_text(EVIDENCE["aligned"])
    named = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGDATABASE": "shop", "PGUSER": "ops"}

    done = subprocess.run(
        [sys.executable, "-m", "poolctl", "inspect", "--evidence", str(file), "--quiet", "--json"],
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    with socket.create_connection(("127.0.0.1", port)):  # behind any that poolctl made
        eventually(lambda: bool(met))
    assert len(met) == 1
    assert [source["kind"] for source in json.loads(done.stdout)["observed"]["sources"]] == ["evidence"]


def test_ctrl_c_while_a_log_is_read_is_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poolctl", "inspect", "--evidence", "-", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        # More than a pipe holds: it returns once poolctl reads.
        process.stdin.write(f"{AT} [7] LOG:  checkpoint complete\n".encode() * 20_000)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)

    assert process.returncode == 130, error
    assert b"Traceback" not in output + error


LOG = "".join(
    f"2026-10-13 06:{minute:02}:02.804 UTC [{pid}] app@shop {text}\n"
    for minute, pid, text in (
        *((10, 10 + n, "LOG:  connection authorized: user=app database=shop application_name=web") for n in range(3)),
        (31, 20, "FATAL:  sorry, too many clients already"),
        (31, 21, "FATAL:  sorry, too many clients already"),
    )
)


def refusals(*paths: Path) -> int:
    log = read_evidence([str(path) for path in paths]).log
    assert log is not None
    return sum(each.count for each in log.refusals)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut in the middle of a line", LOG.encode()[:-15]),
        ("cut in the middle of a character", (LOG + "2026-10-13 é").encode()[:-1]),
        ("Windows line ends", LOG.replace("\n", "\r\n").encode()),
        ("old Mac line ends", LOG.replace("\n", "\r").encode()),
        ("UTF-16", LOG.encode("utf-16")),
        ("UTF-16 without its mark", LOG.encode("utf-16-le")),
        ("UTF-8 with a mark", b"\xef\xbb\xbf" + LOG.encode()),
        ("zero bytes", LOG.encode() + b"\0" * 1000),
        ("compressed", gzip.compress(LOG.encode())),
        ("a paste before the log", (EVIDENCE["csv"] + "\n" + LOG).encode()),
        ("a scrape behind the log", (LOG + EVIDENCE["prometheus"]).encode()),
        ("a clock that jumps back", (LOG + LOG.replace("06:", "05:").replace("FATAL:  sorry", "LOG:  x")).encode()),
        ("a line of 3 MB", (LOG + "x" * 3_000_000 + "\n").encode()),
    ],
)
def test_a_damaged_log_still_says_what_it_can(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    file.write_bytes(content)

    assert refusals(file) == (1 if name.startswith("cut in the middle of a line") else 2)


def test_half_a_compressed_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    chance = random.Random(1)
    noise = "".join(f"{AT} [{chance.random()}] LOG:  checkpoint {chance.random()}\n" for _ in range(60_000))
    file = tmp_path / "server.log.gz"
    whole = gzip.compress((LOG + noise).encode())
    file.write_bytes(whole[: len(whole) // 2])

    observation = read_evidence([str(file)])

    assert refusals(file) == 2
    assert "lines of it could be read" in observation.sources[0].reason


def test_rotated_files_out_of_order_say_what_the_whole_log_says(tmp_path: Path) -> None:
    lines = LOG.splitlines(keepends=True)
    (tmp_path / "server.log").write_text("".join(lines[3:]))
    (tmp_path / "server.log.1").write_text("".join(lines[:3]))
    (whole := tmp_path / "whole").write_text(LOG)

    halves = read_evidence([str(tmp_path / "server.log"), str(tmp_path / "server.log.1")]).log
    one = read_evidence([str(whole)]).log

    assert halves is not None
    assert one is not None
    assert (halves.first_at, halves.last_at, halves.refusals) == (one.first_at, one.last_at, one.refusals)
    assert [moment.open_at_least for moment in halves.moments] == [moment.open_at_least for moment in one.moments]


@pytest.mark.parametrize(
    "line",
    [
        "FATAL:  desolé, trop de clients sont déjà connectés",
        "FATAL:  tut mir leid, schon zu viele Verbindungen",
        "ВАЖНО:  извините, уже слишком много клиентов",
        "致命错误:  对不起, 已经有太多的客户",
        "致命的エラー:  現在クライアント数が多すぎます",
    ],
)
def test_a_refusal_in_another_language_is_known_by_its_sqlstate(line: str, tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    file.write_text(f"{AT} [7] 53300 {line}\n")

    assert refusals(file) == 1


PIECES = [
    *(
        "|",
        "\n",
        "\r",
        "\t",
        "\0",
        '"',
        "'",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        "(",
        ")",
        "\\",
        "-+-",
        "(2 rows)",
        "é",
        HOSTILE,
    ),
    *(" FATAL:  ", " LOG:  ", "DETAIL:  ", "-[ RECORD 3 ]-", "pid | state", "2026-13-45 99:99:99", "1e999", "NaN"),
    *("-1", "99999999999999999999", "== poolctl evidence: sockets", "\ufeff", "\u2028", "connection authorized: user="),
]


def damage(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 8)):
        at, cut = chance.randrange(len(text) + 1), chance.choice((0, 0, 1, 5, 40, 400))
        piece = chance.choice((chance.choice(PIECES), chance.choice(PIECES), text[at : at + 60], ""))
        text = text[:at] + piece + text[at + cut :]
    return text


def read_damaged(tmp_path: Path, seeds: range) -> None:
    texts: list[Any] = [*EVIDENCE.values(), LOG]
    file = tmp_path / "damaged"
    for seed in seeds:
        chance = random.Random(seed)
        text = damage(chance.choice(texts), chance)
        text = text + "\n" + damage(chance.choice(texts), chance) if chance.random() < 0.2 else text
        file.write_bytes(text.encode(chance.choice(("utf-8", "utf-8", "utf-16", "latin-1")), errors="replace"))
        with suppress(BadInput):
            assert read_evidence([str(file)]).sources, seed


def test_hundreds_of_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    read_damaged(tmp_path, range(600))


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_diagnosed_without_a_traceback(tmp_path: Path) -> None:
    read_damaged(tmp_path, range(600, 10_600))
    file = tmp_path / "damaged"
    for seed in range(300):
        chance = random.Random(seed)
        file.write_text(damage(chance.choice([*EVIDENCE.values(), LOG]), chance), encoding="utf-8", errors="replace")
        result = CliRunner().invoke(poolctl, ["inspect", "--evidence", str(file), "--quiet", "--relief", "--json"])
        assert result.exit_code == 0 or isinstance(result.exception, PoolctlError), (seed, result.exception)
