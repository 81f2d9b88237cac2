"""An inspection as Markdown, HTML, SVG and in the files of --output."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import inspections
import pytest
from report_parts import HOSTILE, check_screen
from test_report_files import Page

from poolctl.api.results import InspectResult
from poolctl.errors import CannotDo
from poolctl.report import html, markdown
from poolctl.report.files import write_report
from poolctl.report.inspection import build_inspection_report
from poolctl.report.markdown import escape_markdown

Build = Callable[[], InspectResult]


def markdown_of(inspection: InspectResult) -> str:
    return markdown.write_markdown(build_inspection_report(inspection))


def page_of(inspection: InspectResult) -> str:
    return html.write_page(build_inspection_report(inspection), inspection.to_json())


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
def test_a_name_is_shown_in_markdown_and_no_more_than_needed_is_escape_markdown(name: str, shown: str) -> None:
    assert escape_markdown(name) == shown


@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_a_page_is_well_formed_fetches_nothing_and_holds_its_own_data(build: Build) -> None:
    page = Page(page_of(build()))

    assert page.links == ["data:,"]
    assert page.tags.count("script") == 1
    assert json.loads(page.data) == json.loads(build().to_json())


def test_a_page_begins_with_the_verdict_and_draws_connections_against_the_limit() -> None:
    text = page_of(inspections.leaking())

    heading = text[text.index("<h1") :]
    assert heading.startswith('<h1 class="critical">CRITICAL: shop-api holds 80 of 97 usable slots')
    assert "<svg" in text
    assert "limit usable 97." in text


def test_hostile_names_stay_text_in_a_page() -> None:
    text = page_of(inspections.hostile())
    page = Page(text)

    assert page.tags.count("b") == 0
    assert "</script><b>&" in page.text
    assert "\x1b" not in text
    assert HOSTILE in json.loads(page.data)["groups"][0]["application"]


def test_a_window_of_one_sample_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(CannotDo, match="too little data for a chart"):
        write_report(tmp_path / "report.svg", inspections.single())

    assert list(tmp_path.iterdir()) == []
