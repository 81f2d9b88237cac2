"""``poolctl simulate``: a workload through a pool, leaky or correct, and what happened."""

import sys
from pathlib import Path
from typing import Any

import click

from poolctl.commands.asked import ENGINES, SimulateRequest, check_together, read_scenarios, repeat_command
from poolctl.commands.options import Duration, output_options

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
  poolctl simulate --engine model --set load.instances=100 --for 1h
      an hour of 100 instances in virtual time, without a server
  poolctl simulate --engine both
      live and in the model, and how far apart they are
  poolctl simulate --sweep pool.max_open=5..60:5 --sweep load.instances=2,4,8 --output sweep.csv
      every combination in the model, on all cores
  poolctl simulate --replications 20
      the same under 20 seeds in the model: means with confidence intervals
"""


@click.command(epilog=EPILOG, short_help="Run a workload through a pool, leaky or correct, and say what happened.")
@click.argument("scenario", type=click.Path(path_type=Path), required=False)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    help="live: a real PostgreSQL (default). model: virtual time, no server (default with --sweep and --replications).",
)
@click.option("--leak/--no-leak", default=None, help="Forget to give connections back, or never do.")
@click.option("--leak-every", type=click.IntRange(1), metavar="K", help="Leak at every K-th request of an instance.")
@click.option(
    "--leak-shape",
    metavar="SHAPE",
    help="forgotten, in-transaction, unread-rows, dropped-reference or long-hold.",
)
@click.option("--compare", metavar="A,B,...", help="Several variants: leak, correct, a pool, a pooler, key=value,...")
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="KEY=VALUES",
    help="Model: every value of KEY, 2,4,8 or 5..60 or 5..60:5; repeat it for a grid.",
)
@click.option("--replications", type=click.IntRange(2, 10_000), metavar="N", help="Model: N seeds, means, intervals.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any key of the scenario file.")
@click.option("--for", "duration", type=Duration(), metavar="DURATION", help="How long the load lasts.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Random seed. Printed in every report.")
@click.option("--target", metavar="CONNINFO", help="A server of yours instead of the throw-away one.")
@click.option("--allow-exhaustion", is_flag=True, help="Let the run take every free slot of --target.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port of the throw-away server.")
@click.option("--keep", is_flag=True, help="Leave the throw-away server running, and say how to stop it.")
@click.option("--stop", "stop", metavar="DIR", help="Stop a server left by --keep, and do nothing else.")
@click.option(
    "--interval", type=Duration(), default="100ms", show_default=True, metavar="DURATION", help="Between samples."
)
@output_options("simulate")
def simulate(
    as_json: bool,
    outputs: tuple[Path, ...],
    color: str,
    quiet: bool,
    fail_on: str | None,
    stop: str | None,
    **options: Any,
) -> int:
    """Run a workload through a connection pool, leaky or correct, and say what happened.

    SCENARIO is a TOML file; without it, 16 workers share a pool of 30 for 10 seconds. The server is a throw-away
    PostgreSQL unless --target names another, and is gone afterwards; with --engine model there is none.
    """
    if stop is not None:
        from poolctl.engines.sandbox import stop_kept

        stop_kept(stop)
        return 0
    asked = SimulateRequest(**options)
    check_together(asked)
    _check_outputs(outputs, asked)
    if asked.is_batch:
        return _batch(asked, as_json, outputs, color, quiet, fail_on)
    return _runs(asked, as_json, outputs, color, quiet, fail_on)


def _check_outputs(outputs: tuple[Path, ...], asked: SimulateRequest) -> None:
    from poolctl.report.files import ReportKind, check_output

    kind: ReportKind = "run"
    if asked.is_batch:
        kind = "replications" if not asked.sweeps else "sweep" if len(asked.sweeps) <= 2 else "large sweep"
    for path in outputs:
        check_output(path, kind)


def _runs(
    asked: SimulateRequest, as_json: bool, outputs: tuple[Path, ...], color: str, quiet: bool, fail_on: str | None
) -> int:
    from poolctl.api.results import SimulateResult
    from poolctl.commands.answers import exit_code, tell_result, write_result
    from poolctl.commands.runs import run_all

    scenarios = read_scenarios(asked)
    variants, interrupted = run_all(asked, scenarios, color, quiet)
    repeat = repeat_command(sys.argv[1:], asked, scenarios[0][1].load.seed)
    result = SimulateResult(asked.chosen_engine, tuple(variants), is_comparison=asked.compare is not None)  # type: ignore[arg-type]
    tell_result(result, as_json=as_json, color=color, repeat=repeat)
    write_result(outputs, result, repeat=repeat)
    return exit_code(variants, interrupted, fail_on)


def _batch(
    asked: SimulateRequest, as_json: bool, outputs: tuple[Path, ...], color: str, quiet: bool, fail_on: str | None
) -> int:
    from poolctl.api.results import SimulateResult
    from poolctl.commands.answers import batch_exit_code, tell_result, write_result
    from poolctl.commands.batches import run_batch

    batch = run_batch(asked, color, quiet)
    repeat = repeat_command(sys.argv[1:], asked, batch.scenario.load.seed)
    result = SimulateResult("model", batch=batch)
    tell_result(result, as_json=as_json, color=color, repeat=repeat)
    write_result(outputs, result, repeat=repeat)
    return batch_exit_code(batch, fail_on)
