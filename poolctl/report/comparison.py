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
from poolctl.report.findings import SENTENCE_LIMIT, explain_line, sql_blocks, steps_to_do
from poolctl.report.simulation import (
    REASON_MARGIN,
    cautions_of_run,
    describe_run,
    error_table,
    next_steps,
    pool_panel,
    run_facts,
    run_reasons,
    run_verdict,
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


def comparison_report(variants: Sequence[Variant], *, repeat: str = "") -> Report:
    """Return the report of all variants, in the order given. ``repeat``: the command that does it again, or ""."""
    chart = comparison_chart(variants)
    findings = [finding for variant in variants for finding in variant.findings]
    return (
        Verdict("", None, "", ", ".join(map(_ending, variants))),
        Section("", (comparison_table(variants),)),
        *([ChartBlock(chart)] if chart else []),
        Section("", (*map(_variant_finding, variants), Points((explain_line(findings),), REASON_MARGIN))),
        *map(_variant_details, variants),
        Repeat(neutralize(repeat, None)),
    )


def both_report(live: Variant, model: Variant, *, repeat: str = "") -> Report:
    """Return the report of a live run and the model's of the same scenario: how far to trust the model."""
    found = compare_summaries(live.run.summary, model.run.summary)
    never = [each.name for each in found if not each.live and not each.model]
    _, sentence = judge_model(live.run, model.run)
    verdict = run_verdict(model.run, model.findings)
    notes = tuple(dict.fromkeys((*live.run.notes, *model.run.notes)))
    points = (
        Labeled("Trust", (Item(sentence),)),
        Labeled("Model", (Item(f"{verdict.word}: {verdict.sentence}"),)),
        Labeled("Note", tuple(Item(neutralize(note, SENTENCE_LIMIT)) for note in notes)),
    )
    chart = comparison_chart([Variant("live", live.run), Variant("model", model.run)])
    return (
        run_verdict(live.run, live.findings),
        *(Note(caution, "caution") for caution in cautions_of_run(live.run)),
        Note(describe_run(live.run)),
        Section("", (_difference_table(found), Note(f"0 in both: {', '.join(never)}" if never else ""))),
        *([Section("", (ChartBlock(chart),), is_detail=True)] if chart else []),
        Points(points, REASON_MARGIN),
        run_reasons(live.findings, (), explain_line(live.findings)),
        Section("", sql_blocks(live.findings), is_detail=True),
        Section("live", (run_facts(live.run), error_table(live.run.summary.errors)), is_detail=True),
        Section("model", (run_facts(model.run), error_table(model.run.summary.errors)), is_detail=True),
        Repeat(neutralize(repeat, None)),
    )


def comparison_table(variants: Sequence[Variant]) -> Table:
    """Return a row for each variant; where rows have no room, a column for each."""
    return Table("", HEADER, tuple(map(_row, variants)), words=_VERDICT, side_by_side=True)


def comparison_chart(variants: Sequence[Variant]) -> TimeChart | None:
    """Return a panel for each variant, all on the same axes, so that heights compare; None if no run can be drawn."""
    drawn = [variant for variant in variants if len(variant.run.timeline) >= 2]
    if not drawn:
        return None
    end = max(variant.run.timeline[-1].at for variant in drawn)
    step = min(_step(variant.run.timeline) for variant in drawn)
    at = tuple(step * number for number in range(int(end / step) + 1))
    panels = []
    for variant in drawn:
        points = _on_grid(variant.run.timeline, at)
        panels.append(pool_panel(neutralize(variant.name, 40), variant.run, points))
    top = max(panel.top for panel in panels)
    same = tuple(rescale_panel(panel, top, 4 if len(panels) <= 3 else 3) for panel in panels)
    return TimeChart("connections of each variant over time", at, same, 0.0, end)


def _ending(variant: Variant) -> str:
    return f"{_name(variant)}: {run_verdict(variant.run, variant.findings).word}"


def _name(variant: Variant) -> str:
    return neutralize(variant.name, 40)


def _row(variant: Variant) -> tuple[str, ...]:
    summary, server = variant.run.summary, variant.run.summary.server
    verdict = run_verdict(variant.run, variant.findings)
    peak = server.peak_connections if server else None
    usable = f" of {format_count(server.usable)}" if server and server.usable is not None else ""
    return (
        _name(variant),
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


def _variant_finding(variant: Variant) -> FindingBlock:
    """Return the variant's verdict, and what to do if it is worse than for information."""
    verdict = run_verdict(variant.run, variant.findings)
    steps: tuple[str, ...] = ()
    if verdict.severity is not None and verdict.severity != SEVERITIES[-1]:
        steps = next_steps(worst_first(variant.findings)[:1])
    return FindingBlock(
        verdict.word,
        verdict.severity,
        verdict.sentence,
        "",
        Points((steps_to_do(steps, "Next"),), REASON_MARGIN),
        _name(variant),
        cautions_of_run(variant.run),
    )


def _variant_details(variant: Variant) -> Block:
    blocks: tuple[Block, ...] = (
        Note(describe_run(variant.run)),
        run_facts(variant.run),
        error_table(variant.run.summary.errors),
        run_reasons(variant.findings, variant.run.notes),
        *sql_blocks(variant.findings),
    )
    return Section(_name(variant), blocks, is_detail=True)


def _difference_table(found: Sequence[Difference]) -> Table:
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


def _step(points: Sequence[TimelinePoint]) -> float:
    """Return the usual distance of the timeline's rows."""
    distances = sorted(after.at - before.at for before, after in pairwise(points))
    return max(distances[len(distances) // 2], 1e-3)


def _on_grid(points: Sequence[TimelinePoint], at: Sequence[float]) -> list[TimelinePoint | None]:
    """Return the last point at or before each instant; None before the first and after the last one."""
    found: list[TimelinePoint | None] = []
    current = -1
    for instant in at:
        while current + 1 < len(points) and points[current + 1].at <= instant + 1e-9:
            current += 1
        past = current == len(points) - 1 and instant > points[-1].at + 1e-9
        found.append(None if current < 0 or past else points[current])
    return found
