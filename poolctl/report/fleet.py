"""The report of a fleet's check: whether it fits, what to change to what, and who takes how much when it is worst."""

from rich.text import Text

from poolctl.diagnose.finding import worst_first
from poolctl.report.inspection_rows import Table
from poolctl.report.inspection_words import NAME_LIMIT
from poolctl.report.recommendation import print_table
from poolctl.report.screen import STYLES, Screen
from poolctl.report.verdict import SENTENCE_LIMIT, word_of
from poolctl.safe_text import neutralize
from poolctl.sizing.budget import Term
from poolctl.sizing.fleet_check import FleetCheck, LimitCheck
from poolctl.units import format_count

LEFT = "free at the worst moment"
"""The term that is what the others leave."""
_KINDS = {"server": "server", "role": "role", "database": "database", "pooler-clients": "clients of"}


def print_fleet(screen: Screen, check: FleetCheck) -> None:
    for number, finding in enumerate(worst_first(check.findings)):
        if number:
            screen.print()
        word = word_of(finding)
        summary = Text(neutralize(finding.summary, SENTENCE_LIMIT), style="" if number else "bold")
        screen.paragraph(Text(f"{word}  ", style=STYLES[word]), summary, hang=2)
        for line in neutralize(finding.remedy, SENTENCE_LIMIT).split("; "):
            if line:
                screen.paragraph(Text("Do      ", style="bold"), line)
    for table in tables_of(check):
        print_table(screen, table)


def tables_of(check: FleetCheck) -> tuple[Table, ...]:
    """Every limit, then who shares each at its worst moment, then the arithmetic of the slots."""
    rows = tuple(
        (
            _count(limit.worst),
            format_count(limit.limit),
            _count(None if limit.worst is None else limit.limit - limit.worst),
            _count(limit.usual),
            _count(limit.peak),
            neutralize(limit.worst_moment, NAME_LIMIT),
            limit_name(limit),
        )
        for limit in check.limits
    )
    limits = Table("Limits, tightest first", ("worst", "limit", "free", "usual", "peak", "worst moment", "what"), rows)
    parts = tuple(_parts(limit) for limit in check.limits if limit.kind == "server" or not limit.is_kept)
    terms = tuple(
        (sign, value, neutralize(term.term, NAME_LIMIT), term.source)
        for term in check.arithmetic
        for sign, value in [_signed(term)]
    )
    return (limits, *parts, Table("Slots", ("", "value", "term", "source"), terms))


def limit_name(limit: LimitCheck) -> str:
    name = neutralize(limit.name, NAME_LIMIT)
    return name if limit.kind == "server" else f"{_KINDS[limit.kind]} {name}"


def _parts(limit: LimitCheck) -> Table:
    moment = neutralize(limit.worst_moment, NAME_LIMIT)
    rows = tuple(
        (_count(part.connections), format_count(part.pools) if part.pools else "", neutralize(part.who, NAME_LIMIT))
        for part in limit.parts
    )
    return Table(f"Who takes {limit_name(limit)} at the worst moment ({moment})", ("most", "pools", "who"), rows)


def _signed(term: Term) -> tuple[str, str]:
    """The sign before it, and the number."""
    if term.term == LEFT:
        return "=", _count(term.value)
    return ("-" if term.value < 0 else ""), format_count(abs(term.value))


def _count(value: int | None) -> str:
    if value is None:
        return "unlimited"
    return f"-{format_count(-value)}" if value < 0 else format_count(value)
