"""On either side of each threshold, and what keeps one rule from speaking for another."""

from dataclasses import replace
from typing import Any

import modeled
import pytest
from diagnosed_runs import (
    ORDERS,
    RESERVED,
    RESTART,
    bound_generator,
    busy,
    codes,
    connections,
    error,
    exhausted,
    find,
    leaky,
    run,
    server,
    timeline,
    times,
)

from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.pool import Closed
from poolctl.scenario.run import ScannedTable, Statement

HALF_SECOND = Statement("SELECT sum(total) FROM orders WHERE customer = $1", 40, 20.0, 0.9)


def reopening(opened: int, acquired: int = 100, connect: float = 0.01) -> list[str]:
    return codes(
        run(
            acquired=acquired,
            connections=connections(opened=opened, peak_open=5, closed=Closed(max_idle=opened - 5)),
            connect_time=times((opened, connect)),
        )
    )


def test_churn_begins_at_ten_reopenings_beyond_a_tenth_of_the_acquires() -> None:
    assert reopening(14, acquired=50) == ["healthy"]
    assert reopening(16, acquired=50) == ["connection-churn"]
    assert reopening(14, acquired=4000) == reopening(400, acquired=4000) == ["healthy"]
    assert reopening(410, acquired=4000) == ["connection-churn"]


def test_churn_has_to_cost_a_hundredth_of_the_time_that_connections_are_used() -> None:
    # 20 reopenings among 100 acquires of 20 ms: 1 % of 2 s is 1 ms each.
    assert reopening(25, connect=0.0008) == ["healthy"]
    assert reopening(25, connect=0.0012) == ["connection-churn"]


def test_a_short_lifetime_is_named_as_the_reason_for_churn() -> None:
    finished = run(
        {"pool": {"max_lifetime": "100ms"}},
        connections=connections(opened=900, peak_open=20, closed=Closed(max_lifetime=880)),
        connect_time=times((900, 0.01)),
    )

    assert "Raise max_lifetime (SetConnMaxLifetime)" in find(finished, "connection-churn").remedy


def test_connections_without_a_pool_that_fill_the_server_come_before_the_refusals() -> None:
    finished = run(
        {"pool": {"kind": "none", "max_open": 0, "max_idle": 0}},
        refused=60,
        connections=connections(opened=4000, peak_open=97, closed=Closed(max_idle=3900)),
        connect_time=times((4000, 0.03)),
        errors=(error(60, "server", RESERVED),),
        server=server(cpu=1.95, refused=60),
    )

    assert codes(finished) == ["connection-churn", "slots-exhausted"]


def test_a_refusal_that_a_pooler_relays_is_only_likely_the_servers() -> None:
    finished = run({"database": {"via": "pgbouncer"}}, refused=5, errors=(error(5, "server", RESERVED),))

    assert find(finished, "slots-exhausted").confidence == "likely"


def test_a_scan_is_blamed_when_statements_fill_the_time_that_connections_are_held() -> None:
    small = ScannedTable("orders", 5_000, 40, 200_000)
    full = timeline(in_use=lambda at: 30, waiting=lambda at: 5)
    waits: dict[str, Any] = {"wait_time": times((10, 0.4)), "use_time": times((10, 0.3))}

    def verdict(average_in_use: float, statement: Statement) -> list[str]:
        held = connections(average_in_use=average_in_use, peak_in_use=30, peak_open=30)
        seen = server(scanned=(small,), statements=(statement,))
        return codes(run(None, full, connections=held, server=seen, **waits))

    assert verdict(3.9, replace(HALF_SECOND, total_time=19.0)) == ["pool-undersized"]
    assert verdict(3.9, replace(HALF_SECOND, total_time=19.6)) == ["slow-database"]
    assert verdict(29.0, replace(HALF_SECOND, total_time=19.0)) == ["pool-undersized"]


def test_a_scan_is_certain_once_twice_as_many_statements_run_as_there_are_cores() -> None:
    def confidence(total_time: float) -> str:
        seen = server(scanned=(ORDERS,), statements=(replace(HALF_SECOND, total_time=total_time),))
        return find(run(server=seen, connections=connections(average_in_use=9.0)), "slow-database").confidence

    assert (confidence(39.0), confidence(41.0)) == ("likely", "certain")


