"""Reports of processes as a guard would send them, staged: one for each finding that only the guard reports."""

from collections.abc import Sequence

from poolctl.guard.guard_findings import find_leaks
from poolctl.guard.guard_report import (
    CreatedPools,
    HeldConnection,
    IncidentReport,
    Line,
    NestingReport,
    PoolReport,
    ProcessReport,
    SiteFigures,
)
from poolctl.guard.guard_text import GuardView, report_lines

NOW = 1000.0
CHARGE = (Line("shop/refund.py", 41, "charge"), Line("shop/views.py", 18, "refund"))
STOCK = (Line("shop/stock.py", 12, "reserve"),)
POOL = PoolReport("psycopg_pool", "pool-1", max_open=10, acquired=1200, released=1199, in_use=1)


def hold(
    *,
    site: tuple[Line, ...] = CHARGE,
    age: float = 5.0,
    state: str = "idle in transaction",
    outcome: str = "",
    waiting: bool = False,
    is_pool: bool = True,
    via: str = "",
    is_exempt: bool = False,
) -> HeldConnection:
    """Return a connection that is out for ``age`` seconds, or a request that has waited for as long."""
    return HeldConnection(
        library="psycopg_pool",
        pool="pool-1",
        is_pool=is_pool,
        site=site,
        actor_kind="thread",
        actor="worker-1",
        asked_at=NOW - age,
        acquired_at=None if waiting else NOW - age,
        actor_outcome=outcome,
        state=state,
        backend_pid=4711,
        via=via,
        is_exempt=is_exempt,
    )


def process(
    *,
    holds: Sequence[HeldConnection] = (),
    incidents: Sequence[IncidentReport] = (),
    nestings: Sequence[NestingReport] = (),
    created: Sequence[CreatedPools] = (),
    sites: Sequence[SiteFigures] = (),
    pools: Sequence[PoolReport] = (POOL,),
    ended: bool = True,
    pid: int = 100,
) -> ProcessReport:
    """Return the report of a process that ran with a pool of ten."""
    return ProcessReport(
        pid=pid,
        parent=1,
        program="app.py",
        taken_at=NOW,
        ended=ended,
        python="3.13.1",
        libraries=("psycopg_pool 3.3",),
        holds=tuple(holds),
        incidents=tuple(incidents),
        nestings=tuple(nestings),
        created=tuple(created),
        sites=tuple(sites),
        pools=tuple(pools),
    )


def incident(event: str, *, at: tuple[Line, ...] = (), count: int = 1, is_pool: bool = True) -> IncidentReport:
    """Return something that went wrong at the acquire in shop/refund.py."""
    return IncidentReport(event, "psycopg_pool", "pool-1", CHARGE, at, count, is_pool)


SCENES: dict[str, ProcessReport] = {
    "left-to-the-collector": process(incidents=[incident("collected-and-returned", count=3)]),
    "released-twice": process(incidents=[incident("released-twice", at=(Line("shop/refund.py", 58, "charge"),))]),
    "released-elsewhere": process(
        incidents=[incident("released-elsewhere", at=(Line("shop/views.py", 30, "close"),), count=12)]
    ),
    "used-after-release": process(incidents=[incident("used-after-release", at=(Line("shop/mail.py", 7, "send"),))]),
    "used-after-fork": process(incidents=[incident("pool-after-fork", at=STOCK)]),
    "pools-again-and-again": process(
        created=[CreatedPools("psycopg_pool", CHARGE, created=40, closed=2, dropped=30, peak=12, acquired=41)]
    ),
    "outside-any-pool": process(pools=[POOL, PoolReport("psycopg2", "no pool", is_pool=False, acquired=12)]),
    "no-connection-in-time": process(
        incidents=[IncidentReport("timed-out", "psycopg_pool", "pool-1", STOCK, (), 2, holders=(CHARGE, CHARGE, STOCK))]
    ),
}


def render_scene(report: ProcessReport) -> str:
    """Write what the guard command would print about one process that has ended."""
    return "\n".join(report_lines(GuardView((report,), find_leaks([report], now=NOW, threshold=60.0), NOW)))
