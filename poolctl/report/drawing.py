"""Charts and columns drawn with characters: braille dots, or plain ASCII, for terminals and Markdown.

Decides how a chart reads without color: series and classes differ by texture; in use is solid, open is a screen of
dots with an edge. Leaves colors to the terminal: a line of a chart is a list of pieces, each with the role that gives
it its color. Has no state and does no I/O.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from rich.cells import cell_len

from poolctl.report.blocks import Table, is_number
from poolctl.report.charts import (
    BarChart,
    HeatMap,
    Layer,
    Panel,
    TimeChart,
    describe_heat,
    divide_heat,
    find_heat_class,
    format_value,
    place_ticks,
    resample,
)
from poolctl.units import format_count, format_duration

GAP = "  "
"""Between columns."""


class Piece(NamedTuple):
    """Characters of one role: that of a layer, or "limit", "axis", "title", "mark", "" for the background."""

    text: str
    role: str


Line = list[Piece]

_BITS = ((0x40, 0x80), (0x04, 0x20), (0x02, 0x10), (0x01, 0x08))
"""Bit of a braille cell by dot row, from the bottom, and dot column."""
_ASCII = {"in_use": "#", "open": ".", "waiting": "#", "server": "#"}
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_SPARKS = "▁▂▃▄▅▆▇█"
_ASCII_SPARKS = "_.-=oO#@"
_SHADES = "·░▒▓█"
_ASCII_SHADES = ".-+x#"
_WIDEST_CELL = 6
_BAR_ROWS = 4
SHARE_BAR = 20
"""Columns of a bar in a table."""


def lay_out_columns(table: Table, signs: str = "") -> list[tuple[str, str]]:
    """Return the lines of a table, the header first: columns of fixed widths as one text, and the column of words.

    Columns of numbers are aligned to the right. ``signs``: full and empty, to draw the table's bars with; "" draws
    none.
    """
    order = [at for at in range(len(table.header)) if at != table.words % len(table.header)]
    rows = [[row[at] for at in order] for row in (table.header, *table.rows)]
    if table.bars and signs:
        drawn = ["", *(draw_share(share, signs) for share in table.bars.shares)]
        for row, bar in zip(rows, drawn, strict=True):
            row.insert(table.bars.at, bar)
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    is_numeric = [all(map(is_number, column[1:])) for column in zip(*rows, strict=True)]
    leads = [
        "".join(
            _pad(cell, width, right=right) + GAP for cell, width, right in zip(row, widths, is_numeric, strict=True)
        )
        for row in rows
    ]
    words = [table.header[table.words], *(row[table.words] for row in table.rows)]
    return list(zip(leads, words, strict=True))


def draw_share(share: float, signs: str) -> str:
    """Return a bar that is full only when the share is 1, and in which 1 of many still shows."""
    filled = SHARE_BAR if share >= 1 else min(max(round(share * SHARE_BAR), 1 if share > 0 else 0), SHARE_BAR - 1)
    return signs[0] * filled + signs[1] * (SHARE_BAR - filled)


def draw(chart: TimeChart | BarChart | HeatMap, width: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the chart in lines of at most ``width`` columns, 24 at least for lines over time, 40 for the others.

    A row of bars or cells that is too long for one line goes on in another band below.
    """
    if isinstance(chart, TimeChart):
        return _draw_lines(chart, max(width, 24), ascii_only)
    if isinstance(chart, BarChart):
        return _draw_bars(chart, max(width, 40), ascii_only)
    return _draw_heat(chart, max(width, 40), ascii_only)


def strip_roles(lines: Sequence[Line]) -> list[str]:
    """Return the lines as text, without roles."""
    return ["".join(piece.text for piece in line).rstrip() for line in lines]


def draw_sparkline(values: Sequence[float], width: int, top: float, *, ascii_only: bool = False) -> str:
    """Return the last values as bars, at most ``width`` of them, from 0 to ``top``; 0 is blank."""
    bars = _ASCII_SPARKS if ascii_only else _SPARKS
    shown = values[-width:] if width > 0 else ()
    scale = len(bars) / top if top > 0 else 0.0
    return "".join(" " if value <= 0 else bars[min(len(bars), max(1, ceil(value * scale))) - 1] for value in shown)


def _draw_lines(chart: TimeChart, width: int, ascii_only: bool) -> list[Line]:
    margin = max(len(format_count(ceil(panel.top))) for panel in chart.panels) + 1
    columns = width - margin - 1
    lines: list[Line] = []
    for panel in chart.panels:
        lines.append(_draw_panel_title(panel, columns + margin + 1, ascii_only))
        lines += _draw_panel(panel, chart, margin, columns, ascii_only)
    return lines + _draw_time_axis(chart, margin, columns, ascii_only)


