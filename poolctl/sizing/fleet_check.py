"""Whether a fleet fits its limits at every moment, by how much it exceeds them, and what to change.

Every pool counts as full: a slow database fills all of them at the same time, so maxima are added.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding, Severity
from poolctl.sizing.budget import Term
from poolctl.sizing.fleet import Extra, Fleet, FleetPooler, FleetService

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

    ``pools`` is the number of pools that share it, 0 for what has none.
    """

    who: str
    connections: int | None
    pools: int = 0


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


@dataclass(frozen=True, slots=True)
class Change:
    """Set ``key`` of ``who`` from ``now`` (None: unlimited) to ``to``."""

    who: str
    key: str
    now: int | None
    to: int


@dataclass(frozen=True, slots=True)
class FleetCheck:
    """``changes`` make every limit kept; None: no sizes do. ``arithmetic`` is about the slots of the server at the
    worst moment."""

    fleet: Fleet
    arithmetic: tuple[Term, ...]
    limits: tuple[LimitCheck, ...]
    changes: tuple[Change, ...] | None
    findings: tuple[Finding, ...]

    @property
    def is_within(self) -> bool:
        """Whether every limit is kept."""
        return all(limit.is_kept for limit in self.limits)


def check_fleet(fleet: Fleet) -> FleetCheck:
    """Check every limit of ``fleet`` at every moment, the tightest first."""
    limits = tuple(sorted(_check_limits(fleet), key=lambda limit: _count_free(limit)))
    changes = () if all(limit.is_kept for limit in limits) else _propose_changes(fleet)
    findings = tuple(_make_finding(fleet, limit, changes) for limit in limits if not limit.is_kept)
    server = next(limit for limit in limits if limit.kind == "server")
    return FleetCheck(fleet, _list_terms(fleet, server), limits, changes, findings or (_make_healthy(limits[0]),))


def list_moments(fleet: Fleet) -> tuple[Moment, ...]:
    """List the moments: usual, peak, each deploy by itself, and all deploys together where that can happen."""
    names = tuple(service.name for service in fleet.services)
    single = tuple(Moment(f"deploy of {name}", (name,)) for name in names)
    together = (Moment("deploy of all", names),) if fleet.deploys == "together" and len(names) > 1 else ()
    return (Moment("usual"), Moment("peak"), *single, *together)


def _check_limits(fleet: Fleet) -> Iterator[LimitCheck]:
    server = fleet.server
    yield _check_limit(fleet, "server", "max_connections", server.usable - server.headroom, server.usable)
    for role in fleet.roles:
        yield _check_limit(fleet, "role", role.name, role.connections, role.connections)
    for database in fleet.databases:
        yield _check_limit(fleet, "database", database.name, database.connections, database.connections)
    for pooler in fleet.poolers:
        clients = pooler.max_client_conn * pooler.processes
        yield _check_limit(fleet, "pooler-clients", pooler.name, clients, clients)


def _check_limit(fleet: Fleet, kind: Kind, name: str, limit: int, hard: int) -> LimitCheck:
    taken = {moment.name: tuple(_list_shares(fleet, kind, name, moment)) for moment in list_moments(fleet)}
    totals = {moment: _add_up(parts) for moment, parts in taken.items()}
    worst = max(totals, key=lambda moment: _as_number(totals[moment]))
    parts = sorted((part for part in taken[worst] if part.connections != 0), key=lambda p: -_as_number(p.connections))
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
            yield SlotShare(service.name, service.connections(phase), service.pools_at(phase))
    for extra in fleet.extras:
        if _is_counted(extra, kind, name) and (moment.deploying or not extra.during_deploy):
            yield SlotShare(extra.name, extra.total)
    if kind != "pooler-clients":
        for pooler in fleet.poolers:
            yield SlotShare(pooler.name, count_server_connections(fleet, pooler, kind, name))


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
    clients: tuple[FleetService | Extra, ...] = (*fleet.services, *fleet.extras)
    pairs = dict.fromkeys((client.user, client.database) for client in clients if client.via == pooler.name)
    wanted = [pair for pair in pairs if kind == "server" or name == (pair[0] if kind == "role" else pair[1])]
    if pooler.kind == "pgpool":
        return pooler.processes * pooler.default_pool_size if wanted else 0
    written = {(size.user, size.database): size.pool_size for size in pooler.sizes}
    sizes = {pair: written.get(pair, pooler.default_pool_size) + pooler.reserve_pool_size for pair in wanted}
    by_database = _cap(sizes, 1, pooler.max_db_connections)
    by_user = _cap(sizes, 0, pooler.max_user_connections)
    return pooler.processes * min(by_database, by_user)


