"""Shows a run while it goes on, on standard error: a live block on a terminal, plain lines elsewhere, or nothing.

Decides how often and in which form; what happened is told by the engine. The final report is not made here.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from poolctl.report.charts import resample, sparkline
from poolctl.report.screen import STYLES, Screen
from poolctl.safe_text import neutralize
from poolctl.scenario.run import ObservedError, TimelinePoint
from poolctl.units import format_count, format_duration

REFRESHES = 8
"""A second, of the live block."""
WIDEST = 100
ERRORS_SHOWN = 2


class View(Protocol):
    """What an engine tells while it works. Every call returns at once and never raises for its content."""

    def phase(self, text: str) -> None:
        """What is going on now, before there are numbers: "starting PostgreSQL 18"."""

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError] = ()) -> None:
        """The newest row of the timeline, and every kind of error seen so far."""

    def note(self, text: str) -> None:
        """Something worth keeping: it stays on the screen above the live block."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the gauges are measured against. ``duration``: seconds of load; None: until the requests are done.

    ``max_open``: of the whole fleet, 0 is unlimited. ``usable``: of the server, None when it is not known.
    """

    duration: float | None = None
    max_open: int = 0
    usable: int | None = None


@contextmanager
def live_view(
    screen: Screen,
    name: str,
    bounds: Bounds,
    *,
    quiet: bool = False,
    interval: float = 10.0,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[View]:
    """A view of the run called ``name`` on ``screen``, for the length of a ``with``.

    A block that redraws itself where ``screen`` may move, else a line every ``interval`` seconds of the run's
    clock; 0 switches those lines off. ``quiet`` shows nothing, notes excepted. On the way out, an exception
    included, the block is removed and the cursor is visible.
    """
    if quiet:
        yield _Silence(screen)
    elif not screen.moving:
        yield _Lines(screen, bounds, interval)
    else:
        block = LiveBlock(screen, neutralize(name, 60), bounds, now)
        with _Live(block, screen.console):
            yield block


class _Silence:
    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def phase(self, text: str) -> None:
        """Nothing is shown."""

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError] = ()) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        self._screen.print(neutralize(text, 600))


class _Lines:
    """One line for each interval, for logs: words and numbers in an order that never changes."""

    def __init__(self, screen: Screen, bounds: Bounds, interval: float) -> None:
        self._screen, self._bounds, self._interval = screen, bounds, interval
        self._next = interval
        self._last = (0.0, 0)
        self._known: set[tuple[str, str | None, str]] = set()

    def phase(self, text: str) -> None:
        self._screen.print(neutralize(text, 600))

    note = phase

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError] = ()) -> None:
        for error in errors:
            key = (error.kind.origin, error.kind.sqlstate, error.kind.message)
            if key not in self._known:
                self._known.add(key)
                self._screen.print(f"error: {_told(error)}")
        if self._interval <= 0 or point.at < self._next:
            return
        # A run that stalled for several intervals gives one line, not several.
        self._next = point.at - point.at % self._interval + self._interval
        since, before = self._last
        rate = (point.acquired - before) / (point.at - since) if point.at > since else 0.0
        self._last = (point.at, point.acquired)
        self._screen.print(
            f"progress: {point.at:.1f} s, {rate:.1f} acquired/s, open {_of(point.open, self._bounds.max_open)}, "
            f"in_use {point.in_use}, idle {point.idle}, waiting {point.waiting}, "
            f"server {_of(point.server_connections, self._bounds.usable)}, errors {point.errors}"
        )


class LiveBlock:
    """The live block, drawn anew from the last numbers at each refresh."""

    def __init__(self, screen: Screen, name: str, bounds: Bounds, now: Callable[[], float]) -> None:
        self._screen, self._name, self._bounds, self._now = screen, name, bounds, now
        self._began = now()
        self._phase = ""
        self._lock = threading.Lock()
        """The block is drawn by rich's thread and told by the engine's."""
        self._points: deque[TimelinePoint] = deque(maxlen=6000)
        self._errors: tuple[ObservedError, ...] = ()
        self.drawn: list[int] = []
        """Widths of the lines on the screen."""

    def phase(self, text: str) -> None:
        self._phase, self._began = neutralize(text, 200), self._now()

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError] = ()) -> None:
        with self._lock:
            self._points.append(point)
            self._errors = tuple(errors)

    def note(self, text: str) -> None:
        self._screen.print(neutralize(text, 600))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays free: some terminals wrap a line that fills them all.
        width = min(options.max_width, WIDEST) - 1
        with self._lock:
            points, errors = list(self._points), self._errors
        lines = self._lines(width, points, errors) if points else [self._waiting()]
        for line in lines:
            line.truncate(width)
            line.no_wrap = True
            yield line
        self.drawn = [line.cell_len for line in lines]

    def _waiting(self) -> Text:
        passed = format_duration(round(self._now() - self._began, 1))
        return Text.assemble((self._name, "bold"), f"  {self._phase or 'starting'} ... {passed}")

    def _lines(self, width: int, points: Sequence[TimelinePoint], errors: Sequence[ObservedError]) -> list[Text]:
        recent = sorted(errors, key=lambda error: -error.first_at)[:ERRORS_SHOWN]
        return [
            *self._course(width, points),
            self._gauges(points[-1], width),
            self._flow(points),
            *(Text.assemble((f"{error.count:,} x ", "bold"), _told(error)) for error in recent),
        ]

    def _course(self, width: int, points: Sequence[TimelinePoint]) -> list[Text]:
        """How far the run is, and below it the open connections at each moment, against the limit."""
        at, duration, limit = points[-1].at, self._bounds.duration, self._bounds.max_open
        passed = f"  {at:.1f} s" if duration is None else f"  {min(at, duration):.1f} s of {format_duration(duration)}"
        opened = f"  {_of(points[-1].open, limit)}"
        name = self._name[: max(width // 3, 4)]
        left = len(name) + 2
        room = max(width - left - max(len(passed), len(opened)), 1)
        span = max(duration or 0.0, at, 1e-9)
        done = min(round(room * at / span), room)
        full, rest = ("#", "-") if self._screen.ascii_only else ("━", "╌")
        values = resample([point.open for point in points], [point.at for point in points], 0.0, span, room)
        bars = sparkline(values, room, float(max(limit, *values)), ascii_only=self._screen.ascii_only)
        return [
            Text.assemble((f"{name:<{left}}", "bold"), (full * done, STYLES["in_use"]), rest * (room - done), passed),
            Text.assemble((f"{'open':<{left}}", "bold"), (f"{bars:<{room}}", STYLES["open"]), opened),
        ]

    def _gauges(self, point: TimelinePoint, width: int) -> Text:
        gauges = [("in use", f"{point.in_use:,}", ""), ("idle", f"{point.idle:,}", "")]
        if point.opening:
            gauges.append(("opening", f"{point.opening:,}", ""))
        gauges.append(("waiting", f"{point.waiting:,}", STYLES["waiting"] if point.waiting else ""))
        if point.server_connections is not None:
            gauges.append(("server", _of(point.server_connections, self._bounds.usable), STYLES["server"]))
        gap = "   " if width >= 60 else " "
        line = Text()
        for name, value, style in gauges:
            line.append(f"{gap if line else ''}{name} ")
            line.append(value, style=style or "bold")
        return line

    def _flow(self, points: Sequence[TimelinePoint]) -> Text:
        point = points[-1]
        then = next((p for p in reversed(points) if p.at <= point.at - 1.0), points[0])
        rate = (point.acquired - then.acquired) / (point.at - then.at) if point.at > then.at else 0.0
        style = STYLES["CRITICAL"] if point.errors else ""
        return Text.assemble(
            f"acquired {format_count(point.acquired)} ({rate:,.0f}/s now)   ", (f"errors {point.errors:,}", style)
        )


class _Live(Live):
    """A live display that also cleans up after the window became narrower.

    The terminal then breaks the lines that are already there into more rows than were printed, which rich does
    not count: their upper rows would stay on the screen for good.
    """

    def __init__(self, block: LiveBlock, console: Console) -> None:
        super().__init__(
            block,
            console=console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._block = block
        self._width = console.width

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        processed = super().process_renderables(renderables)
        width, self._width = self._width, self.console.width
        if 0 < self._width < width:
            rows = sum(max(0, -(-drawn // self._width) - 1) for drawn in self._block.drawn)
            processed.insert(1, Control(*[(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * rows))
        return processed


def _told(error: ObservedError) -> str:
    code = f" {neutralize(error.kind.sqlstate, 10)}" if error.kind.sqlstate else ""
    text = neutralize(error.kind.message or error.kind.name)
    return f"{neutralize(error.kind.origin, 20)}{code}: {text} (first at {format_duration(error.first_at)})"


def _of(value: int | None, bound: int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,} of {bound:,}" if bound else f"{value:,}"
