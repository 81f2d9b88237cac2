"""Causes brought about for real, by real client processes on real servers, and what ``poolctl inspect`` says of them.

Each test also asserts what must not be said: the remedies of a leak, a small pool and a slow database are opposite.
Sizes and rates come from a generator, so that no rule is tuned to one staging; POOLCTL_INCIDENT_SEED draws others.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sandboxes import connect, eventually, one, own_temporary_directory
from staging import HARMLESS, LEAKS, Stage, Verdict, inspect, pids_of, stage

from poolctl.engines.sandbox.binaries import find_pooler
from poolctl.errors import MissingProgram

pytestmark = [pytest.mark.server, pytest.mark.slow]

SEED = os.environ.get("POOLCTL_INCIDENT_SEED", "1")


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with own_temporary_directory(tmp_path_factory), stage(max_connections=80) as staged:
        with connect(staged.sandbox.admin_conninfo) as admin:
            for statement in (
                "CREATE TABLE stock (id int PRIMARY KEY, amount int); INSERT INTO stock VALUES (1, 10), (2, 20)",
                "CREATE TABLE orders AS SELECT i AS id, i % 5000 AS customer_id FROM generate_series(1, 400000) AS i",
                "GRANT ALL ON stock, orders TO app; ANALYZE",
            ):
                admin.execute(statement.encode())
        yield staged


@pytest.fixture(scope="module", autouse=True)
def half_a_message(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, float]]:
    """A server of its own with clients in the midst of a message, and since when: it takes a minute to be sure."""
    with own_temporary_directory(tmp_path_factory), stage(max_connections=20) as staged:
        staged.start("half_sent", "gateway", size=3)
        yield staged, time.monotonic()


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server with what only a restart can set: slots reserved for monitors, and prepared transactions."""
    with own_temporary_directory(tmp_path_factory), stage(max_connections=40) as staged:
        with staged.admin() as admin:
            for statement in (
                "CREATE TABLE stock (id int PRIMARY KEY, amount int); INSERT INTO stock VALUES (1, 10), (2, 20)",
                "GRANT ALL ON stock TO app; GRANT pg_use_reserved_connections TO watcher",
                "ALTER SYSTEM SET reserved_connections = 5",
                "ALTER SYSTEM SET max_prepared_transactions = 5",
            ):
                admin.execute(statement.encode())
        staged.sandbox.restart()
        yield staged


@pytest.fixture
def set_up_anew(restarted: Stage) -> Iterator[Stage]:
    yield restarted
    restarted.clear()


@pytest.fixture
def at(server: Stage) -> Iterator[Stage]:
    """The server with nobody on it."""
    yield server
    server.clear()


def skip_without(program: str) -> None:
    try:
        find_pooler(program)
    except MissingProgram as error:
        pytest.skip(f"{error.message}; {error.hint}")


def assert_harmless(verdict: Verdict) -> None:
    assert set(verdict.codes) <= HARMLESS, verdict.summaries
    assert "healthy" in verdict.codes, verdict.summaries


def test_a_busy_pool_is_healthy(at: Stage, draw: random.Random) -> None:
    at.start("busy", "shop", workers=draw.randint(2, 5), size=draw.randint(6, 20), think=0.03)

    assert_harmless(at.inspect())


def test_a_lifo_pool_that_is_mostly_frozen_is_healthy(at: Stage, draw: random.Random) -> None:
    at.start("busy", "shop", pool="lifo", workers=2, size=draw.randint(15, 40), think=0.02)

    assert_harmless(at.inspect())


def test_idle_pools_of_several_instances_are_healthy(at: Stage, draw: random.Random) -> None:
    for _ in range(3):
        at.start("sessions", "shop", size=draw.randint(4, 15))

    assert_harmless(at.inspect())


def test_sessions_that_listen_or_hold_an_advisory_lock_are_healthy(at: Stage, draw: random.Random) -> None:
    at.start("sessions", "worker", size=draw.randint(2, 6), statement="LISTEN jobs")
    at.start("sessions", "leader", size=1, statement="SELECT pg_advisory_lock(42)")
    at.start("busy", "shop", workers=2, size=4, think=0.05)

    assert_harmless(at.inspect())


