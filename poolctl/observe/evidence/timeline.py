"""The events of logs, added up over time in constant memory.

Decides how long a stretch of time is, how many sessions were open at least, and which numbers of an event are kept.
What follows from them is left to the diagnosis.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from poolctl.observe.evidence.pooler_log import PoolerEvent
from poolctl.observe.evidence.server_log import LogEvent
from poolctl.observe.pool_texts import PoolLine
from poolctl.observe.snapshot import (
    LogFacts,
    LoggedApplication,
    LoggedLockWait,
    LoggedRefusals,
    LoggedStatements,
    LogMoment,
    RefusedBy,
)
from poolctl.safe_text import hide_literals

MOST_MOMENTS = 240
"""Of a log's time; when there are more, each becomes twice as long."""
MOST_NAMES = 1000
"""Applications, statements, holders of locks that are kept apart: a log may hold any number of them."""
_VARIABLE = re.compile(r"'[^']*'|\d+")
BRIEF = 1.0
"""Seconds: a session that lasts less did one thing and went."""


@dataclass(slots=True)
class _Tally:
    opened: int = 0
    closed: int = 0
    refused: int = 0
    lock_waits: int = 0
    timed_out: int = 0
    delta: int = 0
    """Sessions that began less sessions that ended."""
    peak: int = 0
    """Most sessions open at one message, of all whose login was logged."""

    def add(self, other: "_Tally") -> None:
        self.opened += other.opened
        self.closed += other.closed
        self.refused += other.refused
        self.lock_waits += other.lock_waits
        self.timed_out += other.timed_out
        self.delta += other.delta
        self.peak = max(self.peak, other.peak)


@dataclass(slots=True)
class _Sessions:
    count: int = 0
    first_at: float | None = None
    brief: int = 0
    time: float = 0.0
    ended: int = 0


