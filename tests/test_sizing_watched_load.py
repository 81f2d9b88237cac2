"""A size from watching carries the load that was watched: pools first, then the server with what it cannot see."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.observe.snapshot import (
    Backend,
    DatabaseCounters,
    HostSample,
    Observation,
    PoolFigures,
    ServerFacts,
    ServerSample,
    Snapshot,
    StatementCounters,
)
from poolctl.sizing.figures import Figures, TopStatement, Window, measured
from poolctl.sizing.figures import given as said
from poolctl.sizing.measure import add_round_trip, measure
from poolctl.sizing.recommend import recommend
from poolctl.sizing.recommendation import Recommendation

FACTS = ServerFacts("db:5432/postgres", "18.1", 180001, "watcher", "postgres", 200, 3)
RATE, SERVER_HOLD, POOL_HOLD = 1700.0, 0.0062, 0.0080
"""Measured with two processes of psycopg_pool, 16 threads each, and a statement of 5 ms."""


def make_backends(busy: int, at: float, total: int = 32) -> tuple[Backend, ...]:
    return tuple(
        Backend(
            n,
            user="app",
            database="shop",
            application="shop",
            backend_type="client backend",
            client="10.0.0.1",
            state="active" if n < busy else "idle",
            state_at=at - 0.002,
        )
        for n in range(total)
    )


def alternate(mean: float, at: int) -> int:
    """Return whole numbers whose mean over ten samples is ``mean``."""
    return int(mean) + (at % 10 < round(10 * (mean % 1)))


def make_pool(number: int, at: int, *, in_use: float, rate: float, hold: float | None) -> PoolFigures:
    acquired = rate * at
    return PoolFigures(
        "app:9090",
        f"pool {number}",
        "psycopg_pool",
        max_open=16,
        open=16,
        in_use=alternate(in_use, at),
        acquired_total=acquired,
        use_time_total=None if hold is None else acquired * hold,
        use_count_total=None if hold is None else acquired,
    )


def watch(*, with_pools: bool, hold: float | None = POOL_HOLD, seconds: int = 60) -> Observation:
    """Return what is observed of that load: 13.6 connections in use in the pools, 10.5 of them busy at the server."""
    snapshots = []
    for at in range(seconds + 1):
        done = RATE * at
        counters = DatabaseCounters(
            "shop", 32, commits=int(done), active_time=done * SERVER_HOLD, transaction_idle_time=0.0
        )
        server = ServerSample(float(at), 0.0, make_backends(alternate(RATE * SERVER_HOLD, at), at), (counters,))
        pools = tuple(
            make_pool(n, at, in_use=RATE * POOL_HOLD / 2, rate=RATE / 2, hold=hold) for n in (0, 1) if with_pools
        )
        snapshots.append(Snapshot(float(at), server=server, pools=pools))
    return Observation(tuple(snapshots), FACTS)


def size(observation: Observation, **known: float) -> Recommendation:
    figures = measure(observation).figures
    # Independent samples: these are regular, and a real load of this size is not.
    figures = figures.with_(effective_samples=400.0, instances=measured(2), surge=said(0), terminating=said(0))
    return recommend(figures.with_(**{name: said(value) for name, value in known.items()}))


@pytest.mark.parametrize("hold", [POOL_HOLD, None])
def test_what_the_pools_report_comes_before_what_the_server_sees(hold: float | None) -> None:
    found = size(watch(with_pools=True, hold=hold))

    assert found.measured.method == "the pools' own figures"
    assert found.measured.parallelism.mean == pytest.approx(RATE * POOL_HOLD, rel=0.02)
    assert found.measured.throughput == pytest.approx(RATE)
    assert found.demand.load == pytest.approx(RATE * POOL_HOLD / 2, rel=0.05)
    assert found.recommendation.max_open is not None
    assert found.recommendation.max_open >= 9
    assert "hold-unseen" not in {finding.code for finding in found.findings}
    assert "estimates-disagree" not in {finding.code for finding in found.findings}


def test_a_round_trip_is_not_added_to_holds_that_the_pools_measured() -> None:
    figures = measure(watch(with_pools=True, hold=None)).figures

    assert add_round_trip(figures, 0.001) == figures


def test_where_only_the_server_is_observed_the_range_says_so_and_contains_what_was_in_use() -> None:
    found = size(watch(with_pools=False))
    [doubt] = [finding for finding in found.findings if finding.code == "hold-unseen"]

    assert found.recommendation.max_open is not None
    assert found.recommendation.interval is not None
    assert 2 * found.recommendation.max_open > RATE * POOL_HOLD
    low, high = found.recommendation.interval
    assert low < found.recommendation.max_open < high
    assert "between 5.25 and 16 were in use in each" in doubt.summary
    assert "--pool-stats" in doubt.remedy
    assert "held_outside" in {assumption.name for assumption in found.assumptions}


def test_a_given_hold_time_decides_what_the_server_cannot_see() -> None:
    found = size(watch(with_pools=False), hold_time=POOL_HOLD)

    assert found.demand.load == pytest.approx(RATE * POOL_HOLD / 2, rel=0.02)
    assert "hold-unseen" not in {finding.code for finding in found.findings}


def test_an_estimated_capacity_is_no_reason_for_a_pool_that_cannot_carry_the_load() -> None:
    # One core and 2 ms of it for each transaction: the model of the processors puts the capacity far below 14.
    found = size(watch(with_pools=True), cores=1, cpu_time=0.002)

    assert found.capacity.value is not None
    assert found.capacity.value < 10
    assert found.recommendation.max_open == 7
    assert found.binding == "demand"
    assert "7 connections were in use in each process on average" in found.capacity.notes[-1]


def test_a_capacity_that_a_sweep_or_the_user_knows_may_be_below_what_was_in_use() -> None:
    figures = measure(watch(with_pools=True)).figures.with_(
        instances=measured(2), surge=said(0), terminating=said(0), effective_samples=None, capacity=said(8)
    )

    assert recommend(figures).recommendation.max_open == 5  # 1.2 x 8 over two pools


def test_slots_that_cannot_hold_what_was_in_use_refuse_a_size() -> None:
    found = size(watch(with_pools=True), max_connections=18)

    assert found.is_refused
    assert found.findings[0].code == "fleet-over-budget"
    assert found.findings[0].summary == (
        "2 processes at worst use on average 7 connections each, 14 in all, and 12 slots are left for them"
    )


def test_counters_that_stand_still_beside_backends_at_work_are_left_out() -> None:
    still = DatabaseCounters("shop", 32, commits=7, active_time=0.5, transaction_idle_time=0.0)
    samples = [ServerSample(float(at), 0.0, make_backends(alternate(10.5, at), at), (still,)) for at in range(61)]
    observation = Observation(tuple(Snapshot(sample.at, server=sample) for sample in samples), FACTS)
    found = size(observation)

    assert measure(observation).figures.windows == ()
    assert found.measured.method == "samples"
    assert not found.is_refused
    assert "estimates-disagree" not in {finding.code for finding in found.findings}
    assert found.recommendation.max_open is not None
    assert found.recommendation.max_open >= 6


@pytest.mark.parametrize(("rate", "is_left_out"), [(2, True), (500, False)])
def test_counters_that_hold_only_the_transactions_of_others_are_left_out(rate: int, is_left_out: bool) -> None:
    """Of statements that read no table nothing is counted; poolctl's own transactions are."""

    def count(at: int) -> tuple[DatabaseCounters]:
        return (DatabaseCounters("shop", 32, commits=rate * at, active_time=10.5 * at, transaction_idle_time=0.0),)

    samples = [ServerSample(float(at), 0.0, make_backends(alternate(10.5, at), at), count(at)) for at in range(61)]
    figures = measure(Observation(tuple(Snapshot(s.at, server=s) for s in samples), FACTS)).figures

    assert (figures.windows == ()) == is_left_out


