"""What the rules for a finished run stand on: numbers derived from a Run, each computed in one place.

Decides what "full", "lost", "stuck" and "sustained" mean. What follows from them is left to the rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from math import inf
from typing import Literal, NamedTuple

from poolctl.diagnose.finding import Finding, Severity
from poolctl.pool import LIBRARIES
from poolctl.scenario.run import ErrorKind, ObservedError, ObservedServer, Run, Summary, TimelinePoint
from poolctl.scenario.scenario import Event, Leak, Scenario, Service

PoolLimit = Literal["server", "role", "pooler-clients", "pooler-queue"]

SUSTAINED_SHARE = 0.25
"""Share of the load's samples in which requests wait. Below it the waits were bursts that drained (a proposal)."""
EVENT_TAIL = 5.0
"""Seconds after an event that still belong to it: the server starts again, the backlog drains (a proposal)."""

_LIMITS: tuple[tuple[str, PoolLimit], ...] = (
    ("too many connections for role", "role"),
    ("too many connections for database", "role"),
    ("no more connections allowed", "pooler-clients"),
    ("client connections exceeded", "pooler-clients"),
    ("query_wait_timeout", "pooler-queue"),
    # The capital S is Pgpool-II's; the same words with a small s are PostgreSQL's own.
    ("Sorry, too many clients already", "pooler-clients"),
    ("sorry, too many clients already", "server"),
    ("remaining connection slots are reserved", "server"),
)


def classify_refusal(kind: ErrorKind) -> PoolLimit | None:
    """Return which limit refused; None for any other error.

    By text first: PgBouncer relays the server's words, and client libraries lose the SQLSTATE of a refused connection.
    A text in another language is classified by its SQLSTATE alone.
    """
    for words, limit in _LIMITS:
        if words in kind.message:
            return limit
    if kind.sqlstate == "53300":
        return "server" if kind.origin == "server" else "pooler-clients"
    return None


def parse_count(value: object, default: int) -> int:
    """Return a pooler's setting, which a scenario may write as a number or as text; ``default`` if it is neither."""
    try:
        return default if value is None else int(str(value))
    except ValueError:
        return default


class PoolerQueue(NamedTuple):
    """Clients that waited inside PgBouncer: its server connections and mode, its clients, and how it ended."""

    size: int
    mode: str
    clients: int
    given_up: int
    """By query_wait_timeout."""
    starved: int
    """Without a server connection at the end."""


