"""The rows that a PostgreSQL shows of its activity, read as Backends and counters.

A role without pg_read_all_stats gets the rows of other roles nearly empty, but every row of pg_locks: each transaction,
and each running statement, holds a lock on its own virtual transaction id. States are inferred from those locks. Two
states are inferred wrongly: REPEATABLE READ and open cursors keep an xmin while idle, which then looks active; an
aborted transaction holds no virtual transaction id, and looks idle.

Counters of statements and tables cost the server more, or need an extension: they are read less often, and given up at
the first failure. What the rows mean for a diagnosis is left to others.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from poolctl.observe.connection import ServerConnection
from poolctl.observe.refusals import StatementFailed
from poolctl.observe.snapshot import IN_TRANSACTION, Backend, LockWait, StatementCounters, TableCounters
from poolctl.observe.sql import MARK, format_numbers, load_statement

Row = Mapping[str, Any]

READ_EVERY = 0.9
"""Seconds at least between two readings of the counters."""

SHARE_OF_TIME = 10
"""The pause is also at least so many times what the last reading took: with many statements it is longer."""

_MOST_TEXTS = 500

UNNAMED = "?"
"""A relation of another database than the one that poolctl is connected to."""


def read_backends(
    rows: Iterable[Row], locks: Iterable[Row], names: Mapping[int, str], database: int
) -> tuple[Backend, ...]:
    """Build the backends in ``rows`` (backends.sql) with what ``locks`` (locks.sql) adds to them.

    ``names`` are the relations, by oid, of the database that poolctl is connected to, whose oid is ``database``.
    """
    held = {row["pid"]: row for row in locks}
    return tuple(_read_backend(row, held.get(row["pid"], {}), names, database) for row in rows)


def list_relations(locks: Iterable[Row], database: int) -> set[int]:
    """List the oids of the relations in ``locks`` that have a name in the connected database."""
    found: set[int] = set()
    for row in locks:
        if row["waits_relation"] is not None and row["waits_database"] == database:
            found.add(row["waits_relation"])
        found.update(relation for where, relation in _parse_strong_locks(row) if where == database)
    return found


def _read_backend(row: Row, locks: Row, names: Mapping[int, str], database: int) -> Backend:
    is_hidden = row["backend_type"] is None
    backend_type, state, wait = row["backend_type"], row["state"], row["wait_event_type"]
    is_inferred = False
    if is_hidden and row["database"] is not None:
        is_inferred = True
        if row["user"] is None:
            backend_type = "autovacuum worker"
        else:
            state, wait = _infer_state(row, locks)
    return Backend(
        pid=row["pid"],
        user=row["user"],
        database=row["database"],
        application=row["application"] or "",
        backend_type=backend_type,
        client=None if is_hidden else row["client"] or ("local" if row["client_port"] == -1 else None),
        client_port=row["client_port"] if row["client_port"] != -1 else None,
        started_at=row["started_at"],
        transaction_at=row["transaction_at"],
        query_at=row["query_at"],
        state_at=row["state_at"],
        state=state,
        wait_event_type=wait,
        wait_event=row["wait_event"] or (locks.get("waits_kind") if is_inferred else None),
        query=None if is_hidden else row["query"],
        query_id=row.get("query_id"),
        has_xid=row["has_xid"],
        has_xmin=row["has_xmin"],
        is_hidden=is_hidden,
        is_inferred=is_inferred,
        virtual_transaction=locks.get("virtual_transaction"),
        blocked_by=tuple(dict.fromkeys(locks.get("blocked_by") or ())),
        waits_for=_read_lock_wait(locks, names, database),
        advisory_locks=locks.get("advisory_locks", 0),
        strong_locks=tuple(
            sorted(_name_relation(relation, where, names, database) for where, relation in _parse_strong_locks(locks))
        ),
    )


def _infer_state(row: Row, locks: Row) -> tuple[str, str | None]:
    """Infer state and kind of wait of a client's backend whose row is hidden."""
    if locks.get("waits_kind") is not None:
        return "active", "Lock"
    if locks.get("virtual_transaction") is None:
        return "idle", None
    return ("active", None) if row["has_xmin"] else (IN_TRANSACTION, None)


