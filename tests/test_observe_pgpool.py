"""What Pgpool-II answers to SHOW, version by version as tables, and of a real one in every state that matters."""

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandboxes import connect, eventually, one, own_temporary_directory
from test_poolers import skip_without

from poolctl.engines.sandbox import Sandbox
from poolctl.observe.admin_console import Row
from poolctl.observe.host import Host
from poolctl.observe.pgpool import (
    Pgpool,
    count_waiting,
    find_own_child,
    learn_offsets,
    parse_children,
    parse_connections,
    parse_limits,
    parse_version,
)
from poolctl.observe.postgres import Postgres
from poolctl.observe.sampler import Sampler
from poolctl.observe.snapshot import PgpoolChild, PgpoolConnection, PgpoolSample

NOON = 1_700_000_000.0
NOON_IN_DELHI = "2023-11-15 03:43:20"
OFFSETS = {"": 19800.0}


def rows(names: str, *values: str) -> list[Row]:
    """Rows of a table: a column's value each word, "-" for NULL and "~" for a space in it."""
    columns = names.split()
    return [
        Row(
            (name, None if value == "-" else value.replace("~", " "))
            for name, value in zip(columns, line.split(), strict=True)
        )
        for line in values
    ]


def test_processes_of_4_2_have_neither_status_nor_the_new_name_of_the_time() -> None:
    table = rows(
        "pool_pid start_time database username create_time pool_counter",
        "11 2023-11-15~03:43:20 shop app 2023-11-15~03:43:25 3",
        "12 2023-11-15~03:43:20 - - - -",
    )

    assert parse_children(table, OFFSETS) == (
        PgpoolChild(11, "shop", "app", None, NOON, NOON + 5),
        PgpoolChild(12, "", "", None, NOON, None),
    )


def test_processes_of_4_3_and_later_tell_what_they_do() -> None:
    table = rows(
        "pool_pid start_time client_connection_count database username backend_connection_time pool_counter status",
        "11 2023-11-15~03:43:20~(4:59~before~process~restarting) 9 shop app 2023-11-15~03:43:25 3 Idle~in~transaction",
        "12 2023-11-15~03:43:20 0 - - - - Wait~for~connection",
    )

    assert parse_children(table, OFFSETS, own=12) == (
        PgpoolChild(11, "shop", "app", "Idle in transaction", NOON, NOON + 5),
        PgpoolChild(12, "", "", "Wait for connection", NOON, None, is_own=True),
    )


POOLS = (
    "pool_pid start_time client_connection_count pool_id backend_id database username backend_connection_time "
    "client_connection_time client_disconnection_time client_idle_duration majorversion minorversion pool_counter "
    "pool_backendpid pool_connected status"
)
BUSY = "11 2023-11-15~03:43:20 0 0 0 shop app 2023-11-15~03:43:20 2023-11-15~03:43:20 - 0 3 0 1 4711 1 Idle"
EMPTY = "11 2023-11-15~03:43:20 0 1 0 - - - - - 0 0 0 0 0 0 Idle"
OWN = "12 2023-11-15~03:43:20 0 0 0 shop app 2023-11-15~03:43:20 2023-11-15~03:43:20 - 0 3 0 1 4712 1 Execute~command"


@pytest.mark.parametrize(
    ("names", "more", "client", "port", "statement"),
    [
        (POOLS, "", None, None, None),
        (POOLS.replace("status", "load_balance_node status"), "", None, None, None),
        (
            POOLS + " client_host client_port statement",
            " 10.0.0.7 40222 SELECT~'4711'",
            "10.0.0.7",
            40222,
            "SELECT '...'",
        ),
    ],
)
def test_pools_of_every_version_give_the_cached_connections_but_poolctl_s_own(
    names: str, more: str, client: str | None, port: int | None, statement: str | None
) -> None:
    lines = [line.replace(" Idle", " 1 Idle") if "load_balance" in names else line for line in (BUSY, EMPTY)]
    table = rows(names, *(line + more for line in lines))
    table += rows(POOLS, OWN)

    assert parse_connections(table, own_pid=4712) == (
        PgpoolConnection(
            11, 4711, "shop", "app", is_connected=True, client=client, client_port=port, statement=statement
        ),
    )
    assert find_own_child(table, 4712) == 12


