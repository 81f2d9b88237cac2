"""Ending one backend, or only its statement, for the relief plan, and what came of it."""

import time
from dataclasses import dataclass
from typing import Literal

from poolctl.observe.connection import ServerConnection
from poolctl.observe.sql import load_statement

Action = Literal["cancel", "terminate"]

_WITHIN = 1.0
"""Seconds that a backend gets to end: it ends at once unless it is stopped or in the middle of a system call."""

_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class TerminationResult:
    """What came of the attempt to end a backend.

    ``ended``: it is gone. ``canceled``: its statement is over, and the session goes on. ``signalled``: it received the
    signal and goes on all the same. ``gone``: it had ended before.
    ``recovered``: it no longer does what it was to be ended for, and was left alone.
    ``another``: the process id now belongs to another backend, or to none of a client's, which was left alone.
    ``refused``: not allowed, or the server could not be asked; ``reason`` says why.
    """

    pid: int
    outcome: Literal["ended", "canceled", "signalled", "gone", "recovered", "another", "refused"]
    reason: str = ""


def end_backend(
    connection: ServerConnection, pid: int, started_at: float, still: str, action: Action
) -> TerminationResult:
    """End the client's backend ``pid`` if it began at ``started_at`` (``Backend.started_at``) and ``still`` holds.

    ``still``: an SQL condition on a row ``a`` of pg_stat_activity, without any text of a client's. ``action`` "cancel":
    end only the statement under way.

    Raises StatementFailed where the role may not, ServerLost.
    """
    identity = {"pid": int(pid), "started_at": repr(float(started_at))}
    (found,) = connection.read(load_statement("end_backend").format(**identity, still=still, action=action))
    if not found:
        return TerminationResult(pid, "gone")
    if not found[0]["is_it"]:
        return TerminationResult(pid, "another", "the process id belongs to another backend by now")
    if not found[0]["is_at_fault"]:
        return TerminationResult(pid, "recovered", "it no longer does what the plan says")
    if not found[0]["was_signalled"]:
        return TerminationResult(pid, "gone")
    cancels = action == "cancel"
    remains = load_statement("is_at_fault" if cancels else "is_there").format(**identity, still=still)
    deadline = time.monotonic() + _WITHIN
    while time.monotonic() < deadline:
        if not connection.read(remains)[0]:
            return TerminationResult(pid, "canceled" if cancels else "ended")
        time.sleep(_PAUSE)
    remains = "at work" if cancels else "there"
    return TerminationResult(pid, "signalled", f"it received the signal and is still {remains} after {_WITHIN:g} s")
