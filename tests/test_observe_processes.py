"""The texts of the operating system: titles of backends, command lines, tables of sockets, control groups."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.observe.cores import count_cores_of_backend, count_usable_cores
from poolctl.observe.processes import Names, find_cluster_name, parse_title
from poolctl.observe.snapshot import BackendTitle
from poolctl.observe.sockets import ESTABLISHED, LISTEN, End, TcpSocket, count_waiting_by_port, parse_tcp, parse_unix
from poolctl.safe_text import HIDDEN, LONGEST, redact_command


@pytest.mark.parametrize(
    ("title", "user", "database", "client", "port", "state"),
    [
        ("postgres: app shop 127.0.0.1(36324) idle", "app", "shop", "127.0.0.1", 36324, "idle"),
        ("postgres: app shop 10.1.2.3(5) idle in transaction", "app", "shop", "10.1.2.3", 5, "idle in transaction"),
        ("postgres: app shop ::1(36324) SELECT waiting", "app", "shop", "::1", 36324, "SELECT waiting"),
        ("postgres: app shop fe80::1%eth0(7) COPY", "app", "shop", "fe80::1%eth0", 7, "COPY"),
        ("postgres: app shop [local] authentication", "app", "shop", "local", None, "authentication"),
        ("postgres: app shop db.example.com(9) idle", "app", "shop", "db.example.com", 9, "idle"),
        ("postgres: app shop [local]", "app", "shop", "local", None, ""),
        ("postgres: report user shop [local] idle", "report user", "shop", "local", None, "idle"),
        ("postgres: a 1.2.3.4(5) idle b [local] idle", "a 1.2.3.4(5) idle", "b", "local", None, "idle"),
        ("postgres: a [local] idle b 1.2.3.4(5) SELECT", "a [local] idle", "b", "1.2.3.4", 5, "SELECT"),
    ],
)
def test_a_title_tells_user_database_client_and_state(
    title: str, user: str, database: str, client: str, port: int | None, state: str
) -> None:
    assert parse_title(title, 7, 1.5) == BackendTitle(7, user, database, client, port, state, 1.5)


@pytest.mark.parametrize(
    "title",
    [
        "",
        "postgres: checkpointer",
        "postgres: autovacuum worker shop",
        "postgres: parallel worker for PID 4711",
        "postgres: logical replication launcher",
        "postgres: walsender replica 10.0.0.9(5555) streaming 0/3000148",
        "postgres: walsender backup shop [local] idle",
        "/usr/lib/postgresql/18/bin/postgres -D /var/lib/postgresql",
        "nginx: worker 127.0.0.1(80) idle",
        "psql -h 127.0.0.1 postgres: app shop 127.0.0.1(36324) idle",
    ],
)
def test_a_process_that_takes_none_of_max_connections_is_no_backend(title: str) -> None:
    assert parse_title(title, 7) is None


def test_the_name_of_the_cluster_is_known_by_the_helpers_and_left_out() -> None:
    titles = [
        "postgres: west: 1: app shop [local] idle",
        "postgres: west: 1: checkpointer ",
        "postgres: west: 1: walwriter",
    ]
    names = Names(find_cluster_name(titles))

    assert names.cluster == "west: 1"
    assert parse_title(titles[0], 7, names=names) == BackendTitle(7, "app", "shop", "local", None, "idle")
    assert find_cluster_name(["postgres: checkpointer"]) == ""
    assert find_cluster_name(["postgres: app shop [local] idle"]) == ""


@pytest.mark.parametrize(
    ("names", "user", "database"),
    [
        (Names(users={"a"}, databases={"b c"}), "a", "b c"),
        (Names(users={"a b"}, databases={"c"}), "a b", "c"),
        (Names(users={"a"}), "a", "b c"),
        (Names(databases={"b c"}), "a", "b c"),
        (Names(), "a b", "c"),
    ],
)
def test_known_names_decide_where_a_user_ends(names: Names, user: str, database: str) -> None:
    parsed = parse_title("postgres: a b c [local] idle", 7, names=names)

    assert parsed is not None
    assert (parsed.user, parsed.database) == (user, database)


@given(st.text(), st.text())
def test_no_title_stops_the_reading(title: str, cluster: str) -> None:
    names = Names(find_cluster_name([title, cluster]) or cluster)
    for parsed in (parse_title(title, 1, names=names), parse_title(f"postgres: {title}", 1)):
        assert parsed is None or parsed.pid == 1


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["java", "-Xmx128m", "-XX:+UseSerialGC", "-cp", "/x/a.jar", "com.shop.Main", "80"],
         "java ... com.shop.Main 80"),
        (["/erts/bin/beam.smp", "--", "-root", "/r", "-progname", "erl", "-sname", "shop", "-s", "x"],
         "/erts/bin/beam.smp ... -sname shop -s x"),
        (["python3.11", "-u", "-X", "dev", "-m", "gunicorn", "shop:app"], "python3.11 ... -m gunicorn shop:app"),
        (["python", "shop.py", "-X"], "python shop.py -X"),
        (["node", "--max-old-space-size=400", "-r", "dotenv/config", "server.js"], "node ... server.js"),
        (["java", "@/app/jvm.args", "--add-opens", "java.base/java.lang=ALL-UNNAMED", "com.shop.Main"],
         "java ... com.shop.Main"),
        (["node", "--env-file", ".env", "--conditions", "production", "server.js"], "node ... server.js"),
        (["ruby3.1", "-I", "lib", "-rbundler/setup", "-r", "x", "bin/rails", "server"], "ruby3.1 ... bin/rails server"),
        (["perl", "-MPlack::Loader", "-I", "lib", "bin/shop.pl"], "perl ... bin/shop.pl"),
        (["php8.2", "-c", "/etc/php.ini", "-d", "memory_limit=512M", "artisan", "queue:work"],
         "php8.2 ... artisan queue:work"),
        (["php", "-d", "x=1", "-r", "work();"], "php ... -r work();"),
        (["php-fpm: pool shop"], "php-fpm: pool shop"),
        (["beam.smp", "--", "-root", "/r", "-noshell", "-s", "elixir", "--", "-extra", "--no-halt", "shop.exs", "4"],
         "beam.smp ... -s elixir -extra --no-halt shop.exs 4"),
        (["java", "-version"], "java -version"),
        (["javac", "-cp", "x", "A.java"], "javac -cp x A.java"),
    ],
)  # fmt: skip
def test_a_command_line_names_the_program_before_the_options_of_its_runtime(arguments: list[str], shown: str) -> None:
    assert redact_command(arguments) == shown


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["psql", "postgresql://app:s3cr3t@db:5432/shop"], "psql postgresql://app:***@db:5432/shop"),
        (["psql", "postgresql://app:s3:cr@3t/x@db/shop?sslmode=require"], "psql postgresql://app:***@db/shop?sslmode=require"),
        (["psql", "host=db user=app password=s3cr3t dbname=shop"], "psql host=db user=app password=*** dbname=shop"),
        (["psql", r"user=app password='s3 \' cr3t' dbname=shop"], "psql user=app password=*** dbname=shop"),
        (["sh", "-c", "PGPASSWORD=s3cr3t psql -h db"], "sh -c PGPASSWORD=*** psql -h db"),
        (["java", "-Ddatasource.password=s3cr3t", "-jar", "x"], "java ... -jar x"),
        (["java", "-cp", "a.jar:b.jar", "com.shop.Main", "-Dpassword=s3cr3t"],
         "java ... com.shop.Main -Dpassword=***"),
        (["app", "--db-password", "s3cr3t", "--port", "8000"], "app --db-password *** --port 8000"),
        (["app", "--api-key=s3cr3t"], "app --api-key=***"),
        (["beam.smp", "--", "-root", "/r", "-noshell", "-setcookie", "s3cr3t"],
         "beam.smp -- -root /r -noshell -setcookie ***"),
        (["beam.smp", "--", "-setcookie", "s3cr3t", "-sname", "shop"], "beam.smp ... -sname shop"),
        (["app", '{"password": "s3 cr3t", "port": 5432}'], 'app {"password": ***, "port": 5432}'),
        (["python", "-c", "connect(password='s3cr3t', user='app')"], "python -c connect(password=***, user='app')"),
        (["curl", "-u", "me:s3cr3t", "http://db/x"], "curl -u *** http://db/x"),
        (["curl", "-ume:s3cr3t"], "curl -u***"),
        (["curl", "-H", "Authorization: Bearer s3cr3t"], "curl -H Authorization: Bearer ***"),
        (["git", "clone", "https://s3cr3t@example.com/x"], "git clone https://***@example.com/x"),
        (["/usr/bin/mysql", "-ps3cr3t", "shop"], "/usr/bin/mysql -p*** shop"),
        (["sshpass", "-p", "s3cr3t", "ssh", "db"], "sshpass -p *** ssh db"),
        (["psql", "-c", "SELECT * FROM users WHERE email = 'bob@x.test' AND pin = 4711"],
         "psql -c SELECT * FROM users WHERE email = '...' AND pin = ?"),
        (["sh", "-c", """psql -c "delete from users where name = 'Bob'" shop"""],
         """sh -c psql -c "delete from users where name = '...'" shop"""),
        (["psql", "--command=call charge('4111 1111')"], "psql --command=call charge('...')"),
        (["update-daemon", "--select", "4", "x.update(5)"], "update-daemon --select 4 x.update(?)"),
        (["gunicorn", "app:app", "-w", "4", "-p", "8000"], "gunicorn app:app -w 4 -p 8000"),
        ([], ""),
    ],
)  # fmt: skip
def test_a_command_line_is_shown_without_what_may_be_a_secret(arguments: list[str], shown: str) -> None:
    assert redact_command(arguments) == shown


SECRET = "s3cr3tXYZ"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(max_size=20), max_size=3),
    st.sampled_from(
        [
            ["postgres://app:{}@h/d"],
            ["x password={} y"],
            ["--password", "{}"],
            ["DB_PASSWORD={}"],
            ["--token={}"],
            ['"secret": "{}"'],
        ]
    ),
    st.lists(st.text(max_size=20), max_size=3),
)
def test_whatever_stands_around_a_secret_it_is_not_shown(
    before: list[str], secret: list[str], after: list[str]
) -> None:
    text = redact_command([*before, *(part.format(SECRET) for part in secret), *after])

    assert SECRET not in text
    assert HIDDEN in text
    assert len(text) <= LONGEST


@pytest.mark.parametrize(
    "piece",
    ["x", "://", "select ", "select 1", "select '", "http://a:", "password", "password=", "a.-_", " ", "'", '"\\'],
)
def test_a_megabyte_of_command_line_is_cut_at_once(piece: str) -> None:
    began = time.process_time()
    text = redact_command([piece * (1_000_000 // len(piece)), "y"])

    assert len(text) <= LONGEST
    assert time.process_time() - began < 0.5


def test_a_password_longer_than_what_is_read_is_hidden_too() -> None:
    assert redact_command(["psql", f"postgres://app:{'p' * 9000}@db/shop"]) == "psql postgres://app:***@"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert redact_command(["a\udcff", "\ud800"]) == "a\ufffd \ufffd"


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1538 00000000:0000 0A 00000000:00000003 00:00000000 00000000   101        0 149070 3 0000 100 0 0 10 0
   1: 0100007F:1538 0100007F:E83A 08 00000000:00000039 00:00000000 00000000   101        0 0 2 0000 20 4 31 10 -1
   2: 0100007F:1538 0100007F:E826 01 00000000:00000000 02:000AFB83 00000000   101        0 149127 2 0000 20 4 15 18 -1
   3: 0100007F:1538 0100007F:E82A 01 00000000:00000000 02:000AFB84 00000000   101        0 0 2 0000 20 4 23 18 -1
   4: 0100007F:E81C 0100007F:1538 06 00000000:00000000 02:000AFB82 00000000     0        0 0 2 0000 20 4 0 11 -1
   5: 0100007F:E81C 0100
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 0000000000000000FFFF00000100007F:1538 0000000000000000FFFF00000100007F:9C40 01 0:0 02:0 0 0 0 77 2
   1: 00000000000000000000000001000000:1538 00000000000000000000000001000000:9C41 01 0:0 02:0 0 0 0 78 2
"""


