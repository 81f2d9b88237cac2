"""Where the processes of instances run: this machine, or another kind of host with the same methods.

Decides how a process is started and ended here, and what is reported of its end. What the messages mean is left to
``instance_fleet``; ``engines.cluster.cluster_host`` is the host that consists of many machines.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import psutil

from poolctl.errors import CannotDo
from poolctl.units import plural

INSTANCE_MEMORY = 35_000_000
"""Bytes that the process of an instance takes with its libraries loaded."""

WORKER_MEMORY = 32_000
"""Bytes that a worker takes: a thread where a real library runs the pool, less in the event loop."""


@dataclass(frozen=True, slots=True)
class HostMachine:
    """One machine of a host, and the numbers of the instances on it.

    ``loss``: why it was lost, "": it was not. ``clock_offset``: seconds that its clock is ahead of the scheduler's.
    ``start_uncertainty``: seconds that its load may have begun before or after the agreed instant.
    """

    name: str
    numbers: tuple[int, ...]
    loss: str = ""
    clock_offset: float = 0.0
    start_uncertainty: float = 0.0


class InstanceHost(Protocol):
    """Where the processes of instances run. An instance is known by its number."""

    @property
    def start_delay(self) -> float:
        """Seconds from the message that names the start to the start, so that it reaches every instance in time."""

    @property
    def report_delay(self) -> float:
        """Seconds that a report may be under way at most."""

    def check_server(self, conninfo: str) -> None:
        """Raise CannotConnect, with the machine's name, if instances could not reach the server from there."""

    def to_clock_of(self, number: int, at: float) -> float:
        """Convert a time of this process's monotonic clock to that of the machine of an instance."""

    def send(self, number: int, message: dict[str, Any]) -> None:
        """Send one message. An instance that has ended gets none."""

    def end(self, number: int) -> None:
        """End the process of an instance, and with it its connections."""

    def gather(self, timeout: float) -> list[tuple[int, dict[str, Any]]]:
        """Return the messages that arrive within ``timeout`` seconds; {"ended": how} is the last of an instance."""

    def list_machines(self) -> Sequence[HostMachine]:
        """Return the machines of a cluster; none for this machine alone."""

    def close(self) -> None:
        """End all processes."""


def check_memory(processes: int, workers: int) -> None:
    """Raise CannotDo if ``processes`` instances with ``workers`` workers each do not fit into this machine's memory."""
    needed = processes * (INSTANCE_MEMORY + workers * WORKER_MEMORY)
    free = psutil.virtual_memory().available
    if needed > free:
        each = f" with {plural(workers, 'worker')} each" if workers else ""
        raise CannotDo(
            f"{plural(processes, 'instance')}{each} would need about {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free",
            hint="lower load.instances or load.workers, or use --engine model, which needs little memory",
        )


class InstanceProcess:
    """The process of one instance."""

    def __init__(self, library: str, number: int) -> None:
        self.number = number
        # A file and not a pipe: a pipe that is not read blocks the process as soon as it is full.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``kill``
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolctl.engines.instance", library],
            # A session of its own: the terminal sends Ctrl-C to poolctl alone, which first collects the counts. And
            # Linux shares the cores between sessions (autogroup). Each backend of PostgreSQL is one; instances that
            # share poolctl's get a part of one share, and serve a twentieth less.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
        )
        self._unread = b""

    def send(self, line: bytes) -> None:
        """Send one line. A process that has ended gets none: ``receive`` notices its end."""
        assert self.process.stdin is not None
        if self.process.stdin.closed:
            # A deploy has ended this instance.
            return
        try:
            self.process.stdin.write(line + b"\n")
        except BrokenPipeError:
            return

    def receive(self) -> list[bytes] | None:
        """Return the lines that have arrived, None at the end of the process's output."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        if not data:
            return None
        # A read may end in the middle of a line; the rest of it comes with the next one.
        *lines, self._unread = (self._unread + data).split(b"\n")
        return lines

    def close_input(self) -> None:
        """End the process, and with it its connections, by closing its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def describe_end(self) -> str:
        """Wait for the end of the process, and describe it with the last line that it wrote to standard error."""
        # Its output has ended, so this does not wait for long.
        code = self.process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{how}: {lines[-1]}" if lines else how

    def kill(self) -> None:
        """Kill the process if it runs, and close its files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()


class LocalHost:
    """This machine. ``numbers``: those of its instances, whose processes start at once.

    ``library``: as in pool.kind. Raises CannotDo if the processes cannot be started.
    """

    start_delay = 0.05
    report_delay = 0.0

    def __init__(self, library: str, numbers: Collection[int]) -> None:
        self._processes: dict[int, InstanceProcess] = {}
        self._selector = selectors.DefaultSelector()
        try:
            for number in numbers:
                # Kept one by one, so that a failure in the middle ends the ones before it.
                process = self._processes[number] = InstanceProcess(library, number)
                assert process.process.stdout is not None
                self._selector.register(process.process.stdout, selectors.EVENT_READ, process)
        except OSError as error:
            self.close()
            raise CannotDo(f"could not start {len(numbers)} instances: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_server(self, conninfo: str) -> None:
        """Do nothing: this process itself has connected to the server."""

    def to_clock_of(self, number: int, at: float) -> float:
        """Return ``at``: all processes of a machine share this clock."""
        return at

    def send(self, number: int, message: dict[str, Any]) -> None:
        """Send one message. A process that has ended gets none."""
        self.send_line(number, json.dumps(message).encode())

    def send_line(self, number: int, line: bytes) -> None:
        """Send one message that is written as JSON already."""
        self._processes[number].send(line)

    def end(self, number: int) -> None:
        """End the process of an instance, and with it its connections."""
        self._processes[number].close_input()

    def gather(self, timeout: float) -> list[tuple[int, dict[str, Any]]]:
        """Return the messages that arrive within ``timeout`` seconds; {"ended": how} is the last of an instance."""
        return [(number, json.loads(line)) for number, line in self.gather_lines(timeout)]

    def gather_lines(self, timeout: float) -> list[tuple[int, bytes]]:
        """Return what ``gather`` returns, as JSON."""
        found = []
        for key, _ in self._selector.select(timeout):
            process: InstanceProcess = key.data
            lines = process.receive()
            if lines is None:
                self._selector.unregister(key.fileobj)
                lines = [json.dumps({"ended": process.describe_end()}).encode()]
            found += [(process.number, line) for line in lines]
        return found

    def list_machines(self) -> Sequence[HostMachine]:
        """Return none."""
        return ()

    def close(self) -> None:
        """Kill the processes that still run."""
        for process in self._processes.values():
            process.kill()
        self._selector.close()
