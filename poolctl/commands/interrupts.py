"""Ctrl-C and SIGTERM: polite while a run can still tell what it measured, immediate otherwise and the second time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Asked by the engine whether to stop. Before it asks for the first time there is nothing to be polite about."""

    def __init__(self) -> None:
        self.asked = False
        self._is_polled = False

    def __call__(self) -> bool:
        self._is_polled = True
        return self.asked

    def run_is_over(self) -> None:
        self._is_polled = False

    def receive(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked or not self._is_polled:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Catch both signals inside the ``with``."""
    interrupts = Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupts.receive) for number in numbers]
    try:
        yield interrupts
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
