"""The hold of a connection, from acquire to release, as far as it is known: it counts for capacity and for demand."""

from collections.abc import Sequence

from poolctl.sizing.figures import Figure, Figures, Window

LEAST_RATE = 1e-6
"""Transactions per second, one in eleven days, below which a throughput tells nothing of a hold."""


def hold_of(figures: Figures) -> Figure | None:
    """Mean hold: as given or measured; else busy over throughput in the least crowded windows, or altogether."""
    if figures.hold_time is not None:
        return figures.hold_time
    shortest = shortest_hold(figures.windows, figures.cores)
    if shortest is not None:
        return Figure(shortest, "measured")
    if figures.parallelism is not None and figures.throughput is not None and figures.throughput.value >= LEAST_RATE:
        return Figure(figures.parallelism.value / figures.throughput.value, figures.parallelism.origin)
    return None


def shortest_hold(windows: Sequence[Window], cores: Figure | None) -> float | None:
    """Mean hold in the least crowded windows (5th percentile of busy / throughput), seconds; None without any.

    Where the processors were watched, only windows that left them half idle count: a hold measured under saturation
    only echoes the number of clients. The idea is that of TCP Vegas' shortest round trip.
    """
    holds = sorted(
        window.busy / window.throughput
        for window in windows
        if window.throughput > 0
        and window.busy > 0
        and (window.database_cpu is None or cores is None or window.database_cpu < 0.5 * cores.value)
    )
    return holds[len(holds) // 20] if holds else None
