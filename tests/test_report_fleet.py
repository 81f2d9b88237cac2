"""Whole screens of a fleet's check, compared with files that a reviewer reads."""

import io
from collections.abc import Callable

import pytest
import report_fleets as fleets
from report_parts import check_screen
from rich.cells import cell_len

from poolctl.api.results import FleetResult
from poolctl.report.fleet import build_fleet_report
from poolctl.report.markdown import write_markdown
from poolctl.report.screen import open_screen
from poolctl.report.terminal import print_report

Build = Callable[[], FleetResult]


def report(build: Build, width: int | None) -> str:
    stream = io.StringIO()
    print_report(open_screen(stream, "never", width=width, environ={}), build_fleet_report(build().check))
    return stream.getvalue()


@pytest.mark.parametrize("width", [None, 120, 80, 40])
@pytest.mark.parametrize("build", fleets.ALL, ids=lambda build: build.__name__)
def test_the_report_of_each_fleet_is_as_reviewed(build: Build, width: int | None) -> None:
    text = report(build, width)

    assert width is None or all(cell_len(line) <= width for line in text.splitlines())
    check_screen(f"fleet_{build.__name__}_{width or 'pipe'}", text)


@pytest.mark.parametrize("build", fleets.ALL, ids=lambda build: build.__name__)
def test_the_markdown_is_as_reviewed(build: Build) -> None:
    check_screen(f"fleet_{build.__name__}_markdown", write_markdown(build_fleet_report(build().check)))