def test_pools_of_4_2_give_the_cached_connections_too() -> None:
    table = rows(
        "pool_pid start_time pool_id backend_id database username create_time majorversion minorversion pool_counter "
        "pool_backendpid pool_connected",
        "11 2023-11-15~03:43:20 0 0 shop app 2023-11-15~03:43:20 3 0 1 4711 0",
        "11 2023-11-15~03:43:20 1 0 - - - 0 0 0 0 0",
    )

    assert parse_connections(table) == (PgpoolConnection(11, 4711, "shop", "app", is_connected=False),)
    assert learn_offsets(table, 4711, NOON)[""] == 19800.0


def test_the_zone_comes_from_poolctl_s_own_connection() -> None:
    assert learn_offsets(rows(POOLS, BUSY, OWN), 4712, NOON)[""] == 19800.0


def test_of_the_status_only_the_sizes_are_kept() -> None:
    table = rows(
        "item value description",
        "num_init_children 32 -",
        "sr_check_password hunter2 -",
        "max_pool 4 -",
        "reserved_connections 1 -",
    )

    assert parse_limits(table) == {"num_init_children": 32, "max_pool": 4, "reserved_connections": 1}
    assert parse_version(rows("pool_version", "4.3.5~(tamahomeboshi)")) == "4.3.5"
    assert parse_version([]) == ""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([*POOLS.split(), "item", "value", "create_time", "pool_version"]),
            st.none() | st.text() | st.integers() | st.floats() | st.booleans(),
        ).map(Row)
    )
)
def test_a_pgpool_that_answers_nonsense_is_read_all_the_same(table: list[Row]) -> None:
    offsets = learn_offsets(table, 4711, NOON)

    assert len(parse_children(table, offsets, own=find_own_child(table, 4711))) == len(table)
    assert len(parse_connections(table)) <= len(table)
    assert parse_limits(table).keys() <= {"num_init_children", "max_pool", "reserved_connections"}
    parse_version(table)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    skip_without("pgpool")
    keys = {"num_init_children": 3, "max_pool": 2}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgpool", pgpool=keys) as running,
    ):
        yield running


@pytest.fixture
def console(pooled: Sandbox) -> Iterator[Pgpool]:
    with closing(Pgpool(pooled.conninfo)) as pooler:
        eventually(lambda: pooler.sample() is not None and busy(seen(pooler)) == [])
        yield pooler


def seen(pgpool: Pgpool) -> PgpoolSample:
    sample = pgpool.sample()
    assert sample is not None, pgpool.source
    return sample


def busy(sample: PgpoolSample) -> list[PgpoolChild]:
    return [child for child in sample.children if child.status != "Wait for connection" and not child.is_own]


@contextlib.contextmanager
def all_children_busy(pooled: Sandbox, already: int = 0) -> Iterator[None]:
    with ExitStack() as held:
        for _ in range(3 - already):
            held.enter_context(closing(connect(pooled.conninfo)))
        yield


@pytest.mark.server
def test_the_children_of_a_real_pgpool_and_their_backends_are_seen(pooled: Sandbox, console: Pgpool) -> None:
    with closing(psycopg.connect(pooled.conninfo, application_name="shop")) as client:
        pid = one(client, "SELECT pg_backend_pid()")
        eventually(lambda: [child.status for child in busy(seen(console))] == ["Idle in transaction"])
        sample = seen(console)

    assert (sample.num_init_children, sample.max_pool, sample.reserved_connections) == (3, 2, 0)
    assert sample.version.startswith("4.")
    assert not sample.hangs
    assert len(sample.children) == 3
    (used,) = (cached for cached in sample.connections if cached.is_connected)
    assert (used.backend_pid, used.child_pid) == (pid, busy(sample)[0].pid)
    assert console.backend_pid not in [cached.backend_pid for cached in sample.connections]
    assert console.source == replace(console.source, kind="pgpool", ok=True, reason="")
    for child in sample.children:
        assert child.started_at is not None
        assert abs(child.started_at - time.time()) < 120


@pytest.mark.server
def test_with_every_child_busy_a_look_ends_in_time_and_says_that_it_hangs(pooled: Sandbox) -> None:
    with closing(Pgpool(pooled.conninfo)) as latecomer, all_children_busy(pooled):
        began = time.monotonic()
        first, took = latecomer.sample(), time.monotonic() - began
        source = latecomer.source
        began = time.monotonic()
        again, took_again = latecomer.sample(), time.monotonic() - began

    assert first == again == PgpoolSample(source.target, waiting=0, hangs=True)
    assert 1.0 < took < 5.0
    assert took_again < took
    assert not source.ok
    assert source.reason == "it accepted the connection and then did not answer: every child is busy, or it is stuck"


