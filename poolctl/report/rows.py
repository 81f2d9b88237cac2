"""Records as rows of text, for terminal tables and HTML tables alike. Pure: no layout, no color."""

from collections.abc import Sequence

from poolctl.api.results import Variant
from poolctl.report.verdict import verdict_of
from poolctl.safe_text import neutralize
from poolctl.scenario.run import ObservedError
from poolctl.units import format_count, format_duration

MOST_ERRORS = 12
ERROR_HEADER = ("errors", "from", "first at", "sqlstate", "message")
HEADER = (
    "variant",
    "verdict",
    "released/s",
    "wait p50",
    "wait p99",
    "timed out",
    "refused",
    "leaked",
    "opened",
    "peak open",
    "server peak",
)


def error_rows(errors: Sequence[ObservedError]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the kinds of error, the earliest first, at most ``MOST_ERRORS`` of them."""
    rows: list[tuple[str, ...]] = [
        (
            format_count(error.count),
            neutralize(error.kind.origin, 20),
            format_duration(error.first_at),
            neutralize(error.kind.sqlstate or "-", 10),
            neutralize(error.kind.message or error.kind.name),
        )
        for error in sorted(errors, key=lambda error: error.first_at)[:MOST_ERRORS]
    ]
    return ERROR_HEADER, rows


def comparison_row(variant: Variant) -> tuple[str, ...]:
    """The variant's numbers in the order of ``HEADER``."""
    summary, server = variant.run.summary, variant.run.summary.server
    verdict = verdict_of(variant.run, variant.findings)
    peak = server.peak_connections if server else None
    usable = f" of {format_count(server.usable)}" if server and server.usable is not None else ""
    return (
        neutralize(variant.name, 40),
        verdict.word if verdict.word == "OK" else f"{verdict.word} {verdict.code}".strip(),
        format_count(summary.throughput),
        format_duration(summary.wait_time.p50),
        format_duration(summary.wait_time.p99),
        format_count(summary.timed_out),
        format_count(summary.refused),
        format_count(summary.leaked),
        format_count(summary.connections.opened),
        format_count(summary.connections.peak_open),
        "-" if peak is None else f"{format_count(peak)}{usable}",
    )


def headline(variants: Sequence[Variant]) -> str:
    """How the variants ended, in one line: "leak: CRITICAL, correct: OK"."""
    return ", ".join(
        f"{neutralize(variant.name, 40)}: {verdict_of(variant.run, variant.findings).word}" for variant in variants
    )
