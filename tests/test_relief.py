"""The relief plan: whom to end, in which order, and whom never."""

from dataclasses import replace
from typing import Any

import pytest
from observations import NOW, Row, busy, full_pool, observe, rows, server

from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.relief import ReliefPlan, plan_relief, write_ending_sql
from poolctl.observe.snapshot import ABORTED, IN_TRANSACTION, LockWait, Observation


def plan(*given: Row, **scene: Any) -> ReliefPlan:
    return planned(observe(*given, **scene))


def planned(observation: Observation) -> ReliefPlan:
    return plan_relief(observation, diagnose(observation))


def leaked(count: int, first: int = 100, **same: Any) -> list[Row]:
    """Each leaked a moment after its connection was opened, the oldest last."""
    same = {"application": "checkout", **same}
    return [Row(first + i, IN_TRANSACTION, age=5.0 + 2 * i, opened=6.0 + 2 * i, **same) for i in range(count)]


def test_the_oldest_of_a_leak_are_ended_first() -> None:
    found = plan(*leaked(3), *busy(5))

    assert [step.pid for step in found.steps] == [102, 101, 100]
    assert (found.frees, found.may_signal) == (3, True)
    assert found.steps[0].why == "leak-in-transaction: idle in transaction for 9 s"


def test_the_head_of_a_lock_queue_comes_before_everything_else() -> None:
    waiting = rows(4, 300, state="active", age=3.0, wait=("Lock", "transactionid"), blocked_by=(50,))
    root = Row(50, IN_TRANSACTION, age=4.0, application="migrator", strong=("stock",))

    found = plan(root, *waiting, *leaked(3), *busy(3))

    assert [(step.pid, step.frees) for step in found.steps] == [(50, 5), (102, 1), (101, 1), (100, 1)]


def test_the_statement_checks_the_process_id_its_start_and_the_reason() -> None:
    assert write_ending_sql(4711, NOW + 0.123456, "a.state = 'idle'") == (
        "select pg_terminate_backend(a.pid) from pg_stat_activity a where a.pid = 4711 "
        "and a.backend_start = '2027-01-15 08:00:00.123456+00:00'::timestamptz and a.state = 'idle';"
    )


def test_a_leaked_transaction_must_have_done_nothing_since_and_a_head_must_still_be_waited_for() -> None:
    waiting = rows(4, 300, state="active", age=3.0, wait=("Lock", "transactionid"), blocked_by=(50,))
    root = Row(50, IN_TRANSACTION, age=4.0, application="migrator", strong=("stock",))
    head, leak, *_ = plan(root, *waiting, *leaked(3), *busy(3)).steps

    assert "a.state = 'idle in transaction' and a.state_change = '" in leak.still
    assert "and a.xact_start = '" in leak.still
    assert "a.pid = any(pg_blocking_pids(w.pid))" in head.still
    assert "state_change" not in head.still
    assert head.still in head.sql


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row(900, age=9.0, query="LISTEN jobs", application="worker"), "listens"),
        (Row(900, age=9.0, advisory=1, application="leader"), "advisory lock"),
        (Row(900, "active", kind="walsender", application="standby"), "server's own"),
        (Row(900, "active", kind="autovacuum worker", application=""), "server's own"),
        (Row(900, age=9.0, application="pg_dump"), "tool"),
        (Row(900, IN_TRANSACTION, age=900.0, application="psql"), "tool"),
        (Row(900, age=9.0, user="watcher", application="my own"), "role that poolctl uses"),
        (Row(900, age=9.0, application="search"), "healthy pool"),
        (Row(900, "active", age=900.0, application="report"), "no finding"),
        (
            Row(900, "active", age=9.0, blocked_by=(100,), wait=("Lock", "tuple"), application="search"),
            "waits for a lock",
        ),
    ],
)
def test_what_no_finding_names_is_left_alone_and_the_reason_told(row: Row, reason: str) -> None:
    found = plan(row, *leaked(3))

    assert 900 not in [step.pid for step in found.steps]
    [spared] = [each for each in found.spared if 900 in each.pids]
    assert reason in spared.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"strong": ("orders",)}, "strong lock (orders)"), ({"user": "watcher"}, "role that poolctl uses")],
)
def test_members_of_a_leak_that_others_rely_on_are_spared(change: dict[str, object], reason: str) -> None:
    found = plan(*leaked(3), *leaked(2, 900, **change))

    assert {step.pid for step in found.steps} == {100, 101, 102}
    assert [each.pids for each in found.spared if reason in each.reason] == [(900, 901)]


