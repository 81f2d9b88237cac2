"""``poolctl inspect``: what is wrong with live systems, which clients hold the slots, and what to do."""

import sys
import threading
from contextlib import closing, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolctl import BEGAN
from poolctl.commands.interrupts import catch_interrupts
from poolctl.commands.options import (
    Duration,
    GroupedCommand,
    Size,
    Timestamp,
    check_outputs,
    choose_exit_code,
    connection_options,
    history_options,
    make_option,
    output_options,
    print_result,
    refuse_conninfo,
    source_options,
    take_conninfo,
    write_outputs,
)
from poolctl.commands.streams import print_message
from poolctl.errors import BadInput

if TYPE_CHECKING:
    from poolctl.api.results import InspectResult

EPILOG = """\b
Examples:
  poolctl inspect
      the server that psql would connect to
  poolctl inspect "host=db1 dbname=shop user=ops"
      any libpq connection string or URI; passwords from ~/.pgpass
  poolctl inspect -h db1 --pgbouncer "host=pgb1 port=6432 user=stats"
      the server, and what the pooler in front of it reports
  poolctl inspect -h db1 --pool-stats http://10.0.0.7:9090/metrics
      with what an application reports about its own pool
  poolctl inspect -h db1 --watch
      a live view; q ends it with the report
  poolctl inspect -h db1 --watch --record DIR --keep 24h --on-finding warning
      as a service: the last day, and a line of JSON for each finding
  poolctl inspect -h db1 --for 1m --record night.jsonl --output report.md
      keep the evidence, and a report for the incident channel
  poolctl inspect --replay night.jsonl
      the same diagnosis later, without a server
  psql -c "select * from pg_stat_activity" | poolctl inspect --evidence -
      a paste, without a server
  poolctl inspect --evidence postgresql.log --from 11:40
      what a log says
  poolctl inspect --prometheus http://prometheus:9090 --from 11:40
      what a Prometheus kept of pools, poolers and servers
  poolctl inspect -h db1 --relief
      which backends to end, in which order, what each frees; ends none
  poolctl inspect -h db1 --quiet --fail-on warning
      in cron or CI: exit code 1 when something is wrong
"""

REPORT_MODULES = (
    "poolctl.diagnose.live.diagnose",
    "poolctl.observe.recording",
    "poolctl.report.screen",
    "poolctl.report.inspection",
)
"""What the result needs. Imported while the command samples anyway: on a busy machine it takes seconds."""


def _explain(context: click.Context, option: click.Parameter, code: str | None) -> None:
    """Print the catalog's entry of ``code`` and exit. Raises BadInput for an unknown code."""
    del option
    if code is not None and not context.resilient_parsing:
        from poolctl.diagnose.catalog import explain

        click.echo(explain(code))
        context.exit()


def _write_script(context: click.Context, option: click.Parameter, folder: Path | None) -> None:
    """Write the script that collects evidence into ``folder``, print how to run it, and exit."""
    if folder is not None and not context.resilient_parsing:
        refuse_conninfo(context, option, folder)
        from poolctl.observe.evidence.collect import write_script

        place = write_script(folder)
        click.echo(f"{place} is written. On a host that reaches the server:")
        click.echo(f"  PGHOST=HOST PGDATABASE=NAME PGUSER=NAME sh {place.name} > evidence.txt 2>&1")
        click.echo("Then, here:")
        click.echo("  poolctl inspect --evidence evidence.txt")
        context.exit()


_connection = make_option("Connection")
_sampling = make_option("What to sample")
_recording = make_option("Recording")
_service = make_option("As a service")
_evidence = make_option("Evidence")
_relief = make_option("Relief")
_findings = make_option("Findings")


