"""The recorder: what the hooks call.

Decides who acts (thread, task or greenlet) and which connection object is meant. Keeps weak references alone, so a
connection lives exactly as long as without the guard. Nothing here raises into the program: each hook catches what
goes wrong, and ``complain`` says it once.
"""

import sys
import weakref
from _thread import RLock, get_ident
from _thread import _local as ThreadLocal
from collections.abc import Callable
from time import monotonic
from typing import Any

from poolctl.guard.call_sites import NOWHERE, Site, capture_site
from poolctl.guard.hot_path import HotPath
from poolctl.guard.ledger import Actor, GuardedPool, Hold

MOST_POOL_SITES = 1000
"""Lines kept that create pools."""

_getframe = sys._getframe

# The names above come from _thread, not from threading: gevent and eventlet replace those of threading, and a
# greenlet that switched while it held the ledger's lock would stop every other one.


class _ThreadEnd:
    """Lives in a thread's local storage, so it is destroyed when the thread ends."""

    __slots__ = ("__weakref__",)


class PoolSite:
    """The pools that one line created: ``dropped`` were garbage-collected without having been closed."""

    __slots__ = ("closed", "created", "dropped", "library", "name", "owner", "peak", "site")

    def __init__(self, site: Site, library: str, name: str) -> None:
        self.site = site
        self.library = library
        self.name = name
        self.created = self.closed = self.dropped = self.peak = 0
        self.owner: object = None


