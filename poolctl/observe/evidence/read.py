"""All the evidence that was given, as one observation.

Decides what each file is, by its content: tables, a scrape, figures of a pool, or a log; and how they stand together
in time. "Now" is the newest instant in what shows backends, unless it is given. What could not be read stands in the
observation's sources with the reason, so that no verdict leaves it out in silence.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from poolctl.errors import BadInput
from poolctl.observe.evidence.activity_paste import knows_activity, parse_instant, read_activity, read_state_count
from poolctl.observe.evidence.collect import SECTION
from poolctl.observe.evidence.consoles import (
    count_unreadable,
    find_show,
    find_silent_pools,
    is_bouncer_metric,
    read_bouncer,
    read_exporter,
    read_pgpool,
)
from poolctl.observe.evidence.files import EvidenceFile, find_files
from poolctl.observe.evidence.paste import clean_paste
from poolctl.observe.evidence.pooler_log import read_pooler_line
from poolctl.observe.evidence.server_log import (
    WRAPPERS,
    LogEvent,
    ServerLog,
    is_row,
    name_field,
    unfold_json,
    unwrap_lines,
)
from poolctl.observe.evidence.tables import PastedTable, find_table
from poolctl.observe.evidence.timeline import Timeline
from poolctl.observe.metric_names import Meaning
from poolctl.observe.pool_metrics import parse_names, read_pools
from poolctl.observe.pool_texts import PoolLine, add_line, read_pool_line
from poolctl.observe.processes import Names, find_cluster_name, parse_title
from poolctl.observe.prometheus import parse
from poolctl.observe.snapshot import (
    BackendTitle,
    BouncerSample,
    HostSample,
    Observation,
    PgpoolSample,
    PoolFigures,
    Refusal,
    ServerFacts,
    ServerSample,
    Snapshot,
    Source,
)
from poolctl.units import agree, plural

_LONGEST_HEADER = 100_000
SMALL = 16 << 20
"""Bytes, or characters, up to which a file is held whole, as a table or a scrape has to be; larger ones are logs, read
line by line."""
HEAD = 400
"""Lines by which a large file is judged."""
MOST_SNAPSHOTS = 500
"""Of pool figures in a log; the last of each stretch of time is kept."""
DAY = 86_400.0
STALE = 60.0
"""Seconds before the newest evidence from which a refusal in a log is history, and no longer the state of the end."""

LOOKED_FOR = (
    "psql output of pg_stat_activity, pg_locks or counts of them; CSV or JSON of these; SHOW of PgBouncer or "
    "Pgpool-II; logs of PostgreSQL, PgBouncer or a pool library; Prometheus text; pool statistics"
)

ReportReading = Callable[[str, int, int, int | None], None]
"""Called with a file's name, the lines and the bytes read of it, and its size in bytes, None where it is not known."""


@dataclass(slots=True)
class _Reading:
    """What has been found so far, in all files."""

    timeline: Timeline = field(default_factory=Timeline)
    servers: list[ServerSample] = field(default_factory=list)
    bouncers: list[BouncerSample] = field(default_factory=list)
    pgpools: list[PgpoolSample] = field(default_factory=list)
    pools: dict[tuple[str, str, str], PoolFigures] = field(default_factory=dict)
    history: dict[int, dict[tuple[str, str, str], PoolFigures]] = field(default_factory=dict)
    """Of pools that logs speak of, by the second of each line."""
    settings: dict[str, str] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    refusal: Refusal | None = None
    refused_at: float | None = None
    has_log: bool = False
    titles: list[BackendTitle] = field(default_factory=list)
    """Of backends, from ps."""
    collected_at: float | None = None
    names: Mapping[str, Meaning] = field(default_factory=dict)
    logs: "list[tuple[str, _Marks]]" = field(default_factory=list)
    """Of each file, how a server's log in it begins."""


