"""What every test shares: servers that are missing, and the pods and sandboxes that live tests run on."""

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from poolctl.engines.live.live_servers import ThrowAwayServers

DEMANDED = os.environ.get("POOLCTL_REQUIRE_SERVERS") == "1"
"""In CI every server has to be there: a test that skips for want of one has not been run."""


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
