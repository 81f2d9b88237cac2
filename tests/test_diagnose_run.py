"""Runs of a leak, a limit or a load, and the findings they must and must not give."""

from typing import Any

import pytest
from diagnosed_runs import (
    RESERVED,
    TOO_MANY,
    codes,
    connections,
    error,
    exhausted,
    find,
    leaky,
    run,
    server,
    summary,
    timeline,
)

from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.pool import Closed
from poolctl.scenario.run import Run, TimelinePoint


def leak_run(
    shape: str = "forgotten",
    pool: dict[str, Any] | None = None,
    points: tuple[TimelinePoint, ...] | None = None,
    **figures: Any,
) -> Run:
    """30 of 30 leaked at 3.8 s and 16 requests waiting, unless told otherwise."""
    stuck = {"exhausted_at": 3.8, "unfinished": 16}
    tables = {"leak": {"every": 50, "shape": shape}, "pool": pool or {}}
    return run(tables, exhausted(30) if points is None else points, **leaky(**(stuck | figures)))


def test_a_leak_that_took_the_whole_pool_says_when_how_many_and_who_waits() -> None:
    [finding] = diagnose_run(leak_run())

    assert finding.code == "leak"
    assert (finding.severity, finding.confidence, finding.frees) == ("critical", "certain", 30)
    assert finding.summary == "Pool exhausted at 3.8 s and never recovered: 30 of 30 in use are leaked, 16 waiting"


def test_the_moment_of_exhaustion_is_that_of_the_one_that_never_ended() -> None:
    figures = leak_run(exhausted_at=0.3)

    assert find(figures, "leak").evidence["exhausted_at"] == pytest.approx(3.8)


def test_a_pool_that_was_full_all_along_is_exhausted_for_good_from_its_last_acquire() -> None:
    points = timeline(
        in_use=lambda at: 30, idle=lambda at: 0, waiting=lambda at: 10, acquired=lambda at: 400 * min(at, 2.7)
    )

    assert find(leak_run(points=points, exhausted_at=0.001), "leak").evidence["exhausted_at"] == pytest.approx(2.7)


def test_a_leak_in_a_pool_with_timeouts_quotes_what_the_clients_were_told() -> None:
    refused = error(412, "pool", "couldn't get a connection after 1.00 sec", 4.8)
    finding = find(leak_run(unfinished=0, timed_out=412, errors=(refused,)), "leak")

    assert finding.severity == "critical"
    assert finding.summary.endswith(
        '30 of 30 in use are leaked, 412 timed out ("couldn\'t get a connection after 1.00 sec")'
    )


def test_a_pool_that_does_not_queue_rejects_what_the_leak_leaves_without() -> None:
    figures = leaky(
        100,
        acquired=100,
        timed_out=900,
        exhausted_at=1.2,
        errors=(error(900, "pool", "connection pool exhausted", 1.2),),
    )
    finished = run(
        {
            "pool": {"kind": "psycopg2", "max_open": 100, "max_idle": 10},
            "leak": {"every": 1},
            "database": {"max_connections": 150},
        },
        timeline(in_use=lambda at: min(100, 83 * at), idle=lambda at: 0),
        **figures | {"server": server(max_connections=150, usable=147, peak_connections=100)},
    )

    [finding] = diagnose_run(finished)

    assert finding.summary == (
        "Pool exhausted at 1.2 s and never recovered: 100 of 100 in use are leaked, "
        '900 rejected ("connection pool exhausted")'
    )


def test_a_leak_that_has_not_exhausted_the_pool_yet_says_when_it_will() -> None:
    figures = leaky(12, acquired=600) | {"connections": connections(in_use=12, idle=4, open=16, peak_open=20)}
    finding = find(run({"leak": {"every": 50}}, **figures), "leak")

    assert finding.severity == "warning"
    assert finding.summary == (
        "Connections do not come back: 12 of 12 in use are leaked after 10 s; at this rate all 30 slots are gone "
        "15 s later"
    )
    assert finding.evidence["time_to_exhaustion"] == pytest.approx(15.0)


