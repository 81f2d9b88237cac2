"""``poolctl recommend`` from figures given by hand, without any server: answers, refusals, and wrong usage."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import check_usage_error, run_here
from schema_check import problems
from test_report_recommendation_json import SCHEMA
from test_start_up import modules_imported_by

ALONE = {"PGHOST": "", "PGHOSTADDR": "", "PGPORT": "", "PGSERVICE": "", "PGDATABASE": "", "PGPASSFILE": os.devnull}
EXAMPLES = Path(__file__).parents[1] / "examples"

FLEET = (
    *("--processes", "2", "--instances", "8", "--max-instances", "12", "--surge", "25%", "--terminating", "3"),
    *("--max-connections", "100", "--other-connections", "12", "--headroom", "3", "--capacity", "20", "--workers", "4"),
)
VECTOR = ("--arrival-rate", "150", "--hold-time", "8ms", "--hold-cv", "2", *FLEET)
"""The worked division of the a division worked out by hand."""


def recommend(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run_here("recommend", *arguments, **{**ALONE, **environment})


def document(*arguments: str) -> Any:
    done = recommend(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert problems(found, SCHEMA, SCHEMA) == []
    return found


def test_the_first_line_is_the_answer_in_words_that_can_be_acted_on() -> None:
    done = recommend(*VECTOR)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == (
        "Set max_open to 2, max_idle to 2, max_lifetime to 25 min with 20 % jitter, in each of 2 processes of "
        "18 worst-case instances"
    )


def test_the_worked_division_with_a_patient_target_is_balanced() -> None:
    found = document(*VECTOR, "--wait-target", "50ms")

    assert found["recommendation"]["max_open"] == 2
    assert found["worst_case_connections"] == 72
    assert found["verdict"] == "balanced"
    assert {term["term"]: term["value"] for term in found["budget"]["arithmetic"]}["slots for this service"] == 82


def test_the_worked_division_with_an_impatient_target_binds_on_slots_and_asks_for_a_pooler() -> None:
    found = document(*VECTOR, "--wait-target", "5ms")

    assert (found["demand"]["value"], found["binding"], found["recommendation"]["max_open"]) == (4, "budget", 2)
    assert found["pooler"]["recommended"]
    assert found["pooler"]["pgbouncer"]["default_pool_size"] == 16
    assert found["pooler"]["pgbouncer"]["max_client_conn"] >= 173
    assert found["pooler"]["app_max_open"] == 4


def test_every_figure_says_whether_it_was_given_or_assumed() -> None:
    found = document("--arrival-rate", "150", "--hold-time", "8ms", "--instances", "8")

    assert found["measured"]["sources"]["arrival_rate"] == "given"
    assert found["measured"]["sources"]["hold_cv"] == "assumed"
    assert "processes" in {assumption["name"] for assumption in found["assumptions"]}


def test_blocks_are_written_for_the_stacks_that_are_asked_for_and_aliases_are_known() -> None:
    found = document(*VECTOR, "--for-stack", "pgx", "--for-stack", "HikariCP", "--for-stack", "pgbouncer")

    assert [block["stack"] for block in found["config"]] == ["pgxpool", "hikaricp", "pgbouncer"]
    assert "config.MaxConns = 2" in found["config"][0]["text"]
    assert "setMaximumPoolSize(2)" in found["config"][1]["text"]
    assert "max_db_connections = 82" in found["config"][2]["text"]


def test_behind_a_pooler_that_is_needed_the_applications_blocks_are_for_behind_it() -> None:
    found = document(*VECTOR, "--wait-target", "5ms", "--for-stack", "pgxpool", "--for-stack", "pgbouncer")

    assert "config.MaxConns = 4" in found["config"][0]["text"]
    assert "default_pool_size = 16" in found["config"][1]["text"]
    assert any("behind the pooler" in note for note in found["notes"])


def test_nested_connections_raise_the_floor_so_that_nobody_deadlocks() -> None:
    found = document("--arrival-rate", "1", "--hold-time", "1ms", "--workers", "3", "--connections-per-request", "4")

    assert found["recommendation"]["max_open"] == 10
    assert found["binding"] == "floor"


def test_a_load_tests_own_table_decides_the_capacity(tmp_path: Path) -> None:
    table = tmp_path / "load.csv"
    table.write_text("connections,throughput\n1,179\n4,696\n8,1375\n16,2437\n32,5306\n64,7356\n96,5378\n")

    found = document("--sweep-file", str(table), "--instances", "1", "--max-connections", "200")

    assert found["capacity"]["value"] == 64
    assert found["recommendation"]["max_open"] == 64
    assert "contention-cliff" in {finding["code"] for finding in found["findings"]}


def test_the_load_test_among_the_examples_gives_what_it_says() -> None:
    found = document("--sweep-file", str(EXAMPLES / "load_test.csv"), "--instances", "4", "--for-stack", "hikaricp")

    assert (found["capacity"]["value"], found["binding"]) == (24, "capacity")
    assert "setMaximumPoolSize(8)" in found["config"][0]["text"]


def test_a_sweep_whose_peak_is_at_its_edge_says_at_least(tmp_path: Path) -> None:
    table = tmp_path / "load.csv"
    table.write_text("connections,throughput\n1,100\n2,200\n4,400\n8,800\n")

    done = recommend("--sweep-file", str(table))

    assert done.stdout.startswith("Set max_open to at least 8")


def test_a_fleet_that_does_not_fit_is_refused_with_the_arithmetic_and_that_is_an_answer() -> None:
    done = recommend(*VECTOR, "--max-connections", "40", "--for-stack", "pgxpool")

    assert done.returncode == 0
    assert done.stdout.startswith("Refused: 36 processes at worst need 1 connection each, 36 in all, and 22 slots")
    assert "MaxConns" not in done.stdout


def test_a_refusal_counts_for_fail_on() -> None:
    assert recommend(*VECTOR, "--max-connections", "40", "--fail-on", "critical").returncode == 1
    assert recommend(*VECTOR, "--fail-on", "critical").returncode == 0


def test_a_verification_runs_the_fleet_at_its_largest_beside_what_there_is_now() -> None:
    found = document(*VECTOR, "--current-max-open", "10", "--verify")

    tried = found["verification"]
    moments = {(run["moment"], run["is_current"]): run for run in tried["moments"]}
    assert tried["passed"]
    assert tried["throughput_share_of_best"] > 0.97
    assert 2 in {run["max_open"] for run in tried["swept"]}
    assert moments["largest", False]["refused"] == 0
    assert moments["largest", True]["max_open"] == 10
    assert {"deploy", "failover"} <= {moment for moment, _ in moments}


def test_without_being_asked_nothing_is_tried_and_the_answer_says_how_to() -> None:
    assert "--verify runs it in virtual time" in recommend(*VECTOR).stdout
    assert document(*VECTOR)["verification"] is None


def test_the_same_figures_and_seed_give_the_same_answer() -> None:
    assert recommend(*VECTOR, "--seed", "7").stdout == recommend(*VECTOR, "--seed", "7").stdout


def test_files_are_written_whole_and_by_their_names(tmp_path: Path) -> None:
    files = [tmp_path / "answer.md", tmp_path / "answer.json"]

    done = recommend(*VECTOR, *(word for file in files for word in ("--output", str(file))))

    assert done.returncode == 0
    assert files[0].read_text().startswith("**Set max_open to 2")
    assert json.loads(files[1].read_text())["recommendation"]["max_open"] == 2
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("environment", [{}, {"PGHOST": "127.0.0.1", "PGPORT": "1"}])
def test_figures_given_by_hand_need_no_server_whatever_the_environment_names(environment: dict[str, str]) -> None:
    done = recommend(*VECTOR, **environment)

    assert (done.returncode, done.stderr) == (0, "")


def test_figures_given_by_hand_import_nothing_that_speaks_to_a_server() -> None:
    finished, modules = modules_imported_by("recommend", *VECTOR, "--for-stack", "pgxpool")

    assert finished.returncode == 0, finished.stderr
    assert {module.split(".")[0] for module in modules} & {"psycopg", "psycopg_pool", "psycopg2", "psutil"} == set()


def test_help_imports_nothing_that_is_slow_to_import() -> None:
    finished, modules = modules_imported_by("recommend", "--help")

    assert finished.returncode == 0
    assert {module.split(".")[0] for module in modules} & {"psycopg", "rich", "psutil"} == set()
    assert "poolctl.sizing.recommend" not in modules


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to size a pool from"),
        (("--no-such-option",), "No such option"),
        (("--arrival-rate", "nan"), "'nan': must be a number, above 0"),
        (("--arrival-rate", "0"), "must be a number, above 0"),
        (("--arrival-rate", "fast"), "must be a number, above 0"),
        (("--arrival-rate", "1e99"), "at most"),
        (("--hold-time", "0ms"), "'0ms': must be above 0"),
        (("--hold-time", "8 parsecs"), "a duration is a number with a unit"),
        (("--hold-cv", "-1"), "must be a number, 0 or more"),
        (("--workers", "0"), "0 is not in the range"),
        (("--instances", "two"), "is not a valid integer"),
        (("--surge", "a quarter", "--instances", "4"), "--surge a quarter: must be a count or a percentage"),
        (("--instances", "8", "--max-instances", "4"), "--max-instances 4 is below --instances 8"),
        (("--max-connections", "10", "--superuser-reserved", "10"), "leave nothing of --max-connections 10"),
        (("--arrival-rate", "1", "--throughput", "1"), "--arrival-rate and --throughput say the same"),
        (("--sweep-file", "missing.csv"), "--sweep-file missing.csv: cannot be read"),
        (("--sweep-file", "/dev/zero"), "--sweep-file /dev/zero: is larger than 1,000,000 bytes"),
        (("--for-stack", "hikari-cq", *VECTOR), "did you mean hikaricp"),
        (("--recording", "x.jsonl", "host=a"), "--recording reads what inspect --record kept"),
        (("--recording", "x.jsonl", "--for", "3s"), "--for does not go with --recording"),
        (("--query", "SELECT 1", *VECTOR), "--query goes with --sweep"),
        (("--mix", "cpu", *VECTOR), "--mix goes with --sweep"),
        (("--sweep", "--mix", "cpu", "--query", "SELECT 1"), "--mix and statements of your own"),
        (("--sweep", "--mix", "no-such-mix"), "there is no such load"),
        (("--sweep", "--query", " ;"), "is empty"),
        (("--sweep", "--script", "missing.sql"), "there is no such file"),
        (("--sweep", "--sweep-file", "x.csv"), "--sweep and --sweep-file: give one"),
        (("--verify", "--no-verify", *VECTOR), "--verify and --no-verify: give one"),
        (("--check",), "--check goes with --fleet"),
        (("--fleet", "missing.toml"), "missing.toml"),
        (("--fleet", "x.toml", "--arrival-rate", "1"), "--fleet has its figures in the file"),
        (("--fleet", "x.toml", "host=a"), "does not go with --fleet"),
        (("--output", "answer.pdf", *VECTOR), "must end in .md, .html, .json, .svg or .csv"),
        (("host=a", "port=5"), "a connection string is one argument"),
        (("host=a bogus=1",), "the connection string cannot be read"),
        (("--pid", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error_and_the_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    check_usage_error(recommend(*arguments), said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 rows: a sweep needs two or more"),
        ("connections,throughput\n4,100\n", "1 row: a sweep needs two or more"),
        ("clients,latency\n1,2\n2,3\n", "no column throughput"),
        ("connections,throughput\n1,100\nmany,200\n", "line 3: connections = 'many'"),
        ("connections,throughput\n1,100\n2,-5\n", "line 3: throughput = '-5'"),
        ("1,0\n2,0\n", "no row with any throughput"),
    ],
)
def test_a_table_that_is_no_sweep_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    table = tmp_path / "load.csv"
    table.write_text(text)

    done = recommend("--sweep-file", str(table))

    assert done.returncode == 2
    assert said in done.stderr


def test_a_recording_that_is_not_there_is_named() -> None:
    done = recommend("--recording", "missing.jsonl")

    assert done.returncode == 3
    assert "missing.jsonl" in done.stderr


def test_with_json_wrong_usage_is_one_document_too() -> None:
    done = recommend("--json", "--instances", "8", "--max-instances", "4")

    found = json.loads(done.stdout)
    assert done.returncode == 2
    assert (found["command"], found["status"], found["error"]["code"]) == ("recommend", "failed", "bad-input")


def test_a_password_on_the_command_line_is_not_repeated() -> None:
    done = recommend("host=127.0.0.1 port=1 password=hunter2", "--for", "0s", "--quiet", "--json")

    assert done.returncode == 3
    assert "hunter2" not in done.stdout + done.stderr


def test_a_server_that_is_not_there_is_one_clear_error_with_a_way_out() -> None:
    done = recommend("host=127.0.0.1 port=1", "--for", "5s", "--quiet")

    assert done.returncode == 3
    assert done.stdout == ""
    assert "refused" in done.stderr
    assert "check host and port" in done.stderr


def test_without_figures_the_server_of_the_environment_is_measured() -> None:
    done = recommend("--quiet", "--instances", "6", PGPORT="1", PGHOST="127.0.0.1")

    assert done.returncode == 3
    assert "cannot sample PostgreSQL 127.0.0.1:1" in done.stderr


def test_a_fleet_file_that_fits_passes_and_one_that_does_not_names_the_service_and_its_size() -> None:
    good = recommend("--fleet", str(EXAMPLES / "fleet.toml"), "--check", "--fail-on", "warning")
    bad = recommend("--fleet", str(EXAMPLES / "fleet_over_budget.toml"), "--check", "--fail-on", "critical")

    assert (good.returncode, bad.returncode) == (0, 1)
    assert good.stdout.startswith("OK  ")
    assert bad.stdout.startswith("CRITICAL  The fleet can exceed the server's slots in the deploy of api: 306 of 191")
    assert re.search(r"^Do +api: max_open 15 -> 9", bad.stdout, re.MULTILINE)


def test_a_fleet_file_with_a_wrong_key_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text('[[service]]\nname = "api"\nmax_opne = 5\n')

    done = recommend("--fleet", str(file), "--check")

    assert done.returncode == 2
    assert "max_open" in done.stderr
