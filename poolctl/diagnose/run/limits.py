"""Limits that refused clients, and the arithmetic that led there: server slots, the fleet, roles, poolers.

Decides which limit was met. A refusal is never the root by itself: ``find_slots_exhausted`` comes after what filled the
slots.
"""

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import RAISE_CHILDREN, RAISE_CLIENTS, RAISE_POOL_SIZE, build_finding
from poolctl.diagnose.finding import Finding
from poolctl.diagnose.run.facts import RunFacts, find_main_error, parse_count
from poolctl.units import format_count, format_duration, plural, quote

NEAR_LIMIT = 0.5
"""Share of the usable slots at which a pool without a bound is a danger: twice the load, or one slow minute, takes
the other half (a proposal; a bounded pool may go to 80 %, as postgres_exporter's mixin has it)."""

_MEANINGS = (
    ("sorry, too many clients already", "all max_connections slots are taken, the superusers' too"),
    ("reserved for roles with privileges", "only reserved_connections and the superusers' slots are left"),
    ("remaining connection slots are reserved", "only the slots reserved for superusers are left"),
)


def find_fleet_over_budget(facts: RunFacts) -> Finding | None:
    """Report that the instances together may open more than the server can give.

    Threshold: instances x max_open, both generations during a deploy's overlap, above the usable slots, also when
    quiet: the next busy minute gets there. Certain, as the maxima are configured. Each instance has room for
    floor((usable - headroom) / instances), with a headroom of max(3, 3 %) for operators.
    """
    if facts.capacity is None or facts.scenario.database.via != "none":
        return None
    instances, ceiling = facts.instances * facts.generations, facts.capacity * facts.generations
    if ceiling <= facts.usable:
        return None
    headroom = max(3, round(0.03 * facts.usable))
    each = max(0, (facts.usable - headroom) // instances)
    refused = facts.refused_by_server
    deploy = " during the deploy" if facts.generations > 1 else ""
    outcome = f"; {plural(refused, 'connection')} refused" if refused else ", quiet so far"
    remedy = "The fleet is larger than the server: put PgBouncer in transaction mode in front."
    if each:
        mean = " on average" if facts.scenario.services else ""
        remedy = (
            f"Set max_open to {each} per instance{mean}: ({facts.usable} - {headroom}) / {instances}. If that is too "
            "little, put PgBouncer in transaction mode in front."
        )
    return build_finding(
        "fleet-over-budget",
        severity="critical" if refused else "warning",
        confidence="certain",
        summary=f"{_write_fleet(facts)} = {format_count(ceiling)} connections{deploy}, the server has {facts.usable} "
        f"to give{outcome}",
        evidence={
            "instances": instances,
            "max_open": None if facts.scenario.services else facts.max_open,
            "ceiling": ceiling,
            "usable": facts.usable,
            "headroom": headroom,
            "max_open_that_fits": each,
            "peak_open": facts.summary.connections.peak_open,
            "refused": refused,
            "threshold": "ceiling > usable",
        },
        evidence_sql=sql.SLOTS,
        remedy=remedy,
        frees=ceiling - facts.usable,
    )


def _write_fleet(facts: RunFacts) -> str:
    """Write the arithmetic of the ceiling: "6 instances x 30", or service by service."""
    if not facts.scenario.services:
        return f"{plural(facts.instances * facts.generations, 'instance')} x {facts.max_open}"
    return " + ".join(
        f"{part.name} {part.load.instances * facts.generations} x {part.pool.max_open}"
        for part in facts.scenario.services
    )


def find_unbounded_pool(facts: RunFacts) -> Finding | None:
    """Report a pool without a bound that came near the server's own.

    Threshold: max_open 0 and a peak of at least half of the usable slots. A connection for every request has no pool to
    bound; that is connection-churn.
    """
    peak = max(facts.summary.connections.peak_open, facts.server.peak_connections or 0)
    refused = facts.refused_by_server
    if facts.capacity is not None or facts.scenario.pool.kind == "none" or facts.scenario.database.via != "none":
        return None
    # What a leak took is the leak's; its remedy names the bound as well.
    if facts.lost * 2 >= peak or (peak < NEAR_LIMIT * facts.usable and not refused):
        return None
    fits = max(1, (facts.usable - max(3, round(0.03 * facts.usable))) // facts.instances)
    end = f", {plural(refused, 'connection')} refused" if refused else ""
    return build_finding(
        "oversized-pool",
        severity="critical" if refused else "warning",
        confidence="certain",
        summary=f"Nothing bounds the pool (max_open 0): it grew to {format_count(peak)} connections of {facts.usable} "
        f"usable{end}",
        evidence={
            "max_open": 0,
            "peak_open": peak,
            "average_in_use": round(facts.summary.connections.average_in_use, 2),
            "usable": facts.usable,
            "refused": refused,
            "max_open_that_fits": fits,
            "threshold": f"peak >= {NEAR_LIMIT:g} x usable",
        },
        remedy=f"Set {facts.name_setting('max_open')} to {fits} at most for each of "
        f"{plural(facts.instances, 'instance')}: then requests queue in the application instead of failing at the "
        "server.",
        frees=max(0, peak - fits * facts.instances),
    )


def find_slots_exhausted(facts: RunFacts) -> Finding | None:
    """Report that the server had no slot left for a client. Threshold: one refusal with SQLSTATE 53300.

    Certain: the client's text or the server's log names the limit. Through a pooler the text is relayed, and likely is
    the most that can be said.
    """
    refused = facts.refused_by_server
    if not refused:
        return None
    errors = facts.find_refusals("server")
    error = find_main_error(errors)
    text = f" ({quote(error.kind.message)})" if error else ""
    means = "an ordinary role finds no slot"
    if error is not None:
        means = next((meaning for words, meaning in _MEANINGS if words in error.kind.message), means)
    since = f" from {format_duration(min(e.first_at for e in errors))}" if errors else ""
    peak = facts.server.peak_connections
    return build_finding(
        "slots-exhausted",
        severity="critical",
        confidence="certain" if facts.scenario.database.via == "none" else "likely",
        summary=f"Server refused {plural(refused, 'connection')}{since}: {means}{text}",
        evidence={
            "refused": refused,
            "errors": {e.kind.message: e.count for e in errors},
            "logged_by_server": facts.server.refused,
            "max_connections": facts.server.max_connections or facts.scenario.database.max_connections,
            "usable": facts.usable,
            "peak_connections": peak,
            "threshold": "one refusal with SQLSTATE 53300",
        },
    )


def find_role_limit(facts: RunFacts) -> Finding | None:
    """Report that the role's or the database's own CONNECTION LIMIT refused. Threshold: one refusal that names it."""
    errors = facts.find_refusals("role")
    error = find_main_error(errors)
    if error is None:
        return None
    count = sum(e.count for e in errors)
    peak = facts.server.peak_connections
    room = "" if peak is None else f" while {max(0, facts.usable - peak)} of {facts.usable} server slots were free"
    return build_finding(
        "role-limit",
        severity="critical",
        confidence="certain",
        summary=f"{plural(count, 'connection')} refused{room}: {quote(error.kind.message)}",
        evidence={
            "refused": count,
            "errors": {e.kind.message: e.count for e in errors},
            "peak_connections": peak,
            "usable": facts.usable,
            "first_at": error.first_at,
            "threshold": "one refusal that names a role or a database",
        },
    )


def find_pooler_client_limit(facts: RunFacts) -> Finding | None:
    """Report that the pooler's limit on clients was met.

    PgBouncer says so (certain). Pgpool-II with every child busy says nothing and lets clients hang: openings that never
    end while as many connections as children are open (likely).
    """
    errors = facts.find_refusals("pooler-clients")
    error = find_main_error(errors)
    if error is not None:
        count, text = sum(e.count for e in errors), error.kind.message
        return _build_pooler_client_limit(
            facts, f"Pooler refused {plural(count, 'client')}: {quote(text)}", count, text
        )
    children = parse_count(facts.scenario.database.pgpool.get("num_init_children"), 32)
    last = facts.load_points[-1] if facts.load_points else None
    if facts.scenario.database.via != "pgpool" or last is None:
        return None
    hanging = last.opening + sum(e.count for e in facts.summary.errors if "timeout expired" in e.kind.message)
    if not hanging:
        return None
    if last.open - last.opening < children - parse_count(facts.scenario.database.pgpool.get("reserved_connections"), 0):
        return None
    hang = f"{plural(hanging, 'client')} {'hangs' if hanging == 1 else 'hang'} in connect without an error"
    return _build_pooler_client_limit(facts, f"Pgpool-II's {children} children are all busy: {hang}", hanging, None)


def _build_pooler_client_limit(facts: RunFacts, summary: str, clients: int, text: str | None) -> Finding:
    is_pgpool = facts.scenario.database.via == "pgpool"
    return build_finding(
        "pooler-client-limit",
        severity="critical",
        confidence="likely" if text is None else "certain",
        summary=summary,
        evidence={
            "clients": clients,
            "error": text,
            "peak_open": facts.summary.connections.peak_open,
            "server_peak_connections": facts.server.peak_connections,
            "usable": facts.usable,
            "threshold": "one refusal, or one client hanging while every child is busy",
        },
        evidence_sql=sql.PGPOOL if is_pgpool else sql.POOLER,
        remedy=RAISE_CHILDREN if is_pgpool else RAISE_CLIENTS,
    )


def find_pooler_queue(facts: RunFacts) -> Finding | None:
    """Report clients that waited inside PgBouncer for one of its server connections.

    Threshold: a query_wait_timeout, or every server connection of the pooler open (the server's own count) while
    requests did not finish. Certain in session mode, as the mode is read; otherwise likely, as SHOW POOLS was not
    read.
    """
    queue = facts.pooler_queue
    if queue is None:
        return None
    ends = f"{format_count(queue.starved)} waited"
    if queue.given_up:
        ends = f"{format_count(queue.given_up)} gave up (query_wait_timeout)"
    code, held, remedy = "pool-undersized", "busy", RAISE_POOL_SIZE
    if queue.mode == "session":
        code, held, remedy = "pooler-session-mode", "bound to one client each", ""
    elif facts.leaked:
        code, held, remedy = "pooler-pinned-transaction", "pinned by an unfinished transaction", ""
    return build_finding(
        code,
        severity="critical",
        confidence="certain" if queue.mode == "session" else "likely",
        layer="pooler",
        summary=f"PgBouncer's {queue.size} server connections are {held} ({queue.mode} mode): "
        f"{format_count(queue.clients)} clients share them, {ends}",
        evidence={
            "pool_size": queue.size,
            "pool_mode": queue.mode,
            "clients": queue.clients,
            "query_wait_timeouts": queue.given_up,
            "unfinished": queue.starved,
            "server_peak_connections": facts.server.peak_connections,
            "usable": facts.usable,
            "threshold": "a query_wait_timeout, or all server connections open and requests that did not finish",
        },
        evidence_sql=sql.POOLER,
        remedy=remedy,
        frees=min(queue.size, facts.lost) if code != "pool-undersized" else 0,
    )


def find_endless_load(facts: RunFacts) -> Finding | None:
    """Report a load that makes requests without any time passing.

    Threshold: the model cut the run off because of it, so certain.
    """
    if facts.run.cut_off != "standstill":
        return None
    summary = facts.summary
    return build_finding(
        "endless-load",
        severity="critical",
        confidence="certain",
        summary=f"The load cannot end: {plural(summary.offered, 'request')} followed each other at "
        f"{format_duration(facts.ended_at)} without any time passing",
        evidence={
            "offered": summary.offered,
            "acquired": summary.acquired,
            "hold_mean": facts.scenario.load.hold.mean,
            "think_mean": facts.scenario.load.think.mean,
            "error_pause": facts.scenario.load.error_pause,
            "threshold": "half a million events at one instant",
        },
    )


def find_endless_queue(facts: RunFacts) -> Finding | None:
    """Report that more requests came than are served and none gives up.

    Threshold: the model cut the run off because of it, so certain.
    """
    if facts.run.cut_off != "queue":
        return None
    summary = facts.summary
    return build_finding(
        "endless-queue",
        severity="critical",
        confidence="certain",
        summary=f"The queue grows for ever: {format_count(summary.offered_rate)} requests a second come, "
        f"{format_count(summary.throughput)} are served, and none of {format_count(summary.unfinished)} gives up",
        evidence={
            "offered_rate": summary.offered_rate,
            "throughput": summary.throughput,
            "unfinished": summary.unfinished,
            "wait_time_max": summary.wait_time.max,
            "threshold": "a quarter of a million requests waiting",
        },
        remedy=f"Set {facts.name_setting('acquire_timeout')}, so that requests give up before the queue is older than "
        "its answers are worth, and treat what makes them wait.",
    )
