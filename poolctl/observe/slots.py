"""The free connection slots of a server, as the role that poolctl uses can take them.

Decides what counts against which limit: max_connections less the reserved slots, and the CONNECTION LIMIT of the role
and of the database. Runs of poolctl that began earlier on the same server count with every connection that they may
still open: each run announces that number in the application_name of its observer, which is there before it counts.
How many slots a run may take is left to the engines.
"""

import re
import secrets
from dataclasses import dataclass

from poolctl.observe.connection import Row, ServerConnection
from poolctl.observe.postgres import is_behind_pooler, read_first
from poolctl.observe.refusals import ServerLost
from poolctl.observe.sql import load_statement

SIMULATION, SWEEP, OBSERVER = "poolctl simulate", "poolctl sweep", "poolctl observer"
"""What the application_name of the connections of a run, of a sweep, and of what observes either begins with."""

_ANNOUNCEMENT = re.compile(rf"{OBSERVER} (?P<run>[0-9a-f]{{6}}) of (?P<connections>\d{{1,7}})")


@dataclass(frozen=True, slots=True)
class RunName:
    """The application_names of one run or sweep on a server. ``connections``: the most that it opens; 0: not known."""

    run: str
    connections: int
    program: str = SIMULATION

    @classmethod
    def make(cls, connections: int = 0, *, program: str = SIMULATION) -> "RunName":
        """Make a name that no other run has."""
        return cls(secrets.token_hex(3), connections, program)

    @property
    def load(self) -> str:
        return f"{self.program} {self.run}"

    @property
    def observer(self) -> str:
        return f"{OBSERVER} {self.run} of {self.connections}"


@dataclass(frozen=True, slots=True)
class SlotLimit:
    """One limit, and the clients that count against it. ``own``: the load of this run; ``others``: all other clients.

    poolctl's own observer is in neither.
    """

    arithmetic: str
    """Where the limit comes from: "40 max_connections - 3 reserved"."""
    limit: int
    others: int
    own: int

    @property
    def free(self) -> int:
        """Slots that no other client uses; those of this run's load count as free."""
        return self.limit - self.others


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of a server at one instant. ``promised``: connections that runs begun earlier may still open."""

    version: str
    max_connections: int
    reserved: int
    limits: tuple[SlotLimit, ...]
    promised: int
    is_behind_pooler: bool

    @property
    def nearest(self) -> SlotLimit:
        """The limit that leaves the fewest free slots."""
        return min(self.limits, key=lambda limit: limit.free)

    @property
    def free(self) -> int:
        """Slots that this run could take, all limits and earlier runs considered."""
        return self.nearest.free - self.promised

    @property
    def arithmetic(self) -> str:
        """How ``free`` is calculated."""
        nearest = self.nearest
        others = f" - {self.promised} for other runs of poolctl" if self.promised else ""
        return f"{nearest.arithmetic} - {nearest.others} used{others}"

    def count_left(self, planned: int) -> int:
        """Count the slots that are left while the load runs, poolctl's observer subtracted.

        Of the load at most ``planned`` connections count: one that is being closed is still in the server's list when
        the pool has opened the next.
        """
        return min(limit.free - min(limit.own, planned) for limit in self.limits) - 1


def read_slots(connection: ServerConnection, name: RunName, *, is_first: bool = False) -> Slots:
    """Read the slots. ``is_first``: nothing was read on this connection before.

    Raises Refused, StatementFailed, ServerLost, also for an answer that makes no sense.
    """
    query = load_statement("slots", connection.server_version).format(own=name.load)
    if is_first:
        (rows,) = read_first(connection, query)
    else:
        (rows,) = connection.read(query)
    try:
        (row,) = rows
        return _make_slots(row, name, is_behind_pooler(connection, row) if is_first else False)
    except (LookupError, TypeError, ValueError) as error:
        connection.close()
        raise ServerLost(f"the server's answer makes no sense ({type(error).__name__})") from None


def _make_slots(row: Row, name: RunName, behind_pooler: bool) -> Slots:
    # Not max_connections alone: an ordinary client is refused as soon as only reserved slots are left.
    limits = [
        SlotLimit(
            f"{row['max_connections']} max_connections - {row['reserved']} reserved",
            row["max_connections"] - row["reserved"],
            row["clients"] - row["own"],
            row["own"],
        )
    ]
    for kind in ("role", "database"):
        limit, used, own = row[f"{kind}_limit"], row[f"{kind}_clients"], row[f"{kind}_own"]
        # -1 is no limit. Of a role or database without one nothing can run out.
        if limit >= 0:
            limits.append(SlotLimit(f"{limit} CONNECTION LIMIT of the {kind} {row[kind]}", limit, used - own, own))
    return Slots(
        version=str(row["version"]).split(" ")[0],
        max_connections=row["max_connections"],
        reserved=row["reserved"],
        limits=tuple(limits),
        promised=_count_promised(row["runs"] or [], name, row["started_at"], row["pid"]),
        is_behind_pooler=behind_pooler,
    )


def _count_promised(runs: "list[tuple[str, float, int]]", name: RunName, started_at: float, pid: int) -> int:
    """Count what earlier runs announced and have not opened yet. Of two runs, the one whose observer is older goes."""
    loads = [application.rpartition(" ")[2] for application, _, _ in runs if not application.startswith(OBSERVER)]
    promised = 0
    for application, began, other in runs:
        announced = _ANNOUNCEMENT.fullmatch(application)
        # (start, pid) orders all observers in the same way for each of them, so of two runs exactly one is later.
        if announced is None or announced["run"] == name.run or (began, other) > (started_at, pid):
            continue
        promised += max(0, int(announced["connections"]) - loads.count(announced["run"]))
    return promised
