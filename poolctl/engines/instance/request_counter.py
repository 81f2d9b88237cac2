"""What a pod counts of its requests, and how it reports them."""

import time

from poolctl.engines.instance.channel import InstanceChannel, Progress
from poolctl.engines.live.error_origin import is_refusal
from poolctl.engines.workload import Job
from poolctl.pool import PoolStats
from poolctl.scenario.histogram import Backlog, Histogram
from poolctl.scenario.run import ErrorKind, Tally, compute_ideal_waits

REPLAY_LIMIT = 200_000
"""Requests remembered for the replay through the ideal queue."""


class RequestCounter:
    """Counts acquires of the requests that are ``counted``, those due after the warm-up, and all for the timeline."""

    def __init__(self, job: Job, link: InstanceChannel, ends_at: float) -> None:
        self.tally = Tally()
        self._waits, self._uses = Backlog(self.tally.wait_time), Backlog(self.tally.use_time)
        self._record_wait, self._record_use = self._waits.values.append, self._uses.values.append
        self.lag = Histogram()
        self.acquired = self.errors = 0
        """From the start, warm-up included."""
        self._link = link
        self._warmup = job.scenario.load.warmup
        self._ends_at = ends_at
        self._late = 0
        """Released after the load ended."""
        self._warm: PoolStats | None = None
        self._cpu_at_start = time.process_time()
        self._servers = job.scenario.pool.max_open if _is_replayable(job) else 0
        self._replay: list[tuple[float, float, float]] = []

    def counts(self, due: float) -> bool:
        """Whether a request due at ``due`` is counted, and with it each of its acquires."""
        return due >= self._warmup

    def acquire_succeeded(self, counted: bool, due: float, queued_at: float | None, now: float) -> None:
        self.acquired += 1
        if counted:
            self._record_wait(now - due)
            if queued_at is not None:
                self._left_queue(queued_at, now)

    def acquire_failed(
        self, counted: bool, due: float, queued_at: float | None, now: float, kind: ErrorKind, *, timed_out: bool
    ) -> None:
        self.errors += 1
        if not counted:
            return
        self._record_wait(now - due)
        if queued_at is not None:
            self._left_queue(queued_at, now)
        tally = self.tally
        tally.error(kind, now)
        self._servers = 0
        if timed_out:
            tally.timed_out += 1
        elif is_refusal(kind):
            tally.refused += 1
        else:
            tally.failed += 1

    def released(self, counted: bool, due: float, acquired_at: float, now: float) -> None:
        if not counted:
            return
        self._record_use(now - acquired_at)
        if now > self._ends_at:
            self._late += 1
        if self._servers and len(self._replay) < REPLAY_LIMIT:
            self._replay.append((due, acquired_at, now))

    def leaked(self, counted: bool, connections: int) -> None:
        if counted:
            self.tally.leaked += connections

    def unfinished(self, counted: bool) -> None:
        """An acquire that still waited at the end. Its wait is not over, and in no figure of waits."""
        if counted:
            self.tally.unfinished += 1

    def statement_failed(self, counted: bool, kind: ErrorKind, now: float) -> None:
        """The statement of a request that had its connection ended in an error."""
        self.errors += 1
        if counted:
            self.tally.error(kind, now)

    def warm(self, stats: PoolStats) -> None:
        self._warm = stats

    def sample(self, at: float, stats: PoolStats) -> None:
        self._waits.count()
        self._uses.count()
        self._link.sample(at, stats, self.acquired, self.errors)

    def report(self, at: float, stats: PoolStats) -> None:
        self._link.progress(self._progress(at, stats, None))

    def close(self, at: float, stats: PoolStats) -> None:
        self._link.done(self._progress(at, stats, self._ideal()))

    def _left_queue(self, queued_at: float, now: float) -> None:
        self.tally.queued_count += 1
        self.tally.queued_time += now - queued_at

    def _progress(self, at: float, stats: PoolStats, ideal: tuple[float, float] | None) -> Progress:
        self._waits.settle()
        self._uses.settle()
        tally = self.tally
        # Every acquire that ended left one wait behind, every release one use.
        tally.acquired = tally.wait_time.count - tally.timed_out - tally.refused - tally.failed
        tally.released = tally.use_time.count
        tally.released_in_time = tally.released - self._late
        cpu = time.process_time() - self._cpu_at_start
        return Progress(at, self.tally, stats, self._warm, self.lag, cpu, ideal)

    def _ideal(self) -> tuple[float, float] | None:
        if not self._servers or not self._replay:
            return None
        rows = sorted(self._replay)
        ideal = compute_ideal_waits((due for due, _, _ in rows), (end - begin for _, begin, end in rows), self._servers)
        return sum(ideal) / len(rows), sum(begin - due for due, begin, _ in rows) / len(rows)


def _is_replayable(job: Job) -> bool:
    """Whether every wait of this load is the queue's: the ideal queue knows no bursts, leaks or second acquires."""
    scenario, load = job.scenario, job.scenario.load
    return bool(
        load.rate
        and scenario.pool.max_open
        and load.connections_per_request == 1
        and not (load.bursts or scenario.leak.every or scenario.events)
    )
