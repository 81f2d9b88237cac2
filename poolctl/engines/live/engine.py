"""Runs a scenario for real: pods as processes against a real server, watched from both sides.

Decides the order of things and what becomes of a run in which something breaks. The pods do the work (``pod``),
the observer sees the server's side, and what they measured is put together here.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from poolctl.engines.live.instance_fleet import InstanceFleet, InstanceProcess
from poolctl.engines.live.live_servers import SIMULATION, LiveServer, check_query, cpu_rows_per_second
from poolctl.engines.live.observer import Observer
from poolctl.engines.live.pool_figures_file import ExposedPools
from poolctl.engines.sandbox import Sandbox
from poolctl.engines.workload import Job, jobs
from poolctl.errors import BadInput, PoolctlError
from poolctl.scenario.histogram import Histogram, Times
from poolctl.scenario.run import Generator, ObservedError, ObservedServer, Run, Summary, Tally, TimelinePoint, summarize
from poolctl.scenario.scenario import BUILT_IN_QUERIES, Event, Scenario

KINDS = ("database/sql", "psycopg_pool", "psycopg2", "sqlalchemy", "none")
"""The pools that a live run can drive: the real libraries, and Go's rules with real connections."""

START_DELAY = 0.05
"""Seconds between the word to start and the start: every pod must have heard it."""

GATHER = 0.05
"""Seconds between looks at the pods, at Ctrl-C and at the server."""

PATIENCE = 3.0
"""Seconds that a pod may take to tell its figures once its load should have ended."""

LAST_LOOK = 0.5
"""Seconds that the observer gets to see the server as the load left it."""

SUSPEND_LIMIT = 2.0
"""Seconds by which wall time may run ahead of the run's clock before the machine must have slept."""


class RunView(Protocol):
    """Who watches the run while it goes on."""

    def phase(self, text: str) -> None: ...
    def update(self, point: TimelinePoint, errors: Sequence[ObservedError]) -> None: ...
    def note(self, text: str) -> None: ...


def check_scenario(scenario: Scenario) -> None:
    """Raise BadInput for what no live run can do."""
    if scenario.pool.kind not in KINDS:
        raise BadInput(
            f"pool.kind = {scenario.pool.kind!r} has no live driver: live runs drive {', '.join(KINDS)}",
            hint="use --engine model for it",
        )
    if scenario.model_only:
        raise BadInput(
            f"{', '.join(scenario.model_only)}: only the model engine can do that", hint="use --engine model"
        )


def pods_of(scenario: Scenario) -> int:
    """How many processes a run takes: a deploy adds a generation."""
    return len(jobs(scenario, ""))


def run_on(
    serve: Callable[[Scenario], LiveServer],
    scenario: Scenario,
    view: RunView,
    *,
    interval: float = 0.1,
    stop: Callable[[], bool] = lambda: False,
    wall_clock: Callable[[], float] = time.time,
) -> Run:
    """Start the pods, let ``serve`` start the server while they load their libraries, and run ``scenario``."""
    with InstanceFleet(scenario.pool.kind, pods_of(scenario)) as fleet:
        view.phase("starting the server")
        return run_live(scenario, serve(scenario), fleet, view, interval=interval, stop=stop, wall_clock=wall_clock)


def run_live(
    scenario: Scenario,
    server: LiveServer,
    fleet: InstanceFleet,
    view: RunView,
    *,
    interval: float = 0.1,
    stop: Callable[[], bool] = lambda: False,
    wall_clock: Callable[[], float] = time.time,
) -> Run:
    """Run ``scenario`` on ``server`` with the pods of ``fleet``, which are used up by it.

    ``interval``: seconds between rows of the timeline. ``stop``: asked 20 times a second whether the user has
    enough. ``wall_clock``: seconds of a clock that goes on while the machine sleeps, as the run's own does not.
    Raises PoolctlError when the run cannot begin; what breaks later is told in ``Run.failure``.
    """
    run = _LiveRun(scenario, server, fleet, view, interval, wall_clock)
    try:
        run.prepare()
        run.watch(stop)
        return run.result()
    finally:
        run.close()


