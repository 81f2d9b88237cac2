"""Options that several commands share, and option groups in ``--help``.

Decides how an option is spelled, in which group it stands, and what the exit code is. Engines, ``api`` and ``report``
are imported by the commands' callbacks: ``--help`` does not wait for them.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolctl.errors import BadInput
from poolctl.report.files import OUTPUT_HELP
from poolctl.units import parse_duration

if TYPE_CHECKING:
    from poolctl.diagnose.finding import Finding
    from poolctl.report.build import Result
    from poolctl.report.files import ReportKind

Decorator = Callable[[Any], Any]

FOUND, FAILED, INTERRUPTED = 1, 3, 130

CONNECTION, OUTPUT = "Connection", "Output"

WIDEST_NAME = 33
"""Columns for an option in --help, so that each option of poolctl is on a line with its text."""

_LETTERS = {"host": "-h", "port": "-p", "user": "-U", "dbname": "-d"}


TAKES_CONNINFO = frozenset({"conninfo", "dbname", "pgbouncers", "pgpools", "pool_stats", "target"})
"""Parameters that may hold a connection string or a URL, and with it a password."""

_CONNINFO = re.compile(
    r"\s*(?:[a-z][\w+.-]*:/{1,3}\S*@|postgres(?:ql)?[\w+]*:/"
    r"|(?:host(?:addr)?|port|dbname|user|password|passfile|service|ssl\w+|options|application_name)\s*=)",
    re.IGNORECASE,
)


class GroupedOption(click.Option):
    """An option that ``--help`` shows under the heading ``group``."""

    def __init__(self, *arguments: Any, group: str = OUTPUT, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.group = group

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Leave out the range of a number: the text says what matters, and an error names the range."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class GroupedCommand(click.Command):
    """A command whose ``--help`` shows options by group, in the order in which the groups first appear."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, unless an option that takes no connection string has got one. Raises BadInput."""
        for parameter in self.get_params(ctx):
            values = ctx.params.get(parameter.name or "")
            if parameter.name in TAKES_CONNINFO or parameter.type is click.UNPROCESSED:
                continue
            for value in values if isinstance(values, tuple) else (values,):
                refuse_conninfo(ctx, parameter, value)
        return super().invoke(ctx)

    def option_groups(self, context: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Return for each group its rows: how an option is written, and what it does."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            row = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if row is not None:
                # Only click's own --help has no group; it is about output, too.
                groups.setdefault(getattr(parameter, "group", OUTPUT), []).append(row)
        return groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group."""
        for group, rows in self.option_groups(ctx).items():
            with formatter.section(group):
                formatter.write_dl(rows, col_max=WIDEST_NAME)


def refuse_conninfo(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Raise BadInput if ``value`` is a connection string, which ``parameter`` does not take."""
    if isinstance(value, str | Path) and _is_misplaced(parameter.name, value):
        name = parameter.opts[0] if isinstance(parameter, click.Option) else (parameter.name or "").upper()
        # Without the value: it may hold a password.
        raise BadInput(f"{name} takes no connection string", hint=_find_place_of_conninfo(context.command))


def _is_misplaced(name: str | None, value: str | Path) -> bool:
    """Return True if ``value`` is a connection string, or part of one, where none belongs."""
    text = str(value)
    if name in ("host", "user") and ("=" in text or "://" in text):
        return True
    if isinstance(value, Path):
        # Not of any text: the name of an application may look like user:password@host.
        from poolctl.safe_text import hide_typed

        if hide_typed(text, [text]) != text:
            return True
    return _CONNINFO.match(text) is not None


def _find_place_of_conninfo(command: click.Command) -> str:
    names = {parameter.name for parameter in command.params}
    if "target" in names:
        return "--target CONNINFO names a server of yours"
    return "it is the argument CONNINFO, in quotes" if "conninfo" in names else ""


class Port(click.IntRange):
    """A port number. Its error does not repeat the value: to other programs, -p is the password."""

    def __init__(self) -> None:
        super().__init__(1, 65535)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail("must be a number from 1 to 65535", param, ctx)


class Duration(click.ParamType[float]):
    """A duration with a unit, as float seconds."""

    name = "duration"

    def __init__(self, *, above_zero: bool = False) -> None:
        self._above_zero = above_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        if self._above_zero and seconds == 0:
            self.fail(f"{value!r}: must be above 0", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """A number of bytes with a unit (kB, MB, GB, TB), as an integer."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", str(value).strip(), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r}: a size looks like 500MB or 2GB", param, ctx)
        size = int(float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " "))
        if size < 1_000_000:
            self.fail(f"{value!r}: must be at least 1MB", param, ctx)
        return size


class Timestamp(click.ParamType[float]):
    """A moment of a log: seconds since the epoch, or since midnight for a time of day alone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from poolctl.observe.evidence.activity_paste import parse_moment

        moment = parse_moment(str(value))
        if moment is None:
            self.fail(f'{value!r}: write "11:40", "11:40:30" or "2026-10-13 11:40"', param, ctx)
        return moment


def make_option(group: str) -> Callable[..., Decorator]:
    """Return ``click.option`` for options of ``group``."""

    def option(*names: str, **values: Any) -> Decorator:
        return click.option(*names, cls=GroupedOption, group=group, **values)

    return option


def add_options(*options: Decorator) -> Decorator:
    """Return a decorator that adds ``options`` in the order in which they are given."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def connection_options(*extra: Decorator) -> Decorator:
    """Return a decorator for CONNINFO, psql's letters, and ``extra`` in the same group. There is no password."""
    option = make_option(CONNECTION)
    return add_options(
        click.argument("conninfo", required=False),
        option("-h", "--host", metavar="HOST", help="Host, or folder of the Unix socket."),
        option("-p", "--port", metavar="PORT", type=Port(), help="Port."),
        option("-U", "--username", "user", metavar="NAME", help="Role to connect as."),
        option("-d", "--dbname", metavar="NAME", help="Database, or a connection string."),
        *extra,
    )


def source_options(group: str) -> Decorator:
    """Return a decorator for poolers and pool figures."""
    option = make_option(group)
    return add_options(
        option(
            "--pgbouncer",
            "pgbouncers",
            multiple=True,
            metavar="CONNINFO",
            help="Also sample this PgBouncer, through its admin console; may be repeated.",
        ),
        option(
            "--pgpool",
            "pgpools",
            multiple=True,
            metavar="CONNINFO",
            help="Also sample this Pgpool-II; may be repeated.",
        ),
        option(
            "--pool-stats",
            multiple=True,
            metavar="URL|FILE",
            help="Also read an application's own pool figures (Prometheus text); may be repeated. With several "
            "applications: NAME=URL, NAME being its application_name.",
        ),
        option(
            "--pool-stats-map",
            multiple=True,
            metavar="MAP",
            help="Names of your own in pool figures: in_use=pool_busy,max_open=pool_size.",
        ),
    )


def history_options(group: str) -> Decorator:
    """Return a decorator for the history of a Prometheus. --from and --to are the commands' own."""
    option = make_option(group)
    return add_options(
        option(
            "--prometheus", metavar="URL", help="Read pools, poolers and servers from the history of this Prometheus."
        ),
        option("--step", type=Duration(above_zero=True), metavar="DURATION", help="Between samples of the history."),
        option("--match", default="", metavar="SELECTOR", help='Only these series of the history: job="shop".'),
    )


def output_options(command: str) -> Decorator:
    """Return a decorator for --json, --output, --color, --quiet and --fail-on of the command of that name."""
    option = make_option(OUTPUT)
    return add_options(
        option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output."),
        option(
            "--output",
            "outputs",
            type=click.Path(dir_okay=False, path_type=Path),
            multiple=True,
            metavar="FILE",
            help=f"{OUTPUT_HELP[command]} May be repeated.",
        ),
        option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="Color; auto respects NO_COLOR.",
        ),
        option("--quiet", is_flag=True, help="Show no progress on standard error."),
        option(
            "--fail-on",
            type=click.Choice(["warning", "critical"]),
            help="Exit with 1 if a finding is at or above this severity.",
        ),
    )


def print_result(result: "Result", *, as_json: bool, color: str, repeat: str = "") -> None:
    """Print the report of a result, or its document, on standard output. ``repeat``: the command that does it again."""
    if as_json:
        click.echo(result.to_json())
        return
    from poolctl.report.build import build_report
    from poolctl.report.screen import open_screen
    from poolctl.report.terminal import print_report

    print_report(open_screen(sys.stdout, color), build_report(result, repeat=repeat))  # type: ignore[arg-type]


def check_outputs(outputs: tuple[Path, ...], kind: "ReportKind") -> None:
    """Refuse files of --output whose format a report of that kind does not have. Raises BadInput."""
    from poolctl.report.files import check_output

    for path in outputs:
        check_output(path, kind)


def write_outputs(outputs: tuple[Path, ...], result: "Result", *, repeat: str = "") -> None:
    """Write every file of --output. Raises CannotDo."""
    from poolctl.report.files import write_report

    for path in outputs:
        write_report(path, result, repeat=repeat)


def take_conninfo(options: dict[str, Any]) -> str | None:
    """Take CONNINFO and psql's letters out of ``options``, and join them. None: nothing was given.

    Raises BadInput, without repeating a connection string: it may hold a password.
    """
    conninfo = options.pop("conninfo")
    letters = {name: options.pop(name) for name in _LETTERS}
    return join_conninfo(conninfo, **letters)


def join_conninfo(
    conninfo: str | None,
    *,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    dbname: str | None = None,
) -> str | None:
    """Join one connection string. As in psql a bare word is a database, and -d takes a connection string, too.

    None: nothing was given. Raises BadInput for what contradicts itself.
    """
    given = {"host": host, "port": port, "user": user, "dbname": dbname}
    options = {name: str(value) for name, value in given.items() if value is not None}
    if conninfo is None and not options:
        return None
    base = conninfo or ""
    if base and not _is_conninfo(base):
        if "dbname" in options:
            raise BadInput(f"-d {options['dbname']!r} and {base!r} both name a database", hint="leave one out")
        options = options | {"dbname": base}
        base = ""
    if _is_conninfo(options.get("dbname", "")):
        if base:
            raise BadInput("two connection strings: one as the argument, one with -d", hint="leave one out")
        base = options.pop("dbname")
    if "://" in base and options:
        letters = ", ".join(_LETTERS[name] for name in options)
        raise BadInput(f"{letters} cannot be added to a URI", hint="put it into the URI, or write key=value instead")
    return " ".join(filter(None, [base, *(f"{name}={_quote(value)}" for name, value in options.items())]))


def choose_exit_code(findings: "Iterable[Finding]", fail_on: str | None, *, interrupted: bool) -> int:
    """Return 130 after an interruption, 1 if a finding reaches ``fail_on``, else 0."""
    from poolctl.diagnose.finding import reaches

    if interrupted:
        return INTERRUPTED
    return FOUND if fail_on and reaches(tuple(findings), fail_on) else 0  # type: ignore[arg-type]


def _is_conninfo(text: str) -> bool:
    return "=" in text or "://" in text


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