def test_the_kernel_s_table_of_connections_is_read_but_for_closed_and_cut_ones() -> None:
    sockets = list(parse_tcp(TCP))

    assert sockets[0] == TcpSocket(End("127.0.0.1", 5432), End("0.0.0.0", 0), LISTEN, 149070)
    assert sockets[2] == TcpSocket(End("127.0.0.1", 5432), End("127.0.0.1", 59430), ESTABLISHED, 149127)
    assert len(sockets) == 4


def test_ipv4_inside_of_ipv6_is_the_address_that_postgresql_writes() -> None:
    assert [one.local.address for one in parse_tcp(TCP6)] == ["127.0.0.1", "::1"]


def test_of_the_listen_queue_those_count_who_have_not_given_up() -> None:
    assert count_waiting_by_port(list(parse_tcp(TCP)), {5432, 6432}) == {5432: 1}


@given(st.text(), st.binary())
def test_no_table_of_the_kernel_stops_the_reading(text: str, answer: bytes) -> None:
    read = list(parse_tcp(TCP))

    assert list(parse_tcp(TCP + "\n" + text))[: len(read)] == read
    assert len(list(parse_tcp(text))) <= len(text.splitlines())
    assert len(parse_unix(answer)[1]) <= len(answer) / 32


def group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".", 1)).write_text(content)


