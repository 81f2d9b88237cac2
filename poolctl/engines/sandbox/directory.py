"""The folder of a sandbox: who owns it, when it is stale, and how it is removed with everything that runs in it.

A sandbox's folder holds a file that its owner keeps locked. The lock is shared by poolctl and its guardian, and the
system releases it when both are gone however they ended, so a folder whose lock can be taken has no owner any more;
process ids, which are reused, decide nothing. Only folders of the same user are considered: another user could make a
folder that leads poolctl to signal or remove the wrong thing.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from poolctl.engines.sandbox.binaries import Account, is_reachable
from poolctl.engines.sandbox.guardian import SERVER_PROGRAMS, read_segments, remove_segments
from poolctl.errors import BadInput, SandboxFailed

PREFIX = "poolctl-sandbox-"
COMMON_FOLDERS = (Path("/tmp"), Path("/var/tmp"))
"""Temporary directories that every user can enter, for when TMPDIR names one that only its owner can."""

_LOCK = "lock"
_UNREADY_LOCK = "lock.new"
_END_AT_ONCE = {"pgbouncer": signal.SIGKILL, "initdb": signal.SIGKILL}
"""Servers that another signal than SIGQUIT ends: PgBouncer, which has nothing to lose, and initdb, which would empty
the data directory and with it what ``read_segments`` needs."""

# Seconds. A folder without its lock file is being made at this moment, or is left by a run that died in that moment.
# The lock is the first file made, so such a folder is otherwise empty.
_UNLOCKED_FOR = 60.0


@dataclass(frozen=True, slots=True)
class SandboxDirectory:
    """The files of one sandbox. ``lock`` is the open file whose lock says that the sandbox has an owner."""

    path: Path
    lock: int
    account: Account | None

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def run(self) -> Path:
        """Where servers may write: sockets and pid files."""
        return self.path / "run"

    @property
    def passfile(self) -> Path:
        return self.path / "passfile"

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def give_to_servers(self, path: Path) -> None:
        """Make ``path`` belong to the user that the servers run as."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def write(self, name: str, text: str) -> Path:
        """Write a file that the servers can read, whatever the umask."""
        path = self.path / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def mark_kept(self) -> None:
        """Mark the sandbox as one that outlives its owner: no sweep removes it while its servers run."""
        os.pwrite(self.lock, _make_note(kept=True), 0)


def create_directory(account: Account | None) -> SandboxDirectory:
    """Create a locked folder below the temporary directory, or below another one if ``account`` cannot enter that.

    Raises SandboxFailed when there is no place for one.
    """
    parent = _choose_parent(account)
    try:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        directory = SandboxDirectory(path, _create_lock(path), account)
        if account is not None:
            path.chmod(0o711)
        for folder in (directory.data, directory.run):
            folder.mkdir(mode=0o700)
            directory.give_to_servers(folder)
    except OSError as error:
        raise SandboxFailed(
            f"cannot make a folder for the throw-away server in {parent}: {error}",
            hint="free some space there, or set TMPDIR to another folder",
        ) from error
    return directory


def _choose_parent(account: Account | None) -> Path:
    own = Path(tempfile.gettempdir()).resolve()
    if account is None or is_reachable(own):
        return own
    for folder in COMMON_FOLDERS:
        if folder.is_dir() and is_reachable(folder.resolve()) and os.access(folder, os.W_OK):
            return folder.resolve()
    raise SandboxFailed(
        f"the user `{account.name}`, which the servers run as because poolctl runs as root, cannot enter {own}",
        hint="set TMPDIR to a folder that every user can enter",
    )


def sweep_stale(parent: Path | None = None) -> list[Path]:
    """Remove the sandboxes of runs that are gone, with the servers that still run in them; returns their folders.

    ``parent``: the folder to search; None: the temporary directory.
    """
    swept = []
    for path in (parent or Path(tempfile.gettempdir())).resolve().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_ours(path) and _sweep(path):
                swept.append(path)
    return swept


_SWEEP_TIME = 1.0
"""Seconds for which the sweep of another poolctl may hold the lock of a sandbox, in order to see that it is kept."""


