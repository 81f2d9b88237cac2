"""Whole screens of an inspection, compared with files that a reviewer reads."""

import io
import re
from collections.abc import Callable
from dataclasses import replace

import inspections
import pytest
from report_parts import check_screen
from rich.cells import cell_len

from poolctl.api.results import InspectResult
from poolctl.diagnose.finding import Holder
from poolctl.report.inspection import build_inspection_report, build_relief_result, describe_relief
from poolctl.report.screen import open_screen
from poolctl.report.terminal import print_report

Build = Callable[[], InspectResult]
REVIEWED = (inspections.leaking, inspections.refused, inspections.undetermined, inspections.hostile)


def report(inspection: InspectResult, width: int | None = None, *, color: bool = False, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    screen = open_screen(stream, "always" if color else "never", width=width, environ={})
    # As the command does: first the plan, then what came of it.
    print_report(screen, build_inspection_report(replace(inspection, relieved=None)))
    if inspection.relieved is not None:
        print_report(screen, build_relief_result(inspection.relieved))
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [120, 80, 40])
@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_the_report_of_each_inspection_is_as_reviewed(build: Build, width: int) -> None:
    check_screen(f"inspect_{build.__name__}_{width}", report(build(), width))


@pytest.mark.parametrize("build", [inspections.leaking, inspections.refused], ids=lambda build: build.__name__)
def test_the_piped_report_is_as_reviewed(build: Build) -> None:
    check_screen(f"inspect_{build.__name__}_pipe", report(build()))


def test_the_report_in_ascii_is_as_reviewed() -> None:
    text = report(inspections.undetermined(), 80, encoding="ascii")

    assert text.isascii()
    check_screen("inspect_undetermined_ascii", text)


def test_the_colored_report_is_as_reviewed() -> None:
    check_screen("inspect_leaking_color", report(inspections.leaking(), 80, color=True))


@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_color_adds_nothing_but_color(build: Build) -> None:
    assert re.sub(r"\x1b\[[0-9;]*m", "", report(build(), 80, color=True)) == report(build(), 80)


@pytest.mark.parametrize("width", [30, 40, 59, 60, 61, 80, 99, 120, 200])
@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_no_line_but_sql_to_paste_is_wider_than_the_terminal(build: Build, width: int) -> None:
    lines = report(build(), width).partition("Verify with SQL")[0].splitlines()

    wide = [line for line in lines if cell_len(line) > width]
    assert [line for line in wide if not line.startswith(("select ", "To paste"))] == []


@pytest.mark.parametrize("width", [None, 120, 80, 40])
def test_the_first_line_is_the_verdict_with_its_word(width: int | None) -> None:
    first = {build.__name__: report(build(), width).splitlines()[0] for build in inspections.ALL}

    assert first["leaking"].startswith("CRITICAL  shop-api holds 80 of 97 usable")
    assert first["healthy"].startswith("OK  nothing is wrong: 14 of 97")
    assert first["nothing"].startswith("NO VERDICT  nothing was observed")


def test_an_undetermined_verdict_says_so_and_begins_with_what_decides() -> None:
    lines = report(inspections.undetermined()).splitlines()

    assert lines[0].endswith("(undetermined)")
    assert next(line for line in lines if line.startswith("Do ")) == (
        "Do      1. To decide: look for longer than the longest legitimate hold: poolctl inspect --for 60s"
    )


def test_what_spoils_the_view_is_said_right_below_the_verdict() -> None:
    assert "! INTERRUPTED after 3 s of 60 s" in report(inspections.interrupted()).split("\n\n")[0]
    assert "! ONE SAMPLE" in report(inspections.single()).split("\n\n")[0]
    assert "! Pgpool-II pool2:9999 did not answer" in report(inspections.undetermined()).split("\n\n")[0]
    assert "!" not in report(inspections.healthy()).split("\n\n")[0]


def test_a_verdict_of_nothing_wrong_is_qualified_by_what_could_not_be_decided() -> None:
    lines = report(inspections.doubtful()).splitlines()

    assert lines[0].startswith("OK  ")
    assert lines[2] == (
        "! UNDETERMINED: 12 of 14 sessions of web did nothing in 3 s; "
        "to decide: a window that contains the peak, with the pool's own figures (--pool-stats)"
    )


def test_each_finding_tells_its_confidence_its_numbers_and_what_it_frees() -> None:
    text = report(inspections.leaking())

    assert "leak-in-transaction (application, certain); the remedy frees 80 slots" in text
    assert "slots-exhausted (database, certain); the remedy frees no slot" in text
    assert "Why     survivors 80, oldest age 6.87 min" in text
    assert "Why     used 97, usable 97, free 0" in text


def test_holders_that_were_named_already_are_not_named_again() -> None:
    whole = inspections.leaking()
    leak, full = whole.diagnosis.findings
    diagnosis = replace(whole.diagnosis, findings=(leak, replace(full, holders=leak.holders)))

    lines = report(replace(whole, diagnosis=diagnosis)).splitlines()

    assert [line[8:25] for line in lines if line.startswith("Who  ")] == ["application shop-", "the same as above"]


def test_a_server_that_could_not_be_looked_at_is_not_called_ok() -> None:
    whole = inspections.healthy()
    down = tuple(replace(source, ok=False, reason="no answer") for source in whole.observation.sources)
    snapshots = tuple(replace(snapshot, server=None) for snapshot in whole.observation.snapshots)
    blind = replace(whole, observation=replace(whole.observation, snapshots=snapshots, sources=down))

    assert report(blind).startswith("NO VERDICT  ")


