"""The live engine: Go's rules on real connections, seen from the pool and from the server."""

import os
import signal
import sys
import time
from typing import Any

import psutil
import psycopg
import pytest
from live_runs import Recorder, assert_adds_up, run, scenario_of

from poolctl.engines.live.engine import check_scenario, run_on
from poolctl.engines.live.live_servers import ThrowAwayServers, open_target
from poolctl.engines.live.pool_figures_file import NAME
from poolctl.engines.pool_kinds import REAL_LIBRARIES
from poolctl.errors import BadInput, CannotDo, ServerFull
from poolctl.observe.pool_metrics import PoolMetrics
from poolctl.observe.snapshot import PoolFigures
from poolctl.pool import LIBRARIES
from poolctl.scenario.run import TimelinePoint

pytestmark = pytest.mark.server


def test_a_correct_workload_releases_all_it_acquires(servers: ThrowAwayServers) -> None:
    done = run(servers, scenario_of())

    assert_adds_up(done)
    assert done.summary.released == done.summary.offered > 100
    assert done.summary.leaked == 0
    assert done.summary.errors == ()
    assert done.summary.connections.peak_open == 4
    assert done.failure is None
    assert done.notes == ()


def test_the_server_sees_what_the_pool_opened_and_never_the_observer(servers: ThrowAwayServers) -> None:
    done = run(servers, scenario_of(load={"workers": 5, "instances": 2}))

    assert done.summary.server is not None
    assert done.summary.server.peak_connections == 10
    assert done.summary.connections.peak_open == 10
    assert max(point.server_connections or 0 for point in done.timeline) == 10


def test_a_full_pool_makes_acquires_wait_and_time_out_with_gos_words(servers: ThrowAwayServers) -> None:
    pool = {"max_open": 2, "max_idle": 2, "acquire_timeout": "100ms"}
    done = run(servers, scenario_of(pool=pool, load={"workers": 6, "hold": "200ms"}))

    assert_adds_up(done)
    assert done.summary.timed_out > 0
    assert [(e.kind.origin, e.kind.message) for e in done.summary.errors] == [("pool", "context deadline exceeded")]
    # Without a timeout four of six would wait for two holds.
    assert 0.09 < done.summary.wait_time.max < 0.35
    assert done.summary.queued_count >= done.summary.timed_out


def test_the_pools_of_a_running_load_expose_their_figures_in_a_file(servers: ThrowAwayServers) -> None:
    seen: list[PoolFigures] = []

    def look(_: TimelinePoint) -> None:
        assert servers.sandbox is not None
        seen[:] = PoolMetrics(str(servers.sandbox.directory / NAME)).sample() or seen

    def are_all_leaked() -> bool:
        return [(pool.max_open, pool.in_use, pool.idle, pool.waiting) for pool in seen] == [(5, 5, 0, 8)] * 2

    load = {"workers": 8, "instances": 2, "duration": "60s"}
    run(servers, scenario_of(leak={"every": 1}, load=load), view=Recorder(look), stop=are_all_leaked)

    assert are_all_leaked()
    assert {pool.application for pool in seen} == {"poolctl simulate"}


def test_psycopg_pools_max_waiting_turns_the_next_one_away_at_once(servers: ThrowAwayServers) -> None:
    pool = {"kind": "psycopg_pool", "max_open": 1, "min_idle": 1, "max_waiting": 1}
    done = run(servers, scenario_of(pool=pool, load={"workers": 4, "hold": "200ms"}))

    assert_adds_up(done)
    assert {error.kind.name for error in done.summary.errors} == {"TooManyRequests"}
    assert done.summary.timed_out > 0


