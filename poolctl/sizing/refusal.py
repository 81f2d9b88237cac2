"""An answer turned into a refusal, by what was found beside the figures that it was made from."""

from collections.abc import Sequence
from dataclasses import replace

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.sizing.answer import Recommendation
from poolctl.sizing.verify import Verification


def refused(answer: Recommendation, findings: Sequence[Finding]) -> Recommendation:
    """``answer`` without its sizes, for the reasons in ``findings``, which come first among those as severe."""
    sizes = replace(
        answer.recommendation, max_open=None, max_idle=None, min_idle=None, interval=None, confidence="refused"
    )
    return replace(
        answer,
        recommendation=sizes,
        verdict="refused",
        worst_case_connections=None,
        findings=worst_first((*findings, *answer.findings)),
    )


def failed(answer: Recommendation, verification: Verification) -> Recommendation:
    """A recommendation that failed its own verification is none."""
    tried = answer.recommendation.max_open
    finding = Finding(
        code="verification-failed",
        severity="critical",
        confidence="certain",
        layer="application",
        summary=f"max_open {tried} was tried and does not hold: {'; '.join(verification.failures)}",
        evidence={"max_open": tried, "engine": verification.engine},
        remedy="Look at the runs below; measure under the peak, or give the figures that are assumed",
    )
    return refused(answer, (finding,))
