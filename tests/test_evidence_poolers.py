"""What a real PgBouncer and a real Pgpool-II print and log, pasted and read back; and how systems wrap its lines."""

import subprocess
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psycopg
import pytest
from sandboxes import connect, one, own_temporary_directory
from test_poolers import skip_without

from poolctl.engines.sandbox import Sandbox
from poolctl.observe.evidence.pooler_log import read_pooler_line
from poolctl.observe.evidence.read import read_evidence
from poolctl.observe.pgbouncer import PgBouncer

SHOWS = ("POOLS", "CLIENTS", "SERVERS", "LISTS", "CONFIG", "STATS", "DATABASES")
MODES: dict[str, tuple[str, ...]] = {"aligned": (), "expanded": ("-x",), "csv": ("--csv",), "unaligned": ("-A",)}


def ask(conninfo: str, *commands: str, mode: str = "aligned") -> str:
    """Return what psql prints of each command."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["psql", "-X", *MODES[mode], conninfo, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.server
@pytest.mark.parametrize("mode", MODES)
def test_what_a_real_pgbouncer_prints_is_what_poolctl_reads_live(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, mode: str
) -> None:
    skip_without("pgbouncer")
    keys = {"max_db_connections": 2, "max_client_conn": 20}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=keys) as sandbox,
        ExitStack() as stack,
    ):
        assert sandbox.pooler_admin_conninfo is not None
        for _ in range(2):
            one(stack.enter_context(closing(connect(sandbox.conninfo))), "SELECT 1")
        third = stack.enter_context(closing(connect(sandbox.conninfo)))
        third.pgconn.send_query(b"SELECT 1")
        paste = tmp_path / "shows.txt"
        paste.write_text(
            "".join(ask(sandbox.pooler_admin_conninfo, f"SHOW {show}", mode=mode) + "\n" for show in SHOWS)
        )
        live = PgBouncer(sandbox.pooler_admin_conninfo)
        with closing(live):
            sample = live.sample()

    observation = read_evidence([str(paste)])

    (pasted,) = observation.last.bouncers
    assert sample is not None
    (pool,) = [pool for pool in pasted.pools if pool.database == "app"]
    assert (pool.clients_active, pool.clients_waiting, pool.servers_active) == (2, 1, 2)
    assert {each.pointer for each in pasted.servers} == {each.pointer for each in sample.servers}
    assert {each.remote_pid for each in pasted.servers} == {each.remote_pid for each in sample.servers}
    assert pasted.config["max_client_conn"] == "20"
    assert pasted.lists["used_clients"] >= 3
    assert [row.name for row in pasted.databases if row.name == "app"] == ["app"]
    assert observation.sources[0].reason == ""


@pytest.mark.server
def test_a_real_pgbouncers_log_counts_each_refusal_once(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_without("pgbouncer")
    keys = {"max_db_connections": 1, "max_client_conn": 2, "query_wait_timeout": 1}
    with (
        own_temporary_directory(tmp_path_factory) as place,
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=keys) as sandbox,
        closing(connect(sandbox.conninfo)) as first,
    ):
        one(first, "SELECT 1")
        with closing(connect(sandbox.conninfo)) as second:
            with suppress(psycopg.OperationalError):
                psycopg.connect(sandbox.conninfo)
            with suppress(psycopg.OperationalError):
                second.execute("SELECT 1")
        (log,) = place.rglob("pgbouncer.log")
        kept = tmp_path / "pgbouncer.log"
        kept.write_text(log.read_text())

    facts = read_evidence([str(kept)]).log

    assert facts is not None
    assert [(each.by, each.count) for each in facts.refusals] == [("pooler-clients", 1)]
    assert facts.queue_timeouts == 1


@pytest.mark.server
def test_what_a_real_pgpool_prints_has_its_children_and_its_limits(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_without("pgpool")
    keys = {"num_init_children": 4, "max_pool": 1}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgpool", pgpool=keys) as sandbox,
        closing(connect(sandbox.conninfo)) as client,
    ):
        one(client, "SELECT 1")
        paste = tmp_path / "shows.txt"
        paste.write_text(
            "\n".join(ask(sandbox.conninfo, f"SHOW {show}") for show in ("POOL_PROCESSES", "POOL_POOLS", "POOL_STATUS"))
        )

    (pgpool,) = read_evidence([str(paste)]).last.pgpools

    assert (pgpool.num_init_children, pgpool.max_pool, len(pgpool.children)) == (4, 1, 4)
    assert sum(child.database == "app" for child in pgpool.children) >= 1
    assert any(each.is_connected for each in pgpool.connections)


LINE = "C-0x5581: shop/web@10.0.0.7:4711 closing because: query_wait_timeout (age=120s)"


@pytest.mark.parametrize(
    "line",
    [
        f"2026-10-13 06:31:02.804 UTC [1] LOG {LINE}",
        f"2026-10-13 06:31:02.804 1 LOG {LINE}",
        f"Oct 13 06:31:02 db1 pgbouncer[1]: LOG {LINE}",
        f"Oct 13 06:31:02 db1 pgbouncer[1]: 2026-10-13 06:31:02.804 UTC [1] LOG {LINE}",
        f"2026-10-13T06:31:02.804123+00:00 db1 pgbouncer[1]: LOG {LINE}",
        f"2026-10-13T06:31:02+0000 db1 pgbouncer[1]: LOG {LINE}",
        f"pooler-1  | 2026-10-13 06:31:02.804 UTC [1] LOG {LINE}",
        f"[pod/pooler-7c/pgbouncer] 2026-10-13 06:31:02.804 UTC [1] LOG {LINE}",
        f"2026-10-13T06:31:05.000123456Z 2026-10-13 06:31:02.804 UTC [1] LOG {LINE}",
    ],
)
def test_a_line_is_read_as_each_system_wraps_it(line: str) -> None:
    event = read_pooler_line(line)

    assert event is not None
    assert (event.kind, event.user, event.client, event.age) == ("queue-timeout", "web", "10.0.0.7", 120.0)
    assert event.at is not None
    assert time.strftime("%m-%d %H:%M:%S", time.gmtime(event.at)) == "10-13 06:31:02"
