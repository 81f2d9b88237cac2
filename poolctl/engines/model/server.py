"""The server of the model: slots and refusals, openings, cores that queries share, restarts and pauses.

The cores are shared equally (processor sharing). With n queries each proceeds at the rate min(1, cores / n), less
what contention takes, so all of them can be kept in one heap by the virtual time V at which they are done, where
dV/dt is that rate: a change of n moves none of them.
"""

from functools import lru_cache
from heapq import heapify, heappop, heappush
from math import inf

from poolctl.engines.model.counts import Counts
from poolctl.engines.model.plan import RESTART_TIME, ModelInstance, ServicePlan, times
from poolctl.engines.model.state import (
    ALIVE,
    DEAD,
    FREE,
    HOLD_END,
    IDLE,
    IN_USE,
    OPENED,
    OPENING,
    ORPHAN,
    RESERVED_53300,
    TOO_MANY_53300,
    ZOMBIE,
)
from poolctl.scenario.run import ErrorKind
from poolctl.scenario.scenario import Event, Scenario

SERVER_AWAY, CUT = -1, -2
"""Why an opening has no slot, when it is not that there is none."""

RESERVED = ErrorKind("server", "OperationalError", "53300", RESERVED_53300)
TOO_MANY = ErrorKind("server", "OperationalError", "53300", TOO_MANY_53300)
STARTING = ErrorKind("server", "OperationalError", "57P03", "the database system is starting up")
TERMINATED = ErrorKind("server", "AdminShutdown", "57P01", "terminating connection due to administrator command")


