"""The driver of a pod that runs a real pool library: a thread for each closed loop, and as many as an open loop needs.

Decides when requests begin, how long they hold and how they leak; who gets a connection is the library's business,
and what is counted is the business of Books and Watch. Libraries block, so threads it must be; more than about eight
busy ones in a process slow each other down. Times are seconds on the run's clock.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from typing import Any

from poolctl.engines.instance.channel import PROGRESS_INTERVAL, InstanceChannel
from poolctl.engines.instance.library_drivers import open_library
from poolctl.engines.instance.monitored_connections import RequestFailed
from poolctl.engines.instance.pool_driver import NotAcquired, PoolDriver, SlotLost
from poolctl.engines.instance.pool_monitor import PoolMonitor, Request
from poolctl.engines.instance.request_counter import RequestCounter
from poolctl.engines.instance.statements import takes_hold
from poolctl.engines.workload import Job, Worker, Workload
from poolctl.scenario.run import ErrorKind

THREAD_LIMIT = 1000
"""Most threads of an open loop. Arrivals beyond it begin late, and show as lag."""

END_CHECK = 0.02
"""Seconds between looks whether the run is over."""

STUCK_AFTER = 0.5
"""Seconds without any change after which a run without a duration, in which everybody waits, is given up."""


def drive(job: Job, link: InstanceChannel) -> None:
    """Do the job, report on ``link``, and return when it is done. Raises MissingProgram."""
    if job.scenario.pool.kind != "none":
        _stay_on_one_core(job.instance, job.scenario.load.instances)
    library = open_library(job, PoolMonitor(job.scenario.pool.max_open))
    run = ThreadedInstance(job, link, library)
    is_first = job.begins_at <= 0
    if is_first:
        # As an application does that is started before it is sent requests.
        library.start()
    clock = library.watch.clock = link.wait_for_start()
    while clock() < job.begins_at and not link.stopping:
        time.sleep(max(0.0, min(END_CHECK, job.begins_at - clock())))
    if not is_first:
        library.start()
    run.run()


def _stay_on_one_core(instance: int, instances: int) -> None:
    """Let the threads of this process run on one core, if each instance can have another one and the system does that.

    The interpreter's lock lets one of them run at a time, and handing it over between cores costs more than the cores
    gain: with two instances on two cores the libraries serve a sixth to a half more requests this way. Not for those
    that connect for every request: libpq's cryptography goes on without the lock.
    """
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if instances <= len(cores):
            os.sched_setaffinity(0, {cores[instance % len(cores)]})


class ThreadedInstance:
    """Everything that one instance does in a run. Started threads are daemons: whoever still waits in the library at
    the end goes with the process."""

    def __init__(self, job: Job, link: InstanceChannel, library: PoolDriver) -> None:
        self._job = job
        self._link = link
        self._load = job.scenario.load
        self._library = library
        self._watch = watch = library.watch
        self._lock = watch.lock
        self._clock = watch.clock
        """Of the run once it has begun."""
        self._workload = Workload(job)
        self._ends_at = self._workload.ends_at
        self._books = RequestCounter(job, link, self._ends_at)
        self._takes_hold = takes_hold(job)
        self._is_ever_slow = self._workload.is_ever_slow
        self._leaks = bool(job.scenario.leak.every)
        self._leak_shape = job.scenario.leak.shape
        self._waits_for_ever = job.scenario.pool.acquire_timeout is None
        self._arrived: SimpleQueue[Request] = SimpleQueue()
        self._threads = self._dispatched = self._finished = 0
        self._sources = 0
        self._over = False
        self._crash: BaseException | None = None
        self._still_since: tuple[int, float] = (-1, 0.0)
        watch.on_opened = self._count_opening
        watch.on_error = self._count_error

    def run(self) -> None:
        self._clock = self._watch.clock
        for worker in self._workload.workers():
            self._begin_source(self._loop, worker)
        if self._load.rate:
            self._begin_source(self._dispatch)
        self._report()
        if self._crash is not None:
            raise self._crash
        with self._lock:
            self._over = True
            # A copy: others may begin to ask while this goes on, and are not counted.
            for request in list(self._watch.asking):
                self._books.unfinished(request.counted)
            now = self._clock()
            stats = self._library.stats(now)
            self._books.sample(now, stats)
            self._books.close(now, stats)

    def _report(self) -> None:
        """Samples and progress, until the run is over."""
        begins_at, interval, clock = self._job.begins_at, self._job.interval, self._clock
        warm_at = self._load.warmup if self._load.warmup > begins_at else inf
        sample_at, report_at = begins_at, begins_at + PROGRESS_INTERVAL
        while not self._is_over(now := clock()):
            if now >= min(warm_at, sample_at, report_at):
                with self._lock:
                    stats = self._library.stats(now)
                    if now >= warm_at:
                        self._books.warm(stats)
                        warm_at = inf
                    if now >= sample_at:
                        self._books.sample(now, stats)
                        sample_at = begins_at + ((now - begins_at) // interval + 1) * interval
                    if now >= report_at:
                        self._books.report(now, stats)
                        report_at = now + PROGRESS_INTERVAL
            self._sleep_until(min(now + END_CHECK, warm_at, sample_at, report_at))

    def _is_over(self, now: float) -> bool:
        if self._crash is not None or self._link.stopping or now >= self._ends_at + self._load.drain:
            return True
        if not self._sources and self._dispatched == self._finished:
            return True
        return self._load.duration is None and self._is_stuck(now)

    def _is_stuck(self, now: float) -> bool:
        """Whether everybody waits for ever, and nobody is left to release or open anything."""
        with self._lock:
            waiting = len(self._watch.asking)
            running = self._sources + self._dispatched - self._finished
            state = self._books.acquired
            if not self._waits_for_ever or running != waiting or self._library.stats(now).opening:
                state = -1
        if state < 0 or state != self._still_since[0]:
            self._still_since = state, now
        return state >= 0 and now - self._still_since[1] >= STUCK_AFTER

    def _begin_source(self, target: Callable[..., None], *arguments: Any) -> None:
        def body() -> None:
            try:
                target(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised again by run()
                self._crash = error
            finally:
                with self._lock:
                    self._sources -= 1

        with self._lock:
            self._sources += 1
        threading.Thread(target=body, daemon=True).start()

    def _loop(self, worker: Worker) -> None:
        """A closed loop: think, acquire, work, release, again."""
        until = self._ends_at if worker.until is None else min(worker.until, self._ends_at)
        clock, request, random = self._clock, Request(), worker.random
        draw, connections, thinks = worker.hold.sample, self._load.connections_per_request, worker.think.mean > 0
        has_budget, holds = self._workload.is_bounded(worker), worker.hold.mean > 0
        request.holds = [0.0] * connections
        self._sleep_until(min(max(worker.begins_at, self._job.begins_at), self._ends_at))
        while (now := clock()) < until and not self._over and (not has_budget or self._takes_request(worker)):
            request.due = now
            if thinks:
                request.due = now + worker.think.sample(random)
                self._sleep_until(min(request.due, self._ends_at))
                if (now := clock()) >= self._ends_at or self._over:
                    return
                request.lag = now - request.due
            if holds:
                request.holds = [draw(random) for _ in range(connections)]
            pause = self._serve(request)
            if pause:
                self._sleep_until(clock() + pause)

    def _takes_request(self, worker: Worker) -> bool:
        with self._lock:
            return self._workload.takes_request(worker)

    def _dispatch(self) -> None:
        """The open loop: each arrival at its due time, to a thread that has nothing to do."""
        random = self._workload.stream("holds")
        for due in self._workload.arrivals():
            holds = [self._load.hold.sample(random) for _ in range(self._load.connections_per_request)]
            self._sleep_until(due)
            if self._over:
                return
            request = Request(due, holds)
            request.counted = due >= self._load.warmup
            self._watch.asking[request] = None
            self._dispatched += 1
            self._arrived.put(request)
            if self._dispatched - self._finished > self._threads < THREAD_LIMIT:
                self._threads += 1
                threading.Thread(target=self._serve_arrivals, daemon=True).start()

    def _serve_arrivals(self) -> None:
        try:
            while not self._over:
                request = self._arrived.get()
                request.lag = self._clock() - request.due
                self._serve(request)
                with self._lock:
                    self._finished += 1
        except BaseException as error:  # noqa: BLE001 - raised again by run()
            self._crash = error

    def _serve(self, request: Request) -> float:
        """One request from its first acquire to its end; returns the pause that its worker owes before the next."""
        request.counted = request.due >= self._load.warmup
        if self._leaks:
            with self._lock:
                request.leaks = self._workload.next_leaks()
        held: list[tuple[Any, float]] = []
        is_broken, pause = False, 0.0
        try:
            for hold in request.holds:
                if held:
                    request.due = self._clock()
                held.append((self._acquire(request), request.acquired_at))
                self._use(held[-1][0], hold, request)
            if request.leaks:
                self._leak(request, held)
        except NotAcquired as error:
            pause = self._load.error_pause if error.at_once or not error.timed_out else 0.0
        except RequestFailed as error:
            is_broken = error.is_broken
            with self._lock:
                self._fail(request, error.kind)
        while held:
            self._release(request, *held.pop(), is_broken)
            # The statement that failed was that of the last one.
            is_broken = False
        return pause

    def _acquire(self, request: Request) -> Any:
        watch, books, clock = self._watch, self._books, self._clock
        watch.asking[request] = None
        try:
            connection = self._library.acquire(request)
        except NotAcquired as error:
            with self._lock:
                now = clock()
                watch.missed(request, now, for_lack=error.for_lack)
                if not self._over:
                    self._note_lag(request)
                    # A pool that says no at once has let nobody wait.
                    due = now if error.at_once else request.due
                    books.acquire_failed(
                        request.counted, due, request.queued_at, now, error.kind, timed_out=error.timed_out
                    )
            raise
        with self._lock:
            now = clock()
            watch.acquired(request, now)
            if not self._over:
                if request.lag is not None:
                    self._note_lag(request)
                books.acquire_succeeded(request.counted, request.due, request.queued_at, now)
        return connection

    def _use(self, connection: Any, hold: float, request: Request) -> None:
        """Work with a connection for ``hold`` seconds, or as long as a statement of the user's takes."""
        library, clock = self._library, self._clock
        if request.leaks and self._leak_shape == "in-transaction":
            library.begin(connection)
        if not self._is_ever_slow:
            library.run(connection, hold)
        elif self._takes_hold:
            library.run(connection, hold * self._workload.slow_factor(clock()))
        else:
            factor, began_at = self._workload.slow_factor(clock()), clock()
            library.run(connection, hold)
            if factor > 1.0:
                # A statement of the user's cannot be slowed itself: the server sleeps for the difference.
                library.script(connection, f"SELECT pg_sleep({(factor - 1.0) * (clock() - began_at):.6f})")
        if hold and not self._takes_hold:
            self._sleep_until(request.acquired_at + hold)

    def _leak(self, request: Request, held: list[tuple[Any, float]]) -> None:
        """The request is over, and its connections never come back."""
        while held:
            connection, acquired_at = held.pop()
            try:
                self._library.leak(connection, self._leak_shape)
            except RequestFailed:
                held.append((connection, acquired_at))
                raise
            del connection
            with self._lock:
                if not self._over:
                    self._books.leaked(request.counted, 1)

    def _release(self, request: Request, connection: Any, acquired_at: float, is_broken: bool) -> None:
        try:
            self._library.release(connection, is_broken=is_broken)
        except SlotLost as error:
            with self._lock:
                self._fail(request, error.kind)
            return
        with self._lock:
            now = self._clock()
            self._watch.released(now)
            if not self._over:
                self._books.released(request.counted, request.due, acquired_at, now)

    def _fail(self, request: Request, kind: ErrorKind) -> None:
        if not self._over:
            self._books.statement_failed(request.counted, kind, self._clock())

    def _note_lag(self, request: Request) -> None:
        if request.lag is not None and request.counted:
            self._books.lag.record(request.lag)
        request.lag = None

    def _count_opening(self, connect_time: float, now: float) -> None:
        if not self._over and self._books.counts(now):
            self._books.tally.connect_time.record(connect_time)

    def _count_error(self, kind: ErrorKind, now: float) -> None:
        if not self._over:
            self._books.statement_failed(self._books.counts(now), kind, now)

    def _sleep_until(self, at: float) -> None:
        delay = at - self._clock()
        if delay > 0:
            time.sleep(delay)
