"""The reports of many runs of one scenario: a sweep over values, or replications under many seeds.

Decides which numbers compare, what a sweep comes to in one sentence, and which numbers are worth a picture.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from poolctl.api.results import Batch, Point, reopened_rate
from poolctl.report.blocks import (
    Block,
    ChartBlock,
    Listing,
    Note,
    Points,
    Repeat,
    Report,
    Section,
    Table,
    Verdict,
)
from poolctl.report.charts import BarChart, HeatMap, Unit, describe_flat, format_value, order_axes
from poolctl.report.findings import name_explanation
from poolctl.safe_text import neutralize
from poolctl.scenario.replications import CONFIDENCE, Estimate, estimate
from poolctl.scenario.run import Summary
from poolctl.units import format_count, plural

ENOUGH = 0.97
"""Share of the best throughput that counts as reaching it: what lies between is mostly chance."""

LABEL = 12
"""Characters of a value at most, below a chart."""

MOST_PICTURED_KEYS = 2

_RANKS = ("CRITICAL", "WARNING", "INFO", "OK", "NO VERDICT")
_INTERVAL = f"{CONFIDENCE * 100:.0f} % interval of the mean"
_CONSTANT = "in every run"
_REOPENED = "reopened/s = (opened - peak open) / duration"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of a summary, with its name in tables and its unit. ``role``: its color in a chart."""

    name: str
    read: Callable[[Summary], float]
    unit: Unit = "count"
    role: str = "in_use"

    def show(self, value: float) -> str:
        return format_value(value, self.unit)


RELEASED = Metric("released/s", lambda summary: summary.throughput)
WAIT_P99 = Metric("wait p99", lambda summary: summary.wait_time.p99, "time", "waiting")
TIMED_OUT = Metric("timed out", lambda summary: summary.timed_out, role="limit")
REFUSED = Metric("refused", lambda summary: summary.refused, role="limit")
REOPENED = Metric("reopened/s", reopened_rate, role="open")

SWEPT = (RELEASED, WAIT_P99, TIMED_OUT, REFUSED, REOPENED)
"""The numbers of a sweep, in this order."""

REPLICATED = (
    Metric("offered", lambda summary: summary.offered),
    Metric("acquired", lambda summary: summary.acquired),
    TIMED_OUT,
    REFUSED,
    Metric("failed", lambda summary: summary.failed),
    Metric("unfinished", lambda summary: summary.unfinished),
    Metric("leaked", lambda summary: summary.leaked),
    RELEASED,
    Metric("wait mean", lambda summary: summary.wait_time.mean, "time"),
    Metric("wait p50", lambda summary: summary.wait_time.p50, "time"),
    WAIT_P99,
    Metric("use mean", lambda summary: summary.use_time.mean, "time"),
    Metric("queued", lambda summary: summary.queued_count),
    Metric("opened", lambda summary: summary.connections.opened),
    REOPENED,
    Metric("peak open", lambda summary: summary.connections.peak_open),
    Metric("average in use", lambda summary: summary.connections.average_in_use),
)


def build_batch_report(batch: Batch, *, repeat: str = "") -> Report:
    """Return the report of a sweep or of replications. ``repeat``: the command that does it again, or ""."""
    if batch.axes:
        names = shorten_names([axis.key for axis in batch.axes])
        first, about = state_best(batch, names), _describe_sweep(batch)
        blocks = _build_sweep(batch, names)
    else:
        first = f"{plural(len(batch.points), 'replication')}: {count_verdicts(batch)}"
        about, blocks = _describe_replications(batch), _build_estimates(batch)
    findings = [finding for point in batch.points for finding in point.outcome.findings]
    return (
        Verdict("", None, "", first),
        *(Note(caution, "caution") for caution in warn_about_batch(batch)),
        Note(about),
        *blocks,
        Points((name_explanation(findings),)),
        Repeat(neutralize(repeat, None)),
    )


