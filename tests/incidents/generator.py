"""Incidents drawn at random: which stack, which behavior, which sizes and rates, and what may be said of each.

Decides what is right, forbidden and needed of a verdict. Nothing is tuned to one staging: the same seed draws the same
incident, another seed another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

LEAKS = frozenset({"leak", "leak-in-transaction", "leak-or-long-hold"})
HOLDS = frozenset({"held-across-io", "long-hold"})
CAUSES = frozenset(
    {*LEAKS, *HOLDS, "pool-undersized", "slow-database", "lock-queue", "self-deadlock", "pool-slots-lost"}
)


SHOP = "shop"
"""The application at fault, where it has a name."""
MAY_BE_SHOP = frozenset({SHOP, "", "PostgreSQL JDBC Driver", "puma"})
LOCKS = CAUSES - {"lock-queue", "leak-in-transaction"}
PLAIN, FULL, TRANSACTION, SESSION = "plain", "full", "transaction", "session"
"""Where an incident happens: a server of 100 connections, one of 40, a PgBouncer in transaction or session mode."""


@dataclass(frozen=True)
class Expectation:
    """``right``: one of these has to be found, at any confidence; none: healthy is right. ``forbidden``: never said
    as likely or certain. ``may_end``: relief may end backends of these applications. ``holder``: has to be named,
    where any application is; None: nothing has to."""

    right: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    may_end: frozenset[str] = frozenset()
    may_be_healthy: bool = False
    holder: str | None = SHOP


EXPECTED: dict[str, Expectation] = {
    "healthy": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "transaction-leak": Expectation(
        frozenset({"leak-in-transaction", "leak"}),
        frozenset({"pool-undersized", "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost"}),
        MAY_BE_SHOP,
    ),
    "idle-leak": Expectation(
        frozenset({"leak-or-long-hold", "leak", "connection-per-request"}),
        frozenset({"pool-undersized", "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost", *HOLDS}),
        MAY_BE_SHOP,
    ),
    "leaked-whole": Expectation(
        frozenset({"leak-or-long-hold"}), frozenset({*CAUSES, "healthy"}) - {"leak-or-long-hold"}, MAY_BE_SHOP
    ),
    # A pool that opens its connections as they are needed, and leaks each soon after.
    "leaked-fast": Expectation(
        frozenset({"leak-or-long-hold", "connection-per-request"}),
        frozenset({*CAUSES, "healthy"}) - {"leak-or-long-hold"},
        MAY_BE_SHOP,
    ),
    "load-over": Expectation(frozenset({"leak-or-long-hold"}), CAUSES, may_be_healthy=True),
    "night": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "wave": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "cron": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "listeners": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "vacuum": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "deploy": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "batch": Expectation(
        frozenset({*HOLDS, "leak-in-transaction", "leak-or-long-hold"}),
        CAUSES - HOLDS,
        may_be_healthy=True,
        holder=None,
    ),
    "hold": Expectation(
        frozenset({*HOLDS, "pool-undersized"}),
        frozenset({"leak", "leak-in-transaction", "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost"}),
    ),
    "idle-hold": Expectation(
        frozenset({*HOLDS, "leak-or-long-hold", "pool-undersized"}),
        frozenset({"leak", "leak-in-transaction", "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost"}),
        MAY_BE_SHOP,
    ),
    "nested": Expectation(
        frozenset({"self-deadlock", "leak-or-long-hold"}),
        frozenset({"pool-undersized", "slow-database", "leak", "leak-in-transaction", "long-hold", "pool-slots-lost"}),
        MAY_BE_SHOP,
    ),
    "small": Expectation(
        frozenset({"pool-undersized"}),
        frozenset({*LEAKS, "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost"}),
    ),
    "slow": Expectation(
        frozenset({"slow-database"}),
        frozenset({*LEAKS, "pool-undersized", "self-deadlock", "lock-queue", "pool-slots-lost"}),
        holder=None,
    ),
    "per-request": Expectation(
        frozenset({"connection-per-request", "connection-churn"}),
        frozenset({*LEAKS, "pool-undersized", "slow-database"}),
    ),
    "kept-per-request": Expectation(
        frozenset({"connection-per-request", "leak-or-long-hold", "slots-low", "slots-exhausted"}),
        frozenset({"pool-undersized", "slow-database", "leak-in-transaction", "self-deadlock"}),
        MAY_BE_SHOP,
    ),
    # A change of a table that waits for a reader, and everybody behind it.
    "change-waits": Expectation(frozenset({"lock-queue"}), LOCKS, frozenset({"migrate", "etl"}), holder=None),
    "row-locked": Expectation(
        frozenset({"lock-queue", "leak-in-transaction"}), LOCKS, frozenset({"worker"}), holder="worker"
    ),
    "aborted": Expectation(
        frozenset({"aborted-transaction"}), CAUSES - {"leak-in-transaction"}, frozenset({"worker"}), holder="worker"
    ),
    "stopped": Expectation(frozenset({"frozen-clients"}), CAUSES, MAY_BE_SHOP),
    "starved": Expectation(frozenset({"client-starved", "waiting-unexplained"}), CAUSES, holder=None),
    "slots-lost": Expectation(frozenset({"pool-slots-lost"}), CAUSES - {"pool-slots-lost"}),
    "full-leak": Expectation(
        frozenset({"slots-exhausted", "leak-or-long-hold", "leak-in-transaction", "connection-per-request"}),
        frozenset({"pool-undersized", "slow-database", "healthy", *HOLDS}),
        MAY_BE_SHOP,
        holder=None,
    ),
    # Pools that open what they need may leave a few slots: healthy, and slots-low beside it.
    "full-fleet": Expectation(
        frozenset({"slots-exhausted", "fleet-over-budget", "slots-low"}), LEAKS, may_be_healthy=True, holder=None
    ),
    "pooled-healthy": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "pooled-leak": Expectation(
        frozenset({"pooler-pinned-transaction", "leak-in-transaction"}),
        frozenset({"pool-undersized", "slow-database", "healthy", "self-deadlock", "lock-queue", "pool-slots-lost"}),
        MAY_BE_SHOP,
    ),
    "pooled-small": Expectation(
        frozenset({"pool-undersized"}),
        frozenset({*LEAKS, "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost", "healthy"}),
        holder=None,
    ),
    "pooled-leaked-whole": Expectation(
        frozenset({"leak-or-long-hold"}), frozenset({*CAUSES, "healthy"}) - {"leak-or-long-hold"}, MAY_BE_SHOP
    ),
    "session-held": Expectation(
        frozenset({"pooler-session-mode"}),
        frozenset({*CAUSES, "healthy"}),
        MAY_BE_SHOP,
    ),
}
"""By behavior. A pool that is held across other work may be called too small beside it: it is, for those holds."""

SCRIPT = "incident_client"
"""The stack of an act that is no pool of a library: tests/incident_client.py, with the behaviors that it has."""
WITHOUT_FIGURES = frozenset(
    {
        "per-request",
        "kept-per-request",
        "leaked-whole",
        "leaked-fast",
        "night",
        "deploy",
        "stopped",
        "full-leak",
        "full-fleet",
        "aborted",
        "session-held",
        "pooled-leaked-whole",
    }
)
WITH_FIGURES = frozenset({"starved", "slots-lost"})
NEEDS_TIMES = frozenset({"aborted"})
"""What a role without pg_monitor cannot know at all: that a transaction failed."""


@dataclass(frozen=True)
class Act:
    """One client beside the application at fault."""

    stack: str
    application: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Incident:
    """One incident, ready to be staged.

    ``before``: clients that come first; ``meanwhile``: those that start while poolctl looks. ``figures_of``: the name
    that the figures are given with, None without one.
    """

    seed: int
    behavior: str
    stack: str
    options: dict[str, Any]
    has_figures: bool
    role: str
    window: float
    has_name: bool
    place: str = PLAIN
    figures_of: str | None = None
    before: tuple[Act, ...] = ()
    meanwhile: tuple[Act, ...] = ()
    expected: Expectation = field(default_factory=Expectation)

    def __str__(self) -> str:
        what = " ".join(f"{key}={value}" for key, value in self.options.items())
        figures = f"with figures of {self.figures_of}" if self.has_figures else "without figures"
        name = "" if self.has_name else ", no application_name"
        others = ", ".join(f"{act.application} ({act.stack})" for act in (*self.before, *self.meanwhile))
        beside = f", beside {others}" if others else ""
        place = "" if self.place == PLAIN else f", {self.place}"
        return (
            f"{self.behavior} of {self.stack} ({what}), {figures}, {self.role}, {self.window:g} s{place}{name}{beside}"
        )


def draw_incident(seed: int, stacks: Sequence[str]) -> Incident:
    """Return the incident of a seed, with one of ``stacks``."""
    random = Random(f"incident {seed}")
    behavior = random.choice([*EXPECTED, "healthy", "healthy", "idle-leak", "leaked-whole", "leaked-fast"])
    stack = random.choice(list(stacks))
    if behavior in WITH_FIGURES:
        stack = SCRIPT
    if behavior == "leaked-fast":
        # Those that open a connection only when a request finds none: of another nobody can tell it from a burst.
        lazy = [each for each in stacks if each in ("node-postgres", "database/sql", "rails")]
        behavior, stack = (behavior, random.choice(lazy)) if lazy else ("leaked-whole", stack)
    if behavior == "session-held":
        # Those that open all of their pool ahead, and so keep PgBouncer's.
        stack = random.choice([each for each in stacks if each in ("psycopg", "hikaricp")] or list(stacks))
    place = _choose_place(behavior)
    options, client_behavior = _draw_options(behavior, random)
    has_figures = behavior in WITH_FIGURES or (behavior not in WITHOUT_FIGURES and random.random() < 0.6)
    has_name = stack == SCRIPT or place != PLAIN or random.random() < 0.6
    before, meanwhile = _draw_others(behavior, stack, options, random)
    neighbors = random.choice([0, 0, 1, 2]) if place == PLAIN else 0
    before += tuple(
        Act(random.choice(list(stacks)), f"neighbor-{number}", {"behavior": "healthy", "size": 5, "workers": 2})
        for number in range(neighbors)
    )
    named = [SHOP, SHOP, None, "storefront"] if has_name else [None, "storefront"]
    return Incident(
        seed=seed,
        behavior=behavior,
        stack=stack,
        options={"behavior": client_behavior, **options},
        has_figures=has_figures,
        role=random.choices(["watcher", "stranger"], [4, 0 if behavior in NEEDS_TIMES else 1])[0],
        window=random.choice([2.0, 3.0, 3.0, 5.0, 10.0]),
        has_name=has_name,
        place=place,
        figures_of=SHOP if stack == SCRIPT else random.choice(named),
        before=before,
        meanwhile=meanwhile,
        expected=expect(behavior, has_figures),
    )


def expect(behavior: str, has_figures: bool) -> Expectation:
    """Return what is right of a behavior. Without the pool's figures nobody can know that clients wait in it."""
    expected = EXPECTED[behavior]
    if has_figures or behavior not in ("idle-leak", "hold", "idle-hold", "small"):
        return expected
    return replace(expected, may_be_healthy=True, holder=None)


