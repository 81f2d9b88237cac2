"""The real PgBouncer and Pgpool-II in front of the throw-away server."""

import select
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from sandboxes import connect, eventually, one, own_temporary_directory

from poolctl.engines.sandbox import Sandbox, binaries
from poolctl.engines.sandbox.binaries import find_pooler
from poolctl.errors import BadInput, MissingProgram, SandboxFailed

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def own_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_temporary_directory(tmp_path_factory) as path:
        yield path


def skip_without(program: str) -> None:
    try:
        find_pooler(program)
    except MissingProgram as error:
        pytest.skip(f"{error.message}; {error.hint}")


@pytest.fixture(scope="module")
def bouncer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    skip_without("pgbouncer")
    keys = {"max_db_connections": 2}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=keys) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def pgpool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    skip_without("pgpool")
    keys = {"num_init_children": 2, "max_pool": 1}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgpool", pgpool=keys) as running,
    ):
        yield running


def rows(connection: psycopg.Connection, command: str) -> list[dict[str, object]]:
    cursor = connection.execute(command.encode())
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def test_clients_of_pgbouncer_are_served_by_its_connections_and_not_by_their_own(bouncer: Sandbox) -> None:
    with connect(bouncer.conninfo) as through, connect(bouncer.direct_conninfo) as direct:
        assert through.info.backend_pid != one(through, "SELECT pg_backend_pid()")
        assert direct.info.backend_pid == one(direct, "SELECT pg_backend_pid()")
        assert one(through, "SELECT current_user || '@' || current_database()") == "app@app"


def test_session_mode_makes_the_client_beyond_max_db_connections_wait_until_one_leaves(bouncer: Sandbox) -> None:
    assert bouncer.pooler_admin_conninfo is not None
    with connect(bouncer.pooler_admin_conninfo) as console, ExitStack() as held:
        first, second, third = (held.enter_context(closing(connect(bouncer.conninfo))) for _ in range(3))
        one(first, "SELECT 1")
        one(second, "SELECT 1")
        third.pgconn.send_query(b"SELECT 1")
        answered_while_full, _, _ = select.select([third.pgconn.socket], [], [], 0.2)
        (pool,) = (row for row in rows(console, "SHOW POOLS") if row["database"] == "app")
        first.close()
        answered, _, _ = select.select([third.pgconn.socket], [], [], 5)

    assert not answered_while_full
    assert (pool["cl_active"], pool["cl_waiting"], pool["sv_active"]) == (2, 1, 2)
    assert pool["pool_mode"] == "session"
    assert answered


def test_pgbouncer_has_the_keys_that_were_given_and_its_own_defaults_for_the_rest(bouncer: Sandbox) -> None:
    assert bouncer.pooler_admin_conninfo is not None
    with connect(bouncer.pooler_admin_conninfo) as console:
        config = {row["key"]: row for row in rows(console, "SHOW CONFIG")}

    assert config["max_db_connections"]["value"] == "2"
    for key in ("default_pool_size", "max_client_conn", "query_wait_timeout"):
        assert config[key]["value"] == config[key]["default"]


def test_pgbouncer_counts_as_a_process_and_goes_on_through_a_failover_of_the_server(bouncer: Sandbox) -> None:
    with connect(bouncer.conninfo) as application:
        one(application, "SELECT 1")
        bouncer.fail_over()
        with pytest.raises(psycopg.OperationalError):
            application.execute("SELECT 1")

    assert bouncer.is_alive()
    assert len(bouncer.list_process_ids()) > 2
    with connect(bouncer.conninfo) as application:
        assert one(application, "SELECT 1") == 1


def test_pgpool_serves_as_many_clients_as_it_has_children_and_the_next_one_waits(pgpool: Sandbox) -> None:
    with ExitStack() as held:
        for _ in range(2):
            application = held.enter_context(connect(pgpool.conninfo))
            assert one(application, "SELECT current_user || '@' || current_database()") == "app@app"
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(pgpool.conninfo, connect_timeout=2)


def test_pgpool_serves_again_after_the_server_restarted_under_it(pgpool: Sandbox) -> None:
    with connect(pgpool.conninfo) as application:
        one(application, "SELECT 1")
    pgpool.restart()

    def serves() -> bool:
        try:
            with connect(pgpool.conninfo) as application:
                return one(application, "SELECT 1") == 1
        except psycopg.OperationalError:
            return False

    eventually(serves)
    assert pgpool.pooler_admin_conninfo is None


@pytest.mark.parametrize(
    ("via", "keys", "words"),
    [
        ("pgbouncer", {"pool_modus": "session"}, "pool_modus: the installed PgBouncer has no such setting"),
        ("pgbouncer", {"pool_mode": "sesion"}, "pool_mode is sesion, which PgBouncer refuses"),
        ("pgbouncer", {"listen_port": 5432}, "listen_port: the sandbox decides this setting itself"),
        ("pgbouncer", {"pool_mode": ["session"]}, "it must be one number, switch or line of text"),
        ("pgpool", {"num_init_child": 4}, "num_init_child: the installed Pgpool-II has no such setting"),
        ("pgpool", {"num_init_children": -4}, "num_init_children: Pgpool-II refuses the value: -4 is outside"),
    ],
)
def test_a_key_that_the_pooler_does_not_take_is_named(
    via: str, keys: dict[str, object], words: str, own_tmp: Path
) -> None:
    skip_without(via)

    with pytest.raises(BadInput, match=rf"database\.{via}\..*{words}|database\.{via}\.{words}"):
        Sandbox.start(via=via, pgbouncer=keys, pgpool=keys)
    assert list(own_tmp.iterdir()) == []


def test_the_pooler_takes_the_port_that_applications_were_promised(bouncer: Sandbox, own_tmp: Path) -> None:
    port = bouncer.conninfo.split("port=")[1].split()[0]

    with pytest.raises(SandboxFailed, match=f"port {port} on 127.0.0.1 is in use"):
        Sandbox.start(via="pgbouncer", port=int(port))
    assert list(own_tmp.iterdir()) == []


@pytest.mark.parametrize(("via", "package"), [("pgbouncer", "pgbouncer"), ("pgpool", "pgpool2")])
def test_a_missing_pooler_names_the_package_to_install(
    via: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_tmp: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "_POOLER_HOMES", ())

    with pytest.raises(MissingProgram) as raised:
        Sandbox.start(via=via)
    assert f"apt-get install {package} " in raised.value.hint
    assert list(own_tmp.iterdir()) == []
