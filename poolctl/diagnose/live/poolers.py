"""Queues in front of PgBouncer and Pgpool-II, and what holds their server connections.

Decides between the opposite causes of such a queue: open transactions, idle clients, a pool that is too small, a limit
on clients.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import (
    LOOK_THE_SAME,
    RAISE_CHILDREN,
    RAISE_CLIENTS,
    RAISE_POOL_SIZE,
    SLOW_EVERYTHING,
    build_finding,
)
from poolctl.diagnose.finding import Confidence, Finding, Holder
from poolctl.diagnose.live.context import RuleContext
from poolctl.diagnose.live.headroom import count_busy_children, list_client_limits
from poolctl.diagnose.live.tracks import STUCK_AFTER, Track
from poolctl.diagnose.live.usage import (
    HELD_SHARE,
    LEAST_OPENED,
    LEAST_PAUSE,
    MOSTLY_SHARE,
    SHORTEST_PAUSE,
    TRANSACTIONS_EACH,
)
from poolctl.diagnose.live.waits import BouncerQueue, parse_setting
from poolctl.observe.snapshot import BouncerLink, BouncerSample, BouncerStats, HostSample, PgpoolSample, Refusal
from poolctl.units import agree, format_count, format_duration, percent, plural, quote


def find_pooler_client_limit(context: RuleContext) -> Iterator[Finding]:
    """Report a pooler that takes no more clients: max_client_conn of PgBouncer, num_init_children of Pgpool-II.

    Threshold: PgBouncer's refusal, or as many clients as max_client_conn; of Pgpool-II, clients in its listen queue
    while every child is busy. Certain: the refusal's text or both counts. Likely: the listen queue alone. Undetermined:
    it accepted poolctl's connection and did not answer.
    """
    refusal = context.facts.find_refusal(["pooler-clients"])
    bouncers = {each.target: each for s in context.facts.observation.snapshots for each in s.bouncers}
    hit = False
    for bouncer in bouncers.values():
        for limit in list_client_limits(bouncer):
            if limit.used < limit.most:
                continue
            hit = True
            yield _build_client_limit(
                f"PgBouncer has {limit.used} of {limit.most} clients{limit.of} ({limit.setting}) and refuses more; the "
                "database is not the limit",
                {"clients": limit.used, limit.setting: limit.most, "refusal": refusal.text if refusal else None},
                "certain",
                _group_clients(bouncer, limit.counts),
                RAISE_CLIENTS.replace("max_client_conn", limit.setting),
            )
    if refusal is not None and not hit:
        yield _build_refused_client(refusal)
    for pgpool in context.facts.pgpools:
        yield from _find_full_pgpool(pgpool)
    if not context.facts.pgpools:
        yield from _find_silent_pgpool(context)
    if not context.facts.samples:
        yield from _find_silent_listener(context)


SESSION_MODE = re.compile(r"session ?mode", re.IGNORECASE)
OTHER_PORT = (
    "Connect to the pooler's port for transaction mode (6543 at Supabase): in session mode each client keeps a "
    "connection to the server for itself, so that there are no more clients than the pool has connections. Session "
    "mode is needed for LISTEN, session locks and SET only."
)


def _build_refused_client(refusal: Refusal) -> Finding:
    text = f": {quote(refusal.text, 80)}" if refusal.text else ""
    summary = f"The pooler refuses clients{text}; the database is not the limit"
    remedy = (
        "Close clients that are not needed, or raise the pooler's client limit with the limit of open files above it."
    )
    if SESSION_MODE.search(refusal.text):
        summary = (
            f"The pooler is in session mode and has as many clients as connections to the server, so it refuses more: "
            f"{quote(refusal.text, 80)}"
        )
        remedy = OTHER_PORT
    is_sure = refusal.routine is None and "max_client_conn" in refusal.text
    return _build_client_limit(summary, {"refusal": refusal.text}, "certain" if is_sure else "likely", (), remedy)


def _find_full_pgpool(pgpool: PgpoolSample) -> Iterator[Finding]:
    most, busy = pgpool.num_init_children or len(pgpool.children), count_busy_children(pgpool.children)
    # One child serves poolctl while it observes, and clients cannot have it.
    own = sum(1 for child in pgpool.children if child.is_own)
    all_busy = bool(pgpool.children) and busy + own >= most - (pgpool.reserved_connections or 0)
    # With room for poolctl, only a queue shows that there is none left for clients.
    if not (pgpool.hangs or (pgpool.waiting and (all_busy or not pgpool.children))):
        return
    queue = (
        f"{plural(pgpool.waiting, 'client')} {'hangs' if pgpool.waiting == 1 else 'hang'} in its listen queue"
        if pgpool.waiting
        else "its clients hang"
    )
    children = "all of its children are busy" if not most else f"all {most} children are busy"
    if most == 1:
        children = "its only child is busy"
    statements = Counter(each.statement for each in pgpool.connections if each.is_connected and each.statement)
    mostly = f"; mostly in {quote(statements.most_common(1)[0][0], 60)}" if statements else ""
    yield _build_client_limit(
        f"Pgpool-II takes no more clients: {children} and {queue} without an error{mostly}",
        {
            "children": most or None,
            "busy": busy if pgpool.children else None,
            "waiting": pgpool.waiting,
            "statements": dict(statements.most_common(3)) or None,
        },
        "certain" if all_busy else "likely" if pgpool.waiting else "undetermined",
        (),
        RAISE_CHILDREN,
    )


def _find_silent_pgpool(context: RuleContext) -> Iterator[Finding]:
    """Report a Pgpool-II that did not answer: with every child busy SHOW hangs as well, and only the queue shows it."""
    failed = [each for each in context.facts.observation.sources if each.kind == "pgpool" and not each.ok]
    host = context.facts.host
    queued = sum(host.listen_queues.values()) if host is not None else 0
    if failed and queued:
        yield _build_client_limit(
            f"Pgpool-II does not answer and {plural(queued, 'client')} {'hangs' if queued == 1 else 'hang'} in a "
            "listen queue: all of its children are busy",
            {"waiting": queued, "reason": failed[0].reason},
            "likely",
            (),
            RAISE_CHILDREN,
        )


def _find_silent_listener(context: RuleContext) -> Iterator[Finding]:
    """Report a listener of this machine that accepts no client where a server was named.

    A Pgpool-II with every child busy does so. Always undetermined: what the listener is, is not known.
    """
    host, refusal = context.facts.host, context.facts.find_refusal(["unreachable"])
    if host is None or host.has_server or refusal is None:
        return
    port = _parse_port(refusal.target)
    queued = host.listen_queues.get(port, 0)
    if not port or not queued:
        return
    clients = [process for process in host.processes if process.pid]
    counts = Counter(process.pid for process in clients)
    by_pid = {process.pid: process for process in clients}
    yield _build_client_limit(
        f"What listens on port {port} accepts no client: {plural(queued, 'connection')} in its listen queue, as before "
        f"a Pgpool-II with every child busy; {plural(len(clients), 'connection')} of processes here",
        {"port": port, "waiting": queued, "reason": refusal.text, "connections_from_here": len(clients)},
        "undetermined",
        tuple(
            Holder(
                application=None,
                user=None,
                client=None,
                process={"pid": pid, "command": by_pid[pid].command, "status": by_pid[pid].status},
            )
            for pid, _ in counts.most_common(10)
        ),
        RAISE_CHILDREN,
    )


def _build_client_limit(
    summary: str, evidence: dict[str, object], confidence: Confidence, holders: tuple[Holder, ...], remedy: str
) -> Finding:
    return build_finding(
        "pooler-client-limit",
        severity="critical",
        confidence=confidence,
        summary=summary,
        evidence=evidence | {"threshold": "as many clients as the limit, or a listen queue with every child busy"},
        evidence_sql=sql.PGPOOL if "Pgpool" in summary else sql.POOLER,
        holders=holders,
        remedy=remedy,
        decide_by="pcp_proc_info, or the length of its listen queue on its host (ss -ltn): it may be the network"
        if confidence == "undetermined"
        else None,
    )


def build_paused(queue: BouncerQueue) -> Finding:
    """Build ``pooler-client-limit`` for a database that was paused (PAUSE), so that no client gets through. Always
    certain."""
    row = queue.last
    return _build_client_limit(
        f"PgBouncer: the database {row.database} is paused (PAUSE), and {plural(row.clients_waiting, 'client')} of "
        f"{row.user} wait for up to {format_duration(row.max_wait)}",
        {"database": row.database, "paused": True, "clients_waiting": row.clients_waiting, "max_wait": row.max_wait},
        "certain",
        _group_clients(queue.bouncer, lambda c: (c.user, c.database, c.state) == (row.user, row.database, "waiting")),
        f"Let it go on when what it was paused for is done: RESUME {row.database}; in PgBouncer's admin console. No "
        "pool's size has to do with it.",
    )


def _group_clients(bouncer: BouncerSample, are_meant: Callable[[BouncerLink], bool]) -> tuple[Holder, ...]:
    """Group clients by application, user and address, the most first."""
    return _group_links(client for client in bouncer.clients if are_meant(client))


def _group_links(clients: Iterable[BouncerLink]) -> tuple[Holder, ...]:
    keys = Counter((each.application, each.user, each.address) for each in clients)
    return tuple(
        Holder(application=application or None, user=user, client=address)
        for (application, user, address), _ in keys.most_common(10)
    )


@dataclass(frozen=True, slots=True)
class PoolerBackends:
    """The backends of one PgBouncer pool's server connections, as far as they could be joined."""

    pinned: tuple[Track, ...]
    """Idle in a transaction for more than a second."""
    parked: tuple[Track, ...]
    """Idle outside of a transaction, and frozen for more than a second."""
    blocked: tuple[Track, ...]
    moving: tuple[Track, ...]
    is_joined: bool
    """By remote_pid; otherwise by user and database alone."""

    @property
    def count(self) -> int:
        return len(self.pinned) + len(self.parked) + len(self.blocked) + len(self.moving)


