"""Queues in front of PgBouncer and Pgpool-II, and what holds their server connections.

Decides between the opposite causes of such a queue: open transactions, idle clients, a pool that is too small, a limit
on clients.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
from poolctl.diagnose.live.headroom import count_busy_children
from poolctl.diagnose.live.tracks import STUCK_AFTER, Track
from poolctl.diagnose.live.waits import BouncerQueue, parse_setting
from poolctl.observe.snapshot import BouncerLink, BouncerSample, PgpoolSample
from poolctl.units import format_duration, plural, quote


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
        most = parse_setting(bouncer.config.get("max_client_conn"))
        used = max(len(bouncer.clients), bouncer.lists.get("used_clients", 1) - 1)
        if most and used >= most:
            hit = True
            yield _build_client_limit(
                f"PgBouncer has {used} of {most} clients (max_client_conn) and refuses more; the database is not the "
                "limit",
                {"clients": used, "max_client_conn": most, "refusal": refusal.text if refusal else None},
                "certain",
                _group_clients(bouncer, lambda _: True),
                RAISE_CLIENTS,
            )
    if refusal is not None and not hit:
        yield _build_client_limit(
            f"The pooler refuses clients: {quote(refusal.text, 80)}; the database is not the limit",
            {"refusal": refusal.text},
            "certain" if refusal.routine is None and "max_client_conn" in refusal.text else "likely",
            (),
            "Close clients that are not needed, or raise the pooler's client limit with the limit of open files above "
            "it.",
        )
    for pgpool in context.facts.pgpools:
        yield from _find_full_pgpool(pgpool)
    if not context.facts.pgpools:
        yield from _find_silent_pgpool(context)
    if not context.facts.samples:
        yield from _find_silent_listener(context)


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
    children = f"all {most} children are busy" if most else "all of its children are busy"
    yield _build_client_limit(
        f"Pgpool-II takes no more clients: {children} and {queue} without an error",
        {"children": most or None, "busy": busy if pgpool.children else None, "waiting": pgpool.waiting},
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
    port = parse_setting(refusal.target.partition("/")[0].rpartition(":")[2])
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
    keys = Counter((each.application, each.user, each.address) for each in bouncer.clients if are_meant(each))
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
    pinned = [
        t
        for t in tracks
        if t.last.in_transaction and (t.age > STUCK_AFTER or (t.last.state_at is None and t.is_confirmed))
    ]
    parked = [t for t in tracks if t.is_idle and t.age > STUCK_AFTER and t.rests]
    blocked = [t for t in tracks if t.waits_for_lock]
    rest = {t.pid for t in (*pinned, *parked, *blocked)}
    moving = [t for t in tracks if t.pid not in rest]
    return PoolerBackends(tuple(pinned), tuple(parked), tuple(blocked), tuple(moving), is_joined)


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
    waiting. Certain: the backends were joined by remote_pid.
    """
    oldest = max(track.age for track in found.pinned)
    ends = "held-across-io" in context.reported and context.explained.issuperset(track.pid for track in found.pinned)
    kept = "kept open over work elsewhere" if ends else "that are not ended"
    return build_finding(
        "pooler-pinned-transaction",
        severity="critical",
        confidence="certain" if found.is_joined and not any(t.last.is_inferred for t in found.pinned) else "likely",
        summary=f"PgBouncer: {len(found.pinned)} server connections are pinned by transactions {kept}, the oldest idle "
        f"for {format_duration(oldest)}; {_write_counts(queue)}",
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
    states = [row.state for track in (*found.parked, *found.moving) for _, row in track.rows]
    return queue.mode == "session" and bool(states) and 2 * states.count("idle") >= len(states)


def _is_too_small(context: RuleContext, queue: BouncerQueue, found: PoolerBackends) -> bool:
    owners = [each for each in context.facts.programs if {t.pid for t in each.tracks} & {t.pid for t in found.moving}]
    filled = not queue.size or queue.last.servers >= queue.size
    return (
        queue.waiting.sustained and filled and bool(owners) and all(context.is_turning_over(owner) for owner in owners)
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
        decide_by="a longer observation (--for): which of them come back"
        if found.count
        else "the backends in PostgreSQL behind these connections (give poolctl the server as well)",
    )


def find_pooler_refusal(context: RuleContext) -> Iterator[Finding]:
    """Report a pooler that kept poolctl itself waiting, or could not log in to the server, with no other source to ask.

    Threshold: such a refusal, without a sample of the server or of a pooler's console, and no other cause. Always
    undetermined: from outside a pinned pool, one in session mode and one that is too small look the same.
    """
    facts = context.facts
    refusal = facts.find_refusal(["pooler-queue", "pooler-login"])
    if refusal is None or facts.samples or facts.queues or context.reported:
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
