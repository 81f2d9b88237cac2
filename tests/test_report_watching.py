"""The live view of ``inspect --watch``: what is drawn, what is logged, and that the terminal is left as it was."""

import io
from collections.abc import Callable
from dataclasses import replace

import inspections
import pytest
from report_parts import check_screen
from rich.cells import cell_len
from rich.console import Console
from test_report_console import Terminal

from poolctl.api.results import InspectResult
from poolctl.report.screen import open_screen
from poolctl.report.watching import WatchPage, watch_view

Build = Callable[[], InspectResult]


def page_of(build: Build) -> WatchPage:
    page = WatchPage(open_screen(io.StringIO(), "never"))
    page.show(build())
    return page


def drawn(build: Build, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    return [line.rstrip() for line in "".join(segment.text for segment in console.render(page_of(build))).splitlines()]


@pytest.mark.parametrize("width", [119, 79, 39])
@pytest.mark.parametrize("build", [inspections.leaking, inspections.undetermined], ids=lambda build: build.__name__)
def test_the_page_is_as_reviewed(build: Build, width: int) -> None:
    text = "\n".join(line.plain for line in page_of(build).lines(width)) + "\n"

    check_screen(f"inspect_watch_{build.__name__}_{width + 1}", text)


@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (120, 50)])
def test_the_page_fits_any_window_and_says_what_it_leaves_out(build: Build, width: int, height: int) -> None:
    lines = drawn(build, width, height)

    assert len(lines) <= height
    assert max(map(cell_len, lines)) < width
    if len(page_of(build).lines(width - 1)) > height:
        assert lines[-1].startswith("... more in the final report")


def test_before_anything_was_seen_the_page_says_what_it_waits_for() -> None:
    page = WatchPage(open_screen(io.StringIO(), "never"))

    assert [line.plain for line in page.lines(79)] == ["connecting ...   (q quits)"]


def test_the_verdict_stands_above_everything_that_may_be_cut_off() -> None:
    lines = drawn(inspections.leaking, 80, 8)

    assert lines[1].startswith("CRITICAL  shop-api holds 80 of 97")


def test_without_a_terminal_a_line_is_written_when_the_verdict_changes_and_now_and_then() -> None:
    stream = io.StringIO()
    leaking, healthy = inspections.leaking(), inspections.healthy()
    later = leaking.observation.snapshots[-1].at + 20.0
    snapshots = (*leaking.observation.snapshots, replace(leaking.observation.last, at=later))

    with watch_view(open_screen(stream)) as view:
        for inspection in (
            healthy,
            healthy,
            leaking,
            leaking,
            replace(leaking, observation=replace(leaking.observation, snapshots=snapshots)),
        ):
            view.show(inspection)
        assert view.wants_to_end() is False

    assert [" ".join(line.split()[2:4]) for line in stream.getvalue().splitlines()] == [
        "OK healthy:",
        "CRITICAL leak-in-transaction:",
        "CRITICAL leak-in-transaction:",
    ]
    assert stream.getvalue().splitlines()[1] == (
        "02:13:23 UTC CRITICAL leak-in-transaction: shop-api holds 80 of 97 usable slots in transactions that nobody "
        "ends; 0 slots are free; max_connections: 97 of 97"
    )


def test_nothing_foreign_commands_the_terminal_in_any_form() -> None:
    stream = io.StringIO()
    with watch_view(open_screen(stream)) as view:
        view.show(inspections.hostile())
    page = "\n".join(line.plain for line in page_of(inspections.hostile).lines(79))

    assert not {"\x1b", "\u202e", "\x07"} & set(page + stream.getvalue())


def test_quiet_shows_nothing() -> None:
    stream = io.StringIO()
    with watch_view(open_screen(stream), quiet=True) as view:
        view.show(inspections.leaking())

    assert stream.getvalue() == ""


def test_the_screen_is_given_back_also_when_something_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()

    def break_off() -> None:
        with watch_view(open_screen(terminal)) as view:
            view.show(inspections.leaking())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()

    text = terminal.getvalue()
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 1
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
