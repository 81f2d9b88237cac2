"""Logs of a real PostgreSQL, in each format and with several prefixes: all of them say the same, and what happened."""

import gzip
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from sandboxes import connect, eventually, one, own_temporary_directory

from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput
from poolctl.observe.evidence.files import LONGEST_LINE, find_files
from poolctl.observe.evidence.read import read_evidence
from poolctl.observe.snapshot import LogFacts, Observation

pytestmark = pytest.mark.server

PREFIX = "%m [%p] %q%u@%d app=%a client=%h %e "
SETTINGS = {
    "logging_collector": "on",
    "log_destination": "stderr, csvlog, jsonlog",
    "log_filename": "server.log",
    "log_line_prefix": PREFIX,
    "log_connections": "all",
    "log_disconnections": "on",
    "log_min_duration_statement": "0",
    "log_lock_waits": "on",
    "deadlock_timeout": "200ms",
}


@dataclass(frozen=True)
class Logged:
    """A server that wrote its log while an incident was staged on it, and the files."""

    folder: Path
    holder: int
    waiter: int


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    kept = tmp_path_factory.mktemp("logs")
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=10, reserved=2) as sandbox:
        with connect(sandbox.admin_conninfo) as admin:
            for name, value in SETTINGS.items():
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            folder = Path(str(one(admin, "SHOW data_directory"))) / "log"
        sandbox.restart()
        holder, waiter = stage_incident(sandbox)
        eventually(lambda: "disconnection" in (folder / "server.log").read_text(errors="replace"))
        for file in folder.iterdir():
            shutil.copy(file, kept / file.name)
    return Logged(kept, holder, waiter)


