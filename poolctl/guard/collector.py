"""The guard command's ear: it receives the reports of all processes and keeps the last one of each.

The address is a name in Linux' abstract space, which needs no file; elsewhere a socket in a temporary directory. A
random token keeps other users of the machine out.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from poolctl.guard.guard_report import ProcessReport
from poolctl.guard.process import ADDRESS, THRESHOLD, TOKEN
from poolctl.serialize import from_dict

LARGEST = 32 << 20
"""Bytes of one message."""

MOST_PROCESSES = 2000
"""Processes remembered. A process that held nothing at its end makes room first."""

READ_WITHIN = 5.0


class Collector:
    """Listens while it is entered. ``threshold``: seconds, handed to the processes."""

    def __init__(self, *, threshold: float) -> None:
        self.reports: dict[int, ProcessReport] = {}
        self.pythons: set[int] = set()
        self.old_pythons: set[str] = set()
        self.unreadable = 0
        self.forgotten = 0
        self._threshold = threshold
        self._token = secrets.token_hex(16)
        self._settled = threading.Event()
        self._directory: str | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._listen, name="poolctl guard", daemon=True)
        self.address = ""

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self.address = f"@poolctl-guard-{secrets.token_hex(8)}"
            self._listener.bind("\0" + self.address[1:])
        else:
            self._directory = tempfile.mkdtemp(prefix="poolctl-guard-")
            self.address = str(Path(self._directory) / "socket")
            self._listener.bind(self.address)
        self._listener.listen(128)
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # A thread in accept() wakes when the listener is shut down, not when it is closed.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(READ_WITHIN)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the environment for the command: this process's own, and what lets the guard follow."""
        shim = str(Path(__file__).with_name("shim"))
        before = os.environ.get("PYTHONPATH")
        return {
            **os.environ,
            "PYTHONPATH": f"{shim}{os.pathsep}{before}" if before else shim,
            ADDRESS: self.address,
            TOKEN: self._token,
            THRESHOLD: str(self._threshold),
        }

    def copy_reports(self) -> list[ProcessReport]:
        """List the last report of each process."""
        return list(self.reports.values())

    def settle(self, *, within: float = 10.0) -> None:
        """Wait until the reports of all processes that have ended are read, at most ``within`` seconds.

        They stand in the listener's queue since before those processes ended, and what is sent now comes after them.
        """
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(within)
            link.connect("\0" + self.address[1:] if self.address.startswith("@") else self.address)
            link.sendall(f"{self._token}\nsettled\n{{}}".encode())
            link.shutdown(socket.SHUT_WR)
            self._settled.wait(within)

    def _listen(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError, ValueError):
                link.settimeout(READ_WITHIN)
                self._receive(link)

    def _receive(self, link: socket.socket) -> None:
        chunks, size = [], 0
        while chunk := link.recv(1 << 16):
            size += len(chunk)
            if size > LARGEST:
                self.unreadable += 1
                return
            chunks.append(chunk)
        token, _, rest = b"".join(chunks).partition(b"\n")
        if not secrets.compare_digest(token, self._token.encode()):
            return
        kind, _, body = rest.partition(b"\n")
        document = json.loads(body.decode("utf-8"))
        if kind == b"settled":
            self._settled.set()
        elif kind == b"hello":
            self.pythons.add(int(document["pid"]))
        elif kind == b"alive":
            # What it reported last still holds, now.
            known = self.reports.get(int(document["pid"]))
            if known is not None:
                self.reports[known.pid] = replace(known, taken_at=time.monotonic())
        elif kind == b"old":
            self.old_pythons.add(str(document["python"]))
        elif kind == b"report":
            try:
                self._keep(from_dict(ProcessReport, document))
            except ValueError:
                self.unreadable += 1

    def _keep(self, report: ProcessReport) -> None:
        self.pythons.add(report.pid)
        self.reports[report.pid] = report
        if len(self.reports) > MOST_PROCESSES:
            spare = next((pid for pid, one in self.reports.items() if one.ended and not one.holds), None)
            if spare is not None:
                del self.reports[spare]
                self.forgotten += 1
