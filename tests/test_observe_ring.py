"""The ring of a service: bounded, readable whatever ended poolctl, and content with a full disk."""

import gzip
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from poolctl.api.inspect import inspect
from poolctl.api.progress import Progress
from poolctl.errors import BadInput, CannotDo
from poolctl.observe.recording import RecordingWriter, hide_all_literals, read_recording
from poolctl.observe.ring import Ring
from poolctl.observe.snapshot import Backend, Observation, ServerSample, Snapshot, Source

NOW = 1_800_000_000.0


def make_snapshot(number: int, backends: int = 20) -> Snapshot:
    at = NOW + 5.0 * number
    rows = tuple(
        Backend(pid, "app", "app", f"service {os.urandom(16).hex()}", "client backend", "10.0.0.1", pid, at, query="x")
        for pid in range(1, backends + 1)
    )
    return Snapshot(at, ServerSample(at, NOW - 900.0, rows))


def about(snapshot: Snapshot) -> Observation:
    return Observation((snapshot,), None, (Source("postgres", "db"),), 5.0)


def fill(ring: Ring, numbers: range, backends: int = 20) -> list[Snapshot]:
    written = [make_snapshot(number, backends) for number in numbers]
    for snapshot in written:
        ring.write(snapshot, about(snapshot))
    return written


def read_all(folder: Path) -> list[Snapshot]:
    return [each for path in sorted(folder.glob("ring-*")) for each in read_recording(path)[0].snapshots]


def test_the_ring_keeps_the_newest_samples_of_the_time_that_was_asked_for(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "ring", keep=2400.0, most_bytes=10**9)
    written = fill(ring, range(1_000))
    ring.close()

    kept = read_all(tmp_path / "ring")
    assert kept == written[-len(kept) :]
    # To the length of one file.
    assert 2400.0 <= kept[-1].at - kept[0].at <= 2400.0 + 2 * 100.0


def test_the_ring_takes_no_more_space_than_it_may(tmp_path: Path) -> None:
    ring = Ring(tmp_path, keep=10**6, most_bytes=200_000)
    written = fill(ring, range(600))
    ring.close()

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200_000
    kept = read_all(tmp_path)
    assert 50 < len(kept) < 600
    assert kept == written[-len(kept) :]


def test_recordings_of_findings_are_kept_apart_and_bounded_as_well(tmp_path: Path) -> None:
    ring = Ring(tmp_path, keep=60.0, most_bytes=100_000)
    for number in range(40):
        snapshots = [make_snapshot(20 * number + each) for each in range(5)]
        apart = ring.start_apart("leak", snapshots, about(snapshots[-1]))
        apart.close()
    ring.close()

    files = sorted(tmp_path.glob("finding-*-leak*"))
    assert 2 < len(files) < 40
    assert sum(path.stat().st_size for path in files) < 50_000
    assert len(read_recording(files[-1])[0].snapshots) == 5


