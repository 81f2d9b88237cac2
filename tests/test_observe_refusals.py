"""Who says no, and why: every refusal reached on real servers and poolers, in more than one language."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sandboxes import connect, eventually, one, own_temporary_directory
from watched import Clients, bindirs, observing, seen, speaking, started

from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput
from poolctl.observe.connection import ServerConnection, find_refusal
from poolctl.observe.refusals import ServerLost, parse_libpq_message
from poolctl.observe.sampler import PATIENCE
from poolctl.observe.snapshot import Refusal
from poolctl.observe.startup import Endpoint, probe_login

pytestmark = pytest.mark.server
SLOTS = 8


@pytest.fixture(scope="module", params=bindirs(), ids=lambda bindir: bindir.parent.name)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with started(request.param, max_connections=SLOTS, reserved=2) as running:
        yield running


@contextmanager
def filled(conninfo: str, count: int, *, by_superuser: str | None = None) -> Iterator[None]:
    """So many sessions of an ordinary role, and then of a superuser all that are left."""
    with Clients(conninfo) as clients, Clients(by_superuser or conninfo) as others:
        for _ in range(count):
            clients.open()
        if by_superuser is not None:
            fill_up(others)
        yield


def fill_up(superusers: Clients) -> None:
    """Take every slot that is left. That of somebody who was just refused is taken for a moment longer."""
    first = superusers.open()
    most = int(str(one(first, "SHOW max_connections")))
    there = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state IN ('idle', 'active')"
    )

    def is_full() -> bool:
        with suppress(psycopg.OperationalError):
            superusers.open()
        return one(first, there) == most

    eventually(is_full)


def refused(conninfo: str, clients: Clients) -> Refusal:
    """Open sessions until one more is refused. The slot of one that has just left is taken for a moment longer."""
    while (refusal := find_refusal(conninfo)) is None:
        with suppress(psycopg.OperationalError):
            clients.open()
    return refusal


def place_in(conninfo: str, **changes: object) -> Endpoint:
    given = conninfo_to_dict(conninfo)
    return Endpoint(str(given["host"]), int(str(given["port"])), str(given["user"]), str(given["dbname"]), **changes)  # type: ignore[arg-type]


def all_slots(sandbox: Sandbox) -> int:
    """How many an ordinary role can have now: the session of a test before may still be ending."""
    with connect(sandbox.admin_conninfo) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        eventually(lambda: one(admin, query) == 1)
        return SLOTS - int(str(one(admin, "SHOW superuser_reserved_connections")))


def test_a_server_with_room_refuses_nobody(sandbox: Sandbox) -> None:
    assert find_refusal(sandbox.conninfo) is None
    assert probe_login(place_in(sandbox.conninfo), within=3) is None


def test_the_last_slots_are_for_superusers(sandbox: Sandbox) -> None:
    with filled(sandbox.conninfo, all_slots(sandbox)):
        refusal = find_refusal(sandbox.conninfo)
        by_hand = probe_login(place_in(sandbox.conninfo), within=3)
        assert find_refusal(sandbox.admin_conninfo) is None

    assert refusal is not None
    assert (refusal.by, refusal.sqlstate, refusal.routine) == ("superuser-slots", "53300", "InitPostgres")
    assert refusal.text.startswith("remaining connection slots are reserved for")
    assert by_hand == refusal


def test_when_all_slots_are_gone_superusers_are_refused_too(sandbox: Sandbox) -> None:
    with filled(sandbox.conninfo, all_slots(sandbox), by_superuser=sandbox.admin_conninfo):
        found = [find_refusal(sandbox.conninfo), find_refusal(sandbox.admin_conninfo)]
        by_hand = probe_login(place_in(sandbox.admin_conninfo), within=3)

    assert {(each.by, each.sqlstate, each.routine, each.text) for each in found if each is not None} == {
        ("server-slots", "53300", "InitProcess", "sorry, too many clients already")
    }
    assert by_hand == found[1]


@pytest.mark.parametrize(
    ("limit", "by", "routine"),
    [
        ("ROLE app CONNECTION LIMIT 1", "role-limit", "InitializeSessionUserId"),
        # The superuser's session of this test counts, too.
        ("DATABASE app CONNECTION LIMIT 2", "database-limit", "CheckMyDatabase"),
    ],
)
def test_a_limit_of_a_role_or_database_is_told_from_the_servers(
    sandbox: Sandbox, limit: str, by: str, routine: str
) -> None:
    all_slots(sandbox)
    with connect(sandbox.admin_conninfo) as admin:
        admin.execute(f"ALTER {limit}".encode())
        try:
            with filled(sandbox.conninfo, 1):
                refusal = find_refusal(sandbox.conninfo)
                by_hand = probe_login(place_in(sandbox.conninfo), within=3)
        finally:
            admin.execute(f"ALTER {limit[:-1]}-1".encode())

    assert refusal is not None
    assert (refusal.by, refusal.sqlstate, refusal.routine) == (by, "53300", routine)
    assert by_hand == refusal


def test_a_wrong_password_is_told_and_never_repeated(sandbox: Sandbox) -> None:
    place = place_in(sandbox.conninfo)
    conninfo = f"host={place.address} port={place.port} user=postgres dbname=app password=hunter2 sslmode=prefer"

    refusal = find_refusal(conninfo)

    assert refusal is not None
    assert (refusal.by, refusal.sqlstate, refusal.routine) == ("authentication", "28P01", "auth_failed")
    assert "hunter2" not in repr(refusal)
    assert refusal.target == f"127.0.0.1:{place.port}/app"


def test_no_password_at_all_is_a_matter_of_authentication(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    place = place_in(sandbox.conninfo)

    refusal = find_refusal(f"host={place.address} port={place.port} user=postgres dbname=app")

    assert refusal is not None
    assert (refusal.by, refusal.sqlstate) == ("authentication", None)


def test_a_database_that_is_not_there_is_no_limit(sandbox: Sandbox) -> None:
    refusal = find_refusal(sandbox.conninfo.replace("dbname=app", "dbname=none"))

    assert refusal is not None
    assert (refusal.by, refusal.sqlstate) == ("unknown", "3D000")


def test_slots_reserved_for_a_role_are_told_from_those_for_superusers() -> None:
    with (
        Sandbox.start(max_connections=SLOTS, reserved=2, settings={"reserved_connections": 2}) as sandbox,
        filled(sandbox.conninfo, SLOTS - 4),
    ):
        refusal = find_refusal(sandbox.conninfo)
        with connect(sandbox.admin_conninfo) as admin:
            admin.execute("GRANT pg_use_reserved_connections TO app")
        with observing(sandbox.conninfo) as careful, observing(sandbox.conninfo, emergency=True) as bold:
            assert careful.sample() is None
            seen(bold)
            bold_facts = bold.facts

    assert refusal is not None
    assert (refusal.by, refusal.sqlstate, refusal.routine) == ("reserved-slots", "53300", "InitPostgres")
    assert "pg_use_reserved_connections" in refusal.text
    assert careful.refusal is not None
    assert careful.refusal.by == "reserved-slots"
    assert bold_facts is not None
    assert (bold_facts.usable, bold_facts.reserved, bold_facts.uses_reserved) == (SLOTS - 4, 2, True)


def test_a_superuser_takes_no_reserved_slot_unless_it_is_an_emergency(sandbox: Sandbox) -> None:
    usable = all_slots(sandbox)
    with filled(sandbox.conninfo, usable), observing(sandbox.admin_conninfo) as careful:
        assert careful.sample() is None
        assert careful.sample() is None
        left = find_refusal(sandbox.admin_conninfo)
        with observing(sandbox.admin_conninfo, emergency=True) as bold:
            assert len(seen(bold).clients) == usable

    assert left is None
    assert careful.refusal == Refusal(
        "superuser-slots",
        f"only reserved slots are free: {usable} clients hold the {usable} for ordinary roles; "
        "--emergency takes a reserved one",
        target=careful.target,
    )
    assert careful.facts is not None
    assert careful.facts.max_connections == SLOTS
    assert not careful.source.ok


def test_a_superuser_looks_as_anybody_while_there_is_room(sandbox: Sandbox) -> None:
    usable = all_slots(sandbox)
    with filled(sandbox.conninfo, usable - 1), observing(sandbox.admin_conninfo) as server:
        assert len(seen(server).clients) == usable - 1


LANGUAGES = ["en"] + [
    language
    for language in ("de", "fr", "ja", "ru")
    if Path(f"/usr/share/locale/{language}/LC_MESSAGES/postgres-15.mo").exists()
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_language_of_the_server_does_not_matter(language: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with own_temporary_directory(tmp_path_factory) as folder, speaking(language, folder, slots=4) as superuser:
        with connect(superuser) as admin:
            admin.execute("CREATE ROLE app LOGIN")
        ordinary = superuser.replace("user=postgres", "user=app")
        with Clients(ordinary) as clients:
            reserved = refused(ordinary, clients)
            with filled(superuser, 0, by_superuser=superuser):
                full = find_refusal(ordinary)
                by_hand = probe_login(place_in(ordinary), within=3)

    assert full is not None
    assert (reserved.by, full.by) == ("superuser-slots", "server-slots")
    assert by_hand == full
    assert ("sorry" in full.text) == (language == "en")


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        # What libpq with its own translations makes of PQERRORS_VERBOSE.
        (
            'Verbindung zum Server auf »db« fehlgeschlagen: FATAL:  53300: tut mir leid, schon zu viele Verbindungen\n'
            "ORT:  InitProcess, proc.c:353\n",
            Refusal("server-slots", "tut mir leid, schon zu viele Verbindungen", "53300", "InitProcess"),
        ),
        (
            "la connexion au serveur a échoué : FATAL:  53300: trop de connexions pour le rôle « app »\n"
            "EMPLACEMENT : InitializeSessionUserId, miscinit.c:792\n",
            Refusal("role-limit", "trop de connexions pour le rôle « app »", "53300", "InitializeSessionUserId"),
        ),
        # Encrypted first, then plain: the second is only told to encrypt.
        (
            'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  53300: too many connections for role '
            '"app"\nLOCATION:  InitializeSessionUserId, miscinit.c:792\nconnection to server at "db" (10.0.0.1), port '
            '5432 failed: FATAL:  28000: no pg_hba.conf entry for host "10.0.0.2", no encryption\n'
            "LOCATION:  ClientAuthentication, auth.c:543\n",
            Refusal("role-limit", 'too many connections for role "app"', "53300", "InitializeSessionUserId"),
        ),
        (
            'connection to server at "db" (10.0.0.1), port 6432 failed: FATAL:  08P01: server login has been failing, '
            "cached error: sorry, too many clients already (server_login_retry)\n",
            Refusal(
                "pooler-login",
                "server login has been failing, cached error: sorry, too many clients already (server_login_retry)",
                "08P01",
            ),
        ),
        (
            'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  57P03: the database system is starting '
            "up\nLOCATION:  ProcessStartupPacket, postmaster.c:2396\n",
            Refusal("starting-up", "the database system is starting up", "57P03", "ProcessStartupPacket"),
        ),
        (
            'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  53300: number of requested standby '
            "connections exceeds max_wal_senders (currently 10)\nLOCATION:  InitProcess, proc.c:448\n",
            Refusal(
                "walsender-slots",
                "number of requested standby connections exceeds max_wal_senders (currently 10)",
                "53300",
                "InitProcess",
            ),
        ),
        (
            'connection to server at "db" (10.0.0.1), port 5432 failed: Connection refused\n\tIs the server running?\n',
            Refusal("unreachable", "Connection refused"),
        ),
        ("", Refusal("unreachable", "no answer")),
    ],
)  # fmt: skip
def test_the_words_of_libpq_are_read_whatever_language_it_speaks(message: str, refusal: Refusal) -> None:
    assert parse_libpq_message(message) == refusal


HOSTED = {
    "remaining connection slots are reserved for non-replication superuser and rds_superuser": "pooler-login",
    "remaining connection slots are reserved for azure replication users": "pooler-login",
    "remaining connection slots are reserved for roles with the SUPERUSER attribute": "pooler-login",
    'too many connections for role "ucfz1"': "pooler-login",
    "no more connections allowed (max_client_conn)": "pooler-clients",
    "(EMAXCONNSESSION) max clients reached in session mode": "pooler-clients",
    "(EMAXCLIENTCONN) max client connections reached, limit: 200": "pooler-clients",
    "MaxClientsInSessionMode: max clients reached": "pooler-clients",
    "(ECHECKOUTTIMEOUT) unable to check out connection from the pool after 15000ms in Session mode": "pooler-queue",
    "Unable to check out process from the pool due to timeout": "pooler-queue",
    "(EDBHANDLEREXITED) connection to database closed": "pooler-login",
    "could not get connection from the pool - AllServersDown": "pooler-queue",
    "Timed-out waiting to acquire database connection": "pooler-queue",
    "Failed to acquire permit to connect to the database. Too many database connection attempts": "pooler-queue",
    "all backend nodes are down, pgpool requires at least one valid node": "pooler-login",
    "odyssey: c1: failed to get remote server connection": "pooler-login",
}
"""What hosted servers and poolers answer (RDS, Azure, Cloud SQL, Heroku, Supavisor, PgCat, Neon, ...), without a
routine."""


@pytest.mark.parametrize("text", HOSTED)
def test_the_words_of_hosted_servers_and_poolers_are_known(text: str) -> None:
    message = f'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  XX000: {text}\n'

    assert parse_libpq_message(message).by == HOSTED[text]


def test_nobody_who_listens_and_no_such_host_are_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = find_refusal(f"host=127.0.0.1 port={unused.getsockname()[1]} user=app")
    unknown = find_refusal("host=no-such-host.invalid user=app")

    assert nobody is not None
    assert (nobody.by, nobody.text) == ("unreachable", "Connection refused")
    assert unknown is not None
    assert (unknown.by, unknown.text) == ("unreachable", "no such host: no-such-host.invalid")


def test_the_first_of_several_hosts_that_answers_is_taken(sandbox: Sandbox) -> None:
    port = place_in(sandbox.conninfo).port
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        hosts = f"host=127.0.0.1,no-such-host.invalid,127.0.0.1 port={dead},5432,{port} user=app dbname=app"

        assert find_refusal(hosts) is None


def test_a_paused_server_costs_one_timeout(sandbox: Sandbox) -> None:
    sandbox.pause()
    try:
        refusal = find_refusal(sandbox.conninfo, within=0.3)
        by_hand = probe_login(place_in(sandbox.conninfo), within=0.3)
    finally:
        sandbox.resume()

    assert refusal == Refusal("unreachable", "no answer within 0.3 s", target=f"{refusal and refusal.target}")
    assert by_hand == refusal


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        b"R\x00\x00\x00\x08\x00\x00\x00\x00" + b"\xff" * 40,
        b"E\xff\xff\xff\xffnonsense",
        b"Ecould not fork new process for connection: Resource temporarily unavailable\n\x00",
        b"R" * 100_000,
    ],
    ids=["http", "silence", "half", "length", "fork", "noise"],
)
def test_what_talks_nonsense_is_no_server_that_lets_in(words: bytes) -> None:
    with answering(words) as port:
        refusal = find_refusal(f"host=127.0.0.1 port={port} user=app sslmode=disable", within=2)
        by_hand = probe_login(Endpoint("127.0.0.1", port, "app", "app"), within=2)

    for each in (refusal, by_hand):
        assert each is not None
        assert each.by in ("unreachable", "unknown")
        assert each.text != ""


@contextmanager
def answering(words: bytes) -> Iterator[int]:
    """A port where somebody says ``words`` to whoever says something, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    client.recv(1000)
                    client.sendall(words)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_pgbouncer_that_is_full_of_clients_is_told_from_the_server() -> None:
    options = {"max_client_conn": 3, "default_pool_size": 2}
    with (
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=options) as sandbox,
        filled(sandbox.conninfo, 3),
    ):
        refusal = find_refusal(sandbox.conninfo)
        by_hand = probe_login(place_in(sandbox.conninfo), within=3)

    assert refusal is not None
    assert (refusal.by, refusal.sqlstate, refusal.routine) == ("pooler-clients", "08P01", None)
    assert by_hand == refusal


