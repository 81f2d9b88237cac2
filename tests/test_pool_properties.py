"""What holds for the pool of every library after every sequence of calls, against a shadow that counts the slow way."""

from copy import deepcopy
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poolctl.pool import (
    LIBRARIES,
    Action,
    Alarm,
    Answer,
    Blocked,
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
    Retry,
    Stale,
    Use,
    Wait,
)

RULES = [library.rules for library in LIBRARIES.values()] + [
    PoolRules("fifo", "random"),
    PoolRules("lifo", "fifo", "background"),
]
TIMES = st.sampled_from([None, 0.5, 1.0, 2.5])


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        rules=st.sampled_from(RULES),
        max_open=st.integers(0, 4),
        max_idle=st.integers(0, 4),
        min_idle=st.integers(0, 2),
        max_lifetime=TIMES,
        max_idle_time=TIMES,
        max_uses=st.sampled_from([0, 0, 3]),
        max_waiting=st.sampled_from([0, 0, 2]),
        seed=st.integers(0, 9),
    )
    def start(self, rules: PoolRules, seed: int, **limits: Any) -> None:
        self.pool_rules = rules
        self.max_open = limits["max_open"]
        if self.max_open:
            limits["min_idle"] = min(limits["min_idle"], self.max_open)
        self.pool = Pool(PoolSettings(**limits), Random(seed), rules)
        self.now = 0.0
        self.requests = 0
        self.attempts: dict[int, int] = {}
        self.waiting: dict[int, float] = {}
        self.blocked: set[int] = set()
        self.late: dict[Connection, int] = {}
        self.held: dict[int, Connection] = {}
        self.ended: list[int] = []
        self.opening: list[Connection] = []
        self.abandoned: list[Connection] = []
        self.closing: list[Connection] = []
        self.retries: dict[Connection, int] = {}
        self.alarms: list[Alarm] = []
        self.opened = self.failures = 0
        self.open_before = 0
        self.queued_time = self.waiting_area = self.held_area = self.open_area = 0.0
        for _ in range(self.pool.filled_before):
            self.opened += 1
            self.carry_out(self.pool.adopt(Connection(None), 0.0))
        self.carry_out(self.pool.start(0.0))

    @rule(eighths=st.integers(1, 40))
    def let_time_pass(self, eighths: int) -> None:
        until = self.now + eighths / 8
        while any(alarm.at <= until for alarm in self.alarms):
            self.ring_next()
        self.advance(until)

    @rule()
    def request(self) -> None:
        self.requests += 1
        self.attempts[self.requests] = 0
        self.ask(self.requests)

    @precondition(lambda self: self.opening)
    @rule(data=st.data(), succeeds=st.booleans())
    def finish_an_opening(self, data: st.DataObject, succeeds: bool) -> None:
        self.finish(data.draw(st.sampled_from(self.opening)), succeeds)

    @precondition(lambda self: any(c.request is not None for c in self.opening))
    @rule(data=st.data())
    def lose_patience_while_opening(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from([c for c in self.opening if c.request is not None]))
        self.end(connection.request)  # type: ignore[arg-type]
        actions = self.pool.abandon(connection, self.now)
        if connection.state == "gone":
            self.opening.remove(connection)
            self.failures += 1
        else:
            self.abandoned.append(connection)
        self.carry_out(actions)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), broken=st.booleans())
    def release(self, data: st.DataObject, broken: bool) -> None:
        self.give_back(data.draw(st.sampled_from(self.holders)), broken)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def reclaim(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.holders))
        self.end(request)
        self.carry_out(self.pool.reclaim(self.held.pop(request), self.now))

    @precondition(lambda self: self.closing)
    @rule(data=st.data())
    def finish_a_closing(self, data: st.DataObject) -> None:
        self.finish_closing(data.draw(st.sampled_from(self.closing)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        answer = self.pool.give_up(request, self.now)
        self.leave_queue(request)
        if answer is None:
            self.end(request)
        else:
            self.obey(request, answer)

    @rule()
    def lose_every_server_process(self) -> None:
        connections = list(self.pool._connections)
        for connection in connections:
            if connection.state in ("idle", "in_use"):
                self.pool.mark_lost(connection)
        for connection in connections:
            self.carry_out(self.pool.drop_lost(connection))

    @precondition(lambda self: self.pool_rules.idle_closing == "go")
    @rule(max_open=st.integers(0, 4))
    def set_max_open(self, max_open: int) -> None:
        self.max_open = max_open
        self.carry_out(self.pool.set_max_open(max_open, self.now))

    @precondition(lambda self: self.pool_rules.idle_kept == "max_idle")
    @rule(max_idle=st.integers(0, 4))
    def set_max_idle(self, max_idle: int) -> None:
        self.carry_out(self.pool.set_max_idle(max_idle, self.now))

    def teardown(self) -> None:
        """Every request that still waits is served once the others are done: the pool forgets none."""
        if not hasattr(self, "pool"):
            return
        # A failed opening is tried again after up to 300 s, and sweeps come every half a second.
        for _ in range(5000):
            if self.opening:
                self.finish(self.opening[0], succeeds=True)
            elif self.closing:
                self.finish_closing(self.closing[0])
            elif self.holders:
                self.give_back(self.holders[0], broken=False)
            elif self.waiting and self.alarms:
                # A retry of a failed opening, the wake of a waiter, or a poll of the queue.
                self.ring_next()
            elif self.waiting:
                # As in Go, a request that insists on a new connection waits beside idle ones for the next return.
                self.request()
            else:
                break
            self.states_and_counters_add_up()
        for connection in self.pool.drop_idle():
            self.carry_out(self.pool.closed(connection, self.now))

        left = set(range(1, self.requests + 1)) - set(self.ended)
        assert not left, (left, self.waiting, self.held, self.opening, self.blocked, self.stats, self.retries)
        assert self.pool_rules.barging or self.stats.queued_time == pytest.approx(self.waiting_area, abs=1e-6)

    @invariant()
    def states_and_counters_add_up(self) -> None:
        stats = self.stats
        assert stats.open == stats.in_use + stats.idle + stats.opening
        # Released, and not taken back by the library yet, which takes it for in use.
        returning = sum(c.state == "returning" for c in self.pool._connections)
        assert stats.in_use == len(self.held) + returning + sum(c.state == "closing" for c in self.closing)
        assert stats.opened - stats.closed.total == stats.idle + len(self.held) + returning
        assert (stats.opened, stats.open_failures) == (self.opened, self.failures)
        assert min(stats.open, stats.in_use, stats.idle, stats.opening, stats.waiting) >= 0
        # Above max_open only while what was open before it was lowered comes back.
        assert not self.max_open or stats.open <= max(self.max_open, self.open_before)
        self.open_before = stats.open
        assert stats.peak_in_use >= len(self.held)
        assert stats.peak_open >= stats.open

    @invariant()
    def a_request_waits_beside_idle_connections_only_where_it_insists_on_a_new_one_or_has_yet_to_wake(self) -> None:
        stats = self.stats
        assert stats.waiting == len(self.waiting)
        insists = all(self.attempts[request] >= self.pool_rules.stale_attempts > 0 for request in self.waiting)
        assert not stats.idle or insists or self.pool_rules.barging

    @invariant()
    def no_more_background_openings_are_made_at_once_than_there_are_openers(self) -> None:
        in_background = [c for c in self.opening if c.request is None and not c.is_abandoned]
        assert not self.pool_rules.openers or len(in_background) <= self.pool_rules.openers

    @invariant()
    def times_are_the_areas_that_counting_the_slow_way_gives(self) -> None:
        stats = self.stats
        assert stats.in_use_time == pytest.approx(self.held_area, abs=1e-6)
        assert stats.open_time == pytest.approx(self.open_area, abs=1e-6)
        if self.pool_rules.barging:
            # A waiter that wakes in vain has left the queue and joined it again, which this shadow does not see.
            return
        assert stats.queued_time == pytest.approx(self.queued_time, abs=1e-6)
        # Little's law, before it is divided by the time that passed.
        waited = sum(self.now - since for since in self.waiting.values())
        assert stats.queued_time + waited == pytest.approx(self.waiting_area, abs=1e-6)

    @invariant()
    def exhausted_means_that_the_next_request_would_wait(self) -> None:
        stats = self.stats
        if stats.exhausted_since is None:
            assert (stats.exhausted_at is None) == (stats.recovered_at is None)
            return
        assert stats.recovered_at is None
        pool = deepcopy(self.pool)
        pool._locks = 0
        is_full = bool(self.max_open) and isinstance(pool.acquire(0, self.now), Wait | Reject)
        assert self.waiting or is_full or self.pool.settings.max_waiting

    @property
    def stats(self) -> PoolStats:
        return self.pool.stats(self.now)

    def advance(self, until: float) -> None:
        passed = until - self.now
        self.waiting_area += len(self.waiting) * passed
        self.held_area += len(self.held) * passed
        self.open_area += self.stats.open * passed
        self.now = until

    def ring_next(self) -> None:
        alarm = min(self.alarms, key=lambda alarm: alarm.at)
        self.alarms.remove(alarm)
        self.advance(alarm.at)
        self.carry_out(alarm.ring(self.now))

    def ask(self, request: int) -> None:
        self.obey(request, self.pool.acquire(request, self.now, self.attempts[request]))

    def obey(self, request: int, answer: Answer) -> None:
        match answer:
            case Use(connection):
                self.held[request] = connection
            case Stale(connection):
                self.closing.append(connection)
                self.retries[connection] = request
                self.attempts[request] += 1
            case Open(connection):
                assert connection.request == request
                self.opening.append(connection)
            case Wait(actions):
                self.waiting[request] = self.now
                self.carry_out(list(actions))
            case Blocked():
                self.blocked.add(request)
            case Reject():
                self.end(request)

    def finish(self, connection: Connection, succeeds: bool) -> None:
        self.opening.remove(connection)
        request = connection.request
        if succeeds:
            self.opened += 1
            self.carry_out(self.pool.opened(connection, self.now))
            return
        self.failures += 1
        if request is not None:
            self.end(request)  # type: ignore[arg-type]
        self.carry_out(self.pool.open_failed(connection, self.now, OSError()))

    def give_back(self, request: int, broken: bool) -> None:
        connection = self.held[request]
        actions = self.pool.release(connection, self.now, broken=broken)
        if not self.is_back(connection, actions):
            self.late[connection] = request
            return
        del self.held[request]
        self.end(request)
        self.carry_out(actions)

    def is_back(self, connection: Connection, actions: list[Action]) -> bool:
        """Return whether a release reached the pool. An opening keeps it out, and when it ends the next may again."""
        return connection.state != "in_use" or any(isinstance(action, HandOver) for action in actions)

    def finish_closing(self, connection: Connection) -> None:
        self.closing.remove(connection)
        self.carry_out(self.pool.closed(connection, self.now))
        if connection in self.retries:
            self.ask(self.retries.pop(connection))

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case HandOver(request, connection):
                    self.leave_queue(request)  # type: ignore[arg-type]
                    self.held[request] = connection  # type: ignore[index]
                case Fail(request, _):
                    self.leave_queue(request)  # type: ignore[arg-type]
                    self.end(request)  # type: ignore[arg-type]
                case Open(connection):
                    if connection.request is not None:
                        self.leave_queue(connection.request)  # type: ignore[arg-type]
                    self.opening.append(connection)
                case Close(connection):
                    self.closing.append(connection)
                case Retry(request):
                    self.leave_queue(request)  # type: ignore[arg-type]
                    self.blocked.discard(request)
                    self.ask(request)  # type: ignore[arg-type]
                case Alarm(at, ring):
                    if at <= self.now:
                        actions = ring(self.now)
                        self.note_late_release(action, actions)
                        self.carry_out(actions)
                    else:
                        self.alarms.append(action)

    def note_late_release(self, alarm: Alarm, actions: list[Action]) -> None:
        """Of a release that an opening has kept out of the pool, the alarm names the connection."""
        connection = alarm.ring.args[0] if isinstance(alarm.ring, partial) else None
        if connection in self.late and self.is_back(connection, actions):
            request = self.late.pop(connection)
            del self.held[request]
            self.end(request)

    @property
    def holders(self) -> list[int]:
        """The requests that can release."""
        return sorted(set(self.held) - set(self.late.values()))

    def leave_queue(self, request: int) -> None:
        if request in self.waiting:
            self.queued_time += self.now - self.waiting.pop(request)

    def end(self, request: int) -> None:
        assert request not in self.ended
        self.ended.append(request)


TestWhateverIsAskedOfThePoolItAddsUp = PoolMachine.TestCase
TestWhateverIsAskedOfThePoolItAddsUp.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
"""Not shrunk: that takes minutes, and the last steps of what failed say enough."""
