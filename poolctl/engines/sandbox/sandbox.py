"""A throw-away PostgreSQL on 127.0.0.1, alone or behind a real PgBouncer or Pgpool-II.

Decides in which order the parts of a sandbox start and end, and what its users can learn: where to connect, what runs,
what it used, how many clients it refused. The parts are ``server`` and ``poolers``; ``guardian`` and ``directory`` see
to it that nothing is left behind, whatever happens to poolctl.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from poolctl.engines.sandbox.binaries import find_postgres, find_server_account, make_reachable
from poolctl.engines.sandbox.directory import SandboxDirectory, create_directory, stop_command, sweep_stale
from poolctl.engines.sandbox.poolers import ADMIN, PgBouncerServer, PoolerServer, make_pooler
from poolctl.engines.sandbox.processes import CpuMeter, Guard, freeze, list_family, thaw
from poolctl.engines.sandbox.server import (
    ADDRESS,
    HOST,
    NAME,
    PLAIN,
    PortTaken,
    PostgresServer,
    Setting,
    check_listen,
    check_settings,
    is_free,
)
from poolctl.errors import SandboxFailed

_environment_lock = threading.Lock()
_environment_users = 0
_removed: dict[str, str] = {}


@contextmanager
def without_libpq_environment() -> Iterator[None]:
    """Take libpq's variables out of this process's environment for the block, and so out of its children's.

    The clients of a throw-away server must meet that server and nothing else. Their connection strings name its
    address, but PGSERVICE cannot be overridden there, and PGOPTIONS, PGREQUIREAUTH and others change or break a run.
    The environment belongs to the whole process: of several blocks at once the last to end restores it.
    """
    global _environment_users
    with _environment_lock:
        if _environment_users == 0:
            _removed.update({name: os.environ.pop(name) for name in [*os.environ] if name.startswith("PG")})
        _environment_users += 1
    try:
        yield
    finally:
        with _environment_lock:
            _environment_users -= 1
            if _environment_users == 0:
                os.environ.update(_removed)
                _removed.clear()


class Sandbox:
    """A running throw-away server; ``with Sandbox.start(...) as sandbox`` ends it in every case.

    Safe to use from several threads.
    """

    def __init__(
        self, guard: Guard, server: PostgresServer, pooler: PoolerServer | None, directory: Path, *, keep: bool
    ) -> None:
        self._guard = guard
        self._server = server
        self._pooler = pooler
        self._meter = CpuMeter(psutil.Process(guard.pid))
        self._changing = threading.RLock()
        self._is_changing = False
        self._frozen: list[psutil.Process] = []
        self._keep = keep
        self._stopped = False
        self.directory = directory
        self.version = server.version

    @classmethod
    def start(
        cls,
        *,
        max_connections: int = 100,
        reserved: int = 3,
        via: str = "none",
        pgbouncer: Mapping[str, object] | None = None,
        pgpool: Mapping[str, object] | None = None,
        port: int | None = None,
        listen: str = "",
        settings: Mapping[str, Setting] | None = None,
        keep: bool = False,
    ) -> Self:
        """Start a server with ``max_connections`` slots, the last ``reserved`` of them for superusers.

        ``via`` ("none", "pgbouncer", "pgpool") is what stands in front of it, with the keys of ``pgbouncer`` or
        ``pgpool`` in the pooler's own names. ``port`` is the one that applications connect to; None takes a
        free one. ``listen``: an address of this machine where clients of other machines also connect to the server
        itself. ``settings`` are further ones of postgresql.conf. With ``keep`` it is left running by ``stop`` (and
        by ``with``), but not by a poolctl that is killed before.

        Its clients, this call among them, need an environment without libpq's variables: see
        ``without_libpq_environment``. Raises BadInput, MissingProgram (no PostgreSQL, no pooler), SandboxFailed (with
        the end of the right log).
        """
        check_settings(max_connections, reserved, settings or {})
        if listen:
            check_listen(listen)
        account = find_server_account()
        bindir = find_postgres()
        pooler = make_pooler(via, pgbouncer or {}, pgpool or {})
        if port is not None and not is_free(port):
            raise PortTaken(
                f"port {port} on {HOST} is in use", hint="name another port, or none: then a free one is taken"
            )
        directory = create_directory(account)
        guard = Guard(directory)
        with _end_on_error(guard, directory):
            server = PostgresServer(
                guard,
                directory,
                make_reachable(bindir, account, directory.path / "postgresql"),
                max_connections=max_connections,
                reserved=reserved,
                settings=settings or {},
                listen=listen,
            )
            server.begin_initdb()
            # While initdb works: the remains of other runs, and the driver, which takes a while to load.
            sweep_stale(directory.path.parent)
            import psycopg  # noqa: F401

            server.finish_initdb()
            server.start(None if pooler is not None else port)
            server.create_role_and_database()
            if pooler is not None:
                pooler.start(guard, directory, server_port=server.port, port=port)
            return cls(guard, server, pooler, directory.path, keep=keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def conninfo(self) -> str:
        """Where applications connect: the ordinary role ``app``, through the pooler when there is one."""
        port = self._pooler.port if self._pooler is not None else self._server.port
        return f"{ADDRESS} port={port} user=app dbname=app {PLAIN}"

    @property
    def direct_conninfo(self) -> str:
        """The ordinary role ``app``, straight to PostgreSQL."""
        return f"{ADDRESS} port={self._server.port} user=app dbname=app {PLAIN}"

    @property
    def listen_conninfo(self) -> str:
        """Where applications on other machines connect, with a password that is nowhere shown. Needs ``listen``."""
        server = self._server
        return f"host={server.listen} port={server.port} user=app dbname=app password={server.password} {PLAIN}"

    @property
    def admin_conninfo(self) -> str:
        """The superuser ``postgres``. The password is in a file that only the user of this process can read."""
        return self._server.make_superuser_conninfo("app")

    @property
    def observer_conninfo(self) -> str:
        """The superuser as a walsender, which takes none of ``max_connections``.

        A walsender of a database also runs SQL, by the simple protocol only: ``psycopg.connect(...,
        autocommit=True, prepare_threshold=None)`` and no parameters.
        """
        return f"{self.admin_conninfo} replication=database"

    @property
    def pooler_admin_conninfo(self) -> str | None:
        """PgBouncer's admin console (simple protocol, autocommit); None without a PgBouncer."""
        if not isinstance(self._pooler, PgBouncerServer):
            return None
        return f"{ADDRESS} port={self._pooler.port} user={ADMIN} dbname=pgbouncer {PLAIN}"

    @property
    def stop_command(self) -> str:
        """What ends a kept sandbox, for a shell; ``stop_kept`` does the same."""
        return stop_command(self.directory)

    @property
    def guardian_pid(self) -> int:
        """The process that ends the servers should poolctl be killed."""
        return self._guard.pid

    def list_process_ids(self) -> list[int]:
        """List the postmaster, its backends and helpers, then the pooler and its children."""
        roots = [self._server.process, self._pooler.process if self._pooler is not None else None]
        return [process.pid for root in roots if root is not None for process in list_family(root)]

    def measure_cpu_time(self) -> float:
        """Measure the processor seconds that all servers have used since they were ready; never less than before.

        Backends that have ended are included; on macOS with their time at the last call.
        """
        return self._meter.read()

    def count_refusals(self) -> int:
        """Count the clients, of any kind, that PostgreSQL has refused so far with SQLSTATE 53300."""
        return self._server.count_refusals()

    def is_alive(self) -> bool:
        """Return True if the server, and the pooler if any, runs, also in the middle of ``restart``. Takes 0.1 ms."""
        if self._is_changing:
            return True
        return self._server.is_running() and (self._pooler is None or self._pooler.is_running())

    def log_tail(self, lines: int = 20, *, of_pooler: bool = False) -> str:
        """Read the last lines of PostgreSQL's log, or of the pooler's."""
        name = self._pooler.program if of_pooler and self._pooler is not None else NAME
        return self._guard.log_end(name, lines)

    def restart(self) -> None:
        """Stop PostgreSQL as an operator does (clients are sent away, a checkpoint is written) and start it again."""
        self._restart(signal.SIGINT)

    def fail_over(self) -> None:
        """Cut every connection at once, as the loss of a primary does, and have a server on the same port again.

        What was committed is still there. The pooler, if any, goes on and has to cope.
        """
        self._restart(signal.SIGQUIT)

    def pause(self) -> None:
        """Pause every process of PostgreSQL where it is (SIGSTOP): clients wait. The pooler goes on."""
        with self._changing:
            if not self._frozen and self._server.process is not None:
                self._frozen = freeze(self._guard, self._server.process)

    def resume(self) -> None:
        """Let a paused server go on; nothing happens when it is not paused."""
        with self._changing:
            if self._frozen:
                thaw(self._guard, self._frozen)
                self._frozen = []

    def stop(self) -> None:
        """End every server and remove the folder, or leave both when the sandbox is to be kept and still serves.

        Safe to repeat.
        """
        if self._stopped:
            return
        self._stopped = True
        with suppress(SandboxFailed):
            self.resume()
        self._guard.close(keep=self._keep and self.is_alive())

    def _restart(self, number: int) -> None:
        with self._changing, self._change():
            self.resume()
            self._server.stop(number)
            self._server.start_again()

    @contextmanager
    def _change(self) -> Iterator[None]:
        self._is_changing = True
        try:
            yield
        finally:
            self._is_changing = False


@contextmanager
def _end_on_error(guard: Guard, directory: SandboxDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        guard.close()
        if isinstance(error, OSError):
            raise SandboxFailed(
                f"cannot write the files of the throw-away server: {error}",
                hint=f"free some space in {directory.path.parent}, or set TMPDIR to another folder",
            ) from error
        raise
