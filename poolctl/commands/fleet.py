"""``poolctl recommend --fleet FILE``: whether everything that connects to one server fits its limits."""

import sys
from pathlib import Path

import click

FOUND = 1


def fleet_answer(file: Path, as_json: bool, outputs: tuple[Path, ...], color: str, fail_on: str | None) -> int:
    """Check ``file``, tell it, and return the exit code. Raises PoolctlError."""
    from poolctl.api.results import FleetResult
    from poolctl.diagnose.finding import reaches
    from poolctl.sizing.fleet import load_fleet
    from poolctl.sizing.fleet_check import check_fleet

    checked = check_fleet(load_fleet(file))
    result = FleetResult(checked)
    if as_json:
        click.echo(result.to_json())
    else:
        from poolctl.report.build import build_report
        from poolctl.report.screen import open_screen
        from poolctl.report.terminal import print_report

        print_report(open_screen(sys.stdout, color), build_report(result))  # type: ignore[arg-type]
    if outputs:
        from poolctl.report.files import write_report

        for path in outputs:
            write_report(path, result)
    return FOUND if fail_on and reaches(checked.findings, fail_on) else 0  # type: ignore[arg-type]
