"""The parts of the JSON documents that scripts read, and the text of a document.

Decides the shape of each part, and that any JSON reader accepts it (no NaN, no infinity). Leaves to ``results`` which
parts a result is made of. Every key is public: keys are added freely, never renamed or dropped. Times are seconds,
instants of live systems seconds since the Unix epoch. A value that is not known is null, never zero. Names that a
client controls are not changed here, only escaped as JSON demands.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from poolctl.diagnose.finding import Finding, Limit
from poolctl.errors import PoolctlError
from poolctl.scenario.histogram import Times
from poolctl.scenario.run import (
    Connections,
    Generator,
    Machine,
    ObservedError,
    ObservedServer,
    Run,
    Summary,
    TimelinePoint,
)

if TYPE_CHECKING:
    from pathlib import Path

    from poolctl.diagnose.live.events import FindingEvent
    from poolctl.observe.snapshot import Observation

SCHEMA_VERSION = 1

MOST_HOLDERS, MOST_PIDS = 5, 20
"""Holders, and process ids of each, in the line of an event."""

Status = Literal["ok", "failed", "interrupted"]
Document = dict[str, Any]


def dumps(document: Mapping[str, Any]) -> str:
    """Write the document as ASCII text, one line for each key at the top; the last line has no line end."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def head_document(command: str, *, interrupted: bool = False, error: PoolctlError | None = None) -> Document:
    """Make the keys that every document begins with. An interruption comes before an error in ``status``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "status": "interrupted" if interrupted else "failed" if error else "ok",
        "error": _error_document(error) if error else None,
    }


def failed_document(command: str, error: PoolctlError, *, status: Status = "failed") -> Document:
    """Make what a command prints when it could not do its job; ``status`` "interrupted": before it had a result."""
    return head_document(command, error=error) | {"status": status}


def run_document(run: Run, findings: Sequence[Finding]) -> Document:
    """Make the part about one run, with neither status nor error: several runs may share a document."""
    return {
        "engine": run.engine,
        "kernel": run.kernel or None,
        "scenario": hide_passwords(to_json_value(run.scenario.to_dict())),
        "seed": run.seed,
        "interrupted": run.interrupted,
        "failure": to_json_value(run.failure),
        "summary": summary_document(run.summary),
        "timeline": [record_document(point) for point in run.timeline],
        "instances": [summary_document(instance) for instance in run.instances],
        "services": [{"name": to_json_value(name)} | summary_document(service) for name, service in run.services],
        "generator": _generator_document(run.generator) if run.generator else None,
        "machines": [_machine_document(machine) for machine in run.machines],
        "findings": [record_document(finding) for finding in findings],
        "notes": [to_json_value(note) for note in run.notes],
    }


def summary_document(summary: Summary) -> Document:
    """Make the part with the numbers of a run."""
    return {
        "offered": summary.offered,
        "acquired": summary.acquired,
        "released": summary.released,
        "leaked": summary.leaked,
        "timed_out": summary.timed_out,
        "refused": summary.refused,
        "failed": summary.failed,
        "unfinished": summary.unfinished,
        "requests": asdict(summary.requests),
        "duration": to_json_value(summary.duration),
        "throughput": to_json_value(summary.throughput),
        "offered_rate": to_json_value(summary.offered_rate),
        "wait_time": record_document(summary.wait_time),
        "queued": {"count": summary.queued_count, "total": to_json_value(summary.queued_time)},
        "use_time": record_document(summary.use_time),
        "connections": record_document(summary.connections),
        "connect_time": record_document(summary.connect_time),
        "exhausted_at": to_json_value(summary.exhausted_at),
        "recovered_at": to_json_value(summary.recovered_at),
        "errors": [_observed_error_document(error) for error in summary.errors],
        "server": record_document(summary.server) if summary.server else None,
    }


def observed_document(observation: "Observation", forgotten: int = 0) -> Document:
    """Make the part that says when the systems were sampled, how often, and which sources answered."""
    snapshots = observation.snapshots
    return {
        # A paste without an instant has none: 0 is no time that anything was observed at.
        "from": to_json_value(snapshots[0].at or None) if snapshots else None,
        "to": to_json_value(snapshots[-1].at or None) if snapshots else None,
        "samples": len(snapshots),
        "forgotten": forgotten,
        "sources": [to_json_value(asdict(source)) for source in observation.sources],
        "series": to_json_value(asdict(observation.log)) if observation.log is not None else None,
    }


def drop_made_pids(document: Any) -> Any:
    """Return a part of a document without the negative numbers that stand for backends whose process id is unknown."""
    if isinstance(document, list):
        return [drop_made_pids(each) for each in document]
    if not isinstance(document, dict):
        return document
    return {
        key: [pid for pid in value if not isinstance(pid, int) or pid >= 0]
        if key.endswith("pids") and isinstance(value, list)
        else drop_made_pids(value)
        for key, value in document.items()
    }


def event_document(event: "FindingEvent", recording: "Path | None") -> Document:
    """Make the document of one line that a service prints when a finding begins, gets worse or ends.

    A log has lines of some kilobytes: of many holders the first are named, and ``holders`` counts all.
    """
    named = event.finding.holders[:MOST_HOLDERS]
    few = replace(
        event.finding, holders=tuple(replace(each, pids=each.pids[:MOST_PIDS]) for each in named), evidence_sql=""
    )
    finding = drop_made_pids(to_json_value(asdict(few)))
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "inspect",
        "event": event.kind,
        "at": to_json_value(event.at),
        "began_at": to_json_value(event.began_at),
        "code": event.finding.code,
        "severity": event.finding.severity,
        "holders": len(event.finding.holders),
        "backends": sum(len(each.pids) for each in event.finding.holders),
        "finding": finding,
        "recording": str(recording) if recording is not None else None,
    }


def server_document(observation: "Observation", limits: Sequence[Limit]) -> Document:
    """Make the part about the server. ``used`` and ``free`` count the slots that an ordinary role can use.

    A server that refused every client reported nothing about itself; poolctl's count from outside is in its limit.
    """
    facts, samples = observation.server, observation.samples
    limit = next((limit for limit in limits if limit.scope == "server"), None)
    used = limit.used if limit else len(samples[-1].clients) if samples else None
    usable = facts.usable if facts else None
    free = limit.free if limit else max(usable - used, 0) if usable is not None and used is not None else None
    return {
        "version": to_json_value(facts.version) if facts else None,
        "max_connections": facts.max_connections if facts else None,
        "reserved": facts.reserved if facts else None,
        "superuser_reserved": facts.superuser_reserved if facts else None,
        "usable": usable,
        "used": used,
        "free": free,
        "role": to_json_value(facts.role) if facts else None,
        "can_see_all": facts.can_see_all if facts else None,
    }


def record_document(record: Times | Connections | ObservedServer | TimelinePoint | Finding) -> Document:
    """Make the part for a dataclass whose fields are named as the keys."""
    return {name: to_json_value(value) for name, value in asdict(record).items()}


def to_json_value(value: Any) -> Any:
    """Convert ``value`` to what every JSON reader accepts: an infinity or NaN becomes null, a lone surrogate a "?"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {to_json_value(str(key)): to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json_value(item) for item in value]
    return str(value).encode("utf-8", "replace").decode()


