"""The pool: who gets a connection, who waits, who opens, what is closed. It has no clock and does no I/O.

The rules are those of Go's database/sql (Go 1.27.3, src/database/sql/sql.go), with the differences of other
libraries as data (PoolRules) and as small strategies beside this file: which idle connection is taken (idle.py),
who is next in the queue (waiters.py), what is done by the clock (upkeep.py). The driver, virtual or live, passes
``now`` in seconds to every call and carries out what the call returns:

    acquire  -> Use | Open | Wait | Stale | Reject | Blocked        one answer for the caller
    the rest -> [HandOver, Fail, Retry, Open, Close, Alarm, ...]    actions to carry out in this order

The driver answers each Open with ``opened`` or ``open_failed``, each Close and Stale with ``closed``, and rings each
Alarm at its time. A slot is free only when ``closed`` was called: closing takes time on a real server, and Go holds
the slot meanwhile.
"""

from collections import deque
from collections.abc import Iterable
from functools import partial
from math import inf
from random import Random

from poolctl.pool.answers import (
    Action,
    Alarm,
    Answer,
    Blocked,
    Close,
    Connection,
    Fail,
    HandOver,
    Open,
    Reject,
    Request,
    Retry,
    Stale,
    Wait,
)
from poolctl.pool.idle import Idle, new_idle
from poolctl.pool.libraries import LIBRARIES
from poolctl.pool.settings import PoolRules, PoolSettings
from poolctl.pool.stats import Closed, Counts, PoolStats
from poolctl.pool.upkeep import SHORTEST_CLEANING_INTERVAL, Chosen, Upkeep
from poolctl.pool.waiters import CoDel, Waiters

WAKE_TIME = 50e-6
"""Seconds until a waiter that was notified of a connection runs: long enough for a newcomer to take it."""

INCREMENT = 3
"""How many connections c3p0 opens at once (acquireIncrement)."""

_WAIT, _BLOCKED, _REJECT, _REJECT_QUEUE = Wait(), Blocked(), Reject(), Reject(is_queue_full=True)


