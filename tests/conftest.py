"""What every test shares: servers that are missing, the servers of live tests, and the disposition of Ctrl-C."""

import os
import signal
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from guard_runs import serve_environment
from hypothesis import HealthCheck, settings

from poolctl.engines.live.live_servers import ThrowAwayServers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Ignored, as after nohup and in some CI systems, it would be ignored by every process that a test starts, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEMANDED = os.environ.get("POOLCTL_REQUIRE_SERVERS") == "1"
"""In CI every server has to be there: a test that skips for want of one has not been run."""

# A busy machine is slow for a moment at any example: that is no property of what is tested.
settings.register_profile(
    "poolctl",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # In CI the same examples each time: new ones are looked for where somebody can follow them up.
    derandomize=DEMANDED,
)
settings.load_profile("poolctl")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report: Any = yield
    if DEMANDED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and POOLCTL_REQUIRE_SERVERS=1 forbids it: {report.longrepr[2]}"
    return report


@pytest.fixture(scope="session")
def servers() -> Iterator[ThrowAwayServers]:
    """Throw-away servers, each kept for the next test that asks for the same."""
    with ThrowAwayServers() as servers:
        yield servers


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    """The environment of programs that run under the guard, with the address of a PostgreSQL."""
    with serve_environment() as environment:
        yield environment