def hide_passwords(value: Any) -> Any:
    """Copy a value, with "***" under each key that ends in "password" (Pgpool-II has such settings)."""
    if isinstance(value, dict):
        return {
            key: "***" if key.endswith("password") and item else hide_passwords(item) for key, item in value.items()
        }
    return [hide_passwords(item) for item in value] if isinstance(value, list) else value


def _error_document(error: PoolctlError) -> Document:
    return {"code": error.code, "message": to_json_value(error.message), "hint": to_json_value(error.hint)}


def _observed_error_document(error: ObservedError) -> Document:
    return {
        "from": error.kind.origin,
        "class": to_json_value(error.kind.name),
        "sqlstate": to_json_value(error.kind.sqlstate),
        "message": to_json_value(error.kind.message),
        "count": error.count,
        "first_at": to_json_value(error.first_at),
    }


def _machine_document(machine: Machine) -> Document:
    return {
        **{name: to_json_value(value) for name, value in asdict(machine).items()},
        "lost": bool(machine.loss),
        "loss": to_json_value(machine.loss or None),
        "limit": machine.is_limit,
    }


def _generator_document(generator: Generator) -> Document:
    return {
        "bound": bool(generator.bound_by),
        "reasons": list(generator.bound_by),
        "lag": record_document(generator.lag),
        "cpu": to_json_value(generator.cpu),
        "ideal_wait": to_json_value(generator.ideal_wait),
        "measured_wait": to_json_value(generator.measured_wait),
    }