def test_one_long_report_is_healthy(at: Stage) -> None:
    report = "SELECT count(*), pg_sleep(60) FROM orders"
    at.start("statements", "report", size=1, statement=report, wait=True)
    at.start("busy", "shop", workers=2, size=4, think=0.05)

    assert_harmless(at.inspect())


def test_a_person_at_psql_within_a_transaction_is_no_leak(at: Stage) -> None:
    at.start("sessions", "psql", size=1, statement="BEGIN;SELECT * FROM stock")
    at.start("busy", "shop", workers=2, size=4, think=0.05)

    at.inspect().says_nothing_of(*LEAKS, "pool-undersized", "slow-database")


@pytest.mark.parametrize("takes", [0.0, 0.08], ids=["at once", "after statements that take a while"])
def test_transactions_that_never_end_are_a_leak_of_the_application_that_began_them(
    at: Stage, draw: random.Random, takes: float
) -> None:
    size = draw.randint(10, 40)
    statement = f"SELECT pg_sleep({takes}) /*route='%2Fcheckout'*/"
    at.start("leak", "checkout", size=size, until=draw.randint(4, size - 3), every=3, think=0.05, statement=statement)
    at.start("busy", "search", workers=3, size=6, think=0.03)

    verdict = at.inspect()

    assert verdict.held_by("leak-in-transaction") == {"checkout"}
    found = verdict.finding("leak-in-transaction")
    assert {holder["route"] for holder in found["holders"]} == {"/checkout"}
    assert found["frees"] >= 4
    assert "no-safety-net" in verdict.codes
    verdict.says_nothing_of("pool-undersized", "slow-database", "healthy", "held-across-io", "lock-queue")


@pytest.mark.parametrize("prepared", [0, 1], ids=["simple protocol", "extended protocol"])
def test_a_leak_is_seen_without_any_privilege(at: Stage, draw: random.Random, prepared: int) -> None:
    at.start("leak", "checkout", size=20, until=draw.randint(4, 12), every=3, think=0.05, prepared=prepared)
    at.start("busy", "search", workers=3, size=6, think=0.03)

    verdict = at.inspect(role="stranger")

    assert "partial-view" in verdict.codes
    assert verdict.held_by("leak-in-transaction") == {"checkout"}
    assert verdict.finding("leak-in-transaction")["confidence"] != "certain"
    verdict.says_nothing_of("pool-undersized", "slow-database", "healthy")


@pytest.mark.parametrize("figures", ["with figures of the pool", "without"])
def test_idle_connections_that_never_come_back_are_not_a_small_pool(
    at: Stage, draw: random.Random, tmp_path: Path, figures: str
) -> None:
    size = draw.randint(8, 25)
    metrics: dict[str, Any] = {"metrics": tmp_path / "metrics.prom"} if figures != "without" else {}
    at.start(
        "leak", "checkout", size=size, least=2, idle=1, until=size, every=3, workers=3, think=0.02, timeout=2, **metrics
    )

    verdict = at.inspect(*(["--pool-stats", str(metrics["metrics"])] if metrics else []))

    if metrics:
        assert verdict.held_by("leak", "leak-or-long-hold") == {"checkout"}
    verdict.says_nothing_of("pool-undersized", "slow-database", "healthy" if metrics else "pool-undersized")


def test_connections_that_fall_silent_one_after_the_other_are_not_healthy_without_figures(at: Stage) -> None:
    """A pool of ten, some 20 requests a second, one in 25 forgets its connection; in the end all ten stand still."""
    at.start("leak", "checkout", size=10, least=10, idle=1, until=3, every=25, workers=2, think=0.1)

    verdict = at.inspect("--for", "14s")

    assert verdict.held_by("leak-or-long-hold") == {"checkout"}
    assert verdict.finding("leak-or-long-hold")["confidence"] == "undetermined"
    verdict.says_nothing_of("healthy", "pool-undersized", "slow-database", "oversized-pool")


def test_a_pool_that_is_too_small_is_called_so_and_not_leaky(at: Stage, draw: random.Random, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.prom"
    at.start(
        "busy", "shop", workers=draw.randint(20, 30), size=draw.randint(2, 4), think=0.01, inside=0.004, metrics=metrics
    )

    verdict = at.inspect("--pool-stats", str(metrics))

    assert "pool-undersized" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "slow-database", "healthy", "self-deadlock")


