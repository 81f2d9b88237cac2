"""A recommendation as Markdown, for the pull request that changes the pool. A foreign name can do nothing in it."""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from poolctl.api.results import RecommendResult
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.inspection_rows import Table
from poolctl.report.inspection_words import evidence_of, holders_of, steps_of
from poolctl.report.markdown import escaped
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
from poolctl.report.verdict import SENTENCE_LIMIT, word_of
from poolctl.safe_text import neutralize

_LANGUAGES = {".py": "python", ".rs": "rust", ".rb": "ruby", ".exs": "elixir", ".cs": "csharp"}
"""For what a suffix does not say by itself."""


def recommendation_markdown(recommended: RecommendResult) -> str:
    """The report in the order of the terminal's."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_lines(recommended))).strip() + "\n"


def _lines(recommended: RecommendResult) -> Iterator[str]:
    answer = recommended.recommendation
    findings = worst_first(answer.findings)
    yield f"**{escaped(headline(recommended))}**"
    yield from ("", escaped(binding_sentence(recommended)))
    yield from (f"\n> {escaped(caution)}" for caution in cautions_of(recommended))
    for number, finding in enumerate(findings):
        if answer.is_refused and number == 0:
            yield from ("", *_advice(finding))
        elif finding.severity != "info":
            yield from _finding(finding)
    if not answer.is_refused:
        yield from table_lines(settings_table(recommended))
        yield from table_lines(bounds_table(recommended))
    yield from table_lines(arithmetic_table(recommended))
    if not answer.is_refused:
        yield from _pooler(recommended)
    yield from _verification(recommended)
    for config in recommended.configs:
        yield from ("", f"**{escaped(config.file)}** ({escaped(config.stack)})")
        yield from _block(config.text.splitlines(), _language(config.file))
    for finding in findings[answer.is_refused :]:
        if finding.severity == "info":
            yield from _finding(finding)
    yield from table_lines(figures_table(recommended))
    yield from table_lines(assumptions_table(recommended))
    yield ""
    yield from (f"- {escaped(sentence)}" for sentence in stands_on(recommended))
    if recommended.repeat:
        yield from _block([neutralize(recommended.repeat, None)], "sh")


def _language(file: str) -> str:
    suffix = PurePath(file).suffix
    return _LANGUAGES.get(suffix, suffix.removeprefix("."))


def _finding(finding: Finding) -> Iterator[str]:
    yield from ("", f"**{word_of(finding)}** {escaped(neutralize(finding.summary, SENTENCE_LIMIT))}")
    yield from ("", escaped(about(finding)), "")
    yield from _advice(finding)


def _advice(finding: Finding) -> Iterator[str]:
    for name, query in holders_of(finding):
        yield f"- {escaped(name)}" + (f": `{query.replace('`', chr(39))}`" if query else "")
    for step in steps_of(finding):
        yield f"- {escaped(step)}"
    evidence = evidence_of(finding)
    if evidence:
        yield from ("", escaped(evidence))


def _pooler(recommended: RecommendResult) -> Iterator[str]:
    pooler = recommended.recommendation.pooler
    yield from ("", f"**Pooler** {escaped(neutralize(pooler.why, SENTENCE_LIMIT))}")
    if not pooler.recommended:
        return
    for title, settings in pooler_rows(recommended):
        yield from ("", f"{title}:", *_block(f"{name} = {value}" for name, value in settings))
    yield from (f"- {escaped(caution)}" for caution in pooler.cautions)


def _verification(recommended: RecommendResult) -> Iterator[str]:
    table = verification_table(recommended)
    if table is not None:
        yield from table_lines(table)
    sentence = verification_sentence(recommended)
    if sentence:
        yield from ("", escaped(sentence))


def table_lines(table: Table) -> Iterator[str]:
    """A table as a block of plain columns; nothing for one without rows."""
    if not table.rows:
        return
    columns = range(len(table.header))
    widths = [max(len(row[at]) for row in (table.header, *table.rows)) for at in columns]
    lines = ("  ".join(row[at].ljust(widths[at]) for at in columns).rstrip() for row in (table.header, *table.rows))
    yield from ("", f"**{table.title}**", *_block(lines))


def _block(lines: Iterable[str], language: str = "") -> Iterator[str]:
    yield from ("", f"```{language}", *(line.replace("```", "'''") for line in lines), "```")
