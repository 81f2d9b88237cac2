"""What Go's database/sql did with a fake driver (Go 1.27.3), through the model.

g1 to g8 are the cases of the same number in test_pool_golden.py, which drives the pool alone.
"""

from collections import Counter

import pytest
from modeled import constant, run

GO_10 = {"kind": "database/sql", "max_open": 10, "max_idle": 2}


def test_g1_the_last_one_returned_is_the_next_one_taken_so_that_the_others_age() -> None:
    done = run(
        pool={"max_open": 3, "max_idle": 3, "max_idle_time": "5s"},
        bursts=[{"at": 0, "workers": 3, "requests": 1}, {"at": 1, "workers": 1, "think": "1s"}],
        hold=constant(0.1),
        duration=20.0,
    )

    assert done.summary.connections.closed.max_idle_time == 2
    assert done.timeline[-2].open == 1


def test_g2_each_of_4_waiters_is_served_first_equally_often() -> None:
    # The waiter served first waits 1 s, and who that is decides nothing else: compare the spread of pairs of waits.
    first: Counter[int] = Counter()
    for seed in range(400):
        bursts = [{"at": 0, "workers": 1, "requests": 1, "hold": "1s"}] + [
            {"at": 0.1 * (n + 1), "workers": 1, "requests": 1, "hold": "10s"} for n in range(4)
        ]
        done = run(pool={"max_open": 1}, bursts=bursts, duration=2.0, drain=0, seed=seed)
        first[round((1.0 - done.summary.queued_time) * 10)] += 1

    assert set(first) == {1, 2, 3, 4}
    assert sum((number - 100) ** 2 / 100 for number in first.values()) < 16.27


def test_g3_one_request_that_meets_4_expired_connections_closes_2_and_opens_1() -> None:
    done = run(
        pool={"max_open": 10, "max_idle": 4, "max_lifetime": "100ms"},
        bursts=[
            {"at": 0, "workers": 4, "requests": 1, "hold": "10ms"},
            {"at": 0.5, "workers": 1, "requests": 1, "hold": "10s"},
        ],
        duration=0.9,
        drain=0,
    )

    made = done.summary.connections
    assert (made.closed.max_lifetime, made.opened, made.idle, made.in_use) == (2, 5, 2, 1)


def test_g4_an_expired_connection_that_is_returned_gives_the_waiter_a_new_one() -> None:
    done = run(
        database={"connect_time": 0.001},
        pool={"max_open": 1, "max_lifetime": "100ms"},
        bursts=[
            {"at": 0, "workers": 1, "requests": 1, "hold": "200ms"},
            {"at": 0.001, "workers": 1, "requests": 1, "hold": "10ms"},
        ],
        duration=1.0,
    )

    assert done.summary.queued_count == 1
    assert done.summary.queued_time == pytest.approx(0.201)
    assert done.summary.connections.closed.max_lifetime == 1
    assert done.summary.connections.opened == 2


def test_g5_five_bursts_of_10_with_max_idle_2_open_42_connections_and_close_40() -> None:
    bursts = [{"at": at, "workers": 10, "requests": 1, "hold": "500ms"} for at in range(5)]
    done = run(pool=GO_10, bursts=bursts, duration=10.0)

    made = done.summary.connections
    assert (made.opened, made.closed.max_idle, made.idle) == (42, 40, 2)


def test_g7_a_deadline_of_100_ms_on_a_full_pool_counts_one_wait_of_100_ms() -> None:
    done = run(
        pool={"max_open": 1, "acquire_timeout": "100ms"},
        bursts=[{"at": 0, "workers": 1, "requests": 1, "hold": "5s"}, {"at": 1, "workers": 1, "requests": 1}],
        duration=3.0,
    )

    assert (done.summary.queued_count, done.summary.timed_out) == (1, 1)
    assert done.summary.queued_time == pytest.approx(0.1)
    assert done.summary.errors[0].kind.message == "context deadline exceeded"


def test_g8_an_opening_takes_the_only_slot_so_that_a_second_caller_waits() -> None:
    done = run(
        database={"connect_time": 1.0},
        pool={"max_open": 1, "max_idle": 1},
        bursts=[{"at": 0, "workers": 2, "requests": 1, "hold": "100ms"}],
        duration=5.0,
    )

    assert (done.summary.connections.opened, done.summary.queued_count) == (1, 1)


def test_with_the_database_down_waiters_fail_one_opening_apart() -> None:
    done = run(
        database={"connect_time": 0.1},
        pool={"max_open": 4, "max_idle": 4},
        bursts=[
            {"at": 0, "workers": 4, "requests": 1, "hold": "60s"},
            {"at": 1, "workers": 4, "requests": 1},
        ],
        events=[{"at": 2, "do": "restart", "down": "10s"}],
        duration=5.0,
        drain=0,
    )

    failed = next(seen for seen in done.summary.errors if seen.kind.sqlstate == "57P03")
    assert (failed.count, done.summary.failed) == (4, 4)
    assert done.summary.wait_time.max == pytest.approx(1.0 + 0.4)
