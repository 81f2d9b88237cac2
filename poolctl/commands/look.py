"""Looks at the live systems that ``inspect`` was asked about, or reads a recording of them, and diagnoses.

Decides what is shown meanwhile and when it is enough.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import click

from poolctl import BEGAN
from poolctl.commands.connection import Targets
from poolctl.commands.inspection import InspectRequest
from poolctl.commands.interrupts import Interrupts, catch_interrupts
from poolctl.commands.unanswered import check_answered, has_answered
from poolctl.errors import CannotDo

if TYPE_CHECKING:
    from poolctl.api.results import InspectResult
    from poolctl.observe.host import Host
    from poolctl.observe.postgres import Postgres
    from poolctl.observe.sampler import Sampler
    from poolctl.observe.snapshot import Observation, Snapshot
    from poolctl.report.blocks import Verdict
    from poolctl.report.screen import Screen

    Keep = Callable[[Snapshot], None]

KEPT = 600
"""Snapshots of a live view: ten minutes show every staircase that a person would wait for."""

EARLY_ROUNDS = 2
"""The second follows the first at once, and tells what moves from what does not: who can be sure by then, is."""

GLANCE = 0.7
"""Seconds between the looks of a glance. Applications and timers come back after round times (0.5 s, 1 s, 5 s): looks a
second apart would meet them at the same moment again and again."""

LOST = 1 / 3
"""Share of a window that nobody asked for which poolctl's own start may take: on a busy machine it takes seconds, and
the answer is due all the same. A window that was asked for begins with the first look."""

LONG_GLANCE = 60.0
"""Seconds from which the watcher's own interval has looks enough."""

SHARE = 4
"""A live view diagnoses again after so many times what the last diagnosis took, so that looking goes on in time."""


WANTED_AFTERWARDS = (
    "poolctl.diagnose.live.diagnose",
    "poolctl.observe.recording",
    "poolctl.report.screen",
    "poolctl.report.inspection",
    "poolctl.api.documents",
)
"""Modules that the answer needs."""


@contextmanager
def live_systems(
    named: Targets, *, emergency: bool = False, host_every: float = 0.0
) -> Iterator[tuple["Sampler", "Postgres | None"]]:
    """What was named, to be looked at within the ``with``; the host at most once in ``host_every`` seconds.

    Raises BadInput.
    """
    from poolctl.observe.connection import find_address
    from poolctl.observe.pgbouncer import PgBouncer
    from poolctl.observe.pgpool import Pgpool
    from poolctl.observe.pool_metrics import PoolMetrics
    from poolctl.observe.postgres import Postgres
    from poolctl.observe.sampler import Sampler

    address, port = find_address(named.conninfo) if named.conninfo is not None else ("", None)
    postgres = Postgres(named.conninfo, emergency=emergency) if named.conninfo is not None else None
    bouncers = [PgBouncer(conninfo) for conninfo in named.pgbouncers]
    pgpools = [Pgpool(conninfo) for conninfo in named.pgpools]
    poolers: list[PgBouncer | Pgpool] = [*bouncers, *pgpools]
    with Sampler(
        postgres,
        bouncers=bouncers,
        pgpools=pgpools,
        pools=[PoolMetrics(place) for place in named.pool_stats],
        host=partial(_host, address, port, [pooler.port for pooler in poolers if pooler.port is not None], host_every),
    ) as watcher:
        yield watcher, postgres


def _host(address: str, port: int | None, pooler_ports: list[int], every: float) -> "Host":
    """Imported in the thread that asks it: psutil takes a while."""
    from poolctl.observe.host import Host

    return Host(address, port, pooler_ports=pooler_ports, every=every)


def looked(asked: InspectRequest, watcher: "Sampler", color: str, quiet: bool) -> "InspectResult":
    """What was seen for as long as was asked, or until the user had enough.

    Raises CannotDo when nobody answered, or the recording cannot be begun.
    """
    from poolctl.report.screen import open_screen

    screen = open_screen(sys.stderr, color)  # type: ignore[arg-type]
    # While one waits anyway: on a machine without a core to spare it takes seconds, and the answer would be late.
    threading.Thread(target=lambda: [*map(import_module, WANTED_AFTERWARDS)], daemon=True).start()
    with catch_interrupts() as interrupts, _kept(asked, watcher) as keep:
        look = _watch if asked.watch else _glance
        return look(asked, watcher, keep, interrupts, screen, quiet)


def replayed(asked: InspectRequest) -> "InspectResult":
    """The diagnosis of a recording, as it was made live. Raises BadInput, CannotDo."""
    from poolctl.observe.recording import read_recording

    assert asked.replay is not None
    observation, note = read_recording(asked.replay)
    if note:
        click.echo(f"poolctl: {note}", err=True)
    return _inspection(observation, asked, replayed=str(asked.replay))


