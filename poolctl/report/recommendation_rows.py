"""The tables of a recommendation as rows of text, for terminals and Markdown alike. Pure: no layout, no color.

Decides that every number stands beside where it comes from.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from poolctl.api.results import RecommendResult
from poolctl.report.inspection_rows import Table
from poolctl.report.verdict import SENTENCE_LIMIT
from poolctl.safe_text import neutralize
from poolctl.sizing.budget import Term
from poolctl.sizing.demand import count_pools
from poolctl.sizing.division import UNEVEN_SHARE, Binding
from poolctl.sizing.figures import Figure
from poolctl.units import format_count, format_duration

if TYPE_CHECKING:
    from poolctl.sizing.verify import TrialOutcome

_TIMES = frozenset(
    {
        *("hold_time", "wait_target", "cpu_time", "connect_time", "failover_target", "request_timeout"),
        *("probe_timeout", "network_idle_limit", "session_idle_limit", "credential_lifetime", "connection_age_limit"),
        *("burst_gap", "wait_time"),
    }
)
_RATES = frozenset({"arrival_rate", "throughput", "saturated_throughput"})
_NAMES: dict[str, str] = {
    "parallelism": "busy connections, sampled",
    "parallelism_counted": "busy connections, counted",
    "parallelism_p95": "busy connections, p95",
    "parallelism_p99": "busy connections, p99",
    "parallelism_max": "busy connections, most",
    "database_cpu": "share of database cores busy",
    "other_connections": "connections of others",
    "current_max_open": "max_open now",
}
_SIGNS = {
    **dict.fromkeys(("superuser_reserved_connections", "reserved_connections", "other services", "headroom"), "-"),
    **dict.fromkeys(("surge", "terminating"), "+"),
    "processes per instance": "x",
}
_IN_TERMS = frozenset(
    {"max_connections", "superuser_reserved", "reserved", "other_connections", "headroom", "instances"}
    | {"max_instances", "surge", "surge_share", "terminating", "processes"}
    | {"role_limit", "database_limit", "pooler_limit"}
)
"""Shown by the arithmetic of the slots already."""


def settings_table(recommended: RecommendResult) -> Table:
    """Each setting with its value and its reason."""
    sizes = recommended.recommendation.recommendation
    values = {
        "max_open": format_count(sizes.max_open or 0),
        "max_idle": format_count(sizes.max_idle or 0),
        "min_idle": format_count(sizes.min_idle or 0),
        "max_lifetime": format_duration(sizes.max_lifetime),
        "max_lifetime_jitter": format_duration(sizes.max_lifetime_jitter),
        "max_idle_time": format_duration(sizes.max_idle_time),
        "acquire_timeout": format_duration(sizes.acquire_timeout),
    }
    reasons = {reason.setting: reason.why for reason in recommended.recommendation.reasons}
    binding = recommended.recommendation.binding
    reasons["max_open"] = "" if binding is None else f"{binding} decides: see the terms below"
    rows = tuple((name, value, reasons.get(name, "")) for name, value in values.items())
    return Table("Settings of each process", ("setting", "value", "why"), rows)


def bounds_table(recommended: RecommendResult) -> Table:
    """The terms of the clamp, for each process."""
    answer = recommended.recommendation
    rows = []
    for bound in answer.bounds:
        if bound.value is None and bound.term == "workers":
            continue
        value = "unknown" if bound.value is None else format_count(bound.value)
        mark = "binds" if bound.term == answer.binding else "next" if bound.term == answer.next_binding else ""
        rows.append((bound.term, value, mark, _explained(recommended, bound.term)))
    return Table("How many connections, for each process", ("term", "value", "", "because"), tuple(rows))


def arithmetic_table(recommended: RecommendResult) -> Table:
    """The slots there are, divided by the worst fleet, term by term."""
    rows = tuple(
        (_sign(term), format_count(abs(term.value)), term.term, term.source)
        for term in recommended.recommendation.budget.arithmetic
    )
    return Table("Slots, and who shares them at worst", ("", "value", "term", "source"), rows)


def _sign(term: Term) -> str:
    if term.source == "computed":
        return "="
    if term.term.endswith(" limit"):
        return "<="
    return _SIGNS.get(term.term, "")


def figures_table(recommended: RecommendResult) -> Table:
    """What else it stands on, but for what is assumed."""
    rows = []
    for name in recommended.figures.__dataclass_fields__:
        figure = getattr(recommended.figures, name)
        if isinstance(figure, Figure) and figure.origin != "assumed" and name not in _IN_TERMS:
            # Of a pool that did not say its limit, the most connections that it had.
            least = "at least " if name == "current_max_open" and figure.origin == "measured" else ""
            value = least + _shown(name, figure.value)
            rows.append((_NAMES.get(name, name.replace("_", " ")), value, figure.origin))
    return Table("Figures", ("figure", "value", "source"), tuple(rows))


def assumptions_table(recommended: RecommendResult) -> Table:
    rows = tuple(
        (assumption.name.replace("_", " "), _shown(assumption.name, assumption.value), assumption.why)
        for assumption in recommended.recommendation.assumptions
    )
    return Table("Assumed", ("figure", "value", "because"), rows)


def pooler_rows(recommended: RecommendResult) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """The settings of each pooler, by its own names, seconds as numbers."""
    pooler = recommended.recommendation.pooler
    found = []
    for title, settings in (("PgBouncer", pooler.pgbouncer), ("Pgpool-II", pooler.pgpool)):
        if settings is not None:
            found.append((title, tuple((name, _plain(value)) for name, value in asdict(settings).items())))
    return tuple(found)


def verification_table(recommended: RecommendResult) -> Table | None:
    """The sizes that were tried beside the recommended one, then the moments, then what there is now."""
    tried = recommended.verification
    if tried is None or not (tried.swept or tried.moments):
        return None
    chosen = recommended.recommendation.recommendation.max_open
    rows = [
        _outcome(outcome, "advised" if outcome.max_open == chosen else "")
        for outcome in sorted(tried.swept, key=lambda each: each.max_open)
    ]
    rows += [_outcome(outcome, "now" if outcome.is_current else "") for outcome in tried.moments]
    header = ("max_open", "served/s", "wait p99", "refused", "timed out", "reopened/s", "moment")
    return Table("Tried", header, tuple(rows))


def _outcome(outcome: "TrialOutcome", mark: str) -> tuple[str, ...]:
    moment = {"largest": "largest fleet", "live": "on a real server"}.get(outcome.moment, outcome.moment)
    return (
        format_count(outcome.max_open),
        format_count(round(outcome.throughput, 1)),
        format_duration(outcome.wait_p99),
        format_count(outcome.refused),
        format_count(outcome.timed_out),
        format_count(round(outcome.reopened_rate, 2)),
        f"{moment}, {mark}" if mark else moment,
    )


def _explained(recommended: RecommendResult, term: Binding) -> str:
    explain = {
        "demand": _demand,
        "capacity": _capacity,
        "budget": _budget,
        "workers": _workers,
        "floor": _floor,
    }[term]
    return neutralize("; ".join(explain(recommended)), SENTENCE_LIMIT)


def _demand(recommended: RecommendResult) -> Iterator[str]:
    demand, figures = recommended.recommendation.demand, recommended.figures
    yield demand.method
    if demand.load is not None:
        yield f"{format_count(demand.load)} in use on average"
    if demand.value is not None and demand.hold_time is not None:
        cv = figures.hold_cv.value if figures.hold_cv is not None else 1.0
        holds = f"holds of {format_duration(demand.hold_time)}, cv {format_count(cv)}"
        yield f"p99 wait of {format_duration(demand.wait_target)} at most, {holds}"
    elif demand.value is not None:
        yield "99 of 100 acquires do not wait"


def _capacity(recommended: RecommendResult) -> Iterator[str]:
    capacity = recommended.recommendation.capacity
    if capacity.value is None:
        yield from capacity.notes
        return
    least = "at least " if capacity.at_least else ""
    share = next(bound.value for bound in recommended.recommendation.bounds if bound.term == "capacity")
    pools = count_pools(recommended.figures)
    yield f"the database can use {least}{format_count(capacity.value)} ({capacity.method}, {capacity.confidence})"
    if share is None:
        yield "a multiple of its cores alone, so it bounds nothing"
    elif pools > 1:
        yield f"{UNEVEN_SHARE:g} x {format_count(capacity.value)} / {format_count(pools)} pools"
    yield from capacity.notes


def _budget(recommended: RecommendResult) -> Iterator[str]:
    budget, fleet = recommended.recommendation.budget, recommended.recommendation.fleet
    yield f"{format_count(budget.total)} slots / {format_count(fleet.worst_case_processes)} processes at worst"
    if budget.limited_by != "max_connections":
        yield f"the {budget.limited_by} leaves the least"


def _workers(recommended: RecommendResult) -> Iterator[str]:
    figures = recommended.figures
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    workers = figures.workers.count if figures.workers is not None else 1
    yield f"{format_count(workers)} workers x {format_count(each)} at once; more would never be used"


def _floor(recommended: RecommendResult) -> Iterator[str]:
    figures = recommended.figures
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    if figures.workers is None or each <= 1:
        yield "the fewest that one request needs"
    else:
        yield f"{format_count(figures.workers.count)} workers x ({each} - 1) + 1: with fewer they can deadlock"


def _shown(name: str, value: float) -> str:
    if name in _TIMES:
        return format_duration(value)
    if name in _RATES:
        return f"{format_count(value)}/s"
    if name.endswith("_share") or name == "database_cpu":
        return f"{value * 100:.0f} %"
    return format_count(round(value, 4))


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
