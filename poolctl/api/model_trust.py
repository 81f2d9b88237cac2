"""The distance of the model from the live run of the same scenario: two runs in, numbers and one sentence out.

Decides which numbers count, and from which distance on the model is not to be trusted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from poolctl.scenario.run import Generator, Run, Summary
from poolctl.units import format_count, format_duration

ModelTrust = Literal["close", "fair", "far", "unknown"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One number, live and in the model. ``path`` is its place in the JSON summary."""

    path: tuple[str, ...]
    name: str
    live: float
    model: float
    show: Callable[[float], str]

    @property
    def absolute(self) -> float:
        """Model less live."""
        return self.model - self.live

    @property
    def relative(self) -> float | None:
        """Of the live number; None where that is 0 and the model's is not."""
        if self.live:
            return self.absolute / self.live
        return None if self.model else 0.0


@dataclass(frozen=True, slots=True)
class _Number:
    path: tuple[str, ...]
    name: str
    of: Callable[[Summary], float]
    show: Callable[[float], str] = format_count


_NUMBERS = (
    _Number(("throughput",), "released/s", lambda summary: summary.throughput),
    _Number(("wait_time", "mean"), "wait mean", lambda summary: summary.wait_time.mean, format_duration),
    _Number(("wait_time", "p50"), "wait p50", lambda summary: summary.wait_time.p50, format_duration),
    _Number(("wait_time", "p99"), "wait p99", lambda summary: summary.wait_time.p99, format_duration),
    _Number(("use_time", "mean"), "use mean", lambda summary: summary.use_time.mean, format_duration),
    _Number(("queued", "count"), "queued", lambda summary: summary.queued_count),
    _Number(("timed_out",), "timed out", lambda summary: summary.timed_out),
    _Number(("refused",), "refused", lambda summary: summary.refused),
    _Number(("connections", "opened"), "opened", lambda summary: summary.connections.opened),
    _Number(("connections", "peak_open"), "peak open", lambda summary: summary.connections.peak_open),
    _Number(("connections", "average_in_use"), "average in use", lambda summary: summary.connections.average_in_use),
)

_JUDGED: dict[str, tuple[float, float, float]] = {
    "released/s": (0.05, 0.15, 0.0),
    "wait mean": (0.20, 0.50, 0.001),
    "wait p99": (0.30, 0.75, Generator.LAG_LIMIT),
    "use mean": (0.10, 0.30, 0.001),
}
"""Shares of the live number within which the model is close, and fair; and seconds that are always close, at the
99th percentile as many as a live run may add by itself.

Wider than what the model reaches against long runs: the live number is itself one draw of a short run, on a machine
that also runs poolctl. A p99 of a few thousand requests scatters by a quarter between seeds.
"""

SMALL_SHARE = 0.01
"""Timeouts and refusals that differ by less than this share of all acquires are close, by ten times it are fair."""


def compare_summaries(live: Summary, model: Summary) -> tuple[Difference, ...]:
    """Compare the main numbers of both, in the order in which a report shows them."""
    return tuple(
        Difference(number.path, number.name, number.of(live), number.of(model), number.show) for number in _NUMBERS
    )


def judge_model(live: Run, model: Run) -> tuple[ModelTrust, str]:
    """Judge how far to trust the model for scenarios like this one, and return why, as a sentence."""
    spoiler = _find_spoiler(live, model)
    if spoiler:
        return "unknown", f"The model cannot be judged: {spoiler}."
    found = compare_summaries(live.summary, model.summary)
    offered = max(live.summary.offered, 1)
    judged = [(_distance(difference, offered), difference) for difference in found]
    graded = [(distance, difference) for distance, difference in judged if distance is not None]
    worst, difference = max(graded, key=lambda pair: pair[0])
    described = ", ".join(_describe(difference) for _, difference in graded if difference.name in _JUDGED)
    if worst <= 1:
        return "close", f"The model can be trusted for loads like this one: {described}."
    if worst <= 2:
        return (
            "fair",
            f"Trust the model for which variant is better, not for its absolute numbers: {_describe(difference)}.",
        )
    return (
        "far",
        f"Do not trust the model here: {_describe(difference)}. What decides this run is not in the model.",
    )


def _find_spoiler(live: Run, model: Run) -> str:
    if live.interrupted or model.interrupted:
        return "the run was interrupted"
    if live.failure or model.failure:
        return f"the {'live' if live.failure else 'model'} run is incomplete"
    if live.generator is not None and live.generator.bound_by:
        return "the load generator was the limit of the live run"
    if not live.summary.released:
        return "no connection was released in the live run"
    return ""


def _distance(difference: Difference, offered: int) -> float | None:
    """Measure a difference: 0 to 1 is close, 1 to 2 fair, more is far; None for a number that is not judged."""
    if difference.name in ("timed out", "refused"):
        share = abs(difference.absolute) / offered
        return share / SMALL_SHARE if share <= SMALL_SHARE else 1 + share / (10 * SMALL_SHARE)
    if difference.name not in _JUDGED:
        return None
    close, fair, always = _JUDGED[difference.name]
    size = abs(difference.absolute)
    if size <= always:
        return 0.0
    share = size / difference.live if difference.live else float("inf")
    return share / close if share <= close else 1 + (share - close) / (fair - close)


def _describe(difference: Difference) -> str:
    live, model = difference.show(difference.live), difference.show(difference.model)
    return f"{difference.name} {live} live and {model} in the model{format_relative(difference, ' ({})')}"


def format_relative(difference: Difference, form: str = "{}") -> str:
    """Write the relative difference with its sign, or "" if it has no meaning."""
    relative = difference.relative
    if relative is None or not relative:
        return ""
    percent = relative * 100
    digits = f"{percent:+,.0f}" if abs(percent) >= 9.95 else f"{percent:+.2g}"
    return form.format(f"{digits} %")
