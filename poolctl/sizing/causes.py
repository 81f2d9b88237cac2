"""Causes of slowness that no pool size can remove: a slow statement, a lock, a connection held during other work.

Each finding has two limits: the most that any pool size can gain, and what removing the cause would gain.
"""

from collections.abc import Iterator
from math import log

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.live.usage import HELD_SHARE
from poolctl.diagnose.slow_database import BUSY_SHARE
from poolctl.sizing.budget import Budget
from poolctl.sizing.capacity import LOCK_SHARE, Capacity
from poolctl.sizing.doubts import CENSORED_SHARE, Doubt
from poolctl.sizing.figures import LEAST_RATE, Figures, TopStatement
from poolctl.units import percent

LARGE_STATEMENT_SHARE = 0.50
"""Share of all execution time in one statement: without it at least twice as much gets done."""
WASTED_ROWS, WASTED_RATIO = 1000.0, 100.0
"""Rows that a call reads, and rows read for each row returned, from which on most of its work is wasted."""
STILL_GROWING = 0.3
"""Slope of log throughput over log connections, above which more connections still raise the throughput."""


def find_causes(figures: Figures, budget: Budget, capacity: Capacity) -> Iterator[Doubt]:
    """Return the causes that ``figures`` show, worst first."""
    for rule in (_find_slow_database, _find_lock_queue, _find_held_across_io):
        doubt = rule(figures, budget, capacity)
        if doubt is not None:
            yield doubt


def bound_gain(figures: Figures, capacity: Capacity) -> float | None:
    """Return the most by which any pool size can raise the throughput, as a share; None: no limit is known.

    From a sweep it is the best throughput over the present one; from the processors it is their idle part.
    """
    bounds = []
    if capacity.knee is not None and figures.throughput is not None and figures.throughput.value >= LEAST_RATE:
        bounds.append(max(0.0, capacity.knee.best / figures.throughput.value - 1))
    if figures.database_cpu is not None and figures.database_cpu.value > 0:
        bounds.append(max(0.0, 1 / min(1.0, figures.database_cpu.value) - 1))
    return min(bounds, default=None)


def compute_speedup(share: float) -> float:
    """Return how many times as much gets done without a ``share`` of the work (Amdahl's law 1967); 1000 at most."""
    return 1 / max(1e-3, 1 - share)


def _find_slow_database(figures: Figures, budget: Budget, capacity: Capacity) -> Doubt | None:
    del budget
    statement, cpu = figures.top_statement, figures.database_cpu
    if statement is None or cpu is None or cpu.value < BUSY_SHARE or statement.share < LARGE_STATEMENT_SHARE:
        return None
    slope = _slope(figures)
    if slope is not None and slope > STILL_GROWING:
        return None
    gain = bound_gain(figures, capacity) or 0.0
    evidence = {
        "database_cpu": cpu.value,
        "statement": statement.query,
        "statement_share": statement.share,
        "calls_per_second": statement.calls_per_second,
        "mean_time": statement.mean_time,
        "table": statement.table,
        "column": statement.column,
        "rows_read": statement.rows_read,
        "rows_returned": statement.rows_returned,
        "most_gain_from_pool": gain,
        "gain_from_statement": compute_speedup(statement.share),
        "threshold": f"{BUSY_SHARE:.0%} of the cores busy, {LARGE_STATEMENT_SHARE:.0%} of the time in one statement",
    }
    share = f"one statement has {percent(statement.share)} of the database's time"
    if not is_wasteful(statement):
        useful = "" if capacity.value is None else f" beyond the {capacity.value} that it can use"
        finding = build_finding(
            "slow-database",
            severity="warning",
            confidence="certain",
            summary=f"The processors of the database are full, and {share}: no pool size {write_gain(gain)}",
            evidence={**evidence, "capacity": capacity.value},
            remedy=f"More connections{useful} only queue in the processors. To get more done, call the statement less "
            "often, make it cheaper, or add cores",
        )
        return Doubt(finding, None)
    of = f" of {statement.table}" if statement.table else ""
    finding = build_finding(
        "slow-database",
        severity="critical",
        confidence="certain",
        summary=f"Pool size is not the problem: {share} and reads {statement.rows_read:,.0f} rows{of} in each call. No "
        f"pool size {write_gain(gain)}; without it up to {compute_speedup(statement.share):,.0f} times as much "
        "gets done",
        evidence=evidence,
        remedy=_write_remedy(statement),
    )
    return Doubt(finding, "refused")


