"""The tables of an inspection as rows of text, for terminals, Markdown and HTML alike. Pure: no layout, no color.

Decides which columns are worth their width: a state that nobody is in has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poolctl.report.facts import Fact, Item
from poolctl.report.inspection_words import NAME_LIMIT
from poolctl.report.verdict import SENTENCE_LIMIT
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration

if TYPE_CHECKING:
    from poolctl.diagnose.finding import Concurrency, Group, Limit

MOST_LIMITS = 12
MOST_GROUPS = 15
BAR = 20
"""Columns of a bar."""

_STATES = {
    "active": "active",
    "idle": "idle",
    "idle in transaction": "in tx",
    "idle in transaction (aborted)": "aborted",
    "fastpath function call": "fastpath",
    "starting": "starting",
    "disabled": "disabled",
}
"""How a state is called above its column."""


@dataclass(frozen=True, slots=True)
class Table:
    """``more``: what was left out, "" when nothing was."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: str = ""


def limit_table(limits: "Sequence[Limit]", *, bars: str = "") -> Table:
    """Nearest first, as given. ``bars``: two characters, full and empty, for a column that shows the share used."""
    shown = limits[:MOST_LIMITS]
    timed = any(limit.exhausted_in is not None for limit in shown)
    header = ["used", "limit", "free", *(["" * BAR] if bars else []), *(["full in"] if timed else []), "what"]
    rows = []
    for limit in shown:
        row = [format_count(limit.used), format_count(limit.limit), format_count(limit.free)]
        row += [_bar(limit, bars)] if bars else []
        row += ["-" if limit.exhausted_in is None else format_duration(limit.exhausted_in)] if timed else []
        rows.append((*row, limit_name(limit)))
    return Table("Limits, nearest first", tuple(header), tuple(rows), _more(len(limits) - len(shown), "limit"))


def limit_name(limit: "Limit") -> str:
    """What an operator would change, whose it is, and whether it binds first."""
    # Names of roles' and databases' limits say already whose they are.
    scope = "" if limit.scope in ("role", "database") else f"{limit.scope} "
    name = f"{scope}{neutralize(limit.name, NAME_LIMIT)}"
    note = f" ({neutralize(limit.note, SENTENCE_LIMIT)})" if limit.note else ""
    return f"{'binds first: ' if limit.binds else ''}{name}{note}"


def group_table(groups: "Sequence[Group]", *, wide: bool = False, short: bool = False) -> Table:
    """The largest first. ``wide``: who it is in four columns instead of one; ``short``: only what matters most."""
    ranked = sorted(groups, key=lambda group: -group.count)
    shown = ranked[:MOST_GROUPS]
    columns = [("conns", [format_count(group.count) for group in shown])]
    states = sorted({state for group in shown for state in group.states}, key=_rank)
    columns += [(_STATES.get(state, neutralize(state, 20)), _counts(shown, state)) for state in states]
    columns += [
        ("frozen", [format_count(group.frozen) for group in shown]),
        ("moved", [format_count(group.turnover) for group in shown]),
    ]
    if not short and any(group.opened for group in shown):
        columns.append(("opened", [format_count(group.opened) for group in shown]))
    ages = [
        ("oldest tx", [_age(group.oldest_transaction) for group in shown]),
        ("oldest idle", [_age(group.oldest_idle) for group in shown]),
    ]
    columns += [column for column in ages if any(value != "-" for value in column[1])][: 1 if short else 2]
    columns += columns_of_who(shown) if wide else [("who", [", ".join(_who(group)) for group in shown])]
    header = tuple(name for name, _ in columns)
    rows = tuple(tuple(values[at] for _, values in columns) for at in range(len(shown)))
    rest = ranked[MOST_GROUPS:]
    more = _more(len(rest), "group", f" with {format_count(sum(group.count for group in rest))} connections")
    return Table("Who is connected", header, rows, more)


def columns_of_who(groups: "Sequence[Group]") -> tuple[tuple[str, list[str]], ...]:
    names = ("application", "user", "database", "client")
    return tuple((name, [_name(getattr(group, name)) for group in groups]) for name in names)


def concurrency_fact(concurrency: "Concurrency") -> Fact:
    values = (("mean", concurrency.mean), ("p95", concurrency.p95), ("p99", concurrency.p99), ("max", concurrency.max))
    items = tuple(Item(name, format_count(round(value, 2))) for name, value in values)
    return Fact("at work at once", items, f"by {neutralize(concurrency.method, 60)}")


def _who(group: "Group") -> list[str]:
    where = f"{_name(group.user)}@{_name(group.database)}"
    return [_name(group.application), where, *([_name(group.client)] if group.client else [])]


def _name(name: str | None) -> str:
    return "?" if name is None else neutralize(name, NAME_LIMIT) or "-"


def _counts(groups: "Sequence[Group]", state: str) -> list[str]:
    return [format_count(group.states.get(state, 0)) for group in groups]


def _rank(state: str) -> tuple[int, str]:
    known = list(_STATES)
    return (known.index(state) if state in known else len(known), state)


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _bar(limit: "Limit", bars: str) -> str:
    """Full only when the limit is reached, and 1 of many still shows."""
    share = limit.used / limit.limit if limit.limit > 0 else 1.0
    filled = BAR if limit.free <= 0 else min(max(round(share * BAR), 1 if limit.used else 0), BAR - 1)
    return bars[0] * filled + bars[1] * (BAR - filled)


def _more(count: int, noun: str, about: str = "") -> str:
    return f"... and {count} more {noun}{'' if count == 1 else 's'}{about}: see --json" if count > 0 else ""
