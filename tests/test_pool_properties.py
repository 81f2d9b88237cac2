"""What holds for every pool after every sequence of calls, against a shadow that counts the slow way.

Instants are multiples of 1/8 s, so that sums of times are exact and can be compared as they are.
"""

from copy import deepcopy
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poolctl.pool import (
    LIBRARIES,
    Action,
    Close,
    Connection,
    Fail,
    HandOver,
    Open,
    Pool,
    PoolRules,
    PoolSettings,
    PoolStats,
    Reject,
    Stale,
    Use,
    Wait,
)

RULES = [kind.rules for kind in LIBRARIES.values()] + [
    PoolRules("fifo", "random"),
    PoolRules("lifo", "fifo", "background"),
]
TIMES = st.sampled_from([None, 0.5, 1.0, 2.5])


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        rules=st.sampled_from(RULES),
        max_open=st.integers(0, 4),
        max_idle=st.integers(0, 4),
        max_lifetime=TIMES,
        max_idle_time=TIMES,
        seed=st.integers(0, 9),
    )
    def start(self, rules: PoolRules, seed: int, **limits: Any) -> None:
        self.pool_rules = rules
        self.max_open = limits["max_open"]
        self.pool = Pool(PoolSettings(**limits), Random(seed), rules)
        self.now = 0.0
        self.requests = 0
        self.insisting: set[int] = set()
        self.waiting: dict[int, float] = {}
        self.held: dict[int, Connection] = {}
        self.ended: list[int] = []
        self.idle: list[Connection] = []
        self.opening: list[Connection] = []
        self.closing: list[Connection] = []
        self.retries: dict[Connection, tuple[int, int]] = {}
        self.found_full: set[int] = set()
        self.opened = self.failures = self.queued = 0
        self.peak_held = self.peak_open = self.open_before = 0
        self.queued_time = self.waiting_area = self.held_area = self.open_area = 0.0

    @rule(eighths=st.integers(1, 40))
    def let_time_pass(self, eighths: int) -> None:
        passed = eighths / 8
        self.waiting_area += len(self.waiting) * passed
        self.held_area += len(self.held) * passed
        self.open_area += self.stats.open * passed
        self.now += passed

    @rule()
    def request(self) -> None:
        self.requests += 1
        self.ask(self.requests, 0)

    @precondition(lambda self: self.opening)
    @rule(data=st.data(), succeeds=st.booleans())
    def finish_an_opening(self, data: st.DataObject, succeeds: bool) -> None:
        self.finish(data.draw(st.sampled_from(self.opening)), succeeds)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), broken=st.booleans())
    def release(self, data: st.DataObject, broken: bool) -> None:
        self.give_back(data.draw(st.sampled_from(sorted(self.held))), broken)

    @precondition(lambda self: self.closing)
    @rule(data=st.data())
    def finish_a_closing(self, data: st.DataObject) -> None:
        self.finish_closing(data.draw(st.sampled_from(self.closing)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        self.pool.give_up(request, self.now)
        self.leave_queue(request)
        self.end(request)

    @precondition(lambda self: self.pool.clean_at is not None and self.pool.clean_at <= self.now)
    @rule()
    def clean(self) -> None:
        self.take_idle_out(self.pool.clean(self.now))
        assert self.pool.clean_at is None or self.pool.clean_at >= self.now + 1.0

    @rule(max_open=st.integers(0, 4))
    def set_max_open(self, max_open: int) -> None:
        self.max_open = max_open
        self.take_idle_out(self.pool.set_max_open(max_open, self.now))

    @rule(max_idle=st.integers(0, 4))
    def set_max_idle(self, max_idle: int) -> None:
        self.take_idle_out(self.pool.set_max_idle(max_idle, self.now))

    def teardown(self) -> None:
        """Whoever still waits is served once the others are done: nobody is forgotten."""
        if not hasattr(self, "pool"):
            return
        while self.opening or self.closing or self.held or self.waiting:
            if self.opening:
                self.finish(self.opening[0], succeeds=True)
            elif self.closing:
                self.finish_closing(self.closing[0])
            elif self.held:
                self.give_back(min(self.held), broken=False)
            else:
                # As in Go, one who insists on a new connection waits beside idle ones for the next return.
                assert self.idle
                assert set(self.waiting) <= self.insisting
                self.request()
            self.states_and_counters_add_up()
        for connection in self.pool.drop_idle():
            assert self.pool.closed(connection, self.now) == []

        assert sorted(self.ended) == list(range(1, self.requests + 1))
        assert self.stats.queued_time == self.waiting_area
        assert self.stats.opened == self.stats.closed.total
        assert self.stats.open == 0

    @invariant()
    def states_and_counters_add_up(self) -> None:
        stats = self.stats
        assert stats.open == stats.in_use + stats.idle + stats.opening
        assert stats.idle == len(self.idle)
        assert stats.in_use == len(self.held) + sum(c.state == "closing" for c in self.closing)
        assert stats.opened - stats.closed.total == stats.idle + len(self.held)
        assert (stats.opened, stats.open_failures, stats.queued_count) == (self.opened, self.failures, self.queued)
        # Above max_open only while what was open before it was lowered comes back.
        assert not self.max_open or stats.open <= max(self.max_open, self.open_before)
        self.open_before = stats.open
        self.peak_held = max(self.peak_held, len(self.held))
        self.peak_open = max(self.peak_open, stats.open)
        assert (stats.peak_in_use, stats.peak_open) == (self.peak_held, self.peak_open)

    @invariant()
    def nobody_waits_while_a_connection_is_idle_but_those_who_insist_on_a_new_one(self) -> None:
        assert self.stats.waiting == len(self.waiting)
        assert not self.idle or set(self.waiting) <= self.insisting

    @invariant()
    def background_openings_are_made_one_after_the_other(self) -> None:
        assert sum(connection.request is None for connection in self.opening) <= 1

    @invariant()
    def times_are_the_areas_that_counting_the_slow_way_gives(self) -> None:
        stats = self.stats
        assert (stats.in_use_time, stats.open_time) == (self.held_area, self.open_area)
        assert stats.queued_time == self.queued_time
        # Little's law, before anybody divides by the time that passed.
        assert stats.queued_time + sum(self.now - since for since in self.waiting.values()) == self.waiting_area

    @invariant()
    def exhausted_means_that_the_next_request_would_wait(self) -> None:
        stats = self.stats
        if stats.exhausted_since is None:
            assert self.found_full.isdisjoint(self.waiting)
            assert (stats.exhausted_at is None) == (stats.recovered_at is None) == (not self.found_full)
        else:
            assert stats.recovered_at is None
            # An opening that is ordered and not begun takes a slot, and is in no figure: the next request tells.
            is_full = stats.open >= self.max_open or isinstance(deepcopy(self.pool).acquire(0, self.now), Wait)
            assert self.waiting or (not self.idle and self.max_open and is_full)

    @property
    def stats(self) -> PoolStats:
        return self.pool.stats(self.now)

    def ask(self, request: int, attempt: int) -> None:
        is_full = self.max_open > 0 and self.stats.open >= self.max_open
        answer = self.pool.acquire(request, self.now, attempt)
        match answer:
            case Use(connection):
                self.pick_idle(connection)
                self.held[request] = connection
            case Stale(connection):
                self.pick_idle(connection)
                self.closing.append(connection)
                self.retries[connection] = (request, attempt + 1)
            case Open(connection):
                assert not is_full
                assert connection.request == request
                self.opening.append(connection)
            case Wait(opening):
                self.waiting[request] = self.now
                self.queued += 1
                if is_full:
                    self.found_full.add(request)
                if attempt == 2:
                    self.insisting.add(request)
                if opening is not None:
                    assert not is_full
                    self.opening.append(opening)
            case Reject():
                assert is_full
                self.found_full.add(request)
                self.end(request)

    def finish(self, connection: Connection, succeeds: bool) -> None:
        self.opening.remove(connection)
        request = connection.request
        if not succeeds:
            self.failures += 1
            if request is not None:
                self.end(request)  # type: ignore[arg-type]
            self.carry_out(self.pool.open_failed(connection, self.now, OSError()))
            return
        self.opened += 1
        actions = self.pool.opened(connection, self.now)
        if request is not None:
            self.held[request] = connection  # type: ignore[index]
            assert actions == []
        self.put(connection, actions)

    def give_back(self, request: int, broken: bool) -> None:
        connection = self.held.pop(request)
        self.end(request)
        self.put(connection, self.pool.release(connection, self.now, broken=broken))

    def put(self, connection: Connection, actions: list[Action]) -> None:
        self.carry_out(actions)
        if connection.state == "idle":
            self.idle.append(connection)

    def finish_closing(self, connection: Connection) -> None:
        self.closing.remove(connection)
        self.carry_out(self.pool.closed(connection, self.now))
        if connection in self.retries:
            self.ask(*self.retries.pop(connection))

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case HandOver(request, connection):
                    self.serve_next(request)  # type: ignore[arg-type]
                    self.held[request] = connection  # type: ignore[index]
                case Fail(request, _):
                    self.serve_next(request)  # type: ignore[arg-type]
                    self.end(request)  # type: ignore[arg-type]
                case Open(connection):
                    self.opening.append(connection)
                case Close(connection):
                    self.closing.append(connection)

    def take_idle_out(self, actions: list[Action]) -> None:
        self.carry_out(actions)
        for action in actions:
            assert isinstance(action, Close)
            self.idle.remove(action.connection)

    def pick_idle(self, connection: Connection) -> None:
        assert self.idle.pop(-1 if self.pool_rules.idle_order == "lifo" else 0) is connection

    def serve_next(self, request: int) -> None:
        if self.pool_rules.waiter_order == "fifo":
            assert request == next(iter(self.waiting))
        self.leave_queue(request)

    def leave_queue(self, request: int) -> None:
        self.queued_time += self.now - self.waiting.pop(request)

    def end(self, request: int) -> None:
        assert request not in self.ended
        self.ended.append(request)


TestWhateverIsAskedOfThePoolItAddsUp = PoolMachine.TestCase
TestWhateverIsAskedOfThePoolItAddsUp.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
