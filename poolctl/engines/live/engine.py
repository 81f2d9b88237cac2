"""Runs a scenario for real: instances as processes against a real server, observed from both sides.

Decides the order of the steps, when a run is given up, and what is kept of a run in which something breaks. The
instances make the load (engines/instance), the observer samples the server, and ``live_result`` adds up the figures.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Protocol

from poolctl.engines.live.instance_fleet import InstanceFleet
from poolctl.engines.live.instance_host import HostMachine, InstanceHost, LocalHost, check_memory
from poolctl.engines.live.live_result import (
    SHORTEST_RUN,
    collect_errors,
    summarize_generator,
    summarize_instances,
    summarize_machines,
)
from poolctl.engines.live.live_servers import LiveServer, check_query, measure_cpu_rows
from poolctl.engines.live.observer import Observer
from poolctl.engines.live.pool_figures_file import ExposedPools
from poolctl.engines.live.server_events import ServerEvents
from poolctl.engines.pool_kinds import REAL_LIBRARIES
from poolctl.engines.workload import drop_late_events, plan_jobs
from poolctl.errors import BadInput
from poolctl.observe.slots import SIMULATION
from poolctl.scenario.run import Machine, ObservedError, ObservedServer, Run, TimelinePoint
from poolctl.scenario.scenario import BUILT_IN_QUERIES, Scenario
from poolctl.units import format_duration, plural

GATHER = 0.05
"""Seconds between two checks of the instances, of Ctrl-C and of the server."""

PATIENCE = 3.0
"""Seconds that an instance may take to report its final counts after the end of its load."""

LAST_SAMPLE = 0.5
"""Seconds that the run waits for one more sample of the server after the load."""

LEAVING = 0.3
"""Seconds that the instances get to end their load on a named server before their connections are ended there."""

BLIND = 2.0
"""Seconds after which a load on a named server ends when its free slots can no longer be counted."""

SUSPEND_LIMIT = 2.0
"""Seconds. If wall time has advanced so much more than the run's clock, the machine has slept."""


class EngineView(Protocol):
    """Receives the progress of a run."""

    def phase(self, text: str) -> None:
        """Show which step of the run begins."""

    def update(self, point: TimelinePoint, errors: Sequence[ObservedError]) -> None:
        """Show one row of the timeline, with the errors so far."""

    def note(self, text: str) -> None:
        """Show a sentence about the run."""


def check_scenario(scenario: Scenario, *, is_here: bool = True) -> None:
    """Raise BadInput if ``scenario`` needs something that only the model can do.

    ``is_here``: its instances run on this machine. Raises CannotDo if they would not fit into the memory that is free.
    """
    if scenario.model_only:
        raise BadInput(
            f"{', '.join(scenario.model_only)}: only the model engine can do that", hint="use --engine model"
        )
    if is_here:
        check_memory(count_processes(scenario), count_workers(scenario))


def count_processes(scenario: Scenario) -> int:
    """Return how many processes a run needs, the later generations of its deploys included."""
    return len(plan_jobs(scenario, ""))


def count_workers(scenario: Scenario) -> int:
    """Return the most closed loops of an instance."""
    return (scenario.load.workers or 0) + sum(burst.workers for burst in scenario.load.bursts)


def start_here(scenario: Scenario) -> LocalHost:
    """Start the processes of the instances on this machine. Raises CannotDo."""
    return LocalHost(scenario.pool.kind, range(count_processes(scenario)))


def run_on(
    serve: Callable[[Scenario], LiveServer],
    scenario: Scenario,
    view: EngineView,
    *,
    start_host: Callable[[Scenario], InstanceHost] = start_here,
    interval: float = 0.1,
    stop: Callable[[], bool] = lambda: False,
    wall_clock: Callable[[], float] = time.time,
) -> Run:
    """Start the instances and, while they load their libraries, the server with ``serve``; then run ``scenario``.

    ``start_host`` starts their processes: here or, on a cluster, elsewhere. See ``run_live`` for the rest.
    """
    with closing(start_host(scenario)) as host:
        fleet = InstanceFleet(host, count_processes(scenario))
        return run_live(scenario, serve(scenario), fleet, view, interval=interval, stop=stop, wall_clock=wall_clock)


def run_live(
    scenario: Scenario,
    server: LiveServer,
    fleet: InstanceFleet,
    view: EngineView,
    *,
    interval: float = 0.1,
    stop: Callable[[], bool] = lambda: False,
    wall_clock: Callable[[], float] = time.time,
) -> Run:
    """Run ``scenario`` on ``server`` with the instances of ``fleet``, which serve for one run.

    ``interval``: seconds between rows of the timeline. ``stop``: called 20 times a second, returns True if the user
    ends the run. ``wall_clock``: seconds of a clock that also advances while the machine sleeps, unlike the run's.
    Raises PoolctlError if the run cannot begin. What breaks later is reported in ``Run.failure``.
    """
    run = _LiveRun(scenario, server, fleet, view, interval, wall_clock)
    try:
        run.prepare()
        run.watch(stop)
        return run.make_result()
    finally:
        run.close()


