"""What users ask the model about: churn, full servers, failovers, deploys, leaks, deadlocks, retries."""

from typing import Any

import pytest
from modeled import constant, exponential, run

from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.engines.model import simulate
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import parse_scenario


def test_of_30_connections_18_become_idle_and_max_idle_10_closes_8_of_them() -> None:
    done = run(
        pool={"max_open": 30, "max_idle": 10},
        workers=12,
        hold=constant(100.0),
        bursts=[{"at": "1s", "workers": 18, "requests": 1, "hold": "1s"}],
        duration=10.0,
        drain=0,
    )

    before, after = (next(point for point in done.timeline if point.at >= at) for at in (1.5, 3.0))
    assert (before.open, before.in_use, before.idle) == (30, 30, 0)
    assert (after.open, after.in_use, after.idle) == (22, 12, 10)
    assert done.summary.connections.closed.max_idle == 8


@pytest.mark.parametrize(("max_idle", "opened"), [(2, 92), (20, 20)])
def test_five_bursts_of_20_reopen_18_connections_each_with_max_idle_2_and_none_with_20(
    max_idle: int, opened: int
) -> None:
    bursts = [{"at": at, "workers": 20, "requests": 1, "hold": "100ms"} for at in range(1, 6)]
    done = run(pool={"max_open": 20, "max_idle": max_idle}, bursts=bursts, duration=10.0)

    assert done.summary.connections.opened == opened


def test_six_instances_of_30_top_out_at_180_and_100_slots_refuse_the_rest() -> None:
    def fleet(max_connections: int) -> Run:
        return run(
            database={"max_connections": max_connections, "connect_time": 0.005},
            pool={"max_open": 30, "max_idle": 30},
            instances=6,
            workers=40,
            hold=exponential(0.1),
            duration=5.0,
        )

    wide, narrow = fleet(300), fleet(100)

    assert wide.summary.connections.peak_open == 180
    assert wide.summary.refused == 0
    assert narrow.summary.server is not None
    assert narrow.summary.server.peak_connections == narrow.summary.server.usable == 97
    assert narrow.summary.refused > 0
    assert {seen.kind.sqlstate for seen in narrow.summary.errors} == {"53300"}
    assert "remaining connection slots are reserved" in narrow.summary.errors[0].kind.message + "".join(
        seen.kind.message for seen in narrow.summary.errors
    )


def test_without_max_open_the_pool_grows_to_the_limit_of_the_server() -> None:
    done = run(database={"max_connections": 100}, pool={"max_open": 0}, workers=200, hold=constant(0.5), duration=3.0)

    assert done.summary.connections.peak_open >= 97
    assert done.summary.server is not None
    assert done.summary.server.peak_connections == 97
    assert done.summary.refused > 0


def test_every_leak_takes_a_connection_for_good_until_the_pool_is_exhausted() -> None:
    done = run(
        pool={"max_open": 10, "max_idle": 10, "acquire_timeout": "1s"},
        leak={"every": 100},
        rate=50.0,
        hold=exponential(0.02),
        duration=40.0,
    )

    assert done.summary.leaked == 10
    assert done.summary.exhausted_for_good
    assert done.summary.connections.in_use == 10
    assert done.summary.timed_out > 0


def test_a_reference_dropped_in_psycopg_pool_frees_the_server_and_not_the_slot() -> None:
    done = run(
        pool={"kind": "psycopg_pool", "max_open": 4, "acquire_timeout": "1s"},
        leak={"every": 10, "shape": "dropped-reference"},
        rate=20.0,
        hold=exponential(0.02),
        duration=20.0,
    )

    assert done.summary.leaked == 4
    assert (done.timeline[-2].in_use, done.timeline[-2].server_connections) == (4, 0)


def test_nested_acquires_lock_the_pool_when_every_holder_waits_and_the_run_still_ends() -> None:
    done = run(
        pool={"max_open": 4, "max_idle": 4},
        workers=4,
        connections_per_request=2,
        hold=constant(0.01),
        requests=100,
        duration="off",
    )

    assert done.summary.unfinished == 4
    assert done.summary.released == 0
    assert any("nothing could ever happen again" in note for note in done.notes)


