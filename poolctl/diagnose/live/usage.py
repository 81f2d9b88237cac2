"""How an application uses its connections: what is active, what pauses in a transaction, what rests.

Decides when a connection counts as held. What follows from that is left to the rules.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

from poolctl.diagnose.live.tracks import STUCK_AFTER, TIMES_LONGEST, TIMES_TYPICAL, Application, Track, count_at
from poolctl.diagnose.live.waits import PoolSeries
from poolctl.observe.snapshot import PoolFigures

SPREAD = 0.06
"""Seconds between the youngest and the oldest of a set that still count as one moment. Holders that wait for each
other were within it on idle and on loaded machines (5 to 32 ms measured); leaks come one by one."""


TRANSACTIONS_EACH = 10
"""Transactions that a connection should carry to be worth its opening, which costs milliseconds."""
LEAST_OPENED = 1.0
"""Connections opened in a second, from which that matters; fewer are a health check or a cron job."""


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


LEAST_RETURNS = 3
"""Connections that came back, from which their mean shows how long a connection is held."""


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """How long connections are held, by what the pools themselves counted."""

    mean: float
    """Seconds, of at least ``LEAST_RETURNS`` holds that came back; 0: not known."""
    returned: float | None
    """Holds that came back within the window; None: not known."""

    @property
    def limit(self) -> float:
        """Seconds up to which a hold is nothing unusual; 0: not known."""
        return TIMES_LONGEST * self.mean

    @property
    def are_long(self) -> bool:
        """Whether a connection is usually held for so long that a short observation finds it motionless."""
        return self.mean > STUCK_AFTER


UNKNOWN_TIMES = HoldTimes(0.0, None)


def measure_hold_times(pools: Sequence[PoolSeries]) -> HoldTimes:
    """Measure how long connections are held by clients, from the pools' counters.

    The mean of the window where enough came back in it, else of all time. Where only acquires are counted, Little's
    law: connections in use x seconds / holds that came back, of pools that were full in every sample.
    """
    returns = [_count_returns(pool) for pool in pools]
    in_window = sum(last - first for first, last in returns if first is not None and last is not None)
    is_counted = bool(returns) and all(first is not None and last is not None for first, last in returns)
    times = [pool.measure_growth("use_time_total") for pool in pools]
    mean = 0.0
    if pools and all(time is not None for time in times) and in_window >= LEAST_RETURNS:
        mean = sum(time or 0.0 for time in times) / in_window
    elif pools and all(pool.last.use_time_total is not None for pool in pools):
        ever = sum(last or 0.0 for _, last in returns)
        mean = sum(pool.last.use_time_total or 0.0 for pool in pools) / ever if ever >= LEAST_RETURNS else 0.0
    elif is_counted and in_window >= LEAST_RETURNS and all(pool.was_always_full for pool in pools):
        mean = sum((pool.last.in_use or 0) * pool.window for pool in pools) / in_window
    return HoldTimes(mean, in_window if is_counted else None)


def _count_returns(pool: PoolSeries) -> tuple[float | None, float | None]:
    """Count the holds that had come back by the first and by the last sample; None where that is not reported."""
    first, last = (_read_returns(figures) for figures in (pool.figures[0], pool.last))
    # A process that restarted counts from zero.
    return (first, last) if first is not None and last is not None and first <= last else (None, last)


def _read_returns(figures: PoolFigures) -> float | None:
    if figures.use_count_total is not None:
        return figures.use_count_total
    if figures.acquired_total is None:
        return None
    # psycopg_pool counts a request when it is made, so the ones that wait are among them.
    waiting = (figures.waiting or 0) if figures.waiting_may_lie else 0
    return max(0.0, figures.acquired_total - (figures.in_use or 0) - waiting)


def find_stuck(application: Application, times: HoldTimes) -> tuple[Track, ...]:
    """Find the survivors of ``application`` that are also older than the holds that its pools saw coming back."""
    return tuple(track for track in application.stuck if track.age > times.limit)


LEAST_TURNS = 4
"""Backends in use from which they rather are a pool than the workers of a batch: the smallest default size of a common
pool (psycopg_pool 4, SQLAlchemy 5, HikariCP 10)."""
TIMES_GAP = 2
"""Holds that begin at random, as many as end: the youngest is older than two mean gaps once in 7 observations, and"""
MOST_GAPS = 3
"""older than three once in 20."""


def takes_turns(
    application: Application, held: Sequence[Track], times: HoldTimes, most_gaps: float = TIMES_GAP
) -> bool:
    """Return True if new holds begin in backends of earlier ones, so that old holds end, although no end was observed.

    All backends are in a transaction, logged in before the oldest of these began, and the ages of the transactions are
    spread evenly from zero on: the youngest is less than ``most_gaps`` mean gaps old. Of a leak that filled its pool
    the youngest gets older; while one goes on, other backends do short work or wait for some. Where the pool says how
    long it is held, that decides.
    """
    tracks = application.tracks
    begun = [track.last.transaction_at for track in tracks]
    logged_in = [track.last.started_at for track in tracks]
    is_known = None not in begun and None not in logged_in and all(track.is_in_transaction for track in tracks)
    is_telling = len(tracks) >= LEAST_TURNS and 2 * len(held) >= len(tracks) and tracks[0].sample_count > 1
    if times.mean or not (is_known and is_telling) or 0 < application.longest_ended <= STUCK_AFTER:
        return False
    now = tracks[0].now
    ages = [now - at for at in begun if at is not None]
    sessions = [now - at for at in logged_in if at is not None]
    gap = (max(ages) - min(ages)) / (len(ages) - 1)
    return max(ages) - min(ages) > STUCK_AFTER and min(ages) < most_gaps * gap and min(sessions) > max(ages) + gap


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


MOSTLY_SHARE = 0.6
SHORTEST_PAUSE = 0.025
"""Where most of the use is idle in a transaction, pauses of that length are something else too: of pauses of 40 ms on
average a short look measures less than 50 as often as more."""


USED_UP_SHARE = 0.9
"""Share of an application's backends in use, from which it has none to spare."""


