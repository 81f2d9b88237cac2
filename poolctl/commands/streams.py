"""Standard output and standard error that may fail: a full disk, a closed descriptor, a reader that has left.

Decides what a failure costs. One on standard output ends the command with an error. One on standard error is only
noted: a message that cannot be shown must not cost the answer. After a failure everything written to that stream is
dropped, so that neither the rest of the command nor Python's own exit fails again.
"""

import io
import os
import select
import sys
from typing import Any, TextIO

import click

from poolctl.errors import CannotDo


class OutputFailed(CannotDo):
    """Standard output cannot be written."""

    code = "output-failed"


class ReaderLeft(Exception):
    """The process that reads standard output has closed it, as ``head`` does when it has read its lines.

    Not a BrokenPipeError: rich catches that one and exits with 1, which means "a finding" here.
    """


class _GuardedFile(io.RawIOBase):
    """A file descriptor that drops what it cannot write. ``reason``: why it cannot be written at all, "": it can.

    ``is_lost``: something could not be written, and a reader might have wanted it. ``has_written``: something was
    written.
    """

    def __init__(self, descriptor: int, reason: str) -> None:
        self._descriptor = descriptor
        self._reason = reason
        self._has_failed = False
        self.is_lost = False
        self.has_written = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write what the descriptor takes, and return its number of bytes; all of it after a failure."""
        if not self._has_failed:
            try:
                if self._reason:
                    raise OSError(0, self._reason)
                written = self._write(data)
                self.has_written = True
                return written
            except OSError as error:
                self._has_failed = True
                self.fail(error)
            except KeyboardInterrupt:
                self.break_off()
                raise
        return len(data)

    def _write(self, data: Any) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                # Another program has made our terminal non-blocking; the flag belongs to the terminal, not to us.
                select.select((), (self._descriptor,), ())

    def fail(self, error: OSError) -> None:
        """Note that the stream failed. A reader that has left misses nothing."""
        self.is_lost = not isinstance(error, BrokenPipeError)

    def break_off(self) -> None:
        """Take an interruption during a write. What follows on standard error is about it."""


class _GuardedOutput(_GuardedFile):
    def break_off(self) -> None:
        """Write no more: some of it may be written, how much is not known, and what followed would be no document."""
        self._has_failed = self.has_written = True

    def fail(self, error: OSError) -> None:
        """Raise OutputFailed or ReaderLeft."""
        if isinstance(error, BrokenPipeError):
            raise ReaderLeft from None
        raise OutputFailed(
            f"cannot write to standard output: {error.strerror}", hint="the answer is incomplete, or missing"
        ) from None


def print_message(text: str, *, start: str = "poolctl: ") -> None:
    """Print each line of ``text`` after ``start`` on standard error, without secrets and control characters.

    Messages repeat what was typed and what servers said: this is the one place where they leave the program.
    """
    from poolctl.safe_text import hide_secrets, neutralize

    for line in hide_secrets(text).splitlines() or [""]:
        click.echo(f"{start}{neutralize(line, 1000)}", err=True)


def guard_streams() -> None:
    """Replace sys.stdout and sys.stderr by guarded ones. Only for a process of poolctl's own."""
    closed = _open_missing_descriptors()
    sys.stdout = _wrap(sys.stdout, _GuardedOutput(1, "it is closed" if 1 in closed else ""))
    sys.stderr = _wrap(sys.stderr, _GuardedFile(2, "it is closed" if 2 in closed else ""))


def has_lost_messages() -> bool:
    """Return True if something could not be written to standard error."""
    raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
    return isinstance(raw, _GuardedFile) and raw.is_lost


def has_answered() -> bool:
    """Return True if something was written to standard output. Raises OutputFailed and ReaderLeft."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _GuardedFile) and raw.has_written


def _wrap(stream: TextIO | None, file: _GuardedFile) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors=stream.errors if stream is not None else "backslashreplace",
        line_buffering=file.fileno() == 2 or file.isatty(),
    )


def _open_missing_descriptors() -> list[int]:
    """Open the null device for each of descriptors 0 to 2 that is closed, and return these.

    Otherwise the next file or socket would get such a number, and messages of C libraries would be written into it.
    """
    closed = []
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        # Processes that poolctl starts inherit them.
        os.set_inheritable(descriptor, True)
        closed.append(descriptor)
    os.close(descriptor)
    return closed
