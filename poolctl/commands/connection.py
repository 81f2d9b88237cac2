"""Options that say which live systems to look at, spelled the same in every command: psql's letters, no password.

Decides what counts as naming a server. Everything else, passwords included, is left to libpq: its environment,
service files and .pgpass.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from poolctl.errors import BadInput

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = {"host": "-h", "port": "-p", "user": "-U", "dbname": "-d"}
_NAMING = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE")
"""Variables of libpq's that say which server is meant."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What was named. ``conninfo`` None: no PostgreSQL is looked at; "": the one that libpq finds by itself."""

    conninfo: str | None
    pgbouncers: tuple[str, ...] = ()
    pgpools: tuple[str, ...] = ()
    pool_stats: tuple[str, ...] = ()


def connection_options(command: Command) -> Command:
    """CONNINFO, -h, -p, -U, -d, --pgbouncer, --pgpool and --pool-stats; ``named`` reads them."""
    for option in reversed(
        (
            click.argument("conninfo", required=False),
            click.option("-h", "--host", metavar="HOST", help="Host, or folder of the Unix socket."),
            click.option("-p", "--port", metavar="PORT", type=click.IntRange(1, 65535), help="Port."),
            click.option("-U", "--username", "user", metavar="NAME", help="Role to connect as."),
            click.option("-d", "--dbname", metavar="NAME", help="Database, or a connection string."),
            click.option(
                "--pgbouncer",
                "pgbouncers",
                multiple=True,
                metavar="CONNINFO",
                help="Also look at this PgBouncer, through its admin console; may be repeated.",
            ),
            click.option(
                "--pgpool",
                "pgpools",
                multiple=True,
                metavar="CONNINFO",
                help="Also look at this Pgpool-II; may be repeated.",
            ),
            click.option(
                "--pool-stats",
                multiple=True,
                metavar="URL|FILE",
                help="Also read an application's own pool figures (Prometheus text); may be repeated. With several "
                "applications: NAME=URL, NAME being its application_name.",
            ),
        )
    ):
        command = option(command)
    return command


def named(
    conninfo: str | None,
    *,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    dbname: str | None = None,
    pgbouncers: tuple[str, ...] = (),
    pgpools: tuple[str, ...] = (),
    pool_stats: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
) -> Targets:
    """What the options name. With nothing but poolers named, PostgreSQL is not looked at.

    Raises BadInput, without repeating a connection string: it may hold a password.
    """
    known = os.environ if environ is None else environ
    given = {"host": host, "port": port, "user": user, "dbname": dbname}
    options = {name: str(value) for name, value in given.items() if value is not None}
    if conninfo is None and not options and (pgbouncers or pgpools) and not names_server(known):
        return Targets(None, pgbouncers, pgpools, pool_stats)
    return Targets(_joined(conninfo, options), pgbouncers, pgpools, pool_stats)


def names_server(environ: Mapping[str, str]) -> bool:
    """Whether libpq's environment says which server is meant."""
    return any(environ.get(name) for name in _NAMING)


def _joined(conninfo: str | None, options: dict[str, str]) -> str:
    """One connection string. As in psql, a bare word is a database, and -d takes a connection string, too."""
    base = conninfo or ""
    if base and not _is_conninfo(base):
        if "dbname" in options:
            raise BadInput(f"-d {options['dbname']!r} and {base!r} both name a database", hint="leave one out")
        options = options | {"dbname": base}
        base = ""
    if _is_conninfo(options.get("dbname", "")):
        if base:
            raise BadInput("two connection strings: one as the argument, one with -d", hint="leave one out")
        base = options["dbname"]
        options = {name: value for name, value in options.items() if name != "dbname"}
    if "://" in base and options:
        letters = ", ".join(_OPTIONS[name] for name in options)
        raise BadInput(f"{letters} cannot be added to a URI", hint="put it into the URI, or write key=value instead")
    return " ".join(filter(None, [base, *(f"{name}={_quoted(value)}" for name, value in options.items())]))


def _is_conninfo(text: str) -> bool:
    return "=" in text or "://" in text


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
