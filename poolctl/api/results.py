"""What each command of poolctl answers, as plain frozen data.

Leaves the public documents that are made of them to ``documents``, and their words to ``report``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.scenario.run import Run, Summary
from poolctl.scenario.scenario import Scenario
from poolctl.scenario.sweep import Axis

if TYPE_CHECKING:
    from poolctl.diagnose.finding import Diagnosis
    from poolctl.diagnose.live.relief import ReliefPlan
    from poolctl.observe.snapshot import Observation, Source
    from poolctl.observe.terminate import TerminationResult
    from poolctl.sizing.figures import Figures
    from poolctl.sizing.recommendation import Recommendation
    from poolctl.sizing.verify import Verification
    from poolctl.stacks import Config


@dataclass(frozen=True, slots=True)
class Variant:
    """A run under the name that it is compared by; ``findings`` come worst first."""

    name: str
    run: Run
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What is kept of one of many runs: its numbers and findings, not its timeline. ``failure``, ``kernel``: as in
    Run."""

    summary: Summary
    findings: tuple[Finding, ...]
    failure: str | None = None
    kernel: str = ""

    @property
    def verdict(self) -> str:
        """The word and code of the worst finding: "CRITICAL leak", "OK"."""
        if not self.findings:
            return "NO VERDICT"
        worst = worst_first(self.findings)[0]
        return "OK" if worst.code == "healthy" else f"{worst.severity.upper()} {worst.code}"


@dataclass(frozen=True, slots=True)
class Point:
    """One of the runs: the word of each axis (none in replications), its seed, and its outcome."""

    words: tuple[str, ...]
    seed: int
    outcome: RunOutcome


@dataclass(frozen=True, slots=True)
class Batch:
    """The runs of a sweep (``axes``) or of replications (no axes), in order.

    ``planned``: how many were asked for; fewer ``points`` mean that the user had enough, or that processes were lost
    (``losses``: how). ``scenario`` is that of the first run; the others differ in their words or their seed.
    """

    scenario: Scenario
    points: tuple[Point, ...]
    planned: int
    axes: tuple[Axis, ...] = ()
    interrupted: bool = False
    losses: tuple[str, ...] = ()

    @property
    def kernels(self) -> list[str]:
        """Which kernels made the runs, where that is known."""
        return sorted({point.outcome.kernel for point in self.points} - {""})

    @property
    def summaries(self) -> list[Summary]:
        return [point.outcome.summary for point in self.points]


def reopened_rate(summary: Summary) -> float:
    """Connections per second that were opened again: (opened - peak_open) / duration, never below 0.

    A pool that keeps what it has opens no more than its peak. What lifetimes close counts too.
    """
    again = summary.connections.opened - summary.connections.peak_open
    return max(again, 0) / summary.duration if summary.duration > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ReliefResult:
    """What carrying out a plan came to. ``used_before`` and ``used_after``: client backends, None where not seen."""

    endings: "tuple[TerminationResult, ...]"
    used_before: int | None = None
    used_after: int | None = None

    @property
    def freed(self) -> int | None:
        """Slots that really came free; below 0 where others took more than that."""
        if self.used_before is None or self.used_after is None:
            return None
        return self.used_before - self.used_after


@dataclass(frozen=True, slots=True)
class InspectResult:
    """``planned``: seconds that were asked for, None where there was no such plan (a replay, a live view).

    ``replayed``: the file that it was read from, "" for live systems. ``relief`` None: no plan was asked for;
    ``relieved`` None: none was carried out.
    """

    observation: "Observation"
    diagnosis: "Diagnosis"
    planned: float | None = None
    interrupted: bool = False
    replayed: str = ""
    relief: "ReliefPlan | None" = None
    relieved: ReliefResult | None = None


@dataclass(frozen=True, slots=True)
class RecommendResult:
    """``figures``: with their defaults filled in. ``application``: whose connections were measured, None: everybody's.

    ``notes``: how it was measured, and what could not be; a sentence each. ``unverified``: why ``verification`` is
    None. ``planned``: seconds that were asked for, None where nothing was measured.
    """

    recommendation: "Recommendation"
    figures: "Figures"
    configs: "tuple[Config, ...]" = ()
    verification: "Verification | None" = None
    unverified: str = ""
    notes: tuple[str, ...] = ()
    sources: "tuple[Source, ...]" = ()
    application: str | None = None
    planned: float | None = None
    interrupted: bool = False
    seed: int = 1
    repeat: str = ""
