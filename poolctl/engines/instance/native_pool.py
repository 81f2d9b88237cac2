"""Our Pool with real, non-blocking connections: acquire and release as callbacks.

The Pool decides by the rules of any library, and libpq executes. This file connects them: openings, acquire timeouts,
the Pool's alarms, and connections that the server closed. An opening that a caller waits for ends with that caller's
timeout, unless the library keeps it. Times are seconds on the run's clock.
"""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Generic, Protocol, TypeVar, cast

from poolctl.engines.instance.async_connection import AsyncConnection
from poolctl.engines.instance.poller import Poller, new_poller
from poolctl.engines.instance.timers import Timers
from poolctl.engines.pool_kinds import overdue_kind, rejected_kind
from poolctl.pool import (
    Action,
    Alarm,
    Answer,
    Close,
    Connection,
    Fail,
    HandOver,
    Open,
    Pool,
    PoolSettings,
    Reject,
    Retry,
    Stale,
    Use,
    Wait,
)
from poolctl.scenario.run import ErrorKind

CONNECT_TIMEOUT = 10.0
"""Seconds that an opening may take. One that a caller waits for also ends with the caller's timeout."""


class Acquirer(Protocol):
    """A client that acquires. These attributes belong to the pool: nothing else writes them."""

    state: str
    """"" | waiting | opening | using"""
    ticket: int
    """Number of the present deadline, so that an earlier one is recognized as such."""
    attempt: int
    """How many dead connections the present acquire has met."""
    queued_at: float | None
    """Since when the present acquire is in the queue; None: it is not."""
    deadline: float | None
    """When the present acquire gives up; None: it waits for no timeout."""
    last: Connection | None
    """The connection that it used last: some libraries give it back to the same thread."""

    def __hash__(self) -> int: ...


Client = TypeVar("Client", bound=Acquirer)
Client_contra = TypeVar("Client_contra", bound=Acquirer, contravariant=True)


class PoolOwner(Protocol[Client_contra]):
    """The owner of a pool, which receives the results."""

    def use(self, client: Client_contra, connection: Connection, now: float) -> None:
        """Take the connection of an acquire that succeeded."""

    def fail(self, client: Client_contra, kind: ErrorKind, now: float) -> None:
        """Take the error of an acquire that failed."""

    def end_statement(self, handle: AsyncConnection, now: float) -> None:
        """Take the end of a statement on a connection in use."""

    def count_opening(self, connect_time: float, now: float) -> None:
        """Take the end of an opening that succeeded."""


