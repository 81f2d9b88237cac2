"""What the presets of real libraries do, and what their settings mean."""

from typing import Any

import pytest
from virtual import VirtualTime, fill, new_pool

from poolctl.pool import LIBRARIES, Alarm, Close, HandOver, Open, PoolSettings, Use, Wait


def test_a_lifetime_that_only_the_release_looks_at_hands_out_what_is_older() -> None:
    pool = new_pool("psycopg_pool", max_open=1, max_idle=1, max_lifetime=1.0)
    waits = pool.acquire("first", 0.0)
    assert isinstance(waits, Wait)
    (opening,) = waits.actions
    assert isinstance(opening, Open)
    connection = opening.connection
    assert pool.opened(connection, 0.0) == [HandOver("first", connection)]
    pool.release(connection, 0.5)

    assert pool.clean_at is None
    assert pool.acquire("late", 2.04) == Use(connection)
    assert pool.release(connection, 2.1) == [Close(connection)]


def test_a_lifetime_that_only_the_acquire_looks_at_leaves_idle_connections_open() -> None:
    pool = new_pool("sqlalchemy", max_open=2, max_idle=2, max_lifetime=1.0)
    (connection,) = fill(pool, 1)

    assert pool.release(connection, 5.0) == []
    assert pool.clean_at is None
    answer = pool.acquire("next", 500.0)
    assert isinstance(answer, Open)
    assert answer.instead_of is connection


def test_a_background_opener_opens_for_one_waiter_after_the_other() -> None:
    # psycopg_pool with one connection ready and 0.3 s an opening served 6 callers at these times.
    virtual = VirtualTime(new_pool("psycopg_pool", max_open=6, max_idle=6), connect_time=0.3)
    virtual.acquire("warms one", 0.0)
    virtual.run()
    start = virtual.now
    for caller in range(6):
        virtual.acquire(caller)
    virtual.run()

    waits = [virtual.served[caller].at - start for caller in range(6)]
    assert waits == pytest.approx([0.0, 0.3, 0.6, 0.9, 1.2, 1.5])


def test_psycopg_pool_replaces_a_broken_connection_at_once_also_while_it_grows() -> None:
    # psycopg_pool 3.3, pool.py, _return_connection: each gets an AddConnection of its own.
    virtual = VirtualTime(new_pool("psycopg_pool", max_open=3, max_idle=3), connect_time=1.0)
    virtual.acquire("holder")
    virtual.run()
    for waiter in "abc":
        virtual.acquire(waiter)
    virtual.release("holder", broken=True)

    assert virtual.pool.stats(1.0).opening == 2
    virtual.run()
    assert sorted(virtual.served[waiter].at for waiter in "abc") == [2.0, 2.0, 3.0]


def test_dbcp2_opens_and_closes_one_connection_before_its_first_acquire_and_all_wait_for_it() -> None:
    virtual = VirtualTime(new_pool("dbcp2", max_open=4, max_idle=4), connect_time=1.0)
    for caller in "abc":
        virtual.acquire(caller)
    virtual.run()

    assert [virtual.served[caller].at for caller in "abc"] == [2.0, 2.0, 2.0]
    assert (virtual.pool.stats(2.0).opened, virtual.pool.stats(2.0).closed.other) == (4, 1)


def test_c3p0_serves_the_waiter_that_came_last() -> None:
    virtual = VirtualTime(new_pool("c3p0", max_open=1))
    virtual.acquire("holder", 1.0)
    virtual.run(0.5)
    for waiter in "abc":
        virtual.acquire(waiter, 1.0)
    virtual.run()

    assert sorted("abc", key=lambda waiter: virtual.served[waiter].at) == ["c", "b", "a"]


def test_c3p0_opens_again_what_failed_when_a_helper_thread_has_time() -> None:
    pool = new_pool("c3p0", max_open=4)
    answer = pool.acquire("a", 0.0)
    assert isinstance(answer, Wait)
    opening = [action.connection for action in answer.actions if isinstance(action, Open)]
    assert len(opening) == 3
    (again,) = pool.open_failed(opening[0], 0.5, OSError())
    for waiter in "bcd":
        pool.acquire(waiter, 0.6)

    assert isinstance(again, Alarm)
    assert again.ring(1.5) == []
    assert Open(opening[0]) in pool.opened(opening[1], 2.0)


def test_psycopg2_opens_81_connections_in_20_rounds_of_5_when_it_keeps_1() -> None:
    # psycopg2 itself: 80, after the one that it opens at the start.
    virtual = VirtualTime(new_pool("psycopg2", max_open=5, max_idle=1))
    virtual.feed(sorted([*range(20)] * 5), 0.5)
    virtual.run()

    assert virtual.pool.stats(virtual.now).opened == 81


def test_sqlalchemy_opens_42_connections_for_60_uses_when_it_keeps_2_of_6() -> None:
    virtual = VirtualTime(new_pool("sqlalchemy", max_open=6, max_idle=2))
    virtual.feed(sorted([*range(10)] * 6), 0.5)
    virtual.run()

    assert virtual.pool.stats(virtual.now).opened == 42


def test_the_101st_leaking_request_is_the_first_that_psycopg2_rejects() -> None:
    virtual = VirtualTime(new_pool("psycopg2", max_open=100, max_idle=10))
    for request in range(1000):
        virtual.acquire(request)

    assert min(virtual.rejected) == 100  # type: ignore[type-var]
    assert (len(virtual.served), len(virtual.rejected)) == (100, 900)


@pytest.mark.parametrize("field", ["max_open", "max_idle", "min_idle", "max_lifetime", "max_idle_time"])
def test_a_negative_setting_is_refused_by_its_name(field: str) -> None:
    setting: dict[str, Any] = {field: -1}
    with pytest.raises(ValueError, match=field):
        PoolSettings(**setting)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_time_that_is_no_time_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="acquire_timeout"):
        PoolSettings(acquire_timeout=value)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_the_defaults_of_every_kind_are_accepted_by_that_kind(kind: str) -> None:
    settings = LIBRARIES[kind].complete({})

    assert list(LIBRARIES[kind].problems(settings)) == []
    assert settings.kind == kind
    assert settings == LIBRARIES[kind].defaults


def test_psycopg_pool_without_max_open_is_fixed_at_min_idle_and_keeps_all_it_opened() -> None:
    settings = LIBRARIES["psycopg_pool"].complete({"min_idle": 7})

    assert (settings.max_open, settings.min_idle, settings.max_idle) == (7, 7, 7)


def test_a_small_max_open_lowers_the_defaults_below_it_and_leaves_alone_what_was_given() -> None:
    lowered = LIBRARIES["sqlalchemy"].complete({"max_open": 3})
    given = LIBRARIES["database/sql"].complete({"max_open": 1, "max_idle": 9})

    assert (lowered.max_open, lowered.max_idle) == (3, 3)
    assert given.max_idle == 9


def test_a_time_of_0_is_no_limit_for_go_and_use_once_for_psycopg_pool() -> None:
    go, psycopg = (LIBRARIES[kind].complete({"max_lifetime": 0.0}) for kind in ("database/sql", "psycopg_pool"))

    assert go.max_lifetime is None
    assert psycopg.max_lifetime == 0.0
