"""``poolctl simulate``: a workload through a pool, leaky or correct, and what happened."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolctl.commands.interrupts import catch_interrupts
from poolctl.commands.options import (
    FAILED,
    Duration,
    GroupedCommand,
    check_outputs,
    choose_exit_code,
    make_option,
    output_options,
    print_result,
    write_outputs,
)
from poolctl.commands.streams import print_message

if TYPE_CHECKING:
    from poolctl.api.requests import SimulateRequest
    from poolctl.report.files import ReportKind

EPILOG = """\b
Examples:
  poolctl simulate --leak
      connections that never come back, on a real throw-away PostgreSQL
  poolctl simulate --compare leak,correct
      the leak beside its fix, under the same arrivals
  poolctl simulate --compare max_idle=2,20 examples/idle_churn.toml
      one setting, two values
  poolctl simulate --set pool.max_open=10 --set load.workers=8
      any key of the scenario file
  poolctl simulate --leak --for 5m
      long enough to inspect it with poolctl inspect from a second terminal
  poolctl simulate --engine model --set load.instances=100 --for 1m
      an hour of 100 instances in virtual time, without a server
  poolctl simulate --engine both
      live and in the model, and how far apart they are
  poolctl simulate --sweep pool.max_open=5..60:5 --sweep load.instances=2,4,8
      every combination in the model, on all cores
  poolctl simulate --replications 20
      the same under 20 seeds in the model: means with confidence intervals
"""

_what = make_option("What to run")
_leak = make_option("Leak")
_several = make_option("Several runs")
_server = make_option("Server")


@click.command(
    cls=GroupedCommand,
    epilog=EPILOG,
    short_help="Run a workload through a pool, leaky or correct, and report what happened.",
)
@click.argument("scenario", type=click.Path(path_type=Path), required=False)
@_what(
    "--engine",
    type=click.Choice(["live", "model", "both"]),
    help="live: a real PostgreSQL (default). model: virtual time, no server (default with --sweep and --replications).",
)
@_what("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any key of the scenario file.")
@_what("--for", "duration", type=Duration(), metavar="DURATION", help="How long the load lasts.")
@_what("--seed", type=click.IntRange(0), metavar="N", help="Random seed. Printed in every report.")
@_what(
    "--interval",
    type=Duration(),
    default="100ms",
    show_default=True,
    metavar="DURATION",
    help="Time between rows of the timeline.",
)
@_leak("--leak/--no-leak", default=None, help="Forget to give connections back, or never do.")
@_leak("--leak-every", type=click.IntRange(1), metavar="K", help="Leak at every K-th request of an instance.")
@_leak(
    "--leak-shape",
    metavar="SHAPE",
    help="forgotten, in-transaction, unread-rows, dropped-reference or long-hold.",
)
@_several("--compare", metavar="A,B,...", help="Several variants: leak, correct, a pool, a pooler, key=value,...")
@_several(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="KEY=VALUES",
    help="Model: every value of KEY, 2,4,8 or 5..60 or 5..60:5; repeat it for a grid.",
)
@_several(
    "--replications",
    type=click.IntRange(2, 10_000),
    metavar="N",
    help="Model: N seeds (2 to 10,000), means, intervals.",
)
@_several(
    "--on",
    default="local",
    show_default=True,
    metavar="PLACE",
    help="Where they, or the instances of a live load, run: local, local:4, or a Dask scheduler: tcp://HOST:PORT.",
)
@_several("--per-worker", type=click.IntRange(1), metavar="N", help="Instances on each worker.  [default: evenly]")
@_server("--target", metavar="CONNINFO", help="A server of yours instead of the throw-away one.")
@_server("--allow-exhaustion", is_flag=True, help="Let the run take every free slot of --target.")
@_server("--port", type=click.IntRange(1, 65535), metavar="N", help="Port of the throw-away server.")
@_server("--sandbox-listen", metavar="ADDRESS", help="Where a cluster reaches the throw-away server.")
@_server("--keep", is_flag=True, help="Leave the throw-away server running, and print how to stop it.")
@_server("--stop", "stop", metavar="DIR", help="Stop a server left by --keep, and do nothing else.")
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
    """Run a workload through a connection pool, leaky or correct, and report what happened.

    SCENARIO is a TOML file; without it, 16 workers share a pool of 30 for 10 seconds. The server is a throw-away
    PostgreSQL unless --target names another, and is gone afterwards; with --engine model there is none.
    """
    if stop is not None:
        from poolctl.engines.sandbox import stop_kept

        stop_kept(stop)
        return 0
    from poolctl.api.requests import SimulateRequest
    from poolctl.api.simulate import simulate as run_simulation
    from poolctl.commands.progress import ScreenProgress

    request = SimulateRequest(**options)
    request.check()
    check_outputs(outputs, _choose_kind(request))
    with catch_interrupts() as interrupts:
        progress = ScreenProgress(color, quiet, interrupts)
        result = run_simulation(request, progress=progress, stop=interrupts)
    repeat = repeat_command(sys.argv[1:], request, result.seed)
    print_result(result, as_json=as_json, color=color, repeat=repeat)
    write_outputs(outputs, result, repeat=repeat)
    if result.failure and not result.interrupted:
        print_message(result.failure)
        return FAILED
    return choose_exit_code(result.findings, fail_on, interrupted=result.interrupted)


def repeat_command(words: Sequence[str], request: "SimulateRequest", seed: int) -> str:
    """Write the command that does the same again: the words that were typed, the seed, and no password."""
    repeated = list(words)
    if request.seed is None:
        repeated += ["--seed", str(seed)]
    if request.target is not None:
        from poolctl.engines.live.live_servers import hide_password

        repeated = [word.replace(request.target, hide_password(request.target)) for word in repeated]
    import shlex

    from poolctl.safe_text import hide_secrets

    return shlex.join(["poolctl", *map(hide_secrets, repeated)])


def _choose_kind(request: "SimulateRequest") -> "ReportKind":
    if not request.is_batch:
        return "run"
    return "replications" if not request.sweeps else "sweep" if len(request.sweeps) <= 2 else "large sweep"
