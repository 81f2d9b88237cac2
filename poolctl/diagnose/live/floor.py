"""The floor of the connections in use over hours: what never comes back shows there first.

Decides whether the floor rises, how fast, and when it reaches a limit. A load that comes and goes moves the top; a leak
of one connection an hour moves the floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

STRETCHES = 12
"""Equal parts of the time observed; the least of each is its floor."""
LEAST_TIME = 1_800.0
"""Seconds observed from which a floor says anything: a shorter rise is the load of a moment."""
LEAST_RISE = 3
RECENT = 4
"""Stretches in which a floor that still rises has its highest value. One that rises by ``LEAST_RISE`` does so."""
SURE, SPREAD = 2.58, 1.96
"""Standard normal deviates: of a rise that is no chance (1 %, two-sided), and of the interval (95 %)."""
WHOLE_DAY = 86_400.0
"""Seconds observed from which a rise is not merely that of a morning. Twenty hours may begin in the quietest one."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A floor that rises by ``slope`` connections a second, ``low`` to ``high`` with 95 % confidence.

    ``floor``: of the last stretch. ``time``: seconds observed.
    """

    slope: float
    low: float
    high: float
    floor: int
    time: float

    def estimate_time_left(self, free: int) -> tuple[float, tuple[float, float]]:
        """Return the seconds until ``free`` more connections are taken: most likely, and from when to when."""
        return free / self.slope, (free / self.high, free / self.low)


def measure_floor(points: Sequence[tuple[float, int]]) -> Trend | None:
    """Measure the trend of the floor of ``points``: instants, oldest first, and connections. None if it does not rise.

    Mann and Kendall's test on the floors of twelve stretches, with ties; slope and interval after Sen (Estimates of the
    regression coefficient based on Kendall's tau, 1968). Neither assumes a distribution, and single outliers do not
    matter.
    """
    if not points or points[-1][0] - points[0][0] < LEAST_TIME:
        return None
    start, time = points[0][0], points[-1][0] - points[0][0]
    width = time / STRETCHES
    floors: dict[int, int] = {}
    for at, count in points:
        stretch = min(STRETCHES - 1, int((at - start) / width))
        floors[stretch] = min(count, floors.get(stretch, count))
    known = sorted(floors.items())
    if len(known) < STRETCHES or known[-1][1] - known[0][1] < LEAST_RISE:
        return None
    if max(floor for _, floor in known[-RECENT:]) <= max(floor for _, floor in known[:-RECENT]):
        # A pool that has grown to its limit, or a deploy that was bigger.
        return None
    slopes = sorted((b - a) / ((to - at) * width) for (at, a), (to, b) in combinations(known, 2))
    concordance = sum((slope > 0) - (slope < 0) for slope in slopes)
    counts = list(floors.values())
    ties = [counts.count(value) for value in set(counts)]
    n = len(counts)
    deviation = sqrt((n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18)
    if deviation <= 0 or (concordance - 1) / deviation < SURE:
        return None
    reach = SPREAD * deviation
    low = slopes[max(0, int((len(slopes) - reach) / 2))]
    high = slopes[min(len(slopes) - 1, int((len(slopes) + reach) / 2) + 1)]
    middle = slopes[len(slopes) // 2]
    return Trend(middle, low, high, known[-1][1], time) if low > 0 else None
