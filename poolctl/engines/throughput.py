"""Measures, on a real server, how throughput depends on the number of connections.

Decides on which server this is measured (the throw-away server, or a named one within its free slots), which windows
count, and when the time is over. The caller's plan decides which number of connections is measured next.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from poolctl.engines.live.live_servers import count_slots, find_margin, limit_sessions
from poolctl.engines.pgbench import SETUP, BenchWindow, Pgbench, Script
from poolctl.engines.sandbox import Sandbox, without_libpq_environment
from poolctl.errors import BadInput, ServerFull
from poolctl.observe.slots import RunName

WINDOW = 2.0
"""Seconds of each window that count."""

MOST_CONNECTIONS = 256
"""Most connections on the throw-away server: far more than any load on the machine that also runs poolctl can use."""

CLEAN = 0.2
"""Processors that other processes may use during a window. If they use more, the window measures them, too."""

SWEEP = "poolctl sweep"
"""application_name of the connections of a sweep."""

STATEMENT_TIMEOUT = 30
"""Seconds. The statement_timeout of every connection of a sweep on a named server."""


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """The server of a sweep. ``limit``: most connections that the sweep may open; ``arithmetic``: why so many."""

    conninfo: str
    limit: int
    prepared: bool
    arithmetic: str
    sandbox: Sandbox | None = None
    """None: a server that the user named."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The windows in the order in which they were measured.

    ``out_of_time``, ``interrupted``: the plan was not finished. ``disturbed``: number of windows that were left out
    because other processes used the machine. ``is_noisy``: most were disturbed, so the later ones all count.
    """

    windows: tuple[BenchWindow, ...]
    limit: int
    seconds: float
    out_of_time: bool = False
    interrupted: bool = False
    disturbed: int = 0
    is_noisy: bool = False

    @property
    def table(self) -> tuple[tuple[int, float, float], ...]:
        """Connections, throughput and latency of each window."""
        return tuple((window.connections, window.throughput, window.latency) for window in self.windows)


Plan = Callable[[Mapping[int, Sequence[float]]], Sequence[int]]
"""From the throughput of each window so far, by connections, to the numbers to measure next; none: stop."""


@contextmanager
def start_sweep_server(*, limit: int = MOST_CONNECTIONS) -> Iterator[SweepTarget]:
    """Start a server with the tables of the built-in loads, which ends with the block. Raises PoolctlError."""
    with (
        without_libpq_environment(),
        Sandbox.start(max_connections=limit + 10, reserved=3, settings={"synchronous_commit": False}) as sandbox,
    ):
        with psycopg.connect(sandbox.admin_conninfo, autocommit=True) as connection:
            connection.execute("SET ROLE app")
            connection.execute(SETUP)
        conninfo = f"{sandbox.conninfo} application_name='{SWEEP}'"
        yield SweepTarget(conninfo, limit, True, f"a throw-away server with room for {limit}", sandbox)


def check_sweep_target(conninfo: str) -> SweepTarget:
    """Check the server that the user named, and return it with the number of connections that a sweep may open.

    Raises BadInput, CannotConnect, and ServerFull if the sweep may not open a single connection.
    """
    slots = count_slots(conninfo, RunName.make(0))
    margin = find_margin(slots.free)
    limit = slots.free - margin
    if limit < 1:
        raise ServerFull(
            f"the target has {slots.free} free connections, of which {margin} must stay free: none is left for "
            f"the sweep ({slots.arithmetic})",
            hint="sweep when the server is less busy, or sweep a copy of it",
        )
    return SweepTarget(
        limit_sessions(conninfo, SWEEP, f"-c statement_timeout={STATEMENT_TIMEOUT}s -c lock_timeout=2s"),
        limit,
        not slots.is_behind_pooler,
        f"{slots.arithmetic}, less a margin of {margin}",
    )


def run_sweep(
    target: SweepTarget,
    scripts: Sequence[Script],
    plan: Plan,
    *,
    seed: int,
    budget: float,
    stop: Callable[[], bool],
    on_window: Callable[[BenchWindow], None] = lambda window: None,
) -> Sweep:
    """Measure until ``plan`` returns no more numbers, ``budget`` seconds are over, or ``stop`` returns True.

    Raises BadInput if a statement fails, CannotConnect and CannotDo if the server or pgbench fails.
    """
    if not scripts:
        raise BadInput("--sweep has nothing to run", hint="give --query, --script or --mix")
    server_cpu = target.sandbox.measure_cpu_time if target.sandbox is not None else lambda: 0.0
    load = Pgbench(target.conninfo, scripts, prepared=target.prepared, seed=seed, server_cpu=server_cpu)
    began = time.monotonic()
    kept = _WindowFilter()
    while wanted := plan(kept.measured):
        for connections in wanted:
            over_time = bool(kept.windows) and time.monotonic() - began > budget
            window = None if over_time or stop() else load.measure(connections, WINDOW, stop=stop)
            if window is None:
                return kept.make_sweep(target.limit, time.monotonic() - began, over_time, not over_time)
            if kept.add(window):
                on_window(window)
    return kept.make_sweep(target.limit, time.monotonic() - began, False, False)


class _WindowFilter:
    """Separates the windows that count from disturbed ones. On a machine that is always busy, all count."""

    def __init__(self) -> None:
        self.windows: list[BenchWindow] = []
        self.measured: dict[int, list[float]] = {}
        self._disturbed = 0
        self._is_noisy = False

    def add(self, window: BenchWindow) -> bool:
        """Add ``window``, and return True if it counts."""
        if window.other_cpu > CLEAN and not self._is_noisy:
            self._disturbed += 1
            self._is_noisy = self._disturbed >= 4 and self._disturbed > len(self.windows) / 2
            return False
        self.windows.append(window)
        self.measured.setdefault(window.connections, []).append(window.throughput)
        return True

    def make_sweep(self, limit: int, seconds: float, out_of_time: bool, interrupted: bool) -> Sweep:
        """Return the result so far."""
        return Sweep(tuple(self.windows), limit, seconds, out_of_time, interrupted, self._disturbed, self._is_noisy)
