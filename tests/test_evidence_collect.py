"""The script for hosts that poolctl may not reach, run for real, and its output read back."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import conninfo_to_dict
from sandboxes import connect, eventually, one, own_temporary_directory
from test_poolers import skip_without

from poolctl.api.inspect import inspect
from poolctl.cli import poolctl
from poolctl.engines.sandbox import Sandbox
from poolctl.observe.evidence.read import read_evidence
from poolctl.observe.snapshot import Observation

pytestmark = pytest.mark.server

NAMES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "passfile": "PGPASSFILE"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=8, reserved=2) as sandbox:
        yield sandbox


def collect(folder: Path, conninfo: str, **environment: str) -> tuple[Observation, str]:
    """Write the script, run it against ``conninfo``, and read what it printed."""
    answer = CliRunner().invoke(poolctl, ["inspect", "--collect", str(folder / "new")])
    assert answer.exit_code == 0, answer.output
    values: dict[str, Any] = conninfo_to_dict(conninfo)
    named = {NAMES[key]: str(values[key]) for key in NAMES if key in values}
    output = folder / "evidence.txt"
    with output.open("w") as file:
        subprocess.run(
            ["sh", str(folder / "new" / "poolctl-collect.sh")],
            env={"PATH": os.environ["PATH"], "POOLCTL_SECONDS": "1", **named, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=120,
        )
    return read_evidence([str(output)]), output.read_text()


def test_what_the_script_prints_is_two_samples_with_who_blocks_whom(sandbox: Sandbox, tmp_path: Path) -> None:
    with connect(sandbox.conninfo) as holder, connect(sandbox.conninfo) as waiter:
        holder.execute(b"create table if not exists held (id int)")
        holder.autocommit = False
        holder.execute(b"lock table held")
        pids = (holder.info.backend_pid, waiter.info.backend_pid)
        thread = Thread(target=waiter.execute, args=(b"select * from held where id::text = 'a secret'",))
        thread.start()
        with connect(sandbox.admin_conninfo) as admin:
            eventually(lambda: one(admin, f"select cardinality(pg_blocking_pids({pids[1]}))") == 1)

        observation, text = collect(tmp_path, sandbox.admin_conninfo, POOLCTL_QUERIES="no")
        holder.rollback()
        thread.join()

    first, last = observation.samples
    assert 0.9 < last.at - first.at < 30
    assert {backend.pid for backend in last.clients} >= set(pids)
    assert next(backend for backend in last.backends if backend.pid == pids[1]).blocked_by == (pids[0],)
    assert observation.server is not None
    assert (observation.server.max_connections, observation.server.usable) == (8, 6)
    assert [source.reason for source in observation.sources] == [""]
    assert "a secret" not in text


def test_the_script_changes_nothing_and_says_so_to_the_server(tmp_path: Path) -> None:
    CliRunner().invoke(poolctl, ["inspect", "--collect", str(tmp_path)])

    script = (tmp_path / "poolctl-collect.sh").read_text()
    assert script.count("begin read only;") == script.count("psql -X -q -A") == 2
    assert script.count("statement_timeout = '5s'") == 2
    assert subprocess.run(["sh", "-n", str(tmp_path / "poolctl-collect.sh")], check=False).returncode == 0


def test_a_server_that_refuses_is_read_as_one_that_refuses(sandbox: Sandbox, tmp_path: Path) -> None:
    opened = []
    try:
        for _ in range(8):
            try:
                opened.append(psycopg.connect(sandbox.direct_conninfo))
            except psycopg.OperationalError:
                break

        observation, text = collect(tmp_path, sandbox.direct_conninfo)
    finally:
        for connection in opened:
            connection.close()

    assert "connection slots" in text
    assert observation.log is not None
    assert sum(each.count for each in observation.log.refusals) == 1
    assert observation.last.host is None or len(observation.last.host.titles) >= len(opened)


def test_the_script_asks_the_pooler_too_and_the_server_behind_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_without("pgbouncer")
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer={"default_pool_size": 1}) as sandbox,
        ExitStack() as stack,
    ):
        assert sandbox.pooler_admin_conninfo is not None
        holder, waiter = (stack.enter_context(closing(connect(sandbox.conninfo))) for _ in range(2))
        holder.autocommit = False
        holder.execute(b"SELECT 1")
        waiter.pgconn.send_query(b"SELECT 1")
        with connect(sandbox.admin_conninfo) as admin:
            eventually(
                lambda: one(admin, "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == 1
            )

        observation, text = collect(tmp_path, sandbox.admin_conninfo, PGBOUNCER=sandbox.pooler_admin_conninfo)
        holder.rollback()

    (bouncer,) = observation.last.bouncers
    (pool,) = [pool for pool in bouncer.pools if pool.database == "app"]
    assert (pool.clients_active, pool.clients_waiting, pool.servers_active) == (1, 1, 1)
    held_by = {backend.pid for backend in observation.samples[-1].clients}
    assert {each.remote_pid for each in bouncer.servers if each.state == "active"} <= held_by
    assert bouncer.config["default_pool_size"] == "1"
    assert "auth_file" not in text
    finding = inspect(evidence=[str(tmp_path / "evidence.txt")]).findings[0]
    assert finding.severity == "critical"
    assert "app" in finding.summary
