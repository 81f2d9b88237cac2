"""Findings over time: each is reported once when it begins, gets worse and ends, however it wavers."""

from poolctl.diagnose.finding import Finding, Holder, Severity
from poolctl.diagnose.live.events import ENDS_AFTER, FindingLog


def find(code: str, severity: Severity = "warning", *applications: str) -> Finding:
    holders = tuple(Holder(name, pids=(1,)) for name in applications)
    return Finding(code, severity, "likely", "database", "a sentence", {}, "", holders, "", 0)


def play(level: Severity, *diagnoses: tuple[float, list[Finding]]) -> list[tuple[str, str, float]]:
    log = FindingLog(level)
    return [(e.kind, e.finding.code, e.at) for at, findings in diagnoses for e in log.update(at, findings)]


def test_a_finding_begins_once_and_ends_a_minute_after_its_last_diagnosis() -> None:
    leak = find("leak", "critical", "shop")

    events = play("warning", (0.0, [leak]), (5.0, [leak]), (10.0, []), (60.0, []), (65.0, []), (70.0, []))

    assert events == [("began", "leak", 0.0), ("ended", "leak", 5.0)]


def test_one_that_wavers_is_one() -> None:
    wavering = [(at, [find("slots-low")] if at % 20 == 0 else []) for at in map(float, range(0, 300, 5))]

    assert play("warning", *wavering) == [("began", "slots-low", 0.0)]


def test_one_that_gets_worse_is_reported_again_but_not_when_it_gets_better() -> None:
    mild, bad = find("lock-queue"), find("lock-queue", "critical")

    events = play("warning", (0.0, [mild]), (5.0, [bad]), (10.0, [mild]), (15.0, [bad]))

    assert events == [("began", "lock-queue", 0.0), ("worsened", "lock-queue", 5.0)]


def test_what_is_below_the_level_is_not_reported_and_one_that_reaches_it_begins() -> None:
    events = play("critical", (0.0, [find("leak")]), (5.0, [find("leak", "critical")]))

    assert events == [("began", "leak", 5.0)]
    assert play("warning", (0.0, [find("oversized-pool", "info"), find("healthy", "info")])) == []


def test_two_applications_with_the_same_finding_are_two() -> None:
    events = play("warning", (0.0, [find("leak", "warning", "shop")]), (5.0, [find("leak", "warning", "search")]))

    assert [kind for kind, _, _ in events] == ["began", "began"]


def test_the_end_of_the_watch_ends_what_is_under_way() -> None:
    log = FindingLog("warning")
    log.update(0.0, [find("leak")])

    assert [event.kind for event in log.end()] == ["ended"]
    assert log.is_quiet
    assert ENDS_AFTER == 60.0
