"""The report of a recommendation: the answer, what binds it, then every number with where it comes from.

Decides the order, and how much of it fits the screen. Configuration is never indented, wrapped or cut.
"""

from collections.abc import Sequence

from rich.text import Text

from poolctl.api.results import RecommendResult
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.inspection_rows import Table
from poolctl.report.inspection_words import evidence_of, holders_of, steps_of
from poolctl.report.recommendation_rows import (
    arithmetic_table,
    assumptions_table,
    bounds_table,
    figures_table,
    pooler_rows,
    settings_table,
    verification_table,
)
from poolctl.report.recommendation_words import (
    about,
    binding_sentence,
    cautions_of,
    headline,
    stands_on,
    verification_sentence,
)
from poolctl.report.screen import STYLES, Screen
from poolctl.report.terminal import print_columns
from poolctl.report.verdict import SENTENCE_LIMIT, word_of
from poolctl.safe_text import neutralize
from poolctl.stacks import Config

_SECTION = 8
"""Width of "Who", "Do", "Why" with the space after them."""
TAB = 4


def print_recommendation(screen: Screen, recommended: RecommendResult) -> None:
    answer = recommended.recommendation
    style = STYLES["WARNING"] if answer.is_refused else "bold"
    screen.paragraph("", Text(headline(recommended), style=style), hang=2)
    screen.paragraph("", binding_sentence(recommended), hang=2)
    for caution in cautions_of(recommended):
        screen.paragraph(Text("! ", style=STYLES["WARNING"]), caution)
    findings = worst_first(answer.findings)
    for number, finding in enumerate(findings):
        if answer.is_refused and number == 0:
            # Its summary and code are the answer, and have been told.
            screen.print()
            print_advice(screen, finding)
        elif finding.severity != "info":
            print_finding(screen, finding)
    if not answer.is_refused:
        print_table(screen, settings_table(recommended))
        print_table(screen, bounds_table(recommended))
    print_table(screen, arithmetic_table(recommended))
    if not answer.is_refused:
        _print_pooler(screen, recommended)
    _print_verification(screen, recommended)
    for config in recommended.configs:
        print_config(screen, config)
    for finding in findings[answer.is_refused :]:
        if finding.severity == "info":
            print_finding(screen, finding)
    print_table(screen, figures_table(recommended))
    print_table(screen, assumptions_table(recommended))
    _print_end(screen, recommended)


def print_finding(screen: Screen, finding: Finding) -> None:
    """What it is, with everything about it."""
    screen.print()
    word = word_of(finding)
    screen.paragraph(Text(f"{word}  ", style=STYLES[word]), neutralize(finding.summary, SENTENCE_LIMIT), hang=2)
    screen.paragraph("", about(finding), hang=2)
    print_advice(screen, finding)


def print_advice(screen: Screen, finding: Finding) -> None:
    """Who, what to do, and the numbers."""
    for number, (name, query) in enumerate(holders_of(finding)):
        screen.paragraph(_head("" if number else "Who"), name)
        if query:
            screen.paragraph(" " * (_SECTION + 2), f"last query: {query}")
    steps = steps_of(finding)
    for number, step in enumerate(steps):
        lead = _head("" if number else "Do")
        lead.append(f"{number + 1}. " if len(steps) > 1 else "")
        screen.paragraph(lead, step)
    evidence = evidence_of(finding)
    if evidence:
        screen.paragraph(_head("Why"), evidence)


def print_table(screen: Screen, table: Table) -> None:
    """Columns; where they have no room, each record below its name."""
    if not table.rows:
        return
    screen.print()
    screen.paragraph("", Text(table.title, style="bold"), hang=2)
    if screen.narrow or not print_columns(screen, table.header, table.rows):
        _print_list(screen, table)


def print_config(screen: Screen, config: Config) -> None:
    """The block as it is: every line from the first column, never broken, for it is to be copied."""
    screen.print()
    screen.print(Text(f"{config.file} ({config.stack})", style="bold"))
    for line in config.text.splitlines():
        screen.print(line.expandtabs(TAB))


_NAMING = ("setting", "term", "figure", "moment", "who", "what")
"""Above the column that says what a row is about."""
_PLAIN = ("value", "why", "because", "source")
"""Above columns whose cells say by themselves what they are."""


def _print_list(screen: Screen, table: Table) -> None:
    """Each record below its own name. A sign goes with the number behind it."""
    at = next(at for at, name in enumerate(table.header) if name in _NAMING)
    for row in table.rows:
        screen.paragraph("  ", Text(row[at], style="bold"), hang=4)
        told: list[str] = []
        sign = ""
        for number, (name, cell) in enumerate(zip(table.header, row, strict=True)):
            if number == at or not cell:
                continue
            if name == "" and number < at:
                sign = f"{cell} "
                continue
            told.append(sign + (cell if name in ("", *_PLAIN) else f"{name} {cell}"))
            sign = ""
        screen.paragraph("    ", ", ".join(told))


def _print_pooler(screen: Screen, recommended: RecommendResult) -> None:
    pooler = recommended.recommendation.pooler
    screen.print()
    word = "Pooler: recommended" if pooler.recommended else "Pooler"
    screen.print(Text(word, style="bold"))
    screen.paragraph("", neutralize(pooler.why, SENTENCE_LIMIT), hang=2)
    if not pooler.recommended:
        return
    if pooler.app_max_open is not None:
        screen.paragraph("", f"Behind it each process's max_open becomes {pooler.app_max_open}", hang=2)
    for title, settings in pooler_rows(recommended):
        told = ", ".join(f"{name} = {value}" for name, value in settings)
        screen.paragraph(Text(f"{title}  ", style="bold"), told, hang=2)
    for caution in pooler.cautions:
        screen.paragraph(Text("! ", style=STYLES["WARNING"]), caution)


def _print_verification(screen: Screen, recommended: RecommendResult) -> None:
    sentence = verification_sentence(recommended)
    table = verification_table(recommended)
    if table is not None:
        print_table(screen, table)
    elif sentence:
        screen.print()
    if sentence:
        screen.paragraph("", sentence, hang=2)
    if recommended.verification is not None:
        for note in recommended.verification.notes:
            screen.paragraph("", neutralize(note, SENTENCE_LIMIT), hang=2)


def _print_end(screen: Screen, recommended: RecommendResult) -> None:
    lines: list[tuple[str, str]] = [("Seen", sentence) for sentence in stands_on(recommended)]
    if recommended.repeat:
        lines.append(("Again", recommended.repeat))
    if lines:
        screen.print()
    _print_labeled(screen, lines)


def _print_labeled(screen: Screen, lines: Sequence[tuple[str, str]]) -> None:
    before = ""
    for label, sentence in lines:
        if label == "Again":
            # To be copied, so never wrapped.
            screen.print(Text.assemble(_head(label), neutralize(sentence, None)))
        else:
            screen.paragraph(_head("" if label == before else label), sentence)
        before = label


def _head(word: str) -> Text:
    return Text(f"{word:<{_SECTION}}", style="bold")
