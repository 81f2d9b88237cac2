"""The guard command's JSON document. Its keys are public: they are added freely, never renamed or dropped."""

import json
from dataclasses import asdict
from typing import Any

from poolctl.guard.guard_report import HeldConnection, Line, ProcessReport
from poolctl.guard.guard_text import GuardView

SCHEMA_VERSION = 1


def guard_document(view: GuardView, *, exit_code: int, elapsed: float, threshold: float) -> str:
    """Write the document as text. ``exit_code``: the command's, 128 + n for signal n. Times are seconds."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "guard",
        "status": "ok",
        "error": None,
        "exit_code": exit_code,
        "elapsed": elapsed,
        "threshold": threshold,
        "findings": [asdict(finding) for finding in view.findings],
        "processes": [_process(report, view) for report in view.reports],
        "unseen": list(view.unseen),
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _process(report: ProcessReport, view: GuardView) -> dict[str, Any]:
    return {
        "pid": report.pid,
        "parent": report.parent,
        "program": report.program,
        "python": report.python,
        "libraries": list(report.libraries),
        "running": report.pid in view.alive,
        "ended_in_order": report.ended,
        "pools": [asdict(pool) for pool in report.pools],
        "holds": [_hold(held, report, view) for held in report.holds],
        "more_holds": report.more_holds,
        "sites": [{**asdict(figures), "site": _site(figures.site)} for figures in report.sites],
    }


def _hold(held: HeldConnection, report: ProcessReport, view: GuardView) -> dict[str, Any]:
    until = view.now if report.pid in view.alive else report.taken_at
    waits = held.acquired_at is None
    return {
        "library": held.library,
        "pool": held.pool if held.is_pool else None,
        "site": _site(held.site),
        "waiting": waits,
        "age": until - (held.asked_at if held.acquired_at is None else held.acquired_at),
        "wait_time": None if held.acquired_at is None else held.acquired_at - held.asked_at,
        "actor": {"kind": held.actor_kind, "name": held.actor, "outcome": held.actor_outcome or None},
        "ending": list(held.ending),
        "state": held.state or None,
        "statement": held.statement or None,
        "backend_pid": held.backend_pid,
        "kept_by_django": held.is_exempt,
    }


def _site(site: tuple[Line, ...]) -> list[dict[str, Any]]:
    return [{"file": line.file, "line": line.line, "function": line.function, "place": line.place} for line in site]
