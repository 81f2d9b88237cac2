"""What a pool counts, and when it calls itself exhausted."""

from virtual import VirtualTime, fill, new_pool


def test_those_who_gave_up_are_not_waiting() -> None:
    pool = new_pool(max_open=1)
    (holder,) = fill(pool, 1)
    for waiter in range(5):
        pool.acquire(waiter, 0.0)
    for waiter in range(5):
        pool.give_up(waiter, 1.0)

    stats = pool.stats(1.0)
    assert (stats.waiting, stats.queued_count, stats.queued_time) == (0, 5, 5.0)
    assert pool.release(holder, 2.0) == []


def test_every_closing_is_counted_by_its_reason() -> None:
    virtual = VirtualTime(new_pool(max_idle=1, max_lifetime=3.0, max_idle_time=2.0))
    for request in range(4):
        virtual.acquire(request)
    virtual.release(0, broken=True)
    virtual.release(1)
    virtual.release(2)
    virtual.run(10.0)
    virtual.release(3)
    virtual.acquire("last", 0.0)
    virtual.run(10.0)
    for connection in virtual.pool.drop_idle():
        virtual.pool.closed(connection, 10.0)

    closed = virtual.pool.stats(10.0).closed
    assert (closed.error, closed.max_idle, closed.max_idle_time, closed.max_lifetime, closed.other) == (1, 1, 1, 1, 1)
    assert virtual.pool.stats(10.0).opened == closed.total == 5


def test_in_use_time_and_open_time_are_the_areas_under_what_was_held_and_open() -> None:
    virtual = VirtualTime(new_pool(max_open=2, max_idle=1), connect_time=0.5, close_time=0.25)
    virtual.acquire("a", 1.0)
    virtual.acquire("b", 2.0)
    virtual.acquire("c", 4.0)
    virtual.run(10.0)

    stats = virtual.pool.stats(10.0)
    # a and b open until 0.5; a's goes to c at 1.5 until 5.5; b's goes idle at 2.5, so c's is closed until 5.75.
    assert [virtual.served[request].at for request in "abc"] == [0.5, 0.5, 1.5]
    assert stats.in_use_time == 1.0 + 2.0 + 4.0
    assert stats.open_time == 10.0 + 5.75
    assert (stats.peak_open, stats.peak_in_use) == (2, 2)


def test_a_stale_connection_was_never_in_use() -> None:
    virtual = VirtualTime(new_pool(max_idle=1, max_lifetime=1.0))
    virtual.acquire("first", 0.5)
    virtual.run()
    # Before the cleaner's tick at 1.5 s.
    virtual.at(1.25, lambda: virtual.acquire("second", 0.5))
    virtual.run(20.0)

    assert virtual.pool.stats(20.0).in_use_time == 1.0
    assert virtual.pool.stats(20.0).peak_in_use == 1


def test_exhaustion_lasts_from_the_first_waiter_until_the_last_is_served() -> None:
    virtual = VirtualTime(new_pool(max_open=1))
    virtual.acquire("holder", 5.0)
    virtual.at(1.0, lambda: virtual.acquire("a", 5.0))
    virtual.at(2.0, lambda: virtual.acquire("b", 5.0))
    virtual.run(7.0)
    during = virtual.pool.stats(7.0)
    virtual.run(60.0)
    after = virtual.pool.stats(60.0)

    assert (during.exhausted_at, during.exhausted_since, during.recovered_at) == (1.0, 1.0, None)
    assert during.exhausted_time == 6.0
    assert (after.exhausted_at, after.exhausted_since, after.recovered_at) == (1.0, None, 10.0)
    assert after.exhausted_time == 9.0


def test_a_second_exhaustion_keeps_the_first_start_and_is_not_recovered_from() -> None:
    virtual = VirtualTime(new_pool(max_open=1))
    virtual.acquire("a", 2.0)
    virtual.acquire("b", 2.0)
    virtual.run(10.0)
    virtual.acquire("c")
    virtual.acquire("d")

    stats = virtual.pool.stats(13.0)
    assert (stats.exhausted_at, stats.exhausted_since, stats.recovered_at) == (0.0, 10.0, None)
    assert stats.exhausted_time == 2.0 + 3.0


def test_a_leaked_pool_does_not_recover_because_those_who_waited_gave_up() -> None:
    virtual = VirtualTime(new_pool(max_open=1))
    virtual.acquire("leaks")
    virtual.acquire("waiter", patience=1.0)
    virtual.run(30.0)

    stats = virtual.pool.stats(30.0)
    assert stats.waiting == 0
    assert (stats.exhausted_at, stats.recovered_at, stats.exhausted_time) == (0.0, None, 30.0)
    virtual.release("leaks")
    assert virtual.pool.stats(31.0).recovered_at == 30.0


def test_a_pool_that_rejects_is_exhausted_until_a_connection_or_a_slot_is_free() -> None:
    for broken in (False, True):
        pool = new_pool("psycopg2", max_open=1, max_idle=1)
        (holder,) = fill(pool, 1)
        pool.acquire("second", 1.0)
        during = pool.stats(2.0)
        for action in pool.release(holder, 3.0, broken=broken):
            assert pool.closed(action.connection, 3.0) == []  # type: ignore[union-attr]

        assert (during.exhausted_at, during.recovered_at, during.queued_count) == (1.0, None, 0)
        assert pool.stats(4.0).recovered_at == 3.0


def test_waiting_for_an_opening_below_max_open_is_no_exhaustion() -> None:
    virtual = VirtualTime(new_pool("psycopg_pool", max_open=2), connect_time=1.0)
    virtual.acquire("a")
    virtual.run(0.5)
    virtual.acquire("b")
    virtual.run(1.5)
    below = virtual.pool.stats(1.5)
    virtual.acquire("c")
    virtual.run(3.0)

    assert (below.waiting, below.exhausted_at) == (1, None)
    assert virtual.pool.stats(3.0).exhausted_at == 1.5


def test_raising_max_open_ends_an_exhaustion_when_nobody_waits() -> None:
    pool = new_pool(max_open=1)
    fill(pool, 1)
    pool.acquire("waiter", 0.0)
    pool.give_up("waiter", 1.0)
    pool.set_max_open(2, 5.0)

    assert pool.stats(6.0).recovered_at == 5.0