def read_evidence(
    places: Sequence[str],
    *,
    prefix: str = "",
    since: float | None = None,
    until: float | None = None,
    now: float | None = None,
    names: Sequence[str] = (),
    progress: ReportReading | None = None,
) -> Observation:
    """Return the observation that the files at ``places`` make; folders, gzip and "-" (standard input) too.

    ``prefix``: log_line_prefix of PostgreSQL's logs, inferred when empty. ``since`` and ``until`` (seconds since the
    epoch, or since midnight when below a day): lines of logs before and after are left out. ``names``: the user's own
    names of pool figures, as ``parse_names`` reads them. ``now``: the instant of pastes, else their newest. Raises
    BadInput for a place that does not exist, and when nothing in any of the files could be read.
    """
    reading = _Reading(names=parse_names(names))
    for file in find_files(places):
        _read_file(reading, file, prefix, since, until, now, progress)
    if not any(source.ok for source in reading.sources):
        raise BadInput(
            "; ".join(f"--evidence {source.target}: {source.reason}" for source in reading.sources),
            hint=f"known are {LOOKED_FOR}",
        )
    return _observe(reading, now)


def _read_file(
    reading: _Reading,
    file: EvidenceFile,
    prefix: str,
    since: float | None,
    until: float | None,
    now: float | None,
    progress: ReportReading | None,
) -> None:
    lines = file.lines()
    head = list(islice(lines, HEAD))
    marks = _find_marks(head, prefix)
    twin = next((name for name, known in reading.logs if _is_same_log(marks, known)), None)
    if twin is not None:
        # PostgreSQL writes one log in up to three formats: counted twice, it has twice as many sessions and refusals.
        reading.sources.append(Source("evidence", file.name, reason=f"the same log as {twin}: left out"))
        return
    reading.logs.append((file.name, marks))
    is_small = (file.size is None or file.size <= SMALL) and _complete(head, lines)
    numbers: list[int] = []
    if is_small and not _is_log(head[:HEAD], prefix):
        cleaned = clean_paste(head)
        numbers, head = [number for number, _ in cleaned], [line for _, line in cleaned]
        text = "\n".join(head)
        if _read_scrape(reading, text, file.name):
            return
        if text.lstrip()[:1] in ("{", "[") and _is_log(records := unfold_json(text), prefix):
            numbers, head = [], records
    unread = _Unread()
    source = _LineReader(
        reading, file.name, prefix, since, until, unread, keep_tables=is_small, now=now, numbers=numbers
    )
    count = 0
    for chunk in _chunks(head, lines):
        source.feed(chunk)
        count += len(chunk)
        if progress is not None:
            progress(file.name, count, file.position, file.size)
    source.finish()
    reading.timeline.lines += count if source.is_log else 0
    concluded = source.conclude(count)
    if file.complaint and concluded.ok:
        reason = "; ".join(filter(None, [file.complaint, concluded.reason]))
        concluded = replace(concluded, reason=reason, is_partial=True)
    reading.sources.append(concluded)


_Marks = frozenset[tuple[int, int, str]]
"""Of a log: the second, the process and the kind of the messages that it begins with."""
LEAST_MARKS = 3
SAME_SHARE = 0.8


def _find_marks(lines: Sequence[str], prefix: str) -> _Marks:
    log = ServerLog(prefix)
    events = [event for line in lines for event in log.feed(line)[0]] + log.finish()
    return frozenset(
        (int(event.at), event.pid, event.kind)
        for event in events
        # Of lines as text, only some of the connections received are read.
        if event.at is not None and event.pid is not None and event.kind not in ("other", "received")
    )


def _is_same_log(one: _Marks, other: _Marks) -> bool:
    """Return True if two logs begin with the same messages, as far as the shorter one goes."""
    least = min(len(one), len(other))
    return least >= LEAST_MARKS and len(one & other) >= SAME_SHARE * least


