"""Evidence files as lines of text: plain or compressed, in any encoding that people's tools write, of any size.

Decides how bytes become lines. A file is read once, from front to end; no more of it is held than is asked for.
"""

import gzip
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from poolctl.errors import BadInput

LONGEST_LINE = 1 << 20
"""Characters; what follows in a longer line is left out."""
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """One file to read. ``name`` is what reports call it; ``size`` in bytes, None for standard input."""

    name: str
    path: Path | None
    size: int | None

    def lines(self) -> Iterator[str]:
        """Yield the lines without their ends. Raises BadInput for what cannot be read."""
        try:
            with ExitStack() as opened:
                yield from _decode(_open(self.path, opened))
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it cannot be read"
            raise BadInput(f"--evidence {self.name}: {reason}") from None


def find_files(places: Iterable[str]) -> list[EvidenceFile]:
    """Return the files that ``places`` name, those of a folder in the order of their names; "-" is standard input.

    Raises BadInput for a place that does not exist and for an empty folder.
    """
    found: list[EvidenceFile] = []
    for place in places:
        if place == "-":
            found.append(EvidenceFile("standard input", None, None))
            continue
        path = Path(place)
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
            if not inside:
                raise BadInput(f"--evidence {place}: the folder has no file")
            found += [EvidenceFile(each.name, each, each.stat().st_size) for each in inside]
        elif path.exists():
            found.append(EvidenceFile(path.name, path, path.stat().st_size if path.is_file() else None))
        else:
            raise BadInput(f"--evidence {place}: there is no such file", hint="- reads standard input")
    return found


def _open(path: Path | None, opened: ExitStack) -> BinaryIO:
    raw: BinaryIO = sys.stdin.buffer if path is None else opened.enter_context(path.open("rb"))
    start = raw.peek(2)[:2] if isinstance(raw, io.BufferedReader) else b""
    # GzipFile does not close the file that it reads from.
    return cast(BinaryIO, opened.enter_context(gzip.GzipFile(fileobj=raw))) if start == b"\x1f\x8b" else raw


def _decode(file: BinaryIO) -> Iterator[str]:
    start = file.read(4)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and start[1:2] == b"\0" and start[3:4] == b"\0":
        encoding = "utf-16-le"  # Windows tools leave the mark out at times
    rest = _Joined(start, file)
    text = io.TextIOWrapper(cast(BinaryIO, rest), encoding=encoding, errors="replace", newline=None)
    while True:
        line = text.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) == LONGEST_LINE:
            while (more := text.readline(LONGEST_LINE)) and not more.endswith("\n"):
                pass
        yield line.rstrip("\r\n")


class _Joined(io.RawIOBase):
    """The bytes that were read to find the encoding, and then the file: standard input cannot be read twice."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self._start, self._file = start, file

    def readable(self) -> bool:
        """Return True: TextIOWrapper asks for it."""
        return True

    def read1(self, size: int = -1) -> bytes:
        """Return some bytes, as a buffered file does."""
        return self.read(size if size > 0 else 1 << 16) or b""

    def read(self, size: int = -1) -> bytes | None:
        """Return at most ``size`` bytes, the start first; b"" at the end."""
        if self._start:
            start, self._start = self._start, b""
            return start
        return self._file.read(size)
