"""The answer of ``simulate``: on standard output, into the files of --output, and as the exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from poolctl.api.results import Batch, SimulateResult, Variant
    from poolctl.diagnose.finding import Finding

FOUND, FAILED, INTERRUPTED = 1, 3, 130


def tell_result(result: "SimulateResult", *, as_json: bool, color: str, repeat: str) -> None:
    """Print the report, or the document, on standard output."""
    if as_json:
        click.echo(result.to_json())
        return
    from poolctl.report.build import build_report
    from poolctl.report.screen import open_screen
    from poolctl.report.terminal import print_report

    print_report(open_screen(sys.stdout, color), build_report(result, repeat=repeat))  # type: ignore[arg-type]


def write_result(paths: Sequence[Path], result: "SimulateResult", *, repeat: str) -> None:
    """Write every file of --output. Raises CannotDo."""
    from poolctl.report.files import write_report

    for path in paths:
        write_report(path, result, repeat=repeat)


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
