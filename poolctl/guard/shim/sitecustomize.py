"""The guard's way into a Python program: first in PYTHONPATH, Python imports it before the program begins.

It must run on any Python, raise nothing, and then let the user's own sitecustomize run as if it were not here.
"""

# mypy: ignore-errors

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _load_poolctl():
    """Load the poolctl that this file belongs to. sys.path stays as it is: the program may have another poolctl."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    root = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))
    spec = PathFinder.find_spec("poolctl", [root])
    module = module_from_spec(spec)
    sys.modules["poolctl"] = module
    spec.loader.exec_module(module)


def _begin():
    address = os.environ.get("POOLCTL_GUARD_ADDRESS")
    if not address:
        return
    if sys.version_info < (3, 11):
        import socket

        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(2)
        link.connect("\0" + address[1:] if address.startswith("@") else address)
        text = '%s\nold\n{"pid": %d, "python": "%d.%d"}' % (
            os.environ.get("POOLCTL_GUARD_TOKEN", ""),
            os.getpid(),
            sys.version_info[0],
            sys.version_info[1],
        )
        link.sendall(text.encode())
        link.close()
        return
    if "poolctl" not in sys.modules:
        _load_poolctl()
    from poolctl.guard.process import begin

    begin()


def _run_the_users_own():
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    path = [place for place in sys.path if os.path.abspath(place or ".") != _HERE]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


try:
    _begin()
except Exception as error:
    if os.environ.get("POOLCTL_GUARD_DEBUG"):
        sys.stderr.write("poolctl guard: %r\n" % (error,))
# What the user's own raises is the user's: site.py reports it as it always does.
_run_the_users_own()
