"""PostgreSQL's log, line by line: stderr with any log_line_prefix, csvlog, jsonlog, and how platforms wrap them.

Decides what a line says: when, which process, and which event (an accepted connection, a refusal, a lock wait, a slow
statement, a restart). Adding events up over time is left to ``timeline``. Nothing is kept but what is needed for that,
so a log of any size is read in constant memory. Sources of the shapes: PostgreSQL's elog.c, csvlog.c, jsonlog.c,
postinit.c, proc.c.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from poolctl.observe.evidence.activity_paste import parse_instant, parse_syslog_instant
from poolctl.observe.evidence.log_languages import ENGLISH_LEVEL, translate_message
from poolctl.observe.refusals import find_refuser_by_text
from poolctl.observe.snapshot import RefusedBy

EventKind = Literal[
    "received",
    "authorized",
    "ready",
    "disconnected",
    "refused",
    "lock-wait",
    "lock-acquired",
    "statement",
    "started",
    "stopping",
    "ended-backend",
    "lost-client",
    "timed-out",
    "deadlock",
    "other",
]


@dataclass(slots=True)
class LogEvent:
    """One message. Times in seconds, instants since the epoch; None: the line does not say it.

    Never changed, but not frozen: a log has millions of them, and a frozen one takes three times as long to make.
    """

    kind: EventKind
    at: float | None = None
    pid: int | None = None
    user: str | None = None
    database: str | None = None
    application: str | None = None
    client: str | None = None
    duration: float | None = None
    """Of a session (disconnected), a statement, a lock wait, or an opening (ready)."""
    refused_by: RefusedBy | None = None
    text: str = ""
    """The message, for a refusal, a lock wait, a slow statement and a time-out."""
    holders: tuple[int, ...] = ()
    queue: tuple[int, ...] = ()


_LEVEL = re.compile(
    r"(?P<level>PANIC|FATAL|ERROR|LOG|WARNING|NOTICE|INFO|DEBUG[1-5]?|STATEMENT|DETAIL|HINT|CONTEXT|QUERY|LOCATION)"
    rf": {{1,2}}|(?P<foreign>{'|'.join(sorted(ENGLISH_LEVEL, key=len, reverse=True))}) ?:  "
)
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z|UTC|GMT|[A-Z]{3,4}|[+-]\d\d(?::?\d\d)?))?"
)
_EPOCH = re.compile(r"(?<!\d)(1\d{9}\.\d{3})(?!\d)")
_PIDS = (
    re.compile(r"\[(\d{1,7})(?:-\d+)?\]"),
    re.compile(r"(?<![\w.])pid[=: ]+(\d{1,7})"),
    re.compile(r":(\d{1,7}):"),
    re.compile(r"(?<![\w.)])\((\d{1,7})\)"),
)
"""Shapes of a process id in a prefix, the surest first: a port stands in parentheses, too."""
_SESSION = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}\.([0-9a-f]{1,6})(?![0-9a-f])")
_NAMED = re.compile(r"(?P<key>user|db|database|app|application|client|host)=(?P<value>(?:\[?unknown\]?|[^\s,;\]|]*))")
_USER_AT = re.compile(r"(?<![\w=])(?P<user>[\w.-]+|\[unknown\])@(?P<database>[\w.-]+|\[unknown\])(?![\w.])")
_HOST = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*::[0-9a-f:]+)(?:\((\d+)\))?")
_SQLSTATE = re.compile(r"(?<![\w.])(?=[0-9A-Z]*\d)([0-9A-Z]{5})(?![\w.])")

_AUTHORIZED = re.compile(
    r"connection authorized: (?:user=(?P<user>.*?))?(?: database=(?P<database>.*?))?"
    r"(?: application_name=(?P<application>.*?))?(?: SSL enabled .*| GSS .*)?$"
)
_RECEIVED = re.compile(r"connection received: host=(?P<host>\S+)(?: port=\d+)?")
_READY = re.compile(r"connection ready: setup total=(?P<total>[\d.]+) ms")
_DISCONNECTED = re.compile(
    r"disconnection: session time: (?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d\.\d+) user=(?P<user>.*?) "
    r"database=(?P<database>.*?) host=(?P<host>\S+)"
)
_LOCK_WAIT = re.compile(
    r"process (?P<pid>\d+) still waiting for (?P<mode>\w+) on (?P<what>.+?) after (?P<ms>[\d.]+) ms"
)
_LOCK_GOT = re.compile(r"process (?P<pid>\d+) acquired (?P<mode>\w+) on (?P<what>.+?) after (?P<ms>[\d.]+) ms")
_LOCK_HOLDERS = re.compile(r"Process(?:es)? holding the lock: (?P<holders>[\d, ]+)\. Wait queue: (?P<queue>[\d, ]*)\.")
_LOST = ("unexpected EOF on client connection", "could not receive data from client", "could not send data to client")
_TIMEOUTS = (
    "terminating connection due to idle-in-transaction timeout",
    "terminating connection due to idle-session timeout",
    "terminating connection due to transaction timeout",
    "canceling statement due to lock timeout",
    "canceling statement due to statement timeout",
)
_TIMEOUT_STATES = frozenset({"25P03", "57P05", "25P04", "55P03", "57014"})

CSV_COLUMNS = (
    *("log_time", "user_name", "database_name", "process_id", "connection_from", "session_id", "session_line_num"),
    *("command_tag", "session_start_time", "virtual_transaction_id", "transaction_id", "error_severity"),
    *("sql_state_code", "message", "detail", "hint", "internal_query", "internal_query_pos", "context", "query"),
    *("query_pos", "location", "application_name", "backend_type", "leader_pid", "query_id"),
)
"""csvlog: 23 columns before PostgreSQL 13, 24 in it, 26 from 14 on."""
_CSV_START = re.compile(r'^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [^,]{1,8},"?[^,]*"?,"?[^,]*"?,\d*,')


class ServerLog:
    """Reads lines in their order; a message that goes over several lines is complete when the next one begins.

    ``prefix``: log_line_prefix, where the user gave it; else when, who and which process are found by their shapes.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = compile_prefix(prefix) if prefix else None
        self._csv: list[str] = []
        self._pending: LogEvent | None = None
        self._passed_over = 0
        self._is_log = False
        """Whether any line had a level."""
        self._instants: dict[str, float | None] = {}
        self._who: dict[str, dict[str, Any]] = {}
        """What stands behind the instant of a prefix, read once: a server has some hundred backends at a time."""

    def feed(self, line: str) -> tuple[list[LogEvent], bool]:
        """Return the events that are complete now, and True if the line belongs to a PostgreSQL log."""
        if self._csv or (line[23:24] == " " and '"' in line[:60] and _CSV_START.match(line)):
            return self._feed_csv(line)
        if line[:1] == "{":
            return self._feed_json(line)
        found = _find_level(line)
        if found is None:
            # A tab begins a continuation of the message before it.
            return [], self._is_log and line[:1] == "\t"
        start, level, end = found
        self._is_log = True
        if level == "DETAIL":
            return self._complete(line[end:]), True
        if level in _BESIDE:
            return [], True
        text = line[end:].rstrip()
        if level == "LOG" and not text.startswith(_OF_USE):
            text = translate_message(text, level)
        if level == "LOG" and (not text.startswith(_OF_USE) or text.startswith("connection received")):
            # Most lines of most logs: only their instant counts, and of that a look at some lines is enough.
            self._passed_over += 1
            if self._passed_over % 64:
                return [], True
        before = line[:start]
        if not before.strip() and not text:
            return [], False
        if text.startswith("duration: "):
            return self._hold(_read_statement(text, self._read_instant(before))), True
        return self._hold(read_message(text, level, self._read_prefix(before))), True

    def finish(self) -> list[LogEvent]:
        """Return what was still waiting for its next line."""
        pending, self._pending = self._pending, None
        return [pending] if pending is not None else []

    def _hold(self, event: LogEvent | None) -> list[LogEvent]:
        """Keep a lock wait until its DETAIL has said who holds the lock; pass all else on."""
        done = self.finish()
        if event is None:
            return done
        if event.kind == "lock-wait":
            self._pending = event
            return done
        return [*done, event]

    def _complete(self, detail: str) -> list[LogEvent]:
        match = _LOCK_HOLDERS.search(detail)
        if match is None or self._pending is None:
            return []
        event, self._pending = self._pending, None
        return [_with_holders(event, match)]

    def _read_prefix(self, before: str) -> dict[str, Any]:
        if self._prefix is not None:
            match = self._prefix.match(before)
            if match is not None:
                named: dict[str, Any] = {key: value for key, value in match.groupdict().items() if value}
                named["at"] = parse_instant(named.get("time")) if "time" in named else _epoch(named.get("epoch"))
                named["pid"] = int(named["pid"]) if named.get("pid", "").isdecimal() else None
                return named
        elif before[19:20] == "." and before[4:5] == "-":
            return self._infer_quickly(before)
        return infer_prefix(before)

    def _infer_quickly(self, before: str) -> dict[str, Any]:
        """Infer as ``infer_prefix`` does; what stands behind the instant is read once for all lines that have it."""
        behind = before[23:]
        found = self._who.get(behind)
        if found is None:
            if len(self._who) > _MOST_KEPT:
                self._who.clear()
            # A second instant, as a log shipper writes one, is the one that counts: such a prefix is read each time.
            found = {} if _INSTANT.search(behind) else infer_prefix(before)
            self._who[behind] = found
        return found | {"at": self._read_instant(before)} if found else infer_prefix(before)

    def _read_instant(self, before: str) -> float | None:
        """Return when a line was written. The text up to the second is parsed once for all lines that begin with it."""
        fraction = before[20:23]
        # Where the milliseconds are three digits, an instant has one place in the line, and "Z" or a zone behind it.
        if self._prefix is not None or before[19:20] != "." or not fraction.isdigit() or before[23:24] != " ":
            at: float | None = (self._read_prefix(before) if self._prefix is not None else infer_prefix(before))["at"]
            return at
        key = before[:19] + before[23:30]
        second = self._instants.get(key)
        if second is None:
            if len(self._instants) > _MOST_KEPT:
                self._instants.clear()
            instants = _INSTANT.findall(before)
            if len(instants) != 1:
                return parse_instant(instants[-1]) if instants else None
            second = self._instants[key] = parse_instant(key)
        return None if second is None else second + int(fraction) / 1000

    def _feed_csv(self, line: str) -> tuple[list[LogEvent], bool]:
        self._csv.append(line)
        text = "\n".join(self._csv)
        if text.count('"') % 2 and len(self._csv) < 10_000:
            return [], True  # a quoted field goes on in the next line
        self._csv = []
        try:
            cells = next(csv.reader([*text.split("\n")] if "\n" not in text else _csv_lines(text)))
        except (csv.Error, StopIteration):
            return [], True
        row = dict(zip(CSV_COLUMNS, cells, strict=False))
        return self._hold(_of_row(row)), True

    def _feed_json(self, line: str) -> tuple[list[LogEvent], bool]:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            return [], False
        row = document.get("record", document) if isinstance(document, dict) else None
        if isinstance(row, dict) and isinstance(row.get("properties"), dict):
            row = row["properties"]  # Azure
        if not isinstance(row, dict):
            return [], False
        return self.feed_row(row)

    def feed_row(self, row: Mapping[str, Any]) -> tuple[list[LogEvent], bool]:
        """Read a message that a platform or an export has taken apart, or keeps whole in one field of its own."""
        named = {name_field(str(key)): "" if value is None else str(value) for key, value in row.items()}
        if is_row(named):
            return self._hold(_of_row(self._unwrap(named))), True
        events: list[LogEvent] = []
        is_known = False
        for line in unwrap_lines(row):
            # One level: what is nested deeper is of another program.
            more, is_log = self.feed(line) if line[:1] != "{" else ([], False)
            events += more
            is_known = is_known or is_log
        return events, is_known

    def _unwrap(self, row: dict[str, str]) -> dict[str, str]:
        """Return a row whose message has log_line_prefix and level in it, as Azure's have, with what these say."""
        message = row["message"]
        found = _find_level(message) if row.get("error_severity") and _INSTANT.match(message) else None
        if found is None:
            return row
        said = self._read_prefix(message[: found[0]])
        own = {name: str(said[key]) for key, name in _FIELDS.items() if said.get(key)}
        return own | row | {"message": message[found[2] :], "error_severity": found[1]}


