"""Backends that wait for locks, and the one at the head of the queue.

Decides when a queue is trouble and which backend is its root.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, name_application
from poolctl.diagnose.live.tracks import Application, Sample, Track, is_tool, waits_for_advisory_lock
from poolctl.observe.snapshot import Backend
from poolctl.units import format_duration, plural, quote

LEAST_WAITERS = 3
DEADLOCK_TIMEOUT = 1.0
"""Seconds; PostgreSQL's own measure (deadlock_timeout) of a wait that is worth an examination."""
LEAST_ADVISORY = 5
"""Waiters for an advisory lock from which it is no queue by design, such as the stand-bys of a leader."""
MOST_QUEUES = 3


@dataclass(frozen=True, slots=True)
class LockQueue:
    """A root, which waits for no other backend, and the backends behind it. Root 0: a prepared transaction."""

    root: int
    waiters: tuple[int, ...]
    longest: float
    """Seconds that the longest of them has waited."""


def find_queues(sample: Sample) -> tuple[LockQueue, ...]:
    """Find each root with all backends behind it, the longest queue first.

    A waiter with two blockers is in both queues; a deadlock's circle has no root.
    """
    rows = {backend.pid: backend for backend in sample.blocked}
    blocked = {pid: row.blocked_by for pid, row in rows.items()}
    behind: dict[int, set[int]] = {}
    for pid in blocked:
        for root in _find_roots(pid, blocked):
            behind.setdefault(root, set()).add(pid)
    queues = [
        LockQueue(root, tuple(sorted(pids)), max(_measure_wait(rows[pid], sample.at) for pid in pids))
        for root, pids in behind.items()
    ]
    return tuple(sorted(queues, key=lambda queue: (-len(queue.waiters), queue.root)))


def _find_roots(pid: int, blocked: Mapping[int, tuple[int, ...]]) -> set[int]:
    observed, roots, open_ = {pid}, set(), [pid]
    while open_:
        for blocker in blocked.get(open_.pop(), ()):
            if blocker in observed:
                continue
            observed.add(blocker)
            if blocker in blocked:
                open_.append(blocker)
            else:
                roots.add(blocker)
    return roots


