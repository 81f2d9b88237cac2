"""The checks of the pytest plugin: which test or fixture acquired a connection and still holds it at its end.

Decides whose a connection is: that of the test, or of the fixture, that ran when it was acquired. A test is checked
after its fixtures of its own scope were torn down, since they may release what it acquired. What a leak is called is
left to ``suite_problems.py``, which is loaded with the first test that may have one: the others pay for nothing but
these few lines.
"""

import gc
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from poolctl.guard.endings import note_error, watch_errors
from poolctl.guard.hooks import install
from poolctl.guard.ledger import Hold
from poolctl.guard.recorder import RECORDER
from poolctl.guard.suite_owners import TestOrFixture, holds_of, incidents_of, too_long

if TYPE_CHECKING:
    from poolctl.guard.suite_problems import LeakedConnections

_SETTLE = 0.2
"""Seconds in which a connection that another thread is about to release may come back."""

_monotonic = time.monotonic
_ledger = RECORDER.ledger


class SuiteChecks:
    """The hooks of pytest, registered only when the guard is on."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.timeout = self._duration("timeout")
        self._threshold = self._duration("threshold")
        self._allowed = int(self._option("allow"))
        self._nextitem: Any = None
        self._torn_down: list[TestOrFixture] = []
        self._fixtures: dict[Any, TestOrFixture] = {}
        self._patched: list[tuple[Any, str, Any]] = []
        RECORDER.wait_limit = self.timeout or None
        RECORDER.set_threshold(self._threshold)
        install()
        watch_errors(RECORDER)

    def _option(self, name: str) -> Any:
        given = self._config.getoption(f"poolctl_{name}")
        return self._config.getini(f"poolctl_{name}") if given is None else given

    def _duration(self, name: str) -> float:
        from poolctl.units import parse_duration

        value = self._option(name)
        try:
            return parse_duration(value)
        except ValueError as error:
            raise pytest.UsageError(f"poolctl_{name}: {value!r}: {error}") from None

    # Whose a connection is

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, nextitem: Any) -> None:
        """Remember which test follows, since that decides what is torn down."""
        self._nextitem = nextitem

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: Any) -> None:
        """Begin a test. A second run of the same test begins with nothing held."""
        item._poolctl = RECORDER.owner = TestOrFixture(item, is_fixture=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """Let what a fixture acquires be the fixture's."""
        before = RECORDER.owner
        self._fixtures[fixturedef] = RECORDER.owner = TestOrFixture(fixturedef, is_fixture=True)
        try:
            return (yield)
        finally:
            RECORDER.owner = before

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        """Remember a fixture that was torn down. It is checked when its whole scope was.

        What it acquired may belong to an object of another fixture, such as a session, which is torn down after it.
        """
        owner = self._fixtures.pop(fixturedef, None)
        if owner is not None:
            self._torn_down.append(owner)

    # The end of a test

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
        """Run a test and check it.

        If it seems to leak, its fixtures are torn down at once: whatever they release is no leak, and a leak is then a
        failure of the test and not an error of its teardown.
        """
        owner: TestOrFixture = item._poolctl
        RECORDER.owner = owner
        # A directory may have that name, too: then there is a look at the marks for nothing.
        allowed, threshold = self._limits(item) if "poolctl" in item.keywords else (self._allowed, self._threshold)
        if threshold != RECORDER.threshold:
            RECORDER.set_threshold(threshold)
        owner.began_at = _monotonic()
        try:
            result = yield
        except BaseException as error:
            self._note_failure(item, owner, error, error.__traceback__)
            raise
        # unittest's tests raise nothing here: pytest keeps what ended them, and takes it when it writes the report.
        if failed := item.__dict__.get("_excinfo"):
            self._note_failure(item, owner, failed[0].value, failed[0].tb)
        elif (threshold or _ledger.incidents or _ledger.holds()) and _has_candidate(owner, allowed, threshold):
            self._tear_down(item)
            problem = self._check(owner, allowed=allowed, threshold=threshold)
            if problem is not None:
                raise problem
        return result

    def _note_failure(self, item: Any, owner: TestOrFixture, error: BaseException, traceback: Any) -> None:
        """Let a test that ended by itself show what it holds and waited for."""
        if _ledger.incidents or _ledger.holds():
            note_error(RECORDER, error, traceback)
            self._report().explain(item, owner)
            owner.is_failed = not isinstance(error, pytest.skip.Exception | pytest.xfail.Exception) and (
                item.get_closest_marker("xfail") is None
            )

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: Any) -> None:
        """Check what was torn down. An error of a teardown that was done early appears here, where it belongs."""
        error = item.__dict__.pop("_poolctl_error", None)
        if error is not None:
            raise error
        RECORDER.owner = None
        fixtures, self._torn_down = self._torn_down, []
        if not _ledger.incidents and not _ledger.holds():
            # As nearly always. A test has a dozen fixtures where plugins bring theirs.
            return
        problems = [problem for one in fixtures if (problem := self._check(one, allowed=0)) is not None]
        if problems:
            raise problems[0]
        owner = item.__dict__.get("_poolctl")
        if owner is not None:
            # What its setup or teardown acquired, or a test that was skipped or fails as expected. The call of any
            # other was checked already, or shows by itself what it holds.
            if not owner.is_failed and any(True for _ in holds_of(owner)):
                self._report().mention_holds(owner, _settle(owner, 0))
            _forgive(owner)

    def _limits(self, item: Any) -> tuple[int, float]:
        mark = item.get_closest_marker("poolctl")
        given = mark.kwargs if mark is not None else {}
        threshold = self._threshold
        if "threshold" in given:
            from poolctl.units import parse_duration

            threshold = parse_duration(given["threshold"])
        return int(given.get("allow", self._allowed)), threshold

    def _tear_down(self, item: Any) -> None:
        try:
            item.session._setupstate.teardown_exact(self._nextitem)
        except BaseException as error:
            item._poolctl_error = error

    def _check(self, owner: TestOrFixture, *, allowed: int, threshold: float = 0.0) -> "LeakedConnections | None":
        """Find what ``owner`` still holds and what went wrong with its connections. None if nothing."""
        held = list(holds_of(owner))
        if len(held) > allowed:
            held = _settle(owner, allowed)
        incidents = list(incidents_of(owner))
        late = too_long(owner, threshold)
        try:
            if len(held) <= allowed:
                held = []
            return self._report().find_problem(owner, held, incidents, late) if held or incidents or late else None
        finally:
            _forgive(owner)

    def _report(self) -> Any:
        """Return what finds the words, which is registered with pytest when it is first needed."""
        manager = self._config.pluginmanager
        report = manager.get_plugin("poolctl-problems")
        if report is None:
            from poolctl.guard.suite_problems import SuiteProblems

            report = SuiteProblems(self.timeout)
            manager.register(report, "poolctl-problems")
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Report what could not be seen."""
        for about, why in RECORDER.complaints.items():
            terminalreporter.write_line(f"poolctl: not seen: {about}: {why}")

    # Errors that a test expects

    def pytest_collection_finish(self) -> None:
        """Watch the errors that pytest.raises and unittest's assertRaises catch: they end error paths."""
        from _pytest import raises

        # A suite without it need not import unittest; one that uses it has done so by now.
        case = sys.modules.get("unittest.case")
        for owner in (getattr(raises, "RaisesExc", None), getattr(case, "_AssertRaisesContext", None)):
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


def _has_candidate(owner: TestOrFixture, allowed: int, threshold: float) -> bool:
    return (
        len(list(holds_of(owner))) > allowed
        or any(True for _ in incidents_of(owner))
        or bool(too_long(owner, threshold))
    )


def _settle(owner: TestOrFixture, allowed: int) -> list[Hold]:
    """Give what is still held the chance to come back: cycles are collected, other threads may be releasing."""
    gc.collect()
    deadline = _monotonic() + _SETTLE
    while len(held := list(holds_of(owner))) > allowed and _monotonic() < deadline:
        if not any(hold.actor.kind == "thread" and hold.actor.name != "MainThread" for hold in held):
            break
        time.sleep(0.01)
    return held


def _forgive(owner: TestOrFixture) -> None:
    """Report nothing of ``owner`` twice: what it holds belongs to no one from here on."""
    for hold in holds_of(owner):
        hold.owner = None
