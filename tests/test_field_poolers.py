"""Situations from public reports, staged with the programs in tests/cases: refusing poolers, and clients that churn."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import run_here
from sandboxes import eventually, own_temporary_directory
from staging import Verdict, inspect
from test_poolers import skip_without

from poolctl.engines.sandbox import Sandbox

CASES = Path(__file__).with_name("cases")
pytestmark = pytest.mark.server


@contextmanager
def running(program: str, *arguments: str) -> Iterator[None]:
    with subprocess.Popen([sys.executable, str(CASES / program), *arguments]) as client:
        try:
            yield
        finally:
            client.kill()


def find_free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nothing listens on."""
    for first in range(47_000, 60_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for at, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + at))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no ports are free")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


POOLER_ANSWERS = {
    0: ("pooler-client-limit", "transaction mode"),
    1: ("pooler-client-limit", "client limit"),
    2: ("pooler-client-limit", "transaction mode"),
    3: ("pooler-pinned-transaction", "End nothing yet"),
    4: ("slots-exhausted", "Raising max_connections"),
    5: ("role-limit", "CONNECTION LIMIT"),
    6: ("pooler-pinned-transaction", "End nothing yet"),
    7: ("pooler-pinned-transaction", "End nothing yet"),
}
"""What is found of each text of 17-refusing-pooler.py, and what the remedy has to say."""


def look(*words: str) -> Verdict:
    done = run_here("inspect", *words, "--json", "--quiet")
    return Verdict(json.loads(done.stdout), done.returncode, done.stderr)


def test_the_texts_of_hosted_poolers_lead_to_their_findings() -> None:
    first = find_free_ports(len(POOLER_ANSWERS))
    with running("17-refusing-pooler.py", str(first)):
        eventually(lambda: is_open(first + len(POOLER_ANSWERS) - 1))
        found: dict[int, Verdict] = {
            at: look(f"host=127.0.0.1 port={first + at} dbname=app user=app", "--for", "0.5s") for at in POOLER_ANSWERS
        }

    for at, (code, remedy) in POOLER_ANSWERS.items():
        assert remedy in found[at].finding(code)["remedy"]


UNKNOWN = """
import socket, struct
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    while True:
        size, code = struct.unpack("!II", client.recv(8))
        client.recv(size - 8)
        if code not in (80877103, 80877104):
            break
        client.sendall(b"N")
    fields = b"SFATAL\\0VFATAL\\0CXX000\\0MThe moon is in the way (EMOON)\\0\\0"
    client.sendall(b"E" + struct.pack("!I", 4 + len(fields)) + fields)
    client.close()
"""


def test_a_text_that_is_not_known_is_quoted_as_an_answer() -> None:
    with subprocess.Popen([sys.executable, "-c", UNKNOWN], stdout=subprocess.PIPE, text=True) as pooler:
        assert pooler.stdout is not None
        port = pooler.stdout.readline().strip()
        done = run_here("inspect", f"host=127.0.0.1 port={port} dbname=app user=app")
        pooler.kill()

    assert done.returncode == 3
    assert "The moon is in the way (EMOON)" in done.stderr
    assert "it runs" in " ".join(done.stderr.split())
    assert "check host and port" not in " ".join(done.stderr.split())


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs a network namespace of its own")
def test_a_machine_without_a_free_port_is_told_from_a_server_that_does_not_run() -> None:
    command = [sys.executable, "-m", "poolctl", "inspect", "-h", "127.0.0.1", "-p", "6000", "--for", "0.5s"]

    done = subprocess.run(
        [sys.executable, str(CASES / "18-no-port-left.py"), *command], capture_output=True, text=True, check=False
    )

    words = " ".join(done.stdout.split())
    assert "This machine has no free port left for another connection" in words, done.stderr
    assert "that the server runs" not in words + done.stderr


@pytest.mark.slow
def test_clients_that_connect_to_a_pooler_for_every_statement_are_churn(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    skip_without("pgbouncer")
    keys = {"pool_mode": "transaction", "default_pool_size": 5, "stats_users": "app"}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=keys) as sandbox,
    ):
        console = str(sandbox.pooler_admin_conninfo)
        quiet = inspect(sandbox.direct_conninfo, "--pgbouncer", console)
        with running("18-port-churn.py", sandbox.conninfo, "30"):
            eventually(lambda: is_churning(sandbox), within=10)
            verdict = inspect(sandbox.direct_conninfo, "--pgbouncer", console, "--for", "5s")

    assert quiet.codes[0] == "healthy"
    finding = verdict.finding("connection-churn")
    assert finding["layer"] == "pooler"
    assert finding["evidence"]["closed_in_last_minute"] > 100
    verdict.says_nothing_of("healthy")


def is_churning(sandbox: Sandbox) -> bool:
    """Whether the clients have closed some hundred connections: each keeps its port for a minute."""
    port = int(dict(part.split("=", 1) for part in sandbox.conninfo.split() if "=" in part)["port"])
    return Path("/proc/net/tcp").read_text().count(f":{port:04X} 06 ") > 200
