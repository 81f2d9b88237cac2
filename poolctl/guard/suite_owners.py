"""Whose a connection is in a test suite: the test, or the fixture, that ran when it was acquired.

Decides what an owner still holds, what went wrong with its connections, and what it held too long. An owner is pytest's
own object: an item, or the definition of a fixture.
"""

from collections.abc import Iterator
from time import monotonic
from typing import Any

from poolctl.guard.ledger import Hold, Incident
from poolctl.guard.recorder import RECORDER

_ledger = RECORDER.ledger


def is_fixture(owner: Any) -> bool:
    """Return True if ``owner`` is a fixture, False if it is a test."""
    return hasattr(owner, "argname")


def name_of(owner: Any) -> str:
    """Return what a report calls ``owner``."""
    return f"fixture '{owner.argname}' ({owner.scope} scope)" if is_fixture(owner) else str(owner.nodeid)


def holds_of(owner: Any) -> Iterator[Hold]:
    """Yield what ``owner`` acquired and still holds."""
    for hold in _ledger.holds():
        if hold.owner is owner:
            from poolctl.guard.guard_report import is_exempt, view_hold

            if not is_exempt(RECORDER, hold) and view_hold(RECORDER, hold) is not None:
                yield hold


def incidents_of(owner: Any) -> Iterator[Incident]:
    """Yield what went wrong with connections of ``owner`` and was not judged yet."""
    for one in list(_ledger.incidents.values()):
        if one.owner is owner and one.count > one.judged:
            yield one


def torn_down_fixtures() -> list[Any]:
    """List the fixtures that hold something, or did something wrong, and were torn down since."""
    owners: list[Any] = [hold.owner for hold in _ledger.holds()]
    owners += [one.owner for one in list(_ledger.incidents.values())]
    # pytest keeps the result of a fixture until it tears it down.
    found = [one for one in owners if is_fixture(one) and one.cached_result is None]
    return list(dict.fromkeys(found))


def too_long(owner: Any, threshold: float, began_at: float) -> list[tuple[Hold, float]]:
    """List what ``owner`` held for more than ``threshold`` seconds, and how long. 0: nothing is too long."""
    now = monotonic()
    # A hold within the test cannot be longer than the test.
    if threshold <= 0 or now - began_at <= threshold:
        return []
    # A test that runs again has the same item, and began later than what its first run held.
    late = [
        (hold, used)
        for hold, used in _ledger.late
        if hold.owner is owner and used > threshold and hold.asked_at >= began_at
    ]
    return late + [(hold, used) for hold in holds_of(owner) if (used := now - (hold.acquired_at or now)) > threshold]


def forgive(owner: Any) -> None:
    """Report nothing of ``owner`` twice: what it holds belongs to no one from here on."""
    for hold in holds_of(owner):
        hold.owner = None
    for one in incidents_of(owner):
        one.judged, one.owner = one.count, None
