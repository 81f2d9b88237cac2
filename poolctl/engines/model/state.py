"""Everything the kernel knows at an instant, in parallel lists: pods (p_), connections (k_), clients (c_).

No objects for requests or events, so that a run of millions of requests allocates next to nothing, and a compiled
kernel can hold the same numbers in arrays. Times are seconds on the run's clock, inf is "never", -1 is "none".
"""

from collections import deque
from collections.abc import Callable
from math import cos, exp, inf, log, pi, sqrt
from random import Random
from typing import Any

from poolctl.engines.model.plan import EXPONENTIAL, LOGNORMAL, Part, Pod, Times
from poolctl.pool import Closed, PoolStats
from poolctl.run import ErrorKind, Tally
from poolctl.scenario import Scenario

(
    HOLD_END,
    OPENED,
    WORK,
    BEGIN,
    CLEAN,
    SAMPLE,
    WARM,
    EVENT,
    POD_ENDS,
    OPENER,
    LIFE,
    SWEEP,
    WAKE,
    TICK,
    POD_BEGINS,
    REST,
) = range(16)
"""What a timer is for; its code is this plus 16 times the number of what it is for."""

TIMED_OUT, REFUSED, FAILED = range(3)
"""How an acquire can end without a connection."""

ALIVE, DEAD, KNOWN_DEAD = range(3)
FREE, OPENING, IDLE, IN_USE, ORPHAN, ZOMBIE = range(6)
"""What a connection is. ORPHAN: being opened for a client that has given up, and kept. ZOMBIE: not kept."""

OUT, WAITING, DIALING, USING, LOCKED = range(5)
"""What a client does."""

FULL_HISTOGRAMS = 64
"""Pods up to which each has histograms of its own."""

RESERVED_53300 = "remaining connection slots are reserved for roles with the SUPERUSER attribute"
TOO_MANY_53300 = "sorry, too many clients already"


