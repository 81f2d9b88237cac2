"""The JSON of ``recommend --fleet``. Every key is public: keys are added freely, never renamed or dropped."""

from dataclasses import asdict

from poolctl.report.json import SCHEMA_VERSION, Document, plain
from poolctl.sizing.fleet_check import FleetCheck


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