@dataclass(slots=True)
class Timeline:
    """Takes events in any order. An event without an instant is counted, and is in no moment."""

    width: float = 1.0
    lines: int = 0
    first_at: float | None = None
    last_at: float | None = None
    _moments: dict[int, _Tally] = field(default_factory=dict)
    _refusals: dict[tuple[RefusedBy, str], LoggedRefusals] = field(default_factory=dict)
    _who: dict[tuple[RefusedBy, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _open: dict[int, tuple[float | None, str]] = field(default_factory=dict)
    _sessions: dict[str, _Sessions] = field(default_factory=dict)
    _locks: dict[tuple[int, ...], LoggedLockWait] = field(default_factory=dict)
    _statements: dict[str, LoggedStatements] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)
    """Statements without literals, by their shape: hiding literals is slow, and most statements come again."""
    _restarts: list[float] = field(default_factory=list)
    _timeouts: Counter[str] = field(default_factory=Counter)
    _leaked: dict[str, None] = field(default_factory=dict)
    _returned: int = 0
    _lost: int = 0
    _deadlocks: int = 0
    _queue_timeouts: int = 0
    _connect_time: float = 0.0
    _connect_count: int = 0
    _was_starved: bool = False
    _trouble_at: float | None = None
    _closed: tuple[str, str] = ("", "")
    """The connection that a pooler closed in its last line, and why."""
    _newest: tuple[int, _Tally] | None = None
    """The moment of the last event: the next one is nearly always in the same."""
    _has_sessions: bool = False
    _before: int = 0
    """Sessions that were open when the log began, as far as they ended in it."""

    def add(self, event: LogEvent) -> None:
        """Count one message of PostgreSQL's log."""
        at = event.at
        tally = self._at(at)
        if event.kind == "authorized":
            self._begin(event, tally)
        elif event.kind == "disconnected":
            self._end(event, tally)
        elif event.kind == "refused":
            tally.refused += 1
            self._note_trouble(at)
            self._take_back(event, tally)
            self._refuse(event.refused_by or "unknown", event.text, at, event.application or event.user or event.client)
        elif event.kind == "ready":
            self._connect_time += event.duration or 0.0
            self._connect_count += 1
        elif event.kind == "lock-wait":
            tally.lock_waits += 1
            # The line comes when the wait has lasted for deadlock_timeout: it began before.
            self._note_trouble(None if at is None else at - (event.duration or 0.0))
            self._wait_for_lock(event)
        elif event.kind == "statement":
            self._add_statement(event)
        elif event.kind == "started" and at is not None and len(self._restarts) < MOST_NAMES:
            self._restarts.append(at)
            self._open.clear()
        elif event.kind == "timed-out":
            tally.timed_out += 1
            self._note_trouble(at)
            self._timeouts[event.text[:120]] += 1
        elif event.kind == "lost-client":
            self._lost += 1
        elif event.kind == "deadlock":
            self._deadlocks += 1

    def add_pooler(self, event: PoolerEvent) -> None:
        """Count one message of PgBouncer's log."""
        tally = self._at(event.at)
        closed, self._closed = self._closed, (event.socket, event.text)
        if event.is_repeated and closed == (event.socket, event.text):
            return
        if event.kind == "refused":
            tally.refused += 1
            self._note_trouble(event.at)
            self._refuse(event.refused_by or "unknown", event.text, event.at, event.user or event.client)
        elif event.kind == "queue-timeout":
            tally.timed_out += 1
            self._note_trouble(event.at)
            self._queue_timeouts += 1

    def add_pool_line(self, line: PoolLine, at: float | None) -> None:
        """Count what an application's log says of its pool, beside the figures."""
        self._at(at).timed_out += line.timed_out
        if line.timed_out:
            self._note_trouble(at)
        self._was_starved = self._was_starved or line.is_starved
        if line.leaked and len(self._leaked) < MOST_NAMES:
            self._leaked[line.leaked] = None
        if line.returned:
            self._returned += 1
            for leaked in [each for each in self._leaked if each.startswith(line.returned)]:
                del self._leaked[leaked]

    def _note_trouble(self, at: float | None) -> None:
        if at is not None and (self._trouble_at is None or at < self._trouble_at):
            self._trouble_at = at

    def _at(self, at: float | None) -> _Tally:
        if at is None:
            return _Tally()
        number = int(at // self.width)
        if self._newest is not None and self._newest[0] == number and self.last_at is not None and at >= self.last_at:
            self.last_at = at
            return self._newest[1]
        self.first_at = at if self.first_at is None else min(self.first_at, at)
        self.last_at = at if self.last_at is None else max(self.last_at, at)
        tally = self._moments.get(number)
        if tally is None:
            tally = self._moments[number] = _Tally()
            while self.last_at - self.first_at > MOST_MOMENTS * self.width:
                self._widen()
                tally = self._moments[int(at // self.width)]
        self._newest = int(at // self.width), tally
        return tally

    def _widen(self) -> None:
        self.width *= 2
        wider: dict[int, _Tally] = {}
        for number, tally in self._moments.items():
            wider.setdefault(number // 2, _Tally()).add(tally)
        self._moments = wider

    def _begin(self, event: LogEvent, tally: _Tally) -> None:
        self._has_sessions = True
        tally.opened += 1
        tally.delta += 1
        name = event.application or event.user or ""
        if len(self._sessions) < MOST_NAMES or name in self._sessions:
            sessions = self._sessions.setdefault(name, _Sessions(first_at=event.at))
            sessions.count += 1
        if event.pid is not None:
            self._open[event.pid] = (event.at, name)
            tally.peak = max(tally.peak, len(self._open))

    def _take_back(self, event: LogEvent, tally: _Tally) -> None:
        """Count no session for a client that was refused after PostgreSQL had logged it as authorized."""
        if event.pid is None or event.pid not in self._open:
            return
        _, name = self._open.pop(event.pid)
        tally.opened -= 1
        tally.delta -= 1
        self._sessions[name].count -= 1

    def _end(self, event: LogEvent, tally: _Tally) -> None:
        self._has_sessions = True
        tally.closed += 1
        tally.delta -= 1
        begun, name = self._open.pop(event.pid, (None, "")) if event.pid is not None else (None, "")
        if begun is None and event.at is not None:
            # Its login was not in the log: it was open before, and its duration says since when.
            begun = event.at - (event.duration or 0.0)
            if self.first_at is not None and begun >= self.first_at:
                self._at(begun).delta += 1
            else:
                self._before += 1
        sessions = self._sessions.get(name or event.user or "")
        if sessions is not None and event.duration is not None:
            sessions.ended += 1
            sessions.time += event.duration
            sessions.brief += event.duration < BRIEF

    def _refuse(self, by: RefusedBy, text: str, at: float | None, who: str | None) -> None:
        key = (by, text[:200])
        known = self._refusals.get(key)
        if known is None:
            if len(self._refusals) >= MOST_NAMES:
                return
            known = LoggedRefusals(by, text[:200], 0, at, at)
        self._refusals[key] = replace(
            known,
            count=known.count + 1,
            first_at=known.first_at if at is None else at if known.first_at is None else min(at, known.first_at),
            last_at=known.last_at if at is None else at if known.last_at is None else max(at, known.last_at),
        )
        if who is not None and (len(self._who[key]) < MOST_NAMES or who in self._who[key]):
            self._who[key][who] += 1

    def _wait_for_lock(self, event: LogEvent) -> None:
        known = self._locks.get(event.holders)
        wait = event.duration or 0.0
        if known is None:
            if len(self._locks) < MOST_NAMES:
                self._locks[event.holders] = LoggedLockWait(event.holders, event.queue, wait, event.text, event.at)
        else:
            longer = known if known.wait_time >= wait and len(known.queue) >= len(event.queue) else None
            kept = longer or LoggedLockWait(
                event.holders, event.queue, max(wait, known.wait_time), event.text, event.at
            )
            self._locks[event.holders] = replace(kept, count=known.count + 1)

    def _add_statement(self, event: LogEvent) -> None:
        shape = _VARIABLE.sub("?", event.text[:2000])
        text = self._texts.get(shape)
        if text is None:
            if len(self._texts) > 10 * MOST_NAMES:
                self._texts.clear()
            text = self._texts[shape] = hide_literals(event.text)[:300]
        known = self._statements.get(text)
        if known is None and len(self._statements) >= MOST_NAMES:
            return
        known = known or LoggedStatements(text, 0, 0.0, 0.0)
        time = event.duration or 0.0
        longest = (time, event.at) if time >= known.longest else (known.longest, known.longest_at)
        self._statements[text] = LoggedStatements(text, known.count + 1, known.time + time, *longest)

    def facts(self) -> LogFacts:
        """Return all of it, the most frequent first."""
        return LogFacts(
            first_at=self.first_at,
            last_at=self.last_at,
            interval=self.width,
            moments=self._series(),
            refusals=tuple(
                replace(each, who=dict(self._who[key].most_common(20)))
                for key, each in sorted(self._refusals.items(), key=lambda item: -item[1].count)
            ),
            lock_waits=tuple(sorted(self._locks.values(), key=lambda wait: -wait.wait_time)[:20]),
            applications=tuple(
                LoggedApplication(
                    name, each.count, each.first_at, each.brief, each.time / each.ended if each.ended else None
                )
                for name, each in sorted(self._sessions.items(), key=lambda item: -item[1].count)
            ),
            statements=tuple(sorted(self._statements.values(), key=lambda each: -each.time)[:50]),
            restarts=tuple(sorted(self._restarts)),
            timeouts=dict(self._timeouts.most_common(20)),
            lost_clients=self._lost,
            deadlocks=self._deadlocks,
            connect_time=self._connect_time / self._connect_count if self._connect_count else None,
            connect_count=self._connect_count,
            queue_timeouts=self._queue_timeouts,
            leaks=tuple(self._leaked),
            leaks_returned=self._returned,
            was_starved=self._was_starved,
            lines=self.lines,
            trouble_at=self._trouble_at,
        )

    def _series(self) -> tuple[LogMoment, ...]:
        if self.first_at is None or self.last_at is None:
            return ()
        rows = []
        count = self._before
        for number in range(int(self.first_at // self.width), int(self.last_at // self.width) + 1):
            tally = self._moments.get(number, _Tally())
            before, count = count, count + tally.delta
            rows.append(
                LogMoment(
                    at=number * self.width,
                    open_at_least=max(before, count, tally.peak) if self._has_sessions else None,
                    opened=tally.opened,
                    closed=tally.closed,
                    refused=tally.refused,
                    lock_waits=tally.lock_waits,
                    timed_out=tally.timed_out,
                )
            )
        return tuple(rows)
