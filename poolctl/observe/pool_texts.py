"""Pool figures in the texts that libraries print: log lines, errors, and a statistics object printed as it is.

Reads HikariCP's log, SQLAlchemy's, Npgsql's, Prisma's, Rails', Ecto's, knex's, psycopg_pool's, psycopg2's and
node-postgres' errors, sqlx's Debug form, and statistics of any library as Go, Ruby, JavaScript, logfmt or JSON print
them. Decides which figure each number is. An error that names only the size of the pool says that it was full at that
moment; what an error does not name is None.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from poolctl.observe.metric_names import Meaning, find_json_meanings
from poolctl.observe.snapshot import PoolFigures

_WORDS = (
    *("pool", "Pool", "onnection", "timeout", "Timeout", "TimedOut", "timed out", "P2024", "acquir", "num_idle"),
    *("MaxOpenConnections", "totalCount", "numUsed", "InUse", "Conns", "_conns", "in_use"),
)
"""One of them stands in every line that is read here: most lines of a log are passed over by this alone."""


@dataclass(frozen=True, slots=True)
class PoolLine:
    """What one line says of a pool. ``timed_out``: an acquire that gave up; ``leaked``: a connection that the library
    reports as leaked, by its name, and where it was acquired; ``returned``: one that came back after such a report."""

    library: str
    name: str
    numbers: Mapping[str, float]
    timed_out: int = 0
    leaked: str = ""
    returned: str = ""
    requested: int = 0
    """Acquires that began, or (below 0) that ended without a connection."""
    taken: int = 0
    """Connections acquired, or (below 0) released, where the line does not say which."""
    took: str = ""
    gave_back: str = ""
    """The name of the connection that was acquired or released."""
    is_starved: bool = False
    """The process itself had no processor: what it says of waits says nothing of the pool."""


_HIKARI = re.compile(
    r"(?P<name>[^\s:\]]+) - (?:(?P<title>[A-Z][\w ]*?) *)?(?:stats|request timed out after \d+ms(?:\.|,)?|"
    r"Connection is not available, request timed out after (?P<after>\d+)ms(?:\.|,)?) *"
    r"\(total=(?P<open>\d+)(?:/(?P<max_open>\d+))?, (?:(?:idle=(?P<idle>\d+)(?:/\d+)?|active=(?P<in_use>\d+)"
    r"|waiting=(?P<waiting>\d+)),? ?)+\)"
)
_HIKARI_TIMED_OUT = re.compile(r"(?P<name>[^\s:\]]+) - Connection is not available, request timed out after \d+ms")
_HIKARI_LEAK = re.compile(
    r"Connection leak detection triggered for (?P<connection>\S+(?: \(\S+\))?) on thread (?P<thread>.+?), stack"
)
_HIKARI_RETURNED = re.compile(
    r"Previously reported leaked connection (?P<connection>\S+(?: \(\S+\))?) on thread .* was returned"
)
_HIKARI_STARVED = re.compile(r"Thread starvation or clock leap detected")

_SQLALCHEMY = re.compile(
    r"(?:\w*Pool) limit of size (?P<size>\d+) overflow (?P<overflow>-?\d+) reached, connection timed out, timeout"
)
_SQLALCHEMY_STATUS = re.compile(
    r"Pool size: (?P<size>\d+)\s+Connections in pool: (?P<idle>\d+)\s+"
    r"Current Overflow: (?P<overflow>-?\d+)\s+Current Checked out connections: (?P<in_use>\d+)"
)
_NPGSQL = re.compile(
    r"connection pool has been exhausted, either raise '?Max ?Pool ?Size'? \(currently (?P<max_open>\d+)\)",
    re.IGNORECASE,
)
_PRISMA = re.compile(
    r"Timed out fetching a new connection from the (?:connection )?pool.*?"
    r"(?:connection limit: (?P<max_open>\d+)|connection pool timeout: \d+, connection limit: (?P<limit>\d+))",
    re.IGNORECASE,
)
_SQLX = re.compile(
    r"Pool(?:<\w+>)? \{ size: (?P<open>\d+), num_idle: (?P<idle>\d+), is_closed: \w+, "
    r"options: \w+ \{ (?:\w+: [^,]+, )*?"
    r"max_connections: (?P<max_open>\d+)"
)
_PAIR = re.compile(r"[\"':]?\b(?P<key>[A-Za-z]\w*)[\"']?(?: ?=> ?|=|: ?)[\"']?(?P<value>\d[\w.µμ]*)")
"""A name and a number as Go (``%+v``, ``%#v``), logfmt, Ruby and JavaScript print them."""
_GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|s|m|h)")
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_TIMED_OUT: tuple[tuple[str, "re.Pattern[str]"], ...] = (
    ("psycopg_pool", re.compile(r"couldn't get a connection after [\d.]+ sec")),
    ("psycopg_pool", re.compile(r"the pool '(?P<name>[^']*)' has already (?P<waiting>\d+) requests waiting")),
    ("psycopg2", re.compile(r"PoolError: connection pool exhausted")),
    ("rails", re.compile(r"could not obtain a (?:database )?connection (?:from the pool )?within [\d.]+ seconds")),
    ("ecto", re.compile(r"connection not available and request was dropped from queue after \d+ms")),
    ("knex", re.compile(r"Knex: Timeout acquiring a connection")),
    ("tarn", re.compile(r"TimeoutError: operation timed out for an unknown reason")),
    ("sequelize", re.compile(r"SequelizeConnectionAcquireTimeoutError")),
    ("node-pg", re.compile(r"timeout exceeded when trying to connect")),
    ("sqlx", re.compile(r"pool timed out while waiting for an open connection")),
    ("r2dbc-pool", re.compile(r"Connection acquisition timed out after \d+ms")),
    ("agroal", re.compile(r"Sorry, acquisition timeout!")),
    ("dbcp2", re.compile(r"Cannot get a connection, pool (?:error Timeout waiting for idle object|exhausted)")),
    ("c3p0", re.compile(r"A client timed out while waiting to acquire a resource")),
    ("vertx", re.compile(r"Connection pool reached max wait queue size of (?P<waiting>\d+)")),
    (
        "tomcat-jdbc",
        re.compile(
            r"Timeout: Pool empty\. .*none available\[size:(?P<open>\d+); busy:(?P<in_use>\d+); idle:(?P<idle>\d+)"
        ),
    ),
    ("bb8", re.compile(r"bb8.*TimedOut|RunError::TimedOut")),
    ("deadpool", re.compile(r"Timeout occurred while waiting for a slot to become available")),
    ("r2d2", re.compile(r"timed out waiting for connection")),
)
"""Errors without figures: all that they say is that an acquire gave up."""


