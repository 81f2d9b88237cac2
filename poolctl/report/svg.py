"""Writes charts as SVG: a picture that needs no font, no script and no network, on a light or a dark ground.

Decides sizes, colors and where labels stand. What is shown was decided by the charts.
"""

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from math import ceil

from poolctl.report.charts import (
    HEAT_CLASSES,
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
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration

WIDTH = 860
_LEFT, _RIGHT = 64, 20
_PLOT = WIDTH - _LEFT - _RIGHT
_ROW = 34
"""Height of a panel's row."""
_HEADER, _LINE, _TITLE, _GAP, _AXIS = 48, 17, 26, 16, 30
_CHARACTER = 6.7
"""Usual width of one at 12 px: SVG cannot measure text, so labels are placed by estimate."""
_LIGHT = {
    "ground": "#ffffff",
    "ink": "#1f2328",
    "rule": "#d0d7de",
    "in_use": "#0969da",
    "open": "#8250df",
    "waiting": "#9a6700",
    "server": "#1a7f37",
    "limit": "#cf222e",
}
_DARK = {
    "ground": "#0d1117",
    "ink": "#e6edf3",
    "rule": "#30363d",
    "in_use": "#58a6ff",
    "open": "#bc8cff",
    "waiting": "#d29922",
    "server": "#3fb950",
    "limit": "#ff7b72",
}
_AREAS = {"in_use": 0.45, "open": 0.12, "waiting": 0.35, "server": 0.3}
"""Opacity of what lies under a line: areas differ by lightness too, so that they read without color."""
_HEAT_OPACITIES = (0.04, 0.2, 0.45, 0.7, 1.0)
"""Of nothing, and of each class of heat."""


def write_svg(
    charts: Sequence[TimeChart | BarChart | HeatMap],
    *,
    subtitle: str = "",
    name: str = "chart",
    standalone: bool = True,
) -> str:
    """Return the charts, one below the other, as SVG text.

    ``subtitle``: the verdict, for the picture and for readers who cannot see it. ``name`` begins every id, so that
    several pictures can share a page; ``standalone`` adds the XML declaration.
    """
    lines = textwrap.wrap(neutralize(subtitle, 330), int((WIDTH - 32) / _CHARACTER))
    parts, y = [], float(_HEADER + _LINE * len(lines))
    for number, chart in enumerate(charts):
        if number:
            y += _GAP + _TITLE
            parts.append(f'<text class="head" x="16" y="{y:.1f}">{_escape(_name_chart(chart))}</text>')
            y += _GAP
        drawn, y = _draw_chart(chart, y)
        parts += drawn
    total = round(y)
    title = _escape(_name_chart(charts[0]))
    about = _escape(" ".join(filter(None, [subtitle, *map(_describe, charts)])), None)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="poolctl-chart" viewBox="0 0 {WIDTH} {total}" '
        f'width="{WIDTH}" height="{total}" role="img" aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{title}</title>',
        f'<desc id="{name}-desc">{about}</desc>',
        f"<style>{_write_style()}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{total}"/>',
        f'<text class="head" x="16" y="28">{title}</text>',
    ]
    head += [f'<text x="16" y="{_HEADER + _LINE * row}">{escape(line)}</text>' for row, line in enumerate(lines)]
    xml = '<?xml version="1.0" encoding="UTF-8"?>\n' if standalone else ""
    return xml + "\n".join([*head, *parts, "</svg>"]) + "\n"


def _name_chart(chart: TimeChart | BarChart | HeatMap) -> str:
    if isinstance(chart, TimeChart):
        return chart.title
    axes = f"by {chart.key}" if isinstance(chart, BarChart) else f"by {chart.across} and {chart.down}"
    return f"{chart.title} {axes}"


def _draw_chart(chart: TimeChart | BarChart | HeatMap, y: float) -> tuple[list[str], float]:
    """Return the chart drawn from ``y`` on, and where it ends."""
    if isinstance(chart, BarChart):
        return _draw_bars(chart, y)
    if isinstance(chart, HeatMap):
        return _draw_heat(chart, y)
    parts, top = [], y + _TITLE
    for panel in chart.panels:
        height = _ROW * panel.rows
        parts += _draw_panel(panel, chart, y + _TITLE, height)
        y += _TITLE + height + _GAP
    axis, bottom = _draw_time_axis(chart, top, y - _GAP)
    return parts + axis, bottom


def _draw_bars(chart: BarChart, y: float) -> tuple[list[str], float]:
    """Return a bar for each value, with as many labels as have room."""
    top, height = y + _GAP, _ROW * 4.0
    bottom, most = top + height, max(chart.values)
    parts = []
    for value in (0.0, most):
        at = bottom - height * value / most
        parts.append(f'<path class="rule" d="M{_LEFT} {at:.1f}h{_PLOT}"/>')
        text = "0" if value == 0 else format_value(value, chart.unit)
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    step = _PLOT / len(chart.values)
    for number, (label, value) in enumerate(zip(chart.labels, chart.values, strict=True)):
        x, size = _LEFT + step * (number + 0.1), height * value / most
        title = _escape(f"{chart.key} {label}: {format_value(value, chart.unit)}")
        shape = f'x="{x:.1f}" y="{bottom - size:.1f}" width="{step * 0.8:.1f}" height="{size:.1f}"'
        parts.append(f'<rect class="{chart.role} bar" {shape}><title>{title}</title></rect>')
    parts += _draw_labels(chart.labels, step, bottom + _LINE)
    return parts, bottom + _AXIS


