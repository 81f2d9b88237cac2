"""What a guard saw in one process, as data: frozen records that travel to the guard command as JSON.

``take_report`` reads the recorder and asks the driver's objects for their state, from memory alone: it sends nothing
to a server, so any thread may call it at any time.
"""

import os
import sys
from dataclasses import dataclass, field
from time import monotonic

from poolctl.guard.call_sites import Frame, Site, all_sites
from poolctl.guard.driver_state import read_state
from poolctl.guard.ledger import GuardedPool, Hold, Incident
from poolctl.guard.recorder import Recorder
from poolctl.safe_text import hide_literals, redact_command

MOST_HOLDS = 500
"""Holds listed of one process, the oldest first; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the program. ``file``: absolute, or a name in angle brackets."""

    file: str
    line: int
    function: str

    @property
    def place(self) -> str:
        """The file, relative to the current directory if it is below that, and the line."""
        return f"{shorten(self.file)}:{self.line}"


@dataclass(frozen=True, slots=True)
class HeldConnection:
    """A connection that is out, or (``acquired_at`` None) a request that waits. Times are on the monotonic clock."""

    library: str
    pool: str
    is_pool: bool
    site: tuple[Line, ...]
    actor_kind: str
    actor: str
    asked_at: float
    acquired_at: float | None = None
    actor_outcome: str = ""
    ending: tuple[str, ...] = ()
    state: str = ""
    statement: str = ""
    backend_pid: int | None = None
    via: str = ""
    is_exempt: bool = False


