"""PostgreSQL as poolctl sees it, in every state that a backend can be in, on real servers of every version found."""

import contextlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from sandboxes import connect, eventually, one
from watched import MANY, Clients, bindirs, observing, pid_of, seen, seen_when, started

from poolctl.diagnose.live.relief import write_condition
from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput
from poolctl.observe.connection import NAME, STATEMENT_TIMEOUT, ServerConnection
from poolctl.observe.postgres import Postgres
from poolctl.observe.snapshot import ABORTED, IN_TRANSACTION, Backend, TableCounters

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=bindirs(), ids=lambda bindir: bindir.parent.name)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    settings = {"idle_in_transaction_session_timeout": "5min", "autovacuum": False}
    with started(request.param, max_connections=30, settings=settings) as running:
        with connect(running.admin_conninfo) as admin:
            admin.execute("CREATE TABLE orders (id int); GRANT ALL ON orders TO app")
            admin.execute("CREATE SCHEMA shop; CREATE TABLE shop.stock AS SELECT generate_series(1, 100) AS id")
            admin.execute("GRANT USAGE ON SCHEMA shop TO app; GRANT ALL ON shop.stock TO app")
        yield running


@pytest.fixture
def clients(sandbox: Sandbox) -> Iterator[Clients]:
    with Clients(sandbox.conninfo) as clients:
        yield clients


@pytest.fixture
def hidden(sandbox: Sandbox) -> Iterator[Clients]:
    """Clients of the superuser's, whose rows an ordinary role does not see."""
    with Clients(sandbox.admin_conninfo) as clients:
        yield clients


@pytest.fixture
def server(sandbox: Sandbox) -> Iterator[Postgres]:
    with observing(sandbox.admin_conninfo) as server:
        yield server


@pytest.fixture
def ordinary(sandbox: Sandbox) -> Iterator[Postgres]:
    with observing(sandbox.conninfo) as server:
        yield server


def in_state(backend: Backend) -> tuple[str | None, str | None, str | None]:
    return backend.state, backend.wait_event_type, backend.wait_event


def test_every_state_of_a_backend_is_seen_as_it_is(clients: Clients, server: Postgres) -> None:
    idle, held, aborted = clients.idle(), clients.in_transaction(), clients.aborted()
    sleeping = clients.busy("SELECT pg_sleep(60)")
    writing = clients.busy(f"SELECT repeat('x', 1000) FROM generate_series(1, {MANY // 1000 * 10})")
    reading = clients.busy("COPY orders FROM STDIN")
    expected = {
        idle: ("idle", "Client", "ClientRead"),
        held: (IN_TRANSACTION, "Client", "ClientRead"),
        aborted: (ABORTED, "Client", "ClientRead"),
        sleeping: ("active", "Timeout", "PgSleep"),
        writing: ("active", "Client", "ClientWrite"),
        reading: ("active", "Client", "ClientRead"),
    }

    backends = seen_when(server, lambda seen: expected == {pid: in_state(seen[pid]) for pid in expected})

    assert expected == {pid: in_state(backends[pid]) for pid in expected}
    assert all(backends[pid].is_client and not backends[pid].is_hidden for pid in expected)
    assert {backends[pid].client for pid in expected} == {"127.0.0.1"}
    assert {(backends[pid].user, backends[pid].database, backends[pid].application) for pid in expected} == {
        ("app", "app", "shop")
    }
    assert backends[aborted].transaction_at is None
    assert backends[held].transaction_at is not None
    assert backends[idle].virtual_transaction is None
    assert backends[held].virtual_transaction is not None
    assert backends[sleeping].query == "SELECT pg_sleep(60)"


def test_what_has_not_changed_is_equal_in_the_next_sample(clients: Clients, server: Postgres) -> None:
    held = clients.in_transaction()

    first, second = seen(server), seen(server)

    before, after = ({each.pid: each for each in sample.backends}[held] for sample in (first, second))
    assert after is before
    assert second.at > first.at
    assert second.started_at == first.started_at < first.at


