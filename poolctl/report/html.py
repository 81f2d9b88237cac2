"""Writes one self-contained HTML page: verdict, numbers, chart, reasons, and the JSON it was made from.

Decides the page's order, which is that of the terminal report. Nothing in it is fetched from anywhere.
"""

from collections.abc import Iterable, Sequence
from html import escape

from poolctl.api.documents import Document, dumps
from poolctl.api.results import SimulateResult, Variant
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.facts import Fact, describe, evidence_items, facts_of
from poolctl.report.panels import Chart, chart_of, comparison_chart_of
from poolctl.report.rows import HEADER, comparison_row, error_rows, headline
from poolctl.report.svg import svg_of
from poolctl.report.verdict import cautions_of, next_steps, sentence_of, verdict_of, word_of
from poolctl.safe_text import neutralize
from poolctl.scenario.run import Run

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; background: Canvas; color: CanvasText; }
h1 { font-size: 1.3rem; line-height: 1.35; border-left: 0.4rem solid; padding-left: 0.8rem; }
h1.critical { border-color: #cf222e; } h1.warning { border-color: #bf8700; } h1.info { border-color: #1a7f37; }
h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: 0.2rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; border-bottom: 1px solid #8884; }
th { font-weight: 600; } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.note { opacity: 0.75; } svg { max-width: 100%; height: auto; }
"""


def page_of(run: Run, findings: Sequence[Finding], *, repeat: str = "") -> str:
    """The page of one run. ``repeat``: the command that does it again, "" for none."""
    verdict = verdict_of(run, findings)
    body = [
        f'<h1 class="{verdict.severity or "info"}">{text(f"{verdict.word}: {verdict.sentence}")}</h1>',
        *(paragraph(caution) for caution in cautions_of(run)),
        paragraph(describe(run), "note"),
        drawn(chart_of(run), f"{verdict.word}: {verdict.sentence}"),
        "<h2>Numbers</h2>",
        _facts(facts_of(run)),
        *_errors(run),
        *_reasons(findings),
        *([f"<h2>Notes</h2>{bullets(run.notes)}"] if run.notes else []),
    ]
    return wrapped(run.scenario.name, body, repeat, SimulateResult("live", (Variant("", run, findings),)).to_dict())


def comparison_page_of(variants: Sequence[Variant], *, repeat: str = "") -> str:
    """The page of several runs: the table, one chart, and each variant's numbers."""
    told = headline(variants)
    body = [
        f'<h1 class="info">{text(told)}</h1>',
        table(HEADER, (comparison_row(variant) for variant in variants)),
        drawn(comparison_chart_of(variants), told),
    ]
    for variant in variants:
        verdict = verdict_of(variant.run, variant.findings)
        body.append(f"<h2>{text(f'{variant.name}: {verdict.word}, {verdict.sentence}')}</h2>")
        body += [paragraph(caution) for caution in cautions_of(variant.run)]
        body += [_facts(facts_of(variant.run)), *_errors(variant.run), *_reasons(variant.findings, level=3)]
    return wrapped("comparison", body, repeat, SimulateResult("live", tuple(variants), is_comparison=True).to_dict())


def wrapped(name: str, body: Iterable[str], repeat: str, document: Document) -> str:
    """A whole page around ``body``, with the data that it was made from."""
    again = f"<h2>Repeat</h2><pre>{escape(neutralize(repeat, None))}</pre>" if repeat else ""
    # "<" is all that could end the script element early; in JSON it stands only inside strings.
    data = dumps(document).replace("<", "\\u003c")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>poolctl: {text(name)}</title>",
            f"<style>{_STYLE}</style></head><body>",
            *body,
            again,
            f'<script type="application/json" id="poolctl-data">{data}</script>',
            "</body></html>\n",
        ]
    )


def _facts(facts: Iterable[Fact]) -> str:
    rows = []
    for fact in facts:
        items = [f"{item.sign} {item.name} {item.value}".strip() for item in fact.items]
        joined = "".join(
            (" " if item.sign else "&ensp; ") + escape(told) for item, told in zip(fact.items, items, strict=True)
        )
        note = f' <span class="note">({text(fact.note)})</span>' if fact.note else ""
        rows.append(f"<tr><th>{text(fact.label)}</th><td>{joined.removeprefix('&ensp; ')}{note}</td></tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _errors(run: Run) -> list[str]:
    if not run.summary.errors:
        return []
    header, rows = error_rows(run.summary.errors)
    return ["<h2>Errors</h2>", table(header, rows)]


def _reasons(findings: Sequence[Finding], *, level: int = 2) -> list[str]:
    parts = [f"<h{level}>Why</h{level}>"] if findings else []
    for finding in worst_first(findings):
        parts.append(paragraph(f"{word_of(finding)} {finding.code}: {sentence_of(finding)}"))
        evidence = [f"{item.name} {item.value}" for item in evidence_items(finding.evidence)]
        parts.append(paragraph(f"{finding.layer}, {finding.confidence}; {', '.join(evidence)}", "note"))
        if finding.evidence_sql:
            parts.append(code(finding.evidence_sql))
    steps = next_steps(findings)
    return [*parts, f"<h{level}>Next</h{level}>{bullets(steps)}"] if steps else parts


def drawn(chart: Chart | None, subtitle: str) -> str:
    """The chart as a picture in the page."""
    return svg_of(chart, subtitle=subtitle, standalone=False) if chart else paragraph("The run was too short to chart.")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are escaped here and made harmless before."""
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def bullets(lines: Iterable[str], kind: str = "ul") -> str:
    """``kind``: "ul", or "ol" where the order counts."""
    return f"<{kind}>{''.join(f'<li>{text(line)}</li>' for line in lines)}</{kind}>"


def paragraph(words: str, kind: str = "") -> str:
    return f"<p{f' class={kind!r}' if kind else ''}>{text(words)}</p>"


def code(lines: str) -> str:
    """Text that keeps its lines."""
    return f"<pre>{escape(chr(10).join(neutralize(line, 600) for line in lines.splitlines()))}</pre>"


def text(words: str) -> str:
    """Escaped and harmless, on one line."""
    return escape(neutralize(words, 1000))
