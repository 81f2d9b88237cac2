"""PgBouncer and Pgpool-II between the pools and the server.

PgBouncer: one pool of server connections for each service, as each is a (user, database) pair; waiting clients in
order; one login at a time; a janitor every third of a second (src/objects.c, src/janitor.c). Pgpool-II: a child
process for each client, which keeps a server connection for each service it has met; clients without a child wait
in the listen queue.
"""

from collections import deque
from math import inf
from typing import Any

from poolctl.engines.model.plan import ModelInstance, ServicePlan, times
from poolctl.engines.model.server import CUT, SERVER_AWAY, ModelServer
from poolctl.engines.model.state import ALIVE, DEAD, EVENT, IN_USE, OPENED, ZOMBIE
from poolctl.scenario.run import ErrorKind
from poolctl.scenario.scenario import Scenario

JANITOR = 1.0 / 3.0
ACCEPTED, NO_CLIENT = 3, -3
"""In k_slot: it has a place at the pooler; the pooler has no place for it."""

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


class Poolers(ModelServer):
    """Connections of the application end at the pooler; its own to the server are numbered g."""

    __slots__ = ()

    def __init__(self, scenario: Scenario, parts: list[ServicePlan], pods: list[ModelInstance]) -> None:
        super().__init__(scenario, parts, pods)
        database, n = scenario.database, len(parts)
        self.via = database.via
        self.pooler_connect_time = times(database.pooler_connect_time)
        self.is_session = database.pgbouncer.get("pool_mode", "session") == "session"
        settings: dict[str, Any] = (
            (_PGPOOL | database.pgpool) if self.via == "pgpool" else (_BOUNCER | database.pgbouncer)
        )
        self.pooler: dict[str, float] = {key: float(value) for key, value in settings.items() if key != "pool_mode"}
        self.k_backend: dict[int, int] = {}
        self.k_work: dict[int, float] = {}
        self.clients = 0
        self.b_idle: list[list[int]] = [[] for _ in range(n)]
        self.b_queue: list[deque[tuple[int, float]]] = [deque() for _ in range(n)]
        self.b_servers, self.b_logins = [0] * n, [0] * n
        self.b_failed, self.b_killed = [-inf] * n, [-inf] * n
        self.g_part: list[int] = []
        self.g_born: list[float] = []
        self.g_idle_since: list[float] = []
        self.g_slot: list[int] = []
        children = int(self.pooler.get("num_init_children", 0))
        self.children: list[int] = list(range(children))
        """Free ones; which of them accepts is up to the operating system: here the one that was free first."""
        self.child_cache: list[dict[int, float]] = [{} for _ in range(children)]
        """For each child, the services it has a server connection for, and when that was last let go."""
        self.backlog: deque[int] = deque()
        if self.via != "none":
            self.after(JANITOR, EVENT, -1, 0.0)

    def part_of(self, k: int) -> int:
        return self.pods[self.k_pod[k]].part

    def dial(self, k: int, now: float) -> None:
        if self.via == "none":
            super().dial(k, now)
            return
        self.k_asked[k] = now
        self.k_outside[k] = 0.0
        if self.via == "pgbouncer":
            self.claim_slot(k, now)
            self.after(self.draw(self.pooler_connect_time, self.server_random), OPENED, k, now)
            return
        busy = len(self.child_cache) - len(self.children)
        reserved = self.pooler["reserved_connections"]
        if reserved and busy >= len(self.child_cache) - reserved:
            self.k_slot[k] = NO_CLIENT
            self.after(self.draw(self.pooler_connect_time, self.server_random), OPENED, k, now)
        elif not self.children:
            self.backlog.append(k)
        else:
            self.accept(k, now)

    def accept(self, k: int, now: float) -> None:
        """A child of Pgpool-II takes the client, and opens a server connection if it has none for it."""
        took = self.draw(self.pooler_connect_time, self.server_random)
        if self.link_child(k, now):
            took += self.draw(self.connect_time, self.server_random)
        self.after(took, OPENED, k, now)

    def link_child(self, k: int, now: float) -> bool:
        """Give the client a free child; whether that has to open a server connection."""
        child, part = self.children.pop(0), self.part_of(k)
        cache = self.child_cache[child]
        self.k_backend[k] = child
        if part in cache:
            self.k_slot[k] = ACCEPTED
            return False
        if len(cache) >= self.pooler["max_pool"]:
            del cache[min(cache, key=lambda cached: cache[cached])]
            self.slots -= 1
        super().claim_slot(k, now)
        if self.k_slot[k] == 1:
            cache[part] = now
            self.k_slot[k] = ACCEPTED
        return True

    def claim_slot(self, k: int, now: float) -> None:
        if self.via == "none":
            super().claim_slot(k, now)
        elif self.via == "pgpool":
            if self.children:
                self.link_child(k, now)
            else:
                self.k_slot[k] = NO_CLIENT
        elif self.clients >= self.pooler["max_client_conn"]:
            self.k_slot[k] = NO_CLIENT
        else:
            self.clients += 1
            self.k_slot[k] = ACCEPTED

    def dialed(self, k: int, now: float) -> None:
        if k < 0:
            self.login_ended(-1 - k, now)
        else:
            super().dialed(k, now)

    def dial_ended(self, k: int, now: float) -> None:
        slot = self.k_slot[k]
        if slot == ACCEPTED and self.k_state[k] != ZOMBIE:
            self.opened(k, now)
        elif slot == NO_CLIENT and self.k_state[k] != ZOMBIE:
            self.k_slot[k] = 0
            self.open_failed(k, now, CHILD_FULL if self.via == "pgpool" else CLIENT_FULL)
        else:
            if self.via == "pgpool" and slot in (0, 2, SERVER_AWAY, CUT):
                self.free_child(k)
            super().dial_ended(k, now)

    def hang_up(self, k: int) -> None:
        slot = self.k_slot[k]
        if slot != ACCEPTED:
            super().hang_up(k)
            return
        self.k_slot[k] = 0
        if self.via == "pgpool":
            child = self.k_backend[k]
            if self.part_of(k) in self.child_cache[child]:
                self.child_cache[child][self.part_of(k)] = self.now
            self.free_child(k)
            return
        self.clients -= 1
        if k in self.k_backend:
            g = self.k_backend.pop(k)
            if self.is_session and self.k_state[k] != IN_USE:
                self.let_go(g, self.now)
            else:
                # Its transaction is open: the server connection cannot be used again.
                self.close_backend(g)

    def free_child(self, k: int) -> None:
        child = self.k_backend.pop(k, -1)
        if child < 0:
            return
        self.children.append(child)
        while self.backlog and self.children:
            waiting = self.backlog.popleft()
            if self.k_state[waiting] == ZOMBIE:
                self.free(waiting)
            else:
                self.accept(waiting, self.now)

    def statement(self, k: int, work: float, now: float) -> None:
        if self.via != "pgbouncer" or k in self.k_backend:
            super().statement(k, work, now)
            return
        b = self.part_of(k)
        self.k_work[k] = work
        if self.b_idle[b]:
            self.link(k, self.b_idle[b].pop(0 if self.pooler["server_round_robin"] else -1), now)
        else:
            self.b_queue[b].append((k, now))
            self.launch(b, now)

    def link(self, k: int, g: int, now: float) -> None:
        self.k_backend[k] = g
        super().statement(k, self.k_work.pop(k), now)

    def statement_over(self, k: int, now: float) -> None:
        """The transaction has ended; in transaction mode its server connection is free for the next."""
        if self.via == "pgbouncer" and not self.is_session and k in self.k_backend:
            self.let_go(self.k_backend.pop(k), now)

    def let_go(self, g: int, now: float) -> None:
        b = self.g_part[g]
        lifetime = self.pooler["server_lifetime"]
        spacing = lifetime / max(self.pooler["default_pool_size"], 1.0)
        if now - self.g_born[g] >= lifetime and now - self.b_killed[b] >= spacing:
            self.b_killed[b] = now
            self.close_backend(g)
            self.launch(b, now)
            return
        k = self.next_waiting(b)
        if k >= 0:
            self.link(k, g, now)
        else:
            self.g_idle_since[g] = now
            self.b_idle[b].append(g)

    def next_waiting(self, b: int) -> int:
        queue = self.b_queue[b]
        while queue:
            k, _ = queue.popleft()
            if self.is_waiting(k):
                return k
        return -1

    def is_waiting(self, k: int) -> bool:
        return k in self.k_work and self.k_state[k] == IN_USE and self.k_dead[k] == ALIVE

    def launch(self, b: int, now: float, reserve: bool = False) -> None:
        """Begin a login for the pool if it may have one more connection (launch_new_connection)."""
        pooler = self.pooler
        most = pooler["default_pool_size"] + (pooler["reserve_pool_size"] if reserve else 0.0)
        wanted = bool(self.b_queue[b]) or self.b_servers[b] < pooler["min_pool_size"]
        if not wanted or self.b_logins[b] or self.b_servers[b] >= most:
            return
        if now - self.b_failed[b] < pooler["server_login_retry"]:
            return
        if pooler["max_user_connections"] and self.b_servers[b] >= pooler["max_user_connections"]:
            return
        if pooler["max_db_connections"] and sum(self.b_servers) >= pooler["max_db_connections"] and not self.evict():
            return
        g = len(self.g_part)
        self.g_part.append(b)
        self.g_born.append(now)
        self.g_idle_since.append(now)
        self.g_slot.append(self.backend_slot(now))
        self.b_servers[b] += 1
        self.b_logins[b] = 1
        self.after(self.draw(self.connect_time, self.server_random), OPENED, -1 - g, now)

    def backend_slot(self, now: float) -> int:
        if now < self.down_until:
            return SERVER_AWAY
        if self.slots + self.doomed >= self.usable:
            return 0
        self.slots += 1
        self.peak_slots = max(self.peak_slots, self.slots)
        return 1

    def evict(self) -> bool:
        """Close the connection that was idle longest, of any pool of this database."""
        idle = [g for pool in self.b_idle for g in pool]
        if not idle:
            return False
        oldest = min(idle, key=lambda g: self.g_idle_since[g])
        self.b_idle[self.g_part[oldest]].remove(oldest)
        self.close_backend(oldest)
        return True

    def close_backend(self, g: int) -> None:
        if self.g_slot[g] == 1:
            self.slots -= 1
        self.g_slot[g] = 0
        self.b_servers[self.g_part[g]] -= 1

    def login_ended(self, g: int, now: float) -> None:
        b = self.g_part[g]
        self.b_logins[b] = 0
        if self.g_slot[g] == 1:
            self.g_born[g] = now
            self.let_go(g, now)
            self.launch(b, now)
            return
        kind = self.login_failure(g)
        self.close_backend(g)
        self.b_failed[b] = now
        k = self.next_waiting(b)
        if k >= 0:
            # The first in the queue is told what the server said, the others wait on.
            self.disconnect(k, kind, now)

    def login_failure(self, g: int) -> ErrorKind:
        from poolctl.engines.model.server import RESERVED, STARTING

        if self.g_slot[g] == 0:
            self.refused += 1
            return RESERVED
        return STARTING

    def disconnect(self, k: int, kind: ErrorKind, now: float) -> None:
        self.k_work.pop(k, None)
        self.k_dead[k] = DEAD
        self.k_stale[k] = self.k_spent[k] = -1.0
        self.hang_up(k)
        self.statement_failed(k, kind, now)

    def janitor(self, now: float) -> None:
        self.after(JANITOR, EVENT, -1, now)
        if self.via == "pgpool":
            self.age_children(now)
            return
        patience, idle_timeout = self.pooler["query_wait_timeout"], self.pooler["server_idle_timeout"]
        for b, queue in enumerate(self.b_queue):
            while queue and (not self.is_waiting(queue[0][0]) or (patience and now - queue[0][1] >= patience)):
                k, _ = queue.popleft()
                if self.is_waiting(k):
                    self.disconnect(k, OVERDUE, now)
            reserve = bool(queue) and now - queue[0][1] >= self.pooler["reserve_pool_timeout"]
            self.launch(b, now, reserve)
            for g in list(self.b_idle[b]):
                is_old = now - self.g_born[g] >= self.pooler["server_lifetime"]
                is_idle = idle_timeout and now - self.g_idle_since[g] >= idle_timeout
                if is_old or (is_idle and self.b_servers[b] > self.pooler["min_pool_size"]):
                    self.b_idle[b].remove(g)
                    self.close_backend(g)

    def age_children(self, now: float) -> None:
        connection, child_life = self.pooler["connection_life_time"], self.pooler["child_life_time"]
        for child in self.children:
            cache = self.child_cache[child]
            for part, since in list(cache.items()):
                if (connection and now - since >= connection) or (child_life and now - since >= child_life):
                    del cache[part]
                    self.slots -= 1

    def cut_all(self, now: float) -> None:
        if self.via == "pgpool":
            self.slots -= sum(map(len, self.child_cache))
            for cache in self.child_cache:
                cache.clear()
        if self.via != "pgbouncer":
            super().cut_all(now)
            return
        for b, idle in enumerate(self.b_idle):
            for g in idle:
                self.close_backend(g)
            idle.clear()
            self.b_failed[b] = -inf
        linked = list(self.k_backend)
        self.drop_work(set(linked), set())
        for k in linked:
            if self.k_state[k] == IN_USE:
                self.disconnect(k, SERVER_GONE, now)
            else:
                self.close_backend(self.k_backend.pop(k))

    def statement_failed(self, k: int, kind: ErrorKind, now: float) -> None:
        raise NotImplementedError
