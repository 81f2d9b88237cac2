"""Applications all of whose clients at a PgBouncer are quiet: nothing was sent in the window.

An application that leaks the connections of its own pool looks like that: no client waits in PgBouncer, and in
transaction mode not even a server connection is held.
"""

from dataclasses import dataclass

from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.tracks import STUCK_AFTER, is_tool
from poolctl.observe.snapshot import BouncerLink, BouncerSample


@dataclass(frozen=True, slots=True)
class QuietClients:
    """All clients of one application at a PgBouncer, none of which sent anything in the window."""

    name: str
    clients: tuple[BouncerLink, ...]
    now: float

    @property
    def count(self) -> int:
        return len(self.clients)

    @property
    def ages(self) -> list[float]:
        """Seconds since each of them sent something, in PgBouncer's whole seconds."""
        return [self.now - (each.requested_at or 0.0) for each in self.clients]

    @property
    def since(self) -> float:
        """Seconds since the last of them did."""
        return min(self.ages)


def find_quiet_clients(facts: LiveFacts) -> list[QuietClients]:
    """Find the applications that hold clients at a PgBouncer and send nothing, where no figures say that none waits."""
    if facts.pools and facts.count_waiting().is_known:
        return []
    samples: dict[str, list[tuple[float, BouncerSample]]] = {}
    for snapshot in facts.observation.snapshots:
        for bouncer in snapshot.bouncers:
            samples.setdefault(bouncer.target, []).append((snapshot.at, bouncer))
    found = []
    for taken in samples.values():
        (began, first), (ended, last) = taken[0], taken[-1]
        before = {(each.address, each.port, each.connected_at): each.requested_at for each in first.clients}
        groups: dict[str, list[BouncerLink]] = {}
        for client in last.clients:
            if not is_tool(client.application):
                groups.setdefault(client.application or f"user {client.user}", []).append(client)
        for name, clients in groups.items():
            are_quiet = ended > began and all(
                each.requested_at is not None
                and before.get((each.address, each.port, each.connected_at), 0.0) == each.requested_at
                for each in clients
            )
            quiet = QuietClients(name, tuple(clients), ended)
            if are_quiet and len(clients) > 1 and quiet.since > STUCK_AFTER:
                found.append(quiet)
    return found
