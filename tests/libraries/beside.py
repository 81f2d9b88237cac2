"""The same callers, holds and openings for a real pool library and for the model, and how their figures compare.

A real library runs in its own runtime, with a driver that only sleeps. Counts are equal; waits lie within TOLERANCE,
which leaves room for a busy machine.
"""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from modeled import constant, run

TOLERANCE = (0.10, 0.25)
"""Seconds, and share of the model's mean wait, by which the real one may differ."""


@dataclass(frozen=True)
class Case:
    """``callers`` come at once, each holds for ``hold``. Times are seconds; ``timeout`` 0: they wait for ever."""

    callers: int
    max_open: int
    connect: float
    hold: float
    timeout: float = 0.0


COLD_BURST = Case(callers=10, max_open=4, connect=0.3, hold=0.4)
OVERLOAD = Case(callers=8, max_open=2, connect=0.1, hold=0.6, timeout=1.0)


@dataclass
class Figures:
    served: int = 0
    failed: int = 0
    opened: int = 0
    total_wait: float = 0.0
    """Of all callers, also of the ones that failed."""


def model(kind: str, case: Case, **pool: Any) -> Figures:
    """Run the case in the model."""
    limits: dict[str, Any] = {"max_open": case.max_open} | pool
    if case.timeout:
        limits["acquire_timeout"] = case.timeout
    done = run(
        database={"connect_time": constant(case.connect)},
        pool={"kind": kind} | limits,
        bursts=[{"at": 0, "workers": case.callers, "requests": 1, "hold": case.hold}],
        duration=20.0,
    ).summary
    failed = done.timed_out + done.refused + done.failed
    return Figures(done.acquired, failed, done.connections.opened, done.wait_time.total)


def compare(real: Figures, modeled: Figures) -> None:
    """Hold the real figures against the model's."""
    said = f"real {real}, model {modeled}"
    assert (real.served, real.failed, real.opened) == (modeled.served, modeled.failed, modeled.opened), said
    callers = modeled.served + modeled.failed
    absolute, relative = TOLERANCE
    expected = modeled.total_wait / callers
    assert real.total_wait / callers == pytest.approx(expected, abs=absolute + relative * expected), said


def drive_threads(case: Case, acquire: Callable[[], Any], release: Callable[[Any], None]) -> Figures:
    """Let a thread for each caller acquire, hold and release."""
    figures, lock, start = Figures(), threading.Lock(), threading.Barrier(case.callers)

    def call() -> None:
        start.wait()
        began = time.monotonic()
        try:
            connection = acquire()
        except Exception:  # noqa: BLE001 - each library has its own
            connection = None
        waited = time.monotonic() - began
        with lock:
            figures.total_wait += waited
            figures.served += connection is not None
            figures.failed += connection is None
        if connection is not None:
            time.sleep(case.hold)
            release(connection)

    threads = [threading.Thread(target=call) for _ in range(case.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return figures


def skip_without(*programs: str) -> None:
    """Skip the test where a program is missing (in CI that is a failure, see conftest)."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")


def drive_program(command: list[str], case: Case, folder: Path) -> Figures:
    """Let a program in another language do the same: it gets the case as JSON, and prints its figures as JSON."""
    done = subprocess.run(
        [*command, json.dumps(asdict(case))], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Figures(**json.loads(done.stdout.splitlines()[-1]))
