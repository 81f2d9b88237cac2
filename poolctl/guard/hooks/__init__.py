"""Hooks: one file for each library, applied when the program imports it.

Decides how a hook gets into a program that knows nothing of it: by an importer that lets the real one load the module
and then patches public methods, or listens to events. A library that looks different from what a hook expects is left
alone, and that is said once.
"""

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from poolctl.guard.recorder import RECORDER

_HOOKS = {
    "psycopg_pool": "psycopg_pool",
    "psycopg": "psycopg",
    "psycopg2": "psycopg2",
    "psycopg2.pool": "psycopg2_pool",
    "sqlalchemy": "sqlalchemy",
    "asyncpg": "asyncpg",
    "django.db.backends.base.base": "django",
    "aiopg.pool": "aiopg",
}
"""The module of a library, and the file that hooks it."""

LIBRARIES = ("psycopg_pool", "psycopg", "psycopg2", "sqlalchemy", "asyncpg", "django", "aiopg")

_patched: list[tuple[Any, str, Any]] = []
_undo: list[Callable[[], None]] = []


class _Loader:
    """Loads a module as its own loader does, and hooks it before the program sees it."""

    def __init__(self, loader: Any, name: str) -> None:
        self._loader = loader
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The program sees the real loader from now on, as importlib.resources and pickling look at it.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        hook_module(self._name, module)


class _Finder:
    """Stands first among the importers and only answers for the modules that have a hook."""

    def __init__(self) -> None:
        self._is_looking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _WATCHED or self._is_looking:
            return None
        self._is_looking = True
        try:
            for finder in sys.meta_path:
                if finder is self or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                        spec.loader = _Loader(spec.loader, name)  # type: ignore[assignment]
                    return spec
        finally:
            self._is_looking = False
        return None


_WATCHED = frozenset({*_HOOKS, "asyncio", "gevent", "eventlet"})
_finder = _Finder()


def install() -> None:
    """Hook what is imported already, and the rest when the program imports it. Twice is once."""
    if _finder in sys.meta_path:
        return
    sys.meta_path.insert(0, _finder)
    for name in sorted(_WATCHED):
        module = sys.modules.get(name)
        if module is not None:
            hook_module(name, module)


def hook_module(name: str, module: ModuleType) -> None:
    """Hook ``module``; whatever goes wrong is remembered and never reaches the program."""
    before = len(_patched)
    try:
        if name == "asyncio":
            RECORDER.see_asyncio()
        elif name in ("gevent", "eventlet"):
            RECORDER.see_greenlets()
        elif name not in RECORDER.hooked:
            RECORDER.hooked[name] = str(getattr(module, "__version__", ""))
            import_module(f"poolctl.guard.hooks.{_HOOKS[name]}").hook(module)
    except Exception as error:  # whatever an unknown version raises, the program goes on
        # A library of which acquires are seen and releases are not would seem to leak them all.
        _take_out(before)
        RECORDER.complain(name, f"its version {RECORDER.hooked.get(name) or '?'} is not known to the guard: {error!r}")


def uninstall() -> None:
    """Take every hook out again."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    _take_out(0)
    while _undo:
        _undo.pop()()
    RECORDER.hooked.clear()


def _take_out(down_to: int) -> None:
    """Put the library's own functions back, newest first, until ``down_to`` patches are left."""
    while len(_patched) > down_to:
        owner, name, original = _patched.pop()
        if original is None:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


def on_uninstall(undo: Callable[[], None]) -> None:
    """Call ``undo`` when the hooks are taken out."""
    _undo.append(undo)


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace the function ``name`` of ``owner`` with ``make(original)``. Raises AttributeError if there is none."""
    original = getattr(owner, name)
    replace(owner, name, wraps(original)(make(original)))


def replace(owner: Any, name: str, replacement: Any) -> None:
    """Set the attribute ``name`` of ``owner``, until the hooks are taken out."""
    _patched.append((owner, name, vars(owner).get(name)))
    setattr(owner, name, replacement)


def patch_classmethod(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace the class method ``name`` of ``owner``. ``make`` gets a function of the class and the arguments."""
    own = vars(owner)[name]
    function = own.__func__
    setattr(owner, name, classmethod(wraps(function)(make(function))))
    _patched.append((owner, name, own))


def patch_init(owner: Any, know_pool: Callable[[Any, Any], object], library: str) -> None:
    """Replace the ``__init__`` of a class of pools, so that ``know_pool`` gets each pool and the frame that made it."""

    def make_init(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            try:
                know_pool(self, sys._getframe(1))
            except Exception as error:
                RECORDER.complain(library, error)

        return __init__

    patch(owner, "__init__", make_init)


def make_putconn(original: Any) -> Any:
    """Make the putconn of a pool of psycopg_pool that records the release."""
    recorder = RECORDER
    release = recorder.release

    def putconn(self: Any, conn: Any = None, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        # Recorded before the pool takes the connection back: another thread may get it in the same instant, and its
        # grant must not be taken for this release.
        hold = release(conn)
        if hold is None:
            recorder.release_again(conn, sys._getframe(1))
        try:
            # A call with * and ** costs as much as all that the guard records of a release, so it is made if needed.
            return original(self, conn, *args, **kwargs) if args or kwargs else original(self, conn)
        except BaseException as error:
            if hold is not None:
                recorder.restore(hold, error)
            raise

    return putconn


def is_called_by(frame: Any, *parts: str) -> bool:
    """Return True if a library whose path has one of ``parts`` runs above ``frame``, before any line of the user's."""
    from poolctl.guard.call_sites import is_user_file

    while frame is not None:
        file = frame.f_code.co_filename
        if any(part in file for part in parts):
            return True
        if is_user_file(file):
            return False
        frame = frame.f_back
    return False
