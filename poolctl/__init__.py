"""Shows, explains and prevents database connection-pool exhaustion."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(name)
    # Read on demand: importlib.metadata takes longer than the rest of `poolctl --help`.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("poolctl")
    except PackageNotFoundError:
        return "0+unknown"
