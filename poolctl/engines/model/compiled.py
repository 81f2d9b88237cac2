"""The compiled kernel, where one was built: it gets a scenario as numbers, and its numbers become a run.

Decides what it can run; whatever it cannot, the plain kernel runs, with the same figures. What holds the two
together is described in ``clock`` and at the top of ``_kernel.c``.
"""

import os
from importlib import import_module
from math import inf
from random import Random
from typing import Any

from poolctl.engines.model import clock as limits
from poolctl.engines.model.counts import number_counters
from poolctl.engines.model.model import describe_endless_queue
from poolctl.engines.model.plan import RESTART_TIME, ModelInstance, ServicePlan, Times, times
from poolctl.engines.model.result import KernelOutcome
from poolctl.engines.model.server import CUTS, RESERVED, STARTING, TERMINATED, TOO_MANY, is_shared
from poolctl.pool import Closed, PoolStats
from poolctl.pool.pool import WAKE_TIME
from poolctl.pool.upkeep import SHORTEST_CLEANING_INTERVAL
from poolctl.scenario.histogram import Histogram
from poolctl.scenario.run import ErrorKind, Tally, TimelinePoint
from poolctl.scenario.scenario import Burst, Event, Scenario


def _find() -> Any:
    try:
        return import_module("poolctl.engines.model._kernel")
    except ImportError:
        # Not built: there was no compiler.
        return None


KERNEL = _find()
"""The module; None where it was not built."""

LAYOUT = 5
"""Of the numbers that go there and come back; a file that was built for another one is not used."""

SWITCH = "POOLCTL_KERNEL"
"""Environment variable: "plain" leaves the compiled kernel alone."""

EVENTS = 200_000
"""Events between two checks whether the user wants the run to end: some hundredths of a second."""

_ORDERS = ("random", "fifo", "none", "lifo")
_GROWTHS = ("ordered", "one", "wanted", "increment")
_FILLS = ("none", "before", "background")
_FLOORS = ("none", "open", "idle")
_CLOSINGS = ("go", "timer", "sweep", "one", "median", "none")
_KEPT = ("max_idle", "all", "sweep")
_DEAD = ("one", "all", "dropped")
_TIMEOUTS = ("all", "queue", "each")
_TIMED_OUT = ("leaves", "ghost", "opens")
_FATES = ("kept", "closed", "returned")
_EVENTS = {"pause": 1, "slow": 2, **dict.fromkeys(CUTS, 3)}

NONE = -1.0
"""A time that is not limited, where 0 is a limit."""


def is_there() -> bool:
    """Return whether a compiled kernel of this version was built and may be used."""
    if KERNEL is None or os.environ.get(SWITCH) == "plain":
        return False
    return bool(KERNEL.LAYOUT == LAYOUT)


def can_run(scenario: Scenario) -> bool:
    return is_there() and scenario.database.via == "none"


