"""The division of what the database has among the processes: capacity, demand and budget become one max_open.

max_open = clamp(min(demand, share of the capacity), floor, min(slots for each process, what the workers can hold)), and
never below the number that was in use on average while the load was measured.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from poolctl.sizing.figures import Figures

Binding = Literal["capacity", "demand", "budget", "floor", "workers"]


DivisionVerdict = Literal[
    "balanced", "demand binds", "slots bind", "database binds", "workers bind", "floor binds", "infeasible", "refused"
]


UNEVEN_SHARE = 1.2


"""Part of the capacity that is handed out to several pools: they are never all busy at the same moment."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One term of the clamp, for each process. ``value`` None: not known, so it limits nothing."""

    term: Binding
    value: int | None


@dataclass(frozen=True, slots=True)
class DivisionTerms:
    """The quantities that are divided, in connections. None: not known, and limits nothing.

    ``capacity``, ``most`` (the total above which throughput falls) and ``pools`` belong to the usual fleet as a whole;
    the other fields belong to each process.
    """

    demand: int | None
    capacity: int | None
    most: int | None
    pools: int
    budget: int
    workers: int | None
    floor: int
    in_use: int | None = None
    """Connections that each process had in use on average: no smaller pool carries the load that was measured."""

    @property
    def share(self) -> int | None:
        """The part of the capacity for each process.

        A single pool gets the whole capacity. Several pools get 1.2 times the capacity between them, rounded up,
        because they are not busy at the same moment; but never more than ``most`` in total.
        """
        if self.capacity is None:
            return None
        if self.pools <= 1:
            return max(1, min(self.capacity, self.most or self.capacity))
        share = ceil(UNEVEN_SHARE * self.capacity / self.pools - 1e-9)
        return max(1, share if self.most is None else min(share, self.most // self.pools))


@dataclass(frozen=True, slots=True)
class Division:
    """``max_open`` None: even the floor does not fit into the slots."""

    max_open: int | None
    bounds: tuple[Bound, ...]
    binding: Binding
    next_binding: Binding | None
    verdict: DivisionVerdict


def compute_floor(figures: Figures) -> int:
    """Return the fewest connections with which a process cannot deadlock with itself.

    Workers x (connections each - 1) + 1 (HikariCP wiki, About Pool Sizing). Where the workers are not known, enough for
    one request.
    """
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    if figures.workers is None or each <= 1:
        return max(1, each)
    return max(1, figures.workers.count) * (each - 1) + 1


def count_worker_connections(figures: Figures) -> int | None:
    """Return the most connections that the workers of a process hold at once, or None if the workers are not known."""
    if figures.workers is None:
        return None
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    return max(1, figures.workers.count) * max(1, each)


def divide(parts: DivisionTerms) -> Division:
    """Combine ``parts`` into max_open, and name the term that decides it."""
    share = parts.share
    bounds = (
        Bound("demand", parts.demand),
        Bound("budget", parts.budget),
        Bound("capacity", share),
        Bound("workers", parts.workers),
        Bound("floor", parts.floor),
    )
    if parts.budget < max(parts.floor, parts.in_use or 0):
        return Division(None, bounds, "budget", "floor", "infeasible")
    wanted = min((value for value in (parts.demand, share) if value is not None), default=None)
    ceiling = min(value for value in (parts.budget, parts.workers) if value is not None)
    if wanted is not None and parts.in_use is not None and max(wanted, parts.floor) < parts.in_use <= ceiling:
        return Division(parts.in_use, bounds, "demand", "budget", "demand binds")
    max_open = ceiling if wanted is None else min(max(wanted, parts.floor), ceiling)
    # Of equal terms the first in this order is named: if the demand is met, no other term is short.
    known: list[tuple[Binding, int]] = [
        (bound.term, bound.value) for bound in bounds if bound.value is not None and bound.term != "floor"
    ]
    ranked = [term for term, _ in sorted(known, key=lambda item: item[1])]
    if wanted is not None and wanted < parts.floor:
        return Division(max_open, bounds, "floor", ranked[0], "floor binds")
    equal = [term for term, value in known if value == max_open]
    binding = ranked[0]
    return Division(max_open, bounds, binding, next(iter(ranked[1:]), None), _verdict(binding, len(equal)))


def _verdict(binding: Binding, equal: int) -> DivisionVerdict:
    if binding == "demand" and equal > 1:
        return "balanced"
    verdicts: dict[Binding, DivisionVerdict] = {
        "demand": "demand binds",
        "budget": "slots bind",
        "capacity": "database binds",
        "workers": "workers bind",
    }
    return verdicts[binding]
