"""Runs a scenario in virtual time: the same pools, a server and a fleet made of arithmetic.

Decides which kernel runs and when the run is over. Imports the standard library and the pure rooms alone.
"""

from collections.abc import Callable
from dataclasses import replace

from poolctl.engines.model import compiled
from poolctl.engines.model.clock import MOST_WAITING, PROGRESS, STANDSTILL
from poolctl.engines.model.model import CHUNK, Model
from poolctl.engines.model.plan import ServicePlan, check, plan_instances
from poolctl.engines.model.result import result
from poolctl.engines.workload import drop_late_events
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Scenario

__all__ = ["simulate"]

CHECK = 10
"""Chunks of events between two checks of what the user wants and of what grows without end."""


def simulate(scenario: Scenario, *, interval: float = 0.1, stop: Callable[[], bool] = lambda: False) -> Run:
    """Run ``scenario`` in virtual time. The same scenario and seed give the same Run, bit for bit.

    ``interval``: seconds of the run's clock between rows of the timeline, more when there would be over 4,000.
    ``stop``: asked now and then whether the user wants the run to end. Raises BadInput for what cannot be modeled
    faithfully. A run that could not end, or whose queue grows without end, is cut off and says so in Run.failure.

    The run is that of the compiled kernel where one was built and can do it (``Run.kernel`` says which); its figures
    are those of the plain one. The environment variable POOLCTL_KERNEL=plain leaves it alone.
    """
    check(scenario)
    timely, notes = drop_late_events(scenario)
    run = simulate_timely(timely, interval, stop)
    return replace(run, scenario=scenario, notes=notes + run.notes)


def simulate_timely(scenario: Scenario, interval: float, stop: Callable[[], bool]) -> Run:
    """Run a scenario whose events all happen while its load goes on."""
    plans, windows = [ServicePlan(service) for service in scenario.all_services], plan_instances(scenario)
    if compiled.can_run(scenario):
        fast = compiled.Compiled(scenario, plans, windows, interval)
        interrupted = drive_compiled(fast, stop)
        if not fast.is_endless:
            return result(fast.finish(), interrupted=interrupted)
    model = Model(scenario, plans, windows, interval)
    interrupted = drive(model, stop)
    return result(model.finish(), interrupted=interrupted)


def drive_compiled(kernel: compiled.Compiled, stop: Callable[[], bool]) -> bool:
    """Let the compiled kernel run to its end; return whether the user ended it."""
    while not kernel.run():
        if stop():
            kernel.stop()
            return True
    return False


def drive(model: Model, stop: Callable[[], bool]) -> bool:
    """Let the model run to its end; return whether the user ended it."""
    clock = model.clock
    progress_at, chunks = 0.0, 0
    while True:
        for _ in range(CHECK):
            model.run()
            if clock.is_over:
                return False
            model.flush()
        chunks += CHECK
        if clock.now - progress_at >= PROGRESS:
            progress_at, chunks = clock.now, 0
        if stop():
            model.stop()
            return True
        # Usually found at a sample, which is an instant of the run; between two of them memory must not run out.
        if model.waiting > 4 * MOST_WAITING:
            model.cut_off_queue()
        elif chunks * CHUNK > STANDSTILL + 20 * model.clients:
            model.cut_off_standstill()
