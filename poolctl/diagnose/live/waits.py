"""Clients that wait for a connection, as far as a source reports them: pool figures, poolers, refusals, listen queues.

Decides whether a wait lasts. Waiting clients are what separates a leak from a pool that is merely large: on the server
both are backends that do nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from poolctl.observe.snapshot import BouncerLink, BouncerPool, BouncerSample, PgpoolSample, PoolFigures, Snapshot

SUSTAINED_SHARE = 0.5
"""Share of the samples in which clients wait, the last one included; below it the waits were a burst that drained."""
SUSTAINED_SAMPLES = 4
"""Samples up to the last one, each with clients that wait, from which it is no burst either: half of those of the usual
look. A pool may have run out late in a long one."""


def _lasts(counts: Sequence[int]) -> bool:
    """Return True if the clients that wait, by ``counts`` of the samples, do so for longer than a burst takes."""
    share = sum(1 for each in counts if each) / len(counts)
    at_end = counts[-SUSTAINED_SAMPLES:]
    return counts[-1] > 0 and (share >= SUSTAINED_SHARE or (len(at_end) == SUSTAINED_SAMPLES and all(at_end)))


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many clients wait. ``count`` None: no source reports it. ``sustained``: not only for a moment."""

    count: int | None = None
    sustained: bool = False
    by: str = ""
    """The sources that report it."""

    @property
    def is_known(self) -> bool:
        return self.count is not None

    def __bool__(self) -> bool:
        return bool(self.count)


LEAST_RISE = 3
"""Connections more in use than before, from which a pool rises."""


def measure_rise(figures: Iterable[PoolFigures]) -> int:
    """Return by how much the least in use of the last third is above that of the first: what a leak leaves behind.

    0 with too few figures.
    """
    counts = [each.in_use for each in figures if each.in_use is not None]
    third = len(counts) // 3
    return max(0, min(counts[-third:]) - min(counts[:third])) if third >= 2 else 0


