"""The budget: slots of the server for this service, divided by the largest fleet that can exist.

Each term of the arithmetic carries its source. What a process gets of the budget is decided in ``division``.
"""

from dataclasses import dataclass
from typing import Literal

from poolctl.errors import BadInput
from poolctl.sizing.figures import Figure, Figures, given

FigureSource = Literal["measured", "given", "assumed", "computed"]


@dataclass(frozen=True, slots=True)
class Term:
    """One line of the arithmetic. Values are counts; a subtracted value is negative."""

    term: str
    value: int
    source: FigureSource


@dataclass(frozen=True, slots=True)
class WorstFleet:
    """The number of instances and processes when all of them exist at the same time."""

    instances: int
    max_instances: int
    processes_per_instance: int
    surge: int
    terminating: int
    worst_case_instances: int
    worst_case_processes: int


@dataclass(frozen=True, slots=True)
class Budget:
    """``value`` is the slots for each process, 0 if there are more processes than slots; ``total`` is for all of them.

    ``limited_by`` names the limit that leaves least. ``is_assumed`` is True if max_connections itself is only a
    default.
    """

    value: int
    total: int
    limited_by: str
    is_assumed: bool
    arithmetic: tuple[Term, ...]
    per: str = "process"


def parse_surge(text: str) -> Figure:
    """Parse ``"25%"`` as the share 0.25, or a whole number as a count. ``is_share`` distinguishes the two.

    Raises BadInput for any other text.
    """
    word = text.strip()
    number = word.removesuffix("%").strip()
    if not number.isdecimal():
        raise BadInput(f"surge = {text!r}: must be a count or a percentage", hint='for example 2 or "25%"')
    return given(int(number) / 100 if is_share(word) else int(number))


def is_share(text: str) -> bool:
    """Return True if the text is a percentage."""
    return text.strip().endswith("%")


def find_worst_fleet(figures: Figures) -> WorstFleet:
    """Return the largest fleet, from figures with their defaults filled in (``defaults.fill_defaults``).

    It is max(max_instances, instances) + surge + terminating instances, times the processes of each. Kubernetes does
    not count pods that terminate, so more than replicas + surge exist until their grace period ends. Blue and green
    side by side are a surge of 100 %; the concurrency limit of a serverless platform is max_instances without surge.
    """
    instances, processes = _count(figures.instances, 1), max(1, _count(figures.processes, 1))
    most = max(instances, _count(figures.max_instances, 0))
    surge, terminating = _count(figures.surge, 0), _count(figures.terminating, 0)
    worst = max(1, most + surge + terminating)
    return WorstFleet(instances, most, processes, surge, terminating, worst, worst * processes)


def compute_budget(figures: Figures, fleet: WorstFleet) -> Budget:
    """Return the slots for each process of ``fleet``, from figures with their defaults filled in.

    WAL senders, autovacuum and parallel workers have slots of their own (since PostgreSQL 12) and are not subtracted.
    """
    terms = [
        Term("max_connections", _count(figures.max_connections, 0), _source(figures.max_connections)),
        _minus("superuser_reserved_connections", figures.superuser_reserved),
        _minus("reserved_connections", figures.reserved),
        _minus("other services", figures.other_connections),
        _minus("headroom", figures.headroom),
    ]
    slots = max(0, sum(term.value for term in terms))
    total, limited_by = slots, "max_connections"
    for name, limit in (
        ("role limit", figures.role_limit),
        ("database limit", figures.database_limit),
        ("pooler limit", figures.pooler_limit),
    ):
        if limit is None:
            continue
        terms.append(Term(name, limit.count, _source(limit)))
        if limit.count < total:
            total, limited_by = max(0, limit.count), name
    terms.append(Term("slots for this service", total, "computed"))
    terms += _fleet_terms(figures, fleet)
    value = total // fleet.worst_case_processes
    terms.append(Term("slots for each process", value, "computed"))
    is_assumed = figures.max_connections is None or figures.max_connections.origin == "assumed"
    return Budget(value, total, limited_by, is_assumed and limited_by == "max_connections", tuple(terms))


def _fleet_terms(figures: Figures, fleet: WorstFleet) -> list[Term]:
    grown = fleet.max_instances > fleet.instances
    largest = Term("max instances", fleet.max_instances, _source(figures.max_instances))
    usual = Term("instances", fleet.instances, _source(figures.instances))
    return [
        largest if grown else usual,
        Term("surge", fleet.surge, _source(figures.surge)),
        Term("terminating", fleet.terminating, _source(figures.terminating)),
        Term("processes per instance", fleet.processes_per_instance, _source(figures.processes)),
        Term("processes at worst", fleet.worst_case_processes, "computed"),
    ]


def _minus(term: str, figure: Figure | None) -> Term:
    return Term(term, -_count(figure, 0), _source(figure))


def _count(figure: Figure | None, default: int) -> int:
    return default if figure is None else max(0, figure.count)


def _source(figure: Figure | None) -> FigureSource:
    return "assumed" if figure is None else figure.origin
