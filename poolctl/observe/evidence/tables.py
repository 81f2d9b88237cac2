"""Tables as people paste them: psql's aligned, expanded and unaligned output, CSV, Markdown and JSON rows.

Decides where a table begins and ends in a text and which cell belongs to which column. What the columns mean is left
to ``activity_paste`` and ``consoles``. A table is recognized by at least two column names that they know, so that prose
with bars in it is not taken for one.
"""

import csv
import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_LONGEST = 1 << 20
"""Characters of a line."""
MOST_ROWS = 200_000
"""Rows of one table that are kept; the server that has more has not been built."""

_RULER = re.compile(r"^\s*[+|├┼┌└]?[-─]{2,}(?:[+|┼┬┴][-─:]*)*[-─:+|┤┐┘]*\s*$")
_MARKDOWN_RULER = re.compile(r"^\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*$")
_RECORD = re.compile(r"^\s*[-─*+┌├]*\[ RECORD (\d+) \][-─+┬┼┤┐]*\s*$|^\s*\*+ (\d+)\. row \*+\s*$")
_COUNT = re.compile(r"^\s*\((\d+) \w+\)\s*$")
_BAR = re.compile(r"[|│]")
_STATEMENT = re.compile(r"\bselect\s|;\s*$", re.IGNORECASE)
"""The statement itself, pasted above its answer: it names the columns, too."""
_BLANK_RULER = re.compile(r"^\s*-+(?: +-+)+\s*$")
"""psql with border 0."""
_PIECE_OF_RULER = re.compile(r"^[-+]+$")
_MOST_PIECES = 30
"""Lines that a terminal or a chat program makes of one."""


@dataclass(frozen=True, slots=True)
class PastedTable:
    """Column names in lower case, and rows as text; None is an empty cell. ``line``: where it begins, from 1.

    ``skipped``: lines within it that did not fit its columns.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, str | None], ...]
    line: int
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A table, and how many lines of the text it took, from the line that it was looked for at."""

    table: PastedTable
    lines: int


Knows = Callable[[Sequence[str]], bool]
"""Whether names are columns of a table that some reader understands."""