def test_without_statement_statistics_a_scan_needs_waits_and_the_workloads_own_query() -> None:
    seen = server(scanned=(ScannedTable("public.orders", 0, 100, 50_000_000),))
    held = connections(average_in_use=9.0)

    def verdict(query: str) -> list[str]:
        return codes(run({"load": {"query": query}}, server=seen, connections=held))

    assert verdict("SELECT * FROM orders WHERE customer = 7") == ["slow-database"]
    assert verdict("SELECT * FROM customers") == ["healthy"]


def test_a_slow_database_is_critical_once_clients_get_nothing() -> None:
    timed_out = error(40, "pool", "context deadline exceeded")
    finished = run(server=busy(), timed_out=40, errors=(timed_out,))

    assert find(finished, "slow-database").severity == "critical"


def test_the_models_use_times_may_stretch_by_a_third_before_the_database_is_slow() -> None:
    def verdict(mean: float) -> list[str]:
        held = connections(average_in_use=9.0)
        tables = {"load": {"hold": "20ms"}, "database": {"cores": 2}}
        return codes(run(tables, engine="model", use_time=times((9, mean)), connections=held))

    assert (verdict(0.027), verdict(0.032)) == (["healthy"], ["slow-database"])


def test_a_slow_event_is_not_taken_for_a_slow_database() -> None:
    slow = [{"at": "2s", "do": "slow", "factor": 20.0, "for": "2s"}]
    finished = run(
        {"load": {"hold": "20ms"}, "events": slow},
        timeline(waiting=lambda at: 9 if 2 <= at < 4.5 else 0),
        engine="model",
        use_time=times((9, 0.08)),
        connections=connections(average_in_use=9.0),
    )

    [finding] = diagnose_run(finished)

    assert finding.code == "healthy"
    assert "the slowdown at 2 s made requests queue and was over after 2.4 s" in finding.summary


def test_a_pool_whose_slots_are_all_lost_is_stuck_also_while_nobody_asks() -> None:
    figures = leaky(30, exhausted_at=3.8, recovered_at=9.0)

    assert find(run({"leak": {"every": 50}}, exhausted(30, waiting=0), **figures), "leak").severity == "critical"


def test_a_leak_is_a_leak_also_when_the_server_has_cut_its_connections() -> None:
    cut = timeline(in_use=lambda at: 30, idle=lambda at: 0, waiting=lambda at: 16, sessions=lambda at: 0)
    finished = run({"leak": {"every": 50}, "events": [RESTART]}, cut, **leaky(30, exhausted_at=1.0, unfinished=16))

    assert codes(finished) == ["leak"]
    assert "idle in transaction" not in find(finished, "leak").remedy


def test_what_a_load_generator_cannot_spoil_stays_certain() -> None:
    leaking = run({"leak": {"every": 50}}, exhausted(30), generator=bound_generator(), **leaky(30, exhausted_at=3.8))
    refused = run(generator=bound_generator(), refused=5, errors=(error(5, "server", RESERVED),))

    assert find(leaking, "leak").confidence == "certain"
    assert find(refused, "slots-exhausted").confidence == "certain"


def test_waits_that_a_load_generator_may_have_made_are_likely_at_most() -> None:
    full = timeline(in_use=lambda at: 30, waiting=lambda at: 5)
    figures: dict[str, Any] = {
        "wait_time": times((10, 0.4)),
        "connections": connections(peak_in_use=30, average_in_use=30.0),
    }
    measured_well, measured_badly = run(None, full, **figures), run(None, full, generator=bound_generator(), **figures)

    assert find(measured_well, "pool-undersized").confidence == "certain"
    finding = find(measured_badly, "pool-undersized")
    assert finding.confidence == "likely"
    assert finding.decide_by is not None
    assert "the load generator was the limit" in finding.decide_by


