"""The tables of options in docs/, made from the commands themselves.

python docs/options.py    writes them between <!-- options: COMMAND --> and <!-- end --> of each page
"""

import re
from pathlib import Path

import click

from poolctl.cli import poolctl
from poolctl.commands.options import GroupedCommand

FOLDER = Path(__file__).parent
SECTION = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(command: GroupedCommand) -> str:
    """Return the options of a command as one Markdown table for each group."""
    context = click.Context(command, info_name=command.name)
    parts = []
    for group, rows in command.option_groups(context).items():
        lines = [f"**{group}**", "", "| Option | What it does |", "| --- | --- |"]
        lines += [f"| `{_escape(option)}` | {_escape(text)} |" for option, text in rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def page(text: str) -> str:
    """Return the text of a page with its tables as they are now."""

    def fill(found: re.Match[str]) -> str:
        command = poolctl.commands[found[2]]
        assert isinstance(command, GroupedCommand), f"{found[2]} has no groups of options"
        return f"{found[1]}\n{table(command)}\n{found[3]}"

    return SECTION.sub(fill, text)


def _escape(text: str) -> str:
    # A bar would end the cell, also within a code span.
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    for file in sorted(FOLDER.glob("*.md")):
        before = file.read_text(encoding="utf-8")
        if (after := page(before)) != before:
            file.write_text(after, encoding="utf-8")
