"""The real poolers in front of a sandbox: PgBouncer and Pgpool-II.

Decides how each is configured around the keys of the scenario, which are the pooler's own, and turns its complaint
about a bad key into one clear error. A key that is not given keeps the pooler's default (PgBouncer: 100 clients,
session mode, 20 server connections for each user and database).
"""

import re
import secrets
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import psutil

from poolctl.engines.sandbox.binaries import find_pooler
from poolctl.engines.sandbox.directory import SandboxDirectory, is_running
from poolctl.engines.sandbox.processes import Guard, read_tail
from poolctl.engines.sandbox.server import HOST, PortTaken, Setting, free_port
from poolctl.errors import BadInput, SandboxFailed

_READY_WITHIN = 15.0
_PORT_TRIES = 5
ADMIN = "admin"


class PoolerServer(ABC):
    """One pooler process, started through the guardian. Raises BadInput for a key that it refuses."""

    program: str
    title: str
    end_signal: str
    owned_keys: frozenset[str]

    def __init__(self, keys: Mapping[str, object]) -> None:
        self.executable = find_pooler(self.program)
        self.port = 0
        self.process: psutil.Process | None = None
        self._keys = {key: self._check_key(key, value) for key, value in keys.items()}

    def start(self, guard: Guard, directory: SandboxDirectory, *, server_port: int, port: int | None) -> None:
        """Start in front of ``server_port`` on ``port``, or on a free one; returns when clients are served.

        Raises PortTaken, BadInput for a bad key, SandboxFailed for anything else.
        """
        for tries_left in reversed(range(1 if port is not None else _PORT_TRIES)):
            self.port = free_port() if port is None else port
            try:
                self._start_once(guard, directory, server_port)
            except PortTaken:
                if not tries_left:
                    raise
            else:
                return

    def is_running(self) -> bool:
        return self.process is not None and is_running(self.process)

    @abstractmethod
    def _write_configuration(self, directory: SandboxDirectory, server_port: int) -> list[str | Path]:
        """Write the configuration files; return the command line."""

    @abstractmethod
    def _is_ready(self, said: str) -> bool: ...

    @abstractmethod
    def _find_refused_key(self, said: str) -> BadInput | None: ...

    def _check_key(self, key: str, value: object) -> Setting:
        name = f"database.{self.program}.{key}"
        if key in self.owned_keys:
            raise BadInput(f"{name}: the sandbox decides this setting itself")
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", key):
            raise BadInput(f"{name} is no setting of {self.title}")
        if not isinstance(value, str | int | float) or "\n" in str(value):
            raise BadInput(f"{name} is {value!r}; it must be one number, switch or line of text")
        return value

    def _start_once(self, guard: Guard, directory: SandboxDirectory, server_port: int) -> None:
        log = directory.log(self.program)
        said_before = log.stat().st_size if log.exists() else 0
        argv = [self.executable, *self._write_configuration(directory, server_port)]
        self.process = guard.start(self.program, argv, end_signal=signal.Signals[self.end_signal])
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            code = guard.wait(self.program, 0.005)
            said = read_tail(log)[-max(0, log.stat().st_size - said_before) :]
            if code is not None:
                self._raise_for_death(said)
            if self._is_ready(said):
                return
            if time.monotonic() > deadline:
                raise SandboxFailed(f"{self.title} was not ready after {_READY_WITHIN:.0f} s:\n{_indent(said)}")

    def _raise_for_death(self, said: str) -> NoReturn:
        if "Address already in use" in said:
            raise PortTaken(
                f"port {self.port} on {HOST} is in use",
                hint="name another port, or none: then a free one is taken",
            )
        refused = self._find_refused_key(said)
        if refused is not None:
            raise refused
        raise SandboxFailed(f"{self.title} did not start:\n{_indent(said)}", hint=f"the program is {self.executable}")


class PgBouncerServer(PoolerServer):
    """A PgBouncer."""

    program = "pgbouncer"
    title = "PgBouncer"
    # SIGKILL: it holds nothing that a kill leaves behind, and how long SIGTERM takes depends on its version.
    end_signal = "SIGKILL"
    owned_keys = frozenset(
        {
            "admin_users",
            "auth_file",
            "auth_type",
            "listen_addr",
            "listen_port",
            "logfile",
            "pidfile",
            "syslog",
            "unix_socket_dir",
            "user",
        }
    )

    def _write_configuration(self, directory: SandboxDirectory, server_port: int) -> list[str | Path]:
        users = directory.write("pgbouncer-users.txt", f'"app" ""\n"{ADMIN}" ""\n')
        settings: dict[str, Setting] = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(users),
            "admin_users": ADMIN,
            **self._keys,
        }
        lines = "".join(f"{key} = {_format(value, on='1', off='0')}\n" for key, value in settings.items())
        database = f"app = host={HOST} port={server_port} dbname=app"
        return [directory.write("pgbouncer.ini", f"[databases]\n{database}\n\n[pgbouncer]\n{lines}")]

    def _is_ready(self, said: str) -> bool:
        # The line that it writes once it listens.
        return "process up: PgBouncer" in said

    def _find_refused_key(self, said: str) -> BadInput | None:
        unknown = re.search(r"unknown parameter: pgbouncer/(\S+)", said)
        if unknown is not None:
            return BadInput(
                f"database.pgbouncer.{unknown[1]}: the installed PgBouncer has no such setting",
                hint="the names are those of the [pgbouncer] section of pgbouncer.ini",
            )
        bad = re.search(r'invalid value "(.*?)" for parameter (\S+)', said)
        if bad is not None:
            return BadInput(f"database.pgbouncer.{bad[2]} is {bad[1]}, which PgBouncer refuses")
        return None