def find_behind(context: RuleContext, queue: BouncerQueue) -> PoolerBackends:
    """Find the backends behind the server connections of ``queue``."""
    facts, name = context.facts, queue.last
    pids = {
        server.remote_pid
        for server in queue.bouncer.servers
        if (server.user, server.database) == (name.user, name.database) and server.state not in ("idle", "used")
    }
    tracks = [track for pid, track in facts.by_pid.items() if pid in pids]
    is_joined = bool(tracks)
    if not is_joined:
        tracks = [t for t in facts.tracks if (t.last.user, t.last.database) == (name.user, queue.database)]
    pinned = [t for t in tracks if t.last.in_transaction and (t.age > STUCK_AFTER or _may_be_pinned(t))]
    parked = [t for t in tracks if t.is_idle and t.age > STUCK_AFTER and t.rests]
    blocked = [t for t in tracks if t.waits_for_lock]
    rest = {t.pid for t in (*pinned, *parked, *blocked)}
    moving = [t for t in tracks if t.pid not in rest]
    return PoolerBackends(tuple(pinned), tuple(parked), tuple(blocked), tuple(moving), is_joined)


def _may_be_pinned(track: Track) -> bool:
    """Return True of a backend that stayed in one transaction for as long as it was observed, in a short observation:
    its age is hidden."""
    return track.last.state_at is None and track.is_confirmed and track.age >= min(STUCK_AFTER, track.now - track.since)


