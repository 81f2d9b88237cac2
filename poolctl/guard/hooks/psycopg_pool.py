"""Hooks for psycopg_pool: ConnectionPool, AsyncConnectionPool and their null pools, which inherit the methods."""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import make_putconn, patch, patch_init
from poolctl.guard.ledger import GuardedPool, Hold
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe


def hook(module: ModuleType) -> None:
    """Hook both families of pools."""
    for pool in (module.ConnectionPool, module.AsyncConnectionPool):
        patch_init(pool, know_pool, "psycopg_pool")
    patch(module.ConnectionPool, "getconn", lambda original: _make_getconn(original, module))
    patch(module.ConnectionPool, "putconn", make_putconn)
    patch(module.ConnectionPool, "close", _make_close)
    patch(module.AsyncConnectionPool, "getconn", lambda original: _make_async_getconn(original, module))
    patch(module.AsyncConnectionPool, "putconn", _make_async_putconn)
    patch(module.AsyncConnectionPool, "close", _make_close)


def know_pool(target: Any, frame: Any = None) -> GuardedPool | None:
    """Find or begin the entry of the pool ``target``. None if only other pools are watched."""
    pool = RECORDER.pools.get(id(target))
    if pool is not None:
        return pool
    if RECORDER.only is not None and id(target) not in RECORDER.only:
        return None
    # A null pool's max_size of 0 means no limit.
    return RECORDER.add_pool(target, "psycopg_pool", target.name, target.max_size or None, frame=frame)


def _limit(target: Any, timeout: float | None) -> float:
    """Limit the patience of an acquire to the guard's own, which a test suite may set."""
    return min(target.timeout if timeout is None else timeout, RECORDER.wait_limit or 0.0)


def _give_up(hold: Hold, error: BaseException, module: ModuleType) -> None:
    event = "timed-out" if isinstance(error, module.PoolTimeout) else ""
    RECORDER.give_up(hold, event="refused" if isinstance(error, module.TooManyRequests) else event)


def _make_getconn(original: Any, module: ModuleType) -> Any:
    recorder = RECORDER
    ask_for, grant = recorder.ask_for, recorder.grant

    def getconn(self: Any, timeout: float | None = None, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        hold = None
        try:
            hold = ask_for(self, know_pool, _getframe(1))
        except Exception as error:
            recorder.complain("psycopg_pool", error)
        if hold is None:
            return original(self, timeout, *args, **kwargs)
        if recorder.wait_limit is not None:
            timeout = _limit(self, timeout)
        try:
            connection = original(self, timeout, *args, **kwargs) if args or kwargs else original(self, timeout)
        except BaseException as error:
            _give_up(hold, error, module)
            raise
        grant(hold, connection)
        return connection

    return getconn


def _make_async_getconn(original: Any, module: ModuleType) -> Any:
    recorder = RECORDER
    ask_for, grant = recorder.ask_for, recorder.grant

    async def getconn(self: Any, timeout: float | None = None, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        hold = None
        try:
            hold = ask_for(self, know_pool, _getframe(1))
        except Exception as error:
            recorder.complain("psycopg_pool", error)
        if hold is None:
            return await original(self, timeout, *args, **kwargs)
        if recorder.wait_limit is not None:
            timeout = _limit(self, timeout)
        try:
            connection = await (original(self, timeout, *args, **kwargs) if args or kwargs else original(self, timeout))
        except BaseException as error:
            _give_up(hold, error, module)
            raise
        grant(hold, connection)
        return connection

    return getconn


def _make_async_putconn(original: Any) -> Any:
    recorder = RECORDER
    release = recorder.release

    async def putconn(self: Any, conn: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        # Recorded before the pool takes it, as in make_putconn.
        hold = release(conn)
        if hold is None:
            recorder.release_again(conn, _getframe(1))
        try:
            return await (original(self, conn, *args, **kwargs) if args or kwargs else original(self, conn))
        except BaseException as error:
            if hold is not None:
                recorder.restore(hold, error)
            raise

    return putconn


def _make_close(original: Any) -> Any:
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        RECORDER.close_pool(self)
        return original(self, *args, **kwargs)

    return close
