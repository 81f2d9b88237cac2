"""Hooks for Django: one connection for each thread and alias, kept by Django itself, or taken from its pool.

Django closes or keeps the connections of threads that serve requests, and those of the main thread (commands, tests):
such a connection is no leak. A thread that the program starts has to close its own.
"""

import sys
from types import ModuleType
from typing import Any

from poolctl.guard.hooks import on_uninstall, patch
from poolctl.guard.recorder import RECORDER

_getframe = sys._getframe
VIA = "django"


def hook(module: ModuleType) -> None:
    """Hook opening and closing, and learn which threads serve requests."""
    patch(module.BaseDatabaseWrapper, "connect", _make_connect)
    patch(module.BaseDatabaseWrapper, "close", _make_close)
    from django.core.signals import request_started

    request_started.connect(_on_request, dispatch_uid="poolctl.guard")
    on_uninstall(lambda: request_started.disconnect(dispatch_uid="poolctl.guard"))


def _on_request(**_: Any) -> None:
    RECORDER.serving.add(RECORDER.current_actor())


def _make_connect(original: Any) -> Any:
    recorder = RECORDER

    def connect(self: Any) -> Any:
        hold = None
        try:
            pooled = bool((self.settings_dict.get("OPTIONS") or {}).get("pool"))
            if not pooled and recorder.only is None:
                hold = recorder.ask(recorder.single_connections("django"), _getframe(1))
        except Exception as error:
            recorder.complain("django", error)
        try:
            result = original(self)
        except BaseException:
            if hold is not None:
                recorder.give_up(hold)
            raise
        try:
            connection = self.connection
            if hold is not None and not type(connection).__weakrefoffset__:
                recorder.give_up(hold)
            elif hold is not None:
                recorder.grant(hold, connection)
            known = recorder.ledger.find_hold(id(connection))
            if known is not None:
                known.via = VIA
        except Exception as error:
            recorder.complain("django", error)
        return result

    return connect


def _make_close(original: Any) -> Any:
    def close(self: Any) -> Any:
        connection = self.connection
        result = original(self)
        if connection is not None:
            RECORDER.release(connection)
        return result

    return close