def test_a_fleet_whose_pools_are_all_too_small_is_told_once(at: Stage, draw: random.Random, tmp_path: Path) -> None:
    pods, size = draw.randint(2, 4), draw.randint(2, 3)
    files = [tmp_path / f"pod{number}.prom" for number in range(pods)]
    clients = [
        at.start("busy", "shop", wait=False, workers=14, size=size, think=0.01, inside=0.008, settle=2, metrics=file)
        for file in files
    ]
    for client in clients:
        at.wait(client)

    verdict = at.inspect(*(word for file in files for word in ("--pool-stats", str(file))))

    assert [code for code in verdict.codes if code == "pool-undersized"] == ["pool-undersized"], verdict.summaries
    assert verdict.finding("pool-undersized")["evidence"]["max_open"] == pods * size
    verdict.says_nothing_of(*LEAKS, "slow-database", "healthy", "self-deadlock", "pool-slots-lost")


def test_a_transaction_held_over_a_call_elsewhere_is_no_leak(at: Stage, draw: random.Random, tmp_path: Path) -> None:
    workers, metrics = draw.randint(10, 20), tmp_path / "metrics.prom"
    at.start("holding", "payments", workers=workers, size=workers - 4, call=draw.uniform(0.2, 0.6), metrics=metrics)

    verdict = at.inspect("--pool-stats", str(metrics))

    assert verdict.held_by("held-across-io") == {"payments"}
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


@pytest.mark.parametrize("figures", ["with figures of the pool", "without"])
def test_answers_that_are_streamed_within_a_transaction_are_held_and_nothing_ends_them(
    at: Stage, tmp_path: Path, figures: str
) -> None:
    stats = tmp_path / "pool.json"
    at.run_case("07-held-during-stream.py", "chat-api", str(stats), "10", "30")
    each_held = "SELECT count(*) = 11 AND now() - max(backend_start) > interval '35 s' FROM pg_stat_activity"
    with connect(at.sandbox.observer_conninfo) as observer:
        eventually(lambda: bool(one(observer, f"{each_held} WHERE usename = 'app'")), within=120)

    # Eleven answers of 20 s: in three seconds none may end, and without figures that is an open question.
    verdict = at.inspect(
        "--relief", "--for", "12s", *(["--pool-stats", f"chat-api={stats}"] if figures != "without" else [])
    )

    assert verdict.held_by("held-across-io") == {"chat-api"}
    assert verdict.document["relief"]["steps"] == []
    verdict.says_nothing_of(*LEAKS, "self-deadlock", "pool-undersized", "slow-database", "healthy")
    if figures != "without":
        assert verdict.finding("held-across-io")["confidence"] != "undetermined"


@pytest.mark.parametrize("lock", ["yes", "no"], ids=["under advisory locks", "without locks"])
def test_a_second_connection_that_no_holder_ever_gets_is_a_jam_by_the_figures_and_may_be_one_without(
    at: Stage, tmp_path: Path, lock: str
) -> None:
    stats = tmp_path / "pool.json"
    at.run_case("16-nested-under-lock.py", "health", str(stats), lock)
    stands = (
        "SELECT count(*) = 10 AND max(state_change) - min(state_change) < 0.08 * (now() - max(state_change)) "
        "FROM pg_stat_activity WHERE usename = 'app' AND now() - state_change > interval '6 s'"
    )
    with connect(at.sandbox.observer_conninfo) as observer:
        eventually(lambda: bool(one(observer, stands)), within=100)

    told = at.inspect("--pool-stats", f"health={stats}")
    unknown = at.inspect()

    assert told.finding("self-deadlock")["confidence"] == "likely"
    assert unknown.finding("self-deadlock")["confidence"] == "undetermined"
    told.says_nothing_of(*LEAKS, "long-hold", "pool-undersized", "healthy")
    unknown.says_nothing_of(*LEAKS, "long-hold", "pool-undersized", "healthy")


