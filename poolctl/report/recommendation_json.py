"""The JSON of ``recommend`` that scripts read. Every key is public: keys are added freely, never renamed or dropped.

Times are seconds. What is not known, or was refused, is null.
"""

from dataclasses import asdict

from poolctl.report.json import SCHEMA_VERSION, Document, plain
from poolctl.report.recommended import Recommended


def recommend_document(recommended: Recommended) -> Document:
    """What ``recommend --json`` prints."""
    document: Document = {
        "schema_version": SCHEMA_VERSION,
        "command": "recommend",
        "status": "interrupted" if recommended.interrupted else "ok",
        "error": None,
    }
    document |= {key: plain(value) for key, value in recommended.answer.to_dict().items()}
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
