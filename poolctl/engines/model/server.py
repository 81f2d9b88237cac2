"""The server of the model: slots and refusals, openings, cores that queries share, restarts and pauses.

The cores are shared equally (processor sharing). With n queries each proceeds at the rate min(1, cores / n), less
what contention takes, so all of them can be kept in one heap by the virtual time V at which they are done, where
dV/dt is that rate: a change of n moves none of them.
"""

from collections.abc import Callable
from functools import lru_cache
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, Protocol

from poolctl.engines.model.clock import Clock, draw
from poolctl.engines.model.plan import RESTART_TIME, times
from poolctl.pool import Connection, Pool
from poolctl.scenario.run import ErrorKind
from poolctl.scenario.scenario import Event, Scenario

NO_SLOT, HAS_SLOT, DOOMED, ACCEPTED = range(4)
"""What a link has on the server. DOOMED: a slot that it is about to be refused. ACCEPTED: a place at the pooler."""

SERVER_AWAY, CUT, NO_CLIENT = -1, -2, -3
"""Why an opening has no slot, when it is not that there is none: no server, an end, no place at the pooler."""

CUTS = ("restart", "failover")
"""Events that end every connection."""

RESERVED = ErrorKind(
    "server",
    "OperationalError",
    "53300",
    "remaining connection slots are reserved for roles with the SUPERUSER attribute",
)
TOO_MANY = ErrorKind("server", "OperationalError", "53300", "sorry, too many clients already")
STARTING = ErrorKind("server", "OperationalError", "57P03", "the database system is starting up")
TERMINATED = ErrorKind("server", "AdminShutdown", "57P01", "terminating connection due to administrator command")


class LinkOwner(Protocol):
    """The instance whose pool a connection belongs to. It is called with what becomes of the connection."""

    pool: Pool
    number_of_service: int

    def opened(self, link: "Link", now: float) -> None:
        """Take an opening that succeeded."""

    def open_failed(self, link: "Link", now: float, kind: ErrorKind) -> None:
        """Take an opening that failed."""

    def lose(self, link: "Link", kind: ErrorKind, now: float) -> None:
        """Take the loss of the server process behind a connection."""

    def fail_statement(self, link: "Link", kind: ErrorKind, now: float) -> None:
        """Take the end of a statement by a pooler."""

    def reclaim(self, link: "Link", now: float) -> None:
        """Take a leaked connection back."""

    def forget(self, link: "Link") -> None:
        """Drop a connection that is gone."""


class Link:
    """What is behind a connection of a pool: its slot on the server, the client that uses it, its work."""

    __slots__ = (
        "asked_at",
        "client",
        "connection",
        "instance",
        "is_busy",
        "is_leaked",
        "is_orphan",
        "outside",
        "slot",
        "work",
    )

    def __init__(self, connection: Connection, instance: LinkOwner) -> None:
        self.connection, self.instance = connection, instance
        connection.handle = self
        self.client: Any = None
        """The client that uses it (clients.py); None: none does."""
        self.slot = NO_SLOT
        self.asked_at = self.outside = 0.0
        self.is_leaked = False
        self.is_orphan = False
        """Whether its pool is gone, or has given it up: it ends with what it does now."""
        self.is_busy = False
        """Whether a client had it last, so that a transaction may be open."""
        self.work: float | None = None
        """Work that waits for a server connection at PgBouncer; None: none does."""


