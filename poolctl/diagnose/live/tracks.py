"""Backends followed through the samples: what moved, what stood still, and for how long.

Decides what *frozen*, *moved* and *stuck* mean, so that every rule means the same.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain, pairwise
from statistics import median
from typing import NamedTuple

from poolctl.observe.snapshot import ABORTED, IN_TRANSACTION, Backend, BackendTitle, Snapshot

STUCK_AFTER = 1.0
"""Seconds in one state from which a hold is worth a question. Of a busy application none of 12 to 17 transactions
outlived 0.2 s; of a leak 12 of 12 did (measured on PostgreSQL 18)."""
FIRST_USE = 1.0
"""Seconds after its opening in which a backend did all its work, if it was opened for a single use. Of a server behind
a pool of threads, each with a connection of its own, 40 of 40 did (staged and in a public report)."""
TIMES_TYPICAL = 10
"""And that many times the application's own median transaction: an application with slow transactions has no leak."""

LEAST_RESTS = 3
TIMES_LONGEST = 4
"""Rests in transactions that were observed to end, from which they show what is usual, and how many times the longest
of them is unusual. A proposal: of rests that end at any time alike, one in 1,500 lasts that long."""

_INTERACTIVE = re.compile(
    r"psql|pgcli|pg_?admin|dbeaver|datagrip|jetbrains|tableplus|navicat|heidisql|postico|beekeeper|azure ?data ?studio",
    re.IGNORECASE,
)
_OPERATIONS = re.compile(
    r"pg_dump|pg_restore|pg_basebackup|pg_receivewal|pg_activity|pgcenter|pg_top|pgmetrics|pghero|vacuumdb|reindexdb"
    r"|poolctl(?! simulate)|postgres_exporter|pg_exporter|datadog|pganalyze|pgbackrest|barman|wal-?g\b|zabbix|telegraf"
    r"|patroni",
    re.IGNORECASE,
)
_MONITORS = re.compile(
    r"pg_activity|pgcenter|pg_top|pgmetrics|pghero|postgres_exporter|pg_exporter|datadog|pganalyze|zabbix|telegraf"
    r"|prometheus|grafana|newrelic|netdata|check_postgres|monitor",
    re.IGNORECASE,
)


def is_tool(application: str) -> bool:
    """Return True for a person's or an operator's program, whose holds are on purpose: psql, a dump, a backup, a
    monitor."""
    name = application.strip()
    return _OPERATIONS.match(name) is not None or is_interactive(name)


def is_interactive(application: str) -> bool:
    """Return True for a client program that a person uses."""
    return _INTERACTIVE.match(application.strip()) is not None


def is_monitor(application: str) -> bool:
    return _MONITORS.search(application) is not None


def is_at_work(backend: Backend) -> bool:
    return backend.is_active and backend.wait_event_type not in ("Lock", "Client", "Timeout", "Activity", "Extension")


@dataclass(frozen=True, eq=False)
class Sample:
    """The backends at one instant of the server's clock (this machine's, for process titles).

    What is counted in every sample is kept with it: a live view diagnoses the same samples again and again.
    """

    at: float
    backends: tuple[Backend, ...]

    @cached_property
    def client_count(self) -> int:
        """How many of them count against max_connections."""
        return sum(row.is_client for row in self.backends)

    @cached_property
    def in_use(self) -> tuple[Backend, ...]:
        """Client backends that run a statement or are in a transaction."""
        return tuple(row for row in self.backends if row.is_client and (row.is_active or row.in_transaction))

    @cached_property
    def at_work(self) -> tuple[Backend, ...]:
        """Backends whose statement runs or reads, and does not wait for locks, clients or a timer."""
        return tuple(row for row in self.in_use if is_at_work(row))

    @cached_property
    def work_ages(self) -> tuple[float, ...]:
        """Seconds since each statement at work began, where that is known."""
        return tuple(max(0.0, self.at - row.query_at) for row in self.at_work if row.query_at is not None)

    @cached_property
    def statements(self) -> tuple[str, ...]:
        """The text of each statement at work, where this role may see it."""
        return tuple(row.query for row in self.at_work if row.query and not row.is_hidden)

    @cached_property
    def blocked(self) -> tuple[Backend, ...]:
        """Backends that wait for others."""
        return tuple(row for row in self.backends if row.blocked_by)


