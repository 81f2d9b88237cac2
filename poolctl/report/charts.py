"""What a chart shows, as data for terminals, Markdown and SVG alike: lines over time, bars, and heat maps.

Decides axes, scales and classes. Leaves characters to ``drawing`` and shapes to ``svg``; which numbers a chart shows
is decided by the report that it stands in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Literal

from poolctl.units import format_count, format_duration

Unit = Literal["count", "time"]

_TICKS = (
    *(unit * 10.0**power for power in (-4, -3, -2, -1, 0) for unit in (1, 2, 5)),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0),
)

FLAT = 1.03
"""Values within this ratio of each other are not drawn: a picture would make contrast of what is chance."""

HEAT_CLASSES = 4

_SPREAD = 20.0
"""From the smallest to the largest value more than so many times: the classes of heat then grow in ratio."""


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
class TimeChart:
    """Panels above one time axis. ``at``: the instants of every layer's values, in seconds of the run's clock."""

    title: str
    at: tuple[float, ...]
    panels: tuple[Panel, ...]
    start: float
    end: float
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class BarChart:
    """A bar for each value of one key. ``role``: its color, as that of a layer, or limit."""

    title: str
    role: str
    key: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    unit: Unit = "count"


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A cell for each pair of values of two keys. ``values``: by row and column, None where a run is missing."""

    title: str
    role: str
    across: str
    columns: tuple[str, ...]
    down: str
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: Unit = "count"

    @property
    def known(self) -> list[float]:
        return [value for row in self.values for value in row if value is not None]


def format_value(value: float, unit: Unit) -> str:
    return format_duration(value) if unit == "time" else format_count(value)


def scale_panel(title: str, layers: Sequence[Layer], limit: LimitLine | None = None, rows: int = 3) -> Panel:
    """Return the panel with an axis to its highest value or its limit.

    A limit far above the data would press the data flat: the title says where it is instead.
    """
    peak = max((value for layer in layers for value in layer.values if value is not None), default=0.0)
    if limit and limit.value > 4 * max(peak, 1.0):
        return Panel(f"{title} ({limit.name} is above the chart)", tuple(layers), max(peak, 1.0), rows=rows)
    return Panel(title, tuple(layers), max(peak, limit.value if limit else 1.0, 1.0), limit, rows)


def rescale_panel(panel: Panel, top: float, rows: int) -> Panel:
    """Return the panel on an axis to ``top``. The title names a limit that would lie in the lowest quarter."""
    if panel.limit and panel.limit.value * 4 < top:
        return Panel(f"{panel.title} ({panel.limit.name})", panel.layers, top, rows=rows)
    return Panel(panel.title, panel.layers, top, panel.limit, rows)


def place_ticks(start: float, end: float, most: int) -> list[float]:
    """Return round instants from ``start`` to ``end`` for a time axis, at most ``most`` + 1 of them."""
    least = (end - start) / max(most, 1)
    step = next((step for step in _TICKS if step >= least), _TICKS[-1] * ceil(least / _TICKS[-1]))
    first = ceil(start / step - 1e-9)
    return [step * number for number in range(first, int(end / step + 1e-9) + 1)]


def resample(values: Sequence[float | None], at: Sequence[float], start: float, end: float, bins: int) -> list[float]:
    """Return the largest value within each of ``bins`` equal spans of time.

    A span without a value repeats the one before it; -1 means that there is none yet. The largest, since a peak that
    touched the limit must not vanish in a narrow chart.
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


def describe_flat(title: str, values: Sequence[float], unit: Unit) -> str:
    """Return what to say instead of drawing ``values`` that are all about the same, "" for values worth drawing."""
    least, most = min(values), max(values)
    if most > least * FLAT:
        return ""
    shown = [format_value(least, unit), format_value(most, unit)]
    return f"{title} {' to '.join(dict.fromkeys(shown))} in every run"


def order_axes(sizes: Sequence[int]) -> tuple[int, int]:
    """Return which of two axes goes across, and which goes down: the longer one goes across."""
    return (0, 1) if sizes[0] > sizes[1] else (1, 0)


def divide_heat(values: Sequence[float]) -> list[float]:
    """Return where each class of heat ends: equal steps, or equal ratios where the values above 0 spread far."""
    positive = [value for value in values if value > 0]
    if not positive:
        return []
    least, most = min(positive), max(positive)
    if most <= least * (1 + 1e-9):
        return [most]
    if most / least > _SPREAD:
        step = log(most / least) / HEAT_CLASSES
        ends = [least * exp(step * number) for number in range(1, HEAT_CLASSES)]
    else:
        ends = [least + (most - least) * number / HEAT_CLASSES for number in range(1, HEAT_CLASSES)]
    return [*ends, most]


def find_heat_class(value: float, classes: Sequence[float]) -> int:
    """Return the number of the class that ``value`` belongs to: 0 for nothing, 1 for the lowest of ``classes``."""
    if value <= 0:
        return 0
    return next((number for number, end in enumerate(classes, 1) if value <= end), len(classes))


def describe_heat(heat: HeatMap) -> list[tuple[int, str]]:
    """Return each class with the values in it, in words: (0, "0"), (1, "10 to 17.5"), (2, "to 25")."""
    classes = divide_heat(heat.known)
    key = [(0, "0")] if any(value <= 0 for value in heat.known) else []
    least = min((value for value in heat.known if value > 0), default=0.0)
    for number, end in enumerate(classes, 1):
        text = format_value(end, heat.unit)
        if len(classes) > 1:
            text = f"{format_value(least, heat.unit)} to {text}" if number == 1 else f"to {text}"
        key.append((number, text))
    return key
