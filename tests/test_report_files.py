"""SVG, HTML and the files of --output."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import report_runs as runs
from report_parts import HOSTILE, timeline

from poolctl.api.documents import dumps
from poolctl.api.results import SimulateResult, Variant
from poolctl.errors import BadInput, CannotDo
from poolctl.report.files import check_output, write_output, write_text
from poolctl.report.html import comparison_page_of, page_of
from poolctl.report.panels import chart_of, comparison_chart_of
from poolctl.report.svg import svg_of

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "br", "rect", "path"}


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


def svg(build: Any) -> ElementTree.Element:
    run, findings = build()
    chart = chart_of(run)
    assert chart is not None
    return ElementTree.fromstring(svg_of(chart, subtitle=findings[0].summary if findings else ""))


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
    chart = chart_of(runs.leaking()[0])
    assert chart is not None

    text = svg_of(chart).replace("http://www.w3.org/2000/svg", "")

    assert not any(word in text for word in ("http", "href", "<script", "@import", "url("))


def test_a_long_timeline_gives_a_small_picture() -> None:
    run, _ = runs.healthy()
    from dataclasses import replace

    chart = chart_of(replace(run, timeline=timeline(3600, lambda at: int(at * 7) % 9)))
    assert chart is not None

    assert len(svg_of(chart)) < 40_000


@pytest.mark.parametrize("build", runs.ALL, ids=lambda build: build.__name__)
def test_a_page_is_well_formed_fetches_nothing_and_holds_its_own_data(build: Any) -> None:
    run, findings = build()

    page = Page(page_of(run, findings, repeat="poolctl simulate --leak"))

    assert page.links == []
    assert page.tags.count("script") == 1
    assert json.loads(page.data) == json.loads(dumps(runs.simulate_document(run, findings)))
    assert "poolctl simulate --leak" in page.text


def test_a_page_begins_with_the_verdict() -> None:
    run, findings = runs.leaking()

    text = page_of(run, findings)

    heading = text[text.index("<h1") :]
    assert heading.startswith('<h1 class="critical">CRITICAL: pool exhausted at 12 s and never recovered')


def test_hostile_text_stays_text_in_a_page() -> None:
    run, findings = runs.hostile()

    text = page_of(run, findings, repeat=HOSTILE)
    page = Page(text)

    assert page.tags.count("b") == 0
    assert "</script><b>&" in page.text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert json.loads(page.data)["summary"]["errors"][0]["message"] == HOSTILE


def test_a_comparison_page_holds_all_runs() -> None:
    variants = [Variant("leak <b>", *runs.leaking()), Variant("correct", *runs.healthy())]

    page = Page(comparison_page_of(variants))

    assert json.loads(page.data) == json.loads(SimulateResult("live", tuple(variants), is_comparison=True).to_json())
    assert "leak <b>: CRITICAL, correct: OK" in page.text
    assert page.tags.count("b") == 0


def test_each_name_gets_its_format(tmp_path: Path) -> None:
    variant = Variant("leak", *runs.leaking())
    for suffix in (".json", ".svg", ".html", ".HTML"):
        write_output(tmp_path / f"run{suffix}", [variant], repeat="again")

    assert json.loads((tmp_path / "run.json").read_text())["status"] == "ok"
    assert ElementTree.parse(tmp_path / "run.svg").getroot().tag == f"{SVG}svg"
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.HTML", "run.html", "run.json", "run.svg"]


def test_a_comparison_is_written_in_each_format(tmp_path: Path) -> None:
    variants = [Variant("leak", *runs.leaking()), Variant("correct", *runs.healthy())]
    for suffix in (".json", ".svg", ".html"):
        write_output(tmp_path / f"both{suffix}", variants, compared=True)

    assert len(json.loads((tmp_path / "both.json").read_text())["runs"]) == 2
    assert "leak: CRITICAL, correct: OK" in (tmp_path / "both.svg").read_text()
    assert comparison_chart_of(variants) is not None


@pytest.mark.parametrize(
    ("name", "why"),
    [("run.pdf", "must end in .json, .svg or .html"), ("run", "must end in"), ("nowhere/run.svg", "no folder")],
)
def test_an_output_that_cannot_be_is_refused_before_the_run(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        check_output(tmp_path / name)


def test_a_folder_is_refused_as_output(tmp_path: Path) -> None:
    (tmp_path / "run.svg").mkdir()

    with pytest.raises(BadInput, match="is a folder"):
        check_output(tmp_path / "run.svg")


def test_a_good_output_is_accepted(tmp_path: Path) -> None:
    check_output(tmp_path / "run.svg")


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
    with pytest.raises(CannotDo, match="too short for a chart"):
        write_output(tmp_path / "run.svg", [Variant("nothing", *runs.empty())])

    assert list(tmp_path.iterdir()) == []
