"""Threaded instances with the real libraries: what is counted, when requests begin, and how runs end."""

from collections.abc import Iterator

import pytest
from sandboxes import eventually
from threaded_runs import LIBRARIES, SIZES, Done, Driver

from poolctl.engines.instance import threads
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.pool import Closed

pytestmark = pytest.mark.server

WAITS = {"max_open": 1, "min_idle": 1, "acquire_timeout": "off"}
"""A psycopg_pool of one connection in which all clients wait without limit."""


@pytest.fixture
def driver(servers: ThrowAwayServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    driver = Driver(servers)
    # Only to know which libraries are to be closed.
    monkeypatch.setattr(threads, "open_library", driver.open_library)
    yield driver
    driver.clean_up()


def assert_adds_up(done: Done) -> None:
    tally, stats = done.tally, done.stats
    assert tally.offered == (tally.acquired + tally.timed_out + tally.refused + tally.failed + tally.unfinished)
    assert tally.acquired >= tally.released + tally.leaked
    assert stats.open == stats.in_use + stats.idle + stats.opening
    for _, sample, _, _ in done.samples:
        assert sample.open == sample.in_use + sample.idle + sample.opening
        assert sample.open <= (sample.max_open or sample.open)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_correct_workload_releases_all_it_acquires(driver: Driver, kind: str) -> None:
    done = driver.run(kind, pool=SIZES[kind], load={"workers": 3, "hold": "5ms", "requests": 60, "duration": "60s"})

    assert_adds_up(done)
    assert done.tally.released == done.tally.offered == 60
    assert done.tally.errors == {}
    assert done.stats.in_use == 0
    assert done.stats.peak_in_use == 3
    # The hold and not much more; how much more is the machine's affair.
    assert 0.005 <= done.tally.use_time.percentile(50) < 0.5
    assert done.progress.cpu > 0


@pytest.mark.parametrize("kind", LIBRARIES)
def test_each_leak_keeps_a_connection_for_good(driver: Driver, kind: str) -> None:
    # What is under way at the end may open a connection first, which takes as long as the machine takes.
    load = {"workers": 5, "hold": "2ms", "duration": "600ms", "error_pause": "20ms", "drain": "20s"}
    done = driver.run(kind, pool=SIZES[kind], load=load, leak={"every": 4})

    assert_adds_up(done)
    assert done.tally.acquired == done.tally.released + done.tally.leaked
    assert done.stats.in_use == done.stats.open == done.tally.leaked
    if kind == "none":
        assert done.tally.leaked > 5
        assert done.tally.wait_time.count == done.tally.connect_time.count + done.stats.open_failures
    else:
        assert done.tally.leaked == 3
        assert done.tally.timed_out > 0
        assert done.stats.exhausted_since is not None
        assert done.stats.recovered_at is None


def test_a_pool_of_psycopg2_without_putconn_serves_as_many_requests_as_it_has_connections(driver: Driver) -> None:
    pool = {"max_open": 20, "max_idle": 5}
    done = driver.run("psycopg2", pool=pool, load={"workers": 1, "requests": 60, "query": "select1"}, leak={"every": 1})

    assert_adds_up(done)
    assert (done.tally.acquired, done.tally.leaked, done.tally.timed_out) == (20, 20, 40)
    [(kind, (count, _))] = done.tally.errors.items()
    assert (kind.origin, kind.message, count) == ("pool", "connection pool exhausted", 40)
    assert done.took < 20.0, "it ends with its requests, not with its duration"


def test_waits_are_measured_from_the_due_time(driver: Driver) -> None:
    """50 a second come to a connection that serves 20: without the queue before it each wait would be 50 ms."""
    pool = {"max_open": 1, "min_idle": 1, "acquire_timeout": "off"}
    load = {"workers": "off", "rate": 50.0, "hold": "50ms", "duration": "600ms", "drain": "5s"}
    done = driver.run("psycopg_pool", pool=pool, load=load)

    assert_adds_up(done)
    assert done.tally.unfinished == 0
    assert done.tally.wait_time.max > 0.25
    assert done.progress.ideal is not None
    ideal, measured = done.progress.ideal
    assert measured == pytest.approx(ideal, rel=0.1, abs=0.01)
    assert measured == pytest.approx(done.tally.wait_time.total / done.tally.wait_time.count, rel=0.01)


def test_what_begins_late_in_the_driver_itself_is_lag_and_wait(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "THREAD_LIMIT", 1)
    load = {"workers": "off", "rate": 40.0, "hold": "50ms", "duration": "500ms", "drain": "5s"}
    done = driver.run("psycopg_pool", pool=SIZES["psycopg_pool"], load=load)

    assert_adds_up(done)
    assert done.progress.lag.count == done.tally.offered == done.tally.released
    assert done.progress.lag.max > 0.2
    assert done.tally.wait_time.max >= done.progress.lag.max
    assert done.stats.peak_in_use == 1


def test_arrivals_are_the_same_for_every_library(driver: Driver) -> None:
    load = {"workers": "off", "rate": 100.0, "hold": "1ms", "duration": "300ms", "seed": 7}
    offered = {driver.run(kind, pool=SIZES[kind], load=load).tally.offered for kind in LIBRARIES}

    assert len(offered) == 1
    assert offered.pop() > 10


def test_requests_bound_a_run(driver: Driver) -> None:
    load = {"workers": 4, "requests": 25, "hold": "1ms", "duration": "30s"}
    done = driver.run("psycopg_pool", pool=SIZES["psycopg_pool"], load=load)

    assert done.tally.offered == done.tally.released == 25
    assert done.took < 20.0


def test_a_run_without_duration_ends_when_all_clients_wait_without_limit(driver: Driver) -> None:
    load = {"workers": 3, "requests": 50, "hold": "1ms", "duration": "off"}
    done = driver.run("psycopg_pool", pool=WAITS, load=load, leak={"every": 5})

    assert_adds_up(done)
    assert (done.tally.acquired, done.tally.released, done.tally.leaked, done.tally.unfinished) == (5, 4, 1, 3)
    assert done.stats.waiting == 3
    assert done.took < 20.0


def test_nested_acquires_that_wait_for_each_other_end_the_run(driver: Driver) -> None:
    pool = {"max_open": 2, "min_idle": 2, "acquire_timeout": "off"}
    load = {"workers": 2, "connections_per_request": 2, "requests": 10, "hold": "50ms", "duration": "off"}
    done = driver.run("psycopg_pool", pool=pool, load=load)

    assert_adds_up(done)
    assert (done.tally.acquired, done.tally.released, done.tally.unfinished) == (2, 0, 2)
    assert done.stats.in_use == done.stats.waiting == 2


def test_nested_acquires_hold_all_until_the_end(driver: Driver) -> None:
    load = {"workers": 1, "connections_per_request": 3, "requests": 4, "hold": "20ms"}
    done = driver.run("psycopg2", pool=SIZES["psycopg2"], load=load)

    assert_adds_up(done)
    assert done.tally.acquired == done.tally.released == 12
    assert done.tally.use_time.max > 0.055
    assert done.stats.peak_in_use == 3


def test_a_nested_request_that_fails_gives_back_what_it_holds(driver: Driver) -> None:
    load = {"workers": 1, "connections_per_request": 4, "requests": 2, "hold": "5ms"}
    done = driver.run("psycopg2", pool=SIZES["psycopg2"], load=load)

    assert (done.tally.acquired, done.tally.released, done.tally.timed_out) == (6, 6, 2)
    assert done.stats.in_use == 0


def test_requests_in_progress_may_finish_in_the_drain(driver: Driver) -> None:
    load = {"workers": 2, "hold": "400ms", "duration": "200ms", "drain": "2s"}
    done = driver.run("psycopg_pool", pool=SIZES["psycopg_pool"], load=load)

    assert (done.tally.acquired, done.tally.released, done.tally.released_in_time) == (2, 2, 0)
    assert 0.4 < done.progress.at < 1.5


def test_what_has_not_ended_after_the_drain_is_unfinished_or_in_use(driver: Driver) -> None:
    load = {"workers": 3, "hold": "12s", "duration": "200ms", "drain": "100ms"}
    done = driver.run("psycopg_pool", pool=WAITS, load=load)

    assert_adds_up(done)
    assert (done.tally.offered, done.tally.acquired, done.tally.unfinished) == (3, 1, 2)
    assert (done.stats.in_use, done.stats.waiting) == (1, 2)
    assert done.took < 8.0


def test_the_user_can_end_a_run(driver: Driver) -> None:
    load = {"workers": 3, "hold": "10ms", "duration": "30s"}
    done = driver.run("sqlalchemy", pool=SIZES["sqlalchemy"], load=load, stop_at=0.2)

    assert_adds_up(done)
    assert done.took < 20.0
    assert done.tally.acquired == done.tally.released + done.stats.in_use


def test_the_warm_up_leaves_no_trace_in_the_counts(driver: Driver) -> None:
    load = {"workers": 2, "hold": "10ms", "warmup": "300ms", "duration": "600ms"}
    done = driver.run("psycopg2", pool=SIZES["psycopg2"], load=load)

    assert 0 < done.tally.offered < done.samples[-1][2] - 10
    assert done.tally.connect_time.count == 0
    assert done.progress.warm is not None
    assert done.progress.warm.opened == done.stats.opened == 3
    assert 0.29 * 3 < done.progress.warm.open_time < 0.4 * 3


def test_samples_and_progress_come_on_time(driver: Driver) -> None:
    load = {"workers": 1, "hold": "5ms", "duration": "1200ms"}
    done = driver.run("psycopg2", pool=SIZES["psycopg2"], load=load, interval=0.1)

    assert len(done.samples) == pytest.approx(13, abs=2)
    assert done.samples[0][0] < 0.1
    assert [round(at, 1) for at in done.progresses] == [1.0]
    assert [acquired for _, _, acquired, _ in done.samples] == sorted(acquired for _, _, acquired, _ in done.samples)


def test_a_burst_adds_workers_for_a_while(driver: Driver) -> None:
    burst = {"at": "200ms", "workers": 3, "requests": 2, "hold": "50ms"}
    load = {"workers": "off", "duration": "600ms", "bursts": [burst]}
    done = driver.run("psycopg_pool", pool=SIZES["psycopg_pool"], load=load)

    assert done.tally.released == 6
    assert all(acquired == 0 for at, _, acquired, _ in done.samples if at < 0.19)
    assert done.stats.peak_in_use == 3


def test_think_time_is_spent_without_a_connection_and_its_lateness_is_lag(driver: Driver) -> None:
    load = {"workers": 1, "hold": "5ms", "think": "45ms", "duration": "500ms"}
    done = driver.run("psycopg2", pool=SIZES["psycopg2"], load=load)

    assert 5 <= done.tally.released <= 10
    assert done.progress.lag.count == done.tally.acquired
    assert done.stats.in_use_time < 0.25


@pytest.mark.parametrize("query", ["sleep", "SELECT pg_sleep(0.02)"])
def test_a_slow_server_makes_statements_take_so_many_times_longer(driver: Driver, query: str) -> None:
    slow = {"at": "0s", "do": "slow", "for": "9s", "factor": 5.0}
    load = {"workers": 1, "hold": "20ms", "requests": 4, "query": query}
    done = driver.run("psycopg_pool", pool=SIZES["psycopg_pool"], load=load, events=[slow])

    assert 0.095 < done.tally.use_time.percentile(25) < 0.15


def test_a_statement_of_the_users_is_followed_by_the_rest_of_the_hold(driver: Driver) -> None:
    load = {"workers": 1, "hold": "60ms", "requests": 3, "query": "select1"}
    done = driver.run("psycopg2", pool=SIZES["psycopg2"], load=load)

    assert done.tally.use_time.total / 3 == pytest.approx(0.06, abs=0.02)


def test_who_is_turned_away_at_once_pauses_before_asking_again(driver: Driver) -> None:
    load = {"workers": 1, "query": "select1", "duration": "500ms", "error_pause": "100ms"}
    done = driver.run("psycopg2", pool={"max_open": 1, "max_idle": 1}, load=load, leak={"every": 1})

    assert 3 <= done.tally.timed_out <= 5
    assert done.tally.wait_time.max < 0.05


@pytest.mark.parametrize(
    ("kind", "shape", "states"),
    [
        ("psycopg_pool", "in-transaction", ["idle in transaction"] * 3),
        ("psycopg2", "unread-rows", ["active"] * 3),
        ("psycopg_pool", "dropped-reference", []),
        ("sqlalchemy", "dropped-reference", ["idle"] * 3),
    ],
)
def test_leaks_in_a_run_show_on_the_server(driver: Driver, kind: str, shape: str, states: list[str]) -> None:
    # The requests end the run: how many connections are opened in a given time depends on the machine.
    load = {"workers": 3, "hold": "1ms", "requests": 12, "duration": "60s"}
    done = driver.run(kind, pool=SIZES[kind], load=load, leak={"every": 1, "shape": shape})

    assert_adds_up(done)
    with driver.superuser() as superuser:
        query = "SELECT state, query FROM pg_stat_activity WHERE application_name = 'driver test' ORDER BY 1"
        # The rows that are never read may take their time to begin.
        eventually(lambda: [state for state, _ in superuser.execute(query)] == states)
        if shape == "in-transaction":
            assert all(last.startswith("SELECT pg_sleep($1::float8)") for _, last in superuser.execute(query))
    if kind == "sqlalchemy":
        assert (done.tally.leaked, done.stats.in_use, done.stats.closed) == (12, 0, Closed())
    elif shape == "dropped-reference":
        assert (done.stats.in_use, done.stats.closed.leak_reclaimed) == (3, 3)
    else:
        assert (done.tally.leaked, done.stats.in_use, done.stats.open) == (3, 3, 3)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_server_that_cuts_its_connections_costs_errors_and_not_the_run(driver: Driver, kind: str) -> None:
    with driver.superuser() as superuser:
        cut = iter([0.2, 0.4])
        at_next = next(cut)

        def look(at: float) -> None:
            nonlocal at_next
            if at >= at_next:
                at_next = next(cut, 1e9)
                superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")

        load = {"workers": 3, "hold": "20ms", "duration": "2s"}
        done = driver.run(kind, pool=SIZES[kind], load=load, on_sample=look)

    assert_adds_up(done)
    assert done.tally.acquired == done.tally.released
    assert done.tally.timed_out == done.tally.refused == 0
    assert 2 <= sum(count for count, _ in done.tally.errors.values()) <= 6
    assert done.stats.closed.error >= 2
    assert done.stats.in_use == 0
    late = [acquired for at, _, acquired, _ in done.samples if at > 0.5]
    assert late[-1] - late[0] > 10


POOLS = ("psycopg_pool", "psycopg2", "sqlalchemy")


@pytest.mark.parametrize("workers", [3, 5])
@pytest.mark.parametrize("kind", POOLS)
def test_requests_without_a_hold_are_counted_like_all_others(driver: Driver, kind: str, workers: int) -> None:
    # Most find a free connection and are counted together later; with five workers some wait or are refused.
    load = {"workers": workers, "hold": "0s", "query": "select1", "duration": "600ms", "warmup": "100ms"}
    pool = SIZES[kind] | ({} if kind == "psycopg2" else {"acquire_timeout": "10s"})
    done = driver.run(kind, pool=pool, load=load | {"error_pause": "1ms", "drain": "20s"})

    assert_adds_up(done)
    tally = done.tally
    assert tally.acquired == tally.released == tally.wait_time.count - tally.timed_out > 20
    assert tally.requests == tally.requests_completed + tally.requests_failed == tally.offered
    assert tally.released_in_time <= tally.released <= tally.released_in_time + workers
    assert done.samples[-1][2] > tally.acquired
    assert done.stats.in_use == 0
    assert done.stats.peak_in_use <= 3
    assert 0 < done.stats.in_use_time <= done.stats.open_time
    if workers == 3:
        assert tally.errors == {}


@pytest.mark.parametrize("kind", POOLS)
def test_a_cut_connection_costs_a_request_without_a_hold_one_error(driver: Driver, kind: str) -> None:
    with driver.superuser() as superuser:
        cuts = [0.2]

        def look(at: float) -> None:
            if cuts and at >= cuts[0]:
                cuts.clear()
                superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")

        load = {"workers": 3, "hold": "0s", "query": "select1", "duration": "2s", "drain": "20s"}
        pool = SIZES[kind] | ({} if kind == "psycopg2" else {"acquire_timeout": "10s"})
        done = driver.run(kind, pool=pool, load=load, on_sample=look)

    assert_adds_up(done)
    tally = done.tally
    assert tally.acquired == tally.released
    assert tally.requests == tally.requests_completed + tally.requests_failed
    assert 1 <= tally.requests_failed <= 3
    assert done.stats.closed.error >= 1
    assert done.stats.in_use == 0
