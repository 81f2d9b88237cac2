"""One of several runs that are told together."""

from collections.abc import Sequence
from dataclasses import dataclass

from poolctl.diagnose.finding import Finding
from poolctl.scenario.run import Run


@dataclass(frozen=True, slots=True)
class Variant:
    """A run under the name that it is compared by; ``findings`` come worst first."""

    name: str
    run: Run
    findings: Sequence[Finding] = ()
