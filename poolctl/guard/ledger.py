"""The ledger: who holds which connection, who waits, and what became of connections that did not come back.

Pure: ``now`` comes in, data goes out. It decides what is nested, lost, released twice or released elsewhere.
The hooks decide when something happened; the report decides what of it is worth a word. Calls come under the recorder's
lock, except ``ask``, ``grant`` and ``release``: every program that uses a pool pays for these. Each of them changes a
shared table in one step, and the interpreter changes threads at calls, never within ``count += 1``. These three are in
``_hot_path.c`` once more.
"""

from collections import deque
from collections.abc import Iterator

from poolctl.guard.call_sites import NOWHERE, Site, Tally
from poolctl.guard.compiled import COMPILED

MOST_INCIDENTS = 500
"""Kinds of incidents kept: a kind is an event at a site, counted however often it happens."""


class Link:
    """Where the holds of one actor begin: ``top`` is the newest, None if it holds nothing and asks for nothing.

    ``thread``: the number that the system gave its thread. It may be used again when that thread has ended.
    """

    __slots__ = ("thread", "top")

    thread: int
    top: "Hold | None"


if COMPILED is not None:
    Link = COMPILED.Link  # type: ignore[misc]


class Actor(Link):
    """A thread, task or greenlet that acquires. ``outcome`` is "" while it runs, then how it ended."""

    __slots__ = ("__weakref__", "kind", "name", "outcome")

    def __init__(self, kind: str, name: str, thread: int = 0) -> None:
        self.kind = kind
        self.name = name
        self.thread = thread
        self.outcome = ""
        self.top = None


