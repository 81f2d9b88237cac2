"""Clients in every state that pg_stat_activity has, held there for as long as a test looks at them."""

import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sandboxes import connect, eventually, one

from poolctl.engines.sandbox import Sandbox
from poolctl.engines.sandbox.binaries import BINDIR_VARIABLE, find_postgres, find_server_account
from poolctl.engines.sandbox.server import free_port
from poolctl.observe.connection import find_refusal
from poolctl.observe.postgres import Postgres
from poolctl.observe.snapshot import Backend, ServerSample

MANY = 2_000_000
"""Bytes: more than the buffers of a socket's two ends take."""


def bindirs() -> list[Path]:
    """Of every PostgreSQL on this machine, the one that sandboxes take first."""
    return list(dict.fromkeys([find_postgres(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]))


@contextmanager
def started(bindir: Path, **arguments: Any) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BINDIR_VARIABLE, str(bindir))
        sandbox = Sandbox.start(**arguments)
    with sandbox:
        yield sandbox


@contextmanager
def speaking(language: str, folder: Path, *, slots: int, **more: str) -> Iterator[str]:
    """A server whose messages are in ``language``, the last two of its slots reserved; the superuser's conninfo.

    A sandbox always speaks English: this one is started by hand, with ``more`` settings.
    """
    bindir, port, account = bindirs()[-1], free_port(), find_server_account()
    run_as: dict[str, Any] = {} if account is None else {"user": account.uid, "group": account.gid}
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    data = folder / "data"
    initdb: list[str | Path] = [
        bindir / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=trust",
        "--locale=C",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **run_as)
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": slots,
        "superuser_reserved_connections": 2,
        # gettext looks at LANGUAGE in any locale but C.
        "lc_messages": "C.UTF-8",
        "fsync": "off",
        "shared_buffers": "4MB",
    } | more
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = subprocess.Popen(
        [bindir / "postgres", "-D", data, *options],
        cwd=folder,
        env={"LANGUAGE": language, "LC_CTYPE": "C.UTF-8", "PATH": os.defpath},
        stderr=subprocess.DEVNULL,
        **run_as,
    )
    conninfo = f"host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable"
    try:
        eventually(lambda: find_refusal(conninfo) is None, within=30)
        yield conninfo
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(20)


class Clients:
    """Opens connections of ``conninfo`` and puts each into a state; closes them all at the end."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self._open = ExitStack()

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def open(self, application: str = "shop") -> "psycopg.Connection[Any]":
        connection = psycopg.connect(self.conninfo, autocommit=True, application_name=application, connect_timeout=10)
        self._open.callback(connection.close)
        return connection

    def idle(self) -> int:
        connection = self.open()
        connection.execute("SELECT 1")
        return pid_of(connection)

    def in_transaction(self) -> int:
        connection = self.open()
        connection.execute("BEGIN")
        connection.execute("SELECT 1")
        return pid_of(connection)

    def aborted(self) -> int:
        connection = self.open()
        connection.execute("BEGIN")
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 1 / 0")
        return pid_of(connection)

    def locking(self, table: str) -> int:
        connection = self.open()
        connection.execute("BEGIN")
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        return pid_of(connection)

    def advisory(self) -> int:
        connection = self.open()
        connection.execute("SELECT pg_advisory_lock(7), pg_advisory_lock(8)")
        return pid_of(connection)

    def busy(self, statement: str) -> int:
        """In the middle of a statement whose answer nobody reads."""
        connection = self.open()
        connection.pgconn.send_query(statement.encode())
        connection.pgconn.flush()
        # A statement goes on when its client has left.
        self._open.callback(connection.cancel)
        return pid_of(connection)

    def cancel(self, connection: "psycopg.Connection[Any]") -> None:
        """End the statement that ``busy`` or a test began, and read what it leaves."""
        connection.cancel()
        while connection.pgconn.get_result() is not None:
            pass

    def starting(self) -> None:
        """Asked for a password, and says nothing: a slot is taken, and nobody has logged in."""
        where = conninfo_to_dict(self.conninfo)
        end = socket.create_connection((str(where["host"]), int(str(where["port"]))), timeout=10)
        self._open.callback(end.close)
        body = f"user\0{where['user']}\0database\0{where['dbname']}\0\0".encode()
        end.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)
        assert end.recv(1) == b"R"


def pid_of(connection: "psycopg.Connection[Any]") -> int:
    return connection.info.backend_pid


@contextmanager
def observing(conninfo: str, **options: Any) -> Iterator[Postgres]:
    server = Postgres(conninfo, **options)
    try:
        yield server
    finally:
        server.close()


def seen(server: Postgres) -> ServerSample:
    sample = server.sample()
    assert sample is not None, server.source
    return sample


def seen_when(server: Postgres, condition: Callable[[dict[int, Backend]], bool]) -> dict[int, Backend]:
    """The backends by pid, as soon as they are as they should be; after 200 looks as they are."""
    backends: dict[int, Backend] = {}
    for _ in range(200):
        backends = {each.pid: each for each in seen(server).backends}
        if condition(backends):
            break
    return backends


def setting(conninfo: str, name: str) -> object:
    with connect(conninfo) as connection:
        return one(connection, f"SHOW {name}")
