"""What the reports of all processes add up to: findings, with the codes and words of ``inspect``.

Pure. Decides what is certain (the program ended, or the connection object is gone), what is likely (the thread or task
that acquired it has ended) and what is only apparent (held longer than the threshold, and may yet be released).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding, Holder, Severity, worst_first
from poolctl.guard.guard_report import HeldConnection, IncidentReport, Line, ProcessReport
from poolctl.guard.text import duration, ending_text, pool_text, site_text
from poolctl.units import plural

GRACE = 1.0
"""Seconds after which a hold whose thread or task has ended is called a leak: it may have been handed to another."""

MANY_POOLS = 10
"""Pools from one line, in one process, that are too many even if each was closed."""

OPEN_POOLS = 3
"""Pools from one line that are open at once in one process, or were dropped without being closed."""

_LOST = ("collected",)


@dataclass(frozen=True, slots=True)
class Held:
    """One connection that is out, with its age in seconds and whether its process is over."""

    held: HeldConnection
    age: float
    process: ProcessReport
    is_over: bool


Key = tuple[str, bool, tuple[Line, ...]]
"""Library, whether it is a pool, and the acquire line with its caller: a wrapper's one line has many users."""


def find_leaks(
    reports: Iterable[ProcessReport], *, now: float, threshold: float, alive: frozenset[int] = frozenset()
) -> tuple[Finding, ...]:
    """Derive the findings of ``reports``, worst first. ``alive``: processes that still run.

    ``threshold``: seconds of a hold that is called an apparent leak; 0: none is, however long.
    """
    every = tuple(reports)
    out = [
        Held(held, now_or_end(report, now, alive) - held.acquired_at, report, report.pid not in alive)
        for report in every
        for held in report.holds
        if held.acquired_at is not None and not held.is_exempt
    ]
    leaks = list(_leaks(every, out, threshold))
    leaking = {site for site, _ in leaks}
    found = [finding for _, finding in leaks]
    found += _nestings(every, leaking)
    found += _incidents(every, leaking)
    found += _pools(every)
    found += _late(every, threshold, leaking)
    found += _outside(every)
    return worst_first(found)


def now_or_end(report: ProcessReport, now: float, alive: frozenset[int]) -> float:
    """Return the instant up to which holds of this process count: now, or its last report if it is over."""
    return now if report.pid in alive else report.taken_at


def _leaks(
    reports: Sequence[ProcessReport], out: Sequence[Held], threshold: float
) -> Iterator[tuple[tuple[Line, ...], Finding]]:
    groups: dict[Key, list[Held]] = defaultdict(list)
    for one in out:
        if _is_suspect(one, threshold):
            groups[(one.held.library, one.held.is_pool, one.held.site[:2])].append(one)
    lost: dict[Key, list[IncidentReport]] = defaultdict(list)
    for report in reports:
        for incident in report.incidents:
            if incident.event in _LOST and incident.is_pool:
                lost[(incident.library, True, incident.site[:2])].append(incident)
    short_of = {(pool.library, pool.name) for r in reports for pool in r.pools if pool.timed_out or pool.refused}
    for key in [*groups, *(key for key in lost if key not in groups)]:
        yield key[2], _leak(key, groups.get(key, []), lost.get(key, []), short_of)


def _is_suspect(one: Held, threshold: float) -> bool:
    held = one.held
    if held.state == "closed" and held.is_pool and (one.is_over or one.age > GRACE):
        return True
    if held.actor_outcome and one.age > GRACE:
        return True
    if one.process.ended:
        return True
    return 0 < threshold < one.age


