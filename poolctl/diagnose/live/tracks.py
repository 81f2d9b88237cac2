"""Backends followed through the samples: what moved, what stood still, and for how long.

Decides what *frozen*, *moved* and *stuck* mean, so that every rule means the same.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, takewhile
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


class Sample(NamedTuple):
    """The backends at one instant of the server's clock (this machine's, for process titles)."""

    at: float
    backends: tuple[Backend, ...]


def read_sample(snapshot: Snapshot) -> Sample | None:
    """Return the server's own sample of ``snapshot``; while the server refuses, what process titles say; else None."""
    if snapshot.server is not None:
        titles = {title.pid: title for title in snapshot.host.titles} if snapshot.host is not None else {}
        backends = snapshot.server.backends
        return Sample(snapshot.server.at, tuple(_add_title(each, titles.get(each.pid)) for each in backends))
    if snapshot.host is None or not snapshot.host.titles:
        return None
    return Sample(snapshot.at, tuple(_read_title(title) for title in snapshot.host.titles))


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


@dataclass(frozen=True)
class Track:
    """One backend in every sample that has it, oldest first. ``sample_count``: how many samples there were at all."""

    rows: tuple[tuple[float, Backend], ...]
    sample_count: int
    since: float
    now: float
    """The instants of the first and of the last sample."""

    @cached_property
    def last(self) -> Backend:
        return self.rows[-1][1]

    @property
    def is_there(self) -> bool:
        """Whether the last sample has it."""
        return self.rows[-1][0] == self.now

    @property
    def pid(self) -> int:
        return self.last.pid

    @cached_property
    def _unmoved_rows(self) -> tuple[tuple[float, Backend], ...]:
        """The rows, newest first, since which nothing happened to it."""
        last = self.last
        return tuple(takewhile(lambda row: _unchanged(row[1], last), reversed(self.rows)))

    @cached_property
    def is_frozen(self) -> bool:
        """Whether nothing happened to it in the whole window. Never with one sample."""
        return self.sample_count > 1 and len(self._unmoved_rows) == self.sample_count

    @cached_property
    def has_moved(self) -> bool:
        """Whether it was observed to do something in the window."""
        return any(has_changed(a, b) for (_, a), (_, b) in pairwise(self.rows))

    @cached_property
    def ended_transaction(self) -> bool:
        """Whether a transaction of it had ended by a later sample."""
        return any(
            a.in_transaction and _identify_transaction(a) != _identify_transaction(b)
            for (_, a), (_, b) in pairwise(self.rows)
        )

    @cached_property
    def watched_hold(self) -> float:
        """Seconds for which samples found it in one transaction that had ended by a later one; 0 without any.

        It says something of holds where the role may not see since when they last.
        """
        longest, began = 0.0, None
        for (at, a), (_, b) in pairwise(self.rows):
            began = None if not a.in_transaction else at if began is None else began
            if began is not None and _identify_transaction(a) != _identify_transaction(b):
                longest, began = max(longest, at - began), None
        return longest

    @property
    def age(self) -> float:
        """Seconds in its present state; at least that long, where the server does not say since when."""
        if self.last.state_at is not None:
            return max(0.0, self.now - self.last.state_at)
        return max(0.0, self.now - self._unmoved_rows[-1][0]) if self._unmoved_rows else 0.0

    @property
    def is_confirmed(self) -> bool:
        """Whether a second sample found it unchanged. With a title alone three are needed: the backend may have come
        back to the same state in between."""
        needed = 2 if self.last.state_at is not None or self.last.virtual_transaction is not None else 3
        return len(self._unmoved_rows) >= needed

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
        return self.rows[0][0] > self.since and (self.last.started_at is None or self.last.started_at >= self.since)

    @property
    def waits_for_lock(self) -> bool:
        return self.last.wait_event_type == "Lock" or bool(self.last.blocked_by)

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
        rests = [
            at - row.state_at
            for at, row in self.rows
            if row.state_at is not None
            and (row.state == "idle" or row.in_transaction)
            and row.state_at != self.last.state_at
        ]
        return max(rests, default=0.0)

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


def has_changed(a: Backend, b: Backend) -> bool:
    """Return True if a backend did something between the rows ``a`` and ``b`` of it."""
    if a.state_at is not None and b.state_at is not None:
        return (a.state_at, a.query_at, a.transaction_at) != (b.state_at, b.query_at, b.transaction_at)
    return a.state != b.state or a.virtual_transaction != b.virtual_transaction


def build_tracks(samples: Sequence[Sample]) -> tuple[Track, ...]:
    """Follow every client backend of ``samples``, in the order of process ids; one that is used again is another
    backend."""
    if not samples:
        return ()
    rows: dict[tuple[int, float | None], list[tuple[float, Backend]]] = {}
    for sample in samples:
        for backend in sample.backends:
            if backend.is_client:
                rows.setdefault((backend.pid, backend.started_at), []).append((sample.at, backend))
    ordered = sorted(rows.items(), key=lambda item: (item[0][0], item[0][1] or 0.0))
    return tuple(
        Track(_keep_one_each(observed), len(samples), samples[0].at, samples[-1].at) for _, observed in ordered
    )


def _keep_one_each(rows: list[tuple[float, Backend]]) -> tuple[tuple[float, Backend], ...]:
    by_sample: dict[float, Backend] = {}
    for at, backend in rows:
        known = by_sample.get(at)
        by_sample[at] = backend if known is None else min(known, backend, key=repr)
    return tuple(by_sample.items())


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
        ages = [age for track in (*self.tracks, *self.gone) for age in _list_ages(track)]
        return median(ages) if ages else 0.0

    @cached_property
    def longest_ended(self) -> float:
        """Age of the oldest transaction or statement, or pause in a transaction, that had ended by a later sample while
        its session went on. A session that ends takes its own with it, which is no release."""
        return max((age for track in self.tracks for age in _list_ended(track)), default=0.0)

    @cached_property
    def stuck_after(self) -> float:
        """Seconds idle in a transaction from which it counts as stuck.

        One second, ten times the median, and twice what was observed to end by itself; or four times the longest rest,
        where several were observed to end and that is less: the rests of long transactions may be short.
        """
        usual = max(STUCK_AFTER, TIMES_TYPICAL * self.typical_use, 2 * self.longest_ended)
        rests = [rest for track in self.tracks for rest in _list_rests(track)]
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


def _list_ages(track: Track) -> Iterable[float]:
    """List the ages of what was under way in each sample, without the rest in which it is stuck now or may be."""
    # A backend that just came to rest in its transaction may stay there: the newest of a fast leak are not its usual
    # use. What it did in that transaction before was work.
    rests = track.is_in_transaction and (track.age > STUCK_AFTER or track.sample_count > 1)
    for at, backend in track.rows:
        start = _find_start(backend)
        if start is not None and not (rests and _unchanged(backend, track.last)):
            yield max(0.0, at - start)


def _list_rests(track: Track) -> Iterable[float]:
    """List the seconds, at most, of each rest in a transaction that was over by the next sample."""
    for (_, a), (_, b) in pairwise(track.rows):
        if a.state == IN_TRANSACTION and a.state_at is not None and b.state_at is not None and b.state_at > a.state_at:
            yield b.state_at - a.state_at


def _list_ended(track: Track) -> Iterable[float]:
    for (at, a), (_, b) in pairwise(track.rows):
        start = _find_start(a)
        if start is not None and _find_start(b) != start:
            yield max(0.0, at - start)
        elif a.in_transaction and a.state_at is not None and b.state_at != a.state_at:
            yield max(0.0, at - a.state_at)


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
