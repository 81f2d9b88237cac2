"""Hooks for psycopg: connections outside of any pool, and the use of connections that are in a pool."""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import is_called_by, patch, patch_classmethod, replace
from poolctl.guard.ledger import Hold
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe

POOLS = ("/psycopg_pool/", "/sqlalchemy/", "/django/db/", "/aiopg/", "\\psycopg_pool\\", "\\sqlalchemy\\", "\\django\\")
"""Connections that these open are theirs; their own hooks count them."""

LONGEST_STATEMENT = 200


def hook(module: ModuleType) -> None:
    """Hook opening, closing and use, for Connection and AsyncConnection."""
    patch_classmethod(module.Connection, "connect", _make_connect)
    patch_classmethod(module.AsyncConnection, "connect", _make_async_connect)
    if vars(module).get("connect") is not None:
        # The module's function is the class method, bound before it was patched.
        replace(module, "connect", module.Connection.connect)
    for connection in (module.Connection, module.AsyncConnection):
        patch(connection, "close", _make_close)
        patch(connection, "wait", _make_wait)
    cursor = next((base for base in module.Cursor.__mro__ if "_start_query" in vars(base)), None)
    if cursor is not None:
        patch(cursor, "_start_query", _make_start_query)


def ask(library: str, frame: Any) -> Hold | None:
    """Begin the opening of a connection outside of any pool. None if a pool opens it, or only pools are watched."""
    try:
        if RECORDER.only is not None or is_called_by(frame, *POOLS):
            return None
        return RECORDER.ask(RECORDER.single_connections(library), frame)
    except Exception as error:
        RECORDER.complain(library, error)
        return None


def _make_connect(original: Any) -> Any:
    def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        hold = ask("psycopg", _getframe(1))
        if hold is None:
            return original(cls, *args, **kwargs)
        try:
            connection = original(cls, *args, **kwargs)
        except BaseException:
            RECORDER.give_up(hold)
            raise
        RECORDER.grant(hold, connection)
        return connection

    return connect


def _make_async_connect(original: Any) -> Any:
    async def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        hold = ask("psycopg", _getframe(1))
        if hold is None:
            return await original(cls, *args, **kwargs)
        try:
            connection = await original(cls, *args, **kwargs)
        except BaseException:
            RECORDER.give_up(hold)
            raise
        RECORDER.grant(hold, connection)
        return connection

    return connect


def _make_close(original: Any) -> Any:
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A connection of a pool stays held: to close it does not give its place in the pool back.
        hold = RECORDER.ledger.find_hold(id(self))
        if hold is not None and not hold.pool.is_pool:
            RECORDER.release(self)
        elif id(self) in RECORDER.ledger.inherited:
            RECORDER.use_inherited(self, _getframe(1))
        return original(self, *args, **kwargs)

    return close


def _make_wait(original: Any) -> Any:
    ledger = RECORDER.ledger
    latest = ledger.latest

    def wait(self: Any, gen: Any, *args: Any, **kwargs: Any) -> Any:
        # Every exchange with the server passes here; nearly all by holders, for whom this is one look-up.
        hold = latest.get(id(self))
        if (hold is not None and not hold.is_out) or ledger.inherited:
            _check_use(self, _getframe(1))
        return original(self, gen, *args, **kwargs) if args or kwargs else original(self, gen)

    return wait


def _check_use(connection: Any, frame: Any) -> None:
    try:
        if id(connection) in RECORDER.ledger.inherited:
            RECORDER.use_inherited(connection, frame)
        elif not connection.closed and RECORDER.is_in_pool(connection) and not _is_within(frame, *POOLS):
            RECORDER.note_use(connection, frame)
    except Exception as error:
        RECORDER.complain("psycopg", error)


def _is_within(frame: Any, *parts: str) -> bool:
    """Return True if a pool works above ``frame``, also through a callback of the user's (check, reset)."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in parts):
            return True
        frame = frame.f_back
    return False


def _make_start_query(original: Any) -> Any:
    latest = RECORDER.ledger.latest

    def _start_query(self: Any, query: Any = None) -> Any:
        hold = latest.get(id(self._conn))
        if hold is not None and hold.is_out:
            # A copy, so that the program's own text is not kept alive.
            if isinstance(query, str):
                hold.statement = query[:LONGEST_STATEMENT]
            elif isinstance(query, bytes):
                hold.statement = query[:LONGEST_STATEMENT].decode("utf-8", "replace")
        return original(self, query)

    return _start_query
