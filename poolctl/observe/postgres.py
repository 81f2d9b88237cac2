"""PostgreSQL 12 to 18, looked at through one read-only connection that says who it is and harms nobody.

Decides what is asked, how often, and what becomes of it when the server refuses, dies, hangs or talks nonsense: the
round goes on without it, with a reason. Nothing here retries within a round more than once.
"""

import threading
import time
from dataclasses import replace

from poolctl.errors import PoolctlError
from poolctl.observe.activity import read_backends, relations_of
from poolctl.observe.connection import PATIENCE, Connection, target_of
from poolctl.observe.extras import Extras
from poolctl.observe.facts import read_facts
from poolctl.observe.refusals import Refused, ServerLost, StatementFailed
from poolctl.observe.snapshot import Backend, DatabaseCounters, Refusal, ServerFacts, ServerSample, Source
from poolctl.observe.sql import numbers, statement
from poolctl.observe.terminate import Ending, end_backend

KNOCK_EVERY = 1.0
"""Seconds at least after an attempt that failed. A refusal that time does not cure is not tried again at all."""

_INCURABLE = ("authentication", "unknown")
_MOST_NAMES = 5_000


class Postgres:
    """One server. Connects at the first ``look``, and again, once a look, when the connection was lost.

    ``emergency``: a slot that is reserved for superusers or pg_use_reserved_connections may be taken; without it the
    connection is given back as soon as it turns out to be one. Raises BadInput for a conninfo that cannot be read.
    Safe to use from several threads, one after the other.
    """

    def __init__(self, conninfo: str, *, emergency: bool = False, within: float = PATIENCE) -> None:
        self.target = target_of(conninfo)
        self.facts: ServerFacts | None = None
        """Of the last connection; None as long as there was none."""
        self.refusal: Refusal | None = None
        """Why the last look found nobody who let it in."""
        self._conninfo = conninfo
        self._emergency = emergency
        self._within = within
        self._connection: Connection | None = None
        self._using = threading.Lock()
        self._failure = ""
        self._refused_at = -KNOCK_EVERY
        self._gave_up = False
        self._names: dict[int, str] = {}
        self._database = 0
        self._known: dict[int, Backend] = {}
        self._extras = Extras()

    @property
    def source(self) -> Source:
        """How it stands after the last look."""
        missing = "; ".join(self._extras.reasons)
        return Source("postgres", self.target, ok=not self._failure, reason=self._failure or missing)

    def look(self) -> ServerSample | None:
        """The server now; None, with ``source.reason`` and maybe ``refusal``, when it cannot be seen.

        Takes at most about ``within`` seconds for each of connecting and asking.
        """
        with self._using:
            try:
                connection = self._connection or self._connect()
                if connection is None:
                    return None
                try:
                    sample = self._sample(connection)
                except ServerLost as lost:
                    self._forget(lost)
                    if lost.hung or self.refusal is not None or (connection := self._connect()) is None:
                        return None
                    sample = self._sample(connection)
            except (PoolctlError, LookupError, TypeError, ValueError) as error:
                self._forget(error)
                return None
            self._failure = ""
            return sample

    def end_backend(self, pid: int, started_at: float) -> Ending:
        """End one client's backend, if it is still the one that began at ``started_at``, and wait a second for it."""
        with self._using:
            if self._connection is None:
                return Ending(pid, "refused", self._failure or "not connected")
            try:
                return end_backend(self._connection, pid, started_at)
            except StatementFailed as error:
                return Ending(pid, "refused", error.message)
            except ServerLost as error:
                self._forget(error)
                return Ending(pid, "refused", error.message)

    def close(self) -> None:
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connect(self) -> Connection | None:
        """Connect and learn what does not change; None when it may not be tried now. Raises PoolctlError."""
        now = time.monotonic()
        if self._gave_up or now - self._refused_at < KNOCK_EVERY:
            return None
        self._refused_at = now
        try:
            connection = Connection.open(self._conninfo, within=self._within)
        except Refused as error:
            self._gave_up = error.refusal.by in _INCURABLE
            raise
        try:
            facts, self._database, clients, schema = read_facts(connection, self._within)
            self.facts = facts
            self._check_slot(facts, clients)
        except BaseException:
            connection.close()
            raise
        self._names, self._known = {}, {}
        self._extras = Extras(schema)
        self._connection, self.refusal = connection, None
        self._refused_at = -KNOCK_EVERY
        return connection

    def _check_slot(self, facts: ServerFacts, clients: int) -> None:
        """Raise Refused when this connection holds a slot that ordinary clients could not have."""
        is_special = facts.is_superuser or facts.uses_reserved
        if self._emergency or not is_special or clients <= facts.usable:
            return
        self._gave_up = True
        text = (
            f"only reserved slots are free: {clients - 1} clients hold the {facts.usable} that are for everybody; "
            "--emergency takes a reserved one"
        )
        raise Refused(Refusal("reserved-slots" if facts.reserved else "superuser-slots", text, target=self.target))

    def _forget(self, error: Exception) -> None:
        """Note why the server was not seen; the connection goes with it unless only a statement failed."""
        is_nonsense = not isinstance(error, PoolctlError)
        self._failure = f"the server's answer makes no sense ({error})" if is_nonsense else str(error)
        said = error.refusal if isinstance(error, Refused | ServerLost) else None
        # A server that ends sessions is not one that refuses them; a pooler may let in first, and refuse then.
        self.refusal = said if said is None or isinstance(error, Refused) or said.by.startswith("pooler") else None
        if self._connection is not None and not isinstance(error, StatementFailed):
            self._connection.close()
            self._connection = None

    def _sample(self, connection: Connection) -> ServerSample:
        assert self.facts is not None
        version = self.facts.version_number
        parts = ("clock", "backends", "locks", "databases")
        (clock,), backends, locks, databases = connection.look(*(statement(part, version) for part in parts))
        self._learn_names(connection, relations_of(locks, self._database))
        read = read_backends(backends, locks, self._names, self._database)
        # Most sessions are as they were: one object for the same row keeps a long watch small.
        kept = tuple(self._known[each.pid] if self._known.get(each.pid) == each else each for each in read)
        self._known = {each.pid: each for each in kept}
        running = {each.query_id for each in kept if each.query_id is not None and each.is_active}
        statements, tables = self._extras.look(connection, version, running)
        self.facts = replace(self.facts, has_statements=self._extras.has_statements)
        counters = tuple(DatabaseCounters(**row) for row in databases)
        return ServerSample(clock["at"], clock["started_at"], kept, counters, statements, tables)

    def _learn_names(self, connection: Connection, relations: set[int]) -> None:
        unknown = sorted(relations - self._names.keys())[:_MOST_NAMES]
        if not unknown:
            return
        try:
            (rows,) = connection.look(statement("relations").format(oids=numbers(unknown)))
        except StatementFailed:
            return
        self._names.update({row["oid"]: row["name"] for row in rows})
