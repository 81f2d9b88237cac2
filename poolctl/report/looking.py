"""Says on standard error that poolctl is looking, for how long, and what it knows before it has finished.

On a terminal one block that is gone when the report comes, elsewhere plain lines, or nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from poolctl.report.screen import STYLES, Screen
from poolctl.report.verdict import Verdict
from poolctl.safe_text import neutralize
from poolctl.units import format_duration

SILENCE = 1.0
"""Seconds of looking that need no announcement."""
REFRESHES = 8


class LookingView(Protocol):
    """Every call returns at once."""

    def so_far(self, verdict: Verdict) -> None:
        """What is certain already, before the window is over."""


@contextmanager
def looking_view(
    screen: Screen,
    planned: float,
    *,
    quiet: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[LookingView]:
    """A view for the length of a ``with`` in which one looks for ``planned`` seconds."""
    if quiet:
        yield _Silence()
    elif not screen.moving:
        yield _Lines(screen, planned)
    else:
        block = LookingBlock(planned, now)
        with Live(
            block,
            console=screen.console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield block


class _Silence:
    def so_far(self, verdict: Verdict) -> None:
        """Nothing is shown."""


class _Lines:
    def __init__(self, screen: Screen, planned: float) -> None:
        self._screen = screen
        if planned > SILENCE:
            screen.print(f"looking for {format_duration(planned)} ...")

    def so_far(self, verdict: Verdict) -> None:
        self._screen.print(f"so far: {verdict.word} {neutralize(verdict.sentence, 600)}")


class LookingBlock:
    """The block, drawn anew at each refresh."""

    def __init__(self, planned: float, now: Callable[[], float]) -> None:
        self._planned, self._now, self._began = planned, now, now()
        self._verdict: Verdict | None = None

    def so_far(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines():
            line.truncate(options.max_width - 1, overflow="ellipsis")
            line.no_wrap = True
            yield line

    def lines(self) -> list[Text]:
        passed = self._now() - self._began
        over = passed > self._planned + SILENCE
        goal = f"of {format_duration(self._planned)}" + (", waiting for an answer" if over else "")
        lines = [Text(f"looking ... {passed:.1f} s {goal}   (Ctrl-C: tell what was seen)")]
        if self._verdict is not None:
            word = self._verdict.word
            lines.append(Text.assemble((f"{word}  ", STYLES[word]), neutralize(self._verdict.sentence, 600)))
        return lines
