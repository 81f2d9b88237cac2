"""What ``poolctl`` imports before it knows what to do: start-up time without a stopwatch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"psycopg", "psycopg_pool", "psycopg2", "sqlalchemy", "rich", "asyncio", "ssl", "numpy", "psutil", "subprocess"}


def modules_imported_by(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "poolctl", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return finished, set(re.findall(r"^import time:.*\|\s*([\w.]+)$", finished.stderr, re.MULTILINE))


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("simulate", "--help"), ("inspect", "--help")])
def test_help_and_version_import_nothing_that_is_slow_to_import(arguments: tuple[str, ...]) -> None:
    finished, modules = modules_imported_by(*arguments)

    assert finished.returncode == 0, finished.stderr
    assert "poolctl" in finished.stdout
    assert "click" in modules
    assert {module.split(".")[0] for module in modules} & HEAVY == set()


def test_help_does_not_look_up_the_version() -> None:
    _, modules = modules_imported_by("--help")

    # It takes longer to import than everything else that --help needs.
    assert "importlib.metadata" not in modules