def _draw_heat(heat: HeatMap, y: float) -> tuple[list[str], float]:
    """Return a cell for each pair of values, darker for more, and below it what each shade stands for."""
    classes = divide_heat(heat.known)
    top = y + _GAP / 2
    step = _PLOT / len(heat.columns)
    height = _ROW * 0.8
    parts = []
    for row, (label, values) in enumerate(zip(heat.rows, heat.values, strict=True)):
        at = top + height * row
        parts.append(f'<text x="{_LEFT - 8}" y="{at + height / 2 + 4:.1f}" text-anchor="end">{_escape(label)}</text>')
        for column, value in enumerate(values):
            if value is None:
                continue
            where = f"{heat.across} {heat.columns[column]}, {heat.down} {label}"
            title = _escape(f"{where}: {format_value(value, heat.unit)}")
            shape = f'x="{_LEFT + step * column:.1f}" y="{at:.1f}" width="{step - 1:.1f}" height="{height - 1:.1f}"'
            shade = _choose_shade(find_heat_class(value, classes), len(classes))
            parts.append(f'<rect class="{heat.role} {shade}" {shape}><title>{title}</title></rect>')
    bottom = top + height * len(heat.rows)
    parts += _draw_labels(heat.columns, step, bottom + _LINE)
    x, bottom = float(_LEFT), bottom + _AXIS + _GAP
    for number, text in describe_heat(heat):
        if x + 30 + _CHARACTER * len(text) > WIDTH - _RIGHT:
            x, bottom = float(_LEFT), bottom + _LINE
        shade = _choose_shade(number, len(classes))
        parts.append(f'<rect class="{heat.role} {shade}" x="{x:.0f}" y="{bottom - 10:.1f}" width="18" height="12"/>')
        parts.append(f'<text x="{x + 24:.0f}" y="{bottom:.1f}">{_escape(text)}</text>')
        x += 44 + _CHARACTER * len(text)
    return parts, bottom + _GAP


def _choose_shade(number: int, classes: int) -> str:
    """Return the style of a class of heat; a single class is the darkest."""
    return f"heat{number + HEAT_CLASSES - classes if number else 0}"


def _draw_labels(labels: Sequence[str], step: float, y: float) -> list[str]:
    """Return as many labels as have room, each below the middle of its bar or cell."""
    every = ceil((max(map(len, labels)) + 1) * _CHARACTER / step)
    parts = []
    for number in range(0, len(labels), every):
        x = _LEFT + step * (number + 0.5)
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{_escape(labels[number])}</text>')
    return parts


def _write_style() -> str:
    """Return the style sheet, light by default: most programs that draw SVG know no media queries."""
    shapes = """text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
.head { font-size: 16px; font-weight: 600 }
.name { font-weight: 600 }
.rule { fill: none }
.limit { stroke-width: 1.5 }
path.limit { fill: none; stroke-dasharray: 7 4 }
.mark { fill: none; stroke-dasharray: 2 3 }
.open { stroke-dasharray: 4 2 }
.area.area { stroke: none }
.line.line { fill: none }
.bar.bar { fill-opacity: 0.55; stroke-dasharray: none }
"""
    areas = "\n".join(f".{role} {{ fill-opacity: {opacity}; stroke-width: 1.5 }}" for role, opacity in _AREAS.items())
    heat = "\n".join(
        f".heat{number}.heat{number} {{ stroke: none; fill-opacity: {opacity} }}"
        for number, opacity in enumerate(_HEAT_OPACITIES)
    )
    dark = "\n".join(f".poolctl-chart {rule}" for rule in _write_colors(_DARK).splitlines())
    rules = (shapes + areas + "\n" + heat + "\n" + _write_colors(_LIGHT)).splitlines()
    light = "\n".join(f".poolctl-chart {rule}" for rule in rules)
    return f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _write_colors(palette: Mapping[str, str]) -> str:
    rules = [f"text {{ fill: {palette['ink']} }}", f".ground {{ fill: {palette['ground']} }}"]
    rules.append(f".mark {{ stroke: {palette['ink']} }}")
    rules += [f".{role} {{ stroke: {palette[role]} }}" for role in ("rule", "limit")]
    rules += [f".{role} {{ stroke: {palette[role]}; fill: {palette[role]} }}" for role in _AREAS]
    rules.append(f"rect.limit {{ fill: {palette['limit']} }}")
    return "\n".join(rules)


