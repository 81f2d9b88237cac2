"""The pods: when each begins, what load it brings, when it is over, and what is left of it then.

Decides nothing about who gets which connection, nor about what a request does.
"""

from math import inf, log

from poolctl.engines.model.clients import ANONYMOUS, LEAKED, Requests
from poolctl.engines.model.plan import ModelInstance, ServicePlan, Times, times
from poolctl.engines.model.state import IDLE, IN_USE, OPENING, ORPHAN, OUT, POD_BEGINS, POD_ENDS, QUEUED, WORK, ZOMBIE
from poolctl.scenario.scenario import Scenario


class Instances(Requests):
    __slots__ = ("active_pods", "arrivals", "next_arrival", "pods_left")

    def __init__(self, scenario: Scenario, parts: list[ServicePlan], pods: list[ModelInstance]) -> None:
        super().__init__(scenario, parts, pods)
        self.active_pods: list[list[int]] = [[] for _ in parts]
        """Of each part, the pods that arrivals go to."""
        self.arrivals = [inf] * len(parts)
        """When the next arrival of each part is due: one Poisson process for all its pods together."""
        self.next_arrival = inf
        self.pods_left = len(pods)
        for p, pod in enumerate(pods):
            self.after(pod.begins_at, POD_BEGINS, p, 0.0)
            if pod.ends_at < inf:
                self.after(pod.ends_at, POD_ENDS, p, 0.0)

    def begin_pod(self, p: int, now: float) -> None:
        part, pod = self.p_part[p], self.pods[p]
        self.p_state[p] = 1
        self.fill(p, now)
        self.begin_sweeps(p, now)
        load = part.load
        for _ in range(load.workers or 0):
            self.add_worker(p, inf, -2, part.hold, part.think, now, now)
        for burst in part.bursts:
            if pod.begins_at <= burst.at < pod.ends_at:
                until = inf if burst.until is None else burst.until
                for _ in range(burst.workers):
                    self.add_worker(
                        p, until, burst.requests or -1, times(burst.hold), times(burst.think), burst.at, now
                    )
        if part.rate:
            self.p_sources[p] += 1
            number = self.number_of[id(part)]
            self.active_pods[number].append(p)
            self.plan_arrival(number, now)

    def add_worker(
        self,
        p: int,
        until: float,
        left: int,
        hold: Times,
        think: Times,
        at: float,
        now: float,
    ) -> None:
        w = len(self.w_until)
        self.w_until.append(min(until, self.pods[p].ends_at))
        self.w_left.append(left)
        self.w_think.append(think)
        self.p_sources[p] += 1
        self.after(at - now, WORK, self.new_client(p, w, hold), now)

    def plan_arrival(self, number: int, now: float) -> None:
        """Draw the next arrival; also after the number of pods changed, since the process has no memory."""
        active = self.active_pods[number]
        rate = self.parts[number].rate * len(active)
        self.arrivals[number] = now - log(1.0 - self.arrival_random()) / rate if rate else inf
        self.next_arrival = min(self.arrivals)

    def arrive(self, now: float) -> None:
        number = self.arrivals.index(self.next_arrival)
        active = self.active_pods[number]
        p = active[int(self.arrival_random() * len(active))] if len(active) > 1 else active[0]
        rate = self.parts[number].rate * len(active)
        self.arrivals[number] = now - log(1.0 - self.arrival_random()) / rate
        self.next_arrival = min(self.arrivals)
        self.p_budget[p] -= 1
        if self.p_budget[p] <= 0:
            self.stop_arrivals(p, now)
        self.begin(self.new_arrival(p, number), now, now)

    def stop_arrivals(self, p: int, now: float) -> None:
        number = self.number_of[id(self.p_part[p])]
        if p in self.active_pods[number]:
            self.active_pods[number].remove(p)
            self.p_sources[p] -= 1
            self.plan_arrival(number, now)

    def leave_loop(self, p: int) -> None:
        """Fill in what the loop leaves out of its records, so that every further step of the pod can be a slow one."""
        if not self.p_simple[p]:
            return
        self.p_simple[p] = False
        for k in self.p_own[p]:
            if self.k_state[k] == IN_USE and self.k_client[k] <= ANONYMOUS:
                self.name_anonymous(k)
        for c in self.queued(p):
            if self.c_state[c] == QUEUED:
                self.complete(c)

    def end_load(self, p: int, now: float) -> None:
        """No request begins any more; those begun have the drain."""
        if self.p_state[p] >= 2:
            if self.p_state[p] == 2:
                self.end_pod(p, now)
            return
        self.leave_loop(p)
        self.p_state[p] = 2
        self.stop_arrivals(p, now)
        self.after(self.p_part[p].load.drain, POD_ENDS, p, now)
        self.look_whether_over(p, now)

    def look_whether_over(self, p: int, now: float) -> None:
        if self.p_clients[p] == 0 and (self.p_state[p] == 2 or (self.p_state[p] == 1 and self.p_sources[p] == 0)):
            self.end_pod(p, now)

    def end_pod(self, p: int, now: float) -> None:
        """The process is gone, and with it its connections; what it counted is kept."""
        if self.p_state[p] == 3:
            return
        self.leave_loop(p)
        self.stop_arrivals(p, now)
        tally = self.tallies[self.p_tally[p]]
        for c in self.unserved(p):
            self.c_state[c] = OUT
            self.c_ticket[c] = self.c_serial[c] = 0
            if self.c_counted[c]:
                tally.unfinished += 1
        self.p_state[p] = 3
        self.p_told[p] = now
        self.p_ended[p] = self.stats(p, now)
        self.pods_left -= 1
        self.over = self.pods_left == 0
        if self.over:
            return
        self.close_all(p)

    def queued(self, p: int) -> list[int]:
        return [c for c, ticket in self.p_fifo[p] if self.c_ticket[c] == ticket] + self.p_random[p]

    def unserved(self, p: int) -> list[int]:
        """The clients of a pod that have asked and not got a connection."""
        dialing = [self.k_client[k] for k in self.p_own[p] if self.k_state[k] == OPENING and self.k_client[k] >= 0]
        return self.queued(p) + dialing + [c for c, _ in self.p_locked[p] if c >= 0]

    def close_all(self, p: int) -> None:
        for k in list(self.p_own[p]):
            state = self.k_state[k]
            if state == IDLE or (state == IN_USE and self.k_client[k] == LEAKED):
                self.hang_up(k)
                self.free(k)
            elif state in (OPENING, ORPHAN, IN_USE):
                self.k_state[k] = ZOMBIE
        self.p_idle[p].clear()
        self.p_random[p].clear()
        self.p_fifo[p].clear()
        self.p_open[p] = self.p_opening[p] = self.p_waiting[p] = self.p_ordered[p] = 0
