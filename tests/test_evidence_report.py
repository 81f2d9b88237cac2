"""From files to the report: what is shown of a log, what is asked for next, and what is never shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sandboxes import own_temporary_directory

from poolctl.cli import poolctl
from poolctl.engines.sandbox import Sandbox
from poolctl.observe.evidence.read import read_evidence
from poolctl.observe.recording import read_recording

DEPLOY = """\
2026-10-13 06:20:00.000 UTC [600] LOG:  connection received: host=10.0.0.1 port=4000
2026-10-13 06:20:00.100 UTC [600] LOG:  connection authorized: user=web database=shop application_name=web
2026-10-13 06:30:00.000 UTC [601] LOG:  connection authorized: user=web database=shop application_name=web-v2
2026-10-13 06:30:01.000 UTC [602] LOG:  connection authorized: user=web database=shop application_name=web-v2
2026-10-13 06:31:02.804 UTC [635] FATAL:  sorry, too many clients already
2026-10-13 06:31:02.804 UTC [636] FATAL:  sorry, too many clients already
2026-10-13 06:31:09.472 UTC [640] FATAL:  sorry, too many clients already
"""
COUNTS = " state | count\n-------+-------\n idle | 60\n idle in transaction | 35\n | 6\n(3 rows)\n"
HIKARI = (
    "2026-03-02 08:24:05.100 DEBUG HikariPool - web - Pool stats (total=10/10, idle=0/10, active=10, waiting=204)\n"
)


def inspect(tmp_path: Path, text: str, *options: str) -> str:
    file = tmp_path / "evidence.txt"
    file.write_text(text)
    result = CliRunner().invoke(poolctl, ["inspect", "--evidence", str(file), "--quiet", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def document(tmp_path: Path, text: str, *options: str) -> Any:
    return json.loads(inspect(tmp_path, text, "--json", *options))


def test_a_log_is_a_section_with_when_it_began_and_which_deploy_came_before(tmp_path: Path) -> None:
    report = inspect(tmp_path, DEPLOY)

    assert "What the logs say" in report
    assert "Began       2026-10-13 06:31:02 UTC" in report
    assert '2026-10-13 06:30:00 UTC "web-v2" logged in for the first time (2 sessions)' in report
    assert '"web" logged in for the first time' not in report  # it was there when the log began


def test_the_series_stands_in_the_document(tmp_path: Path) -> None:
    series = document(tmp_path, DEPLOY)["observed"]["series"]

    assert series["lines"] == 7
    assert sum(moment["refused"] for moment in series["moments"]) == 3
    assert max(moment["open_at_least"] for moment in series["moments"]) == 3
    assert series["trouble_at"] == series["refusals"][0]["first_at"]


def test_counts_are_no_verdict_but_the_command_that_gives_one(tmp_path: Path) -> None:
    finding = document(tmp_path, COUNTS)["findings"][0]

    assert (finding["code"], finding["confidence"]) == ("healthy", "undetermined")
    assert 'psql -c "select now(), * from pg_stat_activity"' in finding["decide_by"]
    assert "--for" not in finding["decide_by"]


def test_backends_that_are_only_counted_have_no_process_id_anywhere(tmp_path: Path) -> None:
    counts = document(tmp_path, COUNTS, "--relief")

    assert counts["groups"][0]["count"] == 95
    assert counts["relief"]["steps"] == []
    assert [spared["pids"] for spared in counts["relief"]["spared"]] == [[], []]
    assert re.search(r"\(-\d", inspect(tmp_path, COUNTS, "--relief")) is None


@pytest.mark.parametrize("text", [COUNTS, HIKARI[24:], HIKARI])
def test_no_evidence_is_of_1970_and_none_is_to_be_sampled_for_longer(tmp_path: Path, text: str) -> None:
    report = inspect(tmp_path, text)

    assert "1970-" not in report
    assert "1969-" not in report
    assert "--for" not in report


def test_a_recording_of_evidence_gives_the_same_document(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    shown = document(tmp_path, DEPLOY, "--record", str(kept))

    observation, note = read_recording(kept)
    replayed = json.loads(CliRunner().invoke(poolctl, ["inspect", "--replay", str(kept), "--json"]).stdout)

    assert note == ""
    assert observation.log == read_evidence([str(tmp_path / "evidence.txt")]).log
    assert replayed == shown


def test_a_pool_with_far_more_in_use_than_the_paste_has_backends_has_lost_slots(tmp_path: Path) -> None:
    rows = "\n".join(f"{pid},app,shop,idle,2026-11-01 12:00:0{pid % 7}+00" for pid in range(100, 128))
    figures = tmp_path / "pool.json"
    figures.write_text('{"name": "main", "application": "app", "max_open": 100, "in_use": 98, "idle": 0, "waiting": 6}')

    shown = document(tmp_path, f"pid,application_name,usename,state,state_change\n{rows}\n", "--evidence", str(figures))

    finding = shown["findings"][0]
    assert (finding["code"], finding["confidence"], finding["frees"]) == ("pool-slots-lost", "undetermined", 70)


@pytest.mark.parametrize("ending", ["md", "html", "json", "svg"])
def test_every_format_of_a_report_is_written_from_files_too(ending: str, tmp_path: Path) -> None:
    output = tmp_path / f"report.{ending}"

    inspect(tmp_path, DEPLOY, "--relief", "--output", str(output))

    assert "too many clients" in output.read_text() or ending == "svg"


def test_standard_input_is_named_as_it_is_read_again(tmp_path: Path) -> None:
    shown = CliRunner().invoke(poolctl, ["inspect", "--evidence", "-", "--quiet"], input=COUNTS)

    assert shown.exit_code == 0
    assert "poolctl inspect --evidence - with --evidence for each new file" in shown.stdout


# ruff: noqa: E501 - pastes are as wide as they are
PAIR = """\
 now | pid | usename | application_name | state | backend_start | xact_start | query_start | state_change | query | blocked_by
