"""The pytest plugin's entry point: it adds the options, and loads the rest only if they switch it on.

pytest imports this file in every run of every project beside which poolctl is installed, so it imports nothing.
"""

import os
from typing import Any

import pytest

_MARK = "poolctl(allow=N): the test may leave N connections unreleased; poolctl(threshold=SECONDS): longest hold."


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and their spellings in the configuration."""
    group = parser.getgroup("poolctl", "connection leaks")
    group.addoption("--poolctl", action="store_true", default=False, help="Fail tests that leak connections.")
    group.addoption("--no-poolctl", action="store_true", default=False, help="Switch the guard off.")
    group.addoption(
        "--poolctl-timeout",
        metavar="TIME",
        default=None,
        help="Fail a test that waits longer for a connection, with its holders (5s).",
    )
    group.addoption(
        "--poolctl-threshold", metavar="TIME", default=None, help="Fail a test that holds a connection longer (off)."
    )
    group.addoption(
        "--poolctl-allow", metavar="N", type=int, default=None, help="Connections that each test may leave (0)."
    )
    parser.addini("poolctl", "Fail tests that leak connections.", type="bool", default=False)
    parser.addini("poolctl_timeout", "As --poolctl-timeout.", default="5s")
    parser.addini("poolctl_threshold", "As --poolctl-threshold.", default="0")
    parser.addini("poolctl_allow", "As --poolctl-allow.", default="0")


def is_on(config: Any) -> bool:
    """Return True if an option, the configuration, or ``poolctl guard -- pytest`` switches the guard on."""
    known = config.known_args_namespace
    if known.no_poolctl:
        return False
    return bool(known.poolctl or "POOLCTL_GUARD_ADDRESS" in os.environ or config.getini("poolctl"))


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: Any) -> None:
    """Hook the libraries before a conftest file imports them."""
    if is_on(early_config):
        from poolctl.guard.hooks import install

        install()


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and the checks if they are on."""
    config.addinivalue_line("markers", _MARK)
    if is_on(config):
        from poolctl.guard.suite_checks import SuiteChecks

        config.pluginmanager.register(SuiteChecks(config), "poolctl-checks")