def read_sample(snapshot: Snapshot) -> Sample | None:
    """Return the server's own sample of ``snapshot``; while the server refuses, what process titles say; else None."""
    if snapshot.server is not None:
        titles = {title.pid: title for title in snapshot.host.titles} if snapshot.host is not None else {}
        backends = snapshot.server.backends
        if titles and any(each.is_hidden for each in backends):
            backends = tuple(_add_title(each, titles.get(each.pid)) for each in backends)
        return Sample(snapshot.server.at, backends)
    if snapshot.host is None or not has_titles(snapshot):
        return None
    return Sample(snapshot.at, tuple(_read_title(title) for title in snapshot.host.titles))


def has_titles(snapshot: Snapshot) -> bool:
    """Return True if the process list of ``snapshot`` shows backends."""
    return snapshot.host is not None and bool(snapshot.host.titles)


def select_samples(snapshots: Sequence[Snapshot], read: Sequence[Sample | None]) -> list[Sample]:
    """Select the samples of one source among those ``read`` from ``snapshots``, in the order of time.

    The server's own since it last started if the last one is the server's, otherwise those of process titles.
    """
    last = next((each for each, sample in zip(reversed(snapshots), reversed(read), strict=True) if sample), None)
    if last is None:
        return []
    found = zip(snapshots, read, strict=True)
    samples = {sample.at: sample for each, sample in found if sample and comes_from(each) == comes_from(last)}
    return sorted(samples.values(), key=lambda sample: sample.at)


def comes_from(snapshot: Snapshot) -> float | None:
    """Return when the server of ``snapshot`` started; None if its backends come from process titles."""
    return None if snapshot.server is None else snapshot.server.started_at


def _add_title(backend: Backend, title: BackendTitle | None) -> Backend:
    """Return a row that is hidden from the role, with what the process list shows to every user.

    Only the states that locks get wrong are replaced: the extended protocol keeps the last statement's portal, and so
    an xmin, while a transaction idles, which looks active; a failed transaction looks idle.
    """
    if title is None or not backend.is_hidden:
        return backend
    state = backend.state
    if (state, title.state) in (("active", IN_TRANSACTION), ("idle", ABORTED)) and backend.wait_event_type is None:
        state = title.state
    return replace(backend, state=state, client=title.client, client_port=title.client_port)


def _read_title(title: BackendTitle) -> Backend:
    """Return a process title as a row. It knows neither the application nor any time within the session."""
    words = title.state.removesuffix(" waiting")
    lock = title.state.endswith(" waiting")
    states = {"idle": "idle", IN_TRANSACTION: IN_TRANSACTION, ABORTED: ABORTED}
    logging_in = words.startswith(("authentication", "startup"))
    state = "starting" if logging_in else states.get(words, "active")
    return Backend(
        pid=title.pid,
        user=title.user or None,
        database=title.database or None,
        backend_type="client backend",
        client=title.client,
        client_port=title.client_port,
        started_at=title.started_at,
        state=state,
        wait_event_type="Lock" if lock else None,
        is_inferred=True,
    )


class Stretch(NamedTuple):
    """Samples one after the other in which a backend had one and the same row. ``first``, ``last``: their numbers."""

    first: int
    last: int
    row: Backend


class Change(NamedTuple):
    """What happened to a backend between two rows of it that differ. ``at``: the instant of the earlier one."""

    at: float
    has_moved: bool
    """It did something, and its row does not only show another wait."""
    ended_transaction: bool
    ended: float | None
    """Seconds, at least, of the transaction, statement or pause that was over by the later row; None without any."""
    rest: float | None
    """Seconds, at most, of a rest in a transaction that was over by the later row; None without any."""


class Turnover(NamedTuple):
    """What the changes of one backend come to."""

    has_moved: bool
    """It was observed to do something in the window."""
    transactions_ended: int
    """How many transactions of it had ended by a later sample, at least."""
    longest_ended: float
    """The longest ``Change.ended``; 0 without any."""
    rests: tuple[float, ...]
    """Every ``Change.rest``."""


