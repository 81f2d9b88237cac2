"""The model's own implementation of the pool's rules against Pool, the specification: every decision and counter."""

from math import log
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import VirtualTime

from poolctl.engines.model import drive
from poolctl.engines.model.clock import Kernel
from poolctl.engines.model.plan import ServicePlan, pods
from poolctl.pool import Pool, PoolRules, PoolStats
from poolctl.scenario.scenario import Scenario, parse_scenario

END = 30.0


class Logged(Kernel):
    """Tells who was served when, and who gave up when."""

    inlines = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.served: list[tuple[float, float]] = []
        self.gave_up: list[float] = []

    def serve(self, c: int, k: int, now: float) -> None:
        self.served.append((now, now - self.c_due[c]))
        super().serve(c, k, now)

    def fail(self, c: int, outcome: int, kind: Any, now: float) -> None:
        self.gave_up.append(now)
        super().fail(c, outcome, kind, now)


def model(scenario: Scenario, rules: PoolRules) -> tuple[Logged, PoolStats]:
    part = ServicePlan(scenario.all_services[0], scenario)
    part.rules = rules
    kernel = Logged(scenario, [part], pods(scenario), 1.0)
    drive(kernel, lambda: False)
    ended = kernel.p_ended[0]
    assert ended is not None
    return kernel, ended


def specification(scenario: Scenario, rules: PoolRules) -> tuple[VirtualTime, PoolStats]:
    """The same arrivals, holds and picks through Pool."""
    load, streams = scenario.load, {name: Random(f"{scenario.load.seed}/{name}") for name in ("arrivals", "holds")}
    virtual = VirtualTime(
        Pool(scenario.pool, Random(f"{load.seed}/pool"), rules), connect_time=scenario.database.connect_time.mean
    )
    arrivals, at = [], 0.0
    while True:
        at -= log(1.0 - streams["arrivals"].random()) / (load.rate or 1.0)
        if at >= END:
            break
        arrivals.append(at)
    virtual.feed(arrivals, lambda: load.hold.sample(streams["holds"]), patience=scenario.pool.acquire_timeout)
    virtual.run(END)
    return virtual, virtual.pool.stats(END)


@settings(max_examples=150, deadline=None)
@given(
    max_open=st.integers(1, 5),
    max_idle=st.integers(0, 5),
    limits=st.fixed_dictionaries(
        {},
        optional={
            "max_lifetime": st.floats(0.2, 5.0),
            "max_idle_time": st.floats(0.2, 5.0),
            "acquire_timeout": st.floats(0.3, 2.0),
        },
    ),
    rate=st.floats(1.0, 12.0),
    hold=st.floats(0.05, 0.8),
    rules=st.sampled_from(
        [PoolRules(), PoolRules(waiter_order="fifo"), PoolRules("fifo", "none"), PoolRules("fifo", "random")]
    ),
    seed=st.integers(0, 10**6),
)
def test_the_model_decides_and_counts_as_the_pool_does(
    max_open: int, max_idle: int, limits: dict[str, Any], rate: float, hold: float, rules: PoolRules, seed: int
) -> None:
    scenario = parse_scenario(
        {
            "name": "random",
            "database": {"cores": "unlimited", "connect_time": 0.05},
            "pool": {"max_open": max_open, "max_idle": max_idle, **limits},
            "load": {
                "rate": rate,
                "hold": {"distribution": "exponential", "mean": hold},
                "duration": END,
                "drain": 0,
                "seed": seed,
            },
        }
    )

    kernel, modeled = model(scenario, rules)
    virtual, specified = specification(scenario, rules)

    served = sorted((served.at, served.waited) for served in virtual.served.values())
    assert [at for at, _ in sorted(kernel.served)] == pytest.approx([at for at, _ in served])
    assert [wait for _, wait in sorted(kernel.served)] == pytest.approx([wait for _, wait in served], abs=1e-9)
    assert sorted(kernel.gave_up) == pytest.approx(sorted([*virtual.gave_up.values(), *virtual.rejected.values()]))
    for name in PoolStats.__slots__:
        if name != "closed":
            assert getattr(modeled, name) == pytest.approx(getattr(specified, name), abs=1e-6), name
    assert modeled.closed == specified.closed
