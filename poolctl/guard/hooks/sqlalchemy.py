"""Hooks for SQLAlchemy: all of its pools, of engines and asyncio engines, by its pool events.

``Pool.connect`` is wrapped as well, since no event says that a caller waits. A connection that is garbage-collected
goes back to its pool, or is closed: that is noted apart from a leak.
"""

import sys
import weakref
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import on_uninstall, patch
from poolctl.guard.ledger import GuardedPool
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe
_latest = RECORDER.ledger.latest
_references: dict[int, Any] = {}
"""By the id of the pool's record, while its connection is out."""


def hook(_: ModuleType) -> None:
    """Listen to every pool, existing or yet to come."""
    from sqlalchemy import event, exc, log
    from sqlalchemy.pool import Pool as pool_class

    patch(log, "instance_logger", lambda original: _make_instance_logger(original, pool_class))
    patch(pool_class, "connect", lambda original: _make_connect(original, exc))
    patch(pool_class, "dispose", _make_dispose)
    for name, listener in (("checkin", _on_checkin), ("detach", _on_detach), ("connect", _on_connect)):
        event.listen(pool_class, name, listener)
        on_uninstall(lambda name=name, listener=listener: event.remove(pool_class, name, listener))  # type: ignore[misc]


def know_pool(target: Any, frame: Any = None) -> GuardedPool | None:
    """Find or begin the entry of the pool ``target``. None if only other pools are watched."""
    pool = RECORDER.pools.get(id(target))
    if pool is not None:
        return pool
    if RECORDER.only is not None and id(target) not in RECORDER.only:
        return None
    size, overflow = getattr(target, "_pool", None), getattr(target, "_max_overflow", None)
    most = None
    if size is not None and isinstance(overflow, int) and overflow >= 0:
        most = target.size() + overflow
    name = target.logging_name if isinstance(getattr(target, "logging_name", None), str) else type(target).__name__
    return RECORDER.add_pool(target, "sqlalchemy", name, most, frame=frame)


def _make_instance_logger(original: Any, pool_class: type) -> Any:
    def instance_logger(instance: Any, *args: Any, **kwargs: Any) -> Any:
        # Each pool asks for its logger while it is created. SQLAlchemy reads the arguments that an engine may have
        # from the code of Pool.__init__, which therefore must not be replaced.
        if RECORDER.only is None and isinstance(instance, pool_class):
            try:
                # Its size is not known yet: that is added at its first use.
                RECORDER.add_pool(instance, "sqlalchemy", type(instance).__name__, None, frame=_getframe(1))
            except Exception as error:
                RECORDER.complain("sqlalchemy", error)
        return original(instance, *args, **kwargs)

    return instance_logger


def _make_connect(original: Any, exc: Any) -> Any:
    recorder = RECORDER
    ask_for = recorder.ask_for

    def connect(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        hold = None
        try:
            hold = ask_for(self, know_pool, _getframe(1))
            if hold is not None:
                if hold.pool.max_open is None:
                    _complete(hold.pool, self)
                if recorder.wait_limit is not None and getattr(self, "_timeout", None) is not None:
                    self._timeout = min(self._timeout, recorder.wait_limit)
        except Exception as error:
            recorder.complain("sqlalchemy", error)
        if hold is None:
            return original(self, *args, **kwargs)
        try:
            fairy = original(self, *args, **kwargs) if args or kwargs else original(self)
        except BaseException as error:
            recorder.give_up(hold, event="timed-out" if isinstance(error, exc.TimeoutError) else "")
            raise
        try:
            _grant(hold, fairy)
        except Exception as error:
            recorder.complain("sqlalchemy", error)
        return fairy

    return connect


def _complete(pool: GuardedPool, target: Any) -> None:
    """Add what a pool did not know yet while it was being created."""
    overflow = getattr(target, "_max_overflow", None)
    if isinstance(overflow, int) and overflow >= 0 and hasattr(target, "_pool"):
        pool.max_open = target.size() + overflow
    if isinstance(getattr(target, "logging_name", None), str):
        pool.name = target.logging_name


class _Reference(weakref.ref[Any]):
    """A weak reference to the proxy that the caller has; it knows the pool's record and the connection."""

    __slots__ = ("key", "record")

    key: int
    record: int


def _grant(hold: Any, fairy: Any) -> None:
    record = fairy._connection_record
    connection = fairy.dbapi_connection
    if not type(connection).__weakrefoffset__:
        connection = _tracked_object(record)
    known = _latest.get(id(connection))
    if known is not None and known.is_out:
        RECORDER.give_up(hold)  # one connection for a whole thread: the caller has it already
        return
    RECORDER.grant(hold, connection)
    # Weak references are called newest first, so this one comes before SQLAlchemy's own, which hands the connection
    # back and would look like a release.
    reference = _Reference(fairy, _on_collected)
    reference.key = hold.key
    reference.record = key = id(record)
    _references[key] = reference


def _tracked_object(record: Any) -> Any:
    """Return the driver's connection of ``record``, or the record if the driver's has no weak references (sqlite3)."""
    connection = getattr(record, "driver_connection", None)
    if connection is None or not type(connection).__weakrefoffset__:
        return record
    return connection


def _on_collected(reference: Any) -> None:
    record, key = reference.record, reference.key
    if _references.get(record) is reference:  # else another proxy has the record by now
        del _references[record]
        RECORDER.collect(key, event="collected-and-returned")


def _on_checkin(_: Any, record: Any) -> None:
    # The record may have lost its connection by now (invalidate), so what was acquired is looked up.
    reference = _references.pop(id(record), None)
    if reference is not None:
        RECORDER.release_key(reference.key)


def _on_detach(_: Any, record: Any) -> None:
    # It has left the pool for good; the server's connection is the caller's own from here on.
    _on_checkin(_, record)


def _on_connect(connection: Any, record: Any) -> None:
    # A creator function of the user's opened it outside of any pool, as it seemed.
    RECORDER.disown(getattr(record, "driver_connection", None) or connection)


def _make_dispose(original: Any) -> Any:
    def dispose(self: Any, *args: Any, **kwargs: Any) -> Any:
        RECORDER.close_pool(self)
        return original(self, *args, **kwargs)

    return dispose
