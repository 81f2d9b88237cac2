"""Shows live systems while one watches: a whole screen that redraws itself, plain lines elsewhere, or nothing.

Decides what of an inspection fits the screen, in which order, and how often a line is worth writing. What is seen
and what it means is told by others. The final report is not made here.
"""

import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from poolctl.api.results import InspectResult
from poolctl.diagnose.finding import worst_first
from poolctl.report.charts import sparkline
from poolctl.report.inspection import print_groups, print_limits, print_verdict
from poolctl.report.inspection_chart import waiting_in
from poolctl.report.inspection_words import clock, inspection_verdict, named, steps_of
from poolctl.report.screen import STYLES, ColorChoice, Screen, open_screen
from poolctl.report.verdict import word_of
from poolctl.safe_text import neutralize
from poolctl.units import format_count

REFRESHES = 4
"""A second, so that a window that changed its size is filled soon."""
MOST_LIMITS = 4
QUIT = "q"
WIDEST = 120


class WatchView(Protocol):
    """What a watcher tells while it looks. Every call returns at once."""

    def phase(self, text: str) -> None:
        """What is going on before there is anything to show."""

    def show(self, inspection: InspectResult) -> None:
        """The newest state of what is seen."""

    def wants_to_end(self) -> bool:
        """Whether the reader pressed q."""


@contextmanager
def watch_view(screen: Screen, *, quiet: bool = False, interval: float = 10.0) -> Iterator[WatchView]:
    """A view on ``screen`` for the length of a ``with``: full-screen where it may move, else a line when the verdict
    changes and every ``interval`` seconds. On the way out, an exception included, the screen is as it was before."""
    if quiet:
        yield _Silence()
    elif not screen.moving:
        yield _Lines(screen, interval)
    else:
        page = WatchPage(screen)
        with _keys() as pressed, _full_screen(page, screen.console):
            page.pressed = pressed
            yield page


class _Silence:
    def phase(self, text: str) -> None:
        """Nothing is shown."""

    def show(self, inspection: InspectResult) -> None:
        """Nothing is shown."""

    def wants_to_end(self) -> bool:
        return False


class _Lines(_Silence):
    def __init__(self, screen: Screen, interval: float) -> None:
        self._screen, self._interval = screen, interval
        self._told = ("", 0.0)

    def phase(self, text: str) -> None:
        self._screen.print(neutralize(text, 600))

    def show(self, inspection: InspectResult) -> None:
        if not inspection.observation.snapshots:
            return
        verdict, at = inspection_verdict(inspection), inspection.observation.last.at
        code, before = self._told
        if verdict.code == code and at < before + self._interval:
            return
        self._told = (verdict.code, at)
        told = f"{clock(at)} {verdict.word} {verdict.code}: {verdict.sentence}; {'; '.join(_gauges(inspection))}"
        self._screen.print(told.removesuffix("; "))


