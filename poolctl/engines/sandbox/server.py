"""The PostgreSQL of a sandbox: its data directory, its settings, its start and its log.

Decides how a throw-away server is configured: nothing has to survive a crash of the machine, every user of this machine
may connect as the ordinary role ``app``, and only the user who started it as the superuser. What stands in front of it
and when it ends is left to ``sandbox``.
"""

import contextlib
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psutil

from poolctl.engines.sandbox.binaries import has_library
from poolctl.engines.sandbox.directory import SandboxDirectory, is_running
from poolctl.engines.sandbox.processes import Guard, read_tail
from poolctl.errors import BadInput, SandboxFailed

if TYPE_CHECKING:
    # Loading the driver takes a while; ``sandbox`` does it while initdb works.
    import psycopg

HOST = "127.0.0.1"
# libpq takes the address of PGHOSTADDR, unless one is given: then a client would talk to another machine.
ADDRESS = f"host={HOST} hostaddr={HOST}"
Setting = str | int | float | bool
NAME = "postgres"
OLDEST_VERSION = 12
# Everything is on this machine: no encryption to negotiate, which would cost each connection a round trip.
PLAIN = "sslmode=disable gssencmode=disable"
_INITDB_WITHIN = 60.0
_READY_WITHIN = 30.0
_STOPPED_WITHIN = 20.0
_PORT_TRIES = 5
_OWNED_SETTINGS = frozenset(
    {
        "config_file",
        "data_directory",
        "hba_file",
        "lc_messages",
        "listen_addresses",
        "log_destination",
        "log_line_prefix",
        "logging_collector",
        "max_connections",
        "max_wal_senders",
        "port",
        "superuser_reserved_connections",
        "unix_socket_directories",
        "wal_level",
    }
)
# %q ends the prefix of processes without a client. The application_name stands between two tabs, which it cannot
# contain, so that no name can look like a refusal.
_LOG_PREFIX = "%m [%p] %e %q\t%a\t"
_REFUSAL = re.compile(rb"^\S+ \S+ \S+ \[\d+\] 53300 \t[^\t]*\tFATAL:  ")
_COMPLAINTS = re.compile(r"(?:FATAL|PANIC|ERROR|LOG|HINT|DETAIL): +(.*)")
_UNKNOWN_SETTING = re.compile(r'unrecognized configuration parameter "([^"]+)"')
_BAD_SETTING = re.compile(
    r'(?:LOG|FATAL|ERROR): +((?:invalid value|-?[\d.]+ .*is outside the valid range) for parameter "([^"]+)".*'
    r'|parameter "([^"]+)" requires .*)'
)


class PortTaken(SandboxFailed):
    """Another process listens on the port."""


