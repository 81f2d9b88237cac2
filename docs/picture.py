"""Runs poolctl in a terminal of its own and keeps the last screen as SVG: the picture in the README.

python docs/picture.py docs/simulate-leak.svg simulate --leak
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 100, 60


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


def main() -> None:
    file, *arguments = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.assemble(("$ ", "bold"), f"poolctl {' '.join(arguments)}"))
    console.print(Text.from_ansi(screen_of(arguments)), soft_wrap=True)
    # Without the web font that rich would have every reader's browser fetch; the format's braces come in pairs.
    plain = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(file, title=f"poolctl {' '.join(arguments)}", code_format=plain)


if __name__ == "__main__":
    main()
