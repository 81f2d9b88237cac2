"""Measurement of live systems, or of a recording, for a recommendation.

Decides how often to sample, what a connection costs to open and when that may be tried, how a fleet is counted from
its connections, and which causes make the size of a pool the wrong question. Leaves figures to ``sizing.measure``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING

from poolctl.api.answers import check_answered, has_answered
from poolctl.api.inspect import open_systems
from poolctl.api.progress import Interruption, Progress
from poolctl.api.requests import MEASURING_TIME, RecommendRequest, Targets
from poolctl.errors import CannotConnect, CannotDo, Interrupted
from poolctl.sizing.figures import Figures
from poolctl.sizing.figures import measured as measured_figure
from poolctl.units import format_duration, format_instant, plural

if TYPE_CHECKING:
    from poolctl.diagnose.finding import Finding
    from poolctl.observe.postgres import Postgres
    from poolctl.observe.snapshot import Observation, Snapshot, Source
    from poolctl.sizing.measure import ServiceMeasurement

INTERVAL = 0.2
"""Seconds between samples: five a second show a hundred connections turn over, and cost the server next to nothing."""
JITTER = 0.3
"""Of the interval, at most, by which a sample is late: even samples would meet periodic work at the same phase."""
HOST_EVERY = 10.0
"""Seconds between samples of the process list, which costs more than the server's own list."""
LIMITS_TIME = 1.0
"""Seconds of sampling if only the limits are needed."""
REFUSED_PATIENCE, SILENT_PATIENCE = 1.0, 20.0
"""Seconds after which a server that refuses connections, or does not answer, is given up: an overloaded server takes
long for its first answer, and is worth the wait."""
CONNECTS = 4
"""How often the connection is opened again to measure how long that takes."""
SPARE_SLOTS = 5
"""Slots that must be free for that."""
LONGEST_ROUND_TRIP = 0.002
"""Seconds. Applications are near their database; from farther away poolctl cannot know their round trip."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures of a service, and how they were measured.

    ``refusing``: findings for which no size of a pool is the remedy; ``findings``: the others worth a report.
    """

    figures: Figures
    application: str | None
    notes: tuple[str, ...]
    sources: tuple["Source", ...]
    refusing: tuple["Finding", ...] = ()
    findings: tuple["Finding", ...] = ()
    planned: float | None = None
    interrupted: bool = False


def measure(request: RecommendRequest, progress: Progress, stop: Callable[[], bool]) -> Measurement:
    """Measure the systems or the recording of ``request``.

    Raises BadInput, CannotConnect, CannotDo, and Interrupted if ``stop`` came before the first sample.
    """
    if request.recording is not None:
        return _measure_recording(request, progress)
    if request.prometheus is not None:
        return _measure_history(request)
    targets = request.targets
    assert targets is not None
    planned = LIMITS_TIME
    if request.measures_load:
        planned = MEASURING_TIME if request.duration is None else request.duration
    interruption = Interruption(stop, progress)
    observation, connects = _sample(request, targets, planned, progress, interruption)
    _check_answered(observation, request, interruption)
    measurement = _evaluate(request, observation)
    if connects.times:
        measurement = _add_connects(measurement, connects)
    elif targets.conninfo is not None and request.measures_load:
        reason = connects.refusal or "there was no time for it"
        note = f"The time to open a connection was not measured: {reason}"
        measurement = replace(measurement, notes=(*measurement.notes, note))
    return replace(measurement, planned=planned, interrupted=interruption.was_requested)


def _add_connects(measurement: Measurement, connects: "_ConnectTimer") -> Measurement:
    """Add the time to open a connection, and to each hold one round trip, of which the server knows nothing."""
    from poolctl.sizing.measure import add_round_trip

    figures = measurement.figures.with_(connect_time=measured_figure(median(connects.times)))
    trip = min(connects.round_trips)
    if not figures.is_server_view:
        return replace(measurement, figures=figures)
    if trip > LONGEST_ROUND_TRIP:
        note = (
            "The round trip between application and server is unknown and not part of the hold times; see --hold-time"
        )
    else:
        figures = add_round_trip(figures, trip)
        note = f"Each hold time includes a round trip of {format_duration(trip)}, as measured from here"
    return replace(measurement, figures=figures, notes=(*measurement.notes, note))


