"""The real libraries behind the seam, on a real server: their own words, orders, closings, leaks and faults."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from live_runs import scenario_of
from psycopg.conninfo import make_conninfo
from sandboxes import eventually

from poolctl.engines.connections import StatementFailed
from poolctl.engines.libraries import open_library
from poolctl.engines.library import Library, NotAcquired, SlotLost
from poolctl.engines.servers import ThrowAwayServers
from poolctl.engines.watch import Request, Watch
from poolctl.engines.workload import Job
from poolctl.errors import MissingProgram
from poolctl.pool import PoolStats
from poolctl.run import ErrorKind

pytestmark = pytest.mark.server

ALL = ("psycopg_pool", "psycopg2", "sqlalchemy", "none")
SIZES: dict[str, dict[str, Any]] = {
    "psycopg_pool": {"max_open": 3, "min_idle": 3},
    "psycopg2": {"max_open": 3, "max_idle": 3},
    "sqlalchemy": {"max_open": 3, "max_idle": 3},
    "none": {},
}
ONE: dict[str, dict[str, Any]] = {
    "psycopg_pool": {"max_open": 1, "min_idle": 1},
    "psycopg2": {"max_open": 1, "max_idle": 1},
    "sqlalchemy": {"max_open": 1, "max_idle": 1},
    "none": {},
}


class Bench:
    """One library on the throw-away server, and the server's own view of it."""

    def __init__(self, conninfo: str, admin: psycopg.Connection[Any], kind: str, settings: dict[str, Any]) -> None:
        self.name = f"bench {uuid4().hex[:12]}"
        self._admin = admin
        scenario = scenario_of(pool={"kind": kind} | settings, load={"query": "select1"})
        job = Job(scenario, make_conninfo(conninfo, application_name=self.name))
        self.watch = Watch(scenario.pool.max_open)
        self.library: Library = open_library(job, self.watch)
        self.library.start()
        eventually(lambda: self.stats().opening == 0)

    def take(self, request: Request | None = None) -> Any:
        request = request or Request()
        connection = self.library.acquire(request)
        with self.watch.lock:
            self.watch.acquired(request, 0.0)
        return connection

    def give(self, connection: Any, *, is_broken: bool = False) -> None:
        self.library.release(connection, is_broken=is_broken)
        with self.watch.lock:
            self.watch.released(0.0)

    def work(self, connection: Any) -> None:
        self.library.run(connection, 0.0)

    def pid(self, connection: Any) -> int:
        raw = getattr(connection, "dbapi_connection", connection)
        pid: int = raw.info.backend_pid
        return pid

    def stats(self) -> PoolStats:
        with self.watch.lock:
            return self.library.stats(0.0)

    def server(self) -> list[tuple[Any, ...]]:
        """(state, wait event, last query, start of the transaction) of each backend."""
        query = "SELECT state, wait_event, query, xact_start FROM pg_stat_activity WHERE application_name = %s"
        return self._admin.execute(query, [self.name]).fetchall()

    def states(self) -> list[str]:
        return [state for state, _, _, _ in self.server()]

    def count(self) -> int:
        return len(self.server())

    def kill_backends(self) -> None:
        """And wait until they are gone, so that the next one to use them meets a dead one."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        eventually(lambda: self._admin.execute(query, [self.name]).fetchall() == [])


@pytest.fixture
def admin(servers: ThrowAwayServers) -> Iterator[psycopg.Connection[Any]]:
    servers.serve(scenario_of())
    assert servers.sandbox is not None
    with psycopg.connect(servers.sandbox.admin_conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def bench(servers: ThrowAwayServers, admin: psycopg.Connection[Any]) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(kind: str, **settings: Any) -> Bench:
        made = Bench(servers.serve(scenario_of()).conninfo, admin, kind, SIZES[kind] | settings)
        benches.append(made)
        return made

    yield make
    for made in benches:
        made.library.close()
        made.kill_backends()


@contextmanager
def limit_of_role(admin: psycopg.Connection[Any], limit: int) -> Iterator[None]:
    admin.execute(f"ALTER ROLE app CONNECTION LIMIT {limit}".encode())
    try:
        yield
    finally:
        admin.execute("ALTER ROLE app CONNECTION LIMIT -1")


@pytest.mark.parametrize("kind", ALL)
def test_what_is_acquired_works_and_comes_back(bench: Callable[..., Bench], kind: str) -> None:
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


def test_psycopg2_rejects_at_once_when_the_pool_is_full(bench: Callable[..., Bench]) -> None:
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
def test_a_queue_gives_up_in_the_librarys_own_words(
    bench: Callable[..., Bench], kind: str, name: str, message: str
) -> None:
    it = bench(kind, acquire_timeout="200ms", **({"max_idle": 2} if kind == "sqlalchemy" else {}))
    held = [it.take() for _ in range(3)]
    request, began_at = Request(), time.monotonic()

    with pytest.raises(NotAcquired) as failure:
        it.take(request)
    assert 0.19 < time.monotonic() - began_at < 1.0
    assert failure.value.kind == ErrorKind("pool", name, None, message)
    assert failure.value.timed_out
    assert not failure.value.at_once
    assert it.stats().waiting == 1, "it waits until its failure is booked"
    with it.watch.lock:
        it.watch.missed(request, 0.0, for_lack=failure.value.for_lack)
    assert it.stats().waiting == 0
    for connection in held:
        it.give(connection)


@pytest.mark.parametrize("kind", ["psycopg_pool", "sqlalchemy"])
def test_off_waits_until_a_connection_comes_back(bench: Callable[..., Bench], kind: str) -> None:
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


def test_psycopg_pool_serves_who_waits_in_the_order_of_arrival(bench: Callable[..., Bench]) -> None:
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
    bench: Callable[..., Bench], kind: str, newest_first: bool
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
def test_what_comes_back_over_the_idle_count_is_closed(bench: Callable[..., Bench], kind: str) -> None:
    it = bench(kind, max_idle=1)
    for _ in range(4):
        for connection in [it.take() for _ in range(3)]:
            it.give(connection)

    stats = it.stats()
    assert stats.closed.max_idle == stats.closed.total == 8
    assert stats.opened == 9
    assert stats.open == stats.idle == 1
    eventually(lambda: it.count() == 1)


def test_without_a_pool_each_request_opens_and_closes(bench: Callable[..., Bench]) -> None:
    it = bench("none")
    pids = set()
    for _ in range(3):
        connection = it.take()
        pids.add(it.pid(connection))
        it.give(connection)

    assert len(pids) == it.stats().opened == it.stats().closed.max_idle == 3
    assert it.stats().open == 0


def test_psycopg_pool_replaces_what_is_too_old_when_it_comes_back(bench: Callable[..., Bench]) -> None:
    it = bench("psycopg_pool", max_open=1, min_idle=1, max_lifetime="1ms")
    connection = it.take()
    it.give(connection)
    del connection

    eventually(lambda: it.stats().closed.max_lifetime == 1 and it.stats().idle == 1)
    assert it.stats().opened == 2


def test_sqlalchemy_replaces_what_is_too_old_when_it_is_acquired(bench: Callable[..., Bench]) -> None:
    it = bench("sqlalchemy", max_lifetime="300ms")
    it.give(it.take())
    assert (it.stats().opened, it.stats().closed.total) == (1, 0)

    def retaken() -> bool:
        it.give(it.take())
        return it.stats().opened == 2

    eventually(retaken)
    assert it.stats().closed.max_lifetime == it.stats().closed.total == 1


def test_psycopg_pool_shrinks_to_its_floor_by_one_connection_each_idle_time(bench: Callable[..., Bench]) -> None:
    it = bench("psycopg_pool", min_idle=1, max_idle_time="100ms")
    held = [it.take() for _ in range(3)]
    for connection in held:
        it.give(connection)
    del connection
    held.clear()

    eventually(lambda: it.stats().open == 1)
    assert it.stats().closed.max_idle_time == it.stats().closed.total == 2


@pytest.mark.parametrize("kind", ["psycopg_pool", "psycopg2", "sqlalchemy"])
def test_the_gauges_are_those_of_the_library(bench: Callable[..., Bench], kind: str) -> None:
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


IDLE, IN_TRANSACTION, UNREAD = ("idle", "ClientRead"), ("idle in transaction", "ClientRead"), ("active", "ClientWrite")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("shape", "seen"), [("forgotten", IDLE), ("in-transaction", IN_TRANSACTION), ("unread-rows", UNREAD)]
)
def test_a_leak_shows_on_the_server_as_what_it_is(
    bench: Callable[..., Bench], kind: str, shape: str, seen: tuple[str, str]
) -> None:
    it = bench(kind, **ONE[kind])
    connection = it.take()
    if shape == "in-transaction":
        it.library.begin(connection)
    it.work(connection)
    it.library.leak(connection, shape)

    eventually(lambda: [row[:2] for row in it.server()] == [seen])
    if shape != "unread-rows":
        assert it.server()[0][2] == "SELECT 1"
    assert it.stats().in_use == it.stats().open == 1


@pytest.mark.parametrize("kind", ALL)
def test_a_long_hold_is_in_a_transaction_that_is_never_the_same(bench: Callable[..., Bench], kind: str) -> None:
    it = bench(kind, **ONE[kind])
    it.library.leak(it.take(), "long-hold")

    starts: set[Any] = set()

    def seen_anew() -> bool:
        [(state, _, _, began)] = it.server()
        if state == "idle in transaction":
            starts.add(began)
        return len(starts) >= 2

    eventually(seen_anew)
    assert it.stats().in_use == 1


def drop(it: Bench) -> None:
    connection = it.take()
    it.work(connection)
    it.library.leak(connection, "dropped-reference")


def test_a_reference_dropped_from_psycopg_pool_closes_the_session_and_loses_the_slot(
    bench: Callable[..., Bench],
) -> None:
    it = bench("psycopg_pool", max_open=1, min_idle=1, acquire_timeout="100ms")
    drop(it)

    eventually(lambda: it.states() == [])
    stats = it.stats()
    assert (stats.open, stats.in_use, stats.idle, stats.closed.leak_reclaimed) == (1, 1, 0, 1)
    with pytest.raises(NotAcquired, match="couldn't get a connection"):
        it.take()


def test_a_reference_dropped_from_psycopg2_is_kept_by_its_pool(bench: Callable[..., Bench]) -> None:
    it = bench("psycopg2", max_open=1, max_idle=1)
    drop(it)

    assert it.states() == ["idle"]
    assert (it.stats().in_use, it.stats().closed.total) == (1, 0)
    with pytest.raises(NotAcquired, match="connection pool exhausted"):
        it.take()


def test_a_reference_dropped_from_sqlalchemy_comes_back_by_itself(bench: Callable[..., Bench]) -> None:
    it = bench("sqlalchemy", max_open=1, max_idle=1)
    drop(it)

    assert it.states() == ["idle"]
    assert (it.stats().in_use, it.stats().idle, it.stats().closed.total) == (0, 1, 0)
    it.give(it.take())
    assert (it.stats().in_use, it.stats().idle) == (0, 1)


def test_a_reference_dropped_over_sqlalchemys_pool_size_is_closed(bench: Callable[..., Bench]) -> None:
    it = bench("sqlalchemy", max_open=2, max_idle=1)
    kept = it.take()
    drop(it)
    it.give(kept)

    stats = it.stats()
    assert (stats.open, stats.in_use, stats.closed.max_idle, stats.closed.leak_reclaimed) == (1, 0, 1, 0)
    held = it.take()
    lost = it.take()
    it.give(held)
    it.library.leak(lost, "dropped-reference")
    del lost
    assert it.stats().closed.leak_reclaimed == 1
    eventually(lambda: it.states() == ["idle"])


def test_a_reference_dropped_without_a_pool_just_ends_the_session(bench: Callable[..., Bench]) -> None:
    it = bench("none")
    drop(it)

    eventually(lambda: it.states() == [])
    assert (it.stats().open, it.stats().in_use, it.stats().closed.leak_reclaimed) == (0, 0, 1)


@pytest.mark.parametrize("kind", ALL)
def test_a_backend_that_died_costs_one_error_and_is_replaced(bench: Callable[..., Bench], kind: str) -> None:
    it = bench(kind, **ONE[kind])
    connection = it.take()
    it.kill_backends()

    with pytest.raises(StatementFailed) as failure:
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


def test_the_slot_of_a_backend_that_died_in_a_transaction_is_lost_to_psycopg2(bench: Callable[..., Bench]) -> None:
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
def test_the_servers_refusal_reaches_who_opens(
    bench: Callable[..., Bench], admin: psycopg.Connection[Any], kind: str
) -> None:
    it = bench(kind, **({"max_idle": 1} if kind == "psycopg2" else {}))
    held = it.take()

    with limit_of_role(admin, 1), pytest.raises(NotAcquired) as failure:
        it.take()
    assert failure.value.kind.origin == "server"
    assert failure.value.kind.sqlstate == "53300"
    assert failure.value.kind.message == 'too many connections for role "app"'
    assert failure.value.for_lack
    assert not failure.value.timed_out
    assert it.stats().open_failures == 1
    it.give(held)


def test_psycopg_pool_hides_the_servers_refusal_behind_its_own_timeout(
    bench: Callable[..., Bench], admin: psycopg.Connection[Any]
) -> None:
    it = bench("psycopg_pool", max_open=2, min_idle=1, acquire_timeout="200ms")
    hidden: list[ErrorKind] = []
    it.watch.on_error = lambda kind, _: hidden.append(kind)
    held = it.take()

    with limit_of_role(admin, 1), pytest.raises(NotAcquired) as failure:
        it.take()
    assert failure.value.kind.name == "PoolTimeout"
    assert [(kind.sqlstate, kind.message) for kind in hidden] == [("53300", 'too many connections for role "app"')]
    stats = it.stats()
    assert (stats.open, stats.in_use, stats.opening, stats.open_failures) == (2, 1, 1, 1), "it means to try again"
    it.give(held)


def test_psycopg2s_pool_needs_all_of_minconn_to_come_to_life(
    bench: Callable[..., Bench], admin: psycopg.Connection[Any]
) -> None:
    with limit_of_role(admin, 2):
        it = bench("psycopg2")
        with pytest.raises(NotAcquired) as failure:
            it.take()
        assert failure.value.kind.sqlstate == "53300"
    del failure
    stats = it.stats()
    assert stats.open_failures == 2
    assert stats.opened == stats.closed.other >= 2
    assert stats.open == 0

    it.give(it.take())
    assert it.stats().open == it.stats().idle == 3


def test_the_patience_without_a_pool_is_that_of_opening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        conninfo = f"host=127.0.0.1 port={deaf.getsockname()[1]} user=app dbname=app sslmode=disable gssencmode=disable"
        scenario = scenario_of(pool={"kind": "none", "acquire_timeout": "1s"})
        library, began_at = open_library(Job(scenario, conninfo), Watch()), time.monotonic()

        with pytest.raises(NotAcquired) as failure:
            library.acquire(Request())
    assert failure.value.timed_out
    assert failure.value.kind.message == "connection timeout expired"
    assert 1.9 < time.monotonic() - began_at < 4.0, "libpq takes two seconds for less"


@pytest.mark.parametrize("kind", ["psycopg_pool", "psycopg2", "sqlalchemy"])
def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, kind, None)

    with pytest.raises(MissingProgram) as failure:
        open_library(Job(scenario_of(pool={"kind": kind} | SIZES[kind]), "dbname=none"), Watch())
    assert kind in failure.value.message
    assert failure.value.hint == 'pip install "poolctl[pools]"'


def test_a_statement_is_prepared_only_where_that_lasts(servers: ThrowAwayServers) -> None:
    conninfo = servers.serve(scenario_of()).conninfo
    for prepared in (True, False):
        scenario = scenario_of(pool={"kind": "none"}, load={"query": "sleep"})
        library = open_library(Job(scenario, conninfo, prepared=prepared), Watch())
        connection = library.acquire(Request())
        library.run(connection, 0.01)

        names = [name for (name,) in connection.execute("SELECT name FROM pg_prepared_statements").fetchall()]
        assert names == (["poolctl"] if prepared else [])
        library.release(connection)


def test_a_wrong_statement_fails_with_the_servers_words_and_breaks_nothing(servers: ThrowAwayServers) -> None:
    conninfo = servers.serve(scenario_of()).conninfo
    for kind in ALL:
        scenario = scenario_of(pool={"kind": kind} | SIZES[kind], load={"query": "SELECT nonsense"})
        library = open_library(Job(scenario, conninfo), Watch())
        library.start()
        connection = library.acquire(Request())

        with pytest.raises(StatementFailed) as failure:
            library.run(connection, 0.0)
        assert failure.value.kind == ErrorKind("server", "UndefinedColumn", "42703", 'column "nonsense" does not exist')
        assert not failure.value.is_broken
        library.release(connection)
        library.close()