def _complete(head: list[str], lines: Iterator[str]) -> bool:
    """Add ``lines`` to ``head``; stop, and return False, when that is more than a table or a scrape can be.

    The size of a file does not decide: standard input has none, and that of a compressed file is smaller.
    """
    length = sum(map(len, head))
    for line in lines:
        head.append(line)
        length += len(line)
        if length > SMALL:
            return False
    return True


def _chunks(head: list[str], lines: Iterator[str]) -> Iterator[list[str]]:
    yield head
    while chunk := list(islice(lines, 20_000)):
        yield chunk


def _is_log(head: Sequence[str], prefix: str) -> bool:
    log = ServerLog(prefix)
    known = sum(1 for line in head[:100] if log.feed(line)[1] or read_pooler_line(line) is not None)
    return known * 2 > sum(1 for line in head[:100] if line.strip())


def _read_scrape(reading: _Reading, text: str, name: str) -> bool:
    """Read a whole file as Prometheus text or JSON of a pool; return False where it is neither."""
    exposition = parse(text, is_bouncer_metric)
    bouncer = read_exporter(exposition.series, name)
    if bouncer is not None:
        reading.bouncers.append(bouncer)
    start = text.lstrip()[:1]
    meaningful = sum(1 for line in text.split("\n") if line.strip() and not line.startswith("#"))
    is_scrape = meaningful > 0 and len(exposition.unreadable) * 2 < meaningful
    if start not in ("{", "[") and not is_scrape:
        return False
    if start in ("{", "[") and find_table(text.splitlines(), 0, _knows) is not None:
        return False
    read = read_pools(text, name, reading.names)
    for pool in read.pools:
        reading.pools[pool.source, pool.library, _identity(pool)] = pool
    if not read.pools and bouncer is None and start in ("{", "["):
        return False
    complaint = "" if read.pools or bouncer is not None else read.complaint
    silent = find_silent_pools(exposition.series, bouncer) if bouncer is not None else []
    reason = f"no waiting clients of {plural(len(silent), 'pool')}, the first is {silent[0]}" if silent else complaint
    reading.sources.append(Source("evidence", name, ok=not complaint, reason=reason, is_partial=bool(silent)))
    return True


def _identity(pool: PoolFigures) -> str:
    return "\n".join([pool.name, *(f"{key}={value}" for key, value in sorted(pool.labels.items()))])


def _knows(names: Sequence[str]) -> bool:
    return knows_activity(names) or find_show(names) != "" or set(names) in _SETTINGS or _is_log_table(names)


_TIMES = frozenset({"timestamp", "@timestamp", "time", "_time", "timegenerated", "timegenerated [utc]", "date", "ts"})


def _is_log_table(names: Sequence[str]) -> bool:
    """Return True for the columns of a log that was exported as a table, with its messages taken apart or whole."""
    return is_row(map(name_field, names)) or bool(WRAPPERS & set(names) and _TIMES & set(names))


_SETTINGS = ({"name", "setting"}, {"name", "setting", "unit"}, {"name", "setting", "description"})
_SHOWN = frozenset({"max_connections", "superuser_reserved_connections", "reserved_connections"})


_TITLE = re.compile(r"^(?:\S+ +)?\s*(?P<pid>\d+) .*?(?P<title>postgres: .*)$")
"""A line of ps: ``ps -eo pid,args``, ``ps aux``, ``ps -ef``."""
_EMPTY_RESULT = re.compile(r"^\s*(?:pg_sleep|-+|\(\d+ \w+\)|SET|BEGIN|COMMIT|Timing is on\.|Time: .*)\s*$")
"""What psql prints of statements without a table that matters here."""


_MARKS_OF_ROW = re.compile(r"[|│\t]|,(?=\S)")
_STATEMENT = re.compile(r"^\w*[=(\-'\"!][#>*] |pg_stat_activity|;\s*$")
"""A statement, pasted with its answer: it has commas as a row of CSV has."""


