"""Runs a scenario in virtual time: the same pools, a server and a fleet made of arithmetic.

Decides what the run is made of and when it is over; who gets a connection, and what the server does, is in the
files beside it. Imports the standard library and the pure rooms alone.
"""

from collections.abc import Callable
from dataclasses import replace

from poolctl.engines.model import compiled
from poolctl.engines.model.clock import MOST_WAITING, PROGRESS, STANDSTILL, Kernel
from poolctl.engines.model.loop import CHUNK
from poolctl.engines.model.plan import ServicePlan, check, pods
from poolctl.engines.model.result import result
from poolctl.engines.workload import drop_late_events
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Scenario

__all__ = ["simulate"]

LOOK = 10
"""Chunks of events between looks at what the user wants and at what grows without end."""


def simulate(scenario: Scenario, *, interval: float = 0.1, stop: Callable[[], bool] = lambda: False) -> Run:
    """Run ``scenario`` in virtual time. The same scenario and seed give the same Run, bit for bit.

    ``interval``: seconds of the run's clock between rows of the timeline, more when there would be over 4,000.
    ``stop``: asked now and then whether the user has enough. Raises BadInput for what cannot be modeled
    faithfully. A run that could not end, or whose queue grows without end, is cut off and says so in Run.failure.

    Runs in the compiled kernel where one was built and can (``Run.kernel`` tells); its figures are those of the plain
    one. The environment variable POOLCTL_KERNEL=plain leaves it alone.
    """
    check(scenario)
    timely, notes = drop_late_events(scenario)
    parts, instances = [ServicePlan(part, timely) for part in timely.all_services], pods(timely)
    if compiled.can_run(timely):
        fast = compiled.Compiled(timely, parts, instances, interval)
        interrupted = drive_compiled(fast, stop)
        if not fast.is_endless:
            return replace(result(fast, interrupted), scenario=scenario, notes=notes)
    kernel = Kernel(timely, parts, instances, interval)
    interrupted = drive(kernel, stop)
    return replace(result(kernel, interrupted), scenario=scenario, notes=notes)


def drive_compiled(kernel: compiled.Compiled, stop: Callable[[], bool]) -> bool:
    """Let the kernel run to its end; True when the user ended it."""
    while not kernel.run():
        if stop():
            kernel.stop()
            return True
    return False


def drive(kernel: Kernel, stop: Callable[[], bool]) -> bool:
    """Let the kernel run to its end; True when the user ended it."""
    stood_at, stood = 0.0, 0
    while True:
        for _ in range(LOOK):
            kernel.run()
            if kernel.over:
                return False
            kernel.flush()
        stood += 1
        if kernel.now - stood_at >= PROGRESS:
            stood_at, stood = kernel.now, 0
        if stop():
            kernel.stop()
            return True
        # Usually seen at a sample, which is an instant of the run; between two of them memory must not run out.
        if sum(kernel.p_waiting) > 4 * MOST_WAITING:
            kernel.cut_off_queue()
        elif stood * LOOK * CHUNK > STANDSTILL + 20 * len(kernel.c_pod):
            kernel.cut_off_standstill()
