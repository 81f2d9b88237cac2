"""What ``recommend`` has to tell: the answer, what it stands on, how it was tried, and its configuration. Data only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolctl.observe.snapshot import Source
    from poolctl.sizing.figures import Figures
    from poolctl.sizing.recommendation import Recommendation
    from poolctl.sizing.verify import Verification
    from poolctl.stacks import Config


@dataclass(frozen=True, slots=True)
class Recommended:
    """``figures``: with their defaults filled in. ``application``: whose connections were measured, None: everybody's.

    ``notes``: how it was measured, and what could not be; a sentence each. ``unverified``: why ``verification`` is
    None. ``planned``: seconds that were asked for, None where nothing was measured.
    """

    answer: "Recommendation"
    figures: "Figures"
    configs: "tuple[Config, ...]" = ()
    verification: "Verification | None" = None
    unverified: str = ""
    notes: tuple[str, ...] = ()
    sources: "tuple[Source, ...]" = ()
    application: str | None = None
    planned: float | None = None
    interrupted: bool = False
    seed: int = 1
    repeat: str = ""
