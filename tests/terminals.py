"""``poolctl inspect`` in a terminal, as a person has it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress


class Terminal:
    """poolctl in a terminal of its own, which says what is on the screen and presses keys."""

    def __init__(self, *arguments: str, columns: int = 100, rows: int = 40) -> None:
        self._reader, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolctl", "inspect", *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm-256color", "PGPASSFILE": "/no/such/passfile"},
            start_new_session=True,
        )
        os.close(terminal)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        with suppress(OSError):
            os.close(self._reader)
        self._reader = -1

    def read_until(self, pattern: str, within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text[-2000:]
            if select.select([self._reader], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._reader, 65536).decode("utf-8", "replace")
                except OSError:  # Linux: the other end is closed.
                    assert re.search(pattern, self.text), self.text[-2000:]

    def press(self, keys: str) -> None:
        os.write(self._reader, keys.encode())

    def end(self, within: float = 30.0) -> int:
        """The exit code, after everything was read."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            try:
                if select.select([self._reader], [], [], 0.1)[0]:
                    self.text += os.read(self._reader, 65536).decode("utf-8", "replace")
                    continue
            except OSError:
                break
            if self.process.poll() is not None:
                break
        return self.process.wait(timeout=within)