def count_held(summary: Summary) -> int:
    """Count the connections that an ordinary request still had when the run ended."""
    return max(0, summary.acquired - summary.released - summary.leaked)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run, and what can be read off it. Times are seconds on the run's clock."""

    run: Run

    @property
    def summary(self) -> Summary:
        return self.run.summary

    @property
    def scenario(self) -> Scenario:
        return self.run.scenario

    @property
    def server(self) -> ObservedServer:
        """What the server saw; all None where it was not observed."""
        return self.summary.server or ObservedServer()

    @property
    def usable(self) -> int:
        """Slots that an ordinary role can have."""
        database = self.scenario.database
        return self.server.usable if self.server.usable is not None else database.max_connections - database.reserved

    @property
    def leak(self) -> Leak:
        """What leaks; of several services, the first that leaks."""
        return next((service.leak for service in self.scenario.all_services if service.leak.every), self.scenario.leak)

    @property
    def max_open(self) -> int:
        """The bound of one pool; of several services, the first one's. 0: none."""
        return self.scenario.pool.max_open

    @property
    def sizes(self) -> list[int]:
        """The bound of every pool of one generation, service by service."""
        return [service.pool.max_open for service in self.scenario.all_services for _ in range(service.load.instances)]

    @property
    def owners(self) -> list[Service]:
        """The service of each of ``Run.instances``: service by service, and of each one generation after the other."""
        generations = 1 + sum(1 for event in self.scenario.events if event.do == "deploy")
        return [service for service in self.scenario.all_services for _ in range(service.load.instances * generations)]

    @property
    def instances(self) -> int:
        return len(self.sizes)

    @property
    def capacity(self) -> int | None:
        """Connections that all instances may open together; None: no bound. A deploy's overlap is not in it."""
        return sum(self.sizes) if all(self.sizes) else None

    @property
    def pools(self) -> list[tuple[Summary, int]]:
        """Each pool's figures and bound; one pool for the whole fleet where the instances are not kept apart. A bound
        of 0: none."""
        if self.run.instances:
            return [
                (observed, service.pool.max_open)
                for service, observed in zip(self.owners, self.run.instances, strict=False)
            ]
        return [(self.summary, self.capacity or 0)]

    @property
    def generations(self) -> int:
        """2 while a deploy runs old and new instances side by side."""
        return 2 if any(e.do == "deploy" and e.overlap > 0 for e in self.scenario.events) else 1

    @property
    def threads(self) -> int | None:
        """Requests that one instance can have under way at once; None: open loop, no bound."""
        load = self.scenario.load
        return None if load.rate is not None else (load.workers or 0) + sum(burst.workers for burst in load.bursts)

    @property
    def load_until(self) -> float:
        return self.scenario.load.warmup + self.summary.duration

    @property
    def ended_at(self) -> float:
        return self.run.timeline[-1].at if self.run.timeline else self.load_until

    @property
    def load_points(self) -> list[TimelinePoint]:
        warmup, until = self.scenario.load.warmup, self.load_until
        return [point for point in self.run.timeline if warmup <= point.at <= until]

    def count_lost(self, summary: Summary) -> int:
        """Count leaked connections whose slot is still taken at the end, of one instance or of the fleet.

        Fewer than ``leaked`` where something gave them back: SQLAlchemy's garbage collection, a process that ended.
        More where the warm-up leaked, which no counter of the run has.
        """
        taken = summary.connections.in_use - count_held(summary)
        in_warmup = self.leak.every > 0 and self.scenario.load.warmup > 0
        return max(0, taken if in_warmup else min(summary.leaked, taken))

    @property
    def lost(self) -> int:
        return self.count_lost(self.summary)

    @property
    def leaked(self) -> int:
        """Connections leaked by the scenario; the ones of the warm-up as far as they can be inferred."""
        return max(self.summary.leaked, self.lost)

    @property
    def _last_points(self) -> list[TimelinePoint]:
        """The last second of the load as the server saw it: one sample may be older than the pools' figures."""
        samples = [p for p in self.run.timeline if p.server_connections is not None and p.at <= self.load_until]
        return [point for point in samples if point.at >= samples[-1].at - 1.0]

    @property
    def server_connections(self) -> int | None:
        """Server connections at the end of the load. None: not observed, or they are a pooler's."""
        samples = self._last_points if self.scenario.database.via == "none" else []
        return samples[-1].server_connections if samples else None

    @property
    def missing(self) -> int:
        """How many connections the pools count and the server does not have; 0 where that is not known."""
        if self.server_connections is None:
            return 0
        return max(0, min(p.in_use + p.idle - (p.server_connections or 0) for p in self._last_points))

    @property
    def worst_service(self) -> tuple[str, "RunFacts"]:
        """The service whose pool was waited for longest, by one of its instances, with its name.

        A single application is its own, without a name. The timeline and the server are still the ones of all services.
        """
        if not self.scenario.services or not (self.run.instances or self.run.services):
            return "", self
        if not self.run.instances:
            return max(self.services, key=lambda service: _rank_suffering(service[1].summary))
        pairs = zip(self.owners, self.run.instances, strict=False)
        service, observed = max(pairs, key=lambda pair: _rank_suffering(pair[1]))
        return service.name, self._restrict_to(replace(service, load=replace(service.load, instances=1)), observed)

    @property
    def services(self) -> list[tuple[str, "RunFacts"]]:
        """Each service by itself; a single application is its own, without a name."""
        if not self.run.services:
            return [("", self)]
        pairs = zip(self.scenario.services, self.run.services, strict=True)
        return [(service.name, self._restrict_to(service, summary)) for service, (_, summary) in pairs]

    def _restrict_to(self, service: Service, observed: Summary) -> "RunFacts":
        scenario = replace(self.scenario, pool=service.pool, load=service.load, leak=service.leak, services=())
        summary = replace(observed, server=self.summary.server)
        return RunFacts(replace(self.run, scenario=scenario, summary=summary, instances=(), services=()))

    @property
    def stuck_pools(self) -> int:
        """Pools that were exhausted to the end: requests wait, or none will ever be served."""
        return sum(
            1 for pool, size in self.pools if pool.exhausted_for_good or (size and self.count_lost(pool) >= size)
        )

    @property
    def is_stuck(self) -> bool:
        return self.summary.exhausted_for_good or self.stuck_pools > 0

    @property
    def queues(self) -> bool:
        """Whether this pool lets requests wait; other pools reject them at once."""
        return LIBRARIES[self.scenario.pool.kind].rules.waiter_order != "none"

    @property
    def was_full(self) -> bool:
        """Whether some pool had every connection in use at once."""
        return any(size and pool.connections.peak_in_use >= size for pool, size in self.pools)

    @property
    def exhausted_at(self) -> float | None:
        """When the last exhaustion began, which for a stuck pool is the one that never ended.

        ``Summary.exhausted_at`` says so where it lasts; of a pool that recovered it is the first moment, and this the
        last. A pool that is full all along is exhausted for good from its last acquire on.
        """
        first = self.summary.exhausted_at
        points = [point for point in self.run.timeline if point.at <= self.load_until]
        stretch = list(takewhile(self._is_exhausted, reversed(points)))
        if first is None or not stretch:
            return stretch[-1].at if stretch else first
        if len(stretch) < len(points):
            free = points[-len(stretch) - 1]
            return first if first >= free.at else stretch[-1].at
        last = min((point.at for point in points if point.acquired == points[-1].acquired), default=first)
        return max(first, last) if self.is_stuck and last < points[-1].at else first

    def _is_exhausted(self, point: TimelinePoint) -> bool:
        return point.waiting > 0 or point.in_use >= (self.capacity or inf)

    @property
    def waits_sustained(self) -> bool:
        """Whether requests queued over a good part of the load, outside of events, and for long beside a typical
        hold."""
        load, hold = self.scenario.load, self.summary.use_time.p50
        if load.connections_per_request > 1 and load.hold.mean > 0:
            # A request keeps its first connection while it waits for the next: that is no work.
            hold = min(hold, load.hold.mean)
        return self.has_waits_beyond(hold)

    def has_waits_beyond(self, work: float) -> bool:
        """Return whether requests queued over a good part of the load, outside of events, and for long: one in twenty
        longer than ``work``, or every second one longer than half of it."""
        points = [point for point in self.load_points if self.find_event(point.at) is None]
        waits = self.summary.wait_time
        if not points or (waits.p95 <= work and waits.p50 <= work / 2):
            return False
        return sum(1 for point in points if point.waiting) >= SUSTAINED_SHARE * len(points)

    @property
    def clients_suffer(self) -> bool:
        """Whether requests got no connection, or waited for one as a rule."""
        summary = self.summary
        return bool(summary.timed_out or summary.refused or summary.unfinished or self.waits_sustained)

    def find_refusals(self, *limits: PoolLimit) -> list[ObservedError]:
        return [error for error in self.summary.errors if classify_refusal(error.kind) in limits]

    @property
    def refused_by_server(self) -> int:
        """Clients refused because no slot was left, as clients or the server's log counted them, whichever is more.

        psycopg_pool opens in the background and swallows the refusal: then only the log has it.
        """
        reported = sum(error.count for error in self.find_refusals("server"))
        logged = 0 if self.find_refusals("role") else self.server.refused or 0
        return max(reported, logged)

    @property
    def pooler_queue(self) -> PoolerQueue | None:
        """What waited inside PgBouncer; None where nothing did, or where a leak explains it that no pooler sees."""
        settings = self.scenario.database.pgbouncer
        errors = self.find_refusals("pooler-queue")
        if self.scenario.database.via != "pgbouncer":
            return None
        sizes = [parse_count(settings.get("default_pool_size"), 20)]
        sizes += [parse_count(settings.get(key), 0) for key in ("max_db_connections", "max_user_connections")]
        size = min(number for number in sizes if number) if any(sizes) else 0
        clients = self.summary.connections.peak_open
        starved = self.summary.connections.in_use - self.lost + self.summary.unfinished
        is_full = (self.server.peak_connections or 0) >= size > 0
        if not errors and not (is_full and starved > 0 and clients > size):
            return None
        mode = str(settings.get("pool_mode", "session"))
        # Outside of session mode a leaked connection takes a server connection only while its transaction is open.
        if mode != "session" and self.leaked and self.leak.shape not in ("in-transaction", "unread-rows"):
            return None
        return PoolerQueue(size, mode, clients, sum(error.count for error in errors), starved)

    def find_event(self, at: float) -> Event | None:
        """Find the last event in whose window ``at`` lies: from its beginning until its backlog could drain. None
        without any."""
        for event in reversed(self.scenario.events):
            length = event.overlap if event.do == "deploy" else event.duration or event.down or 0.0
            if event.at <= at <= event.at + length + max(EVENT_TAIL, length):
                return event
        return None

    @property
    def exhausted_by_event(self) -> Event | None:
        """The event that caused the last exhaustion, if the load ended before its window did or the pool recovered.

        An exhaustion that outlasts the window needs a cause of its own.
        """
        event = self.find_event(self.exhausted_at) if self.exhausted_at is not None else None
        if event is None or (self.is_stuck and self.find_event(self.load_until) is not event):
            return None
        return event

    @property
    def calm_errors(self) -> int:
        """Errors outside of the events' windows."""
        if not self.scenario.events or not self.run.timeline:
            return sum(error.count for error in self.summary.errors)
        pairs = pairwise(self.run.timeline)
        return sum(max(0, b.errors - a.errors) for a, b in pairs if self.find_event(b.at) is None)

    def list_steps(self, event: Event) -> list[tuple[TimelinePoint, TimelinePoint]]:
        """List each sample of the event's window with the one before it."""
        return [(a, b) for a, b in pairwise(self.run.timeline) if self.find_event(b.at) is event]

    def count_errors(self, start: float, end: float) -> int:
        """Count the errors in the timeline after ``start`` and until ``end``, in seconds on the run's clock."""
        before = max((point.errors for point in self.run.timeline if point.at <= start), default=0)
        return max(0, max((point.errors for point in self.run.timeline if point.at <= end), default=0) - before)

    @property
    def cpu_share(self) -> float | None:
        """Share of the machine's cores that the server alone kept busy; None: not measured."""
        cpu, cores = self.server.cpu, self.server.cores
        return None if cpu is None or not cores else cpu / cores

    def name_setting(self, key: str) -> str:
        """Return a pool setting with the library's own name for it: "max_idle (SetMaxIdleConns)"."""
        name = LIBRARIES[self.scenario.pool.kind].native.get(key)
        return key if name in (None, key) else f"{key} ({name})"

    def count_backends(self, *words: str) -> int:
        """Count the backends at the end of the load whose state or wait event has one of ``words``."""
        return sum(count for state, count in self.server.states.items() if any(word in state for word in words))


