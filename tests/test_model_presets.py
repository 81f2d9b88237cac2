"""The rule that sets each library apart, one test a rule. "Seen" means measured on the library itself."""

from typing import Any

import pytest
from modeled import constant, exponential, run

from poolctl.errors import BadInput
from poolctl.pool import LIBRARIES, NOT_MODELED
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import parse_scenario


def burst(kind: str, workers: int, hold: Any, **keys: Any) -> Run:
    """That many requests at 1 s, each once, and one more at the end: without it the run would end with the others."""
    pool = {"kind": kind} | keys.pop("pool", {})
    duration = keys.pop("duration", 60.0)
    return run(
        pool=pool,
        bursts=[
            {"at": 1, "workers": workers, "requests": 1, "hold": hold},
        ],
        duration=duration,
        **keys,
    )


def closed(done: Run) -> Any:
    return done.summary.connections.closed


def open_at(done: Run, at: float) -> int:
    return next(point.open for point in done.timeline if point.at >= at)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_every_kind_serves_a_light_load_without_an_error(kind: str) -> None:
    done = run(pool={"kind": kind}, rate=20.0, hold=exponential(0.02), duration=20.0)

    assert done.summary.errors == ()
    assert done.summary.released == done.summary.offered > 300


@pytest.mark.parametrize("kind", NOT_MODELED)
def test_a_pool_whose_rules_are_not_known_is_refused_by_name(kind: str) -> None:
    with pytest.raises(BadInput, match=f'pool.kind = "{kind}"'):
        parse_scenario({"name": "x", "pool": {"kind": kind}, "load": {"workers": 1}})


def test_psycopg_pool_grows_one_connection_at_a_time() -> None:
    # Seen: 6 callers at 0.3 s an opening, one ready: 0, 0.3, ... 1.5 s.
    done = burst("psycopg_pool", 6, "100s", pool={"min_idle": 1, "max_open": 6}, database={"connect_time": 0.3})

    assert done.summary.wait_time.max == pytest.approx(1.5)
    assert done.summary.wait_time.total == pytest.approx(4.5)


def test_psycopg_pool_shrinks_by_one_connection_each_max_idle_time() -> None:
    # Seen: 6 to 1 in 6 intervals.
    done = burst("psycopg_pool", 6, "100ms", pool={"min_idle": 1, "max_open": 6, "max_idle_time": "1s"}, interval=0.1)

    assert [open_at(done, at) for at in (1.5, 3.5, 5.5, 8.5)] == [6, 5, 3, 1]


def test_psycopg_pool_rejects_by_ghosts_of_waiters_that_have_timed_out() -> None:
    done = run(
        pool={"kind": "psycopg_pool", "max_open": 1, "min_idle": 1, "acquire_timeout": "1s", "max_waiting": 3},
        bursts=[
            {"at": 1, "workers": 1, "requests": 1, "hold": "100s"},
            {"at": 2, "workers": 3, "requests": 1},
            {"at": 5, "workers": 1, "requests": 1},
        ],
        duration=20.0,
        drain=0,
    )

    assert [(seen.kind.name, seen.count) for seen in done.summary.errors] == [
        ("PoolTimeout", 3),
        ("TooManyRequests", 1),
    ]


def test_psycopg_pool_varies_each_lifetime_by_up_to_5_percent() -> None:
    done = run(
        pool={"kind": "psycopg_pool", "max_open": 1, "min_idle": 1, "max_lifetime": "100s"},
        workers=1,
        hold=constant(0.1),
        duration=1000.0,
    )

    assert closed(done).max_lifetime == 10


def test_psycopg2_keeps_everybody_out_while_it_opens() -> None:
    # Seen: another thread's putconn was blocked for 0.92 s behind an opening of 1 s.
    done = run(
        database={"connect_time": 1.0},
        pool={"kind": "psycopg2", "max_open": 5, "max_idle": 1},
        bursts=[
            {"at": 1, "workers": 1, "requests": 1, "hold": "1100ms"},
            {"at": 2, "workers": 1, "requests": 1, "hold": "10ms"},
            {"at": 2.5, "workers": 1, "requests": 1, "hold": "10ms"},
        ],
        duration=10.0,
    )

    # The third waits until 3 s for the lock, and finds what the first gave back late.
    assert done.summary.wait_time.max == pytest.approx(1.0)
    assert done.summary.wait_time.total == pytest.approx(1.0 + 0.5 + 1.0, abs=1.01)


