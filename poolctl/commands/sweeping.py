"""Sweeps for ``recommend``: the user's own statements, or a built-in load, at more and more connections.

Decides where it runs: on the server that was named, else on a throw-away one, which knows no tables of the user's.
"""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from poolctl.commands.interrupts import catch_interrupts
from poolctl.commands.recommendation import RecommendRequest, SweepLoad
from poolctl.errors import BadInput, CannotDo

if TYPE_CHECKING:
    from poolctl.engines.pgbench import BenchWindow, Script
    from poolctl.engines.throughput import Sweep, SweepTarget
    from poolctl.sizing.sweep_table import SweepPoint


@dataclass(frozen=True, slots=True)
class Swept:
    """``notes``: where it ran, and what disturbed it; a sentence each."""

    points: tuple["SweepPoint", ...]
    notes: tuple[str, ...]
    interrupted: bool = False


def swept(asked: RecommendRequest, *, color: str, quiet: bool) -> Swept:
    """Throughput at each number of connections that was tried. Raises PoolctlError."""
    from poolctl.engines.throughput import check_sweep_target, run_sweep, start_sweep_server
    from poolctl.sizing.knee import choose_next_round
    from poolctl.sizing.sweep_table import SweepPoint

    load = asked.sweep
    assert load is not None
    scripts = scripts_of(load)
    conninfo = asked.named.conninfo if asked.named is not None else None
    random = Random(asked.seed)
    ground: AbstractContextManager[SweepTarget]
    ground = start_sweep_server() if conninfo is None else nullcontext(check_sweep_target(conninfo))
    tell = _teller(color, quiet)
    with catch_interrupts() as interrupts, ground as place:
        try:
            found = run_sweep(
                place,
                scripts,
                lambda measured: choose_next_round(measured, place.limit, random),
                seed=asked.seed,
                budget=load.seconds,
                stop=interrupts,
                on_window=tell,
            )
        except BadInput as error:
            raise _explained(error, has_tables=conninfo is not None or load.mix is not None) from None
        interrupts.run_is_over()
    if len({window.connections for window in found.windows}) < 2:
        if interrupts.asked:
            raise KeyboardInterrupt
        raise CannotDo(
            f"the sweep ended after {found.seconds:.0f} s with {len(found.windows)} windows that count; other "
            f"processes disturbed {found.disturbed}",
            hint="give it more time with --sweep-for, or run it where less else runs",
        )
    points = tuple(SweepPoint(*row) for row in found.table)
    return Swept(points, tuple(_notes(found, place, load, conninfo)), found.interrupted)


def scripts_of(load: SweepLoad) -> "list[Script]":
    """What the sweep runs, all alike often. Raises BadInput."""
    from poolctl.engines.pgbench import Script, get_mix

    if load.mix is not None:
        return list(get_mix(load.mix))
    scripts = []
    for number, query in enumerate(load.queries, 1):
        text = query.strip().rstrip(";")
        if not text:
            raise BadInput("--query '': is empty", hint='--query "SELECT ..."')
        scripts.append(Script(f"query {number}", text + ";\n"))
    for path in load.scripts:
        try:
            scripts.append(Script(path.name, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise BadInput(f"--script {path}: cannot be read: {reason}") from None
    return scripts


def _explained(error: BadInput, *, has_tables: bool) -> BadInput:
    if has_tables or "does not exist" not in error.message:
        return error
    hint = "the throw-away server has no tables of yours: name a server that has (CONNINFO), such as a copy of it"
    return BadInput(error.message, hint=hint)


def _teller(color: str, quiet: bool) -> "Callable[[BenchWindow], None]":
    """A line on standard error for each window."""
    if quiet:
        return lambda window: None
    from poolctl.report.screen import open_screen
    from poolctl.units import format_count, format_duration

    screen = open_screen(sys.stderr, color)  # type: ignore[arg-type]
    began = time.monotonic()

    def tell(window: "BenchWindow") -> None:
        passed = format_duration(round(time.monotonic() - began))
        rate = format_count(round(window.throughput, 1))
        screen.print(f"sweep: {format_count(window.connections)} connections: {rate}/s (after {passed})")

    return tell


def _notes(found: "Sweep", place: "SweepTarget", load: SweepLoad, conninfo: str | None) -> list[str]:
    from poolctl.units import format_duration

    what = f"the built-in load {load.mix}" if load.mix is not None else "your own statements"
    counted = f"{len(found.windows)} windows at {len({window.connections for window in found.windows})} sizes"
    notes = [f"Swept with {what} in {format_duration(round(found.seconds))}: {counted}"]
    if conninfo is None:
        notes.append(
            "On a throw-away PostgreSQL on this machine: what it can use is what a server with these processors and "
            "this storage can, not what yours can"
        )
    else:
        notes.append(f"On the server that was named, with at most {found.limit} connections ({place.arithmetic})")
    if found.out_of_time:
        notes.append("The time was over before the sweep was sure; --sweep-for gives it more")
    if found.is_noisy:
        notes.append("Other processes kept this machine busy all along: its windows say less than they should")
    elif found.disturbed:
        notes.append(f"{found.disturbed} windows were left out, for other processes used this machine meanwhile")
    return notes
