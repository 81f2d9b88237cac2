"""Everything the kernel knows at an instant, in parallel lists: pods (p_), connections (k_), clients (c_).

No objects for requests or events, so that a run of millions of requests allocates next to nothing, and a compiled
kernel can hold the same numbers in arrays. Times are seconds on the run's clock, inf is "never", -1 is "none".
"""

from collections import deque
from collections.abc import Callable
from math import cos, exp, inf, log, pi, sqrt
from random import Random
from typing import Any

from poolctl.engines.model.plan import EXPONENTIAL, LOGNORMAL, ModelInstance, ServicePlan, Times
from poolctl.pool import PoolStats
from poolctl.scenario.histogram import Backlog
from poolctl.scenario.run import Tally
from poolctl.scenario.scenario import Scenario

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

OUT, WAITING, DIALING, USING, LOCKED, QUEUED = range(6)
"""What a client does. QUEUED: it waits since c_due, and the rest of its record is not filled in."""

STREAMS = ("arrivals", "holds", "thinks", "pool", "server")
"""A stream of random numbers for each purpose, so that variants of a scenario meet the same arrivals."""

FULL_HISTOGRAMS = 64
"""Pods up to which each has histograms of its own; above, the pods of a service share theirs."""

_MORE_INTS, _MORE_FLOATS = [0] * 64, [0.0] * 64

RESERVED_53300 = "remaining connection slots are reserved for roles with the SUPERUSER attribute"
TOO_MANY_53300 = "sorry, too many clients already"


