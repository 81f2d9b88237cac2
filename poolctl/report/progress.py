"""Progress on standard error while poolctl works: a run, many runs, or the sampling of live systems.

Decides how often and in which form: a block that redraws itself on a terminal, plain lines elsewhere, or nothing. What
happens comes from the engines and the sampler; the final report is made elsewhere.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from poolctl.api.progress import RunView, SamplingView
from poolctl.report.blocks import Verdict
from poolctl.report.charts import resample
from poolctl.report.drawing import draw_sparkline
from poolctl.report.screen import STYLES, Screen
from poolctl.safe_text import neutralize
from poolctl.scenario.run import ObservedError, TimelinePoint
from poolctl.units import format_count, format_duration

if TYPE_CHECKING:
    from poolctl.api.results import InspectResult

REFRESHES = 8
"""A second, of a block that redraws itself."""
INTERVAL = 10.0
"""Seconds between plain lines."""
SILENCE = 1.0
"""Seconds of sampling that need no announcement."""
WIDEST = 100
ERRORS_SHOWN = 2


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits that the gauges are measured against. ``duration``: seconds of load; None: until the last request.

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
    interval: float = INTERVAL,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[RunView]:
    """Provide a view of the run called ``name`` on ``screen``, for the length of a ``with``.

    A block that redraws itself where ``screen`` may move, else a line every ``interval`` seconds of the run's
    clock; 0 switches those lines off. ``quiet`` shows nothing, notes excepted. On the way out, an exception
    included, the block is removed and the cursor is visible.
    """
    if quiet:
        yield Quiet(screen)
    elif not screen.moving:
        yield _RunLines(screen, bounds, interval)
    else:
        block = LiveBlock(screen, neutralize(name, 60), bounds, now)
        with _ResizableLive(block, screen.console):
            yield block


@contextmanager
def sampling_view(
    screen: Screen,
    planned: float,
    *,
    quiet: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[SamplingView]:
    """Provide a view for the length of a ``with`` in which live systems are sampled for ``planned`` seconds."""
    if quiet:
        yield Quiet(screen)
    elif not screen.moving:
        lines = Lines(screen)
        if planned > SILENCE:
            lines.write(f"sampling for {format_duration(planned)} ...")
        yield lines
    else:
        block = SamplingBlock(planned, now)
        with _redraw(block, screen.console):
            yield block


@contextmanager
def count_runs(
    screen: Screen,
    done: Callable[[], int],
    total: int,
    *,
    began: float,
    interval: float = INTERVAL,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Show ``done()`` of ``total`` runs for the length of a ``with``; ``began``: on the clock ``now``."""
    count = _Count(screen, done, total, began, now)
    if screen.moving:
        with _redraw(count, screen.console):
            yield
        return
    # The caller waits in native code, so a thread of its own writes the lines.
    is_over = threading.Event()
    thread = threading.Thread(target=_write_counts, args=(count, interval, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class Quiet:
    """Every kind of view, showing nothing but notes."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def phase(self, text: str) -> None:
        """Show nothing."""

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError] = ()) -> None:
        """Show nothing."""

    def so_far(self, result: "InspectResult") -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        self.write(text)

    def wants_to_end(self) -> bool:
        return False

    def write(self, text: str) -> None:
        """Write a line, harmless in a terminal."""
        self._screen.print(neutralize(text, 900))


class Lines(Quiet):
    """Plain lines, for logs: words and numbers in an order that never changes."""

    def phase(self, text: str) -> None:
        self.write(text)

    def so_far(self, result: "InspectResult") -> None:
        verdict = _judge(result)
        self.write(f"so far: {verdict.word} {verdict.sentence}")


class _RunLines(Lines):
    """A line about a run for each interval."""

    def __init__(self, screen: Screen, bounds: Bounds, interval: float) -> None:
        super().__init__(screen)
        self._bounds, self._interval = bounds, interval
        self._next = interval
        self._last = (0.0, 0)
        self._known: set[tuple[str, str | None, str]] = set()

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError] = ()) -> None:
        for error in errors:
            key = (error.kind.origin, error.kind.sqlstate, error.kind.message)
            if key not in self._known:
                self._known.add(key)
                self.write(f"error: {_describe_error(error)}")
        if self._interval <= 0 or point.at < self._next:
            return
        # A run that stalled for several intervals gives one line, not several.
        self._next = point.at - point.at % self._interval + self._interval
        since, before = self._last
        rate = (point.acquired - before) / (point.at - since) if point.at > since else 0.0
        self._last = (point.at, point.acquired)
        self.write(
            f"progress: {point.at:.1f} s, {rate:.1f} acquired/s, open {_format_of(point.open, self._bounds.max_open)}, "
            f"in_use {point.in_use}, idle {point.idle}, waiting {point.waiting}, "
            f"server {_format_of(point.server_connections, self._bounds.usable)}, errors {point.errors}"
        )


class LiveBlock:
    """The live block of a run, drawn from the last numbers at each refresh."""

    def __init__(self, screen: Screen, name: str, bounds: Bounds, now: Callable[[], float]) -> None:
        self._screen, self._name, self._bounds, self._now = screen, name, bounds, now
        self._began = now()
        self._phase = ""
        self._lock = threading.Lock()
        """The engine's thread writes the numbers while rich's thread draws them."""
        self._points: deque[TimelinePoint] = deque(maxlen=6000)
        self._errors: tuple[ObservedError, ...] = ()
        self.drawn: list[int] = []
        """Widths of the lines on the screen."""

    def phase(self, text: str) -> None:
        self._phase, self._began = neutralize(text, 200), self._now()

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError] = ()) -> None:
        # Only stores: the engine must not wait for a slow terminal.
        with self._lock:
            self._points.append(point)
            self._errors = tuple(errors)

    def note(self, text: str) -> None:
        self._screen.print(neutralize(text, 600))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays free: some terminals wrap a line that fills them all.
        width = min(options.max_width, WIDEST) - 1
        # A copy, since the engine goes on writing while the lines are laid out.
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
            *self._gauges(points[-1], width),
            *self._flow(points, width),
            *(Text.assemble((f"{error.count:,} x ", "bold"), _describe_error(error)) for error in recent),
        ]

    def _course(self, width: int, points: Sequence[TimelinePoint]) -> list[Text]:
        """Return how far the run is, and below it the open connections at each moment, against the limit."""
        at, duration, limit = points[-1].at, self._bounds.duration, self._bounds.max_open
        passed = f"  {at:.1f} s" if duration is None else f"  {min(at, duration):.1f} s of {format_duration(duration)}"
        opened = f"  {_format_of(points[-1].open, limit)}"
        name = self._name[: max(width // 3, 4)]
        left = len(name) + 2
        room = max(width - left - max(len(passed), len(opened)), 1)
        span = max(duration or 0.0, at, 1e-9)
        done = min(round(room * at / span), room)
        full, rest = _choose_signs(self._screen)
        values = resample([point.open for point in points], [point.at for point in points], 0.0, span, room)
        bars = draw_sparkline(values, room, float(max(limit, *values)), ascii_only=self._screen.ascii_only)
        return [
            Text.assemble((f"{name:<{left}}", "bold"), (full * done, STYLES["in_use"]), rest * (room - done), passed),
            Text.assemble((f"{'open':<{left}}", "bold"), (f"{bars:<{room}}", STYLES["open"]), opened),
        ]

    def _gauges(self, point: TimelinePoint, width: int) -> list[Text]:
        gauges = [("in use", f"{point.in_use:,}", ""), ("idle", f"{point.idle:,}", "")]
        if point.opening:
            gauges.append(("opening", f"{point.opening:,}", ""))
        gauges.append(("waiting", f"{point.waiting:,}", STYLES["waiting"] if point.waiting else ""))
        if point.server_connections is not None:
            gauges.append(("server", _format_of(point.server_connections, self._bounds.usable), STYLES["server"]))
        return _fill_lines(
            [Text.assemble(f"{name} ", (value, style or "bold")) for name, value, style in gauges], width
        )

    def _flow(self, points: Sequence[TimelinePoint], width: int) -> list[Text]:
        point = points[-1]
        then = next((p for p in reversed(points) if p.at <= point.at - 1.0), points[0])
        rate = (point.acquired - then.acquired) / (point.at - then.at) if point.at > then.at else 0.0
        style = STYLES["CRITICAL"] if point.errors else ""
        acquired = Text(f"acquired {format_count(point.acquired)} ({rate:,.0f}/s now)")
        return _fill_lines([acquired, Text(f"errors {point.errors:,}", style)], width)


class _ResizableLive(Live):
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


class SamplingBlock:
    """The block of a sampling, drawn at each refresh."""

    def __init__(self, planned: float, now: Callable[[], float]) -> None:
        self._planned, self._now, self._began = planned, now, now()
        self._verdict: Verdict | None = None

    def so_far(self, result: "InspectResult") -> None:
        self._verdict = _judge(result)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines():
            line.truncate(options.max_width - 1, overflow="ellipsis")
            line.no_wrap = True
            yield line

    def lines(self) -> list[Text]:
        """Return how long the sampling has lasted, and what is certain already."""
        passed = self._now() - self._began
        is_late = passed > self._planned + SILENCE
        goal = f"of {format_duration(self._planned)}" + (", waiting for an answer" if is_late else "")
        lines = [Text(f"sampling ... {passed:.1f} s {goal}   (Ctrl-C: stop and report)")]
        if self._verdict is not None:
            word = self._verdict.word
            lines.append(Text.assemble((f"{word}  ", STYLES[word]), neutralize(self._verdict.sentence, 600)))
        return lines


class _Count:
    """How many of many runs are done, on one line."""

    def __init__(
        self, screen: Screen, done: Callable[[], int], total: int, began: float, now: Callable[[], float]
    ) -> None:
        self._screen, self._done, self._total, self._began, self._now = screen, done, total, began, now

    def write(self) -> None:
        self._screen.print(f"progress: {self._text()}")

    def _text(self) -> str:
        passed = format_duration(round(self._now() - self._began, 1))
        return f"{format_count(self._done())} of {format_count(self._total)} runs after {passed}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays free: some terminals wrap a line that fills them all.
        text = self._text()
        room = max(min(options.max_width, 80) - len(text) - 3, 0)
        full, rest = _choose_signs(self._screen)
        part = round(room * self._done() / max(self._total, 1))
        line = Text.assemble((full * part, STYLES["in_use"]), rest * (room - part), "  ", text)
        line.no_wrap = True
        line.truncate(options.max_width - 1)
        yield line


def _judge(result: "InspectResult") -> Verdict:
    # Imported here: a simulation shows progress, too, and needs none of it.
    from poolctl.report.inspection import judge_inspection

    return judge_inspection(result)


def _write_counts(count: _Count, interval: float, is_over: threading.Event) -> None:
    count.write()
    while not is_over.wait(interval):
        count.write()


def _redraw(block: SamplingBlock | _Count, console: Console) -> Live:
    """Return a display of the block that is gone in the end."""
    return Live(
        block,
        console=console,
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _fill_lines(parts: Sequence[Text], width: int) -> list[Text]:
    """Put ``parts`` one after the other, into as many lines as they need."""
    lines = [Text()]
    for part in parts:
        if lines[-1] and len(lines[-1]) + 3 + len(part) > width:
            lines.append(Text())
        lines[-1].append("   " if lines[-1] else "").append_text(part)
    return lines


def _choose_signs(screen: Screen) -> tuple[str, str]:
    return ("#", "-") if screen.ascii_only else ("━", "╌")


def _describe_error(error: ObservedError) -> str:
    code = f" {neutralize(error.kind.sqlstate, 10)}" if error.kind.sqlstate else ""
    text = neutralize(error.kind.message or error.kind.name)
    return f"{neutralize(error.kind.origin, 20)}{code}: {text} (first at {format_duration(error.first_at)})"


def _format_of(value: int | None, bound: int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,} of {bound:,}" if bound else f"{value:,}"
