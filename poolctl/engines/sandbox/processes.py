"""The server processes of a sandbox: started and ended through the guardian, measured and frozen through psutil.

Decides how requests reach the guardian and how processor time is summed. Which servers run, and with which settings, is
left to ``server`` and ``poolers``.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from poolctl.engines.sandbox.directory import SandboxDirectory, remove
from poolctl.errors import SandboxFailed

# The environment of the servers: nothing that starts with PG, which would change their settings.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_ANSWER_WITHIN = 10.0
_END_WITHIN = 8.0
_STOPPED_WITHIN = 2.0


class Guard:
    """poolctl's end of the guardian: whatever ends this process closes its socket, and that ends the servers.

    Safe to use from several threads. Raises SandboxFailed when the guardian itself is gone.
    """

    def __init__(self, directory: SandboxDirectory) -> None:
        self._directory = directory
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._environment |= {"HOME": str(directory.run), "LC_ALL": "C", "TZ": "UTC"}
        self._control, theirs = socket.socketpair()
        try:
            with theirs, directory.log("guardian").open("ab") as log:
                # -S and -I: a third of the start-up time, and nothing in the user's environment can break it.
                argv = [
                    sys.executable,
                    "-I",
                    "-S",
                    str(Path(__file__).with_name("guardian.py")),
                    str(theirs.fileno()),
                    str(directory.path),
                ]
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    # The guardian keeps the lock open: with poolctl gone the folder is still taken until it is removed.
                    pass_fds=(theirs.fileno(), directory.lock),
                    start_new_session=True,
                )
        except OSError as error:
            self._control.close()
            os.close(directory.lock)
            remove(directory.path)
            raise SandboxFailed(f"cannot start the guardian of the throw-away server: {error}") from error
        self._answers = self._control.makefile("rb")
        _live_guards.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, name: str, argv: Sequence[str | Path], *, end_signal: int) -> psutil.Process | None:
        """Start a server whose output goes to its log; ``end_signal`` is what ends it at once.

        Returns None when it has already ended: ``wait`` then returns its exit code. Raises SandboxFailed when it cannot
        be run.
        """
        account = self._directory.account
        answer = self._ask(
            do="start",
            name=name,
            argv=[str(argument) for argument in argv],
            log=str(self._directory.log(name)),
            cwd=str(self._directory.path),
            env=self._environment,
            end_signal=end_signal,
            uid=account.uid if account else None,
            gid=account.gid if account else None,
        )
        if "error" in answer:
            raise SandboxFailed(f"cannot run {argv[0]}: {answer['error']}")
        try:
            return psutil.Process(answer["pid"])
        except psutil.NoSuchProcess:
            return None

    def wait(self, name: str, seconds: float) -> int | None:
        """Wait for a server to end, and return its exit code; None when it still runs after ``seconds``."""
        answer = self._ask(do="wait", name=name, timeout=seconds)
        if answer["running"]:
            return None
        # Neither running nor ended: it never started.
        return -1 if answer["exit"] is None else int(answer["exit"])

    def is_running(self, name: str) -> bool:
        return self.wait(name, 0) is None

    def signal(self, name: str, number: int) -> None:
        self._ask(do="signal", name=name, signal=number)

    def note_stopped(self, pids: Sequence[int]) -> None:
        """Report which processes are frozen, so that the guardian can thaw them before it ends them."""
        self._ask(do="stopped", pids=list(pids))

    def log_end(self, name: str, lines: int = 8) -> str:
        """Read the last lines of a server's log."""
        return "\n".join(read_tail(self._directory.log(name)).splitlines()[-lines:])

    def close(self, *, keep: bool = False) -> None:
        """End the servers and remove the folder, or with ``keep`` leave both; returns when that is done."""
        if os.getpid() != self._owner:
            return  # a forked child that unwinds its parent's stack
        _live_guards.discard(self)
        kept = False
        if keep:
            with contextlib.suppress(SandboxFailed):
                self._directory.mark_kept()
                self._ask(do="keep")
                kept = True
        self._close_control()
        try:
            self._process.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not kept and self._directory.path.exists():
            remove(self._directory.path)
        with contextlib.suppress(OSError):
            os.close(self._directory.lock)

    def _ask(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            try:
                self._control.settimeout(request.get("timeout", 0.0) + _ANSWER_WITHIN)
                self._control.sendall(json.dumps(request).encode() + b"\n")
                line = self._answers.readline()
            except (OSError, ValueError) as error:
                raise self._make_error(str(error)) from error
        if not line:
            raise self._make_error("it ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _make_error(self, reason: str) -> SandboxFailed:
        return SandboxFailed(
            f"the guardian of the throw-away server does not answer: {reason}", hint=self.log_end("guardian")
        )

    def _close_control(self) -> None:
        with contextlib.suppress(OSError):
            self._answers.close()
        self._control.close()

    def forget(self) -> None:
        """Close, in a forked child, what would make the guardian believe that poolctl is still there."""
        # By number: another thread may have held the lock inside the buffered reader when the process was forked.
        for descriptor in (self._control.detach(), self._directory.lock):
            with contextlib.suppress(OSError):
                os.close(descriptor)


_live_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()


def _forget_guards() -> None:
    for guard in list(_live_guards):
        guard.forget()
    _live_guards.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_guards)


class CpuMeter:
    """Processor seconds used by the guardian's servers, those of processes that have ended included."""

    def __init__(self, guardian: psutil.Process) -> None:
        self._guardian = guardian
        self._last_seen: dict[psutil.Process, float] = {}
        self._highest = 0.0
        self._begin = 0.0
        self._begin = self.read()

    def read(self) -> float:
        """Read the seconds of user and system time since the meter was made; never less than at the last call.

        The kernel adds a process's time to its parent's when the parent collects it, so the guardian and the
        postmaster know the time of every backend that has ended, however short its life. macOS does not show that:
        there a backend counts with its time at the last call before it ended.
        """
        # A parent is read before its children: one that ends in between is missed for once, not counted twice for good.
        collected = self._read_collected(self._guardian)
        running: dict[psutil.Process, float] = {}
        for process in list_family(self._guardian)[1:]:
            with contextlib.suppress(psutil.Error):
                running[process] = self._read_used(process)
                collected += self._read_collected(process)
        self._last_seen = running if not psutil.MACOS else self._last_seen | running
        self._highest = max(self._highest, collected + sum(self._last_seen.values()))
        return self._highest - self._begin

    @staticmethod
    def _read_used(process: psutil.Process) -> float:
        # psutil reads whole hundredths of a second: a thousand young backends would count as nothing.
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e9
        times = process.cpu_times()
        return times.user + times.system

    @staticmethod
    def _read_collected(process: psutil.Process) -> float:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            return getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return 0.0


def list_family(parent: psutil.Process) -> list[psutil.Process]:
    """List ``parent``, then all its descendants; empty when it has ended."""
    try:
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def freeze(guard: Guard, parent: psutil.Process) -> list[psutil.Process]:
    """Stop ``parent`` and every process below it where they are; return them, for ``thaw``."""
    # The parent first: then it starts no process that the list would miss. The guardian learns of it before, so that
    # it can thaw them also when poolctl is killed half-way.
    guard.note_stopped([parent.pid])
    _stop_all([parent])
    frozen = list_family(parent)
    guard.note_stopped([process.pid for process in frozen])
    _stop_all(frozen)
    return frozen


def _stop_all(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    # A process stops when it next runs, or leaves the kernel: only then does its state say so.
    deadline = time.monotonic() + _STOPPED_WITHIN
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE) and time.monotonic() < deadline:
                time.sleep(0.001)


def thaw(guard: Guard, frozen: Sequence[psutil.Process]) -> None:
    """Continue what ``freeze`` stopped, parents last."""
    for process in reversed(frozen):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    guard.note_stopped([])


def read_tail(path: Path, size: int = 16384) -> str:
    """Read the end of a log file; "" when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - size))
            return log.read().decode(errors="replace")
    except OSError:
        return ""
