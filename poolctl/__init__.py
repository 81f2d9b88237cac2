"""Shows, explains and prevents database connection-pool exhaustion."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    # Read on demand: importlib.metadata costs more than the rest of `poolctl --help`.
    if name == "__version__":
        try:
            return version("poolctl")
        except PackageNotFoundError:
            return "0+unknown"
    raise AttributeError(name)
