"""Sampling of all sources at the same instants, each with a deadline.

Decides when samples are taken and what a source that hangs costs. Every source works in a thread of its own. A snapshot
is complete without the samples that do not come in time; a late one becomes part of the next snapshot. A source whose
sample is late is neither asked again nor waited for.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from poolctl.observe.snapshot import HostSample, Observation, Refusal, ServerFacts, ServerSample, Snapshot, Source

DURATION = 3.0
INTERVAL = 1.0
EARLY = 0.3
"""Seconds from the first sample to the second. No transaction of a busy application lasts that long, and every one of a
leak does: so close a pair separates the two in the first second. The whole intervals after it show what takes longer:
turnover, growth, and counters that the server flushes once a second."""

MOST_SAMPLES = 600
"""Most samples of an observation without a given interval: the interval grows with the duration."""

PATIENCE = 1.5
"""Seconds that a snapshot waits for its samples. An observation may take two seconds on top of its duration: a server
that hangs at the end still leaves time to report it."""

HOST_PATIENCE = 0.3
"""Seconds that the host gets in any case: a sample with 500 backends takes a tenth of one."""

HOST = Source("host", "this machine")

_T = TypeVar("_T")

_STOP_CHECK = 0.05
_CLOSED_WITHIN = 0.2


class SampledSource(Protocol):
    """A source. ``sample`` never raises for what the system does, and may return None; ``source`` says why."""

    @property
    def source(self) -> Source: ...

    def sample(self) -> Any: ...

    def close(self) -> None: ...


class SampledServer(SampledSource, Protocol):
    @property
    def facts(self) -> ServerFacts | None: ...

    @property
    def refusal(self) -> Refusal | None: ...


class SampledHost(Protocol):
    @property
    def source(self) -> Source: ...

    def sample(self, server: ServerSample | None, facts: ServerFacts | None) -> HostSample | None: ...

    def close(self) -> None: ...


class Sampler:
    """The sources of one observation. ``with Sampler(...) as sampler`` closes them.

    ``host`` is made when it is first needed, in its own thread: its imports take a while.
    """

    def __init__(
        self,
        server: SampledServer | None = None,
        *,
        bouncers: Sequence[SampledSource] = (),
        pgpools: Sequence[SampledSource] = (),
        pools: Sequence[SampledSource] = (),
        host: Callable[[], SampledHost] | None = None,
    ) -> None:
        self._server = _Lane(server.source, _sample_server, made=server) if server is not None else None
        self._bouncers = [_make_lane(each) for each in bouncers]
        self._pgpools = [_make_lane(each) for each in pgpools]
        self._pools = [_make_lane(each) for each in pools]
        self._host = _Lane(HOST, _sample_host, make=host) if host is not None else None
        self._facts: ServerFacts | None = None
        self._snapshots: deque[Snapshot] = deque()
        self._latest: Snapshot | None = None
        self._interval = 0.0

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every source; one that hangs is closed by its own thread, if that ever returns."""
        for lane in self._list_lanes():
            lane.close()

    @property
    def observation(self) -> Observation:
        """The observation so far."""
        sources = tuple(lane.status for lane in self._list_lanes())
        return Observation(tuple(self._snapshots), self._facts, sources, self._interval)

    def observe(
        self,
        duration: float | None = DURATION,
        *,
        interval: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        on_snapshot: Callable[[Snapshot], None] = lambda _: None,
        keep: int | None = None,
        began: float | None = None,
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> Observation:
        """Sample at once, after ``EARLY`` seconds, and then each ``interval`` until ``duration`` seconds are over.

        ``duration`` None: until ``stop`` returns True, which is checked twenty times a second. ``keep``: how many of
        the newest snapshots are kept; None keeps all. ``on_snapshot`` gets each as it is taken. ``began``
        (time.monotonic()): when the user began to wait, if earlier. ``jitter``: seconds that a sample is late, drawn
        for each, so that events at regular intervals are sampled fairly.

        Returns at the latest ``PATIENCE`` seconds after ``duration``, or after the first snapshot if that took longer.
        Until then it waits for a server as long as no source has answered, and for the host: on a machine without a
        free core a first sample takes seconds.
        """
        began = time.monotonic() if began is None else began
        self._interval = interval or max(INTERVAL, (duration or 0.0) / MOST_SAMPLES)
        self._snapshots = deque(maxlen=keep)
        for instant in plan_instants(lambda: time.monotonic() - began, duration, self._interval):
            if not _sleep_until(began + instant + jitter(), stop):
                break
            self._snapshots.append(self._take_snapshot(time.monotonic() + PATIENCE))
            on_snapshot(self._snapshots[-1])
        else:
            if self.awaits_server or self._awaits_host:
                self._snapshots.append(self._take_snapshot(began + (duration or 0.0) + PATIENCE, insists=True))
                on_snapshot(self._snapshots[-1])
        return self.observation

    @property
    def awaits_server(self) -> bool:
        """Whether no source has answered yet, and the server's first sample is under way."""
        has_answer = any(each.server or each.bouncers or each.pgpools or each.pools for each in self._snapshots)
        return self._server is not None and self._server.is_busy and not has_answer

    @property
    def _awaits_host(self) -> bool:
        return self._host is not None and self._host.is_busy and not any(each.host for each in self._snapshots)

    def _take_snapshot(self, deadline: float, *, insists: bool = False) -> Snapshot:
        # The wall clock, for recordings; durations are on the monotonic one, which never jumps.
        at = time.time()
        for lane in self._list_lanes():
            # The host comes after the server: it identifies processes by the backends that the server reports.
            if lane is not self._host:
                lane.request()
        server, refusal = self._take_server(deadline, insists=insists)
        host = None
        if self._host is not None:
            self._host.request(server, self._facts)
        bouncers, pgpools, pools = (
            [sample for lane in lanes if (sample := lane.take(deadline)) is not None]
            for lanes in (self._bouncers, self._pgpools, self._pools)
        )
        if self._host is not None:
            # It began only after the server had answered, or had used up the time.
            host = self._host.take(max(deadline, time.monotonic() + HOST_PATIENCE), insists=insists)
        snapshot = Snapshot(
            at=at,
            server=server,
            refusal=refusal,
            bouncers=tuple(bouncers),
            pgpools=tuple(pgpools),
            pools=tuple(figures for several in pools for figures in several),
            host=host,
        )
        snapshot = share_unchanged(exclude_own_backends(snapshot), self._latest)
        self._latest = snapshot
        return snapshot

    def _take_server(self, deadline: float, *, insists: bool) -> tuple[ServerSample | None, Refusal | None]:
        if self._server is None:
            return None, None
        taken = self._server.take(deadline, insists=insists)
        if taken is None:
            source = self._server.status
            return None, Refusal("unreachable", source.reason, target=source.target)
        sample, refusal, facts = taken
        self._facts = facts or self._facts
        return sample, refusal

    def _list_lanes(self) -> Iterator["_Lane"]:
        if self._server is not None:
            yield self._server
        yield from (*self._bouncers, *self._pgpools, *self._pools)
        if self._host is not None:
            yield self._host


def plan_instants(elapsed: Callable[[], float], duration: float | None, interval: float) -> Iterator[float]:
    """Plan the instants of samples, in seconds after the beginning.

    ``elapsed`` is called after each sample: instants that a slow sample has passed are left out, but never the last
    one, ``duration``. If the first sample took longer, a second follows at once: one alone does not show what moves.
    """
    yield 0.0
    first = elapsed()
    planned = first + min(EARLY, interval / 2)
    count = 0
    gap = min(EARLY, interval) / 2
    while duration is None or planned < duration - gap:
        yield planned
        latest = elapsed()
        # The next whole interval that leaves a gap behind the sample before.
        count = max(count + 1, int((latest + gap) // interval) + 1)
        planned = count * interval
    if duration > 0:
        yield max(duration, first)


def exclude_own_backends(snapshot: Snapshot) -> Snapshot:
    """Return ``snapshot`` without the backends that serve poolctl itself through a Pgpool-II."""
    own = {pgpool.own_backend for pgpool in snapshot.pgpools} - {None}
    if not own:
        return snapshot
    server, host = snapshot.server, snapshot.host
    if server is not None:
        server = replace(server, backends=tuple(each for each in server.backends if each.pid not in own))
    if host is not None:
        host = replace(host, titles=tuple(each for each in host.titles if each.pid not in own))
    return replace(snapshot, server=server, host=host)


def share_unchanged(snapshot: Snapshot, before: Snapshot | None) -> Snapshot:
    """Return ``snapshot`` with the objects of ``before`` where they are equal: it keeps a long observation small.

    For what a source reports of each client: process titles, processes, and a PgBouncer's clients and servers. The rows
    of PostgreSQL are shared where they are read.
    """
    if before is None:
        return snapshot
    host, host_before = snapshot.host, before.host
    if host is not None and host_before is not None:
        host = replace(
            host,
            titles=_share(host.titles, {each.pid: each for each in host_before.titles}, lambda each: each.pid),
            processes=_share(
                host.processes,
                {(each.pid, each.port, each.backend_pid): each for each in host_before.processes},
                lambda each: (each.pid, each.port, each.backend_pid),
            ),
        )
    bouncers = []
    for bouncer in snapshot.bouncers:
        known = next((each for each in before.bouncers if each.target == bouncer.target), bouncer)
        links = {each.pointer: each for each in (*known.clients, *known.servers)}
        bouncers.append(
            replace(
                bouncer,
                clients=_share(bouncer.clients, links, lambda each: each.pointer),
                servers=_share(bouncer.servers, links, lambda each: each.pointer),
            )
        )
    return replace(snapshot, host=host, bouncers=tuple(bouncers))


def _share(new: tuple[_T, ...], known: Mapping[Any, _T], identify: Callable[[_T], Any]) -> tuple[_T, ...]:
    """Return ``new`` with each element's equal from ``known``, where there is one by the same identity."""
    return tuple(old if (old := known.get(identify(each))) is not None and old == each else each for each in new)


class _Lane:
    """One source and its thread, which is a daemon: it ends with poolctl whatever it waits for.

    ``make`` makes the source in that thread; ``made`` is a source that exists already.
    """

    def __init__(
        self,
        known: Source,
        sample: Callable[..., Any],
        *,
        made: Any = None,
        make: Callable[[], Any] = lambda: None,
    ) -> None:
        self._sample = sample
        self._made, self._make = made, make
        self._requests: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._samples: queue.SimpleQueue[tuple[Any, Source]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_busy = self._is_late = False
        self._requested_at = 0.0
        self._requested = self._missed = 0
        self._last = known

    def request(self, *arguments: Any) -> None:
        """Request a sample, unless an earlier one is still under way: that one then counts for this snapshot, too."""
        # A second request would pile up behind a source that hangs, and be answered with an old state.
        self._is_late = self._is_busy
        if self._is_busy:
            return
        if self._thread is None:
            # A daemon: a thread that hangs in a system call cannot be ended, and must not keep poolctl alive.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._is_busy = True
        self._requested_at = time.monotonic()
        self._requests.put(arguments)

    @property
    def is_busy(self) -> bool:
        """Whether a sample is under way."""
        return self._is_busy

    def take(self, deadline: float, *, insists: bool = False) -> Any:
        """Take the sample; None if there is none by ``deadline``. A late source is not waited for again, unless
        ``insists``."""
        self._requested += 1
        sample, has_come = self._collect(until=0.0 if self._is_late and not insists else deadline)
        self._missed += not (has_come and self._last.ok)
        return sample

    @property
    def status(self) -> Source:
        """The state of the source. Its reason says how often it did not answer, also if it answers now."""
        if self._is_busy:
            silent = time.monotonic() - self._requested_at
            return replace(self._last, ok=False, reason=f"no answer for {silent:.1f} s")
        if self._last.ok and self._missed:
            missing = f"no answer in {self._missed} of {self._requested} samples"
            return replace(self._last, reason="; ".join(filter(None, [missing, self._last.reason])))
        return self._last

    def close(self) -> None:
        if self._thread is None:
            if self._made is not None:
                self._made.close()
            return
        # None ends the thread, which closes its source: a connection belongs to one thread.
        self._requests.put(None)
        if not self._is_busy:
            self._thread.join(timeout=_CLOSED_WITHIN)

    def _collect(self, *, until: float) -> tuple[Any, bool]:
        """Collect the sample that is under way, and whether it has come."""
        if not self._is_busy:
            return None, False
        try:
            value, self._last = self._samples.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            return None, False
        self._is_busy = False
        return value, True

    def _run(self) -> None:
        while (arguments := self._requests.get()) is not None:
            self._samples.put(self._call(arguments))
        if self._made is not None:
            self._made.close()

    def _call(self, arguments: tuple[Any, ...]) -> tuple[Any, Source]:
        try:
            if self._made is None:
                self._made = self._make()
            return self._sample(self._made, *arguments), self._made.source
        except Exception as error:  # noqa: BLE001 - reported in one line, and the other sources go on
            return None, replace(self._last, ok=False, reason=f"{type(error).__name__}: {error}")


def _make_lane(source: SampledSource) -> _Lane:
    return _Lane(source.source, lambda made: made.sample(), made=source)


def _sample_server(server: SampledServer) -> tuple[ServerSample | None, Refusal | None, ServerFacts | None]:
    return server.sample(), server.refusal, server.facts


def _sample_host(host: SampledHost, server: ServerSample | None, facts: ServerFacts | None) -> HostSample | None:
    return host.sample(server, facts)


def _sleep_until(until: float, stop: Callable[[], bool]) -> bool:
    """Sleep until an instant; return False if ``stop`` came first."""
    while (left := until - time.monotonic()) > 0:
        if stop():
            return False
        # In steps, so that Ctrl-C and the end of a run are noticed at once.
        time.sleep(min(left, _STOP_CHECK))
    return not stop()
