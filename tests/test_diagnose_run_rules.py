"""Events, health, and what holds for the findings of any run whose counts add up."""

import json
from typing import Any

import pytest
from diagnosed_runs import (
    ORDERS,
    RESTART,
    bound_generator,
    busy,
    codes,
    connections,
    error,
    exhausted,
    find,
    outage,
    run,
    server,
    summary,
    timeline,
    times,
)
from hypothesis import given
from hypothesis import strategies as st

from poolctl.api.results import RunOutcome
from poolctl.diagnose.finding import SEVERITIES
from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.scenario.run import ObservedError, ObservedServer, Run
from poolctl.scenario.scenario import EVENTS, LEAK_SHAPES, VIAS


def test_the_errors_of_a_restart_are_expected_and_said() -> None:
    lost = error(37, "server", "terminating connection due to administrator command", 3.0, "57P01")
    finished = run({"events": [RESTART]}, outage(37), failed=37, errors=(lost,))

    [finding] = diagnose_run(finished)

    assert finding.code == "healthy"
    assert finding.summary == (
        "Healthy: 4,000 of 4,037 acquires served; the restart at 3 s cost 37 errors and was over after 1 s"
    )


def test_a_pause_that_cost_no_error_says_how_long_it_held_everybody_up() -> None:
    stalled = timeline(acquired=lambda at: 400 * (at if at < 2 else max(2.0, at - 1.5)))
    finished = run({"events": [{"at": "2s", "do": "pause", "for": "1.5s"}]}, stalled)

    assert "the pause at 2 s held all requests up for 1.5 s and cost no error" in find(finished, "healthy").summary


def test_errors_long_after_an_event_are_not_its_own() -> None:
    late = timeline(errors=lambda at: 50 if at >= 9.5 else 0)
    down = error(50, "server", "Connection refused", 9.5)

    assert codes(run({"events": [RESTART]}, late, failed=50, errors=(down,))) == ["client-starved"]


def test_clients_that_try_again_at_once_make_a_storm_of_a_restart() -> None:
    down = error(9000, "server", "the database system is starting up", 3.0, "57P03")
    finished = run(
        {"events": [RESTART]},
        outage(9000),
        failed=9000,
        errors=(down,),
        connections=connections(open_failures=9000),
    )

    [finding] = diagnose_run(finished)

    assert (finding.code, finding.severity) == ("reconnect-storm", "warning")
    assert finding.summary == (
        "9,000 openings failed after the restart at 3 s, from 30 slots without backoff; it passed"
    )


def test_acquires_that_fail_beside_a_free_pool_are_not_the_pools_doing() -> None:
    down = error(55, "server", "Connection refused", 2.0)

    [finding] = diagnose_run(run(failed=55, errors=(down,)))

    assert (finding.code, finding.confidence) == ("client-starved", "undetermined")
    assert finding.summary == (
        '55 acquires got nothing although the pool had room (12 of 30 in use at most): "Connection refused"'
    )
    assert finding.decide_by
    assert "nothing listens" in finding.remedy


def test_statements_that_fail_are_noted_although_the_pool_is_healthy() -> None:
    wrong = error(4000, "server", 'relation "ordesr" does not exist', 0.1, "42P01")

    [finding] = diagnose_run(run(errors=(wrong,)))

    assert "4,000 statements failed" in finding.summary


def test_a_quiet_run_is_healthy_with_its_figures() -> None:
    [finding] = diagnose_run(run())

    assert (finding.code, finding.severity, finding.confidence) == ("healthy", "info", "certain")
    assert finding.summary == "Healthy: all 4,000 acquires served, p99 wait 200 µs, at most 12 of 30 in use"


@pytest.mark.parametrize(
    "spoilt",
    [{"generator": bound_generator()}, {"interrupted": True}],
    ids=["generator", "interrupted"],
)
def test_a_badly_measured_run_is_likely_at_most(spoilt: dict[str, Any]) -> None:
    [finding] = diagnose_run(run(**spoilt))

    assert (finding.code, finding.confidence) == ("healthy", "likely")
    assert len(finding.evidence["caveats"]) == 1


def test_no_health_is_claimed_of_a_run_that_lost_a_part_of_itself() -> None:
    [finding] = diagnose_run(run(failure="1 of 2 instances ended before they were done"))

    assert (finding.code, finding.confidence) == ("healthy", "undetermined")
    assert finding.summary.startswith("Undetermined: of what was measured, all 4,000 acquires served, ")
    assert finding.decide_by is not None
    assert "incomplete (1 of 2 instances ended" in finding.decide_by
    assert RunOutcome(run().summary, (finding,)).verdict == "NO VERDICT"


def test_a_run_that_asked_for_nothing_is_not_called_healthy_in_words() -> None:
    [finding] = diagnose_run(run(acquired=0, released=0))

    assert (finding.code, finding.confidence) == ("healthy", "undetermined")
    assert finding.summary == "Nothing to judge: no connection was requested"


EVENT_KEYS: dict[str, dict[str, Any]] = {"pause": {"for": "1s"}, "slow": {"for": "1s", "factor": 3.0}}
small = st.integers(0, 40)
MESSAGES = ("sorry, too many clients already", "query_wait_timeout", "connection pool exhausted", "Connection refused")


