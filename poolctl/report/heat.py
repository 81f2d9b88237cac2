"""Charts over the values of a sweep: a heat map for two keys, bars for one. Pure: numbers in, lines out.

Classes of heat differ by texture, and the key below says where each ends, so that a map reads without color.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log

from poolctl.report.charts import Line, Piece
from poolctl.report.outcome import Metric

_SHADES = "░▒▓█"
_ASCII_SHADES = "-+x#"
_ZERO, _ASCII_ZERO = "·", "."
_BARS = " ▁▂▃▄▅▆▇█"

_SPREAD = 20.0
"""From the smallest to the largest value more than so many times: the classes of heat then grow in ratio."""

FLAT = 1.03
"""Values within this ratio of each other are no picture: a map would make contrast of what is chance."""

_WIDEST_CELL = 6
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Grid:
    """Values by row and column, None where nothing is known. ``across`` and ``down`` are the keys."""

    across: str
    columns: Sequence[str]
    down: str
    rows: Sequence[str]


def heat_map(
    metric: Metric, grid: Grid, values: Sequence[Sequence[float | None]], width: int, *, ascii_only: bool = False
) -> list[Line]:
    """The map in lines of at most ``width`` columns (40 at least); a long row goes on in another band below."""
    known = [value for row in values for value in row if value is not None]
    classes = _classes([value for value in known if value > 0])
    margin = max(len(row) for row in grid.rows) + 1
    room = max(width, 40) - margin - 1
    cell = _cell(grid.columns, room)
    across = room // cell
    lines = _title(metric, f"across: {grid.across}, down: {grid.down}", max(width, 40))
    for first in range(0, len(grid.columns), across):
        shown = grid.columns[first : first + across]
        for name, row in zip(grid.rows, values, strict=True):
            cells = "".join(_shade(value, classes, ascii_only) * cell for value in row[first : first + across])
            lines.append(
                [Piece(f"{name:>{margin - 1}} {'|' if ascii_only else '┤'}", "axis"), Piece(cells, metric.role)]
            )
        lines.append([Piece(" " * (margin + 1) + _labels(shown, cell), "axis")])
    return lines + _key(metric, classes, known, max(width, 40), ascii_only)


def bars(
    metric: Metric,
    key: str,
    labels: Sequence[str],
    values: Sequence[float],
    width: int,
    *,
    rows: int = 4,
    ascii_only: bool = False,
) -> list[Line]:
    """A bar for each value, with its label below; a long sweep goes on in another band."""
    top = max(values)
    margin = max(len(metric.show(top)), 1) + 1
    room = max(width, 40) - margin - 1
    cell = _cell(labels, room)
    across = room // cell
    lines = _title(metric, f"across: {key}", max(width, 40))
    for first in range(0, len(values), across):
        shown = values[first : first + across]
        for row in reversed(range(rows)):
            label = metric.show(top) if row == rows - 1 else "0" if row == 0 else ""
            drawn = "".join(
                _bar(value, top, row, rows, ascii_only) * max(cell - 1, 1) + " " * (cell > 1) for value in shown
            )
            lines.append(
                [Piece(f"{label:>{margin - 1}} {'|' if ascii_only else '┤'}", "axis"), Piece(drawn, metric.role)]
            )
        lines.append([Piece(" " * (margin + 1) + _labels(labels[first : first + across], cell), "axis")])
    return lines


def _title(metric: Metric, axes: str, width: int) -> list[Line]:
    if len(metric.name) + len(_GAP) + len(axes) <= width:
        return [[Piece(metric.name, "title"), Piece(_GAP + axes, "")]]
    return [[Piece(metric.name, "title")], [Piece(_GAP + axes[: width - len(_GAP)], "")]]


def flat(metric: Metric, values: Sequence[float]) -> str:
    """What to say instead of drawing ``values`` that are all about the same, "" for those worth drawing."""
    least, most = min(values), max(values)
    if most > least * FLAT:
        return ""
    shown = [metric.show(least), metric.show(most)]
    return f"{metric.name} {' to '.join(dict.fromkeys(shown))} in every run"


def _classes(values: Sequence[float]) -> list[float]:
    """Where each class of heat ends: equal steps, or equal ratios where the values spread far."""
    if not values:
        return []
    least, most = min(values), max(values)
    count = len(_SHADES)
    if most <= least * (1 + 1e-9):
        return [most]
    if most / least > _SPREAD:
        step = log(most / least) / count
        ends = [least * exp(step * number) for number in range(1, count)]
    else:
        ends = [least + (most - least) * number / count for number in range(1, count)]
    return [*ends, most]


def _shade(value: float | None, classes: Sequence[float], ascii_only: bool) -> str:
    if value is None:
        return " "
    if value <= 0:
        return _ASCII_ZERO if ascii_only else _ZERO
    number = next((number for number, end in enumerate(classes) if value <= end), len(classes) - 1)
    return _signs(classes, ascii_only)[number]


def _signs(classes: Sequence[float], ascii_only: bool) -> str:
    """The shades of the classes; a single class is the darkest."""
    return (_ASCII_SHADES if ascii_only else _SHADES)[-len(classes) :]


def _key(metric: Metric, classes: Sequence[float], known: Sequence[float], width: int, ascii_only: bool) -> list[Line]:
    entries = [(_ASCII_ZERO if ascii_only else _ZERO, "0")] if any(value <= 0 for value in known) else []
    least = min((value for value in known if value > 0), default=0.0)
    for sign, end in zip(_signs(classes, ascii_only), classes, strict=True):
        entries.append((sign, f"to {metric.show(end)}" if len(classes) > 1 else metric.show(end)))
    if len(classes) > 1:
        at = len(entries) - len(classes)
        entries[at] = (entries[at][0], f"{metric.show(least)} {entries[at][1]}")
    lines: list[Line] = [[]]
    used = 0
    for sign, text in entries:
        needed = len(sign) + len(text) + 3
        if lines[-1] and used + needed > width:
            lines.append([])
            used = 0
        lines[-1] += [Piece(_GAP, ""), Piece(sign, metric.role), Piece(f" {text}", "")]
        used += needed
    return lines


def _bar(value: float, top: float, row: int, rows: int, ascii_only: bool) -> str:
    """The part of a bar within ``row``, in eighths; a value above 0 always shows."""
    eighths = 0 if value <= 0 or top <= 0 else max(1, round(value / top * rows * 8))
    part = min(max(eighths - row * 8, 0), 8)
    if ascii_only:
        return "#" if part >= 4 or (part and not row) else " "
    return _BARS[part]


def _cell(labels: Sequence[str], room: int) -> int:
    """Columns for each value: enough for its label where there is room for all."""
    widest = max(_WIDEST_CELL, max(map(len, labels)) + 1)
    return max(1, min(widest, room // len(labels)))


def _labels(labels: Sequence[str], cell: int) -> str:
    """As many labels as have room, each beginning below the cell it belongs to, the distance between them equal."""
    longest = max(len(label) for label in labels)
    every = ceil((longest + 1) / cell)
    line = ""
    for number in range(0, len(labels), every):
        line = line.ljust(number * cell) + labels[number]
    return line


def axis_order(sizes: Sequence[int]) -> tuple[int, int]:
    """Of two axes, which one goes across: the longer one."""
    return (0, 1) if sizes[0] > sizes[1] else (1, 0)
