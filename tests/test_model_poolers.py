"""PgBouncer and Pgpool-II in the model: what was seen on the real ones, and what their settings promise."""

from typing import Any

import pytest
from modeled import constant, exponential, run

from poolctl.errors import BadInput
from poolctl.scenario.run import Run


def bounced(settings: dict[str, Any], *, via: str = "pgbouncer", **keys: Any) -> Run:
    database = {"via": via, via: settings, "max_connections": keys.pop("max_connections", 1000)}
    return run(
        database=database | keys.pop("database", {}), pool=keys.pop("pool", {"max_open": 0, "max_idle": 1000}), **keys
    )


def server_peak(done: Run) -> int:
    assert done.summary.server is not None
    return done.summary.server.peak_connections or 0


def test_transaction_mode_serves_100_clients_with_20_server_connections() -> None:
    done = bounced(
        {"pool_mode": "transaction", "max_client_conn": 1000}, workers=100, hold=exponential(0.02), duration=10.0
    )

    assert done.summary.connections.peak_open == 100
    assert server_peak(done) == 20
    # 20 connections of 20 ms each are always busy.
    assert done.summary.throughput == pytest.approx(1000.0, rel=0.03)


def test_session_mode_gives_the_connections_to_the_first_20_clients_for_good() -> None:
    done = bounced(
        {"pool_mode": "session", "max_client_conn": 1000, "query_wait_timeout": 2},
        workers=30,
        hold=constant(0.02),
        think=constant(0.1),
        duration=10.0,
    )

    assert server_peak(done) == 20
    assert {seen.kind.message for seen in done.summary.errors} == {"query_wait_timeout"}


def test_a_reserve_pool_of_1_serves_a_third_client_after_its_timeout_of_2_s() -> None:
    done = bounced(
        {"pool_mode": "transaction", "default_pool_size": 2, "reserve_pool_size": 1, "reserve_pool_timeout": 2},
        bursts=[{"at": 0, "workers": 3, "requests": 1, "hold": "10s"}],
        duration=15.0,
    )

    # Seen on PgBouncer: served at 2.2 s. Use time is the wait in PgBouncer plus 10 s.
    assert done.summary.use_time.max == pytest.approx(12.2, abs=0.25)
    assert server_peak(done) == 3


def test_query_wait_timeout_of_4_s_disconnects_at_4_to_4_34_s() -> None:
    done = bounced(
        {"pool_mode": "transaction", "default_pool_size": 1, "query_wait_timeout": 4},
        bursts=[{"at": 0, "workers": 2, "requests": 1, "hold": "10s"}],
        duration=15.0,
    )

    (seen,) = done.summary.errors
    assert (seen.kind.origin, seen.kind.sqlstate, seen.count) == ("pooler", "08P01", 1)
    assert 4.0 <= seen.first_at <= 4.34


def test_max_client_conn_refuses_with_pgbouncers_own_words() -> None:
    done = bounced({"max_client_conn": 50}, workers=60, hold=constant(0.5), duration=3.0)

    assert done.summary.connections.peak_in_use == 50
    assert done.summary.refused > 0
    assert done.summary.errors[0].kind.message == "no more connections allowed (max_client_conn)"


def test_max_db_connections_bounds_the_pools_of_all_services_together() -> None:
    def service(name: str) -> dict[str, Any]:
        return {"name": name, "pool": {"max_open": 30, "max_idle": 30}, "load": {"workers": 30, "hold": "20ms"}}

    done = run(
        database={"via": "pgbouncer", "pgbouncer": {"pool_mode": "transaction", "max_db_connections": 25}},
        service=[service("api"), service("jobs")],
        duration=5.0,
    )

    assert server_peak(done) == 25


def test_a_pool_size_of_0_is_unlimited_as_in_pgbouncer_1_24() -> None:
    done = bounced({"pool_mode": "transaction", "default_pool_size": 0}, workers=30, hold=constant(0.1), duration=5.0)

    assert server_peak(done) == 30


def test_a_leaked_transaction_pins_a_server_connection_and_a_forgotten_idle_one_does_not() -> None:
    def served(shape: str) -> int:
        return bounced(
            {"pool_mode": "transaction", "default_pool_size": 5, "max_client_conn": 1000},
            leak={"every": 10, "shape": shape},
            rate=50.0,
            hold=constant(0.01),
            duration=10.0,
        ).summary.released

    assert served("forgotten") > 400
    assert served("in-transaction") < 60


def test_when_the_server_refuses_the_first_waiter_is_told_and_the_others_wait() -> None:
    done = bounced(
        {"pool_mode": "transaction", "default_pool_size": 20},
        max_connections=8,
        workers=20,
        hold=constant(5.0),
        duration=10.0,
    )

    assert server_peak(done) == 5
    assert [seen.kind.sqlstate for seen in done.summary.errors] == ["53300"]


def test_pgpool_lets_clients_beyond_its_children_wait_without_an_error() -> None:
    done = bounced(
        {"num_init_children": 10},
        via="pgpool",
        pool={"kind": "none"},
        workers=20,
        hold=constant(1.0),
        duration=10.0,
    )

    assert server_peak(done) == 10
    assert done.summary.connections.peak_in_use == 10
    assert done.summary.errors == ()
    assert done.summary.wait_time.p50 == pytest.approx(1.0, abs=0.1)


def test_pgpool_with_reserved_connections_refuses_instead() -> None:
    done = bounced(
        {"num_init_children": 10, "reserved_connections": 1},
        via="pgpool",
        pool={"kind": "none"},
        workers=20,
        hold=constant(1.0),
        duration=5.0,
    )

    assert done.summary.connections.peak_in_use == 9
    assert {seen.kind.message for seen in done.summary.errors} == {"Sorry, too many clients already"}


def test_a_setting_that_the_model_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"database.pgbouncer.server_tls_sslmode"):
        bounced({"server_tls_sslmode": "require"}, workers=1, duration=1.0)
    with pytest.raises(BadInput, match="statement"):
        bounced({"pool_mode": "statement"}, workers=1, duration=1.0)
