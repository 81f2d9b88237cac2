"""PgBouncer and Pgpool-II between the pools and the server.

PgBouncer: one pool of server connections for each service, as each is a (user, database) pair; waiting clients in
order; one login at a time; a janitor every third of a second (src/objects.c, src/janitor.c). Pgpool-II: a child
process for each client, which keeps a server connection for each service it has met; clients without a child wait
in the listen queue.

A pooler has the methods by which instances meet the server: dial, claim, hang_up, statement, end_statement, cut_all.
"""

from collections import deque
from math import inf
from typing import Any

from poolctl.engines.model.clock import draw
from poolctl.engines.model.plan import times
from poolctl.engines.model.server import (
    ACCEPTED,
    CUT,
    DOOMED,
    HAS_SLOT,
    NO_CLIENT,
    NO_SLOT,
    RESERVED,
    SERVER_AWAY,
    STARTING,
    Link,
    ModelServer,
)
from poolctl.scenario.run import ErrorKind
from poolctl.scenario.scenario import Scenario

JANITOR = 1.0 / 3.0
"""Seconds between two runs of PgBouncer's janitor, and of what Pgpool-II's children do by the clock."""

CLIENT_FULL = ErrorKind("pooler", "OperationalError", "08P01", "no more connections allowed (max_client_conn)")
CHILD_FULL = ErrorKind("pooler", "OperationalError", "53300", "Sorry, too many clients already")
OVERDUE = ErrorKind("pooler", "ProtocolViolation", "08P01", "query_wait_timeout")
SERVER_GONE = ErrorKind("pooler", "OperationalError", "08P01", "server conn crashed?")

_BOUNCER = {
    "default_pool_size": 20,
    "min_pool_size": 0,
    "reserve_pool_size": 0,
    "reserve_pool_timeout": 5,
    "max_db_connections": 0,
    "max_user_connections": 0,
    "max_client_conn": 100,
    "query_wait_timeout": 120,
    "server_lifetime": 3600,
    "server_idle_timeout": 600,
    "server_login_retry": 15,
    "server_round_robin": 0,
}
_PGPOOL = {
    "num_init_children": 32,
    "max_pool": 4,
    "reserved_connections": 0,
    "connection_life_time": 0,
    "child_life_time": 300,
}


class ModelBackend:
    """A connection of PgBouncer to the server."""

    __slots__ = ("idle_since", "opened_at", "pool", "slot")

    def __init__(self, pool: "ModelBouncerPool", slot: int, now: float) -> None:
        self.pool, self.slot = pool, slot
        self.opened_at = self.idle_since = now


class ModelBouncerPool:
    """PgBouncer's pool of one (user, database) pair."""

    def __init__(self) -> None:
        self.idle: list[ModelBackend] = []
        self.queue: deque[tuple[Link, float]] = deque()
        """The waiting clients, each with since when it waits."""
        self.servers = 0
        self.is_logging_in = False
        self.failed_at = self.retired_at = -inf


