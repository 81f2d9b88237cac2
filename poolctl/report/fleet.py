"""The report of a fleet's check: whether it fits, what to change to what, and who takes how many slots at worst.

Decides that each limit names its worst moment, and that who shares it stands below.
"""

from dataclasses import replace

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.blocks import Note, Points, Report, Table, name_rows
from poolctl.report.findings import (
    NAME_LIMIT,
    SENTENCE_LIMIT,
    build_finding_block,
    name_explanation,
    name_finding,
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


def build_fleet_report(check: FleetCheck) -> Report:
    """Return the report of a fleet's check."""
    findings = tuple(map(_list_changes, worst_first(check.findings)))
    return (
        verdict_of(findings, "nothing was checked"),
        *(Note(name_finding(finding)) for finding in findings[:1]),
        *(build_finding_block(finding, is_first=True) for finding in findings[:1]),
        *(build_finding_block(finding, name_finding(finding)) for finding in findings[1:]),
        _list_limits(check),
        *(_list_parts(limit) for limit in check.limits if limit.kind == "server" or not limit.is_kept),
        _list_slots(check),
        *_assumption_tables(check),
        Points((name_explanation(findings),)),
    )


def _list_changes(finding: Finding) -> Finding:
    """Return the finding with each change of its remedy as a step; without one if nothing is wrong."""
    return replace(finding, remedy="" if finding.code == "healthy" else finding.remedy.replace("; ", "\n"))


def name_limit(limit: LimitCheck) -> str:
    """Return what a limit is called: "server", "role app", "clients of pgbouncer"."""
    name = neutralize(limit.name, NAME_LIMIT)
    return name if limit.kind == "server" else f"{_KINDS[limit.kind]} {name}"


def _list_limits(check: FleetCheck) -> Table:
    rows = tuple(
        (
            _show_count(limit.worst),
            format_count(limit.limit),
            _show_count(None if limit.worst is None else limit.limit - limit.worst),
            _show_count(limit.usual),
            _show_count(limit.peak),
            neutralize(limit.worst_moment, NAME_LIMIT),
            name_limit(limit),
        )
        for limit in check.limits
    )
    header = ("worst", "limit", "free", "usual", "peak", "worst moment", "what")
    return name_rows("Limits, tightest first", header, rows)


def _list_parts(limit: LimitCheck) -> Table:
    """Return who shares a limit at its worst moment."""
    rows = tuple(
        (
            _show_count(part.connections),
            format_count(part.pools) if part.pools else "",
            neutralize(part.who, NAME_LIMIT),
            neutralize(part.how, SENTENCE_LIMIT),
        )
        for part in limit.parts
    )
    moment = neutralize(limit.worst_moment, NAME_LIMIT)
    title = f"Who takes {name_limit(limit)} at the worst moment ({moment})"
    return name_rows(title, ("most", "pools", "who", "made of"), rows)


def _list_slots(check: FleetCheck) -> Table:
    """Return the arithmetic of the slots."""
    rows = []
    for term in check.arithmetic:
        sign, value = _split_sign(term)
        rows.append((sign, value, neutralize(term.term, NAME_LIMIT), neutralize(term.source, SENTENCE_LIMIT)))
    return name_rows("Slots", ("", "value", "term", "source"), tuple(rows))


def _assumption_tables(check: FleetCheck) -> tuple[Table, ...]:
    """Return the values that the file does not contain; nothing if it contains all."""
    rows = tuple(
        (neutralize(each.name, NAME_LIMIT), f"{each.value:g}", neutralize(each.why, SENTENCE_LIMIT))
        for each in check.fleet.assumptions
    )
    return (name_rows("Assumed, because the file does not say", ("setting", "value", "why"), rows),) if rows else ()


def _split_sign(term: Term) -> tuple[str, str]:
    """Return the sign before the number, and the number."""
    if term.term == _LEFT:
        return "=", _show_count(term.value)
    return ("-" if term.value < 0 else ""), format_count(abs(term.value))


def _show_count(value: int | None) -> str:
    """Return the count; None is unlimited."""
    if value is None:
        return "unlimited"
    return f"-{format_count(-value)}" if value < 0 else format_count(value)
