"""Runs in which every connection came back: self-deadlocks, slow databases, small pools, reopening, events, health."""

from dataclasses import replace
from typing import Any

import pytest
from diagnosed_runs import (
    ORDERS,
    busy,
    codes,
    connections,
    error,
    exhausted,
    find,
    run,
    scenario,
    server,
    summary,
    timeline,
    times,
)

from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.pool import Closed
from poolctl.scenario.run import Run, ScannedTable, Statement
from poolctl.scenario.scenario import parse_scenario

BY_CUSTOMER = Statement("SELECT sum(total) FROM orders WHERE customer = $1 AND paid > $2", 1_400, 1_700.0, 0.99)
SLOW: dict[str, Any] = {
    "use_time": times((1000, 0.9)),
    "connections": connections(peak_open=180, peak_in_use=180, average_in_use=170.0),
    "throughput": 140.0,
}
SIX = {"load": {"instances": 6, "query": "SELECT 1 FROM orders"}, "database": {"max_connections": 200}}


def test_an_index_is_missing_and_the_pool_is_told_to_be_innocent() -> None:
    seen = busy(scanned=(ORDERS,), statements=(BY_CUSTOMER,))

    [finding] = diagnose_run(run(SIX, server=seen, **SLOW))

    assert (finding.code, finding.severity, finding.confidence) == ("slow-database", "warning", "certain")
    assert finding.summary == (
        "Bounded at 180 connections and CPU still 99 %: one statement (99 % of execution time) reads all 500,000 rows "
        "of public.orders each time"
    )
    assert finding.remedy.startswith("Pool size is not the problem: 180 connections carry 140 requests per second")
    assert "CREATE INDEX CONCURRENTLY ON public.orders (customer, paid);" in finding.remedy
    assert finding.evidence["throughput_gain_limit"] == pytest.approx(100)


def test_with_the_index_the_same_load_is_healthy() -> None:
    quick = Statement(BY_CUSTOMER.query, 90_000, 5.4, 0.99)

    assert codes(run(SIX, server=busy(0.9, statements=(quick,)), **SLOW | {"use_time": times((1000, 0.002))})) == [
        "healthy"
    ]


def test_a_slow_database_behind_a_pool_without_a_bound_is_the_root_of_its_growth() -> None:
    seen = busy(scanned=(ORDERS,), statements=(BY_CUSTOMER,))
    finished = run(SIX | {"pool": {"max_open": 0}}, server=seen, **SLOW)

    assert codes(finished) == ["slow-database", "oversized-pool"]
    assert find(finished, "slow-database").summary.startswith("180 connections and CPU still 99 %: ")


def test_processors_that_are_busy_without_a_scan_are_no_missing_index() -> None:
    finished = run(SIX | {"load": {"instances": 6, "query": "cpu"}}, server=busy(), **SLOW)

    finding = find(finished, "slow-database")

    assert finding.confidence == "likely"
    assert "a bigger pool adds waiting" in finding.summary
    assert "INDEX" not in finding.remedy


def test_busy_processors_that_nobody_waits_for_are_a_note() -> None:
    [finding] = diagnose_run(run(server=server(cpu=1.9), connections=connections(average_in_use=3.0)))

    assert finding.code == "healthy"
    assert finding.evidence["notes"] == ["the server's processors are busy, but no client waits for them"]


@pytest.mark.parametrize(
    "table",
    [
        ScannedTable("public.orders", 300, 4_000, 1_200_000),
        ScannedTable("public.orders", 500_000, 3, 1_500_000),
        ScannedTable("public.other", 500_000, 1_400, 700_000_000),
    ],
    ids=["small", "read thrice", "not in the statement"],
)
def test_a_scan_that_a_good_plan_would_do_too_is_not_blamed(table: ScannedTable) -> None:
    seen = busy(0.3, scanned=(table,), statements=(BY_CUSTOMER,))

    assert codes(run(SIX, server=seen, **SLOW)) == ["healthy"]


