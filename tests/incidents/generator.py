"""Incidents drawn at random: which stack, which behavior, which sizes and rates, and what may be said of each.

Decides what is right, forbidden and needed of a verdict. Nothing is tuned to one staging: the same seed draws the same
incident, another seed another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

LEAKS = frozenset({"leak", "leak-in-transaction", "leak-or-long-hold"})
HOLDS = frozenset({"held-across-io", "long-hold"})
CAUSES = frozenset(
    {*LEAKS, *HOLDS, "pool-undersized", "slow-database", "lock-queue", "self-deadlock", "pool-slots-lost"}
)


@dataclass(frozen=True)
class Expectation:
    """``right``: one of these has to be found, at any confidence; none: healthy is right. ``forbidden``: never said
    as likely or certain. ``may_end``: relief may end backends of the application. ``needs_holder``: and names it."""

    right: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    may_end: bool = False
    may_be_healthy: bool = False
    needs_holder: bool = True


EXPECTED: dict[str, Expectation] = {
    "healthy": Expectation(forbidden=CAUSES, may_be_healthy=True),
    "transaction-leak": Expectation(
        frozenset({"leak-in-transaction", "leak"}),
        frozenset({"pool-undersized", "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost"}),
        may_end=True,
    ),
    "idle-leak": Expectation(
        frozenset({"leak-or-long-hold", "leak", "connection-per-request"}),
        frozenset({"pool-undersized", "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost", *HOLDS}),
        may_end=True,
    ),
    "leaked-whole": Expectation(
        frozenset({"leak-or-long-hold"}),
        frozenset({*CAUSES, "healthy"}) - {"leak-or-long-hold"},
        may_end=True,
    ),
    "load-over": Expectation(frozenset({"leak-or-long-hold"}), forbidden=CAUSES, may_be_healthy=True),
    "hold": Expectation(
        frozenset({*HOLDS, "pool-undersized"}),
        frozenset({"leak", "leak-in-transaction", "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost"}),
    ),
    "nested": Expectation(
        frozenset({"self-deadlock", "leak-or-long-hold"}),
        frozenset({"pool-undersized", "slow-database", "leak", "leak-in-transaction", "long-hold", "pool-slots-lost"}),
        may_end=True,
    ),
    "small": Expectation(
        frozenset({"pool-undersized"}),
        frozenset({*LEAKS, "slow-database", "self-deadlock", "lock-queue", "pool-slots-lost"}),
    ),
    "slow": Expectation(
        frozenset({"slow-database"}),
        frozenset({*LEAKS, "pool-undersized", "self-deadlock", "lock-queue", "pool-slots-lost"}),
        needs_holder=False,
    ),
    "per-request": Expectation(
        frozenset({"connection-per-request", "connection-churn"}),
        frozenset({*LEAKS, "pool-undersized", "slow-database"}),
    ),
    "kept-per-request": Expectation(
        frozenset({"connection-per-request", "leak-or-long-hold", "slots-low", "slots-exhausted"}),
        frozenset({"pool-undersized", "slow-database", "leak-in-transaction", "self-deadlock"}),
        may_end=True,
    ),
}
"""By behavior. A pool that is held across other work may be called too small beside it: it is, for those holds."""


@dataclass(frozen=True)
class Incident:
    """One incident, ready to be staged."""

    seed: int
    behavior: str
    stack: str
    options: dict[str, Any]
    has_figures: bool
    role: str
    window: float
    has_name: bool
    neighbors: tuple[str, ...] = ()
    """Stacks of healthy applications beside it."""
    expected: Expectation = field(default_factory=Expectation)

    def __str__(self) -> str:
        what = " ".join(f"{key}={value}" for key, value in self.options.items())
        figures = "with figures" if self.has_figures else "without figures"
        name = "" if self.has_name else ", no application_name"
        beside = f", beside {', '.join(self.neighbors)}" if self.neighbors else ""
        return f"{self.behavior} of {self.stack} ({what}), {figures}, {self.role}, {self.window:g} s{name}{beside}"


def draw_incident(seed: int, stacks: Sequence[str]) -> Incident:
    """Return the incident of a seed, with one of ``stacks``."""
    random = Random(f"incident {seed}")
    behavior = random.choice([*EXPECTED, "healthy", "healthy"])
    stack = random.choice(list(stacks))
    options, client_behavior = _draw_options(behavior, random)
    has_figures = behavior not in ("per-request", "kept-per-request", "leaked-whole") and random.random() < 0.6
    return Incident(
        seed=seed,
        behavior=behavior,
        stack=stack,
        options={"behavior": client_behavior, **options},
        has_figures=has_figures,
        role=random.choices(["watcher", "stranger"], [4, 0 if behavior == "leaked-whole" else 1])[0],
        window=random.choice([2.0, 3.0, 3.0, 5.0, 10.0]),
        has_name=random.random() < 0.6,
        neighbors=tuple(random.choice(list(stacks)) for _ in range(random.choice([0, 0, 1, 2]))),
        expected=expect(behavior, has_figures),
    )


def expect(behavior: str, has_figures: bool) -> Expectation:
    """Return what is right of a behavior. Without the pool's figures nobody can know that clients wait in it."""
    expected = EXPECTED[behavior]
    if has_figures or behavior not in ("idle-leak", "hold", "small"):
        return expected
    return Expectation(expected.right, expected.forbidden, expected.may_end, True, False)


