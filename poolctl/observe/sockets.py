"""Linux's tables of sockets: which ends are connected, which process holds an end, and what waits to be accepted.

The tables need no privilege, and show of every socket whether a process holds it, though not which one: that is found
by the files that processes have open, as far as this user may see them. A socket without an inode is held by no
process: its process is gone, or it waits in a listen queue.

Also decides when a backend works for a client that is gone (an orphan). A backend that is about to end looks the same
for a moment, and an idle one notices at once that its client is gone. So only busy backends count, and only if they are
still there a moment later.
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
"""States of linux/tcp_states.h."""
_TIME_WAIT = "06"
_OPEN = (ESTABLISHED, CLOSE_WAIT)

_MOMENT = 0.05
"""Seconds in which a backend that has lost its client ends, unless it is at work."""

# Of linux/sock_diag.h, netlink.h and unix_diag.h: the family of messages, their types, NLM_F_REQUEST | NLM_F_DUMP,
# what to show of each socket, and the attributes that hold it.
_SOCK_DIAG = 4
_BY_FAMILY, _DONE, _ERROR = 20, 3, 2
_REQUEST_DUMP = 0x301
_SHOW_NAME_AND_PEER = 1 | 4
_NAME, _PEER = 0, 2


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
    """Read all TCP sockets of this network namespace; empty where there is no such table."""
    return [one for table in read_tcp_tables() for one in parse_tcp(table)]


def read_tcp_tables() -> list[str]:
    """Read the kernel's tables of TCP sockets, for IPv4 and IPv6; empty where there are none."""
    found: list[str] = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            found.append(Path(f"/proc/net/{name}").read_text())
    return found


def count_closed_by_port(tables: Iterable[str], ports: Collection[int]) -> dict[int, int]:
    """Count the connections to each of ``ports`` that their clients here closed within the last minute (TIME_WAIT).

    The end that closes first keeps the port for that time, so a client that connects often runs out of ports.
    """
    # The remote end stands right before the state. A machine that runs out of ports has 28,000 such lines.
    joined = "".join(tables)
    counts = {port: joined.count(f":{port:04X} {_TIME_WAIT} ") for port in ports}
    return {port: count for port, count in counts.items() if count}


def parse_tcp(table: str) -> Iterator[TcpSocket]:
    """Parse /proc/net/tcp or tcp6 without closed connections; skip lines that are cut."""
    for line in table.splitlines()[1:]:
        # Columns: number, local, remote, state, queues, timer, retransmits, uid, timeout, inode, ...
        parts = line.split(maxsplit=10)
        with suppress(ValueError, IndexError):
            # Thousands of these stay for a minute after short connections, and no process holds them.
            if parts[3] != _TIME_WAIT:
                yield TcpSocket(_parse_end(parts[1]), _parse_end(parts[2]), int(parts[3], 16), int(parts[9]))


def _parse_end(text: str) -> End:
    address, _, port = text.partition(":")
    return End(_parse_address(address), int(port, 16))


@lru_cache(maxsize=4096)
def _parse_address(text: str) -> str:
    # The kernel prints groups of four bytes as numbers, so each group is in the byte order of this machine.
    raw = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return normalize_address(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))


def normalize_address(text: str) -> str:
    """Write an address as PostgreSQL does: without scope, and IPv4 where a dual-stack socket wraps it in IPv6."""
    if ":" not in text:
        return text
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_loopback(host: str) -> bool:
    """Return True for a host of libpq's that is this machine by its form: loopback, or a Unix socket."""
    return host.startswith(("127.", "/", "@")) or host in ("", "::1", "localhost")


def count_waiting_by_port(sockets: list[TcpSocket], ports: set[int]) -> dict[int, int]:
    """Count the connections in the listen queue of each of ``ports`` that a process here listens on.

    A client that has given up stays in the queue until the server accepts it. It waits for nothing and is left out,
    which the Recv-Q of ss does not do.
    """
    waiting = {one.local.port: 0 for one in sockets if one.state == LISTEN and one.local.port in ports}
    for one in sockets:
        # The kernel completes the handshake by itself; the socket gets its inode when the process accepts it.
        if one.state == ESTABLISHED and one.inode == 0 and one.local.port in waiting:
            waiting[one.local.port] += 1
    return waiting


