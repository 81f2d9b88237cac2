"""Limits of poolers that refuse clients or let them hang: PgBouncer's and Pgpool-II's own, and a pause."""

from collections import Counter
from collections.abc import Callable, Iterator

from poolctl.diagnose.finding import Confidence, Finding, Holder
from poolctl.diagnose.live.context import Case
from poolctl.diagnose.live.headroom import busy_children
from poolctl.diagnose.live.waits import BouncerQueue, number
from poolctl.diagnose.run import sql as run_sql
from poolctl.diagnose.words import plural, quote
from poolctl.observe.snapshot import BouncerLink, BouncerSample, PgpoolSample
from poolctl.units import format_duration


def pooler_client_limit(case: Case) -> Iterator[Finding]:
    """The pooler takes no more clients: max_client_conn of PgBouncer, num_init_children of Pgpool-II.

    Threshold: PgBouncer's refusal, or as many clients as max_client_conn; of Pgpool-II, clients in its listen queue
    while every child is busy. Certain: the refusal's text or both counts. Likely: the listen queue alone.
    Undetermined: it took poolctl's connection and said nothing.
    """
    refusal = case.facts.refused_by(["pooler-clients"])
    bouncers = {each.target: each for s in case.facts.observation.snapshots for each in s.bouncers}
    hit = False
    for bouncer in bouncers.values():
        most = number(bouncer.config.get("max_client_conn"))
        used = max(len(bouncer.clients), bouncer.lists.get("used_clients", 1) - 1)
        if most and used >= most:
            hit = True
            yield _client_limit(
                f"PgBouncer has {used} of {most} clients (max_client_conn) and refuses more; the database is not "
                "the limit",
                {"clients": used, "max_client_conn": most, "refusal": refusal.text if refusal else None},
                "certain",
                _clients(bouncer, lambda _: True),
                "Close clients that are not needed, or raise max_client_conn with the limit of open files (nofile) "
                "above it.",
            )
    if refusal is not None and not hit:
        yield _client_limit(
            f"The pooler refuses clients: {quote(refusal.text, 80)}; the database is not the limit",
            {"refusal": refusal.text},
            "certain" if refusal.routine is None and "max_client_conn" in refusal.text else "likely",
            (),
            "Close clients that are not needed, or raise the pooler's client limit with the limit of open files "
            "above it.",
        )
    for pgpool in case.facts.pgpools:
        yield from _pgpool_limit(pgpool)
    if not case.facts.pgpools:
        yield from _silent_pgpool(case)
    if not case.facts.looks:
        yield from _silent_listener(case)


def _pgpool_limit(pgpool: PgpoolSample) -> Iterator[Finding]:
    most, busy = pgpool.num_init_children or len(pgpool.children), busy_children(pgpool.children)
    # One child serves poolctl while it looks, and is one that clients cannot have.
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
    yield _client_limit(
        f"Pgpool-II takes no more clients: {children} and {queue} without an error",
        {"children": most or None, "busy": busy if pgpool.children else None, "waiting": pgpool.waiting},
        "certain" if all_busy else "likely" if pgpool.waiting else "undetermined",
        (),
        PGPOOL_REMEDY,
    )


PGPOOL_REMEDY = (
    "Raise num_init_children within the server's slots (num_init_children x max_pool), close idle clients "
    "(client_idle_limit), and set reserved_connections so that Pgpool-II refuses instead of letting clients hang."
)


def _silent_pgpool(case: Case) -> Iterator[Finding]:
    """Pgpool-II did not answer at all: with every child busy SHOW hangs as well, and only the queue tells."""
    failed = [each for each in case.facts.observation.sources if each.kind == "pgpool" and not each.ok]
    host = case.facts.host
    queued = sum(host.listen_queues.values()) if host is not None else 0
    if failed and queued:
        yield _client_limit(
            f"Pgpool-II does not answer and {plural(queued, 'client')} {'hangs' if queued == 1 else 'hang'} in a "
            "listen queue: all of its children are busy",
            {"waiting": queued, "reason": failed[0].reason},
            "likely",
            (),
            PGPOOL_REMEDY,
        )


def _silent_listener(case: Case) -> Iterator[Finding]:
    """Something on this machine listens where the server was named, is none, and accepts nobody: as a Pgpool-II does
    with every child busy. Always undetermined: what it is was not told."""
    host, refusal = case.facts.host, case.facts.refused_by(["unreachable"])
    if host is None or host.has_server or refusal is None:
        return
    port = number(refusal.target.partition("/")[0].rpartition(":")[2])
    queued = host.listen_queues.get(port, 0)
    if not port or not queued:
        return
    clients = [process for process in host.processes if process.pid]
    counts = Counter(process.pid for process in clients)
    by_pid = {process.pid: process for process in clients}
    yield _client_limit(
        f"What listens on port {port} accepts nobody: {plural(queued, 'connection')} in its listen queue, as before a "
        f"Pgpool-II with every child busy; {plural(len(clients), 'connection')} of processes here",
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
        PGPOOL_REMEDY,
    )


def _client_limit(
    summary: str, evidence: dict[str, object], confidence: Confidence, holders: tuple[Holder, ...], remedy: str
) -> Finding:
    return Finding(
        code="pooler-client-limit",
        severity="critical",
        confidence=confidence,
        layer="pooler",
        summary=summary,
        evidence=evidence | {"threshold": "as many clients as the limit, or a listen queue with every child busy"},
        evidence_sql=run_sql.PGPOOL if "Pgpool" in summary else run_sql.POOLER,
        holders=holders,
        remedy=remedy,
        decide_by="pcp_proc_info, or the length of its listen queue on its host (ss -ltn): it may be the network"
        if confidence == "undetermined"
        else None,
    )


def pooler_paused(queue: BouncerQueue) -> Finding:
    """``pooler-client-limit``: somebody paused the database (PAUSE), so that no client gets through. Always certain."""
    row = queue.last
    return _client_limit(
        f"PgBouncer: the database {row.database} is paused (PAUSE), and "
        f"{plural(row.clients_waiting, 'client')} of {row.user} wait for up to {format_duration(row.max_wait)}",
        {"database": row.database, "paused": True, "clients_waiting": row.clients_waiting, "max_wait": row.max_wait},
        "certain",
        _clients(queue.bouncer, lambda c: (c.user, c.database, c.state) == (row.user, row.database, "waiting")),
        f"Let it go on when what it was paused for is done: RESUME {row.database}; in PgBouncer's admin console. "
        "No pool's size has to do with it.",
    )


def _clients(bouncer: BouncerSample, are_meant: Callable[[BouncerLink], bool]) -> tuple[Holder, ...]:
    """Clients by application, user and address, the most first."""
    keys = Counter((each.application, each.user, each.address) for each in bouncer.clients if are_meant(each))
    return tuple(
        Holder(application=application or None, user=user, client=address)
        for (application, user, address), _ in keys.most_common(10)
    )