def _draw_options(behavior: str, random: Random) -> tuple[dict[str, Any], str]:
    size = random.randint(4, 20)
    if behavior == "healthy":
        return {
            "size": size,
            "workers": random.randint(1, max(1, size // 2)),
            "think": random.choice([0.02, 0.1]),
        }, "healthy"
    if behavior == "leaked-whole":
        size, every = random.randint(6, 16), random.randint(8, 25)
        # A connection leaks every half second: one that leaks as soon as it is opened looks as if it never worked.
        options = {"think": round(0.5 * (size + 2) / every, 2), "settle": 20, "timeout": random.choice([0, 2])}
        return {"size": size, "workers": size + 2, "every": every, **options}, "idle-leak"
    if behavior == "load-over":
        until = random.choice([4, 8])
        load = {"workers": random.randint(1, size + 2), "think": random.choice([0.05, 0.3, 1.0]), "until": until}
        return {"size": size, **load, "settle": until + random.choice([3, 12])}, "healthy"
    if behavior in ("transaction-leak", "idle-leak"):
        settle = random.choice([3, 6])
        return {
            "size": size,
            "workers": size + 2,
            "every": random.randint(2, 6),
            "think": 0.05,
            "settle": settle,
            "timeout": random.choice([0, 2]),
        }, behavior
    if behavior == "hold":
        longest = random.choice([2.0, 8.0, 30.0])
        return {
            "size": size,
            "workers": 2 * size,
            "hold_from": longest / 4,
            "hold_to": longest,
            "think": 0.1,
            "settle": min(20.0, longest),
        }, "hold"
    if behavior == "nested":
        return {"size": size, "workers": 3 * size, "think": 0.0, "settle": 4}, "nested"
    if behavior == "small":
        return {
            "size": random.randint(2, 4),
            "workers": 30,
            "think": 0.01,
            "settle": 2,
            "statement": "SELECT pg_sleep(0.02)",
        }, "healthy"
    if behavior == "slow":
        return {
            "size": 12,
            "workers": 12,
            "think": 0.01,
            "settle": 5,
            "statement": "SELECT count(*) FROM orders WHERE customer_id = 7",
        }, "healthy"
    keep = 1 if behavior == "kept-per-request" else 0
    return {"size": size, "workers": 4, "think": 0.4 if keep else 0.05, "settle": 8, "keep": keep}, "per-request"


def judge(incident: Incident, document: dict[str, Any], application: str) -> list[str]:
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
    if not expected.right and not is_healthy:
        wrong.append(f"not healthy: {sorted(found)}")
    if expected.needs_holder and incident.has_name:
        for code in expected.right & found.keys():
            # A process title names no application: "" and null are no wrong name.
            names = {holder["application"] for holder in found[code]["holders"]} - {"", None}
            if names and application not in names:
                wrong.append(f"{code} names {sorted(map(str, names))}, not {application}")
    ended = [step for step in (document.get("relief") or {}).get("steps", []) if step.get("pid")]
    if ended and not expected.may_end:
        wrong.append(f"relief would end {len(ended)} backends")
    return wrong
