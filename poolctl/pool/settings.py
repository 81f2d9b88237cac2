"""The settings of a pool (PoolSettings) and how its library behaves (PoolRules). The presets are in ``libraries``."""

from dataclasses import dataclass
from math import inf
from typing import Literal

IdleOrder = Literal["lifo", "fifo"]
WaiterOrder = Literal["random", "fifo", "lifo", "none"]
Opener = Literal["caller", "background"]


@dataclass(frozen=True, slots=True)
class PoolRules:
    """The differences between pools that settings cannot express."""

    idle_order: IdleOrder = "lifo"
    """Which idle connection is acquired: the last released, or the one idle longest."""
    waiter_order: WaiterOrder = "random"
    """Who in the queue is served next. "none": no request queues, an acquire that finds the pool full is rejected."""
    opener: Opener = "caller"
    """Who opens below max_open: the request itself, in parallel with others, or the one background opener in
    series (the request queues meanwhile). Replacements for waiters always come from the background opener."""
    lifetime_checked: frozenset[Literal["acquire", "release", "cleaner", "timer"]] = frozenset(
        {"acquire", "release", "cleaner"}
    )

    barging: bool = False
    """A released connection goes idle and a waiter is notified: a newcomer may take it before the waiter wakes."""
    generations: bool = False
    """Lifo within what was released since the last sweep, and older ones before newer ones (puddle)."""
    by_thread: bool = False
    """A worker gets back its own last connection if that is idle, and otherwise the oldest of all (HikariCP)."""
    replaced_by: Literal["background", "caller"] = "background"
    """Who opens when a slot becomes free while requests wait: the background opener, or the waiter itself."""
    openers: int = 1
    """Background openings at the same time; 0: as many as are wanted."""
    growth: Literal["ordered", "one", "wanted", "increment"] = "ordered"
    """How many the background opens for waiters. "ordered": Go's, which forgets what is already under way. "one":
    one at a time. "wanted": one for each waiter, those under way subtracted. "increment": at least 3 (c3p0)."""
    orders_lapse: bool = False
    """Whether a background opener drops an opening that is not wanted any more when its turn comes (HikariCP)."""
    open_pause: float = 0.0
    """Seconds that a background opener rests after each opening."""
    open_retry: tuple[float, float] | None = None
    """A failed background opening is tried again after the first so many seconds, twice as many each time, at most
    the second. None: one waiter gets the error."""
    fill: Literal["none", "before", "background"] = "none"
    """Whether the connections of the floor exist before the load, or are opened when it begins."""
    floor_is: Literal["min_idle", "max_idle"] = "min_idle"
    """The setting that gives the floor (psycopg2: its minconn is both)."""
    floor: Literal["none", "open", "idle"] = "none"
    """Of what min_idle is the least when idle connections are closed: all connections, or the idle ones."""
    is_refilled: bool = False
    """Whether a sweep, or a closing, opens again what is missing to the floor."""
    idle_closing: Literal["go", "timer", "sweep", "one", "median", "none"] = "go"
    """How max_idle_time is enforced: Go's cleaner, a timer for each connection, every ``sweep`` seconds, one
    connection each max_idle_time (psycopg_pool), or as many as half of the samples had idle (Npgsql)."""
    sweep: float = 0.0
    """Seconds between sweeps; 0: the shorter one of max_lifetime and max_idle_time."""
    sweeps_by_age: bool = False
    """Whether a shorter max_lifetime makes the sweeps as frequent (Tomcat, checkPoolConfiguration)."""
    closes_newest: bool = False
    idle_kept: Literal["max_idle", "all", "sweep"] = "max_idle"
    """Whether max_idle is enforced at release, never, or by the next sweep."""
    jitter: tuple[float, float] = (0.0, 0.0)
    """What is added to max_lifetime, as shares of it, between these two. The setting max_lifetime_jitter is apart."""
    validated_after: float | None = 0.0
    """A dead connection is noticed at acquire after so many seconds idle; None: only by the request that gets it."""
    dead: Literal["one", "all", "dropped"] = "one"
    """A request that meets a dead connection gives up that one, or all that are idle; "dropped": the library sees
    at once that the server is gone."""
    stale: Literal["next", "reopened"] = "next"
    """What follows on an expired connection at acquire: the next one, or the same slot opened again."""
    stale_attempts: int = 2
    """How many such an acquire may meet before it opens a new one; 0: any number."""
    timeout: Literal["all", "queue", "each"] = "all"
    """Whether acquire_timeout covers queue and opening together, the queue alone, or each of the two apart."""
    abandoned_opening: Literal["ended", "kept"] = "ended"
    timed_out_waiter: Literal["leaves", "ghost", "opens"] = "leaves"
    """"ghost": still counted by max_waiting until the next release. "opens": looks once more whether it may open."""
    replaces_spent: bool = False
    """Whether each connection that a release or a sweep closes for its age, or as broken, is replaced at once."""
    probes_first: bool = False
    """Whether the first acquire opens a connection only to validate it, closes it, and keeps all others out."""
    returned_by_opener: bool = False
    """Whether a background opener takes a released connection back, so that a release waits while all of them open."""
    wakes_on_failure: bool = True
    """Whether a failed opening lets the next waiter open."""
    dropped_reference: Literal["kept", "closed", "returned"] = "kept"
    """What becomes of a connection whose last reference is dropped without a release."""
    opens_locked: bool = False
    """No request can acquire or release while a connection is opened."""
    codel: tuple[float, float] | None = None
    """Target and interval in seconds of a CoDel queue (DBConnection)."""
    abandoned_after: float | None = None
    """A holder is disconnected so many seconds after it acquired."""

    def kept_idle(self, settings: "PoolSettings") -> float:
        """Return how many idle connections a release may leave. Go lowers max_idle to max_open by itself."""
        if self.idle_kept != "max_idle":
            return inf
        return min(settings.max_idle, settings.max_open or inf)

    def sweep_interval(self, settings: "PoolSettings") -> float:
        """Return the seconds between two sweeps; inf: the settings limit nothing that a sweep would look at."""
        lifetime, idle_time = settings.max_lifetime or inf, settings.max_idle_time or inf
        if self.idle_closing == "one":
            return idle_time
        return min(self.sweep, lifetime) if self.sweeps_by_age else self.sweep or min(lifetime, idle_time)

    def floor_of(self, settings: "PoolSettings") -> int:
        """Return how many connections the library opens ahead or keeps."""
        return settings.max_idle if self.floor_is == "max_idle" else settings.min_idle

    def deadline(self, settings: "PoolSettings", now: float, earlier: float | None, *, opens: bool) -> float | None:
        """Return when an acquire that now queues, or ``opens`` for itself, is to give up; None: no new limit.

        ``earlier`` is the deadline that the same acquire has already; None: it has none.
        """
        if settings.acquire_timeout is None or (opens and self.timeout == "queue"):
            return None
        if earlier is not None and self.timeout != "each":
            return None
        return now + settings.acquire_timeout


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Sizes are counts, times are seconds, and None switches a limit off.

    Raises ValueError, naming the field, for a value that cannot be.
    """

    kind: str = "database/sql"
    max_open: int = 0
    """Most connections at once: opening, idle and in use together. 0 is unlimited, as in Go."""
    max_idle: int = 2
    """How many idle connections are kept when one is released; the others are closed. 0 keeps none."""
    min_idle: int = 0
    """A floor the library keeps ready, or opens at the start: see the kind."""
    max_lifetime: float | None = None
    max_idle_time: float | None = None
    acquire_timeout: float | None = None
    """Patience of one acquire. None waits for ever."""
    max_lifetime_jitter: float | None = None
    """Seconds at most that are added to each connection's max_lifetime, where the library has the setting."""
    max_uses: int = 0
    """A connection is closed after so many uses; 0: unlimited."""
    max_waiting: int = 0
    """An acquire is rejected when so many wait already; 0: unlimited."""

    def __post_init__(self) -> None:
        for name in ("max_open", "max_idle", "min_idle", "max_uses", "max_waiting"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is a count and cannot be {getattr(self, name)}")
        for name in ("max_lifetime", "max_idle_time", "acquire_timeout", "max_lifetime_jitter"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise ValueError(f"{name} is a time that cannot be negative or infinite, and is {value}")