_MOST_KEPT = 5_000
_BESIDE = frozenset({"STATEMENT", "HINT", "CONTEXT", "QUERY", "LOCATION"})
_ENGLISH = frozenset(
    {"LOG", "FATAL", "ERROR", "PANIC", "WARNING", "NOTICE", "INFO", "DEBUG", "STATEMENT", "DETAIL", "HINT", "CONTEXT"}
)
_OF_USE = (
    *("connection ", "disconnection: ", "duration: ", "process ", "database system is", "received ", "replication "),
    *("unexpected EOF", "could not ", "no more connections"),
)
"""How messages of level LOG begin that a timeline wants."""


def _find_level(line: str) -> tuple[int, str, int] | None:
    """Return where a line's level begins, the level, and where its text begins; None for a line without one."""
    colon = line.find(":  ", 0, 600)
    if colon > 0:
        start = max(line.rfind(" ", 0, colon), line.rfind(":", 0, colon)) + 1
        if (level := line[start:colon]) in _ENGLISH:
            return start, level, colon + 3
    match = _LEVEL.search(line[:2000])
    return None if match is None else (match.start(), match["level"] or ENGLISH_LEVEL[match["foreign"]], match.end())


def _read_statement(text: str, at: float | None) -> LogEvent:
    number, _, rest = text[len("duration: ") :].partition(" ")
    # "duration: 1.2 ms  statement: SELECT ..." or "... execute name: ..."; "parse" and "bind" have one, too.
    query = rest[len("ms  ") :].partition(": ")[2]
    try:
        duration = float(number) / 1e3
    except ValueError:
        return LogEvent("other", at)
    return LogEvent("statement", at, duration=duration, text=query)