def test_one_connection_more_than_holders_avoids_the_deadlock() -> None:
    # Threads * (connections - 1) + 1.
    done = run(
        pool={"max_open": 5, "max_idle": 5},
        workers=4,
        connections_per_request=2,
        hold=constant(0.01),
        requests=100,
        duration="off",
    )

    assert done.summary.released == 200
    assert done.summary.unfinished == 0


def test_a_failover_reopens_everything_at_once_and_lifetime_jitter_spreads_what_follows() -> None:
    def most_opening(jitter: str) -> int:
        done = run(
            database={"connect_time": 0.5},
            pool={
                "kind": "pgxpool",
                "max_open": 50,
                "max_lifetime": "10m",
                "max_lifetime_jitter": jitter,
                "max_idle_time": "1h",
            },
            workers=50,
            hold=exponential(0.2),
            events=[{"at": "60s", "do": "failover"}],
            duration=1400.0,
        )
        assert done.summary.connections.closed.error == 50
        return max(point.opening for point in done.timeline if point.at > 600)

    assert most_opening("0s") > 20
    assert most_opening("10m") < 5


def test_a_deploy_runs_both_generations_during_its_overlap() -> None:
    done = run(
        pool={"max_open": 10, "max_idle": 10},
        instances=3,
        workers=10,
        hold=exponential(0.1),
        events=[{"at": "10s", "do": "deploy", "overlap": "5s"}],
        duration=30.0,
    )

    open_at = {round(point.at): point.open for point in done.timeline}
    assert (open_at[9], open_at[12], open_at[20]) == (30, 60, 30)
    assert len(done.instances) == 6


