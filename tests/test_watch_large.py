"""Servers with thousands of backends: inspected, and watched, in little memory."""

import json
import os
import subprocess
import sys
import tempfile

import pytest
from crowded import crowded

from poolctl.engines.sandbox import Sandbox

pytestmark = pytest.mark.slow


def run_inspect(*arguments: str) -> tuple[dict[str, object], int]:
    """Return the JSON document of ``poolctl inspect``, and the most memory that it took, in bytes."""
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "poolctl", "inspect", *arguments, "--json", "--quiet"]
        process = subprocess.Popen(command, stdout=output, env={**os.environ, "PGCONNECT_TIMEOUT": "20"})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        output.seek(0)
        return json.loads(output.read()), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_five_thousand_backends_are_inspected_and_watched_in_less_than_300_mb() -> None:
    with Sandbox.start(max_connections=5_100) as sandbox, crowded(sandbox.admin_conninfo, 5_000) as conninfo:
        once, memory = run_inspect(conninfo)
        watched, memory_of_watch = run_inspect(conninfo, "--watch", "--for", "6s")

    for document in (once, watched):
        assert sum(group["count"] for group in document["groups"]) >= 5_000  # type: ignore[attr-defined]
        # 250 of them work: on few cores that is a finding, too.
        assert "slots-low" in {finding["code"] for finding in document["findings"]}  # type: ignore[attr-defined]
    assert max(memory, memory_of_watch) < 300e6