def _choose_place(behavior: str) -> str:
    if behavior.startswith("full-"):
        return FULL
    if behavior.startswith("pooled-"):
        return TRANSACTION
    return SESSION if behavior.startswith("session-") else PLAIN


def _draw_others(
    behavior: str, stack: str, options: dict[str, Any], random: Random
) -> tuple[tuple[Act, ...], tuple[Act, ...]]:
    """Draw the clients that belong to the behavior: those that come first, and those that come meanwhile."""
    if behavior == "change-waits":
        # What idles in a transaction may be ended, unless it is a backup: that frees the change, too.
        idles = {"behavior": "sessions", "size": 1, "statement": "BEGIN;SELECT count(*) FROM orders"}
        works = {"behavior": "statements", "size": 1, "statement": "SELECT pg_sleep(300) FROM orders LIMIT 1"}
        read = random.choice([idles, works])
        name = random.choice(["pg_dump", "etl"] if read is idles else ["pg_dump", "report"])
        change = {"behavior": "statements", "size": 1, "statement": "ALTER TABLE orders ADD COLUMN note text"}
        return (Act(SCRIPT, name, read), Act(SCRIPT, "migrate", change)), ()
    if behavior == "row-locked":
        holds = "BEGIN;UPDATE orders SET customer_id = 1 WHERE id = 3"
        return (Act(SCRIPT, "worker", {"behavior": "sessions", "size": 1, "statement": holds}),), ()
    if behavior == "aborted":
        failed = {"behavior": "sessions", "size": random.randint(2, 5), "statement": "BEGIN;SELECT 1/0"}
        return (Act(SCRIPT, "worker", failed),), ()
    if behavior == "listeners":
        listen = {"behavior": "sessions", "size": random.randint(2, 10), "statement": "LISTEN jobs"}
        return (Act(SCRIPT, "notify", listen),), ()
    if behavior == "vacuum":
        vacuum = {"behavior": "statements", "size": 1, "statement": "VACUUM (FREEZE) orders", "think": 0.5}
        return (Act(SCRIPT, "maintenance", vacuum),), ()
    if behavior == "deploy":
        return (), (Act(stack, SHOP, {"behavior": "healthy", **options}),)
    if behavior == "full-fleet":
        return (Act(stack, random.choice([SHOP, "search"]), {"behavior": "healthy", **options}),), ()
    if behavior == "session-held":
        late = {"behavior": "healthy", "size": 3, "workers": 3}
        return (Act(stack, SHOP, {"behavior": "healthy", **options}),), (Act("psycopg", "late", late),)
    return (), ()


