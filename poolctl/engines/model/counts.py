"""What a run counts: errors, and the times of waits and uses in histograms."""

from poolctl.engines.model.plan import ModelInstance, ServicePlan
from poolctl.scenario.histogram import Backlog
from poolctl.scenario.run import ErrorKind, Tally

WORTHWHILE = 1_000
"""Values that are counted together: below it the calls cost more, above it they have left the processor's cache."""

FULL_HISTOGRAMS = 64
"""Instances up to which each has histograms of its own; above, the instances of a service share theirs."""


class RunCounter:
    """What one instance, or in a large fleet all instances of a service, counts."""

    __slots__ = ("errors", "late", "tally", "uses", "waits")

    def __init__(self) -> None:
        self.tally = Tally()
        self.waits, self.uses = Backlog(self.tally.wait_time), Backlog(self.tally.use_time)
        self.late = 0
        """Released after the load ended."""
        self.errors: dict[int, tuple[ErrorKind, int, float]] = {}
        """(kind, count, first at) by the identity of the kind: to hash a whole ErrorKind for each timeout is what
        an overload would mostly do."""

    def note_error(self, kind: ErrorKind, now: float) -> None:
        """Count an error."""
        _, count, first_at = self.errors.get(id(kind), (kind, 0, now))
        self.errors[id(kind)] = (kind, count + 1, first_at)

    def note_unfinished(self, waited: float, *, is_queued: bool) -> None:
        """Count an acquire that has no connection at the end of the run."""
        self.tally.unfinished += 1
        self.tally.unfinished_time.record(waited)
        self.tally.queued_count += is_queued

    def flush(self) -> None:
        """Count the times that were collected, where it is worth it."""
        for backlog in (self.waits, self.uses):
            if len(backlog.values) >= WORTHWHILE:
                backlog.count()

    def finish(self) -> None:
        """Bring the tally up to date."""
        self.waits.settle()
        self.uses.settle()
        self.tally.errors = {kind: (count, first_at) for kind, count, first_at in self.errors.values()}


def number_counters(plans: list[ServicePlan], instances: list[ModelInstance]) -> list[int]:
    """Return for each instance the number of the counter that it counts in."""
    if len(instances) > FULL_HISTOGRAMS:
        return [instance.part for instance in instances]
    return list(range(len(instances)))