def _rank_suffering(summary: Summary) -> tuple[int, float]:
    return summary.unfinished, summary.wait_time.p99


def judge_waiting(facts: RunFacts) -> Severity:
    """Return critical if clients get nothing: 1 % of acquires timed out, or the queue never drained. Else warning."""
    summary = facts.summary
    never = facts.is_stuck and summary.unfinished > 0
    return "critical" if never or summary.timed_out > 0.01 * summary.offered else "warning"


def find_main_error(errors: Iterable[ObservedError]) -> ObservedError | None:
    """Find the error that occurred most often; None without any."""
    return max(errors, key=lambda error: error.count, default=None)


def add_caveats(finding: Finding, run: Run) -> Finding:
    """Cap the confidence of a conclusion that rests on measured times, where the run measured them badly."""
    caveats = []
    if run.generator is not None and run.generator.bound_by:
        caveats.append(f"the load generator was the limit ({'; '.join(run.generator.bound_by)})")
    if run.interrupted:
        caveats.append("the run was interrupted")
    if run.failure:
        caveats.append(f"the run is incomplete ({run.failure})")
    if not caveats:
        return finding
    return replace(
        finding,
        confidence="likely" if finding.confidence == "certain" else finding.confidence,
        evidence={**finding.evidence, "caveats": caveats},
        decide_by=finding.decide_by or f"a run without this: {' and '.join(caveats)}",
    )
