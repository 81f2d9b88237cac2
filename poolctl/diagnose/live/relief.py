"""Which backends to end so that an incident is over, in which order, and which never.

Decides a plan, never an act: what frees most and loses least, with what each choice loses. Only what a decided finding
names is on it; a state alone never is ("idle" is what a healthy pool's connections are). A plan is read for minutes,
and meanwhile backends go on with their work and end: so the statement that ends a backend checks that it is still the
same one (the system uses a process id again) and still at fault.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from poolctl.diagnose.catalog import COME_BACK, RELIEF_ORDER
from poolctl.diagnose.finding import Diagnosis, Finding
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.locks import OLDER_TRANSACTION, Gate, find_gate, find_queues, stays_at_work
from poolctl.diagnose.live.tracks import Track, is_tool
from poolctl.observe.snapshot import ABORTED, IN_TRANSACTION, Backend, Observation
from poolctl.units import format_duration, plural

Action = Literal["cancel", "terminate"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to the same relief, for an operator to whom the work that it loses is cheaper."""

    pid: int
    action: Action
    application: str
    loses: str
    frees: int
    sql: str


@dataclass(frozen=True, slots=True)
class ReliefStep:
    """One backend to end, or its statement. ``frees``: slots that come free at once, with those of waiters behind it.

    ``action``: "cancel" ends the statement (pg_cancel_backend), "terminate" the session. ``loses``: the work that is
    undone. ``still``: an SQL condition on a row ``a`` of pg_stat_activity, true while the backend does what it is ended
    for. ``sql`` ends it only if it is the same backend and ``still`` holds; to paste into psql. ``alternative`` None:
    there is no other choice.
    """

    pid: int
    started_at: float
    application: str
    user: str | None
    client: str | None
    code: str
    why: str
    frees: int
    still: str
    sql: str
    action: Action = "terminate"
    loses: str = ""
    alternative: Alternative | None = None


@dataclass(frozen=True, slots=True)
class Spared:
    """Backends that the plan leaves alone, and the reason."""

    pids: tuple[int, ...]
    application: str
    user: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class ReliefPlan:
    """The steps in order, the backends that stay, and what would decide the open findings and could add steps.

    ``may_signal`` False: the role that observed may not run the plan itself. ``why_none``: why a plan without steps
    has none although something is wrong; "" otherwise.
    """

    steps: tuple[ReliefStep, ...] = ()
    spared: tuple[Spared, ...] = ()
    undecided: tuple[str, ...] = ()
    may_signal: bool = True
    why_none: str = ""

    @property
    def frees(self) -> int:
        return sum(step.frees for step in self.steps)


def plan_relief(observation: Observation, diagnosis: Diagnosis) -> ReliefPlan:
    """Plan the relief for ``diagnosis``, which was made from ``observation``. Without a decided finding there are no
    steps."""
    facts = LiveFacts(observation)
    steps: dict[int, ReliefStep] = {}
    kept: dict[int, str] = {}
    back = {pid: f.code for f in diagnosis.findings if f.code in COME_BACK for h in f.holders for pid in h.pids}
    for finding in sorted((f for f in diagnosis.findings if _may_end(f)), key=lambda f: RELIEF_ORDER[f.code]):
        if (step := _choose_waiter(facts, finding, kept)) is not None:
            steps.setdefault(step.pid, step)
            continue
        for track in _sort_oldest_first(facts, finding):
            reason = _find_reason(facts, track, finding)
            if track.pid in back and finding.code != "lock-queue":
                reason = reason or "what it does was observed to come back by itself"
            if reason is not None:
                kept.setdefault(track.pid, reason)
            elif track.pid not in steps:
                steps[track.pid] = _build_step(track, finding, facts)
    for pid, code in back.items():
        kept.setdefault(pid, f"its hold ends by itself ({code}): ending it loses a request, and frees nothing for long")
    undecided = [
        f"{f.code}: {f.decide_by}"
        for f in diagnosis.findings
        if f.confidence == "undetermined" and f.severity != "info" and f.decide_by
    ]
    return ReliefPlan(
        steps=tuple(steps.values()),
        spared=_group_spared(facts, steps, kept),
        undecided=tuple(dict.fromkeys(undecided)),
        may_signal=facts.server is not None and (facts.server.may_signal or facts.server.is_superuser),
        why_none=_explain_no_step(diagnosis) if not steps else "",
    )


