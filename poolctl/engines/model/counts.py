"""What the model counts: errors, histograms, and the snapshot of a pool."""

from array import array
from collections import Counter, deque
from itertools import accumulate

from poolctl.engines.model.plan import Part, Pod
from poolctl.engines.model.state import IN_USE, State
from poolctl.histogram import Histogram
from poolctl.pool import Closed, PoolStats
from poolctl.run import ErrorKind
from poolctl.scenario import Scenario

WORTHWHILE = 1_000
"""Values that are counted together: below it the calls cost more, above it they have left the processor's cache."""


class Counts(State):
    __slots__ = ("codes",)

    def __init__(self, scenario: Scenario, parts: list[Part], pods: list[Pod]) -> None:
        super().__init__(scenario, parts, pods)
        self.codes: list[tuple[Counter[int], Counter[int]]] = [(Counter(), Counter()) for _ in self.tallies]
        """Of each tally, how often wait times and use times had which upper bits."""

    def error(self, p: int, counted: bool, kind: ErrorKind, now: float) -> None:
        self.n_errors += 1
        if counted:
            # By identity: to hash a whole ErrorKind for each timeout is what an overload would mostly do.
            seen = self.errors[self.p_tally[p]].get(id(kind))
            if seen is None:
                self.errors[self.p_tally[p]][id(kind)] = [1, now, kind]
            else:
                seen[0] += 1

    def flush(self, least: int = WORTHWHILE) -> None:
        """Count what was collected, where it is ``least`` times or more."""
        for tally, waits, uses, seen in zip(self.tallies, self.waits, self.uses, self.codes, strict=True):
            if len(waits) >= least:
                count(tally.wait_time, waits, seen[0])
            if len(uses) >= least:
                count(tally.use_time, uses, seen[1])

    def finish(self) -> None:
        """Bring the histograms up to date."""
        self.flush(1)
        for tally, (waits, uses) in zip(self.tallies, self.codes, strict=True):
            record(tally.wait_time, waits)
            record(tally.use_time, uses)
        for p, zeros in enumerate(self.zero_waits):
            histogram = self.tallies[self.p_tally[p]].wait_time
            histogram.counts[0] += zeros
            histogram.count += zeros
            self.zero_waits[p] = 0

    def stats(self, p: int, now: float) -> PoolStats:
        """The snapshot of one pod's pool."""
        idle, since, ordered = len(self.p_idle[p]), self.s_since[p], self.p_ordered[p]
        return PoolStats(
            max_open=self.p_part[p].settings.max_open,
            open=self.p_open[p] - ordered,
            in_use=self.p_open[p] - idle - self.p_opening[p],
            idle=idle,
            opening=self.p_opening[p] - ordered,
            waiting=self.p_waiting[p],
            queued_count=self.s_queued[p],
            queued_time=self.s_queued_time[p],
            opened=self.s_opened[p],
            open_failures=self.s_failed[p],
            closed=Closed(
                max_idle=self.s_max_idle[p],
                max_idle_time=self.s_idle_time[p],
                max_lifetime=self.s_lifetime[p],
                error=self.s_error[p],
                leak_reclaimed=self.s_reclaimed[p],
                other=self.s_other[p],
            ),
            peak_open=self.s_peak_open[p],
            peak_in_use=self.s_peak_in_use[p],
            open_time=self.s_open_area[p] + (self.p_open[p] - ordered) * now,
            in_use_time=self.s_use_time[p] + self.held_so_far(p, now),
            exhausted_at=_or_none(self.s_exhausted_at[p]),
            exhausted_since=_or_none(since),
            recovered_at=_or_none(self.s_recovered[p]),
            exhausted_time=self.s_exhausted_time[p] + (now - since if since >= 0 else 0.0),
        )

    def held_so_far(self, p: int, now: float) -> float:
        """Connection-seconds of what is in use."""
        held = 0.0
        for k in self.p_own[p]:
            if self.k_state[k] == IN_USE:
                held += now - self.k_acquired[k]
        return held


def count(histogram: Histogram, values: list[float], codes: "Counter[int]") -> None:
    """Histogram.record for each of the values, of which none is negative; their buckets are left to ``record``.

    The upper 19 bits of a float of 64 are its sign, its exponent and 7 bits of its mantissa. That is a bucket of the
    histogram, read where it is instead of computed.
    """
    # Not sum(), which compensates for rounding in newer Pythons: the total is that of record().
    (histogram.total,) = deque(accumulate(values, initial=histogram.total), maxlen=1)
    histogram.count += len(values)
    histogram.max = max(histogram.max, max(values))
    bits = memoryview(array("d", [value * 1e6 for value in values])).cast("B").cast("Q")
    codes.update([one >> 45 for one in bits.tolist()])
    values.clear()


def record(histogram: Histogram, codes: "Counter[int]") -> None:
    """Put the numbers of ``codes`` into the buckets they mean."""
    counts = histogram.counts
    for code, number in codes.items():
        exponent, mantissa = (code >> 7) - 1023, (code & 127) + 128
        if exponent > 7:
            at = ((exponent - 7) << 7) + mantissa
            if at >= len(counts):
                counts.extend([0] * (at + 1 - len(counts)))
        else:
            at = mantissa >> (7 - exponent) if exponent >= 0 else 0
        counts[at] += number
    codes.clear()


def _or_none(value: float) -> float | None:
    return None if value < 0 else value
