"""Runs the scenarios of ``simulate`` one after the other, live, in the model, or both.

Decides what is shown on standard error meanwhile, and when it is enough. rich and psycopg are only imported where a
live run, or a model run of more than a second, needs them.
"""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from poolctl.commands.asked import SimulateRequest
from poolctl.commands.interrupts import Interrupts, catch_interrupts

if TYPE_CHECKING:
    from poolctl.api.results import Variant
    from poolctl.engines.live.engine import RunView
    from poolctl.engines.live.live_servers import LiveServer, ThrowAwayServers
    from poolctl.scenario.run import Run
    from poolctl.scenario.scenario import Scenario
    from poolctl.scenario.variants import NamedValues

SILENCE = 1.0
"""Seconds that a model run may take before it says that it is at work."""


def run_all(
    asked: SimulateRequest, scenarios: "Sequence[tuple[NamedValues, Scenario]]", color: str, quiet: bool
) -> "tuple[list[Variant], bool]":
    """What was run, and whether the user had enough."""
    with catch_interrupts() as interrupts:
        if asked.chosen_engine == "model":
            return _run_in_model(asked, scenarios, color, quiet, interrupts), interrupts.asked
        with _live_runs(asked, color, quiet, interrupts) as run_live:
            variants = _run_live(scenarios, run_live, interrupts)
        if asked.chosen_engine == "both" and not (variants[0].run.interrupted or variants[0].run.failure):
            variants.append(_run_both(asked, scenarios[0][1], variants[0].run, color, quiet, interrupts))
        return variants, interrupts.asked


def _run_in_model(
    asked: SimulateRequest,
    scenarios: "Sequence[tuple[NamedValues, Scenario]]",
    color: str,
    quiet: bool,
    interrupts: Interrupts,
) -> "list[Variant]":
    from poolctl.api.results import Variant
    from poolctl.diagnose.run.diagnose import diagnose_run

    variants: list[Variant] = []
    for named, scenario in scenarios:
        for note in named.notes:
            click.echo(note, err=True)
        run = run_model(scenario, named.name, asked.interval, color, quiet, interrupts)
        variants.append(Variant(named.name, run, diagnose_run(run)))
        # A model run that was cut off says something of its variant, and nothing of the next one.
        if run.interrupted:
            break
    return variants


def run_model(
    scenario: "Scenario", name: str, interval: float, color: str, quiet: bool, interrupts: Interrupts
) -> "Run":
    """One run in virtual time, which says that it is at work when it takes more than a moment."""
    from poolctl.engines.model import simulate

    began = time.monotonic()
    with ExitStack() as stack:
        is_told = quiet

        def stop() -> bool:
            nonlocal is_told
            if not is_told and time.monotonic() - began > SILENCE:
                is_told = True
                from poolctl.report.progress import Bounds, live_view
                from poolctl.report.screen import open_screen

                screen = open_screen(sys.stderr, color)  # type: ignore[arg-type]
                stack.enter_context(live_view(screen, name, Bounds())).phase("simulating in virtual time")
            return interrupts()

        run = simulate(scenario, interval=interval, stop=stop)
    interrupts.run_is_over()
    return run


def _run_both(
    asked: SimulateRequest, scenario: "Scenario", live: "Run", color: str, quiet: bool, interrupts: Interrupts
) -> "Variant":
    """The model's run of what ran live, told what the live run measured."""
    from dataclasses import replace

    from poolctl.api.results import Variant
    from poolctl.diagnose.run.diagnose import diagnose_run
    from poolctl.engines.live.calibration import calibrate

    informed, notes = calibrate(scenario, live)
    run = run_model(informed, scenario.name, asked.interval, color, quiet, interrupts)
    run = replace(run, notes=(*run.notes, *notes))
    return Variant("model", run, diagnose_run(run))


def _run_live(
    scenarios: "Sequence[tuple[NamedValues, Scenario]]", run_live: Any, interrupts: Interrupts
) -> "list[Variant]":
    from poolctl.api.results import Variant
    from poolctl.diagnose.run.diagnose import diagnose_run

    variants: list[Variant] = []
    for named, scenario in scenarios:
        run = run_live(named, scenario)
        interrupts.run_is_over()
        variants.append(Variant(named.name, run, diagnose_run(run)))
        if run.interrupted or run.failure:
            break
    return variants


@contextmanager
def _live_runs(asked: SimulateRequest, color: str, quiet: bool, interrupts: Interrupts) -> Iterator[Any]:
    """A function that runs a scenario live, with the servers that stay up between one and the next."""
    from poolctl.engines.live.engine import run_on
    from poolctl.engines.live.live_servers import ThrowAwayServers
    from poolctl.report.progress import live_view
    from poolctl.report.screen import open_screen

    errors = open_screen(sys.stderr, color)  # type: ignore[arg-type]
    with ThrowAwayServers(port=asked.port, keep=asked.keep) as servers:

        def run_live(named: "NamedValues", scenario: "Scenario") -> "Run":
            with live_view(errors, named.name, _bounds(scenario), quiet=quiet) as view:
                for note in named.notes:
                    view.note(note)
                serve = partial(_serve, asked, servers, view)
                return run_on(serve, scenario, view, interval=asked.interval, stop=interrupts)

        yield run_live
        if asked.keep and servers.sandbox is not None:
            errors.print(f"The server is left running: psql {shlex.quote(servers.sandbox.direct_conninfo)}")
            errors.print(f"Stop it with: {servers.sandbox.stop_command}")


def _serve(asked: SimulateRequest, servers: "ThrowAwayServers", view: "RunView", scenario: "Scenario") -> "LiveServer":
    from poolctl.engines.live.live_servers import format_address, named_server
    from poolctl.engines.live.pool_figures_file import NAME

    if asked.target is None:
        server = servers.serve(scenario)
    else:
        server = named_server(asked.target, scenario, allow_exhaustion=asked.allow_exhaustion)
    words = ["poolctl", "inspect", format_address(server.conninfo)]
    if server.sandbox is not None:
        words += ["--pool-stats", str(server.sandbox.directory / NAME)]
    view.note(f"PostgreSQL {server.version}; from a second terminal: {shlex.join(words)}")
    return server


def _bounds(scenario: "Scenario") -> Any:
    from poolctl.report.progress import Bounds

    pool, database = scenario.pool, scenario.database
    return Bounds(
        scenario.load.duration, pool.max_open * scenario.load.instances, database.max_connections - database.reserved
    )
