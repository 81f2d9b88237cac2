"""Recordings of what ``inspect`` samples: one file, or the ring of a service with what is kept of findings beside it.

Decides what a write that fails costs, and how much before and after a finding is kept. What a file of a ring is, is the
ring's decision.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from poolctl.api.progress import Progress
from poolctl.api.requests import InspectRequest
from poolctl.errors import CannotDo

if TYPE_CHECKING:
    from poolctl.observe.ring import Apart, Ring
    from poolctl.observe.sampler import Sampler
    from poolctl.observe.snapshot import Observation, Snapshot

BEFORE = 300.0
"""Seconds before a finding that are kept apart from the ring."""
KEEP_SIZE = 1_000_000_000
"""Bytes that the recordings of a service take by default, at most."""
MOST_APART = 3_600.0
"""Seconds of one such recording, at most: a finding may last for days, and the ring has the rest."""


@contextmanager
def open_recording(
    request: InspectRequest, sampler: "Sampler", progress: Progress
) -> Iterator["Callable[[Snapshot], None]"]:
    """Open the file of ``request.record``, and yield a function that writes a snapshot to it, or does nothing.

    A full disk ends the recording, not the inspection. The ring of a service is opened by its view.
    """
    if request.record is None or request.keep is not None:
        yield lambda _: None
        return
    from poolctl.observe.recording import RecordingWriter

    is_broken = False

    def keep(snapshot: "Snapshot") -> None:
        nonlocal is_broken
        if not is_broken:
            try:
                recorder.write(snapshot, sampler.observation)
            except CannotDo as error:
                is_broken = True
                progress.warn(f"{error.message}; sampling continues without the recording")

    with RecordingWriter(Path(request.record), show_literals=request.show_literals) as recorder:
        yield keep
        with suppress(CannotDo):
            recorder.note(sampler.observation)


class FlightRecorder:
    """The ring of a service, and the recordings of its findings. Without ``--keep`` it keeps nothing."""

    def __init__(self, request: InspectRequest, progress: Progress) -> None:
        self._progress = progress
        self._ring: Ring | None = None
        self._apart: Apart | None = None
        self._apart_until = 0.0
        self._trouble = ""
        if request.keep is not None and request.record is not None:
            from poolctl.observe import ring

            self._ring = ring.Ring(
                Path(request.record),
                keep=request.keep,
                most_bytes=request.keep_size or KEEP_SIZE,
                show_literals=request.show_literals,
            )

    def write(self, snapshot: "Snapshot", observation: "Observation") -> None:
        """Write ``snapshot``. What fails is reported when it begins and when it is over, and tried again."""
        if self._ring is None:
            return
        try:
            self._ring.write(snapshot, observation)
            if self._apart is not None:
                self._apart.write(snapshot, observation)
        except CannotDo as error:
            self._end_apart()
            self._report(error.message)
        else:
            self._report("")
        if self._apart is not None and snapshot.at >= self._apart_until:
            self._end_apart()

    def begin_apart(self, code: str, snapshots: "Iterable[Snapshot]", observation: "Observation") -> None:
        """Keep what came before a finding apart from the ring, and what follows until ``end_apart()``."""
        if self._ring is None or self._apart is not None:
            return
        now = observation.last.at
        before = [each for each in snapshots if each.at >= now - BEFORE]
        try:
            self._apart = self._ring.start_apart(code, before, observation)
            self._apart_until = now + MOST_APART
        except CannotDo as error:
            self._report(error.message)

    @property
    def apart(self) -> Path | None:
        """The recording of the findings under way."""
        return self._apart.path if self._apart is not None else None

    def end_apart(self) -> None:
        """Note that no finding is under way any more."""
        self._end_apart()

    def close(self) -> None:
        self._end_apart()
        if self._ring is not None:
            self._ring.close()

    def _end_apart(self) -> None:
        if self._apart is not None:
            self._apart.close()
            self._apart = None

    def _report(self, trouble: str) -> None:
        if trouble and not self._trouble:
            self._progress.warn(f"{trouble}; sampling continues, and the recording when there is room")
        elif self._trouble and not trouble:
            self._progress.note("the recording continues")
        self._trouble = trouble