def read_unix_sockets() -> dict[int, UnixSocket]:
    """Read every Unix socket by its inode from the kernel (sock_diag(7)): /proc/net/unix does not name the other end.

    Empty where the kernel does not answer.
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
        # In a container that filters netlink no answer comes at all.
        kernel.settimeout(0.5)
        kernel.sendall(header + request)
        while True:
            # One datagram holds many messages and never a part of one, if the buffer is as large as the kernel's.
            ended, some = parse_unix(kernel.recv(1 << 18))
            found.update((one.inode, one) for one in some)
            if ended:
                break
    return found


def parse_unix(answer: bytes) -> tuple[bool, list[UnixSocket]]:
    """Parse the messages of one datagram of the kernel; also return whether it was the last."""
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
        # Messages and attributes are padded to four bytes; their length is without the padding.
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


class Orphan(NamedTuple):
    """A server's end of a connection whose other end no process holds.

    Known by its client's port or, over a Unix socket, by its backend.
    """

    port: int | None
    backend: int | None
    inode: int

    def is_busy(self, titles: Iterable[BackendTitle], server: ServerSample | None) -> bool:
        """Return True unless the backend waits for its client: then it notices at once that the client is gone."""
        states = [title.state for title in titles if self._is_of(title.pid, title.client_port) and title.state]
        backends = server.backends if server is not None and not states else ()
        states += [one.state for one in backends if self._is_of(one.pid, one.client_port) and one.state]
        return not states or not any(state.startswith("idle") for state in states)

    def _is_of(self, pid: int, port: int | None) -> bool:
        return pid == self.backend if self.backend is not None else port == self.port


class OrphanTracker:
    """Orphans that were observed twice, from sample to sample."""

    def __init__(self) -> None:
        self._known: set[Orphan] = set()

    def confirm(self, suspects: set[Orphan], read_again: Callable[[], set[Orphan]]) -> set[Orphan]:
        """Confirm the suspects that the call before knew, and the others if ``read_again`` still finds them after a
        moment."""
        known, new = suspects & self._known, suspects - self._known
        if new:
            time.sleep(_MOMENT)
            new &= read_again()
        self._known = known | new
        return self._known


def find_held_ends(sockets: Iterable[TcpSocket], clients: Collection[End], ports: Collection[int]) -> list[TcpSocket]:
    """Find the server's ends of the connections of ``clients``; ``ports`` are the server's, empty if unknown."""
    return [
        one
        for one in sockets
        if one.remote in clients and one.state in _OPEN and one.inode and (not ports or one.local.port in ports)
    ]


def find_unowned(held: Iterable[TcpSocket], sockets: Iterable[TcpSocket]) -> Iterator[TcpSocket]:
    """Find the server's ends whose other end, which is on this machine, no process holds.

    tcp and tcp6 are two tables, read one after the other; a connection that ends in between is in neither.
    """
    # The client's end is the same pair of addresses, the other way round.
    inodes = {(one.local, one.remote): one.inode for one in sockets}
    return (one for one in held if not inodes.get((one.remote, one.local)))


class SocketOwners:
    """The process that holds a socket, by the socket's inode.

    A socket keeps its inode and, but for a fork, its process for life; so each is searched for once. Of several
    processes that share a socket the first one found counts.
    """

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}

    def find(self, inodes: Collection[int], *, unlike: Collection[int] = ()) -> dict[int, int]:
        """Find the owners of ``inodes``, as far as possible; ``unlike`` are processes that are not searched."""
        self._pids = {inode: pid for inode, pid in self._pids.items() if inode in inodes}
        missing = {inode for inode in inodes if inode not in self._pids}
        # A process that held one before often holds the new one.
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
    """List the inodes of the sockets that a process has open; empty where they are hidden from this user."""
    found: list[int] = []
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - thousands of them in each sample
    except OSError:
        return found
    for name in names:
        with suppress(OSError, ValueError):
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - as above
            if target.startswith("socket:["):
                found.append(int(target[8:-1]))
    return found


def has_hidden_sockets(pid: int) -> bool:
    """Return True if the sockets of a process are hidden from this user; False if the process is gone."""
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