@st.composite
def consistent_runs(draw: st.DrawFn) -> Run:
    """Any scenario, any outcome whose counts add up."""
    kind = draw(st.sampled_from(["database/sql", "psycopg_pool", "psycopg2", "sqlalchemy", "none"]))
    size = 0 if kind == "none" else draw(st.integers(0 if kind == "database/sql" else 1, 40))
    load: dict[str, Any] = {
        "instances": draw(st.integers(1, 4)),
        "connections_per_request": draw(st.integers(1, 3)),
        "hold": draw(st.sampled_from(["0ms", "20ms", "2s"])),
        "warmup": draw(st.sampled_from(["0s", "1s"])),
    }
    load |= draw(st.sampled_from([{"workers": 16}, {"rate": 50.0}]))
    events: list[dict[str, Any]] = [
        {"at": f"{draw(st.integers(0, 9))}s", "do": do} for do in draw(st.lists(st.sampled_from(EVENTS)))
    ]
    for event in events:
        event.update(EVENT_KEYS.get(event["do"], {}))
    tables = {
        "pool": {"kind": kind, "max_open": size, "max_idle": min(size, 5) if kind != "psycopg_pool" else size},
        "load": load,
        "leak": {"every": draw(small), "shape": draw(st.sampled_from(LEAK_SHAPES))},
        "database": {"via": draw(st.sampled_from(VIAS))},
        "events": events,
    }
    leaked, released, unfinished, timed_out, refused = (draw(small) for _ in range(5))
    held = draw(small)
    in_use = leaked + held
    errors: tuple[ObservedError, ...] = tuple(
        error(draw(st.integers(1, 40)), draw(st.sampled_from(["pool", "server", "pooler"])), message, draw(small) / 4)
        for message in draw(st.lists(st.sampled_from(MESSAGES), unique=True))
    )
    figures: dict[str, Any] = {
        "acquired": leaked + released + held,
        "released": released,
        "leaked": leaked,
        "unfinished": unfinished,
        "timed_out": timed_out,
        "refused": refused,
        "failed": draw(small),
        "duration": draw(st.sampled_from([0.0, 0.05, 10.0])),
        "use_time": times((draw(small), 0.02), (draw(small), 3.0)),
        "wait_time": times((draw(small), 0.001), (draw(small), 2.0)),
        "connect_time": times((draw(small), 0.005)),
        "exhausted_at": draw(st.sampled_from([None, 0.5, 9.0])),
        "recovered_at": draw(st.sampled_from([None, 9.5])),
        "errors": errors,
        "connections": connections(in_use=in_use, open=in_use, idle=0, peak_in_use=in_use, peak_open=in_use)
        if draw(st.booleans())
        else connections(opened=draw(st.integers(0, 900)), open_failures=draw(st.integers(0, 9000))),
        "server": draw(st.sampled_from([None, ObservedServer(), server(), busy(scanned=(ORDERS,)), server(refused=9)])),
    }
    points = draw(st.sampled_from([(), timeline(), exhausted(max(1, size)), outage(500), timeline(2.0, 1.0)]))
    instances = (summary(),) * draw(st.integers(0, 2))
    generator = draw(st.sampled_from([None, bound_generator()]))
    engine = draw(st.sampled_from(["live", "model"]))
    return run(
        tables,
        points,
        engine=engine,
        generator=generator,
        instances=instances,
        interrupted=draw(st.booleans()),
        **figures,
    )


@given(consistent_runs())
def test_any_run_gets_findings_worst_first_and_each_code_once(finished: Run) -> None:
    findings = diagnose_run(finished)

    found = [finding.code for finding in findings]
    ranks = [SEVERITIES.index(finding.severity) for finding in findings]
    assert findings
    assert len(found) == len(set(found))
    assert ranks == sorted(ranks)
    assert found == ["healthy"] or "healthy" not in found
    for finding in findings:
        json.dumps(finding.evidence, allow_nan=False)
        assert finding.summary
        assert finding.evidence["threshold"]
        assert finding.frees >= 0
        assert finding.decide_by or finding.confidence != "undetermined"
        assert finding.remedy or finding.code == "healthy"


@given(consistent_runs())
def test_nobody_who_lost_connections_is_sold_a_bigger_pool(finished: Run) -> None:
    findings = diagnose_run(finished)
    found = {finding.code for finding in findings}

    if {"leak", "leak-in-transaction", "pool-slots-lost", "self-deadlock", "slow-database"} & found:
        assert not [f for f in findings if f.code == "pool-undersized" and f.layer == "application"]


SLOW = {"events": [{"at": "2s", "do": "slow", "for": "3s", "factor": 10}]}


def test_a_slow_spell_that_cost_clients_their_acquires_is_the_databases() -> None:
    overdue = error(300, "pool", "context deadline exceeded", first_at=3.0)

    (finding,) = diagnose_run(run(SLOW, acquired=3700, timed_out=300, errors=(overdue,)))

    assert (finding.code, finding.severity, finding.confidence) == ("slow-database", "warning", "certain")
    assert finding.summary == ("Statements took 10 times as long from 2 s to 5 s: 300 of 4,000 acquires failed")


def test_a_slow_spell_that_cost_next_to_nothing_is_a_note() -> None:
    overdue = error(30, "pool", "context deadline exceeded", first_at=3.0)

    (finding,) = diagnose_run(run(SLOW, acquired=3970, timed_out=30, errors=(overdue,)))

    assert finding.code == "healthy"
