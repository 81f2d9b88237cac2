"""Progress of a command on standard error, and the question before backends are ended.

Decides which view follows which work. Leaves what a view shows to ``report``.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import click

from poolctl.api.progress import Progress, RunView, SamplingView, WatchView
from poolctl.commands.interrupts import Interrupts
from poolctl.commands.streams import print_message
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration, plural

if TYPE_CHECKING:
    from pathlib import Path

    from poolctl.api.results import InspectResult
    from poolctl.commands.exposition import Exposition
    from poolctl.commands.hooks import Hook
    from poolctl.diagnose.live.events import FindingEvent
    from poolctl.engines.pgbench import BenchWindow
    from poolctl.report.screen import Screen
    from poolctl.scenario.scenario import Scenario


READING_EVERY = 1.0
"""Seconds between two words on how far a file is read: one that takes less is not worth one."""


@dataclass(slots=True)
class _FileProgress:
    """A file that is being read; ``began`` and ``shown``: on the monotonic clock."""

    name: str
    began: float
    shown: float
    is_open: bool = False
    """A line of the terminal is not ended."""


class ScreenProgress(Progress):
    """Shows progress on standard error. ``show_report``: prints a result before a question about it. ``hook``: runs for
    each event of a service; ``exposition``: gets each result of a live view."""

    def __init__(
        self,
        color: str,
        quiet: bool,
        interrupts: Interrupts,
        show_report: "Callable[[InspectResult], None]" = lambda _: None,
        hook: "Hook | None" = None,
        exposition: "Exposition | None" = None,
    ) -> None:
        self._hook, self._exposition = hook, exposition
        self._color, self._quiet, self._interrupts, self._show_report = color, quiet, interrupts, show_report
        self._reading: _FileProgress | None = None

    @cached_property
    def _screen(self) -> "Screen":
        # Imported with the first view: rich takes as long as a short model run.
        from poolctl.report.screen import open_screen

        return open_screen(sys.stderr, self._color)  # type: ignore[arg-type]

    def warn(self, text: str) -> None:
        """Print a warning."""
        print_message(text)

    def note(self, text: str) -> None:
        """Print a sentence."""
        print_message(text, start="")

    def show_wait(self, text: str) -> None:
        """Print what the work waits for."""
        if not self._quiet:
            print_message(text, start="")

    def show_reading(self, name: str, lines: int, done: int, size: int | None) -> None:
        """Show how far a large file is read, and how long it will take: once a second, and on a terminal in place."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._reading is None or self._reading.name != name:
            self._reading = _FileProgress(name, now, now)
        reading = self._reading
        if now - reading.shown < READING_EVERY:
            return
        reading.shown = now
        left = ""
        if size and 0 < done < size:
            seconds = (now - reading.began) * (size - done) / done
            left = f", {done * 100 // size} %, about {format_duration(round(seconds) or 1)} left"
        text = f"reading {neutralize(name, 60)}: {format_count(lines)} lines{left}"
        if not sys.stderr.isatty():
            click.echo(text, err=True)
        else:
            # Back to the beginning of the line, and erase what is left of the last one.
            click.echo(f"\r{text}\x1b[K", err=True, nl=False)
            reading.is_open = True

    def end_reading(self) -> None:
        """Clear the line that shows how far a file is read."""
        if self._reading is not None and self._reading.is_open:
            click.echo("\r\x1b[K", err=True, nl=False)
        self._reading = None

    def show_run(self, name: str, scenario: "Scenario | None") -> AbstractContextManager[RunView]:
        """Show a live run, against the limits of its scenario."""
        from poolctl.report.progress import Bounds, live_view

        bounds = Bounds()
        if scenario is not None:
            database = scenario.database
            bounds = Bounds(
                scenario.load.duration,
                scenario.pool.max_open * scenario.load.instances,
                database.max_connections - database.reserved,
            )
        return live_view(self._screen, name, bounds, quiet=self._quiet)

    @contextmanager
    def show_model_run(self, name: str) -> Iterator[None]:
        """Show that a model run is at work."""
        if self._quiet:
            yield
            return
        from poolctl.report.progress import Bounds, live_view

        with live_view(self._screen, name, Bounds()) as view:
            view.phase("simulating in virtual time")
            yield

    def show_batch(self, done: Callable[[], int], total: int, began: float) -> AbstractContextManager[object]:
        """Show how many runs are done."""
        if self._quiet:
            return nullcontext()
        from poolctl.report.progress import count_runs

        return count_runs(self._screen, done, total, began=began)

    def show_sampling(self, planned: float) -> AbstractContextManager[SamplingView]:
        """Show how long sampling takes."""
        from poolctl.report.progress import sampling_view

        return sampling_view(self._screen, planned, quiet=self._quiet)

    @contextmanager
    def show_watch(self) -> Iterator[WatchView]:
        """Show a live view."""
        from poolctl.report.watching import watch_view

        with watch_view(self._screen, quiet=self._quiet) as view:
            if self._exposition is None:
                yield view
            else:
                with self._exposition.follow(view) as followed:
                    yield followed

    def report_finding(self, event: "FindingEvent", recording: "Path | None") -> None:
        """Print one line of JSON on standard output, and run the command of ``--exec``."""
        import json

        from poolctl.api.documents import event_document

        line = json.dumps(event_document(event, recording), ensure_ascii=True)
        click.echo(line)
        if self._hook is not None:
            arguments = (event.kind, event.finding.code, event.finding.severity, str(recording or ""))
            self._hook(arguments, line + "\n")

    def show_window(self, window: "BenchWindow", passed: float) -> None:
        """Print a line for each window of a sweep."""
        if self._quiet:
            return
        rate = format_count(round(window.throughput, 1))
        connections, time = format_count(window.connections), format_duration(round(passed))
        self._screen.print(f"sweep: {connections} connections: {rate}/s (after {time})")

    def show_plan(self, result: "InspectResult") -> None:
        """Print the report, for a reader who is about to answer a question."""
        self._show_report(result)

    def confirm_relief(self, result: "InspectResult") -> bool:
        """Ask once, on the terminal."""
        assert result.relief is not None
        cancels = sum(step.action == "cancel" for step in result.relief.steps)
        backends = len(result.relief.steps) - cancels
        what = [f"end {backends} backends"] if backends else []
        what += [f"cancel {plural(cancels, 'statement')}"] if cancels else []
        question = f"{' and '.join(what).capitalize()} now? Their uncommitted changes are rolled back"
        if click.confirm(question, err=True):
            return True
        click.echo("no backend was ended", err=True)
        return False

    def finish(self) -> None:
        """Let the next Ctrl-C be immediate."""
        self._interrupts.end_polling()
