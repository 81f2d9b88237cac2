"""Waits for sockets with a precision of microseconds.

Decides which system call waits; returns the owners of the sockets that are ready. ``epoll_wait`` rounds a timeout up
to whole milliseconds, and in a busy period these delays add up. ``select`` does not round. It takes no descriptors
above 1,023, but the epoll descriptor alone is small, and it is readable as soon as one of its sockets is ready.
"""

import select
import selectors
from typing import Generic, Protocol, TypeVar

Owner = TypeVar("Owner")

COARSE = 0.001
"""Seconds, the precision of epoll. A longer wait uses epoll itself, which saves two system calls."""


class Poller(Protocol[Owner]):
    """A set of sockets, each with its owner."""

    def watch(self, fd: int, owner: Owner, *, write: bool = False) -> None:
        """Report ``owner`` when ``fd`` can be read; with ``write``, when it can be written instead."""

    def forget(self, fd: int) -> None:
        """Stop reporting ``fd``, which may be closed already."""

    def wait(self, timeout: float) -> list[Owner]:
        """Wait at most ``timeout`` seconds and return the owners of the sockets that are ready."""


class EpollPoller(Generic[Owner]):
    """The poller of Linux."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._own = [self._epoll.fileno()]
        self._owners: dict[int, Owner] = {}

    def watch(self, fd: int, owner: Owner, *, write: bool = False) -> None:
        mask = select.EPOLLOUT if write else select.EPOLLIN
        self._owners[fd] = owner
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        if self._owners.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                # libpq has closed the socket, and closing removes it from epoll.
                return

    def wait(self, timeout: float) -> list[Owner]:
        if timeout >= COARSE:
            # Less what Python may add, which rounds up; the caller waits for the rest in its next call.
            events = self._epoll.poll((timeout if timeout < 1.0 else 1.0) - COARSE)
        else:
            events = self._epoll.poll(0)
            if not events and timeout > 0:
                select.select(self._own, (), (), timeout)
                events = self._epoll.poll(0)
        owners, ready = self._owners, []
        for fd, _ in events:
            # A socket may have been forgotten after the kernel queued its event.
            if fd in owners:
                ready.append(owners[fd])
        return ready


class SelectorPoller(Generic[Owner]):
    """The poller of all other systems. kqueue, which macOS and BSD have, does not round."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, fd: int, owner: Owner, *, write: bool = False) -> None:
        mask = selectors.EVENT_WRITE if write else selectors.EVENT_READ
        try:
            self._selector.register(fd, mask, owner)
        except KeyError:
            self._selector.modify(fd, mask, owner)

    def forget(self, fd: int) -> None:
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError, OSError):
            return

    def wait(self, timeout: float) -> list[Owner]:
        return [key.data for key, _ in self._selector.select(timeout)]


def new_poller() -> Poller[Owner]:
    """Create the poller of this system."""
    return EpollPoller() if hasattr(select, "epoll") else SelectorPoller()