def test_holders_that_wait_for_a_second_connection_are_no_leak(at: Stage, draw: random.Random, tmp_path: Path) -> None:
    workers, metrics = draw.randint(5, 15), tmp_path / "metrics.prom"
    at.start("nested", "orders", workers=workers, size=workers, timeout=2, metrics=metrics)

    for _ in range(4):
        verdict = at.inspect("--pool-stats", str(metrics), "--for", "7s")
        if "self-deadlock" in verdict.codes:  # else others kept the holders from asking at once
            break

    assert "self-deadlock" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


@pytest.mark.parametrize("root", ["BEGIN;UPDATE stock SET amount = 0 WHERE id = 1", "BEGIN;LOCK TABLE stock"])
def test_a_queue_for_a_lock_names_the_session_at_its_head(at: Stage, draw: random.Random, root: str) -> None:
    at.start("sessions", "migrator", size=1, statement=root)
    at.start(
        "statements", "shop", size=draw.randint(4, 12), statement="UPDATE stock SET amount = amount + 1 WHERE id = 1"
    )

    verdict = at.inspect()

    assert verdict.held_by("lock-queue") == {"migrator"}
    verdict.says_nothing_of("pool-undersized", "slow-database", "healthy", "leak", "leak-or-long-hold")


def test_relief_cancels_the_change_of_a_table_that_holds_up_readers_and_keeps_the_backup(at: Stage) -> None:
    at.run_case("14-alter-behind-dump.py", "setup")
    with connect(at.sandbox.observer_conninfo) as observer:
        waiting = "SELECT count(*) = 8 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        eventually(lambda: bool(one(observer, waiting)))
        time.sleep(1.2)
        verdict = at.inspect("--relief")
        [step] = verdict.document["relief"]["steps"]
        assert (step["application"], step["action"], step["frees"]) == ("migrate", "cancel", 8)
        assert step["alternative"]["application"] == "pg_dump"

        with at.admin() as admin:
            admin.execute(step["sql"].encode())

        eventually(lambda: one(observer, waiting.replace("= 8", "= 0")) is True)
        assert one(observer, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'") == 1


def test_a_statement_without_an_index_is_a_slow_database(at: Stage, draw: random.Random) -> None:
    statement = "SELECT count(*) FROM orders WHERE customer_id = 17"
    at.start("statements", "shop", size=draw.randint(8, 16), statement=statement)

    verdict = at.inspect()

    found = verdict.finding("slow-database")
    assert "orders" in str(found)
    assert "customer_id" in str(found)
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "healthy", "lock-queue")


def test_a_leak_beside_a_slow_statement_gives_both(at: Stage) -> None:
    at.start("leak", "checkout", size=20, until=6, every=3, think=0.05)
    at.start("statements", "shop", size=10, statement="SELECT count(*) FROM orders WHERE customer_id = 17")

    verdict = at.inspect()

    assert {"leak-in-transaction", "slow-database"} <= set(verdict.codes), verdict.summaries
    assert verdict.held_by("leak-in-transaction") == {"checkout"}
    verdict.says_nothing_of("pool-undersized", "healthy")


def test_a_failed_transaction_that_nobody_rolled_back_is_told(at: Stage, draw: random.Random) -> None:
    at.start("sessions", "importer", size=draw.randint(2, 6), statement="BEGIN;SELECT 1/0")

    verdict = at.inspect()

    assert verdict.held_by("aborted-transaction") == {"importer"}
    verdict.says_nothing_of("pool-undersized", "healthy", "slow-database")


def test_a_full_server_that_refuses_is_an_answer(at: Stage) -> None:
    at.start("sessions", "fleet", size=77)

    verdict = at.inspect()

    assert verdict.exit_code == 0
    assert verdict.codes[0] == "slots-exhausted"
    limits = [limit for limit in verdict.document["limits"] if limit["binds"]]
    assert [limit["scope"] for limit in limits] == ["server"]
    verdict.says_nothing_of("pool-undersized", "slow-database", "healthy", "role-limit")


def test_a_server_with_few_slots_left_is_told_before_it_refuses(at: Stage, draw: random.Random) -> None:
    at.start("sessions", "fleet", size=draw.randint(70, 73))

    verdict = at.inspect()

    assert "slots-low" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "slots-exhausted", "pool-undersized", "slow-database", "healthy")