def _explain_no_step(diagnosis: Diagnosis) -> str:
    """Write why nothing should be ended although a finding asks for something; "" without such a finding."""
    wrong = [finding for finding in diagnosis.findings if finding.severity != "info"]
    if any(finding.code in COME_BACK for finding in wrong):
        return "these holds end by themselves, and ending them loses requests that others would hold next"
    if any(finding.confidence == "undetermined" and finding.code in RELIEF_ORDER for finding in wrong):
        return "the cause is not decided, and what would be lost may be work that goes on"
    return ""


def _may_end(finding: Finding) -> bool:
    return finding.code in RELIEF_ORDER and finding.confidence != "undetermined"


def _sort_oldest_first(facts: LiveFacts, finding: Finding) -> list[Track]:
    pids = {pid for holder in finding.holders for pid in holder.pids}
    return sorted((t for t in facts.tracks if t.pid in pids), key=lambda track: (-track.age, track.pid))


def _choose_waiter(facts: LiveFacts, finding: Finding, kept: dict[int, str]) -> ReliefStep | None:
    """Choose the waiter whose statement is cancelled instead of the root of its lock queue; None: end the root.

    A statement that waits for the whole table has done nothing yet: cancelling it costs one more try, and lets the
    others go on. The root is ended first only where it idles in a transaction, as that frees the waiter too, unless
    that waits for others as well.
    """
    root = facts.by_pid.get(finding.evidence.get("root_pid", 0))
    if finding.code != "lock-queue":
        return None
    if not stays_at_work(root):
        gate = _find_gate(facts, finding)
        return _build_cancel(facts, finding) if gate is not None and gate.ahead > 1 else None
    step = _build_cancel(facts, finding)
    if step is None or root is None or root.last.started_at is None or not root.last.is_client:
        return step
    kept.setdefault(root.pid, f"its work is worth more than another try of pid {step.pid}, which waits for it")
    return replace(step, alternative=_take_as_alternative(_build_step(root, finding, facts)))


def _find_gate(facts: LiveFacts, finding: Finding) -> Gate | None:
    """Find the waiter that holds up the queue of ``finding``; None where none does, or only titles are known."""
    sample = facts.samples[-1]
    queues = () if facts.has_only_titles else find_queues(sample)
    queue = next((each for each in queues if each.root == finding.evidence.get("root_pid")), None)
    return find_gate(sample, queue) if queue is not None else None


def _build_cancel(facts: LiveFacts, finding: Finding) -> ReliefStep | None:
    """Build the step that cancels the waiter that holds up the queue of ``finding``; None where none does."""
    gate = _find_gate(facts, finding)
    waiter = facts.by_pid.get(gate.pid) if gate is not None else None
    if gate is None or waiter is None or _find_reason(facts, waiter, finding) is not None:
        return None
    last, started_at = waiter.last, waiter.last.started_at or 0.0
    held_up = f", and holds up {plural(len(gate.behind), 'backend')}" if gate.behind else ""
    table = f" on {last.waits_for.relation}" if last.waits_for is not None and last.waits_for.relation else ""
    # A transaction of several statements is undone as a whole.
    has_begun = None not in (last.transaction_at, last.query_at) and last.transaction_at != last.query_at
    still = f"{_compare('a.query_start', last.query_at)} and a.wait_event_type = 'Lock'"
    return ReliefStep(
        pid=gate.pid,
        started_at=started_at,
        application=last.application,
        user=last.user,
        client=last.client,
        code=finding.code,
        why=f"lock-queue: waits for a strong lock{table} for {format_duration(waiter.statement_age)}{held_up}",
        frees=1 + len(gate.behind),
        still=still,
        sql=write_ending_sql(gate.pid, started_at, still, "cancel"),
        action="cancel",
        loses="one try of a statement that only waits" + (", and what its transaction did before" if has_begun else ""),
    )


