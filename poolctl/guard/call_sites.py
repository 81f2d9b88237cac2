"""Call sites: the lines of the user's program that asked for a connection.

Decides which frames are the user's. Reads frames while they run and keeps none: a frame would keep alive every object
that its function names.
"""

import os
import sys
from types import CodeType, FrameType
from typing import NamedTuple

from poolctl.guard.compiled import COMPILED

MOST_FRAMES = 4
"""Frames kept of a site: the acquire and the callers of a wrapper around it."""

MOST_SITES = 10_000
"""Sites kept of a process. Further ones share one entry, so that code made by exec() cannot fill the memory."""

_STDLIB = os.path.dirname(os.__file__) + os.sep
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_DRIVERS = ("psycopg", "psycopg_pool", "psycopg2", "sqlalchemy", "asyncpg", "django", "aiopg", "asgiref", "greenlet")

_TYPED = ("<stdin>", "<string>", "<console>", "<ipython", "<python-input")

_USER, _PACKAGE, _LIBRARY = 0, 1, 2


class Frame(NamedTuple):
    """One line that was running: an absolute file name, or a name in angle brackets."""

    file: str
    line: int
    function: str


class Tally:
    """What is counted of a site and of a pool: each release adds to both. Times are in seconds.

    ``longest``: a site's longest hold. ``out``, ``peak`` and ``inherited`` are a pool's: how many connections are out
    and were at once at most, and True in the child of a fork until the pool is used there.
    """

    __slots__ = ("inherited", "longest", "out", "peak", "released", "use_time", "wait_time")

    inherited: bool
    longest: float
    out: int
    peak: int
    released: int
    use_time: float
    wait_time: float


if COMPILED is not None:
    Tally = COMPILED.Tally  # type: ignore[misc]


class Site(Tally):
    """The frames of one acquire, innermost first, and what was counted there."""

    __slots__ = ("collected", "frames", "late")

    def __init__(self, frames: tuple[Frame, ...]) -> None:
        self.frames = frames
        self.released = self.collected = self.late = 0
        self.use_time = self.longest = self.wait_time = 0.0


NOWHERE = Site((Frame("<unknown>", 0, "?"),))
"""Where no line of Python could be seen, such as an acquire from C code."""

# By file name, since a str remembers its hash while a code object computes it again each time.
_kinds: dict[str, int] = {}
_users: set[str] = set()
_others: set[str] = set()
# Keys are ids of code objects and offsets in them; _codes keeps the code alive so that no id is used again.
_sites: dict[tuple[int, ...], Site] = {}
_by_frames: dict[tuple[Frame, ...], Site] = {}
_codes: dict[int, CodeType] = {}


def _classify(file: str) -> int:
    if file.startswith("<"):
        # Code that a library generated has a name in angle brackets; so has what a person types.
        return _USER if file.startswith(_TYPED) else _LIBRARY
    if file.startswith(_OWN):
        return _LIBRARY
    for packages in _PACKAGES:
        if packages in file:
            package = file.rpartition(packages)[2].split(os.sep)[0].removesuffix(".py")
            return _LIBRARY if package in _DRIVERS else _PACKAGE
    return _LIBRARY if file.startswith(_STDLIB) else _USER


def kind_of(file: str) -> int:
    """Return whether ``file`` is the user's (0), another package's (1), or a driver's or the standard library's (2)."""
    kind = _kinds.get(file)
    if kind is None:
        kind = _kinds[file] = _classify(file)
        (_users if kind == _USER else _others).add(file)
    return kind


def is_user_file(file: str) -> bool:
    """Return True if ``file`` belongs to the user's program, not to a library."""
    return kind_of(file) == _USER


def capture_site(frame: FrameType | None) -> Site:
    """Find the site that ``frame`` runs for: the first frames outside of libraries.

    A program that is installed as a package has no others: then its own frames count.
    """
    start = frame
    # Two sets that are asked with "in" cost half of a look-up in a dictionary by its method.
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if file in _users or (file not in _others and kind_of(file) == _USER):
            break
        frame = frame.f_back
    else:
        frame = _find_parent_greenlets_frame(start) or _find_package(start)
        if frame is None:
            return NOWHERE
        code = frame.f_code
    # The caller counts too: a wrapper's one acquire line has many users. Frames above it are those of the first time.
    caller = frame.f_back
    if caller is None:
        key: tuple[int, ...] = (id(code), frame.f_lasti)
    else:
        key = (id(code), frame.f_lasti, id(caller.f_code), caller.f_lasti)
    try:
        return _sites[key]
    except KeyError:
        return _add_site(key, frame)


def _find_package(frame: FrameType | None) -> FrameType | None:
    """Find the first frame of an installed package that is no driver."""
    while frame is not None and kind_of(frame.f_code.co_filename) != _PACKAGE:
        frame = frame.f_back
    return frame


def _add_site(key: tuple[int, ...], frame: FrameType) -> Site:
    kind = kind_of(frame.f_code.co_filename)
    if len(_sites) >= MOST_SITES:
        return NOWHERE
    frames: list[Frame] = []
    one: FrameType | None = frame
    while one is not None and len(frames) < MOST_FRAMES and kind_of(one.f_code.co_filename) == kind:
        frames.append(read_frame(one))
        one = one.f_back
    for code in (frame.f_code, frame.f_back.f_code if frame.f_back is not None else None):
        if code is not None:
            _codes[id(code)] = code
    # Two callers that are libraries show the same frames: then they are one site.
    text = tuple(frames)
    site = _by_frames.get(text)
    if site is None:
        site = _by_frames[text] = Site(text)
    _sites[key] = site
    return site


def read_frame(frame: FrameType) -> Frame:
    """Read the file, line and function of ``frame``."""
    file = frame.f_code.co_filename
    return Frame(file if file.startswith("<") else os.path.abspath(file), frame.f_lineno or 0, frame.f_code.co_name)


def _find_parent_greenlets_frame(start: FrameType | None) -> FrameType | None:
    """Find the user's frame that waits for this greenlet, as SQLAlchemy's asyncio adapter makes one for each call."""
    greenlet = sys.modules.get("greenlet")
    if greenlet is None or start is None:
        return None
    parent = greenlet.getcurrent().parent
    while parent is not None:
        frame = parent.gr_frame
        while frame is not None:
            if kind_of(frame.f_code.co_filename) == _USER:
                return frame  # type: ignore[no-any-return] # greenlet has no types
            frame = frame.f_back
        parent = parent.parent
    return None


def all_sites() -> list[Site]:
    """List every site seen so far."""
    return list(_by_frames.values())
