"""A connection to a pooler's own tables: opened at the first query, its rows read by the names of columns.

Poolers understand less than PostgreSQL does, and differ: PgBouncer's console runs no BEGIN, Pgpool-II 4.3 describes the
columns of a result twice, a number of one version is a text in another, and times are wall clock in a zone with a short
name or none. Decides how such values are read; what the rows mean is left to ``pgbouncer`` and ``pgpool``, and
deadlines to ``connection``.
"""

import contextlib
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.conninfo import make_conninfo

from poolctl.observe.connection import ServerConnection, describe_target, find_address, parse_conninfo
from poolctl.observe.refusals import Refused, ServerLost

ANSWER_WITHIN = 1.2
"""Seconds for one sample, connecting included: the sampler waits a little longer than that."""

_OFFSET_STEP = 900
"""Every time zone is a multiple of a quarter of an hour away from UTC."""

_FIXED = {
    # PGOPTIONS of the environment is for PostgreSQL: PgBouncer refuses a client that sends any.
    "options": "",
    # Otherwise PGTARGETSESSIONATTRS makes libpq run a query that no console understands.
    "target_session_attrs": "any",
}


class Row(dict[str, Any]):
    """One row; a column that this version does not have reads as absent."""

    def text(self, name: str, default: str = "") -> str:
        value = self.get(name)
        return default if value is None else str(value)

    def count(self, name: str, default: int = 0) -> int:
        """Return a whole number, 0 or 1 for a truth value; ``default`` where there is none."""
        value = self.get(name)
        if value in ("t", "true"):
            return 1
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return int(value or default)
        return default

    def seconds(self, whole: str, microseconds: str) -> float:
        return self.count(whole) + self.count(microseconds) / 1e6


class Console:
    """A pooler's console.

    ``defaults`` fill in what ``conninfo`` leaves open, before libpq's environment does: PGPORT and PGDATABASE are meant
    for PostgreSQL. Raises BadInput for a connection string that cannot be read.
    """

    def __init__(self, conninfo: str, defaults: Mapping[str, str]) -> None:
        given = parse_conninfo(conninfo)
        if "service" in given:
            defaults = {key: value for key, value in defaults.items() if key != "port"}
        parameters = {**defaults, **given, **_FIXED}
        self._conninfo = make_conninfo("", **parameters)
        self._connection: ServerConnection | None = None
        self.database = str(parameters.get("dbname", ""))
        self.target = describe_target(self._conninfo)
        self.host, self.port = find_address(self._conninfo)
        self.connected_at: float | None = None
        """When poolctl connected, on this machine's clock; None while not connected."""

    @property
    def own_port(self) -> int | None:
        """The port of poolctl's end of the connection; None over a Unix socket or while not connected."""
        return self._connection.local_port if self._connection is not None else None

    @property
    def login_pid(self) -> int | None:
        """The process id that came at login; None while not connected."""
        return self._connection.login_pid if self._connection is not None else None

    def query(self, command: str, deadline: float, *, may_connect: bool = True) -> list[Row]:
        """Return the rows of ``command``, by ``deadline`` on the monotonic clock.

        With ``may_connect`` it connects, once, where there is no connection or where it has broken. Raises
        StatementFailed; Refused or ServerLost, after which there is no connection.
        """
        if self._connection is None and not may_connect:
            raise ServerLost("the connection is gone")
        if self._connection is not None:
            try:
                return self._query(self._connection, command, deadline)
            except ServerLost as error:
                if error.hung or not may_connect:
                    raise
        return self._query(self._connect(deadline), command, deadline)

    def close(self) -> None:
        connection, self._connection, self.connected_at = self._connection, None, None
        if connection is not None:
            connection.close()

    def _connect(self, deadline: float) -> ServerConnection:
        connection = ServerConnection.open(self._conninfo, within=max(deadline - time.monotonic(), 0.05))
        self._connection, self.connected_at = connection, time.time()
        return connection

    def _query(self, connection: ServerConnection, command: str, deadline: float) -> list[Row]:
        try:
            tables = connection.execute(command, within=max(deadline - time.monotonic(), 0.0))
        except ServerLost:
            self.close()
            raise
        # Pgpool-II 4.3 describes the columns twice: the last table is the one with the rows.
        return [Row(row) for row in tables[-1]] if tables else []


def explain_failure(error: Refused | ServerLost) -> str:
    """Explain why there was no answer, for a source's status."""
    if error.hung:
        return "it accepted the connection and then did not answer"
    return error.message


def parse_instant(text: str | None, offsets: Mapping[str, float]) -> float | None:
    """Return the seconds since the epoch of a wall clock's text: "2026-11-25 01:25:16", with or without a zone.

    ``offsets``: seconds east of UTC by the zone's name ("" for none). None where the zone is not known.
    """
    parts = _parse_clock(text)
    if parts is None:
        return None
    wall, zone = parts
    offset = offsets.get(zone, _parse_offset(zone))
    return None if offset is None else wall - offset


def learn_offset(text: str | None, at: float | None) -> dict[str, float]:
    """Learn the offset of a zone from a text that was written at the instant ``at``; nothing without either.

    A zone's name ("IST") is ambiguous, and some poolers write none; but each shows when poolctl's own connection was
    made, which poolctl knows.
    """
    parts = _parse_clock(text)
    if parts is None or at is None:
        return {}
    wall, zone = parts
    return {zone: round((wall - at) / _OFFSET_STEP) * float(_OFFSET_STEP)}


def read_local_offsets() -> dict[str, float]:
    """Return the offsets of this machine's zone, by its names in winter and summer."""
    return {
        time.tzname[0]: -float(time.timezone),
        time.tzname[1]: -float(time.altzone),
        "UTC": 0.0,
        "GMT": 0.0,
    }


def _parse_clock(text: str | None) -> tuple[float, str] | None:
    """Parse the instant, as if the clock ran on UTC, and the zone's name."""
    if not text:
        return None
    try:
        wall = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    zone = text[19:].strip()
    return wall, zone if re.fullmatch(r"[A-Za-z]+|[+-]\d{2,4}", zone) else ""


def _parse_offset(zone: str) -> float | None:
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)?", zone)
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0)).total_seconds()
    return -offset if match[1] == "-" else offset
