"""A sweep as a table: the throughput that a load test measured at several numbers of connections."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from poolctl.errors import BadInput
from poolctl.safe_text import neutralize
from poolctl.units import LONGEST, parse_duration, plural

_NAMES = {
    "connections": ("connections", "clients", "pool", "n"),
    "throughput": ("throughput", "tps", "rps", "x"),
    "latency": ("latency", "latency_s", "latency_ms"),
}
MOST_THROUGHPUT = 1e12
"""Requests a second, far above every server."""

FORM = "connections,throughput[,latency]"


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One window of a load test: the number of connections kept busy, and requests per second.

    ``latency`` is the mean time of a request in seconds, None if it was not measured.
    """

    connections: int
    throughput: float
    latency: float | None = None


def parse_sweep(text: str, name: str = "the sweep") -> tuple[SweepPoint, ...]:
    """Parse a CSV table with the columns connections, throughput and, optionally, latency.

    Rows may repeat and have any order; blank lines and lines that begin with # are ignored. If the first line consists
    of numbers, there is no header. A bare latency is in seconds, unless the column is named latency_ms; units may be
    written ("5.6ms"). Raises BadInput with the line for anything else, and for fewer than two rows.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    rows = [(number, _split_row(line, f"{name}, line {number}")) for number, line in lines]
    columns = {"connections": 0, "throughput": 1, "latency": 2}
    scale = 1.0
    if rows and not _is_number(rows[0][1][0]):
        number, header = rows.pop(0)
        columns, scale = _read_header(header, f"{name}, line {number}")
    points = tuple(_read_row(cells, columns, scale, f"{name}, line {number}") for number, cells in rows)
    if len(points) < 2:
        raise BadInput(
            f"{name}: {plural(len(points), 'row')}: a sweep needs two or more",
            hint=f"write a table with the columns {FORM}, one row for each number of connections measured",
        )
    return points


def _split_row(line: str, where: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line]))]
    except csv.Error as error:
        raise BadInput(f"{where}: not a row of a CSV table: {error}") from None


def _read_header(header: Sequence[str], where: str) -> tuple[dict[str, int], float]:
    names = [cell.lower() for cell in header]
    found = {}
    for column, known in _NAMES.items():
        at = next((names.index(name) for name in known if name in names), None)
        if at is not None:
            found[column] = at
        elif column != "latency":
            names_there = neutralize(", ".join(cell[:40] for cell in header[:8]))
            raise BadInput(f"{where}: no column {column} among {names_there}", hint=f"name them {FORM}")
    return found, 1e-3 if "latency_ms" in names else 1.0


def _read_row(cells: Sequence[str], columns: dict[str, int], scale: float, where: str) -> SweepPoint:
    def cell(column: str) -> str:
        at = columns.get(column)
        return cells[at] if at is not None and at < len(cells) else ""

    connections, throughput = cell("connections"), cell("throughput")
    # Seven digits are more than any server takes, and Python refuses to read thousands of them.
    if not connections.isdecimal() or len(connections) > 6 or int(connections) < 1:
        raise BadInput(f"{where}: connections = {connections[:40]!r}: must be a whole number from 1 to 999999")
    if not _is_number(throughput) or not 0 <= float(throughput) <= MOST_THROUGHPUT:
        raise BadInput(f"{where}: throughput = {throughput[:40]!r}: must be a number from 0 to {MOST_THROUGHPUT:,.0f}")
    latency = cell("latency")
    if not latency:
        return SweepPoint(int(connections), float(throughput))
    try:
        seconds = float(latency) * scale if _is_number(latency) else parse_duration(latency)
    except ValueError as error:
        raise BadInput(f"{where}: latency = {latency[:40]!r}: {error}") from None
    if not 0 <= seconds <= LONGEST:
        raise BadInput(f"{where}: latency = {latency[:40]!r}: must be from 0 to {LONGEST:,.0f} s")
    return SweepPoint(int(connections), float(throughput), seconds)


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def average_points(points: Iterable[SweepPoint]) -> tuple[SweepPoint, ...]:
    """Return one point for each number of connections, ascending: the means of its rows."""
    groups: dict[int, list[SweepPoint]] = {}
    for point in points:
        groups.setdefault(point.connections, []).append(point)
    means = []
    for connections, rows in sorted(groups.items()):
        latencies = [row.latency for row in rows if row.latency is not None]
        means.append(
            SweepPoint(
                connections,
                sum(row.throughput for row in rows) / len(rows),
                sum(latencies) / len(latencies) if latencies else None,
            )
        )
    return tuple(means)
