"""Hooks for psycopg2.pool: SimpleConnectionPool, ThreadedConnectionPool, and classes derived from them."""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import patch, patch_init
from poolctl.guard.ledger import GuardedPool
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe


def hook(module: ModuleType) -> None:
    """Hook the methods of both pools."""
    patch_init(module.AbstractConnectionPool, know_pool, "psycopg2.pool")
    for pool in (module.SimpleConnectionPool, module.ThreadedConnectionPool):
        # Two calls with * and ** would take as long as all that this pool does for an acquire and a release.
        patch(pool, "getconn", lambda original: _make_getconn(original, module))
        patch(pool, "putconn", _make_putconn)
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
    latest, take, know, get_frame = recorder.latest, recorder.take, know_pool, _getframe

    def getconn(self: Any, key: Any = None) -> Any:
        __tracebackhide__ = True
        try:
            connection = original(self, key)
        except BaseException as error:
            # This pool has no queue: it raises at once when it is full.
            _note_refused(self, _getframe(1), is_full=isinstance(error, module.PoolError))
            raise
        try:
            # The same key again gives the same connection, which the caller has already.
            if key is None or (known := latest.get(id(connection))) is None or not known.is_out:
                take(self, connection, know, get_frame(1))
        except Exception as error:
            recorder.complain("psycopg2.pool", error)
        return connection

    return getconn


def _note_refused(target: Any, frame: Any, *, is_full: bool) -> None:
    try:
        hold = RECORDER.ask_for(target, know_pool, frame)
        if hold is not None:
            RECORDER.give_up(hold, event="refused" if is_full else "")
    except Exception as error:
        RECORDER.complain("psycopg2.pool", error)


def _make_putconn(original: Any) -> Any:
    recorder = RECORDER
    release = recorder.release

    # As make_putconn, with this pool's own arguments.
    def putconn(self: Any, conn: Any = None, key: Any = None, close: bool = False) -> Any:
        __tracebackhide__ = True
        hold = release(conn)
        if hold is None:
            recorder.release_again(conn, _getframe(1))
        try:
            return original(self, conn, key, close)
        except BaseException as error:
            if hold is not None:
                recorder.restore(hold, error)
            raise

    return putconn


def _make_closeall(original: Any) -> Any:
    def closeall(self: Any) -> Any:
        # It closes connections that are out, too. They stay held here: closed is not released.
        RECORDER.close_pool(self)
        return original(self)

    return closeall
