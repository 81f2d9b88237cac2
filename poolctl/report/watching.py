"""The live view of ``inspect --watch``: a whole screen that redraws itself, plain lines elsewhere, or nothing.

Decides what of an inspection fits the screen, in which order, and how often a line is worth writing. What is observed
and what it means comes from the sampler and the diagnosis; the final report is made elsewhere.
"""

import io
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from poolctl.api.progress import WatchView
from poolctl.api.results import InspectResult
from poolctl.diagnose.finding import worst_first
from poolctl.report.blocks import Block, FindingBlock, Item, Labeled, Points
from poolctl.report.drawing import draw_sparkline
from poolctl.report.findings import name_holder, plan_steps, word_of
from poolctl.report.inspection import (
    build_verdict,
    count_waiting,
    format_clock,
    judge_inspection,
    list_connections,
    list_limits,
)
from poolctl.report.progress import INTERVAL, Lines, Quiet
from poolctl.report.screen import STYLES, ColorChoice, Screen, open_screen
from poolctl.report.terminal import print_block, print_report
from poolctl.safe_text import neutralize
from poolctl.units import format_count

REFRESHES = 4
"""A second, so that a window that changed its size is filled soon."""
MOST_LIMITS = 4
MOST_HOLDERS = 2
MOST_STEPS = 2
QUIT = "q"
WIDEST = 120


@contextmanager
def watch_view(screen: Screen, *, quiet: bool = False, interval: float = INTERVAL) -> Iterator[WatchView]:
    """Provide a view on ``screen`` for the length of a ``with``.

    A full screen where it may move, else a line when the verdict changes and every ``interval`` seconds. On the way
    out, an exception included, the screen is as it was before.
    """
    if quiet:
        yield _WatchQuiet(screen)
    elif not screen.moving:
        yield _WatchLines(screen, interval)
    else:
        page = WatchPage(screen)
        with _read_keys() as pressed, _full_screen(page, screen.console):
            page.pressed = pressed
            yield page


class _WatchQuiet(Quiet):
    def show(self, inspection: InspectResult) -> None:
        """Show nothing."""


class _WatchLines(Lines):
    def __init__(self, screen: Screen, interval: float) -> None:
        super().__init__(screen)
        self._interval = interval
        self._written = ("", 0.0)

    def show(self, inspection: InspectResult) -> None:
        if not inspection.observation.snapshots:
            return
        verdict, at = judge_inspection(inspection), inspection.observation.last.at
        code, before = self._written
        if verdict.code == code and at < before + self._interval:
            return
        self._written = (verdict.code, at)
        gauges = "; ".join(_list_gauges(inspection))
        line = f"{format_clock(at)} {f'{verdict.word} {verdict.code}'.strip()}: {verdict.sentence}; {gauges}"
        self.write(line.removesuffix("; "))