def _cap(sizes: Mapping[tuple[str, str], int], place: int, cap: int) -> int:
    sums: dict[str, int] = {}
    for pair, size in sizes.items():
        sums[pair[place]] = sums.get(pair[place], 0) + size
    return sum(min(total, cap) if cap else total for total in sums.values())


def _add_up(parts: tuple[SlotShare, ...]) -> int | None:
    known = [part.connections for part in parts if part.connections is not None]
    return sum(known) if len(known) == len(parts) else None


def _as_number(connections: int | None) -> float:
    return float("inf") if connections is None else connections


def _count_free(limit: LimitCheck) -> float:
    return limit.limit - _as_number(limit.worst)


def _propose_changes(fleet: Fleet) -> tuple[Change, ...] | None:
    """Propose pool sizes with which every limit is kept; None if even 1 each is too many."""
    mended = fleet
    for _ in range(len(fleet.services) * 4 + 4):
        broken = next((limit for limit in _check_limits(mended) if not limit.is_kept), None)
        if broken is None:
            return tuple(
                Change(new.name, "max_open", old.max_open, new.max_open)
                for old, new in zip(fleet.services, mended.services, strict=True)
                if new.max_open is not None and new.max_open != old.max_open
            )
        sizes = _shrink_pools(mended, broken)
        if sizes is None:
            return None
        services = [replace(service, max_open=sizes.get(service.name, service.max_open)) for service in mended.services]
        mended = replace(mended, services=tuple(services))
    return None


def _shrink_pools(fleet: Fleet, limit: LimitCheck) -> dict[str, int] | None:
    """Return sizes that keep ``limit``; None where that is not possible.

    If half of its size or more is left to the largest service, only that one shrinks; otherwise all in proportion.
    """
    now = {service.name: service.max_open for service in fleet.services}
    pools = {part.who: part.pools for part in limit.parts if part.pools}
    fixed = sum(part.connections or 0 for part in limit.parts if not part.pools)
    room = limit.limit - fixed
    if sum(pools.values()) > room or not pools:
        return None
    taken = {who: pools[who] * size for who in pools if (size := now[who]) is not None}
    largest = limit.parts[0].who if limit.parts[0].pools else max(pools, key=lambda who: taken.get(who, 0))
    size = now[largest]
    if len(taken) == len(pools) or (size is None and len(taken) == len(pools) - 1):
        alone = (room - sum(value for who, value in taken.items() if who != largest)) // pools[largest]
        if alone >= 1 and (size is None or 2 * alone >= size):
            return {largest: alone}
    # An unlimited pool asks for as much as the largest of the others.
    most = max((value for value in now.values() if value is not None), default=10)
    asked = {who: pools[who] * (now[who] or most) for who in pools}
    factor = min(1.0, room / sum(asked.values()))
    sizes = {who: max(1, int((now[who] or most) * factor)) for who in pools}
    while sum(pools[who] * sizes[who] for who in pools) > room:
        sizes[max((who for who in pools if sizes[who] > 1), key=lambda who: pools[who] * sizes[who])] -= 1
    return sizes


