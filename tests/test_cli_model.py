"""The command line with the model engine, sweeps, replications and both engines."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import run_here

from poolctl.cli import main

HEAVY = {"psycopg", "psycopg2", "psycopg_pool", "sqlalchemy", "rich", "asyncio", "ssl", "psutil", "multiprocessing"}
QUICK = ("--for", "1s", "--set", "load.drain=500ms")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "poolctl", "simulate", *arguments]


def poolctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_here("simulate", *arguments)


def document_of(*arguments: str) -> Any:
    done = poolctl(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_run_with_json_imports_no_driver_and_nothing_that_is_slow_to_import() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command("--engine", "model", "--json", *QUICK)[1:]],
        capture_output=True,
        text=True,
        timeout=60,
    )

    modules = {name.split(".")[0] for name in re.findall(r"^import time:.*\|\s*([\w.]+)$", done.stderr, re.MULTILINE)}
    assert done.returncode == 0
    assert json.loads(done.stdout)["engine"] == "model"
    assert "poolctl" in modules
    assert modules & HEAVY == set()


def test_a_short_model_run_says_nothing_but_its_answer_and_repeats_exactly() -> None:
    first, second = (poolctl("--engine", "model", "--seed", "7", *QUICK) for _ in range(2))

    assert first.returncode == 0
    assert first.stderr == ""
    assert "model run" in first.stdout
    assert first.stdout == second.stdout


def test_a_model_run_takes_no_real_time() -> None:
    document = document_of("--engine", "model", "--for", "1h", "--set", "load.workers=1", "--set", "load.think=1s")

    assert document["summary"]["duration"] == 3600.0
    assert document["summary"]["released"] > 3000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--engine", "model", "--target", "host=a"), "--target is about a server"),
        (("--engine", "model", "--port", "5555"), "--port is about a server"),
        (("--engine", "model", "--keep"), "--keep is about a server"),
        (("--engine", "model", "--allow-exhaustion"), "--allow-exhaustion is about a server"),
        (("--sweep", "max_open=1,2", "--keep"), "--keep is about a server"),
        (("--engine", "live", "--sweep", "max_open=1,2"), "--sweep goes with --engine model"),
        (("--engine", "both", "--replications", "3"), "--replications goes with --engine model"),
        (("--sweep", "max_open=1,2", "--replications", "3"), "give one of the two"),
        (("--sweep", "max_open=1,2", "--compare", "leak,correct"), "--compare and --sweep"),
        (("--engine", "both", "--compare", "leak,correct"), "--compare and --engine both"),
        (("--replications", "1"), "is not in the range"),
        (("--sweep", "max_open=9..3"), "the range ends before it begins"),
        (("--sweep", "pool.max_opne=3"), "did you mean max_open?"),
        (("--replications", "2", "--output", "runs.svg"), "must end in .md, .html, .json or .csv"),
        (("--output", "run.csv"), ".csv is for a sweep, replications, and recommend"),
        (("--engine", "model", "--set", "load.query=SELECT 2"), "the model runs no SQL"),
        (("--engine", "both", "--set", "load.query=SELECT 2"), "the model runs no SQL"),
        (("--set", "pool.kind=hikaricp", "--set", "pool.max_idle=off"), "pool.max_idle"),
        (("--engine", "both", "--no-leak", "--set", "load.hold_outside=10ms"), "only the model engine can do that"),
        (("--set", "load.hold_outside=10ms"), "load.hold_outside: only the model engine can do that"),
    ],
)
def test_what_does_not_go_together_is_one_clear_error(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])

    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.out == ""
    assert said in told.err
    assert len(told.err.splitlines()) <= 3


def test_compare_runs_pools_that_only_the_model_knows_and_a_value_of_a_key() -> None:
    document = document_of("--engine", "model", "--compare", "hikaricp,pgxpool,max_open=4,8", *QUICK)

    names = [(run["name"], run["engine"], run["scenario"]["pool"]["kind"]) for run in document["runs"]]
    assert names == [
        ("hikaricp", "model", "hikaricp"),
        ("pgxpool", "model", "pgxpool"),
        ("max_open=4", "model", "database/sql"),
        ("max_open=8", "model", "database/sql"),
    ]


def test_a_variant_that_is_cut_off_does_not_keep_the_next_one_from_running() -> None:
    words = ("--engine", "model", "--compare", "rate=1000000,10", "--set", "load.workers=off", "--set", "load.hold=1s")

    done = poolctl(*words, "--set", "pool.max_open=2", "--set", "pool.acquire_timeout=off", "--json", *QUICK)

    document = json.loads(done.stdout)
    assert done.returncode == 3
    assert document["status"] == "failed"
    assert "wait" in document["runs"][0]["failure"]
    assert document["runs"][1]["failure"] is None


def test_a_sweep_is_a_table_and_a_map_on_stdout_and_a_csv_and_json_in_files(tmp_path: Path) -> None:
    files = [tmp_path / "sweep.csv", tmp_path / "sweep.json"]
    outputs = [word for file in files for word in ("--output", str(file))]

    done = poolctl("--sweep", "max_open=2,4,8", "--sweep", "instances=1,2", *QUICK, *outputs)

    assert done.returncode == 0
    assert done.stdout.startswith("The most is ")
    assert "across: max_open, down: instances" in done.stdout
    assert "repeat with  poolctl simulate --sweep max_open=2,4,8 --sweep instances=1,2" in done.stdout
    rows = list(csv.DictReader(io.StringIO(files[0].read_text())))
    points = json.loads(files[1].read_text())["points"]
    assert [(row["pool.max_open"], row["load.instances"]) for row in rows] == [
        ("2", "1"),
        ("2", "2"),
        ("4", "1"),
        ("4", "2"),
        ("8", "1"),
        ("8", "2"),
    ]
    assert [float(row["throughput"]) for row in rows] == [point["summary"]["throughput"] for point in points]


def test_a_point_of_a_sweep_is_the_run_that_its_values_make_alone() -> None:
    swept = document_of("--sweep", "max_open=3,6", "--seed", "5", *QUICK)
    alone = document_of("--engine", "model", "--set", "pool.max_open=6", "--seed", "5", *QUICK)

    assert swept["points"][1]["summary"] == alone["summary"]
    assert swept["points"][1]["findings"] == alone["findings"]


def test_replications_begin_with_the_run_itself_and_give_means_with_intervals() -> None:
    document = document_of("--replications", "4", "--seed", "5", *QUICK)
    alone = document_of("--engine", "model", "--seed", "5", *QUICK)

    rates = [each["throughput"] for each in document["replications"]]
    low, high = document["interval"]["throughput"]
    assert document["replications"][0] == alone["summary"]
    assert (document["seeds"][0], len(set(document["seeds"]))) == (5, 4)
    assert document["mean"]["throughput"] == pytest.approx(sum(rates) / 4)
    assert low < document["mean"]["throughput"] < high
    assert len(set(rates)) > 1


def test_replications_tell_means_in_a_table() -> None:
    done = poolctl("--replications", "3", *QUICK)

    assert done.returncode == 0
    assert done.stdout.startswith("3 replications: ")
    assert "95 % interval of the mean" in done.stdout


def test_fail_on_looks_at_every_run_of_a_sweep() -> None:
    words = ("--sweep", "max_open=1,20", "--set", "database.cores=unlimited", *QUICK)

    assert poolctl(*words, "--fail-on", "warning").returncode == 1
    assert poolctl("--sweep", "max_open=20", *words[2:], "--fail-on", "warning").returncode == 0


def interrupted(*arguments: str) -> "tuple[int, Any, str, float]":
    """Exit code, document, standard error and the seconds it took to end, of a run that Ctrl-C met under way."""
    with subprocess.Popen(
        command(*arguments, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # Said after a second of work, and never with --quiet.
        first = "" if "--quiet" in arguments else process.stderr.readline()
        while "--quiet" in arguments and psutil.Process(process.pid).cpu_times().user < 1.2:
            time.sleep(0.02)
        children = psutil.Process(process.pid).children()
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        took = time.monotonic() - asked
    assert psutil.wait_procs(children, timeout=30)[1] == []
    return process.returncode, json.loads(output), first + errors, took


def test_an_interrupted_sweep_ends_at_once_and_tells_what_is_done() -> None:
    words = ("--set", "load.workers=100", "--set", "database.cores=unlimited")

    code, document, errors, took = interrupted("--sweep", "load.duration=10ms,20ms,30ms,90h,91h,92h", *words)

    done = int(errors.removeprefix("progress: ").split()[0])
    values = [point["values"]["load.duration"] for point in document["points"]]
    assert code == 130
    assert (document["status"], document["planned"]) == ("interrupted", 6)
    assert values == ["10ms", "20ms", "30ms"][: len(values)]
    assert len(values) >= done
    assert took < 30


def test_an_interrupted_model_run_tells_what_was_simulated() -> None:
    code, document, errors, took = interrupted("--engine", "model", "--for", "900h")

    assert code == 130
    assert document["status"] == "interrupted"
    assert document["summary"]["released"] > 1000
    assert errors.startswith("simulating in virtual time")
    assert took < 30


def test_quiet_says_nothing_however_long_it_takes() -> None:
    code, document, errors, _ = interrupted("--engine", "model", "--quiet", "--for", "900h")

    assert (code, document["status"], errors) == (130, "interrupted", "")


@pytest.mark.server
def test_both_engines_run_the_same_scenario_and_say_how_far_they_are_apart(tmp_path: Path) -> None:
    scenario = ("--set", "load.workers=4", "--set", "load.think=0ms", "--set", "pool.max_open=3")
    file = tmp_path / "both.json"

    done = poolctl("--engine", "both", "--quiet", "--output", str(file), *scenario, *QUICK)

    document = json.loads(file.read_text())
    live, model = document["live"], document["model"]
    opening = live["summary"]["connect_time"]["mean"]
    assert done.returncode == 0
    assert (live["engine"], model["engine"]) == ("live", "model")
    assert model["scenario"]["load"] == live["scenario"]["load"]
    assert model["scenario"]["database"]["connect_time"]["mean"] == pytest.approx(opening)
    # Four workers on three connections of 20 ms: 150/s at most. A busy machine makes the live run slower, not faster.
    assert model["summary"]["throughput"] == pytest.approx(145, rel=0.2)
    assert live["summary"]["throughput"] == pytest.approx(model["summary"]["throughput"], rel=0.5)
    assert document["difference"]["throughput"]["live"] == live["summary"]["throughput"]
    # The live verdict first, then the numbers side by side.
    assert re.match(r"(OK|INFO|WARNING|CRITICAL)  ", done.stdout)
    assert re.search(r"^ +live +model  difference$", done.stdout, re.MULTILINE)
    assert re.search(r"^released/s +[\d.]+ +[\d.]+  ", done.stdout, re.MULTILINE)
    assert document["trust"]["sentence"].split()[0] in done.stdout
