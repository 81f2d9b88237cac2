"""What is shown while a run goes on: a live block, plain lines, or nothing."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import report_runs as runs
from report_parts import check_screen

from poolctl.api.progress import RunView
from poolctl.report.progress import Bounds, live_view
from poolctl.report.screen import Screen, open_screen
from poolctl.scenario.run import ObservedError, TimelinePoint

BOUNDS = Bounds(duration=60.0, max_open=10, usable=97)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def feed(view: RunView) -> None:
    run, _ = runs.leaking()
    for point in run.timeline:
        view.update(point, [error for error in run.summary.errors if error.first_at <= point.at])


def lines_of(**options: float | bool) -> list[str]:
    stream = io.StringIO()
    with live_view(open_screen(stream), "leaky checkout", BOUNDS, **options) as view:  # type: ignore[arg-type]
        view.phase("starting PostgreSQL 18")
        feed(view)
        view.note("connect with: psql -h 127.0.0.1")
    return stream.getvalue().splitlines()


def test_a_log_gets_one_line_an_interval_that_can_be_grepped() -> None:
    lines = lines_of()

    progress = [line for line in lines if line.startswith("progress: ")]
    assert [line.split()[1] for line in progress] == ["10.0", "20.0", "30.0", "40.0", "50.0", "60.0"]
    assert progress[2] == (
        "progress: 30.0 s, 50.0 acquired/s, open 10 of 10, in_use 10, idle 0, waiting 50, server 10 of 97, errors 0"
    )


def test_a_log_announces_phases_notes_and_each_kind_of_error_once() -> None:
    lines = [line for line in lines_of() if not line.startswith("progress: ")]

    assert lines == [
        "starting PostgreSQL 18",
        "error: pool: context deadline exceeded (first at 13 s)",
        "connect with: psql -h 127.0.0.1",
    ]


def test_the_interval_can_be_chosen_and_switched_off() -> None:
    assert len([line for line in lines_of(interval=2.5) if line.startswith("progress: ")]) == 24
    assert [line for line in lines_of(interval=0) if line.startswith("progress: ")] == []


def test_quiet_shows_notes_alone() -> None:
    assert lines_of(quiet=True) == ["connect with: psql -h 127.0.0.1"]


def test_a_stalled_run_gives_one_line_and_not_one_for_each_interval_missed() -> None:
    stream = io.StringIO()
    with live_view(open_screen(stream), "x", BOUNDS, interval=1.0) as view:
        for at in (0.0, 7.3, 7.9, 8.1):
            view.update(TimelinePoint(at, 1, 1, 0, 0, 0, int(at), 0))

    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["7.3", "8.1"]


def block(
    width: int, bounds: Bounds = BOUNDS, *, ascii_only: bool = False, errors: tuple[ObservedError, ...] = ()
) -> str:
    """The live block after 30 s, as drawn once for a terminal of ``width`` columns."""
    from poolctl.report.progress import LiveBlock

    stream = io.StringIO()
    plain = open_screen(stream, "never", width=width)
    screen = Screen(plain.console, natural=False, ascii_only=ascii_only, moving=True)
    drawn = LiveBlock(screen, "leaky checkout", bounds, lambda: 0.0)
    run, _ = runs.leaking()
    for point in run.timeline:
        if point.at <= 30:
            drawn.update(point, errors or run.summary.errors)
    plain.console.print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


@pytest.mark.parametrize("width", [120, 80, 40])
def test_the_live_block_is_as_reviewed(width: int) -> None:
    check_screen(f"live_{width}", block(width))


def test_the_live_block_in_ascii_without_bounds_is_as_reviewed() -> None:
    text = block(80, Bounds(), ascii_only=True)

    assert text.isascii()
    check_screen("live_ascii_unbounded", text)


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120, 300])
def test_the_live_block_keeps_to_its_height_and_width_whatever_the_errors_say(width: int) -> None:
    hostile, _ = runs.hostile()

    lines = block(width, errors=hostile.summary.errors).splitlines()

    assert 4 <= len(lines) <= (6 if width >= 60 else 9)
    assert any(re.search(r"errors [\d,]+$", line) for line in lines)
    assert max(map(len, lines)) < max(width, 20)
    assert "\x1b" not in "".join(lines)


def test_the_block_leaves_nothing_but_notes_and_a_visible_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    with pytest.raises(KeyboardInterrupt), live_view(open_screen(stream), "leaky", BOUNDS) as view:  # noqa: PT012
        view.phase("starting PostgreSQL 18")
        feed(view)
        view.note("kept")
        raise KeyboardInterrupt

    written = stream.getvalue()
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert "kept" in screen_after(written)
    assert "waiting" not in screen_after(written)


def screen_after(written: str) -> str:
    """What stands on a terminal after these writes: just the sequences that a live block uses."""
    rows, at = [""], 0
    for part in re.findall(r"\x1b\[\??\d*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            at += 1
            rows += [""] * (at + 1 - len(rows))
        elif part.endswith("A") and part.startswith("\x1b"):
            at = max(0, at - int(part[2:-1]))
        elif part == "\x1b[2K":
            rows[at] = ""
        elif not part.startswith(("\x1b", "\r")):
            rows[at] += part
    return "\n".join(rows)


PROGRAM = """
import sys, time
sys.path[:0] = {paths!r}
import report_runs as runs
from poolctl.report.screen import open_screen
from poolctl.report.progress import Bounds, live_view

try:
    with live_view(open_screen(sys.stderr), "leaky checkout", Bounds(60.0, 10, 97)) as view:
        for point in runs.leaking()[0].timeline:
            view.update(point)
            time.sleep(0.02)
except KeyboardInterrupt:
    print("stopped", file=sys.stderr)
"""


@pytest.mark.slow
def test_ctrl_c_on_a_real_terminal_leaves_it_clean() -> None:
    ours, theirs = pty.openpty()
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(paths=paths)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
    )
    os.close(theirs)
    try:
        written = read_until(ours, b"waiting")
        child.send_signal(signal.SIGINT)
        written += read_until(ours, b"stopped")
        assert child.wait(10) == 0
    finally:
        child.kill()
        os.close(ours)

    text = written.decode()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "waiting" not in screen_after(text)


def read_until(terminal: int, wanted: bytes, seconds: float = 20.0) -> bytes:
    written, end = b"", time.monotonic() + seconds
    while wanted not in written:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"no {wanted!r} within {seconds} s: {written[-300:]!r}"
        written += os.read(terminal, 65536)
    return written
