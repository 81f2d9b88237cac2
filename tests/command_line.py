"""Runs the command line within this process: what a command answers needs none of its own, and starting one takes long.

What belongs to the process (its imports, signals, streams and environment) is tested with a real one: see test_cli and
test_cli_streams.
"""

import io
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from poolctl.cli import main


def run_here(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``poolctl WORDS`` with nothing on standard input. A variable of "" is one that is not set."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, Path(os.devnull).open() as nothing:
        for name, value in environment.items():
            patch.setenv(name, value) if value else patch.delenv(name, raising=False)
        patch.setattr("sys.argv", ["poolctl", *words])
        patch.setattr("sys.stdin", nothing)
        with redirect_stdout(output), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
            main(words)
    told, said = (_read(stream) for stream in (output, errors))
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(["poolctl", *words], ended.value.code, told, said)


def check_usage_error(done: "subprocess.CompletedProcess[str]", said: str) -> None:
    """What cannot be used is one clear error on standard error, and the exit code 2."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def _read(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
