"""The report of a fleet's check: whether it fits, what to change to what, and who takes how many slots at worst.

Decides that each limit names its worst moment, and that who shares it stands below.
"""

from dataclasses import replace

from poolctl.diagnose.finding import worst_first
from poolctl.report.blocks import Note, Points, Report, Table, named_table
from poolctl.report.findings import (
    NAME_LIMIT,
    SENTENCE_LIMIT,
    about,
    explain_line,
    finding_block,
    verdict_of,
)
from poolctl.safe_text import neutralize
from poolctl.sizing.budget import Term
from poolctl.sizing.fleet_check import FleetCheck
from poolctl.sizing.fleet_limits import LimitCheck
from poolctl.units import format_count

_LEFT = "free at the worst moment"
"""The term that is the rest of all others."""
_KINDS = {"server": "server", "role": "role", "database": "database", "pooler-clients": "clients of"}


def fleet_report(check: FleetCheck) -> Report:
    """Return the report of a fleet's check."""
    # A fleet's remedy names all changes in one sentence; here each is a step.
    findings = [replace(finding, remedy=finding.remedy.replace("; ", "\n")) for finding in worst_first(check.findings)]
    return (
        verdict_of(findings, "nothing was checked"),
        *(Note(about(finding)) for finding in findings[:1]),
        *(finding_block(finding, is_first=True) for finding in findings[:1]),
        *(finding_block(finding, about(finding)) for finding in findings[1:]),
        _limit_table(check),
        *(_part_table(limit) for limit in check.limits if limit.kind == "server" or not limit.is_kept),
        _slot_table(check),
        *_assumption_tables(check),
        Points((explain_line(findings),)),
    )


def limit_name(limit: LimitCheck) -> str:
    """Return what a limit is called: "server", "role app", "clients of pgbouncer"."""
    name = neutralize(limit.name, NAME_LIMIT)
    return name if limit.kind == "server" else f"{_KINDS[limit.kind]} {name}"


def _limit_table(check: FleetCheck) -> Table:
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
    header = ("worst", "limit", "free", "usual", "peak", "worst moment", "what")
    return named_table("Limits, tightest first", header, rows)


def _part_table(limit: LimitCheck) -> Table:
    """Return who shares a limit at its worst moment."""
    rows = tuple(
        (
            _count(part.connections),
            format_count(part.pools) if part.pools else "",
            neutralize(part.who, NAME_LIMIT),
            neutralize(part.how, SENTENCE_LIMIT),
        )
        for part in limit.parts
    )
    moment = neutralize(limit.worst_moment, NAME_LIMIT)
    title = f"Who takes {limit_name(limit)} at the worst moment ({moment})"
    return named_table(title, ("most", "pools", "who", "made of"), rows)


def _slot_table(check: FleetCheck) -> Table:
    """Return the arithmetic of the slots."""
    rows = []
    for term in check.arithmetic:
        sign, value = _signed(term)
        rows.append((sign, value, neutralize(term.term, NAME_LIMIT), neutralize(term.source, SENTENCE_LIMIT)))
    return named_table("Slots", ("", "value", "term", "source"), tuple(rows))


def _assumption_tables(check: FleetCheck) -> tuple[Table, ...]:
    """Return the values that the file does not contain; nothing if it contains all."""
    rows = tuple(
        (neutralize(each.name, NAME_LIMIT), f"{each.value:g}", neutralize(each.why, SENTENCE_LIMIT))
        for each in check.fleet.assumptions
    )
    return (named_table("Assumed, because the file does not say", ("setting", "value", "why"), rows),) if rows else ()


def _signed(term: Term) -> tuple[str, str]:
    """Return the sign before the number, and the number."""
    if term.term == _LEFT:
        return "=", _count(term.value)
    return ("-" if term.value < 0 else ""), format_count(abs(term.value))


def _count(value: int | None) -> str:
    """Return the count; None is unlimited."""
    if value is None:
        return "unlimited"
    return f"-{format_count(-value)}" if value < 0 else format_count(value)