def _measure_recording(request: RecommendRequest, progress: Progress) -> Measurement:
    from poolctl.observe.recording import read_recording

    assert request.recording is not None
    observation, note = read_recording(Path(request.recording))
    measurement = _evaluate(request, observation)
    notes = (f"From the recording {request.recording}", *filter(None, [note]), *measurement.notes)
    return replace(measurement, notes=notes)


def _measure_history(request: RecommendRequest) -> Measurement:
    from poolctl.observe.evidence import history

    assert request.prometheus is not None
    query = history.HistoryQuery(request.prometheus, request.match, request.pool_stats_map)
    stretch = history.plan_range(request.since, request.until, None, history.WEEK, time.time())
    busiest = history.find_busiest(query, stretch)
    if request.step is not None:
        busiest = replace(busiest, step=request.step)
    measurement = _evaluate(request, history.read_history(query, busiest))
    length = format_duration(busiest.until - busiest.since)
    of = format_duration(stretch.until - stretch.since)
    note = f"The busiest {length} of {of} in Prometheus, from {format_instant(busiest.since)}"
    return replace(measurement, notes=(note, *measurement.notes))


def _sample(
    request: RecommendRequest, targets: Targets, planned: float, progress: Progress, interruption: Interruption
) -> tuple["Observation", "_ConnectTimer"]:
    late = Random(request.seed)
    began = time.monotonic()
    with open_systems(targets, host_every=HOST_EVERY) as (sampler, postgres):
        connects = _ConnectTimer(postgres if request.measures_load else None, planned)

        def is_over() -> bool:
            observation = sampler.observation
            is_silent = any("no answer" in source.reason for source in observation.sources)
            patience = SILENT_PATIENCE if is_silent else REFUSED_PATIENCE
            is_late = time.monotonic() - began > patience and bool(observation.snapshots)
            return interruption() or (is_late and not has_answered(observation))

        with progress.show_sampling(planned):
            observation = sampler.observe(
                planned,
                interval=INTERVAL,
                stop=is_over,
                on_snapshot=lambda snapshot: connects(snapshot, sampler.observation),
                jitter=lambda: late.uniform(0.0, JITTER * INTERVAL),
            )
    interruption.end()
    return observation, connects


class _ConnectTimer:
    """Has poolctl's own connection opened again now and then, which takes as long as an application's.

    There is never a second one. ``times``: seconds each took to open; ``round_trips``: of an empty statement on each;
    ``refusal``: why it was not opened again when it was time to, "" if it was.
    """

    def __init__(self, postgres: "Postgres | None", planned: float) -> None:
        self._postgres = postgres
        self._began = time.monotonic()
        self._due = [planned * (number + 1) / (CONNECTS + 1) for number in range(CONNECTS)]
        self.times: list[float] = []
        self.round_trips: list[float] = []
        self.refusal = ""

    def __call__(self, snapshot: "Snapshot", observation: "Observation") -> None:
        if not self._due or time.monotonic() - self._began < self._due[0]:
            return
        del self._due[0]
        if self._postgres is None or snapshot.server is None or observation.server is None:
            return
        # The connections that count against the slots, and poolctl's own. Without spare slots an application could take
        # the one that poolctl gives back.
        if observation.server.usable - len(snapshot.server.clients) - 1 < SPARE_SLOTS:
            self.refusal = "too few slots were free"
            return
        times = self._postgres.reconnect()
        if times is None:
            # A server that refuses one connection is not asked for more.
            self._due.clear()
            self.refusal = "the server did not let poolctl in again"
            return
        self.times.append(times[0])
        self.round_trips.append(times[1])


def _check_answered(observation: "Observation", request: RecommendRequest, interruption: Interruption) -> None:
    """Raise CannotConnect or CannotDo if there is nothing to measure from, Interrupted if there was no time for it."""
    if interruption.was_requested and not observation.snapshots:
        raise Interrupted("interrupted before the first sample")
    try:
        check_answered(observation, is_named=request.is_named)
    except CannotConnect as error:
        raise CannotConnect(error.message, hint=error.hint.replace("poolctl inspect", "poolctl recommend")) from None
    refusal = next((each.refusal for each in observation.snapshots if each.refusal is not None), None)
    has_samples = any(each.server or each.bouncers or each.pools for each in observation.snapshots)
    if refusal is not None and not has_samples:
        raise CannotConnect(
            f"the server refuses connections, so there is nothing to measure: {refusal.text}",
            hint="poolctl inspect reports which clients hold the slots, also from outside",
        )