def find_table(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    """Return the table that begins at ``lines[at]``, or None. ``knows`` decides which headers count."""
    line = lines[at]
    if _RECORD.match(line):
        return _expanded(lines, at, knows)
    if line.lstrip()[:1] in ("{", "["):
        return _json(lines, at, knows)
    if line.lstrip()[:6].lower() == "<table":
        return _html(lines, at, knows)
    following = lines[at + 1] if at + 1 < len(lines) else ""
    if _BAR.search(line) and (_RULER.match(following) or _MARKDOWN_RULER.match(following)):
        return _aligned(lines, at, knows)
    if _RULER.match(line) and _BAR.search(following) and at + 2 < len(lines):
        # border 2: a ruler above the header, too.
        found = _aligned(lines, at + 1, knows)
        return None if found is None else Found(found.table, found.lines + 1)
    if _BLANK_RULER.match(following):
        return _blank_separated(lines, at, knows)
    return (_wrapped(lines, at, knows) if _BAR.search(line) else None) or _separated(lines, at, knows)


def _names(cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(cell.strip().strip('`"*').strip().lower() for cell in cells)


def _cell(text: str) -> str | None:
    stripped = text.strip()
    return stripped if stripped not in ("", "∅", "[null]", "(null)", "NULL", "<null>") else None


def _split(line: str, edges: Sequence[int], count: int) -> list[str] | None:
    """Return the cells of a line, by the ruler's columns where they fit, else by its bars; None for another number.

    ``edges``: the columns of the bars; with a frame the first and the last of them are the frame's. Of a line that was
    cut off, what comes behind the last bar is left out, and every cell behind it is empty.
    """
    has_frame = len(edges) == count + 1
    if len(edges) in (count - 1, count + 1):
        within = [at for at in edges if at < len(line)]
        # psql's older style has a colon in place of one bar where a line goes on, and blanks in place of the others.
        marks = "|│:; " if any(line[at] in ":;" for at in within) else "|│"
        if within and all(line[at] in marks for at in within):
            starts = [at + 1 for at in within] if has_frame else [0, *(at + 1 for at in within)]
            if len(within) == len(edges):
                ends = edges[1:] if has_frame else [*edges, len(line)]
                return [line[start:end] for start, end in zip(starts, ends, strict=False)]
            if len(_BAR.findall(line)) < len(edges):
                whole = [line[start : end - 1] for start, end in pairwise(starts)]
                return whole + [""] * (count - len(whole))
    text = line.strip()
    if text[:1] in ("|", "│") and text[-1:] in ("|", "│") and len(_BAR.findall(text)) > count:
        text = text[1:-1]
    # What has bars of its own is the query, and that is the last column of nearly every paste.
    cells = _BAR.split(text, maxsplit=count - 1) if count > 1 else [text]
    return cells if len(cells) == count else None


def _aligned(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    header, ruler = lines[at], lines[at + 1]
    has_frame = header.lstrip()[:1] in ("|", "│")
    names = _names(_BAR.split(header.strip().strip("|│") if has_frame else header))
    if not knows(names):
        return None
    edges = [column for column, mark in enumerate(ruler) if mark in "+┼├┤"]
    key = names.index("pid") if "pid" in names else -1
    rows: list[list[str]] = []
    skipped: list[int] = []
    wrapped: list[bool] = []
    end = at + 2
    while end < len(lines) and len(rows) < MOST_ROWS:
        line = lines[end]
        end += 1
        if count := _COUNT.match(line):
            # A row that was left out or torn apart may be the one that matters.
            skipped += [end] * max(0, int(count[1]) - len(rows) - len(skipped))
            break
        if _RULER.match(line):
            continue
        if not line.strip():
            # Chat programs put blank lines between rows: the table goes on if the next line has its shape.
            if end < len(lines) and _split(lines[end], edges, len(names)) is not None and _BAR.search(lines[end]):
                continue
            end -= 1
            break
        # psql's older style marks a continued line by a colon or semicolon in place of the bar.
        has_bar = _BAR.search(line) is not None or any(line[at : at + 1] in (":", ";") for at in edges)
        cells = _split(line, edges, len(names)) if has_bar else None
        if cells is None:
            if not has_bar:
                end -= 1
                break
            skipped.append(end)
            continue
        if _names(cells) == names:
            if not lines[end - 2].strip() and _RULER.match("".join(lines[end : end + 1])):
                end -= 1
                break  # the next table, of a psql that prints no "(3 rows)"
            continue  # the header once more, as a pager has it
        is_colon = any(line[at : at + 1] in (":", ";") for at in edges)
        if not is_colon and len(edges) in (len(names) - 1, len(names) + 1) and len(_BAR.findall(line)) < len(edges):
            skipped.append(end)  # it was cut off: what it still has counts
        if rows and (is_colon or _continues(cells, wrapped, key)):
            rows[-1] = [_join(old, new) for old, new in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
        wrapped = [cell.rstrip()[-1:] in ("+", "↵") for cell in cells]
    known = tuple({name: _cell(_unwrap(cell)) for name, cell in zip(names, row, strict=True)} for row in rows)
    return Found(PastedTable(names, known, at + 1, tuple(skipped)), end - at)


def _wrapped(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    """Read an aligned table each of whose lines something broke into several: by the number of its bars.

    The pieces of a line are put together again; where all but its last one have one length, nothing was lost between
    them, else a space.
    """
    end = at
    while end < len(lines) and end - at < _MOST_PIECES and lines[end].strip() and "-+-" not in lines[end]:
        end += 1
    rulers = end
    while rulers < len(lines) and _PIECE_OF_RULER.match(lines[rulers].strip() or "x"):
        rulers += 1
    if rulers == end:
        return None
    widest = max(map(len, lines[at:rulers]))

    def put_together(pieces: Sequence[str]) -> str:
        text, is_cut = "", True
        for piece in pieces:
            is_joined = is_cut or text[-1:].isspace() or piece[:1].isspace()
            text += piece if is_joined else f" {piece}"
            is_cut = len(piece) >= widest
        return text

    header, ruler = put_together(lines[at:end]), "".join(line.strip() for line in lines[end:rulers])
    bars = len(_BAR.findall(header))
    if bars < 1 or bars != ruler.count("+"):
        return None
    rows: list[str] = []
    pieces: list[str] = []
    here = rulers
    while here < len(lines) and lines[here].strip() and not _COUNT.match(lines[here]):
        if sum(len(_BAR.findall(piece)) for piece in pieces) >= bars and _BAR.search(lines[here]):
            rows.append(put_together(pieces))
            pieces = []
        pieces.append(lines[here])
        here += 1
    rows.append(put_together(pieces))
    found = _aligned([header, ruler, *rows], 0, knows)
    if found is None:
        return None
    skipped = (at + 1,) * len(found.table.skipped)
    return Found(PastedTable(found.table.columns, found.table.rows, at + 1, skipped), here - at)


def _blank_separated(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    """Read psql's output without bars (border 0), by the columns of its ruler."""
    spans = [match.span() for match in re.finditer(r"-+", lines[at + 1])]
    names = _names([lines[at][start:end] for start, end in spans])
    if not knows(names):
        return None
    spans[-1] = spans[-1][0], _LONGEST
    rows: list[list[str]] = []
    wrapped: list[bool] = []
    end = at + 2
    while end < len(lines) and lines[end].strip() and not _COUNT.match(lines[end]):
        cells = [lines[end][start:stop] for start, stop in spans]
        if rows and any(wrapped) and all(was or not cell.strip() for cell, was in zip(cells, wrapped, strict=True)):
            rows[-1] = [_join(old, new) for old, new in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
        # The mark of a line that goes on stands behind the column, where the others have a blank.
        wrapped = [
            lines[end][stop : stop + 1] == "+" or cell.rstrip()[-1:] == "+"
            for cell, (_, stop) in zip(cells, spans, strict=True)
        ]
        end += 1
    known = tuple({name: _cell(_unwrap(cell)) for name, cell in zip(names, row, strict=True)} for row in rows)
    return Found(PastedTable(names, known, at + 1), end - at)


def _continues(cells: Sequence[str], wrapped: Sequence[bool], key: int) -> bool:
    """Return True if a line goes on with the row before: cells that psql marked with a plus, and all others blank.

    Where spaces were lost the mark may be, too: then a line without the cell that every row has (``key``, -1 for none)
    goes on.
    """
    if any(wrapped) and all(was or not cell.strip() for cell, was in zip(cells, wrapped, strict=True)):
        return True
    return key >= 0 and not cells[key].strip() and sum(1 for cell in cells if cell.strip()) < 2


def _join(old: str, new: str) -> str:
    return f"{_unwrap(old).rstrip()}\n{new.strip()}" if new.strip() else old


def _unwrap(cell: str) -> str:
    """Return ``cell`` without the mark of a line end, which psql puts behind the padding."""
    text = cell.rstrip()
    return (
        text[:-1] if text.endswith(("+", "↵")) and (text[:-1].endswith(" ") or "\n" in text or cell == text) else cell
    )


def _expanded(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    rows: list[dict[str, str | None]] = []
    columns: dict[str, None] = {}
    skipped: list[int] = []
    last = ""
    end = at
    while end < len(lines):
        line = lines[end]
        if record := _RECORD.match(line):
            number = int(record[1] or record[2])
            if rows and number == 1:
                break  # the next table
            rows.append({})
            last = ""
        elif _COUNT.match(line):
            end += 1
            break
        elif _RULER.match(line):
            pass
        elif not line.strip():
            following = next((each for each in lines[end + 1 : end + 3] if each.strip()), "")
            if not _RECORD.match(following):
                break
        else:
            # psql separates by a bar, mysql's \G and some exports by a colon.
            if line[:1] in ("|", "│"):
                line = line.rstrip()[1:-1]
            name, bar, value = (
                line.partition("|") if "|" in line else line.partition("│") if "│" in line else line.partition(": ")
            )
            key = name.strip().lower()
            if not bar or not re.fullmatch(r"[\w ?]*\+?", key):
                skipped.append(end + 1)
            elif key in ("", "+") and last:
                rows[-1][last] = f"{rows[-1][last] or ''}\n{value.strip().removesuffix('+').strip()}"
            else:
                columns[key] = None
                rows[-1][key] = _cell(value.rstrip().removesuffix("+") if value.endswith("+") else value)
                last = key
        end += 1
    names = tuple(columns)
    if not knows(names):
        return None
    return Found(PastedTable(names, tuple(rows), at + 1, tuple(skipped)), end - at)


def _json(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    """Read an array of objects over any number of lines, or one object a line, of which the first decides."""
    text = lines[at].strip()
    if _goes_on(text):
        text = "\n".join(lines[at:]).lstrip()
    try:
        document, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    taken = text[:end].count("\n") + 1
    objects: list[Any] = document if isinstance(document, list) else [document]
    # Each line of an application's log is an object, too: its end is not looked for from every one.
    if not knows(_list_names(objects)):
        return None
    while at + taken < len(lines) and lines[at + taken].lstrip()[:1] == "{":
        try:
            objects.append(json.loads(lines[at + taken]))
        except (ValueError, RecursionError):
            break
        taken += 1
    rows = tuple(
        {name.lower(): _json_cell(value) for name, value in each.items()} for each in objects if isinstance(each, dict)
    )
    return Found(PastedTable(_list_names(objects), rows, at + 1), taken)


def _goes_on(line: str) -> bool:
    """Return True if ``line`` is the beginning of JSON that ends in a later one."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line)
    except (ValueError, RecursionError):
        return False
    return False


def _list_names(objects: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.lower() for each in objects if isinstance(each, dict) for name in each))


def _html(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    """Read a table of HTML, as ``psql -H`` and web pages have it."""
    end = at
    while end < len(lines) and "</table>" not in lines[end].lower():
        end += 1
        if end < len(lines) and lines[end].lstrip()[:6].lower() == "<table":
            # The end of the one before was cut off.
            end -= 1
            break
    text = "\n".join(lines[at : end + 1])
    rows = [
        [html.unescape(_TAG.sub("", _LINE_END.sub("\n", cell))) for cell in _HTML_CELL.findall(row)]
        for row in re.split(r"(?i)<tr\b", text)[1:]
    ]
    names = _names(rows[0]) if rows else ()
    if not knows(names):
        return None
    fitting = [row for row in rows[1:] if len(row) == len(names)]
    known = tuple({name: _cell(cell) for name, cell in zip(names, row, strict=True)} for row in fitting)
    skipped = (at + 1,) * (len(rows) - 1 - len(fitting))
    return Found(PastedTable(names, known, at + 1, skipped), min(end + 1, len(lines)) - at)


_HTML_CELL = re.compile(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", re.IGNORECASE | re.DOTALL)
_LINE_END = re.compile(r"<br */?>\n?", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")


def _json_cell(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "t" if value else "f"
    return value if isinstance(value, str) else json.dumps(value)


def _separated(lines: Sequence[str], at: int, knows: Knows) -> Found | None:
    """Read CSV with a header, or psql's unaligned output, by whichever mark makes the header's names known ones."""
    if _STATEMENT.search(lines[at]):
        return None
    for mark in (",", "|", "\t", ";"):
        if mark not in lines[at]:
            continue
        header = next(csv.reader([lines[at]], delimiter=mark), [])
        if len(header) > 1 and knows(_names(header)):
            is_quoted = mark in ",;" or lines[at].lstrip().startswith('"')
            return _csv(lines, at, mark) if is_quoted else _unaligned(lines, at, mark)
    return None


def _csv(lines: Sequence[str], at: int, mark: str) -> Found | None:
    taken = 0

    def feed() -> Iterator[str]:
        nonlocal taken
        for line in lines[at:]:
            taken += 1
            yield line + "\n"

    reader = csv.reader(feed(), delimiter=mark)
    try:
        names = _names(next(reader))
    except csv.Error:
        return None  # a quotation mark in the header that nothing closes
    rows: list[dict[str, str | None]] = []
    skipped: list[int] = []
    end = taken
    try:
        for cells in reader:
            if not cells or len(cells) == 1:
                break
            if _names(cells) == names:
                pass  # the header once more
            elif len(cells) == len(names):
                rows.append({name: _cell(cell) for name, cell in zip(names, cells, strict=True)})
            else:
                skipped.append(at + taken)
            end = taken
            if len(rows) >= MOST_ROWS:
                break
    except csv.Error:
        skipped.append(at + taken)
    return Found(PastedTable(names, tuple(rows), at + 1, tuple(skipped)), end)


def _unaligned(lines: Sequence[str], at: int, mark: str) -> Found:
    """Read rows without alignment. A statement's own line ends and marks are not escaped: what begins no row belongs to
    the row before, and surplus cells belong to the statement."""
    names = _names(lines[at].split(mark))
    known = names.index("pid") if "pid" in names else -1
    query = names.index("query") if "query" in names else len(names) - 1

    def begins_row(line: str) -> bool:
        cells = line.split(mark)
        return cells[known].strip().isdecimal() if 0 <= known < len(cells) else len(cells) >= len(names)

    rows: list[dict[str, str | None]] = []
    skipped: list[int] = []
    end = at + 1
    while end < len(lines) and lines[end].strip() and not _COUNT.match(lines[end]):
        text, first = lines[end], end
        end += 1
        while end < len(lines) and lines[end].strip() and not _COUNT.match(lines[end]) and not begins_row(lines[end]):
            text += "\n" + lines[end]
            end += 1
        cells = text.split(mark)
        surplus = len(cells) - len(names)
        if surplus >= 0:
            cells[query : query + surplus + 1] = [mark.join(cells[query : query + surplus + 1])]
            rows.append({name: _cell(cell) for name, cell in zip(names, cells, strict=True)})
        else:
            skipped.append(first + 1)
    if end < len(lines) and _COUNT.match(lines[end]):
        end += 1
    return Found(PastedTable(names, tuple(rows), at + 1, tuple(skipped)), end - at)
