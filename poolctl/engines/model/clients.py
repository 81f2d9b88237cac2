"""What a request does: acquire, hold, release, leak, try again; and what its worker does after it.

The rules are those of the live driver (engines.loop). Decides nothing about who gets which connection.
"""

from poolctl.engines.model.server import TERMINATED
from poolctl.engines.model.state import ALIVE, BEGIN, HOLD_END, IN_USE, OUT, REFUSED, TIMED_OUT, USING, WORK, ZOMBIE
from poolctl.engines.model.sweeps import Sweeps
from poolctl.scenario.run import ErrorKind

LEAKED, ANONYMOUS, UNCOUNTED = -2, -3, -4
"""In k_client: whoever had it has forgotten it; a request without a record of its own, after or in the warm-up."""


PINS = ("in-transaction", "unread-rows", "long-hold")
"""Shapes of a leak that keep a server connection also behind PgBouncer in transaction mode."""


class Requests(Sweeps):
    __slots__ = ()

    def name_anonymous(self, k: int) -> None:
        """Give a client to a connection whose user was not worth one, now that more than its release matters."""
        p = self.k_pod[k]
        c = self.new_arrival(p, self.number_of[id(self.p_part[p])])
        self.c_state[c] = USING
        self.c_counted[c] = self.k_client[k] == ANONYMOUS
        self.c_held[c].append(k)
        self.p_clients[p] += 1
        self.k_client[k] = c

    def work(self, c: int, now: float) -> None:
        """A worker comes to its next request: think, then acquire."""
        w, p = self.c_worker[c], self.c_pod[c]
        if now >= self.w_until[w] or not self.takes_request(w, p):
            self.retire(c, p, now)
            return
        think = self.w_think[w]
        if think[1] > 0.0:
            self.after(self.draw(think, self.think_random), BEGIN, c, now)
        else:
            self.begin(c, now, now)

    def takes_request(self, w: int, p: int) -> bool:
        left = self.w_left[w]
        if left == -2:
            self.p_budget[p] -= 1
            return self.p_budget[p] >= 0
        if left > 0:
            self.w_left[w] -= 1
        return left != 0

    def retire(self, c: int, p: int, now: float) -> None:
        self.p_sources[p] -= 1
        self.c_state[c] = OUT
        self.free_clients.append(c)
        self.look_whether_over(p, now)

    def begin_after(self, c: int, now: float) -> None:
        """A worker has thought, or a failed request tries again."""
        p = self.c_pod[c]
        if self.p_state[p] == 3:
            return
        if self.c_tries[c]:
            self.c_due[c] = now
            self.acquire(c, now)
        elif now >= self.pods[p].ends_at:
            self.retire(c, p, now)
        else:
            self.begin(c, now, now)

    def begin(self, c: int, due: float, now: float) -> None:
        p = self.c_pod[c]
        part = self.p_part[p]
        self.c_due[c] = due
        self.c_counted[c] = due >= self.warmup
        self.p_clients[p] += 1
        if part.every:
            self.p_requests[p] += 1
            self.c_leaks[c] = self.p_requests[p] % part.every == 0
        self.acquire(c, now)

    def serve(self, c: int, k: int, now: float) -> None:
        """The acquire succeeded: hold the connection."""
        p = self.c_pod[c]
        self.c_state[c] = USING
        self.c_last[c] = k
        self.k_client[k] = c
        self.c_held[c].append(k)
        self.note_wait(c, p, now)
        self.n_acquired += 1
        if self.p_simple[p] and self.c_worker[c] < 0:
            # Needs no record any more, and the loop can end it by itself.
            self.k_client[k] = ANONYMOUS if self.c_counted[c] else UNCOUNTED
            self.c_held[c].clear()
            self.c_state[c] = self.c_serial[c] = self.c_tries[c] = 0
            self.p_clients[p] -= 1
            self.free_arrivals[self.number_of[id(self.p_part[p])]].append(c)
            self.statement(k, self.draw(self.c_hold[c], self.hold_random), now)
            return
        if self.k_dead[k]:
            # Told by the statement, which fails at once.
            self.k_outside[k] = 0.0
            self.after(0.0, HOLD_END, k, now)
            return
        work = self.draw(self.c_hold[c], self.hold_random)
        outside = self.p_part[p].outside
        if outside[1] > 0.0:
            spent = min(self.draw(outside, self.hold_random), work)
            self.k_outside[k] = spent
            work -= spent
        else:
            self.k_outside[k] = 0.0
        self.statement(k, work * self.slow_factor, now)

    def note_wait(self, c: int, p: int, now: float) -> None:
        if not self.c_counted[c]:
            return
        number = self.p_tally[p]
        wait = now - self.c_due[c]
        if wait > 0.0:
            self.waits[number].append(wait)
        else:
            self.zero_waits[p] += 1
        if self.c_queued[c] >= 0.0:
            tally = self.tallies[number]
            tally.queued_count += 1
            tally.queued_time += now - self.c_queued[c]

    def fail(self, c: int, outcome: int, kind: ErrorKind, now: float) -> None:
        """The acquire ended without a connection, and with it the request, unless it tries again."""
        p = self.c_pod[c]
        part, counted = self.p_part[p], self.c_counted[c]
        self.c_state[c] = OUT
        self.note_wait(c, p, now)
        self.error(p, counted, kind, now)
        if counted:
            tally = self.tallies[self.p_tally[p]]
            if outcome == TIMED_OUT:
                tally.timed_out += 1
            elif outcome == REFUSED:
                tally.refused += 1
            else:
                tally.failed += 1
        load = part.load
        if self.c_tries[c] < load.retries and now < self.pods[p].ends_at:
            self.give_back(c, now)
            delay = load.retry_backoff * load.retry_growth ** self.c_tries[c]
            if load.retry_jitter:
                delay *= 1.0 - load.retry_jitter * self.think_random()
            self.c_tries[c] += 1
            self.after(delay, BEGIN, c, now)
            return
        rejected = outcome == TIMED_OUT and now == self.c_due[c]
        self.end(c, now, load.error_pause if outcome != TIMED_OUT or rejected else 0.0)

    def hold_ended(self, k: int, now: float) -> None:
        """One hold is over: acquire the next connection, leak, or release all."""
        if self.k_state[k] == ZOMBIE:
            self.hang_up(k)
            self.free(k)
            return
        if self.k_dead[k]:
            self.statement_failed(k, TERMINATED, now)
            return
        if self.k_client[k] <= ANONYMOUS:
            self.name_anonymous(k)
        c = self.k_client[k]
        p = self.c_pod[c]
        if self.via == "pgbouncer" and not (self.p_part[p].every and self.c_leaks[c] and self.p_part[p].shape in PINS):
            self.statement_over(k, now)
        if len(self.c_held[c]) < self.p_part[p].load.connections_per_request:
            self.c_due[c] = now
            self.acquire(c, now)
        elif self.p_part[p].every and self.c_leaks[c]:
            self.leak(c, p, now)
        else:
            self.end(c, now, 0.0)

    def statement_failed(self, k: int, kind: ErrorKind, now: float) -> None:
        c = self.k_client[k]
        if c < 0 or self.c_state[c] != USING or self.c_held[c][-1] != k:
            # Leaked, or held by a request that does something else now and will find out later.
            return
        self.error(self.c_pod[c], self.c_counted[c], kind, now)
        self.end(c, now, 0.0)

    def give_back(self, c: int, now: float) -> None:
        held, p = self.c_held[c], self.c_pod[c]
        for k in held:
            if self.c_counted[c]:
                number = self.p_tally[p]
                self.uses[number].append(now - self.k_acquired[k])
                if now > self.pods[p].ends_at:
                    self.late[number] += 1
            self.release(k, now, self.k_dead[k] != ALIVE)
        held.clear()

    def end(self, c: int, now: float, pause: float) -> None:
        """The request is over: release what it holds; its worker goes on."""
        p = self.c_pod[c]
        self.c_state[c] = OUT
        self.p_clients[p] -= 1
        self.c_tries[c] = 0
        # The worker's next request comes after those that this release serves.
        self.give_back(c, now)
        self.go_on(c, p, now, pause)

    def go_on(self, c: int, p: int, now: float, pause: float) -> None:
        if self.c_worker[c] < 0:
            self.c_serial[c] = 0
            self.free_arrivals[self.number_of[id(self.p_part[p])]].append(c)
            self.look_whether_over(p, now)
        elif pause > 0.0:
            self.after(pause, WORK, c, now)
        else:
            self.ready.append(c)

    def leak(self, c: int, p: int, now: float) -> None:
        """The request is over, and its connections never come back, unless the library gets them back itself."""
        part, held = self.p_part[p], self.c_held[c]
        if self.c_counted[c]:
            self.tallies[self.p_tally[p]].leaked += len(held)
        fate = part.rules.dropped_reference if part.shape == "dropped-reference" else "kept"
        for k in held:
            self.k_client[k] = LEAKED
            if fate == "returned":
                self.release(k, now)
                continue
            self.p_leaked[p] += 1
            if fate == "closed":
                self.hang_up(k)
            elif part.rules.abandoned_after is not None:
                self.after(max(self.k_acquired[k] + part.rules.abandoned_after - now, 0.0), HOLD_END, -1 - k, now)
        held.clear()
        self.c_state[c] = OUT
        self.p_clients[p] -= 1
        self.go_on(c, p, now, 0.0)

    def reclaim(self, k: int, now: float) -> None:
        """A holder that forgot its connection is disconnected."""
        p = self.k_pod[k]
        if self.k_client[k] != LEAKED or self.k_state[k] != IN_USE:
            return
        self.p_leaked[p] -= 1
        self.s_reclaimed[p] += 1
        self.untake(k, p, now)
        self.close(k, p, now)

    def look_whether_over(self, p: int, now: float) -> None:
        raise NotImplementedError
