"""Why working connections were not enough: a self-deadlock, a small pool, reopening, a client without time.

Decides when each is present. Their remedies are opposite, so each rule first checks whether another one explains the
wait better; in what order is decided in ``diagnose``.
"""

from itertools import pairwise
from math import ceil, sqrt

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.run.facts import RunFacts, classify_refusal, find_main_error, judge_waiting
from poolctl.diagnose.slow_database import BUSY_SHARE
from poolctl.units import format_count, format_duration, plural, quote


def find_self_deadlock(facts: RunFacts) -> Finding | None:
    """Report requests that hold one connection and wait for another, as all other holders do.

    Threshold: several connections per request, a pool below threads x (connections each - 1) + 1 (HikariCP, About Pool
    Sizing), and a stall: every connection in use, requests waiting, and no acquire for ten typical holds, one second at
    least. Certain when the stall lasted to the end or came twice (batches one timeout apart).
    """
    summary, threads = facts.summary, facts.threads
    each = facts.scenario.load.connections_per_request
    if each < 2 or facts.capacity is None or facts.lost:
        return None
    floor = None if threads is None else threads * (each - 1) + 1
    if floor is not None and facts.max_open >= floor:
        return None
    # Requests that are done leave none in the queue: in a closed loop only a stall outlives the drain.
    stuck = threads is not None and facts.is_stuck and not facts.exhausted_by_event
    stalls = _find_stalls(facts)
    if not stalls and not stuck:
        return None
    since = facts.exhausted_at if stuck or not stalls else stalls[0][0]
    safe = max(1, (facts.max_open - 1) // (each - 1))
    bound = "Arrivals have no bound here; allow" if floor is None else f"Until then max_open {floor} or more, or"
    when = "" if since is None else f" at {format_duration(since)}"
    return build_finding(
        "self-deadlock",
        severity="critical",
        confidence="certain" if stuck or len(stalls) > 1 else "likely",
        summary=f"Pool deadlocked with itself{when}: all {facts.max_open} held by requests that wait for "
        f"another{_write_unserved(facts)}",
        evidence={
            "connections_per_request": each,
            "threads": threads,
            "max_open": facts.max_open,
            "floor": floor,
            "requests_that_fit": safe,
            "stalls": [[start, end] for start, end in stalls],
            "unfinished": summary.unfinished,
            "timed_out": summary.timed_out,
            "threshold": "max_open < threads x (connections_per_request - 1) + 1, and no acquire for ten holds",
        },
        remedy=f"Pass the connection down instead of acquiring a second one. {bound} at most {plural(safe, 'request')} "
        "at once for each instance.",
        frees=summary.connections.in_use if stuck else facts.capacity,
    )


def _find_stalls(facts: RunFacts) -> list[tuple[float, float]]:
    """Find the stretches in which every connection was in use, requests waited and none was acquired, as (start,
    end)."""
    long_enough = max(1.0, 10 * facts.scenario.load.hold.mean)
    # A request whose acquire times out gives its others back: a stall then lasts one timeout and no longer.
    if facts.scenario.pool.acquire_timeout:
        long_enough = min(long_enough, 0.8 * facts.scenario.pool.acquire_timeout)
    stalls: list[tuple[float, float]] = []
    start: float | None = None
    for before, point in pairwise(facts.load_points):
        is_stalled = point.acquired == before.acquired and point.waiting > 0 and point.in_use >= (facts.capacity or 0)
        if is_stalled and start is None:
            start = before.at
        elif not is_stalled and start is not None:
            stalls.append((start, before.at))
            start = None
    if start is not None:
        stalls.append((start, facts.load_points[-1].at))
    return [(start, end) for start, end in stalls if end - start >= long_enough and facts.find_event(start) is None]


def find_pool_undersized(facts: RunFacts) -> Finding | None:
    """Report that the pool is the limit: requests queue as a rule, nothing is lost, and the server has time to spare.

    Threshold: a pool was full, and requests queued in a quarter of the samples for long (p95 of the waits above a
    typical hold, or their median above half of one; of nested acquires the hold without the waits), or were
    refused, or were still queued at the end. A burst that drained is no finding. The size is the measured concurrency a
    plus 2 x sqrt(a) (square-root staffing); a closed loop needs no more than its requests can hold. Certain when the
    server's processors were at most half busy; likely where that was not measured.
    """
    summary = facts.summary
    never_drained = facts.is_stuck and summary.unfinished and not facts.exhausted_by_event
    late = facts.waits_sustained or (summary.timed_out and facts.calm_errors) or never_drained
    if not facts.was_full or facts.lost or facts.refused_by_server or not late:
        return None
    concurrency, size = _estimate_needed(facts)
    at_demand = None
    if facts.cpu_share is not None and summary.connections.average_in_use > 0:
        at_demand = facts.cpu_share * concurrency * facts.instances / summary.connections.average_in_use
    idle = facts.cpu_share is not None and facts.cpu_share <= 0.5 and (at_demand or 0) <= BUSY_SHARE
    error = find_main_error(summary.errors)
    wait = f", p99 wait {format_duration(summary.wait_time.p99)}" if facts.queues else ""
    return build_finding(
        "pool-undersized",
        severity=judge_waiting(facts),
        confidence="certain" if idle else "likely",
        summary=f"Pool too small: {facts.max_open} connections, {_format_digits(concurrency)} wanted at "
        f"once{wait}{_write_unserved(facts)}",
        evidence={
            "max_open": facts.max_open,
            "instances": facts.instances,
            "concurrency": concurrency,
            "max_open_that_fits": size,
            "offered_rate": summary.offered_rate,
            "use_time_mean": summary.use_time.mean,
            "wait_time_p99": summary.wait_time.p99,
            "timed_out": summary.timed_out,
            "unfinished": summary.unfinished,
            "server_cpu": facts.server.cpu,
            "server_cores": facts.server.cores,
            "server_cpu_share_at_demand": at_demand,
            "usable": facts.usable,
            "error": error.kind.message if error else None,
            "threshold": "queued on 25 % of the samples, p95 above a typical hold or the median above half of one, or "
            "timed out, or never drained",
        },
        remedy=_write_bigger_pool(facts, concurrency, size, at_demand),
    )


def _write_unserved(facts: RunFacts) -> str:
    """Write which requests got no connection, for the end of a summary."""
    summary, parts = facts.summary, ""
    if summary.timed_out:
        parts += f", {format_count(summary.timed_out)} {'timed out' if facts.queues else 'rejected'}"
    if summary.unfinished:
        parts += f", {format_count(summary.unfinished)} still waiting"
    return parts


def _write_bigger_pool(facts: RunFacts, concurrency: float, size: int, at_demand: float | None) -> str:
    total = size * facts.instances
    if total * facts.generations > facts.usable and facts.scenario.database.via == "none":
        return (
            f"{size} for each instance would do, but {total} are more than the server's {facts.usable} slots: hold "
            "connections for a shorter time, or put PgBouncer in transaction mode in front."
        )
    peaks = ", the rest is for peaks" if size > concurrency else ""
    remedy = f"Set {facts.name_setting('max_open')} to about {size} "
    remedy += f"for each instance: {_format_digits(concurrency)} are wanted on "
    remedy += f"average{peaks}. That is {total} of the server's {facts.usable} slots."
    if (at_demand or 0) > BUSY_SHARE:
        remedy += " The server's processors become the limit on the way: grow in steps and measure."
    return remedy


def _estimate_needed(facts: RunFacts) -> tuple[float, int]:
    """Estimate the connections wanted at once by one instance, and the max_open that serves them.

    Offered rate x mean use time is Little's law for a load that is not held up. A closed loop is held up by its own
    waits, so its demand is taken from the requests under way: threads x hold / (hold + think).
    """
    summary, load, threads = facts.summary, facts.scenario.load, facts.threads
    use = summary.use_time.mean
    wanted = summary.offered_rate * use / facts.instances
    most = None
    if threads is not None:
        most = threads * load.connections_per_request
        pause = load.think.mean if load.workers else 0.0
        wanted = min(max(wanted, most * use / (use + pause) if use + pause > 0 else 0.0), most)
    size = _compute_staffing(wanted)
    if size <= facts.max_open:
        # The mean does not explain the queue: a peak does.
        peak = max((point.in_use + point.waiting for point in facts.load_points), default=0)
        size = max(facts.max_open + 1, ceil(peak / facts.instances))
    return wanted, size if most is None else max(1, min(size, max(most, facts.max_open + 1)))


def _compute_staffing(concurrency: float) -> int:
    """Return the connections that serve ``concurrency`` on average with few waits: a + 2 x sqrt(a), one at least."""
    return max(1, ceil(concurrency + 2 * sqrt(concurrency)))


def find_connection_churn(facts: RunFacts) -> Finding | None:
    """Report connections that are opened over and over.

    Threshold: more than one opening in ten acquires beyond the first fill, ten at least, that cost 1 % of the time
    connections are used or more. Reopening after a restart is not counted. Certain: both are counters of the whole run.
    """
    summary, load = facts.summary, facts.scenario.load
    connections, connect = summary.connections, summary.connect_time
    counted = summary.duration / (load.warmup + summary.duration) if summary.duration > 0 else 1.0
    again = max(0, connections.opened - connections.peak_open * facts.generations - connections.closed.error)
    again = round(again * counted)
    use = summary.use_time.mean * summary.acquired
    cost = connect.mean * again
    if again < 10 or again <= 0.1 * summary.acquired or (connect.count and cost < 0.01 * use):
        return None
    kind, keep = (
        facts.scenario.pool.kind,
        facts.max_open or _compute_staffing(connections.average_in_use / facts.instances),
    )
    why, remedy = _explain_closing(facts, keep)
    saved = f"{format_duration(connect.mean)} each, {format_duration(cost)} in all" if connect.count else "time unknown"
    return build_finding(
        "connection-churn",
        severity="critical" if kind == "none" and facts.refused_by_server and not facts.lost else "warning",
        confidence="certain",
        summary=f"{format_count(connections.opened)} openings for {format_count(summary.acquired)} acquires ({saved}): "
        f"{why}",
        evidence={
            "opened": connections.opened,
            "opened_again": again,
            "acquired": summary.acquired,
            "connect_time_mean": connect.mean,
            "connect_time_total": cost,
            "share_of_use_time": cost / use if use > 0 else None,
            "closed": {name: getattr(connections.closed, name) for name in connections.closed.__slots__},
            "max_idle": facts.scenario.pool.max_idle,
            "max_open": facts.max_open,
            "threshold": "> 1 opening in 10 acquires beyond the first fill, costing >= 1 % of use time",
        },
        remedy=remedy,
        frees=max(0, connections.peak_open - keep * facts.instances) if kind == "none" else 0,
    )


def _explain_closing(facts: RunFacts, keep: int) -> tuple[str, str]:
    """Return why connections were closed again, and what keeps ``keep`` of them open."""
    if facts.scenario.pool.kind == "none":
        return "every request opens its own", f"Use a pool: {keep} connections for each instance carry this load."
    closed = facts.summary.connections.closed
    reasons = {name: getattr(closed, name) for name in ("max_idle", "max_idle_time", "max_lifetime", "other")}
    worst, number = max(reasons.items(), key=lambda item: item[1])
    if worst in ("max_lifetime", "max_idle_time"):
        remedy = f"Raise {facts.name_setting(worst)}; 30 minutes is a common lifetime, 5 minutes a common idle time."
        return f"{worst} closed {format_count(number)}", remedy
    same = "the same as max_open" if facts.max_open else "and max_open as well"
    named = f"max_idle {facts.scenario.pool.max_idle}" if worst == "max_idle" else worst
    return (
        f"{named} closed {format_count(number)}",
        f"Set {facts.name_setting('max_idle')} to {keep}, {same}: what comes back is kept.",
    )


def find_client_starved(facts: RunFacts) -> Finding | None:
    """Report acquires that failed although the pool had room: the cause is outside of the connections.

    Threshold: an acquire that failed with an error that names no limit, or that timed out or never ended while no pool
    was ever full, with no event to explain it and no other finding. Likely where the generator is known to have run out
    of processor time; else undetermined, since the same figures fit a server that cannot be reached.
    """
    summary, pool = facts.summary, facts.scenario.pool
    explained = sum(e.count for e in facts.find_refusals("server", "role", "pooler-clients", "pooler-queue"))
    failed = summary.failed + max(0, summary.refused - explained)
    count = failed + (0 if facts.was_full else summary.timed_out + summary.unfinished)
    if not count or facts.lost or (facts.scenario.events and not facts.calm_errors):
        return None
    error = find_main_error(error for error in summary.errors if classify_refusal(error.kind) is None)
    text = f": {quote(error.kind.message)}" if error else ""
    starved = facts.run.generator is not None and facts.run.generator.bound_by and not failed
    confidence: Confidence = "likely" if starved else "undetermined"
    remedy = _REACH_IT if error is not None and error.kind.message == "Connection refused" else ""
    room = f"{format_count(summary.connections.peak_in_use)} of {facts.capacity or 'unlimited'} in use at most"
    why = "for a reason that is no limit" if facts.was_full else f"although the pool had room ({room})"
    patience, connect = pool.acquire_timeout, summary.connect_time.p99
    if not failed and patience is not None and connect >= patience:
        why = f"since connecting takes {format_duration(connect)} and they wait {format_duration(patience)}"
        remedy, confidence = _KEEP_OPEN, "likely"
    return build_finding(
        "client-starved",
        severity="critical",
        confidence=confidence,
        summary=f"{plural(count, 'acquire')} got nothing {why}{text}",
        evidence={
            "timed_out": summary.timed_out,
            "refused": summary.refused,
            "failed": summary.failed,
            "unfinished": summary.unfinished,
            "peak_in_use": summary.connections.peak_in_use,
            "max_open": facts.max_open,
            "connect_time_p99": connect,
            "acquire_timeout": patience,
            "error": error.kind.message if error else None,
            "threshold": "one failed acquire with a free connection at hand",
        },
        evidence_sql=sql.SLOTS,
        remedy=remedy,
        decide_by=None
        if confidence == "likely"
        else "the server's log: whether the connections arrived, and what it says",
    )


_REACH_IT = (
    "Find out from the server's log whether it still runs and why it ended: nothing listens where the clients connect. "
    "The pool's size is not the cause."
)
_KEEP_OPEN = "Set acquire_timeout above the time that connecting takes, and keep connections open (min_idle, max_idle)."


def _format_digits(value: float) -> str:
    return format_count(round(value, 1))
