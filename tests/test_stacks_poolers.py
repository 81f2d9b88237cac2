"""What is written for poolers, taken by the real PgBouncer and Pgpool-II."""

import getpass
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sandboxes import connect, eventually, own_temporary_directory
from stack_parts import POOLER, POOLER_OFF

from poolctl.engines.sandbox import Sandbox
from poolctl.engines.sandbox.binaries import find_pooler, find_server_account
from poolctl.engines.sandbox.server import free_port
from poolctl.errors import MissingProgram
from poolctl.stacks import PoolerAdvice, render

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def own_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_temporary_directory(tmp_path_factory) as path:
        yield path


def program(name: str) -> Path:
    try:
        return find_pooler(name)
    except MissingProgram as error:
        pytest.skip(f"{error.message}; {error.hint}")


@contextmanager
def pgbouncer(advice: PoolerAdvice, folder: Path) -> Iterator[psycopg.Connection]:
    """The admin console of a PgBouncer that was started with the text, and with no more than where to listen."""
    executable, account, port = program("pgbouncer"), find_server_account(), free_port()
    user = account.name if account is not None else getpass.getuser()
    file = folder / "pgbouncer.ini"
    place = f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\nadmin_users = admin\n"
    # PgBouncer wants a user for each login even where it asks for no password.
    database = "[databases]\napp = host=127.0.0.1 port=1 user=app\n"
    file.write_text(render("pgbouncer", advice).text + place + database)
    file.chmod(0o644)
    switch = [] if account is None else ["-u", user]
    process = subprocess.Popen(
        [executable, *switch, file], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        console = f"host=127.0.0.1 port={port} user=admin dbname=pgbouncer sslmode=disable gssencmode=disable"
        eventually(lambda: process.poll() is not None or is_listening(port))
        assert process.poll() is None, process.stderr and process.stderr.read()
        with connect(console) as connection:
            yield connection
    finally:
        process.kill()
        process.communicate()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("advice", "expected"),
    [
        (
            POOLER,
            {
                "pool_mode": "transaction",
                "default_pool_size": "20",
                "reserve_pool_size": "4",
                "reserve_pool_timeout": "2",
                "min_pool_size": "5",
                "max_db_connections": "48",
                "max_client_conn": "520",
                "query_wait_timeout": "5",
                "server_lifetime": "1500",
                "server_idle_timeout": "600",
            },
        ),
        (
            POOLER_OFF,
            {
                "pool_mode": "session",
                "default_pool_size": "15",
                "reserve_pool_size": "0",
                "min_pool_size": "0",
                "max_db_connections": "0",
                "max_client_conn": "15",
                "query_wait_timeout": "0",
                "server_lifetime": "315360000",
                "server_idle_timeout": "0",
            },
        ),
    ],
    ids=["ordinary", "off"],
)
def test_pgbouncer_starts_with_the_text_and_has_its_values(
    advice: PoolerAdvice, expected: dict[str, str], own_tmp: Path
) -> None:
    with pgbouncer(advice, own_tmp) as console:
        config = {row[0]: row[1] for row in console.execute("SHOW CONFIG")}

    # It shows a long time with an exponent.
    times = {key: f"{float(config[key]):.0f}" for key in expected if key != "pool_mode"}
    assert {"pool_mode": config["pool_mode"], **times} == expected


@pytest.mark.parametrize(
    ("advice", "expected"),
    [
        (POOLER, {"num_init_children": "24", "max_pool": "2", "connection_life_time": "600"}),
        (POOLER_OFF, {"num_init_children": "15", "max_pool": "1", "connection_life_time": "0"}),
    ],
    ids=["ordinary", "off"],
)
def test_pgpool_starts_with_the_text_and_has_its_values(advice: PoolerAdvice, expected: dict[str, str]) -> None:
    program("pgpool")
    lines = [line for line in render("pgpool", advice).text.splitlines() if not line.startswith("#")]
    keys = {key.strip(): int(value) for key, value in (line.split("=") for line in lines)}
    with (
        Sandbox.start(max_connections=60, via="pgpool", pgpool=keys) as running,
        connect(running.conninfo) as connection,
    ):
        status = {row[0]: row[1] for row in connection.execute("SHOW pool_status")}

    assert {key: status[key] for key in expected} == expected
