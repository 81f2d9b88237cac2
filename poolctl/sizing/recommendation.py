"""A recommendation as data, with every term of its arithmetic. ``recommend`` makes it; reports and JSON show it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from poolctl.diagnose.finding import Finding
from poolctl.serialize import from_dict
from poolctl.sizing.budget import Budget, WorstFleet
from poolctl.sizing.capacity import Capacity
from poolctl.sizing.defaults import Assumption
from poolctl.sizing.demand import Demand
from poolctl.sizing.division import Binding, Bound, DivisionVerdict
from poolctl.sizing.lifetimes import Reason
from poolctl.sizing.pooler import PoolerPlan

SizeTrust = Literal["high", "medium", "low", "refused"]


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Number of connections of the service that were active or idle in a transaction; None: not known."""

    mean: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class HoldTime:
    """Seconds from acquire to release, and the coefficient of variation; None: not known."""

    mean: float | None = None
    cv: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures behind the recommendation. ``begun_at`` is "from" in JSON. ``sources`` maps each figure to measured,
    given or assumed."""

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
    """The settings for the pool of each process; times are seconds. None: refused, no number can be recommended.

    ``max_lifetime_jitter`` is the most that is added at random to the max_lifetime of each connection.
    """

    max_open: int | None
    max_idle: int | None
    min_idle: int | None
    max_lifetime: float
    max_lifetime_jitter: float
    max_idle_time: float
    acquire_timeout: float
    interval: tuple[int, int] | None
    confidence: SizeTrust


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A size with its reasons.

    ``binding`` is the term that decides max_open, None for a refusal; ``next_binding`` is the term that would decide if
    the first were lifted. ``worst_case_connections`` is the connections of the largest fleet with every pool full.
    """

    measured: Measured
    capacity: Capacity
    demand: Demand
    budget: Budget
    fleet: WorstFleet
    recommendation: Sizes
    bounds: tuple[Bound, ...]
    binding: Binding | None
    next_binding: Binding | None
    verdict: DivisionVerdict
    worst_case_connections: int | None
    pooler: PoolerPlan
    reasons: tuple[Reason, ...]
    assumptions: tuple[Assumption, ...]
    findings: tuple[Finding, ...]

    @property
    def is_refused(self) -> bool:
        """Whether no size is recommended."""
        return self.recommendation.confidence == "refused"

    def to_dict(self) -> dict[str, Any]:
        """Return the values that `recommend --json` writes, without ``config`` and ``verification``."""
        plain = asdict(self)
        plain["measured"] = {"from": plain["measured"].pop("begun_at"), **plain["measured"]}
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recommendation":
        """Rebuild a recommendation from the values of ``to_dict``."""
        measured = {("begun_at" if key == "from" else key): value for key, value in values["measured"].items()}
        recommendation: Recommendation = from_dict(cls, {**values, "measured": measured})
        return recommendation
