"""Connections that did not come back: leaks by shape, lost slots, holds longer than the run.

Decides their words and urgency. The simulator knows what it leaked, so these findings are certain; what they report is
what the pool and the server showed. No leak needs a bigger pool, so none of them recommends one.
"""

from typing import Any, NamedTuple

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import DELAYS, build_finding, find
from poolctl.diagnose.finding import Confidence, Finding, Severity
from poolctl.diagnose.run.facts import RunFacts, count_held, find_main_error
from poolctl.units import format_count, format_duration, percent, plural, quote


class _Shape(NamedTuple):
    code: str
    are: str
    """Completes "30 of 30 in use are ..."."""
    remedy: str
    sql: str


_SHAPES = {
    "forgotten": _Shape(
        "leak",
        "leaked",
        "Release on every path: finally, with, defer.",
        sql.BACKENDS,
    ),
    "in-transaction": _Shape(
        "leak-in-transaction",
        "leaked inside a transaction",
        "Commit or roll back and release on every path: finally, with, defer. Until that is deployed, "
        "idle_in_transaction_session_timeout on the application's role ends them; it also drops their locks.",
        sql.TRANSACTIONS,
    ),
    # A slow-reader still reads: a cursor or an earlier release helps it. Here no client reads and none will release, so
    # the code is leak, with slow-reader's evidence.
    "unread-rows": _Shape(
        "leak",
        "leaked with rows unread",
        "Read the result to its end or close it on every path (rows.Close, with cursor), then release.",
        sql.UNREAD,
    ),
    "dropped-reference": _Shape(
        "leak",
        "leaked (dropped, but the pool still counts them)",
        "Never drop a connection: give it back on every path (putconn in finally, or with).",
        sql.BACKENDS,
    ),
    # From outside, a hold without a release is leak-or-long-hold. The scenario says that the holder is at work.
    "long-hold": _Shape(
        "long-hold",
        "long holds that outlast the run",
        "Release before the slow work, or give long jobs a small pool of their own and count it as taken for good. On "
        "a live system this looks like a leak until the first release: watch for longer than the longest job.",
        sql.BACKENDS,
    ),
}


def find_leak(facts: RunFacts) -> Finding | None:
    """Report connections leaked by the scenario that are still held.

    Threshold: one, since the simulator counts them itself. Critical once clients got nothing or waited because of it;
    before that a warning with the time that is left. None where garbage collection gave every dropped connection back
    (SQLAlchemy).
    """
    shape = _SHAPES[facts.leak.shape]
    if not facts.leaked or (facts.leak.shape == "dropped-reference" and not facts.lost):
        return None
    if facts.leak.shape == "dropped-reference" and _is_only_slots(facts):
        return None
    severity = _judge_severity(facts)
    remedy = f"{shape.remedy} {DELAYS}"
    if not facts.max_open:
        remedy += " Bound the pool (max_open) as well: then a leak stops one instance and not the server."
    if facts.leak.shape != "in-transaction" and facts.count_backends("idle in transaction") * 2 > facts.lost > 0:
        remedy += " The server shows them idle in transaction: they also hold locks and keep vacuum from cleaning up."
    return build_finding(
        shape.code,
        severity=severity,
        confidence="certain",
        layer="application",
        summary=_write_sentence(facts, severity, shape.are),
        evidence=_collect_evidence(facts),
        evidence_sql=shape.sql,
        remedy=remedy,
        frees=facts.lost,
    )


def find_pool_slots_lost(facts: RunFacts) -> Finding | None:
    """Report a pool that counts connections that the server does not have.

    psycopg_pool loses the slot of a connection that is dropped without putconn; other pools lose slots when a backend
    in use dies. Threshold: fewer server connections than the pool counts. Certain with both counts; likely where the
    server was not observed, for a library that is known for it.
    """
    dropped = facts.leaked > 0 and facts.leak.shape == "dropped-reference"
    if dropped:
        if not facts.lost or not _is_only_slots(facts):
            return None
        lost, cause = facts.lost, "dropped without being given back"
    else:
        event = next((e for e in facts.scenario.events if e.do in ("restart", "failover")), None)
        orphans = facts.summary.connections.in_use - count_held(facts.summary)
        # Requests of the warm-up are in the pool's counts and not in the run's: the difference would mean nothing.
        if event is None or facts.leaked or facts.scenario.load.warmup or orphans <= 0 or not facts.missing:
            return None
        lost = min(orphans, facts.missing)
        cause = f"lost in the {event.do} at {format_duration(event.at)}"
    confidence: Confidence = "likely" if facts.server_connections is None else "certain"
    severity = _judge_severity(facts)
    server = (
        "" if facts.server_connections is None else f", the server has {plural(facts.server_connections, 'connection')}"
    )
    return build_finding(
        "pool-slots-lost",
        severity=severity,
        confidence=confidence,
        summary=_write_sentence(facts, severity, f"lost slots{server}", lost),
        evidence=_collect_evidence(facts, lost) | {"cause": cause},
        remedy=f"The slots were {cause}. {find('pool-slots-lost').remedy}",
        frees=lost,
    )