@dataclass(slots=True)
class _Unread:
    """Lines that no reader knew."""

    count: int = 0
    rows: int = 0
    """Those of them that look like a row of a table."""
    first: int = 0
    text: str = ""

    def add(self, number: int, line: str) -> None:
        if line.strip() and not _EMPTY_RESULT.match(line):
            self.count += 1
            self.rows += len(_MARKS_OF_ROW.findall(line)) > 2 and not _STATEMENT.search(line)
            if not self.first:
                self.first, self.text = number, line.strip()[:80]


class _LineReader:
    """One file, line by line: tables where they stand, and each other line by the first reader that knows it."""

    def __init__(
        self,
        reading: _Reading,
        name: str,
        prefix: str,
        since: float | None,
        until: float | None,
        unread: _Unread,
        *,
        keep_tables: bool,
        now: float | None,
        numbers: Sequence[int],
    ) -> None:
        self._reading = reading
        self._numbers = numbers
        self._name = name
        self._log = ServerLog(prefix)
        self._since, self._until, self._now = since, until, now
        self._unread = unread
        self._keep_tables = keep_tables
        self._tables: list[PastedTable] = []
        self._held: list[str] = []
        self._number = 0
        self._known = 0
        self._known_of = dict.fromkeys(("PostgreSQL log", "PgBouncer log", "pool log"), 0)
        self._counts: list[dict[str, str | None]] = []
        self._bad_rows = 0
        self._at: float | None = None
        self._section = ""
        self._held_by_pool: dict[tuple[str, str, str], set[str]] = {}
        self._titles: list[tuple[int, str]] = []

    def feed(self, lines: list[str]) -> None:
        """Read some lines; a file that may hold tables is kept until its end."""
        if self._keep_tables:
            self._held += lines
            return
        for line in lines:
            self._number += 1
            self._read_lines((line,))

    def finish(self) -> None:
        """Read what was kept, and close what was open."""
        at = 0
        held = self._held
        while at < len(held):
            self._number = self._numbers[at] if self._numbers else at + 1
            # A line of a log first: jsonlog has columns of pg_stat_activity, too.
            if self._read_collected(held[at]) or self._read_log_line(held[at]):
                at += 1
            elif (found := find_table(held, at, _knows) if len(held[at]) < _LONGEST_HEADER else None) is not None:
                if _is_log_table(found.table.columns) and not knows_activity(found.table.columns):
                    self._read_log_rows(found.table)
                else:
                    self._tables.append(found.table)
                self._known += 1 + len(found.table.rows)
                self._bad_rows += len(found.table.skipped)
                at += found.lines
            elif (taken := self._read_setting(held, at)) is not None:
                at += taken
            elif (count := read_state_count(held[at])) is not None:
                self._counts.append(count)
                self._known += 1
                at += 1
            else:
                self._read_other_line(held[at])
                at += 1
        for event in self._log.finish():
            self._reading.timeline.add(event)
        names = Names(find_cluster_name(title for _, title in self._titles))
        parsed = (parse_title(title, pid, names=names) for pid, title in self._titles)
        self._reading.titles += [title for title in parsed if title is not None]
        if self._counts:
            self._tables.append(PastedTable(("state", "count"), tuple(self._counts), 1))
        for tables in _group_tables(self._tables):
            self._bad_rows += _add_tables(self._reading, tables, self._name, self._now)

    def _read_collected(self, line: str) -> bool:
        """Read a line of the collecting script's own, or of ps; return False for any other."""
        if line.startswith(SECTION):
            self._section = line[len(SECTION) :].partition(",")[0].strip()
            self._known += 1
            return True
        if (title := _TITLE.match(line)) is not None:
            self._titles.append((int(title["pid"]), title["title"]))
            self._known += 1
            return True
        if self._section in ("sockets", "date"):
            if self._section == "date" and self._reading.collected_at is None:
                self._reading.collected_at = parse_instant(line)
            return True
        return False

    def _read_setting(self, lines: list[str], at: int) -> int | None:
        """Read the answer to ``SHOW max_connections``: a name, a ruler, a number. Return the lines that it takes."""
        name = lines[at].strip()
        if name in _SHOWN and at + 2 < len(lines) and lines[at + 2].strip().isdecimal():
            self._reading.settings[name] = lines[at + 2].strip()
            self._known += 1
            return 4 if at + 3 < len(lines) and lines[at + 3].strip() == "(1 row)" else 3
        return None

    def _read_log_rows(self, table: PastedTable) -> None:
        """Read a log that was exported as a table; what is no message of PostgreSQL is another log's line."""
        for row in table.rows:
            if not self._add_events(*self._log.feed_row(row)):
                self._read_lines(unwrap_lines(row))

    def _read_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            if not self._read_log_line(line):
                self._read_other_line(line)

    def _read_log_line(self, line: str) -> bool:
        """Read a line of a server's or a pooler's log; return False for any other."""
        if self._add_events(*self._log.feed(line)):
            return True
        pooler = read_pooler_line(line)
        if pooler is None:
            return line[:1] == "{" and self._read_wrapped(line)
        self._reading.has_log = True
        self._known += 1
        self._known_of["PgBouncer log"] += 1
        if self._is_wanted(pooler.at):
            self._reading.timeline.add_pooler(pooler)
            if pooler.refused_by is not None:
                self._refuse(Refusal(pooler.refused_by, pooler.text, target=self._name), pooler.at)
        return True

    def _read_wrapped(self, line: str) -> bool:
        """Read a line of PgBouncer that a platform wrapped into JSON; return False for any other."""
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            return False
        inner = unwrap_lines(document) if isinstance(document, dict) else []
        known = [each for each in inner if each[:1] != "{" and read_pooler_line(each) is not None]
        self._read_lines(known)
        return bool(known)

    def _add_events(self, events: Sequence[LogEvent], is_log: bool) -> bool:
        """Add events of PostgreSQL's log to the timeline; return ``is_log``."""
        for event in events:
            if event.at is not None:
                self._at = event.at
            if self._is_wanted(event.at):
                self._reading.timeline.add(event)
                if event.refused_by is not None:
                    self._refuse(Refusal(event.refused_by, event.text, target=self._name), event.at)
        if is_log:
            self._reading.has_log = True
            self._known += 1
            self._known_of["PostgreSQL log"] += 1
        return is_log

    def _read_other_line(self, line: str) -> None:
        # What stands below a line, such as an exception, has no instant of its own.
        if (at := parse_instant(line[:80]) if line[:1].isdigit() or line[:1] == "[" else None) is not None:
            self._at = at
        of_pool = read_pool_line(line)
        if of_pool is not None:
            self._known += 1
            self._known_of["pool log"] += 1
            at = at if at is not None else parse_instant(line)
            self._add_pool_line(of_pool, at if at is not None else self._at)
        else:
            self._unread.add(self._number, line)

    def _is_wanted(self, at: float | None) -> bool:
        if at is None:
            return True
        is_late = self._since is None or _choose_clock(at, self._since) >= self._since
        return is_late and (self._until is None or _choose_clock(at, self._until) <= self._until)

    def _refuse(self, refusal: Refusal, at: float | None) -> None:
        reading = self._reading
        if reading.refused_at is None or (at is not None and at >= reading.refused_at):
            reading.refusal, reading.refused_at = refusal, at if at is not None else reading.refused_at

    def _add_pool_line(self, line: PoolLine, at: float | None) -> None:
        if not self._is_wanted(at):
            return
        self._reading.has_log = True
        self._reading.timeline.add_pool_line(line, at)
        if line.leaked or line.returned or line.is_starved:
            return
        key = (self._name, line.library, line.name)
        others = [each for each in self._reading.pools if each[:2] == key[:2] and each != key]
        if line.name == "default" and len(others) == 1:
            # An error names no pool: it is of the only one of that library that the log names.
            key = others[0]
        known = self._reading.pools.get(key)
        figures = add_line(known, line, self._name, self._held_by_pool.setdefault(key, set()))
        if key not in self._reading.pools and line.timed_out:
            # What the log counts begins with its first error: before it, no acquire had given up.
            first = replace(figures, timed_out_total=0.0)
            self._reading.history.setdefault(int(at or 0) - 1, {})[key] = first
        self._reading.pools[key] = figures
        if at is not None:
            self._reading.history.setdefault(int(at), {})[key] = figures

    @property
    def is_log(self) -> bool:
        """Whether any line of a log was in the file."""
        return any(self._known_of.values())

    def conclude(self, count: int) -> Source:
        """Return what became of the file, as a source."""
        if self._known == 0:
            reason = "nothing in it is of a known format" if count else "it is empty"
            if self._unread.first:
                reason += f"; line {self._unread.first} is {self._unread.text!r}"
            return Source("evidence", self._name, ok=False, reason=reason)
        notes = []
        if self._bad_rows:
            notes.append(f"{agree(self._bad_rows, 'row', 'are')} missing or did not fit the columns")
        # Stack traces and other programs' lines stand in every application's log: only tables should be whole.
        mostly = max(self._known_of.values())
        if self._unread.count and mostly == 0:
            first = f"line {self._unread.first}"
            rest = plural(self._unread.count - 1, "more line")
            notes.append(f"{first} and {rest} were not read" if self._unread.count > 1 else f"{first} was not read")
        is_partial = self._bad_rows > 0 or (self._unread.rows > 0 and mostly == 0)
        return Source("evidence", self._name, ok=True, reason="; ".join(notes), is_partial=is_partial)