def find_pooler_queues(context: RuleContext) -> Iterator[Finding]:
    """Report clients that wait in PgBouncer: for transactions that do not end, for idle clients, or for more servers.

    One code for each pool, by what its server connections do. Nothing where they wait for locks (that queue is the
    cause), or where PgBouncer has no server connection at all (the server's limits are the cause).
    """
    for queue in context.facts.queues:
        if queue.is_paused and queue.waiting.sustained:
            yield build_paused(queue)
        if not queue.waiting or queue.is_paused or not queue.is_used_up:
            continue
        found = find_behind(context, queue)
        if found.pinned:
            yield build_pinned_transaction(context, queue, found)
        elif (found.parked and 2 * len(found.parked) >= found.count) or _is_kept_idle(queue, found):
            yield build_session_mode(context, queue, found)
        elif not found.blocked and _is_too_small(context, queue, found):
            pauses = _measure_pauses(context, queue)
            if pauses.are_elsewhere:
                yield _build_held(context, queue, found, pauses)
            else:
                yield build_undersized(context, queue, found)
        elif not found.blocked and not _is_explained(context, found):
            yield _build_unobserved(context, queue, found)


def _is_explained(context: RuleContext, found: PoolerBackends) -> bool:
    return bool(context.reported & SLOW_EVERYTHING) or any(track.pid in context.explained for track in found.moving)


