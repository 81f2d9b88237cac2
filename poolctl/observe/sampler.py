"""Takes the rounds: asks every source at the same instants, and waits for none of them longer than for the others.

Decides when one looks and what a source that hangs costs. Every source is asked in a thread of its own; a round goes on
without the answers that do not come in time, and takes those that the round before went on without. A source that owes
one is neither asked again nor waited for.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from poolctl.observe.snapshot import HostSample, Observation, Refusal, ServerFacts, ServerSample, Snapshot, Source

DURATION = 3.0
INTERVAL = 1.0
EARLY = 0.3
"""Seconds from the first look to the second. Of a busy application no transaction lasts that long, of a leak every one
does: a pair so close tells the two apart in the first second. The grid of whole intervals behind it shows what takes
longer: turnover, growth, and counters that the server flushes once a second."""

MOST_SAMPLES = 600
"""Of an observation whose interval nobody asked for: it grows with the duration."""

PATIENCE = 1.5
"""Seconds that a round waits for answers. With the two seconds that an observation may take on top of its duration, a
server that hangs in the last round still leaves time to say so."""

HOST_PATIENCE = 0.3
"""Seconds that the host gets in any case: a look at 500 backends takes a tenth of one."""

HOST = Source("host", "this machine")

_STOP_CHECK = 0.05
_CLOSED_WITHIN = 0.2


class SampledSource(Protocol):
    """A source. ``look`` never raises for what the world does, and may return None; ``source`` says why."""

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
    """Holds the sources of one observation. ``with Watcher(...) as watcher`` closes them.

    ``host`` is made when it is first needed, in its own thread: what it imports takes a while.
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
        self._interval = 0.0

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every source; one that hangs is closed by its own thread, should it ever come back."""
        for lane in self._lanes():
            lane.close()

    @property
    def observation(self) -> Observation:
        """What has been seen so far."""
        sources = tuple(lane.status() for lane in self._lanes())
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
        """Look at once, after ``EARLY`` seconds, and then each ``interval`` until ``duration`` seconds after the call.

        ``duration`` None: until ``stop`` says so, which is asked twenty times a second. ``keep``: only that many of the
        newest snapshots are held. ``on_snapshot`` gets each as it is taken. Returns at the latest ``PATIENCE`` seconds
        after ``duration``, or after the first look where that took longer; a server that is still silent then, while
        nobody else has said anything, or a host gets all of them: on a machine without a core to spare the first answer
        takes seconds. ``began`` (time.monotonic()) is when the user began to wait, if that was before. ``jitter``:
        seconds that a look is late, drawn for each, so that what happens at regular intervals is seen as it is.
        """
        began = time.monotonic() if began is None else began
        self._interval = interval or max(INTERVAL, (duration or 0.0) / MOST_SAMPLES)
        self._snapshots = deque(maxlen=keep)
        for instant in plan_instants(lambda: time.monotonic() - began, duration, self._interval):
            if not _sleep_until(began + instant + jitter(), stop):
                break
            self._snapshots.append(self._round(time.monotonic() + PATIENCE))
            on_snapshot(self._snapshots[-1])
        else:
            if self.awaits_server or self._awaits_host:
                self._snapshots.append(self._round(began + (duration or 0.0) + PATIENCE, insists=True))
                on_snapshot(self._snapshots[-1])
        return self.observation

    @property
    def awaits_server(self) -> bool:
        """Whether nobody has said anything yet, and the server owes an answer."""
        told = any(each.server or each.bouncers or each.pgpools or each.pools for each in self._snapshots)
        return self._server is not None and self._server.owes and not told

    @property
    def _awaits_host(self) -> bool:
        return self._host is not None and self._host.owes and not any(each.host for each in self._snapshots)

    def _round(self, deadline: float, *, insists: bool = False) -> Snapshot:
        at = time.time()
        for lane in self._lanes():
            if lane is not self._host:
                lane.ask()
        server, refusal = self._take_server(deadline, insists=insists)
        host = None
        if self._host is not None:
            self._host.ask(server, self._facts)
        bouncers, pgpools, pools = (
            [answer for lane in lanes if (answer := lane.take(deadline)) is not None]
            for lanes in (self._bouncers, self._pgpools, self._pools)
        )
        if self._host is not None:
            # It was only asked when the server had answered, or had used up the round.
            host = self._host.take(max(deadline, time.monotonic() + HOST_PATIENCE), insists=insists)
        return Snapshot(
            at=at,
            server=server,
            refusal=refusal,
            bouncers=tuple(bouncers),
            pgpools=tuple(pgpools),
            pools=tuple(figures for several in pools for figures in several),
            host=host,
        )

    def _take_server(self, deadline: float, *, insists: bool) -> tuple[ServerSample | None, Refusal | None]:
        if self._server is None:
            return None, None
        answer = self._server.take(deadline, insists=insists)
        if answer is None:
            source = self._server.status()
            return None, Refusal("unreachable", source.reason, target=source.target)
        sample, refusal, facts = answer
        self._facts = facts or self._facts
        return sample, refusal

    def _lanes(self) -> Iterator["_Lane"]:
        if self._server is not None:
            yield self._server
        yield from (*self._bouncers, *self._pgpools, *self._pools)
        if self._host is not None:
            yield self._host


def plan_instants(elapsed: Callable[[], float], duration: float | None, interval: float) -> Iterator[float]:
    """When to look, in seconds after the beginning. ``elapsed`` is asked after each look: what a slow answer has
    made impossible is left out, the last instant, ``duration``, never. When the first look has taken all of it, a
    second follows at once: from one alone nobody can tell what stands still."""
    yield 0.0
    first = elapsed()
    planned = first + min(EARLY, interval / 2)
    count = 0
    gap = min(EARLY, interval) / 2
    while duration is None or planned < duration - gap:
        yield planned
        latest = elapsed()
        # The next whole interval that leaves a gap behind the look before.
        count = max(count + 1, int((latest + gap) // interval) + 1)
        planned = count * interval
    if duration > 0:
        yield max(duration, first)


class _Lane:
    """One source and the thread that asks it, which ends with poolctl whatever it waits for.

    ``make`` makes the source in that thread; ``made`` is one that is there already.
    """

    def __init__(
        self,
        known: Source,
        look: Callable[..., Any],
        *,
        made: Any = None,
        make: Callable[[], Any] = lambda: None,
    ) -> None:
        self._look = look
        self._made, self._make = made, make
        self._questions: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, Source]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._owes = self._is_late = False
        self._asked_at = 0.0
        self._rounds = self._missed = 0
        self._last = known

    def ask(self, *arguments: Any) -> None:
        """Have it look, unless an answer of an earlier round is still owed: that one counts for this round, too."""
        self._is_late = self._owes
        if self._owes:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._owes = True
        self._asked_at = time.monotonic()
        self._questions.put(arguments)

    @property
    def owes(self) -> bool:
        """Whether it was asked and has not answered yet."""
        return self._owes

    def take(self, deadline: float, *, insists: bool = False) -> Any:
        """Its answer; None if it has none by ``deadline``. Who was late once is not waited for again, unless one
        insists."""
        self._rounds += 1
        answer, has_come = self._collect(until=0.0 if self._is_late and not insists else deadline)
        self._missed += not (has_come and self._last.ok)
        return answer

    def status(self) -> Source:
        """How it stands. Of a source that answers now, but did not always, it says so."""
        if self._owes:
            silent = time.monotonic() - self._asked_at
            return replace(self._last, ok=False, reason=f"no answer for {silent:.1f} s")
        if self._last.ok and self._missed:
            missing = f"no answer in {self._missed} of {self._rounds} rounds"
            return replace(self._last, reason="; ".join(filter(None, [missing, self._last.reason])))
        return self._last

    def close(self) -> None:
        if self._thread is None:
            if self._made is not None:
                self._made.close()
            return
        self._questions.put(None)
        if not self._owes:
            self._thread.join(timeout=_CLOSED_WITHIN)

    def _collect(self, *, until: float) -> tuple[Any, bool]:
        """The answer that is owed, and whether it has come."""
        if not self._owes:
            return None, False
        try:
            value, self._last = self._answers.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            return None, False
        self._owes = False
        return value, True

    def _work(self) -> None:
        while (arguments := self._questions.get()) is not None:
            self._answers.put(self._answer(arguments))
        if self._made is not None:
            self._made.close()

    def _answer(self, arguments: tuple[Any, ...]) -> tuple[Any, Source]:
        try:
            if self._made is None:
                self._made = self._make()
            return self._look(self._made, *arguments), self._made.source
        except Exception as error:  # noqa: BLE001 - told in one line, and the other sources go on
            return None, replace(self._last, ok=False, reason=f"{type(error).__name__}: {error}")


def _make_lane(source: SampledSource) -> _Lane:
    return _Lane(source.source, lambda asked: asked.sample(), made=source)


def _sample_server(server: SampledServer) -> tuple[ServerSample | None, Refusal | None, ServerFacts | None]:
    return server.sample(), server.refusal, server.facts


def _sample_host(host: SampledHost, server: ServerSample | None, facts: ServerFacts | None) -> HostSample | None:
    return host.sample(server, facts)


def _sleep_until(until: float, stop: Callable[[], bool]) -> bool:
    """Whether the instant was reached, without having been told to stop."""
    while (left := until - time.monotonic()) > 0:
        if stop():
            return False
        time.sleep(min(left, _STOP_CHECK))
    return not stop()