def test_pools_that_may_open_more_than_the_server_has_are_told_while_they_are_quiet(
    at: Stage, draw: random.Random, tmp_path: Path
) -> None:
    files = [tmp_path / f"pod{number}.prom" for number in range(3)]
    for file in files:
        at.start(
            "busy", "shop", workers=2, size=draw.randint(28, 40), least=2, think=0.05, metrics=file, name=file.stem
        )

    verdict = at.inspect(*(word for file in files for word in ("--pool-stats", str(file))))

    assert "fleet-over-budget" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "slots-exhausted", "pool-undersized", "slow-database", "healthy")


def test_connections_that_listen_while_others_wait_are_long_holds_and_no_leak(
    at: Stage, draw: random.Random, tmp_path: Path
) -> None:
    size, metrics = draw.randint(4, 10), tmp_path / "metrics.prom"
    options: dict[str, Any] = {"statement": "LISTEN jobs", "every": 1, "idle": 1, "workers": 4, "metrics": metrics}
    at.start("leak", "events", size=size, until=size, think=0.02, timeout=2, **options)

    verdict = at.inspect("--pool-stats", str(metrics))

    assert verdict.held_by("long-hold") == {"events"}
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_a_role_at_its_own_limit_is_not_a_full_server(at: Stage) -> None:
    at.start("sessions", "billing", conninfo=at.conninfo_of("billing"), size=6)

    verdict = at.inspect()

    assert "role-limit" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "slots-exhausted", "pool-undersized", "healthy")


def test_a_new_connection_for_every_request_is_told(at: Stage, draw: random.Random) -> None:
    at.start("churn", "lambda", workers=draw.randint(3, 6), think=0.02)

    verdict = at.inspect("--for", "5s")

    assert "connection-churn" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_a_stopped_client_is_no_leak(at: Stage, draw: random.Random) -> None:
    frozen = at.start("busy", "stuck", workers=3, size=draw.randint(4, 10), think=0.02)
    at.start("busy", "shop", workers=3, size=6, think=0.02)
    frozen.send_signal(signal.SIGSTOP)

    verdict = at.inspect()

    assert verdict.held_by("frozen-clients") == {"stuck"}
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_a_statement_that_outlived_its_client_is_told(at: Stage, draw: random.Random) -> None:
    dead = at.start("statements", "batch", size=draw.randint(2, 5), statement="SELECT pg_sleep(300)")
    dead.kill()
    dead.wait()

    verdict = at.inspect()

    assert verdict.held_by("orphaned-backends") == {"batch"}
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_rows_that_nobody_reads_are_told(at: Stage, draw: random.Random) -> None:
    at.start("unread", "export", size=draw.randint(2, 5))

    verdict = at.inspect("--for", "7s")

    assert verdict.held_by("slow-reader") == {"export"}
    verdict.says_nothing_of("pool-undersized", "slow-database", "healthy")


def test_connections_that_never_say_who_they_are_are_told(at: Stage, draw: random.Random) -> None:
    at.start("half_open", "probe", size=draw.randint(5, 15))

    verdict = at.inspect()

    assert "handshake-pile-up" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database")


def test_slots_that_only_the_pool_believes_in_are_told(at: Stage, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.prom"
    at.start("dropping", "reports", size=4, until=4, waiters=5, timeout=1, metrics=metrics)

    verdict = at.inspect("--pool-stats", str(metrics))

    assert "pool-slots-lost" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_acquires_that_time_out_beside_free_connections_are_the_clients_own(
    at: Stage, draw: random.Random, tmp_path: Path
) -> None:
    metrics = tmp_path / "pool.json"
    at.start("starved", "shop", size=draw.randint(2, 8), blocked=draw.uniform(0.4, 0.9), metrics=metrics)

    verdict = at.inspect("--pool-stats", str(metrics))

    assert verdict.finding("client-starved")["layer"] == "host", verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "held-across-io", "healthy")


