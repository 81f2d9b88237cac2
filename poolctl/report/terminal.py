"""Lays out rows for a screen: facts as sums or lists, records as columns, one record a line.

Decides only where text goes. Rows become lists where columns would break.
"""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from poolctl.report.facts import Fact, Item
from poolctl.report.screen import Screen

GAP = "  "


def print_facts(screen: Screen, facts: Sequence[Fact]) -> None:
    """Each fact on a line of its own, broken between numbers; on a narrow screen each number on its own line."""
    if screen.narrow:
        for fact in facts:
            _print_list(screen, fact)
        return
    margin = max(len(fact.label) for fact in facts) + 2
    for fact in facts:
        pieces = [_joined(item, number == 0) for number, item in enumerate(fact.items)]
        if fact.note:
            pieces.append(f"{GAP}({fact.note})" if pieces else f"({fact.note})")
        for number, line in enumerate(_broken(pieces, _room(screen, margin))):
            screen.paragraph(Text(f"{fact.label if number == 0 else '':<{margin}}"), line)


def print_columns(screen: Screen, header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Columns without a frame; numbers to the right, the last column wrapped. False, printing nothing: no room."""
    widths = [max(cell_len(row[at]) for row in (header, *rows)) for at in range(len(header) - 1)]
    before = sum(widths) + len(GAP) * len(widths)
    if screen.width is not None and screen.width - before < min(24, max(cell_len(row[-1]) for row in (header, *rows))):
        return False
    numeric = [all(_is_number(row[at]) for row in rows) for at in range(len(widths))]
    for number, row in enumerate((header, *rows)):
        cells = [_padded(row[at], widths[at], right=numeric[at]) for at in range(len(widths))]
        lead = "".join(cell + GAP for cell in cells)
        style = "bold" if number == 0 else ""
        screen.paragraph(Text(lead, style=style), Text(row[-1], style=style))
    return True


def _print_list(screen: Screen, fact: Fact) -> None:
    """A sum as a column of its parts under the total; other numbers after one another under their label."""
    if not any(item.sign for item in fact.items):
        screen.print(Text(fact.label, style="bold"))
        pieces = [_joined(item, number == 0) for number, item in enumerate(fact.items)]
        if fact.note:
            pieces.append(f"{GAP}({fact.note})")
        for line in _broken(pieces, _room(screen, 2)):
            screen.paragraph("  ", line)
        return
    total, *parts = fact.items
    screen.print(Text(f"{fact.label} {total.value}", style="bold"))
    left = max(len(item.name) for item in parts)
    right = max(len(item.value) for item in parts)
    for item in parts:
        screen.print(f"  {item.sign} {item.name:<{left}}{GAP}{item.value:>{right}}")


def _joined(item: Item, first: bool) -> str:
    """The item as it stands in a line: "= acquired 556" after a total, or a number of its own."""
    text = f"{item.name} {item.value}".strip()
    if item.sign:
        return f" {item.sign} {text}"
    return text if first else GAP + " " + text


def _broken(pieces: Sequence[str], room: int | None) -> list[str]:
    lines = [""]
    for piece in pieces:
        if lines[-1] and room is not None and cell_len(lines[-1] + piece) > room:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return lines


def _room(screen: Screen, margin: int) -> int | None:
    return None if screen.width is None else max(screen.width - margin, 10)


def _padded(text: str, width: int, *, right: bool) -> str:
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text in ("", "-")
