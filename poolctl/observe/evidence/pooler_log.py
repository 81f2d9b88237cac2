"""PgBouncer's log, line by line: logins, closings with their reason, pooler errors, and its stats lines.

Its stats line has had five shapes; it is read as pairs of a number and a unit, never by position. Sources of the
shapes: PgBouncer's logging.c, util.c (log_socket_prefix), client.c, objects.c, janitor.c, stats.c.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from poolctl.observe.evidence.activity_paste import parse_instant, parse_syslog_instant
from poolctl.observe.refusals import find_refuser_by_text
from poolctl.observe.snapshot import RefusedBy

_LINE = re.compile(
    r"^(?:(?P<wrapped>\w{3} +\d+ [\d:]+|\d{4}-\d\d-\d\dT\S+) \S+ )?(?:pgbouncer(?:\[\d+\])?: )?"
    r"(?:(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}(?: \w+)?) )?"
    r"(?:\[(?P<pid>\d+)\]|(?P<bare>\d+))? ?(?P<level>LOG|WARNING|ERROR|FATAL|DEBUG|NOISE) (?P<text>.*)$"
)
_BEHIND = re.compile(
    r"^.{1,200}?[ |](?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}(?: \w+)?) \[(?P<pid>\d+)\] "
    r"(?P<level>LOG|WARNING|ERROR|FATAL|DEBUG|NOISE) (?P<text>.*)$"
)
"""The same behind what docker compose, kubectl and log shippers write before it."""
_SOCKET = re.compile(
    r"^(?P<socket>[CS]-0x[0-9a-f]+): (?P<database>[^/]*)/(?P<user>[^@]*)@"
    r"(?P<host>unix(?:\(\d+\))?|\[[^\]]*\]|[^:\s]+)(?::\d+)? "
)
_CLOSING = re.compile(r"closing because: (?P<why>.*?)(?: \(age=(?P<age>\d+)s?\))?$")
_POOLER_ERROR = re.compile(r"pooler error: (?P<why>.*)$")
_PAIR = re.compile(
    r"(?:(?P<what>in|out|query|xact|wait) )?(?<![\d.])(?P<number>\d+(?:\.\d+)?) (?P<unit>[a-zA-Z/ ]+?)(?=,|$)"
)

PoolerEventKind = Literal["login", "closed", "refused", "queue-timeout", "stats", "server-opened", "other"]


@dataclass(frozen=True, slots=True)
class PoolerEvent:
    """One message. ``numbers`` of a stats line: see ``read_stats``."""

    kind: PoolerEventKind
    at: float | None = None
    user: str | None = None
    database: str | None = None
    client: str | None = None
    refused_by: RefusedBy | None = None
    text: str = ""
    age: float | None = None
    socket: str = ""
    """Which client or server connection: "C-0x55d0c1a2b3c4"."""
    is_repeated: bool = False
    """A "pooler error" line, which comes behind the "closing because" line of the same client, if that is logged."""
    numbers: dict[str, float] | None = None


def read_pooler_line(line: str) -> PoolerEvent | None:
    """Return what a line of PgBouncer's log says, None for a line that is none."""
    match = _LINE.match(line)
    if match is None and "] " in line:
        match = _BEHIND.match(line)
    if match is None:
        return None
    text = match["text"]
    socket = _SOCKET.match(text)
    is_known = (
        socket is not None
        or match["pid"] is not None
        or "pgbouncer" in line[:60]
        or text.lower().startswith(("stats:", "kernel file", "listening on"))
    )
    if not is_known:
        return None
    at = parse_instant(match["time"])
    about = PoolerEvent("other", at if at is not None else parse_syslog_instant(match.groupdict().get("wrapped") or ""))
    if socket is not None:
        text = text[socket.end() :]
        about = replace(
            about,
            user=_named(socket["user"]),
            database=_named(socket["database"]),
            client=socket["host"],
            socket=socket["socket"],
        )
    if text.lower().startswith("stats:"):
        return replace(about, kind="stats", numbers=read_stats(text))
    if text.startswith("login attempt"):
        return replace(about, kind="login")
    if text.startswith("new connection to server"):
        return replace(about, kind="server-opened")
    reason = _CLOSING.search(text) or _POOLER_ERROR.search(text)
    if reason is None:
        return about
    why, age = reason["why"], reason.groupdict().get("age")
    is_error = reason.re is _POOLER_ERROR
    about = replace(about, kind="closed", text=why, age=float(age) if age else None, is_repeated=is_error)
    if "query_wait_timeout" in why:
        return replace(about, kind="queue-timeout", refused_by="pooler-queue")
    refused = find_refuser_by_text(why)
    return about if refused is None else replace(about, kind="refused", refused_by=refused)


def _named(text: str) -> str | None:
    return text if text not in ("(nodb)", "(nouser)", "") else None


def read_stats(text: str) -> dict[str, float]:
    """Return the numbers of a stats line: ``xacts``, ``queries`` a second; ``xact``, ``query``, ``wait`` in seconds."""
    numbers = {}
    for pair in _PAIR.finditer(text.partition(":")[2].strip()):
        unit, value = pair["unit"].strip(), float(pair["number"])
        if unit == "us" and pair["what"]:
            numbers[pair["what"]] = value / 1e6
        elif unit.endswith("/s") and unit != "b/s" and unit != "B/s":
            name = unit.removesuffix("/s").strip()
            numbers["queries" if name == "req" else name] = value
    return numbers
