"""What the pytest plugin says about a test or fixture: its failure, what is only mentioned, and JUnit's properties.

Decides which incidents fail a test. Loaded with the first test that holds something at its end or did something wrong.
"""

from collections.abc import Generator
from typing import Any

import pytest
from _pytest._code.code import ExceptionChainRepr, ReprEntryNative, ReprFileLocation, ReprTraceback

from poolctl.guard.guard_report import lines, view_hold
from poolctl.guard.ledger import Hold, Incident
from poolctl.guard.recorder import RECORDER
from poolctl.guard.suite_owners import holds_of, incidents_of, is_fixture, name_of
from poolctl.guard.text import duration, hold_lines, lost_lines, pool_text, site_text
from poolctl.units import plural

_FAILING = {
    "released-twice": "was released twice",
    "used-after-release": "was used after its release",
    "used-after-fork": "was used in a child process",
    "released-in-child": "was released in a child process",
}
"""Incidents that fail a test, with the words for them."""

_MENTIONED = {"collected-and-returned", "collected", "released-elsewhere"}
"""Incidents that are only mentioned: the garbage collector has mended them, or a hand-over to a thread was meant."""


class LeakedConnections(Exception):
    """What a test did with connections. ``summary``: one line; ``text``: the lines below it."""

    def __init__(self, summary: str, text: list[str], places: list[str]) -> None:
        super().__init__(summary)
        self.summary = summary
        self.text = text
        self.places = places

    def add(self, other: "LeakedConnections") -> None:
        """Say also what ``other`` says."""
        self.summary = f"{self.summary}; {other.summary}"
        self.text += other.text
        self.places += other.places


class SuiteProblems:
    """The words, and the hooks of pytest that show them. ``timeout``: the longest wait in seconds, 0: no limit."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.mentioned: list[str] = []
        """What failed no test, for the end of the run."""

    def find_problem(
        self,
        owner: Any,
        held: list[Hold],
        incidents: list[Incident],
        late: list[tuple[Hold, float]],
        began_at: float,
    ) -> LeakedConnections | None:
        """Return the failure of ``owner``, None if there is only something to mention.

        ``held``: what it should have released. ``late``: what it held too long, and the seconds. ``began_at``: when the
        test began.
        """
        self._mention(owner, incidents)
        problems = [one for one in incidents if one.event in _FAILING or _is_lost(one)]
        waited = [one for one in incidents if one.event == "timed-out" and self._timeout]
        if not (held or problems or late or waited):
            return None
        return self._describe(owner, held, problems, late, waited, began_at)

    def _describe(
        self,
        owner: Any,
        held: list[Hold],
        incidents: list[Incident],
        late: list[tuple[Hold, float]],
        waited: list[Incident],
        began_at: float,
    ) -> LeakedConnections:
        summaries, text, places = [], [], []
        lost = sum(one.count - one.judged for one in incidents if _is_lost(one))
        number = len(held) + lost
        if waited:
            summaries.append(f"waited longer than {duration(self._timeout)} for a connection")
            for one in waited:
                text += _waited_lines(one)
                places.append(lines(one.site)[0].place)
        if number:
            verb = "was" if number == 1 else "were"
            summaries.append(f"{plural(number, 'connection')} {verb} acquired and not released")
        for hold in held:
            view = view_hold(RECORDER, hold)
            if view is not None:
                text += hold_lines(view, after=_when(hold, owner, began_at).removeprefix(", "))
                places.append(view.site[0].place)
        for one in incidents:
            site = lines(one.site)
            places.append(site[0].place)
            after = _when(one.hold, owner, began_at) if one.hold is not None else ""
            pool = pool_text(one.pool.library, one.pool.name, is_pool=True)
            text.append(f"acquired  {site_text(site)}   {pool}{after}")
            if _is_lost(one):
                text += lost_lines(site, one.hold)
            else:
                summaries.append(f"a connection {_FAILING[one.event]}")
                text.append(f"again     {site_text(lines(one.at))}" if one.at is not None else "")
        for hold, used in late:
            summaries.append(f"a connection was held for {duration(used)}")
            text.append(f"acquired  {site_text(lines(hold.site))}, held for {duration(used)}")
            places.append(lines(hold.site)[0].place)
        if is_fixture(owner):
            text.insert(0, f"by        {name_of(owner)}")
        return LeakedConnections("; ".join(dict.fromkeys(summaries)), [line for line in text if line], places)

    def explain(self, item: Any) -> None:
        """Add to a test that failed by itself what it holds or waited for."""
        text = [line for one in incidents_of(item) if one.event == "timed-out" for line in _waited_lines(one)]
        for hold in holds_of(item):
            view = view_hold(RECORDER, hold)
            if view is not None:
                text += hold_lines(view)
        if text:
            item.add_report_section("call", "connections (poolctl)", "\n".join(text))

    def mention_holds(self, owner: Any, held: list[Hold]) -> None:
        """Remember what a test that did not fail still holds after its teardown, for the end of the run."""
        for hold in held:
            self.mentioned.append(f"{name_of(owner)}: acquired {site_text(lines(hold.site))} and not released")

    def _mention(self, owner: Any, incidents: list[Incident]) -> None:
        for one in incidents:
            if one.event not in _MENTIONED or _is_lost(one):
                continue
            acquired = site_text(lines(one.site))
            if one.at is not None:
                released = site_text(lines(one.at))
                self.mentioned.append(f"acquired {acquired}, released by another thread {released}")
            else:
                self.mentioned.append(f"{name_of(owner)}: {acquired} left its release to the collector")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, Any]:
        """Show a leak as lines of its own, without the traceback of this plugin."""
        report = yield
        problem = call.excinfo.value if call.excinfo is not None else None
        if isinstance(problem, LeakedConnections):
            path, line, _ = item.reportinfo()
            traceback = ReprTraceback(
                [ReprEntryNative([f"{problem.summary}\n", *(f"  {line}\n" for line in problem.text)])], None, "native"
            )
            place = ReprFileLocation(str(path), (line or 0) + 1, problem.summary)
            report.longrepr = ExceptionChainRepr([(traceback, place, None)])
            # JUnit's writer takes the properties from the report of the teardown, which copies the item's.
            item.user_properties += [("poolctl_acquired", place) for place in problem.places]
        return report


def _is_lost(one: Incident) -> bool:
    return one.event == "collected" and one.pool.is_pool


def _when(hold: Hold, owner: Any, began_at: float) -> str:
    if is_fixture(owner):
        return ""
    after = (hold.acquired_at or began_at) - began_at
    return f", {duration(after)} into the test" if after >= 0 else ", before the test"


def _waited_lines(one: Incident) -> list[str]:
    pool = one.pool
    of = f" of {pool.max_open}" if pool.max_open is not None else ""
    text = [
        f"waited    {site_text(lines(one.site))}   {pool_text(pool.library, pool.name, is_pool=True)}",
        f"held      {len(one.holders)}{of}" + (f", and {pool.lost} lost for good" if pool.lost else ""),
    ]
    text += [f"  by      {site_text(lines(site))}, for {duration(age)}" for site, age in one.holders]
    return text
