"""Prints docs/pools.md: every pool that poolctl knows, from the presets themselves.

python docs/pool_table.py > docs/pools.md
"""

import sys
from collections.abc import Iterable, Sequence

from poolctl.pool import LIBRARIES, NOT_MODELED, Library
from poolctl.units import format_count, format_duration

INTRODUCTION = """\
# The pools that poolctl knows

`kind` in a scenario file names one of these libraries. A key that is not given has the library's own default, and a key
that the library has no setting for is refused.

The model engine (`--engine model`) and live runs follow the rules of all of them. A live run of `psycopg_pool`,
`psycopg2` and `sqlalchemy` drives the library itself; of the others it follows the rules with connections of psycopg,
and its report says so: "rules of hikaricp, driver psycopg".

This page is the output of [pool_table.py](pool_table.py), made from the rules themselves, in `poolctl/pool/`.
"""

SETTINGS = """\
## Settings

In each cell: the library's own name, and its default. "no setting" means that the library has no such limit, or that it
cannot be changed. Times of 0 are times of 0 unless the cell says that 0 is off.
"""

BEHAVIOR = """\
## Behavior

What no setting says: which idle connection is used next, who in the queue is served next, who opens connections, when
an expired connection is noticed (max_lifetime), when one that the server has closed is noticed, and what a full pool
says to a request that gives up.
"""

NOTES = """\
## Notes

- `node-pg`: since node-postgres 8.23 a client with `pipeline: true` sends several queries at once on its connection.
  The pool still gives a connection to one request at a time, so its rules are the same: a request that sends its
  queries at once has a shorter hold.
- `hikaricp`: 7.0.x can spin on its carrier threads under many virtual threads, 7.1.0 does not. The rules are the same.
  An opening that was ordered is dropped if no request waits for it when its turn comes.
- `tomcat`: a connection past `maxAge` is opened again in its place: at acquire, at release, and while it is idle.
- `rails`: a connection past `max_age` is closed only when it is idle, so under steady use ages are above it.
- `psycopg_pool`: 3.2.8 and 3.3.1 stopped the loss of connections when a task is cancelled while it acquires.
- `c3p0`: all waiters are woken, and the JVM lets the one run that came last. The helper threads also take back what is
  released, so a release waits while all three connect. The tests of `testConnectionOnCheckin`, which is off unless set,
  would keep these threads longer still, and are not modeled.
"""

REFUSED = """\
## Refused

These are known by name and refused, because not enough is known of them for an honest answer.
"""

COUNTS = ("max_open", "max_idle", "min_idle")
TIMES = ("max_lifetime", "max_idle_time", "acquire_timeout")
OTHERS = ("max_uses", "max_waiting")

FILLED = {"before": "opened before the load", "background": "opened in the background when the load begins"}

LOOKED_AT = {"acquire": "acquire", "release": "release", "cleaner": "a sweep of the idle", "timer": "a timer of each"}


def page() -> str:
    """The whole of docs/pools.md."""
    settings = table(
        ("kind", "library", *COUNTS, *TIMES, "others"),
        (
            (f"`{kind.name}`", kind.library, *(setting(kind, key) for key in COUNTS + TIMES), others(kind))
            for kind in LIBRARIES.values()
        ),
    )
    behavior = table(
        ("kind", "idle order", "waiter order", "who opens", "expiry noticed", "loss noticed", "a full pool"),
        (
            (
                f"`{kind.name}`",
                idle_order(kind),
                waiter_order(kind),
                opener(kind),
                expiry(kind),
                loss(kind),
                full_pool(kind),
            )
            for kind in LIBRARIES.values()
        ),
    )
    refused = table(("kind", "why"), ((f"`{name}`", why) for name, why in NOT_MODELED.items()))
    return "\n".join((INTRODUCTION, SETTINGS, settings, BEHAVIOR, behavior, NOTES, REFUSED, refused))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def setting(kind: Library, key: str) -> str:
    """What the library calls ``key``, with its default and its oddities."""
    default = getattr(kind.complete({}), key)
    if key not in kind.keys:
        if kind.name == "none":
            return "-"
        if key == "max_idle" and kind.rules.idle_kept == "all":
            return "no setting: all are kept"
        return f"no setting: {default}" if key in COUNTS and default else "no setting"
    notes = [f"{native(kind, key)} = {shown(kind, key, default)}"]
    if (key, kind.size_follows) in (("max_open", "min_idle"), ("min_idle", "max_open")):
        notes.append(f"as {kind.size_follows} when that is given")
    if key in kind.zero_is_off:
        notes.append("0 is off")
    if key in kind.least:
        notes.append(f"at least {format_duration(kind.least[key])}")
    if key == "min_idle" and kind.rules.fill != "none":
        notes.append(FILLED[kind.rules.fill])
    if key == "max_lifetime":
        notes += jitter(kind)
    return "; ".join(notes)


