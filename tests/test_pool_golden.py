"""What Go's database/sql did with a fake driver (Go 1.27.3), number for number, in virtual time.

DBStats.InUse is our ``in_use + opening``; DBStats.OpenConnections is our ``open``.
"""

from collections import Counter
from random import Random
from typing import Any

import pytest
from virtual import VirtualTime, acquire_open, new_pool

from poolctl.pool import HandOver, Open, Pool, PoolSettings, Use, Wait


def test_g1_after_returning_1_2_3_the_next_one_is_3() -> None:
    pool = new_pool(max_idle=3)
    connections = [acquire_open(pool, request, 0.0) for request in (1, 2, 3)]
    for at, connection in enumerate(connections):
        pool.release(connection, 1.0 + at)

    assert pool.acquire(4, 5.0) == Use(connections[-1])


def test_g2_each_of_4_waiters_is_served_first_equally_often_in_400_runs() -> None:
    random = Random(2)
    first_served: Counter[object] = Counter()
    for _ in range(400):
        pool = Pool(PoolSettings(max_open=1), random)
        holder = acquire_open(pool, "holder", 0.0)
        for waiter in range(4):
            assert pool.acquire(waiter, 0.0) == Wait()
        (handed,) = pool.release(holder, 1.0)
        assert isinstance(handed, HandOver)
        first_served[handed.request] += 1

    chi_square = sum((first_served[waiter] - 100) ** 2 / 100 for waiter in range(4))
    # 0.1 % of fair draws exceed 16.27 (3 degrees of freedom); a fifo queue gives 1200.
    assert chi_square < 16.27


def test_g3_one_request_that_meets_4_expired_connections_closes_2_opens_1_and_leaves_2() -> None:
    virtual = VirtualTime(new_pool(max_idle=4, max_lifetime=0.1))
    for request in range(4):
        virtual.acquire(request, 0.01)
    virtual.run()
    virtual.at(0.5, lambda: virtual.acquire("exec"))
    virtual.run(0.9)

    stats = virtual.pool.stats(0.9)
    assert (stats.closed.max_lifetime, stats.opened, stats.idle, stats.in_use) == (2, 5, 2, 1)
    assert stats.closed.total == 2


def test_g4_an_expired_connection_that_is_returned_gives_the_waiter_a_new_one() -> None:
    virtual = VirtualTime(new_pool(max_open=1, max_lifetime=0.1), connect_time=0.001)
    virtual.acquire("holder", 0.2)
    virtual.at(0.001, lambda: virtual.acquire("waiter", 0.0))
    virtual.run()

    stats = virtual.pool.stats(virtual.now)
    assert virtual.served["waiter"].connection is not virtual.served["holder"].connection
    assert virtual.served["waiter"].waited == pytest.approx(0.201)
    assert stats.queued_count == 1
    assert stats.queued_time == pytest.approx(0.201)
    assert stats.closed.max_lifetime == 1


def test_g5_five_bursts_of_10_with_max_idle_2_open_42_connections_and_close_40() -> None:
    virtual = VirtualTime(new_pool(max_open=10, max_idle=2))
    for burst in range(5):
        for number in range(10):
            virtual.acquire((burst, number), 0.5)
        virtual.run()

    stats = virtual.pool.stats(virtual.now)
    assert (stats.opened, stats.closed.max_idle, stats.idle) == (42, 40, 2)


def test_g6_lowering_max_open_to_2_keeps_2_idle_and_closes_each_later_return_until_2_are_open() -> None:
    virtual = VirtualTime(new_pool(max_idle=3))
    for request in range(6):
        virtual.acquire(request)
    for request in range(3):
        virtual.release(request)
    for close in virtual.pool.set_max_open(2, 1.0):
        virtual.pool.closed(close.connection, 1.0)  # type: ignore[union-attr]
    lowered = virtual.pool.stats(1.0)
    open_after = []
    for request in (3, 4, 5):
        virtual.release(request)
        open_after.append(virtual.pool.stats(1.0).open)

    assert (lowered.idle, lowered.closed.max_idle, lowered.open) == (2, 1, 5)
    assert open_after == [4, 3, 2]
    # Go counts these nowhere; `other` is ours, so that the counters add up.
    assert virtual.pool.stats(1.0).closed == type(lowered.closed)(max_idle=1, other=3)


def test_g7_a_deadline_of_100_ms_on_a_full_pool_counts_one_wait_of_100_ms() -> None:
    virtual = VirtualTime(new_pool(max_open=1))
    virtual.acquire("holder")
    virtual.acquire("caller", patience=0.1)
    virtual.run()

    stats = virtual.pool.stats(virtual.now)
    assert virtual.gave_up == {"caller": 0.1}
    assert (stats.queued_count, stats.queued_time, stats.waiting) == (1, 0.1, 0)


def test_g8_an_opening_takes_the_only_slot_so_that_a_second_caller_waits() -> None:
    pool = new_pool(max_open=1)

    first, second = pool.acquire("first", 0.0), pool.acquire("second", 0.0)

    stats = pool.stats(0.0)
    assert isinstance(first, Open)
    assert second == Wait()
    assert stats.in_use + stats.opening == 1


