"""What a Dask worker does in a live run: starts the program of its machine's share, and passes lines to and from it.

These coroutines run in the worker's event loop, sent there by ``cluster_host``; each returns at once. None of them
raises: Dask would log the arguments, which hold a connection string.
"""

import asyncio
import json
import logging
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Exchange:
    """The answer to one exchange. ``ended``: how the program ended, None: it runs.

    ``monotonic`` and ``wall``: the machine's clocks, in seconds, when it answered.
    """

    lines: bytes
    ended: str | None
    monotonic: float
    wall: float


@dataclass(slots=True)
class _Share:
    process: asyncio.subprocess.Process
    received: bytearray = field(default_factory=bytearray)
    reader: "asyncio.Task[None] | None" = None


_shares: dict[str, _Share] = {}
"""The shares of the runs that this worker takes part in, by the run's name."""


async def find_missing_package(library: str) -> str:
    """Return why the instances of a ``library`` pool cannot run here, "": they can."""
    try:
        from poolctl.engines.instance.library_drivers import import_packages

        import_packages(library)
    except ImportError as error:
        return str(error)
    return ""


async def open_share(run: str, order: dict[str, Any]) -> str | None:
    """Start the program for ``order``. Return why that is impossible, None if it has started."""
    logger = logging.getLogger("distributed.worker")
    if _is_news not in logger.filters:
        logger.addFilter(_is_news)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "poolctl.engines.cluster.machine_program", json.dumps(order)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C in the worker's terminal ends the worker, and the end of the pipe then ends the program.
            start_new_session=True,
        )
    except OSError as error:
        return str(error)
    share = _shares[run] = _Share(process)
    # Kept in the share: the event loop itself only holds weak references to its tasks.
    share.reader = asyncio.create_task(_collect(run, share))
    return None


async def exchange(run: str, lines: bytes) -> Exchange:
    """Pass ``lines`` to the program, and return what it has written since the last exchange."""
    share = _shares.get(run)
    if share is None:
        # Dask's nanny starts a worker that died once more, and with --worker-port at the same address.
        return Exchange(b"", "ended with the worker, which was started again", time.monotonic(), time.time())
    process, received = share.process, bytes(share.received)
    share.received.clear()
    ended = None
    if share.reader is not None and share.reader.done():
        code = await process.wait()
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    elif process.stdin is not None and not process.stdin.is_closing():
        # An empty line renews the lease of the program.
        process.stdin.write(lines or b"\n")
    return Exchange(received, ended, time.monotonic(), time.time())


async def close_share(run: str) -> None:
    """End the program, and its instances with it."""
    share = _shares.pop(run, None)
    if share is not None and share.process.stdin is not None:
        share.process.stdin.close()


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """What two processes of one machine have in common: its name, its start, and its network.

    ``network`` is "" where the system does not say. Two containers of a machine have networks of their own.
    """

    name: str
    network: str


async def identify_host() -> HostIdentity:
    """Return the identity of the machine, or container, that this runs in."""
    return find_host_identity()


def find_host_identity() -> HostIdentity:
    """Return the identity of the machine, or container, that this runs in."""
    network = ""
    with suppress(OSError):
        network = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/net").readlink())
    return HostIdentity(socket.gethostname(), network)


async def read_wall_clock() -> float:
    """Return this machine's clock, in seconds since the epoch."""
    return time.time()


async def _collect(run: str, share: _Share) -> None:
    assert share.process.stdout is not None
    while data := await share.process.stdout.read(1 << 16):
        share.received += data
    await share.process.wait()
    # The client may be gone, and would never close it. What it wrote last is fetched, or not, within a while.
    asyncio.get_running_loop().call_later(60.0, _shares.pop, run, None)


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for Dask's line about each exchange, of which there are two a second."""
    return not (str(record.msg).startswith("Run out-of-band function") and "exchange" in str(record.args))
