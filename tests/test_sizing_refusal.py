"""Answers that become refusals, and what is left of them."""

from dataclasses import replace

import pytest
import recommendations

from poolctl.diagnose.finding import Finding, Holder
from poolctl.sizing.figures import measured
from poolctl.sizing.recommend import (
    add_diagnosis,
    drop_moot_findings,
    explain_refusal,
    recommend,
    refuse,
    reject_unverified,
)

LEAK = Finding("leak", "warning", "likely", "application", "12 connections never come back", remedy="release them")
ANSWER = recommend(recommendations.VECTOR)


def test_a_refusal_has_no_sizes_and_its_reason_comes_first() -> None:
    answer = refuse(ANSWER, [LEAK])

    assert answer.is_refused
    assert (answer.recommendation.max_open, answer.recommendation.max_idle) == (None, None)
    assert (answer.verdict, answer.worst_case_connections) == ("refused", None)
    assert (answer.findings[0].code, answer.findings[0].severity) == ("leak", "critical")


@pytest.mark.parametrize("code", ["leak-in-transaction", "self-deadlock"])
def test_what_explains_idle_transactions_is_named_without_what_their_end_would_save(code: str) -> None:
    figures = recommendations.MEASURED.with_(transaction_idle_share=measured(1.0))
    cause = replace(LEAK, code=code, confidence="undetermined")

    answer = add_diagnosis(recommend(figures), figures, [cause], [])

    assert answer.findings[0].summary == "No pool size follows from this: 12 connections never come back"
    assert "held-across-io" not in {each.code for each in answer.findings}


def test_what_a_pool_of_another_size_could_gain_at_most_is_told_with_a_cause() -> None:
    figures = recommendations.MEASURED.with_(database_cpu=measured(0.8))

    finding = explain_refusal(LEAK, figures, recommend(figures))

    assert finding.summary == "Pool size is not the problem: 12 connections never come back"
    assert finding.evidence["most_gain_from_pool"] == pytest.approx(0.25)


def test_a_slow_database_is_told_with_its_statement_table_and_column() -> None:
    figures = recommendations.MEASURED.with_(top_statement=recommendations.STATEMENT, database_cpu=None)
    slow = replace(LEAK, code="slow-database", summary="139 statements at work on 2 cores")

    finding = explain_refusal(slow, figures, recommend(figures))

    assert finding.evidence["statement_share"] == 0.97
    assert (finding.evidence["table"], finding.evidence["column"]) == ("orders", "customer_id")
    assert finding.evidence["most_gain_from_pool"] is None
    assert finding.summary.endswith("without the statement up to 33 times as much gets done")


def test_a_queue_for_a_lock_is_told_once_with_who_is_at_its_head_and_both_bounds() -> None:
    figures = recommendations.MEASURED.with_(
        lock_share=measured(0.6), censored_share=measured(0.5), database_cpu=measured(0.1)
    )
    queue = replace(LEAK, code="lock-queue", summary="8 wait behind migrator", holders=(Holder("migrator"),))

    answer = add_diagnosis(recommend(figures), figures, [queue], [LEAK])

    [found] = [each for each in answer.findings if each.code == "lock-queue"]
    assert answer.is_refused
    assert answer.findings[0] is found
    assert found.summary == "Pool size is not the problem: 8 wait behind migrator"
    assert found.holders == queue.holders
    assert found.evidence["most_gain_from_pool"] == 0.05
    assert found.evidence["gain_from_locks"] == pytest.approx(2.5)
    assert LEAK in answer.findings


def test_a_slow_statement_is_told_once_by_what_it_reads() -> None:
    figures = recommendations.MEASURED.with_(top_statement=recommendations.STATEMENT, database_cpu=measured(0.99))
    slow = replace(LEAK, code="slow-database", summary="139 statements at work on 2 cores")

    answer = add_diagnosis(recommend(figures), figures, [slow], [])

    [found] = [each for each in answer.findings if each.code == "slow-database"]
    assert "one statement has 97 % of the database's time and reads" in found.summary


def test_what_is_found_beside_the_size_does_not_refuse_it() -> None:
    answer = add_diagnosis(ANSWER, recommendations.VECTOR, [], [LEAK])

    assert answer.recommendation == ANSWER.recommendation
    assert answer.findings == (*ANSWER.findings, LEAK)


def test_a_recommendation_that_failed_its_own_verification_is_none() -> None:
    tried = replace(recommendations.tried(), passed=False, failures=("the server refuses 7 acquires",))

    answer = reject_unverified(ANSWER, tried)

    assert answer.is_refused
    assert answer.findings[0].code == "verification-failed"
    assert "max_open 2 was tried and fails: the server refuses 7 acquires" in answer.findings[0].summary


@pytest.mark.parametrize(("origin", "is_refused"), [("assumed", False), ("given", True)])
def test_a_size_that_only_misses_a_wait_target_that_nobody_gave_is_kept(origin: str, is_refused: bool) -> None:
    late = ("its p99 wait is 23.1 ms, and the target is 16.1 ms",)
    tried = replace(recommendations.tried(), passed=False, failures=late, is_only_late=True, in_time=3)
    measured_by = replace(ANSWER.measured, sources={**ANSWER.measured.sources, "wait_target": origin})

    answer = reject_unverified(replace(ANSWER, measured=measured_by), tried)

    assert answer.is_refused == is_refused
    if not is_refused:
        [doubt] = [finding for finding in answer.findings if finding.code == "verification-failed"]
        assert (doubt.severity, answer.recommendation.confidence) == ("warning", "low")
        assert doubt.remedy == "Set max_open 3, which met it; or give --wait-target, if requests may wait longer"


def test_findings_about_a_number_go_with_the_number() -> None:
    late = Finding("wait-target-missed", "warning", "likely", "application", "too few")
    answer = replace(ANSWER, findings=(late,))

    assert drop_moot_findings(answer) == answer
    assert [finding.code for finding in drop_moot_findings(refuse(answer, [LEAK])).findings] == ["leak"]


def test_no_larger_pool_to_measure_with_is_asked_for_beside_a_cause_that_no_pool_mends() -> None:
    figures = recommendations.MEASURED.with_(censored_share=measured(0.5))
    censored = recommend(figures)

    beside = drop_moot_findings(add_diagnosis(censored, figures, [LEAK], []))

    assert "demand-censored" in [finding.code for finding in drop_moot_findings(censored).findings]
    assert "demand-censored" not in [finding.code for finding in beside.findings]