WRAPPERS = frozenset(
    {
        *("log", "textpayload", "logfiledata", "@message", "message", "event_message", "errormessage", "msg"),
        *("line", "body"),
    }
)
"""Keys and columns, in lower case, under which a line is kept whole: by Docker, Cloud SQL, RDS, CloudWatch, Supabase,
journald, Loki, OpenTelemetry."""


def unwrap_lines(row: Mapping[str, Any]) -> list[str]:
    """Return the lines that a record keeps whole, none where it is no record of a log."""
    return next((str(row[key]) for key in row if str(key).lower() in WRAPPERS and row[key]), "").splitlines()


_RECORDS = ("records", "events", "entries", "result")
"""Keys under which a document has its records: Azure's event hubs, CloudWatch, Cloud Logging, Supabase."""


def unfold_json(text: str) -> list[str]:
    """Return the records of JSON documents over many lines, one record a line; empty where it is not all JSON."""
    decoder, at, records = json.JSONDecoder(), 0, list[Any]()
    text = text.strip()
    while at < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        if isinstance(document, dict):
            document = next((document[key] for key in _RECORDS if isinstance(document.get(key), list)), document)
        records += document if isinstance(document, list) else [document]
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
    return [json.dumps(record, ensure_ascii=False) for record in records if isinstance(record, dict)]