def test_what_is_undetermined_ends_nothing_and_says_what_would_decide() -> None:
    found = plan(*rows(10, age=5.0, step=1.0), pools=full_pool(10))

    assert found.steps == ()
    [undecided] = found.undecided
    assert undecided.startswith("leak-or-long-hold: watch for longer")


def test_a_healthy_system_has_nothing_to_end_and_nothing_to_decide() -> None:
    found = plan(*busy(8), *rows(20, 100, age=400.0))

    assert (found.steps, found.undecided) == ((), ())


def test_a_slow_database_and_calls_elsewhere_are_not_relieved_by_ending_sessions() -> None:
    assert plan(*[Row(100 + i, IN_TRANSACTION, age=0.05 * i, turns=0.5, began=0.001) for i in range(8)]).steps == ()


def test_a_backend_whose_start_is_hidden_cannot_be_told_from_another() -> None:
    found = plan(*leaked(3), *busy(3, application="checkout"), hides=True)

    assert found.steps == ()
    assert any("start is not visible" in each.reason for each in found.spared)


def test_a_role_that_may_not_signal_is_told_so() -> None:
    assert plan(*leaked(3), facts=server(may_signal=False)).may_signal is False


def test_failed_transactions_are_ended_before_open_ones() -> None:
    found = plan(*leaked(2), *rows(2, 300, state=ABORTED, age=3.0, step=1.0, application="importer"))

    assert [step.code for step in found.steps] == ["aborted-transaction"] * 2 + ["leak-in-transaction"] * 2


def waits_for_table(pid: int, behind: int, mode: str, *, age: float, application: str) -> Row:
    wait = LockWait("relation", mode, "profiles", NOW - age)
    lock: dict[str, Any] = {"wait": ("Lock", "relation"), "blocked_by": (behind,), "waits_for": wait}
    return Row(pid, "active", age=age, application=application, query="ALTER TABLE profiles", **lock)


def queue_behind(root: Row, readers: int = 7) -> list[Row]:
    """An ALTER TABLE that waits for ``root``, and readers that wait behind it."""
    alter = waits_for_table(200, root.pid, "AccessExclusiveLock", age=8.0, application="migrate")
    reads = [waits_for_table(300 + i, 200, "AccessShareLock", age=6.0, application="api") for i in range(readers)]
    return [root, alter, *reads]


WORKING = {
    "a backup": Row(100, "active", age=90.0, application="pg_dump"),
    "a backup between two tables": Row(100, IN_TRANSACTION, age=0.2, transaction=90.0, application="pg_dump"),
    "a report": Row(100, "active", age=40.0, application="report"),
    "a batch between its statements": Row(
        100, IN_TRANSACTION, age=0.1, turns=0.4, transaction=300.0, application="batch"
    ),
    "vacuum of the server's own": Row(100, "active", age=90.0, kind="autovacuum worker", application=""),
    "replication": Row(100, "active", age=900.0, kind="walsender", application="standby"),
}


@pytest.mark.parametrize("name", WORKING)
def test_the_statement_that_waits_for_the_whole_table_is_canceled_and_work_goes_on(name: str) -> None:
    root = WORKING[name]

    found = plan(*queue_behind(root))

    [step] = found.steps
    assert (step.pid, step.action, step.application, step.frees) == (200, "cancel", "migrate", 8)
    assert step.sql.startswith("select pg_cancel_backend(a.pid)")
    assert "a.query_start = '" in step.still
    assert step.loses == "one try of a statement that only waits"
    assert 100 in [pid for spared in found.spared for pid in spared.pids]
    if root.kind == "client backend":
        assert step.alternative is not None
        assert (step.alternative.pid, step.alternative.frees) == (100, 9)
        assert step.alternative.loses
    else:
        assert step.alternative is None


