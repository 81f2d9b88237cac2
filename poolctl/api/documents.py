"""The JSON that scripts read. Every key here is public: keys are added freely, never renamed or dropped.

Decides the shape and that any JSON reader accepts it (no NaN, no infinity). Times are seconds. What a client
controls is not altered here, only escaped as JSON demands.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from poolctl.api.differences import differences, trust
from poolctl.api.results import Batch, InspectResult, Point, RecommendResult, Variant, reopened_rate
from poolctl.diagnose.finding import Finding, Limit
from poolctl.errors import CannotDo, PoolctlError
from poolctl.observe.snapshot import Observation
from poolctl.scenario.histogram import Times
from poolctl.scenario.replications import Estimate, estimate_all
from poolctl.scenario.run import Connections, Generator, ObservedError, ObservedServer, Run, Summary, TimelinePoint
from poolctl.sizing.fleet_check import FleetCheck

SCHEMA_VERSION = 1

Status = Literal["ok", "failed", "interrupted"]
Document = dict[str, Any]


def simulate_document(run: Run, findings: Sequence[Finding]) -> Document:
    """What ``simulate --json`` prints for one run."""
    return _envelope("simulate", [run]) | run_document(run, findings)


def compare_document(variants: Sequence[Variant]) -> Document:
    """What ``simulate --compare ... --json`` prints: the runs in the order given, each with its name."""
    runs = [{"name": variant.name} | run_document(variant.run, variant.findings) for variant in variants]
    return _envelope("simulate", [variant.run for variant in variants]) | {"runs": runs}


def both_document(live: Variant, model: Variant | None) -> Document:
    """What ``simulate --engine both --json`` prints. ``model`` None: the live run ended too early for it."""
    runs = [live.run, model.run] if model else [live.run]
    document = _envelope("simulate", runs) | {"live": run_document(live.run, live.findings)}
    if model is None:
        return document | {"model": None, "difference": None, "trust": None}
    found: Document = {}
    for each in differences(live.run.summary, model.run.summary):
        table = found
        for key in each.path[:-1]:
            table = table.setdefault(key, {})
        table[each.path[-1]] = {
            "live": _number(each.live),
            "model": _number(each.model),
            "absolute": _number(each.absolute),
            "relative": _number(each.relative),
        }
    level, sentence = trust(live.run, model.run)
    return document | {
        "model": run_document(model.run, model.findings),
        "difference": found,
        "trust": {"level": level, "sentence": plain(sentence)},
    }


def sweep_document(batch: Batch) -> Document:
    """What ``simulate --sweep ... --json`` prints: the keys with their values, and one point for each run."""
    values = [dict(zip(axis.words, axis.values, strict=True)) for axis in batch.axes]
    return _batch_head(batch) | {
        "sweep": [{"key": axis.key, "values": plain(axis.values)} for axis in batch.axes],
        "points": [
            {
                "values": {
                    axis.key: plain(known[word])
                    for axis, known, word in zip(batch.axes, values, point.words, strict=True)
                },
                **_point(point),
            }
            for point in batch.points
        ],
    }


def replications_document(batch: Batch) -> Document:
    """What ``simulate --replications N --json`` prints. ``mean`` and ``interval`` (95 %) have the summary's shape,
    with null for what not every replication has; with one replication there is no interval."""
    replications = [_point(point) for point in batch.points]
    found = estimate_all([point["summary"] for point in replications]) if replications else {}
    return _batch_head(batch) | {
        "seeds": [point.seed for point in batch.points],
        "replications": [point["summary"] for point in replications],
        "mean": _estimates(found, lambda value: _number(value.mean)),
        "interval": _estimates(
            found, lambda value: None if value.low is None else [_number(value.low), _number(value.high)]
        ),
        "reopened_rates": [point["reopened_rate"] for point in replications],
        "failures": [point["failure"] for point in replications],
        "findings": [point["findings"] for point in replications],
    }


def inspect_document(inspection: InspectResult) -> Document:
    """What ``inspect --json`` prints."""
    observation, diagnosis = inspection.observation, inspection.diagnosis
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "inspect",
        "status": "interrupted" if inspection.interrupted else "ok",
        "error": None,
        "observed": observed_document(observation),
        "server": _server_document(observation, diagnosis.limits),
        "limits": [plain(asdict(limit)) for limit in diagnosis.limits],
        "groups": [plain(asdict(group)) for group in diagnosis.groups],
        "concurrency": plain(asdict(diagnosis.concurrency)) if diagnosis.concurrency else None,
        "findings": [plain(asdict(finding)) for finding in diagnosis.findings],
        "unseen": plain(diagnosis.unseen),
        "relief": _relief_document(inspection),
    }


def observed_document(observation: Observation) -> Document:
    """When it was looked at, how often, and who answered."""
    snapshots = observation.snapshots
    return {
        "from": plain(snapshots[0].at) if snapshots else None,
        "to": plain(snapshots[-1].at) if snapshots else None,
        "samples": len(snapshots),
        "sources": [plain(asdict(source)) for source in observation.sources],
    }


def recommend_document(recommended: RecommendResult) -> Document:
    """What ``recommend --json`` prints."""
    document: Document = {
        "schema_version": SCHEMA_VERSION,
        "command": "recommend",
        "status": "interrupted" if recommended.interrupted else "ok",
        "error": None,
    }
    document |= {key: plain(value) for key, value in recommended.recommendation.to_dict().items()}
    # What decides comes with what it decided; the rest of the document explains it.
    document["config"] = [plain(asdict(config)) for config in recommended.configs]
    tried = recommended.verification
    document["verification"] = None if tried is None else plain(tried.to_dict())
    document["findings"] = document.pop("findings")
    return document | {
        "unverified": plain(recommended.unverified),
        "application": plain(recommended.application),
        "sources": [plain(asdict(source)) for source in recommended.sources],
        "notes": plain(recommended.notes),
        "seed": recommended.seed,
        "repeat": plain(recommended.repeat),
    }


def fleet_document(check: FleetCheck) -> Document:
    """``limits``: tightest first, null is unlimited. ``changes`` null: no size of the pools is small enough."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "recommend",
        "status": "ok",
        "error": None,
        "fleet": plain(asdict(check.fleet)),
        "budget": {"arithmetic": [asdict(term) | {"term": plain(term.term)} for term in check.arithmetic]},
        "limits": [
            plain(asdict(limit)) | {"kept": limit.is_kept, "refuses": limit.is_refusing} for limit in check.limits
        ],
        "within": check.is_within,
        "changes": None if check.changes is None else [plain(asdict(change)) for change in check.changes],
        "findings": [plain(asdict(finding)) for finding in check.findings],
    }


