"""Parts of runs that agree with each other, and the screens that the tests of reports compare."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poolctl.pool import Closed
from poolctl.scenario.histogram import Histogram, Times
from poolctl.scenario.run import Connections, ObservedServer, Summary, TimelinePoint
from poolctl.scenario.scenario import Scenario, parse_scenario

SCREENS = Path(__file__).parent / "screens"
HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]bold[/red] :skull: \u202eesrever\u202c\u200b </script><b>&\r\nnext"


def check_screen(name: str, text: str) -> None:
    """Compare with the file of that name; POOLCTL_UPDATE_SCREENS=1 rewrites it, to be read in the diff."""
    path = SCREENS / f"{name}.txt"
    if os.environ.get("POOLCTL_UPDATE_SCREENS"):
        path.write_text(text, encoding="utf-8")

    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs"


def times(*seconds: float) -> Times:
    histogram = Histogram()
    for value in seconds:
        histogram.record(value)
    return Times.of(histogram)


def spread(count: int, least: float, most: float) -> Times:
    """``count`` times from ``least`` to ``most``, longer ones rarer."""
    return times(*(least + (most - least) * (number / max(count - 1, 1)) ** 4 for number in range(count)))


def scenario(name: str, **tables: Any) -> Scenario:
    return parse_scenario({"name": name, **tables})


def timeline(
    duration: float,
    in_use: Callable[[float], int],
    *,
    idle: Callable[[float], int] = lambda at: 0,
    waiting: Callable[[float], int] = lambda at: 0,
    server: Callable[[float], int] | None = None,
    rate: float = 50.0,
) -> tuple[TimelinePoint, ...]:
    return tuple(
        TimelinePoint(
            at=at,
            open=in_use(at) + idle(at),
            in_use=in_use(at),
            idle=idle(at),
            opening=0,
            waiting=waiting(at),
            acquired=int(at * rate),
            errors=0,
            server_connections=server(at) if server else None,
        )
        for at in (number / 10 for number in range(int(duration * 10) + 1))
    )


def summary(**changed: Any) -> Summary:
    """Nothing wrong: 4,812 acquires in 10 s through up to 8 of 10 connections."""
    values: dict[str, Any] = {
        "offered": 4812,
        "acquired": 4812,
        "released": 4812,
        "leaked": 0,
        "timed_out": 0,
        "refused": 0,
        "failed": 0,
        "unfinished": 0,
        "duration": 10.0,
        "throughput": 481.2,
        "offered_rate": 481.2,
        "wait_time": spread(4812, 0.00002, 0.0041),
        "queued_count": 0,
        "queued_time": 0.0,
        "use_time": spread(4812, 0.0102, 0.094),
        "connections": connections(),
        "connect_time": spread(8, 0.0021, 0.0043),
        "exhausted_at": None,
        "recovered_at": None,
        "errors": (),
        "server": ObservedServer(100, 97, 8, 0, "18.6", 0.31, 2, {"idle": 8}),
    }
    return Summary(**(values | changed))


def connections(**changed: Any) -> Connections:
    values: dict[str, Any] = {
        "opened": 8,
        "open_failures": 0,
        "closed": Closed(),
        "open": 8,
        "in_use": 0,
        "idle": 8,
        "peak_open": 8,
        "peak_in_use": 8,
        "average_open": 7.9,
        "average_in_use": 6.24,
    }
    return Connections(**(values | changed))
