"""The operating system's view of the server and its clients, without any connection.

Works while the server refuses all clients: the titles of its processes show who holds the slots, the sockets show which
process here uses a client's port. Decides which processes belong to the server in question, as others may run beside
it: by the process ids and ports that it reported, else by the process that listens where poolctl connects.
"""

import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import psutil

from poolctl.observe.cores import count_usable_cores
from poolctl.observe.processes import (
    Names,
    ProcessorTimes,
    find_listener,
    find_parent,
    has_same_network,
    list_members,
    list_ports,
    parse_titles,
)
from poolctl.observe.snapshot import BackendTitle, ClientProcess, HostSample, ServerFacts, ServerSample, Source
from poolctl.observe.sockets import (
    CLOSE_WAIT,
    ESTABLISHED,
    LISTEN,
    End,
    Orphan,
    OrphanTracker,
    SocketOwners,
    TcpSocket,
    UnixSocket,
    count_closed_by_port,
    count_waiting_by_port,
    find_held_ends,
    find_unowned,
    is_loopback,
    list_sockets,
    normalize_address,
    parse_tcp,
    read_tcp_tables,
    read_unix_sockets,
)
from poolctl.safe_text import redact_command


class Host:
    """The machine poolctl runs on. ``sample`` never raises; ``source`` says how it went and what stays hidden.

    ``address`` and ``port`` are where poolctl reaches the server: an IP address, a name of this machine, the folder of
    a Unix socket ("" for libpq's), or None where the server's facts have to say whether it is here. ``pooler_ports``
    are of poolers here, whose clients and listen queues are wanted, too. ``scraped``: the host and port of each place
    that figures of pools are read from, by its name; which process listens there is wanted. ``every``: seconds at
    least between two samples; in between ``sample`` returns None, as reading the process list several times a second
    costs too much.
    """

    def __init__(
        self,
        address: str | None = None,
        port: int | None = None,
        *,
        pooler_ports: Iterable[int] = (),
        scraped: Mapping[str, tuple[str, int]] | None = None,
        every: float = 0.0,
    ) -> None:
        self._address = address
        self._port = port
        self._pooler_ports = frozenset(pooler_ports)
        self._scraped = dict(scraped or {})
        self._postmaster: psutil.Process | None = None
        self._owners = SocketOwners()
        self._commands: dict[psutil.Process, str] = {}
        self._unix_ends: dict[tuple[int, float | None], tuple[int, ...]] = {}
        self._before: ProcessorTimes | None = None
        self._orphans = OrphanTracker()
        self._every = every
        self._next_at = 0.0
        self.source = Source("host", "this machine")

    def sample(self, server: ServerSample | None, facts: ServerFacts | None) -> HostSample | None:
        """Sample the host. Backends of ``server`` decide which processes are its own; without it only titles do."""
        if time.monotonic() < self._next_at:
            return None
        self._next_at = time.monotonic() + self._every
        try:
            sample, reason = self._take_sample(server, facts)
        except (OSError, psutil.Error) as error:
            self.source = replace(self.source, ok=False, reason=f"the process list cannot be read: {_explain(error)}")
            return None
        self.source = replace(self.source, ok=True, reason=reason)
        return sample

    def close(self) -> None:
        """Do nothing: no file or connection stays open between samples."""

    def _take_sample(self, server: ServerSample | None, facts: ServerFacts | None) -> tuple[HostSample, str]:
        # One table of sockets for all questions: read twice, a connection that closes in between would look orphaned.
        here = _Addresses.read()
        is_here = here.has(self._address) if self._address is not None else facts is not None and facts.is_local
        table = _Sockets.read(self._owners)
        postmaster = self._find_postmaster(server, table, is_here)
        family = list_members(postmaster)
        titles = parse_titles(family, _collect_names(server, facts))
        clients = _collect_clients(titles, server)
        own_ports = list_ports(postmaster, table.listening)
        held = find_held_ends(table.tcp, clients, own_ports)
        ports = own_ports | {one.local.port for one in held} | self._pooler_ports
        if self._port is not None:
            ports.add(self._port)
        sees_all = (
            table.is_complete
            and postmaster is not None
            and has_same_network(postmaster)
            and (bool(held) or not any(here.has(client.address) for client in clients))
        )
        unix = self._find_unix_clients(titles, read_unix_sockets() if psutil.LINUX else {})
        reached = self._find_server_addresses(table)
        wanted = [one for one in table.tcp if self._is_client_end(one, ports, here, reached)]
        scraped = self._find_scraped(table, here)
        inodes = {one.inode for one in wanted} | set(unix) | set(scraped.values())
        owners = table.owners(inodes, {member.pid for member in family})
        times = ProcessorTimes.read(postmaster, family)
        cpu_share, server_cpu = times.compare(self._before)
        self._before = times
        ours = {client for client in clients if sees_all and here.has(client.address)}
        orphans = self._find_orphans(table, titles, server, ours, own_ports, unix)
        sample = HostSample(
            has_server=postmaster is not None,
            titles=_exclude_own(titles, server, wanted, unix, owners),
            processes=self._list_client_processes(wanted, unix, owners),
            unowned_ports=tuple(sorted(one.port for one in orphans if one.port is not None)),
            unowned_backends=tuple(sorted(one.backend for one in orphans if one.backend is not None)),
            sees_all_sockets=sees_all,
            cores=count_usable_cores(postmaster.pid) if postmaster is not None else None,
            cpu_share=cpu_share,
            server_cpu=server_cpu,
            listen_queues=table.waiting(ports if is_here or postmaster is not None else self._pooler_ports),
            scraped={name: owners[inode] for name, inode in scraped.items() if inode in owners},
            closed=table.closed(ports),
        )
        unnamed = sum(one.inode not in owners for one in wanted)
        is_asked = self._port is not None or server is not None
        return sample, _explain_missing(postmaster is not None or not is_asked, is_here, unnamed)

    def _find_postmaster(self, server: ServerSample | None, table: "_Sockets", is_here: bool) -> psutil.Process | None:
        # is_running() compares start times, so another process with the same pid does not count.
        if self._postmaster is not None and not self._postmaster.is_running():
            self._postmaster = None
        if server is not None and server.backends:
            self._postmaster = find_parent(server.backends)
        elif self._postmaster is None and is_here:
            folder = self._address if self._address is not None and self._address.startswith(("/", "@")) else None
            folder = "" if self._address == "" else folder
            inodes = [inode for inode, port in table.listening.items() if port == self._port]
            self._postmaster = find_listener(folder, self._port, inodes)
        return self._postmaster

    def _find_orphans(
        self,
        table: "_Sockets",
        titles: Iterable[BackendTitle],
        server: ServerSample | None,
        clients: Collection[End],
        ports: Collection[int],
        unix: Mapping[int, int | None],
    ) -> set[Orphan]:
        """Find orphans among the connections of ``clients`` to the server's ``ports``, and over its Unix socket."""

        def find_suspects(tcp: list[TcpSocket], ends: Mapping[int, int | None]) -> set[Orphan]:
            found = {
                Orphan(one.remote.port, None, one.inode)
                for one in find_unowned(find_held_ends(tcp, clients, ports), tcp)
            }
            return found | {Orphan(None, pid, -inode) for inode, pid in ends.items() if inode < 0}

        return self._orphans.confirm(
            {one for one in find_suspects(table.tcp, unix) if one.is_busy(titles, server)},
            lambda: find_suspects(
                _Sockets.read(self._owners).tcp, self._find_unix_clients(titles, read_unix_sockets())
            ),
        )

    def _find_server_addresses(self, table: "_Sockets") -> set[str]:
        """Find the addresses of the server: as it was named, and as poolctl's own connection has it.

        They differ where an address is translated, as to a container's published port.
        """
        own = set(list_sockets(os.getpid())) if psutil.LINUX else {os.getpid()}
        return {one.remote.address for one in table.tcp if one.inode in own and one.remote.port == self._port} | {
            self._address or ""
        }

    def _is_client_end(
        self, one: TcpSocket, ports: Collection[int], here: "_Addresses", reached: Collection[str]
    ) -> bool:
        """Return True for a client's end of a connection to the server or a pooler in question."""
        # The client's end: its remote port is the server's. The server's own end has it as the local one.
        if one.state != ESTABLISHED or not one.inode or one.remote.port not in ports:
            return False
        return one.remote.address in reached or here.has(one.remote.address)

    def _find_scraped(self, table: "_Sockets", here: "_Addresses") -> dict[str, int]:
        """Find the inode of the socket that listens at each place of ``scraped`` on this machine, by the place's name.

        Several processes may listen on one port, each at an address of its own.
        """
        found: dict[str, int] = {}
        for name, (address, port) in self._scraped.items():
            if not here.has(address):
                continue
            listening = [one for one in table.tcp if one.state == LISTEN and one.local.port == port and one.inode]
            fitting = [one for one in listening if one.local.address == address] or [
                one
                for one in listening
                if one.local.address in _ANY_ADDRESS or (is_loopback(address) and is_loopback(one.local.address))
            ]
            if fitting:
                found[name] = fitting[0].inode
        return found

    def _find_unix_clients(
        self, titles: Iterable[BackendTitle], known: Mapping[int, UnixSocket]
    ) -> dict[int, int | None]:
        """Find backends by the inode of their client's end of a Unix socket; None for a client of a pooler.

        The inode is negative where no process holds the client's end.
        """
        local = [title for title in titles if title.client == "local"]
        keys = {(title.pid, title.started_at) for title in local}
        self._unix_ends = {key: ends for key, ends in self._unix_ends.items() if key in keys}
        poolers = tuple(f"{_SOCKET}{port}" for port in self._pooler_ports)
        found: dict[int, int | None] = {
            one.peer: None for one in known.values() if one.peer and poolers and one.path.endswith(poolers)
        }
        for title in local:
            key = (title.pid, title.started_at)
            # Which sockets a backend has open is read once: reading /proc/PID/fd costs more than all the rest here.
            if key not in self._unix_ends:
                held = (inode for inode in list_sockets(title.pid) if inode in known)
                self._unix_ends[key] = tuple(inode for inode in held if _SOCKET in known[inode].path)
            for inode in self._unix_ends[key]:
                if inode in known:
                    found[known[inode].peer or -inode] = title.pid
        return found

    def _list_client_processes(
        self, ends: Iterable[TcpSocket], unix: dict[int, int | None], owners: dict[int, int]
    ) -> tuple[ClientProcess, ...]:
        connections: list[tuple[int, int | None, int | None]]
        connections = [(one.local.port, None, owners.get(one.inode)) for one in ends]
        connections += [(0, backend, owners.get(inode)) for inode, backend in unix.items() if inode > 0]
        described: dict[int, ClientProcess | None] = {os.getpid(): None}
        found: list[ClientProcess] = []
        for port, backend, pid in sorted(connections, key=lambda one: (one[2] or 0, one[0])):
            if pid is None:
                continue
            if pid not in described:
                described[pid] = self._describe(pid)
            process = described[pid]
            if process is not None:
                found.append(replace(process, port=port, backend_pid=backend))
        self._commands = {process: text for process, text in self._commands.items() if process.pid in described}
        return tuple(found)

    def _describe(self, pid: int) -> ClientProcess | None:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                # psutil.Process is equal only with the same start time, so a reused pid is another key.
                if process not in self._commands:
                    self._commands[process] = redact_command(process.cmdline()) or process.name()
                return ClientProcess(
                    port=0,
                    pid=pid,
                    command=self._commands[process],
                    status=process.status(),
                    started_at=process.create_time(),
                    threads=process.num_threads(),
                )
        except psutil.Error:
            return None


