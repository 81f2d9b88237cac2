"""Who opens connections, and for whom: callers, background openers, waiters that are woken to do it themselves."""

from math import inf

from poolctl.engines.model.poolers import Poolers
from poolctl.engines.model.state import DIALING, FAILED, IDLE, IN_USE, LIFE, OPENER, OPENING, ORPHAN, REFUSED, ZOMBIE
from poolctl.scenario.run import ErrorKind


class Openings(Poolers):
    """Numbers as in Pool: a slot is taken when an opening is ordered, and given up when it fails or is closed."""

    __slots__ = ()

    def open_for(self, c: int, p: int, now: float) -> None:
        """The client opens a connection itself."""
        k = self.new_connection(p, c)
        self.c_state[c] = DIALING
        self.take_slot(p)
        self.begin_opening(p, now)
        self.await_patience(c, p, now)
        if self.p_part[p].rules.opens_locked:
            self.p_lock[p] += 1
        self.dial(k, now)

    def take_slot(self, p: int) -> None:
        self.p_open[p] += 1
        self.p_opening[p] += 1

    def begin_opening(self, p: int, now: float) -> None:
        """What is told counts an opening from here on, not from when it was ordered."""
        self.s_open_area[p] -= now
        open_ = self.p_open[p] - self.p_ordered[p]
        if open_ > self.s_peak_open[p]:
            self.s_peak_open[p] = open_

    def forget(self, p: int, now: float) -> None:
        """Give up a slot of the pool."""
        self.p_open[p] -= 1
        self.s_open_area[p] += now
        if self.s_since[p] >= 0.0:
            self.recover_if_free(p, now)

    def opened(self, k: int, now: float) -> None:
        p, c = self.k_pod[k], self.k_client[k]
        if now >= self.warmup:
            self.tallies[self.p_tally[p]].connect_time.record(now - self.k_asked[k])
        self.p_opening[p] -= 1
        self.s_opened[p] += 1
        self.born(k, p, now)
        if c >= 0 and self.k_state[k] == OPENING:
            self.take(k, p, now)
            self.serve(c, k, now)
            self.unlock(p, now)
            return
        self.k_client[k] = -1
        orphan = self.k_state[k] == ORPHAN
        self.k_state[k] = IN_USE
        if not orphan:
            self.opener_done(p, now)
        if not self.put(k, p, now):
            # Given up before it is closed (sql.go, openNewConnection).
            self.forget(p, now)
            self.hang_up(k)
            self.free(k)
        rules = self.p_part[p].rules
        if rules.opener == "background" or rules.growth != "ordered":
            self.open_for_waiters(p, now)
        self.open_next(p, now)

    def born(self, k: int, p: int, now: float) -> None:
        """Set how long the new connection may live, and where that is looked at."""
        part = self.p_part[p]
        self.k_born[k] = self.k_released[k] = now
        self.k_stale[k] = self.k_spent[k] = inf
        self.k_ends[k] = inf
        if part.lifetime == inf:
            return
        rules, lifetime = part.rules, part.lifetime
        low, high = rules.jitter
        if low != high:
            lifetime *= 1.0 + low + (high - low) * self.pool_random()
        if part.settings.max_lifetime_jitter:
            lifetime += part.settings.max_lifetime_jitter * self.pool_random()
        self.k_ends[k] = now + lifetime
        if "acquire" in rules.lifetime_checked:
            self.k_stale[k] = now + lifetime
        if "release" in rules.lifetime_checked:
            self.k_spent[k] = now + lifetime
        if "timer" in rules.lifetime_checked:
            self.k_timer[k] = self.after(lifetime, LIFE, k, now)

    def open_failed(self, k: int, now: float, kind: ErrorKind) -> None:
        p, c = self.k_pod[k], self.k_client[k]
        part = self.p_part[p]
        is_own = c >= 0
        if not is_own and part.rules.open_retry is not None:
            first, longest = part.rules.open_retry
            self.s_failed[p] += 1
            delay = min(first * 2.0 ** self.k_tries[k], longest)
            self.k_tries[k] = min(self.k_tries[k] + 1, 60)
            self.after(delay, OPENER, k, now)
            return
        self.p_opening[p] -= 1
        self.s_failed[p] += 1
        orphan = self.k_state[k] == ORPHAN
        self.free(k)
        self.forget(p, now)
        if not is_own and not orphan:
            self.opener_done(p, now)
            if self.p_waiting[p]:
                waiter = self.leave_queue(p, now)
                self.recover_if_free(p, now)
                self.fail(waiter, REFUSED if is_refusal(kind) else FAILED, kind, now)
        if part.rules.wakes_on_failure:
            self.open_for_waiters(p, now)
        if is_own:
            self.fail(c, REFUSED if is_refusal(kind) else FAILED, kind, now)
            self.unlock(p, now)

    def abandon(self, c: int, p: int, now: float) -> None:
        """The client gives up while it opens a connection itself."""
        k = next(k for k in self.p_own[p] if self.k_client[k] == c and self.k_state[k] == OPENING)
        if self.p_part[p].rules.abandoned_opening == "kept":
            self.k_state[k] = ORPHAN
            self.k_client[k] = -1
            return
        # The server notices later: its slot is free when the opening would have ended.
        self.k_state[k] = ZOMBIE
        self.k_client[k] = -1
        self.p_opening[p] -= 1
        self.s_failed[p] += 1
        self.forget(p, now)
        self.open_for_waiters(p, now)
        self.unlock(p, now)

    def open_for_waiters(self, p: int, now: float) -> None:
        """Order openings for those who wait, after the rules of the library (PoolRules.growth)."""
        part = self.p_part[p]
        rules = part.rules
        waiting = self.p_waiting[p]
        if waiting and rules.replaced_by == "caller":
            while self.p_waiting[p] and self.p_open[p] < part.max_open and not (rules.barging and self.p_idle[p]):
                c = self.leave_queue(p, now)
                if not self.p_waiting[p]:
                    self.recover_if_free(p, now)
                self.open_for(c, p, now)
            return
        if rules.growth == "ordered":
            wanted = float(waiting)
            if rules.opener == "background":
                wanted = 0.0 if self.p_busy[p] else min(wanted, 1.0)
        elif rules.growth == "one":
            wanted = 0.0 if self.p_busy[p] else min(waiting, 1.0)
            if wanted == 0.0 and not self.p_busy[p] and rules.is_refilled and self.p_open[p] < part.min_idle:
                wanted = 1.0
        else:
            # A waiter that was told of an idle connection is still in the queue until it wakes.
            wanted = waiting - self.p_opening[p] - len(self.p_idle[p])
            if rules.growth == "increment" and wanted > 0:
                wanted = max(wanted, 3)
            if rules.is_refilled and self.p_state[p] == 1:
                have = self.p_open[p] if rules.floor == "open" else len(self.p_idle[p]) + self.p_opening[p] - waiting
                wanted = max(wanted, part.min_idle - have)
        wanted = min(wanted, part.max_open - self.p_open[p])
        if wanted > 0:
            self.order(p, int(wanted), now)

    def order(self, p: int, number: int, now: float) -> None:
        self.p_open[p] += number
        self.p_opening[p] += number
        self.p_ordered[p] += number
        self.open_next(p, now)

    def open_next(self, p: int, now: float) -> None:
        openers = self.p_part[p].rules.openers or inf
        while self.p_ordered[p] and self.p_busy[p] < openers:
            self.p_ordered[p] -= 1
            self.p_busy[p] += 1
            self.begin_opening(p, now)
            self.dial(self.new_connection(p, -1), now)

    def opener_done(self, p: int, now: float) -> None:
        pause = self.p_part[p].rules.open_pause
        if pause:
            self.after(pause, OPENER, -1 - p, now)
        else:
            self.p_busy[p] -= 1

    def opener_wakes(self, number: int, now: float) -> None:
        """A background opener has rested (negative: of a pod), or tries a connection again."""
        if number >= 0:
            if self.k_state[number] == ZOMBIE:
                self.free(number)
            else:
                self.dial(number, now)
            return
        p = -1 - number
        self.p_busy[p] -= 1
        if self.p_state[p] < 3:
            self.open_next(p, now)
            self.open_for_waiters(p, now)

    def fill(self, p: int, now: float) -> None:
        """What a pool opens at its start."""
        part = self.p_part[p]
        number = min(part.min_idle, int(min(part.max_open, 1e9)))
        if part.rules.fill == "background":
            self.order(p, number, now)
        elif part.rules.fill == "before":
            for _ in range(number):
                k = self.new_connection(p, -1)
                self.claim_slot(k, now)
                if self.k_slot[k] not in (1, 3):
                    self.hang_up(k)
                    self.free(k)
                    self.s_failed[p] += 1
                    continue
                self.take_slot(p)
                self.begin_opening(p, now)
                self.p_opening[p] -= 1
                self.s_opened[p] += 1
                self.born(k, p, now)
                self.k_state[k] = IDLE
                self.p_idle[p].append(k)
        self.p_low[p] = len(self.p_idle[p])

    def take(self, k: int, p: int, now: float) -> None:
        self.k_state[k] = IN_USE
        self.k_acquired[k] = now
        if self.p_room[p]:
            self.p_room[p] -= 1
        else:
            self.s_peak_in_use[p] += 1

    def untake(self, k: int, p: int, now: float) -> None:
        self.s_use_time[p] += now - self.k_acquired[k]
        self.k_acquired[k] = now
        self.p_room[p] += 1

    def recover_if_free(self, p: int, now: float) -> None:
        raise NotImplementedError

    def leave_queue(self, p: int, now: float) -> int:
        raise NotImplementedError

    def put(self, k: int, p: int, now: float) -> bool:
        raise NotImplementedError

    def await_patience(self, c: int, p: int, now: float) -> None:
        raise NotImplementedError

    def unlock(self, p: int, now: float) -> None:
        raise NotImplementedError

    def serve(self, c: int, k: int, now: float) -> None:
        raise NotImplementedError

    def fail(self, c: int, outcome: int, kind: ErrorKind, now: float) -> None:
        raise NotImplementedError


def is_refusal(kind: ErrorKind) -> bool:
    """Whether a server or pooler turned the client away because it is full (engines.refusals)."""
    return kind.sqlstate in ("53300", "08P01")
