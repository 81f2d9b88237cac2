"""What the pool says to its driver: answers to an acquire, and actions to carry out in order."""

from collections.abc import Callable, Hashable
from math import inf
from typing import Any, Literal, NamedTuple

Request = Hashable
"""Any value that identifies a request to its driver, except None."""

State = Literal["opening", "idle", "in_use", "returning", "closing", "gone"]
"""returning: its holder has released it, and the library has not taken it back yet."""


class Connection:
    """One slot of the pool. ``handle`` belongs to the driver."""

    __slots__ = (
        "acquired_at",
        "doubtful_after",
        "ends_at",
        "handle",
        "is_abandoned",
        "is_lost",
        "is_lost_known",
        "is_probe",
        "is_replaced",
        "opened_at",
        "released_at",
        "request",
        "rests",
        "spent_after",
        "state",
        "tries",
        "use",
        "uses",
    )

    def __init__(self, request: Request | None) -> None:
        self.state: State = "opening"
        self.request = request
        """The request that opens it for itself; None while a background opener does."""
        self.opened_at = self.released_at = self.acquired_at = 0.0
        self.ends_at = inf
        """When its lifetime is over."""
        self.doubtful_after = inf
        """After this instant an acquire may not take it without a closer look."""
        self.spent_after = inf
        """After this instant a release closes it."""
        self.uses = self.tries = 0
        self.rests = False
        """Whether a timer of its own watches how long it is idle."""
        self.is_lost = self.is_lost_known = False
        """Whether its server process is gone, and whether the library has noticed."""
        self.is_abandoned = False
        """The request that opens it has given up, and the library keeps the connection."""
        self.is_replaced = False
        """Whether another one is opened when it is closed."""
        self.is_probe = False
        """Whether it is closed as soon as it is open."""
        self.handle: Any = None
        self.use = Use(self)
        """The answer that gives it away. Made once: to make it for every acquire would be a tenth of an acquire."""


class Use(NamedTuple):
    """The caller has this connection."""

    connection: Connection


class Open(NamedTuple):
    """Open this connection now: for ``connection.request``, or in the background when that is None.

    ``instead_of``: close this one first, which has already given up its slot.
    """

    connection: Connection
    instead_of: Connection | None = None


class Wait(NamedTuple):
    """The caller is in the queue; a HandOver, an Open, a Retry or a Fail will name it, unless it gives up."""

    actions: "tuple[Action, ...]" = ()


class Stale(NamedTuple):
    """Close this connection, then acquire again with ``attempt`` one higher."""

    connection: Connection


class Reject(NamedTuple):
    """The pool is full, and this library does not queue, or (``is_queue_full``) as many wait as it allows."""

    is_queue_full: bool = False


class Blocked(NamedTuple):
    """An opening keeps every request out of the pool. A Retry will name this one."""


class HandOver(NamedTuple):
    """This request has this connection: it waited for it, or opened it."""

    request: Request
    connection: Connection


class Fail(NamedTuple):
    """This waiting request gets the error of an opening that it did not make; None: it was dropped as overdue."""

    request: Request
    error: Any


class Retry(NamedTuple):
    """This request acquires again, with the ``attempt`` it had."""

    request: Request


class Close(NamedTuple):
    """Close this connection, then call ``closed``."""

    connection: Connection


class Alarm(NamedTuple):
    """Call ``ring`` with the time when it is ``at``, and carry out what it returns; now, when that has come.

    ``repeats``: it comes again and again, also when there is nothing to do.
    """

    at: float
    ring: "Callable[[float], list[Action]]"
    repeats: bool = False


Answer = Use | Open | Wait | Stale | Reject | Blocked
Action = HandOver | Fail | Retry | Open | Close | Alarm
