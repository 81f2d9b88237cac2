import json
from functools import reduce
from math import ceil
from operator import add
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.pool import Closed, PoolStats
from poolctl.scenario.histogram import Backlog, Histogram, Times
from poolctl.scenario.run import (
    ErrorKind,
    Generator,
    ObservedError,
    Tally,
    TimelinePoint,
    compute_ideal_waits,
    summarize,
)

SECONDS = st.lists(st.floats(0.0, 1e5, allow_subnormal=False), max_size=60)


def histogram(*seconds: float) -> Histogram:
    recorded = Histogram()
    for value in seconds:
        recorded.record(value)
    return recorded


def stats(**values: Any) -> PoolStats:
    gauges = {"max_open": 10, "open": 0, "in_use": 0, "idle": 0, "opening": 0, "waiting": 0}
    return PoolStats(**gauges | values)


def test_an_empty_histogram_tells_zeros() -> None:
    assert Times.of(Histogram()) == Times(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_one_time_is_every_percentile_of_itself() -> None:
    only = 0.0123456
    assert Times.of(histogram(only)) == Times(1, only, only, only, only, only, only, only)


def test_of_two_times_the_median_is_the_lower_and_the_rest_the_higher() -> None:
    times = Times.of(histogram(0.000_100, 0.000_200))

    assert (times.p50, times.p90, times.p99, times.max) == (0.000_1, 0.000_2, 0.000_2, 0.000_2)
    assert times.mean == pytest.approx(0.000_15)


def test_percentiles_are_nearest_ranks() -> None:
    hundred = histogram(*(microseconds / 1e6 for microseconds in range(1, 101)))

    assert [round(hundred.percentile(p) * 1e6) for p in (0, 1, 50, 50.5, 95, 99, 100)] == [1, 1, 50, 51, 95, 99, 100]


@settings(deadline=None)
@given(SECONDS.filter(bool), st.integers(0, 100))
def test_a_percentile_is_within_half_a_percent_or_a_microsecond_of_the_true_one(
    seconds: list[float], percent: int
) -> None:
    true = sorted(seconds)[max(1, ceil(len(seconds) * percent / 100)) - 1]

    assert histogram(*seconds).percentile(percent) == pytest.approx(true, rel=0.004, abs=1e-6)


@settings(deadline=None)
@given(SECONDS)
def test_count_total_and_maximum_are_exact(seconds: list[float]) -> None:
    recorded = histogram(*seconds)

    assert (recorded.count, recorded.max) == (len(seconds), max(seconds, default=0.0))
    # Added in order; from Python 3.12 on, sum() itself rounds better than that.
    assert recorded.total == reduce(add, seconds, 0.0)
    assert sum(recorded.counts) == len(seconds)


@settings(deadline=None)
@given(SECONDS, SECONDS)
def test_merged_histograms_are_the_histogram_of_both(ours: list[float], theirs: list[float]) -> None:
    merged, both = histogram(*ours), histogram(*ours, *theirs)
    merged.merge(histogram(*theirs))

    assert (merged.count, merged.max) == (both.count, both.max)
    assert merged.total == pytest.approx(both.total)
    assert [merged.percentile(p) for p in range(0, 101, 20)] == [both.percentile(p) for p in range(0, 101, 20)]


@given(
    st.lists(st.floats(0.0, 1e6) | st.integers(0, 10**7).map(lambda microseconds: microseconds / 1e6)),
    st.integers(0, 9),
)
def test_a_backlog_of_times_gives_the_histogram_of_one_record_after_the_other(times: list[float], first: int) -> None:
    together = Histogram()
    backlog = Backlog(together)

    backlog.values += times[:first]
    backlog.count()
    backlog.values += times[first:]
    backlog.settle()

    assert together.to_dict() == histogram(*times).to_dict()


@given(st.lists(st.integers(0, 10**15)))
def test_nanoseconds_count_as_the_seconds_that_they_are(times: list[int]) -> None:
    # In the middle of their microsecond, where no rounding moves them into another.
    together, each = Histogram(), histogram(*((time // 1000 + 0.5) / 1e6 for time in times))
    backlog = Backlog(together)
    backlog.count_nanoseconds(times)
    backlog.settle()

    assert (together.counts, together.count) == (each.counts, each.count)
    assert together.total == pytest.approx(sum(times) / 1e9)
    assert together.max == max(times, default=0) / 1e9


@settings(deadline=None)
@given(SECONDS)
def test_a_histogram_survives_json(seconds: list[float]) -> None:
    recorded = histogram(*seconds)
    again = Histogram.from_dict(json.loads(json.dumps(recorded.to_dict())))

    assert Times.of(again) == Times.of(recorded)
    again.record(1e6)
    assert again.percentile(100) == 1e6


def test_the_size_of_a_histogram_depends_on_the_largest_time_alone() -> None:
    many = histogram(*[3600.0] * 10_000)

    assert len(many.counts) < 5000


FULL = ErrorKind("pool", "PoolTimeout", None, "no connection")
REFUSED = ErrorKind("server", "TooManyConnections", "53300", "sorry, too many clients already")


def tally(acquired: int, wait_time: float) -> Tally:
    counted = Tally()
    counted.acquired, counted.released, counted.leaked = acquired, acquired - 2, 1
    counted.timed_out, counted.refused, counted.failed, counted.unfinished = 4, 3, 2, 1
    counted.released_in_time = acquired - 3
    counted.queued_count, counted.queued_time = 5, 2.5
    counted.wait_time = histogram(*[wait_time] * counted.offered)
    counted.use_time = histogram(*[0.5] * counted.released)
    counted.connect_time = histogram(0.005)
    return counted


def test_offered_is_the_sum_of_all_ways_an_acquire_ends() -> None:
    assert tally(20, 0.1).offered == 20 + 4 + 3 + 2 + 1


def test_an_error_is_counted_by_kind_with_its_first_time() -> None:
    counted = Tally()
    for kind, at in ((FULL, 5.0), (REFUSED, 1.0), (FULL, 2.0), (FULL, 7.0)):
        counted.error(kind, at)

    assert counted.errors == {FULL: (3, 2.0), REFUSED: (1, 1.0)}


def test_merged_tallies_add_up_and_keep_the_first_time_of_each_error() -> None:
    ours, theirs = tally(20, 0.1), tally(30, 0.3)
    ours.error(FULL, 5.0)
    theirs.error(FULL, 2.0)
    theirs.error(REFUSED, 3.0)
    ours.merge(theirs)

    assert (ours.acquired, ours.released, ours.released_in_time, ours.offered) == (50, 46, 44, 70)
    assert (ours.queued_count, ours.queued_time) == (10, 5.0)
    assert (ours.wait_time.count, ours.use_time.count, ours.connect_time.count) == (70, 46, 2)
    assert ours.errors == {FULL: (2, 2.0), REFUSED: (1, 3.0)}


def test_a_tally_survives_json() -> None:
    counted = tally(20, 0.1)
    counted.error(REFUSED, 1.5)
    again = Tally.from_dict(json.loads(json.dumps(counted.to_dict())))

    assert again.to_dict() == counted.to_dict()
    assert again.errors == counted.errors


def test_a_summary_of_two_instances_adds_their_counts_and_weighs_their_times() -> None:
    pools = [
        stats(open=3, in_use=2, idle=1, opened=8, closed=Closed(max_idle=4, error=1), open_failures=1),
        stats(open=2, in_use=0, idle=2, opened=5, closed=Closed(max_idle=2, max_lifetime=1)),
    ]
    first, second = tally(20, 0.1), tally(30, 0.3)
    second.error(FULL, 2.0)
    first.error(REFUSED, 1.0)
    summary = summarize([first, second], pools, load_time=10.0)

    assert summary.offered == 70
    assert summary.offered == (
        summary.acquired + summary.timed_out + summary.refused + summary.failed + summary.unfinished
    )
    assert (summary.throughput, summary.offered_rate, summary.duration) == (4.4, 7.0, 10.0)
    assert summary.wait_time.mean == pytest.approx((30 * 0.1 + 40 * 0.3) / 70)
    assert (summary.queued_count, summary.queued_time) == (10, 5.0)
    connections = summary.connections
    assert (connections.opened, connections.open_failures) == (13, 1)
    assert connections.closed == Closed(max_idle=6, max_lifetime=1, error=1)
    assert (connections.open, connections.in_use, connections.idle) == (5, 2, 3)
    assert connections.opened - connections.closed.total == connections.open
    # In the order in which they began.
    assert summary.errors == (ObservedError(REFUSED, 1, 1.0), ObservedError(FULL, 1, 2.0))


def test_averages_are_areas_divided_by_the_time_since_the_warm_up() -> None:
    end = [stats(open_time=100.0, in_use_time=40.0), stats(open_time=50.0, in_use_time=20.0)]
    warm = [stats(open_time=20.0, in_use_time=10.0), None]

    whole = summarize([], end, load_time=8.0, ended_at=10.0)
    warmed = summarize([], end, load_time=8.0, warm=warm, warm_at=2.0, ended_at=12.0)
    to_the_end_of_the_load = summarize([], end, load_time=8.0, warm=warm)

    assert (whole.connections.average_open, whole.connections.average_in_use) == (15.0, 6.0)
    assert (warmed.connections.average_open, warmed.connections.average_in_use) == (13.0, 5.0)
    assert to_the_end_of_the_load.connections.average_open == 130.0 / 8.0


def test_one_instance_knows_its_peaks_and_a_fleet_s_are_those_of_the_sampled_sum() -> None:
    points = [TimelinePoint(at, 7, 6, 1, 0, 0, 0, 0) for at in (0.1, 0.2)]
    one = summarize([], [stats(peak_open=5, peak_in_use=4)], load_time=1.0, timeline=points)
    two = summarize([], [stats(peak_open=5, peak_in_use=4), stats(peak_open=3)], load_time=1.0, timeline=points)
    unsampled = summarize([], [stats(peak_open=5), stats(peak_open=3)], load_time=1.0)

    assert (one.connections.peak_open, one.connections.peak_in_use) == (5, 4)
    assert (two.connections.peak_open, two.connections.peak_in_use) == (7, 6)
    assert unsampled.connections.peak_open == 5


@pytest.mark.parametrize(
    ("instances", "exhausted_at", "recovered_at"),
    [
        ([], None, None),
        ([(None, None, None), (None, None, None)], None, None),
        ([(3.0, None, 4.0), (None, None, None)], 3.0, 4.0),
        ([(3.0, None, 4.0), (1.0, None, 9.0)], 1.0, 9.0),
        # An exhaustion that lasts outweighs one that is over, and began when it did, not when the first one did.
        ([(3.0, 5.0, None), (1.0, None, 9.0)], 5.0, None),
        ([(3.0, 5.0, None), (1.0, 4.0, None)], 4.0, None),
    ],
)
def test_a_fleet_is_exhausted_from_the_first_instance_to_the_last(
    instances: list[tuple[float | None, float | None, float | None]],
    exhausted_at: float | None,
    recovered_at: float | None,
) -> None:
    snapshots = [
        stats(exhausted_at=first, exhausted_since=lasting, recovered_at=end) for first, lasting, end in instances
    ]
    summary = summarize([], snapshots, load_time=1.0)

    assert (summary.exhausted_at, summary.recovered_at) == (exhausted_at, recovered_at)
    assert summary.exhausted_for_good == (exhausted_at is not None and recovered_at is None)


def test_a_run_that_was_interrupted_before_its_load_began_has_rates_of_0() -> None:
    summary = summarize([tally(20, 0.1)], [stats(open_time=1.0)], load_time=0.0)

    assert (summary.throughput, summary.offered_rate, summary.connections.average_open) == (0.0, 0.0, 0.0)


def test_a_generator_says_why_it_was_the_limit() -> None:
    late = Times.of(histogram(*[0.0] * 90, *[0.02] * 10))

    assert Generator(Times(), cpu=0.5).bound_by == ()
    assert Generator(late, cpu=0.5).bound_by == ("requests began 20.0 ms late at the 99th percentile",)
    assert Generator(late, cpu=0.9).bound_by[1:] == ("an instance's process used 90 % of a core",)


def test_ideal_waits_of_one_server_are_those_of_a_queue_worked_by_hand() -> None:
    assert compute_ideal_waits([0.0, 1.0, 2.0, 10.0], [3.0, 1.0, 1.0, 1.0], 1) == [0.0, 2.0, 2.0, 0.0]


def test_ideal_waits_of_two_servers_take_the_one_that_is_free_first() -> None:
    assert compute_ideal_waits([0.0, 0.0, 1.0, 1.0], [5.0, 2.0, 4.0, 1.0], 2) == [0.0, 0.0, 1.0, 4.0]


def test_ideal_waits_need_as_many_use_times_as_requests() -> None:
    with pytest.raises(ValueError, match="zip"):
        compute_ideal_waits([0.0, 1.0], [1.0], 1)
