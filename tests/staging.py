"""Stages incidents on real servers with real client processes, and asks ``poolctl inspect`` for its verdict.

POOLCTL_RECORD_INCIDENTS=FOLDER also keeps what was seen, a file for each test: see test_recordings.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sandboxes import connect, eventually, one

from poolctl.engines.sandbox import Sandbox

PROGRAM = Path(__file__).with_name("incident_client.py")

LEAKS = frozenset({"leak", "leak-in-transaction", "leak-or-long-hold"})
HARMLESS = frozenset({"healthy", "no-safety-net", "oversized-pool", "partial-view"})
"""Codes that a system without any trouble may show."""


@dataclass(frozen=True)
class Verdict:
    """What ``inspect --json`` answered."""

    document: dict[str, Any]
    exit_code: int
    errors: str

    @property
    def codes(self) -> list[str]:
        return [finding["code"] for finding in self.document["findings"]]

    def finding(self, *codes: str) -> dict[str, Any]:
        """The first finding of one of these codes."""
        found = [each for each in self.document["findings"] if each["code"] in codes]
        assert found, f"none of {codes} in {self.summaries}"
        return dict(found[0])

    @property
    def summaries(self) -> list[str]:
        return [
            f"{each['severity']} {each['confidence']} {each['code']}: {each['summary']}"
            for each in self.document["findings"]
        ]

    def held_by(self, *codes: str) -> set[str]:
        """Applications named as holders by the first finding of one of these codes."""
        return {str(holder["application"]) for holder in self.finding(*codes)["holders"]}

    def says_nothing_of(self, *codes: str) -> None:
        """Whatever is undetermined is not said."""
        said = [each for each in self.document["findings"] if each["code"] in codes]
        assert [each for each in said if each["confidence"] != "undetermined"] == [], self.summaries


@dataclass
class Stage:
    """A throw-away server with the clients that were let loose on it."""

    sandbox: Sandbox
    clients: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(
        self, behavior: str, application: str, *, conninfo: str | None = None, wait: bool = True, **options: object
    ) -> "subprocess.Popen[str]":
        """Let a client loose, and return when it has reached its state."""
        target = make_conninfo(conninfo or self.sandbox.conninfo, application_name=application)
        words = [f"{key}={value}" for key, value in options.items()]
        client = subprocess.Popen(
            [sys.executable, str(PROGRAM), behavior, target, *words], stdout=subprocess.PIPE, text=True
        )
        self.clients.append(client)
        if wait:
            self.wait(client)
        return client

    def run_case(self, name: str, application: str, *words: str) -> None:
        """Start a program of tests/cases, which runs until it is ended."""
        target = make_conninfo(self.sandbox.conninfo, application_name=application)
        command = [sys.executable, str(PROGRAM.parent / "cases" / name), target, *words]
        self.clients.append(subprocess.Popen(command, text=True))

    def wait(self, client: "subprocess.Popen[str]") -> None:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"

    def admin(self) -> "psycopg.Connection[Any]":
        return connect(self.sandbox.admin_conninfo)

    def conninfo_of(self, role: str, **changes: str) -> str:
        return make_conninfo(self.sandbox.direct_conninfo, user=role, **changes)

    def inspect(self, *arguments: str, conninfo: str | None = None, role: str = "watcher") -> Verdict:
        """What ``poolctl inspect`` says, as ``role``, which the server knows."""
        target = self.conninfo_of(role) if conninfo is None else conninfo
        return inspect(target, *arguments)

    def clear(self) -> None:
        """End every client, and wait until the server has noticed."""
        for client in self.clients:
            with suppress(ProcessLookupError):
                client.send_signal(signal.SIGCONT)
            client.kill()
        for client in self.clients:
            client.wait()
            if client.stdout is not None:
                client.stdout.close()
        self.clients.clear()
        with connect(self.sandbox.observer_conninfo) as observer:
            clients = "FROM pg_stat_activity WHERE backend_type = 'client backend'"
            one(observer, f"SELECT count(pg_terminate_backend(pid)) {clients} AND usename <> 'postgres'")
            eventually(lambda: one(observer, f"SELECT count(*) {clients}") == 0)


def inspect(target: str, *arguments: str) -> Verdict:
    """Run ``poolctl inspect TARGET --json`` as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "poolctl", "inspect", target, "--json", "--quiet", *arguments, *_recording()],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout, done.stderr
    return Verdict(json.loads(done.stdout), done.returncode, done.stderr)


def _recording() -> list[str]:
    folder = os.environ.get("POOLCTL_RECORD_INCIDENTS")
    if not folder:
        return []
    name = os.environ["PYTEST_CURRENT_TEST"].partition("::test_")[2].rpartition(" ")[0]
    return ["--record", str(Path(folder) / f"{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}.jsonl")]


@contextmanager
def stage(**sandbox: Any) -> Iterator[Stage]:
    """A server with the roles that look at it: ``watcher`` (pg_monitor) and ``stranger`` (no privilege at all)."""
    with Sandbox.start(**sandbox) as running:
        with connect(running.admin_conninfo) as admin:
            for statement in (
                "CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher; CREATE ROLE stranger LOGIN",
                "CREATE ROLE billing LOGIN CONNECTION LIMIT 6",
            ):
                admin.execute(statement.encode())
            with Path(str(one(admin, "SHOW hba_file"))).open("a") as file:
                file.write("host all watcher,stranger,billing 127.0.0.1/32 trust\n")
            admin.execute("SELECT pg_reload_conf()")
        staged = Stage(running)
        try:
            yield staged
        finally:
            staged.clear()


def pids_of(holders: Sequence[dict[str, Any]]) -> set[int]:
    return {pid for holder in holders for pid in holder["pids"]}
