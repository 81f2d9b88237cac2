"""The verification of a recommendation: the scenarios that would prove it wrong, and the judgment of their runs.

Pure: the caller runs the scenarios, on the model or live, and hands in the summaries. The usual fleet is simulated with
several sizes of the pool, then the largest fleet, a deploy and a failover; with the recommended settings and with the
present ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from poolctl.pool import LIBRARIES
from poolctl.scenario.run import Summary
from poolctl.scenario.scenario import Scenario, parse_scenario
from poolctl.sizing.demand import count_pools
from poolctl.sizing.figures import Figures, estimate_hold
from poolctl.sizing.recommendation import Recommendation
from poolctl.units import percent

SWEPT = (0.5, 0.75, 1.0, 1.33, 2.0)
"""Sizes that are tried, as multiples of the recommended one."""

REQUESTS = 60_000
"""About how many acquires a run has: its p99 then rests on 600 of them."""
SHORTEST, LONGEST = 10.0, 300.0
"""Limits of the virtual seconds of a run."""

BEST_SHARE = 0.97
"""Share of the best throughput among the tried sizes that the recommended one must reach."""
WAIT_SLACK = 1.25
"""Factor on the wait target. p99 waits of one run scatter by a tenth and more; the two-moment formula that sized the
pool errs by a fifth."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A scenario to run. ``moment``: steady, largest, deploy or failover; ``is_current``: with the present settings."""

    name: str
    moment: str
    max_open: int
    is_current: bool
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """The result of a trial. ``reopened_rate``: connections per second that were opened again."""

    name: str
    moment: str
    max_open: int
    is_current: bool
    throughput: float
    offered_rate: float
    wait_p99: float
    refused: int
    timed_out: int
    reopened_rate: float


