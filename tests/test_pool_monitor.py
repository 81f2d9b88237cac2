"""What counts as open, in use, waiting and exhausted in a pool that is observed from outside. No server, no clock."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolctl.engines.instance.pool_monitor import LiveRequest, PoolMonitor
from poolctl.engines.instance.request_log import RequestLog
from poolctl.pool import Closed, PoolStats


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Pool:
    """An observed pool of ``max_open`` whose clock is set by hand."""

    def __init__(self, max_open: int = 2) -> None:
        self.clock = Clock()
        self.monitor = PoolMonitor(max_open)
        self.monitor.clock = self.clock

    def open(self, at: float, count: int = 1) -> None:
        self.clock.now = at
        for _ in range(count):
            with self.monitor.open_connection():
                pass

    def acquire(self, at: float, request: LiveRequest | None = None) -> LiveRequest:
        self.clock.now = at
        request = request or LiveRequest()
        with self.monitor.lock:
            self.monitor.record_acquire(request, at)
        return request

    def queue(self, at: float) -> LiveRequest:
        self.clock.now = at
        request = LiveRequest()
        self.monitor.acquiring[request] = None
        self.monitor.queue(request)
        return request

    def give_up(self, at: float, request: LiveRequest, *, is_shortage: bool = True) -> None:
        with self.monitor.lock:
            self.monitor.record_failed_acquire(request, at, is_shortage=is_shortage)

    def release(self, at: float) -> None:
        with self.monitor.lock:
            self.monitor.record_release(at)

    def stats(self, at: float, library_open: int | None = None) -> PoolStats:
        with self.monitor.lock:
            return self.monitor.stats(at, library_open)


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_open_is_in_use_and_idle_and_opening(pool: Pool) -> None:
    pool.open(0.0, 2)
    pool.acquire(1.0)
    with pool.monitor.open_connection():
        stats = pool.stats(1.0)

    assert (stats.open, stats.in_use, stats.idle, stats.opening) == (3, 1, 1, 1)
    assert (stats.peak_open, stats.peak_in_use) == (3, 1)


def test_times_add_up_to_connection_seconds(pool: Pool) -> None:
    pool.open(0.0)
    pool.open(2.0)
    pool.acquire(3.0)
    pool.release(4.5)
    pool.clock.now = 6.0
    pool.monitor.record_close("max_idle")

    stats = pool.stats(10.0)
    assert stats.open_time == 6.0 + 8.0
    assert stats.in_use_time == 1.5


def test_an_opening_that_fails_was_open_only_meanwhile(pool: Pool) -> None:
    def fail() -> None:
        with pool.monitor.open_connection():
            pool.clock.now = 2.0
            raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        fail()
    stats = pool.stats(5.0)
    assert (stats.open, stats.opened, stats.open_failures, stats.peak_open) == (0, 0, 1, 1)
    assert stats.open_time == 2.0


def test_the_time_of_each_opening_is_told(pool: Pool) -> None:
    openings: list[float] = []
    pool.monitor.on_opened = lambda connect_time, now: openings.append(now)
    pool.open(7.0, 2)

    assert openings == [7.0, 7.0]


def test_a_pool_is_exhausted_from_when_a_request_waits_in_a_full_one(pool: Pool) -> None:
    pool.open(0.0, 2)
    pool.acquire(0.0)
    pool.acquire(1.0)
    assert pool.stats(1.0).exhausted_at is None, "full, and no request waits"

    waiting = pool.queue(2.0)
    assert pool.stats(3.0).exhausted_since == 2.0
    pool.release(4.0)
    assert pool.stats(4.0).exhausted_since == 2.0, "a request still waits"
    pool.acquire(4.0, waiting)
    stats = pool.stats(5.0)
    assert (stats.exhausted_at, stats.recovered_at, stats.exhausted_time) == (2.0, 4.0, 2.0)
    assert (stats.queued_count, stats.queued_time, stats.waiting) == (1, 2.0, 0)


def test_who_waits_while_the_pool_grows_makes_it_exhausted_only_when_it_is_full(pool: Pool) -> None:
    first, second, third = (pool.queue(at) for at in (0.0, 0.0, 1.0))
    pool.open(2.0)
    pool.acquire(2.0, first)
    assert pool.stats(2.0).exhausted_at is None
    pool.open(3.0)
    pool.acquire(3.0, second)

    assert pool.stats(3.0).exhausted_at == 3.0
    pool.give_up(9.0, third)


def test_that_those_who_waited_gave_up_does_not_end_the_exhaustion(pool: Pool) -> None:
    pool.open(0.0, 2)
    pool.acquire(0.0)
    pool.acquire(0.0)
    pool.give_up(2.0, pool.queue(1.0))

    stats = pool.stats(5.0)
    assert (stats.exhausted_since, stats.recovered_at, stats.exhausted_time, stats.waiting) == (1.0, None, 4.0, 0)
    pool.release(6.0)
    assert pool.stats(6.0).recovered_at == 6.0


def test_a_request_turned_away_at_once_makes_the_pool_exhausted(pool: Pool) -> None:
    pool.give_up(3.0, LiveRequest(), is_shortage=False)
    assert pool.stats(3.0).exhausted_at is None

    pool.give_up(4.0, LiveRequest())
    assert pool.stats(5.0).exhausted_since == 4.0


def test_a_slot_that_the_library_lost_counts_as_in_use(pool: Pool) -> None:
    pool.open(0.0, 2)
    pool.acquire(0.0)
    pool.monitor.record_close("leak_reclaimed", frees_slot=False)

    stats = pool.stats(1.0, library_open=2)
    assert (stats.open, stats.in_use, stats.idle) == (2, 1, 1)
    assert stats.closed == Closed(leak_reclaimed=1)


def test_a_slot_that_the_library_means_to_open_again_counts_as_opening(pool: Pool) -> None:
    pool.open(0.0)
    pool.acquire(0.0)

    stats = pool.stats(1.0, library_open=2)
    assert (stats.open, stats.in_use, stats.idle, stats.opening) == (2, 1, 0, 1)


def test_what_the_garbage_collector_brings_back_is_no_longer_in_use(pool: Pool) -> None:
    pool.open(0.0)
    pool.acquire(0.0)
    pool.clock.now = 2.0
    pool.monitor.record_reclaim()

    stats = pool.stats(3.0)
    assert (stats.in_use, stats.idle, stats.in_use_time) == (0, 1, 2.0)


def test_who_waits_unseen_by_the_queue_is_seen_when_the_pool_is_full(pool: Pool) -> None:
    pool.open(0.0, 2)
    pool.acquire(0.0)
    pool.acquire(0.0)
    pool.queue(1.0)
    pool.monitor.acquiring[LiveRequest()] = None

    assert pool.stats(1.0).waiting == 2
    pool.monitor.has_queue = False
    assert pool.stats(1.0).waiting == 1


class Closing:
    """A connection that only the cycle collector can find, and that closes itself then."""

    def __init__(self, monitor: PoolMonitor) -> None:
        self.monitor = monitor
        self.itself = self

    def __del__(self) -> None:
        self.monitor.record_close("leak_reclaimed")


@pytest.fixture
def collected_by_hand() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collected_by_hand")
def test_a_connection_may_be_collected_while_its_watch_is_locked(pool: Pool) -> None:
    pool.open(0.0)
    Closing(pool.monitor)

    with pool.monitor.lock:
        gc.collect()
        stats = pool.monitor.stats(1.0)
    assert (stats.open, stats.closed.leak_reclaimed) == (0, 1)


SECOND = 10**9
"""In nanoseconds."""
_TURNS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40)
"""Whose acquire or release comes next, and whether the logs are then settled."""


@given(_TURNS)
def test_requests_noted_in_logs_count_as_if_each_had_been_counted_at_once(turns: list[tuple[int, bool]]) -> None:
    noting, counting = Pool(3), Pool(3)
    uses: list[int] = []
    noting.monitor.on_noted = lambda noted: uses.extend(noted.uses)
    logs = {number: RequestLog(0, True) for number in range(3)}
    noting.monitor.logs.update(logs)
    acquired_at: dict[int, int] = {}
    expected: list[int] = []
    for pool in (noting, counting):
        pool.open(0.0, 3)
    for at, (number, settles) in enumerate(turns, start=1):
        logs[number].note(at * SECOND)
        if number in acquired_at:
            counting.release(float(at))
            expected.append((at - acquired_at.pop(number)) * SECOND)
        else:
            counting.acquire(float(at))
            acquired_at[number] = at
        if settles:
            assert noting.stats(at) == counting.stats(at)

    end = float(len(turns) + 1)
    assert noting.stats(end) == counting.stats(end)
    assert sorted(uses) == sorted(expected)
    assert noting.monitor.count_acquiring() == 3 - len(acquired_at)


def test_a_request_is_due_when_the_one_before_it_was_released() -> None:
    log = RequestLog(100, True)
    for at in (150, 400, 425):
        log.note(at)
    first = log.take()
    log.note(625)
    second = log.take()

    assert (first.waits, first.uses, first.last_release) == ([50, 25], [250], 400)
    assert (second.waits, second.uses, second.last_release) == ([], [200], 625)
    assert (log.latest, log.is_in_use) == (625, False)


def test_a_release_in_a_log_ends_an_exhaustion_when_none_waits_any_more(pool: Pool) -> None:
    pool.open(0.0, 2)
    log = pool.monitor.logs[1] = RequestLog(0, True)
    log.note(1 * SECOND)
    pool.acquire(1.0)
    waiting = pool.queue(2.0)
    assert pool.monitor.is_strained
    pool.give_up(3.0, waiting)
    assert pool.monitor.is_strained

    log.note(5 * SECOND)
    stats = pool.stats(6.0)
    assert (stats.exhausted_at, stats.recovered_at, stats.exhausted_time) == (2.0, 5.0, 3.0)
    assert not pool.monitor.is_strained
