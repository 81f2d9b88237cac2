"""Rows of pg_stat_activity and pg_locks, and counts of them, as the sample of a server that live looking gives.

Decides what a cell means and what "now" is. Every column may be missing: what a paste does not have is None. Where a
paste has only counts (``SELECT state, count(*)``), backends without an identity stand for them, with negative numbers
as process ids, so that limits and totals are right and nothing can be said of any one of them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import isfinite

from poolctl.observe.evidence.tables import PastedTable
from poolctl.observe.snapshot import Backend, DatabaseCounters, LockWait

Cells = Mapping[str, str | None]

ACTIVITY = frozenset(
    {
        *("datname", "pid", "procpid", "usename", "application_name", "client_addr", "client_port", "client_hostname"),
        *("backend_start", "xact_start", "query_start", "state_change", "wait_event_type", "wait_event", "waiting"),
        *("state", "backend_xid", "backend_xmin", "query_id", "query", "current_query", "backend_type", "leader_pid"),
    }
)
"""Columns of pg_stat_activity, old names included."""

LOCKS = frozenset({"locktype", "relation", "mode", "granted", "virtualtransaction", "waitstart", "fastpath"})
DATABASES = frozenset({"datname", "numbackends", "xact_commit", "xact_rollback", "sessions", "sessions_abandoned"})
_COUNTS = frozenset({"count", "count(*)", "connections", "cnt", "total", "num", "n", "numbackends", "used"})
_GROUPED_BY = frozenset(
    {"state", "usename", "datname", "application_name", "client_addr", "wait_event", "wait_event_type", "backend_type"}
)
_AGES = {
    "query_age": "query_at",
    "xact_age": "transaction_at",
    "transaction_age": "transaction_at",
    "state_age": "state_at",
    "idle_for": "state_at",
    "idle_time": "state_at",
    "idle_duration": "state_at",
    "backend_age": "started_at",
    # age(clock_timestamp(), query_start): what most collections of queries have.
    "age": "query_at",
    "duration": "query_at",
    "runtime": "query_at",
    "running_for": "query_at",
    "query_duration": "query_at",
    "query_time": "query_at",
    "query_runtime": "query_at",
    "elapsed": "query_at",
    "running_since": "query_at",
    "xact_duration": "transaction_at",
    "xact_runtime": "transaction_at",
    "xact_time": "transaction_at",
    "tx_age": "transaction_at",
    "tx_duration": "transaction_at",
    "txn_age": "transaction_at",
    "txn_duration": "transaction_at",
    "transaction_duration": "transaction_at",
    "state_duration": "state_at",
    "time_in_state": "state_at",
    "idle_age": "state_at",
    "connection_age": "started_at",
    "session_age": "started_at",
    "conn_age": "started_at",
    "connected_for": "started_at",
}
"""Columns that people compute with now() - ..., and the instant that each is the age of."""
_STATES = frozenset(
    {
        *("active", "idle", "idle in transaction", "idle in transaction (aborted)", "fastpath function call"),
        *("disabled", "starting"),
    }
)
_BLOCKERS = ("blocked_by", "pg_blocking_pids", "blocking_pids", "blockers", "blocking_pid")
_BLOCKED = ("blocked", "waiting", "waiter", "locked")
_BLOCKING = ("blocking", "blocker", "holding", "holder", "locking")
"""How collections of queries call the two ends of a wait for a lock, before ``_pid``, ``_user``, ``_query``."""
_NOWS = ("now", "clock_timestamp", "current_timestamp", "statement_timestamp")
_INSTANTS = ("backend_start", "xact_start", "query_start", "state_change", *_NOWS)

_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:[.,]\d+)?)\s*(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?", re.IGNORECASE
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SYSLOG = re.compile(rf"({'|'.join(_MONTHS)}) +(\d{{1,2}}) (\d\d):(\d\d):(\d\d)")
_INTERVAL = re.compile(
    r"^(-)?(?:(\d+) years? ?)?(?:(\d+) mons? ?)?(?:(\d+) days? ?)?(?:(\d+):(\d\d):(\d\d(?:\.\d+)?))?$"
)


@dataclass(slots=True)
class PastedActivity:
    """What the tables of one paste say of a server. ``now``: the newest instant in it, None without any instant."""

    backends: list[Backend] = field(default_factory=list)
    databases: list[DatabaseCounters] = field(default_factory=list)
    now: float | None = None
    unfit: int = 0
    """Rows with a state that PostgreSQL does not have, as of a line that was torn apart."""


def knows_activity(names: Sequence[str]) -> bool:
    """Return True if these are columns of pg_stat_activity, of pg_stat_database, or counts of either."""
    found = set(names)
    return (
        len(found & ACTIVITY) >= 2
        or bool(found & _COUNTS and found & _GROUPED_BY)
        or len(found & DATABASES) >= 2
        or len(found & LOCKS) >= 3
        or _find_pair(found) is not None
    )


def _find_pair(names: "set[str]") -> tuple[str, str] | None:
    """Return what stands before ``_pid`` in the columns of who is blocked and who blocks, None without both."""
    pairs = ((blocked, blocking) for blocked in _BLOCKED for blocking in _BLOCKING)
    return next((pair for pair in pairs if all(f"{each}_pid" in names for each in pair)), None)


def parse_instant(text: str | None) -> float | None:
    """Return seconds since the epoch, an instant without a zone taken as UTC; None for anything else."""
    match = _TIMESTAMP.search(text or "")
    if match is None:
        return None
    day, time, zone = match[1], match[2].replace(",", "."), (match[3] or "Z").upper()
    clock, _, fraction = time.partition(".")
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=UTC)
    except ValueError:
        return None
    offset = 0.0
    if zone[0] in "+-":
        digits = zone[1:].replace(":", "")
        offset = (int(digits[:2]) * 3600 + int(digits[2:4] or 0) * 60) * (1 if zone[0] == "+" else -1)
    return moment.timestamp() - offset + float(f"0.{fraction or 0}")


def parse_syslog_instant(text: str) -> float | None:
    """Return seconds since the epoch of "Oct 13 06:31:02", as syslog writes it, or of an ISO instant; None otherwise.

    The year is the last one in which it lies in the past, and the zone is UTC: the line has neither.
    """
    match = _SYSLOG.match(text)
    if match is None:
        return parse_instant(text)
    now = datetime.now(UTC)
    month = _MONTHS.index(match[1]) + 1
    day, hour, minute, second = (int(each) for each in match.groups()[1:])
    # Four years back: 29 February is not in every one.
    for year in range(now.year, now.year - 5, -1):
        with suppress(ValueError):
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
            if moment <= now + timedelta(days=1):
                return moment.timestamp()
    return None


def parse_moment(text: str) -> float | None:
    """Return seconds since the epoch of a date with a time, or seconds since midnight of a time of day alone."""
    clock = re.fullmatch(r"(\d\d?):(\d\d)(?::(\d\d))?", text.strip())
    if clock is not None and int(clock[1]) < 24 and int(clock[2]) < 60:
        return float(int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3] or 0))
    dated = re.fullmatch(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(.*)", text.strip())
    if dated is not None and not dated[3].startswith(":"):
        return parse_instant(f"{dated[1]} {dated[2]}:00{dated[3]}")
    return parse_instant(text)


def parse_interval(text: str | None) -> float | None:
    """Return seconds of an interval as psql writes it ("1 day 02:03:04.5"), or of a bare number; None otherwise."""
    if text is None:
        return None
    stripped = text.strip()
    match = _INTERVAL.match(stripped)
    if match is not None and stripped:
        sign = -1.0 if match[1] else 1.0
        days = 365.25 * int(match[2] or 0) + 30 * int(match[3] or 0) + int(match[4] or 0)
        clock = int(match[5] or 0) * 3600 + int(match[6] or 0) * 60 + float(match[7] or 0)
        return sign * (days * 86_400 + clock)
    try:
        seconds = float(stripped.removesuffix("s"))
    except ValueError:
        return None
    return seconds if isfinite(seconds) else None


def read_activity(tables: Iterable[PastedTable], now: float | None = None) -> PastedActivity:
    """Return what tables of pg_stat_activity, pg_locks and pg_stat_database say together.

    ``now``: the instant of the paste, where it is known; else its newest one.
    """
    found = PastedActivity()
    tables = list(tables)
    instants = [
        at
        for table in tables
        for row in table.rows
        for name in _INSTANTS
        if (at := parse_instant(row.get(name))) is not None
    ]
    found.now = now if now is not None else max(instants, default=None)
    locks: list[Cells] = []
    for table in tables:
        names = set(table.columns)
        if (pair := _find_pair(names)) is not None:
            _add_pairs(found, table, *pair)
        elif len(names & LOCKS) >= 3:
            locks += table.rows
        elif names & _COUNTS and names & _GROUPED_BY and not names & {"pid", "procpid"} and "numbackends" not in names:
            _add_counts(found, table)
        elif len(names & DATABASES) >= 2 and not names & {"pid", "procpid", "state"}:
            found.databases += [counters for row in table.rows if (counters := _database(row)) is not None]
        else:
            _add_backends(found, table)
    if locks:
        found.backends = _with_locks(found.backends, locks)
    return found


_STATE_AND_COUNT = re.compile(rf"^\s*({'|'.join(map(re.escape, sorted(_STATES)))})\s*[|:,=\s]\s*(\d+)\s*$")
_COUNT_AND_STATE = re.compile(rf"^\s*(\d+)\s*[|:,=\s]\s*({'|'.join(map(re.escape, sorted(_STATES)))})\s*$")


def read_state_count(line: str) -> dict[str, str | None] | None:
    """Return a row of counts by state without column names, as psql -t and uniq -c write it; None for any other."""
    if match := _STATE_AND_COUNT.match(line):
        return {"state": match[1], "count": match[2]}
    match = _COUNT_AND_STATE.match(line)
    return None if match is None else {"state": match[2], "count": match[1]}


def _add_backends(found: PastedActivity, table: PastedTable) -> None:
    known = {backend.pid for backend in found.backends}
    for number, row in enumerate(table.rows, 1):
        backend = _backend(row, found.now, -(len(found.backends) + number))
        if backend.state is not None and backend.state not in _STATES:
            found.unfit += 1
            backend = replace(backend, state=None)
        if backend.pid not in known:
            known.add(backend.pid)
            found.backends.append(backend)


def _backend(row: Cells, now: float | None, otherwise: int) -> Backend:
    # Without any instant the sample is of the time 0, before which its ages reach back.
    ages = {
        instant: (now or 0.0) - age
        for name, instant in _AGES.items()
        if (age := parse_interval(row.get(name))) is not None
    }
    pid = _number(_LAST_NUMBER.sub("", row.get("pid") or row.get("procpid") or ""))
    query = row.get("query") or row.get("current_query")
    state = row.get("state") or _old_state(query)
    kind = row.get("wait_event_type")
    event = row.get("wait_event")
    blockers = next((row[name] or "" for name in _BLOCKERS if name in row), "")
    return Backend(
        pid=otherwise if pid is None else pid,
        user=row.get("usename"),
        database=row.get("datname"),
        application=row.get("application_name") or "",
        backend_type=row.get("backend_type") or _infer_type(row),
        client=_client(row),
        client_port=_number(row.get("client_port")),
        started_at=parse_instant(row.get("backend_start")) or ages.get("started_at"),
        transaction_at=parse_instant(row.get("xact_start")) or ages.get("transaction_at"),
        query_at=parse_instant(row.get("query_start")) or ages.get("query_at"),
        state_at=parse_instant(row.get("state_change")) or ages.get("state_at"),
        state=state,
        wait_event_type=kind or ("Lock" if row.get("waiting") == "t" else _WAIT_TYPES.get(event or "")),
        wait_event=event,
        query=query,
        query_id=_number(row.get("query_id")),
        has_xid=bool(row.get("backend_xid")),
        has_xmin=bool(row.get("backend_xmin")),
        blocked_by=tuple(int(each) for each in re.findall(r"\d+", blockers)),
        is_hidden=query == "<insufficient privilege>",
    )


def _infer_type(row: Cells) -> str | None:
    """Return the type of a backend whose row does not say it: workers have no state, and in most versions no user."""
    if "backend_type" in row:
        return None
    named = [row.get(name) for name in ("usename", "datname", "client_addr", "state", "query", "current_query")]
    is_bare = not row.keys() & {"usename", "datname", "state", "query", "current_query"}
    return "client backend" if is_bare or any(named) else None


_LAST_NUMBER = re.compile(r"^.*\D(?=\d+$)")
"""What stands before a number: a line number, the mark of a quotation, what another pane shows."""
_WAIT_TYPES = {
    "ClientRead": "Client",
    "ClientWrite": "Client",
    "transactionid": "Lock",
    "tuple": "Lock",
    "relation": "Lock",
    "advisory": "Lock",
    "DataFileRead": "IO",
    "WALSync": "IO",
    "WalSync": "IO",
}
"""Types of wait events that people paste without their type."""


def _old_state(query: str | None) -> str | None:
    """Return the state that PostgreSQL before 9.2 wrote in place of the query, None for anything else."""
    return {"<IDLE>": "idle", "<IDLE> in transaction": "idle in transaction"}.get(query or "")


def _client(row: Cells) -> str | None:
    if "client_addr" not in row:
        return None
    return (row.get("client_addr") or "local").partition("/")[0]


def _number(text: str | None) -> int | None:
    try:
        return int((text or "").replace(",", ""))
    except ValueError:
        return None


def _add_counts(found: PastedActivity, table: PastedTable) -> None:
    """Add one backend for each that a grouped count has; without an identity, since the paste has none."""
    counted = next(name for name in table.columns if name in _COUNTS)
    for row in table.rows:
        count = _number(row.get(counted)) or 0
        state = row.get("state")
        if "state" in table.columns and state is None and not row.get("usename"):
            # Background workers have no state, and no slot of max_connections.
            continue
        for _ in range(min(count, 100_000)):
            found.backends.append(
                Backend(
                    pid=-len(found.backends) - 1,
                    user=row.get("usename"),
                    database=row.get("datname"),
                    application=row.get("application_name") or "",
                    backend_type=row.get("backend_type") or "client backend",
                    client=_client(row),
                    state=state,
                    wait_event_type=row.get("wait_event_type"),
                    wait_event=row.get("wait_event"),
                    is_inferred=True,
                )
            )


def _database(row: Cells) -> DatabaseCounters | None:
    name = row.get("datname")
    if name is None:
        return None
    return DatabaseCounters(
        name=name,
        backends=_number(row.get("numbackends")) or 0,
        commits=_number(row.get("xact_commit")) or 0,
        rollbacks=_number(row.get("xact_rollback")) or 0,
        sessions=_number(row.get("sessions")),
        abandoned=_number(row.get("sessions_abandoned")),
    )


def _add_pairs(found: PastedActivity, table: PastedTable, blocked: str, blocking: str) -> None:
    """Add who waits for whom, one pair a row, as the queries of PostgreSQL's wiki and many others give it."""
    known = {backend.pid: backend for backend in found.backends}
    for row in table.rows:
        waiter, holder = (_number(row.get(f"{end}_pid")) for end in (blocked, blocking))
        if waiter is None or holder is None:
            found.unfit += 1
            continue
        first = known.get(waiter) or _end_of_pair(row, blocked, waiter)
        known[holder] = known.get(holder) or _end_of_pair(row, blocking, holder)
        pids = tuple(dict.fromkeys((*first.blocked_by, holder)))
        known[waiter] = replace(first, state=first.state or "active", wait_event_type="Lock", blocked_by=pids)
    found.backends = list(known.values())


