"""What the command line of ``inspect`` asks for, and what does not go together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolctl.commands.connection import Targets, named
from poolctl.commands.relief import check_terminal
from poolctl.errors import BadInput

DURATION = 3.0
"""Seconds of looking, unless --for says otherwise."""

_CONNECTION = ("conninfo", "host", "port", "user", "dbname", "pgbouncers", "pgpools", "pool_stats")
_LIVE = {
    "duration": "--for",
    "watch": "--watch",
    "record": "--record",
    "execute": "--execute",
    "emergency": "--emergency",
}
"""Options that make no sense without live systems."""


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """The command line, as far as it is not about output. ``duration`` None: until the user has had enough."""

    named: Targets
    was_named: bool
    """Whether anything on the command line said which server."""
    duration: float | None
    was_timed: bool
    """Whether the user said how long to look. Otherwise the time counts from when the command began."""
    watch: bool
    record: Path | None
    replay: Path | None
    show_literals: bool
    relief: bool
    execute: bool
    emergency: bool


def asked_of(options: dict[str, Any]) -> InspectRequest:
    """Raises BadInput for options that contradict each other."""
    connection = {name: options[name] for name in _CONNECTION}
    if options["replay"] is not None:
        _check_replay(options, connection)
    if options["execute"] and not options["relief"]:
        raise BadInput(
            "--execute goes with --relief", hint="--relief alone shows what would be ended, and ends nothing"
        )
    if options["execute"]:
        check_terminal()
    duration = options["duration"]
    return InspectRequest(
        named=named(connection.pop("conninfo"), **connection),
        was_named=any(options[name] for name in _CONNECTION),
        duration=duration if duration is not None else None if options["watch"] else DURATION,
        was_timed=duration is not None,
        watch=options["watch"],
        record=options["record"],
        replay=options["replay"],
        show_literals=options["show_literals"],
        relief=options["relief"],
        execute=options["execute"],
        emergency=options["emergency"],
    )


def _check_replay(options: dict[str, Any], connection: dict[str, Any]) -> None:
    if any(connection.values()):
        raise BadInput("--replay reads a recording, and connects to nothing", hint="leave the server out")
    for name, spelled in _LIVE.items():
        if options[name]:
            raise BadInput(f"{spelled} does not go with --replay, which connects to nothing")