def _read_lock_wait(locks: Row, names: Mapping[int, str], database: int) -> LockWait | None:
    if locks.get("waits_kind") is None:
        return None
    relation = locks["waits_relation"]
    name = None if relation is None else _name_relation(relation, locks["waits_database"], names, database)
    return LockWait(locks["waits_kind"], locks["waits_mode"], name, locks.get("waits_since"))


def _parse_strong_locks(locks: Row) -> list[tuple[int, int]]:
    """Return (database, relation) of each."""
    pairs = (entry.split(":") for entry in locks.get("strong") or ())
    return [(int(where), int(relation)) for where, relation in pairs]


def _name_relation(relation: int, where: int | None, names: Mapping[int, str], database: int) -> str:
    # 0: a catalog that all databases share.
    return names.get(relation, UNNAMED) if where in (database, 0) else UNNAMED


class CounterReader:
    """Counters of one server, over a connection of its owner. ``schema``: of pg_stat_statements; None without it.

    A part that fails once is not read again on this connection; ``reasons`` says so.
    """

    def __init__(self, schema: str | None = None) -> None:
        self.reasons: list[str] = []
        self.has_statements = False
        self._schema = schema
        self._asks_tables = True
        self._texts: dict[int, str | None] = {}
        self._next_at = 0.0

    def read(
        self, connection: ServerConnection, version: int, running: set[int]
    ) -> tuple[tuple[StatementCounters, ...], tuple[TableCounters, ...]]:
        """Read both, or return nothing where it is too early; ``running``: query ids of now. Raises ServerLost."""
        began = time.monotonic()
        if began < self._next_at:
            return (), ()
        found = self._read_statements(connection, version, running), self._read_tables(connection)
        took = time.monotonic() - began
        self._next_at = began + max(READ_EVERY, SHARE_OF_TIME * took)
        return found

    def _read_statements(
        self, connection: ServerConnection, version: int, running: set[int]
    ) -> tuple[StatementCounters, ...]:
        if self._schema is None:
            return ()
        # Texts are in a file that the server reads whole: they are fetched once each, counters every time.
        known = format_numbers(running.union(tuple(self._texts)[-_MOST_TEXTS:]))
        try:
            (rows,) = connection.read(load_statement("statements", version).format(schema=self._schema, known=known))
            new = [row["query_id"] for row in rows if row["query_id"] not in self._texts]
            texts = load_statement("statement_texts").format(schema=self._schema, known=format_numbers(new))
            for row in connection.read(texts)[0] if new else ():
                self._texts[row["query_id"]] = row["query"]
        except StatementFailed as error:
            self._schema, self.has_statements = None, False
            self.reasons.append(f"no pg_stat_statements: {error.message}")
            return ()
        self.has_statements = True
        return tuple(
            StatementCounters(
                query_id=row["query_id"],
                user=row["user"],
                database=row["database"],
                query=self._texts.get(row["query_id"]),
                calls=row["calls"],
                time=row["time"],
                stddev_time=row["stddev_time"],
                rows=row["rows"],
                blocks_read=row["blocks_read"],
                blocks_hit=row["blocks_hit"],
            )
            for row in rows
            if MARK not in (self._texts.get(row["query_id"]) or "")
        )

    def _read_tables(self, connection: ServerConnection) -> tuple[TableCounters, ...]:
        if not self._asks_tables:
            return ()
        try:
            (rows,) = connection.read(load_statement("tables"))
        except StatementFailed as error:
            self._asks_tables = False
            self.reasons.append(f"no counters of tables: {error.message}")
            return ()
        return tuple(TableCounters(**row) for row in rows)
