"""The JSON contract of ``recommend``: keys, types, and that any JSON reader accepts what is printed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import recommendations
from report_parts import HOSTILE
from schema_check import problems

import poolctl.api
from poolctl.api.documents import dumps, failed_document
from poolctl.api.results import FleetResult, RecommendResult
from poolctl.errors import CannotConnect
from poolctl.sizing.fleet import load_fleet
from poolctl.sizing.fleet_check import check_fleet

SCHEMA = json.loads((Path(poolctl.api.__file__).parent / "recommend.schema.json").read_text())
EXAMPLES = Path(__file__).parents[1] / "examples"
SECTIONS = (
    *("measured", "capacity", "demand", "budget", "fleet", "recommendation", "binding", "next_binding", "pooler"),
    *("config", "verification", "findings"),
)

Build = Callable[[], RecommendResult]


def written(document: dict[str, Any]) -> Any:
    return json.loads(dumps(document))


@pytest.mark.parametrize("build", recommendations.ALL, ids=lambda build: build.__name__)
def test_every_document_follows_the_published_schema(build: Build) -> None:
    document = written(build().to_dict())

    assert problems(document, SCHEMA, SCHEMA) == []
    assert set(SECTIONS) <= document.keys()


def test_the_check_of_the_schema_notices_a_missing_key_and_a_wrong_type() -> None:
    document = written(recommendations.balanced().to_dict())
    del document["budget"]["arithmetic"][0]["source"]
    document["recommendation"]["max_open"] = "2"
    document["verification"]["swept"][1]["wait_p99"] = None

    assert [problem.split(" is ")[0] for problem in problems(document, SCHEMA, SCHEMA)] == [
        "$.budget.arithmetic[0].source",
        "$.recommendation.max_open",
        "$.verification.swept[1].wait_p99",
    ]


def test_the_keys_of_the_contract_are_all_there_under_their_exact_names() -> None:
    document = recommendations.balanced().to_dict()

    assert list(document)[:4] == ["schema_version", "command", "status", "error"]
    assert {
        *("from", "window", "samples", "effective_samples", "parallelism", "throughput", "hold_time", "connect_time"),
        *("workers_per_process", "method"),
    } <= document["measured"].keys()
    assert document["measured"]["parallelism"].keys() == {"mean", "p95", "p99", "max"}
    assert document["measured"]["hold_time"] == {"mean": 0.008, "cv": 2.0}
    assert {"value", "method", "confidence"} <= document["capacity"].keys()
    assert {"value", "per", "wait_target", "confidence"} <= document["demand"].keys()
    assert document["budget"]["arithmetic"][0] == {"term": "max_connections", "value": 100, "source": "given"}
    assert {"instances", "processes_per_instance", "surge", "terminating"} <= document["fleet"].keys()
    assert document["fleet"]["worst_case_processes"] == 36
    assert document["recommendation"].keys() == {
        *("max_open", "max_idle", "min_idle", "max_lifetime", "max_lifetime_jitter", "max_idle_time"),
        *("acquire_timeout", "interval", "confidence"),
    }
    assert {"recommended", "why", "pgbouncer"} <= document["pooler"].keys()
    assert [block.keys() for block in document["config"]] == [{"stack", "file", "text"}] * 2
    assert {"swept", "throughput_share_of_best", "passed"} <= document["verification"].keys()
    assert {"max_open", "throughput", "wait_p99"} <= document["verification"]["swept"][0].keys()


def test_the_worked_division_of_the_reference_comes_out_in_json() -> None:
    document = recommendations.balanced().to_dict()

    assert document["recommendation"]["max_open"] == 2
    assert (document["demand"]["value"], document["budget"]["value"], document["budget"]["total"]) == (2, 2, 82)
    assert document["worst_case_connections"] == 72


def test_where_the_slots_bind_the_settings_of_a_pooler_add_up() -> None:
    document = recommendations.starved().to_dict()

    bouncer = document["pooler"]["pgbouncer"]
    assert (document["binding"], document["pooler"]["recommended"]) == ("budget", True)
    assert bouncer["default_pool_size"] + bouncer["reserve_pool_size"] <= bouncer["max_db_connections"] <= 82
    assert bouncer["max_client_conn"] >= 36 * document["pooler"]["app_max_open"]


@pytest.mark.parametrize(
    "build", [recommendations.slow, recommendations.leaking, recommendations.unproven, recommendations.infeasible]
)
def test_a_refusal_has_no_sizes_and_no_configuration(build: Build) -> None:
    document = build().to_dict()

    sizes = document["recommendation"]
    assert sizes["confidence"] == "refused"
    assert (sizes["max_open"], sizes["max_idle"], sizes["interval"]) == (None, None, None)
    assert document["config"] == []
    assert document["findings"][0]["severity"] == "critical"


def test_a_slow_statement_is_named_with_both_bounds() -> None:
    finding = recommendations.slow().to_dict()["findings"][0]

    assert finding["code"] == "slow-database"
    assert (finding["evidence"]["table"], finding["evidence"]["column"]) == ("orders", "customer_id")
    assert finding["evidence"]["most_gain_from_pool"] == pytest.approx(1 / 0.99 - 1)
    assert finding["evidence"]["gain_from_statement"] == pytest.approx(1 / 0.03)


def test_an_interrupted_measurement_says_so_and_holds_what_was_seen() -> None:
    document = recommendations.interrupted().to_dict()

    assert (document["status"], document["error"]) == ("interrupted", None)
    assert document["measured"]["samples"] == 55


def test_a_failed_document_follows_the_schema_too() -> None:
    document = written(failed_document("recommend", CannotConnect("no answer", hint="name a server")))

    assert problems(document, SCHEMA, SCHEMA) == []


def test_numbers_that_json_does_not_have_become_null() -> None:
    whole = recommendations.slow()
    finding = replace(whole.recommendation.findings[0], evidence={"gain": float("inf")})
    document = written(replace(whole, recommendation=replace(whole.recommendation, findings=(finding,))).to_dict())

    assert document["findings"][0]["evidence"] == {"gain": None}


def test_foreign_names_are_kept_as_they_are_and_only_escaped() -> None:
    text = recommendations.hostile().to_json()

    assert text.isascii()
    assert json.loads(text)["application"] == HOSTILE


@pytest.mark.parametrize("name", ["fleet.toml", "fleet_over_budget.toml"])
def test_the_check_of_a_fleet_follows_the_schema(name: str) -> None:
    document = written(FleetResult(check_fleet(load_fleet(EXAMPLES / name))).to_dict())

    assert problems(document, SCHEMA, SCHEMA) == []
    assert document["within"] == (name == "fleet.toml")