_ABSURD = 1e15
"""From here on a number is none: no pool has so many connections, and none waited for so many milliseconds."""
LONGEST_LINE = 4_000
"""Characters that are searched of a line. The patterns look for a word before what they know, from each place of a
line, so their time grows with the square of its length."""


def read_pool_line(line: str) -> PoolLine | None:
    """Return what ``line`` says of a pool, None where it says nothing of one."""
    line = line[:LONGEST_LINE]
    if not any(word in line for word in _WORDS):
        return None
    for read in _READERS:
        found = read(line)
        if found is not None:
            return found
    return None


def read_pool_texts(text: str, source: str) -> Iterator[PoolFigures]:
    """Yield the last figures of each pool in a text, with the number of acquires that gave up in it."""
    totals: dict[tuple[str, str], PoolFigures] = {}
    held: dict[tuple[str, str], set[str]] = {}
    for line in text.splitlines():
        found = read_pool_line(line)
        if found is not None:
            key = (found.library, found.name)
            totals[key] = add_line(totals.get(key), found, source, held.setdefault(key, set()))
    yield from totals.values()


def add_line(known: PoolFigures | None, line: PoolLine, source: str, held: set[str]) -> PoolFigures:
    """Return the figures of a pool after one more line about it. A line without gauges leaves them as they are.

    ``held``: names of the connections of that pool that the log shows as acquired; kept up to date here. Without the
    beginning of a log, what was acquired before is missing: the figures are the least that can be.
    """
    figures = known or PoolFigures(source=source, name=line.name, library=line.library)
    numbers: dict[str, float] = {
        name: round(value) if name in ("max_open", "open", "in_use", "idle", "waiting") else value
        for name, value in line.numbers.items()
        # A damaged line may have any number of digits: what no pool can have is not known.
        if value < _ABSURD
    }
    if line.took or line.gave_back:
        # Two loggers may write the same line twice: a name counts once.
        held.add(line.took) if line.took else held.discard(line.gave_back)
        numbers["in_use"] = len(held)
    if line.taken:
        numbers["in_use"] = max(0, (figures.in_use or 0) + line.taken)
    if line.requested or line.taken > 0:
        numbers["waiting"] = max(0, (figures.waiting or 0) + line.requested)
    if line.timed_out:
        numbers["timed_out_total"] = (figures.timed_out_total or 0.0) + line.timed_out
        if figures.waiting and "waiting" not in numbers and line.library == "psycopg_pool":
            numbers["waiting"] = figures.waiting - 1
        if figures.max_open is None and "max_open" not in numbers and figures.in_use and not figures.idle:
            # An acquire that gives up found the pool full: what was in use is all that it may have.
            numbers["max_open"] = figures.in_use
    return replace(figures, **numbers)  # type: ignore[arg-type] # by name: counts are int, the rest float


