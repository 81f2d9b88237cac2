"""What an observation says about the parallelism of an application."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolctl.observe.snapshot import (
    Backend,
    ClientProcess,
    DatabaseCounters,
    HostSample,
    Observation,
    PoolFigures,
    RoleFacts,
    ServerFacts,
    ServerSample,
    Snapshot,
    StatementCounters,
)
from poolctl.sizing.figures import measured
from poolctl.sizing.measure import find_largest_application, measure
from poolctl.sizing.samples import effective_samples

FACTS = ServerFacts("db:5432/postgres", "18.1", 180001, "watcher", "postgres", 100, 3)


def backend(
    pid: int, state: str = "active", *, application: str = "shop", state_at: float = 0.0, **more: object
) -> Backend:
    base = {"user": "app", "database": "shop", "backend_type": "client backend", "client": "10.0.0.1"}
    return Backend(pid, application=application, state=state, state_at=state_at, **{**base, **more})  # type: ignore[arg-type]


def counters(
    commits: int = 0, active_time: float = 0.0, idle_time: float = 0.0, reset_at: float = 0.0
) -> DatabaseCounters:
    return DatabaseCounters(
        "shop", 10, commits=commits, active_time=active_time, transaction_idle_time=idle_time, reset_at=reset_at
    )


def observed(samples: Sequence[ServerSample], facts: ServerFacts | None = FACTS, **more: object) -> Observation:
    return Observation(tuple(Snapshot(s.at, server=s, **more) for s in samples), facts)  # type: ignore[arg-type]


def sample(
    at: float,
    backends: Sequence[Backend] = (),
    database: DatabaseCounters | None = None,
    statements: Sequence[StatementCounters] = (),
) -> ServerSample:
    return ServerSample(at, 0.0, tuple(backends), (database or counters(),), tuple(statements))


def test_active_and_idle_in_transaction_are_at_work_and_idle_is_not() -> None:
    states = ("active", "idle in transaction", "idle in transaction (aborted)", "idle")
    seen = measure(observed([sample(0, [backend(n, state) for n, state in enumerate(states)])]))

    assert seen.figures.parallelism is not None
    assert seen.figures.parallelism.value == 3
    assert seen.figures.transaction_idle_share is not None
    assert seen.figures.transaction_idle_share.value == pytest.approx(2 / 3)


def test_transactions_that_rest_throughout_are_no_part_of_the_pauses_that_were_observed() -> None:
    leaked = [backend(n, "idle in transaction", state_at=-60.0) for n in range(4)]
    paused = [backend(9, state, state_at=at) for at, state in enumerate(["active", "idle in transaction"])]

    alone = measure(observed([sample(0, leaked), sample(1, leaked)])).figures.transaction_idle_share
    beside = measure(
        observed([sample(at, [*leaked, work]) for at, work in enumerate(paused)])
    ).figures.transaction_idle_share

    assert alone is None
    assert beside is not None
    assert beside.value == pytest.approx(0.5)


def test_waits_for_a_transaction_are_told_apart_from_waits_within_the_server() -> None:
    waits = ("Lock", "LWLock", "LWLock", "IO", None)
    figures = measure(observed([sample(0, [backend(n, wait_event_type=w) for n, w in enumerate(waits)])])).figures

    assert figures.lock_share == measured(1 / 5)
    assert figures.contention_share == measured(3 / 5)


def test_the_application_with_most_sessions_is_measured_and_the_rest_are_others() -> None:
    mine = [backend(n) for n in range(5)]
    others = [backend(10 + n, application="report") for n in range(2)]
    tools = [backend(20 + n, application="poolctl") for n in range(9)]

    seen = measure(observed([sample(0, [*mine, *others, *tools])]))

    assert (seen.application, seen.backends) == ("shop", 5)
    assert seen.figures.other_connections is not None
    assert seen.figures.other_connections.value == 3  # 2 x 1.2, rounded up


def test_a_named_application_is_measured_however_small() -> None:
    samples = [sample(0, [backend(1), backend(2), backend(3, application="report")])]

    assert measure(observed(samples), "report").backends == 1


def test_counters_and_samples_of_a_steady_load_agree() -> None:
    # Four connections always at work, each statement 10 ms: 400 a second, four seconds of work in each second.
    samples = [
        sample(at, [backend(n, state_at=at - 0.005) for n in range(4)], counters(400 * at, 4.0 * at))
        for at in range(31)
    ]

    figures = measure(observed(samples)).figures

    assert [window.duration for window in figures.windows] == [10, 10, 10]
    assert [round(window.busy, 2) for window in figures.windows] == [4, 4, 4]
    assert figures.parallelism is not None
    assert figures.parallelism.value == 4
    assert figures.throughput is not None
    assert figures.throughput.value == pytest.approx(400)


def test_a_statement_that_has_not_ended_is_counted_as_far_as_it_is_in_the_window() -> None:
    running = backend(1, state_at=-100.0)

    figures = measure(observed([sample(at, [running]) for at in range(11)])).figures

    assert [window.busy for window in figures.windows] == [pytest.approx(1.0)]


def test_what_began_before_the_window_is_not_counted_when_it_ends_within() -> None:
    long = backend(1, state_at=-90.0)
    samples = [sample(0, [long]), sample(10, [], counters(1, 95.0))]

    figures = measure(observed(samples)).figures

    assert [window.busy for window in figures.windows] == [pytest.approx(0.5)]


def test_no_window_reaches_across_a_reset_of_the_statistics() -> None:
    samples = [sample(0, [], counters(1000, 50.0)), sample(10, [], counters(3, 0.1, reset_at=5.0))]

    figures = measure(observed(samples)).figures

    assert figures.windows == ()
    assert figures.is_stats_reset


def test_before_postgresql_14_the_samples_speak_alone() -> None:
    old = DatabaseCounters("shop", 10, commits=5)

    figures = measure(observed([sample(0, [backend(1)], old), sample(10, [backend(1)], old)])).figures

    assert figures.windows == ()
    assert figures.method == "samples"
    assert figures.parallelism is not None


def test_limits_of_the_role_are_those_of_the_application_and_not_of_the_one_who_looks() -> None:
    facts = ServerFacts(
        "db", "18", 180001, "watcher", "shop", 200, 3, reserved=2,
        roles=(RoleFacts("app", connection_limit=40), RoleFacts("watcher", connection_limit=2)),
        settings={"idle_session_timeout": 600.0},
    )  # fmt: skip

    figures = measure(observed([sample(0, [backend(1)])], facts)).figures

    assert figures.role_limit is not None
    assert figures.role_limit.value == 40
    assert figures.session_idle_limit is not None
    assert (figures.max_connections, figures.reserved) == (figures.max_connections, figures.reserved)
    assert figures.reserved is not None
    assert figures.reserved.value == 2


def test_the_spread_of_holds_comes_from_within_and_between_statements() -> None:
    quick, slow = StatementCounters(1, "app", "shop", "a", 0, 0.0), StatementCounters(2, "app", "shop", "b", 0, 0.0)
    after = [
        StatementCounters(1, "app", "shop", "a", 100, 1.0, stddev_time=0.0),
        StatementCounters(2, "app", "shop", "b", 100, 3.0, stddev_time=0.0),
    ]

    figures = measure(observed([sample(0, statements=[quick, slow]), sample(10, statements=after)])).figures

    assert figures.hold_cv is not None
    assert figures.hold_cv.value == pytest.approx(0.5)  # 10 ms and 30 ms: deviation 10 around a mean of 20


def test_figures_of_the_pool_give_hold_wait_and_rate() -> None:
    def pool(at: int) -> PoolFigures:
        return PoolFigures(
            "app:9090", "main", "psycopg_pool", max_open=10, in_use=10, acquired_total=100.0 * at,
            use_time_total=2.0 * at, use_count_total=100.0 * at, wait_time_total=0.5 * at,
        )  # fmt: skip

    snapshots = tuple(Snapshot(float(at), server=sample(at, [backend(1)]), pools=(pool(at),)) for at in range(3))

    figures = measure(Observation(snapshots, FACTS)).figures

    assert figures.hold_time is not None
    assert figures.hold_time.value == pytest.approx(0.02)
    assert figures.wait_time is not None
    assert figures.wait_time.value == pytest.approx(0.005)
    assert figures.throughput is not None
    assert figures.throughput.value == pytest.approx(100)
    assert figures.censored_share is not None
    assert figures.censored_share.value == 1
    assert figures.current_max_open is not None
    assert figures.current_max_open.value == 10


def test_processors_are_told_where_the_server_is_on_this_machine() -> None:
    host = HostSample(has_server=True, cores=4, server_cpu=1.0)
    samples = [sample(at, [backend(1)], counters(100 * at, 1.0 * at)) for at in (0, 10)]

    figures = measure(observed(samples, host=host)).figures

    assert figures.cores is not None
    assert figures.cores.value == 4
    assert figures.database_cpu is not None
    assert figures.database_cpu.value == 0.25
    assert figures.cpu_time is not None
    assert figures.cpu_time.value == pytest.approx(0.01)


def test_what_others_use_of_a_machine_that_the_server_fills_is_lost_to_the_server() -> None:
    full = HostSample(has_server=True, cores=2, server_cpu=1.7, cpu_share=0.99)
    beside = HostSample(has_server=True, cores=2, server_cpu=0.4, cpu_share=0.99)
    samples = [sample(at, [backend(1)]) for at in (0, 10)]

    shares = [measure(observed(samples, host=host)).figures.database_cpu for host in (full, beside)]

    assert [share.value if share else None for share in shares] == [0.99, pytest.approx(0.2)]


def test_transactions_of_poolctl_itself_are_not_the_applications() -> None:
    looked_at = replace(FACTS, database="shop")
    samples = [sample(at, [backend(1)], counters(10 * at + at)) for at in range(11)]
    observation = replace(observed(samples), server=looked_at)

    figures = measure(observation).figures

    assert figures.throughput is not None
    assert figures.throughput.value == pytest.approx(10)


def test_sessions_are_counted_by_the_process_behind_them() -> None:
    sessions = [backend(n, "idle", client_port=4000 + n) for n in range(6)]
    processes = tuple(ClientProcess(4000 + n, 70 + n % 2, "app", "sleeping") for n in range(6))
    host = HostSample(has_server=True, processes=processes)

    seen = measure(observed([sample(0, sessions)], host=host))

    assert (seen.processes, seen.backends_each) == (2, 3)


def test_sessions_whose_process_is_elsewhere_are_counted_by_their_address() -> None:
    sessions = [backend(n, "idle", client=f"10.0.0.{n % 3}") for n in range(6)]

    seen = measure(observed([sample(0, sessions)]))

    assert (seen.processes, seen.clients, seen.backends_each) == (0, 3, 2)


@pytest.mark.parametrize(("busy", "censored"), [(4, 1.0), (3, None), (0, None)])
def test_a_pool_with_all_its_sessions_busy_most_of_the_time_asks_for_more_than_was_seen(
    busy: int, censored: float | None
) -> None:
    sessions = [backend(n, "active" if n < busy else "idle") for n in range(4)]

    share = measure(observed([sample(at, sessions) for at in range(5)])).figures.censored_share

    assert (share.value if share else None) == censored


def test_pools_that_told_their_figures_stand_for_those_that_did_not() -> None:
    def pool(acquired: float) -> PoolFigures:
        return PoolFigures("m", "shop", "go", max_open=5, open=5, in_use=2, acquired_total=acquired)

    sessions = [backend(n, "idle") for n in range(20)]
    snapshots = [Snapshot(float(at), server=sample(at, sessions), pools=(pool(100.0 * at),)) for at in (0, 10)]

    figures = measure(Observation(tuple(snapshots), FACTS)).figures

    assert figures.throughput is not None
    assert figures.throughput.value == pytest.approx(400)


def test_the_spread_of_statements_is_seen_though_not_every_look_asks_for_them() -> None:
    counted = [(StatementCounters(1, "app", "shop", "SELECT 1", 100 * at, 1.0 * at, 0.02),) for at in (1, 2)]
    samples = [sample(0), sample(1, statements=counted[0]), sample(2, statements=counted[1]), sample(3)]

    cv = measure(observed(samples)).figures.hold_cv

    assert cv is not None
    assert cv.value == pytest.approx(2.0)


def test_statements_of_other_roles_are_not_the_applications() -> None:
    def counted(calls: int) -> list[StatementCounters]:
        own = StatementCounters(1, "app", "shop", "SELECT 1", calls, 0.01 * calls, 0.0)
        return [own, StatementCounters(2, "watcher", "shop", "BEGIN", calls, 1e-6 * calls, 0.0)]

    samples = [sample(at, [backend(1)], statements=counted(100 + 100 * at)) for at in (0, 10)]
    cv = measure(observed(samples)).figures.hold_cv

    assert cv is not None
    assert cv.value == pytest.approx(0.0, abs=1e-6)


def test_the_spread_of_the_window_is_not_that_of_all_times() -> None:
    # A thousand calls of 100 ms, and then, with an index, as many of 1 ms without any spread.
    mixed_mean, mixed_deviation = 0.0505, 0.0495
    before = StatementCounters(1, "app", "shop", "SELECT 1", 1000, 100.0, 0.0)
    after = StatementCounters(1, "app", "shop", "SELECT 1", 2000, 2000 * mixed_mean, mixed_deviation)
    samples = [sample(0, statements=[before]), sample(10, statements=[after])]

    cv = measure(observed(samples)).figures.hold_cv

    assert cv is not None
    assert cv.value == pytest.approx(0.0, abs=0.01)


def test_nothing_seen_is_nothing_measured() -> None:
    seen = measure(Observation((Snapshot(0.0),)))

    assert seen.application is None
    assert seen.figures.parallelism is None
    assert seen.figures.max_connections is None


def test_nobody_is_the_largest_application_of_an_empty_server() -> None:
    assert find_largest_application([]) is None


@given(st.lists(st.integers(0, 50), max_size=60))
def test_effective_samples_are_never_more_than_the_samples(counts: list[int]) -> None:
    effective = effective_samples(counts)

    assert 0 <= effective <= len(counts)


def test_samples_that_follow_each_other_slowly_are_worth_little() -> None:
    slow = [n // 20 for n in range(200)]

    assert effective_samples(slow) < 20


def test_independent_samples_are_worth_themselves() -> None:
    assert effective_samples([1, 5, 2, 4, 3, 1, 4, 2, 5, 1, 3, 5, 1, 5]) > 10
