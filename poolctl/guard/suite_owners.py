"""Whose a connection is in a test suite: the test, or the fixture, that ran when it was acquired.

Decides what an owner still holds, what went wrong with its connections, and what it held too long.
"""

from collections.abc import Iterator
from time import monotonic
from typing import Any

from poolctl.guard.ledger import Hold, Incident
from poolctl.guard.recorder import RECORDER

_ledger = RECORDER.ledger


class TestOrFixture:
    """Whose the connections are that are acquired while it runs. ``part``: pytest's item, or its fixture definition.

    ``seen``: what had gone wrong before it began, counts by the ids of the incidents. ``is_failed``: it ended by an
    error of its own, whose report shows what it holds.
    """

    __slots__ = ("began_at", "is_failed", "is_fixture", "part", "seen")

    def __init__(self, part: Any, *, is_fixture: bool) -> None:
        self.part = part
        self.is_fixture = is_fixture
        self.is_failed = False
        self.began_at = monotonic()
        incidents = _ledger.incidents
        self.seen = {id(one): one.count for one in incidents.values()} if incidents else {}

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"fixture '{self.part.argname}' ({self.part.scope} scope)" if self.is_fixture else str(self.part.nodeid)


def holds_of(owner: TestOrFixture) -> Iterator[Hold]:
    """Yield what ``owner`` acquired and still holds."""
    for hold in _ledger.holds():
        if hold.owner is owner:
            from poolctl.guard.guard_report import is_exempt, view_hold

            if not is_exempt(RECORDER, hold) and view_hold(RECORDER, hold) is not None:
                yield hold


def incidents_of(owner: TestOrFixture) -> Iterator[Incident]:
    """Yield what went wrong with connections of ``owner`` since it began."""
    for one in list(_ledger.incidents.values()):
        if one.owner is owner and one.count > owner.seen.get(id(one), 0):
            yield one


def too_long(owner: TestOrFixture, threshold: float) -> list[tuple[Hold, float]]:
    """List what ``owner`` held for more than ``threshold`` seconds, and how long. 0: nothing is too long."""
    now = monotonic()
    # A hold within the test cannot be longer than the test.
    if threshold <= 0 or now - owner.began_at <= threshold:
        return []
    late = [(hold, used) for hold, used in _ledger.late if hold.owner is owner and used > threshold]
    return late + [(hold, used) for hold in holds_of(owner) if (used := now - (hold.acquired_at or now)) > threshold]
