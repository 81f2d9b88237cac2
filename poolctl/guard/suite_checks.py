"""The checks of the pytest plugin: which test or fixture acquired a connection and still holds it at its end.

Decides whose a connection is: that of the test, or of the fixture, that ran when it was acquired. A test is checked
after its fixtures of its own scope were torn down, since they may release what it acquired.
"""

import gc
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from _pytest._code.code import ExceptionChainRepr, ReprEntryNative, ReprFileLocation, ReprTraceback

from poolctl.guard.endings import note_error, watch_errors
from poolctl.guard.guard_report import is_exempt, lines, view_hold
from poolctl.guard.hooks import install
from poolctl.guard.ledger import Hold, Incident
from poolctl.guard.recorder import RECORDER
from poolctl.guard.text import duration, hold_lines, lost_lines, pool_text, site_text
from poolctl.units import parse_duration, plural

_SETTLE = 0.2
"""Seconds in which a connection that another thread is about to release may come back."""

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


class TestOrFixture:
    """Whose the connections are that are acquired while it runs: a test, or a fixture of a scope."""

    def __init__(self, name: str, *, is_fixture: bool) -> None:
        self.name = name
        self.is_fixture = is_fixture
        self.began_at = time.monotonic()
        self.seen: dict[int, int] = {}


