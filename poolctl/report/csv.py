"""A sweep as CSV, one line a run, for spreadsheets and plots. Times are seconds, counts are whole numbers.

Decides the columns, which are public: the swept keys, then the seed, then names that follow the JSON summary.
"""

import csv
import io

from poolctl.api.results import Batch, Point, reopened_rate

COLUMNS = (
    "seed",
    "verdict",
    "cut_off",
    "offered",
    "acquired",
    "released",
    "leaked",
    "timed_out",
    "refused",
    "failed",
    "unfinished",
    "duration",
    "throughput",
    "offered_rate",
    "wait_mean",
    "wait_p50",
    "wait_p90",
    "wait_p95",
    "wait_p99",
    "wait_max",
    "queued",
    "use_mean",
    "use_p99",
    "opened",
    "open_failures",
    "closed",
    "reopened_rate",
    "peak_open",
    "peak_in_use",
    "average_open",
    "average_in_use",
    "exhausted_at",
    "recovered_at",
)


def csv_of(batch: Batch) -> str:
    """The header and one line for each finished run, in order. What is unknown is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(axis.key for axis in batch.axes), *COLUMNS])
    values = [dict(zip(axis.words, axis.values, strict=True)) for axis in batch.axes]
    for point in batch.points:
        swept = [known[word] for known, word in zip(values, point.words, strict=True)]
        writer.writerow([*swept, *_row(point)])
    return text.getvalue()


def _row(point: Point) -> list[object]:
    summary = point.outcome.summary
    wait, use, connections = summary.wait_time, summary.use_time, summary.connections
    row: dict[str, object] = {
        "seed": point.seed,
        "verdict": point.outcome.verdict,
        "cut_off": int(point.outcome.failure is not None),
        "wait_mean": wait.mean,
        "wait_p50": wait.p50,
        "wait_p90": wait.p90,
        "wait_p95": wait.p95,
        "wait_p99": wait.p99,
        "wait_max": wait.max,
        "queued": summary.queued_count,
        "use_mean": use.mean,
        "use_p99": use.p99,
        "closed": connections.closed.total,
        "reopened_rate": reopened_rate(summary),
    }
    return [
        row[name] if name in row else getattr(summary if hasattr(summary, name) else connections, name)
        for name in COLUMNS
    ]
