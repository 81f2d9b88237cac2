"""Writes a chart as SVG: a picture that needs no font, no script and no network, on a light or a dark ground.

Decides nothing about what is shown: that is the Chart.
"""

import textwrap
from collections.abc import Mapping
from html import escape

from poolctl.report.charts import resample
from poolctl.report.panels import Chart, Layer, Panel, ticks
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


def svg_of(chart: Chart, *, subtitle: str = "", name: str = "chart", standalone: bool = True) -> str:
    """The chart as SVG text. ``subtitle``: the verdict, for the picture and for who cannot see it.

    ``name`` begins every id, so that several charts can share a page; ``standalone`` adds the XML declaration.
    """
    said = textwrap.wrap(neutralize(subtitle, 330), int((WIDTH - 32) / _CHARACTER))
    parts, y = [], float(_HEADER + _LINE * len(said))
    top = y + _TITLE
    for panel in chart.panels:
        height = _ROW * panel.rows
        parts += _panel(panel, chart, y + _TITLE, height)
        y += _TITLE + height + _GAP
    axis, bottom = _time_axis(chart, top, y - _GAP)
    total = round(bottom)
    title, about = _text(chart.title), _text(f"{subtitle} {_description(chart)}".strip(), None)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="poolctl-chart" viewBox="0 0 {WIDTH} {total}" '
        f'width="{WIDTH}" height="{total}" role="img" aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{title}</title>',
        f'<desc id="{name}-desc">{about}</desc>',
        f"<style>{_style()}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{total}"/>',
        f'<text class="head" x="16" y="28">{title}</text>',
    ]
    head += [f'<text x="16" y="{_HEADER + _LINE * row}">{escape(line)}</text>' for row, line in enumerate(said)]
    xml = '<?xml version="1.0" encoding="UTF-8"?>\n' if standalone else ""
    return xml + "\n".join([*head, *parts, *axis, "</svg>"]) + "\n"


def _style() -> str:
    """Light by default: most programs that draw SVG know neither variables nor media queries."""
    shapes = """text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
.head { font-size: 16px; font-weight: 600 }
.name { font-weight: 600 }
.rule { fill: none }
.limit { fill: none; stroke-width: 1.5; stroke-dasharray: 7 4 }
.mark { fill: none; stroke-dasharray: 2 3 }
.open { stroke-dasharray: 4 2 }
.area.area { stroke: none }
.line.line { fill: none }
"""
    areas = "\n".join(f".{role} {{ fill-opacity: {opacity}; stroke-width: 1.5 }}" for role, opacity in _AREAS.items())
    dark = "\n".join(f".poolctl-chart {rule}" for rule in _colors(_DARK).splitlines())
    light = "\n".join(f".poolctl-chart {rule}" for rule in (shapes + areas + "\n" + _colors(_LIGHT)).splitlines())
    return f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _colors(palette: Mapping[str, str]) -> str:
    rules = [f"text {{ fill: {palette['ink']} }}", f".ground {{ fill: {palette['ground']} }}"]
    rules.append(f".mark {{ stroke: {palette['ink']} }}")
    rules += [f".{role} {{ stroke: {palette[role]} }}" for role in ("rule", "limit")]
    rules += [f".{role} {{ stroke: {palette[role]}; fill: {palette[role]} }}" for role in _AREAS]
    return "\n".join(rules)


def _panel(panel: Panel, chart: Chart, top: float, height: float) -> list[str]:
    bottom = top + height
    parts = [_legend(panel, top - 8)]
    for value in sorted({0.0, panel.top, panel.limit.value if panel.limit else 0.0}):
        y = bottom - height * value / panel.top
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}h{_PLOT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{format_count(value)}</text>')
    for layer in panel.layers:
        line = _steps(layer, chart, bottom, height / panel.top)
        if line:
            start, name = line[1:].partition(" ")[0], _text(layer.name)
            parts.append(f'<path class="{layer.role} area" d="{line}V{bottom:.1f}H{start}Z"/>')
            parts.append(f'<path class="{layer.role} line" d="{line}"><title>{name}</title></path>')
    if panel.limit:
        y = bottom - height * panel.limit.value / panel.top
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}h{_PLOT}"/>')
    return parts


def _steps(layer: Layer, chart: Chart, bottom: float, scale: float) -> str:
    """A step line, one step for two pixels at most; "" when nothing is known."""
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


def _legend(panel: Panel, y: float) -> str:
    parts = [f'<text class="name" x="{_LEFT}" y="{y:.1f}">{_text(panel.title)}</text>']
    x = _LEFT + 9.0 * len(panel.title) + 24
    for layer in reversed(panel.layers) if len(panel.layers) > 1 else ():
        parts.append(f'<rect class="{layer.role}" x="{x:.0f}" y="{y - 10:.1f}" width="18" height="10"/>')
        parts.append(f'<text x="{x + 24:.0f}" y="{y:.1f}">{_text(layer.name)}</text>')
        x += 50 + 7 * len(layer.name)
    if panel.limit:
        parts.append(f'<path class="limit" d="M{x:.0f} {y - 5:.1f}h22"/>')
        parts.append(f'<text x="{x + 28:.0f}" y="{y:.1f}">{_text(panel.limit.name)}</text>')
    return "".join(parts)


def _time_axis(chart: Chart, top: float, bottom: float) -> tuple[list[str], float]:
    """The axis with its marks, and where they end."""
    span = max(chart.end - chart.start, 1e-9)
    parts = []
    for instant in ticks(chart.start, chart.end, 8):
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
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_text(mark.text)}</text>')
    return parts, bottom + _AXIS + _LINE * len(ends)


def _description(chart: Chart) -> str:
    """The chart in words."""
    sentences = []
    for panel in chart.panels:
        peaks = []
        for layer in panel.layers:
            known = [value for value in layer.values if value is not None]
            peaks.append(f"{layer.name} at most {format_count(max(known))}" if known else f"{layer.name} not seen")
        limit = f", limit {panel.limit.name}" if panel.limit else ""
        sentences.append(f"{panel.title}: {', '.join(peaks)}{limit}.")
    marks = [f"{format_duration(mark.at)}: {mark.text}." for mark in chart.marks]
    return " ".join([*sentences, *marks, f"From {format_duration(chart.start)} to {format_duration(chart.end)}."])


def _text(text: str, limit: int | None = 200) -> str:
    """Escaped for XML. Control characters, which XML cannot hold at all, are written out."""
    return escape(neutralize(text, limit))