def test_a_lock_wait_names_what_it_waits_for_and_who_is_in_the_way(clients: Clients, server: Postgres) -> None:
    holder, other = clients.locking("orders"), clients.locking("shop.stock")
    first = clients.busy("SELECT * FROM orders")
    seen_when(server, lambda seen: seen[first].wait_event_type == "Lock")
    second = clients.busy("TRUNCATE orders")

    backends = seen_when(server, lambda seen: seen[second].wait_event_type == "Lock")

    assert in_state(backends[first]) == ("active", "Lock", "relation")
    assert backends[first].blocked_by == (holder,)
    assert set(backends[second].blocked_by) >= {holder}
    wait = backends[first].waits_for
    assert wait is not None
    assert (wait.kind, wait.mode, wait.relation) == ("relation", "AccessShareLock", "orders")
    assert server.facts is not None
    assert (wait.since is not None) == (server.facts.version_number >= 140000)
    assert backends[holder].blocked_by == ()
    assert backends[holder].strong_locks == ("orders",)
    assert backends[other].strong_locks == ("shop.stock",)


def test_advisory_locks_are_counted(clients: Clients, server: Postgres) -> None:
    holder = clients.advisory()
    waiter = clients.busy("SELECT pg_advisory_lock(7)")

    backends = seen_when(server, lambda seen: seen[waiter].wait_event_type == "Lock")

    assert (backends[holder].state, backends[holder].advisory_locks) == ("idle", 2)
    assert (backends[waiter].advisory_locks, backends[waiter].blocked_by) == (0, (holder,))


def test_a_slot_held_before_login_is_seen_where_the_server_shows_it(hidden: Clients, server: Postgres) -> None:
    before = len(seen(server).clients)
    hidden.starting()

    assert server.facts is not None
    is_shown = server.facts.version_number >= 180000
    backends = seen_when(server, lambda seen: any(each.state == "starting" for each in seen.values()) == is_shown)

    starting = [each for each in backends.values() if each.state == "starting"]
    assert [(each.user, each.is_client) for each in starting] == ([(None, True)] if is_shown else [])
    assert sum(each.is_client for each in backends.values()) == before + is_shown