@dataclass(frozen=True)
class PoolSeries:
    """One application's own pool, sample by sample."""

    figures: tuple[PoolFigures, ...]
    times: tuple[float, ...]

    @property
    def last(self) -> PoolFigures:
        return self.figures[-1]

    @property
    def window(self) -> float:
        return max(0.0, self.times[-1] - self.times[0])

    def compare_thirds(self, total: str) -> float | None:
        """Return the growth of a total in the last third by that in the first; None where it is not known."""
        third = len(self.figures) // 3
        values = [getattr(each, total) for each in self.figures]
        if third < 2 or None in values:
            return None
        first, last = values[third] - values[0], values[-1] - values[-third - 1]
        return last / first if first > 0 and last >= 0 else None

    def compare_use_times(self) -> float | None:
        """Return the mean use time in the last third by that in the first; None where it is not known."""
        times, counts = self.compare_thirds("use_time_total"), self.compare_thirds("use_count_total")
        return times / counts if times is not None and counts else None

    @property
    def max_open(self) -> int:
        """The pool's limit; 0: none, or not reported."""
        return self.last.max_open or 0

    @property
    def size(self) -> int:
        """The pool's limit; where it is not reported, the most connections that it had open. 0: none."""
        if self.last.max_open is not None:
            return self.last.max_open
        return max((each.open or 0 for each in self.figures), default=0)

    def _is_used_up(self, figures: PoolFigures) -> bool:
        # SQLAlchemy's status and node-postgres have no limit: then all that is open has to be in use.
        size = figures.max_open if figures.max_open is not None else self.size
        return figures.in_use is not None and 0 < size <= figures.in_use

    @property
    def full(self) -> int:
        """Samples in which every connection was in use."""
        return sum(self._is_used_up(each) for each in self.figures)

    @property
    def full_at(self) -> frozenset[float]:
        """Instants of the samples in which every connection was in use."""
        return frozenset(at for at, each in zip(self.times, self.figures, strict=True) if self._is_used_up(each))

    @property
    def is_full(self) -> bool:
        """Whether all of it is in use in four samples of five, and in the last one."""
        return self._is_used_up(self.last) and self.full >= 0.8 * len(self.figures)

    @property
    def is_short(self) -> bool:
        """Whether it is full, and clients wait for it in half of the samples."""
        return self.is_full and self.waiting.sustained and bool(self.waiting)

    @property
    def is_full_now(self) -> bool:
        """Whether all of it is in use in the last two samples: exhausted by now, whatever it was at first."""
        return all(self._is_used_up(each) for each in self.figures[-2:])

    @property
    def was_always_full(self) -> bool:
        return 0 < len(self.figures) == self.full

    def measure_growth(self, name: str) -> float | None:
        """Return by how much the total ``name`` grew over the samples; None if it is not reported.

        A process that restarted begins at zero, so each step down counts as none.
        """
        values = [value for each in self.figures if (value := getattr(each, name)) is not None]
        if len(values) < 2:
            return None
        return float(sum(max(0.0, b - a) for a, b in pairwise(values)))

    @cached_property
    def waiting(self) -> Waiting:
        """Clients that wait: by the gauge; without one, by the totals of waits and of their time, which only count the
        waits that were served; or by requests that timed out."""
        gauges = [each.waiting for each in self.figures if each.waiting is not None]
        timed_out = int(self.measure_growth("timed_out_total") or 0)
        # psycopg_pool counts clients that gave up until the next release; with a free connection no client waits.
        if gauges and self.last.waiting_may_lie and self.last.idle:
            gauges = [0]
        if gauges and (gauges[-1] or not timed_out):
            return Waiting(gauges[-1], _lasts(gauges), "pool figures")
        if timed_out and not (self.last.idle or 0):
            return Waiting(timed_out, True, "timeouts in the pool's figures")
        return self._judge_by_totals()

    def _judge_by_totals(self) -> Waiting:
        queued, waited = self.measure_growth("queued_total"), self.measure_growth("wait_time_total")
        total = self.last.queued_total
        if queued is None and waited is None:
            return Waiting()
        mean = (waited or 0.0) / self.window if self.window > 0 else 0.0
        if (queued or waited) and self.last.in_use is not None:
            # A client began to wait: as many as waited at once on average, and one at least while the pool is full.
            count = max(round(mean), 1 if self.is_full_now else 0)
            return Waiting(count, self.is_full_now or mean >= SUSTAINED_SHARE, "pool figures")
        if total and self.was_always_full:
            # Clients waited before the first sample and none was served since: whether one still waits is not known.
            return Waiting()
        return Waiting(0, False, "pool figures")

    @property
    def floor(self) -> tuple[int, ...]:
        """The least in use in each quarter of the samples, in order: what did not come back in that quarter."""
        values = [each.in_use for each in self.figures if each.in_use is not None]
        size = max(1, len(values) // 4)
        return tuple(min(values[at : at + size]) for at in range(0, len(values), size)) if values else ()

    @property
    def steps(self) -> int:
        """How often the number in use climbed without ever falling, from sample to sample or from quarter to quarter; 0
        where it fell."""
        each_sample = [each.in_use for each in self.figures if each.in_use is not None]
        return max(_count_climbs(each_sample), _count_climbs(self.floor))


def _count_climbs(values: Sequence[int]) -> int:
    pairs = list(pairwise(values))
    return 0 if any(b < a for a, b in pairs) else sum(1 for a, b in pairs if b > a)


SECOND_EXPORTS = frozenset({"spring-jdbc", "opentelemetry"})
"""Exporters that report the pools of other libraries a second time, beside the library's own figures: Spring Boot's
``jdbc_connections_*`` and the instrumentations of OpenTelemetry."""
SAME_SHARE = 0.2
"""Share by which two exports of one pool may differ: each gauge is read at an instant of its own."""


def build_pool_series(snapshots: Sequence[Snapshot]) -> tuple[PoolSeries, ...]:
    """Follow the pools that the last snapshot with any still has through the snapshots before; each pool once, also
    where two exporters report it."""
    rows: dict[tuple[str, ...], list[tuple[float, PoolFigures]]] = {}
    for snapshot in snapshots:
        for figures in snapshot.pools:
            labels = tuple(f"{key}={value}" for key, value in sorted(figures.labels.items()))
            rows.setdefault((figures.source, figures.name, figures.library, *labels), []).append((snapshot.at, figures))
    found = [PoolSeries(tuple(each for _, each in series), tuple(at for at, _ in series)) for series in rows.values()]
    seconds = {id(second) for second in _find_second_exports(found)}
    return tuple(series for series in found if id(series) not in seconds)


def _find_second_exports(found: Sequence[PoolSeries]) -> Iterator[PoolSeries]:
    """Find the series that repeat a pool of a library's own figures from the same place; one for each such pool."""
    seconds = [series for series in found if series.last.library in SECOND_EXPORTS]
    for first in found:
        if first.last.library in SECOND_EXPORTS:
            continue
        second = next((each for each in seconds if _is_same_pool(first, each)), None)
        if second is not None:
            seconds.remove(second)
            yield second


def _is_same_pool(first: PoolSeries, second: PoolSeries) -> bool:
    a, b = first.last, second.last
    if a.source != b.source or first.times != second.times or (a.max_open or 0) != (b.max_open or 0):
        return False
    pairs = zip(first.figures, second.figures, strict=True)
    close = sum(_is_close(x.in_use, y.in_use) and _is_close(x.open, y.open) for x, y in pairs)
    return 2 * close > len(first.figures)


def _is_close(a: int | None, b: int | None) -> bool:
    return a is None or b is None or abs(a - b) <= max(1, SAME_SHARE * max(a, b))


@dataclass(frozen=True)
class BouncerQueue:
    """One pool of a PgBouncer, sample by sample, with the last sample of the whole PgBouncer."""

    bouncer: BouncerSample
    pools: tuple[BouncerPool, ...]

    @property
    def last(self) -> BouncerPool:
        return self.pools[-1]

    @property
    def size(self) -> int:
        """Server connections that it may open, without the reserve; 0: not reported."""
        row = next((each for each in self.bouncer.databases if each.name == self.last.database), None)
        if row is not None and row.pool_size:
            return row.pool_size
        return parse_setting(self.bouncer.config.get("default_pool_size"))

    @property
    def mode(self) -> str | None:
        row = next((each for each in self.bouncer.databases if each.name == self.last.database), None)
        return self.last.mode or (row.mode if row else None) or self.bouncer.config.get("pool_mode")

    @property
    def database(self) -> str:
        """The database's name on the server."""
        row = next((each for each in self.bouncer.databases if each.name == self.last.database), None)
        return (row.database if row else None) or self.last.database

    @property
    def is_paused(self) -> bool:
        return any(each.paused for each in self.bouncer.databases if each.name == self.last.database)

    @property
    def waiting(self) -> Waiting:
        counts = [each.clients_waiting for each in self.pools]
        return Waiting(counts[-1], _lasts(counts), "PgBouncer")

    @property
    def waiting_clients(self) -> tuple[BouncerLink, ...]:
        row = self.last
        return tuple(
            client
            for client in self.bouncer.clients
            if client.state == "waiting" and (client.user, client.database) == (row.user, row.database)
        )

    @property
    def is_used_up(self) -> bool:
        """Whether every server connection that it has is taken."""
        return self.last.servers_active > 0 and self.last.servers_idle + self.last.servers_used == 0


def build_queues(snapshots: Sequence[Snapshot]) -> tuple[BouncerQueue, ...]:
    """Follow the pools that the last sample of each PgBouncer has; its own console is not one."""
    last: dict[str, BouncerSample] = {}
    rows: dict[tuple[str, str, str], list[BouncerPool]] = {}
    for snapshot in snapshots:
        for bouncer in snapshot.bouncers:
            last[bouncer.target] = bouncer
            for pool in bouncer.pools:
                rows.setdefault((bouncer.target, pool.database, pool.user), []).append(pool)
    return tuple(
        BouncerQueue(last[target], tuple(pools))
        for (target, database, user), pools in rows.items()
        if database != "pgbouncer" and any((p.database, p.user) == (database, user) for p in last[target].pools)
    )


def collect_pgpools(snapshots: Sequence[Snapshot]) -> tuple[PgpoolSample, ...]:
    found = {pgpool.target: pgpool for snapshot in snapshots for pgpool in snapshot.pgpools}
    return tuple(found.values())


def parse_setting(text: str | None) -> int:
    """Return a pooler's setting as a number; 0 where it is not one."""
    try:
        return max(0, int(text or 0))
    except ValueError:
        return 0
