"""Options that mean the same in every command, and are spelled the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from poolctl.report.files import OUTPUT_HELP
from poolctl.units import parse_duration

Command = TypeVar("Command", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A duration with a unit, as float seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def output_options(name: str) -> Callable[[Command], Command]:
    """Add --json, --output, --color, --quiet and --fail-on to the command called ``name``."""

    def add(command: Command) -> Command:
        for option in reversed(_output_options(name)):
            command = option(command)
        return command

    return add


def _output_options(name: str) -> tuple[Callable[[Command], Command], ...]:
    return (
        click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output."),
        click.option(
            "--output",
            "outputs",
            type=click.Path(dir_okay=False, path_type=Path),
            multiple=True,
            metavar="FILE",
            help=f"{OUTPUT_HELP[name]} May be repeated.",
        ),
        click.option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="NO_COLOR is heeded by auto.",
        ),
        click.option("--quiet", is_flag=True, help="No progress on standard error."),
        click.option(
            "--fail-on",
            type=click.Choice(["warning", "critical"]),
            help="Exit with 1 when a finding is at or above it.",
        ),
    )
