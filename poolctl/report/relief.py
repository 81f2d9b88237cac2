"""The relief plan on a screen: whom to end, in which order, why, what it frees, whom not, and the SQL to paste."""

from rich.text import Text

from poolctl.api.results import ReliefResult
from poolctl.diagnose.live.relief import ReliefPlan
from poolctl.report.relief_rows import relief_headline, relief_notes, relieved_lines, statements_of, step_table
from poolctl.report.screen import STYLES, Screen
from poolctl.report.terminal import print_columns
from poolctl.safe_text import neutralize

_LABEL = 9


def print_relief(screen: Screen, plan: ReliefPlan) -> None:
    screen.print()
    screen.paragraph("", Text(relief_headline(plan), style="bold"))
    table = step_table(plan)
    if table.rows and (screen.narrow or not print_columns(screen, table.header, table.rows)):
        for number, pid, frees, who, why in table.rows:
            screen.paragraph(f"  {number}. ", Text(f"{pid}: {who}", style="bold"))
            screen.paragraph("     ", f"frees {frees}; {why}")
    if table.more:
        screen.paragraph("", table.more)
    before = ""
    for label, sentence in relief_notes(plan):
        screen.paragraph(Text(f"{'' if label == before else label:<{_LABEL}}", style="bold"), sentence)
        before = label
    if plan.steps:
        screen.print()
        screen.print(Text("To paste into psql; each ends its backend only while it is still the same:", style="bold"))
    for statement in statements_of(plan):
        screen.print(neutralize(statement, None))


def print_relieved(screen: Screen, relieved: ReliefResult) -> None:
    """What came of it, after it was carried out."""
    screen.print()
    for number, line in enumerate(relieved_lines(relieved)):
        screen.paragraph("" if number == 0 else Text("! ", style=STYLES["WARNING"]), line)