@pytest.mark.parametrize(
    ("membership", "groups", "cores"),
    [
        ("0::/a/b\n", {"a": {"cpu__max": "50000 100000\n"}, "a/b": {"cpu__max": "max 100000\n"}}, 1),
        ("0::/a\n", {"a": {"cpu__max": "10000 100000\n"}}, 1),
        ("0::/a\n", {"a": {"cpu__max": "nonsense"}}, None),
        ("0::/\n", {}, None),
        ("3:cpu,cpuacct:/a\n", {"cpu,cpuacct/a": {"cpu__cfs_quota_us": "100000", "cpu__cfs_period_us": "100000"}}, 1),
        ("3:cpu,cpuacct:/a\n", {"cpu,cpuacct/a": {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}}, None),
        ("3:memory:/a\n", {"memory/a": {"cpu__max": "1 100000"}}, None),
    ],
)
def test_the_cores_are_those_that_every_control_group_leaves(
    tmp_path: Path, membership: str, groups: dict[str, dict[str, str]], cores: int | None
) -> None:
    pid = os.getpid()
    group(tmp_path, f"proc/{pid}", cgroup=membership)
    for path, files in groups.items():
        group(tmp_path / "groups", path, **files)
    unlimited = count_usable_cores(pid, proc=tmp_path / "none", groups=tmp_path / "none")

    assert count_usable_cores(pid, proc=tmp_path / "proc", groups=tmp_path / "groups") == (cores or unlimited)


def test_the_cores_of_a_server_are_known_by_one_backend_that_runs_here(tmp_path: Path) -> None:
    group(tmp_path, "7", cmdline="postgres: app shop 127.0.0.1(4711) idle\0")
    group(tmp_path, "8", cmdline="/usr/sbin/cron\0")

    found = [count_cores_of_backend(pid, proc=tmp_path) for pid in (7, 8, 9)]

    assert (found[0] or 0) >= 1
    assert found[1:] == [None, None]
