"""Measures throughput at a number of connections, with PostgreSQL's own pgbench as the load.

Decides how one window is run and how pgbench's output is read. Which windows are run is left to ``throughput``. Every
user of the machine can read the arguments of a process: passwords reach pgbench through its environment and through a
file in memory only.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from psycopg.conninfo import make_conninfo

from poolctl.engines.sandbox.binaries import BINDIR_VARIABLE, find_client_program
from poolctl.errors import BadInput, CannotConnect, CannotDo, MissingProgram
from poolctl.observe.connection import parse_conninfo

SETTLING = 1.0
"""Seconds at the start of a window that do not count: plans are made, caches fill, the last client connects."""

GRACE = 20.0
"""Seconds that a window may take beyond its time, for clients to connect and to finish. Then pgbench is killed."""

CONNECT_TIMEOUT = 5
"""Seconds for each client to connect, unless the connection string has a connect_timeout of its own."""

LONGEST_SCRIPT = 60_000
"""Bytes. Every pipe holds so many (Linux: 65,536) before a process reads it."""

_PROGRESS = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+|NaN) ms stddev ([\d.]+|NaN)")
_FAILED = re.compile(r"(?:pgbench: )?error: (?P<text>.+)")


@dataclass(frozen=True, slots=True)
class Script:
    """A script in pgbench's language, which each client repeats. ``weight``: how often compared with other scripts."""

    name: str
    text: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class BenchWindow:
    """Throughput (transactions a second) and mean latency (seconds) at a number of connections, in one window.

    ``other_cpu``: processors that other processes than the load and poolctl's own server used meanwhile.
    """

    connections: int
    throughput: float
    latency: float
    seconds: float
    other_cpu: float = 0.0


def find_pgbench() -> Path:
    """Find the pgbench of the PostgreSQL that a sandbox would start, or one in PATH. Raises MissingProgram."""
    found = find_client_program("pgbench")
    if found is None:
        raise MissingProgram(
            "pgbench, which makes the load of --sweep, was not found",
            hint=f'pip install "poolctl[sandbox]", or install postgresql-contrib, or set {BINDIR_VARIABLE}',
        )
    return found


