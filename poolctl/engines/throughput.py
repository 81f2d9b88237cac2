"""Finds, on a real server, how throughput depends on the number of connections.

Decides where it is measured (the throw-away server, or a named one within its free slots) and when the user's time is
up. Which numbers are measured next is the caller's plan, which knows nothing of servers.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from poolctl.engines.live.live_servers import free_slots, is_behind_pooler
from poolctl.engines.pgbench import SETUP, BenchWindow, Pgbench, Script
from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput, ServerFull

WINDOW = 2.0
"""Seconds that are counted of each window."""

MOST_CONNECTIONS = 256
"""On the throw-away server: far beyond what any load of a machine that runs poolctl beside it can use."""

CLEAN = 0.2
"""Processors that others may use during a window; more, and it says as much about them as about the database."""

STATEMENT_TIMEOUT = 30
"""Seconds, for every session of a sweep on a named server."""


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """Where a sweep runs. ``limit``: most connections that it may open; ``arithmetic``: why so many."""

    conninfo: str
    limit: int
    prepared: bool
    arithmetic: str
    sandbox: Sandbox | None = None
    """None: a server of the user's."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was measured, in the order in which it was. ``out_of_time``, ``interrupted``: the plan was not finished.

    ``disturbed``: how many windows were left out because other processes used the machine; when most were, all stay in
    and ``is_noisy``.
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
        """(connections, throughput, latency) of each window."""
        return tuple((window.connections, window.throughput, window.latency) for window in self.windows)


Plan = Callable[[Mapping[int, Sequence[float]]], Sequence[int]]
"""Which numbers of connections are measured next, given the throughput of each window so far; none: enough."""


@contextmanager
def start_sweep_server(*, limit: int = MOST_CONNECTIONS) -> Iterator[SweepTarget]:
    """A server with the tables of the built-in loads, which ends with the block. Raises PoolctlError."""
    with Sandbox.start(max_connections=limit + 10, reserved=3, settings={"synchronous_commit": False}) as sandbox:
        with psycopg.connect(sandbox.admin_conninfo, autocommit=True) as connection:
            connection.execute("SET ROLE app")
            connection.execute(SETUP)
        conninfo = f"{sandbox.conninfo} application_name='poolctl sweep'"
        yield SweepTarget(conninfo, limit, True, f"a throw-away server with room for {limit}", sandbox)


def check_sweep_target(conninfo: str) -> SweepTarget:
    """A server of the user's, within its free slots less a margin.

    Raises BadInput, CannotConnect, and ServerFull when not even one connection can be spared.
    """
    slots = free_slots(conninfo, application="poolctl sweep")
    limit = slots.free - slots.margin
    if limit < 1:
        raise ServerFull(
            f"the target has {slots.free} free connections, of which {slots.margin} stay free: none is left to sweep "
            f"with ({slots.arithmetic})",
            hint="sweep when it is less busy, or on a copy of it",
        )
    options = f"-c statement_timeout={STATEMENT_TIMEOUT}s -c lock_timeout=2s"
    return SweepTarget(
        psycopg.conninfo.make_conninfo(conninfo, application_name="poolctl sweep", options=options),
        limit,
        not is_behind_pooler(conninfo),
        f"{slots.arithmetic}, less a margin of {slots.margin}",
    )


def sweep(
    ground: SweepTarget,
    scripts: Sequence[Script],
    plan: Plan,
    *,
    seed: int,
    budget: float,
    stop: Callable[[], bool],
    on_window: Callable[[BenchWindow], None] = lambda window: None,
) -> Sweep:
    """Measure until ``plan`` has enough, ``budget`` seconds are over, or ``stop`` says so.

    Raises BadInput when a statement fails, CannotConnect and CannotDo when the server or pgbench do.
    """
    if not scripts:
        raise BadInput("--sweep has nothing to run", hint="--query, --script or --mix says what")
    server_cpu = ground.sandbox.measure_cpu_time if ground.sandbox is not None else lambda: 0.0
    load = Pgbench(ground.conninfo, scripts, prepared=ground.prepared, seed=seed, server_cpu=server_cpu)
    began = time.monotonic()
    seen = _Seen()
    while wanted := plan(seen.measured):
        for connections in wanted:
            over_time = bool(seen.windows) and time.monotonic() - began > budget
            window = None if over_time or stop() else load.measure(connections, WINDOW, stop=stop)
            if window is None:
                return seen.told(ground.limit, time.monotonic() - began, over_time, not over_time)
            if seen.takes(window):
                on_window(window)
    return seen.told(ground.limit, time.monotonic() - began, False, False)


class _Seen:
    """The windows that count. On a machine that is never quiet, leaving windows out would leave none."""

    def __init__(self) -> None:
        self.windows: list[BenchWindow] = []
        self.measured: dict[int, list[float]] = {}
        self._disturbed = 0
        self._is_noisy = False

    def takes(self, window: BenchWindow) -> bool:
        if window.other_cpu > CLEAN and not self._is_noisy:
            self._disturbed += 1
            self._is_noisy = self._disturbed >= 4 and self._disturbed > len(self.windows) / 2
            return False
        self.windows.append(window)
        self.measured.setdefault(window.connections, []).append(window.throughput)
        return True

    def told(self, limit: int, seconds: float, out_of_time: bool, interrupted: bool) -> Sweep:
        return Sweep(tuple(self.windows), limit, seconds, out_of_time, interrupted, self._disturbed, self._is_noisy)