def _evaluate(request: RecommendRequest, observation: "Observation") -> Measurement:
    from poolctl.diagnose.live.diagnose import diagnose
    from poolctl.observe.recording import hide_all_literals
    from poolctl.sizing.measure import measure
    from poolctl.sizing.top_statement import find_top_statement

    observation = hide_all_literals(observation)
    service = measure(observation, request.application)
    if request.application is not None and service.backends == 0:
        raise _make_absent_error(observation, request.application)
    figures, notes = _count_fleet(request, service, observation)
    if figures.is_behind_pooler or not observation.samples:
        from poolctl.sizing.measure_pooler import measure_poolers

        figures = measure_poolers(observation, figures) or figures
    figures = figures.with_(top_statement=find_top_statement(observation))
    if observation.snapshots:
        figures = figures.with_(observed_at=format_instant(observation.first.at))
    findings = [each for each in diagnose(observation).findings if each.severity != "info"]
    held = _find_held(observation, service.application)
    refusing = tuple(each for each in findings if _is_refusing(each, service.application, figures, held))
    return Measurement(
        figures,
        service.application,
        tuple(notes),
        observation.sources,
        refusing,
        tuple(each for each in findings if each not in refusing),
    )


def _find_held(observation: "Observation", application: str | None) -> frozenset[int]:
    """Find the backends of ``application`` in the last sample, if all of them are in transactions."""
    last = observation.samples[-1].clients if observation.samples else ()
    own = [b for b in last if application in (None, b.application)]
    return frozenset(b.pid for b in own) if all(b.in_transaction for b in own) else frozenset()


def _is_refusing(finding: "Finding", application: str | None, figures: Figures, held: frozenset[int]) -> bool:
    """Return True if no size of the application's pool is the remedy for ``finding``.

    One that leaves the cause open is no reason, unless it names all backends, in transactions (``held``): then nothing
    that a size follows from was observed.
    """
    from poolctl.diagnose.catalog import find
    from poolctl.sizing.capacity import LOCK_SHARE
    from poolctl.sizing.causes import is_wasteful

    if finding.confidence == "undetermined" and not (held and held <= {p for h in finding.holders for p in h.pids}):
        return False
    holders = {holder.application for holder in finding.holders}
    is_other = bool(holders) and application is not None and application not in holders
    scope = find(finding.code).refuses_size
    if finding.code == "slow-database" and figures.top_statement is not None and not is_wasteful(figures.top_statement):
        # Processors that are full of useful work have a capacity, which the sizing reports beside its own finding.
        return False
    if scope in (None, "always"):
        return scope is not None
    if scope == "if critical":
        # Another application may hold the lock: the backends that wait for it are this one's.
        waits = figures.lock_share is not None and figures.lock_share.value > LOCK_SHARE
        return finding.severity == "critical" and waits
    return not is_other and (scope == "of its holder" or finding.severity == "critical")


def _make_absent_error(observation: "Observation", application: str) -> CannotDo:
    from poolctl.safe_text import neutralize

    names = {b.application for sample in observation.samples for b in sample.clients if b.application}
    shown = ", ".join(neutralize(name, 60) for name in sorted(names)[:10])
    present = f"connected: {shown}" if shown else "no connected backend has an application_name"
    return CannotDo(
        f"no backend of the application {application!r} was observed",
        hint=f"{present}; name one with --application, or leave it out",
    )


def _count_fleet(
    request: RecommendRequest, service: "ServiceMeasurement", observation: "Observation"
) -> tuple[Figures, list[str]]:
    """Add what can be said about the fleet to the measured figures, and return the sentences that explain it."""
    figures, notes = service.figures, []
    if service.backends == 0 and observation.samples:
        blank = dict.fromkeys(_LOAD_FIELDS)
        figures = figures.with_(**blank, windows=(), effective_samples=None, samples=0, window=None)
        notes.append("No client used the server meanwhile: only its limits were measured, not a load")
    for name, value, note in (*_count_processes(request, observation), *_count_instances(request, service)):
        if name and getattr(figures, name) is None and value is not None:
            figures = figures.with_(**{name: measured_figure(value)})
        if note:
            notes.append(note)
    return figures, notes