def test_leaks_of_the_warmup_are_known_although_no_counter_has_them() -> None:
    figures = leaky(30, acquired=0, leaked=0, exhausted_at=1.0, unfinished=16)
    finished = run({"leak": {"every": 1}, "load": {"warmup": "2s", "duration": "12s"}}, exhausted(30, 1.0), **figures)

    assert codes(finished) == ["leak"]
    assert find(finished, "leak").evidence["leaked"] == 30


@pytest.mark.parametrize(
    ("shape", "code", "says"),
    [
        ("forgotten", "leak", "are leaked,"),
        ("in-transaction", "leak-in-transaction", "leaked inside a transaction"),
        ("unread-rows", "leak", "leaked with rows unread"),
        ("dropped-reference", "leak", "the pool still counts them"),
        ("long-hold", "long-hold", "long holds that outlast the run"),
    ],
)
def test_each_shape_of_a_leak_has_one_code(shape: str, code: str, says: str) -> None:
    finished = leak_run(shape)

    assert codes(finished) == [code]
    assert says in find(finished, code).summary


def test_a_leak_that_the_server_shows_in_a_transaction_says_what_else_it_costs() -> None:
    figures = leak_run("dropped-reference", server=server(states={"idle in transaction": 30}))

    assert "idle in transaction" in find(figures, "leak").remedy


def test_a_dropped_connection_leaves_psycopg_pool_with_a_slot_and_the_server_with_nothing() -> None:
    points = timeline(in_use=lambda at: 10, idle=lambda at: 0, waiting=lambda at: 16, sessions=lambda at: 0)
    finished = run(
        {
            "leak": {"every": 5, "shape": "dropped-reference"},
            "pool": {"kind": "psycopg_pool", "max_open": 10, "max_idle": 10},
        },
        points,
        **leaky(10, exhausted_at=0.2, unfinished=16, server=server(states={}, peak_connections=10)),
    )

    [finding] = diagnose_run(finished)

    assert (finding.code, finding.confidence) == ("pool-slots-lost", "certain")
    assert "10 of 10 in use are lost slots, the server has 0 connections, 16 waiting" in finding.summary


def test_lost_slots_are_only_likely_where_nobody_looked_at_the_server() -> None:
    finished = run(
        {
            "leak": {"every": 5, "shape": "dropped-reference"},
            "pool": {"kind": "psycopg_pool", "max_open": 10, "max_idle": 10},
        },
        (),
        **leaky(10, exhausted_at=0.2, unfinished=16, server=None),
    )

    assert find(finished, "pool-slots-lost").confidence == "likely"


def test_dropped_connections_that_garbage_collection_gave_back_are_no_finding() -> None:
    finished = run(
        {
            "leak": {"every": 5, "shape": "dropped-reference"},
            "pool": {"kind": "sqlalchemy", "max_open": 15, "max_idle": 5},
        },
        acquired=4000,
        leaked=800,
    )

    [finding] = diagnose_run(finished)

    assert finding.code == "healthy"
    assert finding.summary == (
        "Healthy: all 4,000 acquires served; 800 dropped connections came back by garbage collection"
    )


def test_a_leak_without_a_bound_takes_the_servers_slots() -> None:
    refused = error(412, "server", TOO_MANY, 4.1, "53300")
    figures = leaky(97, refused=412, errors=(refused,), server=server(peak_connections=100, refused=412))
    finished = run({"leak": {"every": 5}, "pool": {"max_open": 0}}, **figures)

    assert codes(finished) == ["leak", "slots-exhausted"]
    assert find(finished, "leak").summary == (
        "Server out of slots at 4.1 s: 97 of 97 in use are leaked, "
        '412 connections refused ("sorry, too many clients already")'
    )
    assert "max_open" in find(finished, "leak").remedy


def test_a_leak_in_a_fleet_names_it_then_the_fleet_then_the_refusals() -> None:
    refused = error(50, "server", RESERVED, 6.0)
    figures = leaky(97, refused=50, errors=(refused,), server=server(peak_connections=97, refused=50))
    finished = run({"leak": {"every": 5}, "load": {"instances": 4}}, **figures)

    assert codes(finished) == ["leak", "fleet-over-budget", "slots-exhausted"]