def test_the_folder_of_a_service_is_replayed_to_the_state_that_it_ended_with(tmp_path: Path) -> None:
    ring = Ring(tmp_path, keep=10**6, most_bytes=10**9)
    ring._keep = 2400.0  # files of 100 s, none of them deleted
    written = fill(ring, range(300))
    ring.start_apart("leak", written[-3:], about(written[-1])).close()
    ring.close()
    files = sorted(tmp_path.glob("ring-*"))
    # A kill cuts the newest file in the middle of its last sample, and a disk has damaged another one.
    files[-1].write_bytes(files[-1].read_bytes()[:-40])
    damaged = bytearray(files[3].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    files[3].write_bytes(damaged)
    progress = Heard()

    result = inspect(replay=tmp_path, progress=progress)

    kept = result.observation.snapshots
    assert kept == tuple(hide_all_literals(Observation(tuple(written[:-1]))).snapshots[-120:])
    assert 100 < result.forgotten <= 300 - 1 - 120
    # What is forgotten still shows how the least number of backends went.
    assert result.observation.floors[0].at == written[0].at
    assert result.observation.sources == about(written[0]).sources
    assert [files[3].name in text for text in progress.warnings] == [True]
    assert "recordings of findings" in progress.notes[0]
    assert result.replayed == str(tmp_path)


def test_equal_rows_of_a_replay_are_one_object(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = make_snapshot(0).server
    assert rows is not None
    with RecordingWriter(path) as writer:
        for at in (NOW, NOW + 5.0):
            snapshot = Snapshot(at, rows)
            writer.write(snapshot, about(snapshot))

    first, second = read_recording(path)[0].samples
    assert all(a is b for a, b in zip(first.backends, second.backends, strict=True))


def test_a_folder_without_a_ring_is_refused_and_names_what_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no ring"):
        inspect(replay=tmp_path)
    ring = Ring(tmp_path, keep=60.0, most_bytes=10**6)
    ring.start_apart("leak", [make_snapshot(0)], about(make_snapshot(0))).close()
    ring.close()
    with pytest.raises(BadInput, match="holds no ring") as refused:
        inspect(replay=tmp_path)
    assert "finding-" in str(refused.value.hint)


class Heard(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_two_recorders_do_not_share_a_folder(tmp_path: Path) -> None:
    ring = Ring(tmp_path, keep=60.0, most_bytes=10**6)

    with pytest.raises(CannotDo, match="another poolctl records into"):
        Ring(tmp_path, keep=60.0, most_bytes=10**6)
    ring.close()
    Ring(tmp_path, keep=60.0, most_bytes=10**6).close()


def test_a_kill_loses_at_most_the_sample_that_was_being_written(tmp_path: Path) -> None:
    """At any byte: the file is cut where a kill may have cut it."""
    path, whole = tmp_path / "a.jsonl.gz", []
    with RecordingWriter(path) as writer:
        sizes = []
        for number in range(6):
            whole.append(make_snapshot(number, 3))
            writer.write(whole[-1], about(whole[-1]))
            sizes.append(writer.size)
    data = path.read_bytes()

    for cut in range(sizes[0], len(data), 7):
        path.write_bytes(data[:cut])
        observation, note = read_recording(path)
        # The last bytes of a sample only mark its end.
        assert len(observation.snapshots) in (complete := sum(size <= cut for size in sizes), complete + 1)
        assert list(observation.snapshots) == whole[: len(observation.snapshots)]
        assert "cut off" in note


PROGRAM = """
import sys, time
from pathlib import Path
from test_observe_ring import Ring, about, make_snapshot
ring = Ring(Path(sys.argv[1]), keep=3600.0, most_bytes=10**8)
for number in range(10**6):
    snapshot = make_snapshot(number)
    ring.write(snapshot, about(snapshot))
    print(number, flush=True)
"""


def test_kill_9_loses_at_most_the_last_sample(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 30:
            pass
        process.send_signal(signal.SIGKILL)
        written = 30 + len(process.stdout.read().splitlines())

    kept = read_all(tmp_path)
    assert written <= len(kept) - 1 <= written + 1
    Ring(tmp_path, keep=60.0, most_bytes=10**6).close()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 400 kB."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder]
        try:
            made = subprocess.run(mount, capture_output=True, check=False)
        except OSError:
            pytest.xfail("there is no mount command")
        if made.returncode:
            pytest.xfail("only root may mount a small file system")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("most_bytes", [2_000_000, 10**9])
def test_a_full_disk_costs_the_oldest_samples(small_disk: Path, most_bytes: int) -> None:
    ring = Ring(small_disk, keep=10**7, most_bytes=most_bytes)
    written = fill(ring, range(900))
    ring.close()

    kept = read_all(small_disk)
    assert kept[-1] == written[-1]
    # Most of the disk, whatever its size was thought to be.
    assert sum(path.stat().st_size for path in small_disk.glob("ring-*")) > 300_000
    assert [each for each in written if each in kept] == kept


def test_a_disk_that_others_filled_loses_samples_until_there_is_room(small_disk: Path) -> None:
    ring = Ring(small_disk, keep=10**6, most_bytes=2_000_000)
    before = fill(ring, range(3))
    other = small_disk / "other"
    with other.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)

    lost = make_snapshot(10, 200)
    with pytest.raises(CannotDo, match="No space left"):
        ring.write(lost, about(lost))
    other.unlink()
    after = fill(ring, range(20, 23))
    ring.close()

    kept = read_all(small_disk)
    assert kept[:3] == before
    assert kept[-3:] == after


def test_what_is_no_recording_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"not compressed")
    with pytest.raises(BadInput, match=r"a\.jsonl\.gz"):
        read_recording(path)
    path.write_bytes(gzip.compress(b"no JSON\n"))
    with pytest.raises(BadInput, match="line 1"):
        read_recording(path)
