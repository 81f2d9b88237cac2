"""The rules of the pool, one a test. What Go did in figures is in test_pool_golden.py."""

from random import Random
from typing import Literal

import pytest
from virtual import VirtualTime, fill, new_pool

from poolctl.pool import Close, Fail, HandOver, Open, Pool, PoolRules, PoolSettings, Reject, Stale, Use, Wait


def test_lifo_acquires_the_last_released_and_fifo_the_one_idle_longest() -> None:
    acquired = {}
    orders: tuple[Literal["lifo", "fifo"], ...] = ("lifo", "fifo")
    for order in orders:
        pool = new_pool(max_idle=3, rules=PoolRules(idle_order=order))
        connections = fill(pool, 3)
        for at, connection in enumerate(connections):
            pool.release(connection, float(at))
        answer = pool.acquire("next", 9.0)
        assert isinstance(answer, Use)
        acquired[order] = connections.index(answer.connection)

    assert acquired == {"lifo": 2, "fifo": 0}


def test_fifo_waiters_are_served_in_the_order_they_came() -> None:
    virtual = VirtualTime(new_pool(max_open=1, rules=PoolRules(waiter_order="fifo")))
    virtual.acquire("holder", 1.0)
    for waiter in range(20):
        virtual.acquire(waiter, 1.0)
    virtual.run()

    assert [virtual.served[waiter].at for waiter in range(20)] == [float(1 + waiter) for waiter in range(20)]


def test_random_waiters_are_served_in_an_order_that_the_seed_repeats() -> None:
    def order(seed: int) -> list[object]:
        virtual = VirtualTime(new_pool(max_open=1, seed=seed))
        virtual.acquire("holder", 1.0)
        for waiter in range(8):
            virtual.acquire(waiter, 1.0)
        virtual.run()
        return sorted(range(8), key=lambda waiter: virtual.served[waiter].at)

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_random_choice_stays_uniform_after_others_gave_up() -> None:
    random = Random(5)
    served = dict.fromkeys(range(5), 0)
    for _ in range(3000):
        pool = Pool(PoolSettings(max_open=1), random)
        (holder,) = fill(pool, 1)
        for waiter in range(5):
            pool.acquire(waiter, 0.0)
        pool.give_up(0, 0.5)
        pool.give_up(3, 0.5)
        (handed,) = pool.release(holder, 1.0)
        assert isinstance(handed, HandOver)
        served[handed.request] += 1  # type: ignore[index]

    chi_square = sum((served[waiter] - 1000) ** 2 / 1000 for waiter in (1, 2, 4))
    assert served[0] == served[3] == 0
    # 0.1 % of fair draws exceed 13.82 (2 degrees of freedom).
    assert chi_square < 13.82


def test_a_full_pool_that_does_not_queue_rejects() -> None:
    pool = new_pool("psycopg2", max_open=1, max_idle=1)
    (holder,) = fill(pool, 1)

    assert pool.acquire("second", 0.0) == Reject()
    pool.release(holder, 1.0)
    assert pool.acquire("third", 1.0) == Use(holder)


def test_a_returned_connection_goes_to_a_waiter_although_max_idle_keeps_none() -> None:
    pool = new_pool(max_open=1, max_idle=0)
    (holder,) = fill(pool, 1)
    pool.acquire("waiter", 0.0)

    assert pool.release(holder, 1.0) == [HandOver("waiter", holder)]
    assert pool.release(holder, 2.0) == [Close(holder)]
    assert pool.stats(2.0).closed.max_idle == 1


def test_no_connection_is_kept_above_max_idle() -> None:
    pool = new_pool(max_idle=2)
    connections = fill(pool, 3)

    actions = [pool.release(connection, 1.0) for connection in connections]

    assert actions == [[], [], [Close(connections[2])]]