def _leak(key: Key, holds: Sequence[Held], lost: Sequence[IncidentReport], short_of: set[tuple[str, str]]) -> Finding:
    library, is_pool, site = key
    collected = sum(incident.count for incident in lost)
    number = len(holds) + collected
    first = holds[0].held if holds else None
    pool = first.pool if first is not None else lost[0].pool
    certain = collected or any(one.process.ended or one.held.state == "closed" for one in holds)
    likely = any(one.held.actor_outcome for one in holds)
    in_transaction = any(one.held.state.startswith("idle in transaction") for one in holds)
    confidence: Confidence = "certain" if certain else "likely" if likely else "undetermined"
    severity: Severity = "critical" if (library, pool) in short_of else "warning"
    if not is_pool and number == 1 and not likely and not in_transaction:
        severity = "info"  # a script may leave the one connection of its own to the end of the process
    oldest = max((one.age for one in holds), default=None)
    what = plural(number, "connection")
    verb = "was" if number == 1 else "were"
    if confidence == "undetermined":
        code = "leak-or-long-hold"
        summary = (
            f"apparent leak: {what} acquired at {site_text(site)} {verb} not released for "
            f"{duration(oldest or 0.0)} (longest)"
        )
    else:
        code = "leak-in-transaction" if in_transaction else "leak"
        summary = f"{what} acquired at {site_text(site)} {verb} never released"
    return build_finding(
        code,
        severity=severity,
        confidence=confidence,
        summary=summary,
        evidence=_evidence(library, pool, is_pool=is_pool, site=first.site if first else lost[0].site)
        | {
            "count": number,
            "collected": collected,
            "oldest": oldest,
            "state": first.state if first else None,
            "statement": first.statement or None if first else None,
            "ending": ending_text(site, first.ending if first else lost[0].ending) or None,
            "actors": sorted({f"{one.held.actor_kind} {one.held.actor}" for one in holds})[:10],
            "actor_outcome": (first.actor_outcome if first else lost[0].actor_outcome) or None,
        },
        holders=_holders(holds),
        evidence_sql=None,
        decide_by=f"look whether it is released after all, after more than {duration(oldest or 0.0)}"
        if confidence == "undetermined"
        else None,
    )


def _holders(holds: Sequence[Held]) -> tuple[Holder, ...]:
    by_process: dict[int, list[int]] = defaultdict(list)
    programs = {one.process.pid: one.process.program for one in holds}
    for one in holds:
        if one.held.backend_pid is not None:
            by_process[one.process.pid].append(one.held.backend_pid)
    return tuple(
        Holder(pids=tuple(pids), process={"pid": pid, "command": programs[pid]}) for pid, pids in by_process.items()
    )


def _evidence(library: str, pool: str, *, is_pool: bool, site: Sequence[Line]) -> dict[str, Any]:
    return {
        "library": library,
        "pool": pool if is_pool else None,
        "acquired_at": site[0].place,
        "function": site[0].function,
        "called_from": [line.place for line in site[1:]],
    }


def _nestings(reports: Sequence[ProcessReport], leaking: set[tuple[Line, ...]]) -> Iterator[Finding]:
    counts: dict[tuple[str, str, tuple[Line, ...], tuple[Line, ...]], list[int]] = {}
    for report in reports:
        for nesting in report.nestings:
            if nesting.outer[:2] in leaking:
                continue  # what leaked is held under everything that follows
            key = (nesting.library, nesting.pool, nesting.outer, nesting.inner)
            seen = counts.setdefault(key, [0, 0])
            seen[0] += nesting.count
            seen[1] += nesting.jammed
    for (library, pool, outer, inner), (count, jammed) in counts.items():
        where = pool_text(library, pool, is_pool=True)
        summary = (
            f"{site_text(outer)} holds a connection of {where} while {site_text(inner)} asks for a second one "
            f"({plural(count, 'time')}"
            + (f", {plural(jammed, 'time')} with every holder waiting: none could go on)" if jammed else ")")
        )
        yield build_finding(
            "self-deadlock",
            severity="critical" if jammed else "warning",
            confidence="certain" if jammed else "likely",
            summary=summary,
            evidence=_evidence(library, pool, is_pool=True, site=outer)
            | {"second_at": inner[0].place, "second_function": inner[0].function, "count": count, "jammed": jammed},
            evidence_sql=None,
            decide_by=None
            if jammed
            else "try as many callers at once as the pool has connections: then each may wait for another",
        )


_INCIDENTS: Mapping[str, tuple[str, Severity, Confidence, str]] = {
    "collected-and-returned": (
        "left-to-the-collector",
        "warning",
        "certain",
        "{n} acquired at {site} came back by garbage collection alone",
    ),
    "collected": (
        "left-to-the-collector",
        "warning",
        "certain",
        "{n} opened at {site} ended by garbage collection, open until then",
    ),
    "released-twice": (
        "released-twice",
        "warning",
        "certain",
        "{n} acquired at {site} {were} released again at {at}",
    ),
    "released-elsewhere": (
        "released-elsewhere",
        "info",
        "certain",
        "{n} acquired at {site} {were} released by another thread at {at}",
    ),
    "used-after-release": (
        "used-after-release",
        "critical",
        "certain",
        "{n} acquired at {site} {were} used at {at} while in the pool",
    ),
    "used-after-fork": (
        "used-after-fork",
        "critical",
        "certain",
        "{n} acquired at {site} before a fork {were} used at {at} in the child process",
    ),
    "released-in-child": (
        "used-after-fork",
        "critical",
        "certain",
        "{n} acquired at {site} before a fork {were} released at {at} in the child process",
    ),
    "pool-after-fork": (
        "used-after-fork",
        "critical",
        "certain",
        "a pool created at {site} before a fork was used at {at} in the child process",
    ),
    "timed-out": (
        "no-connection-in-time",
        "warning",
        "certain",
        "{n} asked for at {site} did not come in time",
    ),
    "refused": (
        "no-connection-in-time",
        "warning",
        "certain",
        "{n} asked for at {site} {were} refused, since the pool was full",
    ),
}
"""Of each event: its finding's code, severity and confidence, and its sentence."""


