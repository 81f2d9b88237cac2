"""The hot loop of the model: the frequent ways of a request, without a call.

Requests, Queues and Server say the same slowly, and are what every other way goes, and every way of a scenario with
several services. ``Loop.inlines`` switches this file's ways off, for a test that compares the two.
"""

from heapq import heappop, heappush, heapreplace
from itertools import repeat
from math import inf, log

from poolctl.engines.model.clients import ANONYMOUS, UNCOUNTED
from poolctl.engines.model.instances import Instances
from poolctl.engines.model.plan import EXPONENTIAL, ModelInstance, ServicePlan
from poolctl.engines.model.state import BEGIN, IDLE, IN_USE, OUT, QUEUED, USING
from poolctl.scenario.scenario import Scenario

CHUNK = 2_000
"""Events that ``run`` lets happen: few enough for the processor's cache to keep the times they leave behind."""

LATEST = 1e300
"""Later than anything that happens, and before never."""

MANY = 1 << 29
"""More connections than there are: limits as integers compare faster."""

STEP, BEGINS, SERVES, ENDS = range(4)
"""What is left to the slow ways: the next event; an acquire; a hand-over; the end of a query."""


class Loop(Instances):
    __slots__ = ("is_alone", "p_uses", "p_waits")

    inlines = True

    def __init__(self, scenario: Scenario, parts: list[ServicePlan], pods: list[ModelInstance]) -> None:
        super().__init__(scenario, parts, pods)
        part = parts[0]
        self.is_alone = self.inlines and len(parts) == 1 and part.is_simple and not (part.rate and part.load.requests)
        """Whether there is one service, whose frequent ways may be taken here: what it is told is then in locals."""
        self.p_simple = [self.is_alone] * len(pods)
        self.p_waits = [self.waits[number] for number in self.p_tally]
        self.p_uses = [self.uses[number] for number in self.p_tally]

    def run(self) -> None:
        """Let CHUNK things happen, or fewer when the run is over."""
        if self.is_alone:
            self.run_alone()
            return
        for _ in range(CHUNK):
            self.step()
            if self.over:
                return

    def run_alone(self) -> None:
        """One long function, because in CPython a call costs more than what it would do here, and with as few lists
        as possible, because a large fleet's are in no cache. Until it is clear that an event goes one of the ways of
        this function nothing is changed, so that it can still be left to ``step``.
        """
        ready = self.ready
        hold_random, pool_random, think_random = self.hold_random, self.pool_random, self.think_random
        arrival_random = self.arrival_random
        k_pod, k_client, k_state, k_acquired = self.k_pod, self.k_client, self.k_state, self.k_acquired
        k_released, k_stale, k_spent = self.k_released, self.k_stale, self.k_spent
        c_pod, c_state, c_due, c_counted, c_since = self.c_pod, self.c_state, self.c_due, self.c_counted, self.c_since
        c_serial, c_place, c_ticket, c_held = self.c_serial, self.c_place, self.c_ticket, self.c_held
        c_worker, c_tries = self.c_worker, self.c_tries
        w_until, w_left, w_think = self.w_until, self.w_left, self.w_think
        p_idle, p_waiting, p_random, p_fifo = self.p_idle, self.p_waiting, self.p_random, self.p_fifo
        p_open, p_room, p_clients, p_alert = self.p_open, self.p_room, self.p_clients, self.p_alert
        p_simple, p_budget, p_tally, pods_ = self.p_simple, self.p_budget, self.p_tally, self.pods
        use_time, peak, since = self.s_use_time, self.s_peak_in_use, self.s_since
        s_queued, s_queued_time, tallies = self.s_queued, self.s_queued_time, self.tallies
        p_waits, p_uses, zero_waits = self.p_waits, self.p_uses, self.zero_waits
        warmup, is_shared, rates = self.warmup, self.is_shared, self.rates
        active_pods, free, exhausted = self.active_pods[0], self.free_arrivals[0], self.overdue[0]
        part, deadlines = self.parts[0], self.deadlines[0]
        rules, hold = part.rules, part.hold
        most, keeps = int(min(part.max_open, MANY)), int(min(part.keeps, MANY))
        is_lifo = rules.idle_order == "lifo"
        picks = rules.waiter_order == "random"
        queues = rules.waiter_order != "none" and not part.max_queue
        patience = inf if part.patience is None else part.patience
        mean_hold = hold[1] if hold[0] == EXPONENTIAL else -1.0
        drops = part.patience and not part.load.retries and rules.timed_out_waiter == "leaves"
        turns, what = repeat(None, CHUNK), STEP
        while what >= 0:
            if self.paused:
                # Every query stands still: rare, and not worth a check at each.
                if next(turns, self) is self:
                    return
                self.step()
                if self.over:
                    return
                continue
            jobs, timers = self.jobs, self.timers
            now, seq, job, arrival, deadline = self.now, self.seq, self.next_job, self.next_arrival, self.next_deadline
            active, base_v, base_t, rate = self.active, self.base_v, self.base_t, self.rate
            n_acquired, work_done_total = self.n_acquired, self.work_done_total
            limit = min(timers[0][0], deadline, LATEST)
            pods = len(active_pods)
            pods_rate = part.rate * pods
            what = -1
            for _ in turns:
                if ready:
                    # A worker goes on (Requests.work).
                    c = ready[0]
                    p = c_pod[c]
                    w = c_worker[c]
                    if not p_simple[p] or now >= w_until[w] or w_left[w] != -2 or p_budget[p] < 1.0:
                        what = STEP
                        break
                    ready.popleft()
                    p_budget[p] -= 1.0
                    think = w_think[w]
                    mean = think[1]
                    if mean > 0.0:
                        due = now + (
                            -log(1.0 - think_random()) * mean
                            if think[0] == EXPONENTIAL
                            else self.draw(think, think_random)
                        )
                        seq += 1
                        heappush(timers, (due, seq, c * 16 + BEGIN))
                        if due < limit:
                            limit = due
                        continue
                elif job <= arrival and job <= limit:
                    v, _, k = jobs[0]
                    if k < 0 or k_spent[k] < job:
                        what = STEP
                        break
                    p = k_pod[k]
                    c = k_client[k]
                    # A pod that is to be left to the slow ways has no anonymous requests (Instances.leave_loop).
                    if c >= 0 and not p_simple[p]:
                        what = STEP
                        break
                    waiting = p_waiting[p]
                    if not waiting:
                        idle = p_idle[p]
                        if len(idle) >= keeps:
                            what = STEP
                            break
                    now = job
                    if c >= 0 or not waiting:
                        # Server.take_job.
                        heappop(jobs)
                        active -= 1
                        if not is_shared:
                            job = jobs[0][0] if active else inf
                        elif active:
                            base_v, base_t = v, now
                            rate = rates[active]
                            job = now + (jobs[0][0] - v) / rate
                        else:
                            base_v, base_t = 0.0, now
                            rate = rates[1]
                            job = inf
                    # The request is over (Requests.give_back, Queues.release).
                    used = now - k_acquired[k]
                    if c == ANONYMOUS:
                        p_uses[p].append(used)
                    elif c >= 0:
                        if job <= now or timers[0][0] <= now:
                            # Those at the same instant come first.
                            what = ENDS
                            break
                        if c_counted[c]:
                            p_uses[p].append(used)
                        c_state[c] = OUT
                        c_tries[c] = 0
                        c_held[c].clear()
                        p_clients[p] -= 1
                        ready.append(c)
                    use_time[p] += used
                    k_released[k] = now
                    if not waiting:
                        # Kept idle (Queues.put).
                        p_room[p] += 1
                        k_state[k] = IDLE
                        idle.append(k)
                        if p_alert[p]:
                            self.seq = seq
                            self.notice_idle(p, now)
                            seq = self.seq
                            limit = min(timers[0][0], deadline, LATEST)
                        continue
                    # Handed to a waiter (Queues.put, leave_queue, hand_over; Requests.serve).
                    is_taken = c >= 0
                    if picks:
                        order = p_random[p]
                        c = order[int(pool_random() * waiting)]
                        last = order.pop()
                        if last != c:
                            place = c_place[c]
                            order[place] = last
                            c_place[last] = place
                    else:
                        c, ticket = p_fifo[p].popleft()
                        while c_ticket[c] != ticket:
                            c, ticket = p_fifo[p].popleft()
                        c_ticket[c] = 0
                    p_waiting[p] = waiting - 1
                    if waiting == 1:
                        self.recover(p, now)
                    if c_state[c] != QUEUED:
                        s_queued_time[p] += now - c_since[c]
                        what = SERVES
                        break
                    due = c_due[c]
                    wait = now - due
                    s_queued_time[p] += wait
                    c_serial[c] = 0
                    if due >= warmup:
                        k_client[k] = ANONYMOUS
                        p_waits[p].append(wait)
                        tally = tallies[p_tally[p]]
                        tally.queued_count += 1
                        tally.queued_time += wait
                    else:
                        k_client[k] = UNCOUNTED
                    if c_worker[c] < 0:
                        c_state[c] = OUT
                        free.append(c)
                    else:
                        k_client[k] = c
                        c_state[c] = USING
                        c_counted[c] = due >= warmup
                        c_held[c].append(k)
                    n_acquired += 1
                    k_acquired[k] = now
                    work = -log(1.0 - hold_random()) * mean_hold if mean_hold > 0.0 else self.draw(hold, hold_random)
                    work_done_total += work
                    seq += 1
                    if is_taken:
                        active += 1
                        if is_shared:
                            rate = rates[active]
                            heappush(jobs, (base_v + work, seq, k))
                            job = now + (jobs[0][0] - base_v) / rate
                        else:
                            heappush(jobs, (now + work, seq, k))
                            job = jobs[0][0]
                    elif is_shared:
                        base_v = v if active > 1 else 0.0
                        base_t = now
                        heapreplace(jobs, (base_v + work, seq, k))
                        job = now + (jobs[0][0] - base_v) / rate
                    else:
                        heapreplace(jobs, (now + work, seq, k))
                        job = jobs[0][0]
                    continue
                elif arrival < limit:
                    # Requests.arrive.
                    now = arrival
                    p = active_pods[int(arrival_random() * pods)] if pods > 1 else active_pods[0]
                    arrival = now - log(1.0 - arrival_random()) / pods_rate
                    c = -1
                elif timers[0][0] <= deadline:
                    # A worker has thought (Requests.begin_after).
                    due, _, code = timers[0]
                    c = code >> 4
                    if code & 15 != BEGIN or c_tries[c] or w_left[c_worker[c]] != -2:
                        what = STEP
                        break
                    p = c_pod[c]
                    if not p_simple[p] or due >= pods_[p].ends_at:
                        what = STEP
                        break
                    heappop(timers)
                    limit = min(timers[0][0], deadline, LATEST)
                    now = due
                else:
                    # A waiter gives up (Kernel.expire, Queues.lose_patience; Requests.fail, end).
                    if not drops:
                        what = STEP
                        break
                    due, c, serial = deadlines[0]
                    p = c_pod[c]
                    # Those who give up at the same instant do so before a worker among them goes on.
                    is_tied = len(deadlines) > 1 and deadlines[1][0] <= due
                    if c_serial[c] != serial or c_state[c] != QUEUED or not p_simple[p] or is_tied:
                        what = STEP
                        break
                    now = due
                    deadlines.popleft()
                    if picks:
                        order = p_random[p]
                        last = order.pop()
                        if last != c:
                            place = c_place[c]
                            order[place] = last
                            c_place[last] = place
                    else:
                        c_ticket[c] = 0
                    p_waiting[p] = waiting = p_waiting[p] - 1
                    wait = now - c_due[c]
                    s_queued_time[p] += wait
                    if not waiting:
                        self.recover_if_free(p, now)
                    counted = c_due[c] >= warmup
                    if counted:
                        p_waits[p].append(wait)
                        tally = tallies[p_tally[p]]
                        tally.queued_count += 1
                        tally.queued_time += wait
                        tally.timed_out += 1
                    self.error(p, counted, exhausted, now)
                    c_state[c] = OUT
                    c_serial[c] = 0
                    if c_worker[c] < 0:
                        free.append(c)
                    else:
                        p_clients[p] -= 1
                        ready.append(c)
                    while deadlines and c_serial[deadlines[0][1]] != deadlines[0][2]:
                        deadlines.popleft()
                    deadline = deadlines[0][0] if deadlines else inf
                    limit = min(timers[0][0], deadline, LATEST)
                    continue
                # An acquire by the worker c, or by an arrival (Queues.attempt).
                idle = p_idle[p]
                if idle:
                    k = idle.pop() if is_lifo else idle.pop(0)
                    if k_stale[k] < now:
                        idle.insert(len(idle) if is_lifo else 0, k)
                        what = BEGINS
                        break
                    # Openings.take, Requests.serve, Server.add_job.
                    k_state[k] = IN_USE
                    if p_room[p]:
                        p_room[p] -= 1
                    else:
                        peak[p] += 1
                    if c >= 0:
                        k_client[k] = c
                        c_state[c] = USING
                        c_counted[c] = counted = now >= warmup
                        zero_waits[p] += counted
                        c_held[c].append(k)
                        p_clients[p] += 1
                    elif now >= warmup:
                        k_client[k] = ANONYMOUS
                        zero_waits[p] += 1
                    else:
                        k_client[k] = UNCOUNTED
                    k_acquired[k] = now
                    n_acquired += 1
                    work = -log(1.0 - hold_random()) * mean_hold if mean_hold > 0.0 else self.draw(hold, hold_random)
                    work_done_total += work
                    seq += 1
                    active += 1
                    if is_shared:
                        base_v += (now - base_t) * rate
                        base_t = now
                        rate = rates[active]
                        heappush(jobs, (base_v + work, seq, k))
                        job = now + (jobs[0][0] - base_v) / rate
                    else:
                        heappush(jobs, (now + work, seq, k))
                        job = jobs[0][0]
                elif p_open[p] >= most and queues:
                    # Queues.queue.
                    if c >= 0:
                        p_clients[p] += 1
                    elif free:
                        c = free.pop()
                        c_pod[c] = p
                    else:
                        c = self.new_client(p, -1, hold)
                    c_due[c] = now
                    c_state[c] = QUEUED
                    p_waiting[p] += 1
                    s_queued[p] += 1
                    if since[p] < 0.0:
                        self.exhaust(p, now)
                    if picks:
                        order = p_random[p]
                        c_place[c] = len(order)
                        order.append(c)
                    else:
                        seq += 1
                        c_ticket[c] = seq
                        p_fifo[p].append((c, seq))
                    due = now + patience
                    if due < inf:
                        self.serial = serial = self.serial + 1
                        c_serial[c] = serial
                        deadlines.append((due, c, serial))
                        if due < deadline:
                            deadline = due
                            if due < limit:
                                limit = due
                else:
                    what = BEGINS
                    break
            self.now, self.seq, self.next_job, self.next_deadline = now, seq, job, deadline
            self.active, self.base_v, self.base_t, self.rate = active, base_v, base_t, rate
            self.n_acquired, self.work_done_total = n_acquired, work_done_total
            self.arrivals[0] = self.next_arrival = arrival
            if what == STEP:
                self.step()
            elif what == BEGINS:
                self.begin(self.new_arrival(p, 0) if c < 0 else c, now, now)
            elif what == SERVES:
                c_state[c] = OUT
                p_room[p] += 1
                if not is_taken:
                    self.take_job(now)
                self.take(k, p, now)
                self.serve(c, k, now)
            elif what == ENDS:
                self.query_ended(k, now)
            if self.over:
                return

    def step(self) -> None:
        raise NotImplementedError