class State:
    """The lists, and the few operations on them that belong to no part of the model."""

    __slots__ = (
        "arrival_random",
        "b_failed",
        "b_idle",
        "b_killed",
        "b_logins",
        "b_queue",
        "b_servers",
        "backlog",
        "backlogs",
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
        "errors",
        "failure",
        "free_arrivals",
        "free_clients",
        "free_connections",
        "g_born",
        "g_idle_since",
        "g_part",
        "g_slot",
        "hold_random",
        "is_session",
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
        "n_acquired",
        "n_errors",
        "now",
        "over",
        "p_alert",
        "p_budget",
        "p_busy",
        "p_clean_at",
        "p_clients",
        "p_codel",
        "p_ended",
        "p_fifo",
        "p_ghosts",
        "p_idle",
        "p_leaked",
        "p_lock",
        "p_locked",
        "p_low",
        "p_old",
        "p_open",
        "p_opening",
        "p_ordered",
        "p_own",
        "p_part",
        "p_random",
        "p_requests",
        "p_room",
        "p_samples",
        "p_simple",
        "p_sources",
        "p_state",
        "p_tally",
        "p_told",
        "p_waiting",
        "p_warm",
        "parts",
        "pods",
        "pool_random",
        "pooler",
        "pooler_connect_time",
        "ready",
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
        "s_use_time",
        "scenario",
        "seq",
        "serial",
        "server_random",
        "tallies",
        "think_random",
        "timers",
        "uses",
        "via",
        "w_left",
        "w_think",
        "w_until",
        "waits",
        "warmup",
        "zero_waits",
    )

    def __init__(self, scenario: Scenario, parts: list[ServicePlan], pods: list[ModelInstance]) -> None:
        self.scenario, self.parts, self.pods = scenario, parts, pods
        seed, n = scenario.load.seed, len(pods)
        streams: list[Callable[[], float]] = [Random(f"{seed}/{stream}").random for stream in STREAMS]
        self.arrival_random, self.hold_random, self.think_random, self.pool_random, self.server_random = streams
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
        self.tallies = [Tally() for _ in range(len(parts) if shared else n)]
        self.p_tally = [pod.part for pod in pods] if shared else list(range(n))
        waits = [Backlog(tally.wait_time) for tally in self.tallies]
        uses = [Backlog(tally.use_time) for tally in self.tallies]
        self.backlogs = waits + uses
        self.waits, self.uses = [backlog.values for backlog in waits], [backlog.values for backlog in uses]
        self.zero_waits = [0] * n
        self.late = [0] * len(self.tallies)
        """Released after the load ended."""
        self.errors: list[dict[int, list[Any]]] = [{} for _ in self.tallies]
        """[count, first at, ErrorKind] by the identity of the ErrorKind, which the list keeps alive."""
        self.n_acquired = self.n_errors = 0
        """From the start, warm-up included."""

    def _init_pods(self, n: int, parts: list[ServicePlan]) -> None:
        self.p_part = parts
        self.p_idle: list[list[int]] = [[] for _ in range(n)]
        self.p_open, self.p_opening, self.p_waiting = [0] * n, [0] * n, [0] * n
        self.p_random: list[list[int]] = [[] for _ in range(n)]
        """Waiting clients, where the next one is picked at random."""
        self.p_fifo: list[deque[tuple[int, int]]] = [deque() for _ in range(n)]
        """Waiting clients in order, with the ticket of their wait: those who left are skipped when met."""
        self.p_own: list[dict[int, None]] = [{} for _ in range(n)]
        """All its connections."""
        self.p_ordered, self.p_busy = [0] * n, [0] * n
        """Background openings ordered and not begun; openers at work."""
        self.p_clean_at = [inf] * n
        self.p_alert = [1] * n
        """Whether a connection that goes idle is news: it ends an exhaustion, or a cleaner is to be started."""
        self.p_ghosts, self.p_low, self.p_old = [0] * n, [0] * n, [0] * n
        self.p_samples: list[list[int]] = [[] for _ in range(n)]
        self.p_locked: list[deque[tuple[int, int]]] = [deque() for _ in range(n)]
        self.p_lock = [0] * n
        self.p_codel: list[list[float]] = [[0.0, 0.0, 0.0, -1.0] for _ in range(n)]
        """CoDel: minimum delay, next interval, is slow, when the last look was."""
        self.p_clients, self.p_requests, self.p_leaked = [0] * n, [0] * n, [0] * n
        self.p_budget = [float(part.load.requests or inf) for part in parts]
        self.p_sources = [0] * n
        self.p_simple = [False] * n
        """Whether its frequent ways may be taken inside the loop."""
        self.p_state = [0] * n
        """0: not begun, 1: runs, 2: its load has ended, 3: gone."""
        self.p_ended: list[PoolStats | None] = [None] * n
        self.p_warm: list[PoolStats | None] = [None] * n
        self.p_told = [0.0] * n
        self.s_opened, self.s_failed, self.s_queued = [0] * n, [0] * n, [0] * n
        self.s_max_idle, self.s_idle_time, self.s_lifetime = [0] * n, [0] * n, [0] * n
        self.s_error, self.s_reclaimed, self.s_other = [0] * n, [0] * n, [0] * n
        self.s_peak_open, self.s_peak_in_use = [0] * n, [0] * n
        self.p_room = [0] * n
        """How many fewer than s_peak_in_use are in use."""
        self.s_open_area, self.s_use_time, self.s_queued_time = [0.0] * n, [0.0] * n, [0.0] * n
        """Connection-seconds of what was released."""
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
        if not self.free_connections:
            self.add_connections()
        k = self.free_connections.pop()
        self.p_own[pod][k] = None
        self.k_pod[k], self.k_client[k], self.k_state[k] = pod, client, OPENING
        self.k_dead[k] = self.k_uses[k] = self.k_timer[k] = self.k_slot[k] = self.k_tries[k] = self.k_rest[k] = 0
        return k

    def add_connections(self) -> None:
        """Room for more, of which the first is taken first."""
        known = len(self.k_pod)
        for ints in (
            self.k_pod,
            self.k_client,
            self.k_state,
            self.k_dead,
            self.k_uses,
            self.k_timer,
            self.k_rest,
            self.k_slot,
            self.k_tries,
        ):
            ints.extend(_MORE_INTS)
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
            floats.extend(_MORE_FLOATS)
        self.free_connections.extend(range(known + len(_MORE_INTS) - 1, known - 1, -1))

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
