"""The compiled kernel against the plain one: the same Run, bit for bit, whatever is asked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modeled import exponential
from test_model_properties import LOADS, SCENARIOS, TIMES

from poolctl.api.documents import run_document
from poolctl.engines.model import compiled, simulate
from poolctl.pool import LIBRARIES
from poolctl.report.simulation import describe_run
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import LEAK_SHAPES, parse_scenario

pytestmark = pytest.mark.skipif(not compiled.is_there(), reason="the compiled kernel of this version is not built")


@contextmanager
def switched(value: str | None) -> Iterator[None]:
    before = os.environ.pop(compiled.SWITCH, None)
    if value is not None:
        os.environ[compiled.SWITCH] = value
    try:
        yield
    finally:
        os.environ.pop(compiled.SWITCH, None)
        if before is not None:
            os.environ[compiled.SWITCH] = before


def both(values: dict[str, Any], interval: float = 0.1) -> tuple[Run, Run]:
    """The run in the compiled kernel and in the plain one."""
    scenario = parse_scenario(values)
    with switched(None):
        fast = simulate(scenario, interval=interval)
    with switched("plain"):
        slow = simulate(scenario, interval=interval)
    assert slow.kernel == "plain"
    return fast, slow


def check(values: dict[str, Any], interval: float = 0.1) -> Run:
    fast, slow = both(values, interval)
    assert fast.kernel == "compiled"
    assert replace(fast, kernel="plain") == slow
    return fast


RARE = st.fixed_dictionaries(
    {},
    optional={
        "hold_outside": st.sampled_from(["10ms", exponential(0.01)]),
        "retry_backoff": st.sampled_from(["20ms", "300ms"]),
        "retry_jitter": st.just(0.5),
        "error_pause": st.sampled_from(["1ms", "30ms"]),
        "bursts": st.just(
            [
                {"at": "1s", "until": "3s", "workers": 5, "hold": "70ms", "think": "10ms"},
                {"at": "2s", "workers": 4, "requests": 3},
            ]
        ),
    },
)
"""Keys of load that the other strategies leave out."""

POOLS = st.fixed_dictionaries(
    {"kind": st.sampled_from([*LIBRARIES])},
    optional={
        "max_open": st.integers(1, 12),
        "max_idle": st.integers(1, 12),
        "min_idle": st.integers(0, 3),
        "max_lifetime": st.floats(0.3, 4.0),
        "max_idle_time": st.floats(0.3, 4.0),
        "acquire_timeout": st.just(0.0) | st.floats(0.01, 1.0),
        "max_lifetime_jitter": st.floats(0.0, 1.0),
        "max_waiting": st.integers(0, 10),
        "max_uses": st.integers(0, 20),
    },
)


def fitting(pool: dict[str, Any]) -> dict[str, Any]:
    """What of ``pool`` its library has, and would accept."""
    kind = LIBRARIES[pool["kind"]]
    given = {key: value for key, value in pool.items() if key in kind.keys and key not in kind.least}
    while True:
        problem = next(iter(kind.problems(kind.complete(given))), None)
        if problem is None:
            return {"kind": pool["kind"]} | given
        given.pop(problem.key, None) if problem.key in given else given.clear()


@settings(max_examples=300, deadline=None)
@given(values=SCENARIOS, pool=POOLS, rare=RARE, cores=st.sampled_from([{}, {"cores": "unlimited"}, {"connect_cpu": 0}]))
def test_any_scenario_runs_the_same_in_both_kernels(
    values: dict[str, Any], pool: dict[str, Any], rare: dict[str, Any], cores: dict[str, Any]
) -> None:
    load, database = values["load"] | rare, values["database"] | cores

    check(values | {"load": load, "database": database, "pool": fitting(pool)})


@settings(max_examples=60, deadline=None)
@given(
    values=SCENARIOS,
    services=st.lists(
        st.fixed_dictionaries(
            {
                "pool": POOLS,
                "load": LOADS,
                "leak": st.sampled_from([{}, *({"every": 20, "shape": shape} for shape in LEAK_SHAPES)]),
            }
        ),
        min_size=2,
        max_size=3,
    ),
)
def test_any_services_run_the_same_in_both_kernels(values: dict[str, Any], services: list[dict[str, Any]]) -> None:
    shared = {"duration": 6.0, "seed": values["load"]["seed"], "drain": values["load"]["drain"]}
    told = []
    for number, service in enumerate(services):
        load = {
            key: value for key, value in service["load"].items() if key not in ("duration", "drain", "seed", "warmup")
        }
        told.append(service | {"name": f"s{number}", "pool": fitting(service["pool"]), "load": load})
    rest = {key: value for key, value in values.items() if key not in ("load", "leak")}

    check(rest | {"load": shared, "service": told})


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([*LIBRARIES]),
    hold=TIMES,
    workers=st.integers(1, 12),
    requests=st.integers(1, 60),
    each=st.integers(1, 3),
)
def test_a_run_without_a_duration_ends_at_the_same_instant_in_both(
    kind: str, hold: dict[str, Any], workers: int, requests: int, each: int
) -> None:
    load = {"workers": workers, "requests": requests, "hold": hold, "connections_per_request": each, "instances": 2}

    check({"name": "counted", "pool": fitting({"kind": kind, "max_open": 4}), "load": load})


@pytest.mark.parametrize("kind", ["database/sql", "psycopg_pool", "hikaricp"])
def test_a_fleet_whose_instances_share_their_histograms_runs_the_same(kind: str) -> None:
    pool = {"kind": kind, "max_open": 3, "acquire_timeout": "250ms"}
    load = {"instances": 80, "rate": 20.0, "hold": exponential(0.1), "duration": 5.0, "warmup": 1.0}

    done = check({"name": "fleet", "database": {"max_connections": 150, "cores": 30}, "pool": pool, "load": load})

    assert done.instances == ()
    assert done.summary.timed_out > 0


def test_a_long_run_thins_its_timeline_out_in_the_same_way() -> None:
    done = check({"name": "long", "load": {"rate": 10.0, "duration": 2_000.0, "hold": "20ms"}}, interval=0.1)

    assert 2_000 <= len(done.timeline) <= 4_001


def test_a_queue_without_end_is_cut_off_at_the_same_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolctl.engines.model.clock.MOST_WAITING", 5_000)

    done = check(
        {"name": "overload", "pool": {"max_open": 5}, "load": {"rate": 1000.0, "hold": "100ms", "duration": "1h"}}
    )

    assert done.cut_off == "queue"
    assert done.failure is not None
    assert done.summary.unfinished > 5_000


def test_what_the_compiled_kernel_cannot_run_the_plain_one_does() -> None:
    load: dict[str, Any] = {"workers": 5, "hold": "0s", "duration": 10.0}
    endless, same = both({"name": "no time", "pool": {"max_open": 5, "max_idle": 5}, "load": load})
    pooled, _ = both({"name": "pooled", "database": {"via": "pgbouncer"}, "load": {"workers": 5, "duration": 1.0}})

    assert (endless.kernel, endless.cut_off) == ("plain", "standstill")
    assert endless == same
    assert pooled.kernel == "plain"


def test_a_user_who_has_enough_gets_what_the_compiled_kernel_has_simulated_until_then() -> None:
    scenario = parse_scenario({"name": "long", "load": {"rate": 1000.0, "hold": "1ms", "duration": "1h"}})
    with switched(None):
        done = simulate(scenario, stop=lambda: True)

    assert (done.interrupted, done.failure, done.kernel) == (True, None, "compiled")
    assert done.summary.released > 0
    assert done.summary.offered == done.summary.acquired + done.summary.refused + done.summary.unfinished


def test_the_report_and_the_json_say_which_kernel_ran() -> None:
    fast, slow = both({"name": "told", "load": {"workers": 2, "duration": 1.0}})

    assert "told: model run (compiled kernel)" in describe_run(fast)
    assert "told: model run (plain kernel)" in describe_run(slow)
    assert [run_document(run, ())["kernel"] for run in (fast, slow)] == ["compiled", "plain"]


def test_a_worker_that_was_served_at_a_second_try_has_all_tries_again_for_its_next_request() -> None:
    burst = {"at": "2s", "workers": 6, "requests": 2}
    load = {"workers": 1, "hold": "20ms", "duration": 6.0, "retries": 1, "bursts": [burst]}
    database = {"connect_time": "20ms", "max_connections": 5, "cores": 2}

    run = check({"name": "tries", "database": database, "pool": {"kind": "rails"}, "load": load})

    assert run.summary.refused == 14


def test_the_thread_of_a_burst_that_is_over_leaves_no_connection_to_the_next_arrival() -> None:
    load = {"rate": 10, "hold": exponential(0.05), "drain": 0, "seed": 2, "duration": 6.0, "instances": 3}
    burst = {"at": "2s", "workers": 6, "requests": 2}
    events = [{"at": 3.5, "do": "restart"}]
    database = {"connect_time": "20ms"}
    pool = {"kind": "hikaricp"}

    check({"name": "own", "database": database, "load": load | {"bursts": [burst]}, "events": events, "pool": pool})


def test_helper_threads_that_are_all_busy_open_again_later_in_both() -> None:
    load = {"rate": 60, "hold": "50ms", "seed": 2, "duration": 6.0}
    database = {"connect_time": "200ms", "max_connections": 9, "reserved": 0}
    pool = {"kind": "c3p0", "max_open": 12, "min_idle": 8}

    done = check({"name": "helpers", "database": database, "load": load, "pool": pool})

    assert done.summary.connections.open_failures
