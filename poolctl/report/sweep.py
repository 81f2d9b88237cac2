"""The report of a sweep: what it comes to, one row a run, and a map or chart of each number.

Decides how the runs stand on a wide, a usual and a narrow screen, and in a pipe.
"""

from collections.abc import Sequence

from rich.text import Text

from poolctl.api.results import Batch, Point
from poolctl.report.batch import kernels_of, print_cautions, verdicts_of
from poolctl.report.charts import Line
from poolctl.report.heat import Grid, axis_order, bars, flat, heat_map
from poolctl.report.outcome import SWEPT, Metric, without_zeros
from poolctl.report.screen import Screen
from poolctl.report.simulation import print_repeat
from poolctl.report.terminal import print_columns
from poolctl.safe_text import neutralize
from poolctl.scenario.run import Summary
from poolctl.units import format_count

ENOUGH = 0.97
"""Share of the best throughput that counts as reaching it: what lies between is mostly chance."""

LABEL = 12
"""Characters of a value at most, below a chart."""


def print_sweep(screen: Screen, batch: Batch, *, repeat: str = "") -> None:
    """The report. ``repeat``: the command that does it again, "" for none."""
    names = short_names([axis.key for axis in batch.axes])
    screen.paragraph("", Text(headline(batch, names), style="bold"), hang=2)
    print_cautions(screen, batch)
    screen.paragraph("", _about(batch), hang=2)
    if batch.points:
        seen, never = without_zeros(SWEPT, batch.summaries)
        screen.print()
        _print_rows(screen, names, batch.points, seen)
        if never:
            screen.paragraph("", f"0 in every run: {', '.join(metric.name for metric in never)}", hang=2)
        _print_charts(screen, batch, names, seen)
    print_repeat(screen, repeat)


def headline(batch: Batch, names: Sequence[str]) -> str:
    """The best throughput, the first run that comes near it, and the first of those that is healthy."""
    if not batch.points:
        return "No run of the sweep was finished"
    best = max(summary.throughput for summary in batch.summaries)
    if not best:
        return "No run of the sweep released a connection"
    near = [point for point in batch.points if point.outcome.summary.throughput >= ENOUGH * best]
    told = f"The most is {format_count(best)} released/s; the first run with {ENOUGH * 100:.0f} % of it is "
    told += f"{_where(near[0], names)} ({near[0].outcome.verdict})"
    healthy = next((point for point in near if point.outcome.verdict == "OK"), None)
    if healthy is None:
        return f"{told}, and no such run is OK"
    return told if healthy is near[0] else f"{told}, the first that is OK {_where(healthy, names)}"


def _where(point: Point, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_shown(word)}" for name, word in zip(names, point.words, strict=True))


def short_names(keys: Sequence[str]) -> list[str]:
    """The keys without their section where that leaves them different."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _about(batch: Batch) -> str:
    axes = " x ".join(f"{axis.key} ({format_count(len(axis.words))})" for axis in batch.axes)
    runs = f"{format_count(len(batch.points))} model runs{kernels_of(batch)}"
    return (
        f"{neutralize(batch.scenario.name, 80)}: {axes}, {runs}, "
        f"seed {batch.scenario.load.seed}; {verdicts_of(batch)}; reopened/s = (opened - peak open) / duration"
    )


def _print_rows(screen: Screen, names: Sequence[str], points: Sequence[Point], metrics: Sequence[Metric]) -> None:
    numbers = [metric.name for metric in metrics]
    rows = [
        (*map(_shown, point.words), *(metric.show(metric.of(point.outcome.summary)) for metric in metrics))
        for point in points
    ]
    verdicts = [point.outcome.verdict + (", cut off" if point.outcome.failure else "") for point in points]
    words = [verdict.partition(" ")[0] for verdict in verdicts]
    if not screen.narrow:
        for told in (verdicts, words):
            table = [(*row, verdict) for row, verdict in zip(rows, told, strict=True)]
            if print_columns(screen, (*names, *numbers, "verdict"), table):
                return
    screen.paragraph("", Text(", ".join(names), style="bold"), hang=2)
    for row, verdict in zip(rows, verdicts, strict=True):
        values = zip(numbers, row[len(names) :], strict=True)
        told_values = [f"{name} {value}" for name, value in values if value not in ("0", "0 s")]
        lead = Text(f"{', '.join(row[: len(names)])}  ", style="bold")
        screen.paragraph(lead, ", ".join([*told_values, verdict]), hang=2)


def _print_charts(screen: Screen, batch: Batch, names: Sequence[str], metrics: Sequence[Metric]) -> None:
    """Bars for one key and maps for two; more have no picture."""
    if len(batch.axes) not in (1, 2) or len(batch.points) < 2:
        return
    for metric in metrics:
        screen.print()
        told = flat(metric, [metric.of(summary) for summary in batch.summaries])
        if told:
            screen.paragraph("", told)
        elif len(batch.axes) == 1:
            screen.chart(_bars(metric, batch, names[0], screen))
        else:
            screen.chart(_map(metric, batch, names, screen))


def _bars(metric: Metric, batch: Batch, name: str, screen: Screen) -> list[Line]:
    labels = [_shown(point.words[0], LABEL) for point in batch.points]
    values = [metric.of(summary) for summary in batch.summaries]
    return bars(metric, name, labels, values, screen.chart_width, ascii_only=screen.ascii_only)


def _map(metric: Metric, batch: Batch, names: Sequence[str], screen: Screen) -> list[Line]:
    known: dict[tuple[str, ...], Summary] = {point.words: point.outcome.summary for point in batch.points}
    across, down = axis_order([len(axis.words) for axis in batch.axes])
    columns, rows = batch.axes[across].words, batch.axes[down].words
    cells: list[list[float | None]] = []
    for row in rows:
        found = [known.get((column, row) if across == 0 else (row, column)) for column in columns]
        cells.append([None if summary is None else metric.of(summary) for summary in found])
    grid = Grid(
        names[across], [_shown(word, LABEL) for word in columns], names[down], [_shown(word, LABEL) for word in rows]
    )
    return heat_map(metric, grid, cells, screen.chart_width, ascii_only=screen.ascii_only)


def _shown(word: str, limit: int = 40) -> str:
    text = neutralize(word, None)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
