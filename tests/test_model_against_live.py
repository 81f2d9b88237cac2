"""The model beside the live engine with the real libraries: the same scenario, the same figures.

Each case is a few seconds of real load. The model is told what ``--engine both`` tells it, and how long a statement
really took where that is the machine's doing: what the pool makes of it is what is compared.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any

import pytest
from live_runs import assert_adds_up, run, scenario_of
from sqlalchemy.pool import QueuePool

from poolctl.engines.live.calibration import calibrate
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.engines.model import simulate
from poolctl.pool.pool import WAKE_TIME
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Distribution, Scenario

pytestmark = [pytest.mark.slow, pytest.mark.server]

SEEDS = 16
"""Runs of the model for one of the live engine. A few seconds of load are one draw of many: the live figure has to lie
within what the model says of all of them, widened by the tolerance."""

COUNT, TIME, TAIL = 0.05, 0.10, 0.20
"""Tolerances, as shares. Counts and rates: what the round trips and the start of the threads take away from the load.
Times: a wait is a sum of others' uses, each longer by its wake-up. A 99th percentile rests on a hundredth of them."""

FEW, MOMENT = 4, 0.006
"""And so much in any case: that many of what is counted in tens, and seconds of a time, which is what a process may be
kept from the processor now and then."""

ATTEMPTS = 3
"""Live runs, each with a seed of its own, until one agrees: the live figure is one draw too, and where others use the
machine, one second of theirs spoils a run."""

Figure = tuple[Callable[[Run], float], float, float]

FIGURES: dict[str, Figure] = {
    "throughput": (lambda run: run.summary.throughput, COUNT, 1.0),
    "mean wait": (lambda run: run.summary.wait_time.mean, TIME, MOMENT),
    "median wait": (lambda run: run.summary.wait_time.p50, TIME, MOMENT),
    "p99 wait": (lambda run: run.summary.wait_time.p99, TAIL, 2 * MOMENT),
    "queued": (lambda run: run.summary.queued_count, TIME, FEW),
    "timed out": (lambda run: run.summary.timed_out, TIME, FEW),
    "leaked": (lambda run: run.summary.leaked, 0.0, 0.0),
    "unfinished": (lambda run: run.summary.unfinished, 0.0, 0.0),
    "exhausted at": (lambda run: run.summary.exhausted_at or 0.0, TIME, 0.1),
    "opened": (lambda run: run.summary.connections.opened, TIME, FEW),
    "peak open": (lambda run: run.summary.connections.peak_open, 0.0, 0.0),
    "average open": (lambda run: run.summary.connections.average_open, COUNT, 0.3),
    "closed by max_idle": (lambda run: run.summary.connections.closed.max_idle, TIME, FEW),
    "closed by max_lifetime": (lambda run: run.summary.connections.closed.max_lifetime, TIME, FEW),
}


@dataclass(frozen=True)
class Case:
    pool: dict[str, Any]
    load: dict[str, Any]
    figures: tuple[str, ...]
    leak: dict[str, Any] = field(default_factory=dict)
    events: tuple[dict[str, Any], ...] = ()
    is_hold_measured: bool = True
    """Whether what was measured as use is the statement alone, and can be told to the model."""

    def scenario(self, seed: int) -> Scenario:
        load = {"duration": "3s", "drain": "500ms", "error_pause": "20ms", "seed": seed} | self.load
        return scenario_of(pool=self.pool, load=load, leak=self.leak, events=self.events)


def exponential(mean: str) -> dict[str, str]:
    return {"distribution": "exponential", "mean": mean}