class Usage(NamedTuple):
    """What the samples come to in which one backend ran a statement or was in a transaction."""

    times: tuple[float, ...]
    """The instants of these samples."""
    ages: tuple[float, ...]
    """Seconds since the transaction or statement began, in each where that is known."""
    active: int
    """Samples in which its statement waited for no lock and no client."""
    pauses: tuple[float, ...]
    """Seconds idle in the transaction, in each that found it so; at least, where the role may not see since when."""


STOOD_STILL, UNUSED = Turnover(False, 0, 0.0, ()), Usage((), (), 0, ())
"""Of most backends of a large server."""


class Rest(NamedTuple):
    """A rest of a backend. ``until``: the instant of the last sample that found it; ``since`` is the server's own."""

    since: float
    until: float
    in_transaction: bool

    @property
    def length(self) -> float:
        return self.until - self.since


@dataclass(frozen=True, eq=False)
class Track:
    """One backend in every sample that has it. Valid until its ``Tracker`` is given another sample.

    ``spans``: the numbers of the first and the last of samples one after the other that have it. ``used``: the samples
    in which it ran a statement or was in a transaction. ``times``: the instants of all samples; ``oldest``: the number
    of the first of them.
    """

    stretches: Sequence[Stretch]
    spans: Sequence[tuple[int, int]]
    used: Sequence[tuple[float, Backend]]
    usage: Usage
    turnover: Turnover
    last: Backend
    times: Sequence[float]
    oldest: int

    @property
    def sample_count(self) -> int:
        """How many samples there were at all."""
        return len(self.times)

    @property
    def since(self) -> float:
        """The instant of the first sample."""
        return self.times[0]

    @property
    def now(self) -> float:
        """The instant of the last sample."""
        return self.times[-1]

    @cached_property
    def first_at(self) -> float:
        """The instant of the first sample that has it."""
        return self._find_time(self.stretches[0].first)

    @property
    def first(self) -> Backend:
        return self.stretches[0].row

    @property
    def row_count(self) -> int:
        """How many samples have it."""
        return sum(self._measure_length(*span) for span in self.spans)

    def list_rows(self) -> Iterator[tuple[float, Backend]]:
        """Yield it in every sample that has it, oldest first."""
        for first, last, row in self.stretches:
            for at in self.times[max(first, self.oldest) - self.oldest : last + 1 - self.oldest]:
                yield at, row

    def _find_time(self, number: int) -> float:
        return self.times[max(number - self.oldest, 0)]

    def _measure_length(self, first: int, last: int) -> int:
        return last + 1 - max(first, self.oldest)

    @property
    def is_there(self) -> bool:
        """Whether the last sample has it."""
        return self.stretches[-1].last == self.oldest + len(self.times) - 1

    @property
    def pid(self) -> int:
        return self.last.pid

    @cached_property
    def _unmoved(self) -> tuple[int, float]:
        """How many samples, up to the last that has it, since which nothing happened to it; and the first of them."""
        count, at, last = 0, self.now, self.last
        for stretch in reversed(self.stretches):
            if not _unchanged(stretch.row, last):
                break
            count += self._measure_length(stretch.first, stretch.last)
            at = self._find_time(stretch.first)
        return count, at

    @property
    def is_frozen(self) -> bool:
        """Whether nothing happened to it in the whole window. Never with one sample."""
        return 1 < self.sample_count == self._unmoved[0]

    @property
    def has_moved(self) -> bool:
        return self.turnover.has_moved

    @property
    def ended_transaction(self) -> bool:
        return self.turnover.transactions_ended > 0

    @cached_property
    def watched_hold(self) -> float:
        """Seconds for which samples found it in one transaction that had ended by a later one; 0 without any.

        It says something of holds where the role may not see since when they last.
        """
        longest, began = 0.0, None
        for stretch, following in pairwise(self.stretches):
            if not stretch.row.in_transaction:
                began = None
            elif began is None:
                began = self._find_time(stretch.first)
            if began is not None and _identify_transaction(stretch.row) != _identify_transaction(following.row):
                longest, began = max(longest, self._find_time(stretch.last) - began), None
        return longest

    @property
    def age(self) -> float:
        """Seconds in its present state; at least that long, where the server does not say since when."""
        if self.last.state_at is not None:
            return max(0.0, self.now - self.last.state_at)
        return max(0.0, self.now - self._unmoved[1])

    @property
    def is_confirmed(self) -> bool:
        """Whether a second sample found it unchanged. With a title alone three are needed: the backend may have come
        back to the same state in between."""
        needed = 2 if self.last.state_at is not None or self.last.virtual_transaction is not None else 3
        return self._unmoved[0] >= needed

    @property
    def rests(self) -> bool:
        """Whether it is at rest as far as is known: confirmed, or by the server's clock where there is one sample
        only."""
        return self.is_confirmed or (self.sample_count == 1 and self.last.state_at is not None)

    @property
    def is_in_transaction(self) -> bool:
        """Whether it is idle in a transaction that has not failed."""
        return self.last.state == IN_TRANSACTION

    @property
    def is_idle(self) -> bool:
        return self.last.state == "idle"

    @property
    def is_new(self) -> bool:
        """Whether it was opened after the first sample."""
        return self.first_at > self.since and (self.last.started_at is None or self.last.started_at >= self.since)

    @property
    def waits_for_lock(self) -> bool:
        return self.last.wait_event_type == "Lock" or bool(self.last.blocked_by)

    @property
    def may_rest(self) -> bool:
        """Whether only its locks say that it is active, all the time in one transaction.

        The extended protocol keeps a portal open, which makes an idle transaction look the same. Where the process
        title was observed, the state is known, and so is the client.
        """
        last = self.last
        is_at_work = last.is_hidden and last.is_active and last.wait_event_type is None and last.client is None
        return is_at_work and self.is_confirmed and self.age > STUCK_AFTER

    @property
    def hides_rest(self) -> bool:
        """Whether it is idle, and this role may not see since when."""
        return self.is_idle and self.last.is_hidden and self.last.state_at is None

    @property
    def is_listening(self) -> bool:
        """Whether its last statement says that the session means to stay: LISTEN, or a cursor's."""
        words = (self.last.query or "").lstrip().split(None, 2)
        first = words[0].rstrip(";").upper() if words else ""
        return first in ("LISTEN", "DECLARE", "FETCH")

    @property
    def is_on_purpose(self) -> bool:
        """Whether its last statement or a lock says that the session means to stay."""
        return bool(self.last.advisory_locks) or self.is_listening

    @property
    def statement_age(self) -> float:
        """Seconds since its statement began; since it came to its present state, where none is under way."""
        start = self.last.query_at if self.last.is_active else self.last.state_at
        return max(0.0, self.now - start) if start is not None else 0.0

    @property
    def longest_rest(self) -> float:
        """Seconds of the longest rest, in a transaction or not, that was over by the last sample; 0 without any."""
        return max((rest.length for rest in self.list_rests()), default=0.0)

    def list_rests(self) -> Iterator[Rest]:
        """Yield each rest, in a transaction or not, that was over by the last sample."""
        for _, last, row in self.stretches:
            rested = row.state == "idle" or row.in_transaction
            if rested and row.state_at is not None and row.state_at != self.last.state_at:
                yield Rest(row.state_at, self._find_time(last), row.in_transaction)

    @property
    def is_used_once(self) -> bool:
        """Whether it is idle and did all its work within ``FIRST_USE`` seconds of its opening."""
        started, rested = self.last.started_at, self.last.state_at
        return self.is_idle and started is not None and rested is not None and rested - started <= FIRST_USE

    @property
    def session_age(self) -> float | None:
        return None if self.last.started_at is None else max(0.0, self.now - self.last.started_at)

    @property
    def was_used(self) -> bool:
        """Whether it ever ran a statement, as far as is known: a pool opens connections ahead of need."""
        return bool(self.last.query) or self.last.query_at is not None or self.last.is_hidden or self.last.is_inferred


