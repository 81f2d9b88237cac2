"""One incident, twice: the live verdict, and the verdict from the server's own pastes and log; PostgreSQL 15 and 18."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from sandboxes import connect, eventually, one, own_temporary_directory
from watched import Clients, bindirs, started

from poolctl.api.inspect import inspect
from poolctl.api.results import InspectResult
from poolctl.engines.sandbox import Sandbox

pytestmark = [pytest.mark.server, pytest.mark.slow]

SLOTS = 30
SETTINGS = {
    "logging_collector": "on",
    "log_destination": "stderr, csvlog",
    "log_filename": "server.log",
    "log_line_prefix": "%m [%p] %q%u@%d %a %h %e ",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_lock_waits": "on",
    "deadlock_timeout": "300ms",
}


@dataclass(frozen=True)
class Server:
    sandbox: Sandbox
    log: Path
    """The folder of its logs."""


@pytest.fixture(scope="module", params=bindirs(), ids=lambda bindir: bindir.parent.name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with own_temporary_directory(tmp_path_factory), started(request.param, max_connections=SLOTS) as sandbox:
        with connect(sandbox.admin_conninfo) as admin:
            for name, value in SETTINGS.items():
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            admin.execute(b"CREATE TABLE stock (id int)")
            admin.execute(b"GRANT ALL ON stock TO PUBLIC")
            folder = Path(str(one(admin, "SHOW data_directory"))) / "log"
        sandbox.restart()
        yield Server(sandbox, folder)


def paste(server: Server, folder: Path) -> Path:
    """Let psql print the server twice, two seconds apart, as docs/evidence.md says."""
    view = "select now(), pg_blocking_pids(pid) as blocked_by, * from pg_stat_activity where pid <> pg_backend_pid()"
    commands = ["show max_connections", view, "select pg_sleep(2)", view]
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["psql", "-X", server.sandbox.admin_conninfo, *words], capture_output=True, text=True, check=True, timeout=60
    )
    (folder / "paste.txt").write_text(done.stdout)
    return folder / "paste.txt"


def leak(server: Server, stack: ExitStack) -> None:
    clients = stack.enter_context(Clients(server.sandbox.direct_conninfo))
    # One after the other, as requests leak: at one moment they would be a jam.
    for _ in range(5):
        clients.in_transaction()
        time.sleep(1.2)
    time.sleep(2)


def queue(server: Server, stack: ExitStack) -> None:
    clients = stack.enter_context(Clients(server.sandbox.direct_conninfo))
    clients.locking("stock")
    for _ in range(3):
        clients.busy("SELECT count(*) FROM stock")
    with connect(server.sandbox.admin_conninfo) as admin:
        eventually(lambda: one(admin, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 3)
    time.sleep(2)


def abort(server: Server, stack: ExitStack) -> None:
    clients = stack.enter_context(Clients(server.sandbox.direct_conninfo))
    for _ in range(3):
        clients.aborted()
    time.sleep(1.5)


def work(server: Server, stack: ExitStack) -> None:
    clients = stack.enter_context(Clients(server.sandbox.direct_conninfo))
    for _ in range(6):
        clients.busy("SELECT count(*) FROM generate_series(1, 2000000000)")
    time.sleep(1)


def come_and_go(server: Server, stack: ExitStack) -> None:
    is_over = Event()

    def run() -> None:
        while not is_over.is_set():
            with (
                suppress(psycopg.Error),
                psycopg.connect(server.sandbox.direct_conninfo, application_name="job") as each,
            ):
                each.execute("SELECT 1")

    threads = [Thread(target=run) for _ in range(6)]
    for thread in threads:
        stack.callback(thread.join)
    stack.callback(is_over.set)
    for thread in threads:
        thread.start()
    time.sleep(3)


def fill(server: Server, stack: ExitStack) -> None:
    clients = stack.enter_context(Clients(server.sandbox.direct_conninfo))
    with suppress(psycopg.OperationalError):
        for _ in range(SLOTS):
            clients.idle()
    for _ in range(5):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.sandbox.direct_conninfo)


INCIDENTS = {
    "leak-in-transaction": (leak, {"leak-in-transaction"}),
    "lock-queue": (queue, {"lock-queue", "leak-in-transaction"}),
    "aborted-transaction": (abort, {"aborted-transaction"}),
    "slow-database": (work, {"slow-database"}),
    "connection-churn": (come_and_go, {"connection-churn"}),
    "slots-exhausted": (fill, {"slots-exhausted"}),
}


NOT_DECIDED = ("slow-database",)
"""By no paste and no log: they do not say how many processors the server has."""


def describe(result: InspectResult) -> list[str]:
    return [f"{each.severity} {each.confidence} {each.code}: {each.summary}" for each in result.findings]


@pytest.mark.parametrize("name", INCIDENTS)
def test_files_say_what_the_live_server_says_or_that_they_cannot_tell(
    server: Server, tmp_path: Path, name: str
) -> None:
    stage, expected = INCIDENTS[name]
    started_at = {path: path.stat().st_size for path in server.log.iterdir()}
    with ExitStack() as stack:
        stage(server, stack)
        live = inspect(conninfo=server.sandbox.admin_conninfo, duration=2.0)
        pasted = paste(server, tmp_path)
    logs = [path for path in server.log.iterdir() if path.suffix in (".log", ".csv")]
    kept = []
    for path in logs:
        (tmp_path / path.name).write_bytes(path.read_bytes()[started_at[path] :])
        kept.append(str(tmp_path / path.name))
    from_paste = inspect(evidence=[str(pasted)])
    from_all = [inspect(evidence=[str(pasted), file]) for file in kept]

    codes = {finding.code for finding in live.findings if finding.confidence != "undetermined"}
    assert expected & codes, describe(live)
    for result in (from_paste, *from_all):
        worst = result.findings[0]
        assert worst.code in codes or worst.confidence == "undetermined", (describe(live), describe(result))
    if name not in NOT_DECIDED:
        assert expected & {finding.code for finding in from_all[0].findings}, describe(from_all[0])
    assert [source.reason for result in from_all for source in result.observation.sources] == [""] * 2 * len(kept)
