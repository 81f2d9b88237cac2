"""An inspection as Markdown, to be pasted into an incident channel or an issue.

Decides what a foreign name may do there, which is nothing: it can neither format, nor link, nor mention anybody.
Tables are blocks of plain columns: chats do not draw Markdown's own, and columns read everywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from unicodedata import east_asian_width

from poolctl.api.results import InspectResult
from poolctl.diagnose.finding import Finding, worst_first
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
from poolctl.report.relief_rows import relief_headline, relief_notes, relieved_lines, statements_of, step_table
from poolctl.report.verdict import SENTENCE_LIMIT, word_of
from poolctl.safe_text import neutralize

_SPECIAL = re.compile(r"[\\`*<>~#$]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w]+;)|(?<=\])[(\[:]")
"""What could format or link. An underscore within a word and a bracket that begins no link are text everywhere,
also in a chat that knows no backslash."""
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_LINK = re.compile(r":(?=//)|(?<=\bwww)\.")


def markdown_of(inspection: InspectResult) -> str:
    """The report in the order of the terminal's."""
    verdict = inspection_verdict(inspection)
    findings = worst_first(inspection.diagnosis.findings)
    lines = [f"**{verdict.word}** {escaped(verdict.sentence)}", ""]
    if findings:
        lines += [escaped(about(findings[0])), ""]
    lines += [f"> {escaped(caution)}" for caution in cautions_of(inspection)]
    for number, finding in enumerate(findings):
        if number:
            lines += ["", f"**{word_of(finding)}** {escaped(neutralize(finding.summary, SENTENCE_LIMIT))}"]
            lines += ["", escaped(about(finding))]
        lines += _finding(finding)
    lines += _relief(inspection)
    lines += _tables(inspection)
    lines += _listed("Seen", [f"{label}: {escaped(told)}" for label, told in seen_lines(inspection)])
    for codes, statement in sql_of(findings):
        lines += ["", f"To see it again ({escaped(codes)}):", *_block(statement, "sql")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def escaped(text: str) -> str:
    """``text``, which is on one line, as Markdown that shows it and does nothing."""
    safe = _SPECIAL.sub(lambda found: "\\" + found[0], text)
    safe = _LINK.sub(lambda found: "\\" + found[0], safe)
    # No backslash stops a mention.
    return _MENTION.sub("(at)", safe)


def _finding(finding: Finding) -> Iterator[str]:
    holders = [escaped(name) + (f": {_code(query)}" if query else "") for name, query in holders_of(finding)]
    yield from _listed("Who", holders)
    yield from _listed("Do", [escaped(step) for step in steps_of(finding)], numbered=True)
    evidence = evidence_of(finding)
    if evidence:
        yield from ("", f"**Why** {escaped(evidence)}")


def _relief(inspection: InspectResult) -> Iterator[str]:
    plan, relieved = inspection.relief, inspection.relieved
    if plan is None:
        return
    yield from ("", f"**{escaped(relief_headline(plan, relieved))}**")
    table = step_table(plan)
    if table.rows:
        yield from _columns(table)
    notes = [f"{label}: {escaped(sentence)}" for label, sentence in relief_notes(plan)]
    if notes:
        yield from ("", *(f"- {note}" for note in notes))
    if plan.steps:
        yield from _block((neutralize(statement, None) for statement in statements_of(plan)), "sql")
    if relieved is not None:
        yield from _listed("Done", [escaped(line) for line in relieved_lines(relieved)])


def _tables(inspection: InspectResult) -> Iterator[str]:
    diagnosis = inspection.diagnosis
    if diagnosis.limits:
        yield from _table(limit_table(diagnosis.limits))
    if diagnosis.groups:
        yield from _table(group_table(diagnosis.groups))
    if diagnosis.concurrency:
        fact = concurrency_fact(diagnosis.concurrency)
        told = ", ".join(f"{item.name} {item.value}" for item in fact.items)
        yield from ("", f"**{fact.label.capitalize()}** {escaped(f'{told} ({fact.note})')}")


def _listed(title: str, items: Sequence[str], *, numbered: bool = False) -> Iterator[str]:
    if items:
        yield from ("", f"**{title}**", "")
        for number, item in enumerate(items, 1):
            yield f"{f'{number}.' if numbered else '-'} {item}"


def _table(table: Table) -> Iterator[str]:
    yield from ("", f"**{table.title}**")
    yield from _columns(table)


def _columns(table: Table) -> Iterator[str]:
    widths = [max(_width(row[at]) for row in (table.header, *table.rows)) for at in range(len(table.header) - 1)]
    rows = [[_padded(cell, width) for cell, width in zip(row, widths, strict=False)] + [row[-1]] for row in table.rows]
    head = [_padded(cell, width) for cell, width in zip(table.header, widths, strict=False)] + [table.header[-1]]
    yield from _block("  ".join(row).rstrip() for row in (head, *rows))
    if table.more:
        yield from ("", escaped(table.more))


def _block(lines: Iterable[str], language: str = "") -> Iterator[str]:
    """Text as it is. Some chats end a block at any three backticks, not only at those on a line of their own."""
    yield from ("", f"```{language}", *(line.replace("`", "'") for line in lines), "```")


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _width(text: str) -> int:
    """Columns in a font of fixed width."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _padded(text: str, width: int) -> str:
    return " " * (width - _width(text)) + text
