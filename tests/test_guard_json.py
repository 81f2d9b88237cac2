"""The JSON contract of ``guard``: its keys and types. ``guard_runs`` holds every real document to it, too."""

import json
from typing import Any

import pytest
from guard_runs import SCHEMA
from guard_scenes import CHARGE, NOW, POOL, SCENES, hold, process
from schema_check import problems

from poolctl.guard.guard_document import guard_document
from poolctl.guard.guard_findings import find_leaks
from poolctl.guard.guard_report import ProcessReport, SiteFigures
from poolctl.guard.guard_text import GuardView

FULL = process(
    holds=[hold(outcome="cancelled"), hold(waiting=True), hold(is_pool=False, via="django", is_exempt=True)],
    sites=[SiteFigures(CHARGE, acquired=4, released=3, late=1, use_time=3.0, longest=2.0)],
    pools=[POOL],
    ended=False,
)


def document(*reports: ProcessReport, alive: frozenset[int] = frozenset()) -> Any:
    findings = find_leaks(reports, now=NOW, threshold=1.0, alive=alive)
    view = GuardView(reports, findings, NOW, alive, ("Python 3.9",))
    return json.loads(guard_document(view, exit_code=0, elapsed=1.5, threshold=1.0))


@pytest.mark.parametrize("report", [FULL, *SCENES.values()], ids=["full", *SCENES])
def test_every_document_follows_the_published_schema(report: ProcessReport) -> None:
    assert problems(document(report), SCHEMA, SCHEMA) == []
    assert problems(document(report, alive=frozenset({report.pid})), SCHEMA, SCHEMA) == []


def test_the_schema_describes_every_key_and_no_other() -> None:
    written = document(FULL)
    (one,) = written["processes"]
    parts = {name: SCHEMA["$defs"][name]["properties"].keys() for name in SCHEMA["$defs"]}

    assert SCHEMA["properties"].keys() == written.keys()
    assert parts["process"] == one.keys()
    assert parts["pool"] == one["pools"][0].keys()
    assert parts["site"] == one["sites"][0].keys()
    assert [held.keys() for held in one["holds"]] == [parts["hold"]] * 3
    assert parts["line"] == one["holds"][0]["site"][0].keys()
    assert parts["finding"] == written["findings"][0].keys()