def _ints(match: "re.Match[str]", *names: str) -> dict[str, float]:
    return {name: float(value) for name in names if (value := match.groupdict().get(name)) is not None}


def _read_hikari(line: str) -> PoolLine | None:
    if match := _HIKARI_LEAK.search(line):
        return PoolLine("hikaricp", "", {}, leaked=f"{match['connection']} on thread {match['thread']}")
    if match := _HIKARI_RETURNED.search(line):
        return PoolLine("hikaricp", "", {}, returned=match["connection"])
    if _HIKARI_STARVED.search(line):
        return PoolLine("hikaricp", "", {}, is_starved=True)
    match = _HIKARI.search(line)
    if match is None:
        match = _HIKARI_TIMED_OUT.search(line)
        return None if match is None else PoolLine("hikaricp", match["name"], {}, timed_out=1)
    numbers = _ints(match, "open", "idle", "in_use", "waiting", "max_open")
    if numbers.get("waiting") and not numbers.get("idle") and numbers.get("open") == numbers.get("in_use"):
        # Before 6.0 the line has no limit. The pool opens up to it while threads wait, so that is what it has.
        numbers.setdefault("max_open", numbers["open"])
    return PoolLine("hikaricp", match["name"], numbers, timed_out=int("request timed out" in match[0]))


def _read_sqlalchemy(line: str) -> PoolLine | None:
    if match := _SQLALCHEMY.search(line):
        size, overflow = int(match["size"]), int(match["overflow"])
        full = float(size + max(0, overflow))
        # An error of this kind exists only while the pool is full: its size is what is in use.
        numbers = {"max_open": full, "open": full, "in_use": full, "idle": 0.0} if overflow >= 0 else {}
        return PoolLine("sqlalchemy", "default", numbers, timed_out=1)
    if match := _SQLALCHEMY_STATUS.search(line):
        before = line[: match.start()].strip().rstrip(":").strip()
        # A name of the pool's may stand before it, and whatever a logger writes.
        before = before if re.fullmatch(r"[\w.-]+", before) else ""
        numbers = _ints(match, "idle", "in_use")
        # The size is without the overflow, which the text does not give.
        return PoolLine("sqlalchemy", before or "default", numbers | {"open": sum(numbers.values())})
    return None


_CHECKED_OUT = re.compile(r"Connection <.* at (?P<at>0x[0-9a-f]+)> (?P<what>checked out from|being returned to) pool")
_PSYCOPG = re.compile(
    r"(?P<what>connection requested from|connection given by|returning connection to) '(?P<name>[^']*)'"
)


def _read_events(line: str) -> PoolLine | None:
    """Read a connection that SQLAlchemy (echo_pool="debug") or psycopg_pool (at level INFO) hands out or takes back."""
    if match := _CHECKED_OUT.search(line):
        is_taken = match["what"].startswith("checked")
        took, gave_back = (match["at"], "") if is_taken else ("", match["at"])
        return PoolLine("sqlalchemy", "default", {}, took=took, gave_back=gave_back)
    if match := _PSYCOPG.search(line):
        if match["what"].startswith("returning"):
            return PoolLine("psycopg_pool", match["name"], {}, taken=-1)
        is_given = "given" in match["what"]
        return PoolLine("psycopg_pool", match["name"], {}, requested=-1 if is_given else 1, taken=int(is_given))
    return None


_JSON = re.compile(r"\{[^{}]*\}")


