"""``poolctl inspect``: looks at live systems, and says what is wrong, who holds the slots, and what to do."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolctl.commands.connection import connection_options
from poolctl.commands.inspection import asked_of
from poolctl.commands.options import Duration, output_options

if TYPE_CHECKING:
    from poolctl.api.results import InspectResult
    from poolctl.observe.postgres import Postgres

FOUND, INTERRUPTED = 1, 130

EPILOG = """\b
Examples:
  poolctl inspect
      the server that psql would connect to
  poolctl inspect "host=db1 dbname=shop user=ops"
      any libpq connection string or URI; passwords from ~/.pgpass or PGPASSWORD
  poolctl inspect -h db1 -d shop --pgbouncer "host=pgb1 port=6432 user=stats"
      the server, and what the pooler before it says
  poolctl inspect -h db1 -d shop --pool-stats http://10.0.0.7:9090/metrics
      with what an application says of its own pool
  poolctl inspect -h db1 --watch
      a live view; q ends it with the report
  poolctl inspect -h db1 --for 1m --record night.jsonl --output report.md
      keep the evidence, and a report for the incident channel
  poolctl inspect --replay night.jsonl
      the same diagnosis later, without a server
  poolctl inspect -h db1 --relief
      which backends to end, in which order, what each frees; ends none
  poolctl inspect -h db1 --quiet --fail-on warning
      in cron or CI: exit code 1 when something is wrong
"""


def _explain(context: click.Context, option: click.Parameter, code: str | None) -> None:
    """Print the catalog's entry of ``code`` and exit. Raises BadInput for an unknown code."""
    del option
    if code is not None and not context.resilient_parsing:
        from poolctl.diagnose.catalog import explain

        click.echo(explain(code))
        context.exit()


@click.command(
    epilog=EPILOG, short_help="Look at live systems, and say what is wrong, who holds the slots, what to do."
)
@connection_options
@click.option(
    "--for",
    "duration",
    type=Duration(),
    metavar="DURATION",
    help="How long to look.  [default: until 3s after the start]",
)
@click.option("--watch", is_flag=True, help="A live view, until q or Ctrl-C, or for as long as --for says.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Keep what is seen.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Diagnose what --record kept; nothing is connected to.",
)
@click.option("--show-literals", is_flag=True, help="Show and record queries with the values in them.")
@click.option("--relief", is_flag=True, help="Also say which backends to end, in which order, and what that frees.")
@click.option("--execute", is_flag=True, help="With --relief: end them, after asking once.")
@click.option("--emergency", is_flag=True, help="Take a reserved slot where no other is free.")
@click.option(
    "--explain",
    metavar="CODE",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Print what a finding means, what it is mistaken for and what to do; nothing is connected to.",
)
@output_options("inspect")
def inspect(
    as_json: bool,
    outputs: tuple[Path, ...],
    color: str,
    quiet: bool,
    fail_on: str | None,
    **options: Any,
) -> int:
    """Look at live PostgreSQL, PgBouncer and Pgpool-II, and say which layer is the problem, who holds the slots, how
    long it will last and what to do; or what would decide.

    CONNINFO is a libpq connection string or URI; without it, psql's options and environment count. One read-only
    connection a server, which harms nobody. Exit codes: 0 done, 1 a finding at or above --fail-on, 2 wrong usage,
    3 nobody answered, 130 interrupted.
    """
    asked = asked_of(options)
    _check_outputs(outputs)
    from poolctl.commands.look import live_systems, looked, planned, replayed

    answer = Answer(as_json, outputs, color)
    if asked.replay is not None:
        inspection = replayed(asked)
        answer.tell(planned(inspection) if asked.relief else inspection)
        return _exit_code(inspection, fail_on)
    with live_systems(asked.named, emergency=asked.emergency) as (watcher, postgres):
        inspection = looked(asked, watcher, color, quiet)
        if asked.relief:
            inspection = planned(inspection)
        if asked.execute and not inspection.interrupted:
            inspection = _relieved(inspection, postgres, answer)
        answer.tell(inspection)
    return _exit_code(inspection, fail_on)


@dataclass(slots=True)
class Answer:
    """Where the answer goes: standard output, once, and the files of --output."""

    as_json: bool
    outputs: tuple[Path, ...]
    color: str
    is_told: bool = False

    def show(self, inspection: "InspectResult") -> None:
        """The report, for somebody who is about to be asked something. JSON can only be told in the end."""
        if self.as_json or self.is_told:
            return
        self.is_told = True
        from poolctl.report.inspection import inspection_report
        from poolctl.report.screen import open_screen
        from poolctl.report.terminal import print_report

        print_report(open_screen(sys.stdout, self.color), inspection_report(inspection))  # type: ignore[arg-type]

    def tell(self, inspection: "InspectResult") -> None:
        """All of it. Raises CannotDo."""
        self.show(inspection)
        if self.as_json:
            click.echo(inspection.to_json())
        elif inspection.relieved is not None:
            from poolctl.report.inspection import relief_result_blocks
            from poolctl.report.screen import open_screen
            from poolctl.report.terminal import print_report

            print_report(open_screen(sys.stdout, self.color), relief_result_blocks(inspection.relieved))  # type: ignore[arg-type]
        if self.outputs:
            from poolctl.report.files import write_report

            for path in self.outputs:
                write_report(path, inspection)


def _relieved(inspection: "InspectResult", postgres: "Postgres | None", answer: Answer) -> "InspectResult":
    """Shown, asked about, and carried out."""
    from poolctl.commands.relief import relieve

    answer.show(inspection)
    assert inspection.relief is not None
    relieved, was_cut_short = relieve(inspection.relief, postgres)
    return replace(inspection, relieved=relieved, interrupted=inspection.interrupted or was_cut_short)


def _exit_code(inspection: "InspectResult", fail_on: str | None) -> int:
    from poolctl.diagnose.finding import reaches

    if inspection.interrupted:
        return INTERRUPTED
    return FOUND if fail_on and reaches(inspection.diagnosis.findings, fail_on) else 0  # type: ignore[arg-type]


def _check_outputs(outputs: tuple[Path, ...]) -> None:
    if outputs:
        from poolctl.report.files import check_output

        for path in outputs:
            check_output(path, "inspection")