@pytest.mark.parametrize(
    ("shape", "state"),
    [
        ("forgotten", "idle"),
        ("in-transaction", "idle in transaction"),
        ("unread-rows", "active (ClientWrite)"),
        ("dropped-reference", "idle"),
        ("long-hold", "idle in transaction"),
    ],
)
def test_a_leak_fills_the_pool_and_shows_on_the_server_as(servers: ThrowAwayServers, shape: str, state: str) -> None:
    scenario = scenario_of(load={"duration": "1500ms", "think": "2ms"}, leak={"every": 2, "shape": shape})
    done = run(servers, scenario)

    assert_adds_up(done)
    assert done.summary.leaked == done.summary.connections.in_use == 5
    assert done.summary.exhausted_for_good
    assert done.summary.unfinished == 4
    assert done.summary.server is not None
    assert done.summary.server.states == {state: 5}


def test_of_eighteen_that_come_back_to_a_pool_with_ten_idle_places_eight_are_closed(servers: ThrowAwayServers) -> None:
    bursts = [
        {"at": "50ms", "workers": 12, "requests": 1, "hold": "900ms"},
        {"at": "50ms", "workers": 18, "requests": 1, "hold": "300ms"},
    ]
    scenario = scenario_of(
        pool={"max_open": 30, "max_idle": 10}, load={"workers": "off", "duration": "2s", "bursts": bursts}
    )
    view = Recorder()
    done = run(servers, scenario, view=view)

    assert (12, 10) in [(point.in_use, point.idle) for point in view.points]
    assert done.summary.connections.opened == 30
    assert done.summary.connections.closed.max_idle == 20


def test_an_unlimited_pool_meets_the_slots_that_the_server_reserves(servers: ThrowAwayServers) -> None:
    scenario = scenario_of(
        pool={"max_open": 0}, load={"workers": 20, "hold": "300ms"}, database={"max_connections": 15, "reserved": 3}
    )
    done = run(servers, scenario)

    assert_adds_up(done)
    refusals = [e for e in done.summary.errors if e.kind.sqlstate == "53300"]
    assert any("remaining connection slots are reserved" in e.kind.message for e in refusals)
    assert sum(e.count for e in refusals) == done.summary.refused > 0
    assert done.summary.server is not None
    # One that is being refused holds a slot for that moment, and may be seen in it.
    assert done.summary.connections.peak_in_use == 12
    assert done.summary.server.peak_connections in range(12, 16)
    assert done.summary.server.refused == done.summary.refused


def test_without_reserved_slots_the_server_says_too_many_clients(servers: ThrowAwayServers) -> None:
    scenario = scenario_of(
        pool={"max_open": 0}, load={"workers": 20, "hold": "300ms"}, database={"max_connections": 10, "reserved": 0}
    )
    done = run(servers, scenario)

    messages = {e.kind.message for e in done.summary.errors if e.kind.sqlstate == "53300"}
    assert messages == {"sorry, too many clients already"}


def test_open_loop_waits_count_from_the_due_time_and_agree_with_the_ideal_queue(servers: ThrowAwayServers) -> None:
    load = {"workers": "off", "rate": 150, "hold": {"distribution": "exponential", "mean": "25ms"}, "duration": "3s"}
    for attempt in range(3):
        done = run(servers, scenario_of(load=load | {"seed": attempt}))
        assert_adds_up(done)
        assert done.generator is not None
        assert done.generator.ideal_wait is not None
        assert done.generator.measured_wait is not None
        late = done.generator.measured_wait - done.generator.ideal_wait
        if late < 0.01:  # else others kept the loop from the processor
            break

    assert done.generator is not None
    # Opening the first five connections and the loop's own delays are in what was measured.
    assert late == pytest.approx(0.0, abs=0.01)
    assert done.summary.wait_time.mean == pytest.approx(done.generator.measured_wait, rel=0.05)


