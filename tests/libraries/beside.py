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
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import pytest
from modeled import constant, run

from poolctl.pool import LIBRARIES

P = ParamSpec("P")

TOLERANCE = (0.10, 0.25)
"""Seconds, and share of the model's mean wait, by which the real one may differ."""

SETTLES = 1.0
"""Seconds after the last caller in which the library may go on in the background."""


@dataclass(frozen=True)
class Case:
    """``callers`` come at once, and as many after ``again``; each holds for ``hold``. Times are seconds.

    A limit of 0 is not set: callers wait for ever, idle connections are all kept, and live for ever.
    """

    name: str
    callers: int
    max_open: int
    connect: float
    hold: float
    again: float = 0.0
    acquire_timeout: float = 0.0
    max_idle: int = 0
    max_lifetime: float = 0.0
    max_idle_time: float = 0.0

    @property
    def limits(self) -> dict[str, Any]:
        """What it sets beside the size."""
        names = ("acquire_timeout", "max_idle", "max_lifetime", "max_idle_time")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


CASES = (
    Case("cold burst", callers=10, max_open=4, connect=0.3, hold=0.4),
    Case("slow connect", callers=20, max_open=10, connect=0.3, hold=0.14),
    Case("overload", callers=8, max_open=2, connect=0.1, hold=0.6, acquire_timeout=1.0),
    Case("idle cap", callers=4, max_open=4, connect=0.2, hold=0.3, again=2.5, max_idle=1),
    # Tomcat looks at its idle connections every 5 seconds.
    Case("idle time", callers=4, max_open=4, connect=0.2, hold=0.3, again=7.5, max_idle_time=1.0),
    Case("lifetime", callers=4, max_open=4, connect=0.2, hold=0.3, again=2.3, max_lifetime=1.0),
)


def cases_of(*kinds: str) -> list[Any]:
    """Return the cases whose limits each of these libraries has, as parameters (kind, case) of a test."""
    return [
        pytest.param(kind, case, id=f"{kind}, {case.name}")
        for kind in kinds
        for case in CASES
        if case.limits.keys() <= LIBRARIES[kind].keys
        and not case.limits.keys() & {*LIBRARIES[kind].least} - {"acquire_timeout"}
    ]


@dataclass
class Figures:
    served: int = 0
    failed: int = 0
    opened: int = 0
    total_wait: float = 0.0
    """Of all callers, also of the ones that failed."""


def model(kind: str, case: Case, **pool: Any) -> Figures:
    """Run the case in the model. Nothing but the case limits the pool, whatever the library's defaults."""
    free = {"min_idle": 0, "max_idle": case.max_open, "acquire_timeout": 600.0}
    limits = {key: value for key, value in free.items() if key in LIBRARIES[kind].keys} | case.limits | pool
    bursts = [{"at": 0, "workers": case.callers, "requests": 1, "hold": case.hold}]
    done = run(
        database={"connect_time": constant(case.connect)},
        pool={"kind": kind, "max_open": case.max_open} | limits,
        bursts=bursts + [burst | {"at": case.again} for burst in bursts if case.again],
        # Tomcat goes on to open again what has become too old.
        duration=case.again + 1.2 if case.max_lifetime else 20.0,
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
    figures, lock = Figures(), threading.Lock()

    def call(barrier: threading.Barrier, at: float) -> None:
        barrier.wait()
        time.sleep(at)
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

    comings = [0.0] * case.callers + [case.again] * case.callers * bool(case.again)
    barrier = threading.Barrier(len(comings))
    threads = [threading.Thread(target=call, args=(barrier, at)) for at in comings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(SETTLES)
    return figures


def try_again(test: Callable[P, None]) -> Callable[P, None]:
    """Let a test that fails run again, twice at most: a busy machine delays callers, a wrong rule fails each time."""

    @wraps(test)
    def repeat(*arguments: P.args, **options: P.kwargs) -> None:
        for _ in range(2):
            with suppress(AssertionError):
                return test(*arguments, **options)
        return test(*arguments, **options)

    return repeat


def skip_without(*programs: str) -> None:
    """Skip the test where a program is missing (in CI that is a failure, see conftest)."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")


def drive_program(command: list[str], case: Case, folder: Path) -> Figures:
    """Let a program in another language do the same: it gets the case as JSON, and prints its figures as JSON."""
    told = asdict(case) | {"settles": SETTLES}
    done = subprocess.run(
        [*command, json.dumps(told)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Figures(**json.loads(done.stdout.splitlines()[-1]))
