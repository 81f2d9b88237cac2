"""Our Pool with real connections behind it, without blocking: acquire and release as callbacks.

The Pool decides, libpq does; here is what lies between: openings, patience, the cleaner's clock, and what a dead
connection means. Follows Go's database/sql in all of it: a caller's own opening ends with the caller's patience,
and a dead connection found at acquire (driver.ErrBadConn) is thrown away and the acquire tried again.
"""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Protocol, cast

from poolctl.engines.pod.poller import Poller, new_poller
from poolctl.engines.pod.timers import Timers
from poolctl.engines.pod.wire import Wire
from poolctl.pool import Action, Close, Connection, Fail, HandOver, Open, Pool, PoolSettings, Stale, Use, Wait
from poolctl.run import ErrorKind

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
    def on_connection(self, connection: Connection, now: float) -> None: ...
    def on_failure(self, kind: ErrorKind, now: float) -> None: ...


class NativePool:
    """``on_answer`` is told when the statement on a connection in use has ended; ``on_opened`` how long each
    opening took."""

    def __init__(
        self,
        settings: PoolSettings,
        random: Random,
        conninfo: str,
        timers: Timers,
        clock: Callable[[], float],
        on_answer: Callable[[Wire, float], None],
        on_opened: Callable[[float, float], None],
    ) -> None:
        self.rules = Pool(settings, random)
        self._patience = settings.acquire_timeout
        self._conninfo = conninfo.encode()
        self._timers = timers
        self._clock = clock
        self._on_answer = on_answer
        self._on_opened = on_opened
        self._poller: Poller[Wire] = new_poller()
        self._dialing: dict[Wire, None] = {}
        self._deadlines: deque[tuple[float, Acquirer, int]] = deque()
        self._stillborn: deque[Wire] = deque()
        self._clean_at: float | None = None

    def acquire(self, client: Acquirer, now: float) -> None:
        client.ticket += 1
        client.attempt = 0
        client.queued_at = None
        if self._patience is not None:
            self._deadlines.append((now + self._patience, client, client.ticket))
        self._try(client, now)

    def release(self, connection: Connection, now: float) -> None:
        wire: Wire = connection.handle
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
        for wire in self._poller.wait(timeout):
            # An event before it in this batch may have ended it.
            if not wire.dead:
                self._on_event(wire, self._clock())
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

    def _try(self, client: Acquirer, now: float) -> None:
        while True:
            answer = self.rules.acquire(client, now, client.attempt)
            if type(answer) is Use:
                if not answer.connection.handle.dead:
                    self._give(client, answer.connection, now)
                    return
                self._carry_out(self.rules.release(answer.connection, now, broken=True))
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

    def _give(self, client: Acquirer, connection: Connection, now: float) -> None:
        client.state = "using"
        wire: Wire = connection.handle
        wire.client = client
        client.on_connection(connection, now)

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            now = self._clock()
            if type(action) is HandOver:
                client = cast(Acquirer, action.request)
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
                client = cast(Acquirer, action.request)
                client.state = ""
                client.on_failure(action.error.args[0], now)

    def _expire(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            _, client, ticket = deadlines.popleft()
            if client.ticket != ticket or client.state not in _PENDING:
                continue
            if client.state == "waiting":
                self.rules.give_up(client, now)
                client.state = ""
                client.on_failure(OVERDUE, now)
            else:
                wire = next(w for w in self._dialing if w.client is client)
                wire.error = OVERDUE
                self._refused(wire, now)

    def _dial(self, connection: Connection, client: Acquirer | None, now: float) -> None:
        wire = Wire(self._conninfo, self._poller, connection, now)
        connection.handle = wire
        wire.client = client
        self._dialing[wire] = None
        if wire.fd >= 0:
            self._timers.at(now + CONNECT_TIMEOUT, self._dialed_too_long, wire)
        else:
            # Not at once: the Pool is in the middle of a call.
            self._stillborn.append(wire)

    def _dialed_too_long(self, wire: Wire, now: float) -> None:
        if wire.dialing and not wire.dead:
            wire.error = ErrorKind("server", "ConnectionTimeout", None, "connection timeout expired")
            self._refused(wire, now)

    def _on_event(self, wire: Wire, now: float) -> None:
        if not wire.dialing:
            if wire.receive() and wire.client is not None:
                self._on_answer(wire, now)
            return
        is_open = wire.dial()
        if is_open:
            self._opened(wire, now)
        elif is_open is None:
            self._refused(wire, now)

    def _opened(self, wire: Wire, now: float) -> None:
        del self._dialing[wire]
        self._on_opened(now - wire.began_at, now)
        client, wire.client = wire.client, None
        actions = self.rules.opened(wire.connection, now)
        if client is not None:
            self._give(client, wire.connection, now)
        self._carry_out(actions)

    def _refused(self, wire: Wire, now: float) -> None:
        del self._dialing[wire]
        client, wire.client = wire.client, None
        kind = wire.error or ErrorKind("server", "OperationalError", None, "the connection could not be opened")
        wire.close()
        self._carry_out(self.rules.open_failed(wire.connection, now, ConnectionError(kind)))
        if client is not None:
            client.state = ""
            client.on_failure(kind, now)

    def _close(self, connection: Connection) -> None:
        wire: Wire = connection.handle
        wire.close()
        self._carry_out(self.rules.closed(connection, self._clock()))

    def _clean(self, due: float, now: float) -> None:
        if self.rules.clean_at == due:
            self._carry_out(self.rules.clean(now))


_PENDING = ("waiting", "opening")
