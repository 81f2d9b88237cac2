"""The report of replications: means with their confidence intervals, and how often each verdict was given."""

from rich.text import Text

from poolctl.api.results import Batch
from poolctl.report.batch import kernels_of, print_cautions, verdicts_of
from poolctl.report.outcome import REPLICATED, Metric, without_zeros
from poolctl.report.screen import Screen
from poolctl.report.simulation import print_repeat
from poolctl.report.terminal import print_columns
from poolctl.safe_text import neutralize
from poolctl.scenario.replications import CONFIDENCE, Estimate, estimate
from poolctl.units import format_count

_INTERVAL = f"{CONFIDENCE * 100:.0f} % interval of the mean"
HEADER = ("", "mean", "least", "most", _INTERVAL)


SAME = "in every run"


def print_replications(screen: Screen, batch: Batch, *, repeat: str = "") -> None:
    """The report. ``repeat``: the command that does it again, "" for none."""
    done = len(batch.points)
    counted = f"{format_count(done)} replication{'' if done == 1 else 's'}"
    screen.paragraph("", Text(f"{counted}: {verdicts_of(batch)}", style="bold"), hang=2)
    print_cautions(screen, batch)
    screen.paragraph("", _about(batch), hang=2)
    if batch.points:
        screen.print()
        _print_estimates(screen, batch)
    print_repeat(screen, repeat)


def _about(batch: Batch) -> str:
    degrees = len(batch.points) - 1
    told = f"intervals by Student's t ({format_count(degrees)} degrees of freedom)" if degrees > 0 else "no intervals"
    name, seed = neutralize(batch.scenario.name, 80), batch.scenario.load.seed
    return (
        f"{name}: model runs{kernels_of(batch)} with seeds derived from {seed}, {told}; "
        "reopened/s = (opened - peak open) / duration"
    )


def _print_estimates(screen: Screen, batch: Batch) -> None:
    seen, never = without_zeros(REPLICATED, batch.summaries)
    found = [(metric, estimate([metric.of(summary) for summary in batch.summaries])) for metric in seen]
    rows = [
        (
            metric.name,
            metric.show(value.mean),
            metric.show(value.least),
            metric.show(value.most),
            interval(metric, value),
        )
        for metric, value in found
    ]
    if screen.narrow or not print_columns(screen, HEADER, rows):
        screen.paragraph("", Text(f"mean ({_INTERVAL}; least to most)", style="bold"), hang=2)
        for name, mean, least, most, bounds in rows:
            told = SAME if bounds == SAME else f"({bounds}; {least} to {most})"
            screen.paragraph(Text(f"{name}  ", style="bold"), f"{mean} {told}", hang=2)
    if never:
        screen.paragraph("", f"0 in every run: {', '.join(metric.name for metric in never)}", hang=2)


def interval(metric: Metric, value: Estimate) -> str:
    """The interval with its half width as a share of the mean: "96.1 to 99.5 (+- 1.7 %)"; "in every run" without
    any scatter."""
    if value.low is None or value.high is None:
        return "unknown"
    if value.high - value.low <= 1e-9 * abs(value.mean):
        return SAME
    share = f" (+- {(value.high - value.mean) / value.mean * 100:.2g} %)" if value.mean else ""
    # A time or count below 0 cannot be; the interval of one that scatters widely can.
    return f"{metric.show(max(value.low, 0.0))} to {metric.show(value.high)}{share}"