def _write_counts(queue: BouncerQueue) -> str:
    row = queue.last
    size = f" of {queue.size}" if queue.size else ""
    return (
        f"{row.servers_active}{size} server connections of {row.user}@{row.database} in use, "
        f"{plural(row.clients_waiting, 'client')} waiting for up to {format_duration(row.max_wait)}"
    )


def _collect_evidence(queue: BouncerQueue, found: PoolerBackends) -> dict[str, object]:
    row = queue.last
    late = Counter(client.application or "?" for client in queue.waiting_clients)
    return {
        "waiting_applications": dict(late.most_common(5)) or None,
        "servers_active": row.servers_active,
        "servers_idle": row.servers_idle,
        "pool_size": queue.size or None,
        "pool_mode": queue.mode,
        "clients_active": row.clients_active,
        "clients_waiting": row.clients_waiting,
        "max_wait": row.max_wait,
        "idle_in_transaction": len(found.pinned),
        "idle": len(found.parked),
        "waiting_for_locks": len(found.blocked),
        "moving": len(found.moving),
        "joined_by_pid": found.is_joined,
    }


def build_pinned_transaction(context: RuleContext, queue: BouncerQueue, found: PoolerBackends) -> Finding:
    """Build the finding about clients that keep server connections by transactions that they do not end.

    Threshold: a backend of the pool idle in transaction for more than a second, no server connection idle, clients
    waiting. Certain: the backends were joined by remote_pid, their states are visible, two samples found them
    unchanged, and clients wait not only for a moment.
    """
    oldest = max(track.age for track in found.pinned)
    ends = "held-across-io" in context.reported and context.explained.issuperset(track.pid for track in found.pinned)
    kept = "kept open over work elsewhere" if ends else "that have not ended"
    observed = found.is_joined and all(t.is_confirmed and not t.last.is_inferred for t in found.pinned)
    return build_finding(
        "pooler-pinned-transaction",
        severity="critical",
        confidence="certain" if observed and queue.waiting.sustained else "likely",
        summary=f"PgBouncer: {agree(len(found.pinned), 'server connection', 'are')} pinned by transactions {kept}, the "
        f"oldest idle for {format_duration(oldest)}; {_write_counts(queue)}",
        evidence=_collect_evidence(queue, found)
        | {"oldest_age": oldest, "threshold": "idle in transaction > 1 s, no server idle, clients waiting"},
        holders=context.find_holders(found.pinned),
        frees=len(found.pinned),
    )