class Pool:
    """The pool of one instance. Not thread-safe: a driver with threads holds a lock around each call.

    ``random`` picks among waiters and spreads lifetimes; seed it for a repeatable run.
    """

    def __init__(self, settings: PoolSettings, random: Random, rules: PoolRules | None = None) -> None:
        self.settings = settings
        self.rules = rules = rules or LIBRARIES[settings.kind].rules
        self._max_open: float = settings.max_open or inf
        self._max_idle = rules.kept_idle(settings)
        self._idle_order = new_idle(rules)
        self._idle = self._idle_order.connections
        self._is_plain_idle = type(self._idle_order) is Idle
        self._take_at = self._idle_order.at
        self._upkeep = Upkeep(settings, rules, self._idle_order, random.random)
        self._rest_time = self._upkeep.rest_time
        self._has_cleaner = rules.idle_closing == "go" and self._upkeep.shortest_limit < inf
        self._clean_at: float | None = None
        self._waiters = Waiters(rules.waiter_order, random)
        self._waiting = self._waiters.since
        self._codel = CoDel(*rules.codel, self._waiters) if rules.codel else None
        self._most_stale: float = rules.stale_attempts or inf
        self._connections: dict[Connection, None] = {}
        """All of them, in the order in which their openings began."""
        self._open_count = self._opening_count = 0
        self._ordered_count = self._busy_openers = 0
        """Background openings that were ordered and have not begun; background openers at work."""
        self._begun_count = 0
        self._tasks: deque[tuple[int, Connection]] = deque()
        """Connections that an opener is to take back or to open once more, each when so many background openings
        have begun."""
        self._is_refilled = rules.is_refilled
        self._ghosts = 0
        """Waiters that gave up, and that the library still counts among the waiting."""
        self._is_probed = not rules.probes_first
        self._locks = 0
        """Openings that keep every request out of the pool."""
        self._locked: list[Action] = []
        """What the requests that were kept out do next."""
        self._counts = Counts()

    def start(self, now: float) -> list[Action]:
        """Begin what the pool does without requests: openings to the floor, sweeps."""
        actions: list[Action] = []
        if self.rules.fill == "background":
            self._order(int(min(self._upkeep.floor, self._max_open)))
            self._open_next(now, actions)
        self._idle_order.end_sweep()
        if self._upkeep.first_sweep < inf:
            actions.append(Alarm(now + self._upkeep.first_sweep, self.sweep, repeats=True))
        return actions

    @property
    def filled_before(self) -> int:
        """How many connections the library opens before it serves requests: ``adopt`` each before ``start``."""
        return int(min(self._upkeep.floor, self._max_open)) if self.rules.fill == "before" else 0

    def adopt(self, connection: Connection, now: float) -> list[Action]:
        """Keep a connection idle that the driver made with ``Connection(None)`` and opened before the load."""
        self._connections[connection] = None
        self._take_slot()
        self._begin_opening(now)
        self._opening_count -= 1
        self._counts.opened += 1
        actions: list[Action] = []
        self._begin_life(connection, now, actions)
        connection.state = "idle"
        self._idle.append(connection)
        return actions

    def count_failed_opening(self) -> None:
        """Count a connection that could not be opened before the load."""
        self._counts.open_failures += 1

    def acquire(self, request: Request, now: float, attempt: int = 0, last: Connection | None = None) -> Answer:
        """Answer a request.

        ``attempt`` counts the Stale answers that this request has already met; ``last`` is the connection that its
        thread used last, for the libraries that remember it.
        """
        if self._locks:
            self._locked.append(Retry(request))
            return _BLOCKED
        if not self._is_probed:
            return self._probe(request, now)
        idle = self._idle
        if idle and attempt < self._most_stale:
            connection = idle.pop(self._take_at) if self._is_plain_idle else self._idle_order.pick(last)
            if connection.doubtful_after >= now or self._is_unnoticed(connection, now):
                self._take(connection, now)
                return connection.use
            return self._give_up_stale(connection, request, now)
        is_full = self._open_count >= self._max_open
        if not is_full and self.rules.opener == "caller":
            return self._open_for(request, now)
        if is_full and self.rules.waiter_order == "none":
            self._counts.exhaust(now)
            return _REJECT
        if self.settings.max_waiting and len(self._waiting) + self._ghosts >= self.settings.max_waiting:
            self._counts.exhaust(now)
            return _REJECT_QUEUE
        actions = self._queue(request, now)
        if not is_full:
            self._open_for_waiters(now, actions)
        return Wait(tuple(actions)) if actions else _WAIT

    def opened(self, connection: Connection, now: float) -> list[Action]:
        """Take an opening that succeeded at ``now``."""
        if connection.state != "opening":
            raise ValueError(f"a connection that is {connection.state} cannot become open")
        self._opening_count -= 1
        self._counts.opened += 1
        actions: list[Action] = []
        if connection.is_probe:
            self._counts.other += 1
            self._forget(connection, now)
            actions += [Close(connection), Retry(connection.request)]
            self._unlock(actions)
            return actions
        self._begin_life(connection, now, actions)
        if connection.request is not None:
            self._take(connection, now)
            actions.append(HandOver(connection.request, connection))
            self._unlock(actions)
            return actions
        if not connection.is_abandoned:
            self._let_opener_rest(now, actions)
        if not self._put(connection, now, actions):
            # sql.go, openNewConnection: this slot is given up before the connection is closed.
            self._forget(connection, now)
            actions.append(Close(connection))
        if self.rules.opener == "background" or self.rules.growth != "ordered":
            self._open_for_waiters(now, actions)
        self._open_next(now, actions)
        return actions

    def open_failed(self, connection: Connection, now: float, error: object) -> list[Action]:
        """Take an opening that failed. The driver reports it to the request that opened for itself.

        In the background, the opener tries again later, or one waiter gets the error and the opener goes on for the
        rest.
        """
        if connection.state != "opening":
            raise ValueError(f"a connection that is {connection.state} cannot fail to open")
        self._counts.open_failures += 1
        request = connection.request
        if request is None and self.rules.open_retry is not None:
            first, longest = self.rules.open_retry
            delay = min(first * 2.0**connection.tries, longest)
            connection.tries = min(connection.tries + 1, 60)
            again: list[Action] = [Alarm(now + delay, partial(self._open_again, connection))]
            if self.rules.returned_by_opener:
                # c3p0's thread does not sleep meanwhile: it has other tasks.
                self._busy_openers -= 1
                self._open_next(now, again)
            return again
        self._opening_count -= 1
        self._forget(connection, now)
        self._is_probed &= not connection.is_probe
        actions: list[Action] = []
        if request is None and not connection.is_abandoned:
            self._let_opener_rest(now, actions)
            if self._waiting:
                actions.append(Fail(self._leave_queue(None, now), error))
                self._recover_if_free(now)
        if self.rules.wakes_on_failure:
            self._open_for_waiters(now, actions)
        if request is not None:
            self._unlock(actions)
        return actions

    def abandon(self, connection: Connection, now: float) -> list[Action]:
        """Let the request give up that opens ``connection`` for itself.

        The library keeps the connection, or ends the opening: then it has left the pool, and the driver closes it.
        """
        if self.rules.abandoned_opening == "kept":
            connection.request, connection.is_abandoned = None, True
            return []
        self._opening_count -= 1
        self._counts.open_failures += 1
        self._forget(connection, now)
        actions: list[Action] = []
        self._open_for_waiters(now, actions)
        self._unlock(actions)
        return actions

    def release(self, connection: Connection, now: float, *, broken: bool = False) -> list[Action]:
        """Give a connection back. ``broken``: it can serve no request any more.

        Raises ValueError when it is not in use.
        """
        if connection.state != "in_use":
            raise ValueError(f"released a connection that is {connection.state}, not in use")
        actions: list[Action] = []
        if self._locks:
            self._locked.append(Alarm(now, partial(self._release_late, connection, broken)))
            return actions
        connection.released_at = now
        self._end_use(connection, now)
        self._ghosts = 0
        if self.settings.max_uses:
            connection.uses += 1
            if connection.uses >= self.settings.max_uses:
                connection.spent_after = -1.0
        if broken or connection.spent_after < now:
            self._count_spent(connection, broken)
            connection.state = "closing"
            connection.is_replaced = self.rules.replaces_spent
            if self.rules.growth == "ordered" and self.rules.replaced_by == "background":
                # sql.go, putConn: replacements are ordered before the slot is free, and again when it is.
                self._open_for_waiters(now, actions)
            actions.append(Close(connection))
        elif self.rules.returned_by_opener and self._busy_openers >= self.rules.openers:
            connection.state = "returning"
            self._tasks.append((self._begun_count + self._ordered_count, connection))
        elif not self._put(connection, now, actions):
            connection.state = "closing"
            actions.append(Close(connection))
        return actions

    def closed(self, connection: Connection, now: float) -> list[Action]:
        """Take the end of a connection: it is closed and its slot free."""
        actions: list[Action] = []
        if connection.state == "gone":
            return actions
        if connection.state != "closing":
            raise ValueError(f"a connection that is {connection.state} was not to be closed")
        self._forget(connection, now)
        if connection.is_replaced:
            self._order(1)
            self._open_next(now, actions)
        self._open_for_waiters(now, actions)
        return actions

    def give_up(self, request: Request, now: float) -> Answer | None:
        """Let a waiting request give up. Raises KeyError when it is not waiting.

        None: it leaves. An answer as of ``acquire``: the library has it look once more whether a connection is free.
        """
        self._leave_queue(request, now)
        self._recover_if_free(now)
        if self.rules.timed_out_waiter == "ghost":
            self._ghosts += 1
        elif self.rules.timed_out_waiter == "opens" and (self._idle or self._open_count < self._max_open):
            return self.acquire(request, now)
        return None

    def mark_lost(self, connection: Connection) -> None:
        """Note that the server process behind ``connection`` is gone. The library may not have noticed."""
        connection.is_lost = True
        connection.doubtful_after = connection.spent_after = -1.0

    def drop_lost(self, connection: Connection) -> list[Action]:
        """Close a lost connection that is idle, where the library notices a lost connection at once."""
        if self.rules.dead != "dropped" or connection.state != "idle":
            return []
        self._counts.error += 1
        connection.is_lost_known = True
        self._idle_order.remove(connection)
        return [self._close(connection)]

    def reclaim(self, connection: Connection, now: float) -> list[Action]:
        """Take back a connection in use that its holder has forgotten."""
        self._counts.leak_reclaimed += 1
        self._end_use(connection, now)
        return [self._close(connection)]

    @property
    def clean_at(self) -> float | None:
        """When Go's cleaner runs next; None: no cleaner is running."""
        return self._clean_at

    def clean(self, now: float) -> list[Action]:
        """Run Go's cleaner once: close what has been idle or alive for too long, idle time first."""
        self._clean_at = None
        if self._open_count == 0 or not self._has_cleaner:
            return []
        chosen, self._clean_at = self._upkeep.clean(now)
        return [Alarm(self._clean_at, self.clean, repeats=True), *self._close_chosen(chosen)]

    def sweep(self, now: float) -> list[Action]:
        """Sweep once, as a library does that looks at all its idle connections at intervals."""
        actions = self._close_chosen(self._upkeep.sweep(now, self._open_count))
        # Rung at once, when the slots of these are free.
        actions.append(Alarm(now, self._end_sweep))
        return actions

    def stop_refilling(self) -> None:
        """Open nothing ahead of requests any more: the load has ended."""
        self._is_refilled = False

    def set_max_open(self, max_open: int, now: float) -> list[Action]:
        """Change the bound; 0 is unlimited. Lowers max_idle with it, for good (sql.go, SetMaxOpenConns).

        Connections over a lowered bound are closed when they come back. Raising it wakes no waiter.
        """
        self._max_open = max_open if max_open > 0 else inf
        self._recover_if_free(now)
        if inf > self._max_idle > self._max_open:
            return self.set_max_idle(int(self._max_open), now)
        return []

    def set_max_idle(self, max_idle: int, now: float) -> list[Action]:
        """Change how many idle connections are kept; the most recently released beyond it are closed at once."""
        self._max_idle = min(max(max_idle, 0), self._max_open)
        surplus = self._idle[int(self._max_idle) :]
        del self._idle[int(self._max_idle) :]
        self._counts.max_idle += len(surplus)
        return [self._close(connection) for connection in surplus]

    def drop_idle(self) -> list[Connection]:
        """Take every idle connection out for closing, as at the end of a process. Counted as other."""
        dropped = self._idle + [connection for _, connection in self._tasks if connection.state == "returning"]
        self._idle.clear()
        self._tasks.clear()
        for connection in dropped:
            connection.state = "closing"
            self._counts.other += 1
        return dropped

    @property
    def unserved(self) -> list[Request]:
        """The requests that have no connection yet: in the queue, opening one, or kept out by an opening."""
        opening = [c.request for c in self._connections if c.state == "opening" and c.request is not None]
        return [
            *self._waiters.requests,
            *opening,
            *(entry.request for entry in self._locked if isinstance(entry, Retry)),
        ]

    @property
    def gauges(self) -> tuple[int, int, int, int, int]:
        """How many are open, in use, idle, opening, and how many requests wait, as in ``stats``."""
        idle, opening = len(self._idle), self._opening_count
        return (
            self._open_count - self._ordered_count,
            self._open_count - idle - opening,
            idle,
            opening - self._ordered_count,
            len(self._waiting),
        )

    def stats(self, now: float) -> PoolStats:
        """Return the snapshot at ``now``."""
        counts = self._counts
        since = counts.exhausted_since
        open_, in_use, idle, opening, waiting = self.gauges
        held = 0.0
        for connection in self._connections:
            if connection.state == "in_use":
                held += now - connection.acquired_at
        return PoolStats(
            max_open=0 if self._max_open == inf else int(self._max_open),
            open=open_,
            in_use=in_use,
            idle=idle,
            opening=opening,
            waiting=waiting,
            queued_count=counts.queued_count,
            queued_time=counts.queued_time,
            opened=counts.opened,
            open_failures=counts.open_failures,
            closed=Closed(
                max_idle=counts.max_idle,
                max_idle_time=counts.max_idle_time,
                max_lifetime=counts.max_lifetime,
                error=counts.error,
                leak_reclaimed=counts.leak_reclaimed,
                other=counts.other,
            ),
            peak_open=counts.peak_open,
            peak_in_use=counts.peak_in_use,
            open_time=counts.open_area + open_ * now,
            in_use_time=counts.use_time + held,
            exhausted_at=counts.exhausted_at,
            exhausted_since=since,
            recovered_at=counts.recovered_at,
            exhausted_time=counts.exhausted_time + (now - since if since is not None else 0.0),
        )

    def _take(self, connection: Connection, now: float) -> None:
        connection.state = "in_use"
        connection.acquired_at = now
        counts = self._counts
        counts.in_use += 1
        if counts.in_use > counts.peak_in_use:
            counts.peak_in_use = counts.in_use

    def _end_use(self, connection: Connection, now: float) -> None:
        self._counts.use_time += now - connection.acquired_at
        self._counts.in_use -= 1

    def _put(self, connection: Connection, now: float, actions: list[Action]) -> bool:
        """Hand a good connection to a waiter or keep it idle (sql.go, putConnDBLocked); False: it is to be closed."""
        if self._open_count > self._max_open:
            self._counts.other += 1
            return False
        if self._waiting:
            if self._codel is not None:
                self._drop(self._codel.drop_at_release(now), now, actions)
            if self._waiting and not self.rules.barging:
                request = self._leave_queue(None, now)
                if not self._waiting:
                    self._counts.recover(now)
                self._take(connection, now)
                actions.append(HandOver(request, connection))
                return True
        if len(self._idle) >= self._max_idle:
            self._counts.max_idle += 1
            return False
        connection.state = "idle"
        self._idle.append(connection)
        if self._waiting:
            actions.append(Alarm(now + WAKE_TIME, self._wake))
        elif self._counts.exhausted_since is not None:
            self._counts.recover(now)
        if self._has_cleaner and self._clean_at is None:
            self._clean_at = now + max(self._upkeep.shortest_limit, SHORTEST_CLEANING_INTERVAL)
            actions.append(Alarm(self._clean_at, self.clean, repeats=True))
        if self._rest_time < inf and not connection.rests:
            connection.rests = True
            actions.append(Alarm(now + self._rest_time, partial(self._end_rest, connection)))
        return True

    def _queue(self, request: Request, now: float) -> list[Action]:
        self._waiters.add(request, now)
        self._counts.queued_count += 1
        if self._open_count >= self._max_open:
            self._counts.exhaust(now)
        if self._codel is not None and self._codel.start(now):
            return [Alarm(now + self._codel.interval, self._poll_codel, repeats=True)]
        return []

    def _leave_queue(self, request: Request | None, now: float) -> Request:
        """Take ``request``, or the next in order, out of the queue."""
        request, since = self._waiters.pop(request)
        self._counts.queued_time += now - since
        return request

    def _drop(self, overdue: Iterable[Request], now: float, actions: list[Action]) -> None:
        actions += [Fail(self._leave_queue(request, now), None) for request in overdue]

    def _poll_codel(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._codel is None:
            return actions
        if not self._waiting:
            self._codel.stop()
            return actions
        self._drop(self._codel.drop_at_poll(now), now, actions)
        actions.append(Alarm(now + self._codel.interval, self._poll_codel, repeats=True))
        return actions

    def _wake(self, now: float) -> list[Action]:
        """Let a notified waiter look for the connection; it waits on when another request has taken it."""
        if not self._waiting:
            return []
        request = self._leave_queue(None, now)
        if not self._idle:
            self._counts.queued_count -= 1
            return self._queue(request, now)
        if not self._waiting:
            self._counts.recover(now)
        return [Retry(request)]

    def _is_unnoticed(self, connection: Connection, now: float) -> bool:
        """Return whether a lost connection is handed out as if it were good."""
        if not connection.is_lost or connection.is_lost_known:
            return False
        after = self.rules.validated_after
        return after is None or now - connection.released_at < after

    def _give_up_stale(self, connection: Connection, request: Request, now: float) -> Answer:
        if connection.is_lost:
            self._counts.error += 1
        else:
            self._counts.max_lifetime += 1
        if self.rules.stale == "reopened":
            self._forget(connection, now)
            return self._open_for(request, now)._replace(instead_of=connection)
        connection.state = "closing"
        return Stale(connection)

    def _count_spent(self, connection: Connection, broken: bool) -> None:
        """Count why a released connection is closed."""
        if broken or connection.is_lost:
            self._counts.error += 1
            if self.rules.dead == "all" and connection.is_lost:
                for other in self._idle:
                    other.is_lost_known = other.is_lost
        elif self.settings.max_uses and connection.spent_after < 0.0:
            self._counts.other += 1
        else:
            self._counts.max_lifetime += 1

    def _release_late(self, connection: Connection, broken: bool, now: float) -> list[Action]:
        """Carry out a release that an opening has kept out of the pool."""
        if connection.state != "in_use":
            return []
        return self.release(connection, now, broken=broken or connection.is_lost)

    def _unlock(self, actions: list[Action]) -> None:
        """End an opening that kept every other request out of the pool."""
        if self._locks:
            self._locks -= 1
            if not self._locks:
                actions += self._locked
                self._locked = []

    def _probe(self, request: Request, now: float) -> Open:
        """Open a connection only to see whether it can be opened (DBCP2, createPoolableConnectionFactory)."""
        self._is_probed = True
        answer = self._open_for(request, now)
        answer.connection.is_probe = True
        if not self.rules.opens_locked:
            self._locks += 1
        return answer

    def _open_for(self, request: Request, now: float) -> Open:
        """Let the request open a connection itself."""
        if request is None:
            raise ValueError("a request cannot be None")
        connection = self._new_connection(request)
        # Counted before it is open, so that two arrivals cannot both take the last slot.
        self._take_slot()
        self._begin_opening(now)
        if self.rules.opens_locked:
            self._locks += 1
        return Open(connection)

    def _open_for_waiters(self, now: float, actions: list[Action]) -> None:
        """Open for those who wait, after the rules of the library (sql.go, maybeOpenNewConnections)."""
        if self._waiting and self.rules.replaced_by == "caller":
            while self._waiting and self._open_count < self._max_open and not (self.rules.barging and self._idle):
                request = self._leave_queue(None, now)
                if not self._waiting:
                    self._recover_if_free(now)
                actions.append(self._open_for(request, now))
        else:
            self._order(int(min(self._wanted(), self._max_open - self._open_count)))
        self._open_next(now, actions)

    def _wanted(self) -> int:
        """Return how many openings the background is to begin (PoolRules.growth)."""
        rules, waiting, floor = self.rules, len(self._waiting), self._upkeep.floor
        if rules.growth == "ordered":
            # Openings already ordered are not subtracted, so more may be opened than needed, as in Go.
            return waiting if rules.opener == "caller" else min(waiting, 1) if not self._busy_openers else 0
        if rules.growth == "one":
            is_short = rules.is_refilled and self._open_count < floor
            return 0 if self._busy_openers else max(min(waiting, 1), int(is_short))
        # A waiter that was notified of an idle connection is still in the queue until it wakes.
        wanted = waiting - self._opening_count - len(self._idle)
        if rules.growth == "increment" and wanted > 0:
            wanted = max(wanted, INCREMENT)
        if self._is_refilled:
            have = self._open_count if rules.floor == "open" else len(self._idle) + self._opening_count - waiting
            wanted = max(wanted, floor - have)
        return wanted

    def _order(self, number: int) -> None:
        if number > 0:
            self._open_count += number
            self._opening_count += number
            self._ordered_count += number

    def _open_next(self, now: float, actions: list[Action]) -> None:
        """Begin ordered openings, as many as there are openers, after the tasks that came before them."""
        openers = self.rules.openers or inf
        while (self._ordered_count or self._tasks) and self._busy_openers < openers:
            if self._tasks and self._tasks[0][0] <= self._begun_count:
                _, connection = self._tasks.popleft()
                if connection.state == "opening":
                    self._busy_openers += 1
                    actions.append(Open(connection))
                elif not self._put(connection, now, actions):
                    actions.append(self._close(connection))
                continue
            self._ordered_count -= 1
            if self.rules.orders_lapse and not self._is_opening_wanted():
                self._open_count -= 1
                self._opening_count -= 1
                self._recover_if_free(now)
                continue
            self._busy_openers += 1
            self._begun_count += 1
            self._begin_opening(now)
            actions.append(Open(self._new_connection(None)))

    def _is_opening_wanted(self) -> bool:
        """Return whether an opener that has time opens one more (HikariCP, shouldContinueCreating)."""
        idle = len(self._idle)
        return len(self._waiting) > idle or (self._is_refilled and idle < self._upkeep.floor)

    def _open_again(self, connection: Connection, now: float) -> list[Action]:
        if not self.rules.returned_by_opener:
            return [Open(connection)]
        # c3p0 posts the task again: it takes its turn, as all openers may be busy now.
        self._tasks.append((self._begun_count + self._ordered_count, connection))
        actions: list[Action] = []
        self._open_next(now, actions)
        return actions

    def _let_opener_rest(self, now: float, actions: list[Action]) -> None:
        if self.rules.open_pause:
            actions.append(Alarm(now + self.rules.open_pause, self._end_pause))
        else:
            self._busy_openers -= 1

    def _end_pause(self, now: float) -> list[Action]:
        self._busy_openers -= 1
        actions: list[Action] = []
        self._open_next(now, actions)
        self._open_for_waiters(now, actions)
        return actions

    def _new_connection(self, request: Request | None) -> Connection:
        connection = Connection(request)
        self._connections[connection] = None
        return connection

    def _begin_life(self, connection: Connection, now: float, actions: list[Action]) -> None:
        self._upkeep.begin_life(connection, now)
        if "timer" in self.rules.lifetime_checked and connection.ends_at < inf:
            actions.append(Alarm(connection.ends_at, partial(self._end_life, connection)))

    def _end_life(self, connection: Connection, now: float) -> list[Action]:
        """End the lifetime of a connection by its own timer: it is closed now, or when it is released."""
        connection.spent_after = -1.0
        if connection.state != "idle":
            return []
        self._counts.max_lifetime += 1
        self._idle_order.remove(connection)
        return [self._close(connection)]

    def _end_rest(self, connection: Connection, now: float) -> list[Action]:
        """Ring a connection's own idle timer, unless a later release has put it off."""
        connection.rests = False
        if connection.state != "idle":
            return []
        due = connection.released_at + self._rest_time
        if due <= now and self._upkeep.is_above_floor(self._open_count):
            self._counts.max_idle_time += 1
            self._idle_order.remove(connection)
            return [self._close(connection)]
        connection.rests = True
        return [Alarm(due if due > now else now + self._rest_time, partial(self._end_rest, connection))]

    def _close(self, connection: Connection) -> Close:
        connection.state = "closing"
        return Close(connection)

    def _close_chosen(self, chosen: Chosen) -> list[Action]:
        actions: list[Action] = []
        for connection, reason in chosen:
            setattr(self._counts, reason, getattr(self._counts, reason) + 1)
            connection.is_replaced = self.rules.replaces_spent and reason == "max_lifetime"
            actions.append(self._close(connection))
        return actions

    def _end_sweep(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._is_refilled and self.rules.idle_closing != "one":
            missing = self._upkeep.missing(self._open_count, self._opening_count)
            self._order(int(min(missing, self._max_open - self._open_count)))
            self._open_next(now, actions)
        actions.append(Alarm(now + self._upkeep.interval, self.sweep, repeats=True))
        return actions

    def _take_slot(self) -> None:
        self._open_count += 1
        self._opening_count += 1

    def _begin_opening(self, now: float) -> None:
        """Count an opening in what is reported: from here on, not from when it was ordered."""
        self._counts.open_area -= now
        self._counts.peak_open = max(self._counts.peak_open, self._open_count - self._ordered_count)

    def _forget(self, connection: Connection, now: float) -> None:
        connection.state = "gone"
        self._connections.pop(connection, None)
        self._open_count -= 1
        self._counts.open_area += now
        if self._counts.exhausted_since is not None:
            self._recover_if_free(now)

    def _recover_if_free(self, now: float) -> None:
        """End the exhaustion if the next request would not wait: that those who waited gave up does not end it."""
        if not self._waiting and (self._idle or self._open_count < self._max_open):
            self._counts.recover(now)