class _LiveRun:
    def __init__(
        self,
        scenario: Scenario,
        server: LiveServer,
        fleet: InstanceFleet,
        view: EngineView,
        interval: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self._scenario = scenario
        self._timely, self._late = drop_late_events(scenario)
        self._server = server
        self._fleet = fleet
        self._view = view
        self._interval = interval
        self._wall_clock = wall_clock
        self._observer = Observer(server, interval)
        self._exposed = (
            ExposedPools(server.sandbox.directory, max_open=scenario.pool.max_open, application=SIMULATION)
            if server.sandbox is not None
            else None
        )
        self._timeline: list[TimelinePoint] = []
        self._notes: list[str] = []
        if scenario.pool.kind not in REAL_LIBRARIES and scenario.pool.kind != "database/sql":
            self._notes.append(f"rules of {scenario.pool.kind}, driver psycopg")
        self._failure: str | None = None
        self._interrupted = False
        self._leaves_at: float | None = None
        self._states: dict[str, int] = {}
        self._cpu: float | None = None
        self._start_at = 0.0

    def prepare(self) -> None:
        """Check the server and wait until all instances are ready."""
        scenario, server = self._timely, self._server
        for sentence in self._late:
            self._note(sentence)
        if scenario.load.query not in BUILT_IN_QUERIES:
            check_query(server, scenario.load.query)
        rows = measure_cpu_rows(server.observer_conninfo) if scenario.load.query == "cpu" else 1e7
        self._jobs = plan_jobs(
            scenario, server.conninfo, interval=self._interval, prepared=server.prepared, cpu_rows_per_second=rows
        )
        count = len(self._jobs)
        self._view.phase(f"starting {plural(count, 'instance')}")
        self._fleet.prepare(self._jobs)
        self._observer.prepare()
        # Starting the instances took a while: other clients and other runs may have come meanwhile.
        if server.promise is not None and (slots := self._observer.count_slots()) is not None:
            server.promise.check_start(slots)

    def watch(self, stop: Callable[[], bool]) -> None:
        """Start the load, and wait until every instance has reported its final counts or is overdue."""
        self._view.phase("running")
        self._start_at = time.monotonic() + self._fleet.start_delay
        ahead = self._wall_clock() - time.monotonic()
        sandbox = self._server.sandbox
        cpu_before = sandbox.measure_cpu_time() if sandbox else 0.0
        self._fleet.start(self._start_at)
        self._observer.start(self._clock)
        events = ServerEvents(self._timely.events, sandbox, self._clock)
        events.start()
        give_up_at = self._find_latest_end()
        while not self._fleet.is_over:
            self._fleet.gather(GATHER)
            self._show()
            # At the end of the load and not of the drain, in which the server has little to do.
            if self._cpu is None and sandbox and (self._clock() >= self._find_load_end() or self._fleet.is_over):
                self._cpu = (sandbox.measure_cpu_time() - cpu_before) / max(self._clock(), SHORTEST_RUN)
            if not self._interrupted and stop():
                self._interrupted = True
                give_up_at = self._clock() + PATIENCE
                self._fleet.stop()
            if self._scenario.load.duration is None and self._fleet.is_between_generations(self._clock()):
                # All requests are done: a deploy that was to come does not prolong the load.
                self._fleet.stop()
            # Only when it no longer answers: to look for its process takes a third of this thread's time. A restart on
            # purpose also ends the server for a moment.
            is_silent = sandbox is not None and self._observer.blind_since is not None and not events.is_busy
            if self._failure is None and sandbox and is_silent and not sandbox.is_alive():
                self._failure = f"the server ended at {self._clock():.1f} s: {_last_line(sandbox.log_tail())}"
                give_up_at = self._clock() + PATIENCE
                self._fleet.stop()
            if self._failure is None and (breach := self._find_breach()) is not None:
                self._failure = f"the load ended at {self._clock():.1f} s: {breach}"
                give_up_at = self._clock() + PATIENCE
                self._fleet.stop(close=True)
                self._leaves_at = self._clock()
            # The instances first report their counts, and do not count what is done to their connections after it.
            if self._leaves_at is not None and self._clock() - self._leaves_at > LEAVING:
                self._observer.end_load()
            if self._clock() > give_up_at:
                break
        if self._leaves_at is not None:
            self._observer.end_load()
            self._wait_until_gone()
        self._sample_after_load()
        events.stop()
        self._failure = self._failure or events.failure
        self._note_losses(self._wall_clock() - time.monotonic() - ahead)

    def make_result(self) -> Run:
        """Put the figures of all instances, the server and the observer together."""
        instances = [instance for instance in self._fleet.instances if instance.progress is not None]
        # The statistics below use the observer's connection, which its thread must have released.
        self._observer.stop()
        server = ObservedServer(
            max_connections=self._server.max_connections,
            usable=self._server.usable,
            peak_connections=self._observer.peak,
            refused=self._server.sandbox.count_refusals() if self._server.sandbox else None,
            version=self._server.version,
            cpu=self._cpu,
            cores=os.cpu_count() if self._server.sandbox else None,
            states=self._states,
            scanned=self._observer.scanned_tables(),
            statements=self._observer.statements(),
        )
        load, timeline = self._scenario.load, self._timeline
        return Run(
            engine="live",
            scenario=self._scenario,
            seed=load.seed,
            summary=summarize_instances(instances, load.warmup, timeline=timeline, server=server),
            timeline=tuple(timeline),
            instances=tuple(
                summarize_instances([instance], load.warmup, timeline=timeline, server=None) for instance in instances
            ),
            generator=summarize_generator(instances, len(self._fleet.instances)),
            machines=summarize_machines(self._fleet.instances, self._fleet.list_machines()),
            interrupted=self._interrupted,
            failure=self._failure,
            notes=tuple(self._notes),
        )

    def close(self) -> None:
        """Close the observer's connection."""
        self._observer.close()

    def _clock(self) -> float:
        return time.monotonic() - self._start_at

    def _find_breach(self) -> str | None:
        """Explain why the load has to leave a named server now; None as long as it may stay."""
        promise, sample, blind_since = self._server.promise, self._observer.latest, self._observer.blind_since
        if promise is None:
            return None
        if blind_since is not None and self._clock() - blind_since > BLIND:
            return f"for {BLIND:g} s nothing could be learned of the free slots of the server"
        return promise.find_breach(sample.slots) if sample is not None and sample.slots is not None else None

    def _find_load_end(self) -> float:
        return self._scenario.load.duration or float("inf")

    def _find_latest_end(self) -> float:
        return self._find_load_end() + self._scenario.load.drain + PATIENCE

    def _show(self) -> None:
        sample = self._observer.latest
        # A sample from before a pause or an outage says nothing about now.
        fresh = sample if sample is not None and self._clock() - sample.at < max(1.0, 5 * self._interval) else None
        if fresh is not None:
            self._states = fresh.states
        for point in self._fleet.collect_rows(fresh.connections if fresh else None):
            self._timeline.append(point)
            self._view.update(point, collect_errors(self._fleet.instances))
        if self._exposed is not None:
            self._exposed.show(self._fleet.instances)

    def _wait_until_gone(self) -> None:
        """Wait until the observer has ended what is left of the load on a named server, and has counted none."""
        deadline = time.monotonic() + PATIENCE
        while not self._observer.has_ended_load and time.monotonic() < deadline:
            time.sleep(GATHER / 5)

    def _sample_after_load(self) -> None:
        """Wait for a sample from after the load: the instances keep their connections until the fleet ends them."""
        over_at = self._clock()
        while self._clock() - over_at < LAST_SAMPLE and not self._failure:
            sample = self._observer.latest
            if sample is None or sample.at > over_at:
                return
            time.sleep(GATHER / 5)

    def _note_losses(self, slept: float) -> None:
        self._show()
        lost = [instance for instance in self._fleet.instances if instance.loss]
        machines = self._fleet.list_machines()
        for machine in machines:
            self._note_machine(machine)
        with_machine = {number for machine in machines if machine.loss for number in machine.numbers}
        for instance in lost:
            if instance.number in with_machine:
                continue
            self._note(f"instance {instance.number} {instance.loss}; its figures end with its last report")
        silent = [instance for instance in self._fleet.instances if not instance.is_done and not instance.loss]
        if silent:
            self._note(f"{plural(len(silent), 'instance')} did not report the final counts in time")
        if (lost or silent) and not self._failure:
            what = f"{len(lost)} of {len(self._fleet.instances)} instances ended before they were done"
            self._failure = what if lost else f"{plural(len(silent), 'instance')} stopped answering"
            gone = [machine.name for machine in machines if machine.loss]
            if gone:
                self._failure += f": lost with the worker{'s' if len(gone) > 1 else ''} {', '.join(gone)}"
        if slept > SUSPEND_LIMIT:
            self._note(f"the machine slept for {slept:.0f} s during the run: times that include the sleep are wrong")
        if self._observer.peak is None:
            self._note("the server could not be observed during the run")

    def _note_machine(self, machine: HostMachine) -> None:
        count = len(machine.numbers)
        if machine.loss:
            self._note(
                f"worker {machine.name} was lost: {machine.loss}; of its {count} of {len(self._fleet.instances)} "
                "instances the figures end with their last report"
            )
        if abs(machine.clock_offset) > Machine.SKEW_LIMIT:
            ahead = "ahead of" if machine.clock_offset > 0 else "behind"
            self._note(
                f"the clock of {machine.name} is {format_duration(abs(machine.clock_offset))} {ahead} the scheduler's; "
                "no figure rests on it"
            )
        if machine.start_uncertainty > Machine.SKEW_LIMIT:
            skew = format_duration(machine.start_uncertainty)
            self._note(f"the load of {machine.name} may have begun up to {skew} early or late: the way to it is slow")

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._view.note(text)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its log is empty"
