"""Charts of characters: braille dots, or plain ASCII. Pure: a chart in, lines out.

Series differ by texture, so that a chart reads without color: in use is solid, open is a screen of dots with an
edge. A line is a list of pieces, each with the role that gives it its color.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from poolctl.report.panels import Chart, Layer, Panel, ticks
from poolctl.units import format_count, format_duration


class Piece(NamedTuple):
    """Characters of one role: that of a layer, or "limit", "axis", "title", "mark", "" for the background."""

    text: str
    role: str


Line = list[Piece]

_BITS = ((0x40, 0x80), (0x04, 0x20), (0x02, 0x10), (0x01, 0x08))
"""Bit of a braille cell by dot row, from the bottom, and dot column."""
_ASCII = {"in_use": "#", "open": ".", "waiting": "#", "server": "#"}
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=oO#@"


def draw(chart: Chart, width: int, *, ascii_only: bool = False) -> list[Line]:
    """The chart in lines of at most ``width`` columns; fewer than 24 are taken as 24."""
    margin = max(len(format_count(ceil(panel.top))) for panel in chart.panels) + 1
    columns = max(width, 24) - margin - 1
    lines: list[Line] = []
    for panel in chart.panels:
        lines.append(_title(panel, columns + margin + 1, ascii_only))
        lines += _panel(panel, chart, margin, columns, ascii_only)
    return lines + _time_axis(chart, margin, columns, ascii_only)


def plain(lines: Sequence[Line]) -> list[str]:
    """The lines as text, without roles."""
    return ["".join(run.text for run in line).rstrip() for line in lines]


def sparkline(values: Sequence[float], width: int, top: float, *, ascii_only: bool = False) -> str:
    """The last values as bars, at most ``width`` of them, from 0 to ``top``; 0 is blank."""
    bars = _ASCII_BARS if ascii_only else _BARS
    shown = values[-width:] if width > 0 else ()
    scale = len(bars) / top if top > 0 else 0.0
    return "".join(" " if value <= 0 else bars[min(len(bars), max(1, ceil(value * scale))) - 1] for value in shown)


def resample(values: Sequence[float | None], at: Sequence[float], start: float, end: float, bins: int) -> list[float]:
    """The largest value within each of ``bins`` equal spans of time; a span without one repeats the last; -1: none.

    The largest, since a peak that touched the limit must not vanish in a narrow chart.
    """
    found = [-1.0] * bins
    span = (end - start) / bins if end > start else 1.0
    last = -1
    for instant, value in zip(at, values, strict=True):
        into = min(int((instant - start) / span), bins - 1)
        if value is not None and into >= 0:
            found[into] = max(found[into], value)
            last = max(last, into)
    for into in range(1, last + 1):
        if found[into] < 0:
            found[into] = found[into - 1]
    return found


def _panel(panel: Panel, chart: Chart, margin: int, columns: int, ascii_only: bool) -> list[Line]:
    height = panel.rows
    across, upward = (1, 1) if ascii_only else (2, 4)
    levels = []
    for layer in panel.layers:
        values = resample(layer.values, chart.at, chart.start, chart.end, columns * across)
        levels.append((layer, [_dots(value, panel.top, height * upward) for value in values]))
    limit_row = None
    if panel.limit:
        limit_row = (_dots(panel.limit.value, panel.top, height * upward) - 1) // upward
    lines: list[Line] = []
    for row in reversed(range(height)):
        label = _label(panel, row, height, limit_row)
        lines.append([Piece(f"{label:>{margin - 1}} ", "axis"), Piece("|" if ascii_only else "┤", "axis")])
        for column in range(columns):
            text, role = _cell(levels, column, row, ascii_only)
            if not role and row == limit_row:
                text, role = ("-" if ascii_only else "╌"), "limit"
            _append(lines[-1], text, role)
    return lines


def _dots(value: float, top: float, most: int) -> int:
    """Height in dots. The topmost one lights only when ``top`` is reached, and 1 of many still shows."""
    if value <= 0:
        return 0
    return most if value >= top else min(ceil(value / top * most), max(most - 1, 1))


def _cell(levels: Sequence[tuple[Layer, list[int]]], column: int, row: int, ascii_only: bool) -> tuple[str, str]:
    text, role = " ", ""
    if ascii_only:
        for layer, heights in levels:
            if heights[column] > row:
                text, role = _ASCII[layer.role], layer.role
        return text, role
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


def _label(panel: Panel, row: int, height: int, limit_row: int | None) -> str:
    if row == limit_row and panel.limit:
        return format_count(panel.limit.value)
    if row == height - 1 and limit_row != height - 2:
        return format_count(ceil(panel.top))
    return "0" if row == 0 else ""


def _title(panel: Panel, width: int, ascii_only: bool) -> Line:
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


def _time_axis(chart: Chart, margin: int, columns: int, ascii_only: bool) -> list[Line]:
    corner, dash, tick = ("+", "-", "+") if ascii_only else ("└", "─", "┬")
    span = max(chart.end - chart.start, 1e-9)
    labels = [" "] * (margin + 1 + columns)
    rule = [dash] * columns
    for instant in ticks(chart.start, chart.end, max(columns // 12, 2)):
        text = format_duration(instant)
        place = round((columns - 1) * (instant - chart.start) / span)
        rule[place] = tick
        begin = max(0, min(margin + 1 + place - len(text) // 2, len(labels) - len(text)))
        labels[begin : begin + len(text)] = text
    lines: list[Line] = [[Piece(" " * margin + corner + "".join(rule), "axis")], [Piece("".join(labels), "axis")]]
    return lines + _mark_lines(chart, margin + 1, columns, "^" if ascii_only else "▲")


def _mark_lines(chart: Chart, margin: int, columns: int, sign: str) -> list[Line]:
    """Marks under the axis; one that has no room goes to the next line, and the third line is the last."""
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
