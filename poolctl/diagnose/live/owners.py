"""Whose pool it is: which application's backends the connections of a pool are, and how that is known.

Decides by the name that backends carry; else by the process behind the figures; else by what only one application
fits. Most client libraries send no application_name, and pgjdbc sends its own name for all, so that a label of the
figures that no backend carries says nothing about backends. Only a name makes an owner certain. What was concluded in
another way is dropped as soon as the figures contradict it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from poolctl.diagnose.live.tracks import Application, Track, count_at
from poolctl.diagnose.live.waits import PoolSeries
from poolctl.observe.snapshot import ClientProcess, HostSample, Observation

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost", "local"})

OwnedBy = Literal["name", "process", "only", "size"]

_WORDS: Mapping[OwnedBy, str] = {
    "name": "by its name",
    "process": "by the process that its figures come from",
    "only": "as the only application that it can belong to",
    "size": "by its size",
}
LEAST_WINDOW = 1.0
"""Seconds of figures without an acquire, from which backends that move belong to another pool."""
CLOSE = 0.1
"""Share by which the backends of an application may differ from the connections of its pool: the two are counted at
slightly different instants."""

_DRIVERS = re.compile(
    r"^$|^PostgreSQL JDBC Driver$|^postgres\.js$|^Npgsql|^(\.{0,2}/|bin/|script/)|\.(rb|py|js|php)$", re.IGNORECASE
)
"""Names that a driver or a runtime sends where the application sets none; Ruby's sends the path of the script."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The application whose connections a pool holds, None if several fit or none; and how that is known.

    ``pid``: the process that the figures come from, where it runs here and has backends.
    """

    application: Application | None = None
    by: OwnedBy = "name"
    pid: int | None = None

    @property
    def is_sure(self) -> bool:
        return self.by == "name"

    @property
    def words(self) -> str:
        """How the owner is known, for a sentence."""
        return _WORDS[self.by]


def write_settling(labels: Iterable[str | None]) -> str:
    """Write what would settle whose pool it is. ``labels``: the names that the figures give; None without any.

    Where the user or the exporter gave a name, the connections have to carry it, too.
    """
    named = next(filter(None, labels), None)
    if named is None:
        return "whose pool it is: --pool-stats APPLICATION=URL, with its application_name"
    return (
        f"whose pool it is: application_name {named} in the settings of its connections (ApplicationName of pgjdbc), "
        "or poolctl on the host of the process that serves the figures"
    )


def is_drivers_name(name: str) -> bool:
    """Return True for an application_name that no application chose: empty, a driver's own, or a script's path."""
    return _DRIVERS.search(name) is not None


def find_own_addresses(tracks: Iterable[Track], ports: Iterable[int]) -> frozenset[str]:
    """Find the addresses of this machine among the clients': loopback, and any whose every client port is in
    ``ports``, of processes observed here. Of another machine some port may match by chance, not all of them."""
    known = frozenset(ports)
    if not known:
        return LOOPBACK
    used: dict[str, set[int]] = {}
    for track in tracks:
        if track.last.client is not None and track.last.client_port:
            used.setdefault(track.last.client, set()).add(track.last.client_port)
    return LOOPBACK.union(address for address, each in used.items() if each <= known)


def find_processes(host: HostSample | None, tracks: Sequence[Track]) -> dict[int, ClientProcess]:
    """Find the process on this host at the other end of each backend's connection, by the backend's pid."""
    if host is None:
        return {}
    by_port = {process.port: process for process in host.processes if process.port}
    found = {process.backend_pid: process for process in host.processes if process.backend_pid is not None}
    own = find_own_addresses(tracks, by_port)
    for track in tracks:
        process = by_port.get(track.last.client_port or 0)
        if process is not None and track.last.client in own:
            found.setdefault(track.pid, process)
    return found


@dataclass(frozen=True)
class OwnerSearch:
    """The search for the owners of all pools of one observation. ``programs``: with backends now, without tools."""

    observation: Observation
    pools: tuple[PoolSeries, ...]
    programs: tuple[Application, ...]
    applications: tuple[Application, ...]
    processes: Mapping[int, ClientProcess]
    scraped: Mapping[str, int]

    def find(self, series: PoolSeries) -> Owner:
        """Find the owner of ``series``: by name, by process, by being the only one that fits, or by its size."""
        named = self._find_named(series)
        if len(named) == 1:
            return Owner(named[0], "name", self._find_pid(series))
        owner = self._conclude(series, named)
        if owner.application is None or self._is_contradicted(series, owner):
            return Owner(None, owner.by, owner.pid)
        return owner

    def _find_named(self, series: PoolSeries) -> list[Application]:
        last = series.last
        words = {last.application} if last.application else {last.name, *last.labels.values()} - {""}
        return [each for each in self.programs if each.name in words]

    def _conclude(self, series: PoolSeries, named: Sequence[Application]) -> Owner:
        candidates = list(named) or self._list_candidates(series)
        pid = self._find_pid(series)
        if pid is not None:
            own = Counter(
                id(each)
                for each in (named or self.programs)
                for track in each.tracks
                if (process := self.processes.get(track.pid)) is not None and process.pid == pid
            )
            fitting = [each for each in (named or self.programs) if own[id(each)]]
            if len(fitting) == 1:
                return Owner(fitting[0], "process", pid)
            candidates = fitting or candidates
        if len(candidates) == 1:
            return Owner(candidates[0], "only", pid)
        return Owner(self._find_by_size(series, candidates), "size", pid)

    def _list_candidates(self, series: PoolSeries) -> list[Application]:
        """List the applications that a pool without a name among the backends can belong to.

        A label that names no application here is a name of its own: then only applications without one are left, and
        none at all where other labels are application_names, or where the named one had backends that are gone.
        """
        last = series.last
        label = last.application
        known = {each.name for each in self.applications if each.name}
        if (label or last.name) in known:
            return []
        if not label:
            return list(self.programs)
        by_user = [each for each in self.programs if each.user == label]
        if by_user:
            return by_user
        if any(each.last.application in known for each in self.pools):
            return []
        return [each for each in self.programs if is_drivers_name(each.name)]

    def _find_pid(self, series: PoolSeries) -> int | None:
        """Find the process that the figures come from, if it has backends itself: an exporter beside it has none."""
        pid = self.scraped.get(series.last.source)
        has_backends = pid is not None and any(process.pid == pid for process in self.processes.values())
        return pid if has_backends else None

    def _find_by_size(self, series: PoolSeries, candidates: Sequence[Application]) -> Application | None:
        last = series.last
        # The instances of a fleet export one pool each, under one name, and are one application.
        alike = sum(each.last.open or 0 for each in self.pools if each.last.name == last.name)
        for opened in {last.open or 0, alike} - {0}:
            near = [each for each in candidates if abs(each.count - opened) <= max(1, CLOSE * opened)]
            if len(near) == 1:
                return near[0]
            if near and alike == (last.open or 0):
                return self._find_closest(series, near)
        return None

    def _find_closest(self, series: PoolSeries, near: Sequence[Application]) -> Application | None:
        """Find the application whose number of backends is the pool's, sample by sample.

        None where that of another application is not further away by one backend at least.
        """
        opened = {at: figures.open or 0 for at, figures in zip(series.times, series.figures, strict=True)}
        samples = [
            (opened[snapshot.at], snapshot.server.at)
            for snapshot in self.observation.snapshots
            if snapshot.server is not None and snapshot.at in opened
        ]
        distances = []
        for each in near:
            counts = count_at((*each.tracks, *each.gone))
            distances.append(sum(abs(counts[at] - many) for many, at in samples))
        best, second = sorted(distances)[:2]
        return near[distances.index(best)] if second - best >= len(samples) > 0 else None

    def _is_contradicted(self, series: PoolSeries, owner: Owner) -> bool:
        """Return True if the backends of the application do what the connections of the pool cannot do.

        Without any acquire only connections that were held all the time can move; and a connection that works on the
        server is in use.
        """
        application = owner.application
        assert application is not None
        tracks = application.tracks
        if owner.by == "process":
            tracks = tuple(t for t in tracks if t.pid in self.processes and self.processes[t.pid].pid == owner.pid)
        in_use = [each.in_use for each in series.figures if each.in_use is not None]
        if not in_use:
            return False
        moved = sum(track.has_moved for track in tracks)
        if (
            series.measure_growth("acquired_total") == 0
            and series.window >= LEAST_WINDOW
            and min(in_use) == max(in_use)
        ):
            turning = sum(_turns_over(track) for track in tracks)
            if moved > in_use[-1] or 2 * turning >= len(tracks):
                return True
        if abs(len(tracks) - (series.last.open or 0)) > max(1, CLOSE * len(tracks)):
            # One pool of several, or one that has lost connections: the application's other backends may work.
            return False
        at_work = Counter(chain.from_iterable(track.usage.times for track in tracks))
        samples = len(count_at(tracks))
        mean = sum(at_work.values()) / samples if samples else 0.0
        return mean > sum(in_use) / len(in_use) + max(2.0, 0.25 * len(tracks))


def _turns_over(track: Track) -> bool:
    """Return True if ``track`` ended transactions and rested outside of any in between, as a pool's connection does."""
    return track.has_moved and any(row.state == "idle" for _, _, row in track.stretches)