class SuiteChecks:
    """The hooks of pytest, registered only when the guard is on."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._timeout = self._duration("timeout")
        self._threshold = self._duration("threshold")
        self._allowed = int(self._option("allow"))
        self._nextitem: Any = None
        self._torn_down: list[TestOrFixture] = []
        self._fixtures: dict[int, TestOrFixture] = {}
        self._mentioned: list[str] = []
        self._patched: list[tuple[Any, str, Any]] = []
        RECORDER.wait_limit = self._timeout or None
        RECORDER.set_threshold(self._threshold)
        install()
        watch_errors(RECORDER)
        self._watch_raises()

    def _option(self, name: str) -> Any:
        given = self._config.getoption(f"poolctl_{name}")
        return self._config.getini(f"poolctl_{name}") if given is None else given

    def _duration(self, name: str) -> float:
        value = self._option(name)
        try:
            return parse_duration(value)
        except ValueError as error:
            raise pytest.UsageError(f"poolctl_{name}: {value!r}: {error}") from None

    # Whose a connection is

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Generator[None, Any, Any]:
        """Remember which test follows, since that decides what is torn down."""
        self._nextitem = nextitem
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: Any) -> Generator[None, Any, Any]:
        """Begin a test. A second run of the same test begins with nothing held."""
        item._poolctl = TestOrFixture(item.nodeid, is_fixture=False)
        item._poolctl.seen = {id(one): one.count for one in RECORDER.ledger.incidents.values()}
        RECORDER.owner = item._poolctl
        try:
            return (yield)
        finally:
            RECORDER.owner = item._poolctl

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        """Let what a fixture acquires be the fixture's."""
        before = RECORDER.owner
        owner = TestOrFixture(f"fixture '{fixturedef.argname}' ({fixturedef.scope} scope)", is_fixture=True)
        self._fixtures[id(fixturedef)] = RECORDER.owner = owner
        try:
            return (yield)
        finally:
            RECORDER.owner = before

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_post_finalizer(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        """Remember a fixture that was torn down. It is checked when its whole scope was.

        What it acquired may belong to an object of another fixture, such as a session, which is torn down after it.
        """
        result = yield
        owner = self._fixtures.pop(id(fixturedef), None)
        if owner is not None:
            self._torn_down.append(owner)
        return result

    # The end of a test

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
        """Run a test and check it.

        If it seems to leak, its fixtures are torn down at once: whatever they release is no leak, and a leak is then a
        failure of the test and not an error of its teardown.
        """
        owner: TestOrFixture = item._poolctl
        RECORDER.owner = owner
        owner.began_at = time.monotonic()
        try:
            result = yield
        except BaseException as error:
            note_error(RECORDER, error)
            if isinstance(error, Exception):
                self._explain(item, owner)
            raise
        allowed, threshold = self._limits(item)
        if self._has_candidate(owner, allowed, threshold):
            self._tear_down(item)
            problem = self._check(owner, allowed=allowed, threshold=threshold)
            if problem is not None:
                raise problem
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: Any, nextitem: Any) -> Generator[None, Any, Any]:
        """Let a test be torn down. An error of a teardown that was done early appears here, where it belongs."""
        result = yield
        error = item.__dict__.pop("_poolctl_error", None)
        if error is not None:
            raise error
        owner = item.__dict__.get("_poolctl")
        RECORDER.owner = None
        fixtures, self._torn_down = self._torn_down, []
        if not RECORDER.ledger.incidents and not RECORDER.ledger.holds():
            # As nearly always. A test has a dozen fixtures where plugins bring theirs.
            return result
        problems = [problem for one in fixtures if (problem := self._check(one, allowed=0)) is not None]
        if problems:
            raise problems[0]
        if owner is not None:
            # What its setup or teardown acquired; the call was checked already.
            self._forgive(owner)
        return result

    def _limits(self, item: Any) -> tuple[int, float]:
        allowed, threshold = self._allowed, self._threshold
        for mark in item.iter_markers("poolctl"):
            allowed = int(mark.kwargs.get("allow", allowed))
            if "threshold" in mark.kwargs:
                threshold = parse_duration(mark.kwargs["threshold"])
            break
        return allowed, threshold

    def _has_candidate(self, owner: TestOrFixture, allowed: int, threshold: float) -> bool:
        return (
            len(list(_holds_of(owner))) > allowed
            or any(True for _ in _incidents_of(owner))
            or (threshold > 0 and bool(self._too_long(owner, threshold)))
        )

    def _too_long(self, owner: TestOrFixture, threshold: float) -> list[tuple[Hold, float]]:
        # A hold within the test cannot be longer than the test.
        if time.monotonic() - owner.began_at <= threshold:
            return []
        now = time.monotonic()
        late = [(hold, used) for hold, used in RECORDER.ledger.late if hold.owner is owner and used > threshold]
        return late + [
            (hold, used) for hold in _holds_of(owner) if (used := now - (hold.acquired_at or now)) > threshold
        ]

    def _tear_down(self, item: Any) -> None:
        try:
            item.session._setupstate.teardown_exact(self._nextitem)
        except BaseException as error:
            item._poolctl_error = error

    def _check(self, owner: TestOrFixture, *, allowed: int, threshold: float = 0.0) -> LeakedConnections | None:
        """Find what ``owner`` still holds and what went wrong with its connections. None if nothing."""
        held = list(_holds_of(owner))
        if len(held) > allowed:
            held = self._settle(owner, allowed)
        incidents = list(_incidents_of(owner))
        self._mention(owner, incidents)
        problems = [one for one in incidents if one.event in _FAILING or _is_lost(one)]
        late = self._too_long(owner, threshold) if threshold > 0 else []
        waited = [one for one in incidents if one.event == "timed-out" and self._timeout]
        try:
            if len(held) > allowed or problems or late or waited:
                return self._problem(owner, held if len(held) > allowed else [], problems, late, waited)
            return None
        finally:
            self._forgive(owner)

    def _settle(self, owner: TestOrFixture, allowed: int) -> list[Hold]:
        """Give what is still held the chance to come back: cycles are collected, other threads may be releasing."""
        gc.collect()
        deadline = time.monotonic() + _SETTLE
        while len(held := list(_holds_of(owner))) > allowed and time.monotonic() < deadline:
            if not any(hold.actor.kind == "thread" and hold.actor.name != "MainThread" for hold in held):
                break
            time.sleep(0.01)
        return held

    @staticmethod
    def _forgive(owner: TestOrFixture) -> None:
        """Report nothing of ``owner`` twice: what it holds belongs to no one from here on."""
        for hold in _holds_of(owner):
            hold.owner = None

    # Words

    def _problem(
        self,
        owner: TestOrFixture,
        held: list[Hold],
        incidents: list[Incident],
        late: list[tuple[Hold, float]],
        waited: list[Incident],
    ) -> LeakedConnections:
        summaries, text, places = [], [], []
        lost = sum(one.count for one in incidents if _is_lost(one))
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
                text += hold_lines(view, after=_when(hold, owner).removeprefix(", "))
                places.append(view.site[0].place)
        for one in incidents:
            site = lines(one.site)
            places.append(site[0].place)
            after = _when(one.hold, owner) if one.hold is not None else ""
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
        if owner.is_fixture:
            text.insert(0, f"by        {owner.name}")
        return LeakedConnections("; ".join(dict.fromkeys(summaries)), [line for line in text if line], places)

    def _explain(self, item: Any, owner: TestOrFixture) -> None:
        """Add to a test that failed by itself what it holds or waited for."""
        text = [line for one in _incidents_of(owner) if one.event == "timed-out" for line in _waited_lines(one)]
        for hold in _holds_of(owner):
            view = view_hold(RECORDER, hold)
            if view is not None:
                text += hold_lines(view)
        if text:
            item.add_report_section("call", "connections (poolctl)", "\n".join(text))

    def _mention(self, owner: TestOrFixture, incidents: list[Incident]) -> None:
        for one in incidents:
            if one.event not in _MENTIONED or _is_lost(one):
                continue
            acquired = site_text(lines(one.site))
            if one.at is not None:
                released = site_text(lines(one.at))
                self._mentioned.append(f"acquired {acquired}, released by another thread {released}")
            else:
                self._mentioned.append(f"{owner.name}: {acquired} left its release to the collector")

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

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Report what did not fail a test."""
        for line in list(dict.fromkeys(self._mentioned))[:20]:
            terminalreporter.write_line(f"poolctl: {line}")
        for about, why in RECORDER.complaints.items():
            terminalreporter.write_line(f"poolctl: not seen: {about}: {why}")

    # Errors that a test expects

    def _watch_raises(self) -> None:
        """Watch the errors that pytest.raises and unittest's assertRaises catch: they end error paths."""
        import unittest.case

        from _pytest import raises

        for owner in (getattr(raises, "RaisesExc", None), getattr(unittest.case, "_AssertRaisesContext", None)):
            if owner is not None and hasattr(owner, "__exit__"):
                original = owner.__exit__
                self._patched.append((owner, "__exit__", original))
                owner.__exit__ = _make_exit(original)

    def pytest_unconfigure(self) -> None:
        """Take out what this plugin put in, but for the hooks of the libraries."""
        for owner, name, original in self._patched:
            setattr(owner, name, original)
        RECORDER.wait_limit = None