def test_a_pool_that_is_mostly_parked_is_advice_and_no_trouble(at: Stage, draw: random.Random, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.prom"
    size = draw.randint(20, 40)
    at.start("busy", "shop", pool="lifo", workers=2, size=size, least=size, think=0.03, metrics=metrics)

    verdict = at.inspect("--pool-stats", str(metrics))

    assert_harmless(verdict)
    assert verdict.finding("oversized-pool")["confidence"] == "likely"


def test_everybody_coming_back_at_once_after_a_restart_is_a_storm(set_up_anew: Stage, draw: random.Random) -> None:
    set_up_anew.start("statements", "web", size=draw.randint(50, 80), statement="SELECT pg_sleep(0.2)", wait=False)
    with set_up_anew.admin() as admin:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'web'"
        eventually(lambda: int(str(one(admin, sessions))) >= 20)
        later = "query_start - backend_start > interval '0.8 s'"  # than the first sample
        looks = f"SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'poolctl' AND {later}"
        with ThreadPoolExecutor() as beside:
            looking = beside.submit(set_up_anew.inspect, "--emergency", "--for", "8s")
            eventually(lambda: bool(one(admin, looks)))
            set_up_anew.sandbox.restart()
            verdict = looking.result()

    assert verdict.codes[0] == "reconnect-storm", verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "connection-churn", "handshake-pile-up", "healthy")


def test_a_prepared_transaction_that_nobody_ends_is_the_head_of_the_queue(
    set_up_anew: Stage, draw: random.Random
) -> None:
    with set_up_anew.admin() as admin:
        admin.execute("BEGIN; UPDATE stock SET amount = 0 WHERE id = 1; PREPARE TRANSACTION 'transfer 17'")
    statement = "UPDATE stock SET amount = amount + 1 WHERE id = 1"
    set_up_anew.start("statements", "shop", size=draw.randint(4, 12), statement=statement)

    verdict = set_up_anew.inspect()

    set_up_anew.clear()
    with set_up_anew.admin() as admin:
        admin.execute("ROLLBACK PREPARED 'transfer 17'")
    queue = verdict.finding("lock-queue")
    assert "a prepared transaction" in queue["summary"]
    assert "ROLLBACK PREPARED" in queue["remedy"]
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_a_message_that_its_client_never_ends_is_told_after_a_minute(half_a_message: tuple[Stage, float]) -> None:
    staged, since = half_a_message
    time.sleep(max(0.0, since + 61 - time.monotonic()))

    verdict = staged.inspect()

    assert verdict.finding("stuck-protocol")["confidence"] == "certain"
    assert verdict.held_by("stuck-protocol") == {"gateway"}
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "slow-reader", "healthy")


def test_looking_takes_one_connection_and_leaves_none(at: Stage) -> None:
    at.start("sessions", "shop", size=3)
    with connect(at.sandbox.observer_conninfo) as observer:
        before = one(observer, "SELECT sum(sessions) FROM pg_stat_database")
        at.inspect("--for", "2s")
        named = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'poolctl%' AND backend_type LIKE 'cl%'"
        )
        eventually(lambda: one(observer, named) == 0)
        one(observer, "SELECT pg_stat_clear_snapshot()")
        after = one(observer, "SELECT sum(sessions) FROM pg_stat_database")

    assert int(str(after)) - int(str(before)) <= 1