def test_a_transaction_that_idles_at_the_head_is_ended_first_and_the_cancel_is_the_second_choice() -> None:
    [step] = plan(*queue_behind(Row(100, IN_TRANSACTION, age=30.0, application="shop"))).steps

    assert (step.pid, step.action, step.frees) == (100, "terminate", 9)
    assert step.alternative is not None
    assert (step.alternative.pid, step.alternative.action, step.alternative.frees) == (200, "cancel", 8)


def test_a_waiter_behind_several_open_transactions_is_canceled_as_to_end_one_of_them_frees_nothing() -> None:
    root, alter, *reads = queue_behind(Row(100, IN_TRANSACTION, age=20.0))
    others = [Row(pid, IN_TRANSACTION, age=18.0) for pid in (101, 102)]

    steps = plan(root, *others, replace(alter, blocked_by=(100, 101, 102)), *reads).steps

    assert [(step.pid, step.action) for step in steps if step.code == "lock-queue"] == [(200, "cancel")]


@pytest.mark.parametrize("root", [Row(100, "active", age=40.0), Row(100, IN_TRANSACTION, age=40.0)])
def test_no_work_is_ended_for_an_index_that_is_built_beside_it(root: Row) -> None:
    wait: dict[str, Any] = {"wait": ("Lock", "virtualxid"), "blocked_by": (100,)}
    wait["waits_for"] = LockWait("virtualxid", "ShareLock", None, NOW - 30.0)
    row_lock = LockWait("transactionid", "ShareLock", None, NOW - 5.0)
    build = Row(200, "active", age=30.0, application="migrate", query="CREATE INDEX CONCURRENTLY", **wait)

    writers = [
        Row(300 + i, "active", age=5.0, wait=("Lock", "transactionid"), blocked_by=(100,), waits_for=row_lock)
        for i in range(3)
    ]

    found = plan(root, build)

    assert [step.pid for step in plan(root, build, *writers).steps] == [100]
    assert found.steps == ()
    assert [spared.reason for spared in found.spared if 100 in spared.pids] == [
        "what waits for its transaction to end keeps no other client out"
    ]


def test_only_the_readers_that_the_waiting_statement_holds_up_are_counted() -> None:
    also_behind_the_root = waits_for_table(400, 100, "RowExclusiveLock", age=5.0, application="api")

    [step] = plan(*queue_behind(WORKING["a report"], 3), also_behind_the_root).steps

    assert step.frees == 4


def test_a_change_of_a_table_within_a_longer_transaction_says_that_this_is_undone_too() -> None:
    root, alter, *reads = queue_behind(WORKING["a backup"])

    [step] = plan(root, replace(alter, transaction=60.0), *reads).steps

    assert step.loses.endswith("and what its transaction did before")


def test_a_statement_at_work_at_the_head_is_canceled_before_its_session_is_ended() -> None:
    waiting = rows(4, 300, state="active", age=3.0, wait=("Lock", "transactionid"), blocked_by=(50,))

    [step] = plan(Row(50, "active", age=4.0, application="batch"), *waiting).steps

    assert (step.pid, step.action) == (50, "cancel")
    assert step.alternative is not None
    assert (step.alternative.pid, step.alternative.action) == (50, "terminate")
    assert "its session" in step.alternative.loses


def test_holds_that_end_by_themselves_are_spared_and_the_plan_says_why_it_is_empty() -> None:
    figures = full_pool(11, 3, use_time_total=604.0, use_count_total=19.0)

    found = plan(*rows(11, state=IN_TRANSACTION, age=3.0, step=6.0), pools=figures)

    assert found.steps == ()
    assert "end by themselves" in found.why_none
    assert any("held-across-io" in spared.reason and len(spared.pids) == 11 for spared in found.spared)


def test_relief_behind_a_leak_that_is_only_likely_says_what_it_ends_if_the_verdict_is_wrong() -> None:
    [first, *_] = plan(*leaked(3), *busy(5)).steps

    assert "if it is a long request after all, that request fails" in first.loses


def test_a_healthy_system_needs_no_excuse_for_an_empty_plan() -> None:
    assert plan(*busy(8)).why_none == ""
