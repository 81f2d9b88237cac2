"""An answer turned into a refusal, by what was found beside the figures that it was made from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.sizing.causes import most_gain, without
from poolctl.sizing.figures import Figures
from poolctl.sizing.recommendation import Recommendation

if TYPE_CHECKING:
    from poolctl.sizing.verify import Verification

_OF_A_NUMBER = frozenset({"wait-target-missed"})
_BOUNDS = ("most_gain_from_pool", "gain_from_statement", "gain_from_locks", "gain_from_shorter_holds")
_OF_A_LARGER_POOL = frozenset({"demand-censored"})
"""Asks for a larger pool to measure with, which makes worse what is the problem already."""


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


def diagnosed(
    answer: Recommendation, figures: Figures, refusing: Sequence[Finding], others: Sequence[Finding]
) -> Recommendation:
    """``answer`` with what the diagnosis of the same look found: ``refusing`` make it a refusal, ``others`` do not.

    Each code is told once: the sizing knows a slow statement better, the diagnosis who is behind all else.
    """
    known = {finding.code for finding in answer.findings if finding.severity != "info"}
    told = known & {"slow-database"} if answer.is_refused else set()
    causes = [beside_the_point(each, figures, answer) for each in refusing if each.code not in told]
    named = {finding.code for finding in causes}
    kept = [each for each in answer.findings if each.code not in named]
    kept += [each for each in others if each.code not in known]
    answer = replace(answer, findings=tuple(kept))
    return refused(answer, causes) if causes else answer


def settled(answer: Recommendation) -> Recommendation:
    """A refusal without the findings that are about the number which is not given, or ask for a larger pool beside a
    cause that no pool mends."""
    if not answer.is_refused:
        return answer
    beside = any(each.severity == "critical" for each in answer.findings)
    moot = _OF_A_NUMBER | (_OF_A_LARGER_POOL if beside else frozenset())
    return replace(answer, findings=tuple(each for each in answer.findings if each.code not in moot))


def beside_the_point(finding: Finding, figures: Figures, answer: Recommendation) -> Finding:
    """``finding``, with which no size of a pool is the answer, and with both bounds: what any size could gain at most,
    and what mending it would, also where ``answer`` has them in a finding of its own."""
    gain = most_gain(figures, answer.capacity)
    statement = figures.top_statement
    bounds: dict[str, Any] = {"most_gain_from_pool": gain}
    for own in answer.findings:
        if own.code == finding.code:
            bounds |= {name: own.evidence[name] for name in _BOUNDS if name in own.evidence}
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
