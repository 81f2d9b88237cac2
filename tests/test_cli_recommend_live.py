"""``poolctl recommend`` on real servers: what is measured, what refuses, sweeps, and the second story."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import run_here
from psycopg.conninfo import make_conninfo
from sandboxes import connect, eventually, one, own_temporary_directory
from schema_check import problems
from staging import Stage, stage
from test_report_recommendation_json import SCHEMA

pytestmark = pytest.mark.server


def words(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "poolctl", "recommend", *arguments]


def recommend(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_here("recommend", *arguments, PGPASSFILE=os.devnull)


def document(*arguments: str) -> Any:
    done = recommend(*arguments, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert problems(found, SCHEMA, SCHEMA) == []
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with own_temporary_directory(tmp_path_factory), stage(max_connections=60) as staged:
        yield staged


@pytest.fixture
def at(server: Stage) -> Iterator[Stage]:
    """The server with nobody on it."""
    yield server
    server.clear()


@pytest.fixture
def watcher(at: Stage) -> str:
    return at.conninfo_of("watcher")


def test_a_server_that_nobody_uses_gives_its_limits_and_says_that_there_was_no_load(watcher: str) -> None:
    found = document(watcher, "--for", "1s", "--instances", "4")

    terms = {term["term"]: term for term in found["budget"]["arithmetic"]}
    assert terms["max_connections"] == {"term": "max_connections", "value": 60, "source": "measured"}
    assert terms["instances"]["source"] == "given"
    assert found["demand"]["value"] is None
    assert any("No client used the server" in note for note in found["notes"])


@pytest.mark.parametrize("command", ["recommend", "inspect"])
def test_there_is_never_more_than_one_connection_to_a_server(at: Stage, watcher: str, command: str) -> None:
    query = "SELECT coalesce(json_agg(pid), '[]') FROM pg_stat_activity WHERE application_name = 'poolctl'"
    process = subprocess.Popen(
        [sys.executable, "-m", "poolctl", command, watcher, "--for", "4s", "--json", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
    )
    met: set[int] = set()
    most = 0
    with connect(at.sandbox.observer_conninfo) as observer:
        while process.poll() is None:
            pids = one(observer, query)
            assert isinstance(pids, list)
            most = max(most, len(pids))
            met.update(pids)
    output, _ = process.communicate()

    assert process.returncode == 0
    assert most == 1
    if command == "recommend":
        # It reconnects, and so knows how long that takes, on one connection after the other.
        assert len(met) > 3
        assert 0 < json.loads(output)["measured"]["connect_time"] < 1


def test_what_is_given_stands_in_for_what_is_measured(watcher: str) -> None:
    found = document(watcher, "--for", "1s", "--max-connections", "500", "--arrival-rate", "100", "--hold-time", "10ms")

    terms = {term["term"]: term for term in found["budget"]["arithmetic"]}
    assert terms["max_connections"] == {"term": "max_connections", "value": 500, "source": "given"}
    assert terms["superuser_reserved_connections"]["source"] == "measured"
    assert found["demand"]["load"] == pytest.approx(1.0)


def test_load_connect_time_and_fleet_are_measured_over_one_connection(at: Stage, watcher: str) -> None:
    at.start("busy", "shop-api", size=3, workers=3, think=0.05)
    at.start("busy", "shop-api", size=3, workers=3, think=0.05)
    at.start("sessions", "reports", size=2)
    with subprocess.Popen(
        words(watcher, "--for", "5s", "--json", "--quiet", "--no-verify"), stdout=subprocess.PIPE, text=True
    ) as running:
        with at.admin() as admin:
            own = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'poolctl'"
            eventually(lambda: one(admin, own) == 1, within=60)
        text, _ = running.communicate(timeout=60)

    found = json.loads(text)
    terms = {term["term"]: term for term in found["budget"]["arithmetic"]}
    assert found["application"] == "shop-api"
    assert terms["instances"] == {"term": "instances", "value": 2, "source": "measured"}
    # 2 x 1.2, rounded up; or 3 x 1.2, where a look met this test's own connection.
    assert terms["other services"]["value"] in (-3, -4)
    assert found["measured"]["throughput"] > 10
    assert 0 < found["measured"]["connect_time"] < 5
    assert found["measured"]["samples"] >= 6


def test_connections_that_rest_beside_used_ones_bound_what_clients_hold_outside_of_statements(
    at: Stage, watcher: str
) -> None:
    """Three clients hold a connection nearly all the time, and the server sees them at work nearly never."""
    over = threading.Event()

    def hold(connection: "psycopg.Connection[Any]") -> None:
        while not over.wait(0.01):
            connection.execute("SELECT 1")

    with ExitStack() as opened:
        where = make_conninfo(at.sandbox.conninfo, application_name="shop-api")
        pool = [opened.enter_context(psycopg.connect(where, autocommit=True)) for _ in range(12)]
        threads = [threading.Thread(target=hold, args=(connection,)) for connection in pool[:3]]
        for thread in threads:
            thread.start()
        try:
            found = document(watcher, "--for", "2s", "--no-verify")
        finally:
            over.set()
            for thread in threads:
                thread.join()

    [doubt] = [finding for finding in found["findings"] if finding["code"] == "hold-unseen"]
    assert 3 <= doubt["evidence"]["in_use_at_most"] <= 6  # of twelve


def test_an_application_that_nobody_has_is_an_error_that_names_who_is_there(at: Stage, watcher: str) -> None:
    at.start("sessions", "shop-api", size=1)

    done = recommend(watcher, "--for", "1s", "--application", "shop-ap", "--quiet")

    assert done.returncode == 3
    assert "no backend of the application 'shop-ap' was observed" in done.stderr
    assert "shop-api" in done.stderr


def test_a_leak_refuses_for_no_pool_is_large_enough_for_it(at: Stage, watcher: str) -> None:
    at.start("leak", "shop-api", size=10, every=2, until=6, most=8, workers=2)

    found = document(watcher, "--for", "4s", "--for-stack", "pgxpool")

    assert found["recommendation"]["confidence"] == "refused"
    assert found["findings"][0]["code"].startswith("leak")
    assert found["findings"][0]["summary"].startswith("Pool size is not the problem")
    assert found["config"] == []


def test_a_pool_held_whole_refuses_by_its_holder_though_the_cause_is_open(at: Stage, watcher: str) -> None:
    at.start("sessions", "shop-api", size=6, statement="BEGIN;SELECT 1")

    found = document(watcher, "--for", "3s")

    first = found["findings"][0]
    assert (found["recommendation"]["confidence"], first["confidence"]) == ("refused", "undetermined")
    assert first["summary"].startswith("No pool size follows from this")
    assert first["code"] in ("self-deadlock", "leak-in-transaction")
    assert [holder["application"] for holder in first["holders"]] == ["shop-api"]
    assert "0 %" not in str([each["summary"] for each in found["findings"]])


def test_a_queue_for_a_lock_refuses_and_names_who_holds_it(at: Stage, watcher: str) -> None:
    with at.admin() as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS stock (id int, amount int); GRANT ALL ON stock TO app")
    at.start("sessions", "migrator", size=1, statement="BEGIN;LOCK TABLE stock")
    at.start("statements", "shop-api", size=6, statement="UPDATE stock SET amount = 0")

    found = document(watcher, "--for", "4s", "--application", "shop-api")

    assert found["recommendation"]["confidence"] == "refused"
    [queue] = [each for each in found["findings"] if each["code"] == "lock-queue"]
    assert found["findings"][0] == queue
    assert queue["summary"].startswith(
        "Pool size is not the problem: 6 backends wait for a lock on stock behind migrator"
    )
    assert [holder["application"] for holder in queue["holders"]] == ["migrator"]
    assert queue["evidence"]["gain_from_locks"] > 2


def test_the_layout_of_an_application_on_this_machine_is_read_from_its_processes(at: Stage, watcher: str) -> None:
    client = at.start("busy", "shop-api", size=2, workers=2, think=0.05)

    found = document(watcher, "--for", "2s", "--pid", str(client.pid), "--no-verify")

    terms = {term["term"]: term for term in found["budget"]["arithmetic"]}
    assert terms["processes per instance"] == {"term": "processes per instance", "value": 1, "source": "measured"}
    assert any(f"pid {client.pid}" in note for note in found["notes"])


def test_a_process_that_is_not_there_is_an_error(watcher: str) -> None:
    done = recommend(watcher, "--for", "0s", "--process", "no-such-program", "--quiet")

    assert done.returncode == 2
    assert "there is no process named 'no-such-program'" in done.stderr


def test_what_inspect_recorded_is_measured_without_a_server(at: Stage, watcher: str, tmp_path: Path) -> None:
    at.start("busy", "shop-api", size=3, workers=3, think=0.05)
    record = tmp_path / "night.jsonl"
    subprocess.run(
        [sys.executable, "-m", "poolctl", "inspect", watcher, "--for", "4s", "--record", str(record), "--quiet"],
        check=True,
        capture_output=True,
        timeout=60,
    )

    found = document("--recording", str(record), "--no-verify")

    assert found["application"] == "shop-api"
    assert found["measured"]["window"] > 3
    assert any(str(record) in note for note in found["notes"])


def test_ctrl_c_ends_the_measurement_early_and_tells_what_was_seen(at: Stage, watcher: str) -> None:
    at.start("busy", "shop-api", size=3, workers=3, think=0.05)
    with subprocess.Popen(
        words(watcher, "--for", "10m", "--json", "--quiet"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        with at.admin() as admin:
            own = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'poolctl'"
            eventually(lambda: one(admin, own) == 1, within=60)
        running.send_signal(signal.SIGINT)
        text, errors = running.communicate(timeout=30)

    assert running.returncode == 130, errors
    found = json.loads(text)
    assert found["status"] == "interrupted"
    assert "The time to open a connection was not measured: there was no time for it" in found["notes"]


def test_a_full_server_is_not_asked_for_more_connections(at: Stage) -> None:
    at.start("sessions", "shop-api", size=57)

    done = recommend(at.conninfo_of("stranger"), "--for", "2s", "--quiet")

    assert done.returncode == 3
    assert "the server refuses connections" in done.stderr
    assert "poolctl inspect" in done.stderr


@pytest.mark.slow
def test_a_sweep_on_a_named_server_stays_within_its_free_slots(at: Stage) -> None:
    at.start("sessions", "shop-api", size=30)

    found = document(
        at.sandbox.conninfo, "--sweep", "--query", "SELECT pg_sleep(0.001)", "--sweep-for", "30s", "--no-verify"
    )

    assert found["capacity"]["method"] == "sweep"
    assert found["capacity"]["most"] <= 60 - 3 - 30 - 3
    assert any("On the named server" in note for note in found["notes"])


def test_statements_about_tables_that_the_throw_away_server_does_not_have_are_explained() -> None:
    done = recommend("--sweep", "--query", "SELECT * FROM orders", "--sweep-for", "5s", "--quiet")

    assert done.returncode == 2
    assert 'relation "orders" does not exist' in done.stderr
    assert "the throw-away server has no tables of yours" in done.stderr


@pytest.mark.slow
def test_a_sweep_on_the_throw_away_server_ends_in_time_with_a_knee() -> None:
    found = document("--sweep", "--mix", "think", "--sweep-for", "30s", "--instances", "2")

    assert found["capacity"]["method"] == "sweep"
    assert found["capacity"]["value"] >= 8  # 5 ms of thinking within a transaction leave the processors idle
    assert found["recommendation"]["max_open"] is not None


LOAD = """
name = "second story"
[pool]
kind = "database/sql"
max_open = 30
max_idle = 20
[load]
instances = 6
workers = 6
query = "SELECT sum(amount) FROM orders WHERE customer_id = (SELECT (random() * 9999)::int)"
think = { distribution = "exponential", mean = "20ms" }
duration = "10m"
"""


@pytest.fixture
def story(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, list[str]]]:
    """A server with orders and no index on their customers, and the command that lets six pods loose on it."""
    scenario = tmp_path / "pods.toml"
    scenario.write_text(LOAD)
    with own_temporary_directory(tmp_path_factory), stage(max_connections=300) as staged:
        with connect(staged.sandbox.admin_conninfo) as admin:
            admin.execute("SET ROLE app")
            admin.execute(
                "CREATE TABLE orders AS SELECT i AS id, i % 10000 AS customer_id, i / 10.0 AS amount, "
                "repeat('x', 60) AS note FROM generate_series(1, 200000) AS i"
            )
            admin.execute("ANALYZE orders")
        target = make_conninfo(staged.sandbox.conninfo)
        pods = [sys.executable, "-m", "poolctl", "simulate", str(scenario), "--target", target, "--quiet", "--json"]
        yield staged, pods


@pytest.mark.slow
def test_the_second_story_pool_size_is_not_the_problem_until_the_index_is_there(
    story: tuple[Stage, list[str]],
) -> None:
    staged, pods = story
    watcher = staged.conninfo_of("watcher")
    busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name LIKE 'poolctl simulate%'"
    with subprocess.Popen(pods, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            with staged.admin() as admin:
                eventually(lambda: int(str(one(admin, busy))) >= 20, within=60)
            without = document(watcher, "--instances", "6", "--for", "40s")
            with staged.admin() as admin:
                admin.execute("CREATE INDEX ON orders (customer_id)")
                admin.execute("ANALYZE orders")
            with_index = document(watcher, "--instances", "6", "--for", "40s")
        finally:
            running.terminate()
            running.wait(30)

    finding = without["findings"][0]
    assert (finding["code"], without["recommendation"]["confidence"]) == ("slow-database", "refused")
    assert finding["summary"].startswith("Pool size is not the problem")
    assert "FROM orders WHERE customer_id" in finding["evidence"]["statement"]
    assert (finding["evidence"]["table"], finding["evidence"]["column"]) == ("orders", "customer_id")
    assert finding["evidence"]["most_gain_from_pool"] < 0.15
    assert finding["evidence"]["gain_from_statement"] > 2
    assert "orders(customer_id)" in finding["remedy"] or "orders (customer_id)" in finding["remedy"]
    assert with_index["recommendation"]["max_open"] in range(1, 31)
    assert with_index["measured"]["throughput"] > 3 * without["measured"]["throughput"]


def count(connection: "psycopg.Connection[Any]", query: str) -> int:
    return int(str(one(connection, query)))


@pytest.mark.parametrize("query", ["sleep", "select1", "cpu"])
def test_a_second_terminal_sees_the_loads_of_simulate_counted_while_they_run(
    at: Stage, query: str, tmp_path: Path
) -> None:
    scenario = tmp_path / "load.toml"
    scenario.write_text(
        f'name = "load"\n[pool]\nkind = "psycopg_pool"\nmax_open = 4\nmin_idle = 4\n[load]\nworkers = 4\n'
        f'query = "{query}"\nhold = {{ distribution = "constant", mean = "5ms" }}\n'
        'think = { distribution = "constant", mean = "5ms" }\nduration = "60s"\n',
        encoding="utf-8",
    )
    words = [sys.executable, "-m", "poolctl", "simulate", str(scenario), "--target", at.sandbox.conninfo, "--quiet"]
    counted = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'app'"
    connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'poolctl simulate%'"
    # In another database, whose counters the transactions of this test move.
    elsewhere = connect(make_conninfo(at.sandbox.admin_conninfo, dbname="template1"))
    with elsewhere as admin, subprocess.Popen(words, stdout=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: count(admin, connected) >= 4, within=60)
            before = count(admin, counted)
            # A backend counts at its end whatever it read, so it has to be seen before: the run goes on.
            eventually(lambda: count(admin, counted) - before > 500, within=60)
            assert count(admin, connected) >= 4
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=30)
