"""Simulation: the scenarios of a request, run live, in the model, or both.

Decides which scenarios a request means, in which order they run, and when the rest is not worth running. psycopg is
imported only by live runs, so that a model run starts at once.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from poolctl.api.progress import Interruption, Progress, never
from poolctl.api.requests import SimulateFields, SimulateRequest, make_request
from poolctl.api.results import Batch, Engine, Point, RunOutcome, SimulateResult, Variant
from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.errors import BadInput
from poolctl.scenario.scenario import parse_scenario
from poolctl.scenario.toml import TomlSource, override, read_toml
from poolctl.scenario.variants import NamedValues, parse_variants, with_leak, without_leak

if TYPE_CHECKING:
    from poolctl.engines.live.engine import EngineView
    from poolctl.engines.live.instance_host import InstanceHost
    from poolctl.engines.live.live_servers import LiveServer, ThrowAwayServers
    from poolctl.scenario.run import Run
    from poolctl.scenario.scenario import Scenario
    from poolctl.scenario.sweep import Axis, Cell

    RunLive = Callable[[NamedValues, Scenario], Run]

DEFAULT_SCENARIO = Path(__file__).parent.parent / "default.toml"

SILENCE = 1.0
"""Seconds that model runs may take before progress is shown."""


def simulate(
    request: SimulateRequest | Path | str | None = None,
    /,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = never,
    **fields: Unpack[SimulateFields],
) -> SimulateResult:
    """Run a workload through a connection pool, and diagnose what happened.

    ``request``: a SimulateRequest, or a scenario file; ``fields`` are the fields of a SimulateRequest. ``stop`` is
    called many times a second: True ends the run, and the result holds what was measured so far.
    Raises BadInput; CannotDo and its kinds if a live run cannot begin. A run that breaks later is a result with
    ``failure``.
    """
    if isinstance(request, str | Path):
        request = SimulateRequest(scenario=request)
    request = make_request(SimulateRequest, request, fields)
    request.check()
    progress = progress or Progress()
    interruption = Interruption(stop, progress)
    if request.is_batch:
        batch = _run_batch(request, progress, interruption)
        return SimulateResult("model", batch=batch, interrupted=batch.interrupted)
    scenarios = read_scenarios(request)
    if request.chosen_engine == "model":
        variants = _run_in_model(request, scenarios, progress, interruption)
    else:
        variants = _run_live(request, scenarios, progress, interruption)
    return SimulateResult(
        request.chosen_engine,
        tuple(variants),
        is_comparison=request.compare is not None,
        interrupted=interruption.was_requested,
    )


def read_scenarios(request: SimulateRequest) -> list[tuple[NamedValues, "Scenario"]]:
    """Read the scenarios to run, each with its name, and check them before anything starts. Raises BadInput."""
    values, source = _read_values(request)
    if request.compare is None:
        variants = [NamedValues(str(values.get("name", "")), values)]
    else:
        variants = parse_variants(values, request.compare)
    scenarios = [(variant, parse_scenario(variant.values, source)) for variant in variants]
    for _, scenario in scenarios:
        _check_engine(scenario, request.chosen_engine, is_here=not request.is_on_cluster)
        if request.is_on_cluster and request.target is None and not scenario.database.listen:
            raise BadInput(
                "the throw-away server listens on 127.0.0.1, where no worker of a cluster reaches it",
                hint="name an address of this machine with --sandbox-listen, or a server of yours with --target",
            )
    return scenarios


def _read_values(request: SimulateRequest) -> tuple[dict[str, Any], TomlSource]:
    """Read the values of the scenario file, and apply the changes of the request. Raises BadInput."""
    path = DEFAULT_SCENARIO if request.scenario is None else Path(request.scenario)
    values, text = read_toml(path)
    overridden = override(values, _list_assignments(request))
    if request.leak or ((request.leak_every or request.leak_shape) and request.leak is not False):
        values = with_leak(values, every=request.leak_every, shape=request.leak_shape)
    elif request.leak is False:
        values = without_leak(values)
    return values, TomlSource(str(path), text, overridden)


def _list_assignments(request: SimulateRequest) -> list[str]:
    assignments = list(request.assignments)
    if request.duration is not None:
        assignments.append(f"load.duration={request.duration}")
    if request.seed is not None:
        assignments.append(f"load.seed={request.seed}")
    if request.sandbox_listen is not None:
        assignments.append(f"database.listen={request.sandbox_listen}")
    return assignments


def _read_sweep(request: SimulateRequest) -> tuple[tuple["Axis", ...], list["Cell"], list[str]]:
    """Read the axes of the sweep, its cells, and what had to be left out of some. Raises BadInput."""
    from poolctl.scenario.sweep import make_grid, parse_axes

    values, source = _read_values(request)
    axes = parse_axes(request.sweeps)
    cells, notes = make_grid(values, axes, source)
    for cell in cells:
        _check_engine(cell.scenario, "model")
    return axes, cells, notes


def _read_replications(request: SimulateRequest) -> list["Scenario"]:
    """Read the scenario once for each derived seed. Raises BadInput."""
    from poolctl.scenario.replications import derive_seed

    values, source = _read_values(request)
    first = parse_scenario(values, source)
    _check_engine(first, "model")
    scenarios = [first]
    for number in range(1, request.replications or 0):
        override(values, [f"load.seed={derive_seed(first.load.seed, number)}"])
        scenarios.append(parse_scenario(values, source))
    return scenarios


def _check_engine(scenario: "Scenario", engine: Engine, *, is_here: bool = True) -> None:
    """Refuse what the engine, or one of the two, cannot do. Raises BadInput."""
    if engine in ("live", "both"):
        from poolctl.engines.live.engine import check_scenario

        check_scenario(scenario, is_here=is_here)
    if engine in ("model", "both"):
        from poolctl.engines.model.plan import check

        check(scenario)


def _run_in_model(
    request: SimulateRequest,
    scenarios: Sequence[tuple[NamedValues, "Scenario"]],
    progress: Progress,
    interruption: Interruption,
) -> list[Variant]:
    variants: list[Variant] = []
    for named, scenario in scenarios:
        for note in named.notes:
            progress.note(note)
        run = _simulate_model(scenario, named.name, request.interval, progress, interruption)
        variants.append(Variant(named.name, run, diagnose_run(run)))
        # A model run that was cut off says something about its variant, and nothing about the next one.
        if run.interrupted or interruption.was_requested:
            break
    return variants


def _simulate_model(
    scenario: "Scenario", name: str, interval: float, progress: Progress, interruption: Interruption
) -> "Run":
    """Run one scenario in virtual time, and show progress if that takes more than a moment."""
    from poolctl.engines.model import simulate

    with ExitStack() as stack:
        stop = _show_later(lambda: progress.show_model_run(name), stack, interruption)
        run = simulate(scenario, interval=interval, stop=stop)
    interruption.end()
    return run


def _show_later(
    show: Callable[[], AbstractContextManager[object]], stack: ExitStack, interruption: Interruption
) -> Callable[[], bool]:
    """Return a function that says if the user interrupted, and shows progress once ``SILENCE`` has passed."""
    began = time.monotonic()
    is_shown = False

    def stop() -> bool:
        nonlocal is_shown
        if not is_shown and time.monotonic() - began > SILENCE:
            is_shown = True
            stack.enter_context(show())
        return interruption()

    return stop


def _run_live(
    request: SimulateRequest,
    scenarios: Sequence[tuple[NamedValues, "Scenario"]],
    progress: Progress,
    interruption: Interruption,
) -> list[Variant]:
    variants: list[Variant] = []
    with _open_live_runs(request, progress, interruption) as run_live:
        for named, scenario in scenarios:
            run = run_live(named, scenario)
            interruption.end()
            variants.append(Variant(named.name, run, diagnose_run(run)))
            if run.interrupted or run.failure or interruption.was_requested:
                return variants
    if request.chosen_engine == "both":
        variants.append(_repeat_in_model(request, scenarios[0][1], variants[0].run, progress, interruption))
    return variants


def _repeat_in_model(
    request: SimulateRequest, scenario: "Scenario", live: "Run", progress: Progress, interruption: Interruption
) -> Variant:
    """Run in the model what ran live, with the times that the live run measured."""
    from poolctl.engines.live.calibration import calibrate

    informed, notes = calibrate(scenario, live)
    run = _simulate_model(informed, scenario.name, request.interval, progress, interruption)
    run = replace(run, notes=(*run.notes, *notes))
    return Variant("model", run, diagnose_run(run))


@contextmanager
def _open_live_runs(request: SimulateRequest, progress: Progress, interruption: Interruption) -> Iterator["RunLive"]:
    """Yield a function that runs a scenario live; its servers stay up from one run to the next."""
    from poolctl.engines.live.engine import run_on
    from poolctl.engines.live.live_servers import ThrowAwayServers
    from poolctl.engines.sandbox import without_libpq_environment

    remote = request.is_on_cluster
    # A named server is reached as the user's environment says; a throw-away one must not be.
    environment = without_libpq_environment() if request.target is None else nullcontext()
    with (
        environment,
        _open_place(request, progress, interruption) as start_at_place,
        ThrowAwayServers(port=request.port, keep=request.keep, remote=remote) as servers,
    ):

        def run_live(named: NamedValues, scenario: "Scenario") -> "Run":
            with progress.show_run(named.name, scenario) as view:
                for note in named.notes:
                    view.note(note)
                serve = partial(_serve, request, servers, view)
                start_host = partial(start_at_place, view.phase)
                return run_on(
                    serve, scenario, view, start_host=start_host, interval=request.interval, stop=interruption
                )

        yield run_live
        if request.keep and servers.sandbox is not None:
            progress.note(f"The server is left running: psql {shlex.quote(servers.sandbox.direct_conninfo)}")
            progress.note(f"Stop it with: {servers.sandbox.stop_command}")


@contextmanager
def _open_place(
    request: SimulateRequest, progress: Progress, interruption: Interruption
) -> Iterator["Callable[[Callable[[str], None], Scenario], InstanceHost]"]:
    """Yield a function that starts the processes of a scenario's instances: here, or on the cluster of the request.

    Its first argument is called with what is waited for.
    """
    from poolctl.engines.live.engine import count_processes, count_workers, start_here

    if not request.is_on_cluster:
        yield lambda _, scenario: start_here(scenario)
        return
    from poolctl.engines.cluster.client import connect_cluster
    from poolctl.engines.cluster.cluster_host import ClusterHost
    from poolctl.engines.cluster.place import parse_place

    _, address = parse_place(request.on)
    with connect_cluster(address, stop=interruption, note=progress.show_wait) as client:
        yield lambda note, scenario: ClusterHost(
            client,
            address,
            library=scenario.pool.kind,
            count=count_processes(scenario),
            workers=count_workers(scenario),
            per_worker=request.per_worker,
            stop=interruption,
            note=note,
        )


def _serve(
    request: SimulateRequest, servers: "ThrowAwayServers", view: "EngineView", scenario: "Scenario"
) -> "LiveServer":
    from poolctl.engines.live.live_servers import format_address, open_target
    from poolctl.engines.live.pool_figures_file import NAME

    if request.target is None:
        view.phase("starting the server")
        server = servers.serve(scenario)
    else:
        view.phase("checking the server")
        server = open_target(
            request.target, scenario, allow_exhaustion=request.allow_exhaustion, remote=request.is_on_cluster
        )
    # Without the password that clients on other machines need.
    reached_at = server.sandbox.conninfo if server.sandbox is not None else server.conninfo
    words = ["poolctl", "inspect", format_address(reached_at)]
    if server.sandbox is not None:
        words += ["--pool-stats", str(server.sandbox.directory / NAME)]
    view.note(f"PostgreSQL {server.version}; from a second terminal: {shlex.join(words)}")
    return server


def _run_batch(request: SimulateRequest, progress: Progress, interruption: Interruption) -> Batch:
    """Run a sweep or replications where ``request.on`` says. An interrupted batch holds the runs that are done."""
    from poolctl.engines.cluster.place import run_at

    axes: tuple[Axis, ...] = ()
    if request.sweeps:
        axes, cells, notes = _read_sweep(request)
        for note in notes:
            progress.note(note)
        words, scenarios = [cell.words for cell in cells], [cell.scenario for cell in cells]
    else:
        scenarios = _read_replications(request)
        words = [()] * len(scenarios)
    outcomes: dict[int, RunOutcome] = {}
    losses: list[str] = []
    began = time.monotonic()
    with ExitStack() as stack:
        show = partial(progress.show_batch, lambda: len(outcomes) + len(losses), len(scenarios), began)
        stop = _show_later(show, stack, interruption)
        runs = run_at(
            request.on, scenarios, summarize_run, interval=request.interval, stop=stop, note=progress.show_wait
        )
        with closing(runs) as results:
            for result in results:
                if result.kept is None:
                    losses.append(result.loss)
                else:
                    outcomes[result.number] = result.kept
        interrupted = interruption.end()
    points = (
        Point(words[number], scenarios[number].load.seed, outcomes[number])
        for number in range(len(scenarios))
        if number in outcomes
    )
    return Batch(scenarios[0], tuple(points), len(scenarios), axes, interrupted, tuple(losses))


def summarize_run(run: "Run") -> RunOutcome:
    """Keep the numbers and findings of a run. Called in the process that made it, so it has a name at the top."""
    return RunOutcome(run.summary, diagnose_run(run), run.failure, run.kernel)
