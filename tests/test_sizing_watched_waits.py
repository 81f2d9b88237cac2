"""What a full pool's queue, and connections that rest, say about a size from watching."""

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poolctl.observe.snapshot import Backend, Observation, PoolFigures, ServerFacts, ServerSample, Snapshot
from poolctl.sizing.defaults import HELD_OUTSIDE, fill_defaults
from poolctl.sizing.figures import Figures, measured
from poolctl.sizing.figures import given as said
from poolctl.sizing.measure import find_most_in_use, measure
from poolctl.sizing.measure_pools import measure_waiting_demand
from poolctl.sizing.recommend import recommend

FACTS = ServerFacts("db:5432/postgres", "18.1", 180001, "watcher", "postgres", 200, 3)


def show_queue(queue: list[int], in_use: int = 4, **more: object) -> tuple[Snapshot, ...]:
    return tuple(
        Snapshot(
            0.2 * number,
            pools=(
                PoolFigures("app:9090", "p", "hikaricp", max_open=4, open=4, in_use=in_use, waiting=waiting, **more),  # type: ignore[arg-type]
            ),
        )
        for number, waiting in enumerate(queue)
    )


@pytest.mark.parametrize(
    ("queue", "share"),
    [
        ([20] * 100, 1.0),  # clients that never rest are all demand
        ([16, 24] * 50, 4 / (4 + 16)),  # sixteen are away on average
        ([0] * 50 + [20] * 50, 1.0),  # only while it is full
        ([0] * 100, None),
        ([3] * 7, None),
    ],
)
def test_the_swing_of_a_queue_shows_how_many_clients_are_away(queue: list[int], share: float | None) -> None:
    assert measure_waiting_demand(show_queue(queue)) == (None if share is None else pytest.approx(share))


@settings(deadline=None, max_examples=15)
@given(workers=st.integers(8, 60), think=st.sampled_from([0.5, 1.0, 3.0]), seed=st.integers(0, 99))
def test_waiting_clients_that_are_demand_are_what_a_larger_pool_would_have_in_use(
    workers: int, think: float, seed: int
) -> None:
    """Clients use a connection for about a second, then are away: the machine repair model, in virtual time."""
    random, in_system, at = Random(seed), workers, 0.0
    taken: list[int] = []
    for _ in range(10_000):
        leaves, comes = min(4, in_system), (workers - in_system) / think
        at += random.expovariate(leaves + comes)
        in_system += -1 if random.random() < leaves / (leaves + comes) else 1
        while len(taken) < at / 0.5:
            taken.append(in_system)
    assume(sum(taken) / len(taken) >= 10)  # else it is hardly ever full
    waiting = [max(0, each - 4) for each in taken]
    share = measure_waiting_demand(show_queue(waiting))
    demand = 4 + sum(waiting) / len(waiting) * (share or 0.0)

    assert demand == pytest.approx(workers / (1 + think), rel=0.35, abs=2)


@pytest.mark.parametrize(("away", "expected"), [(0, 1.0), (12, 4 / 16)])
def test_wait_times_that_go_adds_up_show_the_same(away: int, expected: float) -> None:
    random, waited, queue, snapshots = Random(1), 0.0, 20.0, []
    for number in range(400):
        if number % 20 == 0:
            queue = random.gauss(20, away**0.5)
        waited += 0.1 * queue
        pool = PoolFigures(
            "app:9090",
            "p",
            "database/sql",
            max_open=4,
            open=4,
            in_use=4,
            wait_time_total=waited,
            queued_total=1e6 * number,
        )
        snapshots.append(Snapshot(0.1 * number, pools=(pool,)))

    assert measure_waiting_demand(snapshots) == pytest.approx(expected, abs=0.12)


def test_a_larger_pool_is_sized_for_the_share_that_would_be_in_use() -> None:
    figures = Figures(
        parallelism=measured(4.0),
        in_use=measured(4.0),
        waiting=measured(20.0),
        waiting_demand=measured(0.2),
        censored_share=measured(1.0),
        max_connections=said(200),
        instances=said(1),
    )

    assert recommend(figures).demand.load == pytest.approx(4 + 20 * 0.2)
    assert recommend(figures.with_(waiting_demand=None)).demand.load == pytest.approx(24)


