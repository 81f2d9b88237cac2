"""One pool of a running program, watched from inside: its holders as data, its figures as metrics, a line when it is
exhausted.

A program that wants this calls ``poolctl.guard.watch(pool_or_engine)``; without that call nothing is hooked.
"""

import contextlib
import logging
import sys
from collections import Counter
from importlib import import_module
from time import monotonic
from typing import Any, Self

from poolctl.guard import hooks
from poolctl.guard.guard_report import HeldConnection, Line, view_hold
from poolctl.guard.ledger import GuardedPool, Hold
from poolctl.guard.recorder import RECORDER
from poolctl.guard.text import duration, site_text

LOG_EVERY = 10.0
"""Seconds between two lines about the same exhausted pool."""

logger = logging.getLogger("poolctl.guard")

_POOLS = {
    "psycopg_pool": (("psycopg_pool", "ConnectionPool"), ("psycopg_pool", "AsyncConnectionPool")),
    "psycopg2_pool": (("psycopg2.pool", "AbstractConnectionPool"),),
    "sqlalchemy": (("sqlalchemy.pool", "Pool"),),
    "asyncpg": (("asyncpg.pool", "Pool"),),
    "aiopg": (("aiopg.pool", "Pool"),),
}
"""The file of hooks, and the classes that its ``know_pool`` takes."""

_watched: dict[int, "WatchedPool"] = {}