def _draw_panel(panel: Panel, chart: TimeChart, margin: int, columns: int, ascii_only: bool) -> list[Line]:
    height = panel.rows
    across, upward = (1, 1) if ascii_only else (2, 4)
    levels = []
    for layer in panel.layers:
        values = resample(layer.values, chart.at, chart.start, chart.end, columns * across)
        levels.append((layer, [_count_dots(value, panel.top, height * upward) for value in values]))
    limit_row = None
    if panel.limit:
        limit_row = (_count_dots(panel.limit.value, panel.top, height * upward) - 1) // upward
    lines: list[Line] = []
    for row in reversed(range(height)):
        label = _label_row(panel, row, height, limit_row)
        lines.append([Piece(f"{label:>{margin - 1}} ", "axis"), Piece("|" if ascii_only else "┤", "axis")])
        for column in range(columns):
            text, role = _draw_cell(levels, column, row, ascii_only)
            if not role and row == limit_row:
                text, role = ("-" if ascii_only else "╌"), "limit"
            _append(lines[-1], text, role)
    return lines


def _count_dots(value: float, top: float, most: int) -> int:
    """Return the height in dots. The topmost one lights only when ``top`` is reached, and 1 of many still shows."""
    if value <= 0:
        return 0
    return most if value >= top else min(ceil(value / top * most), max(most - 1, 1))


def _draw_cell(levels: Sequence[tuple[Layer, list[int]]], column: int, row: int, ascii_only: bool) -> tuple[str, str]:
    text, role = " ", ""
    if ascii_only:
        for layer, heights in levels:
            if heights[column] > row:
                text, role = _ASCII[layer.role], layer.role
        return text, role
    # One cell holds 2 x 4 dots. Later layers lie in front: the last one that lights a dot colors the whole cell.
    bits = 0
    for layer, heights in levels:
        for side in (0, 1):
            height = heights[2 * column + side]
            for up in range(4):
                dot = 4 * row + up
                edge = dot == height - 1
                if dot < height and (layer.role != "open" or edge or (dot + side) % 2 == 0):
                    bits |= _BITS[up][side]
                    role = layer.role
    return (chr(0x2800 + bits), role) if bits else (text, role)


def _label_row(panel: Panel, row: int, height: int, limit_row: int | None) -> str:
    if row == limit_row and panel.limit:
        return format_count(panel.limit.value)
    if row == height - 1 and limit_row != height - 2:
        return format_count(ceil(panel.top))
    return "0" if row == 0 else ""


def _draw_panel_title(panel: Panel, width: int, ascii_only: bool) -> Line:
    signs = _ASCII if ascii_only else {"in_use": "⣿", "open": "⢕", "waiting": "⣿", "server": "⣿"}
    keys = [(signs[layer.role], layer.role, layer.name) for layer in reversed(panel.layers) if len(panel.layers) > 1]
    if panel.limit:
        keys.append(("---" if ascii_only else "╌╌╌", "limit", panel.limit.name))
    line: Line = [Piece(panel.title[:width], "title")]
    room = width - len(panel.title)
    for sign, role, name in keys:
        room -= len(sign) + len(name) + 3
        if room >= 0:
            line += [Piece("  ", ""), Piece(sign, role), Piece(f" {name}", "")]
    return line


