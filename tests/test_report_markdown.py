"""Markdown of every kind of report: nothing of the terminal is missing, and nothing foreign does anything."""

import io
import re
from collections.abc import Callable

import inspections
import pytest
import recommendations
import report_batches as batches
import report_fleets as fleets
import report_runs as runs
from report_parts import HOSTILE, check_screen

from poolctl.api.results import SimulateResult, Variant
from poolctl.report.blocks import Report
from poolctl.report.build import Result, build_report
from poolctl.report.markdown import escape_markdown, write_markdown
from poolctl.report.screen import open_screen
from poolctl.report.terminal import print_report

TRICKS = "`code` ``` *bold* | a | <b> @here [x](https://evil.test) <!channel> &copy; # title"


def run(*build: Callable[[], object]) -> SimulateResult:
    return SimulateResult("live", tuple(Variant(f"{TRICKS} {HOSTILE}", *each()) for each in build))  # type: ignore[misc]


RESULTS: dict[str, Result] = {
    "run": run(runs.leaking),
    "hostile_run": run(runs.hostile),
    "comparison": SimulateResult("live", run(runs.hostile, runs.refused_fleet).variants, is_comparison=True),
    "both": SimulateResult("both", run(runs.healthy, runs.leaking).variants),
    "sweep": SimulateResult("model", batch=batches.grid_of_two()),
    "line": SimulateResult("model", batch=batches.line_of_one()),
    "replications": SimulateResult("model", batch=batches.replications()),
    "inspection": inspections.undetermined(),
    "hostile_inspection": inspections.hostile(),
    "recommendation": recommendations.balanced(),
    "hostile_recommendation": recommendations.hostile(),
    "fleet": fleets.over_budget(),
}


def report_of(name: str) -> Report:
    return build_report(RESULTS[name], repeat=f"poolctl simulate --set name={TRICKS}")


def outside_code(text: str) -> str:
    """Return the part in which a foreign name could do something."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("name", ["run", "sweep", "replications", "both"])
def test_the_markdown_is_as_reviewed(name: str) -> None:
    check_screen(f"markdown_{name}", write_markdown(report_of(name)))


@pytest.mark.parametrize("name", RESULTS)
def test_markdown_begins_with_the_verdict_and_closes_every_block(name: str) -> None:
    text = write_markdown(report_of(name))

    assert re.match(r"\*\*(?:\\.|[^*\\])+\*\*", text)
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    assert re.findall(r"^.+```", text, re.MULTILINE) == []
    assert "\n\n\n" not in text


@pytest.mark.parametrize("name", RESULTS)
def test_nothing_foreign_formats_links_or_mentions(name: str) -> None:
    text = outside_code(write_markdown(report_of(name)))

    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text) == []
    assert re.findall(r"(?<!\\)[<`|]|(?<!\\)\]\(|(?<!\\)://|(?<!\w)@", text) == []


@pytest.mark.parametrize("name", RESULTS)
def test_every_word_of_the_terminal_is_in_the_markdown(name: str) -> None:
    stream = io.StringIO()
    report = report_of(name)
    print_report(open_screen(stream, "never", environ={}), report)

    # Charts and the bars of tables are drawn with other characters.
    words = {word for word in re.findall(r"[a-z0-9_.%]{2,}", stream.getvalue().lower()) if not word.startswith("...")}

    shown = write_markdown(report).replace("\\", "").lower()
    assert {word for word in words if word not in shown} == set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", "a \\| b"),
        ("1. first", "1\\. first"),
        ("- item", "\\- item"),
        ("-5 and 3.5", "-5 and 3.5"),
        ("---", "\\---"),
    ],
)
def test_a_text_begins_no_list_and_no_table(text: str, shown: str) -> None:
    assert escape_markdown(text) == shown
