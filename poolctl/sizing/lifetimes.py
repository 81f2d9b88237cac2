"""Lifetimes and timeouts: how long connections live, how many stay idle, how long an acquire waits.

Each setting has a reason: what a failover leaves behind, what a load balancer cuts, what reopening costs.
"""

from dataclasses import dataclass
from math import ceil

from poolctl.errors import BadInput
from poolctl.sizing.figures import Figure, Figures
from poolctl.sizing.queueing import reopened_share
from poolctl.units import format_duration, percent

REOPENING_COST = 0.01
"""Largest share of the hold time that is spent opening connections that max_idle had closed."""
CHURN_CPU = 0.001
"""Largest share of the database's cores that is spent on replacing connections at the end of their lifetime."""
LONGEST_LIFE = 1800.0
"""Seconds, HikariCP's default. It limits the growth of a backend's memory and cached plans."""
JITTER = 0.20
"""Share of the lifetime that is added at random, so that connections opened together do not end together."""
AGE_MARGIN, AGE_MARGIN_SHARE = 30.0, 0.1
"""Seconds that a connection ends before an age limit, and the largest part of a short limit that they may be."""
SHORTEST_LIMIT = 5.0
"""Seconds. Pools check lifetimes every second or less often, and several of them round to whole seconds."""
IDLE_TIME = 600.0
"""Seconds an unused connection is kept by default."""
SHORTEST_IDLE_TIME = 60.0
"""Seconds."""
RECONNECT_SHARE = 0.2
"""Share of the connects that the server can do per second, for replacing old connections."""
CONNECTS_PER_CORE = 50.0
"""Connects per second for each core, where the connect time is not known (100 to 180 were measured on two cores)."""


