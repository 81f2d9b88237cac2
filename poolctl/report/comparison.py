"""The reports of several runs side by side: variants of a scenario, or the same scenario live and in the model.

Decides which numbers compare, and what each run adds for a reader who has room.
"""

from collections.abc import Sequence
from itertools import pairwise

from poolctl.api.model_trust import Difference, compare_summaries, format_relative, judge_model
from poolctl.api.results import Variant
from poolctl.diagnose.finding import SEVERITIES, worst_first
from poolctl.report.blocks import (
    Block,
    ChartBlock,
    FindingBlock,
    Item,
    Labeled,
    Listing,
    Note,
    Points,
    Repeat,
    Report,
    Section,
    Table,
    Verdict,
)
from poolctl.report.charts import TimeChart, rescale_panel
from poolctl.report.findings import SENTENCE_LIMIT, collect_sql, label_steps, name_explanation
from poolctl.report.simulation import (
    REASON_MARGIN,
    chart_pool,
    describe_run,
    explain_run,
    judge_run,
    list_errors,
    list_run_facts,
    list_steps,
    warn_about_run,
)
from poolctl.safe_text import neutralize
from poolctl.scenario.run import TimelinePoint
from poolctl.units import format_count, format_duration

HEADER = (
    "variant",
    "verdict",
    "released/s",
    "wait p50",
    "wait p99",
    "timed out",
    "refused",
    "leaked",
    "opened",
    "peak open",
    "server peak",
)
_VERDICT = HEADER.index("verdict")


def build_comparison_report(variants: Sequence[Variant], *, repeat: str = "") -> Report:
    """Return the report of all variants, in the order given. ``repeat``: the command that does it again, or ""."""
    chart = chart_comparison(variants)
    findings = [finding for variant in variants for finding in variant.findings]
    return (
        Verdict("", None, "", ", ".join(map(_state_ending, variants))),
        Section("", (compare_numbers(variants),)),
        *([ChartBlock(chart)] if chart else []),
        Section("", (*map(_build_variant, variants), Points((name_explanation(findings),), REASON_MARGIN))),
        *map(_build_details, variants),
        Repeat(neutralize(repeat, None)),
    )


def build_both_report(live: Variant, model: Variant, *, repeat: str = "") -> Report:
    """Return the report of a live run and the model's of the same scenario: how far to trust the model."""
    found = compare_summaries(live.run.summary, model.run.summary)
    never = [each.name for each in found if not each.live and not each.model]
    _, sentence = judge_model(live.run, model.run)
    verdict = judge_run(model.run, model.findings)
    notes = tuple(dict.fromkeys((*live.run.notes, *model.run.notes)))
    points = (
        Labeled("Trust", (Item(sentence),)),
        Labeled("Model", (Item(f"{verdict.word}: {verdict.sentence}"),)),
        Labeled("Note", tuple(Item(neutralize(note, SENTENCE_LIMIT)) for note in notes)),
    )
    chart = chart_comparison([Variant("live", live.run), Variant("model", model.run)])
    return (
        judge_run(live.run, live.findings),
        *(Note(caution, "caution") for caution in warn_about_run(live.run)),
        Note(describe_run(live.run)),
        Section("", (_list_differences(found), Note(f"0 in both: {', '.join(never)}" if never else ""))),
        *([Section("", (ChartBlock(chart),), is_detail=True)] if chart else []),
        Points(points, REASON_MARGIN),
        explain_run(live.findings, (), name_explanation(live.findings)),
        Section("", collect_sql(live.findings), is_detail=True),
        Section("live", (list_run_facts(live.run), list_errors(live.run.summary.errors)), is_detail=True),
        Section("model", (list_run_facts(model.run), list_errors(model.run.summary.errors)), is_detail=True),
        Repeat(neutralize(repeat, None)),
    )


def compare_numbers(variants: Sequence[Variant]) -> Table:
    """Return a row for each variant; where rows have no room, a column for each."""
    return Table("", HEADER, tuple(map(_list_row, variants)), words=_VERDICT, side_by_side=True)


