"""Whole screens of the final report and the comparison, compared with files that a reviewer reads."""

import io
import re
from collections.abc import Callable
from dataclasses import replace

import modeled
import pytest
import report_runs as runs
from report_parts import check_screen
from rich.cells import cell_len

from poolctl.api.results import Variant
from poolctl.diagnose.finding import Finding
from poolctl.report.comparison import build_comparison_report
from poolctl.report.screen import open_screen
from poolctl.report.simulation import build_simulation_report
from poolctl.report.terminal import print_report
from poolctl.scenario.run import Run

Build = Callable[[], tuple[Run, tuple[Finding, ...]]]
REPEAT = "poolctl simulate --leak --set pool.max_open=10 --set load.rate=50 --for 60s --seed 1"


def report(build: Build, width: int | None = None, *, color: bool = False, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    run, findings = build()
    screen = open_screen(stream, "always" if color else "never", width=width, environ={})
    print_report(screen, build_simulation_report(run, findings, repeat=REPEAT))
    return content(stream)


def comparison(width: int | None = None) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n")
    variants = [
        Variant("leak", *runs.leaking()),
        Variant("correct", *runs.healthy()),
        Variant("six pods", *runs.refused_fleet()),
        Variant("max_open=0", *runs.unlimited()),
    ]
    print_report(
        open_screen(stream, "never", width=width, environ={}), build_comparison_report(variants, repeat=REPEAT)
    )
    return content(stream)


def content(stream: io.TextIOWrapper) -> str:
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(stream.encoding)


@pytest.mark.parametrize("width", [120, 80, 40])
@pytest.mark.parametrize("build", runs.ALL, ids=lambda build: build.__name__)
def test_the_report_of_each_run_is_as_reviewed(build: Build, width: int) -> None:
    check_screen(f"simulate_{build.__name__}_{width}", report(build, width))


@pytest.mark.parametrize("build", [runs.leaking, runs.refused_fleet], ids=lambda build: build.__name__)
def test_the_piped_report_is_as_reviewed(build: Build) -> None:
    check_screen(f"simulate_{build.__name__}_pipe", report(build))


def test_the_report_in_ascii_is_as_reviewed() -> None:
    text = report(runs.refused_fleet, 80, encoding="ascii")

    assert text.isascii()
    check_screen("simulate_refused_fleet_ascii", text)


def test_the_colored_report_is_as_reviewed() -> None:
    check_screen("simulate_leaking_color", report(runs.leaking, 80, color=True))


@pytest.mark.parametrize("width", [None, 120, 80, 40])
def test_the_comparison_is_as_reviewed(width: int | None) -> None:
    check_screen(f"compare_{width or 'pipe'}", comparison(width))


@pytest.mark.parametrize("build", runs.ALL, ids=lambda build: build.__name__)
def test_color_adds_nothing_but_color(build: Build) -> None:
    assert re.sub(r"\x1b\[[0-9;]*m", "", report(build, 80, color=True)) == report(build, 80)


@pytest.mark.parametrize("width", [30, 40, 59, 60, 61, 80, 99, 120, 200])
def test_no_line_but_the_command_to_repeat_is_wider_than_the_terminal(width: int) -> None:
    texts = [report(build, width) for build in runs.ALL] + [comparison(width)]

    for text in texts:
        wide = [line for line in text.splitlines() if cell_len(line) > width and not line.startswith("poolctl ")]
        assert wide == []


@pytest.mark.parametrize("build", runs.ALL[:-1], ids=lambda build: build.__name__)
def test_the_first_line_holds_the_severity_and_the_worst_findings_sentence(build: Build) -> None:
    first = report(build).splitlines()[0]

    word, _, sentence = first.partition("  ")
    assert word in ("CRITICAL", "WARNING", "INFO", "OK", "INCOMPLETE")
    assert len(sentence) > 30


def test_without_findings_nothing_is_claimed() -> None:
    run, _ = runs.healthy()

    first = report(lambda: (run, ())).splitlines()[0]

    assert first == "NO VERDICT  4,812 of 4,812 acquires were served; no diagnosis was made"


def test_an_uncertain_verdict_says_how_certain_it_is() -> None:
    assert report(runs.unlimited).splitlines()[0].endswith("(likely)")


def test_a_spoiled_or_interrupted_run_says_so_right_below_the_verdict() -> None:
    assert report(runs.generator_bound).splitlines()[1].startswith("! GENERATOR-BOUND: requests began ")
    assert report(runs.interrupted).splitlines()[1].startswith("! INTERRUPTED after 17.3 s of 60 s: ")
    assert not any(line.startswith("!") for line in report(runs.healthy).splitlines())


def test_a_run_that_lost_a_part_of_itself_is_first_of_all_incomplete_and_never_ok() -> None:
    lost = "4 of 12 instances ended before they were done: lost with the worker 10.0.0.4:40001. "
    leak_run, leak = runs.leaking()
    broken_leak = replace(leak_run, failure="the server ended at 4.2 s")

    assert (
        report(runs.on_machines).splitlines()[0].startswith(f"INCOMPLETE  {lost}Undetermined: of what was measured, ")
    )
    assert report(runs.broken).startswith("INCOMPLETE  the server ended at 4.2 s: out of memory. Undetermined: ")
    first = report(lambda: (broken_leak, leak)).splitlines()[0]
    assert first.startswith("INCOMPLETE  the server ended at 4.2 s. CRITICAL of what was measured: ")
    assert "\nOK" not in f"\n{report(runs.on_machines)}"


def test_the_mean_of_queued_waits_of_which_none_has_ended_is_left_out() -> None:
    stuck = modeled.run(pool={"max_open": 4}, workers=8, hold=0.1, connections_per_request=2, duration=6.0)

    lines = report(lambda: (stuck, ()), 120).splitlines()

    assert "queued    acquires 8  (only acquires that had to queue)" in lines


def test_in_a_pipe_each_record_is_one_line_however_long() -> None:
    lines = report(runs.hostile).splitlines()

    errors = lines[next(at for at, line in enumerate(lines) if line.startswith("errors  from")) + 1 :]
    assert [line.split()[0] for line in errors[:3]] == ["3", "1", "2"]
    assert len(errors[1]) > 300
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [None, 40, 120])
def test_nothing_that_a_server_says_commands_the_terminal(width: int | None) -> None:
    text = report(runs.hostile, width)

    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text) == []
    assert "[red]bold[/red]" in text.replace("\n", "")
    assert ":skull:" in text
    assert len(text) < 12_000


def test_many_kinds_of_error_are_cut_with_a_word_about_the_rest() -> None:
    run, findings = runs.refused_fleet()
    error = run.summary.errors[0]
    many = tuple(
        replace(error, kind=replace(error.kind, message=f"kind {number}"), first_at=number) for number in range(40)
    )

    text = report(lambda: (replace(run, summary=replace(run.summary, errors=many)), findings))

    assert "kind 11" in text
    assert "kind 12" not in text
    assert "... and 28 more kinds of error: see --json" in text


def test_the_command_to_repeat_stays_in_one_piece() -> None:
    for width in (None, 120, 80, 40):
        assert REPEAT in report(runs.leaking, width)
