"""What stands on standard error while ``inspect`` samples."""

import io
from dataclasses import replace

import inspections
import pytest
from report_parts import HOSTILE
from test_report_console import Terminal

from poolctl.diagnose.finding import Diagnosis, Finding
from poolctl.report.progress import SamplingBlock, sampling_view
from poolctl.report.screen import open_screen

SENTENCE = f"0 of 97 slots are free {HOSTILE}"
FULL = replace(
    inspections.leaking(),
    diagnosis=Diagnosis((Finding("slots-exhausted", "critical", "certain", "database", SENTENCE),)),
)


def test_a_log_says_that_poolctl_samples_and_what_is_certain_already() -> None:
    stream = io.StringIO()
    with sampling_view(open_screen(stream), 3.0) as view:
        view.so_far(FULL)

    lines = stream.getvalue().splitlines()
    assert lines[0] == "sampling for 3 s ..."
    assert lines[1].startswith("so far: CRITICAL 0 of 97 slots are free \\x1b]0;owned")
    assert len(lines) == 2


def test_a_short_sampling_needs_no_announcement() -> None:
    stream = io.StringIO()
    with sampling_view(open_screen(stream), 1.0):
        pass

    assert stream.getvalue() == ""


def test_quiet_shows_nothing() -> None:
    stream = io.StringIO()
    with sampling_view(open_screen(stream), 60.0, quiet=True) as view:
        view.so_far(FULL)

    assert stream.getvalue() == ""


def test_the_block_counts_up_and_says_when_it_waits_for_an_answer() -> None:
    clock = iter([0.0, 1.25, 4.5])
    block = SamplingBlock(3.0, lambda: next(clock))

    assert block.lines()[0].plain == "sampling ... 1.2 s of 3 s   (Ctrl-C: stop and report)"
    assert "4.5 s of 3 s, waiting for an answer" in block.lines()[0].plain


def test_on_a_terminal_nothing_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    with sampling_view(open_screen(terminal), 3.0) as view:
        view.so_far(FULL)

    assert "sampling ... " in terminal.getvalue()
    assert terminal.getvalue().endswith(("\x1b[2K", "\x1b[?25h"))
    assert "\x1b]0;owned" not in terminal.getvalue()
