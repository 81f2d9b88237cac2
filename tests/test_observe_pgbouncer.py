"""What PgBouncer's console says, version by version as tables, and of a real one in every state that matters."""

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import psutil
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandboxes import connect, eventually, one, own_temporary_directory
from test_poolers import skip_without

from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput
from poolctl.observe import pgbouncer
from poolctl.observe.admin_console import Row, learn_offset, parse_instant
from poolctl.observe.pgbouncer import PgBouncer, find_own_client, read_sample
from poolctl.observe.snapshot import BouncerDatabase, BouncerLink, BouncerPool, BouncerSample, BouncerStats, BouncerUser

NOON = 1_700_000_000.0
"""2023-11-14 22:13:20 UTC."""

CLIENT = "type user database state addr port local_addr local_port connect_time request_time wait wait_us"
LINK = " close_needed ptr link remote_pid tls"
POOL_118 = (
    "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel "
    "sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode"
)
STATS = (
    "total_xact_count total_query_count total_received total_sent total_xact_time total_query_time total_wait_time "
    "avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time"
)
DATABASE = "name host port database force_user pool_size min_pool_size"
COLUMNS = {
    "1.16.1": {
        "POOLS": "database user cl_active cl_waiting cl_cancel_req sv_active sv_idle sv_used sv_tested sv_login "
        "maxwait maxwait_us pool_mode",
        "CLIENTS": CLIENT + LINK,
        "STATS": f"database {STATS}",
        "DATABASES": f"{DATABASE} reserve_pool pool_mode max_connections current_connections paused disabled",
    },
    "1.18.0": {
        "POOLS": POOL_118,
        "CLIENTS": CLIENT + LINK + " application_name",
        "STATS": f"database {STATS}",
        "DATABASES": f"{DATABASE} reserve_pool pool_mode max_connections current_connections paused disabled",
    },
    "1.21.0": {
        "POOLS": POOL_118,
        "CLIENTS": CLIENT + LINK + " application_name prepared_statements",
        "STATS": f"database {STATS}",
        "DATABASES": f"{DATABASE} reserve_pool pool_mode max_connections current_connections paused disabled",
    },
    "1.23.1": {
        "POOLS": POOL_118,
        "CLIENTS": CLIENT.replace("database state", "database replication state")
        + LINK
        + " application_name prepared_statements",
        "STATS": f"database total_server_assignment_count {STATS} avg_server_assignment_count",
        "DATABASES": f"{DATABASE} reserve_pool server_lifetime pool_mode max_connections current_connections paused "
        "disabled",
    },
    "1.24.0": {
        "POOLS": POOL_118 + " load_balance_hosts",
        "CLIENTS": CLIENT.replace("database state", "database replication state")
        + LINK
        + " application_name prepared_statements id",
        "STATS": f"database total_server_assignment_count {STATS} total_client_parse_count total_server_parse_count",
        "DATABASES": f"{DATABASE} reserve_pool_size server_lifetime pool_mode load_balance_hosts max_connections "
        "current_connections max_client_connections current_client_connections paused disabled",
    },
}
COLUMNS["1.25.0"] = COLUMNS["1.24.0"]

LINKED: dict[str, str | None] = {
    "type": "C", "user": "app", "database": "shop", "state": "active", "addr": "10.0.0.7", "port": "40222",
    "connect_time": "2023-11-14 22:13:20 UTC", "request_time": "2023-11-14 22:13:25 UTC", "wait": "0", "wait_us": "0",
    "ptr": "0x1", "link": "0x9", "remote_pid": "0", "application_name": "web", "replication": "none", "id": "7",
}  # fmt: skip
WAITING = LINKED | {"state": "waiting", "port": "40300", "ptr": "0x2", "link": "", "wait": "1", "wait_us": "500000"}
CONSOLE = LINKED | {"database": "pgbouncer", "user": "admin", "port": "40999", "ptr": "0x3", "link": None}
CONSOLE |= {"application_name": "poolctl"}
SERVER = LINKED | {"type": "S", "addr": "10.0.0.1", "port": "5432", "ptr": "0x9", "link": "0x1", "remote_pid": "4711"}
POOL: dict[str, str | None] = {
    "database": "shop", "user": "app", "cl_active": "1", "cl_waiting": "1", "sv_active": "1", "sv_idle": "2",
    "sv_used": "3", "sv_tested": "4", "sv_login": "5", "maxwait": "1", "maxwait_us": "500000", "pool_mode": "session",
}  # fmt: skip
VALUES: dict[str, list[dict[str, str | None]]] = {
    "POOLS": [POOL, POOL | {"database": "pgbouncer", "user": "pgbouncer"}],
    "CLIENTS": [LINKED, WAITING, CONSOLE],
    "SERVERS": [SERVER],
    "STATS": [
        {
            "database": "shop", "total_server_assignment_count": "999", "total_xact_count": "10",
            "total_query_count": "20", "total_xact_time": "3000000", "total_query_time": "2000000",
            "total_wait_time": "1500000",
        }
    ],
    "DATABASES": [
        {
            "name": "shop", "host": "10.0.0.1", "port": "5432", "database": "shop_db", "pool_size": "20",
            "reserve_pool": "3", "reserve_pool_size": "3", "max_connections": "50", "current_connections": "15",
            "paused": "1",
        },
        {"name": "pgbouncer", "port": "6432", "database": "pgbouncer", "pool_size": "2"},
    ],
}  # fmt: skip