class State:
    """The lists, and the few operations on them that belong to no part of the model."""

    __slots__ = (
        "active",
        "active_pods",
        "arrival_random",
        "arrivals",
        "b_failed",
        "b_idle",
        "b_killed",
        "b_logins",
        "b_queue",
        "b_servers",
        "backlog",
        "base_t",
        "base_v",
        "c_attempt",
        "c_counted",
        "c_deadline",
        "c_due",
        "c_held",
        "c_hold",
        "c_last",
        "c_leaks",
        "c_place",
        "c_pod",
        "c_queued",
        "c_serial",
        "c_since",
        "c_state",
        "c_ticket",
        "c_tries",
        "c_worker",
        "child_cache",
        "children",
        "clients",
        "connect_cpu",
        "connect_time",
        "deadlines",
        "doomed",
        "down_until",
        "errors",
        "failure",
        "fast_until",
        "free_arrivals",
        "free_clients",
        "free_connections",
        "g_born",
        "g_idle_since",
        "g_part",
        "g_slot",
        "hold_random",
        "interval",
        "is_session",
        "is_shared",
        "jobs",
        "k_acquired",
        "k_asked",
        "k_backend",
        "k_born",
        "k_client",
        "k_dead",
        "k_ends",
        "k_outside",
        "k_pod",
        "k_released",
        "k_rest",
        "k_slot",
        "k_spent",
        "k_stale",
        "k_state",
        "k_timer",
        "k_tries",
        "k_uses",
        "k_work",
        "late",
        "max_connections",
        "n_acquired",
        "n_errors",
        "next_arrival",
        "next_deadline",
        "next_job",
        "now",
        "number_of",
        "over",
        "overdue",
        "p_budget",
        "p_busy",
        "p_clean_at",
        "p_clients",
        "p_codel",
        "p_end",
        "p_ended",
        "p_fifo",
        "p_ghosts",
        "p_go",
        "p_idle",
        "p_in_use",
        "p_keeps",
        "p_leaked",
        "p_lock",
        "p_locked",
        "p_low",
        "p_mean",
        "p_most",
        "p_old",
        "p_open",
        "p_opening",
        "p_ordered",
        "p_own",
        "p_part",
        "p_picks",
        "p_queues",
        "p_random",
        "p_requests",
        "p_samples",
        "p_simple",
        "p_sources",
        "p_state",
        "p_tally",
        "p_target",
        "p_told",
        "p_uses",
        "p_waiting",
        "p_waits",
        "p_warm",
        "parts",
        "pause_ends",
        "paused",
        "peak_slots",
        "pods",
        "pods_left",
        "pool_random",
        "pooler",
        "pooler_connect_time",
        "rate",
        "rates",
        "ready",
        "refused",
        "s_error",
        "s_exhausted_at",
        "s_exhausted_time",
        "s_failed",
        "s_idle_time",
        "s_lifetime",
        "s_max_idle",
        "s_open_area",
        "s_opened",
        "s_other",
        "s_peak_in_use",
        "s_peak_open",
        "s_queued",
        "s_queued_time",
        "s_reclaimed",
        "s_recovered",
        "s_since",
        "s_use_area",
        "scenario",
        "seq",
        "serial",
        "server_random",
        "slots",
        "slow",
        "slow_factor",
        "stuck",
        "tallies",
        "think_random",
        "timeline",
        "timers",
        "usable",
        "uses",
        "via",
        "w_left",
        "w_think",
        "w_until",
        "waits",
        "warmup",
        "work_done_total",
        "zero_waits",
    )

    def __init__(self, scenario: Scenario, parts: list[Part], pods: list[Pod]) -> None:
        self.scenario, self.parts, self.pods = scenario, parts, pods
        seed, n = scenario.load.seed, len(pods)
        # A stream for each purpose, so that variants of a scenario meet the same arrivals.
        self.arrival_random: Callable[[], float] = Random(f"{seed}/arrivals").random
        self.hold_random: Callable[[], float] = Random(f"{seed}/holds").random
        self.think_random: Callable[[], float] = Random(f"{seed}/thinks").random
        self.pool_random: Callable[[], float] = Random(f"{seed}/pool").random
        self.server_random: Callable[[], float] = Random(f"{seed}/server").random
        self.now = 0.0
        self.seq = 0
        self.timers: list[tuple[float, int, int]] = [(inf, 0, 0)]
        self.ready: deque[int] = deque()
        """Clients whose next request begins now."""
        self.over = False
        self.failure: str | None = None
        self._init_pods(n, [parts[pod.part] for pod in pods])
        self._init_connections()
        self._init_clients()
        self.warmup = scenario.load.warmup
        shared = n > FULL_HISTOGRAMS
        self.tallies = [Tally() for _ in range(1 if shared else n)]
        self.p_tally = [0] * n if shared else list(range(n))
        tallies = len(self.tallies)
        self.waits: list[list[float]] = [[] for _ in range(tallies)]
        self.zero_waits = [0] * tallies
        self.uses: list[list[float]] = [[] for _ in range(tallies)]
        self.late = [0] * tallies
        """Released after the load ended."""
        self.errors: list[dict[int, list[Any]]] = [{} for _ in range(tallies)]
        """[count, first at, ErrorKind] by the identity of the ErrorKind, which the list keeps alive."""
        self.n_acquired = self.n_errors = 0
        """From the start, warm-up included."""

    def _init_pods(self, n: int, parts: list[Part]) -> None:
        self.p_part = parts
        self.p_idle: list[list[int]] = [[] for _ in range(n)]
        self.p_open, self.p_opening, self.p_in_use, self.p_waiting = [0] * n, [0] * n, [0] * n, [0] * n
        self.p_random: list[list[int]] = [[] for _ in range(n)]
        """Waiting clients, where the next one is picked at random."""
        self.p_fifo: list[deque[tuple[int, int]]] = [deque() for _ in range(n)]
        """Waiting clients in order, with the ticket of their wait: those who left are skipped when met."""
        self.p_own: list[dict[int, None]] = [{} for _ in range(n)]
        """All its connections."""
        self.p_ordered, self.p_busy = [0] * n, [0] * n
        """Background openings ordered and not begun; openers at work."""
        self.p_clean_at = [inf] * n
        self.p_ghosts, self.p_low, self.p_old = [0] * n, [0] * n, [0] * n
        self.p_samples: list[list[int]] = [[] for _ in range(n)]
        self.p_locked: list[deque[tuple[int, int]]] = [deque() for _ in range(n)]
        self.p_lock = [0] * n
        self.p_target = [0] * n
        self.p_codel: list[list[float]] = [[0.0, 0.0, 0.0, -1.0] for _ in range(n)]
        """CoDel: minimum delay, next interval, is slow, when the last look was."""
        self.p_clients, self.p_requests, self.p_leaked = [0] * n, [0] * n, [0] * n
        self.p_budget = [float(part.load.requests or inf) for part in parts]
        self.p_sources = [0] * n
        self.p_state = [0] * n
        """0: not begun, 1: runs, 2: its load has ended, 3: gone."""
        self.p_ended: list[PoolStats | None] = [None] * n
        self.p_warm: list[PoolStats | None] = [None] * n
        self.p_told = [0.0] * n
        self.s_opened, self.s_failed, self.s_queued = [0] * n, [0] * n, [0] * n
        self.s_max_idle, self.s_idle_time, self.s_lifetime = [0] * n, [0] * n, [0] * n
        self.s_error, self.s_reclaimed, self.s_other = [0] * n, [0] * n, [0] * n
        self.s_peak_open, self.s_peak_in_use = [0] * n, [0] * n
        self.s_open_area, self.s_use_area, self.s_queued_time = [0.0] * n, [0.0] * n, [0.0] * n
        self.s_exhausted_at, self.s_since, self.s_recovered = [-1.0] * n, [-1.0] * n, [-1.0] * n
        self.s_exhausted_time = [0.0] * n

    def _init_connections(self) -> None:
        self.k_pod: list[int] = []
        self.k_state: list[int] = []
        self.k_client: list[int] = []
        self.k_dead: list[int] = []
        self.k_uses: list[int] = []
        self.k_timer: list[int] = []
        """The sequence number of its lifetime's timer; 0: none."""
        self.k_rest: list[int] = []
        """The same for its idle time."""
        self.k_slot: list[int] = []
        """1: it has a slot on the server, 2: a slot that it is about to be refused."""
        self.k_tries: list[int] = []
        self.k_born: list[float] = []
        self.k_released: list[float] = []
        self.k_acquired: list[float] = []
        self.k_asked: list[float] = []
        """When its opening began."""
        self.k_outside: list[float] = []
        self.k_ends: list[float] = []
        """When its lifetime is over."""
        self.k_stale: list[float] = []
        """Past this, an acquire has to look closer; -1 when it is dead."""
        self.k_spent: list[float] = []
        """Past this, a release has to look closer."""
        self.free_connections: list[int] = []

    def _init_clients(self) -> None:
        self.c_pod: list[int] = []
        self.c_state: list[int] = []
        self.c_serial: list[int] = []
        """The number of its present acquire; deadlines of others are void."""
        self.c_ticket: list[int] = []
        self.c_place: list[int] = []
        self.c_attempt: list[int] = []
        self.c_tries: list[int] = []
        self.c_worker: list[int] = []
        self.c_counted: list[bool] = []
        self.c_leaks: list[bool] = []
        self.c_due: list[float] = []
        self.c_queued: list[float] = []
        """When this acquire first queued; -1: it did not."""
        self.c_since: list[float] = []
        self.c_deadline: list[float] = []
        self.c_last: list[int] = []
        self.c_hold: list[Times] = []
        self.c_held: list[list[int]] = []
        self.free_clients: list[int] = []
        self.free_arrivals: list[list[int]] = [[] for _ in self.parts]
        """Records of clients that make one request, of each part: their hold never changes."""
        self.w_until: list[float] = []
        self.w_left: list[int] = []
        """Requests that a burst's worker may still make; -1: no bound, -2: the pod's budget."""
        self.w_think: list[Times] = []
        self.serial = 0

    def new_connection(self, pod: int, client: int) -> int:
        if self.free_connections:
            k = self.free_connections.pop()
            self.p_own[pod][k] = None
            self.k_pod[k], self.k_client[k], self.k_state[k] = pod, client, OPENING
            self.k_dead[k] = self.k_uses[k] = self.k_timer[k] = self.k_slot[k] = self.k_tries[k] = self.k_rest[k] = 0
            return k
        k = len(self.k_pod)
        self.p_own[pod][k] = None
        for ints, number in (
            (self.k_pod, pod),
            (self.k_client, client),
            (self.k_state, OPENING),
            (self.k_dead, 0),
            (self.k_uses, 0),
            (self.k_timer, 0),
            (self.k_rest, 0),
            (self.k_slot, 0),
            (self.k_tries, 0),
        ):
            ints.append(number)
        for floats in (
            self.k_born,
            self.k_released,
            self.k_acquired,
            self.k_asked,
            self.k_outside,
            self.k_ends,
            self.k_stale,
            self.k_spent,
        ):
            floats.append(0.0)
        return k

    def new_client(self, pod: int, worker: int, hold: Times) -> int:
        if self.free_clients:
            c = self.free_clients.pop()
            self.c_pod[c], self.c_worker[c], self.c_hold[c] = pod, worker, hold
            self.c_tries[c] = 0
            return c
        c = len(self.c_pod)
        self.c_pod.append(pod)
        self.c_worker.append(worker)
        self.c_hold.append(hold)
        self.c_held.append([])
        for ints in (self.c_state, self.c_serial, self.c_ticket, self.c_place, self.c_attempt, self.c_tries):
            ints.append(0)
        self.c_last.append(-1)
        self.c_counted.append(False)
        self.c_leaks.append(False)
        for floats in (self.c_due, self.c_queued, self.c_since, self.c_deadline):
            floats.append(0.0)
        return c

    def new_arrival(self, pod: int, number: int) -> int:
        if self.free_arrivals[number]:
            c = self.free_arrivals[number].pop()
            self.c_pod[c] = pod
            return c
        return self.new_client(pod, -1, self.parts[number].hold)

    def draw(self, times: Times, random: Callable[[], float]) -> float:
        kind = times[0]
        if kind == EXPONENTIAL:
            return -log(1.0 - random()) * times[1]
        if kind == LOGNORMAL:
            # Box and Muller: two draws always, which another kernel can repeat.
            radius = sqrt(-2.0 * log(1.0 - random()))
            return exp(times[2] + times[3] * radius * cos(2.0 * pi * random()))
        return times[1]

    def error(self, p: int, counted: bool, kind: ErrorKind, now: float) -> None:
        self.n_errors += 1
        if counted:
            # By identity: to hash a whole ErrorKind for each timeout is what an overload would mostly do.
            seen = self.errors[self.p_tally[p]].get(id(kind))
            if seen is None:
                self.errors[self.p_tally[p]][id(kind)] = [1, now, kind]
            else:
                seen[0] += 1

    def flush(self) -> None:
        """Move what was collected into the histograms."""
        for tally, waits, uses in zip(self.tallies, self.waits, self.uses, strict=True):
            record_all(tally.wait_time.counts, waits)
            for histogram, values in ((tally.wait_time, waits), (tally.use_time, uses)):
                total = histogram.total
                for value in values:
                    total += value
                histogram.total = total
                histogram.count += len(values)
                histogram.max = max(histogram.max, max(values, default=0.0))
            record_all(tally.use_time.counts, uses)
            waits.clear()
            uses.clear()
        for number, zeros in enumerate(self.zero_waits):
            self.tallies[number].wait_time.counts[0] += zeros
            self.tallies[number].wait_time.count += zeros
            self.zero_waits[number] = 0

    def stats(self, p: int, now: float) -> PoolStats:
        """The snapshot of one pod's pool."""
        idle, since = len(self.p_idle[p]), self.s_since[p]
        return PoolStats(
            max_open=self.p_part[p].settings.max_open,
            open=self.p_open[p],
            in_use=self.p_open[p] - idle - self.p_opening[p],
            idle=idle,
            opening=self.p_opening[p],
            waiting=self.p_waiting[p],
            queued_count=self.s_queued[p],
            queued_time=self.s_queued_time[p],
            opened=self.s_opened[p],
            open_failures=self.s_failed[p],
            closed=Closed(
                max_idle=self.s_max_idle[p],
                max_idle_time=self.s_idle_time[p],
                max_lifetime=self.s_lifetime[p],
                error=self.s_error[p],
                leak_reclaimed=self.s_reclaimed[p],
                other=self.s_other[p],
            ),
            peak_open=self.s_peak_open[p],
            peak_in_use=self.s_peak_in_use[p],
            open_time=self.s_open_area[p] + self.p_open[p] * now,
            in_use_time=self.s_use_area[p] + self.p_in_use[p] * now,
            exhausted_at=_or_none(self.s_exhausted_at[p]),
            exhausted_since=_or_none(since),
            recovered_at=_or_none(self.s_recovered[p]),
            exhausted_time=self.s_exhausted_time[p] + (now - since if since >= 0 else 0.0),
        )


def record_all(counts: list[int], values: list[float]) -> None:
    """Histogram.record for many values at once; total, count and max are the caller's."""
    size = len(counts)
    for value in values:
        at = int(value * 1e6)
        if at >= 256:
            shift = at.bit_length() - 8
            at = (shift << 7) + (at >> shift)
            if at >= size:
                counts.extend([0] * (at + 1 - size))
                size = at + 1
        counts[at] += 1


def _or_none(value: float) -> float | None:
    return None if value < 0 else value
