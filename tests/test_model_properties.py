"""What holds for every scenario: counters add up, Little's law, limits are kept."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modeled import constant, exponential

from poolctl.engines.model import simulate
from poolctl.pool import LIBRARIES
from poolctl.scenario.run import Run, Summary
from poolctl.scenario.scenario import EVENTS, LEAK_SHAPES, parse_scenario

TIMES = st.sampled_from([constant(0.02), exponential(0.05), {"distribution": "lognormal", "mean": 0.03, "cv": 2.0}])
EVENT = st.builds(
    lambda do, at: (
        {"at": at, "do": do}
        | ({"for": 0.7} if do in ("pause", "slow") else {})
        | ({"factor": 5} if do == "slow" else {})
        | ({"overlap": 1} if do == "deploy" else {})
    ),
    st.sampled_from(EVENTS),
    st.floats(0.5, 4.0),
)
LOADS = st.builds(
    dict.__or__,
    st.fixed_dictionaries({"workers": st.integers(1, 8)}) | st.fixed_dictionaries({"rate": st.floats(5.0, 150.0)}),
    st.fixed_dictionaries(
        {"hold": TIMES, "duration": st.just(6.0), "drain": st.sampled_from([0, 1]), "seed": st.integers(0, 99)},
        optional={
            "instances": st.integers(1, 3),
            "think": TIMES,
            "connections_per_request": st.just(2),
            "warmup": st.just(1.0),
            "retries": st.integers(0, 2),
            "requests": st.integers(1, 200),
            "bursts": st.just([{"at": "2s", "workers": 6, "requests": 2}]),
        },
    ),
)
SCENARIOS = st.fixed_dictionaries(
    {
        "name": st.just("random"),
        "database": st.fixed_dictionaries(
            {"connect_time": TIMES},
            optional={"cores": st.integers(1, 4), "max_connections": st.integers(5, 20), "contention": st.just(0.05)},
        ),
        "load": LOADS,
        "leak": st.sampled_from([{}, *({"every": 20, "shape": shape} for shape in LEAK_SHAPES)]),
        "events": st.lists(EVENT, max_size=2),
    }
)


def check_counts(one: Summary) -> None:
    closed = one.connections.closed
    assert one.offered == one.acquired + one.timed_out + one.refused + one.failed + one.unfinished
    assert one.wait_time.count == one.offered
    assert one.wait_time.censored == one.unfinished
    assert one.use_time.count == one.released
    assert one.acquired >= one.released + one.leaked
    assert one.connections.opened >= closed.total
    assert one.connections.open >= one.connections.opened - closed.total
    assert one.connections.in_use + one.connections.idle <= one.connections.open


def check(done: Run) -> None:
    check_counts(done.summary)
    for one in done.instances:
        check_counts(one)
        if done.scenario.pool.max_open:
            assert one.connections.peak_open <= done.scenario.pool.max_open
    for name in ("offered", "acquired", "released", "leaked", "timed_out", "refused", "failed", "unfinished"):
        assert getattr(done.summary, name) == sum(getattr(one, name) for one in done.instances)
    server = done.summary.server
    assert server is not None
    assert server.peak_connections is not None
    assert server.usable is not None
    assert server.peak_connections <= server.usable
    assert done.failure is None


@settings(max_examples=200, deadline=None)
@given(values=SCENARIOS, kind=st.sampled_from([*LIBRARIES]))
def test_the_counters_of_any_run_add_up(values: dict[str, Any], kind: str) -> None:
    check(simulate(parse_scenario(values | {"pool": {"kind": kind}})))


@settings(max_examples=100, deadline=None)
@given(
    values=SCENARIOS,
    kind=st.sampled_from([*LIBRARIES]),
    pooler=st.sampled_from(
        [
            {"via": "pgbouncer", "pgbouncer": {"pool_mode": mode, "default_pool_size": 3, "query_wait_timeout": 1}}
            for mode in ("session", "transaction")
        ]
        + [{"via": "pgpool", "pgpool": {"num_init_children": 4}}]
    ),
)
def test_the_counters_of_any_run_behind_a_pooler_add_up(
    values: dict[str, Any], kind: str, pooler: dict[str, Any]
) -> None:
    behind = values | {"pool": {"kind": kind}, "database": values["database"] | pooler}
    check(simulate(parse_scenario(behind)))


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(20.0, 400.0),
    max_open=st.integers(2, 20),
    kind=st.sampled_from(["database/sql", "hikaricp", "npgsql", "sqlx", "rails", "asyncpg"]),
    seed=st.integers(0, 99),
)
def test_use_times_are_the_area_under_in_use(rate: float, max_open: int, kind: str, seed: int) -> None:
    # Little's law as an identity of the sample path: everything that began has ended.
    done = simulate(
        parse_scenario(
            {
                "name": "little",
                "database": {"cores": "unlimited"},
                "pool": {"kind": kind, "max_open": max_open, "acquire_timeout": "300ms"},
                "load": {"rate": rate, "hold": exponential(0.03), "duration": 10.0, "drain": "10s", "seed": seed},
            }
        )
    )
    one = done.summary
    ended = max(point.at for point in done.timeline)

    assert one.unfinished == 0
    assert one.connections.average_in_use * ended == pytest.approx(one.use_time.total, rel=1e-3)
