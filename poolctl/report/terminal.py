"""Writes a report on a screen: paragraphs, facts as sums or lists, tables as columns or lists, charts of characters.

Decides where text goes and which room it needs: rows become lists where columns would break. What a block says was
decided by its report, and color by the screen.
"""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.text import Text

from poolctl.report.blocks import (
    Amount,
    Block,
    ChartBlock,
    Code,
    Fact,
    Facts,
    FindingBlock,
    Listing,
    Note,
    Points,
    Repeat,
    Section,
    Table,
    Verdict,
    is_empty,
)
from poolctl.report.drawing import GAP, draw, lay_out_columns
from poolctl.report.screen import STYLES, Screen

TAB = 4
_RUN_INDENT = "  "
"""Before the points of a finding that is about one of several runs."""
_LEAST_WORDS = 24
"""Columns that the last column of a table needs, unless all its texts are shorter."""


def print_report(screen: Screen, report: Iterable[Block]) -> None:
    """Print the blocks, each apart from the one before by an empty line; a verdict and notes stand close together."""
    for block in report:
        if is_empty(block) or (isinstance(block, Section) and block.is_detail):
            continue
        if not isinstance(block, Verdict | Note):
            screen.print()
        print_block(screen, block)


def print_block(screen: Screen, block: Block) -> None:
    """Print one block, and nothing for an empty one."""
    if is_empty(block):
        return
    match block:
        case Verdict():
            _print_verdict(screen, block)
        case Note():
            _print_note(screen, block)
        case FindingBlock():
            _print_finding(screen, block)
        case Points():
            _print_points(screen, block)
        case Facts():
            _print_facts(screen, block.facts)
        case Table():
            _print_table(screen, block)
        case ChartBlock():
            screen.chart(draw(block.chart, screen.chart_width, ascii_only=screen.ascii_only))
        case Code():
            _print_code(screen, block)
        case Repeat():
            _print_repeat(screen, block.command)
        case Section():
            _print_title(screen, block.title)
            for inner in block.blocks:
                print_block(screen, inner)


def _print_verdict(screen: Screen, verdict: Verdict) -> None:
    if verdict.word:
        lead = Text(f"{verdict.word}  ", style=STYLES[verdict.word])
        screen.paragraph(lead, Text(verdict.sentence, style="bold"), hang=2)
    else:
        style = STYLES["WARNING"] if verdict.severity == "warning" else "bold"
        screen.paragraph("", Text(verdict.sentence, style=style), hang=2)


def _print_note(screen: Screen, note: Note) -> None:
    if note.kind == "caution":
        _print_caution(screen, note.text)
    elif note.kind == "aside":
        screen.paragraph("", f"({note.text})", hang=1)
    else:
        screen.paragraph("", note.text, hang=2)


def _print_caution(screen: Screen, text: str, indent: str = "") -> None:
    screen.paragraph(Text(f"{indent}! ", style=STYLES["WARNING"]), text)


def _print_finding(screen: Screen, finding: FindingBlock) -> None:
    if finding.summary:
        lead = Text(f"{finding.name}  " if finding.name else "", style="bold")
        lead.append(f"{finding.word}  ", style=STYLES[finding.word])
        screen.paragraph(lead, finding.summary, hang=2)
    if finding.about:
        screen.paragraph("", finding.about, hang=2)
    indent = _RUN_INDENT if finding.name else ""
    for caution in finding.cautions:
        _print_caution(screen, caution, indent)
    _print_points(screen, finding.points, indent)


def _print_points(screen: Screen, points: Points, indent: str = "") -> None:
    for group in points.groups:
        is_numbered = group.is_ordered and len(group.items) > 1
        for number, item in enumerate(group.items, 1):
            lead = Text(f"{indent}{group.label if number == 1 else '':<{points.margin}}", style="bold")
            lead.append(f"{number}. " if is_numbered else "")
            screen.paragraph(lead, item.text)
            if item.query:
                screen.paragraph(" " * (len(indent) + points.margin + 2), f"last query: {item.query}")


def _print_facts(screen: Screen, facts: Sequence[Fact]) -> None:
    """Print each fact on a line, broken between numbers; on a narrow screen each number on its own line."""
    if screen.narrow:
        for fact in facts:
            _print_fact_list(screen, fact)
        return
    margin = max(len(fact.label) for fact in facts) + 2
    for fact in facts:
        pieces = [_join(item, number == 0) for number, item in enumerate(fact.items)]
        if fact.note:
            pieces.append(f"{GAP}({fact.note})" if pieces else f"({fact.note})")
        for number, line in enumerate(_break(pieces, _measure_room(screen, margin))):
            screen.paragraph(Text(f"{fact.label if number == 0 else '':<{margin}}"), line)


def _print_fact_list(screen: Screen, fact: Fact) -> None:
    """Print a sum as a column of its parts under the total; other numbers one after another under their label."""
    if not any(item.sign for item in fact.items):
        screen.print(Text(fact.label, style="bold"))
        pieces = [_join(item, number == 0) for number, item in enumerate(fact.items)]
        if fact.note:
            pieces.append(f"{GAP}({fact.note})")
        for line in _break(pieces, _measure_room(screen, 2)):
            screen.paragraph("  ", line)
        return
    total, *parts = fact.items
    screen.print(Text(f"{fact.label} {total.value}", style="bold"))
    left = max(len(item.name) for item in parts)
    right = max(len(item.value) for item in parts)
    for item in parts:
        screen.print(f"  {item.sign} {item.name:<{left}}{GAP}{item.value:>{right}}")


