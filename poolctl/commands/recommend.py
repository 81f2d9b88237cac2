"""``poolctl recommend``: how large each pool should be, from what was measured or given, or why no size helps."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolctl.commands.figure_options import figure_options, sweep_file_option, take_figures
from poolctl.commands.interrupts import catch_interrupts
from poolctl.commands.options import (
    Duration,
    GroupedCommand,
    Timestamp,
    check_outputs,
    choose_exit_code,
    connection_options,
    history_options,
    make_option,
    output_options,
    print_result,
    source_options,
    take_conninfo,
    write_outputs,
)
from poolctl.errors import BadInput

if TYPE_CHECKING:
    from poolctl.api.requests import RecommendRequest, SweepLoad
    from poolctl.report.files import ReportKind

EPILOG = """\b
Examples:
  poolctl recommend -h db1 -d shop --instances 6 --for-stack pgxpool
      measure for a minute, divide by the fleet, and write the configuration
  poolctl recommend -h db1 -d shop --application shop-api --for 15m
      one application of several, over a peak
  poolctl recommend --arrival-rate 150 --hold-time 8ms --instances 8
      figures given by hand: no server needed, the result is there at once
  poolctl recommend --sweep --mix think
      where more connections stop helping, on a throw-away PostgreSQL
  poolctl recommend -h staging --sweep --query "SELECT * FROM orders"
      the same with a statement of yours, on a server of yours
  poolctl recommend --sweep-file load_test.csv --for-stack hikaricp
      from your own load test: connections,throughput
  poolctl recommend --recording night.jsonl
      from what poolctl inspect --record kept
  poolctl recommend --prometheus http://prometheus:9090 --match 'job="shop"'
      from the busiest half hour of the last week
  poolctl recommend --fleet fleet.toml --check --fail-on critical
      in CI: exit code 1 if a deploy can exceed a limit of the server
