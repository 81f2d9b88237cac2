"""What the model counts: errors, histograms, and the snapshot of a pool."""

from poolctl.engines.model.state import IN_USE, State
from poolctl.pool import Closed, PoolStats
from poolctl.scenario.run import ErrorKind

WORTHWHILE = 1_000
"""Values that are counted together: below it the calls cost more, above it they have left the processor's cache."""


class Counts(State):
    __slots__ = ()

    def error(self, p: int, counted: bool, kind: ErrorKind, now: float) -> None:
        self.n_errors += 1
        if counted:
            # By identity: to hash a whole ErrorKind for each timeout is what an overload would mostly do.
            seen = self.errors[self.p_tally[p]].get(id(kind))
            if seen is None:
                self.errors[self.p_tally[p]][id(kind)] = [1, now, kind]
            else:
                seen[0] += 1

    def flush(self) -> None:
        """Count what was collected, where it is worth it."""
        for backlog in self.backlogs:
            if len(backlog.values) >= WORTHWHILE:
                backlog.count()

    def finish(self) -> None:
        """Bring the histograms up to date."""
        for backlog in self.backlogs:
            backlog.settle()
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


def _or_none(value: float) -> float | None:
    return None if value < 0 else value
