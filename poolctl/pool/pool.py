"""Decides who gets a connection. Never waits, never opens, never looks at a clock.

The rules are those of Go's database/sql (Go 1.27.3, src/database/sql/sql.go), with the differences of other
pools as data (PoolRules). The driver, virtual or live, gives every call its ``now`` in seconds and carries out
what the call returns:

    acquire  -> Use | Open | Wait | Stale | Reject      one answer for the caller
    the rest -> [HandOver | Fail | Open | Close, ...]   things to do, in this order

Each Open is answered with ``opened`` or ``open_failed``, each Close and Stale with ``closed``. A slot is free
only when ``closed`` was called: closing takes time on a real server, and Go holds the slot meanwhile.
"""

from collections import OrderedDict, deque
from random import Random

from poolctl.pool.answers import Action, Answer, Close, Connection, Fail, HandOver, Open, Reject, Request, Stale, Wait
from poolctl.pool.libraries import LIBRARIES
from poolctl.pool.settings import PoolRules, PoolSettings
from poolctl.pool.stats import Closed, PoolStats


class Waiters:
    """The queue of requests and since when each waits. Every operation takes constant time."""

    def __init__(self, order: str, random: Random) -> None:
        self._pick_at_random = order == "random"
        self._random = random
        self.since: OrderedDict[Request, float] = OrderedDict()
        """Since when each waits, in the order they came; for reading only."""
        self._order: list[Request] = []
        self._place: dict[Request, int] = {}

    def add(self, request: Request, now: float) -> None:
        if request is None or request in self.since:
            raise ValueError("a request cannot be None, nor wait twice")
        self.since[request] = now
        if self._pick_at_random:
            self._place[request] = len(self._order)
            self._order.append(request)

    def pop(self, request: Request | None) -> tuple[Request, float]:
        """Remove ``request`` (KeyError when it is not here) or, with None, the next in order."""
        if not self._pick_at_random:
            if request is None:
                return self.since.popitem(last=False)
            return request, self.since.pop(request)
        if request is None:
            request = self._order[int(self._random.random() * len(self._order))]
        since = self.since.pop(request)
        place, last = self._place.pop(request), self._order.pop()
        if last != request:
            # The last one moves into the gap: order means nothing when the pick is random.
            self._order[place] = last
            self._place[last] = place
        return request, since


CACHED_ATTEMPTS = 2
"""How often a caller may meet a stale connection before it insists on a new one (sql.go, maxBadConnRetries)."""

SHORTEST_CLEANING_INTERVAL = 1.0
"""Seconds (sql.go, connectionCleaner, minInterval)."""


