"""Endings: how the code that should have released a connection came to stop.

Decides from a traceback, which says what was raised where. An exception that the program handles leaves none behind, so
the guard learns of it only from a task, a thread, pytest.raises, unittest, or a test that fails.
"""

import ast
import linecache
import os
from types import TracebackType
from typing import Any, Protocol

from poolctl.guard.call_sites import Frame
from poolctl.guard.driver_state import read_state
from poolctl.guard.ledger import Hold, Ledger

_RELEASES = ("putconn", "release", "close", "closeall", "aclose")


class ErrorRecorder(Protocol):
    """What an ending needs of the recorder, whose own file imports this one."""

    ledger: Ledger

    def complain(self, about: str, error: object) -> None:
        """Remember what the guard could not do."""

    def connection_of(self, hold: Hold) -> Any:
        """Return the connection of ``hold``, or None if it is gone."""


def note_error(recorder: ErrorRecorder, error: BaseException, traceback: TracebackType | None = None) -> None:
    """Remember of each hold whose function is in the traceback of ``error`` that it was left by that error.

    ``traceback``: None takes the error's own.
    """
    holds = recorder.ledger.holds()
    if not holds:
        return
    lines: dict[tuple[str, str], int] = {}
    step = traceback if traceback is not None else error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        lines[(os.path.abspath(code.co_filename), code.co_name)] = step.tb_lineno
        step = step.tb_next
    for hold in holds:
        for frame in hold.site.frames:
            line = lines.get((frame.file, frame.function))
            # A line above the acquire would be one of an earlier turn of a loop.
            if line is not None and line >= frame.line:
                connection = recorder.connection_of(hold)
                state = read_state(connection)[0] if connection is not None else ""
                hold.ending = (type(error).__name__, frame.function, frame.file, str(line), state)
                break


def watch_errors(recorder: ErrorRecorder) -> None:
    """Learn of errors that end a thread or the program. The hooks that were there are called as before."""
    import sys
    import threading

    thread_hook, program_hook = threading.excepthook, sys.excepthook

    def note_thread_error(args: Any) -> None:
        if args.exc_value is not None:
            _note_quietly(recorder, args.exc_value)
        thread_hook(args)

    def note_program_error(kind: Any, error: Any, traceback: Any) -> None:
        _note_quietly(recorder, error)
        program_hook(kind, error, traceback)

    threading.excepthook = note_thread_error
    sys.excepthook = note_program_error


def _note_quietly(recorder: ErrorRecorder, error: BaseException) -> None:
    try:
        note_error(recorder, error)
    except Exception as fault:
        recorder.complain("errors", fault)


def find_release(frame: Frame, after: int) -> int | None:
    """Find the line below ``after`` where the function of ``frame`` would have released the connection. None if none.

    Reads the source file, so it is for reports alone.
    """
    try:
        tree = ast.parse("".join(linecache.getlines(frame.file)))
    except (SyntaxError, ValueError):
        return None
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name == frame.function
        and node.lineno <= frame.line <= (node.end_lineno or node.lineno)
    ]
    if not functions:
        return None
    innermost = max(functions, key=lambda node: node.lineno)
    lines = [
        node.lineno
        for node in ast.walk(innermost)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _RELEASES
        and node.lineno > after
    ]
    return min(lines, default=None)
