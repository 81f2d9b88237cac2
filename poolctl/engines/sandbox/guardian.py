"""The guardian: the parent of every server of one sandbox, which ends them all as soon as poolctl is gone.

It is a program of its own (``python guardian.py CONTROL_FD DIRECTORY``), started in a session of its own so that the
terminal's Ctrl-C does not reach it, and needs nothing but the standard library. poolctl sends it requests, one JSON
object a line, over a socket; whatever ends poolctl closes that socket, and a closed socket ends the servers and removes
the directory. Being the parent, it can never mistake a reused process id for one of its servers.

poolctl decides what is started, and with which settings.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

# Seconds for servers to end, and after SIGKILL. PostgreSQL itself waits 5 s for its backends; users notice sooner.
_PATIENCE = 3.0
_AFTER_KILL = 1.0
_IPC_RMID = 0
SERVER_PROGRAMS = frozenset({"postgres", "initdb", "pgbouncer", "pgpool"})


class Guardian:
    """The servers of one sandbox, and the socket whose end means that poolctl is gone."""

    def __init__(self, control: socket.socket, directory: Path) -> None:
        self._control = control
        self._directory = directory
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._end_signals: dict[str, int] = {}
        self._exits: dict[str, int] = {}
        self._stopped: list[int] = []
        self._account: int | None = None
        self._started: set[int] = set()
        """Pids of all servers that were ever started here, and of what initdb started."""
        self._kept = False
        self._terminated = False
        self._awaited: tuple[str, float] | None = None
        self._wake_read, self._wake_write = os.pipe()

    def serve(self) -> None:
        """Answer requests until poolctl is gone, then end and remove everything, unless the sandbox is to be kept."""
        self._listen_to_signals()
        _raise_file_limit()
        try:
            self._answer_until_eof()
        finally:
            if not self._kept:
                # Read before and after: a server that ends in good order removes the file with the segment's id, and
                # one that has just begun writes it while the others end.
                segments = read_segments(self._directory, self._started)
                self._end_servers()
                segments |= read_segments(self._directory, self._started)
                remove_segments(segments, self._account)
                self._remove_directory()

    def _listen_to_signals(self) -> None:
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        # Functions, not SIG_IGN: exec keeps an ignored signal ignored, and the servers need theirs.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._note_termination)

    def _note_termination(self, *_: object) -> None:
        self._terminated = True

    def _answer_until_eof(self) -> None:
        buffer = b""
        watched: list[socket.socket | int] = [self._control, self._wake_read]
        while not self._terminated:
            patience = None if self._awaited is None else max(0.0, self._awaited[1] - time.monotonic())
            ready, _, _ = select.select(watched, [], [], patience)
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            self._reap()
            self._answer_wait()
            if self._control not in ready:
                continue
            try:
                received = self._control.recv(65536)
            except ConnectionError:
                return
            if not received:
                return
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                self._answer(json.loads(line))

    def _answer(self, request: dict[str, Any]) -> None:
        answer: dict[str, Any] = {}
        match request["do"]:
            case "start":
                try:
                    answer["pid"] = self._start(request)
                except (OSError, subprocess.SubprocessError) as error:
                    answer["error"] = str(error)
            case "wait":
                self._awaited = (request["name"], time.monotonic() + request["timeout"])
                self._answer_wait()
                return
            case "signal":
                child = self._children.get(request["name"])
                if child is not None:
                    child.send_signal(request["signal"])
            case "stopped":
                self._stopped = request["pids"]
            case "keep":
                self._kept = True
        self._send(answer)

    def _start(self, request: dict[str, Any]) -> int:
        account: dict[str, Any] = {}
        self._account = request["uid"]
        if request["uid"] is not None:
            account = {"user": request["uid"], "group": request["gid"], "extra_groups": []}
        with Path(request["log"]).open("ab") as log:
            child = subprocess.Popen(
                request["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=request["cwd"],
                env=request["env"],
                start_new_session=True,
                **account,
            )
        name = request["name"]
        self._children[name] = child
        self._started.add(child.pid)
        self._end_signals[name] = request["end_signal"]
        self._exits.pop(name, None)
        return child.pid

    def _answer_wait(self) -> None:
        if self._awaited is None:
            return
        name, deadline = self._awaited
        if name in self._children and time.monotonic() < deadline:
            return
        self._awaited = None
        self._send({"running": name in self._children, "exit": self._exits.get(name)})

    def _send(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            self._control.sendall(json.dumps(answer).encode() + b"\n")

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[name]
                self._exits[name] = code
                # A Pgpool-II that crashed leaves its children behind, in its process group, which is named by its pid.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)

    def _end_servers(self) -> None:
        # A stopped process would only see the signal that ends it once it is continued.
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        left: list[Path] = []
        for name, child in self._children.items():
            # To its group: initdb works through servers of its own, one after the other. Their pids are noted while the
            # group is stopped, since each of them may just have made a segment and not yet written down its id.
            with contextlib.suppress(ProcessLookupError):
                if name == "initdb":
                    os.killpg(child.pid, signal.SIGSTOP)
                    self._started |= (group := _find_group(child.pid))
                    left += _find_mapped(group)
                else:
                    os.killpg(child.pid, signal.SIGCONT)
                os.killpg(child.pid, self._end_signals[name])
        self._wait_for_children(_PATIENCE)
        for child in self._children.values():
            child.kill()
        self._wait_for_children(_AFTER_KILL)
        for pid in _find_left(self._directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait_for_others(_AFTER_KILL)
        for path in left:
            path.unlink(missing_ok=True)

    def _wait_for_others(self, seconds: float) -> None:
        """Wait for what initdb or a killed server left: shared memory stays in use until its last process is gone."""
        deadline = time.monotonic() + seconds
        while _find_left(self._directory) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _wait_for_children(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._reap()
        while self._children and (left := deadline - time.monotonic()) > 0:
            # Waking at least every 50 ms covers a child that ended between the check and the wait.
            ready, _, _ = select.select([self._wake_read], [], [], min(left, 0.05))
            if ready:
                os.read(self._wake_read, 4096)
            self._reap()

    def _remove_directory(self) -> None:
        for _ in range(3):
            shutil.rmtree(self._directory, ignore_errors=True)
            if not self._directory.exists():
                return
            time.sleep(0.05)


def read_segments(directory: Path, creators: Collection[int]) -> set[int]:
    """Read the ids of System V shared memory that servers of ``directory`` made and did not remove.

    PostgreSQL writes the id into postmaster.pid a moment after it made the segment. Linux also lists the process that
    made each segment; one that a process still uses is left out, so a reused process id does no harm.
    """
    found = set()
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (directory / "data" / "postmaster.pid").read_text().splitlines()
        found.add(int(lines[6].split()[1]))
    with contextlib.suppress(OSError):
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            # key shmid perms size cpid lpid nattch uid ...
            _, segment, _, _, creator, _, attached, *_ = line.split()
            if int(creator) in creators and attached == "0":
                found.add(int(segment))
    return found


def remove_segments(segments: Collection[int], account: int | None) -> None:
    """Remove shared memory that killed servers left: no other process does, and macOS has room for 32 in all.

    ``account``: the servers' own user, who could have written any number into postmaster.pid; root could remove any
    segment with it. None: poolctl's user.
    """
    user = os.geteuid()
    os.seteuid(user if account is None else account)
    try:
        for segment in segments:
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)
    finally:
        os.seteuid(user)


def _find_mapped(pids: Collection[int]) -> list[Path]:
    """Find the files of POSIX shared memory that servers of initdb use: it sets none of our settings (Linux only)."""
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.update(re.findall(r"/dev/shm/PostgreSQL\.\d+$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE))
    return [Path(name) for name in found]


def _find_group(leader: int) -> set[int]:
    """Find the processes of a group by /proc; none on macOS."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # Behind the name of the program in brackets: state, parent, group.
            group = int((process / "stat").read_bytes().rpartition(b")")[2].split()[2])
            if group == leader:
                found.add(int(process.name))
    return found


def _raise_file_limit() -> None:
    """Let the servers open as many files as they may: a pooler needs one for each client and each connection."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (65536, 10240):  # the second is the most that macOS takes
        wanted = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
            return


def _find_left(directory: Path) -> list[int]:
    """Find server processes that still work inside ``directory``: backends that outlived a killed postmaster.

    Reads /proc, so it finds none on macOS; there the next run's sweep does.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            inside = (process / "cwd").readlink().is_relative_to(directory)
            if inside and (process / "comm").read_text().strip() in SERVER_PROGRAMS:
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    Guardian(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])).serve()
