"""Measures, on a real server, how throughput depends on the number of connections.

Decides on which server this is measured (the throw-away server, or a named one within its free slots), which windows
count, and when the time is over. The caller's plan decides which number of connections is measured next.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import psycopg

from poolctl.engines.live.live_servers import Promise, count_slots, find_margin, limit_sessions
from poolctl.engines.pgbench import SETUP, BenchWindow, Pgbench, Script
from poolctl.engines.sandbox import Sandbox, without_libpq_environment
from poolctl.errors import BadInput, ServerFull
from poolctl.observe.connection import ServerConnection
from poolctl.observe.refusals import Refused, ServerLost, StatementFailed
from poolctl.observe.slots import SWEEP, RunName, read_slots

WINDOW = 2.0
"""Seconds of each window that count."""

MOST_CONNECTIONS = 256
"""Most connections on the throw-away server: far more than any load on the machine that also runs poolctl can use."""

COUNT_EVERY = 0.3
"""Seconds between two counts of a named server's free slots."""

CLEAN = 0.2
"""Processors that other processes may use during a window. If they use more, the window measures them, too."""

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
    promise: Promise | None = None
    """What the sweep leaves free on a named server."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The windows in the order in which they were measured.

    ``out_of_time``, ``interrupted``: the plan was not finished. ``disturbed``: number of windows that were left out
    because other processes used the machine. ``is_noisy``: most were disturbed, so the later ones all count.
    ``breach``: why the sweep left a named server early, "" if it did not.
    """

    windows: tuple[BenchWindow, ...]
    limit: int
    seconds: float
    out_of_time: bool = False
    interrupted: bool = False
    disturbed: int = 0
    is_noisy: bool = False
    breach: str = ""

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
    name = RunName.make(program=SWEEP)
    slots = count_slots(conninfo, name)
    margin = find_margin(slots.free)
    limit = slots.free - margin - 1
    if limit < 1:
        raise ServerFull(
            f"the target has {slots.free} free connections, of which {margin} must stay free: none is left for "
            f"the sweep ({slots.arithmetic})",
            hint="sweep when the server is less busy, or sweep a copy of it",
        )
    return SweepTarget(
        limit_sessions(
            conninfo,
            name.load,
            f"-c statement_timeout={STATEMENT_TIMEOUT}s -c lock_timeout=2s",
            is_behind_pooler=slots.is_behind_pooler,
        ),
        limit,
        not slots.is_behind_pooler,
        f"{slots.arithmetic}, less a margin of {margin} and one to observe it",
        promise=Promise(replace(name, connections=limit), limit, margin, slots.is_behind_pooler),
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
    with closing(_SlotWatch(target)) as watch:
        while wanted := plan(kept.measured):
            for connections in wanted:
                watch.planned = connections
                over_time = bool(kept.windows) and time.monotonic() - began > budget
                is_over = over_time or watch.is_breached() or stop()
                window = (
                    None if is_over else load.measure(connections, WINDOW, stop=lambda: watch.is_breached() or stop())
                )
                if window is None:
                    sweep = kept.make_sweep(target.limit, time.monotonic() - began)
                    interrupted = not over_time and not watch.breach
                    return replace(sweep, out_of_time=over_time, interrupted=interrupted, breach=watch.breach)
                if kept.add(window):
                    on_window(window)
    return kept.make_sweep(target.limit, time.monotonic() - began)


class _SlotWatch:
    """Counts the free slots of a named server during a sweep. ``planned``: connections of the present window.

    ``breach``: why the sweep has to end, "" as long as it may go on. Raises CannotConnect.
    """

    def __init__(self, target: SweepTarget) -> None:
        self.planned = 0
        self.breach = ""
        self._promise = target.promise
        self._next_at = 0.0
        self._connection: ServerConnection | None = None
        if self._promise is not None:
            self._connection = ServerConnection.open(target.conninfo, application=self._promise.name.observer)

    def is_breached(self) -> bool:
        """Count if it is time, and return True if the sweep has to end."""
        if self._promise is None or self._connection is None or self.breach or time.monotonic() < self._next_at:
            return bool(self.breach)
        self._next_at = time.monotonic() + COUNT_EVERY
        try:
            slots = read_slots(self._connection, self._promise.name)
        except (Refused, ServerLost, StatementFailed) as error:
            self.breach = f"the free slots of the server can no longer be counted: {error}"
            return True
        self.breach = replace(self._promise, planned=self.planned).find_breach(slots) or ""
        return bool(self.breach)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


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

    def make_sweep(self, limit: int, seconds: float) -> Sweep:
        """Return the result so far."""
        return Sweep(tuple(self.windows), limit, seconds, disturbed=self._disturbed, is_noisy=self._is_noisy)
