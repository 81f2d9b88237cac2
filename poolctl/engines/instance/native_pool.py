"""Our Pool with real connections behind it, without blocking: acquire and release as callbacks.

The Pool decides, libpq does; here is what lies between: openings, patience, the cleaner's clock, and what a dead
connection means. Follows Go's database/sql in all of it: a caller's own opening ends with the caller's patience,
and a dead connection found at acquire (driver.ErrBadConn) is thrown away and the acquire tried again.
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
"""Seconds for any opening; a caller's own also ends with its patience."""

OVERDUE = ErrorKind("pool", "DeadlineExceeded", None, "context deadline exceeded")

CLEANER_CHECK = 0.25
"""Seconds between looks whether the Pool wants its cleaner; it never wants it within less than a second."""


class Acquirer(Protocol):
    """Who acquires. The pool keeps its notes on it: nothing else writes these four."""

    state: str
    """"" | waiting | opening | using"""
    ticket: int
    attempt: int
    queued_at: float | None

    def __hash__(self) -> int: ...


Client = TypeVar("Client", bound=Acquirer)
Client_contra = TypeVar("Client_contra", bound=Acquirer, contravariant=True)


class Owner(Protocol[Client_contra]):
    """Whose pool it is: told what becomes of the acquires."""

    def use(self, client: Client_contra, connection: Connection, now: float) -> None:
        """An acquire succeeded."""

    def fail(self, client: Client_contra, kind: ErrorKind, now: float) -> None:
        """An acquire ended without a connection."""

    def answered(self, wire: AsyncConnection, now: float) -> None:
        """The statement on a connection in use has ended."""

    def opened(self, connect_time: float, now: float) -> None:
        """An opening succeeded."""


