"""An answer turned into a refusal, by what was found beside the figures that it was made from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.sizing.answer import Recommendation
from poolctl.sizing.causes import most_gain, without
from poolctl.sizing.figures import Figures

if TYPE_CHECKING:
    from poolctl.sizing.verify import Verification

_OF_A_NUMBER = ("wait-target-missed",)


def refused(answer: Recommendation, findings: Sequence[Finding]) -> Recommendation:
    """``answer`` without its sizes, for the reasons in ``findings``, which come first."""
    causes = [replace(finding, severity="critical") for finding in findings]
    sizes = replace(
        answer.recommendation, max_open=None, max_idle=None, min_idle=None, interval=None, confidence="refused"
    )
    return replace(
        answer,
        recommendation=sizes,
        verdict="refused",
        worst_case_connections=None,
        findings=worst_first((*causes, *answer.findings)),
    )


def settled(answer: Recommendation) -> Recommendation:
    """A refusal without the findings that are about the number which is not given."""
    if not answer.is_refused:
        return answer
    return replace(answer, findings=tuple(each for each in answer.findings if each.code not in _OF_A_NUMBER))


def beside_the_point(finding: Finding, figures: Figures, answer: Recommendation) -> Finding:
    """``finding``, with which no size of a pool is the answer, and with both bounds: what any size could gain at most,
    and what mending it would."""
    gain = most_gain(figures, answer.capacity)
    statement = figures.top_statement
    bounds: dict[str, Any] = {"most_gain_from_pool": gain}
    summary = f"Pool size is not the problem: {finding.summary}"
    if finding.code == "slow-database" and statement is not None:
        bounds |= {
            "statement": statement.query,
            "statement_share": statement.share,
            "table": statement.table,
            "column": statement.column,
            "rows_read": statement.rows_read,
            "gain_from_statement": without(statement.share),
        }
        times = f"{without(statement.share):,.0f} times as much gets done" if statement.share >= 0.5 else ""
        most = "" if gain is None else f". No pool size gains more than {gain:.0%}"
        summary += most + (f"; without the statement up to {times}" if times else "")
    return replace(finding, summary=summary, evidence={**finding.evidence, **bounds})


def failed(answer: Recommendation, verification: "Verification") -> Recommendation:
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
