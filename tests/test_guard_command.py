"""``poolctl guard -- COMMAND``: it follows every Python process, and leaves the command as it is."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from guard_runs import run_guard, run_program

pytestmark = pytest.mark.server

LEAK = """
import os, sys, time
import psycopg_pool
DSN = os.environ["GUARD_DSN"]
KEPT = []

def leak():
    pool = psycopg_pool.ConnectionPool(DSN, min_size=1, max_size=2, open=True)
    KEPT.append((pool, pool.getconn()))  # line 9
"""
PLACE = "program.py:9"


LEAKS_AND_STAYS = f"{LEAK}\nleak()\nsys.stderr.write('up\\n')\ntime.sleep(600)\n"


@contextmanager
def guarding(
    program: str, environment: dict[str, str], folder: Path, *options: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run a program under the guard, as long as the caller needs both."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "poolctl", "guard", *options, "--", sys.executable, "program.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as guard:
        try:
            yield guard
        finally:
            guard.terminate()


def ask_until_reported(guard: "subprocess.Popen[str]") -> list[str]:
    """Send SIGUSR1 until the guard reports the leak, and return what was written until then."""
    assert guard.stderr is not None
    seen = [next(line for line in guard.stderr if line == "up\n")]
    while not any(PLACE in line for line in seen):
        # The process reports each half second, so the first answers may come before its first report.
        assert guard.poll() is None
        guard.send_signal(signal.SIGUSR1)
        seen.append(guard.stderr.readline())
    return seen


def test_the_commands_output_and_exit_code_are_its_own(environment: dict[str, str], tmp_path: Path) -> None:
    result = run_program("import sys; print('mine'); sys.exit(7)", environment, tmp_path, options=())

    assert result.code == 7
    assert result.stdout == "mine\n"
    assert "poolctl guard: saw no connection" in result.stderr
    assert "1 Python process ran, and used none of the libraries" in result.stderr


def test_with_json_standard_output_is_one_document(environment: dict[str, str], tmp_path: Path) -> None:
    result = run_program(f"{LEAK}\nprint('mine')\nleak()\n", environment, tmp_path)

    assert "mine" in result.stderr
    assert result.document["command"] == "guard"
    assert result.document["exit_code"] == 0
    (leak,) = result.findings("leak")
    assert leak["evidence"]["acquired_at"] == PLACE
    assert leak["confidence"] == "certain"
    (process,) = result.document["processes"]
    assert process["ended_in_order"]
    assert process["holds"][0]["backend_pid"] > 0
    assert environment["GUARD_DSN"] not in result.stdout


def test_a_command_that_does_not_exist_exits_as_in_a_shell(environment: dict[str, str], tmp_path: Path) -> None:
    missing = run_guard(["/no/such/program"], environment, options=(), folder=tmp_path)
    (tmp_path / "text").write_text("no program", encoding="utf-8")
    refused = run_guard([tmp_path / "text"], environment, options=(), folder=tmp_path)

    assert (missing.code, refused.code) == (127, 126)
    assert "command not found: /no/such/program" in missing.stderr
    assert "saw no connection" in missing.stderr


@pytest.mark.parametrize("command", [["sh", "-c", "exit 3"], [sys.executable, "-I", "-c", "raise SystemExit(3)"]])
def test_a_command_that_the_guard_cannot_follow_keeps_its_exit_code(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    result = run_guard(command, environment, options=(), folder=tmp_path)

    assert result.code == 3
    assert "no Python started under the guard" in result.stderr


def test_an_end_by_signal_is_passed_on_and_the_last_report_still_counts(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with guarding(LEAKS_AND_STAYS, environment, tmp_path, "--json", "--threshold", "10ms") as guard:
        ask_until_reported(guard)
        (program,) = psutil.Process(guard.pid).children()
        program.kill()
        output, _ = guard.communicate(timeout=60)

    document = json.loads(output)
    assert guard.returncode == document["exit_code"] == 128 + signal.SIGKILL
    (finding,) = [each for each in document["findings"] if each["code"] == "leak-or-long-hold"]
    assert finding["evidence"]["acquired_at"] == PLACE
    assert finding["summary"].startswith("apparent leak")
    assert any("ended by a signal" in sentence for sentence in document["unseen"])


def test_for_stops_the_command_and_reports(environment: dict[str, str], tmp_path: Path) -> None:
    result = run_program("import time; time.sleep(120)", environment, tmp_path, options=("--json", "--for", "1s"))

    assert result.document["elapsed"] < 100
    assert result.code == result.document["exit_code"] == 128 + signal.SIGTERM


def test_fail_on_turns_a_good_exit_into_one(environment: dict[str, str], tmp_path: Path) -> None:
    program = f"{LEAK}\nleak()\n"

    assert run_program(program, environment, tmp_path, options=("--fail-on", "warning")).code == 1
    assert run_program(program, environment, tmp_path, options=("--fail-on", "critical")).code == 0
    assert run_program(f"{program}\nsys.exit(5)", environment, tmp_path, options=("--fail-on", "warning")).code == 5


def test_usr1_makes_it_report_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    with guarding(LEAKS_AND_STAYS, environment, tmp_path) as guard:
        assert "held now\n" in ask_until_reported(guard)
        assert guard.poll() is None
        guard.terminate()
        guard.communicate(timeout=60)

    assert guard.returncode == 128 + signal.SIGTERM


def test_every_reports_while_the_command_runs(environment: dict[str, str], tmp_path: Path) -> None:
    with guarding(LEAKS_AND_STAYS, environment, tmp_path, "--every", "200ms") as guard:
        assert guard.stderr is not None
        reports = (line for line in guard.stderr if line == "held now\n")
        assert next(reports) == next(reports)
        assert guard.poll() is None


def test_multiprocessing_is_followed_however_it_starts_processes(environment: dict[str, str], tmp_path: Path) -> None:
    program = f"""{LEAK}
