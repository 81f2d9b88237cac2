"""The clock of the model: one loop that lets happen what is due next, and nothing but that.

Contract with the compiled kernel (_kernel.c), which must give the same Run, bit for bit:

- What is due next, the first of these at equal times: a job of the server, a timer (in the order they were set), a
  deadline, an arrival. Before any of them, clients that are ready begin their next request, in order.
- Random numbers: MT19937 as in ``random.Random``, seeded with f"{seed}/arrivals", "/holds", "/thinks", "/pool" and
  "/server"; exponential -log(1 - u) * mean, lognormal by Box and Muller (State.draw), a pick among n int(u * n).
  An arrival draws its pod (when there are several), then the gap to the next; an acquire that succeeds draws its
  hold, then hold_outside (when it has a mean); an opening draws its time; a new connection its lifetime's jitter.
- Sums are added in the order of events; what is in use is added up in the order in which connections were made.
- Records of connections and of clients are used again last in, first out: a few libraries go by them.
- What grows without end is cut off at a sample. A standstill is left to the plain kernel, which counts its events.

Deadlines are in a deque for each part and arrivals in no structure at all, so that the heaps hold only what is in
flight. The frequent ways of a request are repeated in ``loop``, without a call.
"""

from heapq import heappop
from math import inf

from poolctl.engines.model.loop import Loop
from poolctl.engines.model.plan import ModelInstance, ServicePlan
from poolctl.engines.model.state import (
    BEGIN,
    CLEAN,
    DIALING,
    EVENT,
    HOLD_END,
    LIFE,
    OPENED,
    OPENER,
    POD_BEGINS,
    POD_ENDS,
    QUEUED,
    REST,
    SAMPLE,
    SWEEP,
    TICK,
    WAITING,
    WAKE,
    WARM,
    WORK,
)
from poolctl.scenario.run import TimelinePoint
from poolctl.scenario.scenario import Scenario

MOST_WAITING = 250_000
"""Waiting requests at which a run is cut off: the queue of an overload without a timeout grows for ever."""

STANDSTILL = 500_000
"""Events without any progress of time at which a run is cut off, plus 20 for each client."""

PROGRESS = 1e-3
"""Seconds of the run's clock that are progress. Not any at all: acquires that time out at once take no time either."""

MOST_ROWS = 4_000
"""Rows of the timeline; past it every other row is dropped and the interval doubled."""


