"""The report of a recommendation: the answer, what binds it, then every number with where it comes from.

Decides the order, the one sentence that stands first, and that each number stands beside its source. Foreign names are
neutralized here.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePath
from typing import TYPE_CHECKING

from poolctl.api.results import SOURCE_NAMES, RecommendResult
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.blocks import (
    Block,
    ChartBlock,
    Code,
    Item,
    Labeled,
    Note,
    Points,
    Repeat,
    Report,
    Section,
    Table,
    Verdict,
    name_rows,
)
from poolctl.report.charts import BarChart
from poolctl.report.findings import (
    NAME_LIMIT,
    SENTENCE_LIMIT,
    TARGET_LIMIT,
    build_finding_block,
    collect_sql,
    name_explanation,
    name_finding,
    summary_of,
)
from poolctl.safe_text import neutralize
from poolctl.sizing.budget import Term
from poolctl.sizing.demand import count_pools
from poolctl.sizing.division import UNEVEN_SHARE, Binding
from poolctl.sizing.figures import Figure
from poolctl.units import format_count, format_duration, plural

if TYPE_CHECKING:
    from poolctl.sizing.verify import TrialOutcome

_BINDS: dict[Binding, str] = {
    "budget": "the slots",
    "demand": "demand",
    "capacity": "what the database can use",
    "floor": "the fewest connections without a deadlock",
    "workers": "what the workers can hold",
}
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

_LANGUAGES = {".py": "python", ".rs": "rust", ".rb": "ruby", ".exs": "elixir", ".cs": "csharp"}
"""For what a suffix does not say by itself."""


def build_recommendation_report(recommended: RecommendResult) -> Report:
    """Return the report of a recommendation or of its refusal."""
    recommendation = recommended.recommendation
    is_refused = recommendation.is_refused
    findings = worst_first(recommendation.findings)
    others = findings[1:] if is_refused else findings
    return (
        Verdict("", "warning" if is_refused else None, "", headline(recommended)),
        Note(state_binding(recommended)),
        *(Note(caution, "caution") for caution in _warn(recommended)),
        # A refusal is the first finding: the headline has said its summary.
        *(build_finding_block(finding, is_first=True) for finding in findings[: len(findings) - len(others)]),
        *(build_finding_block(finding, name_finding(finding)) for finding in others if finding.severity != "info"),
        *(() if is_refused else (list_settings(recommended), list_bounds(recommended))),
        list_slot_terms(recommended),
        *(() if is_refused else (_build_pooler(recommended),)),
        *_build_trials(recommended),
        *(
            Code(f"{config.file} ({config.stack})", config.text, _find_language(config.file))
            for config in recommended.configs
        ),
        *(build_finding_block(finding, name_finding(finding)) for finding in others if finding.severity == "info"),
        list_figures(recommended),
        list_assumptions(recommended),
        Points((Labeled("From", tuple(map(Item, _list_sources(recommended)))), name_explanation(findings))),
        Section("", collect_sql(findings), is_detail=True),
        Repeat(neutralize(recommended.repeat, None)),
    )


def list_settings(recommended: RecommendResult) -> Table:
    """Return each setting with its value and its reason."""
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
    return name_rows("Settings of each process", ("setting", "value", "why"), rows)


def list_bounds(recommended: RecommendResult) -> Table:
    """Return the terms of the clamp, for each process."""
    answer = recommended.recommendation
    rows = []
    for bound in answer.bounds:
        if bound.value is None and bound.term == "workers":
            continue
        value = "unknown" if bound.value is None else format_count(bound.value)
        mark = "binds" if bound.term == answer.binding else "next" if bound.term == answer.next_binding else ""
        rows.append((bound.term, value, mark, _explain(recommended, bound.term)))
    return name_rows("How many connections, for each process", ("term", "value", "", "because"), tuple(rows))


def list_slot_terms(recommended: RecommendResult) -> Table:
    """Return the slots there are, divided by the largest fleet, term by term."""
    rows = tuple(
        (_choose_sign(term), format_count(abs(term.value)), term.term, term.source)
        for term in recommended.recommendation.budget.arithmetic
    )
    return name_rows("Slots, and who shares them at worst", ("", "value", "term", "source"), rows)


def list_figures(recommended: RecommendResult) -> Table:
    """Return the other figures that it stands on, without the assumed ones."""
    rows = []
    for name in recommended.figures.__dataclass_fields__:
        figure = getattr(recommended.figures, name)
        if isinstance(figure, Figure) and figure.origin != "assumed" and name not in _IN_TERMS:
            # Of a pool that did not say its limit, the most connections that it had.
            least = "at least " if name == "current_max_open" and figure.origin == "measured" else ""
            value = least + _show(name, figure.value)
            rows.append((_NAMES.get(name, name.replace("_", " ")), value, figure.origin))
    return name_rows("Figures", ("figure", "value", "source"), tuple(rows))


def list_assumptions(recommended: RecommendResult) -> Table:
    rows = tuple(
        (assumption.name.replace("_", " "), _show(assumption.name, assumption.value), assumption.why)
        for assumption in recommended.recommendation.assumptions
    )
    return name_rows("Assumed", ("figure", "value", "because"), rows)


def list_trials(recommended: RecommendResult) -> Table | None:
    """Return the sizes that were tried beside the recommended one, then the moments, then the size in use now."""
    tried = recommended.verification
    if tried is None or not (tried.swept or tried.moments):
        return None
    chosen = recommended.recommendation.recommendation.max_open
    rows = [
        _list_trial(outcome, "advised" if outcome.max_open == chosen else "")
        for outcome in sorted(tried.swept, key=lambda each: each.max_open)
    ]
    rows += [_list_trial(outcome, "now" if outcome.is_current else "") for outcome in tried.moments]
    header = ("max_open", "served/s", "wait p99", "refused", "timed out", "reopened/s", "moment")
    return name_rows("Tried", header, tuple(rows))


def chart_trials(recommended: RecommendResult) -> tuple[BarChart, ...]:
    """Return throughput and waits of the sizes that were tried; empty for fewer than two sizes."""
    tried = recommended.verification
    swept = sorted(tried.swept, key=lambda each: each.max_open) if tried is not None else []
    if len(swept) < 2:
        return ()
    labels = tuple(format_count(each.max_open) for each in swept)
    served = tuple(each.throughput for each in swept)
    waits = tuple(each.wait_p99 for each in swept)
    charts = (
        BarChart("served/s", "in_use", "max_open", labels, served),
        BarChart("wait p99", "waiting", "max_open", labels, waits, "time"),
    )
    return tuple(chart for chart in charts if any(chart.values))


def headline(recommended: RecommendResult) -> str:
    """Return the answer in one sentence."""
    answer = recommended.recommendation
    sizes = answer.recommendation
    if sizes.max_open is None:
        return f"Refused: {_describe_refusal(recommended)}"
    least = "at least " if answer.binding == "capacity" and answer.capacity.at_least else ""
    return (
        f"Set max_open to {least}{format_count(sizes.max_open)}, max_idle to {format_count(sizes.max_idle or 0)}, "
        f"max_lifetime to {_format_lifetime(recommended)}, {_name_place(recommended)}"
    )


def state_binding(recommended: RecommendResult) -> str:
    """Return what decides, what would decide next, and how sure it is; for a refusal, which finding it is about."""
    answer = recommended.recommendation
    sizes = answer.recommendation
    if sizes.max_open is None:
        finding = _find_refusal(recommended)
        return "" if finding is None else name_finding(finding)
    values = {bound.term: bound.value for bound in answer.bounds}
    sentences = []
    if answer.binding is not None:
        sentences.append(f"What binds is {_BINDS[answer.binding]}{_show_at(values.get(answer.binding))}")
        if answer.next_binding is not None:
            sentences[-1] += (
                f"; {_BINDS[answer.next_binding]} would bind next{_show_at(values.get(answer.next_binding))}"
            )
    low, high = sizes.interval or (sizes.max_open, sizes.max_open)
    span = f", {format_count(low)} to {format_count(high)}" if high > low else ""
    sentences.append(f"Confidence {sizes.confidence}{span}")
    if answer.worst_case_connections is not None:
        worst, slots = format_count(answer.worst_case_connections), format_count(answer.budget.total)
        sentences.append(f"All pools full, with a deploy at the peak: {worst} of {slots} slots")
    return ". ".join(sentences)


def describe_trials(recommended: RecommendResult) -> str:
    """Return how it was tried, and what came of it; "" if there is nothing to say."""
    tried = recommended.verification
    if tried is None:
        return recommended.unverified
    engine = {"model": "in virtual time", "live": "in virtual time and on a real server"}.get(
        tried.engine, tried.engine
    )
    if not tried.passed:
        return f"Tried {engine}, and it failed: {'; '.join(tried.failures)}"
    share = tried.throughput_share_of_best
    reached = "" if share is None else f": {share * 100:.0f} % of the best throughput among the sizes tried"
    return f"Tried {engine}, and it holds{reached}"


def _describe_refusal(recommended: RecommendResult) -> str:
    finding = _find_refusal(recommended)
    if finding is None:
        return "what is known allows no number"
    summary = summary_of(finding)
    # "Refused: pool size is not ..." reads as one sentence; a name that comes first keeps its spelling.
    first = summary.partition(" ")[0]
    return summary if first[1:] != first[1:].lower() else summary[:1].lower() + summary[1:]


def _format_lifetime(recommended: RecommendResult) -> str:
    sizes = recommended.recommendation.recommendation
    share = sizes.max_lifetime_jitter / sizes.max_lifetime if sizes.max_lifetime > 0 else 0.0
    return f"{format_duration(sizes.max_lifetime)} with {share * 100:.0f} % jitter"


def _name_place(recommended: RecommendResult) -> str:
    """Return whose pools, and how many of them there are at worst."""
    fleet = recommended.recommendation.fleet
    instances = f"{format_count(fleet.worst_case_instances)} worst-case instances"
    if fleet.worst_case_processes == 1:
        return "in its only process"
    if fleet.processes_per_instance == 1:
        return f"in each of {instances}"
    if fleet.worst_case_instances == 1:
        return f"in each of {format_count(fleet.processes_per_instance)} processes"
    return f"in each of {format_count(fleet.processes_per_instance)} processes of {instances}"


def _find_refusal(recommended: RecommendResult) -> Finding | None:
    """Return the finding that a refusal is about."""
    return next(iter(worst_first(recommended.recommendation.findings)), None)


def _warn(recommended: RecommendResult) -> tuple[str, ...]:
    """Return what a reader has to know before believing the answer."""
    cautions = []
    if recommended.interrupted:
        planned = f" of {format_duration(recommended.planned)}" if recommended.planned is not None else ""
        after = recommended.figures.window or 0.0
        cautions.append(f"INTERRUPTED after {format_duration(after)}{planned}: the answer stands on that time")
    for source in recommended.sources:
        if not source.ok:
            target = neutralize(source.target, TARGET_LIMIT)
            reason = neutralize(source.reason, SENTENCE_LIMIT) or "no reason was given"
            cautions.append(f"{SOURCE_NAMES[source.kind]} {target} did not answer: {reason}")
    return tuple(cautions)


def _show_at(value: int | None) -> str:
    return "" if value is None else f", at {format_count(value)}"


def _list_sources(recommended: RecommendResult) -> Iterator[str]:
    figures = recommended.figures
    if figures.window is not None:
        whose = "every client" if recommended.application is None else neutralize(recommended.application, NAME_LIMIT)
        effective = figures.effective_samples
        part = "" if effective is None else f", {format_count(round(effective))} of them independent"
        samples = f"{plural(figures.samples, 'sample')} in {format_duration(figures.window)}{part}"
        yield f"Measured of {whose}: {samples}"
    yield from (neutralize(note, SENTENCE_LIMIT) for note in recommended.notes)


def _build_pooler(recommended: RecommendResult) -> Section:
    pooler = recommended.recommendation.pooler
    blocks: list[Block] = [Note(neutralize(pooler.why, SENTENCE_LIMIT))]
    if pooler.recommended:
        if pooler.app_max_open is not None:
            blocks.append(Note(f"Behind it each process's max_open becomes {pooler.app_max_open}"))
        for title, settings in (("PgBouncer", pooler.pgbouncer), ("Pgpool-II", pooler.pgpool)):
            if settings is not None:
                lines = [f"{name} = {_show_setting(value)}" for name, value in asdict(settings).items()]
                blocks.append(Code(title, "\n".join(lines), "ini", is_short=True))
        blocks += [Note(caution, "caution") for caution in pooler.cautions]
    return Section("Pooler: recommended" if pooler.recommended else "Pooler", tuple(blocks))


def _build_trials(recommended: RecommendResult) -> Iterator[Block]:
    table, sentence = list_trials(recommended), describe_trials(recommended)
    notes = recommended.verification.notes if recommended.verification is not None else ()
    blocks: list[Block] = [table] if table is not None else []
    blocks += [Note(sentence), *(Note(neutralize(note, SENTENCE_LIMIT)) for note in notes)]
    yield Section("", tuple(blocks))
    yield Section("", tuple(map(ChartBlock, chart_trials(recommended))), is_detail=True)


def _find_language(file: str) -> str:
    suffix = PurePath(file).suffix
    return _LANGUAGES.get(suffix, suffix.removeprefix("."))


def _choose_sign(term: Term) -> str:
    if term.source == "computed":
        return "="
    if term.term.endswith(" limit"):
        return "<="
    return _SIGNS.get(term.term, "")


def _list_trial(outcome: "TrialOutcome", mark: str) -> tuple[str, ...]:
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


def _explain(recommended: RecommendResult, term: Binding) -> str:
    explain = {
        "demand": _describe_demand,
        "capacity": _explain_capacity,
        "budget": _explain_budget,
        "workers": _explain_workers,
        "floor": _explain_floor,
    }[term]
    return neutralize("; ".join(explain(recommended)), SENTENCE_LIMIT)


def _describe_demand(recommended: RecommendResult) -> Iterator[str]:
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


def _explain_capacity(recommended: RecommendResult) -> Iterator[str]:
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


def _explain_budget(recommended: RecommendResult) -> Iterator[str]:
    budget, fleet = recommended.recommendation.budget, recommended.recommendation.fleet
    yield f"{format_count(budget.total)} slots / {format_count(fleet.worst_case_processes)} processes at worst"
    if budget.limited_by != "max_connections":
        yield f"the {budget.limited_by} leaves the least"


def _explain_workers(recommended: RecommendResult) -> Iterator[str]:
    figures = recommended.figures
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    workers = figures.workers.count if figures.workers is not None else 1
    yield f"{format_count(workers)} workers x {format_count(each)} at once; more would never be used"


def _explain_floor(recommended: RecommendResult) -> Iterator[str]:
    figures = recommended.figures
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    if figures.workers is None or each <= 1:
        yield "the fewest that one request needs"
    else:
        yield f"{format_count(figures.workers.count)} workers x ({each} - 1) + 1: with fewer they can deadlock"


def _show(name: str, value: float) -> str:
    if name in _TIMES:
        return format_duration(value)
    if name in _RATES:
        return f"{format_count(value)}/s"
    if name.endswith("_share") or name == "database_cpu":
        return f"{value * 100:.0f} %"
    return format_count(round(value, 4))


def _show_setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