STRONG_MODES = frozenset(
    {"ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}
)
"""Modes of table locks that no SELECT, INSERT, UPDATE or DELETE takes, but what changes or maintains a table."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A backend that waits for a strong lock on a table, and meanwhile holds up weaker statements behind it."""

    pid: int
    behind: tuple[int, ...]
    """Waiters that go on at once if it stops waiting."""
    ahead: int = 1
    """How many backends outside of the queue it waits for: to end one of several frees nothing."""


def find_gate(sample: Sample, queue: LockQueue) -> Gate | None:
    """Find the waiter of ``queue`` whose request holds up most of the others; None where no waiter wants a strong lock.

    A lock queue is first come, first served: a statement that only reads waits behind one that waits for the whole
    table, although it would get along with the backend that both wait for.
    """
    rows = {backend.pid: backend for backend in sample.backends}
    gates = []
    for pid in queue.waiters:
        wait = rows[pid].waits_for
        if wait is None or wait.kind != "relation" or wait.mode not in STRONG_MODES:
            continue
        free = {pid}
        while more := {p for p in queue.waiters if p not in free and free.issuperset(rows[p].blocked_by)}:
            free |= more
        ahead = len(set(rows[pid].blocked_by).difference(queue.waiters))
        gates.append(Gate(pid, tuple(sorted(free - {pid})), ahead))
    return max(gates, key=lambda gate: (len(gate.behind), -gate.pid), default=None)


OLDER_TRANSACTION = "virtualxid"
"""What a backend waits for that only needs an older transaction to end, as CREATE INDEX CONCURRENTLY does. It keeps no
reader or writer out meanwhile."""


def stays_at_work(track: Track | None) -> bool:
    """Return True for the root of a queue whose work is dearer than a statement that can be tried again.

    A prepared transaction, a process of the server, an operator's tool such as a backup, a statement at work, or a
    transaction that goes on between the samples. What merely idles in a transaction is not.
    """
    if track is None or not track.last.is_client or is_tool(track.last.application):
        return True
    return track.last.is_active or track.is_on_purpose or track.has_moved


def _measure_wait(backend: Backend, now: float) -> float:
    since = backend.waits_for.since if backend.waits_for else None
    since = since if since is not None else backend.query_at if backend.query_at is not None else backend.state_at
    return max(0.0, now - since) if since is not None else 0.0


def find_lock_queue(context: RuleContext) -> Iterator[Finding]:
    """Report statements that wait for a lock, all of them for one backend in the end.

    Threshold: three behind the same root in two samples half a second apart, or a wait of more than deadlock_timeout (1
    s) that lasts. A row that every client changes has many waiters too, but each for milliseconds and behind another
    root from time to time: that counts only where clients wait for connections as well. Queues for advisory locks are
    by design up to four. Certain: the root's state was observed. Likely: it was inferred.
    """
    samples = context.facts.samples
    if not samples:
        return
    if context.facts.has_only_titles:
        yield from _find_by_titles(context)
        return
    reported: set[int] = set()
    for queue in find_queues(samples[-1])[:MOST_QUEUES]:
        if not reported.issuperset(queue.waiters) and _is_trouble(context, queue):
            reported.update(queue.waiters)
            yield _build_lock_queue(context, queue)


def _is_trouble(context: RuleContext, queue: LockQueue) -> bool:
    samples = context.facts.samples
    rows = {backend.pid: backend for backend in samples[-1].backends}
    clients = [pid for pid in queue.waiters if rows[pid].is_client]
    if not clients:
        return False
    pressed = bool(context.facts.count_waiting()) or context.is_full
    advisory = all(waits_for_advisory_lock(rows[pid]) for pid in queue.waiters)
    if advisory and not pressed and (len(clients) < LEAST_ADVISORY or not _heads_all(samples, queue.root)):
        return False
    # A wait that is old by the server's clock has lasted; a second sample only shows that it still does.
    if queue.longest > DEADLOCK_TIMEOUT:
        return True
    if len(clients) < LEAST_WAITERS:
        return False
    before = [sample for sample in samples[:-1] if samples[-1].at - sample.at >= 0.5]
    same = any(
        q.root == queue.root and len(q.waiters) >= LEAST_WAITERS for sample in before for q in find_queues(sample)
    )
    roots = [{q.root for q in find_queues(sample) if len(q.waiters) >= LEAST_WAITERS} for sample in samples]
    many = sum(map(bool, roots))
    takes_turns = any(queue.root not in each for each in roots if each)
    if same and not takes_turns and _root_lasts(context, queue.root):
        return True
    return pressed and many >= 0.6 * len(samples) and len(samples) > 1


TURN = 2.0
"""Seconds at the head after which the holder of an advisory lock is no worker whose turn it is."""


def _heads_all(samples: Sequence[Sample], root: int) -> bool:
    roots = [{queue.root for queue in find_queues(sample)} for sample in samples if samples[-1].at - sample.at <= TURN]
    return all(root in each for each in roots if each)


def _root_lasts(context: RuleContext, root: int) -> bool:
    """Return True if the root is in the same transaction as half a second before."""
    track = context.facts.by_pid.get(root)
    if track is None:
        return True
    starts = {(row.transaction_at, row.virtual_transaction) for at, row in track.list_rows() if track.now - at <= 1.0}
    return len(starts) == 1


def _build_lock_queue(context: RuleContext, queue: LockQueue) -> Finding:
    sample = context.facts.samples[-1]
    rows = {backend.pid: backend for backend in sample.backends}
    root, track = rows.get(queue.root), context.facts.by_pid.get(queue.root)
    waiters = [rows[pid] for pid in queue.waiters]
    locks = [w.waits_for for w in waiters if queue.root in w.blocked_by and w.waits_for is not None]
    lock = min(locks, key=lambda each: each.kind == OLDER_TRANSACTION, default=None)
    what = f" on {lock.relation}" if lock and lock.relation else f" ({lock.kind})" if lock else ""
    gate = find_gate(sample, queue)
    confidence: Confidence = "certain"
    if root is None and queue.root:
        confidence = "undetermined"
    elif root is not None and (root.is_inferred or root.is_hidden):
        confidence = "likely"
    clients = sum(1 for w in waiters if w.is_client)
    return build_finding(
        "lock-queue",
        severity="critical" if clients >= LEAST_WAITERS or context.judge_severity() == "critical" else "warning",
        confidence=confidence,
        summary=f"{plural(len(waiters), 'backend')} {'waits' if len(waiters) == 1 else 'wait'} for a lock{what} behind "
        f"{_describe_root(context, queue.root, root, sample.at)}, the longest for {format_duration(queue.longest)}",
        evidence={
            "waiting_for_locks": len(waiters),
            "root_pid": queue.root,
            "root_state": root.state if root else None,
            "longest_wait": queue.longest,
            "lock": lock.kind if lock else None,
            "mode_wanted": lock.mode if lock else None,
            "relation": lock.relation if lock else None,
            "waiting_pids": list(queue.waiters),
            "held_up_by_pid": gate.pid if gate else None,
            "threshold": f"{LEAST_WAITERS} behind one root that lasts, or a wait of more than "
            f"{format_duration(DEADLOCK_TIMEOUT)} (deadlock_timeout)",
        },
        holders=context.find_holders([track]) if track is not None else (),
        remedy=_write_wait_remedy(queue.root)
        if lock is not None and lock.kind == OLDER_TRANSACTION
        else f"{_write_queue_remedy(queue, root, track, gate)} A bigger pool only lengthens the queue.",
        frees=clients + (track is not None),
        decide_by="who the root is, as a member of pg_monitor" if confidence == "undetermined" else None,
    )


def _find_by_titles(context: RuleContext) -> Iterator[Finding]:
    """Report a lock queue of a server that refuses: its titles show which backends wait, and not for which one.

    Likely: exactly one backend idles in a transaction meanwhile. Undetermined: the root is at work, or one of several.
    """
    waiters = [track for track in context.facts.tracks if _waits_by_title(track)]
    if len(waiters) < LEAST_WAITERS:
        return
    idle = [t for t in context.facts.tracks if t.last.in_transaction and t.is_confirmed]
    confidence: Confidence = "likely" if len(idle) == 1 else "undetermined"
    guess = f", beside {plural(len(idle), 'backend')} idle in a transaction" if idle else ""
    yield build_finding(
        "lock-queue",
        severity=context.judge_severity(),
        confidence=confidence,
        summary=f"{len(waiters)} of {plural(len(context.facts.tracks), 'backend')} wait for a lock in every sample, by "
        f"their process titles{guess}",
        evidence={
            "waiting_for_locks": len(waiters),
            "seen": len(context.facts.tracks),
            "idle_in_transaction": len(idle),
            "waiting_pids": [track.pid for track in waiters],
            "threshold": f"{LEAST_WAITERS} titles that say waiting in two samples or more",
        },
        holders=context.find_holders(idle),
        frees=len(waiters) + len(idle),
        decide_by="pg_blocking_pids() from a session that can connect: a superuser's (--emergency), or when a slot is "
        "free"
        if confidence == "undetermined"
        else None,
    )


def _waits_by_title(track: Track) -> bool:
    rows = [row for _, row in track.list_rows()][-3:]
    return len(rows) >= 2 and all(row.wait_event_type == "Lock" for row in rows)


def _describe_root(context: RuleContext, pid: int, root: Backend | None, now: float) -> str:
    if pid == 0:
        return "a prepared transaction"
    if root is None:
        return f"pid {pid}, which is not visible"
    name = name_application(Application(root.application, root.user, root.database, ()))
    if not root.is_client and root.backend_type:
        name = root.backend_type
    age = f" for {format_duration(max(0.0, now - root.state_at))}" if root.state_at is not None else ""
    statement = f", last {quote(root.query, 50)}" if root.query and not root.is_hidden else ""
    return f"{name} (pid {pid}), {root.state or 'in an unknown state'}{age}{statement}"


def _write_queue_remedy(queue: LockQueue, root: Backend | None, track: Track | None, gate: Gate | None) -> str:
    """Write what costs least: to cancel a statement that can be tried again, before ending work that cannot."""
    if gate is None:
        return _write_remedy(queue.root, root)
    held_up = f", which holds up {plural(len(gate.behind), 'other')}" if gate.behind else ""
    wants = f"pid {gate.pid} wants the whole table{held_up}"
    again = "set lock_timeout for such statements and try again"
    if gate.ahead > 1:
        return (
            f"Cancel that statement (pg_cancel_backend): {wants}, and waits until {gate.ahead} open transactions have "
            f"ended; {again}."
        )
    if stays_at_work(track):
        who = f"pid {queue.root}" if queue.root else "the prepared transaction"
        return (
            f"Cancel that statement (pg_cancel_backend): {wants}; {again} when {who}, the root, is done. Ending the "
            "root instead loses its work."
        )
    return f"{_write_remedy(queue.root, root)} Or cancel the statement that waits: {wants}; {again}."


def _write_wait_remedy(root: int) -> str:
    return (
        "Let it wait: CREATE INDEX CONCURRENTLY and the like only wait until older transactions have ended, and keep "
        f"no reader or writer out meanwhile. End the root, pid {root}, only if its application left a transaction open."
    )


def _write_remedy(pid: int, root: Backend | None) -> str:
    if pid == 0:
        return "Finish it: COMMIT PREPARED or ROLLBACK PREPARED for the oldest row of pg_prepared_xacts."
    if root is None:
        return f"Find out who pid {pid} is, and end its transaction."
    if root.in_transaction:
        return (
            f"End the root, pid {pid}: its application left a transaction open. Commit or roll back on every path "
            "there; lock_timeout for migrations."
        )
    if root.is_active:
        return f"The root, pid {pid}, is at work: make its statement or its transaction shorter, or end it."
    return (
        f"The root, pid {pid}, holds the lock beyond its transaction: make its session release it, or end that session."
    )