-----+-----+---------+------------------+-------+---------------+------------+-------------+--------------+-------+-----------
"""


def paste_of_a_lock() -> str:
    rows = [("41", "idle in transaction", "LOCK TABLE stock", "{}")]
    rows += [(str(pid), "active", "SELECT count(*) FROM stock", "{41}") for pid in (42, 43, 44)]
    at = "2026-10-13 06:30:00+00"
    return PAIR + "".join(
        f" 2026-10-13 06:31:00+00 | {pid} | app | web | {state} | {at} | {at} | {at} | {at} | {query} | {blocked_by}\n"
        for pid, state, query, blocked_by in rows
    )


def test_the_relief_of_a_paste_is_sql_that_acts_only_on_the_same_backend(tmp_path: Path) -> None:
    text = paste_of_a_lock()

    (finding, *_) = document(tmp_path, text)["findings"]
    report = inspect(tmp_path, text, "--relief")

    assert (finding["code"], finding["confidence"]) == ("lock-queue", "certain")
    assert "may not end" not in report  # no role was given that might or might not
    assert "a.pid = 41 and a.backend_start = '2026-10-13 06:30:00.000000+00:00'::timestamptz" in report


@pytest.mark.server
def test_a_log_beside_a_live_server_is_one_observation(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "server.log"
    file.write_text(DEPLOY)
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=20) as sandbox:
        words = ["inspect", sandbox.admin_conninfo, "--evidence", str(file), "--for", "1s", "--quiet", "--json"]
        shown = json.loads(CliRunner().invoke(poolctl, words).stdout)

    assert {source["kind"] for source in shown["observed"]["sources"]} >= {"postgres", "evidence"}
    assert shown["server"]["max_connections"] == 20
    assert sum(each["count"] for each in shown["observed"]["series"]["refusals"]) == 3