def tables_of(version: str) -> dict[str, list[Row]]:
    """The SHOW tables as that version writes them: its columns, in its order, all values as text."""
    columns = COLUMNS[version] | {"SERVERS": COLUMNS[version]["CLIENTS"]}
    tables = {
        table: [Row((name, values.get(name)) for name in names.split()) for values in VALUES[table]]
        for table, names in columns.items()
    }
    tables["VERSION"] = [Row(version=f"PgBouncer {version}")]
    tables["LISTS"] = [Row(list="used_clients", items="3"), Row(list="free_clients", items="47")]
    tables["CONFIG"] = [Row(key="max_client_conn", value="100", default="100", changeable="yes")]
    return tables


EXPECTED = BouncerSample(
    target="here",
    version="1.18.0",
    pools=(BouncerPool("shop", "app", 1, 1, 1, 2, 3, 4, 5, 1.5, "session"),),
    clients=(
        BouncerLink(
            "client", "app", "shop", "active", "10.0.0.7", 40222, "0x1", "0x9", "web", NOON, NOON + 5, 0.0, None
        ),
        BouncerLink("client", "app", "shop", "waiting", "10.0.0.7", 40300, "0x2", "", "web", NOON, NOON + 5, 1.5, None),
    ),
    servers=(
        BouncerLink(
            "server", "app", "shop", "active", "10.0.0.1", 5432, "0x9", "0x1", "web", NOON, NOON + 5, 0.0, 4711
        ),
    ),
    databases=(BouncerDatabase("shop", "10.0.0.1", 5432, "shop_db", 20, 3, None, 50, 15, True),),
    stats=(BouncerStats("shop", 10, 20, 2.0, 3.0, 1.5),),
    config={"max_client_conn": "100"},
    lists={"used_clients": 2, "free_clients": 47},
)


@pytest.mark.parametrize("version", COLUMNS)
def test_every_version_is_read_by_the_names_of_its_columns(version: str) -> None:
    has_application = version != "1.16.1"
    expected = replace(
        EXPECTED,
        version=version,
        clients=tuple(replace(one, application="web" if has_application else "") for one in EXPECTED.clients),
        servers=tuple(replace(one, application="web" if has_application else "") for one in EXPECTED.servers),
    )

    assert read_sample(tables_of(version), target="here", own_port=40999, connected_at=NOON) == expected


def test_the_limits_on_clients_of_1_24_are_read_and_older_versions_have_none() -> None:
    limits = {"max_client_connections": "40", "current_client_connections": "12"}
    users = [
        Row(name="app", pool_mode=None, pool_size="0", max_user_connections="9", current_connections="3"),
        Row(name="web", max_user_client_connections="50", current_client_connections="7", pool_size="0"),
        Row(name="free", max_user_connections="0", max_user_client_connections="0"),
    ]
    tables = tables_of("1.24.0") | {"USERS": users}
    tables["DATABASES"] = [Row(row | limits) for row in tables["DATABASES"]]

    new = read_sample(tables, target="here")
    old = read_sample(tables_of("1.18.0") | {"USERS": [Row(name="app", pool_mode="")]}, target="here")

    assert [(one.max_client_connections, one.current_client_connections) for one in new.databases] == [(40, 12)]
    assert new.users == (BouncerUser("app", 9, 3, 0, 0), BouncerUser("web", 0, 0, 50, 7))
    assert (old.users, [one.max_client_connections for one in old.databases]) == ((), [0])


