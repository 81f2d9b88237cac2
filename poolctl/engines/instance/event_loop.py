"""The event loop of an instance with a ``database/sql`` pool: one thread, non-blocking connections, our own Pool.

Decides when requests begin, how long they hold a connection and how they leak. The pool decides which client gets a
connection. Times are seconds on the run's clock.
"""

from collections import deque
from random import Random

from poolctl.engines.instance.async_connection import AsyncConnection
from poolctl.engines.instance.channel import PROGRESS_INTERVAL, InstanceChannel
from poolctl.engines.instance.native_pool import NativePool
from poolctl.engines.instance.request_counter import RequestCounter
from poolctl.engines.instance.statements import LONG_HOLD_BEAT, UNREAD_ROWS, make_parameter, make_statement, takes_hold
from poolctl.engines.instance.timers import Timers
from poolctl.engines.workload import Job, Worker, Workload
from poolctl.pool import Connection, Use
from poolctl.scenario.run import ErrorKind
from poolctl.scenario.scenario import Distribution

END_CHECK = 0.02
"""Seconds between two checks for the end of the run."""


class LoadClient:
    """A client that makes one request at a time: a closed loop (``worker``) many, an arrival of the open loop one.

    ``due``: when the present acquire was wanted. ``until``: from when on a closed loop begins no request;
    ``has_budget``: a limit on its number of requests may end it earlier. ``repeats``: nothing is to be decided between
    two of its requests.
    """

    __slots__ = (
        "attempt",
        "counted",
        "deadline",
        "due",
        "has_budget",
        "held",
        "hold",
        "holds",
        "holds_until",
        "last",
        "leaks",
        "queued_at",
        "random",
        "repeats",
        "slowed",
        "state",
        "thinks",
        "ticket",
        "until",
        "worker",
    )

    def __init__(self, loop: "InstanceLoop", hold: Distribution, random: Random, worker: Worker | None = None) -> None:
        self.hold, self.random, self.worker = hold, random, worker
        self.thinks = worker is not None and worker.think.mean > 0
        self.has_budget = worker is not None and loop.workload.is_bounded(worker)
        until = None if worker is None else worker.until
        self.until = loop.ends_at if until is None else min(until, loop.ends_at)
        self.due = self.holds_until = 0.0
        self.counted = self.leaks = self.slowed = False
        self.held: list[tuple[Connection, float]] = []
        self.holds = [0.0] * loop.each
        self.repeats = not (worker is None or self.thinks or self.has_budget or hold.mean) and loop.may_repeat
        self.state = ""
        self.ticket = self.attempt = 0
        self.queued_at: float | None = None
        self.deadline: float | None = None
        self.last: Connection | None = None


def drive(job: Job, channel: InstanceChannel) -> None:
    """Do ``job``, report on ``channel``, and return when the run is over."""
    InstanceLoop(job, channel).run()