def test_max_idle_is_never_above_max_open() -> None:
    pool = new_pool(max_open=3, max_idle=9)
    pool.set_max_open(0, 0.0)
    for connection in fill(pool, 5):
        pool.release(connection, 1.0)

    assert pool.stats(1.0).idle == 3
    pool.set_max_open(4, 1.0)
    pool.set_max_idle(9, 1.0)
    pool.set_max_open(0, 1.0)
    for connection in fill(pool, 9, 2.0):
        pool.release(connection, 3.0)
    assert pool.stats(3.0).idle == 4


def test_an_expired_connection_is_stale_at_acquire_and_the_other_limits_do_not_matter_there() -> None:
    pool = new_pool(max_lifetime=10.0, max_idle_time=1.0)
    (connection,) = fill(pool, 1)
    pool.release(connection, 1.0)

    assert pool.acquire("at the limit", 10.0) == Use(connection)
    pool.release(connection, 10.0)
    assert pool.acquire("past the limit", 10.5) == Stale(connection)


def test_an_expired_connection_is_closed_when_it_is_released() -> None:
    pool = new_pool(max_lifetime=10.0)
    (connection,) = fill(pool, 1)

    assert pool.release(connection, 10.5) == [Close(connection)]
    assert pool.stats(10.5).closed.max_lifetime == 1


def test_after_two_stale_connections_a_request_insists_on_a_new_one() -> None:
    pool = new_pool(max_idle=3, max_lifetime=1.0)
    for connection in fill(pool, 3):
        pool.release(connection, 0.5)

    answers = [pool.acquire("request", 2.0, attempt) for attempt in range(3)]

    assert [type(answer) for answer in answers] == [Stale, Stale, Open]
    assert pool.stats(2.0).idle == 1


def test_a_request_that_insists_on_a_new_connection_waits_even_beside_an_idle_one_until_the_next_return() -> None:
    pool = new_pool(max_open=2, max_idle=2)
    idle, busy = fill(pool, 2)
    pool.release(idle, 0.0)

    assert pool.acquire("insists", 1.0, attempt=2) == Wait()
    assert (pool.stats(1.0).idle, pool.stats(1.0).waiting) == (1, 1)
    assert pool.release(busy, 2.0) == [HandOver("insists", busy)]


def test_callers_below_max_open_open_at_the_same_time() -> None:
    pool = new_pool(max_open=3)

    answers = [pool.acquire(request, 0.0) for request in range(4)]

    assert [type(answer) for answer in answers] == [Open, Open, Open, Wait]
    assert pool.stats(0.0).opening == 3


def test_a_failed_opening_of_the_caller_frees_the_slot_for_a_waiter() -> None:
    pool = new_pool(max_open=1)
    opening = pool.acquire("caller", 0.0)
    assert isinstance(opening, Open)
    pool.acquire("waiter", 0.0)

    (replacement,) = pool.open_failed(opening.connection, 1.0, OSError())

    assert isinstance(replacement, Open)
    assert replacement.connection.request is None
    assert pool.opened(replacement.connection, 2.0) == [HandOver("waiter", replacement.connection)]


def test_a_failed_background_opening_gives_its_error_to_one_waiter_and_goes_on_for_the_rest() -> None:
    pool = new_pool(max_open=1)
    (holder,) = fill(pool, 1)
    pool.acquire("a", 0.0)
    pool.acquire("b", 0.0)
    pool.release(holder, 1.0, broken=True)
    (opening,) = pool.closed(holder, 1.0)
    assert isinstance(opening, Open)
    error = ConnectionRefusedError()

    failed, again = pool.open_failed(opening.connection, 2.0, error)

    assert isinstance(failed, Fail)
    assert failed.error is error
    assert isinstance(again, Open)
    (handed,) = pool.opened(again.connection, 3.0)
    assert isinstance(handed, HandOver)
    assert {failed.request, handed.request} == {"a", "b"}


def test_the_slot_of_a_closing_connection_is_free_only_when_it_is_closed() -> None:
    pool = new_pool(max_open=1, max_idle=0)
    (holder,) = fill(pool, 1)
    assert pool.release(holder, 1.0) == [Close(holder)]
    assert pool.acquire("waiter", 1.5) == Wait()
    assert pool.stats(1.5).in_use == 1

    (opening,) = pool.closed(holder, 2.0)

    assert isinstance(opening, Open)