def test_logins_are_counted_only_by_versions_that_have_the_column() -> None:
    tables = tables_of("1.25.0")
    tables["STATS"] = [Row(row | {"total_client_login_count": "321"}) for row in tables["STATS"]]

    assert [row.logins for row in read_sample(tables, target="here").stats] == [321]
    assert [row.logins for row in read_sample(tables_of("1.24.0"), target="here").stats] == [None]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(), st.lists(st.text(min_size=1)))
def test_columns_of_versions_to_come_change_nothing(chance: random.Random, new: list[str]) -> None:
    def shuffled(row: Row) -> Row:
        items = [*row.items(), *((name, "9") for name in new if name not in row and name != "reserve_pool_size")]
        chance.shuffle(items)
        return Row(items)

    tables = {name: [shuffled(row) for row in rows] for name, rows in tables_of("1.18.0").items()}

    assert read_sample(tables, target="here", own_port=40999, connected_at=NOON) == EXPECTED


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["POOLS", "CLIENTS", "SERVERS", "DATABASES", "STATS", "LISTS", "CONFIG", "VERSION"]),
        st.lists(
            st.dictionaries(
                st.sampled_from([*POOL, *LINKED, "name", "key", "value", "list", "items", "version"]),
                st.none() | st.text() | st.integers() | st.floats() | st.booleans(),
            ).map(Row)
        ),
    )
)
def test_a_console_that_answers_nonsense_gives_a_sample_all_the_same(tables: dict[str, list[Row]]) -> None:
    assert read_sample(tables, target="here").target == "here"


@pytest.mark.parametrize(
    "key",
    [
        "auth_file",
        "auth_query",
        "auth_ldap_options",
        "client_tls_key_file",
        "server_tls_key_file",
        "server_tls_keytab_password",
    ],
)
def test_settings_that_name_or_hold_secrets_are_left_out(key: str) -> None:
    rows = [Row(key=key, value="/etc/secret", default=None), Row(key="pool_mode", value="session", default="session")]

    assert pgbouncer.parse_config(rows) == {"pool_mode": "session"}


def test_the_own_client_is_told_by_its_port_over_a_unix_socket_by_its_process_else_if_it_is_the_only_one() -> None:
    mine = Row(database="pgbouncer", application_name="poolctl", addr="unix", port=6432, remote_pid=os.getpid())
    another = Row(mine | {"remote_pid": os.getpid() + 1, "port": 6433})
    operator = Row(mine | {"application_name": "psql", "port": 6434})

    assert find_own_client([operator, another, mine], None) is mine
    assert find_own_client([operator, another, mine], 6433) is another
    assert find_own_client([operator, mine], 9999) is mine
    assert find_own_client([mine, another], 9999) is None
    assert find_own_client([operator], 9999) is None
    assert pgbouncer.parse_link(mine, "client", {}).address == "local"


@pytest.mark.parametrize(
    ("text", "offsets", "expected"),
    [
        ("2023-11-14 22:13:20 UTC", {"UTC": 0.0}, NOON),
        ("2023-11-14 23:13:20 CET", {"CET": 3600.0}, NOON),
        ("2023-11-14 23:13:20 CET", {}, None),
        ("2023-11-14 18:43:20 -0330", {}, NOON),
        ("2023-11-15 03:13:20 +05", {}, NOON),
        ("2023-11-15 03:43:20", {"": 19800.0}, NOON),
        ("2023-11-15 03:43:20 (4:20 before process restarting)", {"": 19800.0}, NOON),
        ("", {"": 0.0}, None),
        (None, {"": 0.0}, None),
        ("yesterday", {"": 0.0}, None),
    ],
)
def test_a_pooler_s_clock_is_read_in_the_zone_that_is_known(
    text: str | None, offsets: dict[str, float], expected: float | None
) -> None:
    assert parse_instant(text, offsets) == expected