class NativePool(Generic[Client]):
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
        self._patience = settings.acquire_timeout
        self._conninfo = conninfo.encode()
        self._timers = timers
        self._clock = clock
        # Looked up once: these are called for every request.
        self._use, self._fail, self._answered = owner.use, owner.fail, owner.answered
        self._count_opened = owner.opened
        self._poller: Poller[AsyncConnection] = new_poller()
        self._dialing: dict[AsyncConnection, None] = {}
        self._deadlines: deque[tuple[float, Client, int]] = deque()
        self._stillborn: deque[AsyncConnection] = deque()
        self._clean_at: float | None = None

    def acquire(self, client: Client, now: float) -> None:
        client.ticket += 1
        client.attempt = 0
        client.queued_at = None
        if self._patience is not None:
            self._deadlines.append((now + self._patience, client, client.ticket))
        answer = self.rules.acquire(client, now)
        if type(answer) is Use and not answer.connection.handle.dead:
            self._give(client, answer.connection, now)
        else:
            self._obey(client, answer, now)

    def release(self, connection: Connection, now: float) -> None:
        wire: AsyncConnection = connection.handle
        wire.client = None
        actions = self.rules.release(connection, now, broken=wire.dead)
        if actions:
            self._carry_out(actions)

    def wait(self, timeout: float) -> None:
        """Let sockets, deadlines and openings happen for at most ``timeout`` seconds."""
        while self._stillborn:
            self._refused(self._stillborn.popleft(), self._clock())
            timeout = 0.0
        if self._deadlines:
            timeout = min(timeout, self._deadlines[0][0] - self._clock())
        clock = self._clock
        for wire in self._poller.wait(timeout):
            # An event before it in this batch may have ended it.
            if wire.dead:
                continue
            if wire.dialing:
                self._go_on_dialing(wire, clock())
            elif wire.receive() and wire.client is not None:
                self._answered(wire, clock())
        if self._deadlines:
            self._expire(self._clock())

    @property
    def is_dialing(self) -> bool:
        return bool(self._dialing)

    def has_deadlines(self) -> bool:
        """Whether anybody who waits now will lose patience."""
        return any(ticket == client.ticket and client.state in _PENDING for _, client, ticket in self._deadlines)

    def watch_cleaner(self, _: None, now: float) -> None:
        """Keep the Pool's cleaner running; called once at the start."""
        due = self.rules.clean_at
        if due is not None and due != self._clean_at:
            self._clean_at = due
            self._timers.at(due, self._clean, due)
        self._timers.at(now + CLEANER_CHECK, self.watch_cleaner)

    def close_idle(self) -> None:
        for connection in self.rules.drop_idle():
            self._close(connection)

    def _try(self, client: Client, now: float) -> None:
        self._obey(client, self.rules.acquire(client, now, client.attempt), now)

    def _obey(self, client: Client, answer: Answer, now: float) -> None:
        """Do what the Pool answered, and ask again as long as it says so."""
        while True:
            if type(answer) is Use:
                connection = answer.connection
                if not connection.handle.dead:
                    self._give(client, connection, now)
                    return
                self._carry_out(self.rules.release(connection, now, broken=True))
            elif type(answer) is Open:
                client.state = "opening"
                self._dial(answer.connection, client, now)
                return
            elif type(answer) is Wait:
                client.state = "waiting"
                if client.queued_at is None:
                    client.queued_at = now
                return
            elif type(answer) is Stale:
                self._close(answer.connection)
            client.attempt += 1
            answer = self.rules.acquire(client, now, client.attempt)

    def _give(self, client: Client, connection: Connection, now: float) -> None:
        client.state = "using"
        connection.handle.client = client
        self._use(client, connection, now)

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            now = self._clock()
            if type(action) is HandOver:
                client = cast(Client, action.request)
                if action.connection.handle.dead:
                    self._carry_out(self.rules.release(action.connection, now, broken=True))
                    client.attempt += 1
                    self._try(client, now)
                else:
                    self._give(client, action.connection, now)
            elif type(action) is Close:
                self._close(action.connection)
            elif type(action) is Open:
                self._dial(action.connection, None, now)
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
                wire = next(w for w in self._dialing if w.client is client)
                wire.error = OVERDUE
                self._refused(wire, now)

    def _dial(self, connection: Connection, client: Client | None, now: float) -> None:
        wire = AsyncConnection(self._conninfo, self._poller, connection, now)
        connection.handle = wire
        wire.client = client
        self._dialing[wire] = None
        if wire.fd >= 0:
            self._timers.at(now + CONNECT_TIMEOUT, self._dialed_too_long, wire)
        else:
            # Not at once: the Pool is in the middle of a call.
            self._stillborn.append(wire)

    def _dialed_too_long(self, wire: AsyncConnection, now: float) -> None:
        if wire.dialing and not wire.dead:
            wire.error = ErrorKind("server", "ConnectionTimeout", None, "connection timeout expired")
            self._refused(wire, now)

    def _go_on_dialing(self, wire: AsyncConnection, now: float) -> None:
        is_open = wire.dial()
        if is_open:
            self._opened(wire, now)
        elif is_open is None:
            self._refused(wire, now)

    def _opened(self, wire: AsyncConnection, now: float) -> None:
        del self._dialing[wire]
        self._count_opened(now - wire.began_at, now)
        client, wire.client = wire.client, None
        actions = self.rules.opened(wire.connection, now)
        if client is not None:
            self._give(client, wire.connection, now)
        self._carry_out(actions)

    def _refused(self, wire: AsyncConnection, now: float) -> None:
        del self._dialing[wire]
        client, wire.client = wire.client, None
        kind = wire.error or ErrorKind("server", "OperationalError", None, "the connection could not be opened")
        wire.close()
        self._carry_out(self.rules.open_failed(wire.connection, now, ConnectionError(kind)))
        if client is not None:
            client.state = ""
            self._fail(client, kind, now)

    def _close(self, connection: Connection) -> None:
        wire: AsyncConnection = connection.handle
        wire.close()
        self._carry_out(self.rules.closed(connection, self._clock()))

    def _clean(self, due: float, now: float) -> None:
        if self.rules.clean_at == due:
            self._carry_out(self.rules.clean(now))


_PENDING = ("waiting", "opening")
