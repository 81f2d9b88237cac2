"""The answer of ``simulate``: on standard output, into the files of --output, and as the exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from poolctl.api.results import Batch, Variant
    from poolctl.diagnose.finding import Finding

FOUND, FAILED, INTERRUPTED = 1, 3, 130


def tell_runs(variants: "Sequence[Variant]", *, compared: bool, as_json: bool, color: str, repeat: str) -> None:
    """One run, or several beside each other, on standard output."""
    from poolctl.api.results import SimulateResult

    first = variants[0]
    if as_json:
        click.echo(SimulateResult("live", tuple(variants), is_comparison=compared).to_json())
        return
    from poolctl.report.comparison import print_comparison
    from poolctl.report.screen import open_screen
    from poolctl.report.simulation import print_simulation

    screen = open_screen(sys.stdout, color)  # type: ignore[arg-type]
    if compared:
        print_comparison(screen, variants, repeat=repeat)
    else:
        print_simulation(screen, first.run, first.findings, repeat=repeat)


def tell_both(variants: "Sequence[Variant]", *, as_json: bool, color: str, repeat: str) -> None:
    """The live run, and the model's beside it when there was time for one."""
    from poolctl.api.results import SimulateResult

    live, model = variants[0], variants[1] if len(variants) > 1 else None
    if as_json:
        click.echo(SimulateResult("both", tuple(variants)).to_json())
        return
    from poolctl.report.both import print_both
    from poolctl.report.screen import open_screen
    from poolctl.report.simulation import print_simulation

    screen = open_screen(sys.stdout, color)  # type: ignore[arg-type]
    if model is None:
        print_simulation(screen, live.run, live.findings, repeat=repeat)
    else:
        print_both(screen, live, model, repeat=repeat)


def tell_batch(batch: "Batch", *, as_json: bool, color: str, repeat: str) -> None:
    """A sweep, or replications."""
    if as_json:
        click.echo(batch.to_json())
        return
    from poolctl.report.replications import print_replications
    from poolctl.report.screen import open_screen
    from poolctl.report.sweep import print_sweep

    show = print_sweep if batch.axes else print_replications
    show(open_screen(sys.stdout, color), batch, repeat=repeat)  # type: ignore[arg-type]


def write_runs(
    paths: Sequence[Path], variants: "Sequence[Variant]", *, engine: str, compared: bool, repeat: str
) -> None:
    """Write every file of --output. Raises CannotDo."""
    from poolctl.report.files import write_both, write_output

    for path in paths:
        if engine == "both":
            write_both(path, variants, repeat=repeat)
        else:
            write_output(path, variants, compared=compared, repeat=repeat)


def exit_code(variants: "Sequence[Variant]", interrupted: bool, fail_on: str | None) -> int:
    if interrupted:
        return INTERRUPTED
    failures = [variant.run.failure for variant in variants if variant.run.failure]
    if failures:
        click.echo(f"poolctl: {failures[0]}", err=True)
        return FAILED
    return _found([variant.findings for variant in variants], fail_on)


def batch_exit_code(batch: "Batch", fail_on: str | None) -> int:
    """A run of a batch that was cut off is an answer like any other; one that was lost is none."""
    if batch.interrupted:
        return INTERRUPTED
    if batch.losses:
        click.echo(f"poolctl: {len(batch.losses)} of {batch.planned} runs were lost: {batch.losses[0]}", err=True)
        return FAILED
    return _found([point.outcome.findings for point in batch.points], fail_on)


def _found(found: "Sequence[Sequence[Finding]]", fail_on: str | None) -> int:
    from poolctl.diagnose.finding import reaches

    return FOUND if fail_on and any(reaches(findings, fail_on) for findings in found) else 0  # type: ignore[arg-type]
