"""Several runs side by side: one table, one chart on common axes, and the reasons of each variant.

Decides which numbers compare, and how they stand on a wide, a usual and a narrow screen.
"""

from collections.abc import Sequence

from rich.text import Text

from poolctl.api.results import Variant
from poolctl.diagnose.finding import SEVERITIES, worst_first
from poolctl.report.charts import draw
from poolctl.report.panels import comparison_chart_of
from poolctl.report.rows import HEADER, comparison_row, headline
from poolctl.report.screen import STYLES, Screen
from poolctl.report.simulation import print_repeat
from poolctl.report.terminal import GAP, print_columns
from poolctl.report.verdict import cautions_of, next_steps, verdict_of
from poolctl.safe_text import neutralize


def print_comparison(screen: Screen, variants: Sequence[Variant], *, repeat: str = "") -> None:
    """The table of all variants, in the order given. ``repeat``: the command that does it again, "" for none."""
    screen.paragraph("", Text(headline(variants), style="bold"), hang=2)
    screen.print()
    rows = [comparison_row(variant) for variant in variants]
    # The verdict stands last where columns are laid out: words of any length break nothing there.
    moved = [(row[0], *row[2:], row[1]) for row in rows]
    header = (HEADER[0], *HEADER[2:], HEADER[1])
    if screen.narrow:
        _print_blocks(screen, rows)
    elif not print_columns(screen, header, moved):
        _print_transposed(screen, rows)
    _print_chart(screen, variants)
    screen.print()
    for variant in variants:
        _print_verdict(screen, variant)
    print_repeat(screen, repeat)


def _print_transposed(screen: Screen, rows: Sequence[Sequence[str]]) -> None:
    """A column a variant, with the bare word of its verdict; as many variants side by side as fit."""
    rows = [(row[0], row[1].partition(" ")[0], *row[2:]) for row in rows]
    room = screen.width or 0
    left = max(len(name) for name in HEADER) + len(GAP)
    group: list[Sequence[str]] = []
    for row in (*rows, None):
        used = left + sum(_width(member) + len(GAP) for member in group) + (_width(row) if row else room)
        if group and used > room:
            for number, name in enumerate(HEADER):
                cells = "".join(f"{member[number]:>{_width(member)}}{GAP}" for member in group)
                screen.print(Text(f"{name:<{left}}{cells}", style="bold" if number == 0 else ""))
            group = []
            if row:
                screen.print()
        if row:
            group.append(row)


def _print_blocks(screen: Screen, rows: Sequence[Sequence[str]]) -> None:
    left = max(len(name) for name in HEADER)
    for number, row in enumerate(rows):
        if number:
            screen.print()
        screen.paragraph("", Text(row[0], style="bold"))
        for name, value in zip(HEADER[1:], row[1:], strict=True):
            screen.paragraph(f"  {name:<{left}}  ", value)


def _print_chart(screen: Screen, variants: Sequence[Variant]) -> None:
    chart = comparison_chart_of(variants)
    if chart is None:
        return
    screen.print()
    screen.chart(draw(chart, screen.chart_width, ascii_only=screen.ascii_only))


def _print_verdict(screen: Screen, variant: Variant) -> None:
    verdict = verdict_of(variant.run, variant.findings)
    lead = Text.assemble((f"{neutralize(variant.name, 40)}  ", "bold"), (f"{verdict.word}  ", STYLES[verdict.word]))
    screen.paragraph(lead, verdict.sentence, hang=2)
    for caution in cautions_of(variant.run):
        screen.paragraph(Text("  ! ", style=STYLES["WARNING"]), caution)
    if verdict.severity is not None and verdict.severity != SEVERITIES[-1]:
        for step in next_steps(worst_first(variant.findings)[:1]):
            screen.paragraph("  Next  ", step)


def _width(row: Sequence[str]) -> int:
    return max(len(cell) for cell in row)
