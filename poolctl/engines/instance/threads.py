"""An instance with a real pool library: a thread for each closed loop, and as many as an open loop needs.

Decides when requests begin, how long they hold a connection and how they leak. The library decides which client gets
a connection; RequestCounter and PoolMonitor decide what is counted. The libraries block, so this needs threads; more
than about eight busy ones in a process slow each other down. Times are seconds on the run's clock.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from threading import get_ident
from typing import Any

from poolctl.engines.instance.channel import PROGRESS_INTERVAL, InstanceChannel
from poolctl.engines.instance.library_drivers import open_library
from poolctl.engines.instance.monitored_connections import RequestFailed
from poolctl.engines.instance.pool_driver import FreePath, NotAcquired, PoolDriver, SlotLost
from poolctl.engines.instance.pool_monitor import LiveRequest, PoolMonitor
from poolctl.engines.instance.request_counter import RequestCounter
from poolctl.engines.instance.request_log import Noted, RequestLog
from poolctl.engines.instance.statements import takes_hold
from poolctl.engines.workload import Job, Worker, Workload
from poolctl.scenario.run import ErrorKind

THREAD_LIMIT = 1000
"""Most threads of an open loop. Further arrivals begin late, which is measured as lag."""

END_CHECK = 0.02
"""Seconds between two checks for the end of a run that can end in other ways than by the end of its closed loops."""

STOP_CHECK = 0.1
"""Seconds between two checks whether the user ends the run."""

STUCK_AFTER = 0.5
"""Seconds. A run without a duration ends after so long without a change if all its clients wait."""


def drive(job: Job, channel: InstanceChannel) -> None:
    """Do ``job``, report on ``channel``, and return when the run is over. Raises MissingProgram."""
    if job.scenario.pool.kind != "none":
        _stay_on_one_core(job.instance, job.scenario.load.instances)
    library = open_library(job, PoolMonitor(job.scenario.pool.max_open))
    run = ThreadedInstance(job, channel, library)
    is_first = job.begins_at <= 0
    if is_first:
        # An application also starts its pool before it gets its first request.
        library.start()
    clock = library.monitor.clock = channel.wait_for_start()
    while clock() < job.begins_at and not channel.stopping:
        time.sleep(max(0.0, min(END_CHECK, job.begins_at - clock())))
    if not is_first:
        library.start()
    run.run()


def _stay_on_one_core(instance: int, instances: int) -> None:
    """Keep all threads of this process on one core, if there is a core for each instance (Linux only).

    The interpreter lock lets one thread run at a time, and to pass it between cores costs more than the cores gain:
    with two instances on two cores the libraries serve a sixth to a half more requests this way. Not for instances
    that connect for every request: libpq's cryptography runs without the lock, in parallel.
    """
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if instances <= len(cores):
            os.sched_setaffinity(0, {cores[instance % len(cores)]})


class ThreadedInstance:
    """Everything that one instance does in a run.

    All threads are daemons: a thread that still waits in the library at the end is ended with the process.
    """

    def __init__(self, job: Job, channel: InstanceChannel, library: PoolDriver) -> None:
        self._job = job
        self._channel = channel
        self._load = job.scenario.load
        self._library = library
        self._monitor = monitor = library.monitor
        self._lock = monitor.lock
        self._clock = monitor.clock
        """The run's clock, once the run has begun."""
        self._workload = Workload(job)
        self._ends_at = self._workload.ends_at
        self._counter = RequestCounter(job, channel, self._ends_at)
        self._takes_hold = takes_hold(job)
        self._is_ever_slow = self._workload.is_ever_slow
        self._leaks = bool(job.scenario.leak.every)
        self._leak_shape = job.scenario.leak.shape
        self._waits_for_ever = job.scenario.pool.acquire_timeout is None
        self._arrived: SimpleQueue[LiveRequest] = SimpleQueue()
        self._threads = self._dispatched = self._finished = 0
        self._sources = 0
        self._has_ended = False
        self._changed = threading.Event()
        """Set when a loop ends or something fails."""
        self._crash: BaseException | None = None
        # Acquires so far, and since when there were no more; -1: something can still change.
        self._still_since: tuple[int, float] = (-1, 0.0)
        # What is decided or noted for each request on its own would have to be so on the free path, too.
        self._may_be_free = not (self._load.rate or self._leaks or self._is_ever_slow) and (
            self._load.connections_per_request == 1
        )
        monitor.on_opened = self._count_opening
        monitor.on_error = self._count_error
        monitor.on_noted = self._count_noted

    def run(self) -> None:
        """Run the load from its begin to the end of the drain, and send the final counts."""
        self._clock = self._monitor.clock
        self._monitor.origin = time.monotonic() - self._clock()
        for worker in self._workload.make_workers():
            self._begin_source(self._loop, worker)
        if self._load.rate:
            self._begin_source(self._dispatch)
        self._report()
        if self._crash is not None:
            raise self._crash
        with self._lock:
            # From here on the other threads count nothing, so that the final counts are those of one instant.
            now = self._clock()
            self._monitor.settle_logs()
            self._has_ended = True
            # A copy: requests that begin during this loop change the dict, and are not counted.
            for request in list(self._monitor.acquiring):
                self._begin_request(request)
                self._counter.count_unfinished(request.counted, request.due, request.queued_at, now)
            for log in self._monitor.logs.values():
                if not log.is_in_use:
                    self._counter.begin_request(log.counted)
                    self._counter.count_unfinished(log.counted, log.latest / 1e9 - self._monitor.origin, None, now)
            self._monitor.logs.clear()
            stats = self._library.stats(now)
            self._counter.send_sample(now, stats)
            self._counter.finish(now, stats)

    def _report(self) -> None:
        """Send samples and progress until the run is over."""
        begins_at, interval, clock = self._job.begins_at, self._job.interval, self._clock
        warm_at = self._load.warmup if self._load.warmup > begins_at else inf
        sample_at, report_at = begins_at, begins_at + PROGRESS_INTERVAL
        # Each time that this thread wakes up it delays the others, so the end of a loop wakes it up and not a timer.
        check = END_CHECK if self._load.rate or self._load.duration is None else STOP_CHECK
        while not self._is_over(now := clock()):
            if now >= min(warm_at, sample_at, report_at):
                with self._lock:
                    stats = self._library.stats(now)
                    if now >= warm_at:
                        self._counter.end_warmup(stats)
                        warm_at = inf
                    if now >= sample_at:
                        self._counter.send_sample(now, stats)
                        sample_at = begins_at + ((now - begins_at) // interval + 1) * interval
                    if now >= report_at:
                        self._counter.send_progress(now, stats)
                        report_at = now + PROGRESS_INTERVAL
            ends_at = self._ends_at if now < self._ends_at else self._ends_at + self._load.drain
            self._changed.wait(max(0.0, min(now + check, warm_at, sample_at, report_at, ends_at) - clock()))
            self._changed.clear()

    def _is_over(self, now: float) -> bool:
        if self._crash is not None or self._channel.stopping or now >= self._ends_at + self._load.drain:
            return True
        if not self._sources and self._dispatched == self._finished:
            return self._load.ends_when_done or now >= self._ends_at
        return self._load.duration is None and self._is_stuck(now)

    def _is_stuck(self, now: float) -> bool:
        """Return True if all clients wait without a timeout, and none is left that could release or open."""
        with self._lock:
            self._monitor.settle_logs()
            waiting = self._monitor.count_acquiring()
            running = self._sources + self._dispatched - self._finished
            state = self._counter.acquired
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
                self._changed.set()

        with self._lock:
            self._sources += 1
        threading.Thread(target=body, daemon=True).start()

    def _loop(self, worker: Worker) -> None:
        """Run a closed loop: think, acquire, work, release, again."""
        until = self._ends_at if worker.until is None else min(worker.until, self._ends_at)
        clock, request, random = self._clock, LiveRequest(), worker.random
        draw, connections, thinks = worker.hold.sample, self._load.connections_per_request, worker.think.mean > 0
        has_budget, holds = self._workload.is_bounded(worker), worker.hold.mean > 0
        request.holds = [0.0] * connections
        may_be_free = self._may_be_free and not (thinks or has_budget or holds)
        self._sleep_until(min(max(worker.begins_at, self._job.begins_at), self._ends_at))
        while (now := clock()) < until and not self._has_ended and (not has_budget or self._takes_request(worker)):
            if may_be_free and not self._monitor.is_strained and (path := self._library.find_free_path()) and path.idle:
                pause = self._serve_free(request, path, now, until)
                if pause:
                    self._sleep_until(clock() + pause)
                continue
            request.due = now
            if thinks:
                request.due = now + worker.think.sample(random)
                self._sleep_until(min(request.due, self._ends_at))
                if (now := clock()) >= self._ends_at or self._has_ended:
                    return
                request.lag = now - request.due
            if holds:
                request.holds = [draw(random) for _ in range(connections)]
            pause = self._serve(request)
            if pause:
                self._sleep_until(clock() + pause)

    def _takes_request(self, worker: Worker) -> bool:
        with self._lock:
            return self._workload.take_request_of(worker)

    def _dispatch(self) -> None:
        """Run the open loop: pass each arrival at its due time to an unused thread, and start one if there is none."""
        random = self._workload.make_random("holds")
        for due in self._workload.draw_arrivals():
            holds = [self._load.hold.sample(random) for _ in range(self._load.connections_per_request)]
            self._sleep_until(due)
            if self._has_ended:
                return
            request = LiveRequest(due, holds)
            request.counted = due >= self._load.warmup
            # Already here and not in its thread: a request that waits for a thread also waits for a connection.
            self._monitor.acquiring[request] = None
            self._dispatched += 1
            self._arrived.put(request)
            # One thread for each request that is under way: none has to wait for the end of another.
            if self._dispatched - self._finished > self._threads < THREAD_LIMIT:
                self._threads += 1
                threading.Thread(target=self._serve_arrivals, daemon=True).start()

    def _serve_arrivals(self) -> None:
        try:
            while not self._has_ended:
                request = self._arrived.get()
                request.lag = self._clock() - request.due
                self._serve(request)
                with self._lock:
                    self._finished += 1
        except BaseException as error:  # noqa: BLE001 - raised again by run()
            self._crash = error
            self._changed.set()

    def _serve(self, request: LiveRequest) -> float:
        """Serve one request from its first acquire to its end. Return the seconds to wait before the next one."""
        request.counted, request.is_begun = request.due >= self._load.warmup, False
        if self._leaks:
            with self._lock:
                request.leaks = self._workload.decide_leak()
        held: list[tuple[Any, float]] = []
        failure: NotAcquired | RequestFailed | None = None
        try:
            for hold in request.holds:
                if held:
                    request.due = self._clock()
                held.append((self._acquire(request), request.acquired_at))
                self._use(held[-1][0], hold, request)
            if request.leaks:
                self._leak(request, held)
        except (NotAcquired, RequestFailed) as error:
            failure = error
        return self._end(request, held, failure)

    def _end(
        self, request: LiveRequest, held: list[tuple[Any, float]], failure: NotAcquired | RequestFailed | None
    ) -> float:
        """End a request: release the connections that it holds. Return the seconds to wait before the next one."""
        is_broken, pause, failed = False, 0.0, failure is not None
        if isinstance(failure, NotAcquired):
            pause = self._load.error_pause if failure.at_once or not failure.timed_out else 0.0
        elif isinstance(failure, RequestFailed):
            is_broken = failure.is_broken
            with self._lock:
                self._fail(request, failure.kind)
        if not held:
            with self._lock:
                self._end_request(request, failed)
        # In reverse order, as nested ``with`` blocks of an application do.
        while held:
            connection, acquired_at = held.pop()
            self._release(request, connection, acquired_at, is_broken, ends=not held, failed=failed)
            # The statement that failed ran on the connection that was acquired last.
            is_broken = False
        return pause

    def _serve_free(self, request: LiveRequest, path: FreePath, now: float, until: float) -> float:
        """Serve requests without a lock, as long as each finds a free connection. Return the seconds to wait then.

        The threads of a process delay each other at each lock and in each step under the interpreter's lock, so that a
        request only notes two instants here. All is counted from them later, see ``PoolMonitor.settle_logs``.
        """
        monitor, monotonic = self._monitor, time.monotonic_ns
        idle, acquire, run, release = path
        request.counted = now >= self._load.warmup
        ends_at = int((monitor.origin + (until if request.counted else min(until, self._load.warmup))) * 1e9)
        due, ident = monotonic(), get_ident()
        log = RequestLog(due, request.counted)
        note, connection, failure = log.note, None, None
        with self._lock:
            monitor.logs[ident] = log
        try:
            while idle and not monitor.is_strained and due < ends_at and not self._has_ended:
                connection = acquire()
                note(monotonic())
                run(connection)
                release(connection)
                due = monotonic()
                note(due)
        except (NotAcquired, RequestFailed, SlotLost) as error:
            failure = error
        with self._lock:
            if not self._has_ended:
                monitor.settle_logs()
                del monitor.logs[ident]
        return 0.0 if failure is None else self._end_free(request, connection, log, failure)

    def _end_free(
        self, request: LiveRequest, connection: Any, log: RequestLog, failure: NotAcquired | RequestFailed | SlotLost
    ) -> float:
        """End the request that failed on the free path. Return the seconds to wait before the next one."""
        at = log.latest / 1e9 - self._monitor.origin
        request.is_begun = log.is_in_use
        if isinstance(failure, SlotLost):
            self._lose_slot(request, failure, ends=True, failed=False)
            return 0.0
        if isinstance(failure, NotAcquired):
            request.due, request.queued_at, request.lag = at, None, None
            self._count_failed_acquire(request, failure)
            return self._end(request, [], failure)
        return self._end(request, [(connection, at)], failure)

    def _acquire(self, request: LiveRequest) -> Any:
        monitor, counter, clock = self._monitor, self._counter, self._clock
        # Without the lock: an assignment to a dict is atomic in CPython, and the library must not wait for the lock.
        monitor.acquiring[request] = None
        try:
            connection = self._library.acquire(request)
        except NotAcquired as error:
            self._count_failed_acquire(request, error)
            raise
        with self._lock:
            now = clock()
            monitor.record_acquire(request, now)
            if not self._has_ended:
                if not request.is_begun:
                    self._begin_request(request)
                if request.lag is not None:
                    self._note_lag(request)
                counter.count_acquire(request.counted, request.due, request.queued_at, now)
        return connection

    def _count_failed_acquire(self, request: LiveRequest, error: NotAcquired) -> None:
        with self._lock:
            now = self._clock()
            self._monitor.record_failed_acquire(request, now, is_shortage=error.is_shortage)
            if not self._has_ended:
                self._begin_request(request)
                self._note_lag(request)
                # The client of a pool that refuses at once has not waited.
                due = now if error.at_once else request.due
                self._counter.count_failed_acquire(
                    request.counted, due, request.queued_at, now, error.kind, timed_out=error.timed_out
                )

    def _use(self, connection: Any, hold: float, request: LiveRequest) -> None:
        """Use a connection for ``hold`` seconds, or for as long as the user's statement takes if that is longer."""
        library, clock = self._library, self._clock
        if request.leaks and self._leak_shape == "in-transaction":
            library.begin(connection)
        if not self._is_ever_slow:
            library.run(connection, hold)
        elif self._takes_hold:
            library.run(connection, hold * self._workload.find_slowdown(clock()))
        else:
            factor, began_at = self._workload.find_slowdown(clock()), clock()
            library.run(connection, hold)
            if factor > 1.0:
                # The user's statement itself cannot be slowed, so the server sleeps for the difference.
                library.script(connection, f"SELECT pg_sleep({(factor - 1.0) * (clock() - began_at):.6f})")
        if hold and not self._takes_hold:
            self._sleep_until(request.acquired_at + hold)

    def _leak(self, request: LiveRequest, held: list[tuple[Any, float]]) -> None:
        """End a request without releasing its connections."""
        while held:
            connection, acquired_at = held.pop()
            try:
                self._library.leak(connection, self._leak_shape)
            except RequestFailed:
                held.append((connection, acquired_at))
                raise
            # For the shape "dropped-reference" this must be the last reference.
            del connection
            with self._lock:
                if not self._has_ended:
                    self._counter.count_leak(request.counted, 1)

    def _release(
        self, request: LiveRequest, connection: Any, acquired_at: float, is_broken: bool, *, ends: bool, failed: bool
    ) -> None:
        """Release a connection; ``ends``: it is the last one, so that the request ends as well."""
        try:
            self._library.release(connection, is_broken=is_broken)
        except SlotLost as error:
            self._lose_slot(request, error, ends=ends, failed=failed)
            return
        with self._lock:
            now = self._clock()
            self._monitor.record_release(now)
            if not self._has_ended:
                self._counter.count_release(request.counted, request.due, acquired_at, now)
                # With the same lock: each lock that a request takes delays the other threads.
                if ends:
                    self._counter.end_request(request.counted, failed=failed)

    def _lose_slot(self, request: LiveRequest, error: SlotLost, *, ends: bool, failed: bool) -> None:
        with self._lock:
            self._fail(request, error.kind)
            if ends:
                self._end_request(request, failed)

    def _begin_request(self, request: LiveRequest) -> None:
        """Count a request when its first acquire has ended, or the run. The lock must be held."""
        if not request.is_begun:
            request.is_begun = True
            self._counter.begin_request(request.counted)

    def _end_request(self, request: LiveRequest, failed: bool) -> None:
        if not self._has_ended:
            self._counter.end_request(request.counted, failed=failed)

    def _fail(self, request: LiveRequest, kind: ErrorKind) -> None:
        if not self._has_ended:
            self._counter.count_statement_failure(request.counted, kind, self._clock())

    def _note_lag(self, request: LiveRequest) -> None:
        if request.lag is not None and request.counted:
            self._counter.lag.record(request.lag)
        request.lag = None

    def _count_opening(self, connect_time: float, now: float) -> None:
        if not self._has_ended and self._counter.is_counted(now):
            self._counter.tally.connect_time.record(connect_time)

    def _count_noted(self, noted: Noted) -> None:
        if not self._has_ended:
            # At most the last request of a log ends after the load: none begins after it.
            late = noted.last_release / 1e9 > self._monitor.origin + self._ends_at
            self._counter.count_noted(noted, late=late)

    def _count_error(self, kind: ErrorKind, now: float) -> None:
        if not self._has_ended:
            self._counter.count_statement_failure(self._counter.is_counted(now), kind, now)

    def _sleep_until(self, at: float) -> None:
        delay = at - self._clock()
        if delay > 0:
            time.sleep(delay)
