"""What a live view keeps: the diagnosis of the kept snapshots is the one from scratch, and they are bounded."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from observations import NOW
from test_diagnose_live_properties import facts, snapshots

from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.follow import LEAST_SAMPLES, Follower
from poolctl.observe.snapshot import (
    ABORTED,
    IN_TRANSACTION,
    Backend,
    BackendTitle,
    HostSample,
    Observation,
    PoolFigures,
    Refusal,
    ServerFacts,
    ServerSample,
    Snapshot,
    Source,
)

SERVER = ServerFacts("db", "18.6", 180006, "ops", "app", 20, 3, can_see_all=True)
STATES = ("idle", "active", IN_TRANSACTION, ABORTED)


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    """Backends that come, work, rest and go, and now and then a restart, a refusal, a clock that is set back."""
    rows: dict[int, Backend] = {}
    history: list[Snapshot] = []
    at, started = NOW, NOW - 900.0
    for _ in range(draw(st.integers(2, 14))):
        at += draw(st.sampled_from([1.0, 1.0, 1.0, 0.3, -2.0, 0.0]))
        if draw(st.integers(0, 12)) == 0:
            rows, started = {}, at - 0.5
        for pid in draw(st.sets(st.integers(1, 6), max_size=4)):
            if pid in rows and draw(st.integers(0, 5)) == 0:
                del rows[pid]
                continue
            state, age = draw(st.sampled_from(STATES)), draw(st.sampled_from([0.0, 0.2, 3.0, 40.0]))
            rows[pid] = Backend(
                pid,
                "app",
                "app",
                draw(st.sampled_from(["shop", "shop", "search"])),
                "client backend",
                "10.0.0.1",
                4000 + pid,
                started_at=rows[pid].started_at if pid in rows else at - 1.0,
                transaction_at=at - age - 0.1 if state != "idle" else None,
                query_at=at - age,
                state_at=at - age,
                state=state,
                wait_event_type="Client" if state != "active" else draw(st.sampled_from([None, "Lock", "IO"])),
                query="SELECT 1",
                virtual_transaction=f"{pid}/{int(at)}" if state != "idle" else None,
            )
        answers = draw(st.integers(0, 9)) > 0
        titles = tuple(BackendTitle(row.pid, "app", "app", "10.0.0.1", 4000 + row.pid, "idle") for row in rows.values())
        # A sample may miss a backend that the next one has again.
        missed = draw(st.sets(st.integers(1, 6), max_size=1))
        shown = tuple(row for pid, row in rows.items() if pid not in missed)
        figures = PoolFigures("file", "shop", "go", max_open=6, open=len(rows), in_use=len(rows), waiting=1)
        history.append(
            Snapshot(
                at,
                ServerSample(at, started, shown) if answers else None,
                None if answers else Refusal("server-slots", "sorry, too many clients already"),
                pools=(figures,) if draw(st.booleans()) else (),
                host=HostSample(True, titles) if draw(st.booleans()) else None,
            )
        )
    return history


def follow_and_compare(history: list[Snapshot], follower: Follower, server: ServerFacts | None) -> None:
    about = Observation((), server, (Source("postgres", "db"),), 1.0)
    for number, snapshot in enumerate(history, 1):
        follower.add(snapshot)
        kept, diagnosis = follower.diagnose(about)

        assert len(kept.snapshots) + follower.forgotten == number
        assert kept.snapshots == tuple(history[follower.forgotten : number])
        assert diagnosis == diagnose(kept)


limits = st.builds(Follower, st.integers(1, 8), st.sampled_from([4, 12, 10_000]), st.integers(1, 3))
thorough = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(histories(), limits)
def test_a_diagnosis_kept_up_to_date_is_the_one_from_scratch(history: list[Snapshot], follower: Follower) -> None:
    follow_and_compare(history, follower, SERVER)


@thorough
@given(st.lists(snapshots, min_size=1, max_size=5), limits, st.one_of(st.none(), facts))
def test_it_is_for_whatever_the_sources_answer(
    history: list[Snapshot], follower: Follower, server: ServerFacts | None
) -> None:
    follow_and_compare(history, follower, server)


def make_snapshot(number: int, states: list[str]) -> Snapshot:
    at = NOW + number
    rows = tuple(
        Backend(pid, "app", "app", "shop", "client backend", "10.0.0.1", 4000 + pid, NOW - 60.0, None, at, at, state)
        for pid, state in enumerate(states, 1)
    )
    return Snapshot(at, ServerSample(at, NOW - 900.0, rows))


def test_a_long_view_keeps_a_bounded_number_of_rows_and_counts_what_it_forgot() -> None:
    follower = Follower(most_rows=1_000)

    for number in range(60):
        follower.add(make_snapshot(number, ["active"] * 20))

    # Each of 20 backends weighs two in every sample: its row changed, and it is in use.
    assert len(follower.snapshots) == 1_000 // 40
    assert follower.forgotten == 60 - 25


def test_the_last_samples_stay_however_large_the_server_is() -> None:
    follower = Follower(most_rows=1_000)

    for number in range(20):
        follower.add(make_snapshot(number, ["active"] * 800))

    assert len(follower.snapshots) == LEAST_SAMPLES


def test_backends_that_rest_cost_nothing_more() -> None:
    first = make_snapshot(0, ["idle"] * 50)
    assert first.server is not None
    follower = Follower(most_samples=600, most_rows=100)

    for number in range(300):
        at = NOW + number
        follower.add(replace(first, at=at, server=replace(first.server, at=at)))

    assert len(follower.snapshots) == 300
