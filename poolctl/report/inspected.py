"""What ``inspect`` has to tell: what was seen, and what it means. Data only."""

from dataclasses import dataclass

from poolctl.diagnose.diagnosis import Diagnosis
from poolctl.observe.snapshot import Observation


@dataclass(frozen=True, slots=True)
class Inspection:
    """``planned``: seconds that were asked for, None where there was no such plan (a replay, a live view).

    ``replayed``: the file that it was read from, "" for live systems.
    """

    observation: Observation
    diagnosis: Diagnosis
    planned: float | None = None
    interrupted: bool = False
    replayed: str = ""