def _choose_clock(at: float, bound: float) -> float:
    """Return ``at`` on the clock of ``bound``: the time of day for a bound below one day, else since the epoch."""
    return at % DAY if bound < DAY else at


def _group_tables(tables: Sequence[PastedTable]) -> list[list[PastedTable]]:
    """Return the tables of each moment together: one that shows what another of its group shows begins the next."""
    groups: list[list[PastedTable]] = []
    shown: set[str] = set()
    for table in tables:
        what = find_show(table.columns) or _activity_of(table)
        if what == "CLIENTS" and any((row.get("type") or "").upper() == "S" for row in table.rows):
            what = "SERVERS"
        if what in shown or not groups:
            groups.append([])
            shown = set()
        shown.add(what)
        groups[-1].append(table)
    return groups


def _activity_of(table: PastedTable) -> str:
    names = set(table.columns)
    if names in _SETTINGS:
        return "settings"
    if {"locktype", "mode", "granted"} <= names:
        return "locks"
    if {"blocked_pid", "blocking_pid"} <= names:
        return "pairs"
    return "databases" if "numbackends" in names else "activity" if names & {"pid", "procpid"} else "counts"


def _add_tables(reading: _Reading, tables: Sequence[PastedTable], name: str, now: float | None) -> int:
    """Add what tables of one moment say to ``reading``; return the number of rows that cannot be as they are."""
    shows = [table for table in tables if find_show(table.columns)]
    bouncer, pgpool = read_bouncer(shows, name), read_pgpool(shows, name)
    if bouncer is not None:
        reading.bouncers.append(bouncer)
    if pgpool is not None:
        reading.pgpools.append(pgpool)
    for table in tables:
        if set(table.columns) in _SETTINGS:
            reading.settings |= {str(row["name"]): str(row["setting"]) for row in table.rows if row.get("setting")}
    rest = [table for table in tables if not find_show(table.columns) and set(table.columns) not in _SETTINGS]
    unreadable = count_unreadable(shows)
    if not rest:
        return unreadable
    activity = read_activity(rest, now)
    if activity.backends or activity.databases:
        reading.servers.append(
            ServerSample(
                at=activity.now if activity.now is not None else 0.0,
                started_at=0.0,
                backends=tuple(activity.backends),
                databases=tuple(activity.databases),
            )
        )
    return activity.unfit + unreadable


