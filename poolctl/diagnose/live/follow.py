"""The newest snapshots of a live view, and the backends in them, kept up to date from snapshot to snapshot.

Decides what a view that goes on for hours keeps. The diagnosis is that of the kept snapshots: the same as if they were
diagnosed from scratch.
"""

from collections import deque
from dataclasses import replace

from poolctl.diagnose.finding import Diagnosis
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.tracks import Sample, Tracker, comes_from, read_sample, select_samples
from poolctl.observe.snapshot import Floor, Observation, Snapshot

MOST_SAMPLES = 600
"""Ten minutes at one sample a second show every staircase that a person would wait for."""
MOST_ROWS = 50_000
"""Rows of backends that changed or were in use: what a diagnosis costs. Of 1,000 backends of which 50 are in use at a
time, ten minutes; of 5,000 that are all in use, the least number of samples."""
LEAST_SAMPLES = 12
FLOOR_WIDTH = 60.0
"""Seconds in which only the least number of backends is kept of what is forgotten."""
MOST_FLOORS = 2_880
"""Two days of minutes. After that each stretch is twice as long."""


class Follower:
    """The newest snapshots: at most ``most_samples``; once they hold more than ``most_rows`` rows, down to ``least``.

    ``forgotten``: how many older ones were given up.
    """

    def __init__(
        self, most_samples: int = MOST_SAMPLES, most_rows: int = MOST_ROWS, least: int = LEAST_SAMPLES
    ) -> None:
        self.snapshots: deque[Snapshot] = deque()
        self.forgotten = 0
        self._most_samples, self._most_rows, self._least = most_samples, most_rows, least
        self._read: deque[Sample | None] = deque()
        self._tracker = Tracker()
        self._source: float | None = None
        self._floors: list[Floor] = []
        self._floor_width = FLOOR_WIDTH
        self._floor_source: float | None = None

    def add(self, snapshot: Snapshot) -> None:
        """Follow the backends into ``snapshot``, and forget the oldest ones if there are too many."""
        sample = read_sample(snapshot)
        self.snapshots.append(snapshot)
        self._read.append(sample)
        samples = self._tracker.samples
        if sample is not None:
            is_next = not samples or (samples[-1].at < sample.at and comes_from(snapshot) == self._source)
            if is_next:
                self._source = comes_from(snapshot)
                self._tracker.add(sample)
            else:
                self._follow_again()
        while len(self.snapshots) > self._most_samples or (
            self._tracker.weight > self._most_rows and len(self.snapshots) > self._least
        ):
            self._forget_oldest()

    def diagnose(self, observation: Observation) -> tuple[Observation, Diagnosis]:
        """Diagnose the kept snapshots with the facts and sources of ``observation``; return both."""
        floors = tuple(self._floors) if self._source == self._floor_source else ()
        kept = replace(observation, snapshots=tuple(self.snapshots), floors=floors)
        return kept, diagnose(kept, self._tracker)

    def _forget_oldest(self) -> None:
        self.snapshots.popleft()
        sample, samples = self._read.popleft(), self._tracker.samples
        self.forgotten += 1
        if samples and samples[0] is sample:
            self._keep_floor(samples[0])
            self._tracker.forget_oldest()
        elif any(each is sample for each in samples):
            self._follow_again()

    def _keep_floor(self, sample: Sample) -> None:
        if self._source is None:
            return
        if self._source != self._floor_source or (self._floors and sample.at < self._floors[-1].at):
            # Another start of the server, or its clock was set back.
            self._floors, self._floor_source = [], self._source
        floors, count = self._floors, sample.client_count
        if floors and sample.at < floors[-1].at + self._floor_width:
            floors[-1] = replace(floors[-1], backends=min(floors[-1].backends, count))
            return
        floors.append(Floor(sample.at, count))
        if len(floors) > MOST_FLOORS:
            pairs = zip(floors[::2], floors[1::2], strict=False)
            self._floors = [replace(a, backends=min(a.backends, b.backends)) for a, b in pairs]
            self._floor_width *= 2

    def _follow_again(self) -> None:
        """Follow all kept samples again: the server restarted, its clock was set back, or another source answers."""
        self._tracker = Tracker(select_samples(self.snapshots, self._read))
        read = zip(reversed(self.snapshots), reversed(self._read), strict=True)
        self._source = next((comes_from(snapshot) for snapshot, sample in read if sample), None)