def build_session_mode(context: RuleContext, queue: BouncerQueue, found: PoolerBackends) -> Finding:
    """Build the finding about idle clients that keep server connections, as PgBouncer's session mode promises them.

    Threshold: half or more of the pool's backends idle outside of a transaction for more than a second while PgBouncer
    counts them as active and clients wait; or, in session mode, idle in half of the samples. Certain: the mode was
    read, and so were the backends' states.
    """
    known = queue.mode is not None
    kept = (*found.parked, *found.moving) if 2 * len(found.parked) < found.count else found.parked
    observed = found.is_joined and not any(track.last.is_inferred for track in kept)
    idle = "do nothing" if len(kept) == len(found.parked) else "keep them while they are idle"
    mode = f" ({queue.mode} mode)" if known else ""
    return build_finding(
        "pooler-session-mode",
        severity="critical",
        confidence="certain" if queue.mode == "session" and observed else "likely",
        summary=f"PgBouncer{mode}: {len(kept)} server connections belong to clients that {idle}; "
        f"{_write_counts(queue)}",
        evidence=_collect_evidence(queue, found)
        | {"threshold": "servers active in PgBouncer but idle in PostgreSQL, clients waiting"},
        holders=context.find_holders(kept),
        frees=len(kept),
    )


def _is_kept_idle(queue: BouncerQueue, found: PoolerBackends) -> bool:
    """Return True if clients keep servers that they mostly do not use.

    In session mode a server belongs to its client also while that pauses between statements.
    """
    states = [row.state for track in (*found.parked, *found.moving) for _, row in track.list_rows()]
    return queue.mode == "session" and bool(states) and 2 * states.count("idle") >= len(states)


def _is_too_small(context: RuleContext, queue: BouncerQueue, found: PoolerBackends) -> bool:
    owners = [each for each in context.facts.programs if {t.pid for t in each.tracks} & {t.pid for t in found.moving}]
    filled = not queue.size or queue.last.servers >= queue.size
    return (
        queue.waiting.sustained and filled and bool(owners) and all(context.is_turning_over(owner) for owner in owners)
    )


class _Pauses(NamedTuple):
    """How transactions through a pooler pause between their statements, by its own counters. 0: not known, or none."""

    share: float
    """Of the time of the server connections in use."""
    mean: float
    """Seconds in each transaction."""

    @property
    def are_elsewhere(self) -> bool:
        """Whether something else is done in them: the measure of ``HoldPattern.is_elsewhere``."""
        is_mostly = self.share >= MOSTLY_SHARE and self.mean >= SHORTEST_PAUSE
        return self.share > HELD_SHARE and (self.mean >= LEAST_PAUSE or is_mostly)


def _measure_pauses(context: RuleContext, queue: BouncerQueue) -> _Pauses:
    """Measure the time of transactions that is no statement's, of a database that only this pool serves.

    PgBouncer counts a client's wait for a server in both, so that only the difference says something.
    """
    rows = [
        (snapshot.at, row)
        for snapshot in context.facts.observation.snapshots
        for bouncer in snapshot.bouncers
        for row in bouncer.stats
        if bouncer.target == queue.bouncer.target and row.database == queue.last.database
    ]
    alone = sum(each.last.database == queue.last.database for each in context.facts.queues) == 1
    if not alone or len(rows) < 2 or rows[-1][0] <= rows[0][0]:
        return _Pauses(0.0, 0.0)
    (began, first), (ended, last) = rows[0], rows[-1]
    count, total = last.transactions - first.transactions, last.transaction_time - first.transaction_time
    paused = max(0.0, total - (last.query_time - first.query_time))
    pausing = paused / (ended - began) / max(1, queue.last.servers_active)
    return _Pauses(min(1.0, pausing), paused / count) if count > 0 else _Pauses(0.0, 0.0)


def _build_held(context: RuleContext, queue: BouncerQueue, found: PoolerBackends, pauses: _Pauses) -> Finding:
    """Build ``held-across-io`` by a pooler's own counters: this role may not see since when the backends rest."""
    return build_finding(
        "held-across-io",
        severity="critical",
        confidence="likely",
        summary=f"Transactions through PgBouncer pause for {format_duration(pauses.mean)} on average, "
        f"{percent(pauses.share)} of the time in which they keep its server connections: {_write_counts(queue)}",
        evidence=_collect_evidence(queue, found)
        | {
            "idle_in_transaction_share": percent(pauses.share),
            "typical_pause": pauses.mean,
            "threshold": f"> {percent(HELD_SHARE)} of the time of server connections in use is no statement's, "
            f"{format_duration(LEAST_PAUSE)} or more in each ({format_duration(SHORTEST_PAUSE)} from "
            f"{percent(MOSTLY_SHARE)} on)",
        },
        evidence_sql=sql.POOLER,
        holders=context.find_holders(found.moving),
    )