class InstanceLoop:
    """Everything that one instance does in a run."""

    # An object with 30 attributes or more is slow without slots: the interpreter no longer shares its table of keys
    # with the class, and looks each attribute up by name.
    __slots__ = (
        "_acquire",
        "_arrival_holds",
        "_arrivals",
        "_begins_at",
        "_channel",
        "_clients",
        "_counter",
        "_ever_leaks",
        "_is_ever_slow",
        "_is_over",
        "_job",
        "_leak_shape",
        "_load",
        "_parameter",
        "_pool",
        "_prepared",
        "_release",
        "_released",
        "_repeated_text",
        "_returning",
        "_sources",
        "_statement",
        "_succeeded",
        "_takes_hold",
        "_timers",
        "_using",
        "_warmup",
        "clock",
        "each",
        "ends_at",
        "may_repeat",
        "workload",
    )

    def __init__(self, job: Job, channel: InstanceChannel) -> None:
        self._job = job
        self._channel = channel
        self._load = job.scenario.load
        self._warmup = self._load.warmup
        self.workload = Workload(job)
        self._begins_at, self.ends_at = job.begins_at, self.workload.ends_at
        self._statement = make_statement(job).encode()
        self._parameter = make_parameter(job)
        self._takes_hold = takes_hold(job)
        self.each = self._load.connections_per_request
        self._prepared = job.prepared
        self._is_ever_slow = self.workload.is_ever_slow
        self._ever_leaks = job.scenario.leak.every > 0
        self._leak_shape = job.scenario.leak.shape
        self.may_repeat = not (self._load.rate or self._ever_leaks or self._is_ever_slow) and self.each == 1
        self._repeated_text = None if self._parameter is None else self._parameter(0.0)
        self.clock = channel.wait_for_start()
        self._timers = Timers()
        self._counter = RequestCounter(job, channel, self.ends_at)
        pool_random = self.workload.make_random("pool")
        self._pool = NativePool(job.scenario.pool, pool_random, job.conninfo, self._timers, self.clock, self)
        # Bound methods are looked up once, because these are called for every request.
        self._succeeded, self._released = self._counter.count_acquire, self._counter.count_release
        self._acquire, self._release = self._pool.acquire, self._pool.release
        self._clients: set[LoadClient] = set()
        self._using = 0
        self._sources = 0
        self._is_over = False
        self._returning: deque[LoadClient] = deque()
        self._arrivals = self.workload.draw_arrivals()
        self._arrival_holds = self.workload.make_random("holds")

    def run(self) -> None:
        """Run the load from its begin to the end of the drain, and send the final counts."""
        self._plan()
        pool, timers, returning, clock = self._pool, self._timers, self._returning, self.clock
        while not self._is_over:
            while returning:
                self._work(returning.popleft(), clock())
            now = clock()
            if timers.next_at() <= now:
                timers.run_due(now)
                now = clock()
            # A timer may have added clients: then poll the sockets without waiting, so that neither side starves.
            pool.wait(0.0 if returning else timers.next_at() - now)
        for client in self._clients:
            if client.state in ("waiting", "opening"):
                self._counter.count_unfinished(client.counted, client.due, client.queued_at, clock())
        now = clock()
        self._counter.send_sample(now, self._pool.rules.stats(now))
        self._counter.finish(now, self._pool.rules.stats(now))

    def _plan(self) -> None:
        begins_at, timers = self._begins_at, self._timers
        timers.at(begins_at, self._pool.start)
        for worker in self.workload.make_workers():
            self._sources += 1
            client = LoadClient(self, worker.hold, worker.random, worker)
            timers.at(max(worker.begins_at, begins_at), self._work, client)
        if self._load.rate:
            self._sources += 1
            self._plan_arrival()
        if self._load.warmup > begins_at:
            timers.at(self._load.warmup, self._note_warm)
        timers.at(begins_at, self._sample, 0)
        timers.at(begins_at + PROGRESS_INTERVAL, self._report)
        # From the start and not from begins_at, so that an instance can be ended before it begins.
        timers.at(0.0, self._check_end)

    def _plan_arrival(self) -> None:
        due = next(self._arrivals, None)
        if due is None:
            self._sources -= 1
        else:
            self._timers.at(due, self._arrive, due)

    def _arrive(self, due: float, now: float) -> None:
        self._plan_arrival()
        self._begin_late(LoadClient(self, self._load.hold, self._arrival_holds), due, now)

    def _work(self, client: LoadClient, now: float) -> None:
        """Begin the next request of a closed loop, after its think time if it has one."""
        if now >= client.until or (client.has_budget and not self.workload.take_request_of(_worker(client))):
            self._sources -= 1
        elif client.thinks:
            due = now + _worker(client).think.sample(client.random)
            self._timers.at(due, self._end_think, (client, due))
        else:
            self._begin(client, now, now)

    def _end_think(self, thought: tuple[LoadClient, float], now: float) -> None:
        if now >= self.ends_at:
            self._sources -= 1
        else:
            self._begin_late(*thought, now)

    def _begin_late(self, client: LoadClient, due: float, now: float) -> None:
        if self._counter.is_counted(due):
            self._counter.lag.record(now - due)
        self._begin(client, due, now)

    def _begin(self, client: LoadClient, due: float, now: float) -> None:
        client.due = due
        client.counted = due >= self._warmup
        self._counter.begin_request(client.counted)
        client.leaks = self._ever_leaks and self.workload.decide_leak()
        # Drawn now and not when the request is served, so that variants of a scenario give it the same hold.
        if client.hold.mean:
            client.holds = [client.hold.sample(client.random) for _ in range(self.each)]
        self._clients.add(client)
        self._acquire(client, now)

    def use(self, client: LoadClient, connection: Connection, now: float) -> None:
        """Run the statement of a client whose acquire succeeded."""
        self._succeeded(client.counted, client.due, client.queued_at, now)
        held = client.held
        hold = client.holds[len(held)]
        held.append((connection, now))
        client.holds_until = now + hold
        handle: AsyncConnection = connection.handle
        # The value of $1.
        text = None
        if self._parameter is not None:
            text = self._parameter(hold * self.workload.find_slowdown(now) if self._is_ever_slow else hold)
        self._using += 1
        if client.leaks and self._leak_shape == "in-transaction":
            query = self._statement if text is None else self._statement.replace(b"$1", f"'{text}'".encode())
            handle.send_script(b"BEGIN; " + query)
        else:
            handle.send(self._statement, text, prepare=self._prepared)
        if handle.is_dead:
            # Sending failed. Not at once: this may be a call of the pool's, which is in the middle of its work.
            self._timers.at(now, self.end_statement, handle)

    def fail(self, client: LoadClient, kind: ErrorKind, now: float) -> None:
        """End a request whose acquire ended without a connection."""
        overdue = kind is self._pool.overdue or kind is self._pool.rejected
        self._counter.count_failed_acquire(client.counted, client.due, client.queued_at, now, kind, timed_out=overdue)
        self._end(client, now, failed=True, pause=0.0 if overdue else self._load.error_pause)

    def end_statement(self, handle: AsyncConnection, now: float) -> None:
        """Continue the request whose statement has ended: hold on, acquire another connection, leak or release."""
        client: LoadClient = handle.client
        # A leaked connection may still receive rows or the end of a transaction.
        if client.state != "using":
            return
        if client.repeats and handle.error is None and now < client.until and (client.counted or now < self._warmup):
            self._repeat(client, handle, now)
            return
        self._using -= 1
        if handle.error is not None:
            self._counter.count_statement_failure(client.counted, handle.error, now)
            self._end(client, now, failed=True)
            return
        if not self._takes_hold:
            if self._is_ever_slow and self._is_slowed(client, handle, now):
                return
            if client.holds_until > now:
                self._using += 1
                self._timers.at(client.holds_until, self._end_hold, client)
                return
        if client.leaks or self.each > 1:
            self._next_step(client, now)
            return
        self._counter.end_request(client.counted, failed=False)
        self._give_back(client, now)
        if client.worker is not None:
            self._work(client, now)

    def _repeat(self, client: LoadClient, handle: AsyncConnection, now: float) -> None:
        """End a request and begin the next one, as ``end_statement``, ``_work`` and ``use`` do in many more calls."""
        answer = self._pool.exchange(handle.connection, client, now)
        if type(answer) is Use:
            self._counter.count_repeat(client.counted, client.held[0][1], now)
            client.due = now
            client.held[0] = (answer.connection, now)
            handle = answer.connection.handle
            handle.send(self._statement, self._repeated_text, prepare=self._prepared)
            if handle.is_dead:
                self._timers.at(now, self.end_statement, handle)
            return
        self._using -= 1
        _, acquired_at = client.held.pop()
        self._counter.end_request(client.counted, failed=False)
        self._released(client.counted, client.due, acquired_at, now)
        client.due = now
        self._counter.begin_request(client.counted)
        self._pool.follow(client, answer, now)

    def _is_slowed(self, client: LoadClient, handle: AsyncConnection, now: float) -> bool:
        """Make a slow statement of the user's slower, and return True if the client has to wait for that.

        The statement itself cannot be changed, so the server sleeps for the difference after it.
        """
        factor = 1.0 if client.slowed else self.workload.find_slowdown(now)
        if factor > 1.0:
            client.slowed = True
            self._using += 1
            extra = (factor - 1.0) * (now - client.held[-1][1])
            handle.send(b"SELECT pg_sleep($1::float8)", f"{extra:.6f}", prepare=False)
        return factor > 1.0

    def _end_hold(self, client: LoadClient, now: float) -> None:
        self._using -= 1
        self._next_step(client, now)

    def _next_step(self, client: LoadClient, now: float) -> None:
        """Continue after one hold: acquire the next connection, leak, or release all."""
        if len(client.held) < self.each:
            client.due = now
            client.slowed = False
            self._pool.acquire(client, now)
        elif client.leaks:
            self._leak(client, now)
        else:
            self._end(client, now)

    def _end(self, client: LoadClient, now: float, *, failed: bool = False, pause: float = 0.0) -> None:
        """End a request: release its connections and let its worker continue."""
        self._counter.end_request(client.counted, failed=failed)
        self._give_back(client, now)
        self._go_on(client, now, pause)

    def _give_back(self, client: LoadClient, now: float) -> None:
        client.state = ""
        client.slowed = False
        self._clients.discard(client)
        held = client.held
        for connection, acquired_at in held:
            self._released(client.counted, client.due, acquired_at, now)
            self._release(connection, now)
        held.clear()

    def _leak(self, client: LoadClient, now: float) -> None:
        """End a request without releasing its connections. Its worker continues as another client."""
        client.state = "leaked"
        self._clients.discard(client)
        self._counter.end_request(client.counted, failed=False)
        self._counter.count_leak(client.counted, len(client.held))
        for connection, _ in client.held:
            handle: AsyncConnection = connection.handle
            if self._leak_shape == "unread-rows":
                handle.send_script(UNREAD_ROWS.encode())
                handle.ignore()
            elif self._leak_shape == "long-hold":
                self._beat(handle, now)
        self._go_on(LoadClient(self, client.hold, client.random, client.worker), now, 0.0)

    def _go_on(self, client: LoadClient, now: float, pause: float) -> None:
        if client.worker is None:
            return
        if pause:
            self._timers.at(now + pause, self._work, client)
        else:
            # Not a direct call: the recursion would grow with each request that ends at once.
            self._returning.append(client)

    def _beat(self, handle: AsyncConnection, now: float) -> None:
        """Begin the next transaction of a long hold, and again every ``LONG_HOLD_BEAT`` seconds."""
        if not handle.is_dead:
            handle.send_script(b"COMMIT; BEGIN; SELECT 1")
            self._timers.at(now + LONG_HOLD_BEAT, self._beat, handle)

    def count_opening(self, connect_time: float, now: float) -> None:
        """Count an opening that succeeded."""
        if self._counter.is_counted(now):
            self._counter.tally.connect_time.record(connect_time)

    def _sample(self, number: int, now: float) -> None:
        self._counter.send_sample(now, self._pool.rules.stats(now))
        self._timers.at(self._begins_at + (number + 1) * self._job.interval, self._sample, number + 1)

    def _report(self, _: None, now: float) -> None:
        self._counter.send_progress(now, self._pool.rules.stats(now))
        self._timers.at(now + PROGRESS_INTERVAL, self._report)

    def _note_warm(self, _: None, now: float) -> None:
        self._counter.end_warmup(self._pool.rules.stats(now))

    def _check_end(self, _: None, now: float) -> None:
        if self._channel.stopping or now >= self.ends_at + self._load.drain:
            self._is_over = True
        elif not self._clients and not self._returning:
            self._is_over = now >= self.ends_at or (self._sources == 0 and self._load.ends_when_done)
        elif self._load.duration is None and not self._using:
            self._is_over = self._is_stuck()
        self._timers.at(now + END_CHECK, self._check_end)

    def _is_stuck(self) -> bool:
        """Return True if every request waits, and nothing is under way that could ever end a wait."""
        if self._pool.is_busy or self._returning or self._pool.has_deadlines():
            return False
        return not self._timers.holds_any((self._work, self._end_think, self._arrive))


def _worker(client: LoadClient) -> Worker:
    assert client.worker is not None
    return client.worker