def write_gain(gain: float) -> str:
    """Write what a larger pool gains at most, after "no pool size"; ``gain`` is a share of the throughput."""
    return f"gains more than {percent(gain)}" if gain >= 0.005 else "gains anything"


def is_wasteful(statement: TopStatement) -> bool:
    """Return True if a call reads far more rows than it returns, so that an index or another plan would save most.

    Without it, a statement that fills the processors is simply the work that the database does.
    """
    if statement.rows_read is None or statement.rows_read < WASTED_ROWS:
        return False
    return statement.rows_read >= WASTED_RATIO * max(1.0, statement.rows_returned or 0.0)


def _write_remedy(statement: TopStatement) -> str:
    if statement.table and statement.column:
        return f"Create an index on {statement.table}({statement.column}); then measure again"
    where = f" on {statement.table}" if statement.table else ""
    return f"Read the plan of the statement{where} (EXPLAIN): add an index, or call it less often; then measure again"


def _slope(figures: Figures) -> float | None:
    """Return how throughput grew with the busy connections in the upper half of the windows; None if they differ too
    little."""
    usable = sorted((w.busy, w.throughput) for w in figures.windows if w.busy > 0 and w.throughput > 0)
    upper = usable[len(usable) // 2 :]
    if len(upper) < 3 or upper[-1][0] < 1.3 * upper[0][0]:
        return None
    points = [(log(busy), log(rate)) for busy, rate in upper]
    mean_x, mean_y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _is_exhausted(figures: Figures) -> bool:
    if figures.censored_share is not None and figures.censored_share.value > CENSORED_SHARE:
        return True
    wait, target = figures.wait_time, figures.wait_target
    return wait is not None and target is not None and wait.value > target.value


def _find_lock_queue(figures: Figures, budget: Budget, capacity: Capacity) -> Doubt | None:
    del budget
    share = figures.lock_share.value if figures.lock_share is not None else 0.0
    if share <= LOCK_SHARE:
        return None
    is_root = share >= 0.5 and _is_exhausted(figures)
    gain = bound_gain(figures, capacity)
    start = "Pool size is not the problem: " if is_root else ""
    return Doubt(
        build_finding(
            "lock-queue",
            severity="critical" if is_root else "warning",
            confidence="likely",
            summary=f"{start}{percent(share)} of active backends wait for locks: more connections lengthen that queue",
            evidence={
                "lock_share": share,
                "most_gain_from_pool": 0.0 if gain is None else min(gain, 0.05),
                "gain_from_locks": compute_speedup(share),
                "threshold": LOCK_SHARE,
            },
            remedy="Shorten the transactions that hold the lock, or spread the hot rows; then measure again",
        ),
        "refused" if is_root else "medium",
    )


def _find_held_across_io(figures: Figures, budget: Budget, capacity: Capacity) -> Doubt | None:
    del capacity
    share = figures.transaction_idle_share.value if figures.transaction_idle_share is not None else 0.0
    if share <= HELD_SHARE:
        return None
    now = figures.current_max_open.count if figures.current_max_open is not None else None
    is_root = share >= 0.5 and _is_exhausted(figures) and now is not None and now >= budget.value
    start = "Pool size is not the problem: " if is_root else ""
    growth = None if not now else max(0.0, budget.value / now - 1)
    return Doubt(
        build_finding(
            "held-across-io",
            severity="critical" if is_root else "warning",
            confidence="likely",
            summary=f"{start}connections are idle in a transaction for {percent(share)} of their hold time: without "
            f"that the same work needs {percent(1 - share)} of the connections",
            evidence={
                "transaction_idle_share": share,
                "most_gain_from_pool": growth,
                "gain_from_shorter_holds": compute_speedup(share),
                "threshold": HELD_SHARE,
            },
            remedy="Move calls to other services out of the transaction, or release the connection before them",
        ),
        "refused" if is_root else "medium",
    )