class Pgbench:
    """Runs windows against one server. ``prepared`` False: behind a pooler that may lose prepared statements.

    ``server_cpu``: returns the processor seconds that the server has used so far, 0 for a server elsewhere. Raises
    BadInput for a script that is too long, MissingProgram.
    """

    def __init__(
        self,
        conninfo: str,
        scripts: Sequence[Script],
        *,
        prepared: bool,
        seed: int,
        server_cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        for script in scripts:
            if len(script.text.encode()) > LONGEST_SCRIPT:
                raise BadInput(
                    f"{script.name} is longer than {LONGEST_SCRIPT:,} bytes", hint="put the data into a table"
                )
        self._conninfo, self._environment, self._secrets = _separate_secrets(conninfo)
        self._program = find_pgbench()
        self._scripts = tuple(scripts)
        self._protocol = "prepared" if prepared else "extended"
        self._seed = seed
        self._server_cpu = server_cpu
        self._runs = 0

    def measure(self, connections: int, seconds: float, *, stop: Callable[[], bool]) -> BenchWindow | None:
        """Run one window of ``seconds``; return None if ``stop`` returned True during it.

        Raises BadInput if a statement fails, CannotConnect and CannotDo if pgbench cannot do its work.
        """
        self._runs += 1
        with _open_scripts(script.text for script in self._scripts) as descriptors:
            arguments = self._arguments(connections, seconds, descriptors)
            began, foreign = time.monotonic(), self._foreign_cpu()
            descriptors += self._secrets
            output = _run(arguments, self._environment, descriptors, seconds + SETTLING + GRACE, stop)
        if output is None:
            return None
        other = (self._foreign_cpu() - foreign) / (time.monotonic() - began)
        return replace(_read(output, connections), other_cpu=max(0.0, other))

    def _foreign_cpu(self) -> float:
        """Return the processor seconds of the whole machine so far, without the server's and pgbench's."""
        times = psutil.cpu_times()
        busy = times.user + times.system
        own = os.times()
        return busy - self._server_cpu() - own.children_user - own.children_system

    def _arguments(self, connections: int, seconds: float, descriptors: Sequence[int]) -> list[str]:
        words = [str(self._program), "--no-vacuum", "--max-tries=10", "--progress=1", f"--protocol={self._protocol}"]
        words += [f"--client={connections}", f"--jobs={min(connections, os.cpu_count() or 1)}"]
        words += [f"--time={max(2, round(seconds + SETTLING))}", f"--random-seed={self._seed + self._runs}"]
        words += [f"--file=/dev/fd/{fd}@{s.weight}" for fd, s in zip(descriptors, self._scripts, strict=True)]
        return [*words, self._conninfo]


def _separate_secrets(conninfo: str) -> tuple[str, dict[str, str], list[int]]:
    """Split a connection string into arguments without secrets, the environment, and descriptors to pass on.

    Raises BadInput where libpq has no other way for a secret than the arguments.
    """
    values = parse_conninfo(conninfo)
    # libpq itself waits without limit for a server that accepts the connection and says nothing.
    values = {"connect_timeout": CONNECT_TIMEOUT} | values
    environment = dict(os.environ)
    if password := values.pop("password", None):
        environment["PGPASSWORD"] = str(password)
    passphrase = values.pop("sslpassword", None)
    if not passphrase:
        return make_conninfo("", **values), environment, []
    # libpq has no environment variable for it, only a service file. One in memory leaves nothing on the disk; opened by
    # its path in /proc, each of pgbench's clients reads it from its beginning.
    is_taken = "service" in values or "PGSERVICE" in environment
    if is_taken or "\n" in str(passphrase) or not hasattr(os, "memfd_create"):
        raise BadInput(
            "sslpassword cannot be handed to pgbench without showing it to every user of this machine",
            hint="put it into the service file (PGSERVICEFILE) and name only the service",
        )
    descriptor = os.memfd_create("poolctl")
    os.write(descriptor, f"[poolctl]\nsslpassword={passphrase}\n".encode())
    environment["PGSERVICEFILE"] = f"/proc/self/fd/{descriptor}"
    return make_conninfo("", **values, service="poolctl"), environment, [descriptor]


@contextmanager
def _open_scripts(texts: Iterable[str]) -> Iterator[list[int]]:
    """Open a descriptor for each of ``texts``, from which it can be read once. Nothing can be left on disk."""
    descriptors = []
    try:
        for text in texts:
            # The text fits into the pipe's buffer (LONGEST_SCRIPT), so writing does not wait for the reader.
            reading, writing = os.pipe()
            descriptors.append(reading)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(text.encode())
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _run(
    arguments: Sequence[str],
    environment: dict[str, str],
    descriptors: Sequence[int],
    timeout: float,
    stop: Callable[[], bool],
) -> str | None:
    # A session of its own: the terminal sends Ctrl-C to poolctl alone, which reports what was measured so far.
    process = subprocess.Popen(
        arguments,
        env=environment,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    deadline = time.monotonic() + timeout
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                _, output = process.communicate(timeout=0.1)
                break
            if stop():
                return None
            if time.monotonic() > deadline:
                raise CannotDo(
                    f"pgbench did not end within {timeout:.0f} s",
                    hint="a statement of the load takes longer than a window: use a shorter one",
                )
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise _make_error(output)
    return output


def _read(output: str, connections: int) -> BenchWindow:
    """Read pgbench's lines of progress, each the mean of one second, without those of the settling."""
    seconds, transactions, time_in_them, last = 0.0, 0.0, 0.0, 0.0
    for at, rate, latency, _ in _PROGRESS.findall(output):
        span, last = float(at) - last, float(at)
        if last <= SETTLING + 0.5 or span < 0.5:
            continue
        seconds += span
        transactions += float(rate) * span
        time_in_them += 0.0 if latency == "NaN" else float(latency) / 1000 * float(rate) * span
    if not seconds or not transactions:
        raise CannotDo(
            f"no transaction ended within a window at {connections} connections",
            hint="a transaction of the load takes longer than a window: use a shorter one",
        )
    return BenchWindow(connections, transactions / seconds, time_in_them / transactions, seconds)


def _make_error(output: str) -> BadInput | CannotConnect | CannotDo:
    own = [match["text"].strip() for line in output.splitlines() if (match := _FAILED.search(line))]
    server = [line.split(":", 1)[1].strip() for line in output.splitlines() if line.startswith(("ERROR:", "FATAL:"))]
    text = next(iter([*server, *own]), output.strip().splitlines()[-1] if output.strip() else "no reason given")
    if "connection to server" in text or "connection failed" in text:
        return CannotConnect(f"pgbench cannot connect: {text}", hint="try the same conninfo with psql")
    if text.startswith("ERROR:"):
        server, text = [text], text.removeprefix("ERROR:").strip()
    if server or "syntax error" in text or "aborted" in text or "malformed" in text:
        return BadInput(f"the load of --sweep fails: {text}", hint="try the statement or script with psql or pgbench")
    return CannotDo(f"pgbench failed: {text}")


SETUP = """
CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO account SELECT i, 0 FROM generate_series(1, 100000) AS i;
CREATE TABLE branch (id int PRIMARY KEY, balance int NOT NULL) WITH (fillfactor = 10);
INSERT INTO branch SELECT i, 0 FROM generate_series(1, 10) AS i;
ANALYZE
"""

_CPU = "SELECT sum(i) FROM generate_series(1, 3000) AS i;\n"

_THINK = r"""
\set account random(1, 100000)
BEGIN;
SELECT balance FROM account WHERE id = :account;
\sleep 5 ms
UPDATE account SET balance = balance + 1 WHERE id = :account;
COMMIT;
"""

_HOT_ROWS = r"""
\set account random(1, 100000)
\set branch random(1, 10)
BEGIN;
UPDATE account SET balance = balance + 1 WHERE id = :account;
UPDATE branch SET balance = balance + 1 WHERE id = :branch;
COMMIT;
"""

MIXES: dict[str, tuple[Script, ...]] = {
    "cpu": (Script("cpu", _CPU),),
    "think": (Script("think", _THINK),),
    "hot-rows": (Script("hot-rows", _HOT_ROWS),),
    "mixed": (Script("cpu", _CPU, 4), Script("think", _THINK, 3), Script("hot-rows", _HOT_ROWS, 3)),
}


def get_mix(name: str) -> tuple[Script, ...]:
    """Return the scripts of a built-in load. Raises BadInput."""
    if name not in MIXES:
        raise BadInput(f"--mix {name}: there is no such load", hint=f"one of {', '.join(MIXES)}")
    return MIXES[name]
