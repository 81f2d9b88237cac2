"""Connections that a server still holds and nobody holds the other end of: backends that work for no one.

Decides when that is certain. A backend that is about to end looks the same for a moment, and one that only waits for
its client notices at once that it is gone: so only those at work count, and only if they still are a moment later.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from poolctl.observe.snapshot import BackendTitle, ServerSample
from poolctl.observe.sockets import CLOSE_WAIT, ESTABLISHED, End, TcpSocket

_MOMENT = 0.05
"""Seconds in which a backend that has lost its client ends, unless it is at work."""
_OPEN = (ESTABLISHED, CLOSE_WAIT)


class Orphan(NamedTuple):
    """A server's end of a connection that nobody holds the other end of: by its client's port or, over a Unix socket,
    by its backend."""

    port: int | None
    backend: int | None
    inode: int

    def is_busy(self, titles: Iterable[BackendTitle], server: ServerSample | None) -> bool:
        """Whether the backend does anything but wait for its client: one that does sees at once that it is gone."""
        states = [title.state for title in titles if self._is_of(title.pid, title.client_port) and title.state]
        backends = server.backends if server is not None and not states else ()
        states += [one.state for one in backends if self._is_of(one.pid, one.client_port) and one.state]
        return not states or not any(state.startswith("idle") for state in states)

    def _is_of(self, pid: int, port: int | None) -> bool:
        return pid == self.backend if self.backend is not None else port == self.port


class Confirmed:
    """Orphans that were seen twice, from look to look."""

    def __init__(self) -> None:
        self._known: set[Orphan] = set()

    def confirm(self, suspects: set[Orphan], look_again: Callable[[], set[Orphan]]) -> set[Orphan]:
        """Those of ``suspects`` that were there at the call before, and the others if ``look_again`` finds them after
        a moment."""
        known, new = suspects & self._known, suspects - self._known
        if new:
            time.sleep(_MOMENT)
            new &= look_again()
        self._known = known | new
        return self._known


def held_ends(sockets: Iterable[TcpSocket], clients: Collection[End], ports: Collection[int]) -> list[TcpSocket]:
    """The server's ends of the connections of ``clients``; ``ports`` are the server's, empty where not known."""
    return [
        one
        for one in sockets
        if one.remote in clients and one.state in _OPEN and one.inode and (not ports or one.local.port in ports)
    ]


def unowned(held: Iterable[TcpSocket], sockets: Iterable[TcpSocket]) -> Iterator[TcpSocket]:
    """The server's ends whose other end, which is on this machine, nobody holds. A connection that ends between two
    tables is missing from both."""
    inodes = {(one.local, one.remote): one.inode for one in sockets}
    return (one for one in held if not inodes.get((one.remote, one.local)))
