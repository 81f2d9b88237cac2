"""Writes a report as Markdown, to be pasted into an incident channel, an issue or a pull request.

Decides what a foreign name may do there, which is nothing: it can neither format, nor link, nor mention a person.
Tables and charts are blocks of plain columns: chats do not draw Markdown's own tables, and columns read everywhere.
"""

import re
from collections.abc import Iterable, Iterator

from poolctl.report.blocks import (
    Block,
    ChartBlock,
    Code,
    Facts,
    FindingBlock,
    Note,
    Points,
    Repeat,
    Report,
    Section,
    Table,
    Verdict,
    is_empty,
)
from poolctl.report.drawing import draw, lay_out_columns, strip_roles

_CHART_WIDTH = 76
"""Columns of a chart: narrow enough for the code blocks of a chat."""

_SPECIAL = re.compile(r"[\\`*<>~#$|]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w]+;)|(?<=\])[(\[:]")
"""What could format or link. An underscore within a word and a bracket that begins no link are text everywhere,
also in a chat that knows no backslash."""
_LINE_START = re.compile(r"^(?=[-+=](?:\s|$)|[-=]{2,}$)|^(\d+)(?=[.)]\s)")
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_LINK = re.compile(r":(?=//)|(?<=\bwww)\.")


def write_markdown(report: Report) -> str:
    """Return the report, the verdict first, in the order of the terminal's."""
    lines = (line for block in report for line in _write_block(block, 2))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def escape_markdown(text: str) -> str:
    """Return ``text``, which is on one line, as Markdown that shows it and does nothing."""
    safe = _SPECIAL.sub(lambda found: "\\" + found[0], text)
    safe = _LINK.sub(lambda found: "\\" + found[0], safe)
    # A number or a dash at the beginning would make a list of the line.
    safe = _LINE_START.sub(lambda found: f"{found[1]}\\" if found[1] else "\\", safe)
    # No backslash stops a mention.
    return _MENTION.sub("(at)", safe)


def _write_block(block: Block, level: int) -> Iterator[str]:
    """Yield the lines of a block. ``level``: of a heading of its section."""
    if is_empty(block):
        return
    match block:
        case Verdict():
            yield f"**{block.word}** {escape_markdown(block.sentence)}" if block.word else _embolden(block.sentence)
        case Note(kind="caution"):
            yield from ("", f"> {escape_markdown(block.text)}")
        case Note():
            yield from ("", escape_markdown(f"({block.text})" if block.kind == "aside" else block.text))
        case FindingBlock():
            yield from _write_finding(block)
        case Points():
            yield from _write_points(block)
        case Facts():
            yield from ("", *_fence(_write_facts(block)))
        case Table():
            yield from _write_table(block)
        case ChartBlock():
            yield from ("", *_fence(strip_roles(draw(block.chart, _CHART_WIDTH, ascii_only=True)), "text"))
        case Code():
            title = f"{block.title.rstrip(':')}:" if block.title else ""
            yield from ("", escape_markdown(title), *_fence(block.text.splitlines(), block.language))
        case Repeat():
            yield from ("", "Repeat with:", *_fence([block.command], "sh"))
        case Section():
            if block.title:
                heading = f"{'#' * level} {escape_markdown(block.title)}" if block.is_detail else _embolden(block.title)
                yield from ("", heading)
            for inner in block.blocks:
                # A chart that a terminal leaves out has no place in a chat either.
                if not (block.is_detail and isinstance(inner, ChartBlock)):
                    yield from _write_block(inner, level + 1)


def _write_finding(finding: FindingBlock) -> Iterator[str]:
    if finding.summary:
        name = f"{_embolden(finding.name)} " if finding.name else ""
        yield from ("", f"{name}**{finding.word}** {escape_markdown(finding.summary)}")
    if finding.about:
        yield from ("", escape_markdown(finding.about))
    for caution in finding.cautions:
        yield from ("", f"> {escape_markdown(caution)}")
    yield from _write_points(finding.points)


def _write_points(points: Points) -> Iterator[str]:
    """Yield one item behind its label, several as a list below it."""
    for group in points.groups:
        if len(group.items) == 1 and not group.items[0].query:
            yield from ("", f"{_embolden(group.label)} {escape_markdown(group.items[0].text)}")
        elif group.items:
            yield from ("", _embolden(group.label), "")
            for number, item in enumerate(group.items, 1):
                query = f"; last query: {_quote_code(item.query)}" if item.query else ""
                yield f"{f'{number}.' if group.is_ordered else '-'} {escape_markdown(item.text)}{query}"


def _write_facts(block: Facts) -> Iterator[str]:
    margin = max(len(fact.label) for fact in block.facts) + 2
    for fact in block.facts:
        words = ""
        for item in fact.items:
            words += f" {item.sign} " if item.sign else "   " if words else ""
            words += f"{item.name} {item.value}".strip()
        note = f"({fact.note})" if fact.note else ""
        yield f"{fact.label:<{margin}}{'  '.join(filter(None, (words, note)))}"


def _write_table(table: Table) -> Iterator[str]:
    if table.title:
        yield from ("", _embolden(table.title))
    yield from ("", *_fence(f"{lead}{words}".rstrip() for lead, words in lay_out_columns(table)))
    if table.more:
        yield from ("", escape_markdown(table.more))


def _fence(lines: Iterable[str], language: str = "") -> Iterator[str]:
    """Yield text as it is. Some chats end a block at any three backticks, not only at those on a line of their own."""
    yield from ("", f"```{language}", *(line.replace("`", "'") for line in lines), "```")


def _quote_code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _embolden(text: str) -> str:
    return f"**{escape_markdown(text)}**"
