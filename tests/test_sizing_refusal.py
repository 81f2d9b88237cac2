"""Answers that become refusals, and what is left of them."""

from dataclasses import replace

import pytest
import recommendations

from poolctl.diagnose.finding import Finding
from poolctl.sizing.figures import measured
from poolctl.sizing.recommend import recommend
from poolctl.sizing.refusal import beside_the_point, failed, refused, settled

LEAK = Finding("leak", "warning", "likely", "application", "12 connections never come back", remedy="release them")
ANSWER = recommend(recommendations.VECTOR)


def test_a_refusal_has_no_sizes_and_its_reason_comes_first() -> None:
    answer = refused(ANSWER, [LEAK])

    assert answer.is_refused
    assert (answer.recommendation.max_open, answer.recommendation.max_idle) == (None, None)
    assert (answer.verdict, answer.worst_case_connections) == ("refused", None)
    assert (answer.findings[0].code, answer.findings[0].severity) == ("leak", "critical")


def test_what_a_pool_of_another_size_could_gain_at_most_is_told_with_a_cause() -> None:
    figures = recommendations.MEASURED.with_(database_cpu=measured(0.8))

    finding = beside_the_point(LEAK, figures, recommend(figures))

    assert finding.summary == "Pool size is not the problem: 12 connections never come back"
    assert finding.evidence["most_gain_from_pool"] == pytest.approx(0.25)


def test_a_slow_database_is_told_with_its_statement_table_and_column() -> None:
    figures = recommendations.MEASURED.with_(top_statement=recommendations.STATEMENT, database_cpu=None)
    slow = replace(LEAK, code="slow-database", summary="139 statements at work on 2 cores")

    finding = beside_the_point(slow, figures, recommend(figures))

    assert finding.evidence["statement_share"] == 0.97
    assert (finding.evidence["table"], finding.evidence["column"]) == ("orders", "customer_id")
    assert finding.evidence["most_gain_from_pool"] is None
    assert finding.summary.endswith("without the statement up to 33 times as much gets done")


def test_a_recommendation_that_failed_its_own_verification_is_none() -> None:
    tried = replace(recommendations.tried(), passed=False, failures=("the server refuses 7 acquires",))

    answer = failed(ANSWER, tried)

    assert answer.is_refused
    assert answer.findings[0].code == "verification-failed"
    assert "max_open 2 was tried and does not hold: the server refuses 7 acquires" in answer.findings[0].summary


def test_findings_about_a_number_go_with_the_number() -> None:
    late = Finding("wait-target-missed", "warning", "likely", "application", "too few")
    answer = replace(ANSWER, findings=(late,))

    assert settled(answer) == answer
    assert [finding.code for finding in settled(refused(answer, [LEAK])).findings] == ["leak"]
