"""Hooks for asyncpg: its pool, and connections outside of any pool.

A pool hands out a proxy for each acquire. What is followed is the connection behind it, since the proxy has no weak
references; a released proxy is recognized by having no connection any more.
"""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import is_called_by, patch, patch_init, replace
from poolctl.guard.hooks.psycopg import ask
from poolctl.guard.ledger import GuardedPool
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe
_OWN = ("/asyncpg/pool", "\\asyncpg\\pool")
_USES = ("fetch", "fetchrow", "fetchval", "execute", "executemany", "transaction", "prepare", "cursor")


def hook(module: ModuleType) -> None:
    """Hook acquire and release, opening and closing."""
    from asyncpg import connect_utils
    from asyncpg.pool import PoolConnectionProxy

    pool = module.Pool
    patch_init(pool, know_pool, "asyncpg")
    if not hasattr(pool, "__del__"):
        # This pool has no weak references, so its own end has to say that it is gone.
        replace(pool, "__del__", lambda self: RECORDER.drop_pool(id(self)))
    patch(pool, "_acquire", _make_acquire)
    patch(pool, "release", _make_release)
    patch(pool, "close", _make_close_pool)
    patch(pool, "terminate", _make_close_pool)
    patch(connect_utils, "_connect", _make_connect)
    patch(module.Connection, "close", _make_close)
    patch(module.Connection, "terminate", _make_close)
    for name in _USES:
        if name in vars(PoolConnectionProxy):
            patch(PoolConnectionProxy, name, _make_use)


def know_pool(target: Any, frame: Any = None) -> GuardedPool | None:
    """Find or begin the entry of the pool ``target``. None if only other pools are watched."""
    pool = RECORDER.pools.get(id(target))
    if pool is not None:
        return pool
    if RECORDER.only is not None and id(target) not in RECORDER.only:
        return None
    return RECORDER.add_pool(target, "asyncpg", "pool", target._maxsize, frame=frame)


def _make_acquire(original: Any) -> Any:
    recorder = RECORDER
    ask_for = recorder.ask_for

    async def _acquire(self: Any, timeout: Any = None) -> Any:
        __tracebackhide__ = True
        hold = None
        try:
            hold = ask_for(self, know_pool, _getframe(1))
        except Exception as error:
            recorder.complain("asyncpg", error)
        if hold is None:
            return await original(self, timeout)
        limit = recorder.wait_limit
        if limit is not None and (timeout is None or timeout > limit):
            timeout = limit
        try:
            proxy = await original(self, timeout)
        except BaseException as error:
            recorder.give_up(hold, event="timed-out" if isinstance(error, TimeoutError) else "")
            raise
        recorder.grant(hold, proxy._con)
        return proxy

    return _acquire


def _make_release(original: Any) -> Any:
    recorder = RECORDER

    async def release(self: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        # asyncpg takes a second release of the same proxy for nothing, and it is one: the first one counts.
        hold = None
        own = getattr(connection, "_con", None)
        if own is not None:
            hold = recorder.release(own)
        elif (holder := getattr(connection, "_holder", None)) is not None and holder._con is not None:
            recorder.release_again(holder._con, _getframe(1))
        try:
            return await original(self, connection, *args, **kwargs)
        except BaseException as error:
            # A release that is cancelled goes on behind a shield; only what asyncpg did not take back is still held.
            if hold is not None and getattr(connection, "_con", None) is own and isinstance(error, Exception):
                recorder.restore(hold, error)
            raise

    return release


def _make_close_pool(original: Any) -> Any:
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        RECORDER.close_pool(self)
        return original(self, *args, **kwargs)

    return close


def _make_connect(original: Any) -> Any:
    async def _connect(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        frame = _getframe(1)
        hold = None if is_called_by(frame, *_OWN) else ask("asyncpg", frame)
        try:
            connection = await original(*args, **kwargs)
        except BaseException:
            if hold is not None:
                RECORDER.give_up(hold)
            raise
        if hold is not None:
            RECORDER.grant(hold, connection)
        return connection

    return _connect


def _make_close(original: Any) -> Any:
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        hold = RECORDER.ledger.find_hold(id(self))
        if hold is not None:
            caller = _getframe(1).f_code.co_name
            if hold.pool.is_pool and caller == "terminate":
                pass  # the whole pool is terminated: closed is not released
            elif caller == "__del__":
                RECORDER.collect(id(self), event="collected")
            else:
                # asyncpg frees the place in its pool itself when a connection closes, so it is held no more either way.
                RECORDER.release(self)
        return original(self, *args, **kwargs)

    return close


def _make_use(original: Any) -> Any:
    def use(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._con is None:
            _note_use(self, _getframe(1))  # asyncpg raises InterfaceError, which does not say who released it
        return original(self, *args, **kwargs)

    return use


def _note_use(proxy: Any, frame: Any) -> None:
    try:
        connection = proxy._holder._con
        if connection is not None:
            RECORDER.note_use(connection, frame)
    except Exception as error:
        RECORDER.complain("asyncpg", error)
