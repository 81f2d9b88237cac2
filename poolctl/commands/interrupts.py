"""Ctrl-C and SIGTERM: polite while work can still report what it measured, immediate otherwise.

Decides only whether a signal is polite. What is done after a polite one is decided by the work that polls.
"""

import signal
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
            raise KeyboardInterrupt
        self._is_requested = True


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