class PgpoolServer(PoolerServer):
    """A Pgpool-II."""

    program = "pgpool"
    title = "Pgpool-II"
    # SIGQUIT ends it at once; SIGKILL would leave its shared memory behind.
    end_signal = "SIGQUIT"
    owned_keys = frozenset(
        {
            "backend_clustering_mode",
            "enable_pool_hba",
            "listen_addresses",
            "log_destination",
            "logdir",
            "pcp_listen_addresses",
            "pcp_port",
            "pcp_socket_dir",
            "pid_file_name",
            "port",
            "socket_dir",
            "unix_socket_directories",
            "wd_ipc_socket_dir",
            "work_dir",
        }
    )

    def _check_key(self, key: str, value: object) -> Setting:
        # Pgpool-II ignores unknown keys silently, so the name is searched in its program, where each stands as text.
        # Backend settings carry a number, and a linker may store a name as the tail of a longer one.
        if key.rstrip("0123456789").encode() + b"\0" not in self.executable.read_bytes():
            raise BadInput(
                f"database.pgpool.{key}: the installed Pgpool-II has no such setting",
                hint="the names are those of pgpool.conf",
            )
        return super()._check_key(key, value)

    def _write_configuration(self, directory: SandboxDirectory, server_port: int) -> list[str | Path]:
        run = str(directory.run)
        settings: dict[str, Setting] = {
            "backend_clustering_mode": "raw",
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": run,
            "pcp_listen_addresses": HOST,
            "pcp_port": free_port(),
            "pcp_socket_dir": run,
            "wd_ipc_socket_dir": run,
            "pid_file_name": f"{run}/pgpool.pid",
            "logdir": run,
            "work_dir": run,
            "enable_pool_hba": False,
            "pool_passwd": "",
            "backend_hostname0": HOST,
            "backend_port0": server_port,
            "backend_weight0": 1,
            "backend_data_directory0": str(directory.data),
            # With one backend a failover has nowhere to go: without this a restart of the server ends in "all
            # backends are down" for good.
            "backend_flag0": "DISALLOW_TO_FAILOVER",
            # The query cache is off; its shared memory of 130 MB would be set aside and zeroed all the same.
            "memqcache_total_size": "2MB",
            "memqcache_max_num_cache": 1000,
            **self._keys,
        }
        text = "".join(f"{key} = {_quote(value)}\n" for key, value in settings.items())
        # A PCP user with a random password: without the file Pgpool-II complains at every start.
        users = directory.write("pgpool-pcp.conf", f"poolctl:{secrets.token_hex(16)}\n")
        rules = directory.write("pgpool-hba.conf", "")
        return ["-n", "-f", directory.write("pgpool.conf", text), "-F", users, "-a", rules]

    def _is_ready(self, said: str) -> bool:
        # The log decides: connecting would leave a connection to the server in the pool.
        return "successfully started" in said

    def _find_refused_key(self, said: str) -> BadInput | None:
        bad = re.search(
            r'FATAL: +((?:invalid value|\S+ is outside the valid range) for parameter "([^"]+)".*'
            r'|parameter "([^"]+)" requires .*)',
            said,
        )
        if bad is None:
            return None
        return BadInput(f"database.pgpool.{bad[2] or bad[3]}: Pgpool-II refuses the value: {bad[1]}")


def make_pooler(via: str, pgbouncer: Mapping[str, object], pgpool: Mapping[str, object]) -> PoolerServer | None:
    """Make the pooler that ``via`` names, not started; None for "none".

    Raises BadInput for another name or a bad key, MissingProgram when the pooler is not installed.
    """
    match via:
        case "none":
            return None
        case "pgbouncer":
            return PgBouncerServer(pgbouncer)
        case "pgpool":
            return PgpoolServer(pgpool)
    raise BadInput(f"database.via is {via!r}; it must be none, pgbouncer or pgpool")


def _format(value: Setting, *, on: str, off: str) -> str:
    if isinstance(value, bool):
        return on if value else off
    return str(value)


def _quote(value: Setting) -> str:
    if isinstance(value, int | float):
        return _format(value, on="on", off="off")
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _indent(text: str, count: int = 6) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-count:]) or "  (its log is empty)"
