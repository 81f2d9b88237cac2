"""A recommendation as data, with every term of its arithmetic: what ``recommend`` prints and writes as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from poolctl.diagnose.finding import Finding
from poolctl.serialize import from_dict
from poolctl.sizing.budget import Budget, WorstFleet
from poolctl.sizing.capacity import Capacity
from poolctl.sizing.defaults import Assumption
from poolctl.sizing.demand import Demand
from poolctl.sizing.division import Binding, Bound, Verdict
from poolctl.sizing.lifetimes import Reason
from poolctl.sizing.pooler import PoolerPlan

Trust = Literal["high", "medium", "low", "refused"]


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Connections of the service active or idle in a transaction; None: not known."""

    mean: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class HoldTime:
    mean: float | None = None
    cv: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the answer stands on. ``begun_at`` is "from" in JSON. ``sources``: measured, given or assumed, of each."""

    begun_at: str | None
    window: float | None
    samples: int
    effective_samples: float | None
    parallelism: Parallelism
    throughput: float | None
    hold_time: HoldTime
    connect_time: float | None
    workers_per_process: float | None
    method: str
    sources: dict[str, str]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of each process's pool; times in seconds. None: refused, no number is better than the one there is.

    ``max_lifetime_jitter``: at most so much is added to each connection's max_lifetime, at random.
    """

    max_open: int | None
    max_idle: int | None
    min_idle: int | None
    max_lifetime: float
    max_lifetime_jitter: float
    max_idle_time: float
    acquire_timeout: float
    interval: tuple[int, int] | None
    confidence: Trust


@dataclass(frozen=True, slots=True)
class Recommendation:
    """``binding``: the term that decides max_open, None where it is refused; ``next_binding``: the one that would, if
    the first were lifted. ``worst_case_connections``: the whole fleet at its largest with every pool full."""

    measured: Measured
    capacity: Capacity
    demand: Demand
    budget: Budget
    fleet: WorstFleet
    recommendation: Sizes
    bounds: tuple[Bound, ...]
    binding: Binding | None
    next_binding: Binding | None
    verdict: Verdict
    worst_case_connections: int | None
    pooler: PoolerPlan
    reasons: tuple[Reason, ...]
    assumptions: tuple[Assumption, ...]
    findings: tuple[Finding, ...]

    @property
    def is_refused(self) -> bool:
        return self.recommendation.confidence == "refused"

    def to_dict(self) -> dict[str, Any]:
        """The contract's section 5, all but ``config`` and ``verification``, which others make."""
        plain = asdict(self)
        plain["measured"] = {"from": plain["measured"].pop("begun_at"), **plain["measured"]}
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recommendation":
        measured = {("begun_at" if key == "from" else key): value for key, value in values["measured"].items()}
        recommendation: Recommendation = from_dict(cls, {**values, "measured": measured})
        return recommendation
