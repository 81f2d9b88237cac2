"""What the rules for live systems stand on: numbers derived from an Observation, each computed in one place.

Decides which clients wait for whose connections, and which pool belongs to which application. What follows is left to
the rules.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil

from poolctl.diagnose.live.floor import Trend, measure_floor
from poolctl.diagnose.live.owners import Owner, OwnerSearch, find_processes, write_settling
from poolctl.diagnose.live.tracks import (
    Application,
    Sample,
    Track,
    Tracker,
    group_by_application,
    has_titles,
    read_sample,
    select_samples,
)
from poolctl.diagnose.live.waits import (
    BouncerQueue,
    PoolSeries,
    Waiting,
    build_pool_series,
    build_queues,
    collect_pgpools,
)
from poolctl.observe.snapshot import (
    DatabaseCounters,
    HostSample,
    Observation,
    PgpoolSample,
    Refusal,
    RefusedBy,
    RoleFacts,
    ServerFacts,
    ServerSample,
)

SLOT_REFUSALS: frozenset[RefusedBy] = frozenset({"server-slots", "reserved-slots", "superuser-slots"})
LIMIT_REFUSALS: frozenset[RefusedBy] = frozenset({*SLOT_REFUSALS, "role-limit", "database-limit", "pooler-clients"})
POOLER_PROGRAMS = ("pgbouncer", "pgpool", "odyssey", "pgcat", "supavisor", "pgdog")


OWN_AT_START = 6
"""Transactions of poolctl's own start, at most, which its backend may report after the first sample."""