def test_the_model_shows_a_slow_database_by_use_times_beyond_the_hold() -> None:
    finished = run(
        {"load": {"hold": "20ms", "workers": 40}, "database": {"cores": 2}},
        engine="model",
        use_time=times((1000, 0.3)),
        connections=connections(average_in_use=29.5, peak_in_use=30, peak_open=30),
        server=None,
    )

    [finding] = diagnose_run(finished)

    assert finding.code == "slow-database"
    assert "takes 15.0 times the 20 ms a request needs" in finding.summary


def small_pool(tables: dict[str, Any] | None = None, **changed: Any) -> Run:
    """100 requests/s that take 100 ms each, 8 connections: 10 are wanted at once."""
    figures: dict[str, Any] = {
        "acquired": 800,
        "unfinished": 200,
        "use_time": times((1000, 0.1)),
        "wait_time": times((500, 0.5), (500, 1.5)),
        "queued_count": 990,
        "exhausted_at": 0.4,
        "connections": connections(peak_open=8, peak_in_use=8, in_use=8, idle=0, average_in_use=7.9),
        "released": 792,
    }
    full = timeline(in_use=lambda at: 8, idle=lambda at: 0, waiting=lambda at: 20 * at, acquired=lambda at: 80 * at)
    return run({"pool": {"max_open": 8}, "load": {"rate": 100.0}} | (tables or {}), full, **figures | changed)


def test_a_pool_below_the_measured_concurrency_is_too_small_and_told_its_size() -> None:
    [finding] = diagnose_run(small_pool())

    assert (finding.code, finding.severity, finding.confidence) == ("pool-undersized", "critical", "certain")
    assert finding.summary == "Pool too small: 8 connections, 10 wanted at once, p99 wait 1.5 s, 200 still waiting"
    # 10 erlangs and 2 x sqrt(10).
    assert finding.evidence["max_open_that_fits"] == 17
    assert "max_open (SetMaxOpenConns) to about 17" in finding.remedy


def test_a_closed_loop_never_needs_more_connections_than_it_has_requests() -> None:
    finished = small_pool({"load": {"workers": 10}, "pool": {"max_open": 8}}, unfinished=0, recovered_at=10.1)

    finding = find(finished, "pool-undersized")

    assert finding.severity == "warning"
    assert finding.evidence["max_open_that_fits"] == 10


def test_a_size_beyond_the_servers_slots_is_not_recommended() -> None:
    finding = find(small_pool({"database": {"max_connections": 18}}, server=None), "pool-undersized")

    assert finding.remedy.startswith("17 for each instance would do, but 17 are more than the server's 15 slots")
    assert finding.confidence == "likely"


def test_a_size_that_would_saturate_the_server_says_so() -> None:
    finding = find(small_pool(server=server(cpu=1.6)), "pool-undersized")

    assert "processors become the limit on the way" in finding.remedy
    assert finding.confidence == "likely"


def test_a_pool_that_rejects_speaks_of_rejections_and_not_of_waits() -> None:
    refused = error(90, "pool", "connection pool exhausted", 0.5)
    finished = small_pool(
        {"pool": {"kind": "psycopg2", "max_open": 8, "max_idle": 8}},
        timed_out=90,
        unfinished=0,
        wait_time=times((100, 0.0)),
        recovered_at=9.0,
        errors=(refused,),
    )

    assert find(finished, "pool-undersized").summary == "Pool too small: 8 connections, 8.9 wanted at once, 90 rejected"


def test_a_short_burst_that_drained_is_a_note_under_healthy() -> None:
    burst = timeline(in_use=lambda at: 30 if 5 <= at < 6 else 8, waiting=lambda at: 20 if 5 <= at < 6 else 0)
    full = connections(peak_in_use=30, peak_open=30)
    finished = run(
        None, burst, connections=full, queued_count=20, exhausted_at=5.0, recovered_at=6.0, wait_time=times((9, 0.4))
    )

    [finding] = diagnose_run(finished)

    assert finding.code == "healthy"
    assert finding.summary == (
        "Healthy: all 4,000 acquires served; 20 requests queued for 400 ms at most and the queue drained"
    )


def test_a_full_pool_that_nobody_waits_long_for_is_healthy_and_never_leaky() -> None:
    saturated = timeline(in_use=lambda at: 30, idle=lambda at: 0, waiting=lambda at: 1)
    full = connections(peak_in_use=30, peak_open=30, average_in_use=29.9)

    assert codes(run(None, saturated, connections=full, queued_count=500, exhausted_at=0.1, recovered_at=9.9)) == [
        "healthy"
    ]