@dataclass(frozen=True, slots=True)
class SiteFigures:
    """What one acquire line did. ``late``: holds longer than the threshold that were released after all."""

    site: tuple[Line, ...]
    acquired: int = 0
    released: int = 0
    collected: int = 0
    late: int = 0
    use_time: float = 0.0
    wait_time: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One pool, or the connections of a library that belong to none (``is_pool`` False)."""

    library: str
    name: str
    is_pool: bool = True
    max_open: int | None = None
    acquired: int = 0
    released: int = 0
    in_use: int = 0
    waiting: int = 0
    peak: int = 0
    timed_out: int = 0
    refused: int = 0
    wait_time: float = 0.0
    use_time: float = 0.0


@dataclass(frozen=True, slots=True)
class CreatedPools:
    """The pools that one line created in this process."""

    library: str
    site: tuple[Line, ...]
    created: int = 0
    closed: int = 0
    dropped: int = 0
    peak: int = 0
    acquired: int = 0


@dataclass(frozen=True, slots=True)
class IncidentReport:
    """Something that went wrong ``count`` times: what was acquired at ``site``, and where it was noticed."""

    event: str
    library: str
    pool: str
    site: tuple[Line, ...]
    at: tuple[Line, ...] = ()
    count: int = 1
    is_pool: bool = True
    actor_outcome: str = ""
    ending: tuple[str, ...] = ()
    holders: tuple[tuple[Line, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class NestingReport:
    """An actor held a connection (``outer``) and asked the same pool for another one (``inner``)."""

    library: str
    pool: str
    outer: tuple[Line, ...]
    inner: tuple[Line, ...]
    count: int = 1
    jammed: int = 0


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """All that a guard saw in one process. ``ended``: it was written when the process ended in good order."""

    pid: int
    parent: int
    program: str
    taken_at: float
    ended: bool = False
    python: str = ""
    libraries: tuple[str, ...] = ()
    holds: tuple[HeldConnection, ...] = ()
    more_holds: int = 0
    sites: tuple[SiteFigures, ...] = ()
    pools: tuple[PoolReport, ...] = ()
    created: tuple[CreatedPools, ...] = ()
    incidents: tuple[IncidentReport, ...] = ()
    nestings: tuple[NestingReport, ...] = ()
    complaints: tuple[str, ...] = field(default=())


def shorten(file: str) -> str:
    """Name ``file`` relative to the current directory if it is below it."""
    here = os.getcwd() + os.sep
    return file.removeprefix(here)


def take_report(recorder: Recorder, *, ended: bool = False) -> ProcessReport:
    """Read everything that ``recorder`` knows now."""
    ledger = recorder.ledger
    with recorder.lock:
        holds = ledger.holds()
        pools = [*recorder.all_pools(), *recorder.gone.values()]
        incidents, nestings = list(ledger.incidents.values()), list(ledger.nestings.values())
        created = list(recorder.pool_sites.values())
        acquired: dict[int, int] = {}
        for pool in pools:
            acquired[id(pool.site)] = acquired.get(id(pool.site), 0) + pool.acquired
    out: dict[int, int] = {}
    for hold in holds:
        out[id(hold.site)] = out.get(id(hold.site), 0) + 1
    waiting = recorder.waiting()
    holds += waiting
    holds.sort(key=lambda hold: hold.acquired_at or hold.asked_at)
    return ProcessReport(
        pid=os.getpid(),
        parent=os.getppid(),
        program=_program(),
        taken_at=monotonic(),
        ended=ended,
        python=".".join(map(str, sys.version_info[:3])),
        libraries=tuple(f"{name} {version}".strip() for name, version in recorder.hooked.items() if "." not in name),
        holds=tuple(view for hold in holds[:MOST_HOLDS] if (view := view_hold(recorder, hold)) is not None),
        more_holds=max(0, len(holds) - MOST_HOLDS),
        sites=tuple(
            _view_site(site, out.get(id(site), 0))
            for site in all_sites()
            if site.released or site.collected or id(site) in out
        ),
        pools=tuple(_view_pool(pool, sum(one.pool is pool for one in waiting)) for pool in pools),
        created=tuple(
            CreatedPools(
                each.library,
                lines(each.site),
                each.created,
                each.closed,
                each.dropped,
                each.peak,
                acquired.get(id(each.site), 0),
            )
            for each in created
        ),
        incidents=tuple(view_incident(incident) for incident in incidents),
        nestings=tuple(
            NestingReport(one.pool.library, one.pool.name, lines(one.outer), lines(one.inner), one.count, one.jammed)
            for one in nestings
        ),
        complaints=tuple(f"{about}: {why}" for about, why in recorder.complaints.items()),
    )


def lines(site: Site) -> tuple[Line, ...]:
    """Return the frames of ``site`` as records."""
    return tuple(Line(*frame) for frame in site.frames)


def view_incident(incident: Incident) -> IncidentReport:
    """Return ``incident`` as a record."""
    return IncidentReport(
        incident.event,
        incident.pool.library,
        incident.pool.name,
        lines(incident.site),
        lines(incident.at) if incident.at is not None else (),
        incident.count,
        incident.pool.is_pool,
        incident.hold.actor.outcome if incident.hold is not None else "",
        incident.hold.ending if incident.hold is not None else (),
        tuple(lines(site) for site, _ in incident.holders),
    )


def view_hold(recorder: Recorder, hold: Hold) -> HeldConnection | None:
    """Return ``hold`` as a record, with the state of its connection. None for a single connection that is closed."""
    state, statement, backend = "", "", None
    if hold.acquired_at is not None:
        connection = recorder.connection_of(hold)
        if connection is not None:
            state, backend = read_state(connection)
            if state == "closed" and not hold.pool.is_pool:
                return None
        statement = hide_literals(hold.statement) if hold.statement else ""
    return HeldConnection(
        library=hold.pool.library,
        pool=hold.pool.name,
        is_pool=hold.pool.is_pool,
        site=tuple(Line(*frame) for frame in hold.site.frames),
        actor_kind=hold.actor.kind,
        actor=hold.actor.name,
        asked_at=hold.asked_at,
        acquired_at=hold.acquired_at,
        actor_outcome=hold.actor.outcome,
        ending=hold.ending,
        state=state,
        statement=statement,
        backend_pid=backend,
        via=hold.via,
        is_exempt=is_exempt(recorder, hold),
    )


def is_exempt(recorder: Recorder, hold: Hold) -> bool:
    """Return True for a connection that Django keeps for a thread which it looks after itself."""
    if hold.via != "django" or hold.actor.outcome:
        return False
    return hold.actor.name == "MainThread" or hold.actor.kind == "task" or hold.actor in recorder.serving


def _view_site(site: Site, held: int) -> SiteFigures:
    return SiteFigures(
        lines(site),
        site.released + site.collected + held,
        site.released,
        site.collected,
        site.late,
        site.use_time,
        site.wait_time,
        site.longest,
    )


def _view_pool(pool: GuardedPool, waiting: int) -> PoolReport:
    return PoolReport(
        pool.library,
        pool.name,
        pool.is_pool,
        pool.max_open,
        pool.acquired,
        pool.released,
        pool.out,
        waiting,
        pool.peak,
        pool.timed_out,
        pool.refused,
        pool.wait_time,
        pool.use_time,
    )


def _program() -> str:
    program, *arguments = getattr(sys, "argv", None) or ["python"]
    return redact_command([os.path.basename(program) or "python", *arguments[:4]])[:120]


def frames_of(site: tuple[Line, ...]) -> tuple[Frame, ...]:
    """Return ``site`` as frames again, for what reads source files."""
    return tuple(Frame(line.file, line.line, line.function) for line in site)
