"""Shows, explains and prevents database connection-pool exhaustion."""

import time

__all__ = ["BEGAN", "__version__"]

BEGAN = time.monotonic()
"""When this process began, but for the interpreter's own start: whoever ran it waits since then."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(name)
    # Read on demand: importlib.metadata takes longer than the rest of `poolctl --help`.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("poolctl")
    except PackageNotFoundError:
        return "0+unknown"