@dataclass(frozen=True, slots=True)
class Verification:
    """``passed`` False: the recommendation must not be printed as one, and ``failures`` say why, a sentence each.

    ``is_only_late``: nothing failed but the wait target. ``in_time``: the smallest of the larger sizes that met it.
    """

    swept: tuple[TrialOutcome, ...]
    moments: tuple[TrialOutcome, ...]
    throughput_share_of_best: float | None
    passed: bool
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    engine: str = "model"
    is_only_late: bool = False
    in_time: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the values that `recommend --json` writes under ``verification``."""
        return {
            "swept": [_write_outcome(outcome) for outcome in self.swept],
            "moments": [_write_outcome(outcome) for outcome in self.moments],
            "throughput_share_of_best": self.throughput_share_of_best,
            "passed": self.passed,
            "failures": list(self.failures),
            "notes": list(self.notes),
            "engine": self.engine,
        }


@dataclass(frozen=True, slots=True)
class _TrialSetting:
    """What all trials of one verification have in common. ``hold``: seconds."""

    figures: Figures
    result: Recommendation
    library: str
    rate: float
    """Acquires per second of the whole fleet."""
    hold: float

    def trial(self, name: str, moment: str, max_open: int, instances: int, *, is_current: bool = False) -> Trial:
        duration = min(max(REQUESTS / self.rate, SHORTEST), LONGEST)
        values: dict[str, Any] = {
            "name": name,
            "database": _write_database(self.figures),
            "pool": _write_pool(self.result, self.library, max_open),
            "load": {
                "instances": instances,
                "rate": self.rate / instances,
                **_write_holds(self.figures, self.hold),
                "connections_per_request": _count(self.figures, "connections_per_request", 1),
                "duration": duration,
                "drain": "10s",
                "seed": 1,
            },
        }
        if moment == "failover":
            values["events"] = [{"at": duration / 2, "do": "failover"}]
        if moment == "deploy":
            overlap = min(duration / 3, 30.0)
            values["events"] = [{"at": duration / 3, "do": "deploy", "overlap": overlap}]
        return Trial(name, moment, max_open, is_current, parse_scenario(values))


def plan_trials(figures: Figures, result: Recommendation, library: str = "database/sql") -> tuple[Trial, ...]:
    """Return the trials of ``result``, made from ``figures`` with their defaults filled in.

    ``library`` is the value of pool.kind in scenario files. Empty if the load is not known.
    """
    max_open, rate, hold = result.recommendation.max_open, _find_fleet_rate(figures), estimate_hold(figures)
    if max_open is None or rate is None or hold is None or rate <= 0 or hold.value <= 0:
        return ()
    setting = _TrialSetting(figures, result, library if library in LIBRARIES else "database/sql", rate, hold.value)
    steady, worst = count_pools(figures), result.fleet.worst_case_processes
    least = _count(figures, "connections_per_request", 1)
    sizes = sorted({max(least, round(max_open * times)) for times in SWEPT} | {max_open})
    found = [setting.trial(f"max_open {size}", "steady", size, steady) for size in sizes]
    found += [
        setting.trial("largest fleet", "largest", max_open, worst),
        setting.trial("failover", "failover", max_open, steady),
    ]
    if result.fleet.surge:
        found.append(setting.trial("deploy", "deploy", max_open, max(1, ceil(worst / 2))))
    if figures.current_max_open is not None and figures.current_max_open.count > 0:
        now = figures.current_max_open.count
        found += [
            setting.trial("now", "steady", now, steady, is_current=True),
            setting.trial("now, largest fleet", "largest", now, worst, is_current=True),
        ]
    return tuple(found)


def judge(
    result: Recommendation,
    runs: Sequence[tuple[Trial, Summary]],
    *,
    wait_target: float,
    notes: Sequence[str] = (),
    engine: str = "model",
) -> Verification:
    """Judge the runs of ``plan_trials``. Trials that were stopped early are missing; without the recommended size
    nothing passes.

    The wait target counts only where demand decided the size: where slots, capacity or workers limit it, the
    recommendation itself says that the target cannot be met.
    """
    outcomes = [summarize_trial(trial, summary) for trial, summary in runs]
    own = [outcome for outcome in outcomes if not outcome.is_current]
    swept = tuple(outcome for outcome in own if outcome.moment == "steady")
    chosen = next((outcome for outcome in swept if outcome.max_open == result.recommendation.max_open), None)
    if chosen is None:
        return Verification(swept, (), None, False, ("the run with the recommended size did not finish",), tuple(notes))
    best = max(outcome.throughput for outcome in swept)
    share = chosen.throughput / best if best > 0 else None
    moments = tuple(outcome for outcome in outcomes if outcome.moment != "steady" or outcome.is_current)
    late = tuple(_find_late(result, chosen, wait_target))
    failures = (*_find_failures(result, chosen, share, [*own]), *late)
    larger = [each.max_open for each in swept if each.max_open > chosen.max_open and not _is_late(each, wait_target)]
    return Verification(
        swept,
        moments,
        share,
        not failures,
        failures,
        tuple(notes),
        engine,
        is_only_late=bool(late) and failures == late,
        in_time=min(larger, default=None),
    )


def summarize_trial(trial: Trial, summary: Summary) -> TrialOutcome:
    """Extract from a run what the judgment needs."""
    again = max(0, summary.connections.opened - summary.connections.peak_open)
    return TrialOutcome(
        trial.name,
        trial.moment,
        trial.max_open,
        trial.is_current,
        summary.throughput,
        summary.offered_rate,
        summary.wait_time.p99,
        summary.refused,
        summary.timed_out,
        again / summary.duration if summary.duration > 0 else 0.0,
    )


def _is_late(outcome: TrialOutcome, wait_target: float) -> bool:
    return outcome.wait_p99 > WAIT_SLACK * wait_target


def _find_late(result: Recommendation, chosen: TrialOutcome, wait_target: float) -> Iterator[str]:
    if result.binding in ("demand", "workers", "floor") and _is_late(chosen, wait_target):
        yield f"its p99 wait is {chosen.wait_p99 * 1000:.3g} ms, and the target is {wait_target * 1000:.3g} ms"


def _find_failures(
    result: Recommendation,
    chosen: TrialOutcome,
    share: float | None,
    outcomes: Sequence[TrialOutcome],
) -> list[str]:
    found = []
    if share is not None and share < BEST_SHARE:
        found.append(f"it reaches only {percent(share)} of the best throughput among the sizes tried")
    most = chosen.max_open * result.fleet.worst_case_processes
    if most > result.budget.total:
        # A run has no refusal as long as no burst fills every pool at once, but that is luck.
        found.append(f"the largest fleet can open {most:,} connections, and there are {result.budget.total:,} slots")
    found += [
        f"the server refuses {outcome.refused:,} acquires ({outcome.name})"
        for outcome in outcomes
        if outcome.refused and outcome.moment != "failover" and outcome.max_open == chosen.max_open
    ]
    return found


def _write_database(figures: Figures) -> dict[str, Any]:
    """Write the slots that are for this service, and the processors where they are known."""
    taken = _count(figures, "other_connections", 0)
    reserved = _count(figures, "superuser_reserved", 3) + _count(figures, "reserved", 0)
    database: dict[str, Any] = {
        "max_connections": max(reserved + 1, _count(figures, "max_connections", 100) - taken),
        "reserved": reserved,
        "cores": _count(figures, "cores", 1) if _is_bound_by_cores(figures) else "unlimited",
    }
    if figures.connect_time is not None:
        database["connect_time"] = figures.connect_time.value
    return database


def _write_pool(result: Recommendation, library: str, max_open: int) -> dict[str, Any]:
    """Write the recommended settings that this library has. Another size keeps idle connections in proportion."""
    sizes = result.recommendation
    recommended = sizes.max_open or max_open
    idle = max_open if sizes.max_idle is None else min(max_open, ceil(sizes.max_idle * max_open / recommended))
    wanted: Mapping[str, Any] = {
        "max_open": max_open,
        "max_idle": idle,
        "max_lifetime": sizes.max_lifetime,
        "max_idle_time": sizes.max_idle_time,
        "acquire_timeout": sizes.acquire_timeout,
    }
    return {"kind": library} | {key: value for key, value in wanted.items() if key in LIBRARIES[library].keys}


def _is_bound_by_cores(figures: Figures) -> bool:
    """Return True if the processors are busy enough to slow the load; below that the hold is as measured."""
    rate = _find_fleet_rate(figures)
    if figures.cores is None or figures.cpu_time is None or rate is None:
        return False
    return rate * figures.cpu_time.value >= 0.5 * figures.cores.value


def _write_holds(figures: Figures, hold: float) -> dict[str, Any]:
    """Write the hold, and the part of it that needs no core, where cores matter.

    The model draws the two independently, so the second is constant and the first has all of the variation.
    """
    cv = figures.hold_cv.value if figures.hold_cv is not None else 1.0
    work = figures.cpu_time.value if figures.cpu_time is not None else hold
    if not _is_bound_by_cores(figures) or work >= hold:
        return {"hold": _write_distribution(hold, cv)}
    return {"hold": _write_distribution(hold, work / hold), "hold_outside": _write_distribution(hold - work, 0.0)}


def _write_distribution(mean: float, cv: float) -> dict[str, Any]:
    if cv < 0.05:
        return {"distribution": "constant", "mean": mean}
    if 0.9 <= cv <= 1.1:
        return {"distribution": "exponential", "mean": mean}
    return {"distribution": "lognormal", "mean": mean, "cv": cv}


def _find_fleet_rate(figures: Figures) -> float | None:
    if figures.arrival_rate is not None:
        return figures.arrival_rate.value * _count(figures, "instances", 1)
    return figures.throughput.value if figures.throughput is not None else None


def _count(figures: Figures, name: str, default: int) -> int:
    figure = getattr(figures, name)
    return default if figure is None else int(figure.value)


def _write_outcome(outcome: TrialOutcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in TrialOutcome.__slots__}