_LOAD_FIELDS = (
    *("parallelism", "parallelism_p95", "parallelism_p99", "parallelism_max", "parallelism_counted", "throughput"),
    *("hold_time", "hold_cv", "cpu_time", "in_use", "open_connections", "in_use_at_most"),
    *("lock_share", "contention_share", "transaction_idle_share", "censored_share"),
)

_Count = tuple[str, float | None, str]
"""A field of Figures ("" for none), its value, and a sentence about it ("" for none)."""


def _count_instances(request: RecommendRequest, service: "ServiceMeasurement") -> Iterator[_Count]:
    """Count instances by the processes behind their backends on this machine, else by pools, else by client address."""
    given = request.figures
    each = given.processes.count if given.processes is not None else 1
    if given.instances is None and service.processes:
        instances = max(1, round(service.processes / each))
        processes, counted = plural(service.processes, "process"), plural(instances, "instance")
        note = f"{processes} on this machine hold the connections: counted as {counted}; --instances overrides this"
        yield "instances", instances, note
    elif given.instances is None and service.pools:
        instances = max(1, round(service.pools / each))
        pools, counted = plural(service.pools, "pool"), plural(instances, "instance")
        note = f"{pools} report figures or hold the other connections: counted as {counted}; --instances overrides this"
        yield "instances", instances, note
    elif given.instances is None and service.clients:
        addresses = plural(service.clients, "address")
        note = f"The connections come from {addresses}, each counted as an instance; --instances overrides this"
        yield "instances", service.clients, note
    if service.backends_each and given.current_max_open is None and (service.processes or given.processes is None):
        yield "current_max_open", service.backends_each, ""


def _count_processes(request: RecommendRequest, observation: "Observation") -> Iterator[_Count]:
    """Count processes and threads of the application on this machine (--pid, --process)."""
    if not request.pids and request.process is None:
        return
    from poolctl.observe.workers import find_workers
    from poolctl.safe_text import neutralize

    ports = _list_ports(request)
    named: list[int | str] = [*request.pids, *([request.process] if request.process is not None else [])]
    views = [find_workers(who, ports=ports) for who in named]
    most = max(len(view.workers) for view in views)
    yield "processes", most, ""
    if len(views) > 1:
        yield "instances", len(views), ""
    for view in views:
        threads = count_threads(view.kind, view.root.command, view.configured)
        command = neutralize(view.root.command, 60)
        about = f"{command} (pid {view.root.pid}) is {view.kind} with {len(view.workers)} worker processes"
        if threads is None:
            shown = max(worker.threads for worker in view.workers)
            note = f"{about} of up to {shown} threads; how many of them acquire is unknown: see --workers"
            yield "", None, note
        else:
            yield "workers", threads, f"{about}, each of which serves {threads} requests at once"


_THREADS_BY_DEFAULT = {"gunicorn": 1, "unicorn": 1, "php-fpm": 1, "uwsgi": 1, "celery": 1, "puma": 5}
"""Requests at once in one process, unless its options say otherwise: the defaults of these servers."""
_THREADED = (*_THREADS_BY_DEFAULT, "sidekiq", "dramatiq")
_ASYNC = ("uvicorn", "gevent", "eventlet", "tornado")
"""Classes of workers for which threads say nothing."""


def count_threads(kind: str, command: str, configured: Mapping[str, int]) -> int | None:
    """Count the requests that one worker process serves at the same time; None if its threads do not show that."""
    if kind not in _THREADED or any(name in command for name in _ASYNC):
        return None
    return configured.get("threads", _THREADS_BY_DEFAULT.get(kind))


def _list_ports(request: RecommendRequest) -> tuple[int, ...]:
    from poolctl.observe.connection import find_address

    targets = request.targets
    conninfos = []
    if targets is not None:
        conninfos = [*filter(None, [targets.conninfo]), *targets.pgbouncers, *targets.pgpools]
    return tuple(port for conninfo in conninfos if (port := find_address(conninfo)[1]) is not None)
