"""What a guard inside the application adds: the line that acquired a connection, and whether its code still runs.

Decides ``leak-or-long-hold`` where the guard knows what a server cannot: a thread or task that has ended releases
nothing any more; one that runs may. Leaves every other finding as it is, but for the line.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding, Holder
from poolctl.observe.snapshot import Observation, PoolHold
from poolctl.units import format_duration, plural


def name_acquire_lines(observation: Observation, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield ``findings`` with the acquire lines of their holders, as far as guards reported them."""
    last = observation.snapshots[-1:]
    holds = {hold.backend_pid: hold for snapshot in last for pool in snapshot.pools for hold in pool.holds}
    for finding in findings:
        if not holds:
            yield finding
            continue
        named = replace(finding, holders=tuple(_name_line(holder, holds) for holder in finding.holders))
        yield _decide(named, holds) if finding.code == "leak-or-long-hold" else named


def _name_line(holder: Holder, holds: Mapping[int, PoolHold]) -> Holder:
    sites = Counter(holds[pid].site for pid in holder.pids if pid in holds and holds[pid].site)
    return replace(holder, acquired_at=sites.most_common(1)[0][0]) if sites else holder


def _decide(finding: Finding, holds: Mapping[int, PoolHold]) -> Finding:
    known = [holds[pid] for holder in finding.holders for pid in holder.pids if pid in holds]
    if not known:
        return finding
    ended = [hold for hold in known if hold.outcome]
    oldest = max(known, key=lambda hold: hold.age)
    # Most of them decide: one thread of a batch that is done with its work may end while the others go on.
    is_leak = 2 * len(ended) > len(known)
    sites = Counter(hold.site for hold in (ended if is_leak else known)).most_common(3)
    lines = ", ".join(f"{site} ({count})" for site, count in sites)
    if is_leak:
        summary = f"{plural(len(ended), 'connection')} acquired at {lines} by code that has ended, and never released"
    else:
        summary = (
            f"{plural(len(known), 'connection')} held at {lines} by code that still runs, the longest for "
            f"{format_duration(oldest.age)}"
        )
    return build_finding(
        "leak" if is_leak else "long-hold",
        severity=finding.severity,
        confidence="certain" if is_leak else "likely",
        summary=summary,
        evidence=finding.evidence | {"guard_known": len(known), "guard_ended": len(ended), "acquired_at": lines},
        holders=finding.holders,
        frees=finding.frees,
    )