def test_statements_give_the_rate_that_the_counters_do_not() -> None:
    def make_statements(at: int) -> tuple[StatementCounters, ...]:
        return (
            StatementCounters(1, "app", "shop", "SELECT pg_sleep($1)", 500 * at, 2.5 * at, 0.0),
            StatementCounters(2, "app", "shop", "BEGIN", 500 * at, 0.0, 0.0),
        )

    still = DatabaseCounters("shop", 32, commits=7, active_time=0.0, transaction_idle_time=0.0)
    samples = [ServerSample(float(at), 0.0, make_backends(3, at), (still,), make_statements(at)) for at in range(11)]
    figures = measure(Observation(tuple(Snapshot(s.at, server=s) for s in samples), FACTS)).figures

    assert figures.throughput is not None
    assert figures.throughput.value == pytest.approx(500)


def test_figures_from_a_file_do_not_grow_and_are_no_idle_pool() -> None:
    pool = make_pool(0, 7, in_use=5.0, rate=100.0, hold=0.01)
    snapshots = tuple(Snapshot(float(at), pools=(pool,)) for at in range(5))
    figures = measure(Observation(snapshots, None)).figures

    assert figures.throughput is None
    assert figures.parallelism == measured(5.0)


CHEAP = TopStatement("SELECT * FROM carts WHERE id = $1", 0.97, 20_000, 0.0001, "carts", None, None, 1.0)


