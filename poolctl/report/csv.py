"""Writes the main table of a report as CSV, for spreadsheets and plots. Times are seconds, counts are whole numbers.

Decides the columns, which are public. A sweep and replications have a line for each run: the swept keys, the seed,
and names that follow the JSON summary. A recommendation has a line for each size tried, a fleet one for each limit.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from poolctl.api.results import Batch, FleetResult, Point, RecommendResult, SimulateResult, reopened_rate
from poolctl.errors import CannotDo

if TYPE_CHECKING:
    from poolctl.report.build import Result

RUN_COLUMNS = (
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


TRIED_COLUMNS = (
    "moment",
    "max_open",
    "is_current",
    "offered_rate",
    "throughput",
    "wait_p99",
    "refused",
    "timed_out",
    "reopened_rate",
)
LIMIT_COLUMNS = ("kind", "name", "limit", "hard", "usual", "peak", "worst", "worst_moment", "is_kept", "is_refusing")


def write_csv(result: "Result") -> str:
    """Return a header, and a line for each record in order. What is unknown or unlimited is empty.

    Raises CannotDo for a result without such a table.
    """
    if isinstance(result, SimulateResult) and result.batch is not None:
        return _write(_list_runs(result.batch))
    if isinstance(result, RecommendResult):
        tried = result.verification
        if tried is None or not (tried.swept or tried.moments):
            raise CannotDo("no size was tried, so there is no table", hint="add --verify, or write .md, .html or .json")
        return _write(
            _list_attributes(TRIED_COLUMNS, (*sorted(tried.swept, key=lambda trial: trial.max_open), *tried.moments))
        )
    if isinstance(result, FleetResult):
        return _write(_list_attributes(LIMIT_COLUMNS, result.check.limits))
    raise CannotDo("the report has no table of runs", hint="write .md, .html or .json instead")


def _write(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _list_attributes(columns: Sequence[str], records: Iterable[object]) -> Iterator[Sequence[object]]:
    yield columns
    for record in records:
        values = [getattr(record, name) for name in columns]
        yield [int(value) if isinstance(value, bool) else value for value in values]


def _list_runs(batch: Batch) -> Iterator[Sequence[object]]:
    yield [*(axis.key for axis in batch.axes), *RUN_COLUMNS]
    values = [dict(zip(axis.words, axis.values, strict=True)) for axis in batch.axes]
    for point in batch.points:
        yield [*(known[word] for known, word in zip(values, point.words, strict=True)), *_list_row(point)]


def _list_row(point: Point) -> list[object]:
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
        for name in RUN_COLUMNS
    ]