def _incidents(reports: Sequence[ProcessReport], leaking: set[tuple[Line, ...]]) -> Iterator[Finding]:
    groups: dict[tuple[str, str, tuple[Line, ...], tuple[Line, ...]], list[IncidentReport]] = defaultdict(list)
    for report in reports:
        for one in report.incidents:
            if one.event in _LOST and one.is_pool:
                continue  # counted as a leak
            groups[(one.event, one.library, one.site, one.at)].append(one)
    for (event, library, site, at), group in groups.items():
        code, severity, confidence, sentence = _INCIDENTS[event]
        count = sum(one.count for one in group)
        text = sentence.format(
            n=plural(count, "connection"),
            were="was" if count == 1 else "were",
            site=site_text(site),
            at=site_text(at) if at else "",
        )
        holders = [holder[0].place for one in group for holder in one.holders]
        if holders:
            most = sorted(set(holders), key=lambda place: -holders.count(place))[:5]
            text += f"; held then by {', '.join(f'{place} ({holders.count(place)})' for place in most)}"
        yield build_finding(
            code,
            severity="info" if event in ("collected",) and site[:2] in leaking else severity,
            confidence=confidence,
            summary=text,
            evidence=_evidence(library, group[0].pool, is_pool=True, site=site)
            | {"count": count, "at": at[0].place if at else None, "event": event, "held_by": sorted(set(holders))},
            evidence_sql=None,
        )


def _pools(reports: Sequence[ProcessReport]) -> Iterator[Finding]:
    for report in reports:
        for each in report.created:
            open_at_once = max(each.dropped, each.peak)
            if open_at_once < OPEN_POOLS and each.created < MANY_POOLS:
                continue
            if each.acquired > 50 * each.created:
                continue  # several pools, each of them well used: shards, or one for each tenant
            yield build_finding(
                "pools-again-and-again",
                severity="warning" if open_at_once >= OPEN_POOLS else "info",
                confidence="certain" if each.created >= MANY_POOLS else "likely",
                summary=f"{plural(each.created, 'pool')} created at {site_text(each.site)} in one process, "
                f"{each.closed} of them closed, {plural(each.acquired, 'acquire')} from all of them",
                evidence=_evidence(each.library, "", is_pool=False, site=each.site)
                | {"created": each.created, "closed": each.closed, "dropped": each.dropped, "acquired": each.acquired},
                evidence_sql=None,
            )


def _late(reports: Sequence[ProcessReport], threshold: float, leaking: set[tuple[Line, ...]]) -> Iterator[Finding]:
    late: dict[tuple[Line, ...], tuple[int, float]] = {}
    for report in reports:
        for figures in report.sites:
            if figures.late:
                before = late.get(figures.site, (0, 0.0))
                late[figures.site] = (before[0] + figures.late, max(before[1], figures.longest))
    for site, (count, longest) in late.items():
        yield build_finding(
            "long-hold",
            severity="info",
            confidence="certain",
            summary=f"{plural(count, 'connection')} acquired at {site_text(site)} held longer than "
            f"{duration(threshold)}, and returned after all (longest {duration(longest)})",
            evidence={
                "acquired_at": site[0].place,
                "count": count,
                "longest": longest,
                "also_leaks": site[:2] in leaking,
            },
            evidence_sql=None,
        )


def _outside(reports: Sequence[ProcessReport]) -> Iterator[Finding]:
    if not any(pool.is_pool and pool.acquired for report in reports for pool in report.pools):
        return  # a program without any pool has chosen so
    opened: dict[str, int] = defaultdict(int)
    for report in reports:
        for pool in report.pools:
            if not pool.is_pool and pool.library != "django":
                opened[pool.library] += pool.acquired
    for library, count in opened.items():
        if count:
            yield build_finding(
                "outside-any-pool",
                severity="info",
                confidence="certain",
                summary=f"{plural(count, 'connection')} of {library} opened outside of any pool",
                evidence={"library": library, "count": count},
                evidence_sql=None,
            )