def _observe(reading: _Reading, now: float | None) -> Observation:
    """Put everything into snapshots, oldest first; the last one has the newest of each kind."""
    log = reading.timeline.facts() if reading.has_log else None
    newest = [server.at for server in reading.servers if server.at]
    if log is not None and log.last_at is not None:
        newest.append(log.last_at)
    end = now if now is not None else max(newest, default=reading.collected_at or 0.0)
    snapshots = [Snapshot(at, pools=tuple(pools)) for at, pools in _pool_history(reading, end)]
    servers = _keep_comparable(sorted(reading.servers, key=lambda server: server.at))
    snapshots += [Snapshot(server.at or end, server) for server in servers[:-1]]
    # Without backends a refusal stands in the log's facts alone, with how many and when.
    has_backends = bool(servers) or bool(reading.titles)
    is_refusing = reading.refusal is not None and has_backends and end - (reading.refused_at or end) <= STALE
    last = Snapshot(
        at=max([end, *(snapshot.at for snapshot in snapshots)]),
        server=servers[-1] if servers else None,
        refusal=reading.refusal if is_refusing else None,
        bouncers=_newest_by_target(reading.bouncers),
        pgpools=tuple(reading.pgpools[-1:]),
        pools=tuple(reading.pools.values()),
        host=HostSample(has_server=True, titles=tuple(reading.titles)) if reading.titles else None,
    )
    return Observation(
        snapshots=(*sorted(snapshots, key=lambda snapshot: snapshot.at), last),
        server=_server_facts(reading),
        sources=tuple(reading.sources),
        log=log,
    )


