"""The check of a fleet: whether it fits its limits at every moment, by how much not, and what to change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding, Severity, worst_first
from poolctl.sizing.budget import FigureSource, Term
from poolctl.sizing.fleet import Fleet, FleetPooler, FleetService
from poolctl.sizing.fleet_changes import (
    Change,
    apply_changes,
    find_client_limit,
    find_database_cap,
    propose_changes,
)
from poolctl.sizing.fleet_limits import (
    Kind,
    LimitCheck,
    as_number,
    check_limits,
    find_largest_database,
    list_pairs,
)
from poolctl.units import plural


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
    """Check every limit of ``fleet`` at every moment, the tightest first, and the pools against their threads."""
    limits = tuple(sorted(check_limits(fleet), key=lambda limit: limit.limit - as_number(limit.worst)))
    broken = [limit for limit in limits if not limit.is_kept]
    misfits = [service for service in fleet.services if service.threads not in (None, service.max_open)]
    changes = propose_changes(fleet) if broken or misfits else ()
    findings = [_make_finding(fleet, limit, changes) for limit in broken]
    findings += [_compare_threads(service, changes) for service in misfits]
    if all(finding.severity == "info" for finding in findings):
        findings.insert(0, _make_healthy(limits[0]))
    findings += [_report_unlimited(fleet, pooler, changes) for pooler in fleet.poolers if _is_unlimited(fleet, pooler)]
    findings += [found for pooler in fleet.poolers for found in _report_unlimited_pools(fleet, pooler, changes)]
    server = next(limit for limit in limits if limit.kind == "server")
    return FleetCheck(fleet, _list_terms(fleet, server), limits, changes, worst_first(findings))


def _list_terms(fleet: Fleet, limit: LimitCheck) -> tuple[Term, ...]:
    server = fleet.server

    def source(key: str) -> FigureSource:
        return "assumed" if fleet.is_assumed(f"server.{key}") else "given"

    terms = [
        Term("max_connections", server.max_connections, source("max_connections")),
        Term("superuser_reserved_connections", -server.superuser_reserved, source("superuser_reserved")),
        Term("reserved_connections", -server.reserved, source("reserved")),
        Term("headroom", -server.headroom, source("headroom")),
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
    missing = _find_deciding_assumptions(fleet, limit)
    return build_finding(
        code,
        severity=severity,
        confidence="likely" if missing else "certain",
        summary=summary,
        evidence={
            "limit": limit.limit,
            "refuses_beyond": limit.hard,
            "usual": limit.usual,
            "peak": limit.peak,
            "worst": limit.worst,
            "worst_moment": limit.worst_moment,
            "parts": {part.who: part.connections for part in limit.parts},
            **({"decided_by_assumed": missing} if missing else {}),
        },
        evidence_sql={"server": sql.SLOTS, "pooler-clients": sql.POOLER}.get(limit.kind, sql.ROLE_LIMITS),
        remedy=_write_remedy(fleet, limit, changes),
    )


def _find_deciding_assumptions(fleet: Fleet, limit: LimitCheck) -> list[str]:
    """Return the names of assumed values without which ``limit`` would be kept, or would not refuse a client."""
    if limit.kind == "server" and fleet.is_assumed("server.max_connections"):
        return ["server.max_connections"]
    services = tuple(
        replace(
            service,
            surge=0 if fleet.is_assumed(f"{service.name}.surge") else service.surge,
            terminating=0 if fleet.is_assumed(f"{service.name}.terminating") else service.terminating,
        )
        for service in fleet.services
    )
    written = next(
        found
        for found in check_limits(replace(fleet, services=services))
        if (found.kind, found.name) == (limit.kind, limit.name)
    )
    if written.is_refusing or (not limit.is_refusing and not written.is_kept):
        return []
    parts = [part.who for part in limit.parts]
    names = [f"{who}.{key}" for who in parts for key in ("surge", "terminating")]
    return [name for name in names if fleet.is_assumed(name)]


def _write_remedy(fleet: Fleet, limit: LimitCheck, changes: tuple[Change, ...] | None) -> str:
    if changes is None:
        return _write_impossible(fleet, limit)
    names = {part.who for part in limit.parts}
    steps = [_write_change(change) for change in changes if _is_for(change, limit)]
    if limit.kind != "server":
        wider = find_client_limit(fleet, limit)
        is_raised = any(change.key == "max_client_conn" for change in changes if _is_for(change, limit))
        instead = "" if wider is None or is_raised else f", or {_write_change(wider)}"
        return "; ".join(steps) + instead
    caps = [
        f"{pooler.name}: max_db_connections {cap} (now unlimited)"
        for pooler in fleet.poolers
        if pooler.name in names and (cap := find_database_cap(fleet, pooler)) is not None
    ]
    if limit.worst is not None:
        caps.append(f"max_connections {fleet.server.max_connections + limit.worst - limit.limit}")
    first = "; or instead of these: " if len(steps) > 1 and caps else ", or " if caps else ""
    return "; ".join(steps) + first + ", or ".join(caps)


def _is_for(change: Change, limit: LimitCheck) -> bool:
    """Return True if ``change`` helps to keep ``limit``."""
    if change.key == "max_client_conn":
        return limit.kind == "pooler-clients" and limit.name == change.who
    return any(part.who == change.who for part in limit.parts)


def _write_change(change: Change) -> str:
    where = f" of {change.where}" if change.where else ""
    return f"{change.who}: {change.key}{where} {'unlimited' if change.now is None else change.now} -> {change.to}"


def _write_impossible(fleet: Fleet, limit: LimitCheck) -> str:
    """Explain why no size of the pools helps: how many connections remain with one in each pool."""
    poolers = {pooler.name: len(list_pairs(fleet, pooler)) * pooler.processes for pooler in fleet.poolers}
    least = sum(part.pools or poolers.get(part.who, part.connections or 0) for part in limit.parts)
    more = least - limit.limit
    if more <= 0:
        return "No size of the pools keeps every limit at once: raise the limits that are named here"
    raised = f"raise the limit by {more} at least"
    between = "put a pooler between, or " if limit.kind == "server" and any(part.pools for part in limit.parts) else ""
    return f"Even one connection for each pool is too many ({least}): {between}{raised}"


def _compare_threads(service: FleetService, changes: tuple[Change, ...] | None) -> Finding:
    """Describe a pool that is not as large as the number of threads that keep a connection of it."""
    threads, size = service.threads or 0, service.max_open
    steps = "; ".join(_write_change(change) for change in changes or () if change.who == service.name)
    evidence = {"threads": threads, "max_open": size}
    if size is not None and size < threads:
        return build_finding(
            "pool-undersized",
            severity="warning",
            confidence="certain",
            summary=f"{threads} threads of {service.name} share a pool of {size}: as each thread keeps its connection, "
            f"{threads - size} of them {'waits and times' if threads - size == 1 else 'wait and time'} out",
            evidence=evidence,
            remedy=steps or f"{service.name}: as many connections as threads, or {size} threads",
            evidence_sql=None,
        )
    unused = "has no limit" if size is None else f"has {plural(size, 'connection')}"
    users = "one thread never uses" if threads == 1 else f"{threads} threads never use"
    return build_finding(
        "oversized-pool",
        severity="info",
        confidence="certain",
        summary=f"The pool of {service.name} {unused}, and its {users} more than {threads}",
        evidence=evidence,
        remedy=steps or f"{service.name}: max_open {threads}",
        evidence_sql=None,
    )


def _is_unlimited(fleet: Fleet, pooler: FleetPooler) -> bool:
    """Return True if nothing but the number of pairs of user and database limits the connections of ``pooler``."""
    has_limit = pooler.kind == "pgpool" or pooler.max_db_connections or pooler.max_user_connections
    return not has_limit and bool(list_pairs(fleet, pooler))


def _report_unlimited_pools(fleet: Fleet, pooler: FleetPooler, changes: tuple[Change, ...] | None) -> Iterator[Finding]:
    """Report pools of PgBouncer whose size is 0, which is unlimited since 1.24, unless a change bounds them already."""
    written = {(size.user, size.database): size.pool_size for size in pooler.sizes}
    pairs = [pair for pair in list_pairs(fleet, pooler) if not written.get(pair, pooler.default_pool_size)]
    has_limit = pooler.max_db_connections or pooler.max_user_connections
    if pooler.kind == "pgpool" or not pairs or has_limit or any(change.who == pooler.name for change in changes or ()):
        return
    pools = plural(len(pairs), "pool")
    yield build_finding(
        "oversized-pool",
        severity="warning",
        confidence="certain",
        layer="pooler",
        summary=f"{pools} of {pooler.name} {'has' if len(pairs) == 1 else 'have'} no size (0 is unlimited since "
        f"PgBouncer 1.24): up to one server connection for each of {pooler.max_client_conn} clients",
        evidence={"pools": len(pairs), "max_client_conn": pooler.max_client_conn},
        remedy=f"{pooler.name}: default_pool_size (pool_size) as the server's cores can use, or max_db_connections",
        evidence_sql=None,
    )


def _report_unlimited(fleet: Fleet, pooler: FleetPooler, changes: tuple[Change, ...] | None) -> Finding:
    """Recommend a limit for all pairs together: a new user or database opens a pool of its own."""
    each = pooler.bound(pooler.default_pool_size) + pooler.reserve_pool_size
    return build_finding(
        "oversized-pool",
        severity="info",
        confidence="certain",
        layer="pooler",
        summary=f"{pooler.name} has no max_db_connections (0 is unlimited): each further pair of user and database "
        f"opens up to {plural(each * pooler.processes, 'connection')} more",
        evidence={
            "max_db_connections": 0,
            "pairs": len(list_pairs(fleet, pooler)),
            "pool_size_of_each": each,
            "processes": pooler.processes,
        },
        remedy=f"{pooler.name}: max_db_connections {_choose_database_cap(fleet, pooler, changes)}",
        evidence_sql=None,
    )


def _choose_database_cap(fleet: Fleet, pooler: FleetPooler, changes: tuple[Change, ...] | None) -> int | str:
    """Return the max_db_connections that lets each process use what its present pairs may, within the server's slots.

    Where that alone does not suffice, it goes with ``changes``.
    """
    cap = find_database_cap(fleet, pooler)
    if cap is None:
        if not changes:
            return "as many as the server has slots for it"
        fleet = apply_changes(fleet, changes)
        pooler = next(changed for changed in fleet.poolers if changed.name == pooler.name)
        cap = find_database_cap(fleet, pooler)
    present = find_largest_database(fleet, pooler)
    return present if cap is None else min(present, cap)


def _make_healthy(tightest: LimitCheck) -> Finding:
    where = _CODES[tightest.kind][1].format(name=tightest.name)
    return build_finding(
        "healthy",
        severity="info",
        confidence="certain",
        layer="application",
        summary=f"Every limit is kept, the tightest with {tightest.worst} of {tightest.limit} at worst "
        f"({tightest.worst_moment}): {where}",
        evidence={"worst": tightest.worst, "limit": tightest.limit, "worst_moment": tightest.worst_moment},
        remedy="Nothing. Check again when a pool, a number of instances or a limit changes",
        evidence_sql=None,
    )