@pytest.mark.server
def test_one_that_was_there_before_sees_all_children_busy(pooled: Sandbox, console: Pgpool) -> None:
    seen(console)
    with all_children_busy(pooled, already=1):
        sample = seen(console)

    assert len(busy(sample)) == 2
    assert [child.is_own for child in sample.children].count(True) == 1


@pytest.mark.server
def test_after_a_hang_it_is_seen_again_with_all_it_is_made_of(pooled: Sandbox) -> None:
    with closing(Pgpool(pooled.conninfo)) as pooler:
        with all_children_busy(pooled):
            assert seen(pooler).hangs
        eventually(lambda: not seen(pooler).hangs)

        assert seen(pooler).num_init_children == 3
        assert pooler.source.ok


@pytest.mark.server
def test_those_who_wait_are_counted_by_the_host_and_those_who_gave_up_are_not(pooled: Sandbox) -> None:
    with closing(Pgpool(pooled.conninfo)) as latecomer, ExitStack() as held:
        port = latecomer.port
        assert port is not None
        host = Host("127.0.0.1", pooler_ports=[port])

        def waiting() -> int | None:
            sample = host.sample(None, None)
            assert sample is not None
            return sample.listen_queues.get(port)

        assert waiting() == 0
        held.enter_context(all_children_busy(pooled))
        for _ in range(4):
            held.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        assert latecomer.sample() == PgpoolSample(latecomer.source.target, waiting=4, hangs=True)
        waited = waiting()

    assert waited == 4


def test_the_queue_of_another_machine_is_not_taken_for_one_of_this() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as here:
        port = here.getsockname()[1]

        assert count_waiting("127.0.0.1", port) == 0
        assert count_waiting("192.0.2.7", port) is None
        assert count_waiting("db.example.com", port) is None
        assert count_waiting("localhost", None) is None


@pytest.mark.server
def test_looking_often_leaves_no_more_than_one_connection_to_postgresql(pooled: Sandbox, console: Pgpool) -> None:
    for _ in range(5):
        seen(console)
    with closing(connect(pooled.direct_conninfo)) as direct:
        mine = direct.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND application_name = 'poolctl'",
            [console.backend_pid],
        ).fetchone()

    assert mine == (1,)


@pytest.mark.server
def test_a_postgresql_is_no_pgpool(pooled: Sandbox) -> None:
    with closing(Pgpool(pooled.direct_conninfo)) as pooler:
        assert pooler.sample() is None

    assert pooler.source.reason.startswith("it is not a Pgpool-II: unrecognized configuration parameter")


@pytest.mark.server
def test_a_full_pgpool_that_refuses_is_quoted(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without("pgpool")
    keys = {"num_init_children": 2, "max_pool": 1, "reserved_connections": 1}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgpool", pgpool=keys) as running,
        closing(connect(running.conninfo)),
        closing(Pgpool(running.conninfo)) as pooler,
    ):
        assert pooler.sample() is None

    assert "Sorry, too many clients already" in pooler.source.reason


@pytest.mark.server
def test_poolctls_own_session_through_pgpool_counts_nowhere(pooled: Sandbox) -> None:
    """Its backend is a client of the server like any other, with poolctl's application_name."""
    with (
        closing(psycopg.connect(pooled.conninfo, application_name="shop")) as client,
        Sampler(
            Postgres(pooled.observer_conninfo), pgpools=[Pgpool(pooled.conninfo)], host=lambda: Host("127.0.0.1")
        ) as sampler,
    ):
        pid = one(client, "SELECT pg_backend_pid()")
        observation = sampler.observe(1.0)

    last = observation.last
    assert last.server is not None
    assert last.pgpools[0].own_backend is not None
    # By its pid: Pgpool-II keeps the backends of sessions that have ended, those of earlier tests' poolctl, too.
    assert last.pgpools[0].own_backend not in [backend.pid for backend in last.server.clients]
    assert pid in [backend.pid for backend in last.server.clients]
    assert last.host is not None
    assert last.pgpools[0].own_backend not in [title.pid for title in last.host.titles]