class ModelServer(Counts):
    """What stands behind the pools. ``opened``, ``open_failed``, ``work_done`` and ``cut`` belong to them."""

    __slots__ = (
        "active",
        "base_t",
        "base_v",
        "connect_cpu",
        "connect_time",
        "doomed",
        "down_until",
        "is_shared",
        "jobs",
        "max_connections",
        "next_job",
        "pause_ends",
        "paused",
        "peak_slots",
        "rate",
        "rates",
        "refused",
        "slots",
        "slow",
        "slow_factor",
        "usable",
        "work_done_total",
    )

    def __init__(self, scenario: Scenario, parts: list[ServicePlan], pods: list[ModelInstance]) -> None:
        super().__init__(scenario, parts, pods)
        database = scenario.database
        self.max_connections = database.max_connections
        self.usable = database.max_connections - database.reserved
        self.connect_time = times(database.connect_time)
        self.connect_cpu = database.connect_cpu
        self.slots = self.doomed = self.peak_slots = self.refused = 0
        self.down_until = -1.0
        self.is_shared = is_shared(scenario)
        self.rates = rates_of(
            database.max_connections, float(database.cores or inf), database.contention, database.coherency
        )
        self.jobs: list[tuple[float, int, int]] = []
        """(V when done, sequence, connection; of the work of an opening -1 - connection)."""
        self.active = 0
        self.base_v = self.base_t = 0.0
        self.rate = 1.0
        self.paused = False
        self.pause_ends = 0.0
        self.next_job = inf
        self.work_done_total = 0.0
        self.slow: list[float] = []
        self.slow_factor = 1.0

    def add_job(self, work: float, code: int, now: float) -> None:
        v = self.base_v + (now - self.base_t) * self.rate
        self.seq += 1
        heappush(self.jobs, (v + work, self.seq, code))
        self.work_done_total += work
        self.active += 1
        if self.is_shared:
            self.base_v, self.base_t = v, now
            self.rate = 0.0 if self.paused else self.rates[self.active]
        self.find_next_job()

    def find_next_job(self) -> None:
        if not self.jobs or self.rate == 0.0:
            self.next_job = inf
        else:
            self.next_job = self.base_t + (self.jobs[0][0] - self.base_v) / self.rate

    def take_job(self, now: float) -> int:
        """The job that ends now."""
        v, _, code = heappop(self.jobs)
        self.active -= 1
        if self.is_shared:
            # From 0 again when nothing runs, so that long runs lose no precision.
            self.base_v, self.base_t = (v, now) if self.active else (0.0, now)
            self.rate = 0.0 if self.paused else self.rates[self.active or 1]
        self.find_next_job()
        return code

    def set_paused(self, paused: bool, now: float) -> None:
        self.base_v, self.base_t = self.base_v + (now - self.base_t) * self.rate, now
        self.paused = paused
        self.rate = 0.0 if paused else self.rates[self.active or 1]
        self.find_next_job()

    def after(self, delay: float, kind: int, number: int, now: float) -> int:
        self.seq += 1
        heappush(self.timers, (now + delay, self.seq, number * 16 + kind))
        return self.seq

    def dial(self, k: int, now: float) -> None:
        """Begin an opening; OPENED follows, at the same instant at the earliest."""
        self.k_asked[k] = now
        took = self.draw(self.connect_time, self.server_random)
        self.claim_slot(k, now)
        work = min(took, self.connect_cpu) if self.k_slot[k] == 1 and self.is_shared else 0.0
        if work:
            self.k_outside[k] = work
            took -= work
        else:
            self.k_outside[k] = 0.0
        self.after(took, OPENED, k, now)

    def claim_slot(self, k: int, now: float) -> None:
        """A slot is taken when the connection arrives, before it is known whether the role may have it."""
        self.k_slot[k] = 0
        if now < self.down_until:
            self.k_slot[k] = SERVER_AWAY
            return
        if self.slots + self.doomed >= self.max_connections:
            return
        if self.slots + self.doomed >= self.usable:
            self.doomed += 1
            self.k_slot[k] = 2
            return
        self.slots += 1
        self.k_slot[k] = 1
        if self.slots > self.peak_slots:
            self.peak_slots = self.slots

    def dialed(self, k: int, now: float) -> None:
        """The latency of an opening is over: its work for the server begins, or its end is known."""
        if self.k_outside[k] > 0.0 and self.k_slot[k] == 1:
            self.add_job(self.k_outside[k], -1 - k, now)
            self.k_outside[k] = 0.0
            return
        self.dial_ended(k, now)

    def dial_ended(self, k: int, now: float) -> None:
        if self.paused:
            # Nobody answers before the pause is over.
            self.after(max(self.pause_ends - now, 0.0), OPENED, k, now)
            return
        slot = self.k_slot[k]
        if slot == 2:
            self.doomed -= 1
            self.k_slot[k] = 0
        if self.k_state[k] == ZOMBIE:
            self.hang_up(k)
            self.free(k)
        elif slot == 1:
            self.opened(k, now)
        elif slot in (SERVER_AWAY, CUT):
            self.open_failed(k, now, STARTING if slot == SERVER_AWAY else TERMINATED)
        else:
            self.refused += 1
            self.open_failed(k, now, RESERVED if slot == 2 else TOO_MANY)

    def free(self, k: int) -> None:
        self.k_state[k] = FREE
        self.k_timer[k] = self.k_rest[k] = 0
        del self.p_own[self.k_pod[k]][k]
        self.free_connections.append(k)

    def hang_up(self, k: int) -> None:
        """The server's end of a connection is gone."""
        if self.k_slot[k] == 1:
            self.slots -= 1
        elif self.k_slot[k] == 2:
            self.doomed -= 1
        self.k_slot[k] = 0

    def statement(self, k: int, work: float, now: float) -> None:
        """Run ``work`` seconds of query, then what k_outside says outside."""
        if work > 0.0:
            self.add_job(work, k, now)
        else:
            self.query_ended(k, now)

    def query_ended(self, k: int, now: float) -> None:
        outside, self.k_outside[k] = self.k_outside[k], 0.0
        # Also with nothing outside: ending within the call that began it would make calls nest without end.
        self.after(outside, HOLD_END, k, now)

    def serve_event(self, event: Event, now: float) -> None:
        if event.do == "pause":
            self.pause_ends = now + event.duration
            self.set_paused(True, now)
        elif event.do == "slow":
            self.slow.append(event.factor)
            self.slow_factor *= event.factor
        elif event.do in ("restart", "failover"):
            down = event.down if event.down is not None else (RESTART_TIME if event.do == "restart" else 0.0)
            self.down_until = now + down
            self.cut_all(now)

    def end_event(self, event: Event, now: float) -> None:
        if event.do == "pause":
            self.set_paused(False, now)
        elif event.do == "slow":
            self.slow.remove(event.factor)
            self.slow_factor = 1.0
            for factor in self.slow:
                self.slow_factor *= factor

    def cut_all(self, now: float) -> None:
        """Every connection loses its server process."""
        cut = [k for k, state in enumerate(self.k_state) if state in (IDLE, IN_USE) and self.k_dead[k] == ALIVE]
        dialing = [k for k, state in enumerate(self.k_state) if state in (OPENING, ORPHAN, ZOMBIE)]
        opening = [k for k in dialing if self.k_slot[k] == 1]
        self.drop_work(set(cut), set(opening))
        for k in opening:
            self.hang_up(k)
            self.k_outside[k] = 0.0
            self.k_slot[k] = CUT
            self.after(0.0, OPENED, k, now)
        for k in cut:
            self.hang_up(k)
            self.k_dead[k] = DEAD
            self.k_stale[k] = self.k_spent[k] = -1.0
        for k in cut:
            self.cut(k, now)

    def drop_work(self, gone: set[int], opening: set[int]) -> None:
        """Forget what connections that are gone, and openings that are, had to do."""
        now = self.now
        self.jobs = [job for job in self.jobs if (job[2] if job[2] >= 0 else -1 - job[2]) not in gone | opening]
        heapify(self.jobs)
        self.base_v, self.base_t = self.base_v + (now - self.base_t) * self.rate, now
        self.active = len(self.jobs)
        self.rate = 0.0 if self.paused else self.rates[self.active or 1]
        self.find_next_job()
        self.timers = [
            timer
            for timer in self.timers
            if not (timer[2] & 15 == HOLD_END and timer[2] >> 4 in gone)
            and not (timer[2] & 15 == OPENED and timer[2] >> 4 in opening)
        ]
        heapify(self.timers)

    def opened(self, k: int, now: float) -> None:
        raise NotImplementedError

    def open_failed(self, k: int, now: float, kind: ErrorKind) -> None:
        raise NotImplementedError

    def cut(self, k: int, now: float) -> None:
        raise NotImplementedError


def is_shared(scenario: Scenario) -> bool:
    """Whether queries can slow each other down, or stand still; otherwise V is the clock."""
    database = scenario.database
    bounded = database.cores is not None or database.contention > 0.0 or database.coherency > 0.0
    return bounded or any(event.do == "pause" for event in scenario.events)


@lru_cache(maxsize=4)
def rates_of(most: int, cores: float, alpha: float, beta: float) -> list[float]:
    """The rate at which each of n queries proceeds, for every n that ``most`` connections allow. Not to be changed."""
    rates = [1.0] + [1.0 if n <= cores else cores / n for n in range(1, most + 2)]
    if alpha or beta:
        slowed = [1.0 + alpha * (n - 1) + beta * n * (n - 1) for n in range(1, most + 2)]
        rates[1:] = [rate / by for rate, by in zip(rates[1:], slowed, strict=True)]
    return rates
