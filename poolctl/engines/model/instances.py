"""The instances: each has a pool of its own, carries out what the pool says, and ends with its part of the run.

Decides nothing about who gets which connection, nor about what a request does.
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf, log
from random import Random

from poolctl.engines.model.clients import (
    BLOCKED,
    DIALING,
    OUT,
    TIMED_OUT,
    WAITING,
    Client,
    ModelWorker,
    Requests,
    outcome_of,
)
from poolctl.engines.model.clock import Clock
from poolctl.engines.model.counts import RunCounter
from poolctl.engines.model.plan import ModelInstance, ServicePlan, Times, times
from poolctl.engines.model.server import Link
from poolctl.pool import (
    Action,
    Alarm,
    Answer,
    Blocked,
    Close,
    Connection,
    Fail,
    HandOver,
    Open,
    Pool,
    PoolStats,
    Reject,
    Retry,
    Stale,
    Use,
    Wait,
)
from poolctl.scenario.run import ErrorKind


class ServiceState:
    """What the instances of a service share: arrivals, deadlines, and the records of clients to use again."""

    def __init__(self, number: int, plan: ServicePlan, clock: Clock, random: Callable[[], float]) -> None:
        self.number, self.plan, self.clock, self.random = number, plan, clock, random
        self.all_services = [self]
        self.active: list[Instance] = []
        """The instances that arrivals go to."""
        self.next_arrival = inf
        """One Poisson process for all instances together."""
        self.free_clients: list[Client] = []
        self.deadlines: deque[tuple[float, Client, int]] = deque()
        """In order, because the patience of a service is constant: (when, client, serial)."""

    def plan_arrival(self, now: float) -> None:
        """Draw the next arrival; also after the number of instances changed, since the process has no memory."""
        rate = self.plan.rate * len(self.active)
        self.next_arrival = now - log(1.0 - self.random()) / rate if rate else inf

    def arrive(self, now: float) -> Client:
        """Return the client of the request that arrives now, and plan the next arrival."""
        active = self.active
        instance = active[int(self.random() * len(active))] if len(active) > 1 else active[0]
        self.next_arrival = now - log(1.0 - self.random()) / (self.plan.rate * len(active))
        instance.budget -= 1
        if instance.budget <= 0:
            instance.stop_arrivals(now)
        if not self.free_clients:
            return Client(instance, self.plan.hold)
        client = self.free_clients.pop()
        client.instance = instance
        return client

    def next_deadline(self) -> float:
        """Return the nearest deadline that still means something, and drop those before it."""
        deadlines = self.deadlines
        while deadlines and deadlines[0][1].serial != deadlines[0][2]:
            deadlines.popleft()
        return deadlines[0][0] if deadlines else inf


class Instance:
    """One instance of a service, as long as it runs."""

    def __init__(
        self,
        window: ModelInstance,
        service: ServiceState,
        clock: Clock,
        requests: Requests,
        counter: RunCounter,
        random: Random,
        on_end: Callable[[], None],
    ) -> None:
        self.service, self.clock, self.requests_of_run, self.counter = service, clock, requests, counter
        self.plan, self.network = service.plan, requests.network
        self.number_of_service = service.number
        self.begins_at, self.ends_at = window.begins_at, window.ends_at
        self.pool = Pool(self.plan.settings, random, self.plan.rules)
        self.serve = requests.serve
        self.on_end = on_end
        self.links: dict[Link, None] = {}
        """All its connections, in the order in which their openings began."""
        self.clients = 0
        self.sources = 0
        self.requests = 0
        self.budget = float(self.plan.load.requests or inf)
        self.is_running = self.is_draining = False
        self.is_gone = self.is_closed = False
        """Whether its process has ended; whether its connections are closed, which the end of the run leaves open."""
        self.warm: PoolStats | None = None
        self.ended: PoolStats | None = None
        self.reported_at = 0.0
        clock.at(self.begins_at, self.begin, None)
        if self.ends_at < inf:
            clock.at(self.ends_at, self.end_load, None)

    def begin(self, _: None, now: float) -> None:
        """Start the pool and the load."""
        self.is_running = True
        self.fill(now)
        self.carry_out(self.pool.start(now), now)
        plan, load = self.plan, self.plan.load
        for _number in range(load.workers or 0):
            self.add_worker(ModelWorker(inf, plan.think, is_burst=False, left=None), plan.hold, now, now)
        for burst in plan.bursts:
            if self.begins_at <= burst.at < self.ends_at:
                until = inf if burst.until is None else burst.until
                for _number in range(burst.workers):
                    worker = ModelWorker(until, times(burst.think), is_burst=True, left=burst.requests or None)
                    self.add_worker(worker, times(burst.hold), burst.at, now)
        if plan.rate:
            self.sources += 1
            self.service.active.append(self)
            self.service.plan_arrival(now)
            self.clock.next_arrival = min(service.next_arrival for service in self.service.all_services)

    def add_worker(self, worker: ModelWorker, hold: Times, at: float, now: float) -> None:
        worker.until = min(worker.until, self.ends_at)
        self.sources += 1
        self.clock.after(at - now, self.requests_of_run.work, Client(self, hold, worker))

    def fill(self, now: float) -> None:
        """Open what the library opens before it serves requests, in no time."""
        for _ in range(self.pool.filled_before):
            connection = Connection(None)
            link = Link(connection, self)
            if self.network.claim(link, now):
                self.links[link] = None
                self.carry_out(self.pool.adopt(connection, now), now)
            else:
                self.network.hang_up(link)
                self.pool.count_failed_opening()

    def acquire(self, client: Client, now: float) -> None:
        """Begin an acquire."""
        client.serial += 1
        client.attempt = 0
        client.queued_at = client.deadline = None
        answer = self.pool.acquire(client, now, 0, client.last)
        if type(answer) is Use:
            self.serve(client, answer.connection.handle, now)
        else:
            self.obey(client, answer, now)

    def obey(self, client: Client, answer: Answer, now: float) -> None:
        """Do what the pool answered, and ask again as long as it says so."""
        while type(answer) is Stale:
            self.close(answer.connection, now)
            client.attempt += 1
            answer = self.pool.acquire(client, now, client.attempt, client.last)
        if type(answer) is Use:
            self.serve(client, answer.connection.handle, now)
        elif type(answer) is Open:
            self.open(answer, now)
        elif type(answer) is Wait:
            client.state = WAITING
            if client.queued_at is None:
                client.queued_at = now
            self.await_patience(client, now, opens=False)
            if answer.actions:
                self.carry_out(answer.actions, now)
        elif type(answer) is Reject:
            self.requests_of_run.fail(
                client, TIMED_OUT, self.plan.rejected if answer.is_queue_full else self.plan.overdue, now
            )
        elif type(answer) is Blocked:
            client.state = BLOCKED

    def carry_out(self, actions: Iterable[Action], now: float) -> None:
        """Do what the pool says, in this order."""
        for action in actions:
            kind = type(action)
            if kind is HandOver:
                self.serve(action.request, action.connection.handle, now)  # type: ignore[union-attr, arg-type]
            elif kind is Close:
                self.close(action.connection, now)  # type: ignore[union-attr]
            elif kind is Open:
                self.open(action, now)  # type: ignore[arg-type]
            elif kind is Alarm:
                self.set_alarm(action, now)  # type: ignore[arg-type]
            elif kind is Retry:
                client: Client = action.request  # type: ignore[union-attr, assignment]
                self.obey(client, self.pool.acquire(client, now, client.attempt, client.last), now)
            elif kind is Fail:
                self.fail_soon(action, now)  # type: ignore[arg-type]

    def set_alarm(self, alarm: Alarm, now: float) -> None:
        if alarm.at <= now:
            self.carry_out(alarm.ring(now), now)
        else:
            self.clock.at(alarm.at, self.ring, alarm)

    def ring(self, alarm: Alarm, now: float) -> None:
        """Ring an alarm of the pool that is due."""
        if not self.is_gone:
            self.carry_out(alarm.ring(now), now)

    def fail_soon(self, failed: Fail, now: float) -> None:
        """Let a waiting client learn of its failure when the pool is done with what it does."""
        client: Client = failed.request  # type: ignore[assignment]
        client.state = OUT
        overdue = failed.error is None
        client.failure = (TIMED_OUT, self.plan.overdue) if overdue else (outcome_of(failed.error), failed.error)
        self.clock.ready.append(client)

    def open(self, action: Open, now: float) -> None:
        """Begin an opening."""
        if action.instead_of is not None:
            replaced: Link = action.instead_of.handle
            self.network.hang_up(replaced)
            self.forget(replaced)
        connection = action.connection
        link: Link = connection.handle or Link(connection, self)
        self.links[link] = None
        if connection.request is not None:
            client: Client = connection.request  # type: ignore[assignment]
            client.state = DIALING
            client.dialing = link
            self.await_patience(client, now, opens=True)
        self.network.dial(link, now)

    def opened(self, link: Link, now: float) -> None:
        """Report an opening that succeeded to the pool."""
        if now >= self.requests_of_run.warmup:
            self.counter.tally.connect_time.record(now - link.asked_at)
        self.carry_out(self.pool.opened(link.connection, now), now)

    def open_failed(self, link: Link, now: float, kind: ErrorKind) -> None:
        """Report an opening that failed to the pool, and to the client that waits for it."""
        client: Client | None = link.connection.request  # type: ignore[assignment]
        actions = self.pool.open_failed(link.connection, now, kind)
        if link.connection.state == "gone":
            self.forget(link)
        self.carry_out(actions, now)
        if client is not None:
            self.requests_of_run.fail(client, outcome_of(kind), kind, now)

    def close(self, connection: Connection, now: float) -> None:
        """Close a connection, which takes no time here."""
        link: Link = connection.handle
        self.network.hang_up(link)
        self.forget(link)
        self.carry_out(self.pool.closed(connection, now), now)

    def release(self, link: Link, now: float) -> None:
        """Give a connection back to the pool."""
        link.client = None
        connection = link.connection
        actions = self.pool.release(connection, now, broken=connection.is_lost)
        if connection.state in ("idle", "returning"):
            link.is_busy = False
        if actions:
            self.carry_out(actions, now)

    def lose(self, link: Link, kind: ErrorKind, now: float) -> None:
        """Note that the server process behind a connection is gone; the library may not know."""
        if link.connection.state == "in_use":
            self.requests_of_run.fail_statement(link, kind, now)
        else:
            self.carry_out(self.pool.drop_lost(link.connection), now)

    def fail_statement(self, link: Link, kind: ErrorKind, now: float) -> None:
        """End the request whose statement a pooler has ended."""
        self.requests_of_run.fail_statement(link, kind, now)

    def reclaim(self, link: Link, now: float) -> None:
        """Take a leaked connection back."""
        self.carry_out(self.pool.reclaim(link.connection, now), now)

    def forget(self, link: Link) -> None:
        """Drop a connection that is gone."""
        self.links.pop(link, None)

    def keep_record(self, client: Client) -> None:
        """Keep the record of a client that has made its one request, to use it again."""
        self.service.free_clients.append(client)

    def await_patience(self, client: Client, now: float, *, opens: bool) -> None:
        """Set when the acquire gives up."""
        if self.plan.patience is None:
            return
        deadline = self.plan.rules.deadline(self.plan.settings, now, client.deadline, opens=opens)
        if deadline is None:
            return
        if client.deadline is not None:
            client.serial += 1
        client.deadline = deadline
        self.service.deadlines.append((deadline, client, client.serial))
        self.clock.next_deadline = min(self.clock.next_deadline, deadline)

    def lose_patience(self, client: Client, now: float) -> None:
        """End an acquire whose deadline has come."""
        if client.state == WAITING:
            answer = self.pool.give_up(client, now)
            if answer is not None:
                self.obey(client, answer, now)
                return
        else:
            assert client.dialing is not None
            link = client.dialing
            actions = self.pool.abandon(link.connection, now)
            # An ended opening has left the pool; the server notices when it would have ended.
            link.is_orphan = link.connection.state == "gone"
            self.carry_out(actions, now)
        self.requests_of_run.fail(client, TIMED_OUT, self.plan.overdue, now)

    def stop_arrivals(self, now: float) -> None:
        """Begin no request by arrivals any more."""
        if self in self.service.active:
            self.service.active.remove(self)
            self.sources -= 1
            self.service.plan_arrival(now)
            self.clock.next_arrival = min(service.next_arrival for service in self.service.all_services)

    def end_load(self, _: None, now: float) -> None:
        """Begin no request any more; those begun have the drain."""
        if self.is_gone:
            return
        if self.is_draining:
            self.end(now)
            return
        self.is_draining = True
        self.pool.stop_refilling()
        self.stop_arrivals(now)
        self.clock.after(self.plan.load.drain, self.end_load, None)
        self.end_if_over(now)

    def end_if_over(self, now: float) -> None:
        """End when nothing is to be done any more. Without a number of requests the load lasts for its duration."""
        is_done = self.sources == 0 and self.plan.load.ends_when_done
        if self.clients == 0 and self.is_running and (self.is_draining or is_done):
            self.end(now)

    def end(self, now: float) -> None:
        """End the process, and with it its connections; what it counted is kept."""
        if self.is_gone:
            return
        self.stop_arrivals(now)
        self.pool.stop_refilling()
        for request in self.pool.unserved:
            client: Client = request  # type: ignore[assignment]
            client.state = OUT
            client.serial += 1
            if client.counted:
                self.counter.note_unfinished(now - client.due, is_queued=client.queued_at is not None)
        self.is_gone = True
        self.reported_at = now
        self.ended = self.pool.stats(now)
        self.on_end()
        if self.clock.is_over:
            return
        self.is_closed = True
        for link in list(self.links):
            state = link.connection.state
            if state in ("idle", "returning") or (state == "in_use" and link.is_leaked):
                self.network.hang_up(link)
                self.forget(link)
            elif state in ("opening", "in_use"):
                link.is_orphan = True
                link.is_busy = False

    @property
    def gauges(self) -> tuple[int, int, int, int, int]:
        """How many connections are open, in use, idle and opening, and how many requests wait."""
        return (0, 0, 0, 0, 0) if self.is_closed else self.pool.gauges