def _take_as_alternative(step: ReliefStep | None) -> Alternative | None:
    if step is None:
        return None
    return Alternative(step.pid, step.action, step.application, step.loses, step.frees, step.sql)


_AT_RISK = {
    "leak": "what the request that holds it does, if it is a long one after all",
    "leak-in-transaction": "what its open transaction changed; if it is a long request after all, that request fails",
    "pooler-pinned-transaction": "what its open transaction changed; if it is a long request, that request fails",
}
_LOSES = {
    "leak": "nothing: no code uses the connection any more",
    "leak-in-transaction": "what its open transaction changed, which no code ends",
    "pooler-pinned-transaction": "what its open transaction changed, which no client ends",
    "self-deadlock": "the request that waits for a second connection: it fails",
    "aborted-transaction": "nothing: its transaction has failed already",
    "orphaned-backends": "nothing: its client is gone",
    "frozen-clients": "what its transaction changed; the stopped process gets an error when it goes on",
    "slow-reader": "the rows that its client has not read yet",
    "stuck-protocol": "the message that its client did not finish",
}
"""What is lost with a backend, by the finding that names it."""


def _write_loss(track: Track, finding: Finding) -> str:
    if finding.code != "lock-queue":
        is_sure = finding.confidence == "certain" or finding.code not in _AT_RISK
        return (_LOSES if is_sure else _AT_RISK)[finding.code]
    age = track.now - track.last.transaction_at if track.last.transaction_at is not None else track.age
    work = f"what its transaction did in {format_duration(max(0.0, age))}"
    if is_tool(track.last.application):
        return f"{work}: {track.last.application} has to begin again"
    return f"its statement, and {work}" if track.last.is_active else work


def _find_reason(facts: LiveFacts, track: Track, finding: Finding) -> str | None:
    """Return why a backend that a finding names stays all the same; None if it does not."""
    last = track.last
    is_root = finding.code == "lock-queue"
    if is_root and finding.evidence.get("lock") == OLDER_TRANSACTION:
        return "what waits for its transaction to end keeps no other client out"
    if track.pid < 0:
        return "its process id is not known"
    if last.started_at is None:
        return "its start is not visible, so nothing proves that the process id is still its own"
    if last.state not in _STATES:
        return "its state is not visible, so nothing proves that it is still at fault"
    if facts.server is not None and last.user == facts.server.role:
        return "it belongs to the role that poolctl uses"
    if is_tool(last.application) and not is_root:
        return "it is an operator's tool"
    if last.advisory_locks and not is_root and finding.code != "self-deadlock":
        return "it holds an advisory lock, which other clients may rely on"
    if last.strong_locks and not is_root:
        return f"it holds a strong lock ({', '.join(last.strong_locks[:3])}): ending it undoes that work"
    if track.is_listening and not is_root:
        return "it listens or keeps a cursor on purpose"
    return None


def _build_step(track: Track, finding: Finding, facts: LiveFacts) -> ReliefStep:
    last = track.last
    started_at = last.started_at or 0.0
    state = f"{last.state or 'in an unknown state'} for {format_duration(track.age)}"
    waiting = finding.evidence.get("waiting_pids") if finding.code == "lock-queue" else None
    frees = 1 + (len(waiting) if isinstance(waiting, list) else 0)
    why = f"{finding.code}: {state}" + (f", {frees - 1} backends wait behind it" if frees > 1 else "")
    still = write_condition(last, finding.code)
    # An idle backend has no statement to cancel. One at work may give its locks up with the statement alone.
    action: Action = "cancel" if finding.code == "lock-queue" and last.is_active else "terminate"
    step = ReliefStep(
        pid=track.pid,
        started_at=started_at,
        application=last.application,
        user=last.user,
        client=last.client,
        code=finding.code,
        why=why,
        frees=min(frees, len(facts.tracks)),
        still=still,
        sql=write_ending_sql(track.pid, started_at, still, action),
        action=action,
        loses=_write_loss(track, finding),
    )
    if action == "cancel":
        sql = write_ending_sql(track.pid, started_at, still)
        session = replace(step, action="terminate", sql=sql, loses=f"{step.loses}, and its session")
        return replace(step, alternative=_take_as_alternative(session))
    other = _build_cancel(facts, finding) if finding.code == "lock-queue" else None
    return replace(step, alternative=_take_as_alternative(other))


