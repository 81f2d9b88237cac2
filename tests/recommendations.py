"""Recommendations of every kind, for the tests of their reports."""

from dataclasses import replace
from typing import Any

from report_parts import HOSTILE

from poolctl.api.results import RecommendResult
from poolctl.diagnose.finding import Finding, Holder
from poolctl.observe.snapshot import Source
from poolctl.sizing.defaults import fill_defaults
from poolctl.sizing.figures import Figures, TopStatement, Window, given, measured
from poolctl.sizing.recommend import drop_moot_findings, explain_refusal, recommend, refuse, reject_unverified
from poolctl.sizing.sweep_table import SweepPoint
from poolctl.sizing.verify import TrialOutcome, Verification
from poolctl.stacks.advice import write_configs

VECTOR = Figures(
    arrival_rate=given(150), hold_time=given(0.008), hold_cv=given(2), wait_target=given(0.05), workers=given(4),
    processes=given(2), instances=given(8), max_instances=given(12), surge_share=given(0.25), terminating=given(3),
    max_connections=given(100), superuser_reserved=given(3), reserved=given(0), other_connections=given(12),
    headroom=given(3), capacity=given(20),
)  # fmt: skip
"""A division of the slots among all processes, worked out by hand."""

MEASURED = Figures(
    throughput=measured(186), parallelism=measured(28.4), parallelism_counted=measured(27.9),
    parallelism_p95=measured(35), parallelism_p99=measured(36), parallelism_max=measured(36),
    instances=measured(6), max_connections=measured(300), superuser_reserved=measured(3), reserved=measured(0),
    other_connections=measured(0), cores=measured(2), cpu_time=measured(0.0085), connect_time=measured(0.0072),
    current_max_open=measured(30), database_cpu=measured(0.99), window=60.0, samples=260, effective_samples=240.0,
    observed_at="2026-11-25 02:25:12 UTC", method="samples and counters",
    windows=tuple(Window(10.0, 186.0 + at, 27.0 + at) for at in range(6)),
)  # fmt: skip

STATEMENT = TopStatement(
    query="SELECT sum(amount) FROM orders WHERE customer_id = $1",
    share=0.97,
    calls_per_second=186.0,
    mean_time=0.145,
    table="orders",
    column="customer_id",
    rows_read=4_000_000.0,
    rows_returned=1.0,
)


def of(figures: Figures, *stacks: str, **more: Any) -> RecommendResult:
    """What ``recommend`` tells of ``figures``, with the blocks for ``stacks``."""
    answer = drop_moot_findings(recommend(figures))
    known, _ = fill_defaults(figures)
    configs, note = write_configs(answer, known, stacks)
    values: dict[str, Any] = {"notes": tuple(filter(None, [note])), "repeat": "poolctl recommend --arrival-rate 150"}
    return RecommendResult(answer, known, configs, **(values | more))


def balanced() -> RecommendResult:
    return of(VECTOR, "pgxpool", "sqlalchemy", verification=tried())


def starved() -> RecommendResult:
    """The slots bind, and a pooler would help."""
    return of(VECTOR.with_(wait_target=given(0.005)), "hikaricp", "pgbouncer", unverified="Not tried: --no-verify")


def infeasible() -> RecommendResult:
    return of(VECTOR.with_(max_connections=given(40)), "pgxpool")


def bare() -> RecommendResult:
    """Next to nothing is known."""
    return of(Figures(instances=given(3)))


def swept() -> RecommendResult:
    rows = ((1, 179), (2, 349), (4, 696), (8, 1375), (16, 2437), (32, 5306), (64, 7356), (128, 4100))
    points = tuple(SweepPoint(connections, float(rate)) for connections, rate in rows)
    return of(Figures(instances=given(4), max_connections=given(300), sweep=points))


def slow() -> RecommendResult:
    """The second story: a missing index."""
    sources = (Source("postgres", "db1.test:5432/shop"), Source("host", "this machine"))
    return of(MEASURED.with_(top_statement=STATEMENT), "pgxpool", application="shop-api", sources=sources, planned=60.0)


def leaking() -> RecommendResult:
    """A leak that the diagnosis of the same look found."""
    whole = of(MEASURED.with_(database_cpu=measured(0.2)), application="shop-api", planned=60.0)
    finding = Finding(
        code="leak-in-transaction",
        severity="warning",
        confidence="likely",
        layer="application",
        summary="shop-api holds 12 connections idle in a transaction that nobody comes back to",
        evidence={"survivors": 12, "oldest_transaction_time": 412.0},
        holders=(Holder("shop-api", "app", "10.0.0.7", (4711, 4712), None, "/checkout", "SELECT ..."),),
        remedy="Release on every path of that code: finally, with, defer",
        frees=12,
    )
    answer = refuse(whole.recommendation, [explain_refusal(finding, whole.figures, whole.recommendation)])
    return replace(whole, recommendation=drop_moot_findings(answer))


def unproven() -> RecommendResult:
    """A size that failed its own verification."""
    whole = balanced()
    bad = replace(tried(), passed=False, failures=("its p99 wait is 212 ms, of 50 ms asked for",))
    return replace(whole, recommendation=reject_unverified(whole.recommendation, bad), verification=bad, configs=())


def interrupted() -> RecommendResult:
    sources = (Source("postgres", "db1.test:5432/shop"), Source("pgbouncer", "pgb1:6432", False, "no answer for 3.0 s"))
    figures = MEASURED.with_(window=12.0, samples=55, effective_samples=40.0, database_cpu=measured(0.3))
    return of(figures, interrupted=True, planned=60.0, sources=sources, application="shop-api")


def hostile() -> RecommendResult:
    statement = replace(STATEMENT, query=HOSTILE, table=HOSTILE, column=HOSTILE)
    sources = (Source("postgres", HOSTILE, False, HOSTILE),)
    return of(
        MEASURED.with_(top_statement=statement, lock_share=measured(0.9)),
        application=HOSTILE,
        sources=sources,
        notes=(HOSTILE,),
        unverified="",
        repeat=f"poolctl recommend --application {HOSTILE!r}",
    )


def tried() -> Verification:
    def outcome(
        max_open: int, wait: float, moment: str = "steady", *, current: bool = False, lost: int = 0
    ) -> TrialOutcome:
        return TrialOutcome(f"max_open {max_open}", moment, max_open, current, 1198.2, 1201.0, wait, lost, 0, 0.31)

    steady = (outcome(1, 0.143), outcome(2, 0.0246), outcome(3, 0.005), outcome(4, 0.0))
    now = outcome(30, 0.0, "largest", current=True, lost=211)
    moments = (
        outcome(2, 0.0081, "largest"),
        outcome(2, 0.051, "deploy"),
        now,
    )
    return Verification(steady, moments, 0.998, True)


ALL = (balanced, starved, infeasible, bare, swept, slow, leaking, unproven, interrupted, hostile)
