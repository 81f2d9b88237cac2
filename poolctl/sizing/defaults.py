"""Default values for figures that were neither given nor measured, each with its reason.

The recommendation lists every default that was used. Load, hold time, workers, cores and capacity have no default.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt

from poolctl.sizing.division import UNEVEN_SHARE
from poolctl.sizing.figures import Figure, Figures, assumed, estimate_hold
from poolctl.sizing.queueing import servers_for_wait

WAIT_TARGET = 0.050
"""Seconds. It is the target delay of Ecto's queue (queue_target of DBConnection), short for any request a person waits
for."""
WAIT_SHARE = 0.1
"""Largest share of the request's timeout that may be spent waiting for a connection."""
SURGE_SHARE = 0.25
"""Default maxSurge of a Kubernetes Deployment; Kubernetes rounds it up."""


HELD_OUTSIDE = 0.5
"""Time a client holds a connection while the server sees it idle (to read results, to prepare the next statement, to
release it), over the time the server sees it busy. Measured with psycopg_pool and statements of 5 ms: 0.3; shorter
statements have more."""


RESTING = 0.8
"""Share of the open connections in use at most, up to which the others are seen to rest."""
LEAST_OUTSIDE = 0.001
"""Least seconds of it for each acquire: a pool and a driver take as long, however short the statement is."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """A default that was used. ``name`` is the field of ``Figures``; ``why`` gives the source of the value and what
    would replace it."""

    name: str
    value: float
    why: str


_FIXED = {
    "hold_cv": (1.0, "hold times vary as an exponential distribution; give --hold-cv"),
    "arrival_cv": (1.0, "arrivals independent of one another; give --arrival-cv"),
    "connections_per_request": (1.0, "no request holds two connections at once; give --connections-per-request"),
    "processes": (1.0, "one process with a pool in each instance; give --processes"),
    "instances": (1.0, "a single instance; give --instances"),
    "superuser_reserved": (3.0, "PostgreSQL's own default; give --superuser-reserved"),
    "reserved": (0.0, "PostgreSQL's own default; give --reserved"),
    "other_connections": (0.0, "no other client uses this server; give --other-connections"),
}


def fill_defaults(figures: Figures) -> tuple[Figures, tuple[Assumption, ...]]:
    """Return ``figures`` with all defaults filled in, and the list of the defaults used.

    Figures without a default (load, hold time, workers, cores, capacity) stay None. A surge share becomes a count.
    """
    used: dict[str, Assumption] = {}

    def assume(name: str, value: float, why: str) -> Figure:
        used[name] = Assumption(name, value, why)
        return assumed(value)

    changes = {
        name: assume(name, value, why) for name, (value, why) in _FIXED.items() if getattr(figures, name) is None
    }
    figures = figures.with_(**changes)
    if figures.is_server_view and figures.hold_time is None and figures.held_outside is None:
        figures = figures.with_(held_outside=assume("held_outside", *_choose_held_outside(figures)))
    if figures.wait_target is None:
        target, why = WAIT_TARGET, "99 % of acquires wait at most 50 ms; give --wait-target"
        if figures.request_timeout is not None and WAIT_SHARE * figures.request_timeout.value < target:
            target, why = WAIT_SHARE * figures.request_timeout.value, "a tenth of the request timeout"
        hold = estimate_hold(figures)
        if figures.arrival_rate is None and hold is not None and hold.origin == "measured" and hold.value < target:
            # Clients that wait for a connection ask less often, so a longer wait would not carry the measured load.
            target, why = hold.value, "one hold time, so that the measured load is carried; give --wait-target"
        figures = figures.with_(wait_target=assume("wait_target", target, why))
    figures = _fill_fleet(figures, assume)
    if figures.max_connections is None:
        figures = figures.with_(max_connections=assume("max_connections", *_choose_max_connections(figures)))
    if figures.max_connections is not None and figures.headroom is None:
        room = choose_headroom(figures.max_connections.count)
        why = "for people, migrations and monitors: 3, or 3 % of max_connections; give --headroom"
        figures = figures.with_(headroom=assume("headroom", room, why))
    if figures.arrival_rate is not None:
        why = "taken as the rate at the peak, first attempts only: retries multiply it while something is slow"
        used["arrival_rate"] = Assumption("arrival_rate", figures.arrival_rate.value, why)
    return figures, tuple(used.values())


def may_be_full(figures: Figures) -> bool:
    """Return True if the server shows that clients may have had all open connections in use, so that others waited."""
    most, opened = figures.in_use_at_most, figures.open_connections
    return most is not None and opened is not None and figures.is_server_view and most.value > RESTING * opened.value


def _choose_held_outside(figures: Figures) -> tuple[float, str]:
    """Choose how much longer clients hold connections than the server sees them busy, and give the reason.

    What was in use at most decides where it is known, and where all connections are hardly more than the busy ones
    need: a pool for it carries the load whatever the holds were. A pool that may have been full needs no less than
    usual.
    """
    hold = estimate_hold(figures)
    least = 0.0 if hold is None or hold.value <= 0 else LEAST_OUTSIDE / hold.value
    usual = max(HELD_OUTSIDE, least)
    why = "clients hold connections longer than the server sees them busy; give --pool-stats or --hold-time"
    busy = max((f.value for f in (figures.parallelism, figures.parallelism_counted) if f is not None), default=0.0)
    opened = figures.open_connections
    if opened is None or busy <= 0 or figures.censored_share is not None:
        return usual, why
    pools = max(1, (figures.instances or assumed(1)).count) * max(1, (figures.processes or assumed(1)).count)
    most = figures.in_use_at_most
    if most is None and opened.value <= 2 * pools * servers_for_wait(busy / pools, 1.0, 1.0):
        most = opened
    if most is None:
        return usual, why
    rests = most.value <= RESTING * opened.value
    # A load at random (Poisson) swings by its root. What it took at most is two of them above the mean, but not where
    # a pool without more connections may have cut it off.
    swing = 2.0 if rests else 1.0
    longer = pools * (sqrt(most.value / pools + swing**2 / 4) - swing / 2) ** 2 / busy - 1.0
    if longer <= usual and not rests:
        return usual, why
    return max(0.0, longer), (
        f"clients hold connections longer than the server sees them busy, and {most.value:.3g} were in use at most; "
        "give --pool-stats or --hold-time"
    )


def _choose_max_connections(figures: Figures) -> tuple[float, str]:
    """Choose max_connections, and give the reason.

    A sweep with n connections proves that the server has room for n, so the default must allow as many.
    """
    swept = max((point.connections for point in figures.sweep), default=0)
    if not swept:
        return 100.0, "PostgreSQL's own default; give --max-connections"
    processes = (figures.processes or assumed(1)).count
    pools = processes * (figures.instances or assumed(1)).count
    parts = (figures.max_instances, figures.surge, figures.terminating)
    worst = processes * sum(part.count for part in parts if part is not None)
    taken = (figures.superuser_reserved, figures.reserved, figures.other_connections)
    kept = sum(part.count for part in taken if part is not None)
    share = swept if pools <= 1 else ceil(UNEVEN_SHARE * swept / pools)
    needed = ceil((worst * share + kept) / 0.97) + 3
    if needed <= 100:
        return 100.0, "PostgreSQL's own default; give --max-connections"
    return float(needed), "room for all connections of the sweep, also with the largest fleet; give --max-connections"


def choose_headroom(max_connections: int) -> int:
    """Return the slots kept free for people, migrations and monitors: 3, or 3 % of max_connections, whichever is
    more.
    """
    return max(3, ceil(0.03 * max_connections))


def _fill_fleet(figures: Figures, assume: Callable[[str, float, str], Figure]) -> Figures:
    instances = figures.instances.count if figures.instances is not None else 1
    most = max(instances, figures.max_instances.count if figures.max_instances is not None else 0)
    if figures.max_instances is None:
        figures = figures.with_(
            max_instances=assume("max_instances", most, "the fleet does not grow; give --max-instances")
        )
    if figures.surge is None and figures.surge_share is not None:
        figures = figures.with_(
            surge=Figure(float(ceil(figures.surge_share.value * most - 1e-9)), figures.surge_share.origin)
        )
    if figures.surge is None:
        surge = ceil(SURGE_SHARE * most)
        figures = figures.with_(
            surge=assume("surge", surge, "a deploy starts 25 % more, as in Kubernetes; give --surge")
        )
    if figures.terminating is None and figures.surge is not None:
        # Kubernetes does not count ending instances as replicas. One rollout ends at most the old generation.
        leaving = max(0, min(figures.surge.count, most - figures.surge.count))
        why = "as many old instances are still ending as new ones were added; give --terminating"
        figures = figures.with_(terminating=assume("terminating", leaving, why))
    return figures