"""

_FLEET_EXCLUDES = (
    *("conninfo", "host", "pgbouncers", "pgpools", "pool_stats", "recording", "sweep", "duration", "application"),
    *("pids", "process", "stacks", "prometheus", "since", "until", "step", "match"),
)
"""Options that make no sense with --fleet, which reads a file and connects to nothing."""

_what = make_option("What to measure")
_sweep = make_option("Sweep")
_result = make_option("Result")
_fleet = make_option("Fleet file")


class _Command(GroupedCommand):
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
    short_help="Recommend how large each pool should be, from what was measured or given; or say why no size helps.",
)
@connection_options()
@source_options("What to measure")
@_what("--for", "duration", type=Duration(), metavar="DURATION", help="How long to measure.  [default: 60s]")
@_what("--application", metavar="NAME", help="Whose pools: its application_name.  [default: the largest]")
@_what("--pid", "pids", type=click.IntRange(1), multiple=True, metavar="PID", help="A process of the application.")
@_what("--process", metavar="NAME", help="Processes of the application, by name: gunicorn, puma, java, ...")
@_what("--recording", type=click.Path(path_type=Path), metavar="FILE", help="Read what inspect --record kept instead.")
@history_options("What to measure")
@_what("--from", "since", type=Timestamp(), metavar="TIME", help="Begin of the history.  [default: a week ago]")
@_what("--to", "until", type=Timestamp(), metavar="TIME", help="End of the history.  [default: now]")
@figure_options
@_sweep("--sweep", is_flag=True, help="Find where more connections stop helping: here, or at CONNINFO.")
@_sweep("--query", "queries", multiple=True, metavar="SQL", help="A statement for --sweep; may be repeated.")
@_sweep(
    "--script",
    "scripts",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A script for --sweep, in pgbench's language; may be repeated.",
)
@_sweep("--mix", metavar="NAME", help="A built-in load for --sweep: cpu, think, hot-rows or mixed.")
@_sweep("--sweep-for", type=Duration(), metavar="DURATION", help="The sweep ends by then.  [default: 3m]")
@sweep_file_option("Sweep")
@_result(
    "--verify",
    type=click.Choice(["model", "live"]),
    metavar="[ENGINE]",
    help="Try the result in virtual time (model), or also on a throw-away server (live).  "
    "[default: model, if something was measured]",
)
@_result(
    "--on",
    default="local",
    show_default=True,
    metavar="PLACE",
    help="Where --verify runs: local, local:4, or a Dask scheduler, tcp://HOST:PORT or tls://HOST:PORT.",
)
@_result("--no-verify", is_flag=True, help="Do not try it.")
@_result(
    "--for-stack",
    "stacks",
    multiple=True,
    metavar="NAME",
    help="Write its configuration: pgxpool, hikaricp, pgbouncer, ...; may be repeated.",
)
@_result("--seed", type=click.IntRange(0), metavar="N", help="Random seed. Printed in every report.  [default: 1]")
@_fleet("--fleet", type=click.Path(path_type=Path), metavar="FILE", help="Everything that connects to one server.")
@_fleet("--check", is_flag=True, help="With --fleet: check every limit at the worst moment of a deploy.")
@output_options("recommend")
def recommend(
    as_json: bool,
    outputs: tuple[Path, ...],
    color: str,
    quiet: bool,
    fail_on: str | None,
    **options: Any,
) -> int:
    """Recommend how large each process's pool should be: max_open, max_idle and lifetimes, with every term of the
    arithmetic, how sure it is, and the configuration to paste. Or refuse, and say what is wrong instead.

    CONNINFO is a libpq connection string or URI of the server to measure; with figures given by hand none is needed,
    and given figures replace measured ones. Exit codes: 0 done (a refusal is a result), 1 a finding at or above
    --fail-on, 2 wrong usage, 3 could not do the job, 130 interrupted.
    """
    check_outputs(outputs, _choose_kind(options))
    from poolctl.api.recommend import check_fleet
    from poolctl.api.recommend import recommend as recommend_sizes
    from poolctl.commands.progress import ScreenProgress

    if options["fleet"] is not None:
        _check_fleet_options(options)
        fleet = check_fleet(options["fleet"])
        print_result(fleet, as_json=as_json, color=color)
        write_outputs(outputs, fleet)
        return choose_exit_code(fleet.findings, fail_on, interrupted=False)
    request = _make_request(options)
    with catch_interrupts() as interrupts:
        progress = ScreenProgress(color, quiet, interrupts)
        result = recommend_sizes(request, progress=progress, stop=interrupts)
    result = replace(result, repeat=repeat_command(sys.argv[1:]))
    print_result(result, as_json=as_json, color=color)
    write_outputs(outputs, result)
    return choose_exit_code(result.findings, fail_on, interrupted=result.interrupted)


def _choose_kind(options: dict[str, Any]) -> "ReportKind":
    if options["fleet"] is not None:
        return "fleet"
    return "untried recommendation" if options["no_verify"] else "recommendation"


def repeat_command(words: Sequence[str]) -> str:
    """Write the command that does the same again, without a password."""
    import shlex

    from poolctl.safe_text import hide_secrets

    return shlex.join(["poolctl", *map(hide_secrets, words)])


def _make_request(options: dict[str, Any]) -> "RecommendRequest":
    """Make the request of the options. Raises BadInput for options that contradict each other."""
    from poolctl.api.figures import read_figures
    from poolctl.api.requests import RecommendRequest

    options = dict(options)
    del options["fleet"]
    if options.pop("check"):
        raise BadInput("--check goes with --fleet FILE", hint="poolctl recommend --fleet fleet.toml --check")
    verify, is_unverified, seed = options.pop("verify"), options.pop("no_verify"), options.pop("seed")
    if verify is not None and is_unverified:
        raise BadInput("--verify and --no-verify: give one of the two")
    sweep = _take_sweep(options)
    return RecommendRequest(
        figures=read_figures(take_figures(options)),
        conninfo=take_conninfo(options),
        sweep=sweep,
        verify="none" if is_unverified else verify or "default",
        seed=1 if seed is None else seed,
        **options,
    )


def _take_sweep(options: dict[str, Any]) -> "SweepLoad | None":
    from poolctl.api.requests import SWEEP_TIME, SweepLoad, check_one_sweep

    is_sweeping, seconds = options.pop("sweep"), options.pop("sweep_for")
    queries, scripts, mix = options.pop("queries"), options.pop("scripts"), options.pop("mix")
    given = {"--query": queries, "--script": scripts, "--mix": mix, "--sweep-for": seconds}
    if not is_sweeping:
        for option in (option for option, value in given.items() if value):
            raise BadInput(f"{option} goes with --sweep", hint="add --sweep: the option says what the sweep runs")
        return None
    check_one_sweep(options["sweep_file"] is not None)
    return SweepLoad(queries, scripts, mix, SWEEP_TIME if seconds is None else seconds)


def _check_fleet_options(options: dict[str, Any]) -> None:
    from poolctl.api.requests import spell

    for name in _FLEET_EXCLUDES:
        if options[name]:
            option = "-h" if name == "host" else spell(name)
            raise BadInput(
                f"{option} does not go with --fleet, which reads a file and connects to nothing",
                hint=f"leave {option} out",
            )
    figures = take_figures(dict(options))
    if options["on"] != "local":
        raise BadInput("--on does not go with --fleet, which tries nothing", hint="leave --on out")
    if any(value is not None for name, value in figures.items() if name != "burstable"):
        raise BadInput("--fleet has its figures in the file", hint="write them there, or leave --fleet out")
    if options["verify"] is not None:
        raise BadInput(
            "--verify does not go with --fleet: a fleet file does not say what its services do",
            hint="leave --verify out",
        )