class WatchPage:
    """The full screen, drawn from the last inspection at each refresh."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._shown: tuple[InspectResult, dict[float, int]] | None = None
        self.pressed: Callable[[], str] = lambda: ""

    def show(self, inspection: InspectResult) -> None:
        # Counted once, and not at each refresh: a view of large servers holds some 100,000 rows.
        known = self._shown[1] if self._shown is not None else {}
        samples = inspection.observation.samples
        counts = {each.at: known[each.at] if each.at in known else len(each.clients) for each in samples}
        # Both at once: another thread draws.
        self._shown = inspection, counts

    def wants_to_end(self) -> bool:
        return self.pressed().lower() == QUIT

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays free: some terminals wrap a line that fills them all.
        width, height = min(options.max_width - 1, WIDEST), options.size.height
        lines = self.lines(width)
        if len(lines) > height:
            lines = [*lines[: height - 1], Text("... more in the final report")]
        for line in lines:
            line.truncate(width)
            line.no_wrap = True
            yield line

    def lines(self, width: int) -> list[Text]:
        """Return the page for a window of ``width`` columns, however high it is."""
        # Printed into memory by the writer of the final report, so that both look alike, and read back with its colors.
        stream = io.StringIO()
        color: ColorChoice = "never" if self._screen.console.color_system is None else "always"
        screen = replace(open_screen(stream, color, width=width), ascii_only=self._screen.ascii_only)
        self._draw(screen)
        return [Text.from_ansi(line) for line in stream.getvalue().splitlines()]

    def _draw(self, screen: Screen) -> None:
        if self._shown is None:
            screen.print("connecting ...   (q quits)")
            return
        inspection, counts = self._shown
        _print_head(screen, inspection)
        for block in (*build_verdict(inspection), *_list_findings(inspection)):
            print_block(screen, block)
        _print_course(screen, inspection, counts)
        print_report(screen, (list_limits(inspection.diagnosis.limits[:MOST_LIMITS]), *list_connections(inspection)))


def _list_findings(inspection: InspectResult) -> Iterator[Block]:
    """Yield who and what to do about the worst finding, and the summaries of the others."""
    findings = worst_first(inspection.diagnosis.findings)
    if findings and findings[0].code != "healthy":
        who = tuple(Item(name_holder(holder)) for holder in findings[0].holders[:MOST_HOLDERS])
        do = tuple(Item(step) for step in plan_steps(findings[0])[:MOST_STEPS])
        yield Points((Labeled("Who", who), Labeled("Do", do)), margin=5)
    for finding in findings[1:]:
        yield FindingBlock(word_of(finding), finding.severity, neutralize(finding.summary, 300), "", Points(()))


def _print_head(screen: Screen, inspection: InspectResult) -> None:
    observation = inspection.observation
    target = next((source.target for source in observation.sources if source.target), "")
    at = f"  {format_clock(observation.last.at)}" if observation.snapshots else ""
    # The target last: it may be longer than the window, and the way out has to stay in sight.
    head = Text.assemble(("poolctl inspect", "bold"), at, ("  q quits", "bold"), f"  {neutralize(target, 60)}")
    screen.print(head)


def _print_course(screen: Screen, inspection: InspectResult, counts: Mapping[float, int]) -> None:
    """Print connections and waiting clients over time, the newest at the right.

    ``counts``: client backends by the instant of the sample.
    """
    observation, label = inspection.observation, 9
    room = max((screen.width or 80) - label - 22, 8)
    used = [float(counts[sample.at]) for sample in observation.samples]
    facts = observation.server
    if used:
        most = max(*used, float(facts.usable) if facts else 1.0)
        now = format_count(used[-1]) + (f" of {format_count(facts.usable)} usable" if facts else "")
        bars = draw_sparkline(used, room, most, ascii_only=screen.ascii_only)
        screen.print()
        screen.print(Text.assemble((f"{'server':<{label}}", "bold"), (bars, STYLES["open"]), f"  {now}"))
    waiting = [float(count_waiting(snapshot)) for snapshot in observation.snapshots]
    if any(waiting):
        bars = draw_sparkline(waiting, room, max(waiting), ascii_only=screen.ascii_only)
        now = format_count(waiting[-1])
        screen.print(Text.assemble((f"{'waiting':<{label}}", "bold"), (bars, STYLES["waiting"]), f"  {now}"))


def _list_gauges(inspection: InspectResult) -> list[str]:
    """Return the limit that binds and the waiting clients, for a line in a log."""
    bound = next((limit for limit in inspection.diagnosis.limits if limit.binds), None)
    gauges = []
    if bound:
        gauges.append(f"{neutralize(bound.name, 60)}: {format_count(bound.used)} of {format_count(bound.limit)}")
    waiting = count_waiting(inspection.observation.last)
    return [*gauges, f"{format_count(waiting)} waiting"] if waiting else gauges


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
def _read_keys() -> Iterator[Callable[[], str]]:
    """Provide a function that returns the last key pressed, "" for none.

    Keys are neither echoed nor held back until Enter.
    """
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
        # Called between two samples, so it must not wait. The last key counts; an empty read is the end of the input.
        try:
            if not select.select([descriptor], [], [], 0)[0]:
                return ""
            return os.read(descriptor, 32).decode("ascii", "ignore")[-1:] or QUIT
        except OSError:
            return QUIT  # The terminal is gone, and its reader with it.

    # Not raw mode: Ctrl-C must still be a signal, which ends the sampling politely.
    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        # The terminal may be gone by now (a closed window, a lost ssh); then nothing is left to restore.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
