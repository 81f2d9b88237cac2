"""Who gets which connection: acquire, the queue, release. The rules are Pool's, for every library in KINDS.

A second implementation for speed: it says the same as poolctl.pool.Pool where Pool knows the rule, which
tests/test_model_pool.py holds it to event by event.
"""

from collections import deque
from math import inf

from poolctl.engines.model.openings import Openings
from poolctl.engines.model.plan import ModelInstance, ServicePlan
from poolctl.engines.model.state import (
    ALIVE,
    CLEAN,
    DEAD,
    DIALING,
    IDLE,
    IN_USE,
    KNOWN_DEAD,
    LOCKED,
    OUT,
    QUEUED,
    REST,
    TIMED_OUT,
    WAITING,
    WAKE,
)
from poolctl.pool.pool import SHORTEST_CLEANING_INTERVAL
from poolctl.scenario.run import ErrorKind
from poolctl.scenario.scenario import Scenario

WAKE_TIME = 50e-6
"""Seconds until a waiter that was told of a connection is awake: long enough for a newcomer to take it."""

DEADLINE_NAMES = {"database/sql": "DeadlineExceeded", "none": "DeadlineExceeded", "psycopg2": "PoolError"}


class Queues(Openings):
    __slots__ = (
        "deadlines",
        "next_deadline",
        "number_of",
        "overdue",
        "rejected",
    )

    def __init__(self, scenario: Scenario, parts: list[ServicePlan], pods: list[ModelInstance]) -> None:
        super().__init__(scenario, parts, pods)
        self.deadlines: list[deque[tuple[float, int, int]]] = [deque() for _ in parts]
        """Of each part, in order, because a part's patience is constant: (when, client, serial)."""
        self.next_deadline = inf
        self.number_of = {id(part): number for number, part in enumerate(parts)}
        self.overdue = [overdue_kind(part) for part in parts]
        self.rejected = [rejected_kind(part) for part in parts]

    def acquire(self, c: int, now: float) -> None:
        self.serial += 1
        self.c_serial[c] = self.serial
        self.c_attempt[c] = 0
        self.c_queued[c] = self.c_deadline[c] = -1.0
        if self.p_lock[self.c_pod[c]]:
            self.c_state[c] = LOCKED
            self.p_locked[self.c_pod[c]].append((c, -1))
            return
        self.attempt(c, now)

    def attempt(self, c: int, now: float) -> None:
        """One attempt after the other, until the client has a connection, opens one, or queues."""
        p = self.c_pod[c]
        part, idle = self.p_part[p], self.p_idle[p]
        rules = part.rules
        bound = rules.stale_attempts
        while idle and (not bound or self.c_attempt[c] < bound):
            k = self.pick_idle(c, p)
            if self.k_stale[k] >= now or self.is_unnoticed(k, p, now):
                self.take(k, p, now)
                self.serve(c, k, now)
                return
            if self.k_dead[k]:
                self.s_error[p] += 1
            else:
                self.s_lifetime[p] += 1
            if rules.stale == "reopened":
                self.hang_up(k)
                self.free(k)
                self.forget(p, now)
                self.open_for(c, p, now)
                return
            self.close(k, p, now)
            self.c_attempt[c] += 1
        if self.p_open[p] < part.max_open and rules.opener == "caller":
            self.open_for(c, p, now)
        elif self.p_open[p] >= part.max_open and rules.waiter_order == "none":
            self.exhaust(p, now)
            self.fail(c, TIMED_OUT, self.overdue[self.number_of[id(part)]], now)
        elif part.max_queue and self.p_waiting[p] + self.p_ghosts[p] >= part.max_queue:
            self.exhaust(p, now)
            self.fail(c, TIMED_OUT, self.rejected[self.number_of[id(part)]], now)
        else:
            self.queue(c, p, now)
            if self.p_open[p] < part.max_open:
                self.grow(p, now)

    def grow(self, p: int, now: float) -> None:
        if self.p_part[p].rules.growth == "ordered":
            if not self.p_busy[p]:
                self.take_slot(p)
                self.begin_opening(p, now)
                self.p_busy[p] += 1
                self.dial(self.new_connection(p, -1), now)
        else:
            self.open_for_waiters(p, now)

    def pick_idle(self, c: int, p: int) -> int:
        idle, rules = self.p_idle[p], self.p_part[p].rules
        if rules.by_thread:
            own = self.c_last[c]
            k = own if own >= 0 and self.k_state[own] == IDLE and self.k_pod[own] == p else min(idle, key=self._age)
            idle.remove(k)
        elif rules.generations and self.p_old[p]:
            self.p_old[p] -= 1
            k = idle.pop(self.p_old[p])
        else:
            k = idle.pop(-1 if rules.idle_order == "lifo" else 0)
        if len(idle) < self.p_low[p]:
            self.p_low[p] = len(idle)
        return k

    def _age(self, k: int) -> tuple[float, int]:
        return self.k_born[k], k

    def is_unnoticed(self, k: int, p: int, now: float) -> bool:
        """Whether a dead connection is handed out as if it were alive."""
        if self.k_dead[k] != DEAD:
            return False
        after = self.p_part[p].rules.validated_after
        return after is None or now - self.k_released[k] < after

    def queue(self, c: int, p: int, now: float) -> None:
        self.c_state[c] = WAITING
        self.c_since[c] = now
        if self.c_queued[c] < 0.0:
            self.c_queued[c] = now
        self.p_waiting[p] += 1
        self.s_queued[p] += 1
        self.exhaust(p, now)
        if self.p_part[p].rules.waiter_order == "random":
            self.c_place[c] = len(self.p_random[p])
            self.p_random[p].append(c)
        else:
            self.seq += 1
            self.c_ticket[c] = self.seq
            self.p_fifo[p].append((c, self.seq))
        if self.p_part[p].rules.codel is not None:
            self.start_codel(p, now)
        else:
            self.await_patience(c, p, now)

    def await_patience(self, c: int, p: int, now: float) -> None:
        part = self.p_part[p]
        if part.patience is None or (self.c_deadline[c] >= 0.0 and part.rules.timeout != "each"):
            return
        if self.c_state[c] == DIALING and part.rules.timeout == "queue":
            return
        if self.c_deadline[c] >= 0.0:
            self.serial += 1
            self.c_serial[c] = self.serial
        deadline = now + part.patience
        self.c_deadline[c] = deadline
        self.deadlines[self.number_of[id(part)]].append((deadline, c, self.c_serial[c]))
        if deadline < self.next_deadline:
            self.next_deadline = deadline

    def leave_queue(self, p: int, now: float, c: int = -1) -> int:
        """Take the client, or whoever is next, out of the queue."""
        if self.p_part[p].rules.waiter_order == "random":
            order = self.p_random[p]
            if c < 0:
                c = order[int(self.pool_random() * len(order))]
            last, place = order.pop(), self.c_place[c]
            if last != c:
                order[place] = last
                self.c_place[last] = place
        else:
            fifo = self.p_fifo[p]
            if c < 0:
                while True:
                    c, ticket = fifo.popleft()
                    if self.c_ticket[c] == ticket:
                        break
            self.c_ticket[c] = 0
            while fifo and self.c_ticket[fifo[0][0]] != fifo[0][1]:
                fifo.popleft()
        if self.c_state[c] == QUEUED:
            self.complete(c)
        self.c_state[c] = OUT
        self.p_waiting[p] -= 1
        self.s_queued_time[p] += now - self.c_since[c]
        return c

    def complete(self, c: int) -> None:
        """Fill in the record of a waiting client that the loop has queued with next to none."""
        p, due = self.c_pod[c], self.c_due[c]
        patience = self.p_part[p].patience
        self.c_state[c] = WAITING
        self.c_since[c] = self.c_queued[c] = due
        self.c_counted[c] = due >= self.warmup
        self.c_attempt[c] = 0
        self.c_deadline[c] = -1.0 if patience is None else due + patience
        if self.c_worker[c] < 0:
            self.p_clients[p] += 1

    def lose_patience(self, c: int, now: float) -> None:
        p = self.c_pod[c]
        part = self.p_part[p]
        kind = self.overdue[self.number_of[id(part)]]
        if self.c_state[c] in (WAITING, QUEUED):
            self.leave_queue(p, now, c)
            self.recover_if_free(p, now)
            if part.rules.timed_out_waiter == "ghost":
                self.p_ghosts[p] += 1
            elif part.rules.timed_out_waiter == "opens" and (self.p_idle[p] or self.p_open[p] < part.max_open):
                self.attempt(c, now)
                return
        else:
            self.abandon(c, p, now)
        self.fail(c, TIMED_OUT, kind, now)

    def release(self, k: int, now: float, broken: bool = False) -> None:
        """The client is done with it: hand it over, keep it, or close it."""
        p = self.k_pod[k]
        if self.p_lock[p]:
            self.p_locked[p].append((-1, k))
            return
        part = self.p_part[p]
        self.k_released[k] = now
        self.untake(k, p, now)
        self.k_client[k] = -1
        self.p_ghosts[p] = 0
        if part.max_uses:
            self.k_uses[k] += 1
            if self.k_uses[k] >= part.max_uses:
                self.k_spent[k] = -1.0
        if broken or self.k_spent[k] < now:
            if broken or self.k_dead[k]:
                self.s_error[p] += 1
                if part.rules.dead == "all" and self.k_dead[k]:
                    self.distrust_idle(p)
            elif part.max_uses and self.k_spent[k] < 0.0:
                self.s_other[p] += 1
            else:
                self.s_lifetime[p] += 1
            if part.rules.growth == "ordered" and part.rules.replaced_by == "background":
                # Go orders replacements before the slot is free, and again after (sql.go, putConn and finalClose).
                self.open_for_waiters(p, now)
            self.close(k, p, now)
        elif not self.put(k, p, now):
            self.close(k, p, now)

    def distrust_idle(self, p: int) -> None:
        """One dead connection has made the pool distrust all that are older."""
        for k in self.p_idle[p]:
            if self.k_dead[k]:
                self.k_dead[k] = KNOWN_DEAD

    def put(self, k: int, p: int, now: float) -> bool:
        """Hand a good connection to a waiter or keep it idle; False: close it."""
        part, idle = self.p_part[p], self.p_idle[p]
        rules = part.rules
        if self.p_waiting[p] and rules.codel is not None and not self.drop_overdue(p, now):
            pass
        elif self.p_waiting[p] and not rules.barging:
            c = self.leave_queue(p, now)
            if not self.p_waiting[p]:
                self.recover(p, now)
            self.hand_over(c, k, p, now)
            return True
        if len(idle) >= part.keeps:
            self.s_max_idle[p] += 1
            return False
        self.k_state[k] = IDLE
        idle.append(k)
        if self.p_waiting[p]:
            self.after(WAKE_TIME, WAKE, p, now)
            self.watch_idle(p, now)
        elif self.p_alert[p]:
            self.notice_idle(p, now)
        if rules.idle_closing == "timer" and part.settings.max_idle_time is not None and not self.k_rest[k]:
            self.k_rest[k] = self.after(part.settings.max_idle_time, REST, k, now)
        return True

    def hand_over(self, c: int, k: int, p: int, now: float) -> None:
        self.take(k, p, now)
        if self.k_dead[k] and not self.is_unnoticed(k, p, now):
            self.release(k, now, True)
            self.c_attempt[c] += 1
            self.attempt(c, now)
        else:
            self.serve(c, k, now)

    def wake(self, p: int, now: float) -> None:
        """A waiter that was told of a connection looks for it, and waits on when another one has it."""
        if not self.p_waiting[p]:
            return
        c = self.leave_queue(p, now)
        if self.p_idle[p]:
            if not self.p_waiting[p]:
                self.recover(p, now)
            self.attempt(c, now)
            return
        self.s_queued[p] -= 1
        self.queue(c, p, now)

    def close(self, k: int, p: int, now: float) -> None:
        self.hang_up(k)
        self.free(k)
        self.forget(p, now)
        self.open_for_waiters(p, now)

    def notice_idle(self, p: int, now: float) -> None:
        self.recover(p, now)
        self.watch_idle(p, now)
        self.p_alert[p] = 0

    def watch_idle(self, p: int, now: float) -> None:
        if self.p_part[p].rules.idle_closing == "go" and self.p_clean_at[p] == inf:
            self.start_cleaner(p, now)

    def exhaust(self, p: int, now: float) -> None:
        if self.s_since[p] < 0.0:
            self.s_since[p] = now
            self.p_alert[p] = 1
            self.s_recovered[p] = -1.0
            if self.s_exhausted_at[p] < 0.0:
                self.s_exhausted_at[p] = now

    def recover(self, p: int, now: float) -> None:
        if self.s_since[p] >= 0.0:
            self.s_exhausted_time[p] += now - self.s_since[p]
            self.s_since[p] = -1.0
            self.s_recovered[p] = now

    def recover_if_free(self, p: int, now: float) -> None:
        if not self.p_waiting[p] and (self.p_idle[p] or self.p_open[p] < self.p_part[p].max_open):
            self.recover(p, now)

    def shortest_life(self, part: ServicePlan) -> float:
        """What the cleaner goes by; inf: there is none."""
        lifetime = part.lifetime if "cleaner" in part.rules.lifetime_checked else inf
        return min(lifetime, inf if part.settings.max_idle_time is None else part.settings.max_idle_time)

    def start_cleaner(self, p: int, now: float) -> None:
        shortest = self.shortest_life(self.p_part[p])
        if shortest < inf:
            delay = max(shortest, SHORTEST_CLEANING_INTERVAL)
            self.p_clean_at[p] = now + delay
            self.after(delay, CLEAN, p, now)

    def unlock(self, p: int, now: float) -> None:
        """An opening is over that kept everybody else out of the pool."""
        if not self.p_lock[p]:
            return
        self.p_lock[p] -= 1
        queue = self.p_locked[p]
        while queue and not self.p_lock[p]:
            c, k = queue.popleft()
            if c >= 0:
                self.c_state[c] = OUT
                self.attempt(c, now)
            elif self.k_state[k] == IN_USE:
                self.release(k, now, self.k_dead[k] != ALIVE)

    def start_codel(self, p: int, now: float) -> None:
        raise NotImplementedError

    def drop_overdue(self, p: int, now: float) -> bool:
        raise NotImplementedError


def overdue_kind(part: ServicePlan) -> ErrorKind:
    return ErrorKind("pool", DEADLINE_NAMES.get(part.settings.kind, "PoolTimeout"), None, part.exhausted)


def rejected_kind(part: ServicePlan) -> ErrorKind:
    return ErrorKind("pool", "TooManyRequests", None, f"{part.max_queue} requests are waiting already")
