"""What the guard says about a connection, in words: the same in the pytest plugin, the command and a log line.

Decides the words and the order: where it was acquired, how its code ended, in what state it is. "apparent" stands where
the connection may still be released.
"""

from collections.abc import Sequence

from poolctl.guard.endings import find_release
from poolctl.guard.guard_report import HeldConnection, Line, frames_of, shorten
from poolctl.guard.ledger import Hold
from poolctl.safe_text import hide_literals, neutralize
from poolctl.units import format_duration

LONGEST_STATEMENT = 60


def duration(seconds: float) -> str:
    """Write a duration for people."""
    return format_duration(max(0.0, seconds))


def site_text(site: Sequence[Line]) -> str:
    """Name the line that acquired, its function, and the line that called it."""
    first = site[0]
    text = first.place if first.function == "<module>" else f"{first.place} in {first.function}"
    if len(site) > 1:
        text += f", called from {site[1].place}"
    return neutralize(text)


def pool_text(library: str, pool: str, *, is_pool: bool) -> str:
    """Name a pool with its library."""
    return neutralize(f"{library} '{pool}'" if is_pool else f"{library}, outside of any pool")


def ending_text(site: Sequence[Line], ending: Sequence[str]) -> str:
    """Say which error left the code that should have released, and where that release stands. "" if not known."""
    if len(ending) < 5:
        return neutralize(ending[0]) if ending else ""
    error, function, file, line, _ = ending
    text = f"{function}() raised {error} at {shorten(file)}:{line}"
    frame = next((one for one in frames_of(tuple(site)) if one.file == file and one.function == function), None)
    release = find_release(frame, int(line)) if frame is not None else None
    return neutralize(f"{text}, before release at :{release}" if release is not None else text)


def state_text(state: str, statement: str) -> str:
    """Say the state of the transaction, and the last statement with its values hidden."""
    if state == "closed":
        return "closed instead of released: its place in the pool is lost"
    shown = " ".join(statement.split())
    if len(shown) > LONGEST_STATEMENT:
        shown = f"{shown[:LONGEST_STATEMENT]} ..."
    return neutralize(f"{state} ({shown})" if state and shown else state or shown)


def actor_text(held: HeldConnection) -> str:
    """Say which thread, task or greenlet acquired it, if that is worth a word: another than the main thread."""
    name = f"{held.actor_kind} {held.actor}" if not held.actor.startswith(held.actor_kind) else held.actor
    if held.actor_outcome == "ended":
        return neutralize(f"{name}, which has ended")
    if held.actor_outcome:
        how = "was cancelled" if held.actor_outcome == "cancelled" else held.actor_outcome
        return neutralize(f"{name}, which {how}")
    return "" if held.actor == "MainThread" else neutralize(name)


def lost_lines(site: Sequence[Line], hold: Hold | None) -> list[str]:
    """Describe a connection that was garbage-collected while it was out. ``hold``: None if only its site is known."""
    lines = []
    if hold is not None and (ending := ending_text(site, hold.ending)):
        lines.append(f"in the error path: {ending}")
    state = hold.ending[4] if hold is not None and len(hold.ending) == 5 else ""
    shown = state_text(state, hide_literals(hold.statement) if hold is not None else "")
    then = f"{shown}, then " if shown else ""
    return [*lines, f"state     {then}garbage-collected while it was out: its place in the pool is lost"]


def hold_lines(held: HeldConnection, *, after: str = "") -> list[str]:
    """Describe one connection that is out. ``after``: when it was acquired, such as "12 ms into the test"."""
    where = pool_text(held.library, held.pool, is_pool=held.is_pool)
    lines = [f"acquired  {site_text(held.site)}   {where}{f', {after}' if after else ''}"]
    if ending := ending_text(held.site, held.ending):
        lines.append(f"in the error path: {ending}")
    if actor := actor_text(held):
        lines.append(f"by        {actor}")
    if state := state_text(held.state, held.statement):
        lines.append(f"state     {state}")
    return lines
