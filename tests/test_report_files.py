"""SVG, HTML and the files of --output."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import inspections
import pytest
import recommendations
import report_batches as batches
import report_fleets as fleets
import report_runs as runs
from report_parts import HOSTILE, timeline

from poolctl.api.documents import dumps
from poolctl.api.results import SimulateResult, Variant
from poolctl.errors import BadInput, CannotDo
from poolctl.report.blocks import headline_of
from poolctl.report.build import Result, build_report
from poolctl.report.files import FORMATS, OUTPUT_HELP, ReportKind, check_output, write_report, write_text
from poolctl.report.html import write_page
from poolctl.report.markdown import escape_markdown
from poolctl.report.simulation import chart_run
from poolctl.report.svg import write_svg

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "br", "rect", "path", "link"}


class Page(HTMLParser):
    """What a browser sees: elements that are closed in order, the data script, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.data = ""
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.data += data
        elif not self._open or self._open[-1] != "style":
            self.text += data


def result_of(build: Any) -> SimulateResult:
    return SimulateResult("live", (Variant("", *build()),))


def page(result: Result, repeat: str = "") -> str:
    return write_page(build_report(result, repeat=repeat), result.to_json())


def svg(build: Any) -> ElementTree.Element:
    run, findings = build()
    chart = chart_run(run)
    assert chart is not None
    return ElementTree.fromstring(write_svg([chart], subtitle=findings[0].summary if findings else ""))


@pytest.mark.parametrize("build", runs.ALL[:-1], ids=lambda build: build.__name__)
def test_every_chart_is_valid_xml_with_a_title_and_a_description(build: Any) -> None:
    root = svg(build)

    labels = root.attrib["aria-labelledby"].split()
    found = [root.find(f"{SVG}title"), root.find(f"{SVG}desc")]
    assert root.attrib["role"] == "img"
    assert [element.attrib["id"] for element in found if element is not None] == labels
    assert all(element is not None and element.text for element in found)


def test_the_description_tells_the_chart_in_words() -> None:
    about = svg(runs.leaking).find(f"{SVG}desc")

    assert about is not None
    assert about.text is not None
    assert "pool: open at most 10, in use at most 10, limit max_open 10." in about.text
    assert "12 s: exhausted 12 s." in about.text


def test_everything_drawn_lies_within_the_picture() -> None:
    for build in runs.ALL[:-1]:
        root = svg(build)
        height, width = float(root.attrib["height"]), float(root.attrib["width"])
        for text in root.iter(f"{SVG}text"):
            assert 0 < float(text.attrib["y"]) < height, text.text
            assert 0 < float(text.attrib["x"]) < width, text.text


def test_the_limit_is_a_dashed_line_at_its_height() -> None:
    root = svg(runs.refused_fleet)

    limits = [path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib["class"] == "limit"]
    rules = [path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib["class"] == "rule"]
    assert "stroke-dasharray: 7 4" in svg_text(root)
    assert len([limit for limit in limits if limit in rules]) == 2


def svg_text(root: ElementTree.Element) -> str:
    style = root.find(f"{SVG}style")
    assert style is not None
    return style.text or ""


def test_a_picture_needs_nothing_from_elsewhere() -> None:
    chart = chart_run(runs.leaking()[0])
    assert chart is not None

    text = write_svg([chart]).replace("http://www.w3.org/2000/svg", "")

    assert not any(word in text for word in ("http", "href", "<script", "@import", "url("))


def test_a_long_timeline_gives_a_small_picture() -> None:
    run, _ = runs.healthy()
    from dataclasses import replace

    chart = chart_run(replace(run, timeline=timeline(3600, lambda at: int(at * 7) % 9)))
    assert chart is not None

    assert len(write_svg([chart])) < 40_000


@pytest.mark.parametrize("build", runs.ALL, ids=lambda build: build.__name__)
def test_a_page_is_well_formed_fetches_nothing_and_holds_its_own_data(build: Any) -> None:
    found = Page(page(result_of(build), "poolctl simulate --leak"))

    assert found.links == ["data:,"]
    assert found.tags.count("script") == 1
    assert json.loads(found.data) == json.loads(dumps(runs.simulate_document(*build())))
    assert "poolctl simulate --leak" in found.text


def test_a_page_begins_with_the_verdict() -> None:
    text = page(result_of(runs.leaking))

    heading = text[text.index("<h1") :]
    assert heading.startswith('<h1 class="critical">CRITICAL: pool exhausted at 12 s and never recovered')


def test_hostile_text_stays_text_in_a_page() -> None:
    text = page(result_of(runs.hostile), HOSTILE)
    found = Page(text)

    assert found.tags.count("b") == 0
    assert "</script><b>&" in found.text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert json.loads(found.data)["summary"]["errors"][0]["message"] == HOSTILE


def test_a_comparison_page_holds_all_runs() -> None:
    variants = [Variant("leak <b>", *runs.leaking()), Variant("correct", *runs.healthy())]

    result = SimulateResult("live", tuple(variants), is_comparison=True)

    found = Page(page(result))

    assert json.loads(found.data) == json.loads(result.to_json())
    assert "leak <b>: CRITICAL, correct: OK" in found.text
    assert found.tags.count("b") == 0


