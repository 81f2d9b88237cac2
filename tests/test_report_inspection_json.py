"""The JSON contract of ``inspect``: keys, types, and that any JSON reader accepts what is printed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import inspections
import pytest
from report_parts import HOSTILE
from schema_check import problems

import poolctl.api
from poolctl.api.documents import dumps, failed_document
from poolctl.api.results import InspectResult
from poolctl.errors import CannotConnect

SCHEMA = json.loads((Path(poolctl.api.__file__).parent / "inspect.schema.json").read_text())
SECTIONS = ("observed", "server", "limits", "groups", "concurrency", "findings")

Build = Callable[[], InspectResult]


def written(document: dict[str, Any]) -> Any:
    return json.loads(dumps(document))


@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_every_document_follows_the_published_schema(build: Build) -> None:
    document = written(build().to_dict())

    assert problems(document, SCHEMA, SCHEMA) == []
    assert set(SECTIONS) <= document.keys()


def test_the_check_of_the_schema_notices_a_missing_key_and_a_wrong_type() -> None:
    document = written(inspections.leaking().to_dict())
    del document["limits"][0]["binds"]
    document["groups"][1]["frozen"] = "50"
    document["findings"][0]["holders"][0]["pids"][0] = None

    assert [problem.split(" is ")[0] for problem in problems(document, SCHEMA, SCHEMA)] == [
        "$.limits[0].binds",
        "$.groups[1].frozen",
        "$.findings[0].holders[0].pids[0]",
    ]


def test_the_keys_of_the_contract_are_all_there_under_their_exact_names() -> None:
    document = inspections.leaking().to_dict()

    finding = document["findings"][0]
    assert list(document)[:4] == ["schema_version", "command", "status", "error"]
    assert {"from", "to", "samples", "sources"} <= document["observed"].keys()
    assert document["observed"]["sources"][0] == {
        "kind": "postgres",
        "target": "db1.test:5432/shop",
        "ok": True,
        "reason": "",
        "is_partial": False,
    }
    assert document["server"] == {
        "version": "16.4",
        "max_connections": 100,
        "reserved": 0,
        "superuser_reserved": 3,
        "usable": 97,
        "used": 97,
        "free": 0,
        "role": "inspector",
        "can_see_all": True,
    }
    assert {"name", "scope", "limit", "used", "free", "binds"} <= document["limits"][0].keys()
    assert document["groups"][0]["states"] == {"idle in transaction": 30, "active": 4}
    assert document["concurrency"].keys() == {"mean", "p95", "p99", "max", "method"}
    assert finding["holders"][0]["process"] == {"pid": 2210, "command": "gunicorn: worker [shop.wsgi]"}
    assert finding["holders"][1]["process"] is None
    assert (finding["code"], finding["frees"], finding["decide_by"]) == ("leak-in-transaction", 80, None)


def test_a_server_that_refuses_everybody_is_null_where_it_told_nothing() -> None:
    server = inspections.refused().to_dict()["server"]

    assert (server["used"], server["free"]) == (100, 0)
    assert {key for key, value in server.items() if value is not None} == {"used", "free"}


def test_an_interrupted_inspection_says_so_and_holds_what_was_seen() -> None:
    document = inspections.interrupted().to_dict()

    assert (document["status"], document["error"]) == ("interrupted", None)
    assert document["observed"]["samples"] == 4


def test_a_failed_document_follows_the_schema_too() -> None:
    document = written(failed_document("inspect", CannotConnect("no answer", hint="name a server")))

    assert problems(document, SCHEMA, SCHEMA) == []
    assert document["error"] == {"code": "cannot-connect", "message": "no answer", "hint": "name a server"}


def test_numbers_that_json_does_not_have_become_null() -> None:
    whole = inspections.leaking()
    finding = replace(whole.diagnosis.findings[0], evidence={"age": float("inf"), "rate": float("nan")})

    document = written(replace(whole, diagnosis=replace(whole.diagnosis, findings=(finding,))).to_dict())

    assert document["findings"][0]["evidence"] == {"age": None, "rate": None}


def test_foreign_names_are_kept_as_they_are_and_only_escaped() -> None:
    text = inspections.hostile().to_json()

    assert text.isascii()
    assert HOSTILE in json.loads(text)["groups"][0]["application"]