def test_four_waiters_are_reopened_one_after_the_other_in_400_ms_and_four_direct_callers_in_100_ms() -> None:
    virtual = VirtualTime(new_pool(max_open=4), connect_time=0.1)
    for holder in range(4):
        virtual.acquire(holder)
    virtual.run()
    direct = [virtual.served[holder].waited for holder in range(4)]
    for waiter in "abcd":
        virtual.acquire(waiter)
    for holder in range(4):
        virtual.release(holder, broken=True)
    virtual.run()

    assert direct == [0.1] * 4
    assert sorted(virtual.served[waiter].waited for waiter in "abcd") == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_with_the_database_down_all_four_waiters_fail_one_opening_apart() -> None:
    virtual = VirtualTime(new_pool(max_open=4), connect_time=0.1)
    for holder in range(4):
        virtual.acquire(holder)
    virtual.run()
    for waiter in "abcd":
        virtual.acquire(waiter)
    virtual.is_down = True
    for holder in range(4):
        virtual.release(holder, broken=True)
    virtual.run()

    assert sorted(virtual.failed.values()) == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert set(virtual.failed) == set("abcd")
    assert virtual.pool.stats(virtual.now).open == 0


def test_queued_time_is_0_while_everybody_still_waits() -> None:
    pool = new_pool(max_open=1)
    acquire_open(pool, "holder", 0.0)
    pool.acquire("waiter", 0.0)

    assert pool.stats(60.0).queued_time == 0.0
    assert pool.stats(60.0).waiting == 1


def test_a_connection_idle_for_500_ms_is_handed_out_in_spite_of_a_max_idle_time_of_100_ms() -> None:
    pool = new_pool(max_idle_time=0.1)
    connection = acquire_open(pool, 1, 0.0)
    pool.release(connection, 0.0)

    assert pool.acquire(2, 0.5) == Use(connection)


@pytest.mark.parametrize("limits", [{"max_lifetime": 0.1}, {"max_idle_time": 0.1}])
def test_a_limit_of_100_ms_closes_after_1_s(limits: dict[str, Any]) -> None:
    virtual = VirtualTime(new_pool(**limits))
    virtual.acquire(1, 0.0)
    virtual.run(10.0)

    assert virtual.closed_at == [1.0]


def test_with_max_idle_time_2_s_returns_at_0_and_1_5_s_are_closed_at_2_00_and_3_50_s() -> None:
    virtual = VirtualTime(new_pool(max_idle_time=2.0))
    virtual.acquire("first", 0.0)
    virtual.acquire("second", 1.5)
    virtual.run(10.0)

    assert virtual.closed_at == [2.0, 3.5]


def test_20_connections_opened_together_are_closed_together() -> None:
    virtual = VirtualTime(new_pool(max_idle=20, max_lifetime=5.0))
    for request in range(20):
        virtual.acquire(request, 1.0)
    virtual.run(10.0)

    # The cleaner starts with the first return at 1 s, and sleeps for the lifetime first.
    assert virtual.closed_at == [6.0] * 20


def test_max_idle_stays_lowered_when_max_open_is_raised_again() -> None:
    pool = new_pool(max_idle=10)
    pool.set_max_open(5, 0.0)
    pool.set_max_open(20, 0.0)
    connections = [acquire_open(pool, request, 0.0) for request in range(10)]
    for connection in connections:
        pool.release(connection, 1.0)

    assert pool.stats(1.0).idle == 5


def test_lowering_max_idle_closes_the_most_recently_returned() -> None:
    pool = new_pool(max_idle=4)
    connections = [acquire_open(pool, request, 0.0) for request in (1, 2, 3, 4)]
    for at, connection in enumerate(connections):
        pool.release(connection, float(at))

    closing = pool.set_max_idle(2, 9.0)

    assert [close.connection for close in closing] == connections[2:]  # type: ignore[union-attr]
    assert pool.stats(9.0).closed.max_idle == 2


def test_idle_connections_are_still_handed_out_while_more_are_open_than_a_lowered_max_open() -> None:
    pool = new_pool(max_idle=2)
    connections = [acquire_open(pool, request, 0.0) for request in range(4)]
    for connection in connections[:2]:
        pool.release(connection, 0.0)
    pool.set_max_open(2, 0.0)

    assert pool.acquire("next", 1.0) == Use(connections[1])
    assert pool.stats(1.0).open == 4


def test_raising_max_open_wakes_no_waiter_and_newcomers_open_past_them() -> None:
    pool = new_pool(max_open=1)
    holder = acquire_open(pool, "holder", 0.0)
    pool.acquire("waiter", 0.0)

    assert pool.set_max_open(3, 1.0) == []
    assert isinstance(pool.acquire("newcomer", 1.0), Open)
    assert pool.stats(1.0).waiting == 1
    assert pool.release(holder, 2.0) == [HandOver("waiter", holder)]
