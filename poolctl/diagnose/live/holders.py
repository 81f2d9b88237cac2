"""Who holds connections: from the backend through the pooler to the client, its process and the route it served.

Decides which client a backend belongs to. A backend behind a pooler has the pooler's address and the pooler's process;
the client is found through the links of PgBouncer's console, or what Pgpool-II reports of its children. Where neither
is known, only the application_name is left, and no process is named rather than the pooler's.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from poolctl.diagnose.finding import Holder
from poolctl.diagnose.live.facts import POOLER_PROGRAMS, LiveFacts
from poolctl.diagnose.live.owners import find_own_addresses
from poolctl.diagnose.live.tracks import Track
from poolctl.observe.snapshot import BouncerLink, ClientProcess
from poolctl.safe_text import find_route


class BackendClient(NamedTuple):
    """The client at the far end of a backend's connection."""

    application: str | None
    user: str | None
    address: str | None
    port: int | None
    process: ClientProcess | None
    is_behind_pooler: bool


@dataclass(frozen=True)
class Clients:
    """Finds the client of a backend. Built once for a diagnosis: the joins are dictionaries, and what was found is
    kept, as several rules ask for it."""

    facts: LiveFacts
    processes: dict[int, ClientProcess]
    """By the client's port."""
    local: dict[int, ClientProcess]
    """Clients over a Unix socket, by the backend's process id."""
    links: dict[int, BouncerLink]
    """The client of each PostgreSQL backend that a PgBouncer's server connection leads to."""
    pgpool: dict[int, tuple[str | None, int | None]]
    own: frozenset[str]
    """Addresses of this machine."""
    found: dict[Track, BackendClient] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, facts: LiveFacts) -> "Clients":
        host = facts.host
        observed = host.processes if host is not None else ()
        processes = {process.port: process for process in observed if process.port}
        local = {process.backend_pid: process for process in observed if process.backend_pid is not None}
        links: dict[int, BouncerLink] = {}
        for bouncer in {queue.bouncer.target: queue.bouncer for queue in facts.queues}.values():
            clients = {client.pointer: client for client in bouncer.clients if client.pointer}
            backwards = {client.link: client for client in bouncer.clients if client.link}
            for server in bouncer.servers:
                client = clients.get(server.link) or backwards.get(server.pointer)
                if client is not None and server.remote_pid is not None:
                    links[server.remote_pid] = client
        connections = [connection for pgpool in facts.pgpools for connection in pgpool.connections]
        pgpool = {each.backend_pid: (each.client, each.client_port) for each in connections if each.is_connected}
        own = find_own_addresses(facts.tracks, processes)
        return cls(facts, processes, local, links, pgpool, own)

    def find_client(self, track: Track) -> BackendClient:
        client = self.found.get(track)
        if client is None:
            client = self.found[track] = self._find_client(track)
        return client

    def _find_client(self, track: Track) -> BackendClient:
        backend, pid = track.last, track.pid
        link = self.links.get(pid)
        if link is not None:
            application = link.application or backend.application
            process = self._find_process(link.address, link.port)
            return BackendClient(application, link.user or backend.user, link.address, link.port, process, True)
        if pid in self.pgpool:
            address, port = self.pgpool[pid]
            return BackendClient(
                backend.application, backend.user, address, port, self._find_process(address, port), True
            )
        process = self.local.get(pid) or self._find_process(backend.client, backend.client_port)
        if process is not None and is_pooler(process):
            return BackendClient(backend.application, backend.user, None, None, None, True)
        return BackendClient(backend.application, backend.user, backend.client, backend.client_port, process, False)

    def _find_process(self, address: str | None, port: int | None) -> ClientProcess | None:
        if port is None or port <= 0:
            return None
        return self.processes.get(port) if address in self.own else None


RELAYS = (
    "haproxy",
    "envoy",
    "nginx",
    "traefik",
    "socat",
    "stunnel",
    "ssh",
    "docker-proxy",
    "rootlessport",
    "kubectl",
    "cloud-sql-proxy",
    "cloud_sql_proxy",
)
"""Programs that pass on the connections of others, who are not known."""


def is_pooler(process: ClientProcess) -> bool:
    """Return True for a process that only passes connections on: a pooler, a load balancer or a tunnel."""
    program = process.command.split(" ", 1)[0].rpartition("/")[2]
    return program.rstrip(":").startswith((*POOLER_PROGRAMS, *RELAYS))


def find_holders(clients: Clients, tracks: Iterable[Track]) -> tuple[Holder, ...]:
    """Group the backends by who holds them, the most first: application, user, address, process and route.

    ``client`` has the port where one client holds all of a group. ``last_query`` is the one that most of them ran last.
    """
    groups: dict[tuple[object, ...], list[tuple[Track, BackendClient]]] = {}
    for track in sorted(tracks, key=lambda track: track.pid):
        client = clients.find_client(track)
        pid = client.process.pid if client.process else None
        key = (client.application, client.user, client.address, pid, find_route(track.last.query or ""))
        groups.setdefault(key, []).append((track, client))
    ordered = sorted(groups.values(), key=lambda members: (-len(members), members[0][0].pid))
    return tuple(_build_holder(members) for members in ordered)


def _build_holder(members: Sequence[tuple[Track, BackendClient]]) -> Holder:
    track, client = members[0]
    queries = Counter(each.last.query for each, _ in members if each.last.query and not each.last.is_hidden)
    ports = {each.port for _, each in members}
    address = client.address
    if client.is_behind_pooler and address is not None and len(ports) == 1 and client.port:
        address = f"{address}:{client.port}"
    process = client.process
    return Holder(
        application=client.application,
        user=client.user,
        client=address,
        pids=tuple(each.pid for each, _ in members),
        process={"pid": process.pid, "command": process.command, "status": process.status} if process else None,
        route=find_route(track.last.query or ""),
        last_query=queries.most_common(1)[0][0] if queries else None,
    )