_FIELDS = {
    "user": "user_name",
    "database": "database_name",
    "application": "application_name",
    "client": "connection_from",
}
_SAME_FIELDS = {
    "timestamp": "log_time",
    "user": "user_name",
    "dbname": "database_name",
    "pid": "process_id",
    "remote_host": "connection_from",
    "state_code": "sql_state_code",
    "statement": "query",
    # Azure: in a storage account or an event hub, and in the table PGSQLServerLogs.
    "processid": "process_id",
    "errorlevel": "error_severity",
    "sqlerrcode": "sql_state_code",
    "sqlerrorcode": "sql_state_code",
    "timegenerated": "log_time",
}
"""Names that jsonlog and platforms give to columns of csvlog."""
_OF_ROWS = frozenset({"log_time", "process_id", "error_severity", "sql_state_code", "user_name", "database_name"})


@lru_cache(maxsize=1000)
def name_field(key: str) -> str:
    """Return csvlog's name of a field. Azure's older table ends a name with its type, and its exports with the zone."""
    name = key.lower().removesuffix(" [utc]")
    name = name[:-2] if name.endswith(("_s", "_d")) else name
    return _SAME_FIELDS.get(name, name)


def is_row(names: Iterable[str]) -> bool:
    """Return True if fields with these names, as ``name_field`` gives them, are those of one message."""
    found = set(names)
    return "message" in found and len(found & _OF_ROWS) >= 3


