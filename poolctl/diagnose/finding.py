"""Findings and the other results of a diagnosis, as plain data.

Decides the order of severities. What is true is decided by the rules, what a code means by the catalog.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["critical", "warning", "info"]
Confidence = Literal["certain", "likely", "undetermined"]
Layer = Literal["application", "pooler", "database", "host"]

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds connections. None where it could not be observed."""

    application: str | None = None
    user: str | None = None
    client: str | None = None
    pids: tuple[int, ...] = ()
    process: dict[str, Any] | None = None
    route: str | None = None
    last_query: str | None = None
    acquired_at: str | None = None
    """The line of the program that acquired most of these connections, where a guard in it says so."""


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
    """Sort by severity; within one, the order stays, which puts a root before its effects."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def reaches(findings: Iterable[Finding], severity: Severity) -> bool:
    """Return True if a finding is at or above ``severity``, as ``--fail-on`` needs."""
    return any(SEVERITIES.index(f.severity) <= SEVERITIES.index(severity) for f in findings)


Scope = Literal["server", "role", "database", "pgbouncer", "pgpool", "pool"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that can refuse a client or make it wait. ``binds``: it is the nearest one that is hit or will be.

    ``scope`` says whose; ``name`` is what an operator would change (max_connections, CONNECTION LIMIT of role app,
    max_client_conn, pool_size of app@shop, num_init_children). ``exhausted_in``: seconds until it is reached at the
    observed growth, None without growth or with one sample. ``exhausted_between``: from when to when, in seconds, with
    95 % confidence, where the least in use has risen for half an hour or longer.
    """

    name: str
    scope: Scope
    limit: int
    used: int
    free: int
    binds: bool = False
    exhausted_in: float | None = None
    note: str = ""
    exhausted_between: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The client backends of one (user, application, database, client). Times are ages in seconds at the last sample.

    ``frozen``: same backend, same state since the first sample. ``turnover``: backends whose state or transaction
    changed between the first and the last sample. With one sample both are 0.
    """

    application: str
    user: str | None
    database: str | None
    client: str | None
    count: int
    states: Mapping[str, int] = field(default_factory=dict)
    oldest_idle: float | None = None
    oldest_transaction: float | None = None
    frozen: int = 0
    turnover: int = 0
    opened: int = 0
    """Backends that started after the first sample."""
    growth: float = 0.0
    """Backends a second, over the window."""
    holders: tuple[Holder, ...] = ()
    """The processes behind it, where they could be observed."""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many client backends worked at once (active or idle in transaction), over the window."""

    mean: float
    p95: float
    p99: float
    max: float
    method: str
    """ "samples", "counters", or "samples and counters" (the larger mean counts)."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Worst finding first; nothing at warning or above gives the single finding ``healthy``."""

    findings: tuple[Finding, ...]
    limits: tuple[Limit, ...] = ()
    groups: tuple[Group, ...] = ()
    concurrency: Concurrency | None = None
    unseen: tuple[str, ...] = ()
    """What could not be observed, a sentence each."""