def _is_only_slots(facts: RunFacts) -> bool:
    """Return True if the server's side of the dropped connections is gone, and everything but the pool's slot with
    it."""
    if facts.server_connections is None:
        return facts.scenario.pool.kind == "psycopg_pool"
    return facts.missing * 2 >= facts.lost > 0


def _judge_severity(facts: RunFacts) -> Severity:
    summary = facts.summary
    unserved = summary.timed_out or summary.refused or summary.unfinished or facts.refused_by_server
    # Behind a pooler the pool's own slots may last while the pooler's do not.
    return "critical" if unserved or facts.is_stuck or facts.pooler_queue else "warning"


def _write_sentence(facts: RunFacts, severity: Severity, are: str, lost: int | None = None) -> str:
    """Write the run's first line: exhausted when, by what, and which requests got nothing."""
    lost = facts.lost if lost is None else lost
    count = f"{format_count(lost)} of {format_count(facts.summary.connections.in_use)} in use are {are}"
    if facts.refused_by_server:
        refused = facts.find_refusals("server")
        first = min((error.first_at for error in refused), default=None)
        when = "" if first is None else f" at {format_duration(first)}"
        error = find_main_error(refused)
        text = f" ({quote(error.kind.message)})" if error else " (53300)"
        who = f"{plural(facts.refused_by_server, 'connection')} refused{text}"
        return f"Server out of slots{when}: {count}, {who}"
    after = "".join(f", {part}" for part in _list_victims(facts))
    if facts.is_stuck and facts.exhausted_at is not None:
        pools, when = facts.stuck_pools, format_duration(facts.exhausted_at)
        who = "Pool" if facts.instances == 1 else f"{pools} of {facts.instances} pools"
        return f"{who} exhausted at {when} and never recovered: {count}{after}"
    if severity == "critical":
        return f"Connections do not come back: {count}{after}"
    return (
        f"Connections do not come back: {count} after {format_duration(facts.load_until)}{_write_forecast(facts, lost)}"
    )


def _list_victims(facts: RunFacts) -> list[str]:
    summary, victims = facts.summary, []
    if summary.timed_out:
        error = find_main_error(e for e in summary.errors if e.kind.origin == "pool")
        text = f" ({quote(error.kind.message)})" if error else ""
        victims.append(f"{format_count(summary.timed_out)} {'timed out' if facts.queues else 'rejected'}{text}")
    if summary.unfinished:
        victims.append(f"{format_count(summary.unfinished)} waiting")
    return victims


def _estimate_time_left(facts: RunFacts, lost: int) -> float | None:
    """Estimate the seconds until the leak has every slot, at the rate of this run.

    Of the pools, or of the server where the pools have no bound. None: at this rate never.
    """
    room = facts.capacity if facts.capacity is not None else facts.usable
    if not lost or facts.summary.duration <= 0 or room <= lost:
        return None
    return (room - lost) * facts.summary.duration / lost


def _write_forecast(facts: RunFacts, lost: int) -> str:
    left = _estimate_time_left(facts, lost)
    if left is None:
        return ""
    where = f"all {facts.capacity} slots" if facts.capacity is not None else f"the server's {facts.usable} slots"
    return f"; at this rate {where} are gone {format_duration(left)} later"


def _collect_evidence(facts: RunFacts, lost: int | None = None) -> dict[str, Any]:
    summary = facts.summary
    lost = facts.lost if lost is None else lost
    error = find_main_error(e for e in summary.errors if e.kind.origin in ("pool", "server", "pooler"))
    return {
        "leaked": facts.leaked,
        "lost": lost,
        "in_use": summary.connections.in_use,
        "max_open": facts.max_open,
        "instances": facts.instances,
        "usable": facts.usable,
        "shape": facts.leak.shape,
        "leaked_share": percent(min(1.0, facts.leaked / summary.acquired)) if summary.acquired else percent(0),
        "exhausted_at": facts.exhausted_at,
        "exhausted_by": "server slots" if facts.refused_by_server else "pool limit" if facts.is_stuck else None,
        "stuck_pools": facts.stuck_pools,
        "timed_out": summary.timed_out,
        "refused": facts.refused_by_server,
        "unfinished": summary.unfinished,
        "error": error.kind.message if error else None,
        "time_to_exhaustion": None if facts.is_stuck else _estimate_time_left(facts, lost),
        "server_sessions": facts.server_connections,
        "server_states": dict(facts.server.states),
        "threshold": "one connection that was acquired and never released",
    }
