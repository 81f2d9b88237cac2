"""An inspection as metrics, in Prometheus' text format.

Decides the names, the labels, and how many series there may be. Pools have OpenTelemetry's names
(``db.client.connection.*``) in Prometheus' spelling; what only poolctl knows begins with ``poolctl_``. A figure that is
not known has no series: 0 would be a lie.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from poolctl.api.results import InspectResult
from poolctl.diagnose.finding import worst_first
from poolctl.report.inspection import count_waiting

MOST_SERIES = 50
"""Series of one metric, the ones with the largest values: a server may have thousands of applications."""
MOST_CHARACTERS = 100
"""Of a label's value, most of which clients control."""
LEAKS = frozenset({"leak", "leak-in-transaction", "leak-or-long-hold"})

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric with its samples. ``values``: labels and value."""

    name: str
    text: str
    kind: str = "gauge"
    values: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, value: float | None, **labels: str | None) -> None:
        """Add a sample, unless ``value`` is None."""
        if value is not None:
            self.values.append(({name: text or "" for name, text in labels.items()}, float(value)))


def write_metrics(result: InspectResult | None, version: str = "") -> str:
    """Write ``result`` as Prometheus text; None: before the first sample, when only poolctl itself is up."""
    build = Metric("poolctl_build_info", "Version of poolctl.")
    build.add(1, version=version)
    up = Metric("poolctl_up", "1 if the last sample of the source came.")
    metrics = [build, up]
    if result is not None:
        for source in result.observation.sources:
            up.add(float(source.ok), source=source.kind, target=source.target)
        metrics += _list_metrics(result)
    return "".join(_write(metric) for metric in metrics if metric.values)


def _list_metrics(result: InspectResult) -> Iterator[Metric]:
    observation = result.observation
    last = Metric("poolctl_last_sample_timestamp_seconds", "When the last sample was taken.")
    last.add(observation.last.at if observation.snapshots else None)
    yield last
    yield from _list_verdict(result)
    yield from _list_limits(result)
    yield from _list_backends(result)
    if observation.snapshots:
        waiting = Metric("poolctl_waiting_clients", "Clients that wait for a connection, as pools and poolers report.")
        snapshot = observation.last
        is_known = bool(snapshot.bouncers or snapshot.pgpools or any(p.waiting is not None for p in snapshot.pools))
        waiting.add(count_waiting(snapshot) if is_known else None)
        yield waiting
        yield from _list_pools(result)


def _list_verdict(result: InspectResult) -> Iterator[Metric]:
    findings = worst_first(result.findings)
    verdict = Metric("poolctl_verdict", "1, with the worst finding as labels; code healthy if nothing is wrong.")
    found = Metric("poolctl_finding", "1 for each finding; the labels say which.")
    held = Metric("poolctl_finding_backends", "Backends that the finding names.")
    leaked = Metric("poolctl_suspected_leaks", "Backends whose connection does not come back, as it looks.")
    for finding in findings[:1]:
        verdict.add(1, code=finding.code, severity=finding.severity, confidence=finding.confidence, layer=finding.layer)
    by_finding: dict[tuple[str, str, str, str], int] = {}
    by_application: dict[tuple[str, str], int] = {}
    for finding in findings:
        if finding.code == "healthy":
            continue
        key = (finding.code, finding.severity, finding.confidence, finding.layer)
        named = sum(len(holder.pids) for holder in finding.holders)
        by_finding[key] = by_finding.get(key, 0) + named
        if finding.code in LEAKS:
            for holder in finding.holders:
                who = (holder.application or "", finding.confidence)
                by_application[who] = by_application.get(who, 0) + len(holder.pids)
    for (code, severity, confidence, layer), count in by_finding.items():
        labels = {"code": code, "severity": severity, "confidence": confidence, "layer": layer}
        found.add(1, **labels)
        held.add(count, **labels)
    for (application, confidence), count in by_application.items():
        leaked.add(count, application=application, confidence=confidence)
    if not leaked.values and findings:
        leaked.add(0, application="", confidence="")
    yield from (verdict, found, held, leaked)


def _list_limits(result: InspectResult) -> Iterator[Metric]:
    most = Metric("poolctl_limit_connections", "A limit that can refuse a client or make it wait.")
    used = Metric("poolctl_limit_used_connections", "How much of the limit is used.")
    free = Metric("poolctl_limit_free_connections", "How much of the limit is left.")
    left = Metric(
        "poolctl_limit_exhausted_seconds",
        "Seconds until the limit is reached: at the present growth (bound estimate), and from when (earliest) to when "
        "(latest) by a floor that rises over hours; no series without growth.",
    )
    for limit in result.diagnosis.limits[:MOST_SERIES]:
        labels = {"name": limit.name, "scope": limit.scope}
        most.add(limit.limit, **labels)
        used.add(limit.used, **labels)
        free.add(limit.free, **labels)
        left.add(limit.exhausted_in, **labels, bound="estimate")
        if limit.exhausted_between is not None:
            for bound, seconds in zip(("earliest", "latest"), limit.exhausted_between, strict=True):
                left.add(seconds, **labels, bound=bound)
    yield from (most, used, free, left)


def _list_backends(result: InspectResult) -> Iterator[Metric]:
    count = Metric("poolctl_backends", "Client backends, by state.")
    transaction = Metric("poolctl_oldest_transaction_seconds", "Age of the oldest transaction: the longest hold.")
    idle = Metric("poolctl_oldest_idle_seconds", "Age of the longest rest outside of a transaction.")
    states: dict[tuple[str, str, str, str], int] = {}
    oldest: dict[tuple[str, str, str], tuple[float | None, float | None]] = {}
    for group in result.diagnosis.groups:
        key = (group.application, group.user or "", group.database or "")
        for state, backends in group.states.items():
            states[*key, state] = states.get((*key, state), 0) + backends
        known = oldest.get(key, (None, None))
        oldest[key] = _take_older(known[0], group.oldest_transaction), _take_older(known[1], group.oldest_idle)
    for (application, user, database, state), backends in states.items():
        count.add(backends, application=application, user=user, database=database, state=state)
    for (application, user, database), (in_transaction, at_rest) in oldest.items():
        transaction.add(in_transaction, application=application, user=user, database=database)
        idle.add(at_rest, application=application, user=user, database=database)
    yield from (count, transaction, idle)


def _take_older(one: float | None, other: float | None) -> float | None:
    ages = [age for age in (one, other) if age is not None]
    return max(ages, default=None)


def _list_pools(result: InspectResult) -> Iterator[Metric]:
    """Yield the pools' own figures under the names of OpenTelemetry's semantic conventions for database clients."""
    most = Metric("db_client_connection_max", "Most connections that the pool opens.")
    count = Metric("db_client_connection_count", "Connections of the pool, by state.")
    waiting = Metric("db_client_connection_pending_requests", "Requests that wait for a connection of the pool.")
    for figures in result.observation.last.pools:
        labels = {"db_client_connection_pool_name": figures.name or figures.library, "source": figures.source}
        most.add(figures.max_open or None, **labels)
        count.add(figures.in_use, **labels, db_client_connection_state="used")
        count.add(figures.idle, **labels, db_client_connection_state="idle")
        waiting.add(figures.waiting, **labels)
    yield from (most, count, waiting)


def _write(metric: Metric) -> str:
    values = metric.values
    if len(values) > MOST_SERIES:
        values = sorted(values, key=lambda each: -each[1])[:MOST_SERIES]
    lines = [f"# HELP {metric.name} {metric.text}\n", f"# TYPE {metric.name} {metric.kind}\n"]
    written: set[str] = set()
    for labels, value in values:
        series = metric.name + _write_labels(labels.items())
        # Prometheus refuses a text with a series twice: two long names may be the same once they are cut.
        if series not in written:
            written.add(series)
            lines.append(f"{series} {value:.17g}\n")
    return "".join(lines)


def _write_labels(labels: Iterable[tuple[str, str]]) -> str:
    written = ",".join(f'{name}="{_escape(text)}"' for name, text in labels)
    return f"{{{written}}}" if written else ""


def _escape(text: str) -> str:
    cut = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."
    # What a client named may hold anything; a label may hold any text but a lone half of a pair of UTF-16.
    plain = cut.encode("utf-8", "replace").decode("utf-8")
    return plain.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
