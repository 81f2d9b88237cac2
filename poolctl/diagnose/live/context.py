"""What a rule is given: the facts, who is behind each backend, the limits, and what is explained already."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from poolctl.diagnose.catalog import SLOW_EVERYTHING
from poolctl.diagnose.finding import Confidence, Finding, Holder, Limit, Severity
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.headroom import limits_of
from poolctl.diagnose.live.holders import Clients, holders_of
from poolctl.diagnose.live.tracks import Application, Track
from poolctl.diagnose.live.usage import HELD_SHARE, LEAST_PAUSE, use_of


@dataclass(frozen=True)
class RuleContext:
    """``taken``: pids that a finding before explains. A backend has one cause, and its remedy is that cause's.

    ``said``: the codes of those findings.
    """

    facts: LiveFacts
    clients: Clients
    limits: tuple[Limit, ...]
    taken: frozenset[int] = frozenset()
    said: frozenset[str] = frozenset()

    @classmethod
    def of(cls, facts: LiveFacts) -> "RuleContext":
        return cls(facts, Clients.of(facts), limits_of(facts))

    def after(self, finding: Finding) -> "RuleContext":
        taken = self.taken.union(*(holder.pids for holder in finding.holders))
        return replace(self, taken=taken, said=self.said | {finding.code})

    def free(self, tracks: Iterable[Track]) -> tuple[Track, ...]:
        """Those that no finding before explains."""
        return tuple(track for track in tracks if track.pid not in self.taken)

    def holders(self, tracks: Iterable[Track]) -> tuple[Holder, ...]:
        return holders_of(self.clients, tracks)

    @property
    def is_full(self) -> bool:
        """Whether an ordinary role finds no slot now."""
        return any(limit.scope == "server" and limit.free <= 0 for limit in self.limits)

    def severity(self, application: Application | None = None) -> Severity:
        """Critical when clients are refused or wait now because of this application's connections; else they will."""
        refused = self.is_full or self.facts.is_refusing
        return "critical" if refused or self.facts.waiting(application) else "warning"

    def is_turning_over(self, application: Application) -> bool:
        """Whether every connection does short work and comes back: then, and only then, more of them may help."""
        tracks = application.tracks
        if self.said & SLOW_EVERYTHING:
            return False
        use = use_of(application)
        busy_elsewhere = use.share > HELD_SHARE and use.pause >= LEAST_PAUSE
        explained = any(track.pid in self.taken for track in tracks)
        moved = sum(1 for track in tracks if track.has_moved or track.is_new)
        return (
            bool(tracks)
            and not explained
            and not application.stuck
            and not busy_elsewhere
            and moved >= 0.8 * len(tracks)
        )


Rule = Callable[[RuleContext], Iterator[Finding]]


def at_most_likely(confidence: Confidence, tracks: Iterable[Track]) -> Confidence:
    """What was inferred, and not seen, is never certain."""
    return (
        "likely"
        if confidence == "certain" and any(t.last.is_inferred or t.last.is_hidden for t in tracks)
        else confidence
    )


def called(application: Application) -> str:
    """How a sentence names an application."""
    if application.name:
        return application.name
    return f"user {application.user} (no application_name)" if application.user else "an unnamed application"
