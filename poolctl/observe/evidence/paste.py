"""What terminals, mail and chat programs do to a paste, undone, so that the readers meet the text as it was printed.

Decides which characters and lines were added on the way. Nothing is guessed back that was lost: a cell that was cut
off is left to ``tables``, which says so.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][0-9A-B]|[=>78cDEHMNOPVWXZ])")
"""Colors, movements of the cursor and window titles."""
_SPACES = {ord(mark): " " for mark in "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"} | {
    ord(mark): None for mark in "\u200b\u200c\u2060\ufeff"
}
_QUOTE = re.compile(r"^\s{0,3}(?:> ?)+")
_BORDERS = ("│", "┃", "▌", "▏")
_OF_PAGER = re.compile(r"^\s*(?:--\s?More\s?--.*|\(END\)|lines \d+-\d+(?:/\d+ .*)?|:)\s*$")
_FENCE = re.compile(r"^\s*(?:```|~~~)\s*\w*\s*$")
_LONG = "\u2012\u2013\u2014\u2015"
_DASHES = str.maketrans(_LONG, "-" * len(_LONG))
_QUOTES = str.maketrans("\u201c\u201d\u201e", '"' * 3)
_IS_RULER = re.compile(rf"^[\s+|\-{_LONG}]*[{_LONG}][\s+|\-{_LONG}]*$|^-\[ RECORD \d+ \][-+{_LONG}]*$")


def strip_escapes(text: str) -> str:
    """Return ``text`` without a terminal's escapes and without spaces that only look like one."""
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    # Most text is plain ASCII, of which this is known at once.
    return text if text.isascii() else text.translate(_SPACES)


def clean_paste(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Return the lines that were printed, each with its number from 1 in ``lines``.

    Undone are the marks of quoted mail, fences of code, the frame of a terminal's pane, the lines of a pager, dashes
    and quotation marks that a word processor put in place of plain ones, and blank lines between all others.
    """
    if any("\u201d" in line for line in lines) and not any('"' in line for line in lines):
        lines = [line.translate(_QUOTES) for line in lines]
    numbered = list(enumerate(lines, 1))
    filled = [line for line in lines if line.strip()]
    quoted = sum(1 for line in filled if _QUOTE.match(line))
    if quoted > 1 and quoted * 2 > len(filled):
        numbered = [(number, _QUOTE.sub("", line)) for number, line in numbered]
    for border in _BORDERS:
        if len(filled) > 2 and all(line.startswith(border) for line in filled):
            # What another pane shows beside it stands behind the right border, which tables pass over.
            numbered = [(number, line.removeprefix(border).rstrip().removesuffix(border)) for number, line in numbered]
            break
    numbered = [(number, _unfence(line)) for number, line in numbered if not _OF_PAGER.match(line)]
    if _is_spaced_out(lines):
        numbered = [(number, line) for number, line in numbered if line.strip()]
    return numbered


def _unfence(line: str) -> str:
    if "`" in line or "~" in line:
        line = "" if _FENCE.match(line) else line.removeprefix("```").removesuffix("```")
    return line.translate(_DASHES) if _IS_RULER.match(line) else line


def _is_spaced_out(lines: Sequence[str]) -> bool:
    """Return True if a blank line stands between any two others, as some editors and mail programs put it."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    return len(filled) > 3 and all(later - earlier > 1 for earlier, later in pairwise(filled))
