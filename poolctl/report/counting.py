"""Shows on standard error how many of many runs are done: a line that redraws itself, or a plain line now and then."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from poolctl.report.screen import STYLES, Screen
from poolctl.units import format_count, format_duration

REFRESHES = 8
"""A second, of the line that redraws itself."""
INTERVAL = 10.0
"""Seconds between plain lines."""


@contextmanager
def counting(
    screen: Screen,
    done: Callable[[], int],
    total: int,
    *,
    began: float,
    interval: float = INTERVAL,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Show ``done()`` of ``total`` for the length of a ``with``; ``began``: on the clock ``now``."""
    count = _Count(screen, done, total, began, now)
    if screen.moving:
        live = Live(
            count,
            console=screen.console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live:
            yield
        return
    is_over = threading.Event()
    thread = threading.Thread(target=_tell, args=(count, interval, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class _Count:
    def __init__(
        self, screen: Screen, done: Callable[[], int], total: int, began: float, now: Callable[[], float]
    ) -> None:
        self._screen, self._done, self._total, self._began, self._now = screen, done, total, began, now

    def tell(self) -> None:
        self._screen.print(f"progress: {self._text()}")

    def _text(self) -> str:
        passed = format_duration(round(self._now() - self._began, 1))
        return f"{format_count(self._done())} of {format_count(self._total)} runs after {passed}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays free: some terminals wrap a line that fills them all.
        text = self._text()
        room = max(min(options.max_width, 80) - len(text) - 3, 0)
        full, rest = ("#", "-") if self._screen.ascii_only else ("━", "╌")
        part = round(room * self._done() / max(self._total, 1))
        line = Text.assemble((full * part, STYLES["in_use"]), rest * (room - part), "  ", text)
        line.no_wrap = True
        line.truncate(options.max_width - 1)
        yield line


def _tell(count: _Count, interval: float, is_over: threading.Event) -> None:
    count.tell()
    while not is_over.wait(interval):
        count.tell()
