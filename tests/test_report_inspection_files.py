"""An inspection as Markdown, HTML, SVG and in the files of --output."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import inspections
import pytest
from report_parts import HOSTILE, check_screen
from test_report_files import SVG, Page

from poolctl.api.results import InspectResult
from poolctl.errors import BadInput, CannotDo
from poolctl.report.files import INSPECT_FORMATS, check_output, write_inspection
from poolctl.report.inspection_html import inspection_page
from poolctl.report.markdown import escaped, markdown_of

Build = Callable[[], InspectResult]


def outside_code(text: str) -> str:
    """The Markdown in which a foreign name could do something."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("build", [inspections.leaking, inspections.undetermined], ids=lambda build: build.__name__)
def test_the_markdown_is_as_reviewed(build: Build) -> None:
    check_screen(f"inspect_{build.__name__}_markdown", markdown_of(build()))


@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_markdown_begins_with_the_verdict_and_closes_every_block(build: Build) -> None:
    text = markdown_of(build())

    assert text.startswith(("**CRITICAL** ", "**OK** ", "**NO VERDICT** "))
    assert text.count("\n```") % 2 == 0
    assert "\n\n\n" not in text


def test_hostile_names_do_nothing_in_markdown() -> None:
    text = outside_code(markdown_of(inspections.hostile()))

    assert "\x1b" not in text
    assert "\u202e" not in text
    assert re.findall(r"(?<!\\)[<`]|(?<!\\)\]\(|(?<!\\)://|(?<!\w)@", text) == []
    assert "(at)here" in text


def test_three_backticks_in_a_name_do_not_end_a_block() -> None:
    text = markdown_of(inspections.hostile())

    assert re.findall(r"^.+```", text, re.MULTILINE) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("shop_api", "shop_api"),
        ("gunicorn: worker [shop.wsgi]", "gunicorn: worker [shop.wsgi]"),
        ("_it_ *b* `c` ~~s~~", "\\_it\\_ \\*b\\* \\`c\\` \\~\\~s\\~\\~"),
        ("[x](https://evil.test)", "[x]\\(https\\://evil.test)"),
        ("<!channel> &copy; a & b", "\\<!channel\\> \\&copy; a & b"),
        ("@here app@shop www.evil.test", "(at)here app@shop www\\.evil.test"),
        ("# title", "\\# title"),
    ],
)
def test_a_name_is_shown_in_markdown_and_no_more_than_needed_is_escaped(name: str, shown: str) -> None:
    assert escaped(name) == shown


@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_a_page_is_well_formed_fetches_nothing_and_holds_its_own_data(build: Build) -> None:
    page = Page(inspection_page(build()))

    assert page.links == []
    assert page.tags.count("script") == 1
    assert json.loads(page.data) == json.loads(build().to_json())


def test_a_page_begins_with_the_verdict_and_draws_connections_against_the_limit() -> None:
    text = inspection_page(inspections.leaking())

    heading = text[text.index("<h1") :]
    assert heading.startswith('<h1 class="critical">CRITICAL: shop-api holds 80 of 97 usable slots')
    assert "<svg" in text
    assert "limit usable 97." in text


def test_hostile_names_stay_text_in_a_page() -> None:
    text = inspection_page(inspections.hostile())
    page = Page(text)

    assert page.tags.count("b") == 0
    assert "</script><b>&" in page.text
    assert "\x1b" not in text
    assert HOSTILE in json.loads(page.data)["groups"][0]["application"]


def test_each_name_gets_its_format(tmp_path: Path) -> None:
    for suffix in (".json", ".html", ".md", ".svg", ".MD"):
        write_inspection(tmp_path / f"report{suffix}", inspections.leaking())

    assert json.loads((tmp_path / "report.json").read_text())["command"] == "inspect"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "report.md").read_text().startswith("**CRITICAL** ")
    assert (tmp_path / "report.md").read_text() == (tmp_path / "report.MD").read_text()
    assert ElementTree.parse(tmp_path / "report.svg").getroot().tag == f"{SVG}svg"


def test_a_window_of_one_sample_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(CannotDo, match="too little was seen for a chart"):
        write_inspection(tmp_path / "report.svg", inspections.single())

    assert list(tmp_path.iterdir()) == []


def test_a_format_that_inspect_does_not_write_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"must end in \.md, \.html, \.json or \.svg"):
        check_output(tmp_path / "report.csv", INSPECT_FORMATS)
    with pytest.raises(BadInput, match="must end in") as refused:
        check_output(tmp_path / "run.md")
    assert refused.value.hint == ".md is for inspect"