CASES = {
    "database/sql: waiters at random": Case(
        {"max_open": 4, "max_idle": 4},
        {"workers": 12, "hold": exponential("20ms")},
        ("throughput", "mean wait", "p99 wait", "queued", "average open"),
    ),
    "database/sql: arrivals at 80 %": Case(
        {"max_open": 5, "max_idle": 5},
        {"workers": None, "rate": 200, "hold": exponential("20ms")},
        ("throughput", "mean wait", "p99 wait", "queued"),
    ),
    "database/sql: two idle places": Case(
        {"max_open": 6, "max_idle": 2},
        {"workers": 6, "hold": exponential("20ms"), "think": exponential("20ms")},
        ("throughput", "opened", "closed by max_idle", "average open"),
    ),
    "database/sql: impatient": Case(
        {"max_open": 2, "max_idle": 2, "acquire_timeout": "60ms"},
        {"workers": 8, "hold": exponential("30ms")},
        ("throughput", "timed out", "mean wait"),
    ),
    "database/sql: short lives": Case(
        {"max_open": 4, "max_idle": 4, "max_lifetime": "200ms"},
        {"workers": 6, "hold": "20ms"},
        ("throughput", "opened", "closed by max_lifetime"),
    ),
    "database/sql: nested acquires": Case(
        {"max_open": 4, "max_idle": 4, "acquire_timeout": "100ms"},
        {"workers": 4, "hold": exponential("20ms"), "connections_per_request": 2},
        ("throughput", "timed out", "mean wait"),
        is_hold_measured=False,
    ),
    "psycopg_pool: waiters in order": Case(
        {"kind": "psycopg_pool", "max_open": 4, "min_idle": 4},
        {"workers": 12, "hold": exponential("20ms")},
        ("throughput", "mean wait", "p99 wait", "average open"),
    ),
    "psycopg_pool: growth under a burst": Case(
        {"kind": "psycopg_pool", "max_open": 8, "min_idle": 1},
        {"workers": 8, "hold": "20ms"},
        ("throughput", "opened", "peak open", "average open"),
    ),
    "psycopg_pool: a leak": Case(
        {"kind": "psycopg_pool", "max_open": 6, "min_idle": 6, "acquire_timeout": "300ms"},
        {"workers": None, "rate": 40, "hold": exponential("20ms")},
        ("leaked", "exhausted at", "timed out"),
        leak={"every": 10},
    ),
    "psycopg2: rejected at once": Case(
        {"kind": "psycopg2", "max_open": 4, "max_idle": 4},
        {"workers": 8, "hold": exponential("20ms")},
        ("throughput", "timed out"),
    ),
    "sqlalchemy: newcomers before waiters": Case(
        {"kind": "sqlalchemy", "max_open": 4, "max_idle": 4},
        {"workers": 12, "hold": exponential("20ms"), "think": exponential("10ms")},
        ("throughput", "mean wait", "average open"),
    ),
    "sqlalchemy: overflow": Case(
        {"kind": "sqlalchemy", "max_open": 6, "max_idle": 2},
        {"workers": 6, "hold": exponential("20ms"), "think": exponential("20ms")},
        ("throughput", "opened", "closed by max_idle", "average open"),
    ),
    "no pool": Case(
        {"kind": "none"},
        {"workers": 3, "hold": "20ms"},
        ("throughput", "opened", "mean wait"),
    ),
    "psycopg_pool: two instances and a deploy": Case(
        {"kind": "psycopg_pool", "max_open": 3, "min_idle": 3},
        {"instances": 2, "workers": 4, "hold": "20ms"},
        ("throughput", "mean wait", "opened", "peak open"),
        events=({"at": "1500ms", "do": "deploy", "overlap": "500ms"},),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_model_says_what_the_real_pools_do_with(servers: ThrowAwayServers, name: str) -> None:
    case, found = CASES[name], [""]
    for seed in range(ATTEMPTS):
        live = run(servers, case.scenario(seed))
        assert_adds_up(live)
        found = disagreements(case, live)
        if not found:
            break
    assert found == []


def test_waiters_served_in_another_order_would_be_noticed(servers: ThrowAwayServers) -> None:
    in_order, at_random = CASES["psycopg_pool: waiters in order"], CASES["database/sql: waiters at random"]

    live = run(servers, in_order.scenario(0))

    mistaken = disagreements(in_order, replace(live, scenario=at_random.scenario(0)))
    assert [told.partition(":")[0] for told in mistaken] == ["p99 wait"]


def disagreements(case: Case, live: Run) -> list[str]:
    taught = calibrate(live.scenario, live)[0]
    if case.is_hold_measured:
        taught = with_measured_hold(taught, live)
    runs = [simulate(replace(taught, load=replace(taught.load, seed=seed))) for seed in range(SEEDS)]
    told = []
    for name in case.figures:
        figure, share, moment = FIGURES[name]
        modeled, seen = sorted(figure(run) for run in runs), figure(live)
        lowest, highest = modeled[0] * (1.0 - share) - moment, modeled[-1] * (1.0 + share) + moment
        if not lowest <= seen <= highest:
            told.append(f"{name}: live {seen:.4g}, model {modeled[0]:.4g} to {modeled[-1]:.4g}")
    return told


def with_measured_hold(scenario: Scenario, live: Run) -> Scenario:
    """A statement of 20 ms takes 20 ms, a round trip, and what the machine adds to both."""
    asked, measured = scenario.load.hold, live.summary.use_time.mean
    return replace(scenario, load=replace(scenario.load, hold=Distribution(asked.kind, measured, asked.cv)))


class Nothing:
    """A connection for a pool that nothing is asked of."""

    def close(self) -> None: ...


def test_a_waiter_of_sqlalchemys_wakes_about_as_late_as_the_model_says() -> None:
    pool = QueuePool(Nothing, pool_size=1, max_overflow=0, reset_on_return=None)  # type: ignore[arg-type]
    delays = sorted(wake_up(pool) for _ in range(200))

    # The quickest tenth is the machine at its best, the median what others on it leave.
    assert delays[20] / 3 < WAKE_TIME < delays[100] * 3


def wake_up(pool: QueuePool) -> float:
    """Seconds from a release to the moment that who waited has the connection."""
    held, asks, got_at = pool.connect(), Event(), []

    def wait() -> None:
        asks.set()
        connection = pool.connect()
        got_at.append(perf_counter())
        connection.close()

    waiter = Thread(target=wait)
    waiter.start()
    asks.wait()
    sleep(0.002)
    released_at = perf_counter()
    held.close()
    waiter.join()
    return got_at[0] - released_at
