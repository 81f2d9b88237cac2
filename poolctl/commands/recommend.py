"""``poolctl recommend``: how large each pool should be, from what was measured or given, or why no size helps."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolctl.commands.connection import connection_options
from poolctl.commands.figure_options import figure_options
from poolctl.commands.options import Duration, output_options
from poolctl.commands.recommendation import asked_of, check_fleet

if TYPE_CHECKING:
    from poolctl.api.results import RecommendResult

FOUND, INTERRUPTED = 1, 130

EPILOG = """\b
Examples:
  poolctl recommend -h db1 -d shop --instances 6 --max-instances 9 --for-stack pgxpool
      measure for a minute, divide by the fleet, and write the block for the pool
  poolctl recommend -h db1 -d shop --application shop-api --pool-stats http://10.0.0.7:9090/metrics --for 15m
      one application of several, with what its pool says of itself, over a peak
  poolctl recommend --arrival-rate 150 --hold-time 8ms --hold-cv 2 --instances 8 --max-connections 100
      figures given by hand: no server needed, the answer is there at once
  poolctl recommend --sweep --mix think
      where more connections stop helping, on a throw-away PostgreSQL
  poolctl recommend "host=staging dbname=shop" --sweep --query "SELECT * FROM orders WHERE customer_id = 7"
      the same with a statement of yours, on a server of yours
  poolctl recommend --sweep-file load_test.csv --instances 4 --for-stack hikaricp
      from your own load test: connections,throughput
  poolctl recommend --recording night.jsonl
      from what poolctl inspect --record kept
  poolctl recommend --fleet fleet.toml --check --fail-on critical
      in CI: exit code 1 when the fleet can exceed a limit at the worst moment of a deploy
"""


class _Command(click.Command):
    """Lets --verify be followed by an engine or by nothing, without taking CONNINFO for one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words: list[str] = []
        for at, word in enumerate(args):
            if word == "--verify" and (at + 1 == len(args) or args[at + 1] not in ("model", "live")):
                words.append("--verify=model")
            else:
                words.append(word)
        return super().parse_args(ctx, words)


@click.command(
    cls=_Command,
    epilog=EPILOG,
    short_help="Say how large each pool should be, from what was measured or given; or why no size helps.",
)
@connection_options
@click.option("--for", "duration", type=Duration(), metavar="DURATION", help="How long to measure.  [default: 60s]")
@click.option("--application", metavar="NAME", help="Whose pools: its application_name.  [default: the largest]")
@click.option(
    "--pid", "pids", type=click.IntRange(1), multiple=True, metavar="PID", help="A process of the application."
)
@click.option("--process", metavar="NAME", help="Processes of the application, by name: gunicorn, puma, java, ...")
@click.option(
    "--recording", type=click.Path(path_type=Path), metavar="FILE", help="What inspect --record kept, instead."
)
@figure_options
@click.option("--sweep", is_flag=True, help="Find where more connections stop helping: here, or at CONNINFO.")
@click.option("--query", "queries", multiple=True, metavar="SQL", help="A statement for --sweep; may be repeated.")
@click.option(
    "--script",
    "scripts",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A script for --sweep, in pgbench's language; may be repeated.",
)
@click.option("--mix", metavar="NAME", help="A built-in load for --sweep: cpu, think, hot-rows or mixed.")
@click.option("--sweep-for", type=Duration(), metavar="DURATION", help="The sweep ends by then.  [default: 3m]")
@click.option(
    "--verify",
    type=click.Choice(["model", "live"]),
    metavar="[ENGINE]",
    help="Try the answer in virtual time (model), or also on a throw-away server (live).  "
    "[default: model, where something was measured]",
)
@click.option("--no-verify", is_flag=True, help="Do not try it.")
@click.option(
    "--for-stack", "stacks", multiple=True, metavar="NAME", help="Write its block: pgxpool, hikaricp, pgbouncer, ..."
)
@click.option(
    "--fleet", type=click.Path(path_type=Path), metavar="FILE", help="Everything that connects to one server."
)
@click.option(
    "--check", is_flag=True, help="With --fleet: whether it fits every limit at the worst moment of a deploy."
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Other random numbers.  [default: 1]")
@output_options("recommend")
def recommend(
    as_json: bool,
    outputs: tuple[Path, ...],
    color: str,
    quiet: bool,
    fail_on: str | None,
    **options: Any,
) -> int:
    """Say how large each process's pool should be: max_open, max_idle and lifetimes, with every term of the
    arithmetic, how sure it is, and the configuration to paste. Or refuse, and say what is wrong instead.

    CONNINFO is a libpq connection string or URI of the server to measure; with figures given by hand none is needed,
    and given figures stand in for measured ones. Exit codes: 0 done (a refusal is an answer), 1 a finding at or above
    --fail-on, 2 wrong usage, 3 could not do the job, 130 interrupted.
    """
    _check_outputs(outputs, is_fleet=options["fleet"] is not None)
    if options["fleet"] is not None:
        check_fleet(options)
        from poolctl.commands.fleet import fleet_answer

        return fleet_answer(options["fleet"], as_json, outputs, color, fail_on)
    asked = asked_of(options)
    from poolctl.commands.sizing import sized

    recommended = sized(asked, color=color, quiet=quiet, words=sys.argv[1:])
    _tell(recommended, as_json, outputs, color)
    return _exit_code(recommended, fail_on)


def _tell(recommended: "RecommendResult", as_json: bool, outputs: tuple[Path, ...], color: str) -> None:
    """On standard output, and into the files of --output. Raises CannotDo."""
    if as_json:
        click.echo(recommended.to_json())
    else:
        from poolctl.report.build import build_report
        from poolctl.report.screen import open_screen
        from poolctl.report.terminal import print_report

        print_report(open_screen(sys.stdout, color), build_report(recommended))  # type: ignore[arg-type]
    if outputs:
        from poolctl.report.files import write_report

        for path in outputs:
            write_report(path, recommended)


def _exit_code(recommended: "RecommendResult", fail_on: str | None) -> int:
    from poolctl.diagnose.finding import reaches

    if recommended.interrupted:
        return INTERRUPTED
    return FOUND if fail_on and reaches(recommended.recommendation.findings, fail_on) else 0  # type: ignore[arg-type]


def _check_outputs(outputs: tuple[Path, ...], *, is_fleet: bool) -> None:
    if outputs:
        from poolctl.report.files import check_output

        for path in outputs:
            check_output(path, "fleet" if is_fleet else "recommendation")
