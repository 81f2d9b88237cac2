"""Sweep of a server for a recommendation: throughput at more and more connections.

Decides where it runs: on the server that was named, else on a throw-away one, which has no tables of the user's.
Leaves the next numbers of connections to ``sizing.knee``, and the load to pgbench.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from poolctl.api.progress import Interruption, Progress
from poolctl.api.requests import RecommendRequest, SweepLoad
from poolctl.errors import BadInput, CannotDo, Interrupted
from poolctl.units import format_duration

if TYPE_CHECKING:
    from poolctl.engines.pgbench import Script
    from poolctl.engines.throughput import Sweep, SweepTarget
    from poolctl.sizing.sweep_table import SweepPoint


@dataclass(frozen=True, slots=True)
class SweepMeasurement:
    """``notes``: where the sweep ran, and what disturbed it; a sentence each."""

    points: tuple["SweepPoint", ...]
    notes: tuple[str, ...]
    interrupted: bool = False


def run_sweep(request: RecommendRequest, progress: Progress, stop: Callable[[], bool]) -> SweepMeasurement:
    """Measure the throughput at several numbers of connections.

    Raises BadInput, CannotDo and its kinds, and Interrupted if ``stop`` came before two sizes were measured.
    """
    from poolctl.engines.throughput import check_sweep_target, start_sweep_server
    from poolctl.engines.throughput import run_sweep as sweep_target
    from poolctl.sizing.knee import choose_next_round
    from poolctl.sizing.sweep_table import SweepPoint

    load = request.sweep
    assert load is not None
    scripts = read_scripts(load)
    conninfo = request.targets.conninfo if request.targets is not None else None
    random = Random(request.seed)
    interruption = Interruption(stop, progress)
    began = time.monotonic()
    place: AbstractContextManager[SweepTarget]
    place = start_sweep_server() if conninfo is None else nullcontext(check_sweep_target(conninfo))
    with place as target:
        try:
            found = sweep_target(
                target,
                scripts,
                lambda measured: choose_next_round(measured, target.limit, random),
                seed=request.seed,
                budget=load.seconds,
                stop=interruption,
                on_window=lambda window: progress.show_window(window, time.monotonic() - began),
            )
        except BadInput as error:
            raise _explain_missing_table(
                error, has_tables=conninfo is not None or load.chosen_mix is not None
            ) from None
        interruption.end()
    if len({window.connections for window in found.windows}) < 2:
        if interruption.was_requested:
            raise Interrupted("interrupted before the sweep had measured two sizes")
        if found.breach:
            raise CannotDo(f"the sweep ended after {found.seconds:.0f} s: {found.breach}", hint="sweep a copy of it")
        raise CannotDo(
            f"the sweep ended after {found.seconds:.0f} s with {len(found.windows)} windows that count; other "
            f"processes disturbed {found.disturbed}",
            hint="give it more time with --sweep-for, or run it on a machine with less other work",
        )
    points = tuple(SweepPoint(*row) for row in found.table)
    return SweepMeasurement(points, tuple(_list_notes(found, target, load, conninfo)), found.interrupted)


def read_scripts(load: SweepLoad) -> "list[Script]":
    """Read what the sweep runs, each script equally often. Raises BadInput."""
    from poolctl.engines.pgbench import Script, get_mix

    if load.chosen_mix is not None:
        return list(get_mix(load.chosen_mix))
    scripts = []
    for number, query in enumerate(load.queries, 1):
        text = query.strip().rstrip(";")
        if not text:
            raise BadInput("--query '': is empty", hint='give a statement: --query "SELECT ..."')
        scripts.append(Script(f"query {number}", text + ";\n"))
    for path in load.scripts:
        try:
            scripts.append(Script(path.name, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
            raise BadInput(f"--script {path}: cannot be read: {reason}", hint="give a script for pgbench") from None
    return scripts


def _explain_missing_table(error: BadInput, *, has_tables: bool) -> BadInput:
    if has_tables or "does not exist" not in error.message:
        return error
    hint = "the throw-away server has no tables of yours: name a server that has them (CONNINFO), such as a copy"
    return BadInput(error.message, hint=hint)


def _list_notes(found: "Sweep", target: "SweepTarget", load: SweepLoad, conninfo: str | None) -> list[str]:
    what = f"the built-in load {load.chosen_mix}" if load.chosen_mix is not None else "your own statements"
    counted = f"{len(found.windows)} windows at {len({window.connections for window in found.windows})} sizes"
    notes = [f"Swept with {what} in {format_duration(round(found.seconds))}: {counted}"]
    if conninfo is None:
        notes.append(
            "On a throw-away PostgreSQL on this machine: the result holds for a server with these processors and this "
            "storage, not for yours"
        )
    else:
        notes.append(f"On the named server, with at most {found.limit} connections ({target.arithmetic})")
    if found.breach:
        notes.append(f"The sweep ended early: {found.breach}")
    if found.out_of_time:
        notes.append("The time was over before the result was certain; --sweep-for gives the sweep more")
    if found.is_noisy:
        notes.append("Other processes kept this machine busy all the time: the windows say less than they should")
    elif found.disturbed:
        notes.append(f"{found.disturbed} windows do not count, because other processes used this machine meanwhile")
    return notes