@dataclass(frozen=True)
class LiveFacts:
    """An observation, and what can be read off it. Ages are seconds at the last sample.

    ``tracker``: has followed the backends of exactly these snapshots; None: that is still to do.
    """

    observation: Observation
    tracker: Tracker | None = field(default=None, repr=False, compare=False)
    memory: dict[str, Waiting] = field(default_factory=dict, repr=False, compare=False)

    @property
    def server(self) -> ServerFacts | None:
        return self.observation.server

    @cached_property
    def server_samples(self) -> tuple[ServerSample, ...]:
        """The server's own samples since it last started: backends do not outlive it."""
        samples = self.observation.samples
        return tuple(sample for sample in samples if sample.started_at == samples[-1].started_at)

    @property
    def counted(self) -> tuple[tuple[DatabaseCounters, DatabaseCounters], ...]:
        """Each database's counters in the first and in the last sample, without the ones that were reset in between."""
        if len(self.server_samples) < 2:
            return ()
        before = {database.name: database for database in self.server_samples[0].databases}
        pairs = ((before.get(now.name), now) for now in self.server_samples[-1].databases)
        return tuple((then, now) for then, now in pairs if then is not None and then.reset_at == now.reset_at)

    def count_ended(self, database: str | None) -> int | None:
        """Count the transactions that ended in ``database``, at least, without poolctl's own; None if not counted.

        Every role may see these counters. poolctl's own transactions are in those of its own database: three a sample
        at most, and those of its start.
        """
        own = self.server.database if self.server else None
        most = 3 * len(self.server_samples) + OWN_AT_START if database == own else 0
        ended = (b.commits + b.rollbacks - a.commits - a.rollbacks for a, b in self.counted if b.name == database)
        return next((max(0, each - most) for each in ended), None)

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Samples of one source: the server's own rows if the last sample has them, otherwise process titles."""
        if self.tracker is not None:
            return tuple(self.tracker.samples)
        snapshots = self.observation.snapshots
        return tuple(select_samples(snapshots, [read_sample(snapshot) for snapshot in snapshots]))

    @property
    def has_only_titles(self) -> bool:
        """Whether all that is known of the backends comes from the process list."""
        snapshots = reversed(self.observation.snapshots)
        last = next((each for each in snapshots if each.server is not None or has_titles(each)), None)
        return last is not None and last.server is None

    @property
    def window(self) -> float:
        """Seconds between the first and the last sample of the backends."""
        return self.samples[-1].at - self.samples[0].at if self.samples else 0.0

    def write_longer(self, least: float = 0.0) -> str:
        """Write the option for a longer observation than the one that was made: ``least`` seconds, or twice as long."""
        snapshots = self.observation.snapshots
        observed = max(self.window, snapshots[-1].at - snapshots[0].at if snapshots else 0.0)
        return f"--for {ceil(max(least, 2 * observed))}s"

    @property
    def now(self) -> float:
        return self.samples[-1].at if self.samples else 0.0

    @cached_property
    def all_tracks(self) -> tuple[Track, ...]:
        return (self.tracker or Tracker(self.samples)).build_tracks()

    @cached_property
    def tracks(self) -> tuple[Track, ...]:
        """Client backends of the last sample."""
        return tuple(track for track in self.all_tracks if track.is_there)

    @cached_property
    def gone(self) -> tuple[Track, ...]:
        """Client backends that an earlier sample has, and the last one has not."""
        return tuple(track for track in self.all_tracks if not track.is_there)

    @cached_property
    def left(self) -> Counter[tuple[str | None, str, str | None]]:
        """How many backends of the first sample are gone, by user, application and database."""
        return Counter((t.last.user, t.last.application, t.last.database) for t in self.gone if t.first_at == t.since)

    @cached_property
    def by_pid(self) -> dict[int, Track]:
        return {track.pid: track for track in self.tracks}

    @cached_property
    def applications(self) -> tuple[Application, ...]:
        """Applications with backends that have logged in, operators' tools included."""
        return group_by_application(track for track in self.all_tracks if track.last.state != "starting")

    @cached_property
    def programs(self) -> tuple[Application, ...]:
        """Applications with backends now, without tools. A hidden row without a user is a background worker's."""
        return tuple(each for each in self.applications if each.tracks and not each.is_tool and each.user is not None)

    @property
    def host(self) -> HostSample | None:
        return next((s.host for s in reversed(self.observation.snapshots) if s.host is not None), None)

    @property
    def cores(self) -> int | None:
        """Cores of the server's machine, also after the server is gone; None where poolctl does not run on it.

        On a crowded machine its process list may come too late, and the server's own answer does.
        """
        hosts = (snapshot.host for snapshot in reversed(self.observation.snapshots))
        listed = next((host.cores for host in hosts if host is not None and host.has_server), None)
        return listed if listed is not None or self.server is None else self.server.cores

    @cached_property
    def trend(self) -> Trend | None:
        """The rise of the least number of client backends over the whole time observed; None if it does not rise."""
        forgotten = [(each.at, each.backends) for each in self.observation.floors]
        return measure_floor([*forgotten, *((sample.at, sample.client_count) for sample in self.samples)])

    @property
    def server_cpu(self) -> float | None:
        """Cores that the server's processes kept busy, on average over the samples that say so."""
        values = [
            s.host.server_cpu
            for s in self.observation.snapshots
            if s.host is not None and s.host.server_cpu is not None
        ]
        return sum(values) / len(values) if values else None

    @cached_property
    def hidden(self) -> int:
        """Backends of the last sample whose state only another role may see."""
        return sum(track.last.is_hidden for track in self.tracks)

    @property
    def is_full_view(self) -> bool:
        return bool(self.server_samples) and not self.hidden and not self.has_only_titles

    @property
    def refusal(self) -> Refusal | None:
        """The refusal that the last snapshot met; None if it met none."""
        snapshots = self.observation.snapshots
        return snapshots[-1].refusal if snapshots else None

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(s.refusal for s in self.observation.snapshots if s.refusal is not None)

    @property
    def is_gone(self) -> bool:
        """Whether a server that was observed answered neither of the last two snapshots, for a reason other than a
        limit.

        One snapshot without an answer is a busy machine.
        """
        last = self.observation.snapshots[-2:]
        unanswered = all(s.refusal is not None and s.refusal.by not in LIMIT_REFUSALS for s in last)
        return bool(self.server_samples) and len(last) == 2 and unanswered and not any(s.server for s in last)

    @property
    def is_silent(self) -> bool:
        """Whether only its process titles show a server that gave poolctl no answer, not even a refusal."""
        return self.has_only_titles and {each.by for each in self.refusals} == {"unreachable"}

    def find_refusal(self, kinds: Iterable[RefusedBy]) -> Refusal | None:
        """Find the newest refusal of one of ``kinds``; None without any."""
        wanted = frozenset(kinds)
        return next((each for each in reversed(self.refusals) if each.by in wanted), None)

    @cached_property
    def pools(self) -> tuple[PoolSeries, ...]:
        return build_pool_series(self.observation.snapshots)

    @cached_property
    def queues(self) -> tuple[BouncerQueue, ...]:
        return build_queues(self.observation.snapshots)

    @cached_property
    def pgpools(self) -> tuple[PgpoolSample, ...]:
        return collect_pgpools(self.observation.snapshots)

    def find_pools_of(self, application: Application) -> tuple[PoolSeries, ...]:
        return tuple(series for series in self.pools if self.find_owner(series) is application)

    def group_pools(self) -> tuple[tuple[Application | None, tuple[PoolSeries, ...]], ...]:
        """Group the pools by application, a fleet's pools together; pools without a known owner come last, with
        None."""
        owned = tuple((each, pools) for each in self.programs if (pools := self.find_pools_of(each)))
        strays = tuple(series for series in self.pools if self.find_owner(series) is None)
        return (*owned, (None, strays)) if strays else owned

    @cached_property
    def _owners(self) -> dict[int, Owner]:
        processes = find_processes(self.host, self.tracks)
        scraped = self.host.scraped if self.host is not None else {}
        search = OwnerSearch(self.observation, self.pools, self.programs, self.applications, processes, scraped)
        return {id(series): search.find(series) for series in self.pools}

    def find_owner(self, series: PoolSeries) -> Application | None:
        """Find the application whose connections the pool ``series`` holds; None if several fit, or none."""
        return self.explain_owner(series).application

    def explain_owner(self, series: PoolSeries) -> Owner:
        """Return the owner of ``series`` with how it is known."""
        return self._owners[id(series)]

    def find_unsure_owner(self, application: Application) -> Owner | None:
        """Find a pool of ``application`` that is taken for its own without a name that says so; None without any."""
        owners = (self.explain_owner(series) for series in self.find_pools_of(application))
        return next((owner for owner in owners if not owner.is_sure), None)

    def write_settling(self, pools: Iterable[PoolSeries]) -> str:
        """Write what would settle whose ``pools`` are."""
        return write_settling(series.last.application for series in pools)

    def find_queues_of(self, application: Application) -> tuple[BouncerQueue, ...]:
        """Find the pools of a PgBouncer that serve the application's user and database.

        Their server connections may serve other applications too.
        """
        return tuple(
            queue
            for queue in self.queues
            if queue.last.user == application.user and queue.database == application.database
        )

    def count_waiting(self, application: Application | None = None) -> Waiting:
        """Count the clients that wait for connections of ``application``; without one, for any.

        A client that the server refuses waits for no application in particular: see ``is_refusing``.
        """
        key = repr((application.name, application.user, application.database)) if application else ""
        if key not in self.memory:
            self.memory[key] = self._count_waiting(application)
        return self.memory[key]

    def _count_waiting(self, application: Application | None) -> Waiting:
        pools = self.pools if application is None else self.find_pools_of(application)
        queues = self.queues if application is None else self.find_queues_of(application)
        found = [each.waiting for each in pools]
        # No client in a pooler's queue says nothing about the queues of the applications' own pools in front of it.
        found += [each.waiting for each in queues if each.waiting]
        found += [Waiting(each.waiting, True, "Pgpool-II") for each in self.pgpools if each.waiting]
        known = [each for each in found if each.is_known]
        if not known:
            return Waiting()
        total = sum(each.count or 0 for each in known)
        by = ", ".join(dict.fromkeys(each.by for each in known if each))
        return Waiting(total, any(each.sustained for each in known), by)

    @property
    def is_refusing(self) -> bool:
        """Whether a limit refused poolctl itself in the last snapshot."""
        return self.refusal is not None and self.refusal.by in LIMIT_REFUSALS

    @property
    def roles(self) -> dict[str, RoleFacts]:
        return {role.name: role for role in self.server.roles} if self.server else {}

    def get_setting(self, name: str) -> float | None:
        return self.server.settings.get(name) if self.server else None
