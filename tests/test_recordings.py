"""Real systems as they were recorded, diagnosed again: what ``inspect`` said of them, it says for ever.

The recordings were made by the tests of test_incidents, of real client processes on real servers; how, and how they
are made anew, is in ``recordings/keep.py``.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from schema_check import problems
from staging import LEAKS
from test_report_inspection_json import SCHEMA

from poolctl.cli import poolctl

RECORDINGS = Path(__file__).parent / "recordings"

OPPOSITES = (LEAKS, {"pool-undersized"}, {"slow-database"}, {"lock-queue"}, {"pooler-client-limit"}, {"healthy"})
"""Verdicts whose remedies contradict each other: whoever gives one of them must not give another."""


class Seen(NamedTuple):
    """A recording, the worst that it shows, the first line, and the application that holds the connections.

    An empty one has no name.
    """

    name: str
    code: str
    holder: str | None
    line: str


SEEN = (
    Seen(
        "a_busy_pool_is_healthy",
        "healthy",
        None,
        "OK  Healthy: 13 of 77 usable connections open, 0 at work, no client is known to wait (likely)",
    ),
    Seen(
        "a_leak_is_seen_without_any_privilege",
        "leak-in-transaction",
        "checkout",
        "WARNING  20 of 20 backends of checkout are idle in transactions that are not ended, the oldest for "
        "at least 2.99 s (undetermined)",
    ),
    Seen(
        "a_message_that_its_client_never_ends_is_told_after_a_minute",
        "stuck-protocol",
        "gateway",
        "WARNING  3 backends of gateway are active and wait for a message that its client began and never ended, for "
        "up to 64.5 s",
    ),
    Seen(
        "a_new_connection_for_every_request_is_told",
        "connection-churn",
        "lambda",
        "WARNING  797 sessions opened in 4.96 s for 1,610 transactions: 161 a second, most of them gone again (likely)",
    ),
    Seen(
        "a_pgbouncer_without_room_for_clients_still_tells_from_its_console",
        "pooler-client-limit",
        "fleet",
        "CRITICAL  PgBouncer has 8 of 8 clients (max_client_conn) and refuses more; the database is not the limit",
    ),
    Seen(
        "a_pgpool_with_all_children_busy_does_not_hang_the_answer",
        "pooler-client-limit",
        None,
        "CRITICAL  Pgpool-II takes no more clients: all of its children are busy and 1 client hangs in its "
        "listen queue without an error (likely)",
    ),
    Seen(
        "a_pool_of_pgbouncer_that_is_too_small_is_the_poolers",
        "pool-undersized",
        "shop",
        "CRITICAL  PgBouncer's pool is too small for its clients: 6 of 6 server connections of app@app in use, 18 "
        "clients waiting for up to 13 ms, and all of them come back quickly",
    ),
    Seen(
        "a_pool_that_is_too_small_is_called_so_and_not_leaky",
        "pool-undersized",
        "shop",
        "CRITICAL  All 3 connections of shop are in use and come back quickly, and still 11 clients wait, "
        "the server uses 0.1 of 2 cores",
    ),
    Seen(
        "a_prepared_transaction_that_nobody_ends_is_the_head_of_the_queue",
        "lock-queue",
        None,
        "CRITICAL  7 backends wait for a lock (transactionid) behind a prepared transaction, the longest for 3.72 s",
    ),
    Seen(
        "a_queue_for_a_lock_names_the_session_at_its_head_begin_update_stock_set_amount_0_where_id_1",
        "lock-queue",
        "migrator",
        "CRITICAL  7 backends wait for a lock (transactionid) behind migrator (pid 8119), idle in "
        'transaction for 5.35 s, last "UPDATE stock SET amount = ? WHERE id = ?", the longest for 4.41 s',
    ),
    Seen(
        "a_role_at_its_own_limit_is_not_a_full_server",
        "role-limit",
        "billing",
        "WARNING  CONNECTION LIMIT of role billing: 6 of 6 used; the server has slots",
    ),
    Seen(
        "a_statement_that_outlived_its_client_is_told",
        "orphaned-backends",
        "batch",
        "WARNING  3 backends of batch still work for a client that is gone, for up to 4.28 s",
    ),
    Seen(
        "a_statement_without_an_index_is_a_slow_database",
        "slow-database",
        "shop",
        'WARNING  10.2 statements at work at once on 2 cores, typically 45.6 ms old; 100 % of it is "SELECT '
        'count(*) FROM orders WHERE customer_id = $1", which reads all 400,000 rows of orders each time, '
        "without an index on customer_id",
    ),
    Seen(
        "a_transaction_held_over_a_call_elsewhere_is_no_leak",
        "held-across-io",
        "payments",
        "CRITICAL  payments holds transactions open while it does something else: 100 % of the use is idle "
        "in transaction, typically for 461 ms, and they do end, 4 clients waiting",
    ),
    Seen(
        "acquires_that_time_out_beside_free_connections_are_the_clients_own",
        "client-starved",
        "shop",
        "CRITICAL  54 acquires of shop timed out with 2 connections free: the client itself has no time, or its pool "
        "is stuck (likely)",
    ),
    Seen(
        "four_samples_show_a_pool_that_is_held_over_calls",
        "held-across-io",
        "",
        "WARNING  user app (no application_name) holds transactions open while it does something else: 100 % of the "
        "use is idle in transaction, typically for 1.87 s, and they do end (likely)",
    ),
    Seen(
        "holds_of_php_workers_are_seen_without_any_privilege",
        "held-across-io",
        "",
        "WARNING  user app (no application_name) holds transactions open while it does something else: 87 % of the use "
        "is idle in transaction, typically for 888 ms, and they do end (likely)",
    ),
    Seen(
        "idle_connections_that_never_come_back_are_not_a_small_pool_with_figures_of_the_pool",
        "leak-or-long-hold",
        "checkout",
        "CRITICAL  8 connections of checkout stand still (8 of 8 in use) while 2 clients wait, the oldest "
        "for 4.26 s: leaked, or a long job that will come back (undetermined)",
    ),
    Seen(
        "one_long_report_is_healthy",
        "healthy",
        None,
        "OK  Healthy: 5 of 77 usable connections open, 1 at work, no client is known to wait (likely)",
    ),
    Seen(
        "slots_that_only_the_pool_believes_in_are_told",
        "pool-slots-lost",
        None,
        "CRITICAL  The pool of shop counts 4 connections in use, the server has no backend: 4 slots lost, "
        "5 clients waiting (likely)",
    ),
)


def replay(name: str, *options: str) -> str:
    answer = CliRunner().invoke(poolctl, ["inspect", "--replay", str(RECORDINGS / f"{name}.jsonl"), *options])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.name)
def test_a_recording_is_diagnosed_as_the_live_system_was(seen: Seen) -> None:
    document = json.loads(replay(seen.name, "--json"))

    worst, *rest = document["findings"]
    said = [{each["code"]} for each in rest if each["severity"] != "info" and each["confidence"] != "undetermined"]
    assert (worst["code"], [holder["application"] for holder in worst["holders"]][:1]) == (
        seen.code,
        [] if seen.holder is None else [seen.holder],
    )
    assert [codes for codes in said for verdict in OPPOSITES if codes & verdict and seen.code not in verdict] == []


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.name)
def test_the_first_line_of_a_recording_is_the_answer(seen: Seen) -> None:
    assert replay(seen.name, "--quiet").splitlines()[0] == seen.line


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.name)
def test_a_recording_gives_the_same_document_each_time_and_one_of_the_published_shape(seen: Seen) -> None:
    document = json.loads(replay(seen.name, "--json"))

    assert problems(document, SCHEMA, SCHEMA) == []
    assert json.loads(replay(seen.name, "--json")) == document


def test_every_recording_is_one_of_these() -> None:
    assert sorted(path.stem for path in RECORDINGS.glob("*.jsonl")) == sorted(seen.name for seen in SEEN)


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.name)
def test_a_recording_tells_nothing_of_the_machine_it_was_made_on(seen: Seen) -> None:
    text = (RECORDINGS / f"{seen.name}.jsonl").read_text(encoding="utf-8")

    assert re.findall(r"/(?:home|root|tmp|work|dev/shm|Users)/[^\s\"]*|password", text) == []
