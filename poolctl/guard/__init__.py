"""The guard: which line of a Python program acquires a connection and does not release it.

Runs inside the user's program, so it imports the standard library alone, and no fault of its own reaches the program.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolctl.guard.watch_pool import WatchedPool

__all__ = ["watch"]


def watch(target: Any, *, name: str | None = None) -> "WatchedPool":
    """Watch one pool or SQLAlchemy engine of this program, until ``stop()`` is called on the result.

    ``name``: what its figures are called; None takes the pool's own. Raises TypeError for what is no known pool.
    """
    from poolctl.guard.watch_pool import WatchedPool

    return WatchedPool(target, name=name)
