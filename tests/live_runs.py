"""Runs small scenarios for real."""

from collections.abc import Callable, Sequence
from typing import Any

from poolctl.engines.live.engine import run_on
from poolctl.engines.live.live_servers import LiveServer, ThrowAwayServers
from poolctl.scenario.run import ObservedError, Run, TimelinePoint
from poolctl.scenario.scenario import Scenario, parse_scenario


class Recorder:
    """A view that remembers; ``on_point`` is called with each row of the timeline."""

    def __init__(self, on_point: Callable[[TimelinePoint], None] | None = None) -> None:
        self.notes: list[str] = []
        self.points: list[TimelinePoint] = []
        self._on_point = on_point

    def phase(self, text: str) -> None:
        self.notes.append(text)

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError]) -> None:
        self.points.append(point)
        if self._on_point is not None:
            self._on_point(point)

    def note(self, text: str) -> None:
        self.notes.append(text)


def scenario_of(
    *,
    pool: dict[str, Any] | None = None,
    load: dict[str, Any] | None = None,
    leak: dict[str, Any] | None = None,
    database: dict[str, Any] | None = None,
    events: Sequence[dict[str, Any]] = (),
) -> Scenario:
    """A scenario of a second or so: 4 workers on a pool of 5, holding for 5 ms.

    ``requests`` end it when they are done, however slow the machine is.
    """
    duration = "60s" if load and "requests" in load else "1s"
    return parse_scenario(
        {
            "name": "test",
            "pool": {"max_open": 5, "max_idle": 5} if pool is None else pool,
            "load": {"workers": 4, "hold": "5ms", "duration": duration, "drain": "500ms"} | (load or {}),
            "leak": leak or {},
            "database": {"max_connections": 40} | (database or {}),
            "events": list(events),
        }
    )


def run(
    servers: ThrowAwayServers,
    scenario: Scenario,
    *,
    view: Recorder | None = None,
    stop: Callable[[], bool] = lambda: False,
    serve: Callable[[Scenario], LiveServer] | None = None,
) -> Run:
    return run_on(serve or servers.serve, scenario, view or Recorder(), interval=0.05, stop=stop)


def assert_adds_up(done: Run) -> None:
    """Every acquire ended in exactly one way, and every connection is somewhere."""
    for summary in (done.summary, *done.instances):
        ended = summary.acquired + summary.timed_out + summary.refused + summary.failed + summary.unfinished
        assert summary.offered == ended
        assert summary.acquired >= summary.released + summary.leaked
        connections = summary.connections
        # Not ``open``: where the load ends at a busy server, a connection may still be opening.
        assert connections.opened - connections.closed.total == connections.in_use + connections.idle
        assert connections.in_use + connections.idle <= connections.open