def nested(max_open: int, points: Any = None, **changed: Any) -> Run:
    tables = {"pool": {"max_open": max_open}, "load": {"workers": 16, "connections_per_request": 2, "hold": "20ms"}}
    figures: dict[str, Any] = {
        "acquired": 16,
        "released": 0,
        "unfinished": 16,
        "exhausted_at": 0.1,
        "connections": connections(in_use=max_open, idle=0, peak_in_use=max_open, peak_open=max_open),
    }
    return run(tables, exhausted(max_open, 0.1) if points is None else points, **figures | changed)


def test_nested_acquires_that_stop_everything_are_a_deadlock_with_its_floor() -> None:
    [finding] = diagnose_run(nested(10))

    assert (finding.code, finding.severity, finding.confidence) == ("self-deadlock", "critical", "certain")
    assert finding.summary == (
        "Pool deadlocked with itself at 100 ms: all 10 held by requests that wait for another, 16 still waiting"
    )
    # 16 threads x (2 - 1) + 1.
    assert finding.evidence["floor"] == 17
    assert "max_open 17 or more, or at most 9 requests at once" in finding.remedy


def test_nested_acquires_in_a_pool_above_the_floor_cannot_deadlock() -> None:
    finished = nested(17, timeline(), acquired=4000, released=4000, unfinished=0, exhausted_at=None)

    assert codes(finished) == ["healthy"]


def test_a_deadlock_that_timeouts_break_is_seen_by_its_repetition() -> None:
    rounds = timeline(
        in_use=lambda at: 10 if at % 1.0 < 0.95 else 4,
        waiting=lambda at: 10 if at % 1.0 < 0.95 else 0,
        acquired=lambda at: 10 * int(at + 0.05),
        errors=lambda at: 10 * int(at),
    )
    patient = error(100, "pool", "context deadline exceeded", 1.0)
    finished = run(
        {
            "pool": {"max_open": 10, "acquire_timeout": "1s"},
            "load": {"workers": 16, "connections_per_request": 2},
        },
        rounds,
        acquired=100,
        timed_out=100,
        exhausted_at=0.1,
        recovered_at=10.0,
        connections=connections(peak_in_use=10, peak_open=10),
        errors=(patient,),
    )

    [finding] = diagnose_run(finished)

    assert (finding.code, finding.confidence) == ("self-deadlock", "certain")
    assert len(finding.evidence["stalls"]) > 1


def waiting_run(**changed: Any) -> Run:
    """A pool of 8 in which requests queue all the time, for longer than they hold."""
    return small_pool(None, unfinished=0, recovered_at=10.1, released=800, **changed)


def test_connections_held_by_statements_that_wait_for_locks_are_a_lock_queue() -> None:
    locked = server(states={"active (transactionid)": 7, "active": 1})

    [finding] = diagnose_run(waiting_run(server=locked))

    assert (finding.code, finding.confidence) == ("lock-queue", "likely")
    assert finding.summary == "7 of 8 active connections wait for locks: the pool is not the limit"


def test_internal_lightweight_locks_are_no_lock_queue() -> None:
    assert "lock-queue" not in codes(waiting_run(server=server(states={"active (LockManager)": 8})))


def test_a_few_long_jobs_that_the_others_wait_for_are_long_holds() -> None:
    [finding] = diagnose_run(waiting_run(use_time=times((980, 0.02), (20, 4.0))))

    assert (finding.code, finding.confidence) == ("long-hold", "certain")
    assert "1 % of requests hold a connection 4" in finding.summary
    assert "median 20" in finding.summary


def test_the_tail_of_exponential_holds_is_no_long_hold() -> None:
    tail = times((500, 0.14), (400, 0.4), (90, 0.7), (10, 1.38))

    assert codes(waiting_run(use_time=tail)) == ["pool-undersized"]


