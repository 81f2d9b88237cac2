"""The shipped examples run, and show what they say: the two stories that started poolctl."""

import subprocess
import sys
from pathlib import Path

import pytest
from live_runs import assert_adds_up, run

from poolctl.diagnose.run.diagnose import diagnose_run
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import load_scenario, parse_scenario
from poolctl.scenario.toml import TomlSource, override, read_toml
from poolctl.scenario.variants import parse_variants

EXAMPLES = Path(__file__).parents[1] / "examples"
LIVE = sorted(path.stem for path in EXAMPLES.glob("*.toml") if not path.stem.startswith("fleet"))

pytestmark = [pytest.mark.server, pytest.mark.slow]


def example(servers: ThrowAwayServers, name: str, *assignments: str) -> Run:
    done = run(servers, load_scenario(EXAMPLES / f"{name}.toml", assignments))
    assert_adds_up(done)
    assert done.failure is None
    return done


def compared(servers: ThrowAwayServers, name: str, words: str, *assignments: str) -> list[Run]:
    values, text = read_toml(EXAMPLES / f"{name}.toml")
    override(values, assignments)
    source = TomlSource(name, text)
    return [run(servers, parse_scenario(variant.values, source)) for variant in parse_variants(values, words)]


def messages(done: Run) -> set[str]:
    return {error.kind.message for error in done.summary.errors}


@pytest.mark.parametrize("name", LIVE)
def test_every_example_says_what_it_is_about_and_names_itself_correctly(name: str) -> None:
    text = (EXAMPLES / f"{name}.toml").read_text()

    assert text.startswith("# ")
    assert load_scenario(EXAMPLES / f"{name}.toml").name
    for line in text.splitlines():
        if "poolctl simulate" in line:
            assert f"examples/{name}.toml" in line


def test_the_101st_getconn_fails_and_the_fix_serves_all_thousand(servers: ThrowAwayServers) -> None:
    leak, correct = compared(servers, "threaded_pool_leak", "leak,correct")

    assert (leak.summary.acquired, leak.summary.timed_out) == (100, 900)
    assert messages(leak) == {"connection pool exhausted"}
    assert leak.summary.server is not None
    assert leak.summary.server.states == {"idle in transaction": 100}
    assert diagnose_run(leak)[0].code == "leak-in-transaction"
    assert (correct.summary.released, correct.summary.connections.peak_in_use) == (1000, 1)
    assert [finding.code for finding in diagnose_run(correct)] == ["healthy"]


def test_three_leaking_instances_meet_the_servers_limit(servers: ThrowAwayServers) -> None:
    done = example(servers, "threaded_pool_fleet", "load.duration=3s")

    assert done.summary.refused > 0
    assert any("remaining connection slots are reserved" in message for message in messages(done))
    codes = [finding.code for finding in diagnose_run(done)]
    assert codes[0] == "leak-in-transaction"
    assert "slots-exhausted" in codes


def test_pgbouncer_moves_the_queue_and_helps_only_while_no_transaction_stays_open(servers: ThrowAwayServers) -> None:
    mode = "database.pgbouncer.pool_mode=transaction"
    session = example(servers, "pgbouncer_leak", "load.duration=6s")
    transaction = example(servers, "pgbouncer_leak", "load.duration=6s", mode)
    pinned = example(servers, "pgbouncer_leak", "load.duration=6s", mode, "leak.shape=in-transaction")

    for stuck in (session, pinned):
        assert stuck.summary.server is not None
        assert stuck.summary.server.peak_connections == 100
        last = [point.acquired for point in stuck.timeline if 4.5 < point.at < 5.9]
        assert last[-1] - last[0] < 30
    assert transaction.summary.server is not None
    assert transaction.summary.server.peak_connections is not None
    assert transaction.summary.server.peak_connections < 20


def test_behind_pgpool_the_leak_ends_in_a_hang_without_an_error_of_pgpools(servers: ThrowAwayServers) -> None:
    done = example(servers, "pgpool_leak", "load.duration=8s")

    assert done.summary.leaked == 20
    assert messages(done) == {"context deadline exceeded"}
    assert done.summary.server is not None
    assert done.summary.server.peak_connections == 20


def test_go_without_limits_grows_and_with_them_stops_at_180(servers: ThrowAwayServers) -> None:
    unlimited = example(servers, "go_unlimited", "load.duration=3s")
    bounded = example(servers, "go_bounded", "load.duration=3s")

    assert unlimited.summary.connections.peak_open > 250
    assert bounded.summary.connections.peak_open == 180
    assert bounded.summary.server is not None
    assert bounded.summary.server.peak_connections == 180
    assert unlimited.summary.connections.opened > 3 * bounded.summary.connections.opened


def test_of_the_eighteen_that_come_back_eight_are_closed(servers: ThrowAwayServers) -> None:
    done = example(servers, "go_idle_closing")

    between = [point for point in done.timeline if 1.6 < point.at < 3.0]
    assert {(point.open, point.in_use, point.idle) for point in between} == {(22, 12, 10)}


def test_two_idle_places_reopen_what_twenty_keep(servers: ThrowAwayServers) -> None:
    two, twenty = compared(servers, "idle_churn", "max_idle=2,20", "load.duration=3s")

    assert twenty.summary.connections.opened == 20
    assert two.summary.connections.opened > 100
    assert two.summary.connections.closed.max_idle > 80


def test_a_connection_for_every_request_costs_most_of_the_throughput(servers: ThrowAwayServers) -> None:
    none, pooled = compared(servers, "connect_per_request", "none,database/sql", "load.duration=2s")

    assert none.summary.connections.opened == none.summary.acquired
    assert pooled.summary.throughput > 5 * none.summary.throughput


def test_the_missing_index_is_not_the_pools_problem_and_the_index_is_the_cure() -> None:
    with ThrowAwayServers() as servers:
        missing = example(servers, "missing_index", "load.duration=5s")
        indexed = example(servers, "with_index", "load.duration=5s")

    first = diagnose_run(missing)[0]
    assert first.code == "slow-database"
    assert "orders" in first.summary + first.remedy
    assert "customer_id" in first.remedy
    assert missing.summary.connections.peak_open == 180
    assert missing.summary.server is not None
    assert indexed.summary.server is not None
    assert missing.summary.server.cpu is not None
    assert indexed.summary.server.scanned == ()
    assert indexed.summary.throughput > 3 * missing.summary.throughput
    assert "slow-database" not in [finding.code for finding in diagnose_run(indexed)]


@pytest.mark.parametrize(
    ("program", "last_words"),
    [("threaded_pool_leak", "97 of 1000 requests served"), ("threaded_pool_fixed", "1000 of 1000 requests served")],
)
def test_the_little_programs_do_what_the_scenarios_say(
    servers: ThrowAwayServers, program: str, last_words: str
) -> None:
    scenario = parse_scenario({"name": "t", "load": {"workers": 1}, "database": {"max_connections": 100}})
    sandbox = servers.serve(scenario).sandbox
    assert sandbox is not None

    command = [sys.executable, str(EXAMPLES / f"{program}.py"), sandbox.direct_conninfo]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.stdout.splitlines()[-1] == last_words
    if program == "threaded_pool_leak":
        assert "request 98: OperationalError: " in done.stdout
        assert "remaining connection slots are reserved" in done.stdout
