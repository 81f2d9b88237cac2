"""Times in logarithmic buckets, and the eight numbers that summarize their distribution.

Decides what a percentile is. Times are seconds.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any, Self

TOLERANCE = 0.05
"""Share by which a percentile may be too low before it is called a lower bound."""


class Histogram:
    """Times in logarithmic buckets: exact count, total and maximum, percentiles within 0.4 % or a microsecond.

    The layout is that of HdrHistogram with 7 bits of mantissa over whole microseconds. Its size depends on the
    largest time, not on how many were recorded, and two histograms merge without loss.
    """

    __slots__ = ("count", "counts", "max", "total")

    def __init__(self) -> None:
        self.counts = [0] * 256
        self.count = 0
        self.total = 0.0
        self.max = 0.0

    def record(self, seconds: float) -> None:
        """Add one time. A negative one, which a clock that is set back can produce, counts as 0 in the buckets."""
        microseconds = int(seconds * 1e6)
        if microseconds >= 256:
            shift = microseconds.bit_length() - 8
            microseconds = (shift << 7) + (microseconds >> shift)
            if microseconds >= len(self.counts):
                self.counts.extend([0] * (microseconds + 1 - len(self.counts)))
        elif microseconds < 0:
            microseconds = 0
        self.counts[microseconds] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.max:
            self.max = seconds

    def merge(self, other: "Histogram") -> None:
        """Add all times of ``other``."""
        if len(other.counts) > len(self.counts):
            self.counts.extend([0] * (len(other.counts) - len(self.counts)))
        for at, number in enumerate(other.counts):
            if number:
                self.counts[at] += number
        self.count += other.count
        self.total += other.total
        self.max = max(self.max, other.max)

    def percentile(self, percent: float) -> float:
        """Return the smallest recorded time that at least ``percent`` % do not exceed (nearest rank); 0 if empty."""
        if not self.count:
            return 0.0
        rank = max(1, -(-self.count * percent // 100))
        if rank >= self.count:
            return self.max
        passed = 0
        for at, number in enumerate(self.counts):
            passed += number
            if passed >= rank:
                return min(_bucket_middle(at), self.max)
        return self.max

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        buckets = {str(at): number for at, number in enumerate(self.counts) if number}
        return {"buckets": buckets, "count": self.count, "total": self.total, "max": self.max}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` gave."""
        histogram = cls()
        buckets = {int(at): number for at, number in values["buckets"].items()}
        histogram.counts = [0] * max(256, max(buckets, default=0) + 1)
        for at, number in buckets.items():
            histogram.counts[at] = number
        histogram.count, histogram.total, histogram.max = values["count"], values["total"], values["max"]
        return histogram


class Backlog:
    """Times on their way into a histogram. To record a thousand of them together takes two thirds of the time.

    The caller appends times to ``values``, none of them negative, and may count a time of exactly 0 in ``zeros``
    instead. The histogram lacks them until ``settle`` is called.
    """

    __slots__ = ("_histogram", "_microseconds", "values", "zeros")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._microseconds: Counter[int] = Counter()
        self.values: list[float] = []
        self.zeros = 0

    def count(self) -> None:
        """Count the times in ``values``, but leave the buckets to ``settle``."""
        histogram, values = self._histogram, self.values
        if not values:
            return
        # Not sum(), which compensates for rounding since Python 3.12: the total must equal that of record().
        (histogram.total,) = deque(accumulate(values, initial=histogram.total), maxlen=1)
        histogram.count += len(values)
        histogram.max = max(histogram.max, max(values))
        self._microseconds.update(map(int, [value * 1e6 for value in values]))
        values.clear()

    def count_nanoseconds(self, times: list[int]) -> None:
        """Count whole nanoseconds, at once and not by way of ``values``."""
        if times:
            histogram = self._histogram
            histogram.total += sum(times) / 1e9
            histogram.count += len(times)
            histogram.max = max(histogram.max, max(times) / 1e9)
            self._microseconds.update([time // 1000 for time in times])

    def settle(self) -> None:
        """Bring the histogram up to date."""
        self.count()
        counts = self._histogram.counts
        counts[0] += self.zeros
        self._histogram.count += self.zeros
        self.zeros = 0
        for microseconds, number in self._microseconds.items():
            at = _find_bucket(microseconds)
            if at >= len(counts):
                counts.extend([0] * (at + 1 - len(counts)))
            counts[at] += number
        self._microseconds.clear()


def _find_bucket(microseconds: int) -> int:
    shift = max(0, microseconds.bit_length() - 8)
    return (shift << 7) + (microseconds >> shift)


def _bucket_middle(at: int) -> float:
    if at < 256:
        return at / 1e6
    shift = (at >> 7) - 1
    return (((at - (shift << 7)) << shift) + (1 << shift) / 2) / 1e6


@dataclass(frozen=True, slots=True)
class Times:
    """A distribution of times in eight numbers."""

    count: int = 0
    total: float = 0.0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    censored: int = 0
    """How many of them were cut off by the end of the run: each lasts at least as long as its time here."""
    p99_at_least: bool = False
    """Whether the true p99 may be clearly above ``p99``, because of the times that were cut off; likewise below."""
    p50_at_least: bool = False
    p90_at_least: bool = False
    p95_at_least: bool = False

    @classmethod
    def of(cls, ended: Histogram, cut_off: Histogram | None = None) -> Self:
        """Summarize the times in ``ended`` together with the ones ``cut_off`` by the end of the run."""
        histogram = ended
        if cut_off is not None and cut_off.count:
            histogram = Histogram()
            histogram.merge(ended)
            histogram.merge(cut_off)
        percents = (50, 90, 95, 99)
        p50, p90, p95, p99 = values = [histogram.percentile(percent) for percent in percents]
        mean = histogram.total / histogram.count if histogram.count else 0.0
        censored = histogram.count - ended.count
        bounds = [
            bool(censored) and _find_most(ended, histogram.count, percent) > value * (1.0 + TOLERANCE)
            for percent, value in zip(percents, values, strict=True)
        ]
        return cls(
            histogram.count,
            histogram.total,
            mean,
            p50,
            p90,
            p95,
            p99,
            histogram.max,
            censored,
            bounds[3],
            *bounds[:3],
        )


def _find_most(ended: Histogram, count: int, percent: int) -> float:
    """Return the true percentile if those of ``count`` times that are not in ``ended`` had no end."""
    rank = -(-count * percent // 100)
    return ended.percentile(100 * rank / ended.count) if 0 < rank <= ended.count else inf
