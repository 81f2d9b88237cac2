"""Screens: a stream with what is known about its reader (width, color, encoding).

Decides color (``--color``, NO_COLOR, FORCE_COLOR, TERM=dumb), whether anything may move, and how wide text is.
Into a pipe or file everything has its natural width: nothing is cut or wrapped, one record stays on one line.
"""

import codecs
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from rich.console import Console
from rich.text import Text

from poolctl.report.drawing import Line

ColorChoice = Literal["auto", "always", "never"]

NATURAL_CHART_WIDTH = 100
WIDEST_CHART = 120
NARROW = 60
"""Below this many columns rows become lists."""

MIN_TEXT = 10
"""Columns that wrapped text gets at least, however little the indentation leaves."""

STYLES = {
    "CRITICAL": "bold red",
    "WARNING": "bold yellow",
    "INFO": "bold cyan",
    "OK": "bold green",
    "NO VERDICT": "bold",
    "INCOMPLETE": "bold yellow",
    "title": "bold",
    "in_use": "cyan",
    "open": "blue",
    "server": "magenta",
    "waiting": "yellow",
    "limit": "red",
    "mark": "bold",
}
"""Named colors only: what they look like is the user's own choice, on a light or a dark ground."""

_STAND_INS = str.maketrans("\u00b5\u00d7\u00b7\u2013\u2014\u2026\u201c\u201d\u2018\u2019", "ux---.\"\"''")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:s|ms|\u00b5s|us|min|h|d|%)(?:\W|$))")
_GLUE = "\ue000"
"""Stands for the space between a number and its unit while lines are broken: rich breaks at a no-break space too."""


class _Pipe(Console):
    """A console whose reader may leave early: the command line decides what that means; here it is no failure."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@dataclass(frozen=True, slots=True)
class Screen:
    """A stream to print on. ``natural``: no terminal, so nothing is wrapped. ``ascii_only``: draw without Unicode."""

    console: Console
    natural: bool
    ascii_only: bool
    moving: bool
    """True: a live view may redraw itself."""

    @property
    def width(self) -> int | None:
        """Columns, None where there is no bound."""
        return None if self.natural else self.console.width

    @property
    def narrow(self) -> bool:
        return not self.natural and self.console.width < NARROW

    @property
    def chart_width(self) -> int:
        return NATURAL_CHART_WIDTH if self.natural else min(self.console.width, WIDEST_CHART)

    def print(self, text: Text | str = "") -> None:
        """Print one line, as it is. Markup and emoji codes in it are text like any other."""
        shown = text if isinstance(text, Text) else Text(text)
        # A text that was not neutralized by mistake must still not command the terminal.
        shown.plain = _CONTROL.sub("?", shown.plain)
        shown.rstrip()
        self.console.print(shown, soft_wrap=True)

    def paragraph(self, lead: Text | str, body: Text | str, *, hang: int | None = None) -> None:
        """Print ``lead`` and ``body``, whose further lines are indented by ``hang``; None: by the width of ``lead``."""
        head = lead if isinstance(lead, Text) else Text(lead)
        rest = body if isinstance(body, Text) else Text(body)
        if self.natural:
            self.print(Text.assemble(head, rest))
            return
        indent = head.cell_len if hang is None else hang
        lines = _wrap(self.console, rest, self.console.width - head.cell_len, self.console.width - indent)
        self.print(Text.assemble(head, lines[0]))
        for line in lines[1:]:
            self.print(Text.assemble(" " * indent, line))

    def chart(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self.print(Text.assemble(*((piece.text, STYLES.get(piece.role, "")) for piece in line)))


def open_screen(
    stream: TextIO | None = None,
    color: ColorChoice = "auto",
    *,
    environ: Mapping[str, str] | None = None,
    width: int | None = None,
) -> Screen:
    """Return a screen on ``stream`` (None: standard output), colored as ``color`` and the environment say.

    ``width``: columns to lay out for, as on a terminal of that width; None asks the terminal, and means natural
    width where there is none.
    """
    out = sys.stdout if stream is None else stream
    env = os.environ if environ is None else environ
    terminal = bool(getattr(out, "isatty", lambda: False)())
    dumb = env.get("TERM", "").lower() in ("dumb", "unknown")
    ascii_only = not _is_unicode(out)
    if ascii_only and isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="poolctl.stand-in")
    console = _Pipe(
        file=out,
        # rich takes each dumb terminal for 80 columns wide.
        width=_measure_columns(out) if width is None and terminal and dumb else width,
        color_system=_color_system() if _is_colored(color, env, terminal and not dumb) else None,
        # All of these are given, or rich would read the environment: it takes FORCE_COLOR for a terminal, and would
        # animate into the log of a CI job.
        force_terminal=terminal,
        force_interactive=terminal and not dumb,
        force_jupyter=False,
        no_color=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    return Screen(console, width is None and not terminal, ascii_only, console.is_interactive)


def _wrap(console: Console, text: Text, first: int, others: int) -> list[Text]:
    """Return ``text`` in lines, the first of which may have another width; a number stays with its unit."""
    text = text.copy()
    text.plain = _BEFORE_UNIT.sub(_GLUE, text.plain)
    lines: list[Text] = list(text.wrap(console, max(first, MIN_TEXT)))[:1]
    if lines:
        start = len(lines[0].plain)
        start += len(text.plain[start:]) - len(text.plain[start:].lstrip())
        if start < len(text.plain):
            lines += text[start:].wrap(console, max(others, MIN_TEXT))
    for line in lines:
        line.plain = line.plain.replace(_GLUE, " ")
    return lines or [text]


def _is_colored(color: ColorChoice, env: Mapping[str, str], able: bool) -> bool:
    if color != "auto":
        return color == "always"
    if env.get("NO_COLOR"):
        return False
    return able or bool(env.get("FORCE_COLOR"))


def _color_system() -> Literal["auto", "standard"]:
    # The old Windows console needs rich's own detection; everywhere else 16 colors are enough and always right.
    return "auto" if sys.platform == "win32" else "standard"


def _measure_columns(stream: TextIO) -> int | None:
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def _is_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Return what a stream gets for characters that it cannot write: one for one, so that columns stay straight."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return wrong.translate(_STAND_INS).encode("ascii", "replace").decode(), error.end


codecs.register_error("poolctl.stand-in", _substitute)