MEAN_USED_SHARE = 0.95
"""Share of an application's backends in use on average, from which it has none to spare either: a few samples may catch
one of a small pool between two holds."""


MOST_HELD_SHARE = 0.75
"""Share of an application's backends that idle in a transaction for long, from which the next request finds none."""


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
    mean_used: float = 0.0

    @property
    def share(self) -> float:
        return self.paused / max(1, self.active + self.paused + self.stuck)

    def is_elsewhere(self, least: float = LEAST_PAUSE) -> bool:
        """Return True if a large part of the use is pauses of ``least`` seconds or more in transactions."""
        return self.share > HELD_SHARE and (
            self.pause >= least or (self.share >= MOSTLY_SHARE and self.pause >= least * SHORTEST_PAUSE / LEAST_PAUSE)
        )


def measure_use(application: Application, times: HoldTimes = UNKNOWN_TIMES) -> HoldPattern:
    """Measure how ``application`` used its connections. ``times``: what its pools say of them.

    A pause of which the server hides the beginning is as long as samples found it in one transaction.
    """
    stuck = {track.pid for track in find_stuck(application, times)}
    if stuck:
        # Beside a leak, what rests for as long is rather its newest than a pause.
        stuck |= {t.pid for t in application.tracks if t.is_in_transaction and t.is_confirmed and t.age > STUCK_AFTER}
    pauses: list[float] = []
    active = lost = 0
    tracks = (*application.tracks, *application.gone)
    for track in tracks:
        active += track.usage.active
        if track.pid in stuck:
            lost += len(track.usage.pauses)
        else:
            pauses += track.usage.pauses
    used = Counter(chain.from_iterable(track.usage.times for track in tracks))
    counts = count_at(tracks)
    full = sum(1 for at, total in counts.items() if used[at] >= USED_UP_SHARE * total)
    samples = max(1, len(counts))
    pause = max(0.0, 2 * median(pauses)) if pauses else 0.0
    return HoldPattern(active, len(pauses), lost, pause, full / samples, len(pauses) / samples, used.total() / samples)