def test_a_background_opening_that_nobody_wants_any_more_frees_its_slot_before_it_is_closed() -> None:
    pool = new_pool(max_open=1, max_idle=0)
    (holder,) = fill(pool, 1)
    pool.acquire("waiter", 0.0)
    pool.release(holder, 1.0, broken=True)
    (opening,) = pool.closed(holder, 1.0)
    assert isinstance(opening, Open)
    pool.give_up("waiter", 2.0)

    assert pool.opened(opening.connection, 3.0) == [Close(opening.connection)]
    assert pool.stats(3.0).open == 0
    assert pool.closed(opening.connection, 4.0) == []


def test_a_broken_return_opens_for_waiters_at_once_where_a_raised_max_open_leaves_room() -> None:
    pool = new_pool(max_open=1)
    (holder,) = fill(pool, 1)
    pool.acquire("waiter", 0.0)
    pool.set_max_open(2, 1.0)

    opening, closing = pool.release(holder, 2.0, broken=True)

    assert isinstance(opening, Open)
    assert closing == Close(holder)


def test_more_may_be_opened_than_needed_and_the_surplus_goes_idle_or_is_closed_by_max_idle() -> None:
    # sql.go, maybeOpenNewConnections, does not subtract the openings already ordered.
    virtual = VirtualTime(new_pool(max_open=6, max_idle=1), connect_time=0.1)
    for holder in range(6):
        virtual.acquire(holder)
    virtual.run()
    for waiter in "abc":
        virtual.acquire(waiter)
    for holder in range(6):
        virtual.release(holder, broken=True)
    virtual.run()

    stats = virtual.pool.stats(virtual.now)
    # Closing one after the other orders 1 and 2 openings for the first two slots, then up to 3 for each.
    assert stats.opened == 6 + 6
    assert (stats.in_use, stats.idle, stats.closed.max_idle) == (3, 1, 2)


def test_giving_up_without_waiting_raises() -> None:
    pool = new_pool(max_open=1)
    fill(pool, 1)
    pool.acquire("waiter", 0.0)

    with pytest.raises(KeyError, match="nobody"):
        pool.give_up("nobody", 1.0)
    assert pool.stats(1.0).waiting == 1


def test_waiting_twice_or_as_none_raises_and_changes_nothing() -> None:
    pool = new_pool(max_open=1)
    with pytest.raises(ValueError, match="cannot be None"):
        pool.acquire(None, 0.0)
    fill(pool, 1)
    pool.acquire("waiter", 0.0)
    before = pool.stats(1.0)

    for request in ("waiter", None):
        with pytest.raises(ValueError, match="cannot be None, nor wait twice"):
            pool.acquire(request, 1.0)

    assert pool.stats(1.0) == before


def test_releasing_what_is_not_in_use_raises() -> None:
    pool = new_pool(max_idle=1)
    opening = pool.acquire("caller", 0.0)
    assert isinstance(opening, Open)
    connection = opening.connection
    with pytest.raises(ValueError, match="opening, not in use"):
        pool.release(connection, 0.0)
    pool.opened(connection, 0.0)
    pool.release(connection, 1.0)
    with pytest.raises(ValueError, match="idle, not in use"):
        pool.release(connection, 1.0)
    pool.drop_idle()
    with pytest.raises(ValueError, match="closing, not in use"):
        pool.release(connection, 1.0)
    pool.closed(connection, 1.0)
    with pytest.raises(ValueError, match="gone, not in use"):
        pool.release(connection, 1.0)


def test_answers_that_contradict_what_was_asked_raise() -> None:
    pool = new_pool()
    (connection,) = fill(pool, 1)

    with pytest.raises(ValueError, match="in_use cannot become open"):
        pool.opened(connection, 1.0)
    with pytest.raises(ValueError, match="in_use cannot fail to open"):
        pool.open_failed(connection, 1.0, OSError())
    with pytest.raises(ValueError, match="in_use was not to be closed"):
        pool.closed(connection, 1.0)