def test_sqlalchemy_lets_the_releasing_worker_take_its_connection_again_before_the_waiter() -> None:
    barging, fair = (
        run(pool={"kind": kind, "max_open": 1, "acquire_timeout": "1s"}, workers=2, hold=constant(0.01), duration=5.0)
        for kind in ("sqlalchemy", "deadpool")
    )

    assert barging.summary.timed_out > 0
    assert fair.summary.timed_out == 0


def test_sqlalchemy_reopens_an_expired_connection_in_its_own_slot() -> None:
    done = run(
        pool={"kind": "sqlalchemy", "max_open": 3, "max_idle": 3, "max_lifetime": "10s"},
        bursts=[{"at": 0, "workers": 3, "requests": 1}, {"at": 20, "workers": 1, "requests": 1, "hold": "8s"}],
        hold=constant(1.0),
        duration=30.0,
    )

    assert (closed(done).max_lifetime, done.summary.connections.opened, open_at(done, 25)) == (1, 4, 3)


def test_after_a_failover_sqlalchemy_has_one_error_and_psycopg_pool_one_for_each_connection() -> None:
    def errors(kind: str) -> int:
        done = run(
            pool={"kind": kind, "max_open": 3, "max_idle": 3}
            if kind == "sqlalchemy"
            else {"kind": kind, "max_open": 3, "min_idle": 3},
            bursts=[
                {"at": 1, "workers": 3, "requests": 1},
                *({"at": at, "workers": 1, "requests": 1} for at in range(10, 16)),
            ],
            hold=constant(0.5),
            events=[{"at": 5, "do": "failover"}],
            duration=20.0,
        )
        return sum(seen.count for seen in done.summary.errors)

    # Seen: 1 of 3, and 3 of 3.
    assert (errors("sqlalchemy"), errors("psycopg_pool")) == (1, 3)


def test_hikaricp_opens_one_after_the_other_with_30_ms_between() -> None:
    done = burst("hikaricp", 10, "100s", pool={"min_idle": 0, "max_open": 10}, database={"connect_time": 0.020})

    assert done.summary.wait_time.max == pytest.approx(10 * 0.020 + 9 * 0.030)


def test_hikaricp_refuses_what_it_would_replace_silently() -> None:
    with pytest.raises(BadInput, match="max_lifetime"):
        run(pool={"kind": "hikaricp", "max_lifetime": "10s"}, workers=1, duration=1.0)


def test_hikaricp_closes_at_three_quarters_of_its_lifetime_at_the_earliest() -> None:
    done = run(pool={"kind": "hikaricp", "max_open": 20, "max_lifetime": "100s"}, rate=1.0, duration=99.0)

    assert 0 < closed(done).max_lifetime <= 20
    assert all(point.open == 20 for point in done.timeline if 5 < point.at < 74)


def test_node_pg_closes_each_connection_10_s_after_its_own_last_use() -> None:
    done = burst("node-pg", 4, "100ms")

    assert (open_at(done, 10.9), open_at(done, 11.2)) == (4, 0)
    assert closed(done).max_idle_time == 4


def test_node_pg_gives_each_stage_its_own_timeout() -> None:
    # Waits 0.8 s for the slot, then 0.8 s for the opening: neither is over 1 s.
    done = run(
        database={"connect_time": 0.8},
        pool={"kind": "node-pg", "max_open": 1, "acquire_timeout": "1s", "max_uses": 1},
        bursts=[{"at": 0, "workers": 1, "requests": 1, "hold": "100ms"}, {"at": 0.1, "workers": 1, "requests": 1}],
        duration=10.0,
    )

    assert done.summary.timed_out == 0
    assert done.summary.wait_time.max == pytest.approx(0.8 + 0.8, abs=0.01)


def test_max_uses_replaces_a_connection_after_so_many_requests() -> None:
    done = run(pool={"kind": "asyncpg", "max_open": 1, "min_idle": 1, "max_uses": 10}, workers=1, requests=100)

    assert closed(done).other == 10


def test_pgxpool_keeps_an_opening_whose_caller_has_given_up() -> None:
    def opened(kind: str) -> int:
        done = burst(kind, 1, "10ms", pool={"acquire_timeout": "100ms", "max_open": 2}, database={"connect_time": 0.5})
        assert done.summary.timed_out >= 1
        return done.summary.connections.opened

    assert (opened("pgxpool"), opened("database/sql")) == (1, 0)


def test_pgxpool_closes_idle_connections_only_at_its_health_check_each_minute() -> None:
    done = burst("pgxpool", 4, "100ms", pool={"max_idle_time": "10s"}, duration=100.0)

    assert (open_at(done, 59), open_at(done, 61)) == (4, 0)


def test_knex_opens_for_all_its_waiters_at_once() -> None:
    done = burst("knex", 10, "100s", database={"connect_time": 0.3})

    assert done.summary.wait_time.max == pytest.approx(0.3)