class Compiled:
    """A run in the compiled kernel."""

    def __init__(
        self, scenario: Scenario, plans: list[ServicePlan], windows: list[ModelInstance], interval: float
    ) -> None:
        self.scenario, self.plans, self.windows = scenario, plans, windows
        self.counter_of = number_counters(plans, windows)
        self.failure: str | None = None
        self.why_cut_off = ""
        load, database = scenario.load, scenario.database
        self._kernel = KERNEL.Kernel(
            [(_fields(plan), [_burst(burst) for burst in plan.bursts]) for plan in plans],
            [
                (window.part, window.begins_at, window.ends_at, counter)
                for window, counter in zip(windows, self.counter_of, strict=True)
            ],
            max(self.counter_of) + 1,
            [_event(event) for event in scenario.events],
            [Random(f"{load.seed}/{stream}").getstate()[1] for stream in limits.STREAMS],
            (
                interval,
                load.warmup,
                load.duration is not None,
                database.max_connections,
                database.max_connections - database.reserved,
                database.connect_cpu,
                is_shared(scenario),
                database.cores or inf,
                database.contention,
                database.coherency,
                limits.MOST_WAITING,
                limits.MOST_ROWS,
                limits.STANDSTILL,
                SHORTEST_CLEANING_INTERVAL,
                WAKE_TIME,
                limits.PROGRESS,
                *times(database.connect_time),
            ),
        )

    def run(self) -> bool:
        """Let EVENTS things happen; return whether the run is over."""
        if not self._kernel.run(EVENTS):
            return False
        if self._kernel.is_cut_off:
            self.why_cut_off = "queue"
            self.failure = describe_endless_queue(self._kernel.now, self._kernel.waiting)
            self._kernel.stop()
        return True

    @property
    def is_endless(self) -> bool:
        """Whether the run has no end that this kernel could find: the plain one has to say where to cut it off."""
        return bool(self._kernel.is_endless)

    def stop(self) -> None:
        """End every instance now."""
        self._kernel.stop()

    def finish(self) -> KernelOutcome:
        """Return the figures of the run."""
        tallies, instances, timeline, peaks, whole = self._kernel.figures()
        now, work_done, _, peak_slots, refused, is_stuck = whole
        kinds = [RESERVED, TOO_MANY, STARTING, TERMINATED]
        for plan in self.plans:
            kinds += [plan.overdue, plan.rejected]
        bounds = [self.plans[window.part].settings.max_open for window in self.windows]
        return KernelOutcome(
            scenario=self.scenario,
            windows=self.windows,
            now=now,
            timeline=[_point(row) for row in timeline],
            tallies=[_tally(figures, kinds) for figures in tallies],
            late=[figures[6] for figures in tallies],
            counter_of=self.counter_of,
            ended=[_stats(figures[0], bound) for figures, bound in zip(instances, bounds, strict=True)],
            warm=[
                None if figures[1] is None else _stats(figures[1], bound)
                for figures, bound in zip(instances, bounds, strict=True)
            ],
            reported_at=[figures[2] for figures in instances],
            part_peaks=peaks,
            work_done=work_done,
            peak_slots=peak_slots,
            refused=refused,
            is_stuck=is_stuck,
            failure=self.failure,
            why_cut_off=self.why_cut_off,
            kernel="compiled",
        )


def _fields(part: ServicePlan) -> list[float]:
    """Return the numbers of a service, in the order of FIELDS."""
    settings, rules, load = part.settings, part.rules, part.load
    codel = rules.codel or (NONE, NONE)
    retry = rules.open_retry or (NONE, NONE)
    numbers: dict[str, float] = {
        "max_open": part.max_open,
        "keeps": part.keeps,
        "min_idle": part.min_idle,
        "lifetime": part.lifetime,
        "patience": _or_none(part.patience),
        "max_uses": part.max_uses,
        "max_queue": part.max_queue,
        "rate": part.rate,
        **_times("hold", part.hold),
        **_times("outside", part.outside),
        **_times("think", part.think),
        "every": part.every,
        "fate": _FATES.index(rules.dropped_reference if part.shape == "dropped-reference" else "kept"),
        "sweep": part.sweep,
        "max_idle": settings.max_idle,
        "max_idle_time": _or_none(settings.max_idle_time),
        "lifetime_jitter": settings.max_lifetime_jitter or 0.0,
        "is_lifo": rules.idle_order == "lifo",
        "waiter_order": _ORDERS.index(rules.waiter_order),
        "opens_in_background": rules.opener == "background",
        "checked_at_acquire": "acquire" in rules.lifetime_checked,
        "checked_at_release": "release" in rules.lifetime_checked,
        "checked_by_cleaner": "cleaner" in rules.lifetime_checked,
        "checked_by_timer": "timer" in rules.lifetime_checked,
        "barging": rules.barging,
        "generations": rules.generations,
        "by_thread": rules.by_thread,
        "replaced_by_caller": rules.replaced_by == "caller",
        "openers": rules.openers or inf,
        "growth": _GROWTHS.index(rules.growth),
        "orders_lapse": rules.orders_lapse,
        "open_pause": rules.open_pause,
        "retry_first": retry[0],
        "retry_longest": retry[1],
        "fill": _FILLS.index(rules.fill),
        "floor": _FLOORS.index(rules.floor),
        "is_refilled": rules.is_refilled,
        "idle_closing": _CLOSINGS.index(rules.idle_closing),
        "closes_newest": rules.closes_newest,
        "idle_kept": _KEPT.index(rules.idle_kept),
        "jitter_low": rules.jitter[0],
        "jitter_high": rules.jitter[1],
        "validated_after": _or_none(rules.validated_after),
        "dead": _DEAD.index(rules.dead),
        "is_reopened": rules.stale == "reopened",
        "stale_attempts": rules.stale_attempts,
        "timeout": _TIMEOUTS.index(rules.timeout),
        "keeps_abandoned": rules.abandoned_opening == "kept",
        "timed_out_waiter": _TIMED_OUT.index(rules.timed_out_waiter),
        "wakes_on_failure": rules.wakes_on_failure,
        "replaces_spent": rules.replaces_spent,
        "returned_by_opener": rules.returned_by_opener,
        "probes_first": rules.probes_first,
        "opens_locked": rules.opens_locked,
        "codel_target": codel[0],
        "codel_interval": codel[1],
        "abandoned_after": _or_none(rules.abandoned_after),
        "workers": load.workers or 0,
        "requests": load.requests,
        "ends_when_done": load.ends_when_done,
        "drain": load.drain,
        "error_pause": load.error_pause,
        "retries": load.retries,
        "retry_backoff": load.retry_backoff,
        "retry_growth": load.retry_growth,
        "retry_jitter": load.retry_jitter,
        "each": load.connections_per_request,
    }
    return [numbers[name] for name in KERNEL.FIELDS]


