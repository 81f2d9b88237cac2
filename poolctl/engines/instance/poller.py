"""Waits for sockets, to the microsecond, and knows whose they are.

``epoll_wait`` rounds a wait up to whole milliseconds, and over a busy period the delays pile up. ``select`` does
not round; asked about the epoll descriptor alone, it has no limit on the number of sockets either.
"""

import select
import selectors
from typing import Generic, Protocol, TypeVar

Owner = TypeVar("Owner")

COARSE = 0.002
"""Seconds from which on epoll itself waits."""


class Poller(Protocol[Owner]):
    def watch(self, fd: int, owner: Owner, *, write: bool = False) -> None:
        """Report ``owner`` when ``fd`` can be read, or instead when it can be written."""

    def forget(self, fd: int) -> None:
        """Stop reporting ``fd``; it may be closed already."""

    def wait(self, timeout: float) -> list[Owner]:
        """The owners of what is ready, after at most ``timeout`` seconds."""


class EpollPoller(Generic[Owner]):
    """Linux."""

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
                # libpq has closed it, and with that epoll has forgotten it by itself.
                return

    def wait(self, timeout: float) -> list[Owner]:
        if timeout >= COARSE:
            # Whole milliseconds of it, in one call; the caller comes back for the rest.
            events = self._epoll.poll(int(min(timeout, 1.0) * 1000) / 1000)
        else:
            events = self._epoll.poll(0)
            if not events and timeout > 0:
                select.select(self._own, (), (), timeout)
                events = self._epoll.poll(0)
        owners = self._owners
        return [owners[fd] for fd, _ in events if fd in owners]


class SelectorPoller(Generic[Owner]):
    """Everything else; kqueue does not round."""

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
    return EpollPoller() if hasattr(select, "epoll") else SelectorPoller()
