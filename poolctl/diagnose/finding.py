"""What a diagnosis says. Worst first is decided here; what is true is decided by the rules."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["critical", "warning", "info"]
Confidence = Literal["certain", "likely", "undetermined"]
Layer = Literal["application", "pooler", "database", "host"]

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds connections. None where it could not be seen."""

    application: str | None = None
    user: str | None = None
    client: str | None = None
    pids: tuple[int, ...] = ()
    process: dict[str, Any] | None = None
    route: str | None = None
    last_query: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One result, with a stable ``code`` from the catalog.

    ``summary`` is one sentence with its numbers. ``frees``: slots that the remedy gives back. ``decide_by``: the
    observation that would decide, for what is undetermined.
    """

    code: str
    severity: Severity
    confidence: Confidence
    layer: Layer
    summary: str
    evidence: dict[str, Any] = field(default_factory=dict)
    evidence_sql: str | None = None
    holders: tuple[Holder, ...] = ()
    remedy: str = ""
    frees: int = 0
    decide_by: str | None = None


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity; within one, in the order given, which puts a root before its amplifier."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def reaches(findings: Iterable[Finding], severity: Severity) -> bool:
    """Whether any finding is at or above ``severity``: what ``--fail-on`` asks."""
    return any(SEVERITIES.index(f.severity) <= SEVERITIES.index(severity) for f in findings)