_SOCKET = "/.s.PGSQL."
_ANY_ADDRESS = ("0.0.0.0", "::")


class _Addresses(NamedTuple):
    """The addresses of this machine."""

    own: frozenset[str]

    @classmethod
    def read(cls) -> "_Addresses":
        interfaces = psutil.net_if_addrs().values()
        families = (socket.AF_INET, socket.AF_INET6)
        own = {normalize_address(one.address) for ones in interfaces for one in ones if one.family in families}
        return cls(frozenset(own | {"local", socket.gethostname()}))

    def has(self, address: str) -> bool:
        """Return True if an IP address, a name or the folder of a Unix socket leads here; no name is looked up."""
        return address in self.own or is_loopback(address)


class _Sockets(NamedTuple):
    """The TCP sockets of this machine, and how to find their owners. Off Linux an "inode" is the owner's pid."""

    tcp: list[TcpSocket]
    owners: Callable[[Collection[int], Collection[int]], dict[int, int]]
    waiting: Callable[[Collection[int]], dict[int, int]]
    closed: Callable[[Collection[int]], dict[int, int]]
    is_complete: bool

    @property
    def listening(self) -> dict[int, int]:
        """Ports by inode."""
        return {one.inode: one.local.port for one in self.tcp if one.state == LISTEN}

    @classmethod
    def read(cls, owners: SocketOwners) -> "_Sockets":
        if psutil.LINUX:
            tables = read_tcp_tables()
            tcp = [one for text in tables for one in parse_tcp(text)]
            return cls(
                tcp,
                lambda inodes, unlike: owners.find([inode for inode in inodes if inode > 0], unlike=unlike),
                lambda ports: count_waiting_by_port(tcp, set(ports)),
                lambda ports: count_closed_by_port(tables, ports),
                bool(tcp),
            )
        portable, is_complete = _read_portable_sockets()
        return cls(portable, lambda inodes, _: {pid: pid for pid in inodes}, lambda _: {}, lambda _: {}, is_complete)