def warn_about_batch(batch: Batch) -> list[str]:
    """Return what a reader has to know before believing the numbers."""
    done, planned = format_count(len(batch.points)), format_count(batch.planned)
    cautions = []
    if batch.interrupted:
        cautions.append(f"INTERRUPTED after {done} of {planned} runs: slow runs are the first to be missing")
    for reason, count in Counter(batch.losses).items():
        cautions.append(f"INCOMPLETE: {_count_lost(count)} lost, {neutralize(reason, 300)}")
    failures = [point.outcome.failure for point in batch.points if point.outcome.failure]
    if failures:
        reason = neutralize(failures[0], 300)
        cautions.append(f"{_count_lost(len(failures))} stopped early; partial results shown. The first: {reason}")
    return cautions


def count_verdicts(batch: Batch) -> str:
    """Return how the runs ended, worst first, then most frequent first: "12 x CRITICAL self-deadlock, 3 x OK"."""
    counts = Counter(point.outcome.verdict for point in batch.points).most_common()
    ranked = sorted(counts, key=lambda item: _rank(item[0]))
    return ", ".join(f"{format_count(count)} x {verdict}" for verdict, count in ranked) or "no run"


def state_best(batch: Batch, names: Sequence[str]) -> str:
    """Return the best throughput, the first run that comes near it, and the first healthy run near it."""
    if not batch.points:
        return "No run of the sweep was finished"
    best = max(summary.throughput for summary in batch.summaries)
    if not best:
        return "No run of the sweep released a connection"
    near = [point for point in batch.points if point.outcome.summary.throughput >= ENOUGH * best]
    sentence = f"The most is {format_count(best)} released/s; the first run with {ENOUGH * 100:.0f} % of it is "
    sentence += f"{_name_place(near[0], names)} ({near[0].outcome.verdict})"
    healthy = next((point for point in near if point.outcome.verdict == "OK"), None)
    if healthy is None:
        return f"{sentence}, and no such run is OK"
    return sentence if healthy is near[0] else f"{sentence}, the first that is OK {_name_place(healthy, names)}"