def _print_table(screen: Screen, table: Table) -> None:
    """Print the table in the first form that has room."""
    _print_title(screen, table.title)
    forms = (table, *table.narrower)
    if screen.narrow or not any(_print_columns(screen, form) for form in forms):
        if not table.side_by_side:
            _print_listing(screen, table.listing or _list_rows(table))
        elif screen.narrow:
            _print_records(screen, table)
        else:
            _print_side_by_side(screen, table)
    if table.more:
        screen.paragraph("", table.more)


def _print_columns(screen: Screen, table: Table) -> bool:
    """Print columns without a frame, the last one wrapped. Return False, printing nothing, if there is no room."""
    # The bars are the first to go: they say nothing that the numbers do not.
    signs = "" if screen.natural else "#." if screen.ascii_only else "█░"
    for lines in (lay_out_columns(table, signs), lay_out_columns(table)):
        least = min(_LEAST_WORDS, max(cell_len(words) for _, words in lines))
        if screen.width is None or screen.width - cell_len(lines[0][0]) >= least:
            break
    else:
        return False
    for number, (lead, words) in enumerate(lines):
        style = "bold" if number == 0 else ""
        screen.paragraph(Text(lead, style=style), Text(words, style=style))
    return True


def _print_listing(screen: Screen, listing: Listing) -> None:
    if listing.head:
        screen.paragraph("", Text(listing.head, style="bold"), hang=2)
    for name, words in listing.records:
        if listing.is_inline:
            screen.paragraph(Text(f"{name}  ", style="bold"), words, hang=2)
        else:
            screen.paragraph("  ", Text(name, style="bold"))
            screen.paragraph("    ", words)


def _list_rows(table: Table) -> Listing:
    """Return each record under its last cell. A number that is zero is left out."""
    records = []
    for row in table.rows:
        cells = [f"{name} {cell}" for name, cell in zip(table.header, row[:-1], strict=False) if cell not in ("0", "-")]
        records.append((row[-1], ", ".join(cells)))
    return Listing("", tuple(records))


def _print_side_by_side(screen: Screen, table: Table) -> None:
    """Print a column for each record, as many side by side as fit; of the column of words the first word alone."""
    at = table.words % len(table.header)
    records = [
        [cell.partition(" ")[0] if number == at else cell for number, cell in enumerate(row)] for row in table.rows
    ]
    left = max(map(len, table.header)) + len(GAP)
    while records:
        group, used = [records[0]], left + _measure_width(records[0])
        for record in records[1:]:
            used += len(GAP) + _measure_width(record)
            if screen.width is not None and used > screen.width:
                break
            group.append(record)
        records = records[len(group) :]
        for number, name in enumerate(table.header):
            cells = "".join(f"{member[number]:>{_measure_width(member)}}{GAP}" for member in group)
            screen.print(Text(f"{name:<{left}}{cells}", style="bold" if number == 0 else ""))
        if records:
            screen.print()


def _print_records(screen: Screen, table: Table) -> None:
    """Print each number on a line of its own below the name of its record."""
    left = max(map(len, table.header))
    for number, row in enumerate(table.rows):
        if number:
            screen.print()
        screen.paragraph("", Text(row[0], style="bold"))
        for name, value in zip(table.header[1:], row[1:], strict=True):
            screen.paragraph(f"  {name:<{left}}  ", value)


def _print_code(screen: Screen, code: Code) -> None:
    if code.is_short:
        screen.paragraph(Text(f"{code.title}  ", style="bold"), ", ".join(code.text.splitlines()), hang=2)
        return
    if code.title:
        screen.print(Text(code.title, style="bold"))
    for line in code.text.splitlines():
        screen.print(line.expandtabs(TAB))


def _print_repeat(screen: Screen, command: str) -> None:
    """Print the command in one piece, however long: it has to survive copying."""
    # Where it does not fit beside its label it gets lines of its own, which the terminal wraps without a break.
    line = f"repeat with  {command}"
    if screen.width is None or cell_len(line) <= screen.width:
        screen.print(line)
    else:
        screen.print("repeat with")
        screen.print(command)


def _print_title(screen: Screen, title: str) -> None:
    if title:
        screen.paragraph("", Text(title, style="bold"), hang=2)


def _join(item: Amount, is_first: bool) -> str:
    """Return the number as it stands in a line: "= acquired 556" after a total, or a number of its own."""
    text = f"{item.name} {item.value}".strip()
    if item.sign:
        return f" {item.sign} {text}"
    return text if is_first else GAP + " " + text


def _break(pieces: Sequence[str], room: int | None) -> list[str]:
    """Return the pieces in lines of at most ``room`` columns; None: in one line."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and room is not None and cell_len(lines[-1] + piece) > room:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return lines


def _measure_room(screen: Screen, margin: int) -> int | None:
    return None if screen.width is None else max(screen.width - margin, 10)


def _measure_width(record: Sequence[str]) -> int:
    return max(map(len, record))
