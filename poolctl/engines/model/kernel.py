"""The clock of the model: one loop that lets happen what is due next, and nothing but that.

Contract with any other kernel (a compiled one must give the same Run, bit for bit):

- What is due next, the first of these at equal times: a job of the server, a timer (in the order they were set), a
  deadline, an arrival. Before any of them, clients that are ready begin their next request, in order.
- Random numbers: MT19937 as in ``random.Random``, seeded with f"{seed}/arrivals", "/holds", "/thinks", "/pool" and
  "/server"; exponential -log(1 - u) * mean, lognormal by Box and Muller (State.draw), a pick among n int(u * n).
  An arrival draws its pod (when there are several), then the gap to the next; an acquire that succeeds draws its
  hold, then hold_outside (when it has a mean); an opening draws its time; a new connection its lifetime's jitter.
- Sums are added in the order of events.

Deadlines are in a deque for each part and arrivals in no structure at all, so that the heaps hold only what is in
flight. ``run`` repeats inside itself the most frequent way of an arrival and of a job's end, that is acquiring an
idle connection, releasing to a waiter and releasing to the idle ones: Requests and Queues say the same slowly, and
``Kernel.inlines`` switches the repetition off for a test that compares the two.
"""

from heapq import heappop, heappush, heapreplace
from math import inf, log

from poolctl.engines.model.plan import EXPONENTIAL, Part, Pod
from poolctl.engines.model.requests import Requests
from poolctl.engines.model.state import (
    BEGIN,
    CLEAN,
    EVENT,
    HOLD_END,
    LIFE,
    OPENED,
    OPENER,
    POD_BEGINS,
    POD_ENDS,
    REST,
    SAMPLE,
    SWEEP,
    TICK,
    WAKE,
    WARM,
    WORK,
)
from poolctl.run import TimelinePoint
from poolctl.scenario import Scenario

CHUNK = 20_000
"""Events between looks at what the user wants and at what grows without end."""

MOST_WAITING = 250_000
"""Waiting requests at which a run is cut off: the queue of an overload without a timeout grows for ever."""

STANDSTILL = 500_000
"""Events without any time passing at which a run is cut off, plus 20 for each client."""

MOST_ROWS = 4_000
"""Rows of the timeline; past it every other row is dropped and the interval doubled."""


