"""``poolctl recommend --fleet FILE``: whether everything that connects to one server fits its limits."""

import sys
from pathlib import Path

import click

FOUND = 1


def fleet_answer(file: Path, as_json: bool, outputs: tuple[Path, ...], color: str, fail_on: str | None) -> int:
    """Check ``file``, tell it, and return the exit code. Raises PoolctlError."""
    from poolctl.diagnose.finding import reaches
    from poolctl.sizing.fleet import load_fleet
    from poolctl.sizing.fleet_check import check_fleet

    checked = check_fleet(load_fleet(file))
    if as_json:
        from poolctl.api.results import FleetResult

        click.echo(FleetResult(checked).to_json())
    else:
        from poolctl.report.fleet import print_fleet
        from poolctl.report.screen import open_screen

        print_fleet(open_screen(sys.stdout, color), checked)  # type: ignore[arg-type]
    if outputs:
        from poolctl.report.recommendation_files import write_fleet

        for path in outputs:
            write_fleet(path, checked)
    return FOUND if fail_on and reaches(checked.findings, fail_on) else 0  # type: ignore[arg-type]
