"""Hooks for aiopg's pool, a wrapper with a pool of its own around psycopg2."""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import patch, patch_init
from poolctl.guard.ledger import GuardedPool
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe


def hook(module: ModuleType) -> None:
    """Hook acquire and release."""
    patch_init(module.Pool, know_pool, "aiopg")
    patch(module.Pool, "_acquire", _make_acquire)
    patch(module.Pool, "release", _make_release)
    patch(module.Pool, "close", _make_close)


def know_pool(target: Any, frame: Any = None) -> GuardedPool | None:
    """Find or begin the entry of the pool ``target``. None if only other pools are watched."""
    pool = RECORDER.pools.get(id(target))
    if pool is None and (RECORDER.only is None or id(target) in RECORDER.only):
        pool = RECORDER.add_pool(target, "aiopg", "pool", target.maxsize or None, frame=frame)
    return pool


def _make_acquire(original: Any) -> Any:
    async def _acquire(self: Any) -> Any:
        hold = RECORDER.ask_for(self, know_pool, _getframe(1))
        if hold is None:
            return await original(self)
        try:
            connection = await original(self)
        except BaseException as error:
            RECORDER.give_up(hold, event="timed-out" if isinstance(error, TimeoutError) else "")
            raise
        RECORDER.grant(hold, connection)
        return connection

    return _acquire


def _make_release(original: Any) -> Any:
    def release(self: Any, conn: Any, *args: Any, **kwargs: Any) -> Any:
        if RECORDER.release(conn) is None:
            RECORDER.release_again(conn, _getframe(1))
        return original(self, conn, *args, **kwargs)

    return release


def _make_close(original: Any) -> Any:
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        RECORDER.close_pool(self)
        return original(self, *args, **kwargs)

    return close
