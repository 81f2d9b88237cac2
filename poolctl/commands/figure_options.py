"""Options that give a figure instead of measuring it, and the sweep that a load test wrote.

Decides which figures a person may give, in which unit, and what cannot be. Each option is a field of ``Figures``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from poolctl.commands.options import Duration
from poolctl.errors import BadInput

if TYPE_CHECKING:
    from poolctl.sizing.figures import Figures

Command = TypeVar("Command", bound=Callable[..., Any])

MOST = 1_000_000_000
"""Of anything that is counted; beyond it a number is a typing error."""


class Number(click.ParamType[float]):
    """A finite number, 0 or more, or above 0."""

    name = "number"

    def __init__(self, *, above_zero: bool = False) -> None:
        self._above_zero = above_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        rule = f"{'above 0' if self._above_zero else '0 or more'}, and at most {MOST:,}"
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r}: must be a number, {rule}", param, ctx)
        if not isfinite(number) or number < 0 or number > MOST or (self._above_zero and number == 0):
            self.fail(f"{value!r}: must be a number, {rule}", param, ctx)
        return number


class Time(Duration):
    """A duration that is not zero."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        if seconds == 0:
            self.fail(f"{value!r}: must be above 0", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True)
class _Option:
    field: str
    type: Any
    metavar: str
    help: str

    @property
    def name(self) -> str:
        return "--" + self.field.replace("_", "-")


_SOME, _ANY = click.IntRange(1, MOST), click.IntRange(0, MOST)
_ABOVE = Number(above_zero=True)

_OPTIONS = (
    _Option("arrival_rate", _ABOVE, "RATE", "Acquires a second of one instance, at the peak."),
    _Option("throughput", _ABOVE, "RATE", "Acquires a second of the whole service, instead of --arrival-rate."),
    _Option("hold_time", Time(), "DURATION", "From acquire to release, mean, on a database that is not saturated."),
    _Option("hold_cv", Number(), "X", "Deviation over mean of the holds."),
    _Option("arrival_cv", Number(), "X", "The same of the times between arrivals."),
    _Option("wait_target", Duration(), "DURATION", "At most 1 % of the acquires wait longer.  [default: 50ms]"),
    _Option("workers", _SOME, "N", "Threads of one process that acquire."),
    _Option("connections_per_request", _SOME, "N", "Held at once by one request."),
    _Option("processes", _SOME, "N", "Of one instance, each with a pool of its own."),
    _Option("instances", _SOME, "N", "Pods, containers or machines, as there usually are."),
    _Option("max_instances", _SOME, "N", "The most that an autoscaler makes of them."),
    _Option("terminating", _ANY, "N", "Old instances that still finish during a deploy."),
    _Option("max_connections", _SOME, "N", "Of the server."),
    _Option("superuser_reserved", _ANY, "N", "superuser_reserved_connections."),
    _Option("reserved", _ANY, "N", "reserved_connections (PostgreSQL 16)."),
    _Option("other_connections", _ANY, "N", "Everybody else's, at most."),
    _Option("headroom", _ANY, "N", "Kept free for people and migrations."),
    _Option("role_limit", _SOME, "N", "CONNECTION LIMIT of the service's role."),
    _Option("database_limit", _SOME, "N", "CONNECTION LIMIT of its database."),
    _Option("pooler_limit", _SOME, "N", "Server connections that a pooler in between gives the service."),
    _Option("capacity", _SOME, "N", "Connections that the database can use, where it is known."),
    _Option("cores", _SOME, "N", "Of the database."),
    _Option("cpu_time", Time(), "DURATION", "Of a database core, for one transaction."),
    _Option("connect_time", Time(), "DURATION", "To open a connection, with TLS and authentication."),
    _Option("current_max_open", _SOME, "N", "What each process's pool is set to now."),
    _Option("failover_target", Time(), "DURATION", "No connection may live longer."),
    _Option("request_timeout", Time(), "DURATION", "Of the requests that use a connection."),
    _Option("probe_timeout", Time(), "DURATION", "Of a health probe that uses the pool."),
    _Option("network_idle_limit", Time(), "DURATION", "After which a load balancer or NAT drops an idle connection."),
    _Option("session_idle_limit", Time(), "DURATION", "idle_session_timeout of the server."),
    _Option("credential_lifetime", Time(), "DURATION", "After which a password or token is void."),
    _Option("connection_age_limit", Time(), "DURATION", "After which something on the way cuts every connection."),
)
NAMES = (*(option.field for option in _OPTIONS), "surge", "burstable", "sweep_file")
"""What the callback gets from these options."""

