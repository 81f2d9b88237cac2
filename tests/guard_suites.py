"""Small suites of tests that leak, each run by a pytest of its own with the plugin on."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

QUIET = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:django", "-p", "no:rerunfailures", "-p", "no:xdist")

CONFTEST = """
import os

import psycopg_pool
import pytest

DSN = os.environ["GUARD_DSN"]


@pytest.fixture(scope="module")
def pool():
    with psycopg_pool.ConnectionPool(DSN, min_size=1, max_size=2, open=True) as pool:
        yield pool
"""


@dataclass(frozen=True)
class Result:
    """How a suite ended."""

    code: int
    output: str

    def outcome(self, test: str) -> str:
        """Return FAILED, ERROR or PASSED of the test, from pytest's short summary; the worst if there are several."""
        found = [line.split()[0] for line in self.output.splitlines() if line.split()[1:2] and f"::{test}" in line]
        return next((word for word in ("FAILED", "ERROR", "PASSED") if word in found), "")


def run_suite(
    folder: Path,
    environment: Mapping[str, str],
    files: Mapping[str, str],
    *options: str,
    plugins: Sequence[str] = QUIET,
    on: bool = True,
    command: Sequence[str] = (),
) -> Result:
    """Write ``files`` and run pytest on them. ``command``: what stands before pytest, such as the guard command."""
    for name, text in {"conftest.py": CONFTEST, "pytest.ini": "[pytest]\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    plugin = [] if command or is_plugin_installed() else ["-p", "poolctl.guard.pytest_plugin"]
    finished = subprocess.run(
        [
            *command,
            sys.executable,
            "-m",
            "pytest",
            "-rA",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            *plugin,
            *plugins,
            *(["--poolctl"] if on and not command else []),
            *options,
        ],
        cwd=folder,
        env={**environment, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Result(finished.returncode, finished.stdout + finished.stderr)


def is_plugin_installed() -> bool:
    """Return True if this environment's poolctl is installed with its pytest plugin."""
    from importlib.metadata import entry_points

    return os.environ.get("GUARD_PLUGIN") != "0" and any(
        point.name == "poolctl" for point in entry_points(group="pytest11")
    )