class ModelServer:
    """The server, as the pools meet it where no pooler is between.

    An instance is the owner of its links: it is called when an opening ends; ``run`` is called when a query ends.
    """

    def __init__(self, scenario: Scenario, clock: Clock, random: Callable[[], float]) -> None:
        database = scenario.database
        self.clock, self.random = clock, random
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
        self.jobs: list[tuple[float, int, Link, bool]] = []
        """(V when done, sequence, link, whether it is the work of an opening)."""
        self.active = 0
        self.base_v = self.base_t = 0.0
        self.rate = 1.0
        self.paused = False
        self.pause_ends = 0.0
        self.next_job = inf
        self.work_done = 0.0
        """Processor time spent so far, where queries share the cores."""
        self.slow: list[float] = []
        self.slow_factor = 1.0
        self.query_over: Callable[[Link, float], object] = print
        """What is called when the time of a query, and what is outside of the database, is over."""

    def add_job(self, work: float, link: Link, is_opening: bool, now: float) -> None:
        """Begin ``work`` seconds of processor time."""
        clock = self.clock
        clock.sequence += 1
        if self.is_shared:
            self.advance(now)
            heappush(self.jobs, (self.base_v + work, clock.sequence, link, is_opening))
            self.active += 1
            self.rate = 0.0 if self.paused else self.rates[self.active]
            self.find_next_job()
        else:
            # V is the clock: nothing slows a query down.
            self.active += 1
            heappush(self.jobs, (now + work, clock.sequence, link, is_opening))
            self.next_job = self.jobs[0][0]

    def find_next_job(self) -> None:
        """Find out when the next job is done."""
        if not self.jobs or self.rate == 0.0:
            self.next_job = inf
        elif not self.is_shared:
            self.next_job = self.jobs[0][0]
        else:
            self.next_job = self.base_t + (self.jobs[0][0] - self.base_v) / self.rate

    def end_job(self, now: float) -> None:
        """End the job that is due now."""
        v, _, link, is_opening = heappop(self.jobs)
        if self.is_shared:
            self.work_done += self.active * (v - self.base_v)
            self.active -= 1
            # From 0 again when nothing runs, so that long runs lose no precision.
            self.base_v, self.base_t = (v, now) if self.active else (0.0, now)
            self.rate = 0.0 if self.paused else self.rates[self.active or 1]
            self.find_next_job()
        else:
            self.active -= 1
            self.next_job = self.jobs[0][0] if self.active else inf
        if is_opening:
            self.end_dial(link, now)
        elif link.outside == 0.0 and self.next_job > now and self.clock.timers[0][0] > now:
            # Nothing else is due at this instant, so its timer would be next.
            self.query_over(link, now)
        else:
            self.end_query(link, now)

    def advance(self, now: float) -> None:
        """Bring V, and the processor time spent, up to ``now``."""
        v = self.base_v + (now - self.base_t) * self.rate
        self.work_done += self.active * (v - self.base_v)
        self.base_v, self.base_t = v, now

    def set_paused(self, paused: bool, now: float) -> None:
        self.advance(now)
        self.paused = paused
        self.rate = 0.0 if paused else self.rates[self.active or 1]
        self.find_next_job()

    def dial(self, link: Link, now: float) -> None:
        """Begin an opening; it ends at the same instant at the earliest."""
        link.asked_at = now
        took = draw(self.connect_time, self.random)
        self.claim(link, now)
        link.outside = min(took, self.connect_cpu) if link.slot == HAS_SLOT and self.is_shared else 0.0
        self.clock.after(took - link.outside if link.outside else took, self.end_latency, link)

    def claim(self, link: Link, now: float) -> bool:
        """Take a slot for ``link``, before it is known whether the role may have it; return whether it may."""
        link.slot = NO_SLOT
        if now < self.down_until:
            link.slot = SERVER_AWAY
        elif self.slots + self.doomed < self.usable:
            self.slots += 1
            link.slot = HAS_SLOT
            self.peak_slots = max(self.peak_slots, self.slots)
        elif self.slots + self.doomed < self.max_connections:
            self.doomed += 1
            link.slot = DOOMED
        return link.slot == HAS_SLOT

    def end_latency(self, link: Link, now: float) -> None:
        """End the latency of an opening: its work for the server begins, or its end is known."""
        if link.outside > 0.0 and link.slot == HAS_SLOT:
            self.add_job(link.outside, link, True, now)
            link.outside = 0.0
        else:
            self.end_dial(link, now)

    def end_dial(self, link: Link, now: float) -> None:
        """End an opening, one way or the other."""
        if self.paused:
            # No server process answers before the pause is over.
            self.clock.after(max(self.pause_ends - now, 0.0), self.end_latency, link)
            return
        slot = link.slot
        if slot == DOOMED:
            self.doomed -= 1
            link.slot = NO_SLOT
        if link.is_orphan:
            self.hang_up(link)
            link.instance.forget(link)
        elif slot == HAS_SLOT:
            link.instance.opened(link, now)
        elif slot in (SERVER_AWAY, CUT):
            link.instance.open_failed(link, now, STARTING if slot == SERVER_AWAY else TERMINATED)
        else:
            self.refused += 1
            link.instance.open_failed(link, now, RESERVED if slot == DOOMED else TOO_MANY)

    def hang_up(self, link: Link) -> None:
        """End the server's side of a connection."""
        if link.slot == HAS_SLOT:
            self.slots -= 1
        elif link.slot == DOOMED:
            self.doomed -= 1
        link.slot = NO_SLOT

    def statement(self, link: Link, work: float, now: float) -> None:
        """Run ``work`` seconds of query, then what ``link.outside`` says outside."""
        if work > 0.0:
            self.add_job(work, link, False, now)
        else:
            self.end_query(link, now)

    def end_query(self, link: Link, now: float) -> None:
        outside, link.outside = link.outside, 0.0
        # Also with nothing outside: ending within the call that began it would make calls nest without end.
        self.clock.after(outside, self.query_over, link)

    def end_statement(self, link: Link, now: float) -> None:
        """End the transaction on ``link``; without a pooler that frees nothing."""

    def begin_event(self, event: Event, now: float) -> None:
        """Begin what an event of the scenario does to the server. The caller cuts the connections of a restart."""
        if event.do == "pause":
            self.pause_ends = now + event.duration
            self.set_paused(True, now)
        elif event.do == "slow":
            self.slow.append(event.factor)
            self.slow_factor *= event.factor
        elif event.do in CUTS:
            down = event.down if event.down is not None else (RESTART_TIME if event.do == "restart" else 0.0)
            self.down_until = now + down

    def end_event(self, event: Event, now: float) -> None:
        """End what an event did."""
        if event.do == "pause":
            self.set_paused(False, now)
        elif event.do == "slow":
            self.slow.remove(event.factor)
            self.slow_factor = 1.0
            for factor in self.slow:
                self.slow_factor *= factor

    def cut_all(self, links: list[Link], now: float, hang_up: Callable[[Link], None] | None = None) -> None:
        """End the server process of every connection; ``hang_up``: what a pooler does for each."""
        hang_up = hang_up or self.hang_up
        cut = [link for link in links if not link.is_orphan and is_open(link) and not link.connection.is_lost]
        opening = [link for link in links if (link.is_orphan or not is_open(link)) and link.slot == HAS_SLOT]
        self.drop_work({*cut, *opening}, now)
        for link in opening:
            hang_up(link)
            link.outside = 0.0
            link.slot = CUT
            self.clock.after(0.0, self.end_latency, link)
        for link in cut:
            hang_up(link)
            link.instance.pool.mark_lost(link.connection)
        for link in cut:
            link.instance.lose(link, TERMINATED, now)

    def drop_work(self, gone: set[Link], now: float) -> None:
        """Forget what the connections that are gone had to do."""
        self.jobs = [job for job in self.jobs if job[2] not in gone]
        heapify(self.jobs)
        if self.is_shared:
            self.advance(now)
        self.active = len(self.jobs)
        self.rate = 0.0 if self.paused else self.rates[self.active or 1]
        self.find_next_job()
        over = (self.query_over, self.end_latency)
        timers = self.clock.timers
        timers[:] = [timer for timer in timers if not (timer[2] in over and timer[3] in gone)]
        heapify(timers)


def is_open(link: Link) -> bool:
    """Return whether the pool has the connection idle, in use or on its way back."""
    return link.connection.state in ("idle", "in_use", "returning")


def is_shared(scenario: Scenario) -> bool:
    """Return whether queries can slow each other down, or stand still; otherwise V is the clock."""
    database = scenario.database
    bounded = database.cores is not None or database.contention > 0.0 or database.coherency > 0.0
    return bounded or any(event.do == "pause" for event in scenario.events)


@lru_cache(maxsize=4)
def rates_of(most: int, cores: float, alpha: float, beta: float) -> list[float]:
    """Return the rate at which each of n queries proceeds, for every n that ``most`` connections allow."""
    rates = [1.0] + [1.0 if n <= cores else cores / n for n in range(1, most + 2)]
    if alpha or beta:
        slowed = [1.0 + alpha * (n - 1) + beta * n * (n - 1) for n in range(1, most + 2)]
        rates[1:] = [rate / by for rate, by in zip(rates[1:], slowed, strict=True)]
    return rates