def test_what_may_be_slow_work_or_a_leak_is_not_called_ok() -> None:
    whole = inspections.healthy()
    [finding, *others] = whole.diagnosis.findings
    unsure = replace(finding, confidence="undetermined", summary="All 3 sessions idle in a transaction")
    diagnosis = replace(whole.diagnosis, findings=(unsure, *others))

    assert report(whole).startswith("OK  ")
    assert report(replace(whole, diagnosis=diagnosis)).startswith("NO VERDICT  All 3 sessions")


def test_a_holder_is_named_with_everything_that_is_known_of_it() -> None:
    line = next(line for line in report(inspections.leaking()).splitlines() if line.startswith("Who"))

    for part in ("shop-api", "user app", "10.0.0.7", "2210 (gunicorn: worker [shop.wsgi])", "/checkout/confirm"):
        assert part in line
    assert "30 backends (4700, 4701, " in line


def test_instances_that_differ_by_the_name_of_a_prepared_statement_are_one_holder() -> None:
    whole = inspections.leaking()
    holders = tuple(
        Holder("shop", "app", "10.0.0.1", (100 + i,), last_query=f"DEALLOCATE pdo_stmt_{i:08x}") for i in range(9)
    )

    finding = replace(whole.diagnosis.findings[0], holders=holders)

    text = report(replace(whole, diagnosis=replace(whole.diagnosis, findings=(finding,))), 300)

    assert "application shop, user app, 9 instances, client 10.0.0.1, 9 backends (100, 101, " in text
    assert text.count("last query") == 1


def test_the_instances_of_one_application_are_one_holder_and_their_statement_stands_once() -> None:
    whole = inspections.leaking()
    instances = tuple(
        Holder("shop", "app", f"10.0.0.{n}", (100 + n,), {"pid": 7000 + n, "command": "shop"}, None, "SELECT 1")
        for n in range(6)
    )
    finding = replace(whole.diagnosis.findings[0], holders=(*instances, Holder("mail", "app", "10.0.0.9", (200,))))

    text = report(replace(whole, diagnosis=replace(whole.diagnosis, findings=(finding,))), 300)

    assert (
        "application shop, user app, 6 instances, client 10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5, "
        "process 7000 7001 7002 7003 7004 7005 (shop), 6 backends (100, 101, 102, 103, 104, 105)"
    ) in text
    assert "application mail, user app, client 10.0.0.9, 1 backend (200)" in text
    assert text.count("last query: SELECT 1") == 1


def test_more_than_a_screen_holds_is_cut_with_a_word_about_the_rest() -> None:
    text = report(inspections.many(), 80)

    assert "and 35 more holders with 35 backends: see --json" in text
    assert "... and 28 more limits: see --json" in text
    assert "... and 25 more groups with 25 connections: see --json" in text
    assert len(text.splitlines()) < 90


def test_sql_that_verifies_a_finding_keeps_its_lines_to_be_pasted_and_stands_once() -> None:
    whole = inspections.leaking()
    leak = whole.diagnosis.findings[0]
    twice = replace(whole.diagnosis, findings=(leak, replace(leak, code="slots-low")))

    lines = report(replace(whole, diagnosis=twice), 40).splitlines()

    assert lines[lines.index("Verify with SQL (leak-in-transaction, slots-low):") + 1 :] == [
        "SELECT pid, application_name, now() - xact_start AS age",
        "  FROM pg_stat_activity",
        " WHERE state = 'idle in transaction' ORDER BY xact_start",
    ]


def test_a_relief_plan_says_whom_to_end_whom_not_why_and_that_nothing_was_ended_yet() -> None:
    text = report(replace(inspections.relieved(), relieved=None), 120)

    assert (
        "Relief: 1 statement to cancel and 3 backends to end, in this order, which frees 11 slots; none has been ended"
    ) in text
    assert "1  end     4700      1  shop-api, app, 10.0.0.7  leak-in-transaction: idle in transaction for" in text
    assert "4  cancel  4703      8  migrate, app, 10.0.0.9" in text
    assert "Loses    4700, 4701, 4702: what its open transaction changed; if it is a long request after all" in text
    assert "or, in place of 4703, cancel 41 (pg_dump), which frees 9 slots and loses what its transaction did" in text
    assert "Spared   3 backends of nightly-report, user reports: it is idle, as the connections of a healthy" in text
    assert "Allowed  the role may not end other roles' backends: GRANT pg_signal_backend" in text
    assert "select pg_terminate_backend(pid) from pg_stat_activity where pid = 4702;" in text.splitlines()


def test_what_really_came_of_a_plan_is_told_backend_by_backend() -> None:
    relieved = inspections.relieved().relieved
    assert relieved is not None

    assert describe_relief(relieved) == (
        "1 of 4 backends ended; 2 slots came free (97 used before, 95 now)",
        "4701 had ended by itself",
        "4702 is another backend by now, and was left alone: the process id belongs to another backend by now",
        "4703 could not be ended: permission denied to terminate process",
    )
    assert describe_relief(replace(relieved, used_after=98))[0].endswith(
        "others took the slots at once (97 used before, 98 now)"
    )


def test_a_chart_is_drawn_when_the_window_is_long_enough_to_show_something() -> None:
    assert "╌╌╌" not in report(inspections.leaking(), 80)
    assert "╌╌╌ usable 97" in report(inspections.undetermined(), 80)


@pytest.mark.parametrize("width", [None, 40, 120])
def test_nothing_that_a_client_names_commands_the_terminal(width: int | None) -> None:
    text = report(inspections.hostile(), width)

    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text) == []
    assert "[red]bold[/red]" in text.replace("\n", "")
    assert len(text) < 12_000


def test_in_a_pipe_each_record_is_one_line() -> None:
    lines = report(inspections.hostile()).splitlines()

    at = lines.index("Who is connected")
    assert lines[at + 3].startswith("(frozen: ")
    assert not any(line != line.rstrip() for line in lines)
