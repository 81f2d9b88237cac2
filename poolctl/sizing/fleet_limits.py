"""The limits of a fleet: what every service, job and pooler takes of each, at every moment.

Every pool counts as full: a slow database fills all of them at the same time, so maxima are added.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from poolctl.sizing.fleet import Extra, Fleet, FleetPooler, FleetService
from poolctl.units import plural

Kind = Literal["server", "role", "database", "pooler-clients"]
Phase = Literal["usual", "peak", "deploy"]


@dataclass(frozen=True, slots=True)
class Moment:
    """``deploying`` are the services that are deployed at that moment; the others are at their peak, in "usual" as
    usual."""

    name: str
    deploying: tuple[str, ...] = ()

    def phase(self, service: FleetService) -> Phase:
        """Return the phase of a service at this moment."""
        if self.name == "usual":
            return "usual"
        return "deploy" if service.name in self.deploying else "peak"


@dataclass(frozen=True, slots=True)
class SlotShare:
    """What one service, job, monitor or pooler takes of a limit. ``connections`` None: unlimited.

    ``pools`` is the number of pools that share it, 0 for what has none. ``how`` writes the multiplication out.
    """

    who: str
    connections: int | None
    pools: int = 0
    how: str = ""


@dataclass(frozen=True, slots=True)
class LimitCheck:
    """One limit at its worst moment.

    ``limit`` is what may be taken, without the headroom; above ``hard``, with the headroom, clients are refused.
    ``usual``, ``peak`` and ``worst`` are sums of all parts; None: unlimited.
    """

    kind: Kind
    name: str
    limit: int
    hard: int
    usual: int | None
    peak: int | None
    worst: int | None
    worst_moment: str
    parts: tuple[SlotShare, ...]
    """At the worst moment, largest first."""

    @property
    def is_kept(self) -> bool:
        """Whether all parts together stay within the limit."""
        return self.worst is not None and self.worst <= self.limit

    @property
    def is_refusing(self) -> bool:
        """Whether clients can be refused."""
        return self.worst is None or self.worst > self.hard


def list_moments(fleet: Fleet) -> tuple[Moment, ...]:
    """List the moments: usual, peak, each deploy by itself, and all deploys together where that can happen."""
    names = tuple(service.name for service in fleet.services)
    single = tuple(Moment(f"deploy of {name}", (name,)) for name in names)
    together = (Moment("deploy of all", names),) if fleet.deploys == "together" and len(names) > 1 else ()
    return (Moment("usual"), Moment("peak"), *single, *together)


def check_limits(fleet: Fleet) -> Iterator[LimitCheck]:
    """Check every limit at its worst moment: of the server, of roles and databases, of the clients of poolers."""
    server = fleet.server
    yield check_limit(fleet, "server", "max_connections", server.usable - server.headroom, server.usable)
    for role in fleet.roles:
        yield check_limit(fleet, "role", role.name, role.connections, role.connections)
    for database in fleet.databases:
        yield check_limit(fleet, "database", database.name, database.connections, database.connections)
    for pooler in fleet.poolers:
        clients = pooler.max_client_conn * pooler.processes
        yield check_limit(fleet, "pooler-clients", pooler.name, clients, clients)


def check_limit(fleet: Fleet, kind: Kind, name: str, limit: int, hard: int) -> LimitCheck:
    """Add up what all clients of one limit take. ``hard`` is where they are refused, ``limit`` leaves the headroom."""
    taken = {moment.name: tuple(_list_shares(fleet, kind, name, moment)) for moment in list_moments(fleet)}
    totals = {moment: _add_up(parts) for moment, parts in taken.items()}
    worst = max(totals, key=lambda moment: as_number(totals[moment]))
    parts = sorted((part for part in taken[worst] if part.connections != 0), key=lambda p: -as_number(p.connections))
    return LimitCheck(
        kind=kind,
        name=name,
        limit=max(0, limit),
        hard=hard,
        usual=totals["usual"],
        peak=totals["peak"],
        worst=totals[worst],
        worst_moment=worst,
        parts=tuple(parts),
    )


def _list_shares(fleet: Fleet, kind: Kind, name: str, moment: Moment) -> Iterator[SlotShare]:
    for service in fleet.services:
        if _is_counted(service, kind, name):
            phase = moment.phase(service)
            how = _explain_service(fleet, service, phase)
            yield SlotShare(service.name, service.connections(phase), service.pools_at(phase), how)
    for extra in fleet.extras:
        if _is_counted(extra, kind, name) and (moment.deploying or not extra.during_deploy):
            yield SlotShare(extra.name, extra.total, how=f"{extra.at_once} x {extra.connections}")
    if kind != "pooler-clients":
        for pooler in fleet.poolers:
            opened = count_server_connections(fleet, pooler, kind, name)
            yield SlotShare(pooler.name, opened, how=_explain_pooler(fleet, pooler, kind, name) if opened else "")


def _explain_service(fleet: Fleet, service: FleetService, phase: Phase) -> str:
    """Write out instances x processes x pools x size, and mark what the file does not contain."""
    usual = service.replicas if phase == "usual" else service.max_replicas
    terms = [plural(usual, "environment" if service.deploy == "serverless" else "instance")]
    if phase == "deploy":
        for key in ("surge", "terminating"):
            count = getattr(service, key)
            mark = "assumed " if fleet.is_assumed(f"{service.name}.{key}") else ""
            terms += [f"{count} {mark}{key}"] if count else []
    instances = f"({' + '.join(terms)})" if len(terms) > 1 else terms[0]
    factors = [f"{service.processes} processes"] if service.processes > 1 else []
    factors += [f"{service.pools} pools"] if service.pools > 1 else []
    size = "unlimited" if service.size is None else f"{service.size}"
    if service.threads is not None and service.size == service.threads:
        size = plural(service.threads, "thread")
    elif fleet.is_assumed(f"{service.name}.max_open"):
        size = f"assumed {size}"
    return " x ".join([instances, *factors, size])


def _explain_pooler(fleet: Fleet, pooler: FleetPooler, kind: Kind, name: str) -> str:
    """Write out processes x pairs x size, or the limit that applies instead."""
    processes = f"{pooler.processes} processes x " if pooler.processes > 1 else ""
    if pooler.kind == "pgpool":
        return f"{processes}{pooler.max_client_conn} children x {pooler.max_pool}"
    sizes = _size_pairs(fleet, pooler, kind, name)
    opened, plain = count_server_connections(fleet, pooler, kind, name), sum(sizes.values()) * pooler.processes
    if opened < plain:
        cap = "max_db_connections" if _cap(sizes, 1, pooler.max_db_connections) * pooler.processes == opened else ""
        return f"{processes}limited by {cap or 'max_user_connections'}"
    groups: dict[int, int] = {}
    for size in sizes.values():
        groups[size] = groups.get(size, 0) + 1
    pairs = " + ".join(f"{count} {'pair' if count == 1 else 'pairs'} x {size}" for size, count in groups.items())
    return f"{processes}({pairs})" if processes and len(groups) > 1 else f"{processes}{pairs}"


def _is_counted(client: FleetService | Extra, kind: Kind, name: str) -> bool:
    if kind == "pooler-clients":
        return client.via == name
    if client.via:
        return False
    return kind == "server" or name == (client.user if kind == "role" else client.database)


def count_server_connections(fleet: Fleet, pooler: FleetPooler, kind: Kind = "server", name: str = "") -> int:
    """Return the most connections that ``pooler`` opens, in all of its processes; of one role or database if ``kind``
    says so.

    PgBouncer has a pool for each pair of user and database, with its reserve, within max_db_connections for each
    database and max_user_connections for each user. Pgpool-II opens up to num_init_children x max_pool.
    """
    sizes = _size_pairs(fleet, pooler, kind, name)
    if pooler.kind == "pgpool":
        return pooler.processes * pooler.default_pool_size if sizes else 0
    by_database = _cap(sizes, 1, pooler.max_db_connections)
    by_user = _cap(sizes, 0, pooler.max_user_connections)
    return pooler.processes * min(by_database, by_user)


def list_pairs(fleet: Fleet, pooler: FleetPooler) -> tuple[tuple[str, str], ...]:
    """List the pairs of user and database that clients of ``pooler`` use."""
    clients: tuple[FleetService | Extra, ...] = (*fleet.services, *fleet.extras)
    return tuple(dict.fromkeys((client.user, client.database) for client in clients if client.via == pooler.name))


def find_largest_database(fleet: Fleet, pooler: FleetPooler) -> int:
    """Return the most connections that one process of ``pooler`` opens to one database, without max_db_connections."""
    sums: dict[str, int] = {}
    for (_, database), size in _size_pairs(fleet, pooler, "server", "").items():
        sums[database] = sums.get(database, 0) + size
    return max(sums.values(), default=0)


def _size_pairs(fleet: Fleet, pooler: FleetPooler, kind: Kind, name: str) -> dict[tuple[str, str], int]:
    """Return the size of each pair's pool with its reserve; of one role or database if ``kind`` says so."""
    written = {(size.user, size.database): size.pool_size for size in pooler.sizes}
    return {
        pair: pooler.bound(written.get(pair, pooler.default_pool_size)) + pooler.reserve_pool_size
        for pair in list_pairs(fleet, pooler)
        if kind == "server" or name == (pair[0] if kind == "role" else pair[1])
    }


def _cap(sizes: Mapping[tuple[str, str], int], place: int, cap: int) -> int:
    sums: dict[str, int] = {}
    for pair, size in sizes.items():
        sums[pair[place]] = sums.get(pair[place], 0) + size
    return sum(min(total, cap) if cap else total for total in sums.values())


def _add_up(parts: tuple[SlotShare, ...]) -> int | None:
    known = [part.connections for part in parts if part.connections is not None]
    return sum(known) if len(known) == len(parts) else None


def as_number(connections: int | None) -> float:
    """Return infinity for None, which is unlimited."""
    return float("inf") if connections is None else connections
