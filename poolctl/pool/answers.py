"""What the pool says to its driver: answers to an acquire, and actions to carry out."""

from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

Request = Hashable
"""Whatever the driver tells its requests apart by; anything but None."""

State = Literal["opening", "idle", "in_use", "closing", "gone"]


class Connection:
    """One slot of the pool. ``handle`` belongs to the driver."""

    __slots__ = ("handle", "opened_at", "released_at", "request", "state", "use")

    def __init__(self, request: Request | None) -> None:
        self.state: State = "opening"
        self.request = request
        """For whom the caller opens it; None while the background opener does."""
        self.opened_at = 0.0
        self.released_at = 0.0
        self.handle: Any = None
        self.use = Use(self)
        """The answer that gives it away. Made once: to make it for every acquire would be a tenth of an acquire."""


class Use(NamedTuple):
    """The caller has this connection."""

    connection: Connection


class Open(NamedTuple):
    """Open this connection now: for the caller of acquire, or (request None) in the background."""

    connection: Connection


class Wait(NamedTuple):
    """The caller is in the queue; a HandOver or Fail will name it, unless it gives up.

    ``opening``: a connection that the background opener is to open now, None when it has enough to do.
    """

    opening: Connection | None = None


class Stale(NamedTuple):
    """Close this expired connection, then acquire again with ``attempt`` one higher."""

    connection: Connection


class Reject(NamedTuple):
    """The pool is full and this kind does not queue."""


class HandOver(NamedTuple):
    """This waiting request has got this connection."""

    request: Request
    connection: Connection


class Fail(NamedTuple):
    """This waiting request gets the error of an opening that it did not make."""

    request: Request
    error: Exception


class Close(NamedTuple):
    connection: Connection


Answer = Use | Open | Wait | Stale | Reject
Action = HandOver | Fail | Open | Close
