"""Hooks for psycopg2.pool: SimpleConnectionPool, ThreadedConnectionPool, and classes derived from them."""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import make_putconn, patch, patch_init
from poolctl.guard.ledger import GuardedPool
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe


def hook(module: ModuleType) -> None:
    """Hook the methods of both pools."""
    patch_init(module.AbstractConnectionPool, know_pool, "psycopg2.pool")
    for pool in (module.SimpleConnectionPool, module.ThreadedConnectionPool):
        patch(pool, "getconn", lambda original: _make_getconn(original, module))
        patch(pool, "putconn", make_putconn)
        patch(pool, "closeall", _make_closeall)


def know_pool(target: Any, frame: Any = None) -> GuardedPool | None:
    """Find or begin the entry of the pool ``target``. None if only other pools are watched."""
    pool = RECORDER.pools.get(id(target))
    if pool is not None:
        return pool
    if RECORDER.only is not None and id(target) not in RECORDER.only:
        return None
    return RECORDER.add_pool(target, "psycopg2", type(target).__name__, target.maxconn, frame=frame)


def _make_getconn(original: Any, module: ModuleType) -> Any:
    recorder = RECORDER
    pools, latest, ask = recorder.pools, recorder.ledger.latest, recorder.ask

    def getconn(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        hold = None
        try:
            pool = pools.get(id(self)) or know_pool(self)
            hold = ask(pool, _getframe(1)) if pool is not None else None
        except Exception as error:
            recorder.complain("psycopg2.pool", error)
        if hold is None:
            return original(self, *args, **kwargs)
        try:
            connection = original(self, *args, **kwargs) if args or kwargs else original(self)
        except BaseException as error:
            # This pool has no queue: it raises at once when it is full.
            recorder.give_up(hold, event="refused" if isinstance(error, module.PoolError) else "")
            raise
        known = latest.get(id(connection))
        if known is not None and known.is_out:
            recorder.give_up(hold)  # the same key again: the caller has it already
        else:
            recorder.grant(hold, connection)
        return connection

    return getconn


def _make_closeall(original: Any) -> Any:
    def closeall(self: Any) -> Any:
        # It closes connections that are out, too. They stay held here: closed is not released.
        RECORDER.close_pool(self)
        return original(self)

    return closeall