def _read_json(line: str) -> PoolLine | None:
    """Read the statistics of a pool that an application logs as JSON, behind whatever its logger writes."""
    if '"' not in line or (match := _JSON.search(line)) is None:
        return None
    try:
        document = json.loads(match[0])
    except ValueError:
        return None
    numbers: dict[str, float] = {}
    libraries: dict[str, None] = {}
    for key, meaning in find_json_meanings(document).items():
        value = document[key]
        if type(value) in (int, float) and abs(value) < 1e15:
            libraries[meaning.library] = None
            numbers[meaning.field] = numbers.get(meaning.field, 0.0) + value * meaning.scale
    if len(numbers) < 3:
        return None
    if "open" in numbers and "idle" in numbers:
        numbers.setdefault("in_use", max(0.0, numbers["open"] - numbers["idle"]))
    name = document.get("name")
    return PoolLine(next(iter(libraries)), name if isinstance(name, str) else "default", numbers)


def _read_full(library: str, pattern: "re.Pattern[str]") -> Callable[[str], PoolLine | None]:
    """Return a reader of errors that name the size of a pool, which was full when they were raised."""

    def read(line: str) -> PoolLine | None:
        match = pattern.search(line)
        if match is None:
            return None
        size = next((float(value) for value in match.groups() if value is not None), None)
        numbers = {} if size is None else {"max_open": size, "open": size, "in_use": size, "idle": 0.0}
        return PoolLine(library, "default", numbers, timed_out=1)

    return read


def _read_sqlx(line: str) -> PoolLine | None:
    match = _SQLX.search(line)
    if match is None:
        return None
    numbers = _ints(match, "open", "idle", "max_open")
    return PoolLine("sqlx", "default", numbers | {"in_use": numbers["open"] - numbers["idle"]})


def _read_pairs(line: str) -> PoolLine | None:
    """Read a statistics object as it is printed, whatever stands before and behind it."""
    pairs = dict(_PAIR.findall(line))
    if len(pairs) < LEAST_PAIRS:
        return None
    numbers: dict[str, float] = {}
    libraries: dict[str, None] = {}
    meanings = find_json_meanings(pairs)
    if "in_use" in pairs:
        meanings |= {key: Meaning("unknown", key) for key in pairs if key in _OWN}
    for key, meaning in meanings.items():
        text = pairs[key]
        value = parse_go_number(text)
        if value is None or not meaning.field:
            continue
        libraries[meaning.library] = None
        # A duration is printed with its unit: the scale of the JSON form does not apply.
        amount = value if text[-1:].isalpha() else value * meaning.scale
        numbers[meaning.field] = numbers.get(meaning.field, 0.0) + amount
    if len(numbers) < LEAST_PAIRS or not numbers.keys() & {"open", "in_use", "idle"}:
        return None
    if "open" in numbers and "idle" in numbers:
        numbers.setdefault("in_use", max(0.0, numbers["open"] - numbers["idle"]))
    elif "open" in numbers and "in_use" in numbers:
        numbers["idle"] = max(0.0, numbers["open"] - numbers["in_use"])
    elif "idle" in numbers and "in_use" in numbers:
        numbers["open"] = numbers["idle"] + numbers["in_use"]
    return PoolLine(next(iter(libraries)), "default", numbers)


_OWN = frozenset({"max_open", "open", "in_use", "idle", "waiting"})
LEAST_PAIRS = 3
"""Figures of a pool that a line has to name: one or two stand in a line by chance."""


def parse_go_number(text: str) -> float | None:
    """Return a number, or the seconds of Go's duration ("1m2.5s"); None for anything else."""
    try:
        return float(text)
    except ValueError:
        parts = _GO_DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            return None
        return sum(float(number) * _GO_UNITS[unit] for number, unit in parts)


def _read_timed_out(line: str) -> PoolLine | None:
    for library, pattern in _TIMED_OUT:
        if match := pattern.search(line):
            numbers = _ints(match, "open", "in_use", "idle", "waiting")
            if numbers.get("idle") == 0.0:
                numbers["max_open"] = numbers["open"]
            return PoolLine(library, match.groupdict().get("name") or "default", numbers, timed_out=1)
    return None


_READERS: tuple[Callable[[str], PoolLine | None], ...] = (
    _read_hikari,
    _read_sqlalchemy,
    _read_full("npgsql", _NPGSQL),
    _read_full("prisma", _PRISMA),
    _read_sqlx,
    _read_json,
    _read_pairs,
    _read_events,
    _read_timed_out,
)
