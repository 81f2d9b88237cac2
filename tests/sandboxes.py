"""What the tests of the throw-away servers share: connecting, waiting, and a temporary folder to find remains in."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest


def connect(conninfo: str) -> psycopg.Connection:
    return psycopg.connect(conninfo, autocommit=True, prepare_threshold=None, connect_timeout=10)


def one(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def wait_until_alone(observer: psycopg.Connection) -> None:
    """Return once no client holds a slot: a closed connection keeps its own until its backend has ended."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    eventually(lambda: one(observer, query) == 0)


def eventually(condition: Callable[[], bool], *, within: float = 60.0) -> None:
    """Wait for a state. ``within`` bounds a failure, not a success: a busy machine needs many times what an idle one
    does."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process has ended: one that only waits for its parent to notice has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def own_temporary_directory(pytest_folders: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary directory that nobody else uses and that every user can enter, as /tmp is."""
    pytest_folders.getbasetemp()  # made at its first use, which must not be inside this one
    before = tempfile.gettempdir(), os.environ.get("TMPDIR")
    path = Path(tempfile.mkdtemp(prefix="test-sandbox-", dir=_fast_base())).resolve()
    path.chmod(0o711)
    tempfile.tempdir = os.environ["TMPDIR"] = str(path)
    try:
        yield path
    finally:
        tempfile.tempdir = before[0]
        del os.environ["TMPDIR"]
        if before[1] is not None:
            os.environ["TMPDIR"] = before[1]
        shutil.rmtree(path)


def _fast_base() -> str | None:
    """A file system in memory where there is one with room: the tests make and remove thousands of files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    return str(memory) if roomy else None
