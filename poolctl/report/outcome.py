"""The numbers that many runs of one scenario are compared by. Pure: no layout, no color.

Decides which numbers a sweep or a series of replications shows, and in which words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from poolctl.api.results import reopened_rate
from poolctl.scenario.run import Summary
from poolctl.units import format_count, format_duration


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of a summary, with its name in tables and how it is written."""

    name: str
    of: Callable[[Summary], float]
    show: Callable[[float], str]
    role: str = ""
    """Which color it has in a chart."""


RELEASED = Metric("released/s", lambda summary: summary.throughput, format_count, "in_use")
WAIT_P99 = Metric("wait p99", lambda summary: summary.wait_time.p99, format_duration, "waiting")
TIMED_OUT = Metric("timed out", lambda summary: summary.timed_out, format_count, "limit")
REFUSED = Metric("refused", lambda summary: summary.refused, format_count, "limit")
REOPENED = Metric("reopened/s", reopened_rate, format_count, "open")

SWEPT = (RELEASED, WAIT_P99, TIMED_OUT, REFUSED, REOPENED)
"""What a sweep shows, in this order."""

REPLICATED = (
    Metric("offered", lambda summary: summary.offered, format_count),
    Metric("acquired", lambda summary: summary.acquired, format_count),
    TIMED_OUT,
    REFUSED,
    Metric("failed", lambda summary: summary.failed, format_count),
    Metric("unfinished", lambda summary: summary.unfinished, format_count),
    Metric("leaked", lambda summary: summary.leaked, format_count),
    RELEASED,
    Metric("wait mean", lambda summary: summary.wait_time.mean, format_duration),
    Metric("wait p50", lambda summary: summary.wait_time.p50, format_duration),
    WAIT_P99,
    Metric("use mean", lambda summary: summary.use_time.mean, format_duration),
    Metric("queued", lambda summary: summary.queued_count, format_count),
    Metric("opened", lambda summary: summary.connections.opened, format_count),
    REOPENED,
    Metric("peak open", lambda summary: summary.connections.peak_open, format_count),
    Metric("average in use", lambda summary: summary.connections.average_in_use, format_count),
)


def without_zeros(metrics: Sequence[Metric], summaries: Sequence[Summary]) -> tuple[list[Metric], list[Metric]]:
    """The metrics that are ever more than 0, and those that never are."""
    seen = [metric for metric in metrics if any(metric.of(summary) for summary in summaries)]
    return seen, [metric for metric in metrics if metric not in seen]
