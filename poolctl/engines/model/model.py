"""The model: a run in virtual time, made of a clock, a server, perhaps a pooler, instances with a Pool each, clients.

One loop lets happen what is due next, and nothing but that; what that does is in the files beside this one.
"""

from heapq import heappop
from math import inf
from random import Random

from poolctl.engines.model import clock as limits
from poolctl.engines.model.clients import DIALING, WAITING, Requests
from poolctl.engines.model.clock import STREAMS, Clock
from poolctl.engines.model.counts import RunCounter, number_counters
from poolctl.engines.model.instances import Instance, ServiceState
from poolctl.engines.model.plan import ModelInstance, ServicePlan
from poolctl.engines.model.poolers import new_network
from poolctl.engines.model.result import KernelOutcome
from poolctl.engines.model.server import CUTS, ModelServer
from poolctl.pool import Alarm
from poolctl.scenario.run import TimelinePoint
from poolctl.scenario.scenario import Event, Scenario

CHUNK = 2_000
"""Events that ``run`` lets happen: few enough for the processor's cache to keep the times they leave behind."""


class Model:
    """One run of a scenario."""

    def __init__(
        self, scenario: Scenario, plans: list[ServicePlan], windows: list[ModelInstance], interval: float
    ) -> None:
        self.scenario, self.plans, self.windows, self.interval = scenario, plans, windows, interval
        self.warmup = scenario.load.warmup
        randoms = {name: Random(f"{scenario.load.seed}/{name}") for name in STREAMS}
        streams = {name: random.random for name, random in randoms.items()}
        self.clock = Clock()
        self.server = ModelServer(scenario, self.clock, streams["server"])
        self.network = new_network(scenario, self.server)
        self.requests = Requests(self.clock, self.server, self.network, streams, self.warmup)
        self.services = [
            ServiceState(number, plan, self.clock, streams["arrivals"]) for number, plan in enumerate(plans)
        ]
        for service in self.services:
            service.all_services = self.services
        self.counter_of = number_counters(plans, windows)
        self.counters = [RunCounter() for _ in range(max(self.counter_of) + 1)]
        self.instances_left = len(windows)
        self.instances = [
            Instance(
                window,
                self.services[window.part],
                self.clock,
                self.requests,
                self.counters[number],
                randoms["pool"],
                self.note_end,
            )
            for window, number in zip(windows, self.counter_of, strict=True)
        ]
        self.timeline: list[TimelinePoint] = []
        self.part_peaks = [(0, 0)] * len(plans)
        """Of each service, most open and most in use at once, as sampled."""
        self.is_stuck = False
        self.failure: str | None = None
        self.why_cut_off = ""
        self.clock.at(0.0, self.sample, None)
        if self.warmup > 0.0:
            self.clock.at(self.warmup, self.note_warm, None)
        for event in scenario.events:
            if event.do != "deploy":
                self.clock.at(event.at, self.begin_event, event)
                if event.duration:
                    self.clock.at(event.at + event.duration, self.server.end_event, event)

    def run(self) -> None:
        """Let CHUNK things happen, or fewer when the run is over."""
        clock, server, step = self.clock, self.server, self.requests.step
        ready, timers = clock.ready, clock.timers
        for _ in range(CHUNK):
            if ready:
                step(ready.popleft(), clock.now)
            else:
                job, timer, deadline, arrival = server.next_job, timers[0][0], clock.next_deadline, clock.next_arrival
                if job <= timer and job <= deadline and job <= arrival:
                    if job == inf:
                        clock.is_over = True
                    else:
                        clock.now = job
                        server.end_job(job)
                elif timer <= deadline and timer <= arrival:
                    clock.now = timer
                    _, _, happening, subject = heappop(timers)
                    happening(subject, timer)
                elif deadline <= arrival:
                    clock.now = deadline
                    self.expire(deadline)
                else:
                    clock.now = arrival
                    self.arrive(arrival)
            if clock.is_over:
                return

    def arrive(self, now: float) -> None:
        """Begin the request that arrives now."""
        for service in self.services:
            if service.next_arrival == now:
                client = service.arrive(now)
                break
        self.clock.next_arrival = min([service.next_arrival for service in self.services])
        self.requests.begin(client, now, now)

    def expire(self, now: float) -> None:
        """End every acquire whose deadline is due; the deadlines of acquires that have ended mean nothing."""
        for service in self.services:
            deadlines = service.deadlines
            while deadlines and deadlines[0][0] <= now:
                _, client, serial = deadlines.popleft()
                if client.serial == serial and client.state in (WAITING, DIALING):
                    client.instance.lose_patience(client, now)
                    if self.clock.is_over:
                        return
        self.clock.next_deadline = min(service.next_deadline() for service in self.services)

    def begin_event(self, event: Event, now: float) -> None:
        """Begin an event of the scenario."""
        self.server.begin_event(event, now)
        if event.do in CUTS:
            self.network.cut_all([link for instance in self.instances for link in instance.links], now)

    def note_warm(self, _: None, now: float) -> None:
        """Note what the pools have counted in the warm-up, which is over."""
        for instance in self.instances:
            if instance.is_running and not instance.is_gone:
                instance.warm = instance.pool.stats(now)

    def note_end(self) -> None:
        """Note that an instance has ended."""
        self.instances_left -= 1
        self.clock.is_over = self.instances_left == 0

    def sample(self, _: None, now: float) -> None:
        """Add a row to the timeline, and find out whether anything can still happen."""
        self.timeline.append(self.point(now))
        if self.timeline[-1].waiting > limits.MOST_WAITING:
            self.cut_off_queue()
            return
        if len(self.timeline) >= limits.MOST_ROWS:
            del self.timeline[1::2]
            self.interval *= 2
        self.is_stuck = self.scenario.load.duration is None and self.can_nothing_happen()
        if self.is_stuck:
            for instance in self.instances:
                instance.end(now)
            return
        self.clock.after(self.interval * len(self.timeline) - now, self.sample, None)

    def can_nothing_happen(self) -> bool:
        """Return whether every request waits, and nothing is under way that could ever serve one."""
        clock = self.clock
        clock.next_deadline = min(service.next_deadline() for service in self.services)
        if self.server.jobs or clock.ready or min(clock.next_arrival, clock.next_deadline) < inf:
            return False
        aside = (print, self.sample, self.note_warm, getattr(self.network, "janitor", None))
        return all(
            happening in aside or (isinstance(subject, Alarm) and subject.repeats)
            for _, _, happening, subject in clock.timers
        )

    def point(self, now: float) -> TimelinePoint:
        """Return the row of the timeline for this instant."""
        rows = [instance.gauges for instance in self.instances]
        if len(self.services) > 1:
            self.note_peaks(rows)
        open_, in_use, idle, opening, waiting = (sum(column) for column in zip(*rows, strict=True))
        return TimelinePoint(
            at=round(now, 6),
            open=open_,
            in_use=in_use,
            idle=idle,
            opening=opening,
            waiting=waiting,
            acquired=self.requests.n_acquired,
            errors=self.requests.n_errors,
            server_connections=self.server.slots,
        )

    def note_peaks(self, rows: list[tuple[int, int, int, int, int]]) -> None:
        """Note the most that each service has had open and in use."""
        for number, (most_open, most_in_use) in enumerate(self.part_peaks):
            own = [row for row, window in zip(rows, self.windows, strict=True) if window.part == number]
            self.part_peaks[number] = (
                max(most_open, sum(row[0] for row in own)),
                max(most_in_use, sum(row[1] for row in own)),
            )

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(instance.gauges[4] for instance in self.instances)

    @property
    def clients(self) -> int:
        """How many requests are under way or may begin at once."""
        return sum(instance.sources + instance.clients for instance in self.instances)

    def cut_off_queue(self) -> None:
        """End the run because its queue grows without end."""
        self.why_cut_off = "queue"
        self.failure = describe_endless_queue(self.clock.now, self.waiting)
        self.stop()

    def cut_off_standstill(self) -> None:
        """End the run because no time passes in it."""
        self.why_cut_off = "standstill"
        self.failure = (
            f"cut off at {self.clock.now:.3f} s: the load cannot end: requests follow each other without any time "
            "passing (no hold, no think, no patience)"
        )
        self.stop()

    def stop(self) -> None:
        """End every instance now."""
        for instance in self.instances:
            instance.end(self.clock.now)
        self.clock.is_over = True

    def flush(self) -> None:
        """Count the times that were collected."""
        for counter in self.counters:
            counter.flush()

    def finish(self) -> KernelOutcome:
        """Return the figures of the run."""
        now = self.clock.now
        if self.server.is_shared:
            self.server.advance(now)
        for counter in self.counters:
            counter.finish()
        self.timeline.append(self.point(now))
        for instance in self.instances:
            if not instance.is_gone:
                instance.reported_at = now
        return KernelOutcome(
            scenario=self.scenario,
            windows=self.windows,
            now=now,
            timeline=self.timeline,
            tallies=[counter.tally for counter in self.counters],
            late=[counter.late for counter in self.counters],
            counter_of=self.counter_of,
            ended=[instance.ended or instance.pool.stats(now) for instance in self.instances],
            warm=[instance.warm for instance in self.instances],
            reported_at=[instance.reported_at for instance in self.instances],
            part_peaks=self.part_peaks,
            work_done=self.server.work_done,
            peak_slots=self.server.peak_slots,
            refused=self.server.refused,
            is_stuck=self.is_stuck,
            failure=self.failure,
            why_cut_off=self.why_cut_off,
            kernel="plain",
        )


def describe_endless_queue(now: float, waiting: int) -> str:
    """Say why a run was cut off whose queue grows without end."""
    return (
        f"cut off at {now:.3f} s: {waiting:,} requests wait and none gives up: more arrive than the pools can serve, "
        "and without acquire_timeout the queue grows for ever"
    )
