"""What a rule is given: the facts, the client behind each backend, the limits, and what is explained already.

Decides which backends a rule may still name, and how urgent a finding about an application is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from poolctl.diagnose.catalog import SLOW_EVERYTHING
from poolctl.diagnose.finding import Confidence, Finding, Holder, Limit, Severity
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.headroom import find_limits
from poolctl.diagnose.live.holders import Clients, find_holders
from poolctl.diagnose.live.tracks import Application, Track
from poolctl.diagnose.live.usage import HoldTimes, find_stuck, measure_hold_times, measure_use

SOURCE_NAMES = {
    "pgbouncer": "PgBouncer",
    "pgpool": "Pgpool-II",
    "pool-stats": "Pool figures",
    "evidence": "Evidence",
    "prometheus": "Prometheus",
}
"""What a source that was named is called in sentences, by its kind."""

EXPLAIN_NO_BACKEND = frozenset({"fleet-over-budget"})
"""Findings that name all backends there are: each of them can have a fault of its own."""


@dataclass(frozen=True)
class RuleContext:
    """One diagnosis as its rules see it, each after the ones before it."""

    facts: LiveFacts
    clients: Clients
    limits: tuple[Limit, ...]
    explained: frozenset[int] = frozenset()
    """Process ids that an earlier finding explains. A backend has one cause, and its remedy is that cause's."""
    reported: frozenset[str] = frozenset()
    """The codes of those findings."""

    @classmethod
    def of(cls, facts: LiveFacts) -> "RuleContext":
        return cls(facts, Clients.of(facts), find_limits(facts))

    def add(self, finding: Finding) -> "RuleContext":
        """Return the context for the rules after ``finding``."""
        explained = self.explained
        if finding.code not in EXPLAIN_NO_BACKEND:
            explained = explained.union(*(holder.pids for holder in finding.holders))
        return replace(self, explained=explained, reported=self.reported | {finding.code})

    def keep_unexplained(self, tracks: Iterable[Track]) -> tuple[Track, ...]:
        """Return the backends of ``tracks`` that no earlier finding explains."""
        explained = self.explained
        return tuple(track for track in tracks if track.pid not in explained) if explained else tuple(tracks)

    def find_holders(self, tracks: Iterable[Track]) -> tuple[Holder, ...]:
        return find_holders(self.clients, tracks)

    @property
    def is_full(self) -> bool:
        """Whether the server has no slot left for an ordinary role."""
        return any(limit.scope == "server" and limit.free <= 0 for limit in self.limits)

    def judge_severity(self, application: Application | None = None) -> Severity:
        """Return critical if clients are refused, or wait for connections of ``application`` (None: of any) now.

        Otherwise warning: they will if it goes on.
        """
        refused = self.is_full or self.facts.is_refusing
        return "critical" if refused or self.facts.count_waiting(application) else "warning"

    def measure_hold_times(self, application: Application) -> HoldTimes:
        """Measure how long clients hold the connections of ``application``, by the figures of its pools."""
        return measure_hold_times(self.facts.find_pools_of(application))

    def is_turning_over(self, application: Application) -> bool:
        """Return True if every connection does short work and comes back: only then may more of them help."""
        tracks = application.tracks
        if self.reported & SLOW_EVERYTHING:
            return False
        times = self.measure_hold_times(application)
        use = measure_use(application, times)
        is_explained = any(track.pid in self.explained for track in tracks)
        moved = sum(1 for track in tracks if track.has_moved or track.is_new)
        return (
            bool(tracks)
            and not is_explained
            and not find_stuck(application, times)
            and not use.is_elsewhere()
            and moved >= 0.8 * len(tracks)
        )


Rule = Callable[[RuleContext], Iterator[Finding]]


def cap_confidence(confidence: Confidence, tracks: Iterable[Track]) -> Confidence:
    """Return ``confidence``, at most likely where the state of one of ``tracks`` is inferred or hidden."""
    is_inferred = any(track.last.is_inferred or track.last.is_hidden for track in tracks)
    return "likely" if confidence == "certain" and is_inferred else confidence


def name_application(application: Application) -> str:
    """Return how a sentence names ``application``."""
    if application.name:
        return application.name
    return f"user {application.user} (no application_name)" if application.user else "an unnamed application"