class NativePool(Generic[Client]):
    """The pool of one instance, its connections and its openings."""

    def __init__(
        self,
        settings: PoolSettings,
        random: Random,
        conninfo: str,
        timers: Timers,
        clock: Callable[[], float],
        owner: PoolOwner[Client],
    ) -> None:
        self.rules = Pool(settings, random)
        self.overdue, self.rejected = overdue_kind(settings), rejected_kind(settings)
        self._settings = settings
        self._conninfo = conninfo.encode()
        self._timers = timers
        self._clock = clock
        # Bound methods are looked up once, because these are called for every request.
        self._use, self._fail, self._end_statement = owner.use, owner.fail, owner.end_statement
        self._count_opening = owner.count_opening
        self._poller: Poller[AsyncConnection] = new_poller()
        self._opening: dict[AsyncConnection, None] = {}
        self._deadlines: deque[tuple[float, Client, int]] = deque()
        self._failed_at_once: deque[AsyncConnection] = deque()
        self._alarms = 0
        """Alarms that are set and do not come again and again."""

    def start(self, _: None, now: float) -> None:
        """Open what the library opens before it serves requests, and begin its upkeep."""
        for _number in range(self.rules.filled_before):
            self._begin_opening(Connection(None), None, now, is_adopted=True)
        # The requests that are due meanwhile begin late, as they do behind a library that is still starting.
        while any(handle.is_adopted for handle in self._opening) and self._clock() < now + CONNECT_TIMEOUT:
            self.wait(0.05)
        self._carry_out(self.rules.start(self._clock()))

    def acquire(self, client: Client, now: float) -> None:
        """Acquire a connection. The owner's ``use`` or ``fail`` is called with the result, now or later."""
        client.ticket += 1
        client.attempt = 0
        client.queued_at = client.deadline = None
        answer = self.rules.acquire(client, now, 0, client.last)
        if type(answer) is Use:
            self._hand_over(client, answer.connection, now)
        else:
            self.follow(client, answer, now)

    def release(self, connection: Connection, now: float) -> None:
        """Release a connection. A client that waits for it may get it within this call."""
        handle: AsyncConnection = connection.handle
        handle.client = None
        actions = self.rules.release(connection, now, broken=handle.is_dead)
        if actions:
            self._carry_out(actions)

    def exchange(self, connection: Connection, client: Client, now: float) -> Answer:
        """Release ``connection`` and acquire for its client again.

        With Use the client has a connection, and the owner's ``use`` is not called. Any other answer is for ``follow``.
        """
        self.release(connection, now)
        client.ticket += 1
        client.attempt = 0
        client.queued_at = client.deadline = None
        answer = self.rules.acquire(client, now, 0, connection)
        if type(answer) is Use:
            client.last = answer.connection
            answer.connection.handle.client = client
        return answer

    def wait(self, timeout: float) -> None:
        """Process what happens on sockets and in openings for at most ``timeout`` seconds, and expired deadlines."""
        while self._failed_at_once:
            self._fail_opening(self._failed_at_once.popleft(), self._clock())
            timeout = 0.0
        if self._deadlines:
            timeout = min(timeout, self._deadlines[0][0] - self._clock())
        clock = self._clock
        for handle in self._poller.wait(timeout):
            # An earlier event of this batch may have ended this connection.
            if handle.is_dead:
                continue
            if handle.is_opening:
                self._continue_opening(handle, clock())
            elif handle.receive():
                if handle.client is not None:
                    self._end_statement(handle, clock())
                else:
                    self._note_loss(handle)
        if self._deadlines:
            self._expire(self._clock())

    @property
    def is_busy(self) -> bool:
        """True if a connection is being opened, or a timer of the pool can still change something."""
        return bool(self._opening) or self._alarms > 0

    def has_deadlines(self) -> bool:
        """Return True if a client that waits now has a timeout that ends its wait."""
        return any(ticket == client.ticket and client.state in _PENDING for _, client, ticket in self._deadlines)

    def close_idle(self) -> None:
        """Close all idle connections."""
        for connection in self.rules.drop_idle():
            self._close(connection)

    def _acquire_again(self, client: Client, now: float) -> None:
        self.follow(client, self.rules.acquire(client, now, client.attempt, client.last), now)

    def follow(self, client: Client, answer: Answer, now: float) -> None:
        """Execute an answer of the Pool, and repeat the acquire until the client has a connection or waits."""
        while type(answer) is Stale:
            self._close(answer.connection)
            client.attempt += 1
            answer = self.rules.acquire(client, now, client.attempt, client.last)
        if type(answer) is Use:
            self._hand_over(client, answer.connection, now)
        elif type(answer) is Open:
            self._open(answer, now)
        elif type(answer) is Wait:
            client.state = "waiting"
            if client.queued_at is None:
                client.queued_at = now
            self._set_deadline(client, now, opens=False)
            self._carry_out(answer.actions)
        elif type(answer) is Reject:
            client.state = ""
            self._fail(client, self.rejected if answer.is_queue_full else self.overdue, now)

    def _hand_over(self, client: Client, connection: Connection, now: float) -> None:
        client.state = "using"
        client.last = connection
        connection.handle.client = client
        self._use(client, connection, now)

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            # The actions before this one may have taken time.
            now = self._clock()
            if type(action) is HandOver:
                self._hand_over(cast(Client, action.request), action.connection, now)
            elif type(action) is Close:
                self._close(action.connection)
            elif type(action) is Open:
                self._open(action, now)
            elif type(action) is Alarm:
                self._set_alarm(action, now)
            elif type(action) is Retry:
                self._acquire_again(cast(Client, action.request), now)
            elif type(action) is Fail:
                client = cast(Client, action.request)
                client.state = ""
                self._fail(client, action.error or self.overdue, now)

    def _set_alarm(self, alarm: Alarm, now: float) -> None:
        if alarm.at <= now:
            self._carry_out(alarm.ring(now))
        else:
            self._alarms += not alarm.repeats
            self._timers.at(alarm.at, self._ring, alarm)

    def _ring(self, alarm: Alarm, now: float) -> None:
        self._alarms -= not alarm.repeats
        self._carry_out(alarm.ring(now))

    def _set_deadline(self, client: Client, now: float, *, opens: bool) -> None:
        deadline = self.rules.rules.deadline(self._settings, now, client.deadline, opens=opens)
        if deadline is not None:
            client.ticket += client.deadline is not None
            client.deadline = deadline
            # All clients have the same timeout, so a queue in order of arrival is in order of deadlines.
            self._deadlines.append((deadline, client, client.ticket))

    def _expire(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            _, client, ticket = deadlines.popleft()
            # Deadlines are not removed when an acquire ends, which would mean a search: they are recognized here.
            if client.ticket != ticket or client.state not in _PENDING:
                continue
            if client.state == "waiting":
                answer = self.rules.give_up(client, now)
                if answer is not None:
                    self.follow(client, answer, now)
                    continue
            else:
                self._abandon_opening(next(other for other in self._opening if other.client is client), now)
            client.state = ""
            self._fail(client, self.overdue, now)

    def _abandon_opening(self, handle: AsyncConnection, now: float) -> None:
        handle.client = None
        actions = self.rules.abandon(handle.connection, now)
        # Some libraries let the opening go on and keep the connection: then it stays here, without a client.
        if handle.connection.state == "gone":
            del self._opening[handle]
            handle.close()
        self._carry_out(actions)

    def _open(self, action: Open, now: float) -> None:
        if action.instead_of is not None:
            action.instead_of.handle.close()
        client = cast("Client | None", action.connection.request)
        if client is not None:
            client.state = "opening"
            self._set_deadline(client, now, opens=True)
        self._begin_opening(action.connection, client, now)

    def _begin_opening(
        self, connection: Connection, client: Client | None, now: float, *, is_adopted: bool = False
    ) -> None:
        handle = AsyncConnection(self._conninfo, self._poller, connection, now)
        connection.handle = handle
        handle.client = client
        handle.is_adopted = is_adopted
        self._opening[handle] = None
        if handle.fd >= 0:
            self._timers.at(now + CONNECT_TIMEOUT, self._time_out_opening, handle)
        else:
            # Not at once: the Pool is in the middle of a call, and must not be called again within it.
            self._failed_at_once.append(handle)

    def _time_out_opening(self, handle: AsyncConnection, now: float) -> None:
        if handle.is_opening and not handle.is_dead:
            handle.error = ErrorKind("server", "ConnectionTimeout", None, "connection timeout expired")
            self._fail_opening(handle, now)

    def _continue_opening(self, handle: AsyncConnection, now: float) -> None:
        is_open = handle.continue_opening()
        if is_open:
            self._finish_opening(handle, now)
        elif is_open is None:
            self._fail_opening(handle, now)

    def _finish_opening(self, handle: AsyncConnection, now: float) -> None:
        del self._opening[handle]
        self._count_opening(now - handle.began_at, now)
        handle.client = None
        if handle.is_adopted:
            self._carry_out(self.rules.adopt(handle.connection, now))
        else:
            self._carry_out(self.rules.opened(handle.connection, now))

    def _fail_opening(self, handle: AsyncConnection, now: float) -> None:
        del self._opening[handle]
        client, handle.client = handle.client, None
        kind = handle.error or ErrorKind("server", "OperationalError", None, "the connection could not be opened")
        handle.close()
        if handle.is_adopted:
            self.rules.count_failed_opening()
            return
        self._carry_out(self.rules.open_failed(handle.connection, now, kind))
        if client is not None:
            client.state = ""
            self._fail(client, kind, now)

    def _note_loss(self, handle: AsyncConnection) -> None:
        """Report to the Pool an idle connection that the server has closed; the library decides when it notices."""
        if handle.is_dead and handle.connection.state == "idle":
            self.rules.mark_lost(handle.connection)
            self._carry_out(self.rules.drop_lost(handle.connection))

    def _close(self, connection: Connection) -> None:
        handle: AsyncConnection = connection.handle
        handle.close()
        # The Pool may open another connection in its place.
        self._carry_out(self.rules.closed(connection, self._clock()))


_PENDING = ("waiting", "opening")
