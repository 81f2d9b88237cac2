"""The command line as users and scripts meet it: what is on which stream, and the exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import check_usage_error, run_here

QUICK = ("--for", "1s", "--set", "load.drain=500ms", "--quiet")


def poolctl(*arguments: str, timeout: float = 60.0, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "poolctl", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
    )


def write_scenario(folder: Path, text: str) -> str:
    path = folder / "scenario.toml"
    path.write_text(text)
    return str(path)


def test_without_a_command_the_help_is_on_stderr_and_the_exit_code_2() -> None:
    done = poolctl()

    assert done.returncode == 2
    assert done.stdout == ""
    assert "simulate" in done.stderr


def test_help_is_on_stdout_and_has_examples() -> None:
    done = poolctl("simulate", "--help")

    assert done.returncode == 0
    assert "poolctl simulate --leak" in done.stdout
    assert done.stderr == ""


def test_the_version_is_told() -> None:
    assert poolctl("--version").stdout.startswith("poolctl ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("simulate", "--no-such-option"), "No such option"),
        (("simulate", "--rate", "3"), "--set load.rate=50"),
        (("inspect", "--explain", "no-such-code"), "no-connection-in-time"),
        (("simulate", "missing.toml"), "missing.toml: no such file"),
        (("simulate", "--for", "3 parsecs"), "a duration is a number with a unit"),
        (("simulate", "--for", "-1s"), "a duration"),
        (("simulate", "--set", "pool.max_opne=3"), "pool.max_opne"),
        (("simulate", "--set", "pool.max_opne=3"), "did you mean max_open?"),
        (("simulate", "--set", "pool.max_open=-1"), "must be 0 or more"),
        (("simulate", "--set", "load.rate=3"), "not both"),
        (("simulate", "--set", "nonsense"), "must be section.key=value"),
        (("simulate", "--set", "pool.kind=hibernate"), "must be one of"),
        (("simulate", "--leak-shape", "slow"), "leak.shape"),
        (("simulate", "--compare", "leak,nonsense"), "'nonsense': there is no such variant"),
        (("simulate", "--compare", "leak,leak"), "given twice"),
        (("simulate", "--output", "run.pdf"), "must end in"),
        (("simulate", "--output", "/no/such/folder/run.svg"), "no folder"),
        (("simulate", "--stop", "/tmp"), "no throw-away server"),
        (("simulate", "--interval", "0s"), "--interval 0 s: must be 1 ms or more"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error_and_the_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    check_usage_error(run_here(*arguments), said)


def test_an_error_in_a_file_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = write_scenario(tmp_path, 'name = "x"\n[load]\nworkers = 4\nholt = "20ms"\n')

    done = run_here("simulate", path)

    assert done.returncode == 2
    assert f"{path}, line 4: load.holt" in done.stderr
    assert "did you mean hold?" in done.stderr


@pytest.mark.parametrize("text", ["", "not toml at all [", "\x00\x01\x02", 'name = "x"', "name = 3\n[load]\nworkers=1"])
def test_garbage_in_a_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    done = run_here("simulate", write_scenario(tmp_path, text))

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "scenario.toml" in done.stderr


def test_with_json_a_failure_is_one_document_too() -> None:
    done = run_here("simulate", "--json", "--set", "pool.max_open=-1")

    document = json.loads(done.stdout)
    assert done.returncode == 2
    assert (document["schema_version"], document["command"], document["status"]) == (1, "simulate", "failed")
    assert document["error"]["code"] == "bad-input"
    assert "pool.max_open = -1" in document["error"]["message"]


def test_a_folder_without_postgresql_is_refused_by_name(tmp_path: Path) -> None:
    done = run_here("simulate", *QUICK, POOLCTL_PG_BINDIR=str(tmp_path))

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr


def test_a_pooler_of_poolctls_own_does_not_go_with_a_target() -> None:
    done = run_here("simulate", *QUICK, "--set", "database.via=pgbouncer", "--target", "host=127.0.0.1")

    assert done.returncode == 2
    assert "throw-away server" in done.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("host=127.0.0.1 port=1 connect_timeout=2", "refused"),
        ("host=no.such.host.invalid connect_timeout=2", "no.such.host.invalid"),
        ("host=127.0.0.1 port=1 password=hunter2 connect_timeout=2", "refused"),
    ],
)
def test_a_target_that_is_not_there_gives_the_exit_code_3_and_no_password(target: str, said: str) -> None:
    done = run_here("simulate", *QUICK, "--target", target)

    assert done.returncode == 3
    assert said in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_target_that_is_no_conninfo_is_wrong_usage() -> None:
    done = run_here("simulate", *QUICK, "--target", "host=a bogus=1")

    assert done.returncode == 2
    assert "--target" in done.stderr


@pytest.mark.server
def test_a_run_answers_on_stdout_with_the_verdict_in_the_first_line() -> None:
    done = poolctl("simulate", "--fail-on", "warning", *QUICK)

    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("OK  Healthy")
    assert "repeat with  poolctl simulate" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.server
def test_json_is_the_only_thing_on_stdout_and_follows_the_contract() -> None:
    done = poolctl("simulate", "--json", "--leak", "--leak-every", "5", *QUICK)

    document: dict[str, Any] = json.loads(done.stdout)
    summary = document["summary"]
    assert (document["status"], document["engine"], document["seed"]) == ("ok", "live", 1)
    assert summary["leaked"] > 0
    ended = ("acquired", "timed_out", "refused", "failed", "unfinished")
    assert summary["offered"] == sum(summary[key] for key in ended)
    assert document["findings"][0]["code"] == "leak"
    assert document["timeline"][-1]["at"] == pytest.approx(1.0, abs=0.8)


@pytest.mark.server
def test_fail_on_turns_a_finding_into_the_exit_code_1() -> None:
    leaky = poolctl("simulate", "--leak", "--leak-every", "5", "--fail-on", "critical", *QUICK)

    assert leaky.returncode == 1
    assert leaky.stdout.startswith("CRITICAL")


@pytest.mark.server
def test_compare_puts_the_variants_into_one_table_and_one_document(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    done = poolctl("simulate", "--compare", "leak,correct,max_idle=2,20", "--output", str(file), *QUICK)

    names = [run["name"] for run in json.loads(file.read_text())["runs"]]
    assert names == ["leak", "correct", "max_idle=2", "max_idle=20"]
    assert all(name in done.stdout for name in names)


@pytest.mark.server
def test_output_files_are_written_whole(tmp_path: Path) -> None:
    files = [tmp_path / f"run.{suffix}" for suffix in ("svg", "html", "json")]
    done = poolctl("simulate", *QUICK, *(word for file in files for word in ("--output", str(file))))

    assert done.returncode == 0
    assert files[0].read_text().startswith("<svg") or files[0].read_text().startswith("<?xml")
    assert "<html" in files[1].read_text()
    assert json.loads(files[2].read_text())["command"] == "simulate"
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_still_tells_what_was_measured_and_exits_with_130(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "poolctl", "simulate", "--for", "60s", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("running"):
                break
        time.sleep(1.0)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)

    document = json.loads(output)
    assert process.returncode == 130
    assert document["status"] == "interrupted"
    assert document["summary"]["released"] > 50


@pytest.mark.server
def test_an_interrupt_before_the_load_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "poolctl", "simulate", "--for", "60s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert output == ""
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.glob("poolctl-*")) == []


@pytest.mark.server
def test_kept_servers_say_how_to_stop_them_and_stop() -> None:
    done = poolctl("simulate", "--keep", *QUICK)
    command = next(line for line in done.stderr.splitlines() if "--stop" in line)
    folder = Path(command.rsplit(" ", 1)[1].strip("'"))

    assert folder.is_dir()
    assert poolctl("simulate", "--stop", str(folder)).returncode == 0
    assert not folder.exists()


@pytest.mark.server
def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m poolctl simulate {' '.join(QUICK)} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.startswith("OK")
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