def _times(name: str, value: Times) -> dict[str, float]:
    return dict(zip((f"{name}_kind", f"{name}_mean", f"{name}_mu", f"{name}_sigma"), value, strict=True))


def _or_none(limit: float | None) -> float:
    return NONE if limit is None else limit


def _burst(burst: Burst) -> tuple[float, ...]:
    until = inf if burst.until is None else burst.until
    return (burst.at, until, burst.workers, burst.requests, *times(burst.hold), *times(burst.think))


def _event(event: Event) -> tuple[float, ...]:
    down = event.down if event.down is not None else (RESTART_TIME if event.do == "restart" else 0.0)
    return (_EVENTS.get(event.do, NONE), event.at, event.duration, event.factor, down)


def _point(row: tuple[Any, ...]) -> TimelinePoint:
    return TimelinePoint(round(row[0], 6), *row[1:])


def _histogram(numbers: tuple[list[int], int, float, float]) -> Histogram:
    histogram = Histogram()
    counts, histogram.count, histogram.total, histogram.max = numbers
    histogram.counts = counts + [0] * (256 - len(counts))
    return histogram


def _tally(numbers: tuple[Any, ...], kinds: list[ErrorKind]) -> Tally:
    tally = Tally()
    tally.timed_out, tally.refused, tally.failed, tally.leaked, tally.unfinished, tally.queued_count = numbers[:6]
    tally.queued_time = numbers[7]
    tally.wait_time, tally.use_time, tally.connect_time, tally.unfinished_time = map(_histogram, numbers[8:12])
    tally.errors = {kinds[kind]: (count, first_at) for kind, count, first_at in numbers[12]}
    tally.requests, tally.requests_completed, tally.requests_failed = numbers[13:]
    return tally


def _stats(numbers: tuple[Any, ...], max_open: int) -> PoolStats:
    open_, in_use, idle, opening, waiting, queued_count, queued_time, opened, failures = numbers[:9]
    moments = [None if at < 0 else at for at in numbers[19:22]]
    open_time, in_use_time = numbers[17:19]
    return PoolStats(
        max_open=max_open,
        open=open_,
        in_use=in_use,
        idle=idle,
        opening=opening,
        waiting=waiting,
        queued_count=queued_count,
        queued_time=queued_time,
        opened=opened,
        open_failures=failures,
        closed=Closed(*numbers[9:15]),
        peak_open=numbers[15],
        peak_in_use=numbers[16],
        open_time=open_time,
        in_use_time=in_use_time,
        exhausted_at=moments[0],
        exhausted_since=moments[1],
        recovered_at=moments[2],
        exhausted_time=numbers[22],
    )
