"""The real libraries behind the seam, on a real server: their own words, orders, closings and faults."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from library_bench import ALL, ONE, SIZES, MakeBench, benches
from live_runs import scenario_of
from sandboxes import eventually

from poolctl.engines.instance.library_drivers import open_library, preload
from poolctl.engines.instance.monitored_connections import RequestFailed
from poolctl.engines.instance.pool_driver import NotAcquired, SlotLost
from poolctl.engines.instance.pool_monitor import LiveRequest, PoolMonitor
from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.engines.workload import Job
from poolctl.errors import MissingProgram
from poolctl.scenario.run import ErrorKind

pytestmark = pytest.mark.server


@pytest.fixture
def bench(servers: ThrowAwayServers) -> Iterator[MakeBench]:
    with benches(servers) as make:
        yield make


@pytest.fixture
def limit_role(servers: ThrowAwayServers) -> Iterator[Callable[[int], None]]:
    """Sets how many sessions the server lets the role have; -1 for any number."""
    servers.serve(scenario_of())
    assert servers.sandbox is not None
    with psycopg.connect(servers.sandbox.admin_conninfo, autocommit=True) as admin:

        def limit(sessions: int) -> None:
            admin.execute(f"ALTER ROLE app CONNECTION LIMIT {sessions}".encode())

        yield limit
        limit(-1)


@pytest.mark.parametrize("kind", ALL)
def test_what_is_acquired_works_and_comes_back(bench: MakeBench, kind: str) -> None:
    it = bench(kind)
    connection = it.take()
    it.work(connection)

    assert it.stats().in_use == 1
    it.give(connection)
    after = it.stats()
    assert after.in_use == 0
    assert after.open == after.idle == {"none": 0, "sqlalchemy": 1}.get(kind, 3)
    eventually(lambda: it.count() == after.open)
    assert after.opened - after.closed.total == after.open


def test_psycopg2_rejects_at_once_when_the_pool_is_full(bench: MakeBench) -> None:
    it = bench("psycopg2")
    held = [it.take() for _ in range(3)]

    with pytest.raises(NotAcquired) as failure:
        it.take()
    assert failure.value.kind == ErrorKind("pool", "PoolError", None, "connection pool exhausted")
    assert failure.value.timed_out
    assert failure.value.at_once
    for connection in held:
        it.give(connection)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("psycopg_pool", "PoolTimeout", "couldn't get a connection after 0.20 sec"),
        (
            "sqlalchemy",
            "TimeoutError",
            "QueuePool limit of size 2 overflow 1 reached, connection timed out, timeout 0.20",
        ),
    ],
)
def test_a_queue_gives_up_in_the_librarys_own_words(bench: MakeBench, kind: str, name: str, message: str) -> None:
    it = bench(kind, acquire_timeout="200ms", **({"max_idle": 2} if kind == "sqlalchemy" else {}))
    held = [it.take() for _ in range(3)]
    request, began_at = LiveRequest(), time.monotonic()

    with pytest.raises(NotAcquired) as failure:
        it.take(request)
    assert 0.19 < time.monotonic() - began_at < 1.0
    assert failure.value.kind == ErrorKind("pool", name, None, message)
    assert failure.value.timed_out
    assert not failure.value.at_once
    assert it.stats().waiting == 1, "it waits until its failure is booked"
    with it.monitor.lock:
        it.monitor.record_failed_acquire(request, 0.0, is_shortage=failure.value.is_shortage)
    assert it.stats().waiting == 0
    for connection in held:
        it.give(connection)


@pytest.mark.parametrize("kind", ["psycopg_pool", "sqlalchemy"])
def test_off_waits_until_a_connection_comes_back(bench: MakeBench, kind: str) -> None:
    it = bench(kind, acquire_timeout="off", max_lifetime="off")
    held = [it.take() for _ in range(3)]
    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.append(it.take()))
    waiter.start()

    eventually(lambda: it.stats().waiting == 1)
    it.give(held.pop())
    waiter.join(5.0)
    assert len(got) == 1
    for connection in held + got:
        it.give(connection)


def test_psycopg_pool_serves_who_waits_in_the_order_of_arrival(bench: MakeBench) -> None:
    it = bench("psycopg_pool", max_open=1, min_idle=1)
    held = it.take()
    served: list[int] = []

    def wait(number: int) -> None:
        connection = it.take()
        served.append(number)
        it.give(connection)

    waiters = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, waiter in enumerate(waiters):
        waiter.start()
        eventually(lambda number=number: it.stats().waiting == number + 1)  # type: ignore[misc]
    it.give(held)
    for waiter in waiters:
        waiter.join(5.0)
    assert served == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("kind", "newest_first"), [("psycopg_pool", False), ("psycopg2", True), ("sqlalchemy", False)])
def test_the_idle_connection_taken_next_is_the_one_that_the_library_prefers(
    bench: MakeBench, kind: str, newest_first: bool
) -> None:
    it = bench(kind)
    first, second, third = (it.take() for _ in range(3))
    expected = it.pid(third if newest_first else first)
    for connection in (first, second, third):
        it.give(connection)

    taken = it.take()
    assert it.pid(taken) == expected
    it.give(taken)


@pytest.mark.parametrize("kind", ["psycopg2", "sqlalchemy"])
def test_what_comes_back_over_the_idle_count_is_closed(bench: MakeBench, kind: str) -> None:
    it = bench(kind, max_idle=1)
    for _ in range(4):
        for connection in [it.take() for _ in range(3)]:
            it.give(connection)

    stats = it.stats()
    assert stats.closed.max_idle == stats.closed.total == 8
    assert stats.opened == 9
    assert stats.open == stats.idle == 1
    eventually(lambda: it.count() == 1)


def test_without_a_pool_each_request_opens_and_closes(bench: MakeBench) -> None:
    it = bench("none")
    pids = set()
    for _ in range(3):
        connection = it.take()
        pids.add(it.pid(connection))
        it.give(connection)

    assert len(pids) == it.stats().opened == it.stats().closed.max_idle == 3
    assert it.stats().open == 0


def test_psycopg_pool_replaces_what_is_too_old_when_it_comes_back(bench: MakeBench) -> None:
    it = bench("psycopg_pool", max_open=1, min_idle=1, max_lifetime="0s")
    connection = it.take()
    it.give(connection)
    del connection

    eventually(lambda: it.stats().closed.max_lifetime == 1 and it.stats().idle == 1)
    assert it.stats().opened == 2


def test_sqlalchemy_replaces_what_is_too_old_when_it_is_acquired(bench: MakeBench) -> None:
    it = bench("sqlalchemy", max_lifetime="300ms")
    it.give(it.take())
    assert (it.stats().opened, it.stats().closed.total) == (1, 0)

    def retaken() -> bool:
        it.give(it.take())
        return it.stats().opened == 2

    eventually(retaken)
    assert it.stats().closed.max_lifetime == it.stats().closed.total == 1


def test_psycopg_pool_shrinks_to_its_floor_by_one_connection_each_idle_time(bench: MakeBench) -> None:
    it = bench("psycopg_pool", min_idle=1, max_idle_time="100ms")
    held = [it.take() for _ in range(3)]
    for connection in held:
        it.give(connection)
    del connection
    held.clear()

    eventually(lambda: it.stats().open == 1)
    assert it.stats().closed.max_idle_time == it.stats().closed.total == 2


@pytest.mark.parametrize("kind", ["psycopg_pool", "psycopg2", "sqlalchemy"])
def test_the_gauges_are_those_of_the_library(bench: MakeBench, kind: str) -> None:
    it = bench(kind)
    held = [it.take() for _ in range(3)]
    it.give(held.pop())
    stats, pool = it.stats(), it.library._pool  # type: ignore[attr-defined]

    if kind == "psycopg_pool":
        seen = (pool.get_stats()["pool_size"], pool.get_stats()["pool_available"])
    elif kind == "psycopg2":
        seen = (len(pool._used) + len(pool._pool), len(pool._pool))
    else:
        seen = (pool.checkedout() + pool.checkedin(), pool.checkedin())
    assert (stats.open, stats.idle) == seen == (3, 1)
    assert stats.peak_open == stats.peak_in_use == 3
    for connection in held:
        it.give(connection)


@pytest.mark.parametrize("kind", ALL)
def test_a_backend_that_died_costs_one_error_and_is_replaced(bench: MakeBench, kind: str) -> None:
    it = bench(kind, **ONE[kind])
    connection = it.take()
    it.kill_backends()

    with pytest.raises(RequestFailed) as failure:
        it.work(connection)
    assert failure.value.is_broken
    last_words = ErrorKind("server", "AdminShutdown", "57P01", "terminating connection due to administrator command")
    # libpq's blocking calls keep the last thing it knows, which is its own.
    end = ErrorKind("server", "OperationalError", None, "server closed the connection unexpectedly")
    assert failure.value.kind == (end if kind == "psycopg2" else last_words)
    del failure
    it.give(connection, is_broken=True)
    del connection
    eventually(lambda: it.stats().closed.error == 1 and it.stats().opening == 0)
    assert it.stats().in_use == 0


def test_the_slot_of_a_backend_that_died_in_a_transaction_is_lost_to_psycopg2(bench: MakeBench) -> None:
    it = bench("psycopg2", max_open=1, max_idle=1)
    connection = it.take()
    it.library.begin(connection)
    it.work(connection)
    it.kill_backends()

    with pytest.raises(SlotLost, match="server closed the connection unexpectedly"):
        it.give(connection)
    assert it.stats().in_use == it.stats().open == 1
    with pytest.raises(NotAcquired, match="connection pool exhausted"):
        it.take()


@pytest.mark.parametrize("kind", ["psycopg2", "sqlalchemy", "none"])
def test_the_servers_refusal_reaches_who_opens(bench: MakeBench, limit_role: Callable[[int], None], kind: str) -> None:
    it = bench(kind, **({"max_idle": 1} if kind == "psycopg2" else {}))
    held = it.take()

    limit_role(1)
    with pytest.raises(NotAcquired) as failure:
        it.take()
    assert failure.value.kind.origin == "server"
    assert failure.value.kind.sqlstate == "53300"
    assert failure.value.kind.message == 'too many connections for role "app"'
    assert failure.value.is_shortage
    assert not failure.value.timed_out
    assert it.stats().open_failures == 1
    it.give(held)


def test_psycopg_pool_hides_the_servers_refusal_behind_its_own_timeout(
    bench: MakeBench, limit_role: Callable[[int], None]
) -> None:
    it = bench("psycopg_pool", max_open=2, min_idle=1, acquire_timeout="200ms")
    hidden: list[ErrorKind] = []
    it.monitor.on_error = lambda kind, _: hidden.append(kind)
    held = it.take()

    limit_role(1)
    with pytest.raises(NotAcquired) as failure:
        it.take()
    assert failure.value.kind.name == "PoolTimeout"
    assert [(kind.sqlstate, kind.message) for kind in hidden] == [("53300", 'too many connections for role "app"')]
    stats = it.stats()
    assert (stats.open, stats.in_use, stats.opening, stats.open_failures) == (2, 1, 1, 1), "it means to try again"
    it.give(held)


def test_psycopg2s_pool_needs_all_of_minconn_to_come_to_life(
    bench: MakeBench, limit_role: Callable[[int], None]
) -> None:
    limit_role(2)
    it = bench("psycopg2")
    with pytest.raises(NotAcquired) as failure:
        it.take()
    assert failure.value.kind.sqlstate == "53300"
    del failure
    stats = it.stats()
    assert stats.open_failures == 2
    assert stats.opened == stats.closed.other >= 2
    assert stats.open == 0

    limit_role(-1)
    it.give(it.take())
    assert it.stats().open == it.stats().idle == 3


def test_the_patience_without_a_pool_is_that_of_opening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        conninfo = f"host=127.0.0.1 port={deaf.getsockname()[1]} user=app dbname=app sslmode=disable gssencmode=disable"
        scenario = scenario_of(pool={"kind": "none", "acquire_timeout": "1s"})
        library, began_at = open_library(Job(scenario, conninfo), PoolMonitor()), time.monotonic()

        with pytest.raises(NotAcquired) as failure:
            library.acquire(LiveRequest())
    assert failure.value.timed_out
    assert failure.value.kind.message == "connection timeout expired"
    assert 1.9 < time.monotonic() - began_at < 4.0, "libpq takes two seconds for less"


@pytest.mark.parametrize("kind", ["psycopg_pool", "psycopg2", "sqlalchemy"])
def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, kind, None)

    with pytest.raises(MissingProgram) as failure:
        open_library(Job(scenario_of(pool={"kind": kind} | SIZES[kind]), "dbname=none"), PoolMonitor())
    assert kind in failure.value.message
    assert failure.value.hint == 'pip install "poolctl[pools]"'


def test_a_statement_is_prepared_only_where_that_lasts(servers: ThrowAwayServers) -> None:
    conninfo = servers.serve(scenario_of()).conninfo
    for prepared in (True, False):
        scenario = scenario_of(pool={"kind": "none"}, load={"query": "sleep"})
        library = open_library(Job(scenario, conninfo, prepared=prepared), PoolMonitor())
        connection = library.acquire(LiveRequest())
        library.run(connection, 0.01)

        names = [name for (name,) in connection.execute("SELECT name FROM pg_prepared_statements").fetchall()]
        assert names == (["poolctl"] if prepared else [])
        library.release(connection)


def test_a_wrong_statement_fails_with_the_servers_words_and_breaks_nothing(servers: ThrowAwayServers) -> None:
    conninfo = servers.serve(scenario_of()).conninfo
    for kind in ALL:
        scenario = scenario_of(pool={"kind": kind} | SIZES[kind], load={"query": "SELECT nonsense"})
        library = open_library(Job(scenario, conninfo), PoolMonitor())
        library.start()
        connection = library.acquire(LiveRequest())

        with pytest.raises(RequestFailed) as failure:
            library.run(connection, 0.0)
        assert failure.value.kind == ErrorKind("server", "UndefinedColumn", "42703", 'column "nonsense" does not exist')
        assert not failure.value.is_broken
        library.release(connection)
        library.close()


def test_loading_ahead_leaves_a_missing_library_to_be_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2.pool", None)

    preload("psycopg2")

    with pytest.raises(MissingProgram, match="psycopg2"):
        open_library(Job(scenario_of(pool={"kind": "psycopg2"} | SIZES["psycopg2"]), "dbname=none"), PoolMonitor())