class ModelPgBouncer:
    """PgBouncer in session or transaction mode."""

    def __init__(self, scenario: Scenario, server: ModelServer) -> None:
        database = scenario.database
        self.server, self.clock = server, server.clock
        self.connect_time = times(database.pooler_connect_time)
        self.is_session = database.pgbouncer.get("pool_mode", "session") == "session"
        settings = _numbers(_BOUNCER | database.pgbouncer)
        self.settings = settings
        self.clients = 0
        self.pools = [ModelBouncerPool() for _ in scenario.all_services]
        self.linked: dict[Link, ModelBackend] = {}
        """The clients that have a server connection, in the order in which they got it."""
        self.clock.after(JANITOR, self.janitor, None)

    def dial(self, link: Link, now: float) -> None:
        """Begin an opening."""
        link.asked_at, link.outside = now, 0.0
        self.claim(link, now)
        self.clock.after(draw(self.connect_time, self.server.random), self.end_dial, link)

    def claim(self, link: Link, now: float) -> bool:
        """Take a place at the pooler; return whether there was one."""
        if self.clients >= self.settings["max_client_conn"]:
            link.slot = NO_CLIENT
            return False
        self.clients += 1
        link.slot = ACCEPTED
        return True

    def end_dial(self, link: Link, now: float) -> None:
        """End an opening, one way or the other."""
        if link.is_orphan:
            self.hang_up(link)
            link.instance.forget(link)
        elif link.slot == ACCEPTED:
            link.instance.opened(link, now)
        else:
            link.slot = NO_SLOT
            link.instance.open_failed(link, now, CLIENT_FULL)

    def hang_up(self, link: Link) -> None:
        """Let go of a client; its server connection is free when its session was clean."""
        if link.slot == ACCEPTED:
            self.clients -= 1
            backend = self.linked.pop(link, None)
            if backend is not None:
                if self.is_session and not link.is_busy:
                    self.let_go(backend, self.clock.now)
                else:
                    # Its transaction is open: the server connection cannot be used again.
                    self.close(backend)
        link.slot = NO_SLOT

    def statement(self, link: Link, work: float, now: float) -> None:
        """Run ``work`` seconds of query, once a server connection is free."""
        if link in self.linked:
            self.server.statement(link, work, now)
            return
        pool = self.pool_of(link)
        link.work = work
        if pool.idle:
            self.assign(link, pool.idle.pop(0 if self.settings["server_round_robin"] else -1), now)
        else:
            pool.queue.append((link, now))
            self.launch(pool, now)

    def end_statement(self, link: Link, now: float) -> None:
        """End a transaction; in transaction mode its server connection is free for the next."""
        if not self.is_session and link in self.linked:
            self.let_go(self.linked.pop(link), now)

    def cut_all(self, links: list[Link], now: float) -> None:
        """End every server connection."""
        for pool in self.pools:
            for backend in pool.idle:
                self.close(backend)
            pool.idle.clear()
            pool.failed_at = -inf
        linked = list(self.linked)
        self.server.drop_work(set(linked), now)
        for link in linked:
            if link.connection.state == "in_use" and not link.is_orphan:
                self.disconnect(link, SERVER_GONE, now)
            else:
                self.close(self.linked.pop(link))

    def pool_of(self, link: Link) -> ModelBouncerPool:
        return self.pools[link.instance.number_of_service]

    def assign(self, link: Link, backend: ModelBackend, now: float) -> None:
        work, link.work = link.work, None
        self.linked[link] = backend
        self.server.statement(link, work or 0.0, now)

    def let_go(self, backend: ModelBackend, now: float) -> None:
        """Give a server connection to the next client, keep it idle, or close it for its age."""
        pool, lifetime = backend.pool, self.settings["server_lifetime"]
        spacing = lifetime / max(self.settings["default_pool_size"], 1.0)
        if now - backend.opened_at >= lifetime and now - pool.retired_at >= spacing:
            pool.retired_at = now
            self.close(backend)
            self.launch(pool, now)
            return
        link = self.next_waiting(pool)
        if link is not None:
            self.assign(link, backend, now)
        else:
            backend.idle_since = now
            pool.idle.append(backend)

    def next_waiting(self, pool: ModelBouncerPool) -> Link | None:
        while pool.queue:
            link, _ = pool.queue.popleft()
            if is_waiting(link):
                return link
        return None

    def launch(self, pool: ModelBouncerPool, now: float, *, reserve: bool = False) -> None:
        """Begin a login for the pool if it may have one more connection (launch_new_connection)."""
        settings = self.settings
        # 0 is unlimited since PgBouncer 1.24.
        most = (settings["default_pool_size"] or inf) + (settings["reserve_pool_size"] if reserve else 0.0)
        is_wanted = bool(pool.queue) or pool.servers < settings["min_pool_size"]
        if not is_wanted or pool.is_logging_in or pool.servers >= most:
            return
        if now - pool.failed_at < settings["server_login_retry"]:
            return
        if settings["max_user_connections"] and pool.servers >= settings["max_user_connections"]:
            return
        servers = sum(other.servers for other in self.pools)
        if settings["max_db_connections"] and servers >= settings["max_db_connections"] and not self.evict():
            return
        backend = ModelBackend(pool, self.claim_server(now), now)
        pool.servers += 1
        pool.is_logging_in = True
        self.clock.after(draw(self.server.connect_time, self.server.random), self.end_login, backend)

    def claim_server(self, now: float) -> int:
        server = self.server
        if now < server.down_until:
            return SERVER_AWAY
        if server.slots + server.doomed >= server.usable:
            return NO_SLOT
        server.slots += 1
        server.peak_slots = max(server.peak_slots, server.slots)
        return HAS_SLOT

    def evict(self) -> bool:
        """Close the connection that was idle longest, of any pool of this database."""
        idle = [backend for pool in self.pools for backend in pool.idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda backend: backend.idle_since)
        oldest.pool.idle.remove(oldest)
        self.close(oldest)
        return True

    def close(self, backend: ModelBackend) -> None:
        if backend.slot == HAS_SLOT:
            self.server.slots -= 1
        backend.slot = NO_SLOT
        backend.pool.servers -= 1

    def end_login(self, backend: ModelBackend, now: float) -> None:
        """End a login, one way or the other."""
        pool = backend.pool
        pool.is_logging_in = False
        if backend.slot == HAS_SLOT:
            backend.opened_at = now
            self.let_go(backend, now)
            self.launch(pool, now)
            return
        kind = STARTING
        if backend.slot == NO_SLOT:
            self.server.refused += 1
            kind = RESERVED
        self.close(backend)
        pool.failed_at = now
        link = self.next_waiting(pool)
        if link is not None:
            # The first in the queue gets the server's error, the others wait on.
            self.disconnect(link, kind, now)

    def disconnect(self, link: Link, kind: ErrorKind, now: float) -> None:
        link.work = None
        link.instance.pool.mark_lost(link.connection)
        self.hang_up(link)
        link.instance.fail_statement(link, kind, now)

    def janitor(self, _: None, now: float) -> None:
        """Enforce time-outs and ages, and use the reserve."""
        self.clock.after(JANITOR, self.janitor, None)
        settings = self.settings
        patience, idle_timeout = settings["query_wait_timeout"], settings["server_idle_timeout"]
        for pool in self.pools:
            queue = pool.queue
            while queue and (not is_waiting(queue[0][0]) or (patience and now - queue[0][1] >= patience)):
                link = queue.popleft()[0]
                if is_waiting(link):
                    self.disconnect(link, OVERDUE, now)
            may_use_reserve = bool(queue) and now - queue[0][1] >= settings["reserve_pool_timeout"]
            self.launch(pool, now, reserve=may_use_reserve)
            for backend in list(pool.idle):
                is_old = now - backend.opened_at >= settings["server_lifetime"]
                is_idle = idle_timeout and now - backend.idle_since >= idle_timeout
                if is_old or (is_idle and pool.servers > settings["min_pool_size"]):
                    pool.idle.remove(backend)
                    self.close(backend)


