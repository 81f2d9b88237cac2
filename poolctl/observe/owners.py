"""Which process holds a socket, on Linux: found by the files that processes have open, and remembered."""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress


class SocketOwners:
    """Inodes of sockets to process ids.

    A socket keeps its inode and, but for a fork, its process for life; so each is looked for once. Of several
    processes that share a socket the first found counts.
    """

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}

    def find(self, inodes: Collection[int], *, unlike: Collection[int] = ()) -> dict[int, int]:
        """The owners of ``inodes``, of those that could be found; ``unlike`` are processes not to look into."""
        self._pids = {inode: pid for inode, pid in self._pids.items() if inode in inodes}
        missing = {inode for inode in inodes if inode not in self._pids}
        # Who held one before often holds the new one.
        known = list(dict.fromkeys(self._pids.values()))
        for pid in _in_turn(known, unlike):
            if not missing:
                break
            for inode in sockets_of(pid):
                if inode in missing:
                    self._pids[inode] = pid
                    missing.discard(inode)
        return dict(self._pids)


def sockets_of(pid: int) -> list[int]:
    """The inodes of the sockets a process has open; empty where that may not be seen."""
    found: list[int] = []
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - thousands of them at each look
    except OSError:
        return found
    for name in names:
        with suppress(OSError, ValueError):
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - as above
            if target.startswith("socket:["):
                found.append(int(target[8:-1]))
    return found


def hides_sockets(pid: int) -> bool:
    """Whether the sockets of a process may not be seen; False of one that is gone."""
    try:
        os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - as above
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _in_turn(first: Iterable[int], unlike: Collection[int]) -> Iterable[int]:
    done = set(unlike)
    for pid in first:
        if pid not in done:
            done.add(pid)
            yield pid
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - as above
    except OSError:
        return
    # The youngest first: clients come after the system.
    for pid in sorted(pids, reverse=True):
        if pid not in done:
            yield pid