def test_the_zone_is_learned_from_when_poolctl_itself_connected() -> None:
    assert learn_offset("2023-11-15 03:43:19 IST", NOON + 0.4) == {"IST": 19800.0}
    assert learn_offset("2023-11-15 03:43:19", NOON) == {"": 19800.0}
    assert learn_offset(None, NOON) == {}


@pytest.mark.parametrize("conninfo", ["host=127.0.0.1 dbname=app", "postgresql://app:s3cr3t@127.0.0.1/app"])
def test_a_database_that_is_not_the_console_is_refused_at_once(conninfo: str) -> None:
    with pytest.raises(BadInput, match="names another database than 'pgbouncer'") as raised:
        PgBouncer(conninfo)
    assert "s3cr3t" not in f"{raised.value} {raised.value.hint}"


def test_a_connection_string_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(BadInput) as raised:
        PgBouncer("host=127.0.0.1 password=a s3cr3t")
    assert "s3cr3t" not in f"{raised.value} {raised.value.hint}"


def test_nobody_there_is_said_in_one_line_and_asked_again_at_the_next_look() -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        bouncer = PgBouncer(f"host=127.0.0.1 port={unused.getsockname()[1]} user=admin password=s3cr3t")
        seen = [bouncer.sample(), bouncer.sample()]

    assert seen == [None, None]
    assert not bouncer.source.ok
    assert "refused" in bouncer.source.reason
    assert "s3cr3t" not in repr(bouncer.source)
    assert "\n" not in bouncer.source.reason


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    skip_without("pgbouncer")
    keys = {"pool_mode": "transaction", "default_pool_size": 2, "max_client_conn": 4, "stats_users": "app"}
    with (
        own_temporary_directory(tmp_path_factory),
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=keys) as running,
    ):
        yield running


@pytest.fixture
def console(pooled: Sandbox) -> Iterator[PgBouncer]:
    assert pooled.pooler_admin_conninfo is not None
    with closing(PgBouncer(pooled.pooler_admin_conninfo)) as pooler:
        eventually(lambda: seen(pooler).clients == ())
        yield pooler


def seen(bouncer: PgBouncer) -> BouncerSample:
    sample = bouncer.sample()
    assert sample is not None, bouncer.source
    return sample


def applications(pooled: Sandbox, held: ExitStack, count: int) -> list[psycopg.Connection]:
    """Clients that each hold a transaction, and so a server connection."""
    clients = [
        held.enter_context(closing(psycopg.connect(pooled.conninfo, application_name=f"shop {number}")))
        for number in range(count)
    ]
    for client in clients:
        client.execute("SELECT 1")
    return clients


@pytest.mark.server
def test_an_idle_pgbouncer_shows_neither_poolctl_nor_its_own_database(console: PgBouncer) -> None:
    sample = seen(console)

    assert console.source == replace(console.source, kind="pgbouncer", ok=True, reason="")
    assert sample.version.startswith("1.")
    assert [pool.database for pool in sample.pools if pool.database == "pgbouncer"] == []
    assert [database.name for database in sample.databases] == ["app"]
    assert sample.clients == ()
    assert sample.lists["used_clients"] == 0
    assert sample.config["max_client_conn"] == "4"
    assert not [key for key in sample.config if "auth_file" in key]


@pytest.mark.server
def test_the_join_names_the_application_behind_each_backend(pooled: Sandbox, console: PgBouncer) -> None:
    with ExitStack() as held:
        clients = applications(pooled, held, 2)
        sample = seen(console)
        pids = {client.pgconn.socket: one(client, "SELECT pg_backend_pid()") for client in clients}

    by_link = {link.pointer: link for link in sample.clients}
    joined = {by_link[server.link].application: server.remote_pid for server in sample.servers if server.link}
    assert joined == {f"shop {number}": pid for number, pid in enumerate(pids.values())}
    assert {link.address for link in sample.clients} == {"127.0.0.1"}
    for link in sample.clients:
        assert link.connected_at is not None
        assert abs(link.connected_at - time.time()) < 30


@pytest.mark.server
def test_a_client_that_waits_for_a_server_is_seen_with_its_wait(pooled: Sandbox, console: PgBouncer) -> None:
    with ExitStack() as held:
        applications(pooled, held, 2)
        waiting = held.enter_context(closing(connect(pooled.conninfo)))
        waiting.pgconn.send_query(b"SELECT 1")
        eventually(lambda: seen(console).pools[0].clients_waiting == 1)
        first, second = seen(console), seen(console)

    (pool,) = second.pools
    assert (pool.clients_active, pool.clients_waiting, pool.servers_active, pool.servers) == (2, 1, 2, 2)
    assert pool.max_wait > first.pools[0].max_wait > 0
    (waiter,) = (link for link in second.clients if link.state == "waiting")
    assert waiter.wait > 0
    assert waiter.link == ""


