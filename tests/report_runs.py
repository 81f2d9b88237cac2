"""Runs as the engines return them, for the tests of reports."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from report_parts import HOSTILE, connections, scenario, spread, summary, timeline, times

from poolctl.api.results import SimulateResult, Variant
from poolctl.diagnose.finding import Finding, Holder
from poolctl.pool import Closed
from poolctl.scenario.histogram import Times
from poolctl.scenario.run import (
    ErrorKind,
    Generator,
    Machine,
    ObservedError,
    ObservedServer,
    Run,
    ScannedTable,
    Statement,
    Summary,
)


def healthy() -> tuple[Run, tuple[Finding, ...]]:
    run = Run(
        engine="live",
        scenario=scenario(
            "correct checkout", pool={"max_open": 10, "max_idle": 8}, load={"workers": 8, "hold": "15ms"}
        ),
        seed=1,
        summary=summary(),
        timeline=timeline(
            10,
            lambda at: (0, 5, 7, 6, 8, 6, 7, 5)[int(at * 10) % 8] if 0 < at < 10 else 0,
            idle=lambda at: (0, 3, 1, 2, 0, 2, 1, 3)[int(at * 10) % 8] if 0 < at < 10 else 8 if at else 0,
            server=lambda at: 8 if at else 0,
            rate=481.2,
        ),
        generator=Generator(spread(100, 0.00001, 0.0009), 0.41, ideal_wait=0.0, measured_wait=0.00038),
    )
    finding = Finding(
        code="healthy",
        severity="info",
        confidence="certain",
        layer="application",
        summary="nothing is wrong: all 4,812 acquires were served, at most 8 of 10 connections were open",
        evidence={"peak_open": 8, "max_open": 10, "wait_p99": 0.0039},
    )
    return run, (finding,)


def _leaking_summary() -> Summary:
    return summary(
        offered=2973,
        acquired=556,
        released=546,
        leaked=10,
        timed_out=2382,
        unfinished=35,
        duration=60.0,
        throughput=9.1,
        offered_rate=49.55,
        wait_time=times(*[0.003] * 500, *[0.6] * 56, *[1.0] * 2382, *[0.5] * 35),
        queued_count=2471,
        queued_time=2433.2,
        use_time=spread(546, 0.001, 0.71),
        connections=connections(
            opened=10,
            open=10,
            in_use=10,
            idle=0,
            peak_open=10,
            peak_in_use=10,
            average_open=9.87,
            average_in_use=9.6,
        ),
        connect_time=spread(10, 0.0021, 0.0043),
        exhausted_at=12.0,
        errors=(ObservedError(ErrorKind("pool", "AcquireTimeout", None, "context deadline exceeded"), 2382, 13.04),),
        server=ObservedServer(100, 97, 10, 0, "18.6", 0.06, 2, {"idle": 10}),
    )


def leaking() -> tuple[Run, tuple[Finding, ...]]:
    run = Run(
        engine="live",
        scenario=scenario(
            "leaky checkout",
            pool={"max_open": 10, "max_idle": 10, "acquire_timeout": "1s"},
            load={"rate": 50.0, "hold": {"distribution": "exponential", "mean": "100ms"}, "duration": "60s"},
            leak={"every": 100},
        ),
        seed=1,
        summary=_leaking_summary(),
        timeline=timeline(
            60,
            lambda at: min(10, int(at / 1.2) + (0, 4, 2, 3)[int(at * 10) % 4] if at < 12 else 10),
            idle=lambda at: 10 - min(10, int(at / 1.2) + (0, 4, 2, 3)[int(at * 10) % 4]) if 2 < at < 12 else 0,
            waiting=lambda at: (
                0 if at < 12 else min(50, int((at - 12) * 50)) - (0, 3, 1, 5)[int(at * 10) % 4] * (at > 13)
            ),
            server=lambda at: 10 if at > 2 else min(10, int(at * 6)),
        ),
        generator=Generator(spread(100, 0.00001, 0.0009), 0.08, ideal_wait=0.0001, measured_wait=0.0034),
    )
    leak = Finding(
        code="leak",
        severity="critical",
        confidence="certain",
        layer="application",
        summary="pool exhausted at 12 s and never recovered: 10 of 10 in use, 35 waiting; "
        "10 acquires were never released",
        evidence={"leaked": 10, "max_open": 10, "exhausted_at": 12.0, "waiting": 35, "last_leak_at": 11.98},
        holders=(Holder(application="poolctl", pids=(4711, 4712, 4713), last_query="select pg_sleep($1)"),),
        remedy="Release in a finally block, or use the pool's context manager.\n"
        "Find the holder: poolctl inspect --leak-threshold 30s",
        frees=10,
    )
    small = Finding(
        code="pool-too-small",
        severity="info",
        confidence="undetermined",
        layer="application",
        summary="without the leak 50 requests/s of 100 ms need 5 connections on average",
        evidence={"demand": 5.0},
        remedy="Leave max_open at 10: a larger pool only delays the end.",
        decide_by="a run with --set leak.every=0",
    )
    return run, (small, leak)


def _refused_summary() -> Summary:
    return summary(
        offered=21936,
        acquired=9936,
        released=9840,
        refused=11988,
        failed=12,
        throughput=984.0,
        offered_rate=2193.6,
        wait_time=spread(21936, 0.0002, 0.21),
        connections=connections(
            opened=289,
            open_failures=12000,
            closed=Closed(max_idle=95, error=97),
            open=97,
            in_use=96,
            idle=1,
            peak_open=117,
            peak_in_use=97,
            average_open=101.3,
            average_in_use=88.1,
        ),
        connect_time=spread(289, 0.0031, 0.19),
        exhausted_at=0.8,
        recovered_at=9.1,
        errors=(
            ObservedError(
                ErrorKind("server", "TooManyConnections", "53300", "FATAL:  sorry, too many clients already"),
                4021,
                0.61,
            ),
            ObservedError(
                ErrorKind(
                    "server",
                    "TooManyConnections",
                    "53300",
                    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
                ),
                7967,
                0.64,
            ),
            ObservedError(
                ErrorKind("server", "AdminShutdown", "57P01", "terminating connection due to administrator command\n"),
                12,
                5.02,
            ),
        ),
        server=ObservedServer(
            100,
            97,
            97,
            11988,
            "18.6",
            1.71,
            2,
            {"active, PgSleep": 61, "idle": 30, "idle in transaction": 6},
            (ScannedTable("public.orders", 500_000, 1203, 601_500_000),),
            (Statement("SELECT * FROM orders WHERE customer_id = $1", 9936, 412.3, 0.983),),
        ),
    )


def refused_fleet() -> tuple[Run, tuple[Finding, ...]]:
    def in_use(at: float) -> int:
        return min(97, int(at * 40))

    one = summary(offered=3656, acquired=1656, released=1640, refused=1998, failed=2, throughput=164.0, server=None)
    run = Run(
        engine="live",
        scenario=scenario(
            "six pods",
            pool={"max_open": 30, "max_idle": 20, "max_lifetime": "30m"},
            load={"instances": 6, "workers": 30, "query": "SELECT * FROM orders WHERE customer_id = 42"},
            events=[{"at": "5s", "do": "restart"}],
        ),
        seed=7,
        summary=_refused_summary(),
        timeline=timeline(10, in_use, idle=lambda at: 20 if 4 < at < 5 else 0, server=in_use, rate=993.4),
        instances=tuple(one for _ in range(6)),
        generator=Generator(spread(100, 0.00001, 0.0009), 0.55),
        notes=("instance 4 was killed at 8.1 s; its numbers end there",),
    )
    finding = Finding(
        code="fleet-over-budget",
        severity="critical",
        confidence="certain",
        layer="application",
        summary="the server refused 11,988 clients from 0.61 s on: 6 instances x max_open 30 = 180 want the 97 slots "
        "that max_connections 100 leaves",
        evidence={"wanted": 180, "usable": 97, "refused": 11988, "first_refused_at": 0.61},
        remedy="Set max_open to 16 on each of the 6 instances (97 / 6), or put a pooler in between.",
        frees=83,
    )
    return run, (finding,)


def generator_bound() -> tuple[Run, tuple[Finding, ...]]:
    run, findings = healthy()
    return replace(run, generator=Generator(spread(1000, 0.0001, 0.0312), 0.97)), findings


def on_machines() -> tuple[Run, tuple[Finding, ...]]:
    """Three machines of a cluster: one was too slow, one was lost."""
    run, findings = healthy()
    machines = (
        Machine("10.0.0.2:40001", 4, 801, 801, 0.0008, 0.31, clock_offset=0.0004, start_uncertainty=0.0011),
        Machine("10.0.0.3:40001", 4, 799, 799, 0.0312, 0.97),
        Machine("10.0.0.4:40001", 4, 212, 210, 0.0009, 0.30, loss="no answer for 4.5 s"),
    )
    failure = "4 of 12 instances ended before they were done: lost with the worker 10.0.0.4:40001"
    return replace(run, machines=machines, failure=failure), _undetermined(findings)


def _undetermined(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    summary = "Undetermined: of what was measured, all 4,812 acquires served, p99 wait 3.94 ms, at most 8 of 10 in use"
    return tuple(replace(finding, confidence="undetermined", summary=summary) for finding in findings)


def interrupted() -> tuple[Run, tuple[Finding, ...]]:
    run, findings = leaking()
    cut = replace(run, interrupted=True, timeline=tuple(point for point in run.timeline if point.at <= 17.3))
    return cut, findings


def broken() -> tuple[Run, tuple[Finding, ...]]:
    """The server died in the middle."""
    run, findings = healthy()
    cut = tuple(point for point in run.timeline if point.at <= 4.2)
    return replace(run, failure="the server ended at 4.2 s: out of memory", timeline=cut), _undetermined(findings)


def _unlimited_summary() -> Summary:
    return summary(
        offered=4012,
        acquired=4012,
        released=3112,
        throughput=311.2,
        offered_rate=401.2,
        wait_time=spread(4012, 0.00002, 0.0041),
        use_time=spread(3112, 0.0102, 2.94),
        connect_time=spread(1733, 0.0051, 0.0098),
        connections=connections(
            opened=1733,
            closed=Closed(max_idle=833),
            open=900,
            in_use=898,
            idle=2,
            peak_open=902,
            peak_in_use=900,
            average_open=302.5,
            average_in_use=300.4,
        ),
        server=None,
    )


def unlimited() -> tuple[Run, tuple[Finding, ...]]:
    def in_use(at: float) -> int:
        return int(at * at * 9)

    run = Run(
        engine="model",
        scenario=scenario(
            "max_open 0",
            pool={"max_open": 0},
            load={
                "rate": 400.0,
                "hold": {"distribution": "lognormal", "mean": "400ms", "cv": 2.0},
                "bursts": [{"at": "5s", "workers": 50}],
            },
        ),
        seed=3,
        summary=_unlimited_summary(),
        timeline=timeline(10, in_use, idle=lambda at: 2, rate=401.2),
    )
    finding = Finding(
        code="unbounded-pool",
        severity="warning",
        confidence="likely",
        layer="application",
        summary="the pool has no limit and grew to 902 connections in 10 s; a server with 97 slots refuses the 98th",
        evidence={"peak_open": 902, "max_open": 0},
        remedy="Set max_open to 97 or less, and acquire_timeout to what a caller can wait.",
    )
    return run, (finding,)


def hostile() -> tuple[Run, tuple[Finding, ...]]:
    run, findings = healthy()
    errors = (
        ObservedError(ErrorKind("server", "Weird", "XX000", HOSTILE), 3, 1.0),
        ObservedError(ErrorKind("server", "Huge", "XX001", "A" * 1_000_000), 1, 2.0),
        ObservedError(
            ErrorKind("po\x1b[31moler", "Odd", "\x9b1;31m", "日本語のエラー and \ud800, half a pair"), 2, 3.0
        ),
    )
    seen = replace(
        run.summary,
        failed=6,
        offered=4818,
        wait_time=spread(4818, 0.00002, 0.0041),
        errors=errors,
        server=ObservedServer(
            100,
            97,
            8,
            0,
            "18.6\x1b[0m",
            0.3,
            2,
            {HOSTILE: 2, "idle": 6},
            (ScannedTable(HOSTILE, 1, 1, 1),),
            (Statement(HOSTILE, 1, 0.5, 1.0),),
        ),
    )
    worst = replace(
        findings[0],
        code="leak",
        severity="warning",
        summary=f"application {HOSTILE} holds 8 connections",
        evidence={HOSTILE: HOSTILE, "nan": float("nan"), "infinite_wait": float("inf"), "nested": {"a": [1, None]}},
        holders=(Holder(application=HOSTILE, user="[bold]", client="\x07", pids=tuple(range(20)), last_query=HOSTILE),),
        remedy=f"Stop {HOSTILE}",
    )
    told = replace(run, scenario=scenario(HOSTILE, load={"workers": 1, "query": HOSTILE}), notes=(HOSTILE,))
    return replace(told, summary=seen), (worst,)


def empty() -> tuple[Run, tuple[Finding, ...]]:
    """Stopped before anything happened."""
    nothing = Times()
    run = Run(
        engine="live",
        scenario=scenario("nothing", load={"workers": 1}),
        seed=1,
        summary=summary(
            offered=0,
            acquired=0,
            released=0,
            duration=0.0,
            throughput=0.0,
            offered_rate=0.0,
            wait_time=nothing,
            use_time=nothing,
            connect_time=nothing,
            connections=connections(
                opened=0, open=0, idle=0, peak_open=0, peak_in_use=0, average_open=0.0, average_in_use=0.0
            ),
            server=None,
        ),
        timeline=(),
        interrupted=True,
    )
    return run, ()


ALL: Sequence[Callable[[], tuple[Run, tuple[Finding, ...]]]] = (
    healthy,
    leaking,
    refused_fleet,
    generator_bound,
    on_machines,
    interrupted,
    broken,
    unlimited,
    hostile,
    empty,
)


def simulate_document(run: Run, findings: Sequence[Finding]) -> dict[str, Any]:
    """Make the document of a single run."""
    return SimulateResult("live", (Variant("", run, tuple(findings)),)).to_dict()