@click.command(
    cls=GroupedCommand,
    epilog=EPILOG,
    short_help="Sample live systems: what is wrong, which clients hold the slots, what to do.",
)
@connection_options(
    _connection("--emergency", is_flag=True, help="Take a reserved slot if no other is free."),
)
@source_options("What to sample")
@_sampling(
    "--for",
    "duration",
    type=Duration(),
    metavar="DURATION",
    help="How long to sample.  [default: until 3s after the start]",
)
@_sampling("--watch", is_flag=True, help="Show a live view until q, Ctrl-C, or the end of --for.")
@_sampling(
    "--interval",
    type=Duration(above_zero=True),
    metavar="DURATION",
    help="With --watch: time between samples.  [default: 1s; as a service 5s]",
)
@_sampling("--show-literals", is_flag=True, help="Show and record queries with the values in them.")
@_recording(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="Keep every sample in a file; with --keep in a folder.",
)
@_recording(
    "--replay",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE|DIR",
    help="Diagnose what --record kept; connect to nothing.",
)
@_service(
    "--keep",
    type=Duration(above_zero=True),
    metavar="DURATION",
    help="With --watch --record DIR: a ring of recordings of the newest samples; runs for days.",
)
@_service(
    "--keep-size",
    type=Size(),
    metavar="SIZE",
    help="Most space that DIR takes.  [default: 1GB]",
)
@_service(
    "--on-finding",
    type=click.Choice(["warning", "critical"]),
    help="With --watch: print a line of JSON when such a finding begins, gets worse or ends, and no report; with "
    "--keep, what came before it is kept apart.",
)
@_service(
    "--exec",
    "hook",
    metavar="COMMAND",
    help="Run it then, without a shell, with the arguments EVENT CODE SEVERITY RECORDING and the line as input.",
)
@_service(
    "--metrics",
    metavar="[ADDRESS:]PORT",
    help="With --watch: serve metrics for a Prometheus at /metrics.  [default address: 127.0.0.1]",
)
@_service(
    "--textfile",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the metrics to FILE (NAME.prom), for node_exporter's textfile collector; also without --watch.",
)
@_evidence(
    "--evidence",
    multiple=True,
    metavar="FILE",
    help="Read pastes, exports and logs (- for standard input, folders, .gz); may be repeated. Nothing is contacted "
    "unless it is named, too.",
)
@_evidence(
    "--collect",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    is_eager=True,
    expose_value=False,
    callback=_write_script,
    help="Write a shell script for a host that poolctl may not reach: what it prints, --evidence reads.",
)
@_evidence("--log-line-prefix", default="", metavar="PREFIX", help="Of PostgreSQL's logs.  [default: inferred]")
@_evidence("--from", "since", type=Timestamp(), metavar="TIME", help='Leave out what is older: "11:40".')
@_evidence("--to", "until", type=Timestamp(), metavar="TIME", help='Leave out what is newer: "2026-10-13 11:55".')
@history_options("Evidence")
@_relief("--relief", is_flag=True, help="Also plan which backends to end, in which order, and what that frees.")
@_relief("--execute", is_flag=True, help="With --relief: end them, after asking once.")
@_findings(
    "--explain",
    metavar="CODE",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Print what a finding means, what it is mistaken for and what to do; connect to nothing.",
)
@output_options("inspect")
def inspect(
    as_json: bool,
    outputs: tuple[Path, ...],
    color: str,
    quiet: bool,
    fail_on: str | None,
    hook: str | None,
    metrics: str | None,
    textfile: Path | None,
    **options: Any,
) -> int:
    """Sample live PostgreSQL, PgBouncer and Pgpool-II, and report which layer is the problem, which clients hold the
    slots, how long it will last and what to do; or what would decide.

    CONNINFO is a libpq connection string or URI; without it, psql's options and environment count. One read-only
    connection for each server, which harms no client. Exit codes: 0 done, 1 a finding at or above --fail-on, 2 wrong
    usage, 3 no source answered, 130 interrupted.
    """
    from poolctl.api.inspect import inspect as inspect_systems
    from poolctl.api.requests import InspectRequest
    from poolctl.commands.exposition import Exposition, parse_address
    from poolctl.commands.hooks import Hook, split_command
    from poolctl.commands.progress import ScreenProgress

    unattended = bool(options["watch"]) and (metrics is not None or textfile is not None)
    request = InspectRequest(conninfo=take_conninfo(options), unattended=unattended, **options)
    request.check()
    address = parse_address(metrics) if metrics is not None else None
    if address is not None and not request.watch:
        raise BadInput("--metrics serves for as long as --watch goes on", hint="add --watch, or use --textfile FILE")
    if textfile is not None and not textfile.absolute().parent.is_dir():
        raise BadInput(f"--textfile {textfile}: there is no folder {textfile.parent}")
    command = split_command(hook) if hook is not None else None
    if command is not None and request.on_finding is None:
        raise BadInput("--exec runs when a finding begins or ends", hint="add --on-finding warning")
    if request.on_finding is not None and as_json:
        raise BadInput("--on-finding prints lines of JSON, and --json one document", hint="leave --json out")
    if request.execute:
        _check_terminal()
    check_outputs(outputs, "inspection")
    if request.replay is None:
        threading.Thread(target=lambda: [*map(import_module, REPORT_MODULES)], daemon=True).start()
    printer = _Printer(as_json, color)
    is_service = request.on_finding is not None
    exposition = Exposition(address, textfile, print_message) if address or textfile else None
    with (
        catch_interrupts() as interrupts,
        closing(Hook(command)) if command else nullcontext() as run_hook,
        closing(exposition) if exposition else nullcontext(),
    ):
        progress = ScreenProgress(color, quiet or is_service, interrupts, printer.show, run_hook, exposition)
        result = inspect_systems(request, progress=progress, stop=interrupts, began=BEGAN)
        if exposition is not None:
            exposition.update(result)
    if not is_service:
        printer.finish(result)
    write_outputs(outputs, result)
    return choose_exit_code(result.findings, fail_on, interrupted=result.interrupted)


@dataclass(slots=True)
class _Printer:
    """Prints the report once: before the question of --execute, if there is one, else at the end."""

    as_json: bool
    color: str
    is_shown: bool = False

    def show(self, result: "InspectResult") -> None:
        """Print the report, unless it is printed already. A JSON document can only be printed at the end."""
        if not self.as_json and not self.is_shown:
            self.is_shown = True
            print_result(result, as_json=False, color=self.color)

    def finish(self, result: "InspectResult") -> None:
        """Print what is not printed yet: the report, the document, or the outcome of the relief."""
        self.show(result)
        if self.as_json:
            print_result(result, as_json=True, color=self.color)
        elif result.relieved is not None:
            from poolctl.report.inspection import build_relief_result
            from poolctl.report.screen import open_screen
            from poolctl.report.terminal import print_report

            print_report(open_screen(sys.stdout, self.color), build_relief_result(result.relieved))  # type: ignore[arg-type]


def _check_terminal() -> None:
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise BadInput(
            "--execute asks before it ends a backend, and there is no terminal to ask on",
            hint="run it in a terminal, or paste the SQL that --relief prints",
        )