def stage_incident(sandbox: Sandbox) -> tuple[int, int]:
    """Fill the server until it refuses, and let one transaction wait for another's lock; return both process ids."""
    with connect(sandbox.conninfo) as setup:
        setup.execute(b"CREATE TABLE stock (id int PRIMARY KEY, amount int); INSERT INTO stock VALUES (1, 10)")
    pool = []
    with suppress(psycopg.OperationalError):
        for _ in range(20):
            opened = psycopg.connect(sandbox.conninfo, application_name="web", connect_timeout=10)
            pool.append(opened)
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(sandbox.conninfo, application_name="web", connect_timeout=10)
    first, second = pool[:2]
    first.execute(b"UPDATE stock SET amount = 9 WHERE id = 1")
    waiting = Thread(target=second.execute, args=(b"UPDATE stock SET amount = 8 WHERE id = 1",))
    waiting.start()
    pids = first.info.backend_pid, second.info.backend_pid
    with connect(sandbox.observer_conninfo) as observer:
        eventually(lambda: one(observer, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
        observer.execute(b"SELECT pg_sleep(0.5)")
    first.commit()
    waiting.join()
    for connection in pool:
        connection.close()
    return pids


def facts(observation: Observation) -> LogFacts:
    assert observation.log is not None
    return observation.log


@pytest.mark.parametrize("name", ["server.log", "server.csv", "server.json"])
def test_every_format_tells_refusals_sessions_and_who_holds_the_lock(logged: Logged, name: str) -> None:
    log = facts(read_evidence([str(logged.folder / name)]))

    (refusals,) = [each for each in log.refusals if each.by in ("superuser-slots", "server-slots")]
    assert refusals.count >= 3
    (wait,) = log.lock_waits
    assert wait.holders == (logged.holder,)
    assert logged.waiter in wait.queue
    (web,) = [each for each in log.applications if each.name == "web"]
    assert web.sessions == 8
    assert log.connect_count >= 8
    assert log.connect_time is not None
    assert 0 < log.connect_time < 5
    assert max(moment.open_at_least or 0 for moment in log.moments) >= 8
    assert any("UPDATE stock SET amount = ? WHERE id = ?" in each.text for each in log.statements)


def test_the_formats_agree(logged: Logged) -> None:
    plain, table, lines = (
        facts(read_evidence([str(logged.folder / f"server.{end}")])) for end in ("log", "csv", "json")
    )

    for other in (table, lines):
        assert {(each.by, each.count) for each in other.refusals} == {(each.by, each.count) for each in plain.refusals}
        assert [(each.name, each.sessions) for each in other.applications] == [
            (each.name, each.sessions) for each in plain.applications
        ]
        assert other.lock_waits[0].holders == plain.lock_waits[0].holders


def test_a_prefix_that_is_given_and_one_that_is_inferred_name_the_same(logged: Logged) -> None:
    path = str(logged.folder / "server.log")
    given, inferred = facts(read_evidence([path], prefix=PREFIX)), facts(read_evidence([path]))

    assert given.applications == inferred.applications
    assert given.refusals[0].count == inferred.refusals[0].count
    assert given.refusals[0].first_at == inferred.refusals[0].first_at


def test_a_compressed_log_with_windows_line_ends_in_utf_16_is_the_same_log(logged: Logged, tmp_path: Path) -> None:
    text = (logged.folder / "server.log").read_text(encoding="utf-8")
    packed = tmp_path / "odd.bin"
    packed.write_bytes(gzip.compress(text.replace("\n", "\r\n").encode("utf-16")))

    odd, plain = facts(read_evidence([str(packed)])), facts(read_evidence([str(logged.folder / "server.log")]))

    assert odd.refusals == plain.refusals
    assert odd.applications == plain.applications


def test_a_line_of_many_megabytes_costs_only_its_own_end(logged: Logged, tmp_path: Path) -> None:
    text = (logged.folder / "server.log").read_text(encoding="utf-8")
    first, rest = text.split("\n", 1)
    beside = tmp_path / "server.log"
    beside.write_text(f"{first}\n{'x' * (LONGEST_LINE * 7 // 2)}\n{rest}", encoding="utf-8")

    [file] = find_files([str(beside)])
    lines = list(file.lines())

    assert [lines[0], *lines[2:]] == text.splitlines()
    assert lines[1] == "x" * LONGEST_LINE


def test_one_log_in_three_formats_counts_once(logged: Logged) -> None:
    whole = read_evidence([str(logged.folder)])
    alone = read_evidence([str(logged.folder / "server.csv")])

    assert [each.count for each in facts(whole).refusals] == [each.count for each in facts(alone).refusals]
    assert [each.open_at_least for each in facts(whole).moments] == [
        each.open_at_least for each in facts(alone).moments
    ]
    assert [source.reason for source in whole.sources] == [
        "",
        "the same log as server.csv: left out",
        "the same log as server.csv: left out",
    ]


def test_one_log_counts_once_although_one_of_its_formats_lags_behind(tmp_path: Path) -> None:
    text, rows = [], []
    for pid in range(700, 712):
        for message in (
            "connection received: host=10.0.0.5 port=4432",
            "connection authorized: user=app database=shop",
            "disconnection: session time: 0:00:00.532 user=app database=shop host=10.0.0.5 port=4432",
        ):
            text.append(f"2026-10-13 06:31:02.804 UTC [{pid}] LOG:  {message}")
            who = f'"app","shop",{pid},"10.0.0.5:4432",60d.{pid},1,"idle"'
            rows.append(f'2026-10-13 06:31:02.804 UTC,{who},2026-10-13 06:31:02 UTC,,0,LOG,00000,"{message}"')
    # The last lines of the other are not written yet.
    written = [row for row in rows if "disconnection" not in row]
    for name, lines in (("server.csv", written), ("server.log", text)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")

    sources = read_evidence([str(tmp_path)]).sources

    assert [source.reason for source in sources] == ["", "the same log as server.csv: left out"]


def test_a_folder_is_read_file_by_file_and_the_time_window_leaves_lines_out(logged: Logged) -> None:
    whole = facts(read_evidence([str(logged.folder / "server.log")]))
    assert whole.first_at is not None
    nothing = facts(read_evidence([str(logged.folder / "server.log")], until=whole.first_at - 60))

    assert len(read_evidence([str(logged.folder)]).sources) == 3
    assert nothing.refusals == ()
    assert nothing.applications == ()


@pytest.mark.parametrize(
    "line",
    [
        "2026-10-13 06:31:02.804 UTC [635] FATAL:  sorry, too many clients already",
        "2026-10-13 06:31:02 UTC:10.0.0.5(44321):app@shop:[635]:FATAL:  sorry, too many clients already",
        "2026-10-13T06:31:05.000Z 2026-10-13 06:31:02.804 UTC [635] FATAL:  sorry, too many clients already",
        "1791873062.804 [635] app@shop 53300 FATAL:  tut mir leid, schon zu viele Verbindungen",
        "Oct 13 06:31:02 db1 postgres[635]: [3-1] 2026-10-13 06:31:02 UTC [635] FATAL:  sorry, too many clients already",
        '2026-10-13 06:31:02.804 UTC,"app","shop",635,"10.0.0.5:4432",60d.27b,1,"authentication",'
        '2026-10-13 06:31:02 UTC,,0,FATAL,53300,"sorry, too many clients already",,,,,,,,,"web","client backend",,0',
        '2026-10-13 06:31:02.804 UTC,"app","shop",635,"10.0.0.5:4432",60d.27b,1,"authentication",'
        '2026-10-13 06:31:02 UTC,,0,FATAL,53300,"sorry, too many clients already",,,,,,,,,"web"',
        '{"timestamp":"2026-10-13 06:31:02.804 UTC","user":"app","dbname":"shop","pid":635,"error_severity":"FATAL",'
        '"state_code":"53300","message":"sorry, too many clients already"}',
        '{"level":"info","ts":"2026","logger":"postgres","msg":"record","record":{"log_time":'
        '"2026-10-13 06:31:02.804 UTC","process_id":"635","error_severity":"FATAL","sql_state_code":"53300",'
        '"message":"sorry, too many clients already"}}',
    ],
)
def test_a_refusal_is_read_as_each_platform_wraps_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(f"{line}\n" * 2)

    (refusal,) = facts(read_evidence([str(path)])).refusals

    assert (refusal.by, refusal.count) == ("server-slots", 2)
    assert refusal.first_at == pytest.approx(1791873062.4, abs=0.5)


def test_a_file_of_no_known_format_names_its_first_line_and_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("we rebooted it\nand then it worked\n")

    with pytest.raises(BadInput, match="nothing in it is of a known format; line 1 is 'we rebooted it'") as refused:
        read_evidence([str(path)])

    assert "pg_stat_activity" in refused.value.hint


def test_a_place_that_does_not_exist_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        read_evidence([str(tmp_path / "missing")])
    with pytest.raises(BadInput, match="the folder has no file"):
        read_evidence([str(tmp_path)])


def test_one_unreadable_file_among_others_is_a_source_that_is_not_ok(logged: Logged, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("we rebooted it\n")

    observation = read_evidence([str(logged.folder / "server.log"), str(tmp_path / "notes.txt")])

    assert [source.ok for source in observation.sources] == [True, False]


# ruff: noqa: E501 - log lines are as long as they are
POOLER_LOG = """\
2026-10-13 06:31:02.804 UTC [12] LOG C-0x55d: shop/app@10.0.0.5:4123 login attempt: db=shop user=app tls=no
2026-10-13 06:31:03.804 UTC [12] LOG C-0x55d: shop/app@10.0.0.5:4123 closing because: query_wait_timeout (age=120s)
2026-10-13 06:31:04.804 UTC [12] WARNING C-0x55e: (nodb)/(nouser)@10.0.0.5:4124 pooler error: no more connections allowed (max_client_conn)
2026-10-13 06:31:05.804 UTC [12] LOG stats: 100 xacts/s, 200 queries/s, in 10 B/s, out 20 B/s, xact 123 us, query 45 us, wait 600000 us
"""


def test_pgbouncers_log_tells_what_its_queue_and_its_limit_did(tmp_path: Path) -> None:
    path = tmp_path / "pgbouncer.log"
    path.write_text(POOLER_LOG)

    log = facts(read_evidence([str(path)]))

    assert log.queue_timeouts == 1
    assert [(each.by, each.count) for each in log.refusals] == [("pooler-clients", 1)]


APPLICATION_LOG = """\
2026-03-02 08:23:35.766 DEBUG 1 --- [ool housekeeper] HikariPool : HikariPool-1 - Pool stats (total=10, active=4, idle=6, waiting=0)
2026-03-02 08:24:05.767 DEBUG 1 --- [ool housekeeper] HikariPool : HikariPool-1 - Pool stats (total=10, active=10, idle=0, waiting=20)
2026-03-02 08:24:06.000 WARN 1 --- [leak] ProxyLeakTask : Connection leak detection triggered for conn7 on thread t1, stack trace follows
java.lang.Exception: Apparent connection leak detected
\tat com.example.Shop.charge(Shop.java:41)
2026-03-02 08:24:07.000 WARN 1 --- [leak] ProxyLeakTask : Connection leak detection triggered for conn8 on thread t2, stack trace follows
2026-03-02 08:24:09.000 INFO 1 --- [x] ProxyLeakTask : Previously reported leaked connection conn8 on thread t2 was returned to the pool (unleaked)
2026-03-02 08:24:35.767 DEBUG 1 --- [ool housekeeper] HikariPool : HikariPool-1 - Pool stats (total=10, active=10, idle=0, waiting=204)
"""


def test_hikaricps_log_is_a_series_of_its_figures_with_the_leaks_that_did_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text(APPLICATION_LOG)

    observation = read_evidence([str(path)])

    assert [pool.in_use for snapshot in observation.snapshots for pool in snapshot.pools] == [4, 10, 10, 10]
    assert facts(observation).leaks == ("conn7 on thread t1",)
    assert facts(observation).leaks_returned == 1
