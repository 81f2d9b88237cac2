"""What the command line of ``recommend`` asks for: what is measured, given, swept and tried, and what contradicts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from poolctl.commands.connection import Targets, named, names_server
from poolctl.commands.figure_options import LOAD, figures_of, has_figures
from poolctl.errors import BadInput

if TYPE_CHECKING:
    from poolctl.sizing.figures import Figures

DURATION = 60.0
"""Seconds of measuring, unless --for says otherwise."""
SWEEP_TIME = 180.0
"""Seconds of a sweep, at most, unless --sweep-for says otherwise."""

_CONNECTION = ("conninfo", "host", "port", "user", "dbname", "pgbouncers", "pgpools", "pool_stats")
_FLEET_ONLY = (
    *("conninfo", "host", "pgbouncers", "pgpools", "pool_stats", "recording", "sweep", "duration", "application"),
    *("pids", "process", "stacks"),
)

Verify = Literal["model", "live", "none", "unasked"]


@dataclass(frozen=True, slots=True)
class SweepLoad:
    """What a sweep runs. ``seconds``: it ends by then, whatever it knows."""

    queries: tuple[str, ...]
    scripts: tuple[Path, ...]
    mix: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """The command line, as far as it is not about output or a fleet file.

    ``named`` None: no server is looked at. ``duration``: of looking at it; None: only at its limits, before a sweep.
    """

    figures: "Figures"
    named: Targets | None
    was_named: bool
    duration: float | None
    application: str | None
    pids: tuple[int, ...]
    process: str | None
    recording: Path | None
    sweep: SweepLoad | None
    verify: Verify
    stacks: tuple[str, ...]
    seed: int

    @property
    def is_measuring(self) -> bool:
        return self.named is not None or self.recording is not None


def asked_of(options: dict[str, Any]) -> RecommendRequest:
    """Raises BadInput for options that contradict each other, and where there is nothing to stand on."""
    connection = {name: options[name] for name in _CONNECTION}
    was_named = any(connection.values())
    _check(options, was_named)
    figures = figures_of(options)
    stacks = tuple(dict.fromkeys(map(_stack, options["stacks"])))
    is_measuring = was_named or _measures_by_itself(options, os.environ)
    if not is_measuring and not _has_something(options):
        raise _nothing()
    duration = options["duration"]
    if duration is None and not options["sweep"]:
        duration = DURATION
    return RecommendRequest(
        figures=figures,
        named=named(connection.pop("conninfo"), **connection) if is_measuring else None,
        was_named=was_named,
        duration=duration,
        application=options["application"],
        pids=options["pids"],
        process=options["process"],
        recording=options["recording"],
        sweep=_load(options) if options["sweep"] else None,
        verify="none" if options["no_verify"] else options["verify"] or "unasked",
        stacks=stacks,
        seed=1 if options["seed"] is None else options["seed"],
    )


def check_fleet(options: dict[str, Any]) -> None:
    """Raise BadInput for what does not go with --fleet. It says everything about the fleet by itself."""
    for name in _FLEET_ONLY:
        if options[name]:
            raise BadInput(f"{_spelled(name)} does not go with --fleet, which reads a file and connects to nothing")
    if has_figures(options):
        raise BadInput("--fleet has its figures in the file", hint="write them there, or leave --fleet out")
    if options["verify"] is not None:
        raise BadInput("--verify does not go with --fleet: what its services do is not known")


def _spelled(name: str) -> str:
    words = {"conninfo": "CONNINFO", "host": "-h", "pgbouncers": "--pgbouncer", "pgpools": "--pgpool"}
    words |= {"pids": "--pid", "duration": "--for", "stacks": "--for-stack", "pool_stats": "--pool-stats"}
    return words.get(name, f"--{name}")


def _check(options: dict[str, Any], was_named: bool) -> None:
    if options["check"]:
        raise BadInput("--check goes with --fleet FILE", hint="poolctl recommend --fleet fleet.toml --check")
    if options["recording"] is not None and was_named:
        raise BadInput("--recording reads what inspect --record kept, and looks at no server", hint="give one of them")
    if options["recording"] is not None and options["duration"] is not None:
        raise BadInput("--for does not go with --recording, which is as long as it is")
    loads = {"queries": "--query", "scripts": "--script", "mix": "--mix", "sweep_for": "--sweep-for"}
    for name, spelled in loads.items():
        if options[name] and not options["sweep"]:
            raise BadInput(f"{spelled} goes with --sweep", hint="it says what the sweep runs")
    if options["sweep"] and options["sweep_file"] is not None:
        raise BadInput("--sweep and --sweep-file: give one", hint="the file is a sweep that somebody else made")
    if options["verify"] is not None and options["no_verify"]:
        raise BadInput("--verify and --no-verify: give one")
    if options["sweep"] and options["mix"] and (options["queries"] or options["scripts"]):
        raise BadInput("--mix and statements of your own: give one of the two")


def _measures_by_itself(options: dict[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether the server of libpq's environment is meant: nothing else says what the load or the capacity is."""
    has_source = options["recording"] is not None or options["sweep"]
    return not has_source and all(options[name] is None for name in LOAD) and names_server(environ)


def _has_something(options: dict[str, Any]) -> bool:
    return options["recording"] is not None or options["sweep"] or has_figures(options)


def _nothing() -> BadInput:
    return BadInput(
        "nothing to size a pool from: no server, no recording and no figures",
        hint='name a server to measure: poolctl recommend "host=... dbname=...", or give figures: '
        "--arrival-rate 100 --hold-time 8ms --instances 8",
    )


def _load(options: dict[str, Any]) -> SweepLoad:
    seconds = SWEEP_TIME if options["sweep_for"] is None else options["sweep_for"]
    mix = options["mix"] or (None if options["queries"] or options["scripts"] else "mixed")
    for path in options["scripts"]:
        if not path.is_file():
            raise BadInput(f"--script {path}: there is no such file", hint="a script in pgbench's language")
    return SweepLoad(options["queries"], options["scripts"], mix, seconds)


def _stack(name: str) -> str:
    from poolctl.stacks import find_stack

    return find_stack(name).name