def test_c3p0_opens_at_least_three_at_a_time() -> None:
    done = burst("c3p0", 4, "100s", database={"connect_time": 0.1}, pool={"min_idle": 3})

    assert done.summary.connections.peak_open == 6


def test_c3p0_takes_a_connection_back_only_when_a_helper_thread_has_time() -> None:
    # What comes back at 0.4 s and 0.7 s is behind the ten openings, three of which go on until 0.9 s.
    done = run(
        database={"connect_time": 0.3},
        pool={"kind": "c3p0", "max_open": 10, "min_idle": 1},
        bursts=[{"at": 0, "workers": 13, "requests": 1, "hold": "100ms"}],
        duration=10.0,
    )

    assert done.summary.wait_time.max == pytest.approx(0.9, abs=0.001)
    assert done.summary.connections.opened == 10


def test_hikaricp_drops_an_opening_that_no_request_waits_for_any_more() -> None:
    # Seen: of 20 callers, with a connect of 300 ms and holds of 140 ms, 5 connections served all.
    done = burst("hikaricp", 20, "140ms", pool={"min_idle": 0, "max_open": 10}, database={"connect_time": 0.3})

    assert done.summary.connections.opened == 5


def test_tomcat_opens_an_expired_connection_again_in_its_place_also_while_idle() -> None:
    # Seen: 4 connections, again 2.3 s later. The sweeps, each max_lifetime, have opened all of them again meanwhile.
    pool = {"kind": "tomcat", "max_open": 4, "min_idle": 0, "max_lifetime": "1s"}
    bursts = [{"at": at, "workers": 4, "requests": 1, "hold": "300ms"} for at in (0, 2.3)]
    done = run(database={"connect_time": 0.2}, pool=pool, bursts=bursts, duration=3.5)

    assert (done.summary.connections.opened, done.summary.connections.open, closed(done).max_lifetime) == (8, 4, 4)
    assert done.summary.wait_time.total == pytest.approx(4 * 0.2)


def test_rails_retires_a_connection_only_when_a_sweep_finds_it_idle() -> None:
    # Seen: under 80 % use ages reach 120 s with a max_age of 90 s.
    pool = {"kind": "rails", "max_open": 1, "max_lifetime": "90s"}
    busy, resting = (
        run(pool=pool, workers=1, hold="1s", think=think, duration=300.0) for think in ("0s", exponential(5.0))
    )

    assert closed(busy).max_lifetime == 0
    assert closed(resting).max_lifetime >= 2


def test_npgsql_closes_by_the_median_of_what_was_idle() -> None:
    done = burst("npgsql", 8, "100ms", duration=400.0)

    assert (open_at(done, 299), open_at(done, 301)) == (8, 0)


def test_mysql2_closes_what_is_above_max_idle_with_the_next_tick_and_not_at_release() -> None:
    done = burst("mysql2", 10, "500ms", pool={"max_idle": 2}, interval=0.1)

    assert (open_at(done, 1.9), open_at(done, 3.0)) == (10, 2)
    assert closed(done).max_idle == 8


def test_ecto_drops_what_waited_over_twice_the_target_only_after_a_slow_interval() -> None:
    light = run(pool={"kind": "ecto", "max_open": 5}, rate=40.0, hold=exponential(0.1), duration=60.0)
    heavy = run(pool={"kind": "ecto", "max_open": 5}, rate=70.0, hold=exponential(0.1), duration=60.0)

    assert light.summary.timed_out < 0.02 * light.summary.offered
    assert heavy.summary.timed_out > 0.2 * heavy.summary.offered
    assert heavy.summary.throughput == pytest.approx(50.0, rel=0.05)


def test_ecto_takes_a_leaked_connection_back_after_15_s() -> None:
    done = run(pool={"kind": "ecto", "max_open": 5}, leak={"every": 10}, rate=2.0, hold=constant(0.01), duration=60.0)

    assert done.summary.leaked == 11 or done.summary.leaked == 12
    assert closed(done).leak_reclaimed >= 8


def test_rails_reopens_up_to_its_floor_when_the_reaper_comes() -> None:
    done = run(
        pool={"kind": "rails", "min_idle": 3}, workers=1, hold=constant(0.01), think=constant(1.0), duration=60.0
    )

    assert (open_at(done, 10), open_at(done, 25)) == (1, 3)


def test_a_kind_never_opens_more_than_it_was_told() -> None:
    for kind in LIBRARIES:
        done = burst(kind, 60, "1s", database={"connect_time": exponential(0.05)})
        bound = done.scenario.pool.max_open
        assert not bound or done.summary.connections.peak_open <= bound