class Child:
    """A process of Pgpool-II. ``cache``: for each service, by number, when its server connection was last let go."""

    __slots__ = ("cache",)

    def __init__(self) -> None:
        self.cache: dict[int, float] = {}


class ModelPgpool:
    """Pgpool-II without load balancing."""

    def __init__(self, scenario: Scenario, server: ModelServer) -> None:
        database = scenario.database
        self.server, self.clock = server, server.clock
        self.connect_time = times(database.pooler_connect_time)
        self.settings = _numbers(_PGPOOL | database.pgpool)
        self.children = [Child() for _ in range(int(self.settings["num_init_children"]))]
        self.free = list(self.children)
        """Which of the free ones accepts is up to the operating system: here the one that was free first."""
        self.child_of: dict[Link, Child] = {}
        self.backlog: deque[Link] = deque()
        """The listen queue."""
        self.clock.after(JANITOR, self.janitor, None)

    def dial(self, link: Link, now: float) -> None:
        """Begin an opening."""
        link.asked_at, link.outside = now, 0.0
        reserved = self.settings["reserved_connections"]
        busy = len(self.children) - len(self.free)
        if reserved and busy >= len(self.children) - reserved:
            link.slot = NO_CLIENT
            self.clock.after(draw(self.connect_time, self.server.random), self.end_dial, link)
        elif not self.free:
            self.backlog.append(link)
        else:
            self.accept(link, now)

    def claim(self, link: Link, now: float) -> bool:
        """Take a child; return whether there was one, and it has a server connection."""
        if not self.free:
            link.slot = NO_CLIENT
            return False
        self.take_child(link, now)
        if link.slot != ACCEPTED:
            self.free_child(link)
        return link.slot == ACCEPTED

    def accept(self, link: Link, now: float) -> None:
        """Give the client to a child, which opens a server connection if it has none for it."""
        took = draw(self.connect_time, self.server.random)
        if self.take_child(link, now):
            took += draw(self.server.connect_time, self.server.random)
        self.clock.after(took, self.end_dial, link)

    def take_child(self, link: Link, now: float) -> bool:
        """Give the client a free child; return whether that has to open a server connection."""
        child, service = self.free.pop(0), link.instance.number_of_service
        self.child_of[link] = child
        if service in child.cache:
            link.slot = ACCEPTED
            return False
        if len(child.cache) >= self.settings["max_pool"]:
            del child.cache[min(child.cache, key=lambda cached: child.cache[cached])]
            self.server.slots -= 1
        if self.server.claim(link, now):
            child.cache[service] = now
            link.slot = ACCEPTED
        return True

    def end_dial(self, link: Link, now: float) -> None:
        """End an opening, one way or the other."""
        if link.slot == ACCEPTED and not link.is_orphan:
            link.instance.opened(link, now)
        elif link.slot == NO_CLIENT and not link.is_orphan:
            link.slot = NO_SLOT
            link.instance.open_failed(link, now, CHILD_FULL)
        else:
            if link.slot in (NO_SLOT, DOOMED, SERVER_AWAY, CUT):
                self.free_child(link)
            if link.slot == ACCEPTED:
                self.hang_up(link)
            self.server.end_dial(link, now)

    def hang_up(self, link: Link) -> None:
        """Let go of a client; its child keeps the server connection."""
        if link.slot != ACCEPTED:
            self.server.hang_up(link)
            return
        link.slot = NO_SLOT
        child, service = self.child_of[link], link.instance.number_of_service
        if service in child.cache:
            child.cache[service] = self.clock.now
        self.free_child(link)

    def statement(self, link: Link, work: float, now: float) -> None:
        """Run ``work`` seconds of query."""
        self.server.statement(link, work, now)

    def end_statement(self, link: Link, now: float) -> None:
        """End a transaction; the client keeps its child."""

    def cut_all(self, links: list[Link], now: float) -> None:
        """End every server connection, and with it those of the clients."""
        self.server.slots -= sum(len(child.cache) for child in self.children)
        for child in self.children:
            child.cache.clear()
        self.server.cut_all(links, now, self.hang_up)

    def free_child(self, link: Link) -> None:
        child = self.child_of.pop(link, None)
        if child is None:
            return
        self.free.append(child)
        while self.backlog and self.free:
            waiting = self.backlog.popleft()
            if waiting.is_orphan:
                waiting.instance.forget(waiting)
            else:
                self.accept(waiting, self.clock.now)

    def janitor(self, _: None, now: float) -> None:
        """Close what free children have kept for too long."""
        self.clock.after(JANITOR, self.janitor, None)
        limits = [self.settings["connection_life_time"], self.settings["child_life_time"]]
        for child in self.free:
            for service, since in list(child.cache.items()):
                if any(limit and now - since >= limit for limit in limits):
                    del child.cache[service]
                    self.server.slots -= 1


def new_network(scenario: Scenario, server: ModelServer) -> ModelServer | ModelPgBouncer | ModelPgpool:
    """Return what the instances of a scenario connect to."""
    if scenario.database.via == "pgbouncer":
        return ModelPgBouncer(scenario, server)
    return ModelPgpool(scenario, server) if scenario.database.via == "pgpool" else server


def is_waiting(link: Link) -> bool:
    """Return whether a client still waits for a server connection."""
    connection = link.connection
    return link.work is not None and connection.state == "in_use" and not link.is_orphan and not connection.is_lost


def _numbers(settings: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in settings.items() if key != "pool_mode"}