def test_the_same_seed_gives_the_same_arrivals_and_another_does_not(servers: ThrowAwayServers) -> None:
    load = {"workers": "off", "rate": 100, "duration": "1s"}
    first = run(servers, scenario_of(load=load | {"seed": 7}))
    again = run(servers, scenario_of(load=load | {"seed": 7}, pool={"max_open": 3}))
    other = run(servers, scenario_of(load=load | {"seed": 8}))

    assert first.summary.offered == again.summary.offered
    assert first.summary.offered != other.summary.offered


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process choose its core")
@pytest.mark.parametrize(("kind", "of_their_own"), [("psycopg_pool", True), ("none", False), ("database/sql", False)])
def test_instances_with_threads_each_stay_on_one_core(servers: ThrowAwayServers, kind: str, of_their_own: bool) -> None:
    cores = os.sched_getaffinity(0)
    seen: set[frozenset[int]] = set()

    def look(_: TimelinePoint) -> None:
        for instance in psutil.Process().children():
            if "poolctl.engines.instance" in instance.cmdline():
                seen.add(frozenset(instance.cpu_affinity()))

    pool = {"kind": kind} if kind == "none" else {"kind": kind, "max_open": 4}
    run(servers, scenario_of(pool=pool, load={"instances": len(cores), "workers": 2}), view=Recorder(look))

    assert seen == ({frozenset({core}) for core in cores} if of_their_own else {frozenset(cores)})


def test_each_instance_stops_after_its_requests(servers: ThrowAwayServers) -> None:
    done = run(servers, scenario_of(load={"requests": 25, "instances": 2, "duration": "off"}))

    assert [instance.released for instance in done.instances] == [25, 25]


def test_nested_acquires_deadlock_and_the_run_ends_by_itself(servers: ThrowAwayServers) -> None:
    load = {"workers": 4, "connections_per_request": 2, "requests": 100, "duration": "off", "hold": "20ms"}
    done = run(servers, scenario_of(pool={"max_open": 4}, load=load))

    assert_adds_up(done)
    assert done.summary.unfinished == 4
    assert done.summary.connections.in_use == 4
    assert done.summary.exhausted_for_good


def test_requests_of_the_warm_up_are_not_counted(servers: ThrowAwayServers) -> None:
    counted = run(servers, scenario_of(load={"warmup": "700ms"}))
    everything = run(servers, scenario_of())

    assert counted.summary.duration == pytest.approx(0.3, abs=0.1)
    assert counted.summary.offered < 0.6 * everything.summary.offered
    assert counted.summary.connections.opened == 4


@pytest.mark.parametrize(
    "pool",
    [
        {"max_open": 5, "max_idle": 5},
        {"max_open": 2, "max_idle": 2},
        {"max_open": 5, "max_idle": 1},
        {"max_open": 4, "max_idle": 4, "max_lifetime": "50ms"},
        {"kind": "hikaricp", "max_open": 2},
    ],
    ids=["free", "waits", "closes idle ones", "replaces old ones", "hands over"],
)
def test_requests_that_follow_at_once_are_counted_whole_by_a_pool_that(
    servers: ThrowAwayServers, pool: dict[str, Any]
) -> None:
    done = run(servers, scenario_of(pool=pool, load={"hold": 0, "query": "select1", "warmup": "300ms"}))

    assert_adds_up(done)
    summary, requests = done.summary, done.summary.requests
    assert requests.offered == requests.completed == summary.acquired == summary.released > 200
    assert (summary.wait_time.count, summary.use_time.count) == (summary.acquired, summary.released)
    assert (summary.errors, summary.connections.in_use, requests.failed) == ((), 0, 0)
    assert (summary.queued_count > 0) == (pool["max_open"] == 2) == (summary.wait_time.p50 > 0)
    assert summary.connections.opened == summary.connections.open + summary.connections.closed.total
    assert done.timeline[-1].acquired > 1.1 * summary.acquired


@pytest.mark.parametrize("event", ["restart", "failover"])
def test_the_pool_recovers_from_a(servers: ThrowAwayServers, event: str) -> None:
    done = run(servers, scenario_of(load={"duration": "3s"}, events=[{"at": "1s", "do": event}]))

    assert_adds_up(done)
    assert done.failure is None
    assert done.summary.errors != ()
    assert done.summary.connections.opened > 4
    afterwards = [point for point in done.timeline if point.at > 1.5]
    assert afterwards[-1].acquired > afterwards[0].acquired