def test_a_comparison_is_written_in_each_format(tmp_path: Path) -> None:
    variants = (Variant("leak", *runs.leaking()), Variant("correct", *runs.healthy()))
    for suffix in FORMATS["run"]:
        write_report(tmp_path / f"both{suffix}", SimulateResult("live", variants, is_comparison=True))

    assert len(json.loads((tmp_path / "both.json").read_text())["runs"]) == 2
    for suffix in (".svg", ".md", ".html"):
        assert "leak: CRITICAL, correct: OK" in (tmp_path / f"both{suffix}").read_text()


RESULTS: dict[ReportKind, Result] = {
    "run": result_of(runs.leaking),
    "sweep": SimulateResult("model", batch=batches.grid_of_two()),
    "large sweep": SimulateResult("model", batch=batches.cube_of_three()),
    "replications": SimulateResult("model", batch=batches.replications()),
    "inspection": inspections.leaking(),
    "recommendation": recommendations.balanced(),
    "untried recommendation": recommendations.starved(),
    "fleet": fleets.over_budget(),
}


@pytest.mark.parametrize(("kind", "suffix"), [(kind, suffix) for kind in RESULTS for suffix in FORMATS[kind]])
def test_each_report_is_written_in_each_of_its_formats(kind: ReportKind, suffix: str, tmp_path: Path) -> None:
    result = RESULTS[kind]
    path = tmp_path / f"report{suffix}"

    check_output(path, kind)
    write_report(path, result, repeat="poolctl simulate")

    text, first = path.read_text(), headline_of(build_report(result))
    if suffix == ".json":
        assert text == result.to_json() + "\n"
    elif suffix == ".csv":
        rows = list(csv.reader(io.StringIO(text)))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}
    elif suffix == ".svg":
        assert ElementTree.fromstring(text).tag == f"{SVG}svg"
    elif suffix == ".html":
        assert text.startswith("<!doctype html>")
        assert first in Page(text).text
    else:
        word, _, sentence = first.partition(": ") if first.startswith("CRITICAL: ") else ("", "", first)
        assert text.startswith(
            f"**{word}** {escape_markdown(sentence)}\n" if word else f"**{escape_markdown(sentence)}**\n"
        )
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_report_is_refused_in_a_format_that_it_does_not_have(kind: ReportKind, tmp_path: Path) -> None:
    formats = FORMATS[kind]
    for suffix in {".md", ".html", ".json", ".svg", ".csv", ".pdf", ""} - set(formats):
        with pytest.raises(BadInput) as refused:
            check_output(tmp_path / f"report{suffix}", kind)
        assert refused.value.message.endswith(f"must end in {', '.join(formats[:-1])} or {formats[-1]}")
        assert bool(refused.value.hint) == (suffix in (".svg", ".csv"))


def test_the_help_of_each_command_names_the_formats_that_it_writes() -> None:
    kinds: dict[str, tuple[ReportKind, ...]] = {
        "simulate": ("run", "sweep", "large sweep", "replications"),
        "inspect": ("inspection",),
        "recommend": ("recommendation", "untried recommendation", "fleet"),
    }

    for command, text in OUTPUT_HELP.items():
        known = {suffix for kind in kinds[command] for suffix in FORMATS[kind]}
        assert set(re.findall(r"\.[a-z]+\b", text)) == known


def test_the_ending_may_be_in_upper_case(tmp_path: Path) -> None:
    check_output(tmp_path / "RUN.HTML", "run")
    write_report(tmp_path / "RUN.HTML", RESULTS["run"])

    assert (tmp_path / "RUN.HTML").read_text().startswith("<!doctype html>")


def test_a_missing_folder_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        check_output(tmp_path / "nowhere" / "run.svg", "run")


def test_a_folder_is_refused_as_output(tmp_path: Path) -> None:
    (tmp_path / "run.svg").mkdir()

    with pytest.raises(BadInput, match="is a folder"):
        check_output(tmp_path / "run.svg", "run")


def test_a_file_that_cannot_be_written_leaves_nothing_behind_and_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.mkdir()
    (path / "kept").touch()

    with pytest.raises(CannotDo, match=r"cannot write .*run\.json"):
        write_text(path, "new")

    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert (path / "kept").exists()


def test_a_full_disk_is_one_clear_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, which only Linux has")

    with pytest.raises(CannotDo, match="cannot write"):
        write_text(full / "run.json", "new")


def test_a_run_too_short_for_a_chart_has_no_svg(tmp_path: Path) -> None:
    with pytest.raises(CannotDo, match="too little data for a chart"):
        write_report(tmp_path / "run.svg", result_of(runs.empty))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".svg", ".csv"])
def test_a_recommendation_that_was_not_tried_has_no_chart_and_no_table(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(CannotDo, match="tried") as refused:
        write_report(tmp_path / f"sizes{suffix}", recommendations.starved())

    assert refused.value.hint == "add --verify, or write .md, .html or .json"
