"""What a request does: acquire, hold, release, leak, try again; and what its worker does after it.

The rules are those of the live driver (engines.instance.event_loop). Decides nothing about who gets which connection.
"""

from collections.abc import Callable
from typing import Protocol

from poolctl.engines.model.clock import Clock, draw
from poolctl.engines.model.counts import RunCounter
from poolctl.engines.model.plan import ServicePlan, Times
from poolctl.engines.model.poolers import ModelPgBouncer, ModelPgpool
from poolctl.engines.model.server import TERMINATED, Link, ModelServer
from poolctl.pool import Connection
from poolctl.scenario.run import ErrorKind

OUT, WAITING, DIALING, USING, BLOCKED = range(5)
"""What a client does."""

TIMED_OUT, REFUSED, FAILED = range(3)
"""How an acquire can end without a connection."""

PINS = ("in-transaction", "unread-rows", "long-hold")
"""Shapes of a leak that keep a server connection also behind PgBouncer in transaction mode."""


class Home(Protocol):
    """The instance that a client belongs to."""

    plan: ServicePlan
    counter: RunCounter
    ends_at: float
    is_gone: bool
    clients: int
    """Requests that have begun and are not over."""
    sources: int
    """Workers, and streams of arrivals, that may begin more."""
    requests: int
    """Begun so far, to find the ones that leak."""
    budget: float
    """Requests that its steady workers and arrivals may still begin."""

    def acquire(self, client: "Client", now: float) -> None:
        """Begin an acquire."""

    def lose_patience(self, client: "Client", now: float) -> None:
        """End an acquire whose deadline has come."""

    def release(self, link: Link, now: float) -> None:
        """Give a connection back to the pool."""

    def keep_record(self, client: "Client") -> None:
        """Keep the record of a client that has made its one request, to use it again."""

    def end_if_over(self, now: float) -> None:
        """End when nothing is to be done any more."""


class ModelWorker:
    """One closed loop. ``left``: requests that a burst's may still make; None: no bound of its own."""

    __slots__ = ("is_burst", "left", "think", "until")

    def __init__(self, until: float, think: Times, *, is_burst: bool, left: int | None) -> None:
        self.until, self.think, self.is_burst, self.left = until, think, is_burst, left


class Client:
    """Who makes requests, one at a time: a worker many, an arrival one, after which its record is used again."""

    __slots__ = (
        "attempt",
        "counted",
        "deadline",
        "dialing",
        "due",
        "failure",
        "held",
        "hold",
        "instance",
        "last",
        "leaks",
        "queued_at",
        "serial",
        "state",
        "tries",
        "worker",
    )

    def __init__(self, instance: Home, hold: Times, worker: ModelWorker | None = None) -> None:
        self.instance, self.hold, self.worker = instance, hold, worker
        self.state = OUT
        self.serial = 0
        """The number of its present acquire; deadlines of others are void."""
        self.attempt = self.tries = 0
        self.due = 0.0
        self.queued_at: float | None = None
        """When its present acquire first queued; None: it did not."""
        self.deadline: float | None = None
        self.counted = self.leaks = False
        self.held: list[Link] = []
        self.last: Connection | None = None
        """The connection that its thread used last."""
        self.dialing: Link | None = None
        """The connection that it opens for itself."""
        self.failure: tuple[int, ErrorKind] | None = None
        """How its acquire has ended, of which it learns with its next step."""


