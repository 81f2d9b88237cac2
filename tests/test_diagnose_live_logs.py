"""What a log alone is enough for, and what it leaves open."""

from typing import Any

import pytest
from observations import find

from poolctl.diagnose.finding import Diagnosis
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.observe.snapshot import (
    LogFacts,
    LoggedApplication,
    LoggedLockWait,
    LoggedRefusals,
    Observation,
    PoolFigures,
    Snapshot,
    Source,
)

AT = 1_791_873_062.0


def verdict(**facts: Any) -> Diagnosis:
    log = LogFacts(first_at=AT, last_at=AT + 100.0, lines=1000, **facts)
    return diagnose(Observation((Snapshot(AT + 100.0),), sources=(Source("evidence", "server.log"),), log=log))


def codes(diagnosis: Diagnosis) -> list[str]:
    return [finding.code for finding in diagnosis.findings]


@pytest.mark.parametrize(
    ("by", "code"),
    [
        ("server-slots", "slots-exhausted"),
        ("superuser-slots", "slots-exhausted"),
        ("role-limit", "role-limit"),
        ("pooler-clients", "pooler-client-limit"),
    ],
)
def test_refusals_are_counted_with_when_and_whose(by: Any, code: str) -> None:
    refusals = LoggedRefusals(by, "the words of the refusal", 12, AT, AT + 60.0, {"web": 10, "worker": 2})

    finding = find(verdict(refusals=(refusals,)), code)

    assert finding.summary == (
        "12 clients were refused, from 2026-10-13 06:31:02 to 2026-10-13 06:32:02, most of them of "
        '"web" (10): "the words of the refusal"'
    )
    assert finding.confidence == "certain"
    assert [holder.application for holder in finding.holders] == ["web", "worker"]
    assert finding.decide_by is not None


def test_a_queue_behind_one_holder_is_a_lock_queue_and_a_single_short_wait_is_none() -> None:
    queue = LoggedLockWait((12,), (13, 14), 4.0, "process 13 still waiting", AT, count=5)
    short = LoggedLockWait((12,), (13,), 0.2, "process 13 still waiting", AT, count=1)

    finding = find(verdict(lock_waits=(queue,)), "lock-queue")

    assert finding.holders[0].pids == (12,)
    assert "lock-queue" not in codes(verdict(lock_waits=(short,)))


def test_sessions_of_less_than_a_second_are_churn_and_long_ones_are_not() -> None:
    brief = LoggedApplication("lambda", 400, AT, brief=390, session_time=0.1)
    long = LoggedApplication("web", 400, AT, brief=10, session_time=600.0)

    assert find(verdict(applications=(long, brief)), "connection-churn").holders[0].application == "lambda"
    assert "connection-churn" not in codes(verdict(applications=(long,)))


def test_leaks_that_the_pool_reported_are_likely_until_they_come_back() -> None:
    finding = find(verdict(leaks=("conn7 on thread t1",), leaks_returned=2), "leak")

    assert finding.confidence == "likely"
    assert "2 others came back" in finding.summary
    assert "leak" not in codes(verdict(leaks=(), leaks_returned=3))


def test_a_starved_process_and_a_poolers_queue_are_named_as_what_they_are() -> None:
    assert "client-starved" in codes(verdict(was_starved=True))
    assert find(verdict(queue_timeouts=9), "waiting-unexplained").layer == "pooler"


def test_a_quiet_log_is_not_called_healthy_for_sure() -> None:
    assert find(verdict(), "healthy").confidence == "undetermined"


def history(counts: list[int], *, acquires: list[float] | None = None, use_time: float = 0.02) -> Diagnosis:
    """Diagnose a pool of ten over ten minutes; each acquire is used for ``use_time`` seconds."""
    totals = acquires or [100.0 * at for at in range(len(counts))]
    snapshots = [
        Snapshot(
            AT + 30.0 * at,
            pools=(
                PoolFigures(
                    *("http://prometheus", "web", "hikaricp"),
                    max_open=10,
                    in_use=count,
                    idle=10 - count,
                    waiting=0,
                    acquired_total=total,
                    use_count_total=total,
                    use_time_total=total * use_time,
                ),
            ),
        )
        for at, (count, total) in enumerate(zip(counts, totals, strict=True))
    ]
    return diagnose(Observation(tuple(snapshots), sources=(Source("prometheus", "http://prometheus"),), interval=30.0))


def test_a_pool_that_fills_under_an_even_load_leaks() -> None:
    finding = find(history([1, 2, 1, 2, 3, 4, 5, 5, 6, 7, 8, 7, 8]), "leak")

    assert (finding.severity, finding.confidence, finding.evidence["risen_by"]) == ("warning", "likely", 6)


def test_a_pool_that_fills_under_a_growing_load_is_undetermined() -> None:
    totals = [float(at**3) for at in range(13)]

    finding = find(history([1, 2, 1, 2, 3, 4, 5, 5, 6, 7, 8, 7, 8], acquires=totals), "leak-or-long-hold")

    assert finding.confidence == "undetermined"
    assert finding.decide_by is not None


def test_a_pool_that_goes_up_and_down_does_not_fill() -> None:
    assert codes(history([1, 8, 2, 9, 1, 7, 2, 9, 1, 8, 2, 9, 1])) == ["healthy"]


def test_a_history_that_ends_with_a_full_pool_is_no_proof_of_health() -> None:
    found = history([1, 8, 2, 9, 1, 7, 2, 9, 1, 8, 2, 10, 10]).findings[0]

    assert (found.code, found.confidence) == ("healthy", "undetermined")