def _list_terms(fleet: Fleet, limit: LimitCheck) -> tuple[Term, ...]:
    server = fleet.server
    terms = [
        Term("max_connections", server.max_connections, "given"),
        Term("superuser_reserved_connections", -server.superuser_reserved, "given"),
        Term("reserved_connections", -server.reserved, "given"),
        Term("headroom", -server.headroom, "given"),
    ]
    terms += [Term(part.who, -part.connections, "computed") for part in limit.parts if part.connections is not None]
    if limit.worst is not None:
        terms.append(Term("free at the worst moment", limit.limit - limit.worst, "computed"))
    return tuple(terms)


_CODES: dict[Kind, tuple[str, str]] = {
    "server": ("fleet-over-budget", "the server's slots"),
    "role": ("role-limit", "the connection limit of role {name}"),
    "database": ("role-limit", "the connection limit of database {name}"),
    "pooler-clients": ("pooler-client-limit", "the client connections of {name}"),
}


def _make_finding(fleet: Fleet, limit: LimitCheck, changes: tuple[Change, ...] | None) -> Finding:
    """Describe a limit that is not kept: critical if clients can be refused, a warning if only the headroom is used."""
    code, words = _CODES[limit.kind]
    what = words.format(name=limit.name)
    severity: Severity = "critical" if limit.is_refusing else "warning"
    unlimited = [part.who for part in limit.parts if part.connections is None]
    if unlimited:
        summary = f"{', '.join(unlimited)} can exceed {what}, {limit.limit}, at any moment: no bound on its pool"
    else:
        over = "can exceed" if limit.is_refusing else "can leave no headroom in"
        when = {"usual": "as it usually is", "peak": "at its peak"}.get(
            limit.worst_moment, f"in the {limit.worst_moment}"
        )
        summary = f"The fleet {over} {what} {when}: {limit.worst} of {limit.limit}"
    return build_finding(
        code,
        severity=severity,
        confidence="certain",
        summary=summary,
        evidence={
            "limit": limit.limit,
            "refuses_beyond": limit.hard,
            "usual": limit.usual,
            "peak": limit.peak,
            "worst": limit.worst,
            "worst_moment": limit.worst_moment,
            "parts": {part.who: part.connections for part in limit.parts},
        },
        evidence_sql={"server": sql.SLOTS, "pooler-clients": sql.POOLER}.get(limit.kind, sql.ROLE_LIMITS),
        remedy=_write_remedy(fleet, limit, changes),
    )


def _write_remedy(fleet: Fleet, limit: LimitCheck, changes: tuple[Change, ...] | None) -> str:
    if changes is None:
        pools = sum(part.pools for part in limit.parts)
        fixed = sum(part.connections or 0 for part in limit.parts if not part.pools)
        more = pools + fixed - limit.limit
        if more <= 0:
            return "No size of the pools keeps every limit at once: raise the limits that are named here"
        raised = f"raise the limit by {more} at least"
        return f"Even one connection each is too many ({pools + fixed}): put a pooler between, or {raised}"
    names = {part.who for part in limit.parts}
    wanted = [change for change in changes if change.who in names]
    sizes = "; ".join(f"{c.who}: max_open {'unlimited' if c.now is None else c.now} -> {c.to}" for c in wanted)
    how = f", or max_connections {fleet.server.max_connections + (limit.worst or 0) - limit.limit}"
    return sizes + (how if limit.kind == "server" and limit.worst is not None else "")


def _make_healthy(tightest: LimitCheck) -> Finding:
    where = _CODES[tightest.kind][1].format(name=tightest.name)
    return build_finding(
        "healthy",
        severity="info",
        confidence="certain",
        layer="application",
        summary=f"Every limit is kept; tightest are {where}: {tightest.worst} of {tightest.limit} at worst "
        f"({tightest.worst_moment})",
        evidence={"worst": tightest.worst, "limit": tightest.limit, "worst_moment": tightest.worst_moment},
        evidence_sql=None,
    )