@pytest.mark.parametrize(("share", "expected"), [(0.2, ["healthy"]), (0.3, ["pool-undersized"])])
def test_waits_are_sustained_from_a_quarter_of_the_samples_on(share: float, expected: list[str]) -> None:
    some = timeline(in_use=lambda at: 30, waiting=lambda at: 5 if at % 1.0 < share else 0)

    assert codes(run(None, some, wait_time=times((10, 0.4)), connections=connections(peak_in_use=30))) == expected


@pytest.mark.parametrize(("workers", "expected"), [(12, "healthy"), (15, "healthy"), (20, "pool-undersized")])
def test_waits_of_every_second_request_are_long_from_half_a_hold_on(workers: int, expected: str) -> None:
    done = modeled.run(pool={"max_open": 11, "max_idle": 11}, workers=workers, hold=0.1, think=0.02, duration=10.0)

    (finding,) = diagnose_run(done)
    assert finding.code == expected


def test_what_a_request_waits_for_its_second_connection_does_not_lengthen_the_typical_hold() -> None:
    hold, think = modeled.exponential(1.5), modeled.exponential(0.5)
    load: dict[str, Any] = {"workers": 16, "hold": hold, "think": think, "connections_per_request": 2, "duration": 60.0}

    (finding,) = diagnose_run(modeled.run(pool={"kind": "node-pg", "max_open": 17}, **load))

    assert finding.code == "pool-undersized"


def test_nested_acquires_of_an_open_load_have_no_floor_but_a_limit_on_requests() -> None:
    stalled = timeline(in_use=lambda at: 10, waiting=lambda at: 50 * at, acquired=lambda at: 10)
    finished = run(
        {"pool": {"max_open": 10}, "load": {"rate": 50.0, "connections_per_request": 2}},
        stalled,
        acquired=10,
        released=0,
        unfinished=490,
        exhausted_at=0.2,
        connections=connections(in_use=10, idle=0, peak_in_use=10),
    )

    finding = find(finished, "self-deadlock")

    assert finding.evidence["floor"] is None
    assert "Arrivals have no bound here; allow at most 9 requests at once" in finding.remedy


def test_nested_acquires_that_a_restart_stopped_for_a_while_are_no_deadlock() -> None:
    stalled = timeline(
        in_use=lambda at: 10, waiting=lambda at: 6 if 3 <= at < 6 else 0, acquired=lambda at: at if at < 3 else at - 3
    )
    tables = {"pool": {"max_open": 10}, "load": {"workers": 16, "connections_per_request": 2}, "events": [RESTART]}

    assert codes(run(tables, stalled, connections=connections(peak_in_use=10))) == ["healthy"]


def test_pgbouncers_pool_is_not_blamed_while_it_has_server_connections_to_spare() -> None:
    tables = {"database": {"via": "pgbouncer", "pgbouncer": {"default_pool_size": 20}}, "load": {"instances": 4}}
    figures: dict[str, Any] = {"released": 3990, "connections": connections(peak_open=64, in_use=10, peak_in_use=25)}

    assert codes(run(tables, server=server(peak_connections=19), **figures)) == ["healthy"]


def test_the_smallest_of_pgbouncers_bounds_is_its_size() -> None:
    bounds = {"default_pool_size": 50, "max_db_connections": 15, "max_user_connections": 0}
    tables = {"database": {"via": "pgbouncer", "pgbouncer": bounds}, "load": {"instances": 4}}
    figures: dict[str, Any] = {"released": 3990, "connections": connections(peak_open=64, in_use=10, peak_in_use=25)}

    finding = find(run(tables, server=server(peak_connections=15), **figures), "pooler-session-mode")

    assert finding.evidence["pool_size"] == 15


def test_unfinished_acquires_of_a_pool_with_room_are_undetermined() -> None:
    assert find(run(unfinished=4), "client-starved").confidence == "undetermined"
    assert find(run(unfinished=4, generator=bound_generator()), "client-starved").confidence == "likely"


def test_openings_slower_than_an_acquires_patience_are_named_as_the_reason() -> None:
    tables = {"pool": {"acquire_timeout": "50ms"}}

    finding = find(run(tables, timed_out=40, connect_time=times((40, 0.06))), "client-starved")

    assert finding.confidence == "likely"
    assert finding.summary == "40 acquires got nothing since connecting takes 60 ms and they wait 50 ms"
    assert "acquire_timeout" in finding.remedy


