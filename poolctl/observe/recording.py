"""Observations as JSON lines: written while poolctl observes, read again for the same diagnosis without a server.

The first line names the format; every other line is one object: ``about`` (the server's facts and the sources, written
again whenever they change; the last one counts) or ``snapshot``. A field that has its default is left out. Literals of
statements are hidden unless the user wants them; passwords in command lines and reasons are always hidden. A file whose
name ends in .gz is compressed, each line so that it can be read whatever comes after it.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self, TextIO

from poolctl.errors import BadInput, CannotDo
from poolctl.observe.snapshot import Backend, LogFacts, Observation, ServerFacts, Snapshot, Source
from poolctl.safe_text import hide_literals, hide_secrets
from poolctl.serialize import from_dict, to_dict

FORMAT = 1
LONGEST_LINE = 1 << 27
"""Characters. A sample of 10,000 backends has a twentieth of it; a device such as /dev/zero never ends a line."""
_KEY = "poolctl_recording"
_HINT = "a file that inspect --record wrote"
_GZIP = 31
"""zlib's word for a file of gzip with the largest window."""
_ROWS = "\0rows"
"""Stands for the rows of backends until they are put in its place; no source can send it."""
_MOST_KEPT = 10_000
"""Texts whose hidden form is kept: the same statements come again in every snapshot, and from thousands of backends."""
_hide_text = lru_cache(_MOST_KEPT)(hide_literals)
"""Equal texts become one object: a long live view holds the same few statements many thousand times."""


@dataclass(frozen=True, slots=True)
class About:
    """The part of an observation beside its snapshots."""

    interval: float = 0.0
    server: ServerFacts | None = None
    sources: tuple[Source, ...] = ()
    log: LogFacts | None = None


class RecordingWriter:
    """Writer of one observation to ``path``, line by line, so that the lines survive whatever ends poolctl.

    Raises CannotDo, with the system's reason, when the file cannot be written.
    """

    def __init__(self, path: Path, *, show_literals: bool = False) -> None:
        self._path = path
        self._show_literals = show_literals
        self._about: About | None = None
        self._rows: dict[int, tuple[Backend, str]] = {}
        self._compressor = zlib.compressobj(1, wbits=_GZIP) if path.suffix == ".gz" else None
        self._is_broken = False
        self.size = 0
        """Bytes of the file so far."""
        try:
            self._file: IO[bytes] = path.open("wb", buffering=0)
        except OSError as error:
            raise self._make_error(error) from error
        try:
            self._write({_KEY: FORMAT, "literals": "shown" if show_literals else "hidden"})
        except CannotDo:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, snapshot: Snapshot, observation: Observation) -> None:
        """Add ``snapshot``, and the facts and sources of ``observation`` if they have changed. Raises CannotDo."""
        self.note(observation)
        rows: list[str] = []
        if snapshot.server is not None:
            rows = self._write_rows(snapshot.server.backends)
            snapshot = replace(snapshot, server=replace(snapshot.server, backends=()))
        entry = self._clean(to_dict(snapshot))
        if rows:
            entry["server"]["backends"] = _ROWS
        line = _dump({"snapshot": entry})
        self._write_line(line.replace(_dump(_ROWS), f"[{','.join(rows)}]", 1) if rows else line)

    def note(self, observation: Observation) -> None:
        """Write facts and sources, if they have changed. Raises CannotDo."""
        about = About(observation.interval, observation.server, observation.sources, observation.log)
        if about != self._about:
            self._about = about
            self._write({"about": self._clean(to_dict(about))})

    def close(self) -> None:
        """Close the file. What cannot be written any more is left out."""
        with self._file, suppress(OSError):
            if self._compressor is not None and not self._is_broken:
                self._file.write(self._compressor.flush())

    def _write_rows(self, backends: Iterable[Backend]) -> list[str]:
        """Return the rows as JSON; those of the snapshot before are not made again."""
        known, self._rows = self._rows, {}
        texts = []
        for row in backends:
            before = known.get(row.pid)
            texts.append(before[1] if before is not None and before[0] is row else _dump(self._clean(to_dict(row))))
            self._rows[row.pid] = row, texts[-1]
        return texts

    def _write(self, line: Mapping[str, Any]) -> None:
        self._write_line(_dump(line))

    def _write_line(self, line: str) -> None:
        data = f"{line}\n".encode("ascii")
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            # A part of a line must not stand before whole ones, and an end that does not fit not at the end.
            self._is_broken = True
            with suppress(OSError):
                self._file.truncate(self.size)
                self._file.seek(self.size)
            raise self._make_error(error) from error
        self.size += len(data)

    def _make_error(self, error: OSError) -> CannotDo:
        return CannotDo(f"cannot write the recording {self._path}: {error.strerror or error}")

    def _clean(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: self._clean_text(key, each) if isinstance(each, str) else self._clean(each)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._clean(each) for each in value]
        return value

    def _clean_text(self, key: str, text: str) -> str:
        if key in ("command", "reason", "text"):
            return hide_secrets(text)
        return text if key != "query" or self._show_literals else _hide_text(text)


