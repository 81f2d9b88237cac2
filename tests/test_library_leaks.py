"""Leaks from the real libraries: what the server sees of each shape, and what the pool believes."""

from collections.abc import Iterator
from typing import Any

import pytest
from library_bench import ALL, ONE, Bench, MakeBench, benches
from sandboxes import eventually

from poolctl.engines.instance.pool_driver import NotAcquired
from poolctl.engines.instance.statements import ONE_ROW
from poolctl.engines.live.live_servers import ThrowAwayServers

pytestmark = pytest.mark.server


@pytest.fixture
def bench(servers: ThrowAwayServers) -> Iterator[MakeBench]:
    with benches(servers) as make:
        yield make


IDLE, IN_TRANSACTION, UNREAD = ("idle", "ClientRead"), ("idle in transaction", "ClientRead"), ("active", "ClientWrite")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("shape", "seen"), [("forgotten", IDLE), ("in-transaction", IN_TRANSACTION), ("unread-rows", UNREAD)]
)
def test_a_leak_shows_on_the_server_as_what_it_is(
    bench: MakeBench, kind: str, shape: str, seen: tuple[str, str]
) -> None:
    it = bench(kind, **ONE[kind])
    connection = it.take()
    if shape == "in-transaction":
        it.library.begin(connection)
    it.work(connection)
    it.library.leak(connection, shape)

    eventually(lambda: [row[:2] for row in it.server()] == [seen])
    if shape != "unread-rows":
        assert it.server()[0][2] == f"SELECT 1 {ONE_ROW}"
    assert it.stats().in_use == it.stats().open == 1


@pytest.mark.parametrize("kind", ALL)
def test_a_long_hold_is_in_a_transaction_that_is_never_the_same(bench: MakeBench, kind: str) -> None:
    it = bench(kind, **ONE[kind])
    it.library.leak(it.take(), "long-hold")

    starts: set[Any] = set()

    def is_another_transaction() -> bool:
        [(state, _, _, began)] = it.server()
        if state == "idle in transaction":
            starts.add(began)
        return len(starts) >= 2

    eventually(is_another_transaction)
    assert it.stats().in_use == 1


def drop(it: Bench) -> None:
    connection = it.take()
    it.work(connection)
    it.library.leak(connection, "dropped-reference")


def test_a_reference_dropped_from_psycopg_pool_closes_the_session_and_loses_the_slot(
    bench: MakeBench,
) -> None:
    it = bench("psycopg_pool", max_open=1, min_idle=1, acquire_timeout="100ms")
    drop(it)

    eventually(lambda: it.states() == [])
    stats = it.stats()
    assert (stats.open, stats.in_use, stats.idle, stats.closed.leak_reclaimed) == (1, 1, 0, 1)
    with pytest.raises(NotAcquired, match="couldn't get a connection"):
        it.take()


def test_a_reference_dropped_from_psycopg2_is_kept_by_its_pool(bench: MakeBench) -> None:
    it = bench("psycopg2", max_open=1, max_idle=1)
    drop(it)

    assert it.states() == ["idle"]
    assert (it.stats().in_use, it.stats().closed.total) == (1, 0)
    with pytest.raises(NotAcquired, match="connection pool exhausted"):
        it.take()


def test_a_reference_dropped_from_sqlalchemy_comes_back_by_itself(bench: MakeBench) -> None:
    it = bench("sqlalchemy", max_open=1, max_idle=1)
    drop(it)

    assert it.states() == ["idle"]
    assert (it.stats().in_use, it.stats().idle, it.stats().closed.total) == (0, 1, 0)
    it.give(it.take())
    assert (it.stats().in_use, it.stats().idle) == (0, 1)


def test_a_reference_dropped_over_sqlalchemys_pool_size_is_closed(bench: MakeBench) -> None:
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


def test_a_reference_dropped_without_a_pool_just_ends_the_session(bench: MakeBench) -> None:
    it = bench("none")
    drop(it)

    eventually(lambda: it.states() == [])
    assert (it.stats().open, it.stats().in_use, it.stats().closed.leak_reclaimed) == (0, 0, 1)