def test_a_pgbouncer_that_lets_in_and_has_no_server_connection_is_told_to_be_one() -> None:
    options = {"pool_mode": "session", "default_pool_size": 1}
    with (
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=options) as sandbox,
        Clients(sandbox.conninfo) as clients,
        observing(sandbox.conninfo) as server,
    ):
        clients.in_transaction()
        began = time.monotonic()
        assert server.sample() is None
        took = time.monotonic() - began

    assert server.refusal is not None
    assert server.refusal.by == "pooler-queue"
    assert took < PATIENCE


def test_a_pgbouncer_that_gives_up_first_is_quoted() -> None:
    options = {"pool_mode": "session", "default_pool_size": 1, "query_wait_timeout": 1}
    with (
        Sandbox.start(max_connections=20, via="pgbouncer", pgbouncer=options) as sandbox,
        Clients(sandbox.conninfo) as clients,
        closing(ServerConnection.open(sandbox.conninfo)) as connection,
    ):
        clients.in_transaction()
        with pytest.raises(ServerLost) as lost:
            connection.execute("SELECT 1")

    refusal = lost.value.refusal
    assert refusal is not None
    assert (refusal.by, refusal.text, refusal.sqlstate) == ("pooler-queue", "query_wait_timeout", "08P01")


def test_a_server_that_is_full_behind_pgbouncer_is_the_poolers_login() -> None:
    options = {"pool_mode": "session", "default_pool_size": 10, "query_wait_timeout": 2}
    with (
        Sandbox.start(max_connections=5, reserved=3, via="pgbouncer", pgbouncer=options) as sandbox,
        filled(sandbox.direct_conninfo, 2),
    ):
        refusal = find_refusal(sandbox.conninfo)

    assert refusal is not None
    assert refusal.by in ("pooler-login", "pooler-queue")
    assert refusal.routine is None


