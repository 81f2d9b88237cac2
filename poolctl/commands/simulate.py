"""``poolctl simulate``: a workload through a pool, leaky or correct, and what happened."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolctl.commands.options import Duration, output_options

if TYPE_CHECKING:
    from poolctl.engines.live import View
    from poolctl.engines.servers import Server, ThrowAwayServers
    from poolctl.report.console import Screen
    from poolctl.report.variant import Variant
    from poolctl.scenario import Scenario
    from poolctl.variants import NamedValues

FAILED, FOUND, INTERRUPTED = 3, 1, 130

EPILOG = """\b
Examples:
  poolctl simulate --leak
      connections that never come back, on a real throw-away PostgreSQL
  poolctl simulate --compare leak,correct
      the leak beside its fix, under the same arrivals
  poolctl simulate --compare max_idle=2,20 examples/idle_churn.toml
      one setting, two values
  poolctl simulate --set pool.max_open=10 --set load.rate=200 --set load.workers=off
      any key of the scenario file
  poolctl simulate --leak --for 5m
      long enough to look at it with poolctl inspect from a second terminal
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line, as far as it is not about output."""

    scenario: Path | None
    leak: bool | None
    leak_every: int | None
    leak_shape: str | None
    compare: str | None
    assignments: tuple[str, ...]
    duration: float | None
    seed: int | None
    target: str | None
    allow_exhaustion: bool
    port: int | None
    keep: bool
    interval: float


@click.command(epilog=EPILOG, short_help="Run a workload through a pool, leaky or correct, and say what happened.")
@click.argument("scenario", type=click.Path(path_type=Path), required=False)
@click.option("--leak/--no-leak", default=None, help="Forget to give connections back, or never do.")
@click.option("--leak-every", type=click.IntRange(1), metavar="K", help="Leak at every K-th request of an instance.")
@click.option(
    "--leak-shape",
    metavar="SHAPE",
    help="forgotten, in-transaction, unread-rows, dropped-reference or long-hold.",
)
@click.option("--compare", metavar="A,B,...", help="Several variants: leak, correct, a pool, a pooler, key=value,...")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any key of the scenario file.")
@click.option("--for", "duration", type=Duration(), metavar="DURATION", help="How long the load lasts.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Other random numbers; the seed is always told.")
@click.option("--target", metavar="CONNINFO", help="A server of yours instead of the throw-away one.")
@click.option("--allow-exhaustion", is_flag=True, help="Let the run take every free slot of --target.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port of the throw-away server.")
@click.option("--keep", is_flag=True, help="Leave the throw-away server running, and say how to stop it.")
@click.option("--stop", "stop", metavar="DIR", help="Stop a server left by --keep, and do nothing else.")
@click.option(
    "--interval", type=Duration(), default="100ms", show_default=True, metavar="DURATION", help="Between samples."
)
@output_options
def simulate(
    as_json: bool,
    outputs: tuple[Path, ...],
    color: str,
    quiet: bool,
    fail_on: str | None,
    stop: str | None,
    **options: Any,
) -> int:
    """Run a workload through a connection pool, leaky or correct, on a real PostgreSQL, and say what happened.

    SCENARIO is a TOML file; without it, 16 workers share a pool of 30 for 10 seconds. The server is a throw-away one
    unless --target names another, and is gone afterwards.
    """
    if stop is not None:
        from poolctl.engines.sandbox import stop_kept

        stop_kept(stop)
        return 0
    from poolctl.report.files import check_output, write_output

    for path in outputs:
        check_output(path)
    asked = Asked(**options)
    scenarios = read_scenarios(asked)
    screen, variants, interrupted = _run_all(asked, scenarios, color, quiet)
    repeat = _repeat(sys.argv[1:], asked, scenarios[0][1])
    compared = asked.compare is not None
    if as_json:
        _print_json(variants, compared)
    else:
        _print_report(screen, variants, compared, repeat)
    for path in outputs:
        write_output(path, variants, compared=compared, repeat=repeat)
    return _exit_code(variants, interrupted, fail_on)


def read_scenarios(asked: Asked) -> "list[tuple[NamedValues, Scenario]]":
    """The scenarios to run, each with its name, checked before anything is started. Raises BadInput."""
    from poolctl.engines.live import check_kind
    from poolctl.keys import Source, override, read_toml
    from poolctl.scenario import parse_scenario
    from poolctl.variants import NamedValues, parse_variants, with_leak, without_leak

    path = asked.scenario or Path(__file__).parent.parent / "default.toml"
    values, text = read_toml(path)
    overridden = override(values, _assignments(asked))
    if asked.leak or ((asked.leak_every or asked.leak_shape) and asked.leak is not False):
        values = with_leak(values, every=asked.leak_every, shape=asked.leak_shape)
    elif asked.leak is False:
        values = without_leak(values)
    if asked.compare is None:
        variants = [NamedValues(str(values.get("name", "")), values)]
    else:
        variants = parse_variants(values, asked.compare)
    source = Source(str(path), text, overridden)
    scenarios = [(variant, parse_scenario(variant.values, source)) for variant in variants]
    for _, scenario in scenarios:
        check_kind(scenario)
    return scenarios


def _assignments(asked: Asked) -> list[str]:
    own = list(asked.assignments)
    if asked.duration is not None:
        own.append(f"load.duration={asked.duration}")
    if asked.seed is not None:
        own.append(f"load.seed={asked.seed}")
    return own


def _run_all(
    asked: Asked, scenarios: "Sequence[tuple[NamedValues, Scenario]]", color: str, quiet: bool
) -> "tuple[Screen, list[Variant], bool]":
    """Run one after the other; the screen of the report, what was run, and whether the user had enough."""
    from poolctl.commands.interrupts import catch_interrupts
    from poolctl.diagnose.simulation import diagnose_run
    from poolctl.engines.live import run_on
    from poolctl.engines.servers import ThrowAwayServers
    from poolctl.report.console import open_screen
    from poolctl.report.progress import live_view
    from poolctl.report.variant import Variant

    variants: list[Variant] = []
    errors = open_screen(sys.stderr, color)  # type: ignore[arg-type]
    with ExitStack() as stack:
        interrupts = stack.enter_context(catch_interrupts())
        servers = stack.enter_context(ThrowAwayServers(port=asked.port, keep=asked.keep))
        for named, scenario in scenarios:
            with live_view(errors, named.name, _bounds(scenario), quiet=quiet) as view:
                for note in named.notes:
                    view.note(note)
                serve = partial(_serve, asked, servers, view)
                run = run_on(serve, scenario, view, interval=asked.interval, stop=interrupts)
            interrupts.run_is_over()
            variants.append(Variant(named.name, run, diagnose_run(run)))
            if run.interrupted or run.failure:
                break
        if asked.keep and servers.sandbox is not None:
            errors.print(f"The server is left running: psql {shlex.quote(servers.sandbox.direct_conninfo)}")
            errors.print(f"Stop it with: {servers.sandbox.stop_command}")
    return open_screen(sys.stdout, color), variants, interrupts.asked  # type: ignore[arg-type]


def _serve(asked: Asked, servers: "ThrowAwayServers", view: "View", scenario: "Scenario") -> "Server":
    from poolctl.engines.servers import named_server, without_password

    if asked.target is None:
        server = servers.serve(scenario)
    else:
        server = named_server(asked.target, scenario, allow_exhaustion=asked.allow_exhaustion)
    view.note(f"PostgreSQL {server.version}, to look at it from a second terminal: {without_password(server.conninfo)}")
    return server


def _bounds(scenario: "Scenario") -> Any:
    from poolctl.report.progress import Bounds

    pool, database = scenario.pool, scenario.database
    return Bounds(
        scenario.load.duration, pool.max_open * scenario.load.instances, database.max_connections - database.reserved
    )


def _print_json(variants: "Sequence[Variant]", compared: bool) -> None:
    from poolctl.report.json import compare_document, dumps, simulate_document

    first = variants[0]
    click.echo(dumps(compare_document(variants) if compared else simulate_document(first.run, first.findings)))


def _print_report(screen: "Screen", variants: "Sequence[Variant]", compared: bool, repeat: str) -> None:
    from poolctl.report.comparison import print_comparison
    from poolctl.report.simulation import print_simulation

    if compared:
        print_comparison(screen, variants, repeat=repeat)
    else:
        print_simulation(screen, variants[0].run, variants[0].findings, repeat=repeat)


def _repeat(words: Sequence[str], asked: Asked, scenario: "Scenario") -> str:
    """The command that does the same again: what was typed, with the seed, and without a password."""
    said = list(words)
    if asked.seed is None:
        said += ["--seed", str(scenario.load.seed)]
    if asked.target is not None:
        from poolctl.engines.servers import without_password

        said = [word.replace(asked.target, without_password(asked.target)) for word in said]
    return shlex.join(["poolctl", *said])


def _exit_code(variants: "Sequence[Variant]", interrupted: bool, fail_on: str | None) -> int:
    from poolctl.diagnose.finding import reaches

    if interrupted:
        return INTERRUPTED
    failures = [variant.run.failure for variant in variants if variant.run.failure]
    if failures:
        click.echo(f"poolctl: {failures[0]}", err=True)
        return FAILED
    if fail_on and any(reaches(variant.findings, fail_on) for variant in variants):  # type: ignore[arg-type]
        return FOUND
    return 0
