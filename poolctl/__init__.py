"""Show, explain and prevent database connection-pool exhaustion.

``simulate()``, ``inspect()`` and ``recommend()`` do what the commands of these names do, and return data; see
docs/python.md. Errors are ``poolctl.errors.PoolctlError`` and its kinds.

PYTEST_DONT_REWRITE: poolctl's pytest plugin has no assertions to rewrite, and where the guard imports poolctl before
pytest does, pytest would warn that it came too late for that.
"""

import time

# As type checkers know it, without importing typing: the sooner ``cli`` is reached, the sooner it can catch a Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolctl import errors
    from poolctl.api.inspect import inspect
    from poolctl.api.progress import Progress, RunView, SamplingView, SilentView, WatchView
    from poolctl.api.recommend import check_fleet, recommend
    from poolctl.api.requests import InspectRequest, RecommendRequest, SimulateRequest, SweepLoad
    from poolctl.api.results import FleetResult, InspectResult, RecommendResult, SimulateResult
    from poolctl.api.simulate import simulate

    __version__: str

__all__ = [
    "BEGAN",
    "FleetResult",
    "InspectRequest",
    "InspectResult",
    "Progress",
    "RecommendRequest",
    "RecommendResult",
    "RunView",
    "SamplingView",
    "SilentView",
    "SimulateRequest",
    "SimulateResult",
    "SweepLoad",
    "WatchView",
    "__version__",
    "check_fleet",
    "errors",
    "inspect",
    "recommend",
    "simulate",
]

BEGAN = time.monotonic()
"""When this process began, on the monotonic clock. The user has waited since then, and a little longer."""

_PLACES = {
    "poolctl.api.inspect": ("inspect",),
    "poolctl.api.progress": ("Progress", "RunView", "SamplingView", "SilentView", "WatchView"),
    "poolctl.api.recommend": ("check_fleet", "recommend"),
    "poolctl.api.requests": ("InspectRequest", "RecommendRequest", "SimulateRequest", "SweepLoad"),
    "poolctl.api.results": ("FleetResult", "InspectResult", "RecommendResult", "SimulateResult"),
    "poolctl.api.simulate": ("simulate",),
}
"""What each file exports. Imported on first use: `poolctl --help` needs none of it."""


if not TYPE_CHECKING:  # a type checker would take any name at all for an attribute

    def __getattr__(name: str) -> "Any":
        from importlib import import_module

        if name == "errors":
            return import_module("poolctl.errors")
        if name == "__version__":
            return _find_version()
        for module, names in _PLACES.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module 'poolctl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _find_version() -> str:
    # Read on demand: importlib.metadata takes longer than the rest of `poolctl --help`.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("poolctl")
    except PackageNotFoundError:
        return "0+unknown"