def native(kind: Library, key: str) -> str:
    """The library's own name, as code, with what is said about it beside it."""
    name, space, remark = kind.native[key].partition(" (")
    return f"`{name}`{space}{remark}"


def shown(kind: Library, key: str, default: float | None) -> str:
    if key in COUNTS:
        return "unlimited (0)" if key == "max_open" and not default else str(default)
    return "off" if default is None else format_duration(default)


def jitter(kind: Library) -> list[str]:
    least, _ = kind.rules.jitter
    notes = [f"up to {-least:.0%} shorter at random".replace("%", " %")] if least else []
    if "max_lifetime_jitter" in kind.keys:
        notes.append(f"up to {native(kind, 'max_lifetime_jitter')} longer at random, 0 unless given")
    return notes or ["no jitter"]


def others(kind: Library) -> str:
    told = []
    for key in (key for key in OTHERS if key in kind.keys):
        default = getattr(kind.defaults, key)
        told.append(f"{key}: {native(kind, key)} = {format_count(default) if default else 'unlimited (0)'}")
    return "; ".join(told)


def idle_order(kind: Library) -> str:
    rules = kind.rules
    if kind.name == "none":
        return "-"
    if rules.by_thread:
        return "the worker's own last one, else the oldest"
    order = "last released first" if rules.idle_order == "lifo" else "longest idle first"
    return f"{order}, among those released since the last sweep" if rules.generations else order


def waiter_order(kind: Library) -> str:
    rules = kind.rules
    if rules.waiter_order == "none" or kind.name == "none":
        return "no request waits"
    orders = {"random": "random", "lifo": "last come, first served", "fifo": "first come, first served"}
    order = orders[rules.waiter_order]
    if rules.barging:
        order += ", but a newcomer may be faster"
    if rules.codel:
        target, interval = map(format_duration, rules.codel)
        order += f", thinned out by CoDel ({target}, {interval})"
    return order


def opener(kind: Library) -> str:
    rules = kind.rules
    if kind.name == "none":
        return "the caller, each time"
    background = "the background, " + {0: "as many at once as are wanted", 1: "one at a time"}.get(
        rules.openers, f"{rules.openers} at a time"
    )
    if rules.growth == "one":
        background = f"the background, one more at a time, and replacements {rules.openers} at a time"
    if rules.growth == "increment":
        background += ", at least 3 more each time"
    if rules.open_pause:
        background += f" with {format_duration(rules.open_pause)} between"
    if rules.opener == "background":
        return background
    caller = "the caller, and no other request can use the pool meanwhile" if rules.opens_locked else "the caller"
    if rules.probes_first:
        caller += ", after one connection that is only opened and closed"
    if rules.replaced_by == "background":
        return f"{caller}; {background}, when a slot becomes free for one that waits"
    return caller


def expiry(kind: Library) -> str:
    if "max_lifetime" not in kind.keys or not kind.rules.lifetime_checked:
        return "-"
    return ", ".join(LOOKED_AT[place] for place in LOOKED_AT if place in kind.rules.lifetime_checked)


def loss(kind: Library) -> str:
    rules = kind.rules
    if kind.name == "none":
        return "-"
    if rules.dead == "dropped":
        return "at once, also while idle"
    if rules.validated_after is None:
        noticed = "by the request that gets it"
    elif rules.validated_after:
        noticed = f"at acquire after {format_duration(rules.validated_after)} idle, else by the request that gets it"
    else:
        noticed = "at acquire"
    return f"{noticed}, which drops all that are idle" if rules.dead == "all" else noticed


def full_pool(kind: Library) -> str:
    """The library's words, with its default settings in them."""
    settings = kind.complete({})
    words = kind.describe_exhaustion(settings)
    said = f'"{words}"'
    if kind.name == "none":
        return f"is never full; a slow opening: {said}"
    if kind.rules.waiter_order == "none":
        return f"at once: {said}"
    if kind.rules.codel:
        return f"when CoDel drops the request: {said}"
    if "acquire_timeout" not in kind.keys:
        return f"waits without limit; with max_waiting reached: {said}"
    return said if settings.acquire_timeout else f"waits without limit; with an acquire_timeout: {said}"


if __name__ == "__main__":
    sys.stdout.write(page())