@pytest.mark.parametrize("kernel", ["plain", "compiled"])
def test_events_after_the_end_of_the_load_do_not_prolong_it(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    monkeypatch.setenv("POOLCTL_KERNEL", kernel)
    late = [
        {"at": "30s", "do": "deploy"},
        {"at": "40s", "do": "restart"},
        {"at": 100000000, "do": "slow", "factor": 2, "for": "9s"},
        {"at": "5s", "do": "deploy", "overlap": "1h"},
    ]

    done = run(pool={"max_open": 10}, workers=4, hold=exponential(0.1), duration=10.0, events=late)

    assert done.summary.duration == 10.0
    assert done.timeline[-1].at < 12.5
    assert len(done.instances) == 2
    assert len(done.notes) == 3
    assert done.notes[0] == "the event deploy at 30 s does not happen, because the load ends at 10 s"


def test_queries_that_become_ten_times_slower_exhaust_the_pool_while_they_are() -> None:
    done = run(
        pool={"max_open": 10, "max_idle": 10},
        rate=50.0,
        hold=exponential(0.05),
        events=[{"at": "20s", "do": "slow", "factor": 10, "for": "10s"}],
        duration=60.0,
    )

    waiting = {round(point.at): point.waiting for point in done.timeline}
    assert waiting[15] == 0
    assert waiting[29] > 100
    assert done.summary.recovered_at is not None


def test_a_paused_server_finishes_nothing() -> None:
    done = run(
        pool={"max_open": 10, "max_idle": 10},
        workers=10,
        hold=constant(0.1),
        events=[{"at": "2s", "do": "pause", "for": "3s"}],
        duration=10.0,
    )

    acquired = {round(point.at): point.acquired for point in done.timeline}
    assert acquired[3] == acquired[4]
    assert acquired[8] > acquired[4]


def test_retries_without_backoff_multiply_the_acquires_of_an_overload() -> None:
    def offered(retries: int) -> int:
        return run(
            pool={"max_open": 5, "max_idle": 5, "acquire_timeout": "200ms"},
            rate=100.0,
            hold=exponential(0.1),
            retries=retries,
            duration=20.0,
        ).summary.offered

    assert offered(3) > 1.8 * offered(0)


def test_services_share_one_server_and_have_pools_of_their_own() -> None:
    def service(name: str, max_open: int) -> dict[str, object]:
        return {
            "name": name,
            "pool": {"max_open": max_open, "max_idle": max_open},
            "load": {"workers": 20, "hold": "10ms"},
        }

    done = run(service=[service("api", 8), service("batch", 3)], duration=5.0)

    assert [one.connections.peak_open for one in done.instances] == [8, 3]
    assert done.summary.connections.peak_open == 11
    assert [(name, one.connections.peak_open) for name, one in done.services] == [("api", 8), ("batch", 3)]


@pytest.mark.parametrize("instances", [2, 40])
def test_the_figures_of_the_services_add_up_to_those_of_all(instances: int) -> None:
    # Above 64 instances none has histograms of its own, and a service still has.
    fast = {"name": "fast", "pool": {"max_open": 4}, "load": {"rate": 20.0, "hold": "1ms", "instances": instances}}
    slow = {"name": "slow", "pool": {"max_open": 4}, "load": {"rate": 5.0, "hold": "1s", "instances": instances}}

    done = run(service=[fast, slow], duration=20.0, interval=0.1)

    own = dict(done.services)
    assert len(done.instances) == (0 if instances > 32 else 2 * instances)
    for name in ("offered", "acquired", "released", "unfinished", "queued_count"):
        assert sum(getattr(one, name) for one in own.values()) == getattr(done.summary, name)
    assert own["fast"].use_time.max < 0.01
    assert own["slow"].use_time.mean == pytest.approx(1.0)
    assert own["slow"].connections.peak_open <= 4 * instances


def test_of_several_services_only_the_one_that_reopens_is_told_of_churn() -> None:
    calm = {"name": "calm", "pool": {"max_open": 9, "max_idle": 9}, "load": {"rate": 100.0, "hold": "20ms"}}
    churns = {"name": "churns", "pool": {"max_open": 9, "max_idle": 1}, "load": {"rate": 100.0, "hold": "50ms"}}

    done = run(service=[calm, churns], database={"connect_time": 0.01}, duration=20.0)

    (finding,) = diagnose_run(done)
    assert finding.code == "connection-churn"
    assert finding.summary.startswith("Service churns: ")
    assert finding.evidence["max_idle"] == 1


def test_what_is_told_has_the_openings_that_have_begun_and_not_those_only_ordered() -> None:
    # Go's opener is asked for nine replacements at once and makes one after the other.
    done = run(
        database={"connect_time": 0.5},
        pool={"max_open": 9, "max_idle": 9},
        bursts=[{"at": 0, "workers": 18, "requests": 1, "hold": "10s"}],
        events=[{"at": 2, "do": "restart", "down": 0}],
        duration=5.0,
        drain=0,
        interval=0.1,
    )

    reopening = [point for point in done.timeline if 2.05 < point.at < 4.95]
    assert {point.opening for point in reopening} == {1}
    assert [point.open for point in reopening] == sorted(point.open for point in reopening)
    assert max(point.open for point in reopening) <= 7


def test_an_overload_without_a_timeout_is_cut_off_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolctl.engines.model.clock.MOST_WAITING", 5_000)

    done = run(pool={"max_open": 5, "max_idle": 5}, rate=1000.0, hold=exponential(0.1), duration="1h")

    assert done.failure is not None
    assert "the queue grows for ever" in done.failure
    assert [finding.code for finding in diagnose_run(done)] == ["endless-queue", "pool-undersized"]
    assert done.summary.unfinished > 5_000


def test_a_closed_loop_in_which_no_time_passes_is_cut_off() -> None:
    done = run(pool={"max_open": 5, "max_idle": 5}, workers=5, hold=constant(0.0), duration=10.0)

    assert done.failure is not None
    assert "cannot end" in done.failure
    assert [finding.code for finding in diagnose_run(done)] == ["endless-load"]


def test_a_closed_loop_whose_acquires_time_out_at_once_is_cut_off() -> None:
    pool = {"max_open": 1, "acquire_timeout": 1e-12}
    done = run(pool=pool, workers=3, hold=constant(5.0), duration=10.0)

    assert done.cut_off == "standstill"


def test_the_same_seed_gives_the_same_run_and_another_one_does_not() -> None:
    def once(seed: int) -> Run:
        return run(
            database={"cores": 4, "connect_time": exponential(0.01), "max_connections": 30},
            pool={"max_open": 10, "max_idle": 3, "max_lifetime": "5s", "acquire_timeout": "300ms"},
            instances=4,
            rate=60.0,
            hold={"distribution": "lognormal", "mean": 0.02, "cv": 2.0},
            events=[{"at": "5s", "do": "restart"}],
            duration=10.0,
            seed=seed,
        )

    assert once(1) == once(1)
    assert once(1).summary != once(2).summary


def test_a_user_who_has_enough_gets_what_was_simulated_until_then() -> None:
    scenario = parse_scenario({"name": "long", "load": {"rate": 1000.0, "hold": "1ms", "duration": "1h"}})
    done = simulate(scenario, stop=lambda: True)

    assert done.interrupted
    assert done.failure is None
    assert done.summary.released > 0


@pytest.mark.parametrize("timeout", ["5s", "30s", "off"])
@pytest.mark.parametrize("hold", ["50s", exponential(50.0)])
def test_holds_outside_of_the_database_are_never_answered_by_a_bigger_pool(timeout: str, hold: Any) -> None:
    for seed in (1, 2, 3):
        done = run(
            pool={"kind": "sqlalchemy", "max_open": 11, "max_idle": 11, "acquire_timeout": timeout},
            workers=14,
            think="1s",
            hold=hold,
            hold_outside="49.98s",
            duration=600.0,
            seed=seed,
        )

        assert diagnose_run(done)[0].code == "held-across-io"


def test_processor_time_is_never_above_the_cores_also_where_a_run_ends_in_the_middle_of_its_work() -> None:
    done = run(database={"cores": 2}, pool={"max_open": 11}, workers=14, hold=exponential(50.0), duration=60.0, drain=0)

    assert done.summary.server is not None
    assert done.summary.server.cpu == pytest.approx(2.0, rel=0.01)


def test_a_wait_that_the_end_cuts_off_is_a_lower_bound() -> None:
    done = run(pool={"max_open": 1}, workers=10, hold="100s", duration=6.0, drain=0)

    waits = done.summary.wait_time
    assert (waits.count, waits.censored, done.summary.queued_count) == (10, 9, 9)
    assert (waits.p99, waits.p99_at_least) == (6.0, True)
    assert (waits.p50_at_least, waits.p90_at_least, waits.p95_at_least) == (True, True, True)


def test_a_percentile_below_the_waits_that_the_end_cuts_off_is_exact() -> None:
    done = run(
        pool={"max_open": 1}, workers=1, hold="10ms", duration=6.0, drain=0, bursts=[{"at": 5.995, "workers": 1}]
    )

    assert done.summary.wait_time.censored == 1
    assert not done.summary.wait_time.p50_at_least


def test_a_run_lasts_for_its_duration_so_that_idle_connections_are_closed_after_the_load() -> None:
    # Go closes 40 of the 40 connections of four bursts.
    bursts = [{"at": at, "workers": 10, "requests": 1, "hold": "100ms"} for at in (0, 2, 4, 6)]
    done = run(pool={"max_open": 10, "max_idle": 10, "max_idle_time": "300ms"}, bursts=bursts, duration=8.0)

    assert done.summary.connections.closed.max_idle_time == 40
    assert done.timeline[-1].at == 8.0


def test_a_request_of_two_connections_counts_once_beside_its_acquires() -> None:
    done = run(pool={"max_open": 10}, workers=4, connections_per_request=2, requests=20, hold=constant(0.01))

    assert (done.summary.offered, done.summary.requests.offered, done.summary.requests.completed) == (40, 20, 20)
