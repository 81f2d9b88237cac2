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
from poolctl.guard.suite_owners import forgive, holds_of, incidents_of, too_long, torn_down_fixtures

if TYPE_CHECKING:
    from poolctl.guard.suite_problems import LeakedConnections

_SETTLE = 0.2
"""Seconds in which a connection that another thread is about to release may come back."""

_MOST_LINES = 20
"""Lines at the end of a run."""

_monotonic = time.monotonic
_ledger = RECORDER.ledger


class SuiteChecks:
    """The hooks of pytest, registered only when the guard is on."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.timeout = self._duration("timeout")
        self._threshold = self._duration("threshold")
        self._allowed = int(self._option("allow"))
        self._from_workers: list[str] = []
        self._item: Any = None
        self._problem: LeakedConnections | None = None
        self._began_at = 0.0
        self._is_failed = False
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
    def pytest_runtest_setup(self, item: Any) -> None:
        """Begin a test. A second run of the same test begins with nothing held."""
        if item is self._item:
            forgive(item)
        self._item = RECORDER.owner = item
        self._is_failed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """Let what a fixture acquires be the fixture's."""
        if fixturedef.params and (_ledger.incidents or _ledger.holds()):
            # Set up for the next parameter: pytest has torn it down just now.
            self._note(self._check(fixturedef, allowed=0))
        before = RECORDER.owner
        RECORDER.owner = fixturedef
        try:
            return (yield)
        finally:
            RECORDER.owner = before

    # The end of a test

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
        """Run a test and check it.

        If it seems to leak, its fixtures are torn down at once: whatever they release is no leak, and a leak is then a
        failure of the test and not an error of its teardown.
        """
        RECORDER.owner = item
        # A directory may have that name, too: then there is a look at the marks for nothing.
        allowed, threshold = self._limits(item) if "poolctl" in item.keywords else (self._allowed, self._threshold)
        if threshold != RECORDER.threshold:
            RECORDER.set_threshold(threshold)
        self._began_at = _monotonic()
        try:
            result = yield
        except BaseException as error:
            self._note_failure(item, error, error.__traceback__)
            raise
        # unittest's tests raise nothing here: pytest keeps what ended them, and takes it when it writes the report.
        if failed := item.__dict__.get("_excinfo"):
            self._note_failure(item, failed[0].value, failed[0].tb)
        elif (threshold or _ledger.incidents or _ledger.holds()) and self._has_candidate(item, allowed, threshold):
            self._tear_down(item)
            problem = self._check(item, allowed=allowed, threshold=threshold)
            if problem is not None:
                raise problem
        return result

    def _note_failure(self, item: Any, error: BaseException, traceback: Any) -> None:
        """Let a test that ended by itself show what it holds and waited for."""
        if _ledger.incidents or _ledger.holds():
            note_error(RECORDER, error, traceback)
            self._report().explain(item)
            self._is_failed = not isinstance(error, pytest.skip.Exception | pytest.xfail.Exception) and (
                item.get_closest_marker("xfail") is None
            )

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: Any) -> None:
        """Check what was torn down. An error of a teardown that was done early appears here, where it belongs."""
        RECORDER.owner = None
        error: BaseException | None = item.__dict__.pop("_poolctl_error", None)
        if _ledger.incidents or _ledger.holds():
            for fixture in torn_down_fixtures():
                self._note(self._check(fixture, allowed=0))
            # What its setup or teardown acquired, or a test that was skipped or fails as expected. The call of any
            # other was checked already, or shows by itself what it holds.
            if not self._is_failed and any(True for _ in holds_of(item)):
                self._report().mention_holds(item, _settle(item, 0))
            forgive(item)
        problem, self._problem = error or self._problem, None
        if problem is not None:
            raise problem

    def _note(self, problem: "LeakedConnections | None") -> None:
        """Keep what a fixture did wrong, for the end of this test's teardown."""
        if self._problem is not None and problem is not None:
            self._problem.add(problem)
        else:
            self._problem = self._problem or problem

    def _limits(self, item: Any) -> tuple[int, float]:
        mark = item.get_closest_marker("poolctl")
        given = mark.kwargs if mark is not None else {}
        threshold = self._threshold
        if "threshold" in given:
            from poolctl.units import parse_duration

            threshold = parse_duration(given["threshold"])
        return int(given.get("allow", self._allowed)), threshold

    def _tear_down(self, item: Any) -> None:
        """End the fixtures of the test alone: those of its module or class go on, or end after it as usual."""
        try:
            item.session._setupstate.teardown_exact(item.parent)
        except BaseException as error:
            item._poolctl_error = error

    def _check(self, owner: Any, *, allowed: int, threshold: float = 0.0) -> "LeakedConnections | None":
        """Find what ``owner`` still holds and what went wrong with its connections. None if nothing."""
        held = list(holds_of(owner))
        if len(held) > allowed:
            held = _settle(owner, allowed)
        incidents = list(incidents_of(owner))
        late = too_long(owner, threshold, self._began_at)
        try:
            if len(held) <= allowed:
                held = []
            if not (held or incidents or late):
                return None
            problem: LeakedConnections | None = self._report().find_problem(
                owner, held, incidents, late, self._began_at
            )
            return problem
        finally:
            forgive(owner)

    def _has_candidate(self, item: Any, allowed: int, threshold: float) -> bool:
        return (
            len(list(holds_of(item))) > allowed
            or any(True for _ in incidents_of(item))
            or bool(too_long(item, threshold, self._began_at))
        )

    def _report(self) -> Any:
        """Return what finds the words, which is registered with pytest when it is first needed."""
        manager = self._config.pluginmanager
        report = manager.get_plugin("poolctl-problems")
        if report is None:
            from poolctl.guard.suite_problems import SuiteProblems

            report = SuiteProblems(self.timeout)
            manager.register(report, "poolctl-problems")
        return report

    def pytest_sessionfinish(self) -> None:
        """Let a worker of xdist send its lines to the process that has the terminal."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["poolctl"] = self._mentions()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the lines of a worker of xdist. One that crashed has sent none."""
        self._from_workers += getattr(node, "workeroutput", {}).get("poolctl", [])

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Report what failed no test, and what could not be seen."""
        for line in list(dict.fromkeys(self._mentions() + self._from_workers))[:_MOST_LINES]:
            terminalreporter.write_line(f"poolctl: {line}")

    def _mentions(self) -> list[str]:
        report = self._config.pluginmanager.get_plugin("poolctl-problems")
        unseen = [f"not seen: {about}: {why}" for about, why in RECORDER.complaints.items()]
        return unseen + list(dict.fromkeys(report.mentioned if report is not None else []))[:_MOST_LINES]

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


def _settle(owner: Any, allowed: int) -> list[Hold]:
    """Give what is still held the chance to come back: cycles are collected, other threads may be releasing."""
    gc.collect()
    deadline = _monotonic() + _SETTLE
    while len(held := list(holds_of(owner))) > allowed and _monotonic() < deadline:
        if not any(hold.actor.kind == "thread" and hold.actor.name != "MainThread" for hold in held):
            break
        time.sleep(0.01)
    return held