def _make_exit(original: Callable[..., Any]) -> Callable[..., Any]:
    def __exit__(self: Any, kind: Any, error: Any, traceback: Any) -> Any:
        if error is not None:
            note_error(RECORDER, error, traceback)
        return original(self, kind, error, traceback)

    return __exit__


def _holds_of(owner: TestOrFixture) -> Iterator[Hold]:
    for hold in RECORDER.ledger.holds():
        if hold.owner is owner and not is_exempt(RECORDER, hold) and view_hold(RECORDER, hold) is not None:
            yield hold


def _incidents_of(owner: TestOrFixture) -> Iterator[Incident]:
    for one in list(RECORDER.ledger.incidents.values()):
        if one.owner is owner and one.count > owner.seen.get(id(one), 0):
            yield one


def _is_lost(one: Incident) -> bool:
    return one.event == "collected" and one.pool.is_pool


def _when(hold: Hold, owner: TestOrFixture) -> str:
    after = (hold.acquired_at or owner.began_at) - owner.began_at
    if after < 0:
        return ", before the test"
    return f", {duration(after)} into the {'fixture' if owner.is_fixture else 'test'}"


def _waited_lines(one: Incident) -> list[str]:
    pool = one.pool
    of = f" of {pool.max_open}" if pool.max_open is not None else ""
    text = [
        f"waited    {site_text(lines(one.site))}   {pool_text(pool.library, pool.name, is_pool=True)}",
        f"held      {len(one.holders)}{of}" + (f", and {pool.lost} lost for good" if pool.lost else ""),
    ]
    text += [f"  by      {site_text(lines(site))}, for {duration(age)}" for site, age in one.holders]
    return text
