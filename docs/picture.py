"""Runs poolctl in a terminal of its own and keeps the last screen as SVG, for README.md and docs/inspect.md.

python docs/picture.py docs/simulate-leak.svg simulate --leak
python docs/picture.py docs/inspect-leak.svg inspect

``inspect`` looks at a leak that runs meanwhile, on a throw-away server.
"""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 100, 60
LEAK = ("simulate", "--leak", "--leak-shape", "in-transaction", "--for", "2m")
LEAKED_AFTER = 36.0
"""Seconds: the pool has run dry, and its holds are longer than any acquire timeout."""


def screen_of(arguments: list[str]) -> str:
    """What ``poolctl`` with these arguments prints on a terminal, colors included."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "poolctl", *arguments, "--quiet"]
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment):
        os.close(terminal)
        screen = b""
        while chunk := _read(reader):
            screen += chunk
    return screen.decode().replace("\r\n", "\n").replace(" --quiet", "")


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:
        # Linux: the other end of the terminal is closed.
        return b""


@contextmanager
def leaking() -> Iterator[list[str]]:
    """A service that leaks, in a terminal of its own, and how to look at it from another."""
    command = [sys.executable, "-m", "poolctl", *LEAK]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = (line.partition("from a second terminal: poolctl ")[2] for line in process.stderr)
        arguments = shlex.split(next(filter(None, told)))
        time.sleep(LEAKED_AFTER)
        try:
            yield arguments
        finally:
            process.terminate()
            process.stderr.read()


def main() -> None:
    file, *arguments = sys.argv[1:]
    if arguments == ["inspect"]:
        with leaking() as told:
            keep(file, told)
    else:
        keep(file, arguments)


def keep(file: str, arguments: list[str]) -> None:
    told = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.assemble(("$ ", "bold"), f"poolctl {told}"))
    console.print(Text.from_ansi(screen_of(arguments)), overflow="fold")
    # Without the web font that rich would have every reader's browser fetch; the format's braces come in pairs.
    plain = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(file, title=f"poolctl {arguments[0]}", code_format=plain)


if __name__ == "__main__":
    main()