class WatchedPool:
    """What one pool does, from now on until ``stop()``. ``target``: a pool, or an engine of SQLAlchemy."""

    def __init__(self, target: Any, *, name: str | None = None) -> None:
        # An asyncio engine has its pool at the engine below it.
        engine = getattr(target, "sync_engine", target)
        self._target = getattr(engine, "pool", target)
        library = next(
            (
                library
                for library, classes in _POOLS.items()
                if any(
                    module in sys.modules and isinstance(self._target, getattr(sys.modules[module], kind))
                    for module, kind in classes
                )
            ),
            None,
        )
        if library is None:
            raise TypeError(f"poolctl.guard.watch: {type(target).__name__} is no pool or engine that the guard knows")
        if not RECORDER.hooked:
            RECORDER.only = {}  # nothing else is recorded, unless the guard command or pytest is at work already
        if RECORDER.only is not None:
            RECORDER.only[id(self._target)] = name or ""
        hooks.install()
        pool = import_module(f"poolctl.guard.hooks.{library}").know_pool(self._target)
        assert pool is not None
        self._pool: GuardedPool = pool
        if name is not None:
            pool.name = name
        self._logged_at = -LOG_EVERY
        _watched[id(pool)] = self
        RECORDER.on_exhausted = _on_exhausted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def holders(self) -> tuple[HeldConnection, ...]:
        """List the connections that are out now, the longest held first, with the lines that acquired them."""
        holds = sorted(RECORDER.ledger.holds_of(self._pool), key=lambda hold: hold.acquired_at or 0.0)
        return tuple(view for hold in holds if (view := view_hold(RECORDER, hold)) is not None)

    def holders_by_site(self) -> dict[tuple[Line, ...], int]:
        """Count the connections that are out now by the lines that acquired them, most first."""
        return dict(Counter(held.site for held in self.holders()).most_common())

    def oldest_hold(self) -> float:
        """Return the age in seconds of the longest hold; 0 if nothing is held."""
        since = min((hold.acquired_at or 0.0 for hold in RECORDER.ledger.holds_of(self._pool)), default=None)
        return 0.0 if since is None else monotonic() - since

    def figures(self) -> dict[str, float]:
        """Return the pool's figures under OpenTelemetry's names. In seconds; totals count from ``watch()`` on."""
        pool = self._pool
        figures = {
            "db.client.connection.count{used}": float(pool.out),
            "db.client.connection.pending_requests": float(self._count_waiting()),
            "db.client.connection.timeouts": float(pool.timed_out + pool.refused),
            "db.client.connection.wait_time.count": float(pool.acquired),
            "db.client.connection.wait_time.sum": pool.wait_time,
            "db.client.connection.use_time.count": float(pool.released),
            "db.client.connection.use_time.sum": pool.use_time,
            "poolctl.guard.oldest_hold": self.oldest_hold(),
        }
        if pool.max_open is not None:
            figures["db.client.connection.max"] = float(pool.max_open)
        idle = self._count_idle()
        if idle is not None:
            figures["db.client.connection.count{idle}"] = float(idle)
        return figures

    def prometheus(self) -> str:
        """Write the figures as Prometheus text, which ``poolctl inspect --pool-stats`` reads.

        The labels of a hold name its line, state and backend: as many series as the pool has connections out.
        """
        name = f'db_client_connection_pool_name="{_escape(self._pool.name)}"'
        lines = []
        for key, value in self.figures().items():
            metric, _, state = key.partition("{")
            labels = name + (f',db_client_connection_state="{state[:-1]}"' if state else "")
            lines.append(f"{_metric(metric)}{{{labels}}} {value:g}")
        now = monotonic()
        for held in self.holders():
            labels = ",".join(
                f'{label}="{_escape(str(text))}"'
                for label, text in (
                    ("site", site_text(held.site)),
                    ("state", held.state),
                    ("backend_pid", "" if held.backend_pid is None else held.backend_pid),
                    ("outcome", held.actor_outcome),
                )
            )
            lines.append(f"poolctl_guard_hold_seconds{{{name},{labels}}} {now - (held.acquired_at or now):g}")
        return "\n".join(lines) + "\n"

    def stop(self) -> None:
        """Watch no longer. When no pool is watched any more, the libraries are as they were."""
        _watched.pop(id(self._pool), None)
        if RECORDER.only is not None:
            RECORDER.only.pop(id(self._target), None)
            if not RECORDER.only:
                hooks.uninstall()
                RECORDER.only = None
                RECORDER.drop_pool(id(self._target))
        if not _watched:
            RECORDER.on_exhausted = None

    def log_exhausted(self, waiter: Hold) -> None:
        """Write one line that names the holders of the full pool, unless one was written a moment ago."""
        now = monotonic()
        if now - self._logged_at < LOG_EVERY:
            return
        self._logged_at = now
        pool = self._pool
        sites = Counter(hold.site for hold in RECORDER.ledger.holds_of(pool)).most_common(5)
        oldest = self.oldest_hold()
        logger.warning(
            "pool %r is exhausted: %d of %s in use, %d waiting, oldest hold %s; held by %s; asked for by %s",
            pool.name,
            pool.out,
            pool.max_open,
            self._count_waiting(),
            duration(oldest),
            ", ".join(f"{site_text([Line(*frame) for frame in site.frames])} ({count})" for site, count in sites),
            site_text([Line(*frame) for frame in waiter.site.frames]),
        )

    def _count_waiting(self) -> int:
        return sum(one.pool is self._pool for one in RECORDER.waiting())

    def _count_idle(self) -> int | None:
        """Ask the pool itself how many connections it has idle. None where it does not say."""
        target = self._target
        with contextlib.suppress(Exception):
            match self._pool.library:
                case "psycopg_pool":
                    return int(target.get_stats().get("pool_available", 0))
                case "sqlalchemy":
                    return int(target.checkedin())
                case "asyncpg":
                    return int(target.get_idle_size())
                case "aiopg":
                    return int(target.freesize)
                case "psycopg2":
                    return len(target._pool)
        return None


def _on_exhausted(pool: GuardedPool, waiter: Hold) -> None:
    watched = _watched.get(id(pool))
    if watched is not None:
        watched.log_exhausted(waiter)


def _metric(name: str) -> str:
    # OpenTelemetry's exporter adds the unit and, to a counter, _total.
    name = name.replace(".", "_")
    for part in ("wait_time", "use_time"):
        name = name.replace(f"{part}_", f"{part}_seconds_")
    return f"{name}_total" if name.endswith("timeouts") else f"{name}_seconds" if name.endswith("hold") else name


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
