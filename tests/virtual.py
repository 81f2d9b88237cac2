"""Drives one Pool in virtual time: a heap of events stands where a live run has threads, sockets and a clock."""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any, NamedTuple

from poolctl.pool import (
    Action,
    Alarm,
    Close,
    Connection,
    Fail,
    HandOver,
    Open,
    Pool,
    PoolRules,
    PoolSettings,
    Reject,
    Request,
    Retry,
    Stale,
    Use,
    Wait,
)

Hold = float | Callable[[], float] | None
"""Seconds from acquire to release, perhaps drawn when the connection is there; None: until ``release``."""


def new_pool(kind: str = "database/sql", *, seed: int = 1, rules: PoolRules | None = None, **limits: Any) -> Pool:
    return Pool(PoolSettings(kind, **limits), Random(seed), rules)


def acquire_open(pool: Pool, request: Request, now: float) -> Connection:
    """Acquire where no queue is expected, opening in no time what has to be opened."""
    answer = pool.acquire(request, now)
    assert isinstance(answer, Use | Open), answer
    if isinstance(answer, Open):
        assert pool.opened(answer.connection, now) == [HandOver(request, answer.connection)]
    return answer.connection


def fill(pool: Pool, number: int, now: float = 0.0) -> list[Connection]:
    """That many connections, acquired by as many holders."""
    return [acquire_open(pool, f"holder {at}", now) for at in range(number)]


class Served(NamedTuple):
    at: float
    waited: float
    connection: Connection


class VirtualTime:
    """One pool, its requests and its server. What became of each request is in the four dicts."""

    def __init__(self, pool: Pool, *, connect_time: float = 0.0, close_time: float = 0.0) -> None:
        self.pool = pool
        self.now = 0.0
        self.connect_time = connect_time
        self.close_time = close_time
        self.is_down = False
        """Whether openings fail, decided when they end."""
        self.served: dict[Request, Served] = {}
        self.failed: dict[Request, float] = {}
        self.gave_up: dict[Request, float] = {}
        self.rejected: dict[Request, float] = {}
        self.closed_at: list[float] = []
        self._asked: dict[Request, tuple[float, Hold]] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._upkeep: list[tuple[float, int, Callable[[], None]]] = []
        """Alarms that come again and again."""
        self._sequence = 0

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Schedule ``action``; those of one instant run in the order they were scheduled."""
        self._sequence += 1
        heappush(self._events, (time, self._sequence, action))

    def acquire(self, request: Request, hold: Hold = None, *, patience: float | None = None) -> None:
        """Ask now. After ``patience`` seconds in the queue the request gives up."""
        self._asked[request] = (self.now, hold)
        self._attempt(request, patience, 0)

    def release(self, request: Request, *, broken: bool = False) -> None:
        self._carry_out(self.pool.release(self.served[request].connection, self.now, broken=broken))

    def feed(self, arrivals: Iterable[float], hold: Hold, *, patience: float | None = None) -> None:
        """Requests 0, 1, 2, ... at the given ascending times."""
        times = iter(arrivals)

        def expect(number: int) -> None:
            time = next(times, None)
            if time is not None:
                self.at(time, lambda: arrive(number))

        def arrive(number: int) -> None:
            expect(number + 1)
            self.acquire(number, hold, patience=patience)

        expect(0)

    def run(self, until: float = inf) -> None:
        """Let time pass: to ``until``, upkeep included, or while anything but upkeep is still to happen."""
        while True:
            event_at = self._events[0][0] if self._events else inf
            if self._upkeep and until < inf and self._upkeep[0][0] <= min(event_at, until):
                self.now, _, action = heappop(self._upkeep)
                action()
            elif self._events and event_at <= until:
                self.now, _, action = heappop(self._events)
                action()
            else:
                break
        if until < inf:
            self.now = until

    def _set_alarm(self, alarm: Alarm) -> None:
        if alarm.at <= self.now:
            self._carry_out(alarm.ring(self.now))
            return
        self._sequence += 1
        entry = (alarm.at, self._sequence, lambda: self._carry_out(alarm.ring(self.now)))
        heappush(self._upkeep if alarm.repeats else self._events, entry)

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        if delay:
            self.at(self.now + delay, action)
        else:
            action()

    def _attempt(self, request: Request, patience: float | None, attempt: int) -> None:
        answer = self.pool.acquire(request, self.now, attempt)
        match answer:
            case Use(connection):
                self._serve(request, connection)
            case Wait(actions):
                if patience is not None:
                    self._after(patience, lambda: self._lose_patience(request))
                self._carry_out(actions)
            case Open(connection):
                self._open(connection)
            case Stale(connection):
                self._close(connection, lambda: self._attempt(request, patience, attempt + 1))
            case Reject():
                self.rejected[request] = self.now

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case HandOver(request, connection):
                    self._serve(request, connection)
                case Close(connection):
                    self._close(connection)
                case Open(connection):
                    self._open(connection)
                case Retry(request):
                    self._attempt(request, None, 0)
                case Alarm():
                    self._set_alarm(action)
                case Fail(request, _):
                    self.failed[request] = self.now
                    del self._asked[request]

    def _serve(self, request: Request, connection: Connection) -> None:
        asked_at, hold = self._asked.pop(request)
        self.served[request] = Served(self.now, self.now - asked_at, connection)
        seconds = hold() if callable(hold) else hold
        if seconds is not None:
            self.at(self.now + seconds, lambda: self.release(request))

    def _lose_patience(self, request: Request) -> None:
        if request in self._asked:
            self.pool.give_up(request, self.now)
            self.gave_up[request] = self.now
            del self._asked[request]

    def _open(self, connection: Connection) -> None:
        self._after(self.connect_time, lambda: self._finish_opening(connection))

    def _finish_opening(self, connection: Connection) -> None:
        if self.is_down:
            if connection.request is not None:
                self.failed[connection.request] = self.now
                del self._asked[connection.request]
            self._carry_out(self.pool.open_failed(connection, self.now, ConnectionRefusedError()))
            return
        actions = self.pool.opened(connection, self.now)
        self._carry_out(actions)

    def _close(self, connection: Connection, then: Callable[[], None] | None = None) -> None:
        def finish() -> None:
            self.closed_at.append(self.now)
            self._carry_out(self.pool.closed(connection, self.now))
            if then is not None:
                then()

        self._after(self.close_time, finish)