LOAD = ("arrival_rate", "throughput", "capacity", "sweep_file")
"""With one of these there is something to say without a server."""


def figure_options(command: Command) -> Command:
    """Every figure that can be given; ``figures_of`` reads them."""
    surge = click.option("--surge", metavar="N|P%", help="New instances on top during a deploy.  [default: 25%]")
    burstable = click.option("--burstable", is_flag=True, help="The database's processor has credits that run out.")
    file = click.option(
        "--sweep-file",
        type=click.Path(path_type=Path),
        metavar="FILE.csv",
        help="A load test's table: connections,throughput[,latency].",
    )
    for option in reversed(_OPTIONS):
        command = click.option(option.name, option.field, type=option.type, metavar=option.metavar, help=option.help)(
            command
        )
        if option.field == "terminating":
            command = surge(command)
    return file(burstable(command))


def figures_of(options: dict[str, Any]) -> "Figures":
    """What was given, each marked so. Raises BadInput for what contradicts itself, and for a sweep that is none."""
    from poolctl.sizing.figures import Figures, given

    _check(options)
    changes: dict[str, Any] = {
        option.field: given(value) for option in _OPTIONS if (value := options[option.field]) is not None
    }
    return Figures(
        **changes,
        **_surge(options["surge"]),
        is_burstable=options["burstable"],
        sweep=_sweep(options["sweep_file"]) if options["sweep_file"] is not None else (),
    )


def has_figures(options: dict[str, Any]) -> bool:
    """Whether any figure at all was given."""
    return any(options[name] is not None for name in NAMES if name != "burstable")


def _surge(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    from poolctl.sizing.budget import is_share, parse_surge

    try:
        surge = parse_surge(text)
    except BadInput:
        raise BadInput(f"--surge {text}: must be a count or a percentage", hint='for example 2 or "25%"') from None
    return {"surge_share" if is_share(text) else "surge": surge}


def _sweep(path: Path) -> Any:
    from poolctl.sizing.sweep_table import parse_sweep

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise BadInput(f"--sweep-file {path}: cannot be read: {reason}", hint="a CSV file") from None
    return parse_sweep(text, str(path))


def _check(options: dict[str, Any]) -> None:
    def value(name: str) -> Any:
        return options[name]

    if value("arrival_rate") is not None and value("throughput") is not None:
        raise BadInput(
            "--arrival-rate and --throughput say the same", hint="of one instance, or of the whole service: give one"
        )
    instances, most = value("instances"), value("max_instances")
    if instances is not None and most is not None and most < instances:
        raise BadInput(f"--max-instances {most} is below --instances {instances}", hint="leave it out, or raise it")
    slots = value("max_connections")
    kept = (value("superuser_reserved") or 0) + (value("reserved") or 0)
    if slots is not None and kept >= slots:
        raise BadInput(
            f"--superuser-reserved and --reserved, {kept} together, leave nothing of --max-connections {slots}",
            hint="SHOW max_connections, superuser_reserved_connections and reserved_connections say what they are",
        )
    workers, each = value("workers"), value("connections_per_request")
    if workers is not None and each is not None and workers * each > MOST:
        raise BadInput(f"--workers {workers} x --connections-per-request {each}: no process holds so many")