class WatchPage:
    """The full screen, drawn anew from the last inspection at each refresh."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._phase = "connecting"
        self._inspection: InspectResult | None = None
        self.pressed: Callable[[], str] = lambda: ""

    def phase(self, text: str) -> None:
        self._phase = neutralize(text, 200)

    def show(self, inspection: InspectResult) -> None:
        self._inspection = inspection

    def wants_to_end(self) -> bool:
        return self.pressed().lower() == QUIT

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays free: some terminals wrap a line that fills them all.
        width, height = min(options.max_width - 1, WIDEST), options.size.height
        lines = self.lines(width)
        if len(lines) > height:
            lines = [*lines[: height - 1], Text("... and more, told at the end")]
        for line in lines:
            line.truncate(width)
            line.no_wrap = True
            yield line

    def lines(self, width: int) -> list[Text]:
        """The page for a window of ``width`` columns, however high it is."""
        stream = io.StringIO()
        color: ColorChoice = "never" if self._screen.console.color_system is None else "always"
        screen = replace(open_screen(stream, color, width=width), ascii_only=self._screen.ascii_only)
        self._draw(screen)
        return [Text.from_ansi(line) for line in stream.getvalue().splitlines()]

    def _draw(self, screen: Screen) -> None:
        inspection = self._inspection
        if inspection is None:
            screen.print(f"{self._phase} ...   (q quits)")
            return
        _print_head(screen, inspection)
        print_verdict(screen, inspection)
        findings = worst_first(inspection.diagnosis.findings)
        if findings and findings[0].code != "healthy":
            for holder in findings[0].holders[:2]:
                screen.paragraph(Text("Who  ", style="bold"), named(holder))
            for step in steps_of(findings[0])[:2]:
                screen.paragraph(Text("Do   ", style="bold"), step)
        for finding in findings[1:]:
            word = word_of(finding)
            screen.paragraph(Text(f"{word}  ", style=STYLES[word]), neutralize(finding.summary, 300), hang=2)
        _print_course(screen, inspection)
        diagnosis = inspection.diagnosis
        print_limits(screen, replace(inspection, diagnosis=replace(diagnosis, limits=diagnosis.limits[:MOST_LIMITS])))
        print_groups(screen, inspection)


def _print_head(screen: Screen, inspection: InspectResult) -> None:
    observation = inspection.observation
    target = next((source.target for source in observation.sources if source.target), "")
    at = f"  {clock(observation.last.at)}" if observation.snapshots else ""
    # The target last: it may be longer than the window, and the way out has to stay in sight.
    head = Text.assemble(("poolctl inspect", "bold"), at, ("  q quits", "bold"), f"  {neutralize(target, 60)}")
    screen.print(head)


def _print_course(screen: Screen, inspection: InspectResult) -> None:
    """Connections and waiting clients over time, the newest at the right."""
    observation, label = inspection.observation, 9
    room = max((screen.width or 80) - label - 22, 8)
    used = [float(len(sample.clients)) for sample in observation.samples]
    facts = observation.server
    if used:
        most = max(*used, float(facts.usable) if facts else 1.0)
        told = format_count(used[-1]) + (f" of {format_count(facts.usable)} usable" if facts else "")
        bars = sparkline(used, room, most, ascii_only=screen.ascii_only)
        screen.print()
        screen.print(Text.assemble((f"{'server':<{label}}", "bold"), (bars, STYLES["open"]), f"  {told}"))
    waiting = [float(waiting_in(snapshot)) for snapshot in observation.snapshots]
    if any(waiting):
        bars = sparkline(waiting, room, max(waiting), ascii_only=screen.ascii_only)
        told = format_count(waiting[-1])
        screen.print(Text.assemble((f"{'waiting':<{label}}", "bold"), (bars, STYLES["waiting"]), f"  {told}"))


def _gauges(inspection: InspectResult) -> list[str]:
    """The limit that binds and the waiting clients, for a line in a log."""
    bound = next((limit for limit in inspection.diagnosis.limits if limit.binds), None)
    told = []
    if bound:
        told.append(f"{neutralize(bound.name, 60)}: {format_count(bound.used)} of {format_count(bound.limit)}")
    waiting = waiting_in(inspection.observation.last)
    return [*told, f"{format_count(waiting)} waiting"] if waiting else told


def _full_screen(page: WatchPage, console: Console) -> Live:
    return Live(
        page,
        console=console,
        screen=True,
        refresh_per_second=REFRESHES,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    )


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """A function that tells the last key pressed, "" for none; keys are neither echoed nor held back until Enter."""
    try:
        import termios
        import tty
    except ImportError:  # Windows: Ctrl-C ends the view.
        yield lambda: ""
        return
    if not sys.stdin or not sys.stdin.isatty():
        yield lambda: ""
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed() -> str:
        try:
            if not select.select([descriptor], [], [], 0)[0]:
                return ""
            return os.read(descriptor, 32).decode("ascii", "ignore")[-1:] or QUIT
        except OSError:
            return QUIT  # The terminal is gone, and with it whoever watched.

    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