@dataclass(frozen=True, slots=True)
class Reason:
    """The reason for the value of a setting: one sentence without a full stop."""

    setting: str
    why: str


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds, None for off. ``max_lifetime_jitter`` is the most that is added to the lifetime of each connection.

    ``reopened`` is the share of acquires that open a connection because of max_idle; None: the load is not known.
    """

    max_idle: int
    min_idle: int
    max_lifetime: float
    max_lifetime_jitter: float
    max_idle_time: float
    acquire_timeout: float
    reopened: float | None
    reasons: tuple[Reason, ...]


def choose_lifetimes(
    figures: Figures, *, max_open: int, load: float | None, hold_time: float | None, processes: int, slots: int
) -> Lifetimes:
    """Choose the settings for ``processes`` pools of ``max_open`` each, in ``slots``. ``load``: erlangs for one
    pool.
    """
    reasons: list[Reason] = []
    max_idle = _choose_max_idle(figures, max_open, load, hold_time, processes, slots, reasons)
    min_idle = _choose_min_idle(figures, max_idle, load, reasons)
    lifetime, jitter = _choose_lifetime(figures, processes * max_open, reasons)
    idle_time = _choose_idle_time(figures, lifetime, reasons)
    timeout = _choose_acquire_timeout(figures, reasons)
    reopened = None if load is None or load > 1000 else reopened_share(load, max_idle)
    return Lifetimes(max_idle, min_idle, lifetime, jitter, idle_time, timeout, reopened, tuple(reasons))


def find_least_idle(load: float, hold_time: float, connect_time: float) -> int:
    """Return the smallest max_idle with which reopening costs at most ``REOPENING_COST`` of the hold time."""

    def is_enough(idle: int) -> bool:
        return reopened_share(load, idle) * connect_time <= REOPENING_COST * hold_time

    if is_enough(0):
        return 0
    few, enough = 0, 1
    while not is_enough(enough):
        few, enough = enough, 2 * enough
    while few + 1 < enough:
        middle = (few + enough) // 2
        few, enough = (few, middle) if is_enough(middle) else (middle, enough)
    return enough


def _choose_max_idle(
    figures: Figures,
    max_open: int,
    load: float | None,
    hold_time: float | None,
    processes: int,
    slots: int,
    reasons: list[Reason],
) -> int:
    if processes * max_open <= 0.8 * slots or load is None or load > 1000 or not hold_time:
        why = "as max_open: with fewer, releases would close connections that the next acquires open again"
        reasons.append(Reason("max_idle", why))
        return max_open
    connect_time = figures.connect_time.value if figures.connect_time is not None else 0.01
    idle = min(max_open, max(1, find_least_idle(load, hold_time, connect_time)))
    if idle < max_open:
        why = (
            f"below max_open: the worst fleet takes {processes * max_open} of {slots} slots, and {idle} idle ones keep "
            f"reopening under {percent(REOPENING_COST)} of the hold time"
        )
    else:
        why = "as max_open: fewer would cost more than 1 % of the hold time in reopening"
    reasons.append(Reason("max_idle", why))
    return idle


def _choose_min_idle(figures: Figures, max_idle: int, load: float | None, reasons: list[Reason]) -> int:
    connect, target = figures.connect_time, figures.wait_target
    if load is None or connect is None or target is None or connect.value <= target.value:
        reasons.append(
            Reason("min_idle", "a connection opens within the wait target, or the connect time is not known")
        )
        return 0
    least = min(max_idle, max(1, ceil(load)))
    why = (
        f"opening takes {format_duration(connect.value)}, more than the wait target: the mean number in use stays open"
    )
    reasons.append(Reason("min_idle", why))
    return least


def _choose_lifetime(figures: Figures, connections: int, reasons: list[Reason]) -> tuple[float, float]:
    """Return lifetime and jitter in seconds; their sum stays below every upper limit.

    Raises BadInput for a limit so short that no library could keep it.
    """
    longest, why = LONGEST_LIFE, "half an hour limits how far the memory of a backend grows"
    age = figures.connection_age_limit
    margin = 0.0 if age is None else min(AGE_MARGIN, AGE_MARGIN_SHARE * age.value)
    for option, limit, allowed, name in (
        ("failover-target", figures.failover_target, 1.0, "so that clients reach the new server soon after a failover"),
        ("credential-lifetime", figures.credential_lifetime, 0.8, "four fifths of the lifetime of the credentials"),
        ("connection-age-limit", age, 1.0, f"{format_duration(margin)} before the age limit closes the connection"),
    ):
        if limit is None:
            continue
        if limit.value < SHORTEST_LIMIT:
            raise BadInput(
                f"--{option} {format_duration(limit.value)}: no pool can replace its connections that fast",
                hint=f"give {format_duration(SHORTEST_LIMIT)} or more",
            )
        latest = allowed * limit.value - (margin if limit is age else 0.0)
        if latest < longest:
            # Whole seconds: several libraries round to them, and a rounded value must not exceed the limit.
            longest, why = float(int(latest)), name
    # Wide enough to spread the reconnects of connections that were opened together; at most half the lifetime.
    spread = connections / (RECONNECT_SHARE * _connects_per_second(figures))
    jitter = max(JITTER, spread / (longest - spread)) if 2 * spread < longest else 1.0
    lifetime = longest / (1 + jitter)
    shortest = _find_shortest_life(figures, connections)
    if shortest is not None and lifetime < shortest:
        share = percent(CHURN_CPU, 1)
        why += f"; replacing {connections} connections so often costs more than {share} of the database's cores"
    reasons.append(Reason("max_lifetime", f"{format_duration(longest)} at most with the jitter: {why}"))
    apart = (
        f"{connections} connections opened together end within {format_duration(jitter * lifetime)}, not all at once"
    )
    reasons.append(Reason("max_lifetime_jitter", apart))
    return lifetime, jitter * lifetime


def _connects_per_second(figures: Figures) -> float:
    cores = figures.cores.value if figures.cores is not None else 2.0
    if figures.connect_time is not None and figures.connect_time.value > 0:
        return max(1.0, cores / figures.connect_time.value)
    return max(1.0, CONNECTS_PER_CORE * cores)


def _find_shortest_life(figures: Figures, connections: int) -> float | None:
    """Return the lifetime below which opening takes more than ``CHURN_CPU`` of the cores; None if that is not known."""
    if figures.connect_time is None or figures.cores is None or figures.cores.value <= 0:
        return None
    return connections * figures.connect_time.value / (CHURN_CPU * figures.cores.value)


def _choose_idle_time(figures: Figures, lifetime: float, reasons: list[Reason]) -> float:
    wanted, why = IDLE_TIME, "ten minutes keep the connections that normal swings of the load need"
    if figures.burst_gap is not None:
        wanted = max(SHORTEST_IDLE_TIME, 1.5 * figures.burst_gap.value)
        why = "1.5 times the 95th percentile of the gaps between bursts"
    limits: tuple[tuple[Figure | None, str], ...] = (
        (figures.network_idle_limit, "a tenth before the network drops idle connections"),
        (figures.session_idle_limit, "a tenth before the server's idle_session_timeout"),
    )
    for limit, name in limits:
        if limit is not None and 0 < 0.9 * limit.value < wanted:
            wanted, why = 0.9 * limit.value, name
    if wanted > lifetime:
        wanted, why = lifetime, "no longer than max_lifetime"
    reasons.append(Reason("max_idle_time", why))
    return wanted


def _choose_acquire_timeout(figures: Figures, reasons: list[Reason]) -> float:
    """Return a timeout that is long compared to a normal wait and short compared to the timeout of the request."""
    target = figures.wait_target.value if figures.wait_target is not None else 0.05
    opening = figures.connect_time.value if figures.connect_time is not None else 0.0
    wanted = min(5.0, max(1.0, 20 * target, 10 * opening))
    why = "20 wait targets, from 1 to 5 s: a longer wait is a fault, and the client should get an error"
    for limit, name in ((figures.request_timeout, "request timeout"), (figures.probe_timeout, "probe timeout")):
        if limit is not None and limit.value > 0 and 0.5 * limit.value < wanted:
            wanted, why = 0.5 * limit.value, f"half of the {name}, so that the client gets the error of the pool first"
    if wanted < target:
        why += "; it is shorter than the wait target, so one of the two cannot be kept"
    reasons.append(Reason("acquire_timeout", why))
    return wanted
