"""The server's own view of a run, on a connection that is not counted.

On the throw-away server that connection is a walsender. It runs ordinary SQL but has slots of its own
(max_wal_senders), so it can observe a full server, and takes no slot from the workload. On a named server it is one
ordinary connection, which excludes itself from every count, and also counts the free slots there.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from poolctl.engines.live.live_servers import LiveServer, count_settled, report_target_errors
from poolctl.errors import CannotDo
from poolctl.observe.connection import Row, ServerConnection
from poolctl.observe.refusals import Refused, ServerLost, StatementFailed
from poolctl.observe.slots import OBSERVER, Slots, read_slots
from poolctl.observe.sql import load_statement
from poolctl.scenario.run import ScannedTable, Statement

RECONNECT_PAUSE = 0.2
"""Seconds between two attempts to connect again after the server closed the connection (restart, failover)."""

CONNECT_WITHIN = 2.0
"""Seconds for an attempt to connect."""

ANSWER_WITHIN = 3.0
"""Seconds for a sample. A server that is paused on purpose is sampled again by a new connection."""

LONGEST_PAUSE = 0.3
"""Seconds at most between two samples of a named server, whose free slots are promised to other clients."""

PAUSE_FACTOR = 20
"""A sample that took t seconds is followed by a pause of at least so many times t. At 1,500 connections a sample costs
the server some 25 ms, which would be a quarter of a core at ten samples a second."""

# The function under pg_stat_activity: the view's joins, which name roles and databases, are planned again at each
# sample (a walsender prepares nothing) and take four fifths of the time.
_BACKENDS = """
SELECT state, wait_event, count(*) AS count
FROM pg_stat_get_activity(NULL)
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
GROUP BY 1, 2
"""

_TABLES = """
SELECT relid, schemaname || '.' || relname AS name, n_live_tup AS rows, seq_scan AS scans,
       coalesce(seq_tup_read, 0) AS rows_read
FROM pg_stat_user_tables
"""

_STATEMENTS = """
SELECT s.query, s.calls, s.total_exec_time / 1000 AS time,
       s.total_exec_time / nullif(sum(s.total_exec_time) OVER (), 0) AS share
FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
WHERE NOT r.rolsuper
ORDER BY 3 DESC LIMIT 5
"""


@dataclass(frozen=True, slots=True)
class ObserverSample:
    """The client backends at one instant of the run's clock, in all and by state.

    ``slots``: the free slots of a named server; None for the throw-away one.
    """

    at: float
    connections: int
    states: dict[str, int] = field(default_factory=dict)
    slots: Slots | None = None


class Observer:
    """Samples the server again and again in a thread of its own. Raises CannotConnect.

    ``latest``: the last sample, None while the server does not answer. ``peak``: most client backends in one sample,
    None: there was no sample. ``blind_since``: when the server stopped answering, None: it answers. The statistics of
    the throw-away server are the workload's alone, and are reset.
    """

    def __init__(self, server: LiveServer, interval: float) -> None:
        self.latest: ObserverSample | None = None
        self.peak: int | None = None
        self.blind_since: float | None = None
        self._conninfo = server.observer_conninfo
        self._name = server.promise.name if server.promise is not None else None
        self._interval = interval
        self._alone = server.sandbox is not None
        self._is_ending = False
        # Behind a pooler the connections with this run's name may already serve other clients.
        self._may_end_load = server.prepared
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._scanned: dict[int, Row] = {}
        with report_target_errors(self._conninfo):
            self._connection = self._connect()

    def prepare(self) -> None:
        """Record the server's counters before the load."""
        if not self._alone:
            return
        self._scanned = {row["relid"]: row for row in self._connection.execute(_TABLES)[0]}
        if self._has_statements():
            self._connection.execute("SELECT pg_stat_statements_reset()")

    def count_slots(self) -> Slots | None:
        """Count the slots of a named server now; None without a promise. Before ``start``. Raises CannotDo."""
        if self._name is None:
            return None
        name = self._name
        with report_target_errors(self._conninfo):
            first = read_slots(self._connection, name)
            return count_settled(lambda: read_slots(self._connection, name), first, name.connections)

    def end_load(self) -> None:
        """Let the next sample also end every connection of this run's load that is left on a named server.

        A backend that runs a statement would otherwise notice only at the end of it that its client is gone.
        """
        self._is_ending = True

    @property
    def has_ended_load(self) -> bool:
        """Whether a sample has found no connection of the load any more, or none may be ended here."""
        slots = self.latest.slots if self.latest is not None else None
        return not self._may_end_load or (slots is not None and slots.limits[0].own == 0)

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
        for row in self._read_rows(_TABLES):
            before = self._scanned.get(row["relid"], {"scans": 0, "rows_read": 0})
            scans = row["scans"] - before["scans"]
            if scans > 0:
                tables.append(ScannedTable(row["name"], row["rows"], scans, row["rows_read"] - before["rows_read"]))
        return tuple(sorted(tables, key=lambda table: -table.rows_read))

    def statements(self) -> tuple[Statement, ...]:
        """Return the workload's costliest statements since ``prepare``, none if pg_stat_statements is missing."""
        if not self._alone or not self._has_statements():
            return ()
        return tuple(
            Statement(row["query"], row["calls"], row["time"], row["share"] or 0.0)
            for row in self._read_rows(_STATEMENTS)
        )

    def _connect(self) -> ServerConnection:
        name = self._name.observer if self._name is not None else OBSERVER
        return ServerConnection.open(self._conninfo, within=CONNECT_WITHIN, application=name)

    def _has_statements(self) -> bool:
        return bool(self._read_rows("SELECT 1 FROM pg_extension WHERE extname = 'pg_stat_statements'"))

    def _read_rows(self, query: str) -> list[Row]:
        if self._thread is not None and self._thread.is_alive():
            # It still waits for a server that no longer answers, and a libpq connection serves one thread at a time.
            return []
        try:
            return self._connection.execute(query)[0]
        except (CannotDo, LookupError):
            return []

    def _run(self, clock: Callable[[], float]) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._sample(clock())
                pause = self._interval
            except (Refused, ServerLost, StatementFailed):
                # An old sample would look like a server that is still there.
                self.latest = None
                self.blind_since = self.blind_since if self.blind_since is not None else clock()
                pause = RECONNECT_PAUSE
                self._reconnect()
            # A slow sample is a loaded server: the slower it answers, the longer it is left alone.
            took = time.monotonic() - began
            longest = LONGEST_PAUSE if self._name is not None else inf
            rest = min(PAUSE_FACTOR * took, longest) if pause != RECONNECT_PAUSE else 0.0
            self._stop.wait(max(pause - took, rest, 0.0))

    def _sample(self, at: float) -> None:
        if not self._connection.is_open:
            raise ServerLost("not connected")
        states: dict[str, int] = {}
        for row in self._connection.execute(_BACKENDS, within=ANSWER_WITHIN)[0]:
            state = _describe_state(row["state"], row["wait_event"])
            states[state] = states.get(state, 0) + row["count"]
        slots = read_slots(self._connection, self._name) if self._name is not None else None
        if self._is_ending and self._may_end_load and self._name is not None:
            self._connection.execute(load_statement("end_own").format(own=self._name.load))
        total = sum(states.values())
        self.latest = ObserverSample(at, total, states, slots)
        self.peak = max(self.peak or 0, total)
        self.blind_since = None

    def _reconnect(self) -> None:
        self._connection.close()
        with suppress(Refused):
            self._connection = self._connect()


def _describe_state(state: str | None, wait_event: str | None) -> str:
    """Describe what a backend does: "idle", "idle in transaction", "active", "active (PgSleep)", "starting"."""
    if state is None:
        return "starting"
    if wait_event is None or (wait_event == "ClientRead" and state != "active"):
        return state
    return f"{state} ({wait_event})"
