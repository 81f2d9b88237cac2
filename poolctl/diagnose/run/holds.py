"""Connections that came back, but late: behind locks, in long jobs, beside other work.

Decides when each of these is present. Which may explain a queue, and in what order, is decided in ``diagnose``.
"""

import re
from math import ceil, inf

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding
from poolctl.diagnose.run.facts import RunFacts, judge_waiting
from poolctl.units import format_duration, percent


def find_lock_queue(facts: RunFacts) -> Finding | None:
    """Report connections that are held by statements that wait for locks.

    Threshold: three backends waiting for locks at the end of the load, and half of the active ones. Likely, never
    certain: it is one sample, and which backend blocks which was not read.
    """
    waiting = sum(n for state, n in facts.server.states.items() if _waits_for_lock(state))
    active = facts.count_backends("active")
    if waiting < 3 or waiting * 2 < active or facts.lost:
        return None
    return build_finding(
        "lock-queue",
        severity="critical" if facts.clients_suffer else "warning",
        confidence="likely",
        summary=f"{waiting} of {active or waiting} active connections wait for locks: the pool is not the limit",
        evidence={
            "waiting_for_locks": waiting,
            "active": active,
            "server_states": dict(facts.server.states),
            "threshold": "3 backends, and half of the active ones",
        },
        frees=waiting,
    )


_LOCKS = frozenset({"advisory", "object", "relation", "transactionid", "tuple", "userlock", "virtualxid"})
"""Wait events of type Lock (PostgreSQL, wait_event_names.txt) that another session's transaction explains."""


def _waits_for_lock(state: str) -> bool:
    return not _LOCKS.isdisjoint(re.findall(r"\w+", state))


def find_long_hold(facts: RunFacts) -> Finding | None:
    """Report a few requests that hold connections for so long that others queue behind them.

    Threshold: the 99th percentile of use_time is above one second and ten times the median, while requests queue as a
    rule or time out. One such hold is not enough: an exponential tail has one by chance, its 99th percentile is 6.6
    times its median. Certain: acquires and releases were both observed.
    """
    use = facts.summary.use_time
    suffers = facts.waits_sustained or (facts.summary.timed_out and facts.was_full and facts.calm_errors)
    if not suffers or use.p99 <= max(1.0, 10 * use.p50):
        return None
    return build_finding(
        "long-hold",
        severity=judge_waiting(facts),
        confidence="certain",
        summary=f"1 % of requests hold a connection {format_duration(use.p99)} or longer (median "
        f"{format_duration(use.p50)}); the others queue, p99 wait {format_duration(facts.summary.wait_time.p99)}",
        evidence={
            "use_time_p50": use.p50,
            "use_time_p99": use.p99,
            "use_time_max": use.max,
            "wait_time_p99": facts.summary.wait_time.p99,
            "timed_out": facts.summary.timed_out,
            "threshold": "p99 of use_time > 1 s and > 10 x median, while others wait",
        },
        evidence_sql=sql.BACKENDS,
        frees=ceil(facts.summary.connections.average_in_use) if facts.max_open else 0,
    )


def find_held_across_io(facts: RunFacts) -> Finding | None:
    """Report connections held by requests that do something else meanwhile.

    Threshold: more than 30 % of the backends idle in transaction at the end of the load, with nothing leaked, while
    requests time out, or queue for long beside what a typical request works in the database. Certain when the
    statements' own time over the whole run says the same (below 70 % of the time held); likely with the one sample
    alone. The model knows how much of a hold is outside of the database.
    """
    if facts.leaked:
        return None
    idle, total = facts.count_backends("idle in transaction"), sum(facts.server.states.values())
    held = facts.summary.use_time.mean * facts.summary.released
    share = None
    if facts.run.engine == "model":
        share = 1 - min(1.0, facts.scenario.load.hold_outside.mean / (facts.scenario.load.hold.mean or inf))
    elif held > 0 and facts.server.statements:
        share = sum(statement.total_time for statement in facts.server.statements) / held
    if (share is not None and share >= 0.7) or (facts.run.engine != "model" and idle <= 0.3 * total):
        return None
    # A client waits for the work of others, and not for what they do elsewhere: long holds do not excuse long waits.
    is_late = facts.summary.timed_out and facts.calm_errors
    if not is_late and not facts.has_waits_beyond(facts.summary.use_time.p50 * (1.0 if share is None else share)):
        return None
    parts = [f"{idle} of {total} idle in transaction"] if idle else []
    parts += [] if share is None else [f"statements take {percent(share)} of the time held"]
    return build_finding(
        "held-across-io",
        severity=judge_waiting(facts),
        confidence="likely" if share is None else "certain",
        summary=f"Connections are held while the application does something else: {', '.join(parts)}",
        evidence={
            "idle_in_transaction": idle,
            "backends": total,
            "statement_share_of_use_time": share,
            "use_time_mean": facts.summary.use_time.mean,
            "wait_time_p99": facts.summary.wait_time.p99,
            "threshold": "> 30 % idle in transaction, nothing leaked, requests queue",
        },
        frees=round(
            facts.summary.connections.average_in_use * (idle / total if share is None else max(0.0, 1 - share))
        ),
    )
