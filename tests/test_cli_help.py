"""What --help prints: options in groups, on a terminal of 80 columns, as a reviewer reads it."""

from typing import Any

import click
import pytest
from click.testing import CliRunner
from report_parts import check_screen

from poolctl.api.figures import RULES, read_figures
from poolctl.cli import poolctl
from poolctl.commands.figure_options import FIGURES
from poolctl.commands.options import GroupedCommand, GroupedOption
from poolctl.errors import BadInput

COMMANDS = sorted(poolctl.commands)


def help_of(*words: str) -> str:
    done = CliRunner().invoke(poolctl, [*words, "--help"], terminal_width=80, prog_name="poolctl")
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_at_80_columns_is_as_reviewed(command: str) -> None:
    text = help_of(*filter(None, [command]))

    check_screen(f"help_{command or 'poolctl'}", text)
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_has_a_group(command: str) -> None:
    found = poolctl.commands[command]
    assert isinstance(found, GroupedCommand)
    options = [parameter for parameter in found.params if isinstance(parameter, click.Option)]

    assert [option.name for option in options if not isinstance(option, GroupedOption)] == []


def test_options_of_the_same_name_have_the_same_group_in_every_command() -> None:
    groups: dict[str, set[str]] = {}
    for command in poolctl.commands.values():
        for option in command.params:
            if isinstance(option, GroupedOption):
                groups.setdefault(option.opts[-1], set()).add(option.group)

    assert groups["--host"] == {"Connection"}
    assert groups["--json"] == groups["--output"] == groups["--fail-on"] == {"Output"}


def test_every_figure_of_the_api_is_an_option() -> None:
    listed = [name for rows in FIGURES.values() for name, _, _ in rows]

    assert sorted(listed) == sorted(RULES)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", ["0", "1", "0.5", "2000000000"])
def test_an_option_accepts_a_value_just_if_the_api_does(name: str, value: str) -> None:
    """What a type of the command line refuses, ``read_figures`` refuses too, and the other way round."""
    kind: Any = next(kind for rows in FIGURES.values() for each, kind, _ in rows if each == name)

    try:
        kind.convert(value, None, None)
    except click.BadParameter:
        with pytest.raises(BadInput, match=name):
            read_figures({name: float(value)})
    else:
        assert getattr(read_figures({name: float(value)}), name).value == float(value)
