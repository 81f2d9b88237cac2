"""Findings over time: when one begins, gets worse, and ends.

Decides what is the same finding in two diagnoses, and how long one may be away before it has ended.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from poolctl.diagnose.finding import SEVERITIES, Finding, Severity, reaches

EventKind = Literal["began", "worsened", "ended"]

ENDS_AFTER = 60.0
"""Seconds without a finding after which it has ended: some are there in every other diagnosis."""


@dataclass(frozen=True, slots=True)
class FindingEvent:
    """What happened to a finding at the instant ``at``. ``began_at``: its first diagnosis.

    ``ended``: ``at`` is the last diagnosis that had it. ``finding`` is the newest there is.
    """

    kind: EventKind
    at: float
    began_at: float
    finding: Finding


@dataclass(frozen=True, slots=True)
class _Lasting:
    finding: Finding
    began_at: float
    last_at: float


class FindingLog:
    """Follows the findings of ``level`` or worse from diagnosis to diagnosis."""

    def __init__(self, level: Severity) -> None:
        self._level: Severity = level
        self._lasting: dict[tuple[str, str], _Lasting] = {}

    @property
    def is_quiet(self) -> bool:
        """Whether no finding is under way."""
        return not self._lasting

    def update(self, at: float, findings: Iterable[Finding]) -> list[FindingEvent]:
        """Return what happened by the diagnosis of the instant ``at``: first what began, the worst first."""
        events = []
        for finding in findings:
            if not reaches([finding], self._level):
                continue
            key = _identify(finding)
            known = self._lasting.get(key)
            if known is None:
                events.append(FindingEvent("began", at, at, finding))
                self._lasting[key] = _Lasting(finding, at, at)
                continue
            is_worse = SEVERITIES.index(finding.severity) < SEVERITIES.index(known.finding.severity)
            if is_worse:
                events.append(FindingEvent("worsened", at, known.began_at, finding))
            # It stays as bad as it was until it ends: one that wavers would be reported again and again.
            worst = finding.severity if is_worse else known.finding.severity
            self._lasting[key] = _Lasting(replace(finding, severity=worst), known.began_at, at)
        for key, each in list(self._lasting.items()):
            if at - each.last_at >= ENDS_AFTER:
                del self._lasting[key]
                events.append(FindingEvent("ended", each.last_at, each.began_at, each.finding))
        return events

    def end(self) -> list[FindingEvent]:
        """Return the end of all that is under way: nothing is watched any more."""
        lasting, self._lasting = self._lasting, {}
        return [FindingEvent("ended", each.last_at, each.began_at, each.finding) for each in lasting.values()]


def _identify(finding: Finding) -> tuple[str, str]:
    """Return what makes a finding the same in another diagnosis: its code, and the application where there is one."""
    names = {holder.application for holder in finding.holders}
    return finding.code, next(iter(names)) or "" if len(names) == 1 else ""