def is_let_in(pooled: Sandbox, held: ExitStack) -> bool:
    try:
        held.enter_context(closing(connect(pooled.conninfo)))
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.server
def test_the_console_still_lets_in_when_no_client_is_let_in_any_more(pooled: Sandbox, console: PgBouncer) -> None:
    console.close()
    with ExitStack() as held:
        # PgBouncer may see a newcomer before it sees that poolctl has gone.
        for _ in range(4):
            eventually(lambda: is_let_in(pooled, held))
        with pytest.raises(psycopg.OperationalError, match="no more connections allowed"):
            connect(pooled.conninfo)
        sample = seen(console)

    assert len(sample.clients) == sample.lists["used_clients"] == 4
    assert console.source.ok


@pytest.mark.server
def test_poolctl_does_not_keep_the_place_that_the_last_application_needs(pooled: Sandbox, console: PgBouncer) -> None:
    seen(console)
    with ExitStack() as held:
        while is_let_in(pooled, held):
            pass
        refused_at = seen(console).lists["used_clients"]
        # As above.
        eventually(lambda: is_let_in(pooled, held))
        sample = seen(console)

    assert (refused_at, len(sample.clients)) == (3, 4)


@pytest.mark.server
def test_a_user_of_stats_users_sees_the_same_as_an_administrator(pooled: Sandbox, console: PgBouncer) -> None:
    with closing(PgBouncer(pooled.conninfo.replace("dbname=app", "dbname=pgbouncer"))) as watching:
        own, administrator = seen(watching), seen(console)

    assert watching.source.ok
    assert watching.source.reason == ""
    assert own.config == administrator.config
    assert own.databases == administrator.databases


@pytest.mark.server
def test_another_user_is_told_which_setting_lets_him_in(pooled: Sandbox) -> None:
    assert pooled.pooler_admin_conninfo is not None
    with closing(PgBouncer(pooled.pooler_admin_conninfo.replace("user=admin", "user=stranger"))) as stranger:
        assert stranger.sample() is None

    assert not stranger.source.ok
    assert stranger.source.reason != ""


@pytest.mark.server
@pytest.mark.parametrize("name", ["\x1b[2J\x1b]0;gone\x07", "[red]loud[/red]", "‮gnp.exe", "x" * 3000, "a'; DROP--"])
def test_a_hostile_application_name_costs_nothing(pooled: Sandbox, console: PgBouncer, name: str) -> None:
    with closing(psycopg.connect(pooled.conninfo, application_name=name)) as client:
        client.execute("SELECT 1")
        sample = seen(console)

    assert len(sample.clients) == 1
    assert len(sample.clients[0].application) <= 3000


@pytest.mark.server
def test_a_lost_connection_is_made_once_more_in_the_same_look(pooled: Sandbox, console: PgBouncer) -> None:
    seen(console)
    cut(console.port)

    assert console.sample() is not None
    assert console.source.ok


@pytest.mark.server
def test_a_pgbouncer_that_hangs_costs_one_look_its_patience_and_is_seen_again(
    pooled: Sandbox, console: PgBouncer
) -> None:
    (process,) = (
        process for pid in pooled.list_process_ids() if (process := psutil.Process(pid)).name().startswith("pgbouncer")
    )
    process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        first, took = console.sample(), time.monotonic() - began
        reason = console.source.reason
    finally:
        process.send_signal(signal.SIGCONT)

    assert first is None
    assert 1.0 < took < 5.0
    assert reason == "it accepted the connection and then did not answer"
    assert console.sample() is not None


def cut(port: int | None) -> None:
    """End this process's connections to ``port``, as a network or an operator does."""
    for end in psutil.Process().net_connections("tcp"):
        if end.status == psutil.CONN_ESTABLISHED and end.raddr[1:] == (port,):
            with closing(socket.socket(fileno=os.dup(end.fd))) as ours:
                ours.shutdown(socket.SHUT_RDWR)