def build_undersized(context: RuleContext, queue: BouncerQueue, found: PoolerBackends) -> Finding:
    """Build the finding about a pool of PgBouncer that is smaller than its work, while the server has room.

    Threshold: every server connection in use in the last sample and clients waiting in half of the samples, four in
    five backends move in the window, none is stuck or waits for a lock, and the database is not slow. Likely: what the
    server could still do was not measured. Certain: it is known that its processors are not busy.
    """
    cores, cpu = context.facts.cores, context.facts.server_cpu
    has_room = cores is not None and cpu is not None and cpu < 0.9 * cores
    return build_finding(
        "pool-undersized",
        severity="critical",
        confidence="certain" if has_room and found.is_joined and len(context.facts.samples) > 1 else "likely",
        layer="pooler",
        summary=f"PgBouncer's pool is too small for its clients: {_write_counts(queue)}, and all of them come back "
        "quickly",
        evidence=_collect_evidence(queue, found)
        | {
            "cores": cores,
            "server_cpu": cpu,
            "threshold": "no server idle, clients waiting in half of the samples, 4 backends of 5 move, none stuck",
        },
        evidence_sql=sql.POOLER,
        holders=context.find_holders(found.moving),
        remedy=RAISE_POOL_SIZE,
    )


def _build_unobserved(context: RuleContext, queue: BouncerQueue, found: PoolerBackends) -> Finding:
    """Build the finding about a queue in PgBouncer whose backends were not observed, or not for long enough."""
    holders = {}
    for client in queue.bouncer.clients:
        if (client.user, client.database) == (queue.last.user, queue.last.database) and client.link:
            key = (client.application or None, client.user, client.address)
            holders[key] = Holder(application=key[0], user=key[1], client=key[2])
    return build_finding(
        "leak-or-long-hold",
        severity="critical",
        confidence="undetermined",
        layer="pooler",
        summary=f"PgBouncer: {_write_counts(queue)}; what these connections do "
        f"{'needs a longer sample' if found.count else 'could not be observed'}",
        evidence=_collect_evidence(queue, found)
        | {"threshold": "no server connection idle, clients waiting, backends not observed"},
        evidence_sql=sql.POOLER_LINKS,
        holders=context.find_holders((*found.parked, *found.moving)) or tuple(holders.values()),
        remedy=LOOK_THE_SAME,
        decide_by=f"a longer observation ({context.facts.write_longer()}): which of them come back"
        if found.count
        else "the backends in PostgreSQL behind these connections (give poolctl the server as well)",
    )


def find_pooler_refusal(context: RuleContext) -> Iterator[Finding]:
    """Report a pooler that kept poolctl itself waiting, or could not log in to the server, with no other source to ask.

    Threshold: such a refusal, without a sample of the server or of a pooler's console, and no other cause. Always
    undetermined: from outside a pinned pool, one in session mode and one that is too small look the same.
    """
    facts = context.facts
    refusal = facts.find_refusal(["pooler-queue", "pooler-login", "pooler"])
    if refusal is None or facts.samples or facts.queues or context.reported:
        return
    if refusal.by == "pooler":
        yield _build_refused_client(refusal)
        return
    waiting = facts.count_waiting()
    others = f"; {plural(waiting.count or 0, 'client')} waiting in applications' pools" if waiting else ""
    if refusal.by == "pooler-queue":
        code, what = "pooler-pinned-transaction", "The pooler has no server connection to spare: poolctl waited in vain"
        remedy = LOOK_THE_SAME
    else:
        code, what = "slots-exhausted", "The pooler cannot log in to the server, whose slots may be used up"
        remedy = "Ask the server itself: the pooler repeats an answer that may be old (server_login_retry)."
    yield build_finding(
        code,
        severity="critical",
        confidence="undetermined",
        layer="pooler",
        summary=f"{what} ({quote(refusal.text, 60)}){others}",
        evidence={"refusal": refusal.text, "waiting": waiting.count, "threshold": "the pooler's own text"},
        evidence_sql=sql.POOLER_LINKS,
        remedy=remedy,
        decide_by="the pooler's admin console (--pgbouncer) and the server itself, past the pooler: what its "
        "connections do",
    )