def _glance(
    asked: InspectRequest, watcher: "Sampler", keep: "Keep", interrupts: Interrupts, screen: "Screen", quiet: bool
) -> "InspectResult":
    from poolctl.report.progress import sampling_view

    assert asked.duration is not None
    with sampling_view(screen, asked.duration, quiet=quiet) as view:
        is_told = quiet

        def tell(snapshot: "Snapshot") -> None:
            nonlocal is_told
            keep(snapshot)
            observation = watcher.observation
            if not is_told and has_answered(observation) and len(observation.snapshots) <= EARLY_ROUNDS:
                verdict = _certain_already(observation, asked)
                if verdict is not None:
                    view.so_far(verdict)
                    is_told = True

        observation = watcher.observe(
            asked.duration,
            interval=GLANCE if asked.duration <= LONG_GLANCE else None,
            stop=_enough(watcher, interrupts),
            on_snapshot=tell,
            began=None if asked.was_timed else max(BEGAN, time.monotonic() - LOST * asked.duration),
        )
    return _ended(observation, asked, interrupts)


def _watch(
    asked: InspectRequest, watcher: "Sampler", keep: "Keep", interrupts: Interrupts, screen: "Screen", quiet: bool
) -> "InspectResult":
    from poolctl.report.watching import watch_view

    due = 0.0
    with watch_view(screen, quiet=quiet) as view:

        def show(snapshot: "Snapshot") -> None:
            nonlocal due
            keep(snapshot)
            began = time.monotonic()
            if began >= due and has_answered(watcher.observation):
                view.show(_inspection(watcher.observation, asked))
                due = time.monotonic() + (time.monotonic() - began) * SHARE

        observation = watcher.observe(
            asked.duration,
            stop=_enough(watcher, lambda: interrupts() or view.wants_to_end()),
            on_snapshot=show,
            keep=KEPT,
        )
    return _ended(observation, asked, interrupts)


def _enough(watcher: "Sampler", stop: "Callable[[], bool]") -> "Callable[[], bool]":
    """Ends the look when ``stop`` says so, or when nobody is there or may still answer: more knocking is no better
    answer."""

    def is_enough() -> bool:
        if stop():
            return True
        observation = watcher.observation
        return bool(observation.snapshots) and not has_answered(observation) and not watcher.awaits_server

    return is_enough


def _ended(observation: "Observation", asked: InspectRequest, interrupts: Interrupts) -> "InspectResult":
    """Raises CannotDo when nobody answered, KeyboardInterrupt when there was no time for anybody to."""
    interrupts.run_is_over()
    if interrupts.asked and not observation.snapshots:
        raise KeyboardInterrupt
    check_answered(observation, was_named=asked.was_named)
    return _inspection(observation, asked, interrupted=interrupts.asked)


def _certain_already(observation: "Observation", asked: InspectRequest) -> "Verdict | None":
    """A verdict that more looking will not change."""
    from poolctl.report.inspection import inspection_verdict

    inspection = _inspection(observation, asked)
    worst = inspection.diagnosis.findings[0]
    is_sure = worst.severity == "critical" and worst.confidence == "certain"
    return inspection_verdict(inspection) if is_sure else None


def _inspection(
    observation: "Observation", asked: InspectRequest, *, interrupted: bool = False, replayed: str = ""
) -> "InspectResult":
    from poolctl.api.results import InspectResult
    from poolctl.diagnose.live.diagnose import diagnose
    from poolctl.observe.recording import hide_all_literals

    known = observation if asked.show_literals else hide_all_literals(observation)
    duration = None if asked.replay else asked.duration
    return InspectResult(known, diagnose(known), duration, interrupted, replayed)


def planned(inspection: "InspectResult") -> "InspectResult":
    """With the relief plan for it."""
    from poolctl.diagnose.live.relief import plan_relief

    return replace(inspection, relief=plan_relief(inspection.observation, inspection.diagnosis))


@contextmanager
def _kept(asked: InspectRequest, watcher: "Sampler") -> Iterator["Keep"]:
    """A function that writes each snapshot into the file of --record, or does nothing without one.

    A disk that is full costs the recording, not the diagnosis.
    """
    if asked.record is None:
        yield lambda _: None
        return
    from poolctl.observe.recording import Recorder

    is_broken = False

    def keep(snapshot: "Snapshot") -> None:
        nonlocal is_broken
        if not is_broken:
            try:
                recorder.write(snapshot, watcher.observation)
            except CannotDo as error:
                is_broken = True
                click.echo(f"poolctl: {error.message}; looking goes on without it", err=True)

    with Recorder(asked.record, show_literals=asked.show_literals) as recorder:
        yield keep
        with suppress(CannotDo):
            recorder.note(watcher.observation)
