"""The generator of incidents itself: what it draws, and that its judgement can fail."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from incidents.generator import EXPECTED, draw_incident, judge

ROOT = Path(__file__).parents[1]


def finding(
    code: str, confidence: str = "likely", severity: str = "critical", application: str = "shop"
) -> dict[str, Any]:
    holders = [{"application": application}]
    return {"code": code, "confidence": confidence, "severity": severity, "summary": code, "holders": holders}


def test_one_seed_draws_one_incident_and_many_seeds_draw_every_behavior() -> None:
    drawn = [draw_incident(seed, ["psycopg", "database/sql"]) for seed in range(1000)]

    assert drawn == [draw_incident(seed, ["psycopg", "database/sql"]) for seed in range(1000)]
    assert {incident.behavior for incident in drawn} == EXPECTED.keys()


@pytest.mark.parametrize(
    ("behavior", "codes", "is_right"),
    [
        ("transaction-leak", {"leak-in-transaction": "likely"}, True),
        ("transaction-leak", {"healthy": "certain"}, False),
        ("transaction-leak", {"leak-in-transaction": "likely", "pool-undersized": "likely"}, False),
        ("transaction-leak", {"leak-or-long-hold": "undetermined"}, True),
        ("healthy", {"healthy": "likely"}, True),
        ("healthy", {"leak-in-transaction": "likely"}, False),
        ("small", {"pool-undersized": "certain"}, True),
        ("small", {"lock-queue": "certain"}, False),
    ],
)
def test_a_verdict_is_right_or_wrong_by_the_table(behavior: str, codes: dict[str, str], is_right: bool) -> None:
    incident = next(
        drawn
        for seed in range(1000)
        if (drawn := draw_incident(seed, ["psycopg"])).behavior == behavior and drawn.has_figures and drawn.has_name
    )
    findings = [finding(code, sure, "info" if code == "healthy" else "critical") for code, sure in codes.items()]

    wrong = judge(incident, {"findings": findings})

    assert (wrong == []) == is_right, wrong


@pytest.mark.parametrize(("evidence", "is_right"), [({"standing_still": {"shop": 8}}, True), ({}, False)])
def test_health_may_be_left_open_where_nothing_moves(evidence: dict[str, object], is_right: bool) -> None:
    night = next(
        drawn
        for seed in range(1000)
        if (drawn := draw_incident(seed, ["psycopg"])).behavior == "night" and drawn.role == "watcher"
    )
    quiet = finding("healthy", "undetermined", "info") | {"evidence": evidence}

    assert (judge(night, {"findings": [quiet]}) == []) == is_right


def test_a_holder_of_another_application_and_relief_that_harms_are_wrong() -> None:
    small = next(
        drawn
        for seed in range(1000)
        if (drawn := draw_incident(seed, ["psycopg"])).behavior == "small" and drawn.has_figures and drawn.has_name
    )
    document = {
        "findings": [finding("pool-undersized", application="other")],
        "relief": {"steps": [{"pid": 7, "application": "shop"}]},
    }

    assert [line.partition(" ")[0] for line in judge(small, document)] == ["pool-undersized", "relief"]


@pytest.mark.server
@pytest.mark.slow
def test_the_generator_stages_incidents_and_says_how_many_were_right() -> None:
    command = [sys.executable, "-m", "tests.incidents", "--count", "3", "--seed", "100", "--stack", "psycopg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert done.stdout.splitlines()[-1].startswith("3 incidents, seeds 100 to 102: "), done.stdout + done.stderr
    assert "not staged:" not in done.stdout


@pytest.mark.server
@pytest.mark.slow
def test_an_interrupted_generator_prints_its_table_and_leaves_no_process() -> None:
    command = [sys.executable, "-m", "tests.incidents", "--seed", "100", "--stack", "psycopg", "--verbose"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None
        assert generator.stdout.readline().startswith("100: ")
        started = psutil.Process(generator.pid).children(recursive=True)
        generator.terminate()
        lines = generator.stdout.read().splitlines()

    assert generator.returncode == 130
    assert lines[-1].endswith("interrupted"), lines
    assert lines[-2].split()[0] == "all", lines
    assert started
    assert psutil.wait_procs(started, timeout=30)[1] == []
