"""What a run's chart shows: panels above one time axis, as data for the terminal and for SVG alike.

Decides which lines stand together and against which limit. Waiting requests have a panel of their own: on the
axis of the connections a long queue would flatten everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from poolctl.api.results import Variant
from poolctl.report.facts import limit_of
from poolctl.safe_text import neutralize
from poolctl.scenario.run import Run, TimelinePoint
from poolctl.units import format_count, format_duration

_STEPS = (
    *(unit * 10.0**power for power in (-4, -3, -2, -1, 0) for unit in (1, 2, 5)),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A line over time. ``role`` decides how it is drawn: in_use, open, waiting or server. None: not known."""

    name: str
    role: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class LimitLine:
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Panel:
    """Layers from back to front on one axis from 0 to ``top``; ``rows``: its height in lines of a terminal."""

    title: str
    layers: tuple[Layer, ...]
    top: float
    limit: LimitLine | None = None
    rows: int = 3


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an instant of the run."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """``at`` are the instants of every layer's values, in seconds of the run's clock."""

    title: str
    at: tuple[float, ...]
    panels: tuple[Panel, ...]
    start: float
    end: float
    marks: tuple[Mark, ...] = ()


def chart_of(run: Run) -> Chart | None:
    """The chart of one run; None when too little was seen to draw one."""
    points = run.timeline
    if len(points) < 2:
        return None
    instances = sum(part.load.instances for part in run.scenario.all_services)
    pool = _pool_panel("pool" if instances == 1 else "pools", run, points)
    panels = [replace(pool, rows=5)]
    server = _server_panel(run, points)
    if server:
        panels.append(server)
    if any(point.waiting for point in points):
        panels.append(_panel("waiting", [_layer("waiting", "waiting", [point.waiting for point in points])]))
    title = f"{neutralize(run.scenario.name, 80)}: connections over time"
    at = tuple(point.at for point in points)
    return Chart(title, at, tuple(panels), min(0.0, at[0]), at[-1], _marks(run, at[-1]))


def comparison_chart_of(variants: Sequence[Variant]) -> Chart | None:
    """One panel a variant, all on the same axes, so that heights compare. None when there is nothing to draw."""
    drawn = [variant for variant in variants if len(variant.run.timeline) >= 2]
    if not drawn:
        return None
    end = max(variant.run.timeline[-1].at for variant in drawn)
    step = min(_step(variant.run.timeline) for variant in drawn)
    at = tuple(step * number for number in range(int(end / step) + 1))
    panels = []
    for variant in drawn:
        points = _on_grid(variant.run.timeline, at)
        panels.append(_pool_panel(neutralize(variant.name, 40), variant.run, points))
    top = max(panel.top for panel in panels)
    same = tuple(_rescaled(panel, top, 4 if len(panels) <= 3 else 3) for panel in panels)
    return Chart("connections of each variant over time", at, same, 0.0, end)


def ticks(start: float, end: float, most: int) -> list[float]:
    """Round instants from ``start`` to ``end`` for a time axis, at most ``most`` + 1 of them."""
    least = (end - start) / max(most, 1)
    step = next((step for step in _STEPS if step >= least), _STEPS[-1] * ceil(least / _STEPS[-1]))
    first = ceil(start / step - 1e-9)
    return [step * number for number in range(first, int(end / step + 1e-9) + 1)]


def _pool_panel(title: str, run: Run, points: Sequence[TimelinePoint | None]) -> Panel:
    layers = [
        _layer("open", "open", [point.open if point else None for point in points]),
        _layer("in use", "in_use", [point.in_use if point else None for point in points]),
    ]
    most, parts = limit_of(run.scenario), run.scenario.all_services
    terms = [f"{part.load.instances} x {part.pool.max_open}" for part in parts]
    sum_of = f"{' + '.join(terms)} = " if len(parts) > 1 or parts[0].load.instances > 1 else ""
    return _panel(title, layers, LimitLine(f"max_open {sum_of}{format_count(most)}", most) if most else None)


def _server_panel(run: Run, points: Sequence[TimelinePoint]) -> Panel | None:
    if all(point.server_connections is None for point in points):
        return None
    seen = run.summary.server
    usable = seen.usable if seen and seen.usable else None
    layer = _layer("server connections", "server", [point.server_connections for point in points])
    return _panel("server", [layer], LimitLine(f"usable {format_count(usable)}", usable) if usable else None)


def _panel(title: str, layers: Sequence[Layer], limit: LimitLine | None = None) -> Panel:
    peak = max((value for layer in layers for value in layer.values if value is not None), default=0.0)
    # A limit far above the data would press the data flat; the reader is told where it is instead.
    if limit and limit.value > 4 * max(peak, 1.0):
        return Panel(f"{title} ({limit.name} is above the chart)", tuple(layers), max(peak, 1.0))
    return Panel(title, tuple(layers), max(peak, limit.value if limit else 1.0, 1.0), limit)


def _rescaled(panel: Panel, top: float, rows: int) -> Panel:
    """On a common axis. A limit that would lie in the lowest quarter is told instead of drawn."""
    if panel.limit and panel.limit.value * 4 < top:
        return Panel(f"{panel.title} ({panel.limit.name})", panel.layers, top, rows=rows)
    return Panel(panel.title, panel.layers, top, panel.limit, rows)


def _layer(name: str, role: str, values: Sequence[float | None]) -> Layer:
    return Layer(name, role, tuple(values))


def _marks(run: Run, end: float) -> tuple[Mark, ...]:
    marks = [Mark(event.at, event.do) for event in run.scenario.events]
    for name, at in (("exhausted", run.summary.exhausted_at), ("recovered", run.summary.recovered_at)):
        if at is not None:
            marks.append(Mark(at, f"{name} {format_duration(at)}"))
    return tuple(sorted((mark for mark in marks if 0 <= mark.at <= end), key=lambda mark: mark.at))


def _step(points: Sequence[TimelinePoint]) -> float:
    """The usual distance of the timeline's rows."""
    distances = sorted(after.at - before.at for before, after in pairwise(points))
    return max(distances[len(distances) // 2], 1e-3)


def _on_grid(points: Sequence[TimelinePoint], at: Sequence[float]) -> list[TimelinePoint | None]:
    """The last point at or before each instant; None before the first and after the last one."""
    found: list[TimelinePoint | None] = []
    current = -1
    for instant in at:
        while current + 1 < len(points) and points[current + 1].at <= instant + 1e-9:
            current += 1
        past = current == len(points) - 1 and instant > points[-1].at + 1e-9
        found.append(None if current < 0 or past else points[current])
    return found