def test_transactions_held_open_beside_other_work_are_not_a_small_pool() -> None:
    outside = server(states={"idle in transaction": 6, "active": 2}, statements=(Statement("SELECT 1", 800, 8.0, 1.0),))

    [finding] = diagnose_run(waiting_run(server=outside))

    assert (finding.code, finding.confidence) == ("held-across-io", "certain")
    assert "6 of 8 idle in transaction, statements take 10 % of the time held" in finding.summary


def test_one_sample_of_idle_transactions_is_likely_at_most() -> None:
    finding = find(waiting_run(server=server(states={"idle in transaction": 6, "active": 2})), "held-across-io")

    assert finding.confidence == "likely"


def test_the_model_knows_how_much_of_a_hold_lies_outside_of_the_database() -> None:
    load = {"workers": 16, "hold": "100ms", "hold_outside": "80ms"}
    finished = replace(waiting_run(server=None), engine="model", scenario=scenario(pool={"max_open": 8}, load=load))

    finding = find(finished, "held-across-io")

    assert finding.confidence == "certain"
    assert finding.summary.endswith("statements take 20 % of the time held")


def churning(kind: dict[str, Any], **closed: int) -> Run:
    return run(
        {"pool": kind, "load": {"workers": 20}},
        connections=connections(opened=1200, closed=Closed(**closed), peak_open=20, average_in_use=9.2),
        connect_time=times((1200, 0.008)),
    )


def test_a_pool_that_keeps_two_idle_connections_reopens_the_others() -> None:
    [finding] = diagnose_run(churning({"max_open": 20, "max_idle": 2}, max_idle=1180))

    assert (finding.code, finding.severity) == ("connection-churn", "warning")
    assert finding.summary == ("1,200 openings for 4,000 acquires (8 ms each, 9.44 s in all): max_idle 2 closed 1,180")
    assert "Set max_idle (SetMaxIdleConns) to 20" in finding.remedy


def test_a_connection_for_every_request_is_told_to_use_a_pool() -> None:
    finding = find(churning({"kind": "none", "max_open": 0, "max_idle": 0}, other=1200), "connection-churn")

    assert "every request opens its own" in finding.summary
    assert finding.remedy == "Use a pool: 16 connections for each instance carry this load."


@pytest.mark.parametrize(
    "figures",
    [
        {"opened": 30, "peak_open": 30, "closed": Closed(max_idle=8)},
        {"opened": 1200, "peak_open": 20, "closed": Closed(error=1180)},
    ],
    ids=["the first fill", "broken by a restart"],
)
def test_openings_with_a_reason_are_no_churn(figures: dict[str, Any]) -> None:
    assert codes(run(connections=connections(**figures))) == ["healthy"]


def test_reopening_that_costs_next_to_nothing_is_no_churn() -> None:
    cheap = connections(opened=900, closed=Closed(max_idle=880), peak_open=20)

    assert codes(run(connections=cheap, connect_time=times((900, 0.0003)))) == ["healthy"]


def test_of_several_services_the_one_that_waits_is_named_with_its_own_pool() -> None:
    several = parse_scenario(
        {
            "name": "two services",
            "load": {"duration": "10s"},
            "service": [
                {"name": "reports", "pool": {"max_open": 20, "max_idle": 20}, "load": {"rate": 10.0, "instances": 2}},
                {"name": "checkout", "pool": {"max_open": 8}, "load": {"rate": 100.0, "hold": "100ms"}},
            ],
        }
    )
    waiting = waiting_run()
    finished = replace(waiting, engine="model", scenario=several, instances=(summary(), summary(), waiting.summary))

    [finding] = diagnose_run(finished)

    assert finding.summary.startswith("Service checkout: Pool too small: 8 connections, 8 wanted at once")


def test_a_fleet_of_several_services_is_added_up_by_service() -> None:
    several = parse_scenario(
        {
            "name": "two services",
            "load": {"duration": "10s"},
            "service": [
                {"name": "reports", "pool": {"max_open": 20}, "load": {"rate": 10.0, "instances": 2}},
                {"name": "checkout", "pool": {"max_open": 60}, "load": {"rate": 10.0}},
            ],
        }
    )

    finding = find(replace(run(), scenario=several), "fleet-over-budget")

    assert finding.summary == (
        "reports 2 x 20 + checkout 1 x 60 = 100 connections, the server has 97 to give, quiet so far"
    )