class Kernel(Loop):
    __slots__ = (
        "interval",
        "part_peaks",
        "stuck",
        "timeline",
        "why_cut_off",
    )

    def __init__(
        self, scenario: Scenario, parts: list[ServicePlan], pods: list[ModelInstance], interval: float
    ) -> None:
        super().__init__(scenario, parts, pods)
        self.interval = interval
        self.timeline: list[TimelinePoint] = []
        self.part_peaks = [(0, 0)] * len(parts)
        """Of each service, most open and most in use at once, as sampled."""
        self.stuck = False
        self.why_cut_off = ""
        self.after(0.0, SAMPLE, 0, 0.0)
        if self.warmup > 0.0:
            self.after(self.warmup, WARM, 0, 0.0)
        for number, event in enumerate(scenario.events):
            if event.do != "deploy":
                self.after(event.at, EVENT, number * 2, 0.0)
                if event.duration:
                    self.after(event.at + event.duration, EVENT, number * 2 + 1, 0.0)

    def step(self) -> None:
        """Let the one thing happen that is due next."""
        if self.ready:
            self.work(self.ready.popleft(), self.now)
            return
        job, timer, deadline, arrival = self.next_job, self.timers[0][0], self.next_deadline, self.next_arrival
        now = min(job, timer, deadline, arrival)
        if now == inf:
            self.over = True
            return
        self.now = now
        if job == now:
            k = self.take_job(now)
            if k < 0:
                self.dial_ended(-1 - k, now)
            else:
                self.query_ended(k, now)
        elif timer == now:
            _, seq, code = heappop(self.timers)
            self.happen(code & 15, code >> 4, seq, now)
        elif deadline == now:
            self.expire(now)
        else:
            self.arrive(now)

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

    def forget_deadlines(self) -> None:
        """Drop those at the front that mean nothing any more."""
        serials, nearest = self.c_serial, inf
        for queue in self.deadlines:
            while queue and serials[queue[0][1]] != queue[0][2]:
                queue.popleft()
            if queue and queue[0][0] < nearest:
                nearest = queue[0][0]
        self.next_deadline = nearest

    def expire(self, now: float) -> None:
        """Every deadline that is due; those of acquires that have ended mean nothing."""
        serials, states = self.c_serial, self.c_state
        for queue in self.deadlines:
            while queue and queue[0][0] <= now:
                _, c, serial = queue.popleft()
                if serials[c] == serial and states[c] in (WAITING, DIALING, QUEUED):
                    self.lose_patience(c, now)
                    if self.over:
                        return
        self.forget_deadlines()

    def sample(self, now: float) -> None:
        """A row of the timeline, and a look whether anything can still happen."""
        self.timeline.append(self.point(now))
        if self.timeline[-1].waiting > MOST_WAITING:
            self.cut_off_queue()
            return
        if len(self.timeline) >= MOST_ROWS:
            del self.timeline[1::2]
            self.interval *= 2
        ticks = (SAMPLE, CLEAN, SWEEP, WARM, TICK)
        unbounded = self.scenario.load.duration is None
        if unbounded:
            self.forget_deadlines()
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
        if len(self.parts) > 1:
            self.note_peaks()
        idle, opening, open_ = sum(map(len, self.p_idle)), sum(self.p_opening), sum(self.p_open)
        ordered = sum(self.p_ordered)
        return TimelinePoint(
            at=round(now, 6),
            open=open_ - ordered,
            in_use=open_ - idle - opening,
            idle=idle,
            opening=opening - ordered,
            waiting=sum(self.p_waiting),
            acquired=self.n_acquired,
            errors=self.n_errors,
            server_connections=self.slots,
        )

    def note_peaks(self) -> None:
        open_, in_use = [0] * len(self.parts), [0] * len(self.parts)
        for p, pod in enumerate(self.pods):
            open_[pod.part] += self.p_open[p] - self.p_ordered[p]
            in_use[pod.part] += self.p_open[p] - len(self.p_idle[p]) - self.p_opening[p]
        self.part_peaks = [
            (max(peak[0], now_open), max(peak[1], now_used))
            for peak, now_open, now_used in zip(self.part_peaks, open_, in_use, strict=True)
        ]

    def cut_off_queue(self) -> None:
        self.why_cut_off = "queue"
        self.failure = endless_queue(self.now, sum(self.p_waiting))
        self.stop()

    def cut_off_standstill(self) -> None:
        self.why_cut_off = "standstill"
        self.failure = (
            f"cut off at {self.now:.3f} s: the load cannot end: requests follow each other without any time passing "
            "(no hold, no think, no patience)"
        )
        self.stop()

    def stop(self) -> None:
        for p in range(len(self.pods)):
            self.end_pod(p, self.now)
        self.over = True

    def finish(self) -> None:
        super().finish()
        for tally, seen in zip(self.tallies, self.errors, strict=True):
            tally.errors = {kind: (count, first_at) for count, first_at, kind in seen.values()}
        self.timeline.append(self.point(self.now))
        for p, ended in enumerate(self.p_ended):
            if ended is None:
                self.p_ended[p], self.p_told[p] = self.stats(p, self.now), self.now


def endless_queue(now: float, waiting: int) -> str:
    return (
        f"cut off at {now:.3f} s: {waiting:,} requests wait and none gives up: more arrive than the pools can serve, "
        "and without acquire_timeout the queue grows for ever"
    )
