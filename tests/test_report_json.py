"""The JSON contract: keys, types, and that any JSON reader accepts what is printed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_runs as runs
from report_parts import HOSTILE
from schema_check import problems

import poolctl.api
from poolctl.api.documents import dumps, failed_document, run_document
from poolctl.api.results import SimulateResult, Variant
from poolctl.errors import ServerFull
from poolctl.scenario.histogram import Times

SCHEMA = json.loads((Path(poolctl.api.__file__).parent / "simulate.schema.json").read_text())


def written(document: dict[str, Any]) -> Any:
    return json.loads(dumps(document))


@pytest.mark.parametrize("build", runs.ALL, ids=lambda build: build.__name__)
def test_every_document_follows_the_published_schema(build: Any) -> None:
    run, findings = build()

    document = written(runs.simulate_document(run, findings))

    assert problems(document, SCHEMA, SCHEMA) == []
    assert problems(document, SCHEMA["$defs"]["run"], SCHEMA) == []


def test_the_check_of_the_schema_notices_a_missing_key_and_a_wrong_type() -> None:
    run, findings = runs.healthy()
    document = written(runs.simulate_document(run, findings))
    del document["summary"]["leaked"]
    document["summary"]["offered"] = True
    document["timeline"][3]["at"] = "0.3"

    found = problems(document, SCHEMA["$defs"]["run"], SCHEMA)

    assert [problem.split(" is ")[0] for problem in found] == [
        "$.summary.leaked",
        "$.summary.offered",
        "$.timeline[3].at",
    ]


def test_the_keys_of_the_contract_are_all_there_under_their_exact_names() -> None:
    run, findings = runs.refused_fleet()

    document = runs.simulate_document(run, findings)

    summary = document["summary"]
    assert list(document)[:4] == ["schema_version", "command", "status", "error"]
    assert {"engine", "scenario", "seed", "summary", "timeline", "instances", "findings"} <= set(document)
    assert summary["queued"].keys() == {"count", "total"}
    assert summary["wait_time"].keys() == {
        *("count", "total", "mean", "p50", "p90", "p95", "p99", "max"),
        *("censored", "p99_at_least", "p50_at_least", "p90_at_least", "p95_at_least"),
    }
    assert {"mean", "p50", "p95", "p99", "max"} <= summary["use_time"].keys()
    assert {"count", "mean", "p50", "p99"} <= summary["connect_time"].keys()
    assert summary["connections"]["closed"] == {
        "max_idle": 95,
        "max_idle_time": 0,
        "max_lifetime": 0,
        "error": 97,
        "leak_reclaimed": 0,
        "other": 0,
    }
    assert summary["errors"][0] == {
        "from": "server",
        "class": "TooManyConnections",
        "sqlstate": "53300",
        "message": "FATAL:  sorry, too many clients already",
        "count": 4021,
        "first_at": 0.61,
    }
    assert summary["server"]["peak_connections"] == 97
    assert document["timeline"][0].keys() == {
        "at",
        "open",
        "in_use",
        "idle",
        "opening",
        "waiting",
        "acquired",
        "errors",
        "server_connections",
    }
    assert len(document["instances"]) == 6
    assert document["instances"][0].keys() == summary.keys()
    assert document["scenario"]["pool"]["max_open"] == 30


def test_the_ends_of_the_acquires_add_up_in_every_document() -> None:
    for build in runs.ALL:
        summary = runs.simulate_document(*build())["summary"]

        ends = ("acquired", "timed_out", "refused", "failed", "unfinished")
        assert summary["offered"] == sum(summary[end] for end in ends), build.__name__
        assert summary["wait_time"]["count"] == summary["offered"], build.__name__


def test_no_number_that_json_does_not_know_is_ever_written() -> None:
    run, findings = runs.hostile()
    broken = Times(1, float("nan"), float("inf"), float("-inf"))
    odd = replace(
        run, summary=replace(run.summary, wait_time=broken, throughput=float("nan"), exhausted_at=float("inf"))
    )

    document = written(runs.simulate_document(odd, findings))

    assert document["summary"]["wait_time"]["total"] is None
    assert document["summary"]["throughput"] is None
    assert document["summary"]["exhausted_at"] is None
    assert document["findings"][0]["evidence"]["nan"] is None


def test_foreign_text_is_written_exactly_and_in_ascii() -> None:
    run, findings = runs.hostile()

    text = dumps(runs.simulate_document(run, findings))

    assert text.isascii()
    assert "\x1b" not in text
    errors = json.loads(text)["summary"]["errors"]
    assert errors[0]["message"] == HOSTILE
    assert len(errors[1]["message"]) == 1_000_000
    assert errors[2]["message"] == "日本語のエラー and ?, half a pair"


def test_an_interrupted_run_says_so_in_its_status() -> None:
    assert runs.simulate_document(*runs.healthy())["status"] == "ok"
    assert runs.simulate_document(*runs.interrupted())["status"] == "interrupted"


def test_a_run_that_broke_is_failed_with_its_reason_and_keeps_its_numbers() -> None:
    document = written(runs.simulate_document(*runs.broken()))

    assert document["status"] == "failed"
    assert document["error"] == {"code": "cannot-do", "message": "the server ended at 4.2 s: out of memory", "hint": ""}
    assert document["summary"]["acquired"] == 4812


def test_a_failure_is_one_document_with_code_message_and_hint() -> None:
    error = ServerFull("needs 180 connections, the server has 97 free", hint="lower load.instances")

    document = written(failed_document("simulate", error))

    assert document == {
        "schema_version": 1,
        "command": "simulate",
        "status": "failed",
        "error": {
            "code": "server-full",
            "message": "needs 180 connections, the server has 97 free",
            "hint": "lower load.instances",
        },
    }
    assert problems(document, SCHEMA, SCHEMA) == []


def test_a_comparison_lists_its_runs_in_the_order_given_each_with_its_name() -> None:
    variants = [Variant("leak", *runs.leaking()), Variant("correct", *runs.healthy())]

    document = written(SimulateResult("live", tuple(variants), is_comparison=True).to_dict())

    assert [run["name"] for run in document["runs"]] == ["leak", "correct"]
    assert document["runs"][1] == {"name": "correct"} | written(run_document(*runs.healthy()))
    assert document["status"] == "ok"
    assert problems(document, SCHEMA, SCHEMA) == []


def test_a_comparison_with_an_interrupted_run_is_interrupted() -> None:
    variants = [Variant("leak", *runs.interrupted()), Variant("correct", *runs.healthy())]

    assert SimulateResult("live", tuple(variants), is_comparison=True).to_dict()["status"] == "interrupted"


def test_a_bound_generator_is_marked_with_its_reasons() -> None:
    good = runs.simulate_document(*runs.healthy())["generator"]
    bound = runs.simulate_document(*runs.generator_bound())["generator"]

    assert (good["bound"], good["reasons"]) == (False, [])
    assert bound["bound"] is True
    assert len(bound["reasons"]) == 2
    assert runs.simulate_document(*runs.unlimited())["generator"] is None


def test_no_password_of_a_pooler_is_written() -> None:
    run, findings = runs.healthy()
    pgpool = {"sr_check_password": "s3cret", "num_init_children": 32}
    secret = replace(run, scenario=replace(run.scenario, database=replace(run.scenario.database, pgpool=pgpool)))

    document = runs.simulate_document(secret, findings)

    assert "s3cret" not in dumps(document)
    assert document["scenario"]["database"]["pgpool"] == {"sr_check_password": "***", "num_init_children": 32}


def test_json_charts_svg_and_html_do_not_import_rich() -> None:
    program = (
        "import sys, poolctl.api.documents, poolctl.report.charts, poolctl.report.svg, poolctl.report.html, "
        "poolctl.report.files; sys.exit('rich' in sys.modules or 'psycopg' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], check=False)

    assert done.returncode == 0
