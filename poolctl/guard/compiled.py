"""The compiled hot path of the guard, where one was built: ``_hot_path.c``.

Decides whether it is used. It does what ``hot_path.HotPath`` does, with the same records, in a fraction of the time.
"""

import os
from importlib import import_module
from typing import Any

SWITCH = "POOLCTL_GUARD_PATH"
"""Environment variable: "plain" leaves the compiled hot path alone."""

LAYOUT = 4
"""Of the records and arguments; a file that was built for another one is not used."""


def _find() -> Any:
    if os.environ.get(SWITCH) == "plain":
        return None
    try:
        module = import_module("poolctl.guard._hot_path")
    except ImportError:
        # Not built: there was no compiler. Or this is a second interpreter of the process, which may not load it.
        return None
    return module if module.LAYOUT == LAYOUT else None


COMPILED = _find()
"""The module; None where it was not built, or is not wanted."""
