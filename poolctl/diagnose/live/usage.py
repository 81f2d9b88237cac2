"""How an application uses its connections: what is active, what pauses in a transaction, what rests.

Decides when a connection counts as held. What follows from that is left to the rules.
"""

from dataclasses import dataclass
from statistics import median

from poolctl.diagnose.live.tracks import STUCK_AFTER, TIMES_TYPICAL, Application, Track
from poolctl.diagnose.live.waits import PoolSeries

SPREAD = 0.06
"""Seconds between the youngest and the oldest of a set that still count as one moment. Jams of nested acquires were
within it on idle and on loaded machines (5 to 32 ms measured); leaks come one by one."""


def find_held(application: Application, tracks: tuple[Track, ...]) -> tuple[Track, ...]:
    """Find the backends that rest for longer than max(1 s, 10 x the median use), in or out of a transaction.

    Only backends that did something before: a pool opens connections ahead of need.
    """
    limit = max(STUCK_AFTER, TIMES_TYPICAL * application.typical_use)
    return tuple(
        track
        for track in tracks
        if (track.is_idle or track.is_in_transaction)
        and track.is_confirmed
        and track.was_used
        and (track.age > limit or (track.last.state_at is None and track.is_in_transaction))
    )


def is_quiet(pools: tuple[PoolSeries, ...]) -> bool:
    """Return True if no connection was acquired in the whole window, and yet some are in use."""
    grown = [pool.measure_growth("acquired_total") for pool in pools]
    in_use = any(pool.last.in_use for pool in pools)
    return (
        bool(pools) and in_use and all(growth is not None and growth <= 0 for growth in grown) and pools[0].window > 1.0
    )


HELD_SHARE = 0.3
"""Share of the time in use that is idle in a transaction, from which the application waits for something else."""


LEAST_PAUSE = 0.05
"""Typical seconds between two statements of one transaction, from which something else is done in between. The pauses
of an application with many small statements are network round trips of a few milliseconds, also on a busy machine
(measured on staged systems)."""


USED_UP_SHARE = 0.9
"""Share of an application's backends in use, from which it has none to spare."""


@dataclass(frozen=True, slots=True)
class HoldPattern:
    """How an application used its connections, over all samples."""

    active: int = 0
    paused: int = 0
    """Idle in a transaction that moved on or will."""
    stuck: int = 0
    pause: float = 0.0
    """Typical seconds idle in the transaction. Caught at random, a pause is half over, so twice the median so far."""
    used_up: float = 0.0
    """Share of the samples in which all but a tenth of the backends were in use."""
    mean_paused: float = 0.0

    @property
    def share(self) -> float:
        return self.paused / max(1, self.active + self.paused + self.stuck)


def measure_use(application: Application) -> HoldPattern:
    """Measure how ``application`` used its connections."""
    stuck = {track.pid for track in application.stuck}
    if stuck:
        # Beside a leak, what rests for as long is rather its newest than a pause.
        stuck |= {t.pid for t in application.tracks if t.is_in_transaction and t.is_confirmed and t.age > STUCK_AFTER}
    pauses: list[float] = []
    counts: dict[float, list[int]] = {}
    active = paused = lost = 0
    for track in (*application.tracks, *application.gone):
        for at, row in track.rows:
            count = counts.setdefault(at, [0, 0])
            count[1] += 1
            count[0] += row.in_transaction or row.is_active
            if track.pid in stuck and row.in_transaction:
                lost += 1
            elif row.in_transaction:
                paused += 1
                pauses.append(at - row.state_at if row.state_at is not None else 0.0)
            elif row.is_active and row.wait_event_type not in ("Lock", "Client"):
                active += 1
    full = sum(1 for used, total in counts.values() if used >= USED_UP_SHARE * total)
    samples = max(1, len(counts))
    pause = max(0.0, 2 * median(pauses)) if pauses else 0.0
    return HoldPattern(active, paused, lost, pause, full / samples, paused / samples)
