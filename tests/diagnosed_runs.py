"""Finished runs for the tests of the diagnosis, built from the few figures that a test is about.

Every other figure is that of a quiet run: 4,000 acquires in 10 s through a pool of 30, never more than 12 in use.
"""

from collections.abc import Callable, Mapping
from typing import Any

from poolctl.diagnose.finding import Finding
from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.pool import Closed
from poolctl.scenario.histogram import Histogram, Times
from poolctl.scenario.run import (
    Connections,
    ErrorKind,
    Generator,
    ObservedError,
    ObservedServer,
    Run,
    ScannedTable,
    Summary,
    TimelinePoint,
)
from poolctl.scenario.scenario import Scenario, parse_scenario

RESTART = {"at": "3s", "do": "restart"}
TOO_MANY = "sorry, too many clients already"
ORDERS = ScannedTable("public.orders", 500_000, 1_400, 700_000_000)
RESERVED = "remaining connection slots are reserved for roles with the SUPERUSER attribute"


def times(*groups: tuple[int, float]) -> Times:
    """``count`` times of so many seconds, for each group."""
    histogram = Histogram()
    for count, seconds in groups:
        for _ in range(count):
            histogram.record(seconds)
    return Times.of(histogram)


def error(count: int, origin: str, message: str, first_at: float = 1.0, sqlstate: str | None = None) -> ObservedError:
    return ObservedError(ErrorKind(origin, "Error", sqlstate, message), count, first_at)


def scenario(**tables: Any) -> Scenario:
    """``tables`` are those of a scenario file; the pool has 30 connections and 16 workers use it unless they say."""
    pool = {"max_open": 30, "max_idle": 30} | tables.pop("pool", {})
    load = {"workers": 16, "duration": "10s"} | tables.pop("load", {})
    if "rate" in load:
        del load["workers"]
    return parse_scenario({"name": "test", "pool": pool, "load": load, **tables})


def server(**changed: Any) -> ObservedServer:
    """A server that is mostly idle: 0.2 of 2 cores."""
    values: dict[str, Any] = {"max_connections": 100, "usable": 97, "peak_connections": 12, "refused": 0}
    return ObservedServer(**(values | {"version": "18.6", "cpu": 0.2, "cores": 2, "states": {"idle": 12}} | changed))


def connections(**changed: Any) -> Connections:
    values: dict[str, Any] = {
        "opened": 12,
        "open_failures": 0,
        "closed": Closed(),
        "open": 12,
        "in_use": 0,
        "idle": 12,
        "peak_open": 12,
        "peak_in_use": 12,
        "average_open": 12.0,
        "average_in_use": 8.0,
    }
    return Connections(**(values | changed))


def summary(**changed: Any) -> Summary:
    """``offered`` and ``released`` follow from the other counts unless they are given."""
    values: dict[str, Any] = {"acquired": 4000, "leaked": 0, "timed_out": 0, "refused": 0, "failed": 0, "unfinished": 0}
    values |= {
        "duration": 10.0,
        "throughput": 400.0,
        "wait_time": times((990, 0.0002), (10, 0.002)),
        "queued_count": 0,
        "queued_time": 0.0,
        "use_time": times((1000, 0.02)),
        "connections": connections(),
        "connect_time": times((12, 0.005)),
        "exhausted_at": None,
        "recovered_at": None,
        "errors": (),
        "server": server(),
    } | changed
    values.setdefault("released", values["acquired"] - values["leaked"])
    ended = ("acquired", "timed_out", "refused", "failed", "unfinished")
    values.setdefault("offered", sum(values[name] for name in ended))
    values.setdefault("offered_rate", values["offered"] / values["duration"] if values["duration"] else 0.0)
    return Summary(**values)


Gauge = Callable[[float], float]


def timeline(length: float = 10.0, step: float = 0.1, **gauges: Gauge) -> tuple[TimelinePoint, ...]:
    """A row each ``step`` seconds. Gauges that are not given: 8 in use, 4 idle, nobody waiting, 400 acquires/s."""

    def at(name: str, now: float, default: float) -> int:
        return int(gauges[name](now)) if name in gauges else int(default)

    points = []
    for number in range(round(length / step) + 1):
        now = round(number * step, 6)
        in_use, idle, opening = at("in_use", now, 8), at("idle", now, 4), at("opening", now, 0)
        points.append(
            TimelinePoint(
                at=now,
                open=in_use + idle + opening,
                in_use=in_use,
                idle=idle,
                opening=opening,
                waiting=at("waiting", now, 0),
                acquired=at("acquired", now, 400 * now),
                errors=at("errors", now, 0),
                server_connections=at("sessions", now, in_use + idle),
            )
        )
    return tuple(points)


def run(
    tables: Mapping[str, Any] | None = None,
    points: tuple[TimelinePoint, ...] | None = None,
    *,
    engine: str = "live",
    generator: Generator | None = None,
    instances: tuple[Summary, ...] = (),
    interrupted: bool = False,
    failure: str | None = None,
    **figures: Any,
) -> Run:
    """``tables``: of the scenario; ``figures``: of the summary."""
    return Run(
        engine=engine,
        scenario=scenario(**(tables or {})),
        seed=1,
        summary=summary(**figures),
        timeline=timeline() if points is None else points,
        instances=instances,
        generator=generator,
        interrupted=interrupted,
        failure=failure,
    )


def full_from(at: float, size: int, quiet: int = 8) -> Gauge:
    """In use: ``quiet`` until ``at``, then all ``size``."""
    return lambda now: size if now >= at else quiet


def exhausted(size: int, at: float = 3.8, waiting: int = 16) -> tuple[TimelinePoint, ...]:
    """A pool that is full from ``at`` on, with nobody served any more."""
    return timeline(
        in_use=full_from(at, size),
        idle=lambda now: 4 if now < at else 0,
        waiting=lambda now: waiting if now >= at else 0,
        acquired=lambda now: 400 * min(now, at),
    )


def leaky(lost: int = 30, **changed: Any) -> dict[str, Any]:
    """Figures of a run whose pool ended with ``lost`` connections leaked and nothing else in use."""
    figures: dict[str, Any] = {
        "acquired": 1520,
        "leaked": lost,
        "connections": connections(
            opened=lost, open=lost, in_use=lost, idle=0, peak_open=lost, peak_in_use=lost, average_in_use=lost * 0.8
        ),
        "server": server(peak_connections=lost, states={"idle": lost}),
    }
    return figures | changed


def busy(cpu: float = 1.98, **changed: Any) -> ObservedServer:
    return server(usable=197, peak_connections=180, cpu=cpu, **changed)


def bound_generator() -> Generator:
    return Generator(lag=times((100, 0.02)), cpu=0.97)


def outage(per_second: float, until: float = 4.0) -> tuple[TimelinePoint, ...]:
    """Errors from 3 s on."""
    return timeline(errors=lambda at: max(0.0, min(at, until) - 3.0) * per_second)


def codes(finished: Run) -> list[str]:
    return [finding.code for finding in diagnose_run(finished)]


def find(finished: Run, code: str) -> Finding:
    """The finding with ``code``, which must be there."""
    found = {finding.code: finding for finding in diagnose_run(finished)}
    assert code in found, list(found)
    return found[code]