def rest(rests: list[list[float]]) -> list[ServerSample]:
    """Samples with backends that have rested so long; 0: at work."""
    return [
        ServerSample(
            0.2 * number,
            0.0,
            tuple(
                Backend(
                    pid,
                    user="app",
                    database="shop",
                    application="shop",
                    backend_type="client backend",
                    client="10.0.0.1",
                    state="idle" if time else "active",
                    state_at=0.2 * number - time,
                )
                for pid, time in enumerate(each)
            ),
        )
        for number, each in enumerate(rests)
    ]


def draw_rests(kind: str, random: Random) -> list[float]:
    if kind == "some rest":  # four in use, six not touched since long ago
        return [0.0, *(random.expovariate(1 / 0.03) for _ in range(3)), *(100.0 + n for n in range(6))]
    if kind == "in turn":
        return [0.0, *(0.05 * (n + random.random()) for n in range(9))]
    return [0.0, *(random.expovariate(1 / 0.03) for _ in range(9))]


@pytest.mark.parametrize(("kind", "most"), [("some rest", 4), ("in turn", None), ("all are held", 10)])
def test_connections_that_rest_show_how_many_were_in_use_at_most(kind: str, most: int | None) -> None:
    random = Random(1)
    samples = rest([draw_rests(kind, random) for _ in range(100)])

    assert find_most_in_use(samples, "shop") == most


def test_without_times_nothing_is_concluded_from_rests() -> None:
    sample = ServerSample(0.0, 0.0, (Backend(1, user="app", database="shop", application="shop", state="idle"),))

    assert find_most_in_use([sample], "shop") is None
    assert find_most_in_use([], None) is None


@pytest.mark.parametrize(
    ("most", "opened", "load"),
    [
        (9.0, 20.0, 4.675),  # with two deviations, 2 x 2.16, it is 9
        (None, 20.0, 1.0 + HELD_OUTSIDE),
        (None, 4.0, 2.44),  # hardly more than the busy one needs: keep them
        (12.0, 12.0, 9.0),  # 9 + 3, all that are open: others may wait
        (2.0, 20.0, 1.0),
    ],
)
def test_what_was_in_use_at_most_decides_how_long_clients_hold(most: float | None, opened: float, load: float) -> None:
    figures = Figures(
        parallelism=measured(1.0),
        in_use=measured(1.0),
        throughput=measured(100.0),
        open_connections=measured(opened),
        in_use_at_most=None if most is None else measured(most),
        is_server_view=True,
        instances=said(1),
    )
    filled, _ = fill_defaults(figures)

    assert filled.held_outside is not None
    assert 1 + filled.held_outside.value == pytest.approx(load, abs=0.01)


def test_a_pool_whose_connections_are_all_touched_may_be_full_and_the_range_says_so() -> None:
    random = Random(2)
    samples = rest([draw_rests("all are held", random) for _ in range(100)])
    figures = measure(Observation(tuple(Snapshot(s.at, server=s) for s in samples), FACTS)).figures
    found = recommend(figures.with_(effective_samples=400.0, instances=said(1)))
    [doubt] = [finding for finding in found.findings if finding.code == "hold-unseen"]

    assert found.recommendation.max_open is not None
    assert found.recommendation.max_open >= 10
    assert found.recommendation.interval is not None
    assert found.recommendation.interval[1] >= 20
    assert "between 1 and 10 were in use in each, and if these are all, clients may have waited" in doubt.summary


def test_on_full_processors_what_clients_hold_outside_of_statements_is_part_of_what_was_in_use() -> None:
    figures = Figures(
        throughput=measured(4000),
        parallelism=measured(12.0),
        in_use=measured(12.0),
        held_outside=said(0.5),
        cores=measured(2),
        cpu_time=measured(0.0005),
        database_cpu=measured(0.99),
        is_server_view=True,
        instances=said(1),
        max_connections=said(200),
    )

    assert recommend(figures).recommendation.max_open == 18