class Kernel(Requests):
    __slots__ = ()

    inlines = True

    def __init__(self, scenario: Scenario, parts: list[Part], pods: list[Pod], interval: float) -> None:
        super().__init__(scenario, parts, pods)
        self.interval = interval
        self.timeline: list[TimelinePoint] = []
        self.stuck = False
        self.prepare_inlines()
        self.after(0.0, SAMPLE, 0, 0.0)
        if self.warmup > 0.0:
            self.after(self.warmup, WARM, 0, 0.0)
        for number, event in enumerate(scenario.events):
            if event.do != "deploy":
                self.after(event.at, EVENT, number * 2, 0.0)
                if event.duration:
                    self.after(event.at + event.duration, EVENT, number * 2 + 1, 0.0)

    def prepare_inlines(self) -> None:
        """What the loop needs to know of each pod, in lists."""
        parts = self.p_part
        self.p_simple = [self.inlines and part.is_simple for part in parts]
        self.p_most = [part.max_open for part in parts]
        self.p_keeps = [part.keeps for part in parts]
        self.p_end = [-1 if part.rules.idle_order == "lifo" else 0 for part in parts]
        self.p_picks = [part.rules.waiter_order == "random" for part in parts]
        self.p_queues = [part.rules.waiter_order != "none" and not part.max_queue for part in parts]
        self.p_go = [part.rules.idle_closing == "go" for part in parts]
        self.p_mean = [part.hold[1] if part.hold[0] == EXPONENTIAL else -1.0 for part in parts]
        self.p_waits = [self.waits[number] for number in self.p_tally]
        self.p_uses = [self.uses[number] for number in self.p_tally]

    def run(self) -> None:
        """Let CHUNK things happen, or fewer when the run is over."""
        ready, jobs = self.ready, self.jobs
        hold_random, pool_random, arrival_random = self.hold_random, self.pool_random, self.arrival_random
        k_pod, k_client, k_state, k_acquired = self.k_pod, self.k_client, self.k_state, self.k_acquired
        k_released, k_stale, k_spent = self.k_released, self.k_stale, self.k_spent
        c_pod, c_state, c_due, c_counted, c_since = self.c_pod, self.c_state, self.c_due, self.c_counted, self.c_since
        c_queued, c_serial, c_place, c_ticket = self.c_queued, self.c_serial, self.c_place, self.c_ticket
        c_attempt, c_worker, c_deadline = self.c_attempt, self.c_worker, self.c_deadline
        p_idle, p_waiting, p_random, p_fifo = self.p_idle, self.p_waiting, self.p_random, self.p_fifo
        p_open, p_in_use, p_clients, p_clean_at = self.p_open, self.p_in_use, self.p_clients, self.p_clean_at
        area, peak, since = self.s_use_area, self.s_peak_in_use, self.s_since
        s_queued, s_queued_time = self.s_queued, self.s_queued_time
        p_simple, p_most, p_keeps, p_end = self.p_simple, self.p_most, self.p_keeps, self.p_end
        p_picks, p_go, p_mean, p_queues = self.p_picks, self.p_go, self.p_mean, self.p_queues
        p_waits, p_uses, p_tally, zero_waits = self.p_waits, self.p_uses, self.p_tally, self.zero_waits
        tallies, warmup, is_shared, rates = self.tallies, self.warmup, self.is_shared, self.rates
        part, active = self.parts[0], self.active_pods[0]
        free, patience, hold = self.free_arrivals[0], part.patience, part.hold
        deadlines = self.deadlines[0]
        inlines_arrivals = len(self.parts) == 1 and self.p_simple[0] and part.load.requests == 0
        for _ in range(CHUNK):
            if ready:
                self.work(ready.popleft(), self.now)
                if self.over:
                    return
                continue
            now = self.next_job
            timer = self.timers[0][0]
            deadline, arrival = self.next_deadline, self.next_arrival
            if now <= timer and now <= deadline and now <= arrival and now < inf:
                self.now = now
                jobs = self.jobs
                code = jobs[0][2]
                k = code >> 1
                p = k_pod[k]
                c = k_client[k]
                if c > -3 or code & 1 or not p_simple[p] or k_spent[k] < now:
                    self.take_job(now)
                    if code & 1:
                        self.dial_ended(k, now)
                    else:
                        if c <= -3:
                            self.name_anonymous(k)
                        self.query_ended(k, now)
                    continue
                waiting = p_waiting[p]
                if not waiting and len(p_idle[p]) >= p_keeps[p]:
                    self.name_anonymous(k)
                    self.take_job(now)
                    self.query_ended(k, now)
                    continue
                # The request is over (Requests.give_back, Queues.release).
                if c == -3:
                    p_uses[p].append(now - k_acquired[k])
                k_released[k] = now
                if not waiting:
                    # Kept idle (Queues.put).
                    area[p] += now
                    p_in_use[p] -= 1
                    k_client[k] = -1
                    k_state[k] = 2
                    p_idle[p].append(k)
                    if since[p] >= 0.0:
                        self.recover(p, now)
                    if p_go[p] and p_clean_at[p] == inf:
                        self.start_cleaner(p, now)
                    v = heappop(jobs)[0]
                    self.active = n = self.active - 1
                    if is_shared:
                        self.base_v = v if n else 0.0
                        self.base_t = now
                        self.rate = rates[n or 1]
                    self.next_job = self.base_t + (jobs[0][0] - self.base_v) / self.rate if jobs else inf
                    continue
                # Handed to a waiter (Queues.put, leave_queue; Requests.serve).
                if p_picks[p]:
                    order = p_random[p]
                    c = order[int(pool_random() * waiting)]
                    last = order.pop()
                    if last != c:
                        place = c_place[c]
                        order[place] = last
                        c_place[last] = place
                else:
                    fifo = p_fifo[p]
                    while True:
                        c, ticket = fifo.popleft()
                        if c_ticket[c] == ticket:
                            break
                    c_ticket[c] = 0
                    while fifo and c_ticket[fifo[0][0]] != fifo[0][1]:
                        fifo.popleft()
                p_waiting[p] = waiting - 1
                s_queued_time[p] += now - c_since[c]
                if waiting == 1:
                    self.recover(p, now)
                area[p] = area[p] + now - now
                if c_worker[c] >= 0:
                    p_in_use[p] -= 1
                    self.take_job(now)
                    area[p] += now
                    self.take(k, p, now)
                    self.serve(c, k, now)
                    continue
                if c_counted[c]:
                    p_waits[p].append(now - c_due[c])
                    tally = tallies[p_tally[p]]
                    tally.queued_count += 1
                    tally.queued_time += now - c_queued[c]
                    k_client[k] = -3
                else:
                    k_client[k] = -4
                self.n_acquired += 1
                k_acquired[k] = now
                mean = p_mean[p]
                work = -log(1.0 - hold_random()) * mean if mean >= 0.0 else self.draw(self.c_hold[c], hold_random)
                c_state[c] = c_serial[c] = 0
                p_clients[p] -= 1
                self.free_arrivals[self.number_of[id(self.p_part[p])]].append(c)
                if work <= 0.0:
                    self.name_anonymous(k)
                    self.take_job(now)
                    self.statement(k, work, now)
                    continue
                self.work_done_total += work
                self.seq = seq = self.seq + 1
                if is_shared:
                    n = self.active
                    self.base_v = v = jobs[0][0] if n > 1 else 0.0
                    self.base_t = now
                    self.rate = rates[n]
                    heapreplace(jobs, (v + work, seq, code))
                    self.next_job = now + (jobs[0][0] - v) / self.rate
                else:
                    heapreplace(jobs, (now + work, seq, code))
                    self.next_job = jobs[0][0]
            elif timer <= deadline and timer <= arrival:
                if timer == inf:
                    self.over = True
                    return
                self.now = timer
                _, seq, code = heappop(self.timers)
                self.happen(code & 15, code >> 4, seq, timer)
                if self.over:
                    return
            elif deadline <= arrival:
                self.now = deadline
                self.expire(deadline)
                if self.over:
                    return
            elif not inlines_arrivals:
                self.now = arrival
                self.arrive(arrival)
            else:
                # Requests.arrive.
                self.now = now = arrival
                pods = len(active)
                p = active[int(arrival_random() * pods)] if pods > 1 else active[0]
                self.arrivals[0] = self.next_arrival = now - log(1.0 - arrival_random()) / (part.rate * pods)
                idle = p_idle[p]
                if idle:
                    k = idle[p_end[p]]
                    if k_stale[k] < now:
                        self.begin(self.new_arrival(p, 0), now, now)
                        continue
                    # Queues.attempt, Requests.serve.
                    idle.pop(p_end[p])
                    k_state[k] = 3
                    area[p] -= now
                    p_in_use[p] = n = p_in_use[p] + 1
                    if n > peak[p]:
                        peak[p] = n
                    if now >= warmup:
                        k_client[k] = -3
                        zero_waits[p_tally[p]] += 1
                    else:
                        k_client[k] = -4
                    k_acquired[k] = now
                    self.n_acquired += 1
                    mean = p_mean[p]
                    work = -log(1.0 - hold_random()) * mean if mean >= 0.0 else self.draw(hold, hold_random)
                    if work <= 0.0:
                        self.name_anonymous(k)
                        self.statement(k, work, now)
                        continue
                    self.work_done_total += work
                    self.seq = seq = self.seq + 1
                    self.active = n = self.active + 1
                    jobs = self.jobs
                    if is_shared:
                        self.base_v = v = self.base_v + (now - self.base_t) * self.rate
                        self.base_t = now
                        if self.rate == 0.0 and self.paused:
                            heappush(jobs, (v + work, seq, k * 2))
                            continue
                        self.rate = rates[n]
                        heappush(jobs, (v + work, seq, k * 2))
                        self.next_job = now + (jobs[0][0] - v) / self.rate
                    else:
                        heappush(jobs, (now + work, seq, k * 2))
                        self.next_job = jobs[0][0]
                elif p_open[p] >= p_most[p] and p_queues[p]:
                    # Queues.queue.
                    if free:
                        c = free.pop()
                        c_pod[c] = p
                    else:
                        c = self.new_client(p, -1, hold)
                    c_due[c] = c_since[c] = c_queued[c] = now
                    c_counted[c] = now >= warmup
                    c_state[c] = 1
                    c_attempt[c] = 0
                    p_clients[p] += 1
                    p_waiting[p] += 1
                    s_queued[p] += 1
                    if since[p] < 0.0:
                        self.exhaust(p, now)
                    if p_picks[p]:
                        order = p_random[p]
                        c_place[c] = len(order)
                        order.append(c)
                    else:
                        self.seq = seq = self.seq + 1
                        c_ticket[c] = seq
                        p_fifo[p].append((c, seq))
                    if patience is None:
                        c_deadline[c] = -1.0
                    else:
                        self.serial = serial = self.serial + 1
                        c_serial[c] = serial
                        c_deadline[c] = due = now + patience
                        deadlines.append((due, c, serial))
                        if due < self.next_deadline:
                            self.next_deadline = due
                else:
                    self.begin(self.new_arrival(p, 0), now, now)

    def happen(self, kind: int, number: int, seq: int, now: float) -> None:
        """A timer is due."""
        if kind == HOLD_END:
            if number < 0:
                self.reclaim(-1 - number, now)
            else:
                self.hold_ended(number, now)
        elif kind == OPENED:
            self.dialed(number, now)
        elif kind == WORK:
            self.work(number, now)
        elif kind == BEGIN:
            self.begin_after(number, now)
        elif kind == OPENER:
            self.opener_wakes(number, now)
        elif kind == LIFE:
            self.life_ends(number, seq, now)
        elif kind == REST:
            self.rest_ends(number, seq, now)
        elif kind == SAMPLE:
            self.sample(now)
        elif kind == WARM:
            for p in range(len(self.pods)):
                if self.p_state[p] in (1, 2):
                    self.p_warm[p] = self.stats(p, now)
        elif kind == EVENT:
            if number < 0:
                self.janitor(now)
                return
            event = self.scenario.events[number >> 1]
            (self.end_event if number & 1 else self.serve_event)(event, now)
        elif kind == POD_BEGINS:
            self.begin_pod(number, now)
        elif kind == POD_ENDS:
            self.end_load(number, now)
        elif self.p_state[number] != 3:
            self.tick(kind, number, now)

    def tick(self, kind: int, p: int, now: float) -> None:
        """Something that a pool does by the clock."""
        if kind == CLEAN:
            self.clean(p, now)
        elif kind == SWEEP:
            self.sweep(p, now)
        elif kind == WAKE:
            self.wake(p, now)
        elif kind == TICK:
            self.poll_codel(p, now)

    def expire(self, now: float) -> None:
        """Every deadline that is due; those of acquires that have ended mean nothing."""
        serials, states = self.c_serial, self.c_state
        nearest = inf
        for queue in self.deadlines:
            while queue and queue[0][0] <= now:
                _, c, serial = queue.popleft()
                if serials[c] == serial and 0 < states[c] < 3:
                    self.lose_patience(c, now)
                    if self.over:
                        return
            while queue and serials[queue[0][1]] != queue[0][2]:
                queue.popleft()
            if queue and queue[0][0] < nearest:
                nearest = queue[0][0]
        self.next_deadline = nearest

    def sample(self, now: float) -> None:
        """A row of the timeline, and a look whether anything can still happen."""
        self.timeline.append(self.point(now))
        if len(self.timeline) >= MOST_ROWS:
            del self.timeline[1::2]
            self.interval *= 2
        ticks = (SAMPLE, CLEAN, SWEEP, WARM, TICK)
        unbounded = self.scenario.load.duration is None
        if unbounded and not self.jobs and not self.ready and self.next_arrival == self.next_deadline == inf:
            self.stuck = all(
                timer[2] & 15 in ticks or timer[2] == -16 + EVENT for timer in self.timers if timer[0] < inf
            )
        if self.stuck:
            for p in range(len(self.pods)):
                self.end_pod(p, now)
            return
        self.after(self.interval * len(self.timeline) - now, SAMPLE, 0, now)

    def point(self, now: float) -> TimelinePoint:
        idle, opening, open_ = sum(map(len, self.p_idle)), sum(self.p_opening), sum(self.p_open)
        return TimelinePoint(
            at=round(now, 6),
            open=open_,
            in_use=open_ - idle - opening,
            idle=idle,
            opening=opening,
            waiting=sum(self.p_waiting),
            acquired=self.n_acquired,
            errors=self.n_errors,
            server_connections=self.slots,
        )

    def cut_off(self, reason: str) -> None:
        self.failure = f"cut off at {self.now:.3f} s: {reason}"
        for p in range(len(self.pods)):
            self.end_pod(p, self.now)
        self.over = True
