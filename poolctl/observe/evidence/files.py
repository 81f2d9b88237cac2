"""Evidence files as lines of text: plain or compressed, in any encoding that people's tools write, of any size.

Decides how bytes become lines. A file is read once, from front to end; no more of it is held than is asked for.
"""

import codecs
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, cast

from poolctl.errors import BadInput
from poolctl.observe.evidence.paste import strip_escapes

LONGEST_LINE = 1 << 20
"""Characters; what follows in a longer line is left out."""
_ENDLESS_LINE = 1 << 28
"""Characters without the end of a line from which a file is a mistake: a device such as /dev/zero has no end."""
_NO_NUMBER = re.compile(r"[0-9]{25,}")
"""More digits than any figure of a server or a pool has: Python refuses to read thousands of them as a number."""
_BLOCK = 1 << 20
_PACKED = {b"PK\x03\x04": "zip", b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z", b"BZh": "bzip2"}
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass(slots=True)
class EvidenceFile:
    """One file to read. ``name`` is what reports call it; ``size`` in bytes, None for standard input.

    ``position``: bytes that were read so far, of a compressed file as they lie on the disk.
    """

    name: str
    path: Path | None
    size: int | None
    position: int = 0
    complaint: str = ""
    """Why it could not be read to its end, "" if it could."""

    def lines(self) -> Iterator[str]:
        """Yield the lines without their ends. Raises BadInput for what cannot be read."""
        for block in self.read_blocks():
            yield from block

    def read_blocks(self) -> Iterator[list[str]]:
        """Yield the lines without their ends, many at once. Raises BadInput if nothing of it can be read."""
        count = 0
        # Python has none if poolctl was started with it closed.
        if self.path is None and sys.stdin is None:
            raise BadInput(f"--evidence {self.name}: it is closed")
        try:
            with ExitStack() as opened:
                raw: BinaryIO = sys.stdin.buffer if self.path is None else opened.enter_context(self.path.open("rb"))
                for block in _decode(_open(raw, opened)):
                    if self.size is not None:
                        self.position = raw.tell()
                    count += len(block)
                    yield block
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it cannot be read"
            if not count:
                raise BadInput(f"--evidence {self.name}: {reason}") from None
            self.complaint = f"only {count} lines of it could be read: {reason}"


def find_files(places: Iterable[str]) -> list[EvidenceFile]:
    """Return the files that ``places`` name, those of a folder in the order of their names; "-" is standard input.

    Raises BadInput for a place that does not exist or cannot be opened, and for an empty folder.
    """
    found: list[EvidenceFile] = []
    for place in places:
        if place == "-":
            found.append(EvidenceFile("standard input", None, None))
            continue
        try:
            found += _list_files(Path(place))
        except FileNotFoundError:
            raise BadInput(f"--evidence {place}: there is no such file", hint="- reads standard input") from None
        except (OSError, ValueError) as error:
            raise BadInput(f"--evidence {place}: {getattr(error, 'strerror', None) or error}") from None
    return found


def _list_files(path: Path) -> list[EvidenceFile]:
    """Return the file at ``path``, or the files of that folder. Raises OSError, ValueError, BadInput for none."""
    status = path.stat()
    if not S_ISDIR(status.st_mode):
        return [EvidenceFile(path.name, path, status.st_size if S_ISREG(status.st_mode) else None)]
    inside = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    if not inside:
        raise BadInput(f"--evidence {path}: the folder has no file")
    return [EvidenceFile(each.name, each, each.stat().st_size) for each in inside]


def _open(raw: BinaryIO, opened: ExitStack) -> BinaryIO:
    start = raw.peek(2)[:2] if isinstance(raw, io.BufferedReader) else b""
    # GzipFile does not close the file that it reads from.
    return cast(BinaryIO, opened.enter_context(gzip.GzipFile(fileobj=raw))) if start == b"\x1f\x8b" else raw


def _read_as_windows(error: UnicodeError) -> tuple[str, int]:
    """Read bytes that are no UTF-8 in the encoding of most Windows programs, so that a name stays the same name."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", errors="replace"), error.end


codecs.register_error("windows-1252", _read_as_windows)


def _decode(file: BinaryIO) -> Iterator[list[str]]:
    start = file.read(4)
    packer = next((name for mark, name in _PACKED.items() if start.startswith(mark)), "")
    if packer:
        raise OSError(f"it is packed by {packer}: unpack it first")
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and start[1:2] == b"\0" and start[3:4] == b"\0":
        encoding = "utf-16-le"  # Windows tools leave the mark out at times
    decoder = codecs.getincrementaldecoder(encoding)(errors="windows-1252")
    rest = decoder.decode(start)
    left_out = 0
    while data := _read_some(file):
        text = rest + decoder.decode(data)
        if "\r" in text:
            # A pair may be cut in two: its first half waits for the next block.
            held = text[-1:] == "\r"
            text = text[:-1] if held else text
            # Some tools end a line twice: a Windows line end behind a return of the carriage.
            text = text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n") + "\r" * held
        if left_out and "\n" not in text:
            # Cleaning costs a second for 30 MB, so what is left out is not cleaned.
            left_out += len(text) - len(rest)
            if left_out > _ENDLESS_LINE:
                raise OSError("no line ends in it")
            continue
        *whole, rest = _clean(text).split("\n")
        left_out = max(0, len(rest) - LONGEST_LINE)
        rest = rest[:LONGEST_LINE]
        yield [line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] for line in whole]
    rest = _clean(rest + decoder.decode(b"", final=True)).rstrip("\r")
    if rest:
        yield [rest]


def _clean(text: str) -> str:
    return _NO_NUMBER.sub("?", strip_escapes(text))


def _read_some(file: BinaryIO) -> bytes:
    """Read a block; of a pipe what is there, so that a slow producer is read as it writes."""
    read1 = getattr(file, "read1", None)
    return cast(bytes, read1(_BLOCK) if read1 is not None else file.read(_BLOCK))
