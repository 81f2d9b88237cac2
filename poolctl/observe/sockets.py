"""Linux's own tables of sockets: who is connected with whom, and what waits to be accepted.

They can be read without any privilege, and say of every socket whether a process holds it, though not which one. A
socket without an inode is held by nobody: its process is gone, or it waits in a listen queue.
"""

import ipaddress
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from poolctl.observe.snapshot import BackendTitle, ServerSample

ESTABLISHED = 1
CLOSE_WAIT = 8
"""The other end has closed."""
LISTEN = 10
_TIME_WAIT = "06"


class End(NamedTuple):
    address: str
    port: int


class TcpSocket(NamedTuple):
    """A line of /proc/net/tcp. ``inode`` 0: no process holds it."""

    local: End
    remote: End
    state: int
    inode: int


class UnixSocket(NamedTuple):
    """A connected or listening Unix socket. ``peer``: the inode of the other end, 0 when that is closed."""

    path: str
    inode: int
    peer: int


def read_tcp_sockets() -> list[TcpSocket]:
    """All of this network namespace; empty where there is no such table."""
    found: list[TcpSocket] = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            found += parse_tcp(Path(f"/proc/net/{name}").read_text())
    return found


def parse_tcp(table: str) -> Iterator[TcpSocket]:
    """The lines of /proc/net/tcp or tcp6 but for closed connections; those that are cut are passed over."""
    for line in table.splitlines()[1:]:
        parts = line.split(maxsplit=10)
        with suppress(ValueError, IndexError):
            if parts[3] != _TIME_WAIT:
                yield TcpSocket(_parse_end(parts[1]), _parse_end(parts[2]), int(parts[3], 16), int(parts[9]))


def _parse_end(text: str) -> End:
    address, _, port = text.partition(":")
    return End(_parse_address(address), int(port, 16))


@lru_cache(maxsize=4096)
def _parse_address(text: str) -> str:
    # Groups of four bytes, each in the byte order of this machine.
    raw = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return normalize_address(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))


def normalize_address(text: str) -> str:
    """An address as PostgreSQL writes it: an IPv4 one that a dual-stack socket wraps in IPv6 unwrapped, no scope."""
    if ":" not in text:
        return text
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_loopback(host: str) -> bool:
    """Whether a host, as libpq takes it, is this machine by its form: a loopback address or name, a Unix socket."""
    return host.startswith(("127.", "/", "@")) or host in ("", "::1", "localhost")


def count_waiting_by_port(sockets: list[TcpSocket], ports: set[int]) -> dict[int, int]:
    """Connections in the listen queue of each of ``ports`` that something here listens on.

    Those whose client has given up meanwhile stay in the queue until they are accepted; they wait for nothing and are
    left out, which ss's Recv-Q does not do.
    """
    waiting = {one.local.port: 0 for one in sockets if one.state == LISTEN and one.local.port in ports}
    for one in sockets:
        if one.state == ESTABLISHED and one.inode == 0 and one.local.port in waiting:
            waiting[one.local.port] += 1
    return waiting


_SOCK_DIAG = 4
_BY_FAMILY, _DONE, _ERROR = 20, 3, 2
_REQUEST_DUMP = 0x301
_SHOW_NAME_AND_PEER = 1 | 4
_NAME, _PEER = 0, 2


def read_unix_sockets() -> dict[int, UnixSocket]:
    """Every Unix socket by its inode, asked from the kernel (sock_diag(7)), for no table names the other end.

    Empty where that is not to be had.
    """
    if not hasattr(socket, "AF_NETLINK"):
        return {}
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME_AND_PEER, 0, 0)
    header = struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
    found: dict[int, UnixSocket] = {}
    with (
        suppress(OSError, struct.error),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel,
    ):
        kernel.settimeout(0.5)
        kernel.sendall(header + request)
        while True:
            ended, some = parse_unix(kernel.recv(1 << 18))
            found.update((one.inode, one) for one in some)
            if ended:
                break
    return found


def parse_unix(answer: bytes) -> tuple[bool, list[UnixSocket]]:
    """The messages of one datagram of the kernel, and whether it was the last."""
    found: list[UnixSocket] = []
    at = 0
    while at + 16 <= len(answer):
        length, kind = struct.unpack_from("=IH", answer, at)
        if kind in (_DONE, _ERROR) or length < 16:
            return True, found
        if kind == _BY_FAMILY and length >= 32:
            (inode,) = struct.unpack_from("=I", answer, at + 20)
            name, peer = _parse_attributes(answer[at + 32 : at + length])
            found.append(UnixSocket(name, inode, peer))
        at += (length + 3) & ~3
    return False, found


def _parse_attributes(data: bytes) -> tuple[str, int]:
    name, peer, at = "", 0, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        value = data[at + 4 : at + length]
        if kind == _NAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        elif kind == _PEER and len(value) >= 4:
            (peer,) = struct.unpack_from("=I", value)
        at += (length + 3) & ~3
    return name, peer


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


class OrphanTracker:
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


def find_held_ends(sockets: Iterable[TcpSocket], clients: Collection[End], ports: Collection[int]) -> list[TcpSocket]:
    """The server's ends of the connections of ``clients``; ``ports`` are the server's, empty where not known."""
    return [
        one
        for one in sockets
        if one.remote in clients and one.state in _OPEN and one.inode and (not ports or one.local.port in ports)
    ]


def find_unowned(held: Iterable[TcpSocket], sockets: Iterable[TcpSocket]) -> Iterator[TcpSocket]:
    """The server's ends whose other end, which is on this machine, nobody holds. A connection that ends between two
    tables is missing from both."""
    inodes = {(one.local, one.remote): one.inode for one in sockets}
    return (one for one in held if not inodes.get((one.remote, one.local)))


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
        for pid in _order_processes(known, unlike):
            if not missing:
                break
            for inode in list_sockets(pid):
                if inode in missing:
                    self._pids[inode] = pid
                    missing.discard(inode)
        return dict(self._pids)


def list_sockets(pid: int) -> list[int]:
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


def has_hidden_sockets(pid: int) -> bool:
    """Whether the sockets of a process may not be seen; False of one that is gone."""
    try:
        os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - as above
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _order_processes(first: Iterable[int], unlike: Collection[int]) -> Iterable[int]:
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