class GuardedPool(Tally):
    """What is known of one pool. ``max_open`` None: no limit, or not known. ``is_pool`` False: single connections."""

    __slots__ = (
        "closed_at",
        "is_pool",
        "library",
        "lost",
        "max_open",
        "name",
        "opened_at",
        "refused",
        "site",
        "timed_out",
    )

    def __init__(
        self,
        library: str,
        name: str,
        max_open: int | None = None,
        *,
        site: Site = NOWHERE,
        now: float = 0.0,
        is_pool: bool = True,
    ) -> None:
        self.library = library
        self.name = name
        self.max_open = max_open
        self.site = site
        self.opened_at = now
        self.closed_at: float | None = None
        self.is_pool = is_pool
        self.out = self.released = self.timed_out = self.refused = self.peak = self.lost = 0
        self.wait_time = self.use_time = 0.0
        self.inherited = False

    @property
    def acquired(self) -> int:
        """Acquires that got a connection, from the beginning."""
        return self.released + self.lost + self.out

    def add(self, other: "GuardedPool") -> None:
        """Count what ``other`` did as this pool's."""
        for name in ("released", "timed_out", "refused", "lost", "wait_time", "use_time"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.peak = max(self.peak, other.peak)


class Hold:
    """One acquire: a request while ``acquired_at`` is None, then a connection that is out while ``is_out``.

    ``below``: what the same actor had asked for before and not released. ``owner``: whose connection it is, such as
    a test. ``ending``: the error that left the code which should have released it. ``via``: a framework that keeps it.
    """

    # Its attributes are set in Ledger.ask and not in an __init__, which would cost as much as the rest of an acquire.
    __slots__ = (
        "acquired_at",
        "actor",
        "asked_at",
        "below",
        "ending",
        "is_out",
        "key",
        "owner",
        "pool",
        "site",
        "statement",
        "via",
    )

    acquired_at: float | None
    actor: Actor
    asked_at: float
    below: "Hold | None"
    ending: tuple[str, ...]
    is_out: bool
    key: int
    owner: object
    pool: GuardedPool
    site: Site
    statement: str
    via: str


if COMPILED is not None:
    Hold = COMPILED.Hold  # type: ignore[misc]

_new_hold = object.__new__


class Incident:
    """Something that went wrong, counted by ``event``, acquire site and the site where it was noticed.

    ``hold``: the last one that was lost by it, None for other events. ``judged``: how many of ``count`` the
    test suite was judged by already.
    """

    __slots__ = ("at", "count", "event", "first_at", "hold", "holders", "judged", "last_at", "owner", "pool", "site")

    def __init__(self, event: str, pool: GuardedPool, site: Site, at: Site | None, now: float) -> None:
        self.event = event
        self.pool = pool
        self.site = site
        self.at = at
        self.count = self.judged = 0
        self.first_at = self.last_at = now
        self.hold: Hold | None = None
        self.holders: tuple[tuple[Site, float], ...] = ()
        self.owner: object = None


class Nesting:
    """An actor that held a connection of a pool (``outer``) and asked the same pool for a second one (``inner``).

    ``jammed``: how often every holder of the pool was found waiting for the pool.
    """

    __slots__ = ("count", "inner", "jammed", "last_at", "outer", "owner", "pool")

    def __init__(self, pool: GuardedPool, outer: Site, inner: Site) -> None:
        self.pool = pool
        self.outer = outer
        self.inner = inner
        self.count = self.jammed = 0
        self.last_at = 0.0
        self.owner: object = None


class Ledger:
    """All holds of a process. ``threshold``: a hold of more seconds counts as late when it is released after all."""

    def __init__(self, *, threshold: float = 60.0) -> None:
        self.threshold = threshold
        self.latest: dict[int, Hold] = {}
        """The last hold of each connection that exists, by its key: out, or back in its pool."""
        self.inherited: dict[int, Hold] = {}
        self.incidents: dict[tuple[str, int, int], Incident] = {}
        self.nestings: dict[tuple[int, int, int], Nesting] = {}
        self.late: deque[tuple[Hold, float]] = deque(maxlen=MOST_INCIDENTS)
        """The last holds that were longer than the threshold, and their seconds."""
        self.dropped = 0
        """Incidents of further kinds than MOST_INCIDENTS."""

    def ask(self, pool: GuardedPool, site: Site, actor: Actor, owner: object, now: float) -> Hold:
        """Begin an acquire of ``actor``: it waits from now on, until ``grant`` or ``give_up``."""
        hold = _new_hold(Hold)
        hold.pool = pool
        hold.site = site
        hold.actor = actor
        hold.owner = owner
        hold.asked_at = now
        hold.acquired_at = None
        hold.is_out = False
        hold.ending = ()
        hold.statement = hold.via = ""
        below = hold.below = actor.top
        actor.top = hold
        if below is not None:
            self.note_nesting(hold, now)
        return hold

    def grant(self, hold: Hold, key: int, now: float) -> None:
        """Record that ``hold`` now has the connection ``key``."""
        before = self.latest.get(key)
        if before is not None and before.is_out:
            self.drop(before)
        hold.acquired_at = now
        hold.key = key
        hold.is_out = True
        self.latest[key] = hold
        pool = hold.pool
        pool.out += 1
        if pool.out > pool.peak:
            pool.peak = pool.out

    def find_hold(self, key: int) -> Hold | None:
        """Return the hold of the connection ``key``, None if it is not out."""
        hold = self.latest.get(key)
        return hold if hold is not None and hold.is_out else None

    def holds(self) -> list[Hold]:
        """List what is out."""
        return [hold for hold in list(self.latest.values()) if hold.is_out]

    def holds_of(self, pool: GuardedPool) -> list[Hold]:
        """List what is out of ``pool``."""
        return [hold for hold in self.holds() if hold.pool is pool]

    def give_up(self, hold: Hold, now: float, *, event: str = "") -> Incident | None:
        """End the request ``hold`` without a connection. ``event``: "timed-out" or "refused" for an incident."""
        pool = hold.pool
        self.unlink(hold)
        pool.wait_time += now - hold.asked_at
        if event == "timed-out":
            pool.timed_out += 1
        elif event == "refused":
            pool.refused += 1
        else:
            return None
        incident = self.note(event, pool, hold.site, None, now, owner=hold.owner)
        if incident is not None:
            incident.holders = tuple(
                (one.site, now - one.acquired_at) for one in self.holds_of(pool) if one.acquired_at is not None
            )
        return incident

    def release(self, key: int, now: float) -> Hold | None:
        """Take the connection ``key`` back. None if the ledger does not know it as out."""
        hold = self.latest.get(key)
        if hold is None or not hold.is_out:
            return None
        # No call stands between the question and this line, so of two threads that release at once one is the second.
        hold.is_out = False
        pool, site, actor = hold.pool, hold.site, hold.actor
        pool.out -= 1
        # Nearly always the newest of its actor: then nothing has to be searched.
        if actor.top is hold:
            actor.top = hold.below
            hold.below = None
        else:
            self.unlink(hold)
        acquired_at = hold.acquired_at
        if acquired_at is None:
            return None
        used = now - acquired_at
        waited = acquired_at - hold.asked_at
        pool.released += 1
        pool.use_time += used
        pool.wait_time += waited
        site.released += 1
        site.use_time += used
        site.wait_time += waited
        if used > site.longest:
            site.longest = used
        if used > self.threshold > 0:
            self.note_late(hold, used)
        return hold

    def note_late(self, hold: Hold, used: float) -> None:
        """Note that ``hold`` was released after ``used`` seconds, more than the threshold."""
        hold.site.late += 1
        self.late.append((hold, used))

    def restore(self, hold: Hold, reason: str) -> None:
        """Hold the connection of ``hold`` again: its release failed, and the pool still counts it as out."""
        hold.is_out = True
        hold.pool.out += 1
        hold.below, hold.actor.top = hold.actor.top, hold
        hold.pool.released -= 1
        hold.site.released -= 1
        hold.ending = (reason,)

    def forget(self, key: int) -> None:
        """Count the connection ``key`` as never acquired: it has turned out to be another's."""
        hold = self.latest.pop(key, None)
        if hold is not None and hold.is_out:
            self.drop(hold)

    def drop(self, hold: Hold) -> None:
        """End ``hold``, whose release was not seen or whose connection is gone, without counting a release."""
        hold.is_out = False
        hold.pool.out -= 1
        self.unlink(hold)

    def release_again(self, key: int, at: Site, now: float, *, owner: object = None) -> bool:
        """Note that a connection which is not out was released. False if it was never seen out."""
        before = self.latest.get(key)
        if before is None:
            return False
        self.note("released-twice", before.pool, before.site, at, now, owner=owner)
        return True

    def use(self, key: int, at: Site, now: float, *, owner: object = None) -> None:
        """Note that a connection in its pool was used by its former holder."""
        before = self.latest.get(key)
        if before is not None:
            self.note("used-after-release", before.pool, before.site, at, now, owner=owner)

    def lose(self, key: int, now: float, *, event: str) -> Hold | None:
        """Forget the connection ``key``, since it was garbage-collected, and note ``event`` if it was held."""
        self.inherited.pop(key, None)
        hold = self.latest.pop(key, None)
        if hold is None or not hold.is_out:
            return None
        self.drop(hold)
        hold.site.collected += 1
        incident = self.note(event, hold.pool, hold.site, None, now, owner=hold.owner)
        hold.pool.lost += 1
        if incident is not None:
            incident.hold = hold
        return hold

    def fork(self) -> None:
        """Begin as a child process: what the parent holds is inherited, nothing is held here."""
        self.inherited = {hold.key: hold for hold in self.holds()}
        self.latest.clear()
        self.late.clear()
        self.incidents.clear()
        self.nestings.clear()
        self.dropped = 0

    def note(
        self, event: str, pool: GuardedPool, site: Site, at: Site | None, now: float, *, owner: object = None
    ) -> Incident | None:
        """Count an incident. None if too many kinds of them are known already."""
        key = (event, id(site), id(at))
        incident = self.incidents.get(key)
        if incident is None:
            if len(self.incidents) >= MOST_INCIDENTS:
                self.dropped += 1
                return None
            incident = self.incidents[key] = Incident(event, pool, site, at, now)
        incident.count += 1
        incident.last_at = now
        incident.owner = owner
        return incident

    def is_jammed(self, pool: GuardedPool) -> bool:
        """Return True if each holder of the full ``pool`` itself waits for it: none of them can go on."""
        if pool.max_open is None or pool.out < pool.max_open:
            return False
        holds = self.holds_of(pool)
        # An actor does one thing at a time, so what it waits for is the newest that it asked for.
        tops = [hold.actor.top for hold in holds]
        return bool(holds) and all(top is not None and top.acquired_at is None and top.pool is pool for top in tops)

    def note_nesting(self, hold: Hold, now: float) -> None:
        """Note that the actor of ``hold`` asks although it holds or waits already, if both are of one pool."""
        for outer in chain_of(hold.below):
            if outer.pool is hold.pool and outer.is_out:
                break
        else:
            return
        if not hold.pool.is_pool:
            return
        key = (id(hold.pool), id(outer.site), id(hold.site))
        nesting = self.nestings.get(key)
        if nesting is None:
            if len(self.nestings) >= MOST_INCIDENTS:
                self.dropped += 1
                return
            nesting = self.nestings[key] = Nesting(hold.pool, outer.site, hold.site)
        nesting.count += 1
        nesting.last_at = now
        nesting.owner = hold.owner
        nesting.jammed += self.is_jammed(hold.pool)

    @staticmethod
    def unlink(hold: Hold) -> None:
        """Take ``hold`` out of the chain of its actor."""
        actor = hold.actor
        if actor.top is hold:
            actor.top = hold.below
        else:
            for one in chain_of(actor.top):
                if one.below is hold:
                    one.below = hold.below
                    break
        hold.below = None


def chain_of(hold: Hold | None) -> Iterator[Hold]:
    """Yield ``hold`` and what its actor had asked for before it, newest first."""
    while hold is not None:
        yield hold
        hold = hold.below