def _csv_lines(text: str) -> list[str]:
    return [f"{line}\n" for line in text.split("\n")]


def _of_row(row: Mapping[str, str]) -> LogEvent | None:
    """Return the event of a row of csvlog or jsonlog, None where it says nothing that is of use here."""
    pid = row.get("process_id", "").removesuffix(".0")
    known = {
        "at": parse_instant(row.get("log_time")),
        "pid": int(pid) if pid.isdecimal() else None,
        "user": row.get("user_name") or None,
        "database": row.get("database_name") or None,
        "application": row.get("application_name") or None,
        "client": (row.get("connection_from") or "").rpartition(":")[0].strip("[]")
        or row.get("connection_from")
        or None,
        "sqlstate": row.get("sql_state_code") or None,
    }
    level = row.get("error_severity", "")
    event = read_message(row.get("message", ""), ENGLISH_LEVEL.get(level, level), known)
    match = _LOCK_HOLDERS.search(row.get("detail", ""))
    return _with_holders(event, match) if event is not None and match is not None else event


def _with_holders(event: LogEvent, match: "re.Match[str]") -> LogEvent:
    pids = [tuple(int(pid) for pid in match[name].split(",") if pid.strip()) for name in ("holders", "queue")]
    return replace(event, holders=pids[0], queue=pids[1])


def infer_prefix(before: str) -> dict[str, Any]:
    """Return when, which process and who a line's prefix names, by the shapes that these have in nearly every one."""
    found: dict[str, Any] = {"at": None, "pid": None}
    # RDS and log shippers put an instant of their own before the server's: the last one counts.
    instants = list(_INSTANT.finditer(before))
    if instants:
        found["at"] = parse_instant(instants[-1][0])
        rest = before[instants[-1].end() :]
    else:
        found["at"] = _epoch(match[1]) if (match := _EPOCH.search(before)) else parse_syslog_instant(before)
        rest = before
    if match := next((match for shape in _PIDS if (match := shape.search(rest) or shape.search(before))), None):
        found["pid"] = int(match[1])
    elif match := _SESSION.search(rest):
        found["pid"] = int(match[1], 16)
    for named in _NAMED.finditer(rest):
        key = {"db": "database", "app": "application", "host": "client"}.get(named["key"], named["key"])
        if named["value"].strip("[]") not in ("", "unknown"):
            found[key] = named["value"]
    if "user" not in found and (match := _USER_AT.search(rest)):
        found["user"], found["database"] = (name if name != "[unknown]" else None for name in match.groups())
    if "client" not in found and (match := _HOST.search(rest)):
        found["client"] = match[1]
    states = [each for each in _SQLSTATE.findall(rest) if not each.isdecimal() or each in ("53300", "57014", "57000")]
    if states:
        found["sqlstate"] = states[-1]
    return found


_ESCAPES = {
    "a": r"(?P<application>.*?)",
    "u": r"(?P<user>.*?)",
    "d": r"(?P<database>.*?)",
    "p": r"(?P<pid>\d*)",
    "r": r"(?P<client>[^()\s]*?)(?:\(\d+\))?",
    "h": r"(?P<client>\S*?)",
    "e": r"(?P<sqlstate>[0-9A-Z]{5})",
    "t": r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+?)",
    "m": r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \S+?)",
    "n": r"(?P<epoch>\d+\.\d+)",
    "%": "%",
}


