"""Measures for ``recommend``: looks at live systems for a while, or reads a recording, and says what was seen.

Decides how often one looks, what a connection costs to open and when that may be tried, how a fleet is counted from
its connections, and which causes make the size of a pool beside the point.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from statistics import median
from typing import TYPE_CHECKING

from poolctl.commands.interrupts import catch_interrupts
from poolctl.commands.recommendation import RecommendRequest
from poolctl.errors import CannotConnect, CannotDo

if TYPE_CHECKING:
    from poolctl.commands.interrupts import Interrupts
    from poolctl.diagnose.finding import Finding
    from poolctl.observe.snapshot import Observation, Snapshot, Source
    from poolctl.sizing.figures import Figures
    from poolctl.sizing.measure import ServiceMeasurement

INTERVAL = 0.2
"""Seconds between looks: five a second see a hundred connections turn over, and cost the server next to nothing."""
JITTER = 0.3
"""Of the interval, at most, that a look is late."""
HOST_EVERY = 10.0
"""Seconds between looks at the process list, which costs more than the server's own list."""
LIMITS_ONLY = 1.0
"""Seconds of looking where only the limits are wanted."""
KNOCKING, SILENCE = 1.0, 20.0
"""Seconds after which a server that lets nobody in, or says nothing, is given up: one that is overloaded takes long
for its first answer, and is worth it."""
CONNECTS = 4
"""Times that a connection is opened to see what that takes."""
SPARE = 5
"""Slots that must be free beside it."""
MOST_ROUND_TRIP = 0.002
"""Seconds. Applications are near their database; from farther away poolctl cannot know their round trip."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """``refusing``: findings with which no size of a pool is the answer; ``findings``: the others worth telling."""

    figures: "Figures"
    application: str | None
    notes: tuple[str, ...]
    sources: tuple["Source", ...]
    refusing: tuple["Finding", ...] = ()
    findings: tuple["Finding", ...] = ()
    planned: float | None = None
    interrupted: bool = False


def measured(asked: RecommendRequest, *, color: str, quiet: bool) -> Measurement:
    """What was seen. Raises BadInput, CannotConnect and CannotDo."""
    if asked.recording is not None:
        return _of_recording(asked)
    assert asked.named is not None
    planned = LIMITS_ONLY if asked.duration is None else asked.duration
    with catch_interrupts() as interrupts:
        observation, connects = _looked(asked, planned, interrupts, color, quiet)
    _check_answered(observation, asked, interrupts)
    found = _seen(asked, observation)
    if connects.times:
        found = _with_connects(found, connects)
    elif asked.named.conninfo is not None and asked.duration is not None:
        found = replace(found, notes=(*found.notes, "What it takes to connect was not tried: too few slots were free"))
    return replace(found, planned=planned, interrupted=interrupts.asked)


def _with_connects(found: Measurement, connects: "_Connects") -> Measurement:
    """With what a connection costs, and with a round trip in each hold, of which the server sees nothing."""
    from poolctl.sizing.figures import measured as figure
    from poolctl.sizing.measure import add_round_trip
    from poolctl.units import format_duration

    figures = found.figures.with_(connect_time=figure(median(connects.times)))
    trip = min(connects.round_trips)
    if trip > MOST_ROUND_TRIP:
        note = "The round trip between application and server is not known, and not in the holds; see --hold-time"
    else:
        figures = add_round_trip(figures, trip)
        note = f"Each hold has a round trip of {format_duration(trip)} in it, as measured from here"
    return replace(found, figures=figures, notes=(*found.notes, note))


def _of_recording(asked: RecommendRequest) -> Measurement:
    from poolctl.observe.recording import read_recording

    assert asked.recording is not None
    observation, note = read_recording(asked.recording)
    found = _seen(asked, observation)
    notes = (f"From the recording {asked.recording}", *filter(None, [note]), *found.notes)
    return replace(found, notes=notes)


def _looked(
    asked: RecommendRequest, planned: float, interrupts: "Interrupts", color: str, quiet: bool
) -> tuple["Observation", "_Connects"]:
    from poolctl.commands.look import live_systems
    from poolctl.commands.unanswered import has_answered
    from poolctl.report.progress import sampling_view
    from poolctl.report.screen import open_screen

    assert asked.named is not None
    late = Random(asked.seed)
    screen = open_screen(sys.stderr, color)  # type: ignore[arg-type]
    began = time.monotonic()
    with live_systems(asked.named, host_every=HOST_EVERY) as (watcher, _):
        connects = _Connects(asked.named.conninfo if asked.duration is not None else None, planned)
        with sampling_view(screen, planned, quiet=quiet):

            def is_enough() -> bool:
                seen = watcher.observation
                is_silent = any("no answer" in source.reason for source in seen.sources)
                patience = SILENCE if is_silent else KNOCKING
                is_over = time.monotonic() - began > patience and bool(seen.snapshots)
                return interrupts() or (is_over and not has_answered(seen))

            observation = watcher.observe(
                planned,
                interval=INTERVAL,
                stop=is_enough,
                on_snapshot=lambda snapshot: connects(snapshot, watcher.observation),
                jitter=lambda: late.uniform(0.0, JITTER * INTERVAL),
            )
    interrupts.run_is_over()
    return observation, connects


class _Connects:
    """Opens a connection now and then, in the user's own way, and closes it at once. ``times``: seconds each took;
    ``round_trips``: those of an empty statement on each."""

    def __init__(self, conninfo: str | None, planned: float) -> None:
        self._conninfo = conninfo
        self._began = time.monotonic()
        self._due = [planned * (number + 1) / (CONNECTS + 1) for number in range(CONNECTS)]
        self.times: list[float] = []
        self.round_trips: list[float] = []

    def __call__(self, snapshot: "Snapshot", observation: "Observation") -> None:
        if not self._due or time.monotonic() - self._began < self._due[0]:
            return
        del self._due[0]
        if self._conninfo is None or snapshot.server is None or observation.server is None:
            return
        # Those that count against the slots, and poolctl's own.
        if observation.server.usable - len(snapshot.server.clients) - 1 < SPARE:
            return
        from poolctl.errors import PoolctlError
        from poolctl.observe.connection import ServerConnection

        began = time.monotonic()
        try:
            connection = ServerConnection.open(self._conninfo, within=1.0)
            opened = time.monotonic()
            # The first statement of a backend fills its caches.
            connection.execute("", within=1.0)
            asked = time.monotonic()
            connection.execute("", within=1.0)
            answered = time.monotonic()
        except PoolctlError:
            self._due.clear()
            return
        connection.close()
        self.times.append(opened - began)
        self.round_trips.append(answered - asked)


def _check_answered(observation: "Observation", asked: RecommendRequest, interrupts: "Interrupts") -> None:
    """Raise CannotDo when there is nothing to measure from, KeyboardInterrupt when there was no time for it."""
    from poolctl.commands.unanswered import check_answered

    if interrupts.asked and not observation.snapshots:
        raise KeyboardInterrupt
    try:
        check_answered(observation, was_named=asked.was_named)
    except CannotConnect as error:
        raise CannotConnect(error.message, hint=error.hint.replace("poolctl inspect", "poolctl recommend")) from None
    refusal = next((each.refusal for each in observation.snapshots if each.refusal is not None), None)
    told = any(each.server or each.bouncers or each.pools for each in observation.snapshots)
    if refusal is not None and not told:
        raise CannotConnect(
            f"the server lets nobody in, so nothing can be measured: {refusal.text}",
            hint="poolctl inspect says who holds the slots, also from outside",
        )


def _seen(asked: RecommendRequest, observation: "Observation") -> Measurement:
    from poolctl.diagnose.live.diagnose import diagnose
    from poolctl.observe.recording import hide_all_literals
    from poolctl.sizing.measure import measure
    from poolctl.sizing.top_statement import find_top_statement

    observation = hide_all_literals(observation)
    seen = measure(observation, asked.application)
    if asked.application is not None and seen.sessions == 0:
        raise _nobody(observation, asked.application)
    figures, notes = _counted(asked, seen, observation)
    if figures.is_behind_pooler or not observation.samples:
        from poolctl.sizing.measure_pooler import measure_poolers

        figures = measure_poolers(observation, figures) or figures
    figures = figures.with_(top_statement=find_top_statement(observation))
    if observation.snapshots:
        figures = figures.with_(observed_at=_format_instant(observation.first.at))
    findings = [each for each in diagnose(observation).findings if each.severity != "info"]
    refusing = tuple(each for each in findings if _refuses(each, seen.application, figures))
    return Measurement(
        figures,
        seen.application,
        tuple(notes),
        observation.sources,
        refusing,
        tuple(each for each in findings if each not in refusing),
    )


def _refuses(finding: "Finding", application: str | None, figures: "Figures") -> bool:
    """Whether a pool of another size is beside the point: its connections are lost, or wait for something else."""
    from poolctl.diagnose.catalog import find
    from poolctl.sizing.capacity import LOCK_SHARE

    if finding.confidence == "undetermined":
        return False
    named = {holder.application for holder in finding.holders}
    is_other = bool(named) and application is not None and application not in named
    scope = find(finding.code).refuses_size
    if scope in (None, "always"):
        return scope is not None
    if scope == "if critical":
        # Another application may hold the lock: the backends that wait for it are this one's.
        waits = figures.lock_share is not None and figures.lock_share.value > LOCK_SHARE
        return finding.severity == "critical" and waits
    return not is_other and (scope == "of its holder" or finding.severity == "critical")


def _nobody(observation: "Observation", application: str) -> CannotDo:
    from poolctl.safe_text import neutralize

    names = {b.application for sample in observation.samples for b in sample.clients if b.application}
    shown = ", ".join(neutralize(name, 60) for name in sorted(names)[:10]) or "nobody with a name"
    return CannotDo(
        f"no session of the application {application!r} was seen", hint=f"connected were: {shown}; see --application"
    )


def _counted(
    asked: RecommendRequest, seen: "ServiceMeasurement", observation: "Observation"
) -> tuple["Figures", list[str]]:
    """The figures with what can be told of the fleet, and how that was told."""
    from poolctl.sizing.figures import measured as figure

    figures, notes = seen.figures, []
    if seen.sessions == 0 and observation.samples:
        blank = dict.fromkeys(_OF_THE_LOAD)
        figures = figures.with_(**blank, windows=(), effective_samples=None, samples=0, window=None)
        notes.append("Nobody used the server meanwhile: its limits were measured, and no load")
    for name, value, note in (*_of_processes(asked, observation), *_of_sessions(asked, seen)):
        if name and getattr(figures, name) is None and value is not None:
            figures = figures.with_(**{name: figure(value)})
        if note:
            notes.append(note)
    return figures, notes


_OF_THE_LOAD = (
    *("parallelism", "parallelism_p95", "parallelism_p99", "parallelism_max", "parallelism_counted", "throughput"),
    *("hold_time", "hold_cv", "cpu_time"),
    *("lock_share", "contention_share", "transaction_idle_share", "censored_share"),
)

_Found = tuple[str, float | None, str]
"""A field of Figures ("" for none), its value, and a sentence about it ("" for none)."""


def _of_sessions(asked: RecommendRequest, seen: "ServiceMeasurement") -> Iterator[_Found]:
    """Instances and pools as the sessions show them: by the processes behind them on this machine, else by address."""
    from poolctl.units import plural

    given = asked.figures
    each = given.processes.count if given.processes is not None else 1
    if given.instances is None and seen.processes:
        instances = max(1, round(seen.processes / each))
        processes, taken = plural(seen.processes, "process"), plural(instances, "instance")
        behind = f"The sessions are held by {processes} on this machine: {taken}"
        yield "instances", instances, f"{behind}; --instances says otherwise"
    elif given.instances is None and seen.clients:
        addresses = plural(seen.clients, "address")
        told = f"The sessions come from {addresses}, each taken for an instance; --instances says otherwise"
        yield "instances", seen.clients, told
    if seen.sessions_each and given.current_max_open is None and (seen.processes or given.processes is None):
        yield "current_max_open", seen.sessions_each, ""


def _of_processes(asked: RecommendRequest, observation: "Observation") -> Iterator[_Found]:
    """Processes and threads of the application on this machine (--pid, --process)."""
    if not asked.pids and asked.process is None:
        return
    from poolctl.observe.workers import find_workers
    from poolctl.safe_text import neutralize

    ports = _ports(asked, observation)
    named: list[int | str] = [*asked.pids, *([asked.process] if asked.process is not None else [])]
    views = [find_workers(who, ports=ports) for who in named]
    most = max(len(view.workers) for view in views)
    yield "processes", most, ""
    if len(views) > 1:
        yield "instances", len(views), ""
    for view in views:
        threads = threads_of(view.kind, view.root.command, view.configured)
        command = neutralize(view.root.command, 60)
        told = f"{command} (pid {view.root.pid}) is {view.kind} with {len(view.workers)} worker processes"
        if threads is None:
            shown = max(worker.threads for worker in view.workers)
            yield "", None, f"{told} of up to {shown} threads, which do not say how many acquire: see --workers"
        else:
            yield "workers", threads, f"{told}, of which each serves {threads} requests at once"


_BY_THREAD = {"gunicorn": 1, "unicorn": 1, "php-fpm": 1, "uwsgi": 1, "celery": 1, "puma": 5}
"""Requests at once in one process, unless its options say otherwise: their own defaults."""
_THREADED = (*_BY_THREAD, "sidekiq", "dramatiq")
_ASYNC = ("uvicorn", "gevent", "eventlet", "tornado")
"""Classes of workers for which threads say nothing."""


def threads_of(kind: str, command: str, configured: Mapping[str, int]) -> int | None:
    """Requests that one worker process serves at the same time; None where its threads do not say."""
    if kind not in _THREADED or any(name in command for name in _ASYNC):
        return None
    return configured.get("threads", _BY_THREAD.get(kind))


def _ports(asked: RecommendRequest, observation: "Observation") -> tuple[int, ...]:
    from poolctl.observe.connection import find_address

    conninfos = []
    if asked.named is not None:
        conninfos = [*filter(None, [asked.named.conninfo]), *asked.named.pgbouncers, *asked.named.pgpools]
    return tuple(port for conninfo in conninfos if (port := find_address(conninfo)[1]) is not None)


def _format_instant(at: float) -> str:
    from poolctl.report.inspection import format_instant

    return format_instant(at)