class Pool:
    """One instance's pool. Not thread-safe: a driver with threads holds a lock around each call.

    ``random`` picks among waiters; seed it for a repeatable run.
    """

    def __init__(self, settings: PoolSettings, random: Random, rules: PoolRules | None = None) -> None:
        self.settings = settings
        self.rules = rules or LIBRARIES[settings.kind].rules
        self._random = random
        self._max_open = settings.max_open
        self._max_idle = settings.max_idle if not settings.max_open else min(settings.max_idle, settings.max_open)
        self._expires = settings.max_lifetime
        self._expires_at_acquire = self._expires is not None and "acquire" in self.rules.lifetime_checked
        self._expires_at_release = self._expires is not None and "release" in self.rules.lifetime_checked
        self._cleaned_lifetime = self._expires if "cleaner" in self.rules.lifetime_checked else None
        limits = [limit for limit in (settings.max_idle_time, self._cleaned_lifetime) if limit is not None]
        self._shortest_limit = min(limits, default=None)
        self._pop_idle = -1 if self.rules.idle_order == "lifo" else 0
        self._idle: list[Connection] = []
        self._waiters = Waiters(self.rules.waiter_order, random)
        self._waiting = self._waiters.since
        self._background: deque[Connection] = deque()
        self._background_busy = False
        self._clean_at: float | None = None
        self._open = self._opening = 0
        self._counts = _Counts()

    def acquire(self, request: Request, now: float, attempt: int = 0) -> Answer:
        """Answer a request. ``attempt`` counts the Stale answers this request has already met."""
        if self._idle and attempt < CACHED_ATTEMPTS:
            connection = self._idle.pop(self._pop_idle)
            if self._expires_at_acquire and self._is_expired(connection, now):
                self._counts.max_lifetime += 1
                connection.state = "closing"
                return Stale(connection)
            self._take(connection, now)
            return connection.use
        if self._max_open and self._open >= self._max_open:
            if self.rules.waiter_order == "none":
                self._exhaust(now)
                return Reject()
            self._queue(request, now)
            self._exhaust(now)
            return Wait()
        if self.rules.opener == "background":
            self._queue(request, now)
            return Wait(self._grow(now))
        if request is None:
            raise ValueError("a request cannot be None")
        connection = Connection(request)
        # Counted before it is open, so that two arrivals cannot both take the last slot.
        self._take_slot()
        self._begin_opening(now)
        return Open(connection)

    def opened(self, connection: Connection, now: float) -> list[Action]:
        """An opening succeeded at ``now``."""
        if connection.state != "opening":
            raise ValueError(f"a connection that is {connection.state} cannot become open")
        connection.opened_at = connection.released_at = now
        self._opening -= 1
        self._counts.opened += 1
        if connection.request is not None:
            self._take(connection, now)
            return []
        self._background_busy = False
        actions: list[Action] = []
        if self._put(connection, now, actions):
            # sql.go, openNewConnection: this slot is given up before the connection is closed.
            self._forget(connection, now)
            actions.append(Close(connection))
        if self.rules.opener == "background":
            self._open_for_waiters(now, actions)
        self._open_next(now, actions)
        return actions

    def open_failed(self, connection: Connection, now: float, error: Exception) -> list[Action]:
        """An opening failed. In the background, one waiter gets the error and the opener goes on for the rest."""
        if connection.state != "opening":
            raise ValueError(f"a connection that is {connection.state} cannot fail to open")
        self._opening -= 1
        self._counts.open_failures += 1
        self._forget(connection, now)
        actions: list[Action] = []
        if connection.request is None:
            self._background_busy = False
            if self._waiting:
                actions.append(Fail(self._leave_queue(None, now), error))
                self._recover_if_free(now)
        self._open_for_waiters(now, actions)
        return actions

    def release(self, connection: Connection, now: float, *, broken: bool = False) -> list[Action]:
        """Give a connection back. ``broken``: it can serve nobody any more.

        Raises ValueError when it is not in use.
        """
        if connection.state != "in_use":
            raise ValueError(f"released a connection that is {connection.state}, not in use")
        expired = not broken and self._expires_at_release and self._is_expired(connection, now)
        connection.released_at = now
        self._counts.in_use_area += now
        self._counts.in_use -= 1
        actions: list[Action] = []
        if broken or expired:
            if broken:
                self._counts.error += 1
            else:
                self._counts.max_lifetime += 1
            connection.state = "closing"
            self._open_for_waiters(now, actions)
            actions.append(Close(connection))
        elif self._put(connection, now, actions):
            connection.state = "closing"
            actions.append(Close(connection))
        return actions

    def closed(self, connection: Connection, now: float) -> list[Action]:
        """A connection is closed and its slot free."""
        actions: list[Action] = []
        if connection.state == "gone":
            return actions
        if connection.state != "closing":
            raise ValueError(f"a connection that is {connection.state} was not told to close")
        self._forget(connection, now)
        self._open_for_waiters(now, actions)
        return actions

    def give_up(self, request: Request, now: float) -> None:
        """A waiting request lost its patience. Raises KeyError when it is not waiting."""
        self._leave_queue(request, now)
        self._recover_if_free(now)

    @property
    def clean_at(self) -> float | None:
        """When ``clean`` wants to be called next; None: no cleaner is running."""
        return self._clean_at

    def clean(self, now: float) -> list[Action]:
        """One tick of the cleaner: close what has been idle or alive for too long, idle time first."""
        shortest = self._shortest_limit
        if self._open == 0 or shortest is None:
            self._clean_at = None
            return []
        # At or past the limit: with an exact tick, Go's strict "before" would slip by one more second.
        due = [now + shortest]
        closing: list[Connection] = []
        idle_time = self.settings.max_idle_time
        if idle_time is not None:
            closing = [c for c in self._idle if c.released_at + idle_time <= now]
            self._idle = [c for c in self._idle if c.released_at + idle_time > now]
            self._counts.max_idle_time += len(closing)
            due += [c.released_at + idle_time for c in self._idle[:1]]
        lifetime = self._cleaned_lifetime
        if lifetime is not None:
            expired = [c for c in self._idle if c.opened_at + lifetime <= now]
            self._idle = [c for c in self._idle if c.opened_at + lifetime > now]
            self._counts.max_lifetime += len(expired)
            closing += expired
            due += [c.opened_at + lifetime for c in self._idle]
        for connection in closing:
            connection.state = "closing"
        self._clean_at = max(min(due), now + SHORTEST_CLEANING_INTERVAL)
        return [Close(connection) for connection in closing]

    def set_max_open(self, max_open: int, now: float) -> list[Action]:
        """Change the bound; 0 is unlimited. Lowers max_idle with it, for good (sql.go, SetMaxOpenConns).

        Connections over a lowered bound are closed when they come back. Raising it wakes no waiter.
        """
        self._max_open = max(max_open, 0)
        self._recover_if_free(now)
        if self._max_open and self._max_idle > self._max_open:
            return self.set_max_idle(self._max_open, now)
        return []

    def set_max_idle(self, max_idle: int, now: float) -> list[Action]:
        """Change how many idle connections are kept; the most recently released beyond it are closed at once."""
        self._max_idle = max(max_idle, 0)
        if self._max_open:
            self._max_idle = min(self._max_idle, self._max_open)
        surplus = self._idle[self._max_idle :]
        del self._idle[self._max_idle :]
        self._counts.max_idle += len(surplus)
        for connection in surplus:
            connection.state = "closing"
        return [Close(connection) for connection in surplus]

    def drop_idle(self) -> list[Connection]:
        """Take every idle connection out for closing, as at the end of a process. Counted as other."""
        dropped, self._idle = self._idle, []
        for connection in dropped:
            connection.state = "closing"
            self._counts.other += 1
        return dropped

    def stats(self, now: float) -> PoolStats:
        """The snapshot at ``now``."""
        counts = self._counts
        since, ordered = counts.exhausted_since, len(self._background)
        return PoolStats(
            max_open=self._max_open,
            open=self._open - ordered,
            in_use=self._open - len(self._idle) - self._opening,
            idle=len(self._idle),
            opening=self._opening - ordered,
            waiting=len(self._waiting),
            queued_count=counts.queued_count,
            queued_time=counts.queued_time,
            opened=counts.opened,
            open_failures=counts.open_failures,
            closed=Closed(
                max_idle=counts.max_idle,
                max_idle_time=counts.max_idle_time,
                max_lifetime=counts.max_lifetime,
                error=counts.error,
                other=counts.other,
            ),
            peak_open=counts.peak_open,
            peak_in_use=counts.peak_in_use,
            open_time=counts.open_area + (self._open - ordered) * now,
            in_use_time=counts.in_use_area + counts.in_use * now,
            exhausted_at=counts.exhausted_at,
            exhausted_since=since,
            recovered_at=counts.recovered_at,
            exhausted_time=counts.exhausted_time + (now - since if since is not None else 0.0),
        )

    def _is_expired(self, connection: Connection, now: float) -> bool:
        return self._expires is not None and connection.opened_at + self._expires < now

    def _take(self, connection: Connection, now: float) -> None:
        connection.state = "in_use"
        counts = self._counts
        counts.in_use_area -= now
        counts.in_use += 1
        if counts.in_use > counts.peak_in_use:
            counts.peak_in_use = counts.in_use

    def _put(self, connection: Connection, now: float, actions: list[Action]) -> bool:
        """Hand a good connection to a waiter or keep it idle (sql.go, putConnDBLocked); True: close it."""
        if self._max_open and self._open > self._max_open:
            self._counts.other += 1
            return True
        if self._waiting:
            request = self._leave_queue(None, now)
            if not self._waiting:
                self._recover(now)
            self._take(connection, now)
            actions.append(HandOver(request, connection))
            return False
        if len(self._idle) < self._max_idle:
            connection.state = "idle"
            self._idle.append(connection)
            if self._counts.exhausted_since is not None:
                self._recover(now)
            if self._shortest_limit is not None and self._clean_at is None:
                self._clean_at = now + max(self._shortest_limit, SHORTEST_CLEANING_INTERVAL)
            return False
        self._counts.max_idle += 1
        return True

    def _queue(self, request: Request, now: float) -> None:
        self._waiters.add(request, now)
        self._counts.queued_count += 1

    def _leave_queue(self, request: Request | None, now: float) -> Request:
        """Take ``request``, or whoever is next, out of the queue."""
        request, since = self._waiters.pop(request)
        self._counts.queued_time += now - since
        return request

    def _exhaust(self, now: float) -> None:
        counts = self._counts
        if counts.exhausted_since is None:
            counts.exhausted_since = now
            counts.recovered_at = None
            if counts.exhausted_at is None:
                counts.exhausted_at = now

    def _recover(self, now: float) -> None:
        counts = self._counts
        if counts.exhausted_since is not None:
            counts.exhausted_time += now - counts.exhausted_since
            counts.exhausted_since = None
            counts.recovered_at = now

    def _recover_if_free(self, now: float) -> None:
        """End the exhaustion if the next request would not wait: that those who waited gave up does not end it."""
        if not self._waiting and (self._idle or not self._max_open or self._open < self._max_open):
            self._recover(now)

    def _take_slot(self) -> None:
        self._open += 1
        self._opening += 1

    def _begin_opening(self, now: float) -> None:
        """What is told counts an opening from here on, not from when it was ordered."""
        self._counts.open_area -= now
        self._counts.peak_open = max(self._counts.peak_open, self._open - len(self._background))

    def _forget(self, connection: Connection, now: float) -> None:
        connection.state = "gone"
        self._open -= 1
        self._counts.open_area += now
        if self._counts.exhausted_since is not None:
            self._recover_if_free(now)

    def _open_for_waiters(self, now: float, actions: list[Action]) -> None:
        """Order replacements (sql.go, maybeOpenNewConnections). Openings already ordered are not subtracted, so
        more may be opened than needed; the surplus goes idle or is closed by max_idle, as in Go.

        A pool that only grows in the background orders one at a time (psycopg_pool, pool.py, ``_growing``)."""
        wanted = len(self._waiting)
        if self.rules.opener == "background":
            wanted = 0 if self._background_busy else min(wanted, 1)
        if self._max_open:
            wanted = min(wanted, self._max_open - self._open)
        for _ in range(wanted):
            self._take_slot()
            self._background.append(Connection(None))
        self._open_next(now, actions)

    def _grow(self, now: float) -> Connection | None:
        if self._background_busy:
            return None
        self._take_slot()
        self._begin_opening(now)
        self._background_busy = True
        return Connection(None)

    def _open_next(self, now: float, actions: list[Action]) -> None:
        if self._background and not self._background_busy:
            self._background_busy = True
            actions.append(Open(self._background.popleft()))
            self._begin_opening(now)


class _Counts:
    """Mutable counters behind PoolStats. The areas are integrals over time of what was open and in use: at
    instant t they are ``area + number * t``, which costs one addition at each change."""

    __slots__ = (
        "error",
        "exhausted_at",
        "exhausted_since",
        "exhausted_time",
        "in_use",
        "in_use_area",
        "max_idle",
        "max_idle_time",
        "max_lifetime",
        "open_area",
        "open_failures",
        "opened",
        "other",
        "peak_in_use",
        "peak_open",
        "queued_count",
        "queued_time",
        "recovered_at",
    )

    def __init__(self) -> None:
        self.in_use = self.peak_in_use = self.peak_open = 0
        self.queued_count = self.opened = self.open_failures = 0
        self.max_idle = self.max_idle_time = self.max_lifetime = self.error = self.other = 0
        self.in_use_area = self.open_area = self.queued_time = self.exhausted_time = 0.0
        self.exhausted_at: float | None = None
        self.exhausted_since: float | None = None
        self.recovered_at: float | None = None
