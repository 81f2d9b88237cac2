"""The report of an inspection: the verdict, who, what to do; then why, the limits, who is connected, how it was seen.

Decides the order, which is that of the questions at 3 a.m., and how much of it fits the screen.
"""

from collections.abc import Iterable, Sequence

from rich.text import Text

from poolctl.api.results import InspectResult
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.charts import draw
from poolctl.report.inspection_chart import chart_of_observation
from poolctl.report.inspection_rows import Table, concurrency_fact, group_table, limit_table
from poolctl.report.inspection_words import (
    about,
    cautions_of,
    evidence_of,
    holders_of,
    inspection_verdict,
    seen_lines,
    sql_of,
    steps_of,
)
from poolctl.report.relief import print_relief
from poolctl.report.screen import STYLES, Screen
from poolctl.report.terminal import print_columns, print_facts
from poolctl.report.verdict import SENTENCE_LIMIT, word_of
from poolctl.safe_text import neutralize

LONG = 10.0
"""Seconds of looking from which on a chart says more than the numbers."""

_SECTION = 8
"""Width of "Who", "Do", "Failed" with the space after them."""

LEGEND = "frozen: in the same state since the first sample; moved: state or transaction changed meanwhile"


def print_inspection(screen: Screen, inspection: InspectResult) -> None:
    print_verdict(screen, inspection)
    findings = worst_first(inspection.diagnosis.findings)
    pressing = [finding for finding in findings[1:] if finding.severity != "info"]
    for finding in findings[:1]:
        screen.print()
        _print_first(screen, finding)
    for finding in pressing:
        _print_other(screen, finding, before=findings[0])
    if inspection.relief is not None:
        print_relief(screen, inspection.relief)
    print_limits(screen, inspection)
    print_groups(screen, inspection)
    _print_chart(screen, inspection)
    for finding in findings[1:]:
        if finding.severity == "info":
            _print_other(screen, finding, before=findings[0])
    _print_seen(screen, inspection)
    _print_sql(screen, [*findings[:1], *pressing])


def print_verdict(screen: Screen, inspection: InspectResult) -> None:
    """How bad it is, in one sentence, and what to know before believing it."""
    verdict = inspection_verdict(inspection)
    word = Text(f"{verdict.word}  ", style=STYLES[verdict.word])
    screen.paragraph(word, Text(verdict.sentence, style="bold"), hang=2)
    if inspection.diagnosis.findings:
        screen.paragraph("", about(worst_first(inspection.diagnosis.findings)[0]), hang=2)
    for caution in cautions_of(inspection):
        screen.paragraph(Text("! ", style=STYLES["WARNING"]), caution)


def print_limits(screen: Screen, inspection: InspectResult) -> None:
    limits = inspection.diagnosis.limits
    if not limits:
        return
    screen.print()
    with_bars = limit_table(limits, bars="" if screen.natural else "#." if screen.ascii_only else "█░")
    plain = limit_table(limits)
    _print_table(screen, (with_bars, plain), as_list=plain)


def print_groups(screen: Screen, inspection: InspectResult) -> None:
    diagnosis = inspection.diagnosis
    if diagnosis.groups:
        screen.print()
        full = group_table(diagnosis.groups)
        _print_table(screen, (full, group_table(diagnosis.groups, short=True)), as_list=full)
        if len(inspection.observation.snapshots) > 1:
            screen.paragraph("", f"({LEGEND})", hang=1)
    if diagnosis.concurrency:
        screen.print()
        print_facts(screen, [concurrency_fact(diagnosis.concurrency)])


def _print_first(screen: Screen, finding: Finding) -> None:
    """Who, what to do, why: of the finding that the verdict is about, which has been told already."""
    _print_holders(screen, "Who", finding)
    _print_reasons(screen, finding)


def _print_other(screen: Screen, finding: Finding, *, before: Finding) -> None:
    """``before``: whose holders have been named already."""
    screen.print()
    word = word_of(finding)
    lead = Text(f"{word}  ", style=STYLES[word])
    screen.paragraph(lead, neutralize(finding.summary, SENTENCE_LIMIT), hang=2)
    screen.paragraph("", about(finding), hang=2)
    if finding.holders and finding.holders == before.holders:
        screen.paragraph(_head("Who"), "the same as above")
    else:
        _print_holders(screen, "Who", finding)
    _print_reasons(screen, finding)


def _print_reasons(screen: Screen, finding: Finding) -> None:
    _print_steps(screen, "Do", steps_of(finding))
    evidence = evidence_of(finding)
    if evidence:
        screen.paragraph(_head("Why"), evidence)


def _print_holders(screen: Screen, label: str, finding: Finding) -> None:
    for number, (name, query) in enumerate(holders_of(finding)):
        screen.paragraph(_head("" if number else label), name)
        if query:
            screen.paragraph(" " * (_SECTION + 2), f"last query: {query}")


def _print_steps(screen: Screen, label: str, steps: Sequence[str]) -> None:
    for number, step in enumerate(steps):
        lead = _head("" if number else label)
        lead.append(f"{number + 1}. " if len(steps) > 1 else "")
        screen.paragraph(lead, step)


def _print_table(screen: Screen, tables: Sequence[Table], *, as_list: Table) -> None:
    """The first of ``tables`` that has room; where none has, each record of ``as_list`` below its name."""
    screen.print(Text(as_list.title, style="bold"))
    if screen.narrow or not any(print_columns(screen, table.header, table.rows) for table in tables):
        _print_list(screen, as_list)
    if as_list.more:
        screen.paragraph("", as_list.more)


def _print_list(screen: Screen, table: Table) -> None:
    """Each record below its own name, which is its last cell. A count that is zero is left out, unless it is news."""
    for row in table.rows:
        screen.paragraph(Text("  "), Text(row[-1], style="bold"))
        cells = zip(table.header, row[:-1], strict=False)
        told = [f"{name} {cell}" for name, cell in cells if name in ("used", "free") or cell not in ("0", "-")]
        screen.paragraph("    ", ", ".join(told))


def _print_chart(screen: Screen, inspection: InspectResult) -> None:
    if inspection.observation.window < LONG:
        return
    chart = chart_of_observation(inspection.observation)
    if chart is not None:
        screen.print()
        screen.chart(draw(chart, screen.chart_width, ascii_only=screen.ascii_only))


def _print_seen(screen: Screen, inspection: InspectResult) -> None:
    lines = seen_lines(inspection)
    if lines:
        screen.print()
    for label, sentence in _labels_once(lines):
        screen.paragraph(_head(label), sentence)


def _print_sql(screen: Screen, findings: Iterable[Finding]) -> None:
    """Never wrapped by us: it has to survive copying."""
    statements = sql_of(tuple(findings))
    if statements:
        screen.print()
    for codes, lines in statements:
        screen.print(Text(f"To see it again ({codes}):", style="bold"))
        for line in lines:
            screen.print(line)


def _labels_once(lines: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    before = ""
    for label, sentence in lines:
        yield ("" if label == before else label), sentence
        before = label


def _head(word: str) -> Text:
    return Text(f"{word:<{_SECTION}}", style="bold")