@pytest.fixture(scope="module")
def transactions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A PgBouncer in transaction mode with 6 server connections."""
    skip_without("pgbouncer")
    keys = {"pool_mode": "transaction", "default_pool_size": 6, "max_client_conn": 60}
    with (
        own_temporary_directory(tmp_path_factory),
        stage(max_connections=40, via="pgbouncer", pgbouncer=keys) as staged,
    ):
        yield staged


@pytest.fixture
def bouncer(transactions: Stage) -> Iterator[Stage]:
    yield transactions
    transactions.clear()


def console(staged: Stage) -> list[str]:
    assert staged.sandbox.pooler_admin_conninfo is not None
    return ["--pgbouncer", staged.sandbox.pooler_admin_conninfo]


def waiting_at(staged: Stage) -> int:
    """Clients that PgBouncer has no server for."""
    assert staged.sandbox.pooler_admin_conninfo is not None
    with connect(staged.sandbox.pooler_admin_conninfo) as admin:
        cursor = admin.execute("SHOW POOLS")
        names = [column.name for column in cursor.description or ()]
        return sum(int(row[names.index("cl_waiting")]) for row in cursor)


def test_transactions_left_open_behind_pgbouncer_name_the_application_and_not_the_pooler(bouncer: Stage) -> None:
    bouncer.start("leak", "checkout", size=12, least=1, until=6, every=1, workers=2, think=0.05, timeout=3)
    bouncer.start("busy", "search", wait=False, workers=4, size=4, think=0.05)

    verdict = bouncer.inspect(*console(bouncer))

    assert verdict.held_by("pooler-pinned-transaction", "leak-in-transaction") == {"checkout"}
    assert "pooler-pinned-transaction" in verdict.codes, verdict.summaries
    verdict.says_nothing_of("pool-undersized", "slow-database", "healthy", "slots-exhausted", "leak")


def test_a_pool_of_pgbouncer_that_is_too_small_is_the_poolers(bouncer: Stage) -> None:
    bouncer.start("busy", "shop", workers=25, size=25, least=5, think=0.0, inside=0.003, settle=2)

    verdict = bouncer.inspect(*console(bouncer))

    assert verdict.finding("pool-undersized")["layer"] == "pooler"
    verdict.says_nothing_of(*LEAKS, "pooler-pinned-transaction", "healthy")


def test_a_quiet_pgbouncer_is_healthy(bouncer: Stage) -> None:
    bouncer.start("busy", "shop", workers=3, size=5, think=0.03)

    assert_harmless(bouncer.inspect(*console(bouncer)))


def test_sessions_that_keep_servers_of_pgbouncer_are_its_mode(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without("pgbouncer")
    keys = {"pool_mode": "session", "default_pool_size": 5, "max_client_conn": 60}
    with (
        own_temporary_directory(tmp_path_factory),
        stage(max_connections=40, via="pgbouncer", pgbouncer=keys) as staged,
    ):
        staged.start("sessions", "shop", size=5)
        staged.start("busy", "late", wait=False, workers=3, size=3)
        eventually(lambda: waiting_at(staged) > 0)

        verdict = staged.inspect(*console(staged))

    assert verdict.held_by("pooler-session-mode") == {"shop"}
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_a_pgbouncer_without_room_for_clients_still_tells_from_its_console(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    skip_without("pgbouncer")
    keys = {"pool_mode": "transaction", "default_pool_size": 5, "max_client_conn": 8}
    with (
        own_temporary_directory(tmp_path_factory),
        stage(max_connections=40, via="pgbouncer", pgbouncer=keys) as staged,
    ):
        staged.start("sessions", "fleet", size=8)

        verdict = staged.inspect(*console(staged))

    assert "pooler-client-limit" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy", "slots-exhausted")


def test_a_pgpool_with_all_children_busy_does_not_hang_the_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without("pgpool")
    keys = {"num_init_children": 4, "max_pool": 1}
    with (
        own_temporary_directory(tmp_path_factory),
        stage(max_connections=40, via="pgpool", pgpool=keys) as staged,
    ):
        staged.start("sessions", "fleet", size=4)
        staged.start("sessions", "late", wait=False, size=3)

        verdict = inspect(staged.conninfo_of("watcher"), "--pgpool", staged.sandbox.conninfo)

    assert "pooler-client-limit" in verdict.codes, verdict.summaries
    verdict.says_nothing_of(*LEAKS, "pool-undersized", "slow-database", "healthy")


def test_the_backends_of_a_leak_are_those_that_relief_would_end(at: Stage) -> None:
    # The rest of the pool goes on. Without it nothing shows for how long these are usually held, and the verdict, which
    # then rests on ages and on how fast the pool was filled, may be undetermined: that ends nothing.
    at.start("leak", "checkout", size=20, until=6, most=6, every=3, think=0.05)
    at.start("sessions", "worker", size=2, statement="LISTEN jobs")

    verdict = at.inspect("--relief")

    planned = {step["pid"] for step in verdict.document["relief"]["steps"]}
    assert planned, verdict.summaries
    assert planned <= pids_of(verdict.finding("leak-in-transaction")["holders"])
