"""Whose pool it is, on real servers: services that send no application_name of their own, with their own exporters."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sandboxes import own_temporary_directory
from staging import LEAKS, Stage, inspect, stage
from test_poolers import skip_without

pytestmark = [pytest.mark.server, pytest.mark.slow]

PROGRAM = Path(__file__).with_name("serving_client.py")
NAMES = ["", "PostgreSQL JDBC Driver"]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with own_temporary_directory(tmp_path_factory), stage(max_connections=80) as staged:
        yield staged


@contextmanager
def serving(at: Stage, behavior: str, name: str, size: int, *label: str) -> Iterator[tuple[int, str]]:
    """A service, its process id and the URL of its figures."""
    target = make_conninfo(at.sandbox.conninfo, application_name=name)
    command = [sys.executable, str(PROGRAM), behavior, target, str(size), *label]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            yield service.pid, f"http://127.0.0.1:{service.stdout.readline().strip()}/metrics"
        finally:
            service.kill()


@pytest.mark.parametrize("name", NAMES, ids=["no name", "pgjdbc's name"])
def test_a_leak_is_its_own_process_s_beside_a_healthy_one_of_the_same_name_and_size(at: Stage, name: str) -> None:
    with serving(at, "leak", name, 8, "shop") as (leaking, figures), serving(at, "healthy", name, 8, "cart") as other:
        verdict = at.inspect("--pool-stats", figures, "--pool-stats", other[1])

    assert "pool-slots-lost" not in verdict.codes, verdict.summaries
    finding = verdict.finding(*LEAKS)
    assert {holder["process"]["pid"] for holder in finding["holders"]} == {leaking}, verdict.summaries
    assert len({pid for holder in finding["holders"] for pid in holder["pids"]}) == 8
    verdict.says_nothing_of("pool-undersized", "backends-beyond-pool", "slow-database", "healthy")


@pytest.mark.parametrize("name", NAMES, ids=["no name", "pgjdbc's name"])
def test_a_healthy_service_with_a_label_of_its_own_is_healthy(at: Stage, name: str) -> None:
    with serving(at, "healthy", name, 8, "shop") as (_, figures):
        verdict = at.inspect("--pool-stats", figures)

    assert verdict.codes[0] == "healthy", verdict.summaries


def test_pools_that_are_made_again_and_never_closed_are_beyond_the_pool(at: Stage) -> None:
    with serving(at, "reload", "", 6) as (reloading, figures):
        verdict = at.inspect("--pool-stats", figures)

    finding = verdict.finding("backends-beyond-pool", "connection-per-request")
    assert {holder["process"]["pid"] for holder in finding["holders"]} == {reloading}
    verdict.says_nothing_of("healthy", *LEAKS)


def test_an_idle_leak_behind_pgbouncer_is_not_called_healthy_for_certain(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    skip_without("pgbouncer")
    keys = {"pool_mode": "transaction", "default_pool_size": 5, "stats_users": "app"}
    with (
        own_temporary_directory(tmp_path_factory),
        stage(max_connections=30, via="pgbouncer", pgbouncer=keys) as pooled,
        ExitStack() as held,
    ):
        for _ in range(10):
            client = psycopg.connect(pooled.sandbox.conninfo, application_name="cart", autocommit=True)
            client.execute("SELECT 1")
            held.callback(client.close)
        time.sleep(1.5)
        verdict = pooled.inspect("--pgbouncer", str(pooled.sandbox.pooler_admin_conninfo))

    finding = verdict.finding("healthy")
    assert finding["confidence"] == "undetermined"
    assert "none of the 10 clients of cart at PgBouncer has sent anything" in finding["summary"]
    assert "--pool-stats" in finding["decide_by"]


@pytest.mark.parametrize(("behavior", "is_silent"), [("leak", True), ("healthy", False)])
def test_a_role_without_privilege_says_that_no_transaction_ended(at: Stage, behavior: str, is_silent: bool) -> None:
    with serving(at, behavior, "", 8):
        verdict = inspect(at.conninfo_of("stranger"), "--for", "4s")

    finding = verdict.finding("healthy")
    assert ("no transaction on a table ended in database app" in finding["summary"]) == is_silent, verdict.summaries