def _unchanged(row: Backend, last: Backend) -> bool:
    if row.state != last.state:
        return False
    if row.state_at is not None and last.state_at is not None:
        return row.state_at == last.state_at
    if row.virtual_transaction is not None or last.virtual_transaction is not None:
        return row.virtual_transaction == last.virtual_transaction
    # A hidden idle backend does not show what it did in between; a process title shows a little.
    return row.is_inferred and (not row.is_hidden or row.state == ABORTED)


def _identify_transaction(backend: Backend) -> object:
    return backend.transaction_at if backend.transaction_at is not None else backend.virtual_transaction


def waits_for_advisory_lock(backend: Backend) -> bool:
    if backend.waits_for is not None:
        return backend.waits_for.kind == "advisory"
    return backend.wait_event == "advisory"


def has_changed(a: Backend, b: Backend) -> bool:
    """Return True if a backend did something between the rows ``a`` and ``b`` of it."""
    if a.state_at is not None and b.state_at is not None:
        return (a.state_at, a.query_at, a.transaction_at) != (b.state_at, b.query_at, b.transaction_at)
    return a.state != b.state or a.virtual_transaction != b.virtual_transaction


def _compare(at: float, a: Backend, b: Backend) -> Change:
    """Return what happened between the row ``a``, last observed at ``at``, and the row ``b`` that came after it."""
    start, ended, rest = _find_start(a), None, None
    if start is not None and _find_start(b) != start:
        ended = max(0.0, at - start)
    elif a.in_transaction and a.state_at is not None and b.state_at != a.state_at:
        ended = max(0.0, at - a.state_at)
    if a.state == IN_TRANSACTION and a.state_at is not None and b.state_at is not None and b.state_at > a.state_at:
        rest = b.state_at - a.state_at
    ended_transaction = a.in_transaction and _identify_transaction(a) != _identify_transaction(b)
    return Change(at, has_changed(a, b), ended_transaction, ended, rest)