def test_own_sessions_are_left_out_and_other_inspectors_are_recognizable(sandbox: Sandbox, server: Postgres) -> None:
    with observing(sandbox.conninfo) as other:
        seen(other)
        # The sessions of the test before may still be ending.
        backends = seen_when(server, lambda seen: sum(each.is_client for each in seen.values()) == 1)
        clients = [each for each in backends.values() if each.is_client]
        with connect(sandbox.admin_conninfo) as admin:
            sessions = one(admin, f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{NAME}'")

    assert [(each.application, each.user) for each in clients] == [(NAME, "app")]
    assert sessions == 2


def test_a_look_leaves_no_transaction_no_lock_and_no_setting_behind(sandbox: Sandbox, server: Postgres) -> None:
    with connect(sandbox.admin_conninfo) as admin:
        seen(server)
        query = f"SELECT state FROM pg_stat_activity WHERE application_name = '{NAME}'"
        assert one(admin, query) == "idle"
    with closing(ServerConnection.open(sandbox.conninfo)) as connection:
        inside = connection.read("SHOW statement_timeout", "SHOW lock_timeout", "SHOW transaction_read_only")
        after = connection.execute("SHOW statement_timeout; SHOW lock_timeout")

    milliseconds = f"{STATEMENT_TIMEOUT:.0f}s"
    assert [next(iter(rows[0].values())) for rows in inside] == [milliseconds, milliseconds, "on"]
    assert [next(iter(rows[0].values())) for rows in after] == ["0", "0"]


def test_an_ordinary_role_is_told_what_it_cannot_see_and_the_states_are_inferred(
    clients: Clients, hidden: Clients, ordinary: Postgres
) -> None:
    own = clients.in_transaction()
    idle, held = hidden.idle(), hidden.in_transaction()
    locking = hidden.locking("orders")
    waiting = hidden.busy("SELECT * FROM orders")
    running = hidden.busy("SELECT pg_sleep(60)")
    writing = hidden.busy(f"SELECT repeat('x', 1000) FROM generate_series(1, {MANY // 1000 * 10})")
    expected = {
        idle: ("idle", None),
        held: (IN_TRANSACTION, None),
        locking: (IN_TRANSACTION, None),
        waiting: ("active", "Lock"),
        running: ("active", None),
        writing: ("active", None),
    }

    backends = seen_when(
        ordinary,
        lambda seen: (
            expected == {pid: (seen[pid].state, seen[pid].wait_event_type) for pid in expected}
            and sum(each.is_client for each in seen.values()) == len(expected) + 1
        ),
    )

    assert {pid: (backends[pid].state, backends[pid].wait_event_type) for pid in expected} == expected
    assert all(backends[pid].is_hidden and backends[pid].is_inferred and backends[pid].is_client for pid in expected)
    assert {backends[pid].query for pid in expected} == {None}
    assert {backends[pid].client for pid in expected} == {None}
    assert {backends[pid].user for pid in expected} == {"postgres"}
    assert backends[waiting].blocked_by == (locking,)
    assert backends[locking].strong_locks == ("orders",)
    assert not backends[own].is_hidden
    assert backends[own].state == IN_TRANSACTION
    assert sum(each.is_client for each in backends.values()) == len(expected) + 1
    assert ordinary.facts is not None
    assert (ordinary.facts.role, ordinary.facts.can_see_all, ordinary.facts.is_superuser) == ("app", False, False)


def test_the_virtual_transaction_of_a_hidden_transaction_shows_that_it_is_the_same(
    hidden: Clients, ordinary: Postgres
) -> None:
    held = hidden.in_transaction()
    connection = hidden.open()

    def transaction_of(pid: int) -> str | None:
        return {each.pid: each for each in seen(ordinary).backends}[pid].virtual_transaction

    others = set()
    first = transaction_of(held)
    for _ in range(3):
        with connection.transaction():
            connection.execute("SELECT 1")
            others.add(transaction_of(pid_of(connection)))

    assert transaction_of(held) == first is not None
    assert len(others) == 3


def test_with_pg_read_all_stats_nothing_is_hidden(sandbox: Sandbox, hidden: Clients) -> None:
    idle = hidden.idle()
    with connect(sandbox.admin_conninfo) as admin:
        admin.execute("GRANT pg_read_all_stats TO app")
        try:
            with observing(sandbox.conninfo) as server:
                backends = {each.pid: each for each in seen(server).backends}
                facts = server.facts
        finally:
            admin.execute("REVOKE pg_read_all_stats FROM app")

    assert facts is not None
    assert facts.can_see_all
    assert not facts.is_superuser
    assert (backends[idle].state, backends[idle].is_hidden) == ("idle", False)


def test_settings_are_the_servers_and_never_those_of_a_session(sandbox: Sandbox) -> None:
    own = "-c statement_timeout=12345 -c idle_in_transaction_session_timeout=23456 -c work_mem=5MB"
    with observing(f"{sandbox.conninfo} options='{own}'") as server:
        seen(server)
    with observing(sandbox.conninfo) as plain:
        seen(plain)

    assert server.facts is not None
    assert plain.facts is not None
    settings = plain.facts.settings
    assert settings["idle_in_transaction_session_timeout"] == 300.0
    assert settings["statement_timeout"] == 0.0
    assert settings["authentication_timeout"] == 60.0
    assert settings["deadlock_timeout"] == 1.0
    assert settings["work_mem"] == 4 * 1024 * 1024
    assert settings["track_activities"] == 1.0
    assert {"statement_timeout", "idle_in_transaction_session_timeout", "work_mem"}.isdisjoint(server.facts.settings)


def test_limits_and_settings_of_roles_and_databases_are_read_without_anybodys_secrets(sandbox: Sandbox) -> None:
    with connect(sandbox.admin_conninfo) as admin:
        admin.execute("CREATE ROLE batch LOGIN CONNECTION LIMIT 4; ALTER ROLE batch SET lock_timeout = '3s'")
        admin.execute("ALTER ROLE batch SET app.jwt_secret = 'hunter2'; ALTER DATABASE app CONNECTION LIMIT 25")
        admin.execute("ALTER DATABASE app SET idle_in_transaction_session_timeout = '1min'")
        admin.execute("ALTER ROLE batch IN DATABASE app SET lock_timeout = '4s'; CREATE ROLE nobody_may")
        try:
            with observing(sandbox.conninfo) as server:
                seen(server)
        finally:
            admin.execute("ALTER DATABASE app CONNECTION LIMIT -1; ALTER DATABASE app RESET ALL")
            admin.execute("ALTER ROLE batch IN DATABASE app RESET ALL; DROP ROLE batch, nobody_may")

    assert server.facts is not None
    roles = {each.name: each for each in server.facts.roles}
    databases = {each.name: each for each in server.facts.databases}
    assert roles.keys() == {"app", "batch", "postgres"}
    assert (roles["batch"].connection_limit, roles["batch"].settings) == (4, {"lock_timeout": "4s"})
    assert (roles["app"].connection_limit, roles["postgres"].is_superuser) == (None, True)
    assert databases["app"].connection_limit == 25
    assert databases["app"].settings == {"idle_in_transaction_session_timeout": "1min"}
    assert "hunter2" not in repr(server.facts)
    assert "idle_in_transaction_session_timeout" not in server.facts.settings


def test_counters_of_databases_statements_and_tables_grow(sandbox: Sandbox, clients: Clients) -> None:
    connection = clients.open()
    with observing(sandbox.admin_conninfo) as server:
        first = seen(server)
        for _ in range(30):
            connection.execute("SELECT count(*) FROM shop.stock WHERE id > 3")
        connection.close()
        # Counters reach the server's statistics a while after the statements, at the latest when the session ends.
        eventually(lambda: {table.name for table in tables_of(sandbox)} == {"shop.stock"})
    with observing(sandbox.admin_conninfo) as server:
        second = seen(server)
        assert server.facts is not None
        has_sessions = server.facts.version_number >= 140000
        has_statements = server.facts.has_statements

    before, after = ({each.name: each for each in sample.databases}["app"] for sample in (first, second))
    assert after.commits > before.commits
    assert (after.sessions is not None) == has_sessions
    (table,) = (each for each in second.tables if each.name == "shop.stock")
    assert (table.scans, table.rows_read) == (30, 3000)
    if has_statements:
        counted = [each for each in second.statements if each.query and "shop.stock WHERE" in each.query]
        assert [(each.calls, each.user, each.rows) for each in counted] == [(30, "app", 30)]
        assert all("poolctl" not in (each.query or "") for each in second.statements)


def tables_of(sandbox: Sandbox) -> tuple[TableCounters, ...]:
    with observing(sandbox.admin_conninfo) as server:
        return seen(server).tables


def test_statements_that_may_not_be_read_are_told_and_all_else_is_seen(sandbox: Sandbox) -> None:
    with connect(sandbox.admin_conninfo) as admin:
        if not one(admin, "SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'"):
            admin.execute("CREATE EXTENSION pg_stat_statements")
        functions = "ALL FUNCTIONS IN SCHEMA public"
        admin.execute(f"REVOKE EXECUTE ON {functions} FROM PUBLIC".encode())
        try:
            with observing(sandbox.conninfo) as server:
                sample = seen(server)
        finally:
            admin.execute(f"GRANT EXECUTE ON {functions} TO PUBLIC".encode())

    assert sample.statements == ()
    assert sample.databases != ()
    assert server.facts is not None
    assert not server.facts.has_statements
    assert server.source.ok
    assert server.source.reason == "no pg_stat_statements: permission denied for function pg_stat_statements"


def test_a_backend_is_ended_only_if_it_is_still_the_same(clients: Clients, server: Postgres) -> None:
    held, idle = clients.in_transaction(), clients.idle()
    backends = {each.pid: each for each in seen(server).backends}
    started_at = backends[held].started_at
    assert started_at is not None

    assert server.end_backend(held, started_at - 1).outcome == "another"
    assert server.end_backend(held, started_at).outcome == "ended"
    assert server.end_backend(held, started_at).outcome == "gone"
    remaining = {each.pid for each in seen(server).backends}
    assert held not in remaining
    assert idle in remaining


@pytest.mark.parametrize("outcome", ["ended", "recovered"])
@pytest.mark.parametrize("state", ["idle", "idle in transaction", "idle in transaction (aborted)", "active"])
def test_a_backend_that_works_again_is_left_alone(clients: Clients, server: Postgres, state: str, outcome: str) -> None:
    connection = clients.open()
    if state == "active":
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        connection.pgconn.flush()
    elif state != "idle":
        connection.execute("BEGIN")
        with contextlib.suppress(psycopg.Error):
            connection.execute("SELECT 1 / 0" if "aborted" in state else "SELECT 1")
    else:
        connection.execute("SELECT 1")
    pid = pid_of(connection)
    backend = seen_when(server, lambda found: found[pid].state == state)[pid]
    condition = write_condition(backend, "leak")
    assert backend.started_at is not None

    if outcome == "recovered":
        if state == "active":
            clients.cancel(connection)
        connection.execute("ROLLBACK" if "transaction" in state else "SELECT 2")
        if "transaction" in state:
            # The same state again, in another transaction: it works.
            connection.execute("BEGIN")
            connection.execute("SELECT 1")

    assert server.end_backend(pid, backend.started_at, still=condition).outcome == outcome


def test_a_statement_is_canceled_and_its_session_goes_on(clients: Clients, server: Postgres) -> None:
    connection = clients.open()
    connection.pgconn.send_query(b"SELECT pg_sleep(60)")
    connection.pgconn.flush()
    pid = pid_of(connection)
    backend = seen_when(server, lambda found: found[pid].state == "active")[pid]
    assert backend.started_at is not None

    canceled = server.end_backend(pid, backend.started_at, still="a.state = 'active'", action="cancel")
    again = server.end_backend(pid, backend.started_at, still="a.state = 'active'", action="cancel")

    assert (canceled.outcome, again.outcome) == ("canceled", "recovered")
    assert pid in {each.pid for each in seen(server).backends}


def test_the_head_of_a_queue_is_ended_as_long_as_a_backend_waits_for_it(
    clients: Clients, server: Postgres, sandbox: Sandbox
) -> None:
    with connect(sandbox.admin_conninfo) as admin:
        admin.execute("DROP TABLE IF EXISTS queued; CREATE TABLE queued (); GRANT ALL ON queued TO public")
    head = clients.open()
    head.execute("BEGIN")
    head.execute("LOCK TABLE queued IN ACCESS EXCLUSIVE MODE")
    waiting = clients.open()
    waiting.pgconn.send_query(b"SELECT count(*) FROM queued")
    waiting.pgconn.flush()
    pid = pid_of(head)
    backend = seen_when(server, lambda found: found[pid_of(waiting)].blocked_by == (pid,))[pid]
    condition = write_condition(backend, "lock-queue")
    assert backend.started_at is not None

    head.execute("SELECT 1")  # It works on, in the same transaction: still at fault.
    clients.cancel(waiting)
    seen_when(server, lambda found: found[pid_of(waiting)].state == "idle")
    assert server.end_backend(pid, backend.started_at, still=condition).outcome == "recovered"

    waiting.pgconn.send_query(b"SELECT count(*) FROM queued")
    waiting.pgconn.flush()
    seen_when(server, lambda found: found[pid_of(waiting)].blocked_by == (pid,))
    assert server.end_backend(pid, backend.started_at, still=condition).outcome == "ended"


def test_no_other_than_a_clients_backend_is_ended(server: Postgres) -> None:
    (checkpointer,) = (each for each in seen(server).backends if each.backend_type == "checkpointer")
    assert checkpointer.started_at is not None

    assert server.end_backend(checkpointer.pid, checkpointer.started_at).outcome == "another"


def test_a_role_that_may_not_end_a_backend_is_told_so(hidden: Clients, ordinary: Postgres, server: Postgres) -> None:
    pid = hidden.idle()
    started_at = {each.pid: each for each in seen(server).backends}[pid].started_at
    assert started_at is not None
    seen(ordinary)

    ending = ordinary.end_backend(pid, started_at)

    # It does not see when that backend began, so it cannot tell who it is.
    assert ending.outcome in ("another", "refused")
    assert pid in {each.pid for each in seen(server).backends}


@pytest.mark.parametrize(
    "name",
    [
        "\x1b]0;owned\x07",
        "[bold red]x[/]",
        "\u202egnp.exe",
        "it's; DROP TABLE orders; --",
        "{known} %s $1",
        "a" * 1_000_000,
        "naïve",
    ],
    ids=["escape", "markup", "bidi", "quote", "format", "megabyte", "umlaut"],
)
def test_hostile_names_and_texts_are_taken_as_they_are(
    sandbox: Sandbox, clients: Clients, server: Postgres, name: str
) -> None:
    connection = clients.open()
    connection.execute("SELECT set_config('application_name', %s, false)", (name,))
    connection.pgconn.exec_(f"SELECT 1 AS x /* {name} */".encode())

    backend = {each.pid: each for each in seen(server).backends}[pid_of(connection)]

    assert len(backend.application) <= 64 * 4
    assert backend.query is not None
    assert backend.query.startswith(f"SELECT 1 AS x /* {name}"[:200])
    assert len(backend.query) <= 1024


def test_a_very_long_query_is_cut_and_other_encodings_do_not_hurt() -> None:
    settings = {"track_activity_query_size": 1_000_000}
    with started(bindirs()[0], max_connections=12, settings=settings) as sandbox:
        with connect(sandbox.admin_conninfo) as admin:
            admin.execute("CREATE DATABASE old ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        old = sandbox.conninfo.replace("dbname=app", "dbname=old")
        with Clients(sandbox.conninfo) as clients, Clients(old) as others, observing(sandbox.admin_conninfo) as server:
            long = clients.open()
            long.execute("SELECT '" + "é" * 400_000 + "'")
            latin = others.open()
            latin.execute("SELECT 'gr\xfc\xdfe'")
            queries = {each.pid: each.query or "" for each in seen(server).backends}
            found = queries[pid_of(long)], queries[pid_of(latin)]

    assert len(found[0]) == 10_000
    assert found[1] == "SELECT 'gr\xfc\xdfe'"


def test_the_owner_of_a_database_cannot_slip_in_functions_of_his_own(sandbox: Sandbox) -> None:
    with connect(sandbox.admin_conninfo) as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO app")
    with connect(sandbox.conninfo) as owner:
        for function in ("pg_backend_pid() RETURNS int", "date_part(text, timestamptz) RETURNS float8"):
            owner.execute(f"CREATE FUNCTION {function} LANGUAGE sql AS 'SELECT 1 / 0'".encode())
        owner.execute("ALTER DATABASE app SET search_path = public, pg_catalog")
    try:
        with observing(sandbox.admin_conninfo) as server:
            seen(server)
    finally:
        with connect(sandbox.conninfo) as owner:
            owner.execute("ALTER DATABASE app RESET search_path")
            owner.execute("DROP FUNCTION public.pg_backend_pid(), public.date_part(text, timestamptz)")

    assert server.source.ok


def test_a_conninfo_that_cannot_be_read_is_refused_without_repeating_it() -> None:
    with pytest.raises(BadInput) as refused:
        Postgres("host=db password=hunter 2 secret")

    assert "hunter" not in refused.value.message
    assert "secret" not in refused.value.message
    assert "cannot be read" in refused.value.message


@pytest.mark.parametrize(
    "conninfo", ["postgresql://ops:p/w0rd@db/shop", "postgresql://ops:hunter@2@db/shop", "postgres://ops@x:p@db:5432"]
)
def test_a_uri_of_which_the_password_would_be_taken_for_a_host_is_refused_and_not_repeated(conninfo: str) -> None:
    with pytest.raises(BadInput, match="has an @ where none belongs") as refused:
        Postgres(conninfo)

    assert "w0rd" not in str(refused.value)
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("conninfo", ["postgresql://ops:p%40ss@db/shop", "postgresql://db/shop?application_name=a@b"])
def test_an_at_sign_that_is_written_as_it_should_be_is_taken(conninfo: str) -> None:
    assert Postgres(conninfo).target == "db:5432/shop"


def test_the_target_shows_neither_password_nor_options() -> None:
    server = Postgres("postgresql://ann:hunter2@db.example.com:6543/shop?options=-cfoo%3Dbar")

    assert server.target == "db.example.com:6543/shop"
    assert server.source == replace(server.source, kind="postgres", target="db.example.com:6543/shop", ok=True)


@pytest.mark.parametrize("via", ["pgbouncer", "pgpool"])
def test_behind_a_pooler_it_says_so_and_leaves_no_setting_to_the_next_client(via: str) -> None:
    options = {"pgbouncer": {"pool_mode": "transaction", "default_pool_size": 1}} if via == "pgbouncer" else {}
    with (
        Sandbox.start(max_connections=20, via=via, **options) as sandbox,  # type: ignore[arg-type]
        observing(sandbox.conninfo) as server,
        observing(sandbox.direct_conninfo) as direct,
    ):
        sample = seen(server)
        seen(direct)
        with psycopg.connect(sandbox.conninfo, autocommit=True, prepare_threshold=None) as client:
            timeouts = [one(client, f"SHOW {name}") for name in ("statement_timeout", "lock_timeout")]
            read_only = one(client, "SHOW transaction_read_only")
        seen(server)

    assert server.facts is not None
    assert direct.facts is not None
    assert direct.facts.cores is not None
    assert (server.facts.is_behind_pooler, direct.facts.is_behind_pooler) == (True, False)
    assert server.facts.is_local
    assert sample.backends != ()
    assert (timeouts, read_only) == (["0", "0"], "off")
