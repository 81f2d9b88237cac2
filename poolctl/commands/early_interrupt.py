"""Ctrl-C while the command line is still being imported: noted here, and handled once ``cli`` is complete.

The imports of ``cli`` take a tenth of a second and more, and a KeyboardInterrupt within them would end in a traceback.
Importing this module, before all others, starts to note; ``stop_noting`` ends it.
"""

# The C module behind ``signal``, which is part of the interpreter. ``signal`` itself imports enum and more, which takes
# longer than what it is to protect.
import _signal  # type: ignore[import-not-found]

was_interrupted = False
"""True if Ctrl-C came in the meantime."""


def _note(*_: object) -> None:
    global was_interrupted
    was_interrupted = True


def _start_noting() -> None:
    # Any other handler means that SIGINT is ignored (nohup, some CI systems), or that another program imports poolctl.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        try:
            _signal.signal(_signal.SIGINT, _note)
        except ValueError:
            # Only the main thread may set a handler, and only it receives a KeyboardInterrupt.
            return


def stop_noting() -> None:
    """Give SIGINT its usual handler again."""
    if _signal.getsignal(_signal.SIGINT) is _note:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


_start_noting()