class Recorder(HotPath):
    """All that is recorded in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = RLock()
        self.pool_sites: dict[int, PoolSite] = {}
        self.only: dict[int, str] | None = None
        """Ids of the pools that are watched, with their names; None: all of them."""
        self.serving: weakref.WeakSet[Actor] = weakref.WeakSet()
        """Threads that serve Django's requests: Django itself closes or keeps their connections."""
        self.wait_limit: float | None = None
        """Seconds after which an acquire fails; None leaves the program's own limit alone."""
        self.hooked: dict[str, str] = {}
        self.complaints: dict[str, str] = {}
        self.on_first_use: Callable[[], None] | None = None
        self.gone: dict[int, GuardedPool] = {}
        """What was counted in pools that are gone, added up by the line that created them."""
        self._single: dict[str, GuardedPool] = {}
        self._references: dict[int, weakref.ref[Any]] = {}
        self._local = ThreadLocal()
        self._actors: weakref.WeakSet[Actor] = weakref.WeakSet()
        self._tasks: dict[int, tuple[Any, Actor]] = {}
        self._greenlets: dict[int, tuple[Any, Actor]] = {}

    # Actors

    def see_asyncio(self) -> None:
        """Separate tasks from now on, since asyncio has been imported."""
        import asyncio
        from asyncio.events import _get_running_loop

        # From Python 3.14 on each thread has its own place for that.
        self.current_tasks = getattr(asyncio.tasks, "_current_tasks", None) if sys.version_info < (3, 14) else None
        self.current_task = self.current_tasks.get if self.current_tasks is not None else asyncio.current_task
        self.running_loop = _get_running_loop

    def see_greenlets(self) -> None:
        """Separate greenlets from now on, since gevent or eventlet schedules them."""
        self.current_greenlet = sys.modules["greenlet"].getcurrent

    def current_actor(self) -> Actor:
        """Find the thread, task or greenlet that runs now."""
        # Where no loop runs a task, this thread need not be asked whether it has a loop.
        if self.running_loop is not None and self.current_tasks != {} and (loop := self.running_loop()) is not None:
            assert self.current_task is not None
            if (task := self.current_task(loop)) is not None:
                known = self._tasks.get(id(task))
                return known[1] if known is not None and known[0]() is task else self._add_task(task)
        if self.current_greenlet is not None:
            return self._find_greenlet()
        try:
            return self._local.actor  # type: ignore[no-any-return]
        except AttributeError:
            return self._add_thread()

    def _add_actor(self, actor: Actor) -> None:
        with self.lock:
            self._actors.add(actor)

    def _add_thread(self) -> Actor:
        threading = sys.modules.get("threading")
        thread = threading._active.get(get_ident()) if threading is not None else None
        actor = Actor("thread", thread.name if thread is not None else f"thread {get_ident()}", get_ident())
        end = self._local.end = _ThreadEnd()
        key = id(end)

        def end_thread(_: Any) -> None:
            self._references.pop(key, None)
            self.forget_actor(actor.thread)
            self.end_actor(actor, "ended")

        self._references[key] = weakref.ref(end, end_thread)
        self._local.actor = actor
        self._add_actor(actor)
        return actor

    def _add_task(self, task: Any) -> Actor:
        actor = Actor("task", task.get_name() if hasattr(task, "get_name") else "task", get_ident())
        key = id(task)

        def forget(_: Any) -> None:
            self._tasks.pop(key, None)
            self.forget_actor(key)

        def end(done: Any) -> None:
            forget(done)
            if actor.top is None:
                return
            if done.cancelled():
                self.end_actor(actor, "cancelled")
            elif (error := done._exception if hasattr(done, "_exception") else None) is not None:
                from poolctl.guard.endings import note_error

                note_error(self, error)
                self.end_actor(actor, f"raised {type(error).__name__}")
            else:
                self.end_actor(actor, "ended")

        self._add_actor(actor)
        self._tasks[key] = (weakref.ref(task, forget), actor)
        task.add_done_callback(end)
        return actor

    def _find_greenlet(self) -> Actor:
        assert self.current_greenlet is not None
        greenlet = self.current_greenlet()
        known = self._greenlets.get(id(greenlet))
        if known is not None and known[0]() is greenlet:
            return known[1]
        actor = Actor("greenlet", getattr(greenlet, "name", "") or "greenlet", get_ident())
        key = id(greenlet)

        def end(_: Any) -> None:
            self._greenlets.pop(key, None)
            self.end_actor(actor, "ended")

        self._add_actor(actor)
        self._greenlets[key] = (weakref.ref(greenlet, end), actor)
        return actor

    def end_actor(self, actor: Actor, outcome: str) -> None:
        """Record that ``actor`` is over: what it still holds is in no one's hands, or was handed to another."""
        actor.outcome = outcome

    # Pools

    def add_pool(
        self, target: Any, library: str, name: str, max_open: int | None, *, frame: Any = None, is_pool: bool = True
    ) -> GuardedPool:
        """Begin to know the pool object ``target``, created where ``frame`` runs."""
        site = capture_site(frame) if frame is not None else NOWHERE
        pool = GuardedPool(library, name, max_open, site=site, now=monotonic(), is_pool=is_pool)
        key = id(target)
        with self.lock:
            self.pools[key] = pool
            if type(target).__weakrefoffset__:
                self._references[key] = weakref.ref(target, lambda _: self.drop_pool(key))
            at = self.pool_sites.get(id(site))
            if at is None and len(self.pool_sites) < MOST_POOL_SITES:
                at = self.pool_sites[id(site)] = PoolSite(site, library, name)
            if at is not None:
                at.created += 1
                at.owner = self.owner
                at.peak = max(at.peak, at.created - at.closed - at.dropped)
        if self.on_first_use is not None:
            first, self.on_first_use = self.on_first_use, None
            first()
        return pool

    def drop_pool(self, key: int) -> None:
        """Forget the pool object whose id is ``key``: it has been garbage-collected."""
        with self.lock:
            self._references.pop(key, None)
            self.forget_pool(key)
            pool = self.pools.pop(key, None)
            if pool is None:
                return
            at = self.pool_sites.get(id(pool.site))
            if at is None:
                return
            if pool.closed_at is None:
                at.dropped += 1
            total = self.gone.setdefault(id(pool.site), pool)
            if total is not pool:
                total.add(pool)

    def close_pool(self, target: Any) -> None:
        """Record that the pool object ``target`` was closed."""
        pool = self.pools.get(id(target))
        if pool is None or pool.closed_at is not None:
            return
        pool.closed_at = monotonic()
        at = self.pool_sites.get(id(pool.site))
        if at is not None:
            at.closed += 1

    def single_connections(self, library: str) -> GuardedPool:
        """Return the entry for the connections of ``library`` that belong to no pool."""
        pool = self._single.get(library)
        if pool is None:
            with self.lock:
                pool = self._single.setdefault(library, GuardedPool(library, "no pool", is_pool=False))
            if self.on_first_use is not None:
                first, self.on_first_use = self.on_first_use, None
                first()
        return pool

    def all_pools(self) -> list[GuardedPool]:
        """List the pools that exist, and an entry for the single connections of each library that has some."""
        return [*list(self.pools.values()), *list(self._single.values())]

    # Acquire and release

    def note_exhausted(self, pool: GuardedPool, hold: Hold) -> None:
        """Call ``on_exhausted`` if no connection of ``pool`` is left for ``hold``."""
        if self.on_exhausted is not None and pool.max_open is not None and pool.out >= pool.max_open:
            self.on_exhausted(pool, hold)

    def set_threshold(self, seconds: float) -> None:
        """Count holds of more than ``seconds`` as late when they are released after all. 0: none."""
        self.threshold = self.ledger.threshold = seconds

    def know(self, connection: Any) -> None:
        """Notice from now on when ``connection`` is garbage-collected."""
        key = id(connection)
        self._references[key] = weakref.ref(connection, lambda _: self._lose(key))

    def _lose(self, key: int) -> None:
        # The garbage collector calls this in whatever thread it runs, which may hold the lock already: it is an RLock.
        with self.lock:
            self._references.pop(key, None)
            self.ledger.lose(key, monotonic(), event="collected")

    def give_up(self, hold: Hold, *, event: str = "") -> None:
        """End the request ``hold``, which got no connection."""
        with self.lock:
            self.ledger.give_up(hold, monotonic(), event=event)

    def note_elsewhere(self, hold: Hold) -> None:
        """Note that another thread than the one that acquired it released the connection of ``hold`` to its pool."""
        if not hold.pool.is_pool:
            return
        with self.lock:
            self.ledger.note(
                "released-elsewhere", hold.pool, hold.site, capture_site(_getframe(1)), monotonic(), owner=hold.owner
            )

    def restore(self, hold: Hold, error: BaseException) -> None:
        """Hold the connection of ``hold`` again: its release raised ``error``, and the pool still counts it as out."""
        with self.lock:
            self.ledger.restore(hold, f"its release raised {type(error).__name__}")

    def disown(self, connection: Any) -> None:
        """Forget that ``connection`` was opened outside of a pool: it has turned out to be one of a pool's own."""
        with self.lock:
            hold = self.ledger.find_hold(id(connection))
            if hold is not None and not hold.pool.is_pool:
                self.ledger.forget(hold.key)

    def waiting(self) -> list[Hold]:
        """List the requests that wait, or that have not yet been granted."""
        with self.lock:
            actors = list(self._actors)
        tops = [actor.top for actor in actors]
        return [top for top in tops if top is not None and top.acquired_at is None]

    def release_again(self, connection: Any, frame: Any) -> None:
        """Note that ``connection`` was released although it is not held."""
        if id(connection) in self.ledger.inherited:
            self.use_inherited(connection, frame, event="released-in-child")
            return
        with self.lock:
            self.ledger.release_again(id(connection), capture_site(frame), monotonic(), owner=self.owner)

    def collect(self, key: int, *, event: str) -> None:
        """Record that the holder of the connection ``key`` was collected, and its library took the connection back."""
        with self.lock:
            self.ledger.lose(key, monotonic(), event=event)

    def is_in_pool(self, connection: Any) -> bool:
        """Return True if ``connection`` was acquired before and is back."""
        hold = self.ledger.latest.get(id(connection))
        return hold is not None and not hold.is_out and hold.pool.is_pool

    def note_use(self, connection: Any, frame: Any) -> None:
        """Note a use of ``connection`` while no one holds it. Called only where that is so."""
        with self.lock:
            self.ledger.use(id(connection), capture_site(frame), monotonic(), owner=self.owner)

    def use_inherited(self, connection: Any, frame: Any, *, event: str = "used-after-fork") -> None:
        """Note that this process uses a connection that its parent holds."""
        hold = self.ledger.inherited.get(id(connection))
        if hold is None:
            return
        with self.lock:
            self.ledger.note(event, hold.pool, hold.site, capture_site(frame), monotonic(), owner=self.owner)

    def note_inherited(self, pool: GuardedPool, frame: Any) -> None:
        """Note that this process uses a pool of its parent."""
        pool.inherited = False
        with self.lock:
            self.ledger.note("pool-after-fork", pool, pool.site, capture_site(frame), monotonic(), owner=self.owner)

    def connection_of(self, hold: Hold) -> Any:
        """Return the connection of ``hold``, or None if it is gone. The reference is strong: let go of it soon."""
        reference = self._references.get(hold.key)
        return reference() if reference is not None else None

    # Forks and faults

    def fork(self) -> None:
        """Begin as a child process. Its threads are gone, and what is held belongs to the parent."""
        self.lock = RLock()
        for pool in self.all_pools():
            pool.inherited = pool.is_pool and pool.closed_at is None and pool.opened_at > 0
        self.ledger.fork()
        for pool in self.all_pools():
            pool.out = 0
        for actor in list(self._actors):
            actor.top = None
        self._tasks.clear()
        self._greenlets.clear()
        self.forget_actors()

    def complain(self, about: str, error: object) -> None:
        """Remember, once, what the guard could not do: ``about`` is a library or a part of it."""
        if about not in self.complaints:
            self.complaints[about] = str(error) or type(error).__name__


RECORDER = Recorder()
"""The recorder of this process: hooks patch classes, which are one for each process too."""
