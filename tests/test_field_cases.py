"""Situations from public reports, staged with the programs in tests/cases, each with the answer that is right.

The ones about fleets, pools in transactions, locks and refusing poolers are in test_sizing_fleet_cases, test_incidents
and test_field_poolers.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import run_here
from sandboxes import connect, eventually, one, own_temporary_directory
from staging import LEAKS, Stage, inspect, stage
from test_poolers import skip_without

CASES = Path(__file__).with_name("cases")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with own_temporary_directory(tmp_path_factory), stage(max_connections=60) as staged:
        yield staged


@pytest.fixture
def at(server: Stage) -> Iterator[Stage]:
    yield server
    server.clear()


def wait_for(at: Stage, condition: str) -> None:
    """Wait until ``condition`` is true of the backends of the staged application."""
    statement = f"SELECT {condition} FROM pg_stat_activity WHERE usename = 'app'"
    with connect(at.sandbox.observer_conninfo) as observer:
        eventually(lambda: bool(one(observer, statement)), within=60)


@pytest.mark.server
@pytest.mark.slow
def test_connections_that_one_request_each_used_are_told_from_one_look_from_anywhere(at: Stage) -> None:
    """The client's processes cannot be seen: only the server's rows are there."""
    at.run_case("05-used-once.py", "api", "40", "1.5")
    wait_for(at, "count(*) >= 40 AND max(backend_start) - min(backend_start) > interval '8 s'")

    verdict = at.inspect("--for", "1s")

    finding = verdict.finding("connection-per-request")
    assert {holder["application"] for holder in finding["holders"]} == {"api"}
    assert finding["confidence"] in ("likely", "certain")
    verdict.says_nothing_of(*LEAKS, "healthy", "oversized-pool", "pool-undersized", "slow-database")


@pytest.mark.server
@pytest.mark.slow
def test_a_pool_for_each_reload_of_the_code_is_one_process_with_ten_pools(at: Stage) -> None:
    at.run_case("19-pool-a-reload.py", "dev", "10")
    wait_for(at, "count(*) = 50 AND max(state_change) - max(backend_start) > interval '1 s'")

    verdict = at.inspect()

    finding = verdict.finding("connection-per-request", "backends-beyond-pool")
    assert {holder["application"] for holder in finding["holders"]} == {"dev"}
    assert "one pool for each process" in finding["remedy"]
    verdict.says_nothing_of(*LEAKS, "healthy", "oversized-pool", "pool-undersized", "slow-database")


@pytest.mark.server
@pytest.mark.slow
def test_a_pool_that_counts_more_in_use_than_the_server_has_lost_the_difference(at: Stage, tmp_path: Path) -> None:
    stats = tmp_path / "pool.json"
    at.run_case("10-sessions.py", "importer", str(stats))
    wait_for(at, "count(*) = 28")
    eventually(stats.exists)

    verdict = at.inspect("--pool-stats", str(stats))

    finding = verdict.finding("pool-slots-lost")
    assert "70" in finding["summary"]
    assert "restart" in finding["remedy"].lower()
    verdict.says_nothing_of(*LEAKS, "healthy", "oversized-pool", "pool-undersized", "slow-database")


@pytest.mark.server
@pytest.mark.slow
def test_listeners_on_the_connections_of_a_pool_want_connections_of_their_own(at: Stage, tmp_path: Path) -> None:
    stats = tmp_path / "pool.json"
    at.run_case("25-listeners.py", "notify", str(stats))
    wait_for(at, "count(*) FILTER (WHERE query LIKE 'LISTEN%') = 8")
    eventually(stats.exists)

    verdict = at.inspect("--pool-stats", f"notify={stats}", "--relief")

    finding = verdict.finding("long-hold")
    assert sum(len(holder["pids"]) for holder in finding["holders"]) == 8
    assert "a connection of its own" in finding["remedy"]
    assert verdict.document["relief"]["steps"] == []
    verdict.says_nothing_of(*LEAKS, "healthy", "oversized-pool", "pool-undersized", "slow-database", "held-across-io")


@pytest.mark.server
@pytest.mark.slow
def test_transactions_that_pause_in_the_application_use_up_a_poolers_connections(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """SHOW POOLS has hundreds of clients active and waiting while few statements run on the server."""
    skip_without("pgbouncer")
    keys = {"pool_mode": "transaction", "default_pool_size": 8, "max_client_conn": 200}
    with (
        own_temporary_directory(tmp_path_factory),
        stage(max_connections=60, via="pgbouncer", pgbouncer=keys) as pooled,
    ):
        pooled.run_case("08-think-in-transaction.py", "orders", "60")
        console = str(pooled.sandbox.pooler_admin_conninfo)
        with connect(console) as admin:
            eventually(lambda: len(admin.execute("SHOW CLIENTS").fetchall()) > 60, within=40)

        verdict = inspect(pooled.conninfo_of("watcher"), "--pgbouncer", console, "--relief")
        unprivileged = inspect(pooled.conninfo_of("stranger"), "--pgbouncer", console)

    assert unprivileged.held_by("held-across-io") == {"orders"}
    unprivileged.says_nothing_of(*LEAKS, "healthy", "pool-undersized", "slow-database")
    assert verdict.held_by("held-across-io") == {"orders"}
    assert verdict.document["relief"]["steps"] == []
    verdict.says_nothing_of(*LEAKS, "healthy", "pool-undersized", "slow-database", "pooler-pinned-transaction")


MODELED = {
    "07-model": ("held-across-io", {"pool-undersized", "slow-database", "healthy"}),
    "07-model-over-hundred": ("held-across-io", {"pool-undersized", "slow-database", "healthy"}),
    "16-model": ("self-deadlock", {"pool-undersized", "slow-database", "healthy"}),
    "22-plain-sleep": ("pool-undersized", {"slow-database", "healthy"}),
    "22-ecto": ("pool-undersized", {"slow-database", "healthy"}),
}
"""What ``simulate`` has to find of each scenario, and what it must not."""


@pytest.mark.parametrize("name", MODELED)
def test_the_model_finds_the_cause_that_was_reported(name: str) -> None:
    right, wrong = MODELED[name]

    done = run_here("simulate", "--engine", "model", str(CASES / f"{name}.toml"), "--json", "--quiet")

    codes = {finding["code"] for finding in json.loads(done.stdout)["findings"]}
    assert right in codes
    assert not wrong & codes
