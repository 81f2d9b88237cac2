"""What a command does when its streams, its start or its own code fail: one line, the right exit code, no traceback."""

import fcntl
import json
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from sandboxes import eventually

ROOT = Path(__file__).parents[1]
POOLCTL = (sys.executable, "-m", "poolctl")
MODEL = ("simulate", "--engine", "model", "--for", "1s")
ADVICE = ("recommend", "--arrival-rate", "100", "--hold-time", "8ms", "--instances", "8")
NOTED = (*MODEL, "--set", "pool.max_idle=3", "--compare", "hikaricp")
"""Prints a note on standard error: HikariCP has no max_idle."""
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")


def run_shell(redirection: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run poolctl in a shell with ``redirection``."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *POOLCTL, *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@FULL
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "1</dev/null"])
@pytest.mark.parametrize("words", [("--help",), (*MODEL, "--json"), ADVICE])
def test_standard_output_that_cannot_be_written_is_one_line_and_exit_code_3(
    redirection: str, words: tuple[str, ...]
) -> None:
    finished = run_shell(redirection, *words)

    assert finished.returncode == 3
    reason = {">/dev/full": "No space left on device", ">&-": "it is closed", "1</dev/null": "Bad file descriptor"}
    assert finished.stderr.splitlines() == [
        f"poolctl: cannot write to standard output: {reason[redirection]}",
        "  the answer is incomplete, or missing",
    ]


@FULL
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2</dev/null"])
def test_standard_error_that_cannot_be_written_does_not_cost_the_answer(redirection: str) -> None:
    finished = run_shell(redirection, *NOTED, "--json")

    assert finished.returncode == 3
    assert json.loads(finished.stdout)["status"] == "ok"
    assert run_shell("", *NOTED, "--json").stderr != ""


@FULL
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_standard_error_that_is_not_needed_does_not_matter(redirection: str) -> None:
    finished = run_shell(redirection, *ADVICE, "--json")

    assert finished.returncode == 0
    assert json.loads(finished.stdout)["recommendation"]["max_open"] > 0


@FULL
@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", ">&- 2>&-", ">&- 2>&- <&-"])
def test_two_streams_that_cannot_be_written_leave_the_exit_code(redirection: str) -> None:
    assert run_shell(redirection, *NOTED).returncode == 3
    assert run_shell(redirection, "simulate", "--no-such-option").returncode == 2


def test_an_error_is_reported_on_the_stream_that_is_left() -> None:
    finished = run_shell("2>&-", "simulate", "--no-such-option", "--json")

    assert finished.returncode == 2
    assert json.loads(finished.stdout)["error"]["code"] == "bad-input"


@pytest.mark.parametrize("name", ["run.json", "run.html"])
def test_a_file_that_cannot_be_written_does_not_cost_the_answer(tmp_path: Path, name: str) -> None:
    # No file may grow beyond 1 kB, as on a full disk. Standard output is a pipe, to which that does not apply.
    limited = "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))"
    program = f"import resource; {limited}; from poolctl.cli import main; main()"
    # Python would leave the beginning of each compiled module in the cache that the other tests import from.
    words = (*MODEL, "--json", "--output", str(tmp_path / name))
    finished = run_program(program, *words, PYTHONDONTWRITEBYTECODE="1")

    assert finished.returncode == 3
    assert len(finished.stderr.splitlines()) in (1, 2)
    assert str(tmp_path / name) in finished.stderr
    assert "File too large" in finished.stderr
    assert json.loads(finished.stdout)["status"] == "ok"


