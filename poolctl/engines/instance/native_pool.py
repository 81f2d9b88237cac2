"""Our Pool with real, non-blocking connections: acquire and release as callbacks.

The Pool decides and libpq executes. This file connects them: openings, acquire timeouts, the times of the cleaner,
and connections that the server closed. It follows Go's database/sql: an opening that a caller waits for ends with
that caller's timeout, and a dead connection found at an acquire (driver.ErrBadConn) is closed and the acquire
repeated. Times are seconds on the run's clock.
"""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Generic, Protocol, TypeVar, cast

from poolctl.engines.instance.async_connection import AsyncConnection
from poolctl.engines.instance.poller import Poller, new_poller
from poolctl.engines.instance.timers import Timers
from poolctl.pool import Action, Answer, Close, Connection, Fail, HandOver, Open, Pool, PoolSettings, Stale, Use, Wait
from poolctl.scenario.run import ErrorKind

CONNECT_TIMEOUT = 10.0
"""Seconds that an opening may take. One that a caller waits for also ends with the caller's timeout."""

OVERDUE = ErrorKind("pool", "DeadlineExceeded", None, "context deadline exceeded")

CLEANER_CHECK = 0.25
"""Seconds between two checks of when the Pool's cleaner is due. It is never due within less than a second."""


class Acquirer(Protocol):
    """A client that acquires. These four attributes belong to the pool: nothing else writes them."""

    state: str
    """"" | waiting | opening | using"""
    ticket: int
    """Number of the present acquire, so that the deadline of an earlier one is recognized as such."""
    attempt: int
    """How many dead connections the present acquire has met."""
    queued_at: float | None
    """Since when the present acquire is in the queue; None: it is not."""

    def __hash__(self) -> int: ...


Client = TypeVar("Client", bound=Acquirer)
Client_contra = TypeVar("Client_contra", bound=Acquirer, contravariant=True)


class Owner(Protocol[Client_contra]):
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
        owner: Owner[Client],
    ) -> None:
        self.rules = Pool(settings, random)
        self._timeout = settings.acquire_timeout
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
        self._clean_at: float | None = None

    def acquire(self, client: Client, now: float) -> None:
        """Acquire a connection. The owner's ``use`` or ``fail`` is called with the result, now or later."""
        client.ticket += 1
        client.attempt = 0
        client.queued_at = None
        if self._timeout is not None:
            # All clients have the same timeout, so a queue in order of arrival is in order of deadlines.
            self._deadlines.append((now + self._timeout, client, client.ticket))
        answer = self.rules.acquire(client, now)
        if type(answer) is Use and not answer.connection.handle.is_dead:
            self._hand_over(client, answer.connection, now)
        else:
            self._follow(client, answer, now)

    def release(self, connection: Connection, now: float) -> None:
        """Release a connection. A client that waits for it may get it within this call."""
        handle: AsyncConnection = connection.handle
        handle.client = None
        actions = self.rules.release(connection, now, broken=handle.is_dead)
        if actions:
            self._carry_out(actions)

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
            elif handle.receive() and handle.client is not None:
                self._end_statement(handle, clock())
        if self._deadlines:
            self._expire(self._clock())

    @property
    def has_openings(self) -> bool:
        """True if a connection is being opened."""
        return bool(self._opening)

    def has_deadlines(self) -> bool:
        """Return True if a client that waits now has a timeout that ends its wait."""
        return any(ticket == client.ticket and client.state in _PENDING for _, client, ticket in self._deadlines)

    def watch_cleaner(self, _: None, now: float) -> None:
        """Run the Pool's cleaner whenever it is due. Call it once, at the start."""
        due = self.rules.clean_at
        if due is not None and due != self._clean_at:
            self._clean_at = due
            self._timers.at(due, self._clean, due)
        self._timers.at(now + CLEANER_CHECK, self.watch_cleaner)

    def close_idle(self) -> None:
        """Close all idle connections."""
        for connection in self.rules.drop_idle():
            self._close(connection)

    def _acquire_again(self, client: Client, now: float) -> None:
        self._follow(client, self.rules.acquire(client, now, client.attempt), now)

    def _follow(self, client: Client, answer: Answer, now: float) -> None:
        """Execute an answer of the Pool, and repeat the acquire until the client has a connection or waits."""
        while True:
            if type(answer) is Use:
                connection = answer.connection
                if not connection.handle.is_dead:
                    self._hand_over(client, connection, now)
                    return
                self._carry_out(self.rules.release(connection, now, broken=True))
            elif type(answer) is Open:
                client.state = "opening"
                self._open(answer.connection, client, now)
                return
            elif type(answer) is Wait:
                client.state = "waiting"
                if client.queued_at is None:
                    client.queued_at = now
                return
            elif type(answer) is Stale:
                self._close(answer.connection)
            # As in Go: after two attempts that met a dead connection, the third takes a new one.
            client.attempt += 1
            answer = self.rules.acquire(client, now, client.attempt)

    def _hand_over(self, client: Client, connection: Connection, now: float) -> None:
        client.state = "using"
        connection.handle.client = client
        self._use(client, connection, now)

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            # The actions before this one may have taken time.
            now = self._clock()
            if type(action) is HandOver:
                client = cast(Client, action.request)
                if action.connection.handle.is_dead:
                    self._carry_out(self.rules.release(action.connection, now, broken=True))
                    client.attempt += 1
                    self._acquire_again(client, now)
                else:
                    self._hand_over(client, action.connection, now)
            elif type(action) is Close:
                self._close(action.connection)
            elif type(action) is Open:
                self._open(action.connection, None, now)
            elif type(action) is Fail:
                client = cast(Client, action.request)
                client.state = ""
                self._fail(client, action.error.args[0], now)

    def _expire(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            _, client, ticket = deadlines.popleft()
            if client.ticket != ticket or client.state not in _PENDING:
                continue
            if client.state == "waiting":
                self.rules.give_up(client, now)
                client.state = ""
                self._fail(client, OVERDUE, now)
            else:
                handle = next(other for other in self._opening if other.client is client)
                handle.error = OVERDUE
                self._fail_opening(handle, now)

    def _open(self, connection: Connection, client: Client | None, now: float) -> None:
        handle = AsyncConnection(self._conninfo, self._poller, connection, now)
        connection.handle = handle
        handle.client = client
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
        client, handle.client = handle.client, None
        actions = self.rules.opened(handle.connection, now)
        if client is not None:
            self._hand_over(client, handle.connection, now)
        self._carry_out(actions)

    def _fail_opening(self, handle: AsyncConnection, now: float) -> None:
        del self._opening[handle]
        client, handle.client = handle.client, None
        kind = handle.error or ErrorKind("server", "OperationalError", None, "the connection could not be opened")
        handle.close()
        self._carry_out(self.rules.open_failed(handle.connection, now, ConnectionError(kind)))
        if client is not None:
            client.state = ""
            self._fail(client, kind, now)

    def _close(self, connection: Connection) -> None:
        handle: AsyncConnection = connection.handle
        handle.close()
        self._carry_out(self.rules.closed(connection, self._clock()))

    def _clean(self, due: float, now: float) -> None:
        if self.rules.clean_at == due:
            self._carry_out(self.rules.clean(now))


_PENDING = ("waiting", "opening")
