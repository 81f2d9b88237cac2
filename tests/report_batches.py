"""Sweeps and replications to report on, whose numbers follow from one simple law."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from report_parts import connections, scenario, summary, times

from poolctl.api.results import Batch, Point, RunOutcome
from poolctl.diagnose.finding import Finding
from poolctl.scenario.sweep import parse_axes

BASE = scenario("checkout", pool={"max_open": 5}, load={"workers": 16})
QUIET = summary()
"""What is the same in every run, made once."""
HEALTHY = Finding("healthy", "info", "certain", "application", "nothing is wrong")
SMALL = Finding("pool-undersized", "warning", "likely", "application", "a third of the requests waited")
SLOTS = Finding("slots-exhausted", "critical", "certain", "database", "the server was full")


def outcome(size: int, instances: int, findings: Sequence[Finding] | None = None) -> RunOutcome:
    """A database that carries 960/s, and 97 slots."""
    open_at_once = size * instances
    throughput = min(20.0 * open_at_once, 960.0)
    refused = max(0, open_at_once - 97) * 40
    wait = 2.0 / open_at_once**1.5
    short = 20.0 * open_at_once < 900
    return RunOutcome(
        replace(
            QUIET,
            throughput=throughput,
            refused=refused,
            wait_time=times(*[wait / 4] * 98, wait, wait),
            connections=connections(opened=open_at_once + max(0, size - 40) * 31, peak_open=open_at_once),
        ),
        tuple(findings or ((SLOTS,) if refused else (SMALL,) if short else (HEALTHY,))),
        kernel="compiled",
    )


def sweep(*options: str, build: Callable[..., RunOutcome] = outcome) -> Batch:
    axes = parse_axes(options)
    rows = list(product(*(axis.words for axis in axes)))
    points = tuple(Point(row, 1, build(*(int(word) for word in row[:2]))) for row in rows)
    return Batch(BASE, points, len(points), axes)


def grid_of_two() -> Batch:
    return sweep("pool.max_open=5..60:5", "load.instances=2,4,8")


def line_of_one() -> Batch:
    return sweep("pool.max_open=5..60:5", build=lambda size: outcome(size, 2))


def cube_of_three() -> Batch:
    return sweep("pool.max_open=10,20", "load.instances=2,8", "load.workers=8,16")


def replications() -> Batch:
    points = tuple(
        Point((), 100 + number, outcome(5, 2 + number % 2, [SMALL] if number % 3 else [HEALTHY])) for number in range(6)
    )
    return Batch(BASE, points, 6)