LEAST_PASSING = 5
"""Clients that came and went between the samples of a few seconds."""
TIME_WAIT = 60.0
"""Seconds for which Linux keeps the port of a connection that its client closed; no setting changes it."""
LEAST_CLOSED = 120
"""Connections in that state to one port, from which they are more than a few scripts: two a second."""


@dataclass(frozen=True, slots=True)
class _PoolerChurn:
    """How often clients of a pooler connect. ``logins``: counted by PgBouncer in the window, None if it does not.

    ``passing``: clients that samples caught and that were gone by the last one. ``closed``: on this host, in TIME_WAIT.
    """

    target: str
    rate: float
    logins: int | None
    passing: tuple[BouncerLink, ...]
    closed: int
    transactions: int | None

    @property
    def is_churn(self) -> bool:
        is_often = (self.logins or 0) >= LEAST_PASSING or len(self.passing) >= LEAST_PASSING
        return self.rate >= LEAST_OPENED and (is_often or self.closed >= LEAST_CLOSED)


def find_pooler_churn(context: RuleContext) -> Iterator[Finding]:
    """Report clients that open a connection to a pooler for every few transactions: it serves them, and their machine
    runs out of ports.

    Threshold: a client a second that comes and goes, for fewer than ten transactions each, by the pooler's count of
    logins, by five that its samples caught, or by 120 connections in TIME_WAIT to its port on this host. Certain: two
    of these agree. Critical, where this machine had no port left for poolctl itself.
    """
    refusal = context.facts.find_refusal(["no-local-port"])
    if refusal is not None:
        yield _build_no_port(context, refusal)
        return
    if "connection-churn" in context.reported:
        return
    for churn in _measure_churn(context):
        if not churn.is_churn:
            continue
        counts = [len(churn.passing) >= LEAST_PASSING, churn.closed >= LEAST_CLOSED, bool(churn.logins)]
        held = f"; {format_count(churn.closed)} ports of this machine wait for their end" if churn.closed else ""
        carried = f", for {plural(churn.transactions, 'transaction')} in all" if churn.transactions is not None else ""
        yield build_finding(
            "connection-churn",
            severity="warning",
            confidence="certain" if sum(counts) > 1 else "likely",
            layer="pooler",
            summary=f"About {format_count(round(churn.rate))} clients a second connect to the pooler "
            f"{quote(churn.target, 60)} and leave again{carried}{held}",
            evidence={
                "opened_per_second": churn.rate,
                "logins": churn.logins,
                "came_and_went": len(churn.passing),
                "closed_in_last_minute": churn.closed,
                "transactions": churn.transactions,
                "threshold": f"{LEAST_OPENED:g} a second, fewer than {TRANSACTIONS_EACH} transactions each, and "
                f"{LEAST_PASSING} that came and went or {LEAST_CLOSED} in TIME_WAIT",
            },
            evidence_sql=sql.POOLER,
            holders=_group_links(churn.passing),
        )


