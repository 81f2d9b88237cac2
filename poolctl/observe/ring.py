"""A ring of recordings in a folder: the newest samples of a service that runs for days, in bounded space.

Decides when a file of the ring is full, which files are deleted, and what a full disk costs: the oldest file first, and
at most the samples that find no room. Every file is a recording of its own; ``--replay`` reads one, or the folder.
"""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from poolctl.errors import BadInput, CannotDo
from poolctl.observe.recording import RecordingWriter
from poolctl.observe.snapshot import Observation, Snapshot

FILES = 24
"""Files of a whole ring: deleting one forgets a twenty-fourth of the time kept."""
SHORTEST_FILE = 60.0
"""Seconds."""
APART_SHARE = 0.25
"""Share of the space that the recordings of findings may take; they are not part of the ring."""

_RING, _APART = "ring-", "finding-"
_SUFFIX = ".jsonl.gz"


def list_recordings(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of the ring in ``folder`` and those about findings, each the oldest first. Raises BadInput."""
    ring, apart = _list_files(folder, _RING), _list_files(folder, _APART)
    if not ring:
        hint = f"{apart[-1]} can be read alone" if apart else "a folder that inspect --watch --record DIR --keep wrote"
        raise BadInput(f"{folder} holds no ring of recordings", hint=hint)
    return ring, apart


class Ring:
    """The files in ``folder``, which is made: samples of the last ``keep`` seconds, in at most ``most_bytes``.

    One poolctl at a time writes into a folder. Raises CannotDo if the folder cannot be made or written, or is in use.
    """

    def __init__(self, folder: Path, *, keep: float, most_bytes: int, show_literals: bool = False) -> None:
        self._folder, self._keep, self._most_bytes = folder, keep, most_bytes
        self._room = float(most_bytes)
        self._show_literals = show_literals
        self._writer: RecordingWriter | None = None
        self._path = folder
        self._ends_at = 0.0
        self._is_empty = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        except OSError as error:
            raise CannotDo(f"cannot write into the folder {folder}: {error.strerror or error}") from error
        if not _take_lock(self._lock.fileno()):
            self._lock.close()
            raise CannotDo(f"another poolctl records into {folder}", hint="give each its own folder")

    def close(self) -> None:
        """Close the file that is written."""
        self._end_file()
        self._lock.close()

    def write(self, snapshot: Snapshot, observation: Observation) -> None:
        """Add ``snapshot``. Raises CannotDo if there is no room even without the older files."""
        longest = max(SHORTEST_FILE, self._keep / FILES)
        if self._writer is not None and (
            snapshot.at >= self._ends_at
            or snapshot.at < self._ends_at - 2 * longest
            or self._writer.size > self._room / FILES
        ):
            self._end_file()
        try:
            self._write(snapshot, observation, longest)
        except CannotDo:
            # A compressed file goes on only after a whole write, so the next sample begins another one.
            self._end_file()
            if not self._delete_oldest():
                raise
            self._write(snapshot, observation, longest)

    def start_apart(self, name: str, snapshots: Iterable[Snapshot], observation: Observation) -> "Apart":
        """Begin a recording beside the ring, with ``snapshots`` in it. Raises CannotDo."""
        at = observation.last.at
        path = _find_free(self._folder, _APART, at, f"-{name}")
        self._delete_over(_APART, at, self._most_bytes * APART_SHARE, keep=None)
        apart = Apart(path, show_literals=self._show_literals)
        try:
            for snapshot in snapshots:
                apart.write(snapshot, observation)
        except CannotDo:
            apart.close()
            raise
        return apart

    def _write(self, snapshot: Snapshot, observation: Observation, longest: float) -> None:
        if self._writer is None:
            share = 1 - APART_SHARE - 1 / FILES
            self._delete_over(_RING, snapshot.at, self._most_bytes * share, keep=self._keep)
            self._room = self._measure_room()
            self._path = _find_free(self._folder, _RING, snapshot.at)
            self._ends_at, self._is_empty = snapshot.at + longest, True
            self._writer = RecordingWriter(self._path, show_literals=self._show_literals)
        self._writer.write(snapshot, observation)
        self._is_empty = False

    def _measure_room(self) -> float:
        """Return the bytes that the ring may grow to: a disk with less room than was asked for has smaller files.

        Otherwise all that it has room for would be one file, and the first sample without room would cost it.
        """
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return self._most_bytes
        return min(self._most_bytes, free + sum(map(_measure_size, _list_files(self._folder, _RING))))

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._is_empty and self._path != self._folder:
            with suppress(OSError):
                self._path.unlink()

    def _delete_over(self, kind: str, now: float, most: float, keep: float | None) -> None:
        """Remove the oldest files until they take at most ``most`` bytes, and the ones that ended ``keep`` s before."""
        files = _list_files(self._folder, kind)
        sizes = [_measure_size(path) for path in files]
        total = sum(sizes)
        limit = "" if keep is None else kind + _format_time(now - keep)
        for path, size, following in zip(files, sizes, [*files[1:], None], strict=False):
            # A file ends where the next one begins.
            is_old = following is not None and following.name < limit
            if total <= most and not is_old:
                return
            with suppress(OSError):
                path.unlink()
            total -= size

    def _delete_oldest(self) -> bool:
        """Remove the oldest file of the ring but the one written last; return False if there is none."""
        older = [path for path in _list_files(self._folder, _RING) if path != self._path]
        if older:
            with suppress(OSError):
                older[0].unlink()
        return bool(older)


class Apart:
    """A recording beside the ring, about a finding: what came before it, and what follows."""

    def __init__(self, path: Path, *, show_literals: bool) -> None:
        self.path = path
        self._writer = RecordingWriter(path, show_literals=show_literals)

    def write(self, snapshot: Snapshot, observation: Observation) -> None:
        """Add ``snapshot``. Raises CannotDo."""
        self._writer.write(snapshot, observation)

    def close(self) -> None:
        self._writer.close()


def _list_files(folder: Path, kind: str) -> list[Path]:
    """Return the files of one kind, the oldest first: their names begin with the time."""
    return sorted(folder.glob(f"{kind}*{_SUFFIX}"))


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3] + "Z"


def _find_free(folder: Path, kind: str, at: float, name: str = "") -> Path:
    """Return a path that no file has: where there is one of that instant, the next thousandth of a second."""
    while (path := folder / f"{kind}{_format_time(at)}{name}{_SUFFIX}").exists():
        at += 0.001
    return path


def _measure_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _take_lock(descriptor: int) -> bool:
    """Lock the file until it is closed, which the system does for a process that is killed; False if it is locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
