import json
from math import isclose
from random import Random
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolctl.pool import LIBRARIES
from poolctl.scenario.scenario import DISTRIBUTIONS, LEAK_SHAPES, VIAS, Distribution, parse_scenario


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


SECONDS = st.floats(0.0, 1e6, allow_subnormal=False)
OFF_OR_SECONDS = st.just("off") | SECONDS
DISTRIBUTION = (
    SECONDS
    | st.fixed_dictionaries({"distribution": st.sampled_from(DISTRIBUTIONS[:2]), "mean": SECONDS})
    | st.fixed_dictionaries(
        {"distribution": st.just("lognormal"), "mean": SECONDS}, optional={"cv": st.floats(0.1, 9.0)}
    )
)
COUNT = st.integers(1, 50)
SIZE = st.integers(1, 4)
"""Within every library's default for max_open."""
ORDERED = ("max_idle", "min_idle", "max_open")
COUNTS = (*ORDERED, "max_uses", "max_waiting")


def in_order(limits: dict[str, Any]) -> dict[str, Any]:
    """Sizes drawn one by one may contradict each other; sorted they do not."""
    present = [name for name in ORDERED if name in limits]
    return limits | dict(zip(present, sorted(limits[name] for name in present), strict=True))


POOLS = st.one_of(
    [
        st.builds(
            lambda kind, limits: {"kind": kind, **in_order(limits)},
            st.just(kind.name),
            optional(**{key: SIZE if key in COUNTS else OFF_OR_SECONDS for key in kind.keys - kind.least.keys()}),
        )
        for kind in LIBRARIES.values()
    ]
).filter(lambda pool: pool["kind"] not in ("psycopg_pool", "django") or pool.get("max_idle_time") != 0)
BURST = st.builds(
    lambda at, more, rest: {"at": at, **({"until": at + more} if more else {}), **rest},
    st.floats(0.0, 100.0),
    st.floats(1.0, 100.0) | st.none(),
    optional(workers=COUNT, requests=COUNT, hold=DISTRIBUTION, think=DISTRIBUTION),
)
LOADS = st.builds(
    dict.__or__,
    st.fixed_dictionaries({"workers": COUNT}) | st.fixed_dictionaries({"rate": st.floats(0.1, 1e4)}),
    optional(
        think=DISTRIBUTION,
        hold=DISTRIBUTION,
        query=st.sampled_from(["sleep", "select1", "cpu", "select now()"]),
        connections_per_request=COUNT,
        requests=COUNT,
        duration=st.floats(10.0, 100.0),
        warmup=st.floats(0.0, 5.0),
        drain=SECONDS,
        seed=COUNT,
        instances=COUNT,
        bursts=st.lists(BURST, max_size=3),
    ),
).filter(lambda load: "duration" in load or all("until" in b or b.get("requests") for b in load.get("bursts", ())))
EVENTS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"at": SECONDS, "do": st.sampled_from(["restart", "failover"])}),
        st.fixed_dictionaries({"at": SECONDS, "do": st.just("pause"), "for": st.floats(0.1, 9.0)}),
        st.fixed_dictionaries(
            {"at": SECONDS, "do": st.just("slow"), "for": st.floats(0.1, 9.0), "factor": st.floats(0.1, 9.0)}
        ),
        st.fixed_dictionaries({"at": SECONDS, "do": st.just("deploy")}, optional={"overlap": SECONDS}),
    ),
    max_size=4,
)
SCENARIOS = st.fixed_dictionaries(
    {"name": st.text(min_size=1), "load": LOADS},
    optional={
        "description": st.text(),
        "pool": POOLS,
        "leak": optional(every=COUNT, shape=st.sampled_from(LEAK_SHAPES)),
        "events": EVENTS,
        "database": optional(
            max_connections=st.integers(10, 1000),
            reserved=st.integers(0, 9),
            cores=COUNT | st.just("unlimited"),
            connect_time=DISTRIBUTION,
            via=st.sampled_from(VIAS),
            pgbouncer=st.dictionaries(st.sampled_from(["pool_mode", "x"]), st.text() | COUNT),
            setup=st.text(),
        ),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SCENARIOS)
def test_a_scenario_written_as_json_reads_back_as_it_was(values: dict[str, Any]) -> None:
    scenario = parse_scenario(values)

    assert parse_scenario(json.loads(json.dumps(scenario.to_dict()))) == scenario


@pytest.mark.parametrize(
    ("distribution", "cv"),
    [
        (Distribution("constant", 0.2), 0.0),
        (Distribution("exponential", 0.2), 1.0),
        (Distribution("lognormal", 0.2, 0.5), 0.5),
    ],
)
def test_a_distribution_draws_times_with_its_mean_and_variation_and_repeats_them_with_the_seed(
    distribution: Distribution, cv: float
) -> None:
    random, again = Random(3), Random(3)
    times = [distribution.sample(random) for _ in range(20_000)]

    assert isclose(fmean(times), 0.2, rel_tol=0.02)
    assert isclose(pstdev(times) / fmean(times), cv, rel_tol=0.03, abs_tol=1e-12)
    assert min(times) >= 0
    assert times == [distribution.sample(again) for _ in range(20_000)]


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_a_mean_of_0_gives_0(kind: str) -> None:
    assert Distribution(kind, 0.0).sample(Random(1)) == 0.0