def _draw_time_axis(chart: TimeChart, margin: int, columns: int, ascii_only: bool) -> list[Line]:
    corner, dash, tick = ("+", "-", "+") if ascii_only else ("└", "─", "┬")
    span = max(chart.end - chart.start, 1e-9)
    labels = [" "] * (margin + 1 + columns)
    rule = [dash] * columns
    for instant in place_ticks(chart.start, chart.end, max(columns // 12, 2)):
        text = format_duration(instant)
        place = round((columns - 1) * (instant - chart.start) / span)
        rule[place] = tick
        begin = max(0, min(margin + 1 + place - len(text) // 2, len(labels) - len(text)))
        labels[begin : begin + len(text)] = text
    lines: list[Line] = [[Piece(" " * margin + corner + "".join(rule), "axis")], [Piece("".join(labels), "axis")]]
    return lines + _draw_marks(chart, margin + 1, columns, "^" if ascii_only else "▲")


def _draw_marks(chart: TimeChart, margin: int, columns: int, sign: str) -> list[Line]:
    """Return the marks under the axis; one that has no room goes to the next line, and the third line is the last."""
    rows: list[str] = []
    span = max(chart.end - chart.start, 1e-9)
    for mark in chart.marks:
        place = margin + min(int((mark.at - chart.start) / span * columns), columns - 1)
        text = f"{sign} {mark.text}"
        if place + len(text) > margin + columns:
            text = f"{mark.text} {sign}"
            place = max(0, place + 1 - len(text))
        for number in range(3):
            if number == len(rows):
                rows.append("")
            if not rows[number] or len(rows[number]) + 2 <= place:
                rows[number] = rows[number].ljust(place) + text
                break
    return [[Piece(row, "mark")] for row in rows]


def _append(line: Line, text: str, role: str) -> None:
    if line[-1].role == role:
        line[-1] = Piece(line[-1].text + text, role)
    else:
        line.append(Piece(text, role))


def _draw_bars(chart: BarChart, width: int, ascii_only: bool) -> list[Line]:
    top = max(chart.values)
    margin = max(len(format_value(top, chart.unit)), 1) + 1
    cell = _measure_cell(chart.labels, width - margin - 1)
    across = (width - margin - 1) // cell
    lines = _draw_title(chart.title, f"across: {chart.key}", width)
    for first in range(0, len(chart.values), across):
        shown = chart.values[first : first + across]
        for row in reversed(range(_BAR_ROWS)):
            label = format_value(top, chart.unit) if row == _BAR_ROWS - 1 else "0" if row == 0 else ""
            drawn = "".join(
                _draw_bar(value, top, row, ascii_only) * max(cell - 1, 1) + " " * (cell > 1) for value in shown
            )
            lines.append(_draw_row(label, margin, Piece(drawn, chart.role), ascii_only))
        lines.append([Piece(" " * (margin + 1) + _draw_labels(chart.labels[first : first + across], cell), "axis")])
    return lines


def _draw_heat(heat: HeatMap, width: int, ascii_only: bool) -> list[Line]:
    classes = divide_heat(heat.known)
    shades = _choose_shades(len(classes), ascii_only)
    margin = max(len(row) for row in heat.rows) + 1
    cell = _measure_cell(heat.columns, width - margin - 1)
    across = (width - margin - 1) // cell
    lines = _draw_title(heat.title, f"across: {heat.across}, down: {heat.down}", width)
    for first in range(0, len(heat.columns), across):
        for name, row in zip(heat.rows, heat.values, strict=True):
            cells = [
                " " if value is None else shades[find_heat_class(value, classes)]
                for value in row[first : first + across]
            ]
            drawn = "".join(shade * cell for shade in cells)
            lines.append(_draw_row(name, margin, Piece(drawn, heat.role), ascii_only))
        lines.append([Piece(" " * (margin + 1) + _draw_labels(heat.columns[first : first + across], cell), "axis")])
    return lines + _draw_key(heat, shades, width)


def _choose_shades(classes: int, ascii_only: bool) -> str:
    """Return the sign of nothing, and then that of each class; a single class is the darkest."""
    shades = _ASCII_SHADES if ascii_only else _SHADES
    return shades[0] + shades[1:][-classes:] if classes else shades[0]


def _draw_key(heat: HeatMap, shades: str, width: int) -> list[Line]:
    lines: list[Line] = [[]]
    used = 0
    for number, text in describe_heat(heat):
        needed = 1 + len(text) + 3
        if lines[-1] and used + needed > width:
            lines.append([])
            used = 0
        lines[-1] += [Piece(GAP, ""), Piece(shades[number], heat.role), Piece(f" {text}", "")]
        used += needed
    return lines


def _draw_title(title: str, axes: str, width: int) -> list[Line]:
    if len(title) + len(GAP) + len(axes) <= width:
        return [[Piece(title, "title"), Piece(GAP + axes, "")]]
    return [[Piece(title, "title")], [Piece(GAP + axes[: width - len(GAP)], "")]]


def _draw_row(label: str, margin: int, drawn: Piece, ascii_only: bool) -> Line:
    return [Piece(f"{label:>{margin - 1}} {'|' if ascii_only else '┤'}", "axis"), drawn]


def _draw_bar(value: float, top: float, row: int, ascii_only: bool) -> str:
    """Return the part of a bar within ``row``, in eighths; a value above 0 always shows."""
    eighths = 0 if value <= 0 or top <= 0 else max(1, round(value / top * _BAR_ROWS * 8))
    part = min(max(eighths - row * 8, 0), 8)
    if ascii_only:
        return "#" if part >= 4 or (part and not row) else " "
    return _EIGHTHS[part]


def _measure_cell(labels: Sequence[str], room: int) -> int:
    """Return the columns of each value: enough for its label where there is room for all."""
    widest = max(_WIDEST_CELL, max(map(len, labels)) + 1)
    return max(1, min(widest, room // len(labels)))


def _draw_labels(labels: Sequence[str], cell: int) -> str:
    """Return as many labels as have room, each below the cell that it belongs to, at equal distances."""
    longest = max(len(label) for label in labels)
    every = ceil((longest + 1) / cell)
    line = ""
    for number in range(0, len(labels), every):
        line = line.ljust(number * cell) + labels[number]
    return line


def _pad(text: str, width: int, *, right: bool) -> str:
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding
