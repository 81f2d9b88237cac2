"""Many runs of one scenario, and the numbers that they are compared by. Pure: no layout, no color.

Decides which numbers a sweep or a series of replications shows, and in which words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.verdict import word_of
from poolctl.scenario.run import Summary
from poolctl.scenario.scenario import Scenario
from poolctl.scenario.sweep import Axis
from poolctl.units import format_count, format_duration


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What is kept of one of many runs: its numbers and findings, not its timeline. ``failure``, ``kernel``: as in
    Run."""

    summary: Summary
    findings: tuple[Finding, ...]
    failure: str | None = None
    kernel: str = ""

    @property
    def verdict(self) -> str:
        """The word and code of the worst finding: "CRITICAL leak", "OK"."""
        if not self.findings:
            return "NO VERDICT"
        worst = worst_first(self.findings)[0]
        return "OK" if worst.code == "healthy" else f"{word_of(worst)} {worst.code}"


@dataclass(frozen=True, slots=True)
class Point:
    """One of the runs: the word of each axis (none in replications), its seed, and its outcome."""

    words: tuple[str, ...]
    seed: int
    outcome: RunOutcome


@dataclass(frozen=True, slots=True)
class Batch:
    """The runs of a sweep (``axes``) or of replications (no axes), in order.

    ``planned``: how many were asked for; fewer ``points`` mean that the user had enough, or that processes were lost
    (``losses``: how). ``scenario`` is that of the first run; the others differ in their words or their seed.
    """

    scenario: Scenario
    points: tuple[Point, ...]
    planned: int
    axes: tuple[Axis, ...] = ()
    interrupted: bool = False
    losses: tuple[str, ...] = ()

    @property
    def kernels(self) -> list[str]:
        """Which kernels made the runs, where that is known."""
        return sorted({point.outcome.kernel for point in self.points} - {""})

    @property
    def summaries(self) -> list[Summary]:
        return [point.outcome.summary for point in self.points]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of a summary, with its name in tables and how it is written."""

    name: str
    of: Callable[[Summary], float]
    show: Callable[[float], str]
    role: str = ""
    """Which color it has in a chart."""


def reopened_rate(summary: Summary) -> float:
    """Connections per second that were opened again: (opened - peak_open) / duration, never below 0.

    A pool that keeps what it has opens no more than its peak. What lifetimes close counts too.
    """
    again = summary.connections.opened - summary.connections.peak_open
    return max(again, 0) / summary.duration if summary.duration > 0 else 0.0


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
