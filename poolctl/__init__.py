"""Show, explain and prevent database connection-pool exhaustion."""

import time

__all__ = ["BEGAN", "__version__"]

BEGAN = time.monotonic()
"""When this process began, on the monotonic clock. The user has waited since then, and a little longer."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(name)
    # Read on demand: importlib.metadata takes longer than the rest of `poolctl --help`.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("poolctl")
    except PackageNotFoundError:
        return "0+unknown"
