"""The JSON of ``inspect`` that scripts read. Every key here is public: keys are added freely, never renamed or dropped.

Times are seconds, instants seconds since the Unix epoch. What could not be seen is null, never zero.
"""

from collections.abc import Sequence
from dataclasses import asdict

from poolctl.diagnose.finding import Limit
from poolctl.observe.snapshot import Observation
from poolctl.report.inspected import Inspection
from poolctl.report.json import SCHEMA_VERSION, Document, plain


def inspect_document(inspection: Inspection) -> Document:
    """What ``inspect --json`` prints."""
    observation, diagnosis = inspection.observation, inspection.diagnosis
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "inspect",
        "status": "interrupted" if inspection.interrupted else "ok",
        "error": None,
        "observed": observed_document(observation),
        "server": _server(observation, diagnosis.limits),
        "limits": [plain(asdict(limit)) for limit in diagnosis.limits],
        "groups": [plain(asdict(group)) for group in diagnosis.groups],
        "concurrency": plain(asdict(diagnosis.concurrency)) if diagnosis.concurrency else None,
        "findings": [plain(asdict(finding)) for finding in diagnosis.findings],
        "unseen": plain(diagnosis.unseen),
        "relief": _relief(inspection),
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


def _relief(inspection: Inspection) -> Document | None:
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


def _server(observation: Observation, limits: Sequence[Limit]) -> Document:
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
