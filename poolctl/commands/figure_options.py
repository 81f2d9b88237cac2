"""Options that give a figure by hand instead of measuring it, in groups.

Decides how each figure is written as an option. Leaves names, units and bounds to ``api.figures``, of which
``tests/test_cli_help.py`` holds this list to every name.
"""

from math import isfinite
from pathlib import Path
from typing import Any

import click

from poolctl.commands.options import Decorator, Duration, add_options, make_option
from poolctl.units import MOST


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


_COUNT, _COUNT_OR_ZERO = click.IntRange(1, MOST), click.IntRange(0, MOST)
_NUMBER, _NUMBER_OR_ZERO = Number(above_zero=True), Number()
_TIME, _TIME_OR_ZERO = Duration(above_zero=True), Duration()

_METAVARS: dict[Any, str] = {_NUMBER: "RATE", _NUMBER_OR_ZERO: "X", _TIME: "DURATION", _TIME_OR_ZERO: "DURATION"}

FIGURES: dict[str, tuple[tuple[str, Any, str], ...]] = {
    "Figures of the load": (
        ("arrival_rate", _NUMBER, "Acquires a second of one instance, at the peak."),
        ("throughput", _NUMBER, "Acquires a second of the whole service, instead of --arrival-rate."),
        ("hold_time", _TIME, "Mean time from acquire to release, on a database that is not saturated."),
        ("hold_cv", _NUMBER_OR_ZERO, "Standard deviation of hold times, divided by their mean."),
        ("arrival_cv", _NUMBER_OR_ZERO, "The same for the times between arrivals."),
        ("wait_target", _TIME_OR_ZERO, "At most 1 % of the acquires wait longer.  [default: 50ms]"),
        ("workers", _COUNT, "Threads of one process that acquire."),
        ("connections_per_request", _COUNT, "Connections that one request holds at once."),
    ),
    "Figures of the fleet": (
        ("processes", _COUNT, "Processes of one instance, each with a pool of its own."),
        ("instances", _COUNT, "Usual number of instances: pods, containers or machines."),
        ("max_instances", _COUNT, "Largest number of instances that an autoscaler makes."),
        ("terminating", _COUNT_OR_ZERO, "Old instances that still finish during a deploy."),
        ("current_max_open", _COUNT, "What each process's pool is set to now."),
    ),
    "Figures of the database": (
        ("max_connections", _COUNT, "max_connections of the server."),
        ("superuser_reserved", _COUNT_OR_ZERO, "superuser_reserved_connections of the server."),
        ("reserved", _COUNT_OR_ZERO, "reserved_connections of the server (PostgreSQL 16)."),
        ("other_connections", _COUNT_OR_ZERO, "Connections of all other clients, at most."),
        ("headroom", _COUNT_OR_ZERO, "Slots kept free for people and migrations."),
        ("role_limit", _COUNT, "CONNECTION LIMIT of the service's role."),
        ("database_limit", _COUNT, "CONNECTION LIMIT of its database."),
        ("pooler_limit", _COUNT, "Server connections that a pooler in between gives the service."),
        ("capacity", _COUNT, "Connections that the database can use, if it is known."),
        ("cores", _COUNT, "Processor cores of the database."),
        ("cpu_time", _TIME, "Time of a database core for one transaction."),
        ("connect_time", _TIME, "Time to open a connection, with TLS and authentication."),
    ),
    "Figures for lifetimes": (
        ("failover_target", _TIME, "No connection may live longer."),
        ("request_timeout", _TIME, "Timeout of the requests that use a connection."),
        ("probe_timeout", _TIME, "Timeout of a health probe that uses the pool."),
        ("network_idle_limit", _TIME, "Time after which a load balancer or NAT drops an idle connection."),
        ("session_idle_limit", _TIME, "idle_session_timeout of the server."),
        ("credential_lifetime", _TIME, "Time after which a password or token is void."),
        ("connection_age_limit", _TIME, "Time after which something on the way cuts every connection."),
    ),
}
"""By group: the name in ``api.figures.RULES``, its type, and its help."""

NAMES = (*(name for rows in FIGURES.values() for name, _, _ in rows), "surge", "burstable", "sweep_file")


def figure_options(command: Any) -> Any:
    """Add an option for every figure; ``take_figures`` reads them."""
    options = []
    for group, rows in FIGURES.items():
        option = make_option(group)
        for name, kind, text in rows:
            spelled = "--" + name.replace("_", "-")
            options.append(option(spelled, name, type=kind, metavar=_METAVARS.get(kind, "N"), help=text))
            if name == "max_instances":
                options.append(
                    option("--surge", metavar="N|P%", help="New instances on top during a deploy.  [default: 25%]")
                )
            if name == "cores":
                options.append(
                    option("--burstable", is_flag=True, help="The database's processor has credits that run out.")
                )
    return add_options(*options)(command)


def sweep_file_option(group: str) -> Decorator:
    """Return the option that reads a sweep instead of making one."""
    return make_option(group)(
        "--sweep-file",
        type=click.Path(path_type=Path),
        metavar="FILE.csv",
        help="Read the table of a load test instead: connections,throughput[,latency].",
    )


def take_figures(options: dict[str, Any]) -> dict[str, Any]:
    """Take the figures out of ``options``; a figure that was not given is None."""
    return {name: options.pop(name) for name in NAMES}
