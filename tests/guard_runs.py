"""What the tests of the guard share: a throw-away PostgreSQL in the environment, and the guard command run in it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict
from schema_check import problems

from poolctl.engines.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "poolctl" / "api" / "guard.schema.json").read_text(encoding="utf-8"))


@contextmanager
def serve_environment() -> Iterator[dict[str, str]]:
    """Start a PostgreSQL and name it in an environment, as a connection string and as a URL."""
    with Sandbox.start(max_connections=200) as sandbox:
        parts = conninfo_to_dict(sandbox.conninfo)
        url = f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
        yield {**os.environ, "GUARD_DSN": sandbox.conninfo, "GUARD_URL": url, "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Guarded:
    """How the command under the guard ended, and what both wrote. ``document`` is empty without --json."""

    code: int
    stdout: str
    stderr: str
    document: dict[str, Any]

    def findings(self, code: str) -> list[dict[str, Any]]:
        return [finding for finding in self.document["findings"] if finding["code"] == code]


def run_guard(
    command: Sequence[str | Path],
    environment: dict[str, str],
    *,
    options: Sequence[str] = ("--json",),
    folder: Path | None = None,
    within: float = 120.0,
) -> Guarded:
    """Run ``command`` under the guard and wait for it. Any document that it prints has to follow the schema."""
    finished = subprocess.run(
        [sys.executable, "-m", "poolctl", "guard", *options, "--", *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    document = json.loads(finished.stdout) if "--json" in options else {}
    assert not document or problems(document, SCHEMA, SCHEMA) == []
    return Guarded(finished.returncode, finished.stdout, finished.stderr, document)


def run_program(
    text: str,
    environment: dict[str, str],
    folder: Path,
    *,
    options: Sequence[str] = ("--json",),
    python: Sequence[str] = (),
    name: str = "program.py",
) -> Guarded:
    """Write a Python program and run it under the guard."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return run_guard([sys.executable, "-W", "ignore", *python, path.name], environment, options=options, folder=folder)
