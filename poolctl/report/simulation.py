"""The report of one run: the verdict first, numbers that add up, the chart, why and next, how to repeat it."""

from collections.abc import Sequence

from rich.text import Text

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.charts import draw
from poolctl.report.facts import describe, evidence_items, facts_of
from poolctl.report.panels import chart_of
from poolctl.report.rows import error_rows
from poolctl.report.screen import STYLES, Screen
from poolctl.report.terminal import print_columns, print_facts
from poolctl.report.verdict import SENTENCE_LIMIT, cautions_of, next_steps, verdict_of, word_of
from poolctl.safe_text import neutralize
from poolctl.scenario.run import ObservedError, Run

MOST_EVIDENCE = 8
_SECTION = 6
"""Width of "Why" and "Next" with the space after them."""


def print_simulation(screen: Screen, run: Run, findings: Sequence[Finding], *, repeat: str = "") -> None:
    """The final report. ``repeat``: the command that does the same run again, "" to leave the line out."""
    print_verdict(screen, run, findings)
    screen.paragraph("", describe(run), hang=2)
    screen.print()
    print_facts(screen, facts_of(run))
    _print_errors(screen, run.summary.errors)
    _print_chart(screen, run)
    print_reasons(screen, findings)
    for note in run.notes:
        screen.paragraph(_head("Note"), neutralize(note, 600))
    print_repeat(screen, repeat)


def print_repeat(screen: Screen, command: str) -> None:
    """The command that repeats the run, never wrapped by us: it has to survive copying."""
    if not command:
        return
    screen.print()
    line = f"repeat with  {neutralize(command, None)}"
    if screen.width is None or len(line) <= screen.width:
        screen.print(line)
    else:
        screen.print("repeat with")
        screen.print(neutralize(command, None))


def print_verdict(screen: Screen, run: Run, findings: Sequence[Finding]) -> None:
    """The first lines of every report: how bad it is, and what to know before believing the numbers."""
    verdict = verdict_of(run, findings)
    word = Text(f"{verdict.word}  ", style=STYLES[verdict.word])
    screen.paragraph(word, Text(verdict.sentence, style="bold"), hang=2)
    for caution in cautions_of(run):
        screen.paragraph(Text("! ", style=STYLES["WARNING"]), caution)


def print_reasons(screen: Screen, findings: Sequence[Finding]) -> None:
    """What the verdict stands on, what else was found, and what to do about it."""
    if not findings:
        return
    screen.print()
    ranked = worst_first(findings)
    for number, finding in enumerate(ranked):
        evidence = ", ".join(f"{item.name} {item.value}" for item in evidence_items(finding.evidence)[:MOST_EVIDENCE])
        about = f"{finding.code} ({finding.layer}, {finding.confidence}): "
        if number:
            about = f"{word_of(finding)} {about}{neutralize(finding.summary, SENTENCE_LIMIT)}; "
        screen.paragraph(_head("Also" if number else "Why"), (about + evidence).rstrip(":; "))
        for line in _holders(finding):
            screen.paragraph(" " * _SECTION, line)
    steps = next_steps(ranked)
    for number, step in enumerate(steps):
        lead = _head("" if number else "Next")
        lead.append(f"{number + 1}. " if len(steps) > 1 else "")
        screen.paragraph(lead, step)


def _print_errors(screen: Screen, errors: Sequence[ObservedError]) -> None:
    if not errors:
        return
    screen.print()
    header, rows = error_rows(errors)
    if screen.narrow or not print_columns(screen, header, rows):
        screen.print(Text("errors", style="bold"))
        for count, origin, first_at, sqlstate, message in rows:
            code = "" if sqlstate == "-" else f" {sqlstate}"
            screen.paragraph("  ", f"{count} x from {origin}{code}, first at {first_at}")
            screen.paragraph("    ", message)
    if len(errors) > len(rows):
        screen.paragraph("", f"... and {len(errors) - len(rows)} more kinds of error: see --json")


def _print_chart(screen: Screen, run: Run) -> None:
    chart = chart_of(run)
    screen.print()
    if chart is None:
        screen.print("(too short a run for a chart)")
        return
    screen.chart(draw(chart, screen.chart_width, ascii_only=screen.ascii_only))


def _holders(finding: Finding) -> list[str]:
    lines = []
    for holder in finding.holders[:5]:
        who = [
            f"{name} {neutralize(value, 60)}"
            for name, value in (
                ("application", holder.application),
                ("user", holder.user),
                ("client", holder.client),
                ("route", holder.route),
            )
            if value
        ]
        pids = ", ".join(map(str, holder.pids[:8])) + (" ..." if len(holder.pids) > 8 else "")
        lines.append("held by " + ", ".join([*who, f"backends {pids}"] if pids else who))
        if holder.last_query:
            lines.append(f"  last query: {neutralize(holder.last_query, 120)}")
    return lines


def _head(word: str) -> Text:
    return Text(f"{word:<{_SECTION}}", style="bold")