def _keep_comparable(servers: list[ServerSample]) -> list[ServerSample]:
    """Return the samples that can be compared, oldest first: those with process ids, or the newest alone.

    Counts say how many there were, and never that one of them is the same as one of another paste.
    """
    if not servers or any(backend.pid < 0 for backend in servers[-1].backends):
        return servers[-1:]
    # The same paste once more, in whatever form, is no second sample.
    servers = list({_identify(server): server for server in servers}.values())
    return [server for server in servers if all(backend.pid >= 0 for backend in server.backends)]


def _identify(server: ServerSample) -> tuple[float, frozenset[tuple[int, str | None, float | None]]]:
    return server.at, frozenset((backend.pid, backend.state, backend.state_at) for backend in server.backends)


def _newest_by_target(bouncers: Sequence[BouncerSample]) -> tuple[BouncerSample, ...]:
    return tuple({bouncer.target: bouncer for bouncer in bouncers}.values())


def _pool_history(reading: _Reading, end: float) -> Iterator[tuple[float, list[PoolFigures]]]:
    """Yield what logs said of pools over time, each pool in every snapshot, thinned to ``MOST_SNAPSHOTS``."""
    instants = sorted(reading.history)
    step = max(1, len(instants) // MOST_SNAPSHOTS)
    known: dict[tuple[str, str, str], PoolFigures] = {}
    for number, at in enumerate(instants):
        known |= reading.history[at]
        if number % step == 0 and (at < end or end == 0.0):
            # Lines without an instant have the numbers -1 and 0, for their order alone.
            yield max(0.0, float(at)), list(known.values())


def _server_facts(reading: _Reading) -> ServerFacts | None:
    """Return the limits, where the evidence has them; every other fact of the server is unknown."""
    text = reading.settings.get("max_connections", "")
    if not text.isdecimal():
        return None
    kept = [reading.settings.get(name, "") for name in ("superuser_reserved_connections", "reserved_connections")]
    reserved = [int(each) if each.isdecimal() else default for each, default in zip(kept, (3, 0), strict=True)]
    return ServerFacts(
        target="evidence",
        version="",
        version_number=0,
        role="",
        database="",
        max_connections=int(text),
        superuser_reserved=reserved[0],
        reserved=reserved[1],
        can_see_all=True,
    )