class PostgresServer:
    """One data directory and the server on it. Not safe for two threads that start or stop it at once."""

    def __init__(
        self,
        guard: Guard,
        directory: SandboxDirectory,
        bindir: Path,
        *,
        max_connections: int,
        reserved: int,
        settings: Mapping[str, Setting],
        listen: str = "",
    ) -> None:
        self.listen = listen
        self.password = secrets.token_urlsafe(24) if listen else ""
        """Of the role app, for clients from other machines; "": there are none."""
        self._guard = guard
        self._directory = directory
        self._bindir = bindir
        self._settings = make_default_settings(bindir) | {
            "max_connections": max_connections,
            "superuser_reserved_connections": reserved,
            **settings,
        }
        self.port = 0
        self.version = ""
        self.process: psutil.Process | None = None
        self._log = _RefusalCounter(directory.log(NAME))

    def begin_initdb(self) -> None:
        """Start making the data directory; ``finish_initdb`` waits for it."""
        password = secrets.token_hex(16)
        self._directory.passfile.touch(mode=0o600)
        self._directory.passfile.write_text(f"{HOST}:*:*:postgres:{password}\n")
        handed_over = self._directory.run / "password"
        handed_over.touch(mode=0o600)
        handed_over.write_text(password)
        self._directory.give_to_servers(handed_over)
        argv: list[str | Path] = [
            self._bindir / "initdb",
            "-D",
            self._directory.data,
            "--no-sync",
            "--username=postgres",
            f"--pwfile={handed_over}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ]
        # SIGKILL: on any other signal initdb empties the data directory, where the id of the shared memory stands that
        # the server it works through leaves behind.
        self._guard.start("initdb", argv, end_signal=signal.SIGKILL)

    def finish_initdb(self) -> None:
        """Wait until the data directory is there. Raises SandboxFailed with initdb's own words."""
        code = self._guard.wait("initdb", _INITDB_WITHIN)
        (self._directory.run / "password").unlink(missing_ok=True)
        log = read_tail(self._directory.log("initdb"))
        if code != 0:
            how = f"took longer than {_INITDB_WITHIN:.0f} s" if code is None else f"failed (exit code {code})"
            raise SandboxFailed(f"initdb {how}:\n{_find_complaints(log)}", hint=self._suggest_remedy(log))
        version = (self._directory.data / "PG_VERSION").read_text().strip()
        if int(version.split(".")[0]) < OLDEST_VERSION:
            raise SandboxFailed(
                f"{self._bindir} holds PostgreSQL {version}; the throw-away server needs {OLDEST_VERSION} or newer",
                hint='pip install "poolctl[sandbox]"',
            )

    def start(self, port: int | None) -> None:
        """Start on ``port``, or on a free one when it is None. Returns when the server accepts clients.

        Raises PortTaken, BadInput for a setting that PostgreSQL refuses, SandboxFailed for anything else.
        """
        rules = [f"host all app {HOST}/32 trust", f"host all postgres {HOST}/32 scram-sha-256"]
        if self.listen:
            rules.append("host all app all scram-sha-256")
        self._directory.write("pg_hba.conf", "".join(f"{rule}\n" for rule in rules))
        if port is not None:
            self._start_on(port)
            return
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                self._start_on(free_port())
            except PortTaken:
                if not tries_left:
                    raise
            else:
                return

    def start_again(self) -> None:
        """Start on the port of before, which a closing connection may still hold for a moment."""
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            try:
                self._start_on(self.port)
            except PortTaken:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def create_role_and_database(self) -> None:
        """Make the ordinary role ``app`` and its database. Raises SandboxFailed."""
        import psycopg

        try:
            with self._connect("template1") as server:
                number = server.info.server_version
                server.execute("CREATE ROLE app LOGIN")
                if self.password:
                    # Encrypted here: pg_stat_statements keeps the text of the statement.
                    secret = server.pgconn.encrypt_password(self.password.encode(), b"app", b"scram-sha-256")
                    server.execute(b"ALTER ROLE app PASSWORD '%s'" % secret)
                # Renamed, not created: copying a database takes a tenth of the whole start.
                server.execute("ALTER DATABASE postgres RENAME TO app")
                server.execute("ALTER DATABASE app OWNER TO app")
            with self._connect("app") as server, contextlib.suppress(psycopg.Error):
                server.execute("CREATE EXTENSION pg_stat_statements")
        except psycopg.Error as error:
            raise self.make_failure(f"the throw-away PostgreSQL cannot be set up ({error})") from error
        self.version = f"{number // 10000}.{number % 10000}"

    def make_superuser_conninfo(self, database: str) -> str:
        passfile = str(self._directory.passfile).replace("\\", "\\\\").replace("'", "\\'")
        return f"{ADDRESS} port={self.port} user=postgres dbname={database} passfile='{passfile}' {PLAIN}"

    def _connect(self, database: str) -> "psycopg.Connection":
        import psycopg

        return psycopg.connect(self.make_superuser_conninfo(database), autocommit=True, connect_timeout=10)

    def stop(self, number: int) -> None:
        """Stop by SIGINT (clients are sent away, a checkpoint is written) or SIGQUIT (at once)."""
        self._guard.signal(NAME, number)
        if self._guard.wait(NAME, _STOPPED_WITHIN) is None:
            self._guard.signal(NAME, signal.SIGKILL)
            self._guard.wait(NAME, _STOPPED_WITHIN)

    def is_running(self) -> bool:
        return self.process is not None and is_running(self.process)

    def count_refusals(self) -> int:
        """Count the clients refused so far because no slot was free (SQLSTATE 53300), by the server's own log."""
        return self._log.read()

    def make_failure(self, what: str) -> SandboxFailed:
        """Make an error that says ``what`` happened, with the end of the server's log."""
        log = read_tail(self._directory.log(NAME))
        return SandboxFailed(f"{what}:\n{_find_complaints(log)}", hint=self._suggest_remedy(log))

    def _start_on(self, port: int) -> None:
        log = self._directory.log(NAME)
        said_before = log.stat().st_size if log.exists() else 0
        addresses = f"{HOST},{self.listen}" if self.listen not in ("", HOST) else HOST
        settings = self._settings | {"port": port, "listen_addresses": addresses}
        self._directory.write("postgresql.conf", _format_configuration(settings, self._directory))
        argv: list[str | Path] = [
            self._bindir / "postgres",
            "-D",
            self._directory.data,
            "-c",
            f"config_file={self._directory.path / 'postgresql.conf'}",
        ]
        self.process = self._guard.start(NAME, argv, end_signal=signal.SIGQUIT)
        self.port = port
        deadline = time.monotonic() + _READY_WITHIN
        while not self._is_ready():
            # Waiting for its end is the pause between two checks: a server that dies is noticed at once.
            if self._guard.wait(NAME, 0.005) is not None:
                self._raise_for_death(log.read_bytes()[said_before:].decode(errors="replace"))
            if time.monotonic() > deadline:
                raise self.make_failure(f"PostgreSQL was not ready after {_READY_WITHIN:.0f} s")

    def _is_ready(self) -> bool:
        # The postmaster writes its state into its pid file since version 10; connecting would fill the log.
        try:
            lines = (self._directory.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        mine = self.process is not None and lines[:1] == [str(self.process.pid)]
        return mine and len(lines) >= 8 and lines[7].strip() == "ready"

    def _raise_for_death(self, log: str) -> NoReturn:
        if "could not bind IPv4 address" in log and "in use" in log:
            raise PortTaken(
                f"port {self.port} on {HOST} is in use",
                hint="name another port, or none: then a free one is taken",
            )
        unknown = _UNKNOWN_SETTING.search(log)
        if unknown is not None:
            raise BadInput(f"{unknown[1]}: this PostgreSQL has no such setting")
        bad = _BAD_SETTING.search(log)
        if bad is not None:
            raise BadInput(f"{bad[2] or bad[3]}: PostgreSQL refuses the value: {bad[1]}")
        raise SandboxFailed(f"PostgreSQL did not start:\n{_find_complaints(log)}", hint=self._suggest_remedy(log))

    def _suggest_remedy(self, log: str) -> str:
        where = self._directory.path.parent
        if "No space left on device" in log or "Disk quota exceeded" in log:
            return f"free some space in {where} (about 60 MB), or set TMPDIR to a folder that has it"
        if "could not create shared memory" in log or "Cannot allocate memory" in log or "could not map" in log:
            return "lower max_connections or shared_buffers, or raise the machine's limits for shared memory"
        if "could not create semaphores" in log:
            return "lower max_connections, or raise the machine's limits for semaphores"
        if "Permission denied" in log:
            return f"the user that the servers run as needs access to {self._bindir} and {where}"
        return f"the programs are those of {self._bindir}; POOLCTL_PG_BINDIR names others"


def make_default_settings(bindir: Path) -> dict[str, Setting]:
    """Return the settings of every throw-away server, before the scenario's own."""
    settings: dict[str, Setting] = {
        # Nothing has to survive a crash of the machine. What is committed survives a failover nevertheless, since
        # that only kills processes.
        "fsync": False,
        "full_page_writes": False,
        "shared_buffers": "64MB",
        "max_wal_size": "256MB",
        # In the data directory: removed with it whatever happens, and not limited by a container's small /dev/shm.
        "dynamic_shared_memory_type": "mmap",
        # Walsenders take none of max_connections: so poolctl's observer takes no slot.
        "wal_level": "replica",
        "max_wal_senders": 10,
        "track_io_timing": True,
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": False,
        # The client gets the error; its statement in the log, too, would only fill the disk.
        "log_min_error_statement": "panic",
    }
    if has_library(bindir, "pg_stat_statements"):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    return settings


def check_settings(max_connections: int, reserved: int, settings: Mapping[str, Setting]) -> None:
    """Refuse what PostgreSQL would not start with, and what the sandbox decides itself. Raises BadInput."""
    if max_connections < 1:
        raise BadInput(f"database.max_connections is {max_connections}; it must be at least 1")
    if not 0 <= reserved < max_connections:
        raise BadInput(
            f"database.reserved is {reserved}; it must be at least 0 and below max_connections ({max_connections})"
        )
    for key, value in settings.items():
        if key in _OWNED_SETTINGS:
            raise BadInput(f"{key}: the throw-away server decides this setting itself")
        if not re.fullmatch(r"[A-Za-z_][\w.]*", key) or "\n" in str(value):
            raise BadInput(f"{key} = {value!r} is no setting of postgresql.conf")


def free_port() -> int:
    """Find a free port of 127.0.0.1, outside the range that the kernel gives to outgoing connections.

    Inside that range a client's own connection can take the port while the server restarts, and a client that connects
    to the port meanwhile can even be connected to itself.
    """
    for _ in range(100):
        port = 20000 + secrets.randbelow(12768)
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_listen(address: str) -> None:
    """Raise BadInput if ``address`` is none of this machine. PostgreSQL would start all the same, and only warn."""
    try:
        socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError as error:
        raise BadInput(
            f"database.listen is {address}: no server can listen there: {error.strerror or error}",
            hint="name an address of this machine that the other machines reach",
        ) from None


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


class _RefusalCounter:
    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._read_up_to = 0
        self._count = 0

    def read(self) -> int:
        with self._lock:
            try:
                with self._log.open("rb") as log:
                    log.seek(self._read_up_to)
                    text = log.read()
            except OSError:
                return self._count
            # A line that is still being written is left for the next call.
            complete = text[: text.rfind(b"\n") + 1]
            self._read_up_to += len(complete)
            self._count += sum(1 for line in complete.splitlines() if _REFUSAL.match(line))
            return self._count


def _format_configuration(settings: Mapping[str, Setting], directory: SandboxDirectory) -> str:
    fixed: dict[str, Setting] = {
        "unix_socket_directories": "",
        "hba_file": str(directory.path / "pg_hba.conf"),
        "logging_collector": False,
        "log_destination": "stderr",
        "log_line_prefix": _LOG_PREFIX,
        "lc_messages": "C",
    }
    return "".join(f"{key} = {_quote(value)}\n" for key, value in (fixed | dict(settings)).items())


def _quote(value: Setting) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _find_complaints(log: str, count: int = 6) -> str:
    """Find the complaints in ``log``, else its last lines: without times and process ids, which help no reader."""
    complaints = [match[1] for match in map(_COMPLAINTS.search, log.splitlines()) if match]
    lines = complaints or [line for line in log.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-count:]) or "  (its log is empty)"