def _read_portable_sockets() -> tuple[list[TcpSocket], bool]:
    """Read the sockets that psutil finds, and whether that is all: on macOS only root sees other users' sockets."""
    states = {psutil.CONN_ESTABLISHED: ESTABLISHED, psutil.CONN_CLOSE_WAIT: CLOSE_WAIT, psutil.CONN_LISTEN: LISTEN}
    is_complete = True
    try:
        connections: list[tuple[Any, Any, str, int | None]]
        connections = [(one.laddr, one.raddr, one.status, one.pid) for one in psutil.net_connections("tcp")]
    except psutil.AccessDenied:
        connections, is_complete = [], False
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                own = process.net_connections("tcp")
                connections += [(one.laddr, one.raddr, one.status, process.pid) for one in own]
    return [
        TcpSocket(_make_end(local), _make_end(remote), states[status], pid or 0)
        for local, remote, status, pid in connections
        if status in states and local
    ], is_complete


def _make_end(address: Any) -> End:
    return End(normalize_address(address[0]), address[1]) if address else End("", 0)


def _collect_names(server: ServerSample | None, facts: ServerFacts | None) -> Names:
    backends = server.backends if server is not None else ()
    users = {backend.user for backend in backends if backend.user}
    databases = {backend.database for backend in backends if backend.database}
    if facts is not None:
        users |= {role.name for role in facts.roles}
        databases |= {database.name for database in facts.databases}
    return Names(users=users, databases=databases)