def test_a_fleet_above_the_servers_slots_is_told_what_fits_even_while_it_is_quiet() -> None:
    finding = find(run({"load": {"instances": 6}}), "fleet-over-budget")

    assert finding.severity == "warning"
    assert finding.summary == "6 instances x 30 = 180 connections, the server has 97 to give, quiet so far"
    assert "Set max_open to 15 per instance: (97 - 3) / 6" in finding.remedy


def test_a_deploy_counts_both_generations_while_they_overlap() -> None:
    deploy = {"at": "3s", "do": "deploy", "overlap": "2s"}
    refused = error(20, "server", RESERVED, 3.2)
    finished = run({"load": {"instances": 2}, "events": [deploy]}, refused=20, errors=(refused,))

    finding = find(finished, "fleet-over-budget")

    assert finding.severity == "critical"
    assert finding.summary.startswith("4 instances x 30 = 120 connections during the deploy")
    assert codes(finished) == ["fleet-over-budget", "slots-exhausted"]


@pytest.mark.parametrize(
    ("text", "means"),
    [(TOO_MANY, "the superusers' too"), (RESERVED, "only the slots reserved for superusers are left")],
)
def test_the_text_of_a_refusal_says_which_slots_are_gone(text: str, means: str) -> None:
    finished = run({"pool": {"max_open": 0}}, refused=7, errors=(error(7, "server", text, 2.5),))

    finding = find(finished, "slots-exhausted")

    assert finding.summary.startswith("Server refused 7 connections from 2.5 s: ")
    assert means in finding.summary
    assert text in finding.evidence["errors"]


def test_refusals_that_only_the_servers_log_has_are_found_and_sell_no_bigger_pool() -> None:
    finished = run(
        {"pool": {"kind": "psycopg_pool", "max_open": 200, "max_idle": 200}},
        timed_out=40,
        connections=connections(peak_in_use=97, peak_open=97),
        errors=(error(40, "pool", "couldn't get a connection after 30.00 sec"),),
        server=server(refused=300, peak_connections=97),
    )

    assert codes(finished) == ["fleet-over-budget", "slots-exhausted"]


def test_a_refusal_in_another_language_is_known_by_its_sqlstate() -> None:
    refused = error(3, "server", "tut mir leid, schon zu viele Verbindungen", 2.0, "53300")

    assert "slots-exhausted" in codes(run(refused=3, errors=(refused,)))


def test_a_pool_without_a_bound_near_the_servers_is_warned_about() -> None:
    grown = connections(peak_open=91, peak_in_use=91, opened=91)
    finished = run({"pool": {"max_open": 0}}, connections=grown, server=server(peak_connections=91))

    [finding] = diagnose_run(finished)

    assert (finding.code, finding.severity) == ("oversized-pool", "warning")
    assert finding.summary == "Nothing bounds the pool (max_open 0): it grew to 91 connections of 97 usable"
    assert "max_open (SetMaxOpenConns) to 94" in finding.remedy


def test_a_role_limit_is_not_taken_for_the_servers() -> None:
    refused = error(9, "server", 'too many connections for role "app"', 2.0, "53300")
    finished = run(refused=9, errors=(refused,), server=server(refused=9))

    assert codes(finished) == ["role-limit"]
    assert "while 85 of 97 server slots were free" in find(finished, "role-limit").summary


@pytest.mark.parametrize(
    ("via", "text"),
    [("pgbouncer", "no more connections allowed (max_client_conn)"), ("pgpool", "Sorry, too many clients already")],
)
def test_a_pooler_that_refuses_clients_is_named_and_not_the_server(via: str, text: str) -> None:
    finished = run({"database": {"via": via}}, refused=30, errors=(error(30, "pooler", text),))

    assert codes(finished) == ["pooler-client-limit"]
    assert text in find(finished, "pooler-client-limit").summary


def test_clients_that_hang_before_busy_pgpool_children_are_found_without_an_error() -> None:
    finished = run(
        {"database": {"via": "pgpool", "pgpool": {"num_init_children": 8}}},
        timeline(in_use=lambda at: 8, idle=lambda at: 0, opening=lambda at: 8),
        unfinished=8,
    )

    finding = find(finished, "pooler-client-limit")

    assert finding.confidence == "likely"
    assert finding.summary == "Pgpool-II's 8 children are all busy: 8 clients hang in connect without an error"


