"""Keeps recordings of the incident tests for test_recordings, without what they say of the machine they were made on.

    POOLCTL_RECORD_INCIDENTS=FOLDER python -m pytest -n 0 -m slow tests/test_incidents.py
    python tests/recordings/keep.py FOLDER

Those of FOLDER that are here already are replaced; name others to add them.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent

NEUTRAL = (
    (re.compile(r"/[^\s\"]*/incident_client\.py"), "incident_client.py"),
    (re.compile(r"/[^\s\"]*/python[0-9.]*"), "python3"),
    (re.compile(r"/[^\s\"]*/test_[^\s\"]*/(metrics\.prom|pool\.json)"), r"/run/app/\1"),
    (re.compile(r"/[^\s\"]*/poolctl-sandbox-[^/\"\s]*"), "/run/sandbox"),
    (re.compile(r"metrics=/[^\s\"]*pytest[^\s\"]*"), "metrics=/run/app/..."),
)


def main() -> None:
    folder = Path(sys.argv[1])
    known = {path.stem for path in HERE.glob("*.jsonl")} | set(sys.argv[2:])
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem not in known:
            continue
        text = path.read_text(encoding="utf-8")
        for pattern, instead in NEUTRAL:
            text = pattern.sub(instead, text)
        (HERE / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
