"""What every test shares: servers that are missing, the servers of live tests, the order of the files, compiled
modules, and the disposition of Ctrl-C."""

import importlib
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from guard_runs import serve_environment
from hypothesis import HealthCheck, settings

import poolctl
from poolctl.engines.live.live_servers import ThrowAwayServers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Ignored, as after nohup and in some CI systems, it would be ignored by every process that a test starts, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if sys.dont_write_bytecode:
    # As in many containers. A thousand processes would compile poolctl a thousand times: they keep it out of the tree.
    cache = Path(__file__).parents[1] / ".pytest_cache" / "bytecode"
    shutil.rmtree(cache / tempfile.gettempdir().lstrip("/"), ignore_errors=True)  # of programs that tests wrote
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(cache)

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
if DEMANDED:
    # Hypothesis tries the constants of every imported module of poolctl, too: with all of them here, its examples do
    # not depend on which tests the same process ran before.
    for module in pkgutil.walk_packages(poolctl.__path__, "poolctl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report: Any = yield
    if DEMANDED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and POOLCTL_REQUIRE_SERVERS=1 forbids it: {report.longrepr[2]}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that wait for servers: what only computes fills the cores while the last of those end."""
    waiting = Counter(item.path for item in items if item.get_closest_marker("server"))
    items.sort(key=lambda item: -waiting[item.path])


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