def _collect_clients(titles: Iterable[BackendTitle], server: ServerSample | None) -> set[End]:
    """Collect the clients' ends of all backends' connections over TCP."""
    ends = [(title.client, title.client_port) for title in titles]
    ends += [(backend.client, backend.client_port) for backend in (server.backends if server is not None else ())]
    return {End(normalize_address(address), port) for address, port in ends if address and port and address != "local"}


def _exclude_own(
    titles: Iterable[BackendTitle],
    server: ServerSample | None,
    ends: Iterable[TcpSocket],
    unix: Mapping[int, int | None],
    owners: Mapping[int, int],
) -> tuple[BackendTitle, ...]:
    """Leave out the backend that serves poolctl, which ``server`` leaves out, too."""
    if server is None:
        return tuple(titles)
    reported = {backend.pid for backend in server.backends}
    own = {inode for inode, pid in owners.items() if pid == os.getpid()}
    ports = {one.local.port for one in ends if one.inode in own}
    backends = {unix.get(inode) for inode in own}
    return tuple(
        title for title in titles if title.pid in reported or not (title.client_port in ports or title.pid in backends)
    )


def _explain_missing(has_server: bool, is_here: bool, unnamed: int) -> str:
    missing = []
    if not has_server:
        where = (
            "could not be identified among others here, or is in a container" if is_here else "is not on this machine"
        )
        missing.append(f"the server {where}: no process titles")
    if unnamed:
        missing.append(f"{unnamed} local clients belong to processes that are hidden from this user")
    return "; ".join(missing)


def _explain(error: BaseException) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
