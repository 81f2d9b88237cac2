"""Runs sweeps and replications: many model runs on all cores, of which the numbers and findings are kept."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import click

from poolctl.commands.asked import SimulateRequest, read_replications, read_sweep
from poolctl.commands.interrupts import Interrupts, catch_interrupts
from poolctl.commands.runs import SILENCE

if TYPE_CHECKING:
    from poolctl.api.results import Batch, RunOutcome
    from poolctl.scenario.run import Run
    from poolctl.scenario.scenario import Scenario
    from poolctl.scenario.sweep import Axis


def run_batch(asked: SimulateRequest, color: str, quiet: bool) -> "Batch":
    """Run what was asked for. What is done when the user has enough is in the batch, which then says so."""
    axes: tuple[Axis, ...] = ()
    if asked.sweeps:
        axes, cells, notes = read_sweep(asked)
        for note in notes:
            click.echo(note, err=True)
        words, scenarios = [cell.words for cell in cells], [cell.scenario for cell in cells]
    else:
        scenarios = read_replications(asked)
        words = [()] * len(scenarios)
    return _run(axes, words, scenarios, asked.interval, color, quiet)


def outcome_of(run: "Run") -> "RunOutcome":
    """What is kept of a run, made in the process that ran it."""
    from poolctl.api.results import RunOutcome
    from poolctl.diagnose.run.diagnose import diagnose_run

    return RunOutcome(run.summary, diagnose_run(run), run.failure, run.kernel)


def _run(
    axes: "tuple[Axis, ...]",
    words: Sequence[tuple[str, ...]],
    scenarios: "Sequence[Scenario]",
    interval: float,
    color: str,
    quiet: bool,
) -> "Batch":
    from poolctl.api.results import Batch, Point, RunOutcome
    from poolctl.engines.batch import run_many

    outcomes: dict[int, RunOutcome] = {}
    losses: list[str] = []
    with catch_interrupts() as interrupts, ExitStack() as stack:
        stop = _Watch(stack, interrupts, len(scenarios), color, quiet)
        with closing(run_many(scenarios, outcome_of, interval=interval, stop=stop)) as results:
            for result in results:
                if result.kept is None:
                    losses.append(result.loss)
                else:
                    outcomes[result.number] = result.kept
                stop.done += 1
        interrupted = interrupts.asked
    points = (
        Point(words[number], scenarios[number].load.seed, outcomes[number])
        for number in range(len(scenarios))
        if number in outcomes
    )
    return Batch(scenarios[0], tuple(points), len(scenarios), axes, interrupted, tuple(losses))


class _Watch:
    """Asked by the engine whether to stop. Shows how far the batch is, once it has taken more than a moment."""

    def __init__(self, stack: ExitStack, interrupts: Interrupts, total: int, color: str, quiet: bool) -> None:
        self.done = 0
        self._stack, self._interrupts, self._total, self._color = stack, interrupts, total, color
        self._began = time.monotonic()
        self._is_told = quiet

    def __call__(self) -> bool:
        if not self._is_told and time.monotonic() - self._began > SILENCE:
            self._is_told = True
            from poolctl.report.progress import count_runs
            from poolctl.report.screen import open_screen

            screen = open_screen(sys.stderr, self._color)  # type: ignore[arg-type]
            self._stack.enter_context(count_runs(screen, lambda: self.done, self._total, began=self._began))
        return self._interrupts()
