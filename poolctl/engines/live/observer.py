"""The server's own view of a run, on a connection that is not counted.

On the throw-away server that connection is a walsender. It runs ordinary SQL but has slots of its own
(max_wal_senders), so it can observe a full server, and takes no slot from the workload. On a named server it is one
ordinary connection, which excludes itself from every count.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from poolctl.errors import CannotConnect
from poolctl.scenario.run import ScannedTable, Statement

RECONNECT_PAUSE = 0.2
"""Seconds between two attempts to connect again after the server closed the connection (restart, failover)."""

PAUSE_FACTOR = 20
"""A sample that took t seconds is followed by a pause of at least so many times t. At 1,500 connections a sample costs
the server some 25 ms, which would be a quarter of a core at ten samples a second."""

_BACKENDS = """
SELECT state, wait_event, count(*)
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
GROUP BY 1, 2
"""

_TABLES = """
SELECT relid, schemaname || '.' || relname, n_live_tup, seq_scan, coalesce(seq_tup_read, 0)
FROM pg_stat_user_tables
"""

_STATEMENTS = """
SELECT s.query, s.calls, s.total_exec_time / 1000, s.total_exec_time / nullif(sum(s.total_exec_time) OVER (), 0)
FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
WHERE NOT r.rolsuper
ORDER BY 3 DESC LIMIT 5
"""


@dataclass(frozen=True, slots=True)
class ObserverSample:
    """The client backends at one instant of the run's clock, in all and by state."""

    at: float
    connections: int
    states: dict[str, int] = field(default_factory=dict)


class Observer:
    """Samples the server again and again in a thread of its own. Raises CannotConnect.

    ``latest``: the last sample, None while the server does not answer. ``peak``: most client backends in one sample,
    None: there was no sample. ``has_server_to_itself``: the server's statistics are the workload's alone, and may be
    reset.
    """

    def __init__(self, conninfo: str, interval: float, *, has_server_to_itself: bool) -> None:
        self.latest: ObserverSample | None = None
        self.peak: int | None = None
        self.blind_since: float | None = None
        self._conninfo = conninfo
        self._interval = interval
        self._alone = has_server_to_itself
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._scanned: dict[int, tuple[Any, ...]] = {}
        try:
            self._connection = self._connect()
        except psycopg.OperationalError as error:
            raise CannotConnect(f"cannot connect to the server to observe it: {error}".strip()) from None

    def prepare(self) -> None:
        """Record the server's counters before the load."""
        if not self._alone:
            return
        self._scanned = {row[0]: row for row in self._connection.execute(_TABLES)}
        if self._has_statements():
            self._connection.execute("SELECT pg_stat_statements_reset()")

    def start(self, clock: Callable[[], float]) -> None:
        """Start to sample, with times of ``clock``."""
        self._thread = threading.Thread(target=self._run, args=(clock,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling. ``scanned_tables`` and ``statements`` use the same connection, and are called after it."""
        self._stop.set()
        if self._thread is not None:
            # The thread may hang in a server that no longer answers.
            self._thread.join(timeout=2.0)

    def close(self) -> None:
        """Stop sampling and close the connection."""
        self.stop()
        self._connection.close()

    def scanned_tables(self) -> tuple[ScannedTable, ...]:
        """Return the tables that sequential scans have read since ``prepare``, most rows first."""
        if not self._alone:
            return ()
        tables = []
        for relid, name, rows, scans, rows_read in self._rows(_TABLES):
            _, _, _, scans_before, read_before = self._scanned.get(relid, (relid, name, 0, 0, 0))
            if scans > scans_before:
                tables.append(ScannedTable(name, rows, scans - scans_before, rows_read - read_before))
        return tuple(sorted(tables, key=lambda table: -table.rows_read))

    def statements(self) -> tuple[Statement, ...]:
        """Return the workload's costliest statements since ``prepare``, none if pg_stat_statements is missing."""
        if not self._alone or not self._has_statements():
            return ()
        return tuple(
            Statement(query, calls, float(seconds), float(share or 0.0))
            for query, calls, seconds, share in self._rows(_STATEMENTS)
        )

    def _connect(self) -> "psycopg.Connection[Any]":
        # No prepared statements and no parameters: a walsender accepts the simple protocol only.
        return psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None, connect_timeout=2)

    def _has_statements(self) -> bool:
        return bool(self._rows("SELECT 1 FROM pg_extension WHERE extname = 'pg_stat_statements'"))

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        if self._thread is not None and self._thread.is_alive():
            # It still waits for a server that no longer answers, and a libpq connection serves one thread at a time.
            return []
        try:
            return self._connection.execute(query).fetchall()
        except psycopg.Error:
            return []

    def _run(self, clock: Callable[[], float]) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._sample(clock())
                pause = self._interval
            except psycopg.Error:
                self.latest = None
                self.blind_since = self.blind_since if self.blind_since is not None else clock()
                pause = RECONNECT_PAUSE
                self._reconnect()
            took = time.monotonic() - began
            self._stop.wait(max(pause - took, PAUSE_FACTOR * took if pause != RECONNECT_PAUSE else 0.0, 0.0))

    def _sample(self, at: float) -> None:
        states: dict[str, int] = {}
        total = 0
        for state, wait_event, count in self._connection.execute(_BACKENDS):
            total += count
            states[_describe_state(state, wait_event)] = states.get(_describe_state(state, wait_event), 0) + count
        self.latest = ObserverSample(at, total, states)
        self.peak = max(self.peak or 0, total)
        self.blind_since = None

    def _reconnect(self) -> None:
        self._connection.close()
        try:
            self._connection = self._connect()
        except psycopg.OperationalError:
            return


def _describe_state(state: str | None, wait_event: str | None) -> str:
    """Describe what a backend does: "idle", "idle in transaction", "active", "active (PgSleep)", "starting"."""
    if state is None:
        return "starting"
    if wait_event is None or (wait_event == "ClientRead" and state != "active"):
        return state
    return f"{state} ({wait_event})"