def _sum_up_use(used: Sequence[tuple[float, Backend]]) -> Usage:
    ages, pauses, active = [], [], 0
    began, transaction = 0.0, None
    for at, row in used:
        # A role that may not see since when sees in which transaction.
        if row.virtual_transaction is None or row.virtual_transaction != transaction:
            began, transaction = at, row.virtual_transaction
        start = _find_start(row)
        if start is not None:
            ages.append(max(0.0, at - start))
        if row.is_active:
            active += row.wait_event_type not in ("Lock", "Client")
        else:
            pauses.append(at - (began if row.state_at is None else row.state_at))
    return Usage(tuple(at for at, _ in used), tuple(ages), active, tuple(pauses))


def _sum_up_changes(changes: Sequence[Change]) -> Turnover:
    return Turnover(
        has_moved=any(change.has_moved for change in changes),
        transactions_ended=sum(change.ended_transaction for change in changes),
        longest_ended=max((change.ended for change in changes if change.ended is not None), default=0.0),
        rests=tuple(change.rest for change in changes if change.rest is not None),
    )


class _Followed:
    """What is kept of one backend. Of each deque the oldest samples are at the left.

    ``usage``, ``turnover``: what ``used`` and ``changes`` come to; None after these changed. From one sample to the
    next they rarely do.
    """

    __slots__ = ("changes", "spans", "stretches", "turnover", "usage", "used")

    def __init__(self) -> None:
        self.stretches: deque[Stretch] = deque()
        self.spans: deque[tuple[int, int]] = deque()
        self.used: deque[tuple[float, Backend]] = deque()
        self.changes: deque[Change] = deque()
        self.usage: Usage | None = None
        self.turnover: Turnover | None = None

    def build_track(self, times: Sequence[float], oldest: int) -> Track:
        if self.usage is None:
            self.usage = _sum_up_use(self.used) if self.used else UNUSED
        if self.turnover is None:
            self.turnover = _sum_up_changes(self.changes) if self.changes else STOOD_STILL
        last = self.stretches[-1].row
        return Track(self.stretches, self.spans, self.used, self.usage, self.turnover, last, times, oldest)