def failed_document(command: str, error: PoolctlError, *, status: Status = "failed") -> Document:
    """What a command prints when it could not do its job. ``status``: "interrupted" before anything was measured."""
    return {"schema_version": SCHEMA_VERSION, "command": command, "status": status, "error": _failure(error)}


def run_document(run: Run, findings: Sequence[Finding]) -> Document:
    """One run without the envelope, for documents that hold several."""
    return {
        "engine": run.engine,
        "kernel": run.kernel or None,
        "scenario": _without_secrets(plain(run.scenario.to_dict())),
        "seed": run.seed,
        "interrupted": run.interrupted,
        "failure": plain(run.failure),
        "summary": _summary(run.summary),
        "timeline": [_record(point) for point in run.timeline],
        "instances": [_summary(instance) for instance in run.instances],
        "services": [{"name": plain(name)} | _summary(service) for name, service in run.services],
        "generator": _generator(run.generator) if run.generator else None,
        "findings": [_record(finding) for finding in findings],
        "notes": [plain(note) for note in run.notes],
    }


def dumps(document: Mapping[str, Any]) -> str:
    """The document as text in ASCII, one line for each key at the top; the last line has no line end."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _envelope(command: str, runs: Sequence[Run]) -> Document:
    """Interrupted by the user, else failed where a run is incomplete, whose numbers are told all the same."""
    broken = next((run.failure for run in runs if run.failure), None)
    interrupted = any(run.interrupted for run in runs)
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "status": "interrupted" if interrupted else "failed" if broken else "ok",
        "error": _failure(CannotDo(broken)) if broken else None,
    }


def _batch_head(batch: Batch) -> Document:
    lost = None
    if batch.losses:
        lost = f"{'1 run was' if len(batch.losses) == 1 else f'{len(batch.losses)} runs were'} lost: {batch.losses[0]}"
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "simulate",
        "status": "interrupted" if batch.interrupted else "failed" if lost else "ok",
        "error": _failure(CannotDo(lost)) if lost else None,
        "engine": "model",
        "kernels": batch.kernels,
        "scenario": _without_secrets(plain(batch.scenario.to_dict())),
        "seed": batch.scenario.load.seed,
        "planned": batch.planned,
    }


def _point(point: Point) -> Document:
    outcome = point.outcome
    return {
        "seed": point.seed,
        "summary": _summary(outcome.summary),
        "reopened_rate": _number(reopened_rate(outcome.summary)),
        "failure": plain(outcome.failure),
        "findings": [_record(finding) for finding in outcome.findings],
    }


def _estimates(found: Mapping[str, Any], told: Callable[[Estimate], Any]) -> Document:
    return {
        key: _estimates(value, told) if isinstance(value, Mapping) else None if value is None else told(value)
        for key, value in found.items()
    }


def _failure(error: PoolctlError) -> Document:
    return {"code": error.code, "message": plain(error.message), "hint": plain(error.hint)}


def _summary(summary: Summary) -> Document:
    return {
        "offered": summary.offered,
        "acquired": summary.acquired,
        "released": summary.released,
        "leaked": summary.leaked,
        "timed_out": summary.timed_out,
        "refused": summary.refused,
        "failed": summary.failed,
        "unfinished": summary.unfinished,
        "duration": _number(summary.duration),
        "throughput": _number(summary.throughput),
        "offered_rate": _number(summary.offered_rate),
        "wait_time": _record(summary.wait_time),
        "queued": {"count": summary.queued_count, "total": _number(summary.queued_time)},
        "use_time": _record(summary.use_time),
        "connections": _record(summary.connections),
        "connect_time": _record(summary.connect_time),
        "exhausted_at": _number(summary.exhausted_at),
        "recovered_at": _number(summary.recovered_at),
        "errors": [_error(error) for error in summary.errors],
        "server": _record(summary.server) if summary.server else None,
    }


def _relief_document(inspection: InspectResult) -> Document | None:
    """None where it was not asked for; ``executed`` null where nothing was ended."""
    plan, relieved = inspection.relief, inspection.relieved
    if plan is None:
        return None
    return {
        **plain(asdict(plan)),
        "frees": plan.frees,
        "executed": plain([asdict(ending) for ending in relieved.endings]) if relieved else None,
        "used_before": relieved.used_before if relieved else None,
        "used_after": relieved.used_after if relieved else None,
        "freed": relieved.freed if relieved else None,
    }


def _server_document(observation: Observation, limits: Sequence[Limit]) -> Document:
    """The server as an ordinary role meets it: ``used`` and ``free`` are of the slots that such a role can use.

    A server that refused every client has told nothing of itself; what was counted from outside is in its limit.
    """
    facts, samples = observation.server, observation.samples
    limit = next((limit for limit in limits if limit.scope == "server"), None)
    used = limit.used if limit else len(samples[-1].clients) if samples else None
    usable = facts.usable if facts else None
    free = limit.free if limit else max(usable - used, 0) if usable is not None and used is not None else None
    return {
        "version": plain(facts.version) if facts else None,
        "max_connections": facts.max_connections if facts else None,
        "reserved": facts.reserved if facts else None,
        "superuser_reserved": facts.superuser_reserved if facts else None,
        "usable": usable,
        "used": used,
        "free": free,
        "role": plain(facts.role) if facts else None,
        "can_see_all": facts.can_see_all if facts else None,
    }


def _record(record: Times | Connections | ObservedServer | TimelinePoint | Finding) -> Document:
    return {name: plain(value) for name, value in asdict(record).items()}


def _error(error: ObservedError) -> Document:
    return {
        "from": error.kind.origin,
        "class": plain(error.kind.name),
        "sqlstate": plain(error.kind.sqlstate),
        "message": plain(error.kind.message),
        "count": error.count,
        "first_at": _number(error.first_at),
    }


def _generator(generator: Generator) -> Document:
    return {
        "bound": bool(generator.bound_by),
        "reasons": list(generator.bound_by),
        "lag": _record(generator.lag),
        "cpu": _number(generator.cpu),
        "ideal_wait": _number(generator.ideal_wait),
        "measured_wait": _number(generator.measured_wait),
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """``value`` as every JSON reader accepts it; a lone surrogate, which some refuse, becomes a question mark."""
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value).encode("utf-8", "replace").decode()


def _without_secrets(value: Any) -> Any:
    """A copy in which what stands under a key that names a password is hidden (Pgpool-II has such settings)."""
    if isinstance(value, dict):
        return {
            key: "***" if key.endswith("password") and item else _without_secrets(item) for key, item in value.items()
        }
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