def chart_comparison(variants: Sequence[Variant]) -> TimeChart | None:
    """Return a panel for each variant, all on the same axes, so that heights compare; None if no run can be drawn."""
    drawn = [variant for variant in variants if len(variant.run.timeline) >= 2]
    if not drawn:
        return None
    end = max(variant.run.timeline[-1].at for variant in drawn)
    step = min(_find_step(variant.run.timeline) for variant in drawn)
    at = tuple(step * number for number in range(int(end / step) + 1))
    panels = []
    for variant in drawn:
        points = _align(variant.run.timeline, at)
        panels.append(chart_pool(neutralize(variant.name, 40), variant.run, points))
    top = max(panel.top for panel in panels)
    same = tuple(rescale_panel(panel, top, 4 if len(panels) <= 3 else 3) for panel in panels)
    return TimeChart("connections of each variant over time", at, same, 0.0, end)


def _state_ending(variant: Variant) -> str:
    return f"{_show_name(variant)}: {judge_run(variant.run, variant.findings).word}"


def _show_name(variant: Variant) -> str:
    return neutralize(variant.name, 40)


def _list_row(variant: Variant) -> tuple[str, ...]:
    summary, server = variant.run.summary, variant.run.summary.server
    verdict = judge_run(variant.run, variant.findings)
    peak = server.peak_connections if server else None
    usable = f" of {format_count(server.usable)}" if server and server.usable is not None else ""
    return (
        _show_name(variant),
        verdict.word if verdict.word == "OK" else f"{verdict.word} {verdict.code}".strip(),
        format_count(summary.throughput),
        format_duration(summary.wait_time.p50),
        format_duration(summary.wait_time.p99),
        format_count(summary.timed_out),
        format_count(summary.refused),
        format_count(summary.leaked),
        format_count(summary.connections.opened),
        format_count(summary.connections.peak_open),
        "-" if peak is None else f"{format_count(peak)}{usable}",
    )


def _build_variant(variant: Variant) -> FindingBlock:
    """Return the variant's verdict, and what to do if it is worse than for information."""
    verdict = judge_run(variant.run, variant.findings)
    steps: tuple[str, ...] = ()
    if verdict.severity is not None and verdict.severity != SEVERITIES[-1]:
        steps = list_steps(worst_first(variant.findings)[:1])
    return FindingBlock(
        verdict.word,
        verdict.severity,
        verdict.sentence,
        "",
        Points((label_steps(steps, "Next"),), REASON_MARGIN),
        _show_name(variant),
        warn_about_run(variant.run),
    )


def _build_details(variant: Variant) -> Block:
    blocks: tuple[Block, ...] = (
        Note(describe_run(variant.run)),
        list_run_facts(variant.run),
        list_errors(variant.run.summary.errors),
        explain_run(variant.findings, variant.run.notes),
        *collect_sql(variant.findings),
    )
    return Section(_show_name(variant), blocks, is_detail=True)


def _list_differences(found: Sequence[Difference]) -> Table:
    rows = tuple(
        (each.name, each.show(each.live), each.show(each.model), _format_difference(each))
        for each in found
        if each.live or each.model
    )
    records = tuple((name, f"{live}, {model} ({apart})") for name, live, model, apart in rows)
    listing = Listing("live, model (difference)", records, is_inline=True)
    return Table("", ("", "live", "model", "difference"), rows, listing=listing)


def _format_difference(each: Difference) -> str:
    """Return model less live, and that as a share of live: "+8.6 (+2.2 %)"."""
    sign = "+" if each.absolute > 0 else "-" if each.absolute < 0 else ""
    return f"{sign}{each.show(abs(each.absolute))}{format_relative(each, ' ({})')}"


def _find_step(points: Sequence[TimelinePoint]) -> float:
    """Return the usual distance of the timeline's rows."""
    distances = sorted(after.at - before.at for before, after in pairwise(points))
    return max(distances[len(distances) // 2], 1e-3)


def _align(points: Sequence[TimelinePoint], at: Sequence[float]) -> list[TimelinePoint | None]:
    """Return the last point at or before each instant; None before the first and after the last one."""
    found: list[TimelinePoint | None] = []
    current = -1
    for instant in at:
        while current + 1 < len(points) and points[current + 1].at <= instant + 1e-9:
            current += 1
        past = current == len(points) - 1 and instant > points[-1].at + 1e-9
        found.append(None if current < 0 or past else points[current])
    return found