def test_a_pooler_that_cannot_reach_the_server_is_no_limit_and_is_told() -> None:
    cached = error(33, "pooler", "server login has been failing, cached error: connect failed", 2.0, "08P01")

    finding = find(run({"database": {"via": "pgbouncer"}}, refused=33, errors=(cached,)), "client-starved")

    assert "server login has been failing" in finding.summary


def test_a_run_that_ended_before_a_restart_was_got_over_blames_nothing_else() -> None:
    down = timeline(
        in_use=lambda at: 30 if at >= 9 else 8, waiting=lambda at: 16 if at >= 9 else 0, acquired=lambda at: min(at, 9)
    )
    figures: dict[str, Any] = {"connections": connections(peak_in_use=30), "exhausted_at": 9.0, "unfinished": 16}

    [finding] = diagnose_run(run({"events": [{"at": "8.9s", "do": "restart"}]}, down, **figures))

    assert (finding.code, finding.confidence) == ("healthy", "likely")
    assert "the pool had not recovered from the restart at 8.9 s when the load ended at 10 s" in finding.summary


def test_a_leak_is_not_joined_by_a_slow_database_whose_processors_are_idle() -> None:
    seen = server(scanned=(ORDERS,), statements=(HALF_SECOND,))

    assert codes(run({"leak": {"every": 50}}, exhausted(30), **leaky(30, exhausted_at=3.8, server=seen))) == ["leak"]


def test_a_leak_beside_busy_processors_gives_two_findings() -> None:
    seen = busy(scanned=(ORDERS,), statements=(HALF_SECOND,))
    figures = leaky(12, connections=connections(in_use=12, peak_open=30, average_in_use=20.0), server=seen)

    assert sorted(codes(run({"leak": {"every": 50}}, **figures))) == ["leak", "slow-database"]


@pytest.mark.parametrize(("timed_out", "severity"), [(40, "warning"), (50, "critical")])
def test_a_small_pool_is_critical_from_one_timeout_in_a_hundred_on(timed_out: int, severity: str) -> None:
    told = error(timed_out, "pool", "context deadline exceeded")
    full = connections(peak_in_use=30)

    assert find(run(timed_out=timed_out, errors=(told,), connections=full), "pool-undersized").severity == severity


@pytest.mark.parametrize(("rows", "expected"), [(999, ["healthy"]), (1000, ["slow-database"])])
def test_reading_a_table_of_less_than_a_thousand_rows_is_what_a_good_plan_does(rows: int, expected: list[str]) -> None:
    seen = server(scanned=(ScannedTable("orders", rows, 10, 10 * rows),), statements=(HALF_SECOND,))

    assert codes(run(server=seen)) == expected


@pytest.mark.parametrize(("waiting", "expected"), [(2, "healthy"), (3, "lock-queue")])
def test_three_statements_that_wait_for_locks_are_a_queue(waiting: int, expected: str) -> None:
    assert codes(run(server=server(states={"active (tuple)": waiting, "idle": 9}))) == [expected]


def test_pauses_between_requests_leave_connections_for_others() -> None:
    full = timeline(in_use=lambda at: 30, waiting=lambda at: 5)
    load = {"workers": 90, "think": "40ms", "hold": "20ms"}
    figures: dict[str, Any] = {"wait_time": times((10, 0.4)), "connections": connections(peak_in_use=30)}

    finding = find(run({"load": load}, full, acquired=9000, **figures), "pool-undersized")

    # 90 requests, each of which holds a connection for 20 ms of 60.
    assert finding.evidence["concurrency"] == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize(("via", "key"), [("pgbouncer", "max_client_conn"), ("pgpool", "num_init_children")])
def test_each_poolers_own_limit_is_named_in_its_remedy(via: str, key: str) -> None:
    full = error(3, "pooler", "no more connections allowed (max_client_conn)", 1.0, "08P01")

    assert (
        f"Raise {key}" in find(run({"database": {"via": via}}, refused=3, errors=(full,)), "pooler-client-limit").remedy
    )