class _LiveRun:
    def __init__(
        self,
        scenario: Scenario,
        server: LiveServer,
        fleet: InstanceFleet,
        view: RunView,
        interval: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self._scenario = scenario
        self._server = server
        self._fleet = fleet
        self._view = view
        self._interval = interval
        self._wall_clock = wall_clock
        self._observer = Observer(server.observer_conninfo, interval, has_server_to_itself=server.sandbox is not None)
        self._exposed = (
            ExposedPools(server.sandbox.directory, max_open=scenario.pool.max_open, application=SIMULATION)
            if server.sandbox is not None
            else None
        )
        self._timeline: list[TimelinePoint] = []
        self._notes: list[str] = []
        self._failure: str | None = None
        self._interrupted = False
        self._states: dict[str, int] = {}
        self._cpu: float | None = None
        self._start_at = 0.0

    def prepare(self) -> None:
        scenario, server = self._scenario, self._server
        if scenario.load.query not in BUILT_IN_QUERIES:
            check_query(server, scenario.load.query)
        rows = cpu_rows_per_second(server.observer_conninfo) if scenario.load.query == "cpu" else 1e7
        self._jobs = jobs(
            scenario, server.conninfo, interval=self._interval, prepared=server.prepared, cpu_rows_per_second=rows
        )
        count = len(self._jobs)
        self._view.phase(f"starting {count} instance{'s' if count > 1 else ''}")
        self._fleet.prepare(self._jobs)
        self._observer.prepare()

    def watch(self, stop: Callable[[], bool]) -> None:
        """From the start of the load until every pod has told its figures."""
        self._view.phase("running")
        self._start_at = time.monotonic() + START_DELAY
        ahead = self._wall_clock() - time.monotonic()
        sandbox = self._server.sandbox
        cpu_before = sandbox.measure_cpu_time() if sandbox else 0.0
        self._fleet.start(self._start_at)
        self._observer.start(self._clock)
        events = _Events(self._scenario.events, sandbox, self._clock)
        events.start()
        give_up_at = self._latest_end()
        while not self._fleet.is_over:
            self._fleet.gather(GATHER)
            self._show()
            if self._cpu is None and sandbox and (self._clock() >= self._load_end() or self._fleet.is_over):
                self._cpu = (sandbox.measure_cpu_time() - cpu_before) / max(self._clock(), GATHER)
            if not self._interrupted and stop():
                self._interrupted = True
                give_up_at = self._clock() + PATIENCE
                self._fleet.stop()
            if self._failure is None and sandbox and not sandbox.is_alive() and not events.is_busy:
                self._failure = f"the server ended at {self._clock():.1f} s: {_last_line(sandbox.log_tail())}"
                give_up_at = self._clock() + PATIENCE
                self._fleet.stop()
            if self._clock() > give_up_at:
                break
        self._look_once_more()
        events.stop()
        self._failure = self._failure or events.failure
        self._end_of_watch(self._wall_clock() - time.monotonic() - ahead)

    def result(self) -> Run:
        pods = [pod for pod in self._fleet.pods if pod.progress is not None]
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
        return Run(
            engine="live",
            scenario=self._scenario,
            seed=self._scenario.load.seed,
            summary=self._summarize(pods, server),
            timeline=tuple(self._timeline),
            instances=tuple(self._summarize([pod], None) for pod in pods),
            generator=self._generator(pods),
            interrupted=self._interrupted,
            failure=self._failure,
            notes=tuple(self._notes),
        )

    def close(self) -> None:
        self._observer.close()

    def _clock(self) -> float:
        return time.monotonic() - self._start_at

    def _load_end(self) -> float:
        return self._scenario.load.duration or float("inf")

    def _latest_end(self) -> float:
        return self._load_end() + self._scenario.load.drain + PATIENCE

    def _show(self) -> None:
        look = self._observer.latest
        # What was seen before a pause or an outage says nothing about now.
        fresh = look if look is not None and self._clock() - look.at < max(1.0, 5 * self._interval) else None
        if fresh is not None:
            self._states = fresh.states
        for point in self._fleet.points(fresh.connections if fresh else None):
            self._timeline.append(point)
            self._view.update(point, self._errors())
        if self._exposed is not None:
            self._exposed.show(self._fleet.pods)

    def _look_once_more(self) -> None:
        """See the server as the load left it: the pods hold their connections until they are told to go."""
        over_at = self._clock()
        while self._clock() - over_at < LAST_LOOK and not self._failure:
            look = self._observer.latest
            if look is None or look.at > over_at:
                return
            time.sleep(GATHER / 5)

    def _errors(self) -> list[ObservedError]:
        total = Tally()
        for pod in self._fleet.pods:
            if pod.progress is not None:
                for kind, (count, first_at) in pod.progress.tally.errors.items():
                    known, earliest = total.errors.get(kind, (0, first_at))
                    total.errors[kind] = (known + count, min(earliest, first_at))
        return [ObservedError(kind, count, first_at) for kind, (count, first_at) in total.errors.items()]

    def _end_of_watch(self, slept: float) -> None:
        self._show()
        lost = [pod for pod in self._fleet.pods if pod.loss]
        for pod in lost:
            self._note(f"instance {pod.number} {pod.loss}; its figures end with its last report")
        silent = [pod for pod in self._fleet.pods if not pod.is_done and not pod.loss]
        if silent:
            self._note(f"{len(silent)} instances did not tell their last figures in time")
        if (lost or silent) and not self._failure:
            what = f"{len(lost)} of {len(self._fleet.pods)} instances ended before they were done"
            self._failure = what if lost else f"{len(silent)} instances stopped answering"
        if slept > SUSPEND_LIMIT:
            self._note(f"the machine slept for {slept:.0f} s during the run: times across that moment mean nothing")
        if self._observer.peak is None:
            self._note("the server could not be looked at during the run")

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._view.note(text)

    def _summarize(self, pods: Sequence[InstanceProcess], server: ObservedServer | None) -> Summary:
        warmup = self._scenario.load.warmup
        spans = [(_begins_at(pod, warmup), _ends_at(pod), pod.progress.at) for pod in pods if pod.progress]
        begin = min((begin for begin, _, _ in spans), default=0.0)
        return summarize(
            [pod.progress.tally for pod in pods if pod.progress],
            [pod.progress.stats for pod in pods if pod.progress],
            warm=[pod.progress.warm for pod in pods if pod.progress],
            load_time=max((end for _, end, _ in spans), default=0.0) - begin,
            ended_at=max((told for _, _, told in spans), default=0.0) - begin,
            timeline=self._timeline,
            server=server,
        )

    def _generator(self, pods: Sequence[InstanceProcess]) -> Generator:
        lag = Histogram()
        cpu = 0.0
        ideal: list[tuple[float, float]] = []
        for pod in pods:
            progress = pod.progress
            if progress is None or pod.job is None:
                continue
            lag.merge(progress.lag)
            cpu = max(cpu, progress.cpu / max(progress.at - pod.job.begins_at, GATHER))
            if progress.ideal is not None:
                ideal.append(progress.ideal)
        is_complete = len(ideal) == len(self._fleet.pods)
        return Generator(
            lag=Times.of(lag),
            cpu=cpu,
            ideal_wait=sum(wait for wait, _ in ideal) / len(ideal) if is_complete else None,
            measured_wait=sum(wait for _, wait in ideal) / len(ideal) if is_complete else None,
        )


class _Events(threading.Thread):
    """Does to the throw-away server what the scenario says. ``is_busy``: the server is down on purpose."""

    def __init__(self, events: Sequence[Event], sandbox: Sandbox | None, clock: Callable[[], float]) -> None:
        super().__init__(daemon=True)
        # The pods slow their statements and split their generations themselves.
        self._events = [event for event in events if event.do in ("restart", "failover", "pause")]
        self._sandbox = sandbox
        self._clock = clock
        self._cancel = threading.Event()
        self.is_busy = False
        self.failure: str | None = None

    def run(self) -> None:
        for event in self._events:
            if self._cancel.wait(max(0.0, event.at - self._clock())) or self._sandbox is None:
                return
            self.is_busy = True
            try:
                self._do(event, self._sandbox)
            except PoolctlError as error:
                self.failure = f"the event {event.do} at {event.at:g} s failed: {error.message}"
                return
            self.is_busy = False

    def stop(self) -> None:
        """Let what is under way end, and begin no more."""
        self._cancel.set()
        self.join(timeout=30.0)

    def _do(self, event: Event, sandbox: Sandbox) -> None:
        if event.do == "restart":
            sandbox.restart()
        elif event.do == "failover":
            sandbox.fail_over()
        else:
            sandbox.pause()
            try:
                self._cancel.wait(event.duration)
            finally:
                sandbox.resume()


def _job(pod: InstanceProcess) -> Job:
    assert pod.job is not None
    return pod.job


def _begins_at(pod: InstanceProcess, warmup: float) -> float:
    return max(_job(pod).begins_at, warmup)


def _ends_at(pod: InstanceProcess) -> float:
    told = pod.progress.at if pod.progress else 0.0
    ends_at = _job(pod).ends_at
    return told if ends_at is None else min(told, ends_at)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its log is empty"
