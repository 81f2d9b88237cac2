"""The one sentence that stands first, and what qualifies the numbers below it.

Decides which finding speaks for the run and in which word; what is true was decided by the diagnosis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from poolctl.diagnose.finding import Finding, Severity, worst_first
from poolctl.safe_text import neutralize
from poolctl.scenario.run import Run
from poolctl.units import format_count, format_duration

BUSY_SHARE = 0.75
"""Of the machine's cores: a server that uses more leaves the load, which runs beside it, too little."""

SENTENCE_LIMIT = 600
"""Characters of a sentence of ours that may quote foreign names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word`` says by itself how bad it is, without color; ``code`` is that of the finding, "" without one."""

    word: str
    severity: Severity | None
    code: str
    sentence: str


def verdict_of(run: Run, findings: Sequence[Finding]) -> Verdict:
    """The worst finding's verdict. Without any finding nothing is claimed."""
    if not findings:
        counts = f"{format_count(run.summary.acquired)} of {format_count(run.summary.offered)} acquires were served"
        return Verdict("NO VERDICT", None, "", f"{counts}; no diagnosis was made")
    worst = worst_first(findings)[0]
    return Verdict(word_of(worst), worst.severity, worst.code, sentence_of(worst))


def word_of(finding: Finding) -> str:
    return "OK" if finding.code == "healthy" else finding.severity.upper()


def sentence_of(finding: Finding) -> str:
    """The finding's summary, with its confidence unless that is certain."""
    summary = neutralize(finding.summary, SENTENCE_LIMIT)
    return summary if finding.confidence == "certain" else f"{summary} ({finding.confidence})"


def cautions_of(run: Run) -> tuple[str, ...]:
    """What a reader has to know before believing the numbers."""
    cautions = []
    if run.failure:
        told = neutralize(run.failure, SENTENCE_LIMIT)
        cautions.append(f"INCOMPLETE: {told}; the numbers are what was measured until then")
    if run.interrupted:
        planned = run.scenario.load.duration
        whole = f" of {format_duration(planned)}" if planned is not None else ""
        after = run.timeline[-1].at if run.timeline else run.summary.duration
        cautions.append(
            f"INTERRUPTED after {format_duration(after)}{whole}: these numbers are what was measured so far"
        )
    if run.generator and run.generator.bound_by:
        reasons = " and ".join(run.generator.bound_by)
        server = run.summary.server
        if server and server.cpu and server.cores and server.cpu >= BUSY_SHARE * server.cores:
            cautions.append(
                f"GENERATOR-BOUND: {reasons}, because the server kept this machine's processors busy. Waits are a "
                "little longer than the pool makes them"
            )
        else:
            cautions.append(
                f"GENERATOR-BOUND: {reasons}. The load itself was the limit, so waits and throughput say little about "
                "the pool; use fewer workers an instance, more instances, or a lower rate"
            )
    return tuple(cautions)


def next_steps(findings: Sequence[Finding]) -> tuple[str, ...]:
    """What to do, worst finding first, each thing once. A remedy of several lines keeps them."""
    steps: dict[str, None] = {}
    for finding in worst_first(findings):
        lines = [neutralize(line, SENTENCE_LIMIT) for line in finding.remedy.splitlines()]
        if finding.decide_by:
            lines.append(f"To decide: {neutralize(finding.decide_by, SENTENCE_LIMIT)}")
        steps.update(dict.fromkeys(line for line in lines if line))
    return tuple(steps)
