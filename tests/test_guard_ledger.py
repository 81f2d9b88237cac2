"""The ledger alone: who holds what, what is nested, lost or released twice, by tables and by random histories."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolctl.guard.call_sites import Frame, Site
from poolctl.guard.ledger import MOST_INCIDENTS, Actor, GuardedPool, Hold, Ledger


def site(line: int) -> Site:
    return Site((Frame("app.py", line, "work"),))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(threshold=10.0)


@pytest.fixture
def pool() -> GuardedPool:
    return GuardedPool("psycopg_pool", "pool-1", 2)


def acquire(ledger: Ledger, pool: GuardedPool, actor: Actor, key: int, *, at: Site, now: float = 0.0) -> Hold:
    hold = ledger.ask(pool, at, actor, None, now)
    ledger.grant(hold, key, now)
    return hold


def test_a_release_adds_the_time_to_its_pool_and_its_site(ledger: Ledger, pool: GuardedPool) -> None:
    here = site(1)
    hold = ledger.ask(pool, here, Actor("thread", "a"), None, 1.0)
    ledger.grant(hold, 7, 1.5)

    assert ledger.release(7, 4.0) is hold
    assert (pool.acquired, pool.released, pool.wait_time, pool.use_time) == (1, 1, 0.5, 2.5)
    assert (here.released, here.longest, here.late) == (1, 2.5, 0)
    assert ledger.holds() == []


def test_a_hold_over_the_threshold_is_late_once_it_is_released_after_all(ledger: Ledger, pool: GuardedPool) -> None:
    here = site(1)
    for key, length in ((1, 10.0), (2, 10.1), (3, 12.0), (4, 11.0)):
        acquire(ledger, pool, Actor("thread", "a"), key, at=here)
        ledger.release(key, length)

    assert here.late == 3
    assert here.longest == 12.0


def test_the_second_release_names_the_acquire_and_the_line_that_releases_again(
    ledger: Ledger, pool: GuardedPool
) -> None:
    acquired, again = site(1), site(9)
    acquire(ledger, pool, Actor("thread", "a"), 7, at=acquired)
    ledger.release(7, 1.0)

    assert ledger.release(7, 2.0) is None
    assert ledger.release_again(7, again, 2.0)
    assert not ledger.release_again(8, again, 2.0)
    (incident,) = ledger.incidents.values()
    assert (incident.event, incident.site, incident.at, incident.count) == ("released-twice", acquired, again, 1)


def test_a_connection_that_another_caller_has_by_now_is_not_released_by_a_stale_key(
    ledger: Ledger, pool: GuardedPool
) -> None:
    acquire(ledger, pool, Actor("thread", "a"), 7, at=site(1))
    ledger.release(7, 1.0)
    second = acquire(ledger, pool, Actor("thread", "b"), 7, at=site(2), now=2.0)

    assert ledger.find_hold(7) is second


def test_asking_the_same_pool_while_holding_is_nested_and_another_pool_is_not(
    ledger: Ledger, pool: GuardedPool
) -> None:
    actor, other = Actor("thread", "a"), GuardedPool("psycopg_pool", "pool-2", 2)
    outer, inner = site(1), site(2)
    acquire(ledger, pool, actor, 1, at=outer)
    acquire(ledger, other, actor, 2, at=inner)
    assert ledger.nestings == {}

    acquire(ledger, pool, actor, 3, at=inner)

    (nesting,) = ledger.nestings.values()
    assert (nesting.outer, nesting.inner, nesting.count, nesting.jammed) == (outer, inner, 1, 0)


def test_two_actors_that_hold_one_each_are_not_nested(ledger: Ledger, pool: GuardedPool) -> None:
    acquire(ledger, pool, Actor("thread", "a"), 1, at=site(1))
    acquire(ledger, pool, Actor("thread", "b"), 2, at=site(1))

    assert ledger.nestings == {}


def test_a_jam_is_a_full_pool_whose_holders_all_wait_for_it(ledger: Ledger, pool: GuardedPool) -> None:
    first, second = Actor("thread", "a"), Actor("thread", "b")
    acquire(ledger, pool, first, 1, at=site(1))
    acquire(ledger, pool, second, 2, at=site(1))

    ledger.ask(pool, site(2), first, None, 1.0)
    assert not ledger.is_jammed(pool)
    ledger.ask(pool, site(2), second, None, 1.1)
    assert ledger.is_jammed(pool)
    assert sum(nesting.jammed for nesting in ledger.nestings.values()) == 1


def test_a_request_that_got_nothing_names_the_holders_of_that_moment(ledger: Ledger, pool: GuardedPool) -> None:
    holder = site(1)
    acquire(ledger, pool, Actor("thread", "a"), 1, at=holder, now=1.0)
    hold = ledger.ask(pool, site(2), Actor("thread", "b"), None, 2.0)

    incident = ledger.give_up(hold, 5.0, event="timed-out")

    assert incident is not None
    assert incident.holders == ((holder, 4.0),)
    assert (pool.timed_out, pool.wait_time) == (1, 3.0)
    assert hold.actor.top is None


def test_a_cancelled_request_is_no_incident(ledger: Ledger, pool: GuardedPool) -> None:
    hold = ledger.ask(pool, site(2), Actor("task", "b"), None, 2.0)

    assert ledger.give_up(hold, 5.0) is None
    assert ledger.incidents == {}


def test_a_collected_connection_is_lost_only_if_it_was_out(ledger: Ledger, pool: GuardedPool) -> None:
    here = site(1)
    acquire(ledger, pool, Actor("thread", "a"), 1, at=here)
    acquire(ledger, pool, Actor("thread", "a"), 2, at=here)
    ledger.release(2, 1.0)

    assert ledger.lose(2, 2.0, event="collected") is None
    assert ledger.lose(1, 2.0, event="collected") is not None
    assert (pool.lost, pool.acquired, here.collected) == (1, 2, 1)


def test_a_child_process_holds_nothing_and_knows_what_it_inherited(ledger: Ledger, pool: GuardedPool) -> None:
    hold = acquire(ledger, pool, Actor("thread", "a"), 1, at=site(1))

    ledger.fork()

    assert ledger.holds() == []
    assert ledger.inherited == {1: hold}


def test_incidents_are_counted_by_kind_and_their_kinds_are_bounded(ledger: Ledger, pool: GuardedPool) -> None:
    here = site(0)
    sites = [site(line) for line in range(MOST_INCIDENTS + 5)]
    for each in sites:
        ledger.note("released-twice", pool, here, each, 1.0)
        ledger.note("released-twice", pool, here, each, 2.0)

    assert len(ledger.incidents) == MOST_INCIDENTS
    assert {incident.count for incident in ledger.incidents.values()} == {2}
    assert ledger.dropped == 10


class Histories(RuleBasedStateMachine):
    """Any order of what a program can do with a pool, against a plain account of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(threshold=0.0)
        self.pool = GuardedPool("psycopg_pool", "pool-1", 4)
        self.site = site(1)
        self.actors = [Actor("thread", str(number)) for number in range(3)]
        self.now = 0.0
        self.out: dict[int, Hold] = {}
        self.waiting: list[Hold] = []
        self.counts = {"granted": 0, "released": 0, "lost": 0, "gave_up": 0}

    @rule(actor=st.integers(0, 2))
    def ask(self, actor: int) -> None:
        top = self.actors[actor].top
        if top is None or top.acquired_at is not None:
            self.now += 1
            self.waiting.append(self.ledger.ask(self.pool, self.site, self.actors[actor], None, self.now))

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 2), key=st.integers(0, 5))
    def grant(self, which: int, key: int) -> None:
        hold = self.waiting.pop(which % len(self.waiting))
        self.now += 1
        self.ledger.grant(hold, key, self.now)
        # One that is still out came back unseen: the two acquires count as one.
        self.counts["granted"] += key not in self.out
        self.out[key] = hold

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 2), timed_out=st.booleans())
    def give_up(self, which: int, timed_out: bool) -> None:
        hold = self.waiting.pop(which % len(self.waiting))
        self.ledger.give_up(hold, self.now, event="timed-out" if timed_out else "")
        self.counts["gave_up"] += timed_out

    @rule(key=st.integers(0, 5))
    def release(self, key: int) -> None:
        self.now += 1
        assert self.ledger.release(key, self.now) is self.out.pop(key, None) or key in self.out
        self.counts["released"] = self.counts["granted"] - len(self.out) - self.counts["lost"]

    @rule(key=st.integers(0, 5))
    def lose(self, key: int) -> None:
        held = self.out.pop(key, None)
        assert self.ledger.lose(key, self.now, event="collected") is held
        self.counts["lost"] += held is not None

    @rule(key=st.integers(0, 5))
    def fail_to_release(self, key: int) -> None:
        if key in self.out:
            hold = self.ledger.release(key, self.now)
            assert hold is not None
            self.ledger.restore(hold, "its release raised")

    @invariant()
    def everything_adds_up(self) -> None:
        assert {hold.key: hold for hold in self.ledger.holds()} == self.out
        assert self.pool.out == len(self.ledger.holds_of(self.pool)) == len(self.out)
        assert self.pool.acquired == self.counts["granted"]
        assert self.pool.lost == self.counts["lost"]
        assert self.pool.timed_out == self.counts["gave_up"]
        assert self.pool.wait_time >= 0 <= self.pool.use_time

    @invariant()
    def each_actor_has_a_chain_of_exactly_what_it_asked_for(self) -> None:
        for actor in self.actors:
            chain, hold = [], actor.top
            while hold is not None:
                chain.append(hold)
                hold = hold.below
            own = [hold for hold in [*self.out.values(), *self.waiting] if hold.actor is actor]
            assert {id(hold) for hold in chain} == {id(hold) for hold in own}
            assert len(chain) == len(own)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
