"""Time to exhaustion: a floor that rises is found hours before the limit, and loads that come and go are not."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from observations import NOW, codes

from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.floor import WHOLE_DAY, measure_floor
from poolctl.diagnose.live.follow import FLOOR_WIDTH, MOST_FLOORS, Follower
from poolctl.observe.snapshot import Backend, Floor, Observation, ServerFacts, ServerSample, Snapshot, Source

HOUR = 3600.0


def play(hours: float, floor: float, rise: float, swing: int, seed: int) -> list[tuple[float, int]]:
    """Connections each 5 s: a floor that rises by ``rise`` an hour, and up to ``swing`` that come and go."""
    chance = random.Random(seed)
    return [
        (NOW + at, int(floor + rise * at / HOUR) + int(chance.random() ** 2 * swing))
        for at in range(0, int(hours * HOUR), 5)
    ]


@pytest.mark.parametrize(("hours", "rise"), [(4.5, 1.0), (1.0, 6.0), (24.0, 0.25), (0.6, 30.0)])
@pytest.mark.parametrize("swing", [0, 5, 40])
def test_a_floor_that_rises_is_found_and_its_interval_holds_the_truth(hours: float, rise: float, swing: int) -> None:
    for seed in range(5):
        trend = measure_floor(play(hours, 20, rise, swing, seed))

        assert trend is not None
        assert trend.low * HOUR <= rise * 1.1
        assert trend.high * HOUR >= rise * 0.9
        likely, (early, late) = trend.estimate_time_left(50)
        assert early <= likely <= late


@pytest.mark.parametrize("hours", [0.6, 4.0, 24.0])
@pytest.mark.parametrize("swing", [0, 3, 40, 200])
def test_a_load_that_comes_and_goes_has_no_trend(hours: float, swing: int) -> None:
    assert [seed for seed in range(20) if measure_floor(play(hours, 20, 0.0, swing, seed))] == []


def count(hours: float, load: Callable[[float], float]) -> list[tuple[float, int]]:
    """Connections each minute: ``load`` of the hour, and a few that come and go."""
    chance = random.Random(1)
    return [(NOW + 60.0 * at, int(load(at / 60)) + int(chance.random() ** 2 * 4)) for at in range(int(hours * 60))]


@pytest.mark.parametrize("hours", [24.0, 30.0, 36.0, 48.0, 72.0])
@pytest.mark.parametrize("night", [0.0, 0.5])
def test_days_of_a_healthy_wave_have_no_trend_whenever_the_view_began(hours: float, night: float) -> None:
    def load(hour: float) -> float:
        wave = 0.5 - 0.5 * math.cos(2 * math.pi * hour / 24)
        return 20 + 60 * max(0.0, wave - night)

    rising = [began for began in range(24) if measure_floor(count(hours, lambda hour: load(hour + began)))]  # noqa: B023
    assert rising == []


@pytest.mark.parametrize("hours", [1.0, 6.0, 24.0, 72.0])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.4, 0.5])
def test_a_pool_that_grew_to_its_limit_and_stays_there_has_no_trend(hours: float, share: float) -> None:
    assert measure_floor(count(hours, lambda hour: min(40.0, 10 + 30 * hour / (share * hours)))) is None


@pytest.mark.parametrize("at", [(0.1,), (0.5,), (0.95,), (0.2, 0.5), (0.1, 0.2, 0.3)])
def test_deploys_that_end_with_more_connections_have_no_trend(at: tuple[float, ...]) -> None:
    for hours in (2.0, 24.0):
        assert measure_floor(count(hours, lambda hour: 20 + 8 * sum(hour >= each * hours for each in at))) is None  # noqa: B023


def test_a_leak_of_one_an_hour_shows_through_a_daily_wave_within_three_days() -> None:
    trend = measure_floor(count(72.0, lambda hour: 20 + hour + 15 - 15 * math.cos(2 * math.pi * hour / 24)))

    assert trend is not None
    assert trend.low * HOUR < 1.0 < trend.high * HOUR


def test_a_shorter_time_or_a_smaller_rise_says_nothing() -> None:
    assert measure_floor([]) is None
    assert measure_floor(play(0.4, 20, 100.0, 0, 1)) is None
    assert measure_floor(play(2.0, 20, 1.0, 0, 1)) is None
    assert measure_floor(play(5.0, 50, -3.0, 5, 1)) is None


def observe(hours: float, rise: float, used: int) -> Observation:
    """A live view that has gone on for ``hours``, of which the last minute is kept in full."""
    span = hours * HOUR
    floors = tuple(
        Floor(NOW - span + at, used - int(rise * (span - at) / HOUR)) for at in range(0, int(span), int(FLOOR_WIDTH))
    )
    rows = tuple(
        Backend(pid, "app", "app", "shop", "client backend", "10.0.0.1", 4000 + pid, NOW - 99.0, None, NOW - 90.0,
                NOW - 90.0, "idle", "Client", "ClientRead", "SELECT 1")
        for pid in range(1, used + 1)
    )  # fmt: skip
    snapshots = tuple(Snapshot(NOW + at, ServerSample(NOW + at, NOW - 9e5, rows)) for at in range(0, 60, 5))
    server = ServerFacts("db", "18.6", 180006, "ops", "app", 103, 3, can_see_all=True)
    return Observation(snapshots, server, (Source("postgres", "db"),), 5.0, floors=floors)


def test_one_connection_an_hour_is_reported_days_before_the_server_is_full() -> None:
    diagnosis = diagnose(observe(24.0, 1.0, 40))

    finding = diagnosis.findings[0]
    assert (finding.code, finding.severity, finding.confidence) == ("slots-low", "warning", "likely")
    assert "by 1 an hour" in finding.summary
    early, late = finding.evidence["exhausted_between"]
    assert 55 * HOUR < early <= late < 65 * HOUR
    server = next(limit for limit in diagnosis.limits if limit.scope == "server")
    assert server.exhausted_between == (early, late)


def test_a_rise_of_a_few_hours_may_be_that_of_a_morning() -> None:
    finding = diagnose(observe(5.0, 3.0, 40)).findings[0]

    assert (finding.code, finding.confidence) == ("slots-low", "undetermined")
    assert finding.decide_by is not None
    assert 5.0 * HOUR < WHOLE_DAY


def test_a_slow_rise_that_takes_months_is_advice() -> None:
    severities = {each.code: each.severity for each in diagnose(observe(48.0, 0.1, 30)).findings}

    assert severities["slots-low"] == "info"
    assert "slots-low" not in codes(diagnose(observe(48.0, 0.0, 30)))


def test_a_view_of_days_remembers_the_floor_of_what_it_forgot_in_bounded_memory() -> None:
    follower = Follower(most_samples=10)
    server = ServerFacts("db", "18.6", 180006, "ops", "app", 103, 3, can_see_all=True)
    about = Observation((), server, (Source("postgres", "db"),), 30.0)
    row = Backend(1, "app", "app", "shop", "client backend", "10.0.0.1", 4001, NOW, None, NOW, NOW, "idle")
    for number in range(2 * MOST_FLOORS + 500):
        at = NOW + 30.0 * number
        rows = tuple(replace(row, pid=pid) for pid in range(1, 4 + number // 600))
        follower.add(Snapshot(at, ServerSample(at, NOW - 900.0, rows)))

    kept, diagnosis = follower.diagnose(about)

    assert len(kept.snapshots) == 10
    assert 1_000 < len(kept.floors) <= MOST_FLOORS
    assert "slots-low" in {finding.code for finding in diagnosis.findings}
    assert diagnosis == diagnose(kept)


def test_the_floor_of_another_start_of_the_server_does_not_count() -> None:
    follower = Follower(most_samples=3)
    about = Observation((), None, (Source("postgres", "db"),), 5.0)
    row = Backend(1, "app", "app", "shop", "client backend", "10.0.0.1", 4001, NOW, None, NOW, NOW, "idle")
    for number in range(20):
        at = NOW + 60.0 * number
        follower.add(Snapshot(at, ServerSample(at, NOW - 900.0 if number < 16 else NOW + 950.0, (row,))))

    kept, _ = follower.diagnose(about)

    assert [floor.at for floor in kept.floors] == [NOW + 60.0 * 16]