def _end_of_pair(row: Cells, end: str, pid: int) -> Backend:
    queries = (f"{end}_statement", f"{end}_query", f"current_statement_in_{end}_process", f"{end}_sql")
    return Backend(
        pid=pid,
        user=row.get(f"{end}_user") or row.get(f"{end}_usename"),
        database=row.get(f"{end}_database") or row.get("datname"),
        application=row.get(f"{end}_application") or row.get(f"{end}_application_name") or "",
        backend_type="client backend",
        state=row.get(f"{end}_state"),
        query=next((row[name] for name in queries if row.get(name)), None),
    )


def _with_locks(backends: Sequence[Backend], locks: Sequence[Cells]) -> list[Backend]:
    """Return the backends with the locks that each waits for and who holds them in a conflicting way.

    Who blocks is inferred from granted locks on the same object: pg_locks alone does not say it.
    """

    held: dict[tuple[str | None, ...], set[int]] = {}
    waits: dict[int, Cells] = {}
    for lock in locks:
        pid = _number(lock.get("pid"))
        if pid is None:
            continue
        if lock.get("granted") in ("t", "true"):
            held.setdefault(_lock_key(lock), set()).add(pid)
        else:
            waits[pid] = lock
    known = {backend.pid for backend in backends}
    holders = {holder for lock in waits.values() for holder in held.get(_lock_key(lock), set())}
    # Without pg_stat_activity beside it: the waiters, and whom they wait for.
    missing = sorted((waits.keys() | holders) - known) if not known else []
    alone = [
        Backend(pid, None, None, backend_type="client backend", state="active" if pid in waits else None)
        for pid in missing
    ]
    changed = []
    for backend in [*backends, *alone]:
        lock = waits.get(backend.pid, {})
        if not lock:
            changed.append(backend)
            continue
        blockers = tuple(sorted(held.get(_lock_key(lock), set()) - {backend.pid}))
        wait = LockWait(
            lock.get("locktype") or "",
            lock.get("mode") or "",
            lock.get("relation"),
            parse_instant(lock.get("waitstart")),
        )
        changed.append(replace(backend, waits_for=wait, blocked_by=blockers, wait_event_type="Lock"))
    return changed


def _lock_key(lock: Cells) -> tuple[str | None, ...]:
    return tuple(
        lock.get(name) for name in ("locktype", "database", "relation", "transactionid", "virtualxid", "objid")
    )