@pytest.mark.parametrize(
    ("mode", "shape", "expected"),
    [
        ("session", "forgotten", ["leak", "pooler-session-mode"]),
        ("transaction", "in-transaction", ["leak-in-transaction", "pooler-pinned-transaction"]),
        ("transaction", "forgotten", ["leak"]),
    ],
)
def test_a_leak_behind_pgbouncer_pins_its_server_connections_by_mode(
    mode: str, shape: str, expected: list[str]
) -> None:
    finished = run(
        {
            "database": {"via": "pgbouncer", "pgbouncer": {"pool_mode": mode, "default_pool_size": 20}},
            "leak": {"every": 10, "shape": shape},
        },
        exhausted(30),
        **leaky(30, exhausted_at=3.8, unfinished=16, server=server(peak_connections=20)),
    )

    assert codes(finished) == expected


def test_sessions_that_keep_pgbouncers_connections_are_found_without_a_leak() -> None:
    finished = run(
        {
            "database": {"via": "pgbouncer", "pgbouncer": {"default_pool_size": 20}},
            "load": {"instances": 4},
        },
        released=3960,
        connections=connections(peak_open=64, in_use=40, peak_in_use=60),
        server=server(peak_connections=20),
    )

    [finding] = diagnose_run(finished)

    assert (finding.code, finding.confidence, finding.layer) == ("pooler-session-mode", "certain", "pooler")
    assert "20 server connections" in finding.summary
    assert "64 clients" in finding.summary


def test_pgbouncers_own_pool_can_be_the_small_one() -> None:
    gave_up = error(25, "pooler", "query_wait_timeout", 5.0, "08P01")
    finished = run(
        {"database": {"via": "pgbouncer", "pgbouncer": {"pool_mode": "transaction", "default_pool_size": 5}}},
        errors=(gave_up,),
        server=server(peak_connections=5),
    )

    finding = find(finished, "pool-undersized")

    assert finding.layer == "pooler"
    assert "25 gave up (query_wait_timeout)" in finding.summary


def test_slots_that_a_failover_took_from_the_pool_are_missed() -> None:
    finished = run(
        {"events": [{"at": "2s", "do": "failover"}], "pool": {"kind": "psycopg2", "max_open": 10, "max_idle": 10}},
        timeline(in_use=lambda at: 10 if at > 2 else 6, idle=lambda at: 0, sessions=lambda at: 6 if at <= 2 else 0),
        acquired=1000,
        timed_out=300,
        connections=connections(in_use=10, idle=0, open=10, peak_in_use=10, peak_open=10),
        exhausted_at=2.1,
        errors=(error(300, "pool", "connection pool exhausted", 2.1),),
    )

    finding = find(finished, "pool-slots-lost")

    assert (finding.severity, finding.frees) == ("critical", 10)
    assert finding.evidence["cause"] == "lost in the failover at 2 s"


def test_an_instance_whose_pool_alone_is_lost_is_counted() -> None:
    lost = summary(**leaky(30, exhausted_at=3.8, unfinished=16))
    finished = run(
        {"leak": {"every": 50}, "load": {"instances": 3}},
        timeline(in_use=lambda at: 46, waiting=lambda at: 16 if at >= 3.8 else 0),
        instances=(lost, summary(), summary()),
        **leaky(30, exhausted_at=3.8, unfinished=16),
    )

    assert find(finished, "leak").summary.startswith("1 of 3 pools exhausted at 3.8 s and never recovered: 30 of 30")


def test_closed_connections_of_a_leak_do_not_hide_it() -> None:
    figures = leaky(30, exhausted_at=3.8, unfinished=16)
    figures["connections"] = connections(
        opened=40, closed=Closed(error=10), in_use=30, idle=0, open=30, peak_in_use=30, peak_open=30
    )

    assert codes(run({"leak": {"every": 50}}, exhausted(30), **figures)) == ["leak"]
