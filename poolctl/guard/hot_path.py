"""The hot path: what each acquire and release of the program passes.

Adds the clock, the call site and the actor to what a hook saw, and writes it into the ledger. Everything that is rare
is left to the recorder, which is a HotPath. ``_hot_path.c`` has this class once more, and is taken where it was built.
"""

from _thread import get_ident
from collections.abc import Callable
from time import monotonic
from typing import Any

from poolctl.guard.call_sites import capture_site, is_user_file
from poolctl.guard.compiled import COMPILED
from poolctl.guard.ledger import Actor, GuardedPool, Hold, Ledger


class HotPath:
    """The tables that an acquire or release needs. ``owner``: whose the next acquires are, such as a test."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.latest = self.ledger.latest
        self.pools: dict[int, GuardedPool] = {}
        self.owner: object = None
        self.on_exhausted: Callable[[GuardedPool, Hold], None] | None = None
        self.running_loop: Callable[[], Any] | None = None
        self.current_tasks: dict[Any, Any] | None = None
        self.current_task: Callable[[Any], Any] | None = None
        """asyncio's three, once the program has imported asyncio: the loop that runs in this thread, the task that each
        loop runs (None: not to be had from this Python), and the task of the loop that is the argument."""
        self.current_greenlet: Callable[[], Any] | None = None
        """greenlet's, once the program has imported gevent or eventlet."""
        self.threshold = self.ledger.threshold
        # Where the compiled one looks a call site up before it asks Python.
        self.is_user_file, self.capture_site = is_user_file, capture_site

    def ask_for(self, target: Any, know_pool: Callable[[Any], GuardedPool | None], frame: Any) -> Hold | None:
        """Begin an acquire from the pool object ``target``. None if it is not watched.

        ``know_pool`` finds a pool that is seen for the first time. ``frame`` is where the program acquires.
        """
        pool = self.pools.get(id(target)) or know_pool(target)
        return self.ask(pool, frame) if pool is not None else None

    def ask(self, pool: GuardedPool, frame: Any) -> Hold:
        """Begin an acquire from ``pool`` for the code that runs in ``frame``."""
        if pool.inherited:
            self.note_inherited(pool, frame)
        hold = self.ledger.ask(pool, capture_site(frame), self.current_actor(), self.owner, monotonic())
        if self.on_exhausted is not None:
            self.note_exhausted(pool, hold)
        return hold

    def grant(self, hold: Hold, connection: Any) -> None:
        """Record that ``hold`` has ``connection``."""
        key = id(connection)
        if key not in self.latest:
            self.know(connection)
        self.ledger.grant(hold, key, monotonic())

    def take(self, target: Any, connection: Any, know_pool: Callable[[Any], GuardedPool | None], frame: Any) -> None:
        """Record that ``connection`` has come from the pool object ``target``, which has no queue to wait in."""
        hold = self.ask_for(target, know_pool, frame)
        if hold is not None:
            key = id(connection)
            if key not in self.latest:
                self.know(connection)
            self.ledger.grant(hold, key, hold.asked_at)

    def release(self, connection: Any) -> Hold | None:
        """Record that ``connection`` came back. None if it was not known as held."""
        return self.release_key(id(connection))

    def release_key(self, key: int) -> Hold | None:
        """Record that the connection whose id is ``key`` came back. None if it was not known as held."""
        hold = self.ledger.release(key, monotonic())
        if hold is not None and hold.actor.thread != get_ident():
            self.note_elsewhere(hold)
        return hold

    def forget_pool(self, key: int) -> None:
        """Remember no longer the pool object whose id was ``key``: another may get the id."""
        # Only the compiled one does remember.

    def forget_actor(self, number: int) -> None:
        """Remember no longer who the thread or task ``number`` is: another may get the number."""

    def forget_actors(self) -> None:
        """Remember no thread or task any longer."""

    # The recorder's part

    def current_actor(self) -> Actor:
        """Find the thread, task or greenlet that runs now."""
        raise NotImplementedError

    def know(self, connection: Any) -> None:
        """Begin to know ``connection``, which is acquired for the first time."""
        raise NotImplementedError

    def note_inherited(self, pool: GuardedPool, frame: Any) -> None:
        """Note that this process uses a pool of its parent."""
        raise NotImplementedError

    def note_exhausted(self, pool: GuardedPool, hold: Hold) -> None:
        """Call ``on_exhausted`` if no connection of ``pool`` is left for ``hold``."""
        raise NotImplementedError

    def note_elsewhere(self, hold: Hold) -> None:
        """Note that another thread than the one that acquired it released the connection of ``hold`` to its pool."""
        raise NotImplementedError


if COMPILED is not None:

    class CompiledHotPath(COMPILED.HotPath):  # type: ignore[misc]
        """The compiled one, with the same tables."""

        __init__ = HotPath.__init__

    HotPath = CompiledHotPath  # type: ignore[misc]