def fill_cores(statement: TopStatement, censored_share: float = 0.0) -> Recommendation:
    windows = tuple(Window(10.0, 20_000.0, 16.0) for _ in range(6))
    figures = Figures(
        throughput=measured(20_000),
        parallelism=measured(16),
        in_use=measured(16),
        cores=measured(2),
        cpu_time=measured(0.0001),
        database_cpu=measured(0.99),
        instances=measured(2),
        max_connections=measured(200),
        effective_samples=400.0,
        top_statement=statement,
        windows=windows,
        censored_share=measured(censored_share),
    )
    return recommend(figures)


@pytest.mark.parametrize("censored_share", [0.0, 1.0])
def test_a_cheap_statement_that_fills_the_cores_gets_a_size_and_its_capacity(censored_share: float) -> None:
    found = fill_cores(CHEAP, censored_share)
    [slow] = [finding for finding in found.findings if finding.code == "slow-database"]

    assert not found.is_refused
    assert found.recommendation.max_open == 8
    assert "wait-target-missed" not in {finding.code for finding in found.findings}
    assert found.capacity.value is not None
    assert slow.severity == "warning"
    assert slow.evidence["capacity"] == found.capacity.value
    assert f"beyond the {found.capacity.value} that it can use" in slow.remedy


def test_a_statement_that_wastes_its_work_is_refused_a_size() -> None:
    wasteful = TopStatement("SELECT * FROM carts WHERE owner = $1", 0.97, 25, 0.08, "carts", "owner", 400_000, 3.0)

    assert fill_cores(wasteful).is_refused


@settings(deadline=None, max_examples=60)
@given(
    in_use=st.floats(0.1, 60),
    pools=st.integers(1, 6),
    capacity=st.none() | st.integers(1, 4),
    slots=st.integers(20, 500),
    server_view=st.booleans(),
)
def test_no_size_is_ever_below_what_was_in_use_on_average(
    in_use: float, pools: int, capacity: int | None, slots: int, server_view: bool
) -> None:
    known: dict[str, object] = {} if capacity is None else {"cores": measured(capacity), "cpu_time": measured(0.004)}
    found = recommend(
        Figures(
            throughput=measured(in_use / 0.01),
            parallelism=measured(in_use),
            in_use=measured(in_use),
            instances=measured(pools),
            max_connections=measured(slots),
            is_server_view=server_view,
            open_connections=measured(60),
            **known,  # type: ignore[arg-type]
        )
    )

    assert found.recommendation.max_open is None or found.recommendation.max_open * pools >= in_use - 1e-6


def test_samples_without_any_pool_are_those_of_the_server() -> None:
    nothing: Sequence[PoolFigures] = ()
    observation = watch(with_pools=False, seconds=20)

    assert all(snapshot.pools == nothing for snapshot in observation.snapshots)
    assert measure(observation).figures.is_server_view


def test_pools_that_were_always_full_are_no_single_sample() -> None:
    pools = [make_pool(0, at, in_use=16.0, rate=300.0, hold=None) for at in range(30)]
    snapshots = tuple(Snapshot(float(at), pools=(pool,)) for at, pool in enumerate(pools))
    figures = measure(Observation(snapshots, None)).figures

    assert figures.parallelism == measured(16.0)
    assert figures.effective_samples is None


def test_pools_that_count_no_acquires_get_the_rate_that_the_server_counts() -> None:
    """As Go and node-postgres: without a rate the capacity would be the number of cores, and cut the demand."""
    both = watch(with_pools=True, hold=None)
    snapshots = tuple(
        replace(
            snapshot,
            pools=tuple(replace(pool, acquired_total=None) for pool in snapshot.pools),
            host=HostSample(cores=2, server_cpu=0.5, cpu_share=0.4, has_server=True),
        )
        for snapshot in both.snapshots
    )
    found = size(Observation(snapshots, FACTS))

    assert found.measured.throughput == pytest.approx(RATE)
    assert found.demand.load == pytest.approx(RATE * POOL_HOLD / 2, rel=0.05)
    assert found.recommendation.max_open == found.demand.value
    assert found.binding == "demand"