def test_a_reader_that_has_left_is_no_failure() -> None:
    finished = subprocess.run(
        ["bash", "-c", '"$@" | head -c 10; exit ${PIPESTATUS[0]}', "bash", *POOLCTL, *MODEL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (finished.returncode, len(finished.stdout), finished.stderr) == (0, 10, "")


CRASH = """
import poolctl.engines.model
def simulate(*_, **__):
    raise KeyError("what went wrong", "password=S3CRET")
poolctl.engines.model.simulate = simulate
from poolctl.cli import main
main()
"""


def run_program(program: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run poolctl as the last part of a Python program, with SIGINT as a terminal gives it."""
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_exception_that_no_layer_expected_is_exit_code_70_and_one_line() -> None:
    finished = run_program(CRASH, *MODEL, "--json")

    assert finished.returncode == 70
    message, hint = finished.stderr.splitlines()
    assert message.startswith("poolctl: an error inside poolctl, at ")
    assert message.endswith("KeyError: ('what went wrong', 'password=***")
    assert "please report it" in hint
    document = json.loads(finished.stdout)
    assert (document["status"], document["error"]["code"]) == ("failed", "internal")
    assert "S3CRET" not in finished.stdout + finished.stderr


def test_an_end_of_file_within_poolctl_is_no_interrupt() -> None:
    finished = run_program(CRASH.replace("raise KeyError", "raise EOFError"), *MODEL)

    assert finished.returncode == 70
    assert "EOFError" in finished.stderr


def test_evidence_from_a_closed_standard_input_is_one_clear_error() -> None:
    words = shlex.join([sys.executable, "-m", "poolctl", "inspect", "--evidence", "-"])
    finished = subprocess.run(["sh", "-c", f"{words} <&-"], capture_output=True, text=True, timeout=60, check=False)

    assert finished.returncode == 2
    assert finished.stderr == "poolctl: --evidence standard input: it is closed\n"


def test_the_rest_of_an_unexpected_exception_is_shown_on_request() -> None:
    finished = run_program(CRASH, *MODEL, POOLCTL_TRACEBACK="1")

    assert finished.returncode == 70
    assert "Traceback (most recent call last):" in finished.stderr
    assert "  File " in finished.stderr
    assert "S3CRET" not in finished.stderr


INTERRUPTED_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from poolctl.cli import main
main()
"""


@pytest.mark.parametrize(
    "name",
    [
        *("pathlib", "click", "click.core", "poolctl.errors", "poolctl.commands.simulate", "poolctl.commands.streams"),
        *("poolctl.api.simulate", "poolctl.scenario.scenario", "poolctl.engines.model", "poolctl.api.documents"),
    ],
)
def test_ctrl_c_during_any_import_is_exit_code_130_without_a_traceback(name: str) -> None:
    finished = run_program(INTERRUPTED_IMPORT.format(name=name), *MODEL, "--for", "9h", "--json")

    assert finished.returncode == 130, finished.stderr
    assert finished.stderr.strip() in ("poolctl: interrupted", "")
    assert json.loads(finished.stdout)["status"] == "interrupted"


LOST_INTERRUPT = """
import os, signal
class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
import poolctl.engines.model
def simulate(*_, **__):
    Dropped()
    while True:
        pass
poolctl.engines.model.simulate = simulate
from poolctl.cli import main
main()
"""


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="only Linux has pipes of a chosen size")
def test_ctrl_c_while_nobody_reads_the_document_leaves_a_part_of_it_and_no_second_one() -> None:
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    words = ("--json", "--quiet", "--seed", "1")
    with subprocess.Popen([*POOLCTL, *MODEL, *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        eventually(lambda: bytes_waiting(reader) == size, within=60)

        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=60) == 130
    with os.fdopen(reader, "rb") as pipe:
        written = pipe.read()
    assert written.startswith(b"{")
    assert written.count(b'"schema_version"') == 1
    assert len(written) == size


def bytes_waiting(descriptor: int) -> int:
    """Count what was written into a pipe and not read yet."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0])


def test_ctrl_c_within_a_destructor_is_not_lost() -> None:
    finished = run_program(LOST_INTERRUPT, *MODEL)

    assert finished.returncode == 130
    assert finished.stderr.strip() == "poolctl: interrupted"


def test_a_program_that_imports_the_command_line_keeps_its_own_ctrl_c() -> None:
    finished = run_program(
        "import signal, poolctl.cli; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )

    assert finished.returncode == 0, finished.stderr


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + INTERRUPTED_IMPORT.format(name="click")
    finished = run_program(program, *MODEL, "--json")

    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["status"] == "ok"


def test_tests_that_send_ctrl_c_pass_where_it_is_ignored() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"{__file__}::{_CLICK}"],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "1 passed" in finished.stdout, finished.stdout


_CLICK = "test_ctrl_c_during_any_import_is_exit_code_130_without_a_traceback[click]"
