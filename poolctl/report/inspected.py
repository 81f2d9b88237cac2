"""What ``inspect`` has to tell: what was seen, and what it means. Data only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolctl.diagnose.finding import Diagnosis
    from poolctl.diagnose.live.relief import ReliefPlan
    from poolctl.observe.snapshot import Observation
    from poolctl.observe.terminate import TerminationResult


@dataclass(frozen=True, slots=True)
class Relieved:
    """What carrying out a plan came to. ``used_before`` and ``used_after``: client backends, None where not seen."""

    endings: "tuple[TerminationResult, ...]"
    used_before: int | None = None
    used_after: int | None = None

    @property
    def freed(self) -> int | None:
        """Slots that really came free; below 0 where others took more than that."""
        if self.used_before is None or self.used_after is None:
            return None
        return self.used_before - self.used_after


@dataclass(frozen=True, slots=True)
class Inspection:
    """``planned``: seconds that were asked for, None where there was no such plan (a replay, a live view).

    ``replayed``: the file that it was read from, "" for live systems. ``relief`` None: no plan was asked for;
    ``relieved`` None: none was carried out.
    """

    observation: "Observation"
    diagnosis: "Diagnosis"
    planned: float | None = None
    interrupted: bool = False
    replayed: str = ""
    relief: "ReliefPlan | None" = None
    relieved: Relieved | None = None