def test_a_lower_limit_of_the_capacity_cuts_no_demand() -> None:
    found = recommend(
        Figures(
            parallelism=measured(10.7),
            in_use=measured(10.7),
            instances=measured(4),
            max_connections=measured(200),
            cores=measured(2),
            transaction_idle_share=measured(0.0),
        )
    )

    assert (found.capacity.method, found.capacity.at_least) == ("busy-share", True)
    assert found.recommendation.max_open == found.demand.value


@pytest.mark.parametrize(("waiting", "is_censored"), [(None, True), (3, True), (0, False)])
def test_a_full_pool_that_no_client_waits_for_shows_all_of_its_demand(waiting: int | None, is_censored: bool) -> None:
    pools = [replace(make_pool(0, at, in_use=16.0, rate=300.0, hold=None), waiting=waiting) for at in range(30)]
    snapshots = tuple(Snapshot(float(at), pools=(pool,)) for at, pool in enumerate(pools))
    figures = measure(Observation(snapshots, None)).figures

    assert figures.censored_share is not None
    assert (figures.censored_share.value > 0) == is_censored


def fill_pool(waiting: int | None, *, is_gauge: bool = True) -> Recommendation:
    """Size a pool of 16 that node-postgres reports as always full: it counts no acquires and no times."""
    pools = [
        replace(
            make_pool(0, at, in_use=16.0, rate=0.0, hold=None),
            waiting=waiting if is_gauge else None,
            wait_time_total=None if is_gauge or waiting is None else float(waiting * at),
            acquired_total=None,
        )
        for at in range(30)
    ]
    return size(Observation(tuple(Snapshot(float(at), pools=(pool,)) for at, pool in enumerate(pools)), FACTS))


def test_a_full_pool_gets_a_lower_limit_and_a_range_where_nothing_says_how_many_wait() -> None:
    found = fill_pool(None)
    [doubt] = [finding for finding in found.findings if finding.code == "demand-censored"]

    assert not found.is_refused
    assert found.recommendation.confidence == "low"
    assert found.recommendation.max_open is not None
    assert found.recommendation.max_open >= 8  # 16 in use over two instances
    assert found.recommendation.interval is not None
    assert found.recommendation.interval[1] >= 32
    assert "the size is a lower limit" in doubt.summary
    assert "or give the clients that wait" in doubt.remedy


@pytest.mark.parametrize("is_gauge", [True, False])
def test_clients_that_wait_for_a_full_pool_are_demand(is_gauge: bool) -> None:
    """By a gauge, or as in Go by a total of wait times that grows by twenty seconds a second."""
    found = fill_pool(20, is_gauge=is_gauge)
    [doubt] = [finding for finding in found.findings if finding.code == "demand-censored"]

    assert found.demand.load == pytest.approx((16 + 20) / 2)
    assert "lower limit" not in doubt.summary


@pytest.mark.parametrize(("cpu", "is_refused"), [(0.99, False), (0.5, True)])
def test_samples_that_came_late_on_full_processors_contradict_nothing(cpu: float, is_refused: bool) -> None:
    figures = Figures(
        throughput=measured(1600),
        parallelism=measured(1.6),
        parallelism_counted=measured(2.3),
        windows=tuple(Window(10.0, 1600.0, 2.3) for _ in range(6)),
        cores=measured(2),
        cpu_time=measured(0.001),
        database_cpu=measured(cpu),
        instances=measured(2),
        effective_samples=400.0,
        is_server_view=True,
    )

    assert recommend(figures).is_refused == is_refused


def test_statements_too_short_for_a_sample_are_counted_and_their_clients_hold_longer() -> None:
    snapshots = []
    for at in range(31):
        counters = DatabaseCounters("shop", 18, commits=1000 * at, active_time=0.05 * at, transaction_idle_time=0.0)
        observer = Backend(
            99, user="app", application="poolctl observer", database="shop", state="active", state_at=float(at)
        )
        server = ServerSample(float(at), 0.0, (*make_backends(0, at, 18), observer), (counters,))
        snapshots.append(Snapshot(float(at), server=server))
    observation = Observation(tuple(snapshots), FACTS)
    figures = measure(observation).figures
    found = size(observation)

    assert figures.throughput == measured(1000.0)
    assert figures.effective_samples is None
    # Measured with such a load: 3.3 in use, and 2 connections in each process reach 0.94 of the throughput, 3 all.
    assert found.recommendation.max_open == 3