def compile_prefix(prefix: str) -> "re.Pattern[str]":
    """Return the pattern of a log_line_prefix such as ``%m [%p] %q%u@%d ``. A name that comes twice counts once.

    Behind ``%q`` a background process writes nothing.
    """
    head, quit_mark, tail = prefix.partition("%q")
    seen = set[str]()
    first = _compile_part(head, seen)
    return re.compile(f"{first}(?:{_compile_part(tail, seen)})?$" if quit_mark else f"{first}$")


def _compile_part(part: str, seen: set[str]) -> str:
    pattern = ""
    for literal, escape in re.findall(r"([^%]+)|%-?\d*([a-zA-Z%])", part):
        if literal:
            pattern += re.escape(literal)
            continue
        piece = _ESCAPES.get(escape, r".*?")
        name = re.search(r"\?P<(\w+)>", piece)
        if name is not None and name[1] in seen:
            piece = piece.replace(f"?P<{name[1]}>", "?:")
        elif name is not None:
            seen.add(name[1])
        pattern += piece
    return pattern


def _epoch(text: str | None) -> float | None:
    return float(text) if text else None


def read_message(text: str, level: str, known: Mapping[str, Any]) -> LogEvent | None:
    """Return the event that a message is, None for the many that say nothing of connections."""
    who = {
        key: value
        for key in ("at", "pid", "user", "database", "application", "client")
        if (value := known.get(key)) not in (None, "[unknown]", "")
    }
    if text.startswith(("connection ", "replication ")):
        if match := _AUTHORIZED.search(text):
            named = {key: value for key, value in match.groupdict().items() if value}
            return LogEvent("authorized", **(who | named))
        if match := _RECEIVED.search(text):
            return LogEvent("received", **(who | {"client": match["host"]}))
        if match := _READY.search(text):
            return LogEvent("ready", **who, duration=float(match["total"]) / 1e3)
    elif text.startswith("disconnection: ") and (match := _DISCONNECTED.search(text)):
        time = int(match["h"]) * 3600 + int(match["m"]) * 60 + float(match["s"])
        named = {"user": match["user"], "database": match["database"], "client": match["host"]}
        return LogEvent("disconnected", **(who | named), duration=time)
    elif text.startswith("process "):
        if match := _LOCK_WAIT.search(text):
            waiter = {"pid": int(match["pid"])}
            return LogEvent("lock-wait", **(who | waiter), duration=float(match["ms"]) / 1e3, text=text)
        if match := _LOCK_GOT.search(text):
            waiter = {"pid": int(match["pid"])}
            return LogEvent("lock-acquired", **(who | waiter), duration=float(match["ms"]) / 1e3, text=text)
    if level == "LOG" and (english := translate_message(text, level)) != text:
        return read_message(english, level, known)
    return _read_failure(text, level, known, who)


def _read_failure(text: str, level: str, known: Mapping[str, Any], who: Mapping[str, Any]) -> LogEvent | None:
    sqlstate = known.get("sqlstate")
    refused = find_refuser_by_text(translate_message(text, level) if level == "FATAL" else text, sqlstate)
    if refused is not None:
        return LogEvent("refused", **who, refused_by=refused, text=text)
    if text.startswith("duration: "):
        return _read_statement(text, who.get("at"))
    if "database system is ready to accept" in text:
        return LogEvent("started", **who)
    if "shutdown request" in text or "database system is shut down" in text:
        return LogEvent("stopping", **who)
    if sqlstate in _TIMEOUT_STATES or any(words in text for words in _TIMEOUTS):
        return LogEvent("timed-out", **who, text=text)
    if "terminating connection due to administrator command" in text or sqlstate == "57P01":
        return LogEvent("ended-backend", **who)
    if "deadlock detected" in text:
        return LogEvent("deadlock", **who)
    if any(words in text for words in _LOST):
        return LogEvent("lost-client", **who, text=text)
    return LogEvent("other", **who) if who.get("at") is not None else None
