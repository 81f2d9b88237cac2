"""Progress and interruption of a call: what it reports while it works, and what ends it early.

Decides nothing about what progress looks like: every method here does nothing. A program overrides what it wants to
show; poolctl's own command line overrides all of them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from poolctl.api.results import InspectResult
    from poolctl.diagnose.live.events import FindingEvent
    from poolctl.engines.pgbench import BenchWindow
    from poolctl.scenario.run import ObservedError, TimelinePoint
    from poolctl.scenario.scenario import Scenario


class RunView(Protocol):
    """Follows one run. Every method returns at once."""

    def phase(self, text: str) -> None:
        """Show what is going on before there are numbers: "starting PostgreSQL 18"."""

    def update(self, point: "TimelinePoint", errors: "Sequence[ObservedError]" = ()) -> None:
        """Show the newest row of the timeline, and every kind of error observed so far."""

    def note(self, text: str) -> None:
        """Show a sentence that stays visible."""


class SamplingView(Protocol):
    """Follows the sampling of live systems. Every method returns at once."""

    def so_far(self, result: "InspectResult") -> None:
        """Show a result whose verdict is certain before sampling ends."""


class WatchView(Protocol):
    """Follows live systems for as long as a reader wants."""

    def show(self, result: "InspectResult") -> None:
        """Show the newest state."""

    def wants_to_end(self) -> bool:
        """Return True once the reader wants to end the live view."""


class SilentView:
    """Shows nothing: the view of every kind of work until a program has one of its own."""

    def phase(self, text: str) -> None:
        """Show nothing."""

    def update(self, point: "TimelinePoint", errors: "Sequence[ObservedError]" = ()) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def so_far(self, result: "InspectResult") -> None:
        """Show nothing."""

    def show(self, result: "InspectResult") -> None:
        """Show nothing."""

    def wants_to_end(self) -> bool:
        """Return False: there is no reader."""
        return False


class Progress:
    """What a call reports while it works. Override the methods that your program shows.

    A method called ``show_...`` that returns a context manager covers one stretch of work: the view that it yields is
    used until the ``with`` ends, which an exception ends, too.
    """

    def warn(self, text: str) -> None:
        """Report a problem that does not end the work."""

    def note(self, text: str) -> None:
        """Report a sentence about the work."""

    def show_wait(self, text: str) -> None:
        """Report what the work waits for before it begins: the workers of a cluster."""

    def show_reading(self, name: str, lines: int, done: int, size: int | None) -> None:
        """Report how many lines of a file of evidence were read, ``done`` of its ``size`` bytes; None: unknown."""

    def end_reading(self) -> None:
        """Note that every file of evidence is read, or that reading failed."""

    def show_run(self, name: str, scenario: "Scenario | None") -> AbstractContextManager[RunView]:
        """Follow a live run; ``scenario`` None: its limits do not matter to the reader."""
        return nullcontext(SilentView())

    def show_model_run(self, name: str) -> AbstractContextManager[object]:
        """Follow a run in virtual time that takes more than a moment."""
        return nullcontext()

    def show_batch(self, done: Callable[[], int], total: int, began: float) -> AbstractContextManager[object]:
        """Follow many model runs: ``done()`` of ``total``, begun at ``began`` of the monotonic clock."""
        return nullcontext()

    def show_sampling(self, planned: float) -> AbstractContextManager[SamplingView]:
        """Follow sampling for ``planned`` seconds."""
        return nullcontext(SilentView())

    def show_watch(self) -> AbstractContextManager[WatchView]:
        """Follow live systems until the reader wants to end."""
        return nullcontext(SilentView())

    def report_finding(self, event: "FindingEvent", recording: "Path | None") -> None:
        """Report that a finding began, got worse or ended; ``recording``: what is kept of it, None without a folder."""

    def show_window(self, window: "BenchWindow", passed: float) -> None:
        """Report one window of a sweep, ``passed`` seconds after the sweep began."""

    def show_plan(self, result: "InspectResult") -> None:
        """Show a result with a relief plan, before anything of the plan is carried out."""

    def confirm_relief(self, result: "InspectResult") -> bool:
        """Return True to end the backends of ``result.relief``. Here: never."""
        return False

    def finish(self) -> None:
        """Note that the work which ``stop`` can end politely is over.

        ``stop`` is not called any more until the next such work begins.
        """


def never() -> bool:
    """Return False: nothing asks the work to stop."""
    return False


class Interruption:
    """Calls ``stop`` for one stretch of work, and remembers whether it ever returned True."""

    def __init__(self, stop: Callable[[], bool], progress: Progress) -> None:
        self.was_requested = False
        self._stop, self._progress = stop, progress

    def __call__(self) -> bool:
        # A request stays one: what polls later must not go on after what polled earlier has stopped.
        self.was_requested = self.was_requested or self._stop()
        return self.was_requested

    def end(self) -> bool:
        """End the stretch, and return True if a stop was requested, even after the last poll of the engine."""
        requested = self()
        self._progress.finish()
        return requested