def test_what_pgpool_says_is_heard_although_libpq_hides_it() -> None:
    options = {"num_init_children": 2, "reserved_connections": 1, "max_pool": 1}
    with Sandbox.start(max_connections=20, via="pgpool", pgpool=options) as sandbox, filled(sandbox.conninfo, 1):
        plain = find_refusal(sandbox.conninfo)
        encrypted = find_refusal(sandbox.conninfo.replace("sslmode=disable", "sslmode=prefer"))
        by_hand = probe_login(place_in(sandbox.conninfo, is_encrypted=True), within=3)

    assert plain is not None
    assert (plain.by, plain.sqlstate, plain.routine) == ("pooler-clients", "53300", None)
    assert encrypted == by_hand == plain


def test_the_admin_console_is_not_mistaken_for_a_database() -> None:
    with (
        Sandbox.start(max_connections=10, via="pgbouncer") as sandbox,
        observing(str(sandbox.pooler_admin_conninfo)) as server,
    ):
        assert server.sample() is None

    assert server.refusal is not None
    assert "--pgbouncer" in server.refusal.text
    assert server.facts is None


def test_a_server_that_takes_only_encrypted_clients_is_probed_encrypted() -> None:
    # A server that speaks no TLS says so at once.
    with Sandbox.start(max_connections=10) as sandbox:
        refusal = probe_login(place_in(sandbox.conninfo, is_encrypted=True), within=3)

    assert refusal is not None
    assert (refusal.by, refusal.text) == ("unreachable", "the server does not support SSL")


def test_a_conninfo_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(BadInput):
        find_refusal("this is none")