class RecordingReader:
    """The snapshots of the file ``path``, one after the other, so that a large file needs little memory.

    ``about``: the last facts and sources read so far. ``note``: the end of the file that is cut off, "" if it is not.
    Rows that are equal in two snapshots one after the other are one object; ``after`` is the file that was read before.
    Iterating raises BadInput with the number of a line that is none of a recording's, CannotDo when the file cannot be
    read.
    """

    def __init__(self, path: Path, after: "RecordingReader | None" = None) -> None:
        self.path = path
        self.about = About()
        self.note = ""
        self._rows: dict[Any, tuple[Any, Backend]] = {} if after is None else after._rows

    def __iter__(self) -> Iterator[Snapshot]:
        path = self.path
        try:
            with _open(path) as file:
                for number, line in enumerate(_list_lines(file), 1):
                    if line is not None and len(line) >= LONGEST_LINE:
                        raise BadInput(f"{path}, line {number}: longer than {LONGEST_LINE:,} characters", hint=_HINT)
                    if line is None:
                        self.note = f"the end of {path} is cut off; it was left out"
                        return
                    if number > 1 and not line.endswith("\n") and not _is_whole(line):
                        self.note = f"the last line of {path} is cut off; it was left out"
                        return
                    try:
                        snapshot = self._read_line(number, line)
                    except ValueError as error:
                        raise BadInput(f"{path}, line {number}: {error}", hint=_HINT) from None
                    if snapshot is not None:
                        yield snapshot
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BadInput(f"{path}: {error}", hint=_HINT) from None
        except OSError as error:
            raise CannotDo(f"cannot read the recording {path}: {error.strerror or error}") from error

    def _read_line(self, number: int, line: str) -> Snapshot | None:
        """Return the snapshot of one line, or keep what it is about. Raises ValueError."""
        entry = _parse_entry(line)
        if number == 1:
            _check_header(entry)
        elif "about" in entry:
            self.about = from_dict(About, entry["about"])
        elif "snapshot" in entry:
            return self._read_snapshot(entry["snapshot"])
        return None

    def _read_snapshot(self, entry: Any) -> Snapshot:
        server = entry.get("server") if isinstance(entry, dict) else None
        if not isinstance(server, dict) or not isinstance(rows := server.get("backends"), list):
            whole: Snapshot = from_dict(Snapshot, entry)
            return whole
        snapshot: Snapshot = from_dict(Snapshot, {**entry, "server": {**server, "backends": []}})
        assert snapshot.server is not None
        known, self._rows = self._rows, {}
        try:
            backends = tuple(self._read_row(row, known) for row in rows)
        except ValueError as error:
            raise ValueError(f"server: backends: {error}") from None
        return replace(snapshot, server=replace(snapshot.server, backends=backends))

    def _read_row(self, row: Any, known: Mapping[Any, tuple[Any, Backend]]) -> Backend:
        pid = str(row.get("pid")) if isinstance(row, dict) else ""
        before = known.get(pid)
        read: Backend = before[1] if before is not None and before[0] == row else from_dict(Backend, row)
        self._rows[pid] = row, read
        return read


def read_recording(path: Path) -> tuple[Observation, str]:
    """Read the observation in the file ``path``, and a note when its last line was cut off, else "".

    Raises BadInput with the number of the line that is none of a recording's, CannotDo when the file cannot be read.
    """
    reader = RecordingReader(path)
    snapshots = tuple(reader)
    if not snapshots:
        raise BadInput(f"{path} holds no snapshot", hint=_HINT)
    about = reader.about
    return Observation(snapshots, about.server, about.sources, about.interval, about.log), reader.note


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n")
    return path.open(encoding="utf-8", errors="replace", newline="\n")


def _list_lines(file: TextIO) -> Iterator[str | None]:
    """Yield the lines of ``file``; None in place of the rest of a compressed one that is cut off."""
    try:
        while line := file.readline(LONGEST_LINE):
            yield line
    except EOFError:
        yield None


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from None
    if not isinstance(entry, dict):
        raise ValueError("an object was expected")
    return entry


def _check_header(entry: Mapping[str, Any]) -> None:
    if _KEY not in entry:
        raise ValueError("not a recording of poolctl's")
    if entry[_KEY] != FORMAT:
        raise ValueError(f"it has the format {entry[_KEY]!r}, and this poolctl reads format {FORMAT}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def hide_all_literals(observation: Observation) -> Observation:
    """Hide every literal of every statement in ``observation``, as a recording does."""
    hider = LiteralHider()
    return replace(observation, snapshots=tuple(map(hider.hide, observation.snapshots)))


class LiteralHider:
    """Hides literals in one snapshot after the other. A row that stays the same object stays one when hidden."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Backend, Backend]] = {}

    def hide(self, snapshot: Snapshot) -> Snapshot:
        """Return ``snapshot`` with the literals of all statements hidden."""
        if snapshot.server is None:
            return snapshot
        server = snapshot.server
        rows, known = {}, self._rows
        for row in server.backends:
            before = known.get(row.pid)
            rows[row.pid] = before if before is not None and before[0] is row else (row, self._hide_row(row))
        self._rows = rows
        backends = tuple(rows[row.pid][1] for row in server.backends)
        if len(rows) < len(backends):
            # One process id twice, as in a recording that was put together by hand.
            backends = tuple(map(self._hide_row, server.backends))
        statements = (
            each if not each.query else replace(each, query=_hide_text(each.query)) for each in server.statements
        )
        return replace(snapshot, server=replace(server, backends=backends, statements=tuple(statements)))

    def _hide_row(self, row: Backend) -> Backend:
        if not row.query:
            return row
        query = _hide_text(row.query)
        return row if query is row.query else replace(row, query=query)