class Tracker:
    """The client backends of a series of samples, kept up to date as samples come and are forgotten.

    An observation that is diagnosed once feeds all its samples; a live view adds each as it comes. Both get the same
    tracks of the same samples. ``weight``: how many rows are kept, where a row that stays as it is counts once, unless
    it is in use: then it counts in every sample.
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.samples: deque[Sample] = deque()
        self.weight = 0
        self._oldest = 0
        self._followed: dict[tuple[int, float | None], _Followed] = {}
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        """Follow every backend into ``sample``, which has to be later than the others."""
        number = self._oldest + len(self.samples)
        before = self.samples[-1].at if self.samples else sample.at
        self.samples.append(sample)
        rows: dict[tuple[int, float | None], Backend] = {}
        for row in sample.backends:
            if row.is_client:
                key = (row.pid, row.started_at)
                rows[key] = min(rows[key], row, key=repr) if key in rows else row
        for key, row in rows.items():
            followed = self._followed.get(key)
            if followed is None:
                followed = self._followed[key] = _Followed()
            stretches, spans = followed.stretches, followed.spans
            if spans and spans[-1][1] == number - 1:
                spans[-1] = (spans[-1][0], number)
            else:
                spans.append((number, number))
            latest = stretches[-1] if stretches else None
            if latest is None:
                stretches.append(Stretch(number, number, row))
                self.weight += 1
            elif latest.row is not row and latest.row != row:
                seen = before if latest.last == number - 1 else self.samples[max(latest.last - self._oldest, 0)].at
                followed.changes.append(_compare(seen, latest.row, row))
                followed.turnover = None
                stretches.append(Stretch(number, number, row))
                self.weight += 1
            elif latest.last == number - 1:
                stretches[-1] = Stretch(latest.first, number, latest.row)
            else:
                stretches.append(Stretch(number, number, row))
                self.weight += 1
            if row.is_active or row.in_transaction:
                followed.used.append((sample.at, row))
                followed.usage = None
                self.weight += 1

    def forget_oldest(self) -> None:
        """Forget the oldest sample, and every backend that no later one has."""
        self.samples.popleft()
        self._oldest += 1
        since = self.samples[0].at if self.samples else 0.0
        gone = []
        for key, followed in self._followed.items():
            stretches, used, changes = followed.stretches, followed.used, followed.changes
            while stretches and stretches[0].last < self._oldest:
                stretches.popleft()
                self.weight -= 1
            while followed.spans and followed.spans[0][1] < self._oldest:
                followed.spans.popleft()
            while used and (used[0][0] < since or not self.samples):
                used.popleft()
                followed.usage = None
                self.weight -= 1
            while changes and (changes[0].at < since or not self.samples):
                changes.popleft()
                followed.turnover = None
            if not stretches:
                gone.append(key)
        for key in gone:
            del self._followed[key]

    def build_tracks(self) -> tuple[Track, ...]:
        """Return every backend, in the order of process ids; one that is used again is another backend."""
        times, oldest = [sample.at for sample in self.samples], self._oldest
        ordered = sorted(self._followed.items(), key=lambda item: (item[0][0], item[0][1] or 0.0))
        return tuple(followed.build_track(times, oldest) for _, followed in ordered)


def count_at(tracks: Iterable[Track]) -> Counter[float]:
    """Count how many of ``tracks`` each sample has, by its instant; samples that have none are left out."""
    steps: Counter[int] = Counter()
    times: Sequence[float] = ()
    for track in tracks:
        times = track.times
        for first, last in track.spans:
            steps[max(first - track.oldest, 0)] += 1
            steps[last + 1 - track.oldest] -= 1
    counts = accumulate(steps[at] for at in range(len(times)))
    return Counter({at: count for at, count in zip(times, counts, strict=True) if count})


@dataclass(frozen=True)
class Application:
    """All backends of one program: the same application_name, user and database, from any address.

    By address a fleet would fall apart into instances with one leaked connection each.
    """

    name: str
    user: str | None
    database: str | None
    tracks: tuple[Track, ...]
    """Backends in the last sample."""
    gone: tuple[Track, ...] = ()

    @property
    def is_tool(self) -> bool:
        return is_tool(self.name)

    @property
    def count(self) -> int:
        return len(self.tracks)

    @property
    def moved(self) -> tuple[Track, ...]:
        return tuple(track for track in self.tracks if track.has_moved)

    @property
    def frozen_idle(self) -> tuple[Track, ...]:
        return tuple(track for track in self.tracks if track.is_idle and track.is_frozen)

    @property
    def opened(self) -> tuple[Track, ...]:
        """Backends that started after the first sample."""
        return tuple(track for track in self.tracks if track.is_new)

    @cached_property
    def typical_use(self) -> float:
        """Median age of the transactions and statements under way that did not get stuck, seconds; 0 without any.

        Longer ones are caught more often, so it is rather too long, which avoids false alarms.
        """
        ages = list(chain.from_iterable(map(_list_ages, (*self.tracks, *self.gone))))
        return median(ages) if ages else 0.0

    @cached_property
    def longest_ended(self) -> float:
        """Age of the oldest transaction or statement, or pause in a transaction, that had ended by a later sample while
        its session went on. A session that ends takes its own with it, which is no release."""
        return max((track.turnover.longest_ended for track in self.tracks), default=0.0)

    @cached_property
    def stuck_after(self) -> float:
        """Seconds idle in a transaction from which it counts as stuck.

        One second, ten times the median, and twice what was observed to end by itself; or four times the longest rest,
        where several were observed to end and that is less: the rests of long transactions may be short.
        """
        usual = max(STUCK_AFTER, TIMES_TYPICAL * self.typical_use, 2 * self.longest_ended)
        rests = list(chain.from_iterable(track.turnover.rests for track in self.tracks))
        return min(usual, max(STUCK_AFTER, TIMES_LONGEST * max(rests))) if len(rests) >= LEAST_RESTS else usual

    @cached_property
    def stuck(self) -> tuple[Track, ...]:
        """Survivors: backends idle in a transaction for longer than ``stuck_after``, confirmed by a second sample.

        Without holders of advisory locks, which are held on purpose.
        """
        return tuple(
            track
            for track in self.tracks
            if track.is_in_transaction
            and (track.is_confirmed or track.sample_count == 1)
            and not track.last.advisory_locks
            and _outlasts(track, self.stuck_after)
        )


def _outlasts(track: Track, limit: float) -> bool:
    """Return True if ``track`` stays in its state for longer than ``limit`` seconds.

    A hidden row's age is the time for which it was observed, which cannot exceed the window: there a second sample of
    the same transaction has to suffice.
    """
    if track.last.state_at is not None:
        return track.age > limit
    return track.age >= min(limit, STUCK_AFTER)


def _find_start(backend: Backend) -> float | None:
    if backend.in_transaction or backend.is_active:
        return backend.transaction_at if backend.transaction_at is not None else backend.query_at
    return None


def _list_ages(track: Track) -> Sequence[float]:
    """List the ages of what was under way in each sample, without the rest in which it is stuck now or may be."""
    # A backend that just came to rest in its transaction may stay there: the newest of a fast leak are not its usual
    # use. What it did in that transaction before was work.
    if not (track.is_in_transaction and (track.age > STUCK_AFTER or track.sample_count > 1)):
        return track.usage.ages
    return _sum_up_use([(at, row) for at, row in track.used if not _unchanged(row, track.last)]).ages


def group_by_application(tracks: Iterable[Track]) -> tuple[Application, ...]:
    """Group ``tracks`` by application, the largest first."""
    there: dict[tuple[str, str, str], list[Track]] = {}
    gone: dict[tuple[str, str, str], list[Track]] = {}
    for track in tracks:
        last = track.last
        key = (last.application, last.user or "", last.database or "")
        (there if track.is_there else gone).setdefault(key, []).append(track)
    found = [
        Application(key[0], key[1] or None, key[2] or None, tuple(there.get(key, ())), tuple(gone.get(key, ())))
        for key in sorted({*there, *gone})
    ]
    return tuple(sorted(found, key=lambda each: -each.count))
