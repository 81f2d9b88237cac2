"""An observation of live systems in, a diagnosis out: worst finding first, and a root before its effects.

Decides which rules may report together. A leak, a self-deadlock, a lock, a slow database and a small pool all show a
full pool, and their remedies are opposite: the rules run in the order in which one of them explains a backend away from
the next, and the one that asks for a bigger pool runs last. What each rule needs is left to the rules.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil

from poolctl.diagnose.catalog import MAY_HEAD_LOCKS, NEED_NO_PRIVILEGE, REST_ON_POOLS
from poolctl.diagnose.finding import SEVERITIES, Concurrency, Diagnosis, Finding, Group, reaches
from poolctl.diagnose.live.advice import (
    find_evidence_unread,
    find_no_safety_net,
    find_oversized_pool,
    find_partial_view,
)
from poolctl.diagnose.live.backends import (
    find_aborted_transaction,
    find_frozen_clients,
    find_frozen_peers,
    find_orphaned_backends,
    find_slow_reader,
    find_stuck_protocol,
)
from poolctl.diagnose.live.context import Rule, RuleContext
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.fetch import name_next_step
from poolctl.diagnose.live.guarded import name_acquire_lines
from poolctl.diagnose.live.health import judge_health
from poolctl.diagnose.live.holds import find_held_across_io, find_self_deadlock
from poolctl.diagnose.live.leaks import (
    find_idle_holds,
    find_leak_in_transaction,
    find_opening_beside_idle,
    find_standing_still,
)
from poolctl.diagnose.live.limits import (
    find_fleet_over_budget,
    find_handshake_pile_up,
    find_role_limit,
    find_slots_exhausted,
    find_slots_low,
)
from poolctl.diagnose.live.lives import find_connection_per_request
from poolctl.diagnose.live.load import find_connection_churn, find_reconnect_storm, find_slow_database
from poolctl.diagnose.live.locks import find_lock_queue
from poolctl.diagnose.live.logs import (
    find_filling_pool,
    find_logged_acquire_timeouts,
    find_logged_churn,
    find_logged_leaks,
    find_logged_lock_queue,
    find_logged_queue_timeouts,
    find_logged_refusals,
    find_logged_starvation,
)
from poolctl.diagnose.live.most_held import find_most_held
from poolctl.diagnose.live.poolers import (
    find_pooler_churn,
    find_pooler_client_limit,
    find_pooler_queues,
    find_pooler_refusal,
)
from poolctl.diagnose.live.pools import (
    find_backends_beyond_pool,
    find_client_starved,
    find_pool_slots_lost,
    find_pool_undersized,
    find_unexplained_wait,
    find_waiting_unexplained,
)
from poolctl.diagnose.live.silence import find_falling_silent, find_silent_clients
from poolctl.diagnose.live.tracks import Track, Tracker
from poolctl.observe.snapshot import Observation
from poolctl.units import plural

CAUSES: tuple[Rule, ...] = (
    # The client is gone or stopped: whatever its backends look like follows from that.
    find_orphaned_backends,
    find_frozen_clients,
    # Signs of their own.
    find_slow_reader,
    find_stuck_protocol,
    find_aborted_transaction,
    # Idle in a transaction: a self-deadlock differs from a leak by its one moment, work elsewhere from both by its
    # turnover.
    find_self_deadlock,
    find_leak_in_transaction,
    find_lock_queue,
    find_held_across_io,
    find_slow_database,
    # What a pooler reports of its own queue.
    find_pooler_queues,
    # Idle outside of a transaction: only where a source reports that the pool is out of connections.
    find_pool_slots_lost,
    find_backends_beyond_pool,
    find_idle_holds,
    find_frozen_peers,
    # Idle as well, and known by the lives of the backends alone.
    find_connection_per_request,
    find_standing_still,
    find_falling_silent,
    find_silent_clients,
    find_opening_beside_idle,
    # Long transactions that nothing above explains.
    find_most_held,
    # A bigger pool is the remedy only of what nothing above explains.
    find_pool_undersized,
    find_client_starved,
    find_unexplained_wait,
    find_connection_churn,
    find_pooler_churn,
    find_reconnect_storm,
    find_fleet_over_budget,
    find_handshake_pile_up,
)
EFFECTS: tuple[Rule, ...] = (
    find_pooler_client_limit,
    find_role_limit,
    find_slots_exhausted,
    find_slots_low,
    find_pooler_refusal,
    # Logs last: what was observed says more.
    find_logged_leaks,
    find_filling_pool,
    find_logged_lock_queue,
    find_logged_refusals,
    find_logged_churn,
    find_logged_starvation,
    find_logged_queue_timeouts,
    find_logged_acquire_timeouts,
    find_evidence_unread,
    find_waiting_unexplained,
)
ADVICE: tuple[Rule, ...] = (find_oversized_pool, find_no_safety_net, find_partial_view)


def diagnose(observation: Observation, tracker: Tracker | None = None) -> Diagnosis:
    """Diagnose ``observation``. Raises nothing: what was not observed is reported as such, not guessed.

    ``tracker``: has followed the backends of exactly these snapshots (``Follower``); None: that is done here.

    Nothing at warning or above gives ``healthy``, with at most advice (info) beside it. Statements are quoted as they
    are in the observation: hide their literals before.
    """
    facts = LiveFacts(observation, tracker)
    context = RuleContext.of(facts)
    findings: list[Finding] = []
    for rule in (*CAUSES, *EFFECTS, *ADVICE):
        for finding in rule(context):
            findings.append(finding)
            context = context.add(finding) if finding.severity != "info" else context
    if not reaches(findings, "warning"):
        findings.insert(0, judge_health(context))
    named = name_acquire_lines(observation, _raise_roots(findings))
    capped = [name_next_step(facts, _cap(facts, finding)) for finding in named]
    return Diagnosis(
        findings=tuple(sorted(capped, key=_rank_finding)),
        limits=context.limits,
        groups=group_backends(context),
        concurrency=measure_concurrency(facts),
        unseen=tuple(_list_unobserved(facts)),
    )


def _rank_finding(finding: Finding) -> tuple[int, bool, bool]:
    """Rank by severity; the verdict before advice; what is decided before what is not. Otherwise the rules' order
    stays."""
    return SEVERITIES.index(finding.severity), finding.code != "healthy", finding.confidence == "undetermined"


def _cap(facts: LiveFacts, finding: Finding) -> Finding:
    hidden = facts.hidden > 0 or facts.has_only_titles
    if hidden and finding.confidence == "certain" and finding.code not in NEED_NO_PRIVILEGE:
        finding = replace(finding, confidence="likely")
    return _note_owner(facts, finding)


def _note_owner(facts: LiveFacts, finding: Finding) -> Finding:
    """Return ``finding`` with how it is known whose the pool is, and at most likely where no name says so."""
    if finding.code not in REST_ON_POOLS or not facts.pools:
        return finding
    pids = {pid for holder in finding.holders for pid in holder.pids}
    held = [each for each in facts.programs if any(track.pid in pids for track in each.tracks)]
    owner = next(filter(None, map(facts.find_unsure_owner, held)), None)
    if owner is None or owner.application is None:
        return finding
    confidence = "likely" if finding.confidence == "certain" else finding.confidence
    settle = facts.write_settling(facts.find_pools_of(owner.application))
    return replace(
        finding,
        confidence=confidence,
        evidence=finding.evidence | {"pool_attributed": owner.words},
        decide_by=finding.decide_by or (settle if finding.confidence == "certain" else None),
    )


def _raise_roots(findings: Sequence[Finding]) -> list[Finding]:
    """Raise a root to the severity of the lock queue behind it, so that it stays before it."""
    heads = {
        pid: finding.severity
        for finding in findings
        if finding.code == "lock-queue"
        for holder in finding.holders
        for pid in holder.pids
    }
    raised = []
    for finding in findings:
        behind = [heads[pid] for holder in finding.holders for pid in holder.pids if pid in heads]
        worst = min([finding.severity, *behind], key=SEVERITIES.index)
        raised.append(replace(finding, severity=worst) if finding.code in MAY_HEAD_LOCKS else finding)
    return raised


def group_backends(context: RuleContext) -> tuple[Group, ...]:
    """Group the client backends of the last sample by application, user, database and address, the most first."""
    facts = context.facts
    members: dict[tuple[str, str, str, str], list[Track]] = {}
    for track in facts.tracks:
        last = track.last
        key = (last.application, last.user or "", last.database or "", last.client or "")
        members.setdefault(key, []).append(track)
    first = Counter(
        (t.last.application, t.last.user or "", t.last.database or "", t.last.client or "")
        for t in facts.all_tracks
        if t.first_at == t.since
    )
    groups = []
    for key, tracks in members.items():
        states = Counter(track.last.state or "unknown" for track in tracks)
        growth = (len(tracks) - first[key]) / facts.window if facts.window > 0 else 0.0
        groups.append(_build_group(context, key, tracks, dict(states.most_common()), growth))
    return tuple(
        sorted(groups, key=lambda group: (-group.count, group.application, group.user or "", group.client or ""))
    )


def _build_group(
    context: RuleContext, key: tuple[str, str, str, str], tracks: Sequence[Track], states: dict[str, int], growth: float
) -> Group:
    idle = [t.age for t in tracks if t.is_idle and t.last.state_at is not None]
    begun = [t.now - t.last.transaction_at for t in tracks if t.last.transaction_at is not None]
    return Group(
        application=key[0],
        user=key[1] or None,
        database=key[2] or None,
        client=key[3] or None,
        count=len(tracks),
        states=states,
        oldest_idle=max(idle, default=None),
        oldest_transaction=max((max(0.0, age) for age in begun), default=None),
        frozen=sum(t.is_frozen for t in tracks),
        turnover=sum(t.has_moved for t in tracks),
        opened=sum(t.is_new for t in tracks),
        growth=growth,
        holders=context.find_holders(t for t in tracks if context.clients.find_client(t).process is not None),
    )


def measure_concurrency(facts: LiveFacts) -> Concurrency | None:
    """Measure how many client backends were at work (active or in a transaction) at once. None without a sample.

    The counters see what happens between the samples, and lag; the samples see what has not ended. The larger mean
    counts.
    """
    if not facts.samples:
        return None
    counts = sorted(len(sample.in_use) for sample in facts.samples)
    by_looks = sum(counts) / len(counts)
    by_counters = _measure_mean(facts)
    method = "samples" if by_counters is None else "samples and counters"
    return Concurrency(
        mean=max(by_looks, by_counters or 0.0),
        p95=float(_take_rank(counts, 0.95)),
        p99=float(_take_rank(counts, 0.99)),
        max=float(counts[-1]),
        method=method,
    )


def _take_rank(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def _measure_mean(facts: LiveFacts) -> float | None:
    if facts.window <= 0:
        return None
    times = [
        (now.active_time or 0.0)
        + (now.transaction_idle_time or 0.0)
        - (then.active_time or 0.0)
        - (then.transaction_idle_time or 0.0)
        for then, now in facts.counted
        if now.active_time is not None
    ]
    return max(0.0, sum(times)) / facts.window if times else None


def _list_unobserved(facts: LiveFacts) -> Iterable[str]:
    """List what could not be observed, and what stays open because of it."""
    yield from _list_unobserved_of_server(facts)
    waiting = facts.count_waiting()
    if not waiting.is_known:
        why = "the figures do not say it" if facts.pools else "no pool's figures were given (--pool-stats)"
        yield f"Whether clients wait inside their applications' pools: {why}."
    host = facts.host
    if facts.observation.is_from_files:
        return
    if host is None:
        yield "The processes behind the connections: this host was not observed."
    elif not host.has_server and facts.cores is None:
        yield "How many cores the server has and how busy they are: it does not run on this host."


def _list_unobserved_of_server(facts: LiveFacts) -> Iterator[str]:
    server = facts.server
    if facts.has_only_titles:
        did = "did not answer" if facts.is_silent else "refused"
        yield f"The server's own view: it {did}; process titles say neither applications nor times."
    elif not facts.samples:
        yield "The server's backends: no source showed them."
    if facts.hidden:
        hidden = plural(facts.hidden, "backend")
        yield f"The state and times of {hidden} of other roles: this role is not a member of pg_monitor."
    if server is not None and server.is_behind_pooler and not facts.queues and not facts.pgpools:
        yield "The clients' addresses: a pooler is in between, and its console was not given."
    if len(facts.samples) == 1:
        yield "What moves and what stands still: there was one sample only."
    if server is not None and 0 < server.version_number < 140000 and facts.server_samples:
        yield "How many sessions were opened and dropped: PostgreSQL counts them from version 14 on."