def _draw_panel(panel: Panel, chart: TimeChart, top: float, height: float) -> list[str]:
    bottom = top + height
    parts = [_draw_legend(panel, top - 8)]
    for value in sorted({0.0, panel.top, panel.limit.value if panel.limit else 0.0}):
        y = bottom - height * value / panel.top
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}h{_PLOT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{format_count(value)}</text>')
    for layer in panel.layers:
        line = _draw_steps(layer, chart, bottom, height / panel.top)
        if line:
            start, name = line[1:].partition(" ")[0], _escape(layer.name)
            parts.append(f'<path class="{layer.role} area" d="{line}V{bottom:.1f}H{start}Z"/>')
            parts.append(f'<path class="{layer.role} line" d="{line}"><title>{name}</title></path>')
    if panel.limit:
        y = bottom - height * panel.limit.value / panel.top
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}h{_PLOT}"/>')
    return parts


def _draw_steps(layer: Layer, chart: TimeChart, bottom: float, scale: float) -> str:
    """Return a step line, one step for two pixels at most; "" if nothing is known."""
    bins = min(len(chart.at), _PLOT // 2)
    values = resample(layer.values, chart.at, chart.start, chart.end, bins)
    known = [number for number, value in enumerate(values) if value >= 0]
    if not known:
        return ""
    step = _PLOT / bins
    path, current = "", -1.0
    for number in range(known[0], known[-1] + 1):
        if values[number] != current:
            x, y = _LEFT + number * step, bottom - values[number] * scale
            path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {y:.1f}"
            current = values[number]
    return f"{path}H{_LEFT + (known[-1] + 1) * step:.1f}"


def _draw_legend(panel: Panel, y: float) -> str:
    parts = [f'<text class="name" x="{_LEFT}" y="{y:.1f}">{_escape(panel.title)}</text>']
    x = _LEFT + 7.6 * len(panel.title) + 24
    for layer in reversed(panel.layers) if len(panel.layers) > 1 else ():
        parts.append(f'<rect class="{layer.role}" x="{x:.0f}" y="{y - 10:.1f}" width="18" height="10"/>')
        parts.append(f'<text x="{x + 24:.0f}" y="{y:.1f}">{_escape(layer.name)}</text>')
        x += 50 + 7 * len(layer.name)
    if panel.limit:
        parts.append(f'<path class="limit" d="M{x:.0f} {y - 5:.1f}h22"/>')
        parts.append(f'<text x="{x + 28:.0f}" y="{y:.1f}">{_escape(panel.limit.name)}</text>')
    return "".join(parts)


def _draw_time_axis(chart: TimeChart, top: float, bottom: float) -> tuple[list[str], float]:
    """Return the axis with its marks, and where they end."""
    span = max(chart.end - chart.start, 1e-9)
    parts = []
    for instant in place_ticks(chart.start, chart.end, 8):
        x = _LEFT + _PLOT * (instant - chart.start) / span
        parts.append(f'<path class="rule" d="M{x:.1f} {bottom:.1f}v5"/>')
        label = format_duration(instant)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{label}</text>')
    ends: list[float] = []
    for mark in chart.marks:
        x, width = _LEFT + _PLOT * (mark.at - chart.start) / span, _CHARACTER * len(mark.text)
        begin = x if x + width < WIDTH else x - width
        row = next((row for row, end in enumerate(ends) if end + 8 < begin), len(ends))
        ends[row : row + 1] = [begin + width]
        y = bottom + _AXIS + _LINE * (row + 0.5)
        parts.append(f'<path class="mark" d="M{x:.1f} {top:.1f}V{y - 10:.1f}"/>')
        anchor = "start" if begin == x else "end"
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escape(mark.text)}</text>')
    return parts, bottom + _AXIS + _LINE * len(ends)


def _describe(chart: TimeChart | BarChart | HeatMap) -> str:
    """Return the chart in words."""
    if isinstance(chart, BarChart):
        pairs = zip(chart.labels, chart.values, strict=True)
        return f"{_name_chart(chart)}: {', '.join(f'{label}: {format_value(v, chart.unit)}' for label, v in pairs)}."
    if isinstance(chart, HeatMap):
        known = chart.known
        least, most = format_value(min(known), chart.unit), format_value(max(known), chart.unit)
        return f"{_name_chart(chart)}: from {least} to {most}."
    sentences = []
    for panel in chart.panels:
        peaks = []
        for layer in panel.layers:
            known = [value for value in layer.values if value is not None]
            peaks.append(f"{layer.name} at most {format_count(max(known))}" if known else f"{layer.name} unknown")
        limit = f", limit {panel.limit.name}" if panel.limit else ""
        sentences.append(f"{panel.title}: {', '.join(peaks)}{limit}.")
    marks = [f"{format_duration(mark.at)}: {mark.text}." for mark in chart.marks]
    return " ".join([*sentences, *marks, f"From {format_duration(chart.start)} to {format_duration(chart.end)}."])


def _escape(text: str, limit: int | None = 200) -> str:
    """Escape text for XML. Control characters, which XML cannot hold at all, are written out."""
    return escape(neutralize(text, limit))
