"""The report of the same scenario live and in the model: the live verdict, both side by side, and how far to trust."""

from collections.abc import Sequence

from rich.text import Text

from poolctl.api.differences import Difference, differences, shown_relative, trust
from poolctl.api.results import Variant
from poolctl.report.facts import describe
from poolctl.report.screen import Screen
from poolctl.report.simulation import print_reasons, print_repeat, print_verdict
from poolctl.report.terminal import print_columns
from poolctl.report.verdict import verdict_of
from poolctl.safe_text import neutralize

HEADER = ("", "live", "model", "difference")


def print_both(screen: Screen, live: Variant, model: Variant, *, repeat: str = "") -> None:
    """The report. ``repeat``: the command that does it again, "" for none."""
    print_verdict(screen, live.run, live.findings)
    screen.paragraph("", describe(live.run), hang=2)
    screen.print()
    _print_table(screen, differences(live.run.summary, model.run.summary))
    screen.print()
    _, sentence = trust(live.run, model.run)
    screen.paragraph(Text("Trust ", style="bold"), sentence)
    verdict = verdict_of(model.run, model.findings)
    screen.paragraph(Text("Model ", style="bold"), f"{verdict.word}: {verdict.sentence}")
    for note in dict.fromkeys((*live.run.notes, *model.run.notes)):
        screen.paragraph(Text("Note  ", style="bold"), neutralize(note, 600))
    print_reasons(screen, live.findings)
    print_repeat(screen, repeat)


def _print_table(screen: Screen, found: Sequence[Difference]) -> None:
    rows = [
        (each.name, each.show(each.live), each.show(each.model), difference(each))
        for each in found
        if each.live or each.model
    ]
    never = [each.name for each in found if not each.live and not each.model]
    if screen.narrow or not print_columns(screen, HEADER, rows):
        screen.paragraph("", Text("live, model (difference)", style="bold"))
        for name, live, model, told in rows:
            screen.paragraph(Text(f"{name}  ", style="bold"), f"{live}, {model} ({told})", hang=2)
    if never:
        screen.paragraph("", f"0 in both: {', '.join(never)}", hang=2)


def difference(each: Difference) -> str:
    """Model less live, and that as a share of live: "+8.6 (+2.2 %)"."""
    sign = "+" if each.absolute > 0 else "-" if each.absolute < 0 else ""
    return f"{sign}{each.show(abs(each.absolute))}{shown_relative(each, ' ({})')}"
