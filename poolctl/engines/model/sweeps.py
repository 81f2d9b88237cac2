"""What pools do by the clock: cleaners, sweeps, timers of single connections, CoDel; and what a cut does to them."""

from math import inf

from poolctl.engines.model.queues import Queues
from poolctl.engines.model.server import TERMINATED
from poolctl.engines.model.state import CLEAN, IDLE, IN_USE, KNOWN_DEAD, REST, SWEEP, TICK, TIMED_OUT
from poolctl.pool.pool import SHORTEST_CLEANING_INTERVAL
from poolctl.scenario.run import ErrorKind

NPGSQL_SAMPLES = 30
"""Samples of the number of idle connections that Npgsql takes the median of: idle lifetime over pruning interval."""


class Sweeps(Queues):
    __slots__ = ()

    def clean(self, p: int, now: float) -> None:
        """One tick of Go's cleaner: idle time first, then lifetime (Pool.clean)."""
        part = self.p_part[p]
        idle_time = inf if part.settings.max_idle_time is None else part.settings.max_idle_time
        lifetime = part.lifetime if "cleaner" in part.rules.lifetime_checked else inf
        shortest = min(idle_time, lifetime)
        self.p_clean_at[p], self.p_alert[p] = inf, 1
        if self.p_open[p] == 0:
            return
        due = now + shortest
        closing: list[int] = []
        idle = self.p_idle[p]
        if idle_time < inf and idle:
            released = self.k_released
            kept = [k for k in idle if released[k] + idle_time > now]
            if len(kept) < len(idle):
                closing = [k for k in idle if released[k] + idle_time <= now]
                self.s_idle_time[p] += len(closing)
                idle[:] = kept
            if kept:
                due = min(due, released[kept[0]] + idle_time)
        if lifetime < inf and idle:
            born = self.k_born
            expired = [k for k in idle if born[k] + lifetime <= now]
            if expired:
                self.s_lifetime[p] += len(expired)
                closing += expired
                idle[:] = [k for k in idle if born[k] + lifetime > now]
            for k in idle:
                if born[k] + lifetime < due:
                    due = born[k] + lifetime
        due = max(due, now + SHORTEST_CLEANING_INTERVAL)
        self.p_clean_at[p] = due
        self.after(due - now, CLEAN, p, now)
        for k in closing:
            self.close(k, p, now)

    def begin_sweeps(self, p: int, now: float) -> None:
        part = self.p_part[p]
        rules, idle_time = part.rules, part.settings.max_idle_time
        if rules.idle_closing == "one":
            if idle_time is not None:
                self.after(idle_time, SWEEP, p, now)
        elif rules.idle_closing in ("sweep", "median") and part.sweep < inf:
            capped = rules.idle_kept == "sweep" and part.settings.max_idle < part.max_open
            wanted = idle_time is not None or part.lifetime < inf or rules.is_refilled
            if capped or (wanted and rules.idle_kept != "sweep"):
                self.after(part.sweep, SWEEP, p, now)

    def sweep(self, p: int, now: float) -> None:
        part = self.p_part[p]
        rules, idle = part.rules, self.p_idle[p]
        if rules.idle_closing == "one":
            # Only when some were idle all the time since the last look (psycopg_pool, pool.py, _shrink_pool).
            if self.p_low[p] > 0 and self.p_open[p] > part.min_idle and idle:
                self.s_idle_time[p] += 1
                self.close_idle(idle[0], p, now)
            self.p_low[p] = len(idle)
            self.after(part.settings.max_idle_time or 0.0, SWEEP, p, now)
            return
        if "cleaner" in rules.lifetime_checked and part.lifetime < inf:
            for k in [k for k in idle if self.k_ends[k] <= now]:
                self.s_lifetime[p] += 1
                self.close_idle(k, p, now)
        if rules.idle_closing == "median":
            self.prune(p, now)
        elif part.settings.max_idle_time is not None:
            self.close_long_idle(p, now)
        if rules.idle_kept == "sweep":
            while len(idle) > part.settings.max_idle:
                self.s_max_idle[p] += 1
                self.close_idle(idle[0], p, now)
        self.p_old[p] = len(idle)
        if rules.is_refilled and self.p_state[p] == 1:
            self.refill(p, now)
        self.after(part.sweep, SWEEP, p, now)

    def close_long_idle(self, p: int, now: float) -> None:
        part, idle = self.p_part[p], self.p_idle[p]
        rules, since = part.rules, now - (part.settings.max_idle_time or 0.0)
        for k in sorted(idle, key=lambda k: self.k_released[k], reverse=rules.closes_newest):
            if self.k_released[k] <= since and self.above_floor(p):
                self.s_idle_time[p] += 1
                self.close_idle(k, p, now)

    def above_floor(self, p: int) -> bool:
        part = self.p_part[p]
        if part.rules.floor == "none":
            return True
        return (len(self.p_idle[p]) if part.rules.floor == "idle" else self.p_open[p]) > part.min_idle

    def prune(self, p: int, now: float) -> None:
        """Npgsql: close as many as the median of the samples had idle."""
        samples = self.p_samples[p]
        samples.append(len(self.p_idle[p]))
        if len(samples) < NPGSQL_SAMPLES:
            return
        number = sorted(samples)[len(samples) // 2]
        samples.clear()
        while number > 0 and self.p_idle[p] and self.above_floor(p):
            self.s_idle_time[p] += 1
            self.close_idle(self.p_idle[p][0], p, now)
            number -= 1

    def refill(self, p: int, now: float) -> None:
        part = self.p_part[p]
        have = self.p_open[p] if part.rules.floor == "open" else len(self.p_idle[p]) + self.p_opening[p]
        missing = min(part.min_idle - have, part.max_open - self.p_open[p])
        if missing > 0:
            self.order(p, int(missing), now)

    def close_idle(self, k: int, p: int, now: float) -> None:
        """Close one of the idle connections; the caller has counted why."""
        at = self.p_idle[p].index(k)
        if at < self.p_old[p]:
            self.p_old[p] -= 1
        del self.p_idle[p][at]
        self.close(k, p, now)

    def life_ends(self, k: int, seq: int, now: float) -> None:
        """A connection's own timer: it is closed now, or when it is released."""
        if self.k_timer[k] != seq:
            return
        self.k_timer[k] = 0
        self.k_spent[k] = -1.0
        if self.k_state[k] == IDLE:
            self.s_lifetime[self.k_pod[k]] += 1
            self.close_idle(k, self.k_pod[k], now)

    def rest_ends(self, k: int, seq: int, now: float) -> None:
        """A connection's own idle timer; a later release has put it off."""
        if self.k_rest[k] != seq:
            return
        p = self.k_pod[k]
        idle_time = self.p_part[p].settings.max_idle_time
        self.k_rest[k] = 0
        if self.k_state[k] != IDLE or idle_time is None:
            return
        if self.k_released[k] + idle_time > now:
            self.k_rest[k] = self.after(self.k_released[k] + idle_time - now, REST, k, now)
        elif self.above_floor(p):
            self.s_idle_time[p] += 1
            self.close_idle(k, p, now)
        else:
            self.k_rest[k] = self.after(idle_time, REST, k, now)

    def cut(self, k: int, now: float) -> None:
        """The server process behind a connection is gone; the pool may not know."""
        p = self.k_pod[k]
        rules = self.p_part[p].rules
        if self.k_state[k] == IN_USE:
            self.statement_failed(k, TERMINATED, now)
        elif self.k_state[k] == IDLE and rules.dead == "dropped":
            self.s_error[p] += 1
            self.k_dead[k] = KNOWN_DEAD
            self.close_idle(k, p, now)

    def start_codel(self, p: int, now: float) -> None:
        """The poll of DBConnection's CoDel queue runs while somebody waits (connection_pool.ex)."""
        codel = self.p_codel[p]
        if codel[3] < 0.0:
            codel[3] = now
            rules = self.p_part[p].rules
            self.after(rules.codel[1] if rules.codel else 0.0, TICK, p, now)

    def poll_codel(self, p: int, now: float) -> None:
        """Without any progress for an interval, judge by how long the first has waited."""
        rules, codel = self.p_part[p].rules, self.p_codel[p]
        if rules.codel is None or not self.p_waiting[p]:
            codel[3] = -1.0
            return
        target, interval = rules.codel
        first = self.c_since[self.p_fifo[p][0][0]]
        if first <= codel[3] and now >= codel[1]:
            codel[2] = 1.0 if codel[0] > target else 0.0
            codel[0], codel[1] = now - first, now + interval
            if codel[2]:
                self.drop_older(p, 2 * target, now)
        codel[3] = first
        self.after(interval, TICK, p, now)

    def drop_overdue(self, p: int, now: float) -> bool:
        """CoDel at a release (DBConnection.ConnectionPool, dequeue); whether anybody is left to be served."""
        rules, codel = self.p_part[p].rules, self.p_codel[p]
        assert rules.codel is not None
        target, interval = rules.codel
        if now >= codel[1]:
            codel[2] = 1.0 if codel[0] > target else 0.0
            codel[0], codel[1] = inf, now + interval
        elif codel[2]:
            self.drop_older(p, 2 * target, now)
        if not self.p_waiting[p]:
            codel[0] = 0.0
            return False
        codel[0] = min(codel[0], now - self.c_since[self.p_fifo[p][0][0]])
        return True

    def drop_older(self, p: int, age: float, now: float) -> None:
        fifo = self.p_fifo[p]
        while self.p_waiting[p] and now - self.c_since[fifo[0][0]] > age:
            c = self.leave_queue(p, now)
            self.fail(c, TIMED_OUT, self.overdue[self.number_of[id(self.p_part[p])]], now)

    def statement_failed(self, k: int, kind: ErrorKind, now: float) -> None:
        raise NotImplementedError
