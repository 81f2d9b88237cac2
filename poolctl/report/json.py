"""The JSON that scripts read. Every key here is public: keys are added freely, never renamed or dropped.

Decides the shape and that any JSON reader accepts it (no NaN, no infinity). Times are seconds. What a client
controls is not altered here, only escaped as JSON demands.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from poolctl.diagnose.finding import Finding
from poolctl.errors import CannotDo, PoolctlError
from poolctl.report.differences import differences, trust
from poolctl.report.outcome import Batch, Point, reopened_rate
from poolctl.report.variant import Variant
from poolctl.scenario.histogram import Times
from poolctl.scenario.replications import Estimate, estimates
from poolctl.scenario.run import Connections, ErrorSeen, Generator, Run, ServerSeen, Summary, TimelinePoint

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
    found = estimates([point["summary"] for point in replications]) if replications else {}
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


def _record(record: Times | Connections | ServerSeen | TimelinePoint | Finding) -> Document:
    return {name: plain(value) for name, value in asdict(record).items()}


def _error(error: ErrorSeen) -> Document:
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
