"""Ctrl-C and SIGTERM: polite while work can still report what it measured, immediate otherwise.

Decides only whether a signal is polite. What is done after a polite one is decided by the work that polls.
"""

import signal
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Return True to work that polls it once a signal came. Before the first poll there is nothing to save."""

    def __init__(self) -> None:
        self._is_requested = False
        self._is_polled = False

    def __call__(self) -> bool:
        self._is_polled = True
        return self._is_requested

    def end_polling(self) -> None:
        """Note that nothing polls any more: the next signal ends what follows at once, or later work politely."""
        self._is_requested = self._is_polled = False

    def receive(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal. The second one during the same work is immediate, should the work hang."""
        if self._is_requested or not self._is_polled:
            interrupt(_number, _frame)
        else:
            self._is_requested = True


POSTPONED = 0.02
"""Seconds until a Ctrl-C during an import is tried again."""


def interrupt(_number: int, frame: FrameType | None) -> None:
    """Handle a signal by raising KeyboardInterrupt, but never within an import.

    There it can leave a module's lock taken, and the next import of another thread waits for it without end. Python
    also turns it into a RuntimeError where it meets the creation of a class.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            repeat_interrupt()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def repeat_interrupt() -> None:
    """Send Ctrl-C to this process once more, a little later."""
    timer = threading.Timer(POSTPONED, interrupt_main)
    timer.daemon = True
    timer.start()


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Catch both signals for the length of a ``with``. Only the main thread can."""
    interrupts = Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupts.receive) for number in numbers]
    try:
        yield interrupts
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
