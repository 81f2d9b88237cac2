"""A connection to a Dask scheduler whose workers are known to give the same results as this machine.

Decides when a cluster is fit for work: it answers, it has workers, and each of them has this poolctl and this
kernel. What the workers do is left to ``batch``.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from poolctl.engines.cluster.worker_side import find_missing_package
from poolctl.errors import CannotConnect, CannotDo, MissingProgram

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

CONNECT_TIMEOUT = 10.0
"""Seconds in which a scheduler has to answer."""
WORKERS_TIMEOUT = 30.0
"""Seconds to wait for the first worker: deployers start them after the scheduler."""
_CHECK = 0.1

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """What has to be equal for results to be: the version of poolctl, of Python (major, minor), and the kernel."""

    poolctl: str
    python: str
    kernel: str

    def __str__(self) -> str:
        return f"poolctl {self.poolctl}, Python {self.python}, kernel {self.kernel}"


def _find_version() -> str:
    try:
        return version("poolctl")
    except PackageNotFoundError:
        return "unknown"


_VERSION = _find_version()
"""Read once: after an upgrade a worker that was not restarted still runs the code that it has loaded."""


def describe_worker() -> WorkerIdentity:
    """Describe the process that this runs in. Sent to each worker, so it has a name at the top."""
    from poolctl.engines.model import compiled

    kernel = "compiled" if compiled.is_there() else "plain"
    return WorkerIdentity(_VERSION, f"{sys.version_info.major}.{sys.version_info.minor}", kernel)


@contextmanager
def connect_cluster(address: str, *, stop: Stop, note: Callable[[str], None]) -> Iterator["Client"]:
    """Connect to the scheduler at ``address`` for the length of a ``with``, and check every worker.

    ``stop``: True ends the wait for workers. ``note`` is called with what is waited for. TLS takes Dask's own
    configuration (distributed.comm.tls). Raises MissingProgram without the extra; CannotConnect when no scheduler
    answers; CannotDo without a worker, or with one that would compute something else.
    """
    try:
        from distributed import Client
    except ImportError:
        raise MissingProgram(
            f"--on {address} needs the package distributed", hint="pip install 'poolctl[cluster]'"
        ) from None
    # Dask reports a broken connection on standard error once more, with a traceback.
    for name in ("distributed", "distributed.comm", "distributed.client", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    security = _make_security(address)
    client = _open(lambda: Client(address, timeout=CONNECT_TIMEOUT, security=security, set_as_default=False), address)
    try:
        wait_for_workers(client, address, 1, stop, note)
        check_workers(client, address)
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=2)


def _open(connect: "Callable[[], Client]", address: str) -> "Client":
    """Connect, or raise CannotConnect. Something that accepts and says nothing would keep Dask waiting for ever."""
    found: list[Client] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(connect())
        except Exception as error:  # noqa: BLE001 - whatever Dask raises for what is no scheduler
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT + 1.0)
    if found:
        return found[0]
    reason = _first_line(failed[0]) if failed else f"no word within {CONNECT_TIMEOUT:g} s"
    raise CannotConnect(
        f"--on {address}: no Dask scheduler answers: {reason}",
        hint="check the address, and that the scheduler runs with the same version of distributed",
    )


def wait_for_workers(client: "Client", address: str, count: int, stop: Stop, note: Callable[[str], None]) -> None:
    """Wait until there are ``count`` workers, or ``stop`` returns True. Raises CannotDo."""
    began = time.monotonic()
    is_noted = False
    while (found := len(client.scheduler_info(n_workers=-1)["workers"])) < count:
        if stop():
            return
        if time.monotonic() - began > WORKERS_TIMEOUT:
            has = f"{found} of the {count} workers that are needed" if found else "no worker"
            raise CannotDo(
                f"--on {address}: the scheduler has {has} after {WORKERS_TIMEOUT:g} s",
                hint=f"start some: dask worker {address}",
            )
        if not is_noted:
            note(f"waiting for workers of {address}: {found} of {count} are there")
            is_noted = True
        time.sleep(_CHECK)


def check_workers(client: "Client", address: str) -> None:
    """Refuse a scheduler or a worker that has no poolctl, or another one than this machine. Raises CannotDo."""
    own = describe_worker()
    try:
        # The scheduler unpickles what it hands to workers, so it needs poolctl, too.
        found = {"the scheduler": client.run_on_scheduler(describe_worker)}
    except Exception as error:  # noqa: BLE001 - whatever the scheduler raises is sent here and raised
        found = {"the scheduler": error}
    found |= {f"worker {name}": each for name, each in client.run(describe_worker, on_error="return").items()}
    for who, identity in found.items():
        if isinstance(identity, BaseException):
            raise CannotDo(
                f"--on {address}: {who} cannot run poolctl: {_first_line(identity)}",
                hint="install the same poolctl there: pip install 'poolctl[cluster]'",
            )
        if identity != own:
            raise CannotDo(
                f"--on {address}: {who} has {identity}; this machine has {own}",
                hint="install the same poolctl there, with or without a C compiler on both",
            )


def check_packages(client: "Client", address: str, library: str) -> None:
    """Refuse a worker that lacks a package which a ``library`` pool needs. Raises CannotDo."""
    for name, missing in client.run(find_missing_package, library).items():
        if missing:
            raise CannotDo(
                f"--on {address}: worker {name} cannot run a {library} pool: {missing}",
                hint="install it there: pip install 'poolctl[cluster,pools]'",
            )


def _make_security(address: str) -> "Security | None":
    """Return Dask's own security options for a tls:// address, None for tcp://. Raises CannotDo without certificates.

    Dask's client would notice that later, and write a traceback when it is dropped.
    """
    from distributed.security import Security

    if not address.startswith("tls://"):
        return None
    security, reason = Security(), "none are configured"
    try:
        if security.get_connection_args("client")["ssl_context"] is not None:
            return security
    except (OSError, ValueError) as error:
        reason = _first_line(error)
    raise CannotDo(
        f"--on {address}: cannot use the certificates for tls: {reason}",
        hint="distributed.comm.tls in Dask's configuration, or DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and ...__CLIENT__KEY",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