def test_a_pause_stops_every_request_and_loses_none(servers: ThrowAwayServers) -> None:
    events = [{"at": "500ms", "do": "pause", "for": "600ms"}]
    done = run(servers, scenario_of(load={"duration": "1500ms"}, events=events))

    assert_adds_up(done)
    assert done.summary.errors == ()
    assert done.summary.use_time.max > 0.5


def test_a_slow_database_multiplies_the_holds(servers: ThrowAwayServers) -> None:
    events = [{"at": "0s", "do": "slow", "for": "10s", "factor": 10}]
    done = run(servers, scenario_of(load={"hold": "10ms"}, events=events))

    assert 0.095 < done.summary.use_time.p50 < 0.2


def test_a_deploy_runs_both_generations_for_the_overlap(servers: ThrowAwayServers) -> None:
    events = [{"at": "700ms", "do": "deploy", "overlap": "1s"}]
    done = run(servers, scenario_of(load={"duration": "2s"}, events=events))

    assert_adds_up(done)
    assert len(done.instances) == 2
    assert done.summary.connections.peak_open == 8
    assert done.summary.server is not None
    assert done.summary.server.peak_connections == 8
    assert [point for point in done.timeline if point.at < 0.6][-1].open <= 4


@pytest.mark.parametrize("kind", ["database/sql", "psycopg_pool"])
def test_events_after_the_end_of_the_load_do_not_prolong_it(servers: ThrowAwayServers, kind: str) -> None:
    events: list[dict[str, Any]] = [
        {"at": "500ms", "do": "deploy", "overlap": "100s"},
        {"at": "4s", "do": "deploy"},
        {"at": "5s", "do": "restart"},
        {"at": 100000000, "do": "pause", "for": "1s"},
    ]
    began = time.monotonic()
    done = run(servers, scenario_of(pool={"kind": kind, "max_open": 4}, events=events))

    assert_adds_up(done)
    assert done.failure is None
    assert len(done.instances) == 2
    assert done.summary.duration == pytest.approx(1.0, abs=0.1)
    assert done.timeline[-1].at < 2.0
    assert time.monotonic() - began < 60.0
    assert list(done.notes) == [
        f"the event {do} at {at} s does not happen, because the load ends at 1 s"
        for do, at in [("deploy", "4"), ("restart", "5"), ("pause", "1e+08")]
    ]


def test_a_deploy_after_the_last_request_does_not_begin_a_generation(servers: ThrowAwayServers) -> None:
    load = {"requests": 20, "duration": "off"}
    done = run(servers, scenario_of(load=load, events=[{"at": "30s", "do": "deploy"}]))

    assert done.failure is None
    assert done.summary.released == done.summary.offered == 20
    assert done.timeline[-1].at < 5.0


@pytest.mark.parametrize("kind", ["database/sql", "psycopg_pool"])
@pytest.mark.parametrize("at", ["50s", "100ms"])
def test_a_run_can_be_interrupted_before_and_after_a_deploy(servers: ThrowAwayServers, kind: str, at: str) -> None:
    view = Recorder()
    scenario = scenario_of(
        pool={"kind": kind, "max_open": 4}, load={"duration": "60s"}, events=[{"at": at, "do": "deploy"}]
    )
    done = run(servers, scenario, view=view, stop=lambda: bool(view.points and view.points[-1].at > 1.0))

    assert done.interrupted
    assert done.failure is None
    assert done.notes == ()