import multiprocessing
if __name__ == "__main__":
    methods = ("fork", "spawn", "forkserver")
    processes = [multiprocessing.get_context(method).Process(target=leak) for method in methods]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
"""
    result = run_program(program, environment, tmp_path)

    (leak,) = result.findings("leak")
    assert leak["evidence"]["acquired_at"] == PLACE
    assert leak["evidence"]["count"] == len(leak["holders"]) == 3


def test_a_subprocess_of_another_directory_is_followed(environment: dict[str, str], tmp_path: Path) -> None:
    program = f"{LEAK}\nleak()\n"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "program.py").write_text(program, encoding="utf-8")
    outer = "import subprocess, sys; subprocess.run([sys.executable, 'program.py'], cwd='inner', check=True)"
    result = run_program(outer, environment, tmp_path, name="outer.py")

    (leak,) = result.findings("leak")
    assert leak["evidence"]["acquired_at"] == "inner/program.py:9"


def test_the_users_own_sitecustomize_still_runs(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import os; os.environ['MINE'] = 'yes'", encoding="utf-8")
    path = f"{tmp_path / 'site'}{os.pathsep}{environment['PYTHONPATH']}"
    result = run_program(
        "import os, sitecustomize; print(os.environ['MINE'], sitecustomize.__file__)",
        environment | {"PYTHONPATH": path},
        tmp_path,
        options=(),
    )

    assert result.stdout.split() == ["yes", str(tmp_path / "site" / "sitecustomize.py")]


def test_a_library_that_is_not_as_expected_is_said_once_and_harms_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    pool = "class ConnectionPool:\n    def getconn(self):\n        return 7\n    close = None\n"
    (tmp_path / "psycopg_pool.py").write_text(f"__version__ = '99.0'\n{pool}", encoding="utf-8")
    program = (
        "import psycopg_pool; pool = psycopg_pool.ConnectionPool; print(pool().getconn(), pool.getconn.__qualname__, "
        "'__init__' in vars(pool))"
    )
    result = run_program(program, environment, tmp_path, options=())

    assert result.code == 0
    assert result.stdout == "7 ConnectionPool.getconn False\n"
    assert result.stderr.count("its version 99.0 is not known to the guard") == 1


def test_two_guards_at_once_report_each_their_own(environment: dict[str, str], tmp_path: Path) -> None:
    program = f"{LEAK}\nleak()\n"
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "poolctl", "guard", "--json", "--", sys.executable, "program.py"]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(2)
    ]
    documents = [json.loads(guard.communicate(timeout=60)[0]) for guard in both]

    assert [len(document["processes"]) for document in documents] == [1, 1]
    assert documents[0]["processes"][0]["pid"] != documents[1]["processes"][0]["pid"]


def test_a_guard_within_a_guard_takes_its_own_processes(environment: dict[str, str], tmp_path: Path) -> None:
    program = f"{LEAK}\nleak()\n"
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    inner = [sys.executable, "-m", "poolctl", "guard", "--output", "inner.json", "--", sys.executable, "program.py"]
    result = run_guard(inner, environment, folder=tmp_path)

    document = json.loads((tmp_path / "inner.json").read_text(encoding="utf-8"))
    assert [finding["code"] for finding in document["findings"]] == ["leak"]
    assert result.findings("leak") == []


def test_a_killed_guard_leaves_nothing_behind_and_does_not_stop_the_program(
    environment: dict[str, str], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    program = (
        f"{LEAK}\nleak()\nprint('up', flush=True)\nsys.stdin.readline()\ntime.sleep(1)\nprint('end', flush=True)\n"
    )
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    guard = subprocess.Popen(
        [sys.executable, "-m", "poolctl", "guard", "--", sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment | {"TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert guard.stdout is not None
    assert guard.stdin is not None
    assert guard.stdout.readline() == "up\n"
    guard.kill()
    guard.wait(10)
    guard.stdin.write("\n")
    guard.stdin.flush()

    assert guard.stdout.readline() == "end\n"
    assert list(temporary.iterdir()) == []
    guard.stdin.close()
    guard.stdout.close()


@pytest.mark.parametrize("options", [["--json", "--for", "0"], ["--every", "-1s"], ["--threshold", "soon"], []])
def test_wrong_usage_exits_with_two(options: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    command = ["true"] if options else []

    assert run_guard(command, environment, options=options, folder=tmp_path).code == 2
