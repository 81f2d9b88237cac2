"""The counts of one instance: what became of its requests, and how that is sent to the live engine.

Decides which acquires are counted, and in which of the counts of Tally. Times are seconds on the run's clock.
"""

import time

from poolctl.engines.instance.channel import InstanceChannel, InstanceCounts
from poolctl.engines.instance.error_origin import is_refusal
from poolctl.engines.instance.request_log import Noted
from poolctl.engines.workload import Job
from poolctl.pool import PoolStats
from poolctl.scenario.histogram import Backlog, Histogram
from poolctl.scenario.run import ErrorKind, Tally, compute_ideal_waits

REPLAY_LIMIT = 200_000
"""Most requests that are remembered for the replay through the ideal queue."""


class RequestCounter:
    """Counts acquires. Those of ``counted`` requests, due after the warm-up, go into the tally, all into the timeline.

    An instance with threads holds a lock around each call.
    """

    def __init__(self, job: Job, channel: InstanceChannel, ends_at: float) -> None:
        self.tally = Tally()
        self._waits, self._uses = Backlog(self.tally.wait_time), Backlog(self.tally.use_time)
        self._record_wait, self._record_use = self._waits.values.append, self._uses.values.append
        self.lag = Histogram()
        self.acquired = self.errors = 0
        """Counts for the timeline, warm-up included."""
        self._channel = channel
        self._warmup = job.scenario.load.warmup
        self._ends_at = ends_at
        self._late = 0
        """Releases after the end of the load."""
        self._warm: PoolStats | None = None
        self._cpu_at_start = time.process_time()
        self._servers = job.scenario.pool.max_open if _is_replayable(job) else 0
        self._repeats = 0
        """Counted repeats that are not in the tally yet."""
        self._replay: list[tuple[float, float, float]] = []

    def is_counted(self, due: float) -> bool:
        """Return True if a request due at ``due``, and with it each of its acquires, is counted."""
        return due >= self._warmup

    def begin_request(self, counted: bool) -> None:
        """Count a request that begins its first acquire."""
        self.tally.requests += counted

    def end_request(self, counted: bool, *, failed: bool) -> None:
        """Count a request that has ended, well or with an error."""
        if failed:
            self.tally.requests_failed += counted
        else:
            self.tally.requests_completed += counted

    def count_acquire(self, counted: bool, due: float, queued_at: float | None, now: float) -> None:
        """Count an acquire that succeeded. ``queued_at``: since when it was in the queue, None: it was not."""
        self.acquired += 1
        if counted:
            if now > due:
                self._record_wait(now - due)
            else:
                self._waits.zeros += 1
            if queued_at is not None:
                self._count_queued(queued_at, now)

    def count_repeat(self, counted: bool, acquired_at: float, now: float) -> None:
        """Count a request that ended before the end of the load, and the next, which found a free connection at once.

        One call instead of ``count_release``, ``end_request``, ``begin_request`` and ``count_acquire``.
        """
        self.acquired += 1
        if counted:
            self._record_use(now - acquired_at)
            self._repeats += 1

    def count_noted(self, noted: Noted, *, late: bool) -> None:
        """Count requests that found a free connection. ``late``: the last release was after the end of the load."""
        self.acquired += len(noted.waits)
        if noted.counted:
            self.tally.requests += len(noted.waits)
            self.tally.requests_completed += len(noted.uses)
            self._waits.count_nanoseconds(noted.waits)
            self._uses.count_nanoseconds(noted.uses)
            self._late += late

    def count_failed_acquire(
        self, counted: bool, due: float, queued_at: float | None, now: float, kind: ErrorKind, *, timed_out: bool
    ) -> None:
        """Count an acquire that ended with the error ``kind``. ``queued_at``: as in ``count_acquire``."""
        self.errors += 1
        if not counted:
            return
        self._record_wait(now - due)
        if queued_at is not None:
            self._count_queued(queued_at, now)
        tally = self.tally
        tally.error(kind, now)
        # The ideal queue has no timeouts: from now on there is nothing to compare with.
        self._servers = 0
        if timed_out:
            tally.timed_out += 1
        elif is_refusal(kind):
            tally.refused += 1
        else:
            tally.failed += 1

    def count_release(self, counted: bool, due: float, acquired_at: float, now: float) -> None:
        """Count a release, and how long the connection was held."""
        if not counted:
            return
        self._record_use(now - acquired_at)
        if now > self._ends_at:
            self._late += 1
        if self._servers and len(self._replay) < REPLAY_LIMIT:
            self._replay.append((due, acquired_at, now))

    def count_leak(self, counted: bool, connections: int) -> None:
        """Count connections that are never released."""
        if counted:
            self.tally.leaked += connections

    def count_unfinished(self, counted: bool, due: float, queued_at: float | None, now: float) -> None:
        """Count an acquire that still waits at the end, and how long it has waited: its wait is at least that long."""
        if counted:
            self.tally.unfinished += 1
            self.tally.unfinished_time.record(max(now - due, 0.0))
            self.tally.queued_count += queued_at is not None

    def count_statement_failure(self, counted: bool, kind: ErrorKind, now: float) -> None:
        """Count a statement that failed after its request had acquired a connection."""
        self.errors += 1
        if counted:
            self.tally.error(kind, now)

    def end_warmup(self, stats: PoolStats) -> None:
        """Keep the pool's counts at the end of the warm-up, so that they can be subtracted."""
        self._warm = stats

    def send_sample(self, at: float, stats: PoolStats) -> None:
        """Send one row of the timeline."""
        # Here and not in count_acquire: to count many times together takes less time (see Backlog).
        self._waits.count()
        self._uses.count()
        self._channel.send_sample(at, stats, self.acquired, self.errors)

    def send_progress(self, at: float, stats: PoolStats) -> None:
        """Send all counts so far."""
        self._channel.send_progress(self._make_progress(at, stats, None))

    def finish(self, at: float, stats: PoolStats) -> None:
        """Send the final counts."""
        self._channel.send_result(self._make_progress(at, stats, self._compare_with_ideal()))

    def _count_queued(self, queued_at: float, now: float) -> None:
        self.tally.queued_count += 1
        self.tally.queued_time += now - queued_at

    def _make_progress(self, at: float, stats: PoolStats, ideal: tuple[float, float] | None) -> InstanceCounts:
        tally, repeats = self.tally, self._repeats
        tally.requests += repeats
        tally.requests_completed += repeats
        self._waits.zeros += repeats
        self._repeats = 0
        self._waits.settle()
        self._uses.settle()
        # Derived here, so that the hot path counts nothing twice: each acquire that ended has one wait, each release
        # one use time.
        tally.acquired = tally.wait_time.count - tally.timed_out - tally.refused - tally.failed
        tally.released = tally.use_time.count
        tally.released_in_time = tally.released - self._late
        cpu = time.process_time() - self._cpu_at_start
        return InstanceCounts(at, self.tally, stats, self._warm, self.lag, cpu, ideal)

    def _compare_with_ideal(self) -> tuple[float, float] | None:
        """Return the mean wait in the ideal queue and the measured mean wait; None if they cannot be compared."""
        if not self._servers or not self._replay:
            return None
        rows = sorted(self._replay)
        ideal = compute_ideal_waits((due for due, _, _ in rows), (end - begin for _, begin, end in rows), self._servers)
        return sum(ideal) / len(rows), sum(begin - due for due, begin, _ in rows) / len(rows)


def _is_replayable(job: Job) -> bool:
    """Return True if the ideal queue can replay this load: it has no bursts, leaks, events or nested acquires."""
    scenario, load = job.scenario, job.scenario.load
    return bool(
        load.rate
        and scenario.pool.max_open
        and load.connections_per_request == 1
        and not (load.bursts or scenario.leak.every or scenario.events)
    )
