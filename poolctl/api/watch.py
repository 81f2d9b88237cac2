"""The live view of ``inspect --watch``: sampled and diagnosed for as long as a reader wants, or for days as a service.

Decides when the state is diagnosed again, what a service does about a finding, and how its folder is read again. What
is kept of a long view is the follower's decision.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from poolctl.api.answers import check_answered, has_answered
from poolctl.api.progress import Interruption, Progress
from poolctl.api.record import FlightRecorder
from poolctl.api.requests import InspectRequest
from poolctl.api.results import InspectResult
from poolctl.errors import BadInput, CannotDo, Interrupted

if TYPE_CHECKING:
    from poolctl.diagnose.live.follow import Follower
    from poolctl.observe.sampler import Sampler
    from poolctl.observe.snapshot import Snapshot

REST_SHARE, SERVICE_REST_SHARE = 4, 150
"""A view diagnoses again after so many times what the last diagnosis took: sampling keeps its pace, and a service
takes less than a hundredth of a core for it."""

WINDOW = 600.0
"""Seconds that a view diagnoses: they show every staircase that a person would wait for."""
SERVICE_INTERVAL = 5.0

LEAST_SEEN = 3
"""Samples before the first finding is reported: one or two leave too much open."""

RAW_KEPT = 2
"""Snapshots that the sampler keeps of a view: what the diagnosis needs, the follower keeps."""


def watch(
    request: InspectRequest,
    sampler: "Sampler",
    keep: "Callable[[Snapshot], None]",
    interruption: Interruption,
    progress: Progress,
) -> InspectResult:
    """Show live systems until the reader or ``interruption`` ends it; return the last state.

    ``keep`` gets every snapshot. Raises CannotConnect if no source answers, CannotDo if the folder of a ring cannot be
    used, Interrupted before the first sample.
    """
    from poolctl.diagnose.live.events import FindingLog
    from poolctl.observe.recording import LiteralHider
    from poolctl.observe.sampler import INTERVAL

    interval = request.interval or (SERVICE_INTERVAL if request.is_service else INTERVAL)
    follower, hider = _make_follower(interval), LiteralHider()
    findings = FindingLog(request.on_finding) if request.on_finding is not None else None
    due, is_answered = 0.0, False

    def diagnose() -> InspectResult:
        observation, diagnosis = follower.diagnose(sampler.observation)
        return InspectResult(observation, diagnosis, request.planned, forgotten=follower.forgotten)

    def report(result: InspectResult) -> None:
        if findings is None or len(result.observation.snapshots) < LEAST_SEEN:
            return
        events = findings.update(result.observation.last.at, result.findings)
        begun = next((event for event in events if event.kind == "began"), None)
        if begun is not None:
            recorder.begin_apart(begun.finding.code, follower.snapshots, result.observation)
        for event in events:
            progress.report_finding(event, recorder.apart)
        if findings.is_quiet:
            recorder.end_apart()

    with closing(FlightRecorder(request, progress)) as recorder, progress.show_watch() as view:

        def receive(snapshot: "Snapshot") -> None:
            nonlocal due, is_answered
            keep(snapshot)
            shown = snapshot if request.show_literals else hider.hide(snapshot)
            follower.add(shown)
            recorder.write(shown, sampler.observation)
            is_answered = is_answered or has_answered(sampler.observation)
            began = time.monotonic()
            # A service shows, too, that nothing answers: its metrics are watched by others.
            if began >= due and (is_answered or request.is_service):
                result = diagnose()
                view.show(result)
                report(result)
                share = SERVICE_REST_SHARE if request.is_service else REST_SHARE
                due = time.monotonic() + (time.monotonic() - began) * share

        def is_over() -> bool:
            if interruption() or view.wants_to_end():
                return True
            is_silent = bool(follower.snapshots) and not is_answered and not sampler.awaits_server
            return is_silent and not request.is_service

        sampler.observe(request.duration, interval=interval, stop=is_over, on_snapshot=receive, keep=RAW_KEPT)
        for event in findings.end() if findings is not None else ():
            progress.report_finding(event, recorder.apart)
    interrupted = interruption.end()
    if interrupted and not follower.snapshots:
        raise Interrupted("interrupted before the first sample")
    if not is_answered:
        check_answered(sampler.observation, is_named=request.is_named)
    return replace(diagnose(), interrupted=interrupted)


def _make_follower(interval: float) -> "Follower":
    from poolctl.diagnose.live.follow import LEAST_SAMPLES, Follower

    return Follower(max(LEAST_SAMPLES, int(WINDOW / interval)))


def replay_ring(folder: Path, request: InspectRequest, progress: Progress, stop: Callable[[], bool]) -> InspectResult:
    """Read the ring of a service in ``folder``, and return the state that the service ended with.

    A file that is damaged costs what follows in it. Raises BadInput if the folder holds no snapshot, CannotDo if a
    file cannot be read, Interrupted before the first snapshot.
    """
    from poolctl.observe.recording import LiteralHider, RecordingReader
    from poolctl.observe.ring import list_recordings
    from poolctl.observe.sampler import INTERVAL
    from poolctl.observe.snapshot import Observation

    ring, apart = list_recordings(folder)
    hider, interruption = LiteralHider(), Interruption(stop, progress)
    reader: RecordingReader | None = None
    follower: Follower | None = None
    sizes = [path.stat().st_size if path.exists() else 0 for path in ring]
    lines = 0
    try:
        for number, path in enumerate(ring):
            reader = RecordingReader(path, after=reader)
            try:
                for snapshot in reader:
                    follower = follower or _make_follower(reader.about.interval or INTERVAL)
                    follower.add(snapshot if request.show_literals else hider.hide(snapshot))
                    lines += 1
                    progress.show_reading(str(folder), lines, sum(sizes[:number]), sum(sizes))
                    if interruption():
                        break
            except BadInput as error:
                progress.warn(f"{error.message}; the rest of the file was left out")
            except CannotDo:
                # A service that still runs deletes its oldest file.
                if path.exists():
                    raise
            # The newest file of a service that runs, or was killed, always ends so.
            if reader.note and path != ring[-1]:
                progress.warn(reader.note)
            if interruption():
                break
    finally:
        progress.end_reading()
    interrupted = interruption.end()
    if interrupted and follower is None:
        raise Interrupted("interrupted before the first sample")
    if reader is None or follower is None:
        raise BadInput(f"{folder} holds no snapshot", hint="a folder that inspect --watch --record DIR --keep wrote")
    if apart:
        progress.note(
            f"recordings of findings in {folder}: {len(apart)}; --replay reads each; newest: {apart[-1].name}"
        )
    about = reader.about
    observation, diagnosis = follower.diagnose(Observation((), about.server, about.sources, about.interval, about.log))
    return InspectResult(observation, diagnosis, None, interrupted, str(folder), forgotten=follower.forgotten)