_STATES = ("idle", IN_TRANSACTION, ABORTED, "active", "fastpath function call")
_WAIT_EVENTS = {"slow-reader": "ClientWrite", "stuck-protocol": "ClientRead"}
"""What a backend waits for as long as it is at fault, where its state alone does not show it."""


def write_condition(backend: Backend, code: str) -> str:
    """Write an SQL condition that is true as long as ``backend`` does what the finding ``code`` names it for.

    The head of a queue may work on: it has to be in the same transaction, and a backend has to wait for it. Any other
    must have done nothing at all since the sample. A float holds the microseconds of an instant exactly.
    """
    if code == "lock-queue":
        waits = "exists (select from pg_locks w where not w.granted and a.pid = any(pg_blocking_pids(w.pid)))"
        return f"{_compare('a.xact_start', backend.transaction_at)} and {waits}"
    parts = [f"a.state = '{backend.state}'"] if backend.state in _STATES else ["false"]
    parts += [_compare("a.state_change", backend.state_at), _compare("a.xact_start", backend.transaction_at)]
    if (event := _WAIT_EVENTS.get(code)) is not None and backend.wait_event == event:
        parts.append(f"a.wait_event = '{event}'")
    return " and ".join(parts)


def _compare(column: str, at: float | None) -> str:
    if at is None:
        return f"{column} is null"
    instant = datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="microseconds")
    return f"{column} = '{instant}'::timestamptz"


def write_ending_sql(pid: int, started_at: float, still: str, action: Action = "terminate") -> str:
    """Write SQL that ends backend ``pid`` if it started at ``started_at`` (seconds since the epoch), and ``still``.

    ``action`` "cancel": only its statement.
    """
    return (
        f"select pg_{action}_backend(a.pid) from pg_stat_activity a where a.pid = {pid} and "
        f"{_compare('a.backend_start', started_at)} and {still};"
    )


def _group_spared(facts: LiveFacts, steps: Iterable[int], kept: dict[int, str]) -> tuple[Spared, ...]:
    ended = set(steps)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for backend in facts.samples[-1].backends if facts.samples else ():
        if backend.pid in ended:
            continue
        track = facts.by_pid.get(backend.pid)
        reason = kept.get(backend.pid) or next(_list_reasons(facts, backend, track))
        groups.setdefault((backend.application, backend.user or "", reason), []).append(backend.pid)
    ordered = sorted(groups.items(), key=lambda item: (item[0][2], item[0][0], item[0][1]))
    return tuple(Spared(tuple(sorted(pids)), name, user or None, reason) for (name, user, reason), pids in ordered)


def _list_reasons(facts: LiveFacts, backend: Backend, track: Track | None) -> Iterator[str]:
    if not backend.is_client:
        kind = backend.backend_type or "background process"
        yield f"it is the server's own ({kind}) and takes no client's slot"
    if facts.server is not None and backend.user == facts.server.role:
        yield "it belongs to the role that poolctl uses"
    if is_tool(backend.application):
        yield "it is an operator's tool"
    if track is not None and track.is_on_purpose:
        yield "it listens, keeps a cursor or holds an advisory lock on purpose"
    if backend.strong_locks:
        yield "it holds a strong lock: ending it undoes that work"
    if backend.blocked_by:
        yield "it waits for a lock and goes on when the head of the queue is gone"
    if backend.state == "idle":
        yield "it is idle, as the connections of a healthy pool are"
    yield "no finding says that ending it helps"