def test_an_instance_that_is_killed_is_reported_and_the_others_continue(servers: ThrowAwayServers) -> None:
    killed: list[int] = []

    def kill_one(point: TimelinePoint) -> None:
        if point.at > 0.4 and not killed:
            with psycopg.connect(servers.sandbox.admin_conninfo if servers.sandbox else "") as connection:
                row: Any = connection.execute(
                    "SELECT client_port FROM pg_stat_activity WHERE application_name = 'poolctl simulate'"
                ).fetchone()
            killed.append(_owner_of_port(row[0]))
            os.kill(killed[0], signal.SIGKILL)

    done = run(servers, scenario_of(load={"instances": 2, "duration": "2s"}), view=Recorder(kill_one))

    assert done.failure == "1 of 2 instances ended before they were done"
    assert any("ended by signal 9" in note for note in done.notes)
    assert max(instance.released for instance in done.instances) > 100


def test_a_server_that_dies_ends_the_run_and_keeps_what_was_measured() -> None:
    with ThrowAwayServers() as servers:

        def kill_server(point: TimelinePoint) -> None:
            if point.at > 0.5 and servers.sandbox is not None:
                for pid in servers.sandbox.list_process_ids():
                    _kill(pid)

        done = run(servers, scenario_of(load={"duration": "20s"}), view=Recorder(kill_server))

    assert done.failure is not None
    assert done.failure.startswith("the server ended at")
    assert done.timeline[-1].at < 10
    assert done.summary.released > 50


def test_an_interrupted_run_reports_what_was_measured(servers: ThrowAwayServers) -> None:
    seen: list[float] = []
    view = Recorder(lambda point: seen.append(point.at))
    done = run(servers, scenario_of(load={"duration": "30s"}), view=view, stop=lambda: bool(seen and seen[-1] > 0.5))

    assert_adds_up(done)
    assert done.interrupted
    assert done.summary.released > 20
    assert done.timeline[-1].at < 5


@pytest.mark.parametrize(("minutes", "reported"), [(2, ["120"]), (0, [])])
def test_a_machine_that_slept_during_the_run_is_reported(
    servers: ThrowAwayServers, minutes: int, reported: list[str]
) -> None:
    ahead = iter([0.0, 60.0 * minutes])
    view = Recorder()

    # A clock that went on while the run's stood still, as after a night with the lid closed.
    done = run_on(
        servers.serve,
        scenario_of(load={"duration": "300ms"}),
        view,
        wall_clock=lambda: time.monotonic() + next(ahead),
    )

    notes = [f"the machine slept for {s} s during the run: times that include the sleep are wrong" for s in reported]
    assert list(done.notes) == notes
    assert [note for note in view.notes if "slept" in note] == notes
    assert done.failure is None


def test_a_query_of_the_users_is_run_and_the_table_it_reads_is_named() -> None:
    scenario = scenario_of(
        load={"query": "SELECT count(*) FROM words WHERE word = 'x'", "hold": "1ms", "duration": "1500ms"},
        database={"setup": "CREATE TABLE words AS SELECT i::text AS word FROM generate_series(1, 1000) i"},
    )
    with ThrowAwayServers() as servers:
        done = run(servers, scenario)

    assert done.summary.server is not None
    assert [table.name for table in done.summary.server.scanned] == ["public.words"]
    assert "words" in done.summary.server.statements[0].query


def test_setup_that_fails_is_refused_with_the_servers_words() -> None:
    with ThrowAwayServers() as servers, pytest.raises(BadInput, match=r"database\.setup failed: syntax error"):
        run(servers, scenario_of(database={"setup": "CREATE TABEL x ()"}))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nonsense", 'column "nonsense" does not exist'),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "cannot insert multiple commands"),
    ],
)
def test_a_query_that_the_server_does_not_understand_is_refused(
    servers: ThrowAwayServers, query: str, said: str
) -> None:
    with pytest.raises(BadInput, match=rf"load\.query: the server says: .*{said}"):
        run(servers, scenario_of(load={"query": query}))


def test_the_cpu_query_keeps_the_servers_processor_busy(servers: ThrowAwayServers) -> None:
    done = run(servers, scenario_of(load={"query": "cpu", "hold": "20ms", "workers": 1, "duration": "1500ms"}))

    assert done.summary.server is not None
    assert done.summary.server.cpu is not None
    # pg_sleep takes 0.02; on a machine that is busy elsewhere the server gets a small part of a core.
    assert done.summary.server.cpu > 0.1


OTHER_LIBRARIES = sorted({*LIBRARIES} - {*REAL_LIBRARIES, "database/sql"})


@pytest.mark.parametrize("kind", OTHER_LIBRARIES)
def test_the_rules_of_any_library_run_on_real_connections(servers: ThrowAwayServers, kind: str) -> None:
    done = run(servers, scenario_of(pool={"kind": kind, "max_open": 3}, load={"workers": 6, "hold": "20ms"}))

    assert_adds_up(done)
    assert done.failure is None
    assert done.summary.released > 15
    assert done.summary.connections.peak_open <= 3
    assert done.summary.queued_count > 0
    assert f"rules of {kind}, driver psycopg" in done.notes


def test_a_run_that_would_not_fit_into_memory_is_refused_before_it_starts() -> None:
    gigabytes = psutil.virtual_memory().total // 1_000_000_000 + 1

    with pytest.raises(
        CannotDo, match=r"instances with 4 workers each would need about [\d.]+ GB of memory, and [\d.]+ GB are"
    ):
        check_scenario(scenario_of(load={"instances": 40 * gigabytes}))


def test_a_target_gives_no_more_than_its_free_slots_less_a_margin(servers: ThrowAwayServers) -> None:
    scenario = scenario_of(pool={"max_open": 34})
    sandbox = servers.serve(scenario_of()).sandbox
    assert sandbox is not None

    with pytest.raises(
        ServerFull, match=r"up to 34 connections.* 37 free \(40 max_connections - 3 reserved - 0 used\)"
    ):
        open_target(sandbox.direct_conninfo, scenario)


def test_a_target_is_used_when_it_has_room_or_may_be_exhausted(servers: ThrowAwayServers) -> None:
    sandbox = servers.serve(scenario_of()).sandbox
    assert sandbox is not None
    conninfo = sandbox.direct_conninfo

    done = run(servers, scenario_of(), serve=lambda scenario: open_target(conninfo, scenario))
    full = run(
        servers,
        scenario_of(pool={"max_open": 0}, load={"workers": 50, "hold": "300ms"}),
        serve=lambda scenario: open_target(conninfo, scenario, allow_exhaustion=True),
    )

    assert done.summary.released == done.summary.offered
    assert done.summary.server is not None
    assert done.summary.server.peak_connections == 4
    assert full.summary.refused > 0


@pytest.mark.parametrize("do", ["restart", "failover", "pause"])
def test_a_target_is_never_restarted_or_paused(do: str) -> None:
    event = {"at": "1ms", "do": do} | ({"for": "1s"} if do == "pause" else {})
    with pytest.raises(BadInput, match="throw-away server"):
        open_target("host=127.0.0.1", scenario_of(events=[event]))


@pytest.mark.parametrize("via", ["pgbouncer", "pgpool"])
def test_the_workload_goes_through_a_real(servers: ThrowAwayServers, via: str) -> None:
    settings = {"pgbouncer": {"pool_mode": "transaction", "default_pool_size": 2}, "pgpool": {"num_init_children": 8}}
    scenario = scenario_of(database={"via": via, via: settings[via]}, load={"workers": 4})
    done = run(servers, scenario)

    assert_adds_up(done)
    assert done.summary.released == done.summary.offered > 20
    assert done.summary.server is not None
    if via == "pgbouncer":
        assert done.summary.server.peak_connections == 2


def _owner_of_port(port: int) -> int:
    for process in psutil.process_iter(["cmdline"]):
        if "poolctl.engines.instance" in (process.info["cmdline"] or ()):
            ports = {socket.laddr[1] for socket in process.net_connections()}
            if port in ports:
                return int(process.pid)
    raise LookupError(port)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