def stop_kept(directory: str | Path) -> None:
    """End the servers of a sandbox that was kept, and remove its folder.

    Raises BadInput when ``directory`` is no sandbox of this user, or one that a running poolctl still uses.
    """
    path = Path(directory).resolve()
    if path.name.startswith(PREFIX) and not path.exists():
        raise BadInput(f"{directory} is gone: its server has stopped")
    if not path.name.startswith(PREFIX) or not _is_ours(path) or not (path / _LOCK).is_file():
        raise BadInput(
            f"{directory} is no throw-away server of this user",
            hint=f"they are folders named {PREFIX}... in {tempfile.gettempdir()}",
        )
    deadline = time.monotonic() + _SWEEP_TIME
    while (lock := _take_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if lock is None:
        raise BadInput(
            f"{directory} is in use by a running poolctl (process {_read_note(path).get('owner', 'unknown')})",
            hint="stop that poolctl; it ends its own servers",
        )
    try:
        remove(path)
    finally:
        os.close(lock)


def stop_command(directory: Path) -> str:
    """Return the shell command that stops a kept sandbox."""
    return f"poolctl simulate --stop {shlex.quote(str(directory))}"


def remove(path: Path) -> None:
    """End every server that runs in ``path``, at once, remove its shared memory, then remove ``path``."""
    servers = {process.pid for process in find_servers(path)}
    segments = read_segments(path, servers)
    end_servers(path)
    account = _find_account(path)
    remove_segments(segments | read_segments(path, servers), account)
    for _ in range(3):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.05)


def find_servers(path: Path) -> list[psutil.Process]:
    """Find the server processes that work in ``path``, backends included, by their working directory."""
    found = []
    for process in psutil.process_iter(["name", "cwd"]):
        cwd = process.info["cwd"]
        if cwd and process.info["name"] in SERVER_PROGRAMS and Path(cwd).is_relative_to(path):
            found.append(process)
    return found


def is_running(process: psutil.Process) -> bool:
    """Return True if ``process`` runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_servers(path: Path) -> None:
    """End every server process in ``path`` within about 4 s, orderly enough that shared memory is given back."""
    found = find_servers(path)
    known = {process.pid for process in found}
    for process in found:
        with contextlib.suppress(psutil.Error):
            # A stopped process would only see the signal that ends it once it is continued.
            process.resume()
            if process.ppid() not in known:
                process.send_signal(_END_AT_ONCE.get(process.name(), signal.SIGQUIT))
    _wait_for_end(found, 3.0)
    left = find_servers(path)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait_for_end(left, 1.0)


def _find_account(path: Path) -> int | None:
    """Find the user that the servers in ``path`` ran as, by the owner of their data directory."""
    try:
        owner = (path / "data").stat().st_uid
    except OSError:
        return None
    return owner if os.geteuid() == 0 and owner != 0 else None


def _wait_for_end(processes: list[psutil.Process], seconds: float) -> None:
    # Not psutil's wait, which also waits until the parent has collected a process: these are not poolctl's children.
    deadline = time.monotonic() + seconds
    while any(is_running(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.01)


def _create_lock(path: Path) -> int:
    import fcntl

    # Locked under another name first: no sweep may ever find the file in place and not yet locked.
    unready = path / _UNREADY_LOCK
    lock = os.open(unready, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(lock, _make_note(kept=False))
    unready.rename(path / _LOCK)
    return lock


def _take_lock(path: Path) -> int | None:
    import fcntl

    lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _sweep(path: Path) -> bool:
    if not (path / _LOCK).exists():
        if time.time() - path.stat().st_mtime < _UNLOCKED_FOR:
            return False
        (path / _UNREADY_LOCK).unlink(missing_ok=True)
        path.rmdir()
        return True
    lock = _take_lock(path)
    if lock is None:
        return False
    try:
        if _read_note(path).get("kept") and find_servers(path):
            return False
        remove(path)
    finally:
        os.close(lock)
    return True


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _make_note(*, kept: bool) -> bytes:
    # Padded: a shorter note that is written over a longer one leaves no tail of it.
    return json.dumps({"owner": os.getpid(), "kept": kept}).ljust(79).encode() + b"\n"


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note: dict[str, Any] = json.loads((path / _LOCK).read_bytes())
    except (OSError, ValueError):
        return {}
    return note
