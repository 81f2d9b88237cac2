"""One self-contained HTML page of an inspection, for the post-mortem: the terminal's report, the chart, the JSON.

Decides the page's order. Nothing in it is fetched from anywhere.
"""

from collections.abc import Iterator

from poolctl.api.results import InspectResult
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.html import bullets, code, drawn, paragraph, table, text, wrapped
from poolctl.report.inspection_chart import chart_of_observation
from poolctl.report.inspection_rows import Table, concurrency_fact, group_table, limit_table
from poolctl.report.inspection_words import (
    about,
    cautions_of,
    evidence_of,
    holders_of,
    inspection_verdict,
    seen_lines,
    steps_of,
)
from poolctl.report.relief_rows import relief_headline, relief_notes, relieved_lines, statements_of, step_table
from poolctl.report.verdict import sentence_of, word_of


def inspection_page(inspection: InspectResult) -> str:
    verdict = inspection_verdict(inspection)
    told = f"{verdict.word}: {verdict.sentence}"
    body = [f'<h1 class="{verdict.severity or "info"}">{text(told)}</h1>']
    body += [paragraph(caution) for caution in cautions_of(inspection)]
    for number, finding in enumerate(worst_first(inspection.diagnosis.findings)):
        if number:
            body.append(f"<h2>{text(f'{word_of(finding)}: {sentence_of(finding)}')}</h2>")
        body += _finding(finding)
    body += _relief(inspection)
    chart = chart_of_observation(inspection.observation)
    if chart:
        body += ["<h2>Connections</h2>", drawn(chart, told)]
    body += _tables(inspection)
    seen = [f"{label}: {sentence}" for label, sentence in seen_lines(inspection)]
    if seen:
        body += ["<h2>How it was seen</h2>", bullets(seen)]
    return wrapped("inspect", body, "", inspection.to_dict())


def _finding(finding: Finding) -> Iterator[str]:
    yield paragraph(about(finding), "note")
    holders = [name + (f"; last query: {query}" if query else "") for name, query in holders_of(finding)]
    if holders:
        yield "<h3>Who</h3>" + bullets(holders)
    steps = steps_of(finding)
    if steps:
        yield "<h3>Do</h3>" + bullets(steps, "ol" if len(steps) > 1 else "ul")
    evidence = evidence_of(finding)
    if evidence or finding.evidence_sql:
        yield "<h3>Why</h3>"
    if evidence:
        yield paragraph(evidence)
    if finding.evidence_sql:
        yield code(finding.evidence_sql)


def _relief(inspection: InspectResult) -> Iterator[str]:
    plan, relieved = inspection.relief, inspection.relieved
    if plan is None:
        return
    yield f"<h2>{text(relief_headline(plan, relieved))}</h2>"
    steps = step_table(plan)
    if steps.rows:
        yield table(steps.header, steps.rows)
    notes = [f"{label}: {sentence}" for label, sentence in relief_notes(plan)]
    if notes:
        yield bullets(notes)
    if plan.steps:
        yield code("\n".join(statements_of(plan)))
    if relieved is not None:
        yield "<h3>Done</h3>" + bullets(relieved_lines(relieved))


def _tables(inspection: InspectResult) -> Iterator[str]:
    diagnosis = inspection.diagnosis
    if diagnosis.limits:
        yield from _titled(limit_table(diagnosis.limits))
    if diagnosis.groups:
        yield from _titled(group_table(diagnosis.groups, wide=True))
    if diagnosis.concurrency:
        fact = concurrency_fact(diagnosis.concurrency)
        told = ", ".join(f"{item.name} {item.value}" for item in fact.items)
        yield paragraph(f"{fact.label}: {told} ({fact.note})")


def _titled(rows: Table) -> Iterator[str]:
    yield f"<h2>{text(rows.title)}</h2>"
    yield table(rows.header, rows.rows)
    if rows.more:
        yield paragraph(rows.more, "note")