def _measure_churn(context: RuleContext) -> Iterator[_PoolerChurn]:
    facts = context.facts
    hosts = [(s.at, s.host) for s in facts.observation.snapshots if s.host is not None]
    by_target: dict[str, list[tuple[float, BouncerSample]]] = {}
    for snapshot in facts.observation.snapshots:
        for bouncer in snapshot.bouncers:
            by_target.setdefault(bouncer.target, []).append((snapshot.at, bouncer))
    for target, samples in by_target.items():
        window = samples[-1][0] - samples[0][0]
        first, last = samples[0][1], samples[-1][1]
        passing = _find_passing([sample for _, sample in samples])
        logins = _grow(first, last, lambda row: row.logins)
        transactions = _grow(first, last, lambda row: row.transactions)
        here, closing = _measure_closed(hosts, _parse_port(target))
        rate = max(closing, len(passing) / window if window > 0 else 0.0)
        rate = logins / window if logins is not None and window > 0 else rate
        if window > 0 and transactions == 0 and not passing and not logins:
            # The ports of clients that came a moment ago wait on when none comes any more.
            continue
        if transactions is None or transactions < TRANSACTIONS_EACH * max(1.0, rate * window):
            yield _PoolerChurn(target, rate, logins, passing, here, transactions if window > 0 else None)
    if not by_target and facts.server is not None and facts.server.is_behind_pooler:
        here, closing = _measure_closed(hosts, _parse_port(facts.server.target))
        yield _PoolerChurn(facts.server.target, closing, None, (), here, None)


def _measure_closed(hosts: Sequence[tuple[float, HostSample]], port: int) -> tuple[int, float]:
    """Return the connections to ``port`` in TIME_WAIT, and how many a second come to be, at least.

    They leave after a minute, so that a rate is their number over a minute; while it still grows, the growth.
    """
    if not hosts:
        return 0, 0.0
    counts = [(at, host.closed.get(port, 0)) for at, host in hosts]
    (began, first), (ended, last) = counts[0], counts[-1]
    growth = (last - first) / (ended - began) if ended > began else 0.0
    return last, max(last / TIME_WAIT, growth)


def _find_passing(samples: Sequence[BouncerSample]) -> tuple[BouncerLink, ...]:
    """Find the clients that came after the first sample and were gone by the last one."""
    stays = {_identify(client) for sample in (samples[0], samples[-1]) for client in sample.clients}
    found = {_identify(client): client for sample in samples[1:-1] for client in sample.clients}
    return tuple(client for key, client in found.items() if key not in stays)


def _identify(client: BouncerLink) -> tuple[object, ...]:
    # PgBouncer uses the memory of a client that has left for the next one: the pointer alone says nothing.
    return client.address, client.port, client.connected_at, client.pointer


def _grow(first: BouncerSample, last: BouncerSample, count: Callable[[BouncerStats], int | None]) -> int | None:
    """Return by how much a counter grew over all databases; None where it is not counted, or began again."""
    before, after = ([count(row) for row in sample.stats] for sample in (first, last))
    if not after or None in before or None in after:
        return None
    grown = sum(value or 0 for value in after) - sum(value or 0 for value in before)
    return grown if grown >= 0 else None


def _parse_port(target: str) -> int:
    return parse_setting(target.partition("/")[0].rpartition(":")[2])


def _build_no_port(context: RuleContext, refusal: Refusal) -> Finding:
    host = context.facts.host
    closed = host.closed.get(_parse_port(refusal.target), 0) if host is not None else 0
    open_now = len(host.processes) if host is not None else 0
    where = f" to {quote(refusal.target, 60)}" if refusal.target else ""
    taken = f": {format_count(closed)} that were closed within the last minute still keep one each" if closed else ""
    if not closed and open_now:
        taken = f": {plural(open_now, 'open connection')} of processes here hold one each"
    return build_finding(
        "connection-churn",
        severity="critical",
        confidence="likely" if closed >= LEAST_CLOSED else "undetermined",
        layer="host",
        summary=f"This machine has no free port left for another connection{where}{taken}; the server was not reached",
        evidence={
            "refusal": refusal.text,
            "closed_in_last_minute": closed,
            "connections_from_here": open_now,
            "threshold": "the kernel of this machine refused to open the connection (EADDRNOTAVAIL)",
        },
        evidence_sql=None,
        holders=tuple(
            Holder(process={"pid": pid, "command": command, "status": status})
            for (pid, command, status), _ in Counter(
                (process.pid, process.command, process.status) for process in (host.processes if host else ())
            ).most_common(10)
        ),
        decide_by="which process opens them: ss -tanp on this machine, by state (time-wait, established)",
    )