def shorten_names(keys: Sequence[str]) -> list[str]:
    """Return the keys without their section where that leaves them different."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _build_sweep(batch: Batch, names: Sequence[str]) -> tuple[Block, ...]:
    if not batch.points:
        return ()
    metrics, never = _without_zeros(SWEPT, batch.summaries)
    return (
        Section("", (_list_runs(names, batch.points, metrics), _name_zeros(never))),
        *(_chart_metric(metric, batch, names) for metric in metrics if _has_picture(batch)),
    )


def _list_runs(names: Sequence[str], points: Sequence[Point], metrics: Sequence[Metric]) -> Table:
    numbers = [metric.name for metric in metrics]
    verdicts = [point.outcome.verdict + (", stopped early" if point.outcome.failure else "") for point in points]
    rows = [
        (*map(_show_word, point.words), *(metric.show(metric.read(point.outcome.summary)) for metric in metrics))
        for point in points
    ]
    header = (*names, *numbers, "verdict")
    full = tuple((*row, verdict) for row, verdict in zip(rows, verdicts, strict=True))
    short = tuple((*row, verdict.partition(" ")[0]) for row, verdict in zip(rows, verdicts, strict=True))
    records = []
    for row, verdict in zip(rows, verdicts, strict=True):
        cells = zip(numbers, row[len(names) :], strict=True)
        nonzero = [f"{name} {cell}" for name, cell in cells if cell not in ("0", "0 s")]
        records.append((", ".join(row[: len(names)]), ", ".join([*nonzero, verdict])))
    listing = Listing(", ".join(names), tuple(records), is_inline=True)
    return Table("", header, full, narrower=(Table("", header, short),), listing=listing)


def _chart_metric(metric: Metric, batch: Batch, names: Sequence[str]) -> Block:
    """Return bars for one key and a map for two, or a sentence where all values are about the same."""
    values = [metric.read(summary) for summary in batch.summaries]
    flat = describe_flat(metric.name, values, metric.unit)
    if flat:
        return Section("", (Note(flat),))
    if len(batch.axes) == 1:
        labels = tuple(_show_word(point.words[0], LABEL) for point in batch.points)
        return ChartBlock(BarChart(metric.name, metric.role, names[0], labels, tuple(values), metric.unit))
    return ChartBlock(_map_metric(metric, batch, names))


def _map_metric(metric: Metric, batch: Batch, names: Sequence[str]) -> HeatMap:
    known: dict[tuple[str, ...], Summary] = {point.words: point.outcome.summary for point in batch.points}
    across, down = order_axes([len(axis.words) for axis in batch.axes])
    columns, rows = batch.axes[across].words, batch.axes[down].words
    cells = []
    for row in rows:
        found = [known.get((column, row) if across == 0 else (row, column)) for column in columns]
        cells.append(tuple(None if summary is None else metric.read(summary) for summary in found))
    return HeatMap(
        metric.name,
        metric.role,
        names[across],
        tuple(_show_word(word, LABEL) for word in columns),
        names[down],
        tuple(_show_word(word, LABEL) for word in rows),
        tuple(cells),
        metric.unit,
    )


def _build_estimates(batch: Batch) -> tuple[Block, ...]:
    if not batch.points:
        return ()
    metrics, never = _without_zeros(REPLICATED, batch.summaries)
    rows = []
    for metric in metrics:
        value = estimate([metric.read(summary) for summary in batch.summaries])
        bounds = _format_interval(metric, value)
        rows.append((metric.name, metric.show(value.mean), metric.show(value.least), metric.show(value.most), bounds))
    records = tuple(
        (name, f"{mean} {bounds}" if bounds == _CONSTANT else f"{mean} ({bounds}; {least} to {most})")
        for name, mean, least, most, bounds in rows
    )
    listing = Listing(f"mean ({_INTERVAL}; least to most)", records, is_inline=True)
    table = Table("", ("", "mean", "least", "most", _INTERVAL), tuple(rows), listing=listing)
    return (Section("", (table, _name_zeros(never))),)


def _format_interval(metric: Metric, value: Estimate) -> str:
    """Return the interval with its half width as a share of the mean: "96.1 to 99.5 (+- 1.7 %)"."""
    if value.low is None or value.high is None:
        return "unknown"
    if value.high - value.low <= 1e-9 * abs(value.mean):
        return _CONSTANT
    share = f" (+- {(value.high - value.mean) / value.mean * 100:.2g} %)" if value.mean else ""
    # A time or count below 0 cannot be; the interval of one that scatters widely can.
    return f"{metric.show(max(value.low, 0.0))} to {metric.show(value.high)}{share}"


def _describe_sweep(batch: Batch) -> str:
    axes = " x ".join(f"{axis.key} ({format_count(len(axis.words))})" for axis in batch.axes)
    runs = f"{format_count(len(batch.points))} model runs{_name_kernels(batch)}"
    return (
        f"{neutralize(batch.scenario.name, 80)}: {axes}, {runs}, "
        f"seed {batch.scenario.load.seed}; {count_verdicts(batch)}; {_REOPENED}"
    )


def _describe_replications(batch: Batch) -> str:
    degrees = len(batch.points) - 1
    how = f"intervals by Student's t ({format_count(degrees)} degrees of freedom)" if degrees > 0 else "no intervals"
    name, seed = neutralize(batch.scenario.name, 80), batch.scenario.load.seed
    return f"{name}: model runs{_name_kernels(batch)} with seeds derived from {seed}, {how}; {_REOPENED}"


def _name_kernels(batch: Batch) -> str:
    """Return which kernel made the runs, to follow "model runs"; "" where that is not known."""
    return f" ({' and '.join(batch.kernels)} kernel)" if batch.kernels else ""


def _has_picture(batch: Batch) -> bool:
    return len(batch.axes) <= MOST_PICTURED_KEYS and len(batch.points) > 1


def _without_zeros(metrics: Sequence[Metric], summaries: Sequence[Summary]) -> tuple[list[Metric], list[Metric]]:
    """Return the metrics that are ever more than 0, and the metrics that never are."""
    used = [metric for metric in metrics if any(metric.read(summary) for summary in summaries)]
    return used, [metric for metric in metrics if metric not in used]


def _name_zeros(metrics: Sequence[Metric]) -> Note:
    return Note(f"0 in every run: {', '.join(metric.name for metric in metrics)}" if metrics else "")


def _rank(verdict: str) -> int:
    return next(rank for rank, word in enumerate(_RANKS) if verdict.startswith(word))


def _name_place(point: Point, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_show_word(word)}" for name, word in zip(names, point.words, strict=True))


def _show_word(word: str, limit: int = 40) -> str:
    text = neutralize(word, None)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _count_lost(count: int) -> str:
    return "1 run was" if count == 1 else f"{format_count(count)} runs were"
