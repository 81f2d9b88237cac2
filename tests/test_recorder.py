"""``poolctl inspect --watch`` as a service: what it reports, keeps and survives, on real servers."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sandboxes import eventually
from staging import Stage, stage

from poolctl.engines.sandbox.server import free_port
from poolctl.observe.postgres import PATIENT_RETRY
from poolctl.observe.recording import read_recording

pytestmark = [pytest.mark.server, pytest.mark.slow]

HOOK = "import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:5]) + ' ' + sys.stdin.read())"


class Service:
    """A running poolctl, and the lines that it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # Without --on-finding it ends with a report.
            if line.startswith("{"):
                self.lines.append(json.loads(line))

    def wait_for(self, kind: str, *codes: str, within: float = 60.0) -> dict[str, Any]:
        def find() -> list[dict[str, Any]]:
            return [each for each in self.lines if each["event"] == kind and each["code"] in codes]

        eventually(lambda: bool(find()) or self.process.poll() is not None, within=within)
        assert find(), self.lines
        return find()[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self._reader.join(10)
        return code


@contextmanager
def serve(conninfo: str, *options: str) -> Iterator[Service]:
    command = [sys.executable, "-m", "poolctl", "inspect", conninfo, "--watch", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Service(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Stage]:
    with stage(max_connections=30) as staged:
        yield staged


@pytest.fixture
def at(server: Stage) -> Iterator[Stage]:
    yield server
    server.clear()


def leak(at: Stage) -> None:
    at.start("leak", "shop", size=12, until=8, most=8, every=3, think=0.02)


def read_snapshots(folder: Path, kind: str) -> int:
    return sum(len(read_recording(path)[0].snapshots) for path in sorted(folder.glob(f"{kind}-*")))


def test_a_leak_is_reported_kept_apart_and_given_to_the_command(at: Stage, tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(HOOK)
    events, ring = tmp_path / "events", tmp_path / "ring"
    command = f"{sys.executable} '{hook}' '{events}'"
    options = ("--record", str(ring), "--keep", "1h", "--on-finding", "warning", "--interval", "500ms")
    with serve(at.conninfo_of("watcher"), *options, "--exec", command) as service:
        eventually(lambda: ring.exists() and any(ring.glob("ring-*")), within=30)
        leak(at)
        began = service.wait_for("began", "leak-in-transaction")
        assert service.end() == 130

    assert began["severity"] in ("warning", "critical")
    assert began["finding"]["holders"][0]["application"] == "shop"
    assert len(json.dumps(began)) < 8_000
    assert read_snapshots(ring, "ring") >= 3
    apart = read_recording(Path(began["recording"]))[0]
    assert len(apart.snapshots) >= 3
    assert service.wait_for("ended", "leak-in-transaction")["began_at"] == began["began_at"]
    told = events.read_text().splitlines()
    assert told[0].startswith(("began leak-in-transaction ", "began slots-low "))
    assert json.loads(told[0].split(" ", 3)[3])["event"] == "began"
    assert any(line.startswith("ended leak-in-transaction ") for line in told)


def test_a_command_that_fails_or_is_not_there_harms_nothing(at: Stage, tmp_path: Path) -> None:
    leak(at)
    with serve(
        at.conninfo_of("watcher"), "--on-finding", "warning", "--interval", "500ms", "--exec", "/no/such"
    ) as one:
        one.wait_for("began", "leak-in-transaction")
        assert one.end() == 130


def test_kill_9_leaves_recordings_that_can_be_replayed(at: Stage, tmp_path: Path) -> None:
    with serve(at.conninfo_of("watcher"), "--record", str(tmp_path), "--keep", "1h", "--interval", "200ms") as service:
        eventually(lambda: any(path.stat().st_size > 3_000 for path in tmp_path.glob("ring-*")), within=30)
        service.end(signal.SIGKILL)

    (path,) = tmp_path.glob("ring-*")
    command = [sys.executable, "-m", "poolctl", "inspect", "--replay", str(path), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["observed"]["samples"] >= 3


def test_it_goes_on_when_the_server_restarts(at: Stage, tmp_path: Path) -> None:
    options = ("--record", str(tmp_path), "--keep", "1h", "--interval", "500ms", "--on-finding", "critical")
    with serve(at.conninfo_of("watcher"), *options) as service:
        eventually(lambda: any(tmp_path.glob("ring-*")), within=30)
        at.sandbox.fail_over()
        starts: set[float] = set()

        def is_back() -> bool:
            for path in tmp_path.glob("ring-*"):
                starts.update(sample.started_at for sample in read_recording(path)[0].samples)
            return len(starts) == 2

        eventually(is_back, within=40)
        assert service.process.poll() is None
        assert service.end() == 130


def test_a_server_that_is_away_is_tried_each_5_s_at_most_over_one_connection(tmp_path: Path) -> None:
    attempts: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                attempts.append(time.monotonic())
                client.close()

        threading.Thread(target=refuse, daemon=True).start()
        conninfo = f"host=127.0.0.1 port={listener.getsockname()[1]} user=app dbname=app sslmode=disable"
        environment = {**os.environ, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
        command = [sys.executable, "-m", "poolctl", "inspect", conninfo, "--watch", "--record", str(tmp_path)]
        command += ["--keep", "1h", "--interval", "200ms", "--on-finding", "critical"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        ) as process:
            try:
                eventually(lambda: len(attempts) > 0 and attempts[-1] - attempts[0] > 2 * PATIENT_RETRY, within=60)
                assert process.poll() is None
            finally:
                process.kill()

    # One attempt may ask twice, for the refusal in full; the next comes five seconds later.
    rounds = [attempts[0]]
    for moment in attempts:
        if moment - rounds[-1] > 1.0:
            rounds.append(moment)
    assert all(later - earlier > PATIENT_RETRY - 1.0 for earlier, later in pairwise(rounds))
    assert len(attempts) <= 2 * len(rounds)


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def has_series(read: Callable[[], str], *wanted: str) -> Callable[[], bool]:
    def is_there() -> bool:
        with suppress(OSError):
            text = read()
            return all(each in text for each in wanted)
        return False

    return is_there


def test_metrics_are_served_and_written_while_a_leak_comes(at: Stage, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "poolctl.prom"
    options = ("--metrics", str(port), "--textfile", str(file), "--interval", "500ms", "--quiet")
    with serve(at.conninfo_of("watcher"), *options) as service:
        eventually(has_series(lambda: scrape(port), 'poolctl_up{source="postgres"', "poolctl_verdict{"), within=30)
        leak(at)
        leaked = ('poolctl_suspected_leaks{application="shop"', 'poolctl_finding{code="leak-in-transaction"')
        eventually(has_series(lambda: scrape(port), *leaked), within=60)
        eventually(has_series(file.read_text, *leaked), within=30)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/other", timeout=10)
        # A scraper that says nothing does not keep the others waiting.
        with socket.create_connection(("127.0.0.1", port)):
            scrape(port)
        assert service.end() == 130
    assert [path.name for path in tmp_path.iterdir()] == ["poolctl.prom"]


def test_metrics_say_that_a_server_is_away_from_the_start(tmp_path: Path) -> None:
    port = free_port()
    options = ("--metrics", str(port), "--interval", "200ms", "--quiet")
    with serve(f"host=127.0.0.1 port={free_port()} user=app dbname=app", *options):
        down = 'poolctl_up{source="postgres",target="127.0.0.1'
        eventually(lambda: any(x.startswith(down) and x.endswith(" 0") for x in scrape_lines(port)), within=30)


def scrape_lines(port: int) -> list[str]:
    try:
        return scrape(port).splitlines()
    except OSError:
        return []


def test_a_port_that_is_taken_is_one_clear_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "poolctl", "inspect", "host=127.0.0.1 port=1", "--watch"]
        done = subprocess.run([*command, "--metrics", str(port)], capture_output=True, text=True, check=False)

    assert done.returncode == 3
    assert f"cannot serve metrics at 127.0.0.1:{port}: Address already in use" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "1h", "--record", "ring"], "--keep goes with --watch"),
        (["--watch", "--keep", "1h"], "--record DIR"),
        (["--watch", "--record", "."], "this is a folder"),
        (["--watch", "--exec", "true"], "--on-finding"),
        (["--watch", "--on-finding", "warning", "--json"], "one document"),
        (["--watch", "--on-finding", "warning", "--exec", "'"], "quotation"),
        (["--watch", "--on-finding", "info"], "info"),
        (["--metrics", "9187"], "--watch"),
        (["--watch", "--metrics", "host"], "[ADDRESS:]PORT"),
        (["--watch", "--metrics", "127.0.0.1:70000"], "[ADDRESS:]PORT"),
        (["--textfile", "no/such/poolctl.prom"], "there is no folder"),
        (["--watch", "--keep", "1h", "--record", "ring", "--keep-size", "1kB"], "1MB"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poolctl", "inspect", "host=127.0.0.1 port=1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=30)

    assert done.returncode == 2
    assert words in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []
