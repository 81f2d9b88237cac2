"""Samples of all sources: when they are taken, and what a source that hangs or dies costs the others."""

import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandboxes import connect, eventually, one
from watched import Clients, observing

from poolctl.engines.sandbox import Sandbox
from poolctl.observe.connection import NAME
from poolctl.observe.host import Host
from poolctl.observe.pgbouncer import PgBouncer
from poolctl.observe.recording import RecordingWriter, read_recording
from poolctl.observe.sampler import EARLY, HOST, PATIENCE, Sampler, plan_instants
from poolctl.observe.snapshot import (
    IN_TRANSACTION,
    HostSample,
    Observation,
    ServerFacts,
    ServerSample,
    Snapshot,
    Source,
)

SHORT = 0.8
"""Seconds: long enough for a first sample, an early one and a last."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.start(max_connections=20, via="pgbouncer") as running:
        yield running


def planned(duration: float | None, interval: float, *, takes: float = 0.0, count: int = 20) -> list[float]:
    """The instants of samples, if every sample takes so long."""
    clock = [0.0]
    found: list[float] = []
    for instant in islice(plan_instants(lambda: clock[0], duration, interval), count):
        began = max(clock[0], instant)
        found.append(round(began, 6))
        clock[0] = began + takes
    return found


@pytest.mark.parametrize(
    ("duration", "interval", "takes", "expected"),
    [
        (3.0, 1.0, 0.0, [0, 0.3, 1, 2, 3]),
        (3.0, 1.0, 0.1, [0, 0.4, 1, 2, 3]),
        (3.0, 1.0, 1.5, [0, 1.8, 3.3]),
        (1.0, 1.0, 0.0, [0, 0.3, 1]),
        (0.3, 1.0, 0.0, [0, 0.3]),
        (0.0, 1.0, 0.0, [0]),
        (0.05, 1.0, 0.1, [0, 0.1]),
        (3.0, 1.0, 4.0, [0, 4]),
        (1.0, 0.25, 0.0, [0, 0.125, 0.5, 0.75, 1]),
        (6.0, 2.0, 0.0, [0, 0.3, 2, 4, 6]),
        (2.1, 1.0, 0.0, [0, 0.3, 1, 2.1]),
    ],
)
def test_samples_are_taken_at_once_early_each_interval_and_at_the_end(
    duration: float, interval: float, takes: float, expected: list[float]
) -> None:
    assert planned(duration, interval, takes=takes) == expected


def test_without_an_end_samples_go_on() -> None:
    assert planned(None, 1.0, count=6) == [0, 0.3, 1, 2, 3, 4]


@given(
    duration=st.floats(0.5, 30),
    interval=st.floats(0.1, 5),
    takes=st.floats(0, 2),
)
def test_two_samples_are_never_crowded_and_the_end_is_never_missed(
    duration: float, interval: float, takes: float
) -> None:
    found = planned(duration, interval, takes=takes, count=1000)

    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert all(gap >= min(takes, EARLY / 4, interval / 4) - 1e-6 for gap in gaps)
    assert len(found) > 1
    assert found[-1] >= duration - 1e-6
    assert found[-1] <= duration + takes + EARLY + 1e-6


def test_an_observation_begins_at_once_and_ends_in_time(sandbox: Sandbox) -> None:
    taken: list[tuple[float, Snapshot]] = []
    began = time.monotonic()
    with Clients(sandbox.direct_conninfo) as clients, observing(sandbox.direct_conninfo) as server:
        held = clients.in_transaction()
        with Sampler(server) as sampler:
            observation = sampler.observe(
                SHORT, on_snapshot=lambda snapshot: taken.append((time.monotonic() - began, snapshot))
            )

    assert [snapshot for _, snapshot in taken] == list(observation.snapshots)
    # Where a sample takes long, the early second one is left out.
    assert len(observation.samples) == len(observation.snapshots) in (2, 3)
    assert taken[0][0] < SHORT
    assert SHORT <= taken[-1][0] < SHORT + 2 * PATIENCE
    assert observation.interval == 1.0
    assert observation.server is not None
    assert observation.server.usable == 17
    assert observation.sources == (Source("postgres", server.target),)
    survivors = [
        {(each.pid, each.transaction_at) for each in sample.clients if each.state == IN_TRANSACTION}
        for sample in observation.samples
    ]
    assert {pid for pid, _ in set.intersection(*survivors)} == {held}


def test_it_stops_on_request_and_keeps_what_it_has(sandbox: Sandbox) -> None:
    taken: list[Snapshot] = []
    began = time.monotonic()
    with observing(sandbox.direct_conninfo) as server, Sampler(server) as sampler:
        observation = sampler.observe(None, stop=lambda: len(taken) >= 2, on_snapshot=taken.append)

    assert len(observation.snapshots) == 2
    assert time.monotonic() - began < 20.0


def test_a_long_watch_keeps_only_the_newest(sandbox: Sandbox) -> None:
    taken: list[Snapshot] = []
    with observing(sandbox.direct_conninfo) as server, Sampler(server) as sampler:
        observation = sampler.observe(SHORT, interval=0.2, keep=2, on_snapshot=taken.append)

    assert len(taken) > 3
    assert list(observation.snapshots) == taken[-2:]


def test_all_samples_use_one_connection(sandbox: Sandbox) -> None:
    most, over = 0, threading.Event()
    query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{NAME}'"
    with connect(sandbox.admin_conninfo) as admin:
        # The backend of an earlier test's connection ends a moment after it.
        eventually(lambda: one(admin, query) == 0)

    def count() -> None:
        nonlocal most
        with connect(sandbox.admin_conninfo) as admin:
            while not over.is_set():
                most = max(most, int(str(one(admin, query))))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        with observing(sandbox.direct_conninfo) as server, Sampler(server) as sampler:
            sampler.observe(SHORT, interval=0.1)
    finally:
        over.set()
        counter.join()

    assert most == 1


def test_a_server_that_hangs_takes_nothing_from_the_others(sandbox: Sandbox) -> None:
    console = PgBouncer(str(sandbox.pooler_admin_conninfo))
    durations: list[float] = []
    last = time.monotonic()

    def note(_: Snapshot) -> None:
        nonlocal last
        durations.append(time.monotonic() - last)
        last = time.monotonic()

    with observing(sandbox.direct_conninfo) as server, Sampler(server, bouncers=[console]) as sampler:
        sampler.observe(0.0)
        sandbox.pause()
        try:
            last = began = time.monotonic()
            observation = sampler.observe(2.0, interval=0.5, on_snapshot=note)
            took = time.monotonic() - began
        finally:
            sandbox.resume()
        after = sampler.observe(0.0)

    assert observation.samples == ()
    assert all(snapshot.bouncers for snapshot in observation.snapshots)
    # One timeout, in the first sample; no other waits for it.
    assert PATIENCE <= max(durations) < 2 * PATIENCE
    assert sorted(durations)[-2] < PATIENCE
    assert took < 2.0 + PATIENCE
    assert {snapshot.refusal.by for snapshot in observation.snapshots if snapshot.refusal} == {"unreachable"}
    assert [source.ok for source in observation.sources] == [False, True]
    assert "no answer" in observation.sources[0].reason
    assert len(after.snapshots) == 1


def timed(sampler: Sampler, duration: float) -> tuple[Observation, float]:
    began = time.monotonic()
    return sampler.observe(duration), time.monotonic() - began


def test_a_first_answer_that_takes_longer_than_the_window_is_waited_for(sandbox: Sandbox) -> None:
    sandbox.pause()
    back = threading.Timer(2.0, sandbox.resume)
    back.start()
    try:
        with observing(sandbox.direct_conninfo) as server, Sampler(server) as sampler:
            observation, took = timed(sampler, 1.0)
    finally:
        back.join()

    assert observation.samples
    assert took < 1.0 + 2 * PATIENCE


def test_a_server_that_never_answers_is_given_up_in_time(sandbox: Sandbox) -> None:
    sandbox.pause()
    try:
        with observing(sandbox.direct_conninfo) as server, Sampler(server) as sampler:
            observation, took = timed(sampler, 0.5)
            awaits = sampler.awaits_server
    finally:
        sandbox.resume()

    assert observation.samples == ()
    assert awaits
    assert 0.5 + PATIENCE <= took < 0.5 + 2 * PATIENCE


def test_a_server_that_is_cut_off_is_sampled_again_after_the_gap() -> None:
    with Sandbox.start(max_connections=10) as sandbox, observing(sandbox.direct_conninfo) as server:
        cut = threading.Timer(0.6, sandbox.fail_over)
        with Sampler(server) as sampler:
            cut.start()
            observation = sampler.observe(3.0, interval=0.25)
        cut.join()

    assert observation.snapshots[0].server is not None
    assert observation.last.server is not None
    restarted = {sample.started_at for sample in observation.samples}
    assert len(restarted) == 2
    assert observation.sources[0].ok


def test_a_server_that_dies_for_good_is_refused_from_then_on() -> None:
    with Sandbox.start(max_connections=10) as sandbox, observing(sandbox.direct_conninfo) as server:
        cut = threading.Timer(0.5, sandbox.stop)
        with Sampler(server) as sampler:
            cut.start()
            observation = sampler.observe(3.0)
        cut.join()

    assert len(observation.samples) >= 1
    assert observation.last.server is None
    refusals = [snapshot.refusal for snapshot in observation.snapshots if snapshot.refusal is not None]
    assert {(each.by, each.text) for each in refusals} == {("unreachable", "Connection refused")}
    assert observation.server is not None
    assert observation.sources == (
        Source("postgres", f"127.0.0.1:{sandbox_port(server.target)}/app", ok=False, reason="Connection refused"),
    )


def sandbox_port(target: str) -> str:
    return target.partition(":")[2].partition("/")[0]


def test_the_host_is_sampled_with_the_backends_of_the_server(sandbox: Sandbox) -> None:
    with (
        Clients(sandbox.direct_conninfo) as clients,
        observing(sandbox.direct_conninfo) as server,
        Sampler(server, host=Host) as sampler,
    ):
        clients.idle()
        observation = sampler.observe(0.0)

    assert observation.first.host is not None
    assert [source.kind for source in observation.sources] == ["postgres", "host"]


class SlowHost(Host):
    """A machine without a core to spare."""

    def sample(self, server: ServerSample | None, facts: ServerFacts | None) -> HostSample | None:
        time.sleep(1.4)
        return super().sample(server, facts)


def test_a_host_that_is_slow_at_first_is_waited_for_at_the_end(sandbox: Sandbox) -> None:
    with observing(sandbox.direct_conninfo) as server, Sampler(server, host=SlowHost) as sampler:
        observation, took = timed(sampler, 1.0)

    assert observation.last.host is not None
    assert took < 1.0 + 2 * PATIENCE


class Broken:
    """A source with a mistake in it."""

    source = Source("pool-stats", "http://shop/metrics")

    def sample(self) -> None:
        raise ZeroDivisionError("division by zero")

    def close(self) -> None:
        """Nothing to close."""


def test_a_mistake_in_one_source_costs_one_line(sandbox: Sandbox) -> None:
    with observing(sandbox.direct_conninfo) as server, Sampler(server, pools=[Broken()]) as sampler:
        observation = sampler.observe(SHORT)

    assert len(observation.samples) in (2, 3)
    assert observation.sources[1] == Source(
        "pool-stats", "http://shop/metrics", ok=False, reason="ZeroDivisionError: division by zero"
    )


def test_without_any_server_the_other_sources_are_asked_all_the_same(sandbox: Sandbox) -> None:
    console = PgBouncer(str(sandbox.pooler_admin_conninfo))
    with Sampler(bouncers=[console]) as sampler:
        observation = sampler.observe(0.0)

    assert observation.first.server is None
    assert observation.first.refusal is None
    assert len(observation.first.bouncers) == 1


def test_nothing_is_asked_of_sources_that_are_only_opened_and_closed() -> None:
    sampler = Sampler(pools=[Broken()], host=Host)
    sampler.close()

    assert [source.reason for source in sampler.observation.sources] == ["", ""]
    assert sampler.observation.sources[1] == HOST


def test_a_live_observation_reads_the_same_from_its_recording(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "night.jsonl"
    with (
        Clients(sandbox.direct_conninfo) as clients,
        observing(sandbox.direct_conninfo) as server,
        Sampler(server, bouncers=[PgBouncer(str(sandbox.pooler_admin_conninfo))]) as sampler,
        RecordingWriter(path, show_literals=True) as recorder,
    ):
        clients.in_transaction()
        clients.busy("SELECT pg_sleep(60), 'Ann' /*route='/orders'*/")
        observation = sampler.observe(SHORT, on_snapshot=lambda snapshot: recorder.write(snapshot, sampler.observation))
        recorder.note(observation)

    assert read_recording(path) == (observation, "")
