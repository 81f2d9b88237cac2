"""When the cleaner runs, and what it closes."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from virtual import VirtualTime, acquire_open, fill, new_pool

from poolctl.pool import Close, Open


@pytest.mark.parametrize(
    ("limits", "first_tick"),
    [
        ({"max_idle_time": 0.1}, 1.0),
        ({"max_lifetime": 7.0}, 7.0),
        ({"max_lifetime": 7.0, "max_idle_time": 3.0}, 3.0),
        ({"max_lifetime": 2.0, "max_idle_time": 3.0}, 2.0),
    ],
)
def test_the_cleaner_starts_with_a_return_and_sleeps_for_the_shortest_limit_or_a_second(
    limits: dict[str, Any], first_tick: float
) -> None:
    pool = new_pool(**limits)
    (connection,) = fill(pool, 1)
    assert pool.clean_at is None
    pool.release(connection, 0.0)

    assert pool.clean_at == first_tick


def test_without_limits_no_cleaner_runs() -> None:
    pool = new_pool()
    for connection in fill(pool, 2):
        pool.release(connection, 0.0)

    assert pool.clean_at is None
    assert pool.clean(9.0) == []


def test_the_cleaner_stops_when_nothing_is_open_and_starts_again_with_the_next_return() -> None:
    virtual = VirtualTime(new_pool(max_idle_time=2.0))
    virtual.acquire("first", 0.0)
    virtual.run(10.0)
    assert virtual.pool.clean_at is None
    virtual.acquire("second", 0.0)
    virtual.run(20.0)

    assert virtual.closed_at == [2.0, 12.0]


def test_the_cleaner_never_runs_twice_within_a_second() -> None:
    virtual = VirtualTime(new_pool(max_idle=9, max_idle_time=2.0))
    for number in range(9):
        virtual.acquire(number, number / 8)
    virtual.run(10.0)

    assert virtual.closed_at == [2.0] + [3.0] * 8


@settings(deadline=None)
@given(limit=st.floats(2.0, 1000.0), share=st.floats(0.0, 1.0), name=st.sampled_from(["max_lifetime", "max_idle_time"]))
@example(limit=3.3, share=0.1, name="max_idle_time")
def test_the_cleaner_is_not_a_second_late_because_of_rounding(limit: float, share: float, name: str) -> None:
    later = 1.0 + share * (limit - 1.0)
    limits: dict[str, Any] = {name: limit}
    pool = new_pool(**limits)
    first = acquire_open(pool, "first", 0.0)
    opening = pool.acquire("second", 0.0)
    assert isinstance(opening, Open)
    second = opening.connection
    pool.release(first, 0.0)
    pool.opened(second, later)
    pool.release(second, later)

    assert pool.clean_at == limit
    assert pool.clean(limit)[1:] == [Close(first)]
    assert pool.clean_at == later + limit
    assert pool.clean(later + limit)[1:] == [Close(second)]


def test_idle_time_is_counted_before_lifetime_when_both_have_passed() -> None:
    virtual = VirtualTime(new_pool(max_lifetime=2.0, max_idle_time=2.0))
    virtual.acquire("first", 0.0)
    virtual.run(5.0)

    assert (virtual.pool.stats(5.0).closed.max_idle_time, virtual.pool.stats(5.0).closed.max_lifetime) == (1, 0)


def test_a_lifetime_is_counted_from_the_opening_and_not_from_the_return() -> None:
    virtual = VirtualTime(new_pool(max_lifetime=3.0))
    virtual.acquire("starts the cleaner", 0.0)
    virtual.acquire("comes back late", 2.0)
    virtual.run(10.0)

    assert virtual.closed_at == [3.0, 3.0]


def test_the_cleaner_leaves_connections_in_use_alone() -> None:
    virtual = VirtualTime(new_pool(max_lifetime=2.0))
    virtual.acquire("holder")
    virtual.acquire("other", 0.0)
    virtual.run(10.0)

    assert virtual.closed_at == [2.0]
    assert virtual.pool.stats(10.0).in_use == 1
