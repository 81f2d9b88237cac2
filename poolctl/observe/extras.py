"""Counters of statements and tables: what costs the server more to tell, or may not be there at all."""

import time

from poolctl.observe.connection import Connection
from poolctl.observe.refusals import StatementFailed
from poolctl.observe.snapshot import StatementCounters, TableCounters
from poolctl.observe.sql import MARK, numbers, statement

EVERY = 0.9
"""Seconds at least between two looks at them."""

SHARE_OF_TIME = 10
"""And at least this many times what the last one took, so that a server with very many of them is asked less often."""

_MOST_TEXTS = 500


class Extras:
    """Asks one server, over the connection of its owner. ``schema`` is pg_stat_statements' own, None without it.

    A part that fails once is not asked for again on this connection; ``reasons`` says so.
    """

    def __init__(self, schema: str | None = None) -> None:
        self.reasons: list[str] = []
        self.has_statements = False
        self._schema = schema
        self._asks_tables = True
        self._texts: dict[int, str | None] = {}
        self._next_at = 0.0

    def look(
        self, connection: Connection, version: int, running: set[int]
    ) -> tuple[tuple[StatementCounters, ...], tuple[TableCounters, ...]]:
        """Both, or nothing where it is not time yet; ``running``: the query ids of what runs now. Raises ServerLost."""
        began = time.monotonic()
        if began < self._next_at:
            return (), ()
        found = self._statements(connection, version, running), self._tables(connection)
        took = time.monotonic() - began
        self._next_at = began + max(EVERY, SHARE_OF_TIME * took)
        return found

    def _statements(self, connection: Connection, version: int, running: set[int]) -> tuple[StatementCounters, ...]:
        if self._schema is None:
            return ()
        known = numbers(running.union(tuple(self._texts)[-_MOST_TEXTS:]))
        try:
            (rows,) = connection.look(statement("statements", version).format(schema=self._schema, known=known))
            new = [row["query_id"] for row in rows if row["query_id"] not in self._texts]
            texts = statement("statement_texts").format(schema=self._schema, known=numbers(new))
            for row in connection.look(texts)[0] if new else ():
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

    def _tables(self, connection: Connection) -> tuple[TableCounters, ...]:
        if not self._asks_tables:
            return ()
        try:
            (rows,) = connection.look(statement("tables"))
        except StatementFailed as error:
            self._asks_tables = False
            self.reasons.append(f"no counters of tables: {error.message}")
            return ()
        return tuple(TableCounters(**row) for row in rows)