class Requests:
    """The requests of a run."""

    def __init__(
        self,
        clock: Clock,
        server: ModelServer,
        network: ModelServer | ModelPgBouncer | ModelPgpool,
        streams: dict[str, Callable[[], float]],
        warmup: float,
    ) -> None:
        self.clock, self.server, self.network, self.warmup = clock, server, network, warmup
        self.hold_random, self.think_random = streams["holds"], streams["thinks"]
        self.has_pooler = network is not server
        self.n_acquired = self.n_errors = 0
        """From the start, warm-up included."""
        server.query_over = self.end_hold

    def step(self, client: Client, now: float) -> None:
        """Let a client that is ready go on."""
        if client.failure is not None:
            failure, client.failure = client.failure, None
            self.fail(client, *failure, now)
        else:
            self.work(client, now)

    def work(self, client: Client, now: float) -> None:
        """Begin the next request of a worker: think, then acquire."""
        worker = client.worker
        assert worker is not None
        if now >= worker.until or not self.takes_request(client.instance, worker):
            self.retire(client, now)
        elif worker.think[1] > 0.0:
            self.clock.after(draw(worker.think, self.think_random), self.begin_late, client)
        else:
            self.begin(client, now, now)

    def takes_request(self, instance: Home, worker: ModelWorker) -> bool:
        """Return whether ``worker`` may begin one more: the steady ones share the instance's budget."""
        if not worker.is_burst:
            instance.budget -= 1
            return instance.budget >= 0
        if worker.left is None:
            return True
        worker.left -= 1
        return worker.left >= 0

    def retire(self, client: Client, now: float) -> None:
        client.state = OUT
        client.instance.sources -= 1
        client.instance.end_if_over(now)

    def begin_late(self, client: Client, now: float) -> None:
        """Begin the request of a worker that has thought, or the next try of a failed one."""
        instance = client.instance
        if instance.is_gone:
            return
        if client.tries:
            client.due = now
            instance.acquire(client, now)
        elif now >= instance.ends_at:
            self.retire(client, now)
        else:
            self.begin(client, now, now)

    def begin(self, client: Client, due: float, now: float) -> None:
        """Begin a request."""
        instance = client.instance
        client.due = due
        client.counted = due >= self.warmup
        instance.counter.tally.requests += client.counted
        instance.clients += 1
        if instance.plan.every:
            instance.requests += 1
            client.leaks = instance.requests % instance.plan.every == 0
        instance.acquire(client, now)

    def serve(self, client: Client, link: Link, now: float) -> None:
        """Hold the connection of an acquire that succeeded."""
        client.state = USING
        client.last = connection = link.connection
        link.client = client
        link.is_busy = True
        client.held.append(link)
        if client.counted:
            self.note_wait(client, now)
        self.n_acquired += 1
        if connection.is_lost:
            # The statement finds out, and fails at once.
            link.outside = 0.0
            self.clock.after(0.0, self.end_hold, link)
            return
        work = draw(client.hold, self.hold_random)
        outside = client.instance.plan.outside
        if outside[1] > 0.0:
            spent = min(draw(outside, self.hold_random), work)
            link.outside = spent
            work -= spent
        self.network.statement(link, work * self.server.slow_factor, now)

    def note_wait(self, client: Client, now: float) -> None:
        """Count the wait of an acquire that has ended."""
        counter = client.instance.counter
        wait = now - client.due
        if wait > 0.0:
            counter.waits.values.append(wait)
        else:
            counter.waits.zeros += 1
        if client.queued_at is not None:
            counter.tally.queued_count += 1
            counter.tally.queued_time += now - client.queued_at

    def note_error(self, client: Client, kind: ErrorKind, now: float) -> None:
        self.n_errors += 1
        if client.counted:
            client.instance.counter.note_error(kind, now)

    def fail(self, client: Client, outcome: int, kind: ErrorKind, now: float) -> None:
        """End an acquire without a connection, and with it the request, unless it tries again."""
        instance = client.instance
        client.state = OUT
        if client.counted:
            self.note_wait(client, now)
            tally = instance.counter.tally
            if outcome == TIMED_OUT:
                tally.timed_out += 1
            elif outcome == REFUSED:
                tally.refused += 1
            else:
                tally.failed += 1
        self.note_error(client, kind, now)
        load = instance.plan.load
        if client.tries < load.retries and now < instance.ends_at:
            self.give_back(client, now)
            delay = load.retry_backoff * load.retry_growth**client.tries
            if load.retry_jitter:
                delay *= 1.0 - load.retry_jitter * self.think_random()
            client.tries += 1
            self.clock.after(delay, self.begin_late, client)
            return
        instance.counter.tally.requests_failed += client.counted
        is_rejected = outcome == TIMED_OUT and now == client.due
        self.end(client, now, load.error_pause if outcome != TIMED_OUT or is_rejected else 0.0)

    def end_hold(self, link: Link, now: float) -> None:
        """End one hold: acquire the next connection, leak, or release all."""
        if link.is_orphan:
            self.network.hang_up(link)
            link.instance.forget(link)
            return
        if link.connection.is_lost:
            self.fail_statement(link, TERMINATED, now)
            return
        client: Client = link.client
        plan = client.instance.plan
        if self.has_pooler and not (plan.every and client.leaks and plan.shape in PINS):
            self.network.end_statement(link, now)
        if len(client.held) < plan.load.connections_per_request:
            client.due = now
            client.instance.acquire(client, now)
        elif plan.every and client.leaks:
            self.leak(client, now)
        else:
            client.instance.counter.tally.requests_completed += client.counted
            self.end(client, now, 0.0)

    def fail_statement(self, link: Link, kind: ErrorKind, now: float) -> None:
        """End a request whose statement has failed."""
        client: Client | None = link.client
        if client is None or client.state != USING or client.held[-1] is not link:
            # Leaked, or held by a request that does something else now and will find out later.
            return
        client.instance.counter.tally.requests_failed += client.counted
        self.note_error(client, kind, now)
        self.end(client, now, 0.0)

    def give_back(self, client: Client, now: float) -> None:
        """Release what the client holds."""
        held, client.held = client.held, []
        instance = client.instance
        for link in held:
            if client.counted:
                instance.counter.uses.values.append(now - link.connection.acquired_at)
                if now > instance.ends_at:
                    instance.counter.late += 1
            instance.release(link, now)

    def end(self, client: Client, now: float, pause: float) -> None:
        """End a request: release what it holds, and let its worker go on."""
        client.state = OUT
        client.instance.clients -= 1
        client.tries = 0
        # The worker's next request comes after the requests that this release serves.
        self.give_back(client, now)
        self.go_on(client, now, pause)

    def go_on(self, client: Client, now: float, pause: float) -> None:
        if client.worker is None:
            client.serial += 1
            client.instance.keep_record(client)
            client.instance.end_if_over(now)
        elif pause > 0.0:
            self.clock.after(pause, self.work, client)
        else:
            self.clock.ready.append(client)

    def leak(self, client: Client, now: float) -> None:
        """End a request whose connections never come back, unless the library gets them back itself."""
        instance, held = client.instance, client.held
        plan = instance.plan
        client.held = []
        if client.counted:
            instance.counter.tally.requests_completed += 1
            instance.counter.tally.leaked += len(held)
        fate = plan.rules.dropped_reference if plan.shape == "dropped-reference" else "kept"
        for link in held:
            link.client = None
            link.is_leaked = True
            if fate == "returned":
                link.is_leaked = False
                instance.release(link, now)
            elif fate == "closed":
                self.network.hang_up(link)
            elif plan.rules.abandoned_after is not None:
                due = link.connection.acquired_at + plan.rules.abandoned_after
                self.clock.after(max(due - now, 0.0), self.reclaim, link)
        client.state = OUT
        instance.clients -= 1
        self.go_on(client, now, 0.0)

    def reclaim(self, link: Link, now: float) -> None:
        """Take back a connection that its holder forgot, where the library does so."""
        if link.is_leaked and link.connection.state == "in_use" and not link.is_orphan:
            link.is_leaked = False
            link.instance.reclaim(link, now)


def outcome_of(kind: ErrorKind) -> int:
    """Return how an acquire ends whose opening failed: refused where a server or pooler was full (error_origin)."""
    return REFUSED if kind.sqlstate in ("53300", "08P01") else FAILED
