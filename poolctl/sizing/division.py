"""The division of what the database has among the processes: capacity, demand and budget become one max_open.

max_open = clamp(min(demand, share of the capacity), floor, min(slots for each process, what the workers can hold)).
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from poolctl.sizing.figures import Figures

Binding = Literal["capacity", "demand", "budget", "floor", "workers"]


Verdict = Literal[
    "balanced", "demand binds", "slots bind", "database binds", "workers bind", "floor binds", "infeasible", "refused"
]


UNEVEN_SHARE = 1.2


"""Of the capacity, what is handed out to several pools: never are all of them busy at the same time."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One term of the clamp, for each process. ``value`` None: not known, so it binds nothing."""

    term: Binding
    value: int | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What is divided, in connections. None: not known, and bounds nothing. ``capacity``, ``most`` (never more in
    total) and ``pools`` are of the whole fleet as it usually is; the others of each process."""

    demand: int | None
    capacity: int | None
    most: int | None
    pools: int
    budget: int
    workers: int | None
    floor: int

    @property
    def share(self) -> int | None:
        """Of the capacity for each process.

        A single pool gets the capacity itself, for it has nobody to be uneven with. Several get 1.2 times as much
        between them, rounded up, but where throughput falls beyond ``most`` together no more than that.
        """
        if self.capacity is None:
            return None
        if self.pools <= 1:
            return max(1, min(self.capacity, self.most or self.capacity))
        share = ceil(UNEVEN_SHARE * self.capacity / self.pools - 1e-9)
        return max(1, share if self.most is None else min(share, self.most // self.pools))


@dataclass(frozen=True, slots=True)
class Division:
    """``max_open`` None: even the floor does not fit the slots."""

    max_open: int | None
    bounds: tuple[Bound, ...]
    binding: Binding
    next_binding: Binding | None
    verdict: Verdict


def compute_floor(figures: Figures) -> int:
    """The fewest connections with which no process can deadlock with itself: workers x (connections each - 1) + 1
    (HikariCP, About-Pool-Sizing). Where the workers are not known, enough for one request."""
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    if figures.workers is None or each <= 1:
        return max(1, each)
    return max(1, figures.workers.count) * (each - 1) + 1


def count_worker_connections(figures: Figures) -> int | None:
    """What the workers of a process can hold at once; a larger pool is dead weight. None: not known."""
    if figures.workers is None:
        return None
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    return max(1, figures.workers.count) * max(1, each)


def divide(parts: Parts) -> Division:
    share = parts.share
    bounds = (
        Bound("demand", parts.demand),
        Bound("budget", parts.budget),
        Bound("capacity", share),
        Bound("workers", parts.workers),
        Bound("floor", parts.floor),
    )
    if parts.budget < parts.floor:
        return Division(None, bounds, "budget", "floor", "infeasible")
    wanted = min((value for value in (parts.demand, share) if value is not None), default=None)
    ceiling = min(value for value in (parts.budget, parts.workers) if value is not None)
    max_open = ceiling if wanted is None else min(max(wanted, parts.floor), ceiling)
    # In this order where several are equal: a demand that is met is no shortage of anything else.
    known: list[tuple[Binding, int]] = [
        (bound.term, bound.value) for bound in bounds if bound.value is not None and bound.term != "floor"
    ]
    ranked = [term for term, _ in sorted(known, key=lambda item: item[1])]
    if wanted is not None and wanted < parts.floor:
        return Division(max_open, bounds, "floor", ranked[0], "floor binds")
    equal = [term for term, value in known if value == max_open]
    binding = ranked[0]
    return Division(max_open, bounds, binding, next(iter(ranked[1:]), None), _verdict(binding, len(equal)))


def _verdict(binding: Binding, equal: int) -> Verdict:
    if binding == "demand" and equal > 1:
        return "balanced"
    verdicts: dict[Binding, Verdict] = {
        "demand": "demand binds",
        "budget": "slots bind",
        "capacity": "database binds",
        "workers": "workers bind",
    }
    return verdicts[binding]
