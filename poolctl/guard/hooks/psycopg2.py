"""Hooks for psycopg2: connections outside of any pool, and the use of connections that are in a pool.

Its connection class is C and cannot be patched, so new connections get a subclass with the same name. Connections that
a program opens with the C function itself are not seen.
"""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import is_called_by, patch
from poolctl.guard.hooks.psycopg import POOLS, ask
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe
_OWN = ("/psycopg2/pool", "\\psycopg2\\pool")
_classes: dict[type, type] = {}


def hook(module: ModuleType) -> None:
    """Hook opening, closing and use. ``connect`` looks ``_connect`` up at each call, so early imports are seen too."""
    plain = module.extensions.connection
    patch(module, "_connect", lambda original: _make_connect(original, plain))


def _make_connect(original: Any, plain: type) -> Any:
    def _connect(dsn: Any, connection_factory: Any = None, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        factory = connection_factory if connection_factory is not None else plain
        if isinstance(factory, type) and issubclass(factory, plain):
            factory = _watched_class(factory)
        frame = _getframe(1)
        hold = None if is_called_by(frame, *_OWN) else ask("psycopg2", frame)
        try:
            connection = original(dsn, connection_factory=factory, **kwargs)
        except BaseException:
            if hold is not None:
                RECORDER.give_up(hold)
            raise
        if hold is not None:
            RECORDER.grant(hold, connection)
        return connection

    return _connect


def _watched_class(base: Any) -> type:
    known = _classes.get(base)
    if known is not None:
        return known
    ledger = RECORDER.ledger

    class Connection(base):  # type: ignore[misc]
        __doc__ = base.__doc__

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            hold = ledger.latest.get(id(self))
            if (hold is not None and not hold.is_out) or ledger.inherited:
                _check_use(self, _getframe(1))
            return base.cursor(self, *args, **kwargs)

        def close(self) -> None:
            hold = ledger.find_hold(id(self))
            if hold is not None and not hold.pool.is_pool:
                RECORDER.release(self)
            base.close(self)

    Connection.__name__, Connection.__qualname__ = base.__name__, base.__qualname__
    Connection.__module__ = base.__module__
    _classes[base] = Connection
    return Connection


def _check_use(connection: Any, frame: Any) -> None:
    try:
        if id(connection) in RECORDER.ledger.inherited:
            RECORDER.use_inherited(connection, frame)
        elif not connection.closed and RECORDER.is_in_pool(connection) and not is_called_by(frame, *_OWN, *POOLS):
            RECORDER.note_use(connection, frame)
    except Exception as error:
        RECORDER.complain("psycopg2", error)