def _draw_options(behavior: str, random: Random) -> tuple[dict[str, Any], str]:
    size = random.randint(4, 20)
    few = {"size": size, "workers": random.randint(1, max(1, size // 2)), "think": random.choice([0.02, 0.1])}
    if behavior in ("healthy", "listeners", "vacuum", "deploy", "aborted", "stopped"):
        return few, "healthy"
    if behavior == "wave":
        crowd = random.randint(1, size)
        wave = {"workers": crowd, "on": random.choice([1.0, 3.0]), "off": random.choice([1.0, 3.0])}
        return {**few, **wave, "settle": random.choice([3, 6, 9])}, "healthy"
    if behavior == "cron":
        burst = {"on": random.choice([0.5, 2.0]), "off": random.choice([6.0, 15.0]), "settle": random.randint(8, 30)}
        return {**few, **burst, "think": 0.01}, "healthy"
    if behavior == "night":
        # A slow load that ends leaves a pool that is used in turns as a leak does: see load-over.
        load = {"workers": random.randint(3, size), "think": 0.03, "until": 3}
        return {"size": size, **load, "settle": random.choice([25, 45])}, "healthy"
    if behavior == "leaked-whole":
        size, every = random.randint(6, 16), random.randint(8, 25)
        # A connection leaks every half second: one that leaks as soon as it is opened looks as if it never worked.
        options = {"think": round(0.5 * (size + 2) / every, 2), "settle": 20, "timeout": random.choice([0, 2])}
        return {"size": size, "workers": size + 2, "every": every, **options}, "idle-leak"
    if behavior == "leaked-fast":
        size, every, gap = random.randint(6, 16), random.randint(2, 6), random.choice([0.05, 0.1, 0.2])
        options = {"think": round(gap * (size + 2) / every, 3), "settle": random.choice([8, 20, 40])}
        return {"size": size, "workers": size + 2, "every": every, **options, "timeout": 2}, "idle-leak"
    if behavior == "pooled-leaked-whole":
        size, every = random.randint(5, 8), random.randint(8, 20)
        options = {"think": round(1.6 * (size + 2) / every, 2), "settle": 26, "timeout": 2}
        return {"size": size, "workers": size + 2, "every": every, **options}, "idle-leak"
    if behavior == "load-over":
        until = random.choice([4, 8])
        load = {"workers": random.randint(1, size + 2), "think": random.choice([0.05, 0.3, 1.0]), "until": until}
        return {"size": size, **load, "settle": until + random.choice([3, 12])}, "healthy"
    if behavior in ("transaction-leak", "idle-leak", "full-leak", "pooled-leak"):
        size = {"full-leak": 42, "pooled-leak": 12}.get(behavior, size)
        settle = random.choice([3, 6])
        leak = {"every": random.randint(2, 6), "think": 0.05, "settle": settle, "timeout": random.choice([0, 2])}
        kind = random.choice(["transaction-leak", "idle-leak"]) if behavior == "full-leak" else behavior
        # HikariCP and psycopg_pool open all ahead, which a full server refuses: that many they keep asking for.
        return {"size": size, "workers": size + 2, **leak}, "transaction-leak" if kind == "pooled-leak" else kind
    if behavior == "batch":
        longest = random.choice([8.0, 30.0])
        times = {"hold_from": longest / 2, "hold_to": longest, "settle": random.choice([3, 12])}
        return {"size": size + 2, "workers": random.randint(1, 3), "think": 1.0, **times}, "hold"
    if behavior in ("hold", "idle-hold"):
        longest = random.choice([2.0, 8.0, 30.0])
        times = {"hold_from": longest / 4, "hold_to": longest, "think": 0.1, "settle": min(20.0, longest)}
        return {"size": size, "workers": 2 * size, **times, "plain": int(behavior == "idle-hold")}, "hold"
    if behavior == "nested":
        locks = {"statement": "SELECT pg_advisory_xact_lock((random() * 1e9)::bigint)"}
        jam = {"size": size, "workers": 3 * size, "think": 0.0, "settle": random.choice([4, 12])}
        return {**jam, **random.choice([{}, {}, locks])}, "nested"
    if behavior == "small":
        load = {"workers": 30, "think": 0.01, "settle": 2}
        return {"size": random.randint(2, 4), **load, "statement": "SELECT pg_sleep(0.02)"}, "healthy"
    if behavior == "slow":
        statement = "SELECT count(*) FROM orders WHERE customer_id = 7"
        return {"size": 12, "workers": 12, "think": 0.01, "settle": 5, "statement": statement}, "healthy"
    if behavior == "change-waits":
        statement = "SELECT count(*) FROM orders WHERE id = 7"
        return {"size": size, "workers": size, "think": 0.05, "settle": 3, "statement": statement}, "healthy"
    if behavior == "row-locked":
        statement = "UPDATE orders SET customer_id = 2 WHERE id = 3"
        return {"size": size, "workers": size, "think": 0.05, "settle": 3, "statement": statement}, "healthy"
    if behavior == "starved":
        return {"size": 4, "blocked": 0.5, "requests": 20}, "starved"
    if behavior == "slots-lost":
        lost = random.randint(3, 8)
        return {"size": lost, "until": lost, "waiters": 4}, "dropping"
    if behavior == "full-fleet":
        return {"size": 24, "workers": 24, "think": 0.02, "settle": 4}, "healthy"
    if behavior == "session-held":
        return {"size": 6, "workers": 6, "think": random.choice([0.05, 1.0])}, "healthy"
    if behavior == "pooled-healthy":
        return {"size": 8, "workers": 3, "think": 0.05}, "healthy"
    if behavior == "pooled-small":
        return {"size": 25, "workers": 25, "think": 0.0, "settle": 3, "statement": "SELECT pg_sleep(0.01)"}, "healthy"
    keep = 1 if behavior == "kept-per-request" else 0
    return {"size": size, "workers": 4, "think": 0.4 if keep else 0.05, "settle": 8, "keep": keep}, "per-request"


def judge(incident: Incident, document: dict[str, Any]) -> list[str]:
    """Return what is wrong with a verdict: sentences, none when it is right."""
    expected = incident.expected
    found = {each["code"]: each for each in document["findings"]}
    wrong = [
        f"{code} ({each['confidence']}): {each['summary']}"
        for code, each in found.items()
        if code in expected.forbidden and each["confidence"] != "undetermined"
    ]
    is_healthy = "healthy" in found and found["healthy"]["confidence"] != "undetermined"
    if expected.right and not expected.right & found.keys() and not (expected.may_be_healthy and is_healthy):
        certainly = any(each["confidence"] != "undetermined" and each["severity"] != "info" for each in found.values())
        if is_healthy:
            wrong.append(f"false healthy ({found['healthy']['confidence']}): {found['healthy']['summary']}")
        elif certainly or not any(each["confidence"] == "undetermined" for each in found.values()):
            wrong.append(f"none of {sorted(expected.right)} in {sorted(found)}")
    # Where nothing moves, or this role may not see since when, a quiet hour looks like a pool that leaked whole.
    quiet = found.get("healthy", {}).get("evidence", {})
    is_still = quiet.get("standing_still") or quiet.get("quiet_clients")
    may_doubt = "healthy" in found and (incident.role == "stranger" or is_still)
    if not expected.right and not is_healthy and not may_doubt:
        wrong.append(f"not healthy: {sorted(found)}")
    if expected.holder is not None and incident.has_name:
        for code in expected.right & found.keys():
            # A process title names no application, and pgjdbc sets its name only after PgBouncer's login: these are no
            # wrong names.
            names = {holder["application"] for holder in found[code]["holders"]} - {"", None, "user app"}
            if names and expected.holder not in names:
                wrong.append(f"{code} names {sorted(map(str, names))}, not {expected.holder}")
    steps = (document.get("relief") or {}).get("steps", [])
    harmed = sorted({step["application"] or "" for step in steps if step.get("pid")} - expected.may_end)
    if harmed:
        wrong.append(f"relief would end backends of {', '.join(harmed) or 'no name'}")
    return wrong
